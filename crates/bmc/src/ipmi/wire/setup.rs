//! The steps of a login as bytes: RMCP+ Open Session and RAKP messages 1 to 4 (13.17 to 13.23).

use super::Reader;
use crate::ipmi::suite::Algorithms;

/// Longest user name (13.20), in bytes.
pub(crate) const MAX_USERNAME: usize = 16;
/// Role byte: the user is looked up by name alone, not by name and privilege (13.20).
pub(crate) const NAME_ONLY: u8 = 0x10;

/// RMCP+ and RAKP status codes (13.24, table 13-15).
pub(crate) mod status {
    /// No errors.
    pub(crate) const OK: u8 = 0x00;
    /// Insufficient resources to create a session.
    pub(crate) const NO_RESOURCES: u8 = 0x01;
    /// Invalid session ID.
    pub(crate) const INVALID_SESSION: u8 = 0x02;
    /// Invalid authentication algorithm.
    pub(crate) const BAD_AUTHENTICATION: u8 = 0x04;
    /// Invalid integrity algorithm.
    pub(crate) const BAD_INTEGRITY: u8 = 0x05;
    /// Invalid role.
    pub(crate) const INVALID_ROLE: u8 = 0x09;
    /// Unauthorized role or privilege level requested.
    pub(crate) const UNAUTHORIZED_ROLE: u8 = 0x0A;
    /// Insufficient resources to create a session at the requested role.
    pub(crate) const NO_RESOURCES_FOR_ROLE: u8 = 0x0B;
    /// Unauthorized name.
    pub(crate) const UNAUTHORIZED_NAME: u8 = 0x0D;
    /// Invalid integrity check value.
    pub(crate) const BAD_CODE: u8 = 0x0F;
    /// Invalid confidentiality algorithm.
    pub(crate) const BAD_CONFIDENTIALITY: u8 = 0x10;
    /// No cipher suite match with proposed security algorithms.
    pub(crate) const NO_SUITE: u8 = 0x11;

    /// The words of the table.
    pub(crate) fn text(code: u8) -> &'static str {
        match code {
            OK => "no error",
            NO_RESOURCES => "insufficient resources to create a session",
            INVALID_SESSION => "invalid session number",
            0x03 => "invalid payload type",
            BAD_AUTHENTICATION => "invalid authentication algorithm",
            BAD_INTEGRITY => "invalid integrity algorithm",
            0x06 => "no matching authentication payload",
            0x07 => "no matching integrity payload",
            0x08 => "inactive session number",
            INVALID_ROLE => "invalid role",
            UNAUTHORIZED_ROLE => "unauthorized role or privilege level requested",
            NO_RESOURCES_FOR_ROLE => "insufficient resources to create a session at the requested role",
            0x0C => "invalid name length",
            UNAUTHORIZED_NAME => "unauthorized name",
            0x0E => "unauthorized GUID",
            BAD_CODE => "invalid integrity check value",
            BAD_CONFIDENTIALITY => "invalid confidentiality algorithm",
            NO_SUITE => "no cipher suite match with proposed security algorithms",
            0x12 => "illegal or unrecognized parameter",
            _ => "a status that the specification does not know",
        }
    }
}

/// One algorithm of an open session message: kind, its length, number (13.17).
fn algorithm(kind: u8, number: u8) -> [u8; 8] {
    [kind, 0, 0, 8, number, 0, 0, 0]
}

/// RMCP+ Open Session Request (13.17). `privilege`: the highest that the session may have.
pub(crate) fn open_session(tag: u8, privilege: u8, session: u32, algorithms: Algorithms) -> Vec<u8> {
    let mut bytes = vec![tag, privilege, 0, 0];
    bytes.extend(session.to_le_bytes());
    bytes.extend(algorithm(0, algorithms.authentication));
    bytes.extend(algorithm(1, algorithms.integrity));
    bytes.extend(algorithm(2, algorithms.confidentiality));
    bytes
}

/// An answer to a step: whose it is, and what it says or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer<T> {
    /// The tag of the question.
    pub(crate) tag: u8,
    /// The console's session number; absent in refusals of BMCs that save bytes.
    pub(crate) session: Option<u32>,
    /// What it says, or the status code of the refusal.
    pub(crate) said: Result<T, u8>,
}

/// What Open Session Response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenSession {
    /// The BMC's session number.
    pub(crate) bmc_session: u32,
    /// What it took.
    pub(crate) algorithms: Algorithms,
}

/// What RAKP 2 says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rakp2 {
    /// The BMC's random number.
    pub(crate) random: [u8; 16],
    /// The BMC's GUID.
    pub(crate) guid: [u8; 16],
    /// Key exchange authentication code.
    pub(crate) code: Vec<u8>,
}

/// An answer's head and the reader behind it, or the whole of a refusal.
type Head<'a, T> = Result<(Answer<()>, Reader<'a>), Answer<T>>;

/// The head that all answers have in common.
fn head<T>(bytes: &[u8]) -> Option<Head<'_, T>> {
    let mut reader = Reader::new(bytes);
    let [tag, code] = reader.array()?;
    let session = reader.take(2).and_then(|_| reader.u32());
    if code != status::OK {
        return Some(Err(Answer { tag, session, said: Err(code) }));
    }
    session?;
    Some(Ok((Answer { tag, session, said: Ok(()) }, reader)))
}

fn with<T>(head: Answer<()>, said: T) -> Answer<T> {
    Answer { tag: head.tag, session: head.session, said: Ok(said) }
}

/// RMCP+ Open Session Response (13.18).
pub(crate) fn read_open_session(bytes: &[u8]) -> Option<Answer<OpenSession>> {
    let (head, mut reader) = match head(bytes)? {
        Ok(fine) => fine,
        Err(refused) => return Some(refused),
    };
    let bmc_session = reader.u32()?;
    let mut number = |kind: u8| {
        let [found, _, _, length, number, ..] = reader.array::<8>()?;
        // A length of 0 means that the BMC chooses; some BMCs write it with their choice.
        (found == kind && matches!(length, 0 | 8)).then_some(number & 0x3F)
    };
    let algorithms =
        Algorithms { authentication: number(0)?, integrity: number(1)?, confidentiality: number(2)? };
    Some(with(head, OpenSession { bmc_session, algorithms }))
}

/// RAKP message 1 (13.20).
pub(crate) fn rakp1(tag: u8, bmc_session: u32, random: &[u8; 16], role: u8, username: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag, 0, 0, 0];
    bytes.extend(bmc_session.to_le_bytes());
    bytes.extend(random);
    bytes.extend([role, 0, 0, u8::try_from(username.len()).unwrap_or(u8::MAX)]);
    bytes.extend_from_slice(username);
    bytes
}

/// RAKP message 2 (13.21).
pub(crate) fn read_rakp2(bytes: &[u8]) -> Option<Answer<Rakp2>> {
    let (head, mut reader) = match head(bytes)? {
        Ok(fine) => fine,
        Err(refused) => return Some(refused),
    };
    let (random, guid) = (reader.array()?, reader.array()?);
    Some(with(head, Rakp2 { random, guid, code: reader.rest().to_vec() }))
}

/// RAKP message 3 (13.22). A status other than OK tells the BMC to drop the session; then there is no code.
pub(crate) fn rakp3(tag: u8, bmc_session: u32, code: Result<&[u8], u8>) -> Vec<u8> {
    let mut bytes = vec![tag, code.err().unwrap_or(status::OK), 0, 0];
    bytes.extend(bmc_session.to_le_bytes());
    bytes.extend_from_slice(code.unwrap_or_default());
    bytes
}

/// RAKP message 4 (13.23): the integrity check value.
pub(crate) fn read_rakp4(bytes: &[u8]) -> Option<Answer<Vec<u8>>> {
    let (head, reader) = match head(bytes)? {
        Ok(fine) => fine,
        Err(refused) => return Some(refused),
    };
    Some(with(head, reader.rest().to_vec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ipmi::keys::tests::recorded;
    use crate::ipmi::suite::Suite;
    use crate::ipmi::wire::packet::{self, Payload};
    use proptest::prelude::*;

    fn body(datagram: &[u8], kind: Payload) -> &[u8] {
        let packet = packet::read(&datagram[4..]).unwrap();
        assert_eq!(packet.payload, kind);
        packet.plain().unwrap()
    }

    /// Every step of a login of `ipmitool` at `ipmi_sim`, byte for byte.
    #[test]
    fn a_recorded_login() {
        let r = recorded();
        let t = &r.transcript;
        let algorithms = Suite::Sha1.algorithms();
        let open = open_session(0, 0, t.console_session, algorithms);
        assert_eq!(packet::plain(Payload::OpenSessionRequest, &open), r.open_request);
        let said = OpenSession { bmc_session: t.bmc_session, algorithms };
        assert_eq!(
            read_open_session(body(&r.open_answer, Payload::OpenSessionResponse)),
            Some(Answer { tag: 0, session: Some(t.console_session), said: Ok(said) })
        );
        let first = rakp1(0, t.bmc_session, &t.console_random, t.role, &t.username);
        assert_eq!(packet::plain(Payload::Rakp1, &first), r.rakp1);
        let second = read_rakp2(body(&r.rakp2, Payload::Rakp2)).unwrap();
        let code = t.rakp2_code(Suite::Sha1, &r.user);
        assert_eq!(second.said, Ok(Rakp2 { random: t.bmc_random, guid: t.bmc_guid, code }));
        let code = t.rakp3_code(Suite::Sha1, &r.user);
        assert_eq!(packet::plain(Payload::Rakp3, &rakp3(0, t.bmc_session, Ok(&code))), r.rakp3);
        let fourth = read_rakp4(body(&r.rakp4, Payload::Rakp4)).unwrap();
        assert_eq!(fourth.said, Ok(t.rakp4_code(&r.keys())));
    }

    #[test]
    fn refusals() {
        let refused = |session| Answer { tag: 9, session, said: Err(status::NO_RESOURCES) };
        for (bytes, session) in [
            (&[9, 1][..], None),
            (&[9, 1, 0, 0], None),
            (&[9, 1, 0, 0, 4, 3, 2, 1], Some(0x0102_0304)),
            (&[9, 1, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0], Some(0x0102_0304)),
        ] {
            assert_eq!(read_open_session(bytes), Some(refused(session)));
            assert_eq!(read_rakp2(bytes).unwrap().said, Err(1));
            assert_eq!(read_rakp4(bytes).unwrap().said, Err(1));
        }
        assert_eq!(rakp3(1, 2, Err(status::BAD_CODE)), [1, 0x0F, 0, 0, 2, 0, 0, 0]);
        for (code, word) in [(0x01, "insufficient"), (0x0D, "name"), (0x11, "cipher"), (0xEE, "not know")] {
            assert!(status::text(code).contains(word));
        }
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let r = recorded();
        let (open, second) =
            (body(&r.open_answer, Payload::OpenSessionResponse), body(&r.rakp2, Payload::Rakp2));
        for cut in 0..open.len() {
            assert_eq!(read_open_session(&open[..cut]), None);
        }
        for cut in 0..40 {
            assert_eq!(read_rakp2(&second[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_harms(bytes: Vec<u8>) {
            let _ = (read_open_session(&bytes), read_rakp2(&bytes), read_rakp4(&bytes));
        }
    }
}

//! RMCP+ packets (13.6, table 13-8, right column): the session header, and the trailer that signs a packet of a
//! session.

use super::{MAX_DATAGRAM, Reader, rmcp, v15::RMCP_PLUS};
use crate::ipmi::keys::{BLOCK, Keys, same};

/// Bit of the payload type: the payload is encrypted (13.6).
const ENCRYPTED: u8 = 0x80;
/// Bit of the payload type: the packet is authenticated (13.6).
const AUTHENTICATED: u8 = 0x40;
/// Next header: always this in RMCP+ (13.6).
const NEXT_HEADER: u8 = 0x07;
/// What the integrity pad is filled with (13.6).
const PAD: u8 = 0xFF;
/// Session number, sequence number and payload length with the two bytes before them: the header that the code covers.
const HEADER: usize = 12;

/// Kind of payload (13.27.3, table 13-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Payload {
    /// An IPMI message.
    Message,
    /// Characters of a serial line (15.9).
    Sol,
    /// RMCP+ Open Session Request.
    OpenSessionRequest,
    /// RMCP+ Open Session Response.
    OpenSessionResponse,
    /// RAKP message 1.
    Rakp1,
    /// RAKP message 2.
    Rakp2,
    /// RAKP message 3.
    Rakp3,
    /// RAKP message 4.
    Rakp4,
}

impl Payload {
    const TABLE: [(Self, u8); 8] = [
        (Self::Message, 0x00),
        (Self::Sol, 0x01),
        (Self::OpenSessionRequest, 0x10),
        (Self::OpenSessionResponse, 0x11),
        (Self::Rakp1, 0x12),
        (Self::Rakp2, 0x13),
        (Self::Rakp3, 0x14),
        (Self::Rakp4, 0x15),
    ];

    fn number(self) -> u8 {
        Self::TABLE.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, number)| *number)
    }

    /// Whether it is one of a session, rather than a step of a login.
    pub(crate) fn is_of_session(self) -> bool {
        matches!(self, Self::Message | Self::Sol)
    }

    fn of(number: u8) -> Option<Self> {
        Self::TABLE.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind)
    }
}

/// A packet as it came, its code not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// What it carries.
    pub(crate) payload: Payload,
    encrypted: bool,
    authenticated: bool,
    /// Number of the session at the side that it is sent to; 0 outside of one.
    pub(crate) session: u32,
    /// Sequence number within the session.
    pub(crate) sequence: u32,
    body: &'a [u8],
    /// From the authentication type on: what the code covers, and the code.
    whole: &'a [u8],
}

/// A datagram that is not of a session: the steps of a login.
pub(crate) fn plain(kind: Payload, body: &[u8]) -> Vec<u8> {
    let mut bytes = rmcp::ipmi_header().to_vec();
    bytes.extend([RMCP_PLUS, kind.number()]);
    bytes.extend([0; 8]);
    bytes.extend(length(body));
    bytes.extend_from_slice(body);
    bytes
}

/// A datagram of a session with a message, as [`seal_as`] makes it.
#[cfg(any(test, feature = "ipmi-server"))]
pub(crate) fn seal(keys: &Keys, session: u32, sequence: u32, vector: [u8; BLOCK], body: &[u8]) -> Vec<u8> {
    seal_as(Payload::Message, keys, session, sequence, vector, body)
}

/// A datagram of a session, signed, and encrypted where the suite does that. `vector` must be new for each datagram and
/// unpredictable (13.29).
pub(crate) fn seal_as(
    payload: Payload,
    keys: &Keys,
    session: u32,
    sequence: u32,
    vector: [u8; BLOCK],
    body: &[u8],
) -> Vec<u8> {
    let encrypts = keys.suite().encrypts();
    let kind = payload.number() | AUTHENTICATED | if encrypts { ENCRYPTED } else { 0 };
    let encrypted = encrypts.then(|| keys.encrypt(vector, body));
    let body = encrypted.as_deref().unwrap_or(body);
    let mut bytes = rmcp::ipmi_header().to_vec();
    let start = bytes.len();
    bytes.extend([RMCP_PLUS, kind]);
    bytes.extend(session.to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(length(body));
    bytes.extend_from_slice(body);
    // So much that what the code covers is a multiple of four bytes with the two that follow.
    let padding = (4 - (bytes.len() - start + 2) % 4) % 4;
    bytes.extend(std::iter::repeat_n(PAD, padding));
    bytes.push(padding as u8);
    bytes.push(NEXT_HEADER);
    let code = keys.code(&bytes[start..]);
    bytes.extend(code);
    bytes
}

fn length(body: &[u8]) -> [u8; 2] {
    u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes()
}

/// Reads what follows the RMCP header. `None`: no RMCP+, a payload that is not known, not whole.
pub(crate) fn read(ipmi: &[u8]) -> Option<Packet<'_>> {
    if ipmi.len() > MAX_DATAGRAM {
        return None;
    }
    let mut reader = Reader::new(ipmi);
    let [format, kind] = reader.array()?;
    if format != RMCP_PLUS {
        return None;
    }
    let payload = Payload::of(kind & 0x3F)?;
    let (session, sequence, length) = (reader.u32()?, reader.u32()?, reader.u16()?);
    let body = reader.take(length.into())?;
    Some(Packet {
        payload,
        encrypted: kind & ENCRYPTED != 0,
        authenticated: kind & AUTHENTICATED != 0,
        session,
        sequence,
        body,
        whole: ipmi,
    })
}

impl<'a> Packet<'a> {
    /// The body of a step of a login: neither of a session, nor signed, nor encrypted.
    pub(crate) fn plain(&self) -> Option<&'a [u8]> {
        let outside = self.session == 0 && !self.encrypted && !self.authenticated;
        (outside && !self.payload.is_of_session()).then_some(self.body)
    }

    /// A message outside of a session, as some BMCs answer in the format of v2.0 what was asked in that of v1.5.
    pub(crate) fn outside(&self) -> Option<&'a [u8]> {
        let outside = self.session == 0 && !self.encrypted && !self.authenticated;
        (outside && self.payload == Payload::Message).then_some(self.body)
    }

    /// The body of a message or another payload of a session, if its code is right and it is signed and encrypted as the suite demands.
    pub(crate) fn open(&self, keys: &Keys) -> Option<Vec<u8>> {
        let suite = keys.suite();
        if !self.payload.is_of_session() || !self.authenticated || self.encrypted != suite.encrypts() {
            return None;
        }
        let (covered, code) =
            self.whole.split_at_checked(self.whole.len().checked_sub(suite.code_length())?)?;
        if !same(&keys.code(covered), code) {
            return None;
        }
        let trailer = covered.get(HEADER + self.body.len()..)?;
        let [.., padding, NEXT_HEADER] = trailer else { return None };
        if usize::from(*padding) != trailer.len() - 2 {
            return None;
        }
        if self.encrypted { keys.decrypt(self.body) } else { Some(self.body.to_vec()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ipmi::keys::tests::{keys, recorded};
    use crate::ipmi::suite::Suite;
    use proptest::prelude::*;

    #[test]
    fn a_recorded_exchange() {
        let recorded = recorded();
        let keys = recorded.keys();
        let [request, answer] = [&recorded.sealed_request, &recorded.sealed_answer];
        assert_eq!(&seal(&keys, 0x302, 3, request[16..32].try_into().unwrap(), &recorded.request), request);
        for (datagram, session, sequence, body) in
            [(request, 0x302, 3, &recorded.request), (answer, 0xA0A2_A3A4, 1, &recorded.answer)]
        {
            let packet = read(&datagram[4..]).unwrap();
            assert_eq!(
                (packet.payload, packet.session, packet.sequence),
                (Payload::Message, session, sequence)
            );
            assert_eq!(packet.open(&keys).as_ref(), Some(body));
            assert_eq!(packet.plain(), None);
        }
    }

    #[test]
    fn no_byte_of_a_sealed_packet_can_be_changed() {
        for suite in Suite::ALL {
            let keys = keys(suite, 1);
            let sealed = seal(&keys, 7, 9, [3; 16], b"message");
            let open = |bytes: &[u8]| read(bytes).and_then(|packet| packet.open(&keys));
            assert_eq!(open(&sealed[4..]).unwrap(), b"message");
            for at in 4..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[at] ^= 1;
                assert_eq!(open(&damaged[4..]), None, "{suite:?} byte {at}");
                assert_eq!(open(&sealed[4..at]), None, "{suite:?} cut at {at}");
            }
            assert_eq!(open(&[&sealed[4..], &[0]].concat()), None);
            let other = super::super::super::keys::tests::keys(suite, 2);
            assert_eq!(read(&sealed[4..]).unwrap().open(&other), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(
            suite in prop::sample::select(Suite::ALL.to_vec()),
            session: u32,
            sequence: u32,
            vector: [u8; 16],
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let keys = keys(suite, 1);
            let sealed = seal(&keys, session, sequence, vector, &body);
            prop_assert_eq!((sealed.len() - 4 - suite.code_length()) % 4, 0);
            let packet = read(&sealed[4..]).unwrap();
            prop_assert_eq!((packet.session, packet.sequence), (session, sequence));
            prop_assert_eq!(packet.open(&keys), Some(body.clone()));
            let clear = sealed.windows(body.len().max(1)).any(|window| window == body);
            prop_assert!(body.len() < 8 || clear != suite.encrypts());
        }

        #[test]
        fn nothing_harms(head in prop::sample::select(vec![vec![], vec![6, 0xC0], vec![6, 0x10]]), bytes: Vec<u8>) {
            let bytes = [head, bytes].concat();
            if let Some(packet) = read(&bytes) {
                packet.plain();
                for suite in Suite::ALL {
                    prop_assert_eq!(packet.open(&keys(suite, 1)), None);
                }
            }
        }
    }
}

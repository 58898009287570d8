//! The IPMI v1.5 session header without authentication (13.6, table 13-8, left column): what is said before there is a
//! session, and what a BMC of the first generation says at all.

use super::{Reader, rmcp};

/// Authentication type "none" (13.6).
const NONE: u8 = 0;
/// Authentication type that marks the RMCP+ format (13.6).
pub(crate) const RMCP_PLUS: u8 = 6;

/// A datagram that carries a message outside of a session: number and sequence number are zero (13.6).
pub(crate) fn datagram(message: &[u8]) -> Vec<u8> {
    let mut bytes = rmcp::ipmi_header().to_vec();
    bytes.push(NONE);
    bytes.extend([0; 8]);
    // Never longer than a message of this driver: far below a byte's range.
    bytes.push(u8::try_from(message.len()).unwrap_or(u8::MAX));
    bytes.extend(message.iter().take(u8::MAX.into()));
    bytes
}

/// The message in what follows the RMCP header, if that is without authentication and outside of a session.
pub(crate) fn read(ipmi: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(ipmi);
    if reader.byte()? != NONE {
        return None;
    }
    let (_sequence, session) = (reader.u32()?, reader.u32()?);
    if session != 0 {
        return None;
    }
    // Behind it there may be the legacy pad byte (13.6, table 13-8).
    let length = reader.byte()?;
    reader.take(length.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::rmcp::Class;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_datagram() {
        // As ipmitool 1.8 sends it.
        let known = [
            0x06, 0x00, 0xFF, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x20, 0x18, 0xC8, 0x81, 0x00, 0x38,
            0x8E, 0x04, 0xB5,
        ];
        assert_eq!(datagram(&known[14..]), known);
        let Some(Class::Ipmi(ipmi)) = rmcp::read(&known) else { panic!() };
        assert_eq!(read(ipmi), Some(&known[14..]));
        assert_eq!(read(&[ipmi, &[0]].concat()), Some(&known[14..]), "legacy pad");
        for cut in 0..ipmi.len() {
            assert_eq!(read(&ipmi[..cut]), None, "cut at {cut}");
        }
        for (at, why) in [(0, "authenticated"), (5, "of a session")] {
            let mut other = ipmi.to_vec();
            other[at] = 2;
            assert_eq!(read(&other), None, "{why}");
        }
    }

    proptest! {
        #[test]
        fn nothing_harms(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}

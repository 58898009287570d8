//! The RMCP header (13.1.3, and ASF 2.0, 3.2.2.2) and ASF's presence ping and pong (13.2.3, 13.2.4).

use super::Reader;

/// RMCP version 1.0 (13.1.3).
const VERSION: u8 = 0x06;
/// No acknowledgement of the RMCP message is wanted: IPMI messages always carry it (13.1.3).
const NO_ACK: u8 = 0xFF;
/// Message class ASF (13.1.3).
const CLASS_ASF: u8 = 0x06;
/// Message class IPMI (13.1.3).
const CLASS_IPMI: u8 = 0x07;
/// Bit of the class that marks an acknowledgement (13.1.3).
const ACK: u8 = 0x80;
/// IANA enterprise number of the Alerting Specifications Forum (13.2.3).
const IANA_ASF: [u8; 4] = 4542_u32.to_be_bytes();
/// ASF message type Presence Ping (13.2.3).
const PING: u8 = 0x80;
/// ASF message type Presence Pong (13.2.4).
const PONG: u8 = 0x40;
/// Bit of the pong's "supported entities": IPMI is supported (13.2.4).
const ENTITY_IPMI: u8 = 0x80;

/// What a datagram holds behind its RMCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class<'a> {
    /// An IPMI message with its session header.
    Ipmi(&'a [u8]),
    /// An ASF message.
    Asf(&'a [u8]),
}

/// Takes the RMCP header off. `None`: another version, an acknowledgement, another class, too short.
pub(crate) fn read(datagram: &[u8]) -> Option<Class<'_>> {
    let mut reader = Reader::new(datagram);
    let [version, _reserved, _sequence, class] = reader.array()?;
    // The reserved byte is not looked at: BMCs leave odd things there.
    if version != VERSION || class & ACK != 0 {
        return None;
    }
    match class & 0x1F {
        CLASS_IPMI => Some(Class::Ipmi(reader.rest())),
        CLASS_ASF => Some(Class::Asf(reader.rest())),
        _ => None,
    }
}

/// The header of an IPMI message.
pub(crate) fn ipmi_header() -> [u8; 4] {
    [VERSION, 0, NO_ACK, CLASS_IPMI]
}

/// A presence ping: is there anything that speaks RMCP?
pub(crate) fn ping(tag: u8) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0, NO_ACK, CLASS_ASF];
    bytes.extend(IANA_ASF);
    bytes.extend([PING, tag, 0, 0]);
    bytes
}

/// What a BMC answers to an ASF message: to a ping with a pong that says that IPMI is spoken.
#[cfg(any(test, feature = "ipmi-server"))]
pub(crate) fn pong_to(asf: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(asf);
    let (iana, [kind, tag, _, _]) = (reader.array::<4>()?, reader.array::<4>()?);
    if iana != IANA_ASF || kind != PING {
        return None;
    }
    let mut bytes = vec![VERSION, 0, NO_ACK, CLASS_ASF];
    bytes.extend(IANA_ASF);
    bytes.extend([PONG, tag, 0, 16]);
    bytes.extend(IANA_ASF);
    bytes.extend([0, 0, 0, 0, ENTITY_IPMI | 1, 0, 0, 0, 0, 0, 0, 0]);
    Some(bytes)
}

/// What a presence pong says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pong {
    /// The tag of the ping.
    pub(crate) tag: u8,
}

/// Reads an ASF message that is a presence pong.
pub(crate) fn pong(asf: &[u8]) -> Option<Pong> {
    let mut reader = Reader::new(asf);
    let (iana, [kind, tag, _, length]) = (reader.array::<4>()?, reader.array::<4>()?);
    if iana != IANA_ASF || kind != PONG {
        return None;
    }
    let mut data = Reader::new(reader.take(length.into())?);
    // The enterprise number and OEM-defined values of whoever made it.
    data.take(8)?;
    // Of something that speaks no IPMI it is no use to know.
    (data.byte()? & ENTITY_IPMI != 0).then_some(Pong { tag })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers() {
        let ipmi = [&ipmi_header()[..], &[1, 2]].concat();
        assert_eq!(read(&ipmi), Some(Class::Ipmi(&[1, 2])));
        assert_eq!(read(&[6, 0xAA, 0, 7]), Some(Class::Ipmi(&[])), "reserved bytes do not matter");
        for (bytes, why) in [
            (&[][..], "nothing"),
            (&[6, 0, 0xFF], "short"),
            (&[5, 0, 0xFF, 7], "another version"),
            (&[6, 0, 0xFF, 0x87], "an acknowledgement"),
            (&[6, 0, 0xFF, 8], "another class"),
        ] {
            assert_eq!(read(bytes), None, "{why}");
        }
    }

    /// Both as ASF 2.0, 3.2.4.2 and 3.2.4.3, draws them.
    #[test]
    fn presence() {
        assert_eq!(ping(0x11), [6, 0, 0xFF, 6, 0, 0, 0x11, 0xBE, 0x80, 0x11, 0, 0]);
        let answer = [6, 0, 0xFF, 6, 0, 0, 0x11, 0xBE, 0x40, 0x11, 0, 16, 0, 0, 0x11, 0xBE, 0, 0, 0, 0, 0x81];
        let answer = [&answer[..], &[0; 7]].concat();
        let Some(Class::Asf(asf)) = read(&answer) else { panic!() };
        assert_eq!(pong(asf), Some(Pong { tag: 0x11 }));
        for cut in 0..asf.len() {
            assert_eq!(pong(&asf[..cut]), None);
        }
        assert_eq!(pong_to(&ping(0x11)[4..]).as_ref(), Some(&answer));
        assert_eq!(pong_to(asf), None);
    }
}

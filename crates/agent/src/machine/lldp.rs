//! What a switch says of itself and of the port at the other end of the cable: LLDP frames (IEEE 802.1AB). Pure and total.

use std::net::{Ipv4Addr, Ipv6Addr};

use ferric_protocol::v1::LldpNeighbour;

/// EtherType of LLDP (IEEE 802.1AB, 8.3).
pub(super) const ETHER_TYPE: u16 = 0x88cc;
/// Length of an Ethernet header: two addresses and the type (IEEE 802.3, 3.2).
const HEADER: usize = 14;
/// Types of TLVs (IEEE 802.1AB, table 8-1).
mod kind {
    /// 8.5.1
    pub(super) const END: u8 = 0;
    /// 8.5.2
    pub(super) const CHASSIS_ID: u8 = 1;
    /// 8.5.3
    pub(super) const PORT_ID: u8 = 2;
    /// 8.5.4
    pub(super) const TIME_TO_LIVE: u8 = 3;
    /// 8.5.7
    pub(super) const SYSTEM_NAME: u8 = 6;
    /// 8.6
    pub(super) const ORGANISATION: u8 = 127;
}
/// Subtypes of a chassis ID that are a MAC address, and a network address (IEEE 802.1AB, table 8-2).
const CHASSIS: (u8, u8) = (4, 5);
/// The same of a port ID (IEEE 802.1AB, table 8-3).
const PORT: (u8, u8) = (3, 4);
/// Organisation and subtype of the port VLAN ID (IEEE 802.1Q, D.2.1).
const PORT_VLAN_ID: [u8; 4] = [0x00, 0x80, 0xc2, 1];
/// Families of a network address: IPv4 and IPv6 (IANA, address family numbers).
const FAMILIES: (u8, u8) = (1, 2);
/// Longest text that is kept, in characters; the standard has 255 bytes (8.5.2.3, 8.5.3.3, 8.5.7.2).
const LONGEST: usize = 255;

/// What was said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// Who is there.
    Hello(LldpNeighbour),
    /// A time to live of 0: it goes (IEEE 802.1AB, 9.1.2.2: shutdown frame).
    Goodbye,
}

/// Reads a frame from its first address on. `None` if it is no LLDP, or breaks the order of its first three TLVs
/// (IEEE 802.1AB, 8.2). What comes after the first damaged TLV is passed over.
pub(super) fn decode(frame: &[u8]) -> Option<Said> {
    let (header, mut rest) = frame.split_at_checked(HEADER)?;
    if u16::from_be_bytes([header[12], header[13]]) != ETHER_TYPE {
        return None;
    }
    let mut neighbour = LldpNeighbour {
        chassis_id: id(take(&mut rest, kind::CHASSIS_ID)?, CHASSIS)?,
        port_id: id(take(&mut rest, kind::PORT_ID)?, PORT)?,
        ..LldpNeighbour::default()
    };
    let [high, low, ..] = take(&mut rest, kind::TIME_TO_LIVE)? else { return None };
    if [*high, *low] == [0, 0] {
        return Some(Said::Goodbye);
    }
    while let Some((kind, value)) = tlv(&mut rest) {
        match kind {
            kind::END => break,
            kind::SYSTEM_NAME => neighbour.system_name = text(value),
            kind::ORGANISATION => {
                if let Some([high, low]) = value.strip_prefix(&PORT_VLAN_ID) {
                    let id = u16::from_be_bytes([*high, *low]);
                    neighbour.port_vlan_id = if (1..=4094).contains(&id) { id.into() } else { 0 };
                }
            }
            _ => {}
        }
    }
    Some(Said::Hello(neighbour))
}

/// The next TLV if it is of this kind.
fn take<'a>(rest: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    tlv(rest).filter(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The next TLV: seven bits of type, nine of length (IEEE 802.1AB, 8.4).
fn tlv<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let ([first, second], tail) = rest.split_first_chunk::<2>()?;
    let length = usize::from(first & 1) << 8 | usize::from(*second);
    let (value, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some((first >> 1, value))
}

/// An ID as text, by its subtype. None has no bytes.
fn id(value: &[u8], (mac, network): (u8, u8)) -> Option<String> {
    let (subtype, value) = value.split_first().filter(|(_, value)| !value.is_empty())?;
    let family = |v4: u8, v6: u8| match value.split_first() {
        Some((family, rest)) if *family == v4 => {
            <[u8; 4]>::try_from(rest).ok().map(|b| Ipv4Addr::from(b).to_string())
        }
        Some((family, rest)) if *family == v6 => {
            <[u8; 16]>::try_from(rest).ok().map(|b| Ipv6Addr::from(b).to_string())
        }
        _ => None,
    };
    let special = match *subtype {
        subtype if subtype == mac => (value.len() == 6).then(|| hex(value)),
        subtype if subtype == network => family(FAMILIES.0, FAMILIES.1),
        _ => None,
    };
    Some(special.unwrap_or_else(|| text(value)))
}

/// Text as it is, anything else as bytes: a locally assigned ID may be either.
fn text(value: &[u8]) -> String {
    // Some end their texts as C does.
    let trimmed = value.strip_suffix(&[0]).unwrap_or(value);
    match std::str::from_utf8(trimmed) {
        Ok(text) if !text.contains(char::is_control) => text.trim().chars().take(LONGEST).collect(),
        _ => hex(&value[..value.len().min(LONGEST / 3)]),
    }
}

/// `aa:bb:cc`
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn tlv_of(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap();
        [&(u16::from(kind) << 9 | length).to_be_bytes(), value].concat()
    }

    /// A frame as a switch sends it.
    pub(in super::super) fn frame(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        // Nearest bridge, the switch's port, LLDP (IEEE 802.1AB, table 7-1).
        let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e, 0x52, 0x54, 0, 0xaa, 0xbb, 0x01, 0x88, 0xcc];
        tlvs.iter().for_each(|(kind, value)| frame.extend(tlv_of(*kind, value)));
        frame
    }

    /// As a data centre switch sends it: MAC address, name of the interface, descriptions, VLAN, MTU.
    pub(in super::super) fn usual() -> Vec<u8> {
        let mut frame = frame(&[
            (1, b"\x04\x52\x54\x00\xaa\xbb\x00"),
            (2, b"\x05Ethernet1/7"),
            (3, b"\x00\x78"),
            (4, b"to rack 12"),
            (5, b"leaf-12.example.net"),
            (6, b"leaf-12a"),
            (7, b"\x00\x14\x00\x14"),
            (8, b"\x05\x01\x0a\x00\x00\x01\x02\x00\x00\x00\x0a\x00"),
            (127, b"\x00\x80\xc2\x01\x00\x0c"),
            (127, b"\x00\x12\x0f\x04\x24\x14"),
            (0, b""),
        ]);
        // Padding up to the shortest frame and beyond.
        frame.extend([0; 8]);
        frame
    }

    fn hello(frame: &[u8]) -> LldpNeighbour {
        match decode(frame) {
            Some(Said::Hello(neighbour)) => neighbour,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_usual_frame_is_read() {
        let heard = hello(&usual());
        assert_eq!((heard.chassis_id.as_str(), heard.port_id.as_str()), ("52:54:00:aa:bb:00", "Ethernet1/7"));
        assert_eq!((heard.system_name.as_str(), heard.port_vlan_id), ("leaf-12a", 12));
    }

    #[test]
    fn ids_of_all_kinds_become_text() {
        for (chassis, port, expected) in [
            (&b"\x07leaf"[..], &b"\x07\x00\x01\xff"[..], ("leaf", "00:01:ff")),
            (
                b"\x05\x01\x0a\x00\x00\x01",
                b"\x04\x02\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
                ("10.0.0.1", "2001:db8::1"),
            ),
            (b"\x04\x52\x54", b"\x03\x52\x54\x00\x00\x00\x01", ("RT", "52:54:00:00:00:01")),
            (b"\x06eth0\0", b"\x01 uplink ", ("eth0", "uplink")),
        ] {
            let heard = hello(&frame(&[(1, chassis), (2, port), (3, b"\0\x78")]));
            assert_eq!((heard.chassis_id.as_str(), heard.port_id.as_str()), expected);
        }
    }

    #[test]
    fn what_breaks_the_order_or_goes_is_no_neighbour() {
        let (chassis, port) = ((1_u8, &b"\x07a"[..]), (2_u8, &b"\x07b"[..]));
        assert_eq!(decode(&frame(&[chassis, port, (3, b"\0\0")])), Some(Said::Goodbye));
        for tlvs in [
            &[port, chassis, (3, &b"\0\x78"[..])][..],
            &[chassis, (3, b"\0\x78")],
            &[chassis, port],
            &[chassis, port, (3, b"\0")],
            &[(1, b"\x04"), port, (3, b"\0\x78")],
            &[(1, b""), port, (3, b"\0\x78")],
            &[],
        ] {
            assert_eq!(decode(&frame(tlvs)), None, "{tlvs:?}");
        }
        let mut other = usual();
        other[12] = 0x08;
        assert_eq!(decode(&other), None, "not LLDP");
        let mut cut = frame(&[chassis, port, (3, b"\0\x78")]);
        cut.extend([6 << 1, 200, b'x']);
        assert_eq!(hello(&cut).system_name, "", "a TLV that is cut short");
        for vlan in [&b"\x00\x80\xc2\x01\x0f\xff"[..], b"\x00\x80\xc2\x01\0\0", b"\x00\x80\xc2\x01\x0c"] {
            assert_eq!(hello(&frame(&[chassis, port, (3, b"\0\x78"), (127, vlan)])).port_vlan_id, 0);
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic_or_grow(
            bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..120, at in 0_usize..110, with: u8,
        ) {
            let mut changed = usual();
            let length = changed.len();
            changed[at % length] = with;
            changed.truncate(length - cut.min(length));
            for frame in [bytes.clone(), [frame(&[]), bytes].concat(), changed] {
                if let Some(Said::Hello(heard)) = decode(&frame) {
                    let all = [heard.chassis_id, heard.port_id, heard.system_name];
                    prop_assert!(all.iter().all(|text| text.chars().count() <= LONGEST * 3));
                    prop_assert!(!all.iter().any(|text| text.contains(char::is_control)));
                }
            }
        }
    }
}

//! What counts of a DHCPv6 message (RFC 8415), and what an answer looks like on the wire.

use std::net::Ipv6Addr;

use ferric_api::MacAddress;
use uuid::Uuid;

/// Largest message that is read, in bytes. Firmware sends less than two hundred.
pub(super) const MOST: usize = 1500;

/// Types of messages (RFC 8415, section 7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;

/// Codes of options (RFC 8415, section 21).
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const PREFERENCE: u16 = 7;
const VENDOR_CLASS: u16 = 16;

/// Most and least bytes of an identifier, with its type (RFC 8415, section 11.1).
const DUID_LENGTH: std::ops::RangeInclusive<usize> = 3..=130;
/// Types of identifiers (RFC 8415, section 11, and RFC 6355) that have a hardware address or a UUID in them.
const DUID_LLT: [u8; 2] = [0, 1];
const DUID_LL: [u8; 2] = [0, 3];
const DUID_UUID: [u8; 2] = [0, 4];
/// Ethernet, as the type of a hardware address.
const ETHERNET: [u8; 2] = [0, 1];

/// "Take this answer, and wait for no other" (RFC 8415, section 18.2.1).
const AT_ONCE: u8 = 255;

/// What firmware that boots over IPv6 asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Number of the exchange.
    pub transaction: [u8; 3],
    /// The client's identifier.
    pub client_id: Vec<u8>,
    /// Hardware address of the card.
    pub mac: MacAddress,
    /// Whether it is UEFI HTTP boot, else PXE.
    pub http: bool,
}

/// Reads a message that came from `source`; `None` if it is no question of a neighbour's firmware. An operating system does
/// not call itself by the names of firmware, and is never answered.
pub fn read(datagram: &[u8], source: Ipv6Addr) -> Option<Question> {
    if datagram.len() > MOST || !source.is_unicast_link_local() {
        return None;
    }
    let [SOLICIT, a, b, c, options @ ..] = datagram else { return None };
    let (mut client_id, mut http) = (None, None);
    let mut rest = options;
    while let [code_high, code_low, length_high, length_low, more @ ..] = rest {
        let length = u16::from_be_bytes([*length_high, *length_low]);
        let (value, after) = more.split_at_checked(length.into())?;
        match u16::from_be_bytes([*code_high, *code_low]) {
            CLIENT_ID => client_id = Some(value),
            // For one server only, which a question to all is not (RFC 8415, section 16.2).
            SERVER_ID => return None,
            VENDOR_CLASS => http = http.or_else(|| boots_by_http(value)),
            _ => {}
        }
        rest = after;
    }
    if !rest.is_empty() {
        return None;
    }
    let client_id = client_id.filter(|id| DUID_LENGTH.contains(&id.len()))?;
    let mac = card_of_address(source).or_else(|| card_of_duid(client_id))?;
    Some(Question { transaction: [*a, *b, *c], client_id: client_id.to_vec(), mac, http: http? })
}

/// Whether a vendor class is that of UEFI HTTP boot (`true`) or of PXE (`false`): the number of an enterprise, and texts, each
/// after its length (RFC 8415, section 21.16).
fn boots_by_http(vendor_class: &[u8]) -> Option<bool> {
    let mut rest = vendor_class.get(4..)?;
    while let [high, low, more @ ..] = rest {
        let (text, after) = more.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
        if text.starts_with(b"PXEClient") {
            return Some(false);
        }
        if text.starts_with(b"HTTPClient") {
            return Some(true);
        }
        rest = after;
    }
    None
}

/// The card that a link-local address is made of (RFC 4291, appendix A). Firmware's are; those of operating systems often are
/// not.
fn card_of_address(address: Ipv6Addr) -> Option<MacAddress> {
    match address.octets() {
        [_, _, _, _, _, _, _, _, a, b, c, 0xff, 0xfe, d, e, f] => card([a ^ 2, b, c, d, e, f]),
        _ => None,
    }
}

fn card_of_duid(duid: &[u8]) -> Option<MacAddress> {
    let (kind, rest) = duid.split_at_checked(2)?;
    let (hardware, rest) = rest.split_at_checked(2)?;
    let address = match <[u8; 2]>::try_from(kind).ok()? {
        DUID_LL => rest,
        // With the time at which it was made.
        DUID_LLT => rest.get(4..)?,
        _ => return None,
    };
    card(address.try_into().ok().filter(|_| hardware == ETHERNET)?)
}

/// Neither a group nor nothing is a card.
fn card(octets: [u8; 6]) -> Option<MacAddress> {
    (octets[0] & 1 == 0 && octets != [0; 6]).then(|| octets.into())
}

/// An offer of nothing: no address, and no file. EDK2 looks through the offers that it has when its first wait is over, finds
/// none that it can use, and ends the boot entry; one without any offer asks for a minute.
///
/// RFC 8415 (section 18.3.9) would have the offer say "no addresses" within the association that was asked for. Just that EDK2
/// takes for no offer at all, as section 18.2.9 allows, and asks on.
pub fn nothing(question: &Question, server: Uuid) -> Vec<u8> {
    let mut bytes = vec![ADVERTISE];
    bytes.extend(question.transaction);
    let mut option = |code: u16, value: &[&[u8]]| {
        let length = value.iter().map(|part| part.len()).sum::<usize>();
        bytes.extend(code.to_be_bytes());
        // An identifier is the longest of all.
        bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        value.iter().for_each(|part| bytes.extend_from_slice(part));
    };
    option(CLIENT_ID, &[&question.client_id]);
    option(SERVER_ID, &[&DUID_UUID, server.as_bytes()]);
    option(PREFERENCE, &[&[AT_ONCE]]);
    bytes
}

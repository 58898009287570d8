//! TFTP on the wire (RFC 1350, 2347, 2348, 2349, 7440). Pure.

/// Largest block: what an Ethernet frame carries, since firmware is bad at putting fragments together.
const MOST_BLOCK: u16 = 1468;
/// Largest window, in blocks.
const MOST_WINDOW: u16 = 32;
/// Longest wait for an acknowledgement, in seconds.
const MOST_TIMEOUT: u8 = 10;
/// Largest request that is read, as RFC 2347 has it.
pub(super) const MOST_REQUEST: usize = 512;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// It wants to read a file.
    Read(ReadRequest),
    /// It wants to write a file.
    Write,
    /// It has all blocks up to this one.
    Acknowledge(u16),
    /// It gives up.
    Error(u16),
}

/// A request to read a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadRequest {
    /// Name of the file, as sent.
    pub name: String,
    /// Options with their values, as sent; names in lower case.
    pub options: Vec<(String, String)>,
}

/// Why a request is refused, with the code of RFC 1350.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such file.
    NotFound,
    /// Files cannot be written.
    ReadOnly,
    /// The request makes no sense.
    Illegal,
    /// Too much is going on.
    Busy,
}

impl Refusal {
    /// The error packet.
    pub fn packet(self) -> Vec<u8> {
        let (code, text) = match self {
            Self::NotFound => (1, "no such file"),
            Self::ReadOnly => (2, "files are read only"),
            Self::Illegal => (4, "not a request to read a file in octet mode"),
            Self::Busy => (0, "too many transfers, try again"),
        };
        let mut packet = vec![0, 5, 0, code];
        packet.extend_from_slice(text.as_bytes());
        packet.push(0);
        packet
    }
}

/// Reads what a client sends.
pub fn read(datagram: &[u8]) -> Result<Packet, Refusal> {
    let (operation, rest) = datagram.split_first_chunk::<2>().ok_or(Refusal::Illegal)?;
    let number = || rest.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes)).ok_or(Refusal::Illegal);
    match u16::from_be_bytes(*operation) {
        1 => read_request(rest).map(Packet::Read),
        2 => Ok(Packet::Write),
        4 => number().map(Packet::Acknowledge),
        5 => number().map(Packet::Error),
        _ => Err(Refusal::Illegal),
    }
}

fn read_request(bytes: &[u8]) -> Result<ReadRequest, Refusal> {
    if bytes.len() > MOST_REQUEST {
        return Err(Refusal::Illegal);
    }
    // Every text ends with a zero; what comes after the last one is not a text.
    let end = bytes.iter().rposition(|byte| *byte == 0).ok_or(Refusal::Illegal)?;
    let mut texts = bytes[..end].split(|byte| *byte == 0).map(|text| std::str::from_utf8(text).ok());
    let mut next = || texts.next().flatten();
    let name = next().filter(|name| !name.is_empty()).ok_or(Refusal::Illegal)?.to_owned();
    // Firmware is known to ask for "octet" in any letters.
    if !next().ok_or(Refusal::Illegal)?.eq_ignore_ascii_case("octet") {
        return Err(Refusal::Illegal);
    }
    let mut options = Vec::new();
    while let (Some(name), Some(value)) = (next(), next()) {
        options.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    Ok(ReadRequest { name, options })
}

/// How a file is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of a block.
    pub block: u16,
    /// Blocks that are sent before one must be acknowledged.
    pub window: u16,
    /// Seconds after which what is not acknowledged is sent again.
    pub timeout: u8,
    /// The acknowledgement of the options; `None` if there are none to acknowledge.
    pub acknowledgement: Option<Vec<u8>>,
}

/// Takes of the options what is known and within bounds. One that is out of them is passed over, as RFC 2347 has it.
pub fn terms(request: &ReadRequest, size: u64) -> Terms {
    let mut terms = Terms { block: 512, window: 1, timeout: 1, acknowledgement: None };
    let mut acknowledged = vec![0, 6];
    for (name, value) in &request.options {
        let number = value.parse::<u64>().ok();
        let answer = match (name.as_str(), number) {
            ("blksize", Some(8..=65464)) => {
                terms.block = number.and_then(|n| u16::try_from(n).ok()).unwrap_or(512).min(MOST_BLOCK);
                terms.block.to_string()
            }
            ("windowsize", Some(1..=65535)) => {
                terms.window = number.and_then(|n| u16::try_from(n).ok()).unwrap_or(1).min(MOST_WINDOW);
                terms.window.to_string()
            }
            // It must be taken as it is or not at all.
            ("timeout", Some(seconds)) if (1..=u64::from(MOST_TIMEOUT)).contains(&seconds) => {
                terms.timeout = u8::try_from(seconds).unwrap_or(1);
                terms.timeout.to_string()
            }
            ("tsize", Some(_)) => size.to_string(),
            _ => continue,
        };
        for text in [name, &answer] {
            acknowledged.extend_from_slice(text.as_bytes());
            acknowledged.push(0);
        }
    }
    // A request of 512 bytes can name few options, but the same one often.
    terms.acknowledgement =
        (acknowledged.len() > 2 && acknowledged.len() <= MOST_REQUEST).then_some(acknowledged);
    if terms.acknowledgement.is_none() {
        (terms.block, terms.window, terms.timeout) = (512, 1, 1);
    }
    terms
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn request(text: &str) -> Result<Packet, Refusal> {
        read(&[&[0, 1], text.as_bytes()].concat())
    }

    fn terms_of(options: &str) -> Terms {
        let Ok(Packet::Read(request)) = request(&format!("f\0octet\0{options}")) else {
            panic!("{options:?}")
        };
        terms(&request, 74_213)
    }

    #[test]
    fn requests() {
        let Ok(Packet::Read(found)) = request("undionly.kpxe\0OCTET\0BlkSize\x001468\0tsize\x000\0") else {
            panic!()
        };
        assert_eq!(found.name, "undionly.kpxe");
        assert_eq!(found.options, [("blksize".into(), "1468".into()), ("tsize".into(), "0".into())]);
        for bad in ["", "f", "f\0", "f\0octet", "\0octet\0", "f\0netascii\0", "f\0mail\0"] {
            assert_eq!(request(bad), Err(Refusal::Illegal), "{bad:?}");
        }
        assert_eq!(read(&[0, 2, 0]), Ok(Packet::Write));
        assert_eq!(read(&[0, 4, 1, 2]), Ok(Packet::Acknowledge(258)));
        assert_eq!(read(&[0, 5, 0, 8, 0]), Ok(Packet::Error(8)));
        for bad in [&[0_u8, 4, 1][..], &[0, 3, 0, 1], &[0], &[]] {
            assert_eq!(read(bad), Err(Refusal::Illegal));
        }
    }

    #[test]
    fn options_are_taken_within_bounds() {
        let plain = Terms { block: 512, window: 1, timeout: 1, acknowledgement: None };
        assert_eq!(terms_of(""), plain);
        assert_eq!(terms_of("unknown\x005\0"), plain);
        assert_eq!(
            terms_of("blksize\x007\0windowsize\x000\0timeout\x000\0timeout\x0011\0blksize\0x\0"),
            plain
        );
        let terms = terms_of("blksize\x0065464\0windowsize\x00999\0timeout\x005\0tsize\x000\0");
        assert_eq!((terms.block, terms.window, terms.timeout), (1468, 32, 5));
        assert_eq!(
            terms.acknowledgement.unwrap(),
            b"\0\x06blksize\x001468\0windowsize\x0032\0timeout\x005\0tsize\x0074213\0"
        );
        let terms = terms_of("blksize\x001024\0");
        assert_eq!((terms.block, terms.window), (1024, 1));
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_request_makes_it_panic(text in "[a-z0-9\\x00]{0,520}", size: u64) {
            if let Ok(Packet::Read(request)) = request(&text) {
                let terms = terms(&request, size);
                prop_assert!((8..=MOST_BLOCK).contains(&terms.block) && (1..=MOST_WINDOW).contains(&terms.window));
                prop_assert!(terms.acknowledgement.is_none_or(|bytes| bytes.len() <= MOST_REQUEST));
            }
        }
    }
}

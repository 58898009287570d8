//! The kernel's IPMI device, as bytes (include/uapi/linux/ipmi.h, for machines of 64 bits).

use super::commands::Request;

/// `IPMICTL_SEND_COMMAND`: `_IOR('i', 13, struct ipmi_req)`.
pub const SEND_COMMAND: u32 = 2 << 30 | (REQUEST_BYTES as u32) << 16 | (b'i' as u32) << 8 | 13;
/// `IPMICTL_RECEIVE_MSG_TRUNC`: `_IOWR('i', 11, struct ipmi_recv)`. What is longer than the buffer is cut off.
pub const RECEIVE_MSG_TRUNC: u32 = 3 << 30 | (RECEIVE_BYTES as u32) << 16 | (b'i' as u32) << 8 | 11;
/// Room for an answer: `IPMI_MAX_MSG_LENGTH`.
pub const LONGEST_ANSWER: usize = 272;
/// Room for an address: larger than `struct ipmi_addr`.
pub const ADDRESS_BYTES: usize = 64;

/// Size of `struct ipmi_req`.
const REQUEST_BYTES: usize = 40;
/// Size of `struct ipmi_recv`.
const RECEIVE_BYTES: usize = 48;
/// `IPMI_SYSTEM_INTERFACE_ADDR_TYPE`.
const SYSTEM_INTERFACE: i32 = 0x0c;
/// `IPMI_BMC_CHANNEL`.
const BMC_CHANNEL: i16 = 0xf;
/// `IPMI_RESPONSE_RECV_TYPE`.
const RESPONSE: i32 = 1;

/// `struct ipmi_system_interface_addr`: the BMC itself, logical unit 0.
#[must_use]
pub fn address() -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&SYSTEM_INTERFACE.to_ne_bytes());
    bytes[4..6].copy_from_slice(&BMC_CHANNEL.to_ne_bytes());
    bytes
}

/// Where something is in memory, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its address.
    pub at: u64,
    /// Its length in bytes.
    pub length: usize,
}

/// `struct ipmi_req`: this request under this number, from an [`address`] and data that lie elsewhere.
#[must_use]
pub fn request(request: &Request, number: i64, address: Place, data: Place) -> [u64; REQUEST_BYTES / 8] {
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..8].copy_from_slice(&address.at.to_ne_bytes());
    bytes[8..12].copy_from_slice(&length(address).to_ne_bytes());
    bytes[16..24].copy_from_slice(&number.to_ne_bytes());
    message(&mut bytes[24..], request.netfn, request.command, data);
    words(&bytes)
}

/// `struct ipmi_recv`: room for an address and data that lie elsewhere.
#[must_use]
pub fn receive(address: Place, data: Place) -> [u64; RECEIVE_BYTES / 8] {
    let mut bytes = [0; RECEIVE_BYTES];
    bytes[8..16].copy_from_slice(&address.at.to_ne_bytes());
    bytes[16..20].copy_from_slice(&length(address).to_ne_bytes());
    message(&mut bytes[32..], 0, 0, data);
    words(&bytes)
}

/// `struct ipmi_msg`.
fn message(bytes: &mut [u8], netfn: u8, command: u8, data: Place) {
    let length = u16::try_from(data.length).unwrap_or(u16::MAX);
    (bytes[0], bytes[1]) = (netfn, command);
    bytes[2..4].copy_from_slice(&length.to_ne_bytes());
    bytes[8..16].copy_from_slice(&data.at.to_ne_bytes());
}

fn length(place: Place) -> u32 {
    u32::try_from(place.length).unwrap_or(u32::MAX)
}

fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
    }
    words
}

/// How long the data are that the kernel put at their place, if they are the answer to the request of this number.
#[must_use]
pub fn answer_to(number: i64, request: &Request, received: &[u64; RECEIVE_BYTES / 8]) -> Option<usize> {
    let bytes: Vec<u8> = received.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let kind = i32::from_ne_bytes(bytes[..4].try_into().ok()?);
    let of = i64::from_ne_bytes(bytes[24..32].try_into().ok()?);
    let (netfn, command) = (bytes[32], bytes[33]);
    let length = u16::from_ne_bytes(bytes[34..36].try_into().ok()?);
    // A response has the network function of its request and one more (5.1).
    let ours = kind == RESPONSE && of == number && netfn == (request.netfn | 1) && command == request.command;
    ours.then_some(length.into())
}

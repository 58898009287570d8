//! The IPMI message as LAN carries it (13.8): two addresses, two checksums, and the requester's sequence
//! number by which an answer is known.

use super::Reader;

/// Address of the BMC (13.8): the responder.
const BMC: u8 = 0x20;
/// Software ID of a remote console (5.5, table 5-4): the requester.
const CONSOLE: u8 = 0x81;

/// Largest requester sequence number plus one: six bits (13.8).
pub(crate) const SEQUENCES: u8 = 64;

/// A request or an answer; which of the two says the lowest bit of the network function (5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// Network function, six bits: even for a request, odd for an answer.
    pub(crate) netfn: u8,
    /// Requester's sequence number, six bits.
    pub(crate) sequence: u8,
    /// Command.
    pub(crate) command: u8,
    /// What belongs to the command; of an answer the completion code first.
    pub(crate) data: &'a [u8],
}

/// Two's complement of the sum (13.8): bytes and checksum add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

impl Message<'_> {
    /// The bytes of a request to the BMC.
    pub(crate) fn request(&self) -> Vec<u8> {
        self.write(BMC, CONSOLE)
    }

    /// The bytes of an answer, as a BMC writes it.
    #[cfg(any(test, feature = "ipmi-server"))]
    pub(crate) fn answer(&self) -> Vec<u8> {
        self.write(CONSOLE, BMC)
    }

    fn write(&self, to: u8, from: u8) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(7 + self.data.len());
        // Both logical units are 0: the BMC itself.
        bytes.extend([to, self.netfn << 2]);
        bytes.push(checksum(&bytes));
        let second = bytes.len();
        bytes.extend([from, self.sequence << 2, self.command]);
        bytes.extend(self.data);
        bytes.push(checksum(&bytes[second..]));
        bytes
    }
}

/// Reads a message; `None` where it is too short or a checksum is wrong. Whom it is from and to is not looked at: BMCs
/// are careless there, and the session says it better.
pub(crate) fn read(bytes: &[u8]) -> Option<Message<'_>> {
    if bytes.len() < 7 || bytes.len() > super::MAX_DATAGRAM {
        return None;
    }
    let (first, second) = bytes.split_at(3);
    if checksum(first) != 0 || checksum(second) != 0 {
        return None;
    }
    let netfn = first[1] >> 2;
    let mut reader = Reader::new(second);
    let [_from, sequence, command] = reader.array()?;
    let data = reader.rest();
    Some(Message { netfn, sequence: sequence >> 2, command, data: &data[..data.len() - 1] })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// Get Channel Authentication Capabilities as `ipmitool` 1.8 sends it first of all.
    const CAPABILITIES: [u8; 9] = [0x20, 0x18, 0xC8, 0x81, 0x00, 0x38, 0x8E, 0x04, 0xB5];

    #[test]
    fn a_known_request() {
        let message = Message { netfn: 0x06, sequence: 0, command: 0x38, data: &[0x8E, 0x04] };
        assert_eq!(message.request(), CAPABILITIES);
        assert_eq!(read(&CAPABILITIES), Some(message));
    }

    #[test]
    fn what_is_damaged_is_nothing() {
        for at in 0..CAPABILITIES.len() {
            assert_eq!(read(&CAPABILITIES[..at]), None, "cut at {at}");
            let mut damaged = CAPABILITIES;
            damaged[at] ^= 0x10;
            assert_eq!(read(&damaged), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(netfn in 0_u8..64, sequence in 0..SEQUENCES, command: u8, data: Vec<u8>) {
            let message = Message { netfn, sequence, command, data: &data };
            let (request, answer) = (message.request(), message.answer());
            prop_assert_eq!(read(&request), Some(message.clone()));
            prop_assert_eq!(read(&answer), Some(message));
        }

        #[test]
        fn nothing_harms(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}

//! The bytes of IPMI over LAN, without I/O, clock or chance. Sections are those of the IPMI specification, second
//! generation, v2.0, revision 1.1.
//!
//! Every `read` takes whatever a network brings: it gives `None` for what is not whole, and never panics.

pub(crate) mod message;
pub(crate) mod packet;
pub(crate) mod rmcp;
pub(crate) mod setup;
pub(crate) mod v15;

/// Largest datagram that is looked at, in bytes. The longest message that this driver asks for is under 200 bytes, and
/// BMCs advertise buffers of at most some hundred.
pub(crate) const MAX_DATAGRAM: usize = 1024;

/// Takes a datagram apart from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From the first byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next bytes, if there are so many.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next 16-bit number; IPMI sends the least significant byte first.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next 32-bit number.
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// What is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

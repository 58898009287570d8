//! The header: strict, and bounded before anything is allocated by what it says.

use super::{
    Qcow2Error, ReadAt,
    error::{invalid, refused},
    read,
};

/// What every qcow2 file begins with.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

const V2_LENGTH: u32 = 72;
const V3_LENGTH: u32 = 104;
/// QEMU's own bounds of a cluster: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// QEMU's own bound of the first-level table.
const MAX_L1_BYTES: u64 = 32 << 20;
/// Header extensions that are walked; images have a handful.
const MAX_EXTENSIONS: usize = 64;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

/// How compressed clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Deflate,
    Zstd,
}

/// What is needed of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    /// Entries of the first-level table that the size needs.
    pub(super) l1_entries: u64,
    pub(super) packing: Packing,
}

impl Header {
    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters that one second-level table speaks of.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster() / 8
    }

    pub(super) fn read(source: &dyn ReadAt, max_bytes: u64) -> Result<Self, Qcow2Error> {
        let file = source.size();
        let mut head = [0; V3_LENGTH as usize + 8];
        let there = file.min(head.len() as u64) as usize;
        read(source, 0, &mut head[..there])?;
        if head[..4] != MAGIC {
            return Err(Qcow2Error::Magic(hex::encode(&head[..there.min(4)])));
        }
        let u32_at = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        let version = u32_at(4);
        if !matches!(version, 2 | 3) {
            return Err(Qcow2Error::Version(version));
        }
        let length = if version == 2 { V2_LENGTH } else { u32_at(100) };
        if file < u64::from(V2_LENGTH) || (version == 3 && file < u64::from(V3_LENGTH)) {
            return invalid(format!("its header needs more than the {file} bytes of the file"));
        }
        if version == 3 && (length < V3_LENGTH || !length.is_multiple_of(8)) {
            return invalid(format!("its header says that it is {length} bytes long"));
        }
        if u64_at(8) != 0 {
            return refused("has a backing file: flatten it with qemu-img convert");
        }
        let cluster_bits = u32_at(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return invalid(format!("clusters of 2^{cluster_bits} bytes (9 to 21 are possible)"));
        }
        match u32_at(32) {
            0 => {}
            method => {
                return refused(format!("is encrypted (method {method}): decrypt it with qemu-img convert"));
            }
        }
        let features = if version == 3 { u64_at(72) } else { 0 };
        check_features(features)?;
        let packing = packing(features, (length > V3_LENGTH).then_some(head[104]))?;
        let header =
            Self { version, cluster_bits, size: u64_at(24), l1_offset: u64_at(40), l1_entries: 0, packing };
        if header.size > max_bytes {
            return Err(Qcow2Error::TooLarge { size: header.size, limit: max_bytes });
        }
        if u64::from(length) > header.cluster() || u64::from(length) > file {
            return invalid(format!("its header of {length} bytes is longer than a cluster or the file"));
        }
        check_extensions(source, u64::from(length), header.cluster().min(file))?;
        header.with_l1(u64::from(u32_at(36)), file)
    }

    fn with_l1(self, l1_entries: u64, file: u64) -> Result<Self, Qcow2Error> {
        let needed = self.size.div_ceil(self.cluster() * self.l2_entries());
        if l1_entries < needed {
            return invalid(format!("its first table has {l1_entries} entries, its size needs {needed}"));
        }
        if needed * 8 > MAX_L1_BYTES {
            return invalid(format!("its first table has {needed} entries, more than any image"));
        }
        if !self.l1_offset.is_multiple_of(self.cluster()) {
            return invalid(format!("its first table is at {}, not at a cluster", self.l1_offset));
        }
        if self.l1_offset.checked_add(needed * 8).is_none_or(|end| end > file) {
            return invalid(format!("its first table at {} does not lie within the file", self.l1_offset));
        }
        Ok(Self { l1_entries: needed, ..self })
    }
}

/// Features without which the content cannot be understood. The dirty bit only says that reference counts may be wrong,
/// which nobody who only reads needs.
fn check_features(features: u64) -> Result<(), Qcow2Error> {
    if features & CORRUPT != 0 {
        return refused("is marked as corrupt: repair it with qemu-img check -r");
    }
    if features & DATA_FILE != 0 {
        return refused("keeps its data in another file: flatten it with qemu-img convert");
    }
    if features & EXTENDED_L2 != 0 {
        return refused("has extended L2 entries (subclusters): convert it without extended_l2");
    }
    match features & !(DIRTY | COMPRESSION_TYPE) {
        0 => Ok(()),
        unknown => refused(format!("needs features that are not known here (bits {unknown:#x})")),
    }
}

fn packing(features: u64, kind: Option<u8>) -> Result<Packing, Qcow2Error> {
    match (features & COMPRESSION_TYPE != 0, kind) {
        (false, None | Some(0)) => Ok(Packing::Deflate),
        (true, Some(1)) => Ok(Packing::Zstd),
        (true, Some(kind)) if kind > 1 => {
            refused(format!("is compressed in a way that is not known here (type {kind})"))
        }
        (flag, kind) => {
            invalid(format!("its compression type {kind:?} contradicts its feature bit ({flag})"))
        }
    }
}

/// Walks the extensions between the header and the end of its cluster. Unknown ones are passed over, as the format says.
fn check_extensions(source: &dyn ReadAt, mut at: u64, end: u64) -> Result<(), Qcow2Error> {
    for _ in 0..MAX_EXTENSIONS {
        // Version 2 files may end their extensions by the end of the cluster.
        if at + 8 > end {
            return Ok(());
        }
        let mut head = [0; 8];
        read(source, at, &mut head)?;
        let [a, b, c, d, e, f, g, h] = head;
        let (kind, length) = (u32::from_be_bytes([a, b, c, d]), u64::from(u32::from_be_bytes([e, f, g, h])));
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_ENCRYPTION => return refused("is encrypted: decrypt it with qemu-img convert"),
            _ => {}
        }
        at += 8 + length.next_multiple_of(8);
        if at > end {
            return invalid(format!("a header extension ({kind:#x}) of {length} bytes leaves its cluster"));
        }
    }
    invalid(format!("it has more than {MAX_EXTENSIONS} header extensions"))
}

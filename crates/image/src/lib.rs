//! Reads, decompresses, verifies and writes disk images; wipes disks; makes and reads config drives.
//!
//! Everything works on a [`BlockDevice`]: a real disk or file, memory, a counting double for benches, or one that fails
//! on purpose. Nothing here is async and nothing speaks to a network: whoever downloads an image feeds it in as a
//! [`std::io::Read`].
//!
//! - [`pipeline`]: source → decompress → write → sync → read back → success, or an error; never silence.
//! - [`checksum`]: what a downloaded file must hash to.
//! - [`qcow2`]: reads qcow2 images.
//! - [`extents`]: what an image that cannot be streamed becomes, for the way from the provider to the agent.
//! - [`gpt`]: the partition table: strict reading, moving the backup to the disk's end, adding a partition.
//! - [`esp`]: the boot loaders on the EFI system partition.
//! - [`cpio`]: archives that the kernel unpacks as its initramfs, or into it.
//! - [`config_drive`]: the NoCloud or config-2 partition at the end of a written disk, and its reader.
//! - [`mod@wipe`]: cleaning by writing, with evidence; markers for disks that erase themselves.
//! - [`test_image`]: small real images for the demo and the tests.

pub mod checksum;
pub mod config_drive;
pub mod cpio;
mod device;
pub mod esp;
pub mod extents;
pub mod gpt;
pub mod pipeline;
pub mod qcow2;
pub mod test_image;
pub mod wipe;

pub use checksum::{Checksum, ChecksumAlgorithm, ChecksumError};
pub use config_drive::{
    ConfigDrive, ConfigDriveError, OpenStackDrive, fit_partition_table, read_config_drive,
    read_openstack_drive, write_config_drive,
};
pub use device::{
    BlockDevice, BlockStore, CountingDevice, DeviceCounts, DirectDisk, Faults, FaultyDevice, FileDevice,
    MemDevice, Region,
};
pub use esp::{Arch, Esp, EspError};
pub use gpt::{GptError, Partition, PartitionTable, check_bootable};
pub use pipeline::{
    Compression, ContentHash, ImageError, NotAHash, Progress, Stage, Throttle, Unpacker, WriteOptions,
    Written, clear_end, prove_image, write_image,
};
pub use qcow2::{Qcow2, Qcow2Error};
pub use test_image::{TestImage, build_test_image, build_test_image_file, qcow2_of, read_marker};
pub use wipe::{Markers, WipeError, WipeEvidence, WipeMode, deallocate, wipe};

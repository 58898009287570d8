//! A real drive: what the kernel says of it, and a way to send it commands.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use ferric_agent::erase::{
    CommandError, Drive, Interface, Queue,
    ata::{self, Registers},
    nvme::AdminCommand,
};

use super::{ioctl, sysfs};

/// A disk that commands are sent to. It is opened beside the one that is read and written, which is opened exclusively.
pub(super) struct RealDrive {
    file: File,
    interface: Interface,
    queue: Queue,
}

impl RealDrive {
    /// Opens a disk such as `/dev/sda`; `sys` is `/sys`.
    pub(super) fn open(sys: &Path, path: &Path) -> io::Result<Self> {
        let block = sys.join("block").join(sysfs::name(path));
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, interface: interface(&block), queue: queue(&block) })
    }
}

/// What the disk of a folder of `/sys/block` understands. ATA commands go only where the SCSI layer has an ATA drive: it
/// says so in the vendor's place (SAT-4, 10.3.2), and others might take them for something else.
pub(super) fn interface(block: &Path) -> Interface {
    if sysfs::name(block).starts_with("nvme") {
        return sysfs::number(block.join("nsid"))
            .map_or(Interface::Other, |namespace| Interface::Nvme { namespace });
    }
    match sysfs::text(block.join("device/vendor")).as_str() {
        "ATA" => Interface::Ata,
        _ => Interface::Other,
    }
}

fn queue(block: &Path) -> Queue {
    let queue = block.join("queue");
    Queue {
        rotational: sysfs::flag(queue.join("rotational")),
        discard_max_bytes: sysfs::number(queue.join("discard_max_bytes")).unwrap_or(0),
        write_zeroes_max_bytes: sysfs::number(queue.join("write_zeroes_max_bytes")).unwrap_or(0),
    }
}

impl Drive for RealDrive {
    fn interface(&self) -> Interface {
        self.interface
    }

    fn queue(&self) -> Queue {
        self.queue
    }

    fn nvme(&mut self, command: &AdminCommand, data: &mut [u8]) -> Result<u32, CommandError> {
        ioctl::nvme(&self.file, command, data)
    }

    fn ata(&mut self, command: &ata::Command, data: &mut [u8]) -> Result<Registers, CommandError> {
        ioctl::ata(&self.file, command, data)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_drive() {
        let root = tempfile::tempdir().unwrap();
        let block = |name: &str, files: &[(&str, &str)]| {
            let block = root.path().join("block").join(name);
            for (file, text) in files {
                let path = block.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            (interface(&block), queue(&block))
        };
        let (interface, queue) = block(
            "nvme0n3",
            &[
                ("nsid", "3\n"),
                ("queue/rotational", "0\n"),
                ("queue/discard_max_bytes", "2199023255040\n"),
                ("queue/write_zeroes_max_bytes", "131072\n"),
            ],
        );
        assert_eq!(interface, Interface::Nvme { namespace: 3 });
        let expected = Queue {
            rotational: false,
            discard_max_bytes: 2_199_023_255_040,
            write_zeroes_max_bytes: 131_072,
        };
        assert_eq!(queue, expected);
        let (interface, queue) =
            block("sda", &[("device/vendor", "ATA     \n"), ("queue/rotational", "1\n")]);
        assert_eq!((interface, queue), (Interface::Ata, Queue { rotational: true, ..Queue::default() }));
        assert_eq!(block("sdb", &[("device/vendor", "DELL\n")]).0, Interface::Other);
        assert_eq!(block("vda", &[("device/vendor", "0x1af4\n")]).0, Interface::Other);
        assert_eq!(block("nvme9n1", &[("size", "1\n")]).0, Interface::Other);
    }
}

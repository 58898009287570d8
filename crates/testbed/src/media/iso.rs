//! The template of a host's ISO: GRUB for BIOS and for UEFI, kernel, initramfs, and room for the host's own
//! configuration of GRUB, which lies in one piece so that the provider can replace it while it sends the image.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::fat::efi_image;
use super::manifest::Region;
use super::packages::run;
use crate::error::{Error, Result};

/// Room for a host's configuration.
pub(super) const ROOM: usize = 4096;
/// Bytes of a sector of a CD.
const SECTOR: usize = 2048;
/// The date of everything on the medium: 1 January 2020. There is no other that the same inputs would give again.
const DATE: u64 = 1_577_836_800;

/// What GRUB does first. It came from the medium, and `$root` is that medium: nothing is searched for, since a disk of
/// the machine could hold a file of any name.
const FIRST: &str = "set prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n";

/// What is in the place of the host's configuration.
const TEMPLATE: &str = "# Template of a boot medium.\n\
echo 'This medium is a template: the provider writes the boot data of a host into it.'\n\
sleep 60\n\
reboot\n";

const MODULES: &[&str] =
    &["iso9660", "normal", "configfile", "linux", "echo", "test", "sleep", "reboot", "serial", "terminal"];
const MODULES_BIOS: &[&str] = &["biosdisk"];
const MODULES_EFI: &[&str] = &["all_video"];

/// Unpacked packages.
pub(super) struct Grub {
    /// grub-common
    pub(super) common: PathBuf,
    /// grub-pc-bin
    pub(super) bios: PathBuf,
    /// grub-efi-amd64-bin
    pub(super) efi: PathBuf,
}

/// Writes the template, and returns where the host's configuration goes.
pub(super) fn write(folder: &Path, work: &Path, grub: &Grub) -> Result<Region> {
    let tree = work.join("iso");
    let boot = tree.join("boot/grub");
    std::fs::create_dir_all(&boot).map_err(Error::file("create", &boot))?;
    let placeholder = placeholder();
    let put = |name: &str, content: &[u8]| {
        let path = tree.join("boot").join(name);
        std::fs::write(&path, content).map_err(Error::file("write", &path))
    };
    put("grub/grub.cfg", &placeholder)?;
    put("grub/bios.img", &core(work, grub, "i386-pc-eltorito")?)?;
    let loader = core(work, grub, "x86_64-efi")?;
    let efi = efi_image(&loader).ok_or_else(|| {
        Error::malformed("the EFI image of GRUB", format!("its {} bytes do not fit a FAT12", loader.len()))
    })?;
    put("grub/efi.img", &efi)?;
    for name in ["vmlinuz", "initrd.img"] {
        let (from, to) = (folder.join(name), tree.join("boot").join(name));
        std::fs::copy(&from, &to).map_err(Error::file("copy", &from))?;
    }
    date(&tree)?;
    let iso = folder.join("agent.iso");
    run(Command::new("xorriso")
        .env("SOURCE_DATE_EPOCH", DATE.to_string())
        .args(["-as", "mkisofs", "-quiet", "-r", "-V", "FERRIC_AGENT", "-o"])
        .arg(&iso)
        .args(["-c", "boot/boot.cat"])
        .args(["-b", "boot/grub/bios.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"])
        .args(["--grub2-boot-info", "-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot"])
        .arg(&tree))?;
    let content = std::fs::read(&iso).map_err(Error::file("read", &iso))?;
    find(&content, &placeholder).ok_or_else(|| {
        Error::malformed(iso.display().to_string(), "its grub.cfg is not there once and in one piece")
    })
}

fn placeholder() -> Vec<u8> {
    let mut bytes = TEMPLATE.as_bytes().to_vec();
    bytes.resize(ROOM, b'\n');
    bytes
}

/// The one place where the placeholder lies.
fn find(iso: &[u8], placeholder: &[u8]) -> Option<Region> {
    let mut found = (0..iso.len()).step_by(SECTOR).filter(|at| iso[*at..].starts_with(placeholder));
    let offset = found.next()? as u64;
    found.next().is_none().then_some(Region { offset, length: placeholder.len() as u64 })
}

/// GRUB for one platform, with all that it needs in one file.
fn core(work: &Path, grub: &Grub, format: &str) -> Result<Vec<u8>> {
    let (package, folder, modules) = match format {
        "x86_64-efi" => (&grub.efi, "x86_64-efi", MODULES_EFI),
        _ => (&grub.bios, "i386-pc", MODULES_BIOS),
    };
    let first = work.join("first.cfg");
    std::fs::write(&first, FIRST).map_err(Error::file("write", &first))?;
    let image = work.join(format!("{format}.img"));
    let program = grub.common.join("usr/bin/grub-mkimage");
    run(Command::new(&program)
        .args(["-O", format, "-p", "/boot/grub", "-c"])
        .arg(&first)
        .arg("-d")
        .arg(package.join("usr/lib/grub").join(folder))
        .arg("-o")
        .arg(&image)
        .args(MODULES)
        .args(modules))
    .map_err(|error| match error {
        // It is not installed, so apt did not see to its libraries.
        Error::Command { stderr, .. } if stderr.contains("shared librar") => Error::Assets(format!(
            "grub-mkimage does not run ({stderr}); install its libraries: apt-get install libdevmapper1.02.1 liblzma5"
        )),
        other => other,
    })?;
    std::fs::read(&image).map_err(Error::file("read", &image))
}

/// Gives everything below `folder` the same date.
fn date(folder: &Path) -> Result<()> {
    let times = {
        let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(DATE);
        std::fs::FileTimes::new().set_accessed(date).set_modified(date)
    };
    for entry in std::fs::read_dir(folder).map_err(Error::file("read", folder))? {
        let path = entry.map_err(Error::file("read", folder))?.path();
        if path.is_dir() {
            date(&path)?;
        } else {
            let file = std::fs::File::open(&path).map_err(Error::file("open", &path))?;
            file.set_times(times).map_err(Error::file("date", &path))?;
        }
    }
    let file = std::fs::File::open(folder).map_err(Error::file("open", folder))?;
    file.set_times(times).map_err(Error::file("date", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placeholder_must_lie_once_and_in_one_piece() {
        let placeholder = placeholder();
        assert_eq!(placeholder.len(), ROOM);
        let mut iso = vec![0; 20 * SECTOR];
        assert_eq!(find(&iso, &placeholder), None);
        iso[3 * SECTOR..3 * SECTOR + ROOM].copy_from_slice(&placeholder);
        assert_eq!(find(&iso, &placeholder), Some(Region { offset: 3 * 2048, length: 4096 }));
        let mut twice = iso.clone();
        twice[9 * SECTOR..9 * SECTOR + ROOM].copy_from_slice(&placeholder);
        assert_eq!(find(&twice, &placeholder), None);
        iso.copy_within(4 * SECTOR..5 * SECTOR, 6 * SECTOR);
        iso[4 * SECTOR..5 * SECTOR].fill(0);
        assert_eq!(find(&iso, &placeholder), None);
    }
}

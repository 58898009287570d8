//! What a boot takes without us: an init that prints one line.

use std::{fs, path::Path, process::Command};

use crate::Result;

/// What it prints.
pub const LINE: &str = "bare: up";

/// Makes an initramfs that holds nothing but that init.
pub fn initramfs(folder: &Path) -> Result<Vec<u8>> {
    let (source, program) = (folder.join("init.c"), folder.join("init"));
    fs::write(
        &source,
        format!(
            "#include <unistd.h>\nint main(void) {{ write(1, \"{LINE}\\n\", {}); for (;;) pause(); }}\n",
            LINE.len() + 1
        ),
    )?;
    let status =
        Command::new("cc").args(["-w", "-static", "-Os", "-s", "-o"]).arg(&program).arg(&source).status()?;
    if !status.success() {
        return Err(format!("cc: {status}").into());
    }
    let mut archive = Vec::new();
    entry(&mut archive, "init", 0o100_755, &fs::read(&program)?);
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    Ok(archive)
}

/// An entry of a "new ASCII" archive: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let numbers = [0, mode as usize, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
    archive.extend_from_slice(b"070701");
    numbers.iter().for_each(|number| archive.extend_from_slice(format!("{number:08x}").as_bytes()));
    for part in [[name.as_bytes(), b"\0"].concat().as_slice(), data] {
        archive.extend_from_slice(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

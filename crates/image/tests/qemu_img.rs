//! qcow2 images that QEMU itself made: what is read is what `qemu-img convert` makes of them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use ferric_image::{
    Checksum, ChecksumAlgorithm, MemDevice, Qcow2, WriteOptions, extents, pipeline::Compression,
    qcow2::SizedFile, write_image,
};

/// A folder and QEMU's tool, or nothing where that is not installed; said on the terminal itself, not to the harness.
fn qemu(test: &str) -> Option<tempfile::TempDir> {
    if Command::new("qemu-img").arg("--version").output().is_ok_and(|out| out.status.success()) {
        return Some(tempfile::tempdir().unwrap());
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: qemu-img is not installed (Debian: qemu-utils)");
    None
}

fn run(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Noise, text and holes; a size that ends in the middle of a cluster.
fn raw(folder: &Path) -> PathBuf {
    let mut disk = vec![0u8; (9 << 20) + 512 * 3];
    let mut state = 1u64;
    for (number, part) in disk.chunks_mut(100_000).enumerate() {
        match number % 4 {
            0 => part.iter_mut().for_each(|byte| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }),
            1 => part.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 300) as u8),
            _ => {}
        }
    }
    let path = folder.join("disk.raw");
    fs::write(&path, disk).unwrap();
    path
}

fn open(path: &Path) -> Result<Qcow2, ferric_image::Qcow2Error> {
    Qcow2::open(SizedFile::new(File::open(path).unwrap()).unwrap(), 1 << 40)
}

fn refusal(path: &Path) -> String {
    open(path).err().unwrap().to_string()
}

#[test]
fn what_qemu_converted_is_read_as_it_was() {
    let Some(folder) = qemu("what_qemu_converted_is_read_as_it_was") else { return };
    let raw = raw(folder.path());
    let expected = fs::read(&raw).unwrap();
    let table: [&[&str]; 11] = [
        &["-o", "compat=0.10"],
        &["-o", "compat=1.1"],
        &["-o", "compat=0.10,cluster_size=512"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "preallocation=metadata"],
        &["-c", "-o", "compat=0.10"],
        &["-c", "-o", "compression_type=zlib,cluster_size=4k"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
        &["-c", "-o", "lazy_refcounts=on,cluster_size=512"],
    ];
    for options in table {
        let path = folder.path().join("disk.qcow2");
        let arguments = [&["convert", "-O", "qcow2"], options, &[text(&raw), text(&path)]].concat();
        run("qemu-img", &arguments);
        let mut image = open(&path).unwrap();
        assert_eq!(image.size(), expected.len() as u64, "{options:?}");
        let mut found = vec![0; expected.len()];
        image.read_at(0, &mut found).unwrap();
        assert!(found == expected, "{options:?}");

        // And all the way: to extents, and from there to a disk that was full of other things.
        let source = Checksum::new(ChecksumAlgorithm::Sha256, &"12".repeat(32)).unwrap();
        let mut stream = Vec::new();
        let packed = extents::pack(&mut image, &source, &mut stream, &mut |_, _| Ok(())).unwrap();
        let mut disk = MemDevice::from_bytes(vec![0xa5; expected.len() + 100]);
        let write = WriteOptions::new(packed.checksum, Compression::Extents);
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        let written = write_image(&mut stream.as_slice(), &mut disk, &write, go_on).unwrap();
        assert_eq!(written.content.to_string(), format!("sha256:{}", packed.content_sha256));
        assert!(disk.to_bytes()[..expected.len()] == expected, "{options:?}");
    }
}

#[test]
fn zero_clusters_discards_and_snapshots_of_a_real_life_are_read() {
    let Some(folder) = qemu("zero_clusters_discards_and_snapshots_of_a_real_life_are_read") else { return };
    if Command::new("qemu-io").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED zero clusters: qemu-io is not installed");
        return;
    }
    let path = folder.path().join("disk.qcow2");
    run("qemu-img", &["create", "-f", "qcow2", text(&path), "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x11 0 3M", "-c", "write -P 0x22 5M 1M", text(&path)]);
    run("qemu-img", &["snapshot", "-c", "before", text(&path)]);
    let changes = [
        "write -z 64k 128k",
        "write -zu 1M 256k",
        "discard 2M 512k",
        "write -P 0x33 5M 300",
        "write -P 0x44 7M 64k",
    ];
    let commands: Vec<&str> = changes.iter().flat_map(|change| ["-c", change]).collect();
    run("qemu-io", &[&["-f", "qcow2"], commands.as_slice(), &[text(&path)]].concat());
    let raw = folder.path().join("disk.raw");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&path), text(&raw)]);
    let mut found = vec![0; 8 << 20];
    open(&path).unwrap().read_at(0, &mut found).unwrap();
    assert!(found == fs::read(&raw).unwrap());
    assert_eq!((found[0], found[70_000], found[5 << 20], found[7 << 20]), (0x11, 0, 0x33, 0x44));
}

#[test]
fn what_qemu_would_need_more_for_is_refused() {
    let Some(folder) = qemu("what_qemu_would_need_more_for_is_refused") else { return };
    let base = folder.path().join("base.qcow2");
    run("qemu-img", &["create", "-f", "qcow2", text(&base), "8M"]);
    let path = folder.path().join("disk.qcow2");
    run("qemu-img", &["create", "-f", "qcow2", "-b", text(&base), "-F", "qcow2", text(&path)]);
    assert!(refusal(&path).contains("backing file"));
    run("qemu-img", &["create", "-f", "qcow2", "-o", "extended_l2=on", text(&path), "8M"]);
    assert!(refusal(&path).contains("subclusters"));
    let data = format!("data_file={}", text(&folder.path().join("data")));
    run("qemu-img", &["create", "-f", "qcow2", "-o", &data, text(&path), "8M"]);
    assert!(refusal(&path).contains("another file"));
    let secret = ["--object", "secret,id=s,data=geheim"];
    // Not LUKS: qemu-img would time its key derivation, which fails on a busy machine.
    let aes = ["-o", "encrypt.format=aes,encrypt.key-secret=s", text(&path), "8M"];
    run("qemu-img", &[["create"].as_slice(), &secret, &["-f", "qcow2"], &aes].concat());
    assert!(refusal(&path).contains("encrypted"));
    fs::write(&path, fs::read(raw(folder.path())).unwrap()).unwrap();
    assert!(refusal(&path).contains("is not qcow2"));
    let error = Qcow2::open(SizedFile::new(File::open(&base).unwrap()).unwrap(), 1 << 20).err().unwrap();
    assert!(error.to_string().contains("8388608 bytes, more than the 1048576"), "{error}");
}

//! Images and disks that cannot become a server: a clear error with numbers, and never `provisioned`.

use ferric_testbed::lab::domain::{DiskBus, DiskSpec, ServerSpec};
use ferric_testbed::stack::Trouble;
use ferric_testbed::stack::disk::sha256;

use crate::bench::{DISK, MIB, Row, Wanted, disk, lab, server};

row!(wrong_images_never_become_provisioned, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    row.enrol().await;
    let from = row.server().serial_end();
    let good = Wanted::served(&row.stack);
    let folder = tempfile::tempdir().unwrap();

    let wrong = "0".repeat(64);
    row.ask_for("marker-wrong", &Wanted { sha256: wrong.clone(), ..Wanted::served(&row.stack) }).await;
    row.fails_with(&[&wrong, &good.sha256]).await;

    // As large as its server says, and not what the checksum was made of.
    let bytes = std::fs::read(&row.stack.image.path).unwrap();
    let half = folder.path().join("half.raw");
    std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let (_images, truncated) = Wanted::of(&half, "raw").await;
    row.ask_for("marker-wrong", &Wanted { sha256: good.sha256.clone(), ..truncated }).await;
    row.fails_with(&[&good.sha256, &sha256(&half).unwrap()]).await;

    // The server breaks off each time.
    let broken = folder.path().join("broken.raw");
    std::fs::copy(&row.stack.image.path, &broken).unwrap();
    let (images, broken) = Wanted::of(&broken, "raw").await;
    images.set_trouble(Trouble::BreakAfter(5 * MIB));
    row.ask_for("marker-wrong", &broken).await;
    row.fails_with(&["broken.raw"]).await;

    let large = folder.path().join("large.raw");
    let file = std::fs::File::create(&large).unwrap();
    file.set_len(DISK + MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    let (_images, large) = Wanted::of(&large, "raw").await;
    row.ask_for("marker-wrong", &large).await;
    row.fails_with(&[&DISK.to_string(), &(DISK + MIB).to_string()]).await;

    assert!(!row.server().serial_from(from).contains("tiny:"));
    row.provision("marker-right", &good).await;
    row.holds(&row.stack.image.path);
    row.stop().await;
});

row!(a_disk_with_io_errors_never_becomes_provisioned, async {
    // Where the kernel is in the image. libvirt, and so the BMC, knows the second disk only.
    let broken = DiskSpec { broken_sector: Some(12 * MIB / 512), ..disk(DiskBus::Nvme, "disk-a") };
    let spec = ServerSpec { disks: vec![broken, disk(DiskBus::Virtio, "disk-b")], ..server() };
    let mut row = Row::start(lab(vec![spec]).await).await;
    row.enrol().await;
    let from = row.server().serial_end();
    let wanted = Wanted::served(&row.stack);
    row.ask_for("marker-broken", &wanted).await;
    let message = row.fails_with(&["writing the image failed"]).await;
    assert!(message.contains("/dev/nvme0n1"), "the disk is not in {message:?}");
    assert!(!row.server().serial_from(from).contains("tiny:"));
    row.stop().await;
});

//! Which disk is written, and what is on it before and after.

use ferric_api::BareMetalHost;
use ferric_testbed::lab::domain::{DiskBus, ServerSpec};
use ferric_testbed::stack::disk::sha256;
use serde_json::json;

use crate::bench::{DISK, Row, Wanted, disk, fill, find, lab, run, server, write_at};

row!(two_disks_and_the_hint_chooses_the_nvme, async {
    let spec = ServerSpec {
        disks: vec![disk(DiskBus::Nvme, "nvme-b"), disk(DiskBus::Virtio, "disk-a")],
        hints: vec![("serialNumber".to_owned(), "nvme-b".to_owned())],
        ..server()
    };
    let mut row = Row::start(lab(vec![spec]).await).await;
    row.enrol().await;
    // What an operator keeps there.
    write_at(row.disk(1), 0, &[0xA5; 4096]);
    write_at(row.disk(1), DISK - 4096, &[0x5A; 4096]);
    let before = sha256(row.disk(1)).unwrap();
    let wanted = Wanted::served(&row.stack);
    let printed = row.provision("marker-nvme", &wanted).await;
    assert!(printed.contains("disk nvme-b"), "{printed}");
    row.holds(&row.stack.image.path);
    assert_eq!(sha256(row.disk(1)).unwrap(), before, "the other disk was written");
    row.stop().await;
});

row!(a_sparse_image_over_old_data_is_whole, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    // Metadata goes when the host is enrolled; everything else is still there when the image is written.
    fill(row.disk(0), 0xA5);
    row.enrol().await;
    let image = row.stack.image.path.clone();
    let wanted = Wanted::served(&row.stack);
    row.provision("marker-sparse", &wanted).await;
    row.holds(&image);
    row.release().await;
    // The same as qcow2, whose holes are not even in the file.
    let folder = tempfile::tempdir().unwrap();
    let qcow2 = folder.path().join("tiny.qcow2");
    let (from, to) = (image.to_str().unwrap(), qcow2.to_str().unwrap());
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", "-c", from, to]);
    let (_images, wanted) = Wanted::of(&qcow2, "qcow2").await;
    fill(row.disk(0), 0xA5);
    row.provision("marker-qcow2", &wanted).await;
    row.holds(&image);
    row.stop().await;
});

/// What the host's status says of its last cleaning.
fn evidence(host: &BareMetalHost) -> String {
    serde_json::to_string(&host.status.as_ref().unwrap()).unwrap()
}

row!(full_cleaning_leaves_no_marker, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    row.enrol().await;
    let wanted = Wanted::served(&row.stack);
    row.provision("marker-before-cleaning", &wanted).await;
    // In the middle, where metadata is not: what a tenant leaves behind.
    let planted = b"a tenant's secret 0123456789abcdef";
    write_at(row.disk(0), DISK / 2 + 12_345, planted);
    assert!(find(row.disk(0), planted).is_some());
    row.release().await;
    assert!(find(row.disk(0), planted).is_some(), "mode metadata is not known to erase data");
    let told = evidence(&row.host().await);
    assert!(!told.contains("\"erased\""), "mode metadata claims to have erased: {told}");

    row.provision("marker-between", &wanted).await;
    write_at(row.disk(0), DISK / 2 + 12_345, planted);
    row.patch(json!({ "spec": { "automatedCleaningMode": "full" } })).await;
    row.release().await;
    assert_eq!(find(row.disk(0), planted), None, "the marker is still on the disk");
    assert_eq!(find(row.disk(0), b"marker-between"), None, "user data is still on the disk");
    row.story.say("no marker is left on the disk");
    row.provision("marker-after-cleaning", &wanted).await;
    row.holds(&row.stack.image.path);
    row.stop().await;
});

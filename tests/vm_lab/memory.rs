//! Systems that run from memory.

use ferric_testbed::lab::domain::{BmcKind, Firmware, ServerSpec};
use ferric_testbed::lab::images::tiny_kernel;
use ferric_testbed::stack::ImageServer;
use ferric_testbed::stack::disk::sha256;
use serde_json::json;

use crate::bench::{Row, Wanted, done, lab, server};

/// Has the tiny system run from memory on a host that is free. Returns the servers of its files.
pub async fn run(row: &mut Row, marker: &str, firmware: &str) -> [ImageServer; 2] {
    let (kernel, initrd) = done(tiny_kernel().await);
    let (kernels, kernel) = Wanted::of(&kernel, "kernel").await;
    let (initrds, initrd) = Wanted::of(&initrd, "raw").await;
    row.user_data(marker).await;
    let image = json!({
        "url": kernel.url, "checksum": kernel.sha256, "format": kernel.format,
        "initrd": { "url": initrd.url, "checksum": initrd.sha256 },
        "kernelParameters": "console=ttyS0,115200 quiet loglevel=4",
    });
    let from = row.server().serial_end();
    let spec = json!({ "online": true, "image": image, "userData": { "name": "user-data" } });
    row.patch(json!({ "spec": spec })).await;
    let printed = row.runs(marker, from).await;
    for line in [&format!("tiny: up, firmware {firmware}"), "tiny: configured in memory"] {
        assert!(printed.contains(line), "{line:?} is not in what was printed:\n{printed}");
    }
    [kernels, initrds]
}

/// Runs the tiny system from memory, starts it once more, and lets the host go.
async fn ram_only(spec: ServerSpec, proxy: bool, marker: &str, firmware: &str) {
    // The power is looked at often, so that it is soon seen to be gone.
    let mut builder = lab(vec![spec]).await.manager_flag("power-poll-seconds", "10");
    if proxy {
        builder = builder.manager_flag("boot-methods", "pxe");
        builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
    }
    let mut row = Row::start(builder).await;
    row.enrol().await;
    let before = sha256(row.disk(0)).unwrap();
    let _files = run(&mut row, marker, firmware).await;

    let from = row.server().serial_end();
    done(row.server().cut_power().await);
    row.story.say("its power was cut; the provider switches it on again");
    row.runs(marker, from).await;
    assert_eq!(sha256(row.disk(0)).unwrap(), before, "the disk was written");
    row.story.say("the disk is as it was");
    row.release().await;
    row.stop().await;
}

row!(ram_only_from_virtual_media, async {
    ram_only(server(), false, "marker-memory-media", "UEFI").await;
});

row!(ram_only_by_bios_pxe, async {
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::RedfishWithoutMedia, ..server() };
    ram_only(spec, true, "marker-memory-pxe", "BIOS").await;
});

row!(ram_only_by_uefi_pxe, async {
    let spec = ServerSpec { bmc: BmcKind::RedfishWithoutMedia, ..server() };
    ram_only(spec, true, "marker-memory-uefi-pxe", "UEFI").await;
});

//! A provisioned server that boots from the network and was not told to goes on to its disk.

use std::time::Instant;

use ferric_testbed::lab::domain::{BmcKind, Firmware, ServerSpec};
use ferric_testbed::lab::wait_for_serial;

use crate::bench::{LIMIT, Row, Wanted, counted, done, lab, server};

/// A provisioned server whose boot order begins with the network comes up from its disk; how long that takes is told.
async fn comes_up_from_its_disk(spec: ServerSpec, marker: &str) {
    let builder = lab(vec![spec]).await;
    let builder = builder.manager_flag("boot-methods", "pxe");
    let builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
    let mut row = Row::start(builder).await;
    row.enrol().await;
    let wanted = Wanted::served(&row.stack);
    row.provision(marker, &wanted).await;

    let from = row.server().serial_end();
    done(row.server().switch_off().await);
    let begun = Instant::now();
    done(row.server().boot_from_network().await);
    done(wait_for_serial(row.server(), from, "tiny: up", LIMIT).await);
    let took = begun.elapsed().as_secs_f64();
    row.story
        .say(&format!("uninvited: from power-on, network first, to the system on the disk: {took:.1} s"));
    let printed = row.server().serial_from(from);
    assert!(!printed.contains("ferric:"), "the agent was booted:\n{printed}");
    let asked = counted(&row.stack, "ferric_network_boots_total{result=\"uninvited\"}").await;
    assert_ne!(asked, 0, "it did not ask for a network boot");
    let host = row
        .reach("told of an uninvited boot", |host| {
            host.status.as_ref().is_some_and(|status| status.uninvited_boots.is_some())
        })
        .await;
    assert_eq!(host.status.unwrap().uninvited_boots.unwrap().count, 1, "{asked} messages are one boot");
    row.stop().await;
}

row!(a_provisioned_uefi_server_goes_on_to_its_disk, async {
    let spec = ServerSpec { bmc: BmcKind::RedfishWithoutMedia, ..server() };
    comes_up_from_its_disk(spec, "marker-uninvited-uefi").await;
});

row!(a_provisioned_bios_server_goes_on_to_its_disk, async {
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::RedfishWithoutMedia, ..server() };
    comes_up_from_its_disk(spec, "marker-uninvited-bios").await;
});

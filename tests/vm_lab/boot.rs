//! Ways to boot, and not to boot: a server that was not told to boot from the network and does.

use std::time::Instant;

use ferric_testbed::lab::domain::{BmcKind, Firmware, ServerSpec};
use ferric_testbed::lab::wait_for_serial;
use ferric_testbed::stack::disk::sha256;

use crate::bench::{LIMIT, Row, Wanted, counted, done, lab, server, waits_for};
use crate::memory;

/// Boots the agent, has the image written, boots it, and lets the host go. One that boots by PXE is also started from the
/// network without having been told to.
async fn life(spec: ServerSpec, proxy: bool, marker: &str, firmware: &str) -> Row {
    let by_redfish = spec.bmc != BmcKind::Ipmi;
    let mut builder = lab(vec![spec]).await;
    if proxy {
        // The emulator's UEFI HTTP boot would be the better one.
        builder = builder.manager_flag("boot-methods", "pxe");
        builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
        // The provider is not to find that the power is gone, and switch it on to boot from the disk.
        builder = builder.manager_flag("power-poll-seconds", "0");
    }
    let mut row = Row::start(builder).await;
    row.enrol().await;
    let wanted = Wanted::served(&row.stack);
    let printed = row.provision(marker, &wanted).await;
    assert!(printed.contains(&format!("tiny: up, firmware {firmware}")), "{printed}");
    if firmware == "UEFI" {
        // The firmware started the option that the agent made for the fallback loader, which is all that the tiny system
        // has.
        let record = row.host().await.spec.record.unwrap();
        let entry = record.image.unwrap().boot_entry.unwrap_or_default();
        assert!(entry.ends_with("\\EFI\\BOOT\\BOOTX64.EFI"), "{entry:?}");
        let (option, _) = entry.split_once(' ').unwrap();
        assert!(printed.contains(&format!("starting {option} \"Ferric: BOOT\"")), "{printed}");
    }
    row.holds(&row.stack.image.path);
    if proxy {
        let boots = counted(&row.stack, "ferric_network_boots_total{result=\"boot\"}").await;
        assert_ne!(boots, 0, "no boot from the network was counted");
        // It is told so by Redfish.
        if by_redfish {
            goes_on_to_its_disk(&mut row).await;
        }
    }
    row.release().await;
    row
}

/// A provisioned server that tries all its network entries before its disk comes up from that; how long it takes is told.
async fn goes_on_to_its_disk(row: &mut Row) {
    let from = row.server().serial_end();
    done(row.server().cut_power().await);
    let begun = Instant::now();
    done(row.server().boot_from_network().await);
    done(wait_for_serial(row.server(), from, "tiny: done", LIMIT).await);
    let took = begun.elapsed().as_secs_f64();
    row.story.say(&format!("uninvited: from power-on to the system on the disk: {took:.1} s"));
    let printed = row.server().serial_from(from);
    assert!(!printed.contains("ferric-agent"), "the agent was booted:\n{printed}");
    let macs = row.server().macs();
    let tried: &[&str] = match row.server().spec.firmware {
        Firmware::Uefi => &["PXEv4", "PXEv6", "HTTPv4", "HTTPv6"],
        Firmware::Bios => &[],
    };
    for (entry, mac) in tried.iter().flat_map(|entry| macs.iter().map(move |mac| (entry, mac))) {
        let entry = format!("UEFI {entry} (MAC:{})", mac.replace(':', "").to_uppercase());
        assert!(printed.contains(&entry), "{entry} was not tried:\n{printed}");
    }
    let asked = counted(&row.stack, "ferric_network_boots_total{result=\"uninvited\"}").await;
    assert_ne!(asked, 0, "it did not ask for a network boot");
    let host = row
        .reach("told of an uninvited boot", |host| {
            host.status.as_ref().is_some_and(|status| status.uninvited_boots.is_some())
        })
        .await;
    assert_eq!(host.status.unwrap().uninvited_boots.unwrap().count, 1, "{asked} messages are one boot");
}

row!(uefi_http_boot, async {
    let spec = ServerSpec { bmc: BmcKind::Redfish("redfish-uefihttp"), ..server() };
    let mut row = life(spec, false, "marker-uefi-http", "UEFI").await;
    // The next one runs from memory only.
    let before = sha256(row.disk(0)).unwrap();
    let _files = memory::run(&mut row, "marker-memory-http", "UEFI").await;
    assert_eq!(sha256(row.disk(0)).unwrap(), before, "the disk was written");
    row.stop().await;
});

row!(bios_pxe_beside_a_foreign_dhcp_server, async {
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::RedfishWithoutMedia, ..server() };
    life(spec, true, "marker-bios-pxe", "BIOS").await.stop().await;
});

row!(uefi_pxe_beside_a_foreign_dhcp_server, async {
    let spec = ServerSpec { bmc: BmcKind::RedfishWithoutMedia, ..server() };
    life(spec, true, "marker-uefi-pxe", "UEFI").await.stop().await;
});

// No Redfish at all: power and boot device by IPMI, the agent by PXE.
row!(ipmi_and_bios_pxe, async {
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::Ipmi, ..server() };
    life(spec, true, "marker-ipmi", "BIOS").await.stop().await;
});

// No BMC at all: woken by its network card, switched off by the agent, and by a person while its own system runs.
row!(wake_on_lan, async {
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::WakeOnLan, ..server() };
    let builder = lab(vec![spec]).await.manager_flag("dhcp-mode", "proxy");
    let mut row = Row::start(builder.manager_flag("dhcp-interface", "lab0")).await;
    row.enrol().await;
    row.is_free().await;
    let wanted = Wanted::served(&row.stack);
    row.provision("marker-wol", &wanted).await;
    row.holds(&row.stack.image.path);
    let before = sha256(row.disk(0)).unwrap();
    row.take_back().await;
    row.reach("waiting for a person", |host| waits_for(host).contains("shut down by hand")).await;
    assert_eq!(sha256(row.disk(0)).unwrap(), before, "the disk was wiped while its system ran");
    done(row.server().cut_power().await);
    row.is_free().await;
    assert_ne!(sha256(row.disk(0)).unwrap(), before, "nothing was wiped");
    row.stop().await;
});

//! Ways to boot.

use ferric_testbed::lab::domain::{BmcKind, Firmware, ServerSpec};

use crate::bench::{Row, Wanted, counted, lab, server};

/// Boots the agent, has the image written, boots it, and lets the host go.
async fn life(spec: ServerSpec, proxy: bool, marker: &str, firmware: &str) {
    let mut builder = lab(vec![spec]).await;
    if proxy {
        // The emulator's UEFI HTTP boot would be the better one.
        builder = builder.manager_flag("boot-methods", "pxe");
        builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
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
    }
    row.release().await;
    row.stop().await;
}

row!(uefi_http_boot, async {
    let spec = ServerSpec { bmc: BmcKind::Redfish("redfish-uefihttp"), ..server() };
    life(spec, false, "marker-uefi-http", "UEFI").await;
});

row!(bios_pxe_beside_a_foreign_dhcp_server, async {
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::RedfishWithoutMedia, ..server() };
    life(spec, true, "marker-bios-pxe", "BIOS").await;
});

row!(uefi_pxe_beside_a_foreign_dhcp_server, async {
    let spec = ServerSpec { bmc: BmcKind::RedfishWithoutMedia, ..server() };
    life(spec, true, "marker-uefi-pxe", "UEFI").await;
});

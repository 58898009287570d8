//! Machines that boot from the network and were not told to: those that are enrolled go on to their disks, those that are
//! not are discovered where that is wanted.

use std::time::Instant;

use ferric_api::hardware::HardwareData;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::lab::domain::{BmcKind, Firmware, ServerSpec};
use ferric_testbed::lab::stack::wait_for;
use ferric_testbed::lab::wait_for_serial;
use kube::Api;
use serde_json::json;

use crate::bench::{HOST, LIMIT, NAMESPACE, Row, Wanted, counted, done, lab, server, state, waits_for};

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

row!(a_machine_that_nobody_enrolled_is_discovered_and_taken_in, async {
    let spec = ServerSpec { bmc: BmcKind::RedfishWithoutMedia, ..server() };
    let builder = lab(vec![spec]).await;
    let builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
    let row = Row::start(builder.manager_flag("discover-hosts-in", NAMESPACE)).await;
    done(row.server().boot_from_network().await);
    let name = format!("discovered-{}", row.server().mac().replace(':', ""));
    let hosts: Api<ferric_api::BareMetalHost> = Api::namespaced(row.stack.bed.client(), NAMESPACE);
    let found = wait_for("the machine to be discovered", LIMIT, async || {
        let host = hosts.get(&name).await.map_err(|error| error.to_string())?;
        if waits_for(&host).contains("approval") { Ok(host) } else { Err(waits_for(&host).to_owned()) }
    });
    let found = done(found.await);
    row.story.say(&format!("discovered: {:?}", found.spec.description));
    assert_eq!(state(&found), State::Unmanaged);
    let data: Api<HardwareData> = Api::namespaced(row.stack.bed.client(), NAMESPACE);
    let hardware = data.get(&name).await.unwrap().spec.hardware.unwrap();
    assert!(
        hardware.nics.len() == 2 && !hardware.storage.is_empty() && hardware.ram_mebibytes > 0,
        "{hardware:?}"
    );
    let server = row.server();
    let off = wait_for("the machine to be off", LIMIT, async || match server.is_on().await {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    done(off.await);
    row.story.say("the machine is off");

    // An operator takes it in, with the Secret of its BMC, and it goes the way of all hosts.
    let manifest = server.manifest();
    let (secret, host) = manifest.split_once("---\napiVersion: infrastructure").unwrap();
    done(row.stack.bed.apply(secret).await);
    let host: serde_json::Value =
        serde_yaml_ng::from_str(&format!("apiVersion: infrastructure{host}")).unwrap();
    let spec = &host["spec"];
    let approved = json!({ "spec": {
        "approval": "Approved", "bmc": spec["bmc"], "rootDeviceHints": spec["rootDeviceHints"],
    } });
    row.patch_named(&name, approved).await;
    let taken = wait_for("the host to be available", LIMIT, async || {
        let host = hosts.get(&name).await.map_err(|error| error.to_string())?;
        if state(&host) == State::Available { Ok(()) } else { Err(waits_for(&host).to_owned()) }
    });
    done(taken.await);
    row.story.say(&format!("{HOST} is available as {name}"));
    row.stop().await;
});

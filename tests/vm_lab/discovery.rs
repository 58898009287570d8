//! Machines that boot from the network and that nobody enrolled, where the operator wants to be told of them. That they get
//! nothing elsewhere is in `strangers`.

use ferric_api::hardware::HardwareData;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::lab::domain::{BmcKind, ServerSpec};
use ferric_testbed::lab::stack::wait_for;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::bench::{HOST, LIMIT, NAMESPACE, Row, done, lab, server, state, waits_for};

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
    hosts.patch(&name, &PatchParams::default(), &Patch::Merge(&approved)).await.unwrap();
    let taken = wait_for("the host to be available", LIMIT, async || {
        let host = hosts.get(&name).await.map_err(|error| error.to_string())?;
        if state(&host) == State::Available { Ok(()) } else { Err(waits_for(&host).to_owned()) }
    });
    done(taken.await);
    row.story.say(&format!("{HOST} is available as {name}"));
    row.stop().await;
});

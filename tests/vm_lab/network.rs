//! Networks that a host names for its agent.

use std::path::Path;
use std::time::Duration;

use ferric_api::host::ProvisioningState as State;
use ferric_testbed::process::{Process, ProcessSpec};
use serde_json::json;

use crate::bench::{NAMESPACE, Row, Wanted, done, lab, run, server, state};

/// A network of the lab's own machine that is reached with a VLAN's tag only. The bridge lets tagged frames through as they
/// are, and no interface of this machine takes them but the one that is made here.
async fn tagged(log: &Path, vlan: &str, address: &str) -> Process {
    let spec = ProcessSpec::new("vlan", "/usr/bin/python3", log).args(["-c", include_str!("vlan.py"), vlan]);
    let mut process = done(Process::spawn(spec));
    let ready = process.wait_ready("the ports of the VLAN", Duration::from_secs(30), async || {
        let there = ["trunk0", "access0"].map(|name| Path::new("/sys/class/net").join(name).exists());
        if there == [true, true] { Ok(()) } else { Err(format!("{there:?}")) }
    });
    done(ready.await);
    run("ip", &["link", "set", "trunk0", "master", "lab0", "up"]);
    run("ip", &["address", "add", address, "dev", "access0"]);
    run("ip", &["link", "set", "access0", "up"]);
    process
}

row!(a_vlan_on_a_bond_with_a_static_address, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    let mut switch = tagged(&row.stack.bed.dir().join("vlan.log"), "12", "10.77.12.1/24").await;
    let macs = row.server().macs().to_vec();
    let network = json!({
        "links": [
            { "id": "nic0", "type": "phy", "ethernet_mac_address": macs[0] },
            { "id": "nic1", "type": "phy", "ethernet_mac_address": macs[1] },
            { "id": "bond0", "type": "bond", "bond_links": ["nic0", "nic1"], "bond_mode": "active-backup" },
            { "id": "vlan0", "type": "vlan", "vlan_link": "bond0", "vlan_id": 12 },
        ],
        // Whatever the agent says without the tag is heard by nobody who would answer there.
        "networks": [{
            "id": "net0", "type": "ipv4", "link": "vlan0", "ip_address": "10.77.12.160/24", "gateway": "10.77.12.1",
        }],
        "services": [],
    });
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: agent-network, namespace: {NAMESPACE}}}\n\
         stringData: {{networkData: '{network}'}}\n"
    );
    done(row.stack.bed.apply(&secret).await);
    let host = format!("{}  preprovisioningNetworkDataName: agent-network\n", row.server().manifest());
    done(row.stack.bed.apply(&host).await);
    row.reach("available", |host| state(host) == State::Available).await;
    let printed = row.server().serial_from(0);
    for line in ["v0: 10.77.12.160/24 as given", "(slave eth1): Enslaving as a backup interface"] {
        assert!(printed.contains(line), "{line:?} is not in what was printed:\n{printed}");
    }
    // Both cards are cards of this host, and the image comes through bond and VLAN.
    let wanted = Wanted::served(&row.stack);
    let printed = row.provision("marker-bond", &wanted).await;
    // Nobody claimed the host, so its system gets the same network, in the layout that can say it.
    assert!(printed.contains("tiny: config-2 drive on vda3"), "{printed}");
    assert!(printed.contains("tiny: network data"), "{printed}");
    row.holds(&row.stack.image.path);
    done(switch.check());
    row.stop().await;
});

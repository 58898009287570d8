//! Networks that a host names for its agent.

use serde_json::json;

use crate::bench::{NAMESPACE, Row, Wanted, done, lab, server, state};
use ferric_api::host::ProvisioningState as State;

row!(a_bond_with_a_static_address, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    let macs = row.server().macs().to_vec();
    let network = json!({
        "links": [
            { "id": "nic0", "type": "phy", "ethernet_mac_address": macs[0] },
            { "id": "nic1", "type": "phy", "ethernet_mac_address": macs[1] },
            { "id": "bond0", "type": "bond", "bond_links": ["nic0", "nic1"], "bond_mode": "active-backup" },
        ],
        // An address that no DHCP server of the lab gives.
        "networks": [{ "id": "net0", "type": "ipv4", "link": "bond0", "ip_address": "10.77.0.160/24" }],
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
    for line in ["b0: 10.77.0.160/24 as given", "(slave eth1): Enslaving as a backup interface"] {
        assert!(printed.contains(line), "{line:?} is not in what was printed:\n{printed}");
    }
    // Both cards are cards of this host, and the image comes through the bond.
    let wanted = Wanted::served(&row.stack);
    let printed = row.provision("marker-bond", &wanted).await;
    // Nobody claimed the host, so its system gets the same network, in the layout that can say it.
    assert!(printed.contains("tiny: config-2 drive on vda3"), "{printed}");
    assert!(printed.contains("tiny: network data"), "{printed}");
    row.holds(&row.stack.image.path);
    row.stop().await;
});

//! What a manager says of its own network. Pure.

use std::net::IpAddr;

use ferric_api::MacAddress;
use serde_json::Value;

use super::inspect::is_absent;
use super::json;
use crate::types::ManagerFacts;

/// Facts of a manager and its network ports.
pub(super) fn facts(manager: &Value, ports: &[Value]) -> ManagerFacts {
    let mut found = ManagerFacts {
        shared: json::members(manager, "/Links/ManagerForServers").len() > 1,
        ..ManagerFacts::default()
    };
    for port in ports.iter().filter(|port| !is_absent(port)) {
        let addresses: Vec<IpAddr> = ["/IPv4Addresses", "/IPv6Addresses"]
            .iter()
            .flat_map(|pointer| json::list(port, pointer))
            .filter_map(|address| json::text(address, "/Address")?.parse().ok())
            .collect();
        // The wire to the server itself: its MAC address is made up, often the same one in all servers.
        if addresses.iter().any(|address| matches!(address, IpAddr::V4(v4) if v4.is_link_local())) {
            continue;
        }
        let usual = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_unspecified(),
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_unicast_link_local(),
        };
        let before = found.addresses.len();
        found.addresses.extend(addresses.into_iter().filter(usual));
        let in_use = found.addresses.len() > before;
        let macs = ["/PermanentMACAddress", "/MACAddress"]
            .iter()
            .filter_map(|pointer| json::text(port, pointer)?.parse::<MacAddress>().ok());
        // A made-up one that nothing is reached by is of the same kind (iLO 5: 0A:CA:FE:F0:0D:04).
        found.macs.extend(macs.filter(|mac| in_use || mac.octets()[0] & 2 == 0));
    }
    found.macs.sort_unstable();
    found.macs.dedup();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_of_a_manager() {
        let ports = [
            json!({
                "MACAddress": "52:54:00:00:00:01", "PermanentMACAddress": "52:54:00:00:00:01",
                "IPv4Addresses": [{"Address": "10.0.0.7", "AddressOrigin": "DHCP"}, {"Address": "odd"}],
                "IPv6Addresses": [{"Address": "2001:db8::7"}, {"Address": "::"}, {"Address": "FE80::7"}],
            }),
            json!({"MACAddress": "0A:CA:FE:F0:0D:04", "IPv4Addresses": [], "IPv6Addresses": []}),
            json!({"MACAddress": "50:54:00:00:00:03", "IPv4Addresses": [{"Address": "0.0.0.0"}]}),
            json!({"MACAddress": "02:00:00:00:00:01", "IPv4Addresses": [{"Address": "169.254.0.17"}]}),
            json!({"MACAddress": "52:54:00:00:00:02", "Status": {"State": "Absent"}}),
            json!({"MACAddress": 7, "IPv4Addresses": {}}),
        ];
        let one = json!({"Links": {"ManagerForServers": [{"@odata.id": "/redfish/v1/Systems/1"}]}});
        let found = facts(&one, &ports);
        let macs: Vec<String> = found.macs.iter().map(ToString::to_string).collect();
        assert_eq!(macs, ["50:54:00:00:00:03", "52:54:00:00:00:01"]);
        let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!((addresses, found.shared), (vec!["10.0.0.7".to_owned(), "2001:db8::7".to_owned()], false));
        let two = json!({"Links": {"ManagerForServers": [{"@odata.id": "/a"}, {"@odata.id": "/b"}]}});
        assert_eq!(facts(&two, &[]), ManagerFacts { shared: true, ..ManagerFacts::default() });
        assert_eq!(facts(&json!([]), &[json!(null)]), ManagerFacts::default());
    }
}

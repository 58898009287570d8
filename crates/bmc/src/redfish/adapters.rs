//! Network interfaces by their adapters: where a system lists no `EthernetInterfaces`, the chassis may still tell of the
//! cards in it (`NetworkAdapter` with its functions, else its ports, DSP2046).

use std::collections::HashSet;

use ferric_api::MacAddress;
use ferric_api::hardware::Nic;
use serde_json::Value;

use super::inspect::{Reader, is_absent};
use super::json;
use crate::error::BmcError;

/// Most chassis of a system that are looked at.
const CHASSIS: usize = 8;

/// The interfaces of the cards in the chassis of a system.
pub(crate) async fn nics(reader: &Reader<'_>, system: &Value) -> Result<Vec<Nic>, BmcError> {
    let mut found = Vec::new();
    for member in json::members(system, "/Links/Chassis").into_iter().take(CHASSIS) {
        let Some(chassis) = reader.resource(&member.path).await? else { continue };
        for adapter in reader.collection(&chassis, "/NetworkAdapters").await? {
            let of = json::string(&adapter, "/Id").unwrap_or_default();
            let functions = reader.collection(&adapter, "/NetworkDeviceFunctions").await?;
            let mut of_adapter: Vec<Nic> = functions.iter().filter_map(|it| function(it, &of)).collect();
            if of_adapter.is_empty() {
                let mut ports = reader.collection(&adapter, "/Ports").await?;
                if ports.is_empty() {
                    ports = reader.collection(&adapter, "/NetworkPorts").await?;
                }
                of_adapter = ports.iter().filter_map(|it| port(it, &of)).collect();
            }
            found.extend(of_adapter);
        }
    }
    let mut seen = HashSet::new();
    found.retain(|nic: &Nic| seen.insert(nic.mac.clone()));
    Ok(found)
}

/// A `NetworkDeviceFunction` of an adapter, if it is an Ethernet one.
fn function(function: &Value, adapter: &str) -> Option<Nic> {
    if is_absent(function) {
        return None;
    }
    let mac = ["/Ethernet/PermanentMACAddress", "/Ethernet/MACAddress"]
        .iter()
        .find_map(|pointer| mac(json::text(function, pointer)?))?;
    Some(nic(function, adapter, mac, 0))
}

/// A `Port` or a `NetworkPort` of an adapter, by its first address.
fn port(port: &Value, adapter: &str) -> Option<Nic> {
    if is_absent(port) {
        return None;
    }
    let mac = ["/Ethernet/AssociatedMACAddresses/0", "/AssociatedNetworkAddresses/0"]
        .iter()
        .find_map(|pointer| mac(json::text(port, pointer)?))?;
    let gigabits = json::int(port, "/CurrentSpeedGbps")
        .or_else(|| json::int(port, "/CurrentLinkSpeedMbps").map(|megabits| megabits / 1000));
    Some(nic(port, adapter, mac, gigabits.filter(|speed| *speed > 0).unwrap_or(0)))
}

fn nic(of: &Value, adapter: &str, mac: MacAddress, speed_gbps: i64) -> Nic {
    let id = json::string(of, "/Id").unwrap_or_default();
    // An identifier that is only a number says nothing without its adapter's.
    let name = if id.contains(adapter) { id } else { format!("{adapter}-{id}") };
    Nic { name, mac: mac.to_string(), speed_gbps, ..Nic::default() }
}

/// A hardware address, with or without separators; none that is nobody's or everybody's.
fn mac(text: &str) -> Option<MacAddress> {
    let separated = || {
        let plain = text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let pairs = (0..6).map(|at| text.get(at * 2..at * 2 + 2)).collect::<Option<Vec<_>>>()?;
        plain.then(|| pairs.join(":"))
    };
    let mac: MacAddress = text.parse().ok().or_else(|| separated()?.parse().ok())?;
    let [first, ..] = mac.octets();
    (mac.octets() != [0; 6] && first & 1 == 0).then_some(mac)
}

/// Every reading of a value, for tests with arbitrary ones.
#[cfg(test)]
pub(crate) fn of(value: &Value) {
    let _ = (function(value, "a"), port(value, ""));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn cards() {
        let found =
            function(&json!({"Id": "1", "Ethernet": {"MACAddress": "94:6D:AE:91:FB:22"}}), "7").unwrap();
        assert_eq!((found.name.as_str(), found.mac.as_str()), ("7-1", "94:6d:ae:91:fb:22"));
        let found = port(
            &json!({"Id": "slot-27-1", "AssociatedNetworkAddresses": ["00620B4C284E"], "CurrentLinkSpeedMbps": 25000}),
            "slot-27",
        )
        .unwrap();
        assert_eq!(
            (found.name.as_str(), found.mac.as_str(), found.speed_gbps),
            ("slot-27-1", "00:62:0b:4c:28:4e", 25)
        );
        for none in [
            json!({"Ethernet": null}),
            json!({"Ethernet": {"MACAddress": "00:00:00:00:00:00"}}),
            json!({"Ethernet": {"MACAddress": "ff:ff:ff:ff:ff:ff"}}),
            json!({"Status": {"State": "Absent"}, "Ethernet": {"MACAddress": "94:6D:AE:91:FB:22"}}),
        ] {
            assert_eq!(function(&none, ""), None, "{none}");
        }
        for text in ["88e9:a4ff:ff87:42c8", "", "é0620B4C284", "94:6D:AE"] {
            assert_eq!(mac(text), None, "{text}");
        }
    }
}

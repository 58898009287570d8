//! The configuration of a virtual machine as Proxmox VE keeps it: texts of `key=value` pairs with commas between them
//! (schema of `GET /nodes/{node}/qemu/{vmid}/config`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferric_api::MacAddress;
use serde_json::Value;

use crate::redfish::identity;

/// Buses that disks are on, in the order in which Proxmox VE looks for one to boot from.
const BUSES: [&str; 4] = ["ide", "sata", "scsi", "virtio"];
/// Models of network cards that stand where the key `model` may be left out: `virtio=MAC,bridge=…`.
const CARDS: [&str; 6] = ["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3", "model"];

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// `scsi0`.
    pub(super) name: String,
    /// Bytes; 0 where they are not told.
    pub(super) size_bytes: i64,
    /// What the guest is told.
    pub(super) serial: String,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    /// `net0`.
    pub(super) name: String,
    /// Its address.
    pub(super) mac: MacAddress,
}

/// The devices of a kind, by bus and number.
fn devices<'a>(config: &'a Value, buses: &[&str]) -> Vec<(String, &'a str)> {
    let mut found: Vec<(usize, u32, &str)> = Vec::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        let split = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let bus = buses.iter().position(|bus| *bus == split);
        if let (Some(bus), Ok(number), Some(text)) = (bus, key[split.len()..].parse(), value.as_str()) {
            found.push((bus, number, text));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(bus, number, text)| (format!("{}{number}", buses[bus]), text)).collect()
}

/// The value of a key in `a=1,b=2`.
fn option<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split(',')
        .find_map(|part| part.split_once('=').filter(|(name, _)| *name == key))
        .map(|(_, value)| value)
}

fn is_cd(text: &str) -> bool {
    option(text, "media") == Some("cdrom") || text.starts_with("none")
}

/// Its disks, CD drives and the firmware's own volumes left out.
pub(super) fn disks(config: &Value) -> Vec<Disk> {
    devices(config, &BUSES)
        .into_iter()
        .filter(|(_, text)| !is_cd(text))
        .map(|(name, text)| Disk {
            name,
            size_bytes: option(text, "size").and_then(size).unwrap_or(0),
            serial: option(text, "serial").unwrap_or_default().chars().take(64).collect(),
        })
        .collect()
}

/// A size as Proxmox VE writes it: `32G`, `512M`, `1T`, in powers of 1024.
fn size(text: &str) -> Option<i64> {
    let (number, unit) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(number) => (number, text.chars().next_back()),
        None => (text, None),
    };
    let power = unit.map_or(0, |unit| 1 + "KMGT".find(unit).unwrap_or(0) as u32);
    number.parse::<i64>().ok().filter(|number| *number >= 0)?.checked_mul(1024_i64.pow(power))
}

/// Its network cards.
pub(super) fn cards(config: &Value) -> Vec<Card> {
    devices(config, &["net"])
        .into_iter()
        .filter_map(|(name, text)| {
            let mac = CARDS.iter().find_map(|model| option(text, model)?.parse().ok());
            let mac = mac.or_else(|| option(text, "macaddr")?.parse().ok())?;
            Some(Card { name, mac })
        })
        .collect()
}

/// UUID and serial number of `smbios1`, whose texts may be in base64.
pub(super) fn smbios(config: &Value) -> (Option<String>, Option<String>) {
    let text = config.get("smbios1").and_then(Value::as_str).unwrap_or_default();
    let packed = option(text, "base64") == Some("1");
    let serial = option(text, "serial").and_then(|serial| match packed {
        true => String::from_utf8(STANDARD.decode(serial).ok()?).ok(),
        false => Some(serial.to_owned()),
    });
    (option(text, "uuid").and_then(identity::uuid), serial.and_then(|serial| identity::serial(&serial)))
}

/// What comes first in the boot order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// The network cards.
    Network,
    /// The disks.
    Disks,
}

/// The value of `boot` that puts these devices first and leaves all others behind them as they are; `None` where it is so
/// already.
pub(super) fn boot_order(config: &Value, first: First) -> Option<String> {
    let text = config.get("boot").and_then(Value::as_str).unwrap_or_default();
    let named: Vec<String> = match option(text, "order") {
        Some(order) => {
            order.split(';').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
        None => Vec::new(),
    };
    let kinds = match first {
        First::Network => cards(config).into_iter().map(|card| card.name).collect::<Vec<_>>(),
        First::Disks => disks(config).into_iter().map(|disk| disk.name).collect(),
    };
    // Of those in the order their order counts: somebody may have chosen a disk.
    let mut order: Vec<String> = named.iter().filter(|name| kinds.contains(name)).cloned().collect();
    order.extend(kinds.into_iter().filter(|name| !named.contains(name)));
    let rest: Vec<String> = match named.is_empty() {
        false => named.iter().filter(|name| !order.contains(name)).cloned().collect(),
        // The older form names letters; what it means is the disks and the network.
        true => {
            let all = disks(config).into_iter().map(|disk| disk.name);
            all.chain(cards(config).into_iter().map(|card| card.name))
                .filter(|name| !order.contains(name))
                .collect()
        }
    };
    order.extend(rest);
    (order != named && !order.is_empty()).then(|| format!("order={}", order.join(";")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn example() -> Value {
        json!({
            "boot": "order=scsi0;ide2;net0", "cores": 4, "memory": "4096", "scsihw": "virtio-scsi-single",
            "scsi0": "local-lvm:vm-101-disk-0,discard=on,size=32G,serial=DISK0",
            "scsi1": "local-lvm:vm-101-disk-1,size=512M", "ide2": "none,media=cdrom",
            "efidisk0": "local-lvm:vm-101-disk-2,efitype=4m,size=4M",
            "net0": "virtio=BC:24:11:2C:69:EC,bridge=vmbr0,firewall=1", "net1": "model=e1000,macaddr=BC:24:11:00:00:01",
            "smbios1": "uuid=b6f0a3a5-9c3b-4d21-8f5e-7e1f0a2b3c4d,serial=U04x,base64=1",
        })
    }

    #[test]
    fn what_a_machine_has() {
        let config = example();
        let disks = disks(&config);
        let disks: Vec<_> =
            disks.iter().map(|it| (it.name.as_str(), it.size_bytes, it.serial.as_str())).collect();
        assert_eq!(disks, [("scsi0", 32 << 30, "DISK0"), ("scsi1", 512 << 20, "")]);
        let cards: Vec<String> = cards(&config).iter().map(|it| format!("{} {}", it.name, it.mac)).collect();
        assert_eq!(cards, ["net0 bc:24:11:2c:69:ec", "net1 bc:24:11:00:00:01"]);
        let (uuid, serial) = smbios(&config);
        assert_eq!(uuid.as_deref(), Some("b6f0a3a5-9c3b-4d21-8f5e-7e1f0a2b3c4d"));
        assert_eq!(serial.as_deref(), Some("SN1"));
    }

    #[test]
    fn orders() {
        let with = |boot: Option<&str>| {
            let mut config = example();
            config["boot"] = json!(boot);
            config
        };
        for (boot, first, wanted) in [
            (Some("order=scsi0;ide2;net0"), First::Network, Some("order=net0;net1;scsi0;ide2")),
            (Some("order=net1;net0;scsi0"), First::Network, None),
            (Some("order=net1;net0;scsi1;scsi0"), First::Disks, Some("order=scsi1;scsi0;net1;net0")),
            (Some("order=scsi0;scsi1;net0"), First::Disks, None),
            (Some("cdn"), First::Network, Some("order=net0;net1;scsi0;scsi1")),
            (None, First::Disks, Some("order=scsi0;scsi1;net0;net1")),
            (Some("order="), First::Network, Some("order=net0;net1;scsi0;scsi1")),
        ] {
            assert_eq!(boot_order(&with(boot), first).as_deref(), wanted, "{boot:?} {first:?}");
        }
        assert_eq!(boot_order(&json!({}), First::Disks), None);
        assert_eq!(boot_order(&Value::Null, First::Network), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(
            ["32G", "4M", "1T", "1024", "5K"].map(size),
            [Some(32 << 30), Some(4 << 20), Some(1 << 40), Some(1024), Some(5 << 10)]
        );
        for none in ["", "G", "-1G", "1P", "9999999999T", "1.5G"] {
            assert_eq!(size(none), None, "{none}");
        }
    }

    proptest! {
        /// Whatever stands there, an order that was taken is one that stays.
        #[test]
        fn an_order_is_stable(boot in "(order=)?[a-z0-9;=,]{0,24}", net in "[a-zA-Z0-9=,:]{0,32}", disk in "[a-zA-Z0-9=,:.]{0,32}") {
            let mut config = json!({"boot": boot, "net0": net, "net1": "virtio=BC:24:11:00:00:01", "scsi0": disk, "scsi1": "x,size=1G"});
            for first in [First::Network, First::Disks] {
                if let Some(order) = boot_order(&config, first) {
                    config["boot"] = json!(order);
                    prop_assert_eq!(boot_order(&config, first), None);
                }
            }
            let _ = (smbios(&config), disks(&config));
        }
    }
}

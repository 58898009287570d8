//! The facts of one server. All of them follow from the fleet's configuration and the server's number, so that a fleet
//! that is started again is the same fleet.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::{DiskKind, FleetConfig, HardwareClass};
use crate::error::{Error, Result};

/// What a server is.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    /// Its number, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The rack it stands in.
    pub rack: String,
    /// Its hardware class.
    pub class: Arc<HardwareClass>,
    /// Address of its BMC.
    pub bmc_ip: Ipv4Addr,
    /// Login of its BMC.
    pub username: String,
    /// Password of its BMC.
    pub password: String,
    /// System UUID, as SMBIOS and Redfish report it.
    pub uuid: uuid::Uuid,
    /// Serial number.
    pub serial: String,
    /// Network ports; the first is the one it boots from.
    pub nics: Vec<NicSpec>,
    /// Disks.
    pub disks: Vec<DiskSpec>,
    /// Seed of its own jitter.
    pub seed: u64,
}

/// A network port.
#[derive(Debug, Clone, Serialize)]
pub struct NicSpec {
    /// Name in Redfish and in the operating system.
    pub name: String,
    /// MAC address, lower case with colons.
    pub mac: String,
}

/// A disk.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpec {
    /// Name in the operating system, `/dev/…`.
    pub device: String,
    /// Serial number.
    pub serial: String,
    /// World-wide name.
    pub wwn: String,
    /// Size.
    pub size_bytes: u64,
    /// Model.
    pub model: String,
    /// Maker.
    pub vendor: String,
    /// What it is.
    pub kind: DiskKind,
    /// Name of the file in the server's folder.
    #[serde(skip)]
    pub file_name: String,
}

impl ServerSpec {
    /// Manufacturer of all servers.
    pub const MANUFACTURER: &'static str = "Ferric Simulator";
    /// Version of the firmware of all servers.
    pub const BIOS_VERSION: &'static str = "SIM-2.1";
    /// Date of the firmware of all servers.
    pub const BIOS_DATE: &'static str = "2025-01-15";
    /// Version of the firmware of all BMCs.
    pub const BMC_VERSION: &'static str = "1.0.0";

    /// MAC address of the port it boots from.
    #[must_use]
    pub fn boot_mac(&self) -> &str {
        self.nics.first().map_or("", |nic| nic.mac.as_str())
    }

    /// Path of its system at its BMC.
    #[must_use]
    pub fn system_path(&self) -> String {
        crate::redfish::system_path(self.class.bmc)
    }

    /// MAC address of its BMC's port: locally administered, and as distinct as the address of the BMC.
    #[must_use]
    pub fn bmc_mac(&self) -> [u8; 6] {
        let [_, a, b, c] = self.bmc_ip.octets();
        [0x02, 0xff, 0xff, a, b, c]
    }

    /// The same, lower case with colons.
    #[must_use]
    pub fn bmc_mac_text(&self) -> String {
        self.bmc_mac().map(|octet| format!("{octet:02x}")).join(":")
    }

    /// The server's folder.
    #[must_use]
    pub fn folder(&self, config: &FleetConfig) -> PathBuf {
        config.state_dir.join("servers").join(&self.name)
    }
}

/// The servers of a fleet.
pub(crate) fn derive(config: &FleetConfig) -> Result<Vec<ServerSpec>> {
    check(config)?;
    let classes: Vec<Arc<HardwareClass>> = config.classes.iter().cloned().map(Arc::new).collect();
    let width = config.count.to_string().len().max(2);
    let racks = config.racks.max(1);
    let rack_width = racks.to_string().len();
    Ok((0..config.count)
        .map(|index| {
            let name = format!("{}{:0width$}", config.prefix, index + 1);
            let class = Arc::clone(&classes[(index / racks) % classes.len()]);
            let id = digest(config.seed, &name);
            let short = hex::encode_upper(&id[..5]);
            let offset = u32::try_from(index).unwrap_or(u32::MAX);
            ServerSpec {
                index,
                rack: format!("rack-{:0rack_width$}", index % racks + 1),
                bmc_ip: Ipv4Addr::from(u32::from(config.base_address).saturating_add(offset)),
                username: "admin".to_owned(),
                password: hex::encode(&id[16..26]),
                uuid: uuid::Builder::from_random_bytes(first16(&id)).into_uuid(),
                serial: format!("FS{short}"),
                nics: (0..class.nics.max(1))
                    .map(|port| NicSpec { name: format!("eth{port}"), mac: mac(config.seed, port, offset) })
                    .collect(),
                disks: disks(&class, &short),
                seed: u64::from_be_bytes(first8(&id[24..])),
                name,
                class,
            }
        })
        .collect())
}

fn check(config: &FleetConfig) -> Result<()> {
    let refuse = |why: String| Err(Error::Config(why));
    if config.count == 0 {
        return refuse("a fleet needs at least one server".to_owned());
    }
    if config.classes.is_empty() || config.classes.iter().any(|class| class.disks.is_empty()) {
        return refuse("a fleet needs a hardware class, and each class a disk".to_owned());
    }
    let last = u64::from(u32::from(config.base_address)) + config.count as u64 - 1;
    if !config.base_address.is_loopback() || last >= u64::from(u32::from(Ipv4Addr::new(127, 255, 255, 255))) {
        return refuse(format!(
            "{} BMCs from {} do not fit into 127.0.0.0/8",
            config.count, config.base_address
        ));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !config.prefix.starts_with(|c: char| c.is_ascii_lowercase()) || !config.prefix.chars().all(plain) {
        return refuse(format!(
            "server name prefix {:?} is not lower-case letters, digits and dashes",
            config.prefix
        ));
    }
    Ok(())
}

fn disks(class: &HardwareClass, short: &str) -> Vec<DiskSpec> {
    let (mut sd, mut nvme) = (0u8, 0u8);
    class
        .disks
        .iter()
        .enumerate()
        .map(|(number, disk)| {
            let device = if disk.kind == DiskKind::Nvme {
                nvme += 1;
                format!("/dev/nvme{}n1", nvme - 1)
            } else {
                sd += 1;
                format!("/dev/sd{}", char::from(b'a' + (sd - 1) % 26))
            };
            DiskSpec {
                file_name: format!("{}.img", device.trim_start_matches("/dev/")),
                device,
                serial: format!("D{short}{number}"),
                wwn: format!("0x5000{}{number:02x}", short.to_ascii_lowercase()),
                size_bytes: disk.size_bytes,
                model: disk.model.clone(),
                vendor: disk.vendor.clone(),
                kind: disk.kind,
            }
        })
        .collect()
}

/// Locally administered, unique by server and port; two fleets of different seeds seldom meet.
fn mac(seed: u64, port: u32, index: u32) -> String {
    let [_, a, b, c] = index.to_be_bytes();
    let port = u8::try_from(port & 0x0f).unwrap_or(0);
    let seed = u8::try_from(seed & 0xff).unwrap_or(0);
    format!("02:{:02x}:{seed:02x}:{a:02x}:{b:02x}:{c:02x}", 0xf0 | port)
}

fn digest(seed: u64, name: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(name.as_bytes());
    hash.finalize().into()
}

fn first16(bytes: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[..16]);
    out
}

fn first8(bytes: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[..8]);
    out
}

/// A number from a seed and a counter, for jitter (splitmix64).
pub(crate) fn mix(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ten_thousand_servers_are_distinct_and_the_same_again() {
        let mut config = FleetConfig::new(10_000, "/nowhere");
        config.racks = 40;
        let servers = derive(&config).unwrap();
        let distinct = |of: fn(&ServerSpec) -> String| servers.iter().map(of).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(|s| s.uuid.to_string()), 10_000);
        assert_eq!(distinct(|s| s.serial.clone()), 10_000);
        assert_eq!(distinct(|s| s.boot_mac().to_owned()), 10_000);
        assert_eq!(distinct(|s| s.bmc_ip.to_string()), 10_000);
        assert_eq!(distinct(|s| s.password.clone()), 10_000);
        assert_eq!(distinct(|s| s.rack.clone()), 40);
        assert!(servers.iter().all(|s| s.bmc_ip.is_loopback()));
        let again = derive(&config).unwrap();
        assert!(servers.iter().zip(&again).all(|(a, b)| a.uuid == b.uuid && a.password == b.password));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let refused = |change: fn(&mut FleetConfig)| {
            let mut config = FleetConfig::new(3, "/nowhere");
            change(&mut config);
            derive(&config).unwrap_err().to_string()
        };
        assert!(refused(|c| c.count = 0).contains("at least one"));
        assert!(refused(|c| c.base_address = Ipv4Addr::new(10, 0, 0, 1)).contains("127.0.0.0/8"));
        assert!(refused(|c| c.base_address = Ipv4Addr::new(127, 255, 255, 254)).contains("127.0.0.0/8"));
        assert!(refused(|c| c.classes.clear()).contains("hardware class"));
        assert!(refused(|c| c.prefix = "Ä".to_owned()).contains("lower-case"));
    }
}

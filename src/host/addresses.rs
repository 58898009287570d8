//! IP addresses that inspection found, remembered from then on: each machine publishes those of its host once, and
//! reading `HardwareData` for them would be a request for each. What a restart loses is read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferric_api::HardwareDetails;

use crate::key::Key;

/// Addresses by host. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Addresses(Arc<Mutex<HashMap<Key, Box<[IpAddr]>>>>);

impl Addresses {
    /// Remembers what an inspection found.
    pub fn put(&self, host: &Key, hardware: &HardwareDetails) {
        self.lock().insert(host.clone(), usable(hardware).into());
    }

    /// The host is gone.
    pub fn forget(&self, host: &Key) {
        self.lock().remove(host);
    }

    /// What is known; `None` if nothing is, which does not mean that there are none.
    pub fn get(&self, host: &Key) -> Option<Vec<String>> {
        self.lock().get(host).map(|addresses| addresses.iter().map(ToString::to_string).collect())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Box<[IpAddr]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses that other machines can use, in the order in which the ports were listed: neither loopback nor
/// link-local nor unspecified.
pub fn usable(hardware: &HardwareDetails) -> Vec<IpAddr> {
    let others_can_use = |address: &IpAddr| match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in hardware.nics.iter().filter_map(|nic| nic.ip.parse().ok()).filter(others_can_use) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ferric_api::hardware::Nic;

    #[test]
    fn only_addresses_that_others_can_use_are_published() {
        let nic = |ip: &str| Nic { ip: ip.into(), ..Nic::default() };
        let hardware = HardwareDetails {
            nics: ["10.0.0.7", "", "169.254.1.1", "fe80::1", "fd00::7", "10.0.0.7", "127.0.0.1", "x"]
                .map(nic)
                .into(),
            ..Default::default()
        };
        let addresses = Addresses::default();
        let host = Key::new("racks", "a");
        assert_eq!(addresses.get(&host), None);
        addresses.put(&host, &hardware);
        assert_eq!(addresses.get(&host).unwrap(), ["10.0.0.7", "fd00::7"]);
        addresses.forget(&host);
        assert_eq!(addresses.get(&host), None);
    }
}

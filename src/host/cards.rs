//! Which host a network card belongs to that no host boots by. Pure.

use ferric_api::MacAddress;
use ferric_api::hardware::HardwareDetails;

/// The MAC addresses of a machine's network cards, as inspection found them.
pub fn of(hardware: &HardwareDetails) -> Vec<MacAddress> {
    let mut cards: Vec<_> = hardware.nics.iter().filter_map(|nic| nic.mac.parse().ok()).collect();
    cards.sort_unstable();
    cards.dedup();
    cards
}

/// The one host among those that have a card. `None` if there is none, or if several have it: a card may have been moved, and
/// the USB cards of many BMCs have the same address in every server. `senior` names the host that stands for another one of
/// the same server.
pub fn owner<K: PartialEq + Clone>(having: &[K], senior: impl Fn(&K) -> Option<K>) -> Option<K> {
    let mut owners = having.iter().map(|host| senior(host).unwrap_or_else(|| host.clone()));
    let first = owners.next()?;
    owners.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::hardware::Nic;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_card_is_that_of_one_machine_or_of_nobody() {
        // The second of two hosts of one server is 10 times the first.
        let senior = |host: &u32| (*host >= 10).then_some(host / 10);
        let table: [(&[u32], Option<u32>); 7] = [
            (&[], None),
            (&[1], Some(1)),
            (&[10], Some(1)),
            (&[1, 10], Some(1)),
            (&[10, 1, 10], Some(1)),
            (&[1, 2], None),
            (&[10, 20], None),
        ];
        for (having, expected) in table {
            assert_eq!(owner(having, senior), expected, "{having:?}");
        }
    }

    proptest! {
        #[test]
        fn every_good_address_is_told_once(texts in prop::collection::vec("([0-9a-fA-F]{2}:){5}[0-9a-f]{2}|\\PC{0,20}", 0..8)) {
            let nics = texts.iter().map(|mac| Nic { mac: mac.clone(), ..Nic::default() }).collect();
            let cards = of(&HardwareDetails { nics, ..HardwareDetails::default() });
            for text in &texts {
                if let Ok(mac) = text.parse::<MacAddress>() {
                    prop_assert_eq!(cards.iter().filter(|card| **card == mac).count(), 1);
                }
            }
            prop_assert!(cards.len() <= texts.len());
        }
    }
}

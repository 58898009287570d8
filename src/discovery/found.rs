//! What becomes of the report of a machine that nobody enrolled: a host that waits for approval, or a refusal. Pure.
//!
//! What a machine says of itself is true only as far as nothing hangs on it. MAC addresses can be made up, and UUIDs and
//! serial numbers are the same on many boards: so none of them makes a report part of a host that is there already, and any
//! of them is enough to refuse it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ferric_api::hardware::HardwareDetails;
use ferric_api::host::{Approval, BareMetalHostSpec};
use ferric_api::names::DISCOVERED_BMC_ANNOTATION;
use ferric_api::{BareMetalHost, MacAddress};
use ferric_bmc::SystemFacts;
use ferric_protocol::v1::Inventory;

use crate::host::bmc_match::is_telling_address;
use crate::host::duplicates::{is_telling, swapped_uuid};
use crate::key::Key;

/// Longest of the facts that a description names, in characters.
const LONGEST: usize = 64;

/// What a machine tells of itself.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// MAC address of the card that asked for a boot, by its token.
    pub mac: MacAddress,
    /// What its agent saw.
    pub inventory: &'a Inventory,
}

/// What is known of the machine of a host. All in the form in which it is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    macs: Vec<String>,
    uuids: Vec<String>,
    serials: Vec<String>,
}

impl Known {
    /// From the host, what its BMC said, and what an agent saw.
    pub fn of(host: &BareMetalHost, facts: Option<&SystemFacts>, hardware: Option<&HardwareDetails>) -> Self {
        let identity = host.spec.record.as_ref().and_then(|record| record.identity.as_ref());
        let bmc = host.status.as_ref().and_then(|status| status.bmc.as_ref());
        let mut known = Self::default();
        known.mac(host.spec.boot_mac_address.as_deref());
        if let Some(identity) = identity {
            known.mac(identity.boot_mac_address.as_deref());
            known.names(identity.system_uuid.as_deref(), identity.serial_number.as_deref());
        }
        if let Some(bmc) = bmc {
            known.names(bmc.system_uuid.as_deref(), bmc.serial_number.as_deref());
        }
        if let Some(facts) = facts {
            facts.macs.iter().for_each(|mac| known.mac(Some(mac.to_string().as_str())));
            known.names(facts.system_uuid.as_deref(), facts.serial_number.as_deref());
        }
        if let Some(hardware) = hardware {
            hardware.nics.iter().for_each(|nic| known.mac(Some(&nic.mac)));
            known.names(None, Some(&hardware.system_vendor.serial_number));
        }
        known
    }

    fn of_report(report: &Report<'_>) -> Self {
        let mut known = Self::default();
        known.mac(Some(&report.mac.to_string()));
        report.inventory.nics.iter().for_each(|nic| known.mac(Some(&nic.mac)));
        known.names(Some(&report.inventory.system_uuid), Some(&report.inventory.serial_number));
        known
    }

    fn mac(&mut self, text: Option<&str>) {
        if let Some(mac) = text.and_then(|text| text.parse::<MacAddress>().ok()) {
            self.macs.push(mac.to_string());
        }
    }

    fn names(&mut self, uuid: Option<&str>, serial: Option<&str>) {
        if let Some(uuid) = uuid.filter(|uuid| is_telling(uuid)) {
            let uuid = uuid.trim().to_ascii_lowercase();
            self.uuids.extend(swapped_uuid(&uuid));
            self.uuids.push(uuid);
        }
        if let Some(serial) = serial.filter(|serial| is_telling(serial)) {
            self.serials.push(serial.trim().to_ascii_lowercase());
        }
    }

    /// Whether a card with this MAC address is one of its own.
    pub fn has_card(&self, mac: MacAddress) -> bool {
        self.macs.contains(&mac.to_string())
    }

    /// What two descriptions have in common, of which one machine has one only.
    fn shares(&self, other: &Self) -> Option<&'static str> {
        let common = |a: &[String], b: &[String]| a.iter().any(|value| b.contains(value));
        if common(&self.macs, &other.macs) {
            Some("MAC address of a network card")
        } else if common(&self.uuids, &other.uuids) {
            Some("system UUID")
        } else if common(&self.serials, &other.serials) {
            Some("serial number")
        } else {
            None
        }
    }
}

/// Why no host is made of a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The machine that reports is not the one that asked for the boot.
    #[error("the machine that reports has no network card {0}, from which the boot was asked for")]
    NoSuchCard(MacAddress),
    /// There is a host for it.
    #[error("the machine has the {what} of BareMetalHost {host}: if it is another machine, enrol it by hand")]
    Known {
        /// The host.
        host: Key,
        /// What they have in common.
        what: &'static str,
    },
}

/// The host that is made of a report, for a namespace and with the labels that the manager's own hosts have.
pub fn plan<'a>(
    report: &Report<'_>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    known: impl IntoIterator<Item = &'a (Key, Known)>,
) -> Result<BareMetalHost, Refusal> {
    let has_card = |nic: &ferric_protocol::v1::Nic| nic.mac.parse() == Ok(report.mac);
    if !report.inventory.nics.iter().any(has_card) {
        return Err(Refusal::NoSuchCard(report.mac));
    }
    let said = Known::of_report(report);
    for (host, known) in known {
        if let Some(what) = known.shares(&said) {
            return Err(Refusal::Known { host: host.clone(), what });
        }
    }
    let spec = BareMetalHostSpec {
        approval: Some(Approval::Pending),
        boot_mac_address: Some(report.mac.to_string()),
        description: Some(description(report.inventory)),
        online: false,
        ..BareMetalHostSpec::default()
    };
    let mut host = BareMetalHost::new(&name(report.mac), spec);
    host.metadata.namespace = Some(namespace.to_owned());
    host.metadata.labels = Some(labels.clone()).filter(|labels| !labels.is_empty());
    let bmc = bmc_address(report.inventory).map(|address| address.to_string());
    host.metadata.annotations =
        bmc.map(|address| BTreeMap::from([(DISCOVERED_BMC_ANNOTATION.to_owned(), address)]));
    Ok(host)
}

/// Where the machine's BMC is, as that says it itself: the first of its channels with an address that leads there from
/// elsewhere, IPv4 before IPv6. By which protocol it is spoken to over the network it does not say.
fn bmc_address(inventory: &Inventory) -> Option<IpAddr> {
    let lans = &inventory.bmc.as_ref()?.lans;
    let useful = |text: &String| text.parse::<IpAddr>().ok().filter(is_telling_address);
    let v4 = lans.iter().find_map(|lan| useful(&lan.address));
    v4.or_else(|| lans.iter().flat_map(|lan| &lan.ipv6_addresses).find_map(useful))
}

/// The name of a discovered host: that of the card that asked, since nothing else of a machine is certainly its own.
pub fn name(mac: MacAddress) -> String {
    let digits: String = mac.octets().iter().map(|octet| format!("{octet:02x}")).collect();
    format!("discovered-{digits}")
}

/// Whether a host that has the name already is that of the same report: it was made, and the machine comes again.
pub fn is_same(host: &BareMetalHost, mac: MacAddress) -> bool {
    host.spec.waits_for_approval()
        && host.spec.boot_mac_address.as_deref().and_then(|text| text.parse().ok()) == Some(mac)
}

fn description(inventory: &Inventory) -> String {
    let fact = |text: &str| -> String {
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
    };
    let mut parts: Vec<String> = [&inventory.manufacturer, &inventory.product]
        .into_iter()
        .map(|text| fact(text))
        .filter(|text| !text.is_empty())
        .collect();
    if is_telling(&inventory.serial_number) {
        parts.push(format!("(serial number {})", fact(&inventory.serial_number)));
    }
    if parts.is_empty() { "discovered".to_owned() } else { format!("discovered: {}", parts.join(" ")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::hardware::Nic;
    use ferric_api::host::{BmcStatus, HostIdentity, HostRecord};
    use ferric_protocol::v1;
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn mac() -> MacAddress {
        "52:54:00:77:AB:01".parse().unwrap()
    }

    fn inventory() -> Inventory {
        let nic = |mac: &str| v1::Nic { mac: mac.into(), ..v1::Nic::default() };
        Inventory {
            system_uuid: UUID.to_uppercase(),
            serial_number: "S2 ".into(),
            manufacturer: "Acme\n".into(),
            product: "Server 2".into(),
            nics: vec![nic("52:54:00:77:ab:00"), nic("52:54:00:77:ab:01")],
            ..Inventory::default()
        }
    }

    fn found(inventory: &Inventory, known: &[(Key, Known)]) -> Result<BareMetalHost, Refusal> {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        plan(&Report { mac: mac(), inventory }, "racks", &labels, known)
    }

    fn host(change: impl FnOnce(&mut BareMetalHost)) -> BareMetalHost {
        let mut host = BareMetalHost::new("h", BareMetalHostSpec::default());
        change(&mut host);
        host
    }

    fn identity(uuid: Option<&str>, serial: Option<&str>, mac: Option<&str>) -> Option<HostRecord> {
        let identity = HostIdentity {
            system_uuid: uuid.map(str::to_owned),
            serial_number: serial.map(str::to_owned),
            boot_mac_address: mac.map(str::to_owned),
        };
        Some(HostRecord { identity: Some(identity), ..HostRecord::default() })
    }

    fn facts(macs: Vec<MacAddress>, uuid: Option<&str>) -> SystemFacts {
        SystemFacts {
            system_uuid: uuid.map(str::to_owned),
            serial_number: None,
            manufacturer: None,
            product: None,
            bmc_firmware: None,
            power: ferric_bmc::PowerState::On,
            boot_methods: Vec::new(),
            macs,
            health: None,
            unhealthy: Vec::new(),
        }
    }

    #[test]
    fn a_report_becomes_a_host_that_nothing_may_use() {
        let host = found(&inventory(), &[]).unwrap();
        assert_eq!(host.metadata.name.as_deref(), Some("discovered-52540077ab01"));
        assert_eq!(host.metadata.namespace.as_deref(), Some("racks"));
        assert_eq!(host.metadata.labels.as_ref().unwrap()["a"], "b");
        let spec = &host.spec;
        assert!(spec.waits_for_approval() && !spec.online && spec.bmc.is_none() && spec.record.is_none());
        assert_eq!(spec.boot_mac_address.as_deref(), Some("52:54:00:77:ab:01"));
        assert_eq!(spec.description.as_deref(), Some("discovered: Acme Server 2 (serial number S2)"));
        assert!(is_same(&host, mac()) && !is_same(&host, [2; 6].into()));
        assert_eq!(crate::claim::score::occupied(&host), Some(crate::claim::score::Rejection::NotApproved));
        let mut approved = host.clone();
        approved.spec.approval = Some(Approval::Approved);
        assert!(!is_same(&approved, mac()));
        let nothing =
            Inventory { nics: inventory().nics, serial_number: "None".into(), ..Inventory::default() };
        assert_eq!(found(&nothing, &[]).unwrap().spec.description.as_deref(), Some("discovered"));
    }

    #[test]
    fn the_bmc_says_where_it_is_and_nothing_is_made_up() {
        let lan = |address: &str, ipv6: &[&str]| v1::InBandBmcLan {
            address: address.into(),
            ipv6_addresses: ipv6.iter().map(|text| (*text).to_owned()).collect(),
            ..v1::InBandBmcLan::default()
        };
        for (lans, expected) in [
            (vec![], None),
            (vec![lan("10.1.0.7", &["2001:db8::7"])], Some("10.1.0.7")),
            // Not set yet, the wire to the server itself, and no address at all.
            (
                vec![lan("0.0.0.0", &[]), lan("169.254.3.1", &[]), lan("x", &[]), lan("10.1.0.8", &[])],
                Some("10.1.0.8"),
            ),
            (vec![lan("", &["fe80::1", "2001:db8::7"])], Some("2001:db8::7")),
            (vec![lan("255.255.255.255", &["ff02::1"])], None),
        ] {
            let bmc = Some(v1::InBandBmc { lans, ..v1::InBandBmc::default() });
            let host = found(&Inventory { bmc, ..inventory() }, &[]).unwrap();
            let annotations = host.metadata.annotations.unwrap_or_default();
            assert_eq!(annotations.get(DISCOVERED_BMC_ANNOTATION).map(String::as_str), expected);
            assert_eq!((annotations.len(), host.spec.bmc), (usize::from(expected.is_some()), None));
        }
    }

    #[test]
    fn whoever_has_anything_of_a_host_is_refused_and_no_host_is_touched() {
        let swapped = "33221100-5544-7766-8899-aabbccddeeff";
        let nics = |mac: &str| HardwareDetails {
            nics: vec![Nic { mac: mac.into(), ..Nic::default() }],
            ..HardwareDetails::default()
        };
        let mut serial = HardwareDetails::default();
        serial.system_vendor.serial_number = "s2".into();
        let bmc = |bmc: BmcStatus| host(|h| h.status.get_or_insert_default().bmc = Some(bmc));
        let plain = || host(|_| ());
        let (card, uuid, number) =
            (Some("MAC address of a network card"), Some("system UUID"), Some("serial number"));
        let table = [
            ("nothing", Known::of(&plain(), None, None), None),
            (
                "its boot card",
                Known::of(&host(|h| h.spec.boot_mac_address = Some("52-54-00-77-AB-01".into())), None, None),
                card,
            ),
            (
                "another of its cards is the boot card",
                Known::of(&host(|h| h.spec.boot_mac_address = Some("52:54:00:77:ab:00".into())), None, None),
                card,
            ),
            (
                "the card of the record",
                Known::of(
                    &host(|h| h.spec.record = identity(None, None, Some("52:54:00:77:ab:01"))),
                    None,
                    None,
                ),
                card,
            ),
            ("a card that the BMC lists", Known::of(&plain(), Some(&facts(vec![mac()], None)), None), card),
            ("a card that an agent saw", Known::of(&plain(), None, Some(&nics("52:54:00:77:AB:00"))), card),
            ("another card", Known::of(&plain(), None, Some(&nics("52:54:00:77:ab:09"))), None),
            (
                "the UUID of the record",
                Known::of(&host(|h| h.spec.record = identity(Some(UUID), None, None)), None, None),
                uuid,
            ),
            (
                "the UUID in the other byte order",
                Known::of(&plain(), Some(&facts(vec![], Some(swapped))), None),
                uuid,
            ),
            (
                "the UUID in the status",
                Known::of(
                    &bmc(BmcStatus { system_uuid: Some(UUID.into()), ..BmcStatus::default() }),
                    None,
                    None,
                ),
                uuid,
            ),
            (
                "the serial number of the record",
                Known::of(&host(|h| h.spec.record = identity(None, Some("s2"), None)), None, None),
                number,
            ),
            ("the serial number that an agent saw", Known::of(&plain(), None, Some(&serial)), number),
        ];
        for (what, known, expected) in table {
            let other = Key::new("elsewhere", "h");
            let made =
                found(&inventory(), &[(Key::new("racks", "x"), Known::default()), (other.clone(), known)]);
            let refused = made.err().map(|refusal| match refusal {
                Refusal::Known { host, what } if host == other => what,
                refusal => panic!("{what}: {refusal}"),
            });
            assert_eq!(refused, expected, "{what}");
        }
    }

    #[test]
    fn what_boards_say_that_nobody_programmed_is_nothing_in_common() {
        for (uuid, serial) in [
            ("03000200-0400-0500-0006-000700080009", "To be filled by O.E.M."),
            ("00000000-0000-0000-0000-000000000000", "Default string"),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", "0"),
            ("", ""),
        ] {
            let report = Inventory { system_uuid: uuid.into(), serial_number: serial.into(), ..inventory() };
            let known =
                Known::of(&host(|h| h.spec.record = identity(Some(uuid), Some(serial), None)), None, None);
            assert!(found(&report, &[(Key::new("racks", "h"), known)]).is_ok(), "{uuid} {serial}");
        }
    }

    #[test]
    fn who_has_not_the_card_that_asked_is_another_machine() {
        let mut without = inventory();
        without.nics.pop();
        assert_eq!(found(&without, &[]), Err(Refusal::NoSuchCard(mac())));
        without.nics.clear();
        assert_eq!(found(&without, &[]), Err(Refusal::NoSuchCard(mac())));
    }

    proptest! {
        #[test]
        fn whatever_is_said_makes_a_valid_host_or_none(
            octets: [u8; 6], uuid in "\\PC{0,300}", serial in ".{0,300}", product in "(?s).{0,300}",
            macs in prop::collection::vec("([0-9a-f]{2}:){5}[0-9a-f]{2}|\\PC{0,20}", 0..4),
        ) {
            let mac = MacAddress::from(octets);
            let nics = macs.into_iter().chain([mac.to_string()]).map(|mac| v1::Nic { mac, ..v1::Nic::default() });
            let inventory = Inventory {
                system_uuid: uuid, serial_number: serial, product, nics: nics.collect(), ..Inventory::default()
            };
            let host = plan(&Report { mac, inventory: &inventory }, "racks", &BTreeMap::new(), &[]).unwrap();
            let name = host.metadata.name.unwrap();
            prop_assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            let text = host.spec.description.unwrap();
            prop_assert!(text.len() <= 4096 && !text.contains(char::is_control), "{text:?}");
            prop_assert!(host.spec.approval == Some(Approval::Pending) && host.spec.bmc.is_none());
        }
    }
}

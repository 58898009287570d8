#![allow(clippy::unwrap_used)]

use ferric_api::hardware::BmcLan;
use ferric_bmc::PowerState;
use proptest::prelude::*;

use super::*;

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
const SWAPPED: &str = "33221100-5544-7766-8899-aabbccddeeff";
const REVERSED: &str = "ffeeddccbbaa99887766554433221100";
const OTHER_UUID: &str = "0f112233-4455-6677-8899-aabbccddeeff";

/// Both sides of a comparison.
#[derive(Debug, Clone, Default)]
struct Case {
    configured: &'static str,
    uuid: &'static str,
    serial: &'static str,
    manager: ManagerFacts,
    smbios_uuid: &'static str,
    smbios_serial: &'static str,
    bmc: InBandBmc,
}

impl Case {
    fn compare(&self) -> Verdict {
        let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let facts = SystemFacts {
            system_uuid: said(self.uuid),
            serial_number: said(self.serial),
            manufacturer: None,
            product: None,
            bmc_firmware: None,
            power: PowerState::On,
            boot_methods: Vec::new(),
            macs: Vec::new(),
            health: None,
            unhealthy: Vec::new(),
        };
        let address = self.configured.parse::<BmcAddress>().ok();
        compare(
            OutOfBand { address: address.as_ref(), facts: &facts, manager: &self.manager },
            InBand { system_uuid: self.smbios_uuid, serial_number: self.smbios_serial, bmc: &self.bmc },
        )
    }
}

fn manager(mac: &str, address: &str) -> ManagerFacts {
    ManagerFacts {
        macs: mac.parse().into_iter().collect(),
        addresses: address.parse().into_iter().collect(),
        ..ManagerFacts::default()
    }
}

fn seen(mac: &str, address: &str) -> InBandBmc {
    let lan = BmcLan { channel: 1, mac: mac.to_owned(), ip: address.to_owned(), ..BmcLan::default() };
    InBandBmc { lan: vec![lan], ..InBandBmc::default() }
}

const A: &str = "52:54:00:00:00:0a";
const B: &str = "52:54:00:00:00:0b";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Match,
    Unknown,
    Mismatch,
}

fn is(verdict: &Verdict) -> Is {
    match verdict {
        Verdict::Match(_) => Is::Match,
        Verdict::Unknown(_) => Is::Unknown,
        Verdict::Mismatch(_) => Is::Mismatch,
    }
}

#[test]
fn verdicts() {
    let bmc = |configured, manager, bmc| Case { configured, manager, bmc, ..Case::default() };
    let shared = |manager| ManagerFacts { shared: true, ..manager };
    let guid = |text: &str| Some(*Uuid::try_parse(text).unwrap().as_bytes());
    let table = [
        ("nothing at all", Case::default(), Is::Unknown),
        (
            "MAC and address",
            bmc("ipmi://bmc", manager(A, "10.0.0.1"), seen("52-54-00-00-00-0A", "10.0.0.1")),
            Is::Match,
        ),
        (
            "MAC, and the configured address",
            bmc("ipmi://10.0.0.1", manager(A, ""), seen(A, "10.0.0.1")),
            Is::Match,
        ),
        ("the MAC alone", bmc("ipmi://bmc", manager(A, ""), seen(A, "")), Is::Unknown),
        (
            "the configured address alone",
            bmc("ipmi://10.0.0.1", ManagerFacts::default(), seen(A, "10.0.0.1")),
            Is::Unknown,
        ),
        ("a name, NAT or DHCP", bmc("ipmi://192.0.2.1", manager(A, ""), seen(A, "10.0.0.1")), Is::Unknown),
        (
            "another address only",
            bmc("ipmi://10.0.0.1", manager("", "10.0.0.1"), seen("", "10.0.0.2")),
            Is::Unknown,
        ),
        ("another MAC only", bmc("ipmi://bmc", manager(A, ""), seen(B, "10.0.0.2")), Is::Unknown),
        (
            "another MAC behind the same address",
            bmc("ipmi://10.0.0.1", manager(A, ""), seen(B, "10.0.0.1")),
            Is::Unknown,
        ),
        (
            "another MAC and another address",
            bmc("ipmi://10.0.0.1", manager(A, "10.0.0.1"), seen(B, "10.0.0.2")),
            Is::Mismatch,
        ),
        (
            "of a chassis",
            bmc("redfish://10.0.0.1", shared(manager(A, "10.0.0.1")), seen(B, "10.0.0.2")),
            Is::Unknown,
        ),
        (
            "IPv4 there and IPv6 here",
            bmc("ipmi://b", manager(A, "10.0.0.1"), seen(B, "2001:db8::1")),
            Is::Unknown,
        ),
        ("no address yet", bmc("ipmi://b", manager(A, "10.0.0.1"), seen(B, "0.0.0.0")), Is::Unknown),
        (
            "zeros for a MAC",
            bmc("ipmi://b", manager(A, "10.0.0.1"), seen("00:00:00:00:00:00", "10.0.0.2")),
            Is::Unknown,
        ),
        (
            "not read to the end",
            bmc(
                "ipmi://b",
                manager(A, "10.0.0.1"),
                InBandBmc { problem: "no answer".into(), ..seen(B, "10.0.0.2") },
            ),
            Is::Unknown,
        ),
        (
            "UUID and serial number of the server, and the BMC of its chassis",
            Case {
                uuid: UUID,
                serial: "S1",
                manager: manager(A, ""),
                smbios_uuid: SWAPPED,
                smbios_serial: "s1 ",
                bmc: seen(B, ""),
                ..Case::default()
            },
            Is::Match,
        ),
        (
            "the UUID agrees, MAC and address do not",
            Case {
                uuid: UUID,
                manager: manager(A, "10.0.0.1"),
                smbios_uuid: UUID,
                bmc: seen(B, "10.0.0.2"),
                ..Case::default()
            },
            Is::Unknown,
        ),
        (
            "GUID and MAC of the same BMC, asked both ways",
            Case {
                manager: ManagerFacts { system_guid: guid(REVERSED), ..manager(A, "") },
                bmc: InBandBmc { system_guid: REVERSED.into(), ..seen(A, "") },
                ..Case::default()
            },
            Is::Match,
        ),
        (
            "GUID and MAC differ",
            Case {
                manager: ManagerFacts { system_guid: guid(UUID), ..manager(A, "") },
                bmc: InBandBmc { system_guid: OTHER_UUID.replace('-', ""), ..seen(B, "") },
                ..Case::default()
            },
            Is::Mismatch,
        ),
        (
            "GUIDs that nobody programmed",
            Case {
                manager: ManagerFacts { system_guid: Some([0; 16]), ..manager(A, "") },
                bmc: InBandBmc { system_guid: "f".repeat(32), ..seen(B, "") },
                ..Case::default()
            },
            Is::Unknown,
        ),
        (
            "a GUID of the BMC's own, and nothing else",
            Case {
                uuid: UUID,
                bmc: InBandBmc { system_guid: OTHER_UUID.replace('-', ""), ..seen(A, "") },
                ..Case::default()
            },
            Is::Unknown,
        ),
        (
            "serial numbers of product and board",
            Case {
                serial: "S1",
                manager: manager(A, ""),
                bmc: InBandBmc {
                    product_serial_number: "S2".into(),
                    board_serial_number: "S1".into(),
                    ..seen(A, "")
                },
                ..Case::default()
            },
            Is::Match,
        ),
        (
            "the serial number of the board is another kind of number",
            Case {
                serial: "S1",
                manager: manager(A, ""),
                bmc: InBandBmc { board_serial_number: "B1".into(), ..seen(B, "") },
                ..Case::default()
            },
            Is::Unknown,
        ),
        (
            "that of the product is not",
            Case {
                serial: "S1",
                manager: manager(A, ""),
                bmc: InBandBmc { product_serial_number: "S2".into(), ..seen(B, "") },
                ..Case::default()
            },
            Is::Mismatch,
        ),
        (
            "serial numbers that nobody set",
            Case {
                serial: "To be filled by O.E.M.",
                manager: manager(A, ""),
                smbios_serial: "Default string",
                bmc: seen(B, ""),
                ..Case::default()
            },
            Is::Unknown,
        ),
    ];
    for (what, case, expected) in table {
        let verdict = case.compare();
        assert_eq!(is(&verdict), expected, "{what}: {verdict:?}");
    }
}

#[test]
fn a_mismatch_names_both_and_what_to_accept() {
    let mut bmc = seen(B, "10.0.0.2");
    bmc.lan.insert(0, BmcLan::default());
    let case = Case { manager: manager(A, "10.0.0.1"), bmc, ..Case::default() };
    let Verdict::Mismatch(found) = case.compare() else { panic!("{:?}", case.compare()) };
    assert_eq!(found.out_of_band, format!("MAC address {A}, address 10.0.0.1"));
    assert_eq!(found.in_band, format!("MAC address {B}, address 10.0.0.2"));
    assert_eq!(found.mark, B);
    assert!(is_accepted(Some("52-54-00-00-00-0B "), &found.mark));
    for other in [None, Some(""), Some("yes"), Some(A)] {
        assert!(!is_accepted(other, &found.mark), "{other:?}");
    }
}

#[test]
fn uuids_in_every_order_of_their_bytes() {
    let uuid = |text: &str| Uuid::try_parse(text).unwrap();
    let all = [UUID, SWAPPED, REVERSED].map(uuid);
    for a in all {
        for b in all {
            assert!(is_same_uuid(a, b), "{a} {b}");
        }
        assert!(!is_same_uuid(a, uuid(OTHER_UUID)) && !is_same_uuid(uuid(OTHER_UUID), a));
    }
}

fn maybe<T: std::fmt::Debug + Clone + 'static>(values: Vec<T>) -> impl Strategy<Value = T> {
    proptest::sample::select(values)
}

prop_compose! {
    fn cases()(
        configured in maybe(vec!["ipmi://10.0.0.1", "redfish://bmc", "ipmi://[2001:db8::1]"]),
        uuid in maybe(vec!["", UUID, OTHER_UUID]),
        serial in maybe(vec!["", "S1", "S2", "None"]),
        mac in maybe(vec!["", A, B]),
        address in maybe(vec!["", "10.0.0.1", "10.0.0.2", "2001:db8::1"]),
        shared: bool,
        smbios in (maybe(vec!["", UUID, SWAPPED, OTHER_UUID]), maybe(vec!["", "S1", "S2"])),
        own in (maybe(vec!["", A, B, "x"]), maybe(vec!["", "10.0.0.1", "10.0.0.2", "2001:db8::1"])),
        guid in maybe(vec!["", REVERSED]),
        problem in maybe(vec!["", "no answer"]),
    ) -> Case {
        let manager = ManagerFacts { shared, ..manager(mac, address) };
        let bmc = InBandBmc { system_guid: guid.into(), problem: problem.into(), ..seen(own.0, own.1) };
        Case { configured, uuid, serial, manager, smbios_uuid: smbios.0, smbios_serial: smbios.1, bmc }
    }
}

proptest! {
    /// Nothing that agrees with anything is refused, and no single fact decides.
    #[test]
    fn what_agrees_in_anything_is_no_mismatch(case in cases()) {
        let verdict = case.compare();
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        let own = &case.bmc.lan[0];
        let agrees = case.manager.macs.iter().any(|mac| own.mac == mac.to_string())
            || case.manager.addresses.iter().any(|address| own.ip == address.to_string())
            || case.uuid == UUID && (same(case.bmc.system_guid.as_str(), REVERSED) || same(case.smbios_uuid, SWAPPED))
            || same(case.uuid, case.smbios_uuid)
            || same(case.serial, case.smbios_serial);
        if let Verdict::Mismatch(found) = &verdict {
            prop_assert!(!agrees, "{verdict:?}");
            prop_assert!(case.bmc.problem.is_empty() && !found.mark.is_empty());
            prop_assert!(found.out_of_band.contains(", ") && found.in_band.contains(", "), "{found:?}");
            if case.manager.shared {
                prop_assert!(!found.in_band.contains("address"), "{found:?}");
            }
            // One side without the facts of any one kind that differs: two at least are left, or it is not known.
            let thin = Case { manager: ManagerFacts::default(), serial: "", ..case.clone() };
            prop_assert_ne!(is(&thin.compare()), Is::Mismatch);
        }
        if is(&verdict) == Is::Match {
            prop_assert!(agrees || case.configured.contains(&own.ip));
        }
    }

    /// The order of bytes, of channels, and the spelling are nothing.
    #[test]
    fn spelling_is_nothing(case in cases()) {
        let mut other = case.clone();
        other.bmc.lan.insert(0, BmcLan { channel: 8, ..BmcLan::default() });
        other.bmc.lan[1].mac = other.bmc.lan[1].mac.to_uppercase().replace(':', "-");
        if other.bmc.system_guid == REVERSED {
            other.bmc.system_guid = UUID.replace('-', "");
        }
        if other.smbios_uuid == UUID {
            other.smbios_uuid = SWAPPED;
        }
        other.smbios_serial = match other.smbios_serial { "S1" => " s1", same => same };
        prop_assert_eq!(is(&other.compare()), is(&case.compare()));
    }

    #[test]
    fn whatever_is_said_is_survived(texts in prop::collection::vec("\\PC{0,40}", 6), macs: Vec<[u8; 6]>) {
        let bmc = InBandBmc {
            system_guid: texts[0].clone(),
            product_serial_number: texts[1].clone(),
            problem: texts[2].clone(),
            ..seen(&texts[3], &texts[4])
        };
        let manager = ManagerFacts { macs: macs.into_iter().map(Into::into).collect(), ..ManagerFacts::default() };
        let case = Case { manager, bmc, serial: "S1", uuid: UUID, ..Case::default() };
        let _ = (case.compare(), is_accepted(Some(&texts[5]), &texts[3]));
    }
}

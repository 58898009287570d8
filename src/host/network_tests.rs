#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn args(data: Value) -> Result<String, String> {
    translate(data.to_string().as_bytes())
        .map(|plan| plan.to_kernel_args())
        .map_err(|error| error.to_string())
}

fn card(id: &str, last: u8) -> Value {
    json!({ "id": id, "type": "phy", "ethernet_mac_address": format!("52:54:00:00:00:{last:02X}"), "mtu": null })
}

#[test]
fn a_bond_with_a_vlan_as_a_provider_of_metal_writes_it() {
    let data = json!({
        "links": [
            { "id": "tenant", "type": "vlan", "vlan_link": "bond-uplink", "vlan_id": 101, "vlan_mac_address": "52:54:00:00:00:63" },
            { "id": "bond-uplink", "type": "bond", "bond_links": ["eth0-a7f0", "eth1-b8e1"], "bond_mode": "802.3ad",
              "bond_miimon": 100, "bond_xmit_hash_policy": "layer3+4", "ethernet_mac_address": "52:54:00:00:00:01", "mtu": 9000 },
            card("eth0-a7f0", 1), card("eth1-b8e1", 2),
        ],
        "networks": [
            { "id": "n0", "network_id": "da5bb487", "link": "tenant", "type": "ipv4", "ip_address": "10.184.0.244",
              "netmask": "255.255.240.0",
              "routes": [{ "network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.184.0.1" },
                         { "network": "10.0.0.0", "netmask": "255.0.0.0", "gateway": "10.184.0.1" }],
              "services": [{ "type": "dns", "address": "10.184.0.53" }] },
            { "id": "n1", "link": "tenant", "type": "ipv6", "ip_address": "2001:db8::5/64", "gateway": "fe80::1",
              "dns_nameservers": ["2001:db8::53"] },
            { "id": "n2", "link": "bond-uplink", "type": "ipv4_dhcp" },
        ],
        "services": [{ "type": "dns", "address": "10.184.0.53" }, { "type": "dns", "address": "10.184.0.54" }],
    });
    let expected = [
        "nic:l0,52:54:00:00:00:01",
        "nic:l1,52:54:00:00:00:02",
        "bond:b0,802.3ad,l0+l1,mac=52:54:00:00:00:01,miimon=100,hash=layer3+4,mtu=9000",
        "vlan:v0,b0,101,mac=52:54:00:00:00:63",
        "ip:v0,10.184.0.244/20",
        "ip:v0,2001:db8::5/64",
        "ip:b0,dhcp4",
        "route:v0,0.0.0.0/0,10.184.0.1",
        "route:v0,10.0.0.0/8,10.184.0.1",
        "route:v0,::/0,fe80::1",
        "dns:10.184.0.53,2001:db8::53,10.184.0.54",
    ];
    assert_eq!(args(data).unwrap(), expected.map(|word| format!("ferric.net={word}")).join(" "));
}

#[test]
fn every_way_to_an_address_is_known_and_yaml_is_read() {
    for (kind, expected) in [
        ("ipv4_dhcp", "dhcp4"),
        ("ipv6_dhcp", "dhcp6"),
        ("ipv6_dhcpv6-stateful", "dhcp6"),
        ("ipv6_slaac", "slaac"),
        ("ipv6_dhcpv6-stateless", "slaac"),
    ] {
        let yaml = format!(
            "links:\n- id: nic\n  type: phy\n  ethernet_mac_address: 52-54-00-AA-BB-CC\nnetworks:\n- id: n\n  link: nic\n  type: {kind}\n"
        );
        let plan = translate(yaml.as_bytes()).unwrap().to_kernel_args();
        assert_eq!(plan, format!("ferric.net=nic:l0,52:54:00:aa:bb:cc ferric.net=ip:l0,{expected}"));
    }
}

/// Data with one part replaced, and the field and the word that the refusal must hold.
#[test]
fn what_is_wrong_is_named_with_its_field_and_a_remedy() {
    let links = |link: Value| json!({ "links": [card("a", 1), link], "networks": [{ "link": "a", "type": "ipv4_dhcp" }] });
    let networks = |network: Value| json!({ "links": [card("a", 1)], "networks": [network] });
    let bond = |more: Value| {
        let mut bond =
            json!({ "id": "b", "type": "bond", "bond_links": ["a"], "bond_mode": "active-backup" });
        bond.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "links": [card("a", 1), bond], "networks": [{ "link": "b", "type": "ipv4_dhcp" }] })
    };
    for (data, field, word) in [
        (json!([]), "network data", "object"),
        (json!({}), "links", "there is none"),
        (json!({ "links": {} }), "links", "list"),
        (json!({ "links": ["a"] }), "links[0]", "object"),
        (json!({ "links": [{ "type": "phy" }] }), "links[0].id", "missing"),
        (links(card("a", 2)), "links[1].id", "another link"),
        (links(json!({ "id": "x", "type": "phy" })), "links[1].ethernet_mac_address", "missing"),
        (
            links(json!({ "id": "x", "type": "phy", "ethernet_mac_address": "x" })),
            "ethernet_mac_address",
            "MAC",
        ),
        (links(json!({ "id": "x", "type": "infiniband" })), "links[1].type", "use phy, bond or vlan"),
        (
            links(json!({ "id": "x", "type": "vlan", "vlan_link": "z", "vlan_id": 5 })),
            "links[1].vlan_link",
            "\"z\"",
        ),
        (
            links(json!({ "id": "x", "type": "vlan", "vlan_link": "a", "vlan_id": 4095 })),
            "links[1].vlan_id",
            "4094",
        ),
        (links(json!({ "id": "x", "type": "vlan", "vlan_link": "a", "vlan_id": true })), "vlan_id", "text"),
        (links(card("x", 1)), "network data", "\"x\""),
        (bond(json!({ "bond_mode": "magic" })), "links[1].bond_mode", "active-backup"),
        (bond(json!({ "bond_links": [] })), "links[1].bond_links", "at least one"),
        (bond(json!({ "bond_links": ["q"] })), "links[1].bond_links[0]", "\"q\""),
        (bond(json!({ "bond_primary": "a" })), "links[1].bond_primary", "leave it out"),
        (bond(json!({ "bond_xmit_hash_policy": "layer9" })), "bond_xmit_hash_policy", "layer3+4"),
        (bond(json!({ "mtu": 1 })), "network data", "MTU"),
        (networks(json!({ "link": "q", "type": "ipv4_dhcp" })), "networks[0].link", "\"q\""),
        (networks(json!({ "link": "a", "type": "ipx" })), "networks[0].type", "ipv6_slaac"),
        (networks(json!({ "link": "a", "type": "ipv4" })), "networks[0].ip_address", "missing"),
        (
            networks(json!({ "link": "a", "type": "ipv4", "ip_address": "10.0.0.1" })),
            "networks[0].netmask",
            "missing",
        ),
        (
            networks(
                json!({ "link": "a", "type": "ipv4", "ip_address": "10.0.0.1", "netmask": "255.0.255.0" }),
            ),
            "networks[0].netmask",
            "255.255.255.0",
        ),
        (
            networks(json!({ "link": "a", "type": "ipv4", "ip_address": "::1/64" })),
            "networks[0].ip_address",
            "family",
        ),
        (networks(json!({ "link": "a", "type": "ipv4", "ip_address": "10.0.0.1/33" })), "ip_address", "mask"),
        (
            networks(json!({ "link": "a", "type": "ipv4_dhcp", "gateway": "fe80::1" })),
            "networks[0].gateway",
            "family",
        ),
        (
            networks(
                json!({ "link": "a", "type": "ipv4_dhcp", "services": [{ "type": "ntp", "address": "10.0.0.1" }] }),
            ),
            "networks[0].services[0].type",
            "dns",
        ),
        (
            networks(json!({ "link": "a", "type": "ipv4_dhcp", "routes": [{ "network": "10.0.0.0/8" }] })),
            "networks[0].routes[0].gateway",
            "missing",
        ),
        (json!({ "links": [card("a", 1)] }), "network data", "no link is given an address"),
    ] {
        let error = args(data.clone()).unwrap_err();
        assert!(error.contains(field) && error.contains(word), "{data}: {error}");
    }
    for bytes in [&b"{"[..], b"\xff\xfe", b"links: [*a]"] {
        assert!(translate(bytes).unwrap_err().to_string().contains("neither JSON nor YAML"));
    }
    assert!(translate(&vec![b' '; LARGEST + 1]).unwrap_err().to_string().contains("at most"));
}

#[test]
fn the_complaint_names_secret_field_and_remedy() {
    let refused = translate(b"links: []").unwrap_err();
    assert_eq!(
        complaint("racks/net-1", "networkData", &refused),
        "Secret racks/net-1 (spec.preprovisioningNetworkDataName), key networkData: links: there is none: name the cards by \
         their ethernet_mac_address. Nothing is booted until it is mended"
    );
}

#[test]
fn masks_are_bits() {
    for (mask, expected) in [
        ("255.255.240.0", Some(20)),
        ("0.0.0.0", Some(0)),
        ("255.255.255.255", Some(32)),
        ("0.255.0.0", None),
    ] {
        let mask: Ipv4Addr = mask.parse().unwrap();
        assert_eq!(bits(u32::from(mask).into(), 32), expected, "{mask}");
    }
    assert_eq!(bits(u128::MAX << 64, 128), Some(64));
    assert_eq!(bits(u128::MAX, 128), Some(128));
}

proptest! {
    #[test]
    fn no_data_makes_it_panic(
        text in "(links|networks|services|id|type|phy|bond|vlan|:|-|\\n| |\\{|\\}|\\[|\\]|\"|,|&a|\\*a|[a-z0-9./]){0,60}",
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let _ = translate(text.as_bytes());
        let _ = translate(&bytes);
    }

    #[test]
    fn whatever_is_understood_fits_and_is_read_back(last in 1_u8..255, prefix in 0_u8..=32, vlan in 1_u16..4095) {
        let data = json!({
            "links": [card("a", last), { "id": "v", "type": "vlan", "vlan_link": "a", "vlan_id": vlan }],
            "networks": [{ "link": "v", "type": "ipv4", "ip_address": format!("10.1.2.{last}/{prefix}") }],
        });
        let plan = translate(data.to_string().as_bytes()).unwrap();
        prop_assert_eq!(NetworkPlan::parse(&plan.to_kernel_args()).unwrap(), Some(plan));
    }
}

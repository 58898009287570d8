//! BMC addresses.

use ferric_api::{AddressError, BmcAddress, BmcScheme};
use proptest::prelude::*;
use rstest::rstest;

fn parse(text: &str) -> BmcAddress {
    text.parse().unwrap()
}

#[rstest]
#[case(
    "redfish://bmc.example/redfish/v1/Systems/1",
    BmcScheme::Redfish,
    "bmc.example",
    443,
    Some("https://bmc.example:443")
)]
#[case("redfish+http://192.0.2.1", BmcScheme::Redfish, "192.0.2.1", 80, Some("http://192.0.2.1:80"))]
#[case(
    "redfish+https://192.0.2.1:8443/",
    BmcScheme::Redfish,
    "192.0.2.1",
    8443,
    Some("https://192.0.2.1:8443")
)]
#[case(
    "redfish-virtualmedia://[2001:DB8::0001]/x",
    BmcScheme::RedfishVirtualMedia,
    "2001:db8::1",
    443,
    Some("https://[2001:db8::1]:443")
)]
#[case("redfish-uefihttp+http://h:8000", BmcScheme::RedfishUefiHttp, "h", 8000, Some("http://h:8000"))]
#[case("idrac-redfish://h", BmcScheme::IdracRedfish, "h", 443, Some("https://h:443"))]
#[case("idrac-virtualmedia://h", BmcScheme::IdracVirtualMedia, "h", 443, Some("https://h:443"))]
#[case("ilo5-redfish://h", BmcScheme::Ilo5Redfish, "h", 443, Some("https://h:443"))]
#[case("ilo5-virtualmedia://h", BmcScheme::Ilo5VirtualMedia, "h", 443, Some("https://h:443"))]
#[case("ipmi://h", BmcScheme::Ipmi, "h", 623, None)]
#[case("libvirt://h:6230", BmcScheme::Ipmi, "h", 6230, None)]
#[case("192.0.2.7", BmcScheme::Ipmi, "192.0.2.7", 623, None)]
#[case("BMC-1.Example.:6230", BmcScheme::Ipmi, "bmc-1.example", 6230, None)]
#[case("wol://192.0.2.255", BmcScheme::Wol, "192.0.2.255", 9, None)]
#[case("proxmox://pve/nodes/pve/qemu/100", BmcScheme::Proxmox, "pve", 8006, Some("https://pve:8006"))]
fn accepted(
    #[case] text: &str,
    #[case] scheme: BmcScheme,
    #[case] host: &str,
    #[case] port: u16,
    #[case] base_url: Option<&str>,
) {
    let address = parse(text);
    assert_eq!((address.scheme(), address.host(), address.port()), (scheme, host, port));
    assert_eq!(address.base_url().as_deref(), base_url);
    assert_eq!(address.is_redfish() || scheme == BmcScheme::Proxmox, base_url.is_some());
}

#[rstest]
#[case("")]
#[case("redfish://")]
#[case("redfish://:443")]
#[case("redfish:///redfish/v1")]
fn without_host(#[case] text: &str) {
    assert!(matches!(text.parse::<BmcAddress>(), Err(AddressError::NoHost(_))));
}

#[rstest]
#[case("http://h")]
#[case("idrac://h")]
#[case("ipmi+http://h")]
#[case("://h")]
#[case("192.0.2.1/x://h")]
fn with_unknown_scheme(#[case] text: &str) {
    assert!(matches!(text.parse::<BmcAddress>(), Err(AddressError::UnknownScheme(_))));
}

#[rstest]
#[case("h:0")]
#[case("h:")]
#[case("h:65536")]
#[case("h:+443")]
#[case("h:https")]
#[case("redfish://[2001:db8::1]:0/x")]
#[case("redfish:/h")]
fn with_bad_port(#[case] text: &str) {
    assert!(matches!(text.parse::<BmcAddress>(), Err(AddressError::BadPort(_))), "{text}");
}

#[rstest]
#[case("redfish://h ost")]
#[case("redfish://h\u{0}")]
#[case("redfish://2001:db8::1")]
#[case("redfish://[2001:db8::1")]
#[case("redfish://[2001:db8::1]x")]
#[case("redfish://[2001:db8:::1]")]
#[case("redfish://[192.0.2.1]")]
#[case("redfish://[::ffff:192.0.2.1]")]
#[case("redfish://192.0.2.300")]
#[case("redfish://192.0.2")]
#[case("redfish://192.0.2.1.")]
#[case("redfish://-h")]
#[case("redfish://h-")]
#[case("redfish://h..")]
#[case("redfish://h#x")]
#[case("redfish://h%20x")]
#[case("redfish://bücher.example")]
fn malformed(#[case] text: &str) {
    assert!(matches!(text.parse::<BmcAddress>(), Err(AddressError::Malformed(_))), "{text}");
}

#[rstest]
#[case("redfish://root:calvin@h/redfish/v1")]
#[case("redfish://root@h")]
#[case("root:calvin@h")]
#[case("redfish://root:cal/vin@h")]
#[case("redfish://root:cal?vin@h")]
#[case("redfish://root:cal vin@h")]
#[case("http://root:calvin@h")]
fn an_error_never_shows_a_password(#[case] text: &str) {
    let error = text.parse::<BmcAddress>().unwrap_err();
    assert_eq!(error, AddressError::Credentials);
    assert!(!error.to_string().contains("cal"));
}

#[rstest]
#[case("redfish://bmc.example/redfish/v1/Systems/1", "REDFISH://BMC.Example:443/redfish/v1/Systems/1/")]
#[case("redfish://bmc.example/s", "redfish-virtualmedia+https://bmc.example./s")]
#[case("redfish://[2001:db8::1]/s", "idrac-virtualmedia://[2001:0DB8:0:0::1]:0443/s")]
#[case("redfish+http://h/s", "redfish-uefihttp+http://h:80/s")]
#[case("192.0.2.1", "ipmi://192.0.2.1:623/")]
#[case("192.0.2.1?privilegelevel=OPERATOR", "ipmi://192.0.2.1")]
fn one_system_has_one_key(#[case] one: &str, #[case] other: &str) {
    assert_eq!(parse(one).system_key(), parse(other).system_key());
}

#[rstest]
#[case("redfish://h/redfish/v1/Systems/1", "redfish://h/redfish/v1/Systems/2")]
#[case("redfish://h/redfish/v1/Systems/a", "redfish://h/redfish/v1/Systems/A")]
#[case("192.0.2.1:6230", "192.0.2.1:6231")]
#[case("ipmi://h", "redfish://h:623")]
#[case("redfish://h1", "redfish://h2")]
fn two_systems_have_two_keys(#[case] one: &str, #[case] other: &str) {
    assert_ne!(parse(one).system_key(), parse(other).system_key());
}

/// Texts that look like addresses more often than chance would have it.
fn address_like() -> impl Strategy<Value = String> {
    let scheme = prop_oneof![
        Just(String::new()),
        "(redfish|redfish-virtualmedia|redfish-uefihttp|idrac-redfish|ilo5-virtualmedia)([+]https?)?://",
        "(ipmi|libvirt|wol|http|REDFISH)://",
    ];
    let host = prop_oneof![
        "[a-zA-Z0-9._-]{0,12}",
        any::<std::net::Ipv4Addr>().prop_map(|a| a.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|a| format!("[{a}]")),
        "\\[[0-9a-f:.]{0,12}\\]",
    ];
    let port = prop_oneof![Just(String::new()), "(:[0-9]{0,6})?", any::<u16>().prop_map(|p| format!(":{p}"))];
    let path = prop_oneof![Just(String::new()), "/[a-zA-Z0-9/.@_-]{0,16}", "[?][a-z=&]{0,10}"];
    (scheme, host, port, path).prop_map(|(a, b, c, d)| format!("{a}{b}{c}{d}"))
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".*") {
        let _ = text.parse::<BmcAddress>();
    }

    #[test]
    fn what_is_printed_parses_to_the_same(text in address_like()) {
        if let Ok(address) = text.parse::<BmcAddress>() {
            let printed = address.to_string();
            prop_assert_eq!(&printed.parse::<BmcAddress>().unwrap(), &address, "{} -> {}", text, printed);
            prop_assert_eq!(printed.parse::<BmcAddress>().unwrap().to_string(), printed);
            prop_assert!(address.port() > 0);
            prop_assert!(!address.host().is_empty());
        }
    }

    #[test]
    fn the_key_does_not_depend_on_the_spelling(text in address_like(), slash in any::<bool>()) {
        if let Ok(address) = text.parse::<BmcAddress>() {
            let (scheme, rest) = text.split_once("://").unwrap_or(("ipmi", &text));
            let path_at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(path_at);
            let slash = if slash && !path.contains('?') { "/" } else { "" };
            let respelt = format!("{}://{}{path}{slash}", scheme.to_uppercase(), authority.to_uppercase());
            prop_assert_eq!(respelt.parse::<BmcAddress>().unwrap().system_key(), address.system_key());
        }
    }
}

//! MAC addresses, provider IDs, and what the types read and write.

use ferric_api::host::{BareMetalHostSpec, Image, ImageFormat, InspectionMode, SecretName};
use ferric_api::{BareMetalHost, MacAddress, ProviderId};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

#[rstest]
#[case("52:54:00:ab:cd:ef")]
#[case("52:54:00:AB:CD:EF")]
#[case("52-54-00-ab-cd-EF")]
fn mac_accepted(#[case] text: &str) {
    assert_eq!(text.parse::<MacAddress>().unwrap().to_string(), "52:54:00:ab:cd:ef");
}

#[rstest]
#[case("")]
#[case("52:54:00:ab:cd")]
#[case("52:54:00:ab:cd:ef:01")]
#[case("52:54:00:ab:cd:eg")]
#[case("52:54:00:ab:cd:+1")]
#[case("52:54-00:ab-cd:ef")]
#[case("525400abcdef")]
#[case("5:254:00:ab:cd:ef")]
#[case(" 52:54:00:ab:cd:ef")]
#[case("52:54:00:ab:cd:é")]
fn mac_refused(#[case] text: &str) {
    assert!(text.parse::<MacAddress>().is_err());
}

#[rstest]
#[case("")]
#[case("ferric://")]
#[case("ferric://host")]
#[case("ferric://host/")]
#[case("ferric:///claim")]
#[case("ferric://host/claim/more")]
#[case("metal3://host/claim")]
#[case("FERRIC://host/claim")]
fn provider_id_refused(#[case] text: &str) {
    assert!(text.parse::<ProviderId>().is_err());
}

proptest! {
    #[test]
    fn mac_round_trip(octets in any::<[u8; 6]>()) {
        let mac = MacAddress::from(octets);
        prop_assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
        prop_assert_eq!(mac.to_string().to_uppercase().replace(':', "-").parse::<MacAddress>().unwrap(), mac);
        prop_assert_eq!(mac.octets(), octets);
    }

    #[test]
    fn provider_id_round_trip(host in "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", claim in "[a-z0-9-]{1,40}") {
        let id = ProviderId::new(&host, &claim);
        let parsed: ProviderId = id.to_string().parse().unwrap();
        prop_assert_eq!(&parsed, &id);
        prop_assert_eq!((parsed.host(), parsed.claim_id()), (host.as_str(), claim.as_str()));
        let text = id.to_string();
        prop_assert_eq!(text.rsplit('/').next(), Some(claim.as_str()));
    }

    #[test]
    fn parsing_never_panics(text in ".*") {
        let _ = text.parse::<MacAddress>();
        let _ = text.parse::<ProviderId>();
    }
}

#[test]
fn the_namespace_of_a_secret_reference_is_not_read() {
    let spec: BareMetalHostSpec =
        serde_json::from_value(json!({"userData": {"name": "data", "namespace": "elsewhere"}})).unwrap();
    assert_eq!(spec.user_data, Some(SecretName { name: "data".to_owned() }));
    assert_eq!(serde_json::to_value(&spec.user_data).unwrap(), json!({"name": "data"}));
}

#[test]
fn metal3s_name_of_the_out_of_band_inspection_is_read() {
    let mode: InspectionMode = serde_json::from_value(json!("fast")).unwrap();
    assert_eq!(mode, InspectionMode::OutOfBand);
    assert_eq!(serde_json::to_value(mode).unwrap(), json!("outOfBand"));
}

#[test]
fn an_empty_spec_writes_only_what_has_a_meaning() {
    assert_eq!(serde_json::to_value(BareMetalHostSpec::default()).unwrap(), json!({"online": false}));
    let host = BareMetalHost::new("h", BareMetalHostSpec::default());
    assert!(serde_json::to_value(&host).unwrap().get("status").is_none());
}

#[rstest]
#[case("https://h/node.qcow2", None, ImageFormat::Qcow2)]
#[case("https://h/node.QCOW2?v=1", None, ImageFormat::Qcow2)]
#[case("https://h/node.vmdk#x", None, ImageFormat::Vmdk)]
#[case("https://h/node.vdi", None, ImageFormat::Vdi)]
#[case("https://h/node.raw.zst", None, ImageFormat::Raw)]
#[case("https://h/node", None, ImageFormat::Raw)]
#[case("https://h/node.QCOW2.zst#x", None, ImageFormat::Qcow2)]
#[case("https://h/node.raw.xz", None, ImageFormat::Raw)]
#[case("https://h/node?f=x.qcow2", None, ImageFormat::Raw)]
#[case("https://h/node.qcow2", Some(ImageFormat::LiveIso), ImageFormat::LiveIso)]
fn the_format_given_wins_over_the_suffix(
    #[case] url: &str,
    #[case] given: Option<ImageFormat>,
    #[case] expected: ImageFormat,
) {
    let image = Image { url: url.to_owned(), disk_format: given, ..Image::default() };
    assert_eq!(image.effective_format(), expected);
}

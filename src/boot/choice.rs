//! Which way a host boots the agent: a pure function of what its BMC can do, what its address says, and what this
//! provider serves.

use ferric_api::BmcScheme;
use ferric_bmc::BootMethod;

/// What this provider serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offers {
    /// ISO images for virtual media, where an address asks for them: there is an agent image.
    pub media: bool,
    /// The same where no way is asked for.
    pub chosen_media: bool,
    /// UEFI HTTP boot where no way is asked for. Without an agent image it gets an iPXE script.
    pub uefi_http: bool,
    /// Answers to machines that boot from the network: DHCP and TFTP run, and there is an agent image.
    pub network: bool,
}

/// Why a host cannot be booted, and what would change that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// The address asks for virtual media.
    #[error(
        "the BMC address asks for virtual media, and this provider has no agent image to make a medium from: start \
         the manager with --agent-image-dir"
    )]
    NoMedia,
    /// The BMC can do nothing that this provider serves.
    #[error(
        "the BMC offers no way to boot the agent that this provider serves: it offers {offered}; served are {served}"
    )]
    NothingInCommon {
        /// What the BMC offers.
        offered: String,
        /// What the provider serves.
        served: String,
    },
}

/// A way that the scheme of the BMC's address names wins, also where the BMC does not list it; then virtual media, UEFI
/// HTTP boot, PXE.
pub fn choose(scheme: BmcScheme, methods: &[BootMethod], offers: Offers) -> Result<BootMethod, NoWay> {
    match scheme {
        BmcScheme::RedfishVirtualMedia | BmcScheme::IdracVirtualMedia | BmcScheme::Ilo5VirtualMedia => {
            return if offers.media { Ok(BootMethod::VirtualMedia) } else { Err(NoWay::NoMedia) };
        }
        BmcScheme::RedfishUefiHttp => return Ok(BootMethod::UefiHttp),
        _ => {}
    }
    let served = served(offers);
    served
        .iter()
        .copied()
        .find(|method| methods.contains(method))
        .ok_or_else(|| NoWay::NothingInCommon { offered: list(methods), served: list(&served) })
}

/// What is served to hosts whose address names no way, best first.
fn served(offers: Offers) -> Vec<BootMethod> {
    [
        (offers.chosen_media, BootMethod::VirtualMedia),
        (offers.uefi_http, BootMethod::UefiHttp),
        (offers.network, BootMethod::Network),
    ]
    .into_iter()
    .filter_map(|(served, method)| served.then_some(method))
    .collect()
}

fn list(methods: &[BootMethod]) -> String {
    let names: Vec<&str> = methods
        .iter()
        .map(|method| match method {
            BootMethod::VirtualMedia => "virtual media",
            BootMethod::UefiHttp => "UEFI HTTP boot",
            BootMethod::Network => "PXE",
        })
        .collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use BmcScheme::{
        IdracRedfish, IdracVirtualMedia, Ilo5VirtualMedia, Ipmi, Redfish, RedfishUefiHttp,
        RedfishVirtualMedia,
    };
    use BootMethod::{Network, UefiHttp, VirtualMedia};

    use super::*;

    #[test]
    fn every_way_has_its_place() {
        const NONE: Offers = Offers { media: false, chosen_media: false, uefi_http: true, network: false };
        const MEDIA: Offers = Offers { media: true, chosen_media: true, ..NONE };
        const ALL: Offers = Offers { network: true, ..MEDIA };
        const PXE: Offers = Offers { chosen_media: false, uefi_http: false, ..ALL };
        let every = [VirtualMedia, UefiHttp, Network];
        let table: &[(BmcScheme, &[BootMethod], Offers, Option<BootMethod>)] = &[
            // The address names the way.
            (RedfishVirtualMedia, &every, ALL, Some(VirtualMedia)),
            (IdracVirtualMedia, &[Network], MEDIA, Some(VirtualMedia)),
            (Ilo5VirtualMedia, &[], MEDIA, Some(VirtualMedia)),
            (RedfishVirtualMedia, &every, NONE, None),
            (RedfishUefiHttp, &every, ALL, Some(UefiHttp)),
            (RedfishUefiHttp, &[VirtualMedia], ALL, Some(UefiHttp)),
            (RedfishUefiHttp, &[], NONE, Some(UefiHttp)),
            // It does not: the best that both can do.
            (Redfish, &every, ALL, Some(VirtualMedia)),
            (IdracRedfish, &every, MEDIA, Some(VirtualMedia)),
            (Redfish, &every, NONE, Some(UefiHttp)),
            (Redfish, &[UefiHttp, Network], ALL, Some(UefiHttp)),
            (Redfish, &[Network], ALL, Some(Network)),
            (Redfish, &[VirtualMedia, Network], NONE, None),
            (Redfish, &[Network], MEDIA, None),
            (Redfish, &[], ALL, None),
            // The operator leaves only one way; an address that names another still has it.
            (Redfish, &every, PXE, Some(Network)),
            (Redfish, &[VirtualMedia, UefiHttp], PXE, None),
            (RedfishVirtualMedia, &every, PXE, Some(VirtualMedia)),
            (RedfishUefiHttp, &every, PXE, Some(UefiHttp)),
            (Ipmi, &[Network], ALL, Some(Network)),
            (Ipmi, &[Network], NONE, None),
        ];
        for (scheme, methods, offers, expected) in table {
            let chosen = choose(*scheme, methods, *offers);
            assert_eq!(chosen.clone().ok(), *expected, "{scheme:?} {methods:?} {offers:?}: {chosen:?}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let sentence = |scheme, methods: &[BootMethod]| {
            choose(scheme, methods, Offers { uefi_http: true, ..Offers::default() })
                .map_err(|error| error.to_string())
                .err()
                .unwrap_or_default()
        };
        assert!(sentence(RedfishVirtualMedia, &[]).contains("--agent-image-dir"));
        assert!(sentence(Redfish, &[Network]).ends_with("it offers PXE; served are UEFI HTTP boot"));
        assert!(sentence(Redfish, &[]).contains("it offers nothing"));
    }
}

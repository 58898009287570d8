//! Flags of the events that BMCs send.

use std::net::SocketAddr;

use clap::Args;
use url::{Host, Url};

use super::{OptionsError, error};

/// Where BMCs send their events.
#[derive(Debug, Clone, Args)]
pub struct BmcEvents {
    /// How BMCs reach the receiver of their events, such as http://10.0.0.1:6184; with https a proxy in front ends TLS. Only then are BMCs asked to send events [default: none]
    #[arg(long, env = "FERRIC_BMC_EVENTS_URL", value_name = "URL", help_heading = "Servers")]
    pub bmc_events_url: Option<Url>,

    /// Plain HTTP: events of BMCs, if --bmc-events-url is given
    #[arg(
        long,
        env = "FERRIC_BMC_EVENTS_BIND_ADDRESS",
        value_name = "ADDRESS:PORT",
        help_heading = "Servers",
        default_value = "0.0.0.0:6184"
    )]
    pub bmc_events_bind_address: SocketAddr,
}

impl BmcEvents {
    /// Checks that BMCs could send something there.
    pub fn validate(&self) -> Result<(), OptionsError> {
        const FLAG: &str = "--bmc-events-url";
        let Some(url) = &self.bmc_events_url else { return Ok(()) };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(error(FLAG, format!("{url} is neither http nor https"), "begin it with http://"));
        }
        let nowhere = match url.host() {
            None => true,
            Some(Host::Ipv4(ip)) => ip.is_unspecified() || ip.is_multicast(),
            Some(Host::Ipv6(ip)) => ip.is_unspecified() || ip.is_multicast(),
            Some(Host::Domain(_)) => false,
        };
        if nowhere {
            let cause = format!("{url} is no address to connect to");
            return Err(error(FLAG, cause, "name an address that BMCs can reach"));
        }
        let more = !url.username().is_empty() || url.password().is_some();
        if more || url.query().is_some() || url.fragment().is_some() {
            let cause = "has credentials, a query or a fragment".to_owned();
            return Err(error(FLAG, cause, "give scheme, host, port and path only"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_that_can_be_sent_to() {
        let checked = |url: &str| {
            let bmc_events_bind_address = "0.0.0.0:6184".parse().unwrap();
            BmcEvents { bmc_events_url: Some(url.parse().unwrap()), bmc_events_bind_address }.validate()
        };
        for good in ["http://10.0.0.1:6184", "https://events.example/bmc", "http://[fd00::1]:6184/"] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for bad in [
            "ftp://x",
            "http://0.0.0.0:1",
            "http://[::]/",
            "http://224.0.0.1",
            "http://u:p@x",
            "http://x?a",
            "http://x#a",
        ] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}

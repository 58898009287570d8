//! Flags of the services for machines that boot from the network.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ferric_api::MacAddress;
use url::{Host, Url};

use super::{OptionsError, error};
use crate::boot::choice::Offers;
use crate::boot::dhcp::decide::{Mode, Network, Settings};
use crate::boot::dhcp::pool::Pool;

/// How the provider takes part in DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DhcpMode {
    /// Not at all.
    #[default]
    Off,
    /// Beside another server, which gives the addresses.
    Proxy,
    /// As the server that gives the addresses.
    Server,
}

/// A way to boot hosts whose BMC address names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BootWay {
    /// An ISO in the BMC's virtual CD.
    VirtualMedia,
    /// A URL that the firmware is given.
    UefiHttp,
    /// DHCP, TFTP and iPXE.
    Pxe,
}

/// Options of the boot services.
#[derive(Debug, Clone, Args)]
pub struct NetworkBoot {
    /// Ways to boot hosts whose BMC address names none; the first of virtual-media, uefi-http, pxe that is listed and that BMC and provider can do is taken
    #[arg(
        long,
        env = "FERRIC_BOOT_METHODS",
        value_name = "METHOD,...",
        help_heading = "Network boot",
        value_enum,
        value_delimiter = ',',
        default_values = ["virtual-media", "uefi-http", "pxe"]
    )]
    pub boot_methods: Vec<BootWay>,

    /// DHCP and TFTP for hosts that boot by PXE or ask DHCP for the URL of UEFI HTTP boot: off, proxy beside another DHCP server, or server
    #[arg(
        long,
        env = "FERRIC_DHCP_MODE",
        value_name = "MODE",
        help_heading = "Network boot",
        value_enum,
        default_value_t
    )]
    pub dhcp_mode: DhcpMode,

    /// Network interface on which DHCP is answered
    #[arg(long, env = "FERRIC_DHCP_INTERFACE", value_name = "NAME", help_heading = "Network boot")]
    pub dhcp_interface: Option<String>,

    /// This server's IPv4 address as hosts reach it by DHCP and TFTP [default: the address in --boot-url]
    #[arg(long, env = "FERRIC_DHCP_SERVER_ADDRESS", value_name = "ADDRESS", help_heading = "Network boot")]
    pub dhcp_server_address: Option<Ipv4Addr>,

    /// Addresses for enrolled hosts, with the prefix of their network, such as 10.0.0.100-10.0.0.199/24; mode server only
    #[arg(long, env = "FERRIC_DHCP_RANGE", value_name = "FIRST-LAST/PREFIX", help_heading = "Network boot")]
    pub dhcp_range: Option<AddressRange>,

    /// Address that is kept for one boot MAC address, such as 52:54:00:ab:cd:ef=10.0.0.50; may be given several times
    #[arg(
        long = "dhcp-reservation",
        env = "FERRIC_DHCP_RESERVATION",
        value_name = "MAC=ADDRESS",
        help_heading = "Network boot",
        value_delimiter = ','
    )]
    pub dhcp_reservations: Vec<Reservation>,

    /// Router that hosts are told of; may be given several times
    #[arg(
        long = "dhcp-router",
        env = "FERRIC_DHCP_ROUTER",
        value_name = "ADDRESS",
        help_heading = "Network boot",
        value_delimiter = ','
    )]
    pub dhcp_routers: Vec<Ipv4Addr>,

    /// Name server that hosts are told of; may be given several times
    #[arg(
        long = "dhcp-name-server",
        env = "FERRIC_DHCP_NAME_SERVER",
        value_name = "ADDRESS",
        help_heading = "Network boot",
        value_delimiter = ','
    )]
    pub dhcp_name_servers: Vec<Ipv4Addr>,

    /// Seconds for which an address is given
    #[arg(
        long,
        env = "FERRIC_DHCP_LEASE_SECONDS",
        value_name = "SECONDS",
        help_heading = "Network boot",
        default_value_t = 3600
    )]
    pub dhcp_lease_seconds: u32,

    /// Offer the agent to machines that nobody enrolled and that boot from the network, and make a BareMetalHost in this namespace of what each tells: it waits for approval, and the machine is switched off [default: such machines get nothing]
    #[arg(long, env = "FERRIC_DISCOVER_HOSTS_IN", value_name = "NAMESPACE", help_heading = "Network boot")]
    pub discover_hosts_in: Option<String>,

    /// TFTP, from which PXE firmware fetches iPXE; only with DHCP
    #[arg(
        long,
        env = "FERRIC_TFTP_BIND_ADDRESS",
        value_name = "ADDRESS:PORT",
        help_heading = "Network boot",
        default_value = "0.0.0.0:69"
    )]
    pub tftp_bind_address: SocketAddr,
}

/// Addresses from the first to the last, in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
}

impl AddressRange {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    fn holds(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.first.to_bits()) & self.mask() == 0
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice =
            || "give first and last address and the prefix, such as 10.0.0.100-10.0.0.199/24".to_owned();
        let (range, prefix) = text.split_once('/').ok_or_else(advice)?;
        let (first, last) = range.split_once('-').ok_or_else(advice)?;
        let address = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| advice());
        let prefix = prefix.parse().ok().filter(|prefix| (8..=30).contains(prefix)).ok_or_else(advice)?;
        let range = Self { first: address(first)?, last: address(last)?, prefix };
        if range.first > range.last {
            return Err("the first address comes after the last".to_owned());
        }
        if !range.holds(range.last) {
            return Err(format!(
                "{} and {} are not in one network of prefix /{prefix}",
                range.first, range.last
            ));
        }
        let (host, broadcast) = (!range.mask(), !range.mask());
        if range.first.to_bits() & host == 0 || range.last.to_bits() & host == broadcast {
            return Err("the network's own and its broadcast address are for nobody".to_owned());
        }
        Ok(range)
    }
}

/// An address that is kept for one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Its boot MAC address.
    pub mac: MacAddress,
    /// The address.
    pub address: Ipv4Addr,
}

impl FromStr for Reservation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice =
            || "give a MAC address and an IPv4 address, such as 52:54:00:ab:cd:ef=10.0.0.50".to_owned();
        let (mac, address) = text.split_once('=').ok_or_else(advice)?;
        Ok(Self {
            mac: mac.trim().parse().map_err(|_| advice())?,
            address: address.trim().parse().map_err(|_| advice())?,
        })
    }
}

/// What the DHCP server is made of.
#[derive(Debug)]
pub struct Dhcp {
    /// The interface.
    pub interface: String,
    /// What answers say.
    pub settings: Settings,
    /// The addresses, in mode server.
    pub pool: Option<Pool>,
}

impl NetworkBoot {
    /// What is served of what could be: `media` says whether there is an agent image.
    pub fn offers(&self, media: bool) -> Offers {
        let listed = |way| self.boot_methods.contains(&way);
        Offers {
            media,
            chosen_media: media && listed(BootWay::VirtualMedia),
            uefi_http: listed(BootWay::UefiHttp),
            network: self.dhcp_mode != DhcpMode::Off && media && listed(BootWay::Pxe),
        }
    }

    /// The DHCP server that is asked for; `None` if there is to be none.
    pub fn dhcp(&self, boot_url: &Url, agent_image: bool) -> Result<Option<Dhcp>, OptionsError> {
        let mode = match self.dhcp_mode {
            DhcpMode::Off => return Ok(None),
            DhcpMode::Proxy => Mode::Proxy,
            DhcpMode::Server => Mode::Server,
        };
        if !agent_image {
            let cause = "there is nothing to boot from the network without an agent image".to_owned();
            return Err(error("--dhcp-mode", cause, "give --agent-image-dir"));
        }
        let interface = self.dhcp_interface.clone().filter(|name| !name.is_empty()).ok_or_else(|| {
            error("--dhcp-interface", "is needed for DHCP".into(), "name the interface of the boot network")
        })?;
        let server = match (self.dhcp_server_address, boot_url.host()) {
            (Some(address), _) => address,
            (None, Some(Host::Ipv4(address))) => address,
            _ => {
                let cause = format!("is needed since the boot URL {boot_url} has no IPv4 address");
                return Err(error("--dhcp-server-address", cause, "give the address of the interface"));
            }
        };
        let mut settings = Settings {
            mode,
            server,
            network: Network {
                mask: Ipv4Addr::UNSPECIFIED,
                routers: self.dhcp_routers.clone(),
                name_servers: self.dhcp_name_servers.clone(),
                lease_seconds: self.dhcp_lease_seconds,
            },
        };
        if mode == Mode::Proxy {
            return Ok(Some(Dhcp { interface, settings, pool: None }));
        }
        let range = self.dhcp_range.ok_or_else(|| {
            error(
                "--dhcp-range",
                "is needed in mode server".into(),
                "give addresses such as 10.0.0.100-10.0.0.199/24",
            )
        })?;
        if self.dhcp_lease_seconds < 60 {
            let cause = format!("{} s would be a storm of renewals", self.dhcp_lease_seconds);
            return Err(error("--dhcp-lease-seconds", cause, "give 60 or more"));
        }
        let stray = self.dhcp_reservations.iter().find(|reservation| !range.holds(reservation.address));
        if let Some(Reservation { mac, address }) = stray {
            let cause = format!("{mac}={address} is not in the network of --dhcp-range");
            return Err(error("--dhcp-reservation", cause, "give an address of that network"));
        }
        if (range.first..=range.last).contains(&server) {
            let cause = format!("holds this server's own address {server}");
            return Err(error("--dhcp-range", cause, "leave it out"));
        }
        settings.network.mask = Ipv4Addr::from_bits(range.mask());
        let reserved: HashMap<_, _> = self.dhcp_reservations.iter().map(|r| (r.mac, r.address)).collect();
        let lease = Duration::from_secs(self.dhcp_lease_seconds.into());
        Ok(Some(Dhcp {
            interface,
            settings,
            pool: Some(Pool::new(range.first, range.last, reserved, lease)),
        }))
    }
}

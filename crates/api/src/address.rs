//! BMC addresses: `<scheme>://<host>[:port][/path]`, parsed once and printed one way.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// How the provider speaks to a BMC. Names and meanings are Metal3's, plus `wol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BmcScheme {
    /// Redfish, agent booted over the network.
    Redfish,
    /// Redfish, agent booted from virtual media.
    RedfishVirtualMedia,
    /// Redfish, agent booted by UEFI HTTP boot.
    RedfishUefiHttp,
    /// Dell: as [`Self::Redfish`].
    IdracRedfish,
    /// Dell: as [`Self::RedfishVirtualMedia`].
    IdracVirtualMedia,
    /// HPE: as [`Self::RedfishVirtualMedia`].
    Ilo5VirtualMedia,
    /// HPE: as [`Self::Redfish`].
    Ilo5Redfish,
    /// IPMI 2.0 over LAN.
    Ipmi,
    /// Wake-on-LAN.
    Wol,
    /// A virtual machine of Proxmox VE.
    Proxmox,
}

/// Every scheme as written, with the scheme, and whether the transport is plain HTTP.
pub(crate) const SCHEMES: &[(&str, BmcScheme, bool)] = &[
    ("redfish", BmcScheme::Redfish, false),
    ("redfish+http", BmcScheme::Redfish, true),
    ("redfish+https", BmcScheme::Redfish, false),
    ("redfish-virtualmedia", BmcScheme::RedfishVirtualMedia, false),
    ("redfish-virtualmedia+http", BmcScheme::RedfishVirtualMedia, true),
    ("redfish-virtualmedia+https", BmcScheme::RedfishVirtualMedia, false),
    ("redfish-uefihttp", BmcScheme::RedfishUefiHttp, false),
    ("redfish-uefihttp+http", BmcScheme::RedfishUefiHttp, true),
    ("redfish-uefihttp+https", BmcScheme::RedfishUefiHttp, false),
    ("idrac-redfish", BmcScheme::IdracRedfish, false),
    ("idrac-redfish+http", BmcScheme::IdracRedfish, true),
    ("idrac-redfish+https", BmcScheme::IdracRedfish, false),
    ("idrac-virtualmedia", BmcScheme::IdracVirtualMedia, false),
    ("idrac-virtualmedia+http", BmcScheme::IdracVirtualMedia, true),
    ("idrac-virtualmedia+https", BmcScheme::IdracVirtualMedia, false),
    ("ilo5-redfish", BmcScheme::Ilo5Redfish, false),
    ("ilo5-redfish+http", BmcScheme::Ilo5Redfish, true),
    ("ilo5-redfish+https", BmcScheme::Ilo5Redfish, false),
    ("ilo5-virtualmedia", BmcScheme::Ilo5VirtualMedia, false),
    ("ilo5-virtualmedia+http", BmcScheme::Ilo5VirtualMedia, true),
    ("ilo5-virtualmedia+https", BmcScheme::Ilo5VirtualMedia, false),
    ("ipmi", BmcScheme::Ipmi, false),
    ("libvirt", BmcScheme::Ipmi, false),
    ("wol", BmcScheme::Wol, false),
    ("proxmox", BmcScheme::Proxmox, false),
    ("proxmox+http", BmcScheme::Proxmox, true),
];

/// Where a BMC is and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BmcAddress {
    scheme: BmcScheme,
    plain_http: bool,
    host: String,
    port: u16,
    path: String,
    query: String,
}

/// Why a BMC address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The scheme is none of the known ones.
    #[error(
        "unknown BMC scheme {0:?}: use redfish, redfish-virtualmedia, redfish-uefihttp, idrac-*, ilo5-*, ipmi, wol or proxmox"
    )]
    UnknownScheme(String),
    /// There is no host.
    #[error("BMC address {0:?} names no host")]
    NoHost(String),
    /// The port is not a number from 1 to 65535.
    #[error("BMC address has port {0:?}: expected a number from 1 to 65535")]
    BadPort(String),
    /// The address holds `user:password@`.
    #[error("BMC address holds credentials: put them into the Secret that bmc.credentialsName names")]
    Credentials,
    /// The address holds a character that no address may.
    #[error("BMC address {0:?} is malformed")]
    Malformed(String),
}

impl BmcAddress {
    /// The scheme.
    pub fn scheme(&self) -> BmcScheme {
        self.scheme
    }

    /// Whether the driver is Redfish.
    pub fn is_redfish(&self) -> bool {
        !matches!(self.scheme, BmcScheme::Ipmi | BmcScheme::Wol | BmcScheme::Proxmox)
    }

    /// Host name or IP address; IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port; the protocol's own when the address names none (443, 80, 623, 9, 8006).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path, starting with `/`, or empty: of a Redfish system.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Query without `?`, or empty: options of the IPMI driver; of Redfish, `uuid` and `serial` of the system.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// `http(s)://host:port` of a Redfish service or of Proxmox VE; `None` for drivers that speak no HTTP.
    pub fn base_url(&self) -> Option<String> {
        (self.is_redfish() || self.scheme == BmcScheme::Proxmox).then(|| {
            let scheme = if self.plain_http { "http" } else { "https" };
            format!("{scheme}://{}:{}", self.bracketed_host(), self.port)
        })
    }

    /// What two addresses of the same BMC system have in common, however they are written: transport family, host,
    /// port, path without a trailing slash, and the identity of the system where the address names that.
    pub fn system_key(&self) -> String {
        let family = self.family();
        let path = self.path.trim_end_matches('/');
        format!("{family}://{}:{}{path}{}", self.bracketed_host(), self.port, self.identity_key())
    }

    /// The driver: `redfish`, `ipmi`, `wol` or `proxmox`.
    pub fn family(&self) -> &'static str {
        match self.scheme {
            BmcScheme::Ipmi => "ipmi",
            BmcScheme::Wol => "wol",
            BmcScheme::Proxmox => "proxmox",
            _ => "redfish",
        }
    }

    /// `uuid` and `serial` of a Redfish address: two blades of one chassis differ in nothing else.
    fn identity_key(&self) -> String {
        let mut parts: Vec<String> = self
            .query
            .split('&')
            .filter(|part| self.is_redfish() && (part.starts_with("uuid=") || part.starts_with("serial=")))
            .map(str::to_ascii_lowercase)
            .collect();
        parts.sort();
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }

    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl FromStr for BmcAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Whatever else is wrong with it: what holds an `@` may hold a password, and no error shows it.
        parse(text).map_err(|error| if text.contains('@') { AddressError::Credentials } else { error })
    }
}

fn parse(text: &str) -> Result<BmcAddress, AddressError> {
    let shown = || text.chars().take(128).collect::<String>();
    let malformed = || AddressError::Malformed(shown());
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(malformed());
    }
    let (scheme_text, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("ipmi".to_owned(), text),
    };
    let (_, scheme, plain_http) = SCHEMES
        .iter()
        .find(|(name, _, _)| *name == scheme_text)
        .ok_or_else(|| AddressError::UnknownScheme(scheme_text.chars().take(64).collect()))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Err(AddressError::Credentials);
    }
    let (host, port) = split_port(authority).ok_or_else(malformed)?;
    let host = match host {
        Host::Plain("") => return Err(AddressError::NoHost(shown())),
        Host::Plain(name) => normal_name(name).ok_or_else(malformed)?,
        Host::Bracketed(address) => normal_ipv6(address).ok_or_else(malformed)?,
    };
    let default_port = match (scheme, plain_http) {
        (BmcScheme::Ipmi, _) => 623,
        (BmcScheme::Wol, _) => 9,
        (BmcScheme::Proxmox, false) => 8006,
        (_, true) => 80,
        (_, false) => 443,
    };
    let port = match port {
        None => default_port,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return Err(AddressError::BadPort(port.chars().take(64).collect())),
        },
    };
    Ok(BmcAddress {
        scheme: *scheme,
        plain_http: *plain_http,
        host,
        port,
        path: path.to_owned(),
        query: query.to_owned(),
    })
}

/// A DNS name or IPv4 address in its one spelling: lower case, no dot at the end.
fn normal_name(name: &str) -> Option<String> {
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return name.parse::<Ipv4Addr>().ok().map(|address| address.to_string());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let edges = [name.bytes().next()?, name.bytes().last()?];
    if !name.bytes().all(allowed) || !edges.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    Some(name.to_ascii_lowercase())
}

/// An IPv6 address in its one spelling (RFC 5952).
fn normal_ipv6(text: &str) -> Option<String> {
    let address = text.parse::<Ipv6Addr>().ok()?;
    address.to_ipv4_mapped().is_none().then(|| address.to_string())
}

/// A host as written.
enum Host<'a> {
    Plain(&'a str),
    Bracketed(&'a str),
}

/// Splits `host[:port]`, where an IPv6 host stands in brackets.
fn split_port(authority: &str) -> Option<(Host<'_>, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((Host::Bracketed(host), Some(port))),
            None if after.is_empty() => Some((Host::Bracketed(host), None)),
            None => None,
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((Host::Plain(host), Some(port))),
        None => Some((Host::Plain(authority), None)),
    }
}

impl fmt::Display for BmcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _, _) = SCHEMES
            .iter()
            .find(|(_, scheme, plain)| *scheme == self.scheme && *plain == self.plain_http)
            .unwrap_or(&SCHEMES[0]);
        write!(f, "{name}://{}:{}{}", self.bracketed_host(), self.port, self.path)?;
        if self.query.is_empty() { Ok(()) } else { write!(f, "?{}", self.query) }
    }
}

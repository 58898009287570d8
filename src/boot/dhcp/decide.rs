//! Which answer a DHCP message gets: a pure function of the message, the host that has the hardware address, and the
//! settings.

use std::net::Ipv4Addr;

use super::packet::{Client, Facts, Request};

/// What answers to PXE firmware call themselves.
pub const PXE_CLIENT: &str = "PXEClient";
/// What answers to UEFI HTTP boot call themselves.
pub const HTTP_CLIENT: &str = "HTTPClient";
/// iPXE for BIOS.
pub const IPXE_BIOS: &str = "undionly.kpxe";
/// iPXE for UEFI.
pub const IPXE_EFI: &str = "snponly.efi";

/// How the provider takes part in DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Another server gives addresses; this one says only what to boot.
    Proxy,
    /// This server gives the addresses.
    Server,
}

/// What the answers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How the provider takes part.
    pub mode: Mode,
    /// This server's address, also that of TFTP.
    pub server: Ipv4Addr,
    /// What an address comes with.
    pub network: Network,
}

/// What an address comes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Subnet mask.
    pub mask: Ipv4Addr,
    /// Routers.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// How long an address is good.
    pub lease_seconds: u32,
}

/// Where the agent's boot begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// URL of the script for iPXE.
    pub script: String,
    /// URL of the ISO for UEFI HTTP boot.
    pub iso: String,
}

/// What the provider has for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invitation {
    /// Nobody enrolled it.
    Unknown,
    /// It is enrolled, and was not told to boot our agent: it is to go on to its disk.
    Uninvited {
        /// URL below which there is nothing.
        nothing: String,
    },
    /// It is enrolled and was told to boot, but by another card than the one that asks: this one is to let go at once.
    Elsewhere {
        /// URL below which there is nothing.
        nothing: String,
    },
    /// It was told to boot our agent.
    Boot(Files),
    /// Nobody enrolled it; it may boot our agent to tell what it is.
    Discovery(Files),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Kind of answer.
    pub kind: ReplyKind,
    /// This server.
    pub server: Ipv4Addr,
    /// The client's address.
    pub address: Option<Ipv4Addr>,
    /// What comes with the address.
    pub network: Option<Network>,
    /// What the answer calls itself.
    pub class: Option<&'static str>,
    /// What to boot.
    pub boot: Option<BootFile>,
}

/// Kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// To a discovery.
    Offer,
    /// To a request.
    Acknowledge,
    /// To a request that cannot be met.
    Refuse,
}

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootFile {
    /// A file of this server's TFTP.
    Tftp(&'static str),
    /// A URL.
    Url(String),
    /// What the next entry of the firmware's boot order names: PXE's own "local boot" (PXE 2.1, table 2-1: a boot menu with
    /// type 0). Without an answer UEFI firmware asks for about a minute in each of its network entries.
    Next,
}

/// What is done with a message, and under which name it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Under which name it is counted.
    pub counted: &'static str,
    /// The answer, if there is one.
    pub reply: Option<Reply>,
}

/// Decides on a message that came to the DHCP port, or to that of PXE boot servers (`boot_server_port`). `lease` is the
/// address that the pool has for the client; only a server asks it.
pub fn decide(
    settings: &Settings,
    facts: &Facts,
    invitation: &Invitation,
    lease: Option<Ipv4Addr>,
    boot_server_port: bool,
) -> Decision {
    let silent = |counted| Decision { counted, reply: None };
    if *invitation == Invitation::Unknown {
        return silent("unknown");
    }
    let Ok(boot) = boot_file(facts, invitation) else { return silent("unsupported") };
    let counted = match (facts.client, invitation) {
        (Client::Plain, _) => "address",
        (_, Invitation::Boot(_)) => "boot",
        (_, Invitation::Discovery(_)) => "discovery",
        (_, Invitation::Elsewhere { .. }) => "elsewhere",
        // Firmware or iPXE that nobody told to.
        _ => "uninvited",
    };
    let kind = match facts.request {
        Request::Discover => ReplyKind::Offer,
        Request::Request | Request::Inform => ReplyKind::Acknowledge,
        Request::Release | Request::Decline => return silent("released"),
    };
    let reply = |kind, address, network, class, boot| {
        Some(Reply { kind, server: settings.server, address, network, class, boot })
    };
    if settings.mode == Mode::Proxy || boot_server_port {
        // On the DHCP port a request is about an address, which is the other server's; only the port of boot servers is
        // asked for files.
        let asked = boot_server_port != (facts.request == Request::Discover);
        let Some(boot) = boot.filter(|_| asked) else {
            return silent(if asked { counted } else { "passed" });
        };
        let class = if facts.client == Client::Http { HTTP_CLIENT } else { PXE_CLIENT };
        return Decision { counted, reply: reply(kind, None, None, Some(class), Some(boot)) };
    }
    // The client takes another server's offer.
    if facts.server.is_some_and(|server| server != settings.server) {
        return silent("passed");
    }
    let class = match (facts.client, &boot) {
        (Client::Http, Some(_)) => Some(HTTP_CLIENT),
        // PXE's own options count only in an answer that calls itself so.
        (_, Some(BootFile::Next)) => Some(PXE_CLIENT),
        _ => None,
    };
    if facts.request == Request::Inform {
        return Decision { counted, reply: reply(kind, None, None, class, boot) };
    }
    // A relay's network is another than that of the pool.
    let near = |lease: &Ipv4Addr| facts.relay.is_none_or(|relay| same_network(*lease, relay, settings));
    let Some(lease) = lease.filter(near) else { return silent("exhausted") };
    let claimed = facts.wanted.or(facts.current);
    if facts.request == Request::Request && claimed.is_some_and(|claimed| claimed != lease) {
        return Decision { counted: "refused", reply: reply(ReplyKind::Refuse, None, None, None, None) };
    }
    Decision { counted, reply: reply(kind, Some(lease), Some(settings.network.clone()), class, boot) }
}

/// No agent is built for this architecture.
struct Unsupported;

/// What a client is to boot; `None` for nothing.
fn boot_file(facts: &Facts, invitation: &Invitation) -> Result<Option<BootFile>, Unsupported> {
    let files = match invitation {
        Invitation::Unknown => return Ok(None),
        Invitation::Uninvited { nothing } | Invitation::Elsewhere { nothing } => {
            return Ok(next(facts.client, nothing));
        }
        Invitation::Boot(files) | Invitation::Discovery(files) => files,
    };
    Ok(match start(facts.client, facts.architecture)? {
        Start::Nothing => None,
        Start::Tftp(name) => Some(BootFile::Tftp(name)),
        Start::Script => Some(BootFile::Url(files.script.clone())),
        Start::Iso => Some(BootFile::Url(files.iso.clone())),
    })
}

/// What the agent's boot begins with on a machine.
enum Start {
    /// It does not ask for a boot.
    Nothing,
    /// A file of TFTP.
    Tftp(&'static str),
    /// The script for iPXE.
    Script,
    /// The ISO.
    Iso,
}

fn start(client: Client, architecture: Option<u16>) -> Result<Start, Unsupported> {
    Ok(match (client, architecture) {
        (Client::Plain, _) => Start::Nothing,
        // 32-bit UEFI and everything that is not x86.
        (_, Some(6 | 10..=15 | 17..)) => return Err(Unsupported),
        (Client::Ipxe, _) => Start::Script,
        (Client::Http, Some(16)) => Start::Iso,
        (Client::Http, _) => return Err(Unsupported),
        (Client::Pxe, Some(0) | None) => Start::Tftp(IPXE_BIOS),
        // 7 is what the standard's list calls EBC and firmware uses for x64; 9 is the other way round.
        (Client::Pxe, Some(7 | 9)) => Start::Tftp(IPXE_EFI),
        (Client::Pxe, _) => return Err(Unsupported),
    })
}

/// Whether a machine asks for a boot that could be given to it.
pub fn asks_for_a_boot(facts: &Facts) -> bool {
    matches!(facts.request, Request::Discover | Request::Request | Request::Inform)
        && start(facts.client, facts.architecture).is_ok_and(|start| !matches!(start, Start::Nothing))
}

/// What makes a client go on to the next entry of the boot order at once, whatever its architecture. No program is given to
/// it: that would have to be one for its architecture, and signed where Secure Boot is on.
fn next(client: Client, nothing: &str) -> Option<BootFile> {
    match client {
        // iPXE that has an address and no file to boot is done within seconds.
        Client::Plain | Client::Ipxe => None,
        Client::Pxe => Some(BootFile::Next),
        // UEFI HTTP boot has no such word, but gives up at a "404 Not Found".
        Client::Http => Some(BootFile::Url(nothing.to_owned())),
    }
}

fn same_network(a: Ipv4Addr, b: Ipv4Addr, settings: &Settings) -> bool {
    let mask = settings.network.mask.to_bits();
    a.to_bits() & mask == b.to_bits() & mask
}

#[cfg(test)]
mod tests;

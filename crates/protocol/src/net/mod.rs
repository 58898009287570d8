//! The network that an agent is told to make for itself, on the kernel's command line: for places without DHCP, with
//! VLANs or with bonds.
//!
//! Each fact is one argument; together they are a [`NetworkPlan`]:
//!
//! | argument | meaning |
//! |---|---|
//! | `ferric.net=nic:NAME,MAC[,mtu=N]` | the card with this MAC address |
//! | `ferric.net=bond:NAME,MODE,NIC+NIC…[,mac=M][,mtu=N][,miimon=MS][,hash=POLICY][,lacp=fast]` | a bond of cards |
//! | `ferric.net=vlan:NAME,LINK,ID[,mac=M][,mtu=N]` | a VLAN on a card or a bond |
//! | `ferric.net=ip:LINK,ADDRESS/PREFIX` or `dhcp4`, `dhcp6`, `slaac` instead of an address | what a link is given |
//! | `ferric.net=route:LINK,DESTINATION/PREFIX,GATEWAY` | a way, `0.0.0.0/0` or `::/0` for all others |
//! | `ferric.net=dns:ADDRESS[,ADDRESS…]` | servers of names |
//! | `ferric.net=MAC,ADDRESS/PREFIX[,GATEWAY][,vlan=ID]` | the short form, for one address on one card |
//!
//! The text holds nothing that GRUB between single quotes, an iPXE script or the kernel takes for more than itself:
//! letters, digits and `:,=+/.-`.

mod check;
mod text;

use std::net::IpAddr;

pub use check::NetworkPlanError;

/// Name of the argument, with the equals sign.
pub const KEY: &str = "ferric.net=";
/// Most bytes of all arguments together, blanks included. The kernel's command line on x86-64 is cut at 2047 bytes
/// (`COMMAND_LINE_SIZE` of arch/x86/include/asm/setup.h); the boot data and the consoles need up to the other half.
pub const MAX_TEXT: usize = 1024;
/// Most bytes of a kernel's command line on x86-64 (see [`MAX_TEXT`]); arm64 takes as many.
pub const MAX_COMMAND_LINE: usize = 2047;

/// What a machine's network is to be. Made by [`NetworkPlan::new`] or [`NetworkPlan::parse`] only, and so free of
/// contradictions: every name is known, no card serves two masters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkPlan {
    links: Vec<Link>,
    networks: Vec<Network>,
    routes: Vec<Route>,
    name_servers: Vec<IpAddr>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What the other parts of the plan call it; bonds and VLANs are called so by the kernel too. 1 to 12 of a-z and 0-9,
    /// a letter first.
    pub name: String,
    /// Largest packet in bytes, 576 to 65535. The kernel's own where absent.
    pub mtu: Option<u32>,
    /// What it is.
    pub kind: LinkKind,
}

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A card.
    Nic {
        /// Its own address.
        mac: Mac,
    },
    /// Several cards as one.
    Bond {
        /// How they share the work.
        mode: BondMode,
        /// Names of the cards, at least one. The first is the primary one of mode `active-backup`.
        members: Vec<String>,
        /// The bond's address; that of the first card where absent.
        mac: Option<Mac>,
        /// How often the carrier of the cards is looked at, in milliseconds, 1 to 10000; 100 where absent.
        miimon: Option<u32>,
        /// What decides which card a packet takes, in the modes that ask.
        hash: Option<HashPolicy>,
        /// LACP partners send every second instead of every 30 (IEEE 802.1AX, 6.4.4: fast and slow periodic time).
        lacp_fast: bool,
    },
    /// A VLAN.
    Vlan {
        /// Name of the card or bond below.
        parent: String,
        /// 1 to 4094 (IEEE 802.1Q, 9.6).
        id: u16,
        /// Its address; that of the link below where absent.
        mac: Option<Mac>,
    },
}

/// An Ethernet address of one station: neither a group's nor nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub(crate) [u8; 6]);

/// How a bond shares the work: the modes of Linux (Documentation/networking/bonding.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BondMode {
    BalanceRr,
    ActiveBackup,
    BalanceXor,
    Broadcast,
    Lacp,
    BalanceTlb,
    BalanceAlb,
}

/// What decides which card a packet takes: `xmit_hash_policy` of Linux (Documentation/networking/bonding.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HashPolicy {
    Layer2,
    Layer23,
    Layer34,
    Encap23,
    Encap34,
    VlanSrcMac,
}

/// What a link is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name of the link.
    pub link: String,
    /// How it gets its address.
    pub addressing: Addressing,
}

/// How a link gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// This one.
    Static {
        /// The address.
        address: IpAddr,
        /// Bits of the network, 0 to 32 or 128.
        prefix: u8,
    },
    /// DHCP (RFC 2131).
    Dhcp4,
    /// Stateful DHCP for IPv6 (RFC 8415).
    Dhcp6,
    /// From a router's advertisement (RFC 4862), which the kernel does by itself.
    Slaac,
}

/// A way to other networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Name of the link.
    pub link: String,
    /// Where to.
    pub destination: IpAddr,
    /// Bits of the destination; 0: everything.
    pub prefix: u8,
    /// Through whom.
    pub gateway: IpAddr,
}

impl NetworkPlan {
    /// Checks the parts against each other.
    pub fn new(
        links: Vec<Link>,
        networks: Vec<Network>,
        routes: Vec<Route>,
        name_servers: Vec<IpAddr>,
    ) -> Result<Self, NetworkPlanError> {
        let plan = Self { links, networks, routes, name_servers };
        check::check(&plan)?;
        Ok(plan)
    }

    /// The links, those below before those on top of them.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// What the links are given.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Ways to other networks.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Servers of names, the first is asked first.
    #[must_use]
    pub fn name_servers(&self) -> &[IpAddr] {
        &self.name_servers
    }

    /// The link of this name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The arguments for the kernel's command line, with blanks between them. At most [`MAX_TEXT`] bytes.
    #[must_use]
    pub fn to_kernel_args(&self) -> String {
        text::write(self)
    }

    /// Finds the arguments in a kernel's command line, which may hold others. `None` where there are none.
    pub fn parse(cmdline: &str) -> Result<Option<Self>, NetworkPlanError> {
        text::parse(cmdline)
    }
}

#[cfg(test)]
mod tests;

//! Links, addresses and routes, as the kernel's netlink interface has them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use ferric_protocol::net::{BondMode, HashPolicy, Mac};
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkBond, LinkUnspec, LinkVlan, RouteMessageBuilder,
    packet_route::link::{
        AfSpecInet6, AfSpecUnspec, BondLacpRate, BondMode as KernelMode, BondXmitHashPolicy, Inet6IfaceFlags,
        LinkAttribute,
    },
};

use super::{hardware, sysfs};

/// Where the kernel shows interfaces.
const CLASS: &str = "/sys/class/net";

/// Which interfaces are the machine's own cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nics {
    /// Those of hardware.
    Hardware,
    /// All that stand on no other: in a test there is no hardware.
    #[cfg(test)]
    Every,
}

impl Nics {
    /// Their folders in `/sys/class/net`.
    pub(super) fn folders(self) -> Vec<PathBuf> {
        match self {
            Self::Hardware => hardware::physical_nics(Path::new("/sys")),
            #[cfg(test)]
            Self::Every => sysfs::entries(CLASS)
                .into_iter()
                .filter(|folder| sysfs::text(folder.join("type")) == "1" && !folder.join("bonding").exists())
                .filter(|folder| !sysfs::entries(folder).iter().any(|e| sysfs::name(e).starts_with("lower_")))
                .collect(),
        }
    }

    /// All cards, however many interfaces stand on them.
    pub(super) fn cards(self) -> Vec<Interface> {
        self.folders().iter().filter_map(|folder| Interface::read(folder)).collect()
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    /// Its own address: a card in a bond shows the bond's instead.
    pub(super) mac: Mac,
}

impl Interface {
    /// Reads a folder of `/sys/class/net`.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        Some(Self {
            name: sysfs::name(folder),
            index: sysfs::number(folder.join("ifindex"))?,
            mac: hardware::own_mac(folder).parse().ok()?,
        })
    }

    /// The interface of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::read(&Path::new(CLASS).join(name))
    }

    /// Whether it has a link.
    pub(super) fn carrier(&self) -> bool {
        sysfs::flag(Path::new(CLASS).join(&self.name).join("carrier"))
    }

    /// Name of the bond that it is part of; empty where it is of none.
    fn master(&self) -> String {
        sysfs::link_name(Path::new(CLASS).join(&self.name).join("master"))
    }

    /// Tells the kernel whether it takes addresses and routes from routers on this link (`accept_ra` of
    /// Documentation/networking/ip-sysctl.rst).
    pub(super) fn accept_routers(&self, accept: bool) {
        let file = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", self.name);
        // A kernel without IPv6 takes none anyway.
        let _ = std::fs::write(file, if accept { "1" } else { "0" });
    }
}

/// What a router said that others have to give (RFC 4861, 4.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RouterFlags {
    /// M: addresses, by DHCPv6.
    pub(super) managed: bool,
    /// O: everything else, by DHCPv6.
    pub(super) other: bool,
}

/// The kernel's interface. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Links {
    handle: Handle,
    nics: Nics,
}

type Done = Result<(), rtnetlink::Error>;

impl Links {
    /// Opens it. Must be called within a runtime.
    pub(super) fn open(nics: Nics) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, nics })
    }

    /// Which interfaces are the machine's own.
    pub(super) fn nics(&self) -> Nics {
        self.nics
    }

    /// Switches a link on.
    pub(super) async fn up(&self, index: u32) -> Done {
        self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await
    }

    /// Switches a link off: nothing is sent by it any more.
    pub(super) async fn down(&self, index: u32) -> Done {
        self.handle.link().set(LinkUnspec::new_with_index(index).down().build()).execute().await
    }

    /// Lets a card hand on frames to all groups, or only to those that somebody joined.
    pub(super) async fn all_groups(&self, index: u32, all: bool) -> Done {
        self.handle.link().set(LinkUnspec::new_with_index(index).allmulticast(all).build()).execute().await
    }

    /// Sets the size of packets.
    pub(super) async fn mtu(&self, index: u32, mtu: u32) -> Done {
        self.handle.link().set(LinkUnspec::new_with_index(index).mtu(mtu).build()).execute().await
    }

    /// Makes a bond without cards.
    pub(super) async fn add_bond(&self, name: &str, bond: &Bond) -> Done {
        let mut link = LinkBond::new(name).mode(mode(bond.mode)).miimon(bond.miimon);
        if let Some(hash) = bond.hash {
            link = link.xmit_hash_policy(policy(hash));
        }
        if bond.mode == BondMode::Lacp {
            // Only this mode takes it.
            link = link.ad_lacp_rate(if bond.lacp_fast { BondLacpRate::Fast } else { BondLacpRate::Slow });
        }
        if let Some(mac) = bond.mac {
            link = link.address(mac.bytes().to_vec());
        }
        self.handle.link().add(link.build()).execute().await
    }

    /// Makes a card part of a bond, unless it is.
    pub(super) async fn enslave(&self, card: &Interface, bond: &Interface) -> Done {
        if card.master() == bond.name {
            return Ok(());
        }
        // A card that is on is refused (Documentation/networking/bonding.rst).
        self.down(card.index).await?;
        let join = LinkUnspec::new_with_index(card.index).controller(bond.index).build();
        self.handle.link().set(join).execute().await
    }

    /// Makes a VLAN on a link.
    pub(super) async fn add_vlan(&self, name: &str, parent: u32, id: u16, mac: Option<Mac>) -> Done {
        let mut vlan = LinkVlan::new(name, parent, id);
        if let Some(mac) = mac {
            vlan = vlan.address(mac.bytes().to_vec());
        }
        self.handle.link().add(vlan.build()).execute().await
    }

    /// Gives a link an address; one that it has is as good.
    pub(super) async fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Done {
        self.handle.address().add(index, address, prefix).execute().await.or_else(exists)
    }

    /// Takes an address from a link.
    pub(super) async fn remove_address(&self, index: u32, address: IpAddr) -> Done {
        let mut found =
            self.handle.address().get().set_link_index_filter(index).set_address_filter(address).execute();
        while let Some(message) = found.try_next().await? {
            self.handle.address().del(message).execute().await?;
        }
        Ok(())
    }

    /// Sets a way; one to the same destination on the same link, of the same rank, gives way. The gateway is taken to be
    /// on the link, whatever the addresses say: some networks give a single address and a gateway beside it.
    pub(super) async fn route(&self, index: u32, to: (IpAddr, u8), gateway: IpAddr, rank: u32) -> Done {
        let route = match (to.0, gateway) {
            (IpAddr::V4(destination), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(destination, to.1)
                .gateway(gateway)
                .output_interface(index)
                .priority(rank)
                .onlink()
                .build(),
            (IpAddr::V6(destination), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(destination, to.1)
                .gateway(gateway)
                .output_interface(index)
                .priority(rank)
                .onlink()
                .build(),
            // A plan has none such, and a lease cannot.
            _ => return Ok(()),
        };
        self.handle.route().add(route).replace().execute().await
    }

    /// What routers on a link said last.
    pub(super) async fn router_flags(&self, index: u32) -> RouterFlags {
        let mut links = self.handle.link().get().match_index(index).execute();
        let Ok(Some(link)) = links.try_next().await else { return RouterFlags::default() };
        let specs = link.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::AfSpecUnspec(specs) => Some(specs),
            _ => None,
        });
        let inet6 = specs.flatten().filter_map(|spec| match spec {
            AfSpecUnspec::Inet6(inet6) => Some(inet6),
            _ => None,
        });
        let flags = inet6.flatten().find_map(|spec| match spec {
            AfSpecInet6::Flags(flags) => Some(*flags),
            _ => None,
        });
        let flags = flags.unwrap_or(Inet6IfaceFlags::empty());
        RouterFlags {
            managed: flags.contains(Inet6IfaceFlags::RaManaged),
            other: flags.contains(Inet6IfaceFlags::Otherconf),
        }
    }
}

/// What a bond is made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bond {
    pub(super) mode: BondMode,
    /// Milliseconds.
    pub(super) miimon: u32,
    pub(super) hash: Option<HashPolicy>,
    pub(super) lacp_fast: bool,
    pub(super) mac: Option<Mac>,
}

fn mode(mode: BondMode) -> KernelMode {
    match mode {
        BondMode::BalanceRr => KernelMode::BalanceRr,
        BondMode::ActiveBackup => KernelMode::ActiveBackup,
        BondMode::BalanceXor => KernelMode::BalanceXor,
        BondMode::Broadcast => KernelMode::Broadcast,
        BondMode::Lacp => KernelMode::Ieee8023Ad,
        BondMode::BalanceTlb => KernelMode::BalanceTlb,
        BondMode::BalanceAlb => KernelMode::BalanceAlb,
    }
}

fn policy(policy: HashPolicy) -> BondXmitHashPolicy {
    match policy {
        HashPolicy::Layer2 => BondXmitHashPolicy::Layer2,
        HashPolicy::Layer23 => BondXmitHashPolicy::Layer23,
        HashPolicy::Layer34 => BondXmitHashPolicy::Layer34,
        HashPolicy::Encap23 => BondXmitHashPolicy::Encap23,
        HashPolicy::Encap34 => BondXmitHashPolicy::Encap34,
        HashPolicy::VlanSrcMac => BondXmitHashPolicy::VlanSrcMac,
    }
}

/// What is there already is as good.
fn exists(error: rtnetlink::Error) -> Result<(), rtnetlink::Error> {
    match &error {
        rtnetlink::Error::NetlinkError(message)
            if message.raw_code() == -rustix::io::Errno::EXIST.raw_os_error() =>
        {
            Ok(())
        }
        _ => Err(error),
    }
}

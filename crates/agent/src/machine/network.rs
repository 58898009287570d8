//! Brings links up and gives them addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use rtnetlink::{Handle, LinkUnspec, LinkVlan, RouteMessageBuilder};

use super::{console::say, dhcp, hardware, static_net::StaticNet, sysfs};

/// How long is waited for a link after it was brought up. Switches take up to 30 s with spanning tree, more while a
/// port negotiates.
const CARRIER: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Once one interface has a link, the others get this much longer.
const OTHERS: Duration = Duration::from_secs(3);
/// Between two rounds over all interfaces.
const ROUND: Duration = Duration::from_secs(5);

/// The machine's network.
pub(super) struct Network {
    handle: Handle,
}

/// An interface with a link.
#[derive(Debug, Clone)]
struct Interface {
    name: String,
    index: u32,
    mac: String,
    mac_bytes: [u8; 6],
}

impl Network {
    /// Opens the kernel's interface. Must be called within a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Does not return before there is an address. Leases are kept from then on. Returns the MAC address of the interface
    /// that has it.
    pub(super) async fn bring_up(&self, fixed: &[StaticNet], preferred: Option<&str>) -> String {
        if let Err(error) = self.set_up("lo").await {
            say(&format!("the loopback interface does not come up: {error}"));
        }
        loop {
            let interfaces = self.with_carrier().await;
            if interfaces.is_empty() {
                say("no network interface has a link; looking again");
            } else if fixed.is_empty() {
                if let Some(mac) = self.lease_one(&interfaces, preferred).await {
                    return mac;
                }
            } else if self.assign(fixed).await {
                return fixed.first().map(|net| net.mac.clone()).unwrap_or_default();
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Brings all interfaces up and waits for links.
    async fn with_carrier(&self) -> Vec<Interface> {
        let started = Instant::now();
        let mut first = None;
        loop {
            let nics = hardware::physical_nics(Path::new("/sys"));
            for nic in &nics {
                if let Err(error) = self.set_up(&sysfs::name(nic)).await {
                    tracing::warn!(interface = sysfs::name(nic), %error, "the interface does not come up");
                }
            }
            let up: Vec<_> = nics.iter().filter(|nic| sysfs::flag(nic.join("carrier"))).collect();
            if !up.is_empty() {
                let first = *first.get_or_insert_with(Instant::now);
                if up.len() == nics.len() || first.elapsed() > OTHERS {
                    return up.into_iter().filter_map(|nic| interface(nic)).collect();
                }
            }
            if started.elapsed() > CARRIER {
                return Vec::new();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks DHCP on the interfaces, the one that the machine was booted from first.
    async fn lease_one(&self, interfaces: &[Interface], preferred: Option<&str>) -> Option<String> {
        let mut sorted: Vec<&Interface> = interfaces.iter().collect();
        sorted.sort_by_key(|interface| Some(interface.mac.as_str()) != preferred);
        for interface in sorted {
            let Interface { name, mac, .. } = interface;
            say(&format!("{name} ({mac}): asking DHCP for an address"));
            match dhcp::lease(name, &interface.mac_bytes, None).await {
                Ok(lease) => {
                    if let Err(error) = self.take(interface, &lease).await {
                        say(&format!("{name}: {} cannot be set: {error}", lease.address));
                        continue;
                    }
                    say(&format!("{name}: {}/{} from {}", lease.address, lease.prefix, lease.server));
                    let (network, interface) = (Self { handle: self.handle.clone() }, interface.clone());
                    let mac = interface.mac.clone();
                    tokio::spawn(async move { network.keep(interface, lease).await });
                    return Some(mac);
                }
                Err(error) => say(&format!("{name}: {error}")),
            }
        }
        // The kernel may have taken an address from a router by itself.
        let (name, address) = global_ipv6(&sysfs::text("/proc/net/if_inet6"))?;
        say(&format!("{name}: {address} from a router's advertisement"));
        Some(
            interfaces
                .iter()
                .find(|other| other.name == name)
                .map(|other| other.mac.clone())
                .unwrap_or_default(),
        )
    }

    /// Asks again after half of the lease. An address that the server takes away is kept until there is another: the
    /// session with the provider is worth more than tidiness.
    async fn keep(&self, interface: Interface, mut lease: dhcp::Lease) {
        loop {
            tokio::time::sleep(lease.length / 2).await;
            match dhcp::lease(&interface.name, &interface.mac_bytes, Some(lease.address)).await {
                Ok(new) => {
                    if new.address != lease.address
                        && let Err(error) = self.take(&interface, &new).await
                    {
                        say(&format!("{}: {} cannot be set: {error}", interface.name, new.address));
                    }
                    lease = new;
                }
                Err(error) => tracing::warn!(interface = interface.name, %error, "the lease was not renewed"),
            }
        }
    }

    async fn take(&self, interface: &Interface, lease: &dhcp::Lease) -> Result<(), rtnetlink::Error> {
        self.add_address(interface.index, lease.address.into(), lease.prefix).await?;
        match lease.gateway {
            Some(gateway) => self.add_default(gateway.into()).await,
            None => Ok(()),
        }
    }

    /// Gives the interfaces the addresses of the command line. `false` if one could not be given.
    async fn assign(&self, fixed: &[StaticNet]) -> bool {
        let mut all = true;
        for net in fixed {
            match self.assign_one(net).await {
                Ok(name) => say(&format!("{name}: {}/{} as given", net.address, net.prefix)),
                Err(error) => {
                    say(&format!("{}/{} on {}: {error}", net.address, net.prefix, net.mac));
                    all = false;
                }
            }
        }
        all
    }

    async fn assign_one(&self, net: &StaticNet) -> Result<String, String> {
        let nics = hardware::physical_nics(Path::new("/sys"));
        let found = nics.iter().filter_map(|nic| interface(nic)).find(|interface| interface.mac == net.mac);
        let mut interface = found.ok_or("no interface has this MAC address")?;
        let said = |error: rtnetlink::Error| error.to_string();
        if let Some(id) = net.vlan {
            let name = format!("vlan{id}");
            let vlan = LinkVlan::new(&name, interface.index, id).up().build();
            self.handle.link().add(vlan).execute().await.or_else(exists).map_err(said)?;
            self.set_up(&name).await.map_err(said)?;
            let folder = Path::new("/sys/class/net").join(&name);
            interface.index = sysfs::number(folder.join("ifindex")).ok_or("the VLAN has no interface")?;
            interface.name = name;
        }
        self.add_address(interface.index, net.address, net.prefix).await.map_err(said)?;
        if let Some(gateway) = net.gateway {
            self.add_default(gateway).await.map_err(said)?;
        }
        Ok(interface.name)
    }

    async fn set_up(&self, name: &str) -> Result<(), rtnetlink::Error> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        if let Some(link) = links.try_next().await? {
            let up = LinkUnspec::new_with_index(link.header.index).up().build();
            self.handle.link().set(up).execute().await?;
        }
        Ok(())
    }

    async fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<(), rtnetlink::Error> {
        self.handle.address().add(index, address, prefix).execute().await.or_else(exists)
    }

    async fn add_default(&self, gateway: IpAddr) -> Result<(), rtnetlink::Error> {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        self.handle.route().add(route).execute().await.or_else(exists)
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

/// The first usable global address in `/proc/net/if_inet6`: address, index, prefix, scope, flags and interface, all but
/// the last in hexadecimal.
fn global_ipv6(text: &str) -> Option<(String, Ipv6Addr)> {
    /// `IFA_F_TENTATIVE | IFA_F_DADFAILED` of linux/if_addr.h.
    const NOT_USABLE: u8 = 0x40 | 0x08;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [address, _, _, scope, flags, name] = fields.as_slice() else { return None };
        let bits = (address.len() == 32).then(|| u128::from_str_radix(address, 16).ok()).flatten()?;
        let usable = *scope == "00" && u8::from_str_radix(flags, 16).ok()? & NOT_USABLE == 0 && *name != "lo";
        usable.then(|| ((*name).to_owned(), Ipv6Addr::from_bits(bits)))
    })
}

fn interface(folder: &Path) -> Option<Interface> {
    let mac = super::static_net::mac(&sysfs::text(folder.join("address")))?;
    let mut mac_bytes = [0; 6];
    for (byte, text) in mac_bytes.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(text, 16).ok()?;
    }
    Some(Interface {
        name: sysfs::name(folder),
        index: sysfs::number(folder.join("ifindex"))?,
        mac,
        mac_bytes,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_global_address_that_may_be_used_counts() {
        let lines = [
            "00000000000000000000000000000001 01 80 10 80       lo",
            "fe80000000000000505400fffe123456 02 40 20 80     eth0",
            "20010db8000000000000000000000007 02 40 00 40     eth0",
            "20010db8000000000000000000000008 02 40 00 08     eth0",
            "20010db8000000000000000000000009 03 40 00 00     eth1",
        ];
        assert_eq!(global_ipv6(&lines[..4].join("\n")), None, "link-local, tentative and duplicate");
        let expected = Some(("eth1".to_owned(), "2001:db8::9".parse().unwrap()));
        assert_eq!(global_ipv6(&lines.join("\n")), expected);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-fg \n]{0,80}") {
            let _ = global_ipv6(&text);
        }
    }
}

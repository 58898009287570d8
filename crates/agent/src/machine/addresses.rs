//! Gives one link an address and keeps it: by hand, by DHCP, by a router's advertisement, by DHCPv6. Each runs for as
//! long as the machine; what it lost it gets again.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use ferric_protocol::net::Route;
use tokio::sync::mpsc;

use super::{
    console::say,
    dhcp, dhcp6,
    names::{Names, Source},
    netlink::{Interface, Links},
    sysfs,
};

/// Between two looks at a link.
const LOOK: Duration = Duration::from_millis(500);
/// Between two tries while there is no address.
const AGAIN: Duration = Duration::from_secs(5);
/// A link that is not there by now is told of.
const LATE: Duration = Duration::from_secs(20);

/// One link, and what is done for it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) links: Links,
    pub(super) names: Arc<Names>,
    pub(super) interface: Interface,
    /// Ways that go through it.
    pub(super) routes: Vec<Route>,
    /// Which link is preferred where several have a way to the same place: the least (`RTA_PRIORITY`).
    pub(super) rank: u32,
    /// Told when the link has an address.
    pub(super) ready: mpsc::UnboundedSender<()>,
}

/// How a link gets IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Six {
    /// As routers say.
    AsRoutersSay,
    /// From a router's advertisement.
    Slaac,
    /// From a DHCPv6 server, whatever routers say.
    Stateful,
}

impl Target {
    /// Gives it this address.
    pub(super) async fn given(self, address: IpAddr, prefix: u8) {
        let Interface { name, index, .. } = &self.interface;
        while let Err(error) = self.links.add_address(*index, address, prefix).await {
            say(&format!("{name}: {address}/{prefix} cannot be set: {error}"));
            tokio::time::sleep(AGAIN).await;
        }
        self.set_routes(address.is_ipv4()).await;
        let mut waited = Duration::ZERO;
        while !self.interface.carrier() {
            if waited == LATE {
                say(&format!("{name}: {address}/{prefix} is set, but there is no link"));
            }
            waited += LOOK;
            tokio::time::sleep(LOOK).await;
        }
        say(&format!("{name}: {address}/{prefix} as given"));
        let _ = self.ready.send(());
    }

    /// Asks DHCP, and again before the lease is over or when the link comes back: it may be another network then. An
    /// address that the server takes away is kept until there is another: the session with the provider is worth more
    /// than tidiness.
    pub(super) async fn dhcp4(self) {
        let Interface { name, mac, .. } = &self.interface;
        let mut held: Option<(dhcp::Lease, Instant)> = None;
        loop {
            let known = held.as_ref().map(|(lease, _)| lease.address);
            let pause = match dhcp::lease(name, &mac.bytes(), known).await {
                Ok(lease) => match self.take4(&lease, known).await {
                    Ok(()) => {
                        if known != Some(lease.address) {
                            say(&format!("{name}: {}/{} from {}", lease.address, lease.prefix, lease.server));
                        }
                        let _ = self.ready.send(());
                        let pause = dhcp::again_in(lease.length);
                        held = Some((lease, Instant::now()));
                        pause
                    }
                    Err(error) => {
                        say(&format!("{name}: {} cannot be set: {error}", lease.address));
                        AGAIN
                    }
                },
                Err(error) => match &held {
                    None => {
                        say(&format!("{name}: {error}"));
                        AGAIN
                    }
                    Some((lease, since)) => {
                        tracing::warn!(interface = name, %error, "the lease was not renewed");
                        dhcp::again_in(lease.length.saturating_sub(since.elapsed()))
                    }
                },
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.link_back() => say(&format!("{name}: the link is back")),
            }
        }
    }

    async fn take4(&self, lease: &dhcp::Lease, before: Option<Ipv4Addr>) -> Result<(), rtnetlink::Error> {
        let Interface { name, index, .. } = &self.interface;
        self.links.add_address(*index, lease.address.into(), lease.prefix).await?;
        if let Some(gateway) = lease.gateway {
            let all = (Ipv4Addr::UNSPECIFIED.into(), 0);
            self.links.route(*index, all, gateway.into(), self.rank).await?;
        }
        if let Some(before) = before.filter(|before| *before != lease.address) {
            self.links.remove_address(*index, before.into()).await?;
        }
        self.set_routes(true).await;
        let servers = lease.name_servers.iter().copied().map(IpAddr::V4).collect();
        self.names.set(Source::Dhcp4(name.clone()), servers);
        Ok(())
    }

    /// Watches what the kernel makes of routers' advertisements, and asks DHCPv6 where that is called for.
    pub(super) async fn ipv6(self, how: Six) {
        let Interface { name, index, .. } = &self.interface;
        let mut lease: Option<dhcp6::Lease> = None;
        let mut due = Instant::now();
        let mut told = false;
        let mut informed = false;
        let mut linked = true;
        loop {
            if !std::mem::replace(&mut linked, self.interface.carrier()) && linked {
                (due, informed) = (Instant::now(), false);
            }
            let flags = self.links.router_flags(*index).await;
            let stateful = how == Six::Stateful || (how == Six::AsRoutersSay && flags.managed);
            if linked && stateful && Instant::now() >= due {
                let asked = dhcp6::lease(&self.interface, lease.as_ref()).await;
                due = Instant::now() + self.take6(asked, &mut lease, how).await;
            } else if linked && !stateful && flags.other && !informed && Instant::now() >= due {
                match dhcp6::information(&self.interface).await {
                    Ok(servers) => {
                        informed = true;
                        self.set_names6(servers);
                    }
                    Err(error) => tracing::debug!(interface = name, %error, "no information by DHCPv6"),
                }
                due = Instant::now() + AGAIN;
            }
            let seen = (how != Six::Stateful && !told)
                .then(|| global_ipv6(&sysfs::text("/proc/net/if_inet6"), name))
                .flatten()
                .filter(|seen| lease.as_ref().is_none_or(|lease| lease.address != *seen));
            if let Some(address) = seen {
                told = true;
                say(&format!("{name}: {address} from a router's advertisement"));
                self.set_routes(false).await;
                let _ = self.ready.send(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes what DHCPv6 gave; returns when it is asked again.
    async fn take6(
        &self,
        asked: std::io::Result<dhcp6::Lease>,
        held: &mut Option<dhcp6::Lease>,
        how: Six,
    ) -> Duration {
        let Interface { name, index, .. } = &self.interface;
        let new = match asked {
            Ok(new) => new,
            Err(error) => {
                if how == Six::Stateful && held.is_none() {
                    say(&format!("{name}: {error}"));
                } else {
                    tracing::debug!(interface = name, %error, "no address by DHCPv6");
                }
                return AGAIN;
            }
        };
        let before = held.as_ref().map(|lease| lease.address);
        // For itself alone: which others are on the link, routers say (RFC 8415, 18.2.10.1).
        if let Err(error) = self.links.add_address(*index, new.address.into(), 128).await {
            say(&format!("{name}: {} cannot be set: {error}", new.address));
            return AGAIN;
        }
        if before != Some(new.address) {
            say(&format!("{name}: {} from a DHCPv6 server", new.address));
        }
        if let Some(before) = before.filter(|before| *before != new.address) {
            let _ = self.links.remove_address(*index, before.into()).await;
        }
        self.set_routes(false).await;
        self.set_names6(new.name_servers.clone());
        let _ = self.ready.send(());
        let pause = new.renew_in;
        *held = Some(new);
        pause
    }

    fn set_names6(&self, servers: Vec<Ipv6Addr>) {
        let source = Source::Dhcp6(self.interface.name.clone());
        self.names.set(source, servers.into_iter().map(IpAddr::V6).collect());
    }

    async fn set_routes(&self, v4: bool) {
        let Interface { name, index, .. } = &self.interface;
        for route in self.routes.iter().filter(|route| route.gateway.is_ipv4() == v4) {
            let to = (route.destination, route.prefix);
            if let Err(error) = self.links.route(*index, to, route.gateway, self.rank).await {
                say(&format!(
                    "{name}: the way to {}/{} by {} cannot be set: {error}",
                    to.0, to.1, route.gateway
                ));
            }
        }
    }

    /// Returns when the link was lost and is there again.
    async fn link_back(&self) {
        let mut lost = false;
        loop {
            tokio::time::sleep(LOOK).await;
            match (lost, self.interface.carrier()) {
                (true, true) => return,
                (false, false) => {
                    lost = true;
                    say(&format!("{}: the link is lost", self.interface.name));
                }
                _ => {}
            }
        }
    }
}

/// The first usable global address of an interface in `/proc/net/if_inet6`: address, index, prefix, scope, flags and
/// interface, all but the last in hexadecimal.
fn global_ipv6(text: &str, interface: &str) -> Option<Ipv6Addr> {
    /// `IFA_F_TENTATIVE | IFA_F_DADFAILED` of linux/if_addr.h.
    const NOT_USABLE: u8 = 0x40 | 0x08;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [address, _, _, scope, flags, name] = fields.as_slice() else { return None };
        let bits = (address.len() == 32).then(|| u128::from_str_radix(address, 16).ok()).flatten()?;
        let usable = *scope == "00" && u8::from_str_radix(flags, 16).ok()? & NOT_USABLE == 0;
        (usable && *name == interface).then(|| Ipv6Addr::from_bits(bits))
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
        let text = lines.join("\n");
        assert_eq!(global_ipv6(&text, "eth0"), None, "link-local, tentative and duplicate");
        assert_eq!(global_ipv6(&text, "eth1"), Some("2001:db8::9".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-fg \n]{0,80}") {
            let _ = global_ipv6(&text, "lo");
        }
    }
}

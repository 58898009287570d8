//! Brings up the machine's network: as it was described on the kernel's command line, else by asking around on each card
//! with a link.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ferric_protocol::net::{Addressing, Link, LinkKind, Mac, NetworkPlan};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    addresses::{Six, Target},
    console::say,
    names::{Names, Source},
    netlink::{Bond, Interface, Links, Nics},
    rdnss,
};

/// How long is waited for a link after it was brought up. Switches take up to 30 s with spanning tree, more while a
/// port negotiates.
const CARRIER: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// Once one interface has a link, the others get this much longer.
const OTHERS: Duration = Duration::from_secs(3);
/// Between two rounds over all interfaces.
const ROUND: Duration = Duration::from_secs(5);
/// How long an address is waited for on one card before the next is tried: all tries of DHCP, and a little.
const PATIENCE: Duration = Duration::from_secs(25);
/// How often the links of a bond are looked at where nobody says (milliseconds; the usual value).
const MIIMON: u32 = 100;
/// Rank of the first link's ways; the kernel's own are at 1024 for IPv6 (`IP6_RT_PRIO_USER` of net/ip6_route.h).
const FIRST_RANK: u32 = 100;
/// Ways through a link that is down are passed over (Documentation/networking/ip-sysctl.rst).
const IGNORE_DOWN: [&str; 2] = [
    "/proc/sys/net/ipv4/conf/all/ignore_routes_with_linkdown",
    "/proc/sys/net/ipv6/conf/all/ignore_routes_with_linkdown",
];

/// The machine's network. Leases are kept for as long as it lives.
pub(super) struct Network {
    links: Links,
    names: Arc<Names>,
    tasks: Mutex<JoinSet<()>>,
}

impl Network {
    /// Opens the kernel's interfaces. Servers of names are written into `resolv_conf`. Must be called within a runtime.
    pub(super) fn open(nics: Nics, resolv_conf: &str) -> io::Result<Self> {
        let names = Arc::new(Names::new(resolv_conf));
        if let Err(error) = rdnss::listen(names.clone()) {
            tracing::debug!(%error, "name servers of routers are not heard");
        }
        for file in IGNORE_DOWN {
            let _ = std::fs::write(file, "1");
        }
        Ok(Self { links: Links::open(nics)?, names, tasks: Mutex::default() })
    }

    /// The kernel's interface.
    pub(super) fn links(&self) -> Links {
        self.links.clone()
    }

    /// Does not return before there is an address. Leases are kept from then on. Returns the MAC address of the card that
    /// has it, where a single one does.
    pub(super) async fn bring_up(&self, plan: Option<&NetworkPlan>, preferred: Option<Mac>) -> Option<Mac> {
        if let Some(index) = Interface::named("lo").map(|lo| lo.index).or(Some(1))
            && let Err(error) = self.links.up(index).await
        {
            say(&format!("the loopback interface does not come up: {error}"));
        }
        match plan {
            Some(plan) => self.by_plan(plan).await,
            None => self.by_asking(preferred).await,
        }
    }

    async fn by_plan(&self, plan: &NetworkPlan) -> Option<Mac> {
        self.names.set(Source::Given, plan.name_servers().to_vec());
        let (ready, mut is_ready) = mpsc::unbounded_channel();
        let make = Make {
            links: self.links.clone(),
            names: self.names.clone(),
            plan: plan.clone(),
            ready,
            made: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        self.lock().spawn(make.run());
        let _ = is_ready.recv().await;
        // Whoever is waited for later must find somebody to tell.
        self.lock().spawn(async move { while is_ready.recv().await.is_some() {} });
        plan.links().iter().find_map(|link| match link.kind {
            LinkKind::Nic { mac } => Some(mac),
            _ => None,
        })
    }

    async fn by_asking(&self, preferred: Option<Mac>) -> Option<Mac> {
        loop {
            let mut cards = self.with_carrier().await;
            if cards.is_empty() {
                say("no network interface has a link; looking again");
            }
            // The one that the machine was booted from first.
            cards.sort_by_key(|card| Some(card.mac) != preferred);
            for card in cards {
                let Interface { name, mac, .. } = &card;
                say(&format!("{name} ({mac}): asking DHCP and routers for an address"));
                let (ready, mut is_ready) = mpsc::unbounded_channel();
                let mac = *mac;
                let target = Target {
                    links: self.links.clone(),
                    names: self.names.clone(),
                    interface: card,
                    routes: Vec::new(),
                    rank: FIRST_RANK,
                    ready,
                };
                let mut tasks = JoinSet::new();
                tasks.spawn(target.clone().dhcp4());
                tasks.spawn(target.ipv6(Six::AsRoutersSay));
                if let Ok(Some(())) = tokio::time::timeout(PATIENCE, is_ready.recv()).await {
                    self.lock().spawn(async move {
                        tokio::select! {
                            () = async { while is_ready.recv().await.is_some() {} } => {}
                            _ = tasks.join_next() => {}
                        }
                    });
                    return Some(mac);
                }
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Brings all cards up and waits for links.
    async fn with_carrier(&self) -> Vec<Interface> {
        let started = Instant::now();
        let mut first = None;
        loop {
            let cards = self.links.nics().cards();
            for card in &cards {
                if let Err(error) = self.links.up(card.index).await {
                    tracing::warn!(interface = card.name, %error, "the interface does not come up");
                }
            }
            let all = cards.len();
            let up: Vec<_> = cards.into_iter().filter(Interface::carrier).collect();
            if !up.is_empty() {
                let first = *first.get_or_insert_with(Instant::now);
                if up.len() == all || first.elapsed() > OTHERS {
                    return up;
                }
            }
            if started.elapsed() > CARRIER {
                return Vec::new();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the links of a plan, as far as there are cards for them, and gives them addresses.
struct Make {
    links: Links,
    names: Arc<Names>,
    plan: NetworkPlan,
    ready: mpsc::UnboundedSender<()>,
    made: BTreeMap<String, Interface>,
    tasks: JoinSet<()>,
}

impl Make {
    /// Goes on until all is made, then watches over it.
    async fn run(mut self) {
        let plan = self.plan.clone();
        let mut begun = vec![false; plan.networks().len()];
        let mut said = String::new();
        loop {
            let mut missing = Vec::new();
            for link in plan.links() {
                match self.make(link).await {
                    Ok(interface) => {
                        self.made.insert(link.name.clone(), interface);
                    }
                    Err(why) => missing.push(format!("{}: {why}", link.name)),
                }
            }
            self.others_up().await;
            for (number, (network, begun)) in plan.networks().iter().zip(&mut begun).enumerate() {
                let Some(interface) = self.made.get(&network.link).filter(|_| !*begun) else { continue };
                *begun = true;
                let position =
                    plan.links().iter().position(|link| link.name == network.link).unwrap_or(number);
                let target = Target {
                    links: self.links.clone(),
                    names: self.names.clone(),
                    interface: interface.clone(),
                    routes: plan
                        .routes()
                        .iter()
                        .filter(|route| route.link == network.link)
                        .cloned()
                        .collect(),
                    rank: FIRST_RANK + u32::try_from(position).unwrap_or(0),
                    ready: self.ready.clone(),
                };
                match network.addressing {
                    Addressing::Static { address, prefix } => self.tasks.spawn(target.given(address, prefix)),
                    Addressing::Dhcp4 => self.tasks.spawn(target.dhcp4()),
                    Addressing::Dhcp6 => self.tasks.spawn(target.ipv6(Six::Stateful)),
                    Addressing::Slaac => self.tasks.spawn(target.ipv6(Six::Slaac)),
                };
            }
            if missing.is_empty() {
                break;
            }
            let message = missing.join("; ");
            if message != said {
                say(&format!("the network is not complete: {message}"));
                said = message;
            }
            tokio::time::sleep(ROUND).await;
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Makes one link, or what is missing of it. The error: what is still missing.
    async fn make(&self, link: &Link) -> Result<Interface, String> {
        let said = |error: rtnetlink::Error| error.to_string();
        let interface = match &link.kind {
            LinkKind::Nic { mac } => self.card(*mac)?,
            LinkKind::Bond { members, .. } => {
                let bond = match Interface::named(&link.name) {
                    Some(bond) => bond,
                    None => self.bond(link).await?,
                };
                let mut missing = Vec::new();
                for member in members {
                    match self.made.get(member) {
                        Some(card) => {
                            self.links.enslave(card, &bond).await.map_err(|error| {
                                format!("{} cannot be made part of it: {error}", card.name)
                            })?;
                        }
                        None => missing.push(member.as_str()),
                    }
                }
                if missing.len() == members.len() {
                    return Err("none of its cards is there".to_owned());
                }
                bond
            }
            LinkKind::Vlan { parent, id, mac } => match Interface::named(&link.name) {
                Some(vlan) => vlan,
                None => {
                    let parent = self.made.get(parent).ok_or("the link below it is not there")?;
                    let added = self.links.add_vlan(&link.name, parent.index, *id, *mac).await;
                    added.map_err(|error| format!("the VLAN cannot be made: {error}"))?;
                    Interface::named(&link.name).ok_or("the VLAN has no interface")?
                }
            },
        };
        if self.made.contains_key(&link.name) {
            return Ok(interface);
        }
        if let Some(mtu) = link.mtu {
            self.links.mtu(interface.index, mtu).await.map_err(said)?;
        }
        let routers = self.plan.networks().iter().any(|network| {
            network.link == link.name && matches!(network.addressing, Addressing::Slaac | Addressing::Dhcp6)
        });
        interface.accept_routers(routers);
        self.links.up(interface.index).await.map_err(said)?;
        Ok(interface)
    }

    fn card(&self, mac: Mac) -> Result<Interface, String> {
        let found = self.links.nics().cards().into_iter().find(|card| card.mac == mac);
        found.ok_or_else(|| format!("no network interface has the MAC address {mac}"))
    }

    async fn bond(&self, link: &Link) -> Result<Interface, String> {
        let LinkKind::Bond { mode, mac, miimon, hash, lacp_fast, .. } = &link.kind else {
            return Err("it is no bond".to_owned());
        };
        let bond = Bond {
            mode: *mode,
            miimon: miimon.unwrap_or(MIIMON),
            hash: *hash,
            lacp_fast: *lacp_fast,
            mac: *mac,
        };
        let added = self.links.add_bond(&link.name, &bond).await;
        added.map_err(|error| format!("the bond cannot be made: {error}"))?;
        Interface::named(&link.name).ok_or_else(|| "the bond has no interface".to_owned())
    }

    /// Cards of which the plan says nothing get no address, but their links and neighbours are to be seen.
    async fn others_up(&self) {
        for card in self.links.nics().cards() {
            let planned =
                self.plan.links().iter().any(|l| matches!(l.kind, LinkKind::Nic { mac } if mac == card.mac));
            if !planned {
                card.accept_routers(false);
                let _ = self.links.up(card.index).await;
            }
        }
    }
}

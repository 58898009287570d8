//! The plan as text, there and back.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{
    Addressing, BondMode, HashPolicy, KEY, Link, LinkKind, Mac, Network, NetworkPlan, NetworkPlanError,
    Route, check::longest,
};

const MODES: [(BondMode, &str); 7] = [
    (BondMode::BalanceRr, "balance-rr"),
    (BondMode::ActiveBackup, "active-backup"),
    (BondMode::BalanceXor, "balance-xor"),
    (BondMode::Broadcast, "broadcast"),
    (BondMode::Lacp, "802.3ad"),
    (BondMode::BalanceTlb, "balance-tlb"),
    (BondMode::BalanceAlb, "balance-alb"),
];

const POLICIES: [(HashPolicy, &str); 6] = [
    (HashPolicy::Layer2, "layer2"),
    (HashPolicy::Layer23, "layer2+3"),
    (HashPolicy::Layer34, "layer3+4"),
    (HashPolicy::Encap23, "encap2+3"),
    (HashPolicy::Encap34, "encap3+4"),
    (HashPolicy::VlanSrcMac, "vlan+srcmac"),
];

impl BondMode {
    /// All names, as Linux has them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        MODES.into_iter().map(|(_, name)| name)
    }

    /// The name, as Linux has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        MODES.into_iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }

    /// The mode of this name.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        MODES.into_iter().find(|(_, name)| *name == text).map(|(mode, _)| mode)
    }
}

impl HashPolicy {
    /// All names, as Linux has them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        POLICIES.into_iter().map(|(_, name)| name)
    }

    /// The name, as Linux has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        POLICIES.into_iter().find(|(policy, _)| *policy == self).map_or("", |(_, name)| name)
    }

    /// The policy of this name.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        POLICIES.into_iter().find(|(_, name)| *name == text).map(|(policy, _)| policy)
    }
}

impl Mac {
    /// The six bytes, unless they are a group's address or nothing.
    #[must_use]
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// The six bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    /// `aa:bb:cc:dd:ee:ff`, also with dashes and in capitals.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "it is no MAC address of one card, such as 52:54:00:12:34:56";
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or(WRONG)?;
            let fine = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| fine).ok_or(WRONG)?;
        }
        if parts.next().is_some() {
            return Err(WRONG);
        }
        Self::new(bytes).ok_or(WRONG)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

pub(super) fn write(plan: &NetworkPlan) -> String {
    let mut words: Vec<String> = plan.links.iter().map(write_link).collect();
    words.extend(plan.networks.iter().map(|network| {
        let how = match network.addressing {
            Addressing::Static { address, prefix } => format!("{address}/{prefix}"),
            Addressing::Dhcp4 => "dhcp4".to_owned(),
            Addressing::Dhcp6 => "dhcp6".to_owned(),
            Addressing::Slaac => "slaac".to_owned(),
        };
        format!("ip:{},{how}", network.link)
    }));
    words.extend(plan.routes.iter().map(|route| {
        format!("route:{},{}/{},{}", route.link, route.destination, route.prefix, route.gateway)
    }));
    if !plan.name_servers.is_empty() {
        let servers: Vec<String> = plan.name_servers.iter().map(ToString::to_string).collect();
        words.push(format!("dns:{}", servers.join(",")));
    }
    words.iter().map(|word| format!("{KEY}{word}")).collect::<Vec<_>>().join(" ")
}

fn write_link(link: &Link) -> String {
    let name = &link.name;
    let mut options = Vec::new();
    let head = match &link.kind {
        LinkKind::Nic { mac } => format!("nic:{name},{mac}"),
        LinkKind::Bond { mode, members, mac, miimon, hash, lacp_fast } => {
            options.extend(mac.map(|mac| format!("mac={mac}")));
            options.extend(miimon.map(|ms| format!("miimon={ms}")));
            options.extend(hash.map(|hash| format!("hash={}", hash.as_str())));
            options.extend(lacp_fast.then(|| "lacp=fast".to_owned()));
            format!("bond:{name},{},{}", mode.as_str(), members.join("+"))
        }
        LinkKind::Vlan { parent, id, mac } => {
            options.extend(mac.map(|mac| format!("mac={mac}")));
            format!("vlan:{name},{parent},{id}")
        }
    };
    options.extend(link.mtu.map(|mtu| format!("mtu={mtu}")));
    std::iter::once(head).chain(options).collect::<Vec<_>>().join(",")
}

pub(super) fn parse(cmdline: &str) -> Result<Option<NetworkPlan>, NetworkPlanError> {
    let words: Vec<&str> =
        cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix(KEY)).collect();
    if words.is_empty() {
        return Ok(None);
    }
    let mut plan = NetworkPlan::default();
    for word in words {
        read(&mut plan, word)
            .map_err(|cause| NetworkPlanError::Argument { text: word.chars().take(100).collect(), cause })?;
    }
    // In whatever order somebody wrote them.
    plan.links.sort_by_key(|link| match link.kind {
        LinkKind::Nic { .. } => 0,
        LinkKind::Bond { .. } => 1,
        LinkKind::Vlan { .. } => 2,
    });
    NetworkPlan::new(plan.links, plan.networks, plan.routes, plan.name_servers).map(Some)
}

fn read(plan: &mut NetworkPlan, word: &str) -> Result<(), String> {
    let (kind, rest) = word.split_once(':').unwrap_or((word, ""));
    let parts: Vec<&str> = rest.split(',').collect();
    let need = |form: &str| format!("the form is {KEY}{form}");
    match kind {
        "nic" => {
            let [name, mac, options @ ..] = parts.as_slice() else {
                return Err(need("nic:NAME,MAC[,mtu=N]"));
            };
            let options = Options::read(options, &["mtu"])?;
            plan.links.push(Link {
                name: (*name).to_owned(),
                mtu: options.number("mtu")?,
                kind: LinkKind::Nic { mac: mac.parse()? },
            });
        }
        "bond" => {
            let [name, mode, members, options @ ..] = parts.as_slice() else {
                return Err(need("bond:NAME,MODE,NIC+NIC…[,OPTION=VALUE…]"));
            };
            let options = Options::read(options, &["mac", "mtu", "miimon", "hash", "lacp"])?;
            let named =
                |text: &str| HashPolicy::named(text).ok_or(format!("there is no hash policy {text:?}"));
            plan.links.push(Link {
                name: (*name).to_owned(),
                mtu: options.number("mtu")?,
                kind: LinkKind::Bond {
                    mode: BondMode::named(mode).ok_or(format!("there is no bond mode {mode:?}"))?,
                    members: members.split('+').map(str::to_owned).collect(),
                    mac: options.mac()?,
                    miimon: options.number("miimon")?,
                    hash: options.get("hash").map(named).transpose()?,
                    lacp_fast: match options.get("lacp") {
                        None | Some("slow") => false,
                        Some("fast") => true,
                        Some(other) => return Err(format!("lacp is fast or slow, not {other:?}")),
                    },
                },
            });
        }
        "vlan" => {
            let [name, parent, id, options @ ..] = parts.as_slice() else {
                return Err(need("vlan:NAME,LINK,ID[,mac=M][,mtu=N]"));
            };
            let options = Options::read(options, &["mac", "mtu"])?;
            plan.links.push(Link {
                name: (*name).to_owned(),
                mtu: options.number("mtu")?,
                kind: LinkKind::Vlan { parent: (*parent).to_owned(), id: vlan_id(id)?, mac: options.mac()? },
            });
        }
        "ip" => {
            let [link, how] = parts.as_slice() else { return Err(need("ip:LINK,ADDRESS/PREFIX")) };
            let addressing = match *how {
                "dhcp4" => Addressing::Dhcp4,
                "dhcp6" => Addressing::Dhcp6,
                "slaac" => Addressing::Slaac,
                address => {
                    let (address, prefix) = cidr(address)?;
                    Addressing::Static { address, prefix }
                }
            };
            plan.networks.push(Network { link: (*link).to_owned(), addressing });
        }
        "route" => {
            let [link, destination, gateway] = parts.as_slice() else {
                return Err(need("route:LINK,DESTINATION/PREFIX,GATEWAY"));
            };
            let (destination, prefix) = cidr(destination)?;
            let gateway = gateway.parse().map_err(|_| "the gateway is no address")?;
            plan.routes.push(Route { link: (*link).to_owned(), destination, prefix, gateway });
        }
        "dns" => {
            for server in parts {
                let server =
                    server.parse().map_err(|_| format!("{server:?} is no address of a name server"))?;
                plan.name_servers.push(server);
            }
        }
        _ => return read_short(plan, word),
    }
    Ok(())
}

/// `MAC,ADDRESS/PREFIX[,GATEWAY][,vlan=ID]`
fn read_short(plan: &mut NetworkPlan, word: &str) -> Result<(), String> {
    const FORM: &str = "the form is ferric.net=MAC,ADDRESS/PREFIX[,GATEWAY][,vlan=ID], or begins with nic:, bond:, \
                        vlan:, ip:, route: or dns:";
    let mut parts = word.split(',');
    let mac: Mac = parts
        .next()
        .unwrap_or_default()
        .parse()
        .map_err(|_| format!("it begins with no MAC address; {FORM}"))?;
    let address = parts.next().ok_or(format!("there is no ADDRESS/PREFIX; {FORM}"))?;
    let (address, prefix) = cidr(address)?;
    let (mut gateway, mut vlan) = (None, None);
    for part in parts {
        match part.strip_prefix("vlan=") {
            Some(id) => vlan = Some(vlan_id(id)?),
            None => gateway = Some(part.parse::<IpAddr>().map_err(|_| "the gateway is no address")?),
        }
    }
    let known = plan.links.iter().find(|l| matches!(l.kind, LinkKind::Nic { mac: taken } if taken == mac));
    let nic = known.map_or_else(|| format!("n{}", plan.links.len()), |link| link.name.clone());
    if known.is_none() {
        plan.links.push(Link { name: nic.clone(), mtu: None, kind: LinkKind::Nic { mac } });
    }
    let link = match vlan {
        None => nic,
        Some(id) => {
            let same = |l: &&Link| matches!(&l.kind, LinkKind::Vlan { parent, id: taken, .. } if *parent == nic && *taken == id);
            match plan.links.iter().find(same) {
                Some(link) => link.name.clone(),
                None => {
                    let name = format!("{nic}vlan{id}");
                    let kind = LinkKind::Vlan { parent: nic, id, mac: None };
                    plan.links.push(Link { name: name.clone(), mtu: None, kind });
                    name
                }
            }
        }
    };
    if let Some(gateway) = gateway {
        if gateway.is_ipv4() != address.is_ipv4() {
            return Err("address and gateway are of two families".to_owned());
        }
        let destination = if gateway.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u8; 16]) };
        plan.routes.push(Route { link: link.clone(), destination, prefix: 0, gateway });
    }
    plan.networks.push(Network { link, addressing: Addressing::Static { address, prefix } });
    Ok(())
}

fn vlan_id(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|id| (1..=4094).contains(id)).ok_or("the VLAN is not 1 to 4094".to_owned())
}

fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, prefix) = text.split_once('/').ok_or(format!("{text:?} is no ADDRESS/PREFIX"))?;
    let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is no address"))?;
    let prefix =
        prefix.parse().ok().filter(|p| *p <= longest(address)).ok_or("the prefix is out of range")?;
    Ok((address, prefix))
}

/// `mtu=9000` and the like.
struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    fn read(parts: &[&'a str], known: &[&str]) -> Result<Self, String> {
        let mut options: Vec<(&str, &str)> = Vec::new();
        for part in parts {
            let (name, value) = part.split_once('=').ok_or(format!("{part:?} is no OPTION=VALUE"))?;
            if !known.contains(&name) {
                return Err(format!("there is no option {name:?} here; there are {}", known.join(", ")));
            }
            if options.iter().any(|(other, _)| *other == name) {
                return Err(format!("{name} is given twice"));
            }
            options.push((name, value));
        }
        Ok(Self(options))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    fn number(&self, name: &str) -> Result<Option<u32>, String> {
        let parse = |value: &str| value.parse().map_err(|_| format!("{name} is no number"));
        self.get(name).map(parse).transpose()
    }

    fn mac(&self) -> Result<Option<Mac>, &'static str> {
        self.get("mac").map(str::parse).transpose()
    }
}

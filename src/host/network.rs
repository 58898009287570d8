//! The network of our agent on a host, from OpenStack's `network_data.json` to the kernel's command line. Pure.
//!
//! The form is that of Nova's metadata ("Network data" of the config drive; cloud-init reads it as its data source
//! OpenStack): links of `type` `phy`, `bond` and `vlan`, networks of `type` `ipv4`, `ipv4_dhcp`, `ipv6`, `ipv6_dhcp`,
//! `ipv6_slaac` and the like, services of `type` `dns`. As YAML too, which Metal3's templates write. What is not
//! understood is refused with the name of the field: an agent that cannot be reached is worse than one that is not booted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ferric_protocol::NetworkPlan;
use ferric_protocol::net::{Addressing, BondMode, HashPolicy, Link, LinkKind, Mac, Network, Route};
use serde_json::{Map, Value};

/// Largest network data that are read, in bytes. A host with a dozen links has four kilobytes.
const LARGEST: usize = 64 << 10;

/// Types of links that stand for a card: all that cloud-init takes for one.
const CARDS: [&str; 12] = [
    "phy",
    "physical",
    "ethernet",
    "bgpovs",
    "bridge",
    "cascading",
    "dvs",
    "hostdev_physical",
    "hw_veb",
    "ovs",
    "tap",
    "vif",
];

/// Network data that cannot be used: where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Refused {
    /// Path of the field, such as `links[1].bond_mode`.
    field: String,
    /// What is wrong and what is to be done, as a phrase.
    why: String,
}

/// Understands network data.
pub fn translate(bytes: &[u8]) -> Result<NetworkPlan, Refused> {
    let whole = At::root("network data");
    if bytes.len() > LARGEST {
        return Err(whole.refuse(format!("{} bytes, at most {LARGEST} are read", bytes.len())));
    }
    let data: Value = serde_yaml_ng::from_slice(bytes)
        .map_err(|error| whole.refuse(format!("neither JSON nor YAML: {error}")))?;
    let Value::Object(data) = data else {
        return Err(whole.refuse("an object with links, networks and services is expected"));
    };
    let root = At::root("");
    let mut names = Names::default();
    let mut links = Vec::new();
    for (at, link) in root.list(&data, "links")? {
        names.add(&at, &link)?;
        links.push((at, link));
    }
    if links.is_empty() {
        return Err(At::root("links").refuse("there is none: name the cards by their ethernet_mac_address"));
    }
    let mut made = Vec::new();
    for (at, link) in &links {
        made.push(read_link(at, link, &names)?);
    }
    made.sort_by_key(|link| match link.kind {
        LinkKind::Nic { .. } => 0,
        LinkKind::Bond { .. } => 1,
        LinkKind::Vlan { .. } => 2,
    });
    let (mut networks, mut routes, mut servers) = (Vec::new(), Vec::new(), Vec::new());
    for (at, network) in root.list(&data, "networks")? {
        read_network(&at, &network, &names, &mut networks, &mut routes, &mut servers)?;
    }
    for (at, service) in root.list(&data, "services")? {
        read_service(&at, &service, &mut servers)?;
    }
    NetworkPlan::new(made, networks, routes, servers)
        .map_err(|error| whole.refuse(names.as_given(&error.to_string())))
}

/// Objects of a list, each with where it stands.
type Objects = Vec<(At, Map<String, Value>)>;

/// Where in the data something stands.
#[derive(Debug, Clone)]
struct At(String);

impl At {
    fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    fn refuse(&self, why: impl Into<String>) -> Refused {
        Refused { field: self.0.clone(), why: why.into() }
    }

    /// The objects of a list; none where the list is absent or null.
    fn list(&self, object: &Map<String, Value>, name: &str) -> Result<Objects, Refused> {
        let at = self.field(name);
        let items = match object.get(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(at.refuse("a list is expected")),
        };
        let object = |(number, item): (usize, &Value)| {
            let at = Self(format!("{}[{number}]", at.0));
            match item {
                Value::Object(object) => Ok((at, object.clone())),
                _ => Err(at.refuse("an object is expected")),
            }
        };
        items.iter().enumerate().map(object).collect()
    }

    /// A text; a number where one is written so.
    fn text(&self, object: &Map<String, Value>, name: &str) -> Result<Option<String>, Refused> {
        match object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.field(name).refuse("a text is expected")),
        }
    }

    fn needed(&self, object: &Map<String, Value>, name: &str) -> Result<String, Refused> {
        let text = self.text(object, name)?.filter(|text| !text.is_empty());
        text.ok_or_else(|| self.field(name).refuse("it is missing: set it"))
    }

    fn number(&self, object: &Map<String, Value>, name: &str) -> Result<Option<u32>, Refused> {
        let text = self.text(object, name)?;
        let parse = |text: String| {
            text.parse().map_err(|_| self.field(name).refuse(format!("{text:?} is no number")))
        };
        text.map(parse).transpose()
    }

    fn mac(&self, object: &Map<String, Value>, name: &str) -> Result<Option<Mac>, Refused> {
        let text = self.text(object, name)?.filter(|text| !text.is_empty());
        let parse =
            |text: String| text.parse().map_err(|why| self.field(name).refuse(format!("{text:?}: {why}")));
        text.map(parse).transpose()
    }

    fn address(&self, object: &Map<String, Value>, name: &str) -> Result<Option<IpAddr>, Refused> {
        let text = self.text(object, name)?.filter(|text| !text.is_empty());
        let parse = |text: String| {
            text.parse().map_err(|_| self.field(name).refuse(format!("{text:?} is no IP address")))
        };
        text.map(parse).transpose()
    }
}

/// What links are called in the data and on the kernel's command line: an ID may be as long as a UUID.
#[derive(Debug, Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn add(&mut self, at: &At, link: &Map<String, Value>) -> Result<(), Refused> {
        let id = at.needed(link, "id")?;
        if self.get(&id).is_some() {
            return Err(at
                .field("id")
                .refuse(format!("{id:?} is the ID of another link too: give each its own")));
        }
        let letter = match at.text(link, "type")?.as_deref() {
            Some("bond") => 'b',
            Some("vlan") => 'v',
            _ => 'l',
        };
        let number = self.0.iter().filter(|(_, name)| name.starts_with(letter)).count();
        self.0.push((id, format!("{letter}{number}")));
        Ok(())
    }

    fn get(&self, id: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == id).map(|(_, name)| name.as_str())
    }

    fn named(&self, at: &At, id: &str) -> Result<String, Refused> {
        self.get(id).map(str::to_owned).ok_or_else(|| at.refuse(format!("no link has the ID {id:?}")))
    }

    /// A sentence with the short names in it, with those of the data.
    fn as_given(&self, sentence: &str) -> String {
        let mut given = sentence.to_owned();
        for (id, name) in &self.0 {
            given = given.replace(&format!("{name:?}"), &format!("{id:?}"));
        }
        given
    }
}

fn read_link(at: &At, link: &Map<String, Value>, names: &Names) -> Result<Link, Refused> {
    let name = names.named(&at.field("id"), &at.needed(link, "id")?)?;
    let kind = at.needed(link, "type")?;
    let kind = match kind.as_str() {
        "bond" => read_bond(at, link, names)?,
        "vlan" => {
            let parent = names.named(&at.field("vlan_link"), &at.needed(link, "vlan_link")?)?;
            at.needed(link, "vlan_id")?;
            let id = at.number(link, "vlan_id")?.and_then(|id| u16::try_from(id).ok());
            let id = id.filter(|id| (1..=4094).contains(id));
            LinkKind::Vlan {
                parent,
                id: id.ok_or_else(|| at.field("vlan_id").refuse("it is not 1 to 4094"))?,
                mac: at.mac(link, "vlan_mac_address")?,
            }
        }
        card if CARDS.contains(&card) => {
            at.needed(link, "ethernet_mac_address")?;
            let mac = at.mac(link, "ethernet_mac_address")?;
            LinkKind::Nic {
                mac: mac.ok_or_else(|| at.field("ethernet_mac_address").refuse("it is missing"))?,
            }
        }
        other => {
            let why = format!("{other:?} is not supported: use phy, bond or vlan");
            return Err(at.field("type").refuse(why));
        }
    };
    Ok(Link { name, mtu: at.number(link, "mtu")?, kind })
}

fn read_bond(at: &At, link: &Map<String, Value>, names: &Names) -> Result<LinkKind, Refused> {
    let given = match link.get("bond_links") {
        Some(Value::Array(given)) if !given.is_empty() => given,
        _ => return Err(at.field("bond_links").refuse("it lists no links: name at least one")),
    };
    let mut members = Vec::new();
    for (number, member) in given.iter().enumerate() {
        let at = At(format!("{}.bond_links[{number}]", at.0));
        let id = member.as_str().ok_or_else(|| at.refuse("the ID of a link is expected"))?;
        members.push(names.named(&at, id)?);
    }
    let choice = |field: &str, given: &str, known: Vec<&str>| {
        at.field(field).refuse(format!("{given:?} is not supported: use one of {}", known.join(", ")))
    };
    let mode = at.needed(link, "bond_mode")?;
    let mode =
        BondMode::named(&mode).ok_or_else(|| choice("bond_mode", &mode, BondMode::names().collect()))?;
    let field = "bond_xmit_hash_policy";
    let hash = match at.text(link, field)? {
        None => None,
        Some(text) => Some(
            HashPolicy::named(&text).ok_or_else(|| choice(field, &text, HashPolicy::names().collect()))?,
        ),
    };
    let lacp_fast = match at.text(link, "bond_lacp_rate")?.as_deref() {
        None | Some("slow" | "0") => false,
        Some("fast" | "1") => true,
        Some(other) => return Err(choice("bond_lacp_rate", other, vec!["slow", "fast"])),
    };
    let known = ["bond_links", "bond_mode", "bond_miimon", field, "bond_lacp_rate"];
    if let Some(other) = link.keys().find(|key| key.starts_with("bond_") && !known.contains(&key.as_str())) {
        return Err(at
            .field(other)
            .refuse(format!("it is not supported: leave it out; known are {}", known.join(", "))));
    }
    Ok(LinkKind::Bond {
        mode,
        members,
        mac: at.mac(link, "ethernet_mac_address")?,
        miimon: at.number(link, "bond_miimon")?,
        hash,
        lacp_fast,
    })
}

fn read_network(
    at: &At,
    network: &Map<String, Value>,
    names: &Names,
    networks: &mut Vec<Network>,
    routes: &mut Vec<Route>,
    servers: &mut Vec<IpAddr>,
) -> Result<(), Refused> {
    let link = names.named(&at.field("link"), &at.needed(network, "link")?)?;
    let kind = at.needed(network, "type")?;
    let (addressing, v4) = match kind.as_str() {
        "ipv4" => (read_static(at, network, true)?, true),
        "ipv6" => (read_static(at, network, false)?, false),
        "ipv4_dhcp" => (Addressing::Dhcp4, true),
        "ipv6_dhcp" | "ipv6_dhcpv6-stateful" => (Addressing::Dhcp6, false),
        "ipv6_slaac" | "ipv6_dhcpv6-stateless" => (Addressing::Slaac, false),
        other => {
            let why = format!(
                "{other:?} is not supported: use ipv4, ipv4_dhcp, ipv6, ipv6_dhcp, ipv6_dhcpv6-stateful, ipv6_slaac or \
                 ipv6_dhcpv6-stateless"
            );
            return Err(at.field("type").refuse(why));
        }
    };
    let own_family = |at: &At, name: &str, address: IpAddr| {
        let why = format!("{address} is of the other family than the network's type {kind}");
        if address.is_ipv4() == v4 { Ok(address) } else { Err(at.field(name).refuse(why)) }
    };
    let all: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    if let Some(gateway) = at.address(network, "gateway")? {
        let gateway = own_family(at, "gateway", gateway)?;
        routes.push(Route { link: link.clone(), destination: all, prefix: 0, gateway });
    }
    for (at, route) in at.list(network, "routes")? {
        at.needed(&route, "network")?;
        let (destination, prefix) = network_and_prefix(&at, &route, "network")?;
        let destination = own_family(&at, "network", destination)?;
        at.needed(&route, "gateway")?;
        let gateway = at.address(&route, "gateway")?.unwrap_or(all);
        let gateway = own_family(&at, "gateway", gateway)?;
        let route = Route { link: link.clone(), destination, prefix, gateway };
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    for (at, service) in at.list(network, "services")? {
        read_service(&at, &service, servers)?;
    }
    if let Some(Value::Array(given)) = network.get("dns_nameservers") {
        for (number, server) in given.iter().enumerate() {
            let at = At(format!("{}.dns_nameservers[{number}]", at.0));
            let server = server.as_str().and_then(|text| text.trim().parse().ok());
            add(servers, server.ok_or_else(|| at.refuse("an IP address is expected"))?);
        }
    }
    networks.push(Network { link, addressing });
    Ok(())
}

fn read_static(at: &At, network: &Map<String, Value>, v4: bool) -> Result<Addressing, Refused> {
    at.needed(network, "ip_address")?;
    let (address, prefix) = network_and_prefix(at, network, "ip_address")?;
    if address.is_ipv4() != v4 {
        let why = format!("{address} is of the other family than the network's type");
        return Err(at.field("ip_address").refuse(why));
    }
    Ok(Addressing::Static { address, prefix })
}

/// An address with its prefix: behind a slash, or as `netmask`, which is a mask or a number of bits.
fn network_and_prefix(at: &At, object: &Map<String, Value>, name: &str) -> Result<(IpAddr, u8), Refused> {
    let text = at.needed(object, name)?;
    let (address, behind) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.to_owned())),
        None => (text.as_str(), None),
    };
    let address: IpAddr =
        address.parse().map_err(|_| at.field(name).refuse(format!("{text:?} is no IP address")))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let (field, mask) = match behind {
        Some(prefix) => (name, prefix),
        None => ("netmask", at.needed(object, "netmask")?),
    };
    let prefix = match mask.parse::<IpAddr>() {
        Ok(IpAddr::V4(mask)) if address.is_ipv4() => bits(u32::from(mask).into(), 32),
        Ok(IpAddr::V6(mask)) if address.is_ipv6() => bits(u128::from(mask), 128),
        Ok(_) => None,
        Err(_) => mask.parse::<u8>().ok().filter(|prefix| *prefix <= longest),
    };
    let why = format!(
        "{mask:?} is no mask of {address}: use one such as {}",
        if longest == 32 { "255.255.255.0" } else { "64" }
    );
    prefix.map(|prefix| (address, prefix)).ok_or_else(|| at.field(field).refuse(why))
}

/// The ones of a mask, if they all come first.
fn bits(mask: u128, width: u32) -> Option<u8> {
    let ones = mask.count_ones();
    let whole = if ones == 0 { 0 } else { (u128::MAX >> (128 - ones)) << (width - ones) };
    (mask == whole).then(|| u8::try_from(ones).ok()).flatten()
}

fn read_service(at: &At, service: &Map<String, Value>, servers: &mut Vec<IpAddr>) -> Result<(), Refused> {
    let kind = at.needed(service, "type")?;
    if kind != "dns" {
        return Err(at.field("type").refuse(format!("{kind:?} is not supported: there is dns alone")));
    }
    at.needed(service, "address")?;
    if let Some(address) = at.address(service, "address")? {
        add(servers, address);
    }
    Ok(())
}

fn add(servers: &mut Vec<IpAddr>, server: IpAddr) {
    if !servers.contains(&server) {
        servers.push(server);
    }
}

/// Whether the arguments fit into what is left of the kernel's command line, in bytes.
pub fn fits(arguments: &str, room: usize) -> Result<(), Refused> {
    if arguments.len() < room {
        return Ok(());
    }
    Err(At::root("network data").refuse(format!(
        "it takes {} bytes of the kernel's command line, which has room for {room} beside the boot data: describe only \
         what the agent needs",
        arguments.len()
    )))
}

/// The sentence for a condition: which Secret, which field, what to do.
pub fn complaint(secret: &str, key: &str, refused: &Refused) -> String {
    format!(
        "Secret {secret} (spec.preprovisioningNetworkDataName), key {key}: {refused}. Nothing is booted until it is mended"
    )
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;

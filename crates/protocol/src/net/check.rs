//! What must hold within a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Addressing, KEY, Link, LinkKind, MAX_TEXT, NetworkPlan};

/// Most links, networks, routes, or name servers. More would not fit into the text anyway.
const MOST: usize = 32;
/// Longest name of a link. Linux takes 15 characters (`IFNAMSIZ` of linux/if.h).
const LONGEST_NAME: usize = 12;
/// Least and most MTU: what every IPv4 host must take (RFC 791, 3.1), and what the field of the length can say.
const MTU: std::ops::RangeInclusive<u32> = 576..=65_535;
/// Milliseconds between two looks at a carrier.
const MIIMON: std::ops::RangeInclusive<u32> = 1..=10_000;

/// A network that cannot be made as described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkPlanError {
    /// An argument that cannot be read.
    #[error("{KEY}{text}: {cause}")]
    Argument {
        /// The argument's value, cut at 100 characters.
        text: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Parts that contradict each other.
    #[error("link {link:?}: {cause}")]
    Link {
        /// Name of the link.
        link: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Something about the whole.
    #[error("{0}")]
    Whole(String),
}

pub(super) fn check(plan: &NetworkPlan) -> Result<(), NetworkPlanError> {
    for (what, count) in [
        ("links", plan.links.len()),
        ("networks", plan.networks.len()),
        ("routes", plan.routes.len()),
        ("name servers", plan.name_servers.len()),
    ] {
        if count > MOST {
            return Err(NetworkPlanError::Whole(format!("{count} {what}, at most {MOST} are taken")));
        }
    }
    let mut known: BTreeMap<&str, &Link> = BTreeMap::new();
    let mut enslaved: BTreeMap<&str, &str> = BTreeMap::new();
    for link in &plan.links {
        let error = |cause: String| NetworkPlanError::Link { link: link.name.clone(), cause };
        check_name(&link.name).map_err(error)?;
        if link.mtu.is_some_and(|mtu| !MTU.contains(&mtu)) {
            return Err(error(format!("the MTU is not {} to {}", MTU.start(), MTU.end())));
        }
        check_kind(link, &known, &mut enslaved).map_err(error)?;
        if known.insert(&link.name, link).is_some() {
            return Err(error("there are two of this name".to_owned()));
        }
    }
    check_masters(plan, &enslaved)?;
    let usable = |name: &str| -> Result<(), NetworkPlanError> {
        let error = |cause: &str| NetworkPlanError::Link { link: name.to_owned(), cause: cause.to_owned() };
        if !known.contains_key(name) {
            return Err(error("it has an address or a route but is not described"));
        }
        match enslaved.get(name) {
            Some(bond) => Err(error(&format!("it is part of {bond:?}, which is to have the address"))),
            None => Ok(()),
        }
    };
    for network in &plan.networks {
        usable(&network.link)?;
        if let Addressing::Static { address, prefix } = network.addressing {
            let error =
                |cause: &str| NetworkPlanError::Link { link: network.link.clone(), cause: cause.to_owned() };
            if prefix > longest(address) {
                return Err(error("the prefix is out of range"));
            }
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err(error("the address is none of a machine"));
            }
        }
    }
    for route in &plan.routes {
        usable(&route.link)?;
        let error =
            |cause: &str| NetworkPlanError::Link { link: route.link.clone(), cause: cause.to_owned() };
        if route.destination.is_ipv4() != route.gateway.is_ipv4() {
            return Err(error("address and gateway are of two families"));
        }
        if route.prefix > longest(route.destination) {
            return Err(error("the prefix of a route is out of range"));
        }
        if masked(route.destination, route.prefix) != route.destination {
            return Err(error("the destination of a route has bits beyond its prefix"));
        }
        if route.gateway.is_unspecified() || route.gateway.is_multicast() {
            return Err(error("the gateway is none"));
        }
    }
    if plan.name_servers.iter().any(|server| server.is_unspecified() || server.is_multicast()) {
        return Err(NetworkPlanError::Whole("an address of a name server is none".to_owned()));
    }
    if plan.networks.is_empty() {
        return Err(NetworkPlanError::Whole("no link is given an address".to_owned()));
    }
    let length = plan.to_kernel_args().len();
    if length > MAX_TEXT {
        let message = format!(
            "it takes {length} bytes of the kernel's command line, at most {MAX_TEXT} are left for it: describe only \
             what the agent needs"
        );
        return Err(NetworkPlanError::Whole(message));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fine = plain && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= LONGEST_NAME;
    if fine { Ok(()) } else { Err(format!("a name is 1 to {LONGEST_NAME} of a-z and 0-9, a letter first")) }
}

fn check_kind<'a>(
    link: &'a Link,
    known: &BTreeMap<&str, &'a Link>,
    enslaved: &mut BTreeMap<&'a str, &'a str>,
) -> Result<(), String> {
    match &link.kind {
        LinkKind::Nic { mac } => {
            let twice = known
                .values()
                .any(|other| matches!(&other.kind, LinkKind::Nic { mac: taken } if taken == mac));
            if twice { Err(format!("another link has its MAC address {mac}")) } else { Ok(()) }
        }
        LinkKind::Bond { members, miimon, .. } => {
            if members.is_empty() {
                return Err("a bond needs at least one card".to_owned());
            }
            if miimon.is_some_and(|ms| !MIIMON.contains(&ms)) {
                return Err(format!("miimon is not {} to {} ms", MIIMON.start(), MIIMON.end()));
            }
            for member in members {
                match known.get(member.as_str()) {
                    Some(Link { kind: LinkKind::Nic { .. }, .. }) => {}
                    Some(_) => return Err(format!("its part {member:?} is no card")),
                    None => return Err(format!("its part {member:?} is not described before it")),
                }
                if enslaved.insert(member, &link.name).is_some() {
                    return Err(format!("its part {member:?} is named twice"));
                }
            }
            Ok(())
        }
        LinkKind::Vlan { parent, id, .. } => {
            if !(1..=4094).contains(id) {
                return Err("the VLAN is not 1 to 4094".to_owned());
            }
            match known.get(parent.as_str()) {
                Some(Link { kind: LinkKind::Vlan { .. }, .. }) => {
                    Err(format!("a VLAN within the VLAN {parent:?} is not supported"))
                }
                Some(_) => Ok(()),
                None => Err(format!("the link {parent:?} below it is not described before it")),
            }
        }
    }
}

/// No VLAN stands on a card of a bond, and none twice on the same link.
fn check_masters(plan: &NetworkPlan, enslaved: &BTreeMap<&str, &str>) -> Result<(), NetworkPlanError> {
    let mut vlans = BTreeSet::new();
    for link in &plan.links {
        let LinkKind::Vlan { parent, id, .. } = &link.kind else { continue };
        let error = |cause: String| NetworkPlanError::Link { link: link.name.clone(), cause };
        if let Some(bond) = enslaved.get(parent.as_str()) {
            return Err(error(format!("the link {parent:?} below it is part of {bond:?}")));
        }
        if !vlans.insert((parent, id)) {
            return Err(error(format!("VLAN {id} is on {parent:?} twice")));
        }
    }
    Ok(())
}

pub(super) fn longest(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits beyond the prefix cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

//! Whether the machine that registered is the one behind the configured BMC: what that BMC says over the network, against
//! what the machine's own BMC says to the machine. Pure.
//!
//! No single fact decides. Addresses change and are translated, MAC addresses and UUIDs are the same on boards that nobody
//! programmed, serial numbers are typed in by hand, and the BMC of a chassis is none of its servers'. So there is a
//! mismatch only where two kinds of facts differ and none agrees, and a match only where two kinds agree and outnumber
//! those that differ. All else is not known, and stops nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ferric_api::hardware::InBandBmc;
use ferric_api::{BmcAddress, MacAddress};
use ferric_bmc::{ManagerFacts, SystemFacts};
use uuid::Uuid;

use super::duplicates::is_telling;

/// Most values of a kind that a sentence names.
const SHOWN: usize = 4;

/// What the configured BMC says, over the network.
#[derive(Debug, Clone, Copy)]
pub struct OutOfBand<'a> {
    /// Where it is.
    pub address: Option<&'a BmcAddress>,
    /// What it says of its server.
    pub facts: &'a SystemFacts,
    /// What it says of itself.
    pub manager: &'a ManagerFacts,
}

/// What the machine says, by its agent.
#[derive(Debug, Clone, Copy)]
pub struct InBand<'a> {
    /// System UUID, as SMBIOS has it.
    pub system_uuid: &'a str,
    /// Serial number, as SMBIOS has it.
    pub serial_number: &'a str,
    /// What its BMC said to it.
    pub bmc: &'a InBandBmc,
}

/// Whether they belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They do: these facts agree.
    Match(String),
    /// That cannot be told, and why.
    Unknown(String),
    /// They do not.
    Mismatch(Mismatch),
}

/// In what a BMC and a machine differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What the configured BMC says, for people.
    pub out_of_band: String,
    /// What the machine's BMC says, for people.
    pub in_band: String,
    /// One fact of the machine's BMC by which an operator accepts it.
    pub mark: String,
}

/// A kind of facts, from both sides. Each in the form in which it is compared.
struct Kind {
    name: &'static str,
    out_of_band: BTreeSet<String>,
    in_band: BTreeSet<String>,
    says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Agrees,
    Differs,
    Nothing,
}

/// Compares.
#[must_use]
pub fn compare(out: OutOfBand<'_>, within: InBand<'_>) -> Verdict {
    let kinds = [macs(out, within), addresses(out, within), uuids(out, within), serials(out, within)];
    let names =
        |says| -> Vec<&str> { kinds.iter().filter(|kind| kind.says == says).map(|kind| kind.name).collect() };
    let (agree, differ) = (names(Says::Agrees), names(Says::Differs));
    match (agree.len(), differ.len()) {
        (2.., _) if agree.len() > differ.len() => Verdict::Match(agree.join(", ")),
        (0, 0) => Verdict::Unknown("there is nothing that both of them tell".to_owned()),
        (0, 1) => Verdict::Unknown(format!("only one kind of fact differs, and none agrees: {}", differ[0])),
        // What differs may be in what is missing.
        (0, _) if !within.bmc.problem.is_empty() => {
            Verdict::Unknown(format!("the machine's BMC was not read to the end: {}", within.bmc.problem))
        }
        (0, _) => match mark(within.bmc) {
            Some(mark) => {
                let list = |side: fn(&Kind) -> &BTreeSet<String>| -> String {
                    let differing = kinds.iter().filter(|kind| kind.says == Says::Differs);
                    let parts: Vec<String> =
                        differing.map(|kind| format!("{} {}", kind.name, shown(side(kind)))).collect();
                    parts.join(", ")
                };
                Verdict::Mismatch(Mismatch {
                    out_of_band: list(|kind| &kind.out_of_band),
                    in_band: list(|kind| &kind.in_band),
                    mark,
                })
            }
            None => Verdict::Unknown("the machine's BMC has nothing that names it".to_owned()),
        },
        (_, 0) => Verdict::Unknown(format!(
            "only one kind of fact agrees, and no other is told by both: {}",
            agree[0]
        )),
        _ => Verdict::Unknown(format!(
            "some agree ({}), and some differ ({})",
            agree.join(", "),
            differ.join(", ")
        )),
    }
}

/// Whether an operator has accepted this machine's BMC. The value is compared in any case, and with or without colons.
#[must_use]
pub fn is_accepted(annotation: Option<&str>, mark: &str) -> bool {
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
    };
    annotation.is_some_and(|given| !plain(given).is_empty() && plain(given) == plain(mark))
}

/// What names a machine's BMC best: its MAC address, its GUID, a serial number.
fn mark(bmc: &InBandBmc) -> Option<String> {
    let mac = bmc.lan.iter().find_map(|lan| telling_mac(&lan.mac));
    let guid = || guid_of_hex(&bmc.system_guid).map(|guid| hex::encode(guid.as_bytes()));
    let serial = || serials_of(bmc).into_iter().next().map(str::to_owned);
    mac.or_else(guid).or_else(serial)
}

fn judge(out: &BTreeSet<String>, within: &BTreeSet<String>) -> Says {
    match (out.is_disjoint(within), out.is_empty() || within.is_empty()) {
        (false, _) => Says::Agrees,
        (true, true) => Says::Nothing,
        (true, false) => Says::Differs,
    }
}

/// The network of a BMC that manages several systems is not that of the one: that it differs says nothing.
fn unless_shared(says: Says, out: OutOfBand<'_>) -> Says {
    if out.manager.shared && says == Says::Differs { Says::Nothing } else { says }
}

fn macs(out: OutOfBand<'_>, within: InBand<'_>) -> Kind {
    let told = out.manager.macs.iter().filter_map(|mac| telling_mac(&mac.to_string())).collect();
    let seen = within.bmc.lan.iter().filter_map(|lan| telling_mac(&lan.mac)).collect();
    let says = unless_shared(judge(&told, &seen), out);
    Kind { name: "MAC address", out_of_band: told, in_band: seen, says }
}

/// A MAC address in its one spelling; `None` for a group's, for zeros, and for what is none.
fn telling_mac(text: &str) -> Option<String> {
    let mac: MacAddress = text.parse().ok()?;
    let octets = mac.octets();
    (octets[0] & 1 == 0 && octets != [0; 6]).then(|| mac.to_string())
}

/// The address that is configured can only agree: it may be a name, or be translated on its way.
fn addresses(out: OutOfBand<'_>, within: InBand<'_>) -> Kind {
    let told: BTreeSet<IpAddr> = out.manager.addresses.iter().copied().filter(is_telling_address).collect();
    let configured = out.address.and_then(|address| address.host().parse::<IpAddr>().ok());
    let seen: BTreeSet<IpAddr> = within
        .bmc
        .lan
        .iter()
        .flat_map(|lan| std::iter::once(&lan.ip).chain(&lan.ipv6))
        .filter_map(|text| text.parse().ok())
        .filter(is_telling_address)
        .collect();
    let agrees = seen.iter().any(|address| told.contains(address) || configured == Some(*address));
    // Who says one in IPv4 and who says one in IPv6 do not contradict each other.
    let both = |v4: bool| {
        let has = |set: &BTreeSet<IpAddr>| set.iter().any(|address| address.is_ipv4() == v4);
        has(&told) && has(&seen)
    };
    let says = match (agrees, both(true) || both(false)) {
        (true, _) => Says::Agrees,
        (false, true) => unless_shared(Says::Differs, out),
        (false, false) => Says::Nothing,
    };
    let text = |set: BTreeSet<IpAddr>| set.iter().map(ToString::to_string).collect();
    Kind { name: "address", out_of_band: text(told), in_band: text(seen), says }
}

/// An address that is not of one link, one host, a group or nobody. The loopback's are for simulated BMCs.
pub fn is_telling_address(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_unspecified() && !address.is_multicast() && !link_local
}

/// UUIDs are the same in each order of bytes that BMCs and firmware are known to give them in.
fn uuids(out: OutOfBand<'_>, within: InBand<'_>) -> Kind {
    let telling = |uuid: Option<Uuid>| uuid.filter(|uuid| is_telling(&uuid.hyphenated().to_string()));
    let of_text = |text: &str| telling(Uuid::try_parse(text.trim()).ok());
    let told: Vec<Uuid> = [
        out.facts.system_uuid.as_deref().and_then(of_text),
        telling(out.manager.system_guid.map(Uuid::from_bytes)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let seen: Vec<Uuid> =
        [of_text(within.system_uuid), guid_of_hex(&within.bmc.system_guid)].into_iter().flatten().collect();
    let agrees = told.iter().any(|a| seen.iter().any(|b| is_same_uuid(*a, *b)));
    let says = match (agrees, told.is_empty() || seen.is_empty()) {
        (true, _) => Says::Agrees,
        (false, true) => Says::Nothing,
        (false, false) => Says::Differs,
    };
    let text = |uuids: Vec<Uuid>| uuids.iter().map(ToString::to_string).collect();
    Kind { name: "UUID", out_of_band: text(told), in_band: text(seen), says }
}

fn guid_of_hex(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|uuid| is_telling(&uuid.hyphenated().to_string()))
}

/// Whether two can be the same UUID: as RFC 9562 prints it, with the first three fields the other way round (SMBIOS 3.7,
/// 7.2.1), or with all bytes the other way round (IPMI 2.0, 20.8).
fn is_same_uuid(a: Uuid, b: Uuid) -> bool {
    let swapped = |uuid: Uuid| Uuid::from_bytes(uuid.to_bytes_le());
    let reversed = |uuid: Uuid| {
        let mut bytes = *uuid.as_bytes();
        bytes.reverse();
        Uuid::from_bytes(bytes)
    };
    [a, swapped(a), reversed(a), reversed(swapped(a)), swapped(reversed(a))].contains(&b)
}

/// Those of board and chassis can only agree: out of band they may not be told.
fn serials(out: OutOfBand<'_>, within: InBand<'_>) -> Kind {
    let plain = |text: &str| Some(text.trim().to_ascii_lowercase()).filter(|text| is_telling(text));
    let told: BTreeSet<String> = out
        .facts
        .serial_number
        .iter()
        .chain(&out.manager.serial_numbers)
        .filter_map(|text| plain(text))
        .collect();
    let own: BTreeSet<String> =
        [within.serial_number, &within.bmc.product_serial_number].into_iter().filter_map(plain).collect();
    let all: BTreeSet<String> =
        own.iter().cloned().chain(serials_of(within.bmc).into_iter().filter_map(plain)).collect();
    let says = match judge(&told, &all) {
        Says::Differs => judge(&told, &own),
        says => says,
    };
    Kind { name: "serial number", out_of_band: told, in_band: all, says }
}

fn serials_of(bmc: &InBandBmc) -> Vec<&str> {
    let all = [&bmc.product_serial_number, &bmc.board_serial_number, &bmc.chassis_serial_number];
    all.into_iter().map(String::as_str).filter(|serial| is_telling(serial)).collect()
}

fn shown(values: &BTreeSet<String>) -> String {
    let more = values.len().saturating_sub(SHOWN);
    let list: Vec<&str> = values.iter().take(SHOWN).map(String::as_str).collect();
    let list = list.join(" and ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

#[cfg(test)]
#[path = "bmc_match_tests.rs"]
mod tests;

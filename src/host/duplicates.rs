//! One server, one host object: an index of what hosts say of the server they mean.
//!
//! Of several that mean one server, the first may act: the one that uses it before those that do not, then the oldest.
//! Age alone would let an old host whose address is mended by mistake wipe a server that a younger one runs a workload
//! on.
//!
//! Driven by observed hosts only; an entry whose host no longer says so is dropped when it is looked at.

use std::collections::HashMap;
use std::sync::Arc;

use ferric_api::{BareMetalHost, BmcAddress};
use jiff::Timestamp;

use crate::key::Key;

/// Order of host objects that mean one server. Creation is known to the second; of those made in the same one, the
/// enrolled comes first, so that nobody takes over from a host that is at work already.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    standing: Standing,
    created: Option<Timestamp>,
    new: bool,
    uid: String,
    key: Key,
}

/// How good a host's right to its server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Something runs on it, or is about to.
    InUse,
    /// It is free.
    Free,
    /// The server behind its BMC is not the one that its record is about.
    Stranger,
    /// It enrolled itself, and no operator has approved it: it stands in nobody's way.
    Unapproved,
}

impl Standing {
    fn of(host: &BareMetalHost, stranger: bool) -> Self {
        let spec = &host.spec;
        let record = spec.record.as_ref();
        let used = spec.consumer_ref.is_some()
            || spec.externally_provisioned
            || record.is_some_and(|r| r.claim.is_some() || r.image.is_some());
        match (stranger, used) {
            _ if spec.waits_for_approval() => Self::Unapproved,
            (true, _) => Self::Stranger,
            (false, true) => Self::InUse,
            (false, false) => Self::Free,
        }
    }
}

/// Which host objects name which server.
#[derive(Debug, Default)]
pub struct Duplicates {
    /// Almost always one host: a list of links takes a hundredth of the room of a sorted set.
    by_mark: HashMap<String, Vec<Arc<Rank>>>,
    marks_of: HashMap<Key, (Arc<Rank>, Vec<String>)>,
}

/// What a host object says of the server it means: the BMC system (normalised), the boot MAC, and the identity that
/// its record holds.
pub fn marks(host: &BareMetalHost) -> Vec<String> {
    let spec = &host.spec;
    let mut marks = Vec::new();
    if let Some(bmc) = &spec.bmc
        && let Ok(address) = bmc.address.parse::<BmcAddress>()
        // All servers of one network are woken by the same address.
        && !spec.wakes_only()
    {
        marks.push(format!("bmc {}", address.system_key()));
    }
    if let Some(mac) = spec.boot_mac_address.as_ref().filter(|mac| !mac.is_empty()) {
        marks.push(format!("mac {}", mac.to_ascii_lowercase()));
    }
    if let Some(identity) = spec.record.as_ref().and_then(|r| r.identity.as_ref()) {
        if let Some(uuid) = identity.system_uuid.as_ref().filter(|uuid| is_telling(uuid)) {
            marks.push(format!("uuid {}", uuid.to_ascii_lowercase()));
        }
        if let Some(serial) = identity.serial_number.as_ref().filter(|serial| is_telling(serial)) {
            marks.push(format!("serial {}", serial.to_ascii_lowercase()));
        }
    }
    marks
}

/// Boards that were never programmed all say the same: such a value tells nothing.
pub fn is_telling(value: &str) -> bool {
    let plain: String =
        value.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let unset = [
        "",
        "notspecified",
        "none",
        "unknown",
        "tobefilledbyoem",
        "defaultstring",
        "systemserialnumber",
        "na",
    ];
    !unset.contains(&plain.as_str())
        && !plain.chars().all(|c| c == '0')
        && !plain.chars().all(|c| c == 'f')
        && plain != "03000200040005000006000700080009"
}

/// The UUID with the byte order of its first three fields swapped. SMBIOS 2.6 (7.2.1) stores them little-endian, and
/// firmware and BMCs disagree about which order to print.
pub fn swapped_uuid(text: &str) -> Option<String> {
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    let (a, b, c, rest) = uuid.as_fields();
    Some(
        uuid::Uuid::from_fields(a.swap_bytes(), b.swap_bytes(), c.swap_bytes(), rest)
            .hyphenated()
            .to_string(),
    )
}

impl Duplicates {
    /// Takes in what a host says now. `stranger`: its BMC reports another machine than its record is about. Returns the
    /// other hosts for which that may change something.
    pub fn observe(&mut self, host: &BareMetalHost, stranger: bool) -> Vec<Key> {
        let key = Key::of(host);
        let marks = marks(host);
        let rank = Arc::new(Rank {
            standing: Standing::of(host, stranger),
            created: host.metadata.creation_timestamp.as_ref().map(|t| t.0),
            new: host.spec.record.as_ref().is_none_or(|record| record.identity.is_none()),
            uid: host.metadata.uid.clone().unwrap_or_default(),
            key: key.clone(),
        });
        if self.marks_of.get(&key).is_some_and(|known| known.0 == rank && known.1 == marks) {
            return Vec::new();
        }
        let mut others = self.remove(&key);
        for mark in &marks {
            self.by_mark.entry(mark.clone()).or_default().push(rank.clone());
        }
        let sharing = marks.iter().filter_map(|mark| self.by_mark.get(mark)).flatten();
        others.extend(sharing.map(|rank| &rank.key).filter(|other| **other != key).cloned());
        self.marks_of.insert(key, (rank, marks));
        others.sort_unstable();
        others.dedup();
        others
    }

    /// Forgets a host that is gone. Returns the other hosts that name the same server.
    pub fn remove(&mut self, key: &Key) -> Vec<Key> {
        let mut others = Vec::new();
        let Some((rank, marks)) = self.marks_of.remove(key) else { return others };
        for mark in marks {
            if let Some(set) = self.by_mark.get_mut(&mark) {
                set.retain(|other| *other != rank);
                others.extend(set.iter().map(|rank| rank.key.clone()));
                if set.is_empty() {
                    self.by_mark.remove(&mark);
                }
            }
        }
        others
    }

    /// The other host object that names the same server and has the better right to it.
    pub fn senior(&self, key: &Key) -> Option<Key> {
        let (rank, marks) = self.marks_of.get(key)?;
        marks
            .iter()
            .filter_map(|mark| self.by_mark.get(mark)?.iter().min())
            .filter(|first| *first < rank)
            .min()
            .map(|rank| rank.key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferric_api::host::{BareMetalHostSpec, BmcDetails};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn host(name: &str, created: i64, address: &str, mac: &str) -> BareMetalHost {
        let mut host = BareMetalHost::new(
            name,
            BareMetalHostSpec {
                bmc: Some(BmcDetails { address: address.to_owned(), ..BmcDetails::default() }),
                boot_mac_address: Some(mac.to_owned()),
                ..BareMetalHostSpec::default()
            },
        );
        host.metadata.namespace = Some("default".to_owned());
        host.metadata.uid = Some(format!("uid-{name}"));
        host.metadata.creation_timestamp = Timestamp::from_second(created).ok().map(Time);
        host
    }

    #[test]
    fn the_younger_of_two_hosts_with_one_bmc_waits_however_the_address_is_written() {
        let mut index = Duplicates::default();
        index.observe(
            &host("b", 2, "redfish-virtualmedia://BMC1:443/redfish/v1/Systems/1/", "52:54:00:00:00:02"),
            false,
        );
        index.observe(&host("a", 1, "redfish://bmc1/redfish/v1/Systems/1", "52:54:00:00:00:01"), false);
        assert_eq!(index.senior(&Key::new("default", "a")), None);
        assert_eq!(index.senior(&Key::new("default", "b")), Some(Key::new("default", "a")));
    }

    #[test]
    fn two_made_in_the_same_second_are_told_apart_by_uid() {
        let mut index = Duplicates::default();
        index.observe(&host("b", 1, "redfish://b", "52:54:00:00:00:01"), false);
        index.observe(&host("a", 1, "redfish://a", "52:54:00:00:00:01"), false);
        assert_eq!(index.senior(&Key::new("default", "b")), Some(Key::new("default", "a")));
    }

    #[test]
    fn of_two_made_in_the_same_second_the_one_at_work_stays_so() {
        let mut index = Duplicates::default();
        let mut enrolled = host("b", 1, "redfish://b", "52:54:00:00:00:01");
        let identity =
            ferric_api::host::HostIdentity { serial_number: Some("s".into()), ..Default::default() };
        enrolled.spec.record.get_or_insert_default().identity = Some(identity);
        index.observe(&enrolled, false);
        index.observe(&host("a", 1, "redfish://a", "52:54:00:00:00:01"), false);
        assert_eq!(index.senior(&Key::new("default", "b")), None);
        assert_eq!(index.senior(&Key::new("default", "a")), Some(Key::new("default", "b")));
    }

    #[test]
    fn an_edit_that_mends_the_address_frees_the_younger() {
        let mut index = Duplicates::default();
        index.observe(&host("a", 1, "redfish://a", "52:54:00:00:00:01"), false);
        index.observe(&host("b", 2, "redfish://a", "52:54:00:00:00:02"), false);
        let told = index.observe(&host("b", 2, "redfish://b", "52:54:00:00:00:02"), false);
        assert_eq!(told, [Key::new("default", "a")]);
        assert_eq!(index.senior(&Key::new("default", "b")), None);
        index.observe(&host("b", 2, "redfish://a", "52:54:00:00:00:02"), false);
        assert_eq!(index.remove(&Key::new("default", "a")), [Key::new("default", "b")]);
        assert_eq!(index.senior(&Key::new("default", "b")), None);
    }

    #[test]
    fn a_server_in_use_stays_with_the_host_that_uses_it() {
        let mut index = Duplicates::default();
        let mut used = host("used", 2, "redfish://b", "52:54:00:00:00:02");
        used.spec.externally_provisioned = true;
        index.observe(&used, false);
        // An older host whose address is edited to that of the server in use.
        index.observe(&host("older", 1, "redfish://b", "52:54:00:00:00:01"), false);
        assert_eq!(index.senior(&Key::new("default", "used")), None);
        assert_eq!(index.senior(&Key::new("default", "older")), Some(Key::new("default", "used")));
        // One that is in use as well but is about another server.
        let mut stranger = host("older", 1, "redfish://b", "52:54:00:00:00:01");
        stranger.spec.externally_provisioned = true;
        index.observe(&stranger, true);
        assert_eq!(index.senior(&Key::new("default", "used")), None);
        assert_eq!(index.senior(&Key::new("default", "older")), Some(Key::new("default", "used")));
    }

    #[test]
    fn serial_numbers_that_nobody_set_tell_nothing() {
        assert!(!is_telling("To be filled by O.E.M."));
        assert!(!is_telling("00000000-0000-0000-0000-000000000000"));
        assert!(is_telling("CZ1234"));
    }
}

//! Which free hosts are kept how ready. Pure: the same hosts and groups give the same answer.
//!
//! 1. A host that may stay as it is stays as it is: nothing is moved but to make the counts come right.
//! 2. A host that was off for less than `minOffSeconds` is not switched on, and one that was switched off
//!    `maxPowerCyclesPerDay` times in 24 hours is not switched off: then there are fewer, or more, than asked for.
//! 3. To stage an image, or another one, a host is switched on and off once: both limits hold for that too. A host that is
//!    not to be staged any more is left as it is, with what is on its disk.
//! 4. A host that failed twice in a row is left alone for a while: it counts as free to nobody, and is off meanwhile.
//! 5. A host that several groups could have belongs to one of them.

use std::collections::{BTreeMap, BTreeSet};

use ferric_api::BareMetalHost;
use ferric_api::autoscaling::{Backoff, PoolState, Standby, StandbyPool};
use ferric_api::condition::{self, types};
use ferric_api::host::{CleaningMode, HostStandby, Image, RootDeviceHints};
use ferric_api::names::STANDBY_OF_ANNOTATION;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

mod stage;

use self::stage::stage;
use super::{Failures, FreeHosts};
use crate::claim::score::{self, FAILURES, Rejection};
use crate::key::Key;

/// For how long power cycles count.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A host that no machine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeHost {
    /// Namespace and name.
    pub key: Key,
    /// The groups whose machines could have it.
    pub groups: BTreeSet<String>,
    /// The group that writes its `spec.standby` (annotation `…/standby-of`).
    pub of: Option<String>,
    /// `spec.standby`.
    pub told: Option<HostStandby>,
    /// How it stands by, as read back; none while it is on its way.
    pub state: Option<HostStandby>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it was switched off to save power (`spec.record.stoodDownAt`).
    pub stood_down: Vec<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// When the last one was.
    pub failed_at: Option<Timestamp>,
    /// What it was, for people.
    pub failure: String,
    /// Why no machine could have it just now, though nothing uses it.
    pub trouble: Option<String>,
    /// It cannot stand by in the agent: it has no BMC.
    pub off_only: bool,
    /// `spec.stagedImage`.
    pub told_image: Option<Image>,
    /// Nothing is wiped on it, so nothing is staged there.
    pub uncleaned: bool,
    /// Which disk it is written to unless its consumer says otherwise.
    pub hints: Option<RootDeviceHints>,
}

impl FreeHost {
    /// What is known of a host that no machine uses, `None` of another. Which groups could have it is left to whoever knows
    /// their selectors.
    #[must_use]
    pub fn of(host: &BareMetalHost) -> Option<Self> {
        let status = host.status.as_ref()?;
        let trouble = match score::occupied(host) {
            None => None,
            Some(Rejection::Unhealthy) => {
                Some(status.error_message.clone().unwrap_or_else(|| "an error stands".to_owned()))
            }
            Some(_) => return None,
        };
        let standby = status.standby.clone().unwrap_or_default();
        // A host that was never told does not tell either: it is off since it became available.
        let idle_since = || {
            let available = condition::get(&status.conditions, types::AVAILABLE)?;
            Some(available.last_transition_time.0)
        };
        let made = || host.metadata.creation_timestamp.as_ref().map(|made| made.0);
        let untold = host.spec.standby.is_none() && status.powered_on == Some(false);
        let failures = standby.failures;
        Some(Self {
            key: Key::of(host),
            groups: BTreeSet::new(),
            of: host.metadata.annotations.as_ref().and_then(|all| all.get(STANDBY_OF_ANNOTATION)).cloned(),
            told: host.spec.standby,
            state: if untold { Some(HostStandby::Off) } else { standby.state },
            since: if untold { idle_since().or_else(made) } else { standby.since.map(|since| since.0) },
            stood_down: host
                .spec
                .record
                .iter()
                .flat_map(|record| record.stood_down_at.iter().map(|at| at.0))
                .collect(),
            failures: score::failures(host),
            failed_at: failures.as_ref().map(|failures| failures.last_time.0),
            failure: failures.map(|failures| failures.message).unwrap_or_default(),
            trouble,
            off_only: host.spec.wakes_only(),
            told_image: host.spec.staged_image.clone(),
            uncleaned: host.spec.automated_cleaning_mode == Some(CleaningMode::Disabled),
            hints: host.spec.root_device_hints.clone(),
        })
    }

    /// Somebody wrote by hand how it is to stand by: that stays.
    fn by_hand(&self) -> bool {
        self.told.is_some() && self.of.is_none()
    }

    fn is_up(&self) -> bool {
        self.told == Some(HostStandby::Running)
    }

    fn is_told_staged(&self) -> bool {
        self.told == Some(HostStandby::Staged)
    }

    /// Whether it has, or is about to have, this image on its disk.
    fn is_for(&self, image: &Image) -> bool {
        self.is_told_staged() && self.told_image.as_ref().is_some_and(|told| told.is_same(image))
    }

    /// When it may be switched on; none: not before something else is known of it.
    fn up_from(&self, rules: &Standby) -> Option<Timestamp> {
        let pause = SignedDuration::from_secs(rules.min_off_seconds.max(0).into());
        let off_since = match (self.state, self.told) {
            (Some(HostStandby::Off | HostStandby::Staged), _) => self.since?,
            // It is on and nobody has said anything of it yet: it was never switched off to save power.
            (None, None) => return Some(Timestamp::MIN),
            _ => return None,
        };
        let last = self.stood_down.iter().copied().chain([off_since]).max()?;
        Some(last.checked_add(pause).unwrap_or(Timestamp::MAX))
    }

    /// How often it was switched off to save power in the last 24 hours. What a clock says that went wrong counts too.
    fn cycles(&self, now: Timestamp) -> usize {
        self.stood_down.iter().filter(|at| now.duration_since(**at) < DAY).count()
    }

    /// When it may be switched off to save power.
    fn down_from(&self, rules: &Standby, now: Timestamp) -> Timestamp {
        let cap = usize::try_from(rules.max_power_cycles_per_day).unwrap_or(0);
        let mut counted: Vec<Timestamp> =
            self.stood_down.iter().copied().filter(|at| now.duration_since(*at) < DAY).collect();
        if counted.len() < cap {
            return now;
        }
        counted.sort();
        // So many must be forgotten that there is room for one more.
        let last = (cap > 0).then(|| counted.get(counted.len() - cap)).flatten();
        last.and_then(|at| at.checked_add(DAY).ok()).unwrap_or(Timestamp::MAX)
    }

    /// Until when it is left alone since it failed.
    fn quarantine(&self, backoff: &Backoff) -> Option<Timestamp> {
        let failures = Failures { count: self.failures.checked_sub(FAILURES - 1)?, last: self.failed_at };
        if failures.count == 0 { None } else { failures.until(backoff) }
    }
}

/// A node group that has, or has not, standby pools.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StandbyGroup<'a> {
    /// What the annotation of its hosts says: `namespace/name` of the NodeGroupAutoscaler.
    pub name: &'a str,
    /// Its pools; none: its hosts are left as they are.
    pub standby: Option<&'a Standby>,
    /// Its pauses after failures.
    pub backoff: &'a Backoff,
    /// The image of its machines, or why none can be staged.
    pub image: Result<&'a Image, &'a str>,
    /// Which disk its machines are written to, where that is not the host's own choice.
    pub hints: Option<&'a RootDeviceHints>,
}

/// What is to be done with a free host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The group that it belongs to.
    pub of: Option<String>,
    /// What its `spec.standby` is to be; none: absent.
    pub standby: Option<HostStandby>,
    /// What its `spec.stagedImage` is to be; none: absent.
    pub image: Option<Image>,
    /// Whether that is to be written, together with the annotation, or the annotation removed where `standby` is absent.
    pub write: bool,
    /// Until when it is left alone, and why.
    pub quarantined: Option<(Timestamp, String)>,
}

/// What there is of hosts for a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupStandby {
    /// Its free hosts that a machine could have now.
    pub free: FreeHosts,
    /// How many are to stand by in the agent.
    pub running_wanted: i32,
    /// How many are to be off with the image on their disk.
    pub staged_wanted: i32,
    /// Hosts that failed and are left alone.
    pub quarantined: i32,
    /// Why there are not as many as wanted, if so.
    pub limited: Option<String>,
}

/// Where all free hosts are to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandbyPlan {
    /// By host.
    pub hosts: BTreeMap<Key, Place>,
    /// By group.
    pub groups: BTreeMap<String, GroupStandby>,
    /// When to look again even if nothing happens: what must not be done yet may be then.
    pub next: Option<Timestamp>,
}

impl StandbyPlan {
    fn look_at(&mut self, at: Timestamp, now: Timestamp) {
        if at > now && at < Timestamp::MAX {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    /// Whether a time has come; one that is still to come is when to look again. None never comes.
    fn is_due(&mut self, from: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(from) = from else { return false };
        self.look_at(from, now);
        from <= now
    }
}

/// Which host is to be how ready. `hosts` are all free hosts that any of the groups could have, and those that were told by
/// one that is no more.
#[must_use]
pub fn standby(groups: &[StandbyGroup<'_>], hosts: &[FreeHost], now: Timestamp) -> StandbyPlan {
    let hosts: BTreeMap<&Key, &FreeHost> = hosts.iter().map(|host| (&host.key, host)).collect();
    let owners = owners(groups, &hosts);
    let mut plan = StandbyPlan::default();
    for (key, host) in &hosts {
        let of = owners.get(*key).map(|name| (*name).to_owned());
        // What was told by a group that has it no more is taken back; what people say stays.
        let gone = of.is_none() && host.of.is_some();
        let standby = if gone { None } else { host.told };
        let image = standby.and(host.told_image.clone());
        plan.hosts.insert((*key).clone(), Place { of, standby, image, write: gone, quarantined: None });
    }
    let groups: BTreeMap<&str, &StandbyGroup<'_>> = groups.iter().map(|group| (group.name, group)).collect();
    for (name, group) in groups {
        let own: Vec<&FreeHost> =
            hosts.values().filter(|host| owners.get(&host.key) == Some(&name)).copied().collect();
        place(group, &own, &mut plan, now);
    }
    plan
}

/// Which group each host belongs to. It stays where it is; a new one goes to the group that has fewest; and a group that has
/// none gets one of those that it could have from the group that has most.
fn owners<'a>(groups: &[StandbyGroup<'a>], hosts: &BTreeMap<&Key, &FreeHost>) -> BTreeMap<Key, &'a str> {
    let names: BTreeSet<&'a str> = groups.iter().map(|group| group.name).collect();
    let usable = |host: &FreeHost| host.trouble.is_none() && host.failures < FAILURES;
    let mut counts: BTreeMap<&str, usize> = names.iter().map(|name| (*name, 0)).collect();
    let mut owners: BTreeMap<Key, &'a str> = BTreeMap::new();
    let mut without = Vec::new();
    for host in hosts.values() {
        let kept =
            names.iter().find(|name| host.of.as_deref() == Some(**name) && host.groups.contains(**name));
        match kept {
            Some(name) => {
                owners.insert(host.key.clone(), name);
                *counts.entry(name).or_default() += usize::from(usable(host));
            }
            None => without.push(*host),
        }
    }
    // Those that few could have first, so that the others make up for it.
    without.sort_by_key(|host| (host.groups.len(), &host.key));
    for host in without {
        let able = names.iter().filter(|name| host.groups.contains(**name));
        let Some(name) = able.min_by_key(|name| (counts.get(**name).copied().unwrap_or(0), **name)) else {
            continue;
        };
        owners.insert(host.key.clone(), name);
        *counts.entry(name).or_default() += usize::from(usable(host));
    }
    for name in &names {
        if counts.get(name).copied() != Some(0) {
            continue;
        }
        let spare = |host: &&&FreeHost| {
            let has = owners.get(&host.key).and_then(|owner| counts.get(owner)).copied().unwrap_or(0);
            usable(host) && host.groups.contains(*name) && has >= 2
        };
        let best = hosts.values().filter(spare).max_by_key(|host| {
            let has = owners.get(&host.key).and_then(|owner| counts.get(owner)).copied();
            (has, !host.is_up(), &host.key)
        });
        if let Some(host) = best {
            let before = owners.insert(host.key.clone(), name);
            if let Some(count) = before.and_then(|before| counts.get_mut(before)) {
                *count -= 1;
            }
            *counts.entry(name).or_default() += 1;
        }
    }
    owners
}

/// Places the hosts of one group.
fn place(group: &StandbyGroup<'_>, own: &[&FreeHost], plan: &mut StandbyPlan, now: Timestamp) {
    let mut told = GroupStandby::default();
    let mut usable: Vec<&FreeHost> = Vec::new();
    let mut failed: Vec<&FreeHost> = Vec::new();
    for host in own {
        if let Some(until) = host.quarantine(group.backoff).filter(|until| *until > now) {
            told.quarantined += 1;
            plan.look_at(until, now);
            if let Some(place) = plan.hosts.get_mut(&host.key) {
                let why = format!("failed {} times in a row, last: {}", host.failures, host.failure);
                place.quarantined = Some((until, why));
            }
            failed.push(host);
        } else if host.trouble.is_none() {
            usable.push(host);
        }
    }
    for host in &usable {
        match host.state {
            Some(HostStandby::Running) => told.free.running += 1,
            Some(HostStandby::Staged) if group.image.is_ok_and(|image| host.is_for(image)) => {
                told.free.staged += 1;
            }
            _ => told.free.off += 1,
        }
    }
    let Some(rules) = group.standby else {
        for host in own.iter().filter(|host| host.of.is_some()) {
            write(plan, host, None, None);
        }
        plan.groups.insert(group.name.to_owned(), told);
        return;
    };
    let wanted = wanted(&rules.pools, PoolState::Running, usable.len());
    let wanted_staged = self::wanted(&rules.pools, PoolState::Staged, usable.len());
    told.running_wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
    told.staged_wanted = i32::try_from(wanted_staged).unwrap_or(i32::MAX);
    // Everything that is not said otherwise below stays, or is off.
    for host in own.iter().filter(|host| !host.by_hand()) {
        write(plan, host, Some(host.told.unwrap_or(HostStandby::Off)), host.told_image.as_ref());
    }
    for host in failed.into_iter().filter(|host| host.told != Some(HostStandby::Off) && !host.by_hand()) {
        let from = host.down_from(rules, now);
        match from <= now {
            true => write(plan, host, Some(HostStandby::Off), None),
            false => plan.look_at(from, now),
        }
    }
    let up = usable.iter().filter(|host| host.is_up()).count();
    if up > wanted {
        told.limited = lower(rules, &usable, up - wanted, plan, now);
    } else if up < wanted {
        told.limited = raise(rules, &usable, wanted - up, plan, now);
    }
    let also = stage(group, rules, &usable, wanted_staged, plan, now);
    told.limited = match (told.limited, also) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    };
    plan.groups.insert(group.name.to_owned(), told);
}

/// Switches off what is more than wanted. Of those that may be, first what is not there yet, then what was switched least.
fn lower(
    rules: &Standby,
    usable: &[&FreeHost],
    spare: usize,
    plan: &mut StandbyPlan,
    now: Timestamp,
) -> Option<String> {
    let mut able: Vec<&FreeHost> =
        usable.iter().filter(|host| host.is_up() && !host.by_hand()).copied().collect();
    able.sort_by_key(|host| {
        (host.state == Some(HostStandby::Running), host.cycles(now), std::cmp::Reverse(&host.key))
    });
    let mut left = spare;
    for host in able {
        if left == 0 {
            break;
        } else if plan.is_due(Some(host.down_from(rules, now)), now) {
            write(plan, host, Some(HostStandby::Off), None);
            left -= 1;
        }
    }
    (left > 0).then(|| {
        format!(
            "{left} hosts more than wanted stand by in the agent: they were switched off {} times in 24 hours already, or \
             were told by hand",
            rules.max_power_cycles_per_day
        )
    })
}

/// Switches on what is wanted. Of those that may be, first what never failed, then what was switched least, then what has
/// been off for longest.
fn raise(
    rules: &Standby,
    usable: &[&FreeHost],
    missing: usize,
    plan: &mut StandbyPlan,
    now: Timestamp,
) -> Option<String> {
    let mut able: Vec<&FreeHost> =
        usable.iter().filter(|host| !host.is_up() && !host.by_hand() && !host.off_only).copied().collect();
    // What is staged is better than what is off, and would have to be staged elsewhere.
    able.sort_by_key(|host| (host.is_told_staged(), host.failures, host.cycles(now), host.since, &host.key));
    let (mut left, mut later) = (missing, 0);
    for host in able {
        if left == 0 {
            break;
        } else if plan.is_due(host.up_from(rules), now) {
            write(plan, host, Some(HostStandby::Running), None);
            left -= 1;
        } else {
            later += 1;
        }
    }
    (left > 0).then(|| {
        format!(
            "{left} hosts fewer than wanted stand by in the agent: of those that are off, {later} have not been off for {} s",
            rules.min_off_seconds
        )
    })
}

fn write(plan: &mut StandbyPlan, host: &FreeHost, standby: Option<HostStandby>, image: Option<&Image>) {
    if let Some(place) = plan.hosts.get_mut(&host.key) {
        place.standby = standby;
        place.image = image.filter(|_| standby == Some(HostStandby::Staged)).cloned();
        // A group without pools has no say, so it leaves no mark.
        let mark = standby.and(place.of.as_ref());
        place.write = host.told != standby || host.told_image != place.image || host.of.as_ref() != mark;
    }
}

/// How many of so many free hosts are to be in this state.
fn wanted(pools: &[StandbyPool], state: PoolState, free: usize) -> usize {
    let mut left = free;
    let mut counts: BTreeMap<PoolState, usize> = BTreeMap::new();
    for pool in pools {
        if let Some(count) = count(&pool.count, free) {
            let count = count.min(left);
            left -= count;
            *counts.entry(pool.state).or_default() += count;
        }
    }
    // What no pool asks for is off.
    if let Some(pool) = pools.iter().find(|pool| is_rest(&pool.count)) {
        *counts.entry(pool.state).or_default() += left;
    }
    counts.get(&state).copied().unwrap_or(0)
}

fn is_rest(count: &IntOrString) -> bool {
    matches!(count, IntOrString::String(text) if text == "Remaining")
}

/// A number, or per cent rounded up; none: what the others leave.
fn count(count: &IntOrString, free: usize) -> Option<usize> {
    match count {
        IntOrString::Int(number) => Some(usize::try_from(*number).unwrap_or(0)),
        rest if is_rest(rest) => None,
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
            Some((free * percent.min(100)).div_ceil(100))
        }
    }
}

#[cfg(test)]
#[path = "standby_tests.rs"]
mod tests;

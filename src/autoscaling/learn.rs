//! How long machines take to become nodes, learned from each of them once. Pure.
//!
//! What was learned is in `status.bootSeconds` of the group, and with it what of it has been counted already: a time before
//! which all machines are settled, and the names of those made since that have been counted. Both are written together, so
//! a manager that dies between two writes counts again exactly what was not written.

use std::collections::BTreeSet;

use ferric_api::BareMetalHost;
use ferric_api::autoscaling::BootSeconds;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Sketch;
use super::group::SAMPLES;

/// Most names that are kept. Where more machines than that are made while one is waited for, it is waited for no longer.
const NAMES: usize = 64;

/// A machine that was made is seen after this at the latest: watches lag, and the time of its making is in whole seconds.
const UNSEEN: SignedDuration = SignedDuration::from_secs(120);

/// A machine, as far as it teaches how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Name of the Machine.
    pub name: String,
    /// When it was made, in whole seconds as Kubernetes keeps it.
    pub created: Timestamp,
    /// When its node was first seen to be ready; none: it was not yet.
    pub ready: Option<Timestamp>,
    /// It is late, or going: it is not waited for.
    pub given_up: bool,
}

/// What a group has learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// Times by size class, in seconds.
    pub sketch: Sketch,
    /// Machines that were made before this are settled; none: nothing was learned yet.
    settled: Option<Timestamp>,
    /// Of those made since, the ones that were counted.
    counted: BTreeSet<String>,
}

impl Learned {
    /// What a status says. A sketch that cannot be read is begun anew.
    #[must_use]
    pub fn of(status: Option<&BootSeconds>) -> Self {
        let Some(status) = status else { return Self::default() };
        Self {
            sketch: status.sketch.parse().unwrap_or_default(),
            settled: status.settled_until.as_ref().map(|at| at.0),
            counted: status.counted.iter().take(NAMES).cloned().collect(),
        }
    }

    /// What the status is to say; none while nothing was looked at.
    #[must_use]
    pub fn status(&self) -> Option<BootSeconds> {
        let settled = self.settled?;
        let quantile = |percent| {
            self.sketch.quantile(percent).map_or(0, |seconds| i32::try_from(seconds).unwrap_or(i32::MAX))
        };
        Some(BootSeconds {
            p50: quantile(50),
            p95: quantile(95),
            p99: quantile(99),
            samples: self.sketch.samples().into(),
            sketch: self.sketch.to_string(),
            settled_until: Some(Time(settled)),
            counted: self.counted.iter().cloned().collect(),
        })
    }

    /// Takes in the machines of the group as they are now, all of them. The first time it only takes note of which there are:
    /// when nodes became ready that are long there nobody knows for certain.
    pub fn see(&mut self, machines: &[Arrival], now: Timestamp) {
        let waiting = machines.iter().filter(|machine| machine.ready.is_none() && !machine.given_up);
        let oldest = waiting.map(|machine| machine.created).min();
        // Another may have been made that is not seen yet.
        let unseen = now.checked_sub(UNSEEN).unwrap_or(Timestamp::MIN);
        let settled = oldest.map_or(unseen, |oldest| oldest.min(unseen));
        let before = self.settled;
        for machine in machines {
            let Some(ready) = machine.ready else { continue };
            let known =
                before.is_none_or(|before| machine.created < before) || self.counted.contains(&machine.name);
            if !known {
                self.sketch.add(ready.duration_since(machine.created).as_secs().max(0).unsigned_abs());
            }
            self.counted.insert(machine.name.clone());
        }
        // It never goes back, or what was counted would count again.
        let mut settled = before.map_or(settled, |before| before.max(settled));
        let mut young: Vec<&Arrival> = machines.iter().filter(|machine| machine.created >= settled).collect();
        if young.len() > NAMES {
            young.sort_by_key(|machine| machine.created);
            // All of one second are settled together.
            settled = young.iter().map(|machine| machine.created).nth(young.len() - NAMES).unwrap_or(settled);
            let next = settled.checked_add(jiff::SignedDuration::from_secs(1)).unwrap_or(settled);
            settled = if young.iter().filter(|machine| machine.created >= settled).count() > NAMES {
                next
            } else {
                settled
            };
            young.retain(|machine| machine.created >= settled);
        }
        let young: BTreeSet<&str> = young.iter().map(|machine| machine.name.as_str()).collect();
        self.counted.retain(|name| young.contains(name.as_str()));
        self.settled = Some(settled);
    }
}

/// What kind of server hosts are, as their BMCs say it: manufacturer and product. `None` where they differ, or one does not say.
pub fn hardware_class<'a>(hosts: impl IntoIterator<Item = &'a BareMetalHost>) -> Option<String> {
    let class = |host: &BareMetalHost| {
        let bmc = host.status.as_ref()?.bmc.as_ref()?;
        Some(format!("{} {}", bmc.manufacturer.as_deref()?.trim(), bmc.product.as_deref()?.trim()))
    };
    let mut classes = hosts.into_iter().map(class);
    let first = classes.next()??;
    classes.all(|class| class.as_ref() == Some(&first)).then_some(first)
}

/// What is to be expected of a group: what its own machines took, and, while they are few, also those of other groups of the
/// same hardware class.
pub fn expected<'a>(own: &Sketch, of_class: impl IntoIterator<Item = &'a Sketch>) -> Sketch {
    let mut sketch = own.clone();
    if own.samples() < SAMPLES {
        of_class.into_iter().for_each(|other| sketch.merge(other));
    }
    sketch
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn machine(name: &str, created: i64, ready: Option<i64>) -> Arrival {
        Arrival { name: name.to_owned(), created: at(created), ready: ready.map(at), given_up: false }
    }

    fn restarted(learned: &Learned) -> Learned {
        let text = serde_json::to_string(&learned.status()).unwrap();
        let status: Option<BootSeconds> = serde_json::from_str(&text).unwrap();
        Learned::of(status.as_ref())
    }

    #[test]
    fn each_machine_is_counted_once_and_old_ones_not_at_all() {
        let mut learned = Learned::default();
        assert_eq!(learned.status(), None);
        learned.see(&[machine("old", -5000, Some(-4000)), machine("a", -10, None)], at(0));
        assert_eq!(learned.sketch.samples(), 0);
        for second in [600, 601, 602] {
            learned = restarted(&learned);
            let all =
                [machine("old", -5000, Some(-4000)), machine("a", -10, Some(590)), machine("b", 5, None)];
            learned.see(&all, at(second));
            assert_eq!(learned.sketch.samples(), 1);
        }
        // It is not ready for a while, and a manager that knows nothing sees it again later.
        learned = restarted(&learned);
        learned.see(&[machine("a", -10, None), machine("b", 5, None)], at(700));
        learned = restarted(&learned);
        learned.see(&[machine("a", -10, Some(800)), machine("b", 5, Some(805))], at(805));
        assert_eq!(learned.sketch.samples(), 2);
        assert_eq!(learned.status().unwrap().counted, Vec::<String>::new());
        let status = learned.status().unwrap();
        assert_eq!(status.samples, 2);
        assert!((600..=900).contains(&status.p50) && status.p99 >= 800, "{status:?}");
    }

    #[test]
    fn what_does_not_come_holds_nothing_up() {
        let mut learned = Learned::default();
        learned.see(&[], at(0));
        let lost = Arrival { given_up: true, ..machine("lost", 10, None) };
        learned.see(&[lost, machine("a", 20, Some(320))], at(400));
        assert_eq!(learned.status().unwrap().settled_until, Some(Time(at(280))));
        // Nor does one that is waited for while very many others come.
        let crowd: Vec<Arrival> = (0..200).map(|i| machine(&format!("m{i}"), 500 + i, Some(900))).collect();
        let mut all = vec![machine("slow", 450, None)];
        all.extend(crowd);
        learned.see(&all, at(900));
        let status = learned.status().unwrap();
        assert_eq!((status.samples, status.counted.len() <= NAMES), (201, true));
        learned = restarted(&learned);
        learned.see(&all, at(901));
        assert_eq!(learned.sketch.samples(), 201);
    }

    #[test]
    fn a_status_that_cannot_be_read_is_begun_anew() {
        let status = BootSeconds { sketch: "1:x".to_owned(), ..BootSeconds::default() };
        assert_eq!(Learned::of(Some(&status)), Learned::default());
    }

    #[test]
    fn a_group_without_experience_has_that_of_its_class() {
        let host = |maker: Option<&str>, product: &str| {
            let mut host = BareMetalHost::new("h", Default::default());
            host.status.get_or_insert_default().bmc = Some(ferric_api::host::BmcStatus {
                manufacturer: maker.map(str::to_owned),
                product: Some(product.to_owned()),
                ..Default::default()
            });
            host
        };
        let hosts = [host(Some("Dell Inc."), "R650"), host(Some("Dell Inc. "), "R650"), host(None, "R650")];
        assert_eq!(hardware_class(&hosts[..2]).as_deref(), Some("Dell Inc. R650"));
        assert_eq!(hardware_class(&hosts), None);
        assert_eq!(hardware_class([]), None);
        let (mut own, mut other) = (Sketch::default(), Sketch::default());
        own.add(100);
        (0..9).for_each(|_| other.add(600));
        assert_eq!(expected(&own, [&other]).samples(), 10);
        (0..SAMPLES).for_each(|_| own.add(100));
        assert_eq!(expected(&own, [&other]), own);
    }

    proptest! {
        /// Machines are made, become nodes, are not ready for a while and go; the manager is new at any time. Each is counted
        /// at most once, and if it was seen to wait and to come, exactly once.
        #[test]
        fn however_often_the_manager_is_new_each_counts_once(
            lives in prop::collection::vec((0..5000_i64, 1..3000_i64, any::<bool>()), 1..40),
            looks in prop::collection::vec((1..400_i64, any::<bool>()), 1..60),
        ) {
            let mut learned = Learned::default();
            learned.see(&[], at(-1));
            let mut now = 0;
            let ends = looks.iter().map(|(pause, _)| pause).sum::<i64>();
            for (pause, new) in looks {
                now += pause;
                let machines: Vec<Arrival> = lives.iter().enumerate()
                    .filter(|(_, (created, _, _))| *created <= now)
                    .map(|(i, (created, took, flaps))| {
                        let ready = created + took;
                        // A flapping node is not ready in every other hundred seconds.
                        let seen = ready <= now && !(*flaps && (now / 100) % 2 == 1);
                        machine(&format!("m{i}"), *created, seen.then_some(ready))
                    })
                    .collect();
                learned.see(&machines, at(now));
                if new {
                    learned = restarted(&learned);
                }
            }
            let came = lives.iter().filter(|(created, took, _)| created + took <= ends).count();
            prop_assert!(learned.sketch.samples() as usize <= came);
            let steady = lives.iter().filter(|(created, took, flaps)| created + took <= ends && !flaps).count();
            prop_assert!(learned.sketch.samples() as usize >= steady);
        }
    }
}

#![allow(clippy::unwrap_used)]

use ferric_api::host::{BareMetalHostSpec, HostRecord, StandbyFailures, StandbyStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proptest::prelude::*;

use super::*;

const A: &str = "default/a";
const B: &str = "default/b";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// A host that has been off for long.
fn host(name: &str, groups: &[&str]) -> FreeHost {
    FreeHost {
        key: key(name),
        groups: groups.iter().map(|name| (*name).to_owned()).collect(),
        of: None,
        told: None,
        state: Some(HostStandby::Off),
        since: Some(at(-100_000)),
        stood_down: Vec::new(),
        failures: 0,
        failed_at: None,
        failure: String::new(),
        trouble: None,
        off_only: false,
        told_image: None,
        uncleaned: false,
        hints: None,
    }
}

fn told(name: &str, of: &str, state: HostStandby) -> FreeHost {
    FreeHost { of: Some(of.to_owned()), told: Some(state), state: Some(state), ..host(name, &[of]) }
}

fn pools(pools: &[(PoolState, IntOrString)]) -> Standby {
    let pools = pools.iter().map(|(state, count)| StandbyPool { state: *state, count: count.clone() });
    Standby { pools: pools.collect(), ..Standby::default() }
}

fn text(text: &str) -> IntOrString {
    IntOrString::String(text.to_owned())
}

fn running_pool(count: i32) -> Standby {
    pools(&[(PoolState::Running, IntOrString::Int(count)), (PoolState::Off, text("Remaining"))])
}

fn plan(rules: &[(&str, Option<&Standby>)], hosts: &[FreeHost], now: Timestamp) -> StandbyPlan {
    let backoff = Backoff::default();
    let image = image("a");
    let groups: Vec<StandbyGroup<'_>> = rules
        .iter()
        .map(|(name, standby)| StandbyGroup {
            name,
            standby: *standby,
            backoff: &backoff,
            image: Ok(&image),
            hints: None,
        })
        .collect();
    standby(&groups, hosts, now)
}

fn up(plan: &StandbyPlan) -> Vec<&str> {
    let runs = |place: &&Place| place.standby == Some(HostStandby::Running);
    plan.hosts.iter().filter(|(_, place)| runs(place)).map(|(key, _)| key.name.as_str()).collect()
}

#[test]
fn pools_are_counted_in_their_order_and_per_cent_are_rounded_up() {
    use PoolState::{Off, Running, Staged};
    let table = [
        (pools(&[]), 5, 0),
        (pools(&[(Running, IntOrString::Int(2))]), 5, 2),
        (pools(&[(Running, IntOrString::Int(9))]), 5, 5),
        (pools(&[(Running, IntOrString::Int(-1))]), 5, 0),
        (pools(&[(Running, text("10%"))]), 5, 1),
        (pools(&[(Running, text("0%"))]), 5, 0),
        (pools(&[(Running, text("100%"))]), 5, 5),
        (pools(&[(Running, text("50%"))]), 0, 0),
        (pools(&[(Running, text("half"))]), 5, 0),
        (pools(&[(Running, text("Remaining"))]), 5, 5),
        (pools(&[(Off, IntOrString::Int(2)), (Running, text("Remaining"))]), 5, 3),
        (pools(&[(Running, text("Remaining")), (Off, IntOrString::Int(2))]), 5, 3),
        (pools(&[(Off, text("Remaining")), (Running, IntOrString::Int(2))]), 5, 2),
        (pools(&[(Off, IntOrString::Int(4)), (Running, IntOrString::Int(4))]), 5, 1),
        (pools(&[(Running, text("34%")), (Staged, text("34%")), (Off, text("Remaining"))]), 3, 2),
    ];
    for (rules, free, expected) in table {
        assert_eq!(wanted(&rules.pools, Running, free), expected, "{rules:?} of {free}");
    }
}

#[test]
fn what_is_right_stays_and_what_is_missing_is_added() {
    let rules = running_pool(2);
    let mut hosts: Vec<FreeHost> = ["h1", "h2", "h3", "h4"].map(|name| host(name, &[A])).to_vec();
    let first = plan(&[(A, Some(&rules))], &hosts, at(0));
    assert_eq!(up(&first), ["h1", "h2"]);
    assert!(first.hosts.values().all(|place| place.write && place.of.as_deref() == Some(A)));
    assert_eq!(first.groups[A].free, FreeHosts { running: 0, staged: 0, off: 4 });
    // One that runs already is not exchanged for one that comes first by name.
    hosts[3] = told("h4", A, HostStandby::Running);
    let second = plan(&[(A, Some(&rules))], &hosts, at(0));
    assert_eq!(up(&second), ["h1", "h4"]);
    assert!(!second.hosts[&key("h4")].write);
    assert_eq!(second.groups[A].free, FreeHosts { running: 1, staged: 0, off: 3 });
}

#[test]
fn what_was_off_for_too_short_is_left_off_and_others_go_before_it() {
    let rules = running_pool(1);
    let mut hosts = vec![told("h1", A, HostStandby::Off), told("h2", A, HostStandby::Off)];
    hosts[0].since = Some(at(-899));
    assert_eq!(up(&plan(&[(A, Some(&rules))], &hosts, at(0))), ["h2"]);
    hosts[1].since = Some(at(-800));
    let waits = plan(&[(A, Some(&rules))], &hosts, at(0));
    assert_eq!((up(&waits).len(), waits.next), (0, Some(at(1))));
    assert!(waits.groups[A].limited.as_deref().unwrap().contains("1 hosts fewer"), "{waits:?}");
    assert_eq!(up(&plan(&[(A, Some(&rules))], &hosts, at(1))), ["h1"]);
    // It is on its way down: since when it is off is not known yet.
    hosts[0].state = None;
    assert_eq!(up(&plan(&[(A, Some(&rules))], &hosts[..1], at(5000))), Vec::<&str>::new());
}

#[test]
fn what_is_on_and_was_never_told_may_stand_by_at_once() {
    let mut on = host("h1", &[A]);
    (on.state, on.since) = (None, None);
    assert_eq!(up(&plan(&[(A, Some(&running_pool(1)))], &[on], at(0))), ["h1"]);
}

#[test]
fn what_was_switched_off_too_often_stays_on() {
    let rules = Standby { max_power_cycles_per_day: 2, ..running_pool(0) };
    let mut hosts = vec![told("h1", A, HostStandby::Running), told("h2", A, HostStandby::Running)];
    hosts[0].stood_down = vec![at(-90_000), at(-80_000), at(-10)];
    hosts[1].stood_down = vec![at(-90_000), at(-80_000)];
    let capped = plan(&[(A, Some(&rules))], &hosts, at(0));
    assert_eq!(up(&capped), ["h1"]);
    assert_eq!(capped.next, Some(at(-80_000 + 86_400)));
    assert!(capped.groups[A].limited.as_deref().unwrap().contains("2 times"), "{capped:?}");
    assert_eq!(up(&plan(&[(A, Some(&rules))], &hosts, at(6_400))), Vec::<&str>::new());
    let never = Standby { max_power_cycles_per_day: 0, ..running_pool(0) };
    assert_eq!(up(&plan(&[(A, Some(&never))], &hosts, at(1_000_000))), ["h1", "h2"]);
}

#[test]
fn of_more_than_wanted_goes_what_is_not_there_yet() {
    let mut hosts = vec![told("h1", A, HostStandby::Running), told("h2", A, HostStandby::Running)];
    hosts[0].state = None;
    assert_eq!(up(&plan(&[(A, Some(&running_pool(1)))], &hosts, at(0))), ["h2"]);
}

#[test]
fn what_failed_twice_is_nobodys_for_a_while() {
    let rules = running_pool(1);
    let mut hosts = vec![told("h1", A, HostStandby::Running), told("h2", A, HostStandby::Off)];
    hosts[0].state = None;
    (hosts[0].failures, hosts[0].failed_at) = (1, Some(at(0)));
    hosts[0].trouble = Some("no agent registered".to_owned());
    // Once: it is tried again, and another takes its place meanwhile.
    let once = plan(&[(A, Some(&rules))], &hosts, at(1));
    assert_eq!(up(&once), ["h1", "h2"]);
    assert_eq!(once.groups[A].free.all(), 1);
    for (failures, pause) in [(2, 300), (3, 600), (4, 1200), (5, 1800), (9, 1800)] {
        (hosts[0].failures, hosts[0].trouble) = (failures, None);
        let left = plan(&[(A, Some(&rules))], &hosts, at(1));
        assert_eq!(up(&left), ["h2"]);
        let (until, why) = left.hosts[&key("h1")].quarantined.clone().unwrap();
        assert_eq!((until, left.next), (at(pause), Some(at(pause))));
        assert!(why.contains(&format!("{failures} times")), "{why}");
        assert_eq!((left.groups[A].quarantined, left.groups[A].free.all()), (1, 1));
        let after = plan(&[(A, Some(&rules))], &hosts, at(pause));
        assert_eq!((after.groups[A].quarantined, after.groups[A].free.all()), (0, 2));
    }
    // One that was switched off too often is not switched off for that either.
    hosts[0].stood_down = vec![at(0); 6];
    assert_eq!(up(&plan(&[(A, Some(&rules))], &hosts, at(1))), ["h1", "h2"]);
}

#[test]
fn what_people_said_stays_and_counts() {
    let by_hand = |state| FreeHost { of: None, ..told("h1", A, state) };
    let hosts = [by_hand(HostStandby::Running), host("h2", &[A])];
    let plan_one = plan(&[(A, Some(&running_pool(1)))], &hosts, at(0));
    assert_eq!(up(&plan_one), ["h1"]);
    assert!(!plan_one.hosts[&key("h1")].write);
    let none = plan(&[(A, Some(&running_pool(0)))], &hosts, at(0));
    assert_eq!(up(&none), ["h1"]);
    assert!(none.groups[A].limited.is_some());
    let off = [by_hand(HostStandby::Off)];
    assert_eq!(up(&plan(&[(A, Some(&running_pool(1)))], &off, at(0))), Vec::<&str>::new());
}

#[test]
fn a_host_without_a_bmc_stays_off() {
    let hosts = [FreeHost { off_only: true, ..host("h1", &[A]) }];
    let plan = plan(&[(A, Some(&running_pool(1)))], &hosts, at(0));
    assert_eq!(up(&plan), Vec::<&str>::new());
    assert_eq!(plan.groups[A].free.off, 1);
}

#[test]
fn what_was_said_by_a_group_that_is_gone_is_taken_back() {
    let rules = running_pool(1);
    let hosts = [told("h1", A, HostStandby::Running), told("h2", B, HostStandby::Running)];
    let gone = plan(&[(B, Some(&rules))], &hosts, at(0));
    assert_eq!(gone.hosts[&key("h1")], Place { write: true, ..Place::default() });
    assert_eq!(up(&gone), ["h2"]);
    // The group is there, and has no pools any more.
    let place = plan(&[(A, None), (B, None)], &hosts, at(0)).hosts[&key("h2")].clone();
    assert_eq!((place.standby, place.write), (None, true));
}

#[test]
fn a_host_that_two_groups_could_have_belongs_to_one_and_stays_there() {
    let hosts: Vec<FreeHost> = ["h1", "h2", "h3", "h4", "h5"].map(|name| host(name, &[A, B])).to_vec();
    let rules = running_pool(1);
    let both: &[(&str, Option<&Standby>)] = &[(A, Some(&rules)), (B, Some(&rules))];
    let first = plan(both, &hosts, at(0));
    let free: Vec<i32> = [A, B].map(|name| first.groups[name].free.all()).to_vec();
    assert_eq!(free, [3, 2]);
    // All of them belong to one: the other gets one, and only one.
    let taken: Vec<FreeHost> = hosts
        .iter()
        .map(|host| FreeHost { of: Some(A.to_owned()), told: Some(HostStandby::Off), ..host.clone() })
        .collect();
    let second = plan(both, &taken, at(0));
    assert_eq!([A, B].map(|name| second.groups[name].free.all()), [4, 1]);
    assert_eq!(up(&second).len(), 2);
    // The last one of a group is not taken from it.
    let last = plan(both, &taken[..1], at(0));
    assert_eq!([A, B].map(|name| last.groups[name].free.all()), [1, 0]);
}

#[test]
fn a_free_host_is_read_off_its_object() {
    let mut object = BareMetalHost::new("h1", BareMetalHostSpec::default());
    object.metadata.namespace = Some("default".to_owned());
    assert_eq!(FreeHost::of(&object), None, "it is new");
    let condition = |kind: &str, status: &str| Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: "Test".to_owned(),
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(at(-50)),
    };
    let status = object.status.get_or_insert_default();
    status.provisioning.state = ferric_api::ProvisioningState::Available;
    status.conditions = vec![condition(types::REGISTERED, "True"), condition(types::AVAILABLE, "True")];
    status.powered_on = Some(false);
    let free = FreeHost::of(&object).unwrap();
    assert_eq!((free.state, free.since, free.told), (Some(HostStandby::Off), Some(at(-50)), None));

    object.spec.standby = Some(HostStandby::Running);
    object.spec.record = Some(HostRecord { stood_down_at: vec![Time(at(-9))], ..HostRecord::default() });
    object.metadata.annotations = Some([(STANDBY_OF_ANNOTATION.to_owned(), A.to_owned())].into());
    let status = object.status.get_or_insert_default();
    status.error_type = Some(ferric_api::host::ErrorType::PowerManagement);
    status.error_message = Some("no agent registered".to_owned());
    status.standby = Some(StandbyStatus {
        failures: Some(StandbyFailures {
            count: 2,
            last_time: Time(at(-5)),
            reason: "AgentBootFailed".to_owned(),
            message: "no agent registered".to_owned(),
        }),
        ..StandbyStatus::default()
    });
    let free = FreeHost::of(&object).unwrap();
    assert_eq!((free.state, free.of.as_deref(), free.stood_down.clone()), (None, Some(A), vec![at(-9)]));
    assert_eq!((free.failures, free.failed_at, free.trouble.is_some()), (2, Some(at(-5)), true));
    object.spec.consumer_ref = Some(Default::default());
    assert_eq!(FreeHost::of(&object), None);
}

/// A host, what it really does, and the history of its switching.
#[derive(Debug, Clone)]
struct Model {
    free: FreeHost,
    /// When it comes to what it was told.
    arrives: i64,
    used: bool,
    downs: Vec<i64>,
}

/// A short story: the hosts by which groups could have them, what the groups ask for, and what happens to which host.
#[derive(Debug, Clone)]
struct Story {
    selects: Vec<u8>,
    wants: [i32; 2],
    rules: (i32, i32),
    events: Vec<(u8, u8, u16)>,
}

fn story() -> impl Strategy<Value = Story> {
    let selects = prop::collection::vec(1..4_u8, 1..9);
    let events = prop::collection::vec((0..6_u8, any::<u8>(), 1..2000_u16), 1..60);
    (selects, [0..5_i32, 0..5_i32], (0..2000_i32, 0..4_i32), events)
        .prop_map(|(selects, wants, rules, events)| Story { selects, wants, rules, events })
}

fn rules_of(story: &Story, wants: [i32; 2]) -> [Standby; 2] {
    wants.map(|count| Standby {
        min_off_seconds: story.rules.0,
        max_power_cycles_per_day: story.rules.1,
        ..running_pool(count)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Hosts are claimed, come back, fail and recover, and counts are changed, for up to 33 hours: what must not be does not
    /// happen, and in peace all counts are met that can be.
    #[test]
    fn hosts_are_switched_as_seldom_as_is_asked_for(story in story()) {
        let mut models: Vec<Model> = story.selects.iter().enumerate().map(|(index, bits)| {
            let groups: Vec<&str> =
                [(1, A), (2, B)].iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
            let free = FreeHost { since: Some(at(0)), ..host(&format!("h{index}"), &groups) };
            Model { free, arrives: 0, used: false, downs: Vec::new() }
        }).collect();
        let mut wants = story.wants;
        let (mut now, cap) = (5000_i64, usize::try_from(story.rules.1).unwrap());
        // At the end nothing happens for two days, so that everything may come right.
        let peace = std::iter::repeat_n((9, 0, 600), 2 * 144);
        for (what, which, pause) in story.events.iter().copied().chain(peace) {
            now += i64::from(pause);
            let count = models.len();
            let model = &mut models[usize::from(which) % count];
            match what {
                0 => model.used = true,
                1 if model.used => {
                    // It was cleaned, and stays in the agent if it was told so.
                    model.used = false;
                    (model.free.state, model.free.since) = match model.free.told {
                        Some(HostStandby::Running) => (Some(HostStandby::Running), Some(at(now))),
                        _ => (Some(HostStandby::Off), Some(at(now))),
                    };
                }
                2 => (model.free.failures, model.free.failed_at) = (model.free.failures + 1, Some(at(now))),
                3 => wants[usize::from(which) % 2] = i32::from(which) % 5,
                _ => {}
            }
            for model in models.iter_mut().filter(|model| !model.used && model.arrives <= now) {
                if model.free.state.is_none() {
                    (model.free.state, model.free.since) = (model.free.told, Some(at(now)));
                    model.free.failures = 0;
                }
            }
            let rules = rules_of(&story, wants);
            let groups = [(A, Some(&rules[0])), (B, Some(&rules[1]))];
            let free: Vec<FreeHost> = models.iter().filter(|m| !m.used).map(|m| m.free.clone()).collect();
            let decided = plan(&groups, &free, at(now));
            let mut reversed = free.clone();
            reversed.reverse();
            prop_assert_eq!(&plan(&groups, &reversed, at(now)), &decided, "the order of hosts matters");
            for model in models.iter_mut().filter(|model| !model.used) {
                let place = &decided.hosts[&model.free.key];
                prop_assert!(place.of.as_ref().is_some_and(|of| model.free.groups.contains(of)));
                match (model.free.told, place.standby) {
                    (Some(HostStandby::Off) | None, Some(HostStandby::Running)) => {
                        let off = now - model.free.since.unwrap().duration_since(at(0)).as_secs();
                        prop_assert!(model.free.state == Some(HostStandby::Off), "{:?}", model);
                        prop_assert!(off >= i64::from(story.rules.0), "off for {} s", off);
                        (model.free.state, model.arrives) = (None, now + 300);
                    }
                    (Some(HostStandby::Running), Some(HostStandby::Off) | None) => {
                        model.downs.push(now);
                        model.free.stood_down.push(at(now));
                        (model.free.state, model.arrives) = (None, now + 30);
                        let counted = model.downs.iter().filter(|at| now - **at < 86_400).count();
                        prop_assert!(counted <= cap, "{} power cycles", counted);
                    }
                    _ => {}
                }
                (model.free.told, model.free.of) = (place.standby, place.of.clone());
            }
            let settled: Vec<FreeHost> = models.iter().filter(|m| !m.used).map(|m| m.free.clone()).collect();
            let again = plan(&groups, &settled, at(now));
            let changes = again.hosts.values().filter(|place| place.write).count();
            prop_assert_eq!(changes, 0, "what was done is done again: {:?}", again);
        }
        let rules = rules_of(&story, wants);
        let free: Vec<FreeHost> = models.iter().filter(|m| !m.used).map(|m| m.free.clone()).collect();
        let end = plan(&[(A, Some(&rules[0])), (B, Some(&rules[1]))], &free, at(now));
        for (name, group) in &end.groups {
            let own = end.hosts.values().filter(|place| place.of.as_ref() == Some(name)).count();
            prop_assert_eq!(usize::try_from(group.free.all()).unwrap(), own);
            prop_assert!(group.free.running >= group.running_wanted, "{}: {:?}", name, group);
            // More than wanted only where nothing may be switched off at all.
            prop_assert!(cap == 0 || group.free.running == group.running_wanted, "{}: {:?}", name, group);
        }
    }
}

fn image(name: &str) -> Image {
    Image { url: format!("http://images/{name}"), checksum: Some("ab".repeat(32)), ..Image::default() }
}

/// A host that has an image on its disk, as a group told it.
fn staged(name: &str, what: &str) -> FreeHost {
    FreeHost { told_image: Some(image(what)), ..told(name, A, HostStandby::Staged) }
}

fn staged_pools(running: i32, staged: i32) -> Standby {
    pools(&[
        (PoolState::Running, IntOrString::Int(running)),
        (PoolState::Staged, IntOrString::Int(staged)),
        (PoolState::Off, text("Remaining")),
    ])
}

/// The hosts that are to have this image on their disk.
fn with_image<'a>(plan: &'a StandbyPlan, what: &str) -> Vec<&'a str> {
    let has = |place: &&Place| place.standby == Some(HostStandby::Staged) && place.image == Some(image(what));
    plan.hosts.iter().filter(|(_, place)| has(place)).map(|(key, _)| key.name.as_str()).collect()
}

#[test]
fn as_many_are_staged_as_are_wanted_and_what_is_right_stays() {
    let rules = staged_pools(1, 2);
    let mut hosts: Vec<FreeHost> = ["h1", "h2", "h3", "h4"].map(|name| host(name, &[A])).to_vec();
    let first = plan(&[(A, Some(&rules))], &hosts, at(0));
    assert_eq!((up(&first), with_image(&first, "a")), (vec!["h1"], vec!["h2", "h3"]));
    assert_eq!(first.hosts[&key("h4")].standby, Some(HostStandby::Off));
    assert_eq!((first.groups[A].staged_wanted, first.groups[A].free.staged), (2, 0));
    // What is there is not exchanged; what runs is taken from what is off.
    hosts[2] = staged("h3", "a");
    hosts[3] = staged("h4", "a");
    let second = plan(&[(A, Some(&rules))], &hosts, at(0));
    assert_eq!((up(&second), with_image(&second, "a")), (vec!["h1"], vec!["h3", "h4"]));
    assert!(!second.hosts[&key("h3")].write && second.groups[A].limited.is_none(), "{second:?}");
    assert_eq!(second.groups[A].free, FreeHosts { running: 0, staged: 2, off: 2 });
    // With nothing but staged ones left, one of them runs.
    let third = plan(&[(A, Some(&rules))], &hosts[2..], at(0));
    assert_eq!((up(&third).len(), with_image(&third, "a").len()), (1, 1));
    // Too many: they are left as they are, and told so; nothing on their disk is touched by that.
    let none = plan(&[(A, Some(&staged_pools(0, 1)))], &hosts[2..], at(0));
    assert_eq!(with_image(&none, "a"), ["h3"]);
    let place = &none.hosts[&key("h4")];
    assert_eq!((place.standby, place.image.clone(), place.write), (Some(HostStandby::Off), None, true));
}

#[test]
fn a_new_image_is_staged_within_the_caps_on_power_cycles() {
    let rules = Standby { max_power_cycles_per_day: 1, ..staged_pools(0, 3) };
    let mut hosts = vec![staged("h1", "old"), staged("h2", "old"), staged("h3", "a")];
    hosts[0].stood_down = vec![at(-1000)];
    let first = plan(&[(A, Some(&rules))], &hosts, at(0));
    // Nothing is written to the one that may not be switched on and off again today.
    assert_eq!((with_image(&first, "a"), with_image(&first, "old")), (vec!["h2", "h3"], vec!["h1"]));
    assert!(!first.hosts[&key("h1")].write && first.hosts[&key("h2")].write);
    assert!(first.groups[A].limited.as_deref().unwrap().contains("1 hosts fewer than wanted are staged"));
    assert_eq!(first.groups[A].free, FreeHosts { running: 0, staged: 1, off: 2 });
    assert_eq!(first.next, Some(at(-1000 + 86_400)));
    let later = plan(&[(A, Some(&rules))], &hosts, at(-1000 + 86_400));
    assert_eq!(with_image(&later, "a"), ["h1", "h2", "h3"]);
    // On its way: it is not known yet when it is off.
    hosts[1].state = None;
    assert_eq!(with_image(&plan(&[(A, Some(&rules))], &hosts, at(0)), "old"), ["h1", "h2"]);
    // Off for too short.
    hosts[1] = FreeHost { since: Some(at(-899)), ..staged("h2", "old") };
    assert_eq!(with_image(&plan(&[(A, Some(&rules))], &hosts, at(0)), "old"), ["h1", "h2"]);
}

#[test]
fn what_cannot_be_staged_is_named_and_left_alone() {
    let rules = staged_pools(0, 4);
    let hints = RootDeviceHints { model: Some("M".to_owned()), ..RootDeviceHints::default() };
    let hosts = [
        FreeHost { off_only: true, ..host("h1", &[A]) },
        FreeHost { uncleaned: true, ..host("h2", &[A]) },
        FreeHost { of: None, ..staged("h3", "by-hand") },
        host("h4", &[A]),
        FreeHost { hints: Some(hints.clone()), ..host("h5", &[A]) },
    ];
    let found = plan(&[(A, Some(&rules))], &hosts, at(0));
    assert_eq!((with_image(&found, "a"), with_image(&found, "by-hand")), (vec!["h4", "h5"], vec!["h3"]));
    assert!(found.groups[A].limited.as_deref().unwrap().contains("2 cannot be staged"), "{found:?}");
    let backoff = Backoff::default();
    let group = |image, hints| {
        let group = StandbyGroup { name: A, standby: Some(&rules), backoff: &backoff, image, hints };
        standby(&[group], &hosts, at(0))
    };
    // The template chooses its disk: only what is staged there is of use.
    let a = image("a");
    assert_eq!(with_image(&group(Ok(&a), Some(&hints)), "a"), ["h5"]);
    let without = group(Err("the template's image is not written to a disk"), None);
    assert!(with_image(&without, "a").is_empty());
    assert!(without.groups[A].limited.as_deref().unwrap().contains("not written to a disk"));
}

#[test]
fn another_pull_secret_is_told_without_a_switch() {
    let rules = Standby { max_power_cycles_per_day: 0, ..staged_pools(0, 1) };
    let hosts = [staged("h1", "a")];
    let backoff = Backoff::default();
    let told = Image { oci_auth_secret_name: Some("new".to_owned()), ..image("a") };
    for (image, writes) in [(image("a"), false), (told, true)] {
        let group = StandbyGroup {
            name: A,
            standby: Some(&rules),
            backoff: &backoff,
            image: Ok(&image),
            hints: None,
        };
        let place = standby(&[group], &hosts, at(0)).hosts[&key("h1")].clone();
        assert_eq!((place.standby, place.write), (Some(HostStandby::Staged), writes));
        assert_eq!(place.image, Some(image));
    }
}

#[test]
fn what_people_had_staged_counts_where_it_is_the_image_of_the_group() {
    let rules = staged_pools(0, 1);
    for (what, more) in [("a", vec![]), ("by-hand", vec!["h2"])] {
        let hosts = [FreeHost { of: None, ..staged("h1", what) }, host("h2", &[A])];
        let found = plan(&[(A, Some(&rules))], &hosts, at(0));
        let mut with = with_image(&found, "a");
        with.retain(|name| *name != "h1");
        assert_eq!(with, more, "{what}");
        assert!(!found.hosts[&key("h1")].image.as_ref().is_none_or(|image| *image != self::image(what)));
    }
}

#[test]
fn one_that_leaves_the_agent_is_staged_on_its_way_out() {
    let hosts = [told("h1", A, HostStandby::Running), told("h2", A, HostStandby::Running)];
    let found = plan(&[(A, Some(&staged_pools(1, 1)))], &hosts, at(0));
    assert_eq!((up(&found).len(), with_image(&found, "a").len()), (1, 1));
    // Not if it may not be switched off.
    let capped = Standby { max_power_cycles_per_day: 0, ..staged_pools(1, 1) };
    let found = plan(&[(A, Some(&capped))], &hosts, at(0));
    assert_eq!((up(&found).len(), with_image(&found, "a").len()), (2, 0));
}

//! A machine that is not the one behind the configured BMC: nothing on it is wiped or written.

use ferric_api::names::ACCEPT_BMC_ANNOTATION;
use ferric_protocol::v1::InBandBmcLan;

use super::*;

const OURS: &str = "52:54:00:00:00:b1";
const OTHER: &str = "52:54:00:00:00:b2";

fn lan(mac: &str, address: &str) -> InBandBmc {
    let lan = InBandBmcLan {
        channel: 1,
        mac: mac.to_owned(),
        address: address.to_owned(),
        ..InBandBmcLan::default()
    };
    InBandBmc { lans: vec![lan], ..InBandBmc::default() }
}

/// The configured BMC has `OURS` and 10.0.0.1.
fn world(in_band: Option<InBandBmc>) -> World {
    let mut world = World::new();
    world.in_band = in_band;
    world.manager.macs = vec![OURS.parse().unwrap()];
    world.manager.addresses = vec![[10, 0, 0, 1].into()];
    world
}

fn waits_for(plan: &Plan) -> &Wait {
    match &plan.step {
        Step::Wait(wait) => wait,
        step => panic!("{step:?}"),
    }
}

fn annotate(world: &mut World, value: &str) {
    let annotations = world.host.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCEPT_BMC_ANNOTATION.to_owned(), value.to_owned());
}

fn asked(world: &World) -> usize {
    world.steps.iter().filter(|step| step.contains("ReadManager")).count()
}

#[test]
fn who_belongs_together_and_who_cannot_tell_is_cleaned() {
    for (in_band, asks) in [
        (None, 0),
        (Some(InBandBmc { problem: "no device".to_owned(), ..InBandBmc::default() }), 0),
        (Some(lan(OURS, "10.0.0.1")), 1),
        // Another port of the same, an address that was changed or is translated, or both and more that agrees.
        (Some(lan(OURS, "10.0.0.2")), 1),
        (Some(lan(OTHER, "10.0.0.1")), 1),
        (Some(lan(OTHER, "")), 1),
        (Some(lan("", "10.0.0.2")), 1),
        // What was not read to the end may lack what agrees.
        (Some(InBandBmc { problem: "no answer".to_owned(), ..lan(OTHER, "10.0.0.2") }), 1),
    ] {
        let mut world = world(in_band.clone());
        let plan = world.settle(|_| false);
        assert_eq!((plan.state, world.cleanings), (State::Available, 1), "{in_band:?}");
        assert_eq!(asked(&world), asks, "{in_band:?}");
    }
}

#[test]
fn a_stranger_is_not_wiped_until_an_operator_says_so() {
    let mut world = world(Some(lan(OTHER, "10.0.0.2")));
    let plan = world.settle(|_| false);
    let message = waits_for(&plan).message.clone();
    for part in
        [OURS, "10.0.0.1", OTHER, "10.0.0.2", "redfish://bmc", &format!("{ACCEPT_BMC_ANNOTATION}={OTHER}")]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert_eq!(plan.registered, Some((false, "BMCMismatch", message)));
    assert_eq!((waits_for(&plan).reason, plan.state), ("BMCMismatch", State::Preparing));
    // A new manager comes to the same, also where the agent has yet to say what it sees.
    world.restart();
    assert_eq!(waits_for(&world.settle(|_| false)).reason, "BMCMismatch");
    // Accepted is one BMC, and no other.
    annotate(&mut world, OURS);
    assert_eq!(waits_for(&world.settle(|_| false)).reason, "BMCMismatch");
    assert_eq!(world.cleanings, 0);
    annotate(&mut world, "52-54-00-00-00-B2");
    assert_eq!((world.settle(|_| false).state, world.cleanings), (State::Available, 1));
}

#[test]
fn nothing_is_written_to_a_stranger() {
    let mut world = world(Some(lan(OURS, "10.0.0.1")));
    world.settle(|_| false);
    // The cables, or the boards, were changed.
    world.in_band = Some(lan(OTHER, "10.0.0.2"));
    let plan = world.wants(desired(), |_| false);
    assert_eq!((waits_for(&plan).reason, plan.state), ("BMCMismatch", State::Provisioning));
    let record = world.host.spec.record.as_ref().unwrap();
    assert_eq!((world.writes, record.image.is_none()), (0, true), "{:#?}", world.steps);
    // The address was mended: the other BMC is asked.
    world.memory.use_address("redfish://other");
    world.manager.macs = vec![OTHER.parse().unwrap()];
    assert_eq!((world.settle(|_| false).state, world.writes), (State::Provisioned, 1));
}

#[test]
fn an_agent_of_an_earlier_process_is_waited_for_until_it_says_what_it_sees() {
    let mut world = world(Some(lan(OTHER, "10.0.0.2")));
    world.tells = false;
    let plan = world.settle(|_| false);
    assert_eq!((waits_for(&plan).message.as_str(), world.cleanings), ("the agent to say what it sees", 0));
    world.tells = true;
    assert_eq!(waits_for(&world.settle(|_| false)).reason, "BMCMismatch");
    // One that never does is of an earlier version.
    world.tells = false;
    world.now = after(world.now, Duration::from_secs(30));
    assert_eq!((world.settle(|_| false).state, world.cleanings), (State::Available, 1));
}

#[test]
fn a_bmc_that_hangs_at_this_question_keeps_no_host() {
    let mut memory = BmcMemory::new("2026-01-01T00:00:00Z".parse().unwrap());
    let now = memory.since;
    for failures in 1..=5 {
        assert_eq!(memory.manager, None, "after {failures}");
        let (reason, message) = ("BMCTimeout".to_owned(), String::new());
        memory.finish(&Job::ReadManager, JobOutcome::Failed { reason, message, not_before: None }, now);
    }
    assert_eq!(memory.manager.map(|manager| manager.value), Some(ManagerFacts::default()));
}

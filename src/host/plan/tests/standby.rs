//! Free hosts that stand by in the agent.

use ferric_api::host::HostStandby;

use super::*;

/// A host that was told how to stand by, and runs until there is nothing to do.
fn standing(state: HostStandby) -> World {
    let mut world = World::new();
    world.host.spec.standby = Some(state);
    assert_eq!(world.settle(|_| false).state, State::Available);
    world
}

fn tell(world: &mut World, state: HostStandby) {
    world.host.spec.standby = Some(state);
    assert_eq!(world.settle(|_| false).state, State::Available);
}

fn powers(world: &World) -> usize {
    world.steps.iter().filter(|step| step.contains("Power(")).count()
}

fn blocks_move(world: &World) -> bool {
    let annotations = world.host.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(names::BLOCK_MOVE_ANNOTATION))
}

fn offs(world: &World) -> usize {
    world.host.spec.record.as_ref().unwrap().stood_down_at.len()
}

#[test]
fn a_new_host_stays_in_the_agent_that_cleaned_it() {
    let world = standing(HostStandby::Running);
    assert_eq!(world.running, Running::Agent(1));
    assert_eq!(world.cleanings, 1);
    assert!(!world.host.spec.record.as_ref().unwrap().agent.as_ref().unwrap().ended);
    assert!(!blocks_move(&world), "nobody waits for a host that has nothing to do");
    // One off and one on: that of the cleaning.
    assert!(powers(&world) <= 2, "{:#?}", world.steps);
}

#[test]
fn a_claim_goes_to_the_write_without_the_power_being_touched() {
    let mut world = standing(HostStandby::Running);
    world.steps.clear();
    world.claim();
    let mut written = None;
    for _ in 0..40 {
        let plan = world.plan();
        let Step::Act(action) = &plan.step else { break };
        world.steps.push(format!("{action:?}"));
        if matches!(action, Action::Task(AgentTask::Deploy { .. })) {
            assert!(blocks_move(&world), "a write is under way");
            written = Some(powers(&world));
        }
        world.act(action);
        world.now = after(world.now, Duration::from_millis(100));
    }
    assert_eq!(written, Some(0), "{:#?}", world.steps);
    assert_eq!(world.host.spec.record.as_ref().unwrap().agent.as_ref().unwrap().boot_number, 1);
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.running), (1, Running::Disk));
    assert!(!blocks_move(&world));
}

#[test]
fn by_kexec_the_power_is_not_touched_at_all() {
    let mut world = standing(HostStandby::Running);
    world.kexec = Some(true);
    world.steps.clear();
    world.claim();
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((powers(&world), world.running), (0, Running::Disk), "{:#?}", world.steps);
}

#[test]
fn a_released_host_is_dead_and_clean_before_it_stands_by_again() {
    let mut world = standing(HostStandby::Running);
    world.claim();
    world.settle(|_| false);
    world.let_go();
    world.steps.clear();
    assert_eq!(world.settle_released(|_| false).state, State::Available);
    assert_eq!((world.running, world.disk.as_deref(), world.cleanings), (Running::Agent(2), None, 2));
    let place = |what: &str| world.steps.iter().position(|step| step.contains(what));
    assert!(place("ForceOff").unwrap() < place("Release").unwrap(), "{:#?}", world.steps);
    assert_eq!(offs(&world), 0, "that was no saving of power");
}

#[test]
fn a_claim_under_which_nothing_was_written_ends_without_a_power_cycle() {
    let mut world = standing(HostStandby::Running);
    world.steps.clear();
    world.claim();
    world.let_go();
    assert_eq!(world.settle_released(|_| false).state, State::Available);
    assert_eq!((world.running, powers(&world)), (Running::Agent(1), 0), "{:#?}", world.steps);
    assert!(world.host.spec.consumer_ref.is_none());
}

#[test]
fn one_under_which_something_was_begun_does_not() {
    let mut world = standing(HostStandby::Running);
    world.claim();
    world.write(&RecordWrite::BeginWrite {
        image: Box::new(image()),
        digest: format!("sha256:{HEX}"),
        cleaning_mode: None,
        hints: None,
    });
    world.let_go();
    world.steps.clear();
    assert_eq!(world.settle_released(|_| false).state, State::Available);
    assert!(world.steps.iter().any(|step| step.contains("Release")), "{:#?}", world.steps);
    assert_eq!((world.running, world.cleanings), (Running::Agent(2), 2));
}

#[test]
fn to_and_fro_each_switching_off_is_counted_once() {
    let mut world = standing(HostStandby::Off);
    assert_eq!((world.running, offs(&world)), (Running::Nothing, 0));
    for round in 1..=3 {
        tell(&mut world, HostStandby::Running);
        assert!(matches!(world.running, Running::Agent(_)), "{:#?}", world.steps);
        tell(&mut world, HostStandby::Off);
        assert_eq!((world.running, offs(&world)), (Running::Nothing, round));
        assert!(!blocks_move(&world));
    }
    // What is more than a day ago is forgotten.
    world.now = after(world.now, Duration::from_secs(86_400 - 5));
    tell(&mut world, HostStandby::Running);
    world.now = after(world.now, Duration::from_secs(10));
    tell(&mut world, HostStandby::Off);
    assert!(offs(&world) < 4, "{}", offs(&world));
    assert_eq!(world.cleanings, 1);
}

#[test]
fn a_manager_that_dies_at_any_step_of_switching_off_counts_it_once() {
    for fatal in 0..12 {
        let mut world = standing(HostStandby::Running);
        world.host.spec.standby = Some(HostStandby::Off);
        assert_eq!(world.settle(|step| step == fatal).state, State::Available);
        assert_eq!((world.running, offs(&world)), (Running::Nothing, 1), "killed after step {fatal}");
    }
}

#[test]
fn a_manager_that_dies_does_not_disturb_a_host_that_stands_by() {
    let mut world = standing(HostStandby::Running);
    world.steps.clear();
    world.restart();
    world.settle(|_| false);
    assert_eq!((world.running, powers(&world)), (Running::Agent(1), 0), "{:#?}", world.steps);
}

#[test]
fn a_host_that_is_deleted_is_switched_off() {
    let mut world = standing(HostStandby::Running);
    world.host.metadata.deletion_timestamp = Some(Time(world.now));
    for _ in 0..20 {
        let plan = world.plan();
        let Step::Act(action) = &plan.step else { break };
        world.act(action);
        world.now = after(world.now, Duration::from_millis(100));
        if world.host.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
            break;
        }
    }
    assert_eq!(world.running, Running::Nothing);
    assert!(world.host.metadata.finalizers.as_ref().is_none_or(Vec::is_empty));
}

#[test]
fn what_nobody_may_use_does_not_stand_by() {
    let mut world = standing(HostStandby::Running);
    world.host.spec.record.as_mut().unwrap().quarantined = Some("looked odd".to_owned());
    world.settle(|_| false);
    assert_eq!(world.running, Running::Nothing);
}

#[test]
fn a_paused_host_is_left_as_it_is() {
    let mut world = standing(HostStandby::Running);
    world.steps.clear();
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::PAUSED_ANNOTATION.to_owned(), String::new())]));
    world.host.spec.standby = Some(HostStandby::Off);
    assert!(world.plan().paused.is_some());
    world.settle(|_| false);
    assert_eq!((world.running, world.steps.len()), (Running::Agent(1), 0));
}

#[test]
fn a_boot_that_failed_is_forgotten_when_the_host_is_to_be_off() {
    let mut world = standing(HostStandby::Off);
    world.memory.fail("AgentBootFailed".to_owned(), "nobody came".to_owned(), None, false, world.now);
    assert!(world.plan().error.is_some());
    world.now = after(world.now, Duration::from_secs(3600));
    let plan = world.settle(|_| false);
    assert!(plan.error.is_none(), "{plan:?}");
}

#[test]
fn without_a_bmc_nobody_stands_by() {
    let mut world = World::new();
    world.host.spec.bmc.as_mut().unwrap().address = "wol://192.0.2.255".to_owned();
    world.wol = Some(true);
    world.host.spec.standby = Some(HostStandby::Running);
    world.settle(|_| false);
    assert_eq!(world.running, Running::Nothing);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Told to and fro, claimed and let go, with the manager dying now and then: it ends as it was told last, and is never
    /// written but for a claim.
    #[test]
    fn however_it_is_told_and_used_it_ends_as_it_was_told(
        told in prop::collection::vec(0..4_u8, 1..12),
        deaths in prop::collection::vec(any::<bool>(), 64),
    ) {
        let mut world = World::new();
        let mut deaths = deaths.into_iter().cycle();
        let mut claims = 0;
        for what in told {
            match what {
                0 => world.host.spec.standby = Some(HostStandby::Off),
                1 => world.host.spec.standby = Some(HostStandby::Running),
                2 => world.host.spec.standby = None,
                _ => {
                    world.settle(|_| false);
                    world.claim();
                    claims += 1;
                    let plan = world.settle(|_| deaths.next() == Some(true));
                    prop_assert_eq!(plan.state, State::Provisioned);
                    prop_assert_eq!(world.running, Running::Disk);
                    world.let_go();
                    world.settle_released(|_| false);
                }
            }
            world.settle(|_| deaths.next() == Some(true));
        }
        world.settle(|_| false);
        let runs = matches!(world.running, Running::Agent(_));
        prop_assert_eq!(runs, world.host.spec.standby == Some(HostStandby::Running), "{:#?}", world.steps);
        prop_assert_eq!(world.writes, claims);
        prop_assert!(!blocks_move(&world));
    }
}

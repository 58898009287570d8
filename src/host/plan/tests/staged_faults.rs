//! Stagings that fail, that are cut off, or that nobody wants any more.

use ferric_api::host::{HostStandby, ImageFormat, RootDeviceHints};
use ferric_protocol::v1::TaskErrorCode;

use super::staged::{OTHER, blocks_move, other, staged, staging};
use super::*;
use crate::host::consumer::to_stage;

fn hints() -> RootDeviceHints {
    RootDeviceHints { model: Some("M".to_owned()), ..RootDeviceHints::default() }
}

fn fetching() -> Option<ImageState> {
    Some(ImageState::Fetching { bytes_done: 1, bytes_total: None })
}

impl World {
    /// The agent fails at what it was given to stage.
    fn fail_staging(&mut self, code: TaskErrorCode) {
        let task = self.tasks.iter_mut().find(|(id, task)| id.starts_with("stage-") && !task.is_finished());
        *task.unwrap().1 = TaskState::Failed { code, message: "no".to_owned() };
    }

    /// The agent is gone with all that it knew, and the server off.
    fn lose_agent(&mut self) {
        self.memory.see_agent(Some(1), true, self.now);
        self.running = Running::Nothing;
        self.tasks.clear();
        self.memory.power = None;
    }

    /// Carries out plans made while the cache has no image, until there is nothing to do.
    fn settle_fetching(&mut self) -> Plan {
        for _ in 0..50 {
            let plan = self.plan_with(fetching());
            let Step::Act(action) = &plan.step else { return plan };
            self.steps.push(format!("{action:?}"));
            self.act(action);
        }
        panic!("the host does not settle: {:#?}", self.steps);
    }

    fn failures(&self, plan: &Plan) -> Option<i32> {
        let agent = self.agent();
        let observation = Observation {
            host: &self.host,
            consumer: self.consumer.clone(),
            duplicate_of: None,
            bmc: &self.memory,
            agent: agent.as_ref(),
            image: None,
            now: self.now,
            limits: Limits::default(),
        };
        let told = crate::host::standby::told(&observation, plan, None)?;
        told.failures.map(|failures| failures.count)
    }
}

fn reason(plan: &Plan) -> &'static str {
    let Step::Wait(wait) = &plan.step else { panic!("{plan:?}") };
    wait.reason
}

#[test]
fn a_staging_that_fails_by_the_image_leaves_the_host_free_and_off() {
    for code in [
        TaskErrorCode::NoDisk,
        TaskErrorCode::ImageUnavailable,
        TaskErrorCode::ImageCorrupt,
        TaskErrorCode::ImageTooLarge,
        TaskErrorCode::ChecksumMismatch,
        TaskErrorCode::Unsupported,
    ] {
        let mut world = staging();
        world.memory.fail("AgentBootFailed".to_owned(), "x".to_owned(), None, false, world.memory.since);
        for count in 1..=2 {
            world.fail_staging(code);
            let plan = world.settle(|_| false);
            assert_eq!((plan.state, reason(&plan)), (State::Available, "StagedImage"), "{code:?}");
            assert_eq!((world.running, blocks_move(&world)), (Running::Nothing, false), "{:#?}", world.steps);
            assert_eq!((&plan.error, world.failures(&plan)), (&None, None), "{code:?}: nothing against it");
            // It is tried again, each time later, and nothing is switched until then.
            let failure = world.memory.failure.clone().unwrap();
            let retry_at = failure.retry_at(&Limits::default(), "uid-h");
            let pause = retry_at.duration_since(failure.at).as_secs();
            let full = [300, 600][usize::try_from(count).unwrap() - 1];
            assert!(failure.count == count && (full * 3 / 4..=full).contains(&pause), "{count}: {pause} s");
            let Step::Wait(wait) = &plan.step else { panic!("{plan:?}") };
            assert!(wait.deadline == Some(retry_at) && wait.message.contains("no"), "{wait:?}");
            world.steps.clear();
            world.now =
                after(retry_at, Duration::from_secs(0)).checked_sub(SignedDuration::from_secs(1)).unwrap();
            world.settle(|_| false);
            assert!(world.steps.iter().all(|step| step.contains("ReadPower")), "{:#?}", world.steps);
            world.now = retry_at;
            assert_eq!(reason(&world.settle(|_| false)), "AgentTask", "{:#?}", world.steps);
        }
        // It can be staged after all.
        world.slow = false;
        world.finish_staging();
        world.settle(|_| false);
        assert_eq!((world.staged_url(), &world.memory.failure), (Some(IMAGE), &None));
    }
}

#[test]
fn a_claim_waits_for_no_staging_that_failed() {
    for (claimed, code) in [
        (image(), TaskErrorCode::ImageUnavailable),
        (other(), TaskErrorCode::ImageTooLarge),
        (image(), TaskErrorCode::DiskFailed),
    ] {
        let mut world = staging();
        world.fail_staging(code);
        world.settle(|_| false);
        let before = world.now;
        world.claim_for(claimed);
        assert_eq!(world.settle(|_| false).state, State::Provisioned);
        assert!(world.now.duration_since(before).as_secs() < 30, "{:#?}", world.steps);
        assert_eq!((world.writes, &world.memory.failure), (1, &None));
    }
}

#[test]
fn what_a_deploy_fails_at_counts_whatever_was_staged_before() {
    let mut world = staging();
    world.fail_staging(TaskErrorCode::ImageTooLarge);
    world.settle(|_| false);
    world.claim();
    world.memory.fail_task("ImageTooLarge".to_owned(), "x".to_owned(), false, world.now);
    let plan = world.plan();
    assert_eq!((reason(&plan), world.failures(&plan)), ("Retry", Some(1)));
    assert_eq!(plan.error.map(|error| error.reason).as_deref(), Some("ImageTooLarge"));
}

#[test]
fn a_disk_that_fails_says_so_and_the_server_is_off_until_the_next_try() {
    let mut world = staging();
    world.fail_staging(TaskErrorCode::DiskFailed);
    let plan = world.settle(|_| false);
    assert_eq!(plan.error.as_ref().map(|error| &*error.reason), Some("DiskFailed"));
    assert_eq!((reason(&plan), world.failures(&plan)), ("StagedImage", Some(1)));
    assert_eq!((world.running, blocks_move(&world)), (Running::Nothing, false));
    // What nobody wants any more is no trouble.
    let mut none = staging();
    none.fail_staging(TaskErrorCode::DiskFailed);
    assert_eq!(none.tell(Some(HostStandby::Off), None).error, None);
    world.now = after(world.now, Duration::from_secs(300));
    world.slow = false;
    let plan = world.settle(|_| false);
    assert_eq!(
        (world.staged_url(), world.stagings, plan.error),
        (Some(IMAGE), 1, None),
        "{:#?}",
        world.steps
    );
}

#[test]
fn another_image_is_staged_at_once_after_one_that_failed() {
    let mut world = staging();
    world.fail_staging(TaskErrorCode::ImageCorrupt);
    world.settle(|_| false);
    let before = world.now;
    world.slow = false;
    world.tell(Some(HostStandby::Staged), Some(other()));
    assert_eq!((world.staged_url(), &world.memory.failure), (Some(OTHER), &None), "{:#?}", world.steps);
    assert!(world.now.duration_since(before).as_secs() < 30);
}

#[test]
fn a_deleted_host_waits_for_no_staging_that_failed() {
    let mut world = staging();
    world.fail_staging(TaskErrorCode::ImageCorrupt);
    world.settle(|_| false);
    world.host.metadata.deletion_timestamp = Some(Time(world.now));
    world.settle(|_| false);
    assert_eq!(world.host.metadata.finalizers, Some(Vec::new()), "{:#?}", world.steps);
    assert_eq!(world.running, Running::Nothing);
}

#[test]
fn only_what_is_to_be_written_is_kept_in_the_cache() {
    let mut world = staged();
    assert_eq!(to_stage(&world.host), None);
    world.host.spec.staged_image = Some(other());
    assert_eq!(to_stage(&world.host).map(|desired| desired.image), Some(other()));
    let world = staging();
    assert_eq!(to_stage(&world.host).map(|desired| desired.image), Some(image()));
}

#[test]
fn a_manager_that_starts_anew_switches_no_server_off_that_is_being_staged() {
    let mut world = staging();
    world.restart();
    world.steps.clear();
    let plan = world.settle_fetching();
    assert_eq!((plan.state, reason(&plan)), (State::Available, "AgentTask"), "{:#?}", world.steps);
    // Nor later on, while the agent is at it.
    world.now = after(world.now, Limits::default().agent_boot * 2);
    assert_eq!(reason(&world.settle_fetching()), "AgentTask");
    let changes = ["Power(", "StandDown", "BootAgent", "Begin"];
    assert!(!changes.iter().any(|what| world.place(what).is_some()), "{:#?}", world.steps);
    world.finish_staging();
    world.settle(|_| false);
    assert_eq!((world.staged_url(), world.stagings, world.running), (Some(IMAGE), 1, Running::Nothing));
    assert_eq!(world.record().agent.as_ref().unwrap().boot_number, 1);
}

#[test]
fn a_boot_that_has_begun_waits_for_the_cache_and_not_for_ever() {
    let mut world = World::new();
    world.settle(|_| false);
    (world.host.spec.standby, world.host.spec.staged_image) = (Some(HostStandby::Staged), Some(image()));
    while world.place("BeginBoot { number: 2 }").is_none() {
        let plan = world.plan();
        let Step::Act(action) = &plan.step else { panic!("{plan:?}") };
        world.steps.push(format!("{action:?}"));
        world.act(action);
    }
    world.restart();
    world.steps.clear();
    assert_eq!(reason(&world.settle_fetching()), "StagedImage");
    assert!(world.place("StandDown").is_none() && world.place("Power(").is_none(), "{:#?}", world.steps);
    let mut late = world.now;
    std::mem::swap(&mut world.now, &mut late);
    world.now = after(world.now, Limits::default().agent_boot);
    world.settle_fetching();
    assert!(world.place("StandDown").is_some() && !blocks_move(&world), "{:#?}", world.steps);
}

#[test]
fn a_part_of_an_image_on_another_disk_is_wiped_before_the_write() {
    let mut world = staging();
    world.lose_agent();
    world.claim();
    let desired = Desired { hints: Some(hints()), ..desired() };
    world.consumer = Consumer::Machine { machine: Key::new("default", "m"), desired: Ok(desired) };
    world.steps.clear();
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.cleanings), (1, 2), "{:#?}", world.steps);
    assert!(world.place("Unstage").unwrap() < world.place("Task(Clean").unwrap());
    assert!(world.place("Task(Clean").unwrap() < world.place("BeginWrite").unwrap());
    // On the same disk it is written over.
    let mut world = staging();
    world.lose_agent();
    world.claim();
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.cleanings), (1, 1), "{:#?}", world.steps);
}

#[test]
fn what_is_under_way_comes_to_its_end_before_its_disk_is_wiped() {
    let live = Image {
        url: "http://images/live.iso".to_owned(),
        disk_format: Some(ImageFormat::LiveIso),
        ..Image::default()
    };
    let elsewhere = Desired { hints: Some(hints()), ..desired() };
    // The disk of an image that was finished the agent wipes with the write.
    for (desired, cleanings) in [(elsewhere, 1), (Desired { image: live, ..desired() }, 2)] {
        let mut world = staging();
        world.claim();
        world.consumer = Consumer::Machine { machine: Key::new("default", "m"), desired: Ok(desired) };
        world.steps.clear();
        assert_eq!(reason(&world.settle(|_| false)), "AgentTask");
        assert_eq!(world.steps, Vec::<String>::new());
        world.finish_staging();
        assert_eq!(world.settle(|_| false).state, State::Provisioned);
        assert_eq!(world.cleanings, cleanings, "{:#?}", world.steps);
    }
}

#[test]
fn disks_that_are_handed_to_others_while_one_is_staged_are_written_no_further() {
    let mut world = staging();
    world.host.spec.externally_provisioned = true;
    world.steps.clear();
    let plan = world.settle(|_| false);
    assert_eq!(plan.state, State::ExternallyProvisioned);
    assert!(
        world.place("Power(ForceOff").unwrap() < world.place("DropStaged").unwrap(),
        "{:#?}",
        world.steps
    );
    assert!(world.record().agent.as_ref().unwrap().ended && !blocks_move(&world));
    assert_eq!((world.record().staged.clone(), world.stagings), (None, 0));
    // What others run there is not ours to switch off.
    let mut world = staging();
    world.running = Running::Disk;
    world.host.spec.externally_provisioned = true;
    world.steps.clear();
    world.settle(|_| false);
    assert!(world.place("Power(").is_none() && world.place("DropStaged").is_some(), "{:#?}", world.steps);
    assert!(world.record().agent.as_ref().unwrap().ended && !blocks_move(&world));
}

#[test]
fn what_was_given_up_is_not_brought_back_by_what_the_agent_still_says() {
    let mut world = staging();
    world.finish_staging();
    world.write(&RecordWrite::Unstage);
    world
        .host
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(names::PAUSED_ANNOTATION.to_owned(), String::new());
    let plan = world.settle(|_| false);
    assert_eq!((reason(&plan), world.staged_url()), ("Paused", None), "{:#?}", world.steps);
}

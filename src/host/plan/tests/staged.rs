//! Free hosts that are off with an image on their disk.

use ferric_api::host::{HostStandby, ImageFormat, RootDeviceHints};
use ferric_protocol::v1::StageResult;

use super::*;
use crate::host::consumer::{cleaning_root, staged_desire};

pub(super) const OTHER: &str = "http://images/b.raw";

pub(super) fn other() -> Image {
    Image { url: OTHER.to_owned(), checksum: Some("b".repeat(64)), ..Image::default() }
}

impl World {
    /// What a deploy task does to the disk: whether the image was there, and why not.
    pub(super) fn deploy(&mut self) -> (bool, String) {
        let image = self.host.spec.record.as_ref().unwrap().image.clone().unwrap();
        let found = image.staged.as_ref().map(|staged| {
            let same = staged.digest == image.digest && staged.format == "none";
            same && !self.touched && self.disk.as_deref() == Some(&*image.url)
        });
        let kept = found == Some(true);
        (self.kept, self.writes) = (self.kept + u32::from(kept), self.writes + u32::from(!kept));
        self.disk = Some(image.url);
        self.touched = true;
        (kept, if found == Some(false) { "it is not there".to_owned() } else { String::new() })
    }

    /// The agent has written the image that it was given to stage.
    pub(super) fn finish_staging(&mut self) {
        let Some((id, _)) =
            self.tasks.iter().find(|(id, task)| id.starts_with("stage-") && !task.is_finished())
        else {
            return;
        };
        let id = id.clone();
        // What it was given then, which is not always what the record speaks of now.
        let digit = id.split('-').nth(2).and_then(|digest| digest.chars().next());
        self.disk = Some(if digit == Some('a') { IMAGE } else { OTHER }.to_owned());
        self.touched = false;
        self.stagings += 1;
        let result = StageResult {
            root_device: "/dev/sda".to_owned(),
            root_serial: "D1".to_owned(),
            bytes_written: 1,
            content_hash: format!("blake3:{}", "c".repeat(64)),
            ..StageResult::default()
        };
        self.tasks.insert(id, TaskState::Succeeded(TaskOutcome::Stage(Arc::new(result))));
    }

    /// What the record says to be on the disk is there, and nothing of anybody.
    pub(super) fn check_staged(&self) {
        let Some(record) = &self.host.spec.record else { return };
        let Some(staged) = record.staged.as_ref().filter(|staged| staged.content_hash.is_some()) else {
            return;
        };
        assert!(record.image.is_none() && staged.finished_at.is_some(), "{record:?}");
        assert_eq!(self.disk.as_deref(), Some(&*staged.url), "{:#?}", self.steps);
    }

    pub(super) fn tell(&mut self, standby: Option<HostStandby>, image: Option<Image>) -> Plan {
        (self.host.spec.standby, self.host.spec.staged_image) = (standby, image);
        self.settle(|_| false)
    }

    pub(super) fn staged_url(&self) -> Option<&str> {
        let record = self.host.spec.record.as_ref()?;
        crate::host::record::finished(record).map(|staged| &*staged.url)
    }

    pub(super) fn claim_for(&mut self, image: Image) {
        self.claim();
        let desired = Desired { image, ..desired() };
        self.consumer = Consumer::Machine { machine: Key::new("default", "m"), desired: Ok(desired) };
    }

    pub(super) fn place(&self, what: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.contains(what))
    }

    fn said(&self) -> Option<HostStandby> {
        let observation = Observation {
            host: &self.host,
            consumer: self.consumer.clone(),
            duplicate_of: None,
            bmc: &self.memory,
            agent: None,
            image: None,
            now: self.now,
            limits: Limits::default(),
        };
        crate::host::standby::told(&observation, &self.plan(), None)?.state
    }
}

/// A host that was told to be staged, and has come to it.
pub(super) fn staged() -> World {
    let mut world = World::new();
    let plan = world.tell(Some(HostStandby::Staged), Some(image()));
    assert_eq!((plan.state, world.running), (State::Available, Running::Nothing), "{:#?}", world.steps);
    assert_eq!((world.staged_url(), world.stagings), (Some(IMAGE), 1), "{:#?}", world.steps);
    world
}

/// A host whose agent is staging an image.
pub(super) fn staging() -> World {
    let mut world = World::new();
    world.slow = true;
    world.tell(Some(HostStandby::Staged), Some(image()));
    assert!(world.tasks.keys().any(|id| id.starts_with("stage-")), "{:#?}", world.steps);
    world
}

pub(super) fn blocks_move(world: &World) -> bool {
    world.host.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::BLOCK_MOVE_ANNOTATION))
}

#[test]
fn a_free_host_is_staged_by_the_agent_that_cleaned_it_and_is_off_then() {
    let world = staged();
    assert_eq!((world.writes, world.cleanings, world.record().stood_down_at.len()), (0, 1, 1));
    assert_eq!(world.record().agent.as_ref().unwrap().boot_number, 1);
    assert!(!blocks_move(&world) && !world.touched);
    assert!(world.place("BeginStage").unwrap() < world.place("Task(Stage").unwrap());
    assert!(world.place("Task(Clean").unwrap() < world.place("BeginStage").unwrap());
    let staged = world.record().staged.clone().unwrap();
    assert_eq!(
        (staged.root_serial_number.as_deref(), staged.bytes, &*staged.format),
        (Some("D1"), Some(1), "none")
    );
    assert_eq!(world.said(), Some(HostStandby::Staged));
    assert!(world.record().cleaned.is_some() && world.record().image.is_none());
}

#[test]
fn it_is_said_to_be_staged_only_when_it_is_off_with_what_it_is_to_have() {
    let mut world = staged();
    world.memory.power = None;
    assert_eq!(world.said(), None);
    world.memory.power = Some(crate::host::memory::Seen { value: PowerState::On, at: world.now });
    assert_eq!(world.said(), None);
    world.memory.power = Some(crate::host::memory::Seen { value: PowerState::Off, at: world.now });
    assert_eq!(world.said(), Some(HostStandby::Staged));
    world.host.spec.staged_image = Some(other());
    assert_eq!(world.said(), Some(HostStandby::Off));
    world.host.spec.staged_image = Some(image());
    world.host.spec.record.as_mut().unwrap().staged.as_mut().unwrap().finished_at = None;
    assert_eq!(world.said(), Some(HostStandby::Off));
}

#[test]
fn a_claim_for_the_image_writes_nothing() {
    let mut world = staged();
    world.claim();
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.kept, world.running), (0, 1, Running::Disk), "{:#?}", world.steps);
    let record = world.record();
    let image = record.image.as_ref().unwrap();
    assert!(record.staged.is_none() && image.staged.is_none() && image.kept_staged, "{record:?}");
    // What is released is wiped, and staged anew.
    world.let_go();
    assert_eq!(world.settle_released(|_| false).state, State::Available);
    assert_eq!((world.staged_url(), world.stagings, world.cleanings), (Some(IMAGE), 2, 2));
    assert!(!world.touched, "nothing of the last user is left");
}

#[test]
fn a_claim_for_another_image_writes_it_in_full() {
    let mut world = staged();
    world.claim_for(other());
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.kept, world.disk.as_deref()), (1, 0, Some(OTHER)));
    let image = world.record().image.clone().unwrap();
    assert!(!image.kept_staged && image.staged.is_none() && image.staged_problem.is_some(), "{image:?}");
}

#[test]
fn a_disk_that_was_changed_is_written_in_full_and_the_condition_says_so() {
    let mut world = staged();
    world.touched = true;
    world.claim();
    let plan = world.settle(|_| false);
    assert_eq!((plan.state, world.writes, world.kept), (State::Provisioned, 1, 0));
    let observation = Observation {
        host: &world.host,
        consumer: world.consumer.clone(),
        duplicate_of: None,
        bmc: &world.memory,
        agent: None,
        image: None,
        now: world.now,
        limits: Limits::default(),
    };
    let status = crate::host::report::status(&observation, &plan);
    let told =
        ferric_api::condition::get(&status.conditions, ferric_api::condition::types::PROVISIONED).unwrap();
    assert_eq!((&*told.status, &*told.message), ("True", "the staged image was not used: it is not there"));
}

#[test]
fn a_host_that_is_claimed_while_it_is_staged_goes_on_in_the_same_boot() {
    let mut world = staging();
    world.claim();
    world.steps.clear();
    let waits = world.settle(|_| false);
    let Step::Wait(wait) = &waits.step else { panic!("{waits:?}") };
    assert_eq!((waits.state, wait.reason), (State::Provisioning, "AgentTask"), "{:#?}", world.steps);
    assert!(world.steps.is_empty(), "{:#?}", world.steps);
    world.finish_staging();
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.stagings, world.kept, world.writes), (1, 1, 0), "{:#?}", world.steps);
    assert_eq!(world.record().agent.as_ref().unwrap().boot_number, 1);
    assert!(world.record().stood_down_at.is_empty(), "that was no saving of power");
}

#[test]
fn one_that_wants_another_image_waits_for_the_end_too_and_writes_its_own() {
    let mut world = staging();
    world.claim_for(other());
    assert!(matches!(world.settle(|_| false).step, Step::Wait(_)));
    assert_eq!((world.writes, world.record().image.is_none()), (0, true));
    world.finish_staging();
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.kept, world.disk.as_deref()), (1, 0, Some(OTHER)));
    assert!(
        world.record().image.as_ref().unwrap().staged_problem.is_some(),
        "the agent was told what to wipe"
    );
}

#[test]
fn an_agent_that_dies_while_it_stages_leaves_no_proof() {
    let mut world = staging();
    world.claim();
    // The server is off by a fault, and nothing is known of what was written.
    world.memory.see_agent(Some(1), true, world.now);
    world.running = Running::Nothing;
    world.tasks.clear();
    world.slow = false;
    world.memory.power = None;
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.kept), (1, 0), "{:#?}", world.steps);
    assert_eq!(world.record().image.as_ref().unwrap().staged_problem, None);
}

#[test]
fn a_claim_that_ends_while_it_is_staged_ends_at_once_and_staging_goes_on() {
    let mut world = staging();
    world.claim();
    world.let_go();
    world.steps.clear();
    world.settle_released(|_| false);
    assert!(world.host.spec.consumer_ref.is_none());
    assert!(world.place("Power(").is_none(), "{:#?}", world.steps);
    world.finish_staging();
    assert_eq!(world.settle(|_| false).state, State::Available);
    assert_eq!((world.staged_url(), world.stagings, world.running), (Some(IMAGE), 1, Running::Nothing));
}

#[test]
fn another_image_is_staged_anew_and_what_is_there_is_used_again() {
    let mut world = staged();
    world.tell(Some(HostStandby::Staged), Some(other()));
    assert_eq!((world.staged_url(), world.stagings, world.cleanings), (Some(OTHER), 2, 1));
    assert_eq!(world.record().stood_down_at.len(), 2);
    // Off, or without a word: the disk is left as it is, and the server off.
    world.steps.clear();
    for standby in [Some(HostStandby::Off), None, Some(HostStandby::Staged)] {
        world.tell(standby, Some(other()));
        assert_eq!((world.staged_url(), world.running), (Some(OTHER), Running::Nothing));
    }
    assert!(world.place("Power(").is_none() && world.place("Task(").is_none(), "{:#?}", world.steps);
    // In the agent it stays too.
    world.tell(Some(HostStandby::Running), None);
    assert_eq!((world.staged_url(), world.running), (Some(OTHER), Running::Agent(3)));
    world.claim_for(other());
    assert_eq!(world.settle(|_| false).state, State::Provisioned);
    assert_eq!((world.writes, world.kept), (0, 1));
}

#[test]
fn the_same_url_with_another_checksum_or_format_is_another_image() {
    for spoil in [(|image: &mut Image| image.checksum = Some("b".repeat(64))) as fn(&mut Image), |image| {
        image.disk_format = Some(ImageFormat::Qcow2)
    }] {
        let mut world = staged();
        let mut image = image();
        spoil(&mut image);
        world.host.spec.staged_image = Some(image);
        assert_eq!(world.said(), Some(HostStandby::Off));
        let plan = world.plan();
        assert!(!matches!(plan.step, Step::Rest(_)), "{plan:?}");
    }
}

#[test]
fn hints_that_may_mean_another_disk_have_the_old_one_cleaned_first() {
    let mut world = staged();
    let hints = RootDeviceHints { model: Some("M".to_owned()), ..RootDeviceHints::default() };
    world.host.spec.root_device_hints = Some(hints.clone());
    world.steps.clear();
    let plan = world.plan();
    let Step::Act(action) = &plan.step else { panic!("{plan:?}") };
    world.act(action);
    let root = cleaning_root(&world.host, None).unwrap();
    assert_eq!(
        root.serial_number.as_deref(),
        Some("D1"),
        "that which was written, and not what the hints name now"
    );
    assert_eq!(world.settle(|_| false).state, State::Available);
    assert_eq!((world.cleanings, world.stagings), (2, 2), "{:#?}", world.steps);
    assert_eq!(world.record().staged.as_ref().unwrap().root_device_hints, Some(hints));
}

#[test]
fn what_is_not_written_runs_without_a_bootable_disk_beside_it() {
    for fatal in 0..40 {
        let mut world = staged();
        let live = Image {
            url: "http://images/live.iso".to_owned(),
            disk_format: Some(ImageFormat::LiveIso),
            ..Image::default()
        };
        world.claim_for(live);
        world.steps.clear();
        let plan = world.settle(|step| step == fatal);
        assert_eq!((plan.state, world.running), (State::Provisioned, Running::LiveIso), "{:#?}", world.steps);
        assert_eq!((world.disk.as_deref(), world.record().staged.is_none()), (None, true));
        assert!(world.place("Unstage").unwrap() < world.place("Task(Clean").unwrap());
        assert!(world.place("Task(Clean").unwrap() < world.place("BeginWrite").unwrap());
    }
}

#[test]
fn disks_that_are_handed_to_others_are_forgotten_and_not_touched() {
    let mut world = staged();
    world.host.spec.externally_provisioned = true;
    world.steps.clear();
    let plan = world.plan();
    let Step::Act(action @ Action::Write { write: RecordWrite::DropStaged, .. }) = &plan.step else {
        panic!("{plan:?}")
    };
    world.act(action);
    world.settle(|_| false);
    assert!(world.record().staged.is_none() && world.record().cleaned.is_none());
    assert!(world.place("Task(").is_none(), "{:#?}", world.steps);
}

/// Makes a host one that must not be staged.
type Spoiler = fn(&mut World);

#[test]
fn nothing_is_staged_where_it_must_not_be() {
    let spoilers: [(&str, Spoiler); 6] = [
        ("no image", |w| w.host.spec.staged_image = None),
        ("from memory", |w| {
            w.host.spec.staged_image.as_mut().unwrap().disk_format = Some(ImageFormat::LiveIso)
        }),
        ("not writable", |w| {
            w.host.spec.staged_image.as_mut().unwrap().disk_format = Some(ImageFormat::Vmdk)
        }),
        ("not cleaned", |w| w.host.spec.automated_cleaning_mode = Some(CleaningMode::Disabled)),
        ("quarantined", |w| w.host.spec.record.as_mut().unwrap().quarantined = Some("odd".to_owned())),
        ("others' disks", |w| w.host.spec.externally_provisioned = true),
    ];
    for (what, spoil) in spoilers {
        let mut world = World::new();
        world.settle(|_| false);
        (world.host.spec.standby, world.host.spec.staged_image) = (Some(HostStandby::Staged), Some(image()));
        spoil(&mut world);
        world.steps.clear();
        world.settle(|_| false);
        assert_eq!((world.stagings, world.disk.as_deref()), (0, None), "{what}: {:#?}", world.steps);
        assert!(
            world.place("Boot").is_none() && world.place("Stage").is_none(),
            "{what}: {:#?}",
            world.steps
        );
    }
    let mut blind = World::new();
    blind.host.spec.bmc.as_mut().unwrap().address = "wol://192.0.2.255".to_owned();
    blind.wol = Some(true);
    blind.tell(Some(HostStandby::Staged), Some(image()));
    assert_eq!((blind.stagings, blind.running), (0, Running::Nothing));
}

#[test]
fn no_server_is_on_for_the_sake_of_a_download() {
    let mut world = World::new();
    world.settle(|_| false);
    (world.host.spec.standby, world.host.spec.staged_image) = (Some(HostStandby::Staged), Some(image()));
    let fetching = ImageState::Fetching { bytes_done: 1, bytes_total: None };
    let failed = ImageState::Failed {
        reason: "ImageUnreachable",
        message: "no route".to_owned(),
        retry_at: after(world.now, Duration::from_secs(60)),
        permanent: false,
    };
    for state in [Some(fetching), Some(failed), None] {
        let plan = plan(&Observation {
            host: &world.host,
            consumer: world.consumer.clone(),
            duplicate_of: None,
            bmc: &world.memory,
            agent: None,
            image: state.clone(),
            now: world.now,
            limits: Limits::default(),
        });
        let Step::Wait(wait) = &plan.step else { panic!("{state:?}: {plan:?}") };
        assert_eq!((plan.state, wait.reason), (State::Available, "StagedImage"), "{plan:?}");
        assert!(plan.error.is_none(), "an image says nothing against a host: {plan:?}");
    }
}

#[test]
fn whoever_else_takes_the_host_is_not_written_over() {
    for taken in 0..40 {
        let mut world = World::new();
        (world.host.spec.standby, world.host.spec.staged_image) = (Some(HostStandby::Staged), Some(image()));
        for step in 0..60 {
            if step == taken {
                world.host.spec.consumer_ref =
                    Some(ConsumerRef { name: Some("x".to_owned()), ..Default::default() });
                world.consumer = Consumer::Foreign { what: "Other ns/x".to_owned() };
                world.steps.clear();
            }
            let plan = world.plan();
            let Step::Act(action) = &plan.step else { break };
            world.steps.push(format!("{action:?}"));
            world.act(action);
            world.now = after(world.now, Duration::from_millis(100));
        }
        if matches!(world.consumer, Consumer::Foreign { .. }) {
            assert!(world.place("Stage").is_none() && world.place("Task(").is_none(), "{:#?}", world.steps);
            assert!(world.place("Power(").is_none(), "{:#?}", world.steps);
        }
    }
}

#[test]
fn a_pause_keeps_the_result_and_a_move_need_not_wait() {
    let mut world = staging();
    assert!(blocks_move(&world));
    world
        .host
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(names::PAUSED_ANNOTATION.to_owned(), String::new());
    world.settle(|_| false);
    assert!(blocks_move(&world), "it is still being written");
    world.finish_staging();
    world.settle(|_| false);
    assert_eq!((world.staged_url(), blocks_move(&world)), (Some(IMAGE), false));
    world.host.metadata.annotations.as_mut().unwrap().remove(names::PAUSED_ANNOTATION);
    assert_eq!(world.settle(|_| false).state, State::Available);
    assert_eq!((world.running, world.stagings), (Running::Nothing, 1));
}

#[test]
fn a_manager_that_dies_at_any_step_stages_once_and_writes_nothing_more() {
    for fatal in 0..60 {
        let mut world = World::new();
        (world.host.spec.standby, world.host.spec.staged_image) = (Some(HostStandby::Staged), Some(image()));
        assert_eq!(world.settle(|step| step == fatal).state, State::Available);
        assert_eq!((world.staged_url(), world.running), (Some(IMAGE), Running::Nothing), "{fatal}");
        assert_eq!(
            (world.stagings, world.record().stood_down_at.len()),
            (1, 1),
            "{fatal}: {:#?}",
            world.steps
        );
        world.claim();
        let plan = world.settle(|step| step == fatal);
        assert_eq!((plan.state, world.running), (State::Provisioned, Running::Disk), "{fatal}");
        assert_eq!((world.stagings, world.writes, world.kept), (1, 0, 1), "{fatal}: {:#?}", world.steps);
    }
}

#[test]
fn what_an_operator_has_decided_about_is_proved_by_nothing() {
    let mut world = staged();
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::DECIDE_ANNOTATION.to_owned(), "release".to_owned())]));
    world.write(&RecordWrite::Release);
    let staged = world.record().staged.clone().unwrap();
    assert!(
        staged.content_hash.is_none() && staged.finished_at.is_none() && world.record().cleaned.is_none()
    );
    assert_eq!(staged.root_serial_number.as_deref(), Some("D1"), "the disk that is to be cleaned");
    for write in [
        RecordWrite::Cleaned { mode: CleaningMode::Metadata, keep_agent: false },
        RecordWrite::Forget,
        RecordWrite::DropStaged,
        RecordWrite::Adopt {
            claim_id: "c".to_owned(),
            provider_id: None,
            image: None,
            identity: HostIdentity::default(),
        },
    ] {
        let mut world = self::staged();
        world.write(&write);
        assert!(world.record().staged.is_none(), "{write:?}");
    }
    // A machine that is another one has other disks.
    let identity = HostIdentity { serial_number: Some("s-2".to_owned()), ..HostIdentity::default() };
    let mut world = self::staged();
    world.write(&RecordWrite::Enrol { identity });
    assert!(world.record().staged.is_none());
    assert!(staged_desire(&world.host).is_some());
}

#[test]
fn one_staging_comes_to_its_end_before_the_next_begins() {
    let mut world = staging();
    world.steps.clear();
    for round in [other(), image()] {
        world.host.spec.staged_image = Some(round);
        let plan = world.settle(|_| false);
        assert!(matches!(&plan.step, Step::Wait(wait) if wait.reason == "AgentTask"), "{plan:?}");
        assert!(world.place("BeginStage").is_none(), "{:#?}", world.steps);
    }
    world.host.spec.staged_image = Some(other());
    let mut begun = vec![world.record().staged.unwrap().started_at.unwrap()];
    for round in [Some(image()), None] {
        // To and fro within a second: what was said of one staging is not taken for the next.
        world.finish_staging();
        world.settle(|_| false);
        begun.push(world.record().staged.unwrap().started_at.unwrap());
        world.host.spec.staged_image = round.or_else(|| Some(image()));
    }
    world.finish_staging();
    world.slow = false;
    world.settle(|_| false);
    assert!(begun.windows(2).all(|two| two[0].0.as_second() < two[1].0.as_second()), "{begun:?}");
    assert_eq!((world.staged_url(), world.disk.as_deref(), world.stagings), (Some(IMAGE), Some(IMAGE), 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Told to and fro, claimed for one image or the other and let go, changed behind our back, with the manager dying now
    /// and then: each claim runs its own image, a disk that was changed is never taken for good, and it ends as it was told.
    #[test]
    fn however_it_is_told_and_used_everybody_gets_what_is_asked_for(
        told in prop::collection::vec(0..9_u8, 1..14),
        deaths in prop::collection::vec(any::<bool>(), 64),
    ) {
        let mut world = World::new();
        let mut deaths = deaths.into_iter().cycle();
        let (mut claims, mut slow) = (0, false);
        world.settle(|_| false);
        for what in told {
            world.slow = slow;
            let spec = &mut world.host.spec;
            match what {
                0 => spec.standby = Some(HostStandby::Off),
                1 => spec.standby = Some(HostStandby::Running),
                2 => spec.standby = None,
                3 => (spec.standby, spec.staged_image) = (Some(HostStandby::Staged), Some(image())),
                4 => (spec.standby, spec.staged_image) = (Some(HostStandby::Staged), Some(other())),
                5 if world.disk.is_some() => world.touched = true,
                6 => slow = !slow,
                7 | 8 => {
                    let (image, changed) = (if what == 7 { image() } else { other() }, world.touched);
                    let kept = world.kept;
                    world.claim_for(image.clone());
                    claims += 1;
                    let under_way = world.tasks.values().any(|task| !task.is_finished());
                    world.settle(|_| deaths.next() == Some(true));
                    world.finish_staging();
                    let plan = world.settle(|_| deaths.next() == Some(true));
                    prop_assert_eq!(plan.state, State::Provisioned, "{:#?}", world.steps);
                    prop_assert_eq!((world.running, world.disk.as_deref()), (Running::Disk, Some(&*image.url)));
                    prop_assert!(world.kept == kept || !changed || under_way, "{:#?}", world.steps);
                    world.let_go();
                    world.settle_released(|_| false);
                }
                _ => {}
            }
            world.settle(|_| deaths.next() == Some(true));
        }
        world.slow = false;
        world.settle(|_| false);
        world.finish_staging();
        world.settle(|_| false);
        let runs = matches!(world.running, Running::Agent(_));
        prop_assert_eq!(runs, world.host.spec.standby == Some(HostStandby::Running), "{:#?}", world.steps);
        if world.host.spec.standby == Some(HostStandby::Staged) {
            let wanted = world.host.spec.staged_image.as_ref().map(|image| &*image.url);
            prop_assert_eq!(world.staged_url(), wanted, "{:#?}", world.steps);
        }
        prop_assert_eq!(world.writes + world.kept, claims);
        prop_assert!(!blocks_move(&world));
    }
}

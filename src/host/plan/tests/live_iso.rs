//! Systems that run from an ISO image.

use super::*;

fn live_iso() -> Desired {
    let image = Image {
        url: "http://images/live.iso".to_owned(),
        disk_format: Some(ferric_api::host::ImageFormat::LiveIso),
        ..Image::default()
    };
    Desired { image, instance_id: "claim-1".to_owned(), ..Desired::default() }
}

impl World {
    fn runs_live(&mut self, die: impl FnMut(usize) -> bool) {
        self.settle(|_| false);
        let plan = self.wants(live_iso(), die);
        assert_eq!((plan.state, self.running), (State::Provisioned, Running::LiveIso), "{:#?}", self.steps);
    }

    fn runs_nothing(&mut self, die: impl FnMut(usize) -> bool) {
        self.wants_nothing(die);
        assert!(!self.medium);
    }
}

#[test]
fn a_live_iso_runs_without_an_agent_and_is_ejected_before_the_disks_are_cleaned() {
    for mode in [CleaningMode::Metadata, CleaningMode::Disabled] {
        let mut world = World::new();
        world.host.spec.automated_cleaning_mode = Some(mode);
        world.runs_live(|_| false);
        let cleanings = world.cleanings;
        assert_eq!((world.writes, world.tasks.len()), (0, 0));
        let record = world.host.spec.record.clone().unwrap();
        let image = record.image.unwrap();
        assert!(live::is_recorded(&image) && image.booted_at.is_some() && image.write_finished_at.is_none());
        assert!(record.cleaned.is_none(), "it may write to the disks");
        // A restart of the manager disturbs nothing.
        let before = world.steps.len();
        world.restart();
        world.settle(|_| false);
        assert_eq!(world.running, Running::LiveIso);
        assert!(!world.steps[before..].iter().any(|s| s.contains("Boot") || s.contains("Power(")));
        world.runs_nothing(|_| false);
        assert_eq!(world.cleanings - cleanings, u32::from(mode != CleaningMode::Disabled));
    }
}

#[test]
fn a_manager_that_dies_after_any_step_of_a_live_iso_reaches_the_same_end() {
    for fatal in 0..12 {
        let mut world = World::new();
        world.runs_live(|step| step == fatal);
        world.runs_nothing(|step| step == fatal);
        assert_eq!(world.writes, 0);
    }
}

#[test]
fn an_image_and_a_live_iso_replace_each_other() {
    let mut world = World::new();
    world.runs_live(|_| false);
    let written = |world: &mut World, desired: Desired| {
        assert_eq!(world.wants(desired, |_| false).state, State::Provisioned);
    };
    written(&mut world, desired());
    assert_eq!((world.writes, world.running, world.medium), (1, Running::Disk, false));
    written(&mut world, live_iso());
    assert_eq!((world.running, world.medium), (Running::LiveIso, true));
    let mut other = live_iso();
    other.image.url = "http://images/other.iso".to_owned();
    written(&mut world, other);
    assert_eq!(
        world.host.spec.record.as_ref().unwrap().image.as_ref().unwrap().url,
        "http://images/other.iso"
    );
}

#[test]
fn a_live_iso_needs_virtual_media() {
    let mut world = World::new();
    world.settle(|_| false);
    world.consumer = Consumer::None { desired: Some(live_iso()) };
    world.memory.facts.as_mut().unwrap().value.boot_methods = vec![BootMethod::UefiHttp];
    let plan = world.settle(|_| false);
    assert!(matches!(&plan.step, Step::Wait(wait) if wait.reason == "NoVirtualMedia"), "{plan:?}");
    assert!(world.host.spec.record.as_ref().unwrap().image.is_none());
}

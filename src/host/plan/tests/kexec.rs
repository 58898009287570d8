//! Starting a written disk without the firmware.

use super::*;

impl World {
    fn count_power(&self, from: usize) -> usize {
        self.steps[from..].iter().filter(|step| step.contains("Power(")).count()
    }

    /// From the write on: the steps begin here.
    fn writes_and_starts(&mut self, die: impl FnMut(usize) -> bool) -> usize {
        self.settle(|_| false);
        self.claim();
        let before = self.steps.len();
        let plan = self.settle(die);
        assert_eq!((plan.state, self.running), (State::Provisioned, Running::Disk), "{:#?}", self.steps);
        let written = self.steps[before..].iter().position(|step| step.contains("StartDisk")).unwrap();
        before + written
    }
}

#[test]
fn the_agent_starts_the_kernel_that_it_loaded_and_the_power_stays_on() {
    let mut world = World::new();
    world.kexec = Some(true);
    let started = world.writes_and_starts(|_| false);
    let override_cleared = world.steps[..started].iter().rposition(|step| step.contains("BootDisk"));
    assert!(override_cleared.is_some(), "what boots next is set back before: {:#?}", world.steps);
    assert_eq!(world.count_power(started), 0, "{:#?}", &world.steps[started..]);
    assert_eq!(world.power_changes_while_provisioned, 0);
    let image = world.host.spec.record.clone().unwrap().image.unwrap();
    assert_eq!(image.loaded_kernel.as_deref(), Some("Debian"));
    // Later starts are the firmware's.
    world.running = Running::Nothing;
    world.now = after(world.now, Duration::from_secs(900));
    world.settle(|_| false);
    assert_eq!(world.running, Running::Disk);
}

#[test]
fn an_agent_that_does_not_go_is_switched_off_and_on_when_it_cannot_be_the_system() {
    let mut world = World::new();
    world.kexec = Some(false);
    world.settle(|_| false);
    world.claim();
    let plan = world.settle(|_| false);
    let Step::Wait(waiting) = &plan.step else { panic!("{plan:?}") };
    assert!(waiting.message.contains("start the kernel"), "{waiting:?}");
    assert!(matches!(world.running, Running::Agent(_)));
    let before = world.steps.len();
    world.now = after(world.now, Duration::from_secs(170));
    world.settle(|_| false);
    assert_eq!((world.steps.len(), world.count_power(before)), (before, 0), "too early");
    world.now = after(world.now, Duration::from_secs(20));
    world.settle(|_| false);
    assert_eq!((world.running, world.count_power(before)), (Running::Disk, 2));
}

#[test]
fn a_refusal_of_the_agent_is_not_waited_for() {
    let mut world = World::new();
    world.kexec = Some(false);
    world.settle(|_| false);
    world.claim();
    world.settle(|_| false);
    for task in world.tasks.values_mut() {
        *task = TaskState::Failed {
            code: ferric_protocol::v1::TaskErrorCode::Unsupported,
            message: "the power action is not known".to_owned(),
        };
    }
    world.settle(|_| false);
    assert_eq!(world.running, Running::Disk);
}

#[test]
fn a_manager_that_dies_at_any_step_of_a_kexec_reaches_the_same_end() {
    for fatal in 0..16 {
        let mut world = World::new();
        world.kexec = Some(true);
        let started = world.writes_and_starts(|step| step == fatal);
        assert_eq!(world.writes, 1);
        assert!(world.count_power(started) <= 1, "{:#?}", world.steps);
    }
}

#[test]
fn why_it_is_not_done_stands_beside_the_boot_entry() {
    let warning = |boot: &str, load: &str| {
        let result = DeployResult {
            boot_warning: boot.to_owned(),
            load_problem: load.to_owned(),
            ..DeployResult::default()
        };
        crate::host::record::WrittenDisk::from(&result).boot_warning
    };
    assert_eq!(warning("", ""), None);
    assert_eq!(warning("full", "").unwrap(), "full");
    assert_eq!(
        warning("", "no grub.cfg").unwrap(),
        "started through the firmware, not by kexec: no grub.cfg"
    );
    assert!(warning("full", "no grub.cfg").unwrap().starts_with("full; started through"));
}

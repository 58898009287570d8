//! Systems that run from memory.

use ferric_api::host::{ImageFormat, Initrd};

use super::*;

fn kernel() -> Desired {
    let image = Image {
        url: "http://images/vmlinuz".to_owned(),
        checksum: Some(HEX.to_owned()),
        disk_format: Some(ImageFormat::Kernel),
        initrd: Some(Initrd {
            url: "http://images/initrd.img".to_owned(),
            checksum: HEX.to_owned(),
            checksum_type: None,
        }),
        kernel_parameters: Some("console=ttyS0".to_owned()),
        ..Image::default()
    };
    Desired { image, instance_id: "claim-1".to_owned(), ..Desired::default() }
}

impl World {
    fn runs_from_memory(&mut self, die: impl FnMut(usize) -> bool) {
        self.settle(|_| false);
        let plan = self.wants(kernel(), die);
        assert_eq!((plan.state, self.running), (State::Provisioned, Running::Memory), "{:#?}", self.steps);
    }

    fn is_freed(&mut self, die: impl FnMut(usize) -> bool) {
        self.wants_nothing(die);
        assert!(!self.kernel);
    }

    fn count(&self, what: &str) -> usize {
        self.steps.iter().filter(|step| step.contains(what)).count()
    }

    /// Somebody switches it off; the next look at the power sees it.
    fn goes_off(&mut self) {
        self.running = Running::Nothing;
        self.now = after(self.now, Duration::from_secs(900));
    }
}

#[test]
fn a_system_runs_from_memory_and_no_disk_is_written() {
    for mode in [CleaningMode::Metadata, CleaningMode::Disabled] {
        let mut world = World::new();
        world.host.spec.automated_cleaning_mode = Some(mode);
        world.runs_from_memory(|_| false);
        let cleanings = world.cleanings;
        assert_eq!(world.writes, 0);
        let record = world.host.spec.record.clone().unwrap();
        let image = record.image.unwrap();
        assert!(live::runs_kernel(&image) && image.booted_at.is_some() && image.write_finished_at.is_none());
        assert!(record.cleaned.is_none(), "it may write to the disks");
        // A restart of the manager disturbs nothing.
        let before = world.steps.len();
        world.restart();
        world.settle(|_| false);
        assert_eq!(world.running, Running::Memory);
        assert!(!world.steps[before..].iter().any(|s| s.contains("Boot") || s.contains("Power(")));
        world.is_freed(|_| false);
        assert_eq!(world.cleanings - cleanings, u32::from(mode != CleaningMode::Disabled));
    }
}

#[test]
fn the_server_is_told_again_before_each_start() {
    for one_time in [false, true] {
        let mut world = World::new();
        world.one_time = one_time;
        world.runs_from_memory(|_| false);
        assert_eq!(world.count("BootKernel"), 1);
        for starts in 2..4 {
            world.goes_off();
            if starts == 3 {
                world.restart();
            }
            world.settle(|_| false);
            assert_eq!((world.running, world.count("BootKernel")), (Running::Memory, starts));
        }
        // What is written is started from its disk as ever.
        world.wants(desired(), |_| false);
        assert_eq!((world.running, world.writes), (Running::Disk, 1));
        let told = world.count("BootKernel");
        world.goes_off();
        world.settle(|_| false);
        assert_eq!((world.running, world.count("BootKernel")), (Running::Disk, told));
    }
}

#[test]
fn a_manager_that_dies_after_any_step_of_a_system_in_memory_reaches_the_same_end() {
    for fatal in 0..12 {
        let mut world = World::new();
        world.one_time = fatal % 2 == 0;
        world.runs_from_memory(|step| step == fatal);
        world.goes_off();
        world.settle(|step| step == fatal);
        assert_eq!(world.running, Running::Memory, "{:#?}", world.steps);
        world.is_freed(|step| step == fatal);
        assert_eq!(world.writes, 0);
    }
}

#[test]
fn another_command_line_is_another_system() {
    let mut world = World::new();
    world.runs_from_memory(|_| false);
    let began = |world: &World| world.host.spec.record.clone().unwrap().image.unwrap().digest;
    let (first, cleanings) = (began(&world), world.cleanings);
    let mut other = kernel();
    other.image.kernel_parameters = Some("console=ttyS1".to_owned());
    let plan = world.wants(other, |_| false);
    assert_eq!((plan.state, world.running), (State::Provisioned, Running::Memory));
    assert_ne!(began(&world), first);
    assert_eq!(world.cleanings, cleanings + 1);
}

#[test]
fn a_machine_whose_image_was_changed_is_not_started_with_another() {
    let mut world = World::new();
    world.settle(|_| false);
    world.claim();
    let machine = |desired| Consumer::Machine { machine: Key::new("default", "m"), desired: Ok(desired) };
    world.consumer = machine(kernel());
    world.settle(|_| false);
    assert_eq!(world.running, Running::Memory);
    let mut other = kernel();
    other.image.initrd.as_mut().unwrap().checksum = "b".repeat(64);
    world.consumer = machine(other);
    world.settle(|_| false);
    assert_eq!(world.running, Running::Memory, "what runs is left alone");
    world.goes_off();
    let plan = world.settle(|_| false);
    assert!(matches!(&plan.step, Step::Wait(wait) if wait.reason == "ImageChanged"), "{plan:?}");
    assert_eq!((plan.state, world.running), (State::Provisioned, Running::Nothing));
    world.consumer = machine(kernel());
    world.settle(|_| false);
    assert_eq!(world.running, Running::Memory);
}

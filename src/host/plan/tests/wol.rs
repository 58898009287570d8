//! A server without a BMC: it is woken by a magic packet or by hand, boots from the network first, and is switched off by
//! what runs on it.

use super::*;

impl World {
    fn without_bmc() -> Self {
        let mut world = Self { wol: Some(true), ..Self::new() };
        world.host.spec.bmc =
            Some(BmcDetails { address: "wol://192.0.2.255".to_owned(), ..BmcDetails::default() });
        world
    }

    /// The manager is another: an agent whose boot is over is refused when it connects anew, and ends with its machine off.
    pub(super) fn drop_agent(&mut self) {
        let Running::Agent(number) = self.running else { return };
        let record = self.host.spec.record.as_ref();
        let current = record.and_then(|r| r.agent.as_ref()).filter(|agent| agent.boot_number == number);
        let to_be_restarted =
            record.and_then(|r| r.image.as_ref()).is_some_and(|image| image.booted_at.is_some());
        let allowed = current.is_some_and(|agent| !agent.ended || to_be_restarted);
        if self.wol.is_some() && !allowed {
            self.running = Running::Nothing;
            self.tasks.clear();
        }
    }

    /// Settles, with somebody at hand who does what a wait asks people for. Returns how often that was.
    fn settle_attended(&mut self, mut die: impl FnMut(usize) -> bool) -> (Plan, u32) {
        let mut by_hand = 0;
        loop {
            let plan = self.settle_following(&mut die);
            let Step::Wait(wait) = &plan.step else { return (plan, by_hand) };
            match wait.reason {
                "ShutDownByHand" => {
                    by_hand += 1;
                    assert!(by_hand < 10, "{:#?}", self.steps);
                    self.running = Running::Nothing;
                }
                // A restarted manager, or a server that is on its way.
                "AgentTask" => {}
                _ => return (plan, by_hand),
            }
            self.now = after(self.now, wait.wake);
        }
    }

    fn settle_following(&mut self, mut die: impl FnMut(usize) -> bool) -> Plan {
        self.settle_released(&mut die)
    }

    pub(super) fn record(&self) -> HostRecord {
        self.host.spec.record.clone().unwrap_or_default()
    }
}

#[test]
fn it_is_enrolled_by_waking_it_and_ends_available_and_off() {
    let mut world = World::without_bmc();
    let (plan, by_hand) = world.settle_attended(|_| false);
    assert_eq!((plan.state, world.running, by_hand), (State::Available, Running::Nothing, 0));
    assert_eq!((world.cleanings, world.packets), (1, 1), "{:#?}", world.steps);
    assert!(matches!(plan.step, Step::Rest(_)), "it is not polled: {plan:?}");
}

#[test]
fn a_life_ends_provisioned_written_once_and_free_again_whatever_step_the_manager_dies_after() {
    let life = |fatal: usize| {
        let mut world = World::without_bmc();
        let mut count = 0;
        let mut die = |_: usize| {
            count += 1;
            count == fatal + 1
        };
        let (plan, _) = world.settle_attended(&mut die);
        assert_eq!(plan.state, State::Available, "{fatal}: {:#?}", world.steps);
        world.claim();
        let (plan, by_hand) = world.settle_attended(&mut die);
        let end = (plan.state, world.running, world.writes, by_hand);
        assert_eq!(end, (State::Provisioned, Running::Disk, 1, 0), "{fatal}: {:#?}", world.steps);

        world.let_go();
        let (plan, by_hand) = world.settle_attended(&mut die);
        let end = (plan.state, world.running, world.disk.clone());
        assert_eq!(end, (State::Available, Running::Nothing, None), "{fatal}: {:#?}", world.steps);
        assert_eq!(by_hand, 1, "its own system has to be shut down by hand, once");
        assert!(world.host.spec.consumer_ref.is_none() && world.record().claim.is_none());
        assert!(world.cleanings >= 2 && world.memory.failure.is_none());
        world.steps.len()
    };
    let steps = life(usize::MAX - 1);
    assert!(steps > 15);
    for fatal in 0..steps {
        life(fatal);
    }
}

#[test]
fn the_claim_stands_until_our_agent_has_wiped_the_disk() {
    let mut world = World::without_bmc();
    world.settle_attended(|_| false);
    world.claim();
    world.settle_attended(|_| false);
    world.let_go();
    world.restart();
    let boot = world.record().agent.unwrap().boot_number;
    let mut at_hand = false;
    let mut steps = 0;
    while world.host.spec.consumer_ref.is_some() {
        steps += 1;
        assert!(steps < 300, "{:#?}", world.steps);
        let plan = world.plan();
        match &plan.step {
            Step::Act(action) => {
                if let Action::Write { write: RecordWrite::Free | RecordWrite::Release, .. } = action {
                    assert!(at_hand && world.disk.is_none() && world.record().image.is_none());
                    assert!(world.record().agent.unwrap().boot_number > boot);
                }
                world.act(action);
            }
            Step::Wait(wait) => {
                // Hours go by, magic packets with them; the system runs and nothing is concluded.
                if wait.reason == "ShutDownByHand" {
                    assert!(wait.message.contains("by hand") && wait.deadline.is_some(), "{wait:?}");
                    assert_eq!((world.running, world.disk.as_deref()), (Running::Disk, Some(IMAGE)));
                }
                if steps > 150 && !at_hand {
                    at_hand = true;
                    assert!(world.packets > 30, "{}", world.packets);
                    assert_eq!(plan.error.as_ref().map(|e| e.reason.as_str()), Some("NotWoken"));
                    world.boot();
                    assert_eq!(world.running, Running::Agent(boot + 1), "the boot is still the same");
                }
                world.now = after(world.now, wait.wake);
            }
            Step::Rest(_) => panic!("{plan:?}"),
        }
    }
    world.follow();
    let (plan, _) = world.settle_attended(|_| false);
    assert_eq!((plan.state, world.running), (State::Available, Running::Nothing));
    assert!(plan.error.is_none() && world.memory.failure.is_none());
}

#[test]
fn a_server_that_does_not_hear_packets_waits_for_its_button_and_says_so() {
    let mut world = World::without_bmc();
    world.wol = Some(false);
    let mut seen = None;
    for _ in 0..120 {
        let plan = world.plan();
        match &plan.step {
            Step::Act(action) => world.act(action),
            Step::Wait(wait) => world.now = after(world.now, wait.wake),
            Step::Rest(_) => panic!("{plan:?}"),
        }
        seen = plan.error.or(seen);
    }
    let error = seen.unwrap();
    assert_eq!(error.reason, "NotWoken");
    for told in ["power button", "Wake-on-LAN", "network first"] {
        assert!(error.message.contains(told), "{error:?}");
    }
    // The boot is open all the time, also while the next try is waited for.
    assert_eq!(world.record().agent.unwrap().boot_number, 1);
    world.boot();
    assert_eq!(world.running, Running::Agent(1));
    let (plan, _) = world.settle_attended(|_| false);
    assert_eq!((plan.state, world.running), (State::Available, Running::Nothing));
    assert!(plan.error.is_none(), "{plan:?}");
}

#[test]
fn packets_are_sent_once_a_minute_and_to_a_provisioned_server_at_each_poll() {
    let mut world = World::without_bmc();
    world.wol = Some(false);
    let begin = world.now;
    while world.now < after(begin, Duration::from_secs(600)) {
        match world.plan().step {
            Step::Act(action) => world.act(&action),
            Step::Wait(wait) => world.now = after(world.now, wait.wake),
            Step::Rest(_) => panic!(),
        }
    }
    assert!((10..=11).contains(&world.packets), "{}", world.packets);

    let mut world = World::without_bmc();
    world.settle_attended(|_| false);
    world.claim();
    world.settle_attended(|_| false);
    // Its system went down by itself: it is kept on, like any other host.
    world.running = Running::Nothing;
    let Step::Rest(rest) = world.plan().step else { panic!() };
    world.now = after(world.now, rest);
    let (plan, _) = world.settle_attended(|_| false);
    assert_eq!((plan.state, world.running, world.writes), (State::Provisioned, Running::Disk, 1));
}

#[test]
fn an_agent_of_an_earlier_boot_is_the_way_to_the_next() {
    // It has cleaned, and before it is told to go the host is claimed: it restarts into the next boot, unwoken.
    let mut world = World::without_bmc();
    while world.record().cleaned.is_none() {
        let Step::Act(action) = world.plan().step else { panic!("{:#?}", world.steps) };
        world.act(&action);
    }
    assert_eq!((world.running, world.packets), (Running::Agent(1), 1));
    world.wol = Some(false);
    world.claim();
    let (plan, by_hand) = world.settle_attended(|_| false);
    assert_eq!((plan.state, world.running, by_hand), (State::Provisioned, Running::Disk, 0));
    // And one that is to be wiped again before it has restarted into its disk.
    let mut world = World::without_bmc();
    world.settle_attended(|_| false);
    world.claim();
    while !world.provisioned() {
        match world.plan().step {
            Step::Act(action) => world.act(&action),
            Step::Wait(wait) => world.now = after(world.now, wait.wake),
            Step::Rest(_) => panic!(),
        }
    }
    assert_eq!(world.running, Running::Agent(2));
    world.let_go();
    let (plan, by_hand) = world.settle_attended(|_| false);
    assert_eq!((plan.state, world.running, by_hand), (State::Available, Running::Nothing, 0));
    assert_eq!(world.disk, None);
}

#[test]
fn a_deleted_host_goes_when_our_agent_has_wiped_it_and_switches_it_off() {
    let delete = |world: &mut World| {
        world.host.metadata.deletion_timestamp = Some(Time(world.now));
        let mut by_hand = 0;
        for _ in 0..300 {
            let held = world.host.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
            if !held {
                return by_hand;
            }
            match world.plan().step {
                Step::Act(action) => world.act(&action),
                Step::Wait(wait) => {
                    if wait.reason == "ShutDownByHand" {
                        by_hand += 1;
                        world.running = Running::Nothing;
                    }
                    world.now = after(world.now, wait.wake);
                }
                Step::Rest(_) => panic!(),
            }
        }
        panic!("{:#?}", world.steps);
    };
    // With an image that an operator asked for.
    let mut world = World::without_bmc();
    world.host.spec.online = true;
    world.wants(desired(), |_| false);
    assert_eq!((world.running, world.writes), (Running::Disk, 1));
    world.consumer = Consumer::None { desired: None };
    assert_eq!(delete(&mut world), 1);
    assert_eq!((world.disk.as_deref(), world.running), (None, Running::Nothing));
    // A free one at once, without waking it.
    let mut world = World::without_bmc();
    world.settle_attended(|_| false);
    let packets = world.packets;
    assert_eq!(delete(&mut world), 0);
    assert_eq!(world.packets, packets);
    // One that is being cleaned: the agent switches it off.
    let mut world = World::without_bmc();
    while !matches!(world.running, Running::Agent(_)) {
        let Step::Act(action) = world.plan().step else { panic!() };
        world.act(&action);
    }
    assert_eq!(delete(&mut world), 0);
    assert_eq!(world.running, Running::Nothing);
}

#[test]
fn without_cleaning_the_claim_still_ends_with_our_agent_there() {
    let mut world = World::without_bmc();
    world.host.spec.automated_cleaning_mode = Some(CleaningMode::Disabled);
    let (plan, _) = world.settle_attended(|_| false);
    assert_eq!((plan.state, world.packets), (State::Available, 0));
    world.claim();
    world.settle_attended(|_| false);
    world.let_go();
    let (plan, by_hand) = world.settle_attended(|_| false);
    assert_eq!((plan.state, by_hand, world.running), (State::Available, 1, Running::Nothing));
    assert!(world.record().image.is_none() && world.host.spec.consumer_ref.is_none());
}

#[test]
fn a_claim_under_which_nothing_came_up_is_let_go_without_the_server() {
    let mut world = World::without_bmc();
    world.settle_attended(|_| false);
    world.wol = Some(false);
    world.claim();
    let begin = world.now;
    while world.memory.failure.is_none() {
        match world.plan().step {
            Step::Act(action) => world.act(&action),
            Step::Wait(wait) => world.now = after(world.now, wait.wake),
            Step::Rest(_) => panic!(),
        }
    }
    assert!(world.now >= after(begin, Limits::default().agent_boot));
    world.let_go();
    let (plan, by_hand) = world.settle_attended(|_| false);
    assert_eq!((plan.state, by_hand, plan.error), (State::Available, 0, None), "{:#?}", world.steps);
}

#[test]
fn what_an_operator_releases_is_wiped_in_the_boot_that_showed_it_dead() {
    let mut world = World::without_bmc();
    world.settle_attended(|_| false);
    world.claim();
    world.settle_attended(|_| false);
    let boot = world.record().agent.unwrap().boot_number;
    world.consumer = Consumer::Missing { what: "BareMetalMachine default/m".to_owned() };
    world.host.metadata.annotations =
        Some(BTreeMap::from([(names::DECIDE_ANNOTATION.to_owned(), "release".to_owned())]));
    for _ in 0..50 {
        if world.host.spec.consumer_ref.is_none() {
            break;
        }
        match world.plan().step {
            Step::Act(action) => world.act(&action),
            Step::Wait(wait) => {
                world.running = Running::Nothing;
                world.now = after(world.now, wait.wake);
            }
            Step::Rest(_) => panic!(),
        }
    }
    assert_eq!(world.running, Running::Agent(boot + 1), "{:#?}", world.steps);
    world.consumer = Consumer::None { desired: None };
    let (plan, _) = world.settle_attended(|_| false);
    assert_eq!(
        (plan.state, world.running, world.disk.as_deref()),
        (State::Available, Running::Nothing, None)
    );
    assert_eq!(world.record().agent.unwrap().boot_number, boot + 1);
}

#[test]
fn what_is_not_written_is_not_for_it() {
    let mut world = World::without_bmc();
    world.settle_attended(|_| false);
    let kernel = Desired {
        image: Image { disk_format: Some(ferric_api::host::ImageFormat::Kernel), ..image() },
        ..desired()
    };
    world.claim();
    world.consumer = Consumer::Machine { machine: Key::new("default", "m"), desired: Ok(kernel) };
    let (plan, _) = world.settle_attended(|_| false);
    let Step::Wait(wait) = plan.step else { panic!("{plan:?}") };
    assert_eq!(wait.reason, "NotByWakeOnLAN");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn however_often_the_manager_dies_it_is_written_and_freed(
        deaths in prop::collection::vec(any::<bool>(), 64), hears: bool,
    ) {
        let mut world = World::without_bmc();
        let mut next = deaths.iter().copied().cycle().take(40);
        let mut die = |_: usize| next.next().unwrap_or(false);
        prop_assert_eq!(world.settle_attended(&mut die).0.state, State::Available);
        world.claim();
        prop_assert_eq!(world.settle_attended(&mut die).0.state, State::Provisioned);
        prop_assert_eq!((world.running, world.writes), (Running::Disk, 1));
        world.let_go();
        prop_assert_eq!(world.settle_attended(&mut die).0.state, State::Available);
        prop_assert_eq!((world.disk.clone(), world.running), (None, Running::Nothing));
        // Whether it hears or not makes no difference to one that is restarted by hand.
        world.wol = Some(hears);
        if !hears {
            world.claim();
            while world.record().agent.is_none_or(|agent| agent.ended) {
                let Step::Act(action) = world.plan().step else { break };
                world.act(&action);
            }
            world.boot();
            prop_assert_eq!(world.settle_attended(&mut die).0.state, State::Provisioned);
        }
    }
}

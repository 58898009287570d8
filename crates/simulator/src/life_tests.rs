#![allow(clippy::unwrap_used)]

use super::*;

const URI: &str = "http://provider/boot/1";

/// A server that obeys: everything waited for comes to pass, media hold the agent, the disk boots or not.
struct World {
    life: Life,
    media: Result<BootProgram, String>,
    disk: Result<(), String>,
    seen: Vec<Action>,
}

impl World {
    fn new() -> Self {
        Self {
            life: Life::default(),
            media: Ok(BootProgram::Kernel { arguments: "ferric.url=x".to_owned() }),
            disk: Err("no partition table".to_owned()),
            seen: Vec::new(),
        }
    }

    fn override_once(mut self, target: BootTarget) -> Self {
        self.life.boot.target = target;
        self.life.boot.enabled = BootEnabled::Once;
        self.life.boot.http_boot_uri = Some(URI.to_owned());
        self
    }

    fn give(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let (life, actions) = std::mem::take(&mut self.life).step(event);
            self.life = life;
            for action in &actions {
                match action {
                    Action::Wait { epoch, timer } => events.push(Event::Due { epoch: *epoch, timer: *timer }),
                    Action::Fetch { epoch, .. } => {
                        events.push(Event::Fetched { epoch: *epoch, outcome: self.media.clone() });
                    }
                    Action::ReadDisk { epoch } => {
                        events.push(Event::DiskRead { epoch: *epoch, outcome: self.disk.clone() });
                    }
                    _ => {}
                }
            }
            self.seen.extend(actions);
        }
    }

    fn boots(&self) -> Vec<&'static str> {
        self.seen
            .iter()
            .filter_map(|a| if let Action::NoteBoot { source, .. } = a { Some(source.name()) } else { None })
            .collect()
    }

    fn exit(&mut self, exit: Exit) {
        let epoch = self.life.epoch;
        self.give(Event::Exited { epoch, exit });
    }
}

#[test]
fn what_each_boot_setting_leads_to() {
    let cases: &[(BootTarget, bool, &[&str], &str)] = &[
        (BootTarget::None, false, &["Disk"], "NoBootableDisk"),
        (BootTarget::None, true, &["Disk"], "OSRunning"),
        (BootTarget::Hdd, true, &["Disk"], "OSRunning"),
        (BootTarget::UefiHttp, true, &["UefiHttp"], "AgentRunning"),
        (BootTarget::Cd, true, &["Cd", "Disk"], "OSRunning"),
        (BootTarget::Pxe, true, &["Pxe"], "HangsAtPxe"),
    ];
    for (target, bootable, boots, phase) in cases {
        let mut world = World::new().override_once(*target);
        if *bootable {
            world.disk = Ok(());
        }
        world.give(Event::Reset(ResetType::On));
        assert_eq!((world.boots().as_slice(), world.life.phase.name()), (*boots, *phase), "{target:?}");
        assert_eq!(world.life.power, Power::On);
        assert_eq!(world.life.boot.enabled, BootEnabled::Disabled, "an override is for one boot");
    }
}

#[test]
fn agent_then_reboot_goes_to_the_disk() {
    let mut world = World::new().override_once(BootTarget::UefiHttp);
    world.give(Event::Reset(ResetType::On));
    world.disk = Ok(());
    world.exit(Exit::Reboot);
    assert_eq!(world.boots(), ["UefiHttp", "Disk"]);
    assert_eq!(world.life.phase, Phase::Os);
    assert!(world.seen.contains(&Action::NotePower { on: true, cause: "AgentReboot".to_owned() }));
}

#[test]
fn virtual_media_boot_the_agent_and_a_continuous_override_stays() {
    let mut world = World::new().override_once(BootTarget::Cd);
    world.life.boot.enabled = BootEnabled::Continuous;
    world.life.media = Some(URI.to_owned());
    world.give(Event::Reset(ResetType::On));
    world.exit(Exit::Reboot);
    assert_eq!(world.boots(), ["Cd", "Cd"]);
}

#[test]
fn media_that_do_not_answer_are_tried_for_a_while_and_then_the_disk() {
    let mut world = World::new().override_once(BootTarget::UefiHttp);
    world.media = Err("connection refused".to_owned());
    world.give(Event::Reset(ResetType::On));
    let fetches = world.seen.iter().filter(|a| matches!(a, Action::Fetch { .. })).count();
    assert_eq!((fetches, world.boots().as_slice()), (20, ["UefiHttp", "Disk"].as_slice()));
    assert_eq!(world.life.phase.name(), "NoBootableDisk");
}

#[test]
fn media_that_say_so_lead_to_the_disk() {
    let mut world = World::new().override_once(BootTarget::UefiHttp);
    world.media = Ok(BootProgram::NextSource);
    world.disk = Ok(());
    world.give(Event::Reset(ResetType::On));
    assert_eq!(world.life.phase, Phase::Os);
}

#[test]
fn power_off_ends_what_runs_and_its_late_word_is_ignored() {
    let mut world = World::new().override_once(BootTarget::UefiHttp);
    world.give(Event::Reset(ResetType::On));
    let agent_epoch = world.life.epoch;
    world.give(Event::Reset(ResetType::ForceOff));
    assert_eq!(world.life.power, Power::Off);
    assert!(world.seen.contains(&Action::Stop));
    let before = world.life.clone();
    world.give(Event::Exited { epoch: agent_epoch, exit: Exit::Reboot });
    assert_eq!(world.life, before);
}

#[test]
fn a_power_cycle_goes_through_off() {
    let mut world = World::new();
    world.disk = Ok(());
    world.give(Event::Reset(ResetType::On));
    world.seen.clear();
    world.give(Event::Reset(ResetType::PowerCycle));
    let power: Vec<bool> = world
        .seen
        .iter()
        .filter_map(|a| if let Action::NotePower { on, .. } = a { Some(*on) } else { None })
        .collect();
    assert_eq!(power, [false, true]);
    assert_eq!(world.life.phase, Phase::Os);
}

#[test]
fn only_an_operating_system_hears_the_button() {
    let mut world = World::new().override_once(BootTarget::UefiHttp);
    world.give(Event::Reset(ResetType::On));
    world.give(Event::Reset(ResetType::GracefulShutdown));
    assert_eq!(world.life.phase, Phase::Agent);
    world.disk = Ok(());
    world.exit(Exit::Reboot);
    world.give(Event::Reset(ResetType::GracefulShutdown));
    assert_eq!(world.life.power, Power::Off);
}

#[test]
fn resets_that_make_no_sense_are_refused() {
    let off = Life::default();
    assert_eq!(off.accepts(ResetType::ForceRestart), Err(Conflict));
    assert_eq!(off.accepts(ResetType::PowerCycle), Err(Conflict));
    assert_eq!(off.accepts(ResetType::ForceOff), Ok(()));
    let (leaving, _) = {
        let mut world = World::new();
        world.give(Event::Reset(ResetType::On));
        world.life.step(Event::Reset(ResetType::ForceOff))
    };
    assert_eq!(leaving.power, Power::PoweringOff);
    assert_eq!(leaving.accepts(ResetType::On), Err(Conflict));
}

#[test]
fn a_crash_leaves_the_power_on() {
    let mut world = World::new().override_once(BootTarget::UefiHttp);
    world.give(Event::Reset(ResetType::On));
    world.exit(Exit::Crash("out of memory".to_owned()));
    assert_eq!((world.life.power, world.life.phase.name()), (Power::On, "Crashed"));
    world.give(Event::Reset(ResetType::ForceRestart));
    assert_eq!(world.life.phase.name(), "NoBootableDisk");
}

#[test]
fn an_agent_may_turn_the_power_off() {
    let mut world = World::new().override_once(BootTarget::UefiHttp);
    world.give(Event::Reset(ResetType::On));
    world.exit(Exit::PowerOff);
    assert_eq!((world.life.power, &world.life.phase), (Power::Off, &Phase::Dark));
}

#[test]
fn a_live_iso_runs_at_each_boot_and_hears_the_button() {
    let mut world = World::new();
    world.life.boot.target = BootTarget::Cd;
    world.life.boot.enabled = BootEnabled::Continuous;
    world.life.media = Some("http://images/live.iso".to_owned());
    world.media = Ok(BootProgram::LiveIso);
    world.give(Event::Reset(ResetType::On));
    assert_eq!(world.life.phase, Phase::LiveOs);
    world.give(Event::Reset(ResetType::GracefulRestart));
    assert_eq!(
        (world.boots().as_slice(), world.life.phase.name()),
        (["Cd", "Cd"].as_slice(), "LiveISORunning")
    );
    world.give(Event::Reset(ResetType::GracefulShutdown));
    assert_eq!(world.life.power, Power::Off);
}

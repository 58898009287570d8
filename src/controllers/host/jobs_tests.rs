#![allow(clippy::unwrap_used)]
use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use ferric_api::HardwareDetails;
use ferric_bmc::SystemFacts;

use super::*;

#[test]
fn a_magic_packet_is_for_the_boot_mac() {
    let with = |address: &str, mac| with_mac(address.parse().unwrap(), mac).to_string();
    let mac = Some("52:54:00:ab:cd:ef");
    assert_eq!(with("wol://192.0.2.255", mac), "wol://192.0.2.255:9?mac=52:54:00:ab:cd:ef");
    assert_eq!(
        with("wol://192.0.2.255?mac=02:00:00:00:00:01", mac),
        "wol://192.0.2.255:9?mac=02:00:00:00:00:01"
    );
    assert_eq!(with("wol://192.0.2.255", None), "wol://192.0.2.255:9");
    assert_eq!(with("ipmi://192.0.2.1", mac), "ipmi://192.0.2.1:623");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_what_came_of_a_magic_packet() {
    let script = Script::new([Err(away())]);
    let outcome = run(&script, &Job::Power(PowerAction::On), None, None, true).await;
    assert!(matches!(outcome, Ok(JobOutcome::Power(PowerState::Unknown))), "{outcome:?}");
    assert_eq!(*script.changes.lock().unwrap(), [PowerAction::On]);
}

/// A BMC that takes each change of power, and says of the power what it is told to say; the last of it for ever.
struct Script {
    says: Mutex<VecDeque<Result<PowerState, BmcError>>>,
    changes: Mutex<Vec<PowerAction>>,
}

impl Script {
    fn new(says: impl IntoIterator<Item = Result<PowerState, BmcError>>) -> Self {
        Self { says: Mutex::new(says.into_iter().collect()), changes: Mutex::default() }
    }

    async fn run(&self, job: Job) -> (Result<JobOutcome, BmcError>, Duration, Vec<PowerAction>) {
        let begin = Instant::now();
        let outcome = run(self, &job, None, None, false).await;
        (outcome, begin.elapsed(), self.changes.lock().unwrap().clone())
    }
}

#[async_trait]
impl Bmc for Script {
    async fn probe(&self) -> Result<SystemFacts, BmcError> {
        unreachable!()
    }
    async fn power(&self) -> Result<PowerState, BmcError> {
        let mut says = self.says.lock().unwrap();
        if says.len() > 1 { says.pop_front().unwrap() } else { says[0].clone() }
    }
    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        self.changes.lock().unwrap().push(action);
        Ok(())
    }
    async fn set_boot(&self, _: &BootTarget) -> Result<(), BmcError> {
        unreachable!()
    }
    async fn inspect(&self) -> Result<HardwareDetails, BmcError> {
        unreachable!()
    }
}

fn away() -> BmcError {
    BmcError::Unreachable { address: "https://bmc".to_owned(), message: "no route".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn the_power_is_what_was_read_back_after_one_change() {
    let says =
        [Ok(PowerState::Off), Err(away()), Ok(PowerState::PoweringOn), Err(away()), Ok(PowerState::On)];
    let (outcome, _, changes) = Script::new(says).run(Job::Power(PowerAction::On)).await;
    assert!(matches!(outcome, Ok(JobOutcome::Power(PowerState::On))), "{outcome:?}");
    assert_eq!(changes, [PowerAction::On], "a read that fails is no reason to ask again");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_not_confirmed_by_its_deadline_says_so_and_is_not_repeated() {
    for (says, told) in [
        (Ok(PowerState::On), "still reports power On"),
        (Ok(PowerState::Unknown), "still reports power Unknown"),
    ] {
        let (outcome, took, changes) = Script::new([says]).run(Job::Power(PowerAction::ForceOff)).await;
        let Ok(JobOutcome::Failed { reason, message, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(reason, "PowerNotConfirmed");
        assert!(message.contains(told), "{message}");
        assert!((POWER_DEADLINE..POWER_DEADLINE + Duration::from_secs(6)).contains(&took), "{took:?}");
        assert_eq!(changes, [PowerAction::ForceOff]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bmc_that_goes_after_a_change_is_named_after_a_while() {
    let (outcome, took, changes) = Script::new([Err(away())]).run(Job::Power(PowerAction::On)).await;
    assert!(matches!(outcome, Err(BmcError::Unreachable { .. })), "{outcome:?}");
    assert!((UNREAD..UNREAD + Duration::from_secs(6)).contains(&took), "{took:?}");
    assert_eq!(changes.len(), 1);
    // What waiting does not mend is named at once.
    let refused = BmcError::Unauthorized { message: "no".to_owned(), retry_at: None };
    let (outcome, took, _) = Script::new([Err(refused)]).run(Job::Power(PowerAction::On)).await;
    assert!(matches!(outcome, Err(BmcError::Unauthorized { .. })) && took.is_zero());
}

#[tokio::test(start_paused = true)]
async fn power_that_is_not_said_is_not_taken_for_any() {
    let (outcome, _, _) = Script::new([Ok(PowerState::Unknown)]).run(Job::ReadPower).await;
    assert!(matches!(outcome, Ok(JobOutcome::Failed { ref reason, .. }) if reason == "PowerUnknown"));
}

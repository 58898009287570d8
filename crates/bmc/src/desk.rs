//! What all who speak to one BMC have in common: turns, budget and circuit breaker. There is one for a BMC, however many
//! hosts are behind it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::time::{Instant, timeout};

use crate::breaker::Breaker;
use crate::counters::Counters;
use crate::error::BmcError;
use crate::limits::Limits;
use crate::turns::{Together, Turns, Urgency};
use crate::types::PowerAction;

tokio::task_local! {
    /// Whether what is asked for is on the way to a change.
    static ON_THE_WAY_TO_A_CHANGE: bool;
}

/// Where one waits for one's turn at a BMC.
#[derive(Debug)]
pub(crate) struct Desk {
    address: String,
    turns: Turns,
    pub(crate) breaker: Breaker,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: Arc<Limits>,
}

impl Desk {
    /// A desk where nobody waits. `address` is for messages.
    pub(crate) fn new(address: String, counters: Arc<Counters>, limits: Arc<Limits>) -> Self {
        Self { address, turns: Turns::new(&limits), breaker: Breaker::default(), counters, limits }
    }

    /// Runs an operation: in its turn, let through by the circuit breaker, within its deadline, counted.
    pub(crate) async fn operation<T>(
        &self,
        what: &'static str,
        urgency: Urgency,
        work: impl Future<Output = Result<T, BmcError>> + Send,
    ) -> Result<T, BmcError> {
        let change = urgency >= Urgency::Change;
        let result = match self.turn(urgency).await {
            Ok(_turn) => ON_THE_WAY_TO_A_CHANGE.scope(change, self.within(what, work)).await,
            Err(error) => Err(error),
        };
        self.note(what, result)
    }

    /// Like [`Desk::operation`], for a read that those who wait for the same share.
    pub(crate) async fn read<T: Clone, R>(
        &self,
        what: &'static str,
        reads: &Together<T>,
        work: impl FnOnce() -> R,
    ) -> Result<T, BmcError>
    where
        R: Future<Output = Result<T, BmcError>> + Send,
    {
        let read = || async { self.within(what, work()).await };
        let result = reads.read(|| self.turn(Urgency::Read), read).await;
        self.note(what, result)
    }

    /// Waits until one more request is within the budget. What is asked for on the way to a change, its reads included,
    /// is not held up.
    pub(crate) async fn pace(&self) {
        let urgent = ON_THE_WAY_TO_A_CHANGE.try_with(|change| *change).unwrap_or(false);
        self.turns.pace(urgent).await;
    }

    /// Who waits longer than an operation may take is sent away: what was asked for then may no longer be wanted.
    async fn turn(&self, urgency: Urgency) -> Result<crate::turns::Turn<'_>, BmcError> {
        let limit = self.limits.operation;
        timeout(limit, self.turns.turn(urgency, &self.address)).await.unwrap_or_else(|_| {
            Err(BmcError::Busy {
                status: 0,
                url: self.address.clone(),
                message: format!("others kept it busy for {} s", limit.as_secs()),
                retry_after: None,
            })
        })
    }

    async fn within<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, BmcError>> + Send,
    ) -> Result<T, BmcError> {
        let _pass = self
            .breaker
            .enter(Instant::now())
            .map_err(|(until, last)| BmcError::CircuitOpen { until, last })?;
        let deadline = self.limits.operation;
        timeout(deadline, work)
            .await
            .unwrap_or_else(|_| Err(BmcError::Timeout { what: what.to_owned(), after: deadline }))
    }

    fn note<T>(&self, what: &'static str, result: Result<T, BmcError>) -> Result<T, BmcError> {
        if let Err(error) = &result {
            self.counters.error(error);
            tracing::debug!(bmc = self.address, what, %error, "BMC operation failed");
        }
        result
    }
}

/// How much depends on a change of power.
pub(crate) fn urgency(action: PowerAction) -> Urgency {
    match action {
        PowerAction::ForceOff => Urgency::Safety,
        _ => Urgency::Change,
    }
}

/// The desks of all BMCs that somebody speaks to.
#[derive(Debug, Default)]
pub(crate) struct Desks(Mutex<HashMap<String, Weak<Desk>>>);

impl Desks {
    /// The desk of the BMC at an address.
    pub(crate) fn get(&self, address: String, counters: &Arc<Counters>, limits: &Arc<Limits>) -> Arc<Desk> {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = desks.get(&address).and_then(Weak::upgrade) {
            return desk;
        }
        // Those that nobody holds any more go now and then, not one by one.
        if desks.len() >= 64 && desks.len() == desks.capacity() {
            desks.retain(|_, desk| desk.strong_count() > 0);
        }
        let desk = Arc::new(Desk::new(address.clone(), counters.clone(), limits.clone()));
        desks.insert(address, Arc::downgrade(&desk));
        desk
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn desk(limits: Limits) -> Desk {
        Desk::new("https://bmc".to_owned(), Arc::default(), Arc::new(limits))
    }

    #[tokio::test(start_paused = true)]
    async fn a_power_off_is_not_held_up_by_whoever_hangs() {
        let desk = Arc::new(desk(Limits::default()));
        for _ in 0..4 {
            let desk = desk.clone();
            tokio::spawn(async move {
                desk.operation("a survey", Urgency::Survey, std::future::pending::<Result<(), _>>()).await
            });
        }
        tokio::task::yield_now().await;
        let begin = Instant::now();
        desk.operation("off", urgency(PowerAction::ForceOff), async { Ok(()) }).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        // A change finds its place, too: surveys take all but the last.
        desk.operation("on", urgency(PowerAction::On), async { Ok(()) }).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_ends_and_who_waited_too_long_is_told() {
        let limits = Limits { concurrency: 1, operation: Duration::from_secs(10), ..Limits::default() };
        let desk = Arc::new(desk(limits));
        let (hanging, waiting) = (desk.clone(), desk.clone());
        let first = tokio::spawn(async move {
            hanging.operation("the first", Urgency::Change, std::future::pending::<Result<(), _>>()).await
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            waiting.operation("the second", Urgency::Change, async { Ok(()) }).await
        });
        assert!(matches!(first.await.unwrap(), Err(BmcError::Timeout { .. })));
        second.await.unwrap().unwrap();
        let counted = desk.counters.snapshot().errors;
        assert_eq!(counted.get("BMCTimeout"), Some(&1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_spent_budget_holds_up_reads_and_no_change() {
        let desk = desk(Limits { request_burst: 1, requests_per_second: 1.0, ..Limits::default() });
        let begin = Instant::now();
        let two_requests = || async {
            desk.pace().await;
            desk.pace().await;
            Ok(())
        };
        desk.operation("off", Urgency::Safety, two_requests()).await.unwrap();
        desk.operation("the boot target", Urgency::Change, two_requests()).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        desk.operation("the probe", Urgency::Survey, two_requests()).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::from_secs(5), "as many as went out of turn, and its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_behind_one_that_hangs_waits_for_a_while_only() {
        let desk = Arc::new(desk(Limits::default()));
        let hanging = desk.clone();
        let survey = tokio::spawn(async move {
            hanging.operation("a survey", Urgency::Survey, std::future::pending::<Result<(), _>>()).await
        });
        tokio::task::yield_now().await;
        let (begin, reads) = (Instant::now(), Together::default());
        desk.read("the power", &reads, || async { Ok(1) }).await.unwrap();
        assert_eq!(begin.elapsed(), Duration::from_secs(20));
        assert!(!survey.is_finished());
    }

    /// A read-back must be of after the change: whoever asks after it gets no read that began before.
    #[tokio::test(start_paused = true)]
    async fn a_read_that_began_before_a_change_is_never_its_read_back() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (desk, reads) = (desk(Limits::default()), Together::default());
        let on = AtomicBool::new(false);
        // What the BMC says is as of when it was asked; the answer takes its time.
        let read = || {
            desk.read("the power", &reads, || async {
                let seen = on.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(seen)
            })
        };
        let early = read();
        let also_early = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            read().await
        };
        let change = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let change = async {
                on.store(true, Ordering::SeqCst);
                Ok(())
            };
            desk.operation("on", Urgency::Change, change).await?;
            read().await
        };
        let (early, _, after) = tokio::join!(early, also_early, change);
        assert_eq!((early.unwrap(), after.unwrap()), (false, true));
    }

    /// Every way of ending an operation gives back its turn and its leave to try: a BMC that answers again is spoken to
    /// again.
    #[tokio::test(start_paused = true)]
    async fn an_open_circuit_closes_whatever_became_of_the_tries() {
        let limits = Limits { concurrency: 1, ..Limits::default() };
        let desk = Arc::new(desk(limits.clone()));
        for _ in 0..limits.failures {
            desk.breaker.failed(Instant::now(), &limits, 1.0, "no route");
        }
        let ask = || desk.operation("on", Urgency::Change, async { Ok(()) });
        assert!(matches!(ask().await, Err(BmcError::CircuitOpen { .. })));
        for _ in 0..20 {
            tokio::time::sleep(limits.open_max.mul_f64(1.3)).await;
            // One that is cancelled in the middle, one that ends without having learnt anything.
            let dropped =
                desk.operation("on", Urgency::Change, std::future::pending::<Result<(), BmcError>>());
            assert!(timeout(Duration::from_secs(1), dropped).await.is_err());
            let nothing = async { Err::<(), _>(BmcError::NotSupported { what: "it".into() }) };
            let ended = desk.operation("on", Urgency::Change, nothing).await;
            assert!(matches!(ended, Err(BmcError::NotSupported { .. })), "{ended:?}");
            desk.breaker.failed(Instant::now(), &limits, 1.0, "no route");
            assert!(matches!(ask().await, Err(BmcError::CircuitOpen { .. })));
        }
        tokio::time::sleep(limits.open_max.mul_f64(1.3)).await;
        let answers = async {
            desk.breaker.answered();
            Ok(())
        };
        desk.operation("on", Urgency::Change, answers).await.unwrap();
        ask().await.unwrap();
    }

    /// A thousand hosts whose BMCs never answer, and one whose does, in one process.
    #[tokio::test(start_paused = true)]
    async fn a_storm_behind_slow_bmcs_leaves_the_others_alone() {
        let (desks, counters, limits) = (Desks::default(), Arc::default(), Arc::new(Limits::default()));
        let mut storm = tokio::task::JoinSet::new();
        for host in 0..1000 {
            // Ten hosts behind each BMC, as in a chassis.
            let desk = desks.get(format!("https://slow-{}", host / 10), &counters, &limits);
            storm.spawn(async move {
                loop {
                    let hangs = std::future::pending::<Result<(), BmcError>>();
                    let _ = desk.operation("the probe", Urgency::Survey, hangs).await;
                }
            });
        }
        let good = desks.get("https://good".to_owned(), &counters, &limits);
        let (begin, reads) = (Instant::now(), Together::default());
        for n in 0..100 {
            let answer = || async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(n)
            };
            assert_eq!(good.read("the power", &reads, answer).await.unwrap(), n);
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert_eq!(begin.elapsed(), (Duration::from_millis(10) + Duration::from_secs(10)) * 100);
        storm.abort_all();
    }

    #[test]
    fn one_desk_for_a_bmc_as_long_as_somebody_is_there() {
        let (desks, counters, limits) = (Desks::default(), Arc::default(), Arc::default());
        let first = desks.get("https://a".into(), &counters, &limits);
        assert!(Arc::ptr_eq(&first, &desks.get("https://a".into(), &counters, &limits)));
        assert!(!Arc::ptr_eq(&first, &desks.get("https://b".into(), &counters, &limits)));
        drop(first);
        for n in 0..1000 {
            drop(desks.get(format!("https://{n}"), &counters, &limits));
        }
        assert!(desks.0.lock().unwrap().len() < 300, "those that are gone are forgotten");
    }
}

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
        let result = match self.turn(urgency).await {
            Ok(_turn) => self.within(what, work).await,
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

    /// Waits until one more request is within the budget. What is asked for on the way to a change is not held up.
    pub(crate) async fn pace(&self, urgent: bool) {
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

//! Turns at one BMC: the thin shell around [`line`], for all drivers.
//!
//! Whoever drops a [`Turn`], or stops waiting for one, makes room: nothing is left behind by a cancelled task.

mod budget;
mod line;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::error::BmcError;
use crate::limits::Limits;
use budget::Budget;
pub(crate) use line::Urgency;
use line::{Arrival, Line, PATIENCE, Ticket};

/// The turns at one BMC.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
    budget: Mutex<Budget>,
}

#[derive(Debug)]
struct State {
    line: Line,
    /// Those who wait; dropped: sent away.
    calls: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A turn; the next one's begins when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    ticket: Ticket,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (mut state, now) = (self.turns.lock(), Instant::now());
        state.calls.remove(&self.ticket);
        let called = state.line.leave(self.ticket, now);
        state.call(called, now);
    }
}

impl State {
    /// Tells those whose turn it is. One that has just stopped waiting gives its turn back at once.
    fn call(&mut self, mut called: Vec<Ticket>, now: Instant) {
        while let Some(ticket) = called.pop() {
            let heard = self.calls.remove(&ticket).is_some_and(|call| call.send(()).is_ok());
            if !heard {
                called.extend(self.line.leave(ticket, now));
            }
        }
    }

    /// Calls those who find a place by now.
    fn look_again(&mut self, now: Instant) {
        let called = self.line.call(now);
        self.call(called, now);
    }
}

impl Turns {
    /// The turns at a BMC that nobody speaks to yet.
    pub(crate) fn new(limits: &Limits) -> Self {
        let line = Line::new(limits.concurrency, limits.queue);
        Self {
            state: Mutex::new(State { line, calls: HashMap::new() }),
            budget: Mutex::new(Budget::new(limits.request_burst, limits.requests_per_second, Instant::now())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn. Fails where too many wait, now or when somebody more urgent comes. `address` is for the
    /// message.
    pub(crate) async fn turn(&self, urgency: Urgency, address: &str) -> Result<Turn<'_>, BmcError> {
        let busy = |waiting: usize| BmcError::Busy {
            status: 0,
            url: address.to_owned(),
            message: format!("{waiting} operations wait for it already"),
            retry_after: None,
        };
        let (turn, mut call, waiting) = {
            let (mut state, now) = (self.lock(), Instant::now());
            state.look_again(now);
            let arrival = state.line.arrive(urgency, now);
            let waiting = state.line.waiting();
            let ticket = match arrival {
                Arrival::Go(ticket) => return Ok(Turn { turns: self, ticket }),
                Arrival::Wait(ticket) => ticket,
                Arrival::WaitInsteadOf(ticket, other) => {
                    state.calls.remove(&other);
                    ticket
                }
                Arrival::Full => return Err(busy(waiting)),
            };
            let (sender, receiver) = oneshot::channel();
            state.calls.insert(ticket, sender);
            // From here on the place in the line is given back, whatever happens.
            (Turn { turns: self, ticket }, receiver, waiting)
        };
        loop {
            match timeout(PATIENCE, &mut call).await {
                Ok(called) => return called.map(|()| turn).map_err(|_| busy(waiting)),
                // It counts as more urgent by now.
                Err(_) => self.lock().look_again(Instant::now()),
            }
        }
    }

    /// Waits until the budget allows one more request.
    pub(crate) async fn pace(&self, urgent: bool) {
        let pause = self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(urgent, Instant::now());
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

/// Reads of the same thing that wait together are one read. A read that has begun is nobody else's: it may have been
/// answered before they asked.
#[derive(Debug)]
pub(crate) struct Together<T> {
    waiting: Mutex<Option<Leader<T>>>,
}

/// Where the answer of one who reads for others comes.
type Leader<T> = watch::Receiver<Option<Result<T, BmcError>>>;

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<T: Clone> Together<T> {
    /// Reads, or shares the read of one who still waits. `enter` waits for the turn, `read` reads in it.
    pub(crate) async fn read<G, E, R>(
        &self,
        enter: impl Fn() -> E,
        read: impl FnOnce() -> R,
    ) -> Result<T, BmcError>
    where
        E: Future<Output = Result<G, BmcError>>,
        R: Future<Output = Result<T, BmcError>>,
    {
        let sender = loop {
            let mut leader = {
                let mut waiting = self.lock();
                match waiting.as_ref() {
                    Some(leader) => leader.clone(),
                    None => {
                        let (sender, receiver) = watch::channel(None);
                        *waiting = Some(receiver);
                        break sender;
                    }
                }
            };
            // One that went away without an answer leads nobody.
            let answer = leader.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
            if let Some(answer) = answer {
                return answer;
            }
            let mut waiting = self.lock();
            if waiting.as_ref().is_some_and(|w| w.same_channel(&leader)) {
                *waiting = None;
            }
        };
        let lead = Lead { together: self, sender };
        let entered = enter().await;
        lead.begin();
        let result = match entered {
            Ok(_turn) => read().await,
            Err(error) => Err(error),
        };
        let _ = lead.sender.send(Some(result.clone()));
        result
    }

    fn lock(&self) -> MutexGuard<'_, Option<Leader<T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who reads for the others, and steps aside when it begins or goes away.
struct Lead<'a, T> {
    together: &'a Together<T>,
    sender: watch::Sender<Option<Result<T, BmcError>>>,
}

impl<T> Lead<'_, T> {
    fn begin(&self) {
        let mut waiting = self.together.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref().is_some_and(|w| w.same_channel(&self.sender.subscribe())) {
            *waiting = None;
        }
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        self.begin();
    }
}

#[cfg(test)]
mod tests;

//! Who is next at one BMC. Pure: no clock and no task of its own.
//!
//! - What keeps people and data safe goes first, and has a place of its own: a power-off never waits for an inspection.
//! - Reads and surveys never take the last place: a change finds one free.
//! - Within an urgency the first to come is the first to go, and who waited for [`PATIENCE`] counts as one step more
//!   urgent with each such wait, so that nobody waits for ever.
//! - The line is bounded. When it is full the least urgent of all, the last one who came among them, is sent away.

use std::time::Duration;

use tokio::time::Instant;

/// After this time a waiter counts as one step more urgent.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How much depends on an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Urgency {
    /// Facts and hardware: many requests, nobody waits for them.
    Survey,
    /// The power.
    Read,
    /// A change of power or boot.
    Change,
    /// A server that is to be off at once.
    Safety,
}

impl Urgency {
    fn raised(self, steps: u128) -> Self {
        // Waiting makes nobody a matter of safety.
        match (self, steps) {
            (Self::Safety, _) => Self::Safety,
            (urgency, 0) => urgency,
            (Self::Survey, 1) => Self::Read,
            _ => Self::Change,
        }
    }
}

/// Names one operation in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// What becomes of one who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is its turn already.
    Go(Ticket),
    /// It waits.
    Wait(Ticket),
    /// It waits in the place of another, who is sent away.
    WaitInsteadOf(Ticket, Ticket),
    /// The line is full of others that are at least as urgent.
    Full,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    ticket: Ticket,
    urgency: Urgency,
    since: Instant,
}

/// The line before one BMC.
#[derive(Debug)]
pub(crate) struct Line {
    places: usize,
    capacity: usize,
    running: Vec<Entry>,
    waiting: Vec<Entry>,
    next: u64,
}

impl Line {
    /// An empty line. `places`: operations under way at a time (at least 1; one more for what is urgent for safety);
    /// `capacity`: operations that wait at a time.
    pub(crate) fn new(places: usize, capacity: usize) -> Self {
        Self { places: places.max(1), capacity, running: Vec::new(), waiting: Vec::new(), next: 0 }
    }

    /// One more that wants its turn, after [`Line::call`].
    pub(crate) fn arrive(&mut self, urgency: Urgency, now: Instant) -> Arrival {
        let ticket = Ticket(self.next);
        let entry = Entry { ticket, urgency, since: now };
        let served_before = self.waiting.iter().any(|other| at(other, now) >= urgency);
        if !served_before && self.has_place(urgency) {
            self.next += 1;
            self.running.push(entry);
            return Arrival::Go(ticket);
        }
        if self.waiting.len() < self.capacity {
            self.next += 1;
            self.waiting.push(entry);
            return Arrival::Wait(ticket);
        }
        // By what they are, not by how long they waited: that would send away who waited longest.
        let least = self.waiting.iter().enumerate().min_by_key(|(_, e)| (e.urgency, u64::MAX - e.ticket.0));
        match least.map(|(index, e)| (index, *e)) {
            Some((index, least)) if least.urgency < urgency => {
                self.next += 1;
                self.waiting[index] = entry;
                Arrival::WaitInsteadOf(ticket, least.ticket)
            }
            _ => Arrival::Full,
        }
    }

    /// One that is done, or that no longer waits. Gives those whose turn it is now.
    pub(crate) fn leave(&mut self, ticket: Ticket, now: Instant) -> Vec<Ticket> {
        self.running.retain(|entry| entry.ticket != ticket);
        self.waiting.retain(|entry| entry.ticket != ticket);
        self.call(now)
    }

    /// Those whose turn it is now: also when nobody left, since who waited long enough finds places that it did not.
    pub(crate) fn call(&mut self, now: Instant) -> Vec<Ticket> {
        let mut called = Vec::new();
        while let Some(index) = self.first(now) {
            let entry = self.waiting.remove(index);
            called.push(entry.ticket);
            self.running.push(entry);
        }
        called
    }

    /// Operations that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The most urgent waiter that finds a place. A waiter that finds none lets nobody less urgent pass.
    fn first(&self, now: Instant) -> Option<usize> {
        let (index, entry) = self
            .waiting
            .iter()
            .enumerate()
            .max_by_key(|(_, entry)| (at(entry, now), u64::MAX - entry.ticket.0))?;
        self.has_place(at(entry, now)).then_some(index)
    }

    fn has_place(&self, urgency: Urgency) -> bool {
        let taken = self.running.len();
        match urgency {
            Urgency::Safety => taken <= self.places,
            Urgency::Change => taken < self.places,
            Urgency::Read | Urgency::Survey => taken < self.places.saturating_sub(1).max(1),
        }
    }
}

/// How urgent a waiter is by now.
fn at(entry: &Entry, now: Instant) -> Urgency {
    let steps = now.saturating_duration_since(entry.since).as_millis() / PATIENCE.as_millis();
    entry.urgency.raised(steps)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn ticket(arrival: Arrival) -> Ticket {
        match arrival {
            Arrival::Go(ticket) | Arrival::Wait(ticket) | Arrival::WaitInsteadOf(ticket, _) => ticket,
            Arrival::Full => panic!("sent away"),
        }
    }

    #[test]
    fn safety_passes_everybody_and_reads_leave_a_place() {
        let (mut line, now) = (Line::new(2, 8), Instant::now());
        let survey = line.arrive(Urgency::Survey, now);
        assert!(matches!(survey, Arrival::Go(_)));
        let read = line.arrive(Urgency::Read, now);
        assert!(matches!(read, Arrival::Wait(_)), "the last place is for changes");
        let change = line.arrive(Urgency::Change, now);
        assert!(matches!(change, Arrival::Go(_)));
        let second = line.arrive(Urgency::Change, now);
        assert!(matches!(second, Arrival::Wait(_)));
        let off = line.arrive(Urgency::Safety, now);
        assert!(matches!(off, Arrival::Go(_)), "a place of its own");
        let next_off = line.arrive(Urgency::Safety, now);
        assert!(matches!(next_off, Arrival::Wait(_)));
        assert_eq!(line.leave(ticket(survey), now), [ticket(next_off)]);
        assert_eq!(line.leave(ticket(off), now), []);
        assert_eq!(line.leave(ticket(change), now), [ticket(second)]);
        assert_eq!(line.leave(ticket(next_off), now), []);
        assert_eq!(line.leave(ticket(second), now), [ticket(read)]);
        assert_eq!(line.waiting(), 0);
    }

    #[test]
    fn a_full_line_sends_away_the_least_urgent() {
        let (mut line, now) = (Line::new(1, 2), Instant::now());
        let first = ticket(line.arrive(Urgency::Read, now));
        let survey = ticket(line.arrive(Urgency::Survey, now));
        let later = ticket(line.arrive(Urgency::Survey, now));
        assert_eq!(line.arrive(Urgency::Survey, now), Arrival::Full);
        let Arrival::WaitInsteadOf(read, sent_away) = line.arrive(Urgency::Read, now) else { panic!() };
        assert_eq!(sent_away, later, "of equals who came last");
        assert_eq!(line.leave(first, now), [read]);
        assert_eq!(line.leave(read, now), [survey]);
    }

    #[test]
    fn who_waited_long_enough_is_not_passed() {
        let (mut line, start) = (Line::new(1, 8), Instant::now());
        let first = ticket(line.arrive(Urgency::Change, start));
        let survey = ticket(line.arrive(Urgency::Survey, start));
        let later = start + PATIENCE * 2;
        let change = ticket(line.arrive(Urgency::Change, later));
        assert_eq!(line.leave(first, later), [survey]);
        assert_eq!(line.leave(survey, later), [change]);
    }

    /// Whoever hangs in the one place of reads holds up the next read for a while only, and a change never.
    #[test]
    fn who_waited_long_enough_takes_the_last_place_though_nobody_left() {
        let (mut line, start) = (Line::new(2, 8), Instant::now());
        let hangs = line.arrive(Urgency::Survey, start);
        let read = ticket(line.arrive(Urgency::Read, start));
        let soon = start + PATIENCE / 2;
        assert_eq!(line.call(soon), []);
        let later = start + PATIENCE;
        assert_eq!(line.call(later), [read]);
        assert_eq!(line.leave(read, later), []);
        assert!(matches!(line.arrive(Urgency::Change, later), Arrival::Go(_)), "{hangs:?}");
    }

    /// The least urgent is served whatever comes: with changes that never end it waits for as many as came before it
    /// was of their urgency.
    #[test]
    fn nobody_starves() {
        let (mut line, start) = (Line::new(1, 64), Instant::now());
        let mut running = ticket(line.arrive(Urgency::Change, start));
        let survey = ticket(line.arrive(Urgency::Survey, start));
        for second in 1..100 {
            let now = start + Duration::from_secs(second);
            // Two come for each that goes.
            for _ in 0..2 {
                assert!(!matches!(line.arrive(Urgency::Change, now), Arrival::Go(_)));
            }
            running = line.leave(running, now)[0];
            if running == survey {
                assert!(now >= start + PATIENCE * 2);
                return;
            }
        }
        panic!("it never was its turn");
    }

    fn urgency() -> impl Strategy<Value = Urgency> {
        prop_oneof![Just(Urgency::Survey), Just(Urgency::Read), Just(Urgency::Change), Just(Urgency::Safety)]
    }

    proptest! {
        /// Whatever comes and goes: bounds hold, everybody who was let in is called once or sent away once, and when
        /// all leave nobody is left behind.
        #[test]
        fn nobody_is_lost(
            places in 0usize..4, capacity in 0usize..5,
            steps in proptest::collection::vec((urgency(), any::<prop::sample::Index>(), any::<bool>(), 0u64..30), 1..80),
        ) {
            let mut line = Line::new(places, capacity);
            let mut now = Instant::now();
            let (mut running, mut waiting): (Vec<Ticket>, Vec<Ticket>) = (Vec::new(), Vec::new());
            let called = |called: Vec<Ticket>, running: &mut Vec<Ticket>, waiting: &mut Vec<Ticket>| {
                for ticket in called {
                    let place = waiting.iter().position(|t| *t == ticket);
                    assert!(place.is_some(), "called once, and only who waits");
                    waiting.remove(place.unwrap());
                    running.push(ticket);
                }
            };
            for (urgency, index, arrives, seconds) in steps {
                now += Duration::from_secs(seconds);
                called(line.call(now), &mut running, &mut waiting);
                prop_assert!(line.first(now).is_none(), "whoever finds a place is called");
                if arrives || running.is_empty() {
                    match line.arrive(urgency, now) {
                        Arrival::Go(ticket) => running.push(ticket),
                        Arrival::Wait(ticket) => waiting.push(ticket),
                        Arrival::WaitInsteadOf(ticket, other) => {
                            let place = waiting.iter().position(|t| *t == other);
                            prop_assert!(place.is_some());
                            waiting[place.unwrap()] = ticket;
                        }
                        Arrival::Full => prop_assert!(waiting.len() >= capacity),
                    }
                } else {
                    let ticket = running.remove(index.index(running.len()));
                    called(line.leave(ticket, now), &mut running, &mut waiting);
                }
                prop_assert!(running.len() <= places.max(1) + 1 && waiting.len() <= capacity);
                prop_assert!(!running.is_empty() || waiting.is_empty(), "somebody waits for nobody");
            }
            while let Some(ticket) = running.pop() {
                called(line.leave(ticket, now), &mut running, &mut waiting);
            }
            prop_assert!(waiting.is_empty());
        }
    }
}

//! Who is offered a discovery token, and whose token counts. Pure: no clock, no randomness.
//!
//! What it holds may be lost at any time: tokens that it does not know do not count, and their machines are restarted and
//! offered another.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ferric_api::MacAddress;
use ferric_protocol::v1::PowerAction;
use jiff::{SignedDuration, Timestamp};

use crate::key::Key;

/// Most machines that are remembered as refused; the one refused longest ago is forgotten first.
const REFUSED: usize = 4096;

/// How much is offered. Whoever is in the boot network can make up MAC addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Machines that were offered a token and have not told yet what they are.
    pub pending: usize,
    /// Hosts that wait for approval: beyond, nothing more is offered.
    pub waiting: usize,
    /// New offers within [`Self::window`].
    pub burst: usize,
    /// See [`Self::burst`].
    pub window: Duration,
    /// How long a token is good.
    pub lifetime: Duration,
}

impl Limits {
    /// The limits of this release, for tokens that are good this long.
    pub fn new(lifetime: Duration) -> Self {
        Self { pending: 16, waiting: 256, burst: 64, window: Duration::from_secs(3600), lifetime }
    }
}

/// What a machine that asks for a boot is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invite {
    /// Come: the facts of its token. `again`: it was told before; firmware asks many times in one boot.
    Token {
        /// Number of the token.
        number: u64,
        /// When the token ends.
        expires: Timestamp,
        /// Whether it was told before.
        again: bool,
    },
    /// It told what it is, and is this host, or looks like it: it is left alone while that exists.
    Known(Key),
    /// Too many others were offered one.
    Limited,
}

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCounted {
    /// The provider was restarted since, or it is too old.
    #[error(
        "nobody remembers to have given this discovery token; the machine is offered another at its next boot"
    )]
    Forgotten,
    /// Another key has it.
    #[error("the discovery token is spent: another key has registered with it")]
    Spent,
}

#[derive(Debug, Clone)]
struct Offer {
    mac: MacAddress,
    expires: Timestamp,
    /// Key that the token is spent for.
    fingerprint: Option<String>,
    /// What the machine was told when its report was worked off.
    end: Option<PowerAction>,
}

/// What was offered to whom.
#[derive(Debug)]
pub struct Book {
    limits: Limits,
    offers: BTreeMap<u64, Offer>,
    begun: VecDeque<Timestamp>,
    refused: VecDeque<(MacAddress, Key)>,
}

impl Book {
    /// Nothing was offered.
    pub fn new(limits: Limits) -> Self {
        Self { limits, offers: BTreeMap::new(), begun: VecDeque::new(), refused: VecDeque::new() }
    }

    /// The token of a machine that was offered one and has not told yet what it is.
    pub fn pending(&self, mac: MacAddress, now: Timestamp) -> Option<(u64, Timestamp)> {
        let mut offers = self.offers.iter();
        offers
            .find(|(_, offer)| offer.mac == mac && offer.end.is_none() && now < offer.expires)
            .map(|(number, offer)| (*number, offer.expires))
    }

    /// A machine that nobody enrolled asks for a boot. `number` is for a new token and must not have been used before,
    /// `waiting` is how many hosts wait for approval, `exists` says whether a host is still there.
    pub fn invite(
        &mut self,
        mac: MacAddress,
        now: Timestamp,
        number: u64,
        waiting: usize,
        exists: impl Fn(&Key) -> bool,
    ) -> Invite {
        self.forget(now);
        if let Some((number, expires)) = self.pending(mac, now) {
            return Invite::Token { number, expires, again: true };
        }
        self.refused.retain(|(_, host)| exists(host));
        if let Some((_, host)) = self.refused.iter().find(|(refused, _)| *refused == mac) {
            return Invite::Known(host.clone());
        }
        let pending = self.offers.values().filter(|offer| offer.end.is_none()).count();
        let Limits { pending: most, waiting: most_waiting, burst, lifetime, .. } = self.limits;
        if pending >= most
            || waiting + pending >= most_waiting
            || self.begun.len() >= burst
            || self.offers.contains_key(&number)
        {
            return Invite::Limited;
        }
        let expires = after(now, lifetime);
        self.begun.push_back(now);
        self.offers.insert(number, Offer { mac, expires, fingerprint: None, end: None });
        Invite::Token { number, expires, again: false }
    }

    /// A key comes with a token that is ours and has not ended. The first key has it: `None` if its report is to be worked
    /// off, also when that failed before and it comes again, else what it was told then.
    pub fn spend(
        &mut self,
        mac: MacAddress,
        number: u64,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Option<PowerAction>, NotCounted> {
        self.forget(now);
        let offer = self.offers.get_mut(&number).filter(|offer| offer.mac == mac);
        let offer = offer.ok_or(NotCounted::Forgotten)?;
        if offer.fingerprint.get_or_insert_with(|| fingerprint.to_owned()) != fingerprint {
            return Err(NotCounted::Spent);
        }
        Ok(offer.end)
    }

    /// The report that came with a token was worked off.
    pub fn settle(&mut self, number: u64, end: PowerAction) {
        if let Some(offer) = self.offers.get_mut(&number) {
            offer.end = Some(end);
        }
    }

    /// The machine is, or says to be, that of a host: it is offered nothing while that exists.
    pub fn refuse(&mut self, mac: MacAddress, host: Key) {
        self.refused.retain(|(refused, _)| *refused != mac);
        self.refused.push_back((mac, host));
        if self.refused.len() > REFUSED {
            self.refused.pop_front();
        }
    }

    /// Drops what is over. Spent tokens are kept to their end, so that a key that comes again is told the same; there are no
    /// more of them than offers were begun in a lifetime.
    fn forget(&mut self, now: Timestamp) {
        self.offers.retain(|_, offer| now < offer.expires);
        let window = self.limits.window;
        while self.begun.front().is_some_and(|begun| after(*begun, window) <= now) {
            self.begun.pop_front();
        }
    }
}

fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.saturating_add(SignedDuration::try_from(span).unwrap_or_default()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LIFETIME: i64 = 600;

    fn mac(n: u8) -> MacAddress {
        [0x52, 0x54, 0, 0, 0, n].into()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn book() -> Book {
        Book::new(Limits::new(Duration::from_secs(LIFETIME.unsigned_abs())))
    }

    fn host() -> Key {
        Key::new("racks", "h")
    }

    fn invite(book: &mut Book, n: u8, second: i64, number: u64) -> Invite {
        book.invite(mac(n), at(second), number, 0, |_| true)
    }

    fn token(number: u64, expires: i64, again: bool) -> Invite {
        Invite::Token { number, expires: at(expires), again }
    }

    #[test]
    fn a_machine_has_one_token_at_a_time() {
        let mut book = book();
        assert_eq!(book.pending(mac(1), at(0)), None, "to ask for an address is not to ask for a boot");
        assert_eq!(invite(&mut book, 1, 0, 10), token(10, LIFETIME, false));
        assert_eq!(invite(&mut book, 1, 5, 11), token(10, LIFETIME, true));
        assert_eq!(book.pending(mac(1), at(5)), Some((10, at(LIFETIME))));
        assert_eq!(invite(&mut book, 2, 5, 12), token(12, 5 + LIFETIME, false));
        // It came to nothing, and the machine tries again later.
        assert_eq!(book.pending(mac(1), at(LIFETIME)), None);
        assert_eq!(invite(&mut book, 1, LIFETIME, 13), token(13, 2 * LIFETIME, false));
    }

    #[test]
    fn a_token_is_spent_by_the_first_key_and_told_the_same_again() {
        let mut book = book();
        invite(&mut book, 1, 0, 10);
        assert_eq!(book.spend(mac(1), 11, "a", at(1)), Err(NotCounted::Forgotten));
        assert_eq!(book.spend(mac(2), 10, "a", at(1)), Err(NotCounted::Forgotten), "the token of another");
        assert_eq!(book.spend(mac(1), 10, "a", at(1)), Ok(None));
        assert_eq!(book.spend(mac(1), 10, "b", at(1)), Err(NotCounted::Spent));
        assert_eq!(book.spend(mac(1), 10, "a", at(2)), Ok(None), "its report could not be saved at once");
        book.settle(10, PowerAction::PowerOff);
        assert_eq!(book.spend(mac(1), 10, "a", at(3)), Ok(Some(PowerAction::PowerOff)));
        assert_eq!(book.spend(mac(1), 10, "b", at(3)), Err(NotCounted::Spent));
        assert_eq!(book.pending(mac(1), at(3)), None);
        assert_eq!(book.spend(mac(1), 10, "a", at(LIFETIME)), Err(NotCounted::Forgotten));
    }

    #[test]
    fn a_discovered_machine_whose_host_is_deleted_is_offered_a_token_at_its_next_boot() {
        let mut book = book();
        invite(&mut book, 1, 0, 10);
        book.spend(mac(1), 10, "a", at(1)).unwrap();
        book.settle(10, PowerAction::PowerOff);
        assert_eq!(invite(&mut book, 1, 2, 11), token(11, 2 + LIFETIME, false));
    }

    #[test]
    fn who_looks_like_a_host_is_left_alone_while_that_exists() {
        let mut book = book();
        book.refuse(mac(1), host());
        assert_eq!(invite(&mut book, 1, 0, 10), Invite::Known(host()));
        assert_eq!(book.invite(mac(1), at(1), 10, 0, |_| false), token(10, 1 + LIFETIME, false));
        for n in 0..u8::MAX {
            (0..32).for_each(|m| book.refuse([0x52, 0x54, 0, 0, m, n].into(), host()));
        }
        assert_eq!(book.refused.len(), REFUSED);
    }

    #[test]
    fn neither_too_many_at_once_nor_too_many_in_an_hour_nor_too_many_that_wait() {
        let mut full = book();
        for n in 0..16 {
            assert!(matches!(invite(&mut full, n, 0, n.into()), Invite::Token { .. }), "{n}");
        }
        assert_eq!(invite(&mut full, 16, 0, 16), Invite::Limited);
        assert_eq!(invite(&mut full, 3, 0, 17), token(3, LIFETIME, true), "not whoever has one");
        full.spend(mac(3), 3, "a", at(1)).unwrap();
        full.settle(3, PowerAction::PowerOff);
        assert!(matches!(invite(&mut full, 16, 1, 16), Invite::Token { .. }), "one has told what it is");

        let mut hasty = book();
        for n in 0..64 {
            invite(&mut hasty, n, 0, n.into());
            hasty.settle(n.into(), PowerAction::PowerOff);
        }
        assert_eq!(invite(&mut hasty, 64, 3599, 64), Invite::Limited);
        assert!(matches!(invite(&mut hasty, 64, 3600, 64), Invite::Token { .. }));

        let mut unheeded = book();
        assert_eq!(unheeded.invite(mac(1), at(0), 1, 256, |_| true), Invite::Limited);
        assert!(matches!(unheeded.invite(mac(1), at(0), 1, 255, |_| true), Invite::Token { .. }));
        assert_eq!(unheeded.invite(mac(2), at(0), 2, 255, |_| true), Invite::Limited);
    }

    /// What can happen, in any order.
    #[derive(Debug, Clone)]
    enum Event {
        Asks { mac: u8 },
        Comes { token: usize, mac: u8, key: u8 },
        Settles { token: usize },
        Passes { seconds: i64 },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => any::<u8>().prop_map(|mac| Event::Asks { mac }),
            3 => (any::<prop::sample::Index>(), any::<u8>(), 0_u8..3)
                .prop_map(|(token, mac, key)| Event::Comes { token: token.index(64), mac, key }),
            2 => any::<prop::sample::Index>().prop_map(|token| Event::Settles { token: token.index(64) }),
            1 => (0_i64..900).prop_map(|seconds| Event::Passes { seconds }),
        ]
    }

    proptest! {
        #[test]
        fn no_token_counts_for_two_keys_or_another_machine_and_the_limits_hold(
            events in prop::collection::vec(event(), 0..400),
        ) {
            let mut book = book();
            let (mut now, mut number) = (0, 0_u64);
            let mut given: Vec<(u64, u8)> = Vec::new();
            let mut spent: BTreeMap<u64, BTreeSet<u8>> = BTreeMap::new();
            for event in events {
                match event {
                    Event::Asks { mac } => {
                        number += 1;
                        if let Invite::Token { number, again: false, .. } = invite(&mut book, mac, now, number) {
                            given.push((number, mac));
                        }
                    }
                    Event::Comes { token, mac: other, key } => {
                        let Some((number, owner)) = given.get(token).copied() else { continue };
                        let said = if key == 2 { other } else { owner };
                        if book.spend(mac(said), number, &key.to_string(), at(now)).is_ok() {
                            prop_assert_eq!(said, owner);
                            spent.entry(number).or_default().insert(key);
                        }
                    }
                    Event::Settles { token } => {
                        if let Some((number, _)) = given.get(token) {
                            book.settle(*number, PowerAction::PowerOff);
                        }
                    }
                    Event::Passes { seconds } => now += seconds,
                }
                let pending: Vec<_> = book.offers.values().filter(|offer| offer.end.is_none()).collect();
                prop_assert!(pending.len() <= 16 && book.begun.len() <= 64 && book.offers.len() <= 80);
                let macs: BTreeSet<_> =
                    pending.iter().filter(|offer| at(now) < offer.expires).map(|offer| offer.mac).collect();
                let live = pending.iter().filter(|offer| at(now) < offer.expires).count();
                prop_assert_eq!(macs.len(), live, "one token a machine");
            }
            prop_assert!(spent.values().all(|keys| keys.len() == 1), "{spent:?}");
        }
    }
}

//! What free hosts take and save, estimated from how they stand by. Pure.
//!
//! It is an estimate: watts are what the host's annotation says, or [`Draw::ASSUMED`], whatever the server really takes. Hosts
//! in use are not in it: what they do costs what it costs.

use std::collections::BTreeMap;

use ferric_api::BareMetalHost;
use ferric_api::host::HostStandby;
use ferric_api::names::WATTS_ANNOTATION;
use jiff::Timestamp;

use crate::key::Key;

/// Time that is not looked at for longer than this is not counted: nobody knows what was in between. In milliseconds.
const GAP: i64 = 600_000;
/// More watts than any server takes.
const MOST: u32 = 100_000;

/// What a host takes, in watts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// While it is on and idle.
    pub on: u32,
    /// While it is off: its BMC, and what its power supplies lose.
    pub off: u32,
    /// Whether that is assumed.
    pub assumed: bool,
}

impl Draw {
    /// Of a host of which nothing is said. An assumption of ours, of the size of an idle two-socket server; not a measurement.
    pub const ASSUMED: Self = Self { on: 150, off: 10, assumed: true };

    /// What a host takes by its annotation `…/watts`, `<on>` or `<on>,<off>`; where it has none, or one that cannot be read or
    /// says that off takes more than on, [`Self::ASSUMED`].
    #[must_use]
    pub fn of(host: &BareMetalHost) -> Self {
        let said = host.metadata.annotations.as_ref().and_then(|all| all.get(WATTS_ANNOTATION));
        said.and_then(|said| Self::parse(said)).unwrap_or(Self::ASSUMED)
    }

    fn parse(text: &str) -> Option<Self> {
        let watts = |text: &str| text.trim().parse::<u32>().ok().filter(|watts| *watts <= MOST);
        let (on, off) = match text.split_once(',') {
            Some((on, off)) => (watts(on)?, watts(off)?),
            None => {
                let on = watts(text)?;
                (on, Self::ASSUMED.off.min(on))
            }
        };
        (off <= on).then_some(Self { on, off, assumed: false })
    }
}

/// A free host at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumption {
    /// Which.
    pub key: Key,
    /// How it stands by; none, on its way, takes what one takes that is on.
    pub state: Option<HostStandby>,
    /// What it takes.
    pub draw: Draw,
}

/// What was taken and saved, since this process began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Energy {
    /// Milliwatt-hours would be too coarse: watts times milliseconds.
    used: u64,
    saved: u64,
    /// When each host was looked at last, and how it was.
    last: BTreeMap<Key, (Timestamp, Option<HostStandby>, Draw)>,
}

impl Energy {
    /// Counts the time since the last look: each host was until now as it was then. Hosts that are not named are in use, or
    /// gone. A clock that went back counts nothing.
    pub fn look(&mut self, hosts: &[Consumption], now: Timestamp) {
        let mut next = BTreeMap::new();
        for host in hosts {
            if let Some((since, state, draw)) = self.last.get(&host.key) {
                let took = now.duration_since(*since).as_millis();
                let took = i64::try_from(took).ok().filter(|took| (0..=GAP).contains(took)).unwrap_or(0);
                let took = took.unsigned_abs();
                let is_off = matches!(state, Some(HostStandby::Off | HostStandby::Staged));
                let watts = if is_off { draw.off } else { draw.on };
                self.used = self.used.saturating_add(took * u64::from(watts));
                self.saved = self.saved.saturating_add(took * u64::from(draw.on.saturating_sub(watts)));
            }
            next.insert(host.key.clone(), (now, host.state, host.draw));
        }
        self.last = next;
    }

    /// Joules that free hosts took.
    #[must_use]
    pub fn used_joules(&self) -> u64 {
        self.used / 1000
    }

    /// Joules that they would have taken beyond that, had they been on.
    #[must_use]
    pub fn saved_joules(&self) -> u64 {
        self.saved / 1000
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn host(name: &str, state: Option<HostStandby>, (on, off): (u32, u32)) -> Consumption {
        Consumption { key: Key::new("racks", name), state, draw: Draw { on, off, assumed: false } }
    }

    #[test]
    fn the_annotation_is_read_leniently() {
        let table = [
            (Some("180,12"), Draw { on: 180, off: 12, assumed: false }),
            (Some(" 180 , 12 "), Draw { on: 180, off: 12, assumed: false }),
            (Some("180"), Draw { on: 180, off: 10, assumed: false }),
            (Some("5"), Draw { on: 5, off: 5, assumed: false }),
            (Some("12,180"), Draw::ASSUMED),
            (Some("180 W"), Draw::ASSUMED),
            (Some("-1,0"), Draw::ASSUMED),
            (Some("4294967295,0"), Draw::ASSUMED),
            (Some(""), Draw::ASSUMED),
            (None, Draw::ASSUMED),
        ];
        for (said, expected) in table {
            let mut host = BareMetalHost::new("h", Default::default());
            host.metadata.annotations =
                said.map(|said| [(WATTS_ANNOTATION.to_owned(), said.to_owned())].into());
            assert_eq!(Draw::of(&host), expected, "{said:?}");
        }
    }

    #[test]
    fn a_host_takes_what_it_was_until_it_was_looked_at_again() {
        use HostStandby::{Off, Running};
        let mut energy = Energy::default();
        energy.look(&[host("a", Some(Running), (200, 20)), host("b", Some(Off), (100, 10))], at(0));
        assert_eq!((energy.used_joules(), energy.saved_joules()), (0, 0));
        energy.look(&[host("a", Some(Off), (200, 20)), host("b", None, (100, 10))], at(60));
        assert_eq!((energy.used_joules(), energy.saved_joules()), (60 * 210, 60 * 90));
        // One is in use now; the other was booting.
        energy.look(&[host("b", Some(Running), (100, 10))], at(120));
        assert_eq!((energy.used_joules(), energy.saved_joules()), (60 * 210 + 6000, 60 * 90));
        // Nobody looked for a long time, and a clock went back.
        energy.look(&[host("b", Some(Running), (100, 10))], at(2000));
        energy.look(&[host("b", Some(Running), (100, 10))], at(1000));
        assert_eq!(energy.used_joules(), 60 * 210 + 6000);
    }

    proptest! {
        #[test]
        fn counters_never_go_down_and_add_up(
            looks in prop::collection::vec((-700_000..700_000_i64, 0..3_u8, 0..=MOST, 0..=MOST), 0..50),
        ) {
            let (mut energy, mut now) = (Energy::default(), at(0));
            for (step, state, a, b) in looks {
                now += jiff::SignedDuration::from_millis(step);
                let before = (energy.used_joules(), energy.saved_joules());
                let state = [None, Some(HostStandby::Off), Some(HostStandby::Running)][usize::from(state)];
                energy.look(&[host("a", state, (a.max(b), a.min(b)))], now);
                prop_assert!(energy.used_joules() >= before.0 && energy.saved_joules() >= before.1);
            }
        }
    }
}

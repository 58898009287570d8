//! Counts network boots that nobody asked for: boots, not messages. Pure.

use std::time::Duration;

use ferric_api::host::UninvitedBoots;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What is asked within this time of the first message belongs to the same boot: firmware with several cards, and an entry
/// for PXE and for HTTP boot over IPv4 and IPv6 for each, asks for minutes. It also bounds how often a server that boots
/// from the network in a loop costs a write.
pub const ONE_BOOT: Duration = Duration::from_secs(600);

/// Whether a message that came now begins another boot than the last one, whose beginning is remembered or, by a manager that
/// remembers nothing, told by the status.
pub fn begins(remembered: Option<Timestamp>, told: Option<&UninvitedBoots>, now: Timestamp) -> bool {
    is_another(remembered.or(told.map(|boots| boots.last_time.0)), now)
}

fn is_another(last: Option<Timestamp>, now: Timestamp) -> bool {
    let window = SignedDuration::try_from(ONE_BOOT).unwrap_or_default();
    // A clock that went back must not stop the count for ever.
    last.is_none_or(|last| now.duration_since(last).abs() >= window)
}

/// The count after a boot that began at `seen`; `None`: none was seen. The time of the last boot is part of the count, so
/// that the same boot is never counted twice, also by a manager that remembers nothing.
pub fn counted(known: Option<UninvitedBoots>, seen: Option<Timestamp>) -> Option<UninvitedBoots> {
    match (known, seen) {
        (known, None) => known,
        (None, Some(seen)) => Some(UninvitedBoots { count: 1, last_time: Time(seen) }),
        (Some(known), Some(seen)) if is_another(Some(known.last_time.0), seen) => {
            Some(UninvitedBoots { count: known.count.saturating_add(1), last_time: Time(seen) })
        }
        (known, Some(_)) => known,
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

    /// What a host's status says after messages at these seconds; `forgets` says after which of them the manager is new.
    fn count(messages: &[i64], forgets: impl Fn(usize) -> bool) -> Option<(i32, Timestamp)> {
        let (mut memory, mut status) = (None, None);
        for (number, second) in messages.iter().enumerate() {
            if begins(memory, status.as_ref(), at(*second)) {
                memory = Some(at(*second));
            }
            status = counted(status, memory);
            if forgets(number) {
                memory = None;
            }
        }
        status.map(|boots| (boots.count, boots.last_time.0))
    }

    /// Seconds of messages; the count, and the second of the last boot.
    type Row = (&'static [i64], Option<(i32, i64)>);

    #[test]
    fn a_boot_is_counted_once_however_often_it_asks() {
        let table: [Row; 6] = [
            (&[], None),
            (&[0], Some((1, 0))),
            (&[0, 1, 4, 60, 250, 599], Some((1, 0))),
            (&[0, 600], Some((2, 600))),
            (&[0, 599, 601, 700, 2000], Some((3, 2000))),
            // The clock was wrong.
            (&[100_000, 5], Some((2, 5))),
        ];
        for (messages, expected) in table {
            let expected = expected.map(|(count, second)| (count, at(second)));
            assert_eq!(count(messages, |_| false), expected, "{messages:?}");
            assert_eq!(count(messages, |_| true), expected, "{messages:?}, a new manager each time");
        }
    }

    proptest! {
        #[test]
        fn neither_a_storm_nor_a_restart_counts_more_than_one_boot_in_ten_minutes(
            mut seconds in prop::collection::vec(0_i64..20_000, 1..200), restarts: u64,
        ) {
            seconds.sort_unstable();
            let (counted, last) = count(&seconds, |n| restarts >> (n % 64) & 1 == 1).unwrap();
            let span = seconds.last().unwrap() - seconds[0];
            prop_assert!((1..=span / 600 + 1).contains(&i64::from(counted)));
            prop_assert!(at(*seconds.last().unwrap()).duration_since(last).as_secs() < 600);
        }
    }
}

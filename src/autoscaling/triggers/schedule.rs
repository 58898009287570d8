//! Times at which there are more nodes.

use ferric_api::autoscaling::{ScheduleTrigger, TriggerState};
use jiff::{SignedDuration, Timestamp};

use super::Wish;

/// A schedule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{crontab}: {why}; write five fields and the name of a time zone, e.g. 0 7 * * 1-5 and Europe/Berlin"
)]
pub struct ScheduleError {
    crontab: String,
    why: String,
}

/// How a schedule stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Whether it is within a window.
    pub active: bool,
    /// When that changes; none: not within what can be reckoned.
    pub until: Option<Timestamp>,
}

/// How a schedule stands at a time. Where windows overlap, they are one.
pub fn window(trigger: &ScheduleTrigger, now: Timestamp) -> Result<Window, ScheduleError> {
    let crontab = format!("{} {}", trigger.cron, trigger.time_zone);
    let bad = |why: cronexpr::Error| ScheduleError { crontab: crontab.clone(), why: why.to_string() };
    let parsed = cronexpr::parse_crontab(&crontab).map_err(bad)?;
    let next = |after: Timestamp| parsed.find_next(after).map(|zoned| zoned.timestamp());
    let lasts = SignedDuration::from_secs(trigger.duration_seconds.into());
    // A window that has begun and is not over began after this, exclusively.
    let Ok(first) = now.checked_sub(lasts).map(next) else {
        return Ok(Window { active: false, until: None });
    };
    let first = first.map_err(bad)?;
    if first > now {
        return Ok(Window { active: false, until: Some(first) });
    }
    Ok(Window { active: true, until: first.checked_add(lasts).ok() })
}

/// What a schedule asks for.
#[must_use]
pub fn schedule(trigger: &ScheduleTrigger, current: i32, now: Timestamp) -> Wish {
    let until = |window: &Window| window.until.map_or(String::new(), |at| format!(", until {at}"));
    match window(trigger, now) {
        Err(error) => Wish::failed(error.to_string()),
        Ok(window) if window.active => {
            // Below its number it asks for more; above it, it has nothing against fewer.
            let message = format!("{} nodes at least{}", trigger.min_replicas, until(&window));
            Wish::of(current, trigger.min_replicas, None, message)
        }
        Ok(window) => Wish {
            state: TriggerState::Inactive,
            replicas: None,
            value: None,
            message: format!("not now{}", until(&window)),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn trigger(cron: &str, zone: &str, duration_seconds: i32) -> ScheduleTrigger {
        ScheduleTrigger {
            cron: cron.to_owned(),
            time_zone: zone.to_owned(),
            duration_seconds,
            min_replicas: 6,
        }
    }

    /// From seven to eighteen o'clock in Berlin on working days; 2026-11-20 is a Friday.
    #[rstest]
    #[case::before("2026-11-20T05:59:59Z", false, "2026-11-20T06:00:00Z")]
    #[case::when_it_begins("2026-11-20T06:00:00Z", true, "2026-11-20T17:00:00Z")]
    #[case::within("2026-11-20T16:59:59Z", true, "2026-11-20T17:00:00Z")]
    #[case::when_it_ends("2026-11-20T17:00:00Z", false, "2026-11-23T06:00:00Z")]
    #[case::on_a_sunday("2026-11-22T12:00:00Z", false, "2026-11-23T06:00:00Z")]
    #[case::in_summer("2026-07-03T05:00:00Z", true, "2026-07-03T16:00:00Z")]
    fn office_hours(#[case] now: &str, #[case] active: bool, #[case] until: &str) {
        let found = window(&trigger("0 7 * * 1-5", "Europe/Berlin", 39_600), now.parse().unwrap()).unwrap();
        assert_eq!(found, Window { active, until: Some(until.parse().unwrap()) });
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (cron, zone) in
            [("0 25 * * *", "UTC"), ("0 7 * *", "UTC"), ("0 7 * * *", "Europe/Nowhere"), ("", "")]
        {
            let wish = schedule(&trigger(cron, zone, 60), 3, Timestamp::UNIX_EPOCH);
            assert_eq!(wish.state, TriggerState::Failed, "{cron} {zone}");
        }
    }

    #[test]
    fn it_has_a_say_only_within_its_window() {
        let trigger = trigger("0 7 * * *", "UTC", 3600);
        let ask = |current, now: &str| schedule(&trigger, current, now.parse().unwrap());
        assert_eq!(ask(2, "2026-11-20T07:30:00Z").state, TriggerState::Up);
        assert_eq!(ask(6, "2026-11-20T07:30:00Z").state, TriggerState::Hold);
        assert_eq!(ask(8, "2026-11-20T07:30:00Z").state, TriggerState::Down);
        assert_eq!(ask(2, "2026-11-20T08:00:00Z").state, TriggerState::Inactive);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(cron in "[0-9*/,# LW-]{0,20}", zone in "[A-Za-z/]{0,12}", now in -1_000_000_000i64..9_000_000_000) {
            let _ = schedule(&trigger(&cron, &zone, 3600), 1, Timestamp::from_second(now).unwrap());
        }
    }
}

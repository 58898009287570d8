//! Which free hosts have the image of their group on the disk.

use ferric_api::autoscaling::Standby;
use ferric_api::host::HostStandby;
use jiff::Timestamp;

use super::{FreeHost, StandbyGroup, StandbyPlan, write};

/// Has the image of the group on as many disks as wanted, of the hosts that do not stand by in the agent. Those that have it
/// keep it; those that have another get it when they may be switched on and off once more.
pub(super) fn stage(
    group: &StandbyGroup<'_>,
    rules: &Standby,
    usable: &[&FreeHost],
    wanted: usize,
    plan: &mut StandbyPlan,
    now: Timestamp,
) -> Option<String> {
    let to_run = |host: &FreeHost, plan: &StandbyPlan| {
        plan.hosts.get(&host.key).is_some_and(|place| place.standby == Some(HostStandby::Running))
    };
    let mut rest: Vec<&FreeHost> =
        usable.iter().filter(|host| !host.by_hand() && !to_run(host, plan)).copied().collect();
    // Of those that are told by hand, one with another image is of no use to the group.
    let serves = |host: &FreeHost| group.image.map_or(host.is_told_staged(), |image| host.is_for(image));
    let by_hand = usable.iter().filter(|host| host.by_hand() && serves(host)).count();
    let mut left = wanted.saturating_sub(by_hand);
    let image = match group.image {
        Ok(image) => image,
        Err(_) if left == 0 => {
            rest.iter()
                .filter(|host| host.is_told_staged())
                .for_each(|host| write(plan, host, Some(HostStandby::Off), None));
            return None;
        }
        // What there is stays: it may be of use again.
        Err(why) => return Some(format!("{left} hosts fewer than wanted are staged: {why}")),
    };
    // What has it and is there, what is on its way to it, what has another; then as for being switched on.
    rest.sort_by_key(|host| {
        let has = (!host.is_for(image), host.state != Some(HostStandby::Staged), !host.is_told_staged());
        (has, host.failures, host.cycles(now), host.since, &host.key)
    });
    let (mut later, mut unable) = (0, 0);
    for host in rest {
        let elsewhere = group.hints.is_some_and(|hints| host.hints.as_ref() != Some(hints));
        if left == 0 {
            // Nothing is switched for it.
            if host.is_told_staged() {
                write(plan, host, Some(HostStandby::Off), None);
            }
        } else if host.off_only || host.uncleaned || elsewhere {
            unable += 1;
        } else if host.is_for(image) {
            // What else is said of it, e.g. by which Secret it is read, is told without a switch.
            write(plan, host, Some(HostStandby::Staged), Some(image));
            left -= 1;
        } else {
            // One that stood by in the agent until now is switched off anyway.
            let up_from = if host.is_up() { Some(now) } else { host.up_from(rules) };
            let from = up_from.map(|from| from.max(host.down_from(rules, now)));
            if plan.is_due(from, now) {
                write(plan, host, Some(HostStandby::Staged), Some(image));
                left -= 1;
            } else {
                later += 1;
            }
        }
    }
    (left > 0).then(|| {
        format!(
            "{left} hosts fewer than wanted are staged: {later} have not been off for {} s, or were switched off {} times in \
             24 hours already; {unable} cannot be staged (no BMC, cleaning mode disabled, or another disk than the template \
             asks for)",
            rules.min_off_seconds, rules.max_power_cycles_per_day
        )
    })
}

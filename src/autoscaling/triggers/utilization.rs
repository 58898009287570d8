//! How much of a group's nodes is asked for or used.

use std::collections::BTreeMap;

use ferric_api::autoscaling::{ResourceThreshold, UtilizationTrigger};

use super::{Wish, whole};

/// Above this share, in per cent, a group is raised, where nothing is said.
const UP: i32 = 70;
/// Below this share, in per cent, it may be lowered, where nothing is said.
const DOWN: i32 = 30;

/// One resource of all of a group's nodes that are ready.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// What is asked for or used, in the resource's unit.
    pub used: f64,
    /// What pods can be given, in the same unit.
    pub allocatable: f64,
}

/// Whether a resource is a GPU, by its name: `nvidia.com/gpu`, `amd.com/gpu`, `gpu.intel.com/i915`, also when it is shared
/// or cut into parts (`nvidia.com/mig-1g.5gb`, `nvidia.com/gpu.shared`).
#[must_use]
pub fn is_gpu(resource: &str) -> bool {
    let Some((domain, name)) = resource.split_once('/') else { return false };
    domain == "gpu.intel.com" || name == "gpu" || name.starts_with("gpu.") || name.starts_with("mig-")
}

/// What utilization asks for: as many nodes as bring every resource to its upper limit, when one of them is above it, and
/// as few, when all are below their lower limits. Nodes with GPUs are judged by their GPUs alone.
///
/// `loads` are those of `nodes` nodes; `current` replicas are wanted already, and some of them may be on their way: these
/// are thought of as nodes like the others, with nothing on them.
#[must_use]
pub fn utilization(
    trigger: &UtilizationTrigger,
    loads: &BTreeMap<String, Load>,
    nodes: i32,
    current: i32,
) -> Wish {
    if nodes <= 0 {
        return Wish::of(current, current, None, "there is no node that is ready");
    }
    let thresholds = thresholds(trigger, loads);
    let (mut wanted, mut above, mut below) = (0.0f64, false, true);
    let mut said = Vec::new();
    for threshold in &thresholds {
        let Some(load) = loads.get(&threshold.name).filter(|load| load.allocatable > 0.0) else {
            return Wish::failed(format!(
                "no node of the group has {}: remove it from the trigger",
                threshold.name
            ));
        };
        if !load.used.is_finite() || load.used < 0.0 {
            return Wish::failed(format!("the use of {} is not known", threshold.name));
        }
        let each = load.allocatable / f64::from(nodes);
        let share = 100.0 * load.used / (each * f64::from(current.max(nodes)));
        above |= share > f64::from(threshold.scale_up_percent);
        below &= share < f64::from(threshold.scale_down_percent);
        wanted = wanted.max(100.0 * load.used / each / f64::from(threshold.scale_up_percent));
        said.push(format!("{} {share:.0} %", threshold.name));
    }
    let replicas = match (above, below) {
        (true, _) => whole(wanted).max(current),
        (false, true) => whole(wanted).min(current),
        (false, false) => current,
    };
    let limits: Vec<String> = thresholds
        .iter()
        .map(|t| format!("{} {} to {} %", t.name, t.scale_down_percent, t.scale_up_percent))
        .collect();
    Wish::of(current, replicas, Some(said.join(", ")), format!("wanted is {}", limits.join(", ")))
}

/// The limits that hold for nodes that have such resources.
fn thresholds(trigger: &UtilizationTrigger, loads: &BTreeMap<String, Load>) -> Vec<ResourceThreshold> {
    let usual = |name: &str| ResourceThreshold {
        name: name.to_owned(),
        scale_up_percent: UP,
        scale_down_percent: DOWN,
    };
    let said = |name: &str| trigger.resources.iter().find(|resource| resource.name == name).cloned();
    let gpus: Vec<&String> = loads
        .iter()
        .filter(|(name, load)| is_gpu(name) && load.allocatable > 0.0)
        .map(|(name, _)| name)
        .collect();
    if !gpus.is_empty() {
        return gpus.into_iter().map(|name| said(name).unwrap_or_else(|| usual(name))).collect();
    }
    if trigger.resources.is_empty() {
        return vec![usual("cpu"), usual("memory")];
    }
    trigger.resources.clone()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::autoscaling::TriggerState;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn loads(loads: &[(&str, f64, f64)]) -> BTreeMap<String, Load> {
        loads.iter().map(|&(name, used, allocatable)| (name.to_owned(), Load { used, allocatable })).collect()
    }

    #[rstest]
    #[case::between(&[("cpu", 20.0, 40.0), ("memory", 10.0, 40.0)], 4, 4, 4)]
    #[case::one_above(&[("cpu", 30.0, 40.0), ("memory", 1.0, 40.0)], 4, 4, 5)]
    #[case::one_below(&[("cpu", 10.0, 40.0), ("memory", 20.0, 40.0)], 4, 4, 4)]
    #[case::all_below(&[("cpu", 10.0, 40.0), ("memory", 5.0, 40.0)], 4, 4, 2)]
    #[case::nothing_on_them(&[("cpu", 0.0, 40.0), ("memory", 0.0, 40.0)], 4, 4, 0)]
    #[case::more_on_the_way(&[("cpu", 30.0, 40.0), ("memory", 1.0, 40.0)], 4, 6, 6)]
    #[case::gpus_alone(&[("cpu", 39.0, 40.0), ("memory", 1.0, 40.0), ("nvidia.com/gpu", 4.0, 8.0)], 4, 4, 4)]
    #[case::gpus_idle(&[("cpu", 39.0, 40.0), ("memory", 1.0, 40.0), ("nvidia.com/gpu", 0.0, 8.0)], 4, 4, 0)]
    fn by_default(
        #[case] given: &[(&str, f64, f64)],
        #[case] nodes: i32,
        #[case] current: i32,
        #[case] wanted: i32,
    ) {
        let wish = utilization(&UtilizationTrigger::default(), &loads(given), nodes, current);
        assert_eq!(wish.replicas, Some(wanted), "{wish:?}");
    }

    #[test]
    fn what_nodes_do_not_have_is_said() {
        let resources = vec![ResourceThreshold {
            name: "example.com/fpga".to_owned(),
            scale_up_percent: 70,
            scale_down_percent: 30,
        }];
        let trigger = UtilizationTrigger { resources, ..UtilizationTrigger::default() };
        let wish = utilization(&trigger, &loads(&[("cpu", 1.0, 2.0)]), 1, 1);
        assert_eq!(wish.state, TriggerState::Failed);
        assert!(wish.message.contains("example.com/fpga"));
    }

    proptest! {
        /// What it asks for, once it is there, asks for nothing more: load that stays the same does not swing.
        #[test]
        fn it_settles(used in 0.0f64..1000.0, nodes in 1i32..100) {
            let ask = |nodes: i32| {
                let allocatable = f64::from(nodes) * 10.0;
                let loads = loads(&[("cpu", used, allocatable), ("memory", 0.0, allocatable)]);
                utilization(&UtilizationTrigger::default(), &loads, nodes, nodes).replicas.unwrap()
            };
            let wanted = ask(nodes).max(1);
            prop_assert_eq!(ask(wanted).max(1), wanted);
        }

        #[test]
        fn gpus_are_known_by_name(name in "[a-z./-]{0,20}") {
            prop_assert!(!is_gpu(&name) || name.contains('/'));
        }
    }
}

//! An explanation for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use ferric_api::autoscaling::Decision;

use super::explain::{Explained, Now, TriggerSaid};

/// The explanation as text.
pub(super) fn of(explained: &Explained) -> String {
    let mut text = String::new();
    let Explained { namespace, group, cluster, target, mode, min_replicas, max_replicas, at, .. } = explained;
    let _ = writeln!(text, "{namespace}/{group}: {target} of cluster {cluster}, as of {at}");
    let _ = writeln!(text, "  mode {mode}: {}", meaning(mode));
    let _ = writeln!(text, "  minReplicas {min_replicas}, maxReplicas {max_replicas}");
    if let Some(why) = &explained.unseen {
        let _ = writeln!(text, "  the workload cluster could not be looked at: {why}");
    }
    match (&explained.unable, &explained.now) {
        (Some(why), _) => {
            let _ = writeln!(text, "  there is nothing to scale: {why}");
        }
        (None, Some(now)) => of_now(&mut text, now),
        (None, None) => {}
    }
    if !explained.limits.is_empty() {
        text.push_str("\nlimits over groups\n");
        for limit in &explained.limits {
            let _ = writeln!(text, "  {}: {} of {} {}", limit.limit, limit.used, limit.most, limit.resource);
        }
    }
    remembered(&mut text, explained);
    text
}

fn meaning(mode: &str) -> &'static str {
    match mode {
        "Direct" => "what is decided is done",
        "Delegate" => "cluster-autoscaler writes the number, within bounds that are told to it",
        _ => "what is decided is told, and nobody here does it",
    }
}

fn of_now(text: &mut String, now: &Now) {
    let machines = &now.machines;
    let _ = writeln!(
        text,
        "  {} replicas: {} nodes, {} on their way, {} late, {} leaving; one may take {} s",
        machines.replicas,
        machines.nodes,
        machines.in_flight,
        machines.late,
        machines.leaving,
        machines.patience_seconds
    );
    for (node, since) in &machines.draining {
        let _ = writeln!(text, "  node {node} is being emptied since {since}");
    }
    let hosts = &now.hosts;
    let selector = if hosts.selector.is_empty() { "any host" } else { hosts.selector.as_str() };
    let domain =
        hosts.failure_domain.as_ref().map(|domain| format!(", failure domain {domain}")).unwrap_or_default();
    let _ = writeln!(
        text,
        "  hosts free: {} ({} on and standing by, {} staged, {} off), {} in quarantine; chosen by BareMetalMachineTemplate {}: {selector}{domain}",
        hosts.free, hosts.running, hosts.staged, hosts.off, hosts.quarantined, hosts.template
    );
    let _ = writeln!(text, "  bounds now: {} to {}", now.bounds.0, now.bounds.1);
    match &now.node.from {
        Some(from) => {
            let _ = writeln!(text, "  a node more would be {from}: {}", pairs(&now.node.offers));
        }
        None => text.push_str("  it is not known what a node more would be: no ready node, and the template publishes no capacity\n"),
    }

    text.push_str("\ntriggers\n");
    if now.triggers.is_empty() {
        text.push_str("  not looked at\n");
    }
    for trigger in &now.triggers {
        of_trigger(text, trigger);
    }

    text.push_str("\ndecided now, with a fresh memory: what must last for a while begins now\n");
    let said = &now.decision;
    let to = if said.from == said.to {
        format!("stays at {}", said.from)
    } else {
        format!("{} -> {}", said.from, said.to)
    };
    let reason = said.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let _ = writeln!(text, "  {to}{reason}: {}", said.message);
    if let Some(limit) = &said.limited {
        let _ = writeln!(text, "  limited by {limit}");
    }
    match &now.later {
        Some(later) => {
            let _ = writeln!(
                text,
                "  after {} min, were nothing else to change: {} -> {}: {}",
                later.after_seconds / 60,
                later.decision.from,
                later.decision.to,
                later.decision.message
            );
        }
        None if now.looked_ahead_seconds > 0 => {
            let minutes = now.looked_ahead_seconds / 60;
            let _ = writeln!(text, "  nothing else within {minutes} min, were nothing else to change");
        }
        None => {}
    }

    if !now.nodes.is_empty() {
        text.push_str("\nnodes\n");
    }
    for node in &now.nodes {
        let used = node.used_percent.map(|used| format!("{used} % asked for, ")).unwrap_or_default();
        let _ = writeln!(text, "  {}: {used}{} pods that would move: {}", node.node, node.pods, node.why);
    }

    if now.stranded_pods > 0 {
        let _ = writeln!(
            text,
            "\npods of the cluster that wait, and that no group has a place for: {}",
            now.stranded_pods
        );
    }
    for pods in &now.stranded {
        let others = match pods.pods {
            1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        let _ = writeln!(text, "  {}{others}", pods.example);
        for (reason, count) in &pods.nodes {
            let _ = writeln!(text, "    {count} nodes: {reason}");
        }
        let _ = writeln!(text, "    a new node of this group {}", pods.new_node);
    }
}

fn of_trigger(text: &mut String, trigger: &TriggerSaid) {
    let value = trigger.value.as_ref().map(|value| format!(", value {value}")).unwrap_or_default();
    let wants = trigger.wanted_replicas.map(|wanted| format!(", asks for {wanted}")).unwrap_or_default();
    let _ = write!(text, "  {}: {}{value}{wants}: {}", trigger.name, trigger.state, trigger.message);
    let _ = match trigger.measured_by_manager {
        Some(when) => {
            writeln!(text, " (as the manager measured it, so since {when}; --queries asks from here)")
        }
        None => writeln!(text),
    };
}

fn remembered(text: &mut String, explained: &Explained) {
    let status = &explained.remembered.status;
    text.push_str("\nwhat the manager remembers (status)\n");
    if status.conditions.is_empty() {
        text.push_str("  nothing: it has not looked at this group yet; see whether it runs\n");
        return;
    }
    if !explained.remembered.of_this_spec {
        text.push_str("  it has not looked at the spec as it is now\n");
    }
    let number = |number: Option<i32>| number.map_or("-".to_owned(), |number| number.to_string());
    let _ = writeln!(
        text,
        "  current {}, desired {}, bounds {} to {}",
        number(status.current_replicas),
        number(status.desired_replicas),
        number(status.effective_min_replicas),
        number(status.effective_max_replicas)
    );
    match &status.last_decision {
        Some(last) => {
            let _ = writeln!(text, "  last decision: {}", decision(last));
        }
        None => text.push_str("  no decision yet\n"),
    }
    for earlier in status.history.iter().skip(1) {
        let _ = writeln!(text, "  before: {}", decision(earlier));
    }
    for condition in &status.conditions {
        let message =
            if condition.message.is_empty() { String::new() } else { format!(": {}", condition.message) };
        let _ = writeln!(
            text,
            "  {} {} ({}) since {}{message}",
            condition.type_, condition.status, condition.reason, condition.last_transition_time.0
        );
    }
    match &status.boot_seconds {
        Some(boot) => {
            let _ = writeln!(
                text,
                "  machines became nodes in {} s (half of them), {} s (95 of 100), {} s (99 of 100); {} seen",
                boot.p50, boot.p95, boot.p99, boot.samples
            );
        }
        None => text.push_str("  no machine has been seen to become a node yet\n"),
    }
}

fn decision(decision: &Decision) -> String {
    let trigger = decision.trigger.as_ref().map(|trigger| format!(", trigger {trigger}")).unwrap_or_default();
    let Decision { time, from, to, reason, message, .. } = decision;
    format!("{} {from} -> {to} ({reason}{trigger}): {message}", time.0)
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(name, amount)| format!("{name} {amount}")).collect::<Vec<_>>().join(", ")
}

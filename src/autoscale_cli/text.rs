//! Replays and decisions for people.

use std::fmt::Write;

use super::snapshot::{Decided, Said};
use super::{Comparison, Judged};
use crate::autoscaling::replay::Outcome;

/// What is told of an outcome.
type Told = (&'static str, fn(&Outcome) -> String);

const ROWS: [Told; 12] = [
    ("node-hours", |outcome| format!("{:.1}", outcome.node_hours)),
    ("  at least, for what ran", |outcome| format!("{:.1}", outcome.least_node_hours)),
    ("most hosts on at once", |outcome| outcome.most_nodes.to_string()),
    ("pending pod-seconds", |outcome| outcome.pending_pod_seconds.to_string()),
    ("  pods that came or were evicted", |outcome| outcome.waits.to_string()),
    ("  wait of 50 and 95 of 100, s", |outcome| format!("{} / {}", outcome.wait_p50, outcome.wait_p95)),
    ("  wait of 99 of 100 and longest, s", |outcome| format!("{} / {}", outcome.wait_p99, outcome.wait_most)),
    ("power cycles", |outcome| outcome.power_cycles.to_string()),
    ("evictions", |outcome| outcome.evictions.to_string()),
    ("  pod-seconds run in vain", |outcome| outcome.lost_pod_seconds.to_string()),
    ("machines given up before they came", |outcome| outcome.given_up.to_string()),
    ("pods waiting at the end", |outcome| outcome.waiting_at_end.to_string()),
];

/// A comparison as a table, and where its figures are from if that is asked for.
pub(super) fn of(comparison: &Comparison, sources: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "load {}: {} days of which {:.0} hours count, seed {}, {} hosts that boot in {} s, more or less",
        comparison.load,
        comparison.days,
        comparison.counted_hours,
        comparison.seed,
        comparison.hosts,
        comparison.boot_seconds
    );
    let _ = writeln!(text, "\n{:<36}{:>18}{:>24}", "", "ours", "cluster-autoscaler*");
    for (what, of) in ROWS {
        let (ours, model) = (of(&comparison.ours), of(&comparison.cluster_autoscaler_model));
        let _ = writeln!(text, "{what:<36}{ours:>18}{model:>24}");
    }
    let _ = writeln!(
        text,
        "\n* a model of it with its published defaults, over the same scheduling simulation. The load is synthetic, made\n  \
         from published figures{}",
        if sources { ":" } else { "; --sources names them." }
    );
    if sources {
        for figure in &comparison.sources {
            let _ = writeln!(text, "  - {}: {}", figure.what, figure.source);
        }
    }
    text
}

/// What is decided about a snapshot, and with what.
pub(super) fn of_snapshot(judged: &Judged) -> String {
    let mut text = format!("as of {}\n\nwith the snapshot's own specs and policies\n", judged.at);
    decided(&mut text, &judged.snapshot);
    if let Some(other) = &judged.policy {
        text.push_str("\nwith those of the file\n");
        decided(&mut text, other);
    }
    let _ = writeln!(
        text,
        "\nWhat was decided before is not known: what must last for a while begins with the snapshot. Queries and what nodes use\nare not in it."
    );
    text
}

fn decided(text: &mut String, decided: &Decided) {
    for said in &decided.groups {
        line(text, said, "");
        for (trigger, wish) in &said.triggers {
            let _ = writeln!(text, "      {trigger}: {wish}");
        }
        if !said.unneeded.is_empty() {
            let _ = writeln!(text, "      not needed: {}", said.unneeded.join(", "));
        }
    }
    for later in &decided.later {
        let minutes = format!("after {} min, were nothing else to change: ", later.after_seconds / 60);
        line(text, &later.decision, &minutes);
    }
    for (group, why) in &decided.unable {
        let _ = writeln!(text, "  {group}: nothing to scale: {why}");
    }
    for (node, why) in &decided.blocked {
        let _ = writeln!(text, "  node {node} is not used enough and stays: {why}");
    }
    for pod in &decided.stranded {
        let _ = writeln!(text, "  pod {pod} waits, and no group has a place for it");
    }
}

fn line(text: &mut String, said: &Said, when: &str) {
    let reason = said.reason.map_or(String::new(), |reason| format!("{reason}, "));
    let to = if said.from == said.to { String::new() } else { format!(" -> {}", said.to) };
    let _ = write!(text, "  {when}{} {}{to}: {reason}{}", said.group, said.from, said.message);
    let _ = match &said.limited {
        Some(limit) => writeln!(text, " (limited by {limit})"),
        None => writeln!(text),
    };
}

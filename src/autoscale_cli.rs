//! `ferric autoscale`: what the autoscaler would do, without doing it.

mod dump;
mod explain;
mod explain_text;
mod live;
mod policy;
mod prune;
mod snapshot;
#[cfg(test)]
mod snapshot_tests;
mod text;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use crate::autoscaling::replay::{Baseline, Figure, Order, Ours, Outcome, Shape, figures, replay};
use crate::bmc_cli::{Output, text_up_to};

/// Largest policy file, in bytes.
const POLICY: u64 = 1 << 20;
/// Largest snapshot, in bytes.
const SNAPSHOT: u64 = 2 << 30;

/// What to find out about the autoscaler.
#[derive(Debug, Subcommand)]
pub enum AutoscaleCommand {
    /// Replay a synthetic load with our autoscaler and with a model of cluster-autoscaler, or decide about a snapshot of a
    /// cluster. Changes nothing, asks no cluster
    Simulate(Box<SimulateArguments>),
    /// Explain one node group of a live cluster: what it is, what would be decided now and why, which nodes stay and which
    /// pods fit nowhere, and what the manager remembers. Changes nothing
    Explain(Box<explain::ExplainArguments>),
    /// Write what simulate --snapshot reads of a live cluster to the standard output. Secrets are not asked for; commands,
    /// environment and probes of containers, annotations that no decision looks at, and what follows the ? of an address
    /// are left out. Names, labels, requests and the addresses of BMCs are in it. Changes nothing
    Snapshot(dump::SnapshotArguments),
}

/// Loads that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoadName {
    /// Two services that follow the hours of the week
    Diurnal,
    /// Jobs of many pods at once
    Batch,
    /// Training jobs on GPUs, and tasks without
    Gpu,
}

/// Arguments of `ferric autoscale simulate`.
#[derive(Debug, Args)]
pub struct SimulateArguments {
    /// Load that is made, from published figures of public cluster traces
    #[arg(long, value_enum, required_unless_present = "snapshot", conflicts_with = "snapshot")]
    pub load: Option<LoadName>,

    /// File with API objects: what ferric autoscale snapshot writes, or JSON or YAML as kubectl get -o writes them, one list
    /// after the other: of the management cluster those of the Cluster's namespace, of the workload cluster its nodes, pods and what decides where pods go
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,

    /// Name of the Cluster, where the snapshot has autoscalers of several
    #[arg(long, value_name = "NAME", conflicts_with = "load")]
    pub cluster: Option<String>,

    /// Time of the snapshot, such as 2026-01-05T12:00:00Z [default: the newest that it names]
    #[arg(long, value_name = "TIME", conflicts_with = "load")]
    pub at: Option<Timestamp>,

    /// Seconds after the snapshot for which it is told what would be decided first, were nothing else to change
    #[arg(long, value_name = "SECONDS", default_value_t = 7200, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub ahead_seconds: u32,

    /// Days that are replayed; the first six hours do not count
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=28))]
    pub days: u32,

    /// The same seed, the same load and the same outcome
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Seconds that a host takes to be a node; each takes 70 to 130 per cent of it
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub boot_seconds: u32,

    /// Seconds between decisions of our autoscaler; cluster-autoscaler's are 10
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,

    /// File with NodeGroupAutoscaler and ClusterAutoscalingPolicy documents (YAML): other specs for groups, by name, and
    /// other policies [default for a load: all defaults, no policy]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Also name the source of every figure that the load is made from
    #[arg(long)]
    pub sources: bool,

    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// What came of a replay.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Comparison {
    load: String,
    days: u32,
    seed: u64,
    boot_seconds: u32,
    hosts: i32,
    counted_hours: f64,
    ours: Outcome,
    cluster_autoscaler_model: Outcome,
    sources: Vec<Figure>,
}

/// What is decided about a snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Judged {
    at: Timestamp,
    ahead_seconds: u32,
    /// With the specs and policies of the snapshot.
    snapshot: snapshot::Decided,
    /// With those of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<snapshot::Decided>,
}

/// Runs a command; prints to the standard output.
pub async fn run(command: &AutoscaleCommand) -> anyhow::Result<()> {
    let arguments = match command {
        AutoscaleCommand::Simulate(arguments) => arguments,
        AutoscaleCommand::Explain(arguments) => {
            let explained = explain::run(arguments).await?;
            return print(arguments.output, &explained, explain_text::of);
        }
        AutoscaleCommand::Snapshot(arguments) => return dump::run(arguments).await,
    };
    match (&arguments.snapshot, arguments.load) {
        (Some(file), _) => {
            let text = text_up_to(file, "--snapshot", SNAPSHOT)?;
            let judged = judge(arguments, &text).with_context(|| format!("--snapshot {}", file.display()))?;
            print(arguments.output, &judged, text::of_snapshot)
        }
        (None, Some(name)) => {
            let comparison = compare(arguments, name)?;
            print(arguments.output, &comparison, |comparison| text::of(comparison, arguments.sources))
        }
        // The command line asks for one of them.
        (None, None) => Ok(()),
    }
}

fn print<T: Serialize>(output: Output, result: &T, text: impl Fn(&T) -> String) -> anyhow::Result<()> {
    match output {
        Output::Text => print!("{}", text(result)),
        Output::Json => {
            println!(
                "{}",
                serde_json::to_string_pretty(result).context("the result cannot be written as JSON")?
            );
        }
    }
    Ok(())
}

fn documents(arguments: &SimulateArguments) -> anyhow::Result<Option<policy::Documents>> {
    let Some(file) = &arguments.policy else { return Ok(None) };
    let parsed = policy::parse(&text_up_to(file, "--policy", POLICY)?);
    parsed.with_context(|| format!("--policy {}", file.display())).map(Some)
}

fn judge(arguments: &SimulateArguments, text: &str) -> anyhow::Result<Judged> {
    let snapshot = snapshot::Snapshot::parse(text)?.of(arguments.cluster.as_deref())?;
    let at = arguments.at.or(snapshot.newest()).context("it names no time: give one with --at")?;
    let other = documents(arguments)?;
    let ahead = i64::from(arguments.ahead_seconds);
    Ok(Judged {
        at,
        ahead_seconds: arguments.ahead_seconds,
        snapshot: snapshot.decide(at, ahead, None)?,
        policy: match &other {
            Some(other) => Some(snapshot.decide(at, ahead, Some(other)).context("with --policy")?),
            None => None,
        },
    })
}

fn compare(arguments: &SimulateArguments, name: LoadName) -> anyhow::Result<Comparison> {
    let shape = match name {
        LoadName::Diurnal => Shape::Diurnal,
        LoadName::Batch => Shape::Batch,
        LoadName::Gpu => Shape::Gpu,
    };
    let &SimulateArguments { days, seed, boot_seconds, .. } = arguments;
    let mut load = Order { shape, days, seed, boot_seconds }.load();
    let policies = match documents(arguments)? {
        Some(documents) => documents.apply(&mut load).context("--policy")?,
        None => Vec::new(),
    };
    let ours = replay(&load, &mut Ours::new(policies, arguments.interval.into()), seed);
    let cluster_autoscaler_model = replay(&load, &mut Baseline::new(seed), seed);
    Ok(Comparison {
        load: format!("{shape:?}").to_lowercase(),
        days,
        seed,
        boot_seconds,
        hosts: load.racks.iter().map(|rack| rack.hosts).sum(),
        counted_hours: load.counted() as f64 / 3600.0,
        ours,
        cluster_autoscaler_model,
        sources: figures(shape),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: AutoscaleCommand,
    }

    pub(super) fn try_parse(arguments: &[&str]) -> Result<SimulateArguments, clap::Error> {
        match Cli::try_parse_from(["x", "simulate"].iter().chain(arguments))?.command {
            AutoscaleCommand::Simulate(arguments) => Ok(*arguments),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn parse(arguments: &[&str]) -> SimulateArguments {
        try_parse(arguments).unwrap()
    }

    #[test]
    fn it_is_a_load_or_a_snapshot() {
        assert!(try_parse(&[]).is_err());
        assert!(try_parse(&["--load", "gpu", "--snapshot", "file"]).is_err());
        assert!(try_parse(&["--load", "gpu", "--at", "2026-01-05T12:00:00Z"]).is_err());
        assert!(try_parse(&["--snapshot", "file", "--at", "2026-01-05T12:00:00Z"]).is_ok());
    }

    #[test]
    fn a_live_cluster_is_named() {
        let parse = |arguments: &[&str]| Cli::try_parse_from(["x"].iter().chain(arguments));
        assert!(parse(&["explain"]).is_err() && parse(&["snapshot"]).is_err());
        let AutoscaleCommand::Explain(explain) =
            parse(&["explain", "workers", "-n", "racks"]).unwrap().command
        else {
            panic!("another command");
        };
        assert_eq!((explain.group.as_str(), explain.reach.namespace.as_deref()), ("workers", Some("racks")));
        assert!(parse(&["snapshot", "prod", "--kubeconfig", "k", "--workload-kubeconfig", "w"]).is_ok());
    }

    #[test]
    fn a_load_is_compared_and_its_sources_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, policy::EXAMPLE).unwrap();
        let file = file.to_str().unwrap();
        let arguments = parse(&["--load", "gpu", "--days", "1", "--interval", "600", "--policy", file]);
        let comparison = compare(&arguments, LoadName::Gpu).unwrap();
        assert_eq!((comparison.hosts, comparison.counted_hours), (20, 18.0));
        assert!(comparison.ours.node_hours >= comparison.ours.least_node_hours);
        let text = text::of(&comparison, true);
        for said in ["node-hours", "power cycles", "a model of it", "synthetic", "USENIX ATC", "chosen"] {
            assert!(text.contains(said), "{said}: {text}");
        }
        let json = serde_json::to_value(&comparison).unwrap();
        assert!(json["clusterAutoscalerModel"]["pendingPodSeconds"].is_i64());
    }
}

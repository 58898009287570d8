//! The dump of a live cluster, for `simulate --snapshot`.

use std::io::Write;

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::live::{self, Reach};
use super::prune::prune;
use crate::key::Key;

/// Arguments of `ferric autoscale snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArguments {
    /// Name of the Cluster
    pub cluster: String,

    /// How the clusters are reached
    #[command(flatten)]
    pub reach: Reach,
}

/// Lists both clusters once, and prints what was listed.
pub(super) async fn run(arguments: &SnapshotArguments) -> anyhow::Result<()> {
    let (management, namespace) = arguments.reach.management().await?;
    let cluster = &arguments.cluster;
    let mut found: Vec<String> = Vec::new();
    // Nothing is written of what turns out to be the wrong namespace.
    let mut first: Vec<Vec<Value>> = Vec::new();
    management
        .list(&live::of_management(), |page| {
            found.extend(clusters(&page));
            first.push(page);
            Ok(())
        })
        .await?;
    if !found.contains(cluster) {
        bail!(
            "there is no Cluster {cluster} in namespace {namespace}: {}",
            match found.is_empty() {
                true => "choose another with -n".to_owned(),
                false => format!("there are {}", found.join(", ")),
            }
        );
    }
    let workload = arguments.reach.workload(&management, &Key::new(&namespace, cluster)).await?;
    let at = Timestamp::now();
    first.into_iter().try_for_each(|page| write(page, cluster, at))?;
    workload
        .list(&live::of_workload(), |page| write(page, cluster, at))
        .await
        .context("the dump is not whole")
}

fn clusters(page: &[Value]) -> impl Iterator<Item = String> {
    let clusters = page.iter().filter(|object| object["kind"] == "Cluster");
    clusters.filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned))
}

fn write(page: Vec<Value>, cluster: &str, at: Timestamp) -> anyhow::Result<()> {
    if let Some(list) = list(page, cluster, at) {
        // A reader that goes away is no reason to panic.
        let mut out = std::io::stdout().lock();
        writeln!(out, "{list}").context("the standard output cannot be written to")?;
    }
    Ok(())
}

/// A list of what is kept of objects, and when they were read; none where nothing is.
fn list(page: Vec<Value>, cluster: &str, at: Timestamp) -> Option<Value> {
    let of_cluster = |object: &Value| {
        let of = match object["kind"].as_str() {
            Some("Cluster") => &object["metadata"]["name"],
            Some("Machine") => &object["spec"]["clusterName"],
            // Groups of other clusters may be after the same hosts.
            _ => return true,
        };
        of == cluster
    };
    let kept = page.into_iter().filter(of_cluster);
    let items: Vec<Value> = kept
        .map(|mut object| {
            prune(&mut object);
            object
        })
        .collect();
    let metadata = json!({"creationTimestamp": at});
    (!items.is_empty())
        .then(|| json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_dump_says_when_it_was_made_and_is_of_one_cluster() {
        let object = |kind: &str, name: &str, of: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": {"clusterName": of}});
        let page = vec![
            object("Cluster", "prod", ""),
            object("Cluster", "test", ""),
            object("Machine", "a", "prod"),
            object("Machine", "b", "test"),
            object("NodeGroupAutoscaler", "c", "test"),
        ];
        assert_eq!(clusters(&page).collect::<Vec<_>>(), ["prod", "test"]);
        let at: Timestamp = "2026-01-05T12:00:00Z".parse().unwrap();
        let list = list(page, "prod", at).unwrap();
        let names: Vec<&str> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["prod", "a", "c"]);
        assert_eq!(list["metadata"]["creationTimestamp"], "2026-01-05T12:00:00Z");
        assert_eq!(super::list(Vec::new(), "prod", at), None);
    }
}

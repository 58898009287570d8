//! A bed of etcd and kube-apiserver: it comes up, it refuses strangers, it lives beside another, it leaves nothing.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use ferric_testbed::{Bed, Process, ProcessSpec, wait_until};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};

async fn namespaces(client: Client) -> Vec<String> {
    let api: Api<Namespace> = Api::all(client);
    api.list(&ListParams::default()).await.unwrap().into_iter().filter_map(|n| n.metadata.name).collect()
}

#[tokio::test]
async fn an_admin_is_served_and_a_stranger_is_refused() {
    let bed = Bed::builder().start().await.unwrap();
    assert!(namespaces(bed.client()).await.contains(&"kube-system".to_owned()));

    let mut config = ferric_testbed::kubeconfig::client_config(bed.kubeconfig()).await.unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let stranger: Api<Namespace> = Api::all(Client::try_from(config).unwrap());
    let kube::Error::Api(status) = stranger.list(&ListParams::default()).await.unwrap_err() else {
        panic!("the apiserver did not answer")
    };
    assert_eq!(status.code, 403);
    assert!(status.message.contains("system:anonymous"), "{}", status.message);
    bed.stop().await;
}

#[tokio::test]
async fn two_beds_live_side_by_side_and_leave_nothing() {
    let (left, right) =
        tokio::join!(Bed::builder().name("left").start(), Bed::builder().name("right").start());
    let (left, right) = (left.unwrap(), right.unwrap());
    let maps: Api<ConfigMap> = Api::namespaced(left.client(), "default");
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some("only-left".to_owned()), ..Default::default() },
        ..Default::default()
    };
    maps.create(&PostParams::default(), &map).await.unwrap();
    let other: Api<ConfigMap> = Api::namespaced(right.client(), "default");
    assert!(other.get_opt("only-left").await.unwrap().is_none());

    let pids: Vec<u32> = left.pids().into_iter().chain(right.pids()).collect();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| runs(*pid)));
    let folders = [left.dir().to_owned(), right.dir().to_owned()];
    left.stop().await;
    assert!(!namespaces(right.client()).await.is_empty(), "the second bed went with the first");
    // The second is dropped, not stopped: what a test that panics does.
    drop(right);
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    assert!(folders.iter().all(|folder| !folder.exists()));
}

/// State and parent of a process, or `None` when there is none of that id.
fn state_and_parent(pid: &str) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; the state and the parent follow.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children(owner: u32) -> Vec<u32> {
    let names = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok());
    names
        .filter(|name| state_and_parent(name).is_some_and(|(_, parent)| parent == owner))
        .filter_map(|name| name.parse().ok())
        .collect()
}

/// Whether it runs; one that only nobody has taken leave of yet does not.
fn runs(pid: u32) -> bool {
    state_and_parent(&pid.to_string()).is_some_and(|(state, _)| !"ZX".contains(state))
}

#[tokio::test]
async fn a_bed_whose_owner_is_killed_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let spec = ProcessSpec::new("ferric-testbed", env!("CARGO_BIN_EXE_ferric-testbed"), &log)
        .env("TMPDIR", folder.path())
        .args(["up", "--bare"]);
    let mut owner = Process::spawn(spec).unwrap();
    owner
        .wait_ready("the bed", Duration::from_secs(120), async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("export KUBECONFIG=") { Ok(()) } else { Err(text) }
        })
        .await
        .unwrap();
    let pids = children(owner.pid());
    assert_eq!(pids.len(), 3, "{pids:?}");
    owner.signal(rustix::process::Signal::KILL);
    owner.wait(Duration::from_secs(30)).await.unwrap();
    wait_until("the end of the bed", Duration::from_secs(30), async || {
        let left: Vec<_> = pids.iter().filter(|pid| runs(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("still there: {left:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_killed_apiserver_comes_back_at_the_same_place_with_its_data() {
    let mut bed = Bed::builder().audit_log(true).start().await.unwrap();
    bed.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: kept, namespace: default}}").await.unwrap();
    let url = bed.control_plane().url().to_owned();
    let before = bed.pids();
    bed.control_plane_mut().restart_apiserver().await.unwrap();
    assert_eq!(bed.control_plane().url(), url);
    assert_ne!(bed.pids(), before);
    let maps: Api<ConfigMap> = Api::namespaced(bed.client(), "default");
    assert!(maps.get_opt("kept").await.unwrap().is_some());
    let audit = std::fs::read_to_string(bed.audit_log().unwrap()).unwrap();
    assert!(audit.lines().any(|line| line.contains(r#""resource":"configmaps""#) && line.contains("kept")));
    bed.stop().await;
}

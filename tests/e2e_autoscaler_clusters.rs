//! Two clusters over the same hosts: each has its own engine, and one that is out of reach stops no other. Under the real
//! Cluster API, with real API servers and the real kube-scheduler, on the simulated fleet.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/groups.rs"]
mod groups;
#[path = "e2e/load.rs"]
mod load;
#[path = "e2e/watched.rs"]
mod watched;

use ferric_testbed::Workload;
use ferric_testbed::stack::Created;
use groups::{CLUSTER, DEPLOYMENT, autoscaler, core, replicas, rounds, says, wait_for_group};
use kube::api::DynamicObject;
use load::{offered_cpus, wait_for_running};
use serde_json::json;
use watched::Watched;

/// The other cluster.
const OTHER: &str = "other";
const OTHER_DEPLOYMENT: &str = "other-workers";
/// The ReplicaSet in both.
const WEB: &str = "web";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a story of minutes: make test-autoscaler"]
async fn a_cluster_out_of_reach_stops_no_other() {
    let stack = groups::stack(4, 1, |builder| builder).await;
    let created = groups::cluster(&stack, true).await;
    let mut other = groups::cluster_of(&stack, OTHER, true).await;
    let number = |object: &DynamicObject| object.data["spec"]["replicas"].as_i64();
    let watched = Watched::begin(core(&stack, "MachineDeployment"), number).await;
    for (cluster, deployment) in [(CLUSTER, DEPLOYMENT), (OTHER, OTHER_DEPLOYMENT)] {
        let change = json!({"spec": {
            "clusterName": cluster, "maxReplicas": 4, "triggers": [{"name": "pods", "type": "UnschedulablePods"}],
            "scaleDown": {"unneededSeconds": 2, "minNodeLifetimeSeconds": 0},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
        }});
        stack.bed.apply(&autoscaler(cluster, deployment, change).to_string()).await.unwrap();
    }
    for (created, deployment) in [(&created, DEPLOYMENT), (&other, OTHER_DEPLOYMENT)] {
        let cpus = 3 * offered_cpus(&stack, deployment).await / 5;
        load::create(workload(created), WEB, 1, json!({"cpu": cpus.to_string()}), json!({})).await;
    }
    for created in [&created, &other] {
        wait_for_running(&stack, workload(created), WEB, (1, 1)).await;
    }
    assert_eq!((replicas(&stack, DEPLOYMENT).await, replicas(&stack, OTHER_DEPLOYMENT).await), (1, 1));

    // From now on nobody can see what is there.
    let since = watched.now();
    other.workload.as_mut().unwrap().stop();
    wait_for_group(&stack, OTHER, "to say that its cluster cannot be judged", |group| {
        says(group, "ScalingActive").is_some_and(|condition| {
            condition.status == "False" && condition.message.contains("the cluster cannot be judged")
        })
    })
    .await;

    load::scale(workload(&created), WEB, 2).await;
    wait_for_running(&stack, workload(&created), WEB, (2, 2)).await;
    load::scale(workload(&created), WEB, 0).await;
    wait_for_group(&stack, CLUSTER, "to have none", |group| {
        group.status.as_ref().is_some_and(|status| status.current_replicas == Some(0))
    })
    .await;
    rounds(&stack, 3).await;
    assert_eq!(watched.of(OTHER_DEPLOYMENT, since), [1], "what is not seen is not changed");
    let [first, .., last] = *watched.of(DEPLOYMENT, since) else { panic!("it was not scaled") };
    assert_eq!((first, last), (1, 0));
    assert_eq!(watched.of(DEPLOYMENT, since).iter().max(), Some(&2));
    drop((watched, created, other));
    stack.stop().await;
}

fn workload(created: &Created) -> &Workload {
    created.workload.as_ref().unwrap()
}

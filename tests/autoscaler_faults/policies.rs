//! Two policies over three racks of two servers each: at most three nodes in all, and processors for one in the first rack.

use ferric_api::autoscaling::ClusterAutoscalingPolicy;
use ferric_testbed::wait_until;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::e2e::{LIMIT, NAMESPACE};
use crate::groups::{CLUSTER, patch_group, rounds, told, wait_for_group};
use crate::load::{self, offered_cpus, wait_for_refused, wait_for_running};
use crate::racks::{RACKS, one_on_each};
use crate::{ROUNDS, Scene};

const PROCESSORS: &str = "a-processors";
const NODES: &str = "b-nodes";
const LOAD: &str = "too-many";

pub async fn run(scene: &Scene) {
    let each = offered_cpus(&scene.stack, RACKS[0]).await;
    let first = json!({"matchLabels": {"test.example/rack": RACKS[0]}});
    policy(scene, PROCESSORS, "rack", first, json!({"cpu": (each * 3 / 2).to_string()})).await;
    let plain = json!({"matchLabels": {"test.example/kind": "plain"}});
    policy(scene, NODES, "plain", plain, json!({"nodes": "3"})).await;
    for name in [PROCESSORS, NODES] {
        wait_for_policy(scene, name, "to be in force", |_| Ok(())).await;
    }
    let since = scene.replicas.now();
    patch_group(&scene.stack, RACKS[0], json!({"spec": {"minReplicas": 1}})).await;
    load::create(scene.workload(), LOAD, 6, one_on_each(scene).await, json!({})).await;
    wait_for_running(&scene.stack, scene.workload(), LOAD, (3, 3)).await;
    wait_for_refused(scene.workload(), LOAD, 3).await;
    it_is_said(scene).await;
    rounds(&scene.stack, ROUNDS).await;

    for state in scene.replicas.states(since) {
        let numbers = RACKS.map(|rack| state.get(rack).copied().unwrap_or(0));
        assert!(numbers[0] <= 1 && numbers.iter().sum::<i64>() <= 3, "{numbers:?}");
    }
    assert_eq!(scene.numbers(RACKS[0], since), [0, 1]);
}

async fn policy(scene: &Scene, name: &str, limit: &str, selector: Value, resources: Value) {
    let policy = json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "ClusterAutoscalingPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "clusterName": CLUSTER, "limits": [{"name": limit, "selector": selector, "resources": resources}],
        },
    });
    scene.stack.bed.apply(&policy.to_string()).await.unwrap();
}

/// In the conditions of the groups and in the status of both policies.
async fn it_is_said(scene: &Scene) {
    let stack = &scene.stack;
    let said = format!("limit {PROCESSORS}/rack (cpu)");
    wait_for_group(stack, RACKS[0], &said, |group| told(group, "ScalingLimited").as_deref() == Some(&said))
        .await;
    // Where its hosts are used up as well, that is told.
    let said = format!("limit {NODES}/plain (nodes)");
    let limits = async || {
        let mut limits = Vec::new();
        for rack in &RACKS[1..] {
            let group = crate::groups(stack).get(rack).await.map_err(|error| error.to_string())?;
            limits.push(told(&group, "ScalingLimited"));
        }
        if limits.contains(&Some(said.clone())) { Ok(()) } else { Err(format!("{limits:?}")) }
    };
    wait_until(&said, LIMIT, limits).await.unwrap_or_else(|error| panic!("{error}"));
    let path = "jsonpath={.status.capacity.cpu}";
    let cpu = stack.bed.kubectl(["get", "baremetalmachinetemplate", RACKS[0], "-o", path]).await.unwrap();
    let cpu = cpu.strip_suffix('m').unwrap().parse::<f64>().unwrap() / 1000.0;
    for (name, limit, resource, used) in
        [(PROCESSORS, "rack", "cpu", cpu.to_string()), (NODES, "plain", "nodes", "3".to_owned())]
    {
        wait_for_policy(scene, name, "to say what is used", |policy| {
            let status = policy.status.clone().unwrap_or_default();
            let found = status.limits.iter().find(|found| found.name == limit);
            let found = found.and_then(|found| found.used.get(resource)).cloned();
            if found.as_deref() == Some(used.as_str()) {
                Ok(())
            } else {
                Err(format!("{found:?}, not {used}"))
            }
        })
        .await;
    }
}

async fn wait_for_policy(
    scene: &Scene,
    name: &str,
    what: &str,
    wanted: impl Fn(&ClusterAutoscalingPolicy) -> Result<(), String>,
) {
    let api: Api<ClusterAutoscalingPolicy> = Api::namespaced(scene.stack.bed.client(), NAMESPACE);
    wait_until(&format!("policy {name}: {what}"), LIMIT, async || {
        let policy = api.get(name).await.map_err(|error| error.to_string())?;
        if policy.status.is_none() {
            return Err(format!("{} was not looked at", policy.name_any()));
        }
        wanted(&policy)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

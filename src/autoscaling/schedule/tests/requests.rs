use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::{Value, json};

use super::super::requests::of_pod;
use super::super::symbols::Symbols;
use super::pod;

fn container(cpu: &str, memory: &str) -> Value {
    json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
}

fn sidecar(cpu: &str, memory: &str) -> Value {
    let mut one = container(cpu, memory);
    one["restartPolicy"] = "Always".into();
    one
}

fn asked(spec: Value, status: Value) -> BTreeMap<String, i64> {
    let pod = pod("p", json!({"spec": spec, "status": status}));
    let mut symbols = Symbols::default();
    let amounts = of_pod(&pod, &mut symbols).unwrap();
    amounts.iter().map(|&(resource, amount)| (symbols.name(resource).to_owned(), amount)).collect()
}

/// The examples of the Kubernetes documentation on init containers and sidecars among them.
#[rstest]
#[case::containers_together(json!({"containers": [container("500m", "1Gi"), container("250m", "1Gi")]}), (750, 2048))]
#[case::fractions_before_rounding(json!({"containers": [container("500u", "1Mi"), container("500u", "1Mi")]}), (1, 2))]
#[case::the_largest_init_container(
    json!({"initContainers": [container("2", "1Gi"), container("2", "3Gi")],
           "containers": [container("2", "1Gi"), container("1", "1Gi")]}), (3000, 3072))]
#[case::a_sidecar_runs_beside_all(
    json!({"initContainers": [sidecar("1", "1Gi")], "containers": [container("1", "1Gi")]}), (2000, 2048))]
#[case::init_containers_run_beside_earlier_sidecars(
    json!({"initContainers": [sidecar("1", "1Gi"), container("3", "1Gi"), sidecar("1", "1Gi")],
           "containers": [container("500m", "1Gi")]}), (4000, 3072))]
#[case::init_containers_before_a_sidecar_run_alone(
    json!({"initContainers": [container("3", "1Gi"), sidecar("1", "1Gi")],
           "containers": [container("1", "1Gi")]}), (3000, 2048))]
#[case::what_the_pod_states_replaces_the_sum(
    json!({"resources": {"requests": {"cpu": "5", "nvidia.com/gpu": "9"}}, "containers": [container("1", "1Gi")]}),
    (5000, 1024))]
#[case::overhead_comes_on_top(
    json!({"overhead": {"cpu": "250m", "memory": "120Mi"}, "containers": [container("1", "1Gi")]}), (1250, 1144))]
#[case::a_limit_alone_is_a_request(
    json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}]}), (2000, 1024))]
fn cpu_and_memory(#[case] spec: Value, #[case] (cpu, mebibytes): (i64, i64)) {
    let asked = asked(spec, json!({}));
    assert_eq!((asked["cpu"], asked["memory"] / (1 << 20)), (cpu, mebibytes));
    assert_eq!(asked.get("nvidia.com/gpu"), None);
}

#[rstest]
#[case("nvidia.com/gpu", true)]
#[case("hugepages-2Mi", true)]
#[case("ephemeral-storage", true)]
#[case("attachable-volumes-csi", true)]
#[case("example.kubernetes.io/thing", true)]
#[case("pods", false)]
#[case("storage", false)]
#[case("requests.nvidia.com/gpu", false)]
fn resources_that_count(#[case] name: &str, #[case] counts: bool) {
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": {name: "2"}}}]});
    assert_eq!(asked(spec, json!({})).get(name).copied(), counts.then_some(2));
}

#[rstest]
#[case::as_asked(json!({}), 1000)]
#[case::not_shrunk_yet(json!({"resources": {"requests": {"cpu": "3"}}}), 3000)]
#[case::allocated(json!({"resources": {"requests": {"cpu": "500m"}}, "allocatedResources": {"cpu": "2"}}), 2000)]
#[case::about_to_grow(json!({"resources": {"requests": {"cpu": "500m"}}}), 1000)]
fn a_pod_that_is_resized_counts_with_the_most(#[case] container: Value, #[case] cpu: i64) {
    let mut status = json!({"name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0});
    super::merge(&mut status, container);
    let asked = asked(json!({}), json!({"containerStatuses": [status]}));
    assert_eq!(asked["cpu"], cpu);
}

#[test]
fn a_resize_that_cannot_be_does_not_count() {
    let status = json!({
        "conditions": [{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}],
        "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "resources": {"requests": {"cpu": "250m"}}}],
    });
    assert_eq!(asked(json!({}), status)["cpu"], 250);
}

#[test]
fn what_is_no_quantity_is_an_error() {
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "many"}}}]});
    let pod = pod("p", json!({"spec": spec}));
    assert!(of_pod(&pod, &mut Symbols::default()).is_err());
}

//! The release as the real clusterctl and the real API server see it: it installs, its template makes objects that
//! Cluster API accepts, and the manager may do what it needs and no more.
#![allow(clippy::unwrap_used)]

use ferric_testbed::{Bed, stack};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;

const MANAGER: &str = "system:serviceaccount:ferric-system:ferric-manager";
const OURS: &str = "infrastructure.cluster.x-k8s.io";
const CORE: &str = "cluster.x-k8s.io";

/// Everything in one: a management plane takes half a minute to come up.
#[tokio::test]
async fn the_release_installs_and_its_template_is_accepted() {
    let release = stack::release::folder().await.unwrap();
    let bed = Bed::builder().cluster_api(Some(release)).start().await.unwrap();
    installed(&bed).await;
    template(&bed).await;
    rights(&bed).await;
    bed.stop().await;
}

async fn installed(bed: &Bed) {
    let all = ["get", "crd,deploy,svc,sa,clusterrole,role,validatingadmissionpolicy", "-A"];
    let ours = ["-l", "cluster.x-k8s.io/provider=infrastructure-ferric", "-o", "name"];
    let found = bed.kubectl(all.iter().chain(&ours)).await.unwrap();
    for name in [
        "customresourcedefinition.apiextensions.k8s.io/baremetalhosts.infrastructure.cluster.x-k8s.io",
        "customresourcedefinition.apiextensions.k8s.io/baremetalmachines.infrastructure.cluster.x-k8s.io",
        "deployment.apps/ferric-manager",
        "service/ferric-manager",
        "serviceaccount/ferric-manager",
        "clusterrole.rbac.authorization.k8s.io/ferric-system-manager",
        "role.rbac.authorization.k8s.io/ferric-manager",
        "validatingadmissionpolicy.admissionregistration.k8s.io/ferric-host-record",
    ] {
        assert!(found.lines().any(|line| line == name), "{name} is not among\n{found}");
    }
    // Variables are filled in, and what belongs to Kubernetes is left to it.
    let path = "jsonpath={.spec.template.spec.containers[?(@.name=='manager')].args}";
    let args =
        bed.kubectl(["get", "deploy", "-n", "ferric-system", "ferric-manager", "-o", path]).await.unwrap();
    assert!(args.contains("--boot-url=http://$(HOST_IP):6180"), "{args}");
    assert!(!args.contains("${"), "{args}");
}

async fn template(bed: &Bed) {
    let args = ["generate", "cluster", "prod", "--infrastructure", "ferric", "--target-namespace", "default"];
    let counts = [
        "--kubernetes-version",
        "v1.36.3",
        "--control-plane-machine-count",
        "3",
        "--worker-machine-count",
        "2",
    ];
    let variables = [
        ("CONTROL_PLANE_ENDPOINT_HOST", "10.0.0.9"),
        ("IMAGE_URL", "http://images.example.com/node.raw"),
        // All digits: must not become a number.
        ("IMAGE_CHECKSUM", "1111111111111111111111111111111111111111111111111111111111111111"),
        ("WORKER_HOST_SELECTOR", "matchLabels: {role: worker}"),
    ];
    let manifests = bed.clusterctl(args.iter().chain(&counts), &variables).await.unwrap();
    // Strict: a field that the API does not know is an error, not a warning.
    let file = bed.dir().join("prod.yaml");
    std::fs::write(&file, manifests).unwrap();
    let file = file.to_str().unwrap();
    let applied = bed.kubectl(["apply", "--validate=strict", "-f", file]).await.unwrap();
    assert_eq!(applied.lines().filter(|line| line.ends_with(" created")).count(), 7, "{applied}");

    let get = async |what: &str, path: &str| {
        bed.kubectl(["get", what, "-o", &format!("jsonpath={{{path}}}")]).await.unwrap()
    };
    let machine = "baremetalmachinetemplates/prod-workers";
    assert_eq!(get(machine, ".spec.template.spec.hostSelector.matchLabels.role").await, "worker");
    assert_eq!(get(machine, ".spec.template.spec.image.format").await, "raw");
    let args = ".spec.kubeadmConfigSpec.joinConfiguration.nodeRegistration.kubeletExtraArgs[0].value";
    assert_eq!(get("kubeadmcontrolplane/prod-control-plane", args).await, "{{ ds.meta_data.provider_id }}");
    assert_eq!(get("cluster/prod", ".spec.infrastructureRef.kind").await, "BareMetalCluster");
}

async fn rights(bed: &Bed) {
    let allowed = [
        ("watch", OURS, "baremetalhosts", "", "racks", ""),
        ("patch", OURS, "baremetalhosts", "", "racks", "h"),
        ("patch", OURS, "baremetalhosts", "status", "racks", "h"),
        ("patch", OURS, "baremetalmachines", "status", "racks", "m"),
        ("patch", OURS, "baremetalclusters", "status", "racks", "c"),
        ("create", OURS, "hardwaredata", "", "racks", ""),
        ("watch", CORE, "clusters", "", "racks", ""),
        ("watch", CORE, "machines", "", "racks", ""),
        ("get", "", "secrets", "", "racks", "bmc"),
        ("patch", "", "secrets", "", "racks", "bmc"),
        ("create", "events.k8s.io", "events", "", "racks", ""),
        // Servers that are discovered become hosts that wait for approval.
        ("create", OURS, "baremetalhosts", "", "racks", ""),
        ("watch", OURS, "hardwaredata", "", "racks", ""),
        ("patch", OURS, "baremetalmachinetemplates", "status", "racks", "t"),
        // The autoscaler.
        ("watch", OURS, "nodegroupautoscalers", "", "racks", ""),
        ("patch", OURS, "nodegroupautoscalers", "status", "racks", "g"),
        ("patch", OURS, "clusterautoscalingpolicies", "status", "racks", "p"),
        ("patch", CORE, "machinedeployments", "scale", "racks", "d"),
        ("patch", CORE, "machines", "", "racks", "m"),
        ("patch", "", "configmaps", "", "ferric-system", "ferric-bmc-quirks"),
        ("update", "coordination.k8s.io", "leases", "", "ferric-system", "ferric-manager"),
        ("update", "", "secrets", "", "ferric-system", "ferric-agent-keys"),
    ];
    let refused = [
        ("list", "", "secrets", "", "racks", ""),
        ("watch", "", "secrets", "", "ferric-system", ""),
        ("create", "", "secrets", "", "racks", ""),
        ("update", "", "secrets", "", "racks", "bmc"),
        ("update", "", "secrets", "", "ferric-system", "another"),
        ("delete", OURS, "baremetalhosts", "", "racks", "h"),
        ("delete", OURS, "hardwaredata", "", "racks", "h"),
        ("patch", OURS, "baremetalmachinetemplates", "", "racks", "t"),
        ("patch", "", "configmaps", "", "ferric-system", "another"),
        ("patch", CORE, "machines", "status", "racks", "m"),
        ("update", CORE, "machinedeployments", "", "racks", "d"),
        ("delete", CORE, "machines", "", "racks", "m"),
        ("patch", OURS, "nodegroupautoscalers", "", "racks", "g"),
        ("update", "coordination.k8s.io", "leases", "", "ferric-system", "another"),
        ("create", "coordination.k8s.io", "leases", "", "racks", ""),
        (
            "patch",
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            "",
            "",
            "ferric-system-manager-identity",
        ),
    ];
    for (expected, requests) in [(true, &allowed[..]), (false, &refused[..])] {
        for request in requests {
            assert_eq!(may(bed, *request).await, expected, "{request:?}");
        }
    }
}

async fn may(bed: &Bed, request: (&str, &str, &str, &str, &str, &str)) -> bool {
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let (verb, group, resource, subresource, namespace, name) = request;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(MANAGER.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                verb: text(verb),
                group: text(group),
                resource: text(resource),
                subresource: text(subresource),
                namespace: text(namespace),
                name: text(name),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(bed.client());
    api.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
}

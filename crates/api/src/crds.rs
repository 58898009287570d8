//! The CustomResourceDefinitions as they are installed: what the types say, with the labels that Cluster API and
//! clusterctl look for.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{
    BareMetalCluster, BareMetalClusterTemplate, BareMetalHost, BareMetalMachine, BareMetalMachineTemplate,
    ClusterAutoscalingPolicy, HardwareData, NodeGroupAutoscaler, VERSION,
};

/// Label of everything that a provider brings.
const PROVIDER: (&str, &str) = ("cluster.x-k8s.io/provider", "infrastructure-ferric");
/// Label by which Cluster API finds the version that speaks its contract.
const CONTRACT: (&str, &str) = ("cluster.x-k8s.io/v1beta2", VERSION);
/// Label by which `clusterctl move` finds the kinds to look at.
const CLUSTERCTL: (&str, &str) = ("clusterctl.cluster.x-k8s.io", "");
/// Label by which `clusterctl move` takes objects that no Cluster owns, with all that they own.
const MOVE_HIERARCHY: (&str, &str) = ("clusterctl.cluster.x-k8s.io/move-hierarchy", "");

/// Label by which `clusterctl move` takes objects whose owner it does not know.
const MOVE: (&str, &str) = ("clusterctl.cluster.x-k8s.io/move", "");

/// Every CustomResourceDefinition of Ferric, ready to be applied, in the order of their names.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let contract = [PROVIDER, CLUSTERCTL, CONTRACT];
    vec![
        finish(BareMetalCluster::crd(), &contract),
        finish(BareMetalClusterTemplate::crd(), &contract),
        // No Cluster owns a host: it moves of its own accord, and takes its HardwareData along.
        finish(BareMetalHost::crd(), &[PROVIDER, CLUSTERCTL, MOVE_HIERARCHY]),
        finish(BareMetalMachine::crd(), &contract),
        finish(BareMetalMachineTemplate::crd(), &contract),
        finish(ClusterAutoscalingPolicy::crd(), &[PROVIDER, CLUSTERCTL, MOVE]),
        finish(HardwareData::crd(), &[PROVIDER, CLUSTERCTL]),
        finish(NodeGroupAutoscaler::crd(), &[PROVIDER, CLUSTERCTL, MOVE]),
    ]
}

fn finish(mut crd: CustomResourceDefinition, labels: &[(&str, &str)]) -> CustomResourceDefinition {
    crd.metadata.labels = Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            root.title = None;
            each(root, &never_null);
            if let Some(status) = root.properties.as_mut().and_then(|fields| fields.get_mut("status")) {
                each(status, &never_refused);
            }
        }
    }
    crd
}

/// An absent field has one spelling: absent. `null` beside it would be a second one, and CEL's `has()` is true of it.
fn never_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.enum_.iter_mut().for_each(|values| values.retain(|value| !value.0.is_null()));
}

/// Rules are for what people write. A status that repeats part of a spec is a report, and a report that is refused
/// leaves the object silent.
fn never_refused(schema: &mut JSONSchemaProps) {
    schema.x_kubernetes_validations = None;
    schema.max_length = None;
}

/// Does `change` to `schema` and to every schema inside.
fn each(schema: &mut JSONSchemaProps, change: &impl Fn(&mut JSONSchemaProps)) {
    change(schema);
    for property in schema.properties.iter_mut().flat_map(BTreeMap::values_mut) {
        each(property, change);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => each(items, change),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(|item| each(item, change)),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        each(values, change);
    }
}

//! The files in `crds/` are what the types say, with what Cluster API and clusterctl look for.

use std::collections::BTreeMap;
use std::path::Path;

use super::render;

#[test]
fn crds_folder_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    let expected: BTreeMap<String, String> = ferric_api::crds()
        .iter()
        .map(|crd| (render::file_name(crd), render::file_content(crd).unwrap()))
        .collect();
    let found: BTreeMap<String, String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    let stale: Vec<&String> =
        expected.keys().chain(found.keys()).filter(|name| expected.get(*name) != found.get(*name)).collect();
    assert!(stale.is_empty(), "crds/ is stale ({stale:?}): run `make generate` and commit the result");
}

/// Whether a line says something else to a reader of YAML 1.1, such as kubectl.
#[test]
fn no_value_of_an_enum_is_a_boolean_to_kubectl() {
    for crd in ferric_api::crds() {
        for line in render::file_content(&crd).unwrap().lines() {
            let word = line.trim_start().trim_start_matches("- ").to_ascii_lowercase();
            let is_item = line.trim_start().starts_with("- ");
            let words = ["y", "yes", "on", "n", "no", "off", "~"];
            assert!(!is_item || !words.contains(&word.as_str()), "{}: {line:?}", render::file_name(&crd));
        }
    }
}

fn label(crd_kind: &str, key: &str) -> Option<String> {
    let crds = ferric_api::crds();
    let crd = crds.iter().find(|crd| crd.spec.names.kind == crd_kind).unwrap();
    crd.metadata.labels.as_ref().unwrap().get(key).cloned()
}

#[test]
fn contract_kinds_name_the_contract_and_others_do_not() {
    let found: Vec<String> = ferric_api::crds()
        .iter()
        .map(|crd| crd.spec.names.kind.clone())
        .filter(|kind| label(kind, "cluster.x-k8s.io/v1beta2").as_deref() == Some("v1alpha1"))
        .collect();
    let contract =
        ["BareMetalCluster", "BareMetalClusterTemplate", "BareMetalMachine", "BareMetalMachineTemplate"];
    assert_eq!(found, contract);
}

#[test]
fn every_kind_belongs_to_the_provider_and_moves() {
    for crd in ferric_api::crds() {
        let kind = &crd.spec.names.kind;
        assert_eq!(
            label(kind, "cluster.x-k8s.io/provider").as_deref(),
            Some("infrastructure-ferric"),
            "{kind}"
        );
        assert_eq!(label(kind, "clusterctl.cluster.x-k8s.io").as_deref(), Some(""), "{kind}");
        let with_hierarchy = label(kind, "clusterctl.cluster.x-k8s.io/move-hierarchy").is_some();
        assert_eq!(with_hierarchy, kind == "BareMetalHost", "{kind}");
        assert_eq!(crd.spec.scope, "Namespaced", "{kind}");
        assert!(crd.spec.names.categories.unwrap_or_default().contains(&"cluster-api".to_owned()));
    }
}

#[test]
fn kinds_with_a_status_have_the_subresource() {
    for crd in ferric_api::crds() {
        let version = &crd.spec.versions[0];
        let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        let has_status = schema.properties.as_ref().unwrap().contains_key("status");
        let has_subresource = version.subresources.as_ref().is_some_and(|s| s.status.is_some());
        assert_eq!(has_status, has_subresource, "{}", crd.spec.names.kind);
    }
}

#[test]
fn nothing_is_nullable_and_every_field_is_described() {
    fn walk(path: &str, value: &serde_json::Value) {
        let Some(schema) = value.as_object() else { return };
        assert!(!schema.contains_key("nullable"), "{path} is nullable");
        if let Some(values) = schema.get("enum").and_then(|e| e.as_array()) {
            assert!(
                values.iter().all(|v| v.is_string()),
                "{path} has an enum of something else than strings"
            );
        }
        for (name, property) in schema.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
            let path = format!("{path}.{name}");
            let known = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
            assert!(known || property.get("description").is_some(), "{path} has no description");
            walk(&path, property);
        }
        for inner in ["items", "additionalProperties"] {
            schema.get(inner).into_iter().for_each(|s| walk(&format!("{path}[]"), s));
        }
    }
    for crd in ferric_api::crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        walk(&crd.spec.names.kind, &schema["openAPIV3Schema"]);
    }
}

#[test]
fn conditions_are_a_list_map_by_type() {
    let mut seen = 0;
    for crd in ferric_api::crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let conditions = &schema["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"];
        if conditions.is_object() {
            assert_eq!(conditions["x-kubernetes-list-type"], "map", "{}", crd.spec.names.kind);
            assert_eq!(conditions["x-kubernetes-list-map-keys"], serde_json::json!(["type"]));
            seen += 1;
        }
    }
    assert_eq!(seen, 5);
}

#[test]
fn no_reference_to_a_secret_has_a_namespace() {
    let crds = ferric_api::crds();
    let secrets = |kind: &str, fields: &[&str]| {
        let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let spec = schema["openAPIV3Schema"]["properties"]["spec"]["properties"].clone();
        for field in fields {
            let names: Vec<&String> = spec[*field]["properties"].as_object().unwrap().keys().collect();
            assert_eq!(names, ["name"], "{kind}.spec.{field}");
        }
    };
    secrets("BareMetalHost", &["userData", "networkData", "metaData"]);
    secrets("BareMetalMachine", &["networkData", "metaData"]);
}

#[test]
fn a_status_is_never_refused_by_a_rule() {
    for crd in ferric_api::crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let fields = &schema["openAPIV3Schema"]["properties"];
        let rules = |field: &str| fields[field].to_string().contains("x-kubernetes-validations");
        assert!(!rules("status"), "{}", crd.spec.names.kind);
        assert_eq!(rules("spec"), crd.spec.names.kind != "HardwareData", "{}", crd.spec.names.kind);
    }
}

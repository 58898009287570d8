//! How a CustomResourceDefinition becomes a file. Shared by the generator and the test that the files are current.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// First line of every file.
const HEADER: &str = "# Generated from crates/api by `make generate`. Do not edit.\n";

/// Name of the file that holds `crd`.
pub(crate) fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.metadata.name.as_deref().unwrap_or("unnamed"))
}

/// Content of the file that holds `crd`.
pub(crate) fn file_content(crd: &CustomResourceDefinition) -> Result<String, serde_yaml_ng::Error> {
    Ok(format!("{HEADER}{}", serde_yaml_ng::to_string(crd)?))
}

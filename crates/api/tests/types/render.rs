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
    let text = serde_yaml_ng::to_string(crd)?;
    let lines = text.lines().map(|line| format!("{}\n", quoted(line)));
    Ok(format!("{HEADER}{}", lines.collect::<String>()))
}

/// Words that YAML 1.1, which kubectl and clusterctl read, takes for a boolean, and YAML 1.2, which is written here, does not
/// (<https://yaml.org/type/bool.html>). In lower case.
const BOOLEANS: [&str; 6] = ["y", "yes", "on", "n", "no", "off"];

/// A line whose list item is such a word, with quotes.
fn quoted(line: &str) -> String {
    match line.split_once("- ") {
        Some((indent, word))
            if indent.trim().is_empty() && BOOLEANS.contains(&word.to_ascii_lowercase().as_str()) =>
        {
            format!("{indent}- \"{word}\"")
        }
        _ => line.to_owned(),
    }
}

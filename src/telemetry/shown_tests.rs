//! What dashboards and alerts ask for is what the manager exposes: names, labels, and the values that are spelled out.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ferric_api::autoscaling::NodeGroupAutoscalerStatus;
use ferric_api::host::ProvisioningState;
use serde_json::Value;

use super::Metrics;
use super::metrics::KindLabel;
use crate::host::report::state_reason;

const FILES: [(&str, &str); 2] = [
    ("docs/grafana/autoscaling.json", include_str!("../../docs/grafana/autoscaling.json")),
    ("docs/alerts/ferric.yaml", include_str!("../../docs/alerts/ferric.yaml")),
];

/// Values by label by metric.
type Exposed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// One look at a metric: its name, and the labels and values that it selects by.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    name: String,
    by: Vec<(String, Vec<String>)>,
}

/// A page on which everything happened that dashboards and alerts are about: a metric without a value is not on it.
fn exposed() -> Exposed {
    let metrics = Metrics::new();
    for result in ["done", "wait"] {
        metrics.reconciled("autoscaler", result, Duration::from_millis(3));
    }
    metrics.host_state(None, Some(state_reason(ProvisioningState::Available)));
    metrics.claim("claimed");
    metrics.decided("ScaleUp");
    // The word for what was not carried out: see the controller.
    metrics.error("Autoscaling");
    let kind = || KindLabel { kind: "Machine".to_owned() };
    metrics.watch_failures.get_or_create(&kind()).inc();
    metrics.unparsable_objects.get_or_create(&kind()).inc();
    let status = NodeGroupAutoscalerStatus {
        current_replicas: Some(1),
        desired_replicas: Some(1),
        effective_min_replicas: Some(1),
        effective_max_replicas: Some(1),
        in_flight: Some(1),
        usable_hosts: Some(1),
        ..NodeGroupAutoscalerStatus::default()
    };
    metrics.node_group("default", "workers", &status);
    let mut exposed = Exposed::new();
    for asked in metrics.encode().lines().filter(|line| !line.starts_with('#')).flat_map(asked) {
        let labels = exposed.entry(asked.name).or_default();
        for (label, values) in asked.by {
            labels.entry(label).or_default().extend(values);
        }
    }
    exposed
}

/// Looks at our metrics in a text: a query, or a line of the page itself, which is written alike.
fn asked(text: &str) -> Vec<Asked> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("ferric_") {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let begins = !rest[..at].ends_with(is_name);
        rest = &rest[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        rest = &rest[end..];
        let mut by = Vec::new();
        // No value that is used here holds a brace or a comma.
        if let Some(matchers) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            by.extend(matchers.0.split(',').filter(|matcher| !matcher.is_empty()).map(matcher));
            rest = matchers.1;
        }
        if begins {
            found.push(Asked { name, by });
        }
    }
    found
}

/// `label="value"`, `label=~"one|other"`. Of what a variable stands for, no value is known.
fn matcher(text: &str) -> (String, Vec<String>) {
    let (label, value) = text.split_once('"').unwrap();
    let value = value.trim_end_matches('"');
    let values = match value.contains('$') {
        true => Vec::new(),
        false => value.split('|').map(str::to_owned).collect(),
    };
    (label.trim().trim_end_matches(['=', '!', '~']).to_owned(), values)
}

fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(all) => all.iter().for_each(|value| strings(value, found)),
        Value::Object(all) => all.values().for_each(|value| strings(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn a_text_is_read_as_a_query_is() {
    let some = |name: &str, by: &[(&str, &[&str])]| Asked {
        name: name.to_owned(),
        by: by.iter().map(|(l, v)| ((*l).to_owned(), v.iter().map(|v| (*v).to_owned()).collect())).collect(),
    };
    assert_eq!(
        asked(r#"sum(rate(ferric_a_total{x=~"b|c",y="$z"}[5m])) / ferric_d > my_ferric_e"#),
        [some("ferric_a_total", &[("x", &["b", "c"]), ("y", &[])]), some("ferric_d", &[])]
    );
}

#[test]
fn dashboards_and_alerts_ask_for_what_there_is() {
    let exposed = exposed();
    for (file, text) in FILES {
        // JSON is YAML.
        let document: Value = serde_yaml_ng::from_str(text).unwrap();
        let mut texts = Vec::new();
        strings(&document, &mut texts);
        let questions: Vec<Asked> = texts.into_iter().flat_map(asked).collect();
        assert!(questions.len() > 5, "{file}: {questions:?}");
        for Asked { name, by } in questions {
            let labels = exposed.get(&name).unwrap_or_else(|| panic!("{file}: no metric {name}"));
            for (label, values) in by {
                let there = labels.get(&label).unwrap_or_else(|| panic!("{file}: {name} has no {label}"));
                for value in values {
                    assert!(there.contains(&value), "{file}: {name} has no {label}={value:?}: {there:?}");
                }
            }
        }
    }
}

#[test]
fn every_number_of_a_group_is_shown() {
    let (_, dashboard) = FILES[0];
    for what in &exposed()["ferric_node_group_replicas"]["what"] {
        assert!(dashboard.contains(what.as_str()), "no panel shows {what}");
    }
}

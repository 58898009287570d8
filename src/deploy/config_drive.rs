//! Which layout the config drive of a machine has, and what stands in it. Pure.
//!
//! cloud-init reads both layouts, Ignition reads `config-2` only. NoCloud is what machines got so far and stays the rule;
//! user data that are an Ignition config, and network data in OpenStack's format, need `config-2`.

use std::collections::BTreeMap;

use ferric_protocol::v1;
use serde_json::{Map, Value};

/// What is known of a machine's configuration.
#[derive(Debug, Clone, Default)]
pub struct Data {
    /// The key `format` of the bootstrap Secret, where there is one.
    pub format: Option<String>,
    /// User data.
    pub user_data: Vec<u8>,
    /// Network data.
    pub network_data: Vec<u8>,
    /// Metadata of the user: a map in YAML or JSON.
    pub meta_data: Option<Vec<u8>>,
}

/// Puts a config drive together. `facts` is what the provider itself knows, e.g. `provider_id`: it is never overridden.
/// The error is a reason and a sentence for a condition.
pub fn config_drive(
    data: Data,
    facts: &BTreeMap<String, String>,
    instance_id: &str,
) -> Result<v1::ConfigDrive, (&'static str, String)> {
    let Data { format, user_data, network_data, meta_data } = data;
    let ignition = match format.as_deref().map(str::trim) {
        None | Some("") => is_ignition(&user_data),
        Some("cloud-config") => false,
        Some("ignition") if is_ignition(&user_data) => true,
        Some("ignition") => {
            let message =
                "the bootstrap data say that they are an Ignition config and are none: check what made them";
            return Err(("InvalidUserData", message.to_owned()));
        }
        Some(other) => {
            let message = format!(
                "bootstrap data of format {:?} are not known: use cloud-config or ignition",
                other.chars().take(40).collect::<String>()
            );
            return Err(("InvalidUserData", message));
        }
    };
    let openstack = ignition || is_openstack_network(&network_data);
    let mut merged = merge(meta_data.as_deref(), facts).map_err(|message| ("InvalidMetaData", message))?;
    let fact = |name: &str| Value::String(facts.get(name).cloned().unwrap_or_default());
    let named = if openstack {
        let id = Value::String(instance_id.to_owned());
        [("uuid", id), ("hostname", fact("local_hostname")), ("name", fact("local_hostname"))].to_vec()
    } else {
        [("instance-id", fact("instance_id")), ("local-hostname", fact("local_hostname"))].to_vec()
    };
    merged.extend(named.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let meta_data = serde_json::to_vec_pretty(&merged).map_err(|e| ("InvalidMetaData", e.to_string()))?;
    let format = if openstack { v1::ConfigDriveFormat::Config2 } else { v1::ConfigDriveFormat::Nocloud };
    Ok(v1::ConfigDrive {
        format: format.into(),
        instance_id: instance_id.to_owned(),
        meta_data,
        user_data,
        network_data,
    })
}

/// Whether these are an Ignition config: JSON with `ignition.version`.
pub fn is_ignition(user_data: &[u8]) -> bool {
    let config: Option<Value> = serde_json::from_slice(user_data).ok();
    config.is_some_and(|config| config.pointer("/ignition/version").is_some_and(Value::is_string))
}

/// Whether these are in OpenStack's format: JSON with `links` or `networks`, and without netplan's `version` or
/// `network`.
fn is_openstack_network(network_data: &[u8]) -> bool {
    let Ok(Value::Object(data)) = serde_json::from_slice(network_data) else { return false };
    let has = |name: &str| data.contains_key(name);
    (has("links") || has("networks")) && !has("version") && !has("network")
}

fn merge(user: Option<&[u8]>, facts: &BTreeMap<String, String>) -> Result<Map<String, Value>, String> {
    let mut merged = Map::new();
    if let Some(user) = user {
        let value: Value =
            serde_yaml_ng::from_slice(user).map_err(|error| format!("the metadata is not YAML: {error}"))?;
        match value {
            Value::Object(map) => merged.extend(map),
            Value::Null => {}
            _ => return Err("the metadata is not a map".to_owned()),
        }
    }
    merged.extend(facts.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))));
    Ok(merged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const IGNITION: &[u8] = br#"{"ignition": {"version": "3.4.0"}}"#;

    fn facts() -> BTreeMap<String, String> {
        let facts = [("provider_id", "ferric://h/1"), ("instance_id", "c-1"), ("local_hostname", "h")];
        facts.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    fn made(data: Data) -> (v1::ConfigDriveFormat, Value) {
        let drive = config_drive(data, &facts(), "c-1").unwrap();
        (drive.format(), serde_json::from_slice(&drive.meta_data).unwrap())
    }

    /// Format key, user data, network data, and the layout that they need.
    type Row<'a> = (Option<&'a str>, &'a [u8], &'a [u8], v1::ConfigDriveFormat);

    #[test]
    fn the_layout_is_what_the_data_need() {
        use v1::ConfigDriveFormat::{Config2, Nocloud};
        let table: [Row<'_>; 8] = [
            (None, b"#cloud-config\n", b"", Nocloud),
            (Some("cloud-config"), b"#cloud-config\n", b"version: 2\n", Nocloud),
            (Some("cloud-config"), b"#cloud-config\n", br#"{"version": 2, "links": []}"#, Nocloud),
            (None, b"", br#"{"network": {"version": 2}}"#, Nocloud),
            (Some("ignition"), IGNITION, b"", Config2),
            (None, IGNITION, b"", Config2),
            (None, b"#cloud-config\n", br#"{"links": [], "networks": []}"#, Config2),
            (None, br#"{"ignition": 1}"#, b"", Nocloud),
        ];
        for (format, user_data, network_data, expected) in table {
            let data = Data {
                format: format.map(str::to_owned),
                user_data: user_data.into(),
                network_data: network_data.into(),
                meta_data: None,
            };
            assert_eq!(made(data.clone()).0, expected, "{data:?}");
        }
    }

    #[test]
    fn what_the_format_says_must_be_so() {
        for (format, text) in [("ignition", "are none"), ("toml", "\"toml\"")] {
            let data = Data { format: Some(format.into()), ..Data::default() };
            let (reason, message) = config_drive(data, &facts(), "c-1").unwrap_err();
            assert_eq!(reason, "InvalidUserData");
            assert!(message.contains(text), "{message}");
        }
    }

    #[test]
    fn the_providers_facts_win_over_the_users_metadata() {
        let meta_data = Some(b"provider_id: mine\nrole: db\nuuid: mine\n".to_vec());
        let (_, nocloud) = made(Data { meta_data: meta_data.clone(), ..Data::default() });
        assert_eq!((&nocloud["provider_id"], &nocloud["role"]), (&"ferric://h/1".into(), &"db".into()));
        assert_eq!((&nocloud["instance-id"], &nocloud["local-hostname"]), (&"c-1".into(), &"h".into()));
        let (_, openstack) = made(Data { meta_data, user_data: IGNITION.into(), ..Data::default() });
        assert_eq!((&openstack["uuid"], &openstack["hostname"]), (&"c-1".into(), &"h".into()));
        assert_eq!(openstack["provider_id"], "ferric://h/1");
    }

    #[test]
    fn metadata_that_is_no_map_is_refused() {
        let data = Data { meta_data: Some(b"- a\n".to_vec()), ..Data::default() };
        assert_eq!(config_drive(data, &facts(), "c-1").unwrap_err().0, "InvalidMetaData");
    }
}

//! What cloud-init does with a NoCloud config drive, as far as a Cluster API machine needs it: metadata, jinja, and the
//! `write_files` and `runcmd` of a cloud-config. Pure.

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferric_image::ConfigDrive;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Largest user data or file after unpacking.
const UNPACKED_LIMIT: u64 = 16 << 20;

/// Why the data cannot be followed. An operating system would log it and go on without.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserDataError {
    #[error("the {0} is not UTF-8")]
    Text(&'static str),
    #[error("the {what} cannot be read: {why}")]
    Yaml { what: &'static str, why: String },
    #[error("the user data's jinja template fails: {0}")]
    Template(String),
    #[error("the user data is neither a cloud-config nor a script: it begins with {0:?}")]
    Format(String),
    #[error("the file {path} has a content that cannot be unpacked: {why}")]
    Content { path: String, why: String },
}

/// What the config drive asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Instructions {
    pub(crate) instance_id: String,
    pub(crate) hostname: String,
    /// Files to write, by path.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Commands to run.
    pub(crate) commands: Vec<String>,
}

impl Instructions {
    /// A file as text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        std::str::from_utf8(self.files.get(path)?).ok()
    }

    /// Whether a command begins with these words, on any of its lines or after a `;` or `&&`.
    pub(crate) fn runs(&self, words: &str) -> bool {
        let steps = self.commands.iter().flat_map(|command| command.split(['\n', ';', '&', '|']));
        steps.map(str::trim).any(|step| step.starts_with(words))
    }
}

/// Reads a config drive.
pub(crate) fn read(drive: &ConfigDrive) -> Result<Instructions, UserDataError> {
    let meta_data = std::str::from_utf8(&drive.meta_data).map_err(|_| UserDataError::Text("metadata"))?;
    let meta = yaml("metadata", meta_data)?;
    let key = |names: [&str; 2]| {
        names.into_iter().find_map(|name| meta.get(name)?.as_str()).unwrap_or_default().to_owned()
    };
    let mut found = Instructions {
        instance_id: key(["instance-id", "instance_id"]),
        hostname: key(["local-hostname", "local_hostname"]),
        ..Instructions::default()
    };
    let user_data = if drive.user_data.starts_with(&[0x1f, 0x8b]) {
        gunzip(&drive.user_data).map_err(|why| UserDataError::Yaml { what: "user data", why })?
    } else {
        drive.user_data.clone()
    };
    let text = String::from_utf8(user_data).map_err(|_| UserDataError::Text("user data"))?;
    let text = render(&text, &meta)?;
    if text.trim().is_empty() || text.starts_with("#!") {
        return Ok(found);
    }
    if !text.starts_with("#cloud-config") {
        return Err(UserDataError::Format(
            text.lines().next().unwrap_or_default().chars().take(40).collect(),
        ));
    }
    let config: CloudConfig = serde_yaml_ng::from_str(&text)
        .map_err(|e| UserDataError::Yaml { what: "cloud-config", why: e.to_string() })?;
    for file in config.write_files {
        let failed = |why: String| UserDataError::Content { path: file.path.clone(), why };
        let content = decode(&file.content, &file.encoding).map_err(failed)?;
        if file.append {
            found.files.entry(file.path).or_default().extend(content);
        } else {
            found.files.insert(file.path, content);
        }
    }
    found.commands = config.runcmd.into_iter().map(Command::line).collect();
    if let Some(hostname) = config.hostname {
        found.hostname = hostname;
    }
    Ok(found)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CloudConfig {
    write_files: Vec<WriteFile>,
    runcmd: Vec<Command>,
    hostname: Option<String>,
}

#[derive(Debug, Deserialize)]
struct WriteFile {
    path: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    encoding: String,
    #[serde(default)]
    append: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Command {
    Line(String),
    Words(Vec<String>),
}

impl Command {
    fn line(self) -> String {
        match self {
            Self::Line(line) => line,
            Self::Words(words) => words.join(" "),
        }
    }
}

fn yaml(what: &'static str, text: &str) -> Result<Map<String, Value>, UserDataError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_yaml_ng::from_str(text).map_err(|e| UserDataError::Yaml { what, why: e.to_string() })
}

/// Renders user data that says it is a template. A variable that does not exist is an error here, where cloud-init
/// would write `CI_MISSING_JINJA_VAR`: a node with such a name or provider ID helps nobody.
fn render(text: &str, meta: &Map<String, Value>) -> Result<String, UserDataError> {
    let Some(rest) = text.strip_prefix("## template: jinja") else { return Ok(text.to_owned()) };
    let template = rest.split_once('\n').map_or("", |(_, body)| body);
    let mut engine = minijinja::Environment::new();
    engine.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    engine.set_keep_trailing_newline(true);
    let meta = aliased(&Value::Object(meta.clone()));
    let v1 = json!({
        "instance_id": meta.get("instance_id"), "local_hostname": meta.get("local_hostname"),
        "cloud_name": "nocloud", "platform": "nocloud",
    });
    let context = json!({
        "ds": {"meta_data": meta}, "v1": v1,
        "instance_id": v1["instance_id"], "local_hostname": v1["local_hostname"],
    });
    engine.render_str(template, context).map_err(|error| UserDataError::Template(error.to_string()))
}

/// Adds to every key with dashes or dots one with underscores, as cloud-init does.
fn aliased(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut out = Map::new();
            for (key, value) in map {
                let value = aliased(value);
                let alias = key.replace(['-', '.'], "_");
                out.entry(alias).or_insert_with(|| value.clone());
                out.insert(key.clone(), value);
            }
            Value::Object(out)
        }
        Value::Array(list) => list.iter().map(aliased).collect(),
        other => other.clone(),
    }
}

fn decode(content: &str, encoding: &str) -> Result<Vec<u8>, String> {
    let unbase = |text: &str| {
        let text: String = text.split_whitespace().collect();
        STANDARD.decode(text).map_err(|error| error.to_string())
    };
    match encoding.to_ascii_lowercase().as_str() {
        "" | "text/plain" => Ok(content.as_bytes().to_vec()),
        "b64" | "base64" => unbase(content),
        "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => gunzip(&unbase(content)?),
        other => Err(format!("unknown encoding {other:?}")),
    }
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(bytes).take(UNPACKED_LIMIT + 1);
    reader.read_to_end(&mut out).map_err(|error| error.to_string())?;
    if out.len() as u64 > UNPACKED_LIMIT {
        return Err(format!("more than {UNPACKED_LIMIT} bytes"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use super::*;

    fn drive(meta: &str, user: &str) -> ConfigDrive {
        ConfigDrive { meta_data: meta.into(), user_data: user.into(), network_config: None }
    }

    const META: &str = "instance-id: c1\nlocal-hostname: demo-md-0-x\nprovider_id: ferric://host-01/c1\n";

    #[test]
    fn a_template_is_rendered_with_the_metadata() {
        let found = read(&drive(
            META,
            "## template: jinja\n#cloud-config\n\nwrite_files:\n-   path: /run/kubeadm/kubeadm-join-config.yaml\n    \
             owner: root:root\n    permissions: '0640'\n    content: |\n      ---\n      name: '{{ ds.meta_data.local_hostname }}'\n      \
             id: \"{{ ds.meta_data.provider_id }} {{ ds.meta_data['local-hostname'] }} {{ v1.instance_id }}\"\n\
             runcmd:\n  - 'kubeadm join --config /run/kubeadm/kubeadm-join-config.yaml  && echo success > /run/x'\n  - [ls, -l]\n",
        ))
        .unwrap();
        assert_eq!((found.instance_id.as_str(), found.hostname.as_str()), ("c1", "demo-md-0-x"));
        assert_eq!(
            found.text("/run/kubeadm/kubeadm-join-config.yaml").unwrap(),
            "---\nname: 'demo-md-0-x'\nid: \"ferric://host-01/c1 demo-md-0-x c1\"\n"
        );
        assert!(found.runs("kubeadm join --config /run/kubeadm/kubeadm-join-config.yaml"));
        assert!(found.runs("ls -l") && !found.runs("kubeadm init"));
    }

    #[test]
    fn only_a_template_is_rendered_and_a_missing_variable_is_an_error() {
        let plain = read(&drive(META, "#cloud-config\nruncmd: ['echo {{ nothing }}']\n")).unwrap();
        assert_eq!(plain.commands, ["echo {{ nothing }}"]);
        let missing =
            read(&drive(META, "## template: jinja\n#cloud-config\nruncmd: ['{{ ds.meta_data.rack }}']\n"));
        assert!(matches!(missing, Err(UserDataError::Template(_))), "{missing:?}");
    }

    #[test]
    fn encodings() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"hello").unwrap();
        let gz = STANDARD.encode(gz.finish().unwrap());
        let user = format!(
            "#cloud-config\nwrite_files:\n- {{path: /a, encoding: base64, content: aGVsbG8=}}\n\
             - {{path: /b, encoding: gzip+base64, content: {gz}}}\n- {{path: /a, content: ' more', append: true}}\n"
        );
        let found = read(&drive("", &user)).unwrap();
        assert_eq!((found.text("/a"), found.text("/b")), (Some("hello more"), Some("hello")));
        let bad = drive("", "#cloud-config\nwrite_files:\n- {path: /a, encoding: rot13, content: x}\n");
        assert!(matches!(read(&bad), Err(UserDataError::Content { .. })));
    }

    #[test]
    fn nothing_scripts_and_unknown_formats() {
        assert_eq!(read(&drive("", "")).unwrap(), Instructions::default());
        assert!(read(&drive(META, "#!/bin/sh\nexit")).unwrap().commands.is_empty());
        assert!(matches!(read(&drive(META, "{\"ignition\":{}}")), Err(UserDataError::Format(_))));
        assert!(matches!(read(&drive("a: [", "")), Err(UserDataError::Yaml { .. })));
    }
}

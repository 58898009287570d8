//! The tables of `docs/host-lifecycle.md` that say which field of a status is derived and which is history.

use std::collections::BTreeMap;

use serde_json::Value;

const DOCS: &str = include_str!("../../docs/host-lifecycle.md");

/// The table of one kind: patterns of fields, and whether they are derived.
pub struct Table {
    kind: String,
    rows: Vec<(String, bool)>,
}

impl Table {
    /// Reads the table below the line that begins with the kind's name.
    pub fn of(kind: &str) -> Self {
        let (_, section) = DOCS.split_once("## Status: derived or history").expect("the section is there");
        let heading = format!("\n`{kind}`");
        let (_, rest) =
            section.split_once(&heading).unwrap_or_else(|| panic!("no table of {kind} in the docs"));
        let lines =
            rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let rows = lines.skip(2).flat_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [fields, meaning] = cells[..] else { panic!("{kind}: not two cells: {line}") };
            let derived = match meaning.split([' ', ':']).next() {
                Some("derived") => true,
                Some("history") => false,
                _ => panic!("{kind}: neither derived nor history: {line}"),
            };
            let names: Vec<&str> = fields.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "{kind}: no field: {line}");
            names.into_iter().flat_map(expand).map(move |name| (name, derived)).collect::<Vec<_>>()
        });
        let rows: Vec<(String, bool)> = rows.collect();
        assert!(rows.iter().any(|row| row.1), "{kind}: nothing is derived");
        Self { kind: kind.to_owned(), rows }
    }

    /// The derived fields of a status with their values. A field that is in no row is an error.
    pub fn derived(&self, status: &Value) -> BTreeMap<String, Value> {
        let mut fields = BTreeMap::new();
        flatten(status, String::new(), &mut fields);
        fields.retain(|path, value| {
            let general = generalise(path);
            let covers = |row: &&(String, bool)| {
                general
                    .strip_prefix(&row.0)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let row = self.rows.iter().find(covers);
            let (_, derived) = row.unwrap_or_else(|| {
                panic!("{}: {general} (now {value}) is in no row of the table", self.kind)
            });
            *derived
        });
        fields
    }
}

/// `a.{b,c}` is `a.b` and `a.c`.
fn expand(name: &str) -> Vec<String> {
    match name.split_once('{').and_then(|(head, rest)| Some((head, rest.strip_suffix('}')?))) {
        None => vec![name.to_owned()],
        Some((head, inside)) => inside.split(',').map(|part| format!("{head}{part}")).collect(),
    }
}

/// `conditions[Ready].status` is `conditions[].status`.
fn generalise(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            let keep = !inside || *c == ']';
            inside = (inside || *c == '[') && *c != ']';
            keep
        })
        .collect()
}

/// The leaves by their paths; members of a list are known by their type or name.
fn flatten(value: &Value, path: String, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            let dot = if path.is_empty() { "" } else { "." };
            for (name, value) in map {
                flatten(value, format!("{path}{dot}{name}"), into);
            }
        }
        Value::Array(list) => {
            for (number, value) in list.iter().enumerate() {
                let key = ["type", "name"].iter().find_map(|key| value.get(key)?.as_str()).map(str::to_owned);
                flatten(value, format!("{path}[{}]", key.unwrap_or_else(|| number.to_string())), into);
            }
        }
        leaf => {
            into.insert(path, leaf.clone());
        }
    }
}

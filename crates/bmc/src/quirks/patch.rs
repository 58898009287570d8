//! What rules do to a document: single operations on JSON, each idempotent, within bounds of work, size and depth.
//!
//! An operation that does not fit the document (a key that is missing, a parent that is no object, a budget that is
//! used up) does nothing.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Most characters of a JSON pointer in a rule.
const POINTER_TEXT: usize = 256;
/// Most segments of a JSON pointer in a rule.
const POINTER_SEGMENTS: usize = 16;
/// Most places that one operation is done at in a document.
const PLACES: usize = 4096;
/// Deepest value that is copied or moved, and deepest value in a rule.
const DEPTH: usize = 64;
/// Largest value in a rule, in bytes as [`weight`] counts them.
const VALUE: usize = 4096;
/// How much all rules together may add to one document, in bytes as [`weight`] counts them.
pub(super) const BUDGET: usize = 64 << 10;

/// A place in a document: a JSON pointer (RFC 6901) with at least one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer(Vec<String>);

impl Pointer {
    /// Reads a pointer, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > POINTER_TEXT {
            return Err(format!("a pointer is longer than {POINTER_TEXT} bytes"));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("{text:?} is no JSON pointer: it has to begin with /"));
        };
        let segments: Vec<String> =
            rest.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect();
        if segments.len() > POINTER_SEGMENTS {
            return Err(format!("{text:?} has more than {POINTER_SEGMENTS} segments"));
        }
        Ok(Self(segments))
    }

    fn cost(&self) -> usize {
        self.0.iter().map(|segment| segment.len() + 4).sum()
    }

    pub(super) fn get<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(value, |value, segment| child(value, segment))
    }

    fn get_mut<'a>(&self, value: &'a mut Value) -> Option<&'a mut Value> {
        self.0.iter().try_fold(value, |value, segment| child_mut(value, segment))
    }

    /// The last segment, and the ones before it. There is always one.
    fn split(&self) -> (&[String], &str) {
        self.0.split_last().map_or((&[], ""), |(last, parents)| (parents, last.as_str()))
    }

    /// The object that the last segment is a key of; made where it is missing.
    fn object<'a>(&self, value: &'a mut Value) -> Option<&'a mut Map<String, Value>> {
        let mut value = value;
        for segment in self.split().0 {
            value = match value {
                Value::Object(map) => map.entry(segment.clone()).or_insert_with(|| Value::Object(Map::new())),
                other => child_mut(other, segment)?,
            };
        }
        value.as_object_mut()
    }

    /// Whether [`Self::object`] would find or make the object.
    fn is_possible(&self, value: &Value) -> bool {
        let mut value = value;
        for segment in self.split().0 {
            value = match (child(value, segment), value) {
                (Some(child), _) => child,
                // Made, and all below it.
                (None, Value::Object(_)) => return true,
                (None, _) => return false,
            };
        }
        value.is_object()
    }

    /// Whether one of two pointers leads to a part of what the other leads to.
    fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one == other)
    }
}

fn child<'a>(value: &'a Value, segment: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(segment),
        Value::Array(list) => list.get(segment.parse::<usize>().ok()?),
        _ => None,
    }
}

fn child_mut<'a>(value: &'a mut Value, segment: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(map) => map.get_mut(segment),
        Value::Array(list) => list.get_mut(segment.parse::<usize>().ok()?),
        _ => None,
    }
}

/// How much room a value takes, in bytes, roughly as JSON.
pub(crate) fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 20,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(|item| weight(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + weight(value) + 4).sum::<usize>() + 2,
    }
}

/// How many values stand in one another.
pub(super) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

/// One operation as it is written in a rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOperation {
    under: Option<String>,
    add: Option<RawAdd>,
    replace: Option<RawReplace>,
    rename: Option<RawMove>,
    copy: Option<RawMove>,
    remove: Option<RawRemove>,
    map: Option<RawMap>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAdd {
    at: String,
    value: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReplace {
    at: String,
    value: Value,
    was: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMove {
    from: String,
    to: String,
    #[serde(default)]
    overwrite: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRemove {
    at: String,
    items: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMap {
    at: String,
    values: BTreeMap<String, String>,
}

/// One operation, and where in the document its pointers begin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operation {
    under: Option<Pointer>,
    change: Change,
}

#[derive(Debug, Clone, PartialEq)]
enum Change {
    Add { at: Pointer, value: Value },
    Replace { at: Pointer, value: Value, was: Option<Value> },
    Rename { from: Pointer, to: Pointer, overwrite: bool },
    Copy { from: Pointer, to: Pointer, overwrite: bool },
    Remove { at: Pointer },
    RemoveItems { at: Pointer, items: Vec<Value> },
    Map { at: Pointer, values: BTreeMap<String, String> },
}

impl RawOperation {
    /// The operation, or what is wrong with it.
    pub(super) fn check(self) -> Result<Operation, String> {
        let Self { under, add, replace, rename, copy, remove, map } = self;
        let under = under.as_deref().map(Pointer::parse).transpose()?;
        let mut changes = Vec::new();
        if let Some(RawAdd { at, value }) = add {
            changes.push(Change::Add { at: Pointer::parse(&at)?, value: fitting(value)? });
        }
        if let Some(RawReplace { at, value, was }) = replace {
            let was = was.map(fitting).transpose()?;
            changes.push(Change::Replace { at: Pointer::parse(&at)?, value: fitting(value)?, was });
        }
        if let Some(moved) = rename {
            let (from, to) = apart(&moved)?;
            changes.push(Change::Rename { from, to, overwrite: moved.overwrite });
        }
        if let Some(moved) = copy {
            let (from, to) = apart(&moved)?;
            changes.push(Change::Copy { from, to, overwrite: moved.overwrite });
        }
        if let Some(RawRemove { at, items }) = remove {
            let at = Pointer::parse(&at)?;
            changes.push(match items {
                None => Change::Remove { at },
                Some(items) => {
                    fitting(Value::Array(items.clone()))?;
                    Change::RemoveItems { at, items }
                }
            });
        }
        if let Some(RawMap { at, values }) = map {
            if let Some((from, to)) =
                values.iter().find(|(_, to)| values.get(*to).is_some_and(|next| next != *to))
            {
                return Err(format!(
                    "map leads from {from:?} to {to:?} and from there on: give each text its last one"
                ));
            }
            fitting(values.iter().map(|(key, text)| (key.clone(), Value::from(text.clone()))).collect())?;
            changes.push(Change::Map { at: Pointer::parse(&at)?, values });
        }
        match (changes.pop(), changes.is_empty()) {
            (Some(change), true) => Ok(Operation { under, change }),
            _ => {
                Err("an entry of patch needs exactly one of add, replace, rename, copy, remove and map"
                    .into())
            }
        }
    }
}

fn fitting(value: Value) -> Result<Value, String> {
    if weight(&value) > VALUE || depth(&value) > DEPTH {
        return Err(format!("a value is larger than {VALUE} bytes or deeper than {DEPTH}"));
    }
    Ok(value)
}

fn apart(moved: &RawMove) -> Result<(Pointer, Pointer), String> {
    let (from, to) = (Pointer::parse(&moved.from)?, Pointer::parse(&moved.to)?);
    if from.overlaps(&to) {
        return Err(format!("{:?} and {:?} lie in one another", moved.from, moved.to));
    }
    Ok((from, to))
}

impl Operation {
    /// Does it to a document. `budget`: how much may still be added.
    pub(super) fn apply(&self, document: &mut Value, budget: &mut usize) {
        let mut places = PLACES;
        let under = self.under.as_ref().map_or(&[][..], |under| &under.0);
        each(document, under, &mut places, &mut |value| self.change.apply(value, budget));
    }
}

/// Every place that the segments lead to; `*` leads to all members of a list or an object.
fn each(value: &mut Value, segments: &[String], places: &mut usize, work: &mut impl FnMut(&mut Value)) {
    let Some((first, rest)) = segments.split_first() else {
        if *places > 0 {
            *places -= 1;
            work(value);
        }
        return;
    };
    match value {
        Value::Array(list) if first == "*" => {
            list.iter_mut().take(PLACES).for_each(|item| each(item, rest, places, work));
        }
        Value::Object(map) if first == "*" => {
            map.values_mut().take(PLACES).for_each(|item| each(item, rest, places, work));
        }
        other => {
            if let Some(child) = child_mut(other, first) {
                each(child, rest, places, work);
            }
        }
    }
}

/// Takes a cost off the budget, if it holds that much.
fn pay(budget: &mut usize, cost: usize) -> bool {
    budget.checked_sub(cost).inspect(|left| *budget = *left).is_some()
}

impl Change {
    fn apply(&self, value: &mut Value, budget: &mut usize) {
        match self {
            Self::Add { at, value: new } => {
                if at.get(value).is_none() {
                    put(value, at, new.clone(), budget);
                }
            }
            Self::Replace { at, value: new, was } => {
                if let Some(place) = at.get_mut(value)
                    && was.as_ref().is_none_or(|was| was == place)
                    && place != new
                    && pay(budget, weight(new))
                {
                    *place = new.clone();
                }
            }
            Self::Rename { from, to, overwrite } => {
                if from.get(value).is_some_and(|found| depth(found) <= DEPTH)
                    && (*overwrite || to.get(value).is_none())
                    && to.is_possible(value)
                    && parent_mut(value, from).is_some_and(|parent| parent.is_object())
                    // Moving adds nothing but the keys on the way.
                    && pay(budget, to.cost())
                    && let Some(Value::Object(parent)) = parent_mut(value, from)
                    && let Some(taken) = parent.remove(from.split().1)
                    && let Some(object) = to.object(value)
                {
                    object.insert(to.split().1.to_owned(), taken);
                }
            }
            Self::Copy { from, to, overwrite } => {
                if let Some(found) = from.get(value)
                    && (*overwrite || to.get(value).is_none())
                    && to.get(value) != Some(found)
                    && depth(found) <= DEPTH
                    && weight(found) <= *budget
                {
                    let copy = found.clone();
                    put(value, to, copy, budget);
                }
            }
            Self::Remove { at } => {
                if let Some(Value::Object(parent)) = parent_mut(value, at) {
                    parent.remove(at.split().1);
                }
            }
            Self::RemoveItems { at, items } => {
                if let Some(Value::Array(list)) = at.get_mut(value) {
                    list.retain(|item| !items.contains(item));
                }
            }
            Self::Map { at, values } => match at.get_mut(value) {
                Some(Value::Array(list)) => list.iter_mut().for_each(|item| mapped(item, values, budget)),
                Some(place) => mapped(place, values, budget),
                None => {}
            },
        }
    }
}

fn parent_mut<'a>(value: &'a mut Value, pointer: &Pointer) -> Option<&'a mut Value> {
    pointer.split().0.iter().try_fold(value, |value, segment| child_mut(value, segment))
}

fn put(value: &mut Value, at: &Pointer, new: Value, budget: &mut usize) {
    if at.is_possible(value)
        && pay(budget, weight(&new) + at.cost())
        && let Some(object) = at.object(value)
    {
        object.insert(at.split().1.to_owned(), new);
    }
}

fn mapped(value: &mut Value, values: &BTreeMap<String, String>, budget: &mut usize) {
    if let Value::String(text) = value
        && let Some(new) = values.get(text.as_str())
        && new != text
        && pay(budget, new.len())
    {
        new.clone_into(text);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn operation(written: Value) -> Result<Operation, String> {
        serde_json::from_value::<RawOperation>(written).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn operations() {
        let table = [
            (json!({"add": {"at": "/a/b", "value": 1}}), json!({}), json!({"a": {"b": 1}})),
            (
                json!({"add": {"at": "/a/b", "value": 1}}),
                json!({"a": {"b": null}}),
                json!({"a": {"b": null}}),
            ),
            (json!({"add": {"at": "/a/b", "value": 1}}), json!({"a": 7}), json!({"a": 7})),
            (json!({"add": {"at": "/a/0/b", "value": 1}}), json!({"a": [{}]}), json!({"a": [{"b": 1}]})),
            (json!({"add": {"at": "/a~1b", "value": 1}}), json!({}), json!({"a/b": 1})),
            (json!({"replace": {"at": "/a", "value": 2}}), json!({"a": 1}), json!({"a": 2})),
            (json!({"replace": {"at": "/a", "value": 2}}), json!({}), json!({})),
            (json!({"replace": {"at": "/a", "value": 2, "was": 9}}), json!({"a": 1}), json!({"a": 1})),
            (json!({"rename": {"from": "/a", "to": "/b/c"}}), json!({"a": 1}), json!({"b": {"c": 1}})),
            (json!({"rename": {"from": "/a", "to": "/b"}}), json!({"a": 1, "b": 2}), json!({"a": 1, "b": 2})),
            (
                json!({"rename": {"from": "/a", "to": "/b", "overwrite": true}}),
                json!({"a": 1, "b": 2}),
                json!({"b": 1}),
            ),
            (
                json!({"rename": {"from": "/a", "to": "/b/c"}}),
                json!({"a": 1, "b": 2}),
                json!({"a": 1, "b": 2}),
            ),
            (json!({"copy": {"from": "/a", "to": "/b"}}), json!({"a": [1]}), json!({"a": [1], "b": [1]})),
            (json!({"remove": {"at": "/a"}}), json!({"a": 1, "b": 2}), json!({"b": 2})),
            (
                json!({"remove": {"at": "/a", "items": ["x"]}}),
                json!({"a": ["x", "y", "x"]}),
                json!({"a": ["y"]}),
            ),
            (json!({"map": {"at": "/a", "values": {"x": "y"}}}), json!({"a": "x"}), json!({"a": "y"})),
            (
                json!({"map": {"at": "/a", "values": {"x": "y"}}}),
                json!({"a": ["x", 3, "z"]}),
                json!({"a": ["y", 3, "z"]}),
            ),
            (
                json!({"under": "/m/*", "rename": {"from": "/a", "to": "/b"}}),
                json!({"m": [{"a": 1}, 7, {"a": 2}]}),
                json!({"m": [{"b": 1}, 7, {"b": 2}]}),
            ),
        ];
        for (written, mut document, expected) in table {
            let operation = operation(written.clone()).unwrap();
            for _ in 0..2 {
                operation.apply(&mut document, &mut { BUDGET });
                assert_eq!(document, expected, "{written}");
            }
        }
    }

    #[test]
    fn what_is_refused() {
        for (written, sentence) in [
            (json!({}), "exactly one of"),
            (json!({"add": {"at": "/a", "value": 1}, "remove": {"at": "/b"}}), "exactly one of"),
            (json!({"add": {"at": "a", "value": 1}}), "has to begin with /"),
            (json!({"add": {"at": "/a", "valeu": 1}}), "unknown field `valeu`"),
            (json!({"ad": {"at": "/a", "value": 1}}), "unknown field `ad`"),
            (json!({"copy": {"from": "/a", "to": "/a/b"}}), "lie in one another"),
            (json!({"map": {"at": "/a", "values": {"x": "y", "y": "x"}}}), "map leads from"),
            (json!({"add": {"at": "/a", "value": "x".repeat(5000)}}), "larger than"),
            (json!({"add": {"at": "/a".repeat(20), "value": 1}}), "more than 16 segments"),
        ] {
            let error = operation(written.clone()).unwrap_err();
            assert!(error.contains(sentence), "{written}: {error}");
        }
    }

    #[test]
    fn the_budget_ends_growth() {
        let operation =
            operation(json!({"under": "/m/*", "add": {"at": "/x", "value": "y".repeat(1000)}})).unwrap();
        let mut document = json!({"m": vec![json!({}); 1000]});
        let before = weight(&document);
        operation.apply(&mut document, &mut { BUDGET });
        assert!(weight(&document) - before <= BUDGET);
        assert!(document["m"][0]["x"].is_string() && document["m"][999].get("x").is_none());
    }
}

//! Reading JSON that follows the standard loosely: every accessor gives `None` rather than an error, so that a missing
//! or odd key costs one fact and nothing else.

use serde_json::Value;

/// Most entries that are taken from any list.
const LIST_LIMIT: usize = 4096;

/// The text at a JSON pointer, trimmed; `None` when it is empty.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// The text at a JSON pointer, owned.
pub(crate) fn string(value: &Value, pointer: &str) -> Option<String> {
    text(value, pointer).map(str::to_owned)
}

/// The number at a JSON pointer; a float is cut, a number written as text is taken.
pub(crate) fn int(value: &Value, pointer: &str) -> Option<i64> {
    float(value, pointer).filter(|n| n.abs() < 9e18).map(|n| n as i64)
}

/// The number at a JSON pointer; a number written as text is taken.
pub(crate) fn float(value: &Value, pointer: &str) -> Option<f64> {
    let number = match value.pointer(pointer)? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// The truth value at a JSON pointer; `"true"` and `"false"` are taken.
pub(crate) fn boolean(value: &Value, pointer: &str) -> Option<bool> {
    match value.pointer(pointer)? {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The link at a JSON pointer: `{"@odata.id": …}`, a one-element list of that, or plain text.
pub(crate) fn link(value: &Value, pointer: &str) -> Option<String> {
    link_of(value.pointer(pointer)?)
}

fn link_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Object(_) => string(value, "/@odata.id"),
        Value::Array(list) => list.first().filter(|first| !first.is_array()).and_then(link_of),
        _ => None,
    }
}

/// The texts in the list at a JSON pointer; `None` when there is no list or nothing in it.
pub(crate) fn strings(value: &Value, pointer: &str) -> Option<Vec<String>> {
    let strings: Vec<String> = list(value, pointer)
        .iter()
        .filter_map(|item| item.as_str().map(|text| text.trim().to_owned()))
        .collect();
    (!strings.is_empty()).then_some(strings)
}

/// The list at a JSON pointer; empty when there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    match value.pointer(pointer) {
        Some(Value::Array(list)) => &list[..list.len().min(LIST_LIMIT)],
        _ => &[],
    }
}

/// A member of a collection: a link, with the resource itself where the service expanded it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    /// Its link.
    pub(crate) path: String,
    /// The resource, if it came along.
    pub(crate) inline: Option<Value>,
}

/// The members of a collection, or of any list of links at a JSON pointer.
pub(crate) fn members(value: &Value, pointer: &str) -> Vec<Member> {
    list(value, pointer)
        .iter()
        .filter_map(|item| {
            let path = link_of(item)?;
            // A mere link has `@odata.id` and perhaps another annotation; a resource has an `Id` or a `Name`.
            let inline = (item.get("Id").is_some() || item.get("Name").is_some()).then(|| item.clone());
            Some(Member { path, inline })
        })
        .collect()
}

/// What an error answer says: the messages of `@Message.ExtendedInfo`, or the general message.
pub(crate) fn message(value: &Value) -> Option<String> {
    let infos = extended_info(value);
    let mut parts: Vec<&str> = Vec::new();
    for info in infos.iter().take(4) {
        if let Some(message) = text(info, "/Message").or_else(|| text(info, "/MessageId"))
            && !parts.contains(&message)
        {
            parts.push(message);
        }
    }
    let joined = if parts.is_empty() { text(value, "/error/message")?.to_owned() } else { parts.join(" ") };
    Some(joined.chars().filter(|c| !c.is_control()).take(400).collect())
}

/// Whether an error answer carries a message with one of these names (`Base.1.8.ResourceInUse` is `ResourceInUse`).
pub(crate) fn has_message(value: &Value, names: &[&str]) -> bool {
    let is_named =
        |id: &str| names.iter().any(|name| id.rsplit('.').next().is_some_and(|last| last == *name));
    extended_info(value).iter().any(|info| text(info, "/MessageId").is_some_and(is_named))
        || text(value, "/error/code").is_some_and(is_named)
}

/// The messages that an answer carries (DSP0266, 8.6).
pub(crate) fn extended_info(value: &Value) -> &[Value] {
    let inner = list(value, "/error/@Message.ExtendedInfo");
    if inner.is_empty() { list(value, "/@Message.ExtendedInfo") } else { inner }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn odd_types_cost_one_fact() {
        let value = json!({"a": {"n": "42", "f": 15.6, "b": "True", "t": "  ", "l": "x"}, "l": [{"@odata.id": "/x"}, 3]});
        assert_eq!(int(&value, "/a/n"), Some(42));
        assert_eq!(int(&value, "/a/f"), Some(15));
        assert_eq!(boolean(&value, "/a/b"), Some(true));
        assert_eq!(text(&value, "/a/t"), None);
        assert_eq!(text(&value, "/a/n/deeper"), None);
        assert_eq!(int(&value, "/a/l"), None);
        assert_eq!(link(&value, "/l").unwrap(), "/x");
        assert_eq!(strings(&value, "/l"), None);
    }

    #[test]
    fn members_tell_links_from_resources() {
        let value = json!({"Members": [{"@odata.id": "/a", "@odata.etag": "x"}, {"@odata.id": "/b", "Id": "b"}, 7, {}]});
        let members = members(&value, "/Members");
        assert_eq!(members.len(), 2);
        assert!(members[0].inline.is_none());
        assert_eq!(members[1].inline.as_ref().unwrap()["Id"], "b");
    }

    #[test]
    fn messages_are_found_in_both_places() {
        let value = json!({"error": {"code": "Base.1.8.GeneralError", "message": "general",
            "@Message.ExtendedInfo": [{"MessageId": "Base.1.8.SessionLimitExceeded", "Message": "too many\nsessions"}]}});
        assert_eq!(message(&value).unwrap(), "too manysessions");
        assert!(has_message(&value, &["SessionLimitExceeded"]));
        assert!(has_message(&value, &["GeneralError"]));
        assert!(!has_message(&value, &["Exceeded"]));
        assert_eq!(message(&json!({"error": {"message": "general"}})).unwrap(), "general");
        assert_eq!(message(&json!([])), None);
    }
}

//! What a Prometheus server answers to an instant query (HTTP API, "Instant queries"): one number, or why there is none.

use serde::Deserialize;
use serde_json::Value;

use super::Reading;

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    #[serde(default)]
    result: Value,
}

/// Text of a server that is repeated in a condition.
const QUOTE: usize = 200;

/// Reads an answer.
#[must_use]
pub fn answer(body: &[u8]) -> Reading {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Reading::Failed("the server's answer is not that of Prometheus' HTTP API".to_owned());
    };
    let Some(data) = answer.data.filter(|_| answer.status == "success") else {
        let said: String = answer.error.unwrap_or_default().chars().take(QUOTE).collect();
        return Reading::Failed(format!("the server refused the query: {said}"));
    };
    match data.kind.as_str() {
        "scalar" => sample(&data.result),
        "vector" => match data.result.as_array().map(Vec::as_slice) {
            Some([]) => Reading::Empty,
            Some([one]) => one.get("value").map_or_else(unread, sample),
            Some(many) => Reading::Failed(format!(
                "the query gave {} series and must give one: aggregate it, e.g. with sum()",
                many.len()
            )),
            None => unread(),
        },
        kind => Reading::Failed(format!(
            "the query gave a {}, and must give a scalar or a vector of one element",
            kind.chars().take(32).collect::<String>()
        )),
    }
}

/// `[time, "value"]`; the value is text since JSON knows no `NaN`.
fn sample(value: &Value) -> Reading {
    let text = value.get(1).and_then(Value::as_str);
    match text.map(str::parse::<f64>) {
        Some(Ok(number)) => Reading::Value(number),
        _ => unread(),
    }
}

fn unread() -> Reading {
    Reading::Failed("the server's answer holds no number".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn vector(result: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#)
    }

    #[test]
    fn numbers() {
        let one = vector(r#"[{"metric":{"job":"a"},"value":[1435781451.781,"412.5"]}]"#);
        assert_eq!(answer(one.as_bytes()), Reading::Value(412.5));
        let scalar =
            br#"{"status":"success","data":{"resultType":"scalar","result":[1,"3"]},"warnings":["w"]}"#;
        assert_eq!(answer(scalar), Reading::Value(3.0));
        assert_eq!(answer(vector("[]").as_bytes()), Reading::Empty);
        let infinite = vector(r#"[{"metric":{},"value":[1,"+Inf"]}]"#);
        assert_eq!(answer(infinite.as_bytes()), Reading::Value(f64::INFINITY));
        let Reading::Value(number) = answer(vector(r#"[{"value":[1,"NaN"]}]"#).as_bytes()) else { panic!() };
        assert!(number.is_nan(), "what it means is decided elsewhere");
    }

    #[rstest]
    #[case(
        r#"{"status":"error","errorType":"bad_data","error":"parse error at char 4"}"#,
        "parse error at char 4"
    )]
    #[case(r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#, "a matrix")]
    #[case("<html>", "not that of Prometheus")]
    #[case("", "not that of Prometheus")]
    #[case(
        r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"x"]}]}}"#,
        "no number"
    )]
    #[case(r#"{"status":"success","data":{"resultType":"vector","result":[{},{}]}}"#, "2 series")]
    #[case(r#"{"status":"success","data":{"resultType":"vector"}}"#, "no number")]
    fn what_is_no_number(#[case] body: &str, #[case] said: &str) {
        let Reading::Failed(why) = answer(body.as_bytes()) else { panic!("{body}") };
        assert!(why.contains(said), "{why}");
    }

    proptest! {
        #[test]
        fn anything_is_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = answer(&bytes);
        }
    }
}

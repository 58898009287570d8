//! Tasks: what a BMC says of work that it accepted with `202`.

use reqwest::StatusCode;
use serde_json::Value;

use super::json;

/// How a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Ask again.
    Running,
    /// Done, or accepted to be done at the next reset.
    Done,
    /// Ended badly.
    Failed { state: String, message: String },
}

/// How a task stands, by the answer of its monitor or of the task itself.
pub(crate) fn outcome(status: StatusCode, body: &Value) -> Outcome {
    if !status.is_success() {
        // Monitors go away when the task is over; any other bad status is the answer to what was asked for.
        return match status.as_u16() {
            404 | 410 => Outcome::Done,
            429 | 503 => Outcome::Running,
            code => Outcome::Failed {
                state: code.to_string(),
                message: json::message(body).unwrap_or_else(|| "no message".into()),
            },
        };
    }
    match json::text(body, "/TaskState") {
        // Pending: waits for a condition such as the next reset. That is the caller's to bring about.
        Some("Pending") => Outcome::Done,
        Some("Completed") if json::text(body, "/TaskStatus") == Some("Critical") => failed("Completed", body),
        Some("Completed") => Outcome::Done,
        Some(state @ ("Exception" | "Killed" | "Cancelled")) => failed(state, body),
        Some(_) => Outcome::Running,
        None if status == StatusCode::ACCEPTED => Outcome::Running,
        None => Outcome::Done,
    }
}

fn failed(state: &str, body: &Value) -> Outcome {
    let messages: Vec<&str> = json::list(body, "/Messages")
        .iter()
        .filter_map(|message| json::text(message, "/Message"))
        .take(3)
        .collect();
    let message = if messages.is_empty() { "no message".to_owned() } else { messages.join(" ") };
    Outcome::Failed { state: state.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn outcomes() {
        let failed =
            |state: &str, message: &str| Outcome::Failed { state: state.into(), message: message.into() };
        let table = [
            (202, json!(null), Outcome::Running),
            (200, json!(null), Outcome::Done),
            (204, json!(null), Outcome::Done),
            (404, json!(null), Outcome::Done),
            (503, json!(null), Outcome::Running),
            (200, json!({"TaskState": "Running"}), Outcome::Running),
            (202, json!({"TaskState": "New"}), Outcome::Running),
            (200, json!({"TaskState": "Pending"}), Outcome::Done),
            (200, json!({"TaskState": "Completed", "TaskStatus": "OK"}), Outcome::Done),
            (
                200,
                json!({"TaskState": "Completed", "TaskStatus": "Critical"}),
                failed("Completed", "no message"),
            ),
            (
                200,
                json!({"TaskState": "Exception", "Messages": [{"Message": "bad"}, 3]}),
                failed("Exception", "bad"),
            ),
            (400, json!({"error": {"message": "no"}}), failed("400", "no")),
        ];
        for (status, body, expected) in table {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            assert_eq!(outcome(status, &body), expected, "{status} {body}");
        }
    }
}

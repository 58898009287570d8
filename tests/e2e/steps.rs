//! The steps that the planner takes, as the manager logs them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::e2e::{LIMIT, NAMESPACE};

/// Follows the log of a manager that runs with `--log-format=json` and logs `ferric::controllers::host` at `debug`.
pub struct Steps {
    file: File,
    partial: Vec<u8>,
    lines: VecDeque<Step>,
}

struct Step {
    host: String,
    name: String,
}

impl Steps {
    pub fn follow(log: &Path) -> Self {
        Self { file: File::open(log).unwrap(), partial: Vec::new(), lines: VecDeque::new() }
    }

    /// Leaves out what was logged so far.
    pub fn skip(&mut self) {
        self.read();
        self.lines.clear();
    }

    /// The steps of a host that were logged since. One that is planned again at once, as after a conflict, counts once.
    pub fn of(&mut self, host: &str) -> Vec<String> {
        self.read();
        let mut steps: Vec<String> =
            self.lines.iter().filter(|step| step.host == host).map(|step| step.name.clone()).collect();
        steps.dedup();
        steps
    }

    /// Returns as soon as this step of a host was logged for the `times`-th time: it is about to be taken.
    pub async fn until(&mut self, host: &str, step: &str, times: usize) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let steps = self.of(host);
            if steps.iter().filter(|other| *other == step).count() >= times {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not planned {times} times within {} s: {steps:?}", LIMIT.as_secs()));
            }
            // A step takes milliseconds.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn read(&mut self) {
        self.file.read_to_end(&mut self.partial).unwrap();
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        for line in whole.split(|byte| *byte == b'\n') {
            // A manager that was killed in the middle of a line leaves half of one.
            let Ok(line) = serde_json::from_slice::<Value>(line) else { continue };
            let Some(host) = line["host"].as_str() else { continue };
            let name = match line["message"].as_str() {
                Some("planned") => line["step"].as_str().and_then(name),
                // The one write that comes from outside of the plan: an agent registers.
                Some("record") => line["write"]
                    .as_str()
                    .filter(|write| write.starts_with("AgentRegistered"))
                    .map(|_| "Write AgentRegistered".to_owned()),
                _ => None,
            };
            let Some(name) = name else { continue };
            let host = host.strip_prefix(NAMESPACE).and_then(|host| host.strip_prefix('/')).unwrap_or(host);
            self.lines.push_back(Step { host: host.to_owned(), name });
        }
    }
}

/// The name of a step that is an action: `Write BeginBoot` of `Act(Write { write: BeginBoot { number: 1 }, … })`.
fn name(step: &str) -> Option<String> {
    let action = step.strip_prefix("Act(")?;
    let word = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
        text[..end].to_owned()
    };
    let kind = word(action);
    let inside = |key: &str| action.split_once(key).map(|(_, rest)| rest);
    let detail = match kind.as_str() {
        "Job" => match inside("job: ")? {
            power if power.starts_with("Power(") => power[..=power.find(')')?].to_owned(),
            job => word(job),
        },
        "Write" => word(inside("write: ")?),
        "Task" => word(inside("Task(")?),
        _ => String::new(),
    };
    Some(format!("{kind} {detail}").trim_end().to_owned())
}

#[test]
fn steps_are_called_by_their_names() {
    let named = |step| name(step).unwrap_or_default();
    assert_eq!(named("Act(Write { write: BeginBoot { number: 1 }, guarded: true })"), "Write BeginBoot");
    assert_eq!(named("Act(Write { write: Inspected, guarded: false })"), "Write Inspected");
    assert_eq!(named("Act(Job { job: Power(ForceOff), guarded: true })"), "Job Power(ForceOff)");
    assert_eq!(named("Act(Job { job: BootAgent(2), guarded: false })"), "Job BootAgent");
    assert_eq!(named("Act(Task(Clean { id: \"clean-1-0\", mode: Metadata }))"), "Task Clean");
    assert_eq!(named("Act(SaveHardware)"), "SaveHardware");
    assert_eq!(name("Rest(300s)"), None);
}

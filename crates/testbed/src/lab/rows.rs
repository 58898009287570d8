//! All that is shown on virtual servers, row after row, each in a process of its own: one that fails, hangs or crashes
//! hides no other. At the end stands a table.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::LabStack;
use super::stack::{agent_image, say};
use crate::error::{Error, Result};
use crate::stack::programs::workspace;

/// Packages with the test programs that hold rows, and which of their tests are rows.
const PROGRAMS: [(&str, &str, Which); 3] = [
    ("ferric", "e2e_vm", Which::All),
    ("ferric", "vm_lab", Which::Ignored),
    ("ferric-agent", "drives_vm", Which::Ignored),
];
/// No row takes as long, whatever its own limit is: what it started is ended then.
const ROW_LIMIT: Duration = Duration::from_secs(2700);

/// Beginnings of the names of rows that run only where a filter asks for them: one takes more than ten minutes, the others
/// are about BMCs and have a target of their own.
const APART: [&str; 3] = ["vm_lab control_plane::", "vm_lab in_band::", "vm_lab boot::wake_on_lan"];

/// Which tests of a program are rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// All.
    All,
    /// Those that run only when they are asked for.
    Ignored,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// `program` or `program module::test`.
    name: String,
    /// The test program.
    program: PathBuf,
    /// The test's name in it.
    test: String,
}

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// It ended well, and has shown nothing.
    Skipped,
    Failed,
    /// Its time was over.
    Hung,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Skipped => "SKIPPED",
            Self::Failed => "FAILED",
            Self::Hung => "FAILED (hung)",
        }
    }
}

/// A row that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    name: String,
    outcome: Outcome,
    took: Duration,
}

/// Builds and runs all rows whose name contains one of `filters` (without any, all that are not long) and prints a table. `Ok(true)`: each
/// of them, and at least one, has run and passed.
pub async fn run(filters: &[String]) -> Result<bool> {
    let begin = Instant::now();
    if let Some(reason) = super::obstacle() {
        return Err(Error::Assets(format!("nothing can be shown on virtual servers here: {reason}")));
    }
    LabStack::prepare().await?;
    let image = agent_image().await?;
    let mut rows = Vec::new();
    for (package, program, which) in PROGRAMS {
        rows.extend(list(package, program, which).await?);
    }
    rows.retain(|row| {
        let wanted = asked_for(&row.name, filters);
        if filters.is_empty() && !wanted {
            say(&format!("lab: {} is run where ROWS names it", row.name));
        }
        wanted
    });
    say(&format!("lab: {} rows, after {} s of preparation", rows.len(), begin.elapsed().as_secs()));
    let mut shown = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        say(&format!("==> row {} of {}: {}", number + 1, rows.len(), row.name));
        let since = Instant::now();
        let mut command = Command::new(&row.program);
        command.args([&row.test, "--exact", "--include-ignored", "--test-threads=1"]);
        // Made once, and the same for all.
        command.env("FERRIC_AGENT_IMAGE", &image);
        let outcome = one(command, ROW_LIMIT, &mut std::io::stderr()).await?;
        let took = since.elapsed();
        let (took_s, all_s) = (took.as_secs(), begin.elapsed().as_secs());
        say(&format!("    {}: {} after {took_s} s ({all_s} s in all)", row.name, outcome.word()));
        shown.push(Shown { name: row.name.clone(), outcome, took });
    }
    println!("{}", table(&shown, begin.elapsed()));
    Ok(all_passed(&shown))
}

/// Whether a row is run.
fn asked_for(name: &str, filters: &[String]) -> bool {
    match filters {
        [] => !APART.iter().any(|long| name.starts_with(long)),
        filters => filters.iter().any(|filter| name.contains(filter)),
    }
}

/// Whether all that was asked for was shown. What was skipped was not.
fn all_passed(shown: &[Shown]) -> bool {
    !shown.is_empty() && shown.iter().all(|row| row.outcome == Outcome::Passed)
}

/// What the rows were, for people; Markdown.
fn table(shown: &[Shown], whole: Duration) -> String {
    let width = shown.iter().map(|row| row.name.len()).max().unwrap_or(0).max(3);
    let mut text = format!("| {:width$} | result | seconds |\n|-{:-<width$}-|---|---|\n", "row", "");
    for Shown { name, outcome, took } in shown {
        text += &format!("| {name:width$} | {} | {} |\n", outcome.word(), took.as_secs());
    }
    let count = |outcome| shown.iter().filter(|row| row.outcome == outcome).count();
    let failed = count(Outcome::Failed) + count(Outcome::Hung);
    text + &format!(
        "{} rows: {} passed, {failed} failed, {} skipped; {} s in all, preparation included",
        shown.len(),
        count(Outcome::Passed),
        count(Outcome::Skipped),
        whole.as_secs()
    )
}

/// Builds a test program and asks it for its rows.
async fn list(package: &str, program: &str, which: Which) -> Result<Vec<Row>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args(["test", "--quiet", "--locked", "--no-run"]);
    command.args(["--message-format=json-render-diagnostics", "--package", package, "--test", program]);
    let path = executable(&output(command, "cargo").await?, program).ok_or_else(|| {
        Error::malformed("what cargo said", format!("it names no program of test {program}"))
    })?;
    let mut command = Command::new(&path);
    command.args(["--list", "--format=terse"]);
    command.args((which == Which::Ignored).then_some("--ignored"));
    let tests = output(command, program).await?;
    Ok(tests_of(&tests)
        .map(|test| Row { name: format!("{program} {test}"), program: path.clone(), test: test.to_owned() })
        .collect())
}

/// The file of a test program, in the messages of cargo (The Cargo Book, External tools, JSON messages).
fn executable(messages: &str, program: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = |message: &Value| {
        message["reason"] == "compiler-artifact"
            && message["target"]["name"] == program
            && message["target"]["kind"][0] == "test"
    };
    messages.filter(ours).find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// Names in a test program's list.
fn tests_of(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.strip_suffix(": test"))
}

async fn output(mut command: Command, name: &str) -> Result<String> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let line = format!("{:?}", command.as_std());
    let output = command.output().await.map_err(|source| Error::Spawn {
        name: name.to_owned(),
        program: line.clone(),
        source,
    })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::Command {
            command: line,
            status: output.status.to_string(),
            stderr: "see above".to_owned(),
        }),
    }
}

/// A row's processes; ended when dropped. What runs in a lab ends with the process that started the lab.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // As long as it was not waited for, the number is its own.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs one row and passes on what it says while it runs; what it printed besides follows if it failed.
async fn one(mut command: Command, limit: Duration, to: &mut impl Write) -> Result<Outcome> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C at a terminal is for this process, which ends the row.
    command.process_group(0).kill_on_drop(true);
    let program = command.as_std().get_program().display().to_string();
    let spawned = command.spawn();
    let mut running =
        Running(spawned.map_err(|source| Error::Spawn { name: "a row".to_owned(), program, source })?);
    let (printed, said) = (running.0.stdout.take(), running.0.stderr.take());
    let ended = tokio::time::timeout(limit, async {
        tokio::join!(collect(printed), pass_on(said, &mut *to), running.0.wait())
    });
    let Ok((printed, skipped, status)) = ended.await else { return Ok(Outcome::Hung) };
    let passed = status.is_ok_and(|status| status.success());
    if !passed {
        let _ = writeln!(to, "{}", printed.trim_end());
    }
    Ok(match (passed, skipped) {
        (true, false) => Outcome::Passed,
        (true, true) => Outcome::Skipped,
        (false, _) => Outcome::Failed,
    })
}

async fn collect(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Passes lines on; whether one of them said that the row was skipped.
async fn pass_on(stream: Option<impl AsyncRead + Unpin>, to: &mut impl Write) -> bool {
    let Some(stream) = stream else { return false };
    let (mut stream, mut line, mut skipped) = (BufReader::new(stream), Vec::new(), false);
    while stream.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
        skipped |= line.starts_with(b"SKIPPED ");
        let _ = to.write_all(&line);
        line.clear();
    }
    skipped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::process::wait_until;

    fn shown(name: &str, outcome: Outcome) -> Shown {
        Shown { name: name.to_owned(), outcome, took: Duration::from_secs(61) }
    }

    #[test]
    fn only_rows_that_ran_and_passed_have_shown_something() {
        use Outcome::{Failed, Hung, Passed, Skipped};
        assert!(all_passed(&[shown("a", Passed), shown("b", Passed)]));
        assert!(!all_passed(&[]));
        for other in [Skipped, Failed, Hung] {
            assert!(!all_passed(&[shown("a", Passed), shown("b", other)]), "{other:?}");
        }
    }

    #[test]
    fn long_rows_run_where_they_are_asked_for() {
        let row = "vm_lab control_plane::a";
        assert!(!asked_for(row, &[]) && asked_for("vm_lab boot::a", &[]));
        assert!(asked_for(row, &["boot::".to_owned(), "control_plane::".to_owned()]));
        assert!(!asked_for(row, &["boot::".to_owned()]));
    }

    #[test]
    fn the_table_says_all_of_them() {
        let rows = [
            shown("vm_lab boot::a", Outcome::Passed),
            shown("b", Outcome::Hung),
            shown("c", Outcome::Failed),
            shown("d", Outcome::Skipped),
        ];
        let text = table(&rows, Duration::from_secs(300));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[2], "| vm_lab boot::a | passed | 61 |");
        assert_eq!(lines[3], "| b              | FAILED (hung) | 61 |");
        assert_eq!(lines[6], "4 rows: 1 passed, 2 failed, 1 skipped; 300 s in all, preparation included");
    }

    #[test]
    fn programs_and_tests_are_found_in_what_is_printed() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"vm_lab"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"e2e_vm"},"executable":"/t/e2e_vm-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"vm_lab"},"executable":"/t/vm_lab-2"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "vm_lab"), Some(PathBuf::from("/t/vm_lab-2")));
        assert_eq!(executable(messages, "drives_vm"), None);
        let list = "boot::a: test\nbench::b: benchmark\n\n1 test, 1 benchmark\n";
        assert_eq!(tests_of(list).collect::<Vec<_>>(), ["boot::a"]);
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_row_ends_as_its_process_does() {
        let mut said = Vec::new();
        let table = [
            ("echo fine >&2; echo hidden", Outcome::Passed),
            ("echo SKIPPED it: no root >&2", Outcome::Skipped),
            ("echo SKIPPED it >&2; echo why; exit 101", Outcome::Failed),
            ("kill -9 $$", Outcome::Failed),
        ];
        for (script, outcome) in table {
            assert_eq!(one(shell(script), Duration::from_secs(60), &mut said).await.unwrap(), outcome);
        }
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("fine\nSKIPPED it: no root\nSKIPPED it\nwhy\n"), "{said:?}");
        assert!(!said.contains("hidden"), "what a good row prints is of no interest");
    }

    #[tokio::test]
    async fn what_hangs_is_ended_with_all_that_it_started() {
        let mut said = std::io::sink();
        let hung = one(shell("sleep 600"), Duration::from_millis(100), &mut said).await.unwrap();
        assert_eq!(hung, Outcome::Hung);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let pid = {
            let row = one(shell(&script), Duration::from_secs(600), &mut said);
            let begun = wait_until("it to run", Duration::from_secs(20), async || {
                std::fs::read_to_string(&file).map_err(|error| error.to_string())
            });
            tokio::select! {
                ended = row => panic!("{ended:?}"),
                pid = begun => pid.unwrap(),
            }
        };
        wait_until("it to be gone", Duration::from_secs(20), async || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            // One that is dead and that nobody has taken leave of yet is in state Z.
            if stat.is_empty() || stat.contains(") Z ") { Ok(()) } else { Err(stat) }
        })
        .await
        .unwrap();
    }
}

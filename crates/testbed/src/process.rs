//! A child process that never outlives the bed.
//!
//! Three nets hold it: it is stopped in order, it is killed when its [`Process`] is dropped, and the kernel kills it
//! when this process dies in any other way (`PR_SET_PDEATHSIG`, set by `setpriv` of util-linux).

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::error::{Error, Result};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(25);
/// How long one look may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
const TAIL_LINES: usize = 25;
const TAIL_BYTES: u64 = 64 * 1024;

/// What to run: a program with its arguments, environment and log file.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    log: PathBuf,
}

impl ProcessSpec {
    /// Describes a process called `name` that runs `program` and appends what it prints to `log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            log: log.into(),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_os_string()));
        self
    }

    /// Adds `--name=value`.
    #[must_use]
    pub fn flag(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut arg = OsString::from(format!("--{name}="));
        arg.push(value);
        self.arg(arg)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    fn command(&self) -> Result<std::process::Command> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(Error::file("open the log file", &self.log))?;
        let errors = log.try_clone().map_err(Error::file("open the log file", &self.log))?;
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = std::process::Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
                command
            }
            None => std::process::Command::new(&self.program),
        };
        command
            .args(&self.args)
            // A stray kubeconfig of the developer must never be what a child works on.
            .env_remove("KUBECONFIG")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C at a terminal goes to a whole group; the bed stops its children itself, in order.
            .process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(command)
    }
}

/// A running child process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
    spec: ProcessSpec,
}

impl Process {
    /// Starts the process.
    pub fn spawn(spec: ProcessSpec) -> Result<Self> {
        // `setpriv` would start and only then find nothing to run; say so at once and by name.
        if !spec.program.is_file() {
            return Err(Error::Spawn {
                name: spec.name,
                program: spec.program.display().to_string(),
                source: std::io::Error::from(std::io::ErrorKind::NotFound),
            });
        }
        let spawn_error = |source| Error::Spawn {
            name: spec.name.clone(),
            program: spec.program.display().to_string(),
            source,
        };
        let child = spawn_on_lasting_thread(spec.command()?).map_err(spawn_error)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| {
            spawn_error(std::io::Error::other(format!("process id {} is out of range", child.id())))
        })?;
        Ok(Self { name: spec.name.clone(), child, pid, log: spec.log.clone(), spec })
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that holds what it prints.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status, or `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&mut self, signal: Signal) {
        // Once reaped, the id may belong to somebody else.
        if self.is_running() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Kills it and everything in its process group with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        if self.is_running() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Asks it to end with SIGTERM and kills it if it has not done so after `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + grace;
        while self.is_running() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        self.kill();
    }

    /// Waits until it has ended by itself, at most `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout {
                    what: format!("the end of {}", self.name),
                    limit,
                    last: "still running".to_owned(),
                    detail: self.detail(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts the same command again after it has ended or was killed.
    pub fn respawn(&mut self) -> Result<()> {
        self.kill();
        *self = Self::spawn(self.spec.clone())?;
        Ok(())
    }

    /// Waits until `probe` answers `Ok`; fails at once when the process ends, or after `limit`.
    /// The error holds the last answer of the probe and the end of the log.
    pub async fn wait_ready<F>(&mut self, what: &str, limit: Duration, mut probe: F) -> Result<()>
    where
        F: AsyncFnMut() -> Result<(), String>,
    {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return Err(Error::Exited {
                    name: self.name.clone(),
                    status: status.to_string(),
                    what: what.to_owned(),
                    log: self.log.clone(),
                    tail: log_tail(&self.log),
                });
            }
            let last = match tokio::time::timeout(PROBE_LIMIT, probe()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => reason,
                Err(_) => format!("no answer within {} s", PROBE_LIMIT.as_secs()),
            };
            if Instant::now() >= deadline {
                return Err(Error::Timeout { what: what.to_owned(), limit, last, detail: self.detail() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Fails, with the end of its log, when it has ended although it should be running.
    pub fn check(&mut self) -> Result<()> {
        match self.exit_status() {
            None => Ok(()),
            Some(status) => Err(Error::Exited {
                name: self.name.clone(),
                status: status.to_string(),
                what: "its work to be done".to_owned(),
                log: self.log.clone(),
                tail: log_tail(&self.log),
            }),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    fn detail(&self) -> String {
        format!("; the end of {}:\n{}", self.log.display(), log_tail(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `probe` answers `Ok`, at most `limit`; the error names `what` and the last answer.
pub async fn wait_until<F, T>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let deadline = Instant::now() + limit;
    loop {
        let last = match tokio::time::timeout(PROBE_LIMIT, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer within {} s", PROBE_LIMIT.as_secs()),
        };
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what: what.to_owned(), limit, last, detail: String::new() });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Runs a helper program to its end and returns what it printed; a failure is an error with its messages.
pub(crate) async fn run(mut command: tokio::process::Command, limit: Duration) -> Result<String> {
    let line = command_line(command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(limit, output).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => {
            let program = command.as_std().get_program().to_string_lossy().into_owned();
            return Err(Error::Spawn { name: line, program, source });
        }
        Err(_) => {
            return Err(Error::Timeout {
                what: format!("the end of `{line}`"),
                limit,
                last: "still running".to_owned(),
                detail: String::new(),
            });
        }
    };
    if !output.status.success() {
        return Err(Error::Command {
            command: line,
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command_line(command: &std::process::Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    command.get_args().fold(program, |line, arg| line + " " + &arg.to_string_lossy())
}

fn log_tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("(the log cannot be read: {error})"),
    }
}

/// Where `setpriv` is; without it a child outlives a bed that is killed with SIGKILL.
fn setpriv() -> Option<&'static Path> {
    static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| find_on_path("setpriv"));
    SETPRIV.as_deref()
}

/// Looks a program up on the PATH.
pub(crate) fn find_on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|p| p.is_file())
}

type SpawnJob = (std::process::Command, mpsc::Sender<std::io::Result<Child>>);

/// Spawns on a thread that lives as long as this process. The kernel sends the parent-death signal when the *thread*
/// that made the child ends, and the threads of a runtime or of a test end long before the bed does.
fn spawn_on_lasting_thread(command: std::process::Command) -> std::io::Result<Child> {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<SpawnJob>>> = LazyLock::new(|| {
        let (jobs, queue) = mpsc::channel::<SpawnJob>();
        // Should this fail, the queue is dropped and every send below reports it.
        let _ = std::thread::Builder::new().name("testbed-spawner".to_owned()).spawn(move || {
            while let Ok((mut command, reply)) = queue.recv() {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = mpsc::channel();
    SPAWNER.lock().map_err(|_| gone())?.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(folder: &Path, script: &str) -> ProcessSpec {
        ProcessSpec::new("shell", "/bin/sh", folder.join("log")).args(["-c", script])
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(shell(folder.path(), "exec sleep 600")).unwrap();
        let pid = process.pid();
        assert!(alive(pid));
        drop(process);
        assert!(!alive(pid));
    }

    #[test]
    fn a_process_survives_the_thread_that_asked_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let mut process = std::thread::spawn(move || Process::spawn(shell(&path, "exec sleep 600")).unwrap())
            .join()
            .unwrap();
        assert!(process.is_running());
        process.kill();
        assert!(!process.is_running());
    }

    #[tokio::test]
    async fn one_that_ignores_sigterm_is_killed_after_the_grace() {
        let folder = tempfile::tempdir().unwrap();
        let mut process =
            Process::spawn(shell(folder.path(), "trap '' TERM; echo up; while :; do sleep 1; done")).unwrap();
        let log = process.log().to_owned();
        process
            .wait_ready("the shell to be up", Duration::from_secs(10), async || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                if text.contains("up") { Ok(()) } else { Err(text) }
            })
            .await
            .unwrap();
        process.stop(Duration::from_millis(50)).await;
        assert!(!process.is_running());
    }

    #[tokio::test]
    async fn an_early_end_is_reported_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::spawn(shell(folder.path(), "echo 'no such flag'; exit 3")).unwrap();
        let error = process
            .wait_ready("readiness", Duration::from_secs(30), async || Err("refused".to_owned()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such flag"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spec = ProcessSpec::new("etcd", folder.path().join("etcd"), folder.path().join("log"));
        let error = Process::spawn(spec).unwrap_err().to_string();
        assert!(error.starts_with("cannot start etcd"), "{error}");
    }
}

//! Processes of a simulated machine. They end with its power: killed when dropped, and by the kernel when the simulator
//! itself dies in whatever way (`PR_SET_PDEATHSIG`, set by `setpriv` of util-linux, if that is installed).

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// First pause before a process that ended by itself is started again; it doubles.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
const MAX_RESTART_PAUSE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) log: PathBuf,
}

impl Program {
    fn command(&self) -> std::io::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let errors = log.try_clone()?;
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.path);
                command
            }
            None => Command::new(&self.path),
        };
        command
            .args(&self.args)
            // A stray kubeconfig must never be what a machine works on.
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        Ok(command)
    }

    /// Runs it to its end, at most `limit`.
    pub(crate) async fn run(&self, limit: Duration) -> Result<(), String> {
        let mut running = Running::start(self.clone())?;
        let until = Instant::now() + limit;
        loop {
            match running.exit() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(format!("{} ended with {status}: {}", self.name, self.last_words()));
                }
                None if Instant::now() > until => {
                    return Err(format!(
                        "{} did not end within {} s: {}",
                        self.name,
                        limit.as_secs(),
                        self.last_words()
                    ));
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The last line of its log.
    fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or("it said nothing")
            .chars()
            .take(400)
            .collect()
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
struct Running {
    /// Empty only while it is dropped.
    child: Option<Child>,
}

impl Running {
    fn start(program: Program) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("could not start {}: {error}", program.path.display());
        // `setpriv` would start and only then find nothing to run.
        if !program.path.is_file() {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        }
        let child = on_lasting_thread(|reply| Order::Spawn(program.command(), reply)).map_err(failed)?;
        Ok(Self { child: Some(child) })
    }

    fn exit(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exit().is_some() {
            return;
        }
        let Some(mut child) = self.child.take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = child.kill();
        // A large process takes a while to be gone, and this may be a thread that others wait for.
        let _ = lock(&SPAWNER).send(Order::Reap(child));
    }
}

/// The programs that a machine keeps running, as kubelet keeps its static pods. All are killed when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    programs: Vec<Supervised>,
}

#[derive(Debug)]
struct Supervised {
    program: Program,
    running: Option<Running>,
    pause: Duration,
    again_at: Instant,
}

impl Supervisor {
    /// Starts a program and keeps it running.
    pub(crate) fn start(&mut self, program: Program) -> Result<(), String> {
        let running = Running::start(program.clone())?;
        let again_at = Instant::now();
        self.programs.push(Supervised { program, running: Some(running), pause: RESTART_PAUSE, again_at });
        Ok(())
    }

    /// Starts again what has ended; to be called now and then.
    pub(crate) fn tend(&mut self) {
        let now = Instant::now();
        for one in &mut self.programs {
            if one.running.as_mut().is_some_and(|running| running.exit().is_some()) {
                tracing::debug!(
                    program = one.program.name,
                    words = one.program.last_words(),
                    "ended by itself"
                );
                one.running = None;
                one.again_at = now + one.pause;
                one.pause = (one.pause * 2).min(MAX_RESTART_PAUSE);
            }
            if one.running.is_none() && now >= one.again_at {
                one.running = Running::start(one.program.clone()).ok();
                one.again_at = now + one.pause;
            }
        }
    }

    /// The last words of a program, for a message about it.
    pub(crate) fn last_words(&self, name: &str) -> String {
        self.programs
            .iter()
            .find(|one| one.program.name == name)
            .map_or_else(String::new, |one| one.program.last_words())
    }
}

/// Finds a program in the folders given.
pub(crate) fn find(folders: &[PathBuf], name: &str) -> Result<PathBuf, String> {
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("there is no {name} in the folders of --binaries ({folders:?})"))
}

fn setpriv() -> Option<&'static Path> {
    static FOUND: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let folders = ["/usr/bin", "/bin", "/usr/local/bin"];
        folders.iter().map(|folder| Path::new(folder).join("setpriv")).find(|path| path.is_file())
    });
    FOUND.as_deref()
}

enum Order {
    Spawn(std::io::Result<Command>, mpsc::Sender<std::io::Result<Child>>),
    Reap(Child),
}

/// The kernel sends the death signal when the *thread* that started a child ends, so that has to be one that stays.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, incoming) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for order in incoming {
            match order {
                Order::Spawn(command, reply) => {
                    drop(reply.send(command.and_then(|mut command| command.spawn())))
                }
                Order::Reap(mut child) => drop(std::thread::spawn(move || child.wait())),
            }
        }
    });
    Mutex::new(orders)
});

fn on_lasting_thread(
    order: impl FnOnce(mpsc::Sender<std::io::Result<Child>>) -> Order,
) -> std::io::Result<Child> {
    let (reply, answer) = mpsc::channel();
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    lock(&SPAWNER).send(order(reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn program(folder: &Path, script: &str) -> Program {
        Program {
            name: "sh",
            path: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            log: folder.join("log"),
        }
    }

    #[tokio::test]
    async fn ends_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(20);
        program(folder.path(), "exit 0").run(limit).await.unwrap();
        let why = program(folder.path(), "echo no room >&2; exit 3").run(limit).await.unwrap_err();
        assert!(why.contains("no room"), "{why}");
        let why = program(folder.path(), "sleep 100").run(Duration::from_millis(50)).await.unwrap_err();
        assert!(why.contains("did not end"), "{why}");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(program(folder.path(), "sleep 1000")).unwrap();
        let pid = Pid::from_raw(i32::try_from(running.child.as_ref().unwrap().id()).unwrap()).unwrap();
        drop(running);
        let until = Instant::now() + Duration::from_secs(20);
        while rustix::process::test_kill_process(pid).is_ok() {
            assert!(Instant::now() < until, "the process still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

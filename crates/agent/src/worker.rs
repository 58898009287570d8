//! Does the tasks, one at a time, whether a session is open or not.

use std::{
    io,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ferric_image::{BlockDevice, Progress, Stage, Throttle, WipeMode, wipe};
use ferric_protocol::{
    tls::BootClock,
    v1::{
        CleanResult, Disk, DiskEvidence, InspectResult, Inventory, Phase, PowerAction, PowerResult, Task,
        TaskError, TaskErrorCode, TaskProgress, TaskResult, task::Work, task_result::Outcome,
    },
};
use rustls::ClientConfig;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    AgentOptions, Platform,
    erase::{self, Evidence, NoCommands, Pace, Step},
    ledger::Ledger,
    plan::{self, CleanPlan},
};

/// What worker and session have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    ledger: Mutex<Ledger>,
    /// What is seen of the hardware now, where that is more than at the start.
    inventory: Mutex<Option<Arc<Inventory>>>,
    /// Something worth telling the provider has changed.
    changed: watch::Sender<()>,
    /// There may be something to do.
    work: Notify,
    running: Mutex<Option<(String, CancellationToken)>>,
    /// A power task that was accepted.
    power: watch::Sender<Option<(String, PowerAction)>>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::default(),
            inventory: Mutex::default(),
            changed: watch::Sender::new(()),
            work: Notify::new(),
            running: Mutex::default(),
            power: watch::Sender::new(None),
        })
    }

    /// Looks at or changes the ledger. Never held across an await.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// What is seen of the hardware now, where that is more than at the start.
    pub(crate) fn inventory(&self) -> Option<Arc<Inventory>> {
        lock(&self.inventory).clone()
    }

    /// More is seen than before; the session is told.
    pub(crate) fn set_inventory(&self, inventory: Inventory) {
        *lock(&self.inventory) = Some(Arc::new(inventory));
        self.announce();
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Tells the session that there is something to tell.
    pub(crate) fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Tells the worker that there is something to do.
    pub(crate) fn wake_worker(&self) {
        self.work.notify_one();
    }

    /// Stops a task.
    pub(crate) fn cancel(&self, id: &str) {
        if self.ledger().cancel(id)
            && let Some((running, token)) = &*lock(&self.running)
            && running == id
        {
            token.cancel();
        }
        self.announce();
    }

    /// Returns when the power is to be changed: the provider has recorded it, or had its time.
    pub(crate) async fn power_due(&self, patience: Duration) -> PowerAction {
        let mut power = self.power.subscribe();
        let (id, action) = loop {
            if let Some(due) = power.borrow_and_update().clone() {
                break due;
            }
            if power.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut changed = self.subscribe();
        let recorded = async {
            while !self.ledger().is_acknowledged(&id) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(patience, recorded).await.is_err() {
            tracing::warn!(task = id, "the provider has not recorded the power task; doing it all the same");
        }
        action
    }

    pub(crate) fn report(&self, id: &str, phase: Phase, done: u64, total: Option<u64>, message: &str) {
        self.ledger().progress(TaskProgress {
            task_id: id.to_owned(),
            phase: phase.into(),
            bytes_done: done,
            bytes_total: total.unwrap_or(0),
            message: message.to_owned(),
        });
        self.announce();
    }
}

/// Does the tasks of one machine.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) options: AgentOptions,
    /// Trusts the provider's CA.
    pub(crate) tls: ClientConfig,
    pub(crate) clock: BootClock,
}

impl Worker {
    /// Works until it is stopped or a power task came.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let next = self.shared.ledger().start_next();
            let Some(task) = next else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.shared.work.notified() => continue,
                }
            };
            if stop.is_cancelled() {
                return;
            }
            let id = task.id.clone();
            let cancel = stop.child_token();
            *lock(&self.shared.running) = Some((id.clone(), cancel.clone()));
            self.shared.announce();
            tracing::info!(task = id, "task started");
            let power = match &task.work {
                Some(Work::Power(power)) => Some(power.action()),
                _ => None,
            };
            let outcome = self.execute(task, &cancel).await;
            let outcome = outcome.unwrap_or_else(|error| {
                // Whatever broke because of a cancellation is a cancellation.
                let code = if cancel.is_cancelled() { TaskErrorCode::Cancelled } else { error.code() };
                tracing::warn!(task = id, code = code.as_str_name(), error = error.message, "task failed");
                Outcome::Error(TaskError { code: code.into(), ..error })
            });
            *lock(&self.shared.running) = None;
            let accepted = matches!(outcome, Outcome::Power(_));
            tracing::info!(task = id, "task finished");
            self.shared.ledger().finish(TaskResult { task_id: id.clone(), outcome: Some(outcome) });
            if let Some(action) = power.filter(|_| accepted) {
                self.shared.power.send_replace(Some((id, action)));
                self.shared.announce();
                return;
            }
            self.shared.announce();
        }
    }

    async fn execute(&self, task: Task, cancel: &CancellationToken) -> Result<Outcome, TaskError> {
        let id = &task.id;
        match task.work {
            Some(Work::Inspect(_)) => {
                self.shared.report(id, Phase::Inspecting, 0, None, "");
                let inventory = Some(self.inventory().await?);
                Ok(Outcome::Inspect(InspectResult { inventory }))
            }
            Some(Work::Clean(clean)) => {
                let disks = self.inventory().await?.disks;
                let plan = plan::clean(&clean, &disks, self.options.min_root_bytes)?;
                let mode = clean.mode;
                let disks = self.clean(id, plan, cancel).await?;
                Ok(Outcome::Clean(CleanResult { mode, disks }))
            }
            Some(Work::Deploy(deploy)) => Ok(Outcome::Deploy(self.deploy(id, &deploy, cancel).await?)),
            Some(Work::Stage(stage)) => Ok(Outcome::Stage(self.stage(id, &stage, cancel).await?)),
            Some(Work::Power(power)) => match power.action() {
                PowerAction::Unspecified => {
                    Err(plan::error(TaskErrorCode::Unsupported, "the power action is not known"))
                }
                action => Ok(Outcome::Power(PowerResult { action: action.into() })),
            },
            None => Err(plan::error(TaskErrorCode::Unsupported, "the kind of task is not known")),
        }
    }

    pub(crate) async fn inventory(&self) -> Result<Inventory, TaskError> {
        let platform = self.platform.clone();
        let inventory = blocking(move || Ok(platform.inventory())).await?;
        inventory
            .map_err(|e| plan::error(TaskErrorCode::Internal, format!("the inventory cannot be read: {e}")))
    }

    async fn clean(
        &self,
        id: &str,
        plan: CleanPlan,
        cancel: &CancellationToken,
    ) -> Result<Vec<DiskEvidence>, TaskError> {
        let _permit = self.write_permit(cancel).await?;
        let mut evidence = Vec::new();
        for disk in plan.disks {
            if cancel.is_cancelled() {
                return Err(plan::error(TaskErrorCode::Cancelled, "cancelled between two disks"));
            }
            let job = CleanJob {
                platform: self.platform.clone(),
                mode: plan.mode,
                pace: self.options.erase_pace,
                observer: self.observer(id, cancel, &disk.name),
                disk,
            };
            let (pulse, name) = (job.observer.pulse.clone(), job.disk.name.clone());
            let stalled = pulse.stopped(self.options.disk_patience);
            evidence.push(tokio::select! {
                cleaned = blocking(move || job.run()) => cleaned?,
                // The thread stays with the disk, which it has for itself; nothing else is held up by it.
                () = stalled => {
                    let patience = self.options.disk_patience.as_secs();
                    let text = format!("{name} has not answered for {patience} s");
                    return Err(plan::error(TaskErrorCode::DiskFailed, text));
                }
            });
        }
        evidence.extend(plan.untouched.into_iter().map(plan::untouched));
        Ok(evidence)
    }

    pub(crate) async fn write_permit(
        &self,
        cancel: &CancellationToken,
    ) -> Result<Option<tokio::sync::OwnedSemaphorePermit>, TaskError> {
        let Some(permits) = &self.options.write_permits else { return Ok(None) };
        tokio::select! {
            () = cancel.cancelled() => Err(plan::error(TaskErrorCode::Cancelled, "cancelled before it was begun")),
            permit = permits.clone().acquire_owned() => Ok(permit.ok()),
        }
    }

    pub(crate) fn observer(&self, id: &str, cancel: &CancellationToken, message: &str) -> Observer {
        Observer {
            shared: self.shared.clone(),
            id: id.to_owned(),
            message: message.to_owned(),
            cancel: cancel.clone(),
            throttle: Throttle::new(self.options.progress_interval),
            pulse: Pulse::default(),
        }
    }
}

/// When a thread was last heard of.
#[derive(Clone)]
struct Pulse(Arc<Mutex<Instant>>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Pulse {
    fn beat(&self) {
        *lock(&self.0) = Instant::now();
    }

    /// Returns when nothing was heard for that long.
    async fn stopped(self, patience: Duration) {
        loop {
            let silent = lock(&self.0).elapsed();
            let Some(rest) = patience.checked_sub(silent).filter(|rest| !rest.is_zero()) else { return };
            tokio::time::sleep(rest).await;
        }
    }
}

/// Turns the progress of a thread into that of a task, and tells the thread when to stop.
pub(crate) struct Observer {
    shared: Arc<Shared>,
    id: String,
    message: String,
    cancel: CancellationToken,
    throttle: Throttle,
    pulse: Pulse,
}

impl Observer {
    /// The same, of a disk that is being erased by one of several methods.
    fn erasing(&mut self, disk: &str, step: Step) -> ControlFlow<()> {
        let message = format!("{disk}: {}", step.method.name());
        if message != self.message {
            self.message = message;
            // Another method is news.
            self.throttle = self.throttle.anew();
        }
        self.observe(step.progress)
    }

    pub(crate) fn observe(&mut self, progress: Progress) -> ControlFlow<()> {
        self.pulse.beat();
        if self.cancel.is_cancelled() {
            return ControlFlow::Break(());
        }
        if self.throttle.lets_through(Instant::now(), progress) {
            let phase = match progress.stage {
                Stage::Writing => Phase::Writing,
                Stage::Verifying => Phase::Verifying,
                Stage::Wiping => Phase::Cleaning,
            };
            self.shared.report(&self.id, phase, progress.done, progress.total, &self.message);
        }
        ControlFlow::Continue(())
    }
}

/// The part of a cleaning that runs on a thread of its own: one disk.
struct CleanJob {
    platform: Arc<dyn Platform>,
    mode: WipeMode,
    pace: Pace,
    observer: Observer,
    disk: Disk,
}

impl CleanJob {
    fn run(mut self) -> Result<DiskEvidence, TaskError> {
        let disk = self.disk;
        let mut device = open(&*self.platform, &disk)?;
        let evidence = match self.mode {
            WipeMode::Metadata => {
                let wiped = wipe(&mut *device, self.mode, &mut |progress| self.observer.observe(progress));
                Evidence::of_metadata(&wiped.map_err(|e| plan::wipe_error(&disk, &e))?)
            }
            WipeMode::Full => {
                let mut drive = self.platform.open_drive(&disk.name).unwrap_or_else(|error| {
                    tracing::warn!(disk = disk.name, %error, "no commands can be sent to the drive");
                    Box::new(NoCommands::default())
                });
                let seed = rand::random();
                let mut tell = |step| self.observer.erasing(&disk.name, step);
                erase::full(&mut *drive, &mut *device, seed, self.pace, &mut tell)
                    .map_err(|e| plan::erase_error(&disk, &e))?
            }
        };
        Ok(plan::evidence(disk, evidence))
    }
}

pub(crate) fn open(platform: &dyn Platform, disk: &Disk) -> Result<Box<dyn BlockDevice>, TaskError> {
    let opened: io::Result<_> = platform.open_disk(&disk.name);
    opened.map_err(|e| plan::error(TaskErrorCode::DiskFailed, format!("{} cannot be opened: {e}", disk.name)))
}

/// Runs what blocks on a thread for that. A panic there is an error of this task, not the end of the agent.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(plan::error(TaskErrorCode::Internal, format!("the agent failed: {error}"))),
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

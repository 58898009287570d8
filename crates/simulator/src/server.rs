//! One server: its state behind a lock, and the shell that does what the state machine in [`crate::life`] asks for.
//! An idle server has no task of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ferric_image::CountingDevice;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::DiskMode;
use crate::error::Result;
use crate::fault::{BmcFault, Faults};
use crate::fleet::Shared;
use crate::journal::{Counters, Journal, JournalEntry, JournalEvent};
use crate::life::{Action, Event, Exit, Life, Phase, Power, ResetType, Timer};
use crate::os::OsStatus;
use crate::redfish::{Sessions, Subscriptions, face, power_changed};
use crate::rules::Counts;
use crate::spec::{ServerSpec, mix};

pub(crate) struct Server {
    pub(crate) spec: ServerSpec,
    pub(crate) shared: Arc<Shared>,
    inner: Mutex<Inner>,
    tls: OnceLock<Arc<ServerConfig>>,
    /// A certificate that nobody was told of.
    other_tls: OnceLock<Arc<ServerConfig>>,
    /// Held by whatever runs on the server; the next to run waits until the one before has let go.
    pub(crate) hardware: tokio::sync::Mutex<()>,
    /// Held by whoever tells the cluster how the node is: "lost" must not come after "ready".
    pub(crate) node_word: tokio::sync::Mutex<()>,
    /// The disks, when they are in memory.
    pub(crate) counting: Vec<CountingDevice>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) life: Life,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
    pub(crate) counters: Counters,
    pub(crate) sessions: Sessions,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) asset_tag: String,
    pub(crate) os: OsStatus,
    pub(crate) disk_bytes_written: u64,
    /// How often the rules among the faults matched.
    pub(crate) rule_counts: Counts,
    /// The BMC restarts, and does not answer before.
    pub(crate) restarts_until: Option<Instant>,
    /// When the power became what, newest last: for a BMC that is behind.
    power_history: VecDeque<(Instant, Power)>,
    /// Ends what runs on the server.
    running: Option<CancellationToken>,
    /// Wakes who waits for the faults to change.
    faults_changed: Option<Arc<tokio::sync::Notify>>,
}

/// Changes of the power that are kept.
const POWER_HISTORY: usize = 64;

impl Inner {
    /// Whether the BMC restarts at the moment.
    pub(crate) fn restarts(&self) -> bool {
        self.restarts_until.is_some_and(|until| Instant::now() < until)
    }

    fn note_power(&mut self, before: Power) {
        let now = Instant::now();
        if self.power_history.is_empty() {
            // As long ago as matters to anybody who looks back.
            self.power_history.push_back((now, before));
        }
        if self.power_history.len() == POWER_HISTORY {
            self.power_history.pop_front();
        }
        self.power_history.push_back((now, self.life.power));
    }

    /// The power as the BMC says it.
    pub(crate) fn reported_power(&self, now: Instant) -> Power {
        if let Some(lie) = self.faults.power_lies {
            return lie;
        }
        let Some(lag) = self.faults.power_lag_ms.map(Duration::from_millis) else { return self.life.power };
        let old = |at: &Instant| now.saturating_duration_since(*at) >= lag;
        let known = self.power_history.iter().rev().find(|(at, _)| old(at)).or(self.power_history.front());
        known.map_or(self.life.power, |(_, power)| *power)
    }
}

/// What a server is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// Power as the BMC reports it.
    pub power: Power,
    /// What runs: `Off`, `PoweringOn`, `PoweringOff`, `Post`, `FetchingBootMedia`, `AgentRunning`, `ReadingDisk`, `OSRunning`, `NoBootableDisk`,
    /// `HangsAtPxe` or `Crashed`.
    pub state: String,
    /// More about it: a URL, or why.
    pub detail: String,
    /// Counts power-ons, resets and power-offs.
    pub epoch: u64,
    /// URL of the inserted virtual CD.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub media: Option<String>,
    /// Bytes that agents wrote to its disks, added when an agent ends.
    #[serde(default)]
    pub disk_bytes_written: u64,
    /// The operating system, while it runs.
    pub os: OsStatus,
    /// How often the BMC was asked.
    pub counters: Counters,
    /// Faults put on the server.
    pub faults: Faults,
}

impl Server {
    pub(crate) fn new(spec: ServerSpec, shared: Arc<Shared>) -> Self {
        let counting = match shared.config.disks {
            DiskMode::File => Vec::new(),
            DiskMode::Counting => {
                spec.disks.iter().map(|disk| CountingDevice::new(disk.size_bytes, &shared.blocks)).collect()
            }
        };
        Self {
            spec,
            shared,
            inner: Mutex::default(),
            tls: OnceLock::new(),
            other_tls: OnceLock::new(),
            hardware: tokio::sync::Mutex::new(()),
            node_word: tokio::sync::Mutex::new(()),
            counting,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere must not take the whole server with it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tls_config(&self, of_authority: bool) -> Result<Arc<ServerConfig>> {
        let kept = if of_authority { &self.tls } else { &self.other_tls };
        if let Some(config) = kept.get() {
            return Ok(Arc::clone(config));
        }
        let config = self.shared.tls.server_config(self.spec.bmc_ip.into(), of_authority)?;
        Ok(Arc::clone(kept.get_or_init(|| config)))
    }

    /// Counts a connection; how the BMC fails to answer it, if it does.
    pub(crate) fn connected(&self) -> Option<BmcFault> {
        let mut inner = self.lock();
        inner.counters.connections += 1;
        if inner.restarts() { Some(BmcFault::Unreachable) } else { inner.faults.bmc }
    }

    pub(crate) fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        let mut inner = self.lock();
        if inner.faults == faults {
            return;
        }
        if inner.faults.password != faults.password {
            inner.sessions.clear();
        }
        inner.journal.push(JournalEvent::Faults { faults: faults.clone() });
        inner.faults = faults;
        inner.rule_counts = Counts::default();
        if let Some(changed) = inner.faults_changed.take() {
            changed.notify_waiters();
        }
    }

    /// Waits until the faults are others.
    pub(crate) async fn fault_ends(&self) {
        let changed = Arc::clone(self.lock().faults_changed.get_or_insert_with(Arc::default));
        let notified = changed.notified();
        tokio::select! {
            () = notified => {}
            () = self.shared.shutdown.cancelled() => {}
        }
    }

    /// Waits until an operating system runs.
    pub(crate) async fn os_runs(&self) {
        while self.lock().life.phase != Phase::Os {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn status(&self) -> ServerStatus {
        let inner = self.lock();
        ServerStatus {
            power: inner.life.power,
            state: inner.life.state().to_owned(),
            detail: inner.life.phase.detail().to_owned(),
            epoch: inner.life.epoch,
            media: inner.life.media.clone(),
            disk_bytes_written: inner.disk_bytes_written,
            os: inner.os.clone(),
            counters: inner.counters,
            faults: inner.faults.clone(),
        }
    }

    pub(crate) fn journal(&self, since: u64) -> Vec<JournalEntry> {
        self.lock().journal.since(since)
    }

    /// Changes what is known of the operating system, if the given boot is still the present one.
    pub(crate) fn update_os(&self, epoch: u64, change: impl FnOnce(&mut OsStatus)) {
        let mut inner = self.lock();
        if inner.life.epoch == epoch {
            change(&mut inner.os);
        }
    }

    /// Notes a state that the state machine does not know of.
    pub(crate) fn note_state(&self, state: &str, detail: impl Into<String>) {
        let detail = detail.into();
        tracing::debug!(server = self.spec.name, state, detail);
        self.lock().journal.push(JournalEvent::State { state: state.to_owned(), detail });
    }

    pub(crate) fn handle(self: &Arc<Self>, event: Event) {
        let mut inner = self.lock();
        self.apply(&mut inner, event);
    }

    /// Takes one step and begins what it asks for.
    pub(crate) fn apply(self: &Arc<Self>, inner: &mut Inner, event: Event) {
        if let Event::Fetched { outcome: Err(why), .. } = &event {
            inner
                .journal
                .push(JournalEvent::State { state: "BootMediaFailed".to_owned(), detail: why.clone() });
        }
        if matches!(event, Event::Due { timer: Timer::Post, .. }) && inner.faults.media_ejects_itself {
            inner.life.media = None;
        }
        let (state_before, epoch_before) = (inner.life.state(), inner.life.epoch);
        let power_before = inner.life.power;
        let (life, actions) = std::mem::take(&mut inner.life).step(event);
        inner.life = life;
        if power_before != inner.life.power {
            inner.note_power(power_before);
            let power = serde_json::json!(inner.life.power);
            power_changed(self, face(self.spec.class.bmc), &mut inner.subscriptions, &power);
        }
        if epoch_before != inner.life.epoch {
            inner.os = OsStatus::default();
        }
        for action in actions {
            self.act(inner, action);
        }
        if state_before != inner.life.state() {
            let (state, detail) = (inner.life.state().to_owned(), inner.life.phase.detail().to_owned());
            tracing::debug!(server = self.spec.name, state, detail);
            inner.journal.push(JournalEvent::State { state, detail });
        }
    }

    /// A reset that is accepted, with the faults of boot and power.
    pub(crate) fn reset(self: &Arc<Self>, inner: &mut Inner, reset: ResetType) {
        if inner.faults.boot_override_forgotten {
            inner.life.boot = Life::default().boot;
        }
        if !inner.faults.power_stuck {
            self.apply(inner, Event::Reset(reset));
        }
    }

    fn act(self: &Arc<Self>, inner: &mut Inner, action: Action) {
        match action {
            Action::NotePower { on, cause } => inner.journal.push(JournalEvent::Power { on, cause }),
            Action::NoteBoot { source, url } => {
                inner.journal.push(JournalEvent::Boot { source: source.name().to_owned(), url });
            }
            Action::Stop => {
                if let Some(running) = inner.running.take() {
                    running.cancel();
                }
            }
            Action::Wait { epoch, timer } => {
                let delay = self.delay(&inner.faults, timer, epoch);
                self.run(inner, move |_| async move {
                    tokio::time::sleep(delay).await;
                    Event::Due { epoch, timer }
                });
            }
            Action::Fetch { epoch, url } => {
                let unreadable = inner.faults.boot_media_unreadable;
                self.run(inner, move |server| async move {
                    let outcome = if unreadable {
                        Err(format!("{url}: no link"))
                    } else {
                        crate::boot::fetch(&server.shared.http, &url).await
                    };
                    Event::Fetched { epoch, outcome }
                });
            }
            Action::ReadDisk { epoch } => self.run(inner, move |server| async move {
                let _held = server.hardware.lock().await;
                let outcome = crate::disk::check_bootable(Arc::clone(&server)).await;
                Event::DiskRead { epoch, outcome }
            }),
            Action::RunAgent { epoch, arguments } => {
                self.run_program(inner, epoch, move |server, cancel| async move {
                    crate::agent::run(server, epoch, &arguments, cancel).await
                });
            }
            Action::RunOs { epoch } => {
                inner.os = OsStatus { running: true, ..OsStatus::default() };
                self.run_program(inner, epoch, move |server, cancel| async move {
                    crate::os::run(server, epoch, cancel).await
                });
            }
        }
    }

    /// Begins work that is dropped when the server is stopped.
    fn run<F, Fut>(self: &Arc<Self>, inner: &mut Inner, work: F)
    where
        F: FnOnce(Arc<Self>) -> Fut + Send + 'static,
        Fut: Future<Output = Event> + Send,
    {
        let cancel = self.begin(inner);
        let server = Arc::clone(self);
        self.shared.tracker.spawn(async move {
            let event = tokio::select! {
                () = cancel.cancelled() => return,
                event = work(Arc::clone(&server)) => event,
            };
            server.handle(event);
        });
    }

    /// Begins a program that is told when the server is stopped, and may still tidy up what is outside of it.
    fn run_program<F, Fut>(self: &Arc<Self>, inner: &mut Inner, epoch: u64, program: F)
    where
        F: FnOnce(Arc<Self>, CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Exit> + Send,
    {
        let cancel = self.begin(inner);
        let server = Arc::clone(self);
        self.shared.tracker.spawn(async move {
            let held = server.hardware.lock().await;
            if cancel.is_cancelled() {
                return;
            }
            let exit = program(Arc::clone(&server), cancel.clone()).await;
            drop(held);
            server.handle(Event::Exited { epoch, exit });
        });
    }

    fn begin(&self, inner: &mut Inner) -> CancellationToken {
        inner.running.get_or_insert_with(|| self.shared.shutdown.child_token()).clone()
    }

    fn delay(&self, faults: &Faults, timer: Timer, epoch: u64) -> Duration {
        let delays = &self.shared.config.delays;
        let base = match timer {
            Timer::PowerOn => faults.power_delay_ms.map_or(delays.power_on, Duration::from_millis),
            Timer::PowerOff => faults.power_delay_ms.map_or(delays.power_off, Duration::from_millis),
            Timer::Post => delays.post,
            Timer::Retry => delays.boot_retry,
        };
        self.jitter(base, epoch)
    }

    /// `base`, changed by up to a quarter.
    pub(crate) fn jitter(&self, base: Duration, counter: u64) -> Duration {
        let share = mix(self.spec.seed, counter) % 501;
        base * (750 + u32::try_from(share).unwrap_or(250)) / 1000
    }
}

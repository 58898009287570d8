//! The agent's life: make a key, look at the hardware, register, hold sessions, work, and end as it was told.

use std::{io, sync::Arc, time::Duration};

use ferric_protocol::{
    BootData, PROTOCOL_VERSION,
    tls::{AgentIdentity, BootClock, TlsError, client_config_with_clock},
    v1::{Inventory, PowerAction, RegisterRequest, agent_service_client::AgentServiceClient},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status};
use url::Url;

use crate::{
    AgentOptions, Platform,
    backoff::Backoff,
    connection::{Connection, Dialer},
    erase::{self, Released},
    session::{self, SessionEnd},
    worker::{Shared, Worker},
};

/// Once registered, an agent does not give up at the first refusal: the provider may have lost track for a moment.
const REFUSALS_ONCE_REGISTERED: u32 = 10;
/// How long further changes of the inventory are waited for.
const BURST: Duration = Duration::from_secs(1);
/// Bounds what the provider may ask for.
const HEARTBEAT: std::ops::RangeInclusive<u64> = 1..=3600;

/// What whoever runs the agent is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Restart the machine.
    Reboot,
    /// Restart it into the kernel that was loaded ([`Platform::load_kernel`]), without the firmware.
    Kexec,
    /// Switch it off.
    PowerOff,
    /// Nothing: it was cancelled from outside.
    Cancelled,
}

/// Why the agent cannot go on. Trouble that may pass is not among these: it is waited out.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The provider's URL cannot be used.
    #[error("the provider's URL cannot be used: {0}")]
    Url(#[from] url::ParseError),
    /// No key, or a pin that is none.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The machine does not show its hardware.
    #[error("the inventory cannot be read: {0}")]
    Inventory(#[source] io::Error),
    /// The provider said no, and will say so again: the token is spent, expired or not its own, or the versions differ.
    #[error("the provider refused this agent ({code:?}): {message}")]
    Refused {
        /// Status code.
        code: Code,
        /// What the provider said.
        message: String,
    },
    /// The part that does the tasks is gone: none would be done again, and who only kept up the connection would be
    /// waited for in vain.
    #[error("the agent's worker failed: {0}")]
    Worker(String),
}

/// Runs the agent on a machine until a power task is done, it is refused, or `cancel` fires. A cancelled agent has
/// stopped writing when this returns; one whose future is dropped stops within a block.
pub async fn run(
    boot: BootData,
    platform: Arc<dyn Platform>,
    options: AgentOptions,
    cancel: CancellationToken,
) -> Result<Exit, AgentError> {
    let identity = AgentIdentity::generate()?;
    let clock = BootClock::starting_at(boot.time());
    let tls = client_config_with_clock(&boot, &identity, clock.clone())?;
    let mut h2 = tls.clone();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let dialer = Dialer::new(Url::parse(boot.provider_url())?, h2);
    let inventory = look(&platform, boot.time()).await.map_err(AgentError::Inventory)?;
    tracing::info!(fingerprint = identity.fingerprint(), provider = boot.provider_url(), "agent starts");

    // Fires when this future is dropped too, so that a thread that writes does not outlive its agent.
    let stop = cancel.child_token();
    let _stop_on_drop = stop.clone().drop_guard();
    let shared = Shared::new();
    shared.set_inventory(inventory);
    let _watching = AbortOnDropHandle::new(tokio::spawn(look_again(platform.clone(), shared.clone())));
    let worker = Worker { shared: shared.clone(), platform, options: options.clone(), tls, clock };
    let mut worker = AbortOnDropHandle::new(tokio::spawn(worker.run(stop.clone())));
    let patience = options.power_ack_timeout;
    let provider = Provider { dialer, token: boot.token().to_owned(), options, shared: shared.clone() };
    let end = tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(Exit::Cancelled),
        action = shared.power_due(patience) => Ok(match action {
            PowerAction::PowerOff => Exit::PowerOff,
            PowerAction::Kexec => Exit::Kexec,
            PowerAction::Reboot | PowerAction::Unspecified => Exit::Reboot,
        }),
        broken = broken(&mut worker) => Err(AgentError::Worker(broken)),
        end = provider.talk() => end,
    };
    stop.cancel();
    if !worker.is_finished() {
        let _ = worker.await;
    }
    end
}

/// Returns when the worker panicked. That it came to its end is no reason to.
async fn broken(worker: &mut AbortOnDropHandle<()>) -> String {
    match worker.await {
        Err(error) if error.is_panic() => error.to_string(),
        Ok(()) | Err(_) => std::future::pending().await,
    }
}

async fn look(platform: &Arc<dyn Platform>, now: u64) -> io::Result<Inventory> {
    let platform = platform.clone();
    let looked = tokio::task::spawn_blocking(move || {
        if let Err(error) = platform.set_clock(now) {
            tracing::warn!(%error, "the clock cannot be set");
        }
        let inventory = platform.inventory()?;
        release_drives(&*platform, &inventory);
        Ok(inventory)
    });
    looked.await.map_err(io::Error::other)?
}

/// An erase that was interrupted by a loss of power leaves a drive locked: it is unlocked before anything else, whatever
/// is to be done with it.
fn release_drives(platform: &dyn Platform, inventory: &Inventory) {
    for disk in &inventory.disks {
        let released = match platform.open_drive(&disk.name) {
            Ok(mut drive) => erase::release(&mut *drive).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match released {
            Ok(Released::Nothing) => {}
            Ok(Released::Ours) => {
                tracing::warn!(disk = disk.name, "an erase was interrupted here; its password is taken off");
            }
            Ok(Released::Foreign) => {
                tracing::warn!(disk = disk.name, "an ATA password is set that cannot be taken off");
            }
            Err(error) => {
                tracing::warn!(disk = disk.name, error, "the drive does not say whether it is locked")
            }
        }
    }
}

/// Looks at the hardware again whenever there is more to see.
async fn look_again(platform: Arc<dyn Platform>, shared: Arc<Shared>) {
    let Some(mut changes) = platform.inventory_changes() else { return };
    while changes.changed().await.is_ok() {
        // What comes in a burst is one change.
        tokio::time::sleep(BURST).await;
        changes.mark_unchanged();
        let platform = platform.clone();
        match tokio::task::spawn_blocking(move || platform.inventory()).await {
            Ok(Ok(inventory)) => shared.set_inventory(inventory),
            Ok(Err(error)) => tracing::warn!(%error, "the inventory cannot be read again"),
            Err(error) => tracing::warn!(%error, "the inventory cannot be read again"),
        }
    }
}

/// Everything said to the provider.
struct Provider {
    dialer: Dialer,
    token: String,
    options: AgentOptions,
    shared: Arc<Shared>,
}

impl Provider {
    /// Registers and holds sessions, for as long as the provider neither refuses for good nor has heard enough.
    async fn talk(&self) -> Result<Exit, AgentError> {
        let mut backoff = Backoff::new(self.options.backoff_min, self.options.backoff_max);
        let mut heartbeat = None;
        // What the provider was told with the registration, for the session that follows it.
        let mut told = None;
        let mut was_registered = false;
        let mut refusals = 0;
        loop {
            let client = match self.dialer.dial(&self.options).await {
                Ok(client) => client,
                Err(error) => {
                    pause(&mut backoff, &error.to_string()).await;
                    continue;
                }
            };
            let every = match heartbeat {
                Some(every) => every,
                None => match self.register(client.clone()).await {
                    Ok(Registered::For(every, inventory)) => {
                        was_registered = true;
                        told = inventory;
                        *heartbeat.insert(every)
                    }
                    Ok(Registered::AndDone(exit)) => return Ok(exit),
                    Err(status) => {
                        refusals += u32::from(is_refusal(status.code()));
                        let limit = if was_registered { REFUSALS_ONCE_REGISTERED } else { 1 };
                        if refusals >= limit {
                            let (code, message) = (status.code(), status.message().to_owned());
                            return Err(AgentError::Refused { code, message });
                        }
                        pause(&mut backoff, &format!("{:?}: {}", status.code(), status.message())).await;
                        continue;
                    }
                },
            };
            let established = || {
                refusals = 0;
                backoff.reset();
            };
            // A later session may be with another process of the provider, which knows nothing of this machine.
            let told = told.take();
            let end = session::hold(client, &self.shared, &self.options, every, told, established).await;
            let why = match end {
                SessionEnd::Broken(why) => why,
                SessionEnd::Unregistered(why) => {
                    heartbeat = None;
                    why
                }
            };
            pause(&mut backoff, &why).await;
        }
    }

    /// Ties this agent's key to its host.
    async fn register(&self, mut client: AgentServiceClient<Connection>) -> Result<Registered, Status> {
        let inventory = self.shared.inventory();
        let request = RegisterRequest {
            protocol_version: PROTOCOL_VERSION,
            boot_token: self.token.clone(),
            inventory: inventory.as_deref().cloned(),
        };
        let answered = tokio::time::timeout(self.options.request_timeout, client.register(request)).await;
        let response =
            answered.map_err(|_| Status::deadline_exceeded("the provider did not answer"))??.into_inner();
        tracing::info!(host = response.host, "registered");
        match response.end() {
            PowerAction::Unspecified => {}
            PowerAction::PowerOff => return Ok(Registered::AndDone(Exit::PowerOff)),
            // There is no kernel that could have been loaded.
            PowerAction::Reboot | PowerAction::Kexec => return Ok(Registered::AndDone(Exit::Reboot)),
        }
        let seconds = u64::from(response.heartbeat_seconds).clamp(*HEARTBEAT.start(), *HEARTBEAT.end());
        Ok(Registered::For(Duration::from_secs(seconds), inventory))
    }
}

/// What came of a registration.
enum Registered {
    /// Sessions, with heartbeats at this interval. The provider knows this inventory.
    For(Duration, Option<Arc<Inventory>>),
    /// The provider knows now what machine this is, and wants no more of it.
    AndDone(Exit),
}

/// Whether the provider will say the same next time. What a proxy or a provider that is only starting might say is not
/// among these.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument
    )
}

async fn pause(backoff: &mut Backoff, why: &str) {
    let pause = backoff.next();
    tracing::warn!(why, seconds = pause.as_secs_f32(), "not connected; trying again");
    tokio::time::sleep(pause).await;
}

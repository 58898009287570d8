//! One session: tells what has changed, takes what comes. Its loss loses nothing: the next one begins with what the
//! ledger holds.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ferric_protocol::v1::{
    AgentMessage, Heartbeat, Hello, Inventory, ProviderMessage, TaskProgress, TaskResult,
    agent_message::Body, agent_service_client::AgentServiceClient, provider_message,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{AgentOptions, connection::Connection, ledger::Offer, worker::Shared};

/// Messages on their way out. When it is full the provider does not read, and the session is given up after a while.
const OUTBOX: usize = 16;

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The connection broke, or the provider went.
    Broken(String),
    /// The provider does not know this key (any more).
    Unregistered(String),
}

impl From<Status> for SessionEnd {
    fn from(status: Status) -> Self {
        let said = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Self::Unregistered(said),
            _ => Self::Broken(said),
        }
    }
}

/// Holds a session until it ends. `told_inventory` is what the provider has just been told; without it, or where there is more
/// to see now, the session begins with the inventory. `established` is called when the provider has accepted it.
pub(crate) async fn hold(
    mut client: AgentServiceClient<Connection>,
    shared: &Arc<Shared>,
    options: &AgentOptions,
    heartbeat: Duration,
    told_inventory: Option<Arc<Inventory>>,
    established: impl FnOnce(),
) -> SessionEnd {
    let (sender, outbox) = mpsc::channel(OUTBOX);
    let changed = shared.subscribe();
    let hello = hello(shared, options);
    if sender.try_send(AgentMessage { body: Some(Body::Hello(hello)) }).is_err() {
        return SessionEnd::Broken("the outbox is closed".to_owned());
    }
    let opened = timeout(options.request_timeout, client.session(ReceiverStream::new(outbox))).await;
    let inbox = match opened {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status.into(),
        Err(_) => return SessionEnd::Broken("the provider did not open the session".to_owned()),
    };
    established();
    let session = Session {
        shared,
        sender,
        patience: options.request_timeout,
        told_results: HashSet::new(),
        told_progress: None,
        told_inventory,
    };
    session.run(inbox, changed, heartbeat).await
}

fn hello(shared: &Shared, options: &AgentOptions) -> Hello {
    let ledger = shared.ledger();
    Hello {
        agent_version: options.version.clone(),
        running: ledger.unfinished(),
        finished: ledger.unacknowledged().map(|result| result.task_id.clone()).collect(),
    }
}

struct Session<'a> {
    shared: &'a Arc<Shared>,
    sender: mpsc::Sender<AgentMessage>,
    patience: Duration,
    told_results: HashSet<String>,
    told_progress: Option<TaskProgress>,
    told_inventory: Option<Arc<Inventory>>,
}

impl Session<'_> {
    async fn run(
        mut self,
        mut inbox: Streaming<ProviderMessage>,
        mut changed: watch::Receiver<()>,
        heartbeat: Duration,
    ) -> SessionEnd {
        // Results from before this session go out at once.
        changed.mark_changed();
        let mut next_heartbeat = Instant::now() + heartbeat;
        loop {
            let told = tokio::select! {
                message = inbox.message() => match message {
                    Ok(Some(message)) => self.take(message).await,
                    Ok(None) => return SessionEnd::Broken("the provider closed the session".to_owned()),
                    Err(status) => return status.into(),
                },
                _ = changed.changed() => self.tell_changes().await,
                () = tokio::time::sleep_until(next_heartbeat) => self.tell(Body::Heartbeat(Heartbeat {})).await,
            };
            match told {
                Ok(true) => next_heartbeat = Instant::now() + heartbeat,
                Ok(false) => {}
                Err(end) => return end,
            }
        }
    }

    /// Takes a message; true when something was answered.
    async fn take(&mut self, message: ProviderMessage) -> Result<bool, SessionEnd> {
        match message.body {
            Some(provider_message::Body::Task(task)) => {
                let offer = self.shared.ledger().offer(task);
                match offer {
                    Offer::Accepted => {
                        self.shared.wake_worker();
                        Ok(false)
                    }
                    Offer::Progress(progress) => self.tell(Body::Progress(progress)).await,
                    Offer::Done(result) => self.tell_result(*result).await,
                }
            }
            Some(provider_message::Body::Cancel(cancel)) => {
                self.shared.cancel(&cancel.id);
                Ok(false)
            }
            Some(provider_message::Body::Ack(ack)) => {
                self.shared.ledger().acknowledge(&ack.task_id);
                self.shared.announce();
                Ok(false)
            }
            // Of a later version; what matters comes as a task, and an unknown task is refused by name.
            None => Ok(false),
        }
    }

    async fn tell_changes(&mut self) -> Result<bool, SessionEnd> {
        let (results, progress) = {
            let ledger = self.shared.ledger();
            let new = ledger.unacknowledged().filter(|result| !self.told_results.contains(&result.task_id));
            (new.cloned().collect::<Vec<_>>(), ledger.running().cloned())
        };
        let mut told = false;
        // Before the results: what a result sets off may want to know it.
        if let Some(inventory) = self.shared.inventory()
            && self.told_inventory.as_ref() != Some(&inventory)
        {
            self.told_inventory = Some(inventory.clone());
            told |= self.tell(Body::Inventory(Arc::unwrap_or_clone(inventory))).await?;
        }
        for result in results {
            told |= self.tell_result(result).await?;
        }
        if let Some(progress) = progress
            && self.told_progress.as_ref() != Some(&progress)
        {
            self.told_progress = Some(progress.clone());
            told |= self.tell(Body::Progress(progress)).await?;
        }
        Ok(told)
    }

    async fn tell_result(&mut self, result: TaskResult) -> Result<bool, SessionEnd> {
        self.told_results.insert(result.task_id.clone());
        self.tell(Body::Result(result)).await
    }

    async fn tell(&mut self, body: Body) -> Result<bool, SessionEnd> {
        match timeout(self.patience, self.sender.send(AgentMessage { body: Some(body) })).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(_)) => Err(SessionEnd::Broken("the connection is gone".to_owned())),
            Err(_) => Err(SessionEnd::Broken("the provider does not read".to_owned())),
        }
    }
}

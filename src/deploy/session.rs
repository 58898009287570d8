//! One agent's session: reads its messages, hands them to the hub, notices its end.

use std::{sync::Arc, time::Duration};

use ferric_protocol::v1::{AgentMessage, Hello, agent_message::Body};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use super::{
    hub::Outbox,
    screen,
    service::{Agent, AgentContext, HEARTBEAT_SECONDS},
};

/// How long an agent may take to say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(30);
/// Silence after which an agent is taken for gone: three heartbeats and a bit.
const SILENCE: Duration = Duration::from_secs(HEARTBEAT_SECONDS as u64 * 3 + 10);
/// Messages a second that an agent may send for long.
const RATE: f64 = 20.0;
/// Messages that it may send at once.
const BURST: f64 = 200.0;

/// Runs a session to its end, whatever ends it.
pub(super) async fn run(
    context: Arc<AgentContext>,
    agent: Agent,
    mut messages: Streaming<AgentMessage>,
    outbox: Outbox,
) {
    let hello = tokio::select! {
        () = context.shutdown.cancelled() => return,
        hello = first_message(&mut messages) => hello,
    };
    let attached = hello.and_then(|hello| {
        let Agent { host, boot_number, fingerprint } = &agent;
        let attached = context.hub.attach(host, *boot_number, fingerprint, hello, outbox.clone());
        attached.map_err(|e| Status::permission_denied(e.to_string()))
    });
    let attached = match attached {
        Ok(attached) => attached,
        Err(status) => {
            tracing::info!(host = %agent.host, reason = status.message(), "agent session refused");
            let _ = outbox.try_send(Box::new(Err(status)));
            return;
        }
    };
    tracing::info!(host = %agent.host, "agent connected");
    let mut leader = context.leader.clone();
    let end = tokio::select! {
        status = read(&context, &agent, attached.id, &mut messages) => status,
        () = attached.ended.cancelled() => Status::aborted("this session is over"),
        () = outbox.closed() => Status::cancelled("the connection is gone"),
        () = context.shutdown.cancelled() => Status::unavailable("the provider is shutting down"),
        standby = leader.wait_for(|l| !l.is_leader()) => {
            Status::unavailable(standby.ok().and_then(|l| l.refusal()).unwrap_or_default())
        }
    };
    tracing::info!(host = %agent.host, reason = end.message(), "agent session ended");
    context.hub.detach(&agent.host, attached.id);
    let _ = outbox.try_send(Box::new(Err(end)));
}

async fn first_message(messages: &mut Streaming<AgentMessage>) -> Result<Hello, Status> {
    let message = timeout(HELLO_WITHIN, messages.message()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    match message.and_then(|m| m.body) {
        Some(Body::Hello(hello)) => {
            let mut ids = hello.running.iter().map(|p| &p.task_id).chain(&hello.finished);
            match ids.all(|id| screen::is_task_id(id)) {
                true => Ok(hello),
                false => Err(Status::invalid_argument("a task id is empty, too long or not printable")),
            }
        }
        _ => Err(Status::invalid_argument("the first message must be hello")),
    }
}

/// Reads until the agent goes or misbehaves.
async fn read(
    context: &AgentContext,
    agent: &Agent,
    id: u64,
    messages: &mut Streaming<AgentMessage>,
) -> Status {
    let mut rate = RateLimit::new(Instant::now());
    loop {
        let message = match timeout(SILENCE, messages.message()).await {
            Err(_) => {
                return Status::deadline_exceeded(format!("nothing heard for {} s", SILENCE.as_secs()));
            }
            Ok(Err(status)) => return status,
            Ok(Ok(None)) => return Status::ok("the agent ended the session"),
            Ok(Ok(Some(message))) => message,
        };
        // Not reading is what slows the sender down: flow control does the rest.
        sleep(rate.delay(Instant::now())).await;
        if let Err(status) = handle(context, agent, id, message) {
            return status;
        }
    }
}

fn handle(context: &AgentContext, agent: &Agent, id: u64, message: AgentMessage) -> Result<(), Status> {
    let checked = |id: &str| match screen::is_task_id(id) {
        true => Ok(()),
        false => Err(Status::invalid_argument("a task id is empty, too long or not printable")),
    };
    let done = match message.body {
        Some(Body::Progress(progress)) => {
            checked(&progress.task_id)?;
            context.hub.progress(&agent.host, id, progress)
        }
        Some(Body::Result(result)) => {
            checked(&result.task_id)?;
            context.hub.result(&agent.host, id, result)
        }
        Some(Body::Heartbeat(_)) => Ok(()),
        Some(Body::Inventory(inventory)) => {
            let inventory =
                screen::inventory(inventory).map_err(|error| Status::invalid_argument(error.to_string()))?;
            context.hub.inventory(&agent.host, id, inventory)
        }
        Some(Body::Hello(_)) => return Err(Status::invalid_argument("hello came twice")),
        // A message of a later protocol version: what is not understood is not acted on.
        None => Ok(()),
    };
    done.map_err(|e| Status::resource_exhausted(e.to_string()))
}

/// A token bucket.
struct RateLimit {
    left: f64,
    at: Instant,
}

impl RateLimit {
    fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// How long to wait before the message that came now is looked at.
    fn delay(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * RATE).min(BURST) - 1.0;
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.left / RATE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_is_slowed_to_the_rate() {
        let start = Instant::now();
        let mut rate = RateLimit::new(start);
        assert!((0..200).all(|_| rate.delay(start).is_zero()));
        let mut now = start;
        for _ in 0..100 {
            now += rate.delay(now);
        }
        let per_second = 100.0 / (now - start).as_secs_f64();
        assert!((RATE * 0.9..=RATE * 1.1).contains(&per_second), "{per_second}");
    }
}

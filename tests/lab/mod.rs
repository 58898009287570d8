//! A host of the virtual lab, as its tests look at it.

pub mod node;

use std::time::Duration;

use ferric_api::BareMetalHost;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::Result;
use ferric_testbed::lab::LabStack;
use ferric_testbed::lab::stack::{Story, wait_for};
use kube::Api;

pub const HOST: &str = "vm-1";
pub const NAMESPACE: &str = "default";

pub fn done<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

pub fn state(host: &BareMetalHost) -> State {
    host.status.as_ref().map(|status| status.provisioning.state).unwrap_or_default()
}

pub fn error(host: &BareMetalHost) -> Option<&str> {
    host.status.as_ref()?.error_message.as_deref()
}

/// What the host waits for.
pub fn waits_for(host: &BareMetalHost) -> &str {
    let waiting = host.status.as_ref().and_then(|status| status.waiting_for.as_ref());
    waiting.map_or("", |waiting| waiting.message.as_str())
}

/// What the host is at, in a few words.
pub fn at(host: &BareMetalHost) -> String {
    if host.status.is_none() {
        return "new".to_owned();
    }
    let error = error(host).map(|error| format!(" ERROR {error}")).unwrap_or_default();
    format!("{:?}: {}{error}", state(host), waits_for(host))
}

/// Waits until the host is as wanted, and tells how it gets there.
pub async fn reach(
    stack: &LabStack,
    story: &mut Story,
    limit: Duration,
    what: &str,
    wanted: impl Fn(&BareMetalHost) -> bool,
) -> BareMetalHost {
    let hosts: Api<BareMetalHost> = Api::namespaced(stack.bed.client(), NAMESPACE);
    let server = done(stack.lab.server(HOST));
    let reached = wait_for(&format!("{HOST} to be {what}"), limit, async || {
        let host = hosts.get(HOST).await.map_err(|error| error.to_string())?;
        story.tell(HOST, &at(&host));
        if wanted(&host) {
            return Ok(host);
        }
        Err(format!("{}; it printed:\n{}", at(&host), server.last_lines(15)))
    })
    .await;
    done(reached)
}

//! A system that a host runs from memory: its files in the cache, what it is configured with, and the tokens by which its
//! server gets both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_api::BareMetalHost;
use ferric_api::host::ImageRecord;
use jiff::Timestamp;

use super::tasks::{Refused, configuration};
use super::{HostContext, ReconcileError};
use crate::boot::composite::Composite;
use crate::boot::{NoSystem, System, seed};
use crate::deploy::images::ImageState;
use crate::host::Job;
use crate::host::consumer::Desired;
use crate::host::plan::live;
use crate::key::Key;

/// What was read of Secrets is kept for one boot: a medium is read in pieces, which have to be of the same medium.
const KEPT: Duration = Duration::from_secs(600);

/// What the system of one deployment is configured with, as an archive for its kernel.
#[derive(Clone)]
pub(super) struct Seed {
    deployment: u64,
    bytes: Bytes,
    used: Instant,
}

/// Says where the image is in the provider's cache, or the two files of a system that runs from memory.
pub(super) fn ensure(key: &Key, context: &HostContext, desired: &Desired) -> ImageState {
    let (image, initrd) = live::files(&desired.image);
    let state = context.images.ensure(key, &image, desired.pull_secret.as_ref());
    match initrd {
        None => state,
        Some(initrd) => live::both(state, context.images.ensure(key, &initrd, None)),
    }
}

/// The record of the system that a host runs from memory, or is about to, if it does.
fn recorded(host: &BareMetalHost) -> Option<&ImageRecord> {
    host.spec.record.as_ref()?.image.as_ref().filter(|image| live::runs_kernel(image))
}

/// What tells one deployment of a host from all others: when it began, in seconds since 1970.
fn deployment(host: &BareMetalHost) -> Option<u64> {
    u64::try_from(recorded(host)?.write_started_at.as_ref()?.0.as_second()).ok()
}

/// The token of the host's present deployment.
pub(super) fn token(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
    expires: Timestamp,
) -> Option<String> {
    context.boot.keys.mint_system(key, deployment(host)?, expires).ok()
}

/// Whether a host that boots from the network is known to be one that the provider has just started.
///
/// Whoever boots from the network is known by its MAC address alone, which anybody can use. So what may be secret is given
/// only while a start that the provider commanded is under way; a system without it to whoever has the address. A token
/// that came through the BMC has no such limit.
pub(super) fn is_invited(host: &BareMetalHost, key: &Key, context: &HostContext) -> bool {
    if recorded(host).is_none_or(|image| image.booted_at.is_none()) {
        return false;
    }
    let consumer = context.consumer(host);
    let Some(desired) = consumer.desired() else { return false };
    let (since, starting) = context.with(key, |r| {
        let running = r.bmc.running.as_ref().map(|running| &running.value);
        (r.bmc.boot_since, matches!(running, Some(Job::Power(_))))
    });
    let secret = desired.user_data.is_some() || desired.network_data.is_some() || desired.meta_data.is_some();
    !secret
        || starting
        || since.is_some_and(|since| started_lately(since, Timestamp::now(), context.limits.agent_boot))
}

fn started_lately(since: Timestamp, now: Timestamp, limit: Duration) -> bool {
    let limit = jiff::SignedDuration::try_from(limit).unwrap_or_default();
    since.saturating_add(limit).is_ok_and(|end| now < end)
}

/// Reads what the system is configured with before the server is started: a Secret that is not there is told then.
pub(super) async fn prepare(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
) -> Result<Result<(), Refused>, ReconcileError> {
    let Some(deployment) = deployment(host) else { return Ok(Ok(())) };
    Ok(read(host, key, context, deployment).await?.map(|_| ()))
}

async fn read(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
    deployment: u64,
) -> Result<Result<Bytes, Refused>, ReconcileError> {
    let consumer = context.consumer(host);
    let Some(desired) = consumer.desired() else {
        return Ok(Err(("NoImage", "nothing is to be booted any more".to_owned())));
    };
    let drive = match configuration(context, &consumer, desired).await? {
        Ok(drive) => drive,
        Err(refused) => return Ok(Err(refused)),
    };
    let bytes = Bytes::from(seed::archive(&drive));
    let seed = Seed { deployment, bytes: bytes.clone(), used: Instant::now() };
    context.with(key, |r| r.seed = Some(seed));
    Ok(Ok(bytes))
}

/// The system for a server that came with a token of `deployment`.
pub(super) async fn system(key: &Key, context: &HostContext, deployment: u64) -> Result<System, NoSystem> {
    let host = context.latest(key).ok_or(NoSystem::Over)?;
    if self::deployment(&host) != Some(deployment) || context.senior_twin(key).is_some() {
        return Err(NoSystem::Over);
    }
    let consumer = context.consumer(&host);
    let same = |desired: &&Desired| {
        live::mark(&desired.image).as_deref() == recorded(&host).map(|image| image.digest.as_str())
    };
    let desired = consumer.desired().filter(same).ok_or(NoSystem::Over)?;
    let (kernel, initrd) = live::files(&desired.image);
    let initrd = initrd.ok_or(NoSystem::Over)?;
    let open = |image, secret| match context.images.ensure(key, image, secret) {
        ImageState::Ready(ready) => match context.images.open_file(&ready.digest) {
            Some(Ok(file)) => Ok(Composite::default().cached(Arc::new(file))),
            _ => Err(NoSystem::NotReady("a file of the system is not in the cache now".to_owned())),
        },
        ImageState::Fetching { .. } => Err(NoSystem::NotReady("the system is being fetched".to_owned())),
        ImageState::Failed { message, .. } => Err(NoSystem::NotReady(message)),
    };
    let kernel = open(&kernel, desired.pull_secret.as_ref())?;
    let initrd = open(&initrd, None)?;
    let now = Instant::now();
    let kept = context.with(key, |r| {
        r.seed.take_if(|seed| seed.deployment != deployment || now.duration_since(seed.used) > KEPT);
        r.seed.as_mut().map(|seed| {
            seed.used = now;
            seed.bytes.clone()
        })
    });
    let seed = match kept {
        Some(seed) => seed,
        None => match read(&host, key, context, deployment).await {
            Ok(Ok(seed)) => seed,
            Ok(Err((_, message))) => return Err(NoSystem::NotReady(message)),
            Err(ReconcileError::Api(error)) => return Err(NoSystem::NotReady(error.to_string())),
        },
    };
    let parameters = desired.image.kernel_parameters.clone().unwrap_or_default();
    Ok(System { kernel, initrd, seed, parameters })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_api::host::HostRecord;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn a_deployment_is_known_by_its_beginning_and_only_of_a_kernel() {
        let host = |digest: &str| {
            let image = ImageRecord {
                digest: digest.to_owned(),
                write_started_at: Some(Time("2026-01-01T00:00:01Z".parse().unwrap())),
                ..ImageRecord::default()
            };
            let mut host = BareMetalHost::new("h", Default::default());
            host.spec.record = Some(HostRecord { image: Some(image), ..HostRecord::default() });
            deployment(&host)
        };
        assert_eq!(host("kernel:ab"), Some(1_767_225_601));
        assert_eq!((host("live-iso"), host("sha256:ab")), (None, None));
        assert_eq!(deployment(&BareMetalHost::new("h", Default::default())), None);
    }

    #[test]
    fn a_start_is_under_way_for_as_long_as_a_boot_may_take() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |text: &str| started_lately(since, text.parse().unwrap(), Duration::from_secs(1800));
        assert!(at("2026-01-01T00:29:59Z") && !at("2026-01-01T00:30:00Z"));
    }
}

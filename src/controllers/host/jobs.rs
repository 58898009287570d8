//! Operations on BMCs, run in the background, one at a time for each host.

use std::sync::Arc;
use std::time::Duration;

use ferric_api::host::BootMode;
use ferric_api::{BareMetalHost, BmcAddress, BmcScheme};
use ferric_bmc::{
    Bmc, BmcError, BootMethod, BootTarget, ConnectOptions, Credentials, ManagerFacts, PowerAction, PowerState,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{HostContext, ReconcileError, events, network, system};
use crate::boot::{BootFile, boot_url, choice, token_lifetime};
use crate::host::job::{Job, aim};
use crate::host::memory::JobOutcome;
use crate::key::Key;
use crate::patch;

/// How long a change of power may take until it is read back.
const POWER_DEADLINE: Duration = Duration::from_secs(120);
/// How long the power may not be read meanwhile until the BMC is given up: many restart their network in between.
const UNREAD: Duration = Duration::from_secs(30);

/// Starts a job; its end wakes the host.
pub(super) async fn start(
    host: &Arc<BareMetalHost>,
    key: &Key,
    context: &Arc<HostContext>,
    job: &Job,
) -> Result<(), ReconcileError> {
    let now = Timestamp::now();
    if *job == Job::ReadNetwork {
        let outcome = network::read(host, key, context).await?;
        context.with(key, |r| r.bmc.finish(job, outcome, Timestamp::now()));
        return Ok(());
    }
    if *job == Job::Probe {
        // Also after a failure: the credentials may have been mended.
        match connect(host, key, context).await? {
            Ok(connection) => context.with(key, |r| r.connection = Some(connection)),
            Err((reason, message)) => {
                context.with(key, |r| {
                    r.bmc.fail(reason.to_owned(), message, None, true, now);
                    if let Some(failure) = r.bmc.failure.as_mut() {
                        failure.cheap = true;
                    }
                });
                return Ok(());
            }
        }
    }
    if *job == Job::BootKernel
        && let Err((reason, message)) = system::prepare(host, key, context).await?
    {
        context.with(key, |r| {
            r.bmc.fail(reason.to_owned(), message, None, false, now);
            if let Some(failure) = r.bmc.failure.as_mut() {
                failure.cheap = true;
            }
        });
        return Ok(());
    }
    let connection = context.with(key, |r| {
        if r.connection.is_none() {
            r.bmc.facts = None;
        }
        let connection = r.connection.clone();
        if connection.is_some() {
            r.bmc.begin(job, now);
        }
        connection
    });
    let Some(connection) = connection else { return Ok(()) };
    if job.changes_something() {
        info!(host = %key, ?job, "BMC job");
    } else {
        debug!(host = %key, ?job, "BMC job");
    }
    let scheme = host.spec.bmc.as_ref().and_then(|bmc| bmc.address.parse::<BmcAddress>().ok());
    let scheme = scheme.map_or(BmcScheme::Redfish, |address| address.scheme());
    let target = match job {
        // Not in the job, which is logged: the URL may hold a secret.
        Job::BootLiveIso => {
            let consumer = context.consumer(host);
            consumer.desired().map(|desired| Ok(BootTarget::LiveMedia { url: desired.image.url.clone() }))
        }
        _ => boot_target(host, key, context, job, scheme),
    };
    let mode = host.spec.boot_mode;
    let wakes_only = host.spec.wakes_only();
    let (context, key, job) = (context.clone(), key.clone(), job.clone());
    tokio::spawn(async move {
        let result = run(&*connection, &job, target, mode, wakes_only).await;
        // The Secret may have been mended: the next try reads it again.
        let reconnect =
            matches!(&result, Err(BmcError::Unauthorized { .. } | BmcError::CertificateRejected { .. }));
        let outcome = result.unwrap_or_else(|error| failed(&error));
        if let JobOutcome::Failed { reason, message, .. } = &outcome {
            info!(host = %key, ?job, %reason, %message, "BMC job failed");
            context.metrics.error(reason);
        }
        if matches!(outcome, JobOutcome::Power(PowerState::Off)) && job.changes_something() {
            // Whatever was connected is dead, though its connection may take a while to be missed.
            context.end_agent(&key);
        }
        let well = !matches!(outcome, JobOutcome::Failed { .. });
        context.with(&key, |r| {
            if reconnect {
                r.bmc.facts = None;
            }
            r.bmc.finish(&job, outcome, Timestamp::now());
            if job == Job::ReadPower {
                r.bmc.see_health(connection.health_seen());
            }
            if let Some(failure) = r.bmc.failure.as_mut().filter(|_| reconnect) {
                failure.cheap = true;
            }
        });
        let _ = context.wake.send(key.clone());
        if well {
            events::keep(&key, &context, &*connection, &job).await;
        }
    });
    Ok(())
}

async fn run(
    bmc: &dyn Bmc,
    job: &Job,
    target: Option<Result<BootTarget, choice::NoWay>>,
    mode: Option<BootMode>,
    wakes_only: bool,
) -> Result<JobOutcome, BmcError> {
    Ok(match job {
        Job::Probe => JobOutcome::Facts(bmc.probe().await?),
        Job::Inspect => JobOutcome::Hardware(Box::new(bmc.inspect().await?)),
        Job::ReadPower => read_power(bmc).await?,
        Job::BootAgent(_) | Job::BootDisk | Job::BootLiveIso | Job::BootKernel => match target {
            Some(Ok(target)) => {
                bmc.set_boot_in(&target, mode).await?;
                JobOutcome::Done
            }
            Some(Err(none)) => JobOutcome::Failed {
                reason: "NoBootMethod".to_owned(),
                message: none.to_string(),
                not_before: None,
            },
            None => JobOutcome::Failed {
                reason: "NoBootTarget".to_owned(),
                message: "no boot target could be made: the BMC's facts are not known".to_owned(),
                not_before: None,
            },
        },
        Job::ReadManager => JobOutcome::Manager(manager(bmc).await?),
        // It was read before a BMC was asked for.
        Job::ReadNetwork => JobOutcome::Done,
        Job::Power(action) => {
            bmc.set_power(*action).await?;
            // Nobody answers a magic packet.
            if wakes_only { JobOutcome::Power(PowerState::Unknown) } else { read_back(bmc, *action).await? }
        }
    })
}

/// What the BMC says of itself. One that does not say has nothing to be compared; one that cannot be asked now is asked again.
async fn manager(bmc: &dyn Bmc) -> Result<ManagerFacts, BmcError> {
    use BmcError::{
        Busy, CertificateRejected, CircuitOpen, DriverNotAvailable, Timeout, Unauthorized, Unreachable,
    };
    match bmc.manager_facts().await {
        Ok(facts) => Ok(facts),
        Err(
            error @ (Busy { .. }
            | CertificateRejected { .. }
            | CircuitOpen { .. }
            | DriverNotAvailable { .. }
            | Timeout { .. }
            | Unauthorized { .. }
            | Unreachable { .. }),
        ) => Err(error),
        Err(error) => {
            info!(%error, "the BMC does not say what it is itself");
            Ok(ManagerFacts::default())
        }
    }
}

/// The power is what was read, not what was asked for. What was asked for is not asked for again in here: a read that
/// fails is repeated, for the change is under way all the same.
async fn read_back(bmc: &dyn Bmc, action: PowerAction) -> Result<JobOutcome, BmcError> {
    let wanted = aim(action);
    let begin = Instant::now();
    let mut read_at = begin;
    let mut pause = Duration::from_millis(50);
    loop {
        let seen = bmc.power().await;
        let now = Instant::now();
        let so_far = match seen {
            Ok(power) if power == wanted => return Ok(JobOutcome::Power(power)),
            Ok(power) => {
                read_at = now;
                format!("still reports power {power}")
            }
            Err(error) if !error.is_transient() || now >= read_at + UNREAD => return Err(error),
            Err(error) => format!("does not say what the power is: {error}"),
        };
        if now >= begin + POWER_DEADLINE {
            let waited = (now - begin).as_secs();
            return Ok(JobOutcome::Failed {
                reason: "PowerNotConfirmed".to_owned(),
                message: format!("the BMC took {action:?} {waited} s ago and {so_far}"),
                not_before: None,
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// A reading of the power; none is a failure, for nothing can be concluded from it.
async fn read_power(bmc: &dyn Bmc) -> Result<JobOutcome, BmcError> {
    Ok(match bmc.power().await? {
        PowerState::Unknown => JobOutcome::Failed {
            reason: "PowerUnknown".to_owned(),
            message:
                "the BMC answers, but does not say whether the server is on: nothing is concluded from that"
                    .to_owned(),
            not_before: None,
        },
        power => JobOutcome::Power(power),
    })
}

fn failed(error: &BmcError) -> JobOutcome {
    let not_before = match error {
        BmcError::CircuitOpen { until, .. } => {
            let rest = until.saturating_duration_since(tokio::time::Instant::now());
            Timestamp::now().saturating_add(jiff::SignedDuration::try_from(rest).unwrap_or_default()).ok()
        }
        _ => None,
    };
    JobOutcome::Failed { reason: error.reason().to_owned(), message: error.to_string(), not_before }
}

/// What the next boot starts from; an error if the BMC has no way that this provider serves.
fn boot_target(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
    job: &Job,
    scheme: BmcScheme,
) -> Option<Result<BootTarget, choice::NoWay>> {
    let number = match job {
        Job::BootDisk => return Some(Ok(BootTarget::Disk)),
        Job::BootAgent(number) => Some(*number),
        Job::BootKernel => None,
        _ => return None,
    };
    let facts = context.with(key, |r| r.bmc.facts.clone())?.value;
    let method = match choice::choose(scheme, &facts.boot_methods, context.boot.offers) {
        Ok(method) => method,
        Err(none) => return Some(Err(none)),
    };
    let (token, once) = match number {
        Some(number) => {
            let lifetime = jiff::SignedDuration::try_from(token_lifetime(context.limits.agent_boot)).ok()?;
            let expires = Timestamp::now().saturating_add(lifetime).ok()?;
            (context.boot.keys.mint(key, number, expires).ok()?, true)
        }
        // It has to be good at each start for as long as the host is to run this system: the record ends it, not time.
        None => (system::token(host, key, context, Timestamp::MAX)?, false),
    };
    // Firmware takes an ISO for a CD; an iPXE script is for those that know iPXE, such as the simulator.
    let file = match method {
        BootMethod::UefiHttp if !context.boot.offers.media => BootFile::Script,
        _ => BootFile::Iso,
    };
    let url = boot_url(&context.boot.boot_url, &token, file).to_string();
    Some(Ok(match (method, once) {
        (BootMethod::VirtualMedia, true) => BootTarget::VirtualMedia { url },
        (BootMethod::VirtualMedia, false) => BootTarget::LiveMedia { url },
        (BootMethod::UefiHttp, true) => BootTarget::UefiHttp { url },
        (BootMethod::UefiHttp, false) => BootTarget::UefiHttpAlways { url },
        (BootMethod::Network, true) => BootTarget::Network,
        (BootMethod::Network, false) => BootTarget::NetworkAlways,
    }))
}

type Refused = (&'static str, String);

/// The address with the MAC address that a magic packet is for: Wake-on-LAN has no other way to say which server it
/// means.
fn with_mac(address: BmcAddress, mac: Option<&str>) -> BmcAddress {
    match mac {
        Some(mac) if address.scheme() == BmcScheme::Wol && address.query().is_empty() => {
            format!("{address}?mac={mac}").parse().unwrap_or(address)
        }
        _ => address,
    }
}

/// Reads the Secrets that the host names, in its own namespace, and gets the connection.
async fn connect(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
) -> Result<Result<Arc<dyn Bmc>, Refused>, ReconcileError> {
    let Some(bmc) = &host.spec.bmc else {
        return Ok(Err(("NoBMC", "spec.bmc is not set".to_owned())));
    };
    let address: BmcAddress = match bmc.address.parse() {
        Ok(address) => address,
        Err(error) => return Ok(Err(("InvalidAddress", format!("spec.bmc.address: {error}")))),
    };
    let address = with_mac(address, host.spec.boot_mac_address.as_deref());
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut credentials = None;
    if !bmc.credentials_name.is_empty() {
        let secret = match patch::get_opt(&secrets, &bmc.credentials_name).await? {
            Some(secret) => secret,
            None => {
                let message = format!(
                    "Secret {}/{} (spec.bmc.credentialsName) does not exist: create it with keys username and password",
                    key.namespace, bmc.credentials_name
                );
                return Ok(Err(("CredentialsMissing", message)));
            }
        };
        // Before it is read: the label gives it another version, and the version says which credentials were used.
        let secret = label_for_move(&secrets, secret).await?;
        let text = |name: &str| {
            let data = secret.data.as_ref()?.get(name)?;
            String::from_utf8(data.0.clone()).ok().map(|s| s.trim_end_matches(['\r', '\n']).to_owned())
        };
        let (Some(username), Some(password)) = (text("username"), text("password")) else {
            let message = format!(
                "Secret {}/{} (spec.bmc.credentialsName) needs the keys username and password",
                key.namespace, bmc.credentials_name
            );
            return Ok(Err(("CredentialsIncomplete", message)));
        };
        credentials = Some(Credentials { username, password, previous_password: text("previousPassword") });
        let version = secret.resource_version().unwrap_or_default();
        context.with(key, |r| r.bmc.credentials = Some((bmc.credentials_name.clone(), version)));
    }
    let mut ca_pem = None;
    if let Some(name) = bmc.ca_name.as_ref().filter(|name| !name.is_empty()) {
        let secret = match patch::get_opt(&secrets, name).await? {
            Some(secret) => Some(label_for_move(&secrets, secret).await?),
            None => None,
        };
        let data = secret.as_ref().and_then(|s| s.data.as_ref()?.get("ca.crt").map(|d| d.0.clone()));
        let Some(pem) = data else {
            let message = format!("Secret {}/{name} (spec.bmc.caName) needs the key ca.crt", key.namespace);
            return Ok(Err(("CAMissing", message)));
        };
        ca_pem = Some(pem);
    }
    let mut certificate_sha256 = None;
    if let Some(text) = &bmc.certificate_fingerprint {
        certificate_sha256 = ferric_bmc::certificate_fingerprint(text);
        if certificate_sha256.is_none() {
            // Not to be taken for none: that would trust the roots of the system.
            let message =
                "spec.bmc.certificateFingerprint is no SHA-256 fingerprint: give 64 hexadecimal digits";
            return Ok(Err(("BMCBadOptions", message.to_owned())));
        }
    }
    let options = ConnectOptions {
        address,
        credentials,
        ca_pem,
        certificate_sha256,
        insecure: bmc.disable_certificate_verification,
    };
    Ok(context.pool.get(&key.to_string(), &options).map_err(|error| (error.reason(), error.to_string())))
}

/// `clusterctl move` takes a Secret along only if it is labelled. Returns the Secret with the label.
pub(super) async fn label_for_move(secrets: &Api<Secret>, secret: Secret) -> Result<Secret, ReconcileError> {
    if secret.labels().contains_key(ferric_api::names::MOVE_LABEL) {
        return Ok(secret);
    }
    let label = serde_json::json!({ "metadata": { "labels": { ferric_api::names::MOVE_LABEL: "" } } });
    match patch::merge_patch(secrets, &secret.name_any(), None, label).await {
        Ok(labelled) => Ok(labelled),
        Err(error) if error.is_not_found() => Ok(secret),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;

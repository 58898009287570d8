//! Operations on BMCs, run in the background, one at a time for each host.

use std::sync::Arc;
use std::time::Duration;

use ferric_api::host::BootMode;
use ferric_api::{BareMetalHost, BmcAddress, BmcScheme};
use ferric_bmc::{
    Bmc, BmcError, BootMethod, BootTarget, ConnectOptions, Credentials, PowerAction, PowerState,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use tracing::{debug, info};

use super::execute::changes_something;
use super::{HostContext, ReconcileError, network, system};
use crate::boot::{BootFile, boot_url, choice, token_lifetime};
use crate::host::memory::{Job, JobOutcome, Seen};
use crate::key::Key;
use crate::patch;

/// How long a change of power may take until it is read back.
const POWER_DEADLINE: Duration = Duration::from_secs(120);

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
            r.bmc.running = Some(Seen { value: job.clone(), at: now });
        }
        connection
    });
    let Some(connection) = connection else { return Ok(()) };
    if changes_something(job) {
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
    let (context, key, job) = (context.clone(), key.clone(), job.clone());
    tokio::spawn(async move {
        let result = run(&*connection, &job, target, mode).await;
        // The Secret may have been mended: the next try reads it again.
        let reconnect =
            matches!(&result, Err(BmcError::Unauthorized { .. } | BmcError::CertificateRejected { .. }));
        let outcome = result.unwrap_or_else(|error| failed(&error));
        if let JobOutcome::Failed { reason, message, .. } = &outcome {
            info!(host = %key, ?job, %reason, %message, "BMC job failed");
            context.metrics.error(reason);
        }
        if matches!(outcome, JobOutcome::Power(PowerState::Off)) && changes_something(&job) {
            // Whatever was connected is dead, though its connection may take a while to be missed.
            context.end_agent(&key);
        }
        context.with(&key, |r| {
            if reconnect {
                r.bmc.facts = None;
            }
            r.bmc.finish(&job, outcome, Timestamp::now());
            if let Some(failure) = r.bmc.failure.as_mut().filter(|_| reconnect) {
                failure.cheap = true;
            }
        });
        let _ = context.wake.send(key);
    });
    Ok(())
}

async fn run(
    bmc: &dyn Bmc,
    job: &Job,
    target: Option<Result<BootTarget, choice::NoWay>>,
    mode: Option<BootMode>,
) -> Result<JobOutcome, BmcError> {
    Ok(match job {
        Job::Probe => JobOutcome::Facts(bmc.probe().await?),
        Job::Inspect => JobOutcome::Hardware(Box::new(bmc.inspect().await?)),
        Job::ReadPower => JobOutcome::Power(bmc.power().await?),
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
        // It was read before a BMC was asked for.
        Job::ReadNetwork => JobOutcome::Done,
        Job::Power(action) => {
            bmc.set_power(*action).await?;
            read_back(bmc, *action).await?
        }
    })
}

/// The power is what was read, not what was asked for.
async fn read_back(bmc: &dyn Bmc, action: PowerAction) -> Result<JobOutcome, BmcError> {
    let wanted = match action {
        PowerAction::On | PowerAction::ForceRestart | PowerAction::PowerCycle => PowerState::On,
        PowerAction::ForceOff | PowerAction::GracefulShutdown => PowerState::Off,
    };
    let deadline = tokio::time::Instant::now() + POWER_DEADLINE;
    let mut pause = Duration::from_millis(50);
    loop {
        let power = bmc.power().await?;
        if power == wanted {
            return Ok(JobOutcome::Power(power));
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(JobOutcome::Failed {
                reason: "PowerNotConfirmed".to_owned(),
                message: format!(
                    "the BMC took {action:?} {} s ago and still reports power {power}",
                    POWER_DEADLINE.as_secs()
                ),
                not_before: None,
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
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
        credentials = Some(Credentials { username, password });
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_magic_packet_is_for_the_boot_mac() {
        let with = |address: &str, mac| with_mac(address.parse().unwrap(), mac).to_string();
        let mac = Some("52:54:00:ab:cd:ef");
        assert_eq!(with("wol://192.0.2.255", mac), "wol://192.0.2.255:9?mac=52:54:00:ab:cd:ef");
        assert_eq!(
            with("wol://192.0.2.255?mac=02:00:00:00:00:01", mac),
            "wol://192.0.2.255:9?mac=02:00:00:00:00:01"
        );
        assert_eq!(with("wol://192.0.2.255", None), "wol://192.0.2.255:9");
        assert_eq!(with("ipmi://192.0.2.1", mac), "ipmi://192.0.2.1:623");
    }
}

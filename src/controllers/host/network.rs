//! Reads the network of a host's agent from the Secret that the host names.

use ferric_api::BareMetalHost;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::jobs::label_for_move;
use super::{HostContext, ReconcileError};
use crate::boot::{command_line_room, token_lifetime};
use crate::host::{AgentNetwork, JobOutcome, network};
use crate::key::Key;
use crate::patch;

/// Where the network data may stand in the Secret: Metal3 looks for these, in this order.
const KEYS: [&str; 2] = ["networkData", "value"];

/// Reads and translates; what is wrong is for the host's conditions.
pub(super) async fn read(
    host: &BareMetalHost,
    key: &Key,
    context: &HostContext,
) -> Result<JobOutcome, ReconcileError> {
    let name = host.spec.preprovisioning_network_data_name.clone().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    let secret = match patch::get_opt(&secrets, &name).await? {
        Some(secret) => label_for_move(&secrets, secret).await?,
        None => {
            let message = format!(
                "Secret {}/{name} (spec.preprovisioningNetworkDataName) does not exist: create it with the key {}, or \
                 name none to have the agent ask DHCP",
                key.namespace, KEYS[0]
            );
            return Ok(failed("NetworkDataMissing", message));
        }
    };
    let data = secret.data.unwrap_or_default();
    let found = KEYS.iter().find_map(|name| Some((*name, &data.get(*name)?.0)));
    let Some((entry, bytes)) = found else {
        let message = format!(
            "Secret {}/{name} (spec.preprovisioningNetworkDataName) has none of the keys {}: add the first",
            key.namespace,
            KEYS.join(", ")
        );
        return Ok(failed("NetworkDataMissing", message));
    };
    let arguments = network::translate(bytes).and_then(|plan| {
        let arguments = plan.to_kernel_args();
        network::fits(&arguments, room(host, key, context)).map(|()| arguments)
    });
    Ok(match arguments {
        Ok(arguments) => JobOutcome::Network(AgentNetwork { secret: name, arguments: arguments.into() }),
        Err(refused) => {
            let secret = format!("{}/{name}", key.namespace);
            failed("NetworkDataInvalid", network::complaint(&secret, entry, &refused))
        }
    })
}

/// What is left of the kernel's command line in the next boot, in bytes.
fn room(host: &BareMetalHost, key: &Key, context: &HostContext) -> usize {
    let number = host.spec.record.as_ref().and_then(|r| r.agent.as_ref()).map_or(0, |a| a.boot_number) + 1;
    let lifetime =
        jiff::SignedDuration::try_from(token_lifetime(context.limits.agent_boot)).unwrap_or_default();
    let expires = Timestamp::now().saturating_add(lifetime).unwrap_or(Timestamp::MAX);
    let token = context.boot.keys.mint(key, number, expires).unwrap_or_default();
    command_line_room(&context.boot.agent_url, &token)
}

fn failed(reason: &str, message: String) -> JobOutcome {
    JobOutcome::Failed { reason: reason.to_owned(), message, not_before: None }
}

//! What is measured elsewhere: the queries of all groups, a few at once.

use std::collections::BTreeMap;

use base64::Engine as _;
use ferric_api::autoscaling::{MetricSource, PrometheusTrigger, TriggerType};
use ferric_api::names::USED_FOR_LABEL;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use reqwest::header::HeaderValue;

use super::prometheus::{self, Access};
use crate::autoscaling::Group;
use crate::autoscaling::triggers::Reading;
use crate::patch;

/// Queries that are asked at once.
const AT_ONCE: usize = 8;

/// Asks what the groups' triggers query. Whatever goes wrong is a reading too.
pub(crate) async fn ask(
    client: &Client,
    namespace: &str,
    groups: &[Group],
) -> BTreeMap<(String, String), Reading> {
    let queries = groups.iter().flat_map(|group| {
        let of_group = group.spec.triggers.iter().filter(|trigger| trigger.kind == TriggerType::Prometheus);
        of_group.filter_map(|trigger| {
            let key = (group.name.clone(), trigger.name.clone());
            trigger.prometheus.clone().map(|details| (key, details))
        })
    });
    // Owned by each: a borrow over the stream would not be `Send`.
    let asked: Vec<_> = queries
        .map(|(key, details)| {
            let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
            async move {
                let reading = match access(&api, &details).await {
                    Ok(access) => prometheus::ask(&details, &access).await,
                    Err(why) => Reading::Failed(why),
                };
                (key, reading)
            }
        })
        .collect();
    stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
}

/// Whether a trigger looks at what nodes use.
pub(crate) fn wants_usage(groups: &[Group]) -> bool {
    groups.iter().flat_map(|group| &group.spec.triggers).any(|trigger| {
        trigger.utilization.as_ref().is_some_and(|details| details.source == MetricSource::Usage)
    })
}

/// What the Secrets of a trigger hold.
async fn access(api: &Api<Secret>, trigger: &PrometheusTrigger) -> Result<Access, String> {
    let mut access = Access::default();
    if let Some(name) = &trigger.credentials_name {
        let secret = read(api, name).await?;
        if secret.labels().get(USED_FOR_LABEL).is_none_or(|purpose| purpose != "prometheus") {
            return Err(format!(
                "Secret {name} is not sent to the server without the label {USED_FOR_LABEL}: prometheus"
            ));
        }
        let data = secret.data.unwrap_or_default();
        let text =
            |key: &str| data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok()).map(str::trim);
        let value = match (text("token"), text("username"), text("password")) {
            (Some(token), _, _) => format!("Bearer {token}"),
            (None, Some(user), Some(password)) => {
                let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                format!("Basic {pair}")
            }
            _ => {
                return Err(format!(
                    "Secret {name} has neither the key token nor the keys username and password"
                ));
            }
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| format!("Secret {name} holds characters that no HTTP header may have"))?;
        value.set_sensitive(true);
        access.authorization = Some(value);
    }
    if let Some(name) = &trigger.ca_name {
        let data = read(api, name).await?.data.unwrap_or_default();
        let pem = data.get("ca.crt").ok_or_else(|| format!("Secret {name} has no key ca.crt"))?;
        access.authorities = Some(pem.0.clone());
    }
    Ok(access)
}

async fn read(api: &Api<Secret>, name: &str) -> Result<Secret, String> {
    match patch::get_opt(api, name).await {
        Ok(Some(secret)) => Ok(secret),
        Ok(None) => Err(format!("there is no Secret {name}")),
        Err(error) => Err(error.to_string()),
    }
}

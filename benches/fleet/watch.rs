//! Waits for a number of objects to come into a state, through one watch. Of each object only what decides is parsed:
//! the watcher shares the machine with what it measures.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use kube::api::{Api, ApiResource, Object};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::Result;

/// What is read of a spec: nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Nothing {}

/// What is read of a status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    #[serde(default)]
    provisioning: Provisioning,
    #[serde(default)]
    initialization: Initialization,
    #[serde(default, rename = "errorMessage")]
    error_message: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Provisioning {
    #[serde(default)]
    state: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Initialization {
    #[serde(default)]
    provisioned: Option<bool>,
}

type Watched = Object<Nothing, Status>;

/// State of a host, or of a machine: `provisioned` or nothing.
fn state(object: &Watched) -> &str {
    let Some(status) = &object.status else { return "" };
    match (&status.provisioning.state, status.initialization.provisioned) {
        (Some(state), _) => state,
        (None, Some(true)) => "provisioned",
        _ => "",
    }
}

/// Waits until `count` objects of a kind are in the state `wanted`; returns when the last one came into it. Says how
/// far it is every ten seconds.
pub async fn reach<K>(client: Client, wanted: &str, count: usize, limit: Duration) -> Result<Instant>
where
    K: kube::Resource<DynamicType = ()>,
{
    let kind = ApiResource::erase::<K>(&());
    let api: Api<Watched> = Api::all_with(client, &kind);
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    let mut done: HashSet<String> = HashSet::new();
    let mut errors: BTreeMap<String, String> = BTreeMap::new();
    let (begin, mut told) = (Instant::now(), Instant::now());
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), events.try_next()).await;
        let object = match next {
            Ok(event) => match event? {
                Some(Event::Apply(object) | Event::InitApply(object)) => Some(object),
                _ => None,
            },
            Err(_) => None,
        };
        if let Some(object) = object {
            let name = object.name_any();
            if state(&object) == wanted {
                errors.remove(&name);
                done.insert(name);
            } else {
                done.remove(&name);
                if let Some(message) = object.status.and_then(|status| status.error_message) {
                    errors.insert(name, message);
                }
            }
            if done.len() >= count {
                return Ok(Instant::now());
            }
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let error =
                errors.iter().next().map(|(name, error)| format!("; {name}: {error}")).unwrap_or_default();
            eprintln!(
                "    {:>4} s: {} of {count} {} {wanted}, {} with an error{error}",
                begin.elapsed().as_secs(),
                done.len(),
                kind.plural,
                errors.len()
            );
        }
        if begin.elapsed() > limit {
            return Err(
                format!("only {} of {count} {} {wanted} after {limit:?}", done.len(), kind.plural).into()
            );
        }
    }
}

//! The operator's quirk rules for BMCs: a ConfigMap in the manager's namespace, watched, so that a rule works without a
//! restart. What a rule may say is `ferric_bmc`'s; here is only where rules come from and who is told of bad ones.

use std::sync::Arc;

use ferric_bmc::{BmcPool, QuirkError, Quirks};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::telemetry::Events;
use crate::telemetry::events::EventKind;

/// Name of the ConfigMap; each key of its data is a file of rules.
pub const CONFIG_MAP: &str = "ferric-bmc-quirks";

/// Watches the rules as a task of `tasks`. A pool has the built-in ones until the first answer, and after a failure
/// those that it had.
pub fn start(
    client: Client,
    namespace: &str,
    pool: Arc<BmcPool>,
    events: Events,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let namespace = namespace.to_owned();
    tasks.spawn(async move {
        let news = watcher::watch_object(api, CONFIG_MAP).default_backoff();
        follow(std::pin::pin!(news), &namespace, |quirks| pool.set_quirks(quirks), &events).await;
        // The watch begins anew by itself and does not end.
        std::future::pending().await
    });
}

/// Takes over every state of the ConfigMap until the news end.
async fn follow(
    mut news: impl Stream<Item = watcher::Result<Option<ConfigMap>>> + Unpin,
    namespace: &str,
    set: impl Fn(Quirks),
    events: &Events,
) {
    let mut had_any = false;
    let mut failing = false;
    while let Some(state) = news.next().await {
        let found = match state {
            Ok(found) => found,
            Err(error) => {
                if !failing {
                    warn!(namespace, name = CONFIG_MAP, %error, "quirk rules cannot be read; those known stay");
                }
                failing = true;
                continue;
            }
        };
        failing = false;
        if found.is_none() && !had_any {
            continue;
        }
        had_any = found.is_some();
        let (quirks, errors) = rules(found.as_ref());
        info!(namespace, name = CONFIG_MAP, rules = quirks.len(), refused = errors.len(), "quirk rules");
        for error in &errors {
            warn!(namespace, name = CONFIG_MAP, %error, "a quirk rule is refused; the others are used");
            if let Some(object) = &found {
                let note = error.to_string();
                events.publish(object, EventKind::Warning, "QuirkRefused", "ReadQuirks", &note);
            }
        }
        set(quirks);
    }
}

/// The built-in rules and those of a ConfigMap, file by file in the order of their names.
fn rules(found: Option<&ConfigMap>) -> (Quirks, Vec<QuirkError>) {
    let data = found.and_then(|object| object.data.as_ref());
    let files: Vec<(&str, &str)> =
        data.into_iter().flatten().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Quirks::with(&files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::RefCell;

    use super::*;

    const GOOD: &str =
        "version: 1\nrules:\n- {name: good, seen: here, match: {vendor: acme}, send: {ifMatch: any}}";
    const BAD: &str = "version: 1\nrules:\n- {name: bad, seen: here, mtach: {vendor: acme}}";

    fn object(files: &[(&str, &str)]) -> ConfigMap {
        let data = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        ConfigMap { data: Some(data.collect()), ..ConfigMap::default() }
    }

    #[test]
    fn a_bad_rule_is_named_and_the_good_ones_are_kept() {
        let built_in = Quirks::default().len();
        let (quirks, errors) = rules(Some(&object(&[("ours.yaml", GOOD), ("theirs.yaml", BAD)])));
        assert_eq!((quirks.len(), errors.len()), (built_in + 1, 1));
        assert!(
            errors[0]
                .to_string()
                .starts_with("quirk rule bad of theirs.yaml is refused: unknown field `mtach`")
        );
        assert_eq!(rules(None).0.len(), built_in);
        assert_eq!(rules(Some(&ConfigMap::default())).0.len(), built_in);
    }

    #[tokio::test]
    async fn every_state_is_taken_over_and_a_failure_changes_nothing() {
        let states = vec![
            Ok(None),
            Ok(Some(object(&[("a", GOOD)]))),
            Err(watcher::Error::NoResourceVersion),
            Ok(Some(object(&[("a", BAD)]))),
            Ok(None),
        ];
        let seen = RefCell::new(Vec::new());
        let set = |quirks: Quirks| seen.borrow_mut().push(quirks.len());
        follow(futures::stream::iter(states), "ns", set, &Events::nowhere()).await;
        let built_in = Quirks::default().len();
        assert_eq!(*seen.borrow(), [built_in + 1, built_in, built_in]);
    }
}

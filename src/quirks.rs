//! The operator's quirk rules for BMCs: a ConfigMap in the manager's namespace, watched, so that a rule works without a
//! restart. What a rule may say is `ferric_bmc`'s; here is only where rules come from and who is told of bad ones.

use std::sync::Arc;

use ferric_api::names::QUIRKS_REFUSED_ANNOTATION;
use ferric_bmc::{BmcPool, QuirkError, Quirks};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::lease::LeaderState;
use crate::patch;
use crate::telemetry::events::EventKind;
use crate::telemetry::{Events, Metrics};

/// Name of the ConfigMap; each key of its data is a file of rules.
pub const CONFIG_MAP: &str = "ferric-bmc-quirks";

/// Longest text of the annotation that names refused rules, in bytes. All annotations of an object share 256 KiB.
const MOST_REFUSALS: usize = 4096;

/// Who is told of the rules, and whether this replica is the one to write that to the ConfigMap.
pub struct Told {
    /// Events.
    pub events: Events,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The lease.
    pub leader: watch::Receiver<LeaderState>,
}

/// Watches the rules as a task of `tasks`. A pool has the built-in ones until the first answer, and after a failure
/// those that it had.
pub fn start(
    client: Client,
    namespace: &str,
    pool: Arc<BmcPool>,
    told: Told,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let namespace = namespace.to_owned();
    tasks.spawn(async move {
        told.metrics.quirk_rules(Quirks::default().len(), 0);
        let (sender, refusals) = watch::channel(None);
        let news = std::pin::pin!(watcher::watch_object(api.clone(), CONFIG_MAP).default_backoff());
        let set = |quirks| pool.set_quirks(quirks);
        let following = follow(news, &namespace, set, &told, &sender);
        let annotating = annotate(&api, refusals, told.leader.clone());
        tokio::join!(following, annotating);
        // The watch begins anew by itself and does not end.
        std::future::pending().await
    });
}

/// What the ConfigMap is to say of itself, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusals {
    wanted: Option<String>,
    stands: Option<String>,
}

/// Takes over every state of the ConfigMap until the news end.
async fn follow(
    mut news: impl Stream<Item = watcher::Result<Option<ConfigMap>>> + Unpin,
    namespace: &str,
    set: impl Fn(Quirks),
    told: &Told,
    refusals: &watch::Sender<Option<Refusals>>,
) {
    let mut last = None;
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
        if found.is_none() && last.is_none() {
            continue;
        }
        let (quirks, errors) = rules(found.as_ref());
        refusals.send_replace(found.as_ref().map(|object| Refusals {
            wanted: sentence(&errors),
            stands: object.annotations().get(QUIRKS_REFUSED_ANNOTATION).cloned(),
        }));
        // Our own annotation is no news.
        let data = found.as_ref().map(|object| object.data.clone());
        if data.is_some() && last == data {
            continue;
        }
        last = data;
        told.metrics.quirk_rules(quirks.len(), errors.len());
        info!(namespace, name = CONFIG_MAP, rules = quirks.len(), refused = errors.len(), "quirk rules");
        for error in &errors {
            warn!(namespace, name = CONFIG_MAP, %error, "a quirk rule is refused; the others are used");
            if let Some(object) = &found {
                let note = error.to_string();
                told.events.publish(object, EventKind::Warning, "QuirkRefused", "ReadQuirks", &note);
            }
        }
        set(quirks);
    }
}

/// What is refused, for people; `None`: nothing is.
fn sentence(errors: &[QuirkError]) -> Option<String> {
    let mut text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if text.len() > MOST_REFUSALS {
        text.truncate(text.floor_char_boundary(MOST_REFUSALS));
        text.push('…');
    }
    (!text.is_empty()).then_some(text)
}

/// Keeps the annotation as it is to be while this replica leads: two versions of the manager that do not agree about a rule
/// must not write against each other.
async fn annotate(
    api: &Api<ConfigMap>,
    mut refusals: watch::Receiver<Option<Refusals>>,
    mut leader: watch::Receiver<LeaderState>,
) {
    loop {
        let now = refusals.borrow_and_update().clone();
        let leads = leader.borrow_and_update().may_act();
        if let Some(Refusals { wanted, stands }) = now
            && leads
            && wanted != stands
        {
            let change =
                serde_json::json!({ "metadata": { "annotations": { QUIRKS_REFUSED_ANNOTATION: wanted } } });
            // The next change of the ConfigMap, or of the lease, tries again; log and metric say the same.
            if let Err(error) = patch::merge_patch(api, CONFIG_MAP, None, change).await
                && !error.is_not_found()
            {
                warn!(name = CONFIG_MAP, %error, "the refused quirk rules are not written to the ConfigMap");
            }
        }
        tokio::select! {
            changed = refusals.changed() => if changed.is_err() { return },
            changed = leader.changed() => if changed.is_err() { return },
        }
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

    fn told() -> Told {
        let (_, leader) = watch::channel(LeaderState::alone("one", "here"));
        Told { events: Events::nowhere(), metrics: Arc::default(), leader }
    }

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
        let (told, (refusals, _)) = (told(), watch::channel(None));
        follow(futures::stream::iter(states), "ns", set, &told, &refusals).await;
        let built_in = Quirks::default().len();
        assert_eq!(*seen.borrow(), [built_in + 1, built_in, built_in]);
        assert!(told.metrics.encode().contains("ferric_bmc_quirk_rules{state=\"refused\"} 0\n"));
    }

    #[tokio::test]
    async fn what_is_refused_stands_in_metric_and_annotation_and_our_own_annotation_is_no_news() {
        let mut annotated = object(&[("a", BAD)]);
        let (told, (refusals, told_of)) = (told(), watch::channel(None));
        let seen = RefCell::new(0);
        let set = |_| *seen.borrow_mut() += 1;
        let states = vec![Ok(Some(annotated.clone()))];
        follow(futures::stream::iter(states), "ns", set, &told, &refusals).await;
        let Some(Refusals { wanted: Some(text), stands: None }) = told_of.borrow().clone() else { panic!() };
        assert!(text.starts_with("quirk rule bad of a is refused"), "{text}");
        assert!(told.metrics.encode().contains("ferric_bmc_quirk_rules{state=\"refused\"} 1\n"));

        annotated.annotations_mut().insert(QUIRKS_REFUSED_ANNOTATION.to_owned(), text.clone());
        let states = vec![Ok(Some(object(&[("a", BAD)]))), Ok(Some(annotated))];
        follow(futures::stream::iter(states), "ns", set, &told, &refusals).await;
        assert_eq!(*seen.borrow(), 2, "once for each beginning");
        assert_eq!(
            told_of.borrow().clone(),
            Some(Refusals { wanted: Some(text.clone()), stands: Some(text) })
        );

        // It is bounded, whatever an operator writes.
        let many: Vec<QuirkError> = (0..1000).flat_map(|_| rules(Some(&object(&[("é", BAD)]))).1).collect();
        assert!(sentence(&many).unwrap().len() <= MOST_REFUSALS + '…'.len_utf8());
    }
}

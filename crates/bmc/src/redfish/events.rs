//! Subscriptions to a BMC's events (`EventService` and `EventDestination`, DSP0266 section "Eventing" and DSP2046): which to
//! make, to keep and to delete, from what is listed. Events are a hint to look, never a fact.

use serde_json::{Value, json};

use super::{Redfish, json as js};
use crate::error::BmcError;
use crate::turns::Urgency;
use crate::types::{EventSink, Subscribed};

/// Subscriptions that are looked at; a BMC with more is left alone.
const MOST: usize = 64;
/// A context that the BMC cut off is still ours if so much of it is left.
const PREFIX: usize = 24;
/// Kinds of events that tell of power, in the words of before `EventFormatType` (deprecated in EventDestination 1.4).
const KINDS: [&str; 5] = ["StatusChange", "Alert", "ResourceUpdated", "ResourceAdded", "ResourceRemoved"];

/// A subscription that a BMC lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    path: String,
    destination: Option<String>,
    context: Option<String>,
    /// Whether events are sent by it.
    live: bool,
}

/// A subscription, by its resource; `None` for those of other kinds (SNMP, mail, streams).
pub(crate) fn listed(path: &str, resource: &Value) -> Option<Listed> {
    let kind = js::text(resource, "/SubscriptionType");
    let protocol = js::text(resource, "/Protocol");
    if kind.is_some_and(|kind| kind != "RedfishEvent")
        || protocol.is_some_and(|protocol| protocol != "Redfish")
    {
        return None;
    }
    Some(Listed {
        path: path.to_owned(),
        destination: js::string(resource, "/Destination"),
        context: js::string(resource, "/Context"),
        live: js::text(resource, "/Status/State").is_none_or(|state| state == "Enabled"),
    })
}

/// What to do about subscriptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The one that stays.
    pub(crate) keep: Option<String>,
    /// Those that go.
    pub(crate) delete: Vec<String>,
}

/// One subscription of ours is kept, and others of ours are deleted: doubles, those to another destination, and those that
/// the BMC has given up. What is not known to be ours is never deleted. `wanted`: whether there is to be one at all.
pub(crate) fn decide(listed: &[Listed], sink: &EventSink, wanted: bool) -> Decision {
    let same_place =
        |one: &Listed| one.destination.as_deref().is_some_and(|it| same_url(it, &sink.destination));
    let mut decision = Decision::default();
    for one in listed {
        if !one.context.as_deref().is_some_and(|context| is_ours(context, &sink.context)) {
            continue;
        }
        if wanted && decision.keep.is_none() && one.live && same_place(one) {
            decision.keep = Some(one.path.clone());
        } else {
            decision.delete.push(one.path.clone());
        }
    }
    // A BMC that does not show contexts: it would get one more each time.
    let nameless = |one: &&Listed| one.live && one.context.is_none() && same_place(one);
    if wanted && decision.keep.is_none() {
        decision.keep = listed.iter().find(nameless).map(|one| one.path.clone());
    }
    decision
}

fn is_ours(found: &str, context: &str) -> bool {
    found == context || (found.len() >= PREFIX && context.starts_with(found))
}

fn same_url(left: &str, right: &str) -> bool {
    left.trim_end_matches('/') == right.trim_end_matches('/')
}

/// Whether the service takes subscriptions.
pub(crate) fn is_offered(service: &Value) -> bool {
    js::boolean(service, "/ServiceEnabled") != Some(false) && js::link(service, "/Subscriptions").is_some()
}

/// Bodies for a subscription: the first that is not refused as a bad request.
pub(crate) fn bodies(service: &Value, sink: &EventSink) -> Vec<Value> {
    let EventSink { destination, context } = sink;
    let plain = json!({"Destination": destination, "Context": context, "Protocol": "Redfish"});
    let with = |more: Value| {
        let mut body = plain.clone();
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        body
    };
    let modern = with(json!({"SubscriptionType": "RedfishEvent", "EventFormatType": "Event"}));
    let offered = js::strings(service, "/EventTypesForSubscription").unwrap_or_default();
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| offered.iter().any(|it| it == kind)).collect();
    let mut bodies = vec![modern];
    if !kinds.is_empty() {
        // Those that list kinds may want some to be named.
        bodies.insert(0, with(json!({ "EventTypes": kinds })));
        bodies.push(with(json!({"EventTypes": kinds, "SubscriptionType": "RedfishEvent"})));
    }
    bodies.push(plain);
    bodies
}

impl Redfish {
    /// Has one subscription, whatever there was.
    pub(super) async fn keep_subscribed(&self, sink: &EventSink) -> Result<Subscribed, BmcError> {
        let Some((collection, service)) = self.subscriptions().await? else {
            return Ok(Subscribed::NotOffered);
        };
        let decision = decide(&self.listed(&collection).await?, sink, true);
        self.kept().subscribed = Some(sink.clone());
        let outcome = if decision.keep.is_some() {
            Subscribed::Kept
        } else {
            self.client.post(&collection, &bodies(&service, sink), "the subscription to events").await?;
            Subscribed::Made
        };
        for path in &decision.delete {
            self.client.delete(path, "an old subscription to events").await?;
        }
        Ok(outcome)
    }

    /// Removes what this process subscribed to. What does not succeed is left: events of hosts that are gone wake nobody.
    pub(crate) async fn unsubscribe(&self) {
        let Some(sink) = self.kept().subscribed.take() else { return };
        let work = async {
            let Some((collection, _)) = self.subscriptions().await? else { return Ok(()) };
            for path in decide(&self.listed(&collection).await?, &sink, false).delete {
                self.client.delete(&path, "the subscription to events").await?;
            }
            Ok::<(), BmcError>(())
        };
        let done =
            self.desk().operation("the end of the subscription to events", Urgency::Survey, work).await;
        if let Err(error) = done {
            tracing::debug!(bmc = %self.client.http.base, %error, "a subscription to events stays behind");
        }
    }

    /// The collection of subscriptions, and the service that it is of, where it takes any.
    async fn subscriptions(&self) -> Result<Option<(String, Value)>, BmcError> {
        let Some(link) = self.client.root().await?.events.clone() else { return Ok(None) };
        let Some(service) = self.client.fact(&link).await?.map(|service| service.json) else {
            return Ok(None);
        };
        let collection = js::link(&service, "/Subscriptions").filter(|_| is_offered(&service));
        Ok(collection.map(|collection| (collection, service)))
    }

    /// All subscriptions. One that is not read fails the whole, for it might be ours.
    async fn listed(&self, collection: &str) -> Result<Vec<Listed>, BmcError> {
        let members = self.client.members(collection).await?;
        if members.len() > MOST {
            let what = format!("a subscription to events: it has {} already", members.len());
            return Err(BmcError::NotSupported { what });
        }
        let mut found = Vec::new();
        for member in members {
            let resource = match member.inline {
                Some(inline) => inline,
                None => match self.client.get(&member.path).await {
                    Ok(resource) => resource.json,
                    // Gone in between.
                    Err(BmcError::Unexpected { status: 404, .. }) => continue,
                    Err(error) => return Err(error),
                },
            };
            found.extend(listed(&member.path, &resource));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const CONTEXT: &str = "a-context-that-nobody-else-could-know";

    fn sink() -> EventSink {
        EventSink { destination: "http://provider:6184".into(), context: CONTEXT.into() }
    }

    fn one(path: &str, destination: &str, context: Option<&str>, live: bool) -> Listed {
        let context = context.map(str::to_owned);
        Listed { path: path.into(), destination: Some(destination.into()), context, live }
    }

    #[test]
    fn what_is_kept_and_what_goes() {
        let ours = |path| one(path, "http://provider:6184/", Some(CONTEXT), true);
        let table: Vec<(Vec<Listed>, Option<&str>, &[&str])> = vec![
            (vec![], None, &[]),
            (vec![ours("/1")], Some("/1"), &[]),
            (vec![ours("/1"), ours("/2")], Some("/1"), &["/2"]),
            (vec![one("/1", "http://provider:6184", Some(CONTEXT), false), ours("/2")], Some("/2"), &["/1"]),
            (vec![one("/1", "http://before:6184", Some(CONTEXT), true)], None, &["/1"]),
            // Of another host behind the same BMC, and of somebody else.
            (vec![one("/1", "http://provider:6184", Some("another"), true)], None, &[]),
            (vec![one("/1", "http://other", None, true)], None, &[]),
            // Not shown, or cut off.
            (vec![one("/1", "http://provider:6184", None, true)], Some("/1"), &[]),
            (vec![one("/1", "http://provider:6184", Some(&CONTEXT[..PREFIX]), true)], Some("/1"), &[]),
            (vec![one("/1", "http://provider:6184", Some(""), true)], None, &[]),
        ];
        for (listed, keep, delete) in table {
            let decision = decide(&listed, &sink(), true);
            assert_eq!(decision.keep.as_deref(), keep, "{listed:?}");
            assert_eq!(decision.delete, delete, "{listed:?}");
            let end = decide(&listed, &sink(), false);
            assert_eq!(end.keep, None);
            assert!(end.delete.len() <= listed.len());
        }
    }

    #[test]
    fn other_kinds_are_not_looked_at() {
        let redfish = json!({"Destination": "http://x", "Context": "c", "Protocol": "Redfish",
            "SubscriptionType": "RedfishEvent", "Status": {"State": "Enabled"}});
        assert!(listed("/1", &redfish).unwrap().live);
        for (key, value) in
            [("SubscriptionType", "SSE"), ("SubscriptionType", "SNMPTrap"), ("Protocol", "SMTP")]
        {
            let mut other = redfish.clone();
            other[key] = value.into();
            assert_eq!(listed("/1", &other), None);
        }
        assert!(!listed("/1", &json!({"Status": {"State": "Disabled"}})).unwrap().live);
        assert!(is_offered(&json!({"Subscriptions": {"@odata.id": "/s"}})));
        assert!(!is_offered(&json!({"ServiceEnabled": false, "Subscriptions": {"@odata.id": "/s"}})));
        assert!(!is_offered(&json!({})));
    }

    #[test]
    fn bodies_name_what_the_service_lists() {
        let old = bodies(&json!({"EventTypesForSubscription": ["Alert", "MetricReport"]}), &sink());
        assert_eq!(old[0]["EventTypes"], json!(["Alert"]));
        let new = bodies(&json!({"EventFormatTypes": ["Event"]}), &sink());
        assert_eq!((&new[0]["EventFormatType"], new[0].get("EventTypes")), (&json!("Event"), None));
        assert!(
            old.iter().chain(&new).all(|body| body["Context"] == CONTEXT && body["Protocol"] == "Redfish")
        );
        assert!(!format!("{:?}", sink()).contains(CONTEXT));
    }

    fn any_listed() -> impl Strategy<Value = Vec<Listed>> {
        let context = prop_oneof![
            Just(None),
            Just(Some(CONTEXT.to_owned())),
            Just(Some("another-context".to_owned())),
            "[a-z]{0,30}".prop_map(Some)
        ];
        let place =
            prop_oneof![Just("http://provider:6184"), Just("http://provider:6184/"), Just("http://other")];
        let one = (place, context, any::<bool>());
        proptest::collection::vec(one, 0..6).prop_map(|all| {
            let made = all.into_iter().enumerate().map(|(n, (place, context, live))| Listed {
                path: format!("/{n}"),
                destination: Some(place.to_owned()),
                context,
                live,
            });
            made.collect()
        })
    }

    proptest! {
        /// After what was decided is done there is one, nothing is left to do, and nobody else's was touched.
        #[test]
        fn decisions_settle(listed in any_listed()) {
            let decision = decide(&listed, &sink(), true);
            for path in &decision.delete {
                let gone = listed.iter().find(|one| one.path == *path).unwrap();
                prop_assert_eq!(gone.context.as_deref(), Some(CONTEXT));
            }
            let mut after: Vec<Listed> =
                listed.iter().filter(|one| !decision.delete.contains(&one.path)).cloned().collect();
            if decision.keep.is_none() {
                after.push(one("/new", "http://provider:6184", Some(CONTEXT), true));
            }
            let again = decide(&after, &sink(), true);
            prop_assert!(again.keep.is_some() && again.delete.is_empty(), "{:?}", again);
        }
    }
}

//! The BMC's event service: subscriptions, and pushing an event to each when the power changes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::face::{Events, Face};
use super::requests::Refusal;
use super::resources::SYSTEM;
use crate::server::Server;

/// Subscriptions that a BMC keeps.
const MOST: usize = 8;
/// How often an event is sent to a subscriber that does not answer, and how long each try takes at most.
const TRIES: u32 = 3;
const TRY: Duration = Duration::from_secs(5);

/// A subscription.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subscription {
    pub(crate) id: u64,
    destination: String,
    context: String,
    /// The other properties that it was made with.
    more: Map<String, Value>,
}

/// The subscriptions of one BMC. They outlive its restarts.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    all: Vec<Subscription>,
    last: u64,
    sent: u64,
}

impl Subscriptions {
    pub(crate) fn all(&self) -> &[Subscription] {
        &self.all
    }

    /// Makes one, as a request says; its number.
    pub(crate) fn make(&mut self, rules: &Events, body: &[u8]) -> Result<u64, Refusal> {
        let mut body: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
            Refusal::new(400, "MalformedJSON", format!("The request body is no JSON object: {error}."))
        })?;
        let mut text = |name: &str| match body.remove(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Refusal::new(400, "CreateFailedMissingReqProperties", format!("{name} is missing."))),
        };
        let (destination, context) = (text("Destination")?, text("Context")?);
        if text("Protocol")? != "Redfish" || !destination.starts_with("http") {
            return Err(Refusal::new(400, "PropertyValueNotInList", "Only Redfish over HTTP is sent."));
        }
        for name in body.keys() {
            if !["EventTypes", "SubscriptionType", "EventFormatType"].contains(&name.as_str()) {
                return Err(Refusal::new(400, "PropertyUnknown", format!("{name} is not known.")));
            }
        }
        let kinds = body.get("EventTypes").and_then(Value::as_array).map(Vec::as_slice);
        let wrong =
            kinds.unwrap_or_default().iter().any(|kind| !rules.types.iter().any(|known| kind == known));
        if wrong || (rules.types_demanded && kinds.is_none_or(<[Value]>::is_empty)) {
            return Err(Refusal::new(400, "PropertyValueNotInList", "EventTypes must be of those listed."));
        }
        if self.all.len() >= MOST {
            return Err(Refusal::new(507, "CreateLimitReachedForResource", "There is room for no more."));
        }
        self.last += 1;
        self.all.push(Subscription { id: self.last, destination, context, more: body });
        Ok(self.last)
    }

    /// Ends one; whether there was one.
    pub(crate) fn end(&mut self, id: u64) -> bool {
        let before = self.all.len();
        self.all.retain(|one| one.id != id);
        self.all.len() < before
    }
}

impl Subscription {
    /// As its own resource.
    pub(crate) fn resource(&self, path: &str) -> Value {
        let mut shown = json!({
            "@odata.id": path, "@odata.type": "#EventDestination.v1_13_0.EventDestination", "Id": self.id.to_string(),
            "Name": format!("Subscription {}", self.id), "Destination": self.destination, "Context": self.context,
            "Protocol": "Redfish", "SubscriptionType": "RedfishEvent", "Status": {"State": "Enabled", "Health": "OK"},
        });
        if let Some(shown) = shown.as_object_mut() {
            shown.extend(self.more.clone());
        }
        shown
    }
}

/// The service itself.
pub(crate) fn service(rules: &Events, path: &str) -> Value {
    let mut service = json!({
        "@odata.id": path, "@odata.type": "#EventService.v1_10_0.EventService", "Id": "EventService",
        "Name": "Event Service", "ServiceEnabled": rules.enabled, "DeliveryRetryAttempts": TRIES,
        "Status": {"State": if rules.enabled { "Enabled" } else { "Disabled" }},
        "Subscriptions": {"@odata.id": format!("{path}/Subscriptions")},
    });
    if rules.types.is_empty() {
        service["EventFormatTypes"] = json!(["Event"]);
    } else {
        service["EventTypesForSubscription"] = json!(rules.types);
    }
    service
}

/// Tells all subscribers that the power changed.
pub(crate) fn power_changed(
    server: &Arc<Server>,
    face: &Face,
    subscriptions: &mut Subscriptions,
    power: &Value,
) {
    for one in &subscriptions.all {
        subscriptions.sent += 1;
        let number = subscriptions.sent.to_string();
        let event = json!({
            "@odata.type": "#Event.v1_7_0.Event", "Id": number, "Name": "Event", "Context": one.context,
            "Events": [{
                "EventType": "StatusChange", "EventId": number, "MemberId": "0", "Severity": "OK",
                "Message": "The power state changed.", "MessageId": "ResourceEvent.1.2.PowerStateChanged",
                "MessageArgs": [power], "OriginOfCondition": {"@odata.id": face.path(SYSTEM)},
            }],
        });
        let (http, destination) = (server.shared.http.clone(), one.destination.clone());
        let shutdown = server.shared.shutdown.clone();
        server.shared.tracker.spawn(async move {
            for _ in 0..TRIES {
                let send = http.post(&destination).header("content-type", "application/json").timeout(TRY);
                let sent = tokio::select! {
                    () = shutdown.cancelled() => return,
                    sent = send.body(event.to_string()).send() => sent,
                };
                match sent.and_then(reqwest::Response::error_for_status) {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, destination, "event not delivered"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subscriptions_are_made_and_end() {
        let rules = Events { enabled: true, types: vec!["Alert".to_owned()], types_demanded: true };
        let mut subscriptions = Subscriptions::default();
        let mut ask =
            |body: Value| subscriptions.make(&rules, body.to_string().as_bytes()).map_err(|r| r.status);
        let good = json!({"Destination": "http://x", "Context": "c", "Protocol": "Redfish", "EventTypes": ["Alert"]});
        assert_eq!(ask(good.clone()), Ok(1));
        for (key, value) in [
            ("EventTypes", json!(["Other"])),
            ("EventTypes", json!([])),
            ("Protocol", json!("SNMPv1")),
            ("Odd", json!(1)),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert_eq!(ask(bad.clone()), Err(400), "{bad}");
        }
        for n in 2..=MOST as u64 {
            assert_eq!(ask(good.clone()), Ok(n));
        }
        assert_eq!(ask(good), Err(507));
        assert!(subscriptions.end(3) && !subscriptions.end(3));
        assert_eq!(subscriptions.all()[0].resource("/s/1")["EventTypes"], json!(["Alert"]));
    }
}

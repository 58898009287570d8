//! What the provider would send: the same pure functions as when it does, in words.

use serde_json::Value;

use super::{Survey, Would};
use crate::quirks::{InsertBy, Manner};
use crate::redfish::client::Resource;
use crate::redfish::media::Transfer;
use crate::redfish::{boot, boot_options, media, power};
use crate::types::{BootMethod, BootTarget, PowerAction, PowerState};

/// A URL of the length and form that a boot has; never fetched.
const URL: &str = "https://ferric.invalid/boot/token/agent.iso";

/// What would be sent, in the order in which a host needs it.
pub(super) fn would(system: &Resource, survey: &Survey, manner: Manner) -> Vec<Would> {
    let mut list = Vec::new();
    let mut say = |action: &str, how: String| list.push(Would { action: action.to_owned(), how });
    for (words, action, state) in [
        ("turn on", PowerAction::On, PowerState::Off),
        ("turn off", PowerAction::ForceOff, PowerState::On),
        ("shut down", PowerAction::GracefulShutdown, PowerState::On),
        ("restart", PowerAction::ForceRestart, PowerState::On),
        ("cycle the power", PowerAction::PowerCycle, PowerState::On),
    ] {
        say(words, reset(system, survey, &manner, action, state));
    }
    let media = BootTarget::VirtualMedia { url: URL.into() };
    for method in &survey.can.boot {
        let (words, target) = match method {
            BootMethod::VirtualMedia => ("boot from virtual media", media.clone()),
            BootMethod::UefiHttp => ("boot from a URL", BootTarget::UefiHttp { url: URL.into() }),
            BootMethod::Network => ("boot from the network", BootTarget::Network),
        };
        if *method == BootMethod::VirtualMedia
            && let Some(slot) = survey.can.media.iter().find(|slot| slot.chosen)
        {
            let by =
                if manner.insert_by == Some(InsertBy::Patch) { "PATCH" } else { "its action, else PATCH" };
            let transfer = if slot.whole_only { Transfer::Upload } else { Transfer::Unsaid };
            let bodies = manner.insert_bodies(media::insert_bodies(URL, transfer), media::protocol(URL));
            let keys = bodies.first().map(keys).unwrap_or_default();
            say("insert virtual media", format!("{} by {by}, with {keys}", slot.path));
        }
        let path = survey.can.override_path.as_deref().unwrap_or(&system.path);
        match boot_options::wanted(&target, &system.json) {
            Some((alias, by)) => {
                say(words, format!("PATCH {path}: the boot option of kind {alias}, named by {by:?}"))
            }
            None => say(words, in_words(path, boot::patch(&target, &system.json, &manner))),
        }
    }
    list
}

fn reset(
    system: &Resource,
    survey: &Survey,
    manner: &Manner,
    action: PowerAction,
    state: PowerState,
) -> String {
    if power::reset_action(&system.json).is_none() {
        return "not possible: the system has no reset action".into();
    }
    match power::choose(action, state, survey.can.reset_types.as_deref()) {
        power::Reset::Nothing => "nothing".into(),
        power::Reset::Send(chosen) => {
            format!("reset {}", power::stand_in(chosen, manner.reset(chosen), state))
        }
        power::Reset::NotSupported => "not possible: no reset type that would do is allowed".into(),
    }
}

fn keys(body: &Value) -> String {
    body.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

fn in_words(path: &str, patch: boot::Patch) -> String {
    match patch {
        boot::Patch::Nothing => "nothing".into(),
        boot::Patch::NotSupported(what) => format!("not possible: {what}"),
        boot::Patch::Try(bodies) => {
            let boot = bodies.first().and_then(|body| body.get("Boot")).and_then(Value::as_object);
            let parts: Vec<String> = boot
                .into_iter()
                .flatten()
                .map(|(key, value)| {
                    format!("{key} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                })
                .collect();
            format!("PATCH {path}: {}", parts.join(", "))
        }
    }
}

//! Power: what a BMC's words mean, and which reset type asks for what.

use serde_json::Value;

use super::json;
use crate::types::{PowerAction, PowerState};

/// The power state in a system resource.
pub(crate) fn state(system: &Value) -> PowerState {
    match json::text(system, "/PowerState") {
        Some(text) if text.eq_ignore_ascii_case("On") => PowerState::On,
        Some(text) if text.eq_ignore_ascii_case("Off") => PowerState::Off,
        Some(text) if text.eq_ignore_ascii_case("PoweringOn") => PowerState::PoweringOn,
        Some(text) if text.eq_ignore_ascii_case("PoweringOff") => PowerState::PoweringOff,
        _ => PowerState::Unknown,
    }
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// Nothing: it is so already.
    Nothing,
    /// This reset type.
    Send(&'static str),
    /// The BMC allows none that would do.
    NotSupported,
}

/// Which reset type asks for an action, given the state and what the BMC allows (`None`: it does not say).
pub(crate) fn choose(action: PowerAction, state: PowerState, allowed: Option<&[String]>) -> Reset {
    use PowerState as S;
    // Turning on a server that is off is what a restart of it comes to.
    let action = match (action, state) {
        (PowerAction::ForceRestart | PowerAction::PowerCycle, S::Off) => PowerAction::On,
        (action, _) => action,
    };
    let candidates: &[&'static str] = match (action, state) {
        (PowerAction::On, S::On | S::PoweringOn) => return Reset::Nothing,
        // The button toggles: only where the state is known.
        (PowerAction::On, S::Off) => &["On", "ForceOn", "PushPowerButton"],
        (PowerAction::On, _) => &["On", "ForceOn"],
        (PowerAction::ForceOff | PowerAction::GracefulShutdown, S::Off) => return Reset::Nothing,
        (PowerAction::GracefulShutdown, S::PoweringOff) => return Reset::Nothing,
        (PowerAction::ForceOff, _) => &["ForceOff"],
        (PowerAction::GracefulShutdown, S::On) => &["GracefulShutdown", "PushPowerButton"],
        (PowerAction::GracefulShutdown, _) => &["GracefulShutdown"],
        (PowerAction::ForceRestart, _) => &["ForceRestart", "PowerCycle"],
        (PowerAction::PowerCycle, _) => &["PowerCycle", "ForceRestart"],
    };
    let Some(allowed) = allowed.filter(|allowed| !allowed.is_empty()) else {
        return Reset::Send(candidates[0]);
    };
    match candidates.iter().find(|candidate| allowed.iter().any(|value| value == **candidate)) {
        Some(found) => Reset::Send(found),
        None => Reset::NotSupported,
    }
}

/// Whether what is asked for is so, or under way: then a refusal was one of asking twice, or none.
pub(crate) fn is_so(action: PowerAction, state: PowerState) -> bool {
    use PowerState as S;
    match action {
        PowerAction::On => matches!(state, S::On | S::PoweringOn),
        PowerAction::ForceOff | PowerAction::GracefulShutdown => matches!(state, S::Off | S::PoweringOff),
        // Nobody can tell by the power.
        PowerAction::ForceRestart | PowerAction::PowerCycle => false,
    }
}

/// What is sent where a rule says that `sent` stands in for `chosen`. The button toggles: only where the state is known.
pub(crate) fn stand_in<'a>(chosen: &'a str, sent: &'a str, state: PowerState) -> &'a str {
    let toggles_well = match chosen {
        "On" | "ForceOn" => state == PowerState::Off,
        _ => state == PowerState::On,
    };
    if sent == "PushPowerButton" && !toggles_well { chosen } else { sent }
}

/// The reset action of a system: its target, the allowed types, and where else they may be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResetAction {
    pub(crate) target: String,
    pub(crate) allowed: Option<Vec<String>>,
    pub(crate) info: Option<String>,
}

/// The reset action in a system resource.
pub(crate) fn reset_action(system: &Value) -> Option<ResetAction> {
    let action = system.pointer("/Actions/#ComputerSystem.Reset")?;
    Some(ResetAction {
        target: json::string(action, "/target")?,
        allowed: json::strings(action, "/ResetType@Redfish.AllowableValues"),
        info: json::link(action, "/@Redfish.ActionInfo"),
    })
}

/// The allowed values of a parameter in an `ActionInfo` resource.
pub(crate) fn allowed_of_info(info: &Value, parameter: &str) -> Option<Vec<String>> {
    let entry =
        json::list(info, "/Parameters").iter().find(|entry| json::text(entry, "/Name") == Some(parameter))?;
    json::strings(entry, "/AllowableValues")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_under_way_is_not_refused() {
        use PowerState::{Off, On, PoweringOff, PoweringOn, Unknown};
        let so = |action| [On, PoweringOn, Off, PoweringOff, Unknown].map(|state| is_so(action, state));
        assert_eq!(so(PowerAction::On), [true, true, false, false, false]);
        assert_eq!(so(PowerAction::ForceOff), [false, false, true, true, false]);
        assert_eq!(so(PowerAction::GracefulShutdown), so(PowerAction::ForceOff));
        assert_eq!(so(PowerAction::PowerCycle), [false; 5]);
    }

    #[test]
    fn the_button_stands_in_only_where_the_state_is_known() {
        let button = |chosen, state| stand_in(chosen, "PushPowerButton", state);
        assert_eq!(button("On", PowerState::Off), "PushPowerButton");
        assert_eq!(button("On", PowerState::Unknown), "On");
        assert_eq!(button("GracefulShutdown", PowerState::On), "PushPowerButton");
        assert_eq!(button("ForceOff", PowerState::PoweringOff), "ForceOff");
        assert_eq!(stand_in("ForceRestart", "PowerCycle", PowerState::Unknown), "PowerCycle");
    }

    #[test]
    fn reset_types() {
        use PowerAction as A;
        use PowerState as S;
        let all: &[&str] =
            &["On", "ForceOff", "GracefulShutdown", "ForceRestart", "PowerCycle", "PushPowerButton"];
        let hpe: &[&str] = &["On", "ForceOff", "GracefulShutdown", "ForceRestart", "Nmi", "PushPowerButton"];
        let table: &[(A, S, Option<&[&str]>, Reset)] = &[
            (A::On, S::Off, Some(all), Reset::Send("On")),
            (A::On, S::On, Some(all), Reset::Nothing),
            (A::On, S::PoweringOn, Some(all), Reset::Nothing),
            (A::On, S::PoweringOff, Some(all), Reset::Send("On")),
            (A::On, S::Unknown, None, Reset::Send("On")),
            (A::On, S::Off, Some(&["ForceOn"]), Reset::Send("ForceOn")),
            (A::On, S::Off, Some(&["PushPowerButton"]), Reset::Send("PushPowerButton")),
            (A::On, S::Unknown, Some(&["PushPowerButton"]), Reset::NotSupported),
            (A::ForceOff, S::On, Some(all), Reset::Send("ForceOff")),
            (A::ForceOff, S::PoweringOff, Some(all), Reset::Send("ForceOff")),
            (A::ForceOff, S::Unknown, Some(&[]), Reset::Send("ForceOff")),
            (A::ForceOff, S::Off, Some(all), Reset::Nothing),
            (A::ForceOff, S::On, Some(&["GracefulShutdown", "PushPowerButton"]), Reset::NotSupported),
            (A::GracefulShutdown, S::On, Some(all), Reset::Send("GracefulShutdown")),
            (A::GracefulShutdown, S::On, Some(&["PushPowerButton"]), Reset::Send("PushPowerButton")),
            (A::GracefulShutdown, S::PoweringOff, Some(all), Reset::Nothing),
            (A::GracefulShutdown, S::Unknown, Some(&["PushPowerButton"]), Reset::NotSupported),
            (A::ForceRestart, S::On, Some(hpe), Reset::Send("ForceRestart")),
            (A::ForceRestart, S::Off, Some(hpe), Reset::Send("On")),
            (A::ForceRestart, S::On, Some(&["PowerCycle"]), Reset::Send("PowerCycle")),
            (A::PowerCycle, S::On, Some(all), Reset::Send("PowerCycle")),
            (A::PowerCycle, S::On, Some(hpe), Reset::Send("ForceRestart")),
            (A::PowerCycle, S::Off, Some(all), Reset::Send("On")),
            (A::PowerCycle, S::On, Some(&["On"]), Reset::NotSupported),
        ];
        for (action, state, allowed, expected) in table {
            let allowed: Option<Vec<String>> =
                allowed.map(|list| list.iter().map(|s| (*s).to_owned()).collect());
            assert_eq!(
                choose(*action, *state, allowed.as_deref()),
                *expected,
                "{action:?} at {state:?}, {allowed:?}"
            );
        }
    }

    #[test]
    fn an_action_info_is_a_link_or_a_text() {
        let system =
            json!({"Actions": {"#ComputerSystem.Reset": {"target": "/r", "@Redfish.ActionInfo": "/i"}}});
        assert_eq!(reset_action(&system).unwrap().info.as_deref(), Some("/i"));
        let system = json!({"Actions": {"#ComputerSystem.Reset": {"target": "/r", "@Redfish.ActionInfo": {"@odata.id": "/i"}}}});
        assert_eq!(reset_action(&system).unwrap().info.as_deref(), Some("/i"));
        let info = json!({"Parameters": [{"Name": "ResetType", "AllowableValues": ["On", "ForceOff"]}]});
        assert_eq!(allowed_of_info(&info, "ResetType").unwrap(), ["On", "ForceOff"]);
        assert_eq!(allowed_of_info(&info, "Other"), None);
    }
}

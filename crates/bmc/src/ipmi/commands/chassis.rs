//! Power: Get Chassis Status (28.2), Chassis Control (28.3), Chassis Identify (28.5).

use super::{CHASSIS, Privilege, Repeat, Request, question};
use crate::types::{PowerAction, PowerState};

/// What the chassis says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// On or off; IPMI knows nothing in between.
    pub(crate) power: PowerState,
    /// Power supply or its control is faulty, or overloaded.
    pub(crate) power_fault: bool,
    /// A drive is faulty.
    pub(crate) drive_fault: bool,
    /// A fan is faulty.
    pub(crate) cooling_fault: bool,
}

/// Get Chassis Status.
pub(crate) fn get_status() -> Request {
    question(CHASSIS, 0x01, Vec::new(), Privilege::User)
}

/// Its answer (table 28-3).
pub(crate) fn status(data: &[u8]) -> Option<Status> {
    let &[power, _last_event, rest, ..] = data else { return None };
    Some(Status {
        power: if power & 0x01 != 0 { PowerState::On } else { PowerState::Off },
        // Overload, fault, control fault.
        power_fault: power & 0b1_1010 != 0,
        drive_fault: rest & 0x04 != 0,
        cooling_fault: rest & 0x08 != 0,
    })
}

/// What Chassis Control does (table 28-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Off at once.
    Off = 0,
    /// On.
    On = 1,
    /// Off, then on. Optional in BMCs.
    Cycle = 2,
    /// Hard reset.
    Reset = 3,
    /// Emulates a fatal overtemperature: the operating system shuts down. Optional.
    SoftOff = 5,
}

/// What to send for an action in a state; `None`: it is so already. A server whose power is not known is taken for on.
pub(crate) fn choose(action: PowerAction, power: PowerState) -> Option<Control> {
    let off = power == PowerState::Off;
    match action {
        PowerAction::On => (power != PowerState::On).then_some(Control::On),
        PowerAction::ForceOff => (!off).then_some(Control::Off),
        PowerAction::GracefulShutdown => (!off).then_some(Control::SoftOff),
        PowerAction::ForceRestart | PowerAction::PowerCycle if off => Some(Control::On),
        PowerAction::ForceRestart => Some(Control::Reset),
        PowerAction::PowerCycle => Some(Control::Cycle),
    }
}

/// Chassis Control. On and off are the same done twice; the others are sent once, since a second one would hit a server
/// that starts already.
pub(crate) fn control(control: Control) -> Request {
    let repeat = match control {
        Control::Off | Control::On => Repeat::Freely,
        Control::Cycle | Control::Reset | Control::SoftOff => Repeat::Never,
    };
    Request { repeat, ..question(CHASSIS, 0x02, vec![control as u8], Privilege::Operator) }
}

/// Chassis Identify: for so many seconds; 0 turns it off.
pub(crate) fn identify(seconds: u8) -> Request {
    question(CHASSIS, 0x04, vec![seconds], Privilege::Operator)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use PowerState::{Off, On, Unknown};

    #[test]
    fn states() {
        let power = |data: &[u8]| status(data).map(|status| status.power);
        assert_eq!(power(&[0x61, 0x10, 0x40]), Some(On), "with restore policy and last event");
        assert_eq!(power(&[0x60, 0, 0, 0x33]), Some(Off));
        assert_eq!(power(&[0x01, 0]), None);
        let faults = |data: &[u8]| {
            let Status { power_fault, drive_fault, cooling_fault, .. } = status(data).unwrap();
            (power_fault, drive_fault, cooling_fault)
        };
        assert_eq!(faults(&[0x01, 0xFF, 0]), (false, false, false));
        assert_eq!(faults(&[0x09, 0, 0]), (true, false, false));
        assert_eq!(faults(&[0x00, 0, 0x04]), (false, true, false));
        assert_eq!(faults(&[0x00, 0, 0x48]), (false, false, true));
    }

    #[test]
    fn what_is_sent() {
        use PowerAction::{ForceOff, ForceRestart, GracefulShutdown, PowerCycle};
        for (action, power, expected) in [
            (PowerAction::On, Off, Some(1)),
            (PowerAction::On, Unknown, Some(1)),
            (PowerAction::On, On, None),
            (ForceOff, On, Some(0)),
            (ForceOff, Unknown, Some(0)),
            (ForceOff, Off, None),
            (GracefulShutdown, On, Some(5)),
            (GracefulShutdown, Off, None),
            (ForceRestart, On, Some(3)),
            (ForceRestart, Off, Some(1)),
            (PowerCycle, On, Some(2)),
            (PowerCycle, Off, Some(1)),
        ] {
            let control = choose(action, power);
            assert_eq!(control.map(|control| control as u8), expected, "{action:?} {power}");
            let twice = matches!(expected, Some(0 | 1));
            assert!(control.is_none_or(|it| (super::control(it).repeat == Repeat::Freely) == twice));
        }
    }
}

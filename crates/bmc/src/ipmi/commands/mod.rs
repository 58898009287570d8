//! Commands and their answers, as data. Sections are those of the IPMI specification v2.0.

pub(crate) mod boot;
pub(crate) mod chassis;
pub(crate) mod device;
pub(crate) mod fru;
pub(crate) mod lan;
pub(crate) mod sensors;

use ipmi_rs_core::connection::{CompletionErrorCode, Message};

use super::machine::{Privilege, Repeat, Request};

/// Network function Chassis (5.1, table 5-1).
const CHASSIS: u8 = 0x00;

/// Network function Storage (5.1).
const STORAGE: u8 = 0x0A;

/// A question that may be asked again.
fn question(netfn: u8, command: u8, data: Vec<u8>, privilege: Privilege) -> Request {
    Request { netfn, command, data, privilege, repeat: Repeat::Freely }
}

/// The same from a message of `ipmi-rs-core`.
fn message(message: impl Into<Message>, privilege: Privilege) -> Request {
    let message = message.into();
    question(message.netfn_raw(), message.cmd(), message.data().to_vec(), privilege)
}

/// What a completion code means for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// Not now: try again later.
    Busy(String),
    /// The session's privilege is too low.
    Privilege,
    /// The BMC does not know the command, or not with these data.
    Unknown(String),
    /// Anything else.
    Refused(String),
}

/// The meaning of a completion code (5.2, table 5-2).
pub(crate) fn outcome(code: u8) -> Outcome {
    use CompletionErrorCode as Code;
    let Ok(error) = Code::try_from(code) else { return Outcome::Done };
    let text = match error {
        Code::NodeBusy => "node busy",
        Code::InvalidCommand => "invalid command",
        Code::InvalidCommandForLun => "invalid command for the logical unit",
        Code::ProcessingTimeout => "time-out while processing the command",
        Code::OutOfSpace => "out of space",
        Code::ReservationCancelledOrInvalidId => "reservation cancelled",
        Code::RequestDataTruncated => "request data truncated",
        Code::RequestDataLenInvalid => "request data length invalid",
        Code::RequestDataLengthLimitExceeded => "request data length limit exceeded",
        Code::ParameterOutOfRange => "parameter out of range",
        Code::CannotReturnNumOfRequestedBytes => "cannot return so many bytes",
        Code::RequestedDatapointNotPresent => "requested sensor, data or record not present",
        Code::InvalidDataFieldInRequest => "invalid data field in the request",
        Code::CommandIllegalForSensorOrRecord => "command illegal for this sensor or record",
        Code::ResponseUnavailable { .. } => match code {
            0xD0 => "the sensor data repository is being updated",
            0xD1 => "the BMC's firmware is being updated",
            0xD2 => "the BMC is starting",
            _ => "the answer could not be provided",
        },
        Code::CannotExecuteDuplicateRequest => "duplicated request",
        Code::DestinationUnavailable => "destination unavailable",
        Code::InsufficientPrivilege => "insufficient privilege",
        Code::CannotExecuteCommandInCurrentState => "not supported in the present state",
        Code::SubFunctionDisabled => "the function is disabled",
        Code::Unspecified => "unspecified error",
        Code::Oem(_) => "an error of the vendor",
        Code::CommandSpecific(_) => "an error of this command",
        Code::Reserved(_) => "an error that the specification does not know",
    };
    let said = format!("{text} (completion code {code:#04x})");
    match error {
        Code::NodeBusy
        | Code::ProcessingTimeout
        | Code::ReservationCancelledOrInvalidId
        | Code::ResponseUnavailable { .. }
        | Code::OutOfSpace
        | Code::DestinationUnavailable => Outcome::Busy(said),
        Code::InsufficientPrivilege => Outcome::Privilege,
        Code::InvalidCommand
        | Code::InvalidCommandForLun
        | Code::InvalidDataFieldInRequest
        | Code::SubFunctionDisabled => Outcome::Unknown(said),
        _ => Outcome::Refused(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_means_something() {
        for code in 0..=u8::MAX {
            let said = match outcome(code) {
                Outcome::Done => {
                    assert_eq!(code, 0);
                    continue;
                }
                Outcome::Privilege => {
                    assert_eq!(code, 0xD4);
                    continue;
                }
                Outcome::Busy(said) | Outcome::Unknown(said) | Outcome::Refused(said) => said,
            };
            assert!(said.ends_with(&format!("(completion code {code:#04x})")), "{said}");
        }
        assert!(matches!(outcome(0xC0), Outcome::Busy(_)));
        assert!(matches!(outcome(0xC1), Outcome::Unknown(_)));
        assert!(matches!(outcome(0xD2), Outcome::Busy(_)));
        assert!(matches!(outcome(0xD5), Outcome::Refused(_)));
    }
}

//! Health by sensors, in a simple form: which threshold sensors there are (Get SDR, 33.12, and the records of 43.1), and
//! which thresholds each has crossed (Get Sensor Reading, 35.14).
//!
//! Of a record only what says which sensor it is gets read. `ipmi-rs-core`'s parser of whole records indexes out of
//! bounds on short ones, so it is not used; its parser of readings is.

use ipmi_rs_core::connection::IpmiCommand;
use ipmi_rs_core::sensor_event::{GetSensorReading, ThresholdReading};

use super::{Privilege, Request, STORAGE, question};

/// Network function Sensor/Event (5.1).
const SENSOR: u8 = 0x04;
/// The first and the last record, as a question and as the next of the last (33.12).
pub(crate) const FIRST: u16 = 0x0000;
/// No more records.
pub(crate) const LAST: u16 = 0xFFFF;
/// So much of a record that its event type is in it (43.1).
const HEAD: u8 = 14;
/// Record of a sensor with all its conversion factors (43.1).
const FULL: u8 = 0x01;
/// Address of the BMC as owner of a sensor (43.1).
const BMC: u8 = 0x20;
/// Event/reading type of sensors with thresholds (42.1, table 42-1).
const THRESHOLD: u8 = 0x01;

/// Reserve SDR Repository (33.11).
pub(crate) fn reserve() -> Request {
    question(STORAGE, 0x22, Vec::new(), Privilege::User)
}

/// Its answer.
pub(crate) fn reservation(data: &[u8]) -> Option<u16> {
    data.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// Get SDR: the head of a record.
pub(crate) fn get(reservation: u16, record: u16) -> Request {
    let ([r0, r1], [n0, n1]) = (reservation.to_le_bytes(), record.to_le_bytes());
    question(STORAGE, 0x23, vec![r0, r1, n0, n1, 0, HEAD], Privilege::Operator)
}

/// The next record, and the number of the sensor that this one describes if it has thresholds and the BMC reads it
/// itself.
pub(crate) fn record(data: &[u8]) -> Option<(u16, Option<u8>)> {
    let (next, record) = data.split_first_chunk()?;
    let sensor = match record {
        &[_, _, _, FULL, _, BMC, lun, number, _, _, _, _, _, THRESHOLD, ..] if lun & 0x03 == 0 => {
            Some(number)
        }
        _ => None,
    };
    Some((u16::from_le_bytes(*next), sensor))
}

/// Get Sensor Reading.
pub(crate) fn read(sensor: u8) -> Request {
    question(SENSOR, 0x2D, vec![sensor], Privilege::User)
}

/// How the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// Nothing is known to be wrong.
    Ok,
    /// Something wants looking at.
    Warning,
    /// Something is broken, or about to.
    Critical,
}

impl Health {
    /// As Redfish writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "Warning",
            Self::Critical => "Critical",
        }
    }
}

/// What a reading says; a sensor that reads nothing, or is not scanned, says nothing.
pub(crate) fn health(data: &[u8]) -> Option<Health> {
    let raw = GetSensorReading::parse_success_response(data).ok()?;
    let reading = ThresholdReading::from(&raw);
    let crossed = reading.threshold_status.filter(|_| !reading.scanning_disabled)?;
    let critical = crossed.at_or_above_non_recoverable
        || crossed.at_or_above_upper_critical
        || crossed.at_or_below_lower_critical
        || crossed.at_or_below_lower_non_recoverable;
    let warning = crossed.at_or_above_upper_non_critical || crossed.at_or_below_lower_non_critical;
    Some(match (critical, warning) {
        (true, _) => Health::Critical,
        (_, true) => Health::Warning,
        _ => Health::Ok,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records() {
        let head =
            |kind, owner, lun, event| [2, 0, 1, 0, 0x51, kind, 50, owner, lun, 7, 3, 1, 0x7F, 0x68, 1, event];
        assert_eq!(record(&head(FULL, BMC, 0, THRESHOLD)), Some((2, Some(7))));
        for other in [
            head(0x12, BMC, 0, THRESHOLD),
            head(FULL, 0x2C, 0, THRESHOLD),
            head(FULL, BMC, 1, THRESHOLD),
            head(FULL, BMC, 0, 0x6F),
        ] {
            assert_eq!(record(&other), Some((2, None)));
        }
        assert_eq!(record(&head(FULL, BMC, 0, THRESHOLD)[..10]), Some((2, None)), "too short to tell");
        assert_eq!(record(&[1]), None);
        assert_eq!(get(0x0102, 0x0304).data, [2, 1, 4, 3, 0, 14]);
        assert_eq!(reservation(&[7, 1]), Some(0x0107));
    }

    #[test]
    fn readings() {
        for (data, expected) in [
            (&[0x40, 0xC0, 0xC0][..], Some(Health::Ok)),
            (&[0x40, 0xC0, 0xC8], Some(Health::Warning)),
            (&[0x40, 0xC0, 0xD8], Some(Health::Critical)),
            (&[0x00, 0xC0, 0x01], Some(Health::Warning)),
            (&[0x00, 0xC0, 0x07], Some(Health::Critical)),
            (&[0x00, 0xE0, 0x07], None),
            (&[0x00, 0x80, 0x07], None),
            (&[0x40, 0xC0], None),
            (&[], None),
        ] {
            assert_eq!(health(data), expected, "{data:02x?}");
        }
        assert!(Health::Critical > Health::Warning && Health::Warning > Health::Ok);
    }

    proptest! {
        #[test]
        fn nothing_harms(data: Vec<u8>) {
            let _ = (record(&data), health(&data), reservation(&data));
        }
    }
}

//! What a BMC says of its server by IPMI: device, GUID, FRU inventory, sensors.

use crate::spec::ServerSpec;

/// Get Device ID (20.1): firmware 1.00, IPMI 2.0, sensors, SDR and FRU, nobody's enterprise number.
pub(crate) fn device() -> Vec<u8> {
    vec![0, 0x20, 0x81, 0x01, 0x00, 0x02, 0x8B, 0, 0, 0, 0, 0]
}

/// The system's UUID as SMBIOS stores it: the first three fields little-endian, as most BMCs give it.
pub(crate) fn guid(spec: &ServerSpec) -> [u8; 16] {
    spec.uuid.to_bytes_le()
}

/// The FRU inventory (Platform Management FRU Information Storage Definition v1.0): board and product areas.
pub(crate) fn fru(spec: &ServerSpec) -> Vec<u8> {
    let (maker, model) = (ServerSpec::MANUFACTURER, spec.class.model.as_str());
    // Language 25 is English; the board's date is not specified (0).
    let board = area(&[25, 0, 0, 0], &[maker, model, &spec.serial, ""]);
    let product = area(&[25], &[maker, model, "", "", &spec.serial, ""]);
    let product_at = 1 + board.len() / 8;
    let mut header = vec![1, 0, 0, 1, product_at as u8, 0, 0];
    header.push(checksum(&header));
    [header, board, product].concat()
}

/// A parameter of Get LAN Configuration Parameters (23.2, table 23-4), behind its revision. `None`: it is not supported.
pub(super) fn lan(spec: &ServerSpec, parameter: u8) -> Option<Vec<u8>> {
    Some(match parameter {
        // The IPv4 address; that it is static; the MAC address; that there is no VLAN.
        3 => spec.bmc_ip.octets().to_vec(),
        4 => vec![1],
        5 => spec.bmc_mac().to_vec(),
        20 => vec![0, 0],
        _ => return None,
    })
}

/// An area: version, its length in units of eight bytes, fields, an end, a checksum.
fn area(start: &[u8], fields: &[&str]) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend(start);
    for field in fields {
        let text: Vec<u8> = field.bytes().filter(u8::is_ascii).take(63).collect();
        bytes.push(0xC0 | text.len() as u8);
        bytes.extend(text);
    }
    bytes.push(0xC1);
    while bytes.len() % 8 != 7 {
        bytes.push(0);
    }
    bytes[1] = ((bytes.len() + 1) / 8) as u8;
    bytes.push(checksum(&bytes));
    bytes
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

/// A sensor with thresholds.
struct Sensor {
    number: u8,
    name: &'static str,
    /// Sensor type (42.2): 1 temperature, 4 fan.
    kind: u8,
    /// Base unit (43.17): 1 degrees Celsius, 18 revolutions per minute.
    unit: u8,
    /// What one step of a reading is.
    factor: u8,
    entity: u8,
    value: u8,
    lower_critical: u8,
    upper_critical: u8,
}

const SENSORS: [Sensor; 2] = [
    Sensor {
        number: 1,
        name: "Inlet Temp",
        kind: 1,
        unit: 1,
        factor: 1,
        entity: 0x37,
        value: 24,
        lower_critical: 3,
        upper_critical: 47,
    },
    Sensor {
        number: 2,
        name: "Fan 1",
        kind: 4,
        unit: 18,
        factor: 100,
        entity: 0x1D,
        value: 72,
        lower_critical: 10,
        upper_critical: 250,
    },
];

/// Get SDR Repository Info (33.9): version 5.1, how many records, reservations are taken.
pub(super) fn repository() -> Vec<u8> {
    let mut bytes = vec![0, 0x51, SENSORS.len() as u8, 0, 0, 0];
    bytes.extend([0; 8]);
    bytes.push(0x02);
    bytes
}

/// Get SDR (33.12): the next record's number and a part of this one. `None`: there is no such record.
pub(super) fn sdr(record: u16, offset: u8, count: u8) -> Option<Vec<u8>> {
    let index = usize::from(record);
    let bytes = full_record(record, SENSORS.get(index)?);
    let next = if index + 1 < SENSORS.len() { record + 1 } else { 0xFFFF };
    let rest = bytes.get(usize::from(offset)..)?;
    let part = &rest[..rest.len().min(count.into())];
    Some([&[0], &next.to_le_bytes()[..], part].concat())
}

/// A Full Sensor Record (43.1).
fn full_record(id: u16, sensor: &Sensor) -> Vec<u8> {
    let [low, high] = id.to_le_bytes();
    let mut bytes = vec![low, high, 0x51, 0x01, 0];
    // Owner is the BMC; sensor number; entity and instance.
    bytes.extend([0x20, 0, sensor.number, sensor.entity, 1]);
    // Initialized with scanning; thresholds are readable; threshold-based.
    bytes.extend([0x7F, 0x68, sensor.kind, 0x01]);
    // No events; readable thresholds: lower and upper critical.
    bytes.extend([0, 0, 0, 0, 0x12, 0x12]);
    // Unsigned; base unit; linear.
    bytes.extend([0x00, sensor.unit, 0, 0]);
    // M, its high bits and tolerance; B; accuracy; exponents.
    bytes.extend([sensor.factor, 0, 0, 0, 0, 0]);
    // Nominal reading is given; nominal, normal maximum and minimum, sensor maximum and minimum.
    bytes.extend([0x01, sensor.value, 0, 0, 0xFF, 0]);
    // Thresholds: upper non-recoverable, critical, non-critical; lower the same.
    bytes.extend([0, sensor.upper_critical, 0, 0, sensor.lower_critical, 0]);
    // Hysteresis, reserved, OEM.
    bytes.extend([0, 0, 0, 0, 0]);
    bytes.push(0xC0 | sensor.name.len() as u8);
    bytes.extend(sensor.name.bytes());
    bytes[4] = (bytes.len() - 5) as u8;
    bytes
}

/// Get Sensor Reading (35.14): the value, scanned, no threshold crossed.
pub(super) fn reading(number: u8) -> Option<Vec<u8>> {
    let sensor = SENSORS.iter().find(|sensor| sensor.number == number)?;
    Some(vec![0, sensor.value, 0x40, 0xC0, 0])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::FleetConfig;

    #[test]
    fn areas_add_up_to_zero() {
        let spec = crate::spec::derive(&FleetConfig::new(1, "/nowhere")).unwrap().remove(0);
        let fru = fru(&spec);
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let (board, product) = (usize::from(fru[3]) * 8, usize::from(fru[4]) * 8);
        assert_eq!(
            (fru.len() % 8, sum(&fru[..8]), sum(&fru[board..product]), sum(&fru[product..])),
            (0, 0, 0, 0)
        );
        assert_eq!(product + usize::from(fru[product + 1]) * 8, fru.len());
    }

    #[test]
    fn records_have_their_length_and_an_end() {
        let first = sdr(0, 0, 0xFF).unwrap();
        assert_eq!((&first[..3], usize::from(first[3 + 4])), (&[0, 1, 0][..], first.len() - 3 - 5));
        assert_eq!(sdr(1, 0, 5).unwrap()[1..3], [0xFF, 0xFF]);
        assert_eq!(sdr(2, 0, 5), None);
    }
}

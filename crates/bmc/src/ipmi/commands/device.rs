//! Who it is: Get Device ID (20.1) and Get System GUID (22.14).

use ipmi_rs_core::app::GetDeviceId;
use ipmi_rs_core::connection::IpmiCommand;

use super::{Privilege, Request, message, question};
use crate::ipmi::machine::APP;
use crate::redfish::identity;

/// What the BMC is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Version of its firmware.
    pub(crate) firmware: String,
    /// IANA enterprise number of who made it; the lowest 20 bits.
    pub(crate) manufacturer: u32,
    /// Product number of that maker.
    pub(crate) product: u16,
}

/// Get Device ID.
pub(crate) fn get_device() -> Request {
    message(GetDeviceId, Privilege::User)
}

/// Its answer.
pub(crate) fn device(data: &[u8]) -> Option<Device> {
    // The product number may be cut off in old BMCs: then the rest is no use either.
    let id = GetDeviceId::parse_success_response(data).ok()?;
    Some(Device {
        firmware: format!("{}.{:02}", id.major_fw_revision, id.minor_fw_revision),
        manufacturer: id.manufacturer_id & 0xF_FFFF,
        product: id.product_id,
    })
}

/// Get System GUID.
pub(crate) fn get_guid() -> Request {
    question(APP, 0x37, Vec::new(), Privilege::User)
}

/// The system's UUID in its answer, if there is no doubt. The specification stores it backwards (20.8); many BMCs store
/// it as SMBIOS does (the first three fields little-endian), some as RFC 4122 prints it. Version and variant tell which:
/// where they fit the specification's order and another too, or none, nothing is said. Between the last two it does not
/// matter: who compares UUIDs knows both.
pub(crate) fn uuid(data: &[u8]) -> Option<String> {
    let raw: [u8; 16] = data.get(..16)?.try_into().ok()?;
    let mut backwards = raw;
    backwards.reverse();
    let mut smbios = raw;
    for field in [0..4, 4..6, 6..8] {
        smbios[field].reverse();
    }
    let fits = |uuid: &[u8; 16]| (1..=5).contains(&(uuid[6] >> 4)) && uuid[8] >> 6 == 0b10;
    let forwards = [smbios, raw].into_iter().find(fits);
    let found = match (fits(&backwards), forwards) {
        (true, None) => backwards,
        (false, Some(forwards)) => forwards,
        _ => return None,
    };
    let digits: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
    identity::uuid(&digits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn devices() {
        let data = [0x20, 0x01, 0x02, 0x43, 0x02, 0xBF, 0x57, 0x01, 0x00, 0x34, 0x12, 0, 0, 0, 0];
        let known = Device { firmware: "2.43".into(), manufacturer: 343, product: 0x1234 };
        assert_eq!(device(&data), Some(known.clone()));
        assert_eq!(device(&data[..11]), Some(known), "without the optional revision");
        assert_eq!(device(&data[..10]), None);
        let request = get_device();
        assert_eq!((request.netfn, request.command, request.data.len()), (6, 1, 0));
    }

    #[test]
    fn uuids() {
        let text = "4c4c4544-0035-34f0-8090-c6c04f314733";
        let bytes = |text: &str| -> Vec<u8> {
            let digits = text.replace('-', "");
            (0..16).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap()).collect()
        };
        let printed = bytes(text);
        let backwards: Vec<u8> = printed.iter().rev().copied().collect();
        let smbios = bytes("44454c4c-3500-f034-8090-c6c04f314733");
        assert_eq!(uuid(&printed).unwrap(), text);
        assert_eq!(uuid(&backwards).unwrap(), text);
        assert_eq!(uuid(&smbios).unwrap(), text);
        assert_eq!(uuid(&printed[..15]), None);
        assert_eq!(uuid(&[0; 16]), None);
        assert_eq!(uuid(&[0xFF; 16]), None);
    }

    proptest! {
        #[test]
        fn nothing_harms(data: Vec<u8>) {
            let _ = (device(&data), uuid(&data));
        }

        /// A random UUID stored backwards is never read as another one.
        #[test]
        fn backwards_or_nothing(mut bytes: [u8; 16]) {
            bytes[6] = 0x40 | bytes[6] & 0x0F;
            bytes[8] = 0x80 | bytes[8] & 0x3F;
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            bytes.reverse();
            let found = uuid(&bytes);
            prop_assert!(found.is_none() || found == identity::uuid(&digits));
        }
    }
}

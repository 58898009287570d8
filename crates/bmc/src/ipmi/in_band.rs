//! Answers of a BMC that did not come over LAN: its own server asked, by the kernel's IPMI device. Pure.

use super::commands::{device, fru};
use crate::redfish::identity;

/// What a BMC is, by Get Device ID (20.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Version of its firmware.
    pub firmware: String,
    /// IANA enterprise number of who made it; the lowest 20 bits.
    pub manufacturer: u32,
    /// Product number of that maker.
    pub product: u16,
}

/// What the FRU inventory of a server says. Empty: it does not, or says what makers leave in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fru {
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub product: String,
    /// Serial number of the product.
    pub product_serial: String,
    /// Serial number of the board.
    pub board_serial: String,
    /// Serial number of the chassis.
    pub chassis_serial: String,
}

/// The data of an answer to Get Device ID, without the completion code.
#[must_use]
pub fn device(data: &[u8]) -> Option<Device> {
    device::device(data).map(|device::Device { firmware, manufacturer, product }| Device {
        firmware,
        manufacturer,
        product,
    })
}

/// An FRU inventory from its first byte on, whole or cut off.
#[must_use]
pub fn fru(image: &[u8]) -> Fru {
    let [chassis, board, product] = fru::split(image);
    let fru::Inventory { manufacturer, product: name, serial } = fru::inventory(board, product);
    let telling = |serial: &str| identity::serial(serial).unwrap_or_default();
    Fru {
        manufacturer,
        product: name,
        product_serial: telling(&serial),
        board_serial: telling(&fru::board_serial(board)),
        chassis_serial: telling(&fru::chassis_serial(chassis)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// A chassis area (FRU, 10): rack mount, part "CP", serial "CHASSIS-1".
    const CHASSIS: [u8; 24] = [
        1, 3, 0x17, 0xC2, b'C', b'P', 0xC9, b'C', b'H', b'A', b'S', b'S', b'I', b'S', b'-', b'1', 0xC1, 0, 0,
        0, 0, 0, 0, 0,
    ];

    #[test]
    fn an_inventory_with_all_three_serial_numbers() {
        let rest = fru::tests::image();
        let [_, board, product] = fru::areas(&rest).unwrap();
        let shift = |at: Option<usize>| ((at.unwrap() + CHASSIS.len()) / 8) as u8;
        let mut header = vec![1, 0, 1, shift(board), shift(product), 0, 0];
        let sum = header.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        header.push(sum.wrapping_neg());
        let image = [&header[..], &CHASSIS, &rest[8..]].concat();
        let found = Fru {
            manufacturer: "Acme".into(),
            product: "Rocket 2000".into(),
            product_serial: "S1234567".into(),
            board_serial: "BOARD-SN".into(),
            chassis_serial: "CHASSIS-1".into(),
        };
        assert_eq!(fru(&image), found);
        // Cut off in the product area: the board names it, and its serial number is not the product's.
        let cut = fru(&image[..image.len() - 1]);
        assert_eq!((cut.manufacturer.as_str(), cut.product_serial.as_str()), ("Board Maker", ""));
        assert_eq!((cut.board_serial.as_str(), cut.chassis_serial.as_str()), ("BOARD-SN", "CHASSIS-1"));
        assert_eq!((fru(&image[..7]), fru(&[])), (Fru::default(), Fru::default()));
    }

    #[test]
    fn a_device() {
        let data = [0x20, 0x01, 0x02, 0x43, 0x02, 0xBF, 0x57, 0x01, 0x00, 0x34, 0x12];
        let known = Device { firmware: "2.43".into(), manufacturer: 343, product: 0x1234 };
        assert_eq!((device(&data), device(&data[..10])), (Some(known), None));
    }

    proptest! {
        #[test]
        fn nothing_harms(bytes: Vec<u8>) {
            let _ = (device(&bytes), fru(&bytes));
        }
    }
}

//! Boot flags: Set and Get System Boot Options (28.12, 28.13; parameters in table 28-14).

use super::{CHASSIS, Privilege, Request, question};

/// Set in progress.
const IN_PROGRESS: u8 = 0;
/// When the BMC forgets the boot flags by itself.
const FORGET: u8 = 3;
/// Who has seen the boot flags.
const SEEN: u8 = 4;
/// Boot flags.
const FLAGS: u8 = 5;

/// Boot flags, data 1: they are valid.
const VALID: u8 = 0x80;
/// Boot flags, data 1: for each boot from now on, not only the next.
const PERSISTENT: u8 = 0x40;
/// Boot flags, data 1: EFI, not PC compatible.
const EFI: u8 = 0x20;

/// What the next boot starts from (boot flags, data 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// No override: the firmware's own order.
    None = 0b0000,
    /// PXE.
    Network = 0b0001,
    /// The default hard drive.
    Disk = 0b0010,
    /// The default hard drive, in safe mode.
    SafeDisk = 0b0011,
    /// The diagnostic partition.
    Diagnostics = 0b0100,
    /// The default CD or DVD.
    Cd = 0b0101,
    /// Firmware setup.
    Setup = 0b0110,
}

impl Device {
    const ALL: [Self; 7] =
        [Self::None, Self::Network, Self::Disk, Self::SafeDisk, Self::Diagnostics, Self::Cd, Self::Setup];

    /// Its name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "no override",
            Self::Network => "PXE",
            Self::Disk => "the disk",
            Self::SafeDisk => "the disk in safe mode",
            Self::Diagnostics => "the diagnostic partition",
            Self::Cd => "the CD",
            Self::Setup => "the firmware's setup",
        }
    }
}

/// Boot flags, as far as the driver sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags {
    /// What the next boot starts from.
    pub(crate) device: Device,
    /// EFI, not BIOS.
    pub(crate) efi: bool,
    /// For each boot, not only the next.
    pub(crate) persistent: bool,
}

fn set(parameter: u8, data: &[u8]) -> Request {
    question(CHASSIS, 0x08, [&[parameter], data].concat(), Privilege::Operator)
}

/// What prepares a change of the flags. BMCs need not know these: an error is no reason to stop.
pub(crate) fn prepare() -> [Request; 3] {
    [
        set(IN_PROGRESS, &[1]),
        // Not after 60 s without a chassis command: the power may be turned on later than that.
        set(FORGET, &[0x08]),
        // The firmware has not seen them yet.
        set(SEEN, &[0x01, 0x01]),
    ]
}

/// The change is complete.
pub(crate) fn complete() -> Request {
    set(IN_PROGRESS, &[0])
}

/// Sets the flags. No override is told twice over: by the device, and by being not valid. `plainly`: only by the device,
/// for BMCs that ignore what is not valid.
pub(crate) fn set_flags(flags: Flags, plainly: bool) -> Request {
    let Flags { device, efi, persistent } = flags;
    let valid = device != Device::None || plainly;
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    let first = bit(valid, VALID) | bit(valid && persistent, PERSISTENT) | bit(valid && efi, EFI);
    set(FLAGS, &[first, (device as u8) << 2, 0, 0, 0])
}

/// Asks for the flags.
pub(crate) fn get_flags() -> Request {
    question(CHASSIS, 0x09, vec![FLAGS, 0, 0], Privilege::Operator)
}

/// What the answer says that is booted from; `None` where it cannot be read. `wanted` decides where there are two ways
/// to see it: BMCs that keep only the device and not whether it is valid do what they are told all the same.
pub(crate) fn device(data: &[u8], wanted: Device) -> Option<Device> {
    let &[_version, parameter, first, second, ..] = data else { return None };
    if parameter & 0x7F != FLAGS {
        return None;
    }
    if wanted == Device::None && first & VALID == 0 {
        return Some(Device::None);
    }
    let code = (second >> 2) & 0x0F;
    Device::ALL.into_iter().find(|device| *device as u8 == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        // As ipmitool 1.8 sends them: bootdev pxe, the same with options=efiboot, with efiboot,persistent, disk.
        for (device, efi, persistent, expected) in [
            (Device::Network, false, false, [5, 0x80, 0x04, 0, 0, 0]),
            (Device::Network, true, false, [5, 0xA0, 0x04, 0, 0, 0]),
            (Device::Network, true, true, [5, 0xE0, 0x04, 0, 0, 0]),
            (Device::Disk, true, true, [5, 0xE0, 0x08, 0, 0, 0]),
            (Device::Cd, false, false, [5, 0x80, 0x14, 0, 0, 0]),
            (Device::Setup, false, false, [5, 0x80, 0x18, 0, 0, 0]),
            (Device::None, true, true, [5, 0, 0, 0, 0, 0]),
        ] {
            let request = set_flags(Flags { device, efi, persistent }, false);
            assert_eq!((request.netfn, request.command, request.data.as_slice()), (0, 8, &expected[..]));
        }
        let none = Flags { device: Device::None, efi: true, persistent: false };
        assert_eq!(set_flags(none, true).data, [5, 0xA0, 0, 0, 0, 0]);
    }

    #[test]
    fn read_back() {
        let read = |data: &[u8]| [Device::None, Device::Network].map(|wanted| device(data, wanted));
        let some = |device| [Some(device), Some(device)];
        assert_eq!(read(&[1, 5, 0xA0, 0x04, 0, 0, 0]), some(Device::Network));
        // ipmi_sim keeps the device only.
        assert_eq!(read(&[1, 5, 0, 0x04, 0, 0, 0]), [Some(Device::None), Some(Device::Network)]);
        assert_eq!(read(&[1, 5, 0, 0, 0, 0, 0]), some(Device::None));
        assert_eq!(read(&[1, 0x85, 0x80, 0x08, 0, 0, 0]), some(Device::Disk));
        assert_eq!(read(&[1, 5, 0x80, 0x14, 0, 0, 0]), some(Device::Cd));
        assert_eq!(read(&[1, 5, 0x80, 0x3C, 0, 0, 0]), [None; 2]);
        assert_eq!(read(&[1, 4, 0, 0]), [None; 2]);
        assert_eq!(read(&[1, 5]), [None; 2]);
        for device in Device::ALL {
            assert!(!device.name().is_empty());
        }
    }
}

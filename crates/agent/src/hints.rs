//! Which disk is the root disk.
//!
//! Hints mean what they mean in Metal3: all that are given must hold; `deviceName` is the name or a stable link,
//! `hctl`, `serialNumber` and the `wwn…` are equal, `model` and `vendor` are contained, all without regard to case;
//! `minSizeGigabytes` counts in GiB. Beyond Metal3: `maxSizeGigabytes`, `type`, and `prefer`, which decides among several.
//!
//! - Hints that say *which* disk (name, HCTL, serial, WWN) and fit more than one are an error: someone erred.
//! - Hints that say *what kind* of disk (model, vendor, size, type, rotational) may fit several; then the first in the
//!   order below is taken, always the same; with `prefer` largest, the first of the largest.
//! - Without hints it is the smallest disk that is not removable and has at least the given size (4 GiB on real
//!   machines).
//! - A removable disk is never taken, hints or not.
//!
//! The order: smaller first, then by the stable path, the WWN, the serial number and the name.

use ferric_protocol::v1::{Disk, DiskPreference, DiskType, RootDeviceHints};

const GIB: u64 = 1 << 30;

/// Why there is no root disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    /// Nothing is large enough.
    #[error("no disk that is not removable has at least {min_bytes} bytes; there are: {found}")]
    NoDisk {
        /// The size asked for.
        min_bytes: u64,
        /// The disks that there are.
        found: String,
    },
    /// Nothing fits.
    #[error("no disk fits {wanted}; there are: {found}")]
    NoMatch {
        /// The hints.
        wanted: String,
        /// The disks that there are.
        found: String,
    },
    /// Too much fits.
    #[error("{wanted} should be one disk and fits several: {matched}")]
    Ambiguous {
        /// The hints.
        wanted: String,
        /// The disks that fit.
        matched: String,
    },
    /// What fits must not be written.
    #[error("{wanted} fits only removable disks: {matched}")]
    Removable {
        /// The hints.
        wanted: String,
        /// The disks that fit.
        matched: String,
    },
}

/// Picks the root disk. `min_bytes` counts only without hints.
pub fn root_disk<'a>(
    disks: &'a [Disk],
    hints: Option<&RootDeviceHints>,
    min_bytes: u64,
) -> Result<&'a Disk, HintError> {
    let mut ordered: Vec<&Disk> = disks.iter().collect();
    ordered.sort_by(|a, b| order(a).cmp(&order(b)));
    let largest_first = hints.is_some_and(|hints| hints.prefer() == DiskPreference::Largest);
    if largest_first {
        // A stable sort: among equals the order stays.
        ordered.sort_by_key(|disk| std::cmp::Reverse(disk.size_bytes));
    }
    let found = || describe(ordered.iter().copied());
    // A preference alone chooses among all disks that a root disk may be, as no hint at all does.
    let Some(hints) = hints.filter(|hints| says_something(hints)) else {
        let fits = |disk: &&Disk| !disk.removable && disk.size_bytes >= min_bytes && disk.size_bytes > 0;
        return ordered
            .iter()
            .copied()
            .find(fits)
            .ok_or_else(|| HintError::NoDisk { min_bytes, found: found() });
    };
    let wanted = || describe_hints(hints);
    let matched: Vec<&Disk> = ordered.iter().copied().filter(|disk| matches(disk, hints)).collect();
    let fixed: Vec<&Disk> = matched.iter().copied().filter(|disk| !disk.removable).collect();
    match fixed.as_slice() {
        [] if matched.is_empty() => Err(HintError::NoMatch { wanted: wanted(), found: found() }),
        [] => Err(HintError::Removable { wanted: wanted(), matched: describe(matched.into_iter()) }),
        [first, _, ..] if !names_one_disk(hints) => Ok(first),
        [only] => Ok(only),
        several => Err(HintError::Ambiguous { wanted: wanted(), matched: describe(several.iter().copied()) }),
    }
}

fn says_something(hints: &RootDeviceHints) -> bool {
    RootDeviceHints { prefer: None, ..hints.clone() } != RootDeviceHints::default()
}

/// The order in which disks are preferred.
pub(crate) fn order(disk: &Disk) -> (u64, &str, &str, &str, &str) {
    (disk.size_bytes, &disk.by_path, &disk.wwn, &disk.serial_number, &disk.name)
}

fn names_one_disk(hints: &RootDeviceHints) -> bool {
    hints.device_name.is_some()
        || hints.hctl.is_some()
        || hints.serial_number.is_some()
        || hints.wwn.is_some()
        || hints.wwn_with_extension.is_some()
        || hints.wwn_vendor_extension.is_some()
}

fn matches(disk: &Disk, hints: &RootDeviceHints) -> bool {
    let RootDeviceHints {
        device_name,
        hctl,
        model,
        vendor,
        serial_number,
        min_size_gigabytes,
        wwn,
        wwn_with_extension,
        wwn_vendor_extension,
        rotational,
        max_size_gigabytes,
        r#type: _,
        prefer: _,
    } = hints;
    let equal = |hint: &Option<String>, value: &str| match hint {
        Some(hint) => hint.trim().eq_ignore_ascii_case(value.trim()),
        None => true,
    };
    let contained = |hint: &Option<String>, value: &str| match hint {
        Some(hint) => value.to_lowercase().contains(&hint.trim().to_lowercase()),
        None => true,
    };
    let named = match device_name {
        Some(name) => [&disk.name, &disk.by_path, &disk.by_id].into_iter().any(|known| known == name.trim()),
        None => true,
    };
    named
        && equal(hctl, &disk.hctl)
        && contained(model, &disk.model)
        && contained(vendor, &disk.vendor)
        && equal(serial_number, &disk.serial_number)
        && min_size_gigabytes.is_none_or(|size| disk.size_bytes >= size.saturating_mul(GIB))
        && max_size_gigabytes.is_none_or(|size| disk.size_bytes <= size.saturating_mul(GIB))
        && hints
            .r#type
            .is_none_or(|_| hints.r#type() != DiskType::Unspecified && hints.r#type() == disk.r#type())
        && equal(wwn, &disk.wwn)
        && equal(wwn_with_extension, &disk.wwn_with_extension)
        && equal(wwn_vendor_extension, &disk.wwn_vendor_extension)
        && rotational.is_none_or(|rotational| rotational == disk.rotational)
}

fn describe_hints(hints: &RootDeviceHints) -> String {
    let RootDeviceHints {
        device_name,
        hctl,
        model,
        vendor,
        serial_number,
        min_size_gigabytes,
        wwn,
        wwn_with_extension,
        wwn_vendor_extension,
        rotational,
        max_size_gigabytes,
        r#type: _,
        prefer: _,
    } = hints;
    let texts = [
        ("deviceName", device_name),
        ("hctl", hctl),
        ("model", model),
        ("vendor", vendor),
        ("serialNumber", serial_number),
        ("wwn", wwn),
        ("wwnWithExtension", wwn_with_extension),
        ("wwnVendorExtension", wwn_vendor_extension),
    ];
    let mut parts: Vec<String> = texts
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={value}")))
        .collect();
    parts.extend(min_size_gigabytes.map(|size| format!("minSizeGigabytes={size}")));
    parts.extend(max_size_gigabytes.map(|size| format!("maxSizeGigabytes={size}")));
    parts.extend(hints.r#type.map(|_| format!("type={}", type_name(hints.r#type()))));
    parts.extend(rotational.map(|rotational| format!("rotational={rotational}")));
    parts.join(", ")
}

/// At most this many disks are listed in a message.
const LISTED: usize = 8;

fn describe<'a>(disks: impl ExactSizeIterator<Item = &'a Disk>) -> String {
    let count = disks.len();
    let mut parts: Vec<String> = disks.take(LISTED).map(describe_disk).collect();
    if parts.is_empty() {
        return "none".to_owned();
    }
    if count > LISTED {
        parts.push(format!("and {} more", count - LISTED));
    }
    parts.join("; ")
}

fn describe_disk(disk: &Disk) -> String {
    let mut text = format!("{} ({} bytes", disk.name, disk.size_bytes);
    if disk.r#type() != DiskType::Unspecified {
        text.push_str(&format!(", {}", type_name(disk.r#type())));
    }
    let facts =
        [("model", &disk.model), ("serial", &disk.serial_number), ("wwn", &disk.wwn), ("hctl", &disk.hctl)];
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!(", {name} {value}"));
    }
    for (is, word) in [(disk.rotational, ", rotational"), (disk.removable, ", removable")] {
        text.push_str(if is { word } else { "" });
    }
    text.push(')');
    text
}

/// As the API names it.
fn type_name(kind: DiskType) -> &'static str {
    match kind {
        DiskType::Unspecified => "unknown",
        DiskType::Hdd => "HDD",
        DiskType::Ssd => "SSD",
        DiskType::Nvme => "NVME",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn disk(name: &str, gib: u64) -> Disk {
        Disk {
            name: format!("/dev/{name}"),
            by_path: format!("/dev/disk/by-path/pci-{name}"),
            model: "ACME Fast 2".into(),
            vendor: "Acme".into(),
            serial_number: format!("SN-{name}"),
            wwn: format!("0x5000{name}"),
            size_bytes: gib * GIB,
            hctl: "0:0:0:0".into(),
            ..Disk::default()
        }
    }

    fn machine() -> Vec<Disk> {
        vec![
            Disk { removable: true, ..disk("usb", 8) },
            disk("tiny", 1),
            Disk { rotational: true, hctl: "1:0:0:0".into(), model: "Slow".into(), ..disk("sdb", 1000) },
            disk("sdc", 100),
            disk("sda", 100),
        ]
    }

    fn hints(set: impl FnOnce(&mut RootDeviceHints)) -> RootDeviceHints {
        let mut hints = RootDeviceHints::default();
        set(&mut hints);
        hints
    }

    #[test]
    fn without_hints_the_smallest_that_is_large_enough_and_fixed() {
        let mut disks = machine();
        for hints in [None, Some(RootDeviceHints::default())] {
            assert_eq!(root_disk(&disks, hints.as_ref(), 4 * GIB).unwrap().name, "/dev/sda");
        }
        disks.reverse();
        assert_eq!(
            root_disk(&disks, None, 4 * GIB).unwrap().name,
            "/dev/sda",
            "the order of listing does not matter"
        );
        assert_eq!(root_disk(&disks, None, 0).unwrap().name, "/dev/tiny");
        let error = root_disk(&disks, None, 5000 * GIB).unwrap_err().to_string();
        assert!(error.contains("/dev/sdb (1073741824000 bytes") && error.contains("removable"), "{error}");
        assert_eq!(root_disk(&[], None, 1), Err(HintError::NoDisk { min_bytes: 1, found: "none".into() }));
    }

    #[test]
    fn hints_pick_as_metal3_does() {
        let disks = machine();
        let text = |value: &str| Some(value.to_owned());
        let cases: [(RootDeviceHints, &str); 11] = [
            (hints(|h| h.device_name = text("/dev/sdc")), "/dev/sdc"),
            (hints(|h| h.device_name = text("/dev/disk/by-path/pci-sdb")), "/dev/sdb"),
            (hints(|h| h.hctl = text("1:0:0:0")), "/dev/sdb"),
            (hints(|h| h.serial_number = text("sn-SDC")), "/dev/sdc"),
            (hints(|h| h.wwn = text("0x5000SDA")), "/dev/sda"),
            (hints(|h| h.model = text("slow")), "/dev/sdb"),
            (hints(|h| h.rotational = Some(true)), "/dev/sdb"),
            (hints(|h| h.min_size_gigabytes = Some(500)), "/dev/sdb"),
            // A kind of disk of which there are several: the first in the order.
            (hints(|h| h.vendor = text("ACME")), "/dev/tiny"),
            (
                hints(|h| {
                    h.model = text("fast");
                    h.min_size_gigabytes = Some(100);
                    h.rotational = Some(false);
                }),
                "/dev/sda",
            ),
            // Small disks may be named.
            (hints(|h| h.device_name = text("/dev/tiny")), "/dev/tiny"),
        ];
        for (hints, expected) in cases {
            assert_eq!(root_disk(&disks, Some(&hints), 4 * GIB).unwrap().name, expected, "{hints:?}");
        }
    }

    #[test]
    fn hints_beyond_metal3_pick_too() {
        let mut disks = machine();
        for (disk, kind) in
            disks.iter_mut().zip([DiskType::Ssd, DiskType::Nvme, DiskType::Hdd, DiskType::Ssd, DiskType::Ssd])
        {
            disk.r#type = kind.into();
            disk.by_id = format!("/dev/disk/by-id/acme-{}", disk.serial_number);
        }
        let largest = Some(DiskPreference::Largest.into());
        let cases: [(RootDeviceHints, &str); 10] = [
            (hints(|h| h.device_name = Some("/dev/disk/by-id/acme-SN-sdc".into())), "/dev/sdc"),
            (hints(|h| h.r#type = Some(DiskType::Nvme.into())), "/dev/tiny"),
            (hints(|h| h.r#type = Some(DiskType::Hdd.into())), "/dev/sdb"),
            (hints(|h| h.r#type = Some(DiskType::Ssd.into())), "/dev/sda"),
            (hints(|h| h.max_size_gigabytes = Some(1)), "/dev/tiny"),
            (
                hints(|h| {
                    h.max_size_gigabytes = Some(100);
                    h.prefer = largest;
                }),
                "/dev/sda",
            ),
            (hints(|h| h.prefer = largest), "/dev/sdb"),
            (hints(|h| h.prefer = Some(DiskPreference::Smallest.into())), "/dev/sda"),
            (
                hints(|h| {
                    h.prefer = largest;
                    h.rotational = Some(false);
                }),
                "/dev/sda",
            ),
            // The least size of a root disk binds a preference, not a hint that says which kind.
            (
                hints(|h| {
                    h.prefer = Some(DiskPreference::Smallest.into());
                    h.vendor = Some("acme".into());
                }),
                "/dev/tiny",
            ),
        ];
        for (hints, expected) in cases {
            assert_eq!(root_disk(&disks, Some(&hints), 4 * GIB).unwrap().name, expected, "{hints:?}");
        }
        // A type that this agent does not know fits nothing: it is never a guess.
        for unknown in [0, 77] {
            let hints = hints(|h| h.r#type = Some(unknown));
            let error = root_disk(&disks, Some(&hints), 0).unwrap_err();
            assert!(matches!(&error, HintError::NoMatch { .. }), "{error}");
        }
        let hints = hints(|h| {
            h.r#type = Some(DiskType::Hdd.into());
            h.max_size_gigabytes = Some(500);
        });
        let error = root_disk(&disks, Some(&hints), 0).unwrap_err().to_string();
        assert!(error.contains("maxSizeGigabytes=500, type=HDD") && error.contains(", HDD"), "{error}");
    }

    #[test]
    fn what_cannot_be_decided_is_an_error_with_the_facts() {
        let disks = machine();
        let none = hints(|h| {
            h.serial_number = Some("X1".into());
            h.min_size_gigabytes = Some(10);
        });
        let error = root_disk(&disks, Some(&none), 0).unwrap_err();
        assert!(matches!(error, HintError::NoMatch { .. }));
        let error = error.to_string();
        assert!(
            error.contains("serialNumber=X1, minSizeGigabytes=10") && error.contains("SN-sda"),
            "{error}"
        );

        let two = hints(|h| h.hctl = Some("0:0:0:0".into()));
        let error = root_disk(&disks, Some(&two), 0).unwrap_err();
        assert!(
            matches!(&error, HintError::Ambiguous { matched, .. } if matched.contains("/dev/sdc")),
            "{error}"
        );

        let removable = hints(|h| h.device_name = Some("/dev/usb".into()));
        let error = root_disk(&disks, Some(&removable), 0).unwrap_err();
        assert!(matches!(error, HintError::Removable { .. }), "{error}");
    }
}

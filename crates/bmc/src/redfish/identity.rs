//! Identity of a server: placeholders that firmware ships are no identity.

/// UUIDs that vendors ship on every board.
const PLACEHOLDER_UUIDS: &[&str] =
    &["03000200-0400-0500-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc"];

/// Serial numbers that say nothing, in lower case.
const PLACEHOLDER_SERIALS: &[&str] = &[
    "none",
    "null",
    "na",
    "n/a",
    "unknown",
    "default",
    "default string",
    "not specified",
    "not available",
    "not applicable",
    "system serial number",
    "to be filled by o.e.m.",
    "to be filled by oem",
    "oem",
    "empty",
    "0123456789",
    "123456789",
    "1234567890",
];

/// A UUID in lower case with hyphens; `None` for a placeholder or what is no UUID.
pub(crate) fn uuid(text: &str) -> Option<String> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    if digits.bytes().all(|b| b == b'0') || digits.bytes().all(|b| b == b'f') {
        return None;
    }
    let uuid = format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    );
    (!PLACEHOLDER_UUIDS.contains(&uuid.as_str())).then_some(uuid)
}

/// A serial number; `None` for a placeholder.
pub(crate) fn serial(text: &str) -> Option<String> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    let one_character = lower.bytes().all(|b| Some(&b) == lower.as_bytes().first());
    let placeholder = one_character || PLACEHOLDER_SERIALS.contains(&lower.as_str());
    (!placeholder).then(|| text.chars().filter(|c| !c.is_control()).take(128).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn uuids() {
        assert_eq!(
            uuid("4C4C4544-0035-3410-8050-C6C04F314733").unwrap(),
            "4c4c4544-0035-3410-8050-c6c04f314733"
        );
        assert_eq!(uuid("4C4C4544003534108050C6C04F314733").unwrap(), "4c4c4544-0035-3410-8050-c6c04f314733");
        for none in ["", "x", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"]
        {
            assert_eq!(uuid(none), None, "{none}");
        }
        assert_eq!(uuid("03000200-0400-0500-0006-000700080009"), None);
        assert_eq!(uuid("ééééééééééééééééééééééééééééééé€"), None);
    }

    #[test]
    fn serials() {
        assert_eq!(serial(" MXQ302099S ").unwrap(), "MXQ302099S");
        for none in
            ["", "  ", "None", "To be filled by O.E.M.", "0000000", "........", "Default string", "N/A"]
        {
            assert_eq!(serial(none), None, "{none}");
        }
    }
}

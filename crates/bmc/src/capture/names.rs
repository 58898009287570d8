//! Which keys hold what tells whose a server is, and what it is replaced by: the same by the same, of the same shape.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a key's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Names one piece of hardware: a serial number, a service tag, an asset tag.
    Serial,
    /// Names a machine in a network.
    Host,
    /// Names a person or an account.
    User,
    /// A world-wide name, a GUID: hexadecimal digits, perhaps with a prefix.
    Wide,
    /// Nothing of it is kept: passwords, keys, places, people.
    Secret,
    /// A version, which may look like an IP address.
    Version,
}

/// Parts of keys (lower case, without anything but letters and digits) and what their texts are; the first that fits.
const KEYS: &[(&str, Kind)] = &[
    ("allowablevalues", Kind::Version),
    ("password", Kind::Secret),
    ("passphrase", Kind::Secret),
    ("token", Kind::Secret),
    ("secret", Kind::Secret),
    ("community", Kind::Secret),
    ("licensestring", Kind::Secret),
    ("licensekey", Kind::Secret),
    ("entitlement", Kind::Secret),
    ("activationkey", Kind::Secret),
    ("privatekey", Kind::Secret),
    ("publickey", Kind::Secret),
    ("sshkey", Kind::Secret),
    ("encryptionkey", Kind::Secret),
    ("authenticationkey", Kind::Secret),
    ("certificatestring", Kind::Secret),
    ("fingerprint", Kind::Secret),
    ("contact", Kind::Secret),
    ("postaladdress", Kind::Secret),
    ("latitude", Kind::Secret),
    ("longitude", Kind::Secret),
    ("email", Kind::Secret),
    ("fromaddress", Kind::Secret),
    ("phone", Kind::Secret),
    ("datacenter", Kind::Secret),
    ("rackname", Kind::Secret),
    ("roomname", Kind::Secret),
    ("aislename", Kind::Secret),
    ("serialn", Kind::Serial),
    ("servicetag", Kind::Serial),
    ("assettag", Kind::Serial),
    ("expressservicecode", Kind::Serial),
    ("nodeid", Kind::Serial),
    ("sku", Kind::Serial),
    ("protectedidentificationnumber", Kind::Serial),
    ("hostname", Kind::Host),
    ("fqdn", Kind::Host),
    ("domainname", Kind::Host),
    ("dnsname", Kind::Host),
    ("username", Kind::User),
    ("createdby", Kind::User),
    ("durablename", Kind::Wide),
    ("wwn", Kind::Wide),
    ("wwpn", Kind::Wide),
    ("worldwide", Kind::Wide),
    ("sasaddress", Kind::Wide),
    ("nqn", Kind::Serial),
    ("iqn", Kind::Serial),
    ("guid", Kind::Wide),
    ("version", Kind::Version),
    ("revision", Kind::Version),
    ("firmware", Kind::Version),
];

/// Keys that are exactly so.
const EXACT: &[(&str, Kind)] = &[
    // Of a subscription to events: by it the receiver knows who sends.
    ("context", Kind::Secret),
    ("authorization", Kind::Secret),
    ("street", Kind::Secret),
    ("building", Kind::Secret),
    ("city", Kind::Secret),
    ("serial", Kind::Serial),
    ("sn", Kind::Serial),
    ("ppin", Kind::Serial),
    ("rack", Kind::Secret),
    ("row", Kind::Secret),
    ("room", Kind::Secret),
];

/// What the text at a key is, if it is anything of interest.
pub(super) fn kind(key: &str) -> Option<Kind> {
    let plain: String =
        key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let exact = EXACT.iter().find(|(name, _)| *name == plain);
    exact.or_else(|| KEYS.iter().find(|(part, _)| plain.contains(part))).map(|(_, kind)| *kind)
}

/// What stands for what: counted, so that the same value gets the same stand-in everywhere.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    known: HashMap<(&'static str, String), String>,
    counts: HashMap<&'static str, u64>,
}

impl StandIns {
    fn get(&mut self, class: &'static str, value: String, make: impl FnOnce(u64) -> String) -> String {
        if let Some(known) = self.known.get(&(class, value.clone())) {
            return known.clone();
        }
        let count = self.counts.entry(class).or_default();
        *count += 1;
        let made = make(*count);
        self.known.insert((class, value), made.clone());
        made
    }

    /// For a serial number, a host name or a user name.
    pub(super) fn name(&mut self, kind: Kind, value: &str) -> String {
        let (class, prefix) = match kind {
            Kind::Host => ("host", "host"),
            Kind::User => ("user", "user"),
            _ => ("serial", "SERIAL"),
        };
        self.get(class, value.to_ascii_lowercase(), |count| format!("{prefix}{count:04}"))
    }

    /// For hexadecimal digits of any writing: the first six, which name a maker, stay; so do separators and case.
    pub(super) fn hex(&mut self, text: &str) -> String {
        let digits: String =
            text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase();
        let first = digits.bytes().next().unwrap_or(b'0');
        if digits.len() < 8 || digits.bytes().all(|b| b == first) {
            return text.to_owned();
        }
        let (kept, width) = (digits[..6].to_owned(), digits.len() - 6);
        let stand_in = self.get("hex", digits, |count| format!("{kept}{count:0width$x}"));
        let mut next = stand_in.chars();
        let upper = text.bytes().any(|b| b.is_ascii_uppercase());
        text.chars()
            .map(|c| match c {
                c if c.is_ascii_hexdigit() => {
                    next.next().map_or(c, |new| if upper { new.to_ascii_uppercase() } else { new })
                }
                other => other,
            })
            .collect()
    }

    /// For a UUID with hyphens.
    pub(super) fn uuid(&mut self, text: &str) -> String {
        if crate::redfish::real_uuid(text).is_none() {
            return text.to_owned();
        }
        let made = self
            .get("uuid", text.to_ascii_lowercase(), |count| format!("00000000-0000-4000-8000-{count:012x}"));
        if text.bytes().any(|b| b.is_ascii_uppercase()) { made.to_ascii_uppercase() } else { made }
    }

    /// For an IP address: from the ranges for documentation (RFC 5737, RFC 3849); link-local ones stay link-local.
    pub(super) fn address(&mut self, address: IpAddr) -> String {
        let stays = match address {
            IpAddr::V4(v4) => {
                let [first, ..] = v4.octets();
                // Masks and what is nobody's.
                v4.is_unspecified() || v4.is_loopback() || first == 255 || first == 0
            }
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback(),
        };
        if stays {
            return address.to_string();
        }
        let key = address.to_string();
        match address {
            IpAddr::V4(v4) if v4.is_link_local() => self.get("link-local", key, |count| {
                Ipv4Addr::from(0xa9fe_0000 + (count.min(0xfffe) as u32)).to_string()
            }),
            IpAddr::V4(_) => self.get("v4", key, |count| {
                let (net, host) = match count {
                    1..=254 => ([192, 0, 2], count),
                    255..=508 => ([198, 51, 100], count - 254),
                    _ => ([203, 0, 113], (count - 509) % 254 + 1),
                };
                Ipv4Addr::new(net[0], net[1], net[2], host as u8).to_string()
            }),
            IpAddr::V6(v6) => {
                let link = v6.segments()[0] & 0xffc0 == 0xfe80;
                let net: u128 = if link { 0xfe80 << 112 } else { 0x2001_0db8 << 96 };
                self.get("v6", key, |count| Ipv6Addr::from(net + u128::from(count)).to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (key, expected) in [
            ("SerialNumber", Some(Kind::Serial)),
            ("ChassisServiceTag", Some(Kind::Serial)),
            ("SerialConsole", None),
            ("CapacityBytes", None),
            ("PasswordLastSet", Some(Kind::Secret)),
            ("HostName", Some(Kind::Host)),
            ("FirmwareVersion", Some(Kind::Version)),
            ("Model", None),
            ("ResetType@Redfish.AllowableValues", Some(Kind::Version)),
            ("NodeGUID", Some(Kind::Wide)),
            ("Context", Some(Kind::Secret)),
            ("@odata.context", None),
        ] {
            assert_eq!(kind(key), expected, "{key}");
        }
    }

    #[test]
    fn stand_ins_keep_their_shape() {
        let mut names = StandIns::default();
        assert_eq!(names.hex("7C:C2:55:50:A8:FF"), "7C:C2:55:00:00:01");
        assert_eq!(names.hex("7cc25550a8ff"), "7cc255000001");
        assert_eq!(names.hex("7c-c2-55-50-a8-fe"), "7c-c2-55-00-00-02");
        assert_eq!(names.hex("00:00:00:00:00:00"), "00:00:00:00:00:00");
        assert_eq!(
            names.uuid("4C4C4544-0035-3410-8050-C6C04F314733"),
            "00000000-0000-4000-8000-000000000001"
        );
        assert_eq!(
            names.uuid("00000000-0000-0000-0000-000000000000"),
            "00000000-0000-0000-0000-000000000000"
        );
        for (address, expected) in [
            ("10.1.2.3", "192.0.2.1"),
            ("10.1.2.4", "192.0.2.2"),
            ("10.1.2.3", "192.0.2.1"),
            ("169.254.7.7", "169.254.0.1"),
            ("255.255.240.0", "255.255.240.0"),
            ("fe80::7ec2:55ff:fe50:a8ff", "fe80::1"),
            ("2a00::1", "2001:db8::2"),
            ("::", "::"),
        ] {
            assert_eq!(address.parse().map(|address| names.address(address)).ok().as_deref(), Some(expected));
        }
    }
}

//! Finds what tells whose a server is by its look: UUIDs, hardware addresses, IP addresses, long hexadecimal numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::{Kind, StandIns};

/// Hosts of schemas and registries, which tell nothing.
const PUBLIC: &[&str] = &["redfish.dmtf.org", "www.dmtf.org"];

/// The text with stand-ins. `versions`: what looks like an IPv4 address is a version.
pub(super) fn scan(text: &str, versions: bool, names: &mut StandIns) -> String {
    if !text.is_ascii() {
        // What is looked for is ASCII: the pieces between other characters are looked through one by one.
        let mut done = String::with_capacity(text.len());
        let mut piece = String::new();
        for c in text.chars() {
            if c.is_ascii() {
                piece.push(c);
            } else {
                done.push_str(&scan(&piece, versions, names));
                piece.clear();
                done.push(c);
            }
        }
        done.push_str(&scan(&piece, versions, names));
        return done;
    }
    let mut done = String::with_capacity(text.len());
    let mut at = 0;
    let mut inside_word = false;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let found = if inside_word { None } else { first(rest, versions, names) };
        match found {
            Some((length, stand_in)) => {
                done.push_str(&stand_in);
                at += length;
                inside_word = true;
            }
            None => {
                let c = rest.as_bytes()[0];
                done.push(char::from(c));
                at += 1;
                inside_word = c.is_ascii_alphanumeric();
            }
        }
    }
    done
}

/// What the text begins with, if it is anything: how long it is, and its stand-in.
fn first(text: &str, versions: bool, names: &mut StandIns) -> Option<(usize, String)> {
    if let Some(uuid) = uuid(text) {
        return Some((uuid.len(), names.uuid(uuid)));
    }
    if let Some(octets) = octets(text) {
        return Some((octets.len(), names.hex(octets)));
    }
    if let Some((length, address)) = ipv6(text) {
        return Some((length, names.address(IpAddr::V6(address))));
    }
    if let Some((length, address)) = ipv4(text).filter(|_| !versions) {
        return Some((length, names.address(IpAddr::V4(address))));
    }
    if let Some(word) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).and_then(hex_word) {
        return Some((word.len() + 2, format!("0x{}", names.hex(word))));
    }
    let word = hex_word(text)?;
    Some((word.len(), names.hex(word)))
}

fn ends_word(text: &str, at: usize) -> bool {
    text.as_bytes().get(at).is_none_or(|b| !b.is_ascii_alphanumeric())
}

fn uuid(text: &str) -> Option<&str> {
    let candidate = text.get(..36)?;
    let fits = candidate.bytes().enumerate().all(|(at, b)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_hexdigit(),
    });
    (fits && ends_word(text, 36)).then_some(candidate)
}

/// Octets with one separator between them: MAC (6), EUI-64 (8), InfiniBand (20).
fn octets(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let separator = *bytes.get(2).filter(|b| matches!(b, b':' | b'-'))?;
    let mut count = 0;
    loop {
        let at = count * 3;
        let pair = bytes.get(at..at + 2)?;
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        count += 1;
        if bytes.get(at + 2) != Some(&separator) {
            break;
        }
    }
    let length = count * 3 - 1;
    (matches!(count, 6 | 8 | 20) && ends_word(text, length)).then(|| &text[..length])
}

fn ipv6(text: &str) -> Option<(usize, Ipv6Addr)> {
    let mut length = text.bytes().take_while(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')).count();
    while length > 0 && text[..length].ends_with('.') {
        length -= 1;
    }
    let run = &text[..length];
    if run.bytes().filter(|b| *b == b':').count() < 2 || !ends_word(text, length) {
        return None;
    }
    run.parse().ok().map(|address| (length, address))
}

fn ipv4(text: &str) -> Option<(usize, Ipv4Addr)> {
    let mut length = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    while length > 0 && text[..length].ends_with('.') {
        length -= 1;
    }
    let fits = ends_word(text, length);
    text[..length].parse().ok().filter(|_| fits).map(|address| (length, address))
}

/// A word of 12, 16, 20 or 32 hexadecimal digits with a letter among them.
fn hex_word(text: &str) -> Option<&str> {
    let length = text.bytes().take_while(u8::is_ascii_alphanumeric).count();
    let word = &text[..length];
    let is_hex = word.bytes().all(|b| b.is_ascii_hexdigit());
    let has_letter = word.bytes().any(|b| b.is_ascii_alphabetic());
    (matches!(length, 12 | 16 | 20 | 32) && is_hex && has_letter).then_some(word)
}

/// The URLs in a text without user, query and path: these may hold tokens, or names of what is nobody's business.
pub(super) fn urls(text: &str, names: &mut StandIns) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = (&rest[..at + 3], &rest[at + 3..]);
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | ',' | ')');
        let (url, tail) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let (authority, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        let authority = authority.rsplit('@').next().unwrap_or_default();
        done.push_str(before);
        if PUBLIC.contains(&authority) {
            done.push_str(url);
        } else {
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
                _ => (authority, None),
            };
            let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            // Addresses are replaced by their look.
            let host = if is_address { host.to_owned() } else { names.name(Kind::Host, host) };
            done.push_str(&host);
            if let Some(port) = port {
                done.push(':');
                done.push_str(port);
            }
            match path {
                "" => {}
                path if path.starts_with("/redfish/") => done.push_str(path),
                _ => done.push_str("/REDACTED"),
            }
        }
        rest = tail;
    }
    done.push_str(rest);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found() {
        let mut names = StandIns::default();
        for (text, expected) in [
            ("PowerEdge R750", "PowerEdge R750"),
            ("at 10.0.0.7:443, 10.0.0.8.", "at 192.0.2.1:443, 192.0.2.2."),
            ("https://10.0.0.7/x", "https://192.0.2.1/x"),
            ("mac 7C:C2:55:50:A8:FF!", "mac 7C:C2:55:00:00:01!"),
            ("MAC(7CC25550A8FF,0x1)/IPv4(0.0.0.0)", "MAC(7CC255000001,0x1)/IPv4(0.0.0.0)"),
            ("NVMe(0x1,60-33-01-21-9A-38-25-00)", "NVMe(0x1,60-33-01-00-00-00-00-02)"),
            (
                "HD(2,GPT,3F2633A7-BDF2-4A69-B74A-D2AE40975D0D)",
                "HD(2,GPT,00000000-0000-4000-8000-000000000001)",
            ),
            ("[fe80::7ec2:55ff:fe50:a8ff]", "[fe80::1]"),
            ("2023-07-05T12:34:56+00:00", "2023-07-05T12:34:56+00:00"),
            ("6.00.30.00", "6.00.30.00"),
            ("naïve 10.0.0.7 é", "naïve 192.0.2.1 é"),
            ("eui.0025389a210108da", "eui.0025380000000003"),
            ("Installed-28897", "Installed-28897"),
        ] {
            assert_eq!(scan(text, false, &mut names), expected);
        }
        for (text, expected) in [
            ("http://user:pw@boot.lab:80/boot/token/agent.iso and", "http://host0001:80/REDACTED and"),
            ("https://10.0.0.7/redfish/v1", "https://10.0.0.7/redfish/v1"),
            ("http://redfish.dmtf.org/schemas/x.json", "http://redfish.dmtf.org/schemas/x.json"),
            ("no url", "no url"),
        ] {
            assert_eq!(urls(text, &mut names), expected);
        }
        assert_eq!(scan("7.2.2.0", true, &mut names), "7.2.2.0");
    }
}

//! Servers of names: who named them, and the file in which the C library looks for them.
//!
//! The agent is linked statically with glibc, whose resolver (files and DNS) is part of it since 2.34 and reads
//! `/etc/resolv.conf` again when that has changed (resolv.conf(5)).

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use super::console::say;

/// The C library asks this many and no more: `MAXNS` of resolv.h.
const MOST: usize = 3;

/// Who named a server; those before are asked before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Whoever described the host's network.
    Given,
    /// A DHCP server, on this interface.
    Dhcp4(String),
    /// A DHCPv6 server, on this interface.
    Dhcp6(String),
    /// A router's advertisement, on this interface.
    Router(String),
}

impl Source {
    /// The interface whose link-local addresses are meant.
    fn interface(&self) -> Option<&str> {
        match self {
            Self::Given => None,
            Self::Dhcp4(name) | Self::Dhcp6(name) | Self::Router(name) => Some(name),
        }
    }
}

/// All servers that were named.
#[derive(Debug)]
pub(super) struct Names {
    file: PathBuf,
    known: Mutex<BTreeMap<Source, Vec<IpAddr>>>,
}

impl Names {
    /// Writes to `file`, which is `/etc/resolv.conf`.
    pub(super) fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), known: Mutex::default() }
    }

    /// What this source names now takes the place of what it named before.
    pub(super) fn set(&self, source: Source, servers: Vec<IpAddr>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = text(&known);
        if servers.is_empty() {
            known.remove(&source);
        } else {
            known.insert(source, servers);
        }
        let now = text(&known);
        if now == before {
            return;
        }
        let folder = self.file.parent().map_or(Ok(()), fs::create_dir_all);
        // In place: where it is mounted on its own, a new file cannot take its name. One write, so that nobody reads half.
        let written = folder
            .and_then(|()| fs::File::create(&self.file))
            .and_then(|mut file| file.write_all(now.as_bytes()));
        match written {
            Ok(()) => {
                let servers: Vec<&str> = now.lines().filter_map(|l| l.strip_prefix("nameserver ")).collect();
                say(&format!("names are asked of {}", servers.join(", ")));
            }
            Err(error) => {
                say(&format!("{} cannot be written, names cannot be found: {error}", self.file.display()))
            }
        }
    }
}

/// The file's text: each server once, in the order of the sources.
fn text(known: &BTreeMap<Source, Vec<IpAddr>>) -> String {
    let mut servers: Vec<String> = Vec::new();
    for (source, named) in known {
        for server in named {
            let local = matches!(server, IpAddr::V6(v6) if is_link_local(v6));
            let text = match (local, source.interface()) {
                (false, _) => server.to_string(),
                (true, Some(interface)) => format!("{server}%{interface}"),
                // On which link it is, nobody knows.
                (true, None) => continue,
            };
            if !server.is_unspecified() && !server.is_multicast() && !servers.contains(&text) {
                servers.push(text);
            }
        }
    }
    servers.truncate(MOST);
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !text.is_empty() {
        // Half the usual patience: there are others to ask.
        text.push_str("options timeout:2 attempts:3\n");
    }
    text
}

/// `fe80::/10` (RFC 4291, 2.5.6).
fn is_link_local(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn list(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn given_servers_come_first_and_only_three_count() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::new(folder.path().join("etc/resolv.conf"));
        let read = || fs::read_to_string(folder.path().join("etc/resolv.conf")).unwrap_or_default();
        names.set(Source::Dhcp4("eth0".into()), list(&["0.0.0.0"]));
        assert_eq!(read(), "", "no server is no reason for a file");
        names.set(Source::Router("eth0".into()), list(&["fe80::1", "2001:db8::53"]));
        assert_eq!(
            read(),
            "nameserver fe80::1%eth0\nnameserver 2001:db8::53\noptions timeout:2 attempts:3\n"
        );
        names.set(Source::Dhcp4("eth0".into()), list(&["10.0.0.53"]));
        names.set(Source::Given, list(&["10.9.9.9", "fe80::9", "10.0.0.53"]));
        let expected =
            ["10.9.9.9", "10.0.0.53", "fe80::1%eth0"].map(|s| format!("nameserver {s}\n")).concat();
        assert!(read().starts_with(&expected), "{}", read());
        names.set(Source::Given, Vec::new());
        assert!(read().starts_with("nameserver 10.0.0.53\n"));
    }
}

//! Servers of names in routers' advertisements (RFC 8106), which the kernel hands on to whoever listens: it keeps
//! addresses and routes for itself, and has no use for these.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with, sockopt,
};

use super::{
    names::{Names, Source},
    pump, sysfs,
};

/// Group 20 of rtnetlink, `RTNLGRP_ND_USEROPT` of linux/rtnetlink.h, as a bit.
const GROUP: u32 = 1 << (20 - 1);
/// `RTM_NEWNDUSEROPT` of linux/rtnetlink.h.
const NEW_OPTION: u16 = 68;
/// More than a datagram of the kernel has (`NLMSG_GOODSIZE` of linux/netlink.h).
const LONGEST: usize = 8192;
/// Length of `nlmsghdr` (linux/netlink.h), and of `nduseroptmsg` (linux/rtnetlink.h).
const HEADER: usize = 16;
/// `AF_INET6` of linux/socket.h.
const INET6: u8 = 10;
/// "Router advertisement" (RFC 4861, 4.2).
const ROUTER_ADVERTISEMENT: u8 = 134;
/// "Recursive DNS server" (RFC 8106, 5.1).
const RDNSS: u8 = 25;

/// What one advertisement names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The interface's number.
    pub(super) index: u32,
    /// The servers; none where the router takes them back.
    pub(super) servers: Vec<Ipv6Addr>,
    /// For how long; `None`: for ever.
    pub(super) lifetime: Option<Duration>,
}

/// Reads one datagram of the kernel: messages one after the other, each with one option of an advertisement. Total.
pub(super) fn decode(datagram: &[u8]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some(header) = rest.get(..HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let Some(message) = usize::try_from(length).ok().and_then(|length| rest.get(HEADER..length)) else {
            break;
        };
        if u16::from_ne_bytes([header[4], header[5]]) == NEW_OPTION {
            found.extend(option(message));
        }
        // Messages begin at multiples of four (`NLMSG_ALIGN`).
        let next = (HEADER + message.len()).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    found
}

/// `nduseroptmsg`, then the option as it was in the advertisement.
fn option(message: &[u8]) -> Option<Named> {
    let (head, body) = message.split_at_checked(HEADER)?;
    let length = usize::from(u16::from_ne_bytes([head[2], head[3]]));
    let index = u32::try_from(i32::from_ne_bytes([head[4], head[5], head[6], head[7]])).ok()?;
    if head[0] != INET6 || head[8] != ROUTER_ADVERTISEMENT {
        return None;
    }
    // Kind, length in eights of bytes, two reserved ones, lifetime, addresses.
    let [RDNSS, eights, _, _, a, b, c, d, addresses @ ..] = body.get(..length)? else { return None };
    let count = usize::from(*eights).checked_sub(1)? / 2;
    let seconds = u32::from_be_bytes([*a, *b, *c, *d]);
    let servers = addresses.get(..count * 16)?.chunks_exact(16).filter_map(|bytes| {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        Some(Ipv6Addr::from(bytes))
    });
    Some(Named {
        index,
        servers: if seconds == 0 { Vec::new() } else { servers.collect() },
        lifetime: (seconds != u32::MAX).then(|| Duration::from_secs(seconds.into())),
    })
}

/// Listens from now on; to be called before the links come up, or the first advertisements are missed.
pub(super) fn listen(names: Arc<Names>) -> io::Result<()> {
    // No protocol is `NETLINK_ROUTE`.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(pump::WAIT))?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUP))?;
    let mut buffer = vec![0_u8; LONGEST];
    let mut heard = pump::packets("rdnss", move || {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        Ok(buffer.get(..length).map(decode).filter(|named| !named.is_empty()))
    })?;
    tokio::spawn(async move {
        let mut until: Vec<(Source, Instant)> = Vec::new();
        loop {
            // A router that goes without a word takes its servers with it.
            let next = until.iter().map(|(_, at)| *at).min();
            let rest =
                next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            match tokio::time::timeout(rest, heard.recv()).await {
                Ok(Some(named)) => named.into_iter().for_each(|named| take(&names, &mut until, named)),
                Ok(None) => return,
                Err(_) => {
                    let now = Instant::now();
                    for (source, _) in until.extract_if(.., |(_, at)| *at <= now) {
                        names.set(source, Vec::new());
                    }
                }
            }
        }
    });
    Ok(())
}

fn take(names: &Names, until: &mut Vec<(Source, Instant)>, named: Named) {
    let Some(name) = interface(named.index) else { return };
    let source = Source::Router(name);
    until.retain(|(other, _)| *other != source);
    if let Some(end) = named.lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime)) {
        until.push((source.clone(), end));
    }
    names.set(source, named.servers.into_iter().map(IpAddr::V6).collect());
}

fn interface(index: u32) -> Option<String> {
    let folders = sysfs::entries("/sys/class/net");
    folders
        .iter()
        .find(|folder| sysfs::number(folder.join("ifindex")) == Some(index))
        .map(|folder| sysfs::name(folder))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A message of the kernel with these servers.
    pub(in super::super) fn message(index: i32, seconds: u32, servers: &[Ipv6Addr]) -> Vec<u8> {
        let eights = u8::try_from(1 + 2 * servers.len()).unwrap();
        let mut option = vec![RDNSS, eights, 0, 0];
        option.extend(seconds.to_be_bytes());
        servers.iter().for_each(|server| option.extend(server.octets()));
        let mut body = vec![INET6, 0];
        body.extend(u16::try_from(option.len()).unwrap().to_ne_bytes());
        body.extend(index.to_ne_bytes());
        body.extend([ROUTER_ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0]);
        body.extend(option);
        let mut message = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(NEW_OPTION.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn servers_are_read_and_what_is_none_is_passed_over() {
        let servers: [Ipv6Addr; 2] = ["2001:db8::53".parse().unwrap(), "fe80::1".parse().unwrap()];
        let mut datagram = message(3, 600, &servers);
        datagram.extend(message(4, u32::MAX, &servers[..1]));
        datagram.extend(message(3, 0, &servers));
        let found = decode(&datagram);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].servers, servers);
        assert_eq!((found[0].index, found[0].lifetime), (3, Some(Duration::from_secs(600))));
        assert_eq!((found[1].servers.len(), found[1].lifetime), (1, None));
        assert!(found[2].servers.is_empty(), "taken back");
        let one = message(3, 600, &servers);
        for cut in 0..one.len() {
            assert_eq!(decode(&one[..cut]), [], "cut at {cut}");
        }
        let mut other = one.clone();
        other[HEADER * 2] = 31;
        assert_eq!(decode(&other), [], "a search list");
        let mut long = one;
        long[HEADER * 2 + 1] = 255;
        assert_eq!(decode(&long), [], "more servers than bytes");
    }
}

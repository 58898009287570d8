//! A DHCPv6 client (RFC 8415) for one interface: one address, and servers of names.
//!
//! Messages are written by a library; what comes is read here, option by option, so that one which the library does not
//! understand costs no answer.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use dhcproto::{
    Encodable,
    v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, ORO, OptionCode, duid::Duid},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::netlink::Interface;

/// RFC 8415, 7.2.
const CLIENT_PORT: u16 = 546;
/// RFC 8415, 7.2.
const SERVER_PORT: u16 = 547;
/// All servers and relays on the link (RFC 8415, 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Pauses between tries (RFC 8415, 15 doubles them from one second on), in seconds.
const TRIES: [u64; 4] = [1, 2, 4, 8];
/// An address is asked for again no more often.
const SHORTEST: Duration = Duration::from_secs(30);
/// Where the server does not say when.
const USUAL: Duration = Duration::from_secs(1800);
/// "For ever" (RFC 8415, 7.7).
const INFINITE: u32 = u32::MAX;
/// More servers of names are not asked anyway.
const MOST_SERVERS: usize = 8;
/// Longest identifier of a server (RFC 8415, 11.1: 128 bytes beside the type).
const MOST_ID: usize = 130;

/// What a server lends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    /// The address, for this machine alone: which others are on the link, routers say.
    pub(super) address: Ipv6Addr,
    /// Who lent it: opaque.
    server: Vec<u8>,
    /// Servers of names.
    pub(super) name_servers: Vec<Ipv6Addr>,
    /// When it is asked for again, after it was given.
    pub(super) renew_in: Duration,
}

/// What counts of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Kind of message (RFC 8415, 7.3).
    kind: u8,
    server: Vec<u8>,
    /// The first address, with the seconds after which it is renewed and for which it is valid.
    address: Option<(Ipv6Addr, u32, u32)>,
    name_servers: Vec<Ipv6Addr>,
}

/// Asks for an address: first for `known`, of the server that lent it, then of all.
pub(super) async fn lease(interface: &Interface, known: Option<&Lease>) -> io::Result<Lease> {
    let link = Link::open(interface)?;
    if let Some(known) = known {
        for (kind, server) in [(MessageType::Renew, Some(&known.server)), (MessageType::Rebind, None)] {
            let taken = |answer: &Answer| answer.kind == REPLY && answer.address.is_some();
            match link.ask(kind, server, Some(Some(known.address)), taken).await {
                Ok(answer) => return lent(answer),
                Err(error) => tracing::debug!(?kind, %error, "the address was not renewed"),
            }
        }
    }
    let hint = known.map(|known| known.address);
    let offers = |answer: &Answer| answer.kind == ADVERTISE && answer.address.is_some();
    let offer = link.ask(MessageType::Solicit, None, Some(hint), offers).await?;
    let wanted = offer.address.map(|(address, _, _)| address);
    let given =
        |answer: &Answer| answer.kind == REPLY && answer.server == offer.server && answer.address.is_some();
    lent(link.ask(MessageType::Request, Some(&offer.server), Some(wanted), given).await?)
}

/// Asks for everything but an address (RFC 8415, 18.2.6).
pub(super) async fn information(interface: &Interface) -> io::Result<Vec<Ipv6Addr>> {
    let link = Link::open(interface)?;
    let answer = link.ask(MessageType::InformationRequest, None, None, |answer| answer.kind == REPLY).await?;
    Ok(answer.name_servers)
}

fn lent(answer: Answer) -> io::Result<Lease> {
    let (address, t1, valid) =
        answer.address.ok_or_else(|| io::Error::other("the DHCPv6 server gave no address"))?;
    Ok(Lease {
        address,
        server: answer.server,
        name_servers: answer.name_servers,
        renew_in: renewal(t1, valid),
    })
}

/// T1; where the server leaves that to us (0), half of the time for which the address is valid (RFC 8415, 14.2).
fn renewal(t1: u32, valid: u32) -> Duration {
    let seconds = match (t1, valid) {
        (0, 0 | INFINITE) | (INFINITE, _) => return USUAL,
        (0, valid) => valid / 2,
        (t1, _) => t1,
    };
    Duration::from_secs(seconds.into()).max(SHORTEST)
}

/// One interface, as the client sees it.
struct Link {
    socket: UdpSocket,
    index: u32,
    id: Vec<u8>,
    association: u32,
}

impl Link {
    fn open(interface: &Interface) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, CLIENT_PORT)).into())?;
        let mac = interface.mac.bytes();
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            index: interface.index,
            // By the card's address: the same at each boot (RFC 8415, 11.4: type 3; hardware type 1 is Ethernet).
            id: [&[0, 3, 0, 1][..], &mac].concat(),
            association: u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]),
        })
    }

    /// Sends until an answer is right, as often and as patiently as [`TRIES`] says. `address`: one is asked for, this
    /// one where it is known.
    async fn ask(
        &self,
        kind: MessageType,
        server: Option<&Vec<u8>>,
        address: Option<Option<Ipv6Addr>>,
        right: impl Fn(&Answer) -> bool,
    ) -> io::Result<Answer> {
        let number: u32 = rand::random::<u32>() & 0x00ff_ffff;
        let packet = self.message(kind, number, server, address)?;
        let to = SocketAddrV6::new(SERVERS, SERVER_PORT, 0, self.index);
        let mut buffer = vec![0; 1500];
        for seconds in TRIES {
            // A link-local address that is still being tried out cannot be sent from; the next try may.
            let sent = self.socket.send_to(&packet, to).await;
            let answered = tokio::time::timeout(Duration::from_secs(seconds), async {
                loop {
                    let (length, _) = self.socket.recv_from(&mut buffer).await?;
                    let read =
                        decode(buffer.get(..length).unwrap_or_default(), number, &self.id, self.association);
                    if let Some(answer) = read.filter(&right) {
                        return io::Result::Ok(answer);
                    }
                }
            });
            if let Ok(answer) = answered.await {
                return answer;
            }
            if let Err(error) = sent {
                tracing::debug!(%error, "DHCPv6 cannot be asked yet");
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no DHCPv6 server answered"))
    }

    fn message(
        &self,
        kind: MessageType,
        number: u32,
        server: Option<&Vec<u8>>,
        address: Option<Option<Ipv6Addr>>,
    ) -> io::Result<Vec<u8>> {
        let mut message = Message::new(kind);
        message.set_xid_num(number);
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(Duid::from(self.id.clone()).as_ref().to_vec()));
        if let Some(server) = server {
            options.insert(DhcpOption::ServerId(server.clone()));
        }
        options.insert(DhcpOption::ElapsedTime(0));
        options.insert(DhcpOption::ORO(ORO { opts: vec![OptionCode::DomainNameServers] }));
        if let Some(wanted) = address {
            let mut opts = DhcpOptions::new();
            if let Some(addr) = wanted {
                opts.insert(DhcpOption::IAAddr(IAAddr {
                    addr,
                    preferred_life: 0,
                    valid_life: 0,
                    opts: DhcpOptions::new(),
                }));
            }
            options.insert(DhcpOption::IANA(IANA { id: self.association, t1: 0, t2: 0, opts }));
        }
        message.to_vec().map_err(io::Error::other)
    }
}

/// ADVERTISE and REPLY (RFC 8415, 7.3).
const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;

/// Options (RFC 8415, 21; RFC 3646, 3).
mod option {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const SERVER_ID: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const STATUS: u16 = 13;
    pub(super) const NAME_SERVERS: u16 = 23;
}

/// Reads an answer to the message of this number, by this client, about its association. `None` if it is none, names no
/// server, or says that it did not work. Total.
pub(super) fn decode(packet: &[u8], number: u32, client: &[u8], association: u32) -> Option<Answer> {
    let ([kind, a, b, c], rest) = packet.split_first_chunk::<4>()?;
    if !matches!(*kind, ADVERTISE | REPLY) || u32::from_be_bytes([0, *a, *b, *c]) != number {
        return None;
    }
    let mut answer = Answer { kind: *kind, server: Vec::new(), address: None, name_servers: Vec::new() };
    let mut to_us = false;
    for (code, value) in Options(rest) {
        match code {
            option::CLIENT_ID => to_us = value == client,
            option::SERVER_ID if (1..=MOST_ID).contains(&value.len()) => answer.server = value.to_vec(),
            option::STATUS if failed(value) => return None,
            option::IA_NA if answer.address.is_none() => answer.address = address(value, association),
            option::NAME_SERVERS => {
                let servers = value.chunks_exact(16).filter_map(|bytes| {
                    let bytes: [u8; 16] = bytes.try_into().ok()?;
                    Some(Ipv6Addr::from(bytes))
                });
                answer.name_servers = servers.take(MOST_SERVERS).collect();
            }
            _ => {}
        }
    }
    (to_us && !answer.server.is_empty()).then_some(answer)
}

/// The first address of an association that is given (RFC 8415, 21.4): number, T1, T2, options.
fn address(value: &[u8], association: u32) -> Option<(Ipv6Addr, u32, u32)> {
    let ([a, b, c, d, t1 @ .., _, _, _, _], options) = value.split_first_chunk::<12>()?;
    let t1 = u32::from_be_bytes(*t1);
    if u32::from_be_bytes([*a, *b, *c, *d]) != association {
        return None;
    }
    let mut found = None;
    for (code, value) in Options(options) {
        match code {
            option::STATUS if failed(value) => return None,
            // Address, preferred and valid lifetime, options (RFC 8415, 21.6).
            option::ADDRESS if found.is_none() => {
                let Some((fixed, options)) = value.split_first_chunk::<24>() else { continue };
                let (bytes, lifetimes) = fixed.split_at(16);
                let bytes: [u8; 16] = bytes.try_into().ok()?;
                let valid = u32::from_be_bytes([lifetimes[4], lifetimes[5], lifetimes[6], lifetimes[7]]);
                let address = Ipv6Addr::from(bytes);
                let refused = Options(options).any(|(code, value)| code == option::STATUS && failed(value));
                let usable = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
                if usable && valid > 0 && !refused {
                    found = Some((address, t1, valid));
                }
            }
            _ => {}
        }
    }
    found
}

/// Anything but success (RFC 8415, 21.13).
fn failed(status: &[u8]) -> bool {
    status.first_chunk::<2>() != Some(&[0, 0])
}

/// Code and length of two bytes each, then the value (RFC 8415, 21.1). One that is cut short is the end.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([a, b, c, d], rest) = self.0.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([*c, *d]).into())?;
        self.0 = rest;
        Some((u16::from_be_bytes([*a, *b]), value))
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use dhcproto::v6::{Status, StatusCode};
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) const NUMBER: u32 = 0x00ab_cdef;
    pub(in super::super) const CLIENT: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 7];
    pub(in super::super) const ASSOCIATION: u32 = 7;

    /// As a server answers, by the library.
    pub(in super::super) fn reply(kind: MessageType, status: Option<Status>) -> Vec<u8> {
        let mut message = Message::new(kind);
        message.set_xid_num(NUMBER);
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(CLIENT.to_vec()));
        options.insert(DhcpOption::ServerId(b"server".to_vec()));
        let servers = vec!["2001:db8::53".parse().unwrap(), "2001:db8::54".parse().unwrap()];
        options.insert(DhcpOption::DomainNameServers(servers));
        let mut opts = DhcpOptions::new();
        opts.insert(DhcpOption::IAAddr(IAAddr {
            addr: "2001:db8::7".parse().unwrap(),
            preferred_life: 300,
            valid_life: 600,
            opts: DhcpOptions::new(),
        }));
        if let Some(status) = status {
            opts.insert(DhcpOption::StatusCode(StatusCode { status, msg: "sorry".to_owned() }));
        }
        options.insert(DhcpOption::IANA(IANA { id: ASSOCIATION, t1: 200, t2: 300, opts }));
        message.to_vec().unwrap()
    }

    fn read(packet: &[u8]) -> Option<Answer> {
        decode(packet, NUMBER, &CLIENT, ASSOCIATION)
    }

    #[test]
    fn an_answer_of_a_server_is_understood() {
        let answer = read(&reply(MessageType::Reply, None)).unwrap();
        assert_eq!((answer.kind, answer.server.as_slice()), (REPLY, &b"server"[..]));
        assert_eq!(answer.address, Some(("2001:db8::7".parse().unwrap(), 200, 600)));
        assert_eq!(answer.name_servers.len(), 2);
        let lease = lent(answer).unwrap();
        assert_eq!(lease.renew_in, Duration::from_secs(200));
        let fine = reply(MessageType::Advertise, Some(Status::Success));
        assert!(read(&fine).unwrap().address.is_some());
    }

    #[test]
    fn answers_to_others_and_refusals_are_none() {
        let packet = reply(MessageType::Reply, None);
        assert_eq!(decode(&packet, NUMBER + 1, &CLIENT, ASSOCIATION), None);
        assert_eq!(decode(&packet, NUMBER, b"another", ASSOCIATION), None);
        assert_eq!(decode(&packet, NUMBER, &CLIENT, 8).unwrap().address, None, "of another association");
        assert_eq!(read(&reply(MessageType::Solicit, None)), None, "a question");
        let none = reply(MessageType::Advertise, Some(Status::NoAddrsAvail));
        assert_eq!(read(&none).unwrap().address, None);
        let mut refused = packet;
        refused.extend([0, 13, 0, 2, 0, 1]);
        assert_eq!(read(&refused), None);
    }

    #[test]
    fn addresses_are_asked_for_again_in_time_but_not_all_the_time() {
        for (t1, valid, seconds) in [
            (200, 600, 200),
            (0, 600, 300),
            (0, INFINITE, 1800),
            (INFINITE, INFINITE, 1800),
            (1, 2, 30),
            (0, 0, 1800),
        ] {
            assert_eq!(renewal(t1, valid), Duration::from_secs(seconds), "{t1} {valid}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..200, with: u8, cut in 0_usize..200,
        ) {
            let mut changed = reply(MessageType::Reply, None);
            let length = changed.len();
            changed[at % length] = with;
            changed.truncate(length - cut.min(length));
            let mut whole = changed.clone();
            whole.extend(&bytes);
            for packet in [bytes, changed, whole] {
                let _ = read(&packet);
            }
        }
    }
}

//! A DHCPv4 client (RFC 2131) for one interface: as little as a machine needs that stays up for an hour.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use dhcproto::{
    Decodable, Encodable,
    v4::{DhcpOption, DhcpOptions, Flags, Message, MessageType, OptionCode},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// RFC 2131, 4.1.
const SERVER_PORT: u16 = 67;
/// RFC 2131, 4.1.
const CLIENT_PORT: u16 = 68;
/// Pauses between tries (RFC 2131, 4.1 doubles them), in seconds.
const TRIES: [u64; 4] = [2, 4, 8, 8];
/// A lease shorter than this is renewed no more often.
const SHORTEST: Duration = Duration::from_secs(60);
/// Where the server names none.
const USUAL: Duration = Duration::from_secs(3600);

/// More servers of names are not asked anyway.
const MOST_SERVERS: usize = 8;

/// What a server lends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) server: Ipv4Addr,
    /// Servers of names (option 6, RFC 2132, 3.8), at most [`MOST_SERVERS`].
    pub(super) name_servers: Vec<Ipv4Addr>,
    /// After half of it, it is asked for again.
    pub(super) length: Duration,
}

/// When a lease is asked for again, of which `left` is left: after half of that (RFC 2131, 4.4.5), but not all the time.
pub(super) fn again_in(left: Duration) -> Duration {
    (left / 2).max(SHORTEST / 2)
}

/// Asks for a lease on an interface, for `wanted` first where that is given.
pub(super) async fn lease(interface: &str, mac: &[u8; 6], wanted: Option<Ipv4Addr>) -> io::Result<Lease> {
    let socket = socket(interface)?;
    let xid: u32 = rand::random();
    let discover = encode(&request(xid, mac, MessageType::Discover, wanted, None))?;
    let offer = exchange(&socket, &discover, |message| offered(message, xid)).await?;
    let wanted = request(xid, mac, MessageType::Request, Some(offer.address), Some(offer.server));
    exchange(&socket, &encode(&wanted)?, |message| acknowledged(message, xid)).await
}

fn socket(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    // There is no address yet to send from: the interface is what decides.
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

/// Sends until an answer is right, as often and as patiently as [`TRIES`] says.
async fn exchange(
    socket: &UdpSocket,
    packet: &[u8],
    right: impl Fn(&Message) -> Option<Lease>,
) -> io::Result<Lease> {
    let mut buffer = vec![0; 1500];
    for seconds in TRIES {
        socket.send_to(packet, SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT)).await?;
        let answered = tokio::time::timeout(Duration::from_secs(seconds), async {
            loop {
                let (length, _) = socket.recv_from(&mut buffer).await?;
                if let Some(message) = decode(&buffer[..length])
                    && let Some(lease) = right(&message)
                {
                    return io::Result::Ok(lease);
                }
            }
        });
        if let Ok(answer) = answered.await {
            return answer;
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no DHCP server answered"))
}

fn encode(message: &Message) -> io::Result<Vec<u8>> {
    message.to_vec().map_err(io::Error::other)
}

/// Reads a packet with only those options that are needed: the decoder asserts, in builds with assertions, what other
/// options must look like, and a packet from anyone on the network must not end the agent.
pub(super) fn decode(packet: &[u8]) -> Option<Message> {
    /// Fixed fields and the magic cookie (RFC 2131, 2).
    const HEAD: usize = 240;
    /// End of the options (RFC 2132, 3.2).
    const END: u8 = 255;
    // Mask, routers, servers of names, lease time, kind of message and server (RFC 2132, 3.3, 3.5, 3.8, 9.2, 9.6, 9.7).
    let needed = |code: u8, value: &[u8]| match code {
        1 | 51 | 54 => value.len() == 4,
        3 | 6 => !value.is_empty() && value.len().is_multiple_of(4),
        53 => value.len() == 1,
        _ => false,
    };
    let mut kept = packet.get(..HEAD)?.to_vec();
    let mut rest = &packet[HEAD..];
    while let [code, tail @ ..] = rest {
        match *code {
            0 => rest = tail,
            END => break,
            code => {
                let (length, tail) = tail.split_first()?;
                let (value, after) = tail.split_at_checked((*length).into())?;
                if needed(code, value) {
                    kept.extend([code, *length]);
                    kept.extend(value);
                }
                rest = after;
            }
        }
    }
    kept.push(END);
    Message::from_bytes(&kept).ok()
}

/// A DISCOVER or a REQUEST. Answers are to be broadcast: without an address there is no other way to get them.
fn request(
    xid: u32,
    mac: &[u8; 6],
    kind: MessageType,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(xid, none, none, none, none, mac);
    message.set_flags(Flags::default().set_broadcast());
    let mut options = DhcpOptions::new();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ParameterRequestList(vec![
        OptionCode::SubnetMask,
        OptionCode::Router,
        OptionCode::DomainNameServer,
        OptionCode::AddressLeaseTime,
        OptionCode::ServerIdentifier,
    ]));
    if let Some(address) = wanted {
        options.insert(DhcpOption::RequestedIpAddress(address));
    }
    if let Some(server) = server {
        options.insert(DhcpOption::ServerIdentifier(server));
    }
    message.set_opts(options);
    message
}

fn offered(message: &Message, xid: u32) -> Option<Lease> {
    answer(message, xid, MessageType::Offer)
}

fn acknowledged(message: &Message, xid: u32) -> Option<Lease> {
    answer(message, xid, MessageType::Ack)
}

/// The lease in an answer of the kind, if it is one to this transaction. An offer without an address, as a proxy makes
/// it, is none.
fn answer(message: &Message, xid: u32, kind: MessageType) -> Option<Lease> {
    let options = message.opts();
    if message.xid() != xid || !options.has_msg_type(kind) || message.yiaddr().is_unspecified() {
        return None;
    }
    let mask = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => u32::from(*mask),
        // RFC 2131 does not demand it; the class then, as was meant once, is wrong more often than not.
        _ => 0xffff_ff00,
    };
    if mask.leading_ones() + mask.trailing_zeros() != 32 && mask != 0 {
        return None;
    }
    let gateway = match options.get(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => {
            routers.first().copied().filter(|router| !router.is_unspecified())
        }
        _ => None,
    };
    let name_servers = match options.get(OptionCode::DomainNameServer) {
        Some(DhcpOption::DomainNameServer(servers)) => servers.iter().copied().take(MOST_SERVERS).collect(),
        _ => Vec::new(),
    };
    let server = match options.get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => *server,
        _ => message.siaddr(),
    };
    let length = match options.get(OptionCode::AddressLeaseTime) {
        Some(DhcpOption::AddressLeaseTime(seconds)) => Duration::from_secs((*seconds).into()).max(SHORTEST),
        _ => USUAL,
    };
    let prefix = u8::try_from(mask.leading_ones()).unwrap_or(32);
    Some(Lease { address: message.yiaddr(), prefix, gateway, server, name_servers, length })
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn offer(mask: Ipv4Addr) -> Message {
        let mut message = request(7, &[2; 6], MessageType::Offer, None, Some(Ipv4Addr::new(10, 0, 0, 1)));
        message.set_yiaddr(Ipv4Addr::new(10, 0, 0, 9));
        message.opts_mut().insert(DhcpOption::SubnetMask(mask));
        message.opts_mut().insert(DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 254)]));
        let servers = vec![Ipv4Addr::new(10, 0, 0, 53), Ipv4Addr::new(10, 0, 0, 54)];
        message.opts_mut().insert(DhcpOption::DomainNameServer(servers));
        message.opts_mut().insert(DhcpOption::AddressLeaseTime(10));
        message
    }

    /// Answers of a server.
    pub(in super::super) fn seeds() -> Vec<Vec<u8>> {
        let mut acknowledged = offer(Ipv4Addr::new(255, 255, 255, 0));
        acknowledged.opts_mut().insert(DhcpOption::MessageType(MessageType::Ack));
        vec![encode(&offer(Ipv4Addr::new(255, 255, 252, 0))).unwrap(), encode(&acknowledged).unwrap()]
    }

    /// All that is read of a message.
    pub(in super::super) fn read(message: &Message) {
        let _ = (offered(message, message.xid()), acknowledged(message, message.xid()));
    }

    #[test]
    fn an_offer_is_understood_after_the_wire() {
        let bytes = encode(&offer(Ipv4Addr::new(255, 255, 252, 0))).unwrap();
        let lease = offered(&decode(&bytes).unwrap(), 7).unwrap();
        assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(10, 0, 0, 9), 22));
        assert_eq!(lease.gateway, Some(Ipv4Addr::new(10, 0, 0, 254)));
        assert_eq!(lease.name_servers, [Ipv4Addr::new(10, 0, 0, 53), Ipv4Addr::new(10, 0, 0, 54)]);
        assert_eq!((lease.server, lease.length), (Ipv4Addr::new(10, 0, 0, 1), SHORTEST));
    }

    #[test]
    fn answers_to_others_and_of_other_kinds_are_none() {
        let message = offer(Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(offered(&message, 8), None);
        assert_eq!(acknowledged(&message, 7), None);
        assert_eq!(offered(&offer(Ipv4Addr::new(255, 0, 255, 0)), 7), None);
        let mut proxy = message;
        proxy.set_yiaddr(Ipv4Addr::UNSPECIFIED);
        assert_eq!(offered(&proxy, 7), None);
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(message) = decode(&bytes) {
                let _ = offered(&message, message.xid());
            }
        }

        #[test]
        fn no_options_make_it_panic(
            options in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..8)), 0..12),
            cut in 0usize..20,
        ) {
            let mut bytes = encode(&offer(Ipv4Addr::new(255, 255, 255, 0))).unwrap();
            bytes.truncate(240);
            for (code, value) in options {
                bytes.push(code);
                bytes.push(u8::try_from(value.len()).unwrap());
                bytes.extend(value);
            }
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
            if let Some(message) = decode(&bytes) {
                let _ = offered(&message, 7);
            }
        }
    }
}

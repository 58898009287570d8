//! What counts of a DHCP message, and what an answer looks like on the wire.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use ferric_api::MacAddress;

use super::decide::{BootFile, Reply, ReplyKind};

/// Largest message that is read. Clients send a few hundred bytes.
pub(super) const MOST: usize = 1500;
/// iPXE's own options are encapsulated in this one.
const IPXE_OPTIONS: u8 = 175;
/// "Boot the file that this answer names": bit 3 of PXE's discovery control, then the end mark.
const PXE_USE_BOOT_FILE: [u8; 4] = [6, 1, 8, 255];

/// "Boot from the local disk, and do not ask": discovery by neither broadcast nor multicast (tag 6); a menu of one entry of
/// type 0, which is local boot (tag 9); a prompt of 0 seconds, which takes the first entry at once (tag 10); the end mark.
/// PXE 2.1, table 2-1.
const PXE_NEXT: [u8; 26] = *b"\x06\x01\x03\x09\x0d\x00\x00\x0anext entry\x0a\x05\x00disk\xff";

/// How a client presents itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// An operating system, or anything else that wants an address only.
    Plain,
    /// Firmware that boots by PXE.
    Pxe,
    /// Firmware that boots by UEFI HTTP.
    Http,
    /// iPXE.
    Ipxe,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Who is there?
    Discover,
    /// I take this.
    Request,
    /// I have an address and want the rest.
    Inform,
    /// I do not need my address any more.
    Release,
    /// Somebody else uses the address.
    Decline,
}

/// The facts of a message on which an answer depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What is asked for.
    pub request: Request,
    /// Hardware address.
    pub mac: MacAddress,
    /// How the client presents itself.
    pub client: Client,
    /// Architecture of its firmware (RFC 4578 and IANA's list).
    pub architecture: Option<u16>,
    /// Address that it has.
    pub current: Option<Ipv4Addr>,
    /// Address that it wants.
    pub wanted: Option<Ipv4Addr>,
    /// Server whose offer it takes.
    pub server: Option<Ipv4Addr>,
    /// Relay between it and us.
    pub relay: Option<Ipv4Addr>,
}

/// Reads a message; `None` if it is no question of a client on Ethernet.
pub fn read(datagram: &[u8]) -> Option<(Facts, Message)> {
    let message = Message::decode(&mut Decoder::new(&screen(datagram)?)).ok()?;
    // The length of the hardware address is the sender's word; the library believes it.
    if message.opcode() != Opcode::BootRequest || message.htype() != HType::Eth || message.hlen() != 6 {
        return None;
    }
    let mac: [u8; 6] = message.chaddr().try_into().ok()?;
    // Neither a group nor nothing is a machine.
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return None;
    }
    let options = message.opts();
    let request = match options.msg_type()? {
        MessageType::Discover => Request::Discover,
        MessageType::Request => Request::Request,
        MessageType::Inform => Request::Inform,
        MessageType::Release => Request::Release,
        MessageType::Decline => Request::Decline,
        _ => return None,
    };
    let class = match options.get(OptionCode::ClassIdentifier) {
        Some(DhcpOption::ClassIdentifier(class)) => class.as_slice(),
        _ => &[],
    };
    // As text, or as a list of texts with their lengths (RFC 3004).
    let user_class = match options.get(OptionCode::UserClass) {
        Some(DhcpOption::UserClass(class)) => class.strip_prefix(&[4]).unwrap_or(class) == b"iPXE",
        _ => false,
    };
    let ipxe = user_class || options.contains(OptionCode::from(IPXE_OPTIONS));
    let client = if ipxe {
        Client::Ipxe
    } else if class.starts_with(b"PXEClient") {
        Client::Pxe
    } else if class.starts_with(b"HTTPClient") {
        Client::Http
    } else {
        Client::Plain
    };
    let architecture = match options.get(OptionCode::ClientSystemArchitecture) {
        Some(DhcpOption::ClientSystemArchitecture(architecture)) => Some(architecture.0),
        _ => None,
    };
    let wanted = match options.get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    };
    let server = match options.get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
        _ => None,
    };
    let some = |address: Ipv4Addr| (!address.is_unspecified()).then_some(address);
    let facts = Facts {
        request,
        mac: mac.into(),
        client,
        architecture,
        current: some(message.ciaddr()),
        wanted,
        server,
        relay: some(message.giaddr()),
    };
    Some((facts, message))
}

/// The message with only those options that are read here or sent back, of the lengths that they must have: the decoder
/// stops at the first that it does not understand, and takes some lengths on trust. A relay's option goes to the end, as
/// it is one of those.
fn screen(datagram: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 236;
    const COOKIE: [u8; 4] = [99, 130, 83, 99];
    if datagram.len() > MOST || datagram.get(HEADER..HEADER + 4)? != COOKIE {
        return None;
    }
    let (head, mut rest) = datagram.split_at(HEADER + 4);
    let mut screened = head.to_vec();
    let mut relay = Vec::new();
    while let [code, more @ ..] = rest {
        rest = match (code, more) {
            (0, _) => more,
            (255, _) | (_, []) => break,
            (code, [length, more @ ..]) => {
                // One that is cut short is the end.
                let Some((value, after)) = more.split_at_checked((*length).into()) else { break };
                let value = match (code, value) {
                    (53, [_]) | (50 | 54, [_, _, _, _]) | (60 | 61 | 77 | 97 | 175, [_, ..]) => Some(value),
                    // A list: the first is the one that runs.
                    (93, [_, _, ..]) => value.get(..2),
                    (82, [_, ..]) if relay.is_empty() => {
                        relay = [&[82, *length], value].concat();
                        None
                    }
                    _ => None,
                };
                if let Some(value) = value {
                    screened.extend([*code, u8::try_from(value.len()).ok()?]);
                    screened.extend_from_slice(value);
                }
                after
            }
        };
    }
    screened.extend(relay);
    screened.push(255);
    Some(screened)
}

/// The answer to a message, ready to be sent.
pub fn write(question: &Message, reply: &Reply) -> Option<Vec<u8>> {
    let mut message = Message::default();
    message
        .set_opcode(Opcode::BootReply)
        .set_htype(HType::Eth)
        .set_chaddr(question.chaddr())
        .set_xid(question.xid())
        .set_flags(Flags::from(u16::from(question.flags())))
        .set_giaddr(question.giaddr());
    if reply.kind != ReplyKind::Refuse {
        message.set_ciaddr(question.ciaddr()).set_yiaddr(reply.address.unwrap_or(Ipv4Addr::UNSPECIFIED));
    }
    let mut options = vec![
        DhcpOption::MessageType(match reply.kind {
            ReplyKind::Offer => MessageType::Offer,
            ReplyKind::Acknowledge => MessageType::Ack,
            ReplyKind::Refuse => MessageType::Nak,
        }),
        DhcpOption::ServerIdentifier(reply.server),
    ];
    // Relays, clients with an identifier (RFC 6842) and PXE want theirs back.
    for code in
        [OptionCode::RelayAgentInformation, OptionCode::ClientIdentifier, OptionCode::ClientMachineIdentifier]
    {
        options.extend(question.opts().get(code).cloned());
    }
    if let Some(network) = &reply.network {
        options.push(DhcpOption::SubnetMask(network.mask));
        options.push(DhcpOption::AddressLeaseTime(network.lease_seconds));
        if !network.routers.is_empty() {
            options.push(DhcpOption::Router(network.routers.clone()));
        }
        if !network.name_servers.is_empty() {
            options.push(DhcpOption::DomainNameServer(network.name_servers.clone()));
        }
    }
    if let Some(class) = reply.class {
        options.push(DhcpOption::ClassIdentifier(class.as_bytes().to_vec()));
    }
    match &reply.boot {
        None => {}
        Some(BootFile::Next) => options.push(DhcpOption::VendorExtensions(PXE_NEXT.to_vec())),
        Some(BootFile::Tftp(name)) => {
            message.set_siaddr(reply.server).set_fname_str(name);
            options.push(DhcpOption::TFTPServerName(reply.server.to_string().into_bytes()));
            options.push(DhcpOption::BootfileName(name.as_bytes().to_vec()));
            if reply.class == Some(super::decide::PXE_CLIENT) {
                options.push(DhcpOption::VendorExtensions(PXE_USE_BOOT_FILE.to_vec()));
            }
        }
        Some(BootFile::Url(url)) => {
            message.set_siaddr(reply.server);
            // The field of the header holds 127 bytes; an option of one piece 255.
            if url.len() < 128 {
                message.set_fname_str(url);
            }
            if url.len() > 255 {
                return None;
            }
            options.push(DhcpOption::BootfileName(url.clone().into_bytes()));
            if reply.class == Some(super::decide::PXE_CLIENT) {
                options.push(DhcpOption::VendorExtensions(PXE_USE_BOOT_FILE.to_vec()));
            }
            // iPXE need not wait for other servers' ideas.
            options.push(DhcpOption::Unknown(UnknownOption::new(IPXE_OPTIONS.into(), vec![0xb0, 1, 1])));
        }
    }
    for option in options {
        message.opts_mut().insert(option);
    }
    let mut bytes = Vec::with_capacity(600);
    message.encode(&mut Encoder::new(&mut bytes)).ok()?;
    // BOOTP's minimum, which some firmware insists on.
    bytes.resize(bytes.len().max(300), 0);
    Some(bytes)
}

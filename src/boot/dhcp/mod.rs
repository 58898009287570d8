//! DHCPv4 for machines that boot from the network: beside another server as proxyDHCP, or with addresses of its own.
//!
//! A machine is answered only if a host with its boot MAC address is enrolled, and told to boot something only while
//! that host's boot is begun and no agent has registered for it. Firmware that asks by another card of such a host is sent
//! on; other machines are answered only where the operator wants them to be discovered. [`decide`] is the pure core;
//! [`packet`] reads and writes; [`pool`] has the addresses.

pub mod decide;
pub mod packet;
pub mod pool;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dhcproto::v4::Message;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use self::decide::{Decision, Files, Invitation, Mode, Settings, asks_for_a_boot, decide};
use self::packet::{Client, Facts, Request};
use self::pool::Pool;
use super::{BootFile, BootLookup, KnownHost, Told, artifact_url, boot_url};
use crate::deploy::Leadership;

/// Port of DHCP servers.
const SERVER_PORT: u16 = 67;
/// Port of DHCP clients.
const CLIENT_PORT: u16 = 68;
/// A name that no file of the agent image has. Whoever asks for it is told that there is no such file.
const NOTHING: &str = "nothing";
/// Port of PXE boot servers.
const BOOT_SERVER_PORT: u16 = 4011;

/// The DHCP server.
pub struct DhcpServer {
    /// What answers say.
    pub settings: Settings,
    /// Where scripts and media are served.
    pub boot_url: Url,
    /// Addresses, where this server gives them.
    pub pool: Option<Pool>,
    /// Whether this provider holds the lease.
    pub leader: watch::Receiver<Leadership>,
    /// What is known of machines.
    pub lookup: Arc<dyn BootLookup>,
}

/// The sockets of a DHCP server.
pub struct Sockets {
    dhcp: UdpSocket,
    boot_server: UdpSocket,
}

impl Sockets {
    /// Binds the ports of DHCP and of PXE boot servers on one interface.
    pub fn bind(interface: &str) -> io::Result<Self> {
        Ok(Self { dhcp: bind(interface, SERVER_PORT)?, boot_server: bind(interface, BOOT_SERVER_PORT)? })
    }
}

fn bind(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Another DHCP server may be on the same machine: both get what is broadcast.
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
}

struct Shared {
    settings: Settings,
    boot_url: Url,
    pool: Mutex<Option<Pool>>,
    leader: watch::Receiver<Leadership>,
    lookup: Arc<dyn BootLookup>,
}

impl DhcpServer {
    /// Answers until `shutdown` is cancelled.
    pub async fn serve(self, sockets: Sockets, shutdown: CancellationToken) -> io::Result<()> {
        let Self { settings, boot_url, pool, leader, lookup } = self;
        let shared = Shared { settings, boot_url, pool: Mutex::new(pool), leader, lookup };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = shared.answer(&sockets.dhcp, false) => {}
            () = shared.answer(&sockets.boot_server, true) => {}
        }
        Ok(())
    }
}

impl Shared {
    async fn answer(&self, socket: &UdpSocket, boot_server_port: bool) {
        let mut buffer = vec![0; packet::MOST + 1];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // Such as the echo of an answer that could not be delivered.
                    tracing::debug!(%error, "DHCP message not received");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            let Some((facts, message)) = packet::read(datagram) else { continue };
            // Who does not hold the lease does not know who was told to boot.
            if self.leader.borrow().refusal().is_some() {
                continue;
            }
            let Some(answer) = self.respond(&facts, &message, boot_server_port) else { continue };
            let to = destination(&facts, from, boot_server_port);
            if let Err(error) = socket.send_to(&answer, to).await {
                tracing::warn!(%error, %to, "DHCP answer not sent");
            }
        }
    }

    fn respond(&self, facts: &Facts, message: &Message, boot_server_port: bool) -> Option<Vec<u8>> {
        let known = self.lookup.boot_for(facts.mac).or_else(|| {
            // Only firmware has to be sent on: an operating system's cards are none of our business.
            let boots = facts.client != Client::Plain;
            boots.then(|| self.lookup.card_of(facts.mac))?.map(KnownHost::elsewhere)
        });
        let invitation = match &known {
            Some(known) => self.invitation(known),
            // Its agent asks for an address, too, which is not to ask for a boot.
            None => match self.lookup.discover(facts.mac, asks_for_a_boot(facts)) {
                Some(token) => Invitation::Discovery(self.files(&token)),
                None => Invitation::Unknown,
            },
        };
        let lease = self.lease(facts, &invitation);
        let Decision { counted, reply } = decide(&self.settings, facts, &invitation, lease, boot_server_port);
        self.lookup.count(counted);
        if let Some(known) = &known {
            let Facts { mac, client, request, .. } = facts;
            match (counted, reply.is_some()) {
                ("boot", true) => {
                    tracing::info!(host = %known.host, %mac, ?client, ?request, "network boot answered")
                }
                ("uninvited", _) => {
                    tracing::info!(host = %known.host, %mac, ?client, "network boot uninvited: sent to its disk");
                    self.lookup.uninvited(&known.host);
                }
                ("unsupported" | "exhausted" | "refused", _) => {
                    let architecture = facts.architecture;
                    tracing::warn!(host = %known.host, %mac, ?client, architecture, counted, "no network boot");
                }
                _ => tracing::debug!(host = %known.host, %mac, ?client, ?request, counted, "DHCP message"),
            }
        }
        let answer = packet::write(message, &reply?);
        if answer.is_none() {
            tracing::warn!(mac = %facts.mac, "the boot URL is too long for a DHCP answer: shorten the host's name");
        }
        answer
    }

    fn invitation(&self, known: &KnownHost) -> Invitation {
        let nothing = || artifact_url(&self.boot_url, NOTHING).to_string();
        match &known.told {
            Told::Nothing => Invitation::Uninvited { nothing: nothing() },
            Told::Elsewhere => Invitation::Elsewhere { nothing: nothing() },
            Told::Boot(token) => Invitation::Boot(self.files(token)),
        }
    }

    fn files(&self, token: &str) -> Files {
        Files {
            script: boot_url(&self.boot_url, token, BootFile::Script).to_string(),
            iso: boot_url(&self.boot_url, token, BootFile::Iso).to_string(),
        }
    }

    /// The address of a machine that is enrolled, or being discovered.
    fn lease(&self, facts: &Facts, invitation: &Invitation) -> Option<Ipv4Addr> {
        if self.settings.mode != Mode::Server || *invitation == Invitation::Unknown {
            return None;
        }
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let (pool, now) = (pool.as_mut()?, Instant::now());
        match facts.request {
            Request::Release => pool.release(facts.mac),
            Request::Decline => pool.block(facts.mac, now),
            Request::Inform => {}
            Request::Discover | Request::Request => {
                return pool.address(facts.mac, facts.wanted.or(facts.current), now);
            }
        }
        None
    }
}

/// Where an answer goes: to the relay, to the client's address if it has one, else to everybody.
fn destination(facts: &Facts, from: SocketAddr, boot_server_port: bool) -> SocketAddr {
    let address = match (facts.relay, facts.current) {
        (Some(relay), _) => return SocketAddrV4::new(relay, SERVER_PORT).into(),
        (None, Some(current)) => current,
        (None, None) if boot_server_port => return from,
        (None, None) => Ipv4Addr::BROADCAST,
    };
    // On the port of boot servers the client asks from a port of its own.
    let port = if boot_server_port { from.port() } else { CLIENT_PORT };
    SocketAddrV4::new(address, port).into()
}

#[cfg(test)]
mod tests;

//! DHCPv6, only to send enrolled hosts on whose firmware asks for a boot over IPv6. No address is given and nothing is booted:
//! without an answer UEFI firmware asks for a minute in each of its entries for IPv6.
//!
//! Operating systems, relays and machines that nobody enrolled are not answered. [`decide`] is the pure core; [`packet`] reads
//! and writes.

pub mod decide;
pub mod packet;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::decide::{Decision, decide};
use self::packet::Question;
use super::BootLookup;
use crate::deploy::Leadership;

/// Port of DHCPv6 servers (RFC 8415, section 7.2).
const SERVER_PORT: u16 = 547;
/// Port of DHCPv6 clients.
const CLIENT_PORT: u16 = 546;
/// All servers and relays of a link (RFC 8415, section 7.1).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Binds the port of DHCPv6 servers on one interface.
pub fn bind(interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    // Another DHCPv6 server may be on the same machine: both get what is sent to all.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, SERVER_PORT)).into())?;
    socket.join_multicast_v6(&ALL_SERVERS, rustix::net::netdevice::name_to_index(&socket, interface)?)?;
    UdpSocket::from_std(socket.into())
}

/// The server.
pub struct Dhcp6Server {
    /// Whether this provider holds the lease.
    pub leader: watch::Receiver<Leadership>,
    /// What is known of machines.
    pub lookup: Arc<dyn BootLookup>,
}

impl Dhcp6Server {
    /// Answers until `shutdown` is cancelled.
    pub async fn serve(self, socket: UdpSocket, shutdown: CancellationToken) {
        // Nobody keeps anything of us, so that it need not be the same after a restart.
        let identifier = Uuid::new_v4();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.answer(&socket, identifier) => {}
        }
    }

    async fn answer(&self, socket: &UdpSocket, identifier: Uuid) {
        let mut buffer = vec![0; packet::MOST + 1];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok((length, SocketAddr::V6(from))) => (length, from),
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "DHCPv6 message not received");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            let Some(question) = packet::read(datagram, *from.ip()) else { continue };
            // Who does not hold the lease does not know who was told to boot.
            if self.leader.borrow().refusal().is_some() || !self.is_sent_on(&question) {
                continue;
            }
            let to = SocketAddrV6::new(*from.ip(), CLIENT_PORT, 0, from.scope_id());
            if let Err(error) = socket.send_to(&packet::nothing(&question, identifier), to).await {
                tracing::warn!(%error, %to, "DHCPv6 answer not sent");
            }
        }
    }

    fn is_sent_on(&self, question: &Question) -> bool {
        let Question { mac, http, .. } = question;
        let known = self.lookup.boot_for(*mac).or_else(|| self.lookup.card_of(*mac));
        let Decision { counted, sent_on } = decide(known.as_ref().map(|known| &known.told));
        self.lookup.count(counted);
        if let Some(known) = known {
            tracing::info!(host = %known.host, %mac, http, counted, "network boot over IPv6: sent on");
            if counted == "uninvited" {
                self.lookup.uninvited(&known.host);
            }
        }
        sent_on
    }
}

#[cfg(test)]
mod tests;

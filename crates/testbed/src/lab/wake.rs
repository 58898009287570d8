//! The network card of a server without a BMC: it hears its magic packet and starts the server, which emulated cards do
//! not do. What is awake already is left alone.

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::{ADDRESS, libvirt, stack::say};
use crate::error::{Error, Result};

/// A card that listens; it is deaf when this is dropped.
#[derive(Debug)]
pub(super) struct Card {
    port: u16,
    task: JoinHandle<()>,
}

impl Card {
    /// Listens for the packet of this hardware address.
    pub(super) async fn listen(server: &str, mac: &str) -> Result<Self> {
        let octets: Option<Vec<u8>> = mac.split(':').map(|text| u8::from_str_radix(text, 16).ok()).collect();
        let magic = octets.map(|mac| [vec![0xFF; 6], mac.repeat(16)].concat());
        let magic = magic.ok_or_else(|| Error::malformed(mac, "this is no hardware address"))?;
        let failed = |error: std::io::Error| Error::malformed(format!("UDP at {ADDRESS}"), error);
        let socket = UdpSocket::bind((ADDRESS, 0)).await.map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        let server = server.to_owned();
        let task = tokio::spawn(async move {
            let mut packet = [0; 2048];
            while let Ok(length) = socket.recv(&mut packet).await {
                // It may stand anywhere in the packet (AMD, Magic Packet Technology, publication 20213).
                let heard = packet[..length].windows(magic.len()).any(|part| part == magic);
                if heard && matches!(libvirt::is_on(&server).await, Ok(false)) {
                    match libvirt::virsh(["start", &server]).await {
                        Ok(_) => say(&format!("{server} is woken by a magic packet")),
                        Err(error) => say(&format!("{server} was not woken: {error}")),
                    }
                }
            }
        });
        Ok(Self { port, task })
    }

    /// Where the packet is sent, as a host's `spec.bmc.address` says it.
    pub(super) fn address(&self) -> String {
        format!("wol://{ADDRESS}:{}", self.port)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.task.abort();
    }
}

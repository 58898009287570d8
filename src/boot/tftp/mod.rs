//! TFTP, for firmware that can fetch nothing else: a handful of small files, read only, to few at a time.

pub mod packet;
pub mod transfer;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::packet::{MOST_REQUEST, Packet, ReadRequest, Refusal, terms};
use self::transfer::{Next, Transfer};

/// Transfers at once.
const TRANSFERS: usize = 256;
/// Transfers of one client at once: firmware that gave up begins anew from another port.
const TRANSFERS_EACH: usize = 8;
/// Longest time of a transfer.
const DEADLINE: Duration = Duration::from_secs(300);

/// The files that are served, by name.
pub type Files = HashMap<String, Bytes>;

/// Serves `files` until `shutdown` is cancelled; then ends all transfers.
pub async fn serve(socket: UdpSocket, files: Files, shutdown: CancellationToken) -> io::Result<()> {
    let server = Server {
        files,
        local: socket.local_addr()?.ip(),
        places: Arc::new(Semaphore::new(TRANSFERS)),
        each: Arc::default(),
    };
    let mut transfers = tokio::task::JoinSet::new();
    let mut buffer = vec![0; MOST_REQUEST + 3];
    loop {
        while transfers.try_join_next().is_some() {}
        let received = tokio::select! {
            () = shutdown.cancelled() => break,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "TFTP request not received");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        match server.accept(buffer.get(..length).unwrap_or_default(), from) {
            Ok(Some(sending)) => {
                transfers.spawn(sending);
            }
            Ok(None) => {}
            Err(refusal) => {
                let _ = socket.try_send_to(&refusal.packet(), from);
            }
        }
    }
    transfers.shutdown().await;
    Ok(())
}

struct Server {
    files: Files,
    local: IpAddr,
    places: Arc<Semaphore>,
    each: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Server {
    /// The transfer that a request asks for; `None` for what deserves no answer.
    fn accept(
        &self,
        datagram: &[u8],
        from: SocketAddr,
    ) -> Result<Option<impl Future<Output = ()> + Send + 'static>, Refusal> {
        let request = match packet::read(datagram)? {
            Packet::Read(request) => request,
            Packet::Write => return Err(Refusal::ReadOnly),
            // They belong to a transfer, which has a port of its own.
            Packet::Acknowledge(_) | Packet::Error(_) => return Ok(None),
        };
        let file = self.find(&request).ok_or(Refusal::NotFound)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let turn = Turn::take(&self.each, from.ip(), place).ok_or(Refusal::Busy)?;
        tracing::debug!(%from, name = request.name, "TFTP transfer");
        let terms = terms(&request, file.len() as u64);
        let pause = Duration::from_secs(terms.timeout.into());
        let (local, transfer) = (self.local, Transfer::new(file, terms));
        Ok(Some(async move {
            let _turn = turn;
            if let Err(error) = send(local, from, transfer, pause).await {
                tracing::debug!(%from, %error, "TFTP transfer ended early");
            }
        }))
    }

    /// The file of that name, whatever folder it is asked for in: firmware puts one before it, or a slash.
    fn find(&self, request: &ReadRequest) -> Option<Bytes> {
        let name = request.name.rsplit(['/', '\\']).next()?;
        self.files.get(name).cloned()
    }
}

/// A place among the transfers, given back when dropped.
struct Turn {
    each: Arc<Mutex<HashMap<IpAddr, usize>>>,
    client: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Turn {
    fn take(
        each: &Arc<Mutex<HashMap<IpAddr, usize>>>,
        client: IpAddr,
        place: OwnedSemaphorePermit,
    ) -> Option<Self> {
        let mut counts = each.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= TRANSFERS_EACH {
            return None;
        }
        *count += 1;
        Some(Self { each: each.clone(), client, _place: place })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// Sends a file from a port of its own.
async fn send(local: IpAddr, to: SocketAddr, mut transfer: Transfer, pause: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind((local, 0)).await?;
    // Others are not heard.
    socket.connect(to).await?;
    let end = Instant::now() + DEADLINE;
    let mut buffer = [0; 128];
    let mut next = transfer.begin();
    let mut again = Instant::now() + pause;
    loop {
        match next {
            Next::Send(packets) => {
                for packet in packets {
                    socket.send(&packet).await?;
                }
                again = Instant::now() + pause;
            }
            Next::Wait => {}
            Next::Done => return Ok(()),
            Next::GiveUp => return Err(io::ErrorKind::TimedOut.into()),
        }
        if Instant::now() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        next = match timeout_at(again.min(end), socket.recv(&mut buffer)).await {
            Err(_) => transfer.timed_out(),
            Ok(received) => match packet::read(buffer.get(..received?).unwrap_or_default()) {
                Ok(Packet::Acknowledge(block)) => transfer.acknowledge(block),
                // Firmware asks for the size first and then gives up on purpose.
                Ok(Packet::Error(_)) => return Ok(()),
                _ => Next::Wait,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Running {
        address: SocketAddr,
        _stop: tokio_util::sync::DropGuard,
    }

    async fn start() -> Running {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let files = [("undionly.kpxe".to_owned(), Bytes::from(vec![7; 74_213]))].into();
        let stop = CancellationToken::new();
        tokio::spawn(serve(socket, files, stop.clone()));
        Running { address, _stop: stop.drop_guard() }
    }

    async fn ask(running: &Running, request: &[u8]) -> (UdpSocket, SocketAddr, Vec<u8>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(request, running.address).await.unwrap();
        let mut buffer = vec![0; 2000];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        buffer.truncate(length);
        (socket, from, buffer)
    }

    #[tokio::test]
    async fn a_file_is_sent_from_a_port_of_its_own() {
        let running = start().await;
        let request = b"\0\x01boot/undionly.kpxe\0octet\0blksize\x001024\0windowsize\x004\0";
        let (socket, from, first) = ask(&running, request).await;
        assert_ne!(from.port(), running.address.port());
        assert_eq!(first, b"\0\x06blksize\x001024\0windowsize\x004\0");
        socket.connect(from).await.unwrap();
        socket.send(&[0, 4, 0, 0]).await.unwrap();
        let mut total = 0;
        let mut buffer = [0; 2000];
        for number in 1_u16.. {
            let length = socket.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..4], [&[0, 3][..], &number.to_be_bytes()].concat());
            total += length - 4;
            let last = length < 1028;
            if number % 4 == 0 || last {
                socket.send(&[&[0, 4][..], &number.to_be_bytes()].concat()).await.unwrap();
            }
            if last {
                break;
            }
        }
        assert_eq!(total, 74_213);
    }

    #[tokio::test]
    async fn other_files_and_writing_are_refused() {
        let running = start().await;
        for (request, code) in [
            (&b"\0\x01../../etc/passwd\0octet\0"[..], 1),
            (b"\0\x01agent.iso\0octet\0", 1),
            (b"\0\x02undionly.kpxe\0octet\0", 2),
            (b"\0\x01undionly.kpxe\0netascii\0", 4),
            (b"\0\x09", 4),
        ] {
            let (_, from, answer) = ask(&running, request).await;
            assert_eq!((from, &answer[..4]), (running.address, &[0, 5, 0, code][..]), "{request:?}");
        }
    }

    #[tokio::test]
    async fn one_client_cannot_take_all_places() {
        let running = start().await;
        let mut open = Vec::new();
        for _ in 0..TRANSFERS_EACH {
            let (socket, from, first) = ask(&running, b"\0\x01undionly.kpxe\0octet\0timeout\x0010\0").await;
            assert_eq!(first[1], 6);
            open.push((socket, from));
        }
        let (_, _, refused) = ask(&running, b"\0\x01undionly.kpxe\0octet\0").await;
        assert_eq!(refused[..4], [0, 5, 0, 0]);
        for (socket, from) in open {
            socket.send_to(&[0, 5, 0, 0, 0], from).await.unwrap();
        }
        // Their places are free once the server has read that.
        while ask(&running, b"\0\x01undionly.kpxe\0octet\0").await.2[1] == 5 {
            tokio::task::yield_now().await;
        }
    }
}

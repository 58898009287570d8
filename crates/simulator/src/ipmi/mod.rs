//! The BMCs' other face: IPMI v2.0 over LAN, suites 3 and 17, on the addresses of the Redfish services. Sessions are
//! `ferric_bmc`'s; what they do is done to the same server. `ipmitool` and `pyghmi` are its clients in the tests.

mod commands;
pub(crate) mod facts;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_bmc::ipmi_server::Server as Sessions;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UdpSocket;

use crate::fault::BmcFault;
use crate::fleet::Shared;
use crate::server::Server;
use commands::{Face, Trouble};

/// Largest datagram that is taken; more than any command needs.
const LARGEST: usize = 1024;

/// The sockets of all BMCs, on one port; 0 takes one that is free on the first address.
pub(crate) fn listen(servers: &[Arc<Server>], port: u16) -> io::Result<(u16, Vec<UdpSocket>)> {
    let open = |address: Ipv4Addr, port| {
        let socket = std::net::UdpSocket::bind(SocketAddr::from((address, port)))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let mut port = port;
    let mut sockets = Vec::with_capacity(servers.len());
    for server in servers {
        let socket = open(server.spec.bmc_ip, port)?;
        port = socket.local_addr()?.port();
        sockets.push(socket);
    }
    Ok((port, sockets))
}

/// Answers on one BMC's socket until the fleet ends.
pub(crate) async fn serve(socket: UdpSocket, server: Arc<Server>, shared: Arc<Shared>) {
    let (mut sessions, random) = (Sessions::default(), SystemRandom::new());
    let mut buffer = [0; LARGEST];
    loop {
        let received = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error is that of an answer to somebody who has gone.
        let Ok((length, client)) = received else { continue };
        let (fault, delay, restarts) = {
            let inner = server.lock();
            (inner.faults.bmc, inner.faults.bmc_delay_ms, inner.restarts())
        };
        if restarts {
            sessions.forget();
            continue;
        }
        if matches!(fault, Some(BmcFault::Unreachable | BmcFault::Hangs)) {
            continue;
        }
        let mut face = Face::new(&server, sessions.sessions(), fault == Some(BmcFault::Unavailable));
        let mut chance = |bytes: &mut [u8]| {
            // The system's own generator does not fail; zeros would only make a session that nobody should trust.
            let _ = random.fill(bytes);
        };
        let answer = sessions.answer(&buffer[..length], Instant::now(), &mut face, &mut chance);
        let Trouble { wait_ms, cut, garbage, restart_ms } = face.trouble;
        if let Some(ms) = restart_ms {
            sessions.forget();
            server.lock().restarts_until = Some(Instant::now() + Duration::from_millis(ms));
        }
        let pause = delay.unwrap_or(0).saturating_add(wait_ms);
        if pause > 0 {
            // As in small BMCs, whoever comes meanwhile waits as well.
            tokio::select! {
                () = shared.shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            }
        }
        let Some(mut answer) = answer else { continue };
        if cut {
            answer.truncate(answer.len() / 2);
        }
        if garbage || fault == Some(BmcFault::Garbage) {
            answer.iter_mut().skip(4).for_each(|byte| *byte ^= 0x5A);
        }
        let _ = socket.send_to(&answer, client).await;
    }
}

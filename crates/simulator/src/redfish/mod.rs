//! The Redfish face of the BMCs.
//!
//! One listener serves all of them: a connection's *local* address says which BMC it came to. Nothing but 127.0.0.0/8
//! is answered, though the listener has to be bound to every address to have all of those.

mod events;
mod face;
mod requests;
mod resources;
mod service;
mod session;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::fault::BmcFault;
use crate::fleet::Shared;
use crate::server::Server;

use crate::config::Family;

pub(crate) use events::{Subscriptions, power_changed};
pub(crate) use face::face;
pub(crate) use session::Sessions;

/// Path of the system at a BMC.
pub(crate) fn system_path(family: Family) -> String {
    face(family).path(resources::SYSTEM)
}

/// Whether a BMC is told the URL of UEFI HTTP boot.
pub(crate) fn has_http_boot_uri(family: Family) -> bool {
    face(family).http_boot_uri
}

/// A handshake that takes longer is given up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// An idle connection is closed after this time, as BMCs do.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Serves every BMC until the fleet ends.
pub(crate) async fn serve(listener: TcpListener, servers: Arc<[Arc<Server>]>, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly "too many open files": wait until some are closed.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(server) = server_of(&stream, &servers, &shared) else { continue };
        let shutdown = shared.shutdown.clone();
        shared.tracker.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                ended = connection(stream, server) => if let Err(error) = ended {
                    tracing::trace!(%error, "connection to a BMC ended");
                }
            }
        });
    }
}

fn server_of(stream: &TcpStream, servers: &[Arc<Server>], shared: &Shared) -> Option<Arc<Server>> {
    let IpAddr::V4(local) = stream.local_addr().ok()?.ip() else { return None };
    if !local.is_loopback() {
        return None;
    }
    let index = u32::from(local).checked_sub(u32::from(shared.config.base_address))?;
    servers.get(usize::try_from(index).ok()?).cloned()
}

async fn connection(stream: TcpStream, server: Arc<Server>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match server.connected() {
        Some(BmcFault::Unreachable) => return Ok(()),
        Some(BmcFault::Hangs) => {
            server.fault_ends().await;
            return Ok(());
        }
        _ => {}
    }
    let of_authority = !server.faults().certificate_changed;
    let config = server.tls_config(of_authority).map_err(io::Error::other)?;
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await??;
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let server = Arc::clone(&server);
        async move {
            if server.faults().certificate_changed == of_authority {
                // It restarted with the other certificate.
                return Err(Unreachable);
            }
            service::answer(&server, request).await
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

/// The request is not answered and its connection closed.
#[derive(Debug, thiserror::Error)]
#[error("the BMC is unreachable")]
pub(crate) struct Unreachable;

impl From<Infallible> for Unreachable {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

//! The address of a control plane: a small TCP balancer in front of the kube-apiservers of its machines, in the place
//! of kube-vip or HAProxy. It belongs to the machines: it is there while one of them has power.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::kube::{Credentials, Kube, Trust};

/// Between two looks at the health of a kube-apiserver.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Looks that have to fail before its connections are cut.
const FAILURES: u32 = 3;
const DIAL_LIMIT: Duration = Duration::from_secs(2);

/// All balancers of a fleet, by address.
#[derive(Debug, Default)]
pub(crate) struct Balancers {
    open: Mutex<HashMap<SocketAddr, Weak<Balancer>>>,
}

#[derive(Debug)]
struct Balancer {
    backends: Arc<Mutex<Vec<Arc<Backend>>>>,
    _open: DropGuard,
}

#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    /// Cut when it is unhealthy, and replaced.
    connections: Mutex<CancellationToken>,
    healthy: Mutex<bool>,
}

/// A machine's place behind a balancer; gone when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    balancer: Arc<Balancer>,
    backend: Arc<Backend>,
    _checks: DropGuard,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.balancer.backends).retain(|other| !Arc::ptr_eq(other, &self.backend));
        lock(&self.backend.connections).cancel();
    }
}

impl Balancers {
    /// Puts a kube-apiserver behind an address, which is listened on from its first to its last machine.
    pub(crate) fn enter(&self, front: SocketAddr, back: SocketAddr) -> Result<Place, String> {
        if !front.ip().is_loopback() {
            return Err(format!("the control-plane endpoint {front} is not a loopback address"));
        }
        let backend = Arc::new(Backend {
            address: back,
            connections: Mutex::new(CancellationToken::new()),
            healthy: Mutex::new(true),
        });
        let balancer = self.balancer(front)?;
        lock(&balancer.backends).push(Arc::clone(&backend));
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(check(Arc::clone(&backend))));
        Ok(Place { balancer, backend, _checks: stop.drop_guard() })
    }

    fn balancer(&self, front: SocketAddr) -> Result<Arc<Balancer>, String> {
        let mut open = lock(&self.open);
        if let Some(balancer) = open.get(&front).and_then(Weak::upgrade) {
            return Ok(balancer);
        }
        let failed = |error: std::io::Error| {
            format!("could not listen on the control-plane endpoint {front}: {error}")
        };
        let listener = std::net::TcpListener::bind(front).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let backends = Arc::default();
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(listener, Arc::clone(&backends))));
        let balancer = Arc::new(Balancer { backends, _open: stop.drop_guard() });
        open.insert(front, Arc::downgrade(&balancer));
        Ok(balancer)
    }
}

async fn serve(listener: TcpListener, backends: Arc<Mutex<Vec<Arc<Backend>>>>) {
    let mut turn = 0usize;
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        turn = turn.wrapping_add(1);
        let mut candidates: Vec<Arc<Backend>> =
            lock(&backends).iter().filter(|backend| *lock(&backend.healthy)).cloned().collect();
        if !candidates.is_empty() {
            let first = turn % candidates.len();
            candidates.rotate_left(first);
        }
        tokio::spawn(forward(client, candidates));
    }
}

async fn forward(mut client: TcpStream, candidates: Vec<Arc<Backend>>) {
    for backend in candidates {
        let Ok(Ok(mut server)) = tokio::time::timeout(DIAL_LIMIT, TcpStream::connect(backend.address)).await
        else {
            continue;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let cut = lock(&backend.connections).clone();
        tokio::select! {
            () = cut.cancelled() => {}
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        }
        return;
    }
}

/// Looks at `/readyz`, as any balancer in front of kube-apiservers should: one whose etcd is gone still takes
/// connections.
async fn check(backend: Arc<Backend>) {
    let Ok(kube) = Kube::new(&format!("https://{}", backend.address), Trust::Anyone, Credentials::Anonymous)
    else {
        return;
    };
    let mut failures = 0;
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        let ready = tokio::time::timeout(CHECK_EVERY * 2, kube.get("/readyz")).await;
        failures = if matches!(ready, Ok(Ok(_))) { 0 } else { failures + 1 };
        let healthy = failures < FAILURES;
        if std::mem::replace(&mut *lock(&backend.healthy), healthy) && !healthy {
            tracing::debug!(address = %backend.address, "kube-apiserver is not ready: taken out of the balancer");
            std::mem::take(&mut *lock(&backend.connections)).cancel();
        }
    }
}

/// The address in a `controlPlaneEndpoint`.
pub(crate) fn endpoint_address(endpoint: &str) -> Result<SocketAddr, String> {
    let endpoint = endpoint.trim_start_matches("https://").trim_end_matches('/');
    let with_address = endpoint.replace("localhost", "127.0.0.1");
    with_address
        .parse()
        .map_err(|_| format!("the control-plane endpoint {endpoint:?} is not an address with a port"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut byte = [0; 1];
                    while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok()
                    {
                    }
                });
            }
        });
        address
    }

    fn free_port() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn forwards_skips_the_dead_and_closes_with_the_last() {
        let (balancers, front) = (Balancers::default(), free_port());
        let dead = balancers.enter(front, free_port()).unwrap();
        let living = balancers.enter(front, echo().await).unwrap();
        for _ in 0..4 {
            let mut stream = TcpStream::connect(front).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).await.unwrap();
        }
        let mut stream = TcpStream::connect(front).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        drop(living);
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "a machine's connections end with it");
        drop(dead);
        while TcpStream::connect(front).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn only_loopback_is_listened_on() {
        assert!(Balancers::default().enter("10.0.0.1:6443".parse().unwrap(), free_port()).is_err());
        assert_eq!(endpoint_address("localhost:6443").unwrap(), "127.0.0.1:6443".parse().unwrap());
        assert!(endpoint_address("example.test:6443").is_err());
    }
}

//! The fleet: starting it, asking it, ending it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferric_image::BlockStore;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{DiskMode, FleetConfig};
use crate::error::{Error, Result};
use crate::fault::Faults;
use crate::journal::JournalEntry;
use crate::os::Balancers;
use crate::server::{Server, ServerStatus};
use crate::spec::{self, ServerSpec};
use crate::tls::FleetTls;

/// What all servers share.
pub(crate) struct Shared {
    pub(crate) config: FleetConfig,
    pub(crate) tls: FleetTls,
    pub(crate) http: reqwest::Client,
    pub(crate) blocks: BlockStore,
    pub(crate) balancers: Balancers,
    /// Disks that are written at once: more would only wait for the same processors.
    pub(crate) write_permits: Arc<Semaphore>,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// A running fleet. Dropping it ends it at once; [`Fleet::stop`] ends it in order.
pub struct Fleet {
    servers: Arc<[Arc<Server>]>,
    by_name: HashMap<String, usize>,
    shared: Arc<Shared>,
    port: u16,
    ipmi_port: Option<u16>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("servers", &self.servers.len()).field("port", &self.port).finish()
    }
}

impl Fleet {
    /// Starts the fleet: every server is off, its disk as it was left.
    pub async fn start(config: FleetConfig) -> Result<Self> {
        // Another part of the process may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        raise_file_limit();
        let specs = spec::derive(&config)?;
        let folder = config.state_dir.clone();
        std::fs::create_dir_all(&folder).map_err(Error::file("make the folder", &folder))?;
        let listener = listen(config.port)?;
        let port = listener.local_addr().map_err(listen_error(config.port))?.port();
        let shared = Arc::new(Shared {
            tls: FleetTls::load_or_make(&folder)?,
            http: reqwest::Client::builder()
                .no_proxy()
                .connect_timeout(Duration::from_secs(5))
                .pool_max_idle_per_host(0)
                .build()?,
            blocks: BlockStore::new(),
            balancers: Balancers::default(),
            write_permits: Arc::new(Semaphore::new(8)),
            tracker: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            config,
        });
        let servers: Arc<[Arc<Server>]> =
            specs.into_iter().map(|spec| Arc::new(Server::new(spec, Arc::clone(&shared)))).collect();
        let by_name = servers.iter().enumerate().map(|(n, server)| (server.spec.name.clone(), n)).collect();
        shared.tracker.spawn(crate::redfish::serve(listener, Arc::clone(&servers), Arc::clone(&shared)));
        let ipmi_port = match shared.config.ipmi_port {
            None => None,
            Some(port) => {
                let (port, sockets) = crate::ipmi::listen(&servers, port).map_err(|source| {
                    Error::Listen { address: format!("127.0.0.0/8 UDP port {port}"), source }
                })?;
                for (socket, server) in sockets.into_iter().zip(servers.iter()) {
                    let (server, shared) = (Arc::clone(server), Arc::clone(&shared));
                    shared.clone().tracker.spawn(crate::ipmi::serve(socket, server, shared));
                }
                Some(port)
            }
        };
        Ok(Self { servers, by_name, shared, port, ipmi_port })
    }

    /// Port of every BMC.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// UDP port of every BMC for IPMI, if they speak it.
    #[must_use]
    pub fn ipmi_port(&self) -> Option<u16> {
        self.ipmi_port
    }

    /// Certificate (PEM) of the authority that signed those of the BMCs.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.shared.tls.ca_pem()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &FleetConfig {
        &self.shared.config
    }

    /// The facts of every server.
    pub fn servers(&self) -> impl ExactSizeIterator<Item = &ServerSpec> {
        self.servers.iter().map(|server| &server.spec)
    }

    /// `https://127.x.y.z:port` of a server's BMC.
    #[must_use]
    pub fn bmc_url(&self, spec: &ServerSpec) -> String {
        format!("https://{}:{}", spec.bmc_ip, self.port)
    }

    /// What a server is doing.
    pub fn status(&self, name: &str) -> Result<ServerStatus> {
        Ok(self.find(name)?.status())
    }

    /// What happened to a server after entry `since` (0: everything that is kept).
    pub fn journal(&self, name: &str, since: u64) -> Result<Vec<JournalEntry>> {
        Ok(self.find(name)?.journal(since))
    }

    /// Puts faults on a server, in place of those it had.
    pub fn set_faults(&self, name: &str, faults: Faults) -> Result<()> {
        self.find(name)?.set_faults(faults);
        Ok(())
    }

    /// The files behind a server's disks; none when disks only count.
    pub fn disk_paths(&self, name: &str) -> Result<Vec<PathBuf>> {
        let spec = &self.find(name)?.spec;
        let folder = spec.folder(&self.shared.config);
        Ok(match self.shared.config.disks {
            DiskMode::File => spec.disks.iter().map(|disk| folder.join(&disk.file_name)).collect(),
            DiskMode::Counting => Vec::new(),
        })
    }

    /// Ends everything: connections, agents, operating systems and their processes.
    pub async fn stop(&self) {
        self.shared.shutdown.cancel();
        self.shared.tracker.close();
        if tokio::time::timeout(Duration::from_secs(20), self.shared.tracker.wait()).await.is_err() {
            tracing::warn!("some servers did not end within 20 s");
        }
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Arc<Server>> {
        let found = self.by_name.get(name).and_then(|&number| self.servers.get(number));
        found.ok_or_else(|| Error::NoServer(name.to_owned()))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.shutdown.cancel();
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let open = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        // 127.0.0.0/8 cannot be had otherwise; connections to other addresses are closed at once.
        socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        socket.listen(4096)
    };
    open().map_err(listen_error(port))
}

fn listen_error(port: u16) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Listen { address: format!("127.0.0.0/8 port {port}"), source }
}

/// A large fleet has more connections than the usual limit of open files.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

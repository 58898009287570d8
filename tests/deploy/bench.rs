//! The parts of a deploy bench: an image server, a provider whose records live in memory, machines for the real agent,
//! and a line between agent and provider that can be cut.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ferric::{
    deploy::{
        AgentServer, AgentView, Hub, ImageCache, ImageState, Leadership, Limits, ProviderKeys, ReadyImage,
        RegisterError, Registrar, images::NoPullSecrets,
    },
    key::Key,
    telemetry::metrics::{Metrics, RefusalLabel},
};
use ferric_agent::{AgentError, AgentOptions, Exit, Platform};
use ferric_api::host::Image;
use ferric_image::{BlockDevice, MemDevice};
use ferric_protocol::{
    BootData, DiscoveryToken,
    v1::{self, Inventory},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, waiting).await;
    found.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// The records: per host the present boot, and the key that registered for it.
#[derive(Default)]
pub struct Records {
    hosts: Mutex<HashMap<Key, (i64, Option<String>)>>,
    pub registrations: AtomicUsize,
    /// Keys and serial numbers of machines that told what they are.
    pub discovered: Mutex<Vec<(String, String)>>,
}

impl Records {
    pub fn begin_boot(&self, host: &Key, boot_number: i64) {
        self.hosts.lock().unwrap().insert(host.clone(), (boot_number, None));
    }

    /// As if the key had registered.
    pub fn admit(&self, host: &Key, boot_number: i64, fingerprint: &str) {
        self.hosts.lock().unwrap().insert(host.clone(), (boot_number, Some(fingerprint.to_owned())));
    }
}

#[async_trait]
impl Registrar for Records {
    async fn register(
        &self,
        host: &Key,
        boot_number: i64,
        fingerprint: &str,
        _inventory: &Inventory,
    ) -> Result<(), RegisterError> {
        let mut hosts = self.hosts.lock().unwrap();
        let (boot, key) = hosts.get_mut(host).ok_or(RegisterError::UnknownHost)?;
        if *boot != boot_number || key.as_deref().is_some_and(|k| k != fingerprint) {
            return Err(RegisterError::Spent);
        }
        *key = Some(fingerprint.to_owned());
        self.registrations.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn discovered(
        &self,
        _token: &DiscoveryToken,
        fingerprint: &str,
        inventory: &Inventory,
    ) -> Result<v1::PowerAction, RegisterError> {
        let told = (fingerprint.to_owned(), inventory.serial_number.clone());
        self.discovered.lock().unwrap().push(told);
        Ok(v1::PowerAction::PowerOff)
    }

    async fn session_allowed(&self, host: &Key, fingerprint: &str) -> bool {
        self.hosts.lock().unwrap().get(host).is_some_and(|(_, k)| k.as_deref() == Some(fingerprint))
    }

    async fn host_for(&self, fingerprint: &str) -> Option<(Key, i64)> {
        let hosts = self.hosts.lock().unwrap();
        let found = hosts.iter().find(|(_, (_, k))| k.as_deref() == Some(fingerprint));
        found.map(|(host, (boot, _))| (host.clone(), *boot))
    }
}

/// What outlives a provider process: records, keys, the cache's folder, the port.
pub struct Provider {
    pub keys: ProviderKeys,
    pub records: Arc<Records>,
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    pub limits: Limits,
}

impl Provider {
    pub async fn new() -> Self {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        Self {
            keys: ProviderKeys::generate().unwrap(),
            records: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            address,
            limits: Limits { image_wait: Duration::from_millis(200), ..Limits::default() },
        }
    }

    /// Starts a provider process, so to speak.
    pub async fn start(&self) -> Running {
        // The port may still be held for a moment by what was stopped.
        let bind = |address| async move {
            loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => return listener,
                    Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(e) => panic!("{address}: {e}"),
                }
            }
        };
        let listener = tokio::time::timeout(PATIENCE, bind(self.address)).await.unwrap();
        let (wake, woken) = mpsc::unbounded_channel();
        let images =
            ImageCache::open(self.dir.path(), 1 << 30, 2, wake.clone(), Arc::new(NoPullSecrets)).unwrap();
        let hub = Hub::new(wake);
        let metrics = Arc::new(Metrics::new());
        let (leader, leading) = watch::channel(Leadership::Leader);
        let shutdown = CancellationToken::new();
        let server = AgentServer {
            hub: hub.clone(),
            registrar: Arc::clone(&self.records) as Arc<dyn Registrar>,
            images: images.clone(),
            tls: self.keys.serving(&self.url(self.address), Some(self.address.ip())),
            token_key: self.keys.token_key().to_vec(),
            leader: leading,
            limits: self.limits,
            metrics: Arc::clone(&metrics),
        };
        let task = tokio::spawn(server.serve(listener, shutdown.clone()));
        Running { hub, images, leader, woken, metrics, shutdown, task }
    }

    pub fn url(&self, address: SocketAddr) -> Url {
        Url::parse(&format!("https://{address}")).unwrap()
    }

    /// Boot data of a boot, good for an hour, dialling `address`.
    pub fn boot(&self, host: &Key, boot_number: i64, address: SocketAddr) -> BootData {
        self.boot_with(&self.keys.mint(host, boot_number, in_an_hour()).unwrap(), address)
    }

    /// Boot data of a machine that nobody enrolled.
    pub fn discovery(&self, expires: jiff::Timestamp, address: SocketAddr) -> BootData {
        self.boot_with(&self.keys.mint_discovery([2, 0, 0, 0, 0, 1].into(), 5, expires), address)
    }

    fn boot_with(&self, token: &str, address: SocketAddr) -> BootData {
        let now = jiff::Timestamp::now().as_second() as u64;
        BootData::new(self.url(address).as_str(), &self.keys.ca_sha256(), token, now).unwrap()
    }
}

pub fn in_an_hour() -> jiff::Timestamp {
    jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(1)).unwrap()
}

/// A provider process.
pub struct Running {
    pub hub: Hub,
    pub images: ImageCache,
    pub leader: watch::Sender<Leadership>,
    pub woken: mpsc::UnboundedReceiver<Key>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: JoinHandle<io::Result<()>>,
}

impl Running {
    /// How many requests of this kind were refused and counted.
    pub fn refused(&self, what: &'static str) -> u64 {
        self.metrics.refusals.get_or_create(&RefusalLabel { what }).get()
    }

    pub async fn stop(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut self.task).await.unwrap().unwrap().unwrap();
    }

    pub async fn connected(&self, host: &Key) -> AgentView {
        until("the agent to be connected", || self.hub.view(host)).await
    }

    /// Waits to be woken for what `look` finds.
    pub async fn woken_for<T>(&mut self, what: &str, mut look: impl FnMut(&Hub) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = look(&self.hub) {
                    return found;
                }
                self.woken.recv().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("was not woken for: {what}"))
    }

    pub async fn image(&mut self, host: &Key, image: &Image) -> ReadyImage {
        let images = self.images.clone();
        let look = |_: &Hub| match images.ensure(host, image, None) {
            ImageState::Ready(ready) => Some(ready),
            ImageState::Fetching { .. } => None,
            failed @ ImageState::Failed { .. } => panic!("{failed:?}"),
        };
        self.woken_for("the image", look).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.task.abort();
    }
}

/// Serves one image.
pub async fn image_server(bytes: Vec<u8>) -> (Url, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/disk.raw", listener.local_addr().unwrap())).unwrap();
    let bytes = bytes::Bytes::from(bytes);
    let app = axum::Router::new().route("/disk.raw", axum::routing::get(move || async move { bytes }));
    (url, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

/// A gate in the way of a disk: writes beyond `hold_at` wait until it is opened.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Whether somebody waits.
    pub fn is_reached(&self) -> bool {
        self.state.lock().unwrap().0
    }

    pub fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        while !state.1 {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// A machine with one disk.
pub struct Machine {
    pub disk: MemDevice,
    /// How often the disk was opened, that is: how many tasks have touched it.
    pub opened: AtomicUsize,
    pub gate: Option<(u64, Arc<Gate>)>,
}

impl Machine {
    pub fn new(disk_bytes: usize) -> Self {
        Self { disk: MemDevice::new(disk_bytes), opened: AtomicUsize::new(0), gate: None }
    }
}

impl Platform for Machine {
    fn inventory(&self) -> io::Result<Inventory> {
        let disk = v1::Disk { name: "/dev/sda".into(), size_bytes: self.disk.size(), ..Default::default() };
        Ok(Inventory { serial_number: "S1".into(), disks: vec![disk], ..Default::default() })
    }

    fn open_disk(&self, _name: &str) -> io::Result<Box<dyn BlockDevice>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(GatedDisk { disk: self.disk.clone(), gate: self.gate.clone() }))
    }
}

struct GatedDisk {
    disk: MemDevice,
    gate: Option<(u64, Arc<Gate>)>,
}

impl GatedDisk {
    fn pass(&self, offset: u64) {
        if let Some((hold_at, gate)) = &self.gate
            && offset >= *hold_at
        {
            gate.pass();
        }
    }
}

impl BlockDevice for GatedDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.pass(offset);
        self.disk.write_at(offset, data)
    }
    fn write_zeroes(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.pass(offset);
        self.disk.write_zeroes(offset, length)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.disk.sync()
    }
    fn drop_caches(&mut self) -> io::Result<()> {
        self.disk.drop_caches()
    }
}

/// A running agent; stopped when dropped.
pub struct Agent {
    pub task: JoinHandle<Result<Exit, AgentError>>,
    cancel: CancellationToken,
}

impl Agent {
    pub fn start(boot: BootData, machine: Arc<Machine>) -> Self {
        let options = AgentOptions {
            min_root_bytes: 0,
            block_bytes: 64 * 1024,
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(200),
            download_tries: 100,
            ..AgentOptions::default()
        };
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ferric_agent::run(boot, machine, options, cancel.clone()));
        Self { task, cancel }
    }

    pub async fn end(mut self) -> Result<Exit, AgentError> {
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("the agent goes on").unwrap()
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        let _ = self.end().await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A line to the provider that can be cut.
pub struct Line {
    pub address: SocketAddr,
    pub dialled: Arc<AtomicUsize>,
    connections: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Line {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialled = Arc::new(AtomicUsize::new(0));
        let (connections, cuts) = watch::channel(0);
        let count = Arc::clone(&dialled);
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut cut = cuts.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, dialled, connections, task }
    }

    pub fn cut(&self) {
        self.connections.send_modify(|n| *n += 1);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

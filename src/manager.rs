//! Composition root: makes the client, the caches, the servers and the controllers, and ends them in order.
//!
//! Everything runs as a task of one `JoinSet`; the first that fails ends the process. Servers and caches run from the
//! start, so that a standby is warm; controllers run only while this replica holds the lease.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ferric_api::{
    BareMetalCluster, BareMetalHost, BareMetalMachine, BareMetalMachineTemplate, ClusterAutoscalingPolicy,
    HardwareData, NodeGroupAutoscaler,
};
use ferric_bmc::BmcPool;
use kube::Client;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::bmc_events;
use crate::boot::dhcp::{DhcpServer, Sockets};
use crate::boot::dhcp6::{self, Dhcp6Server};
use crate::boot::{self, AgentImage, Artifacts, BootLookup, BootServer};
use crate::capi::{Cluster, Machine, MachineDeployment};
use crate::config::{Dhcp, Options};
use crate::controllers::host::{
    BootSettings, BootSlots, Discovery, HostBoots, HostContext, HostParts, HostRegistrar, KubePullSecrets,
};
use crate::controllers::{autoscaler, cluster, host, machine, template};
use crate::deploy::{self, AgentServer, Hub, ImageCache, Leadership, ProviderKeys};
use crate::discovery;
use crate::host::Limits;
use crate::lease::{self, ElectionConfig, LeaderState};
use crate::quirks;
use crate::telemetry::{Events, Metrics, health};
use crate::watch::Watched;

/// How long what is under way may take to end after a signal.
const GRACE: Duration = Duration::from_secs(20);

/// Runs the manager until a signal, or until something that it cannot do without fails.
pub async fn run(options: Options) -> anyhow::Result<()> {
    options.validate()?;
    let stop = CancellationToken::new();
    let release = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut election = JoinSet::new();

    let client = client(&options).await?;
    let metrics = Arc::new(Metrics::new());
    let identity = lease::unique_identity();
    let events = Events::start(client.clone(), &identity, metrics.clone(), &mut tasks);
    let caches = Caches::start(&client, &options, &metrics, &mut tasks);

    let keys = Arc::new(ProviderKeys::load_or_create(client.clone(), &options.identity_namespace).await?);
    let boot_listener = bind("--boot-bind-address", options.boot_bind_address).await?;
    let agent_listener = bind("--agent-bind-address", options.agent_bind_address).await?;
    let boot_url: Url = options.boot_base()?.parse().context("--boot-url")?;
    let agent_url: Url = options.agent_base()?.parse().context("--agent-url")?;
    let agent_image = open_agent_image(&options).await?;
    let dhcp = options.dhcp()?;

    let leader = if options.leader_elect {
        let config = ElectionConfig {
            namespace: options.lease_namespace().to_owned(),
            name: lease::LEASE_NAME.to_owned(),
            identity: identity.clone(),
            address: agent_url.to_string(),
            timing: lease::Timing {
                lease_duration: Duration::from_secs(options.lease_duration_seconds.into()),
                renew_deadline: Duration::from_secs(options.renew_deadline_seconds.into()),
                retry_period: Duration::from_secs(options.retry_period_seconds.into()),
            },
        };
        lease::start(client.clone(), config, metrics.clone(), release.clone(), &mut election)
    } else {
        let (sender, receiver) = watch::channel(LeaderState::alone(&identity, agent_url.as_str()));
        metrics.leader.set(1);
        election.spawn({
            let release = release.clone();
            async move {
                let _sender = sender;
                release.cancelled().await;
                Ok(())
            }
        });
        receiver
    };
    let leadership = leadership(leader.clone(), &mut tasks);

    // Two channels, so that agents and images wake hosts through the same door as finished BMC jobs.
    let (wake, woken) = mpsc::unbounded_channel();
    let hub = Hub::new(wake.clone());
    let images = ImageCache::open(
        &options.image_cache_dir,
        options.image_cache_size.0,
        PARALLEL_FETCHES,
        wake.clone(),
        Arc::new(KubePullSecrets::new(client.clone())),
    )
    .with_context(|| format!("--image-cache-dir {}", options.image_cache_dir.display()))?;
    let pool = Arc::new(BmcPool::new(ferric_bmc::Limits {
        request: options.bmc_timeout(),
        // What is asked in one go goes over one connection; then it is closed. Each takes 40 KB, times all hosts.
        idle_connection: Duration::from_secs(5),
        wake_on_lan: true,
        ..ferric_bmc::Limits::default()
    }));
    let told = quirks::Told { events: events.clone(), metrics: metrics.clone(), leader: leader.clone() };
    quirks::start(client.clone(), &options.identity_namespace, pool.clone(), told, &mut tasks);
    let host_context = HostContext::new(HostParts {
        client: client.clone(),
        hosts: caches.hosts.clone(),
        machines: caches.machines.clone(),
        owners: caches.owners.clone(),
        clusters: caches.clusters.clone(),
        hub: hub.clone(),
        images: images.clone(),
        pool: pool.clone(),
        boot: BootSettings {
            boot_url: boot_url.clone(),
            agent_url: agent_url.clone(),
            keys: keys.clone(),
            slots: BootSlots::new(options.max_boots_in_flight as usize, wake.clone()),
            offers: options.network_boot.offers(agent_image.is_some()),
        },
        discovery: options.network_boot.discover_hosts_in.as_deref().map(|namespace| {
            let filter = options.watch_filter.clone();
            let labels = filter.map(|value| (ferric_api::names::WATCH_FILTER_LABEL.to_owned(), value));
            let lifetime = boot::token_lifetime(options.agent_boot_timeout());
            Discovery::new(namespace, labels.into_iter().collect(), discovery::Limits::new(lifetime))
        }),
        bmc_events: options.bmc_events.bmc_events_url.clone(),
        limits: Limits {
            agent_boot: options.agent_boot_timeout(),
            power_poll: options.power_poll().unwrap_or(NEVER),
            ..Limits::default()
        },
        events: events.clone(),
        metrics: metrics.clone(),
        wake,
        leader: leader.clone(),
    });

    let agent_server = AgentServer {
        hub,
        registrar: Arc::new(HostRegistrar::new(host_context.clone())),
        images,
        tls: keys.serving(&agent_url, Some(options.agent_bind_address.ip())),
        token_key: keys.token_key().to_vec(),
        leader: leadership.clone(),
        limits: deploy::Limits {
            image_streams: options.max_image_streams as usize,
            ..deploy::Limits::default()
        },
        metrics: metrics.clone(),
    };
    if options.bmc_events.bmc_events_url.is_some() {
        serve_bmc_events(&options, &keys, &host_context, leadership.clone(), &stop, &mut tasks).await?;
    }
    let lookup: Arc<dyn BootLookup> = Arc::new(HostBoots::new(host_context.clone()));
    if let (Some(dhcp), Some(image)) = (dhcp, &agent_image) {
        let (leader, lookup) = (leadership.clone(), lookup.clone());
        serve_network_boot(&options, dhcp, image, &boot_url, leader, lookup, &stop, &mut tasks).await?;
    }
    let boot_server = BootServer {
        token_key: keys.token_key().to_vec(),
        agent_url,
        ca_sha256: keys.ca_sha256(),
        artifacts: Artifacts::new(
            boot::artifact_url(&boot_url, "vmlinuz"),
            boot::artifact_url(&boot_url, "initrd.img"),
            if agent_image.is_some() { boot::KERNEL_ARGUMENTS } else { "" },
        )?,
        token_lifetime: boot::token_lifetime(options.agent_boot_timeout()),
        image: agent_image,
        lookup: Some(lookup),
        leader: leadership,
        metrics: metrics.clone(),
    };
    let (serving, serving_boot) = (stop.clone(), stop.clone());
    tasks.spawn(async move { Ok(agent_server.serve(agent_listener, serving).await?) });
    tasks.spawn(async move { Ok(boot_server.serve(boot_listener, serving_boot).await?) });
    serve_health(&options, &caches, &metrics, &stop, &mut tasks).await?;

    let lead = {
        let stop = stop.clone();
        let (client, options) = (client.clone(), options.clone());
        async move {
            let mut leader = leader;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                elected = leader.wait_for(|state| state.leader) => { elected?; }
            }
            info!("this replica leads");
            caches.ready().await?;
            let concurrency = options.max_concurrent_reconciles;
            let machines = machine::MachineContext::new(
                client.clone(),
                caches.machines.clone(),
                caches.hosts.clone(),
                caches.owners.clone(),
                caches.clusters.clone(),
                events.clone(),
                metrics.clone(),
                host_context.addresses.clone(),
            );
            let clusters = cluster::ClusterContext::new(
                client.clone(),
                caches.bare_metal_clusters.clone(),
                caches.machines.clone(),
                caches.hosts.clone(),
                caches.clusters.clone(),
                metrics.clone(),
            );
            let templates = template::TemplateContext::new(
                client.clone(),
                caches.templates.clone(),
                caches.hosts.clone(),
                caches.hardware.clone(),
                events.clone(),
                metrics.clone(),
            );
            let interval = options.autoscaling.interval();
            let autoscalers =
                autoscaler::AutoscalerContext::new(client, caches.of_autoscaler(), events, metrics, interval);
            tokio::try_join!(
                host::run(host_context, woken, concurrency, stop.clone()),
                machine::run(machines, concurrency, stop.clone()),
                cluster::run(clusters, concurrency, stop.clone()),
                template::run(templates, concurrency, stop.clone()),
                autoscaler::run(autoscalers, stop.clone()),
            )?;
            Ok(())
        }
    };
    let mut controllers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    controllers.spawn(lead);

    let outcome = tokio::select! {
        signal = signal() => { info!(signal = signal?, "ending"); Ok(()) }
        ended = first(&mut tasks) => ended,
        ended = first(&mut election) => ended,
        ended = first(&mut controllers) => ended,
    };
    stop.cancel();
    // In this order: nothing acts any more, then the lease is given up, so that the next holder is alone.
    let _ = tokio::time::timeout(GRACE, async { while controllers.join_next().await.is_some() {} }).await;
    controllers.shutdown().await;
    // BMCs have few session slots: what was logged in logs out.
    let _ = tokio::time::timeout(Duration::from_secs(5), pool.close()).await;
    release.cancel();
    let _ =
        tokio::time::timeout(Duration::from_secs(5), async { while election.join_next().await.is_some() {} })
            .await;
    tasks.shutdown().await;
    outcome
}

/// Images fetched from their sources at once.
const PARALLEL_FETCHES: usize = 4;
/// A period that does not come.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

struct Caches {
    hosts: Watched<BareMetalHost>,
    machines: Watched<BareMetalMachine>,
    bare_metal_clusters: Watched<BareMetalCluster>,
    templates: Watched<BareMetalMachineTemplate>,
    hardware: Watched<HardwareData>,
    owners: Watched<Machine>,
    clusters: Watched<Cluster>,
    deployments: Watched<MachineDeployment>,
    autoscalers: Watched<NodeGroupAutoscaler>,
    policies: Watched<ClusterAutoscalingPolicy>,
}

impl Caches {
    fn start(
        client: &Client,
        options: &Options,
        metrics: &Arc<Metrics>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> Self {
        let namespace = options.namespace.as_deref();
        let selector = options.selector();
        let selector = selector.as_deref();
        Self {
            hosts: Watched::start(client.clone(), namespace, selector, metrics, tasks),
            machines: Watched::start(client.clone(), namespace, selector, metrics, tasks),
            bare_metal_clusters: Watched::start(client.clone(), namespace, selector, metrics, tasks),
            templates: Watched::start(client.clone(), namespace, selector, metrics, tasks),
            // Read only, as Cluster API's own objects; the host that it belongs to is filtered.
            hardware: Watched::start_pruned(client.clone(), namespace, None, metrics, tasks, template::prune),
            // Cluster API's own objects are only read: the filter is about what this manager acts on.
            owners: Watched::start(client.clone(), namespace, None, metrics, tasks),
            clusters: Watched::start(client.clone(), namespace, None, metrics, tasks),
            deployments: Watched::start(client.clone(), namespace, None, metrics, tasks),
            autoscalers: Watched::start(client.clone(), namespace, selector, metrics, tasks),
            policies: Watched::start(client.clone(), namespace, selector, metrics, tasks),
        }
    }

    fn is_ready(&self) -> Result<(), String> {
        let caches = [
            ("BareMetalHosts", self.hosts.is_ready()),
            ("BareMetalMachines", self.machines.is_ready()),
            ("BareMetalClusters", self.bare_metal_clusters.is_ready()),
            ("BareMetalMachineTemplates", self.templates.is_ready()),
            ("HardwareData", self.hardware.is_ready()),
            ("Machines", self.owners.is_ready()),
            ("Clusters", self.clusters.is_ready()),
            ("MachineDeployments", self.deployments.is_ready()),
            ("NodeGroupAutoscalers", self.autoscalers.is_ready()),
            ("ClusterAutoscalingPolicies", self.policies.is_ready()),
        ];
        match caches.iter().find(|(_, ready)| !ready) {
            None => Ok(()),
            Some((kind, _)) => Err(format!("waiting for the first list of {kind}")),
        }
    }

    async fn ready(&self) -> anyhow::Result<()> {
        self.hosts.ready().await?;
        self.machines.ready().await?;
        self.bare_metal_clusters.ready().await?;
        self.templates.ready().await?;
        self.hardware.ready().await?;
        self.owners.ready().await?;
        self.clusters.ready().await?;
        self.deployments.ready().await?;
        self.autoscalers.ready().await?;
        self.policies.ready().await
    }

    fn of_autoscaler(&self) -> autoscaler::AutoscalerKinds {
        autoscaler::AutoscalerKinds {
            autoscalers: self.autoscalers.clone(),
            policies: self.policies.clone(),
            deployments: self.deployments.clone(),
            machines: self.owners.clone(),
            clusters: self.clusters.clone(),
            bare_metal_machines: self.machines.clone(),
            hosts: self.hosts.clone(),
            templates: self.templates.clone(),
        }
    }

    fn share(&self) -> Self {
        Self {
            hosts: self.hosts.clone(),
            machines: self.machines.clone(),
            bare_metal_clusters: self.bare_metal_clusters.clone(),
            templates: self.templates.clone(),
            hardware: self.hardware.clone(),
            owners: self.owners.clone(),
            clusters: self.clusters.clone(),
            deployments: self.deployments.clone(),
            autoscalers: self.autoscalers.clone(),
            policies: self.policies.clone(),
        }
    }
}

async fn client(options: &Options) -> anyhow::Result<Client> {
    let config = match &options.kubeconfig {
        None => kube::Config::infer().await.context("no kubeconfig and not in a pod: give --kubeconfig")?,
        Some(path) => {
            let kubeconfig = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await?
        }
    };
    Ok(Client::try_from(config)?)
}

/// Opens the agent image, if there is to be one. Checking it reads all of it.
async fn open_agent_image(options: &Options) -> anyhow::Result<Option<AgentImage>> {
    let Some(folder) = options.agent_image_dir.clone() else { return Ok(None) };
    let image = tokio::task::spawn_blocking(move || AgentImage::open(&folder)).await?;
    Ok(Some(image.context("--agent-image-dir")?))
}

/// DHCP and TFTP.
#[expect(clippy::too_many_arguments, reason = "the composition root hands out what it made")]
async fn serve_network_boot(
    options: &Options,
    dhcp: Dhcp,
    image: &AgentImage,
    boot_url: &Url,
    leader: watch::Receiver<Leadership>,
    lookup: Arc<dyn BootLookup>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let address = options.network_boot.tftp_bind_address;
    let tftp = UdpSocket::bind(address).await.with_context(|| format!("--tftp-bind-address {address}"))?;
    let Dhcp { interface, settings, pool } = dhcp;
    let sockets = Sockets::bind(&interface).with_context(|| {
        format!("--dhcp-interface {interface}: ports 67 and 4011, which need CAP_NET_BIND_SERVICE")
    })?;
    let files = boot::tftp_files(image).context("--agent-image-dir")?;
    match dhcp6::bind(&interface) {
        Ok(socket) => {
            let (server, stopping) =
                (Dhcp6Server { leader: leader.clone(), lookup: lookup.clone() }, stop.clone());
            tasks.spawn(async move {
                server.serve(socket, stopping).await;
                Ok(())
            });
        }
        // Where there is no IPv6 nobody asks.
        Err(error) => {
            warn!(%error, interface, "network boots over IPv6 are not sent on to the disk: UDP port 547")
        }
    }
    let server = DhcpServer { settings, boot_url: boot_url.clone(), pool, leader, lookup };
    let (serving, stopping) = (stop.clone(), stop.clone());
    tasks.spawn(async move { Ok(server.serve(sockets, serving).await?) });
    tasks.spawn(async move { Ok(boot::tftp::serve(tftp, files, stopping).await?) });
    Ok(())
}

/// The receiver of what BMCs send.
async fn serve_bmc_events(
    options: &Options,
    keys: &ProviderKeys,
    hosts: &Arc<HostContext>,
    leader: watch::Receiver<Leadership>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let address = options.bmc_events.bmc_events_bind_address;
    let listener = bind("--bmc-events-bind-address", address).await?;
    let hosts = hosts.clone();
    let wake = Box::new(move |host: &crate::key::Key| hosts.bmc_event(host));
    let receiver = bmc_events::Receiver { token_key: keys.token_key().to_vec(), wake, leader };
    let stop = stop.clone();
    tasks.spawn(async move {
        receiver.serve(listener, stop).await;
        Ok(())
    });
    Ok(())
}

async fn bind(flag: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

async fn serve_health(
    options: &Options,
    caches: &Caches,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    if let Some(address) = options.health_bind_address.address() {
        let listener = bind("--health-bind-address", address).await?;
        let caches = caches.share();
        tasks.spawn(health::serve_health(listener, Arc::new(move || caches.is_ready()), stop.clone()));
    }
    if let Some(address) = options.metrics_bind_address.address() {
        let listener = bind("--metrics-bind-address", address).await?;
        tasks.spawn(health::serve_metrics(listener, metrics.clone(), stop.clone()));
    }
    Ok(())
}

/// The lease, as far as agents and firmware are concerned.
fn leadership(
    mut leader: watch::Receiver<LeaderState>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> watch::Receiver<Leadership> {
    let seen = |state: &LeaderState| match state.leader {
        true => Leadership::Leader,
        false => Leadership::Standby {
            holder: state.holder_address.clone().or_else(|| state.holder_identity.clone()),
        },
    };
    let (sender, receiver) = watch::channel(seen(&leader.borrow()));
    tasks.spawn(async move {
        while leader.changed().await.is_ok() {
            let now = seen(&leader.borrow_and_update());
            sender.send_if_modified(|old| {
                let changed = *old != now;
                *old = now;
                changed
            });
        }
        // Who leads is told until the end of the process.
        std::future::pending().await
    });
    receiver
}

/// The first task of a set that ends.
async fn first(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    match tasks.join_next().await {
        None => std::future::pending().await,
        Some(ended) => ended.context("a task of the manager died")?,
    }
}

async fn signal() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

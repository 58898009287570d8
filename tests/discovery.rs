//! What becomes of machines that boot from the network and that nobody told to: discovered, or sent to their disks and
//! counted. The host controller and the agent server run in this process, with the rights of the manager, against a real API
//! server; the machines are the real agent.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ferric::boot::choice::Offers;
use ferric::boot::{BootLookup, KnownHost, Told};
use ferric::controllers::host::{
    self, BootSettings, BootSlots, Discovery, HostBoots, HostContext, HostParts, HostRegistrar,
};
use ferric::deploy::images::NoPullSecrets;
use ferric::deploy::{self, AgentServer, Hub, ImageCache, Leadership, ProviderKeys};
use ferric::host::Limits;
use ferric::key::Key;
use ferric::lease::LeaderState;
use ferric::telemetry::metrics::ResultLabel;
use ferric::telemetry::{Events, Metrics};
use ferric::{discovery, watch::Watched};
use ferric_agent::{AgentError, AgentOptions, Exit, Platform};
use ferric_api::hardware::HardwareData;
use ferric_api::host::ProvisioningState as State;
use ferric_api::{BareMetalHost, MacAddress, condition};
use ferric_image::BlockDevice;
use ferric_protocol::{
    BootData,
    v1::{self, Inventory},
};
use ferric_testbed::{Bed, wait_until};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

const LIMIT: Duration = Duration::from_secs(120);
const NAMESPACE: &str = "racks";

/// A machine that nobody enrolled, with cards of these numbers.
struct Stranger {
    uuid: &'static str,
    serial: &'static str,
    cards: Vec<u8>,
}

fn mac(card: u8) -> MacAddress {
    [0x52, 0x54, 0, 0x77, 0, card].into()
}

impl Platform for Stranger {
    fn inventory(&self) -> io::Result<Inventory> {
        let nic = |card: &u8| v1::Nic { mac: mac(*card).to_string(), ..v1::Nic::default() };
        Ok(Inventory {
            system_uuid: self.uuid.into(),
            serial_number: self.serial.into(),
            manufacturer: "Acme".into(),
            nics: self.cards.iter().map(nic).collect(),
            memory_bytes: 8 << 30,
            ..Inventory::default()
        })
    }

    fn open_disk(&self, name: &str) -> io::Result<Box<dyn BlockDevice>> {
        panic!("a machine that nobody enrolled was told to open {name}")
    }
}

/// A manager in this process, as far as hosts, agents and boots are concerned.
struct Manager {
    bed: Bed,
    lookup: HostBoots,
    metrics: Arc<Metrics>,
    keys: Arc<ProviderKeys>,
    address: SocketAddr,
    stop: CancellationToken,
    _tasks: JoinSet<anyhow::Result<()>>,
    _senders: (watch::Sender<LeaderState>, watch::Sender<Leadership>),
    _images: tempfile::TempDir,
}

async fn bed() -> (Bed, Client) {
    let bed = Bed::builder().start().await.unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let read = |path: String| std::fs::read_to_string(path).unwrap();
    let mut manifests = vec![read(format!("{root}crates/testbed/manifests/cluster-api-kinds.yaml"))];
    for entry in std::fs::read_dir(format!("{root}crds")).unwrap() {
        manifests.push(read(entry.unwrap().path().display().to_string()));
    }
    for name in ["namespace", "rbac"] {
        manifests.push(read(format!("{root}clusterctl/infrastructure-components/{name}.yaml")));
    }
    manifests.push(format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"));
    bed.apply(&manifests.join("\n---\n")).await.unwrap();
    bed.kubectl(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await.unwrap();
    let kubeconfig = bed.service_account_kubeconfig("ferric-system", "ferric-manager").await.unwrap();
    let config = ferric_testbed::kubeconfig::client_config(&kubeconfig).await.unwrap();
    (bed, Client::try_from(config).unwrap())
}

impl Manager {
    async fn start() -> Self {
        let (bed, client) = bed().await;
        let mut tasks = JoinSet::new();
        let metrics = Arc::new(Metrics::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let agent_url: Url = format!("https://{address}").parse().unwrap();
        let keys = Arc::new(ProviderKeys::generate().unwrap());
        let (wake, woken) = mpsc::unbounded_channel();
        let folder = tempfile::tempdir().unwrap();
        let images =
            ImageCache::open(folder.path(), 1 << 30, 1, wake.clone(), Arc::new(NoPullSecrets)).unwrap();
        let hub = Hub::new(wake.clone());
        let (lease, leader) = watch::channel(LeaderState::alone("test", agent_url.as_str()));
        let (leadership, leading) = watch::channel(Leadership::Leader);
        let context = HostContext::new(HostParts {
            client: client.clone(),
            hosts: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            machines: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            owners: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            clusters: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            hub: hub.clone(),
            images: images.clone(),
            pool: Arc::new(ferric_bmc::BmcPool::new(ferric_bmc::Limits::default())),
            boot: BootSettings {
                boot_url: "http://127.0.0.1:6180".parse().unwrap(),
                agent_url: agent_url.clone(),
                keys: keys.clone(),
                slots: BootSlots::new(4, wake.clone()),
                offers: Offers { network: true, ..Offers::default() },
            },
            discovery: Some(Discovery::new(
                NAMESPACE,
                BTreeMap::from([("found-by".to_owned(), "test".to_owned())]),
                discovery::Limits::new(Duration::from_secs(3600)),
            )),
            bmc_events: None,
            limits: Limits::default(),
            events: Events::start(client, "test", metrics.clone(), &mut tasks),
            metrics: metrics.clone(),
            wake,
            leader,
        });
        let server = AgentServer {
            hub,
            registrar: Arc::new(HostRegistrar::new(context.clone())),
            images,
            tls: keys.serving(&agent_url, None),
            token_key: keys.token_key().to_vec(),
            leader: leading,
            limits: deploy::Limits::default(),
            metrics: metrics.clone(),
        };
        let stop = CancellationToken::new();
        let (serving, running) = (stop.clone(), stop.clone());
        tasks.spawn(async move { Ok(server.serve(listener, serving).await?) });
        let lookup = HostBoots::new(context.clone());
        context.hosts.ready().await.unwrap();
        tasks.spawn(host::run(context, woken, 2, running));
        let (senders, _images) = ((lease, leadership), folder);
        Self { bed, lookup, metrics, keys, address, stop, _tasks: tasks, _senders: senders, _images }
    }

    fn hosts(&self) -> Api<BareMetalHost> {
        Api::namespaced(self.bed.client(), NAMESPACE)
    }

    async fn names(&self) -> Vec<String> {
        let hosts = self.hosts().list(&ListParams::default()).await.unwrap();
        hosts.items.iter().map(ResourceExt::name_any).collect()
    }

    async fn until(&self, name: &str, what: &str, wanted: impl Fn(&BareMetalHost) -> bool) -> BareMetalHost {
        let hosts = self.hosts();
        let what = format!("{name}: {what}");
        let waiting = wait_until(&what, LIMIT, async || {
            let host = hosts.get(name).await.map_err(|error| error.to_string())?;
            if wanted(&host) { Ok(host) } else { Err(format!("{:?}", host.status)) }
        });
        waiting.await.unwrap()
    }

    /// The token of a machine whose firmware asks for a boot through this card.
    fn offered(&self, card: u8) -> Option<String> {
        assert_eq!(self.lookup.boot_for(mac(card)), None, "a host has the card");
        self.lookup.discover(mac(card), true)
    }

    /// Boots the agent on a machine.
    async fn boot(&self, token: &str, machine: Stranger) -> Result<Exit, AgentError> {
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
        let url = format!("https://{}", self.address);
        let boot = BootData::new(&url, &self.keys.ca_sha256(), token, now).unwrap();
        let run =
            ferric_agent::run(boot, Arc::new(machine), AgentOptions::default(), CancellationToken::new());
        tokio::time::timeout(LIMIT, run).await.expect("the agent goes on")
    }

    fn counted(&self, result: &'static str) -> u64 {
        self.metrics.discoveries.get_or_create(&ResultLabel { result }).get()
    }

    async fn event(&self, reason: &str) -> Event {
        let events: Api<Event> = Api::namespaced(self.bed.client(), NAMESPACE);
        let what = format!("an event {reason}");
        let waiting = wait_until(&what, LIMIT, async || {
            let events = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let found = events.items.into_iter().find(|event| event.reason.as_deref() == Some(reason));
            found.ok_or_else(|| "none yet".to_owned())
        });
        waiting.await.unwrap()
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<BareMetalHost, kube::Error> {
        self.hosts().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await
    }

    async fn stop(self) {
        self.stop.cancel();
        drop(self._tasks);
        self.bed.stop().await;
    }
}

fn reason(host: &BareMetalHost, kind: &str) -> String {
    let conditions = host.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, kind).map(|found| found.reason.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_nobody_enrolled_becomes_a_host_that_waits_for_approval() {
    let manager = Manager::start().await;
    let one = |cards: &[u8]| Stranger {
        uuid: "4c4c4544-0042-3510-8051-b4c04f4a3132",
        serial: "S-1",
        cards: cards.to_vec(),
    };
    let name = "discovered-525400770001";

    assert_eq!(manager.lookup.discover(mac(1), false), None, "an address is no boot");
    let token = manager.offered(1).unwrap();
    assert_eq!(manager.lookup.discover(mac(1), false), manager.lookup.discover(mac(1), true));
    assert_eq!(manager.names().await, [""; 0], "nothing is made before it tells what it is");
    assert_eq!(manager.boot(&token, one(&[1, 2])).await.unwrap(), Exit::PowerOff);

    let host = manager.until(name, "waiting for approval", |host| {
        reason(host, "Registered") == "WaitingForApproval" && reason(host, "Ready") == "WaitingForApproval"
    });
    let host = host.await;
    let status = host.status.as_ref().unwrap();
    assert_eq!(status.provisioning.state, State::Unmanaged);
    assert!(status.waiting_for.as_ref().unwrap().message.contains("spec.approval"), "{status:?}");
    assert!(host.spec.waits_for_approval() && !host.spec.online && host.spec.record.is_none());
    assert_eq!(host.labels()["found-by"], "test");
    manager.event("Discovered").await;
    let data: Api<HardwareData> = Api::namespaced(manager.bed.client(), NAMESPACE);
    let data = data.get(name).await.unwrap();
    assert_eq!(data.metadata.owner_references.as_ref().unwrap()[0].uid, host.uid().unwrap());
    let hardware = data.spec.hardware.unwrap();
    assert_eq!((hardware.ram_mebibytes, hardware.nics.len()), (8192, 2));

    // It boots from the network again: it is known, and not told to.
    let known = wait_until("the host to be in the cache", LIMIT, async || {
        manager.lookup.boot_for(mac(1)).ok_or("not yet".to_owned())
    });
    assert_eq!((known.await.unwrap().told, manager.lookup.discover(mac(9), false)), (Told::Nothing, None));
    // Whoever has seen the token cannot use it, and is not told more.
    assert_eq!(manager.boot(&token, one(&[1, 2])).await.unwrap(), Exit::Reboot);
    // The same machine, by its other card, and by one that it has got since.
    assert_eq!(manager.offered(2), None, "it is a card of the host");
    let key = Key::new(NAMESPACE, name);
    assert_eq!(manager.lookup.card_of(mac(2)), Some(KnownHost { host: key, told: Told::Nothing }));
    let other = manager.offered(5).unwrap();
    assert_eq!(manager.boot(&other, one(&[1, 2, 5])).await.unwrap(), Exit::Reboot);
    assert_eq!(manager.offered(5), None, "it is not asked again while the host exists");
    // Who asks is not who reports.
    let third = manager.offered(3).unwrap();
    assert_eq!(
        manager.boot(&third, Stranger { uuid: "", serial: "", cards: vec![4] }).await.unwrap(),
        Exit::Reboot
    );
    assert_eq!(manager.names().await, [name]);

    // Nothing claims it: the API server sees to that, too.
    let consumer = json!({ "spec": { "consumerRef": { "kind": "BareMetalMachine", "name": "m" } } });
    let refused = manager.patch(name, consumer).await.unwrap_err().to_string();
    assert!(refused.contains("waits for approval"), "{refused}");
    // Until an operator approves it; then its BMC is asked like any other.
    let approved = json!({ "spec": {
        "approval": "Approved",
        "bmc": { "address": "redfish://127.0.0.1:9/redfish/v1/Systems/1", "credentialsName": "bmc" },
    } });
    manager.patch(name, approved).await.unwrap();
    manager
        .until(name, "being registered", |host| {
            host.status.as_ref().is_some_and(|status| {
                status.provisioning.state == State::Registering && status.error_message.is_some()
            })
        })
        .await;
    let back = manager.patch(name, json!({ "spec": { "approval": "Pending" } })).await;
    let back = back.unwrap_err().to_string();
    assert!(back.contains("does not go back"), "{back}");

    // One that is deleted is discovered again, at its next boot.
    manager.hosts().delete(name, &DeleteParams::default()).await.unwrap();
    let again = wait_until("the deleted host to be forgotten", LIMIT, async || {
        match manager.lookup.boot_for(mac(1)) {
            None => manager.lookup.discover(mac(1), true).ok_or("nothing is offered".to_owned()),
            Some(known) => Err(format!("{known:?}")),
        }
    });
    let again = again.await.unwrap();
    assert_eq!(manager.names().await, [""; 0], "not before");
    assert_ne!(again, token);
    assert_eq!(manager.boot(&again, one(&[1, 2])).await.unwrap(), Exit::PowerOff);
    assert_eq!(manager.names().await, [name]);
    assert_eq!((manager.counted("discovered"), manager.counted("refused")), (2, 3));
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_boots_that_nobody_asked_for_are_counted_in_the_status() {
    let manager = Manager::start().await;
    let host = json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "BareMetalHost", "metadata": { "name": "r1-h1" },
        "spec": { "bootMACAddress": mac(1).to_string(), "online": false },
    });
    let host: BareMetalHost = serde_json::from_value(host).unwrap();
    manager.hosts().create(&PostParams::default(), &host).await.unwrap();
    manager.until("r1-h1", "looked at", |host| host.status.is_some()).await;
    let key = Key::new(NAMESPACE, "r1-h1");
    // Inspected before this manager was there. Its other card is found out when it asks, and is no stranger's until then.
    let nics =
        json!([{ "name": "eth0", "mac": mac(1).to_string() }, { "name": "eth1", "mac": mac(2).to_string() }]);
    let data = json!({
        "apiVersion": ferric_api::API_VERSION, "kind": "HardwareData", "metadata": { "name": "r1-h1" },
        "spec": { "hardware": { "nics": nics } },
    });
    let data: HardwareData = serde_json::from_value(data).unwrap();
    let hardware: Api<HardwareData> = Api::namespaced(manager.bed.client(), NAMESPACE);
    hardware.create(&PostParams::default(), &data).await.unwrap();
    assert_eq!(manager.lookup.discover(mac(2), true), None);
    let known = wait_until("the host of the other card to be found", LIMIT, async || {
        manager.lookup.card_of(mac(2)).ok_or("not yet".to_owned())
    });
    assert_eq!(known.await.unwrap(), KnownHost { host: key.clone(), told: Told::Nothing });
    assert_eq!(manager.lookup.discover(mac(2), true), None, "nor afterwards");
    assert_eq!(manager.lookup.card_of(mac(3)), None);
    // The messages of one boot.
    (0..50).for_each(|_| manager.lookup.uninvited(&key));
    let host = manager
        .until("r1-h1", "told of", |host| {
            host.status.as_ref().is_some_and(|status| status.uninvited_boots.is_some())
        })
        .await;
    assert_eq!(host.status.unwrap().uninvited_boots.unwrap().count, 1);
    let event = manager.event("UninvitedNetworkBoot").await;
    assert!(event.note.unwrap().contains("boot order"));
    manager.stop().await;
}

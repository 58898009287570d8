//! Subscriptions over hours, on a paused clock: a host whose power is polled, and a BMC that loses what it was told.
#![allow(clippy::unwrap_used)]
use std::convert::Infallible;
use std::sync::Mutex;

use async_trait::async_trait;
use ferric_api::host::{BareMetalHostSpec, BmcDetails};
use ferric_api::{BareMetalHost, HardwareDetails};
use ferric_bmc::{BmcError, BmcPool, BootTarget, PowerAction, PowerState, SystemFacts};
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::{BootSettings, BootSlots, HostParts, jobs};
use super::*;
use crate::boot::choice::Offers;
use crate::deploy::images::NoPullSecrets;
use crate::deploy::{Hub, ImageCache, ProviderKeys};
use crate::host::Limits;
use crate::lease::LeaderState;
use crate::telemetry::{Events, Metrics};
use crate::watch::Watched;

/// An API server with one host, where nothing ever happens.
fn api(host: &BareMetalHost) -> Client {
    let host = serde_json::to_value(host).unwrap();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let watching = query.contains("watch=");
        let items = if path.ends_with("/baremetalhosts") { vec![host.clone()] } else { Vec::new() };
        async move {
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
            let body = if watching {
                axum::body::Body::from_stream(futures::stream::pending::<Result<Vec<u8>, Infallible>>())
            } else {
                axum::body::Body::from(list.to_string())
            };
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    Client::new(service, "racks")
}

/// A BMC that answers, and what became of each look at its subscription.
#[derive(Default)]
struct Forgetful {
    subscription: Mutex<Option<EventSink>>,
    /// Refuses to be subscribed to.
    away: Mutex<bool>,
    looks: Mutex<Vec<(Duration, &'static str)>>,
    begin: Mutex<Option<Instant>>,
}

#[async_trait]
impl Bmc for Forgetful {
    async fn probe(&self) -> Result<SystemFacts, BmcError> {
        unreachable!()
    }
    async fn power(&self) -> Result<PowerState, BmcError> {
        Ok(PowerState::On)
    }
    async fn set_power(&self, _: PowerAction) -> Result<(), BmcError> {
        Ok(())
    }
    async fn set_boot(&self, _: &BootTarget) -> Result<(), BmcError> {
        unreachable!()
    }
    async fn inspect(&self) -> Result<HardwareDetails, BmcError> {
        unreachable!()
    }
    async fn subscribe(&self, sink: &EventSink) -> Result<Subscribed, BmcError> {
        let begin = *self.begin.lock().unwrap().get_or_insert_with(Instant::now);
        let (outcome, word) = if *self.away.lock().unwrap() {
            (Err(away()), "refused")
        } else if self.subscription.lock().unwrap().replace(sink.clone()).as_ref() == Some(sink) {
            (Ok(Subscribed::Kept), "kept")
        } else {
            (Ok(Subscribed::Made), "made")
        };
        self.looks.lock().unwrap().push((begin.elapsed(), word));
        outcome
    }
}

fn away() -> BmcError {
    BmcError::Unreachable { address: "https://192.0.2.1".to_owned(), message: "no route".to_owned() }
}

/// A manager as far as BMC jobs are concerned, and the BMC of its one host.
struct World {
    context: Arc<HostContext>,
    host: Arc<BareMetalHost>,
    key: Key,
    bmc: Arc<Forgetful>,
    /// As often as the planner has the power read.
    poll: Duration,
    _tasks: JoinSet<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(paused: bool) -> Self {
        let mut host = BareMetalHost::new("r1", BareMetalHostSpec::default());
        host.metadata.namespace = Some("racks".to_owned());
        host.metadata.resource_version = Some("1".to_owned());
        host.spec.bmc =
            Some(BmcDetails { address: "redfish://192.0.2.1".to_owned(), ..BmcDetails::default() });
        if paused {
            let name = ferric_api::names::PAUSED_ANNOTATION.to_owned();
            host.metadata.annotations = Some([(name, String::new())].into());
        }
        let (client, mut tasks, metrics) = (api(&host), JoinSet::new(), Arc::new(Metrics::new()));
        let (wake, folder) = (mpsc::unbounded_channel().0, tempfile::tempdir().unwrap());
        let limits = Limits::default();
        let parts = HostParts {
            client: client.clone(),
            hosts: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            machines: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            owners: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            clusters: Watched::start(client.clone(), None, None, &metrics, &mut tasks),
            hub: Hub::new(wake.clone()),
            images: ImageCache::open(folder.path(), 1 << 20, 1, wake.clone(), Arc::new(NoPullSecrets))
                .unwrap(),
            pool: Arc::new(BmcPool::new(ferric_bmc::Limits::default())),
            boot: BootSettings {
                boot_url: "http://192.0.2.9:6180".parse().unwrap(),
                agent_url: "https://192.0.2.9:6183".parse().unwrap(),
                keys: Arc::new(ProviderKeys::generate().unwrap()),
                slots: BootSlots::new(1, wake.clone()),
                offers: Offers::default(),
            },
            discovery: None,
            bmc_events: Some("http://192.0.2.9:6184/events".parse().unwrap()),
            limits,
            events: Events::start(client, "test", metrics.clone(), &mut tasks),
            metrics,
            wake,
            leader: watch::channel(LeaderState::alone("test", "https://192.0.2.9:6183")).1,
        };
        let context = HostContext::new(parts);
        context.hosts.ready().await.unwrap();
        let key = Key::new("racks", "r1");
        let bmc = Arc::new(Forgetful::default());
        context.with(&key, |r| r.connection = Some(bmc.clone()));
        let poll = limits.power_poll;
        Self { context, host: Arc::new(host), key, bmc, poll, _tasks: tasks, _folder: folder }
    }

    /// Reads the power as often as the planner would, for so many polls.
    async fn poll(&self, times: u32) {
        for _ in 0..times {
            jobs::start(&self.host, &self.key, &self.context, &Job::ReadPower).await.unwrap();
            tokio::time::sleep(self.poll).await;
            let outcome = self.context.with(&self.key, |r| (r.bmc.power_state(), r.bmc.failure.is_none()));
            assert_eq!(outcome, (Some(PowerState::On), true));
        }
    }

    /// Seconds since the first look, and what became of each.
    fn looks(&self) -> Vec<(u64, &'static str)> {
        let looks = std::mem::take(&mut *self.bmc.looks.lock().unwrap());
        looks.into_iter().map(|(at, word)| (at.as_secs(), word)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_looked_at_again_and_made_anew_where_the_bmc_forgot_it() {
    let world = World::new(false).await;
    assert_eq!((world.poll.as_secs(), PERIOD.as_secs()), (300, 900), "what is expected below");
    // 55 minutes: with each third poll.
    world.poll(11).await;
    assert_eq!(world.looks(), [(0, "made"), (900, "kept"), (1800, "kept"), (2700, "kept")]);
    let sink = world.bmc.subscription.lock().unwrap().take().unwrap();
    assert_eq!(sink.destination, "http://192.0.2.9:6184/events");
    // Forgotten by a reset of the BMC: until the next look polling alone sees changes.
    world.poll(2).await;
    assert_eq!(world.looks(), [(3600, "made")]);
    assert_eq!(*world.bmc.subscription.lock().unwrap(), Some(sink), "under the same name as before");
    // A look that fails is not repeated at each poll, and is no failure of the host.
    *world.bmc.away.lock().unwrap() = true;
    *world.bmc.subscription.lock().unwrap() = None;
    world.poll(3).await;
    assert_eq!(world.looks(), [(4500, "refused")]);
    *world.bmc.away.lock().unwrap() = false;
    world.poll(3).await;
    assert_eq!(world.looks(), [(5400, "made")]);
}

#[tokio::test(start_paused = true)]
async fn only_reads_are_followed_by_a_look_and_no_bmc_of_a_paused_host_is_written_to() {
    let world = World::new(false).await;
    jobs::start(&world.host, &world.key, &world.context, &Job::Power(PowerAction::On)).await.unwrap();
    tokio::time::sleep(world.poll).await;
    assert_eq!(world.looks(), []);
    let paused = World::new(true).await;
    paused.poll(4).await;
    assert_eq!(paused.looks(), []);
}

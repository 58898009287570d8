//! Leader election against a real API server, with exactly the rights that the components grant.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric::lease::{self, ElectionConfig, HOLDER_ADDRESS_ANNOTATION, LEASE_NAME, LeaderState, Timing};
use ferric::telemetry::Metrics;
use ferric_testbed::Bed;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "ferric-system";
/// Much longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// For tests in which nobody may win by waiting.
const PATIENT: Timing = Timing {
    lease_duration: Duration::from_secs(600),
    renew_deadline: Duration::from_secs(300),
    retry_period: Duration::from_millis(200),
};
const BRISK: Timing = Timing {
    lease_duration: Duration::from_secs(5),
    renew_deadline: Duration::from_secs(4),
    retry_period: Duration::from_millis(200),
};

/// A bed with the manager's ServiceAccount and rights, and a client of that account.
async fn bed() -> (Bed, Client) {
    let bed = Bed::builder().start().await.unwrap();
    bed.apply(include_str!("../clusterctl/infrastructure-components/namespace.yaml")).await.unwrap();
    bed.apply(include_str!("../clusterctl/infrastructure-components/rbac.yaml")).await.unwrap();
    let kubeconfig = bed.service_account_kubeconfig(NAMESPACE, "ferric-manager").await.unwrap();
    let config = ferric_testbed::kubeconfig::client_config(&kubeconfig).await.unwrap();
    (bed, Client::try_from(config).unwrap())
}

struct Replica {
    state: watch::Receiver<LeaderState>,
    release: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    metrics: Arc<Metrics>,
}

impl Replica {
    fn start(client: &Client, name: &str, timing: Timing) -> Self {
        let config = ElectionConfig {
            namespace: NAMESPACE.to_owned(),
            name: LEASE_NAME.to_owned(),
            identity: name.to_owned(),
            address: format!("https://{name}:6183"),
            timing,
        };
        let (release, mut tasks, metrics) =
            (CancellationToken::new(), JoinSet::new(), Arc::new(Metrics::new()));
        let state = lease::start(client.clone(), config, metrics.clone(), release.clone(), &mut tasks);
        Self { state, release, tasks, metrics }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&LeaderState) -> bool) -> LeaderState {
        tokio::time::timeout(LIMIT, self.state.wait_for(condition))
            .await
            .unwrap_or_else(|_| panic!("not within {} s: {what}", LIMIT.as_secs()))
            .unwrap()
            .clone()
    }

    async fn leads(&mut self) {
        self.until("this replica leads", |state| state.leader).await;
        assert!(self.state.borrow().may_act());
        assert_eq!(self.metrics.leader.get(), 1);
    }

    /// Waits until this replica stands by and knows the holder and where it serves.
    async fn stands_by(&mut self, holder: &str) {
        let state =
            self.until("the holder is known", |state| state.holder_identity.as_deref() == Some(holder)).await;
        assert!(!state.leader && !state.may_act());
        assert_eq!(state.holder_address, Some(format!("https://{holder}:6183")));
    }

    async fn ends(&mut self) -> anyhow::Result<()> {
        tokio::time::timeout(LIMIT, self.tasks.join_next()).await.unwrap().unwrap().unwrap()
    }
}

async fn stored(bed: &Bed) -> Lease {
    Api::<Lease>::namespaced(bed.client(), NAMESPACE).get(LEASE_NAME).await.unwrap()
}

#[tokio::test]
async fn one_of_two_leads_and_hands_over_when_it_ends_well() {
    let (bed, client) = bed().await;
    let mut first = Replica::start(&client, "first", PATIENT);
    first.leads().await;
    let mut second = Replica::start(&client, "second", PATIENT);
    second.stands_by("first").await;
    let lease = stored(&bed).await;
    assert_eq!(lease.metadata.annotations.unwrap()[HOLDER_ADDRESS_ANNOTATION], "https://first:6183");
    assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(600));

    // The lease would last ten minutes; a release is followed at once.
    first.release.cancel();
    first.ends().await.unwrap();
    assert!(!first.state.borrow().may_act());
    assert_eq!(first.metrics.leader.get(), 0);
    second.leads().await;
    let spec = stored(&bed).await.spec.unwrap();
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("second"), Some(1)));
    bed.stop().await;
}

#[tokio::test]
async fn a_killed_leader_is_followed_after_the_lease_duration() {
    let (bed, client) = bed().await;
    let mut first = Replica::start(&client, "first", BRISK);
    first.leads().await;
    let mut second = Replica::start(&client, "second", BRISK);
    second.stands_by("first").await;
    let killed = Instant::now();
    first.tasks.abort_all();
    second.leads().await;
    // The dead leader may have renewed up to its renew deadline before it died, not earlier.
    let waited = killed.elapsed();
    assert!(waited >= BRISK.lease_duration - BRISK.renew_deadline, "took over after {waited:?}");
    bed.stop().await;
}

#[tokio::test]
async fn a_leader_that_loses_the_lease_ends_with_an_error() {
    let (bed, client) = bed().await;
    let mut first = Replica::start(&client, "first", PATIENT);
    first.leads().await;
    let taken = Patch::Merge(json!({"spec": {"holderIdentity": "somebody"}}));
    let api: Api<Lease> = Api::namespaced(bed.client(), NAMESPACE);
    api.patch(LEASE_NAME, &PatchParams::default(), &taken).await.unwrap();
    let error = first.ends().await.unwrap_err();
    assert_eq!(error.to_string(), "leadership lost: the lease is held by somebody");
    assert!(!first.state.borrow().may_act());
    bed.stop().await;
}

#[tokio::test]
async fn an_edit_by_others_does_not_cost_the_lead() {
    let (bed, client) = bed().await;
    let mut first = Replica::start(&client, "first", PATIENT);
    first.leads().await;
    let api: Api<Lease> = Api::namespaced(bed.client(), NAMESPACE);
    let renewed = async |api: &Api<Lease>| api.get(LEASE_NAME).await.unwrap().spec.unwrap().renew_time;
    let labelled = Patch::Merge(json!({"metadata": {"labels": {"seen": "yes"}}}));
    api.patch(LEASE_NAME, &PatchParams::default(), &labelled).await.unwrap();
    let before = renewed(&api).await;
    ferric_testbed::wait_until("the lease is renewed after the edit", LIMIT, async || {
        if renewed(&api).await == before { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    assert!(first.tasks.try_join_next().is_none());
    assert!(first.state.borrow().may_act());
    bed.stop().await;
}

#[tokio::test]
async fn a_lead_without_an_api_server_ends_at_the_renew_deadline() {
    let (bed, client) = bed().await;
    let mut first = Replica::start(&client, "first", BRISK);
    first.leads().await;
    bed.stop().await;
    let error = first.ends().await.unwrap_err();
    assert_eq!(error.to_string(), "leadership lost: the lease could not be renewed for 4 s");
    assert!(!first.state.borrow().may_act());
}

//! The plan for a machine, step by step and case by case.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use ferric_api::condition::{self, types};
use ferric_api::host::{ImageRecord, WaitingFor};
use ferric_api::machine::{BareMetalMachineStatus, HostRef};
use ferric_api::{BareMetalHost, BareMetalMachine, ProvisioningState, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::*;
use crate::capi::{Cluster, Machine};
use crate::claim::bound;
use crate::claim::cluster::Owner;
use crate::claim::fixtures::{Hosts, cluster, free_host, host, machine, merged, owner};
use crate::key::Key;

/// Everything that an observation borrows.
struct Scene {
    object: BareMetalMachine,
    owner: Option<Machine>,
    cluster: Option<Cluster>,
    host: Option<BareMetalHost>,
    held_by: Option<Key>,
}

impl Scene {
    /// Everything is there for a machine to choose a host.
    fn ready() -> Self {
        Self {
            object: machine("m"),
            owner: Some(owner("m")),
            cluster: Some(cluster()),
            host: None,
            held_by: None,
        }
    }

    /// The intent is written, the host is free.
    fn intended() -> Self {
        let mut scene = Self::ready();
        let patch = bound::intent_patch(&scene.object, &Key::new("ns", "h"), "c1");
        scene.object = merged(&scene.object, &patch);
        scene.host = Some(host("h", &[(names::FAILURE_DOMAIN_LABEL, "rack-1")]));
        scene
    }

    /// The claim holds.
    fn bound() -> Self {
        let mut scene = Self::intended();
        let host = scene.host.unwrap();
        let mut host = merged(&host, &bound::claim_patch(&scene.object, &host, "prod").unwrap());
        host.status.as_mut().unwrap().provisioning.state = ProvisioningState::Provisioning;
        scene.host = Some(host);
        scene
    }

    /// The host was started from the written image.
    fn deployed() -> Self {
        let mut scene = Self::bound();
        scene.record().image = Some(ImageRecord {
            write_started_at: Some(Hosts::now()),
            write_finished_at: Some(Hosts::now()),
            booted_at: Some(Hosts::now()),
            ..Default::default()
        });
        scene
    }

    fn provisioned() -> Self {
        let mut scene = Self::deployed();
        scene.object.spec.provider_id = Some("ferric://h/c1".into());
        scene
    }

    fn deleting(mut self) -> Self {
        self.object.metadata.deletion_timestamp = Some(Hosts::now());
        self
    }

    fn annotated(mut self, key: &str) -> Self {
        self.object.annotations_mut().insert(key.into(), String::new());
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn host(&mut self) -> &mut BareMetalHost {
        self.host.as_mut().unwrap()
    }

    fn record(&mut self) -> &mut ferric_api::HostRecord {
        self.host().spec.record.get_or_insert_default()
    }

    fn observed<T>(&self, f: impl FnOnce(&MachineObservation<'_>) -> T) -> T {
        f(&MachineObservation {
            object: &self.object,
            owner: self.owner.as_ref().map_or(Owner::Missing("m"), Owner::Found),
            cluster: self.cluster.as_ref().map_or(Owner::Missing("prod"), Owner::Found),
            host: match (&self.object.spec.host_ref, &self.host) {
                (None, _) => HostView::Unnamed,
                (Some(_), None) => HostView::Gone,
                (Some(_), Some(host)) => HostView::There(host),
            },
            held_by: self.held_by.as_ref(),
            internal_ips: None,
        })
    }

    fn plan(&self) -> MachinePlan {
        self.observed(plan)
    }

    fn status(&self) -> BareMetalMachineStatus {
        apply(&self.plan(), self.object.status.as_ref(), Some(1), &Hosts::now())
    }

    /// The status is written, as the shell would.
    fn reported(mut self) -> Self {
        self.object.status = Some(self.status());
        self
    }
}

fn reason(status: &BareMetalMachineStatus, kind: &str) -> String {
    condition::get(&status.conditions, kind).map(|c| c.reason.clone()).unwrap_or_default()
}

fn message(status: &BareMetalMachineStatus, kind: &str) -> String {
    condition::get(&status.conditions, kind).map(|c| c.message.clone()).unwrap_or_default()
}

#[rstest::rstest]
#[case(Scene::ready().with(|s| s.owner = None), "WaitingForOwner")]
#[case(Scene::ready().with(|s| s.cluster = None), "WaitingForCluster")]
#[case(Scene::ready().with(|s| s.cluster.as_mut().unwrap().status = None), "WaitingForClusterInfrastructure")]
#[case(
    Scene::ready().with(|s| s.owner.as_mut().unwrap().spec.bootstrap.data_secret_name = None),
    "WaitingForBootstrapData"
)]
#[case(Scene::ready().with(|s| s.object.spec.image = None), "ImageMissing")]
#[case(
    Scene::ready().with(|s| s.owner.as_mut().unwrap().metadata.deletion_timestamp = Some(Hosts::now())),
    "MachineDeleting"
)]
#[case(
    Scene::ready().with(|s| s.object.spec.host_selector = serde_json::from_str(
        r#"{"matchExpressions": [{"key": "class", "operator": "Like", "values": ["x"]}]}"#).unwrap()),
    "InvalidHostSelector"
)]
#[case(Scene::ready().with(|s| s.held_by = Some(Key::new("ns", "old"))), "WaitingForRelease")]
fn what_is_missing_is_waited_for_by_name(#[case] scene: Scene, #[case] expected: &str) {
    assert_eq!(scene.plan().step, MachineStep::Report);
    let status = scene.status();
    for kind in [types::HOST_BOUND, types::READY] {
        assert_eq!(reason(&status, kind), expected);
        assert!(!message(&status, kind).is_empty());
    }
    assert_eq!(status.waiting_for.as_ref().unwrap().reason, expected);
    assert_eq!(reason(&status, types::PAUSED), "NotPaused");
    assert_eq!(status.initialization, None);
}

#[test]
fn a_machine_that_has_everything_chooses_a_host() {
    let mut scene = Scene::ready();
    scene.owner.as_mut().unwrap().spec.failure_domain = Some("rack-7".into());
    let plan = scene.plan();
    let MachineStep::Choose(ask) = plan.step else { panic!("{plan:?}") };
    assert!(!plan.guarded, "nothing was ever claimed: no need to read anything again");
    assert_eq!((ask.failure_domain.as_deref(), ask.group.cluster.as_str()), (Some("rack-7"), "prod"));
}

#[test]
fn no_host_free_is_a_wait_that_says_why() {
    let scene = Scene::ready();
    let MachineStep::Choose(ask) = scene.plan().step else { panic!() };
    let mut used = free_host("a");
    used.spec.consumer_ref = Some(Default::default());
    let none = crate::claim::board::why_none(&ask, &[Arc::new(used)], |_| false);
    let plan = scene.observed(|obs| none_free(obs, &none));
    let status = apply(&plan, None, Some(1), &Hosts::now());
    assert_eq!(reason(&status, types::HOST_BOUND), "WaitingForHost");
    assert_eq!(reason(&status, types::READY), "WaitingForHost");
    assert_eq!(message(&status, types::HOST_BOUND), "no free host in namespace ns: 1 host is in use");
}

#[test]
fn an_intent_for_a_free_host_is_followed_by_the_claim_on_a_host_just_read() {
    let plan = Scene::intended().plan();
    assert_eq!(plan.step, MachineStep::Claim { cluster: "prod".into() });
    assert!(plan.guarded);
}

#[rstest::rstest]
#[case(Scene::intended().with(|s| s.host().spec.consumer_ref = Some(Default::default())))]
#[case(Scene::intended().with(|s| s.host().metadata.deletion_timestamp = Some(Hosts::now())))]
#[case(Scene::intended().with(|s| s.owner.as_mut().unwrap().spec.failure_domain = Some("elsewhere".into())))]
#[case(Scene::intended().with(|s| s.host = None))]
#[case(Scene::intended().with(|s| s.record().claim = Some(Default::default())))]
#[case(Scene::bound().with(|s| s.record().claim.as_mut().unwrap().id = "theirs".into()))]
fn an_intent_that_cannot_be_followed_moves_on_but_only_after_another_look(#[case] scene: Scene) {
    let plan = scene.plan();
    assert!(plan.guarded);
    let MachineStep::Choose(ask) = plan.step else { panic!("{plan:?}") };
    assert_eq!(ask.except, Some(Key::new("ns", "h")), "not the same host again under another claim");
}

#[test]
fn a_host_without_the_finalizer_of_its_machine_is_not_claimed() {
    for scene in [Scene::intended(), Scene::bound()] {
        let scene = scene.with(|s| s.object.metadata.finalizers = None);
        assert_eq!(scene.plan().step, MachineStep::AddFinalizer);
    }
}

#[test]
fn a_claim_that_holds_is_never_left() {
    // Whatever becomes of infrastructure, bootstrap data, selector or the host's state.
    let scene = Scene::bound().with(|s| {
        s.cluster.as_mut().unwrap().status = None;
        s.owner = None;
        s.object.spec.image = None;
        s.held_by = Some(Key::new("ns", "old"));
        s.host().status = None;
        s.host().metadata.labels = None;
        s.host().metadata.deletion_timestamp = Some(Hosts::now());
    });
    let status = scene.status();
    assert_eq!(scene.plan().step, MachineStep::Report);
    assert_eq!(reason(&status, types::HOST_BOUND), "Bound");
    assert_eq!(reason(&status, types::DEPLOYED), "Deploying");
}

#[test]
fn deployed_says_what_the_host_waits_for_and_since_when() {
    let since = Time(k8s_openapi::jiff::Timestamp::from_second(7).unwrap());
    let scene = Scene::bound().with(|s| {
        s.host().status.as_mut().unwrap().waiting_for = Some(WaitingFor {
            reason: "AgentBoot".into(),
            message: "the agent to register".into(),
            since: since.clone(),
            deadline: None,
        });
    });
    let status = scene.status();
    assert_eq!(message(&status, types::DEPLOYED), "host h: the agent to register");
    let waiting = status.waiting_for.unwrap();
    assert_eq!((waiting.reason.as_str(), waiting.since), ("AgentBoot", since));
}

#[test]
fn a_deployed_host_gives_the_stored_provider_id_then_provisioned() {
    let mut scene = Scene::deployed();
    scene.record().claim.as_mut().unwrap().provider_id = Some("ferric://stored/anything".into());
    assert_eq!(scene.plan().step, MachineStep::SetProviderId("ferric://stored/anything".into()));

    scene.object.spec.provider_id = Some("ferric://stored/anything".into());
    let status = scene.status();
    assert_eq!(status.initialization.as_ref().unwrap().provisioned, Some(true));
    assert_eq!(status.failure_domain.as_deref(), Some("rack-1"));
    assert_eq!(status.addresses[0].kind, "Hostname");
    assert_eq!(status.addresses[0].address, "h");
    assert!(condition::is_true(&status.conditions, types::READY));
    assert_eq!(status.waiting_for, None);
}

#[test]
fn another_provider_id_than_the_claims_is_not_provisioned() {
    let scene = Scene::provisioned().with(|s| s.object.spec.provider_id = Some("ferric://h/c0".into()));
    let status = scene.status();
    assert_eq!(reason(&status, types::READY), "ProviderIDMismatch");
    assert_eq!(status.initialization, None);
}

#[test]
fn a_second_report_of_the_same_is_equal_whatever_the_clock_says() {
    for scene in [Scene::bound(), Scene::provisioned(), Scene::ready().with(|s| s.owner = None)] {
        let scene = scene.reported();
        let later = Time(k8s_openapi::jiff::Timestamp::from_second(9_999_999).unwrap());
        assert_eq!(apply(&scene.plan(), scene.object.status.as_ref(), Some(1), &later), scene.status());
    }
}

#[test]
fn after_a_move_everything_comes_back_from_the_spec_alone() {
    let before = Scene::provisioned().reported();
    let moved = Scene::provisioned().with(|s| {
        s.object.metadata.uid = Some("new-uid".into());
        s.host().status = None;
    });
    // First the host learns the new UID, nothing else is written.
    assert_eq!(moved.plan().step, MachineStep::RefreshUid);
    let moved = moved.with(|s| {
        let patch = bound::uid_patch(&s.object);
        s.host = Some(merged(s.host.as_ref().unwrap(), &patch));
    });
    assert_eq!(moved.plan().step, MachineStep::Report);
    assert_eq!(moved.status(), before.object.status.unwrap());
}

#[test]
fn paused_reports_paused_and_nothing_else_at_any_point() {
    let paused = |s: &mut Scene| s.cluster.as_mut().unwrap().spec.paused = Some(true);
    for scene in [Scene::ready(), Scene::intended(), Scene::bound(), Scene::deployed(), Scene::provisioned()]
    {
        for deleting in [false, true] {
            let mut scene =
                Scene { object: scene.object.clone(), host: scene.host.clone(), ..Scene::ready() };
            if deleting {
                scene = scene.deleting();
            }
            for scene in [
                Scene { object: scene.object.clone(), host: scene.host.clone(), ..Scene::ready() }
                    .with(paused),
                scene.annotated(names::CAPI_PAUSED_ANNOTATION),
            ] {
                let plan = scene.plan();
                assert_eq!(plan.step, MachineStep::Report);
                let status = scene.status();
                assert_eq!(status.conditions.len(), 1);
                assert_eq!(reason(&status, types::PAUSED), "Paused");
            }
        }
    }
}

#[test]
fn delete_for_move_lets_go_although_paused_and_without_a_look_at_the_host() {
    let scene = Scene::provisioned().deleting().annotated(names::DELETE_FOR_MOVE_ANNOTATION).with(|s| {
        s.cluster.as_mut().unwrap().spec.paused = Some(true);
    });
    let plan = scene.plan();
    assert_eq!((plan.step, plan.guarded), (MachineStep::RemoveFinalizer, false));
    let waiting = Scene::provisioned().annotated(names::DELETE_FOR_MOVE_ANNOTATION);
    assert_eq!(waiting.plan().step, MachineStep::Ignore);
}

#[test]
fn deletion_waits_for_the_host_to_let_go() {
    for scene in [Scene::bound(), Scene::deployed(), Scene::provisioned()] {
        let scene = scene.deleting().with(|s| {
            s.host().status.as_mut().unwrap().waiting_for = Some(WaitingFor {
                reason: "PowerOff".into(),
                message: "the power to be read as off".into(),
                since: Hosts::now(),
                deadline: None,
            });
        });
        assert_eq!(scene.plan().step, MachineStep::Report);
        let status = scene.status();
        assert_eq!(reason(&status, types::READY), "Deleting");
        assert_eq!(
            message(&status, types::READY),
            "waits for host h to stop the old workload and let go: the power to be read as off"
        );
    }
}

#[test]
fn deletion_blocks_on_nothing_but_the_host() {
    let bare = |s: &mut Scene| {
        s.owner = None;
        s.cluster = None;
        s.object.spec.image = None;
    };
    let plan = Scene::ready().with(bare).deleting().plan();
    assert_eq!(plan.step, MachineStep::Ignore, "it never had our finalizer");
    // An intent that was never followed, a host that is gone, a host that is free again, one that is another's now.
    for scene in [
        Scene::intended(),
        Scene::provisioned().with(|s| s.host = None),
        Scene::provisioned().with(|s| s.host = Some(free_host("h"))),
        Scene::bound().with(|s| s.record().claim.as_mut().unwrap().id = "theirs".into()),
    ] {
        let plan = scene.with(bare).deleting().plan();
        assert_eq!((plan.step, plan.guarded), (MachineStep::RemoveFinalizer, true));
    }
}

#[test]
fn deletion_waits_for_a_host_that_the_machine_left() {
    let scene = Scene::intended().deleting().with(|s| s.held_by = Some(Key::new("ns", "left")));
    assert_eq!(scene.plan().step, MachineStep::Report);
    assert!(message(&scene.status(), types::READY).contains("host left"));
}

#[test]
fn deletion_never_lets_go_of_a_host_whose_record_was_lost_or_edited() {
    for scene in [
        Scene::provisioned().with(|s| s.host().spec.record = None),
        Scene::provisioned().with(|s| s.host().spec.consumer_ref = None),
    ] {
        let scene = scene.deleting();
        assert_eq!(scene.plan().step, MachineStep::Report);
        assert_eq!(reason(&scene.status(), types::READY), "Deleting");
    }
    let lost = Scene::provisioned().with(|s| s.host().spec.record = None).deleting().status();
    assert!(message(&lost, types::READY).contains(names::DECIDE_ANNOTATION));
}

#[test]
fn a_dead_bmc_names_the_annotation_with_the_claim() {
    let scene = Scene::bound().deleting().with(|s| {
        s.host().status.as_mut().unwrap().error_type = Some(ferric_api::host::ErrorType::PowerManagement);
    });
    assert!(message(&scene.status(), types::READY).contains(&format!("{}=c1", names::ABANDON_ANNOTATION)));
}

#[rstest::rstest]
#[case(Scene::provisioned().with(|s| s.host = None), "HostDeleted")]
#[case(Scene::bound().reported().with(|s| s.host = None), "HostDeleted")]
#[case(Scene::bound().reported().with(|s| s.host = None).reported(), "HostDeleted")]
#[case(Scene::provisioned().with(|s| s.host = Some(free_host("h"))), "ClaimLost")]
#[case(Scene::provisioned().with(|s| s.host().spec.consumer_ref = None), "ClaimEdited")]
#[case(Scene::bound().with(|s| s.host().spec.consumer_ref = None), "ClaimEdited")]
#[case(Scene::provisioned().with(|s| s.host().spec.record = None), "NoUsableRecord")]
#[case(Scene::provisioned().with(|s| s.object.spec.host_ref = None), "HostRefMissing")]
fn a_claim_that_broke_is_not_silently_replaced(#[case] scene: Scene, #[case] expected: &str) {
    let status = scene.status();
    assert_eq!(scene.plan().step, MachineStep::Report);
    assert_eq!(reason(&status, types::HOST_BOUND), expected);
    assert_eq!(reason(&status, types::READY), expected);
}

#[test]
fn a_host_that_let_go_before_the_machine_was_provisioned_is_replaced() {
    let scene = Scene::bound().reported().with(|s| s.host = Some(free_host("other")));
    let scene = scene.with(|s| s.host().spec.consumer_ref = Some(Default::default()));
    assert!(matches!(scene.plan().step, MachineStep::Choose(_)));
}

#[test]
fn a_host_reference_without_a_claim_id_is_no_intent() {
    let scene = Scene::ready().with(|s| {
        s.object.spec.host_ref = Some(HostRef { namespace: "ns".into(), name: "h".into() });
        s.host = Some(free_host("h"));
    });
    let plan = scene.plan();
    assert!(matches!(plan.step, MachineStep::Choose(_)));
    assert!(!plan.guarded);
}

#[test]
fn provisioned_is_never_taken_back() {
    let scene = Scene::provisioned().reported().with(|s| s.record().image = None);
    let status = scene.status();
    assert_eq!(reason(&status, types::READY), "Deploying");
    assert_eq!(status.initialization.unwrap().provisioned, Some(true));
}

#[test]
fn only_the_hosts_own_sentence_may_wait() {
    let told = |sentence: &str| {
        let scene = Scene::bound().with(|s| {
            s.host().status.as_mut().unwrap().waiting_for = Some(WaitingFor {
                reason: sentence.to_uppercase(),
                message: sentence.into(),
                since: Hosts::now(),
                deadline: None,
            });
        });
        scene.status()
    };
    assert!(differs_in_sentence_only(&told("a"), &told("b")));
    assert!(!differs_in_sentence_only(&told("a"), &Scene::provisioned().status()));
    assert!(!differs_in_sentence_only(&Scene::ready().with(|s| s.owner = None).status(), &told("a")));
}

//! The plan for a `BareMetalCluster`: endpoint, failure domains, life. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ferric_api::cluster::{ApiEndpoint, BareMetalClusterStatus, FailureDomain, Initialization};
use ferric_api::condition::types;
use ferric_api::{BareMetalCluster, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::report::{self, Wanted, reasons};
use crate::capi::Cluster;
use crate::key::Key;

/// An owner named by an owner reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Owner<'a, K> {
    /// No owner reference of that kind.
    None,
    /// Named, but not there (or not seen yet).
    Missing(&'a str),
    /// There.
    Found(&'a K),
}

/// Everything that the plan for a cluster looks at.
#[derive(Debug)]
pub struct ClusterObservation<'a> {
    /// The object itself.
    pub object: &'a BareMetalCluster,
    /// The Cluster that owns it.
    pub owner: Owner<'a, Cluster>,
    /// Failure domains of the hosts in its namespace.
    pub domains: &'a BTreeSet<String>,
    /// Names of the cluster's BareMetalMachines that are left; looked at on deletion only.
    pub machines_left: &'a [String],
}

/// The one thing to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterStep {
    /// Nothing, and nothing to report: the object is not ours to touch.
    Ignore,
    /// Nothing but the report.
    Report,
    /// Add our finalizer.
    AddFinalizer,
    /// Remove our finalizer.
    RemoveFinalizer,
    /// Write the endpoint into the spec.
    SetEndpoint(ApiEndpoint),
}

/// What to do and what to say.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPlan {
    /// The step.
    pub step: ClusterStep,
    /// Conditions to report.
    pub conditions: Vec<Wanted>,
    /// Whether the infrastructure is there. One-way: `false` leaves the field as it is.
    pub provisioned: bool,
    /// Failure domains to publish; `None` leaves them as they are.
    pub failure_domains: Option<Vec<FailureDomain>>,
}

/// Decides what to do with a cluster.
pub fn plan(obs: &ClusterObservation<'_>) -> ClusterPlan {
    let object = obs.object;
    let annotations = object.annotations();
    let has_finalizer = object.finalizers().iter().any(|f| f == names::CLUSTER_FINALIZER);
    let deleting = object.metadata.deletion_timestamp.is_some();

    if annotations.contains_key(names::MANAGED_BY_ANNOTATION) {
        return only(ClusterStep::Ignore, vec![]);
    }
    if deleting && annotations.contains_key(names::DELETE_FOR_MOVE_ANNOTATION) {
        return only(if has_finalizer { ClusterStep::RemoveFinalizer } else { ClusterStep::Ignore }, vec![]);
    }
    let cluster = match obs.owner {
        Owner::Found(cluster) => Some(cluster),
        Owner::None | Owner::Missing(_) => None,
    };
    let by_annotation = annotations.contains_key(names::CAPI_PAUSED_ANNOTATION);
    if by_annotation || cluster.is_some_and(Cluster::is_paused) {
        let why = if by_annotation {
            format!("annotation {} is set", names::CAPI_PAUSED_ANNOTATION)
        } else {
            "spec.paused of the Cluster is set".to_owned()
        };
        return only(ClusterStep::Report, vec![Wanted::yes(types::PAUSED, reasons::PAUSED, why)]);
    }
    let not_paused = Wanted::no(types::PAUSED, reasons::NOT_PAUSED, "");
    if deleting {
        return plan_deletion(obs, has_finalizer, not_paused);
    }
    let waits = |reason, message: String| {
        only(ClusterStep::Report, vec![Wanted::no(types::READY, reason, message), not_paused.clone()])
    };
    let cluster = match obs.owner {
        Owner::None => {
            return waits(
                reasons::WAITING_FOR_OWNER,
                "waits for Cluster API to set the owner: a Cluster whose spec.infrastructureRef names this object"
                    .to_owned(),
            );
        }
        Owner::Missing(name) => {
            return waits(
                reasons::WAITING_FOR_CLUSTER,
                format!("waits for Cluster {name:?}, which is not there"),
            );
        }
        Owner::Found(cluster) => cluster,
    };
    if !has_finalizer {
        return only(ClusterStep::AddFinalizer, vec![not_paused]);
    }
    if object.spec.control_plane_endpoint.as_ref().is_none_or(|e| !is_set(&e.host, e.port)) {
        return match &cluster.spec.control_plane_endpoint {
            Some(e) if is_set(&e.host, e.port) => only(
                ClusterStep::SetEndpoint(ApiEndpoint { host: e.host.clone(), port: e.port }),
                vec![not_paused],
            ),
            _ => waits(
                "WaitingForControlPlaneEndpoint",
                "waits for a control-plane endpoint: set spec.controlPlaneEndpoint {host, port} here or on the \
                 Cluster to an address that reaches the control-plane hosts"
                    .to_owned(),
            ),
        };
    }
    ClusterPlan {
        step: ClusterStep::Report,
        conditions: vec![
            Wanted::yes(types::READY, "Provisioned", "endpoint and failure domains are published"),
            not_paused,
        ],
        provisioned: true,
        failure_domains: Some(failure_domains(obs.domains)),
    }
}

fn plan_deletion(obs: &ClusterObservation<'_>, has_finalizer: bool, not_paused: Wanted) -> ClusterPlan {
    if !has_finalizer {
        return only(ClusterStep::Ignore, vec![]);
    }
    if obs.machines_left.is_empty() {
        return only(ClusterStep::RemoveFinalizer, vec![]);
    }
    let message = format!(
        "waits for {} BareMetalMachine(s) of the cluster to go: {}",
        obs.machines_left.len(),
        some_of(obs.machines_left, 3)
    );
    only(ClusterStep::Report, vec![Wanted::no(types::READY, reasons::DELETING, message), not_paused])
}

/// Puts the plan into a status. Equal to the old status if nothing but time passed.
pub fn apply(
    plan: &ClusterPlan,
    before: Option<&BareMetalClusterStatus>,
    generation: Option<i64>,
    now: &Time,
) -> BareMetalClusterStatus {
    let mut status = before.cloned().unwrap_or_default();
    report::apply(&mut status.conditions, &plan.conditions, generation, now);
    if plan.provisioned {
        status.initialization = Some(Initialization { provisioned: Some(true) });
    }
    if let Some(domains) = &plan.failure_domains {
        status.failure_domains = domains.clone();
    }
    status
}

/// Up to `limit` names, then how many more.
fn some_of(names: &[String], limit: usize) -> String {
    let shown = names.iter().take(limit).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(limit) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

fn is_set(host: &str, port: i32) -> bool {
    !host.is_empty() && port > 0
}

fn failure_domains(domains: &BTreeSet<String>) -> Vec<FailureDomain> {
    domains
        .iter()
        .map(|name| FailureDomain {
            name: name.clone(),
            control_plane: Some(true),
            attributes: BTreeMap::new(),
        })
        .collect()
}

fn only(step: ClusterStep, conditions: Vec<Wanted>) -> ClusterPlan {
    ClusterPlan { step, conditions, provisioned: false, failure_domains: None }
}

/// Failure domains of the hosts, by namespace; says when the *set* of a namespace changes, so that ten thousand hosts
/// that come up do not wake every cluster ten thousand times.
#[derive(Debug, Default)]
pub struct DomainIndex {
    of_host: BTreeMap<Key, String>,
    count: BTreeMap<String, BTreeMap<String, usize>>,
}

impl DomainIndex {
    /// Notes the failure domain of a host (`None`: it has none, or is gone). Returns whether the set changed.
    pub fn update(&mut self, host: &Key, domain: Option<&str>) -> bool {
        let before = self.of_host.get(host).map(String::as_str);
        if before == domain {
            return false;
        }
        let mut changed = false;
        if let Some(old) = self.of_host.remove(host)
            && let Some(counts) = self.count.get_mut(&host.namespace)
            && let Some(n) = counts.get_mut(&old)
        {
            *n -= 1;
            if *n == 0 {
                counts.remove(&old);
                changed = true;
            }
        }
        if let Some(new) = domain {
            self.of_host.insert(host.clone(), new.to_owned());
            let n = self.count.entry(host.namespace.clone()).or_default().entry(new.to_owned()).or_default();
            *n += 1;
            changed |= *n == 1;
        }
        changed
    }

    /// The failure domains of a namespace.
    pub fn of(&self, namespace: &str) -> BTreeSet<String> {
        self.count.get(namespace).map(|counts| counts.keys().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::capi::{ClusterSpec, Endpoint};
    use ferric_api::condition;

    fn now() -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(1_000).unwrap())
    }

    fn object() -> BareMetalCluster {
        let mut object = BareMetalCluster::new("prod", Default::default());
        object.metadata.namespace = Some("ns".into());
        object
    }

    fn ours() -> BareMetalCluster {
        let mut object = object();
        object.metadata.finalizers = Some(vec![names::CLUSTER_FINALIZER.into()]);
        object.spec.control_plane_endpoint = Some(ApiEndpoint { host: "10.0.0.1".into(), port: 6443 });
        object
    }

    fn annotate(mut object: BareMetalCluster, key: &str) -> BareMetalCluster {
        object.annotations_mut().insert(key.into(), String::new());
        object
    }

    fn delete(mut object: BareMetalCluster) -> BareMetalCluster {
        object.metadata.deletion_timestamp = Some(now());
        object
    }

    fn run(object: &BareMetalCluster, cluster: Option<Cluster>, left: &[&str]) -> ClusterPlan {
        let left: Vec<String> = left.iter().map(|s| (*s).to_owned()).collect();
        let domains = BTreeSet::from(["rack-1".to_owned(), "rack-2".to_owned()]);
        let owner = cluster.as_ref().map_or(Owner::None, Owner::Found);
        plan(&ClusterObservation { object, owner, domains: &domains, machines_left: &left })
    }

    fn cluster() -> Cluster {
        Cluster::new("prod", ClusterSpec::default())
    }

    fn reason(plan: &ClusterPlan, kind: &str) -> &'static str {
        plan.conditions.iter().find(|c| c.kind == kind).map_or("", |c| c.reason)
    }

    #[test]
    fn managed_by_somebody_else_is_never_touched() {
        let object = annotate(delete(ours()), names::MANAGED_BY_ANNOTATION);
        let plan = run(&object, Some(cluster()), &[]);
        assert_eq!((plan.step, plan.conditions), (ClusterStep::Ignore, vec![]));
    }

    #[test]
    fn waits_for_its_owner_before_it_writes_a_finalizer() {
        let plan = run(&object(), None, &[]);
        assert_eq!(plan.step, ClusterStep::Report);
        assert_eq!(reason(&plan, types::READY), reasons::WAITING_FOR_OWNER);
    }

    #[test]
    fn paused_reports_paused_and_nothing_else_even_while_deleted() {
        let mut paused = cluster();
        paused.spec.paused = Some(true);
        for (object, cluster) in
            [(delete(ours()), paused), (annotate(ours(), names::CAPI_PAUSED_ANNOTATION), cluster())]
        {
            let plan = run(&object, Some(cluster), &[]);
            assert_eq!(plan.step, ClusterStep::Report);
            assert_eq!(plan.conditions.len(), 1);
            assert_eq!(reason(&plan, types::PAUSED), "Paused");
            assert!(!plan.provisioned);
        }
    }

    #[test]
    fn finalizer_then_endpoint_then_provisioned() {
        let mut object = object();
        assert_eq!(run(&object, Some(cluster()), &[]).step, ClusterStep::AddFinalizer);
        object.metadata.finalizers = Some(vec![names::CLUSTER_FINALIZER.into()]);
        let plan = run(&object, Some(cluster()), &[]);
        assert_eq!(reason(&plan, types::READY), "WaitingForControlPlaneEndpoint");
        assert!(!plan.provisioned);

        let mut given = cluster();
        given.spec.control_plane_endpoint = Some(Endpoint { host: "10.0.0.9".into(), port: 6443 });
        let endpoint = ApiEndpoint { host: "10.0.0.9".into(), port: 6443 };
        assert_eq!(run(&object, Some(given), &[]).step, ClusterStep::SetEndpoint(endpoint.clone()));

        object.spec.control_plane_endpoint = Some(endpoint);
        let plan = run(&object, Some(cluster()), &[]);
        assert_eq!(plan.step, ClusterStep::Report);
        let status = apply(&plan, None, Some(3), &now());
        assert_eq!(status.initialization.as_ref().unwrap().provisioned, Some(true));
        let names: Vec<_> = status.failure_domains.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["rack-1", "rack-2"]);
        assert!(condition::is_true(&status.conditions, types::READY));
        assert_eq!(apply(&plan, Some(&status), Some(3), &Time(k8s_openapi::jiff::Timestamp::now())), status);
    }

    #[test]
    fn an_empty_endpoint_counts_as_none() {
        let mut object = ours();
        object.spec.control_plane_endpoint = Some(ApiEndpoint { host: String::new(), port: 0 });
        assert_eq!(
            reason(&run(&object, Some(cluster()), &[]), types::READY),
            "WaitingForControlPlaneEndpoint"
        );
    }

    #[test]
    fn deletion_waits_for_the_machines_and_needs_no_owner() {
        let object = delete(ours());
        let plan = run(&object, None, &["a", "b", "c", "d", "e"]);
        assert_eq!(plan.step, ClusterStep::Report);
        assert_eq!(
            plan.conditions[0].message,
            "waits for 5 BareMetalMachine(s) of the cluster to go: a, b, c and 2 more"
        );
        assert_eq!(run(&object, None, &[]).step, ClusterStep::RemoveFinalizer);
    }

    #[test]
    fn delete_for_move_lets_go_although_paused_and_although_machines_are_left() {
        let mut paused = cluster();
        paused.spec.paused = Some(true);
        let object = annotate(delete(ours()), names::DELETE_FOR_MOVE_ANNOTATION);
        assert_eq!(run(&object, Some(paused), &["a"]).step, ClusterStep::RemoveFinalizer);
    }

    #[test]
    fn provisioned_is_never_taken_back() {
        let before = BareMetalClusterStatus {
            initialization: Some(Initialization { provisioned: Some(true) }),
            ..Default::default()
        };
        let plan = run(&object(), None, &[]);
        let status = apply(&plan, Some(&before), None, &now());
        assert_eq!(status.initialization.unwrap().provisioned, Some(true));
    }

    #[test]
    fn the_domain_index_speaks_up_only_when_the_set_changes() {
        let mut index = DomainIndex::default();
        let (a, b) = (Key::new("ns", "a"), Key::new("ns", "b"));
        assert!(index.update(&a, Some("rack-1")));
        assert!(!index.update(&a, Some("rack-1")));
        assert!(!index.update(&b, Some("rack-1")));
        assert!(!index.update(&a, None));
        assert!(index.update(&b, Some("rack-2")));
        assert_eq!(index.of("ns"), BTreeSet::from(["rack-2".to_owned()]));
        assert!(index.of("other").is_empty());
        assert!(index.update(&b, None));
    }
}

//! What a pod takes from a node: the scheduler's arithmetic over containers.
//!
//! As `k8s.io/component-helpers/resource.PodRequests` counts: the containers together, and the sidecars (init containers
//! with `restartPolicy: Always`) with them; or the largest moment of start-up, which is an init container beside the
//! sidecars before it; whichever is more, resource by resource. Then what the pod itself states for cpu, memory and huge
//! pages replaces the sum, and the overhead of its runtime class comes on top. For a pod that runs, a container counts
//! with the largest of what it asks for, what it was given and what it has, since it may be about to be resized.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::model::Amounts;
use super::quantity::{Amount, NotAQuantity};
use super::symbols::{Sym, Symbols};

type List = BTreeMap<String, Quantity>;
type Sum<'a> = BTreeMap<&'a str, Amount>;

/// What the pod takes.
pub(super) fn of_pod(pod: &Pod, symbols: &mut Symbols) -> Result<Amounts, NotAQuantity> {
    let Some(spec) = &pod.spec else { return Ok(Amounts::default()) };
    let status = pod.status.as_ref();
    let infeasible =
        status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().any(|condition| {
            condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
        });
    let running = |containers: Option<&Vec<ContainerStatus>>| {
        containers
            .into_iter()
            .flatten()
            .map(|status| (status.name.clone(), status.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let statuses = running(status.and_then(|status| status.container_statuses.as_ref()));
    let init_statuses = running(status.and_then(|status| status.init_container_statuses.as_ref()));

    let mut sum = Sum::new();
    for container in &spec.containers {
        add(&mut sum, &of_container(container, statuses.get(&container.name), infeasible)?);
    }
    let mut sidecars = Sum::new();
    let mut start = Sum::new();
    for container in spec.init_containers.iter().flatten() {
        let stays = container.restart_policy.as_deref() == Some("Always");
        let status = init_statuses.get(&container.name).filter(|_| stays);
        let mut one = of_container(container, status, infeasible)?;
        if stays {
            add(&mut sum, &one);
            add(&mut sidecars, &one);
            one.clone_from(&sidecars);
        } else {
            add(&mut one, &sidecars);
        }
        most(&mut start, &one);
    }
    most(&mut sum, &start);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        for (name, amount) in read(requests)? {
            if matches!(name, "cpu" | "memory") || name.starts_with("hugepages-") {
                sum.insert(name, amount);
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        add(&mut sum, &read(overhead)?);
    }
    Ok(amounts(&sum, symbols))
}

/// What the status of a node says it has, without `pods`.
pub(super) fn of_node(allocatable: &List, symbols: &mut Symbols) -> Amounts {
    let mut sum = Sum::new();
    for (name, quantity) in allocatable {
        // A resource that cannot be read is one that the node does not have.
        if let Ok(amount) = Amount::parse(&quantity.0) {
            sum.insert(name, amount);
        }
    }
    amounts(&sum, symbols)
}

fn of_container<'a>(
    container: &'a Container,
    status: Option<&'a ContainerStatus>,
    infeasible: bool,
) -> Result<Sum<'a>, NotAQuantity> {
    let mut asked = Sum::new();
    if let Some(resources) = &container.resources {
        asked = required(resources)?;
    }
    let Some((status, resources)) = status.and_then(|status| Some((status, status.resources.as_ref()?)))
    else {
        return Ok(asked);
    };
    if infeasible {
        asked.clear();
    }
    if let Some(actual) = &resources.requests {
        most(&mut asked, &read(actual)?);
    }
    if let Some(allocated) = &status.allocated_resources {
        most(&mut asked, &read(allocated)?);
    }
    Ok(asked)
}

/// Requests; a limit without one is the request, as the API server fills in for pods but not for the templates of
/// DaemonSets.
fn required(resources: &ResourceRequirements) -> Result<Sum<'_>, NotAQuantity> {
    let mut sum = resources.limits.as_ref().map(read).transpose()?.unwrap_or_default();
    if let Some(requests) = &resources.requests {
        sum.extend(read(requests)?);
    }
    Ok(sum)
}

fn read(list: &List) -> Result<Sum<'_>, NotAQuantity> {
    list.iter().map(|(name, quantity)| Ok((name.as_str(), Amount::parse(&quantity.0)?))).collect()
}

fn add<'a>(sum: &mut Sum<'a>, other: &Sum<'a>) {
    for (&name, &amount) in other {
        let entry = sum.entry(name).or_default();
        *entry = entry.plus(amount);
    }
}

fn most<'a>(sum: &mut Sum<'a>, other: &Sum<'a>) {
    for (&name, &amount) in other {
        let entry = sum.entry(name).or_insert(amount);
        *entry = amount.max(*entry);
    }
}

/// What the scheduler looks at: cpu, memory, ephemeral storage, extended resources, huge pages.
fn amounts(sum: &Sum<'_>, symbols: &mut Symbols) -> Amounts {
    let mut amounts: Vec<(Sym, i64)> = sum
        .iter()
        .filter_map(|(&name, amount)| {
            let value = if name == "cpu" { amount.thousandths() } else { amount.units() };
            // A negative request asks for nothing, as in the scheduler's comparison.
            (counted(name) && value > 0).then(|| (symbols.intern(name), value))
        })
        .collect();
    amounts.sort_unstable();
    amounts.into_boxed_slice()
}

fn counted(name: &str) -> bool {
    let native = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    let prefixed = name.starts_with("hugepages-") || name.starts_with("attachable-volumes-");
    let extended = name.contains('/') && (!name.starts_with("requests.") || name.contains("kubernetes.io/"));
    native || prefixed || extended
}

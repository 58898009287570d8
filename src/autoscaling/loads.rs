//! How much of nodes is asked for, from a simulation. Pure.

use std::collections::BTreeMap;

use super::schedule::symbols::Sym;
use super::schedule::{NodeId, Simulation};
use super::triggers::{Load, is_gpu};

/// What pods on these nodes ask for, by resource, of what the nodes have.
pub(super) fn requests(simulation: &Simulation<'_>, nodes: &[NodeId]) -> BTreeMap<String, Load> {
    let mut loads: BTreeMap<Sym, Load> = BTreeMap::new();
    for node in nodes {
        for (resource, has) in &simulation.node_model(*node).allocatable {
            let load = loads.entry(*resource).or_default();
            load.allocatable += *has as f64;
            load.used += (has - simulation.free(*node, *resource)) as f64;
        }
    }
    let symbols = simulation.cluster().symbols();
    loads.into_iter().map(|(resource, load)| (symbols.name(resource).to_owned(), load)).collect()
}

/// How much of a node is asked for, in per cent: of its GPUs, if it has any, else the larger share of processors and
/// memory.
pub(super) fn utilization(simulation: &Simulation<'_>, node: NodeId) -> f64 {
    let loads = requests(simulation, &[node]);
    let share = |load: &Load| if load.allocatable > 0.0 { 100.0 * load.used / load.allocatable } else { 0.0 };
    let of = |wanted: &dyn Fn(&str) -> bool| {
        let shares = loads.iter().filter(|(name, load)| wanted(name) && load.allocatable > 0.0);
        shares.map(|(_, load)| share(load)).reduce(f64::max)
    };
    of(&is_gpu).or_else(|| of(&|name| name == "cpu" || name == "memory")).unwrap_or(0.0)
}

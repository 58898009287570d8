//! Filling a new node with the pods that suit it best.
//!
//! Of the pods that still fit, the one whose demands point most in the direction of what the node has left: the largest
//! dot product of both, each resource as a share of the largest node and weighted by how scarce it is among all waiting
//! pods (Panigrahy, Talwar, Uyeda, Wieder: Heuristics for Vector Bin Packing, 2011). Whole numbers only, so that the
//! order of resources does not matter. Pods of higher priority come before all others.

use super::pack::Run;
use super::simulation::{NodeId, PodId, Simulation};
use super::state::Verdict;

/// One, as a share: three of 2²⁰, 1000 and 2²⁰ multiplied stay far below 2⁶³.
const ONE: i64 = 1 << 20;

/// How many kinds of pods are weighed against each other for a place, the largest first.
const CHOICE: usize = 64;

/// A part of the largest there is, as a share.
fn share(amount: i64, largest: i64) -> i64 {
    let share = i128::from(amount) * i128::from(ONE) / i128::from(largest.max(1));
    i64::try_from(share.clamp(0, i128::from(ONE))).unwrap_or(ONE)
}

/// Runs by what their pods ask for: those that ask for the same are chosen between once.
pub(super) struct Fill {
    /// The most that a node has, by resource.
    largest: Vec<i64>,
    /// How scarce each resource is.
    weights: Vec<i64>,
    kinds: Vec<Kind>,
}

/// Runs of one priority that ask for the same.
struct Kind {
    priority: i32,
    /// Resource, amount and weighted share.
    need: Vec<(usize, i64, i64)>,
    /// Numbers of runs, in order; those before `next` are empty.
    runs: Vec<usize>,
    next: usize,
}

impl Fill {
    /// Sorts runs by what they ask for.
    pub(super) fn new(simulation: &Simulation<'_>, runs: &[Run]) -> Self {
        let largest = simulation.largest();
        let mut weights: Vec<i128> = vec![0; largest.len()];
        for run in runs {
            for &(resource, amount) in &simulation.index.classes[run.class].need {
                let pods = i128::try_from(run.pods.len()).unwrap_or(0);
                weights[resource] += i128::from(share(amount, largest[resource])) * pods;
            }
        }
        // In thousandths of the scarcest.
        let most = weights.iter().copied().max().unwrap_or(0).max(1);
        let weights =
            weights.into_iter().map(|weight| i64::try_from(weight * 1000 / most).unwrap_or(0)).collect();
        let mut fill = Self { largest, weights, kinds: Vec::new() };
        let mut known = std::collections::HashMap::new();
        for (at, run) in runs.iter().enumerate() {
            let need = &*simulation.index.classes[run.class].need;
            let kind = *known.entry((run.priority, need)).or_insert_with(|| {
                fill.kinds.push(Kind {
                    priority: run.priority,
                    need: need
                        .iter()
                        .map(|&(resource, amount)| {
                            let share = share(amount, fill.largest[resource]);
                            (resource, amount, share * fill.weights[resource])
                        })
                        .collect(),
                    runs: Vec::new(),
                    next: 0,
                });
                fill.kinds.len() - 1
            });
            fill.kinds[kind].runs.push(at);
        }
        fill
    }

    /// Puts pods of runs on a node until none fits. `runs` are those from number `first` on.
    pub(super) fn node(
        &mut self,
        simulation: &mut Simulation<'_>,
        runs: &mut [Run],
        first: usize,
        node: usize,
        placed: &mut Vec<(PodId, NodeId)>,
    ) {
        let mut open: Vec<usize> = (0..self.kinds.len())
            .filter(|&kind| self.kinds[kind].next < self.kinds[kind].runs.len())
            .collect();
        // Where each kind is in its runs: one that does not fit this node is passed over for this node only.
        let mut at: Vec<usize> = self.kinds.iter().map(|kind| kind.next).collect();
        while let Some(best) = self.best(simulation, &mut open, node) {
            let kind = &mut self.kinds[best];
            let Some(&number) = kind.runs.get(at[best]) else {
                open.retain(|&other| other != best);
                continue;
            };
            let Some(run) = number.checked_sub(first).and_then(|number| runs.get_mut(number)) else {
                // Tried before: what is left of it fits nowhere in this round.
                at[best] += 1;
                continue;
            };
            let Some(&pod) = run.pods.last() else {
                if kind.next == at[best] {
                    kind.next += 1;
                }
                at[best] += 1;
                continue;
            };
            let class = &simulation.index.classes[run.class];
            let meets = simulation.state.meets(class.fixed, node);
            if !meets || simulation.state.judge(&simulation.index, run.class, node) != Verdict::Fits {
                at[best] += 1;
                continue;
            }
            run.pods.pop();
            simulation.state.put(&simulation.index, pod.at(), node);
            placed.push((pod, NodeId::new(node)));
        }
    }

    /// The kind that suits best; kinds for which there is not enough left are taken out of `open`.
    fn best(&self, simulation: &Simulation<'_>, open: &mut Vec<usize>, node: usize) -> Option<usize> {
        let mut best: Option<(i32, i64, usize)> = None;
        let left = |resource: usize| share(simulation.state.free(resource, node), self.largest[resource]);
        let left: Vec<i64> = (0..self.largest.len()).map(left).collect();
        let mut weighed = 0;
        open.retain(|&at| {
            if weighed == CHOICE {
                return true;
            }
            let kind = &self.kinds[at];
            let enough =
                |&(resource, amount, _): &(usize, i64, i64)| simulation.state.free(resource, node) >= amount;
            if !kind.need.iter().all(enough) {
                return false;
            }
            weighed += 1;
            let score = kind.need.iter().map(|&(resource, _, share)| share * left[resource]).sum();
            if best.is_none_or(|(priority, most, _)| (kind.priority, score) > (priority, most)) {
                best = Some((kind.priority, score, at));
            }
            true
        });
        best.map(|(_, _, at)| at)
    }
}

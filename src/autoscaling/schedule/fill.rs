//! Filling a new node with the pods that suit it best.
//!
//! Of the pods that still fit, the one whose demands point most in the direction of what the node has left: the largest
//! dot product of both, each resource as a share of the largest node and weighted by how scarce it is among the pods that
//! wait (Panigrahy, Talwar, Uyeda, Wieder: Heuristics for Vector Bin Packing, 2011). Whole numbers only, so that the
//! order of resources does not matter. Pods of higher priority come before all others.
//!
//! The product alone takes large pods first, which is right where few fit a node. Where many do, the small ones are left
//! over: nodes full of them have no place for another pod and much of everything else. [`Choice::Mixed`] divides by the
//! square root of the size, which takes some of each, and takes first the pods of which a host may have one only: what is
//! left of those needs a node each.

use super::index::Index;
use super::pack::Run;
use super::simulation::{NodeId, PodId, Simulation};
use super::state::Verdict;
use super::symbols::Sym;

/// One, as a share: two of 2²⁰ and 1000 multiplied stay far below 2⁶³.
const ONE: i64 = 1 << 20;

/// How many kinds of pods are weighed against each other for a place.
const CHOICE: usize = 64;

/// What is preferred beside the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Large pods; of many kinds, the largest are weighed.
    Large,
    /// Pods of which a host may have one only, then some of each size; of many kinds, some of all are weighed.
    Mixed,
}

/// A part of the largest there is, as a share.
fn share(amount: i64, largest: i64) -> i64 {
    let share = i128::from(amount) * i128::from(ONE) / i128::from(largest.max(1));
    i64::try_from(share.clamp(0, i128::from(ONE))).unwrap_or(ONE)
}

/// Runs by what their pods ask for: those that ask for the same are chosen between once.
pub(super) struct Fill {
    choice: Choice,
    /// The most that a node has, by resource.
    largest: Vec<i64>,
    /// In the order in which they come before others.
    kinds: Vec<Kind>,
}

/// What comes before what: pods of higher priority, then those of which a host may have one only.
type Rank = (i32, bool);

/// Runs of one rank that ask for the same.
struct Kind {
    rank: Rank,
    /// Resource, amount and share.
    need: Vec<(usize, i64, i64)>,
    /// By which the product is divided, in 2⁻²⁰.
    size: u128,
    /// Numbers of runs, in order; those before `next` are empty.
    runs: Vec<usize>,
    next: usize,
}

/// Whether two pods of a class are kept off the same host, as long as there are hosts without one.
fn one_per_host(index: &Index<'_>, class: usize) -> bool {
    let class = &index.classes[class];
    let host = |key: usize| index.keys.items[key] == Sym::HOSTNAME;
    let seen = &index.effects[class.target].seen;
    class.anti.iter().any(|tally| host(index.tallies[*tally]) && seen.contains(tally))
        || class.spreads.iter().any(|spread| host(spread.key) && spread.own > 0)
}

impl Fill {
    /// Sorts runs by what they ask for.
    pub(super) fn new(simulation: &Simulation<'_>, runs: &[Run], choice: Choice) -> Self {
        let largest = simulation.largest();
        let mut kinds: Vec<Kind> = Vec::new();
        let mut known = std::collections::HashMap::new();
        for (at, run) in runs.iter().enumerate() {
            let apart = choice == Choice::Mixed && one_per_host(&simulation.index, run.class);
            let rank = (run.priority, apart);
            let need = &*simulation.index.classes[run.class].need;
            let kind = *known.entry((rank, need)).or_insert_with(|| {
                let need: Vec<(usize, i64, i64)> = need
                    .iter()
                    .map(|&(resource, amount)| (resource, amount, share(amount, largest[resource])))
                    .collect();
                let square: u128 =
                    need.iter().map(|&(_, _, share)| u128::from(share.unsigned_abs()).pow(2)).sum();
                let size = match choice {
                    Choice::Large => 1 << 20,
                    Choice::Mixed => (square.isqrt() << 20).isqrt().max(1),
                };
                kinds.push(Kind { rank, need, size, runs: Vec::new(), next: 0 });
                kinds.len() - 1
            });
            kinds[kind].runs.push(at);
        }
        // Those of one rank stay in the order of the runs, the largest first.
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.rank));
        Self { choice, largest, kinds }
    }

    /// How scarce each resource is among the pods that are left, in thousandths of the scarcest.
    fn weights(&self, simulation: &Simulation<'_>, runs: &[Run]) -> Vec<i64> {
        let mut weights: Vec<i128> = vec![0; self.largest.len()];
        for run in runs {
            for &(resource, amount) in &simulation.index.classes[run.class].need {
                let pods = i128::try_from(run.pods.len()).unwrap_or(0);
                weights[resource] += i128::from(share(amount, self.largest[resource])) * pods;
            }
        }
        let most = weights.iter().copied().max().unwrap_or(0).max(1);
        weights.into_iter().map(|weight| i64::try_from(weight * 1000 / most).unwrap_or(0)).collect()
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
        let weights = self.weights(simulation, runs);
        let mut open: Vec<usize> = (0..self.kinds.len())
            .filter(|&kind| self.kinds[kind].next < self.kinds[kind].runs.len())
            .collect();
        // Where each kind is in its runs: one that does not fit this node is passed over for this node only.
        let mut at: Vec<usize> = self.kinds.iter().map(|kind| kind.next).collect();
        while let Some(best) = self.best(simulation, &weights, &mut open, node) {
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
    fn best(
        &self,
        simulation: &Simulation<'_>,
        weights: &[i64],
        open: &mut Vec<usize>,
        node: usize,
    ) -> Option<usize> {
        let free = |resource: usize| simulation.state.free(resource, node);
        let left: Vec<i64> = weights
            .iter()
            .enumerate()
            .map(|(resource, weight)| share(free(resource), self.largest[resource]) * weight)
            .collect();
        // One rank after the other. Where some of all were looked at and none fits, all are.
        while let Some(&leading) = open.first() {
            let rank = self.kinds[leading].rank;
            for thorough in [false, true] {
                let candidates = open.partition_point(|&at| self.kinds[at].rank == rank);
                let step = match self.choice {
                    Choice::Mixed if !thorough => (candidates / CHOICE).max(1),
                    _ => 1,
                };
                let mut best: Option<(u128, usize)> = None;
                let (mut weighed, mut gone) = (0, Vec::new());
                for place in (0..candidates).step_by(step) {
                    let kind = &self.kinds[open[place]];
                    if !kind.need.iter().all(|&(resource, amount, _)| free(resource) >= amount) {
                        gone.push(place);
                        continue;
                    }
                    let product: i64 =
                        kind.need.iter().map(|&(resource, _, share)| share * left[resource]).sum();
                    let score = (u128::from(product.unsigned_abs()) << 20) / kind.size;
                    if best.is_none_or(|(most, _)| score > most) {
                        best = Some((score, open[place]));
                    }
                    weighed += 1;
                    if weighed == CHOICE {
                        break;
                    }
                }
                if !gone.is_empty() {
                    let (mut gone, mut place) = (gone.into_iter().peekable(), 0..);
                    open.retain(|_| place.next().is_some_and(|here| gone.next_if_eq(&here).is_none()));
                }
                if let Some((_, at)) = best {
                    return Some(at);
                }
            }
        }
        None
    }
}

//! Which of several groups that would do is raised. Pure.

use std::cmp::{Ordering, Reverse};

use ferric_api::autoscaling::Expander;

use super::FreeHosts;

/// By what is chosen where no policy says it.
pub const USUAL: [Expander; 3] = [Expander::PowerReady, Expander::RackBalance, Expander::LeastWaste];

/// A group that would do, and what raising it would mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidate {
    /// Name of the group.
    pub group: String,
    /// Nodes that it would get.
    pub nodes: i32,
    /// Pods that would have a place.
    pub pods: usize,
    /// Of the new nodes' processors and memory, the share that is left over, 0 to 1.
    pub waste: f64,
    /// Its free hosts.
    pub free: FreeHosts,
    /// How long half of its machines took, in seconds, if any did.
    pub boot_seconds: Option<u64>,
    /// Its priority: higher goes first.
    pub priority: i32,
}

/// Ranks of candidates, in their order: the lower goes first, equal ones are told apart by which is smaller. `RackBalance`
/// is just that, so expanders after it are not asked. What none of them tells apart is told apart by most pods, then by
/// name, so that the same question has the same answer.
#[must_use]
pub fn ranks(candidates: &[Candidate], expanders: &[Expander]) -> Vec<u32> {
    let expanders = if expanders.is_empty() { &USUAL } else { expanders };
    let balance = expanders.iter().position(|expander| *expander == Expander::RackBalance);
    let asked = &expanders[..balance.unwrap_or(expanders.len())];
    let fastest = candidates.iter().filter_map(|candidate| candidate.boot_seconds).min().unwrap_or(0);
    let told = |a: &Candidate, b: &Candidate| {
        let told = asked.iter().map(|expander| compare(*expander, fastest, a, b)).find(|told| told.is_ne());
        told.unwrap_or_else(|| match balance {
            Some(_) => Ordering::Equal,
            None => Reverse(a.pods).cmp(&Reverse(b.pods)).then_with(|| a.group.cmp(&b.group)),
        })
    };
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    order.sort_by(|a, b| told(a, b).then_with(|| a.group.cmp(&b.group)));
    let rank = |candidate: &Candidate| order.partition_point(|other| told(other, candidate).is_lt());
    candidates.iter().map(|candidate| u32::try_from(rank(candidate)).unwrap_or(u32::MAX)).collect()
}

fn compare(expander: Expander, fastest: u64, a: &Candidate, b: &Candidate) -> Ordering {
    match expander {
        Expander::PowerReady => (slowest(a), slower(a, fastest)).cmp(&(slowest(b), slower(b, fastest))),
        Expander::Priority => b.priority.cmp(&a.priority),
        // Told by the number of nodes, while they are added.
        Expander::RackBalance => Ordering::Equal,
        // Shares that differ by less than a hundredth are told apart by rounding alone.
        Expander::LeastWaste => hundredths(a.waste).cmp(&hundredths(b.waste)),
    }
}

/// How ready the least ready host is that would be taken: 0 running, 1 staged, 2 off.
fn slowest(candidate: &Candidate) -> u8 {
    let FreeHosts { running, staged, off: _ } = candidate.free;
    match candidate.nodes {
        nodes if nodes <= running => 0,
        nodes if nodes <= running + staged => 1,
        _ => 2,
    }
}

/// How much slower than the fastest its machines start, in steps of half as long again; what is not known yet is taken for
/// as fast, or it would never be known. Servers of one kind never take the same time to the second, which is no reason to
/// fill one rack before the other.
fn slower(candidate: &Candidate, fastest: u64) -> u32 {
    let Some(seconds) = candidate.boot_seconds else { return 0 };
    let ratio = seconds.max(1) as f64 / fastest.max(1) as f64;
    ratio.log(1.5).floor().clamp(0.0, f64::from(u16::MAX)) as u32
}

fn hundredths(share: f64) -> i32 {
    (share * 100.0).round() as i32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn candidate(group: &str, change: impl FnOnce(&mut Candidate)) -> Candidate {
        let mut candidate = Candidate {
            group: group.to_owned(),
            nodes: 2,
            pods: 4,
            waste: 0.5,
            free: FreeHosts { running: 0, staged: 0, off: 9 },
            boot_seconds: Some(600),
            ..Candidate::default()
        };
        change(&mut candidate);
        candidate
    }

    use Expander::{LeastWaste, PowerReady, Priority, RackBalance};

    #[rstest]
    #[case::running_first(&[], |c: &mut Candidate| c.free.running = 2, [1, 0])]
    #[case::too_few_run(&[], |c: &mut Candidate| c.free.running = 1, [0, 0])]
    #[case::staged_before_off(&[], |c: &mut Candidate| c.free.staged = 2, [1, 0])]
    #[case::the_faster(&[], |c: &mut Candidate| c.boot_seconds = Some(300), [1, 0])]
    #[case::about_as_fast(&[], |c: &mut Candidate| c.boot_seconds = Some(500), [0, 0])]
    #[case::unknown_is_as_fast(&[], |c: &mut Candidate| c.boot_seconds = None, [0, 0])]
    #[case::after_balance_nothing_is_asked(&[], |c: &mut Candidate| c.waste = 0.1, [0, 0])]
    #[case::less_waste(&[LeastWaste, RackBalance], |c: &mut Candidate| c.waste = 0.1, [1, 0])]
    #[case::waste_before_power(&[LeastWaste, PowerReady], |c: &mut Candidate| { c.waste = 0.9; c.free.running = 9; }, [0, 1])]
    #[case::more_pods(&[LeastWaste], |c: &mut Candidate| c.pods = 5, [1, 0])]
    #[case::the_first_name(&[LeastWaste], |_: &mut Candidate| {}, [0, 1])]
    #[case::priority(&[Priority], |c: &mut Candidate| { c.priority = 1; c.waste = 0.9; }, [1, 0])]
    #[case::only_what_is_asked(&[Priority], |c: &mut Candidate| c.free.running = 9, [0, 1])]
    fn of_two(
        #[case] expanders: &[Expander],
        #[case] change: fn(&mut Candidate),
        #[case] expected: [u32; 2],
    ) {
        let both = [candidate("a", |_| {}), candidate("b", change)];
        assert_eq!(ranks(&both, expanders), expected);
    }

    proptest! {
        /// In whatever order they come, each has the same rank.
        #[test]
        fn order_does_not_matter(
            facts in prop::collection::vec((0i32..4, 0usize..4, 0.0f64..1.0, 0i32..4, prop::option::of(0u64..4)), 1..8),
            turn in 0usize..8,
            asked in prop::sample::subsequence(vec![PowerReady, Priority, RackBalance, LeastWaste], 0..5),
        ) {
            let mut all: Vec<Candidate> = facts
                .into_iter()
                .enumerate()
                .map(|(i, (running, pods, waste, priority, boot_seconds))| Candidate {
                    group: format!("group-{i}"),
                    nodes: 2,
                    pods,
                    waste,
                    free: FreeHosts { running, staged: 1, off: 1 },
                    boot_seconds,
                    priority,
                })
                .collect();
            let mut first = ranks(&all, &asked);
            let turn = turn % all.len();
            all.rotate_left(turn);
            first.rotate_left(turn);
            prop_assert_eq!(ranks(&all, &asked), first);
        }
    }
}

//! A cluster compiled for one decision: what does not change while pods are moved about in thought.
//!
//! Pods that can run in the same places and count the same for others are one *class*: equal specs, equal volumes, and
//! labels equal in every key that any selector looks at (a StatefulSet's or an indexed Job's own labels do not make each
//! of its pods a class). Each selector that anything asks about becomes a *matcher*, and for each *target*, which is a
//! namespace with labels, it is found out once which of them match.

use std::collections::{BTreeSet, HashMap};

use super::cluster::Cluster;
use super::matching::{Matcher, Matchers, Spaces};
use super::model::{Budget, Pod, PodTerm, Spec, Spread, Toleration};
use super::select::{Namespaces, NodeTerms, Requirement, Selector};
use super::symbols::{Labels, Sym};
use super::volumes::{VolumeRule, rules};

/// The number of a node's free places for pods among its resources.
pub(super) const PODS: usize = 0;

/// Pods that are the same for every decision.
#[derive(Debug, Clone)]
pub(super) struct Class<'a> {
    pub(super) spec: &'a Spec,
    pub(super) target: usize,
    pub(super) fixed: usize,
    /// Resource and amount; a place for the pod first.
    pub(super) need: Box<[(usize, i64)]>,
    pub(super) spreads: Box<[SpreadUse]>,
    /// Tallies of the pods that match all affinity terms, one for each label.
    pub(super) affinity: Box<[usize]>,
    /// Whether its own pods match its affinity terms.
    pub(super) affine_to_itself: bool,
    /// Tallies of the pods that match an anti-affinity term.
    pub(super) anti: Box<[usize]>,
    /// Tallies in which its pods count as holders of their anti-affinity terms.
    pub(super) holds: Box<[usize]>,
}

impl Class<'_> {
    /// Whether a node that does not fit now may fit once other pods are placed.
    pub(super) fn may_fit_later(&self) -> bool {
        !self.spreads.is_empty() || !self.affinity.is_empty()
    }
}

/// A spread constraint of a class.
#[derive(Debug, Clone)]
pub(super) struct SpreadUse {
    pub(super) key: usize,
    pub(super) max_skew: i64,
    pub(super) min_domains: i32,
    /// Its count; none if its selector counts nothing.
    pub(super) tally: Option<usize>,
    /// 1 if its own pods are counted.
    pub(super) own: i64,
}

/// What a pod of a target means for others.
#[derive(Debug, Clone, Default)]
pub(super) struct Effects {
    /// Tallies in which it counts.
    pub(super) seen: Box<[usize]>,
    /// Spread tallies in which it counts unless it is leaving.
    pub(super) spreads: Box<[usize]>,
    /// Tallies of the holders of anti-affinity terms that match it.
    pub(super) hostile: Box<[usize]>,
    /// Budgets that guard it.
    pub(super) budgets: Box<[usize]>,
}

/// What decides by the node alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Fixed {
    pub(super) affinity: usize,
    pub(super) tolerations: usize,
    pub(super) volumes: usize,
}

/// Which nodes count for a spread constraint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Eligible {
    /// They have all these labels.
    pub(super) keys: Box<[usize]>,
    /// They match this node affinity.
    pub(super) affinity: Option<usize>,
    /// Their taints are tolerated.
    pub(super) tolerations: Option<usize>,
}

/// Items by number, each once.
#[derive(Debug, Clone)]
pub(super) struct Numbered<T> {
    pub(super) items: Vec<T>,
    known: HashMap<T, usize>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { items: Vec::new(), known: HashMap::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Numbered<T> {
    pub(super) fn number(&mut self, item: T) -> usize {
        if let Some(&known) = self.known.get(&item) {
            return known;
        }
        let at = self.items.len();
        self.items.push(item.clone());
        self.known.insert(item, at);
        at
    }
}

/// The compiled cluster.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) pods: Vec<&'a Pod>,
    pub(super) class_of: Vec<usize>,
    pub(super) classes: Vec<Class<'a>>,
    pub(super) effects: Vec<Effects>,
    pub(super) budgets: Vec<&'a Budget>,
    /// Classes of the DaemonSets' pods.
    pub(super) daemons: Vec<usize>,
    /// All resources that anybody asks for; the places for pods first.
    pub(super) resources: Numbered<Sym>,
    pub(super) keys: Numbered<Sym>,
    pub(super) affinities: Numbered<(&'a Labels, Option<&'a NodeTerms>)>,
    pub(super) tolerations: Numbered<&'a [Toleration]>,
    pub(super) volumes: Numbered<Box<[VolumeRule<'a>]>>,
    pub(super) fixed: Numbered<Fixed>,
    pub(super) eligible: Numbered<Eligible>,
    /// Label and eligible nodes of each set of domains.
    pub(super) domains: Numbered<(usize, usize)>,
    /// The label of each tally.
    pub(super) tallies: Vec<usize>,
    /// The domains of each spread tally.
    pub(super) spreads: Vec<usize>,
}

/// What is needed while compiling only.
struct Compiler<'a> {
    index: Index<'a>,
    matchers: Matchers,
    /// Tallies by matcher and label: of the pods that match, and of the holders of the term.
    seen: HashMap<(usize, usize), usize>,
    held: HashMap<(usize, usize), usize>,
    spread: HashMap<(usize, usize), usize>,
    spaces: Vec<(Sym, &'a Labels)>,
    keys: BTreeSet<Sym>,
    projected: HashMap<u32, usize>,
    label_sets: Numbered<Labels>,
    targets: Numbered<(Sym, usize)>,
    classes: HashMap<(u32, usize, usize), usize>,
    no_labels: &'a Labels,
}

static NO_LABELS: std::sync::LazyLock<Labels> = std::sync::LazyLock::new(Labels::default);

impl<'a> Index<'a> {
    /// Compiles all pods, daemons and budgets of a cluster.
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let mut compiler = Compiler {
            index: Self {
                cluster,
                pods: cluster.pods.values().collect(),
                class_of: Vec::with_capacity(cluster.pods.len()),
                classes: Vec::new(),
                effects: Vec::new(),
                budgets: cluster.budgets.values().collect(),
                daemons: Vec::new(),
                resources: Numbered::default(),
                keys: Numbered::default(),
                affinities: Numbered::default(),
                tolerations: Numbered::default(),
                volumes: Numbered::default(),
                fixed: Numbered::default(),
                eligible: Numbered::default(),
                domains: Numbered::default(),
                tallies: Vec::new(),
                spreads: Vec::new(),
            },
            matchers: Matchers::default(),
            seen: HashMap::new(),
            held: HashMap::new(),
            spread: HashMap::new(),
            spaces: Vec::new(),
            keys: BTreeSet::new(),
            projected: HashMap::new(),
            label_sets: Numbered::default(),
            targets: Numbered::default(),
            classes: HashMap::new(),
            no_labels: &NO_LABELS,
        };
        compiler.index.resources.number(Sym::PODS);
        compiler.collect_keys();
        compiler.collect_spaces();
        for at in 0..compiler.index.pods.len() {
            let pod = compiler.index.pods[at];
            let class = compiler.class(pod.namespace, pod.labels, pod.spec, &pod.claims);
            compiler.index.class_of.push(class);
        }
        for daemon in cluster.daemons.values() {
            let class = compiler.class(daemon.namespace, daemon.labels, daemon.spec, &[]);
            compiler.index.daemons.push(class);
        }
        compiler.finish()
    }
}

impl<'a> Compiler<'a> {
    /// The label keys that any selector looks at.
    fn collect_keys(&mut self) {
        let cluster = self.index.cluster;
        let used: BTreeSet<u32> = cluster
            .pods
            .values()
            .map(|pod| pod.spec)
            .chain(cluster.daemons.values().map(|daemon| daemon.spec))
            .collect();
        for spec in used.into_iter().filter_map(|spec| cluster.specs.get(spec)) {
            let terms = spec.affinity.iter().chain(&spec.anti_affinity).map(|term| &term.selector);
            let spreads = spec.spread.iter().map(|spread| &spread.selector);
            self.keys.extend(terms.chain(spreads).flatten().flat_map(Selector::keys));
            self.keys.extend(spec.spread.iter().flat_map(|spread| spread.match_label_keys.iter().copied()));
        }
        let selectors = cluster.budgets.values().filter_map(|budget| budget.selector.as_ref());
        self.keys.extend(selectors.flat_map(Selector::keys));
    }

    /// All namespaces, with their labels.
    fn collect_spaces(&mut self) {
        let cluster = self.index.cluster;
        let pods = cluster.pods.values().map(|pod| pod.namespace);
        let daemons = cluster.daemons.values().map(|daemon| daemon.namespace);
        let names: BTreeSet<Sym> = pods.chain(daemons).chain(cluster.namespaces.keys().copied()).collect();
        self.spaces = names
            .into_iter()
            .map(|name| (name, cluster.namespaces.get(&name).unwrap_or(self.no_labels)))
            .collect();
    }

    fn class(&mut self, namespace: Sym, labels: u32, spec: u32, claims: &[Sym]) -> usize {
        let cluster = self.index.cluster;
        let set = match self.projected.get(&labels) {
            Some(&set) => set,
            None => {
                let all = cluster.labels.get(labels).unwrap_or(self.no_labels);
                let set = self.label_sets.number(all.only(|key| self.keys.contains(&key)));
                self.projected.insert(labels, set);
                set
            }
        };
        let target = self.targets.number((namespace, set));
        let rules = claims.iter().flat_map(|&claim| rules(cluster, namespace, claim)).collect();
        let volumes = self.index.volumes.number(rules);
        if let Some(&class) = self.classes.get(&(spec, target, volumes)) {
            return class;
        }
        let number = self.index.classes.len();
        self.classes.insert((spec, target, volumes), number);
        let class = self.compile(spec, target, volumes);
        self.index.classes.push(class);
        number
    }

    fn compile(&mut self, spec: u32, target: usize, volumes: usize) -> Class<'a> {
        let cluster = self.index.cluster;
        let spec = cluster.specs.get(spec).unwrap_or(&EMPTY_SPEC);
        let (namespace, set) = self.targets.items[target];
        let affinity = self.index.affinities.number((&spec.node_selector, spec.node_affinity.as_ref()));
        let tolerations = self.index.tolerations.number(&spec.tolerations);
        let mut need = vec![(PODS, 1)];
        need.extend(
            spec.requests.iter().map(|&(resource, amount)| (self.index.resources.number(resource), amount)),
        );

        let keys: BTreeSet<usize> =
            spec.spread.iter().map(|spread| self.index.keys.number(spread.key)).collect();
        let keys: Box<[usize]> = keys.into_iter().collect();
        let spreads = spec
            .spread
            .iter()
            .map(|spread| {
                let eligible = Eligible {
                    keys: keys.clone(),
                    affinity: (!spread.ignore_affinity).then_some(affinity),
                    tolerations: spread.honor_taints.then_some(tolerations),
                };
                self.spread(spread, eligible, namespace, set)
            })
            .collect();

        let parts = spec.affinity.iter().map(|term| self.part(term, namespace)).collect::<Option<Vec<_>>>();
        let (together, affine_to_itself) = match parts {
            Some(parts) if !parts.is_empty() => {
                let matcher = self.matchers.number(Matcher(parts));
                let keys: BTreeSet<usize> =
                    spec.affinity.iter().map(|term| self.index.keys.number(term.key)).collect();
                let own =
                    self.matchers.matches(matcher, namespace, &self.label_sets.items[set], &cluster.symbols);
                (keys.into_iter().map(|key| self.seen(matcher, key)).collect(), own)
            }
            // A term without a selector matches no pod: nothing can be affine to all of them.
            None => (spec.affinity.iter().map(|term| self.never(term.key)).collect(), false),
            Some(_) => (Box::default(), false),
        };
        let mut anti = Vec::new();
        let mut holds = Vec::new();
        for term in &spec.anti_affinity {
            if let Some(part) = self.part(term, namespace) {
                let matcher = self.matchers.number(Matcher(vec![part]));
                let key = self.index.keys.number(term.key);
                anti.push(self.seen(matcher, key));
                holds.push(self.held(matcher, key));
            }
        }
        Class {
            spec,
            target,
            fixed: self.index.fixed.number(Fixed { affinity, tolerations, volumes }),
            need: need.into_boxed_slice(),
            spreads,
            affinity: together,
            affine_to_itself,
            anti: anti.into_boxed_slice(),
            holds: holds.into_boxed_slice(),
        }
    }

    fn spread(&mut self, spread: &Spread, eligible: Eligible, namespace: Sym, set: usize) -> SpreadUse {
        let key = self.index.keys.number(spread.key);
        let labels = self.label_sets.items[set].clone();
        let selector = spread.selector.as_ref().map(|selector| {
            let own = spread.match_label_keys.iter();
            let own = own.filter_map(|&key| Some(Requirement::one_of(key, vec![labels.get(key)?])));
            let all = selector.0.iter().cloned().chain(own).collect();
            Selector::new(all, &self.index.cluster.symbols)
        });
        let own =
            selector.as_ref().is_some_and(|selector| selector.matches(&labels, &self.index.cluster.symbols));
        // kube-scheduler counts no pod for a selector that asks for nothing.
        let tally = selector.filter(|selector| !selector.is_empty()).map(|selector| {
            let matcher = self.matchers.number(Matcher(vec![(Spaces::One(namespace), selector)]));
            let eligible = self.index.eligible.number(eligible);
            let domains = self.index.domains.number((key, eligible));
            *self.spread.entry((matcher, domains)).or_insert_with(|| {
                self.index.spreads.push(domains);
                self.index.spreads.len() - 1
            })
        });
        SpreadUse {
            key,
            max_skew: i64::from(spread.max_skew),
            min_domains: spread.min_domains,
            tally,
            own: i64::from(own),
        }
    }

    /// A term as part of a matcher; `None` if it has no selector.
    fn part(&self, term: &PodTerm, own: Sym) -> Option<(Spaces, Selector)> {
        let selector = term.selector.clone()?;
        let spaces = match &term.namespaces {
            Namespaces::Own => Spaces::One(own),
            Namespaces::Chosen { listed, selector } => {
                let symbols = &self.index.cluster.symbols;
                let chosen = |labels: &Labels| selector.as_ref().is_some_and(|s| s.matches(labels, symbols));
                let found = self.spaces.iter().filter(|(_, labels)| chosen(labels)).map(|&(name, _)| name);
                let all: BTreeSet<Sym> = found.chain(listed.iter().copied()).collect();
                Spaces::Several(all.into_iter().collect())
            }
        };
        Some((spaces, selector))
    }

    fn seen(&mut self, matcher: usize, key: usize) -> usize {
        *self.seen.entry((matcher, key)).or_insert_with(|| {
            self.index.tallies.push(key);
            self.index.tallies.len() - 1
        })
    }

    fn held(&mut self, matcher: usize, key: usize) -> usize {
        *self.held.entry((matcher, key)).or_insert_with(|| {
            self.index.tallies.push(key);
            self.index.tallies.len() - 1
        })
    }

    /// A tally that stays empty.
    fn never(&mut self, key: Sym) -> usize {
        let key = self.index.keys.number(key);
        self.index.tallies.push(key);
        self.index.tallies.len() - 1
    }

    /// Finds what each target means for others.
    fn finish(mut self) -> Index<'a> {
        let symbols = &self.index.cluster.symbols;
        let mut guards: HashMap<usize, Vec<usize>> = HashMap::new();
        for (at, budget) in self.index.budgets.iter().enumerate() {
            if let Some(selector) = &budget.selector {
                let matcher = Matcher(vec![(Spaces::One(budget.namespace), selector.clone())]);
                guards.entry(self.matchers.number(matcher)).or_default().push(at);
            }
        }
        let by_matcher = |map: &HashMap<(usize, usize), usize>| {
            let mut by: Vec<Vec<usize>> = vec![Vec::new(); self.matchers.len()];
            for (&(matcher, _), &tally) in map {
                by[matcher].push(tally);
            }
            by.iter_mut().for_each(|tallies| tallies.sort_unstable());
            by
        };
        let (seen, held, spread) = (by_matcher(&self.seen), by_matcher(&self.held), by_matcher(&self.spread));
        let finder = self.matchers.finder();
        let effects = self.targets.items.iter().map(|&(namespace, set)| {
            let matched = finder.matching(namespace, &self.label_sets.items[set], symbols);
            let all =
                |by: &[Vec<usize>]| matched.iter().flat_map(|&matcher| by[matcher].iter().copied()).collect();
            let budgets =
                matched.iter().filter_map(|matcher| guards.get(matcher)).flatten().copied().collect();
            Effects { seen: all(&seen), spreads: all(&spread), hostile: all(&held), budgets }
        });
        self.index.effects = effects.collect();
        self.index
    }
}

static EMPTY_SPEC: std::sync::LazyLock<Spec> = std::sync::LazyLock::new(Spec::default);

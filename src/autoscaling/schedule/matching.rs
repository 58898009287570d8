//! Which selectors match which labels, found without trying each with each.

use std::collections::HashMap;

use super::index::Numbered;
use super::select::{Selector, Test};
use super::symbols::{Labels, Sym, Symbols};

/// In which namespaces pods are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Spaces {
    /// In one.
    One(Sym),
    /// In these; sorted.
    Several(Box<[Sym]>),
}

impl Spaces {
    fn has(&self, namespace: Sym) -> bool {
        match self {
            Self::One(one) => *one == namespace,
            Self::Several(all) => all.binary_search(&namespace).is_ok(),
        }
    }
}

/// What asks about pods: each part must match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Matcher(pub(super) Vec<(Spaces, Selector)>);

impl Matcher {
    fn matches(&self, namespace: Sym, labels: &Labels, symbols: &Symbols) -> bool {
        self.0.iter().all(|(spaces, selector)| spaces.has(namespace) && selector.matches(labels, symbols))
    }
}

/// All matchers, each once.
#[derive(Debug, Default)]
pub(super) struct Matchers(Numbered<Matcher>);

impl Matchers {
    pub(super) fn number(&mut self, matcher: Matcher) -> usize {
        self.0.number(matcher)
    }

    pub(super) fn len(&self) -> usize {
        self.0.items.len()
    }

    pub(super) fn matches(&self, matcher: usize, namespace: Sym, labels: &Labels, symbols: &Symbols) -> bool {
        self.0.items[matcher].matches(namespace, labels, symbols)
    }

    /// Sorts them by a label value that they cannot match without.
    pub(super) fn finder(&self) -> Finder<'_> {
        let mut finder = Finder { matchers: &self.0.items, by_label: HashMap::new(), others: Vec::new() };
        for (at, matcher) in self.0.items.iter().enumerate() {
            let sure = matcher.0.iter().flat_map(|(_, selector)| &selector.0).find_map(|requirement| {
                match &requirement.test {
                    Test::In(values) => Some((requirement.key, values)),
                    _ => None,
                }
            });
            match sure {
                Some((key, values)) => {
                    for &value in values {
                        finder.by_label.entry((key, value)).or_default().push(at);
                    }
                }
                None => finder.others.push(at),
            }
        }
        finder
    }
}

/// Matchers by label.
pub(super) struct Finder<'m> {
    matchers: &'m [Matcher],
    by_label: HashMap<(Sym, Sym), Vec<usize>>,
    others: Vec<usize>,
}

impl Finder<'_> {
    /// The matchers that match; sorted.
    pub(super) fn matching(&self, namespace: Sym, labels: &Labels, symbols: &Symbols) -> Vec<usize> {
        let by_label = labels.iter().filter_map(|pair| self.by_label.get(&pair)).flatten();
        let mut found: Vec<usize> = by_label
            .chain(&self.others)
            .copied()
            .filter(|&at| self.matchers[at].matches(namespace, labels, symbols))
            .collect();
        found.sort_unstable();
        found
    }
}

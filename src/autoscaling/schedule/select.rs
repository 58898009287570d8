//! Selectors over labels: of pods, of namespaces, of nodes.
//!
//! What kube-scheduler evaluates through `k8s.io/apimachinery/pkg/labels` and
//! `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`, on interned strings. An absent label selector matches
//! nothing (`Option::None` here), an empty one everything.

use super::symbols::{Labels, Sym, Symbols};

/// What one requirement asks of the value of its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Test {
    /// One of these; sorted.
    In(Box<[Sym]>),
    /// None of these, or the key is absent; sorted.
    NotIn(Box<[Sym]>),
    /// Any value.
    Exists,
    /// The key is absent.
    Absent,
    /// An integer above this one; nodes only.
    Above(i64),
    /// An integer below this one; nodes only.
    Below(i64),
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The key of the label.
    pub key: Sym,
    /// What is asked of its value.
    pub test: Test,
}

impl Requirement {
    /// The value of the key is one of these.
    pub fn one_of(key: Sym, mut values: Vec<Sym>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self { key, test: Test::In(values.into_boxed_slice()) }
    }

    /// Whether labels satisfy it.
    pub fn holds(&self, labels: &Labels, symbols: &Symbols) -> bool {
        let value = labels.get(self.key);
        // As Go reads integers: decimal, an optional sign, 64 bits.
        let number = || value.and_then(|value| symbols.name(value).parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.binary_search(&value).is_ok()),
            Test::NotIn(values) => value.is_none_or(|value| values.binary_search(&value).is_err()),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Above(bound) => number().is_some_and(|number| number > *bound),
            Test::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// All of these must hold; none means that everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector(pub Box<[Requirement]>);

impl Selector {
    /// Requirements in one order whatever order they came in, so that equal selectors are equal.
    pub fn new(mut requirements: Vec<Requirement>, symbols: &Symbols) -> Self {
        requirements
            .sort_by(|a, b| (symbols.name(a.key), rank(&a.test)).cmp(&(symbols.name(b.key), rank(&b.test))));
        requirements.dedup();
        Self(requirements.into_boxed_slice())
    }

    /// Whether labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels, symbols: &Symbols) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels, symbols))
    }

    /// The keys that it looks at.
    pub fn keys(&self) -> impl Iterator<Item = Sym> + '_ {
        self.0.iter().map(|requirement| requirement.key)
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn rank(test: &Test) -> u8 {
    match test {
        Test::In(_) => 0,
        Test::NotIn(_) => 1,
        Test::Exists => 2,
        Test::Absent => 3,
        Test::Above(_) => 4,
        Test::Below(_) => 5,
    }
}

/// What a term asks of the name of a node (`matchFields` with key `metadata.name`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameTest {
    /// The name.
    pub name: Sym,
    /// Whether the node must have this name, or must not.
    pub equal: bool,
}

/// One term of a node selector: all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    /// Of the labels.
    pub labels: Selector,
    /// Of the name.
    pub names: Box<[NameTest]>,
}

impl NodeTerm {
    /// Whether a node of this name with these labels satisfies it.
    pub fn matches(&self, name: Sym, labels: &Labels, symbols: &Symbols) -> bool {
        self.names.iter().all(|test| (test.name == name) == test.equal)
            && self.labels.matches(labels, symbols)
    }
}

/// Terms of which one must hold. Terms that are empty or cannot be read match no node, as in the scheduler, and are
/// left out when a selector is made: one without any term matches no node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct NodeTerms(pub Box<[NodeTerm]>);

impl NodeTerms {
    /// Whether a node of this name with these labels satisfies one of them.
    pub fn matches(&self, name: Sym, labels: &Labels, symbols: &Symbols) -> bool {
        self.0.iter().any(|term| term.matches(name, labels, symbols))
    }
}

/// Namespaces in which a pod (anti-)affinity term looks for pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Namespaces {
    /// That of the pod with the term.
    Own,
    /// Those listed and those that the selector matches.
    Chosen {
        /// By name; sorted.
        listed: Box<[Sym]>,
        /// By the namespace's labels.
        selector: Option<Selector>,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Test::Above(9), Some("10"), true)]
    #[case(Test::Above(10), Some("10"), false)]
    #[case(Test::Above(-5), Some("-4"), true)]
    #[case(Test::Above(0), Some("+1"), true)]
    #[case(Test::Above(0), Some("1.5"), false)]
    #[case(Test::Above(0), Some("many"), false)]
    #[case(Test::Above(0), Some("99999999999999999999"), false)]
    #[case(Test::Above(0), None, false)]
    #[case(Test::Below(0), Some("-1"), true)]
    #[case(Test::Below(0), Some("0"), false)]
    #[case(Test::Below(0), None, false)]
    #[case(Test::Exists, Some(""), true)]
    #[case(Test::Exists, None, false)]
    #[case(Test::Absent, Some(""), false)]
    #[case(Test::Absent, None, true)]
    fn tests_of_values(#[case] test: Test, #[case] value: Option<&str>, #[case] expected: bool) {
        let mut symbols = Symbols::default();
        let key = symbols.intern("key");
        let labels = Labels::new(value.map(|value| (key, symbols.intern(value))).into_iter().collect());
        assert_eq!(Requirement { key, test }.holds(&labels, &symbols), expected);
    }

    #[test]
    fn sets_of_values() {
        let mut symbols = Symbols::default();
        let [key, a, b, c] = ["key", "a", "b", "c"].map(|name| symbols.intern(name));
        let inside = Requirement::one_of(key, vec![b, a, a]);
        let outside = Requirement { key, test: Test::NotIn(vec![a, b].into()) };
        for (value, is_in) in [(Some(a), true), (Some(b), true), (Some(c), false), (None, false)] {
            let labels = Labels::new(value.map(|value| (key, value)).into_iter().collect());
            assert_eq!(inside.holds(&labels, &symbols), is_in);
            assert_eq!(outside.holds(&labels, &symbols), !is_in);
        }
    }

    #[test]
    fn terms_are_alternatives_and_none_is_none() {
        let mut symbols = Symbols::default();
        let [name, other, key, value] = ["n1", "n2", "k", "v"].map(|name| symbols.intern(name));
        let labels = Labels::new(vec![(key, value)]);
        let named = |equal| NodeTerm { names: Box::new([NameTest { name, equal }]), ..NodeTerm::default() };
        let labelled = NodeTerm {
            labels: Selector(Box::new([Requirement::one_of(key, vec![value])])),
            ..NodeTerm::default()
        };
        assert!(!NodeTerms::default().matches(name, &labels, &symbols));
        assert!(NodeTerms(Box::new([named(true)])).matches(name, &labels, &symbols));
        assert!(!NodeTerms(Box::new([named(true)])).matches(other, &labels, &symbols));
        assert!(NodeTerms(Box::new([named(false)])).matches(other, &labels, &symbols));
        assert!(NodeTerms(Box::new([named(true), labelled])).matches(other, &labels, &symbols));
    }
}

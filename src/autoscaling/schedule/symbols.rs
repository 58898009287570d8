//! Strings once: everything that is compared often is an index.
//!
//! An index says nothing about order: it follows the order of arrival. Whatever decides between two things that are
//! equally good compares names.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

/// One interned string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sym(u32);

impl Sym {
    /// Resource `cpu`, in thousandths of a core.
    pub const CPU: Self = Self(0);
    /// Resource `memory`, in bytes.
    pub const MEMORY: Self = Self(1);
    /// Resource `ephemeral-storage`, in bytes.
    pub const EPHEMERAL_STORAGE: Self = Self(2);
    /// Resource `pods`: how many pods a node takes.
    pub const PODS: Self = Self(3);
    /// Label `kubernetes.io/hostname`: a domain of one node.
    pub const HOSTNAME: Self = Self(4);
    /// Name and host name of a node that does not exist yet: equal to no other, and each such node has its own.
    pub const NEW_NODE: Self = Self(5);
    /// Namespace `kube-system`.
    pub const KUBE_SYSTEM: Self = Self(6);
    /// Taint `node.kubernetes.io/unschedulable`, by which a pod says that it tolerates a cordoned node.
    pub const UNSCHEDULABLE: Self = Self(7);
    /// The empty string.
    pub const EMPTY: Self = Self(8);
    /// Protocol `TCP`, the default of a port.
    pub const TCP: Self = Self(9);
}

impl Default for Sym {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// In the order of the constants of [`Sym`]. No Kubernetes name has a NUL byte.
const FIXED: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "pods",
    "kubernetes.io/hostname",
    "\0new",
    "kube-system",
    "node.kubernetes.io/unschedulable",
    "",
    "TCP",
];

/// All strings of a cluster.
#[derive(Debug, Clone)]
pub struct Symbols {
    names: Vec<Arc<str>>,
    index: HashMap<Arc<str>, Sym>,
}

impl Default for Symbols {
    fn default() -> Self {
        let mut symbols = Self { names: Vec::new(), index: HashMap::new() };
        for name in FIXED {
            symbols.intern(name);
        }
        symbols
    }
}

impl Symbols {
    /// The index of a string, new or known.
    pub fn intern(&mut self, name: &str) -> Sym {
        if let Some(&sym) = self.index.get(name) {
            return sym;
        }
        // 2³² strings would need more memory than the objects that hold them may have.
        let sym = Sym(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.index.insert(name, sym);
        sym
    }

    /// The index of a string that was seen before.
    pub fn get(&self, name: &str) -> Option<Sym> {
        self.index.get(name).copied()
    }

    /// The string of an index; empty for an index of another table.
    pub fn name(&self, sym: Sym) -> &str {
        self.names.get(sym.0 as usize).map_or("", |name| name)
    }

    /// How many strings there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never: some strings are always known.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Labels, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Sym, Sym)]>);

impl Labels {
    /// From pairs in any order; of one key twice, the first counts.
    pub fn new(mut pairs: Vec<(Sym, Sym)>) -> Self {
        pairs.sort_by_key(|&(key, _)| key);
        pairs.dedup_by_key(|&mut (key, _)| key);
        Self(pairs.into_boxed_slice())
    }

    /// The value of a key.
    pub fn get(&self, key: Sym) -> Option<Sym> {
        let at = self.0.binary_search_by_key(&key, |&(key, _)| key).ok()?;
        self.0.get(at).map(|&(_, value)| value)
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (Sym, Sym)> + '_ {
        self.0.iter().copied()
    }

    /// Only the keys that are asked for.
    pub fn only(&self, wanted: impl Fn(Sym) -> bool) -> Self {
        Self(self.0.iter().copied().filter(|&(key, _)| wanted(key)).collect())
    }

    /// The same with one key set.
    pub fn with(&self, key: Sym, value: Sym) -> Self {
        let mut pairs = vec![(key, value)];
        pairs.extend(self.iter().filter(|&(other, _)| other != key));
        Self::new(pairs)
    }
}

/// Equal things once: what many pods share is stored once and compared by index.
#[derive(Debug, Clone)]
pub struct Pool<T> {
    items: Vec<Arc<T>>,
    index: HashMap<Arc<T>, u32>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { items: Vec::new(), index: HashMap::new() }
    }
}

impl<T: Eq + Hash> Pool<T> {
    /// The index of an item, new or known.
    pub fn intern(&mut self, item: T) -> u32 {
        if let Some(&known) = self.index.get(&item) {
            return known;
        }
        let at = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        let item = Arc::new(item);
        self.items.push(item.clone());
        self.index.insert(item, at);
        at
    }

    /// The item of an index of this pool.
    pub fn get(&self, at: u32) -> Option<&T> {
        self.items.get(at as usize).map(AsRef::as_ref)
    }

    /// The items in the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(AsRef::as_ref)
    }

    /// How many different items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// A map keyed by indices: multiply and rotate, since nobody outside chooses an index.
pub(super) type IndexMap<K, V> = HashMap<K, V, BuildHasherDefault<IndexHasher>>;

/// Hashes indices.
#[derive(Default, Clone, Copy)]
pub(super) struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        // The multiplier is that of Knuth's multiplicative hashing: 2⁶⁴ divided by the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_constants_are_the_strings_they_say() {
        let mut symbols = Symbols::default();
        for (sym, name) in [
            (Sym::CPU, "cpu"),
            (Sym::MEMORY, "memory"),
            (Sym::EPHEMERAL_STORAGE, "ephemeral-storage"),
            (Sym::PODS, "pods"),
            (Sym::HOSTNAME, "kubernetes.io/hostname"),
            (Sym::KUBE_SYSTEM, "kube-system"),
            (Sym::UNSCHEDULABLE, "node.kubernetes.io/unschedulable"),
            (Sym::EMPTY, ""),
            (Sym::TCP, "TCP"),
        ] {
            assert_eq!(symbols.intern(name), sym);
            assert_eq!(symbols.name(sym), name);
        }
        assert_eq!(symbols.len(), FIXED.len());
        assert_eq!(symbols.get("gpu"), None);
    }

    #[test]
    fn labels_are_found_by_key_in_any_order_of_arrival() {
        let mut symbols = Symbols::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| symbols.intern(name));
        let labels = Labels::new(vec![(c, a), (a, b), (a, c)]);
        assert_eq!(labels, Labels::new(vec![(a, b), (c, a)]));
        assert_eq!((labels.get(a), labels.get(b), labels.get(c)), (Some(b), None, Some(a)));
        assert_eq!(labels.only(|key| key == c), Labels::new(vec![(c, a)]));
        assert_eq!(labels.with(c, b).get(c), Some(b));
    }
}

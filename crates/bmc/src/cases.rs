//! How many inputs each property gets, and texts for them.

use proptest::strategy::{BoxedStrategy, Strategy};

/// What `FERRIC_FUZZ_CASES` says, else a short replay.
pub(crate) fn cases(replay: u32) -> u32 {
    std::env::var("FERRIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(replay)
}

/// Texts that a regular expression matches. A pattern that stands for itself as a strategy is compiled anew for each text,
/// which takes longer than most of what is tested.
pub(crate) fn matching(pattern: &str) -> BoxedStrategy<String> {
    let texts = proptest::string::string_regex(pattern);
    texts.unwrap_or_else(|error| unreachable!("{pattern}: {error}")).boxed()
}

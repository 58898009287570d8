//! How many inputs each property gets.

/// What `FERRIC_FUZZ_CASES` says, else a short replay.
pub(crate) fn cases(replay: u32) -> u32 {
    std::env::var("FERRIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(replay)
}

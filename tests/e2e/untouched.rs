//! Servers to which nothing is to be done for a while.

#![allow(dead_code, reason = "not every test uses all of it")]

use ferric_testbed::Stack;
use ferric_testbed::stack::Simulator;

/// Where the journals of some servers stood when it began.
pub struct Untouched {
    journals: Vec<(String, u64)>,
}

impl Untouched {
    /// From now on nothing is to be done to these servers.
    pub async fn from_now<N: AsRef<str>>(stack: &Stack, names: &[N]) -> Self {
        let mut journals = Vec::new();
        for name in names {
            let name = name.as_ref();
            journals.push((name.to_owned(), stack.simulator.journal_end(name).await.unwrap()));
        }
        Self { journals }
    }

    /// Their BMCs took no write since, and their power did not change. Reads and logins are no writes.
    pub async fn check(&self, stack: &Stack) {
        self.check_in(&stack.simulator).await;
    }

    /// The same, for a simulator.
    pub async fn check_in(&self, simulator: &Simulator) {
        for (name, since) in &self.journals {
            let journal = simulator.journal(name, *since).await.unwrap();
            let touched: Vec<_> =
                journal.iter().filter(|entry| entry.write().is_some() || entry.power().is_some()).collect();
            assert!(touched.is_empty(), "{name}: {touched:#?}");
        }
    }
}

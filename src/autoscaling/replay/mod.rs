//! What would have happened: loads replayed on a simulated clock against a policy. Pure: the same load and seed give the
//! same outcome.
//!
//! A world has racks of hosts that take their time to boot, pods that come, wait, run and end, and a scheduler:
//! our scheduling simulation says where a pod fits, and of these nodes the least allocated gets it, as kube-scheduler's
//! `NodeResourcesFit` has it by default. A [`Scaler`] looks at it at its own pace and raises or lowers groups. What a host
//! does before it is a node and after its node is gone (boot, write, wipe) counts as time that it is on.
//!
//! Left out: what nodes use (all is by requests), DaemonSets, images that are pulled, failures of hosts, disruption
//! budgets, and kube-scheduler's other scores.

mod load;
mod model;
mod outcome;
mod policies;
mod shapes;
#[cfg(test)]
mod tests;
mod world;

pub use load::{Arrival, Boot, Kind, Load, Rack, Service, Size};
pub use outcome::{Change, Outcome};
pub use policies::{Action, Baseline, Ours, Scaler, Seen};
pub use shapes::{Figure, Order, Shape, figures};
pub use world::replay;

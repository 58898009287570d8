//! Starts the real things for tests, demo and benches: etcd, kube-apiserver, Cluster API.
//!
//! Everything runs as plain processes on loopback addresses, with all files in one temporary folder, so that several
//! beds live side by side and leave nothing behind. No container runtime, no root, no network once the programs are
//! built.
//!
//! ```no_run
//! # async fn example() -> ferric_testbed::Result<()> {
//! use ferric_testbed::Bed;
//!
//! let bed = Bed::builder().cluster_api(Some("release".into())).start().await?;
//! println!("{}", bed.kubectl(["get", "providers", "-A"]).await?);
//! bed.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod assets;
pub mod bed;
mod cluster_api;
pub mod control_plane;
pub mod demo;
pub mod error;
pub mod fake_kubelet;
pub mod kubeconfig;
pub mod lab;
pub mod media;
pub mod pki;
pub mod ports;
pub mod process;
mod scheduler;
pub mod stack;
pub mod workload;

pub use assets::{Assets, Binary};
pub use bed::{Bed, BedBuilder};
pub use control_plane::{ControlPlane, ControlPlaneSpec};
pub use error::{Error, Result};
pub use fake_kubelet::FakeKubelet;
pub use ports::Port;
pub use process::{Process, ProcessSpec, wait_until};
pub use stack::{Stack, StackBuilder};
pub use workload::Workload;

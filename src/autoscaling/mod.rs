//! What autoscalers need to know and to decide, pure: no Kubernetes client, no clock, no log.

pub mod capacity;

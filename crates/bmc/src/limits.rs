//! Deadlines and limits of a pool.

use std::time::Duration;

/// Deadlines and limits; [`Limits::default`] suits real BMCs.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// TCP and TLS connect.
    pub connect: Duration,
    /// One request with its answer's body.
    pub request: Duration,
    /// A whole operation, waiting for its turn included.
    pub operation: Duration,
    /// Between two looks at a task.
    pub task_poll: Duration,
    /// Until a medium that was accepted is seen in its slot.
    pub media: Duration,
    /// Idle connections are closed after.
    pub idle_connection: Duration,
    /// Largest body of an answer, in bytes.
    pub body: usize,
    /// Most requests of one inspection.
    pub inspect_requests: usize,
    /// Requests to one BMC at a time.
    pub concurrency: usize,
    /// Operations that wait for one BMC at a time; more are refused as busy.
    pub queue: usize,
    /// Requests that may go to one BMC without a pause.
    pub request_burst: u32,
    /// Requests a second to one BMC in the long run.
    pub requests_per_second: f64,
    /// Credentials that were refused are not tried again for.
    pub login_pause: Duration,
    /// Transport failures in a row that open the circuit.
    pub failures: u32,
    /// How long the circuit opens first; doubles with each failed try.
    pub open_min: Duration,
    /// How long it opens at most.
    pub open_max: Duration,
    /// Whether hosts that can only be woken have a driver. Their power cannot be read, so this is for callers that can
    /// do without.
    pub wake_on_lan: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
            operation: Duration::from_secs(120),
            task_poll: Duration::from_secs(1),
            media: Duration::from_secs(30),
            idle_connection: Duration::from_secs(30),
            body: 4 << 20,
            inspect_requests: 200,
            concurrency: 2,
            queue: 32,
            request_burst: 300,
            requests_per_second: 5.0,
            login_pause: Duration::from_secs(15 * 60),
            failures: 3,
            open_min: Duration::from_secs(5),
            open_max: Duration::from_secs(120),
            wake_on_lan: false,
        }
    }
}

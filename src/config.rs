//! The manager's command line. Every flag can also be given as an environment variable `FERRIC_…`; a flag wins.
//!
//! Parsing is clap's; what clap cannot say is checked by [`Options::validate`], purely.

mod autoscaler;
mod events;
mod network;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use url::{Host, Url};

pub use autoscaler::Autoscaling;
pub use events::BmcEvents;
pub use network::{AddressRange, BootWay, Dhcp, DhcpMode, NetworkBoot, Reservation};
pub use units::{Bind, ByteSize};

/// Why the options cannot be used: which flag, why, and what to give instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {cause}; {remedy}")]
pub struct OptionsError {
    /// The flag.
    pub flag: &'static str,
    /// What is wrong with it.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For log collectors.
    Json,
}

/// Options of `ferric manager`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Watch objects in this namespace only [default: all namespaces]
    #[arg(long, env = "FERRIC_NAMESPACE", value_name = "NAMESPACE", help_heading = "What is managed")]
    pub namespace: Option<String>,

    /// Manage only objects whose label cluster.x-k8s.io/watch-filter has this value [default: objects with any value or none]
    #[arg(long, env = "FERRIC_WATCH_FILTER", value_name = "VALUE", help_heading = "What is managed")]
    pub watch_filter: Option<String>,

    /// Namespace of the manager itself: its keys (Secret ferric-agent-keys) and its lease live there [default: $POD_NAMESPACE, else ferric-system]
    #[arg(
        long,
        env = "FERRIC_IDENTITY_NAMESPACE",
        value_name = "NAMESPACE",
        help_heading = "What is managed",
        default_value_t = own_namespace(),
        hide_default_value = true
    )]
    pub identity_namespace: String,

    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, then the pod's service account]
    #[arg(long, env = "FERRIC_KUBECONFIG", value_name = "FILE", help_heading = "What is managed")]
    pub kubeconfig: Option<PathBuf>,

    /// Act only while holding the lease, so that several replicas can stand by. Off only for a single replica
    #[arg(
        long,
        env = "FERRIC_LEADER_ELECT",
        value_name = "BOOL",
        help_heading = "Leader election",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub leader_elect: bool,

    /// Namespace of the lease [default: the identity namespace]
    #[arg(
        long,
        env = "FERRIC_LEADER_ELECTION_NAMESPACE",
        value_name = "NAMESPACE",
        help_heading = "Leader election"
    )]
    pub leader_election_namespace: Option<String>,

    /// Seconds after which a lease that was not renewed may be taken by another replica
    #[arg(
        long,
        env = "FERRIC_LEASE_DURATION_SECONDS",
        value_name = "SECONDS",
        help_heading = "Leader election",
        default_value_t = 15
    )]
    pub lease_duration_seconds: u32,

    /// Seconds after which a leader that could not renew its lease stops acting; less than the lease duration
    #[arg(
        long,
        env = "FERRIC_RENEW_DEADLINE_SECONDS",
        value_name = "SECONDS",
        help_heading = "Leader election",
        default_value_t = 10
    )]
    pub renew_deadline_seconds: u32,

    /// Seconds between two attempts to renew or take the lease; less than the renew deadline
    #[arg(
        long,
        env = "FERRIC_RETRY_PERIOD_SECONDS",
        value_name = "SECONDS",
        help_heading = "Leader election",
        default_value_t = 2
    )]
    pub retry_period_seconds: u32,

    /// Plain HTTP: /healthz and /readyz. 0 turns it off
    #[arg(
        long,
        env = "FERRIC_HEALTH_BIND_ADDRESS",
        value_name = "ADDRESS:PORT",
        help_heading = "Servers",
        default_value = "0.0.0.0:8081"
    )]
    pub health_bind_address: Bind,

    /// Plain HTTP: /metrics in the OpenMetrics format. 0 turns it off
    #[arg(
        long,
        env = "FERRIC_METRICS_BIND_ADDRESS",
        value_name = "ADDRESS:PORT",
        help_heading = "Servers",
        default_value = "0.0.0.0:8080"
    )]
    pub metrics_bind_address: Bind,

    /// Plain HTTP for firmware: boot media and boot scripts under one-time paths
    #[arg(
        long,
        env = "FERRIC_BOOT_BIND_ADDRESS",
        value_name = "ADDRESS:PORT",
        help_heading = "Servers",
        default_value = "0.0.0.0:6180"
    )]
    pub boot_bind_address: SocketAddr,

    /// How hosts and their BMCs reach the boot server, such as http://10.0.0.1:6180 [default: the boot bind address if it is a single one]
    #[arg(long, env = "FERRIC_BOOT_URL", value_name = "URL", help_heading = "Servers")]
    pub boot_url: Option<Url>,

    /// TLS for the in-RAM agents: agent protocol and images
    #[arg(
        long,
        env = "FERRIC_AGENT_BIND_ADDRESS",
        value_name = "ADDRESS:PORT",
        help_heading = "Servers",
        default_value = "0.0.0.0:6183"
    )]
    pub agent_bind_address: SocketAddr,

    /// How agents reach that server, such as https://10.0.0.1:6183 [default: the agent bind address if it is a single one]
    #[arg(long, env = "FERRIC_AGENT_URL", value_name = "URL", help_heading = "Servers")]
    pub agent_url: Option<Url>,

    /// Folder of an agent image, as `make agent-image` makes it: with it servers boot the agent from virtual media, UEFI HTTP boot or PXE [default: none]
    #[arg(long, env = "FERRIC_AGENT_IMAGE_DIR", value_name = "FOLDER", help_heading = "Images")]
    pub agent_image_dir: Option<PathBuf>,

    /// Folder in which fetched and unpacked images are kept; may be emptied at any time
    #[arg(
        long,
        env = "FERRIC_IMAGE_CACHE_DIR",
        value_name = "FOLDER",
        help_heading = "Images",
        default_value = "/var/cache/ferric/images"
    )]
    pub image_cache_dir: PathBuf,

    /// Bytes that the image cache may take; the image used longest ago goes first. Suffixes Ki, Mi, Gi, Ti
    #[arg(
        long,
        env = "FERRIC_IMAGE_CACHE_SIZE",
        value_name = "BYTES",
        help_heading = "Images",
        default_value = "20Gi"
    )]
    pub image_cache_size: ByteSize,

    /// DHCP and TFTP
    #[command(flatten)]
    pub network_boot: NetworkBoot,

    /// Events of BMCs
    #[command(flatten)]
    pub bmc_events: BmcEvents,

    /// Node groups
    #[command(flatten)]
    pub autoscaling: Autoscaling,

    /// Images that are streamed to agents at the same time; further agents wait
    #[arg(
        long,
        env = "FERRIC_MAX_IMAGE_STREAMS",
        value_name = "COUNT",
        help_heading = "Limits",
        default_value_t = 32
    )]
    pub max_image_streams: u32,

    /// Hosts that boot the agent at the same time; further hosts wait
    #[arg(
        long,
        env = "FERRIC_MAX_BOOTS_IN_FLIGHT",
        value_name = "COUNT",
        help_heading = "Limits",
        default_value_t = 64
    )]
    pub max_boots_in_flight: u32,

    /// Reconciles at the same time, per controller
    #[arg(
        long,
        env = "FERRIC_MAX_CONCURRENT_RECONCILES",
        value_name = "COUNT",
        help_heading = "Limits",
        default_value_t = 16
    )]
    pub max_concurrent_reconciles: u16,

    /// Seconds between two reads of the power state of a host at rest, jittered by a fifth. 0 turns them off
    #[arg(
        long,
        env = "FERRIC_POWER_POLL_SECONDS",
        value_name = "SECONDS",
        help_heading = "Times",
        default_value_t = 300
    )]
    pub power_poll_seconds: u32,

    /// Seconds from power-on until the agent must have registered; then the host is booted anew. Servers take 2 to 25 minutes for their self test
    #[arg(
        long,
        env = "FERRIC_AGENT_BOOT_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        help_heading = "Times",
        default_value_t = 1800
    )]
    pub agent_boot_timeout_seconds: u32,

    /// Seconds that a single request to a BMC may take
    #[arg(
        long,
        env = "FERRIC_BMC_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        help_heading = "Times",
        default_value_t = 60
    )]
    pub bmc_timeout_seconds: u32,

    /// How log lines look
    #[arg(
        long,
        env = "FERRIC_LOG_FORMAT",
        value_name = "FORMAT",
        help_heading = "Logs",
        value_enum,
        default_value_t = LogFormat::Text
    )]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a list such as info,ferric::host=debug
    #[arg(
        long,
        env = "FERRIC_LOG_LEVEL",
        value_name = "FILTER",
        help_heading = "Logs",
        default_value = "info"
    )]
    pub log_level: String,
}

/// The pod's namespace as the Deployment passes it, or where the components are installed by default.
fn own_namespace() -> String {
    std::env::var("POD_NAMESPACE")
        .ok()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "ferric-system".to_owned())
}

impl Options {
    /// Takes what was given as an empty text for not given, as a manifest cannot leave a flag out by a variable.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        for text in [
            &mut self.namespace,
            &mut self.watch_filter,
            &mut self.leader_election_namespace,
            &mut self.network_boot.discover_hosts_in,
        ] {
            if text.as_ref().is_some_and(String::is_empty) {
                *text = None;
            }
        }
        if self.agent_image_dir.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
            self.agent_image_dir = None;
        }
        self
    }

    /// Checks what a parser of single flags cannot see.
    pub fn validate(&self) -> Result<(), OptionsError> {
        self.validate_lease()?;
        self.validate_limits()?;
        for (flag, namespace) in [
            ("--namespace", self.namespace.as_deref()),
            ("--identity-namespace", Some(self.identity_namespace.as_str())),
            ("--leader-election-namespace", self.leader_election_namespace.as_deref()),
            ("--discover-hosts-in", self.network_boot.discover_hosts_in.as_deref()),
        ] {
            if let Some(namespace) = namespace.filter(|n| !is_dns_label(n)) {
                return Err(error(
                    flag,
                    format!("{namespace:?} cannot be a namespace"),
                    "give a DNS label such as racks",
                ));
            }
        }
        self.validate_discovery()?;
        self.dhcp()?;
        self.agent_base()?;
        self.bmc_events.validate()?;
        crate::telemetry::logs::filter(&self.log_level)
            .map(|_| ())
            .map_err(|e| error("--log-level", e.to_string(), "correct the filter"))
    }

    fn validate_discovery(&self) -> Result<(), OptionsError> {
        let Some(namespace) = &self.network_boot.discover_hosts_in else { return Ok(()) };
        if self.network_boot.dhcp_mode == DhcpMode::Off {
            let cause = "machines that nobody enrolled are seen by DHCP only, which is off".to_owned();
            return Err(error("--discover-hosts-in", cause, "give --dhcp-mode"));
        }
        if self.namespace.as_ref().is_some_and(|watched| watched != namespace) {
            let cause = format!("hosts in {namespace} would not be seen");
            return Err(error("--discover-hosts-in", cause, "give the namespace of --namespace"));
        }
        Ok(())
    }

    fn validate_lease(&self) -> Result<(), OptionsError> {
        let (lease, renew, retry) =
            (self.lease_duration_seconds, self.renew_deadline_seconds, self.retry_period_seconds);
        if retry == 0 {
            return Err(error("--retry-period-seconds", "0 would never pause".into(), "give 1 or more"));
        }
        if renew <= retry {
            let cause = format!("{renew} s leave no time for a second attempt every {retry} s");
            return Err(error("--renew-deadline-seconds", cause, "give more than --retry-period-seconds"));
        }
        if lease <= renew {
            let cause =
                format!("{lease} s would let another replica lead while this one still acts for {renew} s");
            return Err(error("--lease-duration-seconds", cause, "give more than --renew-deadline-seconds"));
        }
        if lease > 3600 {
            let cause = format!("{lease} s without a leader after a crash is too long");
            return Err(error("--lease-duration-seconds", cause, "give 3600 or less"));
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), OptionsError> {
        let at_least_one = [
            ("--max-concurrent-reconciles", u32::from(self.max_concurrent_reconciles)),
            ("--max-boots-in-flight", self.max_boots_in_flight),
            ("--max-image-streams", self.max_image_streams),
            ("--bmc-timeout-seconds", self.bmc_timeout_seconds),
            ("--agent-boot-timeout-seconds", self.agent_boot_timeout_seconds),
        ];
        for (flag, value) in at_least_one {
            if value == 0 {
                return Err(error(flag, "0 means that nothing ever happens".into(), "give 1 or more"));
            }
        }
        if (1..10).contains(&self.power_poll_seconds) {
            let cause = format!("{} s would be a storm on the BMCs", self.power_poll_seconds);
            return Err(error("--power-poll-seconds", cause, "give 10 or more, or 0 for off"));
        }
        if self.image_cache_size < ByteSize(1 << 20) {
            let cause = format!("{} holds no image", self.image_cache_size);
            return Err(error(
                "--image-cache-size",
                cause,
                "give at least 1Mi, better several times the largest image",
            ));
        }
        Ok(())
    }

    /// What hosts are told as the boot server, without a trailing slash.
    pub fn boot_base(&self) -> Result<String, OptionsError> {
        base("--boot-url", self.boot_url.as_ref(), "http", self.boot_bind_address)
    }

    /// The DHCP server that is asked for.
    pub fn dhcp(&self) -> Result<Option<Dhcp>, OptionsError> {
        let boot_url = self.boot_base()?;
        let url = boot_url
            .parse()
            .map_err(|e| error("--boot-url", format!("{boot_url}: {e}"), "correct the URL"))?;
        self.network_boot.dhcp(&url, self.agent_image_dir.is_some())
    }

    /// What agents are told as their server, without a trailing slash.
    pub fn agent_base(&self) -> Result<String, OptionsError> {
        base("--agent-url", self.agent_url.as_ref(), "https", self.agent_bind_address)
    }

    /// Namespace of the lease.
    pub fn lease_namespace(&self) -> &str {
        self.leader_election_namespace.as_deref().unwrap_or(&self.identity_namespace)
    }

    /// Label selector of everything that is watched.
    pub fn selector(&self) -> Option<String> {
        self.watch_filter.as_ref().map(|value| format!("{}={value}", ferric_api::names::WATCH_FILTER_LABEL))
    }

    /// Time between two power reads of a host at rest; `None` when off.
    pub fn power_poll(&self) -> Option<Duration> {
        (self.power_poll_seconds > 0).then(|| Duration::from_secs(self.power_poll_seconds.into()))
    }

    /// Time from power-on until the agent must have registered.
    pub fn agent_boot_timeout(&self) -> Duration {
        Duration::from_secs(self.agent_boot_timeout_seconds.into())
    }

    /// Time that a single request to a BMC may take.
    pub fn bmc_timeout(&self) -> Duration {
        Duration::from_secs(self.bmc_timeout_seconds.into())
    }
}

/// The URL of a server as others see it.
fn base(
    flag: &'static str,
    url: Option<&Url>,
    scheme: &str,
    bind: SocketAddr,
) -> Result<String, OptionsError> {
    let Some(url) = url else {
        if bind.ip().is_unspecified() {
            let cause = format!("is needed since the server listens on every address ({bind})");
            return Err(error(
                flag,
                cause,
                format!("give {scheme}://<address that hosts can reach>:{}", bind.port()),
            ));
        }
        return Ok(format!("{scheme}://{bind}"));
    };
    let text = url.as_str().trim_end_matches('/').to_owned();
    if url.scheme() != scheme {
        return Err(error(flag, format!("{text} is not {scheme}"), format!("begin it with {scheme}://")));
    }
    let unspecified = match url.host() {
        None => true,
        Some(Host::Ipv4(ip)) => ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => ip.is_unspecified(),
        Some(Host::Domain(_)) => false,
    };
    if unspecified {
        return Err(error(
            flag,
            format!("{text} is no address to connect to"),
            "name an address that hosts can reach",
        ));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        let cause = "has credentials, a query or a fragment".to_owned();
        return Err(error(flag, cause, "give scheme, host, port and path only"));
    }
    Ok(text)
}

fn error(flag: &'static str, cause: String, remedy: impl Into<String>) -> OptionsError {
    OptionsError { flag, cause, remedy: remedy.into() }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests;

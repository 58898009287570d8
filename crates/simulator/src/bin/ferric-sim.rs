//! `ferric-sim`: a fleet of simulated servers. See `--help`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use ferric_simulator::{
    Admin, Delays, DiskClass, DiskKind, DiskMode, Family, Fleet, FleetConfig, HardwareClass, ManifestOptions,
};
use tokio::signal::unix::{SignalKind, signal};

/// Simulates a fleet of servers: each has a Redfish BMC over HTTPS on its own address in 127.0.0.0/8, disks, and a
/// life. It boots what its BMC was told to, runs the real agent library, and then what is on its disk.
///
/// On start it writes into --out: manifests.yaml (Secrets and BareMetalHosts for kubectl apply), inventory.json (the
/// facts of every server) and bmc-ca.crt. It prints `ready` when all BMCs answer, and ends in order on SIGTERM or
/// Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "ferric-sim", version)]
struct Options {
    /// Number of servers.
    #[arg(long, default_value_t = 8)]
    count: usize,
    /// Number of racks; servers stand in them in turn.
    #[arg(long, default_value_t = 3)]
    racks: usize,
    /// Servers are called PREFIX and a number.
    #[arg(long, default_value = "host-")]
    prefix: String,
    /// Hardware class as NAME:CORES:MEMORY_GIB:DISK_MIB[:hdd|ssd|nvme][:BMC][:gpus=N]; give it several times for several
    /// classes, which the servers of a rack take in turn. BMC is the family whose Redfish is imitated: plain, idrac, ilo,
    /// xcc, supermicro, megarac or listed.
    #[arg(long = "class", value_name = "CLASS", value_parser = parse_class)]
    classes: Vec<HardwareClass>,
    /// Address of the first BMC, in 127.0.0.0/8; the others follow.
    #[arg(long, default_value = "127.64.0.1")]
    base_address: Ipv4Addr,
    /// Port of every BMC; 0 takes a free one.
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// UDP port on which every BMC speaks IPMI v2.0 as well (suites 3 and 17); 0 takes a free one. Redfish alone without.
    #[arg(long)]
    ipmi_port: Option<u16>,
    /// Port of the control API on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8444)]
    admin_port: u16,
    /// Everything that looks random follows from this number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the disks are.
    #[arg(long, value_enum, default_value_t = Disks::File)]
    disks: Disks,
    /// How long power, self test and start take: none, about a tenth of a second, or as real servers do.
    #[arg(long, value_enum, default_value_t = Speed::Fast)]
    speed: Speed,
    /// Milliseconds of firmware's self test, instead of what --speed says.
    #[arg(long)]
    post_ms: Option<u64>,
    /// Folder for disks, keys and node identities. A fleet started on it again finds its disks as they were.
    #[arg(long)]
    state_dir: PathBuf,
    /// Folder for the inventory files; --state-dir if not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder with etcd, kube-apiserver, kube-controller-manager, kubeadm and fakekubelet, for control-plane hosts;
    /// may be given several times.
    #[arg(long = "binaries", value_name = "DIR")]
    binaries: Vec<PathBuf>,
    /// Namespace of the host manifests.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Scheme of the BMC addresses in the manifests.
    #[arg(long, default_value = "redfish-uefihttp")]
    scheme: String,
    /// Leave the failure-domain label out of the manifests.
    #[arg(long)]
    no_failure_domains: bool,
    /// Seconds between renewals of a running node's lease; 0 for none.
    #[arg(long, default_value_t = 0)]
    node_heartbeat_seconds: u64,
    /// Seconds between a running node's looks at its pods, which then run or are gone; 0 for none.
    #[arg(long, default_value_t = 0)]
    node_pods_seconds: u64,
    /// Log filter, for example `info` or `ferric_simulator=debug`.
    #[arg(long, env = "FERRIC_SIM_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Disks {
    /// Sparse files in the state folder.
    File,
    /// Memory, equal blocks held once; gone when the simulator ends: for benchmarks.
    Counting,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Speed {
    None,
    Fast,
    Real,
}

fn parse_class(text: &str) -> Result<HardwareClass, String> {
    const FORM: &str = "expected NAME:CORES:MEMORY_GIB:DISK_MIB[:hdd|ssd|nvme][:BMC][:gpus=N]";
    let (text, gpus) = text.split_once(":gpus=").unwrap_or((text, "0"));
    let parts: Vec<&str> = text.split(':').collect();
    let [name, cores, memory, disk, rest @ ..] = parts.as_slice() else { return Err(FORM.to_owned()) };
    let (kind, bmc) = match rest {
        [] => (DiskKind::Ssd, Family::Plain),
        [one] => match one.parse() {
            Ok(kind) => (kind, Family::Plain),
            Err(_) => (DiskKind::Ssd, one.parse()?),
        },
        [kind, bmc] => (kind.parse()?, bmc.parse()?),
        _ => return Err(FORM.to_owned()),
    };
    let number =
        |what: &str, text: &str| text.parse::<u32>().map_err(|_| format!("{what} {text:?} is no number"));
    let size_bytes = u64::from(number("disk size", disk)?) << 20;
    let mut class =
        HardwareClass::sized(name, number("cores", cores)?, number("memory", memory)?, size_bytes);
    class.disks = vec![DiskClass { size_bytes, kind, ..DiskClass::default() }];
    class.bmc = bmc;
    class.gpus = number("number of GPUs", gpus)?;
    Ok(class)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&options.log).context("--log is no filter")?)
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(options))
}

async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut delays = match options.speed {
        Speed::None => Delays::none(),
        Speed::Fast => Delays::default(),
        Speed::Real => Delays::realistic(),
    };
    if let Some(post) = options.post_ms {
        delays.post = Duration::from_millis(post);
    }
    let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    let config = FleetConfig {
        count: options.count,
        prefix: options.prefix,
        racks: options.racks,
        classes: if options.classes.is_empty() { vec![HardwareClass::default()] } else { options.classes },
        base_address: options.base_address,
        port: options.port,
        ipmi_port: options.ipmi_port,
        seed: options.seed,
        disks: match options.disks {
            Disks::File => DiskMode::File,
            Disks::Counting => DiskMode::Counting,
        },
        delays,
        state_dir: options.state_dir.clone(),
        binaries: options.binaries,
        node_heartbeat: seconds(options.node_heartbeat_seconds),
        node_pods: seconds(options.node_pods_seconds),
    };
    let fleet = Arc::new(Fleet::start(config).await?);
    let admin = Admin::bind(options.admin_port).await?;
    let manifests = ManifestOptions {
        namespace: options.namespace,
        scheme: options.scheme,
        failure_domains: !options.no_failure_domains,
    };
    let out = options.out.unwrap_or(options.state_dir);
    fleet.write_inventory(&out, &manifests)?;
    println!(
        "ready: {} servers, BMCs on port {}{}, control API on http://{}, manifests in {}",
        options.count,
        fleet.port(),
        fleet.ipmi_port().map_or_else(String::new, |port| format!(", IPMI on UDP port {port}")),
        admin.address(),
        out.join("manifests.yaml").display()
    );
    tokio::select! {
        () = admin.serve(Arc::clone(&fleet)) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    fleet.stop().await;
    Ok(())
}

//! `ferric-testbed`: a Kubernetes management plane on this machine, without containers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};
use ferric_testbed::assets::Progress;
use ferric_testbed::demo::{self, DemoOptions};
use ferric_testbed::lab::domain::{Firmware, ServerSpec};
use ferric_testbed::lab::{self, LabStack};
use ferric_testbed::media::{self, AgentImageOptions};
use ferric_testbed::{Assets, Bed, Binary, Error, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Runs etcd, kube-apiserver, kube-controller-manager and Cluster API as plain processes on loopback addresses.
///
/// Programs are taken from FERRIC_ASSETS, then KUBEBUILDER_ASSETS, then the user's cache folder (XDG_CACHE_HOME or
/// ~/.cache, below ferric/assets). What is in none of them is built there once with Go, in about 13 minutes on two
/// cores.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the programs that are missing and prints where each one is.
    Assets(AssetsArgs),
    /// Starts a management plane, prints the shell lines to use it, and keeps it until Ctrl-C.
    Up(UpArgs),
    /// Makes the image that servers boot the agent from, of Debian packages and the agent's program.
    AgentImage(AgentImageOptions),
    /// Watch machines of Cluster API become nodes on simulated servers.
    Demo(DemoOptions),
    /// Starts virtual servers with BMCs and the provider in a network of their own, and keeps them until Ctrl-C.
    Lab(LabArgs),
    /// Runs what is shown on virtual servers, row after row, and prints a table: exit code 0 if every row passed.
    LabRows(RowsArgs),
    /// Makes the operating system for virtual servers and prints where its forms are.
    NodeImage,
}

#[derive(Args)]
struct AssetsArgs {
    /// Also fills this folder with links to the programs and components; it can then be another process's FERRIC_ASSETS.
    #[arg(long, value_name = "FOLDER")]
    link: Option<PathBuf>,
}

#[derive(Args)]
struct LabArgs {
    /// How many virtual servers there are: UEFI and virtual media; every third has BIOS.
    #[arg(long, default_value_t = 3)]
    servers: u8,
    /// Plays the demo on them: a machine becomes a node and goes again.
    #[arg(long)]
    demo: bool,
    /// Ends after the demo's last step: exit code 0 if every step really happened.
    #[arg(long, requires = "demo")]
    oneshot: bool,
    /// Does not give the agent's image to the manager.
    #[arg(long, hide = true)]
    no_agent: bool,
    /// Leaves the folder with all logs behind at the end.
    #[arg(long)]
    keep: bool,
}

#[derive(Args)]
struct RowsArgs {
    /// Only rows whose name contains one of these, such as `boot::`.
    filters: Vec<String>,
}

#[derive(Args)]
struct UpArgs {
    /// Release folder of the infrastructure provider to install with `clusterctl init`:
    /// it holds infrastructure-<name>/<version>/infrastructure-components.yaml. Without it Cluster API comes alone.
    #[arg(long, value_name = "FOLDER")]
    release: Option<PathBuf>,
    /// Leaves out Cluster API: etcd, kube-apiserver and kube-controller-manager only.
    #[arg(long, conflicts_with = "release")]
    bare: bool,
    /// Also runs kube-scheduler.
    #[arg(long)]
    scheduler: bool,
    /// Also writes an audit log and prints its path.
    #[arg(long)]
    audit_log: bool,
    /// Also starts a workload control plane that workers can join, and prints its kubeconfig.
    #[arg(long)]
    workload: bool,
    /// Leaves the folder with all logs behind at the end.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Assets(args) => assets(args).await,
        Command::AgentImage(options) => agent_image(options).await,
        Command::Up(args) => until_signal(serve(args)).await.and_then(|ended| ended.unwrap_or(Ok(()))),
        Command::Lab(args) => lab(&args).await,
        Command::LabRows(args) => match until_signal(lab::rows::run(&args.filters)).await {
            Ok(Some(Ok(true))) => Ok(()),
            Ok(Some(Ok(false))) => return ExitCode::FAILURE,
            Ok(Some(Err(error))) | Err(error) => Err(error),
            // As a shell says it of a program that Ctrl-C ended.
            Ok(None) => return ExitCode::from(130),
        },
        Command::NodeImage => node_image().await,
        Command::Demo(options) => match show(&options).await {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferric-testbed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn assets(args: AssetsArgs) -> Result<()> {
    let assets = Assets::from_env()?;
    let paths = assets.ensure_all(&Binary::ALL).await?;
    assets.ensure_components().await?;
    for (binary, path) in Binary::ALL.iter().zip(&paths) {
        println!("{binary:<28}{}", path.display());
    }
    if let Some(folder) = args.link {
        assets.link_all(&folder).await?;
        println!("export FERRIC_ASSETS={}", folder.display());
    }
    Ok(())
}

async fn agent_image(options: AgentImageOptions) -> Result<()> {
    let progress: Progress = Arc::new(|line| eprintln!("{line}"));
    let folder = tokio::task::spawn_blocking(move || media::build(&options, &progress))
        .await
        .map_err(|error| Error::Assets(format!("the builder ended early: {error}")))??;
    println!("{}", folder.display());
    Ok(())
}

/// Runs the demo; success only if every step really happened.
async fn show(options: &DemoOptions) -> Result<ExitCode> {
    Ok(match until_signal(demo::run(options)).await? {
        Some(Some(standing)) if options.oneshot => {
            standing.end().await;
            ExitCode::SUCCESS
        }
        Some(Some(standing)) => match until_signal(standing.stay()).await? {
            Some(()) => ExitCode::FAILURE,
            None => ExitCode::SUCCESS,
        },
        Some(None) => ExitCode::FAILURE,
        // As a shell says it of a program that Ctrl-C ended.
        None => ExitCode::from(130),
    })
}

/// Runs something until it ends or a signal comes, which may be at any moment: what has been started is ended by being
/// dropped.
async fn until_signal<T>(work: impl Future<Output = T>) -> Result<Option<T>> {
    let broken = |source| Error::File { action: "listen for", path: "SIGINT and SIGTERM".into(), source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    tokio::select! {
        result = work => Ok(Some(result)),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
    }
}

async fn serve(args: UpArgs) -> Result<()> {
    let begin = std::time::Instant::now();
    let mut builder = Bed::builder()
        .controller_manager(true)
        .scheduler(args.scheduler)
        .audit_log(args.audit_log)
        .keep(args.keep)
        .cluster_api(args.release.clone());
    if !args.bare && args.release.is_none() {
        builder = builder.cluster_api_alone();
    }
    let bed = builder.start().await?;
    let workload = if args.workload { Some(bed.start_workload("workload").await?) } else { None };
    eprintln!("test bed: up in {:.1} s; Ctrl-C ends it", begin.elapsed().as_secs_f32());
    for line in bed.shell_exports() {
        println!("{line}");
    }
    if let Some(path) = bed.audit_log() {
        println!("# audit log: {}", path.display());
    }
    if let Some(workload) = &workload {
        println!("# workload cluster: kubectl --kubeconfig {}", workload.kubeconfig().display());
    }
    std::future::pending::<()>().await;
    Ok(())
}

async fn node_image() -> Result<()> {
    if let Some(reason) = lab::obstacle() {
        return Err(Error::Assets(format!("no node image can be made: {reason}")));
    }
    lab::Tools::ensure().await?;
    let image = lab::NodeImage::ensure(&Assets::from_env()?).await?;
    for form in [lab::Form::Raw, lab::Form::RawZstd, lab::Form::Qcow2] {
        println!("{}", image.file(form).display());
    }
    Ok(())
}

/// Outside: prepares, and starts this program again in a world of its own. Inside: runs the lab.
async fn lab(args: &LabArgs) -> Result<()> {
    if lab::world::inside().is_some() {
        return until_signal(serve_lab(args)).await.and_then(|ended| ended.unwrap_or(Ok(())));
    }
    if let Some(reason) = lab::obstacle() {
        return Err(Error::Assets(format!("there can be no lab here: {reason}")));
    }
    if args.no_agent {
        lab::Tools::ensure().await?;
    } else {
        LabStack::prepare().await?;
    }
    let entrance = lab::world::Entrance {
        arguments: std::env::args_os().skip(1).collect(),
        stdout: true,
        limit: None,
        keep: args.keep,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (entrance_stop, begun) = (Arc::clone(&stop), tokio::runtime::Handle::current());
    let mut running = begun.spawn_blocking(move || lab::world::run(&entrance, &entrance_stop));
    let ended = tokio::select! {
        ended = &mut running => ended,
        stopped = until_signal(std::future::pending::<()>()) => {
            stopped?;
            stop.store(true, Ordering::Relaxed);
            running.await
        }
    };
    let (status, folder) =
        ended.map_err(|error| Error::Assets(format!("the lab ended early: {error}")))??;
    if let Some(folder) = folder {
        eprintln!("lab: its folder stays: {}", folder.display());
    }
    match status {
        Some(status) if !status.success() => Err(Error::Assets(format!("the lab ended with {status}"))),
        _ => Ok(()),
    }
}

async fn serve_lab(args: &LabArgs) -> Result<()> {
    if args.demo {
        return lab::demo::play(args.oneshot).await;
    }
    let begin = std::time::Instant::now();
    let servers = (1..=args.servers).map(|number| {
        let mut server = ServerSpec::new(&format!("vm-{number}"));
        if number % 3 == 0 {
            server.firmware = Firmware::Bios;
        }
        server
    });
    let stack = LabStack::builder().servers(servers.collect()).agent(!args.no_agent).start().await?;
    stack.enrol().await?;
    let world = lab::world::inside().unwrap_or_default();
    println!("lab: up in {:.0} s; Ctrl-C ends it. In another terminal:", begin.elapsed().as_secs_f32());
    println!("  {}    # a shell inside", world.join("enter").display());
    for line in stack.bed.shell_exports() {
        println!("  {line}");
    }
    println!("Then, inside:\n  kubectl get bmh\n  virsh list --all");
    for server in stack.lab.servers() {
        println!(
            "  tail -f {}    # {} at {}",
            server.serial().display(),
            server.spec.name,
            server.bmc_address
        );
    }
    println!("Every BMC's login is admin, its password lab-password. The image: {}", stack.image.url);
    println!("  sha256 {}", stack.image.sha256);
    std::future::pending::<()>().await;
    Ok(())
}

//! `ferric-testbed`: a Kubernetes management plane on this machine, without containers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ferric_testbed::demo::{self, DemoOptions};
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
    /// Watch machines of Cluster API become nodes on simulated servers.
    Demo(DemoOptions),
}

#[derive(Args)]
struct AssetsArgs {
    /// Also fills this folder with links to the programs and components; it can then be another process's FERRIC_ASSETS.
    #[arg(long, value_name = "FOLDER")]
    link: Option<PathBuf>,
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
        Command::Up(args) => until_signal(serve(args)).await.and_then(|ended| ended.unwrap_or(Ok(()))),
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

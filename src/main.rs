//! The command line of `ferric`: parse, start logging, hand over.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferric::autoscale_cli::AutoscaleCommand;
use ferric::bmc_cli::BmcCommand;
use ferric::config::Options;

/// Gives memory back after a wave of agents or a fresh list of all objects; glibc's would keep it. Tuned in
/// `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(
    name = "ferric",
    version,
    about = "Cluster API infrastructure provider for bare metal",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the provider: controllers, boot server and agent server. Also what runs when the first argument is a flag
    Manager(Box<Options>),
    /// Ask a BMC by hand, as the provider would
    #[command(subcommand)]
    Bmc(BmcCommand),
    /// Ask the autoscaler what it would do
    #[command(subcommand)]
    Autoscale(AutoscaleCommand),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(with_default_command(std::env::args_os()));
    let result = match cli.command {
        Command::Manager(options) => manager(*options),
        Command::Bmc(command) => bmc(command),
        Command::Autoscale(command) => autoscale(&command),
        Command::Version => {
            println!("ferric v{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferric: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The components' Deployment passes flags only, as every Cluster API provider's does.
fn with_default_command(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let first = arguments.get(1).and_then(|a| a.to_str());
    if first.is_some_and(|a| a.starts_with("--") && !matches!(a, "--help" | "--version" | "--")) {
        arguments.insert(1, "manager".into());
    }
    arguments
}

fn manager(options: Options) -> anyhow::Result<()> {
    let options = options.normalised();
    options.validate()?;
    ferric::telemetry::logs::init(options.log_format, &options.log_level)?;
    // An error means that a provider is installed already, which can only be this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Threads for files: an image stream each. A thread costs more than its wait.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().max_blocking_threads(32).build()?.block_on(ferric::manager::run(options))
}

fn bmc(command: BmcCommand) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(ferric::bmc_cli::run(command))
}

fn autoscale(command: &AutoscaleCommand) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(ferric::autoscale_cli::run(command))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let arguments = std::iter::once("ferric").chain(arguments.iter().copied()).map(OsString::from);
        Cli::try_parse_from(with_default_command(arguments))
    }

    #[test]
    fn flags_alone_run_the_manager() {
        for arguments in [&["--leader-elect=false"][..], &["manager", "--leader-elect=false"]] {
            match parse(arguments).unwrap().command {
                Command::Manager(options) => assert!(!options.leader_elect),
                Command::Bmc(_) | Command::Autoscale(_) | Command::Version => panic!("another command"),
            }
        }
    }

    #[test]
    fn help_and_version_are_the_programs_own() {
        use clap::error::ErrorKind;
        assert_eq!(parse(&["--help"]).err().unwrap().kind(), ErrorKind::DisplayHelp);
        assert_eq!(parse(&["--version"]).err().unwrap().kind(), ErrorKind::DisplayVersion);
        assert!(matches!(parse(&["version"]).unwrap().command, Command::Version));
    }
}

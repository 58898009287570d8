//! `ferric bmc`: asking a BMC by hand, as the provider would.

mod console;
mod text;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use ferric_api::BmcAddress;
use ferric_bmc::{ConnectOptions, Credentials, Limits, ProbeOptions, Quirks, Survey};
use serde::Serialize;

use crate::boot::choice::{self, Offers};

/// Largest file with a password, a CA or quirk rules, in bytes.
const FILE: u64 = 1 << 20;

/// What to do with a BMC.
#[derive(Debug, Subcommand)]
pub enum BmcCommand {
    /// Show what a BMC is, what it can do and what the provider would do with it. Changes nothing
    Probe(Box<ProbeArguments>),
    /// Open the serial console of a server whose BMC speaks IPMI v2.0. ~. at the beginning of a line ends it, ~? tells more
    Console(ConsoleArguments),
}

/// Who logs in.
#[derive(Debug, Args)]
pub struct LoginArguments {
    /// User name
    #[arg(long, env = "FERRIC_BMC_USERNAME", value_name = "NAME")]
    pub username: Option<String>,

    /// File with the password; - reads it from the standard input [default: the environment's FERRIC_BMC_PASSWORD]
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Arguments of `ferric bmc console`.
#[derive(Debug, Args)]
pub struct ConsoleArguments {
    /// Address as in spec.bmc.address, such as ipmi://10.0.0.7
    pub address: String,

    /// Who logs in
    #[command(flatten)]
    pub login: LoginArguments,

    /// Take the console from whoever has it
    #[arg(long)]
    pub take: bool,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Arguments of `ferric bmc probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// Address as in spec.bmc.address, such as redfish://10.0.0.7 or redfish://chassis/redfish/v1/Systems/3
    pub address: String,

    /// Who logs in
    #[command(flatten)]
    pub login: LoginArguments,

    /// File with the CA certificates (PEM) that are trusted, and no others [default: those of the system]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["certificate_fingerprint", "insecure"])]
    pub ca_file: Option<PathBuf>,

    /// SHA-256 fingerprint of the one certificate that is trusted, as the probe prints it
    #[arg(long, value_name = "SHA256", conflicts_with = "insecure")]
    pub certificate_fingerprint: Option<String>,

    /// Accept any certificate
    #[arg(long)]
    pub insecure: bool,

    /// File with quirk rules on top of the built-in ones; may be repeated
    #[arg(long, value_name = "FILE")]
    pub quirks: Vec<PathBuf>,

    /// Also read more than is shown, and write all of it into this file, without what tells whose the server is
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,

    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,

    /// Seconds that all of it may take; what was read until then is shown
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    #[serde(flatten)]
    survey: &'a Survey,
    /// Which way the provider would boot its agent, if it serves all of them; or why it cannot.
    agent_boot: &'a str,
    /// Why it was not read to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The same as a condition of a host would name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Runs a command; prints to the standard output. An error after something was printed says why that is not all.
pub async fn run(command: BmcCommand) -> anyhow::Result<()> {
    let arguments = match command {
        BmcCommand::Probe(arguments) => arguments,
        BmcCommand::Console(arguments) => return console::run(arguments).await,
    };
    let options = options(&arguments)?;
    let scheme = options.connect.address.scheme();
    let probed = ferric_bmc::probe(options).await;
    if let (Some(file), Some(capture)) = (&arguments.capture, &probed.capture) {
        let json = serde_json::to_string(capture).context("the capture cannot be written as JSON")?;
        std::fs::write(file, json).with_context(|| format!("--capture {}", file.display()))?;
    }
    let agent_boot = agent_boot(scheme, &probed.survey);
    let problem = probed.error.as_ref().map(ToString::to_string);
    match arguments.output {
        Output::Text => print!("{}", text::of(&probed.survey, &agent_boot)),
        Output::Json => {
            let reason = probed.error.as_ref().map(ferric_bmc::BmcError::reason);
            let printed = Printed { survey: &probed.survey, agent_boot: &agent_boot, problem, reason };
            println!(
                "{}",
                serde_json::to_string_pretty(&printed).context("the result cannot be written as JSON")?
            );
        }
    }
    match probed.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Which way the agent would be booted, were all of them served.
fn agent_boot(scheme: ferric_api::BmcScheme, survey: &Survey) -> String {
    let offers = Offers { media: true, chosen_media: true, uefi_http: true, network: true };
    if survey.can == ferric_bmc::Can::default() {
        return "not known".to_owned();
    }
    choice::choose(scheme, &survey.can.boot, offers)
        .map_or_else(|none| none.to_string(), |method| format!("{method:?}"))
}

fn options(arguments: &ProbeArguments) -> anyhow::Result<ProbeOptions> {
    let address: BmcAddress = arguments.address.parse()?;
    if !address.is_redfish() {
        bail!(
            "{address} is no Redfish address, and only those are probed: write redfish://{}",
            address.host()
        );
    }
    let mut texts = Vec::new();
    for file in &arguments.quirks {
        texts.push((file.display().to_string(), text_of(file, "--quirks")?));
    }
    let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let (quirks, errors) = Quirks::with(&files);
    if let Some(error) = errors.first() {
        bail!("{error}");
    }
    let ca_file = arguments.ca_file.as_deref();
    Ok(ProbeOptions {
        connect: ConnectOptions {
            address,
            credentials: credentials(&arguments.login, std::env::var("FERRIC_BMC_PASSWORD").ok())?,
            ca_pem: ca_file.map(|file| text_of(file, "--ca-file").map(String::into_bytes)).transpose()?,
            certificate_sha256: arguments.certificate_fingerprint.as_deref().map(fingerprint).transpose()?,
            insecure: arguments.insecure,
        },
        limits: Limits::default(),
        quirks,
        capture: arguments.capture.is_some(),
        time: Duration::from_secs(arguments.timeout_seconds),
    })
}

fn credentials(
    arguments: &LoginArguments,
    environment: Option<String>,
) -> anyhow::Result<Option<Credentials>> {
    let password = match &arguments.password_file {
        Some(file) if file.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(FILE)
                .read_to_string(&mut text)
                .context("the password on the standard input")?;
            Some(text)
        }
        Some(file) => Some(text_of(file, "--password-file")?),
        None => environment,
    };
    // The newline that an editor leaves is no part of it.
    let password = password.map(|text| text.trim_end_matches(['\n', '\r']).to_owned());
    match (&arguments.username, password) {
        (Some(username), Some(password)) => Ok(Some(Credentials::new(username, password))),
        (Some(_), None) => {
            bail!("--username without a password: give --password-file, or FERRIC_BMC_PASSWORD")
        }
        (None, Some(_)) if arguments.password_file.is_some() => bail!("--password-file without --username"),
        (None, _) => Ok(None),
    }
}

fn fingerprint(text: &str) -> anyhow::Result<[u8; 32]> {
    ferric_bmc::certificate_fingerprint(text).with_context(|| {
        format!("--certificate-fingerprint {text:?} is no SHA-256: give 64 hexadecimal digits")
    })
}

fn text_of(file: &Path, flag: &str) -> anyhow::Result<String> {
    text_up_to(file, flag, FILE)
}

/// The text of a file that a flag names, of so many bytes at most.
pub(crate) fn text_up_to(file: &Path, flag: &str, most: u64) -> anyhow::Result<String> {
    let what = || format!("{flag} {}", file.display());
    let opened = std::fs::File::open(file).with_context(what)?;
    let mut text = String::new();
    opened.take(most + 1).read_to_string(&mut text).with_context(what)?;
    if text.len() as u64 > most {
        bail!("{} is larger than {most} bytes", what());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        probe: ProbeArguments,
    }

    fn parse(arguments: &[&str]) -> ProbeArguments {
        Cli::try_parse_from(std::iter::once(&"probe").chain(arguments)).unwrap().probe
    }

    #[test]
    fn credentials_come_from_a_file_or_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "pass word\n").unwrap();
        let file = file.to_str().unwrap();
        let both = parse(&["redfish://x", "--username", "u", "--password-file", file]);
        let found = credentials(&both.login, Some("other".into())).unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("u", "pass word"));
        let user = parse(&["redfish://x", "--username", "u"]);
        assert_eq!(credentials(&user.login, Some("other".into())).unwrap().unwrap().password, "other");
        assert!(credentials(&user.login, None).is_err());
        assert_eq!(credentials(&parse(&["redfish://x"]).login, Some("other".into())).unwrap(), None);
        let error = credentials(&parse(&["redfish://x", "--password-file", file]).login, None).unwrap_err();
        assert!(error.to_string().contains("without --username"));
    }

    #[test]
    fn what_cannot_be_probed_is_refused() {
        for (address, sentence) in [
            ("10.0.0.7", "write redfish://10.0.0.7"),
            ("redfish://u:p@x", "holds credentials"),
            ("redfish://", "no host"),
        ] {
            let error = options(&parse(&[address])).unwrap_err().to_string();
            assert!(error.contains(sentence), "{address}: {error}");
        }
        let error = options(&parse(&["redfish://x", "--certificate-fingerprint", "ab"])).unwrap_err();
        assert!(error.to_string().contains("is no SHA-256"), "{error}");
    }
}

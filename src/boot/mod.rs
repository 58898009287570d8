//! What machines boot the agent from: iPXE scripts, ISO images, kernel and initramfs, in plain HTTP, since firmware
//! cannot do better everywhere.
//!
//! A script or an ISO is that of one boot of one host. The only secret in it is the boot token, which is also in its
//! URL: it is good for one key of one boot of one host, and is not spent here, because firmware asks again.
//!
//! - [`choice`]: which way a host boots. Pure.
//! - [`dhcp`] and [`tftp`]: for machines that boot from the network without being told a URL; [`dhcp6`] sends those on that
//!   ask over IPv6.
//! - [`image`]: the folder that `make agent-image` makes.
//! - [`media`]: the bytes of a host's own ISO. Pure. [`iso9660`] puts another kernel onto it, [`composite`] reads it.
//! - [`seed`]: what a system that runs from memory is configured with. Pure.

pub mod choice;
pub mod composite;
pub mod dhcp;
pub mod dhcp6;
mod files;
mod idle;
pub mod image;
pub mod iso9660;
mod lookup;
pub mod media;
pub mod seed;
pub mod tftp;
mod ticket;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use ferric_protocol::{BootData, BootDataError, BootToken, TokenError, TokenUse, net::MAX_COMMAND_LINE};
use http::{HeaderMap, Method, StatusCode, header};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use url::Url;

pub use self::image::{AgentImage, AgentImageError};
pub use self::lookup::{BootLookup, KnownHost, NetworkNotRead, NoSystem, System, Told};
use self::{composite::Composite, idle::Idle, media::Patch, ticket::Ticket};
use crate::{
    deploy::{Leadership, connection::serve_connection, server::accept},
    key::Key,
    telemetry::metrics::Metrics,
};

/// Connections at once. A script is answered in a millisecond.
const CONNECTIONS: usize = 4096;
/// A connection on which nothing moves ends after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Time from connecting to the end of the connection. A BMC reads an ISO of a server that boots for many minutes, and
/// comes again when the connection has ended.
const CONNECTION: Duration = Duration::from_secs(3600);
/// Files that are sent at once; each has a few hundred kilobytes of memory.
const STREAMS: usize = 512;
/// How long a token is good beyond the time that an agent boot may take: firmware may retry until it is given up.
const TOKEN_MARGIN: Duration = Duration::from_secs(600);
/// Arguments of the agent's kernel beside the boot data.
pub const KERNEL_ARGUMENTS: &str = "console=tty0 console=ttyS0,115200";
/// The agent is told through which network card iPXE came, as PXELINUX has it.
const IPXE_ARGUMENTS: &str = "BOOTIF=01-${netX/mac:hexhyp}";

/// What iPXE adds to the command line, with a blank before: how the kernel finds its initramfs, and the card's address for
/// what stands in [`IPXE_ARGUMENTS`].
const IPXE_WORDS: &str = " initrd=initrd.img BOOTIF=01-00-00-00-00-00-00";

/// How many bytes of a kernel's command line are left for a host's network, beside consoles and boot data.
pub fn command_line_room(agent_url: &Url, token: &str) -> usize {
    // Names and values of the boot data, with a hash and a time of their lengths.
    let boot = "ferric.url= ferric.ca= ferric.token= ferric.time= ".len() + 64 + 12;
    let taken = KERNEL_ARGUMENTS.len() + boot + agent_url.as_str().len() + token.len() + IPXE_WORDS.len() + 1;
    MAX_COMMAND_LINE.saturating_sub(taken)
}

/// Names of the files of a system that runs from memory, beside its script.
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd.img";

/// What iPXE does without a script.
const AUTOEXEC: &str = "#!ipxe\nautoboot\n";

/// How long the token of a boot is good.
pub fn token_lifetime(agent_boot: Duration) -> Duration {
    agent_boot + TOKEN_MARGIN
}

/// Kernel and initramfs of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifacts {
    kernel: Url,
    initrd: Url,
    arguments: String,
}

/// Artifacts that cannot be written into a script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactsError {
    /// Firmware cannot fetch it.
    #[error("the {what} must have an http or https URL, got {url}")]
    Url {
        /// Kernel or initramfs.
        what: &'static str,
        /// What was given.
        url: String,
    },
    /// They would end the line, or mean something else to iPXE.
    #[error("kernel arguments must be on one line, without quotes, $, && and ||")]
    Arguments,
}

impl Artifacts {
    /// Checks what ends in a script. `arguments` are added to the kernel's command line.
    pub fn new(kernel: Url, initrd: Url, arguments: &str) -> Result<Self, ArtifactsError> {
        for (what, url) in [("kernel", &kernel), ("initramfs", &initrd)] {
            let plain = matches!(url.scheme(), "http" | "https") && is_plain(url.as_str());
            if !plain {
                return Err(ArtifactsError::Url { what, url: url.to_string() });
            }
        }
        if !is_plain(arguments) {
            return Err(ArtifactsError::Arguments);
        }
        Ok(Self { kernel, initrd, arguments: arguments.trim().to_owned() })
    }
}

/// Nothing that iPXE gives a meaning of its own.
fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || matches!(c, '"' | '\'' | '\\' | '$'))
        && !text.contains("&&")
        && !text.contains("||")
}

/// What is fetched for a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootFile {
    /// The iPXE script.
    Script,
    /// The ISO image.
    Iso,
}

/// URL of a file for the boot that `token` was made for.
pub fn boot_url(boot_base: &Url, token: &str, file: BootFile) -> Url {
    let name = match file {
        BootFile::Script => "boot.ipxe",
        BootFile::Iso => "agent.iso",
    };
    let mut url = boot_base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["boot", token, name]);
    }
    url
}

/// URL of a file of the agent image.
pub fn artifact_url(boot_base: &Url, name: &str) -> Url {
    let mut url = boot_base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["agent", name]);
    }
    url
}

/// The script: fetch kernel and initramfs, start the kernel with the boot data on its command line. `more` are
/// arguments in which iPXE fills in what only it knows.
pub fn ipxe_script(boot: &BootData, artifacts: &Artifacts, more: &str) -> String {
    let Artifacts { kernel, initrd, arguments } = artifacts;
    let arguments: String = [arguments.as_str(), more]
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| format!(" {text}"))
        .collect();
    format!(
        "#!ipxe\nkernel {kernel} initrd=initrd.img {boot}{arguments}\ninitrd --name initrd.img {initrd}\nboot\n",
        boot = boot.to_kernel_args()
    )
}

/// The script of a system that runs from memory: its files lie beside the script. A server that is left alone with it
/// tries until they are there.
fn system_script(parameters: &str) -> Option<String> {
    if !is_plain(parameters) || parameters.len() + IPXE_WORDS.len() > MAX_COMMAND_LINE {
        return None;
    }
    Some(format!(
        "#!ipxe\n:start\nkernel {KERNEL} initrd=initrd.img {parameters} || goto failed\n\
         initrd --name initrd.img {INITRD} || goto failed\nboot\n:failed\n\
         echo Ferric: the system is not to be had yet; trying again in ten seconds\nimgfree\nsleep 10\ngoto start\n"
    ))
}

/// The files that PXE firmware and iPXE fetch by TFTP.
pub fn tftp_files(image: &AgentImage) -> io::Result<tftp::Files> {
    use std::os::unix::fs::FileExt;
    let mut files = tftp::Files::new();
    for (name, artifact) in
        [(dhcp::decide::IPXE_BIOS, &image.ipxe_bios), (dhcp::decide::IPXE_EFI, &image.ipxe_efi)]
    {
        let mut content = vec![0; usize::try_from(artifact.size).map_err(io::Error::other)?];
        artifact.file.read_exact_at(&mut content, 0)?;
        files.insert(name.to_owned(), content.into());
    }
    // Newer iPXE looks for it before it asks DHCP.
    files.insert("autoexec.ipxe".to_owned(), AUTOEXEC.as_bytes().into());
    Ok(files)
}

/// What is served, and what scripts and media say.
#[derive(Clone)]
pub struct BootServer {
    /// Key of the boot tokens.
    pub token_key: Vec<u8>,
    /// How long tokens are good: see [`token_lifetime`].
    pub token_lifetime: Duration,
    /// Where agents find the provider.
    pub agent_url: Url,
    /// SHA-256 (hex) of the CA that they trust.
    pub ca_sha256: String,
    /// Kernel and initramfs, as scripts name them.
    pub artifacts: Artifacts,
    /// The agent image; without, only scripts are served.
    pub image: Option<AgentImage>,
    /// The hosts: a medium says which network card to use.
    pub lookup: Option<Arc<dyn BootLookup>>,
    /// Whether this provider holds the lease.
    pub leader: watch::Receiver<Leadership>,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
}

/// What the handlers share.
struct Shared {
    server: BootServer,
    streams: Arc<Semaphore>,
}

/// A refusal: status and sentence.
type Refusal = (StatusCode, String);

impl BootServer {
    /// Serves `/boot/{token}/boot.ipxe`, `/boot/{token}/agent.iso` and the files of the agent image below `/agent/` until
    /// `shutdown` is cancelled; for systems that run from memory, kernel and initramfs beside the script, too.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let router = Router::new()
            .route("/boot/{token}/boot.ipxe", get(script))
            .route("/boot/{token}/agent.iso", get(iso))
            .route("/boot/{token}/{name}", get(system_file))
            .route("/agent/{name}", get(artifact))
            .with_state(Arc::new(Shared { server: self, streams: Arc::new(Semaphore::new(STREAMS)) }));
        accept(listener, CONNECTIONS, &shutdown, |stream: TcpStream| {
            let (router, shutdown) = (router.clone(), shutdown.clone());
            async move {
                let _ = stream.set_nodelay(true);
                let serving = serve_connection(Idle::new(stream, IDLE), router, None, &shutdown);
                let _ = tokio::time::timeout(CONNECTION, serving).await;
            }
        })
        .await;
        Ok(())
    }

    /// Checks a token of an agent boot at the time `now` (seconds since 1970).
    fn verify(&self, token: &str, now: u64) -> Result<Ticket, Refusal> {
        self.may_answer()?;
        Ticket::verify(&self.token_key, token, now).map_err(|error| self.refuse_token(&error))
    }

    /// Only who holds the lease answers.
    fn may_answer(&self) -> Result<(), Refusal> {
        match self.leader.borrow().refusal() {
            Some(sentence) => Err((StatusCode::SERVICE_UNAVAILABLE, sentence)),
            None => Ok(()),
        }
    }

    fn refuse_token(&self, error: &dyn std::error::Error) -> Refusal {
        tracing::warn!(%error, "boot refused");
        self.metrics.refused("boot");
        (StatusCode::FORBIDDEN, "this boot token is not valid\n".to_owned())
    }

    /// The system that a token is for. `None`: it is no token of a system that runs from memory.
    async fn system(&self, token: &str, now: u64) -> Result<Option<(System, BootToken)>, Refusal> {
        let facts = match BootToken::verify_for(TokenUse::System, &self.token_key, token, now) {
            Ok(facts) => facts,
            Err(error @ TokenError::Expired { .. }) => return Err(self.refuse_token(&error)),
            // Whoever may know it as one of an agent boot says what is wrong with it.
            Err(_) => return Ok(None),
        };
        self.may_answer()?;
        let Some((host, lookup)) = Key::parse(&facts.host).zip(self.lookup.as_ref()) else { return Ok(None) };
        match lookup.system(&host, facts.boot_number).await {
            Ok(system) => Ok(Some((system, facts))),
            Err(error @ NoSystem::Over) => Err(self.refuse_token(&error)),
            Err(NoSystem::NotReady(message)) => {
                tracing::warn!(host = facts.host, message, "the system is not ready to be booted");
                Err((StatusCode::SERVICE_UNAVAILABLE, "the system is not there yet\n".to_owned()))
            }
        }
    }

    /// The medium of a system that runs from memory.
    fn system_iso(&self, system: &System) -> Result<Composite, Refusal> {
        let image = self.image.as_ref().ok_or_else(no_image)?;
        media::system_medium(image, system).map_err(misconfigured)
    }

    /// The script for a token.
    fn script(&self, token: &str, now: u64) -> Result<String, Refusal> {
        let ticket = self.verify(token, now)?;
        let boot = self.boot_data(token, now).map_err(misconfigured)?;
        let (host, boot_number) = ticket.holder();
        tracing::info!(host, boot_number, "boot script given");
        let card = if self.image.is_some() { IPXE_ARGUMENTS } else { "" };
        let more = [card, &self.network(&ticket)?].join(" ");
        let taken =
            boot.to_kernel_args().len() + self.artifacts.arguments.len() + IPXE_WORDS.len() + more.len();
        if taken > MAX_COMMAND_LINE {
            return Err(misconfigured(format!("the kernel's command line would be {taken} bytes long")));
        }
        Ok(ipxe_script(&boot, &self.artifacts, more.trim()))
    }

    /// The template of the ISO, and what is different in that of this token.
    fn iso(&self, token: &str, now: u64) -> Result<(Arc<image::Artifact>, Patch, Ticket), Refusal> {
        let ticket = self.verify(token, now)?;
        let image = self.image.as_ref().ok_or_else(no_image)?;
        // A medium is read in pieces, by firmware more than once: all of them must be of the same medium, so it is
        // dated by its token.
        let made = ticket.expires().saturating_sub(self.token_lifetime.as_secs()).min(now);
        let boot = self.boot_data(token, made).map_err(misconfigured)?;
        let card = match &ticket {
            Ticket::Boot(facts) => {
                Key::parse(&facts.host).and_then(|host| self.lookup.as_ref()?.boot_mac(&host))
            }
            Ticket::Discovery(facts) => Some(facts.mac.into()),
        };
        let card =
            card.map(|mac| format!(" BOOTIF=01-{}", mac.to_string().replace(':', "-"))).unwrap_or_default();
        let arguments = format!("{KERNEL_ARGUMENTS}{card} {}", self.network(&ticket)?);
        media::grub_config(&boot, &arguments, image.grub_config.length)
            .and_then(|text| Patch::new(image.grub_config, text))
            .map(|patch| (image.iso.clone(), patch, ticket))
            .ok_or_else(|| misconfigured("the boot data do not fit into the room that the ISO has for them"))
    }

    /// The arguments that describe the network of a host's agent; empty where there are none.
    fn network(&self, ticket: &Ticket) -> Result<Arc<str>, Refusal> {
        let Ticket::Boot(facts) = ticket else { return Ok(Arc::default()) };
        let found =
            Key::parse(&facts.host).zip(self.lookup.as_ref()).map(|(host, lookup)| lookup.network(&host));
        found.unwrap_or(Ok(None)).map(Option::unwrap_or_default).map_err(|error| {
            tracing::warn!(host = facts.host, %error, "boot refused");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        })
    }

    fn boot_data(&self, token: &str, now: u64) -> Result<BootData, BootDataError> {
        BootData::new(self.agent_url.as_str(), &self.ca_sha256, token, now)
    }
}

fn no_image() -> Refusal {
    let sentence = "this provider has no agent image: start the manager with --agent-image-dir\n";
    (StatusCode::NOT_FOUND, sentence.to_owned())
}

fn misconfigured(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "no boot data can be made");
    (StatusCode::INTERNAL_SERVER_ERROR, "the provider is misconfigured\n".to_owned())
}

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

/// Scripts and media hold a token: no proxy may keep them.
const NOT_KEPT: (header::HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

fn refuse((status, sentence): Refusal) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), NOT_KEPT], sentence).into_response()
}

async fn script(State(shared): State<Arc<Shared>>, Path(token): Path<String>) -> Response {
    let script = match shared.server.system(&token, now()).await {
        Ok(None) => shared.server.script(&token, now()),
        Ok(Some((system, facts))) => {
            tracing::info!(host = facts.host, "boot script of the system given");
            system_script(&system.parameters)
                .ok_or_else(|| misconfigured("the kernel's parameters are not plain, or too long"))
        }
        Err(refusal) => Err(refusal),
    };
    match script {
        Ok(script) => {
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), NOT_KEPT], script).into_response()
        }
        Err(refusal) => refuse(refusal),
    }
}

async fn iso(
    State(shared): State<Arc<Shared>>,
    Path(token): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let medium = match shared.server.system(&token, now()).await {
        Ok(None) => shared.server.iso(&token, now()).map(|(template, patch, ticket)| {
            (Composite::default().artifact(template).patched(patch), ticket.holder())
        }),
        Ok(Some((system, facts))) => {
            let holder = (facts.host, facts.boot_number);
            shared.server.system_iso(&system).map(|medium| (medium, holder))
        }
        Err(refusal) => Err(refusal),
    };
    match medium {
        Ok((medium, (host, boot_number))) => {
            let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
            // One line for a medium, not one for each of a thousand pieces.
            if range.is_none_or(|range| range.starts_with("bytes=0-")) {
                tracing::info!(host, boot_number, %method, "boot medium given");
            }
            files::answer("agent.iso", &Arc::new(medium), &method, &headers, &shared.streams)
        }
        Err(refusal) => refuse(refusal),
    }
}

/// Kernel and initramfs of a system that runs from memory.
async fn system_file(
    State(shared): State<Arc<Shared>>,
    Path((token, name)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if name != KERNEL && name != INITRD {
        return refuse((StatusCode::NOT_FOUND, "there is no such file\n".to_owned()));
    }
    let system = match shared.server.system(&token, now()).await {
        Ok(Some((system, facts))) => {
            tracing::info!(host = facts.host, name, %method, "file of the system given");
            system
        }
        Ok(None) => {
            return refuse(shared.server.refuse_token(&TokenError::BadSignature));
        }
        Err(refusal) => return refuse(refusal),
    };
    let content = match name.as_str() {
        KERNEL => system.kernel,
        _ => media::system_initrd(&system),
    };
    files::answer(&name, &Arc::new(content), &method, &headers, &shared.streams)
}

async fn artifact(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let image = shared.server.image.as_ref();
    match image.and_then(|image| image.artifacts().into_iter().find(|artifact| artifact.name == name)) {
        Some(artifact) => {
            let content = Arc::new(Composite::default().artifact(artifact.clone()));
            files::answer(&name, &content, &method, &headers, &shared.streams)
        }
        None => refuse((StatusCode::NOT_FOUND, "no such file of the agent image\n".to_owned())),
    }
}

#[cfg(test)]
mod by_hand;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;

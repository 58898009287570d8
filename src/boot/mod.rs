//! Boot artifacts that the provider makes itself: the iPXE script of one boot of one host.
//!
//! The script is served in plain HTTP, since firmware cannot do better everywhere; kernel and initramfs come from the
//! artifact server. The only secret is the boot token, in the URL and in the script: it is good for one key of one boot
//! of one host, and is not spent here, because firmware asks again. Nothing but these scripts is served.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::get,
};
use ferric_protocol::{BootData, BootDataError, BootToken};
use http::{StatusCode, header};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::deploy::{Leadership, connection::serve_connection, server::accept};

/// Connections at once. A script is answered in a millisecond.
const CONNECTIONS: usize = 4096;
/// Time from connecting to the end of the connection: one small request.
const CONNECTION: Duration = Duration::from_secs(60);

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

/// URL of the script for the boot that `token` was made for.
pub fn boot_url(boot_base: &Url, token: &str) -> Url {
    let mut url = boot_base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["boot", token, "boot.ipxe"]);
    }
    url
}

/// The script: fetch kernel and initramfs, start the kernel with the boot data on its command line.
pub fn ipxe_script(boot: &BootData, artifacts: &Artifacts) -> String {
    let Artifacts { kernel, initrd, arguments } = artifacts;
    let arguments = if arguments.is_empty() { String::new() } else { format!(" {arguments}") };
    format!(
        "#!ipxe\nkernel {kernel} initrd=initrd.img {boot}{arguments}\ninitrd --name initrd.img {initrd}\nboot\n",
        boot = boot.to_kernel_args()
    )
}

/// What the scripts say.
#[derive(Clone)]
pub struct BootServer {
    /// Key of the boot tokens.
    pub token_key: Vec<u8>,
    /// Where agents find the provider.
    pub agent_url: Url,
    /// SHA-256 (hex) of the CA that they trust.
    pub ca_sha256: String,
    /// Kernel and initramfs.
    pub artifacts: Artifacts,
    /// Whether this provider holds the lease.
    pub leader: watch::Receiver<Leadership>,
}

impl BootServer {
    /// Serves `GET /boot/{token}/boot.ipxe` until `shutdown` is cancelled.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let router = Router::new().route("/boot/{token}/boot.ipxe", get(script)).with_state(Arc::new(self));
        accept(listener, CONNECTIONS, &shutdown, |stream: TcpStream| {
            let (router, shutdown) = (router.clone(), shutdown.clone());
            async move {
                let _ = stream.set_nodelay(true);
                let serving = serve_connection(stream, router, None, &shutdown);
                let _ = tokio::time::timeout(CONNECTION, serving).await;
            }
        })
        .await;
        Ok(())
    }

    /// The answer to a request at the time `now` (seconds since 1970).
    fn answer(&self, token: &str, now: u64) -> Result<String, (StatusCode, String)> {
        if let Some(sentence) = self.leader.borrow().refusal() {
            return Err((StatusCode::SERVICE_UNAVAILABLE, sentence));
        }
        let facts = BootToken::verify(&self.token_key, token, now).map_err(|error| {
            tracing::warn!(%error, "boot script refused");
            (StatusCode::FORBIDDEN, "this boot token is not valid\n".to_owned())
        })?;
        let boot = self.boot_data(token, now).map_err(|error| {
            tracing::error!(%error, "no boot data can be made");
            (StatusCode::INTERNAL_SERVER_ERROR, "the provider is misconfigured\n".to_owned())
        })?;
        tracing::info!(host = facts.host, boot_number = facts.boot_number, "boot script given");
        Ok(ipxe_script(&boot, &self.artifacts))
    }

    fn boot_data(&self, token: &str, now: u64) -> Result<BootData, BootDataError> {
        BootData::new(self.agent_url.as_str(), &self.ca_sha256, token, now)
    }
}

async fn script(State(server): State<Arc<BootServer>>, Path(token): Path<String>) -> Response {
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    // A script holds a token: no proxy may keep it.
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    match server.answer(&token, now) {
        Ok(script) => (headers, script).into_response(),
        Err((status, sentence)) => (status, headers, sentence).into_response(),
    }
}

#[cfg(test)]
mod tests;

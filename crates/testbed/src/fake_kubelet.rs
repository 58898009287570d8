//! The port-forward end of kubelets: how Cluster API's kubeadm control-plane provider reaches etcd and the apiserver
//! of a control-plane machine. One process serves any number of nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::assets::{Assets, Binary};
use crate::error::{Error, Result};
use crate::pki::{Ca, Usage};
use crate::ports::Port;
use crate::process::{Process, ProcessSpec};

const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running `fakekubelet`; ended when dropped.
#[derive(Debug)]
pub struct FakeKubelet {
    process: Process,
    port: Port,
    routes: PathBuf,
}

impl FakeKubelet {
    /// Starts one on `address`, with its files in `folder`. On `0.0.0.0` it answers for every loopback address.
    ///
    /// Its certificate is signed by nobody in particular: an apiserver does not check it unless told to.
    pub async fn start(assets: &Assets, folder: &Path, address: IpAddr) -> Result<Self> {
        let program = assets.ensure(Binary::FakeKubelet).await?;
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let files = Ca::new("fakekubelet-ca")?
            .issue("fakekubelet", None, &["127.0.0.1".to_owned(), address.to_string()], Usage::Server)?
            .write(folder, "fakekubelet")?;
        let port = Port::reserve_on(address)?;
        let routes = folder.join("routes.json");
        write_routes(&routes, &BTreeMap::new())?;
        let process = Process::spawn(
            ProcessSpec::new("fakekubelet", program, folder.join("fakekubelet.log"))
                .flag("listen", SocketAddr::new(address, port.number()).to_string())
                .flag("cert-file", files.cert)
                .flag("key-file", files.key)
                .flag("routes", &routes),
        )?;
        let mut this = Self { process, port, routes };
        let number = this.port.number();
        this.process
            .wait_ready("fakekubelet to listen", READY_LIMIT, async || {
                // 0.0.0.0 as a destination is this machine.
                TcpStream::connect((address, number)).await.map(drop).map_err(|error| error.to_string())
            })
            .await?;
        Ok(this)
    }

    /// The port, for `status.daemonEndpoints.kubeletEndpoint.Port` of its nodes.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Replaces all routes. A key is `namespace/pod:port`, a value is a TCP address. Open streams stay.
    pub fn set_routes(&self, routes: &BTreeMap<String, String>) -> Result<()> {
        write_routes(&self.routes, routes)
    }
}

/// Replaces the file as a whole: the other side may be reading it.
fn write_routes(path: &Path, routes: &BTreeMap<String, String>) -> Result<()> {
    let text = serde_json::to_vec(routes).map_err(|error| Error::malformed("the routes", error))?;
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, text).map_err(Error::file("write", &unfinished))?;
    std::fs::rename(&unfinished, path).map_err(Error::file("rename to", path))
}

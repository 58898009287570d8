//! BMCs that are not this project's, over the virtual servers of libvirt: sushy-tools for Redfish, VirtualBMC for IPMI.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::libvirt::URI;
use super::tools::Tools;
use super::{ADDRESS, PASSWORD, USER};
use crate::error::{Error, Result};
use crate::ports::Port;
use crate::process::{self, Process, ProcessSpec};

const READY_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Prints a password file of Apache's form, which the emulator reads.
const HASH: &str = "import bcrypt, sys
print(sys.argv[1] + ':' + bcrypt.hashpw(sys.argv[2].encode(), bcrypt.gensalt(4)).decode())";
/// The first port of IPMI; each server's BMC has the next.
const IPMI_PORT: u16 = 6230;

/// What a Redfish service can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Features {
    /// Everything that the emulator has.
    Full,
    /// Power and boot device, without virtual media.
    Minimum,
}

impl Features {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Minimum => "minimum",
        }
    }
}

/// Redfish of all virtual servers; ended when dropped.
#[derive(Debug)]
pub(super) struct Redfish {
    process: Process,
    port: Port,
}

impl Redfish {
    pub(super) async fn start(tools: &Tools, folder: &Path, logs: &Path, features: Features) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let mut command = tokio::process::Command::new(&tools.python);
        command.args(["-c", HASH, USER, PASSWORD]);
        let passwords = folder.join("htpasswd");
        let hashed = process::run(command, COMMAND_LIMIT).await?;
        std::fs::write(&passwords, hashed).map_err(Error::file("write", &passwords))?;
        let port = Port::reserve_on(ADDRESS.into())?;
        let config = folder.join("emulator.conf");
        let text = format!(
            "SUSHY_EMULATOR_LISTEN_IP = '{ADDRESS}'\n\
             SUSHY_EMULATOR_LISTEN_PORT = {}\n\
             SUSHY_EMULATOR_LIBVIRT_URI = '{URI}'\n\
             SUSHY_EMULATOR_IGNORE_BOOT_DEVICE = False\n\
             SUSHY_EMULATOR_STATE_DIR = {:?}\n\
             SUSHY_EMULATOR_FEATURE_SET = '{}'\n\
             SUSHY_EMULATOR_AUTH_FILE = {:?}\n",
            port.number(),
            folder,
            features.name(),
            passwords
        );
        std::fs::write(&config, text).map_err(Error::file("write", &config))?;
        let spec = ProcessSpec::new(
            "sushy-emulator",
            &tools.python,
            logs.join(format!("sushy-emulator-{}.log", features.name())),
        )
        .args(["-c", "import sys; from sushy_tools.emulator.main import main; sys.exit(main())", "--config"])
        .arg(&config)
        .env("PYTHONUNBUFFERED", "1");
        let mut process = Process::spawn(spec)?;
        let number = port.number();
        process
            .wait_ready("sushy-emulator to listen", READY_LIMIT, async || listens(ADDRESS, number).await)
            .await?;
        Ok(Self { process, port })
    }

    /// The address of a server's BMC, with this scheme.
    pub(super) fn address(&self, scheme: &str, uuid: &uuid::Uuid) -> String {
        format!("{scheme}+http://{ADDRESS}:{}/redfish/v1/Systems/{uuid}", self.port.number())
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.process.check()
    }
}

async fn listens(address: Ipv4Addr, port: u16) -> Result<(), String> {
    let stream = tokio::net::TcpStream::connect((address, port)).await;
    stream.map(drop).map_err(|error| error.to_string())
}

/// IPMI of the virtual servers that want it; ended when dropped.
#[derive(Debug)]
pub(super) struct Ipmi {
    process: Process,
    python: PathBuf,
    config: PathBuf,
    servers: u16,
}

impl Ipmi {
    pub(super) async fn start(tools: &Tools, folder: &Path, logs: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let config = folder.join("virtualbmc.conf");
        let text = format!(
            "[default]\nconfig_dir = {0}\npid_file = {0}/vbmcd.pid\n[log]\nlogfile = {1}\n",
            folder.display(),
            logs.join("virtualbmc.log").display()
        );
        std::fs::write(&config, text).map_err(Error::file("write", &config))?;
        let spec = ProcessSpec::new("vbmcd", &tools.python, logs.join("vbmcd.log"))
            .args([
                "-c",
                "import sys; from virtualbmc.cmd.vbmcd import main; sys.exit(main())",
                "--foreground",
            ])
            .env("VIRTUALBMC_CONFIG", &config);
        let process = Process::spawn(spec)?;
        let mut this = Self { process, python: tools.python.clone(), config, servers: 0 };
        let (python, config) = (this.python.clone(), this.config.clone());
        this.process
            .wait_ready("vbmcd to answer", READY_LIMIT, async || {
                vbmc(&python, &config, &["list"]).await.map(drop).map_err(|error| error.to_string())
            })
            .await?;
        Ok(this)
    }

    /// Gives a server a BMC and returns its address.
    pub(super) async fn add(&mut self, name: &str) -> Result<String> {
        let port = IPMI_PORT + self.servers;
        self.servers += 1;
        let (number, address) = (port.to_string(), ADDRESS.to_string());
        let login = ["--username", USER, "--password", PASSWORD, "--libvirt-uri", URI];
        let place = ["add", name, "--port", &number, "--address", &address];
        vbmc(&self.python, &self.config, &[&place[..], &login[..]].concat()).await?;
        vbmc(&self.python, &self.config, &["start", name]).await?;
        Ok(format!("ipmi://{ADDRESS}:{port}"))
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.process.check()
    }
}

async fn vbmc(python: &Path, config: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(python);
    command.args(["-c", "import sys; from virtualbmc.cmd.vbmc import main; sys.exit(main())"]);
    command.args(arguments).env("VIRTUALBMC_CONFIG", config);
    process::run(command, COMMAND_LIMIT).await
}

//! Virtual servers with BMCs that are not this project's: what the simulator claims, a machine proves.
//!
//! libvirt (emulated, never KVM), sushy-tools as Redfish, VirtualBMC as IPMI and a foreign DHCP server run in a
//! [`world`] of their own, together with everything that is to talk to the virtual servers. Nothing reaches another
//! network, and nothing is left when it ends.

pub mod container_images;
pub mod demo;
pub mod domain;
pub mod images;
pub mod rows;
pub mod stack;
pub mod tools;
mod wake;
pub mod world;

mod bmc;
mod ipmi_sim;
mod libvirt;
mod recipe;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process::{Process, ProcessSpec};
use bmc::{Features, Ipmi, Redfish};
use domain::{BmcKind, Place, ServerSpec, Wired};
pub use images::{Form, NodeImage};
use ipmi_sim::IpmiSim;
use libvirt::Libvirt;
pub use stack::{LabBuilder, LabStack};
pub use tools::{Tools, obstacle};
use wake::Card;

/// The lab's own address on its bridge, where everything listens that virtual servers talk to.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Addresses that the DHCP server gives to the n-th server begin here.
const FIRST_ADDRESS: u8 = 50;
/// How long a BMC may take to answer: libvirt changes a domain meanwhile.
const BMC_LIMIT: Duration = Duration::from_secs(60);
/// A login at every BMC.
pub(crate) const USER: &str = "admin";
pub(crate) const PASSWORD: &str = "lab-password";

/// The lab's part of the cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    let none = || Error::Assets("no cache folder: set HOME or XDG_CACHE_HOME".to_owned());
    Ok(cache.ok_or_else(none)?.join("ferric/lab"))
}

/// A virtual server.
#[derive(Clone, Debug)]
pub struct Server {
    /// What it is made of.
    pub spec: ServerSpec,
    /// Address of its BMC, as a host's `spec.bmc.address` says it.
    pub bmc_address: String,
    /// The address that the DHCP server gives to it.
    pub address: Ipv4Addr,
    place: Place,
}

impl Server {
    /// Its system UUID.
    #[must_use]
    pub fn uuid(&self) -> uuid::Uuid {
        self.place.uuid
    }

    /// Hardware address of the network port that it boots from.
    #[must_use]
    pub fn mac(&self) -> &str {
        self.place.macs.first().map_or("", String::as_str)
    }

    /// Hardware addresses of all its network ports.
    #[must_use]
    pub fn macs(&self) -> &[String] {
        &self.place.macs
    }

    /// File of the n-th disk.
    #[must_use]
    pub fn disk(&self, number: usize) -> Option<&Path> {
        self.place.disks.get(number).map(PathBuf::as_path)
    }

    /// File of what its serial port printed, over all boots.
    #[must_use]
    pub fn serial(&self) -> &Path {
        &self.place.serial
    }

    /// What its serial port printed from an offset on, without what moves a cursor.
    #[must_use]
    pub fn serial_from(&self, offset: u64) -> String {
        let bytes = std::fs::read(&self.place.serial).unwrap_or_default();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        plain(&String::from_utf8_lossy(&bytes[from..]))
    }

    /// Where its serial output ends now.
    #[must_use]
    pub fn serial_end(&self) -> u64 {
        self.place.serial.metadata().map_or(0, |found| found.len())
    }

    /// The last lines of its serial port that hold anything.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> String {
        let text = self.serial_from(self.serial_end().saturating_sub(16_384));
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// The host as an operator enrols it: the Secret of its BMC, and the BareMetalHost.
    #[must_use]
    pub fn manifest(&self) -> String {
        let name = &self.spec.name;
        let mut text = format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}-bmc, namespace: default}}\n\
             stringData: {{username: {USER}, password: {PASSWORD}}}\n\
             ---\napiVersion: infrastructure.cluster.x-k8s.io/v1alpha1\nkind: BareMetalHost\n\
             metadata:\n  name: {name}\n  namespace: default\n  labels: {{lab: {name}}}\n\
             spec:\n  online: false\n  bootMACAddress: \"{}\"\n  bmc:\n    address: {}\n",
            self.mac(),
            self.bmc_address
        );
        // A password would be that of the magic packet.
        if self.spec.bmc != BmcKind::WakeOnLan {
            let _ = writeln!(text, "    credentialsName: {name}-bmc");
        }
        if self.spec.firmware == domain::Firmware::Bios {
            text.push_str("  bootMode: legacy\n");
        }
        if !self.spec.hints.is_empty() {
            text.push_str("  rootDeviceHints:\n");
            for (key, value) in &self.spec.hints {
                let _ = writeln!(text, "    {key}: {value}");
            }
        }
        text
    }

    /// Whether it is powered on, as libvirt knows it.
    pub async fn is_on(&self) -> Result<bool> {
        libvirt::is_on(&self.spec.name).await
    }

    /// Switches it on by its BMC, to boot from the network once: what somebody does who does not ask the provider.
    pub async fn boot_from_network(&self) -> Result<()> {
        let failed = |error: reqwest::Error| Error::malformed(self.bmc_address.clone(), error);
        let url = self.bmc_address.replacen("redfish+", "", 1);
        let http = reqwest::Client::builder().no_proxy().timeout(BMC_LIMIT).build().map_err(failed)?;
        let once = serde_json::json!({ "Boot": {
            "BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"
        } });
        let on = serde_json::json!({ "ResetType": "On" });
        for (request, body) in
            [(http.patch(&url), once), (http.post(format!("{url}/Actions/ComputerSystem.Reset")), on)]
        {
            let sent = request.basic_auth(USER, Some(PASSWORD)).json(&body).send().await;
            sent.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        }
        Ok(())
    }

    /// Takes its power away at once, as a plug that is pulled does.
    pub async fn cut_power(&self) -> Result<()> {
        libvirt::virsh(["destroy", &self.spec.name]).await.map(|_| ())
    }

    /// Cuts or mends the cable of all its network ports.
    pub async fn set_link(&self, up: bool) -> Result<()> {
        for mac in &self.place.macs {
            let state = if up { "up" } else { "down" };
            libvirt::virsh(["domif-setlink", &self.spec.name, mac, state]).await?;
        }
        Ok(())
    }
}

/// Takes escape sequences out.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                while rest.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            '\u{1b}' => {
                rest.next();
            }
            '\r' => {}
            c => out.push(c),
        }
    }
    out
}

/// The virtual servers, their BMCs and the foreign DHCP server; ended when dropped.
#[derive(Debug)]
pub struct Lab {
    servers: Vec<Server>,
    redfish: Redfish,
    /// One whose BMCs have no virtual media.
    plain: Option<Redfish>,
    ipmi: Option<Ipmi>,
    simulated: Vec<IpmiSim>,
    /// Cards of servers without a BMC.
    _cards: Vec<Card>,
    dhcp: Process,
    libvirt: Libvirt,
}

impl Lab {
    /// Starts everything with its files in `folder` and its logs in `logs`. To be called inside a [`world`] only.
    pub async fn start(specs: &[ServerSpec], tools: &Tools, folder: &Path, logs: &Path) -> Result<Self> {
        if world::inside().is_none() {
            return Err(Error::Assets("a lab runs in a world of its own only".to_owned()));
        }
        let libvirt = Libvirt::start(folder, logs).await?;
        let redfish = Redfish::start(tools, &folder.join("redfish"), logs, Features::Full).await?;
        let (mut plain, mut ipmi, mut simulated, mut cards) = (None, None, Vec::new(), Vec::new());
        let disks = folder.join("disks");
        std::fs::create_dir_all(&disks).map_err(Error::file("create", &disks))?;
        let mut servers = Vec::new();
        for (number, spec) in (0_u8..).zip(specs) {
            let mut place = place(spec, number, &disks, logs);
            let mut own_address = String::new();
            if let BmcKind::OwnIpmi(wired) = spec.bmc {
                let folder = folder.join(format!("ipmi-sim-{}", spec.name));
                let ours = ipmi_sim::Identity::of(spec, wired, place.uuid, number);
                let ours = IpmiSim::start(&folder.join("lan"), logs, &spec.name, &ours).await?;
                (place.own_bmc, own_address) = (ours.own_port(), ours.address());
                simulated.push(ours);
                if wired == Wired::Wrong {
                    let other = ipmi_sim::Identity::of_another(number);
                    let other = IpmiSim::start(&folder.join("own"), logs, &spec.name, &other).await?;
                    place.own_bmc = other.own_port();
                    simulated.push(other);
                }
            }
            for (disk, path) in spec.disks.iter().zip(&place.disks) {
                let file = std::fs::File::create(path).map_err(Error::file("create", path))?;
                file.set_len(disk.size).map_err(Error::file("size", path))?;
                if let Some((faults, text)) = domain::faults(disk, path) {
                    std::fs::write(&faults, text).map_err(Error::file("write", &faults))?;
                }
            }
            let xml = folder.join(format!("{}.xml", spec.name));
            std::fs::write(&xml, domain::xml(spec, &place)).map_err(Error::file("write", &xml))?;
            libvirt::define(&xml).await?;
            let bmc_address = match spec.bmc {
                BmcKind::Redfish(scheme) => redfish.address(scheme, &place.uuid),
                BmcKind::RedfishWithoutMedia => {
                    if plain.is_none() {
                        let folder = folder.join("redfish-plain");
                        plain = Some(Redfish::start(tools, &folder, logs, Features::Minimum).await?);
                    }
                    plain.as_ref().map(|plain| plain.address("redfish", &place.uuid)).unwrap_or_default()
                }
                BmcKind::Ipmi => {
                    if ipmi.is_none() {
                        ipmi = Some(Ipmi::start(tools, &folder.join("ipmi"), logs).await?);
                    }
                    match &mut ipmi {
                        Some(ipmi) => ipmi.add(&spec.name).await?,
                        None => String::new(),
                    }
                }
                BmcKind::OwnIpmi(_) => own_address,
                BmcKind::WakeOnLan => {
                    let card = Card::listen(&spec.name, &place.macs[0]).await?;
                    let address = card.address();
                    cards.push(card);
                    address
                }
            };
            servers.push(Server { spec: spec.clone(), bmc_address, address: address(number), place });
        }
        let dhcp = start_dhcp(&servers, folder, logs).await?;
        Ok(Self { servers, redfish, plain, ipmi, simulated, _cards: cards, dhcp, libvirt })
    }

    /// The virtual servers.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// A server by its name.
    pub fn server(&self, name: &str) -> Result<&Server> {
        let found = self.servers.iter().find(|server| server.spec.name == name);
        found.ok_or_else(|| Error::malformed(name, "the lab has no server of this name"))
    }

    /// Fails when something ended that should not.
    pub fn check(&mut self) -> Result<()> {
        self.libvirt.check()?;
        self.redfish.check()?;
        self.dhcp.check()?;
        self.plain.as_mut().map_or(Ok(()), Redfish::check)?;
        self.simulated.iter_mut().try_for_each(IpmiSim::check)?;
        self.ipmi.as_mut().map_or(Ok(()), Ipmi::check)
    }
}

fn place(spec: &ServerSpec, number: u8, disks: &Path, logs: &Path) -> Place {
    Place {
        uuid: uuid::Uuid::new_v4(),
        macs: (0..2_u8).map(|port| format!("52:54:00:77:{number:02x}:{port:02x}")).collect(),
        disks: (0..spec.disks.len()).map(|disk| disks.join(format!("{}-{disk}.raw", spec.name))).collect(),
        serial: logs.join(format!("serial-{}.log", spec.name)),
        own_bmc: 0,
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, FIRST_ADDRESS.saturating_add(number))
}

/// The DHCP server that was there before us: addresses and a route, nothing about booting. It is on a machine of its own,
/// as far as the network can tell: a namespace with a cable to the bridge.
async fn start_dhcp(servers: &[Server], folder: &Path, logs: &Path) -> Result<Process> {
    const SCRIPT: &str = "until ip link show dhcp0 >/dev/null 2>&1; do sleep 0.1; done
        ip link set lo up; ip address add 10.77.0.2/24 dev dhcp0; ip link set dhcp0 up; exec /usr/sbin/dnsmasq \"$@\"";
    let log = logs.join("dnsmasq.log");
    let mut spec = ProcessSpec::new("dnsmasq", "/usr/bin/unshare", &log)
        .args(["--net", "--", "/bin/sh", "-c", SCRIPT, "dnsmasq"])
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=dhcp0",
            "--log-dhcp",
        ])
        .args([
            "--user=root",
            "--log-facility=-",
            "--dhcp-authoritative",
            "--dhcp-range=10.77.0.200,10.77.0.250,1h",
        ])
        .flag("dhcp-option", format!("option:router,{ADDRESS}"))
        .flag("dhcp-leasefile", folder.join("dnsmasq.leases"))
        .flag("pid-file", folder.join("dnsmasq.pid"));
    for server in servers {
        spec = spec.flag("dhcp-host", format!("{},{}", server.mac(), server.address));
    }
    let mut process = Process::spawn(spec)?;
    let pid = process.pid().to_string();
    let cable = ["link", "add", "dhcp1", "type", "veth", "peer", "name", "dhcp0"];
    for arguments in [&cable[..], &["link", "set", "dhcp1", "master", "lab0", "up"]] {
        ip(arguments).await?;
    }
    let own = std::fs::read_link("/proc/self/ns/net").ok();
    process
        .wait_ready("the DHCP server to have a network of its own", Duration::from_secs(10), async || {
            // Before that the cable would come back here.
            match std::fs::read_link(format!("/proc/{pid}/ns/net")) {
                Ok(its) if Some(&its) != own.as_ref() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    ip(&["link", "set", "dhcp0", "netns", &pid]).await?;
    process
        .wait_ready("dnsmasq to be up", Duration::from_secs(30), async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("DHCP, IP range") { Ok(()) } else { Err(text) }
        })
        .await?;
    Ok(process)
}

async fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = tokio::process::Command::new("ip");
    command.args(arguments);
    crate::process::run(command, Duration::from_secs(20)).await.map(drop)
}

/// Waits until a server's serial port, from an offset on, has printed something.
pub async fn wait_for_serial(server: &Server, from: u64, text: &str, limit: Duration) -> Result<()> {
    stack::wait_for(&format!("{} to print {text:?}", server.spec.name), limit, async || {
        match server.serial_from(from).contains(text) {
            true => Ok(()),
            false => Err(server.last_lines(3)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_is_taken_out() {
        assert_eq!(plain("\u{1b}[2J\u{1b}[01;01Hone\r\n\u{1b}=two"), "one\ntwo");
    }
}

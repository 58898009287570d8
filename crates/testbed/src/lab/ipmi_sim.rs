//! OpenIPMI's `ipmi_sim`: a BMC that this project did not write, spoken to over LAN and by the virtual server itself
//! (QEMU's `ipmi-bmc-extern`). It switches the server by libvirt.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use super::domain::{ServerSpec, Wired};
use super::libvirt::URI;
use super::{ADDRESS, PASSWORD, USER};
use crate::error::{Error, Result};
use crate::ports::Port;
use crate::process::{Process, ProcessSpec};

const READY_LIMIT: Duration = Duration::from_secs(20);
/// Get Channel Authentication Capabilities (IPMI 2.0, 22.13) without a session.
const KNOCK: [u8; 23] =
    [6, 0, 0xFF, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x20, 0x18, 0xC8, 0x81, 0, 0x38, 0x8E, 0x04, 0xB5];
/// An FRU inventory: board "Board Maker", "X11", "BOARD-SN"; product "Acme", "Rocket 2000", "PN-1", "v2", "S1234567".
const FRU: &str = "0x01 0x00 0x00 0x01 0x06 0x00 0x00 0xf8 0x01 0x05 0x00 0x01 0x02 0x03 0xcb 0x42 0x6f 0x61 0x72 0x64 \
    0x20 0x4d 0x61 0x6b 0x65 0x72 0xc3 0x58 0x31 0x31 0xc8 0x42 0x4f 0x41 0x52 0x44 0x2d 0x53 0x4e 0xc1 \
    0x00 0x00 0x00 0x00 0x00 0x00 0x00 0xf5 0x01 0x05 0x19 0xc4 0x41 0x63 0x6d 0x65 0xcb 0x52 0x6f 0x63 \
    0x6b 0x65 0x74 0x20 0x32 0x30 0x30 0x30 0xc4 0x50 0x4e 0x2d 0x31 0xc2 0x76 0x32 0xc8 0x53 0x31 0x32 \
    0x33 0x34 0x35 0x36 0x37 0xc1 0x00 0x20 0x00";

/// What a simulated BMC says of itself.
#[derive(Debug)]
pub(super) struct Identity {
    /// The libvirt domain that it switches; without, none.
    domain: Option<String>,
    /// Its address, which it listens on only if it switches a server.
    address: Ipv4Addr,
    /// MAC address.
    mac: String,
    /// System GUID, backwards as the specification has it (IPMI 2.0, 20.8). Without any it takes no RMCP+ session; zeros say
    /// nothing.
    guid: [u8; 16],
    /// Whether it has an FRU inventory.
    fru: bool,
}

impl Identity {
    /// Of the BMC of a server. One that the server does not speak to says of it as little as a BMC may: what it says more
    /// is compared at the registration already.
    pub(super) fn of(spec: &ServerSpec, wired: Wired, uuid: uuid::Uuid, number: u8) -> Self {
        let mut guid = if wired == Wired::Right { uuid.into_bytes() } else { [0; 16] };
        guid.reverse();
        Self {
            domain: Some(spec.name.clone()),
            address: ADDRESS,
            mac: format!("52:54:00:77:{number:02x}:b0"),
            guid,
            fru: wired == Wired::Right,
        }
    }

    /// Of the BMC of a server that is not there.
    pub(super) fn of_another(number: u8) -> Self {
        let address = Ipv4Addr::from(u32::from(ADDRESS) + 98);
        let guid = uuid::Uuid::new_v4().into_bytes();
        Self { domain: None, address, mac: format!("52:54:00:77:{number:02x}:b1"), guid, fru: true }
    }
}

/// A running simulator; ended when dropped.
#[derive(Debug)]
pub(super) struct IpmiSim {
    process: Process,
    lan: Port,
    own: Port,
}

impl IpmiSim {
    pub(super) async fn start(folder: &Path, logs: &Path, name: &str, identity: &Identity) -> Result<Self> {
        let (lan, own) = (Port::reserve_on(ADDRESS.into())?, Port::reserve_on(Ipv4Addr::LOCALHOST.into())?);
        let state = folder.join("state");
        std::fs::create_dir_all(&state).map_err(Error::file("create", &state))?;
        let write = |file: &str, text: String, mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            let path = folder.join(file);
            std::fs::write(&path, text).map_err(Error::file("write", &path))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
                .map_err(Error::file("make executable", &path))
        };
        let (shown, guid) = (folder.display(), hex::encode(identity.guid));
        let auths = ["callback", "user", "operator", "admin"]
            .map(|level| format!("allowed_auths_{level} none md2 md5 straight\n"))
            .concat();
        let config = format!(
            "name \"{name}\"\nset_working_mc 0x20\nstartlan 1\naddr {ADDRESS} {}\npriv_limit admin\n{auths}\
             guid {guid}\nlan_config_program \"{shown}/lan eth0\"\nendlan\n\
             serial 15 127.0.0.1 {} codec VM\n\
             chassis_control \"{shown}/chassis 0x20\"\n\
             user 2 true \"{USER}\" \"{PASSWORD}\" admin 60 none md2 md5 straight\n\
             user 3 false \"guest\" \"{PASSWORD}\" user 60 none md2 md5 straight\n",
            lan.number(),
            own.number()
        );
        write("lan.conf", config, 0o600)?;
        let fru =
            if identity.fru { format!("mc_add_fru_data 0x20 0 256 data {FRU}\n") } else { String::new() };
        let emulation = format!(
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
             mc_set_guid 0x20 {guid}\n{fru}mc_enable 0x20\n"
        );
        write("emu", emulation, 0o600)?;
        write("boot", "default".to_owned(), 0o600)?;
        write("chassis", chassis(folder, identity.domain.as_deref()), 0o755)?;
        write("lan", network(identity), 0o755)?;
        let kind = folder.file_name().unwrap_or_default().to_string_lossy();
        // A server that goes away in the middle of an answer would end it.
        let log = logs.join(format!("ipmi-sim-{name}-{kind}.log"));
        let spec = ProcessSpec::new("ipmi_sim", "/bin/sh", log)
            .args([
                "-c",
                "trap '' PIPE; exec /usr/bin/ipmi_sim \"$@\"",
                "ipmi_sim",
                "--nostdio",
                "--nopersist",
                "-c",
            ])
            .arg(folder.join("lan.conf"))
            .arg("-f")
            .arg(folder.join("emu"))
            .arg("-s")
            .arg(&state);
        let mut process = Process::spawn(spec)?;
        let number = lan.number();
        process
            .wait_ready("ipmi_sim to answer", READY_LIMIT, async || {
                answers(number).await.map_err(|error| error.to_string())
            })
            .await?;
        Ok(Self { process, lan, own })
    }

    /// The address of a host's BMC.
    pub(super) fn address(&self) -> String {
        format!("ipmi://{ADDRESS}:{}", self.lan.number())
    }

    /// TCP port that the server itself speaks to it by.
    pub(super) fn own_port(&self) -> u16 {
        self.own.number()
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.process.check()
    }
}

/// Whether it answers over LAN. It takes one connection of a server, which is not for trying.
async fn answers(port: u16) -> std::io::Result<()> {
    let socket = tokio::net::UdpSocket::bind((ADDRESS, 0)).await?;
    socket.connect((ADDRESS, port)).await?;
    socket.send(&KNOCK).await?;
    let answer = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut [0; 64])).await;
    answer.map_err(std::io::Error::other)?.map(drop)
}

/// The program by which it switches a server: `chassis MC get NAME…` prints values, `chassis MC set NAME VALUE…` sets them.
fn chassis(folder: &Path, domain: Option<&str>) -> String {
    let folder = folder.display();
    let virsh = match domain {
        Some(domain) => {
            format!("domain={domain}; virsh() {{ /usr/bin/virsh --quiet --connect {URI} \"$@\"; }}")
        }
        None => "domain=; virsh() { :; }".to_owned(),
    };
    format!(
        "#!/bin/sh\n{virsh}\ncd '{folder}'; shift; operation=$1; shift\n\
         if [ $operation = get ]; then\n\
           for name in \"$@\"; do\n\
             case $name in\n\
               power) if [ \"$(virsh domstate $domain)\" = running ]; then echo power:1; else echo power:0; fi ;;\n\
               *) echo \"$name:$(cat $name 2>/dev/null || echo 0)\" ;;\n\
             esac\n\
           done\n\
         else\n\
           while [ $# -gt 0 ]; do\n\
             case $1:$2 in\n\
               power:1) virsh start $domain ;;\n\
               power:0) virsh destroy $domain ;;\n\
               reset:*) virsh reset $domain ;;\n\
               *) echo \"$2\" > \"$1\" ;;\n\
             esac >/dev/null\n\
             shift 2 || shift\n\
           done\n\
         fi\n"
    )
}

/// The program by which it knows its network: `lan DEVICE get NAME…` prints values.
fn network(identity: &Identity) -> String {
    let Identity { address, mac, .. } = identity;
    format!(
        "#!/bin/sh\nshift; operation=$1; shift\n[ $operation = get ] || exit 0\n\
         for name in \"$@\"; do\n\
           case $name in\n\
             ip_addr) echo ip_addr:{address} ;;\n\
             ip_addr_src) echo ip_addr_src:static ;;\n\
             mac_addr) echo mac_addr:{mac} ;;\n\
             subnet_mask) echo subnet_mask:255.255.255.0 ;;\n\
             *_mac_addr) echo $name:00:00:00:00:00:00 ;;\n\
             *) echo $name:0.0.0.0 ;;\n\
           esac\n\
         done\n"
    )
}

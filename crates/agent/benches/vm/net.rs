//! The network of the machines: an address of ours on a tap, DHCP and TFTP by dnsmasq, HTTP, and ways to what listens on
//! loopback.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    routing::get,
};
use tokio::net::{TcpListener, TcpStream};

use crate::{Result, support::Provider};

/// Ours.
pub const ADDRESS: &str = crate::support::FROM_BRIDGE;
/// The port of the machines.
pub const TAP: &str = "tap0";

type Files = Arc<Mutex<HashMap<String, Bytes>>>;

/// Everything that a machine can reach.
pub struct Net {
    files: Files,
    http: SocketAddr,
    dnsmasq: Child,
}

impl Net {
    /// Makes it, with kernel and initramfs of the agent among its files.
    pub async fn start(folder: &Path, image: &Path) -> Result<Self> {
        for arguments in [
            "link set lo up".to_owned(),
            format!("tuntap add dev {TAP} mode tap"),
            format!("address add {ADDRESS}/24 dev {TAP}"),
            format!("link set {TAP} up"),
        ] {
            let status = Command::new("ip").args(arguments.split(' ')).status()?;
            if !status.success() {
                return Err(format!("ip {arguments}: {status}").into());
            }
        }
        let mut files = HashMap::new();
        for name in ["vmlinuz", "initrd.img"] {
            files.insert(name.to_owned(), fs::read(image.join(name))?.into());
        }
        let files: Files = Arc::new(Mutex::new(files));
        let listener = TcpListener::bind((ADDRESS, 0)).await?;
        let http = listener.local_addr()?;
        let router = Router::new().route("/{name}", get(serve)).with_state(files.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let dnsmasq = dnsmasq(folder, image, http)?;
        Ok(Self { files, http, dnsmasq })
    }

    /// What iPXE is told from now on, and the initramfs that it may fetch beside that of the agent.
    pub fn script(&self, initramfs: &str, content: Option<Vec<u8>>, arguments: &str) {
        let http = self.http;
        let script = format!(
            "#!ipxe\nkernel http://{http}/vmlinuz initrd=initrd.img {arguments}\n\
             initrd --name initrd.img http://{http}/{initramfs}\nboot\n"
        );
        let mut files = self.files.lock().unwrap();
        files.insert("boot.ipxe".to_owned(), script.into());
        if let Some(content) = content {
            files.insert(initramfs.to_owned(), content.into());
        }
    }

    /// A way to what listens on loopback; returns the address that machines use.
    pub async fn reach(&self, target: SocketAddr) -> Result<String> {
        let listener = TcpListener::bind((ADDRESS, 0)).await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Ok(address)
    }

    /// What an agent of that provider is booted with.
    pub async fn arguments(&self, provider: &Provider) -> Result<String> {
        let address = self.reach(provider.relay.address).await?;
        Ok(provider.boot_by(&address, crate::support::NOW + 3600).to_kernel_args())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.dnsmasq.kill();
        let _ = self.dnsmasq.wait();
    }
}

async fn serve(
    State(files): State<Files>,
    UrlPath(name): UrlPath<String>,
) -> std::result::Result<Bytes, StatusCode> {
    files.lock().unwrap().get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
}

/// Sends firmware to iPXE (TFTP) and iPXE to its script (HTTP).
fn dnsmasq(folder: &Path, image: &Path, http: SocketAddr) -> Result<Child> {
    let leases = folder.join("leases");
    let _ = fs::remove_file(&leases);
    let log = fs::File::create(folder.join("dnsmasq.log"))?;
    Ok(Command::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--conf-file=/dev/null",
            "--user=root",
            "--port=0",
        ])
        .args([format!("--interface={TAP}"), "--bind-interfaces".to_owned()])
        .arg("--dhcp-range=10.77.0.100,10.77.0.200,255.255.255.0,1h")
        .arg(format!("--dhcp-leasefile={}", leases.display()))
        .args(["--dhcp-authoritative", "--no-ping", "--enable-tftp"])
        .arg(format!("--tftp-root={}", image.display()))
        // iPXE says who it is (option 175); x86-64 UEFI is architecture 7 (RFC 4578, 2.1, and its errata).
        .args(["--dhcp-match=set:ipxe,175", "--dhcp-match=set:efi,option:client-arch,7"])
        .args(["--dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe", "--dhcp-boot=tag:!ipxe,tag:efi,snponly.efi"])
        .arg(format!("--dhcp-boot=tag:ipxe,http://{http}/boot.ipxe"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?)
}

//! Not a test: all boot services without Kubernetes, for firmware in virtual machines. See docs/hardware.md.
#![allow(clippy::unwrap_used)]

use std::env::var;
use std::net::Ipv4Addr;

use ferric_api::MacAddress;

use super::dhcp::decide::{Mode, Network, Settings};
use super::dhcp::pool::Pool;
use super::*;

struct Listed {
    invited: Vec<MacAddress>,
    enrolled: Vec<MacAddress>,
    cards: Vec<MacAddress>,
}

impl BootLookup for Listed {
    fn boot_for(&self, mac: MacAddress) -> Option<KnownHost> {
        let host = Key::new("racks", "r1-h1");
        if self.invited.contains(&mac) {
            let facts = BootToken { host: host.to_string(), boot_number: 1, expires: now() + 3600 };
            return Some(KnownHost { host, told: Told::Boot(facts.mint(&[7; 32]).unwrap()) });
        }
        self.enrolled.contains(&mac).then_some(KnownHost { host, told: Told::Nothing })
    }

    fn card_of(&self, mac: MacAddress) -> Option<KnownHost> {
        let told = if self.invited.is_empty() { Told::Nothing } else { Told::Elsewhere };
        self.cards.contains(&mac).then(|| KnownHost { host: Key::new("racks", "r1-h1"), told })
    }

    fn discover(&self, _: MacAddress, _: bool) -> Option<String> {
        None
    }

    fn boot_mac(&self, _: &Key) -> Option<MacAddress> {
        self.invited.first().copied()
    }

    fn network(&self, _: &Key) -> Result<Option<Arc<str>>, NetworkNotRead> {
        Ok(var("NETWORK").ok().map(Into::into))
    }

    fn system<'a>(&'a self, _: &'a Key, _: u64) -> futures::future::BoxFuture<'a, Result<System, NoSystem>> {
        Box::pin(std::future::ready(Err(NoSystem::Over)))
    }

    fn uninvited(&self, host: &Key) {
        println!("uninvited: {host}");
    }

    fn count(&self, decision: &'static str) {
        println!("counted: {decision}");
    }
}

#[tokio::test]
#[ignore = "runs until it is ended"]
async fn boot_services() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    let macs = |name: &str| -> Vec<MacAddress> {
        var(name).unwrap_or_default().split(',').filter_map(|mac| mac.parse().ok()).collect()
    };
    let lookup =
        Arc::new(Listed { invited: macs("INVITED"), enrolled: macs("ENROLLED"), cards: macs("CARDS") });
    let server: Ipv4Addr = var("ADDRESS").unwrap().parse().unwrap();
    let mode = if var("MODE").unwrap() == "proxy" { Mode::Proxy } else { Mode::Server };
    let [a, b, c, _] = server.octets();
    let at = |d| Ipv4Addr::new(a, b, c, d);
    let network = Network {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        routers: vec![],
        name_servers: vec![],
        lease_seconds: 600,
    };
    let image = AgentImage::open(std::path::Path::new(&var("IMAGE").unwrap())).unwrap();
    let boot_url: Url = format!("http://{server}:6180").parse().unwrap();
    let (_sender, leader) = watch::channel(Leadership::Leader);
    let dhcp = dhcp::DhcpServer {
        settings: Settings { mode, server, network },
        boot_url: boot_url.clone(),
        pool: (mode == Mode::Server).then(|| Pool::new(at(100), at(120), Default::default(), IDLE)),
        leader: leader.clone(),
        lookup: lookup.clone(),
    };
    let interface = var("INTERFACE").unwrap();
    let sockets = dhcp::Sockets::bind(&interface).unwrap();
    let over_ipv6 = dhcp6::Dhcp6Server { leader: leader.clone(), lookup: lookup.clone() };
    let socket = dhcp6::bind(&interface).unwrap();
    let udp = tokio::net::UdpSocket::bind("0.0.0.0:69").await.unwrap();
    let files = tftp_files(&image).unwrap();
    let listener = TcpListener::bind("0.0.0.0:6180").await.unwrap();
    let boot = BootServer {
        token_key: vec![7; 32],
        token_lifetime: Duration::from_secs(3600),
        agent_url: format!("https://{server}:6183").parse().unwrap(),
        ca_sha256: "ab".repeat(32),
        artifacts: Artifacts::new(
            artifact_url(&boot_url, "vmlinuz"),
            artifact_url(&boot_url, "initrd.img"),
            KERNEL_ARGUMENTS,
        )
        .unwrap(),
        image: Some(image),
        lookup: Some(lookup),
        leader,
        metrics: Arc::default(),
    };
    let stop = CancellationToken::new();
    println!("ready");
    tokio::spawn(over_ipv6.serve(socket, stop.clone()));
    tokio::try_join!(
        boot.serve(listener, stop.clone()),
        tftp::serve(udp, files, stop.clone()),
        dhcp.serve(sockets, stop)
    )
    .unwrap();
}

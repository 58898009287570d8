//! The network against a real kernel and a foreign DHCP server (dnsmasq), in network namespaces that the tests make. A
//! test starts itself again within its namespace, where `/sys` and `/etc/resolv.conf` are those of the namespace.
//!
//! Without root, dnsmasq or what the kernel must have, a test says SKIPPED on standard error and passes.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{ErrorKind, Write},
    net::{IpAddr, TcpStream, ToSocketAddrs},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use ferric_agent::Platform;
use ferric_protocol::NetworkPlan;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockaddrLike, sendto};
use socket2::{Domain, Socket, Type};

use super::{hardware::Machine, lldp, neighbours::Neighbours, netlink::Nics, network::Network};

/// Longest wait for anything. What is waited for takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest run of one test, in seconds.
const LONGEST: &str = "150";
/// MAC addresses of the machine's cards `a0` and `a1`, whose cables end at the server's `s0` and `s1`.
const MACS: [&str; 2] = ["52:54:00:77:00:10", "52:54:00:77:00:11"];
/// What tells a test that it is within its namespace: the name of the server's.
const INSIDE: &str = "FERRIC_TEST_SERVER_NAMESPACE";

fn run(command: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command}: {}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// Two namespaces, gone when this is.
struct Namespaces {
    machine: String,
    server: String,
}

impl Namespaces {
    fn make(test: &str) -> Result<Self, String> {
        let id = std::process::id();
        let made = Self { machine: format!("fm{id}{test}"), server: format!("fs{id}{test}") };
        let Self { machine, server } = &made;
        run(&format!("ip netns add {machine} && ip netns add {server}"))?;
        for (number, mac) in MACS.iter().enumerate() {
            run(&format!(
                "ip link add a{number} netns {machine} address {mac} type veth peer name s{number} netns {server} && \
                 ip -n {server} link set s{number} up"
            ))?;
        }
        run(&format!("mkdir -p /etc/netns/{machine} && : > /etc/netns/{machine}/resolv.conf"))?;
        Ok(made)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let Self { machine, server } = self;
        let _ = run(&format!("ip netns del {machine}; ip netns del {server}; rm -r /etc/netns/{machine}"));
    }
}

/// The server's side of the cables, seen from within the machine's namespace.
struct Server {
    namespace: String,
    children: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_all();
    }
}

impl Server {
    /// Within the namespace: the server. Outside: runs this test within, and returns nothing.
    fn enter(test: &str, kinds: &[&str]) -> Option<Self> {
        if let Ok(namespace) = std::env::var(INSIDE) {
            return Some(Self { namespace, children: Vec::new(), folder: tempfile::tempdir().unwrap() });
        }
        let namespaces = match possible(test, kinds) {
            Ok(namespaces) => namespaces,
            Err(why) => {
                // Not by a macro, whose output is kept from whoever looks.
                let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
                return None;
            }
        };
        let status = Command::new("timeout")
            .args(["-k", "5", LONGEST, "ip", "netns", "exec", &namespaces.machine])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("machine::network_tests::{test}"), "--nocapture"])
            .env(INSIDE, &namespaces.server)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&status.stdout) + String::from_utf8_lossy(&status.stderr);
        assert!(status.status.success(), "{test} failed within its namespace:\n{said}");
        assert!(said.contains("1 passed"), "{test} did not run:\n{said}");
        None
    }

    fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} sh -c '{command}'", self.namespace)).unwrap()
    }

    /// Starts dnsmasq on `s0`, which has these addresses.
    fn dnsmasq(&mut self, addresses: &[&str], arguments: &[&str]) {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.run(&format!("ip address add {address} dev s0 {nodad}"));
        }
        let leases = self.folder.path().join(format!("leases{}", self.children.len()));
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.namespace,
                "dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
            ])
            .args([
                "--user=root",
                "--no-resolv",
                "--no-hosts",
                "--interface=s0",
                "--bind-dynamic",
                "--no-ping",
            ])
            .args(["--address=/images.ferric.test/192.0.2.7", "--log-facility=-", "--pid-file="])
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn end_all(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The namespaces, or why there are none.
fn possible(test: &str, kinds: &[&str]) -> Result<Namespaces, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root, to make network namespaces".to_owned());
    }
    run("command -v dnsmasq").map_err(|_| "it needs dnsmasq".to_owned())?;
    let namespaces = Namespaces::make(test)?;
    for kind in kinds {
        let machine = &namespaces.machine;
        let options = match *kind {
            "vlan" => "link a0 name probe type vlan id 5",
            "bond" => "name probe type bond",
            other => return Err(format!("{other} is unknown")),
        };
        run(&format!("ip -n {machine} link add {options} && ip -n {machine} link del probe"))
            .map_err(|error| format!("the kernel cannot make a {kind}: {error}"))?;
    }
    Ok(namespaces)
}

/// Waits until `look` has something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", state());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn state() -> String {
    run("ip address; ip route; ip -6 route; cat /etc/resolv.conf").unwrap_or_else(|error| error)
}

fn addresses(link: &str) -> String {
    run(&format!("ip -o address show dev {link} scope global -tentative")).unwrap_or_default()
}

/// The addresses of a name, by the C library.
fn resolve(name: &str) -> Vec<IpAddr> {
    (name, 80).to_socket_addrs().map(|found| found.map(|a| a.ip()).collect()).unwrap_or_default()
}

/// Whether anybody answers there, be it with a refusal.
fn reaches(address: &str) -> Option<()> {
    let to = (address.parse::<IpAddr>().unwrap(), 9).into();
    match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
        Ok(_) => Some(()),
        Err(error) => (error.kind() == ErrorKind::ConnectionRefused).then_some(()),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn open() -> Network {
    Network::open(Nics::Every, "/etc/resolv.conf").unwrap()
}

fn plan(text: &str) -> NetworkPlan {
    NetworkPlan::parse(text).unwrap().unwrap()
}

#[test]
fn the_card_with_the_mac_address_gets_what_was_given() {
    let Some(mut server) = Server::enter("the_card_with_the_mac_address_gets_what_was_given", &[]) else {
        return;
    };
    server.run("ip address add 10.77.0.1/24 dev s1 && ip address add fd77::1/64 dev s1 nodad");
    server.run("ip link set lo up && ip address add 10.99.0.1/32 dev lo");
    server.dnsmasq(&[], &["--interface=s1", "--listen-address=10.77.0.1"]);
    block_on(async {
        let network = open();
        let used = network
            .bring_up(
                Some(&plan(&format!(
                    "ferric.net=nic:l0,{},mtu=1400 ferric.net=ip:l0,10.77.0.5/24 ferric.net=ip:l0,fd77::5/64 \
                     ferric.net=route:l0,10.99.0.0/16,10.77.0.1 ferric.net=route:l0,::/0,fd77::1 \
                     ferric.net=dns:10.77.0.1",
                    MACS[1]
                ))),
                None,
            )
            .await;
        assert_eq!(used.map(|mac| mac.to_string()).as_deref(), Some(MACS[1]));
        until("both addresses", || {
            let seen = addresses("a1");
            (seen.contains("10.77.0.5/24") && seen.contains("fd77::5/64")).then_some(())
        })
        .await;
        assert_eq!(addresses("a0"), "", "of another card nothing was said");
        assert_eq!(fs::read_to_string("/sys/class/net/a1/mtu").unwrap().trim(), "1400");
        until("a way to another network", || reaches("10.99.0.1")).await;
        let routes = run("ip -6 route show default").unwrap();
        assert!(routes.contains("via fd77::1 dev a1"), "{routes}");
        until("a name", || resolve("images.ferric.test").contains(&[192, 0, 2, 7].into()).then_some(()))
            .await;
    });
}

#[test]
fn a_vlan_on_a_bond_gets_what_was_given() {
    let Some(server) = Server::enter("a_vlan_on_a_bond_gets_what_was_given", &["bond", "vlan"]) else {
        return;
    };
    server.run("ip link add br0 type bridge && ip link set s0 master br0 && ip link set s1 master br0");
    server.run("ip link set br0 up && ip link add link br0 name v type vlan id 12 && ip link set v up");
    server.run("ip address add 10.77.0.1/24 dev v");
    block_on(async {
        let network = open();
        network
            .bring_up(
                Some(&plan(&format!(
                    "ferric.net=nic:l0,{} ferric.net=nic:l1,{} ferric.net=bond:b0,active-backup,l0+l1 \
                     ferric.net=vlan:v0,b0,12 ferric.net=ip:v0,10.77.0.5/24",
                    MACS[0], MACS[1]
                ))),
                None,
            )
            .await;
        until("the other side", || reaches("10.77.0.1")).await;
        let bond = fs::read_to_string("/proc/net/bonding/b0").unwrap();
        assert!(bond.contains("active-backup") && bond.contains("a0") && bond.contains("a1"), "{bond}");
        // A cable is pulled; the other one takes over.
        server.run("ip link set s0 down");
        until("the other side by the other cable", || reaches("10.77.0.1")).await;
        let machine = Machine { boot_mac: String::new(), neighbours: Neighbours::new(), bmc: None };
        let _ = machine.inventory().unwrap();
    });
}

#[test]
fn dhcp_for_both_families_gives_addresses_and_names() {
    let Some(mut server) = Server::enter("dhcp_for_both_families_gives_addresses_and_names", &[]) else {
        return;
    };
    server.dnsmasq(
        &["10.77.0.1/24", "fd77::1/64"],
        &[
            "--dhcp-range=10.77.0.10,10.77.0.20,255.255.255.0,2m",
            "--dhcp-range=fd77::10,fd77::20,64,2m",
            "--enable-ra",
            "--dhcp-option=option6:dns-server,[fd77::1]",
        ],
    );
    block_on(async {
        let network = open();
        let text = format!("ferric.net=nic:l0,{} ferric.net=ip:l0,dhcp4 ferric.net=ip:l0,dhcp6", MACS[0]);
        network.bring_up(Some(&plan(&text)), None).await;
        until("an address of each family", || {
            let seen = addresses("a0");
            (seen.contains("inet 10.77.0.") && seen.contains("inet6 fd77::1")).then_some(())
        })
        .await;
        until("both servers of names", || {
            let text = fs::read_to_string("/etc/resolv.conf").unwrap();
            (text.contains("nameserver 10.77.0.1\n") && text.contains("nameserver fd77::1\n")).then_some(())
        })
        .await;
        until("a name", || resolve("images.ferric.test").contains(&[192, 0, 2, 7].into()).then_some(()))
            .await;
        // The cable is pulled, and put into another network.
        server.run("ip link set s0 down");
        until("a lost link", || {
            (fs::read_to_string("/sys/class/net/a0/carrier").ok()? == "0\n").then_some(())
        })
        .await;
        // Longer than the client takes to notice: it looks twice a second.
        let noticed = Instant::now();
        until("some time", || (noticed.elapsed() > Duration::from_secs(2)).then_some(())).await;
        server.end_all();
        server.run("ip address flush dev s0 scope global");
        server.run("ip link set s0 up");
        server.dnsmasq(&["10.78.0.1/24"], &["--dhcp-range=10.78.0.10,10.78.0.20,255.255.255.0,2m"]);
        until("an address of the other network, and no other", || {
            let seen = addresses("a0");
            (seen.contains("inet 10.78.0.") && !seen.contains("inet 10.77.0.")).then_some(())
        })
        .await;
        let routes = run("ip route show default").unwrap();
        assert!(routes.contains("via 10.78.0.1") && !routes.contains("10.77"), "{routes}");
    });
}

#[test]
fn without_a_plan_a_router_is_enough() {
    let Some(mut server) = Server::enter("without_a_plan_a_router_is_enough", &[]) else { return };
    server.dnsmasq(
        &["fd77::1/64"],
        &["--dhcp-range=fd77::,ra-only,2m", "--enable-ra", "--dhcp-option=option6:dns-server,[fd77::1]"],
    );
    block_on(async {
        let network = open();
        let used = network.bring_up(None, MACS[0].parse().ok()).await;
        assert_eq!(used.map(|mac| mac.to_string()).as_deref(), Some(MACS[0]));
        assert!(addresses("a0").contains("inet6 fd77::"), "{}", addresses("a0"));
        until("a name, of the router's server", || {
            resolve("images.ferric.test").contains(&[192, 0, 2, 7].into()).then_some(())
        })
        .await;
        let text = fs::read_to_string("/etc/resolv.conf").unwrap();
        assert!(text.starts_with("nameserver fd77::1\n"), "{text}");
    });
}

#[test]
fn a_switch_that_says_who_it_is_is_in_the_inventory() {
    const TEST: &str = "a_switch_that_says_who_it_is_is_in_the_inventory";
    // Once more, in the server's namespace: it is the switch.
    if std::env::var("FERRIC_TEST_SWITCH").is_ok() {
        return speak("s0", &lldp::tests::usual());
    }
    let Some(server) = Server::enter(TEST, &[]) else { return };
    block_on(async {
        let network = open();
        let neighbours = Neighbours::new();
        neighbours.listen(network.links()).unwrap();
        assert!(neighbours.is_pending());
        let mut changes = neighbours.changes();
        let text = format!("ferric.net=nic:l0,{} ferric.net=ip:l0,10.77.0.5/24", MACS[0]);
        network.bring_up(Some(&plan(&text)), None).await;
        let spoken = Command::new("ip")
            .args(["netns", "exec", &server.namespace])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("machine::network_tests::{TEST}")])
            .env("FERRIC_TEST_SWITCH", "1")
            .output()
            .unwrap();
        assert!(spoken.status.success(), "{spoken:?}");
        tokio::time::timeout(PATIENCE, changes.changed()).await.unwrap().unwrap();
        let mut nics =
            ["a0", "a1"].map(|name| ferric_protocol::v1::Nic { name: name.into(), ..Default::default() });
        neighbours.add_to(&mut nics);
        let heard = nics[0].lldp.clone().unwrap();
        assert_eq!((heard.chassis_id.as_str(), heard.port_id.as_str()), ("52:54:00:aa:bb:00", "Ethernet1/7"));
        assert_eq!((heard.system_name.as_str(), heard.port_vlan_id), ("leaf-12a", 12));
        assert_eq!(nics[1].lldp, None, "it came by the other cable");
        // The agent's own view of it, and the end of listening: the other card hears nothing.
        let machine =
            Arc::new(Machine { boot_mac: MACS[0].to_owned(), neighbours: neighbours.clone(), bmc: None });
        assert!(machine.inventory_changes().is_some() && machine.inventory().unwrap().neighbours_pending);
        until("the end", || (!neighbours.is_pending()).then_some(())).await;
        assert!(!machine.inventory().unwrap().neighbours_pending);
    });
}

/// Sends a frame through an interface of this namespace.
fn speak(interface: &str, frame: &[u8]) {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
    let all = nix::ifaddrs::getifaddrs().unwrap();
    let to: LinkAddr = all
        .filter(|one| one.interface_name == interface)
        .filter_map(|one| one.address)
        .find(|address| address.family() == Some(AddressFamily::Packet))
        .and_then(|address| address.as_link_addr().copied())
        .unwrap();
    sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty()).unwrap();
}

/// The agent is linked statically, and its initramfs holds no library: the resolver has to be in it. This says so of a
/// program that is linked in the same way and runs where there is nothing else.
#[test]
fn a_static_program_finds_names_with_nothing_but_resolv_conf() {
    const TEST: &str = "a_static_program_finds_names_with_nothing_but_resolv_conf";
    let Some(mut server) = Server::enter(TEST, &[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = static_program(folder.path()) else { return };
    server.dnsmasq(&["10.77.0.1/24"], &[]);
    run("ip link set lo up; ip address add 10.77.0.5/24 dev a0; ip link set a0 up").unwrap();
    fs::create_dir(folder.path().join("etc")).unwrap();
    fs::write(folder.path().join("etc/resolv.conf"), "nameserver 10.77.0.1\n").unwrap();
    block_on(until("a name", || {
        let found = Command::new("chroot").arg(folder.path()).arg(format!("/{program}")).output().unwrap();
        String::from_utf8_lossy(&found.stdout).contains("192.0.2.7").then_some(())
    }));
}

fn static_program(folder: &Path) -> Option<String> {
    let source = folder.join("resolve.rs");
    let text = "fn main() { use std::net::ToSocketAddrs; \
                for a in (\"images.ferric.test\", 80).to_socket_addrs().unwrap() { println!(\"{a}\"); } }";
    fs::write(&source, text).unwrap();
    let made: PathBuf = folder.join("resolve");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let built = Command::new(rustc)
        .args(["-C", "target-feature=+crt-static", "--target", "x86_64-unknown-linux-gnu", "-o"])
        .args([&made, &source])
        .output();
    match built {
        Ok(output) if output.status.success() => Some("resolve".to_owned()),
        other => {
            let _ = writeln!(std::io::stderr(), "SKIPPED: no static program can be built: {other:?}");
            None
        }
    }
}

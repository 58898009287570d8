//! `pyghmi`'s server, the IPMI of VirtualBMC, over a server that is a variable. Installed into the user's cache folder
//! when it is not there.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use crate::ipmi_sim::answers;

const VERSION: &str = "1.6.18";
pub const UUID: &str = "27946b59-9e44-4fa7-8e91-f3527a1ef094";

/// As VirtualBMC behaves: it knows three boot devices and accepts others, changing nothing; it has no power cycle.
const PROGRAM: &str = "import ctypes, os, signal, sys, uuid
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[3]): sys.exit(1)
from pyghmi.ipmi.bmc import Bmc
told = open(sys.argv[2], 'a', buffering=1)
class Server(Bmc):
    power, boot = 0, 'hd'
    def get_system_guid(self): return uuid.UUID(sys.argv[4])
    def get_power_state(self): return self.power
    def power_on(self): self.power = 1; print('on', file=told)
    def power_off(self): self.power = 0; print('off', file=told)
    def power_reset(self): print('reset', file=told)
    def power_shutdown(self): print('shutdown', file=told)
    def get_boot_device(self): return self.boot
    def set_boot_device(self, device):
        if device in ('network', 'hd', 'optical'): self.boot = device; print('boot', device, file=told)
Server({'admin': 'secret'}, port=int(sys.argv[1]), address='127.0.0.1').listen()";

/// A running server; ended when dropped, and when the test that started it dies.
pub struct Server {
    process: Child,
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// `None`, with a line that says so, where there is no Python to install it with.
    pub fn start() -> Option<Self> {
        let python = match crate::python::with("pyghmi", VERSION) {
            Ok(python) => python,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "SKIPPED: IPMI against {error}");
                return None;
            }
        };
        for _ in 0..5 {
            // Free when asked; if somebody else takes it first the server ends, and another port is tried.
            let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let log = File::create(folder.path().join("log")).unwrap();
            let process = Command::new(&python)
                .args(["-c", PROGRAM, &address.port().to_string()])
                .arg(folder.path().join("told"))
                .args([&std::process::id().to_string(), UUID])
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let mut server = Self { process, address, folder };
            let path = server.folder.path().join("log");
            let log = || std::fs::read_to_string(&path).unwrap_or_default();
            if answers(&mut server.process, address, log) {
                return Some(server);
            }
            println!("the server ended early: {}", log());
        }
        panic!("pyghmi's server does not start");
    }

    /// What it was told, in order.
    pub fn told(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

//! OpenIPMI's `ipmi_sim`: a BMC that this project did not write, with `ipmitool` as a second opinion.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferric_bmc::{ConnectOptions, Credentials};

/// What has to be there, and the Debian package that brings it.
const NEEDED: [(&str, &str); 3] = [
    ("/usr/bin/ipmi_sim", "openipmi"),
    ("/usr/bin/ipmitool", "ipmitool"),
    ("/usr/bin/setpriv", "util-linux"),
];

/// Get Channel Authentication Capabilities, as `ipmitool` sends it first of all.
const KNOCK: [u8; 23] =
    [6, 0, 0xFF, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x20, 0x18, 0xC8, 0x81, 0, 0x38, 0x8E, 0x04, 0xB5];

/// An inventory: board "Board Maker", "X11", "BOARD-SN"; product "Acme", "Rocket 2000", "PN-1", "v2", "S1234567".
const FRU: &str = "0x01 0x00 0x00 0x01 0x06 0x00 0x00 0xf8 0x01 0x05 0x00 0x01 0x02 0x03 0xcb 0x42 0x6f 0x61 0x72 0x64 \
    0x20 0x4d 0x61 0x6b 0x65 0x72 0xc3 0x58 0x31 0x31 0xc8 0x42 0x4f 0x41 0x52 0x44 0x2d 0x53 0x4e 0xc1 \
    0x00 0x00 0x00 0x00 0x00 0x00 0x00 0xf5 0x01 0x05 0x19 0xc4 0x41 0x63 0x6d 0x65 0xcb 0x52 0x6f 0x63 \
    0x6b 0x65 0x74 0x20 0x32 0x30 0x30 0x30 0xc4 0x50 0x4e 0x2d 0x31 0xc2 0x76 0x32 0xc8 0x53 0x31 0x32 \
    0x33 0x34 0x35 0x36 0x37 0xc1 0x00 0x20 0x00";

/// A temperature sensor, number 1, "CPU Temp", with upper thresholds.
const SDR: &str = "0x00 0x00 0x51 0x01 0x33 0x20 0x00 0x01 0x03 0x01 0x67 0x88 0x01 0x01 0xc0 0x7a 0xc0 0x7a 0x38 0x38 \
    0x00 0x01 0x00 0x00 0x01 0x00 0x00 0x00 0x00 0x00 0x00 0x40 0x50 0x30 0xff 0x00 0xa0 0x90 0x70 0x00 \
    0x00 0x00 0x00 0x00 0x00 0x00 0x00 0xc8 0x43 0x50 0x55 0x20 0x54 0x65 0x6d 0x70";

/// Installs what is missing where that takes one command (Debian, as root). Says why the test is skipped, if it is.
pub fn available() -> bool {
    let missing = || -> Vec<&str> {
        NEEDED.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect()
    };
    let say = |text: String| drop(writeln!(std::io::stderr(), "{text}"));
    if missing().is_empty() {
        return true;
    }
    let lock = File::create(std::env::temp_dir().join("ferric-ipmi-tools.lock")).unwrap();
    lock.lock().unwrap();
    if !missing().is_empty() && Path::new("/usr/bin/apt-get").exists() {
        say(format!("installing {}", missing().join(" ")));
        let _ = Command::new("apt-get")
            .args(["install", "-qy", "--no-install-recommends"])
            .args(missing())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
    }
    let missing = missing();
    if !missing.is_empty() {
        say(format!(
            "SKIPPED: IPMI against other implementations needs: apt-get install {}",
            missing.join(" ")
        ));
    }
    missing.is_empty()
}

/// A running simulator; ended when dropped, and when the test that started it dies.
pub struct Sim {
    process: Child,
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Sim {
    pub fn start() -> Self {
        Self::start_at(0x30)
    }

    /// With its sensor at this temperature: 0x70 is high, 0x90 critical.
    pub fn start_at(temperature: u8) -> Self {
        Self::start_with(temperature, None)
    }

    /// With a serial port, which is a TCP connection to this address.
    pub fn start_with_serial(serial: SocketAddr) -> Self {
        Self::start_with(0x30, Some(serial))
    }

    fn start_with(temperature: u8, serial: Option<SocketAddr>) -> Self {
        for _ in 0..5 {
            // Free when asked; if somebody else takes it first the simulator ends, and another port is tried.
            let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let folder = tempfile::tempdir().unwrap();
            write_files(folder.path(), address, temperature, serial);
            let mut sim = Self { process: spawn(folder.path()), address, folder };
            if sim.wait() {
                return sim;
            }
            println!("ipmi_sim ended early: {}", sim.log());
        }
        panic!("ipmi_sim does not start");
    }

    fn wait(&mut self) -> bool {
        answers(&mut self.process, self.address, || {
            std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
        })
    }

    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// The same BMC after a restart: its sessions are gone.
    pub fn restart(&mut self) {
        self.stop();
        self.process = spawn(self.folder.path());
        assert!(self.wait(), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What the chassis was told, in order.
    pub fn told(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Somebody presses the button.
    pub fn press(&self, on: bool) {
        std::fs::write(self.folder.path().join("power"), if on { "1" } else { "0" }).unwrap();
    }

    /// What `ipmitool` says.
    pub fn ipmitool(&self, command: &str) -> String {
        let port = self.address.port().to_string();
        let output = Command::new("/usr/bin/ipmitool")
            .args(["-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", &port, "-U", "admin", "-P", "secret"])
            .args(command.split(' '))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    pub fn options(&self) -> ConnectOptions {
        options(self.address, "", "admin", "secret")
    }
}

pub fn options(address: SocketAddr, query: &str, username: &str, password: &str) -> ConnectOptions {
    ConnectOptions {
        address: format!("ipmi://{address}{query}").parse().unwrap(),
        credentials: Some(Credentials::new(username, password)),
        ca_pem: None,
        certificate_sha256: None,
        insecure: false,
    }
}

/// Waits until a BMC answers; `false` if it ended.
pub fn answers(process: &mut Child, address: SocketAddr, log: impl Fn() -> String) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while process.try_wait().unwrap().is_none() {
        // Nobody listens yet: an error.
        let _ = socket.send(&KNOCK);
        if socket.recv(&mut [0; 64]).is_ok() {
            return true;
        }
        assert!(Instant::now() < deadline, "it does not answer: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn spawn(folder: &Path) -> Child {
    let log = File::create(folder.join("log")).unwrap();
    let path = |name: &str| -> PathBuf { folder.join(name) };
    Command::new("/usr/bin/setpriv")
        .args(["--pdeathsig", "KILL", "/usr/bin/ipmi_sim", "--nostdio", "--nopersist"])
        .arg("-c")
        .arg(path("lan.conf"))
        .arg("-f")
        .arg(path("emu"))
        .arg("-s")
        .arg(path("state"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn write_files(folder: &Path, address: SocketAddr, temperature: u8, serial: Option<SocketAddr>) {
    let shown = folder.display();
    let serial =
        serial.map(|at| format!("sol \"tcp:{}:{}\" 115200\n", at.ip(), at.port())).unwrap_or_default();
    let lan = format!(
        "name \"ferric\"\n\
         set_working_mc 0x20\n\
         startlan 1\n\
         addr {} {}\n\
         priv_limit admin\n\
         allowed_auths_callback none md2 md5 straight\n\
         allowed_auths_user none md2 md5 straight\n\
         allowed_auths_operator none md2 md5 straight\n\
         allowed_auths_admin none md2 md5 straight\n\
         guid f2e1d0cfbead9cb08a476f5e4a3b2c1d\n\
         lan_config_program \"{shown}/lan eth0\"\n\
         endlan\n\
         {serial}\
         chassis_control \"{shown}/chassis 0x20\"\n\
         user 2 true \"admin\" \"secret\" admin 60 none md2 md5 straight\n\
         user 3 true \"operator\" \"secret\" operator 60 none md2 md5 straight\n",
        address.ip(),
        address.port(),
    );
    let emulation = format!(
        "mc_setbmc 0x20\n\
         mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
         mc_set_guid 0x20 f2e1d0cfbead9cb08a476f5e4a3b2c1d\n\
         mc_add_fru_data 0x20 0 256 data {FRU}\n\
         sensor_add 0x20 0 1 0x01 0x01\n\
         sensor_set_threshold 0x20 0 1 settable 111000 0xa0 0x90 0x70 00 00 00\n\
         sensor_set_event_support 0x20 0 1 enable scanning per-state 000111111000000 000111111000000 \
         000111111000000 000111111000000\n\
         sensor_set_value 0x20 0 1 {temperature:#04x} 0\n\
         main_sdr_add 0x20 {SDR}\n\
         sel_enable 0x20 1000 0x0a\n\
         mc_enable 0x20\n"
    );
    let chassis = format!(
        "#!/bin/sh\n\
         cd {shown}; shift; operation=$1; shift\n\
         if [ $operation = get ]; then\n\
           for name in \"$@\"; do echo \"$name:$(cat $name 2>/dev/null || echo 0)\"; done\n\
         else\n\
           echo \"$*\" >> told\n\
           while [ $# -gt 0 ]; do echo \"$2\" > \"$1\"; shift 2 || shift; done\n\
         fi\n"
    );
    let network = "#!/bin/sh\n\
         shift; operation=$1; shift; [ $operation = get ] || exit 0\n\
         for name in \"$@\"; do\n\
           case $name in\n\
             ip_addr) echo ip_addr:10.1.0.7 ;;\n\
             ip_addr_src) echo ip_addr_src:static ;;\n\
             mac_addr) echo mac_addr:52:54:00:99:00:01 ;;\n\
             *) echo $name:0.0.0.0 ;;\n\
           esac\n\
         done\n";
    std::fs::write(folder.join("lan"), network).unwrap();
    std::fs::set_permissions(folder.join("lan"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(folder.join("state")).unwrap();
    std::fs::write(folder.join("lan.conf"), lan).unwrap();
    std::fs::write(folder.join("emu"), emulation).unwrap();
    std::fs::write(folder.join("boot"), "default").unwrap();
    std::fs::write(folder.join("chassis"), chassis).unwrap();
    std::fs::set_permissions(folder.join("chassis"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

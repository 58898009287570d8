//! The fault table at the driver: each fault of the simulator in each operation, over real sockets. What it comes to,
//! that nothing is done twice, that it ends with the fault, and that docs/bmc.md says so.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "faults/table.rs"]
mod table;

use std::sync::Arc;
use std::time::Duration;

use ferric_bmc::{
    Bmc, BmcError, BmcPool, BootTarget, ConnectOptions, Credentials, Limits, PowerAction, PowerState,
};
use ferric_simulator::{
    Delays, Family, Faults, Fleet, FleetConfig, HardwareClass, JournalEvent, Power, ServerSpec,
};
use table::{FAULTS, Fault, IPMI_FAULTS, OPERATIONS, Operation, SLOW};
use tokio::time::{Instant, sleep};

const GONE: Duration = Duration::from_secs(60);
const URL: &str = "http://127.0.0.1:9/boot";

/// Short: what is tested is what comes after.
fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(1),
        request: Duration::from_secs(3),
        operation: Duration::from_secs(8),
        login_pause: Duration::from_millis(100),
        open_min: Duration::from_millis(100),
        open_max: Duration::from_millis(100),
        ..Limits::default()
    }
}

/// The same, for one fault.
fn limits_of(fault: &Fault) -> Limits {
    let slow = SLOW.contains(&fault.name);
    Limits { operation: if slow { Duration::from_secs(25) } else { limits().operation }, ..limits() }
}

/// One server, and what it is to meet.
struct Case<'a> {
    fleet: &'a Fleet,
    /// The port of IPMI, where it is spoken; else Redfish is.
    ipmi: Option<u16>,
    server: ServerSpec,
    fault: &'a Fault,
    pool: BmcPool,
}

impl Case<'_> {
    fn bmc(&self) -> Arc<dyn Bmc> {
        let Self { fleet, server, ipmi, .. } = self;
        let host = server.bmc_ip;
        let address = match ipmi {
            Some(port) => format!("ipmi://{host}:{port}"),
            None => format!("redfish://{host}:{}{}", fleet.port(), server.system_path()),
        };
        let options = ConnectOptions {
            address: address.parse().unwrap(),
            credentials: Some(Credentials::new(self.server.username.clone(), self.server.password.clone())),
            ca_pem: self.ipmi.is_none().then(|| self.fleet.ca_pem().into()),
            certificate_sha256: None,
            insecure: false,
        };
        self.pool.get(&self.server.name, &options).unwrap()
    }

    fn power(&self) -> Power {
        self.fleet.status(&self.server.name).unwrap().power
    }

    fn tell(&self, faults: Faults) {
        self.fleet.set_faults(&self.server.name, faults).unwrap();
    }

    /// Tries until it goes well.
    async fn insist(&self, operation: Operation) {
        let begin = Instant::now();
        while let Err(reason) = self.ask(operation).await {
            assert!(
                begin.elapsed() < GONE,
                "{} at {operation:?}: {reason} though it is over",
                self.fault.name
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the controller's job comes to: its reason, if it fails.
    async fn ask(&self, operation: Operation) -> Result<(), String> {
        let bmc = self.bmc();
        let reason = |error: BmcError| error.reason().to_owned();
        match operation {
            Operation::Probe => bmc.probe().await.map(drop).map_err(reason),
            Operation::Inspect => bmc.inspect().await.map(drop).map_err(reason),
            Operation::Read => match bmc.power().await.map_err(reason)? {
                PowerState::Unknown => Err("PowerUnknown".to_owned()),
                _ => Ok(()),
            },
            Operation::On | Operation::Off => {
                let (action, wanted) = match operation {
                    Operation::On => (PowerAction::On, PowerState::On),
                    _ => (PowerAction::ForceOff, PowerState::Off),
                };
                bmc.set_power(action).await.map_err(reason)?;
                let begin = Instant::now();
                while bmc.power().await.map_err(reason)? != wanted {
                    if begin.elapsed() > Duration::from_secs(2) {
                        return Err("PowerNotConfirmed".to_owned());
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            }
            Operation::Boot => {
                let target = match self.ipmi {
                    Some(_) => BootTarget::Network,
                    None => BootTarget::UefiHttp { url: URL.to_owned() },
                };
                bmc.set_boot(&target).await.map_err(reason)
            }
        }
    }

    /// How often the power went on and off since an entry of the journal.
    fn switched(&self, since: u64) -> [usize; 2] {
        let journal = self.fleet.journal(&self.server.name, since).unwrap();
        [true, false].map(|wanted| {
            let power =
                |event: &JournalEvent| matches!(event, JournalEvent::Power { on, .. } if *on == wanted);
            journal.iter().filter(|entry| power(&entry.event)).count()
        })
    }

    async fn run(&mut self, operation: Operation, wanted: &str) -> Option<String> {
        self.tell(Faults::default());
        match operation {
            Operation::Off => self.insist(Operation::On).await,
            _ => self.insist(Operation::Off).await,
        }
        if operation == Operation::Probe {
            // Neither a session nor a connection is left.
            self.pool.close().await;
            self.pool = BmcPool::new(limits_of(self.fault));
        }
        let end = self.fleet.journal(&self.server.name, 0).unwrap().last().map_or(0, |entry| entry.seq);
        self.tell(serde_json::from_value((self.fault.faults)(operation)).unwrap());
        let came = self.ask(operation).await.err().unwrap_or_else(|| "-".to_owned());
        self.tell(Faults::default());
        self.insist(operation).await;
        // The power is read back as it is; and it went there once.
        let (power, switched) = (self.power(), self.switched(end));
        let right = match operation {
            Operation::On => (Power::On, [1, 0]),
            Operation::Off => (Power::Off, [0, 1]),
            _ => (Power::Off, [0, 0]),
        };
        let mut wrong = Vec::new();
        if came != wanted {
            wrong.push(format!("came to {came}, not {wanted}"));
        }
        if (power, switched) != right {
            wrong.push(format!("is {power:?} after {switched:?}"));
        }
        (!wrong.is_empty()).then(|| format!("{} at {operation:?}: {}", self.fault.name, wrong.join("; ")))
    }
}

/// Runs so many of the operations with each fault, each on a server of its own; what went wrong. By IPMI where the fleet
/// speaks it, else by Redfish.
async fn table(config: FleetConfig, faults: &[Fault], operations: &[Operation]) -> Vec<String> {
    let fleet = Fleet::start(config).await.unwrap();
    let ipmi = fleet.ipmi_port();
    let servers: Vec<ServerSpec> = fleet.servers().cloned().collect();
    let cases = faults.iter().zip(servers).map(async |(fault, server)| {
        let family = server.class.bmc;
        let mut case = Case { fleet: &fleet, ipmi, server, fault, pool: BmcPool::new(limits_of(fault)) };
        let mut wrong = Vec::new();
        for (operation, wanted) in OPERATIONS.into_iter().zip(fault.reasons) {
            if operations.contains(&operation) {
                wrong.extend(case.run(operation, wanted).await.map(|wrong| format!("{family:?}: {wrong}")));
            }
        }
        case.pool.close().await;
        wrong
    });
    let wrong = futures::future::join_all(cases).await.into_iter().flatten().collect();
    fleet.stop().await;
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_comes_to_its_reason_in_each_operation_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let config = FleetConfig { delays: Delays::none(), ..FleetConfig::new(FAULTS.len(), folder.path()) };
    let wrong = table(config, FAULTS, &OPERATIONS).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_by_ipmi() {
    let folder = tempfile::tempdir().unwrap();
    let config = FleetConfig::new(IPMI_FAULTS.len(), folder.path());
    let config = FleetConfig { delays: Delays::none(), ipmi_port: Some(0), ..config };
    let wrong = table(config, IPMI_FAULTS, &OPERATIONS).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The same whatever the BMC looks like: each fault with another vendor family. (What they are told to boot from differs:
/// not all of them have a URL.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_come_to_the_same_with_every_family() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = FleetConfig { delays: Delays::none(), ..FleetConfig::new(FAULTS.len(), folder.path()) };
    config.base_address = [127, 65, 0, 1].into();
    let others = Family::ALL.into_iter().filter(|family| *family != Family::Plain);
    config.classes = others
        .map(|bmc| HardwareClass { name: bmc.name().to_owned(), bmc, ..HardwareClass::default() })
        .collect();
    let wrong = table(config, FAULTS, &OPERATIONS[..5]).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The table as docs/bmc.md has it.
fn as_documented(faults: &[Fault]) -> String {
    let mut page =
        "| what is wrong | facts | hardware | power | on | off | boot |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for Fault { name, reasons, .. } in faults {
        let cells =
            reasons.map(|reason| if reason == "-" { "well".to_owned() } else { format!("`{reason}`") });
        page += &match cells.iter().all(|cell| *cell == cells[0]) {
            true => format!("| {name} | {} | the same | | | | |\n", cells[0]),
            false => format!("| {name} | {} |\n", cells.join(" | ")),
        };
    }
    page
}

#[test]
fn the_docs_have_the_table() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bmc.md")).unwrap();
    for faults in [FAULTS, IPMI_FAULTS] {
        let table = as_documented(faults);
        assert!(page.contains(&table), "docs/bmc.md: put this in place of its fault table:\n{table}");
    }
}

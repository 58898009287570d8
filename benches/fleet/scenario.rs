//! What is measured.

use std::time::{Duration, Instant};

use ferric_api::{BareMetalHost, BareMetalMachine};
use ferric_testbed::Stack;
use serde_json::{Value, json};

use crate::audit::Audit;
use crate::image::Server;
use crate::meter::Meter;
use crate::objects::{self, Manifests};
use crate::report::{Aims, Phase};
use crate::{Result, watch};

const IMAGE_BYTES: u64 = 4 << 20;
/// A phase that takes longer has failed: per host, and for all.
const PER_HOST: Duration = Duration::from_secs(2);
const AT_LEAST: Duration = Duration::from_secs(300);

/// A scenario: one control plane, one fleet, one manager, and phases that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Enrolled without cleaning, then `spec.image` by hand.
    Hand,
    /// Enrolled with cleaning, then claimed by machines, then left alone.
    Machines,
    /// Many hosts, enrolled and held.
    Many,
}

impl Scenario {
    pub fn title(self) -> &'static str {
        match self {
            Self::Hand => "hand: enrol without cleaning, provision by spec.image",
            Self::Machines => "machines: enrol with cleaning, provision through BareMetalMachines, rest",
            Self::Many => "many: enrol without cleaning, hold",
        }
    }
}

/// How much is measured.
pub struct Scale {
    pub hosts: usize,
    pub many: usize,
    pub steady: Duration,
    pub speed: String,
    pub scenarios: Vec<Scenario>,
    /// Nothing was made smaller or left out.
    pub complete: bool,
}

impl Scale {
    pub fn from_environment() -> Result<Self> {
        let mut complete = true;
        let mut given = |name: &str| {
            let value = std::env::var(format!("FERRIC_BENCH_{name}")).ok().filter(|value| !value.is_empty());
            complete &= value.is_none();
            value
        };
        let number = |value: Option<String>, default: usize| value.map_or(Ok(default), |value| value.parse());
        let hosts = number(given("HOSTS"), 1000)?;
        let many = number(given("MANY"), 10_000)?;
        let steady = number(given("STEADY_SECONDS"), 120)?;
        let speed = given("SPEED").unwrap_or_else(|| "none".to_owned());
        let scenarios = match given("SCENARIOS") {
            None => vec![Scenario::Hand, Scenario::Machines, Scenario::Many],
            Some(list) => list
                .split(',')
                .map(|name| match name.trim() {
                    "hand" => Ok(Scenario::Hand),
                    "machines" => Ok(Scenario::Machines),
                    "many" => Ok(Scenario::Many),
                    other => {
                        Err(format!("FERRIC_BENCH_SCENARIOS: no scenario {other:?}: hand, machines, many"))
                    }
                })
                .collect::<std::result::Result<_, _>>()?,
        };
        Ok(Self { hosts, many, steady: Duration::from_secs(steady as u64), speed, scenarios, complete })
    }
}

/// Everything that runs, and the instruments.
struct Bench {
    stack: Stack,
    image: Server,
    manager: Meter,
    others: [(&'static str, Vec<Meter>); 2],
    audit: Audit,
}

/// What a phase started from.
struct Started {
    at: Instant,
    cpu: f64,
    others: [f64; 2],
}

impl Bench {
    async fn start(scale: &Scale, hosts: usize) -> Result<Self> {
        let stack = Stack::builder()
            .fleet(hosts, 20)
            .without_hosts()
            .audit_log(true)
            .image_bytes(IMAGE_BYTES)
            .simulator_flag("disks", "counting")
            .simulator_flag("speed", &scale.speed)
            .simulator_flag("log", "warn")
            // As in production, but for the time after which a server that does not boot is booted anew.
            .manager_flag("leader-elect", "true")
            .manager_flag("bmc-timeout-seconds", "60")
            .manager_flag("agent-boot-timeout-seconds", "300")
            .manager_flag("log-level", "info")
            .start()
            .await?;
        let image = Server::start(&stack.image.path, stack.bed.dir()).await?;
        let manager = Meter::new(stack.manager.pid());
        let plane = stack.bed.pids().into_iter().map(Meter::new).collect();
        let others = [("simulator", vec![Meter::new(stack.simulator.pid())]), ("etcd and apiserver", plane)];
        let log = stack.bed.audit_log().ok_or("no audit log")?;
        let audit = Audit::new(log);
        let mut this = Self { stack, image, manager, others, audit };
        this.audit.quiet().await?;
        Ok(this)
    }

    fn others(&self) -> Result<[f64; 2]> {
        let sum = |meters: &[Meter]| meters.iter().map(|meter| meter.cpu()).sum::<Result<f64>>();
        Ok([sum(&self.others[0].1)?, sum(&self.others[1].1)?])
    }

    fn begin(&mut self) -> Result<Started> {
        self.audit.begin()?;
        self.manager.forget_peak()?;
        Ok(Started { cpu: self.manager.cpu()?, others: self.others()?, at: Instant::now() })
    }

    /// The phase ended at `reached`; what the manager still has to say after that is counted all the same.
    async fn end(
        &mut self,
        name: &str,
        hosts: usize,
        started: Started,
        reached: Instant,
        aims: Aims,
    ) -> Result<Phase> {
        self.audit.quiet().await?;
        self.stack.manager.check()?;
        self.stack.simulator.check()?;
        let (requests, refused) = self.audit.end()?;
        let others = self.others()?;
        let phase = Phase {
            name: name.to_owned(),
            hosts,
            wall: reached.duration_since(started.at),
            requests,
            refused,
            cpu: self.manager.cpu()? - started.cpu,
            memory: self.manager.memory()?,
            simulator_cpu: others[0] - started.others[0],
            plane_cpu: others[1] - started.others[1],
            at_rest: false,
            aims,
        };
        eprintln!("{}", phase.line());
        Ok(phase)
    }

    /// Credentials first, then the clock and the hosts.
    async fn enrol(
        &mut self,
        name: &str,
        cleaning: &str,
        count: usize,
        aims: Aims,
    ) -> Result<(Phase, Vec<String>)> {
        let Manifests { secrets, hosts } = objects::manifests(&self.stack.simulator, cleaning)?;
        let client = self.stack.bed.client();
        objects::create(&client, secrets).await?;
        let names = objects::names(&hosts);
        let started = self.begin()?;
        let create = objects::create(&client, hosts);
        let reach = watch::reach::<BareMetalHost>(client.clone(), "available", count, limit(count));
        let (_, reached) = tokio::try_join!(create, reach)?;
        Ok((self.end(name, count, started, reached, aims).await?, names))
    }

    fn image(&self) -> Value {
        json!({ "url": self.image.url, "checksum": self.stack.image.sha256, "format": "raw" })
    }

    /// Ends everything. The folder with all logs stays if a phase failed.
    async fn finish(mut self, result: Result<Vec<Phase>>) -> Result<Vec<Phase>> {
        if result.is_err() {
            self.stack.bed.keep_folder();
            eprintln!("bench: all logs stay in {}", self.stack.bed.dir().display());
            let arguments = ["get", "baremetalhosts,baremetalmachines", "-A", "-o", "json"];
            if let Ok(objects) = self.stack.bed.kubectl(arguments).await {
                std::fs::write(self.stack.bed.dir().join("objects.json"), objects)?;
            }
        }
        self.stack.stop().await;
        result
    }
}

fn limit(count: usize) -> Duration {
    (PER_HOST * u32::try_from(count).unwrap_or(u32::MAX)).max(AT_LEAST)
}

const ENROL: Aims = Aims { seconds: Some(90.0), requests: Some(8.0), rss: Some(54.0), cpu_share: None };

/// Enrolled without cleaning, then `spec.image` by hand.
pub async fn by_hand(scale: &Scale) -> Result<Vec<Phase>> {
    let mut bench = Bench::start(scale, scale.hosts).await?;
    let result = hand_phases(&mut bench, scale).await;
    bench.finish(result).await
}

async fn hand_phases(bench: &mut Bench, scale: &Scale) -> Result<Vec<Phase>> {
    let (enrolled, names) = bench.enrol("enrol, no cleaning", "disabled", scale.hosts, ENROL).await?;
    let aims = Aims { seconds: Some(34.0), requests: Some(8.0), rss: Some(54.0), cpu_share: None };
    let patch = json!({ "spec": { "image": bench.image() } });
    let client = bench.stack.bed.client();
    let started = bench.begin()?;
    let patch = objects::patch_hosts(&client, names, &patch);
    let reach = watch::reach::<BareMetalHost>(client.clone(), "provisioned", scale.hosts, limit(scale.hosts));
    let ((), reached) = tokio::try_join!(patch, reach)?;
    let provisioned = bench.end("provision by spec.image", scale.hosts, started, reached, aims).await?;
    Ok(vec![enrolled, provisioned])
}

/// Enrolled with cleaning, then claimed by machines, then left alone.
pub async fn through_machines(scale: &Scale) -> Result<Vec<Phase>> {
    let mut bench = Bench::start(scale, scale.hosts).await?;
    let result = machine_phases(&mut bench, scale).await;
    bench.finish(result).await
}

async fn machine_phases(bench: &mut Bench, scale: &Scale) -> Result<Vec<Phase>> {
    let count = scale.hosts;
    let (enrolled, _) = bench.enrol("enrol, agent boot and wipe", "metadata", count, ENROL).await?;
    let client = bench.stack.bed.client();
    let machines = objects::cluster_api(&client, count, &bench.image()).await?;
    let aims = Aims { seconds: Some(34.0), requests: Some(12.0), rss: Some(54.0), cpu_share: None };
    let started = bench.begin()?;
    let create = objects::create(&client, machines);
    let reach = watch::reach::<BareMetalMachine>(client.clone(), "provisioned", count, limit(count));
    let (_, reached) = tokio::try_join!(create, reach)?;
    let provisioned = bench.end("provision through BareMetalMachine", count, started, reached, aims).await?;
    let steady =
        rest(bench, "steady state", count, scale.steady, Aims { cpu_share: Some(1.0), ..Aims::default() })
            .await?;
    Ok(vec![enrolled, provisioned, steady])
}

async fn rest(bench: &mut Bench, name: &str, count: usize, length: Duration, aims: Aims) -> Result<Phase> {
    let started = bench.begin()?;
    tokio::time::sleep(length).await;
    let reached = Instant::now();
    let (requests, refused) = bench.audit.end()?;
    let others = bench.others()?;
    let phase = Phase {
        name: name.to_owned(),
        hosts: count,
        wall: reached.duration_since(started.at),
        requests,
        refused,
        cpu: bench.manager.cpu()? - started.cpu,
        memory: bench.manager.memory()?,
        simulator_cpu: others[0] - started.others[0],
        plane_cpu: others[1] - started.others[1],
        at_rest: true,
        aims,
    };
    eprintln!("{}", phase.line());
    Ok(phase)
}

/// Many hosts, enrolled and held.
pub async fn many(scale: &Scale) -> Result<Vec<Phase>> {
    let mut bench = Bench::start(scale, scale.many).await?;
    let result = many_phases(&mut bench, scale).await;
    bench.finish(result).await
}

async fn many_phases(bench: &mut Bench, scale: &Scale) -> Result<Vec<Phase>> {
    let aims = Aims { rss: Some(300.0), ..Aims::default() };
    let (enrolled, _) = bench.enrol("enrol, no cleaning", "disabled", scale.many, aims).await?;
    let held = rest(bench, "hold", scale.many, scale.steady / 2, aims).await?;
    Ok(vec![enrolled, held])
}

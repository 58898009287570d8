//! A sample of the fault table with everything real but the servers: a fleet in which each server has another fault in
//! another phase of its life, all at once. Each host says what is wrong, goes on when it is over, and lives as a server
//! without a fault does, by the journals of the BMCs; and those beside them notice nothing.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use e2e::{LIMIT, hosts, image, in_order, patch_host, show, state};
use ferric_api::host::ProvisioningState as State;
use ferric_api::{BareMetalHost, condition};
use ferric_testbed::{Stack, wait_until};
use futures::{FutureExt, StreamExt};
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

/// When a host gets its fault: at rest before this phase, whose requests alone may meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Whatever is asked, from the first request on.
    Enrol,
    /// Reads of what is in the server.
    Inspect,
    /// The settings of the first boot.
    Boot,
    /// The first power-on.
    PowerOn,
    /// Whatever is asked while an image is to be written.
    Deploy,
    /// The power-off after it was written, and the power-on from the disk.
    StartDisk,
    /// The power-off before cleaning.
    PowerOff,
    /// Whatever is asked when the image is no longer wanted.
    Clean,
    /// Whatever is asked when the object is deleted while an image runs.
    Delete,
}

/// Phases that begin with the host itself.
const EARLY: [Phase; 4] = [Enrol, Inspect, Boot, PowerOn];

use Phase::{Boot, Clean, Delete, Deploy, Enrol, Inspect, PowerOff, PowerOn, StartDisk};

/// A fault in a phase, and the one reason that the host may tell; `-`: none at all.
struct Case {
    phase: Phase,
    faults: Value,
    reason: &'static str,
}

fn case(phase: Phase, reason: &'static str, effect: Value) -> Case {
    let (method, path, after) = match phase {
        Inspect => ("GET", "/redfish/v1/Systems/1/*", 0),
        Boot => ("PATCH", "/redfish/v1/Systems/1", 0),
        // The first starts the agent.
        StartDisk => ("POST", "*.Reset", 1),
        PowerOn | PowerOff => ("POST", "*.Reset", 0),
        Enrol | Deploy | Clean | Delete => ("*", "/redfish/v1/Systems*", 0),
    };
    let mut rule = json!({"path": path, "after": after, "effect": effect});
    if method != "*" {
        rule["method"] = json!(method);
    }
    Case { phase, faults: json!({ "rules": [rule] }), reason }
}

fn whole(phase: Phase, reason: &'static str, faults: Value) -> Case {
    Case { phase, faults, reason }
}

/// What a status comes to in a phase.
fn reason_of(status: u16, phase: Phase) -> &'static str {
    match (status, phase) {
        // It costs the fact that stands there.
        (403 | 404 | 500, Inspect) => "-",
        (401, _) => "BMCUnauthorized",
        // Of what was found before, a change tells that it is not taken.
        (404, Enrol | Deploy | Clean | Delete) => "BMCNoSystem",
        (403 | 404 | 500, _) => "BMCUnexpectedAnswer",
        _ => "BMCBusy",
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let phases = [Enrol, Inspect, Boot, PowerOn, Deploy, StartDisk, PowerOff, Clean, Delete];
    for (n, phase) in phases.into_iter().enumerate() {
        // Each status in every other phase.
        for status in STATUSES.into_iter().skip(n % 2).step_by(2) {
            let effect = json!({"status": {"status": status}});
            cases.push(case(phase, reason_of(status, phase), effect));
        }
        cases.push(case(phase, "BMCUnreachable", json!("close")));
    }
    let trickle = json!({"trickle": {"bytes": 1_000_000, "chunk": 1, "pauseMs": 1000}});
    cases.extend([
        whole(Enrol, "BMCUnreachable", json!({"bmc": "unreachable"})),
        // The server is off, and is told to be.
        whole(Enrol, "PowerNotConfirmed", json!({"powerLies": "On"})),
        whole(Enrol, "BMCCertificateRejected", json!({"certificateChanged": true})),
        whole(Enrol, "BMCBusy", json!({"sessionTableFull": true, "basicAuthOff": true})),
        case(Enrol, "BMCMalformedAnswer", json!("truncated")),
        case(Enrol, "BMCMalformedAnswer", json!("notJson")),
        // They last for all of the host's life, which takes no harm.
        whole(Enrol, "-", json!({"sessionTableFull": true})),
        whole(Enrol, "-", json!({"clockOffsetSeconds": 100_000_000, "bmcDelayMs": 100})),
        case(Inspect, "-", json!("truncated")),
        case(Inspect, "BMCTimeout", trickle),
        case(Boot, "BMCUnreachable", json!("doneButClose")),
        case(Boot, "BMCUnreachable", json!({"doneButRestart": {"ms": 2000}})),
        whole(Boot, "AgentBootFailed", json!({"bootOverrideForgotten": true})),
        case(PowerOn, "BMCUnreachable", json!("doneButClose")),
        case(PowerOn, "-", json!({"doneButStatus": {"status": 500}})),
        whole(PowerOn, "PowerNotConfirmed", json!({"powerStuck": true})),
        case(StartDisk, "BMCUnreachable", json!("doneButClose")),
        case(PowerOff, "BMCUnreachable", json!({"doneButRestart": {"ms": 2000}})),
        whole(Clean, "BMCBusy", json!({"bmc": "unavailable"})),
        whole(Delete, "BMCUnreachable", json!({"bmc": "unreachable"})),
        whole(Delete, "BMCUnexpectedAnswer", json!({"bmc": "garbage"})),
    ]);
    cases
}

/// HTTP statuses that mean that something is wrong.
const STATUSES: [u16; 8] = [401, 403, 404, 409, 412, 429, 500, 503];

/// Hosts without any fault.
const CONTROLS: usize = 3;

/// The reasons that hosts gave for not being healthy, by host.
type Told = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// Notes what hosts tell until it is dropped.
async fn listen(stack: &Stack, told: Told) {
    let events = watcher::watcher(hosts(stack), watcher::Config::default());
    let note = |host: BareMetalHost| {
        let conditions = host.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        if let Some(healthy) = condition::get(conditions, "Healthy").filter(|c| c.status == "False") {
            told.lock().unwrap().entry(host.name_any()).or_default().insert(healthy.reason.clone());
        }
    };
    let mut seen = std::pin::pin!(events.applied_objects());
    while let Some(host) = seen.next().await {
        note(host.unwrap());
    }
}

/// What was done to a server.
#[derive(Debug, PartialEq)]
struct Deeds {
    /// On and off, in order.
    power: Vec<bool>,
    /// What it started from, in order.
    boots: Vec<String>,
    /// Bytes that agents wrote to its disks: the image and what wipes.
    bytes: Option<u64>,
}

/// Asks the simulator, which is as busy as all its servers and may close a connection that was idle.
async fn ask<T>(what: &str, question: impl AsyncFn() -> ferric_testbed::Result<T>) -> T {
    let answer = wait_until(what, LIMIT, async || question().await.map_err(|error| error.to_string())).await;
    answer.unwrap_or_else(|error| panic!("{error}"))
}

async fn deeds(stack: &Stack, name: &str) -> Deeds {
    let journal = ask("a journal", async || stack.simulator.journal(name, 0).await).await;
    let status = ask("a status", async || stack.simulator.status(name).await).await;
    Deeds {
        power: journal.iter().filter_map(|entry| entry.power()).collect(),
        boots: journal.iter().filter_map(|entry| entry.boot_source().map(str::to_owned)).collect(),
        bytes: status["diskBytesWritten"].as_u64(),
    }
}

struct Life<'a> {
    stack: &'a Stack,
    name: String,
    case: Option<Case>,
    told: Told,
}

impl Life<'_> {
    fn told(&self) -> BTreeSet<String> {
        self.told.lock().unwrap().get(&self.name).cloned().unwrap_or_default()
    }

    /// Puts on the fault if it is its time.
    async fn before(&self, phases: &[Phase]) -> bool {
        let Some(case) = self.case.as_ref().filter(|case| phases.contains(&case.phase)) else { return false };
        self.has(&case.faults).await;
        true
    }

    /// Takes it off when the host has told of it; one that does no harm stays.
    async fn until_it_is_told(&self) {
        let Some(case) = self.case.as_ref().filter(|case| case.reason != "-") else { return };
        wait_until(&format!("{}: {} to be told", self.name, case.reason), LIMIT, async || {
            let told = self.told();
            if told.contains(case.reason) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        self.has(&json!({})).await;
    }

    /// Puts these faults on the server.
    async fn has(&self, faults: &Value) {
        ask("faults to be put on", async || self.stack.simulator.set_faults(&self.name, faults).await).await;
    }

    async fn reaches(&self, wanted: State) {
        let api = hosts(self.stack);
        wait_until(&format!("{}: state {wanted:?}", self.name), LIMIT, async || {
            let host = api.get(&self.name).await.map_err(|error| error.to_string())?;
            if state(&host) == wanted && in_order(&host) { Ok(()) } else { Err(show(&host)) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// From a new object to none, with an image in between.
    async fn live(&self) {
        let (stack, name) = (self.stack, self.name.as_str());
        if self.before(&EARLY).await {
            self.until_it_is_told().await;
        }
        self.reaches(State::Available).await;

        let faulty = self.before(&[Deploy, StartDisk]).await;
        patch_host(stack, name, json!({"spec": {"image": image(stack)}})).await;
        if faulty {
            self.until_it_is_told().await;
        }
        self.reaches(State::Provisioned).await;
        self.has_started("Disk").await;
        e2e::holds_image(stack, name);

        let faulty = self.before(&[PowerOff, Clean, Delete]).await;
        if self.case.as_ref().is_none_or(|case| case.phase != Delete) {
            patch_host(stack, name, json!({"spec": {"image": null}})).await;
            if faulty {
                self.until_it_is_told().await;
            }
            self.reaches(State::Available).await;
        }
        hosts(stack).delete(name, &DeleteParams::default()).await.unwrap();
        if faulty && self.case.as_ref().is_some_and(|case| case.phase == Delete) {
            self.until_it_is_told().await;
        }
        let api = hosts(stack);
        wait_until(&format!("{name} to be gone"), LIMIT, async || {
            match api.get_opt(name).await.map_err(|error| error.to_string())? {
                None => Ok(()),
                Some(host) => Err(show(&host)),
            }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        ferric_testbed::stack::disk::is_wiped(stack.simulator.disk(name).unwrap()).unwrap();
    }

    async fn has_started(&self, source: &str) {
        wait_until(&format!("{} to start from {source}", self.name), LIMIT, async || {
            let boots = deeds(self.stack, &self.name).await.boots;
            if boots.last().is_some_and(|last| last == source) { Ok(()) } else { Err(format!("{boots:?}")) }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_in_its_phase_is_named_survived_and_nobody_elses() {
    let cases: Vec<Option<Case>> = (0..CONTROLS).map(|_| None).chain(cases().into_iter().map(Some)).collect();
    let stack = Stack::builder()
        .fleet(cases.len(), 3)
        .without_hosts()
        .manager_flag("bmc-timeout-seconds", "5")
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let told = Told::default();
    let names: Vec<String> = stack.simulator.servers().iter().map(|server| server.name.clone()).collect();
    let lives: Vec<Life> = names
        .into_iter()
        .zip(cases)
        .map(|(name, case)| Life { stack: &stack, name, case, told: told.clone() })
        .collect();
    let all = async {
        for life in &lives {
            life.before(&EARLY).await;
        }
        stack.bed.apply(&stack.simulator.manifests().unwrap()).await.unwrap();
        futures::future::join_all(lives.iter().map(|life| async {
            // One that fails does not end the others: the whole table is told.
            std::panic::AssertUnwindSafe(life.live()).catch_unwind().await.is_ok()
        }))
        .await
    };
    let ends = tokio::select! {
        ends = all => ends,
        () = listen(&stack, told.clone()) => panic!("the watch ended"),
    };
    let clean = deeds(&stack, &lives[0].name).await;
    assert!(clean.power.len() >= 8 && clean.bytes > Some(0), "{clean:?}");
    let mut wrong = Vec::new();
    for (life, well) in lives.iter().zip(ends) {
        let about = match &life.case {
            Some(case) => format!("{}: {:?}, {}", life.name, case.phase, case.faults),
            None => format!("{}: a host without a fault", life.name),
        };
        let expected = life.case.as_ref().map(|case| case.reason).filter(|reason| *reason != "-");
        let told = life.told();
        if told.iter().map(String::as_str).ne(expected) {
            wrong.push(format!("{about}: told {told:?}, not {expected:?}"));
        }
        if !well {
            wrong.push(format!("{about}: no end"));
            continue;
        }
        let mut done = deeds(&stack, &life.name).await;
        if done.power.windows(2).any(|pair| pair[0] == pair[1]) {
            wrong.push(format!("{about}: on and off by turns is not {:?}", done.power));
        }
        if life.case.as_ref().is_some_and(|case| case.reason == "AgentBootFailed") {
            // It starts from its empty disk each time that the override was forgotten, and is turned off again.
            let again = done.boots.iter().take_while(|source| *source == "Disk").count();
            done.boots.drain(..again);
            done.power.drain(..2 * again);
        }
        if done != clean {
            wrong.push(format!("{about}: {done:?}, not {clean:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    stack.stop().await;
}

//! The manager is killed with SIGKILL at every step of a host's life and started again. The steps are those that the
//! planner gives: a host that is left in peace shows them in the manager's log, and then for each of them a fresh host
//! is brought to it and the manager dies there. The end is the same each time: the same record, the same boots and
//! changes of power, the same bytes written, and a provisioned server never loses its power.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/claims.rs"]
mod claims;
#[path = "e2e/mod.rs"]
mod e2e;
#[path = "e2e/steps.rs"]
mod steps;

use std::collections::BTreeMap;
use std::time::Instant;

use e2e::{LIMIT, NAMESPACE, holds_image, host, image, in_order, patch_host, show, state, wait_for_host};
use ferric_api::BareMetalHost;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::stack::disk;
use ferric_testbed::{Stack, wait_until};
use serde_json::{Value, json};
use steps::Steps;

/// More than a life has steps; a server that is not needed costs nothing.
const FLEET: usize = 64;
const DATA: &str = "user-data";

/// A part of a host's life that ends in a state of rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// From its manifest to `available`.
    Enrol,
    /// From `spec.image` to `provisioned`.
    Provision,
    /// From the image's removal to `available`.
    Release,
    /// From a machine that wants it to `provisioned`.
    Claim,
    /// From the end of the machine to `available`.
    LetGo,
}

impl Part {
    /// The parts that a life consists of: one by hand, one for a machine.
    const LIVES: [&[Self]; 2] =
        [&[Self::Enrol, Self::Provision, Self::Release], &[Self::Enrol, Self::Claim, Self::LetGo]];

    /// What a host has behind it when this part begins.
    fn past(self) -> &'static [Self] {
        let life = Self::LIVES.into_iter().find(|life| life.contains(&self)).unwrap();
        life.split(|part| *part == self).next().unwrap()
    }

    async fn begin(self, stack: &Stack, name: &str) {
        match self {
            Self::Enrol => {
                stack.bed.apply(&stack.simulator.manifests_of(&[name]).unwrap()).await.unwrap();
            }
            Self::Provision => {
                patch_host(stack, name, json!({"spec": {"image": image(stack), "userData": {"name": DATA}}}))
                    .await;
            }
            Self::Release => {
                patch_host(stack, name, json!({"spec": {"image": null, "userData": null}})).await;
            }
            Self::Claim => claims::create_machine(stack, name, name).await,
            Self::LetGo => claims::delete_machine(stack, name).await,
        }
    }

    /// Whether the host is in the state in which this part ends, and at rest.
    fn is_over(self, host: &BareMetalHost) -> bool {
        let Some(status) = &host.status else { return false };
        let wanted = match self {
            Self::Enrol | Self::Release | Self::LetGo => (State::Available, Some(false)),
            Self::Provision | Self::Claim => (State::Provisioned, Some(true)),
        };
        (state(host), status.powered_on) == wanted && status.waiting_for.is_none() && in_order(host)
    }

    async fn wait(self, stack: &Stack, name: &str) -> BareMetalHost {
        let host =
            wait_for_host(stack, name, &format!("the end of {self:?}"), |host| self.is_over(host)).await;
        let system = match self {
            Self::Enrol | Self::Release | Self::LetGo => "Off",
            Self::Provision | Self::Claim => "OSRunning",
        };
        wait_until(&format!("{name} to be {system}"), LIMIT, async || {
            let status = stack.simulator.status(name).await.map_err(|error| error.to_string())?;
            if status["state"] == system { Ok(()) } else { Err(status.to_string()) }
        })
        .await
        .unwrap();
        match self {
            Self::Claim => {
                let machine = claims::wait_for_machine(stack, name).await;
                let claim = host.spec.record.as_ref().unwrap().claim.as_ref().unwrap();
                assert_eq!(
                    (&machine.spec.provider_id, machine.spec.claim_id.as_ref()),
                    (&claim.provider_id, Some(&claim.id))
                );
            }
            Self::LetGo => claims::wait_until_gone(stack, name).await,
            Self::Enrol | Self::Provision | Self::Release => {}
        }
        host
    }
}

/// What the world can tell of one part of a host's life.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Changes of power and boots, in order, as the BMC saw them.
    events: Vec<String>,
    /// Bytes that were written to the disks.
    written: u64,
    /// The record without times, keys and what tells one server from another.
    record: Value,
    /// Finalizers, annotations and conditions.
    seen: Value,
}

/// Where the simulator's books stood when a part began.
#[derive(Clone, Copy, Debug)]
struct Mark {
    journal: u64,
    written: u64,
}

async fn mark(stack: &Stack, name: &str) -> Mark {
    Mark { journal: stack.simulator.journal_end(name).await.unwrap(), written: written(stack, name).await }
}

async fn written(stack: &Stack, name: &str) -> u64 {
    stack.simulator.status(name).await.unwrap()["diskBytesWritten"].as_u64().unwrap()
}

async fn outcome(stack: &Stack, name: &str, since: Mark) -> Outcome {
    let journal = stack.simulator.journal(name, since.journal).await.unwrap();
    let events = journal.iter().filter_map(|entry| match entry.power() {
        Some(on) => Some(format!("{} by {}", if on { "on" } else { "off" }, entry.details["cause"])),
        None => entry.boot_source().map(|source| format!("boots from {source}")),
    });
    let host = host(stack, name).await;
    let status = host.status.as_ref().unwrap();
    let conditions: BTreeMap<_, _> =
        status.conditions.iter().map(|c| (c.type_.clone(), (c.status.clone(), c.reason.clone()))).collect();
    Outcome {
        events: events.collect(),
        written: written(stack, name).await - since.written,
        record: plain(serde_json::to_value(&host.spec.record).unwrap()),
        seen: json!({
            "finalizers": host.metadata.finalizers,
            "annotations": host.metadata.annotations,
            "conditions": conditions,
            "bmc": status.bmc.as_ref().map(|bmc| (&bmc.driver, &bmc.product, &bmc.boot_methods)),
            "image": status.provisioning.image,
        }),
    }
}

/// A record in which two servers with the same past are equal: a time or a key is there or not.
fn plain(mut record: Value) -> Value {
    fn blank(value: &mut Value) {
        let Value::Object(map) = value else { return };
        for (name, value) in map.iter_mut() {
            if name.ends_with("At")
                || ["at", "keyFingerprint", "id", "providerID", "rootSerialNumber"].contains(&name.as_str())
            {
                *value = json!("set");
            }
            blank(value);
        }
    }
    record.as_object_mut().unwrap().remove("identity").unwrap();
    blank(&mut record);
    record
}

/// What the disk holds after a part of the life.
fn check_disk(stack: &Stack, part: Part, name: &str) {
    match part {
        Part::Enrol | Part::Release | Part::LetGo => {
            disk::is_wiped(stack.simulator.disk(name).unwrap())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        Part::Provision | Part::Claim => {
            assert_eq!(holds_image(stack, name).sha256, stack.image.sha256, "{name}")
        }
    }
}

/// The steps and the outcome of one part, undisturbed.
struct Reference {
    part: Part,
    steps: Vec<String>,
    outcome: Outcome,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_killed_at_any_step_leaves_no_trace() {
    let mut stack = Stack::builder()
        .fleet(FLEET, 2)
        .without_hosts()
        // One line for each step that the planner takes, to be read by programs.
        .manager_flag("log-format", "json")
        .manager_flag("log-level", "info,ferric::controllers::host=debug")
        // A read of the power now and then would be a step that comes by chance.
        .manager_flag("power-poll-seconds", "0")
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let data = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": DATA, "namespace": NAMESPACE},
        "stringData": {"userData": "#cloud-config\n"}});
    stack.bed.apply(&data.to_string()).await.unwrap();
    let mut names =
        stack.simulator.servers().iter().map(|server| server.name.clone()).collect::<Vec<_>>().into_iter();
    let mut steps = Steps::follow(stack.manager.log());

    claims::create_cluster(&stack).await;
    let mut references: Vec<Reference> = Vec::new();
    for life in Part::LIVES {
        references.extend(live(&stack, &mut steps, life, &names.next().unwrap()).await);
    }
    // Both lives begin alike.
    let second = references.iter().rposition(|r| r.part == Part::Enrol).unwrap();
    let again = references.remove(second);
    assert_eq!(again.outcome, references[0].outcome);
    check(&stack, &references);
    let wanted: Vec<(Part, usize, String)> = references
        .iter()
        .flat_map(|r| r.steps.iter().enumerate().map(|(number, step)| (r.part, number, step.clone())))
        .collect();
    assert!(wanted.len() > 20, "{wanted:#?}");
    assert!(wanted.len() <= names.len(), "the fleet is too small for {} steps", wanted.len());
    let hosts: Vec<(Part, usize, String, String)> =
        wanted.into_iter().map(|(part, number, step)| (part, number, step, names.next().unwrap())).collect();
    prepare(&stack, &hosts).await;

    let mut marks = BTreeMap::new();
    for (part, number, step, name) in &hosts {
        let begun = Instant::now();
        marks.insert(name.clone(), mark(&stack, name).await);
        let of_part = &references.iter().find(|r| r.part == *part).unwrap().steps;
        let times = of_part[..=*number].iter().filter(|other| *other == step).count();
        steps.skip();
        part.begin(&stack, name).await;
        steps
            .until(name, step, times)
            .await
            .unwrap_or_else(|error| panic!("{name}, {part:?}, step {number} ({step}): {error}"));
        stack.manager.kill();
        stack.manager.restart().await.unwrap();
        eprintln!("{part:?} {number} ({step}): killed and back after {:.1} s", begun.elapsed().as_secs_f32());
    }
    for (part, number, step, name) in &hosts {
        let context = format!("{name}, killed in {part:?} at step {number} ({step})");
        part.wait(&stack, name).await;
        check_disk(&stack, *part, name);
        let reference = &references.iter().find(|r| r.part == *part).unwrap().outcome;
        let outcome = outcome(&stack, name, marks[name]).await;
        assert_eq!(outcome, *reference, "{context}: {}", show(&host(&stack, name).await));
    }
    stack.stop().await;
}

/// Walks a host through a whole life, undisturbed.
async fn live(stack: &Stack, steps: &mut Steps, life: &[Part], name: &str) -> Vec<Reference> {
    let mut references = Vec::new();
    for part in life {
        let before = mark(stack, name).await;
        steps.skip();
        part.begin(stack, name).await;
        part.wait(stack, name).await;
        check_disk(stack, *part, name);
        let steps = steps.of(name);
        let outcome = outcome(stack, name, before).await;
        eprintln!("{part:?}: {steps:?}\n{:?}, {} bytes", outcome.events, outcome.written);
        references.push(Reference { part: *part, steps, outcome });
    }
    references
}

/// The undisturbed lives are as they should be.
fn check(stack: &Stack, references: &[Reference]) {
    for Reference { part, steps, outcome } in references {
        let events = outcome.events.join(", ");
        assert_eq!(events.matches("boots from UefiHttp").count(), 1, "{part:?}: {events}");
        if let Part::Provision | Part::Claim = part {
            // The agent is booted, then the server is switched off and on into the disk, and that is all.
            assert_eq!(events.matches("boots from").count(), 2, "{part:?}: {events}");
            assert!(events.ends_with("boots from Disk"), "{part:?}: {events}");
            // What is written there is the measure of "once" for all others.
            assert_eq!(steps.iter().filter(|step| *step == "Task Deploy").count(), 1, "{part:?}: {steps:?}");
            assert!(outcome.written >= stack.image.size, "{part:?}: {} bytes", outcome.written);
        }
    }
}

/// Brings the hosts of the later parts to where their part begins, all at once and undisturbed.
async fn prepare(stack: &Stack, hosts: &[(Part, usize, String, String)]) {
    for stage in 0.. {
        let due: Vec<(Part, &str)> = hosts
            .iter()
            .filter_map(|(part, _, _, name)| part.past().get(stage).map(|part| (*part, name.as_str())))
            .collect();
        if due.is_empty() {
            return;
        }
        for (part, name) in &due {
            part.begin(stack, name).await;
        }
        for (part, name) in &due {
            part.wait(stack, name).await;
        }
    }
}

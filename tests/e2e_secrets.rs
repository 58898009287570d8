//! No secret is told: a run with faults at the most verbose level, and then everything that the provider writes is searched
//! for everything that it was told in confidence. Logs, events, conditions and all other fields of objects, metrics,
//! probes and captures, and what `Debug` prints of the drivers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use std::collections::BTreeMap;
use std::path::Path;

use e2e::{LIMIT, NAMESPACE, holds_image, hosts, image, patch_host, says, wait_for_host, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_bmc::{BmcPool, BootTarget, ConnectOptions, Credentials, EventSink, Limits};
use ferric_testbed::ports::Port;
use ferric_testbed::stack::ServerFacts;
use ferric_testbed::{Stack, wait_until};
use kube::api::DeleteParams;
use serde_json::{Value, json};

const GOOD: &str = "host-01";
const FAULTY: &str = "host-02";
/// The libraries, too, which are quiet unless named.
const EVERYTHING: &str = "trace,kube=trace,kube_client=trace,kube_runtime=trace,tower=trace,hyper=trace,hyper_util=trace,\
    h2=trace,rustls=trace,reqwest=trace";
/// How every session token of the simulated BMCs begins.
const SESSION_TOKEN: &str = "simulated-session-token-";

/// What nobody but its receiver may see: a name for messages, and the secret.
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    fn add(&mut self, name: impl Into<String>, secret: impl Into<String>) {
        let (name, secret) = (name.into(), secret.into());
        assert!(secret.len() >= 8, "{name} is too short to be found");
        self.0.insert(name, secret);
    }

    /// Fails if a text holds one of them; the message names it and shows the line without it.
    fn search(&self, what: &str, text: &str) {
        assert!(!text.is_empty(), "{what} is empty: nothing was searched");
        for (name, secret) in &self.0 {
            if let Some(line) = text.lines().find(|line| line.contains(secret.as_str())) {
                let at = line.find(secret.as_str()).unwrap_or_default();
                let before = line.get(at.saturating_sub(300)..at).unwrap_or_default();
                panic!("{what} tells {name}: …{before}[here]");
            }
        }
    }
}

fn secret(name: &str, data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data})
    .to_string()
}

fn bare_host(name: &str, address: &str, mac: &str, credentials: &str) -> String {
    json!({"apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "BareMetalHost",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"online": true, "bootMACAddress": mac,
            "bmc": {"address": address, "credentialsName": credentials, "disableCertificateVerification": true}}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_told() {
    let events = Port::reserve().unwrap();
    let events = format!("127.0.0.1:{}", events.number());
    let stack = Stack::builder()
        .fleet(2, 1)
        .without_hosts()
        .manager_flag("power-poll-seconds", "10")
        .manager_flag("log-level", EVERYTHING)
        .manager_flag("bmc-events-url", format!("http://{events}"))
        .manager_flag("bmc-events-bind-address", events)
        .start()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let mut secrets = Secrets(BTreeMap::new());
    secrets.add("a session token", SESSION_TOKEN);
    for server in stack.simulator.servers() {
        secrets.add(format!("the BMC password of {}", server.name), &server.password);
    }
    let marked = [
        ("user-data", "userData", "#cloud-config\n# user-data-in-confidence\n", "user-data-in-confidence"),
        (
            "network-data",
            "networkData",
            "{\"links\": [], \"x\": \"network-data-in-confidence\"}",
            "network-data-in-confidence",
        ),
        ("meta-data", "metaData", "x: meta-data-in-confidence\n", "meta-data-in-confidence"),
    ];
    for (name, key, text, marker) in marked {
        secrets.add(name, marker);
        stack.bed.apply(&secret(name, &json!({ key: text }))).await.unwrap();
    }
    for (name, password) in [
        ("pve", "5ec2e7a0-1111-4222-8333-pve-in-confidence"),
        ("wol", "secure-on-in-confidence"),
        ("ipmi", "ipmi-in-confidence"),
    ] {
        secrets.add(format!("the password of {name}"), password);
        let username = if name == "pve" { "user@pam!token" } else { "operator" };
        stack.bed.apply(&secret(name, &json!({"username": username, "password": password}))).await.unwrap();
    }
    // Nobody answers at these: the errors are what is looked at.
    for (name, address, mac) in [
        ("by-pve", "proxmox://127.0.0.1:9/nodes/a/qemu/100", "02:00:00:00:77:01"),
        ("by-wol", "wol://127.0.0.1:9", "02:00:00:00:77:02"),
        ("by-ipmi", "ipmi://127.0.0.1:9", "02:00:00:00:77:03"),
    ] {
        stack.bed.apply(&bare_host(name, address, mac, name.trim_start_matches("by-"))).await.unwrap();
    }

    // A wrong password, and one that is replaced.
    stack.simulator.set_faults(FAULTY, &json!({"password": "the-password-in-the-bmc"})).await.unwrap();
    secrets.add("the password in a BMC", "the-password-in-the-bmc");
    stack.bed.apply(&stack.simulator.manifests_of(&[GOOD, FAULTY]).unwrap()).await.unwrap();
    wait_for_host(&stack, FAULTY, "the refused credentials to be told", |host| {
        says(host, "Registered", "False", "BMCUnauthorized")
    })
    .await;
    let mended = json!({"stringData": {"password": "the-password-in-the-bmc", "previousPassword": "a-password-of-before"}});
    secrets.add("the password before", "a-password-of-before");
    let name = format!("{FAULTY}-bmc");
    stack.bed.kubectl(["patch", "secret", &name, "--type=merge", "-p", &mended.to_string()]).await.unwrap();

    // A life with all kinds of data, and faults in it.
    wait_for_state(&stack, GOOD, State::Available).await;
    let data = |name: &str| json!({ "name": name });
    let spec = json!({"spec": {"image": image(&stack), "userData": data("user-data"),
        "networkData": data("network-data"), "metaData": data("meta-data")}});
    let rules = json!({"rules": [
        {"path": "/redfish/v1/Systems*", "times": 2, "effect": {"status": {"status": 500}}},
        {"path": "/redfish/v1/Systems*", "times": 1, "effect": "truncated"},
        {"path": "/redfish/v1/Systems*", "times": 1, "effect": "doneButClose"},
    ]});
    stack.simulator.set_faults(GOOD, &rules).await.unwrap();
    patch_host(&stack, GOOD, spec).await;
    wait_for_state(&stack, GOOD, State::Provisioned).await;
    holds_image(&stack, GOOD);
    wait_for_state(&stack, FAULTY, State::Available).await;
    for name in ["by-pve", "by-ipmi"] {
        wait_for_host(&stack, name, "that nobody answers", |host| {
            host.status.as_ref().is_some_and(|status| status.error_count > 0)
        })
        .await;
    }
    let tokens = tokens(&stack).await;
    for (name, token) in tokens {
        secrets.add(name, token);
    }

    let log = std::fs::read_to_string(stack.manager.log()).unwrap();
    assert!(log.lines().any(|line| line.contains("TRACE")), "the log is as verbose as can be");
    secrets.search("the log", &log);
    for kind in ["events", "baremetalhosts", "hardwaredata", "leases", "configmaps"] {
        let told = stack.bed.kubectl(["get", kind, "--all-namespaces", "-o", "json"]).await.unwrap();
        secrets.search(kind, &told);
    }
    secrets.search("the metrics", &stack.manager.metrics().await.unwrap());
    probed(&stack, &secrets).await;
    debugged(&stack, &secrets).await;

    hosts(&stack).delete(GOOD, &DeleteParams::default()).await.unwrap();
    wait_until("the host to be gone", LIMIT, async || {
        match hosts(&stack).get_opt(GOOD).await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(_) => Err("it is there".to_owned()),
        }
    })
    .await
    .unwrap();
    secrets.search("the log at the end", &std::fs::read_to_string(stack.manager.log()).unwrap());
    stack.stop().await;
}

fn options(stack: &Stack, server: &ServerFacts) -> ConnectOptions {
    let place = server.bmc_url.trim_start_matches("https://");
    ConnectOptions {
        address: format!("redfish://{place}/redfish/v1/Systems/1").parse().unwrap(),
        credentials: Some(Credentials::new(server.username.clone(), server.password.clone())),
        ca_pem: Some(stack.simulator.bmc_ca().unwrap()),
        certificate_sha256: None,
        insecure: false,
    }
}

/// The tokens that the provider gave to a BMC: of a boot, and of events.
async fn tokens(stack: &Stack) -> Vec<(String, String)> {
    let server = stack.simulator.server(GOOD).unwrap();
    let ca = reqwest::Certificate::from_pem(&stack.simulator.bmc_ca().unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap();
    let get = async |path: &str| -> Value {
        let request = client.get(format!("{}{path}", server.bmc_url));
        let answer = request.basic_auth(&server.username, Some(&server.password)).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    };
    let journal = stack.simulator.journal(GOOD, 0).await.unwrap();
    let urls = journal.iter().filter_map(|entry| entry.details.get("url")?.as_str().map(str::to_owned));
    let boots = urls.filter_map(|url| url.split('/').rev().nth(1).map(str::to_owned));
    let mut found: Vec<(String, String)> =
        boots.enumerate().map(|(n, token)| (format!("the token of boot {n}"), token)).collect();
    assert!(!found.is_empty(), "no boot by URL");
    let listed = get("/redfish/v1/EventService/Subscriptions").await;
    let path = listed["Members"][0]["@odata.id"].as_str().unwrap().to_owned();
    let context = get(&path).await["Context"].as_str().unwrap().to_owned();
    found.push(("the token of events".to_owned(), context));
    found
}

/// `ferric bmc probe`: what it prints in both forms, its log at the most verbose level, and the capture.
async fn probed(stack: &Stack, secrets: &Secrets) {
    let server = stack.simulator.server(GOOD).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ca, capture) = (folder.path().join("ca.crt"), folder.path().join("capture.json"));
    std::fs::write(&ca, stack.simulator.bmc_ca().unwrap()).unwrap();
    let run = async |password: &str, output: &str, capture: &Path| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ferric"));
        command.args([
            "bmc",
            "probe",
            &format!("redfish://{}", server.bmc_url.trim_start_matches("https://")),
        ]);
        command.args(["--username", &server.username, "--output", output, "--ca-file"]).arg(&ca);
        command.arg("--capture").arg(capture);
        command
            .env("FERRIC_BMC_PASSWORD", password)
            .env("FERRIC_LOG_LEVEL", EVERYTHING)
            .env("RUST_LOG", "trace");
        let output = command.output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    for output in ["text", "json"] {
        let (well, text) = run(&server.password, output, &capture).await;
        assert!(well, "{text}");
        secrets.search("a probe", &text);
        secrets.search("a capture", &std::fs::read_to_string(&capture).unwrap());
    }
    let (well, text) = run("a-password-of-before", "text", &capture).await;
    assert!(!well && text.contains("refuses the credentials"), "{text}");
    secrets.search("a refused probe", &text);
}

/// What `Debug` prints of a driver with an open session, of its errors, and of what it was told.
async fn debugged(stack: &Stack, secrets: &Secrets) {
    let server = stack.simulator.server(GOOD).unwrap();
    let pool = BmcPool::new(Limits::default());
    let options = options(stack, server);
    let bmc = pool.get(GOOD, &options).unwrap();
    bmc.power().await.unwrap();
    let sink =
        EventSink { destination: "http://127.0.0.1:9".into(), context: "a-context-in-confidence".into() };
    let error = bmc.set_boot(&BootTarget::UefiHttp { url: "ftp://odd".into() }).await.unwrap_err();
    let wrong = ConnectOptions {
        credentials: Some(Credentials::new(server.username.clone(), "a-password-of-before")),
        ..options.clone()
    };
    let refused = pool.get("other", &wrong).unwrap().power().await.unwrap_err();
    let printed = format!(
        "{pool:#?}\n{options:#?}\n{wrong:#?}\n{sink:#?}\n{error:#?}\n{error}\n{refused:#?}\n{refused}"
    );
    assert!(!printed.contains("a-context-in-confidence"));
    secrets.search("Debug", &printed);
    pool.close().await;
}

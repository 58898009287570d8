//! What a real API server accepts and refuses with Ferric's CustomResourceDefinitions and admission policies.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ferric_api::{BmcAddress, MacAddress};
use ferric_testbed::{Bed, wait_until};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

#[path = "api_admission/door.rs"]
mod door;
use door::{
    API_VERSION, Door, IN_FORCE, Refusal, bed, host, object, patch, refused, repository, service_account,
    text,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_refuses_with_a_remedy() -> Result<()> {
    let bed = bed().await?;
    let admin = Door { client: bed.client() };
    bad_manifests(&admin).await?;
    good_manifests(&bed).await?;
    metal3_fields_that_are_not_served(&bed, &admin).await?;
    the_rules_agree_with_the_parsers(&admin).await?;
    what_may_change_on_a_host(&admin).await?;
    what_may_change_on_a_cluster(&admin).await?;
    status_is_apart_and_its_lists_are_maps(&bed, &admin).await?;
    bed.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_guard_templates_and_the_record() -> Result<()> {
    let bed = bed().await?;
    bed.kubectl(["apply", "-f", &text(&repository("clusterctl/policies.yaml"))]).await?;
    let admin = Door { client: bed.client() };
    templates_do_not_change(&admin).await?;
    the_record_is_the_managers(&bed, &admin).await?;
    bed.stop().await;
    Ok(())
}

// --- what is refused, what is accepted ---------------------------------------------------------------------------

async fn bad_manifests(admin: &Door) -> Result<()> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(repository("tests/bad-manifests"))?.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    ensure!(files.len() >= 40, "only {} bad manifests were found", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let content = std::fs::read_to_string(file)?;
        let first = content.lines().next().unwrap_or_default();
        let expected =
            first.strip_prefix("# expect: ").with_context(|| format!("{file:?} expects nothing"))?;
        let manifest: Value = serde_yaml_ng::from_str(&content)?;
        let name = file.file_name().unwrap().to_string_lossy();
        match admin.try_create(&manifest).await {
            Ok(_) => wrong.push(format!("{name}: accepted")),
            Err(refusal) if !refusal.text.contains(expected) => {
                wrong.push(format!("{name}: expected {expected:?} in {:?}", refusal.text));
            }
            Err(refusal) if refusal.sentences > 1 => {
                wrong.push(format!("{name}: more than one sentence for one mistake: {:?}", refusal.text));
            }
            Err(_) => {}
        }
    }
    ensure!(wrong.is_empty(), "{} of {} bad manifests:\n{}", wrong.len(), files.len(), wrong.join("\n"));
    Ok(())
}

async fn good_manifests(bed: &Bed) -> Result<()> {
    for (folder, least) in [("tests/good-manifests/", 15), ("examples/", 6)] {
        let folder = text(&repository(folder));
        let made = bed.kubectl(["create", "--dry-run=server", "--validate=strict", "-f", &folder]).await?;
        ensure!(made.lines().count() >= least, "{folder}: fewer objects than expected: {made}");
    }
    Ok(())
}

/// Fields of Metal3 that Ferric does not serve, the namespace of Secret references among them: unknown to a strict
/// reader, dropped for others.
async fn metal3_fields_that_are_not_served(bed: &Bed, admin: &Door) -> Result<()> {
    let unserved = [
        ("userData", json!({"name": "data", "namespace": "elsewhere"}), "spec.userData.namespace"),
        ("networkData", json!({"name": "data", "namespace": "elsewhere"}), "spec.networkData.namespace"),
        ("metaData", json!({"name": "data", "namespace": "elsewhere"}), "spec.metaData.namespace"),
        ("raid", json!({"hardwareRAIDVolumes": []}), "spec.raid"),
        ("firmware", json!({"sriovEnabled": true}), "spec.firmware"),
        ("hardwareProfile", json!("unknown"), "spec.hardwareProfile"),
        ("taints", json!([]), "spec.taints"),
        ("customDeploy", json!({"method": "install"}), "spec.customDeploy"),
        ("disablePowerOff", json!(true), "spec.disablePowerOff"),
        ("networkInterfaces", json!([]), "spec.networkInterfaces"),
    ];
    let spec: serde_json::Map<String, Value> =
        unserved.iter().map(|(field, value, _)| ((*field).to_owned(), value.clone())).collect();
    let manifest = host("metal3", Value::Object(spec));

    let stored = admin.try_create(&manifest).await.map_err(|refusal| refusal.error())?;
    let stored = &stored.data["spec"];
    for (field, _, _) in &unserved {
        let kept = if field.ends_with("Data") { json!({"name": "data"}) } else { Value::Null };
        ensure!(stored.get(*field).cloned().unwrap_or_default() == kept, "spec.{field} was stored: {stored}");
    }

    let file = bed.dir().join("metal3.json");
    std::fs::write(&file, manifest.to_string())?;
    let strict = bed.kubectl(["create", "--dry-run=server", "--validate=strict", "-f", &text(&file)]).await;
    let refusal = strict.expect_err("a strict reader accepted unknown fields").to_string();
    for (_, _, path) in &unserved {
        ensure!(
            refusal.contains(&format!("unknown field \"{path}\"")),
            "{path} is not refused in: {refusal}"
        );
    }
    Ok(())
}

/// What the API server lets in, the provider can read; what the provider cannot read, the API server refuses.
async fn the_rules_agree_with_the_parsers(admin: &Door) -> Result<()> {
    let schemes = [
        "",
        "redfish://",
        "REDFISH+HTTP://",
        "ilo5-virtualmedia+https://",
        "ipmi://",
        "libvirt://",
        "wol://",
    ];
    let unknown = ["http://", "idrac://", "://", "redfish//", "redfish:/", "ipmi+http://"];
    let hosts = [
        "",
        "h",
        "h.example.org",
        "H_1.Example.",
        "-h",
        "h-",
        "h..",
        "h ost",
        "h\t",
        "bücher.example",
        "h%41",
        "h#x",
        "192.0.2.1",
        "192.0.2.300",
        "192.0.2",
        "192.0.2.1.",
        "192.0.02.1",
        "[2001:db8::1]",
        "[::]",
        "[2001:db8::1",
        "2001:db8::1",
        "[2001:db8:::1]",
        "[192.0.2.1]",
        "[::ffff:192.0.2.1]",
        "[fe80::1%25eth0]",
        "[]",
        "[h]",
        "[2001:db8::1]x",
        "u@h",
        "u:p@h",
        "u:p/w@h",
        "@",
    ];
    let rests = [
        "",
        "/",
        "/redfish/v1/Systems/1",
        "?privilegelevel=OPERATOR",
        ":1",
        ":65535",
        ":00443",
        ":0",
        ":65536",
        ":",
        ":https",
        ":-1",
        ":+1",
        ":1:2",
        ":443/a@b",
        "?a=/b:c@d",
    ];
    let mut texts: Vec<String> = Vec::new();
    texts.extend(schemes.iter().chain(&unknown).map(|scheme| format!("{scheme}h:8000/s")));
    for scheme in ["", "redfish://"] {
        texts.extend(hosts.iter().map(|host| format!("{scheme}{host}")));
        texts.extend(rests.iter().map(|rest| format!("{scheme}h{rest}")));
        texts.extend(rests.iter().map(|rest| format!("{scheme}[2001:db8::1]{rest}")));
    }
    let (mut wrong, mut accepted) = (Vec::new(), 0);
    for address in texts.iter().filter(|text| !text.is_empty()) {
        let spec = json!({"bmc": {"address": address, "credentialsName": "c"}, "bootMACAddress": "52:54:00:ab:cd:ef"});
        let server =
            admin.try_create(&host("address", spec)).await.map(|_| ()).map_err(|refusal| refusal.text);
        let parser = address.parse::<BmcAddress>().map(|_| ()).map_err(|error| error.to_string());
        accepted += usize::from(server.is_ok());
        if server.is_ok() != parser.is_ok() {
            wrong.push(format!("{address:?}: server {server:?}, parser {parser:?}"));
        }
    }
    ensure!(
        accepted > 20 && texts.len() - accepted > 40,
        "one-sided: {accepted} of {} accepted",
        texts.len()
    );
    let macs = [
        "52:54:00:ab:cd:ef",
        "52-54-00-AB-CD-EF",
        "52:54-00:ab-cd:ef",
        "525400abcdef",
        "52:54:00:ab:cd:eé",
        "",
    ];
    for mac in macs {
        let server = admin.try_create(&host("mac", json!({"bootMACAddress": mac}))).await;
        if server.is_ok() != mac.parse::<MacAddress>().is_ok() {
            wrong.push(format!("{mac:?}: the server accepts: {}", server.is_ok()));
        }
    }
    ensure!(wrong.is_empty(), "server and parser disagree:\n{}", wrong.join("\n"));
    Ok(())
}

// --- what may change ---------------------------------------------------------------------------------------------

async fn what_may_change_on_a_host(admin: &Door) -> Result<()> {
    let hosts = admin.api("BareMetalHost");
    admin.create(&host("changing", json!({}))).await?;
    let change = async |spec: Value| patch(&hosts, "changing", json!({"spec": spec})).await;

    change(json!({"bootMACAddress": "52:54:00:ab:cd:ef"})).await.context("a MAC address may be added")?;
    let sentence = "bootMACAddress does not change once set";
    refused(change(json!({"bootMACAddress": "52:54:00:ab:cd:00"})).await, sentence)?;
    refused(change(json!({"bootMACAddress": null})).await, sentence)?;
    change(json!({"bootMACAddress": "52-54-00-AB-CD-EF"})).await.context("a MAC address may be respelt")?;

    let bmc = json!({"bmc": {"address": "ipmi://192.0.2.10", "credentialsName": "c"}});
    change(bmc).await.context("a BMC may be added")?;
    change(json!({"bmc": {"address": "redfish://192.0.2.11/s"}})).await.context("a BMC may move")?;
    change(json!({"bootMode": "UEFISecureBoot"})).await.context("Redfish switches Secure Boot")?;
    refused(change(json!({"bmc": {"address": "192.0.2.10"}})).await, "IPMI cannot switch Secure Boot")?;
    refused(change(json!({"bmc": {"credentialsName": null}})).await, "without bmc.credentialsName")?;
    refused(
        change(json!({"bmc": {"address": "redfish://192.0.2.11:0"}})).await,
        "must be a number from 1 to 65535",
    )
}

async fn what_may_change_on_a_cluster(admin: &Door) -> Result<()> {
    let clusters = admin.api("BareMetalCluster");
    admin.create(&object("BareMetalCluster", "changing", json!({}))).await?;
    let change = async |endpoint: Value| {
        patch(&clusters, "changing", json!({"spec": {"controlPlaneEndpoint": endpoint}})).await
    };
    change(json!({"host": "api.example.org", "port": 6443})).await.context("an endpoint may be added")?;
    change(json!({"host": "api.example.org", "port": 6443})).await.context("the same may be said again")?;
    let sentence = "controlPlaneEndpoint does not change once set";
    refused(change(json!({"host": "api2.example.org"})).await, sentence)?;
    refused(change(json!({"port": 443})).await, sentence)?;
    refused(change(Value::Null).await, sentence)
}

async fn status_is_apart_and_its_lists_are_maps(bed: &Bed, admin: &Door) -> Result<()> {
    let hosts = admin.api("BareMetalHost");
    let mut with_status = host("reporting", json!({}));
    with_status["status"] = json!({"powered_on": true, "power": "On"});
    let created = admin.create(&with_status).await?;
    ensure!(created.data.get("status").is_none(), "a status came in by creation: {}", created.data);

    // Two writers, each applying a condition of its own: both stay.
    for (writer, kind) in [("one", "Ready"), ("two", "Paused")] {
        let condition = json!({
            "type": kind, "status": "False", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let status = json!({
            "apiVersion": API_VERSION, "kind": "BareMetalHost", "status": {"conditions": [condition]},
        });
        hosts.patch_status("reporting", &PatchParams::apply(writer), &Patch::Apply(&status)).await?;
    }
    let stored = hosts.get("reporting").await?;
    let kinds: Vec<&Value> =
        stored.data["status"]["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
    ensure!(kinds == ["Ready", "Paused"], "conditions are not merged by type: {kinds:?}");

    let table = bed.kubectl(["get", "bmh", "reporting"]).await?;
    let header = table.lines().next().unwrap_or_default();
    for column in ["STATE", "CONSUMER", "POWER", "WAITING FOR", "SINCE", "ERROR", "AGE"] {
        ensure!(header.contains(column), "`kubectl get bmh` has no column {column}: {header}");
    }
    Ok(())
}

// --- policies ----------------------------------------------------------------------------------------------------

async fn templates_do_not_change(admin: &Door) -> Result<()> {
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    let annotated = |spec: &Value| {
        json!({
            "metadata": {"annotations": {"topology.cluster.x-k8s.io/dry-run": ""}},
            "spec": {"template": {"spec": spec}},
        })
    };
    let cases = [
        ("BareMetalMachineTemplate", json!({"automatedCleaningMode": "full"})),
        (
            "BareMetalClusterTemplate",
            json!({"controlPlaneEndpoint": {"host": "api.example.org", "port": 6443}}),
        ),
    ];
    for (kind, change) in &cases {
        let api = admin.api(kind);
        admin.create(&object(kind, "worker", json!({"template": {}}))).await?;
        let plain = json!({"spec": {"template": {"spec": change}}});
        let sentence = "spec.template.spec of a template does not change: create a new template";
        wait_until("the template policy", IN_FORCE, async || {
            let answer = api.patch("worker", &dry_run, &Patch::Merge(&plain)).await;
            refused(answer.map_err(Refusal::from), sentence).map_err(|error| error.to_string())
        })
        .await?;

        let real = PatchParams::default();
        let change_it = async |params: &PatchParams, body: &Value| {
            api.patch("worker", params, &Patch::Merge(body)).await.map_err(Refusal::from)
        };
        refused(change_it(&real, &plain).await, sentence).context(*kind)?;
        refused(change_it(&dry_run, &plain).await, sentence).context("a dry run without the annotation")?;
        refused(change_it(&real, &annotated(change)).await, sentence)
            .context("the annotation without a dry run")?;
        change_it(&dry_run, &annotated(change))
            .await
            .map_err(Refusal::error)
            .context("a topology dry run")?;
        let labels = json!({"metadata": {"labels": {"team": "a"}}});
        change_it(&real, &labels).await.map_err(Refusal::error).context("labels of a template may change")?;
        let stored = api.get("worker").await?;
        ensure!(
            stored.data["spec"]["template"]["spec"] == json!({}),
            "the template changed: {}",
            stored.data
        );
    }
    Ok(())
}

const RECORD_SENTENCE: &str = "spec.record is written by the Ferric manager alone";

async fn the_record_is_the_managers(bed: &Bed, admin: &Door) -> Result<()> {
    let manager = service_account(bed, "ferric-system").await?;
    let record = json!({"claim": {"id": "0b7c7a3e"}, "agent": {"bootNumber": 3}});
    let other = json!({"claim": {"id": "11111111"}});
    let with = |record: &Value| json!({"spec": {"record": record}});

    // Restore and `clusterctl move` create hosts with their records; nobody is asked who they are.
    admin.create(&host("moved", json!({"record": record}))).await.context("creation with a record")?;
    let hosts = admin.api("BareMetalHost");
    let by_manager = manager.api("BareMetalHost");
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    wait_until("the record policy", IN_FORCE, async || {
        let answer = hosts.patch("moved", &dry_run, &Patch::Merge(with(&other))).await;
        refused(answer.map_err(Refusal::from), RECORD_SENTENCE).map_err(|error| error.to_string())
    })
    .await?;

    refused(patch(&hosts, "moved", with(&other)).await, RECORD_SENTENCE).context("change")?;
    refused(
        patch(&hosts, "moved", with(&json!({"cleaned": null, "quarantined": "x"}))).await,
        RECORD_SENTENCE,
    )?;
    refused(patch(&hosts, "moved", with(&Value::Null)).await, RECORD_SENTENCE).context("removal")?;
    let rest = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"online": true, "description": "x"}});
    patch(&hosts, "moved", rest).await.context("everything else is free")?;
    patch(&hosts, "moved", with(&record)).await.context("the same record may be said again")?;
    patch(&by_manager, "moved", with(&other)).await.context("change by the manager")?;
    patch(&by_manager, "moved", with(&Value::Null)).await.context("removal by the manager")?;
    refused(patch(&hosts, "moved", with(&record)).await, RECORD_SENTENCE).context("addition")?;
    patch(&by_manager, "moved", with(&record)).await.context("addition by the manager")?;

    stale_applies(bed, &by_manager, &record).await?;

    // Where clusterctl installs into another namespace, it rewrites the subjects of cluster role bindings.
    let elsewhere = service_account(bed, "elsewhere").await?.api("BareMetalHost");
    refused(patch(&elsewhere, "moved", with(&other)).await, RECORD_SENTENCE)
        .context("a ServiceAccount of the same name in another namespace")?;
    let subjects = r#"[{"op": "replace", "path": "/subjects/0/namespace", "value": "elsewhere"}]"#;
    bed.kubectl([
        "patch",
        "clusterrolebinding",
        "ferric-system-manager-identity",
        "--type=json",
        "-p",
        subjects,
    ])
    .await?;
    wait_until("the new identity of the manager", IN_FORCE, async || {
        patch(&elsewhere, "moved", with(&other)).await.map(|_| ()).map_err(|error| error.text)
    })
    .await?;
    refused(patch(&by_manager, "moved", with(&record)).await, RECORD_SENTENCE)
        .context("the former manager")?;

    // Without the binding nobody is the manager.
    bed.kubectl(["delete", "clusterrolebinding", "ferric-system-manager-identity"]).await?;
    wait_until("the policy without its parameter", IN_FORCE, async || {
        let answer = elsewhere.patch("moved", &dry_run, &Patch::Merge(with(&record))).await;
        refused(answer.map_err(Refusal::from), "no params found").map_err(|error| error.to_string())
    })
    .await?;
    Ok(())
}

/// A manifest that never held a record may be applied again and again; one that did may not take it away.
async fn stale_applies(bed: &Bed, by_manager: &Api<DynamicObject>, record: &Value) -> Result<()> {
    let apply = async |name: &str, spec: Value| {
        let file = bed.dir().join(format!("{name}.json"));
        std::fs::write(&file, host(name, spec).to_string())?;
        bed.kubectl(["apply", "-f", &text(&file)]).await.map_err(anyhow::Error::from)
    };
    let records = async |name: &str| -> Result<Value> {
        Ok(by_manager.get(name).await?.data["spec"].get("record").cloned().unwrap_or_default())
    };
    apply("enrolled", json!({"online": false})).await?;
    patch(by_manager, "enrolled", json!({"spec": {"record": record}})).await?;
    apply("enrolled", json!({"online": true})).await.context("a manifest that never held a record")?;
    ensure!(records("enrolled").await? == *record, "applying a manifest without a record took it away");

    apply("restored", json!({"record": record})).await?;
    let written = json!({"claim": {"id": "22222222"}, "agent": {"bootNumber": 4}});
    patch(by_manager, "restored", json!({"spec": {"record": written}})).await?;
    for stale in [json!({"record": record}), json!({})] {
        let answer = apply("restored", stale.clone()).await;
        let error = answer.expect_err("a stale manifest was applied").to_string();
        ensure!(error.contains(RECORD_SENTENCE), "{stale}: {error}");
    }
    let file = bed.dir().join("replaced.json");
    std::fs::write(&file, host("restored", json!({})).to_string())?;
    let answer = bed.kubectl(["replace", "-f", &text(&file)]).await;
    let error = answer.expect_err("a replacement took the record away").to_string();
    ensure!(error.contains(RECORD_SENTENCE), "{error}");
    ensure!(records("restored").await? == written, "the record changed");
    Ok(())
}

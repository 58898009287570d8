//! The driver against a BMC that behaves, each in its own way: which requests it sends, and how few.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Asked, Fake, Reply, SESSIONS, SLOT, SYSTEM, get, refusal, simple, simple_with};
use ferric_bmc::{BmcError, BmcPool, BootMethod, BootTarget, Limits, PowerAction, PowerState};
use serde_json::{Value, json};

#[tokio::test]
async fn few_requests() {
    let (fake, pool, bmc) = simple().await;
    let facts = bmc.probe().await.unwrap();
    assert_eq!(facts.system_uuid.as_deref(), Some("6173ecec-6ef5-11ee-834a-0a8fc3a58a71"));
    assert_eq!(facts.boot_methods, [BootMethod::VirtualMedia, BootMethod::UefiHttp, BootMethod::Network]);
    assert_eq!(
        fake.take_log(),
        [
            "GET /redfish/v1/",
            &format!("POST {SESSIONS}"),
            "GET /redfish/v1/Systems",
            &format!("GET {SYSTEM}"),
            "GET /redfish/v1/Managers/1",
            "GET /redfish/v1/Managers/1/VirtualMedia",
            &format!("GET {SLOT}"),
        ]
        .map(str::to_owned)
    );
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
    assert_eq!(fake.take_log(), [format!("GET {SYSTEM}")]);

    // The same options: the same BMC. Others: another, that goes on with the session of the same user.
    assert!(Arc::ptr_eq(&bmc, &get(&pool, &fake)));
    let mut other = fake.options("");
    other.address = format!("redfish+http://{}{SYSTEM}", fake.address).parse().unwrap();
    let other = pool.get("host", &other).unwrap();
    assert!(!Arc::ptr_eq(&bmc, &other));
    other.power().await.unwrap();
    let log = fake.take_log();
    assert!(!log.contains(&"GET /redfish/v1/Systems".to_owned()), "the path names the system");
    assert!(!log.iter().any(|asked| asked.starts_with("POST") || asked.starts_with("DELETE")), "{log:?}");
    drop((bmc, other));
    pool.close().await;
    assert!(fake.take_log()[0].starts_with("DELETE"));
    assert!(fake.state.lock().unwrap().tokens.is_empty());
    assert!(pool.is_empty());
}

#[tokio::test]
async fn power_is_asked_for_once() {
    let (fake, _pool, bmc) = simple().await;
    bmc.set_power(PowerAction::ForceOff).await.unwrap();
    assert!(!fake.take_log().iter().any(|asked| asked.contains("Reset")), "it is off");
    bmc.set_power(PowerAction::On).await.unwrap();
    assert_eq!(bmc.power().await.unwrap(), PowerState::On);
    bmc.set_power(PowerAction::On).await.unwrap();
    let resets = fake.take_log().iter().filter(|asked| asked.contains("Reset")).count();
    assert_eq!(resets, 1);

    // Refused since it went off in between.
    let mut on = true;
    fake.hook(move |asked| {
        if asked.path.contains("Reset") {
            on = false;
            return Some(refusal(409, "Base.1.8.ActionNotSupported", "it is off"));
        }
        let mut system = common::simple_tree().remove(SYSTEM).unwrap();
        system["PowerState"] = json!(if on { "On" } else { "Off" });
        asked.is("GET", SYSTEM).then(|| Reply::json(200, system))
    });
    bmc.set_power(PowerAction::ForceOff).await.unwrap();

    // Refused for good.
    fake.edit(SYSTEM, |system| system["PowerState"] = json!("On"));
    fake.hook(|asked| {
        asked.path.contains("Reset").then(|| refusal(409, "Base.1.8.ResourceInUse", "flashing firmware"))
    });
    let error = bmc.set_power(PowerAction::ForceOff).await.unwrap_err();
    assert!(matches!(&error, BmcError::Busy { message, .. } if message == "flashing firmware"), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn boot_targets() {
    let (fake, _pool, bmc) = simple().await;
    let url = "http://192.0.2.1/a".to_owned();
    bmc.set_boot(&BootTarget::UefiHttp { url: url.clone() }).await.unwrap();
    let boot = fake.resource(SYSTEM)["Boot"].clone();
    assert_eq!((&boot["BootSourceOverrideTarget"], &boot["HttpBootUri"]), (&json!("UefiHttp"), &json!(url)));

    bmc.set_boot(&BootTarget::VirtualMedia { url: url.clone() }).await.unwrap();
    fake.take_log();
    bmc.set_boot(&BootTarget::VirtualMedia { url }).await.unwrap();
    assert!(!fake.take_log().iter().any(|asked| asked.contains("InsertMedia")), "it is in there");
    bmc.set_boot(&BootTarget::VirtualMedia { url: "http://192.0.2.1/b".into() }).await.unwrap();
    let log = fake.take_log();
    let at = |what: &str| log.iter().position(|asked| asked.contains(what)).unwrap();
    assert!(at("EjectMedia") < at("InsertMedia"), "{log:#?}");
    assert_eq!(fake.resource(SLOT)["Image"], "http://192.0.2.1/b");

    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    assert_eq!(fake.resource(SLOT)["Inserted"], false);
    assert_eq!(fake.resource(SYSTEM)["Boot"]["BootSourceOverrideEnabled"], "Disabled");
    fake.take_log();
    bmc.set_boot(&BootTarget::Disk).await.unwrap();
    assert!(fake.take_log().iter().all(|asked| asked.starts_with("GET")), "nothing is left to do");
}

#[tokio::test]
async fn media_that_needs_other_words() {
    let (fake, _pool, bmc) = simple().await;
    fake.hook(|asked| {
        let insert = asked.path.ends_with("InsertMedia") && asked.body.get("TransferProtocolType").is_none();
        insert.then(|| refusal(400, "Base.1.8.ActionParameterMissing", "TransferProtocolType is missing"))
    });
    let target = BootTarget::VirtualMedia { url: "https://192.0.2.1/a.iso".into() };
    bmc.set_boot(&target).await.unwrap();
    let inserts: Vec<Value> = fake
        .take()
        .into_iter()
        .filter(|asked| asked.path.ends_with("InsertMedia"))
        .map(|asked| asked.body)
        .collect();
    assert_eq!(inserts.len(), 2);
    assert_eq!(inserts[1]["TransferProtocolType"], "HTTPS");
}

#[tokio::test]
async fn media_that_never_shows() {
    let limits = Limits { media: Duration::from_millis(50), ..Limits::default() };
    let (fake, _pool, bmc) = simple_with(limits).await;
    fake.hook(|asked| asked.path.ends_with("InsertMedia").then(|| Reply::status(204)));
    let target = BootTarget::VirtualMedia { url: "https://192.0.2.1/a.iso".into() };
    let error = bmc.set_boot(&target).await.unwrap_err();
    assert!(error.to_string().contains("not shown as inserted"), "{error}");
    assert!(error.is_transient());
    let patched = fake.take_log().iter().any(|asked| asked.starts_with("PATCH"));
    assert!(!patched, "no override to an empty drive");
}

#[tokio::test]
async fn pending_settings_take_the_override() {
    let (fake, _pool, bmc) = simple().await;
    let settings = "/redfish/v1/Systems/1/Settings";
    let pending = common::simple_tree().remove(SYSTEM).unwrap();
    fake.edit(SYSTEM, |system| {
        system["Boot"] = json!({"BootOrder": []});
        system["@Redfish.Settings"] = json!({"SettingsObject": {"@odata.id": settings}});
    });
    fake.state.lock().unwrap().resources.insert(settings.to_lowercase(), json!({"Boot": pending["Boot"]}));
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    let patches: Vec<String> =
        fake.take_log().into_iter().filter(|asked| asked.starts_with("PATCH")).collect();
    assert_eq!(patches, [format!("PATCH {settings}")]);

    // Stands in the system, and is refused there.
    fake.edit(SYSTEM, |system| system["Boot"] = pending["Boot"].clone());
    fake.hook(|asked| asked.is("PATCH", SYSTEM).then(|| refusal(400, "x", "read-only: use the settings")));
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    let patches: Vec<String> =
        fake.take_log().into_iter().filter(|asked| asked.starts_with("PATCH")).collect();
    assert_eq!(patches.last().unwrap(), &format!("PATCH {settings}"));
}

#[tokio::test]
async fn tasks_are_waited_for() {
    let limits = Limits { task_poll: Duration::from_millis(5), ..Limits::default() };
    let (fake, _pool, bmc) = simple_with(limits).await;
    let task = "/redfish/v1/TaskService/Tasks/7";
    let monitored = move |states: &'static [(&'static str, &'static str)]| {
        let mut states = states.iter();
        move |asked: &Asked| {
            if asked.is("PATCH", SYSTEM) {
                return Some(
                    Reply::json(202, json!({"TaskState": "New"}))
                        .header("location", format!("http://elsewhere{task}")),
                );
            }
            (asked.path == task).then(|| {
                let (state, status) = states.next().unwrap();
                let messages = json!([{"Message": "the reason"}]);
                Reply::json(200, json!({"TaskState": state, "TaskStatus": status, "Messages": messages}))
            })
        }
    };
    fake.hook(monitored(&[("Running", "OK"), ("Running", "OK"), ("Completed", "OK")]));
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    assert_eq!(fake.take_log().iter().filter(|asked| asked.ends_with(task)).count(), 3);

    fake.hook(monitored(&[("Running", "OK"), ("Exception", "Critical")]));
    let error = bmc.set_boot(&BootTarget::Network).await.unwrap_err();
    assert!(matches!(&error, BmcError::TaskFailed { message, .. } if message == "the reason"), "{error}");
}

#[tokio::test]
async fn inspection_is_bounded_and_expands_where_it_may() {
    let limits = Limits { inspect_requests: 10, ..Limits::default() };
    let (fake, _pool, bmc) = simple_with(limits).await;
    let collection = "/redfish/v1/Systems/1/EthernetInterfaces";
    let members: Vec<Value> = (0..100).map(|n| json!({"@odata.id": format!("{collection}/{n}")})).collect();
    fake.edit(collection, |value| value["Members"] = json!(members));
    bmc.inspect().await.unwrap();
    let reads = fake.take_log().iter().filter(|asked| asked.contains("EthernetInterfaces")).count();
    assert_eq!(reads, 10);

    let (fake, _pool, bmc) = simple().await;
    fake.edit("/redfish/v1", |root| {
        root["ProtocolFeaturesSupported"] = json!({"ExpandQuery": {"NoLinks": true, "Levels": true}});
    });
    let whole: Vec<Value> = (0..100)
        .map(|n| json!({"@odata.id": format!("{collection}/{n}"), "Id": n.to_string(), "MACAddress": format!("02:00:00:00:01:{n:02x}")}))
        .collect();
    fake.hook(move |asked| {
        asked.path.contains("$expand").then(|| Reply::json(200, json!({ "Members": whole })))
    });
    assert_eq!(bmc.inspect().await.unwrap().nics.len(), 100);
    assert!(fake.take_log().len() < 10);
}

#[tokio::test]
async fn several_systems_want_a_path() {
    let (fake, pool) = (Fake::simple().await, BmcPool::default());
    fake.edit("/redfish/v1/Systems", |systems| {
        systems["Members"] =
            json!([{"@odata.id": "/redfish/v1/Systems/1"}, {"@odata.id": "/redfish/v1/Systems/2"}]);
    });
    let error = get(&pool, &fake).probe().await.unwrap_err();
    assert_eq!(error.reason(), "BMCNoSystem");
    assert!(error.to_string().contains("/redfish/v1/Systems/1, /redfish/v1/Systems/2"), "{error}");
    let named = pool.get("host", &fake.options("/redfish/v1/Systems/1/")).unwrap();
    named.probe().await.unwrap();
    let wrong = pool.get("host", &fake.options("/redfish/v1/Systems/9")).unwrap();
    let error = wrong.probe().await.unwrap_err();
    assert!(error.to_string().contains("no system /redfish/v1/Systems/9: it has"), "{error}");
    fake.edit("/redfish/v1/Systems", |systems| systems["Members"] = json!([]));
    assert_eq!(get(&pool, &fake).probe().await.unwrap_err().reason(), "BMCNoSystem");
}

#[tokio::test]
async fn a_path_that_is_gone_is_looked_for_again() {
    let (fake, _pool, bmc) = simple().await;
    bmc.probe().await.unwrap();
    let moved = "/redfish/v1/Systems/Self";
    {
        let mut state = fake.state.lock().unwrap();
        let system = state.resources.remove(&SYSTEM.to_lowercase()).unwrap();
        state.resources.insert(moved.to_lowercase(), system);
        state.resources.insert("/redfish/v1/systems".into(), json!({"Members": [{"@odata.id": moved}]}));
    }
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
    fake.take_log();
    assert_eq!(bmc.power().await.unwrap(), PowerState::Off);
    assert_eq!(fake.take_log(), [format!("GET {moved}")]);
}

#[tokio::test]
async fn reset_types_in_a_resource_of_their_own() {
    let (fake, _pool, bmc) = simple().await;
    let info = "/redfish/v1/Systems/1/ResetActionInfo";
    fake.edit(SYSTEM, |system| {
        let reset = system["Actions"]["#ComputerSystem.Reset"].as_object_mut().unwrap();
        reset.remove("ResetType@Redfish.AllowableValues");
        reset.insert("@Redfish.ActionInfo".into(), json!(info));
    });
    let values = json!({"Parameters": [{"Name": "ResetType", "AllowableValues": ["ForceOn", "ForceOff"]}]});
    fake.state.lock().unwrap().resources.insert(info.to_lowercase(), values);
    bmc.set_power(PowerAction::On).await.unwrap();
    let reset = fake.take().into_iter().find(|asked| asked.path.ends_with("Reset")).unwrap();
    assert_eq!(reset.body, json!({"ResetType": "ForceOn"}));
    let error = bmc.set_power(PowerAction::GracefulShutdown).await.unwrap_err();
    assert_eq!(error.reason(), "BMCNotSupported");
    assert!(error.to_string().contains("it allows ForceOn, ForceOff"), "{error}");
    assert!(!fake.take_log().iter().any(|asked| asked.contains(info)), "they are kept");
}

#[tokio::test]
async fn wake_on_lan_is_for_callers_that_do_without_reading_the_power() {
    let options = ferric_bmc::ConnectOptions {
        address: "wol://192.0.2.255?mac=52:54:00:ab:cd:ef".parse().unwrap(),
        credentials: None,
        ca_pem: None,
        certificate_sha256: None,
        insecure: false,
    };
    match BmcPool::default().get("host", &options).err() {
        Some(BmcError::DriverNotAvailable { scheme }) => assert_eq!(scheme, "wol"),
        other => panic!("{other:?}"),
    }
    let pool = BmcPool::new(Limits { wake_on_lan: true, ..Limits::default() });
    assert_eq!(pool.get("host", &options).unwrap().power().await.unwrap(), PowerState::Unknown);
    pool.close().await;
}

#[tokio::test]
async fn boot_options_stand_in_for_targets() {
    let (fake, _pool, bmc) = simple().await;
    let options = "/redfish/v1/Systems/1/BootOptions";
    let path = "PciRoot(0x1)/MAC(020000000001,0x1)/IPv4(0.0.0.0)";
    fake.edit(SYSTEM, |system| {
        let boot = system["Boot"].as_object_mut().unwrap();
        boot.insert(
            "BootSourceOverrideTarget@Redfish.AllowableValues".into(),
            json!(["None", "Hdd", "UefiTarget"]),
        );
        boot.insert("BootOptions".into(), json!({"@odata.id": options}));
    });
    {
        let resources = &mut fake.state.lock().unwrap().resources;
        let members = json!([{"@odata.id": format!("{options}/1")}, {"@odata.id": format!("{options}/2")}]);
        resources.insert(options.to_lowercase(), json!({ "Members": members }));
        resources.insert(format!("{options}/1").to_lowercase(), json!({"Id": "1", "Alias": "Hdd"}));
        let pxe = json!({"Id": "2", "UefiDevicePath": path, "BootOptionReference": "Boot0002"});
        resources.insert(format!("{options}/2").to_lowercase(), pxe);
    }
    assert_eq!(bmc.probe().await.unwrap().boot_methods, [BootMethod::Network], "there is no option of a CD");
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    let sent = fake.take().into_iter().find(|asked| asked.method == "PATCH").unwrap();
    assert_eq!(
        sent.body["Boot"],
        json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "UefiTarget",
            "UefiTargetBootSourceOverride": path})
    );
    let error =
        bmc.set_boot(&BootTarget::VirtualMedia { url: "http://192.0.2.1/a".into() }).await.unwrap_err();
    assert!(error.to_string().contains("neither a target nor a boot option"), "{error}");

    // By its reference, where the BMC has that.
    fake.edit(SYSTEM, |system| {
        let list = &mut system["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"];
        list.as_array_mut().unwrap().push(json!("UefiBootNext"));
    });
    bmc.set_boot(&BootTarget::Network).await.unwrap();
    let sent = fake.take().into_iter().rfind(|asked| asked.method == "PATCH").unwrap();
    assert_eq!(sent.body["Boot"]["BootNext"], "Boot0002");
}

/// A subscription to events is found again, and made again where the BMC lost it, however it shows that.
#[tokio::test]
async fn a_subscription_that_the_bmc_forgot_is_made_again() {
    use ferric_bmc::{EventSink, Subscribed};
    const SERVICE: &str = "/redfish/v1/EventService";
    const SUBSCRIPTIONS: &str = "/redfish/v1/EventService/Subscriptions";
    /// A subscription, whether the collection lists it, and whether it is there when it is read.
    #[derive(Clone)]
    struct Entry {
        resource: Value,
        listed: bool,
        readable: bool,
    }
    /// What is lost, and how.
    type Loss = (&'static str, fn(&mut Entry));
    let (fake, _pool, bmc) = simple().await;
    let link = |path: &str| json!({ "@odata.id": path });
    fake.edit("/redfish/v1", |root| root["EventService"] = link(SERVICE));
    fake.state.lock().unwrap().resources.insert(
        SERVICE.to_lowercase(),
        json!({"@odata.id": SERVICE, "ServiceEnabled": true, "Subscriptions": link(SUBSCRIPTIONS)}),
    );
    let entries: Arc<std::sync::Mutex<Vec<Entry>>> = Arc::default();
    let there = entries.clone();
    fake.hook(move |asked| {
        let id = asked.path.strip_prefix(SUBSCRIPTIONS)?.trim_start_matches('/').to_owned();
        let mut entries = there.lock().unwrap();
        let entry = id.parse::<usize>().ok().and_then(|at| entries.get_mut(at));
        Some(match (asked.method.as_str(), entry) {
            ("GET", None) if id.is_empty() => {
                let listed = entries.iter().enumerate().filter(|(_, entry)| entry.listed);
                let members = listed.map(|(at, _)| link(&format!("{SUBSCRIPTIONS}/{at}")));
                Reply::json(200, json!({"Members": members.collect::<Vec<_>>()}))
            }
            ("POST", None) if id.is_empty() => {
                entries.push(Entry { resource: asked.body.clone(), listed: true, readable: true });
                Reply::status(201)
            }
            ("GET", Some(entry)) if entry.readable => Reply::json(200, entry.resource.clone()),
            ("DELETE", Some(entry)) if entry.readable => {
                (entry.listed, entry.readable) = (false, false);
                Reply::status(204)
            }
            _ => refusal(404, "Base.1.8.ResourceMissingAtURI", "no such resource"),
        })
    });
    let sink = EventSink {
        destination: "http://192.0.2.9:6184/events".into(),
        context: "a-context-of-this-host-alone".into(),
    };
    assert_eq!(bmc.subscribe(&sink).await.unwrap(), Subscribed::Made);
    assert_eq!(bmc.subscribe(&sink).await.unwrap(), Subscribed::Kept);
    let losses: [Loss; 4] = [
        ("listed, and 404 when it is read", |entry| entry.readable = false),
        ("no longer listed", |entry| entry.listed = false),
        ("given up by the BMC", |entry| entry.resource["Status"] = json!({"State": "Disabled"})),
        ("for a provider at another address", |entry| {
            entry.resource["Destination"] = json!("http://192.0.2.8")
        }),
    ];
    for (what, lose) in losses {
        lose(entries.lock().unwrap().last_mut().unwrap());
        assert_eq!(bmc.subscribe(&sink).await.unwrap(), Subscribed::Made, "{what}");
        let ours = {
            let entries = entries.lock().unwrap();
            entries.iter().filter(|entry| entry.listed && entry.readable).cloned().collect::<Vec<_>>()
        };
        assert_eq!(ours.len(), 1, "{what}");
        assert_eq!(ours[0].resource["Context"], sink.context, "{what}");
        assert_eq!(bmc.subscribe(&sink).await.unwrap(), Subscribed::Kept, "{what}");
    }
}

//! A server that speaks to its BMC itself: QEMU's `ipmi-bmc-extern`, and OpenIPMI's `ipmi_sim` behind it.

use ferric_api::hardware::HardwareData;
use ferric_api::host::ProvisioningState as State;
use ferric_api::names::ACCEPT_BMC_ANNOTATION;
use ferric_testbed::lab::ADDRESS;
use ferric_testbed::lab::domain::{BmcKind, Firmware, ServerSpec, Wired};
use ferric_testbed::lab::stack::hardware_image;
use ferric_testbed::stack::disk::sha256;
use kube::Api;
use serde_json::json;

use crate::bench::{HOST, NAMESPACE, Row, done, fill, lab, server, state, waits_for};

async fn start(wired: Wired) -> Row {
    let spec = ServerSpec { firmware: Firmware::Bios, bmc: BmcKind::OwnIpmi(wired), ..server() };
    // Only this flavour has drivers for BMCs.
    let image = done(hardware_image().await).display().to_string();
    let builder = lab(vec![spec]).await.manager_flag("agent-image-dir", image);
    let builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
    Row::start(builder).await
}

row!(the_machine_says_what_its_bmc_is, async {
    let mut row = start(Wired::Right).await;
    row.enrol().await;
    let data: Api<HardwareData> = Api::namespaced(row.stack.bed.client(), NAMESPACE);
    let bmc = data.get(HOST).await.unwrap().spec.hardware.unwrap().bmc.unwrap();
    row.story.say(&format!("{bmc:?}"));
    assert_eq!(bmc.problem, "");
    assert_eq!((bmc.manufacturer_id, bmc.product_id), (Some(0x1291), Some(0xf02)));
    assert_eq!((bmc.manufacturer.as_str(), bmc.product_serial_number.as_str()), ("Acme", "S1234567"));
    assert_eq!(bmc.board_serial_number, "BOARD-SN");
    let [lan] = bmc.lan.as_slice() else { panic!("{:?}", bmc.lan) };
    assert_eq!((lan.channel, lan.ip.as_str(), lan.ip_source.as_str()), (1, &*ADDRESS.to_string(), "Static"));
    assert_eq!(lan.mac, "52:54:00:77:00:b0");
    let users: Vec<_> = bmc.users.iter().map(|user| (user.id, user.name.as_str())).collect();
    assert_eq!(users, [(2, "admin"), (3, "guest")]);
    row.stop().await;
});

row!(nothing_is_wiped_on_a_machine_with_another_bmc, async {
    let mut row = start(Wired::Wrong).await;
    fill(row.disk(0), 0xA5);
    let before = sha256(row.disk(0)).unwrap();
    done(row.stack.bed.apply(&row.server().manifest()).await);
    let host = row.reach("refused", |host| waits_for(host).contains(ACCEPT_BMC_ANNOTATION)).await;
    assert_eq!(state(&host), State::Preparing);
    let conditions = host.status.unwrap().conditions;
    let registered = conditions.iter().find(|condition| condition.type_ == "Registered").unwrap();
    assert_eq!((registered.status.as_str(), registered.reason.as_str()), ("False", "BMCMismatch"));
    for mac in ["52:54:00:77:00:b0", "52:54:00:77:00:b1"] {
        assert!(registered.message.contains(mac), "{}", registered.message);
    }
    assert_eq!(sha256(row.disk(0)).unwrap(), before, "the disk was written");
    // An operator says that it is right so.
    row.patch(json!({ "metadata": { "annotations": { ACCEPT_BMC_ANNOTATION: "52:54:00:77:00:b1" } } })).await;
    row.reach("available", |host| state(host) == State::Available).await;
    assert_ne!(sha256(row.disk(0)).unwrap(), before, "nothing was wiped");
    row.stop().await;
});

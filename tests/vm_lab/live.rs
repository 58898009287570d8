//! A system that runs from an ISO image and is written nowhere.

use ferric_api::host::{ImageFormat, ProvisioningState as State};
use ferric_testbed::lab::ADDRESS;
use ferric_testbed::lab::images::tiny_iso;
use ferric_testbed::lab::wait_for_serial;
use ferric_testbed::stack::ImageServer;
use ferric_testbed::stack::disk::sha256;
use serde_json::json;

use crate::bench::{LIMIT, Row, done, fill, lab, server, state};

/// What the kernel on the ISO prints, and nobody else.
const LIVE: &str = "tiny.live";

row!(a_live_iso_runs_and_writes_nothing, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    row.enrol().await;
    fill(row.disk(0), 0xA5);
    let before = sha256(row.disk(0)).unwrap();

    // The BMC fetches it.
    let iso = done(ImageServer::start_on(ADDRESS.into(), &done(tiny_iso().await)).await);
    let from = row.server().serial_end();
    let image = json!({ "url": iso.url(), "format": "live-iso" });
    row.patch(json!({ "spec": { "online": true, "image": image } })).await;
    let host = row.reach("provisioned", |host| state(host) == State::Provisioned).await;
    let shown = host.status.as_ref().unwrap().provisioning.image.as_ref().unwrap();
    assert_eq!((shown.url.as_str(), shown.disk_format), (iso.url().as_str(), Some(ImageFormat::LiveIso)));
    done(wait_for_serial(row.server(), from, "tiny: done", LIMIT).await);
    let printed = row.server().serial_from(from);
    for part in [LIVE, "tiny: up, firmware UEFI", "tiny: no config drive"] {
        assert!(printed.contains(part), "{part:?} is not in what was printed:\n{printed}");
    }
    assert!(!printed.contains("ferric-agent ["), "the agent ran:\n{printed}");
    assert_eq!(sha256(row.disk(0)).unwrap(), before, "the disk was written");
    assert!(done(row.server().is_on().await));
    row.story.say("the live system runs, the disk is the same byte for byte");

    // The medium goes, the agent comes and cleans, and the host can be written.
    let from = row.server().serial_end();
    row.release().await;
    let printed = row.server().serial_from(from);
    assert!(!printed.contains(LIVE), "the live system ran again:\n{printed}");
    ferric_testbed::stack::disk::is_wiped(row.disk(0)).unwrap_or_else(|error| panic!("{error}"));
    let wanted = crate::bench::Wanted::served(&row.stack);
    let printed = row.provision("marker-after-live", &wanted).await;
    assert!(!printed.contains(LIVE), "the live system ran again:\n{printed}");
    row.holds(&row.stack.image.path);
    row.stop().await;
});

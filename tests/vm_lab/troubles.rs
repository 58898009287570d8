//! What goes wrong in the middle of a write, and is gone a little later.

use ferric_api::BareMetalHost;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::lab::domain::{DiskSpec, ServerSpec};
use ferric_testbed::lab::stack::wait_for;
use ferric_testbed::stack::Trouble;

use crate::bench::{LIMIT, MIB, Row, Wanted, done, lab, lab_with, large_image, server, state, waits_for};

/// Large enough to be met in the middle.
const IMAGE: u64 = 400 * MIB;

fn percent(host: &BareMetalHost) -> i32 {
    host.status.as_ref().and_then(|status| status.progress_percent).unwrap_or(0)
}

/// In the middle of writing, and this many per cent further than nothing.
fn writes(host: &BareMetalHost, beyond: i32) -> bool {
    assert_ne!(state(host), State::Provisioned, "it was written before it was met in the middle");
    waits_for(host).contains("writing") && percent(host) > beyond
}

row!(a_killed_provider_and_a_cut_network_leave_a_whole_image, async {
    let folder = tempfile::tempdir().unwrap();
    let image = large_image(folder.path(), IMAGE).await;
    let disks = vec![DiskSpec { size: IMAGE + 64 * MIB, ..server().disks[0].clone() }];
    let spec = ServerSpec { disks, ..server() };
    let mut row = Row::start(lab_with(image.clone(), vec![spec])).await;
    row.enrol().await;
    let from = row.server().serial_end();
    let wanted = Wanted::served(&row.stack);
    row.ask_for("marker-troubles", &wanted).await;

    let met = row.reach("in the middle of the write", |host| writes(host, 0)).await;
    row.stack.manager.kill();
    row.story.say("the provider is killed");
    done(row.stack.manager.restart().await);
    row.story.say("the provider is back");

    // What the one before said still stands until this one knows better.
    let before = percent(&met);
    row.reach("further in the write", |host| writes(host, before)).await;
    done(row.server().set_link(false).await);
    row.story.say("the network is cut");
    row.reach("away", |host| {
        assert_ne!(state(host), State::Provisioned);
        waits_for(host).contains("to connect again")
    })
    .await;
    done(row.server().set_link(true).await);
    row.story.say("the network is back");

    row.runs("marker-troubles", from).await;
    row.holds(&image);
    let registrations = row.server().serial_from(from).matches("registered").count();
    row.story.say(&format!("the agent said \"registered\" {registrations} times"));
    row.stop().await;
});

row!(an_image_server_that_stalls_is_waited_for, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    row.enrol().await;
    let from = row.server().serial_end();
    row.stack.images.set_trouble(Trouble::StallAfter(20 * MIB));
    let wanted = Wanted::served(&row.stack);
    row.ask_for("marker-stall", &wanted).await;
    // It stalls, is given up, and is taken up again where it ended, to stall again.
    let images = &row.stack.images;
    let again = wait_for("the provider to ask again", LIMIT, async || match images.requests() {
        0 | 1 => Err(format!("{} requests, {} bytes sent", images.requests(), images.bytes_sent())),
        _ => Ok(()),
    });
    done(again.await);
    let sent = row.stack.images.bytes_sent();
    assert!((20 * MIB..21 * MIB).contains(&sent), "{sent} bytes were sent of an image that stalls at 20 MiB");
    assert_ne!(state(&row.host().await), State::Provisioned);
    row.stack.images.set_trouble(Trouble::None);
    row.runs("marker-stall", from).await;
    row.holds(&row.stack.image.path);
    let all = row.stack.images.bytes_sent();
    assert_eq!(all, row.stack.image.size, "what had come was fetched once more");
    row.stop().await;
});

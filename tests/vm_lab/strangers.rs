//! Who gets nothing: a machine that nobody enrolled, a token that is spent, the token of another host, whoever has no key.

use std::io;
use std::sync::Arc;

use ferric_agent::{AgentError, AgentOptions, Platform};
use ferric_image::BlockDevice;
use ferric_protocol::BootData;
use ferric_protocol::v1::Inventory;
use ferric_testbed::lab::Server;
use ferric_testbed::lab::domain::{BmcKind, Firmware, ServerSpec};
use ferric_testbed::lab::stack::wait_for;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::bench::{LIMIT, Row, Wanted, counted, done, lab, server};

/// A machine that somebody put on the network.
struct Stranger {
    uuid: String,
}

impl Platform for Stranger {
    fn inventory(&self) -> io::Result<Inventory> {
        Ok(Inventory { system_uuid: self.uuid.clone(), ..Inventory::default() })
    }

    fn open_disk(&self, name: &str) -> io::Result<Box<dyn BlockDevice>> {
        panic!("a stranger was told to open {name}")
    }
}

/// The boot data that a server's kernel printed.
fn boot_data(server: &Server) -> BootData {
    let printed = server.serial_from(0);
    let line = printed.lines().rev().find(|line| line.contains("ferric.token=")).unwrap_or_else(|| {
        panic!("no kernel command line was printed:\n{}", server.last_lines(20));
    });
    BootData::parse(line).unwrap()
}

/// Comes with this boot data as our agent does, with a key of its own, and says it were the machine of this UUID.
async fn is_refused(boot: BootData, uuid: String, code: Code) {
    let run = ferric_agent::run(
        boot,
        Arc::new(Stranger { uuid }),
        AgentOptions::default(),
        CancellationToken::new(),
    );
    let end = tokio::time::timeout(LIMIT, run).await.expect("the agent goes on");
    assert!(matches!(&end, Err(AgentError::Refused { code: got, .. }) if *got == code), "{end:?}");
}

row!(strangers_get_nothing, async {
    let network = |name: &str| ServerSpec {
        name: name.to_owned(),
        firmware: Firmware::Bios,
        bmc: BmcKind::RedfishWithoutMedia,
        ..server()
    };
    let builder = lab(vec![network("vm-1"), network("vm-2")]).await;
    let builder = builder.manager_flag("dhcp-mode", "proxy").manager_flag("dhcp-interface", "lab0");
    let mut row = Row::start(builder).await;

    // Nobody enrolled it.
    let stranger = done(row.stack.lab.server("vm-2")).clone();
    done(stranger.boot_from_network().await);
    let unknown = "ferric_network_boots_total{result=\"unknown\"}";
    let stack = &row.stack;
    let asked =
        wait_for("the machine that nobody enrolled to ask for a boot", LIMIT, async || {
            match counted(stack, unknown).await {
                0 => Err(stranger.last_lines(5)),
                _ => Ok(()),
            }
        });
    done(asked.await);

    row.enrol().await;
    let wanted = Wanted::served(&row.stack);
    row.provision("marker-strangers", &wanted).await;

    // Its tokens are spent, whoever says to be the same machine.
    let refusals = "ferric_refusals_total{what=\"registration\"}";
    assert_eq!(counted(&row.stack, refusals).await, 0);
    let spent = boot_data(row.server());
    let uuid = row.server().uuid().to_string();
    is_refused(spent.clone(), uuid, Code::PermissionDenied).await;
    // Another machine with them, which is the first that would be a theft.
    is_refused(spent.clone(), stranger.uuid().to_string(), Code::PermissionDenied).await;
    // A token that nobody made.
    let token = spent.token().chars().rev().collect::<String>();
    let forged = BootData::new(spent.provider_url(), spent.ca_sha256(), &token, spent.time()).unwrap();
    is_refused(forged, stranger.uuid().to_string(), Code::Unauthenticated).await;
    assert_eq!(counted(&row.stack, refusals).await, 3);

    // What the running system can reach of the provider without a key: nothing that it did not have.
    let client = reqwest::Client::builder().no_proxy().danger_accept_invalid_certs(true).build().unwrap();
    let image = format!("{}/images/sha256:{}", spent.provider_url().trim_end_matches('/'), wanted.sha256);
    let answer = client.get(image).send().await;
    assert!(answer.as_ref().is_err() || answer.unwrap().status() == 401);

    assert!(!stranger.serial_from(0).contains("ferric"), "{}", stranger.last_lines(20));
    row.stop().await;
});

//! A host's life with the BMC of each vendor family, in one mixed fleet: enrolled, provisioned, deleted. The agent comes by
//! virtual media where the BMC is told no URL.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/mod.rs"]
mod e2e;

use std::path::Path;

use e2e::{LIMIT, boots, holds_image, hosts, image, patch_host, powered, state, wait_for_state};
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::stack::disk;
use ferric_testbed::{Stack, wait_until};
use kube::api::DeleteParams;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The families, and how the agent is booted there.
const FAMILIES: [(&str, &str); 7] = [
    ("plain", "UefiHttp"),
    ("idrac", "Cd"),
    ("ilo", "Cd"),
    ("xcc", "Cd"),
    ("supermicro", "Cd"),
    ("megarac", "UefiHttp"),
    ("listed", "Cd"),
];

/// Room for the configuration of GRUB on the ISO image.
const ROOM: (usize, usize) = (65_536, 8192);

/// A folder as `make agent-image` makes it, with an ISO image that holds nothing but its configuration: what the
/// simulated firmware reads of it.
fn agent_image(folder: &Path) {
    let mut entries = serde_json::Map::new();
    let mut iso = vec![0; 128 * 1024];
    // ECMA-119, 8.1.2.
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    let other = || b"not looked at".to_vec();
    for (key, name, content) in [
        ("kernel", "vmlinuz", other()),
        ("initrd", "initrd.img", other()),
        ("iso", "agent.iso", iso),
        ("ipxeBios", "undionly.kpxe", other()),
        ("ipxeEfi", "snponly.efi", other()),
    ] {
        let hash = hex::encode(Sha256::digest(&content));
        entries.insert(key.into(), json!({"name": name, "size": content.len(), "sha256": hash}));
        std::fs::write(folder.join(name), &content).unwrap();
    }
    entries["iso"]["grubConfig"] = json!({"offset": ROOM.0, "length": ROOM.1});
    let manifest = json!({"version": 1, "flavour": "virtual", "architecture": "amd64", "files": entries});
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_each_family() {
    let media = tempfile::tempdir().unwrap();
    agent_image(media.path());
    let mut builder = Stack::builder()
        .fleet(FAMILIES.len(), 1)
        .manager_flag("power-poll-seconds", "10")
        .manager_flag("agent-image-dir", media.path().display().to_string());
    for (family, _) in FAMILIES {
        builder = builder.simulator_flag("class", format!("{family}:8:32:64:ssd:{family}"));
    }
    let stack = builder.start().await.unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<String> = stack.simulator.servers().iter().map(|server| server.name.clone()).collect();

    for (name, (family, source)) in names.iter().zip(FAMILIES) {
        let host = wait_for_state(&stack, name, State::Available).await;
        assert!(host.spec.record.as_ref().unwrap().cleaned.is_some(), "{family}");
        assert_eq!(boots(&stack, name, 0).await, [source], "{family}: the agent, once");
        patch_host(&stack, name, json!({"spec": {"image": image(&stack), "online": true}})).await;
    }
    for (name, (family, source)) in names.iter().zip(FAMILIES) {
        wait_for_state(&stack, name, State::Provisioned).await;
        holds_image(&stack, name);
        wait_until(&format!("{family} to start from its disk"), LIMIT, async || {
            let boots = boots(&stack, name, 0).await;
            if boots == [source, source, "Disk"] { Ok(()) } else { Err(format!("{boots:?}")) }
        })
        .await
        .unwrap();
        assert_eq!(powered(&stack, name).await, Some(true), "{family}");
        hosts(&stack).delete(name, &DeleteParams::default()).await.unwrap();
    }
    for (name, (family, _)) in names.iter().zip(FAMILIES) {
        wait_until(&format!("the host of {family} to be gone"), LIMIT, async || {
            match hosts(&stack).get_opt(name).await.map_err(|error| error.to_string())? {
                None => Ok(()),
                Some(host) => Err(format!("{:?}", state(&host))),
            }
        })
        .await
        .unwrap();
        assert_eq!(powered(&stack, name).await, Some(false), "{family}");
        disk::is_wiped(stack.simulator.disk(name).unwrap()).unwrap();
    }
    stack.stop().await;
}

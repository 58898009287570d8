//! Starting what was written without the firmware.

use serde_json::json;

use crate::bench::{Row, Wanted, lab, server};

row!(the_agent_starts_the_written_kernel, async {
    let mut row = Row::start(lab(vec![server()]).await).await;
    row.enrol().await;
    let wanted = Wanted::served(&row.stack);
    row.user_data("marker-kexec").await;
    let from = row.server().serial_end();
    let image = json!({
        "url": wanted.url, "checksum": wanted.sha256, "format": wanted.format, "bootAfterWrite": "Kexec",
    });
    let spec = json!({ "online": true, "image": image, "userData": { "name": "user-data" } });
    row.patch(json!({ "spec": spec })).await;
    let printed = row.runs("marker-kexec", from).await;
    let record = row.host().await.spec.record.unwrap().image.unwrap();
    assert_eq!(record.loaded_kernel.as_deref(), Some("Tiny system"), "{:?}", record.boot_warning);
    // GRUB's own way has another command line.
    assert!(printed.contains("tiny.entry=grub.cfg"), "{printed}");
    row.holds(&row.stack.image.path);
    row.release().await;
    row.stop().await;
});

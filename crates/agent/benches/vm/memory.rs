//! With how little memory a machine can be written.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use ferric_protocol::v1::{self, task::Work, task_result::Outcome};
use tokio::time::timeout;

use crate::{
    Result,
    machine::{Firmware, Machine, Spec},
    net::Net,
    support::{Provider, images::Images},
};

/// More than any machine here has, most of it noise, so that nothing can be held in memory.
const IMAGE: usize = 384 << 20;
const DISK: u64 = 6 << 30;
/// Tried in turn until one does not do.
const MEMORY_MIB: [u32; 7] = [192, 160, 128, 112, 96, 88, 80];
const BOOT: Duration = Duration::from_secs(120);
const WRITE: Duration = Duration::from_secs(240);

/// Writes an image with less and less memory, and says which was the last that did.
pub async fn measure(net: &Net, folder: &Path, image: &Path, text: &mut String) -> Result<()> {
    let disk = folder.join("disk");
    let (kernel, initramfs) = (image.join("vmlinuz"), image.join("initrd.img"));
    let file = zstd::bulk::compress(&content(), 1)?;
    let mut least = None;
    for memory_mib in MEMORY_MIB {
        eprintln!("==> writing an image with {memory_mib} MiB");
        fs::File::create(&disk)?.set_len(DISK)?;
        let mut provider = Provider::start().await;
        let images = Images::start(file.clone(), None).await;
        let arguments = format!("{} console=ttyS0,115200 panic=-1", net.arguments(&provider).await?);
        let direct = Some((kernel.as_path(), initramfs.as_path(), arguments.as_str()));
        let spec = Spec { firmware: Firmware::None, memory_mib, disk: Some(&disk), direct };
        let machine = Machine::start(folder, &spec)?;
        let wrote = write(net, &mut provider, &images).await;
        let seconds = machine.started.elapsed().as_secs_f64();
        match wrote {
            Ok(()) => {
                eprintln!("    written and verified {seconds:.0} s after power-on");
                least = Some(memory_mib);
            }
            Err(why) => {
                let said = machine.said();
                let lines: Vec<&str> = said.lines().rev().take(8).collect();
                eprintln!("    {why}; its last lines, last first:\n    {}", lines.join("\n    "));
                break;
            }
        }
    }
    let _ = fs::remove_file(&disk);
    let least = least.map_or_else(|| "more than was tried".to_owned(), |mib| format!("{mib} MiB"));
    let _ = writeln!(
        text,
        "\nMemory of the smallest machine that booted the agent, fetched an image of {} MiB (zstd, {} MiB) and wrote and \
         verified it: **{least}** (aim ≤ 128 MB and the stream's window; tried: {MEMORY_MIB:?} MiB).",
        IMAGE >> 20,
        file.len() >> 20,
    );
    Ok(())
}

/// As the provider does it. The task fails if anything of the image is not on the disk.
async fn write(net: &Net, provider: &mut Provider, images: &Images) -> Result<()> {
    let mut session = provider.session_within(BOOT).await.ok_or("the agent did not come")?;
    let mut task = images.task("write", v1::Compression::Zstd);
    if let Some(Work::Deploy(v1::Deploy { image: Some(image), .. })) = &mut task.work {
        let address =
            image.url.trim_start_matches("http://").split('/').next().unwrap_or_default().parse()?;
        image.url = format!("http://{}/image", net.reach(address).await?);
    }
    session.send(&task).await;
    let result = timeout(WRITE, async {
        loop {
            match session.next().await {
                Some(ferric_protocol::v1::agent_message::Body::Result(result)) => return Some(result),
                Some(_) => {}
                None => return None,
            }
        }
    });
    match result.await?.ok_or("the session ended")?.outcome {
        Some(Outcome::Deploy(done)) if done.bytes_written == IMAGE as u64 => Ok(()),
        other => Err(format!("not written: {other:?}").into()),
    }
}

fn content() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(IMAGE);
    while content.len() < IMAGE {
        // Two thirds noise, a third zeros, in runs of 3 MiB.
        let noise = (content.len() / (3 << 20)) % 3 != 2;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&if noise { state } else { 0 }.to_le_bytes());
    }
    content
}

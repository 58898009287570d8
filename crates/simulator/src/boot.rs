//! What firmware does with boot media: fetch them by plain HTTP and find the kernel and its arguments in them.

use std::time::Duration;

use crate::life::BootProgram;

/// Longest time for boot media to arrive.
const FETCH_TIME: Duration = Duration::from_secs(20);
/// Largest boot media that are read; of an ISO image, how much.
const FETCH_LIMIT: usize = 1 << 20;
/// Where an ISO image says that it is one, and how: ECMA-119, 6.2.1 and 8.1.2.
const ISO_MARK: (usize, &[u8]) = (0x8001, b"CD001");
/// How a line begins in which GRUB is told the kernel and its arguments.
const GRUB_LINUX: &[u8] = b"\nlinux ";
/// A file with which cloud-init configures a system.
const SEED: &[u8] = b"var/lib/cloud/seed/nocloud/user-data";

/// Fetches boot media and reads them.
pub(crate) async fn fetch(client: &reqwest::Client, url: &str) -> Result<BootProgram, String> {
    if !url.starts_with("http://") {
        return Err(format!("the firmware has no certificates for {url}; it speaks plain HTTP only"));
    }
    let body = tokio::time::timeout(FETCH_TIME, download(client, url))
        .await
        .map_err(|_| format!("{url} did not answer within {} s", FETCH_TIME.as_secs()))??;
    match read_media(&body).map_err(|why| format!("{url}: {why}"))? {
        // The agent is told where its provider is; another system is not.
        BootProgram::Kernel { arguments } if !arguments.contains("ferric.url=") => {
            let script = String::from_utf8_lossy(&body);
            tokio::time::timeout(FETCH_TIME, system(client, url, &script))
                .await
                .map_err(|_| format!("the files of {url} did not come within {} s", FETCH_TIME.as_secs()))?
        }
        program => Ok(program),
    }
}

/// Fetches kernel and initramfs of a system, which lie beside the script unless it says otherwise. The initramfs must end
/// in an archive with what the system is configured with.
async fn system(client: &reqwest::Client, url: &str, script: &str) -> Result<BootProgram, String> {
    let base = reqwest::Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
    for command in ["kernel", "initrd"] {
        let named = file_of(script, command).ok_or_else(|| format!("{url} names no {command}"))?;
        let file = base.join(named).map_err(|error| format!("{named}: {error}"))?;
        let content = download(client, file.as_str()).await?;
        if command == "initrd" && !content.windows(SEED.len()).any(|part| part == SEED) {
            return Err(format!("{file} holds nothing to configure the system with"));
        }
    }
    Ok(BootProgram::System)
}

/// The file that a command of a script names: its first word that is neither an option nor the value of one.
fn file_of<'a>(script: &'a str, command: &str) -> Option<&'a str> {
    let line = script.lines().find(|line| line.split_whitespace().next() == Some(command))?;
    let mut words = line.split_whitespace().skip(1).peekable();
    while words.next_if(|word| *word == "--name").is_some() {
        words.next();
    }
    words.next()
}

async fn download(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| format!("could not fetch {url}: {error}");
    let mut response = client.get(url).send().await.map_err(failed)?.error_for_status().map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > FETCH_LIMIT {
            // Firmware reads on as it runs; here it is enough to know what it is.
            if is_iso(&body) {
                break;
            }
            return Err(format!("{url} holds more than {FETCH_LIMIT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The agent's kernel arguments in the configuration of GRUB on an ISO image, if there is one in the part that was read.
/// GRUB gives the words between single quotes as they are.
fn read_grub(body: &[u8]) -> Option<BootProgram> {
    let at = body.windows(GRUB_LINUX.len()).position(|part| part == GRUB_LINUX)? + GRUB_LINUX.len();
    let line = body.get(at..)?.split(|byte| *byte == b'\n').next()?;
    let words = std::str::from_utf8(line).ok()?.split_whitespace().skip(1);
    let words: Vec<&str> = words.map(|word| word.trim_matches('\'')).collect();
    let arguments = words.join(" ");
    arguments.contains("ferric.url=").then_some(BootProgram::Kernel { arguments })
}

fn is_iso(body: &[u8]) -> bool {
    body.get(ISO_MARK.0..).is_some_and(|rest| rest.starts_with(ISO_MARK.1))
}

/// Finds the program in boot media. These are iPXE scripts, by whatever way they come, the provider's own ISO images,
/// and those of somebody's own system.
pub(crate) fn read_media(body: &[u8]) -> Result<BootProgram, String> {
    if is_iso(body) {
        return Ok(read_grub(body).unwrap_or(BootProgram::LiveIso));
    }
    let text = std::str::from_utf8(body).map_err(|_| "not an iPXE script".to_owned())?;
    read_ipxe(text)
}

/// Follows an iPXE script as far as a server's life needs: `kernel` with its arguments is the agent, `exit` or
/// `sanboot` before any kernel is the word to go on to the disk.
fn read_ipxe(text: &str) -> Result<BootProgram, String> {
    if !text.starts_with("#!ipxe") {
        return Err("not an iPXE script: it does not begin with #!ipxe".to_owned());
    }
    for line in text.lines().map(str::trim) {
        // What follows is for the case that a command fails.
        let line = line.split(" || ").next().unwrap_or(line);
        let mut words = line.split_whitespace();
        match words.next() {
            Some("kernel") => {
                let mut words = words.peekable();
                while words.next_if(|word| word.starts_with("--")).is_some() {
                    // `--name value`; `--name=value` is one word.
                    words.next_if(|word| !word.contains("://"));
                }
                if words.next().is_none() {
                    return Err("its kernel line names no kernel".to_owned());
                }
                return Ok(BootProgram::Kernel { arguments: words.collect::<Vec<_>>().join(" ") });
            }
            Some("exit" | "sanboot") => return Ok(BootProgram::NextSource),
            _ => {}
        }
    }
    Err("the iPXE script boots nothing".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_of_scripts() {
        let script =
            "#!ipxe\n:start\nkernel vmlinuz initrd=i a=b || goto x\ninitrd --name i http://p/i || goto x\n";
        assert_eq!(
            (file_of(script, "kernel"), file_of(script, "initrd")),
            (Some("vmlinuz"), Some("http://p/i"))
        );
        assert_eq!((file_of("#!ipxe\ninitrd --name", "initrd"), file_of("kernel", "kernel")), (None, None));
    }

    #[test]
    fn scripts() {
        let kernel = |arguments: &str| Ok(BootProgram::Kernel { arguments: arguments.to_owned() });
        let cases = [
            (
                "#!ipxe\nkernel http://p/vmlinuz ferric.url=https://p ferric.time=1\ninitrd http://p/i\nboot\n",
                kernel("ferric.url=https://p ferric.time=1"),
            ),
            ("#!ipxe\n# c\necho hi\nkernel --name vmlinuz http://p/k a=b || goto retry\nboot", kernel("a=b")),
            ("#!ipxe\nkernel --name=vmlinuz http://p/k a=b", kernel("a=b")),
            ("#!ipxe\nexit\nkernel http://p/k a=b", Ok(BootProgram::NextSource)),
            ("#!ipxe\nsanboot --no-describe --drive 0x80", Ok(BootProgram::NextSource)),
        ];
        for (script, wanted) in cases {
            assert_eq!(read_media(script.as_bytes()), wanted, "{script}");
        }
        for bad in ["", "kernel http://p/k", "#!ipxe\nkernel", "#!ipxe\nboot"] {
            assert!(read_media(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read_media(&[0xff, 0xfe]).is_err());
        let mut iso = vec![0; 0x8001];
        assert!(read_media(&iso).is_err());
        iso.extend_from_slice(b"CD001");
        assert_eq!(read_media(&iso), Ok(BootProgram::LiveIso));
        iso.extend_from_slice(b"\nlinux /boot/vmlinuz 'a=b'\n");
        assert_eq!(read_media(&iso), Ok(BootProgram::LiveIso), "of somebody else");
        iso.truncate(0x8006);
        iso.extend_from_slice(
            b"set timeout=0\nlinux /boot/vmlinuz 'a=b' 'ferric.url=https://p'\ninitrd /i\n",
        );
        assert_eq!(read_media(&iso), kernel("a=b ferric.url=https://p"));
    }
}

//! The container images that kubeadm runs a control plane of, packed from the test bed's own static programs, so that a
//! server without any network beyond the lab can have one.
//!
//! Format: an OCI image layout (image-spec 1.1, `image-layout.md`) in a tar archive, as `ctr images import` reads it. Its
//! names are the annotation by which containerd calls an image.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::assets::{Assets, Binary, KUBERNETES_VERSION};
use crate::error::{Error, Result};
use crate::process;

/// The programs of a control plane. Their images are called as they are.
const PROGRAMS: [Binary; 4] =
    [Binary::Etcd, Binary::KubeApiserver, Binary::KubeControllerManager, Binary::KubeScheduler];
/// The image that Debian 12's containerd (1.6) makes sandboxes of where its configuration names none.
const SANDBOX: &str = "registry.k8s.io/pause:3.6";
/// Annotation with an image's whole name (containerd, `images/annotations.go`).
const NAME: &str = "io.containerd.image.name";
/// Media types of OCI image-spec 1.1.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// kubeadm only prints a list.
const LIST_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Writes the archive into a folder: the images of the programs under the names that kubeadm asks for, and one that does
/// nothing for the sandboxes of pods. Not among them: CoreDNS and kube-proxy.
pub async fn control_plane_images(assets: &Assets, folder: &Path) -> Result<PathBuf> {
    let kubeadm = assets.ensure(Binary::Kubeadm).await?;
    let programs = assets.ensure_all(&PROGRAMS).await?;
    let mut command = tokio::process::Command::new(&kubeadm);
    command.args(["config", "images", "list", "--kubernetes-version", KUBERNETES_VERSION]);
    let list = process::run(command, LIST_LIMIT).await?;
    let named = |program: &str| {
        let name = list.lines().map(str::trim).find(|line| line.contains(&format!("/{program}:")));
        name.map(str::to_owned)
            .ok_or_else(|| Error::malformed("kubeadm's list of images", format!("{program} is not in it")))
    };
    let mut images = vec![Image {
        names: vec![named("pause")?, SANDBOX.to_owned()],
        path: "pause".to_owned(),
        content: Content::Bytes(pause()),
    }];
    for (program, file) in PROGRAMS.iter().zip(programs) {
        images.push(Image {
            names: vec![named(program.name())?],
            path: format!("usr/local/bin/{program}"),
            content: Content::File(file),
        });
    }
    let archive = folder.join("control-plane-images.tar");
    let written = archive.clone();
    tokio::task::spawn_blocking(move || pack(&images, &written).map_err(Error::file("write", &written)))
        .await
        .map_err(|error| Error::Assets(format!("packing container images ended early: {error}")))??;
    Ok(archive)
}

/// An image of one layer with one program.
#[derive(Debug)]
struct Image {
    names: Vec<String>,
    /// Below the root folder.
    path: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

fn pack(images: &[Image], archive: &Path) -> std::io::Result<()> {
    let mut layout = Layout(tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(archive)?)));
    let mut manifests = Vec::new();
    for image in images {
        let program = match &image.content {
            Content::File(file) => std::fs::read(file)?,
            Content::Bytes(bytes) => bytes.clone(),
        };
        let layer = layout.blob(LAYER, &layer(&image.path, &program)?)?;
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Entrypoint": [format!("/{}", image.path)], "Env": ["PATH=/usr/local/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = layout.blob(CONFIG, config.to_string().as_bytes())?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        let manifest = layout.blob(MANIFEST, manifest.to_string().as_bytes())?;
        for name in &image.names {
            let mut named = manifest.clone();
            named["platform"] = json!({ "architecture": "amd64", "os": "linux" });
            named["annotations"] = json!({ NAME: name });
            manifests.push(named);
        }
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    layout.file("index.json", index.to_string().as_bytes())?;
    layout.file("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
    layout.0.into_inner()?.flush()
}

/// The archive that the layout goes into.
struct Layout<W: Write>(tar::Builder<W>);

impl<W: Write> Layout<W> {
    fn file(&mut self, path: &str, content: &[u8]) -> std::io::Result<()> {
        append(&mut self.0, path, 0o644, content)
    }

    /// Adds a blob and returns its descriptor.
    fn blob(&mut self, media_type: &str, content: &[u8]) -> std::io::Result<Value> {
        let digest = hex::encode(Sha256::digest(content));
        self.file(&format!("blobs/sha256/{digest}"), content)?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() }))
    }
}

/// A layer with a program and a folder for temporary files.
fn layer(path: &str, program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::with_capacity(program.len() + (16 << 10)));
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    layer.append_data(&mut header, "tmp/", std::io::empty())?;
    append(&mut layer, path, 0o755, program)?;
    layer.into_inner()
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

/// A program for amd64 that waits for signals and does nothing else: what holds the namespaces of a pod.
fn pause() -> Vec<u8> {
    /// Where it is in memory.
    const BASE: u64 = 0x40_0000;
    /// Sizes of the header of the file and of its one segment (System V ABI, "ELF header" and "Program header").
    const HEADERS: (u16, u16) = (64, 56);
    // mov eax, 34 (pause(2)); syscall; and again.
    const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
    let begin = u64::from(HEADERS.0 + HEADERS.1);
    let size = begin + CODE.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable file for x86-64, version 1.
    elf.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
    // Its entry, its segments, no sections.
    for number in [BASE + begin, u64::from(HEADERS.0), 0] {
        elf.extend(number.to_le_bytes());
    }
    elf.extend([0; 4]);
    for number in [HEADERS.0, HEADERS.1, 1, 0, 0, 0] {
        elf.extend(number.to_le_bytes());
    }
    // Loaded as a whole, to be read and executed.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(number.to_le_bytes());
    }
    elf.extend(CODE);
    elf
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_holds_a_pod_runs_until_it_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pause");
        std::fs::write(&path, pause()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Another test that forks meanwhile may hold the file open for writing (ETXTBSY) for a moment.
        let mut child = loop {
            match std::process::Command::new(&path).spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                spawned => break spawned.unwrap(),
            }
        };
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }

    #[test]
    fn the_archive_is_an_image_layout() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("images.tar");
        let image = Image {
            names: vec!["registry.k8s.io/a:1".to_owned(), "registry.k8s.io/b:2".to_owned()],
            path: "usr/local/bin/a".to_owned(),
            content: Content::Bytes(b"program".to_vec()),
        };
        pack(&[image], &archive).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(std::fs::File::open(&archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(path, content);
        }
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let content = &files[&format!("blobs/sha256/{digest}")];
            assert_eq!(hex::encode(Sha256::digest(content)), digest);
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let parsed = |content: &Vec<u8>| serde_json::from_slice::<Value>(content).unwrap();
        let index = parsed(&files["index.json"]);
        let manifests = index["manifests"].as_array().unwrap();
        let names: Vec<&Value> = manifests.iter().map(|found| &found["annotations"][NAME]).collect();
        assert_eq!(names, ["registry.k8s.io/a:1", "registry.k8s.io/b:2"]);
        let manifest = parsed(blob(&manifests[1]));
        let config = parsed(blob(&manifest["config"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let layer = blob(&manifest["layers"][0]).clone();
        let mut layer = tar::Archive::new(layer.as_slice());
        let entries = layer.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), entry.size())
        });
        assert_eq!(
            entries.collect::<Vec<_>>(),
            [("tmp/".to_owned(), 0o1777, 0), ("usr/local/bin/a".to_owned(), 0o755, 7)]
        );
    }
}

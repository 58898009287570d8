//! What rows have in common: a server, an image, and a host that is brought from one state to the next.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ferric_api::BareMetalHost;
use ferric_api::host::ProvisioningState as State;
use ferric_testbed::lab::domain::{DiskBus, DiskSpec, ServerSpec};
use ferric_testbed::lab::images::tiny_system;
use ferric_testbed::lab::stack::{Story, wait_for};
use ferric_testbed::lab::{ADDRESS, LabBuilder, LabStack, Server, wait_for_serial};
use ferric_testbed::stack::ImageServer;
use ferric_testbed::stack::disk::{holds_image, sha256};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::lab::at;
pub use crate::lab::{HOST, NAMESPACE, done, error, state, waits_for};

pub const MIB: u64 = 1 << 20;
/// Small, so that every byte of it is soon read.
pub const DISK: u64 = 256 * MIB;
pub const LIMIT: Duration = Duration::from_secs(420);
pub const ROW_LIMIT: Duration = Duration::from_secs(1200);

pub fn disk(bus: DiskBus, serial: &str) -> DiskSpec {
    DiskSpec { bus, size: DISK, serial: serial.to_owned(), broken_sector: None }
}

pub fn server() -> ServerSpec {
    ServerSpec {
        disks: vec![disk(DiskBus::Virtio, "disk-a")],
        // Without a hint no disk as small as this one is chosen.
        hints: vec![("serialNumber".to_owned(), "disk-a".to_owned())],
        memory: 1024,
        ..ServerSpec::new(HOST)
    }
}

/// A lab without Cluster API, whose image is the tiny system.
pub async fn lab(servers: Vec<ServerSpec>) -> LabBuilder {
    let image = done(tiny_system().await);
    LabStack::builder().servers(servers).cluster_api(false).image(image)
}

/// The same with a file of one's own as image.
pub fn lab_with(image: PathBuf, servers: Vec<ServerSpec>) -> LabBuilder {
    LabStack::builder().servers(servers).cluster_api(false).image(image)
}

/// What a host is asked to become.
pub struct Wanted {
    pub url: String,
    pub sha256: String,
    pub format: &'static str,
}

impl Wanted {
    /// The image that the lab serves.
    pub fn served(stack: &LabStack) -> Self {
        Self { url: stack.image.url.clone(), sha256: stack.image.sha256.clone(), format: stack.format }
    }

    /// A file that a server of its own serves.
    pub async fn of(file: &Path, format: &'static str) -> (ImageServer, Self) {
        let server = done(ImageServer::start_on(ADDRESS.into(), file).await);
        let wanted = Self { url: server.url(), sha256: sha256(file).unwrap(), format };
        (server, wanted)
    }
}

/// A host, and what it was last seen at.
pub struct Row {
    pub stack: LabStack,
    pub story: Story,
}

impl Row {
    pub async fn start(builder: LabBuilder) -> Self {
        Self { stack: done(builder.start().await), story: Story::default() }
    }

    pub fn server(&self) -> &Server {
        done(self.stack.lab.server(HOST))
    }

    pub fn disk(&self, number: usize) -> &Path {
        self.server().disk(number).unwrap()
    }

    fn hosts(&self) -> Api<BareMetalHost> {
        Api::namespaced(self.stack.bed.client(), NAMESPACE)
    }

    pub async fn host(&self) -> BareMetalHost {
        self.hosts().get(HOST).await.unwrap()
    }

    pub async fn patch(&self, patch: Value) {
        self.hosts().patch(HOST, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    pub async fn reach(&mut self, what: &str, wanted: impl Fn(&BareMetalHost) -> bool) -> BareMetalHost {
        crate::lab::reach(&self.stack, &mut self.story, LIMIT, what, wanted).await
    }

    /// Enrols the host and waits until it is cleaned and free.
    pub async fn enrol(&mut self) {
        done(self.stack.bed.apply(&self.server().manifest()).await);
        self.reach("available", |host| state(host) == State::Available).await;
    }

    /// Makes the Secret `user-data` with a marker.
    pub async fn user_data(&self, marker: &str) {
        let user_data = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: user-data, namespace: {NAMESPACE}}}\n\
             stringData: {{userData: \"#cloud-config\\n# {marker}\\n\"}}\n"
        );
        done(self.stack.bed.apply(&user_data).await);
    }

    /// Asks for an image on a host that nobody claimed, with a marker in its user data.
    pub async fn ask_for(&self, marker: &str, wanted: &Wanted) {
        self.user_data(marker).await;
        let image = json!({ "url": wanted.url, "checksum": wanted.sha256, "format": wanted.format });
        self.patch(
            json!({ "spec": { "online": true, "image": image, "userData": { "name": "user-data" } } }),
        )
        .await;
    }

    /// Waits until the tiny system runs and has printed the marker. Returns all that it printed since `from`.
    pub async fn runs(&mut self, marker: &str, from: u64) -> String {
        self.reach("provisioned", |host| state(host) == State::Provisioned).await;
        let server = self.server();
        done(wait_for_serial(server, from, &format!("tiny: user-data: {marker}"), LIMIT).await);
        done(wait_for_serial(server, from, "tiny: done", LIMIT).await);
        self.story.say("the tiny system printed the marker");
        server.serial_from(from)
    }

    /// Has the image written, and waits until it runs.
    pub async fn provision(&mut self, marker: &str, wanted: &Wanted) -> String {
        let from = self.server().serial_end();
        self.ask_for(marker, wanted).await;
        self.runs(marker, from).await
    }

    /// The first disk holds this image, byte for byte but for what depends on the disk's size.
    pub fn holds(&self, image: &Path) {
        let holds = holds_image(self.disk(0), image).unwrap_or_else(|error| panic!("{error}"));
        self.story.say(&format!("the disk holds the image: {} bytes compared", holds.bytes));
    }

    /// Takes the image back and waits until the host is free and off.
    pub async fn release(&mut self) {
        self.take_back().await;
        self.is_free().await;
    }

    /// Takes the image back.
    pub async fn take_back(&self) {
        self.patch(json!({ "spec": { "online": false, "image": null, "userData": null } })).await;
    }

    /// Waits until the host is free and off.
    pub async fn is_free(&mut self) {
        self.reach("free again", |host| {
            let record = host.spec.record.as_ref();
            state(host) == State::Available && record.is_some_and(|record| record.image.is_none())
        })
        .await;
        let server = self.server();
        let off = wait_for("the server to be off", LIMIT, async || match server.is_on().await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        done(off);
    }

    /// Waits for an error of the host that says this; it must not become provisioned.
    pub async fn fails_with(&mut self, parts: &[&str]) -> String {
        let host = self
            .reach(&format!("told of {parts:?}"), |host| {
                assert_ne!(state(host), State::Provisioned, "{}", at(host));
                error(host).is_some_and(|message| parts.iter().all(|part| message.contains(part)))
            })
            .await;
        error(&host).unwrap().to_owned()
    }

    pub async fn stop(self) {
        self.stack.stop().await;
    }
}

/// A counter of the manager; 0 where nothing was counted.
pub async fn counted(stack: &LabStack, series: &str) -> u64 {
    let metrics = done(stack.manager.metrics().await);
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

/// Where in a file a text is first found. Horspool's way, which looks at few of the bytes: the file is a whole disk.
pub fn find(path: &Path, needle: &[u8]) -> Option<u64> {
    let last = needle.len() - 1;
    let mut skip = [needle.len(); 256];
    needle[..last].iter().enumerate().for_each(|(at, byte)| skip[usize::from(*byte)] = last - at);
    let file = std::fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut piece = vec![0; 4 * MIB as usize];
    let mut begin = 0;
    while begin < size {
        let length = usize::try_from((size - begin).min(piece.len() as u64)).unwrap();
        let piece = &mut piece[..length];
        std::os::unix::fs::FileExt::read_exact_at(&file, piece, begin).unwrap();
        let mut at = 0;
        while at + needle.len() <= piece.len() {
            if piece[at..].starts_with(needle) {
                return Some(begin + at as u64);
            }
            at += skip[usize::from(piece[at + last])];
        }
        if begin + length as u64 == size {
            break;
        }
        // What lies across the end of this piece is in the next.
        begin += (length - last) as u64;
    }
    None
}

pub fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Every byte of the file becomes this one.
pub fn fill(path: &Path, byte: u8) {
    let size = path.metadata().unwrap().len();
    let block = vec![byte; MIB as usize];
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    for _ in 0..size / MIB {
        file.write_all(&block).unwrap();
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// The tiny system, made larger by data that no zero and no compression makes small, so that writing it takes a while.
pub async fn large_image(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join("large.raw");
    std::fs::copy(done(tiny_system().await), &path).unwrap();
    let from = path.metadata().unwrap().len();
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    std::io::copy(&mut std::io::Read::take(&mut random, size - from), &mut file).unwrap();
    run("sfdisk", &["--relocate", "gpt-bak-std", path.to_str().unwrap()]);
    path
}

#[test]
fn a_text_is_found_wherever_it_lies() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(9 * MIB).unwrap();
    let text = b"abcabcabd";
    assert_eq!(find(file.path(), text), None);
    // At both ends, and across the end of a piece.
    for at in [0, 1, 4 * MIB - 9, 4 * MIB - 8, 4 * MIB - 1, 4 * MIB, 8 * MIB - 5, 9 * MIB - 9] {
        write_at(file.path(), at, text);
        assert_eq!(find(file.path(), text), Some(at));
        write_at(file.path(), at, &[0; 9]);
    }
    write_at(file.path(), 100, b"abcabcabcabd");
    assert_eq!(find(file.path(), text), Some(103));
}

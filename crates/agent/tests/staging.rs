//! Images that are written before anybody needs them: staged by one agent, and found by another, or not.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ferric_agent::Platform;
use ferric_image::{
    BlockDevice, FileDevice, MemDevice, build_test_image, check_bootable, qcow2_of, read_config_drive,
    read_marker,
};
use ferric_protocol::v1::{
    self, Disk, Inventory, Stage, StageResult, Staged, Task, TaskErrorCode, task::Work, task_result::Outcome,
};
use support::{Agent, Provider, Session, images::Images, options};

const MIB: u64 = 1 << 20;
const DISK: u64 = 32 * MIB;
const IMAGE: u64 = 8 * MIB;

/// A machine with disks of the same size, full of something else, and no firmware variables.
struct Machine {
    folder: tempfile::TempDir,
    disks: Vec<Disk>,
}

impl Machine {
    fn new(names: &[(&str, &str)]) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let disk = |(name, serial): &(&str, &str)| {
            std::fs::write(folder.path().join(name), vec![0xee; DISK as usize]).unwrap();
            Disk {
                name: (*name).into(),
                serial_number: (*serial).into(),
                wwn: if serial.is_empty() { String::new() } else { format!("wwn-{serial}") },
                size_bytes: DISK,
                ..Disk::default()
            }
        };
        let disks = names.iter().map(disk).collect();
        Arc::new(Self { folder, disks })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

impl Platform for Machine {
    fn inventory(&self) -> io::Result<Inventory> {
        Ok(Inventory { system_uuid: "u-1".into(), disks: self.disks.clone(), ..Inventory::default() })
    }

    fn open_disk(&self, name: &str) -> io::Result<Box<dyn BlockDevice>> {
        Ok(Box::new(FileDevice::open(self.path(name))?))
    }
}

fn image(seed: u64) -> Vec<u8> {
    let mut device = MemDevice::new(IMAGE as usize);
    build_test_image(&mut device, seed).unwrap();
    device.to_bytes()
}

fn hints(serial: &str) -> v1::RootDeviceHints {
    v1::RootDeviceHints { serial_number: Some(serial.to_owned()), ..Default::default() }
}

/// A provider, an image server, and an agent that runs on the machine.
struct Bench {
    images: Images,
    session: Session,
    compression: v1::Compression,
    /// Checksum of the image that extents were made from.
    source: String,
    _agent: Agent,
    _provider: Provider,
}

impl Bench {
    async fn start(machine: &Arc<Machine>, file: Vec<u8>, compression: v1::Compression) -> Self {
        let mut provider = Provider::start().await;
        let images = Images::start(file, Some(&provider.pki)).await;
        let agent = Agent::start(&provider, machine.clone(), options());
        let mut session = provider.session().await;
        session.hello().await;
        Self { images, session, compression, source: String::new(), _agent: agent, _provider: provider }
    }

    fn deploy_task(&self, id: &str) -> v1::Deploy {
        match self.images.task(id, self.compression).work {
            Some(Work::Deploy(mut deploy)) => {
                if let Some(image) =
                    deploy.image.as_mut().filter(|_| self.compression == v1::Compression::Extents)
                {
                    // They are named by their checksum, and say themselves what they were made from.
                    image.url = format!("{}/sha256:{}", image.url, image.checksum);
                    image.checksum.clone_from(&self.source);
                }
                deploy
            }
            other => panic!("{other:?}"),
        }
    }

    async fn stage(&mut self, id: &str, serial: Option<&str>) -> StageResult {
        let image = self.deploy_task(id).image;
        let work = Work::Stage(Stage { image, root_device_hints: serial.map(hints) });
        match self.session.complete(&Task { id: id.into(), work: Some(work) }).await {
            Outcome::Stage(result) => result,
            other => panic!("{other:?}"),
        }
    }

    async fn try_deploy(&mut self, id: &str, serial: Option<&str>, staged: Option<Staged>) -> Outcome {
        let mut deploy = self.deploy_task(id);
        deploy.root_device_hints = serial.map(hints);
        deploy.staged = staged;
        deploy.config_drive = Some(v1::ConfigDrive {
            format: v1::ConfigDriveFormat::Nocloud.into(),
            instance_id: "claim-1".into(),
            meta_data: b"instance-id: claim-1\n".to_vec(),
            user_data: b"#cloud-config\n".to_vec(),
            network_data: vec![],
        });
        self.session.complete(&Task { id: id.into(), work: Some(Work::Deploy(deploy)) }).await
    }

    async fn deploy(&mut self, id: &str, serial: Option<&str>, staged: Option<Staged>) -> v1::DeployResult {
        match self.try_deploy(id, serial, staged).await {
            Outcome::Deploy(result) => result,
            other => panic!("{other:?}"),
        }
    }
}

fn staged(result: &StageResult) -> Staged {
    Staged {
        content_hash: result.content_hash.clone(),
        bytes: result.bytes_written,
        root_device: result.root_device.clone(),
        root_serial: result.root_serial.clone(),
        root_wwn: result.root_wwn.clone(),
        same_image: true,
    }
}

/// Whether the disk is as a deploy leaves it.
fn is_deployed(disk: &Path, seed: u64) {
    let mut device = FileDevice::open(disk).unwrap();
    assert_eq!(check_bootable(&mut device).unwrap().len(), 3);
    assert!(read_marker(&mut device).unwrap().unwrap().contains(&format!("seed {seed}")));
    assert_eq!(read_config_drive(&mut device).unwrap().unwrap().user_data, b"#cloud-config\n");
}

fn spoil(disk: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(disk).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[tokio::test]
async fn a_staged_image_is_the_image_alone_and_a_deploy_needs_no_other() {
    let raw = image(42);
    let (extents, source) = qcow2_extents(&raw);
    for (file, compression) in [
        (raw.clone(), v1::Compression::None),
        (zstd::encode_all(&raw[..], 1).unwrap(), v1::Compression::Zstd),
        (extents, v1::Compression::Extents),
    ] {
        let machine = Machine::new(&[("sda", "A")]);
        let mut bench = Bench::start(&machine, file, compression).await;
        bench.source.clone_from(&source);
        let result = bench.stage("stage", None).await;
        assert_eq!((&*result.root_device, &*result.root_serial, &*result.root_wwn), ("sda", "A", "wwn-A"));
        assert_eq!(result.bytes_written, IMAGE);
        assert!(machine.bytes("sda")[..IMAGE as usize] == raw, "no byte is another");
        // No identity, and no table that was fitted to the disk.
        let mut device = FileDevice::open(machine.path("sda")).unwrap();
        assert!(read_config_drive(&mut device).unwrap().is_none());
        assert!(check_bootable(&mut device).is_err());

        let requests = bench.images.requests();
        let deployed = bench.deploy("deploy", None, Some(staged(&result))).await;
        assert!(deployed.kept_staged && deployed.staged_problem.is_empty(), "{deployed:?}");
        assert_eq!((deployed.bytes_read, deployed.bytes_written), (0, IMAGE));
        assert_eq!(deployed.content_hash, result.content_hash);
        assert_eq!(bench.images.requests(), requests, "nothing is fetched");
        is_deployed(&machine.path("sda"), 42);

        // What was deployed is not staged any more: with an identity on it the proof does not hold.
        let again = bench.deploy("again", None, Some(staged(&result))).await;
        assert!(!again.kept_staged && again.staged_problem.contains("does not hold"), "{again:?}");
        assert!(bench.images.requests() > requests);
        is_deployed(&machine.path("sda"), 42);
    }
}

#[tokio::test]
async fn one_byte_that_is_another_makes_it_be_written_in_full() {
    for at in [0, 511, 512, 3 * MIB + 17, IMAGE - 1] {
        let machine = Machine::new(&[("sda", "A")]);
        let mut bench = Bench::start(&machine, image(42), v1::Compression::None).await;
        let result = bench.stage("stage", None).await;
        spoil(&machine.path("sda"), at);
        let deployed = bench.deploy("deploy", None, Some(staged(&result))).await;
        assert!(!deployed.kept_staged, "byte {at}");
        assert!(deployed.staged_problem.contains("sda does not hold"), "{}", deployed.staged_problem);
        assert_eq!(deployed.bytes_read, IMAGE);
        is_deployed(&machine.path("sda"), 42);
    }
}

#[tokio::test]
async fn what_is_said_of_a_disk_is_not_believed() {
    let machine = Machine::new(&[("sda", "A")]);
    let mut bench = Bench::start(&machine, image(42), v1::Compression::None).await;
    let result = bench.stage("stage", None).await;
    let good = staged(&result);
    let table = [
        ("longer", Staged { bytes: good.bytes + 512, ..good.clone() }, "does not hold"),
        ("shorter", Staged { bytes: good.bytes - 512, ..good.clone() }, "does not hold"),
        ("nothing", Staged { bytes: 0, ..good.clone() }, "empty"),
        ("more-than-the-disk", Staged { bytes: DISK + 1, ..good.clone() }, "the disk"),
        ("no-hash", Staged { content_hash: String::new(), ..good.clone() }, "no hash"),
        ("weak-hash", Staged { content_hash: format!("md5:{}", "0".repeat(32)), ..good.clone() }, "no hash"),
        ("other-image", Staged { same_image: false, ..good.clone() }, "another image"),
        ("other-disk", Staged { root_serial: "B".into(), ..good.clone() }, "another disk"),
    ];
    for (id, said, problem) in table {
        let deployed = bench.deploy(id, None, Some(said)).await;
        assert!(!deployed.kept_staged, "{id}");
        assert!(deployed.staged_problem.contains(problem), "{id}: {}", deployed.staged_problem);
        is_deployed(&machine.path("sda"), 42);
        bench.stage(&format!("stage-{id}"), None).await;
    }
    // And what is right is found, after all that.
    assert!(bench.deploy("right", None, Some(good)).await.kept_staged);
}

#[tokio::test]
async fn an_image_that_goes_to_another_disk_leaves_no_twin_behind() {
    for same_image in [true, false] {
        let machine = Machine::new(&[("sda", "A"), ("sdb", "B"), ("sdc", "C")]);
        let mut bench = Bench::start(&machine, image(42), v1::Compression::None).await;
        let result = bench.stage("stage", Some("A")).await;
        let others = machine.bytes("sdc");
        let said = Staged { same_image, ..staged(&result) };
        let deployed = bench.deploy("deploy", Some("B"), Some(said)).await;
        assert!(!deployed.kept_staged && !deployed.staged_problem.is_empty(), "{deployed:?}");
        is_deployed(&machine.path("sdb"), 42);
        assert!(machine.bytes("sda")[..4096].iter().all(|byte| *byte == 0), "nothing starts from it");
        assert!(machine.bytes("sdc") == others, "other disks are not touched");
    }
}

#[tokio::test]
async fn a_disk_that_was_changed_since_is_not_wiped_for_having_been_staged() {
    let machine = Machine::new(&[("sda", "A"), ("sdb", "B")]);
    let mut bench = Bench::start(&machine, image(42), v1::Compression::None).await;
    let result = bench.stage("stage", Some("A")).await;
    spoil(&machine.path("sda"), 5 * MIB);
    let before = machine.bytes("sda");
    let deployed = bench.deploy("deploy", Some("B"), Some(staged(&result))).await;
    assert!(!deployed.kept_staged);
    is_deployed(&machine.path("sdb"), 42);
    assert!(machine.bytes("sda") == before, "it may hold what somebody needs");
}

#[tokio::test]
async fn a_stage_that_failed_leaves_nothing_to_start_from_and_says_no_hash() {
    let machine = Machine::new(&[("sda", "A")]);
    let mut bench = Bench::start(&machine, image(42), v1::Compression::None).await;
    let mut asked = bench.deploy_task("stage").image.unwrap();
    asked.checksum = "ab".repeat(32);
    let work = Work::Stage(Stage { image: Some(asked), root_device_hints: None });
    match bench.session.complete(&Task { id: "stage".into(), work: Some(work) }).await {
        Outcome::Error(error) => assert_eq!(error.code(), TaskErrorCode::ChecksumMismatch),
        other => panic!("{other:?}"),
    }
    assert!(machine.bytes("sda")[..1 << 16].iter().all(|byte| *byte == 0));
    let empty = Task { id: "empty".into(), work: Some(Work::Stage(Stage::default())) };
    match bench.session.complete(&empty).await {
        Outcome::Error(error) => assert_eq!(error.code(), TaskErrorCode::InvalidTask),
        other => panic!("{other:?}"),
    }
}

/// The extents of an image, as the provider's cache has them, and the checksum of the file that they were made from.
fn qcow2_extents(raw: &[u8]) -> (Vec<u8>, String) {
    let file = qcow2_of(raw);
    let hex = hex::encode(ring::digest::digest(&ring::digest::SHA256, &file));
    let checksum = ferric_image::Checksum::new(ferric_image::ChecksumAlgorithm::Sha256, &hex).unwrap();
    let mut image = ferric_image::Qcow2::open(file, u64::MAX).unwrap();
    let mut extents = Vec::new();
    ferric_image::extents::pack(&mut image, &checksum, &mut extents, &mut |_, _| Ok(())).unwrap();
    (extents, hex)
}

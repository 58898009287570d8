//! Damaged and hostile input to everything that is decoded: no panic, no memory or time without bound.
//!
//! Seeds are small real files (`fuzz/corpus/`) and messages made here; inputs are seeds with bytes changed, numbers made
//! extreme, parts cut, doubled or taken from another seed. `FERRIC_FUZZ_CASES` says how many inputs a target gets; the
//! default is a short replay. An input that breaks something is saved, and its path is printed: put it into the corpus.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use ferric_image::{
    BlockDevice, Checksum, Compression, MemDevice, PartitionTable, Qcow2, WipeMode, WriteOptions,
    check_bootable,
    extents::{self, ExtentsReader, Item},
    fit_partition_table,
    gpt::TYPE_LINUX,
    wipe, write_config_drive, write_image,
};
use ferric_protocol::{BootData, BootToken, v1};
use prost::Message;

/// Inputs where nobody says how many.
const REPLAY: u64 = 2_000;
/// No input may take longer: a thousand times what a good one takes in a debug build.
const SLOWEST: Duration = Duration::from_secs(10);
/// What all targets of this process together may have taken at most: buffers are bounded by code, this is the proof.
const MOST_MEMORY: u64 = 1 << 30;

/// xorshift64*: the same inputs every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

const EXTREMES: [u64; 14] = [
    0,
    1,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let length = input.len();
        let at = random.below(length);
        match random.below(12) {
            _ if length == 0 => input = (0..random.below(300)).map(|_| random.next() as u8).collect(),
            0..=3 => input[at] = random.next() as u8,
            4 => input[at] ^= 1 << random.below(8),
            5..=7 => {
                // A number of any width, either way round, mostly where numbers are.
                let width = 1 << random.below(4);
                let at = if random.below(4) == 0 { at } else { at / width * width };
                let value = EXTREMES[random.below(EXTREMES.len())].wrapping_add(random.below(3) as u64);
                let bytes = if random.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
                let part = if random.below(2) == 0 { &bytes[8 - width..] } else { &bytes[..width] };
                let end = length.min(at + width);
                input[at..end].copy_from_slice(&part[..end - at]);
            }
            8 => input.truncate(at),
            9 => {
                let end = length.min(at + random.below(64));
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            10 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let end = other.len().min(from + random.below(600));
                let room = length - at;
                let part = &other[from..end];
                input[at..at + part.len().min(room)].copy_from_slice(&part[..part.len().min(room)]);
            }
            _ => {
                let end = length.min(at + random.below(40));
                input.drain(at..end);
            }
        }
    }
    input
}

fn run(target: &str, mut seeds: Vec<Vec<u8>>, decode: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(corpus).into_iter().flatten().map(|file| file.unwrap().path()).collect();
    files.sort();
    seeds.extend(files.iter().map(|file| fs::read(file).unwrap()));
    let check = |number: u64, input: &[u8]| {
        let begun = Instant::now();
        let fine = catch_unwind(AssertUnwindSafe(|| decode(input))).is_ok();
        let took = begun.elapsed();
        if !fine || took > SLOWEST {
            let path = std::env::temp_dir().join(format!("ferric-fuzz-{target}-{number}"));
            fs::write(&path, input).unwrap();
            panic!(
                "{target}: input {number} {} ({took:?}): {}",
                if fine { "is slow" } else { "panics" },
                path.display()
            );
        }
    };
    seeds.iter().for_each(|seed| check(0, seed));
    let cases = std::env::var("FERRIC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(REPLAY);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let begun = Instant::now();
    for number in 1..=cases {
        check(number, &mutate(&mut random, &seeds));
    }
    let memory = high_water();
    println!(
        "{target}: {cases} inputs in {:.0} s, memory at most {} MiB",
        begun.elapsed().as_secs_f32(),
        memory >> 20
    );
    assert!(memory < MOST_MEMORY, "{target}: {memory} bytes of memory");
}

/// The most memory that this process had so far.
fn high_water() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn go_on(_: ferric_image::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn qcow2() {
    run("qcow2", vec![], |input| {
        let Ok(mut image) = Qcow2::open(input.to_vec(), 256 * 1024) else { return };
        let mut disk = vec![0; image.size() as usize];
        let _ = image.read_at(0, &mut disk);
        let _ = image.next_data(0);
    });
}

/// From a qcow2 file to a disk: whatever can be read of it arrives as it was read.
#[test]
fn qcow2_to_disk() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/qcow2");
    let seeds = fs::read_dir(corpus).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    let source = Checksum::parse(&"77".repeat(32), None).unwrap();
    run("qcow2-to-disk", seeds, |input| {
        let Ok(mut image) = Qcow2::open(input.to_vec(), 64 * 1024) else { return };
        let mut disk = vec![0; image.size() as usize];
        let readable = image.read_at(0, &mut disk).is_ok();
        let mut stream = Vec::new();
        let packed = extents::pack(&mut image, &source, &mut stream, &mut |_, _| Ok(()));
        assert_eq!(packed.is_ok(), readable && !disk.is_empty());
        if let Ok(packed) = packed {
            let mut device = MemDevice::from_bytes(vec![0xa5; disk.len()]);
            let mut options = WriteOptions::new(packed.checksum, Compression::Extents);
            options.block_bytes = 64 * 1024;
            let written = write_image(&mut stream.as_slice(), &mut device, &options, &mut go_on).unwrap();
            assert_eq!(written.content.to_string(), format!("sha256:{}", packed.content_sha256));
            assert_eq!(device.to_bytes(), disk);
        }
    });
}

#[test]
fn extents() {
    let source = Checksum::parse(&"77".repeat(32), None).unwrap();
    let seeds = [512usize, 6000, 70_000].map(|size| {
        let disk: Vec<u8> = (0..size).map(|at| (at / 100) as u8).collect();
        let mut image = Qcow2::open(ferric_image::qcow2_of(&disk), 1 << 20).unwrap();
        let mut stream = Vec::new();
        extents::pack(&mut image, &source, &mut stream, &mut |_, _| Ok(())).unwrap();
        stream
    });
    run("extents", seeds.to_vec(), |input| {
        let mut stream = input;
        let Ok(mut reader) = ExtentsReader::new(&mut stream) else { return };
        while let Ok(Item::Chunk { .. }) = reader.next(&mut stream) {}
    });
}

/// What a download may be, in every packing.
#[test]
fn images() {
    let disk: Vec<u8> = (0..3000usize).map(|at| (at / 100) as u8).collect();
    let seeds = vec![zstd::encode_all(disk.as_slice(), 1).unwrap(), gzip(&disk), xz(&disk), disk];
    let checksum = Checksum::parse(&"77".repeat(32), None).unwrap();
    run("images", seeds, |input| {
        let compression = match input.first() {
            Some(0x28) => Compression::Zstd,
            Some(0x1f) => Compression::Gzip,
            Some(0xfd) => Compression::Xz,
            _ => Compression::None,
        };
        let mut options = WriteOptions::new(checksum.clone(), compression);
        options.block_bytes = 64 * 1024;
        let mut device = MemDevice::new(64 * 1024);
        assert!(
            write_image(&mut &*input, &mut device, &options, &mut go_on).is_err(),
            "the checksum is of nothing"
        );
    });
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, data).unwrap();
    encoder.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    std::io::Write::write_all(&mut encoder, data).unwrap();
    encoder.finish().unwrap()
}

/// A disk with a table, cut to what a table takes.
fn gpt_disk(partitions: u64) -> Vec<u8> {
    let mut device = MemDevice::new(64 * 1024);
    let mut table = PartitionTable::new(&device, uuid::Uuid::from_u128(7)).unwrap();
    for number in 0..partitions {
        let guid = uuid::Uuid::from_u128(u128::from(number) + 20);
        table.add("root", TYPE_LINUX, guid, (34 + number * 8) * 512, 8 * 512).unwrap();
    }
    table.write(&mut device).unwrap();
    device.to_bytes()
}

/// Makes the checksums of the primary table right again: most damage would end at them.
fn mend(disk: &mut [u8]) {
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    if disk.len() < 34 * 512 {
        return;
    }
    let number = |disk: &[u8], at: usize| {
        u32::from_le_bytes([disk[at], disk[at + 1], disk[at + 2], disk[at + 3]]) as usize
    };
    let entries = number(disk, 512 + 80).saturating_mul(number(disk, 512 + 84));
    if let Some(entries) = disk.get(1024..1024usize.saturating_add(entries)) {
        let sum = crc(entries);
        disk[512 + 88..512 + 92].copy_from_slice(&sum);
    }
    let size = number(disk, 512 + 12).clamp(92, 512);
    disk[512 + 16..512 + 20].fill(0);
    let sum = crc(&disk[512..512 + size]);
    disk[512 + 16..512 + 20].copy_from_slice(&sum);
}

#[test]
fn gpt() {
    run("gpt", vec![gpt_disk(0), gpt_disk(1), gpt_disk(5)], |input| {
        let mut disk = input.to_vec();
        // Bytes of boot code, which no table has a use for.
        if disk.get(20).is_some_and(|byte| byte % 4 != 3) {
            mend(&mut disk);
        }
        let mut device = MemDevice::from_bytes(disk);
        let _ = check_bootable(&mut device);
        if let Ok(table) = PartitionTable::read_primary(&mut device) {
            let inside = |p: &ferric_image::Partition| p.start + p.length <= device.size();
            assert!(table.partitions().iter().all(inside));
        }
        let _ = fit_partition_table(&mut device);
        let _ = write_config_drive(&mut device, &ferric_image::ConfigDrive::default());
        // Reading back takes longer than all the rest.
        if input.get(30).is_some_and(|byte| byte % 8 == 0) && input.len() % 8 == 0 {
            let _ = wipe(&mut device, WipeMode::Metadata, &mut go_on);
        }
    });
}

#[test]
fn boot_data() {
    let token = BootToken { host: "default/h1".into(), boot_number: 3, expires: 2_000_000_000 };
    let token = token.mint(b"a key that nobody knows: 32 bytes").unwrap();
    let boot =
        BootData::new("https://[2001:db8::1]:8443/x", &"ab".repeat(32), &token, 1_800_000_000).unwrap();
    let line = format!("BOOT_IMAGE=/vmlinuz console=ttyS0 {} name=\"a b\"", boot.to_kernel_args());
    let seeds = vec![line.into_bytes(), token.into_bytes(), Vec::new()];
    run("boot-data", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        if let Ok(boot) = BootData::parse(&text) {
            assert_eq!(BootData::parse(&boot.to_kernel_args()), Ok(boot));
        }
        let _ = BootToken::verify(b"a key that nobody knows: 32 bytes", &text, 1_900_000_000);
    });
}

/// Whatever decodes is the same after it was encoded again.
fn again<M: Message + Default + PartialEq>(input: &[u8]) {
    if let Ok(message) = M::decode(input) {
        assert!(M::decode(message.encode_to_vec().as_slice()).unwrap() == message);
    }
}

#[test]
fn messages() {
    let disk = v1::Disk { name: "/dev/sda".into(), size_bytes: 1 << 40, ..v1::Disk::default() };
    let inventory =
        v1::Inventory { system_uuid: "u".into(), disks: vec![disk; 3], ..v1::Inventory::default() };
    let result = v1::TaskResult {
        task_id: "t".into(),
        outcome: Some(v1::task_result::Outcome::Inspect(v1::InspectResult {
            inventory: Some(inventory.clone()),
        })),
    };
    let agent = v1::AgentMessage { body: Some(v1::agent_message::Body::Result(result)) };
    let hello =
        v1::Hello { agent_version: "1".into(), finished: vec!["a".into(); 3], ..v1::Hello::default() };
    let hello = v1::AgentMessage { body: Some(v1::agent_message::Body::Hello(hello)) };
    let drive =
        v1::ConfigDrive { instance_id: "i".into(), user_data: vec![1; 50], ..v1::ConfigDrive::default() };
    let deploy =
        v1::Deploy { config_drive: Some(drive), image: Some(v1::Image::default()), ..v1::Deploy::default() };
    let task = v1::Task { id: "t".into(), work: Some(v1::task::Work::Deploy(deploy)) };
    let provider = v1::ProviderMessage { body: Some(v1::provider_message::Body::Task(task)) };
    let register =
        v1::RegisterRequest { protocol_version: 1, boot_token: "x".into(), inventory: Some(inventory) };
    let seeds = vec![
        agent.encode_to_vec(),
        hello.encode_to_vec(),
        provider.encode_to_vec(),
        register.encode_to_vec(),
    ];
    run("messages", seeds, |input| {
        again::<v1::AgentMessage>(input);
        again::<v1::ProviderMessage>(input);
        again::<v1::RegisterRequest>(input);
        again::<v1::RegisterResponse>(input);
    });
}

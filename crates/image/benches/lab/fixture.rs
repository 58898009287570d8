//! The image: a third noise, a third text, a third zeros, in runs of some megabytes; always the same bytes.

use std::{
    fs::{self, File},
    io::{BufWriter, Read, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use ring::digest;

use crate::Result;

const WORDS: [&str; 24] = [
    "server",
    "kernel",
    "the",
    "of",
    "network",
    "boot",
    "address",
    "/usr/lib/",
    "\n",
    "a",
    "and",
    "error",
    "0x",
    "device",
    "static",
    "return",
    ";\n",
    "interface",
    "=",
    "image",
    "linux-",
    "x86_64",
    "(",
    ")",
];

/// Bytes of one run; odd against chunks and blocks.
const RUN: usize = (5 << 20) + 12 * 1024;

/// The image in all its forms.
#[derive(Debug)]
pub struct Fixture {
    pub bytes: u64,
    pub raw: PathBuf,
    pub zst: PathBuf,
    pub qcow2: PathBuf,
    /// Written by the first case.
    pub extents: PathBuf,
}

impl Fixture {
    /// Makes what is not there yet.
    pub fn make(folder: &Path, mib: usize) -> Result<Self> {
        let path = |end: &str| folder.join(format!("image-{mib}.{end}"));
        let fixture = Self {
            bytes: (mib as u64) << 20,
            raw: path("raw"),
            zst: path("raw.zst"),
            qcow2: path("qcow2"),
            extents: path("extents"),
        };
        let Self { raw, zst, qcow2, .. } = &fixture;
        once(raw, |new| write_raw(new, mib << 20))?;
        once(zst, |new| tool("zstd", &["-q", "-f", "-3", "-T0", text(raw), "-o", text(new)]))?;
        once(qcow2, |new| {
            tool("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", text(raw), text(new)])
        })?;
        for file in [raw, zst] {
            once(&checksum_file(file), |new| Ok(fs::write(new, sha256(file)?)?))?;
        }
        Ok(fixture)
    }
}

/// Where the checksum of a file stands.
pub fn checksum_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

/// The checksum of a file of the fixture.
pub fn checksum(file: &Path) -> Result<String> {
    Ok(fs::read_to_string(checksum_file(file))?)
}

/// A path in a command. Ours are UTF-8 as soon as the checkout's path is; else no such file is found.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A file that is there is whole: it was made under another name.
fn once(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    eprintln!("==> making {}", path.display());
    let new = path.with_extension("new");
    make(&new)?;
    Ok(fs::rename(new, path)?)
}

fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program).args(arguments).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {arguments:?}: {status}").into()),
        Err(error) => Err(format!("{program}: {error} (Debian: apt-get install zstd qemu-utils)").into()),
    }
}

fn write_raw(path: &Path, size: usize) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut run, mut done) = (Vec::with_capacity(RUN + 16), 0);
    for number in 0.. {
        if done == size {
            break;
        }
        run.clear();
        match number % 3 {
            0 => (0..RUN / 8).for_each(|_| run.extend_from_slice(&random().to_le_bytes())),
            1 => {
                while run.len() < RUN {
                    let word = random();
                    run.extend_from_slice(WORDS[(word % WORDS.len() as u64) as usize].as_bytes());
                    // Some number now and then, as in logs and binaries.
                    if word >> 61 == 0 {
                        write!(run, " {} ", word >> 40 & 0xffff)?;
                    }
                }
            }
            _ => run.resize(RUN, 0),
        }
        let length = run.len().min(RUN).min(size - done);
        out.write_all(&run[..length])?;
        done += length;
    }
    Ok(out.flush()?)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut block) = (digest::Context::new(&digest::SHA256), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => break,
            count => hasher.update(&block[..count]),
        }
    }
    Ok(hex::encode(hasher.finish()))
}

//! `ferric bmc console`: the terminal of whoever types, and the server's serial port.

use std::io::{Read, Write};

use anyhow::{Context, bail};
use ferric_api::{BmcAddress, BmcScheme};
use ferric_bmc::{ConnectOptions, Console, ConsoleInput, open_console};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

use super::{ConsoleArguments, credentials};

/// What is told at `~?`, as `ipmitool` has it.
const HELP: &str = "\r\n~.  leave\r\n~B  send a break\r\n~~  send ~\r\n~?  this\r\n";

/// Runs until one side ends it.
pub(super) async fn run(arguments: ConsoleArguments) -> anyhow::Result<()> {
    let address: BmcAddress = arguments.address.parse()?;
    if address.scheme() != BmcScheme::Ipmi {
        bail!(
            "{address} is no IPMI address, and only those have a serial console: write ipmi://{}",
            address.host()
        );
    }
    let by_pipe = arguments.login.password_file.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if by_pipe {
        bail!("--password-file - takes the input of the console: give a file, or FERRIC_BMC_PASSWORD");
    }
    let options = ConnectOptions {
        address,
        credentials: credentials(&arguments.login, std::env::var("FERRIC_BMC_PASSWORD").ok())?,
        ca_pem: None,
        certificate_sha256: None,
        insecure: false,
    };
    let console = open_console(&options, arguments.take).await?;
    eprint!("console of {}; ~. at the beginning of a line leaves it\r\n", options.address.host());
    let raw = Raw::new().context("the terminal")?;
    let outcome = carry(console).await;
    drop(raw);
    eprintln!();
    outcome
}

/// Carries characters both ways.
async fn carry(console: Console) -> anyhow::Result<()> {
    let Console { input, mut output } = console;
    let mut typed = keyboard();
    let mut keys = Keys::default();
    let mut input = Some(input);
    let mut screen = std::io::stdout();
    loop {
        tokio::select! {
            read = typed.recv(), if input.is_some() => {
                let Some(read) = read else {
                    // The end of a pipe: what was typed is still sent.
                    input = None;
                    continue;
                };
                for heard in keys.press(&read) {
                    let told = match heard {
                        Heard::Leave => {
                            input = None;
                            break;
                        }
                        Heard::Help => {
                            eprint!("{HELP}");
                            continue;
                        }
                        Heard::Break => ConsoleInput::Break,
                        Heard::Characters(characters) => ConsoleInput::Characters(characters),
                    };
                    if let Some(sender) = &input && sender.send(told).await.is_err() {
                        input = None;
                    }
                }
            }
            shown = output.recv() => match shown {
                None => return Ok(()),
                Some(shown) => {
                    screen.write_all(&shown?)?;
                    screen.flush()?;
                }
            }
        }
    }
}

/// What is typed. The thread waits for a key when all else has ended, and ends with the process.
fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer.get(..count).unwrap_or_default().to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A terminal that gives each key at once and shows nothing by itself; as it was again when dropped.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn new() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// What keys mean.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Characters(Vec<u8>),
    Break,
    Help,
    Leave,
}

/// Where in a line the keyboard is: `~` means something at its beginning only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Keys {
    #[default]
    Begin,
    Tilde,
    Inside,
}

impl Keys {
    /// Takes keys. What comes after a word to leave is dropped.
    fn press(&mut self, keys: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut plain = Vec::new();
        for &key in keys {
            let (next, means) = match (*self, key) {
                (Self::Begin, b'~') => (Self::Tilde, None),
                (Self::Tilde, b'.') => (Self::Begin, Some(Heard::Leave)),
                (Self::Tilde, b'B') => (Self::Begin, Some(Heard::Break)),
                (Self::Tilde, b'?') => (Self::Begin, Some(Heard::Help)),
                (Self::Tilde, b'~') => {
                    plain.push(key);
                    (Self::Inside, None)
                }
                (before, _) => {
                    if before == Self::Tilde {
                        plain.push(b'~');
                    }
                    plain.push(key);
                    (if matches!(key, b'\r' | b'\n') { Self::Begin } else { Self::Inside }, None)
                }
            };
            *self = next;
            if let Some(means) = means {
                if !plain.is_empty() {
                    heard.push(Heard::Characters(std::mem::take(&mut plain)));
                }
                let leaves = means == Heard::Leave;
                heard.push(means);
                if leaves {
                    return heard;
                }
            }
        }
        if !plain.is_empty() {
            heard.push(Heard::Characters(plain));
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_means_something_at_the_beginning_of_a_line() {
        let characters = |text: &str| Heard::Characters(text.into());
        let pressed = |keys: &str| Keys::default().press(keys.as_bytes());
        assert_eq!(pressed("ls\r"), [characters("ls\r")]);
        assert_eq!(pressed("a~.b"), [characters("a~.b")]);
        assert_eq!(pressed("ls\r~.rest"), [characters("ls\r"), Heard::Leave]);
        assert_eq!(pressed("~B~?x"), [Heard::Break, Heard::Help, characters("x")]);
        assert_eq!(pressed("~~.\n~x"), [characters("~.\n~x")]);
        assert_eq!(pressed("~"), []);
        // Key by key it is the same.
        let mut keys = Keys::default();
        let one_by_one: Vec<Heard> = "\r~.".bytes().flat_map(|key| keys.press(&[key])).collect();
        assert_eq!(one_by_one, [characters("\r"), Heard::Leave]);
    }
}

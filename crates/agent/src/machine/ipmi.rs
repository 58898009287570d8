//! The machine's own BMC: its drivers are loaded and it is asked in the background, from the start on, while the network
//! comes up. The inventory waits for it, but not for long.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use ferric_agent::ipmi::{self, Ask, AskError, commands::Request, device::LONGEST_ANSWER};
use ferric_protocol::v1::InBandBmc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{console::say, ioctl, modules::Apart};

/// The first IPMI device, which is the BMC of the machine.
const DEVICE: &str = "/dev/ipmi0";
/// How long the device may take to appear once its drivers are loaded.
const APPEARS: Duration = Duration::from_secs(3);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(100);
/// How long the inventory waits for all of it, from the start on.
const WHOLE: Duration = Duration::from_secs(30);

/// What the BMC says, now or soon.
#[derive(Debug)]
pub(super) struct Bmc {
    told: Mutex<Told>,
    until: Instant,
}

#[derive(Debug)]
enum Told {
    Reading(mpsc::Receiver<InBandBmc>),
    Done(InBandBmc),
}

impl Bmc {
    /// Begins to ask. `drivers`: `None` where the initramfs has no modules for this kernel.
    pub(super) fn start(drivers: Option<Apart>) -> Self {
        let (done, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name("ipmi".to_owned()).spawn(move || {
            let found = look(drivers.as_ref(), Path::new(DEVICE));
            say(&match found.problem.as_str() {
                "" => "the BMC was asked what it is".to_owned(),
                problem => format!("not all is known of the BMC: {problem}"),
            });
            // Nobody waits for it any more: the machine is ending.
            let _ = done.send(found);
        });
        let told = match thread {
            Ok(_) => Told::Reading(told),
            Err(error) => Told::Done(problem(format!("no thread to ask the BMC in: {error}"))),
        };
        Self { told: Mutex::new(told), until: Instant::now() + WHOLE }
    }

    /// What it said. Waits for that until the time is over; what comes later is there the next time.
    pub(super) fn facts(&self) -> InBandBmc {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match &*told {
            Told::Done(found) => return found.clone(),
            Told::Reading(reading) => {
                reading.recv_timeout(self.until.saturating_duration_since(Instant::now()))
            }
        };
        match found {
            Ok(found) => {
                *told = Told::Done(found.clone());
                found
            }
            Err(mpsc::RecvTimeoutError::Timeout) => problem(format!(
                "the BMC, or its driver, does not come to an end within {} s",
                WHOLE.as_secs()
            )),
            Err(mpsc::RecvTimeoutError::Disconnected) => problem("asking the BMC failed".to_owned()),
        }
    }
}

fn problem(problem: String) -> InBandBmc {
    InBandBmc { problem, ..InBandBmc::default() }
}

fn look(drivers: Option<&Apart>, device: &Path) -> InBandBmc {
    if !device.exists() {
        match drivers {
            None => return problem("this kernel has no IPMI device".to_owned()),
            Some(drivers) if !drivers.has => {
                let flavour =
                    "the agent's kernel has no IPMI drivers: use an agent image of flavour hardware";
                return problem(flavour.to_owned());
            }
            Some(drivers) if drivers.is_empty() => {
                return problem("the firmware names no BMC to the operating system".to_owned());
            }
            Some(drivers) => drivers.load(),
        }
        let begin = Instant::now();
        while !device.exists() {
            if begin.elapsed() >= APPEARS {
                return problem("no IPMI driver finds the BMC that the firmware names".to_owned());
            }
            std::thread::sleep(LOOK);
        }
    }
    match File::options().read(true).write(true).open(device) {
        Ok(file) => ipmi::read(&mut Device { file, number: 0 }),
        Err(error) => problem(format!("{} cannot be opened: {error}", device.display())),
    }
}

/// The kernel's IPMI device.
struct Device {
    file: File,
    /// Number of the last request.
    number: i64,
}

impl Ask for Device {
    fn ask(&mut self, request: &Request, patience: Duration) -> Result<Vec<u8>, AskError> {
        self.number += 1;
        ioctl::ipmi_send(&self.file, request, self.number)?;
        let begin = Instant::now();
        let mut data = [0; LONGEST_ANSWER];
        loop {
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(AskError::Silent(patience));
            }
            let mut wanted = [PollFd::new(&self.file, PollFlags::IN)];
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut wanted, Some(&left)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) if wanted[0].revents().contains(PollFlags::IN) => {}
                Ok(_) => return Err(io::Error::other("it is gone").into()),
                Err(error) => return Err(io::Error::from(error).into()),
            }
            match ioctl::ipmi_receive(&self.file, request, self.number, &mut data) {
                Ok(Some(length)) => return Ok(data[..length].to_vec()),
                // Late, and the answer to something else.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_machine_without_a_bmc_says_so_at_once() {
        let nowhere = Path::new("/nowhere/ipmi0");
        let begin = Instant::now();
        for (drivers, expected) in [
            (None, "no IPMI device"),
            (Some(Apart::default()), "flavour hardware"),
            (Some(Apart { has: true, ..Apart::default() }), "names no BMC"),
        ] {
            let found = look(drivers.as_ref(), nowhere);
            assert!(found.problem.contains(expected), "{}", found.problem);
            assert_eq!(found, problem(found.problem.clone()));
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn what_is_no_ipmi_device_is_told_and_not_waited_for() {
        let found = look(None, Path::new("/dev/null"));
        assert!(found.problem.contains("the kernel's IPMI device fails"), "{}", found.problem);
    }

    #[test]
    fn facts_come_when_they_are_there_and_are_kept() {
        let (done, told) = mpsc::channel();
        let late = Instant::now() + Duration::from_millis(10);
        let bmc = Bmc { told: Mutex::new(Told::Reading(told)), until: late };
        assert!(bmc.facts().problem.contains("does not come to an end"));
        done.send(problem("p".to_owned())).unwrap();
        drop(done);
        assert_eq!((bmc.facts().problem.as_str(), bmc.facts().problem.as_str()), ("p", "p"));
    }
}

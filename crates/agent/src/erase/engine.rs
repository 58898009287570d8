//! One method after the other, until one has worked and was verified.

use std::{
    ops::ControlFlow,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use ferric_image::{BlockDevice, Markers, Progress, Stage, WipeError, WipeMode, deallocate, wipe};

use super::{
    ata,
    drive::{CommandError, Drive, Interface},
    evidence::{Attempt, Evidence},
    method::{Candidate, Facts, Method, methods},
    nvme::{self, AdminCommand, Controller, FormatErase, LbaFormat, SanitizeAction},
    security::{self, EraseFailed, Released},
};

/// The longest that any sanitize is waited for.
pub(super) const LONGEST_SANITIZE: Duration = Duration::from_secs(7 * 24 * 3600);
/// After the time of a command is over the kernel resets the drive. It is not said to be alive for longer than that.
const AFTER_TIMEOUT: Duration = Duration::from_secs(300);

/// How often the drive is asked, and how often it is said that it still works.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks.
    pub look: Duration,
    /// Bounds every wait for a sanitize from above.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { look: Duration::from_secs(5), longest: LONGEST_SANITIZE }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is being done.
    pub method: Method,
    /// In bytes of the drive; of an erase by the drive itself what it says, or what can be told from the time it said.
    pub progress: Progress,
}

/// Why a drive is not clean.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// No method worked; the last one is always overwriting.
    #[error("{error}{}", tried(.attempts))]
    Wipe {
        /// What became of the last one.
        error: WipeError,
        /// What became of those before.
        attempts: Vec<Attempt>,
    },
    /// A password is set that is not ours.
    #[error(
        "the drive is locked with an ATA password that is not ours; unlock it with that password, or have it erased by \
         its maker's tool"
    )]
    Foreign,
    /// Our own password could not be taken off.
    #[error(
        "the drive is locked with the ATA user password \"{password}\" and did not let it be taken off ({why}); the next \
         agent that boots on the machine tries again",
        password = String::from_utf8_lossy(ata::PASSWORD)
    )]
    Locked {
        /// What the drive said.
        why: String,
    },
    /// A sanitize does not come to its end.
    #[error(
        "the drive sanitizes itself and cannot be used: {0}; it goes on by itself, and cleaning waits for it again"
    )]
    Busy(String),
}

fn tried(attempts: &[Attempt]) -> String {
    let parts: Vec<String> = attempts.iter().map(|a| format!("{}: {}", a.method, a.reason)).collect();
    if parts.is_empty() { String::new() } else { format!("; before that, {}", parts.join("; ")) }
}

/// Why one method did not work.
pub(super) enum Failed {
    /// The next one may.
    Next(String),
    /// None will.
    Final(EraseError),
}

impl From<CommandError> for Failed {
    fn from(error: CommandError) -> Self {
        Self::Next(error.to_string())
    }
}

/// What an erase tells on its way.
type Observe<'a> = dyn FnMut(Step) -> ControlFlow<()> + 'a;

/// Erases a drive by the strongest method that it has and that can be verified. `device` is the same drive, opened for this
/// process alone and read past the page cache; `seed` is a number that nobody could foresee.
///
/// A sanitize that already goes on (of an agent that is gone) is waited for instead of begun. Where `observe` breaks it
/// off, a sanitize goes on by itself; other commands of the drive are waited for, since nothing could end them.
pub fn full(
    drive: &mut dyn Drive,
    device: &mut dyn BlockDevice,
    seed: u64,
    pace: Pace,
    observe: &mut Observe<'_>,
) -> Result<Evidence, EraseError> {
    let started = Instant::now();
    let mut eraser = Eraser { drive, size: device.size(), pace, observe };
    let mut evidence = eraser.full(device, seed)?;
    evidence.duration = started.elapsed();
    Ok(evidence)
}

pub(super) struct Eraser<'a, 'o> {
    pub(super) drive: &'a mut dyn Drive,
    /// Bytes.
    pub(super) size: u64,
    pub(super) pace: Pace,
    observe: &'a mut Observe<'o>,
}

impl Eraser<'_, '_> {
    fn full(&mut self, device: &mut dyn BlockDevice, seed: u64) -> Result<Evidence, EraseError> {
        let mut attempts = Vec::new();
        if let Some(evidence) = self.resume(device, &mut attempts)? {
            return Ok(evidence);
        }
        if let Ok(Released::Foreign) = security::release(self.drive)
            && security::identify(self.drive).is_ok_and(|identity| identity.locked)
        {
            return Err(EraseError::Foreign);
        }
        let facts = self.facts();
        let mut number = 0;
        for Candidate { method, obstacle } in methods(&facts, self.drive.queue()) {
            if let Some(reason) = obstacle {
                attempts.push(Attempt { method: method.name(), reason });
                continue;
            }
            number += 1;
            // Another seed each time: what is left of the markers of one method is not taken for those of the next.
            let tried = self.try_one(device, method, &facts, seed.wrapping_add(number), &attempts);
            match tried {
                Ok(evidence) => return Ok(evidence),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Next(reason)) => {
                    tracing::warn!(method = method.name(), reason, "this method of erasing did not work");
                    attempts.push(Attempt { method: method.name(), reason });
                }
            }
        }
        // Overwriting is the last one, has no obstacle, and its failure is final.
        Err(EraseError::Busy("there is no method at all".to_owned()))
    }

    fn try_one(
        &mut self,
        device: &mut dyn BlockDevice,
        method: Method,
        facts: &Facts,
        seed: u64,
        attempts: &[Attempt],
    ) -> Result<Evidence, Failed> {
        let so_far = || attempts.to_vec();
        let last = |error| Failed::Final(EraseError::Wipe { error, attempts: so_far() });
        let next = |error| match error {
            WipeError::Cancelled(_) => last(error),
            other => Failed::Next(other.to_string()),
        };
        match method {
            Method::Overwrite => {
                let tell = &mut |progress| (self.observe)(Step { method, progress });
                let wiped = wipe(device, WipeMode::Full, tell).map_err(last)?;
                Ok(Evidence::of_zeros(method, &wiped, so_far()))
            }
            Method::Deallocate => {
                let tell = &mut |progress| (self.observe)(Step { method, progress });
                let wiped = deallocate(device, seed, tell).map_err(next)?;
                Ok(Evidence::of_zeros(method, &wiped, so_far()))
            }
            _ => {
                let markers = Markers::plant(device, seed).map_err(next)?;
                if self.tell(method, 0).is_break() {
                    return Err(next(WipeError::Cancelled(0)));
                }
                self.command(method, facts)?;
                self.verified(device, method, &markers, so_far()).map_err(next)
            }
        }
    }

    /// After an erase by the drive itself.
    pub(super) fn verified(
        &mut self,
        device: &mut dyn BlockDevice,
        method: Method,
        markers: &Markers,
        attempts: Vec<Attempt>,
    ) -> Result<Evidence, WipeError> {
        let gone = markers.expect_gone(device)?;
        // Whatever the drive reads as now, nothing is to take it for a signature.
        let tell = &mut |progress| (self.observe)(Step { method, progress });
        let signatures = wipe(device, WipeMode::Metadata, tell)?;
        Ok(Evidence::of_markers(method, self.size, (markers, gone), &signatures, attempts))
    }

    fn command(&mut self, method: Method, facts: &Facts) -> Result<(), Failed> {
        match (method, facts) {
            (Method::NvmeSanitizeCrypto, _) => self.nvme_sanitize(method, SanitizeAction::CryptoErase),
            (Method::NvmeSanitizeBlock, _) => self.nvme_sanitize(method, SanitizeAction::BlockErase),
            (Method::NvmeFormatCrypto, _) => self.nvme_format(method, FormatErase::Crypto),
            (Method::NvmeFormatUserData, _) => self.nvme_format(method, FormatErase::UserData),
            (Method::AtaSanitizeCrypto, _) => self.ata_sanitize(method, ata::SanitizeAction::CryptoScramble),
            (Method::AtaSanitizeBlock, _) => self.ata_sanitize(method, ata::SanitizeAction::BlockErase),
            (Method::AtaEraseEnhanced, Facts::Ata(identity)) => self.ata_erase(method, identity, true),
            (Method::AtaErase, Facts::Ata(identity)) => self.ata_erase(method, identity, false),
            _ => Err(Failed::Next("it is not a method of this drive".to_owned())),
        }
    }

    // ---- what there is ----

    fn facts(&mut self) -> Facts {
        let interface = self.drive.interface();
        let silent =
            |error: CommandError| Facts::Silent(interface, format!("identifying the drive: {error}"));
        match interface {
            Interface::Nvme { .. } => self.nvme_facts().unwrap_or_else(silent),
            Interface::Ata => security::identify(self.drive).map_or_else(silent, Facts::Ata),
            Interface::Other => Facts::Plain,
        }
    }

    fn nvme_facts(&mut self) -> Result<Facts, CommandError> {
        let mut data = [0; nvme::IDENTIFY_BYTES];
        self.drive.nvme(&AdminCommand::identify_controller(), &mut data)?;
        let controller = Controller::parse(&data);
        let mut list = |command: &AdminCommand| {
            data.fill(0);
            self.drive.nvme(command, &mut data).map(|_| nvme::namespaces(&data))
        };
        let mut namespaces = list(&AdminCommand::active_namespaces()).ok();
        if controller.namespace_management {
            // Those that are attached to another controller, or to none, are erased along with the rest.
            let allocated = list(&AdminCommand::allocated_namespaces()).ok();
            namespaces = namespaces.zip(allocated).map(|(mut all, allocated)| {
                all.extend(allocated);
                all.sort_unstable();
                all.dedup();
                all
            });
        }
        Ok(Facts::Nvme { controller, namespaces: namespaces.map(|all| all.len()) })
    }

    // ---- commands that answer when they are done ----

    fn nvme_format(&mut self, method: Method, erase: FormatErase) -> Result<(), Failed> {
        let Interface::Nvme { namespace } = self.drive.interface() else {
            return Err(Failed::Next("it is no NVMe drive".to_owned()));
        };
        let mut data = [0; nvme::IDENTIFY_BYTES];
        self.drive.nvme(&AdminCommand::identify_namespace(namespace), &mut data)?;
        let command = AdminCommand::format(namespace, LbaFormat::parse(&data), erase);
        let answered = self
            .patiently(method, None, command.timeout(), |drive| drive.nvme(&command, &mut []).map(|_| ()));
        answered?.map_err(|e| Failed::Next(format!("Format NVM: {e}")))
    }

    fn ata_erase(&mut self, method: Method, identity: &ata::Identity, enhanced: bool) -> Result<(), Failed> {
        let failed = |failed| match failed {
            EraseFailed::Harmless(why) => Failed::Next(why),
            EraseFailed::Locked(why) => Failed::Final(EraseError::Locked { why }),
        };
        security::prepare(self.drive).map_err(failed)?;
        let estimate = security::estimate(identity, enhanced);
        let limit = ata::Command::erase_unit(estimate).timeout();
        let erased =
            self.patiently(method, estimate, limit, |drive| security::erase(drive, identity, enhanced));
        erased?.map_err(failed)
    }

    /// Has a thread wait for the drive, and says meanwhile that it is at work: for as long as the command may take, not
    /// longer, so that whoever listens notices a drive that never answers.
    fn patiently<T: Send>(
        &mut self,
        method: Method,
        estimate: Option<Duration>,
        limit: Duration,
        work: impl FnOnce(&mut dyn Drive) -> T + Send,
    ) -> Result<T, Failed> {
        let started = Instant::now();
        let (drive, observe) = (&mut *self.drive, &mut *self.observe);
        let (size, look) = (self.size, self.pace.look);
        thread::scope(|scope| {
            let (sender, done) = channel();
            let worker = scope.spawn(move || {
                let result = work(drive);
                let _ = sender.send(());
                result
            });
            while let Err(RecvTimeoutError::Timeout) = done.recv_timeout(look) {
                let elapsed = started.elapsed();
                if elapsed > limit + AFTER_TIMEOUT {
                    continue;
                }
                let total = estimate.map(|_| size);
                // Never all of it before the drive says so.
                let part = estimate.map_or(0.0, |all| (elapsed.as_secs_f64() / all.as_secs_f64()).min(0.99));
                let progress = Progress { stage: Stage::Wiping, done: (size as f64 * part) as u64, total };
                // Nothing ends such a command; the next thing that can be ended will be.
                let _ = observe(Step { method, progress });
            }
            worker.join().map_err(|_| Failed::Next("the agent failed".to_owned()))
        })
    }

    pub(super) fn tell(&mut self, method: Method, done: u64) -> ControlFlow<()> {
        (self.observe)(Step {
            method,
            progress: Progress { stage: Stage::Wiping, done, total: Some(self.size) },
        })
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;

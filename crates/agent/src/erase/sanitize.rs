//! Sanitizes: begun with one command, they go on in the drive by themselves, through a restart of the machine as well.

use std::{
    thread,
    time::{Duration, Instant},
};

use ferric_image::{BlockDevice, Markers, WipeError};

use super::{
    ata,
    drive::{CommandError, Interface},
    engine::{EraseError, Eraser, Failed, LONGEST_SANITIZE},
    evidence::{Attempt, Evidence},
    method::Method,
    nvme::{self, AdminCommand, SanitizeAction, SanitizeState, SanitizeStatus},
    security,
};

/// A sanitize is waited for three times as long as the drive said, and an hour.
const SANITIZE_GRACE: Duration = Duration::from_secs(3600);
/// A sanitize of which the drive does not say how long it takes.
const UNKNOWN_SANITIZE: Duration = Duration::from_secs(24 * 3600);
/// Answers that fail in a row before a sanitize is given up: controllers are away for a moment now and then.
const PATIENCE: u32 = 10;

/// What a look at a sanitize shows.
enum Look {
    Done,
    Failed(&'static str),
    Running {
        /// Of 65536.
        progress: u16,
        estimate: Option<Duration>,
    },
}

impl Eraser<'_, '_> {
    /// Waits for a sanitize that already goes on; leaves the state after one that failed.
    pub(super) fn resume(
        &mut self,
        device: &mut dyn BlockDevice,
        attempts: &mut Vec<Attempt>,
    ) -> Result<Option<Evidence>, EraseError> {
        let found = match self.drive.interface() {
            Interface::Nvme { .. } => self.nvme_resume(),
            Interface::Ata => self.ata_resume(),
            Interface::Other => return Ok(None),
        };
        let method = match found {
            Ok(None) => return Ok(None),
            Ok(Some(method)) => method,
            Err(Failed::Final(error)) => return Err(error),
            Err(Failed::Next(reason)) => {
                tracing::warn!(reason, "a sanitize of an earlier agent came to nothing");
                attempts.push(Attempt { method: "earlier-sanitize", reason });
                return Ok(None);
            }
        };
        let markers = Markers::of_another(self.size);
        match self.verified(device, method, &markers, attempts.clone()) {
            Ok(evidence) => Ok(Some(evidence)),
            Err(error @ WipeError::Cancelled(_)) => Err(EraseError::Wipe { error, attempts: Vec::new() }),
            Err(error) => {
                attempts.push(Attempt { method: method.name(), reason: error.to_string() });
                Ok(None)
            }
        }
    }

    fn nvme_status(&mut self) -> Result<SanitizeStatus, CommandError> {
        let mut log = [0; nvme::SANITIZE_LOG_BYTES];
        self.drive.nvme(&AdminCommand::sanitize_status(), &mut log)?;
        Ok(SanitizeStatus::parse(&log))
    }

    fn nvme_resume(&mut self) -> Result<Option<Method>, Failed> {
        // A controller without the log has no sanitize.
        let Ok(status) = self.nvme_status() else { return Ok(None) };
        match status.state {
            SanitizeState::Failed => {
                self.nvme_leave_failure();
                Err(Failed::Next("the last sanitize failed".to_owned()))
            }
            SanitizeState::Running => {
                let method = match status.action {
                    Some(SanitizeAction::CryptoErase) => Some(Method::NvmeSanitizeCrypto),
                    Some(SanitizeAction::BlockErase) => Some(Method::NvmeSanitizeBlock),
                    _ => None,
                };
                self.nvme_wait(method.unwrap_or(Method::NvmeSanitizeBlock))?;
                // What somebody else began (overwriting, for one) is waited for and is no evidence.
                Ok(method)
            }
            _ => Ok(None),
        }
    }

    fn nvme_leave_failure(&mut self) {
        let left = self.drive.nvme(&AdminCommand::sanitize(SanitizeAction::ExitFailureMode), &mut []);
        if let Err(error) = left {
            tracing::warn!(%error, "the drive does not leave the state after a failed sanitize");
        }
    }

    pub(super) fn nvme_sanitize(&mut self, method: Method, action: SanitizeAction) -> Result<(), Failed> {
        self.drive
            .nvme(&AdminCommand::sanitize(action), &mut [])
            .map_err(|e| Failed::Next(format!("Sanitize: {e}")))?;
        self.nvme_wait(method)
    }

    fn nvme_wait(&mut self, method: Method) -> Result<(), Failed> {
        self.wait(method, |eraser| {
            let status = eraser.nvme_status()?;
            let seconds = match method {
                Method::NvmeSanitizeCrypto => status.crypto_seconds,
                _ => status.block_seconds,
            };
            let estimate = seconds.map(|seconds| Duration::from_secs(seconds.into()));
            Ok(match status.state {
                SanitizeState::Running => Look::Running { progress: status.progress, estimate },
                SanitizeState::Completed => Look::Done,
                SanitizeState::Failed => Look::Failed("the drive reports that the sanitize failed"),
                SanitizeState::Never => Look::Failed("the drive took the sanitize and did not begin it"),
                SanitizeState::Unknown(_) => Look::Failed("the drive reports a state that there is not"),
            })
        })
        .inspect_err(|failed| {
            if matches!(failed, Failed::Next(_)) {
                self.nvme_leave_failure();
            }
        })
    }

    fn ata_status(&mut self, leave_failure: bool) -> Result<Option<ata::SanitizeState>, CommandError> {
        let registers = self.drive.ata(&ata::Command::sanitize_status(leave_failure), &mut [])?;
        Ok(ata::SanitizeState::of(&registers))
    }

    fn ata_resume(&mut self) -> Result<Option<Method>, Failed> {
        let Ok(identity) = security::identify(self.drive) else { return Ok(None) };
        if !identity.sanitize_crypto && !identity.sanitize_block && !identity.sanitize_overwrite {
            return Ok(None);
        }
        match self.ata_status(false) {
            Ok(Some(ata::SanitizeState::Running(_))) => {
                // The drive does not say which one it is: where it has several, this one is waited for, and is no
                // evidence.
                let method =
                    match (identity.sanitize_crypto, identity.sanitize_block, identity.sanitize_overwrite) {
                        (true, false, false) => Some(Method::AtaSanitizeCrypto),
                        (false, true, false) => Some(Method::AtaSanitizeBlock),
                        _ => None,
                    };
                self.ata_wait(method.unwrap_or(Method::AtaSanitizeBlock))?;
                Ok(method)
            }
            Ok(Some(ata::SanitizeState::Failed)) => {
                let _ = self.ata_status(true);
                Err(Failed::Next("the last sanitize failed".to_owned()))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn ata_sanitize(&mut self, method: Method, action: ata::SanitizeAction) -> Result<(), Failed> {
        let registers = self.drive.ata(&ata::Command::sanitize(action), &mut [])?;
        // STATUS bit 0: error.
        if registers.status & 1 != 0 {
            return Err(Failed::Next(format!(
                "SANITIZE DEVICE: the drive answered with ATA error {:02x}h, reason {:02x}h",
                registers.error,
                registers.lba & 0xff
            )));
        }
        self.ata_wait(method)
    }

    fn ata_wait(&mut self, method: Method) -> Result<(), Failed> {
        let waited = self.wait(method, |eraser| {
            Ok(match eraser.ata_status(false)? {
                Some(ata::SanitizeState::Running(progress)) => Look::Running { progress, estimate: None },
                Some(ata::SanitizeState::Idle) => Look::Done,
                Some(ata::SanitizeState::Failed) => {
                    Look::Failed("the drive reports that the sanitize failed")
                }
                None => Look::Failed("the drive does not say what became of the sanitize"),
            })
        });
        if let Err(Failed::Next(_)) = &waited {
            let _ = self.ata_status(true);
        }
        waited
    }

    /// Looks at a sanitize until it is over. The drive works by itself meanwhile.
    fn wait(
        &mut self,
        method: Method,
        mut look: impl FnMut(&mut Self) -> Result<Look, CommandError>,
    ) -> Result<(), Failed> {
        let started = Instant::now();
        let mut silent = 0;
        loop {
            match look(self) {
                Ok(Look::Done) => return Ok(()),
                Ok(Look::Failed(why)) => return Err(Failed::Next(why.to_owned())),
                Ok(Look::Running { progress, estimate }) => {
                    silent = 0;
                    let done = ((u128::from(self.size) * u128::from(progress)) >> 16) as u64;
                    if self.tell(method, done).is_break() {
                        let error = WipeError::Cancelled(done);
                        return Err(Failed::Final(EraseError::Wipe { error, attempts: Vec::new() }));
                    }
                    let limit = estimate.map_or(UNKNOWN_SANITIZE, |time| time * 3 + SANITIZE_GRACE);
                    let limit = limit.min(LONGEST_SANITIZE).min(self.pace.longest);
                    if started.elapsed() > limit {
                        let text = format!("it is not done after {} s", limit.as_secs());
                        return Err(Failed::Final(EraseError::Busy(text)));
                    }
                }
                Err(error) => {
                    silent += 1;
                    if silent >= PATIENCE {
                        let text = format!("it does not say how far it is ({error})");
                        return Err(Failed::Final(EraseError::Busy(text)));
                    }
                }
            }
            thread::sleep(self.pace.look);
        }
    }
}

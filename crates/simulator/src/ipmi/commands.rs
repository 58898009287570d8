//! What IPMI commands do to a server. Sections are those of the IPMI specification v2.0.

use std::sync::Arc;
use std::time::Instant;

use ferric_bmc::ipmi_server::{Account, Command, Controller, Fate, Settings};
use http::Method;
use serde_json::Value;

use super::facts;
use crate::journal::JournalEvent;
use crate::life::{BootEnabled, BootMode, BootSettings, BootTarget, Power, ResetType};
use crate::rules::Effect;
use crate::server::{Inner, Server};

/// Sessions that a BMC has room for.
const SLOTS: usize = 8;

/// Completion codes (5.2).
mod code {
    pub(super) const DONE: u8 = 0x00;
    /// Of Set and Get System Boot Options (28.12, 28.13) and Get LAN Configuration Parameters (23.2): the parameter is
    /// not supported.
    pub(super) const NO_PARAMETER: u8 = 0x80;
    pub(super) const BUSY: u8 = 0xC0;
    pub(super) const UNKNOWN: u8 = 0xC1;
    pub(super) const BAD_LENGTH: u8 = 0xC7;
    pub(super) const OUT_OF_RANGE: u8 = 0xC9;
    pub(super) const NOT_PRESENT: u8 = 0xCB;
    pub(super) const BAD_FIELD: u8 = 0xCC;
    pub(super) const PRIVILEGE: u8 = 0xD4;
    pub(super) const NOT_NOW: u8 = 0xD5;
    pub(super) const UNSPECIFIED: u8 = 0xFF;
}

/// What goes wrong with an answer on its way.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub(super) wait_ms: u64,
    pub(super) cut: bool,
    pub(super) garbage: bool,
    pub(super) restart_ms: Option<u64>,
}

/// A server as its IPMI sessions see it.
pub(super) struct Face<'a> {
    server: &'a Arc<Server>,
    sessions: usize,
    busy: bool,
    pub(super) trouble: Trouble,
}

impl<'a> Face<'a> {
    pub(super) fn new(server: &'a Arc<Server>, sessions: usize, busy: bool) -> Self {
        Self { server, sessions, busy, trouble: Trouble::default() }
    }
}

impl Controller for Face<'_> {
    fn settings(&self) -> Settings {
        let slots =
            if self.server.lock().faults.session_table_full { self.sessions.min(SLOTS) } else { SLOTS };
        Settings { slots, guid: facts::guid(&self.server.spec), ..Settings::default() }
    }

    fn account(&self, name: &[u8]) -> Option<Account> {
        let spec = &self.server.spec;
        let inner = self.server.lock();
        let password = inner.faults.password.as_ref().unwrap_or(&spec.password);
        (name == spec.username.as_bytes())
            .then(|| Account { password: password.as_bytes().to_vec(), most: 4 })
    }

    fn logged_in(&mut self, ok: bool) {
        let mut inner = self.server.lock();
        inner.journal.push(JournalEvent::Login { ok });
        if ok {
            inner.counters.logins += 1;
        } else {
            inner.counters.refused += 1;
        }
    }

    fn fate(&mut self, command: Command<'_>) -> Fate {
        if self.busy {
            return Fate::Refused(code::BUSY);
        }
        let mut inner = self.server.lock();
        let Inner { faults, rule_counts, .. } = &mut *inner;
        let method = Method::from_bytes(b"IPMI").unwrap_or_default();
        match rule_counts.strike(&faults.rules, &method, &path(command)) {
            None | Some(Effect::Without { .. } | Effect::Merged { .. } | Effect::Trickle { .. }) => {
                Fate::Done
            }
            Some(Effect::Delay { ms }) => {
                self.trouble.wait_ms = ms;
                Fate::Done
            }
            Some(Effect::Status { status, .. }) => Fate::Refused(completion(status)),
            Some(Effect::DoneButStatus { status }) => Fate::DoneButSays(completion(status)),
            Some(Effect::Close) => Fate::Lost,
            Some(Effect::DoneButClose) => Fate::DoneButSilent,
            Some(Effect::DoneButRestart { ms }) => {
                self.trouble.restart_ms = Some(ms);
                Fate::DoneButSilent
            }
            Some(Effect::Truncated) => {
                self.trouble.cut = true;
                Fate::Done
            }
            Some(Effect::NotJson) => {
                self.trouble.garbage = true;
                Fate::Done
            }
        }
    }

    fn command(&mut self, command: Command<'_>) -> Vec<u8> {
        let mut inner = self.server.lock();
        let changes = matches!((command.netfn, command.command), (0x00, 0x02 | 0x04 | 0x08));
        let answer = done(self.server, &mut inner, command);
        if changes {
            inner.counters.writes += 1;
            inner.journal.push(JournalEvent::Write {
                method: "IPMI".to_owned(),
                path: path(command),
                body: Value::from(hex::encode(command.data)),
                status: answer.first().copied().unwrap_or(code::UNSPECIFIED).into(),
            });
        } else {
            inner.counters.reads += 1;
        }
        answer
    }
}

/// A command as rules and the journal name it: `/ipmi/<network function>/<command>`, in hexadecimal digits.
fn path(command: Command<'_>) -> String {
    format!("/ipmi/{:02x}/{:02x}", command.netfn, command.command)
}

/// The completion code that says about what an HTTP status says.
fn completion(status: u16) -> u8 {
    match status {
        401 | 403 => code::PRIVILEGE,
        404 | 405 | 501 => code::UNKNOWN,
        409 | 412 => code::NOT_NOW,
        429 | 503 => code::BUSY,
        _ => code::UNSPECIFIED,
    }
}

fn done(server: &Arc<Server>, inner: &mut Inner, Command { netfn, command, data }: Command<'_>) -> Vec<u8> {
    match (netfn, command, data) {
        // Get Device ID (20.1).
        (0x06, 0x01, _) => facts::device(),
        // Get System GUID (22.14).
        (0x06, 0x37, _) => [&[code::DONE], &facts::guid(&server.spec)[..]].concat(),
        // Get Chassis Status (28.2).
        (0x00, 0x01, _) => {
            let on = matches!(inner.reported_power(Instant::now()), Power::On | Power::PoweringOff);
            vec![code::DONE, u8::from(on), 0, 0]
        }
        // Chassis Control (28.3).
        (0x00, 0x02, &[control]) => vec![chassis_control(server, inner, control & 0x0F)],
        // Chassis Identify (28.5).
        (0x00, 0x04, _) => vec![code::DONE],
        // Set System Boot Options (28.12).
        (0x00, 0x08, &[parameter, ref value @ ..]) => vec![set_boot_option(inner, parameter & 0x7F, value)],
        // Get System Boot Options (28.13).
        (0x00, 0x09, &[5, ..]) => [&[code::DONE, 1, 5], &boot_flags(&inner.life.boot)[..]].concat(),
        (0x00, 0x09, &[_, ..]) => vec![code::NO_PARAMETER],
        // Get LAN Configuration Parameters (23.2), of the one channel.
        (0x0C, 0x02, &[0x01 | 0x0E, parameter, 0, 0]) => match facts::lan(&server.spec, parameter) {
            Some(value) => [&[code::DONE, 0x11], &value[..]].concat(),
            None => vec![code::NO_PARAMETER],
        },
        (0x0C, 0x02, &[_, _, _, _]) => vec![code::BAD_FIELD],
        // Get FRU Inventory Area Info (34.1), Read FRU Data (34.2).
        (0x0A, 0x10, &[0]) => {
            let size = facts::fru(&server.spec).len() as u16;
            [&[code::DONE], &size.to_le_bytes()[..], &[0]].concat()
        }
        (0x0A, 0x11, &[0, low, high, count]) => part(&facts::fru(&server.spec), [low, high], count),
        (0x0A, 0x10 | 0x11, &[_, ..]) => vec![code::NOT_PRESENT],
        // Get SDR Repository Info (33.9), Reserve (33.11), Get SDR (33.12), Get Sensor Reading (35.14).
        (0x0A, 0x20, _) => facts::repository(),
        (0x0A, 0x22, _) => vec![code::DONE, 1, 0],
        (0x0A, 0x23, &[_, _, low, high, offset, count]) => {
            facts::sdr(u16::from_le_bytes([low, high]), offset, count)
                .unwrap_or_else(|| vec![code::NOT_PRESENT])
        }
        (0x04, 0x2D, &[sensor]) => facts::reading(sensor).unwrap_or_else(|| vec![code::NOT_PRESENT]),
        (0x00, 0x02 | 0x08 | 0x09, _) | (0x0C, 0x02, _) | (0x0A, 0x10 | 0x11 | 0x23, _) | (0x04, 0x2D, _) => {
            vec![code::BAD_LENGTH]
        }
        _ => vec![code::UNKNOWN],
    }
}

fn part(bytes: &[u8], offset: [u8; 2], count: u8) -> Vec<u8> {
    match bytes.get(usize::from(u16::from_le_bytes(offset))..) {
        Some(rest) => {
            let part = &rest[..rest.len().min(count.into())];
            [&[code::DONE, part.len() as u8], part].concat()
        }
        None => vec![code::OUT_OF_RANGE],
    }
}

/// Chassis Control (28.3).
fn chassis_control(server: &Arc<Server>, inner: &mut Inner, control: u8) -> u8 {
    let reset = match control {
        0 => ResetType::ForceOff,
        1 => ResetType::On,
        2 => ResetType::PowerCycle,
        3 => ResetType::ForceRestart,
        5 => ResetType::GracefulShutdown,
        _ => return code::BAD_FIELD,
    };
    if inner.life.accepts(reset).is_err() {
        return code::NOT_NOW;
    }
    server.reset(inner, reset);
    code::DONE
}

/// Set System Boot Options (28.12, table 28-14); only the boot flags do anything.
fn set_boot_option(inner: &mut Inner, parameter: u8, value: &[u8]) -> u8 {
    match (parameter, value) {
        (5, &[flags, device, _, _, _]) => {
            let Some(settings) = settings_of(flags, device, &inner.life.boot) else { return code::BAD_FIELD };
            inner.life.boot = settings;
            code::DONE
        }
        (5, _) => code::BAD_LENGTH,
        // Set in progress, the boot flags' valid bits, boot information acknowledged.
        (0 | 3 | 4, _) => code::DONE,
        _ => code::NO_PARAMETER,
    }
}

/// Boot flags (table 28-14, parameter 5): valid, persistent, EFI; and the device.
fn settings_of(flags: u8, device: u8, old: &BootSettings) -> Option<BootSettings> {
    let target = match (device >> 2) & 0x0F {
        0 => BootTarget::None,
        1 => BootTarget::Pxe,
        2 => BootTarget::Hdd,
        5 => BootTarget::Cd,
        _ => return None,
    };
    let enabled = match (flags & 0x80 != 0 && target != BootTarget::None, flags & 0x40 != 0) {
        (false, _) => BootEnabled::Disabled,
        (true, false) => BootEnabled::Once,
        (true, true) => BootEnabled::Continuous,
    };
    let mode = if flags & 0x20 != 0 { BootMode::Uefi } else { BootMode::Legacy };
    // Without flags nothing is said of the mode.
    let mode = if enabled == BootEnabled::Disabled { old.mode } else { mode };
    let http_boot_uri = old.http_boot_uri.clone();
    Some(BootSettings { target, enabled, mode, http_boot_uri, named: None, option: None })
}

fn boot_flags(boot: &BootSettings) -> [u8; 5] {
    let (flags, efi) = match boot.enabled {
        BootEnabled::Disabled => return [0; 5],
        BootEnabled::Once => (0x80, boot.mode),
        BootEnabled::Continuous => (0xC0, boot.mode),
    };
    let device = match boot.target {
        BootTarget::Pxe => 1,
        BootTarget::Hdd => 2,
        BootTarget::Cd => 5,
        // IPMI has no word for it.
        BootTarget::None | BootTarget::UefiHttp => 0,
    };
    [flags | if efi == BootMode::Uefi { 0x20 } else { 0 }, device << 2, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::life::Life;

    #[test]
    fn boot_flags_are_read_back_as_they_were_written() {
        let old = Life::default().boot;
        for flags in [0x80, 0xA0, 0xC0, 0xE0] {
            for device in [0x04, 0x08, 0x14] {
                let settings = settings_of(flags, device, &old).unwrap();
                assert_eq!(boot_flags(&settings), [flags, device, 0, 0, 0]);
            }
        }
        for (flags, device) in [(0, 0x04), (0x80, 0), (0, 0)] {
            let settings = settings_of(flags, device, &old).unwrap();
            assert_eq!((settings.enabled, boot_flags(&settings)), (BootEnabled::Disabled, [0; 5]));
        }
        assert_eq!(settings_of(0x80, 0x3C, &old), None, "floppy");
    }

    #[test]
    fn statuses_have_codes() {
        assert_eq!(
            [401, 404, 409, 429, 500].map(completion),
            [code::PRIVILEGE, code::UNKNOWN, code::NOT_NOW, code::BUSY, code::UNSPECIFIED]
        );
    }
}

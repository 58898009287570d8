//! The BMC's steps of a login: Open Session and RAKP (13.17 to 13.23).

use std::time::Instant;

use super::{Controller, Server, Session, USER, Window};
use crate::ipmi::keys::{Transcript, UserKey, same};
use crate::ipmi::suite::{Algorithms, Suite};
use crate::ipmi::wire::Reader;
use crate::ipmi::wire::packet::{self, Payload};
use crate::ipmi::wire::setup::status;

/// What both sides have said.
#[derive(Debug)]
pub(super) struct Login {
    suite: Suite,
    transcript: Transcript,
}

impl Login {
    /// The console's number of the session.
    pub(super) fn console(&self) -> u32 {
        self.transcript.console_session
    }
}

impl Server {
    pub(super) fn login(
        &mut self,
        kind: Payload,
        body: &[u8],
        now: Instant,
        controller: &mut dyn Controller,
        chance: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Vec<u8>> {
        match kind {
            Payload::OpenSessionRequest => self.open(body, now, controller, chance),
            Payload::Rakp1 => self.rakp1(body, controller, chance),
            Payload::Rakp3 => self.rakp3(body, controller),
            _ => None,
        }
    }

    fn open(
        &mut self,
        body: &[u8],
        now: Instant,
        controller: &dyn Controller,
        chance: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Vec<u8>> {
        let mut reader = Reader::new(body);
        let [tag, most, _, _] = reader.array()?;
        let console = reader.u32()?;
        let mut number = || reader.array::<8>().map(|record| record[4]);
        let wanted =
            Algorithms { authentication: number()?, integrity: number()?, confidentiality: number()? };
        let settings = controller.settings();
        let suite = Suite::ALL
            .into_iter()
            .filter(|suite| settings.suites.contains(&suite.id()))
            .find(|suite| suite.algorithms() == wanted);
        let refusal = match suite {
            None => Some(status::NO_SUITE),
            Some(_) if self.sessions.len() >= settings.slots => Some(status::NO_RESOURCES),
            Some(_) => None,
        };
        let mut out = vec![tag, refusal.unwrap_or(status::OK), most, 0];
        out.extend(console.to_le_bytes());
        if let (None, Some(suite)) = (refusal, suite) {
            let (mut number, mut bmc_random) = ([0; 4], [0; 16]);
            chance(&mut number);
            chance(&mut bmc_random);
            // 0 marks what is outside of a session.
            let bmc = u32::from_le_bytes(number).max(1);
            out.extend(bmc.to_le_bytes());
            out.extend_from_slice(body.get(8..32)?);
            let transcript = Transcript {
                console_session: console,
                bmc_session: bmc,
                console_random: [0; 16],
                bmc_random,
                bmc_guid: settings.guid,
                role: 0,
                username: Vec::new(),
            };
            let session = Session {
                login: Login { suite, transcript },
                keys: None,
                privilege: USER,
                most: 4,
                sequence: 0,
                seen: Window::default(),
                used: now,
                line: None,
            };
            self.sessions.insert(bmc, session);
        }
        Some(packet::plain(Payload::OpenSessionResponse, &out))
    }

    fn rakp1(
        &mut self,
        body: &[u8],
        controller: &mut dyn Controller,
        chance: &mut dyn FnMut(&mut [u8]),
    ) -> Option<Vec<u8>> {
        let mut reader = Reader::new(body);
        let [tag, _, _, _] = reader.array()?;
        let (bmc, random) = (reader.u32()?, reader.array()?);
        let [role, _, _, length] = reader.array()?;
        let name = reader.take(length.into())?;
        // Not of a session that is made already: nobody may take its keys away.
        let Some(session) = self.sessions.get_mut(&bmc).filter(|session| session.sequence == 0) else {
            return Some(packet::plain(Payload::Rakp2, &[tag, status::INVALID_SESSION, 0, 0, 0, 0, 0, 0]));
        };
        let console = session.login.console().to_le_bytes();
        let refuse = |code| {
            let out = [&[tag, code, 0, 0], &console[..]].concat();
            Some(packet::plain(Payload::Rakp2, &out))
        };
        let account = controller.account(name);
        let key = account.and_then(|account| Some((UserKey::new(&account.password)?, account.most)));
        let Some((user, most)) = key else {
            self.sessions.remove(&bmc);
            controller.logged_in(false);
            return refuse(status::UNAUTHORIZED_NAME);
        };
        if role & 0x0F > most {
            self.sessions.remove(&bmc);
            return refuse(status::UNAUTHORIZED_ROLE);
        }
        let Login { suite, transcript } = &mut session.login;
        (transcript.console_random, transcript.role, transcript.username) = (random, role, name.to_vec());
        // Each RAKP 1 gets a number of its own, as in BMCs that take a second sending for another login.
        chance(&mut transcript.bmc_random);
        (session.most, session.keys) = (role & 0x0F, None);
        let mut out = [&[tag, status::OK, 0, 0], &console[..]].concat();
        out.extend(transcript.bmc_random);
        out.extend(transcript.bmc_guid);
        out.extend(transcript.rakp2_code(*suite, &user));
        Some(packet::plain(Payload::Rakp2, &out))
    }

    fn rakp3(&mut self, body: &[u8], controller: &mut dyn Controller) -> Option<Vec<u8>> {
        let mut reader = Reader::new(body);
        let [tag, said, _, _] = reader.array()?;
        let bmc = reader.u32()?;
        if said != status::OK {
            // The console gives up; what is in use is not ended by that.
            if self.sessions.get(&bmc).is_some_and(|session| session.keys.is_none()) {
                self.sessions.remove(&bmc);
            }
            return None;
        }
        let Some(session) = self.sessions.get_mut(&bmc) else {
            return Some(packet::plain(Payload::Rakp4, &[tag, status::INVALID_SESSION, 0, 0, 0, 0, 0, 0]));
        };
        let Login { suite, transcript } = &session.login;
        let user = UserKey::new(&controller.account(&transcript.username)?.password)?;
        let mut out = [&[tag, status::OK, 0, 0], &transcript.console_session.to_le_bytes()[..]].concat();
        let right = same(&transcript.rakp3_code(*suite, &user), reader.rest());
        let first = session.keys.is_none();
        if right {
            let keys = transcript.keys(*suite, &user);
            out.extend(transcript.rakp4_code(&keys));
            session.keys = Some(keys);
        } else {
            out[1] = status::BAD_CODE;
            // What is in use is not ended by somebody who does not know the password.
            if first {
                self.sessions.remove(&bmc);
            }
        }
        if first {
            controller.logged_in(right);
        }
        Some(packet::plain(Payload::Rakp4, &out))
    }
}

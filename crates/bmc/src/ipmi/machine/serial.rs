//! The payloads of a session that are no messages: those of its serial line.

use super::{Machine, State};
use crate::ipmi::keys::BLOCK;
use crate::ipmi::wire::packet::{self, Payload};

/// Payloads of a serial line that wait to be looked at. More are dropped: they are sent again.
const PAYLOADS: usize = 64;

impl Machine {
    /// The next payload of the session's serial line.
    pub(crate) fn next_payload(&mut self) -> Option<Vec<u8>> {
        self.payloads.pop_front()
    }

    /// Sends a payload of the session's serial line. Without a session it is lost, as on a bad network.
    pub(crate) fn send_payload(&mut self, payload: &[u8]) {
        let datagram = self.sealed(Payload::Sol, payload);
        self.out.extend(datagram);
    }

    /// Whether the session encrypts.
    pub(crate) fn encrypts(&self) -> bool {
        matches!(&self.state, State::Up(session) if session.keys.suite().encrypts())
    }

    /// A datagram of the session.
    pub(super) fn sealed(&mut self, kind: Payload, body: &[u8]) -> Option<Vec<u8>> {
        let State::Up(session) = &mut self.state else { return None };
        // A session would live for centuries until it wraps.
        session.sequence = session.sequence.wrapping_add(1).max(1);
        let mut vector = [0; BLOCK];
        self.chance.fill(&mut vector);
        Some(packet::seal_as(kind, &session.keys, session.bmc, session.sequence, vector, body))
    }

    /// Keeps a payload that came, while there is room.
    pub(super) fn keep_payload(&mut self, payload: Vec<u8>) {
        if self.payloads.len() < PAYLOADS {
            self.payloads.push_back(payload);
        }
    }
}

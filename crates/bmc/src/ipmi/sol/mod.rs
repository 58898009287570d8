//! Serial over LAN (15): a server's serial port as a payload of an IPMI session.
//!
//! [`Line`] is one end of it without I/O and clock: characters go in and come out, packets come in and go out. Each
//! direction has one packet under way at a time, which is sent again until it is acknowledged. [`console`] is its shell.

pub(crate) mod console;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::machine::{Privilege, Repeat, Request};
use super::wire::Reader;

/// Network function Application (5.1, table 5-1).
const APP: u8 = 0x06;
/// Activate Payload (24.1).
pub(crate) const ACTIVATE: u8 = 0x48;
/// Deactivate Payload (24.2).
pub(crate) const DEACTIVATE: u8 = 0x49;
/// Payload type SOL (13.27.3, table 13-16).
pub(crate) const SOL: u8 = 0x01;
/// The only instance that is asked for: most BMCs have one (24.1).
const INSTANCE: u8 = 1;
/// Completion code of Activate Payload: it is active already on another session (24.1).
pub(crate) const ALREADY_ACTIVE: u8 = 0x80;
/// Completion code of Activate Payload: the payload type is disabled (24.1).
pub(crate) const DISABLED: u8 = 0x81;

/// Header of a packet: sequence number, number that is acknowledged, characters that are, operation or status (15.9).
pub(crate) const HEADER: usize = 4;
/// Highest sequence number; 0 is that of packets that only acknowledge (15.9).
const NUMBERS: u8 = 15;
/// Until a packet is sent again. BMCs do after 100 ms or so (table 26-5, SOL retry); a console need not hurry.
const AGAIN: Duration = Duration::from_millis(400);
/// How often a packet is sent until the other end is given up.
const TRIES: u32 = 12;
/// Characters that wait to be sent, at most. Beyond that nothing more is taken.
pub(crate) const WAITING: usize = 4096;
/// Characters of one packet, whatever the other end says that it takes: at most 255 can be counted (15.9), and some BMCs
/// tell the number with its bytes swapped.
const PIECE: usize = 200;

/// Bit of operation and status: not acknowledged (15.9).
const NACK: u8 = 0x40;
/// Operation: generate a break (15.9, remote console to BMC).
const BREAK: u8 = 0x10;
/// Status: characters cannot be taken now, e.g. since the system is off (15.9, BMC to remote console).
const UNAVAILABLE: u8 = 0x20;
/// Status: SOL is being, or was, deactivated (15.9, BMC to remote console).
const DEACTIVATED: u8 = 0x10;

/// Asks for the serial port, encrypted and signed where the session is. With `encrypted`: a suite without encryption gets
/// none (24.1: bits 7 and 6 of the first byte of auxiliary data). Alerts of the serial port are left as they are. Which
/// `privilege` is enough is a setting of the BMC (26.3, parameter 2 of table 26-5).
pub(crate) fn activate(encrypted: bool, privilege: Privilege) -> Request {
    let how = if encrypted { 0xC0 } else { 0x40 };
    Request {
        netfn: APP,
        command: ACTIVATE,
        data: vec![SOL, INSTANCE, how, 0, 0, 0],
        privilege,
        repeat: Repeat::Never,
    }
}

/// Lets go of the serial port, whoever has it.
pub(crate) fn deactivate(privilege: Privilege) -> Request {
    Request {
        netfn: APP,
        command: DEACTIVATE,
        data: vec![SOL, INSTANCE, 0, 0, 0, 0],
        privilege,
        repeat: Repeat::Freely,
    }
}

/// What the BMC said to [`activate`] (24.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activated {
    /// Bytes of a packet that the BMC takes, with its header.
    pub(crate) takes: usize,
    /// UDP port that packets go to.
    pub(crate) port: u16,
}

/// Reads an answer to [`activate`]; `None`: it is not whole.
pub(crate) fn activated(data: &[u8]) -> Option<Activated> {
    let mut reader = Reader::new(data);
    let [_, _, _, _] = reader.array()?;
    let (takes, _gives, port) = (reader.u16()?, reader.u16()?, reader.u16()?);
    Some(Activated { takes: takes.into(), port })
}

/// A packet (15.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// 0: nothing that wants to be acknowledged.
    pub(crate) number: u8,
    /// The packet that is acknowledged; 0: none.
    pub(crate) acknowledges: u8,
    /// How many characters of that one were taken.
    pub(crate) accepted: u8,
    /// Operation (to the BMC) or status (from it).
    pub(crate) flags: u8,
    /// The characters.
    pub(crate) data: &'a [u8],
}

impl<'a> Packet<'a> {
    /// As bytes of a payload.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = vec![self.number & 0x0F, self.acknowledges & 0x0F, self.accepted, self.flags];
        bytes.extend_from_slice(self.data);
        bytes
    }

    /// Reads a payload; `None`: it has no header, or more characters than can be counted.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[number, acknowledges, accepted, flags], data) = bytes.split_first_chunk::<HEADER>()?;
        (data.len() <= usize::from(u8::MAX)).then_some(Self {
            number: number & 0x0F,
            acknowledges: acknowledges & 0x0F,
            accepted,
            flags,
            data,
        })
    }
}

/// An acknowledgement and the packet after it as one, where there are both; else the one that there is.
#[cfg_attr(not(any(test, feature = "ipmi-server")), allow(dead_code))]
pub(crate) fn joined(packets: &[Vec<u8>]) -> Option<Vec<u8>> {
    let read = packets.iter().filter_map(|packet| Packet::read(packet));
    let (acknowledgements, data): (Vec<_>, Vec<_>) = read.partition(|packet| packet.number == 0);
    let acknowledgement = acknowledgements.last();
    let mut packet = data.last().or(acknowledgement)?.clone();
    if let Some(with) = acknowledgement {
        (packet.acknowledges, packet.accepted) = (with.acknowledges, with.accepted);
        packet.flags |= with.flags;
    }
    Some(packet.write())
}

/// Which end a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The remote console.
    Console,
    /// The BMC.
    #[cfg_attr(not(any(test, feature = "ipmi-server")), allow(dead_code))]
    Bmc,
}

/// Why a line came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The BMC deactivated the payload: somebody else took it, or it was reset.
    Deactivated,
    /// It acknowledges nothing any more.
    Silent,
}

/// A packet that is under way.
#[derive(Debug)]
struct Flight {
    number: u8,
    data: Vec<u8>,
    flags: u8,
    sent: u32,
    again: Instant,
}

/// One end of a serial line.
#[derive(Debug)]
pub(crate) struct Line {
    end: End,
    /// Characters that the other end takes in a packet.
    takes: usize,
    /// What is to be sent, and whether a break comes before it.
    waiting: VecDeque<u8>,
    breaks: bool,
    flight: Option<Flight>,
    number: u8,
    /// The packet that came last, and how many of its characters were taken.
    came: (u8, usize),
    out: VecDeque<Vec<u8>>,
    received: Vec<u8>,
    broken: bool,
    ended: Option<Ended>,
}

impl Line {
    /// `takes`: bytes that the other end takes in a packet, with the header.
    pub(crate) fn new(end: End, takes: usize) -> Self {
        // At least one character, whatever it says.
        let takes = takes.saturating_sub(HEADER).clamp(1, PIECE);
        Self {
            end,
            takes,
            waiting: VecDeque::new(),
            breaks: false,
            flight: None,
            number: 0,
            came: (0, 0),
            out: VecDeque::new(),
            received: Vec::new(),
            broken: false,
            ended: None,
        }
    }

    /// Takes characters to send; how many. The rest is to be given again when there is room.
    pub(crate) fn write(&mut self, characters: &[u8], now: Instant) -> usize {
        let taken = characters.len().min(self.room());
        self.waiting.extend(characters.iter().take(taken));
        self.go_on(now);
        taken
    }

    /// For how many characters there is room.
    pub(crate) fn room(&self) -> usize {
        WAITING - self.waiting.len().min(WAITING)
    }

    /// Sends a break, before what is written after it.
    pub(crate) fn send_break(&mut self, now: Instant) {
        self.breaks = true;
        self.go_on(now);
    }

    /// Whether all was sent and acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_none() && self.waiting.is_empty() && !self.breaks
    }

    /// The next packet to send.
    pub(crate) fn next_packet(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// What came since the last call.
    pub(crate) fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Whether a break came since the last call.
    #[cfg_attr(not(any(test, feature = "ipmi-server")), allow(dead_code))]
    pub(crate) fn took_break(&mut self) -> bool {
        std::mem::take(&mut self.broken)
    }

    /// Why it is over, if it is.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.flight.as_ref().map(|flight| flight.again)
    }

    /// Sends again what was not acknowledged in time.
    pub(crate) fn tick(&mut self, now: Instant) {
        let Some(flight) = &mut self.flight else { return };
        if now < flight.again {
            return;
        }
        if flight.sent >= TRIES {
            self.ended.get_or_insert(Ended::Silent);
            self.flight = None;
            return;
        }
        flight.sent += 1;
        flight.again = now + AGAIN;
        let packet = Packet {
            number: flight.number,
            acknowledges: 0,
            accepted: 0,
            flags: flight.flags,
            data: &flight.data,
        };
        self.out.push_back(packet.write());
    }

    /// Takes a payload that came.
    pub(crate) fn receive(&mut self, payload: &[u8], now: Instant) {
        let Some(packet) = Packet::read(payload) else { return };
        if self.end == End::Console && packet.flags & DEACTIVATED != 0 {
            self.ended.get_or_insert(Ended::Deactivated);
        }
        if packet.acknowledges != 0 {
            self.acknowledged(&packet, now);
        }
        if packet.number != 0 {
            self.take(&packet);
        }
        self.go_on(now);
    }

    fn acknowledged(&mut self, packet: &Packet<'_>, now: Instant) {
        let Some(flight) = self.flight.take_if(|flight| flight.number == packet.acknowledges) else { return };
        let accepted = usize::from(packet.accepted).min(flight.data.len());
        let refused = packet.flags & NACK != 0;
        if refused && accepted == 0 && self.end == End::Console && packet.flags & UNAVAILABLE != 0 {
            // The system is off, or its port is taken: the same again, in a while.
            self.flight = Some(Flight { again: now + AGAIN, ..flight });
            return;
        }
        if let Some(rest) = flight.data.get(accepted..) {
            // What was not taken goes first in the next packet.
            for character in rest.iter().rev() {
                self.waiting.push_front(*character);
            }
        }
    }

    fn take(&mut self, packet: &Packet<'_>) {
        // One that is sent again may have grown.
        let known = if packet.number == self.came.0 { self.came.1 } else { 0 };
        let first = packet.number != self.came.0;
        self.received.extend_from_slice(packet.data.get(known..).unwrap_or_default());
        self.came = (packet.number, packet.data.len().max(known));
        self.broken |= first && self.end == End::Bmc && packet.flags & BREAK != 0;
        let acknowledgement = Packet {
            number: 0,
            acknowledges: packet.number,
            accepted: u8::try_from(packet.data.len()).unwrap_or(u8::MAX),
            flags: 0,
            data: &[],
        };
        self.out.push_back(acknowledgement.write());
    }

    /// Sends the next characters, if none are under way.
    fn go_on(&mut self, now: Instant) {
        if self.flight.is_some() || self.ended.is_some() || (self.waiting.is_empty() && !self.breaks) {
            return;
        }
        let flags = if std::mem::take(&mut self.breaks) { BREAK } else { 0 };
        // A break stands alone, so that it is not sent again with characters of which some were taken.
        let count = if flags != 0 { 0 } else { self.takes.min(self.waiting.len()) };
        let data: Vec<u8> = self.waiting.drain(..count).collect();
        self.number = self.number % NUMBERS + 1;
        self.flight = Some(Flight { number: self.number, data, flags, sent: 0, again: now });
        self.tick(now);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_and_their_answer() {
        assert_eq!(activate(true, Privilege::User).data, [1, 1, 0xC0, 0, 0, 0]);
        assert_eq!(activate(false, Privilege::User).data[2], 0x40);
        assert_eq!(deactivate(Privilege::User).data, [1, 1, 0, 0, 0, 0]);
        let said = [0, 0, 0, 0, 0xC8, 0x00, 0xC8, 0x00, 0x6F, 0x02, 0xFF, 0xFF];
        assert_eq!(activated(&said), Some(Activated { takes: 200, port: 623 }));
        assert_eq!(activated(&said[..9]), None);
    }

    #[test]
    fn a_refused_packet_goes_on_where_it_was_refused() {
        let now = Instant::now();
        let mut line = Line::new(End::Console, 8);
        assert_eq!(line.write(b"abcdef", now), 6);
        assert_eq!(line.next_packet().unwrap(), [1, 0, 0, 0, b'a', b'b', b'c', b'd']);
        // Two were taken, and the rest comes with the next number.
        line.receive(&[0, 1, 2, NACK], now);
        assert_eq!(line.next_packet().unwrap(), [2, 0, 0, 0, b'c', b'd', b'e', b'f']);
        // None, for the system is off: the same again.
        line.receive(&[0, 2, 0, NACK | UNAVAILABLE], now);
        assert_eq!(line.next_packet(), None);
        line.tick(now + AGAIN);
        assert_eq!(line.next_packet().unwrap()[..4], [2, 0, 0, 0]);
        line.receive(&[0, 2, 4, 0], now);
        assert!(line.is_idle());
    }

    #[test]
    fn ends() {
        let now = Instant::now();
        let mut line = Line::new(End::Console, 0);
        line.receive(&[0, 0, 0, DEACTIVATED], now);
        assert_eq!(line.ended(), Some(Ended::Deactivated));
        let mut line = Line::new(End::Console, 200);
        line.write(b"x", now);
        for n in 1..=TRIES + 1 {
            line.tick(now + AGAIN * n);
        }
        assert_eq!(line.ended(), Some(Ended::Silent));
        assert_eq!(line.write(&[0; 2 * WAITING], now), WAITING);
    }

    #[test]
    fn a_packet_that_grew_is_not_doubled_and_a_break_comes_once() {
        let now = Instant::now();
        let mut bmc = Line::new(End::Bmc, 200);
        bmc.receive(&[1, 0, 0, 0, b'a'], now);
        bmc.receive(&[1, 0, 0, 0, b'a', b'b'], now);
        bmc.receive(&[2, 0, 0, BREAK], now);
        bmc.receive(&[2, 0, 0, BREAK], now);
        assert_eq!(bmc.read(), b"ab");
        assert!(bmc.took_break() && !bmc.took_break());
        assert_eq!(std::iter::from_fn(|| bmc.next_packet()).last().unwrap(), [0, 2, 0, 0]);
    }

    proptest! {
        #[test]
        fn packets_are_read_as_written(
            number in 0_u8..16, acknowledges in 0_u8..16, accepted: u8, flags: u8,
            data in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let packet = Packet { number, acknowledges, accepted, flags, data: &data };
            let bytes = packet.write();
            prop_assert_eq!(Packet::read(&bytes), (data.len() < 256).then_some(packet));
        }

        /// Whatever the network loses, doubles or holds back, both ends get what was sent, once and in order.
        #[test]
        fn characters_arrive_once_and_in_order(
            there in proptest::collection::vec(any::<u8>(), 0..300),
            back in proptest::collection::vec(any::<u8>(), 0..300),
            takes in 1_usize..60,
            fates in proptest::collection::vec(0_u8..8, 200),
        ) {
            let mut now = Instant::now();
            let (mut console, mut bmc) = (Line::new(End::Console, takes), Line::new(End::Bmc, takes));
            console.write(&there, now);
            bmc.write(&back, now);
            let (mut at_bmc, mut at_console) = (Vec::new(), Vec::new());
            // After so much of a bad network it is a good one.
            let mut fates = fates.into_iter().chain(std::iter::repeat(0));
            for _ in 0..5_000 {
                let mut moved = false;
                for _ in 0..2 {
                    let packets: Vec<Vec<u8>> = std::iter::from_fn(|| console.next_packet()).collect();
                    for packet in packets {
                        moved = true;
                        for _ in 0..[1, 1, 1, 0, 2, 1, 0, 1][usize::from(fates.next().unwrap())] {
                            bmc.receive(&packet, now);
                        }
                    }
                    std::mem::swap(&mut console, &mut bmc);
                }
                at_bmc.extend(bmc.read());
                at_console.extend(console.read());
                if !moved {
                    let Some(next) = [console.deadline(), bmc.deadline()].into_iter().flatten().min() else { break };
                    now = now.max(next);
                    console.tick(now);
                    bmc.tick(now);
                }
                if console.ended().is_some() || bmc.ended().is_some() {
                    // Lost twelve times in a row: it is said, and what came is the beginning of what was sent.
                    prop_assert!(there.starts_with(&at_bmc) && back.starts_with(&at_console));
                    return Ok(());
                }
            }
            prop_assert_eq!(at_bmc, there);
            prop_assert_eq!(at_console, back);
        }
    }
}

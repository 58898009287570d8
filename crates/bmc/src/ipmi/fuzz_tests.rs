//! Damaged and hostile datagrams to everything that reads what a BMC sends: no panic, no answer taken that is none, in
//! bounded time. `FERRIC_FUZZ_CASES` says how many inputs each decoder gets; the default is a short replay.
#![allow(clippy::unwrap_used)]

use super::commands::{boot, chassis, device, fru, lan, sensors};
use super::in_band;
use super::keys::UserKey;
use super::keys::tests::{keys, recorded};
use super::machine::{Config, Machine, Privilege, Repeat, Request, Timing};
use super::suite::{Suite, numbers};
use super::testing::{Dice, FakeBmc};
use super::wire::rmcp::Class;
use super::wire::{message, packet, rmcp, setup, v15};
use crate::fuzz::fuzz;

fn datagrams() -> Vec<Vec<u8>> {
    let r = recorded();
    let sealed = Suite::ALL.map(|suite| packet::seal(&keys(suite, 1), 7, 9, [3; 16], &r.answer));
    let outside = v15::datagram(&r.answer);
    [vec![r.open_answer, r.rakp2, r.rakp4, r.sealed_answer, outside, rmcp::ping(1)], sealed.to_vec()].concat()
}

#[test]
fn no_datagram_harms_the_ipmi_driver() {
    let session_keys: Vec<_> = Suite::ALL.map(|suite| keys(suite, 1)).into();
    let originals = datagrams();
    fuzz(&originals, 5, |datagram| match rmcp::read(datagram) {
        Some(Class::Ipmi(ipmi)) => {
            let _ = v15::read(ipmi).and_then(message::read);
            let Some(packet) = packet::read(ipmi) else { return };
            if let Some(body) = packet.plain() {
                let _ = (setup::read_open_session(body), setup::read_rakp2(body), setup::read_rakp4(body));
            }
            for keys in &session_keys {
                // What opens is what was sealed.
                let opened = packet.open(keys);
                assert!(opened.is_none() || originals.iter().any(|it| it[4..] == *ipmi));
            }
        }
        Some(Class::Asf(asf)) => drop(rmcp::pong(asf)),
        None => {}
    });
}

#[test]
fn no_conversation_harms_the_ipmi_driver() {
    let config = Config {
        username: b"admin".to_vec(),
        user: UserKey::new(b"secret").unwrap(),
        suites: Suite::DEFAULT.to_vec(),
        privilege: Privilege::Operator,
        timing: Timing::default(),
    };
    let now = tokio::time::Instant::now();
    let request =
        Request { netfn: 0, command: 1, data: vec![], privilege: Privilege::Operator, repeat: Repeat::Never };
    // The noise comes at each step of a conversation, which it does not disturb.
    fuzz(&datagrams(), 5, |noise| {
        let (mut machine, mut bmc) = (Machine::new(config.clone(), Box::new(Dice(5))), FakeBmc::default());
        machine.submit(1, request.clone(), now);
        while let Some(datagram) = machine.next_datagram() {
            machine.receive(noise, now);
            if let Some(answer) = bmc.handle(&datagram) {
                machine.receive(&answer, now);
            }
        }
        assert!(machine.next_result().is_some_and(|(_, result)| result.is_ok()));
    });
}

#[test]
fn no_serial_line_harms_the_ipmi_driver() {
    use super::sol::{End, Line, Packet, activated};
    let now = tokio::time::Instant::now();
    let packet = |number, acknowledges, accepted, flags, data: &[u8]| {
        Packet { number, acknowledges, accepted, flags, data }.write()
    };
    let seeds = [
        packet(1, 0, 0, 0, b"login: "),
        packet(2, 1, 7, 0, b""),
        packet(0, 1, 3, 0x40, b""),
        packet(0, 1, 0, 0x60, b""),
        packet(3, 2, 0, 0x10, b""),
        packet(15, 0, 0, 0, &[0xA5; 200]),
        vec![0, 0, 0, 0, 0xC8, 0x00, 0xC8, 0x00, 0x6F, 0x02, 0xFF, 0xFF],
    ];
    fuzz(&seeds, 5, |data| {
        let _ = activated(data);
        for end in [End::Console, End::Bmc] {
            let mut line = Line::new(end, data.len());
            line.write(b"some characters that are under way", now);
            // The same twice, and cut up, as one packet after the other.
            for payload in [data, data].into_iter().chain(data.chunks(9)) {
                line.receive(payload, now);
                if let Some(again) = line.deadline() {
                    line.tick(again);
                }
            }
            assert!(line.read().len() <= 3 * data.len());
            assert!(std::iter::from_fn(|| line.next_packet()).count() <= 8 + data.len());
        }
    });
}

#[test]
fn no_answer_harms_the_ipmi_driver() {
    let image = fru::tests::image();
    let seeds = [
        vec![0x01, 0x00, 0x40, 0x00],
        vec![1, 5, 0xA0, 0x04, 0, 0, 0],
        vec![0x20, 0x01, 0x02, 0x43, 0x02, 0xBF, 0x57, 0x01, 0x00, 0x34, 0x12, 0, 0, 0, 0],
        (0..16).collect(),
        vec![2, 0, 1, 0, 0x51, 1, 50, 0x20, 0, 7, 3, 1, 0x7F, 0x68, 1, 1],
        vec![0x40, 0xC0, 0xD8],
        vec![0xC0, 3, 0x01, 0x41, 0x81, 0xC1, 0x80, 2, 0x57, 1, 1, 0x41, 0x81, 0xC0, 17, 3, 0x44, 0x81],
        image.clone(),
    ];
    fuzz(&seeds, 5, |data| {
        let _ = (chassis::status(data), device::device(data), device::uuid(data), numbers(data));
        let _ = (boot::device(data, boot::Device::None), sensors::record(data), sensors::health(data));
        let _ = (sensors::reservation(data), fru::length(data));
        if let Some(area) = fru::area(data) {
            let _ = (fru::part(area, data), fru::read(area, data.len(), 32));
        }
        if let Some(parts) = fru::areas(data) {
            let [_, board, product] = parts.map(|at| at.and_then(|at| data.get(at..)).unwrap_or_default());
            let found = fru::inventory(board, product);
            assert!(found.product.chars().count() <= 96);
        }
        let _ = fru::inventory(data, data);
        let _ = (lan::mac(data), lan::address(data), in_band::device(data));
        assert!(in_band::fru(data).chassis_serial.chars().count() <= 96);
    });
}

//! Damaged and hostile packets to everything that the network hands to the agent: no panic, no answer without end.
//! `FERRIC_FUZZ_CASES` says how many inputs each decoder gets; the default is a short replay.
#![allow(clippy::unwrap_used)]

use dhcproto::v6::{MessageType, Status};

use super::{dhcp, dhcp6, lldp, rdnss};
#[path = "../../../../tests/shared/fuzz.rs"]
mod shared;
use shared::fuzz;

#[test]
fn no_dhcp_answer_harms_the_agent() {
    fuzz(&dhcp::tests::seeds(), 1, |packet| {
        if let Some(message) = dhcp::decode(packet) {
            dhcp::tests::read(&message);
        }
    });
}

#[test]
fn no_dhcpv6_answer_harms_the_agent() {
    use dhcp6::tests::{ASSOCIATION, CLIENT, NUMBER, reply};
    let seeds = vec![
        reply(MessageType::Advertise, None),
        reply(MessageType::Reply, None),
        reply(MessageType::Reply, Some(Status::NoAddrsAvail)),
    ];
    fuzz(&seeds, 1, |packet| drop(dhcp6::decode(packet, NUMBER, &CLIENT, ASSOCIATION)));
}

#[test]
fn no_lldp_frame_harms_the_agent() {
    let least = lldp::tests::frame(&[(1, b"\x07a"), (2, b"\x07b"), (3, b"\0\x78"), (0, b"")]);
    fuzz(&[lldp::tests::usual(), least], 1, |frame| drop(lldp::decode(frame)));
}

#[test]
fn no_router_advertisement_harms_the_agent() {
    let servers = ["2001:db8::53".parse().unwrap(), "fe80::1".parse().unwrap()];
    let one = rdnss::tests::message(3, 600, &servers);
    let two = [one.clone(), rdnss::tests::message(4, u32::MAX, &servers[..1])].concat();
    fuzz(&[one, two], 1, |datagram| drop(rdnss::decode(datagram)));
}

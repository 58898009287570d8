//! Damaged and hostile datagrams to the boot services: no panic, no answer without bound. `FERRIC_FUZZ_CASES` says how
//! many inputs each decoder gets; the default is a short replay.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

use super::dhcp::decide::{BootFile, Reply, ReplyKind};
use super::{dhcp, dhcp6, tftp};
use crate::fuzz::fuzz;

/// A question as firmware sends it, with these options.
fn question(options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1]);
    bytes.extend([99, 130, 83, 99]);
    for (code, value) in options {
        bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
        bytes.extend_from_slice(value);
    }
    bytes.push(255);
    bytes
}

#[test]
fn no_dhcp_datagram_harms_the_provider() {
    let seeds = [
        question(&[(53, &[1]), (60, b"PXEClient:Arch:00007:UNDI:003001"), (93, &[0, 7]), (97, &[0; 17])]),
        question(&[
            (53, &[3]),
            (50, &[10, 0, 0, 9]),
            (54, &[10, 0, 0, 1]),
            (77, b"\x04iPXE"),
            (175, &[1, 1, 1]),
        ]),
        question(&[
            (53, &[1]),
            (60, b"HTTPClient:Arch:00016"),
            (93, &[0, 16]),
            (61, b"\x01id"),
            (82, &[1, 2, 0, 0]),
        ]),
    ];
    let reply = Reply {
        kind: ReplyKind::Offer,
        server: Ipv4Addr::new(10, 0, 0, 1),
        address: Some(Ipv4Addr::new(10, 0, 0, 9)),
        network: None,
        class: Some(dhcp::decide::PXE_CLIENT),
        boot: Some(BootFile::Tftp("undionly.kpxe")),
    };
    fuzz(&seeds, 1, |datagram| {
        // What is read is also answered, with parts of the question.
        if let Some((_, question)) = dhcp::packet::read(datagram) {
            let answer = dhcp::packet::write(&question, &reply);
            assert!(answer.is_none_or(|bytes| bytes.len() <= 2_000));
        }
    });
}

#[test]
fn no_dhcpv6_datagram_harms_the_provider() {
    let option = |code: u8, value: &[u8]| [&[0, code, 0, u8::try_from(value.len()).unwrap()], value].concat();
    let class =
        |text: &[u8]| option(16, &[&[0, 0, 1, 0x57, 0, u8::try_from(text.len()).unwrap()], text].concat());
    let seeds = [
        [
            vec![1, 7, 8, 9],
            option(1, &[&[0, 4], &[3; 16][..]].concat()),
            option(8, &[0, 0]),
            option(3, &[0; 12]),
            class(b"PXEClient:Arch:00007:UNDI:003001"),
        ]
        .concat(),
        [
            vec![1, 7, 8, 9],
            class(b"HTTPClient:Arch:00016:UNDI:003001"),
            option(1, &[0, 1, 0, 1, 9, 9, 9, 9, 0x52, 0x54, 0, 0, 0, 1]),
        ]
        .concat(),
    ];
    fuzz(&seeds, 1, |datagram| {
        for source in ["fe80::5054:ff:fe00:1", "fe80::1"] {
            if let Some(question) = dhcp6::packet::read(datagram, source.parse::<Ipv6Addr>().unwrap()) {
                assert!(dhcp6::packet::nothing(&question, uuid::Uuid::nil()).len() <= 170);
            }
        }
    });
}

#[test]
fn no_tftp_datagram_harms_the_provider() {
    let seeds = [
        b"\0\x01undionly.kpxe\0octet\0blksize\x001468\0tsize\x000\0windowsize\x0016\0timeout\x003\0".to_vec(),
        b"\0\x02snponly.efi\0octet\0".to_vec(),
        b"\0\x04\0\x01".to_vec(),
        b"\0\x05\0\x08User aborted the transfer\0".to_vec(),
    ];
    fuzz(&seeds, 1, |datagram| {
        if let Ok(tftp::packet::Packet::Read(request)) = tftp::packet::read(datagram) {
            let terms = tftp::packet::terms(&request, 74_213);
            assert!(terms.acknowledgement.is_none_or(|bytes| bytes.len() <= 512));
        }
    });
}

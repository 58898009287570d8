#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::packet::{nothing, read};
use super::*;

const CARD: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 1];
const PXE: &[u8] = b"PXEClient:Arch:00007:UNDI:003001";
const HTTP: &[u8] = b"HTTPClient:Arch:00016:UNDI:003001";

/// The link-local address of [`CARD`].
fn neighbour() -> Ipv6Addr {
    "fe80::5054:ff:fe77:1".parse().unwrap()
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes(), &length.to_be_bytes(), value].concat()
}

fn class(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    option(16, &[&343_u32.to_be_bytes(), &length[..], text].concat())
}

/// The identifier that a UUID makes.
fn client() -> Vec<u8> {
    option(1, &[&[0, 4], [7; 16].as_slice()].concat())
}

fn question(options: &[&[u8]]) -> Vec<u8> {
    [&[1, 9, 8, 7], options.concat().as_slice()].concat()
}

#[test]
fn firmware_is_told_from_everybody_else() {
    let association = option(3, &[0; 12]);
    let relay: Vec<u8> = [vec![12], question(&[&client(), &class(PXE)])].concat();
    let kind = |kind: u8| [&[kind], &question(&[&client(), &class(PXE)])[1..]].concat();
    let table: [(Vec<u8>, Option<bool>); 16] = [
        (question(&[&client(), &association, &class(PXE)]), Some(false)),
        (question(&[&class(HTTP), &option(61, &[0, 16]), &client()]), Some(true)),
        // Another class first.
        (question(&[&client(), &class(b"other"), &class(PXE)]), Some(false)),
        // Operating systems.
        (question(&[&client(), &association]), None),
        (question(&[&client(), &class(b"Linux")]), None),
        // Neither a class of no length nor one without texts.
        (question(&[&client(), &option(16, &[])]), None),
        (question(&[&client(), &option(16, &[0, 0, 1, 87])]), None),
        (question(&[&client(), &option(16, &[0, 0, 1, 87, 0, 99, b'P'])]), None),
        // For another server, or without an identifier, or with a bad one.
        (question(&[&client(), &class(PXE), &option(2, &[0; 10])]), None),
        (question(&[&class(PXE)]), None),
        (question(&[&option(1, &[0, 4]), &class(PXE)]), None),
        (question(&[&option(1, &[0; 131]), &class(PXE)]), None),
        // An answer, a request, one that goes through a relay, one that is cut short.
        (kind(2), None),
        (kind(3), None),
        (relay, None),
        ([question(&[&client(), &class(PXE)]), vec![0, 1, 0]].concat(), None),
    ];
    for (datagram, http) in table {
        let read = read(&datagram, neighbour());
        assert_eq!(read.as_ref().map(|question| question.http), http, "{datagram:?}");
        if let Some(question) = read {
            assert_eq!((question.mac, question.transaction), (CARD.into(), [9, 8, 7]));
        }
    }
    assert!(read(&question(&[&client(), &class(PXE), &option(99, &[0; 1500])]), neighbour()).is_none());
}

#[test]
fn a_card_is_known_by_the_address_and_else_by_the_identifier() {
    let other = [2, 0, 0, 0, 0, 9];
    let duid = |kind: u8, hardware: u8, rest: &[u8]| option(1, &[&[0, kind, 0, hardware], rest].concat());
    let (layer, timed) = (duid(3, 1, &other), duid(1, 1, &[&[1, 2, 3, 4], &other[..]].concat()));
    let opaque = "fe80::1234:5678:9abc:def0";
    let table = [
        ("fe80::5054:ff:fe77:1", client(), Some(CARD)),
        ("fe80::5054:ff:fe77:1", layer.clone(), Some(CARD)),
        (opaque, layer.clone(), Some(other)),
        (opaque, timed, Some(other)),
        (opaque, client(), None),
        // Not Ethernet, of another length, a group, nothing.
        (opaque, duid(3, 6, &other), None),
        (opaque, duid(3, 1, &other[1..]), None),
        (opaque, duid(1, 1, &[1, 2, 3]), None),
        (opaque, duid(3, 1, &[1, 0, 0, 0, 0, 9]), None),
        ("fe80::200:ff:fe00:0", client(), None),
        // From beyond the link.
        ("2001:db8::5054:ff:fe77:1", layer, None),
    ];
    for (source, id, card) in table {
        let read = read(&question(&[&id, &class(PXE)]), source.parse().unwrap());
        assert_eq!(read.map(|question| question.mac), card.map(Into::into), "{source} {id:?}");
    }
}

#[test]
fn the_answer_offers_nothing_and_is_taken_at_once() {
    let question = read(&question(&[&client(), &class(PXE)]), neighbour()).unwrap();
    let answer = nothing(&question, Uuid::from_bytes([5; 16]));
    let expected =
        [&[2, 9, 8, 7], &client()[..], &option(2, &[&[0, 4], &[5; 16][..]].concat()), &option(7, &[255])];
    assert_eq!(answer, expected.concat());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), source: u128) {
        let _ = read(&bytes, Ipv6Addr::from_bits(source));
    }

    #[test]
    fn an_answer_is_no_longer_than_what_a_question_may_be(
        id in prop::collection::vec(any::<u8>(), 0..140), http: bool, more in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let datagram = question(&[&option(1, &id), &class(if http { HTTP } else { PXE }), &option(6, &more)]);
        match read(&datagram, neighbour()) {
            Some(question) => {
                prop_assert_eq!(&question.client_id, &id);
                let answer = nothing(&question, Uuid::nil());
                // By the identifier of the server and the preference.
                prop_assert!(answer.len() <= 4 + 4 + id.len() + 22 + 5);
                prop_assert!(read(&answer, neighbour()).is_none(), "no answer to an answer");
            }
            None => prop_assert!(!(3..=130).contains(&id.len())),
        }
    }
}

#![allow(clippy::unwrap_used)]

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;

use super::decide::{BootFile as File, Network, Reply, ReplyKind};
use super::packet::{Client, read, write};
use super::*;

/// A question as firmware sends it.
fn question(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
    bytes[10] = 0x80;
    bytes[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 1]);
    bytes.extend_from_slice(&[99, 130, 83, 99, 53, 1, kind]);
    bytes.extend_from_slice(options);
    bytes.push(255);
    bytes
}

fn option(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(value.len()).unwrap()], value].concat()
}

#[test]
fn clients_are_told_apart() {
    let pxe = option(60, b"PXEClient:Arch:00007:UNDI:003001");
    let table = [
        (vec![], Client::Plain, None),
        (pxe.clone(), Client::Pxe, None),
        ([pxe.clone(), option(93, &[0, 7])].concat(), Client::Pxe, Some(7)),
        ([pxe.clone(), option(93, &[0, 9, 0, 7])].concat(), Client::Pxe, Some(9)),
        ([pxe.clone(), option(77, b"iPXE"), option(93, &[0, 0])].concat(), Client::Ipxe, Some(0)),
        ([pxe.clone(), option(77, b"\x04iPXE")].concat(), Client::Ipxe, None),
        ([pxe.clone(), option(175, &[1, 1, 1])].concat(), Client::Ipxe, None),
        ([pxe.clone(), option(77, b"other")].concat(), Client::Pxe, None),
        ([option(60, b"HTTPClient:Arch:00016"), option(93, &[0, 16])].concat(), Client::Http, Some(16)),
        // What the library stumbles over does not hide what comes after it.
        ([option(94, &[1]), option(93, &[9]), pxe, option(82, &[9, 9, 9])].concat(), Client::Pxe, None),
    ];
    for (options, client, architecture) in table {
        let (facts, _) = read(&question(1, &options)).unwrap();
        assert_eq!((facts.client, facts.architecture), (client, architecture), "{options:?}");
        assert_eq!((facts.request, facts.mac), (Request::Discover, [0x52, 0x54, 0, 0, 0, 1].into()));
    }
}

#[test]
fn what_is_no_question_is_not_answered() {
    let good = question(1, &[]);
    assert!(read(&good).is_some());
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        read(&bytes)
    };
    // An answer; not Ethernet; other lengths of the address; a group; no cookie; an unknown or an answer's type.
    for (at, value) in
        [(0, 2), (1, 6), (2, 16), (2, 17), (2, 255), (2, 0), (28, 0x53), (236, 0), (242, 99), (242, 2)]
    {
        assert!(changed(at, value).is_none(), "{at} {value}");
    }
    assert!(read(&good[..200]).is_none());
    assert!(read(&[good, vec![0; 2000]].concat()).is_none());
}

fn answer(reply: &Reply, options: &[u8]) -> Message {
    let (_, message) = read(&question(1, options)).unwrap();
    let bytes = write(&message, reply).unwrap();
    assert!(bytes.len() >= 300);
    Message::decode(&mut Decoder::new(&bytes)).unwrap()
}

fn reply(boot: Option<File>, class: Option<&'static str>) -> Reply {
    Reply {
        kind: ReplyKind::Offer,
        server: Ipv4Addr::new(10, 0, 0, 1),
        address: None,
        network: None,
        class,
        boot,
    }
}

#[test]
fn answers_carry_what_the_client_must_have_back() {
    let relay = option(82, &[1, 3, 7, 7, 7]);
    let given = [option(61, &[1, 0x52, 0x54, 0, 0, 0, 1]), option(97, &[0; 17]), relay].concat();
    let network = Network {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        routers: vec![Ipv4Addr::new(10, 0, 0, 254)],
        name_servers: vec![],
        lease_seconds: 3600,
    };
    let address = Ipv4Addr::new(10, 0, 0, 100);
    let reply = Reply { address: Some(address), network: Some(network), ..reply(None, None) };
    let message = answer(&reply, &given);
    assert_eq!((message.xid(), message.yiaddr(), message.flags().broadcast()), (0x0102_0304, address, true));
    let options = message.opts();
    assert_eq!(options.msg_type(), Some(MessageType::Offer));
    for code in
        [OptionCode::ClientIdentifier, OptionCode::ClientMachineIdentifier, OptionCode::RelayAgentInformation]
    {
        assert!(options.contains(code), "{code:?}");
    }
    assert_eq!(options.get(OptionCode::AddressLeaseTime), Some(&DhcpOption::AddressLeaseTime(3600)));
    assert!(!options.contains(OptionCode::DomainNameServer));
}

#[test]
fn firmware_is_told_to_use_the_file_of_the_answer() {
    let message = answer(&reply(Some(File::Tftp("undionly.kpxe")), Some("PXEClient")), &[]);
    assert_eq!(message.fname_str().unwrap().unwrap().trim_end_matches(char::from(0)), "undionly.kpxe");
    assert_eq!(message.siaddr(), Ipv4Addr::new(10, 0, 0, 1));
    let extensions = message.opts().get(OptionCode::VendorExtensions);
    assert_eq!(extensions, Some(&DhcpOption::VendorExtensions(vec![6, 1, 8, 255])));

    let url = format!("http://10.0.0.1:6180/boot/{}/boot.ipxe", "t".repeat(150));
    let message = answer(&reply(Some(File::Url(url.clone())), None), &[]);
    assert!(message.fname().is_none_or(|name| name.iter().all(|byte| *byte == 0)), "it does not fit there");
    assert_eq!(
        message.opts().get(OptionCode::BootfileName),
        Some(&DhcpOption::BootfileName(url.into_bytes()))
    );
    let (_, question) = read(&question(1, &[])).unwrap();
    assert!(write(&question, &reply(Some(File::Url("x".repeat(256))), None)).is_none());
}

#[test]
fn firmware_is_told_to_go_on_in_the_words_of_pxe() {
    let message = answer(&reply(Some(File::Next), Some("PXEClient")), &[]);
    let Some(DhcpOption::VendorExtensions(words)) = message.opts().get(OptionCode::VendorExtensions) else {
        panic!("{message:?}");
    };
    // Tags, as firmware takes them apart.
    let mut tags = Vec::new();
    let mut rest = words.as_slice();
    while let [tag, length, more @ ..] = rest {
        let (value, after) = more.split_at((*length).into());
        tags.push((*tag, value));
        rest = after;
    }
    assert_eq!(rest, [255]);
    let [(6, [3]), (9, [0, 0, length, entry @ ..]), (10, [0, prompt @ ..])] = tags.as_slice() else {
        panic!("{tags:?}");
    };
    assert_eq!((usize::from(*length), entry.is_empty(), prompt.is_empty()), (entry.len(), false, false));
    assert!(message.fname().is_none_or(|name| name.iter().all(|byte| *byte == 0)));
    for option in [OptionCode::BootfileName, OptionCode::TFTPServerName] {
        assert!(!message.opts().contains(option), "with a file it would be booted");
    }
    assert_eq!(
        message.opts().get(OptionCode::ClassIdentifier),
        Some(&DhcpOption::ClassIdentifier(b"PXEClient".to_vec()))
    );
}

/// One host that was told to boot, and its two cards.
struct TwoCards;

impl BootLookup for TwoCards {
    fn boot_for(&self, mac: ferric_api::MacAddress) -> Option<KnownHost> {
        (mac == [0x52, 0x54, 0, 0, 0, 1].into()).then(told_to_boot)
    }

    fn card_of(&self, mac: ferric_api::MacAddress) -> Option<KnownHost> {
        (mac == [0x52, 0x54, 0, 0, 0, 2].into()).then(told_to_boot)
    }

    fn discover(&self, _: ferric_api::MacAddress, _: bool) -> Option<String> {
        None
    }

    fn boot_mac(&self, _: &crate::key::Key) -> Option<ferric_api::MacAddress> {
        None
    }

    fn network(&self, _: &crate::key::Key) -> Result<Option<Arc<str>>, super::super::NetworkNotRead> {
        Ok(None)
    }

    fn system<'a>(
        &'a self,
        _: &'a crate::key::Key,
        _: u64,
    ) -> futures::future::BoxFuture<'a, Result<super::super::System, super::super::NoSystem>> {
        Box::pin(std::future::ready(Err(super::super::NoSystem::Over)))
    }

    fn uninvited(&self, host: &crate::key::Key) {
        panic!("{host} was told to boot");
    }

    fn count(&self, _: &'static str) {}
}

fn told_to_boot() -> KnownHost {
    KnownHost { host: crate::key::Key::new("racks", "r1-h1"), told: Told::Boot("the-token".to_owned()) }
}

#[test]
fn only_the_boot_card_is_given_the_token() {
    let (_sender, leader) = watch::channel(Leadership::Leader);
    let network = Network {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        routers: vec![],
        name_servers: vec![],
        lease_seconds: 3600,
    };
    for mode in [Mode::Proxy, Mode::Server] {
        let shared = Shared {
            settings: Settings { mode, server: Ipv4Addr::new(10, 0, 0, 1), network: network.clone() },
            boot_url: "http://10.0.0.1:6180".parse().unwrap(),
            pool: Mutex::new(Some(Pool::new(
                Ipv4Addr::new(10, 0, 0, 10),
                Ipv4Addr::new(10, 0, 0, 20),
                Default::default(),
                std::time::Duration::from_secs(60),
            ))),
            leader: leader.clone(),
            lookup: Arc::new(TwoCards),
        };
        let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        for class in [&b"PXEClient:Arch:00007"[..], b"HTTPClient:Arch:00016", b""] {
            let ask = |card: u8, more: &[u8]| {
                let architecture = option(93, &[0, if class.starts_with(b"HTTP") { 16 } else { 7 }]);
                let class = if class.is_empty() { vec![] } else { option(60, class) };
                let mut bytes = question(1, &[class, architecture, more.to_vec()].concat());
                bytes[33] = card;
                let (facts, message) = read(&bytes).unwrap();
                shared.respond(&facts, &message, false)
            };
            for more in [&[][..], &option(77, b"iPXE")] {
                let (first, second, stranger) = (ask(1, more), ask(2, more), ask(3, more));
                assert_eq!(stranger, None);
                let boots = !class.is_empty() || !more.is_empty();
                assert_eq!(first.is_some(), boots || mode == Mode::Server, "{class:?} {more:?}");
                // An operating system's other cards are not answered.
                assert!(second.is_none() || boots, "{class:?} {more:?}");
                assert!(!second.is_some_and(|bytes| holds(&bytes, "the-token")), "{class:?} {more:?}");
                if class.starts_with(b"HTTP") {
                    assert!(holds(&first.unwrap(), "the-token"));
                    assert!(!more.is_empty() || holds(&ask(2, more).unwrap(), "/agent/nothing"));
                }
            }
        }
    }
}

#[test]
fn answers_go_where_the_client_hears_them() {
    let from: SocketAddr = "10.0.0.7:2070".parse().unwrap();
    let (facts, _) = read(&question(1, &[])).unwrap();
    let to = |relay: Option<Ipv4Addr>, current: Option<Ipv4Addr>, port| {
        destination(&Facts { relay, current, ..facts.clone() }, from, port).to_string()
    };
    let address = |n| Some(Ipv4Addr::new(10, 0, 0, n));
    assert_eq!(to(None, None, false), "255.255.255.255:68");
    assert_eq!(to(None, address(5), false), "10.0.0.5:68");
    assert_eq!(to(address(254), address(5), false), "10.0.0.254:67");
    assert_eq!(to(None, address(5), true), "10.0.0.5:2070");
    assert_eq!(to(None, None, true), "10.0.0.7:2070");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = read(&bytes);
    }

    #[test]
    fn no_option_makes_it_panic(
        kind in 1_u8..9,
        options in prop::collection::vec(
            (prop::sample::select(vec![0_u8, 43, 50, 52, 53, 54, 55, 60, 61, 66, 77, 81, 82, 90, 93, 94, 97, 119, 125,
             150, 175, 220, 255]), prop::collection::vec(any::<u8>(), 0..12)), 0..12),
        header in prop::collection::vec(any::<u8>(), 4..28), cut in 0_usize..400,
    ) {
        let tail: Vec<u8> = options.iter().flat_map(|(code, value)| option(*code, value)).collect();
        let mut bytes = question(kind, &tail);
        bytes[4..4 + header.len().min(24)].copy_from_slice(&header[..header.len().min(24)]);
        bytes.truncate(bytes.len().saturating_sub(cut % 60));
        if let Some((facts, message)) = read(&bytes) {
            let settings = Settings {
                mode: Mode::Server,
                server: Ipv4Addr::LOCALHOST,
                network: Network { mask: Ipv4Addr::BROADCAST, routers: vec![], name_servers: vec![], lease_seconds: 1 },
            };
            let invitation = Invitation::Boot(Files { script: "http://a".into(), iso: "http://b".into() });
            let decision = decide(&settings, &facts, &invitation, Some(Ipv4Addr::LOCALHOST), false);
            if let Some(reply) = decision.reply {
                prop_assert!(write(&message, &reply).is_some());
            }
        }
    }
}

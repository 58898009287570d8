#![allow(clippy::unwrap_used)]

use super::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const LEASE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

fn settings(mode: Mode) -> Settings {
    let network = Network {
        mask: Ipv4Addr::new(255, 255, 255, 0),
        routers: vec![OTHER],
        name_servers: vec![],
        lease_seconds: 3600,
    };
    Settings { mode, server: SERVER, network }
}

fn facts(request: Request, client: Client, architecture: Option<u16>) -> Facts {
    Facts {
        request,
        mac: [0x52, 0x54, 0, 0, 0, 1].into(),
        client,
        architecture,
        current: None,
        wanted: None,
        server: None,
        relay: None,
    }
}

fn files() -> Files {
    Files { script: "http://s/boot.ipxe".into(), iso: "http://s/agent.iso".into() }
}

fn invited() -> Invitation {
    Invitation::Boot(files())
}

fn uninvited() -> Invitation {
    Invitation::Uninvited { nothing: "http://s/agent/nothing".into() }
}

fn elsewhere() -> Invitation {
    Invitation::Elsewhere { nothing: "http://s/agent/nothing".into() }
}

type Row = (Client, Option<u16>, Result<Option<BootFile>, ()>);

#[test]
fn each_firmware_gets_the_file_that_it_can_start() {
    let script = || Some(BootFile::Url("http://s/boot.ipxe".into()));
    let iso = || Some(BootFile::Url("http://s/agent.iso".into()));
    let table: [Row; 21] = [
        (Client::Pxe, Some(0), Ok(Some(BootFile::Tftp("undionly.kpxe")))),
        (Client::Pxe, None, Ok(Some(BootFile::Tftp("undionly.kpxe")))),
        (Client::Pxe, Some(7), Ok(Some(BootFile::Tftp("snponly.efi")))),
        (Client::Pxe, Some(9), Ok(Some(BootFile::Tftp("snponly.efi")))),
        (Client::Http, Some(16), Ok(iso())),
        (Client::Ipxe, Some(0), Ok(script())),
        (Client::Ipxe, Some(7), Ok(script())),
        (Client::Ipxe, Some(9), Ok(script())),
        (Client::Ipxe, None, Ok(script())),
        (Client::Plain, None, Ok(None)),
        (Client::Plain, Some(0), Ok(None)),
        // 32-bit x86, IA-64, 32-bit and 64-bit Arm by PXE and HTTP, RISC-V: no agent is built for them.
        (Client::Pxe, Some(2), Err(())),
        (Client::Pxe, Some(6), Err(())),
        (Client::Pxe, Some(10), Err(())),
        (Client::Pxe, Some(11), Err(())),
        (Client::Ipxe, Some(11), Err(())),
        (Client::Http, Some(15), Err(())),
        (Client::Http, Some(19), Err(())),
        (Client::Http, Some(0), Err(())),
        (Client::Http, None, Err(())),
        (Client::Pxe, Some(27), Err(())),
    ];
    for (client, architecture, expected) in table {
        for mode in [Mode::Proxy, Mode::Server] {
            let facts = facts(Request::Discover, client, architecture);
            let decision = decide(&settings(mode), &facts, &invited(), Some(LEASE), false);
            let what = format!("{mode:?} {client:?} {architecture:?}: {decision:?}");
            match &expected {
                Err(()) => assert_eq!((decision.counted, decision.reply), ("unsupported", None), "{what}"),
                Ok(None) if mode == Mode::Proxy => assert_eq!(decision.reply, None, "{what}"),
                Ok(boot) => {
                    let reply = decision.reply.expect(&what);
                    assert_eq!((&reply.boot, reply.kind), (boot, ReplyKind::Offer), "{what}");
                    assert_eq!(reply.address.is_some(), mode == Mode::Server, "{what}");
                    let class = match (mode, client) {
                        (_, Client::Http) => Some("HTTPClient"),
                        (Mode::Proxy, _) => Some("PXEClient"),
                        (Mode::Server, _) => None,
                    };
                    assert_eq!(reply.class, class, "{what}");
                }
            }
        }
    }
}

#[test]
fn nobody_boots_uninvited_and_strangers_get_nothing() {
    for mode in [Mode::Proxy, Mode::Server] {
        for client in [Client::Plain, Client::Pxe, Client::Http, Client::Ipxe] {
            for request in [Request::Discover, Request::Request, Request::Inform, Request::Release] {
                for port in [false, true] {
                    let facts = facts(request, client, Some(7));
                    let stranger = decide(&settings(mode), &facts, &Invitation::Unknown, Some(LEASE), port);
                    assert_eq!(stranger, Decision { counted: "unknown", reply: None });
                    let decision = decide(&settings(mode), &facts, &uninvited(), Some(LEASE), port);
                    let boots = decision.reply.as_ref().and_then(|reply| reply.boot.as_ref());
                    let nothing = BootFile::Url("http://s/agent/nothing".into());
                    assert!(
                        boots.is_none_or(|boot| *boot == BootFile::Next || *boot == nothing),
                        "{decision:?}"
                    );
                    if (mode == Mode::Proxy || port) && boots.is_none() {
                        assert_eq!(decision.reply, None, "{facts:?}");
                    }
                }
            }
            let facts = facts(Request::Discover, client, Some(7));
            let counted = decide(&settings(mode), &facts, &uninvited(), Some(LEASE), false).counted;
            assert_eq!(counted, if client == Client::Plain { "address" } else { "uninvited" });
        }
    }
}

#[test]
fn a_proxy_leaves_addresses_to_the_other_server() {
    let settings = settings(Mode::Proxy);
    let ask = |request, port| {
        decide(&settings, &facts(request, Client::Pxe, Some(0)), &invited(), None, port)
            .reply
            .map(|reply| reply.kind)
    };
    assert_eq!(ask(Request::Discover, false), Some(ReplyKind::Offer));
    assert_eq!(ask(Request::Request, false), None);
    assert_eq!(ask(Request::Inform, false), None);
    assert_eq!(ask(Request::Discover, true), None);
    assert_eq!(ask(Request::Request, true), Some(ReplyKind::Acknowledge));
    assert_eq!(ask(Request::Inform, true), Some(ReplyKind::Acknowledge));
}

#[test]
fn a_server_gives_and_confirms_its_own_addresses_only() {
    let settings = settings(Mode::Server);
    let ask = |facts: &Facts, lease| decide(&settings, facts, &uninvited(), lease, false);
    let request = facts(Request::Request, Client::Plain, None);
    let kind = |facts: &Facts| ask(facts, Some(LEASE)).reply.map(|reply| (reply.kind, reply.address));
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut facts = request.clone();
        change(&mut facts);
        facts
    };
    let given = Some((ReplyKind::Acknowledge, Some(LEASE)));
    assert_eq!(kind(&with(&|f| f.wanted = Some(LEASE))), given);
    assert_eq!(kind(&with(&|f| (f.wanted, f.server) = (Some(LEASE), Some(SERVER)))), given);
    assert_eq!(kind(&with(&|f| f.current = Some(LEASE))), given);
    assert_eq!(kind(&with(&|f| f.wanted = Some(OTHER))), Some((ReplyKind::Refuse, None)));
    assert_eq!(kind(&with(&|f| (f.wanted, f.server) = (Some(LEASE), Some(OTHER)))), None);
    assert_eq!(kind(&with(&|f| f.relay = Some(OTHER))), given);
    let far = with(&|f| f.relay = Some(Ipv4Addr::new(10, 0, 1, 1)));
    assert_eq!(ask(&far, Some(LEASE)), Decision { counted: "exhausted", reply: None });
    assert_eq!(ask(&request, None), Decision { counted: "exhausted", reply: None });
    let inform = ask(&facts(Request::Inform, Client::Plain, None), None).reply.unwrap();
    assert_eq!((inform.address, inform.network), (None, None));
}

#[test]
fn who_boots_uninvited_is_sent_on_at_once_whatever_it_runs_on() {
    let nothing = || Some(BootFile::Url("http://s/agent/nothing".into()));
    let table = [
        (Client::Plain, None, None),
        // iPXE that is given an address, by us or another, and no file, ends by itself.
        (Client::Ipxe, None, None),
        (Client::Pxe, Some(BootFile::Next), Some("PXEClient")),
        (Client::Http, nothing(), Some("HTTPClient")),
    ];
    for (client, boot, class) in table {
        for architecture in [None, Some(0), Some(6), Some(7), Some(9), Some(11), Some(16), Some(19), Some(27)]
        {
            let ask = |mode, request, lease, port| {
                let decision =
                    decide(&settings(mode), &facts(request, client, architecture), &uninvited(), lease, port);
                decision.reply.map(|reply| (reply.boot, reply.class, reply.address.is_some()))
            };
            let what = format!("{client:?} {architecture:?}");
            // Beside another server: on both ports, but not where the other server is asked.
            let expected = boot.clone().map(|boot| (Some(boot), class, false));
            assert_eq!(ask(Mode::Proxy, Request::Discover, None, false), expected, "{what}");
            assert_eq!(ask(Mode::Proxy, Request::Request, None, true), expected, "{what}");
            assert_eq!(ask(Mode::Proxy, Request::Request, None, false), None, "{what}");
            // As the server: with the address, also when that is confirmed.
            for request in [Request::Discover, Request::Request] {
                let expected = Some((boot.clone(), class, true));
                assert_eq!(ask(Mode::Server, request, Some(LEASE), false), expected, "{what}");
            }
        }
    }
}

#[test]
fn another_card_of_a_host_that_boots_is_sent_on_and_not_counted_as_uninvited() {
    for mode in [Mode::Proxy, Mode::Server] {
        for client in [Client::Plain, Client::Pxe, Client::Http, Client::Ipxe] {
            for request in [Request::Discover, Request::Request, Request::Inform, Request::Release] {
                for port in [false, true] {
                    let facts = facts(request, client, Some(7));
                    let ask = |invitation| decide(&settings(mode), &facts, &invitation, Some(LEASE), port);
                    let (idle, booting) = (ask(uninvited()), ask(elsewhere()));
                    assert_eq!(booting.reply, idle.reply, "{facts:?}");
                    let counted = if idle.counted == "uninvited" { "elsewhere" } else { idle.counted };
                    assert_eq!(booting.counted, counted, "{facts:?}");
                }
            }
        }
    }
}

#[test]
fn who_is_discovered_gets_what_an_invited_host_gets_under_another_name() {
    for client in [Client::Plain, Client::Pxe, Client::Http, Client::Ipxe] {
        for architecture in [None, Some(0), Some(6), Some(7), Some(9), Some(11), Some(16), Some(27)] {
            for request in [Request::Discover, Request::Request, Request::Inform, Request::Release] {
                for (mode, port) in [(Mode::Proxy, false), (Mode::Proxy, true), (Mode::Server, false)] {
                    let facts = facts(request, client, architecture);
                    let ask = |invitation| decide(&settings(mode), &facts, &invitation, Some(LEASE), port);
                    let (host, stranger) = (ask(invited()), ask(Invitation::Discovery(files())));
                    assert_eq!(stranger.reply, host.reply, "{facts:?}");
                    let counted = if host.counted == "boot" { "discovery" } else { host.counted };
                    assert_eq!(stranger.counted, counted, "{facts:?}");
                    // A machine that can boot nothing of ours takes nobody's place.
                    let boots = host.reply.is_some_and(|reply| reply.boot.is_some());
                    assert!(!boots || asks_for_a_boot(&facts), "{facts:?}");
                    let asks = asks_for_a_boot(&facts);
                    assert!(
                        !asks
                            || (client != Client::Plain
                                && request != Request::Release
                                && counted != "unsupported")
                    );
                }
            }
        }
    }
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn parse(line: &str) -> NetworkPlan {
    NetworkPlan::parse(line).unwrap().unwrap()
}

#[test]
fn a_bond_with_a_vlan_is_read_in_any_order_and_written_again() {
    let line = "quiet ferric.net=vlan:v0,b0,12,mtu=1500 ferric.net=bond:b0,802.3ad,l0+l1,miimon=50,hash=layer3+4,lacp=fast,mtu=9000 \
                ferric.net=nic:l0,AA-bb-cc-00-11-22 ferric.net=nic:l1,aa:bb:cc:00:11:24 ferric.net=ip:v0,10.0.0.5/24 \
                ferric.net=ip:v0,2001:db8::5/64 ferric.net=ip:b0,dhcp4 ferric.net=route:v0,0.0.0.0/0,10.0.0.1 \
                ferric.net=dns:10.0.0.53,2001:db8::53 console=ttyS0";
    let plan = parse(line);
    assert_eq!(plan.links().iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["l0", "l1", "b0", "v0"]);
    let LinkKind::Bond { mode, members, lacp_fast, hash, miimon, .. } = &plan.link("b0").unwrap().kind else {
        panic!("no bond")
    };
    assert_eq!((*mode, members.len(), *lacp_fast), (BondMode::Lacp, 2, true));
    assert_eq!((*hash, *miimon), (Some(HashPolicy::Layer34), Some(50)));
    assert_eq!(plan.name_servers().len(), 2);
    assert_eq!(parse(&plan.to_kernel_args()), plan);
}

#[test]
fn the_short_form_is_read() {
    let line = "quiet ferric.net=AA-bb-cc-00-11-22,10.0.0.5/24,10.0.0.1 ferric.net=aa:bb:cc:00:11:22,fd00::5/64 \
                ferric.net=aa:bb:cc:00:11:24,2001:db8::5/64,2001:db8::1,vlan=12";
    let plan = parse(line);
    assert_eq!(plan.links().len(), 3, "one card has two addresses");
    assert_eq!(plan.networks().len(), 3);
    assert_eq!(plan.routes()[0].gateway, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert!(matches!(plan.links()[2].kind, LinkKind::Vlan { id: 12, .. }));
    assert_eq!(parse(&plan.to_kernel_args()), plan);
    assert_eq!(NetworkPlan::parse("quiet ferric.url=x"), Ok(None));
}

#[test]
fn what_is_wrong_is_said() {
    const NIC: &str = "ferric.net=nic:l0,aa:bb:cc:00:11:22 ";
    let bond = format!("{NIC}ferric.net=bond:b0,active-backup,l0 ");
    for (line, cause) in [
        ("ferric.net=x,10.0.0.5/24".to_owned(), "MAC"),
        ("ferric.net=aa:bb:cc:00:11:22".to_owned(), "ADDRESS/PREFIX"),
        ("ferric.net=aa:bb:cc:00:11:22,10.0.0.5/33".to_owned(), "prefix"),
        ("ferric.net=aa:bb:cc:00:11:22,10.0.0.5/24,::1".to_owned(), "two families"),
        ("ferric.net=aa:bb:cc:00:11:22,10.0.0.5/24,vlan=4095".to_owned(), "VLAN"),
        ("ferric.net=01:bb:cc:00:11:22,10.0.0.5/24".to_owned(), "MAC"),
        (NIC.to_owned(), "no link is given an address"),
        (format!("{NIC}ferric.net=ip:l1,dhcp4"), "not described"),
        (format!("{NIC}{NIC}ferric.net=ip:l0,dhcp4"), "MAC address"),
        (format!("{NIC}ferric.net=nic:l0,aa:bb:cc:00:11:24 ferric.net=ip:l0,dhcp4"), "two of this name"),
        (format!("{NIC}ferric.net=ip:l0,127.0.0.1/8"), "none of a machine"),
        (format!("{NIC}ferric.net=nic:L1,aa:bb:cc:00:11:24 ferric.net=ip:l0,dhcp4"), "a name is"),
        (format!("{NIC}ferric.net=vlan:v0,l9,5 ferric.net=ip:l0,dhcp4"), "below it"),
        (format!("{NIC}ferric.net=vlan:v0,l0,5 ferric.net=vlan:v1,v0,6 ferric.net=ip:l0,dhcp4"), "within"),
        (format!("{NIC}ferric.net=vlan:v0,l0,5 ferric.net=vlan:v1,l0,5 ferric.net=ip:l0,dhcp4"), "twice"),
        (format!("{bond}ferric.net=ip:l0,dhcp4"), "part of"),
        (format!("{bond}ferric.net=vlan:v0,l0,5 ferric.net=ip:v0,dhcp4"), "part of"),
        (format!("{bond}ferric.net=bond:b1,active-backup,l0 ferric.net=ip:b0,dhcp4"), "twice"),
        (format!("{NIC}ferric.net=bond:b0,magic,l0 ferric.net=ip:b0,dhcp4"), "bond mode"),
        (format!("{NIC}ferric.net=bond:b0,broadcast,l0,hash=x ferric.net=ip:b0,dhcp4"), "hash policy"),
        (format!("{NIC}ferric.net=bond:b0,broadcast,l0,color=x ferric.net=ip:b0,dhcp4"), "no option"),
        (format!("{NIC}ferric.net=ip:l0,dhcp4 ferric.net=route:l0,10.0.0.1/8,10.0.0.1"), "beyond its prefix"),
        (format!("{NIC}ferric.net=ip:l0,dhcp4 ferric.net=dns:x"), "name server"),
        ("ferric.net=nic:l0,aa:bb:cc:00:11:22,mtu=1 ferric.net=ip:l0,dhcp4".to_owned(), "MTU"),
    ] {
        let error = NetworkPlan::parse(&line).unwrap_err().to_string();
        assert!(error.contains(cause), "{line}: {error}");
    }
    let many: String =
        (0..32).map(|n| format!("ferric.net=aa:bb:cc:00:11:{n:02x},2001:db8:1:2:3:4:5:{n:x}/64 ")).collect();
    assert!(NetworkPlan::parse(&many).unwrap_err().to_string().contains("command line"));
}

fn plans() -> impl Strategy<Value = NetworkPlan> {
    let shape = (1_usize..5, any::<bool>(), any::<[u8; 4]>(), any::<bool>());
    shape.prop_map(|(cards, bonded, [a, b, c, d], v6)| {
        let mac = |n: usize| Mac([2, a, b, c, d, n as u8]);
        let mut links: Vec<Link> = (0..cards)
            .map(|n| Link {
                name: format!("l{n}"),
                mtu: (a > 128).then_some(9000),
                kind: LinkKind::Nic { mac: mac(n) },
            })
            .collect();
        let mut top = "l0".to_owned();
        if bonded {
            let members = links.iter().map(|link| link.name.clone()).collect();
            let mode = MODE[usize::from(b) % MODE.len()];
            let kind = LinkKind::Bond {
                mode,
                members,
                mac: (c > 128).then(|| mac(99)),
                miimon: (d > 128).then_some(100),
                hash: (a > 99).then_some(HashPolicy::Encap34),
                lacp_fast: b > 99,
            };
            links.push(Link { name: "b0".to_owned(), mtu: None, kind });
            top = "b0".to_owned();
        }
        let id = u16::from(c) + 1;
        links.push(Link {
            name: "v0".into(),
            mtu: None,
            kind: LinkKind::Vlan { parent: top, id, mac: None },
        });
        let address: IpAddr =
            if v6 { [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(d) + 1].into() } else { [10, b, c, d].into() };
        let networks = vec![
            Network { link: "v0".into(), addressing: Addressing::Static { address, prefix: 24 } },
            Network { link: "v0".into(), addressing: Addressing::Slaac },
        ];
        NetworkPlan::new(links, networks, Vec::new(), vec![address]).unwrap()
    })
}

const MODE: [BondMode; 3] = [BondMode::ActiveBackup, BondMode::Lacp, BondMode::BalanceAlb];

proptest! {
    #[test]
    fn what_is_written_is_read_again_and_is_plain(plan in plans()) {
        let text = plan.to_kernel_args();
        prop_assert!(text.len() <= MAX_TEXT);
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b" :,=+/.-".contains(&b)), "{}", text);
        prop_assert_eq!(NetworkPlan::parse(&text).unwrap().unwrap(), plan);
    }

    #[test]
    fn no_text_makes_it_panic(
        text in "\\PC{0,60}", kind in "(nic|bond|vlan|ip|route|dns):[a-z0-9:,=+/.]{0,40}",
    ) {
        let _ = NetworkPlan::parse(&format!("ferric.net={text} ferric.net={kind}"));
    }
}

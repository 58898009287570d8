#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn partition() -> Partition {
    Partition {
        number: 15,
        type_guid: ferric_image::gpt::TYPE_EFI_SYSTEM,
        guid: "8aa33a3c-1f00-4d9a-b1f2-0123456789ab".parse().unwrap(),
        start: 2048 * 512,
        length: 253_952 * 512,
        name: String::new(),
    }
}

fn option(path: &str) -> LoadOption {
    LoadOption::new(&partition(), 512, path).unwrap()
}

/// Somebody else's option.
fn foreign(text: &str) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 4, 0];
    bytes.extend_from_slice(&units(text));
    bytes.extend_from_slice(&END);
    bytes
}

/// Written out by hand from sections 3.1.3, 10.3.5.1, 10.3.5.4 and 10.3.1.
#[test]
fn an_option_is_these_bytes() {
    let option = option("\\EFI\\d\\shimx64.efi");
    assert_eq!(option.description, "Ferric: d");
    let expected = concat!(
        // Attributes; FilePathListLength: 42 + 4 + 38 + 4.
        "01000000",
        "5800",
        // "Ferric: d" and its end.
        "4600650072007200690063003a00200064000000",
        // Hard drive: type, sub-type, length; number 15; start 0x800; size 0x3e000.
        "04012a00",
        "0f000000",
        "0008000000000000",
        "00e0030000000000",
        // Its GUID as it lies in memory; a GUID partition table; the signature is a GUID.
        "3c3aa38a001f9a4db1f20123456789ab",
        "02",
        "02",
        // File path: type, sub-type, length 42; "\EFI\d\shimx64.efi" and its end.
        "04042a00",
        "5c004500460049005c0064005c007300680069006d007800360034002e006500660069000000",
        // End of the whole.
        "7fff0400",
    );
    assert_eq!(hex::encode(&option.bytes), expected);
    assert_eq!(description(&option.bytes).as_deref(), Some("Ferric: d"));
}

/// What Debian's efibootmgr left behind on a machine: `HD(15,GPT,8aa33a3c-…,0x800,0x3e000)/File(\EFI\debian\shimx64.efi)`
/// differs from ours in the description alone.
#[test]
fn blocks_are_those_of_the_disk() {
    let large = LoadOption::new(&partition(), 4096, "\\EFI\\BOOT\\BOOTX64.EFI").unwrap();
    let text = hex::encode(&large.bytes);
    assert!(text.contains(&format!("{}{}", "0001000000000000", "007c000000000000")), "{text}");
    assert_eq!(large.description, "Ferric: BOOT");
}

#[test]
fn the_written_disk_comes_first_and_older_entries_of_ours_go() {
    let wanted = option("\\EFI\\debian\\shimx64.efi");
    let old =
        LoadOption::new(&Partition { number: 1, ..partition() }, 512, "\\EFI\\debian\\shimx64.efi").unwrap();
    let firmware = |options: &[(u16, &[u8])], order: &[u16]| BootOptions {
        options: options.iter().map(|(number, bytes)| (*number, bytes.to_vec())).collect(),
        order: order.to_vec(),
    };
    let (disk, net) = (foreign("UEFI disk"), foreign("UEFI PXEv4"));
    let change = |number, write, order: Option<&[u16]>, remove: &[u16]| BootChange {
        number,
        write,
        order: order.map(<[u16]>::to_vec),
        remove: remove.to_vec(),
    };
    let table = [
        (firmware(&[], &[]), change(0, true, Some(&[0]), &[])),
        // The lowest number that nobody has, also not in the order.
        (firmware(&[(0, &disk), (1, &net)], &[1, 0, 2]), change(3, true, Some(&[3, 1, 0, 2]), &[])),
        // An older one of ours is overwritten, the others go.
        (firmware(&[(0, &disk), (4, &old.bytes), (7, &old.bytes)], &[4, 0, 7]), change(4, true, None, &[7])),
        // Nothing to do.
        (firmware(&[(0, &disk), (9, &wanted.bytes)], &[9, 0]), change(9, false, None, &[])),
        // It is there, but not first; the order names it twice.
        (
            firmware(&[(2, &old.bytes), (9, &wanted.bytes)], &[2, 9, 0, 9]),
            change(9, false, Some(&[9, 0]), &[2]),
        ),
    ];
    for (firmware, expected) in table {
        let Some(mut got) = put(&firmware, &wanted, Place::First) else { panic!("{firmware:?}") };
        if firmware.order.first() == Some(&4) {
            // Removed from the order, too.
            assert_eq!(got.order.take(), Some(vec![4, 0]));
        }
        assert_eq!(got, expected, "{firmware:?}");
    }
}

#[test]
fn where_the_network_is_to_be_asked_first_the_written_disk_comes_last() {
    let wanted = option("\\EFI\\debian\\shimx64.efi");
    let (disk, net) = (foreign("UEFI disk"), foreign("UEFI PXEv4"));
    let options = |ours: Option<u16>| {
        let ours = ours.map(|number| (number, wanted.bytes.clone()));
        [(1, net.clone()), (2, disk.clone())].into_iter().chain(ours).collect::<BTreeMap<_, _>>()
    };
    for (ours, order, expected) in [
        (None, vec![1, 2], vec![1, 2, 0]),
        (None, vec![], vec![0]),
        // It was first, when the server had another address.
        (Some(5), vec![5, 1, 2], vec![1, 2, 5]),
        (Some(5), vec![1, 5, 2], vec![1, 2, 5]),
    ] {
        let change = put(&BootOptions { options: options(ours), order }, &wanted, Place::Last).unwrap();
        assert_eq!((change.write, change.order), (ours.is_none(), Some(expected)));
    }
    let right = BootOptions { options: options(Some(5)), order: vec![1, 2, 5] };
    let change = put(&right, &wanted, Place::Last).unwrap();
    assert_eq!(change, BootChange { number: 5, ..BootChange::default() });
}

#[test]
fn names_and_orders_are_as_firmware_has_them() {
    assert_eq!(
        (variable(0), variable(0xab), variable(0xffff)),
        ("Boot0000".into(), "Boot00AB".into(), "BootFFFF".into())
    );
    assert_eq!(read_order(&[1, 0, 0, 0x20, 9]), [1, 0x2000]);
    assert_eq!(order_bytes(&[1, 0x2000]), [1, 0, 0, 0x20]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = description(&bytes);
        let _ = read_order(&bytes);
    }

    #[test]
    fn afterwards_it_is_in_its_place_once_and_others_keep_their_order(
        options in prop::collection::btree_map(0u16..40, any::<bool>(), 0..20),
        order in prop::collection::vec(0u16..40, 0..20),
        first: bool,
    ) {
        let place = if first { Place::First } else { Place::Last };
        let wanted = option("\\EFI\\debian\\shimx64.efi");
        let old = option("\\EFI\\debian\\grubx64.efi");
        let options: BTreeMap<u16, Vec<u8>> = options
            .into_iter()
            .map(|(number, ours)| (number, if ours { old.bytes.clone() } else { foreign("x") }))
            .collect();
        let mut firmware = BootOptions { options, order };
        let before = firmware.clone();
        let change = put(&firmware, &wanted, place).unwrap();
        if change.write {
            firmware.options.insert(change.number, wanted.bytes.clone());
        }
        if let Some(order) = change.order.clone() {
            firmware.order = order;
        }
        for number in &change.remove {
            firmware.options.remove(number);
        }
        let at = if first { firmware.order.first() } else { firmware.order.last() };
        prop_assert_eq!(at, Some(&change.number));
        prop_assert_eq!(&firmware.options[&change.number], &wanted.bytes);
        prop_assert!(!firmware.options.values().any(|bytes| *bytes == old.bytes));
        // Nobody else's option is changed.
        for (number, bytes) in before.options.iter().filter(|(_, bytes)| **bytes != old.bytes) {
            prop_assert_eq!(firmware.options.get(number), Some(bytes));
        }
        // And a second time there is nothing to do.
        let again = put(&firmware, &wanted, place).unwrap();
        prop_assert_eq!(again, BootChange { number: change.number, ..BootChange::default() });
    }
}

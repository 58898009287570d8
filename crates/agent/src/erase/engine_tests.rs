#![allow(clippy::unwrap_used)]

use ferric_image::{Faults, FaultyDevice, MemDevice};
use proptest::prelude::*;

use super::*;
use crate::erase::{
    Queue,
    testing::{Effect, FakeDrive},
};

const SIZE: usize = 24 << 20;
const NVME: Interface = Interface::Nvme { namespace: 1 };
const SECRET: &[u8] = b"a tenant's secret 0123456789";

/// Where the secret is: the same part of a disk of any size, in its second half.
fn place(size: usize) -> u64 {
    size as u64 / 8 * 5 + 123
}

fn disk_of(size: usize) -> MemDevice {
    let mut disk = MemDevice::from_bytes(vec![0x11; size]);
    disk.write_at(place(size), SECRET).unwrap();
    disk
}

fn disk() -> MemDevice {
    disk_of(SIZE)
}

fn holds_secret(disk: &MemDevice) -> bool {
    let mut disk = disk.clone();
    let mut found = vec![0; SECRET.len()];
    disk.read_at(place(disk.size() as usize), &mut found).unwrap();
    found == SECRET
}

fn pace() -> Pace {
    Pace { look: Duration::from_millis(1), longest: Duration::from_secs(60) }
}

fn clean(drive: &mut FakeDrive) -> Result<Evidence, EraseError> {
    let mut device = drive.disk.clone();
    full(drive, &mut device, 42, pace(), &mut |_| ControlFlow::Continue(()))
}

/// An NVMe drive with everything.
fn nvme(disk: &MemDevice) -> FakeDrive {
    FakeDrive { sanicap: 3, oacs: 2, fna: 4, ..FakeDrive::new(NVME, disk) }
}

/// An ATA drive with security and the enhanced erase.
fn ata(disk: &MemDevice) -> FakeDrive {
    let words = vec![(82, 2), (83, 0x4000), (89, 1), (90, 1), (128, 0x21)];
    FakeDrive { words, ..FakeDrive::new(Interface::Ata, disk) }
}

fn names(evidence: &Evidence) -> Vec<&str> {
    evidence.attempts.iter().map(|attempt| attempt.method).collect()
}

#[test]
fn the_strongest_method_that_is_not_refused_is_taken_and_the_others_are_written_down() {
    let order: [(&str, &str); 4] = [
        ("sanitize crypto", "nvme-sanitize-crypto-erase"),
        ("sanitize block", "nvme-sanitize-block-erase"),
        ("format crypto", "nvme-format-crypto-erase"),
        ("format user data", "nvme-format-user-data-erase"),
    ];
    for refused in 0..=order.len() {
        let disk = disk();
        let refuse = order[..refused].iter().map(|(command, _)| *command).collect();
        let mut drive = FakeDrive { refuse, ..nvme(&disk) };
        let evidence = clean(&mut drive).unwrap();
        assert!(!holds_secret(&disk));
        let mut expected: Vec<_> = order[..refused].iter().map(|(_, name)| *name).collect();
        let method = order.get(refused).map_or("overwrite", |(_, name)| name);
        if method == "overwrite" {
            expected.push("deallocate");
            assert_eq!(evidence.verified_bytes, SIZE as u64);
        } else {
            assert!(evidence.verification.contains("blocks of 4096 bytes"), "{}", evidence.verification);
        }
        assert_eq!((evidence.method, names(&evidence)), (method, expected));
        assert_eq!(evidence.bytes, SIZE as u64);
        assert!(evidence.verified_samples > 64 && evidence.attempts.iter().all(|a| !a.reason.is_empty()));
    }
}

#[test]
fn ata_drives_are_erased_and_never_left_with_a_password() {
    let order: [(&str, &str); 2] =
        [("erase enhanced", "ata-secure-erase-enhanced"), ("erase", "ata-secure-erase")];
    for refused in 0..=order.len() {
        let disk = disk();
        let refuse = order[..refused].iter().map(|(command, _)| *command).collect();
        let mut drive = FakeDrive { refuse, ..ata(&disk) };
        let evidence = clean(&mut drive).unwrap();
        assert!(!holds_secret(&disk) && drive.password.is_none() && !drive.locked);
        assert_eq!(evidence.method, order.get(refused).map_or("overwrite", |(_, name)| name));
    }
    for step in ["set password", "prepare"] {
        let disk = disk();
        let mut drive = FakeDrive { refuse: vec![step], ..ata(&disk) };
        assert_eq!(clean(&mut drive).unwrap().method, "overwrite");
        assert!(drive.password.is_none());
    }
    let disk = disk();
    let words = vec![(59, 0xb000), (83, 0x4000)];
    let mut drive = FakeDrive { words, ..FakeDrive::new(Interface::Ata, &disk) };
    assert_eq!(clean(&mut drive).unwrap().method, "ata-sanitize-crypto-scramble");
    assert!(!holds_secret(&disk));
}

#[test]
fn a_drive_that_was_interrupted_is_unlocked_by_the_next_agent() {
    let disk = disk();
    let mut drive = FakeDrive { dies_in_erase: true, ..ata(&disk) };
    let error = clean(&mut drive).unwrap_err();
    assert!(matches!(error, EraseError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("\"ferric-erase\""), "{error}");
    assert!(drive.locked && drive.password.is_some());
    // The next boot.
    (drive.dies_in_erase, drive.refuse) = (false, Vec::new());
    assert_eq!(security::release(&mut drive).unwrap(), Released::Ours);
    assert!(!drive.locked && drive.password.is_none());
    assert_eq!(security::release(&mut drive).unwrap(), Released::Nothing);
    assert_eq!(clean(&mut drive).unwrap().method, "ata-secure-erase-enhanced");
    // Without that, cleaning does it itself.
    let mut drive = FakeDrive { dies_in_erase: true, ..ata(&disk) };
    clean(&mut drive).unwrap_err();
    (drive.dies_in_erase, drive.refuse) = (false, Vec::new());
    assert_eq!(clean(&mut drive).unwrap().method, "ata-secure-erase-enhanced");
    assert!(!drive.locked && drive.password.is_none());
}

#[test]
fn a_password_of_somebody_else_is_left_alone() {
    let disk = disk();
    let mut drive = FakeDrive { password: Some([7; 32]), locked: true, ..ata(&disk) };
    assert!(matches!(clean(&mut drive).unwrap_err(), EraseError::Foreign));
    assert!(holds_secret(&disk) && drive.password == Some([7; 32]));
    assert_eq!(drive.asked.iter().filter(|name| *name == "unlock").count(), 1, "one try");
    // Set and open: it can be overwritten.
    let mut drive = FakeDrive { password: Some([7; 32]), ..ata(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!((evidence.method, drive.password), ("overwrite", Some([7; 32])));
    assert!(evidence.attempts.iter().any(|a| a.reason.contains("a password that is not ours")));
    // Frozen: not even tried.
    let mut drive = FakeDrive { words: vec![(82, 2), (83, 0x4000), (128, 9)], ..ata(&disk) };
    assert_eq!(clean(&mut drive).unwrap().method, "overwrite");
    assert!(!drive.was_asked("set password"));
}

#[test]
fn a_drive_that_only_says_so_is_not_believed() {
    for effect in [Effect::Nothing, Effect::OnlyTheFirstHalf] {
        let disk = disk();
        let mut drive = FakeDrive { effect, ..nvme(&disk) };
        let evidence = clean(&mut drive).unwrap();
        assert_eq!(evidence.method, "overwrite");
        let lied = evidence.attempts.iter().filter(|a| a.reason.contains("is still there"));
        assert_eq!(lied.count(), 4, "{:?}", evidence.attempts);
        assert!(!holds_secret(&disk));
    }
}

#[test]
fn noise_is_no_signature_afterwards_and_no_zeros_are_claimed() {
    let disk = disk();
    let mut drive = FakeDrive { effect: Effect::Noise, ..nvme(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!(evidence.method, "nvme-sanitize-crypto-erase");
    assert!(evidence.verification.contains(" 0 of them read as zeros"), "{}", evidence.verification);
    let bytes = disk.to_bytes();
    assert!(bytes[..4 << 20].iter().chain(&bytes[SIZE - (4 << 20)..]).all(|byte| *byte == 0));
    assert_eq!(bytes[SIZE / 2], 0x6b);
}

#[test]
fn a_sanitize_of_an_agent_that_is_gone_is_waited_for_and_not_begun_again() {
    let disk = disk();
    let mut drive = FakeDrive { sanitize: (2, 0b1010), looks: 5, ..nvme(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!(evidence.method, "nvme-sanitize-block-erase");
    assert!(evidence.verification.contains("begun by an agent that is gone"), "{}", evidence.verification);
    assert!(!drive.was_asked("sanitize block") && !holds_secret(&disk));
    // One that somebody had overwrite the drive is waited for, and is no evidence.
    let mut drive = FakeDrive { sanitize: (2, 3), looks: 5, ..nvme(&disk) };
    assert_eq!(clean(&mut drive).unwrap().method, "nvme-sanitize-crypto-erase");
    assert!(drive.was_asked("sanitize crypto"));
    // An ATA drive does not say which one goes on: it counts where there is only one that it can be.
    for (word, begun) in [(0x9000, false), (0xb000, true), (0xd000, true)] {
        let words = vec![(59, word), (83, 0x4000)];
        let mut drive =
            FakeDrive { words, sanitize: (2, 0), looks: 3, ..FakeDrive::new(Interface::Ata, &disk) };
        let evidence = clean(&mut drive).unwrap();
        assert!(evidence.method.starts_with("ata-sanitize"), "{}", evidence.method);
        assert_eq!(evidence.verification.contains("begun by an agent that is gone"), !begun);
        assert_eq!(drive.was_asked("sanitize crypto") || drive.was_asked("sanitize block"), begun);
    }
}

#[test]
fn a_sanitize_that_failed_is_left_and_the_next_method_is_taken() {
    let disk = disk();
    let mut drive = FakeDrive { sanitize: (3, 0b1100), ..nvme(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!(evidence.method, "nvme-sanitize-crypto-erase");
    assert_eq!(names(&evidence), ["earlier-sanitize"]);
    assert!(drive.was_asked("leave failure"));
    // Both sanitizes fail on the way.
    let mut drive = FakeDrive { ends_as: 3, looks: 0, ..nvme(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!(evidence.method, "nvme-format-crypto-erase");
    assert_eq!(names(&evidence), ["nvme-sanitize-crypto-erase", "nvme-sanitize-block-erase"]);
    assert_eq!(drive.asked.iter().filter(|name| *name == "leave failure").count(), 2);
    let words = vec![(59, 0xb000), (83, 0x4000)];
    let mut drive = FakeDrive { words, sanitize_failed: true, ..FakeDrive::new(Interface::Ata, &disk) };
    assert_eq!(names(&clean(&mut drive).unwrap()), ["earlier-sanitize"]);
}

#[test]
fn a_sanitize_without_end_is_not_waited_for_without_end() {
    let disk = disk();
    let mut drive = FakeDrive { looks: u32::MAX, ..nvme(&disk) };
    let mut device = disk.clone();
    let pace = Pace { look: Duration::from_millis(1), longest: Duration::from_millis(20) };
    let error = full(&mut drive, &mut device, 1, pace, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, EraseError::Busy(_)), "{error}");
    // Broken off: it goes on in the drive, and the next agent finds it.
    let mut drive = FakeDrive { looks: 50, ..nvme(&disk) };
    let mut told = Vec::new();
    let error = full(&mut drive, &mut device, 1, pace, &mut |step| {
        told.push(step);
        if told.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap_err();
    assert!(matches!(error, EraseError::Wipe { error: WipeError::Cancelled(_), .. }), "{error}");
    assert_eq!(drive.sanitize.0, 2);
    assert_eq!(told[2].method, Method::NvmeSanitizeCrypto);
    assert_eq!(told[2].progress.done, SIZE as u64 / 2, "as the drive says it");
    let evidence = clean(&mut drive).unwrap();
    assert!(evidence.verification.contains("begun by an agent that is gone"));
}

#[test]
fn other_namespaces_are_not_erased_along() {
    let disk = disk();
    let mut drive = FakeDrive { namespaces: vec![1, 2], ..nvme(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!(evidence.method, "nvme-format-crypto-erase");
    assert!(!drive.was_asked("sanitize crypto") && !drive.was_asked("sanitize block"));
    let mut drive = FakeDrive { namespaces: vec![1, 2], fna: 7, ..nvme(&disk) };
    assert_eq!(clean(&mut drive).unwrap().method, "overwrite");
    assert!(!drive.asked.iter().any(|name| name.starts_with("format")));
}

#[test]
fn a_silent_drive_is_deallocated_or_overwritten() {
    let disk = disk();
    let refuse = vec!["identify controller"];
    let mut drive = FakeDrive { refuse: refuse.clone(), ..nvme(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!(evidence.method, "overwrite");
    assert!(evidence.attempts[0].reason.contains("identifying the drive"));
    let queue = Queue { rotational: false, discard_max_bytes: 1 << 30, write_zeroes_max_bytes: 1 << 30 };
    let mut drive = FakeDrive { refuse, queue, ..nvme(&disk) };
    let evidence = clean(&mut drive).unwrap();
    assert_eq!(evidence.method, "deallocate");
    assert!(evidence.verification.contains("the rest was not read"));
}

#[test]
fn a_drive_that_cannot_be_written_is_an_error_with_the_whole_story() {
    let disk = disk();
    let mut drive = nvme(&disk);
    let faults = Faults { fail_write_at: Some(0), ..Faults::default() };
    let mut device = FaultyDevice::new(disk.clone(), faults);
    let error =
        full(&mut drive, &mut device, 1, pace(), &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.starts_with("the disk failed to overwrite"), "{error}");
    assert!(error.contains("before that, nvme-sanitize-crypto-erase: the disk failed to mark"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a drive is and refuses: in the end its contents are gone, or it is an error, and no password stays that the
    /// error does not tell of.
    #[test]
    fn what_counts_as_clean_is_clean(
        is_ata: bool,
        refused in prop::collection::vec(0usize..12, 0..5),
        effect in 0usize..4,
        (sanicap, oacs, fna) in (0u8..4, 0u8..16, 0u8..8),
        ends_as in 1u8..4,
        dies_in_erase: bool,
        word_128 in 0u16..64,
        word_59 in any::<u16>(),
    ) {
        let all = [
            "identify", "set password", "prepare", "erase", "erase enhanced", "disable", "sanitize crypto",
            "sanitize block", "format crypto", "format user data", "list namespaces", "sanitize log",
        ];
        let disk = disk_of(2 << 20);
        let fresh = FakeDrive::new(if is_ata { Interface::Ata } else { NVME }, &disk);
        let mut drive = FakeDrive {
            refuse: refused.iter().map(|number| all[*number]).collect(),
            effect: [Effect::Zeros, Effect::Noise, Effect::Nothing, Effect::OnlyTheFirstHalf][effect],
            sanicap, oacs, fna, dies_in_erase,
            ends_as: if ends_as == 2 { 1 } else { ends_as },
            words: vec![(59, word_59), (82, 2), (83, 0x4000), (128, word_128 & !6)],
            ..fresh
        };
        match clean(&mut drive) {
            Ok(evidence) => {
                prop_assert!(!holds_secret(&disk), "{:?}", evidence);
                prop_assert!(drive.password.is_none() && !drive.locked);
            }
            Err(EraseError::Locked { .. }) => prop_assert!(drive.password.is_some() || drive.refuse.contains(&"identify")),
            Err(error) => prop_assert!(drive.password.is_none(), "{}", error),
        }
    }
}

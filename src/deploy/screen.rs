//! Bounds on what agents say. Pure: takes a message in, gives back one that is safe to keep, or a refusal.

use ferric_protocol::v1::{CleanResult, DeployResult, Inventory, StageResult};

/// Longest free text that is kept, in bytes.
const MAX_TEXT: usize = 1024;
/// Longest single fact (a model, a serial number).
const MAX_FACT: usize = 256;
/// Longest task id.
const MAX_TASK_ID: usize = 253;
/// Most disks or NICs of one machine.
const MAX_DEVICES: usize = 1024;
/// Most methods that one disk was tried to be cleaned by.
const MAX_ATTEMPTS: usize = 32;
/// Most CPU flags, or addresses of one NIC.
const MAX_WORDS: usize = 1024;

/// Most channels, users, or IPv6 addresses of a channel of one BMC: more than IPMI has numbers for.
const MAX_BMC: usize = 256;
/// Longest FRU inventory, in bytes; its three areas have at most 2040 each.
const MAX_FRU: usize = 8192;

/// What was said is more than any machine has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what} in one report, at most {most} are taken")]
pub(super) struct TooMany {
    what: &'static str,
    count: usize,
    most: usize,
}

/// Free text: cut, and without control characters, since it ends in conditions and logs.
pub(super) fn message(text: String) -> String {
    cut(text, MAX_TEXT)
}

/// Whether a task id can be one of ours.
pub(super) fn is_task_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_TASK_ID && id.bytes().all(|b| b.is_ascii_graphic())
}

/// An inventory with every string cut to a sensible length.
pub(super) fn inventory(mut inventory: Inventory) -> Result<Inventory, TooMany> {
    at_most("disks", inventory.disks.len(), MAX_DEVICES)?;
    at_most("NICs", inventory.nics.len(), MAX_DEVICES)?;
    let i = &mut inventory;
    let facts = [
        &mut i.system_uuid,
        &mut i.serial_number,
        &mut i.manufacturer,
        &mut i.product,
        &mut i.boot_mac,
        &mut i.hostname,
    ];
    facts.into_iter().for_each(fact);
    if let Some(cpu) = &mut i.cpu {
        at_most("CPU flags", cpu.flags.len(), MAX_WORDS)?;
        [&mut cpu.arch, &mut cpu.model].into_iter().chain(&mut cpu.flags).for_each(fact);
    }
    if let Some(firmware) = &mut i.firmware {
        [&mut firmware.vendor, &mut firmware.version, &mut firmware.date].into_iter().for_each(fact);
    }
    for d in &mut i.disks {
        let facts = [
            &mut d.name,
            &mut d.by_path,
            &mut d.by_id,
            &mut d.model,
            &mut d.vendor,
            &mut d.serial_number,
            &mut d.wwn,
            &mut d.wwn_with_extension,
            &mut d.wwn_vendor_extension,
            &mut d.hctl,
        ];
        facts.into_iter().for_each(fact);
    }
    for n in &mut i.nics {
        at_most("addresses of a NIC", n.addresses.len(), MAX_WORDS)?;
        [&mut n.name, &mut n.mac, &mut n.model, &mut n.driver]
            .into_iter()
            .chain(&mut n.addresses)
            .for_each(fact);
        if let Some(heard) = &mut n.lldp {
            [&mut heard.chassis_id, &mut heard.port_id, &mut heard.system_name].into_iter().for_each(fact);
        }
    }
    if let Some(bmc) = &mut i.bmc {
        at_most("channels of a BMC", bmc.lans.len(), MAX_BMC)?;
        at_most("users of a BMC", bmc.users.len(), MAX_BMC)?;
        bmc.problem = message(std::mem::take(&mut bmc.problem));
        bmc.device_id.truncate(MAX_FACT);
        bmc.system_guid.truncate(MAX_FACT);
        bmc.fru.truncate(MAX_FRU);
        bmc.users.iter_mut().for_each(|user| fact(&mut user.name));
        for lan in &mut bmc.lans {
            at_most("addresses of a BMC", lan.ipv6_addresses.len(), MAX_BMC)?;
            [&mut lan.mac, &mut lan.address].into_iter().chain(&mut lan.ipv6_addresses).for_each(fact);
        }
    }
    Ok(inventory)
}

/// The evidence of cleaning, bounded likewise.
pub(super) fn cleaning(mut result: CleanResult) -> Result<CleanResult, TooMany> {
    at_most("cleaned disks", result.disks.len(), MAX_DEVICES)?;
    for disk in &mut result.disks {
        at_most("attempts of cleaning one disk", disk.attempts.len(), MAX_ATTEMPTS)?;
        let methods = disk.attempts.iter_mut().map(|attempt| &mut attempt.method);
        [&mut disk.device, &mut disk.serial, &mut disk.method].into_iter().chain(methods).for_each(fact);
        let reasons = disk.attempts.iter_mut().map(|attempt| &mut attempt.reason);
        for text in [&mut disk.did, &mut disk.verification].into_iter().chain(reasons) {
            *text = message(std::mem::take(text));
        }
    }
    Ok(result)
}

/// What was written, bounded likewise.
pub(super) fn deployment(mut result: DeployResult) -> DeployResult {
    let r = &mut result;
    [
        &mut r.root_device,
        &mut r.root_serial,
        &mut r.download_digest,
        &mut r.content_hash,
        &mut r.boot_entry,
        &mut r.loaded_kernel,
    ]
    .into_iter()
    .for_each(fact);
    r.boot_warning = message(std::mem::take(&mut r.boot_warning));
    r.load_problem = message(std::mem::take(&mut r.load_problem));
    r.staged_problem = message(std::mem::take(&mut r.staged_problem));
    result
}

/// What was staged, bounded likewise.
pub(super) fn staging(mut result: StageResult) -> StageResult {
    let r = &mut result;
    [&mut r.root_device, &mut r.root_serial, &mut r.root_wwn, &mut r.content_hash].into_iter().for_each(fact);
    result
}

fn at_most(what: &'static str, count: usize, most: usize) -> Result<(), TooMany> {
    if count > most { Err(TooMany { what, count, most }) } else { Ok(()) }
}

fn fact(text: &mut String) {
    if text.len() > MAX_FACT || text.contains(char::is_control) {
        *text = cut(std::mem::take(text), MAX_FACT);
    }
}

fn cut(text: String, most: usize) -> String {
    if text.len() <= most && !text.contains(char::is_control) {
        return text;
    }
    let mut kept = String::with_capacity(text.len().min(most));
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + c.len_utf8() > most {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ferric_protocol::v1::{Cpu, Disk, Nic};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sane_report_passes_unchanged_and_a_flood_is_refused() {
        let sane = Inventory {
            serial_number: "S1".into(),
            cpu: Some(Cpu { flags: vec!["sse".into()], ..Default::default() }),
            disks: vec![Disk { name: "/dev/sda".into(), ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(inventory(sane.clone()), Ok(sane));
        let flood = Inventory { nics: vec![Nic::default(); MAX_DEVICES + 1], ..Default::default() };
        assert_eq!(
            inventory(flood).unwrap_err().to_string(),
            "1025 NICs in one report, at most 1024 are taken"
        );
    }

    #[test]
    fn task_ids_are_short_and_printable() {
        assert!(is_task_id("deploy-3-sha256:ab"));
        for bad in ["", "a b", "a\n", "ä", &"x".repeat(254)] {
            assert!(!is_task_id(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn text_is_bounded_and_printable(text in "(?s).{0,2000}") {
            let kept = message(text.clone());
            prop_assert!(kept.len() <= MAX_TEXT);
            prop_assert!(!kept.contains(char::is_control));
            if text.len() <= MAX_TEXT && !text.contains(char::is_control) {
                prop_assert_eq!(kept, text);
            }
        }
    }
}

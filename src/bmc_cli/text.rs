//! A survey for people.

use std::fmt::Write;

use ferric_bmc::{Can, Health, Survey};

/// A survey as lines; `agent_boot`: how the agent would be booted.
pub(super) fn of(survey: &Survey, agent_boot: &str) -> String {
    let mut page = Page::default();
    page.line("Address", &survey.address);
    page.some("Certificate (SHA-256)", survey.certificate_sha256.as_deref());
    if let Some(service) = &survey.service {
        let version = service.redfish_version.as_deref().unwrap_or("of unknown version");
        let words = [Some(version), service.vendor.as_deref(), service.product.as_deref()];
        page.line("Redfish", &words.into_iter().flatten().collect::<Vec<_>>().join(", "));
        let has = [(service.sessions, "sessions"), (service.expand, "expand"), (service.events, "events")];
        page.line("Service has", &list(has.into_iter().filter(|(has, _)| *has).map(|(_, name)| name)));
    }
    for system in &survey.systems {
        let words = [&system.manufacturer, &system.product];
        let name = words.into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        let mark = if system.chosen { ", this one" } else { "" };
        page.line("System", &format!("{}{mark}", system.path));
        page.some("  is", Some(name.as_str()).filter(|name| !name.is_empty()));
        page.some("  serial number", system.serial_number.as_deref());
        page.some("  UUID", system.uuid.as_deref());
    }
    if let Some(manager) = &survey.manager {
        let words = [manager.model.as_deref(), manager.firmware.as_deref()];
        page.line("BMC", &words.into_iter().flatten().collect::<Vec<_>>().join(", firmware "));
        page.some("  clock", manager.date_time.as_deref());
    }
    page.some("Power", survey.power);
    hardware(&mut page, survey);
    health(&mut page, &survey.health);
    if !survey.firmware.is_empty() {
        page.line("Firmware", &format!("{} pieces", survey.firmware.len()));
        for item in survey.firmware.iter().take(40) {
            page.line(&format!("  {}", item.name), item.version.as_deref().unwrap_or("unknown"));
        }
    }
    if survey.service.is_none() {
        // Nothing is known, which is not the same as nothing being there.
        return page.0;
    }
    can(&mut page, &survey.can);
    page.line("Agent would boot by", agent_boot);
    for would in &survey.would {
        page.line(&format!("  to {}", would.action), &would.how);
    }
    if survey.quirks.is_empty() {
        page.line("Quirk rules", "none fits");
    }
    for rule in &survey.quirks {
        page.line("Quirk rule", &format!("{} ({})", rule.name, rule.source));
        page.line("  seen on", &rule.seen);
        if rule.sends {
            page.line("  changes", "how actions are sent");
        }
        for path in rule.patched.iter().take(5) {
            page.line("  patches", path);
        }
    }
    page.line("Requests", &survey.requests.to_string());
    page.0
}

fn hardware(page: &mut Page, survey: &Survey) {
    let Some(hardware) = &survey.hardware else { return };
    let cpu = &hardware.cpu;
    page.line("CPU", &format!("{} logical, {} {}", cpu.count, cpu.arch, cpu.model));
    page.line("Memory", &format!("{} MiB", hardware.ram_mebibytes));
    for disk in &hardware.storage {
        let gigabytes = disk.size_bytes / 1_000_000_000;
        let (kind, model, serial) = (&disk.disk_type, &disk.model, &disk.serial_number);
        page.line("Disk", &format!("{}: {gigabytes} GB {kind} {model}, serial number {serial}", disk.name));
    }
    for nic in &hardware.nics {
        page.line("Interface", &format!("{}: {}, {} Gbit/s", nic.name, nic.mac, nic.speed_gbps));
    }
    page.some("BIOS", Some(hardware.firmware.bios.version.as_str()).filter(|version| !version.is_empty()));
    if let Some(secure) = &survey.secure_boot {
        let yes = |state: Option<bool>| match state {
            Some(true) => "on",
            Some(false) => "off",
            None => "unknown",
        };
        let words = format!("{} at the last boot, {} at the next", yes(secure.current), yes(secure.enabled));
        page.line("Secure Boot", &words);
    }
}

fn health(page: &mut Page, health: &Health) {
    page.some("Health", health.worst.as_deref());
    page.some("  of the system", health.system.as_deref());
    page.some("  of the BMC", health.manager.as_deref());
    page.some("  of cooling", health.thermal.as_deref());
    page.some("  of power", health.power.as_deref());
    if let Some(hottest) = &health.hottest {
        page.line("  hottest", &format!("{}, {} degrees Celsius", hottest.name, hottest.celsius));
    }
    if let Some(watts) = health.watts {
        page.line("  takes", &format!("{watts} W from {} power supplies", health.power_supplies));
    }
}

fn can(page: &mut Page, can: &Can) {
    page.line("Can boot by", &list(can.boot.iter().map(|method| format!("{method:?}"))));
    page.some("Reset types", can.reset_types.as_ref().map(|types| types.join(", ")).as_deref());
    page.some("Override targets", can.override_targets.as_ref().map(|targets| targets.join(", ")).as_deref());
    page.some("Override mode", can.override_mode.as_deref());
    for slot in &can.media {
        let mark = if slot.chosen { ", this one" } else { "" };
        let holds = if slot.occupied { ", occupied" } else { "" };
        page.line("Virtual media", &format!("{} ({}){mark}{holds}", slot.path, slot.media_types.join(", ")));
    }
}

fn list(items: impl Iterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = items.map(|item| item.as_ref().to_owned()).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Lines with a name and what it is. What a BMC says may hold anything: control characters are left out.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, value: &str) {
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(400).collect::<String>();
        let (name, value) = (clean(name), clean(value));
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<24} {value}");
    }

    fn some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_found_is_a_page_too() {
        let page = of(&Survey { address: "redfish://x\u{1b}[31m".into(), ..Survey::default() }, "not known");
        assert_eq!(page, "Address                  redfish://x[31m\n");
    }
}

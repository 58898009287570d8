//! Health of a chassis: temperatures, fans, power supplies, by the resources of before and after Redfish 2020.4.

use serde_json::Value;

use super::{Health, Temperature};
use crate::error::BmcError;
use crate::redfish::client::Client;
use crate::redfish::inspect::Reader;
use crate::redfish::json;
use crate::types::{MOST_PARTS, UnhealthyPart};

/// Most chassis of a system that are looked at.
const CHASSIS: usize = 8;
/// Longest name of a part, in characters.
const LONGEST: usize = 128;
/// Most requests that are spent on finding out what is not well.
const REQUESTS: usize = 40;

/// The health of a resource with all its parts.
pub(in crate::redfish) fn of(resource: &Value) -> Option<String> {
    json::string(resource, "/Status/HealthRollup").or_else(|| json::string(resource, "/Status/Health"))
}

fn rank(health: &str) -> u8 {
    match health {
        "Critical" => 3,
        "Warning" => 2,
        "OK" => 1,
        _ => 0,
    }
}

fn worse(one: Option<String>, other: Option<String>) -> Option<String> {
    [one, other].into_iter().flatten().filter(|health| rank(health) > 0).max_by_key(|health| rank(health))
}

/// What is not well in this resource, if it says so.
fn unwell(resource: &Value, kind: &str) -> Option<UnhealthyPart> {
    let health = of(resource).filter(|health| rank(health) > 1)?;
    let name = json::string(resource, "/Name").or_else(|| json::string(resource, "/Id")).unwrap_or_default();
    // Many are called by their number alone.
    let telling = name.chars().any(char::is_alphabetic);
    let name = if telling { name } else { format!("{kind} {name}") };
    Some(UnhealthyPart { name: short(name.trim()), health })
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

impl Health {
    /// Names a part that is not well.
    fn name(&mut self, part: Option<UnhealthyPart>) {
        if let Some(part) = part
            && self.unhealthy.len() < MOST_PARTS
            && !self.unhealthy.contains(&part)
        {
            self.unhealthy.push(part);
        }
    }

    /// Takes over what a system says of its parts without being asked further: its summaries, and its conditions, which
    /// are sentences (DSP0268, Status: Conditions).
    pub(super) fn take_system(&mut self, system: &Value) {
        for (pointer, name) in [("/ProcessorSummary", "processors"), ("/MemorySummary", "memory")] {
            let health = system.pointer(pointer).and_then(of).filter(|health| rank(health) > 1);
            self.name(health.map(|health| UnhealthyPart { name: name.to_owned(), health }));
        }
        for condition in json::list(system, "/Status/Conditions") {
            let severity = json::string(condition, "/Severity").filter(|severity| rank(severity) > 1);
            let message = json::string(condition, "/Message").filter(|message| !message.is_empty());
            self.name(
                severity
                    .zip(message)
                    .map(|(health, message)| UnhealthyPart { name: short(&message), health }),
            );
        }
    }

    /// Works out the worst of all.
    pub(super) fn settle(&mut self) {
        let parts = [&self.system, &self.manager, &self.thermal, &self.power];
        self.worst = parts.into_iter().cloned().fold(None, worse);
    }

    /// Takes over what a `Thermal` or `ThermalSubsystem` resource says.
    fn take_thermal(&mut self, thermal: &Value, fans: &[Value]) {
        let temperatures = json::list(thermal, "/Temperatures");
        let inline = json::list(thermal, "/Fans");
        self.fans += present(inline) + present(fans);
        for part in
            temperatures.iter().chain(inline).chain(fans).filter(|part| is_there(part)).chain([thermal])
        {
            self.thermal = worse(self.thermal.take(), of(part));
        }
        for (parts, kind) in [(temperatures, "temperature"), (inline, "fan"), (fans, "fan")] {
            parts.iter().filter(|part| is_there(part)).for_each(|part| self.name(unwell(part, kind)));
        }
        for sensor in temperatures.iter().filter(|sensor| is_there(sensor)) {
            let Some(celsius) =
                json::int(sensor, "/ReadingCelsius").filter(|celsius| (-50..200).contains(celsius))
            else {
                continue;
            };
            if self.hottest.as_ref().is_none_or(|hottest| celsius > hottest.celsius) {
                let name = json::string(sensor, "/Name").unwrap_or_default();
                self.hottest = Some(Temperature { name, celsius });
            }
        }
    }

    /// Takes over what a `Power` or `PowerSubsystem` resource says.
    fn take_power(&mut self, power: &Value, supplies: &[Value]) {
        let inline = json::list(power, "/PowerSupplies");
        self.power_supplies += present(inline) + present(supplies);
        for part in inline.iter().chain(supplies).filter(|part| is_there(part)).chain([power]) {
            self.power = worse(self.power.take(), of(part));
        }
        for part in inline.iter().chain(supplies).filter(|part| is_there(part)) {
            self.name(unwell(part, "power supply"));
        }
        let watts = json::int(power, "/PowerControl/0/PowerConsumedWatts");
        self.watts = self.watts.or(watts.filter(|watts| *watts > 0));
    }
}

fn is_there(part: &Value) -> bool {
    !matches!(json::text(part, "/Status/State"), Some("Absent" | "Disabled" | "UnavailableOffline"))
}

fn present(parts: &[Value]) -> usize {
    parts.iter().filter(|part| part.is_object() && is_there(part)).count()
}

/// Which parts of a system that is not well are not well, as far as the BMC says it within some requests. A system that is
/// well is not asked.
pub(in crate::redfish) async fn unhealthy(
    client: &Client,
    system: &Value,
    manager: Option<&Value>,
) -> Result<Vec<UnhealthyPart>, BmcError> {
    let mut health = Health { system: of(system), ..Health::default() };
    health.name(manager.and_then(|manager| unwell(manager, "BMC")));
    if health.system.as_deref().is_some_and(|system| rank(system) > 1) {
        health.take_system(system);
        let reader = Reader::with(client, REQUESTS).await?;
        read(&reader, system, &mut health).await?;
        for storage in reader.collection(system, "/Storage").await? {
            if of(&storage).is_none_or(|storage| rank(&storage) < 2) {
                continue;
            }
            let mut named = false;
            for member in json::members(&storage, "/Drives") {
                let drive = match member.inline {
                    Some(inline) => Some(inline),
                    None => reader.resource(&member.path).await?,
                };
                let part = drive.as_ref().filter(|drive| is_there(drive)).and_then(|it| unwell(it, "drive"));
                named |= part.is_some();
                health.name(part);
            }
            if !named {
                health.name(unwell(&storage, "storage"));
            }
        }
    }
    Ok(health.unhealthy)
}

/// Reads the chassis that a system stands in.
pub(super) async fn read(reader: &Reader<'_>, system: &Value, health: &mut Health) -> Result<(), BmcError> {
    for member in json::members(system, "/Links/Chassis").into_iter().take(CHASSIS) {
        let Some(chassis) = reader.resource(&member.path).await? else { continue };
        match reader.linked(&chassis, "/Thermal").await? {
            Some(thermal) => health.take_thermal(&thermal, &[]),
            None => {
                if let Some(thermal) = reader.linked(&chassis, "/ThermalSubsystem").await? {
                    let fans = reader.collection(&thermal, "/Fans").await?;
                    health.take_thermal(&thermal, &fans);
                }
            }
        }
        match reader.linked(&chassis, "/Power").await? {
            Some(power) => health.take_power(&power, &[]),
            None => {
                if let Some(power) = reader.linked(&chassis, "/PowerSubsystem").await? {
                    let supplies = reader.collection(&power, "/PowerSupplies").await?;
                    health.take_power(&power, &supplies);
                }
            }
        }
        health.settle();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_worst_counts_and_what_is_absent_does_not() {
        let mut health = Health { system: Some("OK".into()), ..Health::default() };
        health.take_thermal(
            &json!({"Temperatures": [
                {"Name": "inlet", "ReadingCelsius": 21, "Status": {"State": "Enabled", "Health": "OK"}},
                {"Name": "cpu", "ReadingCelsius": 71.5, "Status": {"Health": "Warning"}},
                {"Name": "gone", "ReadingCelsius": 99, "Status": {"State": "Absent", "Health": "Critical"}},
                {"Name": "odd", "ReadingCelsius": 4000}],
                "Fans": [{"Status": {"State": "Enabled", "Health": "OK"}}, {"Status": {"State": "Absent"}}, 7]}),
            &[],
        );
        health.take_power(
            &json!({"PowerControl": [{"PowerConsumedWatts": 312.4}], "PowerSupplies": {"@odata.id": "/x"}}),
            &[json!({"Status": {"Health": "OK"}}), json!({"Status": {"Health": "odd"}})],
        );
        health.settle();
        assert_eq!(health.hottest.as_ref().unwrap(), &Temperature { name: "cpu".into(), celsius: 71 });
        assert_eq!((health.fans, health.power_supplies, health.watts), (1, 2, Some(312)));
        assert_eq!((health.thermal.as_deref(), health.power.as_deref()), (Some("Warning"), Some("OK")));
        assert_eq!(health.worst.as_deref(), Some("Warning"));
        let part = |name: &str, health: &str| UnhealthyPart { name: name.into(), health: health.into() };
        assert_eq!(health.unhealthy, [part("cpu", "Warning")], "what is absent is not bad");

        health.take_system(&json!({
            "MemorySummary": {"Status": {"HealthRollup": "Critical"}}, "ProcessorSummary": {"Status": {"Health": "OK"}},
            "Status": {"Conditions": [
                {"Severity": "Warning", "Message": "fan 3\u{0007} is slow"}, {"Severity": "OK", "Message": "x"},
                {"Severity": "Critical"}, 7]},
        }));
        health.take_power(&json!({"PowerSupplies": [{"Name": "2", "Status": {"Health": "Critical"}}]}), &[]);
        let parts = [
            part("memory", "Critical"),
            part("fan 3  is slow", "Warning"),
            part("power supply 2", "Critical"),
        ];
        assert_eq!(health.unhealthy[1..], parts);
        // However many there are.
        let many: Vec<Value> = (0..99)
            .map(|n| json!({"Name": format!("{n}{}", "x".repeat(500)), "Status": {"Health": "Warning"}}))
            .collect();
        health.take_thermal(&json!({"Fans": many}), &[]);
        assert_eq!(health.unhealthy.len(), MOST_PARTS);
        assert!(health.unhealthy.iter().all(|part| part.name.chars().count() <= LONGEST));
    }
}

//! Health of a chassis: temperatures, fans, power supplies, by the resources of before and after Redfish 2020.4.

use serde_json::Value;

use super::{Health, Temperature};
use crate::error::BmcError;
use crate::redfish::inspect::Reader;
use crate::redfish::json;

/// Most chassis of a system that are looked at.
const CHASSIS: usize = 8;

/// The health of a resource with all its parts.
pub(super) fn of(resource: &Value) -> Option<String> {
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

impl Health {
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
    }
}

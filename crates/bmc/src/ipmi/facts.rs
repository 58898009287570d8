//! What the driver finds out about a server, from several commands each. What does not change is asked once.

use std::time::Duration;

use ferric_api::HardwareDetails;
use tokio::time::timeout;

use super::Ipmi;
use super::commands::chassis;
use super::commands::device::{self, Device};
use super::commands::fru::{self, Inventory};
use super::commands::lan;
use super::commands::sensors::{self, Health};
use crate::error::BmcError;
use crate::redfish::identity;
use crate::types::{BootMethod, MOST_PARTS, ManagerFacts, SystemFacts, UnhealthyPart};

/// Bytes of the FRU inventory that are read at once first, and at least.
const FRU_STEP: usize = 32;
const FRU_LEAST: usize = 8;
/// Sensor records that are looked at, and sensors that are read, at most.
const MOST_RECORDS: usize = 512;
const MOST_SENSORS: usize = 128;
/// How long the sensors may take.
const SENSORS: Duration = Duration::from_secs(20);

impl Ipmi {
    async fn device(&self) -> Result<Option<Device>, BmcError> {
        if let Some(device) = self.kept().device.clone() {
            return Ok(Some(device));
        }
        let data = self.fact("the device ID", device::get_device()).await?;
        let found = data.as_deref().and_then(device::device);
        self.kept().device.clone_from(&found);
        Ok(found)
    }

    async fn uuid(&self) -> Result<Option<String>, BmcError> {
        if let Some(uuid) = self.kept().uuid.clone() {
            return Ok(uuid);
        }
        let data = self.fact("the system GUID", device::get_guid()).await?;
        let found = data.as_deref().and_then(device::uuid);
        // A refusal may be of the moment.
        if data.is_some() {
            self.kept().uuid = Some(found.clone());
        }
        Ok(found)
    }

    async fn inventory(&self) -> Result<Inventory, BmcError> {
        if let Some(inventory) = self.kept().inventory.clone() {
            return Ok(inventory);
        }
        let (found, whole) = self.read_inventory().await?;
        // A refusal may be of the moment.
        if whole {
            self.kept().inventory = Some(found.clone());
        }
        Ok(found)
    }

    /// The inventory as far as it can be read, and whether nothing was missing.
    async fn read_inventory(&self) -> Result<(Inventory, bool), BmcError> {
        let nothing = Ok((Inventory::default(), false));
        let info = self.fact("the size of the FRU inventory", fru::get_area()).await?;
        let Some(area) = info.as_deref().and_then(fru::area) else { return nothing };
        let header = self.fru_bytes(area, 0, fru::HEADER).await?;
        let Some([_, board, product]) = fru::areas(&header) else { return nothing };
        let (mut contents, mut whole) = ([Vec::new(), Vec::new()], true);
        for (at, content) in [board, product].into_iter().zip(&mut contents) {
            let Some(at) = at else { continue };
            let start = self.fru_bytes(area, at, 2).await?;
            if let Some(length) = fru::length(&start) {
                *content = self.fru_bytes(area, at, length).await?;
                whole &= content.len() == length;
            }
        }
        let [board, product] = contents;
        Ok((fru::inventory(&board, &product), whole))
    }

    /// So many bytes of the inventory, or as many as can be had. At most 2040: an area is no longer.
    async fn fru_bytes(&self, area: fru::Area, from: usize, length: usize) -> Result<Vec<u8>, BmcError> {
        let (mut bytes, mut step) = (Vec::new(), FRU_STEP);
        while bytes.len() < length {
            let left = area.size.saturating_sub(from + bytes.len());
            let count = step.min(length - bytes.len()).min(left);
            let Some(request) = fru::read(area, from + bytes.len(), count) else { break };
            let data = self.fact("the FRU inventory", request).await?;
            match data.as_deref().and_then(|data| fru::part(area, data)) {
                Some(part) if !part.is_empty() => bytes.extend(part.iter().take(count)),
                // Perhaps it was too much at once.
                _ if step > FRU_LEAST => step /= 2,
                _ => break,
            }
        }
        Ok(bytes)
    }

    /// What the sensors say; a sensor that says nothing is left out.
    async fn sensors(&self) -> Result<Vec<(u8, Health)>, BmcError> {
        let kept = self.kept().sensors.clone();
        let numbers = match kept {
            Some(numbers) => numbers,
            None => {
                let found = self.find_sensors().await?;
                self.kept().sensors = Some(found.clone());
                found
            }
        };
        let mut said = Vec::new();
        for number in numbers {
            let data = self.fact("a sensor", sensors::read(number)).await?;
            said.extend(data.as_deref().and_then(sensors::health).map(|health| (number, health)));
        }
        Ok(said)
    }

    async fn find_sensors(&self) -> Result<Vec<u8>, BmcError> {
        let data = self.fact("a reservation of the sensor records", sensors::reserve()).await?;
        let mut reservation = data.as_deref().and_then(sensors::reservation).unwrap_or_default();
        let (mut at, mut found, mut cancelled) = (sensors::FIRST, Vec::new(), 0);
        for _ in 0..MOST_RECORDS {
            let request = sensors::get(reservation, at);
            let Some((next, sensor)) =
                self.fact("a sensor record", request).await?.as_deref().and_then(sensors::record)
            else {
                // Somebody else reserved them, or there is no such record.
                cancelled += 1;
                if cancelled > 3 {
                    break;
                }
                let data = self.fact("a reservation of the sensor records", sensors::reserve()).await?;
                reservation = data.as_deref().and_then(sensors::reservation).unwrap_or_default();
                continue;
            };
            found.extend(sensor);
            if next == sensors::LAST || next == at || found.len() >= MOST_SENSORS {
                break;
            }
            at = next;
        }
        Ok(found)
    }

    /// What chassis and sensors say together, and who of them is not well. Sensors are read for so long only; their silence
    /// is no failure.
    async fn health(&self, status: chassis::Status) -> (Health, Vec<UnhealthyPart>) {
        let chassis = [
            (status.power_fault, "power", Health::Critical),
            (status.drive_fault, "drives", Health::Warning),
            (status.cooling_fault, "cooling", Health::Warning),
        ];
        let chassis =
            chassis.into_iter().filter(|(fault, _, _)| *fault).map(|(_, name, it)| (name.to_owned(), it));
        let sensors = timeout(SENSORS, self.sensors()).await.ok().and_then(Result::ok).unwrap_or_default();
        let sensors = sensors.into_iter().map(|(number, health)| (format!("sensor {number}"), health));
        let all: Vec<(String, Health)> = chassis.chain(sensors).collect();
        let worst = all.iter().map(|(_, health)| *health).max().unwrap_or(Health::Ok);
        let unwell = all.into_iter().filter(|(_, health)| *health > Health::Ok).take(MOST_PARTS);
        let parts = unwell.map(|(name, health)| UnhealthyPart { name, health: health.name().to_owned() });
        (worst, parts.collect())
    }

    pub(super) async fn read_facts(&self) -> Result<SystemFacts, BmcError> {
        let status = self.status().await?;
        let device = self.device().await?;
        let uuid = self.uuid().await?;
        let Inventory { manufacturer, product, serial } = self.inventory().await?;
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let (health, unhealthy) = self.health(status).await;
        Ok(SystemFacts {
            // Vendors fill the FRU by hand: where the UUID says which machine it is, a serial number that the firmware
            // spells otherwise would only keep the machine out.
            serial_number: match uuid {
                Some(_) => None,
                None => identity::serial(&serial),
            },
            system_uuid: uuid,
            manufacturer: said(manufacturer),
            product: said(product),
            bmc_firmware: device.map(|device| device.firmware),
            power: status.power,
            boot_methods: vec![BootMethod::Network],
            macs: Vec::new(),
            health: Some(health.name().to_owned()),
            unhealthy,
        })
    }

    /// What the BMC says of itself: of the channel that it is spoken to by, and of its server.
    pub(super) async fn read_manager(&self) -> Result<ManagerFacts, BmcError> {
        let mac = self.fact("its MAC address", lan::get(lan::THIS_CHANNEL, lan::MAC)).await?;
        let ip = self.fact("its address", lan::get(lan::THIS_CHANNEL, lan::ADDRESS)).await?;
        let guid = self.fact("the system GUID", device::get_guid()).await?;
        let serial = identity::serial(&self.inventory().await?.serial);
        Ok(ManagerFacts {
            macs: mac.as_deref().and_then(lan::mac).into_iter().collect(),
            addresses: ip.as_deref().and_then(lan::address).map(Into::into).into_iter().collect(),
            system_guid: guid.as_deref().and_then(|guid| guid.first_chunk().copied()),
            serial_numbers: serial.into_iter().collect(),
            shared: false,
        })
    }

    pub(super) async fn read_hardware(&self) -> Result<HardwareDetails, BmcError> {
        let device = self.device().await?;
        let Inventory { manufacturer, product, serial } = self.inventory().await?;
        let mut details = HardwareDetails::default();
        details.system_vendor.manufacturer = manufacturer;
        details.system_vendor.product_name = product;
        details.system_vendor.serial_number = identity::serial(&serial).unwrap_or_default();
        details.firmware.bmc_version = device.map(|device| device.firmware).unwrap_or_default();
        Ok(details)
    }
}

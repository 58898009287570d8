#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::json;

#[test]
fn processors() {
    let two = |threads: Value| {
        vec![
            json!({"ProcessorType": "CPU", "TotalThreads": threads, "TotalCores": 4, "InstructionSet": "x86-64"}),
            json!({"ProcessorType": "CPU", "TotalThreads": 8, "TotalCores": 4, "Model": "M", "MaxSpeedMHz": 4000}),
            json!({"ProcessorType": "GPU", "TotalThreads": 9999}),
            json!({"ProcessorType": "CPU", "TotalThreads": 8, "Status": {"State": "Absent"}}),
        ]
    };
    let found = cpu(&json!({}), &two(json!(8)));
    assert_eq!((found.count, found.model.as_str(), found.clock_megahertz), (16, "M", 4000));
    assert_eq!(found.arch, "x86_64");
    assert_eq!(cpu(&json!({}), &two(json!(null))).count, 8, "cores where one does not tell its threads");
    assert_eq!(cpu(&json!({"ProcessorSummary": {"LogicalProcessorCount": 72}}), &two(json!(8))).count, 72);
    assert_eq!(cpu(&json!({"ProcessorSummary": {"Count": 2}}), &[]).count, 2);
    assert_eq!(cpu(&json!({}), &[]), Cpu::default());
}

#[test]
fn memory() {
    assert_eq!(ram_of_summary(&json!({"MemorySummary": {"TotalSystemMemoryGiB": 15.5}})), 15872);
    assert_eq!(ram_of_summary(&json!({"MemorySummary": {"TotalSystemMemoryGiB": "512"}})), 524_288);
    assert_eq!(ram_of_summary(&json!({"MemorySummary": {"TotalSystemMemoryGiB": -1}})), 0);
    assert_eq!(ram_of_summary(&json!({"MemorySummary": null})), 0);
    let modules = [
        json!({"CapacityMiB": 1024}),
        json!({"CapacityMiB": null}),
        json!({"CapacityMiB": 1024, "Status": {"State": "Absent"}}),
    ];
    assert_eq!(ram_of_modules(&modules), 1024);
}

#[test]
fn interfaces() {
    let found = nics(&[
        json!({"Id": "1", "MACAddress": "94:6D:AE:91:FB:22", "PermanentMACAddress": "94:6d:ae:91:fb:23",
            "SpeedMbps": 25000, "IPv4Addresses": [{"Address": "0.0.0.0"}]}),
        json!({"Id": "again", "MACAddress": "94:6d:ae:91:fb:23"}),
        json!({"Id": "bmc", "MACAddress": "be:3a:f2:b6:05:9f", "IPv4Addresses": [{"Address": "169.254.3.1"}]}),
        json!({"Id": "none", "MACAddress": null}),
        json!({"Id": "zero", "MACAddress": "00:00:00:00:00:00"}),
        json!({"Id": "infiniband", "MACAddress": "00:00:10:29:fe:80:00:00:00:00:00:00:94:6d:ae:03:00:91:fb:22"}),
        json!({"Id": "vlan", "EthernetInterfaceType": "Virtual", "MACAddress": "94:6d:ae:91:fb:24"}),
        json!({"Name": "lab", "MACAddress": "52:54:00:00:00:01", "IPv4Addresses": [{"Address": "10.0.0.9"}]}),
    ]);
    let short: Vec<_> =
        found.iter().map(|n| (n.name.as_str(), n.mac.as_str(), n.ip.as_str(), n.speed_gbps)).collect();
    assert_eq!(short, [("1", "94:6d:ae:91:fb:23", "", 25), ("lab", "52:54:00:00:00:01", "10.0.0.9", 0)]);
}

#[test]
fn drives() {
    let table = [
        (json!({"CapacityBytes": 5, "MediaType": "SSD", "Protocol": "PCIe"}), false, "NVME"),
        (json!({"CapacityBytes": 5, "MediaType": "SSD", "Protocol": "NVMe"}), false, "NVME"),
        (json!({"CapacityBytes": 5, "MediaType": "SSD", "Protocol": "SATA"}), true, "SSD"),
        (json!({"CapacityBytes": 5, "MediaType": "HDD", "Protocol": "SAS"}), false, "HDD"),
        (json!({"CapacityBytes": 5, "RotationSpeedRPM": 7200}), true, "HDD"),
        (json!({"CapacityBytes": 5}), true, "NVME"),
        (json!({"CapacityBytes": 5}), false, ""),
    ];
    for (drive, nvme, expected) in table {
        let found = drive_of(&drive, nvme).unwrap();
        assert_eq!((found.disk_type.as_str(), found.rotational), (expected, expected == "HDD"), "{drive}");
    }
    for empty in [
        json!({"CapacityBytes": 0, "Name": "Bay 1"}),
        json!({"CapacityBytes": 5, "Status": {"State": "Absent"}}),
        json!("/a/link"),
    ] {
        assert_eq!(drive_of(&empty, false), None, "{empty}");
    }
    let named = json!({"CapacityBytes": 5, "Identifiers": [{"DurableName": null, "DurableNameFormat": null},
        {"DurableName": "5000C500A1B2C3D4", "DurableNameFormat": "NAA"}]});
    assert_eq!(drive_of(&named, false).unwrap().wwn, "0x5000c500a1b2c3d4");
    let named = json!({"CapacityBytes": 5, "Identifiers": [{"DurableName": "0025389A210108DA", "DurableNameFormat": "EUI"}]});
    assert_eq!(drive_of(&named, false).unwrap().wwn, "eui.0025389a210108da");
}

//! Vendor quirks as data: rules that mend a resource's JSON before anything reads it.

use serde_json::Value;

use super::json;

/// Mends resources of one vendor.
struct Rule {
    /// Part of the system's `Manufacturer`, in lower case.
    vendor: &'static str,
    /// Part of `Model`, in lower case; empty: every product.
    product: &'static str,
    /// Beginning of `@odata.type`.
    odata_type: &'static str,
    fix: Fix,
}

enum Fix {
    /// What stands at `from` also goes to `to`.
    Copy { from: &'static str, to: &'static str },
    /// Where the list at `list` has `better`, `worse` is taken off it.
    Prefer { list: &'static str, better: &'static str, worse: &'static str },
}

const RULES: &[Rule] = &[
    // SMBIOS, the label and the operating system call the service tag the serial number; Redfish's SerialNumber is the
    // planar's.
    Rule {
        vendor: "dell",
        product: "",
        odata_type: "#ComputerSystem.",
        fix: Fix::Copy { from: "/SKU", to: "/SerialNumber" },
    },
    // Virtual media is a USB CD there: a boot override to `Cd` looks for a SATA drive.
    Rule {
        vendor: "supermicro",
        product: "",
        odata_type: "#ComputerSystem.",
        fix: Fix::Prefer {
            list: "/Boot/BootSourceOverrideTarget@Redfish.AllowableValues",
            better: "UsbCd",
            worse: "Cd",
        },
    },
];

/// Applies every rule that fits the system resource.
pub(crate) fn mend_system(system: &mut Value) {
    let vendor = json::text(system, "/Manufacturer").unwrap_or_default().to_ascii_lowercase();
    let product = json::text(system, "/Model").unwrap_or_default().to_ascii_lowercase();
    let odata_type = json::string(system, "/@odata.type").unwrap_or_default();
    for rule in RULES {
        let fits = vendor.contains(rule.vendor)
            && product.contains(rule.product)
            && odata_type.starts_with(rule.odata_type);
        if fits {
            apply(&rule.fix, system);
        }
    }
}

fn apply(fix: &Fix, value: &mut Value) {
    match fix {
        Fix::Copy { from, to } => {
            if let Some(text) = json::string(value, from)
                && let Some((parent, key)) = to.rsplit_once('/')
                && let Some(Value::Object(object)) = value.pointer_mut(parent)
            {
                object.insert(key.to_owned(), Value::String(text));
            }
        }
        Fix::Prefer { list, better, worse } => {
            if let Some(Value::Array(items)) = value.pointer_mut(list)
                && items.iter().any(|item| item == better)
            {
                items.retain(|item| item != worse);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dell_is_known_by_its_service_tag() {
        let mut system = json!({"@odata.type": "#ComputerSystem.v1_16_0.ComputerSystem",
            "Manufacturer": "Dell Inc.", "SKU": "F54P1G3", "SerialNumber": "CNIVC0014M0388"});
        mend_system(&mut system);
        assert_eq!(system["SerialNumber"], "F54P1G3");
        system["SKU"] = json!("");
        system["SerialNumber"] = json!("kept");
        mend_system(&mut system);
        assert_eq!(system["SerialNumber"], "kept");
    }

    #[test]
    fn a_supermicro_boots_media_from_the_usb_cd() {
        let key = "BootSourceOverrideTarget@Redfish.AllowableValues";
        let mut system = json!({"@odata.type": "#ComputerSystem.v1_14_0.ComputerSystem",
            "Manufacturer": "Supermicro", "Boot": {key: ["None", "Cd", "UsbCd"]}});
        mend_system(&mut system);
        assert_eq!(system["Boot"][key], json!(["None", "UsbCd"]));
        system["Boot"][key] = json!(["Cd"]);
        mend_system(&mut system);
        assert_eq!(system["Boot"][key], json!(["Cd"]));
    }
}

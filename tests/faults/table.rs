//! Faults of BMCs: how the simulator is told to have them, and what each comes to.

#![allow(dead_code, reason = "not every test uses all of it")]

use serde_json::{Value, json};

/// What is asked of a BMC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The facts, on a connection of its own.
    Probe,
    /// The hardware.
    Inspect,
    /// The power.
    Read,
    /// To turn a server on that is off.
    On,
    /// To turn a server off that is on.
    Off,
    /// To boot from a URL next.
    Boot,
}

pub const OPERATIONS: [Operation; 6] =
    [Operation::Probe, Operation::Inspect, Operation::Read, Operation::On, Operation::Off, Operation::Boot];

/// A fault.
pub struct Fault {
    /// As docs/bmc.md calls it.
    pub name: &'static str,
    /// What the simulator is told.
    pub faults: fn(Operation) -> Value,
    /// The reason that each of [`OPERATIONS`] fails with; `-`: it goes well. A change of power includes reading it back.
    pub reasons: [&'static str; 6],
}

fn rule(effect: Value) -> Value {
    // All but who one is: that is a fault of its own.
    json!({"rules": [{"path": "/redfish/v1/Systems*", "effect": effect}]})
}

fn status(status: u16) -> Value {
    rule(json!({"status": {"status": status}}))
}

fn changes(effect: Value) -> Value {
    json!({"rules": [
        {"method": "POST", "path": "/redfish/v1/Systems*", "effect": effect},
        {"method": "PATCH", "path": "/redfish/v1/Systems*", "effect": effect},
    ]})
}

const fn always(reason: &'static str) -> [&'static str; 6] {
    [reason; 6]
}

/// Reads go well, changes of power and boot do not.
const fn changing(power: &'static str, boot: &'static str) -> [&'static str; 6] {
    ["-", "-", "-", power, power, boot]
}

/// Commands of a pattern meet this, so often at most.
fn commands(pattern: &str, times: Option<u64>, effect: Value) -> Value {
    json!({"rules": [{"path": format!("/ipmi/{pattern}"), "times": times, "effect": effect}]})
}

/// Chassis Control and Set System Boot Options (IPMI v2.0, 28.3 and 28.12), by network function and command.
fn orders(effect: Value) -> Value {
    let rule = |path: &str| json!({"path": path, "effect": effect});
    json!({"rules": [rule("/ipmi/00/02"), rule("/ipmi/00/08")]})
}

/// Faults of IPMI that need a longer deadline to come to their end: a session that is lost is given up after 10 s.
pub const SLOW: [&str; 2] = ["forgets its sessions", "node busy (C0h), always"];

/// The table of IPMI. Hardware that does not change is asked for once: no fault meets it afterwards.
pub const IPMI_FAULTS: &[Fault] = &[
    Fault { name: "answers late", faults: |_| json!({"bmcDelayMs": 50}), reasons: always("-") },
    Fault {
        name: "loses the first questions",
        faults: |_| commands("*", Some(2), json!("close")),
        reasons: always("-"),
    },
    Fault {
        name: "loses the first answers",
        faults: |_| commands("*", Some(2), json!("doneButClose")),
        reasons: always("-"),
    },
    Fault {
        name: "answers after it was asked again, and then twice",
        faults: |_| commands("*", Some(2), json!({"delay": {"ms": 1300}})),
        reasons: always("-"),
    },
    Fault {
        name: "damages the first answers",
        faults: |_| commands("*", Some(2), json!("notJson")),
        reasons: always("-"),
    },
    Fault {
        name: "cuts the first answers short",
        faults: |_| commands("*", Some(2), json!("truncated")),
        reasons: always("-"),
    },
    Fault {
        name: "never answers",
        faults: |_| json!({"bmc": "hangs"}),
        reasons: ["BMCTimeout", "-", "BMCTimeout", "BMCTimeout", "BMCTimeout", "BMCTimeout"],
    },
    Fault {
        name: "damages all answers",
        faults: |_| json!({"bmc": "garbage"}),
        reasons: ["BMCTimeout", "-", "BMCTimeout", "BMCTimeout", "BMCTimeout", "BMCTimeout"],
    },
    Fault {
        name: "another password",
        faults: |_| json!({"password": "another"}),
        // An open session is gone on with.
        reasons: ["BMCUnauthorized", "-", "-", "-", "-", "-"],
    },
    Fault {
        name: "no session slot free",
        faults: |_| json!({"sessionTableFull": true}),
        reasons: ["BMCBusy", "-", "-", "-", "-", "-"],
    },
    Fault {
        name: "forgets its sessions",
        faults: |_| commands("*", Some(1), json!({"doneButRestart": {"ms": 300}})),
        reasons: always("-"),
    },
    Fault {
        name: "node busy (C0h), twice",
        faults: |_| commands("*", Some(2), json!({"status": {"status": 503}})),
        reasons: always("-"),
    },
    Fault {
        name: "node busy (C0h), always",
        faults: |_| json!({"bmc": "unavailable"}),
        reasons: ["BMCBusy", "-", "BMCBusy", "BMCBusy", "BMCBusy", "BMCBusy"],
    },
    Fault {
        name: "refuses changes with D5h",
        faults: |_| orders(json!({"status": {"status": 409}})),
        reasons: changing("BMCCommandRefused", "BMCCommandRefused"),
    },
    Fault {
        name: "refuses changes for want of privilege (D4h)",
        faults: |_| orders(json!({"status": {"status": 403}})),
        reasons: changing("BMCCommandRefused", "BMCCommandRefused"),
    },
    Fault {
        name: "takes boot flags and says FFh",
        faults: |_| commands("00/08", None, json!({"doneButStatus": {"status": 500}})),
        reasons: changing("-", "BMCCommandRefused"),
    },
    Fault {
        name: "makes changes and loses all answers to them",
        faults: |_| orders(json!("doneButClose")),
        reasons: changing("BMCTimeout", "BMCTimeout"),
    },
    Fault {
        name: "takes changes of power and does nothing",
        faults: |_| json!({"powerStuck": true}),
        reasons: changing("PowerNotConfirmed", "-"),
    },
    Fault {
        name: "says of the power what it was before",
        faults: |operation| match operation {
            Operation::Off => json!({"powerLies": "On"}),
            _ => json!({"powerLies": "Off"}),
        },
        reasons: changing("PowerNotConfirmed", "-"),
    },
    Fault {
        name: "forgets the boot flags",
        faults: |_| json!({"bootOverrideForgotten": true}),
        reasons: always("-"),
    },
];

/// The table.
pub const FAULTS: &[Fault] = &[
    Fault { name: "answers late", faults: |_| json!({"bmcDelayMs": 50}), reasons: always("-") },
    Fault {
        name: "refuses connections",
        faults: |_| json!({"bmc": "unreachable"}),
        reasons: always("BMCUnreachable"),
    },
    Fault {
        name: "never answers",
        faults: |_| json!({"bmc": "hangs"}),
        // A connection that is taken and not gone on with cannot be told from none.
        reasons: ["BMCUnreachable", "BMCTimeout", "BMCTimeout", "BMCTimeout", "BMCTimeout", "BMCTimeout"],
    },
    Fault {
        name: "sends a byte now and then",
        faults: |_| rule(json!({"trickle": {"bytes": 1_000_000, "chunk": 1, "pauseMs": 100}})),
        reasons: always("BMCTimeout"),
    },
    Fault {
        name: "closes connections in the middle",
        faults: |_| rule(json!("close")),
        reasons: always("BMCUnreachable"),
    },
    Fault {
        name: "another password",
        faults: |_| json!({"password": "another"}),
        reasons: always("BMCUnauthorized"),
    },
    Fault { name: "401", faults: |_| status(401), reasons: always("BMCUnauthorized") },
    Fault { name: "403", faults: |_| status(403), reasons: always("BMCUnexpectedAnswer") },
    Fault { name: "404", faults: |_| status(404), reasons: always("BMCNoSystem") },
    Fault { name: "409", faults: |_| status(409), reasons: always("BMCBusy") },
    Fault { name: "412", faults: |_| status(412), reasons: always("BMCBusy") },
    Fault { name: "429", faults: |_| status(429), reasons: always("BMCBusy") },
    Fault { name: "500", faults: |_| status(500), reasons: always("BMCUnexpectedAnswer") },
    Fault { name: "503", faults: |_| json!({"bmc": "unavailable"}), reasons: always("BMCBusy") },
    Fault {
        name: "500, a web page",
        faults: |_| json!({"bmc": "garbage"}),
        reasons: always("BMCUnexpectedAnswer"),
    },
    Fault {
        name: "truncated JSON",
        faults: |_| rule(json!("truncated")),
        reasons: always("BMCMalformedAnswer"),
    },
    Fault { name: "no JSON", faults: |_| rule(json!("notJson")), reasons: always("BMCMalformedAnswer") },
    Fault {
        name: "no power state",
        faults: |_| rule(json!({"without": {"places": ["/PowerState"]}})),
        reasons: ["-", "-", "PowerUnknown", "PowerNotConfirmed", "PowerNotConfirmed", "-"],
    },
    Fault {
        name: "no actions",
        faults: |_| rule(json!({"without": {"places": ["/Actions"]}})),
        reasons: changing("BMCNotSupported", "-"),
    },
    Fault {
        name: "no boot settings",
        faults: |_| rule(json!({"without": {"places": ["/Boot"]}})),
        reasons: always("-"),
    },
    Fault {
        name: "refuses changes with 500",
        faults: |_| changes(json!({"status": {"status": 500}})),
        reasons: changing("BMCUnexpectedAnswer", "BMCUnexpectedAnswer"),
    },
    Fault {
        name: "makes changes and answers 500",
        faults: |_| changes(json!({"doneButStatus": {"status": 500}})),
        reasons: changing("-", "BMCUnexpectedAnswer"),
    },
    Fault {
        name: "makes changes and loses the answer",
        faults: |_| changes(json!("doneButClose")),
        reasons: changing("BMCUnreachable", "BMCUnreachable"),
    },
    Fault {
        name: "restarts in the middle of a change",
        faults: |_| changes(json!({"doneButRestart": {"ms": 300}})),
        reasons: changing("BMCUnreachable", "BMCUnreachable"),
    },
    Fault {
        name: "takes changes of power and does nothing",
        faults: |_| json!({"powerStuck": true}),
        reasons: changing("PowerNotConfirmed", "-"),
    },
    Fault {
        name: "says of the power what it was before",
        faults: |operation| match operation {
            Operation::Off => json!({"powerLies": "On"}),
            _ => json!({"powerLies": "Off"}),
        },
        reasons: changing("PowerNotConfirmed", "-"),
    },
    Fault {
        name: "no session slot free",
        faults: |_| json!({"sessionTableFull": true}),
        reasons: always("-"),
    },
    Fault {
        name: "no session slot free, basic authentication off",
        faults: |_| json!({"sessionTableFull": true, "basicAuthOff": true}),
        // An open session is gone on with.
        reasons: ["BMCBusy", "-", "-", "-", "-", "-"],
    },
    Fault {
        name: "a clock that is years off",
        faults: |_| json!({"clockOffsetSeconds": -100_000_000}),
        reasons: always("-"),
    },
    Fault {
        name: "another certificate",
        faults: |_| json!({"certificateChanged": true}),
        reasons: always("BMCCertificateRejected"),
    },
    Fault {
        name: "a medium that ejects itself",
        faults: |_| json!({"mediaEjectsItself": true}),
        reasons: always("-"),
    },
    Fault {
        name: "forgets the boot override",
        faults: |_| json!({"bootOverrideForgotten": true}),
        reasons: always("-"),
    },
];

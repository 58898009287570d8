//! Any rules on any JSON: no panic, bounded growth, and operations that may be done twice.
#![allow(clippy::unwrap_used)]

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::patch::{BUDGET, RawOperation, depth, weight};
use super::{Identity, Quirks, rule};
use crate::cases::{cases, matching};

/// Few keys, so that pointers and documents meet.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => proptest::sample::select(&["a", "b", "c", "0", "1", "*", "-", "~", "/", "SKU", "SerialNumber", "Boot", "@odata.type"][..])
            .prop_map(str::to_owned),
        1 => matching(".{0,3}"),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(
            &["x", "y", "Cd", "UsbCd", "#Thing.v1_0_0.Thing", "#ComputerSystem.v1_0_0.ComputerSystem"][..]
        )
        .prop_map(Value::from),
        matching(".{0,6}").prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(key(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn pointer() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => vec(key(), 1..4).prop_map(|parts| {
            parts.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
        }),
        1 => matching(".{0,6}"),
    ]
}

fn operation() -> impl Strategy<Value = Value> {
    let change = prop_oneof![
        (pointer(), any_json()).prop_map(|(at, value)| json!({"add": {"at": at, "value": value}})),
        (pointer(), any_json(), any_json())
            .prop_map(|(at, value, was)| json!({"replace": {"at": at, "value": value, "was": was}})),
        (pointer(), any_json()).prop_map(|(at, value)| json!({"replace": {"at": at, "value": value}})),
        (pointer(), pointer(), any::<bool>())
            .prop_map(|(from, to, over)| json!({"rename": {"from": from, "to": to, "overwrite": over}})),
        (pointer(), pointer(), any::<bool>())
            .prop_map(|(from, to, over)| json!({"copy": {"from": from, "to": to, "overwrite": over}})),
        pointer().prop_map(|at| json!({"remove": {"at": at}})),
        (pointer(), vec(any_json(), 0..3))
            .prop_map(|(at, items)| json!({"remove": {"at": at, "items": items}})),
        (pointer(), btree_map(matching("x|y|z"), matching("x|y|w"), 0..3))
            .prop_map(|(at, values)| json!({"map": {"at": at, "values": values}})),
        any_json(),
    ];
    (change, proptest::option::of(pointer())).prop_map(|(mut change, under)| {
        if let (Some(under), Value::Object(change)) = (under, &mut change) {
            change.insert("under".into(), under.into());
        }
        change
    })
}

/// A rule, often a good one.
fn any_rule() -> impl Strategy<Value = Value> {
    let fits = prop_oneof![
        4 => Just(json!({"vendor": "*", "type": ["Thing", "ComputerSystem"]})),
        2 => Just(json!({"vendor": "*", "path": "/*"})),
        1 => (pointer(), any_json()).prop_map(|(at, value)| json!({"vendor": "*", "path": "/*", "where": [{"at": at, "equals": value}]})),
        1 => any_json(),
    ];
    (fits, vec(operation(), 0..6), proptest::option::weighted(0.2, any_json())).prop_map(
        |(fits, patch, send)| {
            let mut rule = json!({"name": "a", "seen": "here", "match": fits, "patch": patch});
            if let Some(send) = send {
                rule["send"] = send;
            }
            rule
        },
    )
}

fn numbered(mut rules: Vec<Value>) -> Value {
    for (at, rule) in rules.iter_mut().enumerate() {
        rule["name"] = format!("rule-{at}").into();
    }
    json!({"version": 1, "rules": rules})
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases(1000)) })]

    #[test]
    fn any_rules_on_any_document(rules in vec(any_rule(), 0..6), mut document in any_json()) {
        let (quirks, _) = Quirks::with(&[("file", &numbered(rules).to_string())]);
        let mut identity = Identity::default();
        identity.learn_root(&document);
        identity.learn_system(&document);
        identity.learn_manager(&document);
        let active = quirks.active(identity);
        let (before, deep) = (weight(&document), depth(&document));
        active.mend("/x", &mut document);
        prop_assert!(weight(&document) <= before + BUDGET);
        prop_assert!(depth(&document) <= deep.max(64) + 32);
        let _ = active.matches([("/x", &document)].into_iter());
        let _ = active.manner.insert_bodies(vec![document], Some("HTTP"));
    }

    #[test]
    fn an_operation_done_twice_is_done_once(written in operation(), mut document in any_json()) {
        let operation = serde_json::from_value::<RawOperation>(written).map_err(|_| ()).and_then(|raw| raw.check().map_err(|_| ()));
        if let Ok(operation) = operation {
            operation.apply(&mut document, &mut { BUDGET });
            let once = document.clone();
            operation.apply(&mut document, &mut { BUDGET });
            prop_assert_eq!(document, once);
        }
    }

    #[test]
    fn the_built_in_rules_done_twice_are_done_once(mut document in any_json()) {
        let mut identity = Identity::default();
        for vendor in ["Dell", "Supermicro", "Huawei", "AMI"] {
            identity.learn_system(&json!({"Manufacturer": vendor}));
        }
        let active = Quirks::default().active(identity);
        active.mend("/x", &mut document);
        let once = document.clone();
        active.mend("/x", &mut document);
        prop_assert_eq!(document, once);
    }

    #[test]
    fn any_text_is_rules_or_a_sentence(text in matching("\\PC{0,200}"), yaml in matching("(version: 1\n)?(rules:\n)?([- a-z:{}&*,\n\\[\\]]{0,80})")) {
        for text in [text, yaml] {
            let file = rule::parse("file", &text);
            prop_assert!(file.errors.iter().all(|error| !error.message.is_empty()));
        }
    }

    #[test]
    fn any_firmware_text_is_compared(text in matching(".{0,40}"), range in matching("[<>=0-9., ]{0,20}")) {
        if let Ok(range) = super::version::Range::parse(&range) {
            let _ = range.holds(&text);
        }
    }
}

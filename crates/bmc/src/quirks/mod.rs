//! Vendor quirks as data: rules keyed by maker, product, firmware and `@odata.type` that patch JSON before anything reads
//! it, and say how actions are sent.
//!
//! All here is pure but [`SharedQuirks`], the handle by which the rules of a running pool are exchanged. The format is
//! described in `docs/bmc.md`; the built-in rules are `builtin.yaml`.

mod manner;
mod patch;
#[cfg(test)]
mod properties;
mod rule;
mod version;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::Value;

pub(crate) use manner::{Enabled, IfMatch, InsertBy, Manner, Mode, Through};
pub(crate) use patch::weight;
use rule::Rule;

/// The rules that come with the program.
const BUILT_IN: &str = include_str!("builtin.yaml");
/// What the source of the built-in rules is called.
const BUILT_IN_NAME: &str = "built-in";
/// Most names of makers and products that are kept of one BMC, and most characters of each.
const NAMES: usize = 6;
const NAME: usize = 100;

/// Why rules were refused: which file, which rule of it, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct QuirkError {
    /// The file.
    pub file: String,
    /// The rule, by its name, or its place where it has none; without, the whole file is refused.
    pub rule: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for QuirkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, rule, message } = self;
        match rule {
            Some(rule) => write!(f, "quirk rule {rule} of {file} is refused: {message}"),
            None => write!(f, "quirks of {file} are refused: {message}"),
        }
    }
}

/// A rule that is about a BMC, for people.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct QuirkMatch {
    /// Its name.
    pub name: String,
    /// The file that it is from; `built-in` for those of the program.
    pub source: String,
    /// On what the quirk was seen.
    pub seen: String,
    /// Whether it says how actions are sent.
    pub sends: bool,
    /// Paths of the documents that it changed, the first hundred.
    pub patched: Vec<String>,
}

/// Rules, in the order in which they are applied.
#[derive(Debug, Clone)]
pub struct Quirks {
    rules: Vec<Arc<Rule>>,
}

impl Default for Quirks {
    /// The built-in rules.
    fn default() -> Self {
        Self::with(&[]).0
    }
}

impl Quirks {
    /// The built-in rules and those of further files, given as name and text. A later rule wins over an earlier one, and
    /// takes its place where it has the same name. What cannot be used is left out and told.
    pub fn with(files: &[(&str, &str)]) -> (Self, Vec<QuirkError>) {
        // The same text each time: read once.
        static READ: LazyLock<(Quirks, Vec<QuirkError>)> = LazyLock::new(|| {
            let mut read = Quirks { rules: Vec::new() };
            let errors = read.add(BUILT_IN_NAME, BUILT_IN);
            (read, errors)
        });
        let (mut quirks, mut errors) = READ.clone();
        for (name, text) in files {
            errors.extend(quirks.add(name, text));
        }
        (quirks, errors)
    }

    /// Takes over what a file says.
    fn add(&mut self, name: &str, text: &str) -> Vec<QuirkError> {
        let file = rule::parse(name, text);
        for name in &file.without {
            self.rules.retain(|rule| *rule.name != **name);
        }
        for rule in file.rules {
            self.rules.retain(|other| other.name != rule.name);
            self.rules.push(Arc::new(rule));
        }
        file.errors
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the firmware version would tell more of which rules fit.
    fn want_firmware(&self, identity: &Identity) -> bool {
        identity.firmware.is_none()
            && self.rules.iter().any(|rule| rule.asks_firmware() && rule.is_about(identity))
    }

    fn active(&self, identity: Identity) -> Active {
        let rules: Vec<Arc<Rule>> = self.rules.iter().filter(|rule| rule.fits(&identity)).cloned().collect();
        let mut manner = Manner::default();
        rules.iter().filter_map(|rule| rule.send.as_ref()).for_each(|send| manner.take(send));
        let wants_firmware = self.want_firmware(&identity);
        Active { identity, rules, manner, wants_firmware }
    }
}

/// What rules go by: names in lower case, without repetition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    vendors: Vec<String>,
    products: Vec<String>,
    firmware: Option<String>,
}

impl Identity {
    /// Learns from a service root: whose service it is.
    pub(crate) fn learn_root(&mut self, root: &Value) {
        note(&mut self.vendors, root.pointer("/Vendor"));
        note(&mut self.products, root.pointer("/Product"));
        if let Some(Value::Object(oem)) = root.pointer("/Oem") {
            for key in oem.keys().take(NAMES) {
                note(&mut self.vendors, Some(&Value::from(key.as_str())));
            }
        }
    }

    /// Learns from a system: who made the server.
    pub(crate) fn learn_system(&mut self, system: &Value) {
        note(&mut self.vendors, system.pointer("/Manufacturer"));
        note(&mut self.products, system.pointer("/Model"));
    }

    /// Learns from a manager: which BMC it is.
    pub(crate) fn learn_manager(&mut self, manager: &Value) {
        note(&mut self.vendors, manager.pointer("/Manufacturer"));
        note(&mut self.products, manager.pointer("/Model"));
        if let Some(text) = manager.pointer("/FirmwareVersion").and_then(Value::as_str) {
            self.firmware = Some(text.trim().chars().take(NAME).collect());
        }
    }
}

fn note(names: &mut Vec<String>, name: Option<&Value>) {
    let Some(name) = name.and_then(Value::as_str) else { return };
    let name: String = name.trim().to_lowercase().chars().take(NAME).collect();
    if !name.is_empty() && names.len() < NAMES && !names.contains(&name) {
        names.push(name);
    }
}

/// The rules that fit one kind of BMC.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) identity: Identity,
    rules: Vec<Arc<Rule>>,
    /// How actions are sent.
    pub(crate) manner: Manner,
    /// Whether rules ask for the firmware version, and it is not known.
    pub(crate) wants_firmware: bool,
}

impl Active {
    /// Patches a document that was read at a path.
    pub(crate) fn mend(&self, path: &str, document: &mut Value) {
        let mut budget = patch::BUDGET;
        for rule in self.rules.iter().filter(|rule| rule.patches()) {
            rule.apply(path, document, &mut budget);
        }
    }

    /// The rules, and which of some documents (path, as it was read) each of them changed.
    pub(crate) fn matches<'a>(
        &self,
        documents: impl Iterator<Item = (&'a str, &'a Value)>,
    ) -> Vec<QuirkMatch> {
        let mut matches: Vec<QuirkMatch> = self
            .rules
            .iter()
            .map(|rule| QuirkMatch {
                name: rule.name.to_string(),
                source: rule.source.to_string(),
                seen: rule.seen.to_string(),
                sends: rule.send.is_some(),
                patched: Vec::new(),
            })
            .collect();
        for (path, document) in documents {
            let (mut document, mut budget) = (document.clone(), patch::BUDGET);
            for (rule, found) in self.rules.iter().zip(&mut matches).filter(|(rule, _)| rule.patches()) {
                let before = document.clone();
                rule.apply(path, &mut document, &mut budget);
                if before != document && found.patched.len() < 100 {
                    found.patched.push(path.to_owned());
                }
            }
        }
        matches
    }
}

/// The rules of a pool, which may be exchanged while it runs; BMCs of one kind share what fits them.
#[derive(Debug, Default)]
pub(crate) struct SharedQuirks(Mutex<Current>);

#[derive(Debug, Default)]
struct Current {
    rules: Arc<Quirks>,
    kinds: HashMap<Identity, Weak<Active>>,
}

impl SharedQuirks {
    /// Other rules from now on.
    pub(crate) fn set(&self, quirks: Quirks) {
        *self.lock() = Current { rules: Arc::new(quirks), kinds: HashMap::new() };
    }

    /// The rules as they are now.
    pub(crate) fn get(&self) -> Arc<Quirks> {
        self.lock().rules.clone()
    }

    /// What of some rules fits one kind of BMC.
    fn active(&self, quirks: &Arc<Quirks>, identity: Identity) -> Arc<Active> {
        let mut current = self.lock();
        if !Arc::ptr_eq(quirks, &current.rules) {
            // Exchanged meanwhile: what follows from the old ones is not to be shared by those that have the new ones.
            return Arc::new(quirks.active(identity));
        }
        if let Some(active) = current.kinds.get(&identity).and_then(Weak::upgrade) {
            return active;
        }
        let active = Arc::new(quirks.active(identity.clone()));
        current.kinds.retain(|_, active| active.strong_count() > 0);
        current.kinds.insert(identity, Arc::downgrade(&active));
        active
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection knows of its BMC's kind, and the rules that follow from it.
#[derive(Debug)]
pub(crate) struct Kind {
    shared: Arc<SharedQuirks>,
    state: Mutex<(Arc<Quirks>, Arc<Active>)>,
}

impl Kind {
    pub(crate) fn new(shared: Arc<SharedQuirks>) -> Self {
        let quirks = shared.get();
        let active = shared.active(&quirks, Identity::default());
        Self { shared, state: Mutex::new((quirks, active)) }
    }

    /// The rules that fit, by what is known so far.
    pub(crate) fn active(&self) -> Arc<Active> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Takes over rules that were exchanged; says whether they were.
    pub(crate) fn refresh(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quirks = self.shared.get();
        if Arc::ptr_eq(&quirks, &state.0) {
            return false;
        }
        let active = self.shared.active(&quirks, state.1.identity.clone());
        *state = (quirks, active);
        true
    }

    /// Learns something of the BMC.
    pub(crate) fn learn(&self, learn: impl FnOnce(&mut Identity)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut identity = state.1.identity.clone();
        learn(&mut identity);
        if identity != state.1.identity {
            state.1 = self.shared.active(&state.0, identity);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn kind(quirks: &Quirks, vendor: &str, product: &str, firmware: &str) -> Active {
        let mut identity = Identity::default();
        identity.learn_system(&json!({"Manufacturer": vendor, "Model": product}));
        identity.learn_manager(&json!({"FirmwareVersion": firmware}));
        quirks.active(identity)
    }

    #[test]
    fn the_built_in_rules_are_all_good() {
        let (quirks, errors) = Quirks::with(&[]);
        assert_eq!(errors, []);
        assert!(!quirks.is_empty());
    }

    #[test]
    fn a_dell_is_known_by_its_service_tag() {
        let active = kind(&Quirks::default(), "Dell Inc.", "PowerEdge R750", "6.00.30.00");
        let mut system = json!({"@odata.type": "#ComputerSystem.v1_16_0.ComputerSystem",
            "Manufacturer": "Dell Inc.", "SKU": "F54P1G3", "SerialNumber": "CNIVC0014M0388"});
        active.mend("/redfish/v1/Systems/1", &mut system);
        assert_eq!(system["SerialNumber"], "F54P1G3");
        for empty in [json!(""), json!(null)] {
            system["SKU"] = empty;
            system["SerialNumber"] = json!("kept");
            active.mend("/redfish/v1/Systems/1", &mut system);
            assert_eq!(system["SerialNumber"], "kept");
        }
    }

    #[test]
    fn a_supermicro_boots_media_from_the_usb_cd() {
        let active = kind(&Quirks::default(), "Supermicro", "SYS-821GE-TNHR", "01.01.01");
        let key = "BootSourceOverrideTarget@Redfish.AllowableValues";
        let mut system = json!({"@odata.type": "#ComputerSystem.v1_14_0.ComputerSystem",
            "Boot": {key: ["None", "Cd", "UsbCd"]}});
        active.mend("/x", &mut system);
        assert_eq!(system["Boot"][key], json!(["None", "UsbCd"]));
        system["Boot"][key] = json!(["Cd"]);
        active.mend("/x", &mut system);
        assert_eq!(system["Boot"][key], json!(["Cd"]));
    }

    const OURS: &str = r##"
version: 1
without: [supermicro-usb-cd]
rules:
- name: by-firmware
  seen: a test
  match: {vendor: [acme, dell], product: [r750, anvil], firmware: ">=6, <7", type: Thing}
  patch:
  - add: {at: /Added, value: true}
- name: by-path
  seen: a test
  match:
    vendor: "*"
    path: /redfish/v1/Things/*
    where: [{at: /List, contains: x}, {at: /Gone, present: false}]
  patch:
  - under: /List/*
    rename: {from: /Old, to: /New}
  - replace: {at: /State, was: 0, value: "On"}
- name: sending
  seen: a test
  match: {vendor: acme}
  send: {ifMatch: any}
"##;

    #[test]
    fn rules_of_an_operator() {
        let (quirks, errors) = Quirks::with(&[("ours", OURS)]);
        assert_eq!(errors, []);
        let thing = json!({"@odata.type": "#Thing.v1_0_0.Thing"});
        for (vendor, product, firmware, fits) in [
            ("Acme Inc.", "Anvil 3", "v6.1", true),
            ("Acme Inc.", "Anvil 3", "v7.1", false),
            ("Acme Inc.", "Rocket", "v6.1", false),
            ("Other", "Anvil", "v6.1", false),
        ] {
            let active = kind(&quirks, vendor, product, firmware);
            let mut document = thing.clone();
            active.mend("/x", &mut document);
            assert_eq!(document.get("Added").is_some(), fits, "{vendor} {product} {firmware}");
            assert_eq!(active.manner.if_match.is_some(), vendor.contains("Acme"));
        }
        let active = kind(&quirks, "Supermicro", "", "1");
        let mut document = json!({"List": ["x", {"Old": 1}], "State": 0});
        active.mend("/redfish/v1/Things/7/", &mut document);
        assert_eq!(document, json!({"List": ["x", {"New": 1}], "State": "On"}));
        let matches =
            active.matches([("/redfish/v1/Things/7", &json!({"List": ["x"], "State": 0}))].into_iter());
        assert!(matches.iter().all(|found| found.name != "supermicro-usb-cd"), "left out");
        let found = matches.iter().find(|found| found.name == "by-path").unwrap();
        assert_eq!((found.patched.len(), found.source.as_str()), (1, "ours"));
    }

    #[test]
    fn the_firmware_is_wanted_only_by_rules_that_ask_for_it() {
        let (quirks, _) = Quirks::with(&[("ours", OURS)]);
        let wants = |vendor: &str, model: &str| {
            let mut identity = Identity::default();
            identity.learn_system(&json!({"Manufacturer": vendor, "Model": model}));
            quirks.active(identity).wants_firmware
        };
        assert!(wants("Acme", "Anvil"));
        assert!(!wants("Acme", "Rocket"));
        assert!(!wants("Other", "Anvil"));
    }

    #[test]
    fn a_bad_rule_is_named_and_the_good_ones_kept() {
        let text = r#"
version: 1
rules:
- {name: good, seen: here, match: {vendor: acme}, send: {ifMatch: none}}
- {name: typo, seen: here, mtach: {vendor: acme}, send: {ifMatch: none}}
- {name: unseen, seen: "", match: {vendor: acme}, send: {ifMatch: none}}
- {name: no-type, seen: here, match: {vendor: acme}, patch: [{remove: {at: /a}}]}
- {seen: here, match: {vendor: acme}, send: {ifMatch: none}}
- {name: good, seen: here, match: {vendor: acme}, send: {ifMatch: any}}
- {name: does-nothing, seen: here, match: {vendor: acme}}
- {name: range, seen: here, match: {vendor: acme, firmware: "6"}, send: {ifMatch: any}}
- 7
"#;
        let (quirks, errors) = Quirks::with(&[("file", text)]);
        assert_eq!(quirks.len(), Quirks::default().len() + 1);
        let sentences: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for (sentence, expected) in sentences.iter().zip([
            "quirk rule typo of file is refused: unknown field `mtach`, expected one of",
            "quirk rule unseen of file is refused: seen has to say on what",
            "quirk rule no-type of file is refused: a rule with patch needs match.type",
            "quirk rule number 5 of file is refused: missing field `name`",
            "quirk rule good of file is refused: another rule of the file has this name",
            "quirk rule does-nothing of file is refused: it needs patch or send",
            "quirk rule range of file is refused: firmware \"6\" is no range",
            "quirk rule number 9 of file is refused: invalid type",
        ]) {
            assert!(sentence.starts_with(expected), "{sentence}");
        }
        assert_eq!(errors.len(), 8, "{sentences:#?}");
        for (text, expected) in [
            ("version: 2", "its version is 2"),
            ("rules: []", "missing field `version`"),
            ("version: 1\nrule: []", "unknown field `rule`"),
            ("[", "cannot be read"),
            ("version: 1\na: &a [x, x]\nb: [*a]", "unknown field"),
        ] {
            let (_, errors) = Quirks::with(&[("file", text)]);
            assert!(errors.len() == 1 && errors[0].to_string().contains(expected), "{text}: {errors:?}");
        }
    }

    #[test]
    fn a_rule_of_the_same_name_takes_the_others_place() {
        let text = "version: 1\nrules:\n- {name: dell-service-tag, seen: here, match: {vendor: dell}, send: {ifMatch: none}}";
        let (quirks, errors) = Quirks::with(&[("file", text)]);
        assert_eq!((quirks.len(), errors.len()), (Quirks::default().len(), 0));
    }

    #[test]
    fn rules_are_exchanged_while_connections_live() {
        let shared = Arc::new(SharedQuirks::default());
        let (one, two) = (Kind::new(shared.clone()), Kind::new(shared.clone()));
        for kind in [&one, &two] {
            kind.learn(|identity| identity.learn_root(&json!({"Vendor": "AMI", "Oem": {"Acme": {}}})));
        }
        assert!(Arc::ptr_eq(&one.active(), &two.active()), "shared by BMCs of one kind");
        assert!(!one.refresh());
        shared.set(Quirks::with(&[("ours", OURS)]).0);
        assert!(one.refresh() && !one.refresh());
        assert_eq!(one.active().manner.if_match, Some(IfMatch::Any));
        // One that has not taken them over yet does not spoil them for those that have.
        two.learn(|identity| identity.learn_system(&json!({"Manufacturer": "Acme"})));
        one.learn(|identity| identity.learn_system(&json!({"Manufacturer": "Acme"})));
        assert_eq!((two.active().manner.if_match, one.active().manner.if_match), (None, Some(IfMatch::Any)));
    }
}

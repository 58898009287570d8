//! Reads on beyond what the provider needs, by links, for a capture: what else there is may explain what a BMC does.

use std::collections::{BTreeSet, VecDeque};

use serde_json::Value;

use crate::error::BmcError;
use crate::redfish::Redfish;
use crate::redfish::client::one_fact;
use crate::redfish::record::Recorder;

/// Most documents that are read on top of what the survey read.
const DOCUMENTS: usize = 1500;
/// How deep documents are searched for links.
const DEPTH: usize = 64;

/// Parts of paths that are not read: they are many and tell nothing of what a BMC can do, or they tell too much.
const LEFT_OUT: &[&str] = &[
    "/LogServices",
    "/JsonSchemas",
    "/Registries",
    "/Sensors",
    "/TelemetryService",
    "/SecureBootDatabases",
    "/Certificates",
    "/CertificateService",
    "/AccountService/",
    "/SessionService/Sessions/",
    "/JobService",
    "/Jobs",
    "/TaskService/",
    "/PCIeDevices/",
    "/PCIeFunctions/",
    "/Assembly",
    "/MetricReports",
    "/MemoryDomains",
    "/Controls",
    "$metadata",
    "/Oem/",
];

impl Redfish {
    /// Reads what the recorded documents link to, and what these link to, breadth first.
    pub(super) async fn crawl(&self, recorder: &Recorder) -> Result<(), BmcError> {
        let answers = recorder.answers();
        let mut known: BTreeSet<String> = answers.keys().cloned().collect();
        let mut next: VecDeque<String> = VecDeque::new();
        for answer in answers.values().filter_map(|answer| answer.body.as_ref()) {
            links(answer, 0, &mut |link| note(link, &mut known, &mut next));
        }
        for _ in 0..DOCUMENTS {
            let Some(link) = next.pop_front() else { break };
            if let Some(resource) = one_fact(self.client.get_raw(&link).await)? {
                links(&resource.json, 0, &mut |link| note(link, &mut known, &mut next));
            }
        }
        Ok(())
    }
}

fn note(link: &str, known: &mut BTreeSet<String>, next: &mut VecDeque<String>) {
    let path = link.split('#').next().unwrap_or_default().trim_end_matches('/');
    let fits = path.starts_with("/redfish/") && !path.contains('?') && path.len() < 512;
    if fits
        && !LEFT_OUT.iter().any(|part| path.contains(part))
        && next.len() < DOCUMENTS
        && known.insert(path.to_owned())
    {
        next.push_back(path.to_owned());
    }
}

/// The links in a document.
fn links(value: &Value, depth: usize, found: &mut impl FnMut(&str)) {
    match value {
        _ if depth > DEPTH => {}
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(link) if key == "@odata.id" => found(link),
                    other => links(other, depth + 1, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|item| links(item, depth + 1, found)),
        _ => {}
    }
}

//! What the driver does with virtual media: finds the slot, and puts an image in or takes it out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Redfish;
use super::client::{Resource, one_fact};
use super::json;
use super::media::{self, Content, Slot};
use crate::error::BmcError;
use crate::quirks::InsertBy;

/// Between two looks at a slot that changes.
const POLL: Duration = Duration::from_millis(500);
/// Until a medium is seen in its slot that the BMC copies as a whole first.
const WHOLE: Duration = Duration::from_secs(100);

impl Redfish {
    /// The slot that takes a CD; looked for once.
    pub(super) async fn slot(
        &self,
        system: &Value,
        manager: Option<&Value>,
    ) -> Result<Option<Arc<Slot>>, BmcError> {
        let kept = self.kept().slot.clone();
        if let Some(slot) = kept {
            return Ok(slot);
        }
        let found = self.find_slot(system, manager).await?.map(Arc::new);
        self.kept().slot = Some(found.clone());
        Ok(found)
    }

    async fn find_slot(&self, system: &Value, manager: Option<&Value>) -> Result<Option<Slot>, BmcError> {
        let of_system = json::link(system, "/VirtualMedia");
        let of_manager = manager.and_then(|manager| json::link(manager, "/VirtualMedia"));
        let second = of_manager.filter(|link| Some(link) != of_system.as_ref());
        for collection in of_system.into_iter().chain(second) {
            let Some(members) = one_fact(self.client.members(&collection).await)? else { continue };
            for member in media::order(members) {
                let resource = match member.inline {
                    Some(inline) => Some(inline),
                    None => self.client.fact(&member.path).await?.map(|resource| resource.json),
                };
                if let Some(slot) = resource.and_then(|resource| media::slot(&member.path, &resource)) {
                    return Ok(Some(slot));
                }
            }
        }
        Ok(None)
    }

    /// The slot and what it holds; looked for again where it is gone.
    async fn open_slot(&self, system: &Value) -> Result<Option<(Arc<Slot>, Resource)>, BmcError> {
        for _ in 0..2 {
            let kept = self.kept().slot.clone();
            let slot = match kept {
                Some(slot) => slot,
                None => {
                    let manager = self.manager(system).await?.map(|manager| manager.json);
                    self.slot(system, manager.as_ref()).await?
                }
            };
            let Some(slot) = slot else { return Ok(None) };
            match self.client.get(&slot.path).await {
                Err(BmcError::Unexpected { status: 404, .. }) => self.kept().slot = None,
                other => return other.map(|resource| Some((slot, resource))),
            }
        }
        Ok(None)
    }

    pub(super) async fn insert(&self, system: &Value, url: &str) -> Result<(), BmcError> {
        {
            // That there is none may have changed: a licence, a firmware update.
            let mut kept = self.kept();
            if kept.slot == Some(None) {
                kept.slot = None;
            }
        }
        let (url, login) = media::without_login(url);
        let url = url.as_str();
        let Some((slot, resource)) = self.open_slot(system).await? else {
            return Err(BmcError::NotSupported {
                what: "virtual media: it has no slot that takes a CD".into(),
            });
        };
        let resource = match media::content(&resource.json) {
            Content::Image(image) if image == url && media::is_connected(&resource.json) => return Ok(()),
            Content::Image(_) | Content::Unnamed => {
                self.empty(&slot, &resource).await?;
                self.client.get(&slot.path).await?
            }
            Content::Empty | Content::Unknown => resource,
        };
        let what = "inserting virtual media";
        let transfer = media::Transfer::of(&resource.json);
        let manner = &self.client.kind.active().manner;
        let bodies =
            |bodies| manner.insert_bodies(media::with_login(bodies, login.as_ref()), media::protocol(url));
        match media::insert_action(&resource.json).as_ref().or(slot.insert.as_ref()) {
            Some(action) if manner.insert_by != Some(InsertBy::Patch) => {
                self.client.post(action, &bodies(media::insert_bodies(url, transfer)), what).await?;
            }
            _ => self.client.patch(&resource, &bodies(media::insert_patches(url)), what).await?,
        }
        let limit = match transfer {
            media::Transfer::Upload => self.client.http.desk.limits.media.max(WHOLE),
            _ => self.client.http.desk.limits.media,
        };
        self.see(&slot, "not shown as inserted", limit, |content| *content != Content::Empty).await?;
        sleep(manner.settle).await;
        Ok(())
    }

    pub(super) async fn eject(&self, system: &Value) -> Result<(), BmcError> {
        match self.open_slot(system).await? {
            Some((slot, resource))
                if matches!(media::content(&resource.json), Content::Image(_) | Content::Unnamed) =>
            {
                self.empty(&slot, &resource).await
            }
            _ => Ok(()),
        }
    }

    async fn empty(&self, slot: &Slot, resource: &Resource) -> Result<(), BmcError> {
        let what = "ejecting virtual media";
        match media::eject_action(&resource.json).as_ref().or(slot.eject.as_ref()) {
            Some(action) => self.client.post(action, &[serde_json::json!({})], what).await?,
            None => self.client.patch(resource, &media::eject_patches(), what).await?,
        }
        let limit = self.client.http.desk.limits.media;
        self.see(slot, "still shown as inserted", limit, |content| {
            matches!(content, Content::Empty | Content::Unknown)
        })
        .await
    }

    /// Waits until a slot is seen in a state: BMCs accept first and do later.
    async fn see(
        &self,
        slot: &Slot,
        otherwise: &str,
        limit: Duration,
        wanted: impl Fn(&Content) -> bool,
    ) -> Result<(), BmcError> {
        let deadline = Instant::now() + limit;
        loop {
            let resource = self.client.get(&slot.path).await?;
            if wanted(&media::content(&resource.json)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(BmcError::Busy {
                    status: 200,
                    url: slot.path.clone(),
                    message: format!("the medium is {otherwise} after {} s", limit.as_secs()),
                    retry_after: None,
                });
            }
            sleep(POLL).await;
        }
    }
}

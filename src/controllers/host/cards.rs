//! Looks up which network cards hosts have, when a machine asks for a boot by a card that no host boots by. Until then nobody
//! needs to know, and afterwards inspection tells what changes.

use std::sync::Arc;

use ferric_api::MacAddress;
use tracing::warn;

use super::{HostContext, hardware};
use crate::host::cards::owner as owner_of;
use crate::key::Key;

/// The one host that has this card. Where that is not known yet it is looked up meanwhile: who boots from the network asks
/// again.
pub(super) fn owner(context: &Arc<HostContext>, mac: MacAddress) -> Option<Key> {
    let owner = owner_of(&context.with_card(mac), |host| context.senior_twin(host));
    if owner.is_none() {
        look_up(context);
    }
    owner
}

/// Begins to read the cards of all hosts of which they are not known, one after the other, unless that is under way. Returns
/// whether anything has yet to be read.
pub(super) fn look_up(context: &Arc<HostContext>) -> bool {
    let Ok(looking) = context.looking_up_cards.clone().try_lock_owned() else { return true };
    let unread = context.with_unread_cards();
    if unread.is_empty() {
        return false;
    }
    let context = context.clone();
    tokio::spawn(async move {
        for host in unread {
            // One that was deleted meanwhile must not be remembered anew.
            if context.hosts.get(&host).is_none() {
                continue;
            }
            if let Err(error) = hardware::read(&host, &context).await {
                warn!(%host, %error, "the network cards of hosts cannot be looked up; tried again at the next network boot");
                break;
            }
        }
        drop(looking);
    });
    true
}

//! Admission to the change feed.

use std::time::Duration;

use super::{RequestContext, Service, quota};
use crate::{
    auth::{Action, Principal, credentials::Proof, may},
    error::Error,
    model::RoomId,
    store::Revision,
    watch::{Subject, WatchStream},
};

/// How long a watch waits for this replica to reach the caller's revision, which another replica
/// has reported.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

impl Service {
    /// Watches the changes of the app, or of one room, after a revision. The room need not be
    /// registered. `after: None` starts at the current revision of the view. Errors:
    /// PERMISSION_DENIED, REVISION_COMPACTED, STORE_UNAVAILABLE, QUOTA_EXCEEDED.
    pub async fn watch(
        &self,
        call: &RequestContext,
        room: Option<&RoomId>,
        after: Option<Revision>,
    ) -> Result<WatchStream, Error> {
        call.permit(Action::Watch)?;
        let current = self.view.revision();
        let after = after.unwrap_or(current);
        if after > current {
            if after > self.store.latest_revision().await? {
                // The revision is of another store, or of this one before it lost data. Waiting for
                // it would skip the changes up to it.
                return Err(Error::compacted());
            }
            // Another replica has reported this revision, and this one will reach it soon.
            self.wait_for_revision(after, CATCH_UP_TIMEOUT).await?;
        }
        let quota = self.quotas.watchers;
        let admitted = self
            .hub
            .admit(call.key(), quota)
            .ok_or_else(|| quota::exceeded(call, "watchers", quota))?;
        let subject = Subject { app: call.key().to_owned(), room: room.map(ToString::to_string) };
        let stream = WatchStream::start(
            self.hub.clone(),
            self.store.clone(),
            subject,
            after,
            self.heartbeat,
        )
        .await?;
        let limits = self.limits.clone();
        let app = call.app.number;
        let principal = call.principal.clone();
        Ok(stream.with_permit(admitted, Box::new(move || limits.watched(app, principal.rated()))))
    }

    /// Resolves, with the error for the caller, when the caller may no longer watch.
    pub async fn watch_revoked(&self, call: &RequestContext, proof: &Proof) -> Error {
        let may_watch = |principal: &Principal| {
            principal.actor() == call.principal.actor()
                && principal.belongs_to(&call.app.key).is_ok()
                && may(principal, Action::Watch)
        };
        self.access.until_invalid(proof, may_watch).await
    }
}

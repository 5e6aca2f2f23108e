//! Who may watch, and from where.

use std::time::Duration;

use super::{RequestContext, Service, quota};
use crate::{
    auth::{Action, Principal, credentials::Proof, may},
    error::Error,
    model::RoomId,
    store::Revision,
    watch::{Subject, WatchStream},
};

/// For how long this replica may be behind the one that a caller comes from.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

impl Service {
    /// A place in the change feed of the app, or of a room, which need not be registered, or no
    /// longer; without a revision from now on. Errors: REVISION_COMPACTED, STORE_UNAVAILABLE,
    /// QUOTA_EXCEEDED.
    pub async fn watch(
        &self,
        call: &RequestContext,
        room: Option<&RoomId>,
        after: Option<Revision>,
    ) -> Result<WatchStream, Error> {
        call.permit(Action::Watch)?;
        let seen = self.view.revision();
        let after = after.unwrap_or(seen);
        if after > seen {
            if after > self.store.latest_revision().await? {
                // Of another store, or of this one before a loss: to wait for it would be to leave
                // out what comes until then.
                return Err(Error::compacted());
            }
            // Another replica has told it, and this one is about to see it.
            self.wait_for_revision(after, CATCH_UP_TIMEOUT).await?;
        }
        let most = self.quotas.watchers;
        let admitted = self
            .hub
            .admit(call.key(), most)
            .ok_or_else(|| quota::exceeded(call, "watchers", most))?;
        let subject = Subject { app: call.key().to_owned(), room: room.map(ToString::to_string) };
        let watching = WatchStream::start(
            self.hub.clone(),
            self.store.clone(),
            subject,
            after,
            self.heartbeat,
        )
        .await?;
        let (limits, app, principal) =
            (self.limits.clone(), call.app.number, call.principal.clone());
        Ok(watching.with_permit(admitted, Box::new(move || limits.watched(app, principal.rated()))))
    }

    /// Ends when who watches may do so no longer.
    pub async fn lost(&self, call: &RequestContext, proof: &Proof) -> Error {
        let may_watch = |principal: &Principal| {
            principal.actor() == call.principal.actor()
                && principal.belongs_to(&call.app.key).is_ok()
                && may(principal, Action::Watch)
        };
        self.access.until_invalid(proof, may_watch).await
    }
}

//! Who may watch, and from where.

use std::time::Duration;

use super::{Call, Service};
use crate::{
    auth::Action,
    error::Error,
    model::RoomId,
    store::Revision,
    watch::{Subject, Watching},
};

/// For how long this replica may be behind the one that a caller comes from.
const PATIENCE: Duration = Duration::from_secs(5);

impl Service {
    /// A place in the change feed of the app, or of a room, which need not be registered, or no longer; without a revision from now on.
    /// Errors: REVISION_COMPACTED, STORE_UNAVAILABLE.
    pub async fn watch(&self, call: &Call, room: Option<&RoomId>, after: Option<Revision>) -> Result<Watching, Error> {
        call.permit(Action::Watch)?;
        let seen = self.view.revision();
        let after = after.unwrap_or(seen);
        if after > seen {
            if after > self.store.newest().await? {
                // Of another store, or of this one before a loss: to wait for it would be to leave out what comes until then.
                return Err(Error::compacted());
            }
            // Another replica has told it, and this one is about to see it.
            self.see(after, PATIENCE).await?;
        }
        let subject = Subject { app: call.key().to_owned(), room: room.map(ToString::to_string) };
        Watching::start(self.hub.clone(), self.store.clone(), subject, after, self.heartbeat).await
    }
}

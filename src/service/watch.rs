//! Who may watch, and from where.

use super::{Call, Service};
use crate::{
    auth::Action,
    error::Error,
    model::RoomId,
    store::Revision,
    watch::{Subject, Watching},
};

impl Service {
    /// A place in the change feed of the app, or of a room, which need not be registered, or no longer; without a revision from now on.
    /// Errors: REVISION_COMPACTED, STORE_UNAVAILABLE.
    pub async fn watch(&self, call: &Call, room: Option<&RoomId>, after: Option<Revision>) -> Result<Watching, Error> {
        call.permit(Action::Watch)?;
        let newest = self.view.revision();
        let after = after.unwrap_or(newest);
        if after > newest {
            // Of another store, or of this one before a loss: to wait for it would be to leave out what comes until then.
            return Err(Error::compacted());
        }
        let subject = Subject { app: call.key().to_owned(), room: room.map(ToString::to_string) };
        Watching::start(self.hub.clone(), self.store.clone(), subject, after, self.heartbeat).await
    }
}

//! The history of an app or of a room, newest first. It is read from the store: the view has only
//! the current state.

use super::{RequestContext, Service};
use crate::{
    auth::{Action, Principal},
    error::Error,
    model::{Event, EventKind, RoomId, UserId},
    store::{EventRange, Revision, codec},
    watch::Change,
};

/// Maximum number of events that one call scans. A page can then be short; the next page continues
/// from there.
const MAX_SCANNED: usize = 50_000;
/// Events of one read from the store. An event of a hundred users takes about 25 KiB.
const READ_BATCH: usize = 250;
/// Maximum size of a page of any list. gRPC clients accept 4 MiB by default.
pub const PAGE_BYTES: usize = 3 << 20;
/// Maximum disorder of event times that is tolerated: a clock that was set back leaves times out of
/// order.
const MAX_DISORDER_MS: u64 = 3_600_000;

/// Which events to return. An absent field matches every event.
#[derive(Default)]
#[allow(missing_docs)]
pub struct EventFilter {
    pub room: Option<RoomId>,
    pub user: Option<UserId>,
    pub actor: Option<String>,
    /// Empty matches every kind.
    pub kinds: Vec<EventKind>,
    /// Inclusive start, in Unix milliseconds.
    pub start_ms: Option<u64>,
    /// Exclusive end, in Unix milliseconds.
    pub end_ms: Option<u64>,
}

/// A page of history.
pub struct EventPage {
    /// Newest first.
    pub changes: Vec<Change>,
    /// The next page has the events before this revision. `None`: there is no next page.
    pub before: Option<Revision>,
}

impl EventFilter {
    /// Whether an event of the app matches.
    fn matches(&self, event: &Event) -> bool {
        let is_equal =
            |filter: Option<&str>, value: &str| filter.is_none_or(|filter| filter == value);
        is_equal(self.room.as_ref().map(RoomId::as_str), &event.room)
            && is_equal(self.actor.as_deref(), &event.actor)
            && self
                .user
                .as_ref()
                .is_none_or(|user| event.users.iter().any(|other| other == user.as_str()))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.start_ms.is_none_or(|start_ms| event.at_ms >= start_ms)
            && self.end_ms.is_none_or(|end_ms| event.at_ms < end_ms)
    }

    /// Whether an event of this time is certainly before the start, even if a clock was set back.
    fn is_before_start(&self, at_ms: u64) -> bool {
        self.start_ms.is_some_and(|start_ms| at_ms.saturating_add(MAX_DISORDER_MS) < start_ms)
    }
}

impl Service {
    /// At most `size` events before this revision, newest first. `before: None` starts with the
    /// latest event. Errors: PERMISSION_DENIED, STORE_UNAVAILABLE, RATE_LIMITED.
    pub async fn list_events(
        &self,
        call: &RequestContext,
        filter: &EventFilter,
        before: Option<Revision>,
        size: usize,
    ) -> Result<EventPage, Error> {
        let is_visible = self.permit_events(call, filter)?;
        let mut before = match before {
            Some(before) => before,
            None => self.latest_until(filter.end_ms).await?.saturating_add(1),
        };
        let mut changes = Vec::new();
        let mut bytes = 0;
        for read in 0..MAX_SCANNED / READ_BATCH {
            before = self.hub.spans.before(call.key(), before);
            // A call over the rate limit fails if it has read nothing yet. Otherwise it returns a
            // short page.
            match self.limits.history(call.app.number, call.principal.rated()) {
                Err(error) if read == 0 => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
            let page = self
                .store
                .events(EventRange { after: None, before: Some(before) }, true, READ_BATCH)
                .await?;
            let is_last = page.len() < READ_BATCH
                || page.iter().all(|stored| filter.is_before_start(stored.at_ms));
            let apps = codec::apps_of_events(&page)?;
            if let (Some(latest), Some(oldest)) = (page.first(), page.last()) {
                // The caller's revision can be later than every commit so far.
                let end = if read == 0 { latest.revision + 1 } else { before };
                self.hub.spans.insert(oldest.revision, end, &apps);
            }
            for (stored, app) in page.into_iter().zip(apps) {
                if app != call.key() {
                    before = stored.revision;
                    continue;
                }
                let change = Change::decode(stored.revision, &stored.event)?;
                let change = change
                    .filter(|change| filter.matches(&change.event) && is_visible(&change.event));
                bytes += change.as_ref().map_or(0, Change::bytes);
                if bytes > PAGE_BYTES && !changes.is_empty() {
                    return Ok(EventPage { changes, before: Some(before) });
                }
                before = stored.revision;
                changes.extend(change);
                if changes.len() == size {
                    return Ok(EventPage { changes, before: Some(before) });
                }
            }
            if is_last {
                return Ok(EventPage { changes, before: None });
            }
        }
        Ok(EventPage { changes, before: Some(before) })
    }

    /// Checks that the caller may list these events, and returns which of them it may see. Users
    /// (room staff) do not see events about notification mutes. Errors: PERMISSION_DENIED,
    /// RATE_LIMITED.
    fn permit_events(
        &self,
        call: &RequestContext,
        filter: &EventFilter,
    ) -> Result<fn(&Event) -> bool, Error> {
        match &filter.room {
            Some(room) => {
                self.permit_in_room(call, room, |is_staff| Action::ListEvents { is_staff })?
            }
            None => call.permit(Action::ListEvents { is_staff: false })?,
        }
        Ok(match call.principal {
            Principal::User { .. } => |event| !event.kind.is_about_notifications(),
            Principal::Service(_) | Principal::AppAdmin { .. } => |_| true,
        })
    }

    /// The revision of the latest commit before this time, or a little later. A binary search, so
    /// that the history after it is not scanned.
    async fn latest_until(&self, end_ms: Option<u64>) -> Result<Revision, Error> {
        let mut low = 0;
        let mut high = self.view.revision();
        let Some(end_ms) = end_ms else { return Ok(high) };
        while high - low > READ_BATCH as Revision {
            let middle = low + (high - low) / 2;
            let page = self
                .store
                .events(EventRange { after: None, before: Some(middle + 1) }, true, 1)
                .await?;
            match page.first() {
                Some(stored) if stored.at_ms > end_ms.saturating_add(MAX_DISORDER_MS) => {
                    high = stored.revision.max(low)
                }
                _ => low = middle,
            }
        }
        Ok(high)
    }
}

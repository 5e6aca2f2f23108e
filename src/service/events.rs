//! What has happened: the history of an app or of a room, newest first. It is read from the store,
//! which alone has it: the view knows what is.

use super::{RequestContext, Service};
use crate::{
    auth::{Action, Principal},
    error::Error,
    model::{Event, EventKind, RoomId, UserId},
    store::{EventRange, Revision, codec},
    watch::Change,
};

/// Events that one call looks through at most; a page may then be short, and the next one goes on
/// from there.
const SCAN: usize = 50_000;
/// Events of history read at once: an event of a hundred users has some 25 KiB.
const READ: usize = 250;
/// Of a page of any list: within the 4 MiB that clients take.
pub const PAGE_BYTES: usize = 3 << 20;
/// Clocks that were set back leave times that are out of order by as much as this.
const DISORDER_MS: u64 = 3_600_000;

/// Which events are wanted; nothing is any.
#[derive(Default)]
#[allow(missing_docs)]
pub struct EventFilter {
    pub room: Option<RoomId>,
    pub user: Option<UserId>,
    pub actor: Option<String>,
    /// None are all.
    pub kinds: Vec<EventKind>,
    /// From this Unix millisecond on.
    pub start_ms: Option<u64>,
    /// Before this one.
    pub end_ms: Option<u64>,
}

/// A page of history.
pub struct EventPage {
    /// Newest first.
    pub changes: Vec<Change>,
    /// Where the next page starts: before this revision. Nothing at the end.
    pub before: Option<Revision>,
}

impl EventFilter {
    /// Of an event of the app.
    fn lets_through(&self, event: &Event) -> bool {
        let is = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted == found);
        is(self.room.as_ref().map(RoomId::as_str), &event.room)
            && is(self.actor.as_deref(), &event.actor)
            && self
                .user
                .as_ref()
                .is_none_or(|user| event.users.iter().any(|named| named == user.as_str()))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.start_ms.is_none_or(|start_ms| event.at_ms >= start_ms)
            && self.end_ms.is_none_or(|end_ms| event.at_ms < end_ms)
    }
}

impl Service {
    /// At most `size` events before this revision, newest first. Errors: STORE_UNAVAILABLE,
    /// RATE_LIMITED.
    pub async fn list_events(
        &self,
        call: &RequestContext,
        filter: &EventFilter,
        before: Option<Revision>,
        size: usize,
    ) -> Result<EventPage, Error> {
        let is_told = self.permit_events(call, filter)?;
        let mut before = match before {
            Some(before) => before,
            None => self.newest_until(filter.end_ms).await?.saturating_add(1),
        };
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for read in 0..SCAN / READ {
            before = self.hub.spans.before(call.key(), before);
            // Of a page that has come so far the rest is asked for with the next; where the app may
            // read nothing now, it is told so.
            match self.limits.history(call.app.number, call.principal.rated()) {
                Err(error) if read == 0 => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
            let page = self
                .store
                .events(EventRange { after: None, before: Some(before) }, true, READ)
                .await?;
            let too_old = |at_ms: u64| {
                filter.start_ms.is_some_and(|start_ms| at_ms.saturating_add(DISORDER_MS) < start_ms)
            };
            let is_last = page.len() < READ || page.iter().all(|logged| too_old(logged.at_ms));
            let apps = codec::apps_of_events(&page)?;
            if let (Some(newest), Some(oldest)) = (page.first(), page.last()) {
                // What the caller names may not have been given out yet.
                let end = if read == 0 { newest.revision + 1 } else { before };
                self.hub.spans.insert(oldest.revision, end, &apps);
            }
            for (logged, app) in page.into_iter().zip(apps) {
                if app != call.key() {
                    before = logged.revision;
                    continue;
                }
                let change = Change::decode(logged.revision, &logged.event)?;
                let wanted = change
                    .filter(|change| filter.lets_through(&change.event) && is_told(&change.event));
                bytes += wanted.as_ref().map_or(0, Change::bytes);
                if bytes > PAGE_BYTES && !changes.is_empty() {
                    return Ok(EventPage { changes, before: Some(before) });
                }
                before = logged.revision;
                changes.extend(wanted);
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

    /// What the caller is told: a room's staff nothing of who wants no push from it. Errors:
    /// PERMISSION_DENIED.
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

    /// The newest commit of before this time, or one not much later: found by halves, so that
    /// history after it is not looked through.
    async fn newest_until(&self, end_ms: Option<u64>) -> Result<Revision, Error> {
        let (mut low, mut high) = (0, self.view.revision());
        let Some(end_ms) = end_ms else { return Ok(high) };
        while high - low > READ as Revision {
            let middle = low + (high - low) / 2;
            let at = self
                .store
                .events(EventRange { after: None, before: Some(middle + 1) }, true, 1)
                .await?;
            match at.first() {
                Some(logged) if logged.at_ms > end_ms.saturating_add(DISORDER_MS) => {
                    high = logged.revision.max(low)
                }
                _ => low = middle,
            }
        }
        Ok(high)
    }
}

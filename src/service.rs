//! The business rules: who may do what, what is checked, and what is committed. Each subject has a
//! file of its own. This file has what they share: admission and permissions.
//!
//! # Admission
//! [`Service::authorize`] turns a caller and an app key into a [`RequestContext`]: the caller is
//! authenticated, may access the app, and is within its rate limit. Every rule but `issue_token`,
//! which checks the app's own secret, takes a `RequestContext`, so no rule runs for an unauthorized
//! caller. A read with a minimum revision waits for it in [`Service::wait_for_revision`].
//!
//! # Changes
//! `Service::change` (`change.rs`) runs every write:
//! 1. It plans a batch against the view. The batch has a precondition on every record that it
//!    overwrites, and on the registration of the room that its permission depends on. The
//!    registration of a client is checked, but is no precondition.
//! 2. It commits the batch, and waits until the view has applied it.
//! 3. If a precondition fails, a concurrent writer was faster: it waits until the view has applied
//!    that commit, and plans again.
//!
//! A permission that depends on records (that of room staff) is checked inside the plan, after the
//! revisions of its preconditions are read. So if the caller loses it before the commit, the commit
//! fails. If the plan would replace an expired record that is not swept yet, that record is swept
//! first (`expire_first.rs`). Each write takes a function that makes its response, because the
//! response of a request with an id is part of the commit (`idempotency.rs`).
//!
//! Each rule documents its own errors. A call of room staff can fail with RATE_LIMITED, and a write
//! with the errors of `Service::change`, too.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    auth::{
        Action, Principal,
        apps::App,
        credentials::{Access, Caller, refused},
        denied, may,
    },
    clock::Clock,
    error::Error,
    limits::concurrency::ConcurrencyLimit,
    limits::rate::Limits,
    model::{Event, EventKind, Expire, Provenance, RequestId, Restriction, RoomId, UserId},
    store::{Revision, Store},
    view::View,
    watch::Hub,
};

mod allow;
mod ban;
mod change;
mod check;
mod directory;
mod events;
mod expire_first;
mod idempotency;
mod member;
mod notification;
mod quota;
mod recipient;
mod registration;
mod token;
mod user_mute;
mod watch;

pub use ban::RoomInfo;
pub use directory::{ClientInfo, ClientPatch, PatchedRoom, RoomPatch};
pub use events::{EventFilter, EventPage, PAGE_BYTES};
pub use idempotency::Answer;
pub use quota::Quotas;
pub use token::{MAX_TTL_S, TokenRequest};

/// Minimum delay before a list asks again whether it may read its next page.
const MIN_PAGE_DELAY: Duration = Duration::from_millis(2);
/// A list that skips this many elements costs one more call of the rate limit.
const SKIPPED_PER_CALL: usize = 10_000;

/// The service. All listeners share one.
pub struct Service {
    /// The configured apps and credentials.
    pub access: Arc<Access>,
    /// Writes go here.
    pub store: Arc<dyn Store>,
    /// Reads are served from here.
    pub view: View,
    /// The time.
    pub clock: Clock,
    /// Rate limits.
    pub limits: Arc<Limits>,
    /// Default lifetime of a token, in seconds. 0: it does not expire.
    pub token_ttl_s: u64,
    /// Delivers changes to watchers.
    pub hub: Arc<Hub>,
    /// Interval of the heartbeats of a watch.
    pub heartbeat: Duration,
    /// Maximum age of a view that is up to date.
    pub max_view_age: Duration,
    /// Refuse checks while the view is older than `max_view_age`.
    pub refuse_old_views: bool,
    /// Limits on what one app may store and hold open.
    pub quotas: Quotas,
    /// Concurrency limits. The metrics report their use.
    pub load: Arc<ConcurrencyLimit>,
    /// Not ready while the clock is far from the other replicas' clocks.
    pub refuse_skewed_clock: bool,
}

/// Identifies a request and its repeats.
struct IdempotencyKey {
    /// The `request_id` of the caller.
    id: RequestId,
    /// The key of the idempotency record. A user has a key space of its own, so a user cannot take
    /// the request ids of a service or of another user.
    key: String,
    /// Distinguishes this request from every other one with the same id.
    fingerprint: [u8; 16],
}

/// An authorized call: a caller inside one app.
pub struct RequestContext {
    /// The app.
    pub app: Arc<App>,
    /// The caller.
    pub principal: Principal,
    /// `None` if the request has no id.
    idempotency_key: Option<IdempotencyKey>,
    /// Name of the RPC.
    method: &'static str,
    /// Whether the rate limit of room staff needs no more charge for this call.
    is_staff_charged: AtomicBool,
}

/// A change that is durable and visible in the view.
pub struct Committed<T> {
    /// The response.
    pub answer: T,
    /// The commit of the change. If there was nothing to change: a revision no older than what the
    /// plan read.
    pub revision: Revision,
}

impl RequestContext {
    /// Checks that the caller may do this. Errors: PERMISSION_DENIED.
    fn permit(&self, action: Action<'_>) -> Result<(), Error> {
        if may(&self.principal, action) { Ok(()) } else { Err(denied(&self.principal, action)) }
    }

    /// The app key.
    fn key(&self) -> &str {
        self.app.key.as_str()
    }

    fn restriction(&self, now_ms: u64, expire: Expire, reason: &str) -> Restriction {
        let provenance = Provenance { actor: self.principal.actor().into(), reason: reason.into() };
        Restriction { expire, set_ms: now_ms, provenance: Arc::new(provenance) }
    }

    fn event(&self, kind: EventKind, now_ms: u64) -> Event {
        let request_id = self.request_id().to_owned();
        Event { request_id, ..Event::new(kind, self.key(), &self.principal.actor(), now_ms) }
    }

    fn room_event(
        &self,
        kind: EventKind,
        now_ms: u64,
        room: &RoomId,
        users: &[UserId],
        reason: &str,
    ) -> Event {
        let users = users.iter().map(ToString::to_string).collect();
        Event {
            room: room.to_string(),
            users,
            reason: reason.to_owned(),
            ..self.event(kind, now_ms)
        }
    }
}

impl Service {
    /// Admits a caller to an app, and charges the rate limit. Errors: the UNAUTHENTICATED reasons,
    /// PERMISSION_DENIED, APP_NOT_FOUND, RATE_LIMITED, INVALID_ARGUMENT.
    pub fn authorize(
        &self,
        caller: Caller,
        app: String,
        method: &'static str,
    ) -> Result<RequestContext, Error> {
        let Caller { principal, calls, .. } = caller;
        let principal = principal?;
        let key = crate::model::AppKey::parse(app)?;
        principal.belongs_to(&key).inspect_err(|_| refused::wrong_app(&principal, key.as_str()))?;
        let app = self.access.app(key.as_str())?;
        if let Some(calls) = NonZeroU32::new(calls) {
            self.limits.calls(calls, app.number, principal.rated(), method)?;
        }
        Ok(RequestContext {
            app,
            principal,
            idempotency_key: None,
            method,
            is_staff_charged: AtomicBool::new(calls == 0),
        })
    }

    /// Waits until the caller may read the next page of a list that is streamed in full. The lists
    /// of one service, of an app's admins, or of an app's users take turns, in the order of their
    /// calls. Errors: the UNAUTHENTICATED reasons, APP_NOT_FOUND.
    pub async fn wait_for_page_turn(&self, caller: &Caller, app: &str) -> Result<(), Error> {
        let principal = caller.principal.as_ref().map_err(Clone::clone)?;
        let app = self.access.app(app)?;
        let turn = match principal {
            Principal::Service(service) => &service.turn,
            Principal::AppAdmin { .. } => &app.holders[0].turn,
            Principal::User { .. } => &app.holders[1].turn,
        };
        let _turn = turn.lock().await;
        while let Err(wait) = self.limits.page(app.number, principal.rated()) {
            tokio::time::sleep(wait.max(MIN_PAGE_DELAY)).await;
        }
        Ok(())
    }

    /// Charges the rate limit for the elements that a list skips before its page. Errors:
    /// RATE_LIMITED.
    pub fn charge_skipped(&self, call: &RequestContext, elements: usize) -> Result<(), Error> {
        let calls = u32::try_from(elements / SKIPPED_PER_CALL).unwrap_or(u32::MAX);
        NonZeroU32::new(calls).map_or(Ok(()), |calls| {
            self.limits.calls(calls, call.app.number, call.principal.rated(), call.method)
        })
    }

    /// Waits until the view has applied the commit, or until the timeout. Errors:
    /// STORE_UNAVAILABLE.
    pub async fn wait_for_revision(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Result<(), Error> {
        // Boxed, so that the future of a call that does not wait stays small.
        if self.view.revision() >= revision
            || Box::pin(self.view.wait_within(revision, timeout)).await
        {
            Ok(())
        } else {
            Err(Error::not_yet_applied(revision))
        }
    }

    /// Whether the view is older than `max_view_age`: this process has lost contact with the
    /// cluster that holds the records.
    #[must_use]
    pub fn has_old_view(&self) -> bool {
        self.view.age() > self.max_view_age
    }

    /// Errors: STORE_UNAVAILABLE if the view is old and `refuse_old_views` is set.
    fn require_new_view(&self) -> Result<(), Error> {
        if self.refuse_old_views && self.has_old_view() {
            Err(Error::old_view(self.view.age()))
        } else {
            Ok(())
        }
    }

    /// Checks that the caller may do this in the room. The room's owner and admins are its staff; a
    /// call that relies on that also counts against the rate limit of staff. Errors:
    /// PERMISSION_DENIED, RATE_LIMITED.
    fn permit_in_room<'a>(
        &self,
        call: &RequestContext,
        room: &RoomId,
        action: impl FnOnce(bool) -> Action<'a>,
    ) -> Result<(), Error> {
        let is_staff = match &call.principal {
            Principal::User { user, .. } => self.view.room(call.key(), room.as_str(), |room| {
                room.and_then(|room| room.profile.as_ref())
                    .is_some_and(|profile| profile.value.is_staff(user))
            }),
            Principal::Service(_) | Principal::AppAdmin { .. } => false,
        };
        call.permit(action(is_staff))?;
        // Charged once a call: a change may be planned several times.
        if is_staff && !call.is_staff_charged.swap(true, Ordering::Relaxed) {
            self.limits.staff(call.app.number, call.method)?;
        }
        Ok(())
    }

    /// Errors: CLIENT_NOT_FOUND with all of the users who are not registered in a strict app.
    fn require_clients<'a>(
        &self,
        call: &RequestContext,
        users: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        if !call.app.strict {
            return Ok(());
        }
        let missing: Vec<_> =
            users.filter(|user| !self.has_client(call, user)).map(str::to_owned).collect();
        if missing.is_empty() { Ok(()) } else { Err(Error::clients_not_found(missing)) }
    }

    fn has_client(&self, call: &RequestContext, user: &str) -> bool {
        self.view
            .client(call.key(), user, |client| client.is_some_and(|client| client.is_registered()))
    }
}

//! The rules: who may, what is checked, what is committed. One file a subject; this one has what
//! they share: the way in, and the way a change is committed.
//!
//! # The way in
//! [`Service::authorize`] makes a [`RequestContext`] of a caller and an app key: it knows the
//! caller, may know of the app, and is within its limits. No rule can be reached without one. A
//! read that asks for a commit waits for it in [`Service::wait_for_revision`].
//!
//! # The way of a change
//! `Service::change` plans a batch against the view, with expectations on every record the plan was
//! made from; commits it; and waits until the view has it. When an expectation does not hold,
//! somebody was faster: it waits for the view to see that, and plans again. Whatever permits the
//! change is looked at inside the plan, after the revision that the batch expects was read: so a
//! right that is gone when the batch is committed was not relied on. Where the plan would replace
//! what has ended and is not swept yet, that is swept first (`expire_first.rs`). Each write takes a
//! function that makes its answer, because that is committed too where the request has an id
//! (`request.rs`).

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
        credentials::{Access, Caller},
        may,
    },
    clock::Clock,
    error::{Error, Reason},
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
pub use directory::{ClientInfo, ClientPatch, RoomPage, RoomPatch};
pub use events::{EventFilter, EventPage, PAGE_BYTES};
pub use idempotency::Answer;
pub use quota::Quotas;
pub use token::{MAX_TTL_S, TokenAsked};

/// Between two looks for a turn, at least.
const SOON: Duration = Duration::from_millis(2);
/// Elements that a list passes over for what a call costs.
const PASSED: usize = 10_000;

/// The service, once for all listeners.
pub struct Service {
    /// The configured apps, and who may call.
    pub access: Arc<Access>,
    /// Where changes go.
    pub store: Arc<dyn Store>,
    /// Where answers come from.
    pub view: View,
    /// The time.
    pub clock: Clock,
    /// How often an app may call.
    pub limits: Arc<Limits>,
    /// How long a token is good for where nobody says, in seconds.
    pub token_ttl_s: u64,
    /// Who watches.
    pub hub: Arc<Hub>,
    /// How often a watcher is told that all is told.
    pub heartbeat: Duration,
    /// A view that is older than this is an old one.
    pub max_view_age: Duration,
    /// Checks are refused rather than answered from an old view.
    pub refuse_old_views: bool,
    /// What one app may have.
    pub quotas: Quotas,
    /// What callers hold, for whoever asks.
    pub load: Arc<ConcurrencyLimit>,
    /// A clock that is far from those of the other replicas is a reason not to be ready.
    pub refuse_skewed_clock: bool,
}

/// What a caller has named its request by.
struct IdempotencyKey {
    id: RequestId,
    /// What the answer is kept under: of a user its own, so that nobody takes the ids of a service
    /// or of another user.
    key: String,
    fingerprint: [u8; 16],
}

/// A known caller inside one app.
pub struct RequestContext {
    /// The app.
    pub app: Arc<App>,
    /// The caller.
    pub principal: Principal,
    /// What the caller has named its request by, if at all.
    request: Option<IdempotencyKey>,
    /// Of the RPC.
    method: &'static str,
    /// Whether it is counted as one of staff.
    counted: AtomicBool,
}

/// What a change has come to.
pub struct Committed<T> {
    /// The answer to it.
    pub answer: T,
    /// The commit that holds it; where there was nothing to change, the one it was decided on.
    pub revision: Revision,
}

impl RequestContext {
    /// Errors: PERMISSION_DENIED.
    fn permit(&self, action: Action<'_>) -> Result<(), Error> {
        if may(&self.principal, action) {
            Ok(())
        } else {
            Err(Error::new(Reason::PermissionDenied, "the caller may not do this"))
        }
    }

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
    /// Lets a caller into an app. Errors: the UNAUTHENTICATED reasons, PERMISSION_DENIED,
    /// APP_NOT_FOUND, RATE_LIMITED, INVALID_ARGUMENT.
    pub fn authorize(
        &self,
        caller: Caller,
        app: String,
        method: &'static str,
    ) -> Result<RequestContext, Error> {
        let Caller { principal, calls, .. } = caller;
        let principal = principal?;
        let key = crate::model::AppKey::parse(app)?;
        principal.belongs_to(&key)?;
        let app = self.access.app(key.as_str())?;
        if let Some(calls) = NonZeroU32::new(calls) {
            self.limits.calls(calls, app.number, principal.rated(), method)?;
        }
        Ok(RequestContext {
            app,
            principal,
            request: None,
            method,
            counted: AtomicBool::new(calls == 0),
        })
    }

    /// Waits until the caller may read the next page of a list that is told whole, after those of
    /// its app who wait for it already. Errors: the UNAUTHENTICATED reasons, APP_NOT_FOUND.
    pub async fn turn(&self, caller: &Caller, app: &str) -> Result<(), Error> {
        let (principal, app) =
            (caller.principal.as_ref().map_err(Clone::clone)?, self.access.app(app)?);
        let turn = match principal {
            Principal::Service(service) => &service.turn,
            Principal::AppAdmin { .. } => &app.holders[0].turn,
            Principal::User { .. } => &app.holders[1].turn,
        };
        let _turn = turn.lock().await;
        while let Err(wait) = self.limits.page(app.number, principal.rated()) {
            tokio::time::sleep(wait.max(SOON)).await;
        }
        Ok(())
    }

    /// Counts what a list passes over before its page begins. Errors: RATE_LIMITED.
    pub fn pass(&self, call: &RequestContext, elements: usize) -> Result<(), Error> {
        let calls = u32::try_from(elements / PASSED).unwrap_or(u32::MAX);
        NonZeroU32::new(calls).map_or(Ok(()), |calls| {
            self.limits.calls(calls, call.app.number, call.principal.rated(), call.method)
        })
    }

    /// Waits until the view has the commit, at most so long. Errors: STORE_UNAVAILABLE.
    pub async fn wait_for_revision(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Result<(), Error> {
        // Boxed, so that a call that need not wait does not carry the room for it.
        if self.view.revision() >= revision
            || Box::pin(self.view.wait_within(revision, timeout)).await
        {
            Ok(())
        } else {
            Err(Error::not_yet_applied(revision))
        }
    }

    /// Whether the view is older than it should be: this process is cut off from the cluster that
    /// keeps the records.
    #[must_use]
    pub fn has_old_view(&self) -> bool {
        self.view.age() > self.max_view_age
    }

    /// Errors: STORE_UNAVAILABLE where checks are not to be answered from an old view, and it is
    /// one.
    fn require_new_view(&self) -> Result<(), Error> {
        if self.refuse_old_views && self.has_old_view() {
            Err(Error::old_view(self.view.age()))
        } else {
            Ok(())
        }
    }

    /// Permits an action in a room, where it may depend on whether the caller is owner or admin of
    /// it. Errors: PERMISSION_DENIED, RATE_LIMITED.
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
        // Once, however often it is planned.
        if is_staff && !call.counted.swap(true, Ordering::Relaxed) {
            self.limits.staff(call.app.number, call.method)?;
        }
        Ok(())
    }

    /// Errors: CLIENT_NOT_FOUND with those that the directory of a strict app lacks.
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

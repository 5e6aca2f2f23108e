//! Quotas: limits on what one app may store, so that no app takes the memory and the disk of the
//! others.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{RequestContext, Service};
use crate::{
    auth::Principal,
    error::{Error, Reason},
    model::{Key, Value},
    store::Batch,
    view::{Room, Usage},
};

/// Minimum interval between two logged refusals, over all apps.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The quotas of one app.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Quotas {
    pub rooms: u64,
    pub clients: u64,
    /// Member mutes, user mutes, notification mutes, room bans, and entries of allow lists.
    pub mutes: u64,
    /// Size of the profiles of rooms and clients, with custom fields.
    pub profile_bytes: u64,
    /// Idempotency records. A record counts once per started KiB of its response.
    pub requests: u64,
    /// Concurrent watches.
    pub watchers: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            rooms: 200_000,
            clients: 2_000_000,
            // The pod in deploy/kubernetes is sized for five million records.
            mutes: 2_000_000,
            profile_bytes: 256 << 20,
            // About 300 bytes of memory each.
            requests: 1_000_000,
            watchers: 20_000,
        }
    }
}

impl Quotas {
    /// For each kind: its name, the app's usage, and the quota.
    fn with(self, usage: Usage) -> [(&'static str, u64, u64); 4] {
        let Usage { rooms, clients, mutes, profile_bytes } = usage;
        [
            ("rooms", rooms, self.rooms),
            ("clients", clients, self.clients),
            ("mutes", mutes, self.mutes),
            ("profile_bytes", profile_bytes, self.profile_bytes),
        ]
    }
}

impl Service {
    /// Checks that the app has quota for the records that the batch adds, and, if
    /// `adds_idempotency_record`, for one of those. Updates and deletes need no quota. Errors:
    /// QUOTA_EXCEEDED.
    pub(super) fn require_quota(
        &self,
        call: &RequestContext,
        batch: &Batch<'_>,
        adds_idempotency_record: bool,
    ) -> Result<(), Error> {
        let requests = quota_for(&call.principal, self.quotas.requests);
        if adds_idempotency_record && self.view.idempotency_records(call.key()) >= requests {
            return Err(exceeded(call, "requests", requests));
        }
        let usage = self.view.app(call.key()).usage();
        // A cheap upper bound of what the batch can add. Usually there is quota for that.
        let count = batch.puts().count() as u64;
        let profile_bytes = batch.puts().map(|(_, value, _)| profile_bytes(value)).sum();
        let bound = Usage { rooms: count, clients: count, mutes: count, profile_bytes };
        if self.first_exceeded(call, usage, bound).is_none() {
            return Ok(());
        }
        match self.first_exceeded(call, usage, self.added(call, batch)) {
            Some((kind, quota)) => Err(exceeded(call, kind, quota)),
            None => Ok(()),
        }
    }

    /// The first kind, with its quota, for which `usage` and `more` together exceed the quota.
    fn first_exceeded(
        &self,
        call: &RequestContext,
        usage: Usage,
        more: Usage,
    ) -> Option<(&'static str, u64)> {
        let kinds = self.quotas.with(usage).into_iter().zip(self.quotas.with(more));
        kinds.into_iter().find_map(|((kind, used, quota), (_, more, _))| {
            let quota = quota_for(&call.principal, quota);
            (more > 0 && used.saturating_add(more) > quota).then_some((kind, quota))
        })
    }

    /// What the batch adds: the keys that it puts on the precondition that they are absent, and the
    /// growth of the profiles.
    fn added(&self, call: &RequestContext, batch: &Batch<'_>) -> Usage {
        let mut added = Usage::default();
        for (key, value, is_new) in batch.puts() {
            let is_new = u64::from(is_new);
            match key {
                Key::Room { room, .. } => {
                    let before = self
                        .view
                        .room(call.key(), room, |room| room.map_or(0, Room::profile_bytes));
                    added.rooms += is_new;
                    added.profile_bytes += profile_bytes(value).saturating_sub(before);
                }
                Key::Client { user, .. } => {
                    let before = self.view.client(call.key(), user, |client| {
                        client.map_or(0, |client| client.profile_bytes())
                    });
                    added.clients += is_new;
                    added.profile_bytes += profile_bytes(value).saturating_sub(before);
                }
                Key::Ban { .. }
                | Key::MemberMute { .. }
                | Key::Allowed { .. }
                | Key::NotificationMute { .. }
                | Key::UserMute { .. } => added.mutes += is_new,
                Key::Request { .. } | Key::DeletedRoom { .. } | Key::DeletedClient { .. } => {}
            }
        }
        added
    }

    /// For each kind, the largest share of its quota that any app uses. 1.0 is all of it.
    #[must_use]
    pub fn quota_shares(&self) -> Vec<(&'static str, f64)> {
        let share = |used: u64, quota: u64| used as f64 / quota as f64;
        let mut shares: Vec<_> =
            self.quotas.with(Usage::default()).map(|(kind, ..)| (kind, 0.0)).into();
        for usage in self.view.usages() {
            for ((_, max), (_, used, quota)) in shares.iter_mut().zip(self.quotas.with(usage)) {
                *max = f64::max(*max, share(used, quota));
            }
        }
        let requests = self.view.most_idempotency_records();
        shares.push(("requests", share(requests, self.quotas.requests)));
        let watchers = self.hub.most_watchers() as u64;
        shares.push(("watchers", share(watchers, self.quotas.watchers)));
        shares
    }
}

/// Size of a profile. 0 if the value is none.
fn profile_bytes(value: &Value) -> u64 {
    match value {
        Value::Room(room) => room.text_bytes(),
        Value::Client(client) => client.text_bytes(),
        Value::Restriction(_)
        | Value::NotificationMute(..)
        | Value::Request(_)
        | Value::Deleted(_) => 0,
    }
}

/// The part of a quota that a caller may use. Users may use half of it: the rest is for those who
/// moderate them.
const fn quota_for(principal: &Principal, quota: u64) -> u64 {
    match principal {
        Principal::User { .. } => quota / 2,
        Principal::Service(_) | Principal::AppAdmin { .. } => quota,
    }
}

/// The QUOTA_EXCEEDED error. It is also logged, once per [`LOG_INTERVAL`].
pub(super) fn exceeded(call: &RequestContext, kind: &'static str, quota: u64) -> Error {
    static LAST_LOGGED: LazyLock<Mutex<Option<Instant>>> = LazyLock::new(Mutex::default);
    let mut last_logged = LAST_LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if last_logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
        *last_logged = Some(Instant::now());
        tracing::warn!(app = call.key(), kind, quota, "an app has reached its quota");
    }
    let message = format!("the app has reached its quota of {quota} {kind}");
    Error::new(Reason::QuotaExceeded, message)
}

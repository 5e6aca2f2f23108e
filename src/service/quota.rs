//! What one app may have, so that no app takes the memory and the disk of the others.

use std::{
    collections::HashSet,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{RequestContext, Service};
use crate::{
    auth::Principal,
    error::{Error, Reason},
    model::{Key, Value},
    store::{Batch, Operation, codec},
    view::{Room, Usage},
};

/// A refusal is logged this often at most.
const TELL: Duration = Duration::from_secs(60);

/// What one app may have of each kind.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Quotas {
    pub rooms: u64,
    pub clients: u64,
    /// Of members, of users in the whole app, of rooms' notifications, bans, and members of allow
    /// lists.
    pub mutes: u64,
    /// Of the profiles of rooms and clients, custom fields among them.
    pub profile_bytes: u64,
    /// Answers that are kept for repeats; one counts once for each KiB that it begins.
    pub requests: u64,
    /// Watches at a time.
    pub watchers: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            rooms: 200_000,
            clients: 2_000_000,
            // Of the five million records that the pod of deploy/kubernetes is made for.
            mutes: 2_000_000,
            profile_bytes: 256 << 20,
            // Some 300 bytes of memory each.
            requests: 1_000_000,
            watchers: 20_000,
        }
    }
}

impl Quotas {
    /// Each with its name, and what an app uses of it.
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
    /// Whether there is room in the app for what the batch adds, and for the answer that is to be
    /// kept. What is changed or removed needs none. Errors: QUOTA_EXCEEDED.
    pub(super) fn require_quota(
        &self,
        call: &RequestContext,
        batch: &Batch,
        keeps_answer: bool,
    ) -> Result<(), Error> {
        let requests = part_for(&call.principal, self.quotas.requests);
        if keeps_answer && self.view.idempotency_records(call.key()) >= requests {
            return Err(exceeded(call, "requests", requests));
        }
        let usage = self.view.app(call.key()).usage();
        // Most of the time there is room for more than the batch can add.
        let (count, bytes) = (batch.operations.len() as u64, bytes(batch));
        let most = Usage { rooms: count, clients: count, mutes: count, profile_bytes: bytes };
        if self.first_exceeded(call, usage, most).is_none() {
            return Ok(());
        }
        match self.first_exceeded(call, usage, self.added(call, batch)) {
            Some((kind, quota)) => Err(exceeded(call, kind, quota)),
            None => Ok(()),
        }
    }

    fn first_exceeded(
        &self,
        call: &RequestContext,
        usage: Usage,
        more: Usage,
    ) -> Option<(&'static str, u64)> {
        let kinds = self.quotas.with(usage).into_iter().zip(self.quotas.with(more));
        kinds.into_iter().find_map(|((kind, used, quota), (_, more, _))| {
            let quota = part_for(&call.principal, quota);
            (more > 0 && used.saturating_add(more) > quota).then_some((kind, quota))
        })
    }

    /// What the batch adds: keys that it puts and expects not to be there, and by how much profiles
    /// grow.
    fn added(&self, call: &RequestContext, batch: &Batch) -> Usage {
        let absent: HashSet<_> = batch
            .preconditions
            .iter()
            .filter(|expectation| expectation.revision.is_none())
            .map(|expectation| &expectation.key)
            .collect();
        let mut added = Usage::default();
        for operation in &batch.operations {
            let Operation::Put { key: bytes, value } = operation else { continue };
            let Ok(key) = codec::decode_key(bytes) else { continue };
            let is_new = u64::from(absent.contains(bytes));
            match key {
                Key::Room { room, .. } => {
                    added.rooms += is_new;
                    added.profile_bytes += grown(
                        bytes,
                        value,
                        self.view
                            .room(call.key(), room, |room| room.map_or(0, Room::profile_bytes)),
                    );
                }
                Key::Client { user, .. } => {
                    added.clients += is_new;
                    let before = self.view.client(call.key(), user, |client| {
                        client.map_or(0, |client| client.profile_bytes())
                    });
                    added.profile_bytes += grown(bytes, value, before);
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

    /// The largest part of its quota that any app uses of each kind.
    #[must_use]
    pub fn quota_shares(&self) -> Vec<(&'static str, f64)> {
        let mut shares: Vec<_> =
            self.quotas.with(Usage::default()).map(|(kind, ..)| (kind, 0.0)).into();
        for usage in self.view.usages() {
            for ((_, share), (_, used, quota)) in shares.iter_mut().zip(self.quotas.with(usage)) {
                *share = f64::max(*share, used as f64 / quota as f64);
            }
        }
        let most = |used: u64, quota: u64| used as f64 / quota as f64;
        shares.push(("requests", most(self.view.most_idempotency_records(), self.quotas.requests)));
        shares.push(("watchers", most(self.hub.most_watchers() as u64, self.quotas.watchers)));
        shares
    }
}

/// By how much the profile of these bytes is larger than it was.
fn grown(key: &[u8], value: &[u8], before: u64) -> u64 {
    let bytes = match codec::decode(key, value) {
        Ok((_, Value::Room(room))) => room.text_bytes(),
        Ok((_, Value::Client(client))) => client.text_bytes(),
        _ => 0,
    };
    bytes.saturating_sub(before)
}

/// What a caller may fill of a quota: users leave half to those who moderate them.
const fn part_for(principal: &Principal, quota: u64) -> u64 {
    match principal {
        Principal::User { .. } => quota / 2,
        Principal::Service(_) | Principal::AppAdmin { .. } => quota,
    }
}

/// Of all values that it puts.
fn bytes(batch: &Batch) -> u64 {
    let bytes = |operation: &Operation| match operation {
        Operation::Put { value, .. } => value.len() as u64,
        Operation::Delete { .. } => 0,
    };
    batch.operations.iter().map(bytes).sum()
}

pub(super) fn exceeded(call: &RequestContext, kind: &'static str, quota: u64) -> Error {
    static TOLD: LazyLock<Mutex<Option<Instant>>> = LazyLock::new(Mutex::default);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.is_none_or(|told| told.elapsed() >= TELL) {
        *told = Some(Instant::now());
        tracing::warn!(app = call.key(), kind, quota, "an app has as much as it may");
    }
    Error::new(Reason::QuotaExceeded, format!("the app has as much as it may: {quota} {kind}"))
}

//! The contents of the view: all apps, and how a commit changes them.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    client::{Client, ClientRef},
    expiry_queue::{EntityId, ExpiryQueue},
    idempotency::IdempotencyRecords,
    index::{Entity as _, Index},
    muted_users::MutedUsers,
    room::Room,
    tombstone::{DeletedRooms, TombstonedSet},
    versioned::Versioned,
};
use crate::{
    model::{Expire, Key, Owner, Provenance, Restriction, Value},
    store::Revision,
};
use foldhash::HashMap;

/// Pairs of actor and reason that restrictions share, at most. Beyond it, unused pairs are dropped.
const SHARED_PROVENANCES_MAX: usize = 65_536;

/// The kinds of records that are counted for each app.
pub(super) const KINDS: [&str; 7] =
    ["room", "ban", "member_mute", "allowed_member", "client", "notification_mute", "user_mute"];

/// Numbers of records, in the order of [`KINDS`].
pub(super) type Counts = [u64; KINDS.len()];

#[derive(Default)]
pub(super) struct State {
    apps: RwLock<HashMap<Box<str>, Arc<App>>>,
    pub(super) expiry_queue: ExpiryQueue,
    /// Rooms and clients with deleted records that are still stored.
    pub(super) tombstoned: TombstonedSet,
    pub(super) idempotency_records: IdempotencyRecords,
    provenances: Mutex<HashSet<Arc<Provenance>>>,
}

#[derive(Default)]
pub(super) struct App {
    pub(super) rooms: Index<Room>,
    pub(super) clients: Index<Client>,
    pub(super) muted_users: MutedUsers,
    pub(super) deleted_rooms: DeletedRooms,
    records: [AtomicU64; KINDS.len()],
    profile_bytes: AtomicU64,
}

/// What an app uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Usage {
    pub rooms: u64,
    pub clients: u64,
    /// Member, notification and user mutes, bans, and entries of allow lists.
    pub mutes: u64,
    /// Bytes of text in the profiles of rooms and clients.
    pub profile_bytes: u64,
}

impl App {
    fn records(&self) -> Counts {
        std::array::from_fn(|kind| self.records[kind].load(Ordering::Relaxed))
    }

    pub(super) fn usage(&self) -> Usage {
        let [rooms, ban, member_mute, allowed, clients, notification_mute, user_mute] =
            self.records();
        let mutes = ban + member_mute + allowed + notification_mute + user_mute;
        Usage { rooms, clients, mutes, profile_bytes: self.profile_bytes.load(Ordering::Relaxed) }
    }

    /// Adds the difference of two pairs of record counts and profile bytes.
    fn adjust_usage(&self, before: (Counts, u64), after: (Counts, u64)) {
        for (records, (before, after)) in self.records.iter().zip(before.0.into_iter().zip(after.0))
        {
            if before != after {
                records.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
            }
        }
        if before.1 != after.1 {
            self.profile_bytes.fetch_add(after.1.wrapping_sub(before.1), Ordering::Relaxed);
        }
    }

    /// Reads one client. None: it has no records.
    pub(super) fn client<T>(&self, user: &str, read: impl FnOnce(Option<ClientRef<'_>>) -> T) -> T {
        self.clients.read(user, |client| {
            read(client.map(|client| ClientRef::of(client, &self.deleted_rooms)))
        })
    }
}

/// The write or the deletion of one record.
pub(super) struct RecordUpdate<'a> {
    pub(super) key: Key<'a>,
    /// None: the record is deleted.
    pub(super) value: Option<Value>,
    /// The revision of the commit.
    pub(super) revision: Revision,
}

impl State {
    pub(super) fn app(&self, app: &str) -> Option<Arc<App>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app).cloned()
    }

    fn app_or_new(&self, app: &str) -> Arc<App> {
        if let Some(app) = self.app(app) {
            return app;
        }
        self.apps
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(app.into())
            .or_default()
            .clone()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let mut records = Counts::default();
        for app in self.apps() {
            records.iter_mut().zip(app.records()).for_each(|(sum, count)| *sum += count);
        }
        KINDS.into_iter().zip(records).chain([("request", self.idempotency_records.len())])
    }

    pub(super) fn apps(&self) -> Vec<Arc<App>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Applies changes in order. A run of changes of one owner is applied under one lock.
    pub(super) fn apply(&self, mut changes: Vec<RecordUpdate<'_>>) {
        for run in changes.chunk_by_mut(|a, b| a.key.owner() == b.key.owner()) {
            let Some(first) = run.first() else { continue };
            match first.key.owner() {
                Owner::Room { app, room } => self.apply_to_room(app, room, run),
                Owner::Client { app, user } | Owner::User { app, user } => {
                    self.apply_to_client(app, user, run)
                }
                Owner::Request { app, id } => self.apply_to_request(app, id, run),
            }
        }
    }

    fn apply_to_room(&self, app_key: &str, id: &str, run: &mut [RecordUpdate<'_>]) {
        let app = self.app_or_new(app_key);
        let entity = EntityId::Room(id);
        app.rooms.update(id, |room| {
            let before = (room.records(), room.profile_bytes());
            for RecordUpdate { key, value, revision } in run {
                let key = *key;
                let revision = *revision;
                let value = value.take().map(|value| self.share(value));
                let expire_ms = value.as_ref().and_then(expire_ms);
                self.expiry_queue.schedule(expire_ms, app_key, entity, &mut room.scheduled_ms);
                room.apply(key, value, revision);
                if matches!(key, Key::DeletedRoom { .. }) {
                    let tombstone = room.tombstone.as_ref();
                    app.deleted_rooms.set(id, tombstone.map(|tombstone| tombstone.revision));
                    self.tombstoned.set(tombstone.is_some(), app_key, true, id);
                }
            }
            app.adjust_usage(before, (room.records(), room.profile_bytes()));
            self.expiry_queue.cancel_if(room.is_empty(), app_key, entity, &mut room.scheduled_ms);
        });
    }

    fn apply_to_client(&self, app_key: &str, user: &str, run: &mut [RecordUpdate<'_>]) {
        let app = self.app_or_new(app_key);
        let entity = EntityId::Client(user);
        app.clients.update(user, |client| {
            let before = (client.records(), client.profile_bytes());
            for RecordUpdate { key, value, revision } in run {
                let key = *key;
                let revision = *revision;
                let value = value.take().map(|value| self.share(value));
                let expire_ms = value.as_ref().and_then(expire_ms);
                self.expiry_queue.schedule(expire_ms, app_key, entity, &mut client.scheduled_ms);
                if let Key::NotificationMute { room, .. } = key {
                    let until = value
                        .as_ref()
                        .and_then(expire)
                        .map(|value| Versioned { value, revision })
                        .filter(|_| !client.has_deleted(revision));
                    self.set_push_mute(&app, app_key, room, user, until);
                }
                client.apply(key, value, revision);
                match key {
                    Key::UserMute { .. } => app.muted_users.set(user, client.user_mute.clone()),
                    Key::DeletedClient { .. } => self.delete_client(&app, app_key, user, client),
                    _ => {}
                }
            }
            app.adjust_usage(before, (client.records(), client.profile_bytes()));
            self.expiry_queue.cancel_if(
                client.is_empty(),
                app_key,
                entity,
                &mut client.scheduled_ms,
            );
        });
    }

    /// Removes the client's deleted notification mutes from their rooms.
    fn delete_client(&self, app: &App, app_key: &str, user: &str, client: &Client) {
        self.tombstoned.set(client.tombstone.is_some(), app_key, false, user);
        let deleted = client.tombstone.iter().flat_map(|tombstone| &tombstone.muted);
        deleted.for_each(|muted| self.set_push_mute(app, app_key, &muted.room, user, None));
    }

    fn apply_to_request(&self, app: &str, id: &str, run: &mut [RecordUpdate<'_>]) {
        for change in run {
            let record = match change.value.take() {
                Some(Value::Request(record)) => Some(record),
                _ => None,
            };
            self.idempotency_records.apply(app, id, record, change.revision);
        }
    }

    fn set_push_mute(
        &self,
        app: &App,
        app_key: &str,
        id: &str,
        user: &str,
        until: Option<Versioned<Expire>>,
    ) {
        app.rooms.update(id, |room| {
            room.set_push_mute(user, until);
            let entity = EntityId::Room(id);
            self.expiry_queue.cancel_if(room.is_empty(), app_key, entity, &mut room.scheduled_ms);
        });
    }

    /// Lets restrictions with the same actor and reason share one copy of both.
    fn share(&self, value: Value) -> Value {
        match value {
            Value::Restriction(restriction) => Value::Restriction(Restriction {
                provenance: self.share_provenance(restriction.provenance),
                ..restriction
            }),
            Value::NotificationMute(restriction, place) => Value::NotificationMute(
                Restriction {
                    provenance: self.share_provenance(restriction.provenance),
                    ..restriction
                },
                place,
            ),
            value @ (Value::Room(_) | Value::Client(_) | Value::Request(_) | Value::Deleted(_)) => {
                value
            }
        }
    }

    fn share_provenance(&self, provenance: Arc<Provenance>) -> Arc<Provenance> {
        let mut provenances = self.provenances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = provenances.get(&provenance) {
            return shared.clone();
        }
        if provenances.len() >= SHARED_PROVENANCES_MAX {
            provenances.retain(|provenance| Arc::strong_count(provenance) > 1);
        }
        if provenances.len() < SHARED_PROVENANCES_MAX {
            provenances.insert(provenance.clone());
        }
        provenance
    }
}

impl Room {
    fn records(&self) -> Counts {
        let room = u64::from(self.profile.is_some());
        let ban = u64::from(self.ban.is_some());
        [room, ban, self.muted.len() as u64, self.allowed.len() as u64, 0, 0, 0]
    }

    /// Bytes of text in its profile.
    #[must_use]
    pub fn profile_bytes(&self) -> u64 {
        self.profile.as_ref().map_or(0, |profile| profile.value.text_bytes())
    }
}

impl Client {
    fn records(&self) -> Counts {
        let client = u64::from(self.profile.is_some());
        let user_mute = u64::from(self.user_mute.is_some());
        [0, 0, 0, 0, client, self.muted.len() as u64, user_mute]
    }

    /// Bytes of text in its profile.
    #[must_use]
    pub fn profile_bytes(&self) -> u64 {
        self.profile.as_ref().map_or(0, |profile| profile.value.text_bytes())
    }
}

fn expire(value: &Value) -> Option<Expire> {
    match value {
        Value::Restriction(restriction) | Value::NotificationMute(restriction, _) => {
            Some(restriction.expire)
        }
        Value::Room(_) | Value::Client(_) | Value::Request(_) | Value::Deleted(_) => None,
    }
}

fn expire_ms(value: &Value) -> Option<u64> {
    expire(value).and_then(Expire::ms)
}

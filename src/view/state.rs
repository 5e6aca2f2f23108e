//! All apps of the view, and how one commit changes them.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    client::{Client, KnownClient},
    expiry_queue::{Place, Schedule},
    idempotency::Requests,
    index::{Entity as _, Index},
    muted_users::MutedUsers,
    room::Room,
    tombstone::{DeletedRooms, Owners},
    versioned::Versioned,
};
use crate::{
    model::{Expire, Key, Owner, Provenance, Restriction, Value},
    store::Revision,
};
use foldhash::HashMap;

/// Pairs of actor and reason that are kept to be shared; beyond it, those that nothing uses are
/// dropped.
const SHARED_PROVENANCES: usize = 65_536;

/// The kinds of records, as they are counted.
pub(super) const KINDS: [&str; 7] =
    ["room", "ban", "member_mute", "allowed_member", "client", "notification_mute", "user_mute"];

/// How many records there are, by kind.
pub(super) type Counts = [u64; KINDS.len()];

#[derive(Default)]
pub(super) struct State {
    apps: RwLock<HashMap<Box<str>, Arc<App>>>,
    pub(super) schedule: Schedule,
    /// Whose records are to be removed because they were deleted.
    pub(super) deleted: Owners,
    pub(super) requests: Requests,
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

/// What an app has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Usage {
    pub rooms: u64,
    pub clients: u64,
    /// Of every kind, with bans and members of allow lists.
    pub mutes: u64,
    /// Of the profiles of rooms and clients.
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

    fn count(&self, before: (Counts, u64), after: (Counts, u64)) {
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

    /// Reads one client; nothing is known of it where there is none.
    pub(super) fn client<T>(
        &self,
        user: &str,
        read: impl FnOnce(Option<KnownClient<'_>>) -> T,
    ) -> T {
        self.clients.read(user, |client| {
            read(client.map(|client| KnownClient::of(client, &self.deleted_rooms)))
        })
    }
}

/// One change of the feed: what a key now says, or that it is gone.
pub(super) struct RecordUpdate<'a> {
    pub(super) key: Key<'a>,
    pub(super) value: Option<Value>,
    /// Of the commit.
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
            records.iter_mut().zip(app.records()).for_each(|(sum, of_app)| *sum += of_app);
        }
        KINDS.into_iter().zip(records).chain([("request", self.requests.len())])
    }

    pub(super) fn apps(&self) -> Vec<Arc<App>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Applies changes in their order; those of one owner that follow each other, under one lock.
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

    fn apply_to_room(&self, app: &str, id: &str, run: &mut [RecordUpdate<'_>]) {
        let known = self.app_or_new(app);
        known.rooms.update(id, |room| {
            let before = (room.records(), room.profile_bytes());
            for RecordUpdate { key, value, revision } in run {
                let (key, revision) = (*key, *revision);
                let value = value.take().map(|value| self.share(value));
                self.schedule.at(
                    value.as_ref().and_then(end_ms),
                    app,
                    Place::Room(id),
                    &mut room.scheduled_ms,
                );
                room.apply(key, value, revision);
                if matches!(key, Key::DeletedRoom { .. }) {
                    known
                        .deleted_rooms
                        .set(id, room.remains.as_ref().map(|remains| remains.revision));
                    self.deleted.set(room.remains.is_some(), app, true, id);
                }
            }
            known.count(before, (room.records(), room.profile_bytes()));
            self.schedule.forget_if(room.is_empty(), app, Place::Room(id), &mut room.scheduled_ms);
        });
    }

    fn apply_to_client(&self, app: &str, user: &str, run: &mut [RecordUpdate<'_>]) {
        let known = self.app_or_new(app);
        known.clients.update(user, |client| {
            let before = (client.records(), client.profile_bytes());
            for RecordUpdate { key, value, revision } in run {
                let (key, revision) = (*key, *revision);
                let value = value.take().map(|value| self.share(value));
                self.schedule.at(
                    value.as_ref().and_then(end_ms),
                    app,
                    Place::Client(user),
                    &mut client.scheduled_ms,
                );
                if let Key::NotificationMute { room, .. } = key {
                    let until =
                        value.as_ref().and_then(expire).map(|value| Versioned { value, revision });
                    self.set_push_mute(
                        &known,
                        app,
                        room,
                        user,
                        until.filter(|_| !client.has_deleted(revision)),
                    );
                }
                client.apply(key, value, revision);
                match key {
                    Key::UserMute { .. } => known.muted_users.set(user, client.user_mute.clone()),
                    Key::DeletedClient { .. } => self.delete_client(&known, app, user, client),
                    _ => {}
                }
            }
            known.count(before, (client.records(), client.profile_bytes()));
            self.schedule.forget_if(
                client.is_empty(),
                app,
                Place::Client(user),
                &mut client.scheduled_ms,
            );
        });
    }

    /// The rooms forget what has gone with the client.
    fn delete_client(&self, known: &App, app: &str, user: &str, client: &Client) {
        self.deleted.set(client.remains.is_some(), app, false, user);
        let gone = client.remains.iter().flat_map(|remains| &remains.muted);
        gone.for_each(|muted| self.set_push_mute(known, app, &muted.room, user, None));
    }

    fn apply_to_request(&self, app: &str, id: &str, run: &mut [RecordUpdate<'_>]) {
        for change in run {
            let answered = match change.value.take() {
                Some(Value::Request(answered)) => Some(answered),
                _ => None,
            };
            self.requests.apply(app, id, answered, change.revision);
        }
    }

    fn set_push_mute(
        &self,
        known: &App,
        app: &str,
        id: &str,
        user: &str,
        until: Option<Versioned<Expire>>,
    ) {
        known.rooms.update(id, |room| {
            room.set_push_mute(user, until);
            self.schedule.forget_if(room.is_empty(), app, Place::Room(id), &mut room.scheduled_ms);
        });
    }

    /// Lets marks with the same actor and reason share one copy of them.
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
        if let Some(known) = provenances.get(&provenance) {
            return known.clone();
        }
        if provenances.len() >= SHARED_PROVENANCES {
            provenances.retain(|provenance| Arc::strong_count(provenance) > 1);
        }
        if provenances.len() < SHARED_PROVENANCES {
            provenances.insert(provenance.clone());
        }
        provenance
    }
}

impl Room {
    fn records(&self) -> Counts {
        let is_there = |there: bool| u64::from(there);
        let (muted, allowed) = (self.muted.len() as u64, self.allowed.len() as u64);
        [is_there(self.profile.is_some()), is_there(self.ban.is_some()), muted, allowed, 0, 0, 0]
    }

    /// What the texts of its profile take.
    #[must_use]
    pub fn profile_bytes(&self) -> u64 {
        self.profile.as_ref().map_or(0, |profile| profile.value.text_bytes())
    }
}

impl Client {
    fn records(&self) -> Counts {
        let is_there = |there: bool| u64::from(there);
        [
            0,
            0,
            0,
            0,
            is_there(self.profile.is_some()),
            self.muted.len() as u64,
            is_there(self.user_mute.is_some()),
        ]
    }

    /// What the texts of its profile take.
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

fn end_ms(value: &Value) -> Option<u64> {
    expire(value).and_then(Expire::ms)
}

//! Expired mutes and bans that the sweeper has not removed yet.

use std::sync::Arc;

use super::{View, client::ClientRef, room::Room, state::State};
use crate::{
    model::{Expire, Key, Owner},
    store::Revision,
};

/// Expired records of one kind, of one room or client.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Expired {
    pub app: Arc<str>,
    /// When the first of them expired, in Unix milliseconds, if it is known.
    pub expired_at_ms: Option<u64>,
    pub restrictions: ExpiredRestrictions,
}

/// The expired records, with their revisions.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum ExpiredRestrictions {
    MemberMutes { room: Arc<str>, users: Vec<(Box<str>, Revision)> },
    Ban { room: Arc<str>, revision: Revision },
    NotificationMutes { user: Arc<str>, rooms: Vec<(Box<str>, Revision)> },
    UserMute { user: Arc<str>, revision: Revision },
}

impl ExpiredRestrictions {
    fn len(&self) -> usize {
        match self {
            Self::MemberMutes { users, .. } => users.len(),
            Self::Ban { .. } | Self::UserMute { .. } => 1,
            Self::NotificationMutes { rooms, .. } => rooms.len(),
        }
    }
}

impl View {
    /// Expired mutes and bans of all apps, at most about `limit`. Rooms and clients come in the
    /// order of their earliest expiry.
    #[must_use]
    pub fn expired_restrictions(&self, now_ms: u64, limit: usize) -> Vec<Expired> {
        expired_restrictions(&self.inner.state.load(), now_ms, limit)
    }

    /// Expired mutes and bans that a deletion of this room or client would delete, and the expired
    /// user mute of a client, at most about `limit`. None of a request: the expiry of an
    /// idempotency record has no event.
    #[must_use]
    pub fn expired_restrictions_of(
        &self,
        owner: Owner<'_>,
        now_ms: u64,
        limit: usize,
    ) -> Vec<Expired> {
        let (app, restrictions) = match owner {
            Owner::Room { app, room: id } => {
                let expired = |room: &Room| {
                    let mut expired = expired_in_room(&id.into(), room, now_ms, limit);
                    expired.extend(expired_notification_mutes(id, room, now_ms).take(limit));
                    expired
                };
                (app, self.room(app, id, |room| room.map(expired).unwrap_or_default()))
            }
            Owner::Client { app, user } | Owner::User { app, user } => {
                let expired =
                    |client: ClientRef<'_>| expired_of_client(&user.into(), client, now_ms, limit);
                (app, self.client(app, user, |client| client.map(expired).unwrap_or_default()))
            }
            Owner::Request { app, .. } => (app, Vec::new()),
        };
        restrictions
            .into_iter()
            .map(|restrictions| Expired { app: app.into(), expired_at_ms: None, restrictions })
            .collect()
    }

    /// The revision of the mute or ban with this key, if it has expired and is not removed yet.
    #[must_use]
    pub fn expired_revision(&self, key: Key<'_>, now_ms: u64) -> Option<Revision> {
        let expired = |expire: Expire, revision| (!expire.in_force(now_ms)).then_some(revision);
        match key {
            Key::MemberMute { app, room, user } => self.room(app, room, |room| {
                let mute = room?.muted.get(user)?;
                expired(mute.value.expire, mute.revision)
            }),
            Key::Ban { app, room } => self.room(app, room, |room| {
                let ban = room?.ban.as_ref()?;
                expired(ban.value.expire, ban.revision)
            }),
            Key::NotificationMute { app, user, room } => self.client(app, user, |client| {
                let restriction = &client?.muted_room(room)?.restriction;
                expired(restriction.value.expire, restriction.revision)
            }),
            Key::UserMute { app, user } => self.client(app, user, |client| {
                let mute = client?.user_mute.clone()?;
                expired(mute.value.expire, mute.revision)
            }),
            Key::Room { .. }
            | Key::Client { .. }
            | Key::Allowed { .. }
            | Key::Request { .. }
            | Key::DeletedRoom { .. }
            | Key::DeletedClient { .. } => None,
        }
    }
}

impl Expired {
    /// The mute or ban with this key. None: records with such a key never expire.
    #[must_use]
    pub fn of(key: Key<'_>, revision: Revision) -> Option<Self> {
        let (app, restrictions) = match key {
            Key::MemberMute { app, room, user } => (
                app,
                ExpiredRestrictions::MemberMutes {
                    room: room.into(),
                    users: vec![(user.into(), revision)],
                },
            ),
            Key::Ban { app, room } => {
                (app, ExpiredRestrictions::Ban { room: room.into(), revision })
            }
            Key::NotificationMute { app, user, room } => (
                app,
                ExpiredRestrictions::NotificationMutes {
                    user: user.into(),
                    rooms: vec![(room.into(), revision)],
                },
            ),
            Key::UserMute { app, user } => {
                (app, ExpiredRestrictions::UserMute { user: user.into(), revision })
            }
            Key::Room { .. }
            | Key::Client { .. }
            | Key::Allowed { .. }
            | Key::Request { .. }
            | Key::DeletedRoom { .. }
            | Key::DeletedClient { .. } => return None,
        };
        Some(Self { app: app.into(), expired_at_ms: None, restrictions })
    }
}

impl Room {
    /// When the sweeper has to visit the room next.
    fn next_expire_ms(&self) -> Option<u64> {
        self.muted
            .next_expire_ms()
            .into_iter()
            .chain(self.ban.as_ref().and_then(|ban| ban.value.expire.ms()))
            .min()
    }
}

impl ClientRef<'_> {
    fn next_expire_ms(self) -> Option<u64> {
        let user_mute = self.user_mute.iter().map(|mute| mute.value.expire);
        self.muted()
            .map(|muted| muted.restriction.value.expire)
            .chain(user_mute)
            .filter_map(Expire::ms)
            .min()
    }
}

fn expired_in_room(
    id: &Arc<str>,
    room: &Room,
    now_ms: u64,
    limit: usize,
) -> Vec<ExpiredRestrictions> {
    let mut restrictions = Vec::new();
    let expired = room.muted.expired(now_ms).take(limit);
    let users: Vec<_> = expired.map(|(user, mute)| (user.into(), mute.revision)).collect();
    if !users.is_empty() {
        restrictions.push(ExpiredRestrictions::MemberMutes { room: id.clone(), users });
    }
    if let Some(ban) = room.ban.as_ref().filter(|ban| !ban.value.expire.in_force(now_ms)) {
        restrictions.push(ExpiredRestrictions::Ban { room: id.clone(), revision: ban.revision });
    }
    restrictions
}

/// For the deletion of a room. The sweeper itself finds notification mutes through their clients.
fn expired_notification_mutes<'a>(
    id: &'a str,
    room: &'a Room,
    now_ms: u64,
) -> impl Iterator<Item = ExpiredRestrictions> + 'a {
    room.push_muted.expired(now_ms).map(|(user, until)| ExpiredRestrictions::NotificationMutes {
        user: user.into(),
        rooms: vec![(id.into(), until.revision)],
    })
}

fn expired_of_client(
    id: &Arc<str>,
    client: ClientRef<'_>,
    now_ms: u64,
    limit: usize,
) -> Vec<ExpiredRestrictions> {
    let expired = client.muted().filter(|muted| !muted.restriction.value.expire.in_force(now_ms));
    let rooms: Vec<_> = expired
        .take(limit)
        .map(|muted| (muted.room.as_str().into(), muted.restriction.revision))
        .collect();
    let mut restrictions = Vec::new();
    if !rooms.is_empty() {
        restrictions.push(ExpiredRestrictions::NotificationMutes { user: id.clone(), rooms });
    }
    if let Some(mute) = client.user_mute.as_ref().filter(|mute| !mute.value.expire.in_force(now_ms))
    {
        restrictions
            .push(ExpiredRestrictions::UserMute { user: id.clone(), revision: mute.revision });
    }
    restrictions
}

/// Searches under read locks. Takes the write lock only of an entity without expired records, to
/// schedule its next visit.
fn expired_restrictions(state: &State, now_ms: u64, limit: usize) -> Vec<Expired> {
    let mut all = Vec::new();
    let mut count = 0;
    let mut after = None;
    while count < limit {
        let Some(entry) = state.expiry_queue.next(after.as_ref(), now_ms) else { break };
        let Some(app) = state.app(&entry.app) else { break };
        let id = &entry.id;
        let limit = limit - count;
        let restrictions = if entry.is_room {
            app.rooms.read(id, |room| {
                room.map(|room| expired_in_room(id, room, now_ms, limit)).unwrap_or_default()
            })
        } else {
            app.client(id, |client| {
                client
                    .map(|client| expired_of_client(id, client, now_ms, limit))
                    .unwrap_or_default()
            })
        };
        if restrictions.is_empty() && entry.is_room {
            app.rooms.update(id, |room| {
                state.expiry_queue.reschedule(&entry, room.next_expire_ms(), &mut room.scheduled_ms)
            });
        } else if restrictions.is_empty() {
            app.clients.update(id, |client| {
                let next_ms = ClientRef::of(client, &app.deleted_rooms).next_expire_ms();
                state.expiry_queue.reschedule(&entry, next_ms, &mut client.scheduled_ms);
            });
        }
        count += restrictions.iter().map(ExpiredRestrictions::len).sum::<usize>();
        all.extend(restrictions.into_iter().map(|restrictions| Expired {
            app: entry.app.clone(),
            expired_at_ms: Some(entry.at_ms),
            restrictions,
        }));
        after = Some(entry);
    }
    all
}

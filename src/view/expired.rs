//! What has ended and is not swept yet.

use std::sync::Arc;

use super::{View, client::KnownClient, room::Room, state::State, versioned::Versioned};
use crate::{
    model::{Expire, Key, Owner},
    store::Revision,
};

/// What has ended in one room, or for one client.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Expired {
    pub app: Arc<str>,
    /// When the first of them has ended, where that is known.
    pub ended_ms: Option<u64>,
    pub restrictions: ExpiredRestrictions,
}

/// Which marks have ended, with the revisions they had.
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
    /// Marks that have ended: at most about `limit` of them.
    #[must_use]
    pub fn due(&self, now_ms: u64, limit: usize) -> Vec<Expired> {
        due(&self.inner.state.load(), now_ms, limit)
    }

    /// Marks that have ended and are about to go with this room or client; an answer to a request
    /// is told to nobody when it ends: at most about `limit` of them.
    #[must_use]
    pub fn due_of(&self, owner: Owner<'_>, now_ms: u64, limit: usize) -> Vec<Expired> {
        let (app, restrictions) = match owner {
            Owner::Room { app, room: id } => {
                let ended = |room: &Room| {
                    let mut due = ended_in_room(&id.into(), room, now_ms, limit);
                    due.extend(ended_notifications(id, room, now_ms).take(limit));
                    due
                };
                (app, self.room(app, id, |room| room.map(ended).unwrap_or_default()))
            }
            Owner::Client { app, user } | Owner::User { app, user } => {
                let ended =
                    |client: KnownClient<'_>| ended_of_client(&user.into(), client, now_ms, limit);
                (app, self.client(app, user, |client| client.map(ended).unwrap_or_default()))
            }
            Owner::Request { app, .. } => (app, Vec::new()),
        };
        restrictions
            .into_iter()
            .map(|restrictions| Expired { app: app.into(), ended_ms: None, restrictions })
            .collect()
    }

    /// The revision of the mark under this key, where it has ended and is not swept yet.
    #[must_use]
    pub fn ended(&self, key: Key<'_>, now_ms: u64) -> Option<Revision> {
        let ended = |end: Expire, revision| (!end.in_force(now_ms)).then_some(revision);
        match key {
            Key::MemberMute { app, room, user } => self.room(app, room, |room| {
                let mute = room?.muted.get(user)?;
                ended(mute.value.expire, mute.revision)
            }),
            Key::Ban { app, room } => self.room(app, room, |room| {
                let ban = room?.ban.as_ref()?;
                ended(ban.value.expire, ban.revision)
            }),
            Key::NotificationMute { app, user, room } => self.client(app, user, |client| {
                let restriction = &client?.muted_room(room)?.restriction;
                ended(restriction.value.expire, restriction.revision)
            }),
            Key::UserMute { app, user } => self.client(app, user, |client| {
                let mute = client?.user_mute.clone()?;
                ended(mute.value.expire, mute.revision)
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
    /// The mark under this key; nothing where the key is of no mark that can end.
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
        Some(Self { app: app.into(), ended_ms: None, restrictions })
    }
}

impl Room {
    /// When the sweeper is to look here next.
    fn next_end_ms(&self) -> Option<u64> {
        self.muted
            .next_end_ms()
            .into_iter()
            .chain(self.ban.as_ref().and_then(|ban| ban.value.expire.ms()))
            .min()
    }
}

impl KnownClient<'_> {
    fn next_end_ms(self) -> Option<u64> {
        let user_mute = self.user_mute.iter().map(|mute| mute.value.expire);
        self.muted()
            .map(|muted| muted.restriction.value.expire)
            .chain(user_mute)
            .filter_map(Expire::ms)
            .min()
    }
}

fn ended_in_room(
    id: &Arc<str>,
    room: &Room,
    now_ms: u64,
    limit: usize,
) -> Vec<ExpiredRestrictions> {
    let mut due = Vec::new();
    let ended = room.muted.ended(now_ms).take(limit);
    let users: Vec<_> = ended.map(|(user, mute)| (user.into(), mute.revision)).collect();
    if !users.is_empty() {
        due.push(ExpiredRestrictions::MemberMutes { room: id.clone(), users });
    }
    if let Some(ban) = room.ban.as_ref().filter(|ban| !ban.value.expire.in_force(now_ms)) {
        due.push(ExpiredRestrictions::Ban { room: id.clone(), revision: ban.revision });
    }
    due
}

/// Notification mutes of a room that is about to be deleted.
fn ended_notifications<'a>(
    id: &'a str,
    room: &'a Room,
    now_ms: u64,
) -> impl Iterator<Item = ExpiredRestrictions> + 'a {
    let due = |(user, until): (&str, &Versioned<Expire>)| ExpiredRestrictions::NotificationMutes {
        user: user.into(),
        rooms: vec![(id.into(), until.revision)],
    };
    room.push_muted.ended(now_ms).map(due)
}

fn ended_of_client(
    id: &Arc<str>,
    client: KnownClient<'_>,
    now_ms: u64,
    limit: usize,
) -> Vec<ExpiredRestrictions> {
    let ended = client.muted().filter(|muted| !muted.restriction.value.expire.in_force(now_ms));
    let rooms: Vec<_> = ended
        .take(limit)
        .map(|muted| (muted.room.as_str().into(), muted.restriction.revision))
        .collect();
    let mut due = Vec::new();
    if !rooms.is_empty() {
        due.push(ExpiredRestrictions::NotificationMutes { user: id.clone(), rooms });
    }
    if let Some(mute) = client.user_mute.as_ref().filter(|mute| !mute.value.expire.in_force(now_ms))
    {
        due.push(ExpiredRestrictions::UserMute { user: id.clone(), revision: mute.revision });
    }
    due
}

/// What has ended is looked for under a read lock; only a place where nothing has is locked to plan
/// its next visit.
fn due(state: &State, now_ms: u64, limit: usize) -> Vec<Expired> {
    let mut due = Vec::new();
    let mut found = 0;
    let mut after = None;
    while found < limit {
        let Some(entry) = state.schedule.next(after.as_ref(), now_ms) else { break };
        let Some(app) = state.app(&entry.app) else { break };
        let (id, limit) = (&entry.id, limit - found);
        let restrictions = if entry.is_room {
            app.rooms.read(id, |room| {
                room.map(|room| ended_in_room(id, room, now_ms, limit)).unwrap_or_default()
            })
        } else {
            app.client(id, |client| {
                client.map(|client| ended_of_client(id, client, now_ms, limit)).unwrap_or_default()
            })
        };
        if restrictions.is_empty() && entry.is_room {
            app.rooms.update(id, |room| {
                state.schedule.reschedule(&entry, room.next_end_ms(), &mut room.scheduled_ms)
            });
        } else if restrictions.is_empty() {
            app.clients.update(id, |client| {
                let next_ms = KnownClient::of(client, &app.deleted_rooms).next_end_ms();
                state.schedule.reschedule(&entry, next_ms, &mut client.scheduled_ms);
            });
        }
        found += restrictions.iter().map(ExpiredRestrictions::len).sum::<usize>();
        let ended_ms = Some(entry.at_ms);
        due.extend(restrictions.into_iter().map(|restrictions| Expired {
            app: entry.app.clone(),
            ended_ms,
            restrictions,
        }));
        after = Some(entry);
    }
    due
}

//! What is stored: keys, values, and the event that goes with each commit. How they look as bytes
//! is `store/codec.rs`'s matter.

use std::sync::Arc;

use super::Expire;

/// Names one record. Borrowed, because a key is only ever looked at on the way to bytes or to the
/// view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Key<'a> {
    /// The registration of a room.
    Room { app: &'a str, room: &'a str },
    /// The ban of a room.
    Ban { app: &'a str, room: &'a str },
    /// A member mute.
    MemberMute { app: &'a str, room: &'a str, user: &'a str },
    /// A place on a room's allow list.
    Allowed { app: &'a str, room: &'a str, user: &'a str },
    /// The registration of a client.
    Client { app: &'a str, user: &'a str },
    /// A notification mute.
    NotificationMute { app: &'a str, user: &'a str, room: &'a str },
    /// A user mute.
    UserMute { app: &'a str, user: &'a str },
    /// The answer to a request with an id.
    Request { app: &'a str, id: &'a str },
    /// The tombstone of a room: whatever the room had up to its revision is deleted, notification
    /// mutes of it included.
    DeletedRoom { app: &'a str, room: &'a str },
    /// The tombstone of a client: the notification mutes it had up to its revision are deleted.
    DeletedClient { app: &'a str, user: &'a str },
}

/// Whose record it is: the records of one owner share a prefix in the store and a lock in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Owner<'a> {
    Room {
        app: &'a str,
        room: &'a str,
    },
    Client {
        app: &'a str,
        user: &'a str,
    },
    /// Of its own, because what goes with a client must not take the user mute along.
    User {
        app: &'a str,
        user: &'a str,
    },
    Request {
        app: &'a str,
        id: &'a str,
    },
}

impl<'a> Owner<'a> {
    /// The app it is in.
    #[must_use]
    pub const fn app(self) -> &'a str {
        match self {
            Self::Room { app, .. }
            | Self::Client { app, .. }
            | Self::User { app, .. }
            | Self::Request { app, .. } => app,
        }
    }
}

impl<'a> Key<'a> {
    /// Whose record it is.
    #[must_use]
    pub const fn owner(self) -> Owner<'a> {
        match self {
            Self::Room { app, room }
            | Self::Ban { app, room }
            | Self::MemberMute { app, room, .. }
            | Self::Allowed { app, room, .. }
            | Self::DeletedRoom { app, room } => Owner::Room { app, room },
            Self::Client { app, user }
            | Self::NotificationMute { app, user, .. }
            | Self::DeletedClient { app, user } => Owner::Client { app, user },
            Self::UserMute { app, user } => Owner::User { app, user },
            Self::Request { app, id } => Owner::Request { app, id },
        }
    }
}

/// What a record says. Which of them goes with which key is fixed: `Room`, `Client` and `Request`
/// with theirs, `NotificationMute` with its own, `Deleted` with both tombstones, `Restriction` with
/// the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A registered room.
    Room(RoomProfile),
    /// A registered client.
    Client(ClientProfile),
    /// A member mute, a user mute, a ban, or a place on an allow list.
    Restriction(Restriction),
    /// A notification mute and its place in the client's list.
    NotificationMute(Restriction, u64),
    /// The answer to a request with an id.
    Request(IdempotencyRecord),
    /// When it was deleted, in Unix milliseconds.
    Deleted(u64),
}

/// Something set on a user or a room: until when, since when, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// When it ends.
    pub expire: Expire,
    /// When it was set, in Unix milliseconds.
    pub set_ms: u64,
    /// By whom and why; shared, because many marks have the same.
    pub provenance: Arc<Provenance>,
}

/// Who set a mark, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Provenance {
    /// `service:NAME`, `app`, or `user:ID`.
    pub actor: Box<str>,
    /// In the words of who set it; may be empty.
    pub reason: Box<str>,
}

/// The first answer to a request with an id: what a repeat of it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Tells the request from another with the same id.
    pub fingerprint: [u8; 16],
    /// A message that those who answer know.
    pub answer: Box<[u8]>,
    /// From when on the id is free again.
    pub expire: Expire,
}

/// A registered room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomProfile {
    /// May be empty.
    pub name: String,
    /// May be empty.
    pub description: String,
    /// User id, or empty.
    pub owner: String,
    /// User ids.
    pub admins: Vec<String>,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds.
    pub updated_ms: u64,
}

impl RoomProfile {
    /// Whether the user is the owner or an admin.
    #[must_use]
    pub fn is_staff(&self, user: &str) -> bool {
        self.owner == user || self.admins.iter().any(|admin| admin == user)
    }

    /// Bytes of its texts.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        let texts = [&self.name, &self.description, &self.owner].into_iter().chain(&self.admins);
        texts.map(|text| text.len() as u64).sum()
    }
}

/// A registered client. A field that is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ClientProfile {
    pub nickname: Option<String>,
    pub avatar_url: Option<String>,
    pub description: Option<String>,
    pub email: Option<String>,
    pub is_robot: Option<bool>,
    pub address: Option<Address>,
    pub user_agent: Option<String>,
    /// Unix milliseconds.
    pub last_login_ms: Option<u64>,
    /// A JSON object as text, or empty.
    pub custom_json: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds; changes with each notification mute and unmute too.
    pub updated_ms: u64,
}

impl ClientProfile {
    /// Bytes of its texts.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        let Self { nickname, avatar_url, description, email, user_agent, custom_json, .. } = self;
        let texts = [nickname, avatar_url, description, email, user_agent]
            .into_iter()
            .flatten()
            .chain([custom_json]);
        texts.map(|text| text.len() as u64).sum()
    }
}

/// Where a client last connected from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Address {
    pub address: String,
    pub family: String,
    pub port: u16,
}

/// Who did what to whom, when and why: one with each commit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Event {
    pub kind: EventKind,
    pub app: String,
    /// Empty where it is about no room.
    pub room: String,
    pub users: Vec<String>,
    pub actor: String,
    pub reason: String,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// When what was set ends.
    pub expire: Expire,
    /// What the caller has named its request by. Empty where it has not, or where nobody has
    /// called.
    pub request_id: String,
}

impl Event {
    /// An event that says nothing more.
    #[must_use]
    pub fn new(kind: EventKind, app: &str, actor: &str, at_ms: u64) -> Self {
        Self {
            kind,
            app: app.to_owned(),
            room: String::new(),
            users: Vec::new(),
            actor: actor.to_owned(),
            reason: String::new(),
            at_ms,
            expire: Expire::NEVER,
            request_id: String::new(),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EventKind {
    Muted,
    Unmuted,
    Expired,
    Banned,
    Unbanned,
    Allowed,
    Disallowed,
    NotificationsMuted,
    NotificationsUnmuted,
    ClientUpserted,
    ClientDeleted,
    RoomUpserted,
    RoomDeleted,
    /// Records that a deletion had ended were removed.
    Swept,
    UserMuted,
    UserUnmuted,
    UserMuteExpired,
    BanExpired,
    NotificationsExpired,
    /// An answer to a request with an id was kept, or kept answers were removed, and nothing else
    /// has changed. No part of the history.
    Request,
    /// Records of any kind were imported, too many to be named: whoever follows the events of the
    /// app has to take a snapshot again.
    Imported,
}

impl EventKind {
    /// Whether it is our own matter, which neither `Watch` nor `ListEvents` tells.
    #[must_use]
    pub const fn is_internal(self) -> bool {
        matches!(self, Self::Swept | Self::Request)
    }

    /// Whether it is about who wants no push, which is told to those only who may see clients.
    #[must_use]
    pub const fn is_about_notifications(self) -> bool {
        matches!(
            self,
            Self::NotificationsMuted | Self::NotificationsUnmuted | Self::NotificationsExpired
        )
    }
}

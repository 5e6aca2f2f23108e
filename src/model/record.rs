//! The contents of the store: keys, values, and the event of each commit. `store/codec.rs` encodes
//! them.

use std::sync::Arc;

use super::Expire;

/// The key of one record. Borrowed, because it is only passed on to the codec or to the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Key<'a> {
    /// The registration of a room in the directory.
    Room { app: &'a str, room: &'a str },
    /// The ban of a room.
    Ban { app: &'a str, room: &'a str },
    /// A member mute.
    MemberMute { app: &'a str, room: &'a str, user: &'a str },
    /// An entry of a room's allow list.
    Allowed { app: &'a str, room: &'a str, user: &'a str },
    /// The registration of a client in the directory.
    Client { app: &'a str, user: &'a str },
    /// A notification mute.
    NotificationMute { app: &'a str, user: &'a str, room: &'a str },
    /// A user mute.
    UserMute { app: &'a str, user: &'a str },
    /// An idempotency record.
    Request { app: &'a str, id: &'a str },
    /// The tombstone of a room. It deletes all records of the room up to its revision, including
    /// notification mutes of the room.
    DeletedRoom { app: &'a str, room: &'a str },
    /// The tombstone of a client. It deletes the client's notification mutes up to its revision.
    DeletedClient { app: &'a str, user: &'a str },
}

/// The owner of a record. The records of one owner share a key prefix in the store and a lock in
/// the view.
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
    /// The owner of a user mute. It is not the client, because deleting a client keeps the user
    /// mute.
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
    /// The app of the owner.
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
    /// The owner of the record.
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

/// The value of a record. The key determines the variant: `Room`, `Client`, `Request` and
/// `NotificationMute` have the key of the same name, `Deleted` has both tombstones, and
/// `Restriction` has all other keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A registered room.
    Room(RoomProfile),
    /// A registered client.
    Client(ClientProfile),
    /// A member mute, a user mute, a ban, or an entry of an allow list.
    Restriction(Restriction),
    /// A notification mute, and its place in the order of the client's mutes.
    NotificationMute(Restriction, u64),
    /// An idempotency record.
    Request(IdempotencyRecord),
    /// A tombstone: the time of the deletion, in Unix milliseconds.
    Deleted(u64),
}

/// A mute, a ban or an entry of an allow list: when it was set and expires, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// When it expires.
    pub expire: Expire,
    /// When it was set, in Unix milliseconds.
    pub set_ms: u64,
    /// By whom and why. Shared, because many restrictions have the same.
    pub provenance: Arc<Provenance>,
}

/// Who set a restriction, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Provenance {
    /// `service:NAME`, `app`, or `user:ID`.
    pub actor: Box<str>,
    /// Free text of the caller. May be empty.
    pub reason: Box<str>,
}

/// The first answer to a request with an id. A repeat of the request gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// A hash of the request. A different request with the same id has another one.
    pub fingerprint: [u8; 16],
    /// The encoded answer. Only the service encodes and decodes it.
    pub answer: Box<[u8]>,
    /// When the id may be used again.
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

    /// Bytes of all its texts.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        let texts = [&self.name, &self.description, &self.owner].into_iter().chain(&self.admins);
        texts.map(|text| text.len() as u64).sum()
    }
}

/// A registered client. A field without a value is `None`.
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
    /// Bytes of all its texts.
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

/// Who did what to whom, when and why. Every commit has one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Event {
    pub kind: EventKind,
    pub app: String,
    /// Empty if the event has no room.
    pub room: String,
    pub users: Vec<String>,
    pub actor: String,
    pub reason: String,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// When the restriction that was set expires.
    pub expire: Expire,
    /// Empty if the caller has given none, or the service itself has made the commit.
    pub request_id: String,
}

impl Event {
    /// An event with all other fields empty, and without an expiry.
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

/// The kind of an event.
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
    /// Records under a tombstone were removed. Internal.
    Swept,
    UserMuted,
    UserUnmuted,
    UserMuteExpired,
    BanExpired,
    NotificationsExpired,
    /// Only idempotency records were written or removed. Internal, and not in the history.
    Request,
    /// Records were imported, too many to list. A watcher of the app must read a snapshot again.
    Imported,
}

impl EventKind {
    /// Whether `Watch` and `ListEvents` leave it out.
    #[must_use]
    pub const fn is_internal(self) -> bool {
        matches!(self, Self::Swept | Self::Request)
    }

    /// Whether it is about notification mutes. Only callers that may read clients receive it.
    #[must_use]
    pub const fn is_about_notifications(self) -> bool {
        matches!(
            self,
            Self::NotificationsMuted | Self::NotificationsUnmuted | Self::NotificationsExpired
        )
    }
}

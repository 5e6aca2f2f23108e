//! Conversion between records and lines of an export: which records are exported, and which lines
//! are valid.

use std::sync::Arc;

use super::line::{AddressLine, ClientLine, Line, RestrictionLine, RoomLine, Time};
use crate::{
    error::Error,
    model::{
        Address, AppKey, ClientProfile, Expire, Key, Provenance, Restriction, RoomId, RoomProfile,
        UserId, Value,
    },
    store::{Entry, StoreError, codec},
};

/// The largest valid client has 20 KiB. The embedded engine relies on values not being much larger.
const MAX_VALUE_BYTES: usize = 32 << 10;

/// The kinds of records that are exported, imported and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Room,
    Client,
    Ban,
    MemberMute,
    Allowed,
    NotificationMute,
    UserMute,
}

impl Kind {
    /// All kinds, in the order of a report.
    pub const ALL: [Self; 7] = [
        Self::Room,
        Self::Client,
        Self::Ban,
        Self::MemberMute,
        Self::Allowed,
        Self::NotificationMute,
        Self::UserMute,
    ];

    /// The kind of the record with this key; `None` if it is not exported.
    #[must_use]
    pub const fn of(key: Key<'_>) -> Option<Self> {
        match key {
            Key::Room { .. } => Some(Self::Room),
            Key::Ban { .. } => Some(Self::Ban),
            Key::MemberMute { .. } => Some(Self::MemberMute),
            Key::Allowed { .. } => Some(Self::Allowed),
            Key::Client { .. } => Some(Self::Client),
            Key::NotificationMute { .. } => Some(Self::NotificationMute),
            Key::UserMute { .. } => Some(Self::UserMute),
            // Idempotency records serve retries of requests to this store, for a day.
            Key::Request { .. } => None,
            // Deleted records are not exported, so tombstones are not needed.
            Key::DeletedRoom { .. } | Key::DeletedClient { .. } => None,
        }
    }

    /// The plural, for a report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "rooms",
            Self::Client => "clients",
            Self::Ban => "bans",
            Self::MemberMute => "member mutes",
            Self::Allowed => "allowed members",
            Self::NotificationMute => "notification mutes",
            Self::UserMute => "user mutes",
        }
    }
}

/// A stored record that is exported.
#[allow(missing_docs)]
pub struct KnownRecord {
    pub kind: Kind,
    pub app: String,
    pub line: Line,
    /// The value as this version encodes it.
    pub value: Vec<u8>,
}

impl KnownRecord {
    /// Decodes a stored record; `None` if it is not exported. Errors: [`StoreError::Corrupt`].
    pub fn of(entry: &Entry) -> Result<Option<Self>, StoreError> {
        let (key, value) = codec::decode(&entry.key, &entry.value)?;
        let Some(kind) = Kind::of(key) else { return Ok(None) };
        let app = key.owner().app().to_owned();
        let encoded = codec::encode_value(&entry.key, &value);
        let line = Line::of(key, value).ok_or_else(|| StoreError::Corrupt {
            place: format!("key \"{}\"", entry.key.escape_ascii()),
            what: "the value is not of the kind that the key says".to_owned(),
        })?;
        Ok(Some(Self { kind, app, line, value: encoded }))
    }
}

impl Line {
    /// The line of a record; `None` if the value does not match the key, or if the record is not
    /// exported.
    #[must_use]
    pub fn of(key: Key<'_>, value: Value) -> Option<Self> {
        match (key, value) {
            (Key::Room { app, room }, Value::Room(profile)) => {
                Some(Self::Room(RoomLine::of(app, room, profile)))
            }
            (Key::Client { app, user }, Value::Client(profile)) => {
                Some(Self::Client(ClientLine::of(app, user, profile)))
            }
            (Key::Ban { app, room }, Value::Restriction(restriction)) => {
                Some(Self::Ban(RestrictionLine::of(app, Some(room), None, &restriction)))
            }
            (Key::MemberMute { app, room, user }, Value::Restriction(restriction)) => Some(
                Self::MemberMute(RestrictionLine::of(app, Some(room), Some(user), &restriction)),
            ),
            (Key::Allowed { app, room, user }, Value::Restriction(restriction)) => {
                Some(Self::Allowed(RestrictionLine::of(app, Some(room), Some(user), &restriction)))
            }
            (Key::UserMute { app, user }, Value::Restriction(restriction)) => {
                Some(Self::UserMute(RestrictionLine::of(app, None, Some(user), &restriction)))
            }
            (
                Key::NotificationMute { app, user, room },
                Value::NotificationMute(restriction, place),
            ) => {
                let line = RestrictionLine::of(app, Some(room), Some(user), &restriction);
                Some(Self::NotificationMute(RestrictionLine { place: Some(place), ..line }))
            }
            _ => None,
        }
    }

    /// The app, key and value of the line's record. Errors: a message for a person.
    pub fn record(self) -> Result<(String, Vec<u8>, Vec<u8>), String> {
        let (app, key, value) = match self {
            Self::Header(_) => {
                return Err("a \"header\" line that is not the first line".to_owned());
            }
            Self::End(_) => return Err("a line after the \"end\" line".to_owned()),
            Self::Room(line) => line.record()?,
            Self::Client(line) => line.record()?,
            Self::Ban(line) => line.record("a ban", "app and room", |subject| match subject {
                Subject { app, room: Some(room), user: None, place: None } => {
                    Some(Key::Ban { app, room })
                }
                _ => None,
            })?,
            Self::MemberMute(line) => {
                line.record("a member mute", "app, room and user", |subject| match subject {
                    Subject { app, room: Some(room), user: Some(user), place: None } => {
                        Some(Key::MemberMute { app, room, user })
                    }
                    _ => None,
                })?
            }
            Self::Allowed(line) => {
                line.record("an allowed member", "app, room and user", |subject| match subject {
                    Subject { app, room: Some(room), user: Some(user), place: None } => {
                        Some(Key::Allowed { app, room, user })
                    }
                    _ => None,
                })?
            }
            Self::NotificationMute(line) => {
                line.record("a notification mute", "app, user, room and place", |subject| {
                    match subject {
                        Subject { app, room: Some(room), user: Some(user), place: Some(_) } => {
                            Some(Key::NotificationMute { app, user, room })
                        }
                        _ => None,
                    }
                })?
            }
            Self::UserMute(line) => {
                line.record("a user mute", "app and user", |subject| match subject {
                    Subject { app, room: None, user: Some(user), place: None } => {
                        Some(Key::UserMute { app, user })
                    }
                    _ => None,
                })?
            }
        };
        let encoded = codec::encode_value(&key, &value);
        if encoded.len() > MAX_VALUE_BYTES {
            return Err(format!("the record is larger than {MAX_VALUE_BYTES} bytes"));
        }
        // Some values would be read back as others, such as a time of 0 as no time.
        match codec::decode(&key, &encoded) {
            Ok((_, decoded)) if decoded == value => Ok((app, key, encoded)),
            _ => {
                Err("a time or text cannot be stored as it is; leave out fields that have no value"
                    .to_owned())
            }
        }
    }
}

type Record = (String, Vec<u8>, Value);

/// The subject of a restriction.
struct Subject<'a> {
    app: &'a str,
    room: Option<&'a str>,
    user: Option<&'a str>,
    place: Option<u64>,
}

impl RestrictionLine {
    fn of(app: &str, room: Option<&str>, user: Option<&str>, restriction: &Restriction) -> Self {
        Self {
            app: app.to_owned(),
            room: room.map(str::to_owned),
            user: user.map(str::to_owned),
            place: None,
            expire: restriction.expire.ms().map(Time),
            set: Time(restriction.set_ms),
            actor: restriction.provenance.actor.to_string(),
            reason: restriction.provenance.reason.to_string(),
        }
    }

    /// Builds the record. `key` returns `None` unless the subject has exactly the `fields` of this
    /// kind. Errors: a message for a person.
    fn record(
        self,
        kind: &str,
        fields: &str,
        key: impl FnOnce(Subject<'_>) -> Option<Key<'_>>,
    ) -> Result<Record, String> {
        let app = app(&self.app)?;
        self.room.as_deref().map(room).transpose()?;
        self.user.as_deref().map(user).transpose()?;
        if self.place == Some(u64::MAX) {
            return Err("place must be less than 18446744073709551615".to_owned());
        }
        let subject = Subject {
            app: &app,
            room: self.room.as_deref(),
            user: self.user.as_deref(),
            place: self.place,
        };
        let key = codec::encode_key(
            key(subject).ok_or_else(|| format!("{kind} must name {fields} only"))?,
        );
        let expire = self.expire.map_or(Expire::NEVER, |time| Expire::at_ms(time.0));
        let provenance = Provenance { actor: self.actor.into(), reason: self.reason.into() };
        let restriction =
            Restriction { expire, set_ms: self.set.0, provenance: Arc::new(provenance) };
        let value = match self.place {
            Some(place) => Value::NotificationMute(restriction, place),
            None => Value::Restriction(restriction),
        };
        Ok((app, key, value))
    }
}

impl RoomLine {
    fn of(app: &str, room: &str, profile: RoomProfile) -> Self {
        let RoomProfile { name, description, owner, admins, created_ms, updated_ms } = profile;
        Self {
            app: app.to_owned(),
            room: room.to_owned(),
            name,
            description,
            owner,
            admins,
            created: Time(created_ms),
            updated: Time(updated_ms),
        }
    }

    fn record(self) -> Result<Record, String> {
        let app = app(&self.app)?;
        room(&self.room)?;
        let staff =
            Some(&self.owner).filter(|owner| !owner.is_empty()).into_iter().chain(&self.admins);
        staff.into_iter().try_for_each(|id| user(id))?;
        let key = codec::encode_key(Key::Room { app: &app, room: &self.room });
        let Self { name, description, owner, admins, created, updated, .. } = self;
        let profile = RoomProfile {
            name,
            description,
            owner,
            admins,
            created_ms: created.0,
            updated_ms: updated.0,
        };
        Ok((app, key, Value::Room(profile)))
    }
}

impl ClientLine {
    fn of(app: &str, user: &str, profile: ClientProfile) -> Self {
        Self {
            app: app.to_owned(),
            user: user.to_owned(),
            nickname: profile.nickname,
            avatar_url: profile.avatar_url,
            description: profile.description,
            email: profile.email,
            is_robot: profile.is_robot,
            address: profile.address.map(AddressLine::of),
            user_agent: profile.user_agent,
            last_login: profile.last_login_ms.map(Time),
            custom_json: profile.custom_json,
            created: Time(profile.created_ms),
            updated: Time(profile.updated_ms),
        }
    }

    fn record(self) -> Result<Record, String> {
        let app = app(&self.app)?;
        user(&self.user)?;
        if !self.custom_json.is_empty()
            && serde_json::from_str::<serde_json::Map<_, _>>(&self.custom_json).is_err()
        {
            return Err("custom_json must be a JSON object as text".to_owned());
        }
        let key = codec::encode_key(Key::Client { app: &app, user: &self.user });
        let profile = ClientProfile {
            nickname: self.nickname,
            avatar_url: self.avatar_url,
            description: self.description,
            email: self.email,
            is_robot: self.is_robot,
            address: self.address.map(AddressLine::record),
            user_agent: self.user_agent,
            last_login_ms: self.last_login.map(|time| time.0),
            custom_json: self.custom_json,
            created_ms: self.created.0,
            updated_ms: self.updated.0,
        };
        Ok((app, key, Value::Client(profile)))
    }
}

impl AddressLine {
    fn of(address: Address) -> Self {
        let Address { address, family, port } = address;
        Self { address, family, port }
    }

    fn record(self) -> Address {
        let Self { address, family, port } = self;
        Address { address, family, port }
    }
}

/// Parses an app key. Errors: a message for a person.
pub(super) fn app(raw: &str) -> Result<String, String> {
    AppKey::parse(raw.to_owned()).map(String::from).map_err(message)
}

fn room(raw: &str) -> Result<(), String> {
    RoomId::parse(raw.to_owned()).map(drop).map_err(message)
}

/// Does not fold: [`super::fold`] did that.
fn user(raw: &str) -> Result<(), String> {
    UserId::parse(raw.to_owned(), false).map(drop).map_err(message)
}

fn message(error: Error) -> String {
    error.message
}

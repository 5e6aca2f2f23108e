//! Selects the fields to show of each message: one list for both the table and the JSON. Fields are
//! named as in the API's .proto files.

use prost_types::Timestamp;
use serde::{Serialize, Serializer};

use crate::proto::v1 as pb;

const KIND_PREFIX: &str = "CHANGE_KIND_";

/// A row of the table, or an object of the JSON.
#[derive(Debug, PartialEq)]
pub struct Record(pub Vec<Field>);

#[derive(Debug, PartialEq)]
pub struct Field {
    /// As in the proto.
    pub name: &'static str,
    /// The column's title. A field with an empty title is in the JSON only.
    pub title: &'static str,
    pub value: Value,
}

#[derive(Debug, PartialEq)]
pub enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(i64),
    Flag(bool),
    /// A value of an enum: its name for JSON, its text for the table, and what it means.
    Name(&'static str, String, Tone),
    Time(Option<Timestamp>),
    /// The end of a mute or ban; none is for good.
    End(Option<Timestamp>),
    Record(Option<Record>),
}

/// Whether something may be said: what a colour shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// More may be said.
    Good,
    /// Less may be said.
    Bad,
    /// Neither.
    Plain,
}

impl Record {
    /// The record with one more field.
    pub fn with(mut self, name: &'static str, title: &'static str, value: Value) -> Self {
        self.0.push(Field { name, title, value });
        self
    }

    /// The record with the revision of its answer, in the JSON only.
    pub fn at(self, revision: i64) -> Self {
        self.with("revision", "", Value::Number(revision))
    }

    fn new() -> Self {
        Self(Vec::new())
    }

    /// Leaves these fields to the JSON.
    fn untitle(&mut self, names: &[&str]) {
        let fields = self.0.iter_mut().filter(|field| names.contains(&field.name));
        fields.for_each(|field| field.title = "");
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|field| (field.name, &field.value)))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Texts(texts) => texts.serialize(serializer),
            Self::Number(number) => number.serialize(serializer),
            Self::Flag(flag) => flag.serialize(serializer),
            Self::Name(name, ..) => name.serialize(serializer),
            Self::Time(time) | Self::End(time) => {
                time.map(|time| time.to_string()).serialize(serializer)
            }
            Self::Record(record) => record.serialize(serializer),
        }
    }
}

/// All kinds of changes.
pub fn kinds() -> impl Iterator<Item = pb::ChangeKind> {
    (1..).map_while(|kind| pb::ChangeKind::try_from(kind).ok())
}

/// The name of a kind, without the prefix that all kinds share.
pub fn kind_name(kind: pb::ChangeKind) -> &'static str {
    let name = kind.as_str_name();
    name.strip_prefix(KIND_PREFIX).unwrap_or(name)
}

fn tone(kind: pb::ChangeKind) -> Tone {
    use pb::ChangeKind::{
        BanExpired, Banned, Expired, Muted, Unbanned, Unmuted, UserMuteExpired, UserMuted,
        UserUnmuted,
    };
    match kind {
        Muted | Banned | UserMuted => Tone::Bad,
        Unmuted | Expired | Unbanned | BanExpired | UserUnmuted | UserMuteExpired => Tone::Good,
        _ => Tone::Plain,
    }
}

/// A kind's name as words.
fn words(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', " ")
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

pub fn muted_member(
    pb::MutedMember { user, expire_time, mute_time, actor, reason }: pb::MutedMember,
) -> Record {
    mute("user", "USER", user, expire_time, mute_time).with("actor", "BY", text(actor)).with(
        "reason",
        "REASON",
        text(reason),
    )
}

pub fn muted_user(
    pb::MutedUser { user, expire_time, mute_time, actor, reason }: pb::MutedUser,
) -> Record {
    mute("user", "USER", user, expire_time, mute_time).with("actor", "BY", text(actor)).with(
        "reason",
        "REASON",
        text(reason),
    )
}

pub fn muted_room(pb::MutedRoom { room, expire_time, mute_time }: pb::MutedRoom) -> Record {
    mute("room", "ROOM", room, expire_time, mute_time)
}

fn mute(
    name: &'static str,
    title: &'static str,
    id: String,
    end: Option<Timestamp>,
    since: Option<Timestamp>,
) -> Record {
    let record = Record::new().with(name, title, text(id));
    record.with("expire_time", "UNTIL", Value::End(end)).with(
        "mute_time",
        "SINCE",
        Value::Time(since),
    )
}

pub fn was_muted(user: String, was_muted: bool) -> Record {
    Record::new().with("user", "USER", text(user)).with(
        "was_muted",
        "WAS MUTED",
        Value::Flag(was_muted),
    )
}

pub fn allowed(user: String) -> Record {
    Record::new().with("user", "ALLOWED", text(user))
}

pub fn was_allowed(user: String, was_allowed: bool) -> Record {
    Record::new().with("user", "USER", text(user)).with(
        "was_allowed",
        "WAS ALLOWED",
        Value::Flag(was_allowed),
    )
}

pub fn allowed_member(pb::AllowedMember { user, allow_time }: pb::AllowedMember) -> Record {
    Record::new().with("user", "USER", text(user)).with(
        "allow_time",
        "SINCE",
        Value::Time(allow_time),
    )
}

pub fn banned(pb::BanRoomResponse { ban, revision }: pb::BanRoomResponse) -> Record {
    Record::new().with("ban", "BAN", Value::Record(ban.map(self::ban))).at(revision)
}

pub fn unbanned(pb::UnbanRoomResponse { was_banned, revision }: pb::UnbanRoomResponse) -> Record {
    Record::new().with("was_banned", "WAS BANNED", Value::Flag(was_banned)).at(revision)
}

fn ban(pb::RoomBan { expire_time, ban_time, actor, reason }: pb::RoomBan) -> Record {
    let record = Record::new().with("expire_time", "BANNED UNTIL", Value::End(expire_time));
    let record = record.with("ban_time", "BANNED SINCE", Value::Time(ban_time));
    record.with("actor", "BANNED BY", text(actor)).with("reason", "REASON", text(reason))
}

pub fn room(response: pb::GetRoomResponse) -> Record {
    let pb::GetRoomResponse { room, ban, muted_count, allowed_count, revision } = response;
    let record = Record::new().with("room", "ROOM", Value::Record(room.map(profile)));
    let record = record.with("ban", "BAN", Value::Record(ban.map(self::ban)));
    let record = record.with("muted_count", "MUTED", Value::Number(muted_count));
    record.with("allowed_count", "ALLOWED", Value::Number(allowed_count)).at(revision)
}

fn profile(
    pb::Room { room, name, description, owner, admins, create_time, update_time }: pb::Room,
) -> Record {
    let record = Record::new().with("room", "ROOM", text(room)).with("name", "NAME", text(name));
    let record = record.with("description", "DESCRIPTION", text(description)).with(
        "owner",
        "OWNER",
        text(owner),
    );
    let record = record.with("admins", "ADMINS", Value::Texts(admins));
    record.with("create_time", "CREATED", Value::Time(create_time)).with(
        "update_time",
        "CHANGED",
        Value::Time(update_time),
    )
}

pub fn registered_room(room: pb::Room) -> Record {
    Record::new().with("room", "ROOM", Value::Record(Some(profile(room))))
}

/// A room in a list. Its description is in the JSON only.
pub fn listed_room(room: pb::Room) -> Record {
    let mut record = profile(room);
    record.untitle(&["description", "update_time"]);
    record
}

/// Those who may moderate a room: its owner first.
pub fn moderators(room: pb::Room) -> Vec<Record> {
    let owner = (!room.owner.is_empty()).then_some((room.owner, "owner"));
    let admins = room.admins.into_iter().map(|admin| (admin, "admin"));
    owner
        .into_iter()
        .chain(admins)
        .map(|(user, role)| {
            Record::new().with("user", "USER", text(user)).with("role", "ROLE", text(role))
        })
        .collect()
}

pub fn was_registered(was_registered: bool) -> Record {
    Record::new().with("was_registered", "WAS REGISTERED", Value::Flag(was_registered))
}

/// What a person gave a user, and its notification mutes.
pub fn user(client: pb::Client) -> Record {
    let record = Record::new().with("user", "USER", text(client.user)).with(
        "nickname",
        "NICKNAME",
        text(client.nickname.unwrap_or_default()),
    );
    let record = record
        .with("description", "DESCRIPTION", text(client.description.unwrap_or_default()))
        .with("email", "EMAIL", text(client.email.unwrap_or_default()));
    let record = record.with("muted_rooms", "MUTED ROOMS", Value::Texts(client.muted_rooms)).with(
        "last_login_time",
        "LAST LOGIN",
        Value::Time(client.last_login_time),
    );
    record.with("create_time", "CREATED", Value::Time(client.create_time)).with(
        "update_time",
        "CHANGED",
        Value::Time(client.update_time),
    )
}

/// A user in a list.
pub fn listed_user(client: pb::Client) -> Record {
    let mut record = user(client);
    record.untitle(&["description", "muted_rooms", "last_login_time", "update_time"]);
    record
}

/// A client's fields that concern notifications.
pub fn client(client: Option<pb::Client>) -> Record {
    let client = client.map(|client| {
        let record = Record::new().with("user", "USER", text(client.user));
        record.with("muted_rooms", "MUTED ROOMS", Value::Texts(client.muted_rooms))
    });
    Record::new().with("client", "CLIENT", Value::Record(client))
}

pub fn change(change: pb::Change) -> Record {
    use pb::ChangeKind::{Banned, Muted, NotificationsMuted, UserMuted};
    let kind = change.kind();
    let end = match kind {
        Muted | Banned | NotificationsMuted | UserMuted => Value::End(change.expire_time),
        _ => Value::Time(change.expire_time),
    };
    let record = Record::new().with("revision", "REVISION", Value::Number(change.revision));
    let record = record.with("change_time", "TIME", Value::Time(change.change_time));
    let name = Value::Name(kind.as_str_name(), words(kind_name(kind)), tone(kind));
    let record = record.with("kind", "KIND", name);
    let record = record.with("room", "ROOM", text(change.room)).with(
        "users",
        "USERS",
        Value::Texts(change.users),
    );
    record.with("expire_time", "UNTIL", end).with("actor", "BY", text(change.actor)).with(
        "reason",
        "REASON",
        text(change.reason),
    )
}

/// Marks changes that are missing from a watch.
pub fn gap(after: i64) -> Record {
    Record::new().with("compacted_after_revision", "", Value::Number(after))
}

fn rule(rule: pb::Rule) -> Value {
    Value::Name(rule.as_str_name(), String::new(), Tone::Plain)
}

pub fn check(room: &str, user: &str, answer: &pb::CheckSendResponse) -> Record {
    let record = Record::new().with("room", "", text(room)).with("user", "", text(user));
    let record = record.with("allowed", "", Value::Flag(answer.allowed));
    let record = record.with("rule", "", rule(answer.rule()));
    let record = record.with("expire_time", "", Value::End(answer.expire_time));
    record.with("reason", "", text(&answer.reason)).with("actor", "", text(&answer.actor))
}

//! The lines of an export, a JSON object each.
//!
//! ```text
//! {"kind":"header","format":"mute-service export","version":1,"revision":7,"time":"2026-11-23T11:06:16.340Z","program":"mute-service 0.1.0"}
//! {"kind":"member_mute","app":"org#app","room":"r","user":"u","expire":"2026-11-23T12:06:16.340Z","set":"2026-11-23T11:06:16.340Z","actor":"app","reason":"spam"}
//! {"kind":"end","records":1,"sha256":"..."}
//! ```
//!
//! Times are RFC 3339, in whole milliseconds. A restriction without `expire` never expires. Empty
//! texts and lists are left out. `sha256` covers the record lines, each with its line feed:
//! `sed '1d;$d' FILE | sha256sum`.

use std::fmt;

use prost_types::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of the format in the header.
pub const FORMAT: &str = "mute-service export";
/// The version of the format that this program writes and reads.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Line {
    Header(Header),
    Room(RoomLine),
    Client(ClientLine),
    Ban(RestrictionLine),
    MemberMute(RestrictionLine),
    Allowed(RestrictionLine),
    NotificationMute(RestrictionLine),
    UserMute(RestrictionLine),
    End(End),
}

/// The first line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Header {
    pub format: String,
    pub version: u32,
    /// The revision of the exported store.
    pub revision: u64,
    pub time: Time,
    pub program: String,
    /// The app of the export; absent if it has all apps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

/// The last line. A file without it is truncated.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct End {
    pub records: u64,
    pub sha256: String,
}

/// A registered room.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RoomLine {
    pub app: String,
    pub room: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admins: Vec<String>,
    pub created: Time,
    pub updated: Time,
}

/// A registered client. Unknown fields are left out.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ClientLine {
    pub app: String,
    pub user: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_robot: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login: Option<Time>,
    /// A JSON object, as text as it is stored: parsing it could change its numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub custom_json: String,
    pub created: Time,
    pub updated: Time,
}

/// Where a client last connected from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AddressLine {
    pub address: String,
    pub family: String,
    pub port: u16,
}

/// A room ban, a mute of any kind, or an allow list entry. The kind decides which of room, user and
/// place it has.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RestrictionLine {
    pub app: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The position of a notification mute in the client's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire: Option<Time>,
    pub set: Time,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Line {
    /// The text of the line, with its line feed.
    #[must_use]
    pub fn text(&self) -> String {
        // Cannot fail: a line has strings and numbers only.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// A time in Unix milliseconds; RFC 3339 in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0 / 1_000).unwrap_or(i64::MAX);
        let nanos = i32::try_from(self.0 % 1_000 * 1_000_000).unwrap_or(0);
        Timestamp { seconds, nanos }.fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_ms(&text).map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not an RFC 3339 time in whole milliseconds, 1970 or later"
            ))
        })
    }
}

fn parse_ms(text: &str) -> Option<u64> {
    // The parser also accepts a sign and longer years, which RFC 3339 does not have.
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let Timestamp { seconds, nanos } = text.parse().ok()?;
    let seconds = u64::try_from(seconds).ok()?;
    let nanos = u64::try_from(nanos).ok()?;
    (nanos % 1_000_000 == 0).then(|| seconds * 1_000 + nanos / 1_000_000)
}

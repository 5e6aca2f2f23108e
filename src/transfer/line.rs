//! The lines of an export, a JSON object each.
//!
//! ```text
//! {"kind":"header","format":"mute-service export","version":1,"revision":7,"time":"2026-11-23T11:06:16.340Z","program":"mute-service 0.1.0"}
//! {"kind":"member_mute","app":"org#app","room":"r","user":"u","expire":"2026-11-23T12:06:16.340Z","set":"2026-11-23T11:06:16.340Z","actor":"app","reason":"spam"}
//! {"kind":"end","records":1,"sha256":"..."}
//! ```
//!
//! Times are RFC 3339, in whole milliseconds; without an `expire` a mark is for good, and a text or
//! list that is empty is left out. `sha256` is that of the record lines, each with its line feed:
//! `sed '1d;$d' FILE | sha256sum`.

use std::fmt;

use prost_types::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the header calls the format.
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
    /// Records are as of this commit of the store they are from.
    pub revision: u64,
    pub time: Time,
    pub program: String,
    /// The app that the export is of; nothing where it is of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

/// The last line: without it the file was cut.
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

/// A registered client. A field that is not known is left out.
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
    /// A JSON object as text, as it is stored: numbers would change on the way through another
    /// form.
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

/// A ban, a mute of any kind, or a place on an allow list. Which of room, user and place there are
/// follows from the kind.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RestrictionLine {
    pub app: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of a notification mute, in the client's list.
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
    /// As it stands in the file, with its line feed.
    #[must_use]
    pub fn text(&self) -> String {
        // Strings and numbers only, so there is nothing to fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// A Unix millisecond, in the file RFC 3339.
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
        let ms = || {
            // Of longer years the RFC knows nothing, nor do callers' libraries.
            let Timestamp { seconds, nanos } = text
                .parse()
                .ok()
                .filter(|_| text.starts_with(|first: char| first.is_ascii_digit()))?;
            let (seconds, nanos) = (u64::try_from(seconds).ok()?, u64::try_from(nanos).ok()?);
            (nanos % 1_000_000 == 0).then(|| seconds * 1_000 + nanos / 1_000_000)
        };
        let wrong = || {
            serde::de::Error::custom(format!(
                "{text:?} is no time in RFC 3339 from 1970 on, in whole milliseconds"
            ))
        };
        ms().map(Self).ok_or_else(wrong)
    }
}

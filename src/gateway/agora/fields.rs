//! Parses and renders the fields of bodies and paths: durations, user ids, times.

use axum::{body::Bytes, extract::rejection::BytesRejection};
use serde_json::{Map, Value};

use super::{envelope::VendorRequest, failure::Failure};
use crate::gateway::wire;

/// The end of a mute that is for good, and of each that would end after it.
const FOR_GOOD_MS: u64 = 4_638_873_600_000;
/// The `expires_in` of a token that does not expire.
pub(super) const NO_EXPIRY_S: i64 = i32::MAX as i64;

/// A body as a JSON object.
pub(super) fn json_object(
    body: Result<Bytes, BytesRejection>,
) -> Result<serde_json::Map<String, Value>, Failure> {
    match wire::json(body)? {
        Value::Object(object) => Ok(object),
        _ => Err(Failure::argument("the body must be a JSON object")),
    }
}

/// A body as a JSON object. One of nothing is an empty object, whatever an SDK sends for nothing.
pub(super) fn optional_object(
    body: Result<Bytes, BytesRejection>,
) -> Result<serde_json::Map<String, Value>, Failure> {
    let body = wire::bytes(body)?;
    let is_nothing = matches!(body.trim_ascii(), b"" | b"null" | b"[]" | b"\"\"");
    if is_nothing { Ok(Map::new()) } else { json_object(Ok(body)) }
}

/// A `ttl` in seconds, as a number or a string.
pub(super) fn ttl(value: Option<&Value>) -> Result<Option<i64>, Failure> {
    let seconds = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => integer(value),
    };
    let seconds = seconds.filter(|seconds| (0..=NO_EXPIRY_S).contains(seconds));
    seconds
        .map(Some)
        .ok_or_else(|| Failure::argument("ttl must be a number of seconds from 0 to 2147483647"))
}

/// A whole number. Also one beyond 64 bits, which saturates, and one written with a decimal point.
fn integer(value: &Value) -> Option<i64> {
    match (value.as_i64(), value.as_f64()) {
        (Some(number), _) => Some(number),
        (None, Some(number)) if number.fract() == 0.0 => Some(number as i64),
        _ => None,
    }
}

/// How long a mute lasts.
pub(super) enum MuteDuration {
    /// 0 ends the mute.
    Zero,
    /// -1, or an end after the last one that the vendor can express.
    ForGood,
    Ms(u64),
}

impl MuteDuration {
    /// From `mute_duration`, in milliseconds.
    pub(super) fn from_ms(value: Option<&Value>, now_ms: u64) -> Result<Self, Failure> {
        let duration = value.and_then(|value| Self::parse(value, 1, now_ms));
        duration.ok_or_else(|| {
            Failure::argument(
                "mute_duration must be a number of milliseconds; -1 is for good, 0 ends the mute",
            )
        })
    }

    /// From the `chatroom` of a user mute, in seconds.
    pub(super) fn from_seconds(value: Option<&Value>, now_ms: u64) -> Result<Self, Failure> {
        let duration = value.and_then(|value| Self::parse(value, 1_000, now_ms));
        duration.ok_or_else(|| {
            Failure::argument(
                "chatroom must be a number of seconds; -1 is for good, 0 ends the mute",
            )
        })
    }

    /// None if the value is not a whole number, or is a negative one other than -1.
    fn parse(value: &Value, unit_ms: u64, now_ms: u64) -> Option<Self> {
        let number = integer(value)?;
        match u64::try_from(number).map(|number| number.saturating_mul(unit_ms)) {
            Ok(0) => Some(Self::Zero),
            Ok(ms) if now_ms.saturating_add(ms) > FOR_GOOD_MS => Some(Self::ForGood),
            Ok(ms) => Some(Self::Ms(ms)),
            Err(_) => (number == -1).then_some(Self::ForGood),
        }
    }

    /// The duration of an RPC; none is for good.
    pub(super) fn to_proto(&self) -> Option<prost_types::Duration> {
        match self {
            Self::Zero | Self::ForGood => None,
            Self::Ms(ms) => Some(prost_types::Duration {
                seconds: (ms / 1_000) as i64,
                nanos: (ms % 1_000 * 1_000_000) as i32,
            }),
        }
    }
}

pub(super) fn expire_ms(time: Option<prost_types::Timestamp>) -> u64 {
    time.map_or(FOR_GOOD_MS, |time| timestamp_ms(&time).min(FOR_GOOD_MS))
}

/// Seconds until `time`, rounded up, and at most what the vendor's 32-bit integer holds; -1 is for
/// good.
pub(super) fn remaining_s(time: Option<prost_types::Timestamp>, now_ms: u64) -> i64 {
    match expire_ms(time) {
        FOR_GOOD_MS => -1,
        ms => {
            i64::from(i32::try_from(ms.saturating_sub(now_ms).div_ceil(1_000)).unwrap_or(i32::MAX))
        }
    }
}

pub(super) fn timestamp_ms(time: &prost_types::Timestamp) -> u64 {
    u64::try_from(time.seconds).unwrap_or(0) * 1_000
        + u64::try_from(time.nanos).unwrap_or(0) / 1_000_000
}

/// The users of a body: an array, or one user as a string.
pub(super) fn usernames(
    body: &Map<String, Value>,
    max: usize,
    too_many: &str,
) -> Result<Vec<String>, Failure> {
    let invalid = || Failure::argument("usernames must be an array of user ids");
    let users = match body.get("usernames") {
        Some(Value::String(user)) => vec![user.clone()],
        Some(Value::Array(users)) => users
            .iter()
            .map(|user| user.as_str().map(str::to_owned).ok_or_else(invalid))
            .collect::<Result<_, _>>()?,
        _ => return Err(invalid()),
    };
    checked(users, max, too_many)
}

/// The users of a path, separated by commas. The caller may percent-encode the commas too.
pub(super) fn path_users(
    request: &VendorRequest,
    max: usize,
    too_many: &str,
) -> Result<Vec<String>, Failure> {
    let users = request
        .segment("users")
        .split(',')
        .filter(|user| !user.is_empty())
        .map(str::to_owned)
        .collect();
    checked(users, max, too_many)
}

/// Checks the number of users and each user id. `too_many` is the path's text for too many users;
/// the limit follows it.
fn checked(users: Vec<String>, max: usize, too_many: &str) -> Result<Vec<String>, Failure> {
    if users.is_empty() {
        return Err(Failure::not_members(&[]));
    }
    if users.len() > max {
        return Err(Failure::too_many(format!("{too_many}{max}")));
    }
    users.iter().try_for_each(|user| check_name(user))?;
    Ok(users)
}

pub(super) fn check_name(user: &str) -> Result<(), Failure> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=64).contains(&user.len()) && user.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err(Failure::argument("a username must have 1 to 64 characters of A-Z a-z 0-9 _ - ."))
    }
}

//! The fields of bodies and paths: durations, names, times.

use axum::{body::Bytes, extract::rejection::BytesRejection};
use serde_json::{Map, Value};

use super::{envelope::VendorRequest, failure::Failure};
use crate::gateway::wire;

/// The end of what is for good, and of whatever would end after it.
const FOR_GOOD_MS: u64 = 4_638_873_600_000;
/// What `expires_in` says of a token without end.
pub(super) const NO_END_S: i64 = i32::MAX as i64;

/// A body as a JSON object.
pub(super) fn object(
    body: Result<Bytes, BytesRejection>,
) -> Result<serde_json::Map<String, Value>, Failure> {
    match wire::json(body)? {
        Value::Object(object) => Ok(object),
        _ => Err(Failure::argument("the body is no JSON object")),
    }
}

/// Seconds, as a number or as text.
pub(super) fn ttl(value: Option<&Value>) -> Result<Option<i64>, Failure> {
    let seconds = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => integer(value),
    };
    let seconds = seconds.filter(|seconds| (0..=NO_END_S).contains(seconds));
    seconds
        .map(Some)
        .ok_or_else(|| Failure::argument("ttl is a number of seconds from 0 to 2147483647"))
}

/// A whole number; one past the 64 bits, or written with a point, is still one.
fn integer(value: &Value) -> Option<i64> {
    match (value.as_i64(), value.as_f64()) {
        (Some(number), _) => Some(number),
        (None, Some(number)) if number.fract() == 0.0 => Some(number as i64),
        _ => None,
    }
}

/// For how long something is to be muted.
pub(super) enum Span {
    /// 0: the mute is to end.
    Nothing,
    /// -1, or an end past what the vendor has a number for.
    ForGood,
    Ms(u64),
}

impl Span {
    /// What a `mute_duration` says, in milliseconds.
    pub(super) fn of(value: Option<&Value>, now_ms: u64) -> Result<Self, Failure> {
        let span = value.and_then(|value| Self::whole(value, 1, now_ms));
        span.ok_or_else(|| {
            Failure::argument(
                "mute_duration is a number of milliseconds; -1 is for good, 0 ends the mute",
            )
        })
    }

    /// What the `chatroom` of a user mute says, in seconds.
    pub(super) fn of_seconds(value: Option<&Value>, now_ms: u64) -> Result<Self, Failure> {
        let span = value.and_then(|value| Self::whole(value, 1_000, now_ms));
        span.ok_or_else(|| {
            Failure::argument("chatroom is a number of seconds; -1 is for good, 0 ends the mute")
        })
    }

    /// Nothing where the value is no whole number, or a negative one other than -1.
    fn whole(value: &Value, unit_ms: u64, now_ms: u64) -> Option<Self> {
        let number = integer(value)?;
        match u64::try_from(number).map(|number| number.saturating_mul(unit_ms)) {
            Ok(0) => Some(Self::Nothing),
            Ok(ms) if now_ms.saturating_add(ms) > FOR_GOOD_MS => Some(Self::ForGood),
            Ok(ms) => Some(Self::Ms(ms)),
            Err(_) => (number == -1).then_some(Self::ForGood),
        }
    }

    pub(super) fn duration(&self) -> Option<prost_types::Duration> {
        match self {
            Self::Nothing | Self::ForGood => None,
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

/// How many seconds are left until then, a part of one counting as one, and as many as the vendor's
/// Integer holds; -1 is for good.
pub(super) fn left_s(time: Option<prost_types::Timestamp>, now_ms: u64) -> i64 {
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

/// The users of a body: an array, or one name as a string.
pub(super) fn usernames(
    body: &Map<String, Value>,
    max: usize,
    too_many: &str,
) -> Result<Vec<String>, Failure> {
    let wrong = || Failure::argument("usernames is an array of user ids");
    let users = match body.get("usernames") {
        Some(Value::String(user)) => vec![user.clone()],
        Some(Value::Array(users)) => users
            .iter()
            .map(|user| user.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong()),
    };
    limited(users, max, too_many)
}

/// The users of a path, separated by commas, which the caller may have percent-encoded.
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
    limited(users, max, too_many)
}

pub(super) fn limited(
    users: Vec<String>,
    max: usize,
    too_many: &str,
) -> Result<Vec<String>, Failure> {
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
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=64).contains(&user.len()) && user.bytes().all(good) {
        Ok(())
    } else {
        Err(Failure::argument("a username is 1 to 64 of A-Z a-z 0-9 _ - ."))
    }
}

pub(super) fn string(body: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Failure::argument(format!("{name} is a string"))),
    }
}

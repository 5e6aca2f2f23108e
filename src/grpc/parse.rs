//! Parses messages into the model. Every malformed field is refused here.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

use crate::{
    error::{Error, Reason, Subject},
    model::{RoomId, UserId, UserRef},
    proto::v1 as pb,
    service::{PAGE_BYTES, RequestContext},
    store::Revision,
};

const MAX_USERS: usize = 100;
const MAX_PAIRS: usize = 1_000;
const MAX_RECIPIENTS: usize = 10_000;
const MAX_REASON_BYTES: usize = 512;
pub(crate) const MAX_TEXT_BYTES: usize = 1_024;
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

/// 1..100 users of the app.
pub(super) fn users(call: &RequestContext, raw: &[String]) -> Result<Vec<UserId>, Error> {
    if raw.is_empty() {
        return Err(Error::invalid("users", "users must not be empty"));
    }
    optional_users(call, raw)
}

/// 0..100 users of the app.
pub(super) fn optional_users(call: &RequestContext, raw: &[String]) -> Result<Vec<UserId>, Error> {
    if raw.len() > MAX_USERS {
        return Err(Error {
            field: Some("users"),
            ..Error::new(Reason::TooManyUsers, "users must have at most 100 entries")
        });
    }
    raw.iter().map(|user| call.app.user(user.clone())).collect()
}

/// 1..1,000 pairs of a room and a user of the app.
pub(super) fn pairs(
    call: &RequestContext,
    raw: Vec<pb::RoomUser>,
) -> Result<Vec<(RoomId, UserId)>, Error> {
    if !(1..=MAX_PAIRS).contains(&raw.len()) {
        return Err(Error::invalid("pairs", "pairs must have 1 to 1000 entries"));
    }
    raw.into_iter().map(|pair| Ok((RoomId::parse(pair.room)?, call.app.user(pair.user)?))).collect()
}

/// 0..10,000 users of the app.
pub(super) fn recipients<'a>(
    call: &RequestContext,
    raw: &'a [String],
) -> Result<Vec<UserRef<'a>>, Error> {
    if raw.len() > MAX_RECIPIENTS {
        return Err(Error {
            field: Some("users"),
            ..Error::new(Reason::TooManyUsers, "users must have at most 10000 entries")
        });
    }
    // A `collect` of results does not know its length, and grows the vector step by step.
    let mut users = Vec::with_capacity(raw.len());
    for user in raw {
        users.push(call.app.user_ref(user)?);
    }
    Ok(users)
}

/// Replaces the user ids in an error with the caller's spelling of them.
pub(super) fn with_raw_users(error: Error, raw: &[String], users: &[UserId]) -> Error {
    let Subject::Users(named) = &error.subject else { return error };
    let matching =
        raw.iter().zip(users).filter(|(_, user)| named.iter().any(|other| other == user.as_str()));
    Error { subject: Subject::Users(matching.map(|(raw, _)| raw.clone()).collect()), ..error }
}

pub(super) fn reason(raw: String) -> Result<String, Error> {
    if raw.len() <= MAX_REASON_BYTES {
        Ok(raw)
    } else {
        Err(Error::invalid("reason", "reason must be at most 512 bytes"))
    }
}

pub(super) fn text(field: &'static str, raw: Option<String>) -> Result<Option<String>, Error> {
    if raw.as_ref().is_none_or(|text| text.len() <= MAX_TEXT_BYTES) {
        Ok(raw)
    } else {
        Err(Error::invalid(field, "a text field must be at most 1024 bytes"))
    }
}

/// Milliseconds, rounded up.
pub(super) fn duration_ms(raw: Option<prost_types::Duration>) -> Result<Option<u64>, Error> {
    let Some(raw) = raw else { return Ok(None) };
    let invalid = || {
        let message = "duration must be more than zero; omit it for no expiry";
        Error::invalid("duration", message)
    };
    let seconds = u64::try_from(raw.seconds).map_err(|_| invalid())?;
    let nanos =
        u64::try_from(raw.nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or_else(invalid)?;
    Ok(Some(seconds.saturating_mul(1_000).saturating_add(nanos.div_ceil(1_000_000))))
}

/// Unix milliseconds, rounded down. A time before 1970 counts as 1970.
pub(super) fn time_ms(
    field: &'static str,
    raw: Option<prost_types::Timestamp>,
) -> Result<Option<u64>, Error> {
    let Some(raw) = raw else { return Ok(None) };
    let nanos = u64::try_from(raw.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.ok_or_else(|| Error::invalid(field, "nanos must be 0 to 999999999"))?;
    let seconds = u64::try_from(raw.seconds).ok();
    Ok(Some(
        seconds
            .map_or(0, |seconds| seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)),
    ))
}

/// Whole seconds.
pub(super) fn ttl_s(raw: Option<prost_types::Duration>) -> Result<Option<u64>, Error> {
    let invalid = || Error::invalid("ttl", "ttl must be a whole number of seconds, 0 or more");
    match raw {
        None => Ok(None),
        Some(prost_types::Duration { seconds, nanos: 0 }) => {
            u64::try_from(seconds).map(Some).map_err(|_| invalid())
        }
        Some(_) => Err(invalid()),
    }
}

/// 0 means the default. A larger size than the maximum means the maximum (AIP-158).
pub(super) fn page_size(raw: i32) -> Result<usize, Error> {
    match usize::try_from(raw) {
        Ok(0) => Ok(DEFAULT_PAGE),
        Ok(size) => Ok(size.min(MAX_PAGE)),
        Err(_) => Err(Error::invalid("page_size", "page_size must not be negative")),
    }
}

pub(super) fn skip(raw: i32) -> Result<usize, Error> {
    usize::try_from(raw).map_err(|_| Error::invalid("skip", "skip must not be negative"))
}

/// The minimum revision of a read. 0 means any.
pub(super) fn min_revision(raw: i64) -> Result<Revision, Error> {
    Revision::try_from(raw)
        .map_err(|_| Error::invalid("min_revision", "min_revision must not be negative"))
}

/// Parses a `grpc-timeout` header: one to eight digits and a unit. `None` if it is malformed.
pub(crate) fn grpc_timeout(raw: &str) -> Option<Duration> {
    let (digits, unit) = raw.split_at_checked(raw.len().checked_sub(1)?)?;
    let number = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The id after which the page starts. `None`: the first page.
pub(super) fn page_token(raw: &str) -> Result<Option<String>, Error> {
    if raw.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD.decode(raw).ok();
    let id = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    id.map(Some)
        .ok_or_else(|| Error::invalid("page_token", "page_token was not issued by this method"))
}

/// Truncates a list to its page, and returns the token of the next page, or an empty one at the end
/// of the list. `items` must have been read with one more item than the page. For short items: a
/// thousand of them must fit in [`PAGE_BYTES`].
pub(super) fn truncate_page<T>(
    items: &mut Vec<T>,
    size: usize,
    id: impl FnOnce(&T) -> String,
) -> String {
    if items.len() <= size {
        return String::new();
    }
    items.truncate(size);
    items.last().map(|last| encode_page_token(&id(last))).unwrap_or_default()
}

/// Like [`truncate_page`], for items that may be long: it also encodes them, and ends the page
/// early at [`PAGE_BYTES`]. A page has at least one item. Of `items`, it takes one more than the
/// page has.
pub(super) fn encode_page<T, M: Message>(
    items: impl IntoIterator<Item = T>,
    size: usize,
    id: impl Fn(&T) -> String,
    encode: impl Fn(T) -> M,
) -> (Vec<M>, String) {
    let mut page = Vec::new();
    let mut last = String::new();
    let mut bytes = 0;
    for item in items {
        let token = id(&item);
        let message = encode(item);
        bytes += message.encoded_len();
        if page.len() == size || (bytes > PAGE_BYTES && !page.is_empty()) {
            return (page, encode_page_token(&last));
        }
        last = token;
        page.push(message);
    }
    (page, String::new())
}

/// The token of the page that starts after this id.
pub(super) fn encode_page_token(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_capped_and_not_refused() {
        assert_eq!(page_size(0).ok(), Some(100));
        assert_eq!(page_size(7).ok(), Some(7));
        assert_eq!(page_size(i32::MAX).ok(), Some(1_000));
        assert!(page_size(-1).is_err());
    }

    #[test]
    fn a_reason_has_at_most_512_bytes() {
        let longest = "ü".repeat(256);
        assert_eq!(reason(longest.clone()).ok(), Some(longest.clone()));
        let error = reason(longest + "x").err();
        assert_eq!(
            error.map(|error| (error.reason, error.field)),
            Some((Reason::InvalidArgument, Some("reason")))
        );
    }

    #[test]
    fn a_timeout_has_any_unit_of_grpc() {
        let cases = [
            ("2H", Some(Duration::from_secs(7_200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("7n", Some(Duration::from_nanos(7))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("100000000S", None),
            ("5s", None),
            ("5", None),
            ("H", None),
            ("", None),
        ];
        for (raw, expected) in cases {
            assert_eq!(grpc_timeout(raw), expected, "{raw}");
        }
    }

    #[test]
    fn durations_count_in_whole_milliseconds_upwards() {
        let ms = |seconds, nanos| {
            duration_ms(Some(prost_types::Duration { seconds, nanos })).ok().flatten()
        };
        assert_eq!(ms(1, 500_000_000), Some(1_500));
        assert_eq!(ms(0, 1), Some(1));
        assert_eq!(ms(-1, 0), None);
        assert_eq!(ms(0, -1), None);
        assert_eq!(ms(i64::MAX, 0), Some(u64::MAX));
        assert_eq!(duration_ms(None).ok().flatten(), None);
    }

    #[test]
    fn a_page_token_has_the_last_id_of_its_page() {
        let mut items = vec!["a", "b", "ü", "z"];
        assert_eq!(
            page_token(&truncate_page(&mut items, 3, |id| (*id).to_owned()))
                .ok()
                .flatten()
                .as_deref(),
            Some("ü")
        );
        assert_eq!(
            (items.len(), truncate_page(&mut items, 3, |id| (*id).to_owned())),
            (3, String::new())
        );
        let encode = |items: &[&str], size| {
            let (page, token) = encode_page(
                items.to_vec(),
                size,
                |id| (*id).to_owned(),
                |id| pb::MutedUser { user: id.to_owned(), ..Default::default() },
            );
            (page.len(), page_token(&token).ok().flatten())
        };
        assert_eq!(encode(&["a", "b", "ü"], 3), (3, None));
        assert_eq!(encode(&["a", "b", "ü", "z"], 3), (3, Some("ü".to_owned())));
        let long = "x".repeat(PAGE_BYTES / 2);
        assert_eq!(encode(&[&long, "b", &long, "d"], 9), (2, Some("b".to_owned())));
        let longest = "x".repeat(PAGE_BYTES + 1);
        assert_eq!(encode(&[&longest, "b"], 9).0, 1, "a page has at least one item");
        assert!(page_token("%%%").is_err());
    }

    #[test]
    fn a_page_that_ends_early_takes_one_item_more_than_it_has() {
        let mut taken = 0;
        let items = (0..1_001).map(|number: usize| {
            taken = number + 1;
            "x".repeat(PAGE_BYTES / 10)
        });
        let message = |user| pb::MutedUser { user, ..Default::default() };
        let (page, _) = encode_page(items, 1_000, String::clone, message);
        assert_eq!((page.len(), taken), (9, 10));
    }
}

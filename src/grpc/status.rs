//! The gRPC column of the error table, in both directions: an error becomes a google.rpc.Status
//! with details, and the gateway decodes its reason from there.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    error::{Error, Outcome, Reason, Subject},
    telemetry::metrics::METRICS,
};

const DOMAIN: &str = "mute.v1";
/// Maximum size of the user ids in an error. Clients refuse headers of more than 8 or 16 KiB, and
/// the details are sent as base64 in a header.
const MAX_USERS_BYTES: usize = 4 << 10;

const fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidApiKey
        | Reason::InvalidClientKey
        | Reason::InvalidToken
        | Reason::MalformedToken
        | Reason::MissingToken
        | Reason::InvalidCredentials => Code::Unauthenticated,
        Reason::PermissionDenied => Code::PermissionDenied,
        Reason::ClientNotFound | Reason::RoomNotFound | Reason::AppNotFound => Code::NotFound,
        Reason::OwnerNotMutable => Code::FailedPrecondition,
        Reason::InvalidArgument | Reason::TooManyUsers | Reason::RequestIdReused => {
            Code::InvalidArgument
        }
        Reason::RateLimited
        | Reason::QuotaExceeded
        | Reason::StoreFull
        | Reason::MessageTooLarge => Code::ResourceExhausted,
        Reason::RevisionCompacted | Reason::WatcherTooSlow => Code::OutOfRange,
        Reason::Stopping | Reason::Overloaded | Reason::StoreUnavailable => Code::Unavailable,
        Reason::Internal => Code::Internal,
    }
}

impl From<Error> for Status {
    /// Also logs the error's cause, and counts the refusal: only here, so once a call.
    fn from(error: Error) -> Self {
        METRICS.refused(error.reason);
        if let Some(cause) = &error.cause {
            tracing::error!(reason = error.reason.as_str(), cause, "call failed");
        }
        let mut metadata = HashMap::new();
        let subject = match error.subject {
            Subject::Users(users) if !users.is_empty() => Some(("users", join_users(&users))),
            Subject::Room(room) => Some(("room", room.into())),
            Subject::Users(_) | Subject::Unnamed => None,
        };
        metadata.extend(subject.map(|(name, ids)| (name.to_owned(), ids)));
        let outcome = match error.outcome {
            Some(Outcome::Unknown) => Some("unknown"),
            Some(Outcome::Committed) => Some("committed"),
            None => None,
        };
        if let Some(outcome) = outcome {
            metadata.insert("outcome".to_owned(), outcome.to_owned());
        }
        if let Some(revision) = error.last_revision {
            let name = if outcome.is_some() { "revision" } else { "last_revision" };
            metadata.insert(name.to_owned(), revision.to_string());
        }
        let mut details = ErrorDetails::with_error_info(error.reason.as_str(), DOMAIN, metadata);
        if let Some(field) = error.field {
            details.add_bad_request_violation(field, error.message.clone());
        }
        if error.retry_after.is_some() {
            details.set_retry_info(error.retry_after);
        }
        Status::with_error_details(code(error.reason), error.message, details)
    }
}

/// One user a line, up to [`MAX_USERS_BYTES`]. A user id contains no control character, so no
/// newline.
fn join_users(users: &[String]) -> String {
    let mut remaining_bytes = MAX_USERS_BYTES;
    let mut fits = |user: &String| {
        let fits = user.len() < remaining_bytes;
        remaining_bytes = remaining_bytes.saturating_sub(user.len() + 1);
        fits
    };
    users.iter().take_while(|user| fits(user)).map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// An error, decoded from a status of this service.
#[derive(Clone)]
pub struct DecodedError {
    /// Its row of the error table. INTERNAL if the status is not of this service.
    pub reason: Reason,
    /// The message for the caller.
    pub message: String,
    /// The users it is about.
    pub users: Vec<String>,
    /// The delay after which a retry may succeed.
    pub retry_after: Option<Duration>,
}

impl From<Status> for DecodedError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let users = info.and_then(|info| info.metadata.get("users"));
        Self {
            reason: info.and_then(|info| Reason::parse(&info.reason)).unwrap_or(Reason::Internal),
            users: users
                .map(|users| users.split('\n').map(str::to_owned).collect())
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            message: status.message().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_decoded_from_its_status() {
        for reason in Reason::ALL {
            let error = Error {
                subject: Subject::Users(vec!["a".to_owned(), "b".to_owned()]),
                ..Error::new(reason, "words")
            };
            let decoded = DecodedError::from(Status::from(error));
            assert_eq!((decoded.reason, decoded.message.as_str()), (reason, "words"));
            assert_eq!(decoded.users, ["a", "b"]);
        }
        assert_eq!(DecodedError::from(Status::not_found("x")).reason, Reason::Internal);
    }

    #[test]
    fn an_internal_error_reveals_no_cause() {
        let status = Status::from(Error::internal("/var/lib/secret path"));
        assert!(!format!("{status:?}").contains("secret"));
    }
}

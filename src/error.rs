//! The errors of a call: one vocabulary, one table. Every reason has a stable name.
//! `grpc/status.rs` and the gateway files of the two vendors map each reason to its form on the
//! wire, in a match without a wildcard.

use std::time::Duration;

mod refusal;

pub use refusal::Refusal;

/// The reason of an error. Its name on the wire is [`Reason::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The API key is missing or unknown.
    InvalidApiKey,
    /// The client key is missing or unknown.
    InvalidClientKey,
    /// The token is not valid: its signature is wrong, it has expired, or it is for another app.
    InvalidToken,
    /// The text sent as a token is not a token.
    MalformedToken,
    /// No credential was sent.
    MissingToken,
    /// The caller is authenticated, but may not do this.
    PermissionDenied,
    /// The client id or secret is wrong.
    InvalidCredentials,
    /// The directory has no such client.
    ClientNotFound,
    /// The directory has no such room.
    RoomNotFound,
    /// The app does not exist. Only for callers that may know which apps exist.
    AppNotFound,
    /// The owner of a room cannot be muted in it.
    OwnerNotMutable,
    /// A field violates the contract.
    InvalidArgument,
    /// The call has more users than allowed.
    TooManyUsers,
    /// The message has more bytes than its method takes.
    MessageTooLarge,
    /// A different request has used this request id.
    RequestIdReused,
    /// The rate limit of this method in this app is reached.
    RateLimited,
    /// A quota of the app is used up.
    QuotaExceeded,
    /// The events after this revision are no longer kept, or belong to another store. Read a
    /// snapshot, and resume from there.
    RevisionCompacted,
    /// The watcher was disconnected because it did not read fast enough.
    WatcherTooSlow,
    /// The service is stopping.
    Stopping,
    /// A concurrency limit (`max_calls`, `max_message_mib`), or the caller's share of it, is
    /// reached.
    Overloaded,
    /// The store cannot take a write or read history now, or the view has not reached the revision
    /// that the caller needs.
    StoreUnavailable,
    /// The store is full, and takes no write.
    StoreFull,
    /// An internal error. The log has the cause.
    Internal,
}

impl Reason {
    /// All reasons, in the order of the table.
    pub const ALL: [Self; 24] = [
        Self::InvalidApiKey,
        Self::InvalidClientKey,
        Self::InvalidToken,
        Self::MalformedToken,
        Self::MissingToken,
        Self::PermissionDenied,
        Self::InvalidCredentials,
        Self::ClientNotFound,
        Self::RoomNotFound,
        Self::AppNotFound,
        Self::OwnerNotMutable,
        Self::InvalidArgument,
        Self::TooManyUsers,
        Self::MessageTooLarge,
        Self::RequestIdReused,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::RevisionCompacted,
        Self::WatcherTooSlow,
        Self::Stopping,
        Self::Overloaded,
        Self::StoreUnavailable,
        Self::StoreFull,
        Self::Internal,
    ];

    /// The stable name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidApiKey => "INVALID_API_KEY",
            Self::InvalidClientKey => "INVALID_CLIENT_KEY",
            Self::InvalidToken => "INVALID_TOKEN",
            Self::MalformedToken => "MALFORMED_TOKEN",
            Self::MissingToken => "MISSING_TOKEN",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::InvalidCredentials => "INVALID_CREDENTIALS",
            Self::ClientNotFound => "CLIENT_NOT_FOUND",
            Self::RoomNotFound => "ROOM_NOT_FOUND",
            Self::AppNotFound => "APP_NOT_FOUND",
            Self::OwnerNotMutable => "OWNER_NOT_MUTABLE",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::TooManyUsers => "TOO_MANY_USERS",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::RateLimited => "RATE_LIMITED",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::RevisionCompacted => "REVISION_COMPACTED",
            Self::WatcherTooSlow => "WATCHER_TOO_SLOW",
            Self::Stopping => "STOPPING",
            Self::Overloaded => "OVERLOADED",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::StoreFull => "STORE_FULL",
            Self::Internal => "INTERNAL",
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// The outcome of a write that ended with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It may have been committed, or may still be. A repeat with the same request id finds out.
    Unknown,
    /// It was committed, but this replica has not applied it yet.
    Committed,
}

/// What an error is about, where a caller may need its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nothing that has an id.
    Unnamed,
    /// These users.
    Users(Vec<String>),
    /// This room.
    Room(Box<str>),
}

/// The error of a call, as the caller receives it; `cause` goes to the log only.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The row of the table.
    pub reason: Reason,
    /// One sentence for the caller, without internals and secrets.
    pub message: String,
    /// The invalid field.
    pub field: Option<&'static str>,
    /// What the error is about.
    pub subject: Subject,
    /// The delay after which a retry may succeed.
    pub retry_after: Option<Duration>,
    /// The revision after which to resume a watch that has ended, or the revision of a write that
    /// was committed in spite of the error.
    pub last_revision: Option<u64>,
    /// The outcome of the write. None: it has changed nothing.
    pub outcome: Option<Outcome>,
    /// For the log, never for the caller.
    pub cause: Option<Box<str>>,
}

impl Error {
    /// An error with this reason, and all other fields empty.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            field: None,
            subject: Subject::Unnamed,
            retry_after: None,
            last_revision: None,
            outcome: None,
            cause: None,
        }
    }

    /// INVALID_ARGUMENT on this field.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(Reason::InvalidArgument, message) }
    }

    /// The message has more bytes than its method takes.
    pub fn message_too_large(max_bytes: usize) -> Self {
        let message = format!(
            "the message is too large: this method takes at most {max_bytes} bytes; send it in parts"
        );
        Self::new(Reason::MessageTooLarge, message)
    }

    /// An internal error. The caller receives no detail; `cause` goes to the log.
    pub fn internal(cause: impl ToString) -> Self {
        Self {
            cause: Some(cause.to_string().into()),
            ..Self::new(Reason::Internal, "internal error")
        }
    }

    /// These users are not in the directory.
    pub fn clients_not_found(users: Vec<String>) -> Self {
        Self {
            subject: Subject::Users(users),
            ..Self::new(Reason::ClientNotFound, "a user is not registered in this app")
        }
    }

    /// This room is not in the directory.
    pub fn room_not_found(room: &str) -> Self {
        let message = format!("the room \"{room}\" is not registered in this app");
        Self { subject: Subject::Room(room.into()), ..Self::new(Reason::RoomNotFound, message) }
    }

    /// The events after the revision are no longer kept, or the store has lost them.
    pub fn compacted() -> Self {
        Self::new(
            Reason::RevisionCompacted,
            "events after this revision are no longer kept; list again, and resume from there",
        )
    }

    /// The store cannot be written or read now; `cause` goes to the log.
    pub fn unavailable(cause: impl ToString) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            cause: Some(cause.to_string().into()),
            ..Self::new(Reason::StoreUnavailable, "the store is not available; try again")
        }
    }

    /// The write may have been committed, or may still be; `cause` goes to the log.
    pub fn outcome_unknown(cause: impl ToString) -> Self {
        let message = "the store has not answered, and the write may have been committed; repeat it with the same request_id to find out";
        Self {
            message: message.to_owned(),
            outcome: Some(Outcome::Unknown),
            ..Self::unavailable(cause)
        }
    }

    /// The write is durable at this revision, but the view of this replica has not reached it.
    pub fn committed_not_applied(revision: u64) -> Self {
        let message = format!(
            "the write was committed at revision {revision}, but this replica is behind; read from another replica, or with this revision as min_revision"
        );
        let cause = format!("the view has not reached revision {revision}");
        Self {
            message,
            outcome: Some(Outcome::Committed),
            last_revision: Some(revision),
            ..Self::unavailable(cause)
        }
    }

    /// A concurrency limit (`max_calls`, `max_message_mib`), or the caller's share of it, is
    /// reached.
    pub fn overloaded() -> Self {
        let message =
            "the service is at its limit of concurrent calls or of their bytes; try again";
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(Reason::Overloaded, message) }
    }

    /// The view has not reached this revision. Nothing goes to the log, because a caller may send
    /// any number.
    pub fn not_yet_applied(revision: u64) -> Self {
        let message = format!("this replica has not reached revision {revision} yet; try again");
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(Reason::StoreUnavailable, message)
        }
    }

    /// The view is too old. Nothing goes to the log, which has the cause already.
    pub fn old_view(age: Duration) -> Self {
        let message = format!(
            "this replica has had no contact with the cluster for {} s; call another replica",
            age.as_secs()
        );
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(Reason::StoreUnavailable, message)
        }
    }
}

//! What can go wrong for a caller: one vocabulary, one table. Every reason has a stable name;
//! `grpc/status.rs` and the two vendors' gateway files give each its form on the wire, in a match
//! without a wildcard.

use std::time::Duration;

/// A reason of the error table. Its name on the wire is [`Reason::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The API key is missing or of no app.
    InvalidApiKey,
    /// The client key is missing or of no app.
    InvalidClientKey,
    /// The token is not valid: bad signature, expired, of another app.
    InvalidToken,
    /// What was sent as a token is none.
    MalformedToken,
    /// No credential was sent.
    MissingToken,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// The client id or secret is wrong.
    InvalidCredentials,
    /// The directory has no such client.
    ClientNotFound,
    /// The directory has no such room.
    RoomNotFound,
    /// There is no such app; told only to those who may know.
    AppNotFound,
    /// The owner of a room cannot be muted in it.
    OwnerNotMutable,
    /// A field is not as the contract says.
    InvalidArgument,
    /// More users than one call may name.
    TooManyUsers,
    /// The request id is that of another request.
    RequestIdReused,
    /// Too many calls of this method in this app.
    RateLimited,
    /// The app has as much as it may.
    QuotaExceeded,
    /// What was asked for is no longer kept, or is of another store: read all again, and go on from
    /// there.
    RevisionCompacted,
    /// A watcher that does not read fast enough was cut off.
    WatcherTooSlow,
    /// The service is being stopped.
    Stopping,
    /// As many calls run as may.
    Overloaded,
    /// The store cannot take a write or tell history now, or the view does not have what the caller
    /// wants to see.
    StoreUnavailable,
    /// The store has no room for a write.
    StoreFull,
    /// Ours to find in the log.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the table.
    pub const ALL: [Self; 23] = [
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

    /// The stable name.
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

    /// The reason of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// What has become of a write that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody knows: it may have been committed, or may still be. A repeat with the same request id
    /// finds out.
    Unknown,
    /// It was committed, and this replica does not have it yet.
    Committed,
}

/// One error, as the caller is told of it. What the log is told besides is in `cause`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The row of the table.
    pub reason: Reason,
    /// One sentence for the caller; never an internal matter, never a secret.
    pub message: String,
    /// The field that is wrong.
    pub field: Option<&'static str>,
    /// The users it is about.
    pub users: Vec<String>,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// The revision after which a watch that has ended is to be taken up again; of a write that was
    /// committed all the same, its own.
    pub last_revision: Option<u64>,
    /// What has become of the write all the same. Nothing where it has changed nothing.
    pub outcome: Option<Outcome>,
    /// For the log only.
    pub cause: Option<Box<str>>,
}

impl Error {
    /// An error of this reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            field: None,
            users: Vec::new(),
            retry_after: None,
            last_revision: None,
            outcome: None,
            cause: None,
        }
    }

    /// A field that is not as the contract says.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(Reason::InvalidArgument, message) }
    }

    /// An internal error: the caller is told nothing, the log is told `cause`.
    pub fn internal(cause: impl ToString) -> Self {
        Self {
            cause: Some(cause.to_string().into()),
            ..Self::new(Reason::Internal, "internal error")
        }
    }

    /// The directory lacks these clients.
    pub fn clients_not_found(users: Vec<String>) -> Self {
        Self { users, ..Self::new(Reason::ClientNotFound, "a user is not registered in this app") }
    }

    /// The directory lacks the room.
    pub fn room_not_found() -> Self {
        Self::new(Reason::RoomNotFound, "the room is not registered in this app")
    }

    /// What came after the revision is no longer kept, or was lost with it.
    pub fn compacted() -> Self {
        Self::new(
            Reason::RevisionCompacted,
            "events from after this revision are no longer kept: list again, and go on from there",
        )
    }

    /// The store cannot take a write, or be read, now; `cause` goes to the log.
    pub fn unavailable(cause: impl ToString) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            cause: Some(cause.to_string().into()),
            ..Self::new(Reason::StoreUnavailable, "the store is not available now; try again")
        }
    }

    /// The write may have been committed, or may still be; `cause` goes to the log.
    pub fn outcome_unknown(cause: impl ToString) -> Self {
        let message = "the store has not answered: the write may have been committed; repeat it with the same request_id to find out";
        Self {
            message: message.to_owned(),
            outcome: Some(Outcome::Unknown),
            ..Self::unavailable(cause)
        }
    }

    /// The write is durable at this revision, and the view of this replica has not come so far.
    pub fn committed_unseen(revision: u64) -> Self {
        let message = format!(
            "the write was committed, at revision {revision}, and this replica is behind: read elsewhere, or with that min_revision"
        );
        let cause = format!("the view has not reached revision {revision}");
        Self {
            message,
            outcome: Some(Outcome::Committed),
            last_revision: Some(revision),
            ..Self::unavailable(cause)
        }
    }

    /// As many calls run as may.
    pub fn overloaded() -> Self {
        let message = "the service has as many calls as it can take; try again";
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(Reason::Overloaded, message) }
    }

    /// The view does not have this commit yet. Nothing goes to the log, because a caller may ask
    /// for any number.
    pub fn not_seen_yet(revision: u64) -> Self {
        let message = format!("this replica has not seen revision {revision} yet; try again");
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(Reason::StoreUnavailable, message)
        }
    }

    /// The view is older than it may be. Nothing goes to the log, which has been told what the
    /// matter is.
    pub fn old_view(age: Duration) -> Self {
        let message = format!(
            "this replica has not heard from the cluster for {} s; ask another one",
            age.as_secs()
        );
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(Reason::StoreUnavailable, message)
        }
    }
}

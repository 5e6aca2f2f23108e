//! What can go wrong for a person: what the service says, why, and what to do next.

use std::{fmt, io, process::ExitCode};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const USAGE: u8 = 64;

#[derive(Debug)]
pub enum Failure {
    /// Not as the help says.
    Usage(String),
    /// Nobody is at the address.
    Unreachable { addr: String, error: tonic::transport::Error },
    /// The service has said no.
    Refused(Box<Status>),
    /// What was to be shown could not be written.
    Output(io::Error),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(USAGE),
            Self::Unreachable { .. } | Self::Refused(_) | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => f.write_str(what),
            Self::Unreachable { addr, error } => {
                write!(
                    f,
                    "cannot reach {addr}: {}\n{}",
                    cause(error),
                    next("UNREACHABLE").unwrap_or_default()
                )
            }
            Self::Refused(status) => refused(f, status),
            Self::Output(error) => write!(f, "cannot write: {error}"),
        }
    }
}

/// The reason of the error table; nothing in a status that the service has not made.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

fn refused(f: &mut fmt::Formatter<'_>, status: &Status) -> fmt::Result {
    let details = status.get_error_details();
    let info = details.error_info();
    let reason = info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason.clone());
    write!(f, "{} ({reason})", status.message())?;
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        write!(f, "\nIt is about: {}", violation.field)?;
    }
    if let Some(users) = info.and_then(|info| info.metadata.get("users")) {
        write!(f, "\nIt is about: {}", users.replace('\n', ", "))?;
    }
    let name = match status.code() {
        Code::Unavailable if info.is_none() => "UNREACHABLE",
        Code::Unimplemented | Code::Unknown | Code::Internal if info.is_none() => "FOREIGN",
        _ => reason.as_str(),
    };
    next(name).map_or(Ok(()), |next| write!(f, "\n{next}"))
}

/// What to do next.
fn next(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "UNREACHABLE" => {
            "Is the service running, and is that its gRPC address? Name another with --addr, or in MUTE_ADDR."
        }
        "FOREIGN" => {
            "Is that the gRPC address of a mute-service, as new as this program? Name another with --addr, or in MUTE_ADDR."
        }
        "MISSING_TOKEN" | "MALFORMED_TOKEN" | "INVALID_TOKEN" => {
            "Give a token of a service, or one that `mute-service token --app APP` mints: in MUTE_TOKEN, with --token-file, or with --token."
        }
        "PERMISSION_DENIED" => {
            "The token is known, but not good for this. Is --app the right app? A service has to have the app and the scope in its configuration."
        }
        "APP_NOT_FOUND" => "--app takes the key of a configured app, such as org#app.",
        "ROOM_NOT_FOUND" => {
            "Is the room id right, and is --app? In an app whose directory is strict, a room has to be registered first: UpsertRoom, or POST /chatrooms."
        }
        "CLIENT_NOT_FOUND" => {
            "Is the user id right, and is --app? In an app whose directory is strict, a user has to be registered first: UpsertClient, or POST /users."
        }
        "OWNER_NOT_MUTABLE" => {
            "`ctl mute-user` mutes a user in every room, also where it is the owner."
        }
        "TOO_MANY_USERS" => "Name fewer a call; `xargs -n 100` does.",
        "RATE_LIMITED" => "Try again in a second; a service's token is not limited.",
        "QUOTA_EXCEEDED" => {
            "Remove what the app needs no more, or raise its quota: see `mute-service serve --help`."
        }
        "STORE_UNAVAILABLE" | "STOPPING" | "OVERLOADED" => {
            "Try again in a moment; doing it twice does no harm."
        }
        "STORE_FULL" => {
            "Make room on the disk that holds the service's data, or in the cluster's quota (see README, More than one machine)."
        }
        "INTERNAL" => "The log of the service says what has happened.",
        _ => return None,
    })
}

/// The innermost cause, which is the one that helps: "Connection refused" rather than "transport
/// error".
fn cause(error: &tonic::transport::Error) -> String {
    let mut at: &dyn std::error::Error = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    #[test]
    fn a_hint_is_given_for_every_reason_that_a_person_can_do_something_about() {
        let without: Vec<_> = Reason::ALL
            .into_iter()
            .map(Reason::as_str)
            .filter(|reason| next(reason).is_none())
            .collect();
        // Those of other doors; what says itself what to do; what a watch goes on from by itself.
        let expected = [
            "INVALID_API_KEY",
            "INVALID_CLIENT_KEY",
            "INVALID_CREDENTIALS",
            "INVALID_ARGUMENT",
            "REQUEST_ID_REUSED",
            "REVISION_COMPACTED",
            "WATCHER_TOO_SLOW",
        ];
        assert_eq!(without, expected);
    }
}

//! The errors of `ctl`: the service's message, its reason, and what to do next.

use std::{fmt, io};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::fetch::peer::{Peer, Server};

#[derive(Debug)]
pub enum Failure {
    /// Invalid arguments.
    Usage(String),
    /// No connection to the address.
    Unreachable { addr: String, error: tonic::transport::Error },
    /// Something else than gRPC of a service answers at the address; what, and what to do.
    Elsewhere(String),
    /// The service refused the call.
    Refused(Box<Status>),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl Failure {
    /// Whether the arguments are wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_))
    }

    /// Whether it may not come from the service, but from something else at the address.
    pub fn is_foreign(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(status) => reason(status).is_none(),
            Self::Usage(_) | Self::Elsewhere(_) | Self::Output(_) => false,
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
            Self::Usage(message) | Self::Elsewhere(message) => f.write_str(message),
            Self::Unreachable { addr, error } => {
                write!(
                    f,
                    "cannot reach {addr}: {}\n{}",
                    root_cause(error),
                    hint("UNREACHABLE").unwrap_or_default()
                )
            }
            Self::Refused(status) => write_refusal(f, status),
            Self::Output(error) => write!(f, "cannot write: {error}"),
        }
    }
}

/// The message for a caller who asked for gRPC at this URL, with or without TLS, and met this peer.
/// None: it is what was asked for.
pub fn elsewhere(url: &str, wants_tls: bool, peer: Peer) -> Option<String> {
    let authority = url.split_once("://").map_or(url, |(_, authority)| authority);
    let which = match peer.server {
        Some(Server::Rest) => Some("the REST port of a mute-service"),
        Some(Server::Admin) => Some("the admin port of a mute-service"),
        Some(Server::Http) => Some("an HTTP server that is no gRPC server"),
        Some(Server::Grpc) | None => None,
    };
    if let Some(which) = which {
        return Some(format!(
            "cannot call {url}: this is {which}.\nGive the address of its gRPC port, 50051 by default, with --addr or MUTE_ADDR."
        ));
    }
    match (wants_tls, peer.uses_tls) {
        (true, false) => Some(format!(
            "cannot call {url}: the server does not use TLS.\nWrite http://{authority} in --addr or MUTE_ADDR."
        )),
        (false, true) => Some(format!(
            "cannot call {url}: the server uses TLS.\nWrite https://{authority} in --addr or MUTE_ADDR, and name its certificate authority with --ca."
        )),
        _ => None,
    }
}

/// The reason in the status's details. None if the status is not from the service.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

fn write_refusal(f: &mut fmt::Formatter<'_>, status: &Status) -> fmt::Result {
    let details = status.get_error_details();
    let info = details.error_info();
    let reason = info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason.clone());
    write!(f, "{} ({reason})", status.message())?;
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        write!(f, "\nField: {}", violation.field)?;
    }
    if let Some(users) = info.and_then(|info| info.metadata.get("users")) {
        write!(f, "\nUsers: {}", users.replace('\n', ", "))?;
    }
    let hint_reason = match status.code() {
        Code::Unavailable if info.is_none() => "UNREACHABLE",
        Code::Unimplemented | Code::Unknown | Code::Internal if info.is_none() => "FOREIGN",
        _ => reason.as_str(),
    };
    hint(hint_reason).map_or(Ok(()), |hint| write!(f, "\n{hint}"))
}

/// What to do next. None if the message says it, or if the user of `ctl` cannot do anything.
fn hint(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "UNREACHABLE" => {
            "Check that the service is running and that this is its gRPC address; set the address with --addr or MUTE_ADDR."
        }
        "FOREIGN" => {
            "Check that this is the gRPC address of a mute-service at least as new as this program; set the address with --addr or MUTE_ADDR."
        }
        "MISSING_TOKEN" | "MALFORMED_TOKEN" | "INVALID_TOKEN" => {
            "Give the token of an internal service, or one minted by `mute-service token --app APP`, in MUTE_TOKEN, with --token-file or with --token."
        }
        "PERMISSION_DENIED" => {
            "The token is valid, but does not permit this call. Check --app. An internal service needs the app and the scope in its configuration."
        }
        "APP_NOT_FOUND" => "Give the key of a configured app, such as org#app, with --app.",
        "ROOM_NOT_FOUND" => {
            "Check the room id and --app. In an app with a strict directory, register the room first: `mute-service ctl room create ROOM`."
        }
        "CLIENT_NOT_FOUND" => {
            "Check the user id and --app. In an app with a strict directory, register the user first: `mute-service ctl user create USER`."
        }
        "OWNER_NOT_MUTABLE" => {
            "To mute an owner, use `ctl mute-user`: it mutes the user in all rooms, including those it owns."
        }
        "TOO_MANY_USERS" => "Name fewer users per call, for example with `xargs -n 100`.",
        "RATE_LIMITED" => {
            "Try again in a second, or use the token of an internal service, which is not limited."
        }
        "QUOTA_EXCEEDED" => {
            "Remove records that the app no longer needs, or raise its quota: see `mute-service serve --help`."
        }
        "STORE_UNAVAILABLE" | "STOPPING" | "OVERLOADED" => {
            "Try again in a moment; a repeated write does no harm."
        }
        "STORE_FULL" => {
            "Free space on the disk that holds the service's data, or raise the cluster's quota (deploy/CLUSTER.md, In production)."
        }
        "INTERNAL" => "See the log of the service for the cause.",
        _ => return None,
    })
}

/// The innermost cause, which is the useful one: "Connection refused" rather than "transport
/// error".
fn root_cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    #[test]
    fn each_reason_that_a_person_can_act_on_has_a_hint() {
        let without: Vec<_> = Reason::ALL
            .into_iter()
            .map(Reason::as_str)
            .filter(|reason| hint(reason).is_none())
            .collect();
        // Reasons of REST only, reasons whose message says what to do, and those that `watch`
        // handles.
        let expected = [
            "INVALID_API_KEY",
            "INVALID_CLIENT_KEY",
            "INVALID_CREDENTIALS",
            "INVALID_ARGUMENT",
            "MESSAGE_TOO_LARGE",
            "REQUEST_ID_REUSED",
            "REVISION_COMPACTED",
            "WATCHER_TOO_SLOW",
        ];
        assert_eq!(without, expected);
    }
}

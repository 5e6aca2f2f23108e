//! Authentication and authorization. Credentials are checked once, by [`credentials`], in front of
//! both listeners. The permissions are one function, [`may`], with a test for every cell of its
//! table.

use std::sync::Arc;

use crate::{
    error::{Error, Reason},
    limits::rate::RateSubject,
    model::AppKey,
};

pub mod apps;
pub mod credentials;
pub mod issuers;
pub mod secret;
pub mod token;

/// The authenticated caller.
#[derive(Clone, Debug)]
pub enum Principal {
    /// An internal service.
    Service(Arc<ServiceAccount>),
    /// The holder of an app's API key or app token, who may do everything inside the app.
    AppAdmin {
        /// The app.
        app: AppKey,
        /// The credential that was used.
        by: Credential,
    },
    /// A user of an app.
    User {
        /// The app.
        app: AppKey,
        /// The user id, case-folded if the app does so.
        user: String,
    },
}

/// The credential of an app admin; it decides the reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Credential {
    ApiKey,
    Token,
}

/// An internal service, as configured.
#[derive(Debug)]
pub struct ServiceAccount {
    /// Its name in logs, and as the actor of what it writes.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The apps it may access: app keys, or `*` for all.
    pub apps: Vec<String>,
    /// Lock that serializes its complete lists: a list is long, and only the one that has the lock
    /// reads its next page.
    pub turn: tokio::sync::Mutex<()>,
}

/// What a service may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All reads.
    Check,
    /// All mutes, bans and allow lists.
    Write,
    /// The directory; and backups, if the service may access all apps.
    Admin,
}

/// What a caller wants to do, with the facts about the target that decide whether it may.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Action<'a> {
    /// Ask whether this user may speak.
    CheckSend { user: &'a str },
    /// Read a room and its ban.
    SeeRoom,
    /// List who is muted or allowed in a room.
    ListRoom { is_staff: bool },
    /// Mute, unmute, ban, unban, allow, disallow.
    Moderate { is_staff: bool },
    /// Mute and unmute a user in the whole app.
    MuteUser,
    /// List who is muted in the whole app.
    ListMutedUsers,
    /// Ask which of some users want no push from a room.
    FilterRecipients,
    /// Read a client and its muted rooms.
    SeeClient { user: &'a str },
    /// Change this user's notification mutes.
    MuteNotifications { user: &'a str },
    /// List rooms and clients.
    ListDirectory,
    /// Change rooms and clients.
    WriteDirectory,
    /// Follow the changes of an app or of a room.
    Watch,
    /// List events: of a room where the caller may be staff, or of the whole app.
    ListEvents { is_staff: bool },
    /// Issue a token for a user.
    IssueUserToken,
}

/// Whether this principal may do that inside an app it has access to. `is_staff` of an action
/// counts for users only: whether the directory lists them as owner or admin of the room.
#[must_use]
pub fn may(principal: &Principal, action: Action<'_>) -> bool {
    match principal {
        Principal::AppAdmin { .. } => true,
        Principal::Service(service) => service.scopes.contains(&needed_scope(action)),
        Principal::User { user: own, .. } => match action {
            Action::CheckSend { user }
            | Action::SeeClient { user }
            | Action::MuteNotifications { user } => own == user,
            Action::SeeRoom => true,
            Action::ListRoom { is_staff }
            | Action::Moderate { is_staff }
            | Action::ListEvents { is_staff } => is_staff,
            Action::MuteUser
            | Action::ListMutedUsers
            | Action::FilterRecipients
            | Action::Watch
            | Action::ListDirectory
            | Action::WriteDirectory
            | Action::IssueUserToken => false,
        },
    }
}

/// The scope that a service needs for this.
const fn needed_scope(action: Action<'_>) -> Scope {
    match action {
        Action::CheckSend { .. }
        | Action::SeeRoom
        | Action::ListRoom { .. }
        | Action::ListMutedUsers
        | Action::FilterRecipients
        | Action::SeeClient { .. }
        | Action::ListDirectory
        | Action::Watch
        | Action::ListEvents { .. } => Scope::Check,
        Action::Moderate { .. }
        | Action::MuteUser
        | Action::MuteNotifications { .. }
        | Action::IssueUserToken => Scope::Write,
        Action::WriteDirectory => Scope::Admin,
    }
}

/// PERMISSION_DENIED for a principal that may not do this. It says who may.
#[must_use]
pub fn denied(principal: &Principal, action: Action<'_>) -> Error {
    let message = match (principal, action) {
        (Principal::Service(_), _) => match needed_scope(action) {
            Scope::Check => "this service needs the scope \"check\" for this",
            Scope::Write => "this service needs the scope \"write\" for this",
            Scope::Admin => "this service needs the scope \"admin\" for this",
        },
        (_, Action::ListRoom { .. } | Action::Moderate { .. } | Action::ListEvents { .. }) => {
            "of the users, only the owner and the admins of a room may do this, in that room"
        }
        (
            _,
            Action::CheckSend { .. } | Action::SeeClient { .. } | Action::MuteNotifications { .. },
        ) => "a user may do this for itself only",
        (
            _,
            Action::SeeRoom
            | Action::MuteUser
            | Action::ListMutedUsers
            | Action::FilterRecipients
            | Action::ListDirectory
            | Action::WriteDirectory
            | Action::Watch
            | Action::IssueUserToken,
        ) => "users may not do this; services and app admins may",
    };
    Error::new(Reason::PermissionDenied, message)
}

/// Whether this principal may take a backup. A backup holds the records of all apps, so a service
/// of some apps may not.
#[must_use]
pub fn may_back_up(principal: &Principal) -> bool {
    match principal {
        Principal::Service(service) => {
            service.scopes.contains(&Scope::Admin) && service.apps.iter().any(|app| app == "*")
        }
        Principal::AppAdmin { .. } | Principal::User { .. } => false,
    }
}

impl Principal {
    /// The subject that its calls count for in rate limits.
    #[must_use]
    pub fn rated(&self) -> RateSubject<'_> {
        match self {
            Self::Service(_) => RateSubject::Service,
            Self::AppAdmin { .. } => RateSubject::Admin,
            Self::User { user, .. } => RateSubject::User(user),
        }
    }

    /// Checks that the principal has access to this app. A refusal reveals nothing about the app.
    /// Errors: PERMISSION_DENIED, INVALID_API_KEY, INVALID_TOKEN.
    pub fn belongs_to(&self, key: &AppKey) -> Result<(), Error> {
        match self {
            Self::Service(service)
                if service.apps.iter().any(|app| app == "*" || app == key.as_str()) =>
            {
                Ok(())
            }
            Self::Service(_) => {
                Err(Error::new(Reason::PermissionDenied, "this service has no access to this app"))
            }
            Self::AppAdmin { app, .. } | Self::User { app, .. } if app == key => Ok(()),
            Self::AppAdmin { by: Credential::ApiKey, .. } => {
                Err(Error::new(Reason::InvalidApiKey, "the API key belongs to another app"))
            }
            Self::AppAdmin { .. } | Self::User { .. } => {
                Err(Error::new(Reason::InvalidToken, "the token belongs to another app"))
            }
        }
    }

    /// The actor, as stored in records and events.
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Service(service) => format!("service:{}", service.name),
            Self::AppAdmin { .. } => "app".to_owned(),
            Self::User { user, .. } => format!("user:{user}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(key: &str) -> AppKey {
        AppKey::parse(key.to_owned()).unwrap_or_else(|error| unreachable!("{error}"))
    }

    fn service(scopes: &[Scope], apps: &[&str]) -> Principal {
        let apps = apps.iter().map(|app| (*app).to_owned()).collect();
        Principal::Service(Arc::new(ServiceAccount {
            name: "s".to_owned(),
            scopes: scopes.to_vec(),
            apps,
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// Each action, and whether it is allowed for: scope check, scope write, scope admin, app
    /// admin, the user itself or staff, another user.
    #[test]
    fn every_cell_of_the_permission_table() {
        let principals = [
            service(&[Scope::Check], &["*"]),
            service(&[Scope::Write], &["*"]),
            service(&[Scope::Admin], &["*"]),
            Principal::AppAdmin { app: app("a"), by: Credential::Token },
            Principal::User { app: app("a"), user: "me".to_owned() },
            Principal::User { app: app("a"), user: "other".to_owned() },
        ];
        let y = true;
        let n = false;
        let table = [
            (Action::CheckSend { user: "me" }, [y, n, n, y, y, n]),
            (Action::SeeRoom, [y, n, n, y, y, y]),
            (Action::ListRoom { is_staff: false }, [y, n, n, y, n, n]),
            (Action::ListRoom { is_staff: true }, [y, n, n, y, y, y]),
            (Action::Moderate { is_staff: false }, [n, y, n, y, n, n]),
            (Action::Moderate { is_staff: true }, [n, y, n, y, y, y]),
            (Action::MuteUser, [n, y, n, y, n, n]),
            (Action::ListMutedUsers, [y, n, n, y, n, n]),
            (Action::FilterRecipients, [y, n, n, y, n, n]),
            (Action::SeeClient { user: "me" }, [y, n, n, y, y, n]),
            (Action::MuteNotifications { user: "me" }, [n, y, n, y, y, n]),
            (Action::ListDirectory, [y, n, n, y, n, n]),
            (Action::WriteDirectory, [n, n, y, y, n, n]),
            (Action::Watch, [y, n, n, y, n, n]),
            (Action::ListEvents { is_staff: false }, [y, n, n, y, n, n]),
            (Action::ListEvents { is_staff: true }, [y, n, n, y, y, y]),
            (Action::IssueUserToken, [n, y, n, y, n, n]),
        ];
        for (action, expected) in table {
            let allowed = principals.each_ref().map(|principal| may(principal, action));
            assert_eq!(allowed, expected, "{action:?}");
        }
    }

    #[test]
    fn a_backup_needs_the_scope_admin_in_all_apps() {
        assert!(may_back_up(&service(&[Scope::Check, Scope::Admin], &["a", "*"])));
        for other in [
            service(&[Scope::Check, Scope::Write], &["*"]),
            service(&[Scope::Admin], &["a", "b"]),
            Principal::AppAdmin { app: app("a"), by: Credential::Token },
            Principal::User { app: app("a"), user: "me".to_owned() },
        ] {
            assert!(!may_back_up(&other), "{other:?}");
        }
    }

    #[test]
    fn callers_have_access_to_their_own_apps_only() {
        let refusal = |principal: Principal| {
            principal.belongs_to(&app("a#b")).err().map(|error| error.reason)
        };
        assert_eq!(refusal(service(&[], &["*"])), None);
        assert_eq!(refusal(service(&[], &["x", "a#b"])), None);
        assert_eq!(refusal(service(&[], &["a"])), Some(Reason::PermissionDenied));
        assert_eq!(refusal(Principal::AppAdmin { app: app("a#b"), by: Credential::Token }), None);
        assert_eq!(
            refusal(Principal::AppAdmin { app: app("a"), by: Credential::Token }),
            Some(Reason::InvalidToken)
        );
        assert_eq!(
            refusal(Principal::AppAdmin { app: app("a"), by: Credential::ApiKey }),
            Some(Reason::InvalidApiKey)
        );
        assert_eq!(
            refusal(Principal::User { app: app("a"), user: "u".to_owned() }),
            Some(Reason::InvalidToken)
        );
    }
}

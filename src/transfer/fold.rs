//! Folds user ids of an import in apps where `Aa` and `aa` are the same user, as the service folds
//! the ids of its callers. Otherwise an imported mute of `Aa` would have no effect, and could not
//! be removed.
//!
//! Nothing is guessed. If an app is not in the configuration and folds by default, an id that is
//! not folded is a fault.

use std::collections::HashMap;

use super::line::Line;
use crate::{
    auth::apps::{self, AppConfig},
    model::UserId,
};

/// Whether user ids are folded, by app key. Has the configured apps only.
#[derive(Default)]
pub struct Folds(HashMap<String, bool>);

impl Folds {
    /// From the configuration of these apps.
    #[must_use]
    pub fn of(apps: &[AppConfig]) -> Self {
        Self(apps.iter().map(|app| (app.key.clone(), app.folds_users())).collect())
    }

    /// Folds the user ids of a line. Errors: a message for a person.
    pub(super) fn fold(&self, line: &mut Line) -> Result<(), String> {
        let mut unfolded = None;
        line.for_each_user(|app, user| {
            if user.is_empty() {
                return;
            }
            let Ok(folded) = UserId::parse(user.clone(), true) else { return };
            match self.0.get(app) {
                Some(true) => *user = folded.into(),
                None if apps::folds_by_default(app) && folded.as_str() != user => {
                    unfolded = Some(user.clone())
                }
                Some(false) | None => {}
            }
        });
        let what = "is not folded (lower case, NFC), and it is unknown whether the app folds case: give the service's configuration with --config";
        unfolded.map_or(Ok(()), |user| Err(format!("the user id \"{user}\" {what}")))
    }
}

impl Line {
    /// Calls `visit` with the app and each user id of the record, except that of the actor.
    fn for_each_user(&mut self, mut visit: impl FnMut(&str, &mut String)) {
        match self {
            Self::Header(_) | Self::End(_) => {}
            Self::Room(line) => {
                std::iter::once(&mut line.owner)
                    .chain(&mut line.admins)
                    .for_each(|user| visit(&line.app, user));
            }
            Self::Client(line) => visit(&line.app, &mut line.user),
            Self::Ban(line)
            | Self::MemberMute(line)
            | Self::Allowed(line)
            | Self::NotificationMute(line)
            | Self::UserMute(line) => line.user.iter_mut().for_each(|user| visit(&line.app, user)),
        }
    }
}

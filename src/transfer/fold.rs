//! Which apps take `Aa` and `aa` for the same user: in those, ids of an export are folded to lower
//! case, as the service folds those of its callers. Otherwise an imported mute of `Aa` would have
//! no effect, and could not be removed.
//!
//! Nothing is guessed: where the configuration does not say it, and the service would fold unless
//! it was told not to, an id that is not in lower case is a fault.

use std::collections::HashMap;

use super::line::Line;
use crate::{
    auth::apps::{self, AppConfig},
    model::UserId,
};

/// Whether the users of an app are folded, by the key of the app; of those that are known.
#[derive(Default)]
pub struct Folds(HashMap<String, bool>);

impl Folds {
    /// As these apps are configured.
    #[must_use]
    pub fn of(apps: &[AppConfig]) -> Self {
        Self(apps.iter().map(|app| (app.key.clone(), app.folds_users())).collect())
    }

    /// Folds the users of a line. Errors: what is wrong with it, in a sentence.
    pub(super) fn fold(&self, line: &mut Line) -> Result<(), String> {
        let mut wrong = None;
        line.each_user(|app, user| {
            if user.is_empty() {
                return;
            }
            let Ok(folded) = UserId::parse(user.clone(), true) else { return };
            match self.0.get(app) {
                Some(true) => *user = folded.into(),
                None if apps::folds_by_default(app) && folded.as_str() != user => {
                    wrong = Some(user.clone())
                }
                Some(false) | None => {}
            }
        });
        let what = "is not as an app that folds case has it (lower case, NFC), and nothing says whether the app folds case: name its configuration with --config";
        wrong.map_or(Ok(()), |user| Err(format!("the user id \"{user}\" {what}")))
    }
}

impl Line {
    /// Shows each user that is a part of the record, with the app.
    fn each_user(&mut self, mut see: impl FnMut(&str, &mut String)) {
        match self {
            Self::Header(_) | Self::End(_) => {}
            Self::Room(line) => {
                std::iter::once(&mut line.owner)
                    .chain(&mut line.admins)
                    .for_each(|user| see(&line.app, user));
            }
            Self::Client(line) => see(&line.app, &mut line.user),
            Self::Ban(line)
            | Self::MemberMute(line)
            | Self::Allowed(line)
            | Self::NotificationMute(line)
            | Self::UserMute(line) => line.user.iter_mut().for_each(|user| see(&line.app, user)),
        }
    }
}

//! The suggestions of an error in usage: the nearest first, and only a few, and what is missing.

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, Error},
};

const MAX_SUGGESTIONS: usize = 3;

/// clap lists everything that is similar, and the nearest last.
pub(super) fn nearest_first(mut error: Error) -> Error {
    for kind in
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
    {
        if let Some(ContextValue::Strings(mut names)) = error.remove(kind) {
            names.reverse();
            names.truncate(MAX_SUGGESTIONS);
            error.insert(kind, ContextValue::Strings(names));
        }
    }
    error
}

/// `ctl room ROOM` and `ctl user USER` lack the command.
pub(super) fn with_missing_show(mut error: Error) -> Error {
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    let object = ["room", "user"].into_iter().find(|it| usage.contains(&format!(" ctl {it} ")));
    let Some(ContextValue::String(id)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    if let Some(object) = object {
        let tip = format!("to see a {object}, write 'mute-service ctl {object} show {id}'");
        let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

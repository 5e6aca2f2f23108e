//! The suggestions of an error in usage: the nearest first, and only a few.

use clap::error::{ContextKind, ContextValue, Error};

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

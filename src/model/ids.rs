//! Ids, parsed once where a call enters. No id contains a control character, so codecs may separate
//! ids by NUL.

use std::{borrow::Cow, fmt};

use unicode_normalization::UnicodeNormalization as _;

use crate::error::Error;

const MAX_APP_PART_CHARS: usize = 64;
const MAX_ROOM_BYTES: usize = 128;
const MAX_USER_CHARS: usize = 64;
/// A UUID with its hyphens.
const MAX_REQUEST_CHARS: usize = 36;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// The key of an app: one or two parts of 1..64 characters of `A-Z a-z 0-9 _ . -`, joined by
    /// `#`.
    AppKey
}
id! {
    /// A room inside an app: 1..128 bytes without control characters.
    RoomId
}
id! {
    /// A user inside an app: 1..64 characters without control characters; lower case where the app
    /// is case-insensitive.
    UserId
}

/// A user id, borrowed from the call unless its case has to be folded. For calls with many users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRef<'a>(Cow<'a, str>);

id! {
    /// The id that a caller has given to a request in an app: 1..36 printable ASCII characters
    /// (AIP-155).
    RequestId
}

impl AppKey {
    /// Errors: INVALID_ARGUMENT on `app`.
    pub fn parse(raw: String) -> Result<Self, Error> {
        let is_well_formed = |part: &str| {
            (1..=MAX_APP_PART_CHARS).contains(&part.len())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let (first, second) =
            raw.split_once('#').map_or((raw.as_str(), None), |(a, b)| (a, Some(b)));
        if is_well_formed(first) && second.is_none_or(is_well_formed) {
            Ok(Self(raw))
        } else {
            Err(Error::invalid(
                "app",
                "an app key is `name` or `org#name`, each part 1 to 64 characters of A-Z a-z 0-9 _ . -",
            ))
        }
    }
}

impl RoomId {
    /// Errors: INVALID_ARGUMENT on `room`.
    pub fn parse(raw: String) -> Result<Self, Error> {
        if (1..=MAX_ROOM_BYTES).contains(&raw.len()) && !has_control(&raw) {
            Ok(Self(raw))
        } else {
            Err(Error::invalid("room", "a room id is 1 to 128 bytes without control characters"))
        }
    }
}

impl UserId {
    /// With `fold`, changes it to lower case and to its composed form (NFC), so that all spellings
    /// of a user are equal. Errors: INVALID_ARGUMENT on `user`.
    pub fn parse(mut raw: String, fold: bool) -> Result<Self, Error> {
        if fold {
            if raw.is_ascii() {
                raw.make_ascii_lowercase();
            } else {
                raw = folded(&raw);
            }
        }
        check_user(&raw)?;
        Ok(Self(raw))
    }
}

impl<'a> UserRef<'a> {
    /// As [`UserId::parse`]. Folding copies only a text that has capitals or is not ASCII.
    pub fn parse(raw: &'a str, fold: bool) -> Result<Self, Error> {
        let is_folded =
            !fold || (raw.is_ascii() && !raw.bytes().any(|byte| byte.is_ascii_uppercase()));
        let id = if is_folded { Cow::Borrowed(raw) } else { Cow::Owned(folded(raw)) };
        check_user(&id)?;
        Ok(Self(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_user(id: &str) -> Result<(), Error> {
    // The cheap test first: there are at most as many characters as bytes.
    let is_short = id.len() <= MAX_USER_CHARS || id.chars().count() <= MAX_USER_CHARS;
    if !id.is_empty() && is_short && !has_control(id) {
        Ok(())
    } else {
        Err(Error::invalid("user", "a user id is 1 to 64 characters without control characters"))
    }
}

impl RequestId {
    /// Errors: INVALID_ARGUMENT on `request_id`.
    pub fn parse(raw: String) -> Result<Self, Error> {
        if (1..=MAX_REQUEST_CHARS).contains(&raw.len())
            && raw.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        {
            Ok(Self(raw))
        } else {
            Err(Error::invalid(
                "request_id",
                "a request id (Idempotency-Key) is 1 to 36 printable ASCII characters",
            ))
        }
    }
}

/// Composes (NFC), maps each character to lower case (Unicode, without a language), and composes
/// again. The kelvin sign becomes `k`, a dotted capital `İ` becomes `i` with its dot, `ß` stays
/// `ß`.
fn folded(text: &str) -> String {
    let lower = text.nfc().collect::<String>().to_lowercase();
    // Lower case has a form of sigma of its own at the end of a word.
    lower.nfc().map(|character| if character == 'ς' { 'σ' } else { character }).collect()
}

fn has_control(text: &str) -> bool {
    if text.is_ascii() {
        text.bytes().any(|byte| byte.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_key_is_one_or_two_parts() {
        for good in ["a", "SampleApp", "easemob-demo#testapp", &"x".repeat(64)] {
            assert!(AppKey::parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "#", "a#", "#a", "a#b#c", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(AppKey::parse(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn room_and_user_ids_have_limits() {
        assert!(RoomId::parse("ü".repeat(64)).is_ok());
        assert!(RoomId::parse("ü".repeat(64) + "x").is_err());
        assert!(UserId::parse("ü".repeat(64), false).is_ok());
        assert!(UserId::parse("ü".repeat(65), false).is_err());
        for bad in ["", "a\0b", "a\r\nb", "\u{7f}", "a\u{85}"] {
            assert!(RoomId::parse(bad.to_owned()).is_err(), "{bad:?}");
            assert!(UserId::parse(bad.to_owned(), false).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_borrowed_user_id_is_the_same_as_an_owned_one() {
        for raw in
            ["aa", "Aa", "ÄA", "ä", "", "a\0b", &"x".repeat(64), &"X".repeat(65), &"İ".repeat(33)]
        {
            for fold in [true, false] {
                let owned = UserId::parse(raw.to_owned(), fold).ok().map(String::from);
                let borrowed = UserRef::parse(raw, fold).ok().map(|user| user.as_str().to_owned());
                assert_eq!(borrowed, owned, "{raw:?} {fold}");
            }
        }
        assert!(matches!(UserRef::parse("aa", true), Ok(UserRef(Cow::Borrowed(_)))));
        assert!(matches!(UserRef::parse("Aa", false), Ok(UserRef(Cow::Borrowed(_)))));
    }

    #[test]
    fn a_request_id_is_short_and_printable() {
        for good in ["1", "a b~", "123e4567-e89b-12d3-a456-426614174000"] {
            assert!(RequestId::parse(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "ü", "a\tb", "\u{7f}", &"x".repeat(37)] {
            assert!(RequestId::parse(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn case_is_folded_only_on_request() -> Result<(), Error> {
        assert_eq!(UserId::parse("AaÄ".to_owned(), true)?.as_str(), "aaä");
        assert_eq!(UserId::parse("Aa".to_owned(), false)?.as_str(), "Aa");
        Ok(())
    }

    #[test]
    fn folding_makes_all_unicode_spellings_one_user() -> Result<(), Error> {
        // A letter with a combining mark; the kelvin and angstrom signs; Hangul in its parts; a
        // dotted capital, whose lower case is two characters; two forms of sigma.
        for (raw, folded) in [
            ("Zoe\u{308}", "zoë"),
            ("\u{212a}\u{212b}", "kå"),
            ("\u{1112}\u{1161}\u{11ab}", "한"),
            ("\u{130}", "i\u{307}"),
            ("ẞß", "ßß"),
            ("ΝΙΚΟΣ", "νικοσ"),
            ("νικος", "νικοσ"),
        ] {
            assert_eq!(UserId::parse(raw.to_owned(), true)?.as_str(), folded);
            assert_eq!(UserId::parse(folded.to_owned(), true)?.as_str(), folded);
            assert_eq!(UserRef::parse(raw, true)?.as_str(), folded);
            assert_eq!(UserId::parse(raw.to_owned(), false)?.as_str(), raw);
        }
        Ok(())
    }
}

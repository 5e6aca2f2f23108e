//! Secrets and their hashes. A secret does not show in `Debug`, and hashes are compared in constant
//! time.

use std::fmt::{self, Write as _};

use serde::{Deserialize, de::IntoDeserializer as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A secret that is needed in plain text, such as the key that signs an app's tokens.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The SHA-256 of a key that is only compared. Keys are random and long, so a fast hash is enough;
/// `mute-service hash-key` says so.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of this key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads `sha256:` and 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?;
        let mut hash = [0; 32];
        base16ct::mixed::decode(hex, &mut hash).ok()?;
        Some(Self(hash))
    }

    /// Whether this is the hash of that key, in constant time.
    #[must_use]
    pub fn is_of(&self, key: &str) -> bool {
        self.equals(&Self::of(key))
    }

    /// Whether both are hashes of the same key, in constant time.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", base16ct::lower::encode_string(&self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('#')
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let string = String::deserialize(deserializer)?;
        Self::parse(&string).ok_or_else(|| {
            serde::de::Error::custom(
                "a hash is `sha256:` and 64 hex digits; \
                 `mute-service hash-key` computes it from a key",
            )
        })
    }
}

/// Deserializes one key, or two during a rotation. The first is the new one.
pub fn one_or_two<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct OneOrTwo<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for OneOrTwo<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one string, or two: the new one and the old one")
        }

        fn visit_str<E: serde::de::Error>(self, string: &str) -> Result<Vec<T>, E> {
            T::deserialize(string.into_deserializer()).map(|one| vec![one])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut strings: A,
        ) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(string) = strings.next_element()? {
                items.push(string);
            }
            if matches!(items.len(), 1 | 2) {
                Ok(items)
            } else {
                Err(serde::de::Error::invalid_length(items.len(), &self))
            }
        }
    }
    deserializer.deserialize_any(OneOrTwo(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_round_trips_and_matches_only_its_key() {
        let hash = KeyHash::of("dev-api-key");
        assert_eq!(KeyHash::parse(&hash.to_string()), Some(hash.clone()));
        assert!(hash.is_of("dev-api-key"));
        assert!(!hash.is_of("dev-api-kez"));
        let upper = hash.to_string().to_uppercase().replace("SHA", "sha");
        assert_eq!(KeyHash::parse(&upper), Some(hash));
        let of = |digits: &str| format!("sha256:{}", digits.repeat(32));
        let zeros = "0".repeat(64);
        for bad in ["", "sha256:", "sha256:zz", &of("gg"), &of("+f"), &of("0"), &of("000"), &zeros]
        {
            assert_eq!(KeyHash::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "(secret)");
    }
}

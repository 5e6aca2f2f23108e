//! The public keys of an issuer: a JWK set (RFC 7517), and which algorithm each key is for.

use std::collections::HashMap;

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// RSA keys that are shorter have been broken, or may be soon.
const MIN_RSA_BITS: usize = 2_048;

/// The keys of one set, by `kid`.
#[derive(Default)]
pub(super) struct Keys {
    by_id: HashMap<String, (Algorithm, DecodingKey)>,
    text: Vec<u8>,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Keys {
    /// Reads a set. A key that cannot be used is left out: one for encryption, a secret one, a kind
    /// that is not known. Errors: a sentence, where no key is left.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let set: Set =
            serde_json::from_slice(text).map_err(|error| format!("it is no JWK set: {error}"))?;
        let mut by_id = HashMap::new();
        for key in set.keys {
            match usable(key) {
                Ok((id, algorithm, key)) => drop(by_id.insert(id, (algorithm, key))),
                Err(why) => tracing::debug!(why, "a key of the set is not used"),
            }
        }
        if by_id.is_empty() {
            return Err(
                "no key of the set can be used: each needs a `kid`, and to be for signatures with RSA, P-256, P-384 or Ed25519"
                    .to_owned(),
            );
        }
        Ok(Self { by_id, text: text.to_owned() })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is a key of that id.
    pub(super) fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Whether the signature of the token is that of the key it names. The key says which algorithm
    /// that is; a token that names another, or demands what is not known here (`crit`), is not
    /// believed.
    pub(super) fn have_signed(&self, token: &str, header: &Header) -> bool {
        let Some((algorithm, key)) = header.kid.as_ref().and_then(|id| self.by_id.get(id)) else {
            return false;
        };
        if header.alg != *algorithm || header.crit.is_some() {
            return false;
        }
        let mut validation = Validation::new(*algorithm);
        // Claims are looked at by the caller, with the service's one clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        jsonwebtoken::decode::<serde::de::IgnoredAny>(token, key, &validation).is_ok()
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

fn usable(key: Value) -> Result<(String, Algorithm, DecodingKey), String> {
    let key: Jwk = serde_json::from_value(key).map_err(|error| error.to_string())?;
    let id = key.common.key_id.clone().ok_or("it has no kid")?;
    if !matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err(format!("{id}: it is not for signatures"));
    }
    let algorithm = algorithm(&key)
        .ok_or_else(|| format!("{id}: its kind or algorithm is not one that is taken"))?;
    let key = DecodingKey::from_jwk(&key).map_err(|error| format!("{id}: {error}"))?;
    if let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
        && n.len() * 8 < MIN_RSA_BITS
    {
        return Err(format!("{id}: it is shorter than {MIN_RSA_BITS} bits"));
    }
    Ok((id, algorithm, key))
}

/// The one algorithm that the key is for: what it says, where that goes with its kind.
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    let said = key.common.key_algorithm;
    let only = |of_kind, algorithm| (said.is_none() || said == Some(of_kind)).then_some(algorithm);
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => match said {
            None | Some(KeyAlgorithm::RS256) => Some(Algorithm::RS256),
            Some(KeyAlgorithm::RS384) => Some(Algorithm::RS384),
            Some(KeyAlgorithm::RS512) => Some(Algorithm::RS512),
            Some(KeyAlgorithm::PS256) => Some(Algorithm::PS256),
            Some(KeyAlgorithm::PS384) => Some(Algorithm::PS384),
            Some(KeyAlgorithm::PS512) => Some(Algorithm::PS512),
            Some(_) => None,
        },
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => only(KeyAlgorithm::ES256, Algorithm::ES256),
            EllipticCurve::P384 => only(KeyAlgorithm::ES384, Algorithm::ES384),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            only(KeyAlgorithm::EdDSA, Algorithm::EdDSA)
        }
        _ => None,
    }
}

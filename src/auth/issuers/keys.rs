//! The public keys of an issuer: a JWK set (RFC 7517), and the algorithm of each key.

use std::collections::HashMap;

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use crate::error::Refusal;

/// The minimum size of RSA keys; shorter ones are not secure.
const MIN_RSA_BITS: usize = 2_048;

/// The usable keys of a set, by `kid`.
#[derive(Default)]
pub(super) struct Keys {
    by_id: HashMap<String, (Algorithm, DecodingKey)>,
    json: Vec<u8>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

impl Keys {
    /// Parses a set. Unusable keys are skipped: encryption keys, secret keys, unsupported types.
    /// Errors: a sentence, if no key is left.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let set: JwkSet =
            serde_json::from_slice(json).map_err(|error| format!("not a JWK set: {error}"))?;
        let mut by_id = HashMap::new();
        for key in set.keys {
            match parse_key(key) {
                Ok((id, algorithm, key)) => drop(by_id.insert(id, (algorithm, key))),
                Err(reason) => tracing::debug!(why = reason, "a key of the set was skipped"),
            }
        }
        if by_id.is_empty() {
            return Err(
                "no usable key in the set: a key needs a `kid` and must be for signatures with \
                 RSA, P-256, P-384 or Ed25519"
                    .to_owned(),
            );
        }
        Ok(Self { by_id, json: json.to_owned() })
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is a key with this id.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Verifies the signature of the token with the key that it names. The key determines the
    /// algorithm; a token with another algorithm, or with `crit` (extensions that are required), is
    /// refused.
    pub(super) fn verify_signature(&self, token: &str, header: &Header) -> Result<(), Refusal> {
        let key = header.kid.as_ref().and_then(|id| self.by_id.get(id));
        let (algorithm, key) = key.ok_or(Refusal::UnknownKey)?;
        if header.alg != *algorithm {
            return Err(Refusal::WrongAlgorithm);
        }
        if header.crit.is_some() {
            return Err(Refusal::CriticalHeader);
        }
        let mut validation = Validation::new(*algorithm);
        // The caller checks the claims, with the service's clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        jsonwebtoken::decode::<serde::de::IgnoredAny>(token, key, &validation)
            .map(drop)
            .map_err(|_| Refusal::WrongSignature)
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

fn parse_key(key: Value) -> Result<(String, Algorithm, DecodingKey), String> {
    let key: Jwk = serde_json::from_value(key).map_err(|error| error.to_string())?;
    let id = key.common.key_id.clone().ok_or("no kid")?;
    if !matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err(format!("{id}: not for signatures"));
    }
    let algorithm =
        algorithm(&key).ok_or_else(|| format!("{id}: unsupported type or algorithm"))?;
    let key = DecodingKey::from_jwk(&key).map_err(|error| format!("{id}: {error}"))?;
    if let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
        && n.len() * 8 < MIN_RSA_BITS
    {
        return Err(format!("{id}: shorter than {MIN_RSA_BITS} bits"));
    }
    Ok((id, algorithm, key))
}

/// The one algorithm of the key: the declared one, if it fits the key's type.
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    let declared = key.common.key_algorithm;
    let if_declared = |expected, algorithm| {
        (declared.is_none() || declared == Some(expected)).then_some(algorithm)
    };
    match &key.algorithm {
        AlgorithmParameters::RSA(_) => match declared {
            None | Some(KeyAlgorithm::RS256) => Some(Algorithm::RS256),
            Some(KeyAlgorithm::RS384) => Some(Algorithm::RS384),
            Some(KeyAlgorithm::RS512) => Some(Algorithm::RS512),
            Some(KeyAlgorithm::PS256) => Some(Algorithm::PS256),
            Some(KeyAlgorithm::PS384) => Some(Algorithm::PS384),
            Some(KeyAlgorithm::PS512) => Some(Algorithm::PS512),
            Some(_) => None,
        },
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => if_declared(KeyAlgorithm::ES256, Algorithm::ES256),
            EllipticCurve::P384 => if_declared(KeyAlgorithm::ES384, Algorithm::ES384),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            if_declared(KeyAlgorithm::EdDSA, Algorithm::EdDSA)
        }
        _ => None,
    }
}

//! Why a credential was refused.
//!
//! The caller learns the reason of the error table and few words, so that a guesser learns nothing.
//! The operator finds the cause in the log, at debug, and in a metric.

use std::time::Duration;

use super::{Error, Reason};

/// What is wrong with a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No app has this `IM-API-KEY`.
    UnknownApiKey,
    /// No app has this `IM-CLIENT-KEY`.
    UnknownClientKey,
    /// No service has a name of this client certificate.
    UnknownCertificate,
    /// The client certificate is expired, or of another authority.
    UntrustedCertificate,
    /// The client id or the client secret of a token request is wrong.
    WrongClientSecret,
    /// It is not a JWT.
    NotAToken,
    /// Its header requires extensions (`crit`).
    CriticalHeader,
    /// Its issuer (`iss`) is not configured, and it names no app.
    UnknownIssuer,
    /// Its app is not configured, or has no `token_secret`.
    UnknownApp,
    /// It names no key (`kid`) of its issuer, or one that the issuer does not publish.
    UnknownKey,
    /// It is not signed with the algorithm of its key.
    WrongAlgorithm,
    /// The signature is of another key or of other claims.
    WrongSignature,
    /// A claim that it needs is missing, or of another type.
    MissingClaim,
    /// It is for another service (`aud`).
    WrongAudience,
    /// It is for another app.
    WrongApp,
    /// Its time is over (`exp`).
    Expired,
    /// Its time has not come (`nbf`).
    NotYetValid,
    /// Its id or its time of issue is revoked.
    Revoked,
    /// It is valid, but no service has its subject (`sub`).
    UnknownSubject,
    /// It was not looked at: too many tokens from this address were invalid.
    TooMany,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::UnknownApiKey,
        Self::UnknownClientKey,
        Self::UnknownCertificate,
        Self::UntrustedCertificate,
        Self::WrongClientSecret,
        Self::NotAToken,
        Self::CriticalHeader,
        Self::UnknownIssuer,
        Self::UnknownApp,
        Self::UnknownKey,
        Self::WrongAlgorithm,
        Self::WrongSignature,
        Self::MissingClaim,
        Self::WrongAudience,
        Self::WrongApp,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::UnknownSubject,
        Self::TooMany,
    ];

    /// Its name in the log and in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownApiKey => "unknown_api_key",
            Self::UnknownClientKey => "unknown_client_key",
            Self::UnknownCertificate => "unknown_certificate",
            Self::UntrustedCertificate => "untrusted_certificate",
            Self::WrongClientSecret => "wrong_client_secret",
            Self::NotAToken => "not_a_token",
            Self::CriticalHeader => "critical_header",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownApp => "unknown_app",
            Self::UnknownKey => "unknown_key",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::WrongSignature => "wrong_signature",
            Self::MissingClaim => "missing_claim",
            Self::WrongAudience => "wrong_audience",
            Self::WrongApp => "wrong_app",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::UnknownSubject => "unknown_subject",
            Self::TooMany => "too_many",
        }
    }
}

impl From<Refusal> for Error {
    /// What the caller gets.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownApiKey => Self::new(Reason::InvalidApiKey, "invalid API key"),
            Refusal::UnknownClientKey => Self::new(Reason::InvalidClientKey, "invalid client key"),
            Refusal::UnknownCertificate | Refusal::UntrustedCertificate => {
                Self::new(Reason::MissingToken, "no token was sent")
            }
            Refusal::WrongClientSecret => {
                Self::new(Reason::InvalidCredentials, "invalid client id or client secret")
            }
            Refusal::NotAToken => {
                Self::new(Reason::MalformedToken, "malformed token: it is not a JWT")
            }
            Refusal::CriticalHeader
            | Refusal::UnknownIssuer
            | Refusal::UnknownApp
            | Refusal::UnknownKey
            | Refusal::WrongAlgorithm
            | Refusal::WrongSignature
            | Refusal::MissingClaim
            | Refusal::WrongAudience
            | Refusal::WrongApp
            | Refusal::Expired
            | Refusal::NotYetValid
            | Refusal::Revoked => {
                Self::new(Reason::InvalidToken, "the token is invalid or has expired")
            }
            Refusal::UnknownSubject => Self::new(
                Reason::PermissionDenied,
                "the token is valid, but its subject is not a configured service",
            ),
            Refusal::TooMany => Self {
                retry_after: Some(Duration::from_secs(1)),
                ..Self::new(
                    Reason::RateLimited,
                    "too many invalid tokens from this address; try again later",
                )
            },
        }
    }
}

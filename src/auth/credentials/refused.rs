//! Reports refused credentials to the operator: a count by cause, and a line at debug with what the
//! token claims of itself, so that its sender can be found. The credential is never in it.

use std::net::SocketAddr;

use http::{HeaderMap, header::AUTHORIZATION};
use tokio_rustls::rustls::CertificateError;
use tracing::Level;

use super::request::{
    CertNames, IM_API_KEY, IM_AUTHORIZATION, IM_CLIENT_KEY, header, strip_bearer,
};
use crate::{
    auth::{Credential, Principal, token::Unverified},
    error::{Error, Refusal},
    model::AppKey,
    telemetry::metrics::METRICS,
};

/// How much of a claim is logged.
const MAX_CHARS: usize = 200;

/// Reports the credential in these headers. Returns the error for the caller.
pub(super) fn credential(refusal: Refusal, headers: &HeaderMap) -> Error {
    METRICS.credential_refused(refusal);
    if tracing::enabled!(Level::DEBUG) {
        let (credential, token) = if headers.contains_key(&IM_API_KEY) {
            ("API key", None)
        } else if headers.contains_key(&IM_CLIENT_KEY) {
            ("client key and token", header(headers, &IM_AUTHORIZATION))
        } else {
            ("token", header(headers, &AUTHORIZATION))
        };
        let claims = token.and_then(|token| Unverified::read(strip_bearer(token)).ok());
        let claims = claims.as_ref();
        tracing::debug!(
            credential,
            cause = refusal.as_str(),
            issuer = claims.and_then(Unverified::issuer).map(cut),
            kid = claims.and_then(|claims| claims.signer.as_deref()).map(cut),
            app = claims.and_then(|claims| claims.app.as_deref()).map(cut),
            "a credential was refused"
        );
    }
    refusal.into()
}

/// Reports a certificate that belongs to no service. Returns the error for the caller.
pub(super) fn certificate(certificate: &CertNames) -> Error {
    let refusal = Refusal::UnknownCertificate;
    METRICS.credential_refused(refusal);
    let names = || certificate.0.join(", ");
    tracing::debug!(
        credential = "certificate",
        cause = refusal.as_str(),
        names = cut(&names()),
        "a credential was refused"
    );
    refusal.into()
}

/// Reports a wrong client id or secret of an app. Returns the error for the caller.
pub fn client_secret(app: &str) -> Error {
    let refusal = Refusal::WrongClientSecret;
    METRICS.credential_refused(refusal);
    tracing::debug!(
        credential = "client secret",
        cause = refusal.as_str(),
        app,
        "a credential was refused"
    );
    refusal.into()
}

/// Reports a credential that is valid, and not for the app of the call. A user is not named.
pub fn wrong_app(principal: &Principal, called: &str) {
    let refusal = Refusal::WrongApp;
    METRICS.credential_refused(refusal);
    let (credential, service, app) = match principal {
        Principal::Service(service) => ("service", Some(&service.name), None),
        Principal::AppAdmin { app, by: Credential::ApiKey } => ("API key", None, Some(app)),
        Principal::AppAdmin { app, by: Credential::Token } => ("app token", None, Some(app)),
        Principal::User { app, .. } => ("user token", None, Some(app)),
    };
    tracing::debug!(
        credential,
        cause = refusal.as_str(),
        service,
        app = app.map(AppKey::as_str),
        called,
        "a credential was refused"
    );
}

/// Reports a client certificate that the handshake refuses.
pub fn untrusted_certificate(peer: SocketAddr, error: &CertificateError) {
    let refusal = Refusal::UntrustedCertificate;
    METRICS.credential_refused(refusal);
    tracing::debug!(
        credential = "certificate",
        cause = refusal.as_str(),
        %peer,
        %error,
        "a credential was refused"
    );
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(MAX_CHARS).map_or(text, |(end, _)| &text[..end])
}

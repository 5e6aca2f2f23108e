//! The credentials in a request.

use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, header::AUTHORIZATION};

use crate::{
    auth::token::Unverified,
    error::{Error, Reason},
};

// Parsed once, because each call looks them up.
pub(super) static IM_API_KEY: HeaderName = HeaderName::from_static("im-api-key");
pub(super) static IM_CLIENT_KEY: HeaderName = HeaderName::from_static("im-client-key");
pub(super) static IM_AUTHORIZATION: HeaderName = HeaderName::from_static("im-authorization");

/// The credentials of a request, to check them again later.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    pub(super) headers: HeaderMap,
    pub(super) certificate: Option<Arc<CertNames>>,
}

/// The names in a client's certificate, in the extensions of its requests: its DNS names and URIs,
/// or its common name if it has neither.
#[derive(Debug, PartialEq, Eq)]
pub struct CertNames(pub Vec<String>);

impl Proof {
    /// The credentials of a request.
    #[must_use]
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let names = [&IM_API_KEY, &IM_CLIENT_KEY, &IM_AUTHORIZATION, &AUTHORIZATION];
        let headers = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
            .collect();
        Self { headers, certificate: extensions.get().cloned() }
    }

    /// The expiry that its token claims, in Unix milliseconds.
    pub(super) fn expires_ms(&self) -> Option<u64> {
        let header = [&IM_AUTHORIZATION, &AUTHORIZATION]
            .into_iter()
            .find_map(|name| header(&self.headers, name))?;
        Unverified::read(strip_bearer(header)).ok()?.ends_ms()
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    // Neither a value that is not text nor a repeated header is accepted: an intermediary may have
    // used the other value.
    Some(if values.next().is_some() {
        "\u{fffd}"
    } else {
        value.to_str().unwrap_or("\u{fffd}").trim()
    })
}

pub(super) fn strip_bearer(value: &str) -> &str {
    match value.split_at_checked(6) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        _ => value,
    }
}

pub(super) fn missing() -> Error {
    Error::new(Reason::MissingToken, "no token was sent")
}

//! From a request's headers to a principal: one tower layer, used by both listeners.
//!
//! The layer refuses nobody. It leaves [`Caller`] in the request's extensions, and the door to the
//! service refuses, in the caller's own protocol; what needs no credential (health, the token
//! endpoint) does not look at it.
//!
//! `IM-API-KEY` names app and admin. `IM-CLIENT-KEY` names the app, and `IM-Authorization` has the
//! user's token. `Authorization: Bearer` has a service token, ours or of an issuer, an app token,
//! or a user's token with the claim `app`. The first of them that is there counts; where none is,
//! the certificate that the client has shown.

use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, Request, header::AUTHORIZATION};
use tower::util::MapRequestLayer;

use super::{Principal, token::Unverified};
use crate::{
    error::{Error, Reason},
    limits::{
        concurrency::{Account, CallerKind},
        connection::peer_of,
        holder::Site,
    },
};

mod access;
mod config;
mod lookup;

pub use access::Access;
pub use config::ServiceConfig;
pub use lookup::Credentials;

// As they are looked for in each call: text would be read as a name each time.
static IM_API_KEY: HeaderName = HeaderName::from_static("im-api-key");
static IM_CLIENT_KEY: HeaderName = HeaderName::from_static("im-client-key");
static IM_AUTHORIZATION: HeaderName = HeaderName::from_static("im-authorization");

/// Who is calling, or why that is not known.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal, or one of the UNAUTHENTICATED reasons.
    pub principal: Result<Principal, Error>,
    /// For how many calls this one counts: for none where it was counted with one before, of the
    /// same REST call.
    pub calls: u32,
    /// From where; nothing where others are behind that address, and nobody says who.
    pub site: Option<Site>,
    /// On whose account it holds what it does, until the call takes that.
    pub account: Account,
}

/// What a caller is known by.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    headers: HeaderMap,
    certificate: Option<Arc<CertNames>>,
}

impl Caller {
    /// Whoever sent no credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { calls: 1, ..Self::of(Err(missing())) }
    }

    /// Of a call within the process, which counts for none and holds nothing.
    #[must_use]
    pub fn of(principal: Result<Principal, Error>) -> Self {
        Self { principal, calls: 0, site: None, account: Account::default() }
    }

    /// On whose account a call holds what it does.
    pub fn take_account(extensions: &mut Extensions) -> Account {
        extensions
            .get_mut::<Self>()
            .map(|caller| std::mem::take(&mut caller.account))
            .unwrap_or_default()
    }

    /// Whether an internal service asks.
    #[must_use]
    pub fn asks_as_service(extensions: &Extensions) -> bool {
        extensions
            .get()
            .is_some_and(|caller: &Self| matches!(caller.principal, Ok(Principal::Service(_))))
    }

    /// The same caller, whose call counts for so many.
    #[must_use]
    pub fn counting(&self, calls: u32) -> Self {
        Self { calls, ..self.clone() }
    }
}

/// What a client's certificate says it is, in the extensions of its requests: the DNS names and
/// URIs it is for; its common name, where it has none of them.
#[derive(Debug, PartialEq, Eq)]
pub struct CertNames(pub Vec<String>);

impl Proof {
    /// What a request is sent with.
    #[must_use]
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let names = [&IM_API_KEY, &IM_CLIENT_KEY, &IM_AUTHORIZATION, &AUTHORIZATION];
        let headers = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
            .collect();
        Self { headers, certificate: extensions.get().cloned() }
    }

    /// When its token says that it ends, in Unix milliseconds.
    fn ends_ms(&self) -> Option<u64> {
        let header = [&IM_AUTHORIZATION, &AUTHORIZATION]
            .into_iter()
            .find_map(|name| header(&self.headers, name))?;
        Unverified::read(strip_bearer(header)).ok()?.ends_ms()
    }
}

/// The layer.
pub fn layer<B>(access: Arc<Access>) -> MapRequestLayer<impl Fn(Request<B>) -> Request<B> + Clone> {
    MapRequestLayer::new(move |mut request: Request<B>| {
        let certificate = request.extensions().get::<Arc<CertNames>>();
        let peer = peer_of(request.extensions());
        let site = peer.as_ref().map(|peer| peer.site());
        let principal = access.known_by(request.headers(), certificate.map(AsRef::as_ref), site);
        let caller = principal
            .as_ref()
            .map_or(CallerKind::Anonymous, |principal| access.caller_kind(principal));
        request.extensions_mut().insert(Caller {
            principal,
            calls: 1,
            site,
            account: Account { peer, caller },
        });
        request
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    // What is no text is no credential, nor are two of one kind: whoever is in between may have
    // looked at the other.
    Some(if values.next().is_some() {
        "\u{fffd}"
    } else {
        value.to_str().unwrap_or("\u{fffd}").trim()
    })
}

fn strip_bearer(value: &str) -> &str {
    match value.split_at_checked(6) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start(),
        _ => value,
    }
}

fn missing() -> Error {
    Error::new(Reason::MissingToken, "no token was sent")
}

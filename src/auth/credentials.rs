//! Authentication: from the headers of a request to a principal, in one tower layer in front of
//! both listeners.
//!
//! The layer refuses no request. It puts [`Caller`] into the extensions of the request. gRPC and
//! REST refuse, each in its own protocol; what needs no credentials (health, the token endpoint)
//! ignores it.
//!
//! `IM-API-KEY` identifies an app's admin. `IM-CLIENT-KEY` identifies the app, and
//! `IM-Authorization` has the user's token. `Authorization: Bearer` has a service token (ours or an
//! issuer's), an app token, or a user token with the claim `app`. The first of these headers that
//! is present counts; without any, the client certificate does.

use std::sync::Arc;

use http::{Extensions, Request};
use tower::util::MapRequestLayer;

use super::Principal;
use crate::{
    error::Error,
    limits::{
        concurrency::{Account, CallerKind},
        connection::peer_of,
        holder::Site,
    },
};

mod access;
mod config;
mod lookup;
pub mod refused;
mod request;

pub use access::Access;
pub use config::ServiceConfig;
pub use lookup::Credentials;
use request::missing;
pub use request::{CertNames, Proof};

/// The caller of a request, or why it is not authenticated.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal, or one of the UNAUTHENTICATED reasons.
    pub principal: Result<Principal, Error>,
    /// How many calls this one counts for in rate limits; 0 if it is part of a REST call that was
    /// counted before.
    pub calls: u32,
    /// The caller's site; `None` behind a trusted proxy that does not report it.
    pub site: Option<Site>,
    /// Whose concurrency limits it counts against; the call takes it.
    pub account: Account,
}

impl Caller {
    /// A caller without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { calls: 1, ..Self::of(Err(missing())) }
    }

    /// The caller of a call within the process, which counts for no rate limit and holds nothing.
    #[must_use]
    pub fn of(principal: Result<Principal, Error>) -> Self {
        Self { principal, calls: 0, site: None, account: Account::default() }
    }

    /// Takes the account out of the caller, for the concurrency limits.
    pub fn take_account(extensions: &mut Extensions) -> Account {
        extensions
            .get_mut::<Self>()
            .map(|caller| std::mem::take(&mut caller.account))
            .unwrap_or_default()
    }

    /// Whether the caller is an internal service.
    #[must_use]
    pub fn asks_as_service(extensions: &Extensions) -> bool {
        extensions
            .get()
            .is_some_and(|caller: &Self| matches!(caller.principal, Ok(Principal::Service(_))))
    }

    /// The same caller, counting as this many calls.
    #[must_use]
    pub fn counting(&self, calls: u32) -> Self {
        Self { calls, ..self.clone() }
    }
}

/// The authentication layer.
pub fn layer<B>(access: Arc<Access>) -> MapRequestLayer<impl Fn(Request<B>) -> Request<B> + Clone> {
    MapRequestLayer::new(move |mut request: Request<B>| {
        let certificate = request.extensions().get::<Arc<CertNames>>();
        let peer = peer_of(request.extensions());
        let site = peer.as_ref().map(|peer| peer.site());
        let principal =
            access.authenticate(request.headers(), certificate.map(AsRef::as_ref), site);
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

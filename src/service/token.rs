//! App tokens for callers with an app's client id and secret, and user tokens that admins request.

use super::{RequestContext, Service};
use crate::{
    auth::{Action, apps::App, credentials::refused},
    error::{Error, Refusal},
    limits::holder::Site,
    model::{AppKey, UserId},
};

/// Maximum lifetime of a token that expires. The vendors' SDKs read it as a signed 32-bit number of
/// seconds.
pub const MAX_TTL_S: u64 = i32::MAX as u64;

/// A request for an app token.
#[allow(missing_docs)]
pub struct TokenRequest<'a> {
    pub app: String,
    pub client_id: &'a str,
    pub client_secret: &'a str,
    /// Lifetime in seconds. 0: it does not expire. `None`: the configured lifetime.
    pub ttl_s: Option<u64>,
    /// The caller's network, if it identifies the caller.
    pub site: Option<Site>,
}

impl Service {
    /// An app token and its lifetime in seconds. `None`: it does not expire. Neither the text nor
    /// the timing of a refusal reveals whether the app exists. Errors: RATE_LIMITED,
    /// INVALID_CREDENTIALS, INVALID_ARGUMENT.
    pub fn issue_token(&self, request: TokenRequest<'_>) -> Result<(String, Option<u64>), Error> {
        let TokenRequest { app, client_id, client_secret, ttl_s, site } = request;
        let key = AppKey::parse(app)?;
        let app = self.access.app(key.as_str()).ok();
        let Some(app) = App::with_client(app, client_id, client_secret) else {
            self.limits.guess(client_id, site)?;
            return Err(refused::client_secret(key.as_str()));
        };
        self.limits.token(app.number)?;
        let ttl_s = match ttl_s.unwrap_or(self.token_ttl_s) {
            0 => None,
            ttl_s if ttl_s <= MAX_TTL_S => Some(ttl_s),
            _ => {
                return Err(Error::invalid(
                    "ttl",
                    "ttl must be at most 2147483647 seconds, or 0 for a token that does not expire",
                ));
            }
        };
        let tokens = app.tokens.as_ref().ok_or(Refusal::WrongClientSecret)?;
        Ok((tokens.mint_app(&app.key, self.clock.now_ms(), ttl_s)?, ttl_s))
    }

    /// A user token, and the Unix second at which it expires. Errors: PERMISSION_DENIED,
    /// INVALID_ARGUMENT if the app has no `token_secret`.
    pub fn user_token(&self, call: &RequestContext, user: &UserId) -> Result<(String, u64), Error> {
        call.permit(Action::IssueUserToken)?;
        let tokens = call.app.tokens.as_ref();
        let tokens = tokens.ok_or_else(|| {
            Error::invalid(
                "issue_access_token",
                "the app has no token_secret to sign tokens with; configure one",
            )
        })?;
        let ttl_s = if self.token_ttl_s == 0 { MAX_TTL_S } else { self.token_ttl_s };
        let now_ms = self.clock.now_ms();
        let exp_s = now_ms / 1_000 + ttl_s;
        Ok((tokens.mint_user(&call.app.key, user.as_str(), now_ms, exp_s)?, exp_s))
    }
}

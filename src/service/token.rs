//! Tokens for callers that have an app's client id and secret, and for clients on an admin's word.

use super::{RequestContext, Service};
use crate::{
    auth::{Action, apps::App},
    error::{Error, Reason},
    limits::holder::Site,
    model::{AppKey, UserId},
};

/// The longest that a token is good for where somebody says how long: what a signed 32-bit number
/// of seconds holds, as the vendors' SDKs read it.
pub const MAX_TTL_S: u64 = i32::MAX as u64;

/// What an app token is asked for with.
#[allow(missing_docs)]
pub struct TokenAsked<'a> {
    pub app: String,
    pub client_id: &'a str,
    pub client_secret: &'a str,
    pub ttl_s: Option<u64>,
    /// Where it is asked from, as far as that says who it is.
    pub site: Option<Site>,
}

impl Service {
    /// An app token, and for how many seconds it is good; nothing: without end. `ttl_s` 0 is
    /// without end, nothing is as configured. Neither the words nor the time of a refusal tell
    /// whether there is such an app. Errors: RATE_LIMITED, INVALID_CREDENTIALS, INVALID_ARGUMENT.
    pub fn issue_token(&self, asked: TokenAsked<'_>) -> Result<(String, Option<u64>), Error> {
        let TokenAsked { app, client_id, client_secret, ttl_s, site } = asked;
        let app = self.access.app(AppKey::parse(app)?.as_str()).ok();
        let wrong = || {
            Error::new(Reason::InvalidCredentials, "client id and secret are not those of the app")
        };
        let Some(app) = App::with_client(app, client_id, client_secret) else {
            self.limits.guess(client_id, site)?;
            return Err(wrong());
        };
        self.limits.token(app.number)?;
        let ttl_s = match ttl_s.unwrap_or(self.token_ttl_s) {
            0 => None,
            ttl_s if ttl_s <= MAX_TTL_S => Some(ttl_s),
            _ => {
                return Err(Error::invalid(
                    "ttl",
                    "a token is good for at most 2147483647 seconds; 0 is without end",
                ));
            }
        };
        let tokens = app.tokens.as_ref().ok_or_else(wrong)?;
        Ok((tokens.mint_app(&app.key, self.clock.now_ms(), ttl_s)?, ttl_s))
    }

    /// A user token, and the Unix second of its end. Errors: PERMISSION_DENIED, INVALID_ARGUMENT
    /// where the app has nothing to sign with.
    pub fn user_token(&self, call: &RequestContext, user: &UserId) -> Result<(String, u64), Error> {
        call.permit(Action::IssueUserToken)?;
        let tokens = call.app.tokens.as_ref();
        let tokens = tokens.ok_or_else(|| {
            Error::invalid("issue_access_token", "the app has no token_secret to sign with")
        })?;
        let ttl_s = if self.token_ttl_s == 0 { MAX_TTL_S } else { self.token_ttl_s };
        let now_ms = self.clock.now_ms();
        let exp_s = now_ms / 1_000 + ttl_s;
        Ok((tokens.mint_user(&call.app.key, user.as_str(), now_ms, exp_s)?, exp_s))
    }
}

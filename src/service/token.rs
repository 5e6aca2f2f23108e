//! Tokens for callers that have an app's client id and secret, and for clients on an admin's word.

use super::{Call, Service};
use crate::{
    auth::Action,
    error::{Error, Reason},
    model::{AppKey, UserId},
};

/// The longest that a token is good for where somebody says how long: what a signed 32-bit number of seconds holds, as the vendors' SDKs read it.
pub const MAX_TTL_S: u64 = i32::MAX as u64;

impl Service {
    /// An app token, and for how many seconds it is good; nothing: without end. `ttl_s` 0 is without end, nothing is as configured.
    /// Errors: APP_NOT_FOUND, RATE_LIMITED, INVALID_CREDENTIALS, INVALID_ARGUMENT.
    pub fn issue_token(&self, app: String, id: &str, secret: &str, ttl_s: Option<u64>) -> Result<(String, Option<u64>), Error> {
        let app = self.access.app(AppKey::parse(app)?.as_str())?;
        self.limits.token(app.number)?;
        let wrong = || Error::new(Reason::InvalidCredentials, "client id and secret are not those of the app");
        if !app.knows_client(id, secret) {
            return Err(wrong());
        }
        let ttl_s = match ttl_s.unwrap_or(self.token_ttl_s) {
            0 => None,
            ttl_s if ttl_s <= MAX_TTL_S => Some(ttl_s),
            _ => return Err(Error::invalid("ttl", "a token is good for at most 2147483647 seconds; 0 is without end")),
        };
        let tokens = app.tokens.as_ref().ok_or_else(wrong)?;
        Ok((tokens.mint_app(&app.key, self.clock.now_ms(), ttl_s)?, ttl_s))
    }

    /// A user token, and the Unix second of its end. Errors: PERMISSION_DENIED, INVALID_ARGUMENT where the app has nothing to sign with.
    pub fn user_token(&self, call: &Call, user: &UserId) -> Result<(String, u64), Error> {
        call.permit(Action::IssueUserToken)?;
        let tokens = call.app.tokens.as_ref();
        let tokens = tokens.ok_or_else(|| Error::invalid("issue_access_token", "the app has no token_secret to sign with"))?;
        let ttl_s = if self.token_ttl_s == 0 { MAX_TTL_S } else { self.token_ttl_s };
        let exp_s = self.clock.now_ms() / 1_000 + ttl_s;
        Ok((tokens.mint_user(&call.app.key, user.as_str(), exp_s)?, exp_s))
    }
}

//! Tokens, and credentials in headers.
//!
//! The first byte of an input gives the kind of the rest. `=`: a token. `u`, `a`, `o`: header and
//! claims, separated by a line feed, to be signed with the key of an app's users, the key of the
//! app itself, or the key of another app. `t`: a user, the end of a token and a change of it. `h`:
//! headers, one a line, in which `{user}`, `{app}` and `{other}` stand for valid tokens.
//!
//! A token is only valid with the signature of the right key, which this file computes itself, and
//! only for what its claims allow. One changed byte makes it invalid. A valid token gives the
//! principal that its claims name.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{cell::LazyCell, sync::Arc};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt as _;
use libfuzzer_sys::{Corpus, fuzz_target};
use mute_service::{
    auth::{
        Credential, Principal,
        apps::{App, Apps},
        credentials::{Access, Credentials},
        token::{Bearer, Unverified},
    },
    clock::Clock,
    dev::{AGORA_APP, IMKIT_APP},
    error::{Error, Reason},
};
use mute_service_fuzz::server::{START_MS, apps, services};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// The header that the service itself writes, without `typ`, which no code reads.
const HEADER: &str = r#"{"alg":"HS256"}"#;

thread_local! {
    static FIXTURE: LazyCell<Fixture> = LazyCell::new(Fixture::build);
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((kind, rest)) = input.split_first() else { return Corpus::Reject };
    let Ok(text) = str::from_utf8(rest) else { return Corpus::Reject };
    FIXTURE.with(|fixture| {
        match kind {
            b'=' => fixture.check(text),
            b'u' => fixture.check_signed(text, &fixture.keys[0].user),
            b'a' => fixture.check_signed(text, &fixture.keys[0].app),
            b'o' => fixture.check_signed(text, &fixture.keys[1].user),
            b't' => fixture.check_changed(text),
            b'h' => fixture.check_headers(text),
            _ => return Corpus::Reject,
        }
        Corpus::Keep
    })
});

struct Fixture {
    access: Arc<Access>,
    /// The app of the tokens, and another one.
    apps: [Arc<App>; 2],
    keys: [Keys; 2],
}

/// Keys derived as described in `auth/token.rs`.
struct Keys {
    user: Vec<u8>,
    app: Vec<u8>,
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block.resize(64, 0);
    let pad = |with: u8| block.iter().map(move |byte| byte ^ with).collect::<Vec<_>>();
    let inner = Sha256::digest([&pad(0x36), message].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

fn sign(header: &str, claims: &str, key: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(hmac(key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Whether a token was signed with this key.
fn is_signed(token: &str, key: &[u8]) -> bool {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    URL_SAFE_NO_PAD
        .decode(signature)
        .is_ok_and(|signature| signature == hmac(key, signed.as_bytes()))
}

/// Header and claims of a valid token. `None` for a part with a number out of range or an
/// incomplete surrogate pair in a field that is not read: the service skips such values.
fn parts(token: &str) -> [Option<Map<String, Value>>; 2] {
    let parts: Vec<_> = token.split('.').collect();
    let &[header, claims, _] = parts.as_slice() else { panic!("{token}") };
    [header, claims].map(|part| {
        match serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()) {
            Err(error)
                if [
                    "number out of range",
                    "unexpected end of hex escape",
                    "lone leading surrogate",
                ]
                .iter()
                .any(|message| error.to_string().starts_with(message)) =>
            {
                None
            }
            parsed => Some(parsed.unwrap()),
        }
    })
}

/// The user named by claims that the key of the app's users has signed; `None` where the claims are
/// incomplete.
fn user_of(claims: &Map<String, Value>, app: &str, now_ms: u64) -> Option<String> {
    let text = |name| match claims.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.as_str())),
        Some(_) => None,
    };
    let claimed_app = text("app")?;
    let id = text("id")?;
    let sub = text("sub")?;
    let kind = text("typ")?;
    let not_before = match claims.get("nbf") {
        None | Some(Value::Null) => 0.0,
        Some(not_before) => not_before.as_f64()?,
    };
    let now_s = now_ms as f64 / 1_000.0;
    let is_valid = kind != Some("app")
        && claimed_app.is_none_or(|claimed| claimed == app)
        && not_before <= now_s
        && now_s < claims.get("exp")?.as_f64()?;
    id.or(sub).filter(|_| is_valid).map(str::to_owned)
}

/// Whether claims that the app's own key has signed make an app token.
fn is_of_app(claims: &Map<String, Value>, app: &str, now_ms: u64) -> bool {
    let in_time = match claims.get("exp") {
        None | Some(Value::Null) => true,
        Some(exp) => exp.as_u64().is_some_and(|exp| now_ms < exp.saturating_mul(1_000)),
    };
    let is = |name: &str, what| claims.get(name).and_then(Value::as_str) == Some(what);
    is("typ", "app") && is("app", app) && claims.get("iat").is_some_and(Value::is_u64) && in_time
}

impl Fixture {
    fn build() -> Self {
        let configs = apps();
        let by_key = Apps::new(&configs).unwrap();
        let [agora, imkit] = [AGORA_APP, IMKIT_APP].map(|key| {
            let config = configs.iter().find(|config| config.key == key).unwrap();
            let secret = config.token_secret[0].expose();
            let app =
                Sha256::digest([b"mute-service app token\0", secret.as_bytes()].concat()).to_vec();
            (by_key.get(key).unwrap().clone(), Keys { user: secret.as_bytes().to_vec(), app })
        });
        let credentials =
            Credentials::new(&configs, &services(), &[], Clock::manual(START_MS)).unwrap();
        // Without issuers this does not wait.
        let access = Access::new(credentials).now_or_never().unwrap();
        Self { access, apps: [agora.0, imkit.0], keys: [agora.1, imkit.1] }
    }

    /// Checks that a token is valid only with the right signature, and only for what its claims
    /// say.
    fn check(&self, token: &str) {
        let read = Unverified::read(token);
        for (app, keys) in self.apps.iter().zip(&self.keys) {
            let verified = app.tokens.as_ref().unwrap().verify(&app.key, token, START_MS);
            match verified {
                Ok(bearer) => {
                    let key = if bearer == Bearer::App { &keys.app } else { &keys.user };
                    assert!(read.is_ok() && is_signed(token, key), "{token}");
                    let [header, claims] = parts(token);
                    assert!(header.is_none_or(|header| header["alg"] == "HS256"));
                    let Some(claims) = claims else { continue };
                    match bearer {
                        Bearer::App => {
                            assert!(is_of_app(&claims, app.key.as_str(), START_MS), "{claims:?}")
                        }
                        Bearer::User(user) => {
                            assert_eq!(user_of(&claims, app.key.as_str(), START_MS), Some(user))
                        }
                    }
                }
                Err(refusal) => {
                    let expected = read.as_ref().err().map(|refusal| Error::from(*refusal).reason);
                    let reason = Error::from(refusal).reason;
                    assert_eq!(reason, expected.unwrap_or(Reason::InvalidToken));
                }
            }
        }
    }

    /// Checks a token with this header and these claims, signed with this key.
    fn check_signed(&self, text: &str, key: &[u8]) {
        let (header, claims) = text.split_once('\n').unwrap_or((HEADER, text));
        self.check(&sign(header, claims, key));
        // Written again, no claim is duplicated: the service may use either of two.
        let Ok(claims) = serde_json::from_str::<Map<String, Value>>(claims) else { return };
        let token = sign(HEADER, &Value::Object(claims.clone()).to_string(), key);
        self.check(&token);
        let app = &self.apps[0];
        let keys = &self.keys[0];
        let verified = app.tokens.as_ref().unwrap().verify(&app.key, &token, START_MS).ok();
        let expected = match (
            user_of(&claims, app.key.as_str(), START_MS),
            is_of_app(&claims, app.key.as_str(), START_MS),
        ) {
            (Some(user), _) if key == keys.user => Some(Bearer::User(user)),
            (_, true) if key == keys.app => Some(Bearer::App),
            _ => None,
        };
        assert_eq!(verified, expected, "{claims:?}");
    }

    /// `END AT BYTE USER`: checks a token of this user that is valid until that second, and the
    /// same token with another byte at that position.
    fn check_changed(&self, text: &str) {
        let mut words = text.splitn(4, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(end), Some(at), Some(byte)) = (number(), number(), number()) else { return };
        let Some(user) = words.next() else { return };
        let app = &self.apps[0];
        let keys = app.tokens.as_ref().unwrap();
        let user_token = keys.mint_user(&app.key, user, START_MS, end).unwrap();
        let app_token = keys.mint_app(&app.key, START_MS, Some(end)).unwrap();
        let in_time = START_MS < end.saturating_mul(1_000);
        let verify = |token: &str| keys.verify(&app.key, token, START_MS).ok();
        assert_eq!(verify(&user_token), in_time.then(|| Bearer::User(user.to_owned())));
        assert_eq!(verify(&app_token), (end > 0).then_some(Bearer::App));
        for token in [user_token, app_token] {
            let mut changed = token.clone().into_bytes();
            let at = at as usize % changed.len();
            changed[at] = byte as u8 & 0x7f;
            let changed = String::from_utf8(changed).unwrap();
            assert!(
                changed == token || verify(&changed).is_none(),
                "{changed} is accepted, changed from {token}"
            );
            assert_eq!(verify(&token[..at]), None);
        }
    }

    fn check_headers(&self, text: &str) {
        let mint = |app: &App| {
            app.tokens
                .as_ref()
                .unwrap()
                .mint_user(&app.key, "user1", START_MS, START_MS / 1_000 + 10)
                .unwrap()
        };
        let user = mint(&self.apps[0]);
        let other = mint(&self.apps[1]);
        let app = self.apps[0]
            .tokens
            .as_ref()
            .unwrap()
            .mint_app(&self.apps[0].key, START_MS, None)
            .unwrap();
        let mut headers = HeaderMap::new();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(": ") else { continue };
            let value =
                value.replace("{user}", &user).replace("{app}", &app).replace("{other}", &other);
            let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
            else {
                continue;
            };
            headers.append(name, value);
        }
        // The first header of a name counts, without surrounding space and scheme.
        let first =
            |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
        let token = |name: &str| {
            first(name).map(|value| value.rsplit(char::is_whitespace).next().unwrap_or(value))
        };
        match self.access.principal(&headers, None) {
            Ok(Principal::AppAdmin { app, by: Credential::ApiKey }) => {
                assert_eq!((app.as_str(), first("im-api-key")), (IMKIT_APP, Some("dev-api-key")));
            }
            Ok(principal) => {
                assert!(!headers.contains_key("im-api-key"));
                let has_client_key = headers.contains_key("im-client-key");
                assert!(!has_client_key || first("im-client-key") == Some("dev-client-key"));
                let token = without_scheme(
                    token(if has_client_key { "im-authorization" } else { "authorization" })
                        .unwrap(),
                );
                match principal {
                    Principal::Service(service) => {
                        assert_eq!(
                            (service.name.as_str(), token, has_client_key),
                            ("dev", "dev-service-token", false)
                        );
                    }
                    Principal::AppAdmin { app, .. } => {
                        let keys = &self.keys[usize::from(app.as_str() == IMKIT_APP)];
                        assert!(
                            is_signed(token, &keys.app)
                                && (!has_client_key || app.as_str() == IMKIT_APP)
                        );
                    }
                    Principal::User { app, user } => {
                        let keys = &self.keys[usize::from(app.as_str() == IMKIT_APP)];
                        assert!(
                            is_signed(token, &keys.user)
                                && (!has_client_key || app.as_str() == IMKIT_APP)
                        );
                        assert!(
                            parts(token)[1].as_ref().is_some_and(|claims| claims["id"] == user)
                        );
                    }
                }
            }
            Err(error) => {
                let reasons = [
                    Reason::InvalidApiKey,
                    Reason::InvalidClientKey,
                    Reason::InvalidToken,
                    Reason::MalformedToken,
                    Reason::MissingToken,
                ];
                assert!(reasons.contains(&error.reason), "{error:?}");
            }
        }
    }
}

/// The token without its scheme, which need not be followed by a space.
fn without_scheme(token: &str) -> &str {
    match token.split_at_checked(6) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
        _ => token,
    }
}

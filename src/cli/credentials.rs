//! `token` mints tokens; `hash-key` hashes keys for the configuration.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    time::{Duration, UNIX_EPOCH},
};

use clap::Args;

use super::{
    output::{complain, say},
    source::Source,
};
use crate::{
    app::Failure,
    auth::{apps::Apps, secret::KeyHash, token::Unverified},
    clock::Clock,
    config::Settings,
    error::Error,
    service::MAX_TTL_S,
};

#[derive(Args)]
pub(super) struct Token {
    #[command(flatten)]
    source: Source,
    /// Key of the app, such as org#app
    #[arg(long)]
    app: String,
    /// User to mint the token for; without it, the token is the app's
    #[arg(long)]
    user: Option<String>,
    /// Lifetime; 0 for an app token that does not expire
    #[arg(long, value_name = "SECONDS", default_value_t = 24 * 3_600, value_parser = clap::value_parser!(u64).range(..=MAX_TTL_S))]
    ttl: u64,
}

pub(super) fn mint(token: &Token) -> Result<(), Failure> {
    let usage = |message: &str| Failure::Config(vec![message.to_owned()]);
    let config = token.source.load(Settings::default())?;
    let apps = Apps::new(&config.apps).map_err(Failure::Config)?;
    let app = apps.get(&token.app).map_err(|_| {
        usage(
            "--app: this app is not configured; give the key of a configured app, \
             and name the configuration with --config or --dev",
        )
    })?;
    let keys = app.tokens.as_ref().ok_or_else(|| {
        usage("the app has no token_secret to sign with; add one to its [[apps]] table")
    })?;
    let now_ms = Clock::system().now_ms();
    let minted = match &token.user {
        Some(_) if token.ttl == 0 => {
            return Err(usage("--ttl: a user token must expire; give a number of seconds above 0"));
        }
        Some(user) => {
            let user = app.user(user.clone()).map_err(|error| usage(&error.message))?;
            keys.mint_user(
                &app.key,
                user.as_str(),
                now_ms,
                (now_ms / 1_000).saturating_add(token.ttl),
            )
        }
        None => keys.mint_app(&app.key, now_ms, (token.ttl != 0).then_some(token.ttl)),
    };
    let minted = minted.map_err(|error| Failure::Serve(error.into()))?;
    say(&format!("{minted}\n"))?;
    let facts = Unverified::read(&minted).map_err(|refusal| {
        let error = Error::from(refusal);
        Failure::Serve(error.into())
    })?;
    let expiry = facts.ends_ms().map_or_else(
        || "does not expire".to_owned(),
        |end_ms| format!("expires {}", rfc3339(end_ms)),
    );
    let id = facts.id().unwrap_or_default();
    let signer = facts.signer.as_deref().unwrap_or_default();
    complain(&format!(
        "{expiry}; id {id} (to revoke the token, add it to revoked_tokens); \
         signed with the token_secret {signer}"
    ));
    Ok(())
}

/// In UTC.
fn rfc3339(time_ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(time_ms)).to_string()
}

pub(super) fn hash_key(key: Option<String>) -> Result<(), Failure> {
    let key = match key {
        Some(key) => key,
        None => read_key()?,
    };
    if key.len() < 16 {
        let error = "the key is shorter than 16 characters and can be guessed; \
                     make a random one with `openssl rand -hex 32`";
        return Err(Failure::Config(vec![error.to_owned()]));
    }
    if key.len() < 32 {
        complain(
            "warning: the key is shorter than 32 characters; \
             make a random one with `openssl rand -hex 32`",
        );
    }
    say(&format!("{}\n", KeyHash::of(&key)))
}

fn read_key() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        complain("Type the key, then press Enter:");
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|source| Failure::File { what: "standard input".to_owned(), source })?;
    let key = line.trim_end_matches(['\r', '\n']);
    if key.is_empty() {
        Err(Failure::Config(vec![
            "the key is empty; give it as an argument or on standard input".to_owned(),
        ]))
    } else {
        Ok(key.to_owned())
    }
}

//! Finds secrets that are public, empty or shared.

use std::collections::HashMap;

use crate::auth::{
    apps::AppConfig,
    credentials::ServiceConfig,
    secret::{KeyHash, Secret},
};

/// The prefix of each secret in the sample configuration, and those that it has as hashes.
const SAMPLE_PREFIX: &str = "change-me";
const SAMPLE_SECRETS: [&str; 4] = [
    "change-me-client-secret",
    "change-me-api-key",
    "change-me-client-key",
    "change-me-service-token",
];
const HINT: &str =
    "make one with `openssl rand -hex 32`, and its hash with `mute-service hash-key`";

/// What is wrong with the secrets of a configuration, a sentence each.
pub(super) fn errors(apps: &[AppConfig], services: &[ServiceConfig]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut signers: HashMap<&str, &str> = HashMap::new();
    for app in apps {
        for (field, hashes) in app.hashes() {
            let found = hashes.iter().filter_map(weakness);
            errors.extend(
                found.map(|weakness| format!("app \"{}\": {field} is {weakness}: {HINT}", app.key)),
            );
        }
        for secret in app.token_secret.iter().map(Secret::expose) {
            if secret.starts_with(SAMPLE_PREFIX) {
                errors.push(format!(
                    "app \"{}\": token_secret is that of the sample configuration: {HINT}",
                    app.key
                ));
            }
            if let Some(other) = signers.insert(secret, &app.key) {
                errors.push(format!(
                    "app \"{}\": token_secret is that of \"{other}\" too, so the tokens of each app would be accepted by the other",
                    app.key
                ));
            }
        }
    }
    for service in services {
        let found = service.token_hash.iter().filter_map(weakness);
        errors.extend(found.map(|weakness| {
            format!("service \"{}\": token_hash is {weakness}: {HINT}", service.name)
        }));
    }
    errors
}

/// The kind of a weak secret; none for a strong one.
fn weakness(hash: &KeyHash) -> Option<&'static str> {
    if hash.is_of("") {
        return Some("the hash of an empty secret");
    }
    SAMPLE_SECRETS
        .iter()
        .any(|sample| hash.is_of(sample))
        .then_some("that of the sample configuration")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    fn errors_of(text: &str) -> String {
        let file = File::parse(text).unwrap();
        errors(&file.apps, &file.services).join("\n")
    }

    #[test]
    fn every_secret_of_the_sample_is_found() {
        let found = errors_of(include_str!("../../deploy/mute-service.toml"));
        assert_eq!(found.lines().count(), 6, "{found}");
        let secrets = ["client_secret_hash", "api_key_hash", "client_key_hash", "token_hash"];
        assert!(
            secrets.iter().all(|field| found.contains(field))
                && found.matches("token_secret").count() == 2,
            "{found}"
        );
    }

    #[test]
    fn empty_and_shared_secrets_are_found() {
        let nothing = KeyHash::of("");
        let found = errors_of(&format!(
            "[[apps]]\nkey = \"a\"\napi_key_hash = \"{nothing}\"\ntoken_secret = \"0123456789abcdef\"\n\
             [[apps]]\nkey = \"b\"\ntoken_secret = \"0123456789abcdef\"\n\
             [[services]]\nname = \"s\"\ntoken_hash = \"{nothing}\"\nscopes = []\napps = []\n"
        ));
        assert_eq!(
            (found.lines().count(), found.matches("of an empty secret").count()),
            (3, 2),
            "{found}"
        );
        assert!(found.contains("\"a\" too"), "{found}");
    }
}

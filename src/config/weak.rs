//! Secrets that everybody knows, or that are none.

use std::collections::HashMap;

use crate::auth::{
    apps::AppConfig,
    credentials::ServiceConfig,
    secret::{KeyHash, Secret},
};

/// How the secrets of the sample configuration begin, and those among them that are there by their
/// hashes.
const SAMPLE: &str = "change-me";
const SAMPLES: [&str; 4] = [
    "change-me-client-secret",
    "change-me-api-key",
    "change-me-client-key",
    "change-me-service-token",
];
const MAKE: &str =
    "make one with `openssl rand -hex 32`, and its hash with `mute-service hash-key`";

/// Everything that is wrong with the secrets of a configuration, a sentence each.
pub(super) fn secrets(apps: &[AppConfig], services: &[ServiceConfig]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut signers: HashMap<&str, &str> = HashMap::new();
    for app in apps {
        for (field, hashes) in app.hashes() {
            let what = hashes.iter().filter_map(of_hash);
            wrong
                .extend(what.map(|what| format!("app \"{}\": {field} is {what}: {MAKE}", app.key)));
        }
        for secret in app.token_secret.iter().map(Secret::expose) {
            if secret.starts_with(SAMPLE) {
                wrong.push(format!(
                    "app \"{}\": token_secret is that of the sample: {MAKE}",
                    app.key
                ));
            }
            if let Some(other) = signers.insert(secret, &app.key) {
                wrong.push(format!(
                    "app \"{}\": token_secret is that of \"{other}\" too, whose tokens would be good here",
                    app.key
                ));
            }
        }
    }
    for service in services {
        let what = service.token_hash.iter().filter_map(of_hash);
        wrong.extend(
            what.map(|what| format!("service \"{}\": token_hash is {what}: {MAKE}", service.name)),
        );
    }
    wrong
}

fn of_hash(hash: &KeyHash) -> Option<&'static str> {
    if hash.is_of("") {
        return Some("that of nothing");
    }
    SAMPLES.iter().any(|sample| hash.is_of(sample)).then_some("that of the sample")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    fn wrong(text: &str) -> String {
        let file = File::parse(text).unwrap();
        secrets(&file.apps, &file.services).join("\n")
    }

    #[test]
    fn every_secret_of_the_sample_is_found() {
        let found = wrong(include_str!("../../deploy/mute-service.toml"));
        assert_eq!(found.lines().count(), 6, "{found}");
        let secrets = ["client_secret_hash", "api_key_hash", "client_key_hash", "token_hash"];
        assert!(
            secrets.iter().all(|field| found.contains(field))
                && found.matches("token_secret").count() == 2,
            "{found}"
        );
    }

    #[test]
    fn hashes_of_nothing_and_secrets_of_two_apps_are_found() {
        let nothing = KeyHash::of("");
        let found = wrong(&format!(
            "[[apps]]\nkey = \"a\"\napi_key_hash = \"{nothing}\"\ntoken_secret = \"0123456789abcdef\"\n\
             [[apps]]\nkey = \"b\"\ntoken_secret = \"0123456789abcdef\"\n\
             [[services]]\nname = \"s\"\ntoken_hash = \"{nothing}\"\nscopes = []\napps = []\n"
        ));
        assert_eq!((found.lines().count(), found.matches("of nothing").count()), (3, 2), "{found}");
        assert!(found.contains("\"a\" too"), "{found}");
    }
}

//! The configuration file.

use std::{fs, path::Path};

use super::settings::Settings;
use crate::auth::{apps::AppConfig, credentials::ServiceConfig, issuers::IssuerConfig};

/// What a configuration file holds: settings, and who may call.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: Settings,
    pub(super) apps: Vec<AppConfig>,
    pub(super) services: Vec<ServiceConfig>,
    pub(super) issuers: Vec<IssuerConfig>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Vec<String>> {
        let text = fs::read_to_string(path)
            .map_err(|error| vec![format!("{}: {error}", path.display())])?;
        Self::parse(&text).map_err(|wrong| {
            wrong.into_iter().map(|what| format!("{}: {what}", path.display())).collect()
        })
    }

    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        // The message and the line, never the line's text: it may hold a secret.
        let place = |error: &toml::de::Error| {
            error.span().map_or(0, |span| text[..span.start].lines().count().max(1))
        };
        let tell = |error: toml::de::Error| format!("line {}: {}", place(&error), error.message());
        let mut table: toml::Table = text.parse().map_err(|error| vec![tell(error)])?;
        let mut wrong = Vec::new();
        let apps = list(&mut table, "apps", &mut wrong);
        let services = list(&mut table, "services", &mut wrong);
        let issuers = list(&mut table, "issuers", &mut wrong);
        let settings = table.try_into().unwrap_or_else(|error: toml::de::Error| {
            wrong.push(error.message().to_owned());
            Settings::default()
        });
        if wrong.is_empty() { Ok(Self { settings, apps, services, issuers }) } else { Err(wrong) }
    }
}

/// Takes a list of tables out of the file; what is wrong with one does not hide what is wrong with
/// the next.
fn list<T: serde::de::DeserializeOwned>(
    table: &mut toml::Table,
    name: &str,
    wrong: &mut Vec<String>,
) -> Vec<T> {
    let items = match table.remove(name) {
        None => return Vec::new(),
        Some(toml::Value::Array(items)) => items,
        Some(_) => {
            wrong.push(format!("{name} is a list of tables: [[{name}]]"));
            return Vec::new();
        }
    };
    let item = |(number, item): (usize, toml::Value)| {
        let item = item.try_into().map_err(|error: toml::de::Error| {
            wrong.push(format!("[[{name}]] number {}: {}", number + 1, error.message()))
        });
        item.ok()
    };
    items.into_iter().enumerate().filter_map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::credentials::Credentials, clock::Clock};

    #[test]
    fn the_sample_configuration_is_good() {
        let file = File::parse(include_str!("../../deploy/mute-service.toml"));
        let wrong = file
            .and_then(|file| {
                Credentials::new(&file.apps, &file.services, &file.issuers, Clock::system())
                    .map(drop)
            })
            .err();
        assert_eq!(wrong, None);
    }

    #[test]
    fn unknown_keys_are_refused_and_all_faults_are_told() {
        let text = "grpc_adr = \"127.0.0.1:1\"\n[[apps]]\nkey = \"a\"\ncolour = 1\n[[apps]]\nkey = \"b\"\napi_key_hash = \"plain\"\n";
        let wrong = File::parse(text).err().unwrap_or_default().join("\n");
        for word in ["grpc_adr", "colour", "hash-key"] {
            assert!(wrong.contains(word), "{word} in {wrong}");
        }
    }
}

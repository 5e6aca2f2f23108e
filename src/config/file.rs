//! The configuration file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::settings::Settings;
use crate::auth::{apps::AppConfig, credentials::ServiceConfig, issuers::IssuerConfig};

/// A parsed configuration file: settings, apps, internal services and token issuers.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: Settings,
    pub(super) apps: Vec<AppConfig>,
    pub(super) services: Vec<ServiceConfig>,
    pub(super) issuers: Vec<IssuerConfig>,
}

/// The text of a configuration file, not parsed yet. It holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigText {
    path: PathBuf,
    text: String,
}

impl ConfigText {
    /// Reads the file. Errors: a sentence that names it.
    pub fn read(path: &Path) -> Result<Self, Vec<String>> {
        let text = fs::read_to_string(path)
            .map_err(|error| vec![format!("{}: {error}", path.display())])?;
        Ok(Self { path: path.to_path_buf(), text })
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether it is that one, cut.
    #[must_use]
    pub fn is_beginning_of(&self, other: &Self) -> bool {
        self.text.len() < other.text.len() && other.text.starts_with(&self.text)
    }

    pub(super) fn parse(&self) -> Result<File, Vec<String>> {
        File::parse(&self.text).map_err(|errors| {
            errors.into_iter().map(|error| format!("{}: {error}", self.path.display())).collect()
        })
    }
}

impl File {
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut table: toml::Table =
            text.parse().map_err(|error| vec![syntax_error(text, &error)])?;
        let mut errors = Vec::new();
        let apps = list(&mut table, "apps", &mut errors);
        let services = list(&mut table, "services", &mut errors);
        let issuers = list(&mut table, "issuers", &mut errors);
        let settings = table.try_into().unwrap_or_else(|error: toml::de::Error| {
            errors.push(error.message().to_owned());
            Settings::default()
        });
        if errors.is_empty() { Ok(Self { settings, apps, services, issuers }) } else { Err(errors) }
    }
}

/// The message and the line number. The text of the line is left out: it may hold a secret.
fn syntax_error(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
    format!("line {line}: {}", error.message())
}

/// Takes a list of tables out of the file. Adds an error for each table that is invalid.
fn list<T: serde::de::DeserializeOwned>(
    table: &mut toml::Table,
    name: &str,
    errors: &mut Vec<String>,
) -> Vec<T> {
    let items = match table.remove(name) {
        None => return Vec::new(),
        Some(toml::Value::Array(items)) => items,
        Some(_) => {
            errors.push(format!("{name} must be a list of tables: [[{name}]]"));
            return Vec::new();
        }
    };
    let item = |(number, item): (usize, toml::Value)| {
        let item = item.try_into().map_err(|error: toml::de::Error| {
            errors.push(format!("[[{name}]] number {}: {}", number + 1, error.message()))
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
    fn the_sample_configuration_is_valid() {
        let file = File::parse(include_str!("../../deploy/mute-service.toml"));
        let errors = file
            .and_then(|file| {
                Credentials::new(&file.apps, &file.services, &file.issuers, Clock::system())
                    .map(drop)
            })
            .err();
        assert_eq!(errors, None);
    }

    #[test]
    fn unknown_keys_are_refused_and_all_errors_are_reported() {
        let text = "grpc_adr = \"127.0.0.1:1\"\n[[apps]]\nkey = \"a\"\ncolour = 1\n[[apps]]\nkey = \"b\"\napi_key_hash = \"plain\"\n";
        let errors = File::parse(text).err().unwrap_or_default().join("\n");
        for word in ["grpc_adr", "colour", "hash-key"] {
            assert!(errors.contains(word), "{word} in {errors}");
        }
    }
}

//! Which data directory a start takes. One without a store may be a volume that is not mounted; one
//! that dev mode made has the records of public keys.

use std::{fs, io, path::Path};

use crate::{config::Config, store::Location};

/// The file that marks a store that dev mode made.
const DEV_MARK: &str = "DEV";

/// Errors: there is no store and none must be made, or its store is of dev mode and dev mode is
/// off, or the other way round.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let Location::Directory { path, .. } = &config.location else { return Ok(()) };
    let directory = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let directory = directory.display();
    let is_dev = path.join(DEV_MARK).exists();
    if !config.dev && is_dev {
        return Err(format!(
            "{directory}: dev mode made this store, and everyone knows its keys; choose another \
             --data-dir, or delete the file {DEV_MARK} in it to serve its records"
        ));
    }
    if config.dev && !is_dev && holds_store(path) {
        return Err(format!(
            "{directory}: dev mode did not make this store, and would open it to everyone, because \
             its keys are public; choose another --data-dir, write `serve --config FILE` without \
             --dev, or make an empty file {DEV_MARK} in it"
        ));
    }
    if holds_store(path) {
        return Ok(());
    }
    if config.refuse_missing_data_dir {
        return Err(format!(
            "{directory}: there is no store in the data directory, and refuse_missing_data_dir is \
             set; mount its volume, or unset that for the first start"
        ));
    }
    if !config.dev {
        tracing::warn!(
            %directory,
            "there is no store in the data directory, so a new and empty one is made; \
             refuse_missing_data_dir makes this an error"
        );
    }
    Ok(())
}

fn holds_store(directory: &Path) -> bool {
    directory.join("store").exists()
}

/// Marks a store that dev mode is about to make, so that no other start takes it.
pub(super) fn mark(path: &Path) -> io::Result<()> {
    if holds_store(path) {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::write(path.join(DEV_MARK), "Made by dev mode, whose keys are public.\n")
}

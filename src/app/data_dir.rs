//! Which data directory a start takes. One that is missing may be a volume that is not mounted; one
//! that dev mode made has the records of public keys.

use std::{fs, io, path::Path};

use crate::{config::Config, store::Location};

/// The file that marks a store that dev mode made.
const DEV_MARK: &str = "DEV";

/// Errors: the directory is missing and must not be made, or dev mode made it and is off.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let Location::Directory { path, .. } = &config.location else { return Ok(()) };
    let directory = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let directory = directory.display();
    if !config.dev && path.join(DEV_MARK).exists() {
        return Err(format!(
            "{directory}: dev mode made this store, and everyone knows its keys; choose another \
             --data-dir, or delete the file {DEV_MARK} in it to serve its records"
        ));
    }
    if path.exists() {
        return Ok(());
    }
    if config.refuse_missing_data_dir {
        return Err(format!(
            "{directory}: the data directory is missing, and refuse_missing_data_dir is set; mount \
             its volume, or make the directory for a new store"
        ));
    }
    if !config.dev {
        tracing::warn!(
            %directory,
            "the data directory was missing, so it is made, for a new and empty store; \
             refuse_missing_data_dir makes this an error"
        );
    }
    Ok(())
}

/// Marks a store that dev mode has just made.
pub(super) fn mark_dev(directory: &Path) -> io::Result<()> {
    fs::write(directory.join(DEV_MARK), "Made by dev mode, whose keys are public.\n")
}

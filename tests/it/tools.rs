//! Programs and packages of other makers that some tests need: where they are, and how a test says
//! that one is missing. `.ci/run` installs all of them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::skipped;

/// The scripts for Node.js, beside their packages.
const NODE_DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node");

/// Whether the program is on the PATH; if not, records that the test is skipped. `package` is what
/// Debian calls it.
pub fn has_program(program: &str, package: &str) -> bool {
    let is_there = is_on_path(program);
    if !is_there {
        skipped(&format!("install {program} (Debian: {package}), so that it is on the PATH"));
    }
    is_there
}

/// The same for a program of a Python package.
pub fn has_python_program(program: &str, package: &str) -> bool {
    let is_there = is_on_path(program);
    if !is_there {
        skipped(&format!("pip install {package}, so that {program} is on the PATH"));
    }
    is_there
}

/// `node` with this script of tests/node. `None` where Node.js or a package of
/// tests/node/package.json is missing: records that the test is skipped.
pub fn node(script: &str) -> Option<Command> {
    let packages: PathBuf = [NODE_DIRECTORY, "node_modules"].iter().collect();
    if !is_on_path("node") || !packages.is_dir() {
        skipped("install Node.js, then run: npm install --no-package-lock --prefix tests/node");
        return None;
    }
    let mut command = Command::new("node");
    command.arg(Path::new(NODE_DIRECTORY).join(script));
    Some(command)
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

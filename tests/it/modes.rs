//! Files and directories that the program writes are private to their owner, whatever the umask.
//! Writing never follows a symbolic link that another user has placed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use crate::{
    harness::SERVICE,
    process::{Process, build, run},
};

/// Paths below the directory to which group or others have any access.
fn open_to_others(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.permissions().mode() & 0o077 != 0 {
            found.push(format!("{} {:o}", path.display(), metadata.permissions().mode()));
        }
        if metadata.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

/// The program with a umask that removes no permission.
fn with_open_umask() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$0\" \"$@\"", build().get_program().to_str().unwrap()]);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn written_files_are_private_to_the_owner_under_any_umask() {
    let directory = tempfile::tempdir().unwrap();
    let written = directory.path().join("written");
    // An existing data directory with open permissions is made private.
    fs::create_dir_all(written.join("data")).unwrap();
    fs::set_permissions(written.join("data"), fs::Permissions::from_mode(0o777)).unwrap();
    let path = |name: &str| written.join(name).to_str().unwrap().to_owned();
    let process = Process::launch(
        with_open_umask(),
        directory.path(),
        ["127.0.0.1:0"; 3],
        &["--data-dir", &path("data")],
    );
    let process = tokio::task::spawn_blocking(|| process.ready()).await.unwrap();
    crate::process::mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
    let program = |arguments: &[&str]| {
        let done = with_open_umask()
            .args(arguments)
            .env("MUTE_TOKEN", SERVICE.1.trim_start_matches("Bearer "))
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    program(&["backup", "--from", &process.admin(), "--output", &path("backup")]);
    drop(process);
    program(&["restore", "--data-dir", &path("restored"), &path("backup")]);
    program(&["export", "--data-dir", &path("data"), "--output", &path("export")]);
    program(&["import", "--data-dir", &path("imported"), &path("export")]);
    assert_eq!(open_to_others(&written), [""; 0]);
    let addresses =
        fs::metadata(directory.path().join("addresses.json")).unwrap().permissions().mode();
    assert_eq!(addresses & 0o077, 0, "{addresses:o}");
}

#[test]
fn written_files_replace_links_instead_of_following_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("victim"), "precious").unwrap();
    let process = Process::spawn(directory.path(), directory.path(), &[]).ready();
    drop(process);
    for (name, command) in [("export", "export"), ("backup", "backup")] {
        symlink(path("victim"), path(name)).unwrap();
        let done = run(&[command, "--data-dir", &path("data"), "--output", &path(name)]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(fs::symlink_metadata(path(name)).unwrap().is_file(), "{name}");
        assert_eq!(fs::read_to_string(path("victim")).unwrap(), "precious", "{name}");
    }
}

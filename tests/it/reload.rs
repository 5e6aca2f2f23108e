//! Apps, services and keys are reloaded while the service runs: completely or not at all.

use std::{fs, path::Path, process::Command};

use mute_service::proto::v1 as pb;
use tonic::Code;

use crate::{
    certificates::Authority,
    cluster::until,
    harness::{SERVICE, with},
    process::{Process, mute, run, text},
};

async fn code(process: &Process, app: &str, token: &str) -> Code {
    let message = pb::CheckSendRequest {
        app: app.into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    };
    let bearer = format!("Bearer {token}");
    let checked =
        process.mutes().await.check_send(with(message, &[("authorization", &bearer)])).await;
    checked.err().map_or(Code::Ok, |status| status.code())
}

fn append(directory: &Path, config: &str) {
    let path = directory.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{config}")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_apps_and_services_may_call_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    assert_eq!(code(&process, "New", "dev-service-token").await, Code::NotFound);
    let hash = text(&run(&["hash-key", "the token of the new one, and a long one"]).stdout);
    let service = format!(
        "[[services]]\nname = \"new\"\ntoken_hash = \"{}\"\nscopes = [\"check\"]\napps = [\"New\"]\n",
        hash.trim()
    );
    append(directory.path(), &format!("[[apps]]\nkey = \"New\"\ndirectory = \"open\"\n{service}"));
    process.signal("-HUP");
    let new = "the token of the new one, and a long one";
    until("the new service may call", async || code(&process, "New", new).await == Code::Ok).await;
    assert_eq!(code(&process, "New", "dev-service-token").await, Code::Ok);
    assert_eq!(code(&process, "Open", new).await, Code::PermissionDenied);
    append(directory.path(), "[[apps]]\nkey = \"Third\"\ndirectory = \"shut\"\n");
    process.signal("-HUP");
    let log = || fs::read_to_string(directory.path().join("log")).unwrap();
    until("the bad file is logged", async || log().contains("were not reloaded")).await;
    assert!(log().contains("[[apps]] number 3"), "{}", log());
    assert_eq!(code(&process, "New", new).await, Code::Ok);
    assert_eq!(code(&process, "Open", SERVICE.1.trim_start_matches("Bearer ")).await, Code::Ok);
    // The file is also reloaded without a signal, and a removed service may no longer call.
    let path = directory.path().join("config.toml");
    let first = fs::read_to_string(&path).unwrap();
    fs::write(&path, &first[..first.find("[[apps]]\nkey = \"New\"").unwrap()]).unwrap();
    until("the service is removed", async || {
        code(&process, "New", new).await == Code::Unauthenticated
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_is_rotated_without_a_refused_call() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let path = directory.path().join("config.toml");
    let base = fs::read_to_string(&path).unwrap();
    let hash = |key: &str| text(&run(&["hash-key", key]).stdout).trim().to_owned();
    let list = |keys: &[&str], quoted: &dyn Fn(&str) -> String| {
        let quoted: Vec<_> = keys.iter().map(|key| format!("\"{}\"", quoted(key))).collect();
        if let [one] = &quoted[..] { one.clone() } else { format!("[{}]", quoted.join(", ")) }
    };
    let configured = |keys: &[&str], more: &str| {
        let hashes = list(keys, &hash);
        let plain = list(keys, &str::to_owned);
        format!(
            "{base}[[apps]]\nkey = \"Turn\"\ndirectory = \"open\"\napi_key_hash = {hashes}\nclient_id = \"turn\"\nclient_secret_hash = {hashes}\n\
             token_secret = {plain}\n{more}[[services]]\nname = \"turn\"\ntoken_hash = {hashes}\nscopes = [\"check\"]\napps = [\"Turn\"]\n"
        )
    };
    let set = async |keys: &[&str], more: &str| {
        let log = || {
            fs::read_to_string(directory.path().join("log"))
                .unwrap()
                .matches("were reloaded")
                .count()
        };
        let before = log();
        fs::write(&path, configured(keys, more)).unwrap();
        process.signal("-HUP");
        until("it was read again", async || log() > before).await;
    };
    let minted = |arguments: &[&str]| {
        let arguments =
            [&["token", "--config", path.to_str().unwrap(), "--app", "Turn"], arguments].concat();
        let token = run(&arguments);
        let info = text(&token.stderr);
        let id = info.split("id ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        (text(&token.stdout).trim().to_owned(), id, info)
    };
    let list_code = async |header: (&'static str, &str)| {
        let message = pb::ListMutedMembersRequest {
            app: "Turn".into(),
            room: "room".into(),
            ..Default::default()
        };
        let listed = process.mutes().await.list_muted_members(with(message, &[header])).await;
        listed.err().map_or(Code::Ok, |status| status.code())
    };
    let issued = async |secret: &str| {
        let message = pb::IssueTokenRequest {
            app: "Turn".into(),
            client_id: "turn".into(),
            client_secret: secret.into(),
            ..Default::default()
        };
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", process.grpc()))
            .unwrap()
            .connect()
            .await
            .unwrap();
        pb::token_service_client::TokenServiceClient::new(channel)
            .issue_token(message)
            .await
            .is_ok()
    };
    let old = "the old key, which is a long one";
    let new = "the new key, which is a long one";
    set(&[old], "").await;
    let (old_token, ..) = minted(&["--ttl", "0"]);
    // Whether the token, the API key, the service token and the client secret of this key are
    // accepted.
    let accepted = async |key: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let by_token = list_code(("authorization", bearer.as_str())).await == Code::Ok;
        let by_key = list_code(("im-api-key", key)).await == Code::Ok;
        let service = code(&process, "Turn", key).await == Code::Ok;
        [by_token, by_key, service, issued(key).await]
    };
    assert_eq!((accepted(old, &old_token).await, accepted(new, "").await), ([true; 4], [false; 4]));
    set(&[new, old], "").await;
    let checked = text(&run(&["check-config", "--config", path.to_str().unwrap()]).stdout);
    assert!(
        checked.contains("app Turn: two values of api_key_hash are valid")
            && checked.contains(" signs; tokens signed by "),
        "{checked}"
    );
    let (new_token, id, info) = minted(&["--ttl", "0"]);
    assert!(info.starts_with("does not expire"), "{info}");
    assert_eq!(
        (accepted(old, &old_token).await, accepted(new, &new_token).await),
        ([true; 4], [true; 4])
    );
    set(&[new], "").await;
    assert_eq!(
        (accepted(old, &old_token).await, accepted(new, &new_token).await),
        ([false; 4], [true; 4])
    );
    // Revokes one token, then all tokens issued before a time.
    set(&[new], &format!("revoked_tokens = [\"{id}\"]\n")).await;
    let (other, _, info) = minted(&[]);
    assert!(info.starts_with("expires 2"), "{info}");
    assert_eq!(
        (accepted(new, &new_token).await, accepted(new, &other).await),
        ([false, true, true, true], [true; 4])
    );
    set(&[new], "tokens_not_before = 2999-01-01T00:00:00Z\n").await;
    assert_eq!(accepted(new, &other).await, [false, true, true, true]);
}

#[tokio::test]
async fn a_change_before_the_first_wait_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, "a").unwrap();
    let mut files = mute_service::files::FileWatcher::new(vec![path.clone()]);
    // For example while a service starts.
    fs::write(&path, "ab").unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(20), files.changed()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_when_its_service_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let watch = || with(pb::WatchRequest { app: "Open".into(), ..Default::default() }, &[SERVICE]);
    let mut watch = process.mutes().await.watch(watch()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let path = directory.path().join("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    // A reload without a change does not end the watch.
    process.signal("-HUP");
    let log = || fs::read_to_string(directory.path().join("log")).unwrap();
    until("it was read again", async || log().contains("were reloaded")).await;
    mute(&mut process.mutes().await, "room", vec!["u".into()]).await.unwrap();
    assert!(watch.message().await.unwrap().is_some());
    fs::write(&path, &config[..config.find("[[services]]").unwrap()]).unwrap();
    process.signal("-HUP");
    // All services are gone, which is believed the second time.
    until("it is doubted", async || log().contains("send SIGHUP again")).await;
    process.signal("-HUP");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    });
    assert_eq!(ended.await.unwrap().code(), Code::Unauthenticated);
}

/// The value of a metric.
async fn metric(process: &Process, name: &str) -> Option<f64> {
    let page = reqwest::get(format!("{}/metrics", process.admin())).await.unwrap();
    let page = page.text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn outcome(name: &str, what: &str, outcome: &str) -> String {
    format!("mute_{name}{{what=\"{what}\",outcome=\"{outcome}\"}}")
}

async fn doubted(process: &Process) -> f64 {
    metric(process, &outcome("reloads_total", "config", "doubted")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_file_is_kept_out_until_it_is_read_twice() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let path = directory.path().join("config.toml");
    let whole = fs::read_to_string(&path).unwrap() + "# the end";
    fs::write(&path, &whole).unwrap();
    process.signal("-HUP");
    let reloads = outcome("reloads_total", "config", "ok");
    until("the end is taken", async || metric(&process, &reloads).await == Some(1.0)).await;
    let service = SERVICE.1.trim_start_matches("Bearer ");
    let last = outcome("last_reload_timestamp_seconds", "config", "ok");
    assert!(metric(&process, &last).await.unwrap() > 1.7e9);
    // Empty, cut before the services, and in the comment that ends the file.
    let cuts = [0, whole.find("[[services]]").unwrap(), whole.len() - 1];
    for (times, cut) in cuts.into_iter().enumerate() {
        fs::write(&path, &whole[..cut]).unwrap();
        process.signal("-HUP");
        let before = times as f64;
        until("it is doubted", async || doubted(&process).await > before).await;
        assert_eq!(code(&process, "Open", service).await, Code::Ok);
        fs::write(&path, &whole).unwrap();
        process.signal("-HUP");
        until("the whole file is taken", async || {
            metric(&process, &reloads).await > Some(before + 1.0)
        })
        .await;
    }
    assert!(process.logged().contains("ERROR") && process.logged().contains("send SIGHUP again"));
    // Without a signal: met by the poll, and believed when it stays so.
    fs::write(&path, "").unwrap();
    until("the poll doubts it", async || doubted(&process).await == 4.0).await;
    assert_eq!(code(&process, "Open", service).await, Code::Ok);
    until("it is believed", async || {
        code(&process, "Open", service).await == Code::Unauthenticated
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_has_nothing_locks_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path());
    let path = directory.path().join("config.toml");
    let whole = fs::read_to_string(&path).unwrap();
    let service = SERVICE.1.trim_start_matches("Bearer ");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    // The signal comes first: a writer waits for the reader.
    let piped = async |text: &str| {
        process.signal("-HUP");
        let (path, text) = (path.clone(), text.to_owned());
        tokio::task::spawn_blocking(move || fs::write(path, text)).await.unwrap().unwrap();
    };
    let reloads = async |name: &str| {
        metric(&process, &outcome("reloads_total", "config", name)).await.unwrap()
    };
    for _ in 0..2 {
        piped("").await;
        until("nothing is doubted", async || doubted(&process).await == 1.0).await;
        assert_eq!(code(&process, "Open", service).await, Code::Ok);
    }
    piped(&whole).await;
    until("the whole is taken", async || reloads("ok").await == 1.0).await;
    piped("# no app\n").await;
    until("it is doubted", async || doubted(&process).await == 2.0).await;
    assert_eq!(code(&process, "Open", service).await, Code::Ok);
    piped("# no app\n").await;
    until("the same again is believed", async || reloads("ok").await == 2.0).await;
    assert_eq!(code(&process, "Open", service).await, Code::Unauthenticated);
    // A signal without a writer keeps nobody from stopping the service.
    process.signal("-HUP");
    process.signal("-TERM");
    assert_eq!(process.exit_code(std::time::Duration::from_secs(20)), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_and_reloads_of_certificates_are_exported() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    authority.issue("tls", "127.0.0.1");
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let [cert, key, ca] = ["tls.pem", "tls.key", "ca.pem"].map(file);
    let arguments = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let process = Process::spawn(directory.path(), directory.path(), &arguments).ready();
    for certificate in ["tls_cert", "tls_client_ca"] {
        let name =
            format!("mute_certificate_end_timestamp_seconds{{certificate=\"{certificate}\"}}");
        // rcgen's default: the year 4096.
        assert_eq!(metric(&process, &name).await, Some(67_090_118_400.0), "{certificate}");
    }
    fs::write(file("tls.pem"), "").unwrap();
    let failed = outcome("reloads_total", "certificate", "failed");
    until("the emptied file is an error", async || metric(&process, &failed).await > Some(0.0))
        .await;
    assert!(
        metric(&process, &outcome("last_reload_timestamp_seconds", "certificate", "ok"))
            .await
            .is_some()
    );
}

//! The metrics that /metrics exports. The dashboard and the alerts use no others.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use mute_service::proto::v1 as pb;

use crate::{
    certificates::Authority,
    cluster::until,
    harness::{SERVICE, duration, with},
    process::{Process, mute},
    tools::has_program,
};

/// The page and its type, for this header `Accept`.
async fn page(process: &Process, accept: &str) -> (String, String) {
    let request = reqwest::Client::new().get(format!("{}/metrics", process.admin()));
    let answer = request.header("accept", accept).send().await.unwrap();
    assert_eq!(answer.headers()["vary"], "accept");
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (content_type, answer.text().await.unwrap())
}

async fn scrape(process: &Process) -> String {
    let (content_type, text) = page(process, "application/openmetrics-text").await;
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    text
}

/// Runs promtool with this text as its input.
fn promtool(text: &str) -> Output {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    promtool.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_finds_no_fault_in_the_text_format() {
    if !has_program("promtool", "prometheus") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    mute(&mut process.mutes().await, "lobby", vec!["u".into()]).await.unwrap();
    reqwest::get(format!("{}/no/such/path", process.rest())).await.unwrap();
    for accept in ["text/plain", "*/*", "text/html"] {
        let (content_type, text) = page(&process, accept).await;
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8", "{accept}");
        assert_eq!(value(&text, "mute_commits_total"), 1.0);
        let checked = promtool(&text);
        let complaints = [checked.stdout, checked.stderr].concat();
        assert!(
            checked.status.success() && complaints.is_empty(),
            "{}",
            String::from_utf8_lossy(&complaints)
        );
    }
    // Both formats have the same samples.
    let samples = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
    };
    let plain: BTreeSet<String> = samples(&page(&process, "text/plain").await.1);
    assert_eq!(plain, samples(&scrape(&process).await));
}

/// The value of the sample with this name and these labels.
fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"))
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// The labels of a unary RPC of the mute service.
fn labels(method: &str) -> String {
    format!("grpc_type=\"unary\",grpc_service=\"mute.v1.MuteService\",grpc_method=\"{method}\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_checks_commits_and_refusals_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let mut mutes = process.mutes().await;
    let short = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "lobby".into(),
        users: vec!["short".into()],
        duration: Some(duration(100)),
        ..Default::default()
    };
    mutes.mute_members(with(short, &[SERVICE])).await.unwrap();
    mute(&mut mutes, "lobby", vec!["u".into()]).await.unwrap();
    for (user, headers) in
        [("u", &[SERVICE][..]), ("other", &[SERVICE]), ("other", &[SERVICE]), ("u", &[])]
    {
        let check = pb::CheckSendRequest {
            app: "Open".into(),
            room: "lobby".into(),
            user: user.into(),
            min_revision: 0,
        };
        let _ = mutes.check_send(with(check, headers)).await;
    }
    reqwest::get(format!("{}/no/such/path", process.rest())).await.unwrap();
    // An expiry is counted when the sweeper removes its record.
    until("the expiry is counted", async || {
        value(&scrape(&process).await, "mute_expiry_lag_seconds_count") == 1.0
    })
    .await;
    let metrics = scrape(&process).await;
    for (name, expected) in [
        (format!("grpc_server_started_total{{{}}}", labels("CheckSend")), 4.0),
        (format!("grpc_server_handled_total{{{},grpc_code=\"OK\"}}", labels("CheckSend")), 3.0),
        (
            format!(
                "grpc_server_handled_total{{{},grpc_code=\"Unauthenticated\"}}",
                labels("CheckSend")
            ),
            1.0,
        ),
        (format!("grpc_server_handling_seconds_count{{{}}}", labels("MuteMembers")), 2.0),
        ("mute_checks_total{answer=\"denied\",rule=\"member_mute\"}".into(), 1.0),
        ("mute_checks_total{answer=\"allowed\",rule=\"none\"}".into(), 2.0),
        // Two mutes and one expiry.
        ("mute_commits_total".into(), 3.0),
        ("mute_commit_seconds_count".into(), 3.0),
        ("mute_expiries_total".into(), 1.0),
        ("mute_expiry_lag_seconds_count".into(), 1.0),
        ("mute_records{kind=\"member_mute\"}".into(), 1.0),
        ("mute_auth_failures_total{reason=\"MISSING_TOKEN\"}".into(), 1.0),
        ("mute_auth_failures_total{reason=\"INVALID_TOKEN\"}".into(), 0.0),
        ("mute_store_errors_total{reason=\"STORE_FULL\"}".into(), 0.0),
        ("mute_rest_handled_total{api=\"agora\",status=\"404\"}".into(), 1.0),
    ] {
        assert_eq!(value(&metrics, &name), expected, "{name}");
    }
    assert!(value(&metrics, "mute_disk_bytes") > 0.0 && metrics.trim_end().ends_with("# EOF"));
    assert!(
        !metrics.contains("\"Open") && !metrics.contains("lobby"),
        "no label has a value that a caller chooses"
    );
}

/// The words of the text that start like the name of a metric.
fn names(text: &str) -> BTreeSet<String> {
    let words =
        text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words
        .filter(|word| word.starts_with("mute_") || word.starts_with("grpc_server_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboard_and_alerts_use_only_exported_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    reqwest::get(format!("{}/no/such/path", process.rest())).await.unwrap();
    let mut exported = names(&scrape(&process).await);
    // The end of a certificate, where there is one.
    let secured = tempfile::tempdir().unwrap();
    Authority::new(secured.path(), "ca").issue("tls", "127.0.0.1");
    let [cert, key] = ["tls.pem", "tls.key"].map(|name| secured.path().join(name));
    let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let process = Process::spawn(secured.path(), secured.path(), &tls).ready();
    exported.extend(names(&scrape(&process).await));
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for file in ["grafana/dashboard.json", "prometheus/alerts.yaml"] {
        let used = names(&fs::read_to_string(deploy.join(file)).unwrap());
        let unknown: Vec<_> =
            used.difference(&exported).filter(|name| !is_no_metric(name)).collect();
        assert!(used.len() > 10 && unknown.is_empty(), "{file}: {unknown:?}");
    }
}

/// Words that look like the name of a metric but belong to the dashboard itself.
fn is_no_metric(name: &str) -> bool {
    name == "mute_service"
}

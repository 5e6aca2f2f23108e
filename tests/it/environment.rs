//! The variables `MUTE_...` of the environment.

use std::{fs, process::Output};

use crate::process::{Process, build, text};

/// What `check-config --dev` says with these variables and arguments.
fn check(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = build();
    command.args(["check-config", "--dev"]).args(arguments).envs(variables.iter().copied());
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), text(&stderr))
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    for variable in ["MUTE_REST_ADDR", "MUTE_MAX_USERS", "MUTE_STORE", "MUTE_CONFIG", "MUTE_DEV"] {
        assert_eq!(check(&[(variable, "")], &[]), (Some(0), String::new()), "{variable}");
    }
    let all: Vec<_> = ["LOG", "LOG_FORMAT", "TRUSTED_PROXIES", "REFUSE_OLD_VIEWS", "TLS_CERT"]
        .map(|name| format!("MUTE_{name}"))
        .into();
    let all: Vec<_> = all.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(check(&all, &[]), (Some(0), String::new()));
    // Those of `ctl` too.
    let mut ctl = build();
    ctl.args(["ctl", "list", "room"]).envs([("MUTE_APP", ""), ("MUTE_ADDR", "")]);
    let refused = text(&ctl.output().unwrap().stderr);
    assert!(refused.contains("no app is named"), "{refused}");
}

#[test]
fn an_unknown_variable_is_named_with_the_nearest() {
    for (unknown, nearest) in [
        ("MUTE_RATELIMIT", "MUTE_RATE_LIMIT"),
        ("MUTE_ETCD_ENDPOINT", "MUTE_ETCD_ENDPOINTS"),
        ("MUTE_TOKN", "MUTE_TOKEN"),
        ("MUTE_LOGS", "MUTE_LOG"),
    ] {
        let (code, said) = check(&[(unknown, "x-secret")], &[]);
        assert!(said.contains(&format!("{unknown} is unknown")), "{said}");
        assert!(said.contains(&format!("the nearest one is {nearest}\n")), "{said}");
        assert!(code == Some(0) && !said.contains("x-secret"), "{said}");
    }
    let known = [
        ("MUTE_ADDR", "http://127.0.0.1:1"),
        ("MUTE_TEST_SEED", "1"),
        ("MUTE_BENCH_AGAINST", "x"),
        ("MUTE_BLESS", "1"),
        // Kubernetes sets these for a service "mute-service".
        ("MUTE_SERVICE_SERVICE_HOST", "10.0.0.1"),
        ("MUTE_SERVICE_SERVICE_PORT_GRPC", "50051"),
        ("MUTE_SERVICE_PORT", "tcp://10.0.0.1:50051"),
        ("MUTE_SERVICE_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("MUTEX", "1"),
    ];
    assert_eq!(check(&known, &[]), (Some(0), String::new()));
}

#[test]
fn serve_logs_an_unknown_variable() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = build();
    command.args(["serve", "--dev", "--log-format", "json"]).env("MUTE_RATELIMIT", "7");
    let process = Process::spawn_bare(command, directory.path()).ready();
    let log = process.logged();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines
            .iter()
            .any(|line| line["level"] == "WARN" && line.to_string().contains("MUTE_RATE_LIMIT")),
        "{log}"
    );
}

#[test]
fn a_bad_value_names_its_variable() {
    for (variable, value) in [
        ("MUTE_REST_ADDR", "nowhere"),
        ("MUTE_STORE", "paper"),
        ("MUTE_RATE_LIMIT", "many"),
        ("MUTE_TRUSTED_PROXIES", "proxy"),
        ("MUTE_REFUSE_OLD_VIEWS", "maybe"),
        // What is checked later, together with all other settings.
        ("MUTE_MAX_USERS", "0"),
        ("MUTE_KEEP_DAYS", "0"),
        ("MUTE_OTLP_ENDPOINT", "here"),
        ("MUTE_TLS_CERT", "cert.pem"),
        ("MUTE_LOG", "loud"),
        ("MUTE_LOG", "mute_service=loud"),
        ("MUTE_LOG", ","),
    ] {
        let (code, said) = check(&[(variable, value)], &[]);
        assert!(code == Some(64) && said.contains(variable), "{variable}: {code:?} {said}");
    }
    // A flag comes before the variable, so the value is that of the flag.
    let (code, said) = check(&[("MUTE_REST_ADDR", ":1")], &["--rest-addr", "nowhere"]);
    assert!(code == Some(64) && !said.contains("the variable"), "{said}");
}

#[test]
fn a_log_level_that_does_not_parse_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut serve = build();
    serve.args(["serve", "--dev"]).env("MUTE_LOG", "debugg").current_dir(directory.path());
    let refused = serve.output().unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(text(&refused.stderr).contains("MUTE_LOG \"debugg\""), "{}", text(&refused.stderr));
    for good in ["debug", "WARN", "mute_service=debug, h2=warn", "off", "info,sled=error"] {
        assert_eq!(check(&[("MUTE_LOG", good)], &[]), (Some(0), String::new()), "{good}");
    }
}

#[test]
fn addresses_are_taken_as_people_write_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = build();
    command.args(["serve", "--dev", "--rest-addr", "localhost:0", "--trusted-proxies", "10.0.0.1"]);
    let process = Process::spawn_bare(command, directory.path()).ready();
    assert!(process.rest().starts_with("http://127.0.0.1:"), "{}", process.rest());
    let path = directory.path().join("config.toml");
    let file = "rest_addr = \":0\"\ngrpc_addr = \"localhost:0\"\ntrusted_proxies = [\"::1\"]\n";
    let config = ["--config", path.to_str().unwrap()];
    for (file, word) in [
        (file, ":0"),
        ("rest_addr = \"here\"\n", "IP:PORT"),
        ("trusted_proxies = [\"here\"]\n", "10.0.0.0/8"),
    ] {
        fs::write(&path, file).unwrap();
        let (code, said) = check(&[], &config);
        // `:0` is understood, and then refused in dev mode.
        assert!(code == Some(64) && said.contains(word), "{said}");
        assert_eq!(said.contains("loopback"), word == ":0", "{said}");
    }
}

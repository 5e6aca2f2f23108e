//! What the operator learns of a refused credential, and the caller does not: its cause, in the
//! log at debug and in a metric.

use super::*;
use crate::process::program;

const APP: &str = r#"
[[apps]]
key = "Other"
directory = "open"
token_secret = "another secret of sixteen"
revoked_tokens = ["revoked"]
"#;

/// A user token of the app `Other`, with these claims, signed with this secret.
fn user_token(secret: &str, claims: Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

async fn metrics(process: &Process) -> String {
    reqwest::get(format!("{}/metrics", process.admin())).await.unwrap().text().await.unwrap()
}

/// The lines of the log about refused credentials.
fn lines(log: &Path) -> Vec<Value> {
    let log = fs::read_to_string(log).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "a credential was refused").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cause_of_a_refusal_is_logged_and_counted_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::ec("one");
    let stranger = Signer::ec("one");
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let mut command = program();
    command.env("MUTE_LOG", "mute_service=debug");
    let process = Process::launch_with(
        command,
        directory.path(),
        ["127.0.0.1:0"; 3],
        &["--log-format", "json"],
        &(config(&format!("jwks_file = {keys:?}")) + APP),
    )
    .ready();
    let now = now_s();
    let secret = "another secret of sixteen";
    let of_issuer = json!({"credential": "token", "issuer": KUBERNETES, "kid": "one"});
    let of_app = json!({"credential": "token", "app": "Other"});
    let user = |change: Value| {
        let mut claims = json!({"app": "Other", "id": "u", "exp": now + 60});
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        claims
    };
    let five = Header { kid: Some("five".into()), ..signer.header() };
    let other_algorithm = Signer { algorithm: Algorithm::RS256, ..Signer::rsa("one") };
    let cases = [
        ("expired", signer.sign(&claims_with(json!({"exp": now - 40}))), &of_issuer),
        ("not_yet_valid", signer.sign(&claims_with(json!({"nbf": now + 600}))), &of_issuer),
        ("wrong_audience", signer.sign(&claims_with(json!({"aud": "other"}))), &of_issuer),
        ("missing_claim", signer.sign(&claims_without("exp")), &of_issuer),
        ("wrong_signature", stranger.sign(&claims()), &of_issuer),
        ("wrong_algorithm", other_algorithm.sign(&claims()), &of_issuer),
        ("unknown_subject", signer.sign(&claims_with(json!({"sub": "other"}))), &of_issuer),
        (
            "unknown_issuer",
            signer.sign(&claims_with(json!({"iss": OTHER}))),
            &json!({"issuer": OTHER}),
        ),
        (
            "unknown_key",
            signer.sign_as(&five, &claims()),
            &json!({"issuer": KUBERNETES, "kid": "five"}),
        ),
        ("wrong_signature", user_token("a guess of sixteen", user(json!({}))), &of_app),
        ("expired", user_token(secret, user(json!({"exp": now - 1}))), &of_app),
        ("missing_claim", user_token(secret, json!({"app": "Other", "exp": now + 60})), &of_app),
        ("revoked", user_token(secret, user(json!({"jti": "revoked"}))), &of_app),
        (
            "unknown_app",
            user_token(secret, user(json!({"app": "Nowhere"}))),
            &json!({"app": "Nowhere"}),
        ),
        ("not_a_token", "what somebody pasted".to_owned(), &json!({"credential": "token"})),
    ];
    for (number, (cause, token, claimed)) in cases.iter().enumerate() {
        // Twice: the second time, the result of the signature is known.
        for _ in 0..2 {
            let status = actor(&process, token).await.unwrap_err();
            let words = [
                "the token is invalid or has expired",
                "malformed token: it is not a JWT",
                "the token is valid, but its subject is not a configured service",
            ];
            assert!(words.contains(&status.message()), "{cause}: {status:?}");
        }
        let log = directory.path().join("log");
        until(async || lines(&log).len() >= 2 * number + 2).await;
        let found = lines(&log);
        let [.., before, line] = &found[..] else { panic!("{cause}: {found:?}") };
        assert_eq!((found.len(), &before["cause"]), (2 * number + 2, &line["cause"]));
        assert_eq!(line["cause"], *cause, "{line}");
        for (name, value) in claimed.as_object().unwrap() {
            assert_eq!(&line[name], value, "{cause}: {line}");
        }
    }
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    for (cause, token, _) in &cases {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!log.contains(signature), "{cause}: the token is in the log");
        let mut of_cause = cases.iter().filter(|(other, _, _)| other == cause);
        let count = 2 * of_cause.by_ref().count();
        let metric = format!("mute_credentials_refused_total{{cause=\"{cause}\"}} {count}\n");
        assert!(metrics(&process).await.contains(&metric), "{metric}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_user_is_in_the_log_of_a_credential_for_another_app() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program();
    command.env("MUTE_LOG", "mute_service=debug");
    let arguments = ["--log-format", "json"];
    let addresses = ["127.0.0.1:0"; 3];
    let process =
        Process::launch_with(command, directory.path(), addresses, &arguments, APP).ready();
    let claims = json!({"app": "Other", "id": "somebody", "exp": now_s() + 60});
    let token = user_token("another secret of sixteen", claims);
    actor(&process, &token).await.unwrap_err();
    let log = directory.path().join("log");
    until(async || !lines(&log).is_empty()).await;
    let line = &lines(&log)[0];
    for (name, value) in [("cause", "wrong_app"), ("credential", "user token"), ("app", "Other")] {
        assert_eq!(line[name], value, "{line}");
    }
    assert!(!fs::read_to_string(&log).unwrap().contains("somebody"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_keys_and_secrets_are_counted_by_cause() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::dev(directory.path());
    let get = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = reqwest::Client::new().get(format!("{}{path}", process.rest()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(get("/admin/clients", &[("IM-API-KEY", "a guess")]).await, 401);
    assert_eq!(get("/me", &[("IM-CLIENT-KEY", "a guess"), ("IM-Authorization", "x")]).await, 403);
    assert_eq!(get("/me", &[]).await, 403);
    let guess =
        r#"{"grant_type":"client_credentials","client_id":"dev-client","client_secret":"x"}"#;
    let url = format!("{}/easemob-demo/testapp/token", process.rest());
    let answer = reqwest::Client::new().post(url).body(guess).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    // A key of another app than that of the path.
    let headers = [("IM-API-KEY", "dev-api-key")];
    assert_eq!(get("/easemob-demo/testapp/mutes", &headers).await, 401);
    let metrics = metrics(&process).await;
    for cause in ["unknown_api_key", "unknown_client_key", "wrong_client_secret", "wrong_app"] {
        let metric = format!("mute_credentials_refused_total{{cause=\"{cause}\"}} 1\n");
        assert!(metrics.contains(&metric), "{metrics}");
    }
    let counted = metrics.lines().filter(|line| line.starts_with("mute_credentials_refused_total"));
    let sum: u64 =
        counted.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 4, "a request without credentials is no refused one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_too_early_is_accepted_in_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::ec("one");
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let process = spawn(directory.path(), &format!("jwks_file = {keys:?}"));
    // Early by two seconds more than clocks may differ.
    let token = signer.sign(&claims_with(json!({"nbf": now_s() + 32})));
    assert_eq!(refusal(&process, &token).await, "INVALID_TOKEN");
    until(async || actor(&process, &token).await.is_ok()).await;
}

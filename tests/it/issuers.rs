//! Services that authenticate with the token of an issuer, such as Kubernetes' service accounts:
//! which tokens are valid, and where their keys come from.

mod refusals;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use mute_service::proto::v1 as pb;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};
use tonic::Status;

use crate::{
    certificates::Authority,
    harness::{reason, with},
    process::{Process, run, text},
};

const KUBERNETES: &str = "https://kubernetes.default.svc.cluster.local";
const OTHER: &str = "https://accounts.example";
const CHAT: &str = "system:serviceaccount:chat:chat-server";

/// A service that is identified by a service account, and the issuer with these keys.
fn config(keys: &str) -> String {
    format!(
        r#"
[[services]]
name = "chat"
issuer = "{KUBERNETES}"
subjects = ["{CHAT}"]
scopes = ["check", "write"]
apps = ["*"]

[[issuers]]
issuer = "{KUBERNETES}"
audience = "mute-service"
{keys}
"#
    )
}

struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: &'static str,
}

impl Signer {
    fn rsa(kid: &'static str) -> Self {
        let key = EncodingKey::from_rsa_der(include_bytes!("../golden/tokens/rsa.der"));
        Self { key, algorithm: Algorithm::RS256, kid }
    }

    fn ec(kid: &'static str) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Self {
            key: EncodingKey::from_ec_der(key.serialized_der()),
            algorithm: Algorithm::ES256,
            kid,
        }
    }

    /// The public key as the issuer publishes it.
    fn jwk(&self) -> Value {
        let mut jwk = json!(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap());
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.kid.to_owned()), ..Header::new(self.algorithm) }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    fn sign_as(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The claims in the token of a Kubernetes service account.
fn claims() -> Value {
    let now = now_s();
    json!({
        "aud": ["mute-service"], "exp": now + 600, "iat": now, "nbf": now, "iss": KUBERNETES, "sub": CHAT,
        "kubernetes.io": {"namespace": "chat", "serviceaccount": {"name": "chat-server", "uid": "5c1a0b6e"}},
    })
}

fn claims_with(change: Value) -> Value {
    let mut claims = claims();
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn claims_without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Mutes a user and returns the actor of the mute.
async fn actor(process: &Process, token: &str) -> Result<String, Status> {
    let mut client = process.mutes().await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        users: vec!["u".into()],
        ..Default::default()
    };
    client.mute_members(with(message, &headers)).await?;
    let message = pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    };
    client.check_send(with(message, &headers)).await.map(|answer| answer.into_inner().actor)
}

async fn refusal(process: &Process, token: &str) -> String {
    actor(process, token)
        .await
        .map_or_else(|status| reason(&status), |actor| format!("accepted, from {actor}"))
}

fn spawn(directory: &Path, keys: &str) -> Process {
    Process::spawn_with(directory, directory, &[], &config(keys)).ready()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuers_token_is_accepted_and_a_forged_one_refused() {
    let directory = tempfile::tempdir().unwrap();
    let rsa = Signer::rsa("one");
    let ec = Signer::ec("two");
    let stranger = Signer::ec("three");
    let keys = directory.path().join("jwks.json");
    // A key that is not for signatures verifies none, whatever its kid.
    let secret = json!({"kty": "oct", "k": BASE64.encode("a secret of sixteen"), "kid": "four", "alg": "HS256"});
    fs::write(&keys, json!({"keys": [rsa.jwk(), ec.jwk(), secret, {"kty": "new"}]}).to_string())
        .unwrap();
    let others = directory.path().join("others.json");
    fs::write(&others, json!({"keys": [stranger.jwk()]}).to_string()).unwrap();
    let more = format!(
        "[[issuers]]\nissuer = \"{OTHER}\"\naudience = \"mute-service\"\njwks_file = {:?}\n",
        others
    );
    let process = spawn(directory.path(), &format!("jwks_file = {keys:?}\n{more}"));

    let now = now_s();
    let good = [
        rsa.sign(&claims()),
        ec.sign(&claims()),
        rsa.sign(&claims_with(json!({"aud": "mute-service"}))),
        rsa.sign(&claims_with(
            json!({"aud": ["other", "mute-service"], "exp": now - 10, "nbf": now + 10}),
        )),
        rsa.sign(&claims_without("nbf")),
    ];
    for token in &good {
        for _ in 0..2 {
            assert_eq!(actor(&process, token).await.unwrap(), "service:chat", "{token}");
        }
    }
    // Signed by the issuer, for a subject that is not configured.
    let unknown = rsa.sign(&claims_with(json!({"sub": "system:serviceaccount:chat:other"})));
    assert_eq!(refusal(&process, &unknown).await, "PERMISSION_DENIED");
    let others = stranger.sign(&claims_with(json!({"iss": OTHER})));
    assert_eq!(
        refusal(&process, &others).await,
        "PERMISSION_DENIED",
        "a subject belongs to its own issuer only"
    );

    let (signed, signature) = good[0].rsplit_once('.').unwrap();
    let (head, _) = signed.split_once('.').unwrap();
    let encoded = |value: &Value| BASE64.encode(value.to_string());
    let hmac = |secret: &[u8], kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap()
    };
    let modulus = BASE64.decode(rsa.jwk()["n"].as_str().unwrap()).unwrap();
    let forged = [
        (
            "alg none",
            format!("{}.{}.", encoded(&json!({"alg": "none", "kid": "one"})), encoded(&claims())),
        ),
        (
            "alg none, with a signature",
            format!("{}.{}.{signature}", encoded(&json!({"alg": "none"})), encoded(&claims())),
        ),
        ("HS256 with the modulus", hmac(&modulus, "one")),
        ("HS256 with the public key as published", hmac(rsa.jwk().to_string().as_bytes(), "one")),
        ("HS256 with the set", hmac(&fs::read(&keys).unwrap(), "one")),
        ("HS256 with the set's secret key", hmac(b"a secret of sixteen", "four")),
        (
            "another RSA algorithm",
            rsa.sign_as(&Header { alg: Algorithm::RS512, ..rsa.header() }, &claims()),
        ),
        (
            "PSS of the same key",
            rsa.sign_as(&Header { alg: Algorithm::PS256, ..rsa.header() }, &claims()),
        ),
        ("the key of another issuer", stranger.sign(&claims())),
        (
            "the key of another issuer, under a kid of this one",
            Signer { kid: "two", ..Signer::ec("") }.sign(&claims()),
        ),
        (
            "the kid of another key",
            rsa.sign_as(&Header { kid: Some("two".into()), ..rsa.header() }, &claims()),
        ),
        (
            "an unknown kid",
            rsa.sign_as(&Header { kid: Some("five".into()), ..rsa.header() }, &claims()),
        ),
        ("no kid", rsa.sign_as(&Header { kid: None, ..rsa.header() }, &claims())),
        ("its own key in its head", {
            let own = Signer::ec("own");
            let jwk = serde_json::from_value(own.jwk()).unwrap();
            own.sign_as(&Header { jwk: Some(jwk), ..own.header() }, &claims())
        }),
        ("an unknown critical header", {
            rsa.sign_as(&Header { crit: Some(vec!["b64".into()]), ..rsa.header() }, &claims())
        }),
        (
            "another audience",
            rsa.sign(&claims_with(json!({"aud": ["https://kubernetes.default.svc"]}))),
        ),
        ("no audience", rsa.sign(&claims_without("aud"))),
        ("another issuer", rsa.sign(&claims_with(json!({"iss": "https://elsewhere.example"})))),
        ("another configured issuer", rsa.sign(&claims_with(json!({"iss": OTHER})))),
        ("no issuer", rsa.sign(&claims_without("iss"))),
        ("expired", rsa.sign(&claims_with(json!({"exp": now - 40})))),
        ("without an end", rsa.sign(&claims_without("exp"))),
        ("not yet valid", rsa.sign(&claims_with(json!({"nbf": now + 60})))),
        ("an end that is not a number", rsa.sign(&claims_with(json!({"exp": "tomorrow"})))),
        (
            "other claims",
            format!("{head}.{}.{signature}", encoded(&claims_with(json!({"exp": now + 601})))),
        ),
        ("no signature", format!("{signed}.")),
        ("half a signature", format!("{signed}.{}", &signature[..signature.len() / 2])),
    ];
    for (what, token) in &forged {
        let found = refusal(&process, token).await;
        assert!(matches!(found.as_str(), "INVALID_TOKEN" | "MALFORMED_TOKEN"), "{what}: {found}");
    }
    // When a key leaves the file, its tokens are refused, although they are cached.
    fs::write(&keys, json!({"keys": [ec.jwk()]}).to_string()).unwrap();
    until(async || refusal(&process, &good[0]).await == "INVALID_TOKEN").await;
    assert_eq!(actor(&process, &good[1]).await.unwrap(), "service:chat");
    fs::write(&keys, "{\"keys\": []}").unwrap();
    let log = directory.path().join("log");
    until(async || fs::read_to_string(&log).unwrap().contains("no usable key in the set")).await;
    assert_eq!(
        actor(&process, &good[1]).await.unwrap(),
        "service:chat",
        "an unusable key set changes nothing"
    );
    assert!(!fs::read_to_string(&log).unwrap().contains(signature), "a token in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_token_is_refused_after_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::ec("one");
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let process = spawn(directory.path(), &format!("jwks_file = {keys:?}"));
    // Valid for three seconds more, because clocks may differ by 30.
    let end = now_s() - 27;
    let token = signer.sign(&claims_with(json!({"exp": end})));
    assert_eq!(actor(&process, &token).await.unwrap(), "service:chat");
    until(async || refusal(&process, &token).await == "INVALID_TOKEN").await;
    assert!((end + 30..end + 35).contains(&now_s()), "refused {} s after its end", now_s() - end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifications_of_invalid_tokens_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::ec("one");
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let process = spawn(directory.path(), &format!("jwks_file = {keys:?}"));
    let known = signer.sign(&claims());
    assert_eq!(actor(&process, &known).await.unwrap(), "service:chat");
    let forged: Vec<_> = (0..400_u32)
        .map(|number| signed_with_unknown_key(&claims_with(json!({"number": number}))))
        .collect();
    let mut client = process.mutes().await;
    let mut check = async |token: &str| {
        let message = pb::CheckSendRequest {
            app: "Open".into(),
            room: "room".into(),
            user: "u".into(),
            min_revision: 0,
        };
        let bearer = format!("Bearer {token}");
        let answered =
            client.check_send(with(message, &[("authorization", bearer.as_str())])).await;
        match answered.map_err(|status| (reason(&status), status)) {
            Ok(_) => "good".to_owned(),
            // Not of the service: the connection has failed.
            Err((reason, status)) if reason.is_empty() => format!("{status:?}"),
            Err((reason, _)) => reason,
        }
    };
    let mut found = Vec::new();
    for token in &forged {
        found.push(check(token).await);
    }
    assert!(
        found.iter().take(100).all(|found| found == "INVALID_TOKEN")
            && found.contains(&"RATE_LIMITED".to_owned()),
        "{found:?}"
    );
    // A cached token needs no verification, and a second later new tokens are verified again.
    assert_eq!(check(&known).await, "good");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let new = signer.sign(&claims_with(json!({"number": 1})));
    assert_eq!(check(&new).await, "good");
}

/// A token that is signed with an unknown key.
fn signed_with_unknown_key(claims: &Value) -> String {
    let header = Header { kid: Some("none".to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(b"nobody's")).unwrap()
}

async fn until(holds: impl AsyncFn() -> bool) {
    for _ in 0..300 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the condition does not hold after 30 s");
}

/// Serves the keys of an issuer over TLS, to callers with the pod's token.
async fn serve_keys(listener: TcpListener, files: &Path, keys: Arc<Mutex<Value>>) {
    let answer = async |State(keys): State<Arc<Mutex<Value>>>, headers: HeaderMap| {
        let is_known =
            headers.get(header::AUTHORIZATION).is_some_and(|token| token == "Bearer of the pod");
        if is_known { Ok(keys.lock().unwrap().to_string()) } else { Err(StatusCode::UNAUTHORIZED) }
    };
    let router = Router::new().route("/openid/v1/jwks", get(answer)).with_state(keys);
    let certificate = CertificateDer::from_pem_file(files.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions();
    let config =
        config.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_url_are_refreshed_and_outlast_its_server() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    Authority::new(files, "ca").issue("server", "localhost");
    fs::write(files.join("token"), "of the pod\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let first = Signer::ec("first");
    let second = Signer::ec("second");
    let of_first = first.sign(&claims());
    let of_second = second.sign(&claims());
    let url = format!(
        "jwks_url = \"https://localhost:{}/openid/v1/jwks\"\njwks_ca = {:?}\njwks_token_file = {:?}",
        addr.port(),
        files.join("ca.pem"),
        files.join("token")
    );
    // No server answers there yet: the service starts nevertheless.
    let process = spawn(files, &url);
    assert_eq!(refusal(&process, &of_first).await, "INVALID_TOKEN");
    let keys = Arc::new(Mutex::new(json!({"keys": [first.jwk()]})));
    let listener = TcpListener::bind(addr).await.unwrap();
    let server = tokio::spawn({
        let files = files.to_owned();
        let keys = keys.clone();
        async move { serve_keys(listener, &files, keys).await }
    });
    until(async || actor(&process, &of_first).await.is_ok()).await;
    // An unknown key makes the service fetch again; a removed key is no longer valid.
    *keys.lock().unwrap() = json!({"keys": [second.jwk()]});
    until(async || actor(&process, &of_second).await.is_ok()).await;
    assert_eq!(refusal(&process, &of_first).await, "INVALID_TOKEN");
    // Without the server the fetched keys stay valid, also after the configuration is reloaded.
    server.abort();
    let _ = server.await;
    let config = files.join("config.toml");
    fs::write(
        &config,
        fs::read_to_string(&config).unwrap() + "[[apps]]\nkey = \"New\"\ndirectory = \"open\"\n",
    )
    .unwrap();
    process.signal("-HUP");
    until(async || fs::read_to_string(files.join("log")).unwrap().contains("were reloaded")).await;
    assert_eq!(actor(&process, &of_second).await.unwrap(), "service:chat");
    let log = fs::read_to_string(files.join("log")).unwrap();
    assert!(
        log.contains("the keys of an issuer could not be loaded") && !log.contains("of the pod"),
        "{log}"
    );
    let metrics =
        reqwest::get(format!("{}/metrics", process.admin())).await.unwrap().text().await.unwrap();
    assert!(!metrics.contains("mute_issuer_failures_total 0"), "{metrics}");
}

#[test]
fn contradictory_settings_of_an_issuer_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [Signer::ec("one").jwk()]}).to_string()).unwrap();
    let file = format!("jwks_file = {keys:?}");
    let issuer = |of: &str| format!("[[issuers]]\nissuer = \"i\"\naudience = \"a\"\n{of}\n");
    let service = |of: &str| {
        format!("[[services]]\nname = \"s\"\nscopes = [\"check\"]\napps = [\"*\"]\n{of}\n")
    };
    let cases = [
        (issuer(""), "jwks_file or jwks_url"),
        (issuer(&format!("{file}\njwks_url = \"https://x/\"")), "set either jwks_file or jwks_url"),
        (issuer(&format!("{file}\njwks_ca = \"x\"")), "need jwks_url"),
        (issuer("jwks_url = \"https://x/\""), "https needs jwks_ca"),
        (issuer("jwks_url = \"http://x.example/\""), "http:// on this machine"),
        (issuer("jwks_url = \"https://x/\"\njwks_ca = \"/nowhere.pem\""), "/nowhere.pem"),
        (issuer("jwks_file = \"/nowhere.json\""), "/nowhere.json"),
        (issuer(&format!("jwks_file = {path:?}")), "not a JWK set"),
        (issuer(&file).replace("\"a\"", "\"\""), "audience is empty"),
        (issuer(&file).repeat(2), "configured twice"),
        (service("issuer = \"i\"\nsubjects = [\"x\"]"), "not configured"),
        (issuer(&file) + &service("subjects = [\"x\"]"), "set issuer and subjects together"),
        (issuer(&file) + &service("issuer = \"i\"\nsubjects = [\"x\", \"x\"]"), "one of subjects"),
        (issuer(&file) + &service(""), "no credential; set token_hash"),
    ];
    for (config, expected) in cases {
        fs::write(&path, &config).unwrap();
        let checked = run(&["check-config", "--config", path.to_str().unwrap()]);
        let error = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(64), "{config}");
        assert!(error.contains(expected), "{expected} in {error}, of {config}");
    }
    fs::write(&path, issuer(&file) + &service("issuer = \"i\"\nsubjects = [\"x\"]")).unwrap();
    let checked = run(&["check-config", "--config", path.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
}

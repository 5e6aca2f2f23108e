//! Services that come with the token of an issuer, such as Kubernetes' service accounts: which
//! tokens are good, and where their keys come from.

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

/// The dev service of the harness, and a service that is known by a service account.
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

    /// As the issuer shows it.
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

/// What Kubernetes says in the token of a service account.
fn claims() -> Value {
    let now = now_s();
    json!({
        "aud": ["mute-service"], "exp": now + 600, "iat": now, "nbf": now, "iss": KUBERNETES, "sub": CHAT,
        "kubernetes.io": {"namespace": "chat", "serviceaccount": {"name": "chat-server", "uid": "5c1a0b6e"}},
    })
}

fn but(change: Value) -> Value {
    let mut claims = claims();
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Mutes, and asks who did.
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
        .map_or_else(|status| reason(&status), |actor| format!("taken, from {actor}"))
}

fn spawn(directory: &Path, keys: &str) -> Process {
    Process::spawn_with(directory, directory, &[], &config(keys)).ready()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuers_token_is_a_service_and_a_forged_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let rsa = Signer::rsa("one");
    let ec = Signer::ec("two");
    let stranger = Signer::ec("three");
    let keys = directory.path().join("jwks.json");
    // What is not for signatures is no key for one, whatever its kid.
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
        rsa.sign(&but(json!({"aud": "mute-service"}))),
        rsa.sign(&but(json!({"aud": ["other", "mute-service"], "exp": now - 10, "nbf": now + 10}))),
        rsa.sign(&without("nbf")),
    ];
    for token in &good {
        for _ in 0..2 {
            assert_eq!(actor(&process, token).await.unwrap(), "service:chat", "{token}");
        }
    }
    // Of the issuer, and of nobody who is known here.
    let unknown = rsa.sign(&but(json!({"sub": "system:serviceaccount:chat:other"})));
    assert_eq!(refusal(&process, &unknown).await, "PERMISSION_DENIED");
    let others = stranger.sign(&but(json!({"iss": OTHER})));
    assert_eq!(
        refusal(&process, &others).await,
        "PERMISSION_DENIED",
        "a subject is one of its own issuer only"
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
        ("HS256 with the public key as it is shown", hmac(rsa.jwk().to_string().as_bytes(), "one")),
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
        ("demands what is not known", {
            rsa.sign_as(&Header { crit: Some(vec!["b64".into()]), ..rsa.header() }, &claims())
        }),
        ("another audience", rsa.sign(&but(json!({"aud": ["https://kubernetes.default.svc"]})))),
        ("no audience", rsa.sign(&without("aud"))),
        ("another issuer", rsa.sign(&but(json!({"iss": "https://elsewhere.example"})))),
        ("another configured issuer", rsa.sign(&but(json!({"iss": OTHER})))),
        ("no issuer", rsa.sign(&without("iss"))),
        ("expired", rsa.sign(&but(json!({"exp": now - 40})))),
        ("without an end", rsa.sign(&without("exp"))),
        ("not yet valid", rsa.sign(&but(json!({"nbf": now + 60})))),
        ("an end that is no number", rsa.sign(&but(json!({"exp": "tomorrow"})))),
        (
            "other claims",
            format!("{head}.{}.{signature}", encoded(&but(json!({"exp": now + 601})))),
        ),
        ("no signature", format!("{signed}.")),
        ("half a signature", format!("{signed}.{}", &signature[..signature.len() / 2])),
    ];
    for (what, token) in &forged {
        let found = refusal(&process, token).await;
        assert!(matches!(found.as_str(), "INVALID_TOKEN" | "MALFORMED_TOKEN"), "{what}: {found}");
    }
    // With an end of the file's keys ends what they have signed, although it is remembered.
    fs::write(&keys, json!({"keys": [ec.jwk()]}).to_string()).unwrap();
    until(async || refusal(&process, &good[0]).await == "INVALID_TOKEN").await;
    assert_eq!(actor(&process, &good[1]).await.unwrap(), "service:chat");
    fs::write(&keys, "{\"keys\": []}").unwrap();
    let log = directory.path().join("log");
    until(async || fs::read_to_string(&log).unwrap().contains("no usable key in the set")).await;
    assert_eq!(
        actor(&process, &good[1]).await.unwrap(),
        "service:chat",
        "what cannot be read changes nothing"
    );
    assert!(!fs::read_to_string(&log).unwrap().contains(signature), "a token in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_taken_before_is_refused_after_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::ec("one");
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let process = spawn(directory.path(), &format!("jwks_file = {keys:?}"));
    // Good for three seconds more: clocks may differ by 30.
    let end = now_s() - 27;
    let token = signer.sign(&but(json!({"exp": end})));
    assert_eq!(actor(&process, &token).await.unwrap(), "service:chat");
    until(async || refusal(&process, &token).await == "INVALID_TOKEN").await;
    assert!((end + 30..end + 35).contains(&now_s()), "refused {} s after its end", now_s() - end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_good_are_not_looked_at_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::ec("one");
    let keys = directory.path().join("jwks.json");
    fs::write(&keys, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let process = spawn(directory.path(), &format!("jwks_file = {keys:?}"));
    let known = signer.sign(&claims());
    assert_eq!(actor(&process, &known).await.unwrap(), "service:chat");
    let forged: Vec<_> =
        (0..400_u32).map(|number| hmac_of(&but(json!({"number": number})))).collect();
    let mut client = process.mutes().await;
    let mut ask = async |token: &str| {
        let message = pb::CheckSendRequest {
            app: "Open".into(),
            room: "room".into(),
            user: "u".into(),
            min_revision: 0,
        };
        let bearer = format!("Bearer {token}");
        let answered =
            client.check_send(with(message, &[("authorization", bearer.as_str())])).await;
        answered.map_or_else(|status| reason(&status), |_| "good".to_owned())
    };
    let mut found = Vec::new();
    for token in &forged {
        found.push(ask(token).await);
    }
    assert!(
        found.iter().take(100).all(|found| found == "INVALID_TOKEN")
            && found.contains(&"RATE_LIMITED".to_owned()),
        "{found:?}"
    );
    // What is known already needs no look, and a second later all is as it was.
    assert_eq!(ask(&known).await, "good");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let new = signer.sign(&but(json!({"number": 1})));
    assert_eq!(ask(&new).await, "good");
}

/// Signed with a key that nobody knows.
fn hmac_of(claims: &Value) -> String {
    let header = Header { kid: Some("none".to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(b"nobody's")).unwrap()
}

async fn until(is_so: impl AsyncFn() -> bool) {
    for _ in 0..300 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it has not come about in 30 s");
}

/// Serves what is in its state as the keys of an issuer, over TLS, to whoever has the token.
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
async fn keys_come_from_a_url_follow_it_and_outlast_it() {
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
    // Nobody answers there yet: the service starts all the same.
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
    // A key that is not known makes it ask again; a key that is gone is no longer good.
    *keys.lock().unwrap() = json!({"keys": [second.jwk()]});
    until(async || actor(&process, &of_second).await.is_ok()).await;
    assert_eq!(refusal(&process, &of_first).await, "INVALID_TOKEN");
    // Without the server, what it has said goes on, also when the configuration is read again.
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
fn an_issuer_that_cannot_be_meant_is_no_configuration() {
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
        let told = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(64), "{config}");
        assert!(told.contains(expected), "{expected} in {told}, of {config}");
    }
    fs::write(&path, issuer(&file) + &service("issuer = \"i\"\nsubjects = [\"x\"]")).unwrap();
    let checked = run(&["check-config", "--config", path.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
}

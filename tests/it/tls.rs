//! Both listeners over TLS: which service a client certificate authenticates, and certificates that
//! are replaced while calls run.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject as _},
    },
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use crate::{
    certificates::Authority,
    harness::{SERVICE, reason, with},
    process::{Process, run, text},
};

const CHAT: &str = "spiffe://chat.example/ns/chat/sa/chat-server";

/// An additional service, which only has a certificate.
const BY_CERTIFICATE: &str = "
[[services]]
name = \"chat\"
cert_names = [\"spiffe://chat.example/ns/chat/sa/chat-server\", \"chat-server\", \"10.0.0.7\"]
scopes = [\"check\", \"write\"]
apps = [\"*\"]
";

fn start(files: &Path) -> Process {
    let path = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let arguments = [
        "--tls-cert",
        &path("server.pem"),
        "--tls-key",
        &path("server.key"),
        "--tls-client-ca",
        &path("clients.pem"),
    ];
    Process::spawn_with(files, files, &arguments, BY_CERTIFICATE).ready()
}

async fn connect(
    process: &Process,
    files: &Path,
    ca: &str,
    identity: Option<&str>,
) -> Result<MuteServiceClient<Channel>, String> {
    let read = |name: String| fs::read(files.join(name)).unwrap();
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(format!("{ca}.pem"))))
        .domain_name("localhost");
    if let Some(name) = identity {
        tls = tls
            .identity(Identity::from_pem(read(format!("{name}.pem")), read(format!("{name}.key"))));
    }
    let endpoint = Channel::from_shared(format!("https://{}", process.grpc()))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    endpoint.connect().await.map(MuteServiceClient::new).map_err(|error| error.to_string())
}

async fn mute(
    client: &mut MuteServiceClient<Channel>,
    headers: &[(&str, &str)],
) -> Result<String, Status> {
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        users: vec!["u".into()],
        ..Default::default()
    };
    client.mute_members(with(message, headers)).await?;
    let message = pb::CheckSendRequest {
        app: "Open".into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    };
    client.check_send(with(message, headers)).await.map(|answer| answer.into_inner().actor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_authenticates_a_service() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    let servers = Authority::new(files, "servers");
    let clients = Authority::new(files, "clients");
    servers.issue("server", "localhost");
    clients.issue("chat", CHAT);
    clients.issue("unknown", "spiffe://chat.example/ns/chat/sa/other");
    servers.issue("stranger", CHAT);
    let process = start(files);
    let mut chat = connect(&process, files, "servers", Some("chat")).await.unwrap();
    assert_eq!(mute(&mut chat, &[]).await.unwrap(), "service:chat");
    assert_eq!(mute(&mut chat, &[SERVICE]).await.unwrap(), "service:dev");
    let wrong = mute(&mut chat, &[("authorization", "Bearer wrong")]).await.unwrap_err();
    assert_eq!(
        wrong.code(),
        Code::Unauthenticated,
        "a certificate does not make up for a wrong credential"
    );
    for identity in [None, Some("unknown")] {
        let mut client = connect(&process, files, "servers", identity).await.unwrap();
        assert_eq!(
            reason(&mute(&mut client, &[]).await.unwrap_err()),
            "MISSING_TOKEN",
            "{identity:?}"
        );
        assert_eq!(mute(&mut client, &[SERVICE]).await.unwrap(), "service:dev");
    }
    let metrics = reqwest::get(format!("{}/metrics", process.admin())).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let refused = "mute_credentials_refused_total{cause=\"unknown_certificate\"} 1\n";
    assert!(metrics.contains(refused), "{metrics}");
    // In TLS 1.3 a client learns only with the first answer that its certificate was refused.
    if let Ok(mut client) = connect(&process, files, "servers", Some("stranger")).await {
        assert!(mute(&mut client, &[SERVICE]).await.is_err());
    }
    let count = "mute_credentials_refused_total{cause=\"untrusted_certificate\"} ";
    let is_counted = async || {
        let metrics = reqwest::get(format!("{}/metrics", process.admin())).await.unwrap();
        !metrics.text().await.unwrap().contains(&format!("{count}0\n"))
    };
    let mut waited = 0;
    while !is_counted().await {
        waited += 1;
        assert!(waited < 100, "the stranger's certificate is not counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        connect(&process, files, "clients", None).await.is_err(),
        "a server certificate of another authority is accepted"
    );
    // REST has the same certificates; the admin listener has none.
    let rest = process.rest().trim_start_matches("http://").to_owned();
    let answer = get_over_tls(&rest, &files.join("servers.pem")).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(reqwest::get(process.rest()).await.is_err());
    assert_eq!(reqwest::get(format!("{}/livez", process.admin())).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_tls_has_an_https_uri() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    Authority::new(files, "servers").issue("server", "localhost");
    let _clients = Authority::new(files, "clients");
    let process = start(files);
    let rest = process.rest().trim_start_matches("http://").to_owned();
    for (forwarded, expected) in [("", "https"), ("x-forwarded-proto: http\r\n", "https")] {
        let head = format!(
            "GET /app-id/Open/mutes/u HTTP/1.1\r\nhost: chat.example\r\n{forwarded}\
             authorization: Bearer dev-service-token\r\nconnection: close\r\n\r\n"
        );
        let answer = over_tls(&rest, &files.join("servers.pem"), &head).await;
        let uri = format!("\"uri\":\"{expected}://chat.example/app-id/Open/mutes/u\"");
        assert!(answer.contains(&uri), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctl_calls_over_tls_and_authenticates_by_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    let servers = Authority::new(files, "servers");
    let clients = Authority::new(files, "clients");
    servers.issue("server", "localhost");
    clients.issue("chat", CHAT);
    let process = start(files);
    let addr = format!("https://localhost:{}", process.grpc().rsplit_once(':').unwrap().1);
    let path = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let ctl = |options: &[&str]| {
        let command =
            [&["ctl", "--addr", &addr, "--app", "Open"], options, &["mute", "room", "u"]].concat();
        let done = run(&command);
        (done.status.code(), text(&done.stdout) + &text(&done.stderr))
    };
    let ca = path("servers.pem");
    let other = path("clients.pem");
    let cert = path("chat.pem");
    let key = path("chat.key");
    let (code, output) = ctl(&["--ca", &ca, "--cert", &cert, "--key", &key]);
    assert!(code == Some(0) && output.contains("service:chat"), "{output}");
    let (code, output) = ctl(&["--ca", &ca, "--token", "dev-service-token"]);
    assert!(code == Some(0) && output.contains("service:dev"), "{output}");
    // The server is verified first; then missing options are reported.
    let (code, output) = ctl(&["--ca", &other, "--token", "dev-service-token"]);
    assert!(code == Some(1) && output.contains("certificate"), "{output}");
    for (options, expected) in [
        (&[][..], "https needs --ca"),
        (&["--ca", &ca, "--cert", &cert], "need each other"),
        (&["--ca", "/nowhere.pem"], "/nowhere.pem"),
        (&["--ca", &key], "it contains no certificate"),
    ] {
        let (code, output) = ctl(options);
        assert!(code == Some(64) && output.contains(expected), "{expected} in {output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_common_name_counts_only_without_other_names() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    let servers = Authority::new(files, "servers");
    let clients = Authority::new(files, "clients");
    servers.issue("server", "localhost");
    let process = start(files);
    let cases: [(&[&str], bool); 6] = [
        (&[], true),
        (&["chat-server"], true),
        (&["other"], false),
        (&["10.0.0.7"], false),
        (&["spiffe://chat.example/other"], false),
        (&["spiffe://chat.example/other", CHAT], true),
    ];
    for (number, (subjects, is_service)) in cases.into_iter().enumerate() {
        let name = format!("client{number}");
        clients.issue_named(&name, "chat-server", subjects);
        let mut client = connect(&process, files, "servers", Some(&name)).await.unwrap();
        let found = mute(&mut client, &[]).await.map_err(|status| reason(&status));
        assert_eq!(
            found,
            if is_service { Ok("service:chat".into()) } else { Err("MISSING_TOKEN".into()) },
            "{subjects:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_speaks_only_http_2_and_rest_speaks_both() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    let servers = Authority::new(files, "servers");
    let _clients = Authority::new(files, "clients");
    servers.issue("server", "localhost");
    let process = start(files);
    let rest = process.rest().trim_start_matches("http://").to_owned();
    let agreed = async |addr: &str, offered: &[&str]| {
        let stream = connect_over_tls(addr, &files.join("servers.pem"), offered).await.ok()?;
        let agreed = stream
            .get_ref()
            .1
            .alpn_protocol()
            .map(|name| String::from_utf8(name.to_vec()).unwrap());
        Some(agreed.unwrap_or_else(|| "none".into()))
    };
    for (offered, grpc, both) in [
        (&["h2", "http/1.1"][..], Some("h2"), Some("h2")),
        (&["http/1.1", "h2"], Some("h2"), Some("h2")),
        (&["http/1.1"], None, Some("http/1.1")),
        (&["spdy/3"], None, None),
        (&[], Some("none"), Some("none")),
    ] {
        assert_eq!(agreed(process.grpc(), offered).await.as_deref(), grpc, "gRPC, {offered:?}");
        assert_eq!(agreed(&rest, offered).await.as_deref(), both, "REST, {offered:?}");
    }
}

/// Connects to a server whose certificate this authority has issued.
async fn connect_over_tls(
    addr: &str,
    ca: &Path,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = config
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(addr).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

/// GET /me.
async fn get_over_tls(addr: &str, ca: &Path) -> String {
    over_tls(addr, ca, "GET /me HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await
}

/// The answer to a request that closes the connection.
async fn over_tls(addr: &str, ca: &Path, head: &str) -> String {
    let mut stream = connect_over_tls(addr, ca, &[]).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_live_and_a_bad_one_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    let old = Authority::new(files, "old");
    let new = Authority::new(files, "new");
    Authority::new(files, "clients");
    old.issue("server", "localhost");
    let process = Arc::new(start(files));
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicUsize::new(0));
    let caller = {
        let stop = stop.clone();
        let calls = calls.clone();
        let mut client = connect(&process, files, "old", None).await.unwrap();
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                mute(&mut client, &[SERVICE]).await.unwrap();
                calls.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    fs::write(files.join("server.key"), "no key").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    connect(&process, files, "old", None).await.unwrap();
    let log = fs::read_to_string(files.join("log")).unwrap();
    assert!(
        log.contains("the certificate could not be reloaded") && log.contains("server.key"),
        "{log}"
    );
    new.issue("server", "localhost");
    let mut waited = 0;
    while connect(&process, files, "new", None).await.is_err() {
        waited += 1;
        assert!(waited < 100, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(connect(&process, files, "old", None).await.is_err());
    let before = calls.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(calls.load(Ordering::SeqCst) > before, "the earlier connection stays open");
    stop.store(true, Ordering::SeqCst);
    caller.await.unwrap();
}

//! The wrong port, and the wrong one of `http` and `https`: what answers there is named.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::process::run as run_program;

/// Writes an authority and the certificate of 127.0.0.1; returns the arguments of a service.
fn certificates(directory: &std::path::Path) -> Vec<String> {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(path("ca.crt"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(path("tls.crt"), leaf.pem()).unwrap();
    std::fs::write(path("tls.key"), key.serialize_pem()).unwrap();
    vec!["--tls-cert".to_owned(), path("tls.crt"), "--tls-key".to_owned(), path("tls.key")]
}

fn host(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, host)| host)
}

#[tokio::test]
async fn a_call_to_the_wrong_port_says_what_answers_there() {
    let directory = tempfile::tempdir().unwrap();
    let (plain, secure) = (directory.path().join("plain"), directory.path().join("secure"));
    std::fs::create_dir_all(&plain).unwrap();
    std::fs::create_dir_all(&secure).unwrap();
    let tls = certificates(&secure);
    let tls: Vec<_> = tls.iter().map(String::as_str).collect();
    let ca = secure.join("ca.crt");
    let plain = Process::start(&plain);
    let secure = Process::spawn(&secure, &secure, &tls).ready();
    let (rest, admin) = (plain.rest(), plain.admin());
    let secure_rest = secure.rest();
    let cases = [
        (format!("http://{}", host(&rest)), "the REST port of a mute-service"),
        (format!("http://{}", host(&admin)), "the admin port of a mute-service"),
        (format!("https://{}", host(&rest)), "the REST port of a mute-service"),
        (format!("https://{}", host(&secure_rest)), "the REST port of a mute-service"),
        (format!("https://{}", plain.grpc()), "the server does not use TLS"),
        (format!("http://{}", secure.grpc()), "the server uses TLS"),
    ];
    for (addr, what) in cases {
        for (arguments, code) in [(["check", "r", "u"], 2), (["watch", "--room", "r"], 1)] {
            let mut command = ctl("", OPEN, &arguments);
            command.env("MUTE_ADDR", &addr).env("MUTE_CA", &ca);
            refused(command, &[], code, &[&addr, what, "--addr or MUTE_ADDR"]).await;
        }
    }
    let mut right = ctl("", OPEN, &["check", "r", "u"]);
    right.env("MUTE_ADDR", format!("https://{}", secure.grpc())).env("MUTE_CA", &ca);
    assert_eq!(run(right).await.code, Some(0));
}

#[tokio::test]
async fn any_grpc_client_of_the_rest_port_is_told_so() {
    let server = Server::start().await;
    let mut mutes = crate::process::connect(&server.addresses.rest.to_string()).await;
    let message = pb::CheckSendRequest { app: OPEN.into(), ..Default::default() };
    let status = mutes.check_send(with(message, &[SERVICE])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert!(status.message().starts_with("this is the REST port; gRPC has"), "{status:?}");
}

#[tokio::test]
async fn another_http_server_is_told_from_a_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let app = axum::Router::new();
    let server = tokio::spawn(async { axum::serve(listener, app).await });
    let words = [addr.as_str(), "an HTTP server that is no gRPC server", "50051"];
    refused(ctl(&addr, OPEN, &["check", "r", "u"]), &[], 2, &words).await;
    server.abort();
}

/// In dev mode the gRPC port answers HTTP/1 too, to web pages.
#[tokio::test]
async fn a_failure_at_a_grpc_port_that_serves_web_pages_is_kept() {
    let (plain, secure) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tls = certificates(secure.path());
    let web = ["--grpc-web-origins", "http://localhost:3000"];
    let arguments: Vec<_> = tls.iter().map(String::as_str).chain(web).collect();
    let secure_server = Process::spawn(secure.path(), secure.path(), &arguments).ready();
    let plain_server = Process::dev(plain.path());
    for addr in
        [format!("http://{}", plain_server.grpc()), format!("https://{}", secure_server.grpc())]
    {
        let mut call = ctl("", AGORA, &["check", ROOM, "user1"]);
        call.env("MUTE_ADDR", &addr).env("MUTE_TOKEN", "x".repeat(40_000));
        call.env("MUTE_CA", secure.path().join("ca.crt"));
        let run = run(call).await;
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{run:?}");
        assert!(!run.err.contains("no gRPC server"), "{addr}: {}", run.err);
    }
}

#[test]
fn a_backup_from_the_wrong_port_says_what_answers_there() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let dev_directory = tempfile::tempdir().unwrap();
    let dev = Process::dev(dev_directory.path());
    let file = directory.path().join("backup").to_str().unwrap().to_owned();
    for (from, what) in [
        (process.rest(), "this is the REST port"),
        (format!("http://{}", process.grpc()), "this is the gRPC port"),
        (format!("http://{}", dev.grpc()), "this is the gRPC port"),
    ] {
        let arguments =
            ["backup", "--from", &from, "--token", "dev-service-token", "--output", &file];
        let output = run_program(&arguments);
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(err.contains(what) && err.contains("its admin port, 9090"), "{err}");
        assert_eq!(output.status.code(), Some(1));
    }
    let admin = process.admin();
    let right =
        ["backup", "--from", host(&admin), "--token", "dev-service-token", "--output", &file];
    assert_eq!(run_program(&right).status.code(), Some(0));
}

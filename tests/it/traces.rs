//! Traces: the spans that a collector receives, the propagation of a caller's trace to the service
//! and the cluster, and trace ids in the log.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::State, http::Request, response::Response};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mute_service::proto::v1 as pb;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value as Attribute,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::{
    etcd::Etcd,
    harness::{SERVICE, with},
    process::{Process, mute, program},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const SAMPLED: (&str, &str) =
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
const NOT_SAMPLED: (&str, &str) =
    ("traceparent", "00-aaf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");

/// A collector that keeps the spans it receives.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for process_spans in request.into_inner().resource_spans {
            let resource = process_spans.resource.unwrap();
            let name = resource
                .attributes
                .iter()
                .find(|attribute| attribute.key == "service.name")
                .unwrap();
            let Some(Attribute::StringValue(name)) = name.value.clone().unwrap().value else {
                panic!("{name:?}")
            };
            assert_eq!(name, "mute-service");
            self.0
                .lock()
                .unwrap()
                .extend(process_spans.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts it. Returns its URL.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server =
            tonic::transport::Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        format!("http://{addr}")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.0.lock().unwrap().iter().map(|span| span.name.clone()).collect();
        names.sort();
        names
    }

    fn span(&self, name: &str) -> Span {
        self.0.lock().unwrap().iter().find(|span| span.name == name).unwrap().clone()
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<i64> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Attribute::IntValue(value) => Some(value),
        _ => None,
    }
}

fn start(directory: &Path, collector: &str, share: &str, arguments: &[&str]) -> Process {
    let mut command: Command = program();
    command.env("MUTE_LOG", "mute_service=debug");
    let arguments = [
        &["--otlp-endpoint", collector, "--trace-share", share, "--log-format", "json"],
        arguments,
    ]
    .concat();
    Process::launch(command, directory, ["127.0.0.1:0"; 3], &arguments).ready()
}

async fn check(
    process: &Process,
    app: &str,
    headers: &[(&str, &str)],
) -> Result<bool, tonic::Status> {
    let message = pb::CheckSendRequest {
        app: app.into(),
        room: "room".into(),
        user: "u".into(),
        min_revision: 0,
    };
    process
        .mutes()
        .await
        .check_send(with(message, headers))
        .await
        .map(|answer| answer.into_inner().allowed)
}

async fn traced_mute(process: &Process) {
    let message = pb::MuteMembersRequest {
        app: "Open".into(),
        room: "room".into(),
        users: vec!["u".into()],
        ..Default::default()
    };
    let headers = [SERVICE, SAMPLED, ("x-request-id", "req-17")];
    process.mutes().await.mute_members(with(message, &headers)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_trace_continues_and_its_ids_are_logged() {
    let directory = tempfile::tempdir().unwrap();
    let collector = Collector::default();
    let data = directory.path().join("data");
    let mut process = start(
        directory.path(),
        &collector.start().await,
        "0",
        &["--data-dir", data.to_str().unwrap()],
    );
    traced_mute(&process).await;
    // Not traced, because the caller or the share says so. An invalid header changes nothing.
    assert!(!check(&process, "Open", &[SERVICE, NOT_SAMPLED]).await.unwrap());
    assert!(!check(&process, "Open", &[SERVICE]).await.unwrap());
    assert!(!check(&process, "Open", &[SERVICE, ("traceparent", "00-nonsense")]).await.unwrap());
    check(&process, "None", &[SERVICE, SAMPLED]).await.unwrap_err();
    let client = reqwest::Client::new();
    let get_client =
        || client.get(format!("{}/admin/clients/u17", process.rest())).header(SAMPLED.0, SAMPLED.1);
    let answered =
        get_client().header(SERVICE.0, SERVICE.1).send().await.unwrap().status().as_u16();
    // Only a service decides what is traced.
    assert_eq!(get_client().send().await.unwrap().status(), 401);
    // The remaining spans are sent at the stop.
    process.signal("-TERM");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));

    let muting = "mute.v1.MuteService/MuteMembers";
    let checking = "mute.v1.MuteService/CheckSend";
    let rest = "GET /admin/clients/{uid}";
    assert_eq!(collector.names(), [rest, "commit", checking, muting]);
    let call = collector.span(muting);
    let commit = collector.span("commit");
    assert_eq!(
        (hex(&call.trace_id), hex(&call.parent_span_id)),
        (TRACE.to_owned(), CALLER.to_owned())
    );
    assert_eq!(
        (call.kind(), attribute(&call, "rpc.grpc.status_code")),
        (SpanKind::Server, Some(0))
    );
    assert_eq!((hex(&commit.trace_id), &commit.parent_span_id), (TRACE.to_owned(), &call.span_id));
    assert!(
        commit.start_time_unix_nano >= call.start_time_unix_nano
            && commit.end_time_unix_nano <= call.end_time_unix_nano
    );
    // An error of the caller is no failure of the service.
    let checked = collector.span(checking);
    assert_eq!(attribute(&checked, "rpc.grpc.status_code"), Some(tonic::Code::NotFound as i64));
    assert_ne!(checked.status.unwrap_or_default().code(), StatusCode::Error);
    assert_eq!(
        attribute(&collector.span(rest), "http.response.status_code"),
        Some(i64::from(answered))
    );

    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let calls: Vec<_> =
        lines.iter().filter(|line| line["message"] == "a call was answered").collect();
    let log_line = calls.iter().find(|line| line["span"]["request_id"] == "req-17").unwrap();
    assert_eq!(
        (&log_line["span"]["method"], &log_line["span"]["trace_id"]),
        (&muting.into(), &TRACE.into()),
        "{log_line}"
    );
    assert_eq!(calls.len(), 7, "one line a call: {log}");
    assert!(!log.contains("dev-service-token") && !log.contains("u17"), "{log}");
}

/// Starts a proxy in front of a member, which records the `traceparent` of each call. Returns its
/// URL and the traces.
async fn proxy(member: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let traces = Arc::new(Mutex::new(Vec::new()));
    let client: Client<HttpConnector, Body> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let forward = async |State((client, member, traces)): State<(
        Client<_, _>,
        String,
        Arc<Mutex<Vec<_>>>,
    )>,
                         mut request: Request<Body>| {
        let path = request.uri().path().to_owned();
        if let Some(trace) = request.headers().get("traceparent") {
            traces.lock().unwrap().push(format!("{path} {}", trace.to_str().unwrap()));
        }
        *request.uri_mut() = format!("{member}{path}").parse().unwrap();
        client
            .request(request)
            .await
            .map(Response::into_body)
            .map(Body::new)
            .map(Response::new)
            .unwrap()
    };
    let router =
        Router::new().fallback(forward).with_state((client, member.to_owned(), traces.clone()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{addr}"), traces)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_from_a_non_service_is_linked_not_continued() {
    let directory = tempfile::tempdir().unwrap();
    let collector = Collector::default();
    let data = directory.path().join("data");
    let mut process = start(
        directory.path(),
        &collector.start().await,
        "1",
        &["--data-dir", data.to_str().unwrap()],
    );
    for caller in [SAMPLED, NOT_SAMPLED] {
        check(&process, "Open", &[caller]).await.unwrap_err();
    }
    process.signal("-TERM");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
    let spans = collector.0.lock().unwrap();
    assert_eq!(spans.len(), 2, "both are traced, as the share says");
    for (span, caller) in spans.iter().zip([SAMPLED, NOT_SAMPLED]) {
        let linked: Vec<_> = span.links.iter().map(|link| hex(&link.trace_id)).collect();
        assert!(span.parent_span_id.is_empty() && !caller.1.contains(&hex(&span.trace_id)));
        assert!(linked.len() == 1 && caller.1.contains(&linked[0]), "{linked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_propagates_its_calls_trace_to_etcd() {
    let Some(etcd) = Etcd::start(1, &[]) else { return };
    let (url, traces) = proxy(&etcd.members[0].url).await;
    let directory = tempfile::tempdir().unwrap();
    let collector = Collector::default();
    let arguments = ["--store", "etcd", "--etcd-endpoints", &url];
    let mut process = start(directory.path(), &collector.start().await, "0", &arguments);
    mute(&mut process.mutes().await, "room", vec!["other".to_owned()]).await.unwrap();
    traced_mute(&process).await;
    process.signal("-TERM");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
    let commit = collector.span("commit");
    let transaction = collector.span("etcd transaction");
    assert_eq!(transaction.parent_span_id, commit.span_id);
    assert_eq!(transaction.kind(), SpanKind::Client);
    let forwarded = format!("/etcdserverpb.KV/Txn 00-{TRACE}-{}-01", hex(&transaction.span_id));
    assert_eq!(*traces.lock().unwrap(), [forwarded]);
}

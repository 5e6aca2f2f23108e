//! Finds out what answers at an address where another server was expected: people mix up the ports
//! of a service, and `http` and `https`.

use std::{path::Path, time::Duration};

use axum::body::Body;
use http::{Request, Response, StatusCode, Uri, header::CONTENT_TYPE, uri::Authority};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{HttpClient, client, http2_client};

/// For each of the few requests.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How a TLS server answers a request in plain text: with an alert.
const TLS_ALERT: &[u8] = &[0x15, 0x03];
const GRPC: &str = "application/grpc";
const HTTP1: &[u8] = b"HTTP/1.";
/// A server of HTTP/2 alone begins with its settings: a frame with a length of three bytes, of
/// which the first is 0.
const HTTP2: &[u8] = &[0x00];

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Whether it expects TLS.
    pub uses_tls: bool,
    /// Which server it is, if that is known.
    pub server: Option<Server>,
}

/// The servers that can be recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Speaks HTTP/2 only, as gRPC does, or answers a call.
    Grpc,
    /// The REST listener of a service.
    Rest,
    /// The admin listener of a service.
    Admin,
    /// Some other HTTP server.
    Http,
}

/// What answers at the host and port of this URL. For a TLS server, `authorities` is the PEM file
/// by which it is trusted. None: nothing answers in time, or nothing known.
pub async fn identify(url: &str, authorities: Option<&Path>) -> Option<Peer> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?.clone();
    let begin = within_timeout(first_bytes(&authority)).await?.ok()?;
    if begin.starts_with(TLS_ALERT) {
        let server = http_server("https", &authority, authorities).await;
        Some(Peer { uses_tls: true, server })
    } else if begin.starts_with(HTTP1) {
        let server = http_server("http", &authority, None).await;
        Some(Peer { uses_tls: false, server: server.or(Some(Server::Http)) })
    } else {
        begin.starts_with(HTTP2).then_some(Peer { uses_tls: false, server: Some(Server::Grpc) })
    }
}

async fn within_timeout<T>(probe: impl Future<Output = T>) -> Option<T> {
    timeout(PROBE_TIMEOUT, probe).await.ok()
}

/// How the server answers a request in plain text.
async fn first_bytes(authority: &Authority) -> std::io::Result<Vec<u8>> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let mut connection = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut begin = vec![0; HTTP1.len()];
    let read = connection.read(&mut begin).await?;
    begin.truncate(read);
    Ok(begin)
}

/// A path that only one server has shows which it is. gRPC may answer HTTP/1 too, to web pages.
async fn http_server(
    scheme: &str,
    authority: &Authority,
    authorities: Option<&Path>,
) -> Option<Server> {
    let at = |path| format!("{scheme}://{authority}{path}");
    let http1 = client(authorities).ok()?;
    for (path, server) in [("/livez", Server::Admin), ("/openapi.json", Server::Rest)] {
        let request = Request::get(at(path)).body(Body::empty()).ok()?;
        if answer(&http1, request).await?.status() == StatusCode::OK {
            return Some(server);
        }
    }
    let call = Request::post(at("/mute.v1.MuteService/CheckSend")).header(CONTENT_TYPE, GRPC);
    let answer = answer(&http2_client(authorities).ok()?, call.body(Body::empty()).ok()?).await;
    let media_type = answer.as_ref().and_then(|answer| answer.headers().get(CONTENT_TYPE));
    let is_grpc = media_type.is_some_and(|it| it.as_bytes().starts_with(GRPC.as_bytes()));
    Some(if is_grpc { Server::Grpc } else { Server::Http })
}

/// None: there is no answer by this client's version of HTTP.
async fn answer(client: &HttpClient, request: Request<Body>) -> Option<Response<Incoming>> {
    within_timeout(client.request(request)).await?.ok()
}

//! The documentation of the REST API: an OpenAPI document at `/openapi.json`, and at `/docs` a page
//! that shows the document and sends calls. `/` says where they are. None needs credentials, and
//! the pages load nothing from other hosts.
//!
//! The document is written by hand in `docs/openapi.json`: the gateway parses bodies by hand, in
//! the vendors' own ways, so there are no types to derive it from. `tests/it/openapi.rs` compares
//! it with the routes and the answers. `document` completes it at startup.

use std::sync::LazyLock;

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::json;

use super::wire::{Gateway, header_text, json_text};

mod document;

/// The page may run its own scripts and call this host, and nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| format!("{}\n", document::document()).into());

pub(super) fn routes() -> Router<Gateway> {
    let root = include_bytes!("docs/root.html");
    let page = include_bytes!("docs/page.html");
    let style = include_bytes!("docs/page.css");
    let script = include_bytes!("docs/page.js");
    let call = include_bytes!("docs/call.js");
    let schema = include_bytes!("docs/schema.js");
    let dom = include_bytes!("docs/dom.js");
    let icon = include_bytes!("docs/icon.svg");
    let welcome = Bytes::from(json_text(&json!({
        "service": "mute-service",
        "version": env!("CARGO_PKG_VERSION"),
        "docs": "/docs",
        "openapi": "/openapi.json",
    })));
    let answer_root = async move |headers: HeaderMap| {
        let answer = if accepts_html(&headers) {
            file("text/html; charset=utf-8", Bytes::from_static(root))
        } else {
            file("application/json", welcome.clone())
        };
        ([(header::VARY, "accept")], answer)
    };
    Router::new()
        .route("/", get(answer_root))
        .route("/openapi.json", get(async || file("application/json", DOCUMENT.clone())))
        .route("/docs", get(async || file("text/html; charset=utf-8", Bytes::from_static(page))))
        .route(
            "/docs/page.css",
            get(async || file("text/css; charset=utf-8", Bytes::from_static(style))),
        )
        .route(
            "/docs/page.js",
            get(async || file("text/javascript; charset=utf-8", Bytes::from_static(script))),
        )
        .route(
            "/docs/call.js",
            get(async || file("text/javascript; charset=utf-8", Bytes::from_static(call))),
        )
        .route(
            "/docs/schema.js",
            get(async || file("text/javascript; charset=utf-8", Bytes::from_static(schema))),
        )
        .route(
            "/docs/dom.js",
            get(async || file("text/javascript; charset=utf-8", Bytes::from_static(dom))),
        )
        .route("/docs/icon.svg", get(async || file("image/svg+xml", Bytes::from_static(icon))))
}

/// Whether a browser asks: all of them name HTML, and most other clients accept anything.
fn accepts_html(headers: &HeaderMap) -> bool {
    let accepted = header_text(headers, header::ACCEPT).unwrap_or_default().to_ascii_lowercase();
    accepted.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let weight = |part: &str| part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
        parts.next() == Some("text/html") && !parts.filter_map(weight).any(|q| q == 0.0)
    })
}

fn file(content_type: &'static str, content: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

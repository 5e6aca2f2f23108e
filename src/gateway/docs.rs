//! The documentation of the REST API: an OpenAPI document at `/openapi.json`, and at `/docs` a page
//! that shows the document and sends calls. Neither needs credentials, and the page loads nothing
//! from other hosts.
//!
//! The document is written by hand in `docs/openapi.json`: the gateway parses bodies by hand, in
//! the vendors' own ways, so there are no types to derive it from. `tests/it/openapi.rs` compares
//! it with the routes and the answers. The paths below `/app-id` are copies of those below
//! `/{org_name}/{app_name}`, made at startup.

use std::sync::LazyLock;

use axum::{
    Router,
    body::Bytes,
    http::header,
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Map, Value, json};

use super::wire::Gateway;

/// The page may run its own scripts and call this host, and nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const BY_NAME: &str = "/{org_name}/{app_name}";
const BY_ID: &str = "/app-id/{app_id}";
const BY_ID_TAG: &str = "Agora: the same by app id";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

pub(super) fn routes() -> Router<Gateway> {
    let page = include_bytes!("docs/page.html");
    let style = include_bytes!("docs/page.css");
    let script = include_bytes!("docs/page.js");
    let call = include_bytes!("docs/call.js");
    let schema = include_bytes!("docs/schema.js");
    let dom = include_bytes!("docs/dom.js");
    let icon = include_bytes!("docs/icon.svg");
    Router::new()
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

/// The document, with the program's version and the paths below `/app-id`.
fn document() -> Value {
    let mut document: Value =
        serde_json::from_str(include_str!("docs/openapi.json")).unwrap_or_default();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.push(json!({
            "name": BY_ID_TAG,
            "description": "The same operations for an app whose key has one part.",
        }));
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        let copy = |(path, item): (&String, &Value)| {
            Some((format!("{BY_ID}{}", path.strip_prefix(BY_NAME)?), by_id(item.clone())))
        };
        let copies: Map<_, _> = paths.iter().filter_map(copy).collect();
        paths.extend(copies);
    }
    document
}

/// A part of the document, changed for the paths that name an app by its id.
fn by_id(part: Value) -> Value {
    match part {
        Value::Object(mut fields) => {
            if let Some(Value::String(id)) = fields.get_mut("operationId") {
                id.push_str("ById");
            }
            if let Some(tags) = fields.get_mut("tags") {
                *tags = json!([BY_ID_TAG]);
            }
            // The parameters of a link.
            if fields.remove("org_name").is_some() {
                fields.remove("app_name");
                fields.insert("app_id".to_owned(), json!("$request.path.app_id"));
            }
            fields.into_iter().map(|(name, field)| (name, by_id(field))).collect()
        }
        Value::Array(items) => {
            let is_organization = |item: &Value| item["$ref"] == "#/components/parameters/OrgName";
            items.into_iter().filter(|item| !is_organization(item)).map(by_id).collect()
        }
        Value::String(text) => match text.as_str() {
            "#/components/parameters/AppName" => json!("#/components/parameters/AppId"),
            // Its example is a room of dev mode's app with a one-word key.
            "#/components/parameters/Chatroom" => json!("#/components/parameters/Room"),
            _ => Value::String(text),
        },
        other => other,
    }
}

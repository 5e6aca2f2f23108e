//! What this gateway serves, told to programs and people: an OpenAPI document at `/openapi.json`,
//! and at `/docs` a page that shows it and sends calls. Neither needs credentials, and the page
//! needs nothing from any other host.
//!
//! The document is written by hand in `docs/openapi.json`, because bodies are parsed by hand here,
//! in the vendors' own ways, and there are no types to derive it from; `tests/it/openapi.rs` holds
//! it against the routes and the answers. Paths of `/app-id` are as those of
//! `/{org_name}/{app_name}`, and are made from them.

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

/// The page runs its own scripts, calls this host, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const BY_NAME: &str = "/{org_name}/{app_name}";
const BY_ID: &str = "/app-id/{app_id}";
const BY_ID_TAG: &str = "Agora: the same by app id";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

pub(super) fn routes() -> Router<Gateway> {
    let page = include_bytes!("docs/page.html");
    let style = include_bytes!("docs/page.css");
    let (script, call) = (include_bytes!("docs/page.js"), include_bytes!("docs/call.js"));
    let (schema, dom) = (include_bytes!("docs/schema.js"), include_bytes!("docs/dom.js"));
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

fn file(kind: &'static str, content: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

/// The document, with the version of the program and the paths of `/app-id`.
fn document() -> Value {
    let mut document: Value =
        serde_json::from_str(include_str!("docs/openapi.json")).unwrap_or_default();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.push(json!({"name": BY_ID_TAG, "description": "For an app whose key is one word."}));
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        let twin = |(path, item): (&String, &Value)| {
            Some((format!("{BY_ID}{}", path.strip_prefix(BY_NAME)?), by_id(item.clone())))
        };
        let twins: Map<_, _> = paths.iter().filter_map(twin).collect();
        paths.extend(twins);
    }
    document
}

/// A part of the document, as it is for an app that is named by its id.
fn by_id(part: Value) -> Value {
    match part {
        Value::Object(mut fields) => {
            if let Some(Value::String(id)) = fields.get_mut("operationId") {
                id.push_str("ById");
            }
            if let Some(tags) = fields.get_mut("tags") {
                *tags = json!([BY_ID_TAG]);
            }
            // Where a link goes.
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
            // With an example that such an app of dev mode has.
            "#/components/parameters/Chatroom" => json!("#/components/parameters/Room"),
            _ => Value::String(text),
        },
        other => other,
    }
}

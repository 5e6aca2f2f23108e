//! The OpenAPI document against the routes, and its schemas against its own examples and the
//! answers; and the page that shows it.

use std::{collections::BTreeSet, fs, path::Path};

use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

use crate::harness::*;

/// Methods by path, with `{}` for every parameter.
type Routes = BTreeSet<(String, String)>;

pub struct Operation {
    pub path: String,
    method: Method,
    /// With the parameters of the path item.
    parameters: Vec<Value>,
    described: Value,
}

pub async fn document(server: &Server) -> Value {
    sent(server.rest(Method::GET, "/openapi.json", &[])).await.1
}

fn resolved<'a>(document: &'a Value, part: &'a Value) -> &'a Value {
    match part["$ref"].as_str() {
        Some(pointer) => {
            document.pointer(pointer.trim_start_matches('#')).unwrap_or_else(|| panic!("{pointer}"))
        }
        None => part,
    }
}

pub fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| -> Vec<Operation> {
        let methods = item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters");
        let operation = |(method, described): (&String, &Value)| {
            let parameters = [&item["parameters"], &described["parameters"]]
                .into_iter()
                .filter_map(Value::as_array)
                .flatten();
            Operation {
                path: path.clone(),
                method: method.to_uppercase().parse().unwrap(),
                parameters: parameters
                    .map(|parameter| resolved(document, parameter).clone())
                    .collect(),
                described: described.clone(),
            }
        };
        methods.map(operation).collect()
    };
    paths.iter().flat_map(of).collect()
}

/// With whatever stands in braces left out.
fn bare(path: &str) -> String {
    path.split('{')
        .map(|part| part.split_once('}').map_or(part.to_owned(), |(_, rest)| format!("{{}}{rest}")))
        .collect()
}

/// What `.route(...)` of these sources adds.
fn routes(file: &str, prefixes: &[&str]) -> Routes {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway").join(file))
            .unwrap();
    let mut routes = Routes::new();
    for added in text.split(".route(").skip(1) {
        let added = added.trim_start().trim_start_matches("&path(");
        let (path, methods) = added.strip_prefix('"').unwrap().split_once('"').unwrap();
        // Up to the next route, or the end of the function.
        let methods = methods.split('}').next().unwrap();
        for method in ["get", "post", "delete", "put", "patch"]
            .into_iter()
            .filter(|method| methods.contains(&format!("{method}(")))
        {
            routes.extend(
                prefixes
                    .iter()
                    .map(|prefix| (bare(&format!("{prefix}{path}")), method.to_uppercase())),
            );
        }
    }
    routes
}

/// Whether a value is as its schema says, which may refer to others of the document.
fn check(document: &Value, schema: &Value, value: &Value, about: &str) {
    let root = json!({"allOf": [schema], "components": document["components"]});
    let validator = jsonschema::options().should_validate_formats(true).build(&root).unwrap();
    let errors: Vec<_> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{about}: {errors:?} in {value:#}");
}

fn content(part: &Value) -> &Value {
    &part["content"]["application/json"]
}

fn examples(content: &Value) -> Vec<Value> {
    let several = content["examples"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, example)| example["value"].clone());
    content.get("example").cloned().into_iter().chain(several).collect()
}

fn example(parameter: &Value) -> Option<String> {
    match &parameter["example"] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

impl Operation {
    pub fn name(&self) -> &str {
        self.described["operationId"].as_str().unwrap()
    }

    /// The bodies of the examples.
    pub fn bodies(&self) -> Vec<Value> {
        examples(content(&self.described["requestBody"]))
    }

    /// The request of the examples, without credentials. The rooms and users of the examples are
    /// those of the app that has a name of two words.
    pub fn request(&self, server: &Server, body: Option<&Value>) -> RequestBuilder {
        let of_id = self.path.starts_with("/app-id/");
        let fit = |text: String| {
            if of_id {
                text.replace("user1", "aaa").replace("user2", "1485248560558")
            } else {
                text
            }
        };
        let (mut path, mut query) = (self.path.clone(), Map::new());
        for parameter in &self.parameters {
            let (name, value) = (parameter["name"].as_str().unwrap(), example(parameter).map(fit));
            match (parameter["in"].as_str().unwrap(), value) {
                ("path", value) => path = path.replace(&format!("{{{name}}}"), &value.unwrap()),
                ("query", Some(value)) => drop(query.insert(name.to_owned(), json!(value))),
                _ => {}
            }
        }
        let query: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap()))
            .collect();
        let request = server.rest(self.method.clone(), &format!("{path}?{}", query.join("&")), &[]);
        let fit_body =
            |body: &Value| fit(body.to_string()).replace("user3", "aaa").replace("owner1", "aaa");
        body.into_iter().fold(request, |request, body| {
            request.body(if of_id { fit_body(body) } else { body.to_string() })
        })
    }

    /// With what its security says.
    fn with_credentials(&self, server: &Server, request: RequestBuilder) -> RequestBuilder {
        let app = if self.path.starts_with("/app-id/") { IMKIT } else { AGORA };
        let schemes: Vec<_> = self.described["security"][0]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| &**name)
            .collect();
        schemes.into_iter().fold(request, |request, scheme| match scheme {
            "Bearer" => request.bearer_auth(server.app_token(app)),
            "ApiKey" => request.header(API_KEY.0, API_KEY.1),
            "ClientKey" => request.header(CLIENT_KEY.0, CLIENT_KEY.1),
            "UserToken" => {
                request.header("IM-Authorization", server.user_token(IMKIT, "1485248560558"))
            }
            other => panic!("{other}"),
        })
    }

    /// Sends it, and holds status and body against what is described.
    async fn answered(&self, document: &Value, request: RequestBuilder) -> u16 {
        let (status, body) = sent(request).await;
        let response = resolved(document, &self.described["responses"][status.to_string()]);
        assert!(response.is_object(), "{}: {status} is not described: {body}", self.name());
        check(document, &content(response)["schema"], &body, self.name());
        status
    }
}

#[tokio::test]
async fn routes_and_described_operations_are_the_same() {
    let server = Server::start().await;
    let agora = routes("agora.rs", &["/{org_name}/{app_name}", "/app-id/{app_name}"]);
    let found: Routes = agora.into_iter().chain(routes("imkit.rs", &[""])).collect();
    let described: Routes = operations(&document(&server).await)
        .iter()
        .map(|operation| (bare(&operation.path), operation.method.to_string()))
        .collect();
    assert_eq!(described, found);
    assert!(found.len() > 40, "{found:?}");
}

#[tokio::test]
async fn every_example_is_as_its_schema_says() {
    let document = document(&Server::start().await).await;
    let mut checked = 0;
    let responses = document["components"]["responses"].as_object().unwrap();
    let mut contents: Vec<_> = responses
        .iter()
        .map(|(name, response)| (name.clone(), content(response).clone()))
        .collect();
    for operation in operations(&document) {
        for parameter in
            operation.parameters.iter().filter(|parameter| parameter.get("example").is_some())
        {
            check(&document, &parameter["schema"], &parameter["example"], operation.name());
            checked += 1;
        }
        let own = operation.described["responses"]
            .as_object()
            .unwrap()
            .values()
            .chain([&operation.described["requestBody"]]);
        contents.extend(own.map(|part| (operation.name().to_owned(), content(part).clone())));
    }
    for (name, content) in contents {
        for example in examples(&content) {
            check(&document, &content["schema"], &example, &name);
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

#[tokio::test]
async fn every_operation_is_answered_as_described_with_its_examples() {
    let document = document(&Server::start().await).await;
    for operation in operations(&document) {
        let bodies = operation.bodies();
        let bodies = if bodies.is_empty() { vec![None] } else { bodies.iter().map(Some).collect() };
        for body in bodies {
            let server = Server::start().await;
            // The one path that refuses to take away what is not there.
            sent(server.rest(Method::POST, "/admin/clients/aaa/mute/demo", &[API_KEY])).await;
            let request = operation.with_credentials(&server, operation.request(&server, body));
            let status = operation.answered(&document, request).await;
            // Only the app with a name of two words has a client id in dev mode.
            let expected = if operation.name() == "issueTokenById" { 400 } else { 200 };
            assert_eq!(status, expected, "{}", operation.name());
        }
    }
}

#[tokio::test]
async fn operations_without_credentials_fail_as_described() {
    let server = Server::start().await;
    let document = document(&server).await;
    for operation in operations(&document)
        .iter()
        .filter(|operation| operation.described["security"] != json!([]))
    {
        let status = operation.answered(&document, operation.request(&server, None)).await;
        assert!(matches!(status, 401 | 403), "{}: {status}", operation.name());
    }
}

#[tokio::test]
async fn operations_have_unique_names_and_described_tags() {
    let document = document(&Server::start().await).await;
    let operations = operations(&document);
    let names: BTreeSet<_> = operations.iter().map(Operation::name).collect();
    assert_eq!(names.len(), operations.len());
    let tags: BTreeSet<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["name"])
        .map(Value::to_string)
        .collect();
    let used: BTreeSet<_> =
        operations.iter().map(|operation| operation.described["tags"][0].to_string()).collect();
    assert_eq!(used, tags);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn the_docs_page_is_public_and_loads_nothing_external() {
    let server = Server::start().await;
    let mut pending = vec!["/docs".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let response = server.rest(Method::GET, &path, &[]).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(
            policy.starts_with("default-src 'none'; ")
                && !policy.contains("unsafe")
                && !policy.contains("http"),
            "{policy}"
        );
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let text = response.text().await.unwrap();
        if path == "/openapi.json" {
            continue;
        }
        let named = |before: &str| -> Vec<String> {
            text.split(before)
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().to_owned())
                .collect()
        };
        let links = [named("src=\""), named("href=\"")]
            .concat()
            .into_iter()
            .filter(|link| !link.starts_with('#'));
        let imports = named("from \"./").into_iter().map(|file| format!("/docs/{file}"));
        pending.extend(links.chain(imports));
    }
    assert!(
        seen.iter().all(|path| path == "/openapi.json" || path.starts_with("/docs")),
        "{seen:?}"
    );
    assert_eq!(seen.len(), 8, "{seen:?}");
}

#[tokio::test]
async fn an_organization_named_as_the_page_is_still_the_vendors() {
    let server = Server::start().await;
    for path in ["/docs/testapp/chatrooms/1/mute", "/docs/page.js/chatrooms/1/mute"] {
        let (status, body) = sent(server.rest(Method::GET, path, &[])).await;
        assert_eq!((status, &body["error"]), (401, &json!("group_authorization")), "{path}");
    }
    let (status, body) = sent(server.rest(Method::POST, "/openapi.json", &[])).await;
    assert_eq!((status, &body["error"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn the_root_says_what_this_is_and_links_the_docs() {
    let server = Server::start().await;
    let (status, body) = sent(server.rest(Method::GET, "/", &[])).await;
    assert_eq!((status, &body["service"]), (200, &json!("mute-service")));
    for name in ["docs", "openapi"] {
        let linked = server.rest(Method::GET, body[name].as_str().unwrap(), &[]).send().await;
        assert_eq!(linked.unwrap().status(), 200);
    }
    let page = server.rest(Method::GET, "/", &[("accept", "text/html,*/*;q=0.8")]);
    assert!(page.send().await.unwrap().text().await.unwrap().contains("<a href=\"/docs\">"));
}

#[tokio::test]
async fn the_root_is_a_page_only_for_those_who_accept_one() {
    let server = Server::start().await;
    for (accept, is_page) in [
        ("text/html", true),
        ("application/json, TEXT/HTML;q=0.5", true),
        ("text/html;q=0, application/json", false),
        ("application/json, text/html; q=0.0", false),
        ("text/html-like", false),
        ("*/*", false),
    ] {
        let root = server.rest(Method::GET, "/", &[("accept", accept)]).send().await.unwrap();
        let header = |name: &str| root.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type").starts_with("text/html"), is_page, "{accept}");
        assert_eq!(header("vary").to_lowercase(), "accept");
        assert_eq!(header("x-content-type-options"), "nosniff", "{accept}");
        assert_eq!(header("cache-control"), "no-cache", "{accept}");
    }
}

#[tokio::test]
async fn a_trailing_slash_is_the_same_path() {
    let server = Server::start().await;
    for operation in operations(&document(&server).await) {
        let mut request = operation.request(&server, None).build().unwrap();
        let path = format!("{}/", request.url().path());
        request.url_mut().set_path(&path);
        let status = server.http.execute(request).await.unwrap().status().as_u16();
        // It has no credentials, or no body.
        assert!([400, 401, 403].contains(&status), "{path}: {status}");
    }
    let token = server.agora_token();
    let list = |slash| {
        let path = format!("/easemob-demo/testapp/chatrooms/{ROOM}/mute{slash}?pagenum=1");
        sent(server.rest(Method::GET, &path, &[]).bearer_auth(&token))
    };
    assert_eq!(list("/").await, list("").await);
    let (status, room) = server.imkit(Method::POST, "/rooms/", Some(json!({"_id": "new"}))).await;
    assert_eq!((status, &room["result"]["_id"]), (200, &json!("new")));
    assert_eq!(sent(server.rest(Method::GET, "/docs/page.css/x/", &[])).await.0, 404);
}

//! The REST gateway: request targets with percent codes and queries, headers, and bodies of both
//! vendors.
//!
//! An input is text, as in `seeds/gateway`: requests separated by a line `###`, each with a line
//! `WHO METHOD TARGET`, headers, an empty line and a body. WHO is a letter that stands for
//! credentials ([`credentials`]); `t MS` advances the clock.
//!
//! Every answer is a JSON object in the envelope of the vendor, is never a 5xx, and belongs to an
//! app that the caller may use. A refusal changes nothing. A change with 200 is visible to reads. A
//! repeat with the same `Idempotency-Key` returns the same answer and changes nothing. At the end
//! neither a sweep nor a restart changes any answer, and every record can be exported and imported.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{cell::RefCell, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header::CONTENT_TYPE},
};
use libfuzzer_sys::{Corpus, fuzz_target};
use mute_service::{
    clock::Clock,
    dev::{AGORA_APP, IMKIT_APP, IMKIT_USER},
    sweep::Sweeper,
    transfer::{content::Content, line::Line, record::KnownRecord},
};
use mute_service_fuzz::{
    memory::Records,
    server::{OPEN, START_MS, Server},
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

/// The maximum number of steps of an input.
const STEPS: usize = 8;
/// The longest step of the clock: a quarter of a year.
const MAX_ADVANCE_MS: u64 = 90 * 24 * 3_600_000;
/// Headers that only [`credentials`] may set.
const SECRETS: [&str; 4] = ["authorization", "im-api-key", "im-client-key", "im-authorization"];
/// The pages for people.
const PAGES: [&str; 7] = [
    "/docs",
    "/docs/page.css",
    "/docs/page.js",
    "/docs/call.js",
    "/docs/schema.js",
    "/docs/dom.js",
    "/docs/icon.svg",
];

thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(Fixture::build());
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let steps: Vec<_> = blocks(input).take(STEPS).filter_map(Step::parse).collect();
    if steps.is_empty() {
        return Corpus::Reject;
    }
    FIXTURE.with_borrow_mut(|fixture| fixture.run(&steps));
    Corpus::Keep
});

/// State that is kept from input to input.
struct Fixture {
    runtime: Runtime,
    seeds: Records,
    tokens: Tokens,
    /// A server that the last input has not changed.
    unchanged: Option<Server>,
}

/// Tokens of the apps and of their users.
struct Tokens {
    agora: String,
    imkit: String,
    open: String,
    member: String,
    owner: String,
    client: String,
}

enum Step<'a> {
    Wait(u64),
    Call(Box<Call<'a>>),
}

struct Call<'a> {
    who: u8,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: &'a [u8],
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    kind: Option<HeaderValue>,
    body: Bytes,
}

/// The blocks of the input, separated by lines of `###`.
fn blocks(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(input);
    std::iter::from_fn(move || {
        let all = rest?;
        let (block, after) =
            split(all, b"\n###\n").map_or((all, None), |(block, after)| (block, Some(after)));
        rest = after;
        Some(block)
    })
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..start], &bytes[start + at.len()..]))
}

impl<'a> Step<'a> {
    /// `None` for a block that no HTTP server would accept as a request.
    fn parse(block: &'a [u8]) -> Option<Self> {
        let (head, body) = split(block, b"\n\n").unwrap_or((block, &[]));
        let mut lines = head.split(|byte| *byte == b'\n');
        let mut words = lines.next()?.splitn(3, |byte| *byte == b' ');
        let (&[who], word) = (words.next()?, words.next()?) else { return None };
        if who == b't' {
            return Some(Self::Wait(
                str::from_utf8(word).ok()?.parse().ok().filter(|ms| *ms <= MAX_ADVANCE_MS)?,
            ));
        }
        let method = Method::from_bytes(word).ok()?;
        let uri = Uri::try_from(words.next()?).ok()?;
        let mut headers = HeaderMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = split(line, b": ")?;
            headers
                .append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        SECRETS.iter().for_each(|name| drop(headers.remove(*name)));
        Some(Self::Call(Box::new(Call { who, method, uri, headers, body })))
    }

    /// The call, if it is a read.
    fn read(&self) -> Option<&Call<'a>> {
        match self {
            Self::Call(call) if call.method == Method::GET => Some(call),
            _ => None,
        }
    }
}

impl Fixture {
    fn build() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let (seeds, tokens) = runtime.block_on(async {
            let seeds = Server::seeds().await;
            let server = Server::start(seeds.clone(), Clock::manual(START_MS)).await;
            let of = |app, user| format!("Bearer {}", server.token(app, user));
            let tokens = Tokens {
                agora: of(AGORA_APP, None),
                imkit: of(IMKIT_APP, None),
                open: of(OPEN, None),
                member: of(AGORA_APP, Some("user1")),
                owner: of(AGORA_APP, Some("owner1")),
                client: of(IMKIT_APP, Some(IMKIT_USER)),
            };
            (seeds, tokens)
        });
        Self { runtime, seeds, tokens, unchanged: None }
    }

    fn run(&mut self, steps: &[Step<'_>]) {
        let Self { runtime, seeds, tokens, unchanged } = self;
        runtime.block_on(async {
            let server = match unchanged.take() {
                Some(server) => server,
                None => Server::start(seeds.clone(), Clock::manual(START_MS)).await,
            };
            let before = server.store.revision();
            let subject = Subject { server, tokens };
            for step in steps {
                match step {
                    Step::Wait(ms) => subject.server.clock.advance(Duration::from_millis(*ms)),
                    Step::Call(call) => subject.check_call(call).await,
                }
            }
            if subject.server.store.revision() > before {
                subject.check_final_state(steps).await;
            } else if subject.server.clock.now_ms() == START_MS {
                *unchanged = Some(subject.server);
            }
        });
    }
}

/// The server, and the tokens of its callers.
struct Subject<'a> {
    server: Server,
    tokens: &'a Tokens,
}

/// The headers for this letter, and the apps that they give access to.
fn credentials<'a>(
    who: u8,
    tokens: &'a Tokens,
) -> (Vec<(&'static str, &'a str)>, &'static [&'static str]) {
    let bearer = |token: &'a str| vec![("authorization", token)];
    match who {
        b'a' => (bearer(&tokens.agora), &[AGORA_APP]),
        b'm' => (bearer(&tokens.member), &[AGORA_APP]),
        b'o' => (bearer(&tokens.owner), &[AGORA_APP]),
        b's' => (bearer(&tokens.imkit), &[IMKIT_APP]),
        b'k' => (vec![("im-api-key", "dev-api-key")], &[IMKIT_APP]),
        b'u' => (
            vec![("im-client-key", "dev-client-key"), ("im-authorization", &tokens.client)],
            &[IMKIT_APP],
        ),
        b'p' => (bearer(&tokens.open), &[OPEN]),
        b'i' => (bearer("Bearer dev-service-token"), &[AGORA_APP, IMKIT_APP, OPEN]),
        _ => (Vec::new(), &[]),
    }
}

fn decoded(segment: &str) -> Option<String> {
    percent_decode_str(segment).decode_utf8().ok().map(Into::into)
}

/// The body as JSON, or null.
fn value(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.map(|item| item[name].as_str().unwrap().to_owned()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A digest of all records except idempotency records.
fn content(records: &Records) -> String {
    let mut content = Content::default();
    records.entries().for_each(|entry| drop(content.add(&entry, None).unwrap()));
    content.sha256()
}

impl Call<'_> {
    fn segments(&self) -> Vec<&str> {
        self.uri.path().split('/').skip(1).collect()
    }
}

impl Subject<'_> {
    async fn send(&self, call: &Call<'_>) -> Answer {
        let mut request = Request::new(Body::from(call.body.to_vec()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.uri.clone();
        *request.headers_mut() = call.headers.clone();
        for (name, value) in credentials(call.who, self.tokens).0 {
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        let (head, body) = self.server.answer(request).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a complete body");
        Answer { status: head.status.as_u16(), kind: head.headers.get(CONTENT_TYPE).cloned(), body }
    }

    /// What the internal service gets from this path.
    async fn get_as_service(&self, path: &str) -> (u16, Value) {
        let uri = Uri::try_from(path).unwrap();
        let call =
            Call { who: b'i', method: Method::GET, uri, headers: HeaderMap::new(), body: &[] };
        let answer = self.send(&call).await;
        (answer.status, value(&answer.body))
    }

    async fn check_call(&self, call: &Call<'_>) {
        let before = self.server.store.records();
        let answer = self.send(call).await;
        let after = self.server.store.records();
        self.check_envelope(call, &answer);
        let writes = matches!(call.method, Method::POST | Method::DELETE);
        assert!(writes || after == before, "{} changed something", call.method);
        if answer.status != 200 {
            assert!(
                after == before || content(&after) == content(&before),
                "a refusal changed something: {answer:?}"
            );
        }
        if writes && call.headers.contains_key("idempotency-key") {
            assert_eq!(self.send(call).await, answer, "a repeat");
            assert!(self.server.store.records() == after, "a repeat changed something");
        }
        if answer.status == 200 && writes {
            self.check_effect(call, &value(&answer.body)).await;
        }
    }

    fn check_envelope(&self, call: &Call<'_>, answer: &Answer) {
        let Answer { status, kind, body } = answer;
        assert!(matches!(status, 200 | 400 | 401 | 403 | 404 | 405), "{answer:?}");
        if call.method == Method::HEAD {
            return assert!(body.is_empty());
        }
        let path = call.uri.path();
        let segments = call.segments();
        if *status == 200 && PAGES.contains(&path) {
            return assert!(call.method == Method::GET && !body.is_empty());
        }
        assert_eq!(kind.as_ref().map(HeaderValue::as_bytes), Some(&b"application/json"[..]));
        let body: Value = serde_json::from_slice(body).expect("an answer in JSON");
        if path == "/openapi.json" && *status == 200 {
            return assert!(body["openapi"].is_string());
        }
        let of_imkit = match segments.as_slice() {
            // No organization has such a name, so either vendor may refuse it.
            [
                "admin" | "me" | "rooms",
                _,
                "chatrooms" | "mutes" | "users" | "token" | "sdk",
                ..,
            ] => body.get("RC").is_some(),
            ["admin" | "me" | "rooms", ..] => true,
            _ => false,
        };
        let allowed = credentials(call.who, self.tokens).1;
        if of_imkit {
            check_imkit(*status, &body);
            assert!(*status != 200 || allowed == [IMKIT_APP], "{body}");
        } else {
            self.check_agora(*status, call, &body, allowed);
        }
    }

    fn check_agora(&self, status: u16, call: &Call<'_>, body: &Value, allowed: &[&str]) {
        let now_ms = self.server.clock.now_ms();
        let segments = call.segments();
        if status == 200 && matches!(segments.as_slice(), [_, _, "token"]) {
            assert_eq!(keys(body), ["access_token", "application", "expires_in"]);
            return assert!(body["access_token"].is_string() && body["expires_in"].is_i64());
        }
        assert_eq!((&body["timestamp"], &body["duration"]), (&json!(now_ms), &json!(0)), "{body}");
        if status != 200 {
            assert_eq!(
                keys(body),
                ["duration", "error", "error_description", "exception", "timestamp"]
            );
            return assert!(
                ["error", "error_description", "exception"]
                    .iter()
                    .all(|name| body[name].is_string()),
                "{body}"
            );
        }
        let head = [
            "action",
            "application",
            "applicationName",
            "entities",
            "organization",
            "timestamp",
            "uri",
        ];
        assert!(head.iter().all(|name| body.get(name).is_some()), "{body}");
        assert!(
            keys(body)
                .iter()
                .all(|name| head.contains(name) || ["count", "data", "duration"].contains(name)),
            "{body}"
        );
        assert!(body["uri"].as_str().unwrap().ends_with(call.uri.path()), "{body}");
        let app = match segments.as_slice() {
            ["app-id", app, ..] => decoded(app).unwrap(),
            [organization, app, ..] => {
                format!("{}#{}", decoded(organization).unwrap(), decoded(app).unwrap())
            }
            _ => panic!("{body}"),
        };
        assert!(allowed.contains(&app.as_str()), "{app} is not one of {allowed:?}: {body}");
    }

    /// Checks that a change answered with 200 is visible to reads.
    async fn check_effect(&self, call: &Call<'_>, body: &Value) {
        let segments = call.segments();
        if let ["admin" | "me" | "rooms", ..] = segments.as_slice() {
            return check_imkit_effect(call, &segments, body);
        }
        let [first, second, rest @ ..] = segments.as_slice() else { return };
        let prefix = format!("/{first}/{second}");
        let requested = value(call.body);
        let named = match &requested["usernames"] {
            Value::String(user) => vec![user.clone()],
            users => users
                .as_array()
                .into_iter()
                .flatten()
                .map(|user| user.as_str().unwrap().to_owned())
                .collect(),
        };
        let in_path = |users| {
            decoded(users)
                .unwrap()
                .split(',')
                .filter(|user| !user.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let data = &body["data"];
        let is_post = call.method == Method::POST;
        match rest {
            ["chatrooms", room, "mute", users @ ..] => {
                let named: Vec<_> = if is_post { named } else { in_path(users[0]) };
                assert_eq!(texts(data, "user"), named, "{body}");
                let is_muted =
                    is_post && data[0]["expire"].as_u64().unwrap() > self.server.clock.now_ms();
                for user in named.iter().take(3) {
                    let (status, found) = self
                        .get_as_service(&format!("{prefix}/sdk/chatrooms/{room}/mute/{user}"))
                        .await;
                    let (_, everywhere) =
                        self.get_as_service(&format!("{prefix}/mutes/{user}")).await;
                    let expected = is_muted || everywhere["data"]["chatroom"] != 0;
                    // An unmute accepts unknown users.
                    assert!(
                        found["data"] == expected || (status == 400 && !is_muted),
                        "{user}: {found}, {everywhere}"
                    );
                }
            }
            ["chatrooms", room, "ban"] => {
                let (_, found) = self.get_as_service(&format!("{prefix}/chatrooms/{room}")).await;
                assert_eq!(found["data"][0]["mute"], is_post, "{found}");
            }
            ["chatrooms", room, "white", "users", users @ ..] => {
                let named: Vec<_> = if users.is_empty() { named } else { in_path(users[0]) };
                let returned = if data.is_array() {
                    texts(data, "user")
                } else {
                    texts(&json!([data]), "user")
                };
                assert_eq!(returned, named, "{body}");
                for user in named.iter().take(3) {
                    let (_, found) = self
                        .get_as_service(&format!("{prefix}/chatrooms/{room}/white/users/{user}"))
                        .await;
                    assert_eq!(found["data"]["white"], is_post, "{user}: {found}");
                }
            }
            ["chatrooms"] => {
                let (status, found) = self
                    .get_as_service(&format!("{prefix}/chatrooms/{}", data["id"].as_str().unwrap()))
                    .await;
                assert_eq!((status, &found["data"][0]["id"]), (200, &data["id"]), "{found}");
            }
            ["mutes"] => {
                let (_, found) = self
                    .get_as_service(&format!(
                        "{prefix}/mutes/{}",
                        requested["username"].as_str().unwrap()
                    ))
                    .await;
                assert_eq!(
                    found["data"]["chatroom"] == 0,
                    requested["chatroom"].as_f64() == Some(0.0),
                    "{found}"
                );
            }
            _ => {}
        }
    }

    /// Checks what must hold after all steps.
    async fn check_final_state(&self, steps: &[Step<'_>]) {
        let reads: Vec<_> = steps.iter().filter_map(Step::read).collect();
        let mut answers = Vec::new();
        for call in &reads {
            answers.push(self.send(call).await);
        }
        let restarted = Subject { server: self.server.restart().await, tokens: self.tokens };
        let service = &self.server.service;
        let clock = self.server.clock.clone();
        let sweeper = Sweeper { store: service.store.clone(), view: service.view.clone(), clock };
        while sweeper.sweep().await.unwrap() > 0 {}
        for (call, answer) in reads.into_iter().zip(&answers) {
            assert_eq!(&self.send(call).await, answer, "after a sweep");
            assert_eq!(&restarted.send(call).await, answer, "after a restart");
        }
        for entry in self.server.store.records().entries() {
            let Some(KnownRecord { line, value, .. }) = KnownRecord::of(&entry).unwrap() else {
                continue;
            };
            let read: Line = serde_json::from_str(&line.text()).expect("a readable line");
            assert_eq!(read, line);
            let (_, key, imported) = read.record().expect("an importable record");
            assert_eq!((key, &imported, &value), (entry.key, &entry.value, &entry.value));
        }
    }
}

fn check_imkit(status: u16, body: &Value) {
    if status == 200 {
        assert_eq!(keys(body), ["RC", "RM", "result"]);
        return assert!(
            body["RC"] == 0 && body["RM"] == "OK" && body["result"].is_object(),
            "{body}"
        );
    }
    assert_eq!(keys(body), ["RC", "RM", "error"]);
    assert!(body["RC"] == status && body["RM"].is_string(), "{body}");
    assert_eq!(keys(&body["error"]), ["code", "message"]);
    assert!(body["error"]["code"].is_string() && body["error"]["message"].is_string(), "{body}");
}

fn check_imkit_effect(call: &Call<'_>, segments: &[&str], body: &Value) {
    let requested = value(call.body);
    let result = &body["result"];
    let reflects = |names: &[&str]| {
        for name in names.iter().filter(|name| !requested[name].is_null()) {
            assert_eq!(result[name], requested[name], "{name}: {body}");
        }
    };
    match segments {
        ["admin", "clients", _, "mute", room] | ["me", "mute", room] => {
            let room = json!(decoded(room).unwrap());
            let is_muted = result["mute"].as_array().unwrap().contains(&room);
            assert_eq!(is_muted, call.method == Method::POST, "{body}");
        }
        ["admin", "clients"] => {
            reflects(&["_id", "nickname", "avatarUrl", "description", "email", "isRobot"])
        }
        ["rooms"] => reflects(&["_id", "name"]),
        _ => {}
    }
}

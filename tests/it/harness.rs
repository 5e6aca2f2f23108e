//! What the tests share: a service on free ports with a manual clock, and gRPC and REST callers.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use mute_service::{
    app::{Addresses, App, Failure},
    auth::{
        Scope,
        apps::{AppConfig, Directory},
        credentials::ServiceConfig,
        secret::{KeyHash, Secret},
    },
    clock::Clock,
    config::{Config, Settings},
    proto::v1::{
        self as pb, directory_service_client::DirectoryServiceClient,
        mute_service_client::MuteServiceClient, token_service_client::TokenServiceClient,
    },
    service::Service,
    sweep::Sweeper,
};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinSet};
use tonic::{Request, Status, metadata::AsciiMetadataKey, transport::Channel};
use tonic_types::StatusExt as _;

use crate::skips::skips_of_this_run;

pub const AGORA: &str = "easemob-demo#testapp";
pub const IMKIT: &str = "SampleApp";
/// An app whose directory is open.
pub const OPEN: &str = "Open";
pub const ROOM: &str = "1265710621211";
pub const SERVICE: (&str, &str) = ("authorization", "Bearer dev-service-token");
/// A service with the scope `admin` alone.
pub const KEEPER: (&str, &str) = ("authorization", "Bearer directory-keeper");
pub const API_KEY: (&str, &str) = ("IM-API-KEY", "dev-api-key");
pub const CLIENT_KEY: (&str, &str) = ("IM-CLIENT-KEY", "dev-client-key");
/// Where the manual clock starts: 2022-01-13T07:59:10.410Z, the timestamp of the documents' first
/// example.
pub const START_MS: u64 = 1_642_060_750_410;

/// A service in this process, in dev mode, with the manual clock. `stop` ends it in order; dropping
/// it ends it at once.
pub struct Server {
    pub clock: Clock,
    pub addresses: Addresses,
    pub service: Arc<Service>,
    pub http: reqwest::Client,
    data_dir: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    /// Aborted when it is dropped.
    running: JoinSet<Result<(), Failure>>,
    _directory: Option<TempDir>,
}

impl Server {
    /// On a directory of its own, without rate limits.
    pub async fn start() -> Self {
        Self::with(unlimited()).await
    }

    /// On a directory of its own, with these settings.
    pub async fn with(settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self::on(directory.path(), Clock::manual(START_MS), settings).await;
        server._directory = Some(directory);
        server
    }

    /// On this directory, with this clock.
    pub async fn on(directory: &Path, clock: Clock, settings: Settings) -> Self {
        let free = "127.0.0.1:0".parse().ok();
        let settings = Settings {
            data_dir: Some(directory.to_path_buf()),
            grpc_addr: free,
            rest_addr: free,
            admin_addr: free,
            cache_mib: Some(16),
            // As in production, unlike dev mode.
            grpc_web_origins: settings.grpc_web_origins.or(Some(Vec::new())),
            rest_origins: settings.rest_origins.or(Some(Vec::new())),
            ..settings
        };
        let mut config = Config::load(settings, None, true).unwrap();
        config.apps.push(open_app());
        config.services[0].apps.push(OPEN.to_owned());
        config.services.push(directory_keeper());
        let app = App::start(&config, clock.clone()).await.unwrap();
        let addresses = app.addresses;
        let service = app.service.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut running = JoinSet::new();
        running.spawn(app.run(async {
            let _ = stopped.await;
        }));
        let data_dir = directory.to_path_buf();
        Self {
            clock,
            addresses,
            service,
            http: reqwest::Client::new(),
            data_dir,
            stop: Some(stop),
            running,
            _directory: None,
        }
    }

    /// Stops in order. Its directory is free when this returns.
    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        let Self { mut running, service, http, data_dir, _directory, .. } = self;
        drop(http);
        running.join_next().await.unwrap().unwrap().unwrap();
        drop(service);
        // The last of its tasks drops the store on another thread.
        let lock = std::fs::File::open(data_dir.join("LOCK")).unwrap();
        for _ in 0..5_000 {
            if lock.try_lock().is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the store is still in use after the stop");
    }

    /// A REST request to this path, with these headers.
    pub fn rest(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> RequestBuilder {
        let request = self.http.request(method, format!("http://{}{path}", self.addresses.rest));
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    /// A REST request to an Agora path of the dev app, as its admin.
    pub async fn agora(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let token = format!("Bearer {}", self.agora_token());
        let request = self.rest(
            method,
            &format!("/easemob-demo/testapp{path}"),
            &[("authorization", &token)],
        );
        sent(body.into_iter().fold(request, |request, body| request.body(body.to_string()))).await
    }

    /// A REST request to an IMKit path, as the admin of the dev app.
    pub async fn imkit(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.rest(method, path, &[API_KEY]);
        sent(body.into_iter().fold(request, |request, body| request.body(body.to_string()))).await
    }

    /// A REST request to a `/me` path, as this user of the dev app.
    pub async fn me(&self, method: Method, path: &str, user: &str) -> (u16, Value) {
        let token = self.user_token(IMKIT, user);
        sent(self.rest(method, path, &[CLIENT_KEY, ("IM-Authorization", &token)])).await
    }

    /// An app token of the Agora-style dev app.
    pub fn agora_token(&self) -> String {
        self.app_token(AGORA)
    }

    pub fn app_token(&self, app: &str) -> String {
        let app = self.service.access.app(app).unwrap();
        app.tokens.as_ref().unwrap().mint_app(&app.key, self.clock.now_ms(), Some(3_600)).unwrap()
    }

    pub fn user_token(&self, app: &str, user: &str) -> String {
        let app = self.service.access.app(app).unwrap();
        app.tokens
            .as_ref()
            .unwrap()
            .mint_user(&app.key, user, self.clock.now_ms(), self.clock.now_ms() / 1_000 + 3_600)
            .unwrap()
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.addresses.grpc))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub async fn mutes(&self) -> MuteServiceClient<Channel> {
        MuteServiceClient::new(self.channel().await)
    }

    pub async fn directory(&self) -> DirectoryServiceClient<Channel> {
        DirectoryServiceClient::new(self.channel().await)
    }

    pub async fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel().await)
    }

    /// A request of the app's admin.
    pub fn as_admin<T>(&self, app: &str, message: T) -> Request<T> {
        with(message, &[("authorization", &format!("Bearer {}", self.app_token(app)))])
    }

    /// Checks over gRPC, as the internal service.
    pub async fn check(&self, app: &str, room: &str, user: &str) -> pb::CheckSendResponse {
        let message = pb::CheckSendRequest {
            app: app.to_owned(),
            room: room.to_owned(),
            user: user.to_owned(),
            ..Default::default()
        };
        self.mutes().await.check_send(with(message, &[SERVICE])).await.unwrap().into_inner()
    }

    /// Mutes over gRPC, as the internal service.
    pub async fn mute(
        &self,
        app: &str,
        room: &str,
        users: &[&str],
        duration_ms: Option<u64>,
    ) -> pb::MuteMembersResponse {
        let message = pb::MuteMembersRequest {
            app: app.to_owned(),
            room: room.to_owned(),
            users: strings(users),
            duration: duration_ms.map(duration),
            ..Default::default()
        };
        self.mutes().await.mute_members(with(message, &[SERVICE])).await.unwrap().into_inner()
    }

    /// Sweeps everything that is due, as the background sweeper does four times a second.
    pub async fn sweep(&self) {
        let Service { store, view, clock, .. } = &*self.service;
        let sweeper = Sweeper { store: store.clone(), view: view.clone(), clock: clock.clone() };
        while sweeper.sweep().await.unwrap() + sweeper.sweep_deleted().await.unwrap() > 0 {}
    }

    pub fn advance(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }
}

/// An app in which every well-formed id exists.
fn open_app() -> AppConfig {
    AppConfig {
        key: OPEN.to_owned(),
        directory: Directory::Open,
        case_insensitive_users: None,
        api_key_hash: Vec::new(),
        client_key_hash: Vec::new(),
        client_id: None,
        client_secret_hash: Vec::new(),
        token_secret: vec![Secret::new("a secret of sixteen or more")],
        tokens_not_before: None,
        revoked_tokens: Vec::new(),
    }
}

/// A service that may change the directory, and nothing else.
fn directory_keeper() -> ServiceConfig {
    let token_hash = vec![KeyHash::of("directory-keeper")];
    let scopes = vec![Scope::Admin];
    let apps = vec!["*".to_owned()];
    ServiceConfig {
        name: "keeper".to_owned(),
        token_hash,
        cert_names: Vec::new(),
        issuer: None,
        subjects: Vec::new(),
        scopes,
        apps,
    }
}

/// Settings without rate limits.
pub fn unlimited() -> Settings {
    Settings {
        rate_limit: Some(0),
        user_rate_limit: Some(0),
        token_rate_limit: Some(0),
        ..Settings::default()
    }
}

pub fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

pub fn duration(ms: u64) -> prost_types::Duration {
    prost_types::Duration { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000 * 1_000_000) as i32 }
}

pub fn ms(time: &prost_types::Timestamp) -> u64 {
    time.seconds as u64 * 1_000 + time.nanos as u64 / 1_000_000
}

/// A message with these headers as metadata.
pub fn with<T>(message: T, headers: &[(&str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        let name = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes()).unwrap();
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// Status code and JSON of an answer. Panics if it is not a JSON object, as every REST answer must
/// be.
pub async fn sent(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(
        response.headers().get("content-type").map(|value| value.as_bytes()),
        Some(&b"application/json"[..])
    );
    let text = response.text().await.unwrap();
    let body: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    assert!(body.as_object().is_some_and(|object| !object.is_empty()), "{text}");
    assert!(text.ends_with("}\n"), "a line of a terminal ends after it: {text:?}");
    (status, body)
}

/// The reason of a refusal.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Records that this test cannot run here; `tests/skips` lists it at the end of the run. Panics if
/// `MUTE_TEST_REQUIRE` is 1.
pub fn skipped(why: &str) {
    assert_ne!(std::env::var("MUTE_TEST_REQUIRE").as_deref(), Ok("1"), "skipped: {why}");
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let mut file =
        std::fs::File::options().create(true).append(true).open(skips_of_this_run()).unwrap();
    // In one write, so that lines of concurrent tests do not mix.
    file.write_all(format!("{test}: {why}\n").as_bytes()).unwrap();
}

/// Whether there is a Python with gRPC; if not, records that the test is skipped.
pub fn has_python() -> bool {
    let has_stubs = Command::new("python3").args(["-c", "import grpc_tools, grpc"]).output();
    let has_stubs = has_stubs.is_ok_and(|output| output.status.success());
    if !has_stubs {
        skipped("install python3 and grpcio-tools (pip install grpcio-tools)");
    }
    has_stubs
}

//! The service in this process, in dev mode, assembled as in `app.rs` but without listeners and
//! disk: requests go directly to the REST routes. Its clock is set by hand, and only the view runs
//! in the background, so that an input does the same each time.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, Response},
};
use mute_service::{
    auth::{
        apps::{AppConfig, Directory},
        credentials::{self, Access, Credentials, ServiceConfig},
        secret::Secret,
    },
    clock::Clock,
    dev,
    gateway::{self, Gateway},
    grpc::Api,
    limits::{
        concurrency::ConcurrencyLimit,
        connection::Connection,
        rate::{Limits, Rates},
    },
    service::{Quotas, Service},
    view::View,
    watch::Hub,
};
use tokio::task::JoinSet;
use tower::{Layer as _, ServiceExt as _, util::BoxCloneSyncService};

use crate::memory::{Memory, Records};

/// An app with an open directory: any id is valid in it.
pub const OPEN: &str = "Open";
/// The initial time of the clock.
pub const START_MS: u64 = 1_642_060_750_410;
/// The address of the requests: a trusted proxy.
const PEER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 50_000);

/// The service for one input.
pub struct Server {
    /// The clock of the service, the store and the answers.
    pub clock: Clock,
    /// The store below it.
    pub store: Arc<Memory>,
    /// The service below the routes.
    pub service: Arc<Service>,
    routes: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>,
    /// Aborted on drop.
    _view: JoinSet<()>,
}

/// The apps of dev mode, and an open one.
#[must_use]
pub fn apps() -> Vec<AppConfig> {
    let open = AppConfig {
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
    };
    dev::apps().into_iter().chain([open]).collect()
}

/// The dev service, with access to all apps.
#[must_use]
pub fn services() -> Vec<ServiceConfig> {
    vec![ServiceConfig { apps: vec!["*".to_owned()], ..dev::service() }]
}

impl Server {
    /// The records that dev mode creates.
    pub async fn seeds() -> Records {
        let server = Self::start(Records::default(), Clock::manual(START_MS)).await;
        dev::seed(&server.service).await.unwrap();
        server.store.records()
    }

    /// Starts a service over these records.
    pub async fn start(records: Records, clock: Clock) -> Self {
        let apps = apps();
        let services = services();
        let access =
            Access::new(Credentials::new(&apps, &services, &[], clock.clone()).unwrap()).await;
        let store = Memory::of(records);
        let loaded = View::load(&*store).await.unwrap();
        let view = loaded.view.clone();
        let mut follower = JoinSet::new();
        follower.spawn(loaded.follow(store.clone()));
        let service = Arc::new(Service {
            limits: Limits::new(Rates::default(), &clock).into(),
            token_ttl_s: 3_600,
            store: store.clone(),
            hub: Hub::new(&view, clock.clone()),
            view,
            clock: clock.clone(),
            access: access.clone(),
            heartbeat: Duration::from_secs(15),
            max_view_age: Duration::from_secs(10),
            refuse_old_views: false,
            refuse_skewed_clock: false,
            quotas: Quotas::default(),
            load: ConcurrencyLimit::new(1_000, 64 << 20),
        });
        let gateway = Gateway {
            api: Api::new(service.clone()),
            clock: clock.clone(),
            max_users: 60,
            is_tls: false,
            trusted_proxies: Arc::new([PEER.ip().into()]),
            load: service.load.clone(),
        };
        let routes =
            BoxCloneSyncService::new(credentials::layer(access).layer(gateway::router(gateway)));
        Self { clock, store, service, routes, _view: follower }
    }

    /// Starts another service over the same records, at the same time.
    pub async fn restart(&self) -> Self {
        let clock = Clock::manual(self.clock.now_ms());
        Self::start(self.store.records(), clock).await
    }

    /// Returns the answer to a request.
    pub async fn answer(&self, mut request: Request<Body>) -> Response<Body> {
        request.extensions_mut().insert(Arc::new(Connection::new(PEER, None)));
        match self.routes.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// A token of the app, or of this user.
    #[must_use]
    pub fn token(&self, app: &str, user: Option<&str>) -> String {
        let app = self.service.access.app(app).unwrap();
        let keys = app.tokens.as_ref().unwrap();
        let now_ms = self.clock.now_ms();
        let token = match user {
            Some(user) => keys.mint_user(&app.key, user, now_ms, now_ms / 1_000 + 1_000_000),
            None => keys.mint_app(&app.key, now_ms, None),
        };
        token.unwrap()
    }
}

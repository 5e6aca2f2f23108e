//! The life of one process: open the store, fill the view, bind, serve, drain, close.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic_health::ServingStatus;

use crate::{
    auth::credentials::Access,
    clock::Clock,
    config::Config,
    dev,
    error::Error,
    gateway::Gateway,
    grpc::Api,
    limits::concurrency::ConcurrencyLimit,
    limits::rate::Limits,
    model::UserId,
    server::{self, Rules, tls::Tls, web::Origin},
    service::Service,
    store::{self, Location, Store, StoreError},
    sweep::Sweeper,
    transfer::{self, output::Output},
    view::{LoadedView, View},
    watch::Hub,
};

/// Why a start or a run has failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{what} {addr} cannot be served: {source}; choose another address, or port 0 for a free one"
    )]
    Bind { what: &'static str, addr: SocketAddr, source: io::Error },
    #[error("{what}: {source}")]
    File { what: String, source: io::Error },
    #[error("the dev directory could not be written: {0}")]
    Seed(Error),
    #[error(transparent)]
    Transfer(#[from] transfer::Failure),
    #[error("{0}")]
    Serve(Box<dyn std::error::Error + Send + Sync>),
}

/// The addresses that were bound.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub rest: SocketAddr,
    pub admin: SocketAddr,
}

/// A process that is ready to serve.
pub struct App {
    /// The addresses that were bound.
    pub addresses: Addresses,
    /// The service behind the listeners.
    pub service: Arc<Service>,
    gateway: Gateway,
    listeners: [TcpListener; 3],
    rules: Rules,
    /// Origins of grpc-web.
    pages: Vec<Origin>,
    /// Of the embedded store.
    data_dir: Option<PathBuf>,
    /// What runs as long as the app does; aborted when it is dropped.
    background: JoinSet<()>,
    stop_delay: Duration,
    drain: Duration,
}

impl App {
    /// Binds the listeners, opens the store, fills the view.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self, Failure> {
        let clock = clock.doubted_for(config.clock_doubt);
        let access = Access::new(config.credentials(&clock).map_err(Failure::Config)?).await;
        if config.apps.is_empty() {
            tracing::warn!(
                "no app is configured, so every call will be refused: see --config, or --dev to try things out"
            );
        }
        let tls = config
            .tls
            .clone()
            .map(Tls::new)
            .transpose()
            .map_err(|wrong| Failure::Config(vec![wrong]))?
            .map(Arc::new);
        let (listeners, addresses) = bind(config).await?;
        let (store, filled) = load(config).await?;
        let view = filled.view.clone();
        let hub = Hub::new(&view, clock.clone());
        let service = Arc::new(Service {
            limits: Limits::new(config.rates, &clock).into(),
            token_ttl_s: config.token_ttl_seconds,
            store: store.clone(),
            view: view.clone(),
            clock: clock.clone(),
            access,
            hub: hub.clone(),
            heartbeat: Duration::from_secs(config.watch_heartbeat_seconds),
            max_view_age: Duration::from_secs(config.max_view_age_seconds),
            refuse_old_views: config.refuse_old_views,
            refuse_skewed_clock: config.refuse_skewed_clock,
            quotas: config.quotas,
            load: ConcurrencyLimit::new(config.max_calls, config.max_message_bytes),
        });
        let mut background = JoinSet::new();
        background.spawn(filled.follow(store.clone()));
        background.spawn(view.clone().track_age(store.clone()));
        background.spawn(hub.follow(store.clone(), view.clone()));
        background.spawn(Sweeper { store: store.clone(), view, clock: clock.clone() }.run());
        if let Some(tls) = tls.clone() {
            background.spawn(tls.watch_files());
        }
        if let Err(failure) = prepare(config, &service, addresses).await {
            store.close().await?;
            return Err(failure);
        }
        let gateway = Gateway {
            api: Api::new(service.clone()),
            clock,
            max_users: config.max_users,
            trusted_proxies: config.trusted_proxies.clone().into(),
            load: service.load.clone(),
        };
        let rules = Rules {
            max_connections: config.max_connections,
            name: "",
            sites: Arc::default(),
            trusted_proxies: config.trusted_proxies.clone().into(),
            max_age: Duration::from_secs(config.max_connection_age_seconds),
            tls,
        };
        let pages = config.grpc_web_origins.clone();
        let data_dir = match &config.place {
            Location::Directory { path, .. } => Some(path.clone()),
            Location::Cluster(_) => None,
        };
        let stop_delay = Duration::from_secs(config.stop_delay_seconds);
        let drain = Duration::from_secs(config.drain_seconds);
        Ok(Self {
            addresses,
            service,
            gateway,
            listeners,
            rules,
            pages,
            data_dir,
            background,
            stop_delay,
            drain,
        })
    }

    /// Tokens for the examples of dev mode: of the Agora-style app, and of the IMKit-style app's
    /// user.
    pub fn dev_tokens(&self) -> Result<(String, String), Error> {
        let now_ms = self.service.clock.now_ms();
        let month_s = 30 * 24 * 3_600;
        let agora = self.service.access.app(dev::AGORA_APP)?;
        let imkit = self.service.access.app(dev::IMKIT_APP)?;
        let (Some(agora_keys), Some(imkit_keys)) = (&agora.tokens, &imkit.tokens) else {
            return Err(Error::internal("the dev apps have no tokens"));
        };
        let user = UserId::parse(dev::IMKIT_USER.to_owned(), false)?;
        let app_token = agora_keys.mint_app(&agora.key, now_ms, Some(month_s))?;
        Ok((
            app_token,
            imkit_keys.mint_user(&imkit.key, user.as_str(), now_ms, now_ms / 1_000 + month_s)?,
        ))
    }

    /// Serves until `stop`, or until a part of it fails; then drains: health says so first, for a
    /// while nothing else changes, calls that run are finished, the store is closed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self {
            addresses,
            service,
            gateway,
            listeners,
            rules,
            pages,
            data_dir,
            mut background,
            stop_delay,
            drain,
        } = self;
        let [grpc, rest, admin] = listeners;
        let [(tell_health, told_health), (tell, told), (tell_admin, told_admin)] =
            [(); 3].map(|()| watch::channel(false));
        let (routes, health) =
            server::grpc_routes(gateway.api.clone()).await.map_err(Failure::Serve)?;
        let mut servers = JoinSet::new();
        let load = gateway.load.clone();
        let access = service.access.clone();
        servers.spawn(server::serve_grpc(
            grpc,
            rules.clone(),
            routes,
            pages,
            access.clone(),
            load,
            told.clone(),
        ));
        servers.spawn(server::serve_rest(rest, rules, gateway, access.clone(), told));
        let Addresses { grpc: grpc_addr, rest: rest_addr, admin: admin_addr } = addresses;
        tracing::info!(grpc = %grpc_addr, rest = %rest_addr, admin = %admin_addr, "ready");
        let admin = tokio::spawn(server::serve_admin(
            admin,
            service.clone(),
            data_dir,
            access,
            told_health,
            told_admin,
        ));
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = service.store.fatal_error() => Err(Failure::Store(error)),
            Some(ended) = servers.join_next() => Err(Failure::Serve(format!("a listener has ended: {ended:?}").into())),
            Some(ended) = background.join_next() => Err(Failure::Serve(format!("a background task has ended: {ended:?}").into())),
        };
        tell_health.send_replace(true);
        server::set_serving(&health, ServingStatus::NotServing).await;
        if outcome.is_ok() && !stop_delay.is_zero() {
            tracing::info!(?stop_delay, "stopping: not ready any more, and serving on for a while");
            tokio::time::sleep(stop_delay).await;
        }
        tracing::info!(?drain, "stopping: finishing the calls that run");
        // Watches have no end of their own, and would hold up a stop.
        service.hub.close();
        tell.send_replace(true);
        server::end_health_watches(&health).await;
        if tokio::time::timeout(drain, servers.join_all()).await.is_err() {
            tracing::warn!(?drain, "some connections were still open and are cut");
        }
        drop(background);
        let closed = service.store.close().await;
        tell_admin.send_replace(true);
        admin.abort();
        tracing::info!(revision = service.view.revision(), "closed");
        outcome.and(closed.map_err(Failure::Store))
    }
}

/// What has to be there before anybody is served: the dev directory, and the file that says where.
async fn prepare(config: &Config, service: &Service, addresses: Addresses) -> Result<(), Failure> {
    if config.dev {
        dev::seed(service).await.map_err(Failure::Seed)?;
    }
    match &config.addr_file {
        Some(path) => write_whole(path, &serde_json::to_string(&addresses).unwrap_or_default()),
        None => Ok(()),
    }
}

async fn load(config: &Config) -> Result<(Arc<dyn Store>, LoadedView), Failure> {
    let started = Instant::now();
    tracing::info!(place = %config.place, "opening the store");
    let store = store::open(&config.place, config.retention).await?;
    let filled = View::load(&*store).await?;
    let view = &filled.view;
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        records = view.records(),
        revision = view.revision(),
        took_ms,
        "the view is filled"
    );
    Ok((store, filled))
}

async fn bind(config: &Config) -> Result<([TcpListener; 3], Addresses), Failure> {
    let bind = async |what, addr| {
        let bound = async {
            let listener = TcpListener::bind(addr).await?;
            let addr = listener.local_addr()?;
            Ok((listener, addr))
        };
        bound.await.map_err(|source| Failure::Bind { what, addr, source })
    };
    let (grpc_listener, grpc) = bind("grpc_addr", config.grpc_addr).await?;
    let (rest_listener, rest) = bind("rest_addr", config.rest_addr).await?;
    let (admin_listener, admin) = bind("admin_addr", config.admin_addr).await?;
    Ok(([grpc_listener, rest_listener, admin_listener], Addresses { grpc, rest, admin }))
}

/// Whoever waits for the file finds it whole.
fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let written = Output::create(path).and_then(|mut output| {
        output.write_all(text.as_bytes())?;
        output.finish()
    });
    written.map_err(|source| Failure::File { what: path.display().to_string(), source })
}

//! The life of one process: open the store, fill the view, bind, serve, drain, close.

use std::{
    io,
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
    files::durable::DurableFile,
    gateway::Gateway,
    grpc::Api,
    limits::concurrency::ConcurrencyLimit,
    limits::rate::Limits,
    model::UserId,
    server::{self, ConnectionLimits, Rules, tls::Tls, web::Origin},
    service::Service,
    store::{self, Location, Store, StoreError},
    sweep::Sweeper,
    transfer,
    view::{LoadedView, View},
    watch::Hub,
};

mod data_dir;

/// Why the start, the run or a command failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{what} {addr}: cannot listen: {source}; choose another address, or port 0 for a free port"
    )]
    Bind { what: &'static str, addr: SocketAddr, source: io::Error },
    #[error("{what}: {source}")]
    File { what: String, source: io::Error },
    #[error("cannot write the users and rooms of dev mode: {0}")]
    Seed(Error),
    #[error(transparent)]
    Transfer(#[from] transfer::Failure),
    #[error("{0}")]
    Serve(Box<dyn std::error::Error + Send + Sync>),
}

/// The bound addresses of the listeners.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub rest: SocketAddr,
    pub admin: SocketAddr,
}

/// A started service: its listeners are bound, its store is open, its view is loaded.
pub struct App {
    /// The bound addresses of the listeners.
    pub addresses: Addresses,
    /// The service behind the listeners.
    pub service: Arc<Service>,
    gateway: Gateway,
    listeners: [TcpListener; 3],
    rules: Rules,
    admin_rules: Rules,
    /// Origins of pages that may call gRPC, over grpc-web.
    grpc_pages: Vec<Origin>,
    /// Origins of pages that may call REST.
    rest_pages: Vec<Origin>,
    /// None for a cluster.
    data_dir: Option<PathBuf>,
    /// Tasks that run as long as the service; dropping the set aborts them.
    background: JoinSet<()>,
    stop_delay: Duration,
    drain: Duration,
}

impl App {
    /// Binds the listeners, opens the store and loads the view. Errors: the configuration is
    /// invalid, an address is in use, or the store cannot be opened or read.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self, Failure> {
        let clock = clock.doubted_for(config.clock_doubt);
        let access = Access::new(config.credentials(&clock).map_err(Failure::Config)?).await;
        if config.apps.is_empty() {
            tracing::warn!(
                "no app is configured, so all calls will be refused; add [[apps]] to the file of --config, or try the service with --dev"
            );
        }
        let tls = config
            .tls
            .clone()
            .map(Tls::new)
            .transpose()
            .map_err(|error| Failure::Config(vec![error]))?
            .map(Arc::new);
        let (listeners, addresses) = bind(config).await?;
        let (store, loaded) = load(config).await?;
        let view = loaded.view.clone();
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
        background.spawn(loaded.follow(store.clone()));
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
            is_tls: tls.is_some(),
            trusted_proxies: config.trusted_proxies.clone().into(),
            load: service.load.clone(),
        };
        let limits = connection_limits(config.max_connections);
        let rules = Rules {
            max_connections: limits.calls,
            name: "",
            sites: Arc::default(),
            trusted_proxies: config.trusted_proxies.clone().into(),
            max_age: Duration::from_secs(config.max_connection_age_seconds),
            max_idle: Duration::from_secs(config.max_connection_idle_seconds),
            tls,
            fault_body: None,
        };
        let admin_rules = Rules { max_connections: limits.admin, ..rules.clone() };
        let data_dir = match &config.location {
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
            admin_rules,
            grpc_pages: config.grpc_web_origins.clone(),
            rest_pages: config.rest_origins.clone(),
            data_dir,
            background,
            stop_delay,
            drain,
        })
    }

    /// Tokens for the examples of dev mode: one of the Agora app, and one of the IMKit app's user.
    /// They expire after 30 days.
    pub fn dev_tokens(&self) -> Result<(String, String), Error> {
        let now_ms = self.service.clock.now_ms();
        let ttl_s = 30 * 24 * 3_600;
        let agora = self.service.access.app(dev::AGORA_APP)?;
        let imkit = self.service.access.app(dev::IMKIT_APP)?;
        let (Some(agora_keys), Some(imkit_keys)) = (&agora.tokens, &imkit.tokens) else {
            return Err(Error::internal("the apps of dev mode have no token_secret"));
        };
        let user = UserId::parse(dev::IMKIT_USER.to_owned(), false)?;
        let app_token = agora_keys.mint_app(&agora.key, now_ms, Some(ttl_s))?;
        Ok((
            app_token,
            imkit_keys.mint_user(&imkit.key, user.as_str(), now_ms, now_ms / 1_000 + ttl_s)?,
        ))
    }

    /// Serves until `stop` completes or a part of the service fails. Then it drains: health reports
    /// not ready; new calls are still served for the stop delay; running calls are finished; the
    /// store is closed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self {
            addresses,
            service,
            gateway,
            listeners,
            rules,
            admin_rules,
            grpc_pages,
            rest_pages,
            data_dir,
            mut background,
            stop_delay,
            drain,
        } = self;
        let [grpc, rest, admin] = listeners;
        let (stop_health, health_stopped) = watch::channel(false);
        let (stop_calls, calls_stopped) = watch::channel(false);
        let (stop_admin, admin_stopped) = watch::channel(false);
        let (routes, health) =
            server::grpc_routes(gateway.api.clone()).await.map_err(Failure::Serve)?;
        let mut servers = JoinSet::new();
        let load = gateway.load.clone();
        let access = service.access.clone();
        servers.spawn(server::serve_grpc(
            grpc,
            rules.clone(),
            routes,
            grpc_pages,
            access.clone(),
            load,
            calls_stopped.clone(),
        ));
        servers.spawn(server::serve_rest(
            rest,
            rules,
            gateway,
            rest_pages,
            access.clone(),
            calls_stopped,
        ));
        let Addresses { grpc: grpc_addr, rest: rest_addr, admin: admin_addr } = addresses;
        tracing::info!(grpc = %grpc_addr, rest = %rest_addr, admin = %admin_addr, "ready");
        let admin = tokio::spawn(server::serve_admin(
            admin,
            admin_rules,
            service.clone(),
            data_dir,
            access,
            health_stopped,
            admin_stopped,
        ));
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = service.store.fatal_error() => Err(Failure::Store(error)),
            Some(result) = servers.join_next() => {
                Err(Failure::Serve(format!("a listener ended unexpectedly: {result:?}").into()))
            }
            Some(result) = background.join_next() => {
                Err(Failure::Serve(format!("a background task ended unexpectedly: {result:?}").into()))
            }
        };
        stop_health.send_replace(true);
        server::set_serving(&health, ServingStatus::NotServing).await;
        if outcome.is_ok() && !stop_delay.is_zero() {
            tracing::info!(?stop_delay, "stopping: not ready, still serving new calls");
            tokio::time::sleep(stop_delay).await;
        }
        tracing::info!(?drain, "stopping: finishing running calls");
        // A watch never ends by itself, so it would delay the stop.
        service.hub.close();
        stop_calls.send_replace(true);
        server::end_health_watches(&health).await;
        if tokio::time::timeout(drain, servers.join_all()).await.is_err() {
            tracing::warn!(
                ?drain,
                "calls were still running after the drain; their connections are closed"
            );
        }
        drop(background);
        let closed = service.store.close().await;
        stop_admin.send_replace(true);
        admin.abort();
        tracing::info!(revision = service.view.revision(), "closed");
        outcome.and(closed.map_err(Failure::Store))
    }
}

/// What the system's limit of open files leaves of the configured number of connections.
fn connection_limits(max_connections: usize) -> ConnectionLimits {
    let open_files = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    let limits = ConnectionLimits::within(open_files, max_connections);
    if limits.calls < max_connections {
        tracing::warn!(
            open_files,
            max_connections,
            "the limit of open files is too low for max_connections: each of gRPC and REST has at \
             most {} connections; raise the limit (ulimit -n, LimitNOFILE), or lower \
             max_connections",
            limits.calls
        );
    }
    limits
}

/// Writes what must exist before the first call: the directory of dev mode, and the address file.
async fn prepare(config: &Config, service: &Service, addresses: Addresses) -> Result<(), Failure> {
    if config.dev {
        if config.dev_public_addresses {
            tracing::warn!("others can reach dev mode, whose keys are public");
        }
        dev::seed(service).await.map_err(Failure::Seed)?;
    }
    match &config.addr_file {
        Some(path) => write_addresses(path, addresses),
        None => Ok(()),
    }
}

/// Opens the store and loads all its records into the view.
async fn load(config: &Config) -> Result<(Arc<dyn Store>, LoadedView), Failure> {
    let started = Instant::now();
    data_dir::check(config).map_err(|error| Failure::Config(vec![error]))?;
    if let Location::Directory { path, .. } = &config.location
        && config.dev
    {
        let failed = |source| Failure::File { what: path.display().to_string(), source };
        data_dir::mark(path).map_err(failed)?;
    }
    tracing::info!(place = %config.location, "opening the store");
    let store = store::open(&config.location, config.retention).await?;
    let loaded = View::load(&*store).await?;
    let view = &loaded.view;
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(records = view.records(), revision = view.revision(), took_ms, "view loaded");
    Ok((store, loaded))
}

/// Binds the listeners of gRPC, REST and admin, in this order.
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

/// The file appears whole, because others wait for it.
fn write_addresses(path: &Path, addresses: Addresses) -> Result<(), Failure> {
    let written = DurableFile::create(path).and_then(|mut file| {
        serde_json::to_writer(&mut file, &addresses)?;
        file.commit()
    });
    written.map_err(|source| Failure::File { what: path.display().to_string(), source })
}

//! The parts of a simulation: a double of etcd, replicas started like those of the program, their
//! clocks, and the log of what happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mute_service::{
    app::{App, Failure},
    auth::{
        Credential, Principal,
        apps::{AppConfig, Directory},
        credentials::Caller,
    },
    clock::Clock,
    config::{Config, Settings},
    grpc::Api,
    model::AppKey,
    service::Service,
    store::{Location, Retention},
};
use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tonic::{Code, Request, Response, Status};

use super::Fault;
use crate::{
    double::{Double, Network},
    harness::{START_MS, unlimited},
};

/// Two apps, named after their directories.
pub const OPEN: &str = "Open";
pub const STRICT: &str = "Strict";
/// A segment of history is a sixteenth of what is kept. No event of a run is dropped.
const RETENTION: Retention = Retention { events: 4_000, age_ms: u64::MAX };
/// Deadline of the callers.
const TIMEOUT: Duration = Duration::from_secs(6);
const TICK: Duration = Duration::from_millis(25);

pub struct World {
    pub double: Double,
    slots: Vec<Slot>,
    started: Instant,
    log: Mutex<Log>,
    stopping: AtomicBool,
    /// Aborted on drop.
    _ticking: JoinSet<()>,
}

/// A machine, which runs a replica or none.
struct Slot {
    clock: Clock,
    running: Mutex<Option<(App, Replica)>>,
}

/// A replica that runs or has run.
#[derive(Clone)]
pub struct Replica {
    pub number: usize,
    pub api: Api,
    pub service: Arc<Service>,
    pub network: Network,
    pub clock: Clock,
}

/// What happened during the run, to be judged at the end.
#[derive(Default)]
pub struct Log {
    /// By the request id of the change of staff: whether the moderator is staff after it.
    pub rights: BTreeMap<String, bool>,
    pub observations: Vec<Observation>,
    pub watches: Vec<Watched>,
    pub faults: Vec<(Fault, String)>,
}

/// Who receives no push from a room, as answered by a replica.
#[derive(Debug)]
pub struct Observation {
    pub app: &'static str,
    pub room: String,
    /// The applied revision of the view.
    pub revision: i64,
    /// By its clock.
    pub now_ms: u64,
    pub push_muted: BTreeSet<String>,
}

/// What a watch of the open app has emitted, and how it ended.
#[derive(Debug, Default)]
pub struct Watched {
    pub room: String,
    /// The watch began after this revision.
    pub after: i64,
    /// All changes up to this revision were emitted.
    pub last: i64,
    pub changes: Vec<i64>,
    /// The reason of the end; empty where reading has stopped before it.
    pub end: String,
}

/// The outcome of a call.
pub enum Answer<T> {
    Done(T),
    /// It has changed nothing, and never will.
    Refused,
    /// It may have changed something, or may yet.
    Unknown,
}

impl World {
    /// One machine for each clock offset, in milliseconds. None of them runs a replica yet.
    pub fn new(members: usize, offsets_ms: &[i64]) -> Arc<Self> {
        let clocks: Vec<_> = offsets_ms
            .iter()
            .map(|offset_ms| Clock::manual(START_MS.saturating_add_signed(*offset_ms)))
            .collect();
        let slots = clocks
            .iter()
            .map(|clock| Slot { clock: clock.clone(), running: Mutex::default() })
            .collect();
        let mut ticking = JoinSet::new();
        ticking.spawn(async move {
            let mut ticks = interval(TICK);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                clocks.iter().for_each(|clock| clock.advance(TICK));
            }
        });
        Arc::new(Self {
            double: Double::new(members),
            slots,
            started: Instant::now(),
            log: Mutex::default(),
            stopping: AtomicBool::new(false),
            _ticking: ticking,
        })
    }

    /// Two replicas over one member, with correct clocks.
    pub async fn with_two_replicas() -> Arc<Self> {
        let world = Self::new(1, &[0, 0]);
        for machine in 0..2 {
            world.start(machine).await.unwrap();
        }
        world
    }

    /// The true time, in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.ms_of(Instant::now())
    }

    pub fn ms_of(&self, time: Instant) -> u64 {
        START_MS + time.duration_since(self.started).as_millis() as u64
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fault(&self, fault: Fault, what: String) {
        self.log().faults.push((fault, what));
    }

    pub fn is_running(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed)
    }

    pub fn stop_callers(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn machines(&self) -> usize {
        self.slots.len()
    }

    pub fn clock(&self, machine: usize) -> &Clock {
        &self.slots[machine].clock
    }

    /// The replicas that run.
    pub fn replicas(&self) -> Vec<Replica> {
        (0..self.slots.len()).filter_map(|machine| self.replica(machine)).collect()
    }

    pub fn replica(&self, machine: usize) -> Option<Replica> {
        self.slots[machine].running().as_ref().map(|(_, replica)| replica.clone())
    }

    pub fn any_replica(&self, random: &mut StdRng) -> Option<Replica> {
        let replicas = self.replicas();
        (!replicas.is_empty()).then(|| replicas[random.random_range(0..replicas.len())].clone())
    }

    /// Starts a replica on a machine without one, as the program does. Errors: the cluster does not
    /// answer.
    pub async fn start(&self, machine: usize) -> Result<(), Failure> {
        let network = self.double.network();
        let clock = self.slots[machine].clock.clone();
        let app = App::start(&config(network.location()), clock.clone()).await?;
        let service = app.service.clone();
        let replica =
            Replica { number: machine, api: Api::new(service.clone()), service, network, clock };
        *self.slots[machine].running() = Some((app, replica));
        Ok(())
    }

    /// Stops the replica of a machine, in order or as by a kill.
    pub async fn stop(&self, machine: usize, in_order: bool) {
        let running = self.slots[machine].running().take();
        let Some((app, replica)) = running else { return };
        if in_order {
            replica.service.hub.close();
            let _ = timeout(Duration::from_secs(10), replica.service.store.close()).await;
        } else {
            replica.network.cut();
        }
        drop(app);
    }
}

impl Slot {
    fn running(&self) -> MutexGuard<'_, Option<(App, Replica)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets a clock ahead, or back.
pub fn jump(clock: &Clock, ms: i64) {
    clock.set(clock.now_ms().saturating_add_signed(ms));
}

pub async fn pause(random: &mut StdRng, ms: std::ops::Range<u64>) {
    sleep(Duration::from_millis(random.random_range(ms))).await;
}

/// Waits for the answer to a call, at most until the deadline.
pub async fn outcome_of<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Answer<T> {
    match timeout(TIMEOUT, call).await {
        Ok(Ok(answer)) => Answer::Done(answer.into_inner()),
        Ok(Err(status)) => match status.code() {
            Code::Unavailable
            | Code::Internal
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Cancelled => Answer::Unknown,
            _ => Answer::Refused,
        },
        Err(_) => Answer::Unknown,
    }
}

/// A message of the app's admin.
pub fn as_admin<T>(app: &str, message: T) -> Request<T> {
    with_caller(
        Principal::AppAdmin { app: AppKey::parse(app.to_owned()).unwrap(), by: Credential::Token },
        message,
    )
}

/// A message of a user.
pub fn as_user<T>(app: &str, user: &str, message: T) -> Request<T> {
    with_caller(
        Principal::User { app: AppKey::parse(app.to_owned()).unwrap(), user: user.to_owned() },
        message,
    )
}

/// As the credentials layer passes it on.
fn with_caller<T>(principal: Principal, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::of(Ok(principal)));
    request
}

fn config(place: Location) -> Config {
    let free = "127.0.0.1:0".parse().ok();
    let settings = Settings {
        grpc_addr: free,
        rest_addr: free,
        admin_addr: free,
        watch_heartbeat_seconds: Some(1),
        ..unlimited()
    };
    let mut config = Config::load(settings, None, true).unwrap();
    config.dev = false;
    config.location = place;
    config.retention = RETENTION;
    config.apps = vec![app(OPEN, Directory::Open), app(STRICT, Directory::Strict)];
    config.services.clear();
    config
}

fn app(key: &str, directory: Directory) -> AppConfig {
    AppConfig {
        key: key.to_owned(),
        directory,
        case_insensitive_users: None,
        api_key_hash: Vec::new(),
        client_key_hash: Vec::new(),
        client_id: None,
        client_secret_hash: Vec::new(),
        token_secret: Vec::new(),
        tokens_not_before: None,
        revoked_tokens: Vec::new(),
    }
}

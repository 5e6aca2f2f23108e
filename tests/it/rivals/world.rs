//! A service over its own store, in which a rival can commit once: after the plan of a write and
//! before its commit.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use mute_service::{
    auth::{
        Credential, Principal,
        credentials::{Access, Caller},
    },
    clock::Clock,
    grpc::Api,
    limits::concurrency::ConcurrencyLimit,
    limits::rate::{Limits, Rates},
    model::{AppKey, EventKind},
    proto::v1::{
        self as pb, directory_service_server::DirectoryService as _,
        mute_service_server::MuteService as _,
    },
    service::{Quotas, Service},
    store::{
        self, EncodedBatch, EventRange, Feed, Location, Retention, Revision, Snapshot, Store,
        StoreError, StoredEvent, Updates, codec,
    },
    sweep::Sweeper,
    view::{ClientRef, Room, View},
    watch::Hub,
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Request;

use crate::harness::*;

/// The kind of room in a world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// In an app with a strict directory; its moderator is one of its admins.
    Strict,
    /// Not registered, in an app with an open directory.
    Unregistered,
}

/// A write about the room, or about the user `u`.
#[derive(Clone, Debug)]
pub enum Write {
    Mute {
        users: Vec<&'static str>,
        ms: Option<u64>,
    },
    Unmute {
        users: Vec<&'static str>,
    },
    Ban {
        ms: Option<u64>,
    },
    Unban,
    Allow {
        users: Vec<&'static str>,
    },
    Disallow {
        users: Vec<&'static str>,
    },
    MuteNotifications {
        ms: Option<u64>,
    },
    UnmuteNotifications,
    MuteUser {
        ms: Option<u64>,
    },
    UnmuteUser,
    Client {
        nickname: &'static str,
    },
    DeleteClient,
    Room {
        name: Option<&'static str>,
        owner: Option<&'static str>,
        admins: Option<&'static [&'static str]>,
    },
    DeleteRoom,
    /// The inner write, with a request id.
    WithRequestId(Box<Write>),
}

/// A step of a rival.
#[derive(Clone, Debug)]
pub enum Step {
    Write(Write),
    Advance(u64),
    Sweep,
    SweepDeleted,
}

/// A store that runs a rival before its next commit.
struct InterleavingStore {
    store: Arc<dyn Store>,
    rival: Mutex<Option<BoxFuture<'static, ()>>>,
}

#[async_trait]
impl Store for InterleavingStore {
    async fn commit(&self, batch: EncodedBatch) -> Result<Revision, StoreError> {
        let rival = self.rival.lock().unwrap().take();
        if let Some(rival) = rival {
            rival.await;
        }
        self.store.commit(batch).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.store.snapshot().await
    }

    async fn watch(&self, after: Revision) -> Result<Feed, StoreError> {
        self.store.watch(after).await
    }

    async fn follow(&self) -> Result<Updates, StoreError> {
        self.store.follow().await
    }

    async fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.store.events(range, newest_first, limit).await
    }

    async fn latest_revision(&self) -> Result<Revision, StoreError> {
        self.store.latest_revision().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

/// The API over one of the stores, with its sweeper.
#[derive(Clone)]
struct Endpoint {
    app: &'static str,
    api: Arc<Api>,
    clock: Clock,
    sweeper: Arc<Sweeper>,
}

pub struct World {
    kind: Kind,
    /// Without rivals.
    direct: Endpoint,
    interleaved: Endpoint,
    rival: Arc<InterleavingStore>,
    store: Arc<dyn Store>,
    view: View,
    _follower: JoinSet<()>,
    _directory: TempDir,
}

/// Access to the dev apps.
pub async fn access() -> Arc<Access> {
    Server::start().await.service.access.clone()
}

impl World {
    /// With a restriction of each kind on `u` that ends in 10 s, and none on `w`.
    pub async fn new(kind: Kind, access: &Arc<Access>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { events: 1_000, age_ms: u64::MAX };
        let store = store::open(&Location::directory(directory.path()), retention).await.unwrap();
        let filled = View::load(&*store).await.unwrap();
        let view = filled.view.clone();
        let mut follower = JoinSet::new();
        follower.spawn(filled.follow(store.clone()));
        let rival = Arc::new(InterleavingStore { store: store.clone(), rival: Mutex::default() });
        let clock = Clock::manual(START_MS);
        let app = if kind == Kind::Strict { IMKIT } else { OPEN };
        let endpoint = |through: Arc<dyn Store>| {
            let service = service(access.clone(), through.clone(), view.clone(), clock.clone());
            let sweeper = Sweeper { store: through, view: view.clone(), clock: clock.clone() };
            Endpoint {
                app,
                api: Arc::new(Api::new(Arc::new(service))),
                clock: clock.clone(),
                sweeper: Arc::new(sweeper),
            }
        };
        let interleaved = endpoint(rival.clone());
        let direct = endpoint(store.clone());
        let world = Self {
            kind,
            direct,
            interleaved,
            rival,
            store,
            view,
            _follower: follower,
            _directory: directory,
        };
        world.set_up().await;
        world
    }

    async fn set_up(&self) {
        let mut steps = Vec::new();
        if self.kind == Kind::Strict {
            for user in ["o", "m", "w"] {
                assert!(self.direct.client(user).await.starts_with("Ok"));
            }
            steps.push(Write::Client { nickname: "" });
            steps.push(Write::Room { name: None, owner: Some("o"), admins: Some(&["m"]) });
        }
        let ms = Some(10_000);
        steps.extend([
            Write::Mute { users: vec!["u"], ms },
            Write::Ban { ms },
            Write::Allow { users: vec!["u"] },
        ]);
        steps.extend([Write::MuteNotifications { ms }, Write::MuteUser { ms }]);
        for write in steps {
            let answer = self.direct.write(&write, None).await;
            assert!(answer.starts_with("Ok"), "{write:?}: {answer}");
        }
    }

    /// A moderator of the room, where it has one.
    fn moderator(&self) -> Option<&'static str> {
        (self.kind == Kind::Strict).then_some("m")
    }

    /// Runs the rival before the write starts. Returns the answer and the state afterwards.
    pub async fn run_in_sequence(self, rival: &[Step], call: &Write) -> String {
        self.direct.clone().run(rival.to_vec()).await;
        let answer = self.direct.write(call, self.moderator()).await;
        self.outcome(&answer).await
    }

    /// The same, with the rival between plan and commit of the write.
    pub async fn run_interleaved(self, rival: &[Step], call: &Write) -> String {
        *self.rival.rival.lock().unwrap() = Some(Box::pin(self.direct.clone().run(rival.to_vec())));
        let answer = self.interleaved.write(call, self.moderator()).await;
        assert!(self.rival.rival.lock().unwrap().is_none(), "{call:?} did not commit");
        self.outcome(&answer).await
    }

    async fn outcome(&self, answer: &str) -> String {
        let mut text = format!("{answer}\n");
        self.view.room(self.direct.app, "r", |room| room_state(&mut text, room));
        self.view.client(self.direct.app, "u", |client| client_state(&mut text, client));
        for stored in self.store.events(EventRange::default(), false, 1_000).await.unwrap() {
            let event = codec::decode_event(&stored.event).unwrap();
            if event.kind != EventKind::Swept {
                writeln!(
                    text,
                    "  {:?} {:?} by {} {:?}",
                    event.kind, event.users, event.actor, event.expire
                )
                .unwrap();
            }
        }
        text
    }
}

fn room_state(text: &mut String, room: Option<&Room>) {
    let Some(room) = room.filter(|room| room.has_records()) else { return };
    writeln!(text, "  {:?}", room.profile.as_ref().map(|profile| &profile.value)).unwrap();
    writeln!(text, "  banned {:?}", room.ban.as_ref().map(|ban| &ban.value)).unwrap();
    room.muted
        .iter()
        .for_each(|(user, mute)| writeln!(text, "  muted {user} {:?}", mute.value).unwrap());
    room.allowed.iter().for_each(|(user, restriction)| {
        writeln!(text, "  allowed {user} {:?}", restriction.value).unwrap()
    });
    room.push_muted
        .iter()
        .for_each(|(user, until)| writeln!(text, "  push_muted {user} {:?}", until.value).unwrap());
}

fn client_state(text: &mut String, client: Option<ClientRef<'_>>) {
    let Some(client) = client else { return };
    writeln!(text, "  {:?}", client.profile.as_ref().map(|profile| &profile.value)).unwrap();
    client.muted().for_each(|muted| {
        writeln!(text, "  no push {} {} {:?}", muted.room, muted.place, muted.restriction.value)
            .unwrap()
    });
    writeln!(text, "  {:?}", client.user_mute.as_ref().map(|mute| &mute.value)).unwrap();
}

fn service(access: Arc<Access>, store: Arc<dyn Store>, view: View, clock: Clock) -> Service {
    Service {
        access,
        store,
        hub: Hub::new(&view, clock.clone()),
        view,
        limits: Limits::new(Rates::default(), &clock).into(),
        clock,
        token_ttl_s: 3_600,
        heartbeat: Duration::from_secs(60),
        max_view_age: Duration::from_secs(60),
        refuse_old_views: false,
        refuse_skewed_clock: false,
        quotas: Quotas::default(),
        load: ConcurrencyLimit::new(1_000, 64 << 20),
    }
}

/// Calls an RPC. Returns its answer without the revision, or the reason of the refusal.
macro_rules! send {
    (
        $endpoint:ident, $caller:expr, $id:expr,
        $rpc:ident $request:ident { $($field:ident $(: $value:expr)?),* }
    ) => {{
        let mut message = Request::new(pb::$request {
            app: $endpoint.app.to_owned(),
            request_id: $id,
            $($field $(: $value)?,)*
            ..Default::default()
        });
        message.extensions_mut().insert($caller);
        match $endpoint.api.$rpc(message).await {
            Ok(answer) => {
                let mut answer = answer.into_inner();
                answer.revision = 0;
                format!("Ok({answer:?})")
            }
            Err(status) => reason(&status),
        }
    }};
}

impl Endpoint {
    async fn run(self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Write(write) => drop(self.write(&write, None).await),
                Step::Advance(ms) => self.clock.advance(Duration::from_millis(ms)),
                Step::Sweep => while self.sweeper.sweep().await.unwrap() > 0 {},
                Step::SweepDeleted => while self.sweeper.sweep_deleted().await.unwrap() > 0 {},
            }
        }
    }

    async fn client(&self, user: &str) -> String {
        let client = Some(pb::Client { user: user.to_owned(), ..Default::default() });
        send!(self, self.caller(None), String::new(), upsert_client UpsertClientRequest { client })
    }

    /// Writes as this user, or as an admin of the app.
    async fn write(&self, write: &Write, moderator: Option<&str>) -> String {
        let (write, id) = match write {
            Write::WithRequestId(write) => (&**write, "id".to_owned()),
            write => (write, String::new()),
        };
        match write {
            Write::Client { .. } | Write::DeleteClient | Write::Room { .. } | Write::DeleteRoom => {
                self.change_directory(write, id).await
            }
            write => self.restrict(write, id, moderator).await,
        }
    }

    // The macro adds the defaults of other fields, and some requests have none.
    #[allow(clippy::needless_update)]
    async fn restrict(&self, write: &Write, id: String, moderator: Option<&str>) -> String {
        let caller = self.caller(moderator);
        let admin = self.caller(None);
        let room = "r".to_owned();
        let user = "u".to_owned();
        let duration = |ms: &Option<u64>| ms.map(duration);
        match write {
            Write::Mute { users, ms } => {
                send!(
                    self, caller, id,
                    mute_members MuteMembersRequest {
                        room,
                        users: strings(users),
                        duration: duration(ms)
                    }
                )
            }
            Write::Unmute { users } => {
                send!(
                    self, caller, id,
                    unmute_members UnmuteMembersRequest { room, users: strings(users) }
                )
            }
            Write::Ban { ms } => {
                send!(self, caller, id, ban_room BanRoomRequest { room, duration: duration(ms) })
            }
            Write::Unban => send!(self, caller, id, unban_room UnbanRoomRequest { room }),
            Write::Allow { users } => {
                send!(
                    self, caller, id,
                    allow_members AllowMembersRequest { room, users: strings(users) }
                )
            }
            Write::Disallow { users } => {
                send!(
                    self, caller, id,
                    disallow_members DisallowMembersRequest { room, users: strings(users) }
                )
            }
            Write::MuteNotifications { ms } => {
                let duration = duration(ms);
                send!(
                    self, admin, id,
                    mute_room_notifications MuteRoomNotificationsRequest { user, room, duration }
                )
            }
            Write::UnmuteNotifications => {
                send!(
                    self, admin, id,
                    unmute_room_notifications UnmuteRoomNotificationsRequest { user, room }
                )
            }
            Write::MuteUser { ms } => {
                send!(self, admin, id, mute_user MuteUserRequest { user, duration: duration(ms) })
            }
            Write::UnmuteUser => send!(self, admin, id, unmute_user UnmuteUserRequest { user }),
            other => unreachable!("{other:?} is no restriction"),
        }
    }

    #[allow(clippy::needless_update)]
    async fn change_directory(&self, write: &Write, id: String) -> String {
        let admin = self.caller(None);
        let room = "r".to_owned();
        let user = "u".to_owned();
        match write {
            Write::Client { nickname } => {
                let client = Some(pb::Client {
                    user,
                    nickname: Some((*nickname).to_owned()),
                    ..Default::default()
                });
                send!(self, admin, id, upsert_client UpsertClientRequest { client })
            }
            Write::DeleteClient => {
                send!(self, admin, id, delete_client DeleteClientRequest { user })
            }
            Write::Room { name, owner, admins } => {
                let name = name.map(str::to_owned);
                let owner = owner.map(str::to_owned);
                let admins = admins.map(|admins| pb::RoomAdmins { users: strings(admins) });
                send!(self, admin, id, upsert_room UpsertRoomRequest { room, name, owner, admins })
            }
            Write::DeleteRoom => send!(self, admin, id, delete_room DeleteRoomRequest { room }),
            other => unreachable!("{other:?} does not change the directory"),
        }
    }

    fn caller(&self, user: Option<&str>) -> Caller {
        let app = AppKey::parse(self.app.to_owned()).unwrap();
        let principal = match user {
            Some(user) => Principal::User { app, user: user.to_owned() },
            None => Principal::AppAdmin { app, by: Credential::Token },
        };
        Caller { calls: 1, ..Caller::of(Ok(principal)) }
    }
}

//! A double of etcd, in this process and in memory: the part of its API that the service calls
//! (`serve.rs`), records with every version since the last compaction (`mvcc.rs`), and the network
//! to it (`link.rs`).
//!
//! It waits only for tokio's time and its callers, so under paused time a test of minutes takes no
//! time. Its members always agree; only their links and watches differ. It answers as etcd 3.4
//! does: the store's contract runs over both (`contract.rs`), and both get the same random requests
//! (`twins.rs`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::FutureExt as _;
use mute_service::store::{ClusterConfig, Connection, Connector, Location};
use tokio::{sync::watch, time::Instant};
use tonic::transport::{Channel, Endpoint};

use self::{link::Link, mvcc::Mvcc, serve::MemberServer};

mod faults;
pub mod link;
pub mod mvcc;
mod serve;
mod twins;

/// etcd's messages and server, which `build.rs` compiles for tests only.
#[allow(clippy::all, unreachable_pub)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/double/etcdserverpb.rs"));
}

/// A cluster. Cheap to clone; it is dropped with the last handle and connection.
#[derive(Clone)]
pub struct Double {
    shared: Arc<Shared>,
}

pub struct Shared {
    mvcc: Mutex<Mvcc>,
    /// Wakes the watches after every write and compaction.
    updated: watch::Sender<()>,
    members: Vec<Member>,
    links: Mutex<Vec<Arc<Link>>>,
    /// When each revision was created.
    times: Mutex<BTreeMap<i64, Instant>>,
}

/// The state that members do not share.
pub struct Member {
    /// Delay of the events of its watches.
    lag_ms: AtomicU64,
    has_leader: AtomicBool,
    /// Ends its watches.
    end_watches: watch::Sender<()>,
}

/// The network as one replica has it: a link to each member.
#[derive(Clone)]
pub struct Network {
    pub links: Vec<Arc<Link>>,
    shared: Arc<Shared>,
}

impl Double {
    pub fn new(members: usize) -> Self {
        let member = |_| Member {
            lag_ms: AtomicU64::new(0),
            has_leader: AtomicBool::new(true),
            end_watches: watch::Sender::new(()),
        };
        let members = (0..members).map(member).collect();
        let mvcc = Mutex::default();
        let links = Mutex::default();
        let times = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                mvcc,
                updated: watch::Sender::new(()),
                members,
                links,
                times,
            }),
        }
    }

    /// New links to all members.
    pub fn network(&self) -> Network {
        let links: Vec<_> = (0..self.shared.members.len()).map(Link::new).collect();
        self.shared.links().extend(links.iter().cloned());
        Network { links, shared: self.shared.clone() }
    }

    pub fn location(&self) -> Location {
        self.network().location()
    }

    pub fn members(&self) -> usize {
        self.shared.members.len()
    }

    pub fn revision(&self) -> i64 {
        self.shared.read(Mvcc::revision)
    }

    /// When this revision was created; `None` if it never was.
    pub fn time_of(&self, revision: i64) -> Option<Instant> {
        self.shared.times().get(&revision).copied()
    }

    /// Drops all revisions before this one.
    pub fn compact(&self, revision: i64) {
        self.shared.write(|mvcc| mvcc.compact(revision));
    }

    pub fn set_full(&self, is_full: bool) {
        self.shared.write(|mvcc| mvcc.is_full = is_full);
    }

    /// The current state, for `restore`.
    pub fn backup(&self) -> Mvcc {
        self.shared.read(Clone::clone)
    }

    /// Replaces the state with an older one, and restarts every member.
    pub fn restore(&self, state: Mvcc) {
        self.shared.write(|mvcc| *mvcc = state);
        (0..self.shared.members.len()).for_each(|member| self.restart(member));
    }

    /// Delays the events of a member's watches.
    pub fn lag(&self, member: usize, ms: u64) {
        self.shared.members[member].lag_ms.store(ms, Ordering::Relaxed);
    }

    /// Takes the leader from a member, or gives it one again.
    pub fn set_has_leader(&self, member: usize, has_leader: bool) {
        let member = &self.shared.members[member];
        member.has_leader.store(has_leader, Ordering::Relaxed);
        if !has_leader {
            member.end_watches.send_replace(());
        }
    }

    /// Resets all connections of a member.
    pub fn restart(&self, member: usize) {
        self.shared
            .links()
            .iter()
            .filter(|link| link.member == member)
            .for_each(|link| link.reset());
    }
}

impl Network {
    pub fn location(&self) -> Location {
        let url = |link: &Arc<Link>| format!("http://member{}", link.member);
        Location::Cluster(ClusterConfig {
            endpoints: self.links.iter().map(url).collect(),
            prefix: "mute/".to_owned(),
            user: None,
            tls: None,
            connector: Some(self.connector()),
        })
    }

    /// Cuts all links, for good.
    pub fn cut(&self) {
        self.links.iter().for_each(|link| link.set(link::State::Cut));
    }

    /// A client of one member, apart from the service.
    pub fn channel(&self, member: usize) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://member{member}")).unwrap();
        endpoint.connect_with_connector_lazy(self.connector())
    }

    fn connector(&self) -> Connector {
        let network = self.clone();
        Connector::new(move |uri| {
            let network = network.clone();
            async move {
                let member = uri
                    .host()
                    .and_then(|host| host.strip_prefix("member"))
                    .and_then(|number| number.parse().ok());
                let link = network.links[member.unwrap_or(usize::MAX)].clone();
                let (client, server) = link.connect().await?;
                tokio::spawn(MemberServer { shared: network.shared, link }.serve(server));
                Ok(Box::new(client) as Box<dyn Connection>)
            }
            .boxed()
        })
    }
}

impl Shared {
    fn read<T>(&self, read: impl FnOnce(&Mvcc) -> T) -> T {
        read(&self.mvcc.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Mvcc) -> T) -> T {
        let mut mvcc = self.mvcc.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write(&mut mvcc);
        self.times().entry(mvcc.revision()).or_insert_with(Instant::now);
        drop(mvcc);
        self.updated.send_replace(());
        written
    }

    fn times(&self) -> MutexGuard<'_, BTreeMap<i64, Instant>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

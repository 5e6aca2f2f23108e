//! Writers that record what they write, and the comparison of their records with the service's
//! state: for tests that kill the service at any moment.

use std::collections::BTreeMap;

use mute_service::proto::v1::{self as pb, mute_service_client::MuteServiceClient};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;
use tonic::{Response, Status, transport::Channel};

use crate::{
    harness::{SERVICE, duration, with},
    process::Process,
};

/// What the writers write.
#[derive(Clone, Copy)]
pub struct Workload {
    /// Users per call.
    pub users: usize,
    /// Length of a reason.
    pub reason_bytes: usize,
    /// After this many calls, a writer mutes the same users again.
    pub calls: usize,
}

/// What a writer knows of the users of one call.
#[derive(Clone, Debug, Default)]
struct CallState {
    /// The state that was acknowledged or found last: muted with these fields, or not muted.
    member: Option<pb::MutedMember>,
    /// What was sent after that and has no answer.
    sent: Option<Sent>,
}

#[derive(Clone, Debug)]
enum Sent {
    Mute { reason: String },
    Unmute,
}

/// The records of all writers.
pub struct Ledger {
    workload: Workload,
    logs: Vec<WriterLog>,
}

/// The records of one writer.
struct WriterLog {
    workload: Workload,
    writer: usize,
    calls: BTreeMap<usize, CallState>,
    /// Mutes that were sent.
    sent: usize,
    /// Mutes and unmutes that were acknowledged.
    acknowledged: usize,
    latest_revision: i64,
}

impl Ledger {
    pub fn new(writers: usize, workload: Workload) -> Self {
        let log = |writer| WriterLog {
            workload,
            writer,
            calls: BTreeMap::new(),
            sent: 0,
            acknowledged: 0,
            latest_revision: 0,
        };
        Self { workload, logs: (0..writers).map(log).collect() }
    }

    /// Compares the service's state with the records. Adopts what it finds for calls without an
    /// answer.
    pub async fn compare(&mut self, process: &Process) {
        let mut reader = process.mutes().await;
        for log in &mut self.logs {
            let listed = log.listed(&mut reader).await;
            log.compare(listed);
        }
    }

    /// Lets all writers write, each on a connection of its own, until it breaks.
    pub async fn write(self, process: &Process, random: &mut StdRng) -> Writers {
        let mut running = Vec::new();
        for log in self.logs {
            let random = StdRng::seed_from_u64(random.random());
            running.push(tokio::spawn(log.write(process.mutes().await, random)));
        }
        Writers { workload: self.workload, running }
    }

    /// Mutes that were sent.
    pub fn sent(&self) -> usize {
        self.logs.iter().map(|log| log.sent).sum()
    }

    /// Most calls were acknowledged, so that there was something to lose, and more than one a run.
    pub fn assert_acknowledged(&self, runs: usize) {
        let acknowledged: usize = self.logs.iter().map(|log| log.acknowledged).sum();
        let sent = self.sent();
        println!(
            "{acknowledged} calls acknowledged, {sent} mutes sent, latest revision {}",
            self.latest_revision()
        );
        assert!(acknowledged * 2 > sent, "few were acknowledged");
        assert!(acknowledged > runs, "the writers have hardly written");
    }

    fn latest_revision(&self) -> i64 {
        self.logs.iter().map(|log| log.latest_revision).max().unwrap_or(0)
    }
}

/// Running writers.
pub struct Writers {
    workload: Workload,
    running: Vec<JoinHandle<WriterLog>>,
}

impl Writers {
    pub async fn stopped(self) -> Ledger {
        let mut logs = Vec::new();
        for writer in self.running {
            logs.push(writer.await.unwrap());
        }
        Ledger { workload: self.workload, logs }
    }
}

impl WriterLog {
    fn users(&self, call: usize) -> Vec<String> {
        // One call's users are far from each other in the order of keys.
        (0..self.workload.users).map(|user| format!("u{user}w{}c{call:06}", self.writer)).collect()
    }

    fn room(&self) -> String {
        format!("room{}", self.writer)
    }

    /// Mutes, and now and then unmutes what it has muted, until the connection breaks.
    async fn write(mut self, mut mutes: MuteServiceClient<Channel>, mut random: StdRng) -> Self {
        loop {
            let old = self
                .sent
                .checked_sub(random.random_range(1..20))
                .filter(|_| random.random_bool(0.3));
            let old = old.map(|call| call % self.workload.calls);
            let alive = match old
                .filter(|call| self.calls.get(call).is_some_and(|state| state.member.is_some()))
            {
                Some(call) => self.unmute(&mut mutes, call).await,
                None => {
                    let duration_ms =
                        random.random_bool(0.8).then(|| random.random_range(3_600_000..86_400_000));
                    self.mute(&mut mutes, duration_ms).await
                }
            };
            if !alive {
                return self;
            }
        }
    }

    async fn mute(
        &mut self,
        mutes: &mut MuteServiceClient<Channel>,
        duration_ms: Option<u64>,
    ) -> bool {
        let call = self.sent % self.workload.calls;
        let number = self.sent;
        let reason = format!("{:.<1$}", format!("call {number}"), self.workload.reason_bytes);
        self.sent += 1;
        self.calls.entry(call).or_default().sent = Some(Sent::Mute { reason: reason.clone() });
        let message = pb::MuteMembersRequest {
            app: "Open".into(),
            room: self.room(),
            users: self.users(call),
            duration: duration_ms.map(duration),
            reason,
            ..Default::default()
        };
        let Some(answer) = answered(mutes.mute_members(with(message, &[SERVICE])).await) else {
            return false;
        };
        self.acknowledged(call, answer.members.into_iter().next(), answer.revision);
        true
    }

    async fn unmute(&mut self, mutes: &mut MuteServiceClient<Channel>, call: usize) -> bool {
        self.calls.entry(call).or_default().sent = Some(Sent::Unmute);
        let message = pb::UnmuteMembersRequest {
            app: "Open".into(),
            room: self.room(),
            users: self.users(call),
            ..Default::default()
        };
        let Some(answer) = answered(mutes.unmute_members(with(message, &[SERVICE])).await) else {
            return false;
        };
        assert!(answer.members.iter().all(|member| member.was_muted));
        self.acknowledged(call, None, answer.revision);
        true
    }

    fn acknowledged(&mut self, call: usize, member: Option<pb::MutedMember>, revision: i64) {
        assert!(
            revision > self.latest_revision,
            "revision {revision} after {}",
            self.latest_revision
        );
        self.latest_revision = revision;
        self.acknowledged += 1;
        self.calls.insert(call, CallState { member, sent: None });
    }

    /// What the service lists, by user.
    async fn listed(
        &self,
        mutes: &mut MuteServiceClient<Channel>,
    ) -> BTreeMap<String, pb::MutedMember> {
        let mut members = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let message = pb::ListMutedMembersRequest {
                app: "Open".into(),
                room: self.room(),
                page_size: 1_000,
                page_token,
                ..Default::default()
            };
            let page =
                mutes.list_muted_members(with(message, &[SERVICE])).await.unwrap().into_inner();
            members.extend(page.members.into_iter().map(|member| (member.user.clone(), member)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return members;
            }
        }
    }

    fn compare(&mut self, mut listed: BTreeMap<String, pb::MutedMember>) {
        let calls: Vec<_> = self.calls.keys().copied().collect();
        for call in calls {
            let users = self.users(call);
            let found: Vec<_> = users.iter().filter_map(|user| listed.remove(user)).collect();
            let name = format!("writer {}, call {call}", self.writer);
            let whole = found.is_empty() || found.len() == users.len();
            assert!(whole, "{name} took effect by half: {} of {} users", found.len(), users.len());
            let first = found.into_iter().reduce(|first, next| {
                let same = pb::MutedMember { user: first.user.clone(), ..next };
                assert_eq!(first, same, "{name} took effect by half");
                first
            });
            let state = self.calls.entry(call).or_default();
            state.adopt(first).unwrap_or_else(|what| panic!("{name}: {what}"));
        }
        assert!(listed.is_empty(), "no writer has muted {listed:?}");
    }
}

/// The answer; `None` where the connection broke. The service itself must not refuse the call.
fn answered<T>(answer: Result<Response<T>, Status>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) => {
            assert!(status.details().is_empty(), "it was refused: {status:?}");
            None
        }
    }
}

impl CallState {
    /// Adopts what was found. Errors: it is neither what was acknowledged nor what was sent after
    /// that.
    fn adopt(&mut self, found: Option<pb::MutedMember>) -> Result<(), String> {
        let was_done = match (&self.sent, &found) {
            (Some(Sent::Mute { reason }), Some(member)) => {
                member.reason == *reason && member.actor == "service:dev"
            }
            (Some(Sent::Unmute), None) => true,
            (None | Some(_), _) => false,
        };
        if !was_done && found != self.member {
            return Err(format!("found {found:?}, but the writer knows {self:?}"));
        }
        *self = Self { member: found, sent: None };
        Ok(())
    }
}

/// A number from the environment, such as a seed. `None` if it is not set.
pub fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// Random numbers that `MUTE_TEST_SEED` repeats.
pub fn random() -> StdRng {
    let seed = setting("MUTE_TEST_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

//! etcd as the cluster engine needs it: ranges, transactions and a watch, over the member that
//! answers. Nothing else knows etcd's API.
//!
//! One member is asked; when it does not answer, or has no leader, the next one is, until the
//! caller's patience ends. So a transaction may be sent more than once: each has to see to it that
//! it takes effect at most once.

use std::{
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use rand::RngExt as _;
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    proto::etcd::{
        self as pb, auth_client::AuthClient, kv_client::KvClient, watch_client::WatchClient,
    },
    store::{ClusterConfig, StoreError},
    telemetry::traces,
};

/// How long a member may take to be reached, and to answer, before the next one is asked. Who is
/// patient gives each a quarter of the time.
const CONNECT: Duration = Duration::from_secs(1);
const TRY: Duration = Duration::from_millis(1_500);
/// Between two tries, at least and at most.
const PAUSE_MS: std::ops::Range<u64> = 20..120;
/// The largest answer that is read: above all that etcd puts into one, a thousand revisions of a
/// watch that has to catch up.
const MESSAGE_BYTES: usize = 1 << 30;

/// A cluster, by the addresses of its members.
pub(super) struct Etcd {
    members: Vec<Member>,
    current: AtomicUsize,
    login: Option<pb::AuthenticateRequest>,
}

struct Member {
    url: String,
    channel: Channel,
    token: RwLock<Option<MetadataValue<Ascii>>>,
}

/// One key with its value.
#[derive(Debug, Default)]
pub(super) struct KeyValue {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// When it was last written.
    pub(super) revision: u64,
}

/// The records of a range, as of one revision.
pub(super) struct RangePage {
    /// The newest revision there was.
    pub(super) revision: u64,
    pub(super) records: Vec<KeyValue>,
    /// Whether the range goes on.
    pub(super) more: bool,
    /// How many the whole range has.
    pub(super) count: u64,
}

/// Keys from one on, and before another; that one alone where `until` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) from: Vec<u8>,
    pub(super) until: Vec<u8>,
}

impl KeyRange {
    /// One key.
    pub(super) fn of(key: Vec<u8>) -> Self {
        Self { from: key, until: Vec::new() }
    }
}

/// What is wanted of a range.
#[derive(Clone, Copy, Default)]
pub(super) struct RangeOptions {
    /// As of this revision; 0 is the newest, which no member answers without a quorum.
    pub(super) revision: u64,
    /// 0 is all.
    pub(super) limit: u64,
    /// How many there are, and no records.
    pub(super) count_only: bool,
}

/// Changes that take effect together, where all expectations hold. No key may be changed twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Txn {
    /// The revision a key was last written at; nothing where it must be absent.
    pub(super) preconditions: Vec<(Vec<u8>, Option<u64>)>,
    pub(super) deletes: Vec<KeyRange>,
    /// In this order.
    pub(super) puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys to look at where an expectation does not hold.
    pub(super) looks: Vec<Vec<u8>>,
}

/// An attempt that was answered.
pub(super) struct Transacted {
    /// At which revision it took effect; where it did not, the newest there was.
    pub(super) revision: u64,
    pub(super) outcome: TxnOutcome,
    /// It was sent before, and not answered then: what was sent may still take effect.
    pub(super) was_sent_before: bool,
}

/// What an attempt has come to.
pub(super) enum TxnOutcome {
    /// It took effect.
    Done,
    /// It did not; what the keys to look at hold.
    CompareFailed(Vec<Option<KeyValue>>),
}

/// A change of one key: no value is a deletion.
pub(super) struct KeyChange {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) revision: u64,
}

/// All changes of a range, in order; those of one revision come together.
pub(super) struct Watch {
    changes: Streaming<pb::WatchResponse>,
}

impl Etcd {
    /// Asks nobody yet. Errors: [`StoreError::Unavailable`] on addresses and certificates that are
    /// none.
    pub(super) fn new(config: &ClusterConfig) -> Result<Self, StoreError> {
        let member = |url: &String| {
            let wrong =
                |error: tonic::transport::Error| StoreError::Unavailable(format!("{url}: {error}"));
            let mut endpoint = Endpoint::from_shared(url.clone())
                .map_err(wrong)?
                .connect_timeout(CONNECT)
                .tcp_nodelay(true);
            if let Some(tls) = tls(config) {
                endpoint = endpoint.tls_config(tls).map_err(wrong)?;
            }
            let channel = match config.connector.clone() {
                Some(connector) => endpoint.connect_with_connector_lazy(connector),
                None => endpoint.connect_lazy(),
            };
            Ok(Member { url: url.clone(), channel, token: RwLock::default() })
        };
        let members = config.endpoints.iter().map(member).collect::<Result<Vec<_>, _>>()?;
        let login = config.user.as_ref().map(|user| pb::AuthenticateRequest {
            name: user.name.clone(),
            password: user.password.clone(),
        });
        // Replicas begin with different members.
        let current = AtomicUsize::new(rand::rng().random_range(0..members.len().max(1)));
        Ok(Self { members, current, login })
    }

    /// Errors: [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn range(
        &self,
        span: &KeyRange,
        wanted: RangeOptions,
        timeout: Duration,
    ) -> Result<RangePage, StoreError> {
        let KeyRange { from, until } = span;
        let request = pb::RangeRequest {
            key: from.clone(),
            range_end: until.clone(),
            limit: signed(wanted.limit),
            revision: signed(wanted.revision),
            count_only: wanted.count_only,
        };
        let answer = self.call(timeout, |member| {
            let (mut kv, request) = (member.kv(), member.request(request.clone()));
            async move { kv.range(request).await }
        });
        let answer = answer.await?;
        Ok(RangePage {
            revision: revision(answer.header.as_ref()),
            records: answer.kvs.into_iter().map(KeyValue::from).collect(),
            more: answer.more,
            count: unsigned(answer.count),
        })
    }

    /// Makes the attempt. Errors: [`StoreError::Unavailable`], after which it may still take
    /// effect, [`StoreError::Full`].
    pub(super) async fn transact(
        &self,
        attempt: &Txn,
        timeout: Duration,
    ) -> Result<Transacted, StoreError> {
        let (request, tries) = (transaction(attempt), AtomicUsize::new(0));
        let answer = self.call(timeout, |member| {
            tries.fetch_add(1, Ordering::Relaxed);
            let (mut kv, request) = (member.kv(), member.request(request.clone()));
            async move { kv.txn(request).await }
        });
        let answer = answer.await;
        let was_sent_before = tries.into_inner() > 1;
        let answer = answer.map_err(|error| match error {
            // Of what was sent before, and not answered then, it says nothing.
            StoreError::Full(what) if was_sent_before => {
                StoreError::Unavailable(format!("{what}; an earlier try was not answered"))
            }
            error => error,
        })?;
        let revision = revision(answer.header.as_ref());
        Ok(Transacted { revision, outcome: outcome(answer), was_sent_before })
    }

    /// Watches from this revision on, itself included. Errors: [`StoreError::Unavailable`].
    pub(super) async fn watch(
        &self,
        span: &KeyRange,
        from_revision: u64,
    ) -> Result<Watch, StoreError> {
        let create = pb::WatchCreateRequest {
            key: span.from.clone(),
            range_end: span.until.clone(),
            start_revision: signed(from_revision),
        };
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let number = self.current.load(Ordering::Relaxed);
        let member = &self.members[number];
        let opening = async {
            if self.login.is_some() {
                self.log_in(member).await?;
            }
            // The stream of requests stays open: its end would be that of the watch.
            let requests = stream::iter([request]).chain(stream::pending());
            let mut client =
                WatchClient::new(member.channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
            client.watch(member.request(requests)).await
        };
        match timeout(TRY, opening).await {
            Ok(Ok(answer)) => Ok(Watch { changes: answer.into_inner() }),
            Ok(Err(status)) => Err(self.turned_away(number, status.message())),
            Err(_) => Err(self.turned_away(number, "no answer")),
        }
    }

    /// Has the next member asked from now on, where this one still is.
    pub(super) fn leave_member(&self) {
        self.leave(self.current.load(Ordering::Relaxed));
    }

    fn turned_away(&self, number: usize, why: &str) -> StoreError {
        self.leave(number);
        StoreError::Unavailable(format!("{}: {why}", self.members[number].url))
    }

    fn leave(&self, number: usize) {
        let next = (number + 1) % self.members.len();
        let _ = self.current.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks one member after the other until one answers.
    async fn call<T, F>(
        &self,
        timeout: Duration,
        call: impl Fn(&Member) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + timeout;
        let longest = TRY.max(timeout / 4);
        let mut last = "no answer".to_owned();
        loop {
            let number = self.current.load(Ordering::Relaxed);
            let member = &self.members[number];
            let left = deadline.saturating_duration_since(Instant::now());
            let status = match tokio::time::timeout(longest.min(left), call(member)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if wants_login(&status) => self.log_in(member).await.err(),
                Ok(Err(status)) => Some(status),
                Err(_) => Some(Status::deadline_exceeded(&*last)),
            };
            if let Some(status) = status {
                if let Some(error) = of_every_member(&status) {
                    return Err(error);
                }
                tracing::debug!(
                    member = member.url,
                    error = status.message(),
                    "asking another member of the cluster"
                );
                self.leave(number);
                last = status.message().to_owned();
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Unavailable(format!("{}: {last}", member.url)));
            }
            sleep(pause()).await;
        }
    }

    /// Gets a new token.
    async fn log_in(&self, member: &Member) -> Result<(), Status> {
        let Some(login) = &self.login else {
            return Err(Status::permission_denied("it wants one: see --etcd-user"));
        };
        let mut client = AuthClient::new(member.channel.clone());
        let answer = timeout(TRY, client.authenticate(login.clone())).await;
        let answer =
            answer.map_err(|_| Status::deadline_exceeded("no answer to a login"))??.into_inner();
        let token = answer.token.parse().map_err(|_| Status::internal("a token that is none"))?;
        *member.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }
}

impl Member {
    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// A member without a leader is to say so at once, and to end its watches.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &*self.token.read().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("token", token.clone());
        }
        traces::hand_on(&mut traces::Metadata(request.metadata_mut()));
        request
    }
}

impl Watch {
    /// The next changes, of one revision or several. Errors: [`StoreError::Compacted`],
    /// [`StoreError::Unavailable`].
    pub(super) async fn next(&mut self) -> Result<Vec<KeyChange>, StoreError> {
        let answer = self
            .changes
            .message()
            .await
            .map_err(|status| StoreError::Unavailable(status.message().to_owned()))?;
        let answer =
            answer.ok_or_else(|| StoreError::Unavailable("the watch has ended".to_owned()))?;
        if answer.compact_revision > 0 {
            return Err(StoreError::Compacted { oldest: unsigned(answer.compact_revision) });
        }
        if answer.canceled {
            return Err(StoreError::Unavailable(format!(
                "the watch was ended: {}",
                answer.cancel_reason
            )));
        }
        Ok(answer.events.into_iter().filter_map(change).collect())
    }
}

impl From<pb::KeyValue> for KeyValue {
    fn from(record: pb::KeyValue) -> Self {
        Self { key: record.key, value: record.value, revision: unsigned(record.mod_revision) }
    }
}

fn tls(config: &ClusterConfig) -> Option<ClientTlsConfig> {
    let tls = config.tls.as_ref()?;
    let with_ca = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
    Some(match &tls.identity {
        Some((certificate, key)) => with_ca.identity(Identity::from_pem(certificate, key)),
        None => with_ca,
    })
}

fn transaction(attempt: &Txn) -> pb::TxnRequest {
    use pb::compare::{CompareTarget, TargetUnion};
    let compare = |(key, revision): &(Vec<u8>, Option<u64>)| {
        let (target, union) = match revision {
            Some(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(signed(*revision))),
            None => (CompareTarget::Version, TargetUnion::Version(0)),
        };
        pb::Compare {
            result: 0,
            target: target.into(),
            key: key.clone(),
            target_union: Some(union),
        }
    };
    let deletes = attempt.deletes.iter().map(|KeyRange { from, until }| {
        let request = pb::DeleteRangeRequest { key: from.clone(), range_end: until.clone() };
        pb::request_op::Request::RequestDeleteRange(request)
    });
    let puts = attempt.puts.iter().map(|(key, value)| {
        pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.clone(),
        })
    });
    let looks = attempt.looks.iter().map(|key| {
        pb::request_op::Request::RequestRange(pb::RangeRequest {
            key: key.clone(),
            ..Default::default()
        })
    });
    let operation = |request| pb::RequestOp { request: Some(request) };
    pb::TxnRequest {
        compare: attempt.preconditions.iter().map(compare).collect(),
        success: deletes.chain(puts).map(operation).collect(),
        failure: looks.map(operation).collect(),
    }
}

fn outcome(answer: pb::TxnResponse) -> TxnOutcome {
    if answer.succeeded {
        return TxnOutcome::Done;
    }
    let found = |answer: pb::ResponseOp| match answer.response {
        Some(pb::response_op::Response::ResponseRange(range)) => {
            range.kvs.into_iter().next().map(KeyValue::from)
        }
        _ => None,
    };
    TxnOutcome::CompareFailed(answer.responses.into_iter().map(found).collect())
}

fn change(event: pb::Event) -> Option<KeyChange> {
    let is_put = event.r#type() == pb::event::EventType::Put;
    let KeyValue { key, value, revision } = event.kv?.into();
    Some(KeyChange { key, value: is_put.then_some(value), revision })
}

/// A time of its own for each replica, so that they do not come back at once.
pub(super) fn pause() -> Duration {
    Duration::from_millis(rand::rng().random_range(PAUSE_MS))
}

/// What every member would say. Messages are those of etcd's `api/v3rpc/rpctypes/error.go`.
fn of_every_member(status: &Status) -> Option<StoreError> {
    let message = status.message();
    Some(match status.code() {
        Code::ResourceExhausted if message.contains("space exceeded") => {
            StoreError::Full(format!("the cluster's quota: {message}"))
        }
        Code::OutOfRange if message.contains("compacted") => StoreError::Compacted { oldest: 0 },
        Code::PermissionDenied => StoreError::Unavailable(format!("the cluster's user: {message}")),
        Code::InvalidArgument
            if message.contains("too many operations") || message.contains("too large") =>
        {
            let hint =
                "start etcd with --max-txn-ops of 128 and --max-request-bytes of 1572864, or more";
            StoreError::Unavailable(format!("{message}: {hint}"))
        }
        Code::InvalidArgument if !wants_login(status) => {
            StoreError::Unavailable(message.to_owned())
        }
        _ => return None,
    })
}

/// The token is missing, has ended, or is older than the cluster's users.
fn wants_login(status: &Status) -> bool {
    let message = status.message();
    let old =
        message.contains("user name is empty") || message.contains("revision of auth store is old");
    status.code() == Code::Unauthenticated || status.code() == Code::InvalidArgument && old
}

fn revision(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| unsigned(header.revision))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

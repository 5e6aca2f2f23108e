//! A client for etcd, with what the cluster engine needs: ranges, transactions and a watch. No
//! other module uses the API of etcd.
//!
//! The client uses one member at a time. If that member does not answer, or has no leader, the
//! client switches to the next, until the request's timeout. So it may send a transaction more than
//! once. The caller must make sure that the transaction takes effect at most once.

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

use super::kv::{
    KeyChange, KeyRange, KeyValue, RangeOptions, RangePage, Txn, TxnOutcome, TxnResult,
};
use crate::{
    proto::etcd::{
        self as pb, auth_client::AuthClient, kv_client::KvClient, watch_client::WatchClient,
    },
    store::{ClusterConfig, StoreError},
    telemetry::traces,
};

/// How long connecting to a member may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one member may take to answer before the next is tried. A request with a long timeout
/// allows each member a quarter of it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The pause between two attempts.
const BACKOFF_MS: std::ops::Range<u64> = 20..120;
/// The largest message that is read: more than etcd ever sends in one. A watch that catches up gets
/// up to a thousand revisions at once.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// A client of one cluster, with a channel to each member.
pub(super) struct Etcd {
    members: Vec<Member>,
    /// The index of the member in use.
    current: AtomicUsize,
    login: Option<pb::AuthenticateRequest>,
}

struct Member {
    url: String,
    channel: Channel,
    token: RwLock<Option<MetadataValue<Ascii>>>,
}

/// All changes of a range, in order. Changes of one cluster revision come together.
pub(super) struct Watch {
    changes: Streaming<pb::WatchResponse>,
}

impl Etcd {
    /// Creates the client; connects only when a request needs a member.
    ///
    /// Errors: [`StoreError::Unavailable`] if a URL or a certificate is invalid.
    pub(super) fn new(config: &ClusterConfig) -> Result<Self, StoreError> {
        let members = config.endpoints.iter().map(|url| Member::new(url, config));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let login = config.user.as_ref().map(|user| pb::AuthenticateRequest {
            name: user.name.clone(),
            password: user.password.clone(),
        });
        // A random first member spreads the replicas over the members.
        let current = AtomicUsize::new(rand::rng().random_range(0..members.len().max(1)));
        Ok(Self { members, current, login })
    }

    /// Reads a range of keys. Errors: [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn range(
        &self,
        range: &KeyRange,
        options: RangeOptions,
        timeout: Duration,
    ) -> Result<RangePage, StoreError> {
        let request = pb::RangeRequest {
            key: range.start.clone(),
            range_end: range.end.clone(),
            limit: signed(options.limit),
            revision: signed(options.revision),
            count_only: options.count_only,
        };
        let answer = self.call(timeout, |member| {
            let (mut kv, request) = (member.kv(), member.request(request.clone()));
            async move { kv.range(request).await }
        });
        let answer = answer.await?;
        Ok(RangePage {
            revision: revision(answer.header.as_ref()),
            records: answer.kvs.into_iter().map(KeyValue::from).collect(),
            has_more: answer.more,
            count: unsigned(answer.count),
        })
    }

    /// Sends a transaction until a member answers.
    ///
    /// Errors: [`StoreError::Full`]; [`StoreError::Unavailable`], after which the transaction may
    /// still take effect.
    pub(super) async fn transact(
        &self,
        txn: &Txn,
        timeout: Duration,
    ) -> Result<TxnResult, StoreError> {
        let request = txn_request(txn);
        let attempts = AtomicUsize::new(0);
        let answer = self.call(timeout, |member| {
            attempts.fetch_add(1, Ordering::Relaxed);
            let (mut kv, request) = (member.kv(), member.request(request.clone()));
            async move { kv.txn(request).await }
        });
        let answer = answer.await;
        let was_retried = attempts.into_inner() > 1;
        let answer = answer.map_err(|error| match error {
            // "Full" is definite for the last attempt only; an earlier one may still take effect.
            StoreError::Full(what) if was_retried => {
                StoreError::Unavailable(format!("{what}; an earlier attempt was not answered"))
            }
            error => error,
        })?;
        let revision = revision(answer.header.as_ref());
        Ok(TxnResult { revision, outcome: outcome(answer), was_retried })
    }

    /// Watches a range from this revision on, inclusive. Errors: [`StoreError::Unavailable`].
    pub(super) async fn watch(
        &self,
        range: &KeyRange,
        start_revision: u64,
    ) -> Result<Watch, StoreError> {
        let create = pb::WatchCreateRequest {
            key: range.start.clone(),
            range_end: range.end.clone(),
            start_revision: signed(start_revision),
        };
        let request = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let index = self.current.load(Ordering::Relaxed);
        let member = &self.members[index];
        let opening = async {
            if self.login.is_some() {
                self.log_in(member).await?;
            }
            // The request stream must stay open, because its end also ends the watch.
            let requests = stream::iter([request]).chain(stream::pending());
            let mut client = WatchClient::new(member.channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES);
            client.watch(member.request(requests)).await
        };
        match timeout(ATTEMPT_TIMEOUT, opening).await {
            Ok(Ok(answer)) => Ok(Watch { changes: answer.into_inner() }),
            Ok(Err(status)) => Err(self.switch_after_failure(index, status.message())),
            Err(_) => Err(self.switch_after_failure(index, "no answer")),
        }
    }

    /// Uses the next member from now on.
    pub(super) fn switch_member(&self) {
        self.switch_from(self.current.load(Ordering::Relaxed));
    }

    fn switch_after_failure(&self, index: usize, why: &str) -> StoreError {
        self.switch_from(index);
        StoreError::Unavailable(format!("{}: {why}", self.members[index].url))
    }

    /// Does nothing if another task has switched already.
    fn switch_from(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Tries one member after the other until one answers.
    async fn call<T, F>(
        &self,
        timeout: Duration,
        call: impl Fn(&Member) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + timeout;
        let max_attempt = ATTEMPT_TIMEOUT.max(timeout / 4);
        let mut last_error = "no answer".to_owned();
        loop {
            let index = self.current.load(Ordering::Relaxed);
            let member = &self.members[index];
            let remaining = deadline.saturating_duration_since(Instant::now());
            let attempt = tokio::time::timeout(max_attempt.min(remaining), call(member));
            let status = match attempt.await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if needs_login(&status) => self.log_in(member).await.err(),
                Ok(Err(status)) => Some(status),
                Err(_) => Some(Status::deadline_exceeded(&*last_error)),
            };
            if let Some(status) = status {
                if let Some(error) = definite_error(&status) {
                    return Err(error);
                }
                tracing::debug!(
                    member = member.url,
                    error = status.message(),
                    "a member of the cluster failed; trying the next"
                );
                self.switch_from(index);
                last_error = status.message().to_owned();
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Unavailable(format!("{}: {last_error}", member.url)));
            }
            sleep(backoff()).await;
        }
    }

    /// Gets a new token from a member.
    async fn log_in(&self, member: &Member) -> Result<(), Status> {
        let Some(login) = &self.login else {
            return Err(Status::permission_denied(
                "none is configured, and the cluster requires one: set --etcd-user",
            ));
        };
        let mut client = AuthClient::new(member.channel.clone());
        let answer = timeout(ATTEMPT_TIMEOUT, client.authenticate(login.clone())).await;
        let answer =
            answer.map_err(|_| Status::deadline_exceeded("no answer to the login"))??.into_inner();
        let token =
            answer.token.parse().map_err(|_| Status::internal("the login token is invalid"))?;
        *member.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }
}

impl Member {
    fn new(url: &str, config: &ClusterConfig) -> Result<Self, StoreError> {
        let invalid =
            |error: tonic::transport::Error| StoreError::Unavailable(format!("{url}: {error}"));
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(invalid)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(tls) = tls(config) {
            endpoint = endpoint.tls_config(tls).map_err(invalid)?;
        }
        let channel = match config.connector.clone() {
            Some(connector) => endpoint.connect_with_connector_lazy(connector),
            None => endpoint.connect_lazy(),
        };
        Ok(Self { url: url.to_owned(), channel, token: RwLock::default() })
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A request with the current token. `hasleader` makes a member without a leader fail the
    /// request at once, and end its watches.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &*self.token.read().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("token", token.clone());
        }
        traces::inject_context(&mut traces::Metadata(request.metadata_mut()));
        request
    }
}

impl Watch {
    /// The next changes, of one or several whole revisions.
    ///
    /// Errors: [`StoreError::Compacted`], [`StoreError::Unavailable`].
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
                "the member canceled the watch: {}",
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

fn txn_request(txn: &Txn) -> pb::TxnRequest {
    let deletes = txn.deletes.iter().map(|KeyRange { start, end }| {
        let request = pb::DeleteRangeRequest { key: start.clone(), range_end: end.clone() };
        pb::request_op::Request::RequestDeleteRange(request)
    });
    let puts = txn.puts.iter().map(|(key, value)| {
        pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.clone(),
        })
    });
    let reads = txn.failure_reads.iter().map(|key| {
        pb::request_op::Request::RequestRange(pb::RangeRequest {
            key: key.clone(),
            ..Default::default()
        })
    });
    let operation = |request| pb::RequestOp { request: Some(request) };
    pb::TxnRequest {
        compare: txn.preconditions.iter().map(compare).collect(),
        success: deletes.chain(puts).map(operation).collect(),
        failure: reads.map(operation).collect(),
    }
}

fn compare((key, revision): &(Vec<u8>, Option<u64>)) -> pb::Compare {
    use pb::compare::{CompareTarget, TargetUnion};
    let (target, union) = match revision {
        Some(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(signed(*revision))),
        None => (CompareTarget::Version, TargetUnion::Version(0)),
    };
    pb::Compare { result: 0, target: target.into(), key: key.clone(), target_union: Some(union) }
}

fn outcome(answer: pb::TxnResponse) -> TxnOutcome {
    if answer.succeeded {
        return TxnOutcome::Committed;
    }
    TxnOutcome::CompareFailed(answer.responses.into_iter().map(failure_read).collect())
}

fn failure_read(answer: pb::ResponseOp) -> Option<KeyValue> {
    match answer.response {
        Some(pb::response_op::Response::ResponseRange(range)) => {
            range.kvs.into_iter().next().map(KeyValue::from)
        }
        _ => None,
    }
}

fn change(event: pb::Event) -> Option<KeyChange> {
    let is_put = event.r#type() == pb::event::EventType::Put;
    let KeyValue { key, value, revision } = event.kv?.into();
    Some(KeyChange { key, value: is_put.then_some(value), revision })
}

/// A random pause, so that the replicas do not all return at the same moment.
pub(super) fn backoff() -> Duration {
    Duration::from_millis(rand::rng().random_range(BACKOFF_MS))
}

/// The error for a status that every member would return; `None` if another member may succeed.
/// The texts are those of etcd's `api/v3rpc/rpctypes/error.go`.
fn definite_error(status: &Status) -> Option<StoreError> {
    let message = status.message();
    Some(match status.code() {
        Code::ResourceExhausted if message.contains("space exceeded") => {
            StoreError::Full(format!("the cluster's quota is exceeded: {message}"))
        }
        Code::OutOfRange if message.contains("compacted") => StoreError::Compacted { oldest: 0 },
        Code::PermissionDenied => StoreError::Unavailable(format!("the cluster's user: {message}")),
        Code::InvalidArgument
            if message.contains("too many operations") || message.contains("too large") =>
        {
            let hint = "start etcd with at least --max-txn-ops=128 and --max-request-bytes=1572864";
            StoreError::Unavailable(format!("{message}: {hint}"))
        }
        Code::InvalidArgument if !needs_login(status) => {
            StoreError::Unavailable(message.to_owned())
        }
        _ => return None,
    })
}

/// Whether the token is missing, has expired, or is older than the last change of the cluster's
/// users.
fn needs_login(status: &Status) -> bool {
    let message = status.message();
    let is_outdated =
        message.contains("user name is empty") || message.contains("revision of auth store is old");
    status.code() == Code::Unauthenticated || status.code() == Code::InvalidArgument && is_outdated
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

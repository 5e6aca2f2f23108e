//! The double beside a real etcd: both get the same requests and must give equal answers.

use std::time::Duration;

use futures_util::future::join_all;
use rand::{RngExt as _, rngs::StdRng};
use serde_json::json;
use tonic::{Code, transport::Channel};

use super::{
    Double,
    wire::{self as pb, kv_client::KvClient, request_op::Request as Op, watch_client::WatchClient},
};
use crate::{etcd::Etcd, ledger};

const KEYS: usize = 8;
/// The last put of a sequence, so that a watch knows where to stop.
const LAST: &[u8] = b"k/last";

type Answer<T> = Result<T, (Code, String)>;

struct Twins {
    real: Etcd,
    double: Double,
    channels: [Channel; 2],
    random: StdRng,
    /// The latest revision that was compacted to.
    compacted: i64,
}

impl Twins {
    async fn start() -> Option<Self> {
        let real = Etcd::start(1, &[])?;
        let double = Double::new(1);
        let channel = Channel::from_shared(real.members[0].url.clone()).unwrap().connect_lazy();
        let channels = [channel, double.network().channel(0)];
        let twins = Self { real, double, channels, random: ledger::random(), compacted: 0 };
        let range = pb::RangeRequest { key: b"k".to_vec(), ..Default::default() };
        while KvClient::new(twins.channels[0].clone()).range(range.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(twins)
    }

    fn key(&mut self) -> Vec<u8> {
        format!("k/{}", self.random.random_range(0..KEYS)).into_bytes()
    }

    fn range_end(&mut self) -> Vec<u8> {
        match self.random.random_range(0..4) {
            0 => Vec::new(),
            1 => vec![0],
            2 => self.key(),
            _ => b"k0".to_vec(),
        }
    }

    /// A revision to read at, mostly a valid one.
    fn revision(&mut self) -> i64 {
        let latest = self.double.revision();
        match self.random.random_range(0..8) {
            0 => latest + 1,
            1 => (self.compacted - 1).max(0),
            2 => self.compacted,
            3 | 4 => self.random.random_range(self.compacted..=latest),
            _ => 0,
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: self.random.random_range(0..5),
            revision: self.revision(),
            count_only: self.random.random_bool(0.2),
        }
    }

    fn compare(&mut self) -> pb::Compare {
        use pb::compare::{CompareTarget, TargetUnion};
        let version = self.random.random_range(0..3);
        let revision = self.random.random_range(0..=self.double.revision());
        let (target, union) = match self.random.random_range(0..3) {
            0 => (CompareTarget::Version, TargetUnion::Version(version)),
            1 => (CompareTarget::Mod, TargetUnion::ModRevision(revision)),
            _ => (CompareTarget::Mod, TargetUnion::ModRevision(0)),
        };
        pb::Compare { result: 0, target: target.into(), key: self.key(), target_union: Some(union) }
    }

    fn operation(&mut self) -> pb::RequestOp {
        let value = vec![self.random.random(); self.random.random_range(0..3)];
        let request = match self.random.random_range(0..6) {
            0 | 1 => Op::RequestRange(self.range()),
            2 => Op::RequestDeleteRange(pb::DeleteRangeRequest {
                key: self.key(),
                range_end: self.range_end(),
            }),
            _ => Op::RequestPut(pb::PutRequest { key: self.key(), value }),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn transaction(&mut self) -> pb::TxnRequest {
        let [compares, successes, failures] = [2, 4, 4].map(|max| self.random.random_range(0..max));
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: (0..successes).map(|_| self.operation()).collect(),
            failure: (0..failures).map(|_| self.operation()).collect(),
        }
    }

    /// The answer of both to a transaction.
    async fn transact(&self, request: &pb::TxnRequest) -> Answer<pb::TxnResponse> {
        let [real, double] = self.channels.clone().map(|channel| async {
            let answer = KvClient::new(channel).txn(request.clone()).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| (status.code(), status.message().to_owned()))
        });
        let real = real.await;
        assert_eq!(double.await, real, "{request:?}");
        real
    }

    async fn read(&self, request: &pb::RangeRequest) {
        let [real, double] = self.channels.clone().map(|channel| async {
            let answer = KvClient::new(channel).range(request.clone()).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| (status.code(), status.message().to_owned()))
        });
        assert_eq!(double.await, real.await, "{request:?}");
    }

    async fn put(&self, keys: &[Vec<u8>], value: &[u8]) -> Answer<pb::TxnResponse> {
        let put = |key: &Vec<u8>| {
            Op::RequestPut(pb::PutRequest { key: key.clone(), value: value.to_vec() })
        };
        let success = keys.iter().map(|key| pb::RequestOp { request: Some(put(key)) }).collect();
        self.transact(&pb::TxnRequest { success, ..Default::default() }).await
    }

    async fn compact(&mut self, revision: i64) {
        let compacted = self.real.members[0]
            .call("kv/compaction", json!({"revision": revision, "physical": true}))
            .await;
        assert!(compacted.is_some());
        self.double.compact(revision);
        self.compacted = revision;
    }

    /// Watches with both until the event of this revision.
    async fn watch(&self, create: &pb::WatchCreateRequest, until: i64) {
        // A new connection, because one allows only so many abandoned streams.
        let channels = [self.channels[0].clone(), self.double.network().channel(0)];
        let [real, double] = channels.map(|channel| watched(channel, create.clone(), until));
        assert_eq!(double.await, real.await, "{create:?}");
    }
}

#[derive(Debug, Default, PartialEq)]
struct Watched {
    created: bool,
    events: Vec<pb::Event>,
    compacted: Option<i64>,
    cancel_reason: String,
}

async fn watched(channel: Channel, create: pb::WatchCreateRequest, until: i64) -> Watched {
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    let requests =
        futures_util::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut answers = WatchClient::new(channel).watch(requests).await.unwrap().into_inner();
    let mut watched = Watched::default();
    let mut last_revision = 0;
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(5), answers.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        watched.created |= answer.created && watched.events.is_empty();
        if answer.canceled {
            return Watched {
                compacted: Some(answer.compact_revision),
                cancel_reason: answer.cancel_reason,
                ..watched
            };
        }
        // The events of one revision arrive together.
        let revision = |event: &pb::Event| event.kv.as_ref().unwrap().mod_revision;
        let Some(first) = answer.events.first().map(revision) else { continue };
        let last = answer.events.last().map_or(first, revision);
        assert!(first > last_revision && last >= first && last <= answer.header.unwrap().revision);
        last_revision = last;
        watched.events.extend(answer.events);
        if last == until {
            return watched;
        }
    }
}

#[tokio::test]
async fn the_double_answers_as_etcd_does() {
    let Some(mut twins) = Twins::start().await else { return };
    for _ in 0..20 {
        for _ in 0..12 {
            let transaction = twins.transaction();
            let range = twins.range();
            // The answer may be a refusal; `transact` compares it.
            let _ = twins.transact(&transaction).await;
            twins.read(&range).await;
        }
        let end = twins.put(&[LAST.to_vec()], b"").await.unwrap().header.unwrap().revision;
        if twins.random.random_bool(0.5) {
            let revision = twins.random.random_range(twins.compacted + 1..=end);
            twins.compact(revision).await;
        }
        let compacted = twins.compacted;
        let create = |start_revision: i64| {
            let key = twins.key();
            let range_end = b"k0".to_vec();
            pb::WatchCreateRequest { key, range_end, start_revision: start_revision.clamp(1, end) }
        };
        let creates = [compacted - 1, compacted, compacted + 1, end - 3, end].map(create);
        // Concurrently, because etcd serves watches that catch up only ten times a second.
        join_all(creates.iter().map(|create| twins.watch(create, end))).await;
    }
}

#[tokio::test]
async fn the_double_has_the_limits_of_etcd() {
    let Some(twins) = Twins::start().await else { return };
    let keys = |count: usize| {
        (0..count).map(|number| format!("k/{number}").into_bytes()).collect::<Vec<_>>()
    };
    assert!(twins.put(&keys(128), b"v").await.is_ok());
    assert!(twins.put(&keys(129), b"v").await.unwrap_err().1.contains("too many operations"));
    assert!(twins.put(&[Vec::new()], b"v").await.is_err());
    assert!(twins.put(&keys(1), &vec![0; 1_600_000]).await.unwrap_err().1.contains("too large"));
    assert!(
        twins
            .put(&[b"k".to_vec(), b"k".to_vec()], b"v")
            .await
            .unwrap_err()
            .1
            .contains("duplicate key")
    );
    let none = pb::TxnRequest::default();
    assert!(twins.transact(&none).await.is_ok());
}

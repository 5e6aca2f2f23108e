//! The API of a member, served over one connection.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::{io::DuplexStream, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait, transport::Server};

use super::{
    Member, Shared,
    link::{Link, Loss},
    mvcc::Watched,
    wire::{
        self as pb,
        auth_server::{Auth, AuthServer},
        kv_server::{Kv, KvServer},
        watch_server::{Watch, WatchServer},
    },
};

/// Revisions in one message to a watch that catches up.
const MAX_REVISIONS: usize = 1_000;
const MESSAGE_BYTES: usize = 2 << 20;

/// Serves one connection to a member.
#[derive(Clone)]
pub struct MemberServer {
    pub shared: Arc<Shared>,
    pub link: Arc<Link>,
}

impl MemberServer {
    pub async fn serve(self, connection: DuplexStream) {
        let connections = stream::once(async { Ok::<_, std::io::Error>(connection) });
        let kv = KvServer::new(self.clone()).max_decoding_message_size(MESSAGE_BYTES);
        let router = Server::builder()
            .add_service(kv)
            .add_service(WatchServer::new(self.clone()))
            .add_service(AuthServer::new(self));
        let _ = router.serve_with_incoming(connections).await;
    }

    fn member(&self) -> &Member {
        &self.shared.members[self.link.member]
    }

    fn require_leader(&self) -> Result<(), Status> {
        let has_leader = self.member().has_leader.load(Ordering::Relaxed);
        if has_leader { Ok(()) } else { Err(Status::unavailable("etcdserver: no leader")) }
    }
}

#[async_trait]
impl Kv for MemberServer {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        self.require_leader()?;
        let answer = self.shared.read(|mvcc| mvcc.range(request.get_ref()));
        answer.map(Response::new)
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        self.require_leader()?;
        let answer = self.shared.write(|mvcc| mvcc.transact(request.get_ref()))?;
        match self.link.take_loss() {
            None => Ok(Response::new(answer)),
            Some(loss) => {
                if loss == Loss::Reset {
                    self.link.reset();
                }
                std::future::pending().await
            }
        }
    }
}

#[async_trait]
impl Watch for MemberServer {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.require_leader()?;
        let (answers, answered) = mpsc::channel(1);
        let member_server = self.clone();
        let requests = request.into_inner();
        tokio::spawn(async move {
            tokio::select! {
                () = member_server.watch_all(requests, answers.clone()) => {}
                () = answers.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(answered).boxed()))
    }
}

type Answers = mpsc::Sender<Result<pb::WatchResponse, Status>>;

impl MemberServer {
    /// Serves one watch a stream, which is all that the service uses. The stream ends with its
    /// requests.
    async fn watch_all(&self, mut requests: Streaming<pb::WatchRequest>, answers: Answers) {
        let Ok(Some(pb::WatchRequest { request_union: Some(create) })) = requests.message().await
        else {
            return;
        };
        let pb::watch_request::RequestUnion::CreateRequest(create) = create;
        let mut ended = self.member().end_watches.subscribe();
        tokio::select! {
            () = self.watch_one(create, &answers) => {}
            _ = async { while let Ok(Some(_)) = requests.message().await {} } => {}
            _ = ended.changed() => {
                let _ = answers.send(Err(Status::unavailable("etcdserver: no leader"))).await;
            }
        }
    }

    async fn watch_one(&self, create: pb::WatchCreateRequest, answers: &Answers) {
        let mut updated = self.shared.updated.subscribe();
        let header = self.shared.read(|mvcc| mvcc.header());
        let mut next =
            if create.start_revision > 0 { create.start_revision } else { header.revision + 1 };
        let created =
            pb::WatchResponse { header: Some(header), created: true, ..Default::default() };
        if answers.send(Ok(created)).await.is_err() {
            return;
        }
        loop {
            updated.mark_unchanged();
            let lag = Duration::from_millis(self.member().lag_ms.load(Ordering::Relaxed));
            if !lag.is_zero() {
                sleep(lag).await;
            }
            let (changes, header) = self.shared.read(|mvcc| {
                (mvcc.changes(&create.key, &create.range_end, next, MAX_REVISIONS), mvcc.header())
            });
            let answer = match changes {
                Watched::Changes(events, after) => {
                    let is_behind = after <= header.revision;
                    next = after;
                    if !events.is_empty() {
                        let answer = pb::WatchResponse {
                            header: Some(header),
                            events,
                            ..Default::default()
                        };
                        if answers.send(Ok(answer)).await.is_err() {
                            return;
                        }
                    }
                    if !is_behind && updated.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Watched::Compacted(compact_revision) => pb::WatchResponse {
                    header: Some(header),
                    canceled: true,
                    compact_revision,
                    ..Default::default()
                },
            };
            let _ = answers.send(Ok(answer)).await;
            // The stream stays open without a watch.
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Auth for MemberServer {
    async fn authenticate(
        &self,
        _: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: authentication is not enabled"))
    }
}

//! A copy of all records, built and kept current while others write and the cluster is compacted
//! (clause 9 of the contract).
//!
//! The pages of the copy need not be as of one revision. So no request is for an old revision, and
//! compaction cannot fail one.
//!
//! 1. The feed starts.
//! 2. Pages are read in key order, each as of the latest revision. After each page, the commits
//!    that arrived meanwhile are yielded, without their operations on keys not read yet.
//! 3. When all pages are read, commits are yielded until the feed has passed the latest page. Then
//!    the copy is complete.
//!
//! Skipping an operation loses nothing. No commit is taken from the feed while a page is being
//! read, and every read includes all acknowledged commits. So a page requested later contains the
//! change. A page may be newer than a commit that follows it; then the commits that made it newer
//! follow too.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::{task::JoinHandle, time::sleep};

use super::{kv::RangePage, layout, scan::Scan, shared::Shared, snapshot::entries};
use crate::store::{Commit, Feed, Operation, Revision, StoreError, Update, Updates};

/// The pause before a failed page is requested again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

pub(super) fn updates(shared: Arc<Shared>) -> Updates {
    let (position, feed) = shared.feed_buffer.watch_paced();
    let loading = Loading::begin(&shared, position, feed);
    stream::unfold(CopyStream { shared, state: State::Begin(loading) }, CopyStream::next).boxed()
}

struct CopyStream {
    shared: Arc<Shared>,
    state: State,
}

enum State {
    Begin(Loading),
    Read(Loading),
    /// All pages are read.
    CatchUp(Loading),
    Live(Feed),
}

/// A copy that is not complete yet.
struct Loading {
    feed: Feed,
    /// The revision up to which the feed was read.
    position: Revision,
    scan: Scan,
    /// The request for the next page, which runs while the updates before it are yielded. `None`
    /// when all pages are read.
    page_request: Option<JoinHandle<Result<RangePage, StoreError>>>,
    /// Updates to yield before that page.
    ready: VecDeque<Update>,
    /// The revision of the latest page.
    latest_page_revision: Revision,
}

impl CopyStream {
    async fn next(mut self) -> Option<(Result<Update, StoreError>, Self)> {
        loop {
            let (update, state) = match self.state {
                State::Begin(loading) => (Some(Update::Reset), State::Read(loading)),
                State::Read(loading) => Self::read(&self.shared, loading).await,
                State::CatchUp(loading) => Self::catch_up(&self.shared, loading).await,
                State::Live(mut feed) => match feed.next().await? {
                    Ok(commit) => (Some(Update::Commit(commit)), State::Live(feed)),
                    Err(error) => (None, Self::restart(&self.shared, &error)),
                },
            };
            self.state = state;
            if let Some(update) = update {
                return Some((Ok(update), self));
            }
        }
    }

    /// Yields the updates that are ready, then waits for the requested page.
    async fn read(shared: &Arc<Shared>, mut loading: Loading) -> (Option<Update>, State) {
        if let Some(update) = loading.ready.pop_front() {
            return (Some(update), State::Read(loading));
        }
        let Some(request) = loading.page_request.take() else {
            shared.confirm_now.notify_one();
            return (None, State::CatchUp(loading));
        };
        match request.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
        {
            Ok(page) => {
                loading.add_page(shared, page);
                if let Err(error) = loading.take_ready_commits(shared) {
                    return (None, Self::restart(shared, &error));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a page of records could not be read; retrying");
                sleep(RETRY_DELAY).await;
            }
        }
        loading.request_page(shared);
        (None, State::Read(loading))
    }

    /// Yields commits until the feed has passed the latest page.
    async fn catch_up(shared: &Arc<Shared>, mut loading: Loading) -> (Option<Update>, State) {
        while loading.position < loading.latest_page_revision {
            match loading.feed.next().await {
                Some(Ok(commit)) => {
                    if let Some(commit) = loading.forward(shared, &commit) {
                        return (Some(Update::Commit(commit)), State::CatchUp(loading));
                    }
                }
                Some(Err(error)) => return (None, Self::restart(shared, &error)),
                // Unreachable: the feed does not end.
                None => sleep(Duration::from_secs(1)).await,
            }
        }
        (Some(Update::Complete(loading.position)), State::Live(loading.feed))
    }

    fn restart(shared: &Arc<Shared>, error: &StoreError) -> State {
        tracing::warn!(%error, "commits were missed; reading all records again");
        let (position, feed) = shared.feed_buffer.watch_paced();
        State::Begin(Loading::begin(shared, position, feed))
    }
}

impl Loading {
    fn begin(shared: &Arc<Shared>, position: Revision, feed: Feed) -> Self {
        let mut loading = Self {
            feed,
            position,
            scan: Scan::of(shared.layout.records()),
            page_request: None,
            ready: VecDeque::new(),
            latest_page_revision: 0,
        };
        loading.request_page(shared);
        loading
    }

    fn request_page(&mut self, shared: &Arc<Shared>) {
        self.page_request = self.scan.request(0).map(|request| {
            let shared = shared.clone();
            tokio::spawn(async move { request.send(&shared.etcd).await })
        });
    }

    fn add_page(&mut self, shared: &Shared, page: RangePage) {
        self.scan.advance(&page);
        let page_revision = layout::last_revision(page.revision);
        self.latest_page_revision = self.latest_page_revision.max(page_revision);
        let entries = entries(shared, page.records);
        if !entries.is_empty() {
            self.ready.push_back(Update::Records(entries));
        }
    }

    /// Takes the commits that the feed has already. Errors: those of the feed.
    fn take_ready_commits(&mut self, shared: &Shared) -> Result<(), StoreError> {
        while let Some(commit) = self.feed.next().now_or_never().flatten() {
            let commit = commit?;
            let commit = self.forward(shared, &commit);
            self.ready.extend(commit.map(Update::Commit));
        }
        Ok(())
    }

    /// The commit with only its operations on keys already read; `None` if it has none.
    fn forward(&mut self, shared: &Shared, commit: &Commit) -> Option<Arc<Commit>> {
        self.position = commit.revision;
        let is_read = |operation: &&Operation| {
            let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
            shared.layout.record(key).as_slice() < self.scan.covered()
        };
        let operations: Vec<_> = commit.operations.iter().filter(is_read).cloned().collect();
        (!operations.is_empty()).then(|| Arc::new(Commit { operations, ..commit.clone() }))
    }
}

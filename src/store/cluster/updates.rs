//! Clause 9: a copy of all records, built while others write and whatever the cluster forgets
//! meanwhile.
//!
//! No page has to be as of the revision of another, so nothing old is ever asked for. The feed
//! begins first. Then pages are read, each as of the newest revision there is, and after each the
//! commits that have come meanwhile are handed on, but for their changes of keys that are still to
//! be read. No commit is looked at while a page is on its way, and no member answers with less than
//! what the cluster has acknowledged: so a change that is passed over is in a page that is still to
//! be asked for. A page may be newer than a commit that comes after it; then those that made it so
//! come too. The copy is complete when the feed has come past the newest page.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::{task::JoinHandle, time::sleep};

use super::{
    client::RangePage,
    layout,
    scan::{Scan, ScanRequest},
    shared::Shared,
    snapshot::entries,
};
use crate::store::{Commit, Feed, Operation, Revision, StoreError, Update, Updates};

/// A page that could not be read is asked for again after this time.
const RETRY_DELAY: Duration = Duration::from_millis(500);

pub(super) fn updates(shared: Arc<Shared>) -> Updates {
    let (at, feed) = shared.recent.follow_paced();
    let loading = Loading::begin(&shared, at, feed);
    stream::unfold(Copy { shared, state: State::Begin(loading) }, Copy::next).boxed()
}

struct Copy {
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
    /// Up to where the feed was looked at.
    at: Revision,
    scan: Scan,
    /// The next page, which is on its way while what came before is taken. Nothing at the end.
    asked: Option<JoinHandle<Result<RangePage, StoreError>>>,
    /// What is to be handed on before it.
    ready: VecDeque<Update>,
    /// What the newest page is as of.
    newest: Revision,
}

impl Copy {
    async fn next(mut self) -> Option<(Result<Update, StoreError>, Self)> {
        loop {
            let (update, state) = match self.state {
                State::Begin(loading) => (Some(Update::Reset), State::Read(loading)),
                State::Read(loading) => Self::read(&self.shared, loading).await,
                State::CatchUp(loading) => Self::catch_up(&self.shared, loading).await,
                State::Live(mut feed) => match feed.next().await? {
                    Ok(commit) => (Some(Update::Commit(commit)), State::Live(feed)),
                    Err(error) => (None, Self::again(&self.shared, &error)),
                },
            };
            self.state = state;
            if let Some(update) = update {
                return Some((Ok(update), self));
            }
        }
    }

    /// What is ready, then the page that was asked for.
    async fn read(shared: &Arc<Shared>, mut loading: Loading) -> (Option<Update>, State) {
        if let Some(update) = loading.ready.pop_front() {
            return (Some(update), State::Read(loading));
        }
        let Some(asked) = loading.asked.take() else {
            shared.confirm.notify_one();
            return (None, State::CatchUp(loading));
        };
        match asked.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string()))) {
            Ok(page) => {
                loading.take(shared, page);
                if let Err(error) = loading.look_at_commits(shared) {
                    return (None, Self::again(shared, &error));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a page of records could not be read; trying again");
                sleep(RETRY_DELAY).await;
            }
        }
        loading.request_page(shared);
        (None, State::Read(loading))
    }

    /// Commits until the feed has come past the newest page.
    async fn catch_up(shared: &Arc<Shared>, mut loading: Loading) -> (Option<Update>, State) {
        while loading.at < loading.newest {
            match loading.feed.next().await {
                Some(Ok(commit)) => {
                    if let Some(commit) = loading.forward(shared, &commit) {
                        return (Some(Update::Commit(commit)), State::CatchUp(loading));
                    }
                }
                Some(Err(error)) => return (None, Self::again(shared, &error)),
                // Never: the feed has no end.
                None => sleep(Duration::from_secs(1)).await,
            }
        }
        (Some(Update::Complete(loading.at)), State::Live(loading.feed))
    }

    fn again(shared: &Arc<Shared>, error: &StoreError) -> State {
        tracing::warn!(%error, "commits were missed; reading all records again");
        let (at, feed) = shared.recent.follow_paced();
        State::Begin(Loading::begin(shared, at, feed))
    }
}

impl Loading {
    fn begin(shared: &Arc<Shared>, at: Revision, feed: Feed) -> Self {
        let scan = Scan::of(shared.layout.records());
        let mut loading = Self { feed, at, scan, asked: None, ready: VecDeque::new(), newest: 0 };
        loading.request_page(shared);
        loading
    }

    fn request_page(&mut self, shared: &Arc<Shared>) {
        let ask = |request: ScanRequest| {
            let shared = shared.clone();
            tokio::spawn(async move { request.send(&shared.etcd).await })
        };
        self.asked = self.scan.request(0).map(ask);
    }

    fn take(&mut self, shared: &Shared, page: RangePage) {
        self.scan.turn_page(&page);
        self.newest = self.newest.max(layout::end_of(page.revision));
        let entries = entries(shared, page.records);
        if !entries.is_empty() {
            self.ready.push_back(Update::Records(entries));
        }
    }

    /// Those that have come. Errors: whatever the feed has.
    fn look_at_commits(&mut self, shared: &Shared) -> Result<(), StoreError> {
        while let Some(commit) = self.feed.next().now_or_never().flatten() {
            let commit = commit?;
            let commit = self.forward(shared, &commit);
            self.ready.extend(commit.map(Update::Commit));
        }
        Ok(())
    }

    /// The commit with its changes of keys that are read. Nothing where there are none.
    fn forward(&mut self, shared: &Shared, commit: &Commit) -> Option<Arc<Commit>> {
        self.at = commit.revision;
        let is_read = |operation: &&Operation| {
            let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
            shared.layout.record(key).as_slice() < self.scan.covered()
        };
        let operations: Vec<_> = commit.operations.iter().filter(is_read).cloned().collect();
        (!operations.is_empty()).then(|| Arc::new(Commit { operations, ..commit.clone() }))
    }
}

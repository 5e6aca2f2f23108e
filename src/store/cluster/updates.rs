//! Clause 9: a copy of all records, built while others write and whatever the cluster forgets meanwhile.
//!
//! No page has to be as of the revision of another, so nothing old is ever asked for. The feed begins first. Then pages are read, each as of the
//! newest revision there is, and after each the commits that have come meanwhile are handed on, but for their changes of keys that are still to be
//! read, and of those whose page was as new already. A page is asked for after all commits before it were looked at, and no member answers with less
//! than what the cluster has acknowledged: so a change that is passed over is in a page that is still to come. The copy is complete when the feed has
//! come past the newest page.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::sleep;

use super::{Shared, layout, scan::Scan, snapshot::entries};
use crate::store::{Commit, Feed, Operation, Revision, StoreError, Update, Updates, etcd};

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
    /// The pages in the order of keys: the first key after each, and the revision of the cluster it is as of.
    pages: Vec<(Vec<u8>, u64)>,
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

    /// The commits that have come since the last page, then the next page.
    async fn read(shared: &Arc<Shared>, mut loading: Loading) -> (Option<Update>, State) {
        while let Some(commit) = loading.feed.next().now_or_never().flatten() {
            match commit.map(|commit| loading.hand_on(shared, &commit)) {
                Ok(None) => {}
                Ok(Some(commit)) => return (Some(Update::Commit(commit)), State::Read(loading)),
                Err(error) => return (None, Self::again(shared, &error)),
            }
        }
        match loading.scan.next(&shared.etcd, 0).await {
            Ok(Some(page)) => {
                loading.pages.push((loading.scan.covered().to_vec(), page.revision));
                let entries = entries(shared, page.records);
                ((!entries.is_empty()).then_some(Update::Records(entries)), State::Read(loading))
            }
            Ok(None) => {
                shared.confirm.notify_one();
                (None, State::CatchUp(loading))
            }
            Err(error) => {
                tracing::warn!(%error, "a page of records could not be read; trying again");
                sleep(etcd::pause()).await;
                (None, State::Read(loading))
            }
        }
    }

    /// Commits until the feed has come past the newest page.
    async fn catch_up(shared: &Arc<Shared>, mut loading: Loading) -> (Option<Update>, State) {
        let newest = loading.pages.iter().map(|(_, revision)| layout::end_of(*revision)).max().unwrap_or(0);
        while loading.at < newest {
            match loading.feed.next().await {
                Some(Ok(commit)) => {
                    if let Some(commit) = loading.hand_on(shared, &commit) {
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
    fn begin(shared: &Shared, at: Revision, feed: Feed) -> Self {
        Self { feed, at, scan: Scan::of(shared.layout.records()), pages: Vec::new() }
    }

    /// The commit with those of its changes that belong to the copy. Nothing where there are none.
    fn hand_on(&mut self, shared: &Shared, commit: &Commit) -> Option<Arc<Commit>> {
        self.at = commit.revision;
        let cluster = layout::cluster(commit.revision);
        let is_ours = |operation: &&Operation| {
            let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
            let key = shared.layout.record(key);
            let page = self.pages.partition_point(|(until, _)| *until <= key);
            self.pages.get(page).is_some_and(|(_, as_of)| *as_of < cluster)
        };
        let operations: Vec<_> = commit.operations.iter().filter(is_ours).cloned().collect();
        (!operations.is_empty()).then(|| Arc::new(Commit { operations, ..commit.clone() }))
    }
}

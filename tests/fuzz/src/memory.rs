//! A store in memory that keeps the contract of `store.rs`, except for history. An input may need a
//! new one, and there are thousands of inputs a second.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mute_service::store::{
    Commit, EncodedBatch, Entry, EventRange, Feed, Operation, Revision, Snapshot, Store,
    StoreError, StoredEvent, Update, Updates,
};
use tokio::sync::watch;

/// The content of a store.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Records {
    revision: Revision,
    by_key: BTreeMap<Vec<u8>, (Revision, Vec<u8>)>,
}

impl Records {
    /// All records, in the order of keys.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.by_key.iter().map(|(key, (revision, value))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        })
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { key, value } => {
                drop(self.by_key.insert(key.clone(), (self.revision, value.clone())))
            }
            Operation::Delete { key } => drop(self.by_key.remove(key)),
        }
    }
}

/// A store in memory.
pub struct Memory {
    content: Arc<Mutex<Content>>,
    latest: watch::Sender<Revision>,
}

struct Content {
    records: Records,
    /// All commits since the store was created, by revision.
    commits: BTreeMap<Revision, Arc<Commit>>,
}

impl Memory {
    /// A store with these records.
    #[must_use]
    pub fn of(records: Records) -> Arc<Self> {
        let latest = watch::Sender::new(records.revision);
        Arc::new(Self {
            content: Arc::new(Mutex::new(Content { records, commits: BTreeMap::new() })),
            latest,
        })
    }

    /// The current content.
    #[must_use]
    pub fn records(&self) -> Records {
        self.content().records.clone()
    }

    /// The latest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.content().records.revision
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }
}

#[async_trait]
impl Store for Memory {
    async fn commit(&self, batch: EncodedBatch) -> Result<Revision, StoreError> {
        let mut content = self.content();
        let Content { records, commits } = &mut *content;
        let revision_of = |key: &Vec<u8>| records.by_key.get(key).map(|(revision, _)| *revision);
        if batch
            .preconditions
            .iter()
            .any(|expected| revision_of(&expected.key) != expected.revision)
        {
            return Err(StoreError::Conflict { revision: records.revision });
        }
        records.revision += 1;
        batch.operations.iter().for_each(|operation| records.apply(operation));
        let EncodedBatch { operations, event, at_ms, .. } = batch;
        let revision = records.revision;
        commits.insert(revision, Arc::new(Commit { revision, operations, event, at_ms }));
        self.latest.send_replace(revision);
        Ok(revision)
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let records = self.records();
        let page = records.entries().collect();
        Ok(Snapshot { revision: records.revision, pages: stream::iter([Ok(page)]).boxed() })
    }

    async fn watch(&self, after: Revision) -> Result<Feed, StoreError> {
        let start = (self.content.clone(), self.latest.subscribe(), after);
        let feed = stream::unfold(start, async |(content, mut latest, after)| {
            latest.wait_for(|latest| *latest > after).await.ok()?;
            let next = content
                .lock()
                .unwrap()
                .commits
                .range((Bound::Excluded(after), Bound::Unbounded))
                .next()?
                .1
                .clone();
            let revision = next.revision;
            Some((Ok(next), (content, latest, revision)))
        });
        Ok(feed.boxed())
    }

    async fn follow(&self) -> Result<Updates, StoreError> {
        let records = self.records();
        let revision = records.revision;
        let initial = [
            Update::Reset,
            Update::Records(records.entries().collect()),
            Update::Complete(revision),
        ];
        let later = self.watch(revision).await?.map_ok(Update::Commit);
        Ok(stream::iter(initial.map(Ok)).chain(later).boxed())
    }

    async fn latest_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.content().records.revision)
    }

    async fn events(
        &self,
        _: EventRange,
        _: bool,
        _: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        Ok(Vec::new())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

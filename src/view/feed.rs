//! The view's one writer: fills it from a snapshot, then applies every commit of the change feed.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;

use super::{
    Inner, View,
    age::Age,
    applied::Applied,
    state::{Change, State},
};
use crate::store::{Commit, Operation, Revision, Store, StoreError, codec};

/// How long after a failure of the feed it is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Progress is told after this many records.
const PROGRESS: u64 = 500_000;

impl View {
    /// Fills a view from the store. In the `strict` apps, rooms that are not registered are left by a deletion that a stop has cut short, and
    /// are swept of their notification mutes. Errors: whatever the store has, [`StoreError::Corrupt`] among it.
    pub async fn load(store: &dyn Store, strict: Vec<String>) -> Result<Self, StoreError> {
        let (state, revision) = read_snapshot(store, &strict).await?;
        let inner = Inner { state: ArcSwap::from_pointee(state), applied: Applied::at(revision), age: Age::new(), strict };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Keeps the view at the store's newest commit. Never ends by itself.
    pub async fn follow(self, store: Arc<dyn Store>) {
        loop {
            if let Err(error) = self.follow_once(&*store).await {
                tracing::error!(%error, "the change feed has failed; trying again");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn follow_once(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut feed = store.watch(self.revision()).await?;
        while let Some(commit) = feed.next().await {
            match commit {
                Ok(commit) => self.apply(&commit)?,
                Err(StoreError::Compacted { oldest }) => {
                    tracing::warn!(oldest, "the feed was cut behind the view; taking a snapshot again");
                    let (state, revision) = read_snapshot(store, &self.inner.strict).await?;
                    self.inner.state.store(Arc::new(state));
                    self.inner.applied.advance(revision);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unavailable("the change feed has ended".to_owned()))
    }

    fn apply(&self, commit: &Commit) -> Result<(), StoreError> {
        apply(&self.inner.state.load(), commit)?;
        self.inner.applied.advance(commit.revision);
        Ok(())
    }
}

async fn read_snapshot(store: &dyn Store, strict: &[String]) -> Result<(State, Revision), StoreError> {
    let state = State::default();
    let mut snapshot = store.snapshot().await?;
    let mut told = PROGRESS;
    while let Some(page) = snapshot.pages.next().await {
        for entry in page? {
            let (key, value) = codec::decode(&entry.key, &entry.value)?;
            state.apply(vec![Change { key, value: Some(value) }], entry.revision);
        }
        let records: u64 = state.records().map(|(_, records)| records).sum();
        if records >= told {
            tracing::info!(records, "loading");
            told += PROGRESS;
        }
    }
    strict.iter().for_each(|app| state.sweep_unregistered(app, snapshot.revision));
    Ok((state, snapshot.revision))
}

fn apply(state: &State, commit: &Commit) -> Result<(), StoreError> {
    let mut changes = Vec::with_capacity(commit.operations.len());
    for operation in &commit.operations {
        match operation {
            Operation::Put { key, value } => {
                let (key, value) = codec::decode(key, value)?;
                changes.push(Change { key, value: Some(value) });
            }
            Operation::Delete { key } => changes.push(Change { key: codec::decode_key(key)?, value: None }),
            Operation::DeletePrefix { prefix } => {
                state.apply(std::mem::take(&mut changes), commit.revision);
                state.delete(codec::decode_prefix(prefix)?, commit.revision);
            }
        }
    }
    state.apply(changes, commit.revision);
    Ok(())
}

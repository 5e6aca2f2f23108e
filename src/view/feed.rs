//! The view's only writer. It loads the view from the store, then applies every commit of the
//! change feed. If the store reports missed commits, it builds a second view, and swaps it in when
//! it is complete. Until then the old view answers, and its age grows.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;

use super::{
    Inner, View,
    age::Age,
    applied::AppliedRevision,
    state::{RecordUpdate, State},
};
use crate::{
    store::{Commit, Entry, Operation, Revision, Store, StoreError, Update, Updates, codec},
    telemetry::metrics::METRICS,
};

/// The delay before a failed feed is started again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Records between two log lines while loading.
const PROGRESS_INTERVAL: u64 = 500_000;

/// A complete view, and the updates that follow.
pub struct LoadedView {
    /// The view as it was when loading finished.
    pub view: View,
    updates: Updates,
}

/// A view that is not complete yet.
struct Building {
    state: State,
    next_progress: u64,
}

impl LoadedView {
    /// Applies the store's commits to the view. Never returns.
    pub async fn follow(self, store: Arc<dyn Store>) {
        let Self { view, mut updates } = self;
        loop {
            let Err(error) = view.follow_once(&mut updates).await;
            tracing::error!(%error, "the change feed failed; reading all records again");
            tokio::time::sleep(RETRY_DELAY).await;
            match store.follow().await {
                Ok(new) => updates = new,
                Err(error) => tracing::error!(%error, "records could not be read; trying again"),
            }
        }
    }
}

impl View {
    /// Builds a view from all records of the store. Errors: those of the store, including
    /// [`StoreError::Corrupt`].
    pub async fn load(store: &dyn Store) -> Result<LoadedView, StoreError> {
        let mut updates = store.follow().await?;
        let mut building = Building::new();
        loop {
            let update = updates.next().await.ok_or_else(ended)??;
            if let Some((state, revision)) = building.apply(update)? {
                let inner = Inner {
                    state: ArcSwap::from_pointee(state),
                    applied: AppliedRevision::at(revision),
                    age: Age::new(),
                };
                return Ok(LoadedView { view: Self { inner: Arc::new(inner) }, updates });
            }
        }
    }

    async fn follow_once(
        &self,
        updates: &mut Updates,
    ) -> Result<std::convert::Infallible, StoreError> {
        let mut building: Option<Building> = None;
        loop {
            let update = updates.next().await.ok_or_else(ended)??;
            match (update, &mut building) {
                (Update::Commit(commit), None) => self.apply(&commit)?,
                (Update::Reset, None) => {
                    tracing::warn!(
                        revision = self.revision(),
                        "commits were missed; rebuilding the view beside this one"
                    );
                    building = Some(Building::new());
                }
                (update, None) => {
                    let what = format!("an update of a snapshot that was not started: {update:?}");
                    return Err(StoreError::Unavailable(what));
                }
                (update, Some(building_view)) => {
                    if let Some((state, revision)) = building_view.apply(update)? {
                        tracing::info!(revision, "the view was rebuilt");
                        self.inner.state.store(Arc::new(state));
                        self.inner.applied.advance(revision);
                        building = None;
                    }
                }
            }
        }
    }

    fn apply(&self, commit: &Commit) -> Result<(), StoreError> {
        apply_commit(&self.inner.state.load(), commit)?;
        self.inner.applied.advance(commit.revision);
        Ok(())
    }
}

impl Building {
    fn new() -> Self {
        Self { state: State::default(), next_progress: PROGRESS_INTERVAL }
    }

    /// Returns the state and its revision when it is complete.
    fn apply(&mut self, update: Update) -> Result<Option<(State, Revision)>, StoreError> {
        match update {
            Update::Reset => *self = Self::new(),
            Update::Records(entries) => self.add(&entries)?,
            Update::Commit(commit) => apply_commit(&self.state, &commit)?,
            Update::Complete(revision) => {
                return Ok(Some((std::mem::take(&mut self.state), revision)));
            }
        }
        Ok(None)
    }

    fn add(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let updates = entries
            .iter()
            .map(|Entry { key, value, revision }| decode(key, Some(value), *revision));
        self.state.apply(updates.filter_map(Result::transpose).collect::<Result<_, _>>()?);
        let records: u64 = self.state.records().map(|(_, records)| records).sum();
        if records >= self.next_progress {
            tracing::info!(records, "loading");
            self.next_progress += PROGRESS_INTERVAL;
        }
        Ok(())
    }
}

fn apply_commit(state: &State, commit: &Commit) -> Result<(), StoreError> {
    let mut updates = Vec::with_capacity(commit.operations.len());
    for operation in &commit.operations {
        updates.extend(match operation {
            Operation::Put { key, value } => decode(key, Some(value), commit.revision)?,
            Operation::Delete { key } => decode(key, None, commit.revision)?,
        });
    }
    state.apply(updates);
    Ok(())
}

/// None: the key is not of this service; another program may write to the same cluster. Errors:
/// [`StoreError::Corrupt`] if the value does not fit the key.
fn decode<'a>(
    key: &'a [u8],
    value: Option<&[u8]>,
    revision: Revision,
) -> Result<Option<RecordUpdate<'a>>, StoreError> {
    let Ok(decoded) = codec::decode_key(key) else {
        METRICS.foreign_key();
        tracing::warn!(key = %key.escape_ascii(), "ignoring a record whose key is not of this service");
        return Ok(None);
    };
    let value = value.map(|value| codec::decode_value(key, decoded, value)).transpose()?;
    Ok(Some(RecordUpdate { key: decoded, value, revision }))
}

fn ended() -> StoreError {
    StoreError::Unavailable("the change feed ended".to_owned())
}

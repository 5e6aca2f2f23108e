//! The view's one writer: fills it from the store, then applies every commit of the change feed.
//! Where the store says that commits were missed, the view is built anew, aside, and swapped when
//! it is complete; until then the old one answers, and tells its age.

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

/// How long after a failure of the feed it is begun again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Progress is told after this many records.
const PROGRESS: u64 = 500_000;

/// A view that was filled, and what keeps it up.
pub struct Filled {
    /// As of the moment when it was complete.
    pub view: View,
    updates: Updates,
}

/// A view that is being built.
struct Building {
    state: State,
    next_progress: u64,
}

impl Filled {
    /// Keeps the view at the store's newest commit. Never ends by itself.
    pub async fn follow(self, store: Arc<dyn Store>) {
        let Self { view, mut updates } = self;
        loop {
            let Err(error) = view.follow_once(&mut updates).await;
            tracing::error!(%error, "the change feed has failed; reading all records again");
            tokio::time::sleep(RETRY_DELAY).await;
            match store.follow().await {
                Ok(again) => updates = again,
                Err(error) => tracing::error!(%error, "records could not be read; trying again"),
            }
        }
    }
}

impl View {
    /// Fills a view from the store. Errors: whatever the store has, [`StoreError::Corrupt`] among
    /// it.
    pub async fn load(store: &dyn Store) -> Result<Filled, StoreError> {
        let mut updates = store.follow().await?;
        let mut building = Building::new();
        loop {
            let update = updates.next().await.ok_or_else(ended)??;
            if let Some((state, revision)) = building.take(update)? {
                let inner = Inner {
                    state: ArcSwap::from_pointee(state),
                    applied: AppliedRevision::at(revision),
                    age: Age::new(),
                };
                return Ok(Filled { view: Self { inner: Arc::new(inner) }, updates });
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
                        "commits were missed; building the view anew, beside this one"
                    );
                    building = Some(Building::new());
                }
                (update, None) => {
                    let what = format!("an update that nothing was begun for: {update:?}");
                    return Err(StoreError::Unavailable(what));
                }
                (update, Some(new)) => {
                    if let Some((state, revision)) = new.take(update)? {
                        tracing::info!(revision, "the view was built anew");
                        self.inner.state.store(Arc::new(state));
                        self.inner.applied.advance(revision);
                        building = None;
                    }
                }
            }
        }
    }

    fn apply(&self, commit: &Commit) -> Result<(), StoreError> {
        apply(&self.inner.state.load(), commit)?;
        self.inner.applied.advance(commit.revision);
        Ok(())
    }
}

impl Building {
    fn new() -> Self {
        Self { state: State::default(), next_progress: PROGRESS }
    }

    /// Answers what was built, once it is complete.
    fn take(&mut self, update: Update) -> Result<Option<(State, Revision)>, StoreError> {
        match update {
            Update::Reset => *self = Self::new(),
            Update::Records(entries) => self.add(&entries)?,
            Update::Commit(commit) => apply(&self.state, &commit)?,
            Update::Complete(revision) => {
                return Ok(Some((std::mem::take(&mut self.state), revision)));
            }
        }
        Ok(None)
    }

    fn add(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let changes = entries
            .iter()
            .map(|Entry { key, value, revision }| change(key, Some(value), *revision));
        self.state.apply(changes.filter_map(Result::transpose).collect::<Result<_, _>>()?);
        let records: u64 = self.state.records().map(|(_, records)| records).sum();
        if records >= self.next_progress {
            tracing::info!(records, "loading");
            self.next_progress += PROGRESS;
        }
        Ok(())
    }
}

fn apply(state: &State, commit: &Commit) -> Result<(), StoreError> {
    let mut changes = Vec::with_capacity(commit.operations.len());
    for operation in &commit.operations {
        changes.extend(match operation {
            Operation::Put { key, value } => change(key, Some(value), commit.revision)?,
            Operation::Delete { key } => change(key, None, commit.revision)?,
        });
    }
    state.apply(changes);
    Ok(())
}

/// Nothing where the key is none of ours: others may write to a cluster too. Errors:
/// [`StoreError::Corrupt`] where the value is none of its key.
fn change<'a>(
    key: &'a [u8],
    value: Option<&[u8]>,
    revision: Revision,
) -> Result<Option<RecordUpdate<'a>>, StoreError> {
    let Ok(decoded) = codec::decode_key(key) else {
        METRICS.foreign_key();
        tracing::warn!(key = %key.escape_ascii(), "a record whose key is none of this service's is passed over");
        return Ok(None);
    };
    let value = value.map(|value| codec::decode_value(key, decoded, value)).transpose()?;
    Ok(Some(RecordUpdate { key: decoded, value, revision }))
}

fn ended() -> StoreError {
    StoreError::Unavailable("the change feed has ended".to_owned())
}

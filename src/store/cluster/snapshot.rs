//! Snapshots: all records as of one cluster revision (clause 3 of the contract).

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    kv::{KeyValue, RangeOptions},
    layout,
    scan::Scan,
    shared::{REQUEST_TIMEOUT, Shared},
};
use crate::store::{Entry, Revision, StoreError};

type Pages = mpsc::Sender<Result<Vec<Entry>, StoreError>>;

/// Starts a task that sends the pages, and returns the revision they are as of. The task reads the
/// next pages while the receiver works on one. It ends early if the receiver is dropped.
pub(super) async fn begin(shared: Arc<Shared>, pages: Pages) -> Result<Revision, StoreError> {
    let revision = shared
        .etcd
        .range(
            &shared.current_segment_range(),
            RangeOptions { count_only: true, ..RangeOptions::default() },
            REQUEST_TIMEOUT,
        )
        .await?
        .revision;
    tokio::spawn(async move {
        if let Err(error) = send(&shared, revision, &pages).await {
            let _ = pages.send(Err(error)).await;
        }
    });
    Ok(layout::last_revision(revision))
}

async fn send(shared: &Shared, revision: u64, pages: &Pages) -> Result<(), StoreError> {
    let mut scan = Scan::of(shared.layout.records());
    while let Some(page) = scan.next(&shared.etcd, revision).await? {
        let entries = entries(shared, page.records);
        if !entries.is_empty() && pages.send(Ok(entries)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

pub(super) fn entries(shared: &Shared, records: Vec<KeyValue>) -> Vec<Entry> {
    records.into_iter().filter_map(|record| entry(shared, record)).collect()
}

fn entry(shared: &Shared, record: KeyValue) -> Option<Entry> {
    let layout::Kind::Record(key) = shared.layout.kind(&record.key) else { return None };
    Some(Entry {
        key: key.to_vec(),
        value: record.value,
        revision: layout::revision(record.revision, 0),
    })
}

//! Clause 3: all records as of one revision of the cluster.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{PATIENCE, Shared, layout};
use crate::store::{
    Entry, Revision, StoreError,
    etcd::{Page, Record, Wanted},
};

/// Records of the first page; the others have as many as make about this many bytes.
const PAGE: u64 = 1_000;
const PAGE_BYTES: usize = 1 << 20;

type Pages = mpsc::Sender<Result<Vec<Entry>, StoreError>>;

/// Sends the pages, the next while one is read. Answers which revision they are of. Ends early where nobody reads on.
pub(super) async fn begin(shared: Arc<Shared>, pages: Pages) -> Result<Revision, StoreError> {
    let first = shared.etcd.range(&shared.layout.records(&[]), Wanted { limit: PAGE, ..Wanted::default() }, PATIENCE).await?;
    let revision = first.revision;
    tokio::spawn(async move {
        if let Err(error) = send(&shared, first, &pages).await {
            let _ = pages.send(Err(error)).await;
        }
    });
    Ok(layout::end_of(revision))
}

async fn send(shared: &Shared, mut page: Page, pages: &Pages) -> Result<(), StoreError> {
    let (mut span, revision) = (shared.layout.records(&[]), page.revision);
    loop {
        let next = page.more.then(|| page.records.last().map(|last| layout::after(last.key.clone()))).flatten();
        let (records, bytes) = (page.records.len(), page.records.iter().map(size).sum::<usize>());
        let entries: Vec<_> = page.records.into_iter().filter_map(|record| entry(shared, record)).collect();
        if !entries.is_empty() && pages.send(Ok(entries)).await.is_err() {
            return Ok(());
        }
        let Some(next) = next else { return Ok(()) };
        span.from = next;
        let limit = (records * PAGE_BYTES / bytes.max(1)).max(1) as u64;
        page = shared.etcd.range(&span, Wanted { revision, limit, ..Wanted::default() }, PATIENCE).await?;
    }
}

fn size(record: &Record) -> usize {
    record.key.len() + record.value.len()
}

fn entry(shared: &Shared, record: Record) -> Option<Entry> {
    let layout::Kind::Record(key) = shared.layout.kind(&record.key) else { return None };
    Some(Entry { key: key.to_vec(), value: record.value, revision: layout::revision(record.revision, 0) })
}

//! Lists are fetched and printed page by page, so that a long one needs little memory.

use tonic::Status;

use crate::ctl::{args::Limit, output::Output, records::Record, session::Outcome};

/// The maximum page size of the service.
const MAX_PAGE_SIZE: u64 = 1_000;

/// A page of a list. A page without records need not be the last.
pub(super) struct Page {
    records: Vec<Record>,
    next_page_token: String,
}

impl Page {
    pub(super) fn of<T>(
        messages: Vec<T>,
        record: impl Fn(T) -> Record,
        next_page_token: String,
    ) -> Self {
        Self { records: messages.into_iter().map(record).collect(), next_page_token }
    }
}

/// Prints each page when it arrives, until the limit or the end of the list.
pub(super) async fn print_pages(
    out: &mut Output,
    limit: &Limit,
    fetch: impl AsyncFn(i32, String) -> Result<Page, Status>,
) -> Outcome {
    let mut remaining = limit.limit.unwrap_or(u64::MAX);
    let mut page_token = String::new();
    let mut is_empty = true;
    loop {
        let size = i32::try_from(remaining.min(MAX_PAGE_SIZE)).unwrap_or_default();
        let page = fetch(size, page_token).await?;
        out.rows(&page.records)?;
        is_empty &= page.records.is_empty();
        remaining = remaining.saturating_sub(u64::try_from(page.records.len()).unwrap_or(u64::MAX));
        page_token = page.next_page_token;
        if remaining == 0 || page_token.is_empty() {
            break;
        }
    }
    if is_empty {
        out.nothing();
    }
    Ok(())
}

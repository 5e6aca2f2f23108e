//! Lists that are told whole: page by page, so that their length costs the server no memory. Each page counts as a call, and waits until there may be
//! one more.

use std::time::Duration;

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::envelope::Ask;
use crate::{error::Reason, grpc::status::Told, load::LONGEST};

/// Elements, and the token of the next page; an empty one at the end.
pub(super) type Page<T> = (Vec<T>, String);

/// Between two tries at least.
const SOON: Duration = Duration::from_millis(2);

struct Listing<T, N, E> {
    /// Nothing after the last page.
    at: Option<At<T>>,
    next: N,
    tail: E,
    count: usize,
}

enum At<T> {
    /// The first page is asked for before the answer begins, so that an error has its status.
    First(Page<T>),
    Token(String),
}

/// An envelope whose `data` are all elements, from the first page on; with their `count` after them where asked for.
pub(super) fn stream<T, F, N>(ask: &Ask, action: &str, with_count: bool, first: Page<T>, next: N) -> Response
where
    T: Serialize + Send + 'static,
    N: Fn(String) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Page<T>, Status>> + Send + 'static,
{
    let (head, tail) = ask.around(action);
    let tail = move |count: usize| tail(with_count.then_some(count));
    let listing = Listing { at: Some(At::First(first)), next, tail, count: 0 };
    let pages = stream::try_unfold(listing, |mut listing| async move {
        let page = match listing.at.take() {
            None => return Ok(None),
            Some(At::First(page)) => page,
            Some(At::Token(token)) => timeout(LONGEST, in_turn(|| (listing.next)(token.clone()))).await.map_err(late)??,
        };
        Ok::<_, Status>(Some((listing.text(page), listing)))
    });
    let head = stream::once(async { Ok(Bytes::from(head)) });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(head.chain(pages))).into_response()
}

/// The page, once it is within the limits.
async fn in_turn<T, F: Future<Output = Result<Page<T>, Status>>>(page: impl Fn() -> F) -> Result<Page<T>, Status> {
    loop {
        let refused = match page().await {
            Err(status) => status,
            page => return page,
        };
        match Told::from(refused.clone()) {
            Told { reason: Reason::RateLimited, retry_after: Some(wait), .. } => sleep(wait.max(SOON)).await,
            _ => return Err(refused),
        }
    }
}

fn late<E>(_: E) -> Status {
    Status::deadline_exceeded("other calls left no turn for the next page of the list")
}

impl<T: Serialize, N, E: Fn(usize) -> String> Listing<T, N, E> {
    fn text(&mut self, (elements, token): Page<T>) -> Bytes {
        let mut text = String::new();
        for element in elements {
            if self.count > 0 {
                text.push(',');
            }
            text.push_str(&serde_json::to_string(&element).unwrap_or_default());
            self.count += 1;
        }
        if token.is_empty() {
            text.push_str(&(self.tail)(self.count));
        } else {
            self.at = Some(At::Token(token));
        }
        Bytes::from(text)
    }
}

//! Lists that are told whole: page by page, so that their length costs the server no memory. Each
//! page after the first waits for its turn.

use std::time::Duration;

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::envelope::VendorRequest;

/// Elements, and the token of the next page; an empty one at the end.
pub(super) type Page<T> = (Vec<T>, String);

/// For all pages: a list of millions, in turns with others.
const PAGE_TIMEOUT: Duration = Duration::from_secs(300);

struct Listing<N, E> {
    /// The token of the next page; nothing after the last.
    at: Option<String>,
    next: N,
    tail: E,
    count: usize,
    end: Instant,
}

/// An envelope whose `data` are all elements, from the first page on, which is there before the
/// answer begins, so that an error has its status; with their `count` after them where asked for.
pub(super) fn stream<T, F, N>(
    request: &VendorRequest,
    action: &str,
    with_count: bool,
    first: Page<T>,
    next: N,
) -> Response
where
    T: Serialize + Send + 'static,
    N: Fn(String) -> F + Send + 'static,
    F: Future<Output = Result<Page<T>, Status>> + Send + 'static,
{
    let (head, tail) = request.around(action);
    let tail = move |count: usize| tail(with_count.then_some(count));
    let mut listing =
        Listing { at: None, next, tail, count: 0, end: Instant::now() + PAGE_TIMEOUT };
    // In one piece with the head, so that it is counted with it.
    let first = Bytes::from(head + &listing.text(first));
    let pages = stream::try_unfold(listing, |mut listing| async move {
        let page = match listing.at.take() {
            None => return Ok(None),
            Some(token) => timeout_at(listing.end, (listing.next)(token)).await.map_err(late)??,
        };
        Ok::<_, Status>(Some((Bytes::from(listing.text(page)), listing)))
    });
    let first = stream::once(std::future::ready(Ok(first)));
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(first.chain(pages)))
        .into_response()
}

fn late<E>(_: E) -> Status {
    Status::deadline_exceeded("the list has not come to its end in time")
}

impl<N, E: Fn(usize) -> String> Listing<N, E> {
    fn text<T: Serialize>(&mut self, (elements, token): Page<T>) -> String {
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
            self.at = Some(token);
        }
        text
    }
}

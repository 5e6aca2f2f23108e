//! Lists that one RPC does not answer, streamed page by page, so that a long list costs the server
//! no more memory than a page. Each page after the first waits for its turn among the calls of the
//! app.

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

/// Elements, and the token of the next page; the token is empty on the last page.
pub(super) type Page<T> = (Vec<T>, String);

/// For all pages together: a list of millions, whose pages take turns with other calls.
const LIST_TIMEOUT: Duration = Duration::from_secs(300);

struct Listing<N, E> {
    /// None after the last page.
    page_token: Option<String>,
    fetch: N,
    /// Renders the end of the envelope, from the number of elements.
    tail: E,
    count: usize,
    deadline: Instant,
}

/// An envelope around the elements: the text before them, and what renders the text after them from
/// their number. The caller fetches the first page, so that its error is still answered with a
/// status; `fetch` gets the page of a token, and the number of elements before it. An error of a
/// later page cuts the connection.
pub(super) fn stream<T, F, N, E>((head, tail): (String, E), first: Page<T>, fetch: N) -> Response
where
    T: Serialize + Send + 'static,
    N: Fn(String, usize) -> F + Send + 'static,
    E: Fn(usize) -> String + Send + 'static,
    F: Future<Output = Result<Page<T>, Status>> + Send + 'static,
{
    let mut listing = Listing {
        page_token: None,
        fetch,
        tail,
        count: 0,
        deadline: Instant::now() + LIST_TIMEOUT,
    };
    // One chunk with the head: the memory of an answer's first chunk is charged before it is sent.
    let first = Bytes::from(head + &listing.render(first));
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    if listing.page_token.is_none() {
        return (content_type, first).into_response();
    }
    let pages = stream::try_unfold(listing, |mut listing| async move {
        let page = match listing.page_token.take() {
            None => return Ok(None),
            Some(token) => {
                let page = (listing.fetch)(token, listing.count);
                timeout_at(listing.deadline, page).await.map_err(timed_out)??
            }
        };
        Ok::<_, Status>(Some((Bytes::from(listing.render(page)), listing)))
    });
    let first = stream::once(std::future::ready(Ok(first)));
    (content_type, Body::from_stream(first.chain(pages))).into_response()
}

fn timed_out<E>(_: E) -> Status {
    Status::deadline_exceeded("the list took longer than 300 seconds")
}

impl<N, E: Fn(usize) -> String> Listing<N, E> {
    fn render<T: Serialize>(&mut self, (elements, token): Page<T>) -> String {
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
            self.page_token = Some(token);
        }
        text
    }
}

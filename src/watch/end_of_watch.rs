//! A watch that is to end, as at the age of its connection, loses no change.

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::oneshot;

use super::fixture::Fixture;
use crate::error::Reason;

#[tokio::test]
async fn a_watch_that_is_to_end_has_delivered_up_to_last_revision() {
    let fixture = Fixture::new().await;
    let (end, ended) = oneshot::channel::<()>();
    let mut watch = fixture.watch(Some("r"), 0).await.until(ended.map(drop).boxed());
    watch.subscribe().await;
    fixture.commit_and_broadcast("r", 2).await;
    assert_eq!(watch.changes(1).await, [1]);
    end.send(()).unwrap();
    let mut rest: Vec<_> = watch.into_stream().collect().await;
    let error = rest.pop().unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::Stopping);
    assert_eq!(error.last_revision, Some(1 + rest.len() as u64));
    // While it waits.
    let (end, ended) = oneshot::channel::<()>();
    let mut watch = fixture.watch(Some("r"), 2).await.until(ended.map(drop).boxed());
    watch.subscribe().await;
    let waiting = tokio::spawn(watch.into_stream().collect::<Vec<_>>());
    tokio::task::yield_now().await;
    end.send(()).unwrap();
    let error = waiting.await.unwrap().pop().unwrap().unwrap_err();
    assert_eq!((error.reason, error.last_revision), (Reason::Stopping, Some(2)));
}

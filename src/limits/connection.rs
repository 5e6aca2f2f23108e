//! The state of one connection: where it comes from, how long it has been idle, whether its
//! responses are being read, and whether it is closing.
//! hyper reports none of this.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use tokio::{sync::Notify, time::Instant};

use super::holder::{Holder, Peer};

/// A response that made no progress for this long, or somewhat longer, counts as unread.
pub const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How often each connection is checked for unread responses.
pub const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The resolution at which the ages of responses are kept.
const SLOT_MS: u64 = 5_000;
/// One slot for each step of [`UNREAD_TIMEOUT`], one for the step being filled, one for the first
/// step that counts as unread, and one because the age is that of the last check.
const SLOTS: usize = UNREAD_TIMEOUT.as_secs() as usize * 1_000 / SLOT_MS as usize + 3;

/// The peer of the request with these extensions. `None` behind a trusted proxy that does not
/// report the caller.
#[must_use]
pub fn peer_of(extensions: &Extensions) -> Option<Arc<Peer>> {
    let of_connection = |connection: &Arc<Connection>| connection.peer.clone();
    extensions.get().and_then(of_connection).or_else(|| extensions.get().cloned())
}

/// The state of one connection, shared with its requests.
#[derive(Debug)]
pub struct Connection {
    /// The remote address.
    pub addr: SocketAddr,
    /// The peer and what its address holds; `None` if it is a trusted proxy.
    pub peer: Option<Arc<Peer>>,
    opened_at: Instant,
    /// The connection's age as of the last check. Precise enough for intervals of tens of seconds,
    /// and cheap to read in each call. At least 1.
    age_ms: AtomicU64,
    open: AtomicU32,
    /// The connection's age when its last call ended; 0 if it had no call yet.
    idle_since_ms: AtomicU64,
    /// Responses being sent, by the slot of their last progress.
    responses: [AtomicU32; SLOTS],
    is_closing: AtomicBool,
    /// Notified when the connection begins to close.
    close: Notify,
}

/// A request on a connection, and its response.
#[derive(Debug)]
pub struct Exchange {
    connection: Arc<Connection>,
    /// Whether the connection counts as busy (not idle) until this is dropped.
    is_busy: bool,
    /// The slot in which its response was begun or last made progress.
    response_slot: Option<usize>,
}

impl Connection {
    /// A connection that opens now.
    #[must_use]
    pub fn new(addr: SocketAddr, holder: Option<Arc<Holder>>) -> Self {
        let peer = holder.map(|holder| Arc::new(Peer { ip: addr.ip(), holder }));
        let responses = std::array::from_fn(|_| AtomicU32::new(0));
        Self {
            addr,
            peer,
            opened_at: Instant::now(),
            age_ms: AtomicU64::new(1),
            open: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            responses,
            is_closing: AtomicBool::new(false),
            close: Notify::new(),
        }
    }

    /// Begins to close: running calls are finished, and streams without an end are asked to end.
    pub fn begin_close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.close.notify_waiters();
    }

    /// Whether the connection has begun to close.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// Completes when the connection has begun to close.
    pub async fn closing(&self) {
        let notified = self.close.notified();
        if !self.is_closing() {
            notified.await;
        }
    }

    /// How long the connection has had no open call; may be too long by one [`POLL_INTERVAL`].
    /// `None` while a call is open.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed));
        (self.open.load(Ordering::Relaxed) == 0)
            .then(|| self.opened_at.elapsed().saturating_sub(since))
    }

    /// Whether the connection ever had a request.
    #[must_use]
    pub fn had_request(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0 || self.idle_since_ms.load(Ordering::Relaxed) > 0
    }

    /// Whether a response made no progress for [`UNREAD_TIMEOUT`]. To be called once in each
    /// [`POLL_INTERVAL`], because it also updates the age that the other methods use.
    pub fn check_unread(&self) -> bool {
        self.age_ms.store(
            u64::try_from(self.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX).max(1),
            Ordering::Relaxed,
        );
        self.responses[(self.slot() + 1) % SLOTS].load(Ordering::Relaxed) > 0
    }

    fn slot(&self) -> usize {
        (self.age_ms.load(Ordering::Relaxed) / SLOT_MS) as usize % SLOTS
    }
}

impl Exchange {
    /// Begins with the request. If `is_busy`, the connection is not idle until this is dropped.
    #[must_use]
    pub fn begin(connection: Arc<Connection>, is_busy: bool) -> Self {
        if is_busy {
            connection.open.fetch_add(1, Ordering::Relaxed);
        }
        Self { connection, is_busy, response_slot: None }
    }

    /// The response is being sent from now on, and the client should read it.
    pub fn begin_response(&mut self) {
        let slot = self.connection.slot();
        self.connection.responses[slot].fetch_add(1, Ordering::Relaxed);
        self.response_slot = Some(slot);
    }

    /// The client has taken part of the response.
    pub fn record_progress(&mut self) {
        let slot = self.connection.slot();
        if let Some(before) = self.response_slot
            && before != slot
        {
            self.begin_response();
            self.connection.responses[before].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Self { connection, is_busy, response_slot } = self;
        if let Some(slot) = *response_slot {
            connection.responses[slot].fetch_sub(1, Ordering::Relaxed);
        }
        if *is_busy {
            connection
                .idle_since_ms
                .store(connection.age_ms.load(Ordering::Relaxed), Ordering::Relaxed);
            connection.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), None))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_progress_for_a_minute_is_found() {
        let connection = connection();
        // Whatever the offset between its beginning and the checks.
        for begun in 0..12_u64 {
            let mut exchange = Exchange::begin(connection.clone(), false);
            exchange.begin_response();
            for second in 0..55 {
                assert!(!connection.check_unread(), "{begun}: after {second} s");
                advance(Duration::from_secs(1)).await;
            }
            exchange.record_progress();
            let progress_at = Instant::now();
            while !connection.check_unread() {
                advance(Duration::from_secs(1)).await;
                assert!(progress_at.elapsed() < Duration::from_secs(75), "{begun}");
            }
            assert!(
                progress_at.elapsed() > Duration::from_secs(60),
                "{begun}: after {:?}",
                progress_at.elapsed()
            );
            drop(exchange);
            assert!(!connection.check_unread());
            advance(Duration::from_secs(begun)).await;
        }
    }

    #[tokio::test]
    async fn a_close_is_noticed_by_who_waited_before_and_after() {
        let connection = connection();
        let mut before = pin!(connection.closing());
        assert!(before.as_mut().now_or_never().is_none());
        connection.begin_close();
        before.await;
        connection.closing().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let connection = connection();
        advance(Duration::from_secs(3)).await;
        assert_eq!(
            (connection.idle(), connection.had_request()),
            (Some(Duration::from_secs(3)), false)
        );
        let open = || Exchange::begin(connection.clone(), true);
        let one = open();
        let other = open();
        advance(Duration::from_secs(3)).await;
        connection.check_unread();
        drop(one);
        assert_eq!((connection.idle(), connection.had_request()), (None, true));
        drop(other);
        advance(Duration::from_secs(5)).await;
        assert_eq!(
            (connection.idle(), connection.had_request()),
            (Some(Duration::from_secs(5)), true)
        );
        drop(open());
        assert_eq!(connection.idle(), Some(Duration::from_secs(5)), "as of the last check");
        connection.check_unread();
        drop(open());
        assert_eq!(connection.idle(), Some(Duration::ZERO));
    }
}

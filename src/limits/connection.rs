//! One connection, as those who serve its calls know it: where it comes from, how long nothing was
//! open on it, and whether answers wait to be read.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use tokio::time::Instant;

use super::holder::{Holder, Peer};

/// An answer that was not taken for so long, or somewhat longer, is not read.
pub const UNREAD: Duration = Duration::from_secs(60);
/// So often a connection is looked at.
pub const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How finely the beginnings of answers are told apart.
const SLOT_MS: u64 = 5_000;
/// Beginnings up to the oldest that is not unread, the one that is being filled, and one for an age
/// that is known as of the last look.
const SLOTS: usize = UNREAD.as_secs() as usize * 1_000 / SLOT_MS as usize + 3;

/// Who sends the request that has these. Nothing where a proxy that is trusted does, and does not
/// tell for whom.
#[must_use]
pub fn peer_of(extensions: &Extensions) -> Option<Arc<Peer>> {
    let of_connection = |connection: &Arc<Connection>| connection.peer.clone();
    extensions.get().and_then(of_connection).or_else(|| extensions.get().cloned())
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The other end.
    pub addr: SocketAddr,
    /// What its address holds; nothing where that is of a proxy that is trusted.
    pub peer: Option<Arc<Peer>>,
    born: Instant,
    /// How old it is, in milliseconds, as of the last look: good enough for what is told by tens of
    /// seconds, and read in each call.
    age_ms: AtomicU64,
    open: AtomicU32,
    /// How old it was when the last call ended; 0 says that nothing was asked.
    idle_since_ms: AtomicU64,
    /// Answers that are being sent, by when they were begun.
    answers: [AtomicU32; SLOTS],
}

/// A request on a connection, and its answer.
#[derive(Debug)]
pub struct Exchange {
    connection: Arc<Connection>,
    /// Whether the connection is not idle meanwhile.
    keeps: bool,
    /// When its answer was begun, or some of it was last taken.
    answer: Option<usize>,
}

impl Connection {
    /// One that begins now.
    #[must_use]
    pub fn new(addr: SocketAddr, holder: Option<Arc<Holder>>) -> Self {
        let peer = holder.map(|holder| Arc::new(Peer { ip: addr.ip(), holder }));
        let answers = std::array::from_fn(|_| AtomicU32::new(0));
        let (age_ms, idle_since_ms) = (AtomicU64::new(1), AtomicU64::new(0));
        Self {
            addr,
            peer,
            born: Instant::now(),
            age_ms,
            open: AtomicU32::new(0),
            idle_since_ms,
            answers,
        }
    }

    /// For how long no call was open, up to one [`POLL_INTERVAL`] more than that; nothing while one
    /// is.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed));
        (self.open.load(Ordering::Relaxed) == 0).then(|| self.born.elapsed().saturating_sub(since))
    }

    /// Whether it was ever asked anything.
    #[must_use]
    pub fn was_asked(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0 || self.idle_since_ms.load(Ordering::Relaxed) > 0
    }

    /// Whether an answer was not taken for [`UNREAD`]. To be asked once in each [`POLL_INTERVAL`]:
    /// it keeps the time for the others.
    pub fn look(&self) -> bool {
        self.age_ms.store(
            u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1),
            Ordering::Relaxed,
        );
        self.answers[(self.slot() + 1) % SLOTS].load(Ordering::Relaxed) > 0
    }

    fn slot(&self) -> usize {
        (self.age_ms.load(Ordering::Relaxed) / SLOT_MS) as usize % SLOTS
    }
}

impl Exchange {
    /// A request has come. Where it keeps the connection, that is not idle until this is dropped.
    #[must_use]
    pub fn begin(connection: Arc<Connection>, keeps: bool) -> Self {
        if keeps {
            connection.open.fetch_add(1, Ordering::Relaxed);
        }
        Self { connection, keeps, answer: None }
    }

    /// From now on its answer is to be read.
    pub fn answer(&mut self) {
        let slot = self.connection.slot();
        self.connection.answers[slot].fetch_add(1, Ordering::Relaxed);
        self.answer = Some(slot);
    }

    /// Some of the answer was taken.
    pub fn was_taken(&mut self) {
        let slot = self.connection.slot();
        if let Some(before) = self.answer
            && before != slot
        {
            self.answer();
            self.connection.answers[before].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Self { connection, keeps, answer } = self;
        if let Some(slot) = *answer {
            connection.answers[slot].fetch_sub(1, Ordering::Relaxed);
        }
        if *keeps {
            connection
                .idle_since_ms
                .store(connection.age_ms.load(Ordering::Relaxed), Ordering::Relaxed);
            connection.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), None))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_for_a_minute_is_found() {
        let connection = connection();
        // Whenever it was begun, and looked at.
        for begun in 0..12_u64 {
            let mut answer = Exchange::begin(connection.clone(), false);
            answer.answer();
            for second in 0..55 {
                assert!(!connection.look(), "{begun}: after {second} s");
                advance(Duration::from_secs(1)).await;
            }
            // Some of it was taken.
            answer.was_taken();
            let taken = Instant::now();
            while !connection.look() {
                advance(Duration::from_secs(1)).await;
                assert!(taken.elapsed() < Duration::from_secs(75), "{begun}");
            }
            assert!(
                taken.elapsed() > Duration::from_secs(60),
                "{begun}: after {:?}",
                taken.elapsed()
            );
            drop(answer);
            assert!(!connection.look());
            advance(Duration::from_secs(begun)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call_on() {
        let connection = connection();
        advance(Duration::from_secs(3)).await;
        assert_eq!(
            (connection.idle(), connection.was_asked()),
            (Some(Duration::from_secs(3)), false)
        );
        let open = || Exchange::begin(connection.clone(), true);
        let (one, other) = (open(), open());
        advance(Duration::from_secs(3)).await;
        connection.look();
        drop(one);
        assert_eq!((connection.idle(), connection.was_asked()), (None, true));
        drop(other);
        advance(Duration::from_secs(5)).await;
        assert_eq!(
            (connection.idle(), connection.was_asked()),
            (Some(Duration::from_secs(5)), true)
        );
        drop(open());
        assert_eq!(connection.idle(), Some(Duration::from_secs(5)), "known to a look");
        connection.look();
        drop(open());
        assert_eq!(connection.idle(), Some(Duration::ZERO));
    }
}

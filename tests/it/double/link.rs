//! The network between one replica and one member. A connection is a pair of pipes in memory. The
//! link sets their latency and bandwidth, and whether they carry anything.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::watch,
    time::sleep,
};

/// Bytes in flight at once.
const BUFFER: usize = 64 << 10;

/// The state of a link at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Of each piece of up to 64 KiB, one way.
    pub latency: Duration,
    /// One way; `None` is unlimited.
    pub bytes_per_s: Option<u64>,
    pub state: State,
    /// The number of resets so far: connections of an earlier age are closed.
    age: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    Up,
    /// Nothing comes through, and no error is reported.
    Stalled,
    /// Connections are reset, and new ones refused.
    Cut,
}

/// How the answer to a transaction is lost. The transaction has taken effect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// The answer is never sent.
    Silent,
    /// The connection is reset instead.
    Reset,
}

pub struct Link {
    pub member: usize,
    condition: watch::Sender<Condition>,
    silent: AtomicU32,
    reset: AtomicU32,
}

impl Link {
    pub fn new(member: usize) -> Arc<Self> {
        let condition = Condition {
            latency: Duration::from_micros(200),
            bytes_per_s: None,
            state: State::Up,
            age: 0,
        };
        Arc::new(Self {
            member,
            condition: watch::Sender::new(condition),
            silent: AtomicU32::new(0),
            reset: AtomicU32::new(0),
        })
    }

    pub fn set(&self, state: State) {
        self.condition.send_modify(|condition| {
            condition.age += u64::from(state == State::Cut);
            condition.state = state;
        });
    }

    pub fn pace(&self, latency: Duration, bytes_per_s: Option<u64>) {
        self.condition.send_modify(|condition| {
            (condition.latency, condition.bytes_per_s) = (latency, bytes_per_s)
        });
    }

    /// Resets all open connections.
    pub fn reset(&self) {
        self.condition.send_modify(|condition| condition.age += 1);
    }

    /// Loses the answers to the next `count` transactions, which take effect.
    pub fn lose_answers(&self, count: u32, loss: Loss) {
        self.counter(loss).fetch_add(count, Ordering::Relaxed);
    }

    /// How to lose this answer, if it is to be lost; counts the loss.
    pub fn take_loss(&self) -> Option<Loss> {
        let take = |loss| {
            let taken =
                self.counter(loss)
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            taken.ok().map(|_| loss)
        };
        take(Loss::Silent).or_else(|| take(Loss::Reset))
    }

    fn counter(&self, loss: Loss) -> &AtomicU32 {
        match loss {
            Loss::Silent => &self.silent,
            Loss::Reset => &self.reset,
        }
    }

    /// Both ends of a new connection. Errors: the link is cut.
    pub async fn connect(&self) -> io::Result<(DuplexStream, DuplexStream)> {
        let mut condition = self.condition.subscribe();
        let up = condition.wait_for(|condition| condition.state != State::Stalled).await;
        let Condition { latency, state, age, .. } =
            *up.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        sleep(latency).await;
        if state == State::Cut {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (client, near) = tokio::io::duplex(BUFFER);
        let (far, server) = tokio::io::duplex(BUFFER);
        tokio::spawn(carry(near, far, condition, age));
        Ok((client, server))
    }
}

/// Carries data both ways until the connection is reset or both sides are done.
async fn carry(
    near: DuplexStream,
    far: DuplexStream,
    condition: watch::Receiver<Condition>,
    age: u64,
) {
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    let to_server = carry_one_way(near_read, far_write, condition.clone());
    let to_client = carry_one_way(far_read, near_write, condition.clone());
    let mut resets = condition;
    tokio::select! {
        _ = async { tokio::join!(to_server, to_client) } => {}
        _ = resets.wait_for(|condition| condition.age != age) => {}
    }
}

async fn carry_one_way(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut condition: watch::Receiver<Condition>,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if condition.wait_for(|condition| condition.state != State::Stalled).await.is_err() {
            return;
        }
        let Condition { latency, bytes_per_s, .. } = *condition.borrow();
        let on_the_wire = bytes_per_s.map_or(0.0, |bytes_per_s| count as f64 / bytes_per_s as f64);
        sleep(latency + Duration::from_secs_f64(on_the_wire)).await;
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

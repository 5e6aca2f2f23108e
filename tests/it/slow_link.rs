//! A TCP link with limited bandwidth, which can be cut. Tests put it between a replica and its
//! cluster.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Bytes that are forwarded at once.
const CHUNK_BYTES: usize = 16 << 10;

pub struct SlowLink {
    pub addr: SocketAddr,
    /// Connections of an earlier generation are cut.
    generation: watch::Sender<u64>,
    /// Bytes received from the cluster.
    received: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl SlowLink {
    /// A link to this address, with this bandwidth in each direction for all connections together.
    pub async fn start(to: String, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let generation = watch::Sender::new(0);
        let received = Arc::new(AtomicU64::new(0));
        let mut task = JoinSet::new();
        let subscribe = generation.clone();
        let counter = received.clone();
        task.spawn(async move {
            let chunks_per_second = (bytes_per_second / CHUNK_BYTES as u64).max(1);
            let directions =
                [(); 2].map(|()| Arc::new(tokio::sync::Mutex::new(tokio::time::Instant::now())));
            let mut connections = JoinSet::new();
            loop {
                let Ok((caller, _)) = listener.accept().await else { continue };
                let Ok(member) = TcpStream::connect(&to).await else { continue };
                let (from_caller, to_caller) = caller.into_split();
                let (from_member, to_member) = member.into_split();
                let [up, down] = directions.clone();
                let mut cut = subscribe.subscribe();
                let counter = counter.clone();
                connections.spawn(async move {
                    let uncounted = Arc::new(AtomicU64::new(0));
                    let up = forward(from_caller, to_member, up, chunks_per_second, uncounted);
                    let down = forward(from_member, to_caller, down, chunks_per_second, counter);
                    tokio::select! {
                        () = up => {}
                        () = down => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { addr, generation, received, _task: task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Cuts all open connections; new ones are accepted.
    pub fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Forwards what arrives, each chunk when the previous one has had its time.
async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    direction: Arc<tokio::sync::Mutex<tokio::time::Instant>>,
    chunks_per_second: u64,
    counter: Arc<AtomicU64>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(read) = from.read(&mut chunk).await {
        if read == 0 || to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
        counter.fetch_add(read as u64, Ordering::Relaxed);
        let free_at = {
            let mut free_at = direction.lock().await;
            let took = Duration::from_nanos(
                1_000_000_000 / chunks_per_second * read as u64 / CHUNK_BYTES as u64,
            );
            *free_at = (*free_at).max(tokio::time::Instant::now()) + took;
            *free_at
        };
        tokio::time::sleep_until(free_at).await;
    }
}

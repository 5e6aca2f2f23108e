//! A TCP link of a bandwidth, which can be cut: what stands between a replica and its cluster in
//! tests.

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

/// What is passed on at once.
const PIECE: usize = 16 << 10;

pub struct SlowLink {
    pub addr: SocketAddr,
    /// Connections of an older number are cut.
    number: watch::Sender<u64>,
    /// What has come from the cluster.
    received: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl SlowLink {
    /// To this address, with so many bytes a second each way for all connections together.
    pub async fn start(to: String, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let number = watch::Sender::new(0);
        let received = Arc::new(AtomicU64::new(0));
        let mut task = JoinSet::new();
        let (subscribe, counter) = (number.clone(), received.clone());
        task.spawn(async move {
            let pieces_per_second = (bytes_per_second / PIECE as u64).max(1);
            let ways =
                [(); 2].map(|()| Arc::new(tokio::sync::Mutex::new(tokio::time::Instant::now())));
            let mut connections = JoinSet::new();
            loop {
                let Ok((caller, _)) = listener.accept().await else { continue };
                let Ok(member) = TcpStream::connect(&to).await else { continue };
                let (from_caller, to_caller) = caller.into_split();
                let (from_member, to_member) = member.into_split();
                let [up, down] = ways.clone();
                let mut cut = subscribe.subscribe();
                let counter = counter.clone();
                connections.spawn(async move {
                    let nobody = Arc::new(AtomicU64::new(0));
                    let up = pass(from_caller, to_member, up, pieces_per_second, nobody);
                    let down = pass(from_member, to_caller, down, pieces_per_second, counter);
                    tokio::select! {
                        () = up => {}
                        () = down => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { addr, number, received, _task: task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Ends all connections; new ones are let through.
    pub fn cut(&self) {
        self.number.send_modify(|number| *number += 1);
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Passes on what comes, each piece when the one before has had its time.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    way: Arc<tokio::sync::Mutex<tokio::time::Instant>>,
    pieces_per_second: u64,
    counter: Arc<AtomicU64>,
) {
    let mut piece = vec![0; PIECE];
    while let Ok(read) = from.read(&mut piece).await {
        if read == 0 || to.write_all(&piece[..read]).await.is_err() {
            return;
        }
        counter.fetch_add(read as u64, Ordering::Relaxed);
        let free_at = {
            let mut free_at = way.lock().await;
            let took = Duration::from_nanos(
                1_000_000_000 / pieces_per_second * read as u64 / PIECE as u64,
            );
            *free_at = (*free_at).max(tokio::time::Instant::now()) + took;
            *free_at
        };
        tokio::time::sleep_until(free_at).await;
    }
}

//! A graceful stop: first not ready, then no new calls. No accepted call is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::process::{Process, connect, mute, muted, was_not_taken};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_serves_while_not_ready_then_finishes_open_calls() {
    let directory = tempfile::tempdir().unwrap();
    let mut process =
        Process::spawn(directory.path(), directory.path(), &["--stop-delay-seconds", "2"]).ready();
    let has_refused = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let grpc = process.grpc().to_owned();
            let has_refused = has_refused.clone();
            tokio::spawn(async move {
                let mut mutes = connect(&grpc).await;
                let mut acknowledged = Vec::new();
                for call in 0.. {
                    let user = format!("u{caller}-{call}");
                    match mute(&mut mutes, "room", vec![user.clone()]).await {
                        Ok(_) => acknowledged.push(user),
                        Err(status) => {
                            // An unprocessed call is reported as such, and may be retried
                            // elsewhere.
                            let is_retryable =
                                status.code() == tonic::Code::Unavailable || was_not_taken(&status);
                            assert!(is_retryable, "{status:?}");
                            has_refused.store(true, Ordering::SeqCst);
                            break;
                        }
                    }
                }
                acknowledged
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let signalled = Instant::now();
    process.signal("-TERM");
    let ready = || async {
        reqwest::get(format!("{}/readyz", process.admin())).await.unwrap().status().as_u16()
    };
    while ready().await == 200 {
        assert!(signalled.elapsed() < Duration::from_secs(1), "still ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(reqwest::get(format!("{}/livez", process.admin())).await.unwrap().status(), 200);
    while signalled.elapsed() < Duration::from_millis(1_500) {
        assert!(
            !has_refused.load(Ordering::SeqCst),
            "a call was refused too early, after {:?}",
            signalled.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut acknowledged = Vec::new();
    for caller in callers {
        acknowledged.extend(caller.await.unwrap());
    }
    assert_eq!(process.exit_code(Duration::from_secs(10)), Some(0));
    assert!(signalled.elapsed() < Duration::from_secs(6), "{:?}", signalled.elapsed());
    let process = Process::start(directory.path());
    let found = muted(&mut process.mutes().await, "room").await;
    acknowledged.sort_unstable();
    assert!(
        acknowledged.iter().all(|user| found.binary_search(user).is_ok())
            && acknowledged.len() > 50
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_end_is_cut_after_drain_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let mut process =
        Process::spawn(directory.path(), directory.path(), &["--drain-seconds", "2"]).ready();
    let mut stream =
        TcpStream::connect(process.rest().trim_start_matches("http://")).await.unwrap();
    let head = "POST /app-id/Open/chatrooms/room/mute HTTP/1.1\r\nhost: x\r\nauthorization: Bearer dev-service-token\r\n";
    let request = format!("{head}expect: 100-continue\r\ncontent-length: 1000\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // The server asks for the body: the call has begun.
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 100");
    let signalled = Instant::now();
    process.signal("-TERM");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
    let took = signalled.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

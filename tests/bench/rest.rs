//! The load over REST: HTTP/1.1 on plain sockets that stay open, the cheapest possible client.

use std::time::Instant;

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    CONNECTIONS, IN_FLIGHT,
    program::{APP, TOKEN},
};

pub async fn connections(addr: &str) -> Vec<TcpStream> {
    let connect = |_| async {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    join_all((0..CONNECTIONS * IN_FLIGHT).map(connect)).await
}

/// Mutes one user a call on every connection until the end.
pub async fn load(connections: &mut Vec<TcpStream>, end: Instant) -> u64 {
    let callers =
        std::mem::take(connections).into_iter().enumerate().map(|(caller, mut stream)| {
            tokio::spawn(async move {
                let mut calls = 0;
                while Instant::now() < end {
                    mute(&mut stream, caller, calls).await;
                    calls += 1;
                }
                (stream, calls as u64)
            })
        });
    let mut total = 0;
    for caller in callers.collect::<Vec<_>>() {
        let (stream, calls) = caller.await.unwrap();
        connections.push(stream);
        total += calls;
    }
    total
}

async fn mute(stream: &mut TcpStream, caller: usize, call: usize) {
    let user = super::grpc::user(caller * 1_000_000 + call);
    let body = format!("{{\"usernames\":[\"{user}\"],\"mute_duration\":86400000}}");
    let request = format!(
        "POST /app-id/{APP}/chatrooms/rest{caller:04}/mute HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = [0; 4_096];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(read > 0, "the service closed the connection");
        filled += read;
        if is_complete(&buffer[..filled]) {
            break;
        }
    }
    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..filled]));
}

fn is_complete(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head_text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = head_text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
        .unwrap();
    bytes.len() >= head + 4 + length
}

//! Redis, and the cheapest possible client: it writes commands and counts replies on plain sockets.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A Redis server. Dropping it kills the process.
pub struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// `None` where Redis is not installed.
    pub async fn start(directory: &Path, durable: bool) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            directory.to_str().unwrap(),
        ]);
        command.args([
            "--appendonly",
            if durable { "yes" } else { "no" },
            "--appendfsync",
            "always",
        ]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let redis = Self { child, port };
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(redis)
    }

    pub fn memory(&self) -> f64 {
        super::program::resident(self.child.id())
    }

    pub async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, buffer: vec![0; 64 << 10], filled: 0 }
    }

    pub async fn connections(&self, count: usize) -> Vec<Connection> {
        join_all((0..count).map(|_| self.connect())).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Sends commands in one write, and waits for as many replies.
    pub async fn call(&mut self, commands: &[u8], mut replies: usize) {
        self.stream.write_all(commands).await.unwrap();
        while replies > 0 {
            let read = self.stream.read(&mut self.buffer[self.filled..]).await.unwrap();
            assert!(read > 0, "Redis closed the connection");
            self.filled += read;
            let mut at = 0;
            while let Some(length) = reply_length(&self.buffer[at..self.filled]) {
                at += length;
                replies -= 1;
            }
            self.buffer.copy_within(at..self.filled, 0);
            self.filled -= at;
        }
    }
}

/// The length of the first reply, if it is complete.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let length = match bytes[0] {
        b'$' => match std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok()? {
            -1 => line,
            length => line + length as usize + 2,
        },
        b'-' => panic!("redis: {}", String::from_utf8_lossy(&bytes[..line])),
        _ => line,
    };
    (bytes.len() >= length).then_some(length)
}

pub fn command(into: &mut Vec<u8>, words: &[&str]) {
    into.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        into.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// Makes calls on every connection until the end. `commands` writes the commands of one call.
/// Returns the number of replies.
pub async fn load(
    connections: &mut Vec<Connection>,
    end: Instant,
    replies: usize,
    commands: impl Fn(&mut Vec<u8>, usize, usize) + Clone + Send + 'static,
) -> u64 {
    let callers =
        std::mem::take(connections).into_iter().enumerate().map(|(caller, mut connection)| {
            let commands = commands.clone();
            tokio::spawn(async move {
                let mut calls = 0;
                let mut bytes = Vec::new();
                while Instant::now() < end {
                    bytes.clear();
                    commands(&mut bytes, caller, calls);
                    connection.call(&bytes, replies).await;
                    calls += 1;
                }
                (connection, (calls * replies) as u64)
            })
        });
    let mut total = 0;
    for caller in callers.collect::<Vec<_>>() {
        let (connection, calls) = caller.await.unwrap();
        connections.push(connection);
        total += calls;
    }
    total
}

//! A thread that writes the log, so that a reader of standard error that stands still delays no
//! call. `tracing-appender` has one too; at its end it writes to standard output, which often has
//! the same reader, and would wait there.

use std::{
    io::{self, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

/// How many lines may wait to be written. More are lost, and counted.
const QUEUED_LINES: usize = 10_000;
/// How long the end of the process waits for the last lines.
const END_TIMEOUT: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

enum Entry {
    Line(Box<[u8]>),
    /// Everything before it has been written when its receiver hears of it.
    End(SyncSender<()>),
}

/// Queues lines for the thread. Each write is one whole line.
pub(super) struct QueuedLines(SyncSender<Entry>);

impl QueuedLines {
    /// Starts the thread. Errors: there is no thread to be had.
    pub(super) fn start(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = mpsc::sync_channel(QUEUED_LINES);
        thread::Builder::new().name("log".to_owned()).spawn(move || write(writer, &entries))?;
        // A second call, in tests, has no effect.
        let _ = QUEUE.set(queue.clone());
        Ok(Self(queue))
    }

    /// A writer for one line.
    pub(super) fn writer(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Write for QueuedLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Entry::Line(line.into())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line that cannot be written is lost: the service goes on without a log.
fn write(mut writer: impl Write, entries: &Receiver<Entry>) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                if writer.write_all(&line).is_err() {
                    LOST.fetch_add(1, Ordering::Relaxed);
                }
            }
            Entry::End(end) => {
                let _ = end.send(());
            }
        }
    }
}

/// Queues a line that is no part of the log. Whether there is a log, which would write it.
pub fn queue_line(line: &[u8]) -> bool {
    let queue = QUEUE.get().cloned();
    queue.is_some_and(|queue| QueuedLines(queue).write_all(line).is_ok())
}

/// Waits until what was logged is written, for a second at most.
pub fn finish_logs() {
    let Some(queue) = QUEUE.get() else { return };
    let (end, ended) = mpsc::sync_channel(1);
    // If the queue is full, its reader stands still.
    if queue.try_send(Entry::End(end)).is_ok() {
        let _ = ended.recv_timeout(END_TIMEOUT);
    }
}

/// How many lines were lost: the reader was gone or stood still, or the disk was full.
pub fn lost_log_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

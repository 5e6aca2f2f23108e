//! `watch`: prints each change once, reconnects after a broken connection, and reports where
//! changes are missing.

use std::time::Duration;

use tokio::time::sleep;
use tonic::{Code, Status};

use super::{
    connection::Mutes,
    failure::{Failure, reason},
    output::{Output, notice},
    records,
};
use crate::proto::v1::{WatchRequest, watch_response::Event};

/// The delay before a reconnection doubles up to its maximum.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15);
/// Of the table's columns, since rows are printed before later ones are known.
const COLUMN_WIDTHS: [(&str, usize); 7] = [
    ("revision", 8),
    ("change_time", 20),
    ("kind", 12),
    ("room", 14),
    ("users", 14),
    ("expire_time", 36),
    ("actor", 12),
];

/// One watch, over all its connections.
pub struct Follow {
    pub mutes: Mutes,
    pub app: String,
    pub room: String,
    /// All changes up to this revision are printed; none: start with the next change.
    pub after: Option<i64>,
}

/// Why a stream ended.
enum StreamEnd {
    /// It can be resumed where it ended.
    Broken(Status),
    /// The next changes are no longer kept, or were lost.
    Compacted(Status),
    /// A retry would be refused too.
    Refused(Status),
}

impl Follow {
    /// Returns on an error only: the service refuses the watch, or the output cannot be written. An
    /// unreachable service is an error before the first stream; later it is retried.
    pub async fn run(mut self, out: &mut Output) -> Result<(), Failure> {
        out.fix("room", !self.room.is_empty());
        out.reserve(&COLUMN_WIDTHS);
        let mut has_begun = false;
        let mut retry_delay = MIN_RETRY_DELAY;
        loop {
            let mut is_alive = false;
            let stream_end = match self.print_stream(out, &mut is_alive, has_begun).await? {
                Ok(()) => StreamEnd::Broken(Status::unavailable("the stream has ended")),
                Err(status) => classify(status),
            };
            has_begun |= is_alive;
            match stream_end {
                StreamEnd::Broken(status) if has_begun => {
                    if is_alive {
                        notice(&format!(
                            "Lost the connection ({}); reconnecting.",
                            status.message()
                        ));
                        retry_delay = MIN_RETRY_DELAY;
                    }
                    sleep(retry_delay).await;
                    retry_delay = (retry_delay * 2).min(MAX_RETRY_DELAY);
                }
                StreamEnd::Compacted(_) if self.after.is_some() => self.skip_to_now(out)?,
                StreamEnd::Compacted(status)
                | StreamEnd::Broken(status)
                | StreamEnd::Refused(status) => {
                    return Err(status.into());
                }
            }
        }
    }

    /// Prints changes until the stream ends. `is_alive` becomes true with the first message.
    async fn print_stream(
        &mut self,
        out: &mut Output,
        is_alive: &mut bool,
        has_begun: bool,
    ) -> Result<Result<(), Status>, Failure> {
        let request = WatchRequest {
            app: self.app.clone(),
            room: self.room.clone(),
            after_revision: self.after,
        };
        let mut stream = match self.mutes.watch(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let event = match stream.message().await {
                Ok(Some(message)) => message.event,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            let (revision, change) = match event {
                Some(Event::Change(change)) => (change.revision, Some(change)),
                Some(Event::Heartbeat(heartbeat)) => (heartbeat.revision, None),
                None => continue,
            };
            if !*is_alive {
                *is_alive = true;
                let verb = if has_begun { "Following again" } else { "Following" };
                notice(&format!(
                    "{verb} after revision {}; Ctrl-C ends it.",
                    self.after.unwrap_or(revision)
                ));
            }
            if let Some(change) = change {
                out.rows(&[records::change(change)])?;
            }
            self.after = Some(revision);
        }
    }

    /// Reports that changes are missing, and continues with the next change.
    fn skip_to_now(&mut self, out: &mut Output) -> Result<(), Failure> {
        if let Some(after) = self.after.take() {
            notice(&format!(
                "Changes after revision {after} are no longer available: list again what you need. Continuing from now."
            ));
            out.json_line(&records::gap(after))?;
        }
        Ok(())
    }
}

fn classify(status: Status) -> StreamEnd {
    match status.code() {
        Code::OutOfRange if reason(&status).as_deref() == Some("REVISION_COMPACTED") => {
            StreamEnd::Compacted(status)
        }
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::NotFound
        | Code::InvalidArgument
        | Code::Unimplemented => StreamEnd::Refused(status),
        _ => StreamEnd::Broken(status),
    }
}

//! Following the changes until the reader has enough: each once, over restarts of the service too,
//! and with a word wherever some are missing.

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

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// For the columns of a table that comes a line at a time.
const WIDTHS: [usize; 7] = [8, 20, 12, 14, 14, 36, 12];

/// One person's watch.
pub struct Follow {
    pub mutes: Mutes,
    pub app: String,
    pub room: String,
    /// All changes up to here have been shown; nothing: from now on.
    pub after: Option<i64>,
}

/// How the service ended a stream.
enum End {
    /// It may be taken up again where it was.
    Broken(Status),
    /// What comes next is no longer kept, or was lost.
    Compacted(Status),
    /// Asking again would be answered the same.
    Refused(Status),
}

impl Follow {
    /// Ends with a failure only: what the service refuses, or output that cannot be written. A
    /// service that is not there is a failure at the start, and is waited for afterwards.
    pub async fn run(mut self, out: &mut Output) -> Result<(), Failure> {
        out.reserve(&WIDTHS);
        let mut has_begun = false;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut is_alive = false;
            let end = match self.stream(out, &mut is_alive, has_begun).await? {
                Ok(()) => End::Broken(Status::unavailable("the stream has ended")),
                Err(status) => end(status),
            };
            has_begun |= is_alive;
            match end {
                End::Broken(status) if has_begun => {
                    if is_alive {
                        notice(&format!(
                            "The connection is lost ({}); trying again.",
                            status.message()
                        ));
                        pause = FIRST_PAUSE;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                End::Compacted(_) if self.after.is_some() => self.go_on_from_now(out)?,
                End::Compacted(status) | End::Broken(status) | End::Refused(status) => {
                    return Err(status.into());
                }
            }
        }
    }

    /// Shows what is told until the service ends it.
    async fn stream(
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
            let told = match stream.message().await {
                Ok(Some(message)) => message.event,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            let (revision, change) = match told {
                Some(Event::Change(change)) => (change.revision, Some(change)),
                Some(Event::Heartbeat(heartbeat)) => (heartbeat.revision, None),
                None => continue,
            };
            if !*is_alive {
                *is_alive = true;
                let how = if has_begun { "Following again" } else { "Following" };
                notice(&format!(
                    "{how} after revision {}; Ctrl-C ends it.",
                    self.after.unwrap_or(revision)
                ));
            }
            if let Some(change) = change {
                out.rows(&[records::change(change)])?;
            }
            self.after = Some(revision);
        }
    }

    /// Says that changes are missing, to people and to programs.
    fn go_on_from_now(&mut self, out: &mut Output) -> Result<(), Failure> {
        if let Some(after) = self.after.take() {
            notice(&format!(
                "What came after revision {after} is no longer kept: list again what you need; going on from now."
            ));
            out.json_line(&records::gap(after))?;
        }
        Ok(())
    }
}

fn end(status: Status) -> End {
    match status.code() {
        Code::OutOfRange if reason(&status).as_deref() == Some("REVISION_COMPACTED") => {
            End::Compacted(status)
        }
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::NotFound
        | Code::InvalidArgument
        | Code::Unimplemented => End::Refused(status),
        _ => End::Broken(status),
    }
}

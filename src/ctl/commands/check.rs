//! May a user speak in a room now?

use std::{io, process::ExitCode};

use crate::{
    ctl::{
        args::Member,
        failure::Failure,
        output::Output,
        records::{self, Tone},
        session::Session,
    },
    proto::v1 as pb,
    visible::shown,
};

/// The exit code where the user may not speak.
const MAY_NOT_SPEAK: u8 = 1;

impl Session {
    /// The exit code is the verdict, also for a caller who does not read the output.
    pub(super) async fn check(
        mut self,
        Member { room, user }: Member,
    ) -> Result<ExitCode, Failure> {
        let request = pb::CheckSendRequest {
            app: self.app,
            room: room.clone(),
            user: user.clone(),
            ..Default::default()
        };
        let answer = self.clients.mutes.check_send(request).await?.into_inner();
        let verdict = verdict(&self.out, &room, &user, &answer);
        let tone = if answer.allowed { Tone::Good } else { Tone::Bad };
        match self.out.sentence(&records::check(&room, &user, &answer), tone, &verdict) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            Ok(()) | Err(_) if answer.allowed => Ok(ExitCode::SUCCESS),
            Ok(()) | Err(_) => Ok(ExitCode::from(MAY_NOT_SPEAK)),
        }
    }
}

/// The answer in sentences: user, room, end and remaining time; then actor and reason. The end is
/// that of all that forbids the user to speak; actor and reason are those of the rule that decided,
/// which may end earlier.
fn verdict(out: &Output, room: &str, user: &str, answer: &pb::CheckSendResponse) -> String {
    let room = shown(room);
    let user = shown(user);
    let until = if answer.expire_time.is_some() { "until " } else { "" };
    let until = format!("{until}{}", out.end(answer.expire_time));
    let actor = shown(&answer.actor);
    let banned = format!("the room is banned by {actor} {until}");
    let why = quoted_reason(&answer.reason);
    let verdict = if answer.allowed { "may speak" } else { "may not speak" };
    let verdict = format!("{user} {verdict} in {room}");
    match answer.rule() {
        pb::Rule::MemberMute => {
            format!("{verdict} {until}. The user is now muted by {actor}, {why}.")
        }
        pb::Rule::UserMute => {
            format!("{verdict} {until}. The user is now muted in all rooms by {actor}, {why}.")
        }
        pb::Rule::RoomBan => {
            format!("{verdict} {until}. The room is now banned by {actor}, {why}.")
        }
        pb::Rule::RoomStaff => format!("{verdict}, as its owner or admin: {banned}, {why}."),
        pb::Rule::AllowList => format!("{verdict}, being on its allow list: {banned}, {why}."),
        pb::Rule::None => format!("{verdict}: nothing forbids it."),
        pb::Rule::NotRegistered => {
            format!("{verdict}: the room or the user is not registered in the app.")
        }
        pb::Rule::Unspecified => format!("{verdict}."),
    }
}

fn quoted_reason(reason: &str) -> String {
    if reason.is_empty() {
        "no reason given".to_owned()
    } else {
        format!("because of \"{}\"", shown(reason))
    }
}

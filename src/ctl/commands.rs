//! Runs a command: builds the request, calls the service, prints the answer. There is a file for
//! each thing that commands are about.

// `..Default::default()` is in each request, so that a field added to the API needs no change here.
#![allow(clippy::needless_update)]

use std::process::ExitCode;

use super::{args::Command, failure::Failure, session::Session};

mod check;
mod events;
mod members;
mod notifications;
mod pages;
mod rooms;
mod users;

impl Session {
    /// Returns the exit code of a command that did not fail.
    pub async fn run(self, command: Command) -> Result<ExitCode, Failure> {
        let done = match command {
            Command::Check(member) => return self.check(member).await,
            Command::Mute { members, length, reason } => self.mute(members, &length, reason).await,
            Command::Unmute { members, reason } => self.unmute(members, reason).await,
            Command::List { room, limit } => self.list(room, &limit).await,
            Command::Ban { room, length, reason } => self.ban(room, &length, reason).await,
            Command::Unban { room, reason } => self.unban(room, reason).await,
            Command::Allow { members, reason } => self.allow(members, reason).await,
            Command::Disallow { members, reason } => self.disallow(members, reason).await,
            Command::Allowed { room, limit } => self.allowed(room, &limit).await,
            Command::Room(command) => self.room(command).await,
            Command::User(command) => self.user(command).await,
            Command::Watch { room, after } => self.watch(room, after).await,
            Command::Events { filter, limit } => self.events(filter, &limit).await,
            Command::MuteUser { user, length, reason } => {
                self.mute_user(user, &length, reason).await
            }
            Command::UnmuteUser { user, reason } => self.unmute_user(user, reason).await,
            Command::MutedUsers(limit) => self.muted_users(&limit).await,
            Command::MuteNotifications { member, length } => {
                self.mute_notifications(member, &length).await
            }
            Command::UnmuteNotifications(member) => self.unmute_notifications(member).await,
            Command::MutedRooms { user, limit } => self.muted_rooms(user, &limit).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

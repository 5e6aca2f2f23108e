//! Runs a command: builds the request, calls the service, prints the answer. Lists are fetched and
//! printed page by page, so that a long one needs little memory.

// `..Default::default()` is in each request, so that a field added to the API needs no change here.
#![allow(clippy::needless_update)]

use tonic::Status;

use super::{
    args::{Command, Filter, Length, Limit, Member, Members, Reason, Room, User},
    connection::Mutes,
    failure::Failure,
    follow::Follow,
    output::{BAD, GOOD, Output},
    records::{self, Record, Value},
};
use crate::{proto::v1 as pb, visible::shown};

/// The maximum page size of the service.
const MAX_PAGE_SIZE: u64 = 1_000;

/// Runs one command, on one connection.
pub struct Commands {
    pub mutes: Mutes,
    pub app: String,
    pub out: Output,
}

type Outcome = Result<(), Failure>;

impl Commands {
    pub async fn run(self, command: Command) -> Outcome {
        match command {
            Command::Mute { members, length, reason } => self.mute(members, &length, reason).await,
            Command::Unmute { members, reason } => self.unmute(members, reason).await,
            Command::List { room, limit } => self.list(room, &limit).await,
            Command::Ban { room, length, reason } => self.ban(room, &length, reason).await,
            Command::Unban { room, reason } => self.unban(room, reason).await,
            Command::Allow { members, reason } => self.allow(members, reason).await,
            Command::Disallow { members, reason } => self.disallow(members, reason).await,
            Command::Allowed { room, limit } => self.allowed(room, &limit).await,
            Command::Room(room) => self.room(room).await,
            Command::Check(member) => self.check(member).await,
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
        }
    }

    async fn mute(
        mut self,
        Members { room, users }: Members,
        length: &Length,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request = pb::MuteMembersRequest {
            app: self.app,
            room,
            users,
            duration: length.duration(),
            reason,
            ..Default::default()
        };
        let answer = self.mutes.mute_members(request).await?.into_inner();
        let rows = answer
            .members
            .into_iter()
            .map(|member| records::muted_member(member).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn unmute(
        mut self,
        Members { room, users }: Members,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request =
            pb::UnmuteMembersRequest { app: self.app, room, users, reason, ..Default::default() };
        let answer = self.mutes.unmute_members(request).await?.into_inner();
        let rows = answer.members.into_iter();
        let rows = rows
            .map(|member| records::was_muted(member.user, member.was_muted).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn list(mut self, Room { room }: Room, limit: &Limit) -> Outcome {
        let mutes = self.mutes;
        let app = self.app;
        let fetch = async |page_size, page_token| {
            let request = pb::ListMutedMembersRequest {
                app: app.clone(),
                room: room.clone(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_muted_members(request).await?.into_inner();
            Ok(Page::of(page.members, records::muted_member, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }

    async fn ban(
        mut self,
        Room { room }: Room,
        length: &Length,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request = pb::BanRoomRequest {
            app: self.app,
            room,
            duration: length.duration(),
            reason,
            ..Default::default()
        };
        let answer = self.mutes.ban_room(request).await?.into_inner();
        Ok(self.out.one(&records::banned(answer))?)
    }

    async fn unban(mut self, Room { room }: Room, Reason { reason }: Reason) -> Outcome {
        let request = pb::UnbanRoomRequest { app: self.app, room, reason, ..Default::default() };
        let answer = self.mutes.unban_room(request).await?.into_inner();
        Ok(self.out.one(&records::unbanned(answer))?)
    }

    async fn allow(
        mut self,
        Members { room, users }: Members,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request = pb::AllowMembersRequest {
            app: self.app,
            room,
            users: users.clone(),
            reason,
            ..Default::default()
        };
        let revision = self.mutes.allow_members(request).await?.into_inner().revision;
        let rows = users.into_iter().map(|user| records::allowed(user).at(revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn disallow(
        mut self,
        Members { room, users }: Members,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request = pb::DisallowMembersRequest {
            app: self.app,
            room,
            users: users.clone(),
            reason,
            ..Default::default()
        };
        let answer = self.mutes.disallow_members(request).await?.into_inner();
        let rows = users.into_iter().zip(answer.was_allowed);
        let rows = rows
            .map(|(user, was_allowed)| records::was_allowed(user, was_allowed).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn allowed(mut self, Room { room }: Room, limit: &Limit) -> Outcome {
        let mutes = self.mutes;
        let app = self.app;
        let fetch = async |page_size, page_token| {
            let request = pb::ListAllowedMembersRequest {
                app: app.clone(),
                room: room.clone(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_allowed_members(request).await?.into_inner();
            Ok(Page::of(page.members, records::allowed_member, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }

    async fn room(mut self, Room { room }: Room) -> Outcome {
        let request = pb::GetRoomRequest { app: self.app, room, ..Default::default() };
        let answer = self.mutes.get_room(request).await?.into_inner();
        Ok(self.out.one(&records::room(answer))?)
    }

    async fn check(mut self, Member { room, user }: Member) -> Outcome {
        let request = pb::CheckSendRequest {
            app: self.app,
            room: room.clone(),
            user: user.clone(),
            ..Default::default()
        };
        let answer = self.mutes.check_send(request).await?.into_inner();
        let verdict = verdict(&self.out, &room, &user, &answer);
        let style = if answer.allowed { GOOD } else { BAD };
        Ok(self.out.sentence(&records::check(&room, &user, &answer), style, &verdict)?)
    }

    async fn watch(mut self, room: Option<String>, after: Option<i64>) -> Outcome {
        let follow =
            Follow { mutes: self.mutes, app: self.app, room: room.unwrap_or_default(), after };
        follow.run(&mut self.out).await
    }

    async fn events(
        mut self,
        Filter { room, user, actor, kinds, since, until }: Filter,
        limit: &Limit,
    ) -> Outcome {
        let kinds = kinds.into_iter().map(i32::from).collect();
        let first = pb::ListEventsRequest {
            app: self.app,
            room,
            user,
            actor,
            kinds,
            start_time: since,
            end_time: until,
            ..Default::default()
        };
        let mutes = self.mutes;
        let fetch = async |page_size, page_token| {
            let request = pb::ListEventsRequest { page_size, page_token, ..first.clone() };
            let page = mutes.clone().list_events(request).await?.into_inner();
            Ok(Page::of(page.events, records::change, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }

    async fn mute_user(
        mut self,
        User { user }: User,
        length: &Length,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request = pb::MuteUserRequest {
            app: self.app,
            user,
            duration: length.duration(),
            reason,
            ..Default::default()
        };
        let answer = self.mutes.mute_user(request).await?.into_inner();
        let rows =
            answer.user.into_iter().map(|user| records::muted_user(user).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn unmute_user(mut self, User { user }: User, Reason { reason }: Reason) -> Outcome {
        let request = pb::UnmuteUserRequest {
            app: self.app,
            user: user.clone(),
            reason,
            ..Default::default()
        };
        let answer = self.mutes.unmute_user(request).await?.into_inner();
        Ok(self.out.rows(&[records::was_muted(user, answer.was_muted).at(answer.revision)])?)
    }

    async fn muted_users(mut self, limit: &Limit) -> Outcome {
        let mutes = self.mutes;
        let app = self.app;
        let fetch = async |page_size, page_token| {
            let request = pb::ListMutedUsersRequest {
                app: app.clone(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_muted_users(request).await?.into_inner();
            Ok(Page::of(page.users, records::muted_user, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }

    async fn mute_notifications(
        mut self,
        Member { room, user }: Member,
        length: &Length,
    ) -> Outcome {
        let request = pb::MuteRoomNotificationsRequest {
            app: self.app,
            user,
            room,
            duration: length.duration(),
            ..Default::default()
        };
        let answer = self.mutes.mute_room_notifications(request).await?.into_inner();
        Ok(self.out.one(&records::client(answer.client).at(answer.revision))?)
    }

    async fn unmute_notifications(mut self, Member { room, user }: Member) -> Outcome {
        let request =
            pb::UnmuteRoomNotificationsRequest { app: self.app, user, room, ..Default::default() };
        let answer = self.mutes.unmute_room_notifications(request).await?.into_inner();
        let record = records::client(answer.client).with(
            "was_muted",
            "WAS MUTED",
            Value::Flag(answer.was_muted),
        );
        Ok(self.out.one(&record.at(answer.revision))?)
    }

    async fn muted_rooms(mut self, User { user }: User, limit: &Limit) -> Outcome {
        let mutes = self.mutes;
        let app = self.app;
        let fetch = async |page_size, page_token| {
            let request = pb::ListMutedRoomsRequest {
                app: app.clone(),
                user: user.clone(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_muted_rooms(request).await?.into_inner();
            Ok(Page::of(page.rooms, records::muted_room, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }
}

/// A page of a list. A page without records need not be the last.
struct Page {
    records: Vec<Record>,
    next_page_token: String,
}

impl Page {
    fn of<T>(messages: Vec<T>, record: impl Fn(T) -> Record, next_page_token: String) -> Self {
        Self { records: messages.into_iter().map(record).collect(), next_page_token }
    }
}

/// Prints each page when it arrives, until the limit or the end of the list.
async fn print_pages(
    out: &mut Output,
    limit: &Limit,
    fetch: impl AsyncFn(i32, String) -> Result<Page, Status>,
) -> Outcome {
    let mut remaining = limit.limit.unwrap_or(u64::MAX);
    let mut page_token = String::new();
    let mut is_empty = true;
    loop {
        let size = i32::try_from(remaining.min(MAX_PAGE_SIZE)).unwrap_or_default();
        let page = fetch(size, page_token).await?;
        out.rows(&page.records)?;
        is_empty &= page.records.is_empty();
        remaining = remaining.saturating_sub(u64::try_from(page.records.len()).unwrap_or(u64::MAX));
        page_token = page.next_page_token;
        if remaining == 0 || page_token.is_empty() {
            break;
        }
    }
    if is_empty {
        out.nothing();
    }
    Ok(())
}

/// The answer as a sentence: user, room, end, remaining time, actor and reason. The end is that of
/// all that forbids the user to speak; actor and reason are those of the rule that decided.
fn verdict(out: &Output, room: &str, user: &str, answer: &pb::CheckSendResponse) -> String {
    let room = shown(room);
    let user = shown(user);
    let until = if answer.expire_time.is_some() { "until " } else { "" };
    let until = format!("{until}{}", out.end(answer.expire_time));
    let actor = shown(&answer.actor);
    let banned = format!("the room is banned by {actor}");
    let why = quoted_reason(&answer.reason);
    let verdict = if answer.allowed { "may speak" } else { "may not speak" };
    match answer.rule() {
        pb::Rule::MemberMute => {
            format!("{user} {verdict} in {room} {until}: muted by {actor}, {why}.")
        }
        pb::Rule::UserMute => {
            format!("{user} {verdict} in {room} {until}: muted in all rooms by {actor}, {why}.")
        }
        pb::Rule::RoomBan => {
            format!("{user} {verdict} in {room} {until}: {banned}, {why}.")
        }
        pb::Rule::RoomStaff => {
            format!("{user} {verdict} in {room}, as its owner or admin: {banned} {until}, {why}.")
        }
        pb::Rule::AllowList => {
            format!("{user} {verdict} in {room}, being on its allow list: {banned} {until}, {why}.")
        }
        pb::Rule::None => format!("{user} {verdict} in {room}: nothing forbids it."),
        pb::Rule::NotRegistered => {
            format!(
                "{user} {verdict} in {room}: the room or the user is not registered in the app."
            )
        }
        pb::Rule::Unspecified => format!("{user} {verdict} in {room}."),
    }
}

fn quoted_reason(reason: &str) -> String {
    if reason.is_empty() {
        "no reason given".to_owned()
    } else {
        format!("because of \"{}\"", shown(reason))
    }
}

//! What each command does: one message, one call, its answer shown. Lists are asked for and shown
//! page by page, however long they are.

// What a command does not say is left to the service, fields that messages get later included.
#![allow(clippy::needless_update)]

use tonic::Status;

use super::{
    args::{Command, Filter, Length, Limit, Member, Members, Room, User, Why},
    connection::Mutes,
    failure::Failure,
    follow::Follow,
    output::{BAD, GOOD, Output},
    records::{self, Record, Value},
};
use crate::{proto::v1 as pb, visible::shown};

/// The most that the service answers at once.
const PAGE: u64 = 1_000;

/// What works for one person.
pub struct Commands {
    pub mutes: Mutes,
    pub app: String,
    pub out: Output,
}

type Done = Result<(), Failure>;

impl Commands {
    pub async fn run(self, command: Command) -> Done {
        match command {
            Command::Mute { members, length, why } => self.mute(members, &length, why).await,
            Command::Unmute { members, why } => self.unmute(members, why).await,
            Command::List { room, limit } => self.list(room, &limit).await,
            Command::Ban { room, length, why } => self.ban(room, &length, why).await,
            Command::Unban { room, why } => self.unban(room, why).await,
            Command::Allow { members, why } => self.allow(members, why).await,
            Command::Disallow { members, why } => self.disallow(members, why).await,
            Command::Allowed { room, limit } => self.allowed(room, &limit).await,
            Command::Room(room) => self.room(room).await,
            Command::Check(member) => self.check(member).await,
            Command::Watch { room, after } => self.watch(room, after).await,
            Command::Events { filter, limit } => self.events(filter, &limit).await,
            Command::MuteUser { user, length, why } => self.mute_user(user, &length, why).await,
            Command::UnmuteUser { user, why } => self.unmute_user(user, why).await,
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
        Why { reason }: Why,
    ) -> Done {
        let app = self.app;
        let duration = length.duration();
        let request =
            pb::MuteMembersRequest { app, room, users, duration, reason, ..Default::default() };
        let answer = self.mutes.mute_members(request).await?.into_inner();
        let rows = answer
            .members
            .into_iter()
            .map(|member| records::muted_member(member).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn unmute(mut self, Members { room, users }: Members, Why { reason }: Why) -> Done {
        let request =
            pb::UnmuteMembersRequest { app: self.app, room, users, reason, ..Default::default() };
        let answer = self.mutes.unmute_members(request).await?.into_inner();
        let rows = answer.members.into_iter();
        let rows = rows
            .map(|member| records::was_muted(member.user, member.was_muted).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn list(mut self, Room { room }: Room, limit: &Limit) -> Done {
        let mutes = self.mutes;
        let app = self.app;
        let ask = async |page_size, page_token| {
            let app = app.clone();
            let room = room.clone();
            let request = pb::ListMutedMembersRequest {
                app,
                room,
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_muted_members(request).await?.into_inner();
            Ok(Page::of(page.members, records::muted_member, page.next_page_token))
        };
        pages(&mut self.out, limit, ask).await
    }

    async fn ban(mut self, Room { room }: Room, length: &Length, Why { reason }: Why) -> Done {
        let app = self.app;
        let duration = length.duration();
        let request = pb::BanRoomRequest { app, room, duration, reason, ..Default::default() };
        let answer = self.mutes.ban_room(request).await?.into_inner();
        Ok(self.out.one(&records::banned(answer))?)
    }

    async fn unban(mut self, Room { room }: Room, Why { reason }: Why) -> Done {
        let request = pb::UnbanRoomRequest { app: self.app, room, reason, ..Default::default() };
        let answer = self.mutes.unban_room(request).await?.into_inner();
        Ok(self.out.one(&records::unbanned(answer))?)
    }

    async fn allow(mut self, Members { room, users }: Members, Why { reason }: Why) -> Done {
        let app = self.app;
        let named = users.clone();
        let request = pb::AllowMembersRequest { app, room, users, reason, ..Default::default() };
        let revision = self.mutes.allow_members(request).await?.into_inner().revision;
        let rows = named.into_iter().map(|user| records::allowed(user).at(revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn disallow(mut self, Members { room, users }: Members, Why { reason }: Why) -> Done {
        let app = self.app;
        let named = users.clone();
        let request = pb::DisallowMembersRequest { app, room, users, reason, ..Default::default() };
        let answer = self.mutes.disallow_members(request).await?.into_inner();
        let rows = named.into_iter().zip(answer.was_allowed);
        let rows = rows
            .map(|(user, was_allowed)| records::was_allowed(user, was_allowed).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn allowed(mut self, Room { room }: Room, limit: &Limit) -> Done {
        let mutes = self.mutes;
        let app = self.app;
        let ask = async |page_size, page_token| {
            let app = app.clone();
            let room = room.clone();
            let request = pb::ListAllowedMembersRequest {
                app,
                room,
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_allowed_members(request).await?.into_inner();
            Ok(Page::of(page.members, records::allowed_member, page.next_page_token))
        };
        pages(&mut self.out, limit, ask).await
    }

    async fn room(mut self, Room { room }: Room) -> Done {
        let request = pb::GetRoomRequest { app: self.app, room, ..Default::default() };
        let answer = self.mutes.get_room(request).await?.into_inner();
        Ok(self.out.one(&records::room(answer))?)
    }

    async fn check(mut self, Member { room, user }: Member) -> Done {
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

    async fn watch(mut self, room: Option<String>, after: Option<i64>) -> Done {
        let follow =
            Follow { mutes: self.mutes, app: self.app, room: room.unwrap_or_default(), after };
        follow.run(&mut self.out).await
    }

    async fn events(
        mut self,
        Filter { room, user, actor, kinds, since, until }: Filter,
        limit: &Limit,
    ) -> Done {
        let kinds = kinds.into_iter().map(i32::from).collect();
        let app = self.app;
        let start_time = since;
        let end_time = until;
        let wanted = pb::ListEventsRequest {
            app,
            room,
            user,
            actor,
            kinds,
            start_time,
            end_time,
            ..Default::default()
        };
        let mutes = self.mutes;
        let ask = async |page_size, page_token| {
            let request = pb::ListEventsRequest { page_size, page_token, ..wanted.clone() };
            let page = mutes.clone().list_events(request).await?.into_inner();
            Ok(Page::of(page.events, records::change, page.next_page_token))
        };
        pages(&mut self.out, limit, ask).await
    }

    async fn mute_user(
        mut self,
        User { user }: User,
        length: &Length,
        Why { reason }: Why,
    ) -> Done {
        let app = self.app;
        let duration = length.duration();
        let request = pb::MuteUserRequest { app, user, duration, reason, ..Default::default() };
        let answer = self.mutes.mute_user(request).await?.into_inner();
        let rows =
            answer.user.into_iter().map(|user| records::muted_user(user).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    async fn unmute_user(mut self, User { user }: User, Why { reason }: Why) -> Done {
        let request = pb::UnmuteUserRequest {
            app: self.app,
            user: user.clone(),
            reason,
            ..Default::default()
        };
        let answer = self.mutes.unmute_user(request).await?.into_inner();
        Ok(self.out.rows(&[records::was_muted(user, answer.was_muted).at(answer.revision)])?)
    }

    async fn muted_users(mut self, limit: &Limit) -> Done {
        let mutes = self.mutes;
        let app = self.app;
        let ask = async |page_size, page_token| {
            let request = pb::ListMutedUsersRequest {
                app: app.clone(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_muted_users(request).await?.into_inner();
            Ok(Page::of(page.users, records::muted_user, page.next_page_token))
        };
        pages(&mut self.out, limit, ask).await
    }

    async fn mute_notifications(mut self, Member { room, user }: Member, length: &Length) -> Done {
        let app = self.app;
        let duration = length.duration();
        let request =
            pb::MuteRoomNotificationsRequest { app, user, room, duration, ..Default::default() };
        let answer = self.mutes.mute_room_notifications(request).await?.into_inner();
        Ok(self.out.one(&records::client(answer.client).at(answer.revision))?)
    }

    async fn unmute_notifications(mut self, Member { room, user }: Member) -> Done {
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

    async fn muted_rooms(mut self, User { user }: User, limit: &Limit) -> Done {
        let mutes = self.mutes;
        let app = self.app;
        let ask = async |page_size, page_token| {
            let app = app.clone();
            let user = user.clone();
            let request = pb::ListMutedRoomsRequest {
                app,
                user,
                page_size,
                page_token,
                ..Default::default()
            };
            let page = mutes.clone().list_muted_rooms(request).await?.into_inner();
            Ok(Page::of(page.rooms, records::muted_room, page.next_page_token))
        };
        pages(&mut self.out, limit, ask).await
    }
}

/// A page of a list. One without records need not be the last.
struct Page {
    records: Vec<Record>,
    next_page_token: String,
}

impl Page {
    fn of<T>(messages: Vec<T>, record: impl Fn(T) -> Record, next_page_token: String) -> Self {
        Self { records: messages.into_iter().map(record).collect(), next_page_token }
    }
}

/// Shows each page as it comes, until the limit or the end.
async fn pages(
    out: &mut Output,
    limit: &Limit,
    ask: impl AsyncFn(i32, String) -> Result<Page, Status>,
) -> Done {
    let mut left = limit.limit.unwrap_or(u64::MAX);
    let mut page_token = String::new();
    let mut is_empty = true;
    loop {
        let size = i32::try_from(left.min(PAGE)).unwrap_or_default();
        let page = ask(size, page_token).await?;
        out.rows(&page.records)?;
        is_empty &= page.records.is_empty();
        left = left.saturating_sub(u64::try_from(page.records.len()).unwrap_or(u64::MAX));
        page_token = page.next_page_token;
        if left == 0 || page_token.is_empty() {
            break;
        }
    }
    if is_empty {
        out.nothing();
    }
    Ok(())
}

/// The answer as a sentence: who, where, by whom, until when, how long still, and why.
fn verdict(out: &Output, room: &str, user: &str, answer: &pb::CheckSendResponse) -> String {
    let room = shown(room);
    let user = shown(user);
    let until = if answer.expire_time.is_some() { "until " } else { "" };
    let set = format!(
        "by {} {until}{}, {}",
        shown(&answer.actor),
        out.end(answer.expire_time),
        why(&answer.reason)
    );
    let says = if answer.allowed { "may speak" } else { "may not speak" };
    match answer.rule() {
        pb::Rule::MemberMute => format!("{user} {says} in {room}: muted {set}."),
        pb::Rule::UserMute => {
            format!("{user} {says} in {room}, nor in any other room of the app: muted {set}.")
        }
        pb::Rule::RoomBan => format!("{user} {says} in {room}: the room is banned {set}."),
        pb::Rule::RoomStaff => {
            format!("{user} {says} in {room}, as its owner or admin: the room is banned {set}.")
        }
        pb::Rule::AllowList => {
            format!("{user} {says} in {room}, being on its allow list: the room is banned {set}.")
        }
        pb::Rule::None => format!("{user} {says} in {room}: nothing forbids it."),
        pb::Rule::NotRegistered => {
            format!("{user} {says} in {room}: the app does not know the one or the other.")
        }
        pb::Rule::Unspecified => format!("{user} {says} in {room}."),
    }
}

fn why(reason: &str) -> String {
    if reason.is_empty() {
        "without a reason given".to_owned()
    } else {
        format!("because of \"{}\"", shown(reason))
    }
}

//! The service under test and its clients.

use mute_service::{clock::Clock, sweep::Sweeper};
use tempfile::TempDir;
use tonic::{Request, Status, transport::Channel};

use super::{Expiries, Facts, MODERATOR, ROOMS, RoomFacts, Step, USERS, pb};
use crate::harness::*;

pub struct Subject {
    pub server: Server,
    app: &'static str,
    mutes: pb::mute_service_client::MuteServiceClient<Channel>,
    directory: pb::directory_service_client::DirectoryServiceClient<Channel>,
}

impl Subject {
    pub async fn start(app: &'static str, data: &TempDir, now_ms: u64) -> Self {
        let server = Server::on(data.path(), Clock::manual(now_ms), unlimited()).await;
        let mutes = server.mutes().await;
        let directory = server.directory().await;
        Self { server, app, mutes, directory }
    }

    /// Registers all rooms and users, and the moderator.
    pub async fn register_all(&mut self) {
        for user in USERS.iter().chain([&MODERATOR]) {
            self.create_client(user).await.unwrap();
        }
        for room in 0..ROOMS.len() {
            self.create_room(room, None).await.unwrap();
        }
    }

    /// Errors: the reason of the refusal.
    pub async fn apply(&mut self, step: &Step) -> Result<(), String> {
        let done = match step {
            Step::Mute { by_user, .. }
            | Step::Unmute { by_user, .. }
            | Step::Ban { by_user, .. }
            | Step::Unban { by_user, .. }
            | Step::Allow { by_user, .. }
            | Step::Disallow { by_user, .. } => self.moderate(step, *by_user).await,
            Step::CreateRoom { .. }
            | Step::DeleteRoom { .. }
            | Step::SetStaff { .. }
            | Step::CreateClient { .. }
            | Step::DeleteClient { .. } => self.change_directory(step).await,
            Step::Advance { .. } | Step::Jump { .. } | Step::Sweep | Step::SweepDeleted => {
                self.apply_time(step).await;
                Ok(())
            }
            Step::Restart => unreachable!("the driver restarts the service"),
            step => self.apply_user_mute(step).await,
        };
        done.map_err(|status| reason(&status))
    }

    /// A request of the internal service, or of the moderator.
    fn request<T>(&self, message: T, by_user: bool) -> Request<T> {
        if by_user {
            with(
                message,
                &[(
                    "authorization",
                    &format!("Bearer {}", self.server.user_token(self.app, MODERATOR)),
                )],
            )
        } else {
            with(message, &[SERVICE])
        }
    }

    async fn moderate(&mut self, step: &Step, by_user: bool) -> Result<(), Status> {
        let app = self.app.to_owned();
        let room = |room: &usize| ROOMS[*room].to_owned();
        let names = |users: &[usize]| users.iter().map(|user| USERS[*user].to_owned()).collect();
        match step {
            Step::Mute { room: id, users, duration_ms, .. } => {
                let duration = duration_ms.map(duration);
                let message = pb::MuteMembersRequest {
                    app,
                    room: room(id),
                    users: names(users),
                    duration,
                    ..Default::default()
                };
                self.mutes.mute_members(self.request(message, by_user)).await.map(drop)
            }
            Step::Unmute { room: id, users, .. } => {
                let message = pb::UnmuteMembersRequest {
                    app,
                    room: room(id),
                    users: names(users),
                    ..Default::default()
                };
                self.mutes.unmute_members(self.request(message, by_user)).await.map(drop)
            }
            Step::Ban { room: id, duration_ms, .. } => {
                let duration = duration_ms.map(duration);
                let message =
                    pb::BanRoomRequest { app, room: room(id), duration, ..Default::default() };
                self.mutes.ban_room(self.request(message, by_user)).await.map(drop)
            }
            Step::Unban { room: id, .. } => {
                let message = pb::UnbanRoomRequest { app, room: room(id), ..Default::default() };
                self.mutes.unban_room(self.request(message, by_user)).await.map(drop)
            }
            Step::Allow { room: id, user, .. } => {
                let message = pb::AllowMembersRequest {
                    app,
                    room: room(id),
                    users: names(&[*user]),
                    ..Default::default()
                };
                self.mutes.allow_members(self.request(message, by_user)).await.map(drop)
            }
            Step::Disallow { room: id, user, .. } => {
                let message = pb::DisallowMembersRequest {
                    app,
                    room: room(id),
                    users: names(&[*user]),
                    ..Default::default()
                };
                self.mutes.disallow_members(self.request(message, by_user)).await.map(drop)
            }
            other => unreachable!("{other:?} is no step of a moderator"),
        }
    }

    async fn apply_user_mute(&mut self, step: &Step) -> Result<(), Status> {
        let app = self.app.to_owned();
        let name = |user: &usize| USERS[*user].to_owned();
        match step {
            Step::MuteNotifications { room, user, duration_ms } => {
                let room = ROOMS[*room].to_owned();
                let duration = duration_ms.map(duration);
                let message = pb::MuteRoomNotificationsRequest {
                    app,
                    user: name(user),
                    room,
                    duration,
                    ..Default::default()
                };
                self.mutes.mute_room_notifications(with(message, &[SERVICE])).await.map(drop)
            }
            Step::UnmuteNotifications { room, user } => {
                let room = ROOMS[*room].to_owned();
                let message = pb::UnmuteRoomNotificationsRequest {
                    app,
                    user: name(user),
                    room,
                    ..Default::default()
                };
                self.mutes.unmute_room_notifications(with(message, &[SERVICE])).await.map(drop)
            }
            Step::MuteUser { user, duration_ms } => {
                let duration = duration_ms.map(duration);
                let message =
                    pb::MuteUserRequest { app, user: name(user), duration, ..Default::default() };
                self.mutes.mute_user(with(message, &[SERVICE])).await.map(drop)
            }
            Step::UnmuteUser { user } => {
                let message = pb::UnmuteUserRequest { app, user: name(user), ..Default::default() };
                self.mutes.unmute_user(with(message, &[SERVICE])).await.map(drop)
            }
            other => unreachable!("{other:?} is no mute of a user"),
        }
    }

    async fn change_directory(&mut self, step: &Step) -> Result<(), Status> {
        let app = self.app.to_owned();
        match step {
            Step::CreateRoom { room } => self.create_room(*room, None).await,
            Step::SetStaff { room, is_staff } => {
                let users = if *is_staff { strings(&[MODERATOR]) } else { Vec::new() };
                self.create_room(*room, Some(pb::RoomAdmins { users })).await
            }
            Step::DeleteRoom { room } => {
                let message = pb::DeleteRoomRequest {
                    app,
                    room: ROOMS[*room].to_owned(),
                    ..Default::default()
                };
                self.directory.delete_room(with(message, &[SERVICE])).await.map(drop)
            }
            Step::CreateClient { user } => self.create_client(USERS[*user]).await,
            Step::DeleteClient { user } => {
                let message = pb::DeleteClientRequest {
                    app,
                    user: USERS[*user].to_owned(),
                    ..Default::default()
                };
                match self.directory.delete_client(with(message, &[SERVICE])).await {
                    // A client that does not exist counts as deleted.
                    Err(status) if reason(&status) != "CLIENT_NOT_FOUND" => Err(status),
                    _ => Ok(()),
                }
            }
            other => unreachable!("{other:?} does not change the directory"),
        }
    }

    async fn create_room(
        &mut self,
        room: usize,
        admins: Option<pb::RoomAdmins>,
    ) -> Result<(), Status> {
        let message = pb::UpsertRoomRequest {
            app: self.app.to_owned(),
            room: ROOMS[room].to_owned(),
            admins,
            ..Default::default()
        };
        self.directory.upsert_room(with(message, &[SERVICE])).await.map(drop)
    }

    async fn create_client(&mut self, user: &str) -> Result<(), Status> {
        let client = Some(pb::Client { user: user.to_owned(), ..Default::default() });
        let message =
            pb::UpsertClientRequest { app: self.app.to_owned(), client, ..Default::default() };
        self.directory.upsert_client(with(message, &[SERVICE])).await.map(drop)
    }

    async fn apply_time(&self, step: &Step) {
        match step {
            Step::Advance { ms } => self.server.advance(*ms),
            Step::Jump { by_ms } => {
                let now_ms = self.server.clock.now_ms();
                self.server.clock.set(now_ms.saturating_add_signed(*by_ms));
                self.sweeper().sweep().await.unwrap();
                self.server.clock.set(now_ms);
            }
            Step::Sweep => drop(self.sweeper().sweep().await.unwrap()),
            _ => drop(self.sweeper().sweep_deleted().await.unwrap()),
        }
    }

    fn sweeper(&self) -> Sweeper {
        let mute_service::service::Service { store, view, clock, .. } = &*self.server.service;
        Sweeper { store: store.clone(), view: view.clone(), clock: clock.clone() }
    }

    /// The expiries that history has.
    pub async fn expiries(&mut self) -> Expiries {
        use pb::ChangeKind::{BanExpired, Expired, NotificationsExpired, UserMuteExpired};
        let kinds =
            [Expired, BanExpired, NotificationsExpired, UserMuteExpired].map(i32::from).to_vec();
        let message = pb::ListEventsRequest {
            app: self.app.to_owned(),
            kinds,
            page_size: 1_000,
            ..Default::default()
        };
        let mut expiries = Expiries::new();
        for event in
            self.mutes.list_events(with(message, &[SERVICE])).await.unwrap().into_inner().events
        {
            let users =
                if event.users.is_empty() { vec![String::new()] } else { event.users.clone() };
            for user in users {
                *expiries.entry((event.kind(), event.room.clone(), user)).or_default() += 1;
            }
        }
        expiries
    }

    pub async fn facts(&mut self) -> Facts {
        let rooms = [self.room_facts(ROOMS[0]).await, self.room_facts(ROOMS[1]).await];
        let mut push_muted = Vec::new();
        for user in USERS {
            let message = pb::ListMutedRoomsRequest {
                app: self.app.to_owned(),
                user: user.to_owned(),
                ..Default::default()
            };
            let list = found(self.mutes.list_muted_rooms(with(message, &[SERVICE])).await);
            let end = |muted: pb::MutedRoom| (muted.room, muted.expire_time.as_ref().map(ms));
            push_muted.push(list.map(|list| list.rooms.into_iter().map(end).collect()));
        }
        let message = pb::ListMutedUsersRequest { app: self.app.to_owned(), ..Default::default() };
        let muted_users = self
            .mutes
            .list_muted_users(with(message, &[SERVICE]))
            .await
            .unwrap()
            .into_inner()
            .users;
        let muted_users = muted_users
            .into_iter()
            .map(|mute| (mute.user, mute.expire_time.as_ref().map(ms)))
            .collect();
        Facts { rooms, push_muted, muted_users }
    }

    async fn room_facts(&mut self, room: &str) -> Option<RoomFacts> {
        let app = self.app.to_owned();
        let room = room.to_owned();
        let message = pb::GetRoomRequest { app: app.clone(), room: room.clone(), min_revision: 0 };
        let info = found(self.mutes.get_room(with(message, &[SERVICE])).await);
        let message = pb::ListMutedMembersRequest {
            app: app.clone(),
            room: room.clone(),
            ..Default::default()
        };
        let muted = found(self.mutes.list_muted_members(with(message, &[SERVICE])).await);
        let message = pb::ListAllowedMembersRequest {
            app: app.clone(),
            room: room.clone(),
            ..Default::default()
        };
        let allowed = found(self.mutes.list_allowed_members(with(message, &[SERVICE])).await);
        let users = strings(&USERS);
        let message = pb::FilterRecipientsRequest {
            app: app.clone(),
            room: room.clone(),
            users,
            min_revision: 0,
        };
        let recipients = found(self.mutes.filter_recipients(with(message, &[SERVICE])).await);
        let mut checks = Vec::new();
        for user in strings(&USERS) {
            let message = pb::CheckSendRequest {
                app: app.clone(),
                room: room.clone(),
                user,
                ..Default::default()
            };
            let answer = found(self.mutes.check_send(with(message, &[SERVICE])).await);
            checks.push(answer.map(|answer| (answer.rule(), answer.expire_time.as_ref().map(ms))));
        }
        // Either all reads find the room or none does.
        let Some(info) = info else {
            assert!(
                muted.is_none()
                    && allowed.is_none()
                    && recipients.is_none()
                    && checks.iter().all(Option::is_none)
            );
            return None;
        };
        Some(RoomFacts {
            checks,
            muted: muted?
                .members
                .into_iter()
                .map(|member| (member.user, member.expire_time.as_ref().map(ms)))
                .collect(),
            banned: info.ban.map(|ban| ban.expire_time.as_ref().map(ms)),
            allowed: allowed?.members.into_iter().map(|member| member.user).collect(),
            recipients: recipients?.users,
        })
    }
}

/// `None` where the room or client is not registered but has to be.
fn found<T>(answer: Result<tonic::Response<T>, Status>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) => {
            assert!(
                ["ROOM_NOT_FOUND", "CLIENT_NOT_FOUND"].contains(&&*reason(&status)),
                "{status:?}"
            );
            None
        }
    }
}

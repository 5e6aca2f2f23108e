//! Rooms: their bans, their registration, and who moderates them.

use super::pages::{Page, print_pages};
use crate::{
    ctl::{
        args::{AdminChange, Length, Limit, Reason, Room, RoomCommand, RoomProfile},
        connection::Clients,
        failure::Failure,
        records,
        session::{Outcome, Session},
    },
    proto::v1 as pb,
};

impl Session {
    pub(super) async fn ban(
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
        let answer = self.clients.mutes.ban_room(request).await?.into_inner();
        Ok(self.out.one(&records::banned(answer))?)
    }

    pub(super) async fn unban(mut self, Room { room }: Room, Reason { reason }: Reason) -> Outcome {
        let request = pb::UnbanRoomRequest { app: self.app, room, reason, ..Default::default() };
        let answer = self.clients.mutes.unban_room(request).await?.into_inner();
        Ok(self.out.one(&records::unbanned(answer))?)
    }

    pub(super) async fn room(self, command: RoomCommand) -> Outcome {
        match command {
            RoomCommand::Create(profile) => self.create_room(profile).await,
            RoomCommand::Show(room) => self.show_room(room).await,
            RoomCommand::List(limit) => self.list_rooms(&limit).await,
            RoomCommand::Delete(room) => self.delete_room(room).await,
            RoomCommand::Admins { room, change } => self.room_admins(room, &change).await,
        }
    }

    async fn create_room(
        mut self,
        RoomProfile { room, name, description, owner, admins }: RoomProfile,
    ) -> Outcome {
        let request = pb::UpsertRoomRequest {
            app: self.app,
            room: room.unwrap_or_default(),
            name,
            description,
            owner,
            admins: admins.map(room_admins),
            ..Default::default()
        };
        let answer = self.clients.directory.upsert_room(request).await?.into_inner();
        let room = answer.room.unwrap_or_default();
        Ok(self.out.one(&records::registered_room(room).at(answer.revision))?)
    }

    async fn show_room(mut self, Room { room }: Room) -> Outcome {
        let request = pb::GetRoomRequest { app: self.app, room, ..Default::default() };
        let answer = self.clients.mutes.get_room(request).await?.into_inner();
        Ok(self.out.one(&records::room(answer))?)
    }

    async fn list_rooms(mut self, limit: &Limit) -> Outcome {
        let directory = self.clients.directory;
        let app = self.app;
        let fetch = async |page_size, page_token| {
            let request = pb::ListRoomsRequest {
                app: app.clone(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = directory.clone().list_rooms(request).await?.into_inner();
            Ok(Page::of(page.rooms, records::listed_room, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }

    async fn delete_room(mut self, Room { room }: Room) -> Outcome {
        let request = pb::DeleteRoomRequest { app: self.app, room, ..Default::default() };
        let answer = self.clients.directory.delete_room(request).await?.into_inner();
        Ok(self.out.one(&records::was_registered(answer.was_registered).at(answer.revision))?)
    }

    async fn room_admins(mut self, Room { room }: Room, change: &AdminChange) -> Outcome {
        let mut profile = registered(&mut self.clients, &self.app, &room).await?;
        if !change.add.is_empty() || !change.remove.is_empty() {
            let request = pb::UpsertRoomRequest {
                app: self.app,
                room,
                admins: Some(room_admins(changed(profile.admins, change))),
                ..Default::default()
            };
            let answer = self.clients.directory.upsert_room(request).await?.into_inner();
            profile = answer.room.unwrap_or_default();
        }
        let moderators = records::moderators(profile);
        if moderators.is_empty() {
            self.out.nothing();
        }
        Ok(self.out.rows(&moderators)?)
    }
}

/// The profile of a room. A room without one has no admins.
async fn registered(clients: &mut Clients, app: &str, room: &str) -> Result<pb::Room, Failure> {
    let request =
        pb::GetRoomRequest { app: app.to_owned(), room: room.to_owned(), ..Default::default() };
    let answer = clients.mutes.get_room(request).await?.into_inner();
    Ok(answer.room.unwrap_or_default())
}

/// The admins after a change, each once.
fn changed(mut admins: Vec<String>, change: &AdminChange) -> Vec<String> {
    admins.retain(|admin| !change.remove.contains(admin));
    for user in &change.add {
        if !admins.contains(user) {
            admins.push(user.clone());
        }
    }
    admins
}

/// An empty user id, as of `--admin ''`, is none.
fn room_admins(mut users: Vec<String>) -> pb::RoomAdmins {
    users.retain(|user| !user.is_empty());
    pb::RoomAdmins { users }
}

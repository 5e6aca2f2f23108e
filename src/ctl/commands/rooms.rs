//! Rooms: their bans, their registration, and who moderates them.

use super::pages::{Page, print_pages};
use crate::{
    ctl::{
        args::{AdminChange, Length, Limit, Reason, Room, RoomCommand, RoomProfile},
        failure::Failure,
        output::notice,
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
            RoomCommand::Admins { room, change } => self.room_admins(room, change).await,
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

    async fn room_admins(mut self, Room { room }: Room, change: AdminChange) -> Outcome {
        let (profile, strangers) = self.changed_room(room, change).await?;
        let moderators = records::moderators(profile);
        if moderators.is_empty() {
            self.out.nothing();
        }
        self.out.rows(&moderators)?;
        strangers.iter().for_each(|user| notice(&format!("{user} was no admin of the room.")));
        Ok(())
    }

    /// The room's profile after the change, and those to remove who were no admins. A room without
    /// a profile has no admins.
    async fn changed_room(
        &mut self,
        room: String,
        AdminChange { add, remove }: AdminChange,
    ) -> Result<(pb::Room, Vec<String>), Failure> {
        let app = self.app.clone();
        if add.is_empty() && remove.is_empty() {
            let request = pb::GetRoomRequest { app, room, ..Default::default() };
            let answer = self.clients.mutes.get_room(request).await?.into_inner();
            return Ok((answer.room.unwrap_or_default(), remove));
        }
        let request = pb::UpsertRoomRequest {
            app,
            room,
            add_admins: add,
            remove_admins: remove.clone(),
            ..Default::default()
        };
        let answer = self.clients.directory.upsert_room(request).await?.into_inner();
        let asked = remove.into_iter().zip(answer.was_admin);
        let strangers = asked.filter(|(_, was_admin)| !was_admin).map(|(user, _)| user);
        Ok((answer.room.unwrap_or_default(), strangers.collect()))
    }
}

/// An empty user id, as of `--admin ''`, is none.
fn room_admins(mut users: Vec<String>) -> pb::RoomAdmins {
    users.retain(|user| !user.is_empty());
    pb::RoomAdmins { users }
}

//! Notification mutes: which users get no push from a room.

use super::pages::{Page, print_pages};
use crate::{
    ctl::{
        args::{Length, Limit, Member, User},
        records::{self, Value},
        session::{Outcome, Session},
    },
    proto::v1 as pb,
};

impl Session {
    pub(super) async fn mute_notifications(
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
        let answer = self.clients.mutes.mute_room_notifications(request).await?.into_inner();
        Ok(self.out.one(&records::client(answer.client).at(answer.revision))?)
    }

    pub(super) async fn unmute_notifications(mut self, Member { room, user }: Member) -> Outcome {
        let request =
            pb::UnmuteRoomNotificationsRequest { app: self.app, user, room, ..Default::default() };
        let answer = self.clients.mutes.unmute_room_notifications(request).await?.into_inner();
        let record = records::client(answer.client).with(
            "was_muted",
            "WAS MUTED",
            Value::Flag(answer.was_muted),
        );
        Ok(self.out.one(&record.at(answer.revision))?)
    }

    pub(super) async fn muted_rooms(mut self, User { user }: User, limit: &Limit) -> Outcome {
        let mutes = self.clients.mutes;
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

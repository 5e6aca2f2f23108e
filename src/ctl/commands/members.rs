//! Mutes of members, and the allow list of a room.

use super::pages::{Page, print_pages};
use crate::{
    ctl::{
        args::{Length, Limit, Members, Reason, Room},
        records::{self, Record},
        session::{Outcome, Session},
    },
    proto::v1 as pb,
};

impl Session {
    pub(super) async fn mute(
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
        let answer = self.clients.mutes.mute_members(request).await?.into_inner();
        let rows = answer
            .members
            .into_iter()
            .map(|member| records::muted_member(member).at(answer.revision));
        Ok(self.out.rows(&distinct(rows))?)
    }

    pub(super) async fn unmute(
        mut self,
        Members { room, users }: Members,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request =
            pb::UnmuteMembersRequest { app: self.app, room, users, reason, ..Default::default() };
        let answer = self.clients.mutes.unmute_members(request).await?.into_inner();
        let rows = answer.members.into_iter();
        let rows = rows
            .map(|member| records::was_muted(member.user, member.was_muted).at(answer.revision));
        Ok(self.out.rows(&distinct(rows))?)
    }

    pub(super) async fn list(mut self, Room { room }: Room, limit: &Limit) -> Outcome {
        let mutes = self.clients.mutes;
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

    pub(super) async fn allow(
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
        let revision = self.clients.mutes.allow_members(request).await?.into_inner().revision;
        let rows = users.into_iter().map(|user| records::allowed(user).at(revision));
        Ok(self.out.rows(&distinct(rows))?)
    }

    pub(super) async fn disallow(
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
        let answer = self.clients.mutes.disallow_members(request).await?.into_inner();
        let rows = users.into_iter().zip(answer.was_allowed);
        let rows = rows
            .map(|(user, was_allowed)| records::was_allowed(user, was_allowed).at(answer.revision));
        Ok(self.out.rows(&distinct(rows))?)
    }

    pub(super) async fn allowed(mut self, Room { room }: Room, limit: &Limit) -> Outcome {
        let mutes = self.clients.mutes;
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
}

/// The rows without repeats, where a user is named twice.
fn distinct(all: impl Iterator<Item = Record>) -> Vec<Record> {
    let mut rows = Vec::new();
    all.for_each(|row| {
        if !rows.contains(&row) {
            rows.push(row);
        }
    });
    rows
}

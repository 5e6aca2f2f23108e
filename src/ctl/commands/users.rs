//! Users: their mutes in all rooms of the app, and their registration.

use super::pages::{Page, print_pages};
use crate::{
    ctl::{
        args::{Length, Limit, Profile, Reason, User, UserCommand},
        records,
        session::{Outcome, Session},
    },
    proto::v1 as pb,
};

impl Session {
    pub(super) async fn mute_user(
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
        let answer = self.clients.mutes.mute_user(request).await?.into_inner();
        let rows =
            answer.user.into_iter().map(|user| records::muted_user(user).at(answer.revision));
        Ok(self.out.rows(&rows.collect::<Vec<_>>())?)
    }

    pub(super) async fn unmute_user(
        mut self,
        User { user }: User,
        Reason { reason }: Reason,
    ) -> Outcome {
        let request = pb::UnmuteUserRequest {
            app: self.app,
            user: user.clone(),
            reason,
            ..Default::default()
        };
        let answer = self.clients.mutes.unmute_user(request).await?.into_inner();
        Ok(self.out.rows(&[records::was_muted(user, answer.was_muted).at(answer.revision)])?)
    }

    pub(super) async fn muted_users(mut self, limit: &Limit) -> Outcome {
        let mutes = self.clients.mutes;
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

    pub(super) async fn user(self, command: UserCommand) -> Outcome {
        match command {
            UserCommand::Create { user, profile } => self.create_user(user, profile).await,
            UserCommand::Show(user) => self.show_user(user).await,
            UserCommand::List(limit) => self.list_users(&limit).await,
            UserCommand::Delete(user) => self.delete_user(user).await,
        }
    }

    async fn create_user(
        mut self,
        User { user }: User,
        Profile { nickname, description, email }: Profile,
    ) -> Outcome {
        let client = pb::Client { user, nickname, description, email, ..Default::default() };
        let request =
            pb::UpsertClientRequest { app: self.app, client: Some(client), ..Default::default() };
        let answer = self.clients.directory.upsert_client(request).await?.into_inner();
        Ok(self.out.one(&records::user(answer.client.unwrap_or_default()).at(answer.revision))?)
    }

    async fn show_user(mut self, User { user }: User) -> Outcome {
        let request = pb::GetClientRequest { app: self.app, user, ..Default::default() };
        let answer = self.clients.directory.get_client(request).await?.into_inner();
        Ok(self.out.one(&records::user(answer.client.unwrap_or_default()))?)
    }

    async fn list_users(mut self, limit: &Limit) -> Outcome {
        let directory = self.clients.directory;
        let app = self.app;
        let fetch = async |page_size, page_token| {
            let request = pb::ListClientsRequest {
                app: app.clone(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = directory.clone().list_clients(request).await?.into_inner();
            Ok(Page::of(page.clients, records::listed_user, page.next_page_token))
        };
        print_pages(&mut self.out, limit, fetch).await
    }

    async fn delete_user(mut self, User { user }: User) -> Outcome {
        let request = pb::DeleteClientRequest { app: self.app, user, ..Default::default() };
        let answer = self.clients.directory.delete_client(request).await?.into_inner();
        Ok(self.out.one(&records::was_registered(answer.client.is_some()).at(answer.revision))?)
    }
}

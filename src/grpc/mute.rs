//! The RPCs of `MuteService`.

use std::slice::from_ref;

use tonic::{Request, Response, async_trait};

use super::{Api, Reply, encode, parse, watch, write::reply};
use crate::{
    error::Error,
    model::RoomId,
    proto::v1::{self as pb, mute_service_server::MuteService},
    telemetry::metrics::METRICS,
    view::{Decision, Page},
};

#[async_trait]
impl MuteService for Api {
    type WatchStream = watch::Stream;

    async fn mute_members(
        &self,
        request: Request<pb::MuteMembersRequest>,
    ) -> Reply<pb::MuteMembersResponse> {
        let (call, message) = self.begin_write(request)?;
        let room = RoomId::parse(message.room)?;
        let users = parse::users(&call, &message.users)?;
        let duration_ms = parse::duration_ms(message.duration)?;
        let reason = parse::reason(message.reason)?;
        let answer = |restriction| {
            let members = users
                .iter()
                .map(|user| encode::muted_member(user.to_string(), &restriction))
                .collect();
            pb::MuteMembersResponse { members, ..Default::default() }
        };
        let committed =
            self.service.mute_members(&call, &room, &users, duration_ms, &reason, answer).await;
        reply(committed.map_err(|error| parse::with_raw_users(error, &message.users, &users))?)
    }

    async fn unmute_members(
        &self,
        request: Request<pb::UnmuteMembersRequest>,
    ) -> Reply<pb::UnmuteMembersResponse> {
        let (call, message) = self.begin_write(request)?;
        let room = RoomId::parse(message.room)?;
        let users = parse::users(&call, &message.users)?;
        let answer = |was_muted: Vec<_>| {
            let members = users.iter().zip(was_muted);
            let members = members
                .map(|(user, was_muted)| pb::UnmutedMember { user: user.to_string(), was_muted })
                .collect();
            pb::UnmuteMembersResponse { members, ..Default::default() }
        };
        reply(
            self.service
                .unmute_members(&call, &room, &users, &parse::reason(message.reason)?, answer)
                .await?,
        )
    }

    async fn list_muted_members(
        &self,
        request: Request<pb::ListMutedMembersRequest>,
    ) -> Reply<pb::ListMutedMembersResponse> {
        let (call, message) = self.begin_read(request, "ListMutedMembers").await?;
        let room = RoomId::parse(message.room)?;
        let size = parse::page_size(message.page_size)?;
        let after = parse::page_token(&message.page_token)?;
        let skip = parse::skip(message.skip)?;
        self.service.charge_skipped(&call, skip)?;
        let revision = self.revision();
        let mut muted = self.service.list_muted(&call, &room, after.as_deref(), skip, size + 1)?;
        let next_page_token = parse::truncate_page(&mut muted, size, |(user, _)| user.clone());
        let members = muted
            .into_iter()
            .map(|(user, restriction)| encode::muted_member(user, &restriction))
            .collect();
        Ok(Response::new(pb::ListMutedMembersResponse { members, next_page_token, revision }))
    }

    async fn ban_room(&self, request: Request<pb::BanRoomRequest>) -> Reply<pb::BanRoomResponse> {
        let (call, message) = self.begin_write(request)?;
        let room = RoomId::parse(message.room)?;
        let duration_ms = parse::duration_ms(message.duration)?;
        let reason = parse::reason(message.reason)?;
        let answer = |restriction| pb::BanRoomResponse {
            ban: Some(encode::ban(&restriction)),
            ..Default::default()
        };
        reply(self.service.ban_room(&call, &room, duration_ms, &reason, answer).await?)
    }

    async fn unban_room(
        &self,
        request: Request<pb::UnbanRoomRequest>,
    ) -> Reply<pb::UnbanRoomResponse> {
        let (call, message) = self.begin_write(request)?;
        let room = RoomId::parse(message.room)?;
        let answer = |was_banned| pb::UnbanRoomResponse { was_banned, ..Default::default() };
        reply(self.service.unban_room(&call, &room, &parse::reason(message.reason)?, answer).await?)
    }

    async fn get_room(&self, request: Request<pb::GetRoomRequest>) -> Reply<pb::GetRoomResponse> {
        let (call, message) = self.begin_read(request, "GetRoom").await?;
        let room = RoomId::parse(message.room)?;
        let revision = self.revision();
        let info = self.service.get_room(&call, &room)?;
        Ok(Response::new(pb::GetRoomResponse {
            room: Some(encode::room(room.into(), info.profile.unwrap_or_default())),
            ban: info.ban.as_ref().map(encode::ban),
            muted_count: encode::count(info.muted_count),
            allowed_count: encode::count(info.allowed_count),
            revision,
        }))
    }

    async fn allow_members(
        &self,
        request: Request<pb::AllowMembersRequest>,
    ) -> Reply<pb::AllowMembersResponse> {
        let (call, message) = self.begin_write(request)?;
        let room = RoomId::parse(message.room)?;
        let users = parse::users(&call, &message.users)?;
        let answer = |()| pb::AllowMembersResponse::default();
        let committed = self
            .service
            .allow_members(&call, &room, &users, &parse::reason(message.reason)?, answer)
            .await;
        reply(committed.map_err(|error| parse::with_raw_users(error, &message.users, &users))?)
    }

    async fn disallow_members(
        &self,
        request: Request<pb::DisallowMembersRequest>,
    ) -> Reply<pb::DisallowMembersResponse> {
        let (call, message) = self.begin_write(request)?;
        let room = RoomId::parse(message.room)?;
        let users = parse::users(&call, &message.users)?;
        let answer =
            |was_allowed| pb::DisallowMembersResponse { was_allowed, ..Default::default() };
        reply(
            self.service
                .disallow_members(&call, &room, &users, &parse::reason(message.reason)?, answer)
                .await?,
        )
    }

    async fn list_allowed_members(
        &self,
        request: Request<pb::ListAllowedMembersRequest>,
    ) -> Reply<pb::ListAllowedMembersResponse> {
        let (call, message) = self.begin_read(request, "ListAllowedMembers").await?;
        let room = RoomId::parse(message.room)?;
        let size = parse::page_size(message.page_size)?;
        let after = parse::page_token(&message.page_token)?;
        let revision = self.revision();
        let (allowed, next_page_token) = if message.users.is_empty() {
            let mut allowed =
                self.service.list_allowed(&call, &room, after.as_deref(), size + 1)?;
            let next_page_token =
                parse::truncate_page(&mut allowed, size, |(user, _)| user.clone());
            (allowed, next_page_token)
        } else {
            (
                self.service.find_allowed(
                    &call,
                    &room,
                    &parse::optional_users(&call, &message.users)?,
                )?,
                String::new(),
            )
        };
        let member = |(user, restriction): (_, crate::model::Restriction)| pb::AllowedMember {
            user,
            allow_time: encode::timestamp(restriction.set_ms),
        };
        let members = allowed.into_iter().map(member).collect();
        Ok(Response::new(pb::ListAllowedMembersResponse { members, next_page_token, revision }))
    }

    async fn mute_user(
        &self,
        request: Request<pb::MuteUserRequest>,
    ) -> Reply<pb::MuteUserResponse> {
        let (call, message) = self.begin_write(request)?;
        let raw = message.user.clone();
        let user = call.app.user(message.user)?;
        let duration_ms = parse::duration_ms(message.duration)?;
        let reason = parse::reason(message.reason)?;
        let answer = |restriction| {
            let user = Some(encode::muted_user(user.to_string(), &restriction));
            pb::MuteUserResponse { user, ..Default::default() }
        };
        let committed = self.service.mute_user(&call, &user, duration_ms, &reason, answer).await;
        reply(
            committed
                .map_err(|error| parse::with_raw_users(error, from_ref(&raw), from_ref(&user)))?,
        )
    }

    async fn unmute_user(
        &self,
        request: Request<pb::UnmuteUserRequest>,
    ) -> Reply<pb::UnmuteUserResponse> {
        let (call, message) = self.begin_write(request)?;
        let user = call.app.user(message.user)?;
        let answer = |was_muted| pb::UnmuteUserResponse { was_muted, ..Default::default() };
        reply(
            self.service.unmute_user(&call, &user, &parse::reason(message.reason)?, answer).await?,
        )
    }

    async fn list_muted_users(
        &self,
        request: Request<pb::ListMutedUsersRequest>,
    ) -> Reply<pb::ListMutedUsersResponse> {
        let (call, message) = self.begin_read(request, "ListMutedUsers").await?;
        let size = parse::page_size(message.page_size)?;
        let after = parse::page_token(&message.page_token)?;
        let page =
            Page { after: after.as_deref(), skip: parse::skip(message.skip)?, size: size + 1 };
        self.service.charge_skipped(&call, page.skip)?;
        let revision = self.revision();
        let (muted, next_page_token) = if message.users.is_empty() {
            let mut muted = self.service.list_muted_users(&call, page)?;
            let next_page_token = parse::truncate_page(&mut muted, size, |(user, _)| user.clone());
            (muted, next_page_token)
        } else {
            (
                self.service
                    .find_muted_users(&call, &parse::optional_users(&call, &message.users)?)?,
                String::new(),
            )
        };
        let users = muted
            .into_iter()
            .map(|(user, restriction)| encode::muted_user(user, &restriction))
            .collect();
        Ok(Response::new(pb::ListMutedUsersResponse { users, next_page_token, revision }))
    }

    async fn mute_room_notifications(
        &self,
        request: Request<pb::MuteRoomNotificationsRequest>,
    ) -> Reply<pb::MuteRoomNotificationsResponse> {
        let (call, message) = self.begin_write(request)?;
        let user = call.app.user(message.user)?;
        let room = RoomId::parse(message.room)?;
        let duration_ms = parse::duration_ms(message.duration)?;
        let answer = |client| pb::MuteRoomNotificationsResponse {
            client: Some(encode::client(client)),
            ..Default::default()
        };
        reply(self.service.mute_notifications(&call, &user, &room, duration_ms, answer).await?)
    }

    async fn unmute_room_notifications(
        &self,
        request: Request<pb::UnmuteRoomNotificationsRequest>,
    ) -> Reply<pb::UnmuteRoomNotificationsResponse> {
        let (call, message) = self.begin_write(request)?;
        let user = call.app.user(message.user)?;
        let room = RoomId::parse(message.room)?;
        let answer = |(client, was_muted)| {
            let client = Some(encode::client(client));
            pb::UnmuteRoomNotificationsResponse { client, was_muted, ..Default::default() }
        };
        reply(self.service.unmute_notifications(&call, &user, &room, answer).await?)
    }

    async fn list_muted_rooms(
        &self,
        request: Request<pb::ListMutedRoomsRequest>,
    ) -> Reply<pb::ListMutedRoomsResponse> {
        let (call, message) = self.begin_read(request, "ListMutedRooms").await?;
        let user = call.app.user(message.user)?;
        let size = parse::page_size(message.page_size)?;
        let after = parse::page_token(&message.page_token)?;
        let after = after.as_deref().map(place_and_room).transpose()?;
        let revision = self.revision();
        let mut muted = self.service.list_muted_rooms(&call, &user, after, size + 1)?;
        let next_page_token = parse::truncate_page(&mut muted, size, |(muted, _)| {
            format!("{}:{}", muted.place, muted.room)
        });
        let room = |(muted, restriction): (crate::view::MutedRoom, crate::model::Restriction)| {
            pb::MutedRoom {
                room: muted.room.into(),
                expire_time: encode::expire_time(restriction.expire),
                mute_time: encode::timestamp(restriction.set_ms),
            }
        };
        let rooms = muted.into_iter().map(room).collect();
        Ok(Response::new(pb::ListMutedRoomsResponse { rooms, next_page_token, revision }))
    }

    async fn filter_recipients(
        &self,
        request: Request<pb::FilterRecipientsRequest>,
    ) -> Reply<pb::FilterRecipientsResponse> {
        let (call, message) = self.begin_read(request, "FilterRecipients").await?;
        let room = RoomId::parse(message.room)?;
        let revision = self.revision();
        let mut users = message.users;
        let is_recipient =
            self.service.filter_recipients(&call, &room, &parse::recipients(&call, &users)?)?;
        let mut is_recipient = is_recipient.into_iter();
        users.retain(|_| is_recipient.next().unwrap_or_default());
        Ok(Response::new(pb::FilterRecipientsResponse { users, revision }))
    }

    async fn check_send(
        &self,
        request: Request<pb::CheckSendRequest>,
    ) -> Reply<pb::CheckSendResponse> {
        let (call, message) = self.begin_read(request, "CheckSend").await?;
        let room = RoomId::parse(message.room)?;
        let user = call.app.user(message.user)?;
        let revision = self.revision();
        let answer = |decision: Decision<'_>| pb::CheckSendResponse {
            revision,
            ..encode::decision(decision)
        };
        let answer = self.service.check_send(&call, &room, &user, answer)?;
        METRICS.checked([answer.rule()]);
        Ok(Response::new(answer))
    }

    async fn batch_check_send(
        &self,
        request: Request<pb::BatchCheckSendRequest>,
    ) -> Reply<pb::BatchCheckSendResponse> {
        let (call, message) = self.begin_read(request, "BatchCheckSend").await?;
        let pairs = parse::pairs(&call, message.pairs)?;
        let answer = |decision: Option<Decision<'_>>| {
            decision.map_or_else(encode::not_registered, encode::decision)
        };
        let revision = self.revision();
        let results = self.service.batch_check_send(&call, &pairs, answer)?;
        METRICS.checked(results.iter().map(pb::CheckSendResponse::rule));
        Ok(Response::new(pb::BatchCheckSendResponse { results, revision }))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Reply<Self::WatchStream> {
        watch::watch(self, request).await
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Reply<pb::ListEventsResponse> {
        watch::list_events(self, request).await
    }
}

/// Parses the page token of the list of muted rooms, which is ordered by place.
fn place_and_room(token: &str) -> Result<(u64, &str), Error> {
    let parts = token.split_once(':').and_then(|(place, room)| Some((place.parse().ok()?, room)));
    parts.ok_or_else(|| Error::invalid("page_token", "page_token was not issued by this method"))
}

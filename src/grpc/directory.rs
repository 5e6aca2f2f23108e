//! The RPCs of `DirectoryService`.

use std::sync::Arc;

use tonic::{Request, Response, async_trait};

use super::{Api, Reply, encode, parse, write::reply};
use crate::{
    error::Error,
    model::{Address, RoomId},
    proto::v1::{self as pb, directory_service_server::DirectoryService},
    service::{ClientPatch, PatchedRoom, RequestContext, RoomPatch},
    view::Page,
};

#[async_trait]
impl DirectoryService for Api {
    async fn upsert_client(
        &self,
        request: Request<pb::UpsertClientRequest>,
    ) -> Reply<pb::UpsertClientResponse> {
        let (call, message) = self.begin_write(request)?;
        let client =
            message.client.ok_or_else(|| Error::invalid("client", "client is required"))?;
        let user = call.app.user(client.user.clone())?;
        let patch = client_patch(client)?;
        let token = if message.issue_access_token {
            Some(self.service.user_token(&call, &user)?)
        } else {
            None
        };
        let answer = |client| pb::UpsertClientResponse {
            client: Some(encode::client(client)),
            ..Default::default()
        };
        let mut committed = self.service.upsert_client(&call, &user, &patch, answer).await?;
        // Added after the commit, because an idempotency record must not contain a token.
        if let Some((token, exp_s)) = token {
            committed.answer.access_token = token;
            committed.answer.token_expire_time = encode::timestamp(exp_s.saturating_mul(1_000));
        }
        reply(committed)
    }

    async fn get_client(
        &self,
        request: Request<pb::GetClientRequest>,
    ) -> Reply<pb::GetClientResponse> {
        let (call, message) = self.begin_read(request, "GetClient").await?;
        let user = call.app.user(message.user)?;
        let client = self.service.get_client(&call, &user)?;
        Ok(Response::new(pb::GetClientResponse { client: Some(encode::client(client)) }))
    }

    async fn list_clients(
        &self,
        request: Request<pb::ListClientsRequest>,
    ) -> Reply<pb::ListClientsResponse> {
        let (call, message) = self.begin_read(request, "ListClients").await?;
        let size = parse::page_size(message.page_size)?;
        let after = parse::page_token(&message.page_token)?;
        let page =
            Page { after: after.as_deref(), skip: parse::skip(message.skip)?, size: size + 1 };
        self.service.charge_skipped(&call, page.skip)?;
        let revision = self.revision();
        let (clients, total) = self.service.list_clients(&call, page)?;
        let (clients, next_page_token) =
            parse::encode_page(clients, size, |client| client.user.clone(), encode::client);
        Ok(Response::new(pb::ListClientsResponse {
            clients,
            next_page_token,
            total_size: encode::count(total),
            revision,
        }))
    }

    async fn delete_client(
        &self,
        request: Request<pb::DeleteClientRequest>,
    ) -> Reply<pb::DeleteClientResponse> {
        let (call, message) = self.begin_write(request)?;
        let user = call.app.user(message.user)?;
        let answer = |client: Option<_>| pb::DeleteClientResponse {
            client: client.map(encode::client),
            ..Default::default()
        };
        reply(self.service.delete_client(&call, &user, answer).await?)
    }

    async fn upsert_room(
        &self,
        request: Request<pb::UpsertRoomRequest>,
    ) -> Reply<pb::UpsertRoomResponse> {
        let (call, message) = self.begin_write(request)?;
        let room =
            if message.room.is_empty() { None } else { Some(RoomId::parse(message.room.clone())?) };
        let patch = room_patch(&call, message)?;
        let answer = |PatchedRoom { id, profile, was_admin }| {
            let room = Some(encode::room(id.into(), profile));
            pb::UpsertRoomResponse { room, was_admin, ..Default::default() }
        };
        reply(self.service.upsert_room(&call, room.as_ref(), &patch, answer).await?)
    }

    async fn delete_room(
        &self,
        request: Request<pb::DeleteRoomRequest>,
    ) -> Reply<pb::DeleteRoomResponse> {
        let (call, message) = self.begin_write(request)?;
        let answer =
            |was_registered| pb::DeleteRoomResponse { was_registered, ..Default::default() };
        reply(self.service.delete_room(&call, &RoomId::parse(message.room)?, answer).await?)
    }

    async fn list_rooms(
        &self,
        request: Request<pb::ListRoomsRequest>,
    ) -> Reply<pb::ListRoomsResponse> {
        let (call, message) = self.begin_read(request, "ListRooms").await?;
        let size = parse::page_size(message.page_size)?;
        let after = parse::page_token(&message.page_token)?;
        let revision = self.revision();
        let (rooms, total) = self
            .service
            .list_rooms(&call, Page { after: after.as_deref(), skip: 0, size: size + 1 })?;
        let room = |(id, profile): (Arc<str>, _)| encode::room(id.to_string(), profile);
        let (rooms, next_page_token) =
            parse::encode_page(rooms, size, |(id, _)| id.to_string(), room);
        Ok(Response::new(pb::ListRoomsResponse {
            rooms,
            next_page_token,
            total_size: encode::count(total),
            revision,
        }))
    }
}

fn client_patch(client: pb::Client) -> Result<ClientPatch, Error> {
    let address = |address: pb::ClientAddress| {
        let port = u16::try_from(address.port)
            .map_err(|_| Error::invalid("client.address.port", "port must be 0 to 65535"))?;
        let address = Address { address: address.address, family: address.family, port };
        let is_short = address.address.len() <= 64 && address.family.len() <= 16;
        is_short.then_some(address).ok_or_else(|| {
            let message = "address must be at most 64 bytes, and family at most 16 bytes";
            Error::invalid("client.address", message)
        })
    };
    let last_login_ms = |time: prost_types::Timestamp| {
        let ms = time
            .seconds
            .checked_mul(1_000)
            .and_then(|ms| ms.checked_add(i64::from(time.nanos) / 1_000_000));
        let ms = ms.and_then(|ms| u64::try_from(ms).ok());
        ms.ok_or_else(|| {
            Error::invalid("client.last_login_time", "last_login_time must not be before 1970")
        })
    };
    Ok(ClientPatch {
        nickname: parse::text("client.nickname", client.nickname)?,
        avatar_url: parse::text("client.avatar_url", client.avatar_url)?,
        description: parse::text("client.description", client.description)?,
        email: parse::text("client.email", client.email)?,
        is_robot: client.is_robot,
        address: client.address.map(address).transpose()?,
        user_agent: parse::text("client.user_agent", client.user_agent)?,
        last_login_ms: client.last_login_time.map(last_login_ms).transpose()?,
        custom_json: client.custom_json,
        created_ms: 0,
        updated_ms: 0,
    })
}

fn room_patch(call: &RequestContext, message: pb::UpsertRoomRequest) -> Result<RoomPatch, Error> {
    let owner = match message.owner {
        Some(owner) if !owner.is_empty() => Some(call.app.user(owner)?.into()),
        other => other,
    };
    let add_admins = admins(call, &message.add_admins)?;
    let remove_admins = admins(call, &message.remove_admins)?;
    if add_admins.iter().any(|user| remove_admins.contains(user)) {
        return Err(Error::invalid(
            "remove_admins",
            "a user must not be in both add_admins and remove_admins",
        ));
    }
    let changes = !add_admins.is_empty() || !remove_admins.is_empty();
    if changes && message.admins.is_some() {
        return Err(Error::invalid(
            "admins",
            "admins replaces all admins; omit it, or omit add_admins and remove_admins",
        ));
    }
    if changes && message.room.is_empty() {
        return Err(Error::invalid(
            "room",
            "room is required with add_admins or remove_admins: a new room takes admins",
        ));
    }
    Ok(RoomPatch {
        name: parse::text("name", message.name)?,
        description: parse::text("description", message.description)?,
        owner,
        admins: message.admins.map(|replaced| admins(call, &replaced.users)).transpose()?,
        add_admins,
        remove_admins,
    })
}

fn admins(call: &RequestContext, users: &[String]) -> Result<Vec<String>, Error> {
    Ok(parse::optional_users(call, users)?.into_iter().map(Into::into).collect())
}

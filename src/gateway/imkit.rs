//! The paths of IMKit: `/admin/...` and `/rooms` with an app's API key, `/me...` with its client
//! key and a user's token.
//!
//! Quirks that live here: to unmute a room that is not muted is an error for an admin, and none for
//! a user. A client has Mongo's `_id` and `__v`. A user sees fewer fields of itself than an admin
//! does, and its present connection as the last login.

use axum::{
    Router,
    body::Bytes,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tonic::Status;

use self::{
    client::{AdminView, admin_view, own_view},
    envelope::{Admin, Me, success},
    failure::Failure,
};
use super::{
    listing,
    wire::{self, Gateway, optional_string, rpc},
};
use crate::{
    grpc::{Api, status::DecodedError},
    proto::v1::{
        self as pb, directory_service_server::DirectoryService as _,
        mute_service_server::MuteService as _,
    },
};

mod client;
mod envelope;
mod failure;

/// Clients in one page.
const DEFAULT_LIMIT: i32 = 50;
const MAX_LIMIT: i32 = 100;

type Body = Result<Bytes, BytesRejection>;
type Outcome = Result<Response, Failure>;

pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/admin/clients", post(upsert_client).get(list_clients))
        .route("/admin/clients/{uid}", get(get_client).delete(delete_client))
        .route("/admin/clients/{uid}/mute/{room}", post(mute).delete(unmute))
        .route("/me", get(me))
        .route("/me/mute/{room}", post(mute_own).delete(unmute_own))
        .route("/rooms", post(upsert_room))
}

/// The error of a request that reaches no handler.
pub(super) fn refuse(status: StatusCode) -> Response {
    Failure::of_status(status).into_response()
}

async fn mute(admin: Admin, State(api): State<Api>) -> Outcome {
    let user = admin.segment("uid");
    let room = admin.segment("room");
    let message = pb::MuteRoomNotificationsRequest {
        app: admin.app.clone(),
        user,
        room,
        duration: None,
        request_id: admin.request_id.clone(),
    };
    let muted = into_message(api.mute_room_notifications(rpc(&admin.caller, message)).await)?;
    Ok(success(admin_view(&admin.app, muted.client.unwrap_or_default())))
}

async fn unmute(admin: Admin, State(api): State<Api>) -> Outcome {
    let user = admin.segment("uid");
    let room = admin.segment("room");
    let message = pb::UnmuteRoomNotificationsRequest {
        app: admin.app.clone(),
        user,
        room,
        request_id: admin.request_id.clone(),
    };
    let unmuted = into_message(api.unmute_room_notifications(rpc(&admin.caller, message)).await)?;
    if !unmuted.was_muted {
        return Err(Failure::room_not_muted());
    }
    Ok(success(admin_view(&admin.app, unmuted.client.unwrap_or_default())))
}

async fn mute_own(me: Me, State(api): State<Api>) -> Outcome {
    let user = me.user.clone();
    let room = me.segment("room");
    let message = pb::MuteRoomNotificationsRequest {
        app: me.app.clone(),
        user,
        room,
        duration: None,
        request_id: me.request_id.clone(),
    };
    let muted = into_message(api.mute_room_notifications(rpc(&me.caller, message)).await)?;
    Ok(success(own_view(&me, muted.client.unwrap_or_default())))
}

async fn unmute_own(me: Me, State(api): State<Api>) -> Outcome {
    let user = me.user.clone();
    let room = me.segment("room");
    let message = pb::UnmuteRoomNotificationsRequest {
        app: me.app.clone(),
        user,
        room,
        request_id: me.request_id.clone(),
    };
    let unmuted = into_message(api.unmute_room_notifications(rpc(&me.caller, message)).await)?;
    Ok(success(own_view(&me, unmuted.client.unwrap_or_default())))
}

async fn me(me: Me, State(api): State<Api>) -> Outcome {
    let message =
        pb::GetClientRequest { app: me.app.clone(), user: me.user.clone(), ..Default::default() };
    let response = into_message(api.get_client(rpc(&me.caller, message)).await)?;
    Ok(success(own_view(&me, response.client.unwrap_or_default())))
}

async fn get_client(admin: Admin, State(api): State<Api>) -> Outcome {
    let message = pb::GetClientRequest {
        app: admin.app.clone(),
        user: admin.segment("uid"),
        ..Default::default()
    };
    let response = into_message(api.get_client(rpc(&admin.caller, message)).await)?;
    Ok(success(admin_view(&admin.app, response.client.unwrap_or_default())))
}

async fn delete_client(admin: Admin, State(api): State<Api>) -> Outcome {
    let user = admin.segment("uid");
    let request_id = admin.request_id.clone();
    let message = pb::DeleteClientRequest { app: admin.app.clone(), user, request_id };
    let deleted = into_message(api.delete_client(rpc(&admin.caller, message)).await)?;
    let client = deleted.client.ok_or_else(Failure::client_not_found)?;
    Ok(success(admin_view(&admin.app, client)))
}

/// Malformed values count as absent, as the vendor treats them.
#[derive(Default, Deserialize)]
struct Paging {
    limit: Option<String>,
    skip: Option<String>,
}

async fn list_clients(
    admin: Admin,
    State(api): State<Api>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Outcome {
    let paging = paging.map(|Query(paging)| paging).unwrap_or_default();
    let number = |text: Option<String>| text.and_then(|text| text.parse::<i32>().ok());
    let page_size =
        number(paging.limit).filter(|limit| *limit > 0).unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let skip = number(paging.skip).unwrap_or(0).max(0);
    let first =
        pb::ListClientsRequest { app: admin.app.clone(), page_size, skip, ..Default::default() };
    let page = into_message(api.list_clients(rpc(&admin.caller, first.clone())).await)?;
    let envelope = envelope::list_parts(page.total_size);
    let page = page_of(&first, page);
    // A page of the RPC ends early where the clients are large; one of this list does not, because
    // its callers go on after `limit` clients.
    let caller = admin.caller.counting(0);
    let next = move |page_token: String, count: usize| {
        let api = api.clone();
        let caller = caller.clone();
        let page_size = page_size.saturating_sub_unsigned(count.try_into().unwrap_or(u32::MAX));
        let message = pb::ListClientsRequest { page_token, page_size, skip: 0, ..first.clone() };
        async move {
            api.wait_for_page_turn(&caller, &message.app).await?;
            let page = api.list_clients(rpc(&caller, message.clone())).await?.into_inner();
            Ok(page_of(&message, page))
        }
    };
    Ok(listing::stream(envelope, page, next))
}

/// The elements of this page. The list ends with a page that has all that it asked for.
fn page_of(
    message: &pb::ListClientsRequest,
    page: pb::ListClientsResponse,
) -> listing::Page<AdminView> {
    let is_last = i32::try_from(page.clients.len()).is_ok_and(|count| count >= message.page_size);
    let token = if is_last { String::new() } else { page.next_page_token };
    (page.clients.into_iter().map(|client| admin_view(&message.app, client)).collect(), token)
}

async fn upsert_client(admin: Admin, State(api): State<Api>, body: Body) -> Outcome {
    let body = json_object(body)?;
    let issue_access_token = client::optional_bool(&body, "issueAccessToken")?.unwrap_or(false);
    let client = Some(client::parse(body)?);
    let request_id = admin.request_id.clone();
    let message =
        pb::UpsertClientRequest { app: admin.app.clone(), client, issue_access_token, request_id };
    let response = into_message(api.upsert_client(rpc(&admin.caller, message)).await)?;
    let mut result =
        serde_json::to_value(admin_view(&admin.app, response.client.unwrap_or_default()))
            .unwrap_or_default();
    if issue_access_token {
        result["token"] = json!(response.access_token);
        result["expirationDate"] = json!(response.token_expire_time.as_ref().map(client::rfc3339));
    }
    Ok(success(result))
}

async fn upsert_room(admin: Admin, State(api): State<Api>, body: Body) -> Outcome {
    let body = json_object(body)?;
    let room_id = optional_string(&body, "_id")?
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::invalid("_id is missing"))?;
    let name = optional_string(&body, "name")?;
    let description = optional_string(&body, "description")?;
    let app = admin.app.clone();
    let request_id = admin.request_id.clone();
    let message = pb::UpsertRoomRequest {
        app,
        room: room_id,
        name,
        description,
        request_id,
        ..Default::default()
    };
    let room =
        into_message(api.upsert_room(rpc(&admin.caller, message)).await)?.room.unwrap_or_default();
    let updated_at = room.update_time.as_ref().map(client::rfc3339);
    let mut result = json!({
        "_id": room.room,
        "id": room.room,
        "appID": admin.app,
        "name": room.name,
        "updatedAt": updated_at,
    });
    if !room.description.is_empty() {
        result["description"] = json!(room.description);
    }
    Ok(success(result))
}

fn json_object(body: Body) -> Result<Map<String, Value>, Failure> {
    match wire::json(body)? {
        Value::Object(object) => Ok(object),
        _ => Err(Failure::invalid("the body must be a JSON object")),
    }
}

fn into_message<T>(reply: Result<tonic::Response<T>, Status>) -> Result<T, Failure> {
    reply.map(tonic::Response::into_inner).map_err(|status| Failure::of(DecodedError::from(status)))
}

//! Rooms, users and tokens.

use axum::{extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    envelope::{Body, Outcome, Unauthenticated, VendorRequest},
    failure::{Failure, into_message},
    fields::{NO_EXPIRY_S, check_name, json_object, timestamp_ms, ttl},
};
use crate::{
    gateway::wire::{self, Gateway, optional_string, rpc},
    grpc::{Api, MAX_TEXT_BYTES},
    proto::v1::{
        self as pb, directory_service_server::DirectoryService as _,
        token_service_server::TokenService as _,
    },
};

pub(super) async fn create_room(
    request: VendorRequest,
    State(api): State<Api>,
    body: Body,
) -> Outcome {
    let body = json_object(body)?;
    let owner = optional_string(&body, "owner")?;
    owner.as_deref().map(check_name).transpose()?;
    let message = pb::UpsertRoomRequest {
        app: request.app.clone(),
        name: optional_string(&body, "name")?,
        description: optional_string(&body, "description")?,
        owner: owner.clone(),
        request_id: request.request_id.clone(),
        ..Default::default()
    };
    let response = into_message(api.upsert_room(rpc(&request.caller, message)).await, "");
    let response =
        response.map_err(|failure| failure.naming_user(owner.as_deref().unwrap_or_default()))?;
    Ok(request.data("post", json!({"id": response.room.unwrap_or_default().room})))
}

pub(super) async fn delete_room(request: VendorRequest, State(api): State<Api>) -> Outcome {
    let room = request.segment("room");
    let message = pb::DeleteRoomRequest {
        app: request.app.clone(),
        room: room.clone(),
        request_id: request.request_id.clone(),
    };
    let response = into_message(api.delete_room(rpc(&request.caller, message)).await, &room)?;
    if response.was_registered {
        Ok(request.data("delete", json!({"success": true, "id": room})))
    } else {
        Err(Failure::no_room(&room))
    }
}

pub(super) async fn create_users(
    request: VendorRequest,
    State(gateway): State<Gateway>,
    body: Body,
) -> Outcome {
    let users = match wire::json(body)? {
        Value::Array(users) => users,
        user => vec![user],
    };
    if users.is_empty() {
        return Err(Failure::argument("the body must name at least one user"));
    }
    if users.len() > gateway.max_users {
        return Err(Failure::too_many(format!(
            "users size is more than max limit : {}",
            gateway.max_users
        )));
    }
    let messages = users
        .iter()
        .enumerate()
        .map(|(part, user)| user_message(&request, part, user))
        .collect::<Result<Vec<_>, _>>()?;
    let mut caller = request.caller.counting(u32::try_from(messages.len()).unwrap_or(u32::MAX));
    let mut entities = Vec::with_capacity(messages.len());
    for message in messages {
        let name = message.client.as_ref().map(|client| client.user.clone()).unwrap_or_default();
        let response = into_message(gateway.api.upsert_client(rpc(&caller, message)).await, "")?;
        entities.push(user_entity(&request, &name, response.client.unwrap_or_default()));
        caller = caller.counting(0);
    }
    Ok(request.entities("post", &entities))
}

fn user_message(
    request: &VendorRequest,
    part: usize,
    user: &Value,
) -> Result<pb::UpsertClientRequest, Failure> {
    let user =
        user.as_object().ok_or_else(|| Failure::argument("each user must be a JSON object"))?;
    let name = optional_string(user, "username")?
        .ok_or_else(|| Failure::argument("username is missing"))?;
    check_name(&name)?;
    let nickname = optional_string(user, "nickname")?;
    // Checked before the first RPC: each user is created by one, and the users before this one
    // would stay.
    if nickname.as_ref().is_some_and(|nickname| nickname.len() > MAX_TEXT_BYTES) {
        return Err(Failure::argument(format!(
            "nickname must have at most {MAX_TEXT_BYTES} bytes"
        )));
    }
    let client = pb::Client { user: name, nickname, ..Default::default() };
    let request_id = wire::part_request_id(part, &request.request_id);
    Ok(pb::UpsertClientRequest {
        app: request.app.clone(),
        client: Some(client),
        issue_access_token: false,
        request_id,
    })
}

fn user_entity(request: &VendorRequest, name: &str, client: pb::Client) -> Value {
    let uuid = uuid::Uuid::new_v5(&request.application(), client.user.as_bytes());
    let ms = |time: Option<prost_types::Timestamp>| time.map(|time| timestamp_ms(&time));
    let mut entity = json!({"uuid": uuid, "type": "user", "username": name, "activated": true});
    entity["created"] = json!(ms(client.create_time));
    entity["modified"] = json!(ms(client.update_time));
    if let Some(nickname) = client.nickname {
        entity["nickname"] = json!(nickname);
    }
    entity
}

pub(super) async fn issue_token(
    Unauthenticated(request): Unauthenticated,
    State(api): State<Api>,
    body: Body,
) -> Outcome {
    let body = json_object(body)?;
    if body.get("grant_type").and_then(Value::as_str) != Some("client_credentials") {
        return Err(Failure::argument("grant_type must be client_credentials"));
    }
    let message = pb::IssueTokenRequest {
        app: request.app.clone(),
        client_id: optional_string(&body, "client_id")?.unwrap_or_default(),
        client_secret: optional_string(&body, "client_secret")?.unwrap_or_default(),
        ttl: ttl(body.get("ttl"))?.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    };
    let response = into_message(api.issue_token(rpc(&request.caller, message)).await, "")?;
    let expires_in = response.ttl.map_or(NO_EXPIRY_S, |ttl| ttl.seconds);
    let answer = json!({
        "access_token": response.access_token,
        "expires_in": expires_in,
        "application": request.application(),
    });
    Ok(wire::json_response(StatusCode::OK, &answer, None))
}

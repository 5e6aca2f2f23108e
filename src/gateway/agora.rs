//! The paths of Agora Chat and Easemob: `/{org_name}/{app_name}/...`, and `/app-id/{app_id}/...`
//! for an app whose key has one part.
//!
//! Quirks that live here: a call names at most 60 users, and each path has its own text for that
//! error; one unknown user fails the whole call; a duration of -1 is for good, and its end is a
//! constant; the `action` of a list is `post`; a user id consists of `A-Z a-z 0-9 _ - .`, and is
//! returned as the caller wrote it.

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{delete, get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::{
    directory::{create_room, create_users, delete_room, issue_token},
    envelope::{Body, Outcome, VendorRequest},
    failure::{Failure, into_message},
    fields::{
        MuteDuration, check_name, expire_ms, json_object, optional_object, path_users,
        timestamp_ms, usernames,
    },
    user_mute::{list_muted_users, mute_user, muted_user},
};
use super::{
    listing,
    wire::{Gateway, rpc},
};
use crate::{
    grpc::Api,
    proto::v1::{self as pb, mute_service_server::MuteService as _},
};

mod directory;
mod envelope;
mod failure;
mod fields;
mod uri;
mod user_mute;

pub(super) use failure::{fault_body, render};

/// Elements that a streamed list fetches at a time.
const PAGE_SIZE: i32 = 1_000;

pub(super) fn routes() -> Router<Gateway> {
    let prefixes = ["/{org_name}/{app_name}", "/app-id/{app_name}"];
    prefixes.into_iter().fold(Router::new(), |router, prefix| {
        let path = |path: &str| format!("{prefix}{path}");
        router
            .route(&path("/chatrooms"), post(create_room))
            .route(&path("/chatrooms/{room}"), get(get_room).delete(delete_room))
            .route(&path("/chatrooms/{room}/mute"), post(mute).get(list_muted))
            .route(&path("/chatrooms/{room}/mute/{users}"), delete(unmute))
            .route(&path("/chatrooms/{room}/ban"), post(ban).delete(unban))
            .route(&path("/chatrooms/{room}/white/users"), post(allow_many).get(list_allowed))
            .route(
                &path("/chatrooms/{room}/white/users/{users}"),
                post(allow_one).get(is_allowed).delete(disallow),
            )
            .route(&path("/sdk/chatrooms/{room}/mute/{user}"), get(is_muted))
            .route(&path("/mutes"), post(mute_user).get(list_muted_users))
            .route(&path("/mutes/{user}"), get(muted_user))
            .route(&path("/users"), post(create_users))
            .route(&path("/token"), post(issue_token))
    })
}

/// The error of a request that reaches no handler.
pub(super) fn refuse(status: StatusCode) -> Response {
    Failure::of_status(status).into_response()
}

async fn mute(request: VendorRequest, State(gateway): State<Gateway>, body: Body) -> Outcome {
    let body = json_object(body)?;
    let duration = MuteDuration::from_ms(body.get("mute_duration"), request.now_ms())?;
    let users = usernames(&body, gateway.max_users, "userNames size is more than max limit : ")?;
    let room = request.segment("room");
    let expire = if matches!(duration, MuteDuration::Zero) {
        unmute_users(&request, &gateway, &users).await?;
        request.now_ms()
    } else {
        let message = pb::MuteMembersRequest {
            app: request.app.clone(),
            room: room.clone(),
            users: users.clone(),
            duration: duration.to_proto(),
            reason: String::new(),
            request_id: request.request_id.clone(),
        };
        let muted =
            into_message(gateway.api.mute_members(rpc(&request.caller, message)).await, &room)?;
        expire_ms(muted.members.first().and_then(|member| member.expire_time))
    };
    let data: Vec<_> =
        users.iter().map(|user| json!({"result": true, "expire": expire, "user": user})).collect();
    Ok(request.data("post", data))
}

async fn unmute(request: VendorRequest, State(gateway): State<Gateway>) -> Outcome {
    let users =
        path_users(&request, gateway.max_users, "removeMute member size more than max limit :  ")?;
    unmute_users(&request, &gateway, &users).await?;
    let data: Vec<_> = users.iter().map(|user| json!({"result": true, "user": user})).collect();
    Ok(request.data("delete", data))
}

async fn unmute_users(
    request: &VendorRequest,
    gateway: &Gateway,
    users: &[String],
) -> Result<(), Failure> {
    let room = request.segment("room");
    let message = pb::UnmuteMembersRequest {
        app: request.app.clone(),
        room: room.clone(),
        users: users.to_vec(),
        reason: String::new(),
        request_id: request.request_id.clone(),
    };
    into_message(gateway.api.unmute_members(rpc(&request.caller, message)).await, &room).map(drop)
}

/// SDKs send all sorts of values, so a missing or malformed one is not an error.
#[derive(Deserialize)]
struct Paging {
    pagenum: Option<String>,
    pagesize: Option<String>,
}

impl Paging {
    /// Elements to skip, and elements to return; none unless both parameters are positive numbers.
    fn window(&self) -> Option<(i32, i32)> {
        let positive =
            |text: &Option<String>| text.as_ref()?.parse::<i32>().ok().filter(|number| *number > 0);
        let number = positive(&self.pagenum)?;
        let size = positive(&self.pagesize)?.min(PAGE_SIZE);
        Some(((number - 1).saturating_mul(size), size))
    }
}

#[derive(Serialize)]
struct MutedElement {
    expire: u64,
    user: String,
}

async fn list_muted(
    request: VendorRequest,
    State(api): State<Api>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Outcome {
    let window = paging.ok().and_then(|Query(paging)| paging.window());
    let (skip, page_size) = window.unwrap_or((0, PAGE_SIZE));
    let room = request.segment("room");
    let first = pb::ListMutedMembersRequest {
        app: request.app.clone(),
        room: room.clone(),
        page_size,
        skip,
        ..Default::default()
    };
    let page =
        into_message(api.list_muted_members(rpc(&request.caller, first.clone())).await, &room)?;
    let element = |member: pb::MutedMember| MutedElement {
        expire: expire_ms(member.expire_time),
        user: member.user,
    };
    if window.is_some() {
        let data: Vec<_> = page.members.into_iter().map(element).collect();
        return Ok(request.data("post", data));
    }
    let api = api.clone();
    let caller = request.caller.counting(0);
    let next = move |page_token: String, _| {
        let api = api.clone();
        let caller = caller.clone();
        let message = pb::ListMutedMembersRequest { page_token, ..first.clone() };
        async move {
            api.wait_for_page_turn(&caller, &message.app).await?;
            let page = api.list_muted_members(rpc(&caller, message)).await?.into_inner();
            Ok((page.members.into_iter().map(element).collect(), page.next_page_token))
        }
    };
    let page = (page.members.into_iter().map(element).collect(), page.next_page_token);
    Ok(listing::stream(request.envelope_parts("post", false), page, next))
}

async fn ban(request: VendorRequest, State(api): State<Api>, body: Body) -> Outcome {
    let body = optional_object(body)?;
    let duration = match body.get("mute_duration") {
        None | Some(Value::Null) => MuteDuration::ForGood,
        value => MuteDuration::from_ms(value, request.now_ms())?,
    };
    if matches!(duration, MuteDuration::Zero) {
        return Err(Failure::argument(
            "mute_duration of a ban must be -1 (for good) or a number of milliseconds above 0",
        ));
    }
    let room = request.segment("room");
    let message = pb::BanRoomRequest {
        app: request.app.clone(),
        room: room.clone(),
        duration: duration.to_proto(),
        reason: String::new(),
        request_id: request.request_id.clone(),
    };
    let banned = into_message(api.ban_room(rpc(&request.caller, message)).await, &room)?;
    let expire = expire_ms(banned.ban.and_then(|ban| ban.expire_time));
    Ok(request.data("put", json!({"mute": true, "result": true, "expire": expire})))
}

async fn unban(request: VendorRequest, State(api): State<Api>) -> Outcome {
    let room = request.segment("room");
    let message = pb::UnbanRoomRequest {
        app: request.app.clone(),
        room: room.clone(),
        reason: String::new(),
        request_id: request.request_id.clone(),
    };
    into_message(api.unban_room(rpc(&request.caller, message)).await, &room)?;
    Ok(request.data("put", json!({"mute": false, "result": true})))
}

#[derive(Serialize)]
struct RoomElement {
    id: String,
    name: String,
    description: String,
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    mute: bool,
    affiliations_count: usize,
    affiliations: Vec<Value>,
}

async fn get_room(request: VendorRequest, State(api): State<Api>) -> Outcome {
    let id = request.segment("room");
    let message =
        pb::GetRoomRequest { app: request.app.clone(), room: id.clone(), ..Default::default() };
    let response = into_message(api.get_room(rpc(&request.caller, message)).await, &id)?;
    Ok(request.data("get", [room_element(id, response)]))
}

fn room_element(id: String, response: pb::GetRoomResponse) -> RoomElement {
    let room = response.room.unwrap_or_default();
    let owner = Some(&room.owner).filter(|owner| !owner.is_empty());
    let admins = room.admins.iter().map(|admin| json!({"admin": admin}));
    let affiliations: Vec<_> =
        owner.map(|owner| json!({"owner": owner})).into_iter().chain(admins).collect();
    RoomElement {
        id,
        mute: response.ban.is_some(),
        created: room.create_time.map(|time| timestamp_ms(&time)),
        affiliations_count: affiliations.len(),
        affiliations,
        name: room.name,
        description: room.description,
        owner: room.owner,
    }
}

async fn list_allowed(request: VendorRequest, State(api): State<Api>) -> Outcome {
    let room = request.segment("room");
    let first = pb::ListAllowedMembersRequest {
        app: request.app.clone(),
        room: room.clone(),
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    let page =
        into_message(api.list_allowed_members(rpc(&request.caller, first.clone())).await, &room)?;
    let element = |member: pb::AllowedMember| member.user;
    let api = api.clone();
    let caller = request.caller.counting(0);
    let next = move |page_token: String, _| {
        let api = api.clone();
        let caller = caller.clone();
        let message = pb::ListAllowedMembersRequest { page_token, ..first.clone() };
        async move {
            api.wait_for_page_turn(&caller, &message.app).await?;
            let page = api.list_allowed_members(rpc(&caller, message)).await?.into_inner();
            Ok((page.members.into_iter().map(element).collect(), page.next_page_token))
        }
    };
    let page = (page.members.into_iter().map(element).collect(), page.next_page_token);
    Ok(listing::stream(request.envelope_parts("get", true), page, next))
}

async fn is_allowed(request: VendorRequest, State(gateway): State<Gateway>) -> Outcome {
    let room = request.segment("room");
    let user = request.segment("users");
    check_name(&user)?;
    let users = vec![user.clone()];
    let message = pb::ListAllowedMembersRequest {
        app: request.app.clone(),
        room: room.clone(),
        users,
        ..Default::default()
    };
    let found =
        into_message(gateway.api.list_allowed_members(rpc(&request.caller, message)).await, &room)?;
    Ok(request.data("get", json!({"member": user, "white": !found.members.is_empty()})))
}

async fn allow_one(request: VendorRequest, State(gateway): State<Gateway>) -> Outcome {
    let user = request.segment("users");
    check_name(&user)?;
    let mut elements = allow(&request, &gateway, vec![user]).await?;
    Ok(request.data("post", elements.pop()))
}

async fn allow_many(request: VendorRequest, State(gateway): State<Gateway>, body: Body) -> Outcome {
    let users = usernames(
        &json_object(body)?,
        gateway.max_users,
        "usernames size is more than max limit : ",
    )?;
    Ok(request.data("post", allow(&request, &gateway, users).await?))
}

async fn allow(
    request: &VendorRequest,
    gateway: &Gateway,
    users: Vec<String>,
) -> Result<Vec<Value>, Failure> {
    let room = request.segment("room");
    let message = pb::AllowMembersRequest {
        app: request.app.clone(),
        room: room.clone(),
        users: users.clone(),
        reason: String::new(),
        request_id: request.request_id.clone(),
    };
    into_message(gateway.api.allow_members(rpc(&request.caller, message)).await, &room)?;
    Ok(allow_elements(&users, &room, "add_user_whitelist"))
}

async fn disallow(request: VendorRequest, State(gateway): State<Gateway>) -> Outcome {
    let users =
        path_users(&request, gateway.max_users, "removeWhitelist size is more than max limit : ")?;
    let room = request.segment("room");
    let message = pb::DisallowMembersRequest {
        app: request.app.clone(),
        room: room.clone(),
        users: users.clone(),
        reason: String::new(),
        request_id: request.request_id.clone(),
    };
    into_message(gateway.api.disallow_members(rpc(&request.caller, message)).await, &room)?;
    Ok(request.data("delete", allow_elements(&users, &room, "remove_user_whitelist")))
}

fn allow_elements(users: &[String], room: &str, action: &str) -> Vec<Value> {
    users
        .iter()
        .map(|user| json!({"result": true, "action": action, "user": user, "chatroomid": room}))
        .collect()
}

/// Whether a member mute or a user mute forbids the user to speak here.
async fn is_muted(request: VendorRequest, State(api): State<Api>) -> Outcome {
    let room = request.segment("room");
    let user = request.segment("user");
    check_name(&user)?;
    let message = pb::CheckSendRequest {
        app: request.app.clone(),
        room: room.clone(),
        user: user.clone(),
        ..Default::default()
    };
    let checked = into_message(api.check_send(rpc(&request.caller, message)).await, &room)
        .map_err(|failure| failure.naming_user(&user))?;
    Ok(request.data("get", matches!(checked.rule(), pb::Rule::MemberMute | pb::Rule::UserMute)))
}

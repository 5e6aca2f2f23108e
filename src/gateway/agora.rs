//! The paths of Agora Chat and Easemob: `/{org_name}/{app_name}/...`, and `/app-id/{app_id}/...` where an app has one word for a key.
//!
//! Quirks that live here: at most 60 users a call, each limit with its own words; one unknown user fails the whole call; -1 is for good and
//! has a constant as its end; a list names `post` as its action; users are held to `A-Z a-z 0-9 _ - .`, and echoed as they were written.

use axum::{
    Router,
    body::Bytes,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{delete, get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tonic::Status;

use self::envelope::{Anybody, Ask, Failure, object};
use super::{Gateway, rpc};
use crate::{
    grpc::{Api, status::Told},
    proto::v1::{
        self as pb, directory_service_server::DirectoryService as _, mute_service_server::MuteService as _,
        token_service_server::TokenService as _,
    },
};

mod envelope;
mod list;

pub(super) use envelope::render;

/// The end of what is for good, and of whatever would end after it.
const FOR_GOOD_MS: u64 = 4_638_873_600_000;
/// Elements of a streamed list that are asked for at once.
const PAGE: i32 = 1_000;
/// What `expires_in` says of a token without end.
const NO_END_S: i64 = i32::MAX as i64;

type Body = Result<Bytes, BytesRejection>;
type Outcome = Result<Response, Failure>;

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
            .route(&path("/chatrooms/{room}/white/users/{users}"), post(allow_one).get(is_allowed).delete(disallow))
            .route(&path("/sdk/chatrooms/{room}/mute/{user}"), get(is_muted))
            .route(&path("/users"), post(create_users))
            .route(&path("/token"), post(issue_token))
    })
}

/// An error for a request that reaches no handler.
pub(super) fn refuse(status: StatusCode) -> Response {
    Failure::of_status(status).into_response()
}

async fn mute(ask: Ask, State(gateway): State<Gateway>, body: Body) -> Outcome {
    let body = object(body)?;
    let span = Span::of(body.get("mute_duration"), ask.now_ms())?;
    let users = usernames(&body, gateway.max_users, "userNames size is more than max limit : ")?;
    let room = ask.segment("room");
    let expire = if matches!(span, Span::Nothing) {
        let message =
            pb::UnmuteMembersRequest { app: ask.app.clone(), room: room.clone(), users: users.clone(), ..Default::default() };
        told(gateway.api.unmute_members(rpc(&ask.caller, message)).await, &room)?;
        ask.now_ms()
    } else {
        let message = pb::MuteMembersRequest {
            app: ask.app.clone(),
            room: room.clone(),
            users: users.clone(),
            duration: span.duration(),
            reason: String::new(),
        };
        let muted = told(gateway.api.mute_members(rpc(&ask.caller, message)).await, &room)?;
        expire_ms(muted.members.first().and_then(|member| member.expire_time))
    };
    let data: Vec<_> = users.iter().map(|user| json!({"result": true, "expire": expire, "user": user})).collect();
    Ok(ask.data("post", data))
}

async fn unmute(ask: Ask, State(gateway): State<Gateway>) -> Outcome {
    let users = path_users(&ask, gateway.max_users, "removeMute member size more than max limit :  ")?;
    let room = ask.segment("room");
    let message =
        pb::UnmuteMembersRequest { app: ask.app.clone(), room: room.clone(), users: users.clone(), ..Default::default() };
    told(gateway.api.unmute_members(rpc(&ask.caller, message)).await, &room)?;
    let data: Vec<_> = users.iter().map(|user| json!({"result": true, "user": user})).collect();
    Ok(ask.data("delete", data))
}

/// SDKs send these as they like, so neither a missing nor a strange one is an error.
#[derive(Deserialize)]
struct Paging {
    pagenum: Option<String>,
    pagesize: Option<String>,
}

impl Paging {
    /// Elements to leave out, and elements to tell; where both are positive numbers.
    fn window(&self) -> Option<(i32, i32)> {
        let positive = |text: &Option<String>| text.as_ref()?.parse::<i32>().ok().filter(|number| *number > 0);
        let (number, size) = (positive(&self.pagenum)?, positive(&self.pagesize)?.min(PAGE));
        Some(((number - 1).saturating_mul(size), size))
    }
}

#[derive(Serialize)]
struct MutedElement {
    expire: u64,
    user: String,
}

async fn list_muted(ask: Ask, State(api): State<Api>, paging: Result<Query<Paging>, QueryRejection>) -> Outcome {
    let window = paging.ok().and_then(|Query(paging)| paging.window());
    let (skip, page_size) = window.unwrap_or((0, PAGE));
    let room = ask.segment("room");
    let first = pb::ListMutedMembersRequest { app: ask.app.clone(), room: room.clone(), page_size, skip, ..Default::default() };
    let page = told(api.list_muted_members(rpc(&ask.caller, first.clone())).await, &room)?;
    let element = |member: pb::MutedMember| MutedElement { expire: expire_ms(member.expire_time), user: member.user };
    if window.is_some() {
        let data: Vec<_> = page.members.into_iter().map(element).collect();
        return Ok(ask.data("post", data));
    }
    let (api, caller) = (api.clone(), ask.caller.counted());
    let next = move |page_token: String| {
        let (api, caller, message) = (api.clone(), caller.clone(), pb::ListMutedMembersRequest { page_token, ..first.clone() });
        async move {
            let page = api.list_muted_members(rpc(&caller, message)).await?.into_inner();
            Ok((page.members.into_iter().map(element).collect(), page.next_page_token))
        }
    };
    let page = (page.members.into_iter().map(element).collect(), page.next_page_token);
    Ok(list::stream(&ask, "post", false, page, next))
}

async fn ban(ask: Ask, State(api): State<Api>, body: Body) -> Outcome {
    let body = super::bytes(body)?;
    let body = if body.is_empty() { Map::new() } else { object(Ok(body))? };
    let span = match body.get("mute_duration") {
        None | Some(Value::Null) => Span::ForGood,
        duration => Span::of(duration, ask.now_ms())?,
    };
    if matches!(span, Span::Nothing) {
        return Err(Failure::argument("mute_duration of a ban is -1 for good, or more than 0 milliseconds"));
    }
    let room = ask.segment("room");
    let message =
        pb::BanRoomRequest { app: ask.app.clone(), room: room.clone(), duration: span.duration(), reason: String::new() };
    let banned = told(api.ban_room(rpc(&ask.caller, message)).await, &room)?;
    let expire = expire_ms(banned.ban.and_then(|ban| ban.expire_time));
    Ok(ask.data("put", json!({"mute": true, "result": true, "expire": expire})))
}

async fn unban(ask: Ask, State(api): State<Api>) -> Outcome {
    let room = ask.segment("room");
    let message = pb::UnbanRoomRequest { app: ask.app.clone(), room: room.clone(), reason: String::new() };
    told(api.unban_room(rpc(&ask.caller, message)).await, &room)?;
    Ok(ask.data("put", json!({"mute": false, "result": true})))
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

async fn get_room(ask: Ask, State(api): State<Api>) -> Outcome {
    let id = ask.segment("room");
    let message = pb::GetRoomRequest { app: ask.app.clone(), room: id.clone() };
    let seen = told(api.get_room(rpc(&ask.caller, message)).await, &id)?;
    Ok(ask.data("get", [room_element(id, seen)]))
}

fn room_element(id: String, seen: pb::GetRoomResponse) -> RoomElement {
    let room = seen.room.unwrap_or_default();
    let owner = Some(&room.owner).filter(|owner| !owner.is_empty());
    let admins = room.admins.iter().map(|admin| json!({"admin": admin}));
    let affiliations: Vec<_> = owner.map(|owner| json!({"owner": owner})).into_iter().chain(admins).collect();
    RoomElement {
        id,
        mute: seen.ban.is_some(),
        created: room.create_time.map(|time| timestamp_ms(&time)),
        affiliations_count: affiliations.len(),
        affiliations,
        name: room.name,
        description: room.description,
        owner: room.owner,
    }
}

async fn list_allowed(ask: Ask, State(api): State<Api>) -> Outcome {
    let room = ask.segment("room");
    let first = pb::ListAllowedMembersRequest { app: ask.app.clone(), room: room.clone(), page_size: PAGE, ..Default::default() };
    let page = told(api.list_allowed_members(rpc(&ask.caller, first.clone())).await, &room)?;
    let element = |member: pb::AllowedMember| member.user;
    let (api, caller) = (api.clone(), ask.caller.counted());
    let next = move |page_token: String| {
        let (api, caller, message) = (api.clone(), caller.clone(), pb::ListAllowedMembersRequest { page_token, ..first.clone() });
        async move {
            let page = api.list_allowed_members(rpc(&caller, message)).await?.into_inner();
            Ok((page.members.into_iter().map(element).collect(), page.next_page_token))
        }
    };
    let page = (page.members.into_iter().map(element).collect(), page.next_page_token);
    Ok(list::stream(&ask, "get", true, page, next))
}

async fn is_allowed(ask: Ask, State(gateway): State<Gateway>) -> Outcome {
    let (room, user) = (ask.segment("room"), ask.segment("users"));
    check_name(&user)?;
    let users = vec![user.clone()];
    let message = pb::ListAllowedMembersRequest { app: ask.app.clone(), room: room.clone(), users, ..Default::default() };
    let found = told(gateway.api.list_allowed_members(rpc(&ask.caller, message)).await, &room)?;
    Ok(ask.data("get", json!({"member": user, "white": !found.members.is_empty()})))
}

async fn allow_one(ask: Ask, State(gateway): State<Gateway>) -> Outcome {
    let user = ask.segment("users");
    check_name(&user)?;
    let mut changed = allow(&ask, &gateway, vec![user]).await?;
    Ok(ask.data("post", changed.pop()))
}

async fn allow_many(ask: Ask, State(gateway): State<Gateway>, body: Body) -> Outcome {
    let users = usernames(&object(body)?, gateway.max_users, "usernames size is more than max limit : ")?;
    Ok(ask.data("post", allow(&ask, &gateway, users).await?))
}

async fn allow(ask: &Ask, gateway: &Gateway, users: Vec<String>) -> Result<Vec<Value>, Failure> {
    let room = ask.segment("room");
    let message =
        pb::AllowMembersRequest { app: ask.app.clone(), room: room.clone(), users: users.clone(), reason: String::new() };
    told(gateway.api.allow_members(rpc(&ask.caller, message)).await, &room)?;
    Ok(allow_elements(&users, &room, "add_user_whitelist"))
}

async fn disallow(ask: Ask, State(gateway): State<Gateway>) -> Outcome {
    let users = path_users(&ask, gateway.max_users, "removeWhitelist size is more than max limit : ")?;
    let room = ask.segment("room");
    let message =
        pb::DisallowMembersRequest { app: ask.app.clone(), room: room.clone(), users: users.clone(), reason: String::new() };
    told(gateway.api.disallow_members(rpc(&ask.caller, message)).await, &room)?;
    Ok(ask.data("delete", allow_elements(&users, &room, "remove_user_whitelist")))
}

fn allow_elements(users: &[String], room: &str, action: &str) -> Vec<Value> {
    users.iter().map(|user| json!({"result": true, "action": action, "user": user, "chatroomid": room})).collect()
}

async fn is_muted(ask: Ask, State(api): State<Api>) -> Outcome {
    let (room, user) = (ask.segment("room"), ask.segment("user"));
    check_name(&user)?;
    let message = pb::CheckSendRequest { app: ask.app.clone(), room: room.clone(), user: user.clone() };
    let checked = told(api.check_send(rpc(&ask.caller, message)).await, &room).map_err(|failure| failure.naming(&user))?;
    Ok(ask.data("get", checked.rule() == pb::Rule::MemberMute))
}

async fn create_room(ask: Ask, State(api): State<Api>, body: Body) -> Outcome {
    let body = object(body)?;
    let owner = string(&body, "owner")?;
    owner.as_deref().map(check_name).transpose()?;
    let message = pb::UpsertRoomRequest {
        app: ask.app.clone(),
        name: string(&body, "name")?,
        description: string(&body, "description")?,
        owner: owner.clone(),
        ..Default::default()
    };
    let written = told(api.upsert_room(rpc(&ask.caller, message)).await, "");
    let written = written.map_err(|failure| failure.naming(owner.as_deref().unwrap_or_default()))?;
    Ok(ask.data("post", json!({"id": written.room.unwrap_or_default().room})))
}

async fn delete_room(ask: Ask, State(api): State<Api>) -> Outcome {
    let room = ask.segment("room");
    let message = pb::DeleteRoomRequest { app: ask.app.clone(), room: room.clone() };
    let deleted = told(api.delete_room(rpc(&ask.caller, message)).await, &room)?;
    if deleted.was_registered {
        Ok(ask.data("delete", json!({"success": true, "id": room})))
    } else {
        Err(Failure::no_room(&room))
    }
}

async fn create_users(ask: Ask, State(gateway): State<Gateway>, body: Body) -> Outcome {
    let users = match super::json(body)? {
        Value::Array(users) => users,
        user => vec![user],
    };
    if users.is_empty() {
        return Err(Failure::argument("the body names no user"));
    }
    if users.len() > gateway.max_users {
        return Err(Failure::too_many(format!("users size is more than max limit : {}", gateway.max_users)));
    }
    let messages = users.iter().map(|user| user_message(&ask, user)).collect::<Result<Vec<_>, _>>()?;
    let mut caller = ask.caller.clone();
    let mut entities = Vec::with_capacity(messages.len());
    for message in messages {
        let name = message.client.as_ref().map(|client| client.user.clone()).unwrap_or_default();
        let written = told(gateway.api.upsert_client(rpc(&caller, message)).await, "")?;
        entities.push(user_entity(&ask, &name, written.client.unwrap_or_default()));
        caller = caller.counted();
    }
    Ok(ask.entities("post", &entities))
}

fn user_message(ask: &Ask, user: &Value) -> Result<pb::UpsertClientRequest, Failure> {
    let user = user.as_object().ok_or_else(|| Failure::argument("a user is a JSON object"))?;
    let name = string(user, "username")?.ok_or_else(|| Failure::argument("username is missing"))?;
    check_name(&name)?;
    let client = pb::Client { user: name, nickname: string(user, "nickname")?, ..Default::default() };
    Ok(pb::UpsertClientRequest { app: ask.app.clone(), client: Some(client), issue_access_token: false })
}

fn user_entity(ask: &Ask, name: &str, client: pb::Client) -> Value {
    let uuid = uuid::Uuid::new_v5(&ask.application(), client.user.as_bytes());
    let ms = |time: Option<prost_types::Timestamp>| time.map(|time| timestamp_ms(&time));
    let mut entity = json!({"uuid": uuid, "type": "user", "username": name, "activated": true});
    entity["created"] = json!(ms(client.create_time));
    entity["modified"] = json!(ms(client.update_time));
    if let Some(nickname) = client.nickname {
        entity["nickname"] = json!(nickname);
    }
    entity
}

async fn issue_token(Anybody(ask): Anybody, State(api): State<Api>, body: Body) -> Outcome {
    let body = object(body)?;
    if body.get("grant_type").and_then(Value::as_str) != Some("client_credentials") {
        return Err(Failure::argument("grant_type is client_credentials"));
    }
    let message = pb::IssueTokenRequest {
        app: ask.app.clone(),
        client_id: string(&body, "client_id")?.unwrap_or_default(),
        client_secret: string(&body, "client_secret")?.unwrap_or_default(),
        ttl: ttl(body.get("ttl"))?.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    };
    let issued = told(api.issue_token(tonic::Request::new(message)).await, "")?;
    let expires_in = issued.ttl.map_or(NO_END_S, |ttl| ttl.seconds);
    let answer = json!({"access_token": issued.access_token, "expires_in": expires_in, "application": ask.application()});
    Ok(super::answer(StatusCode::OK, &answer, None))
}

/// Seconds, as a number or as text.
fn ttl(value: Option<&Value>) -> Result<Option<i64>, Failure> {
    let seconds = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_i64(),
    };
    let seconds = seconds.filter(|seconds| (0..=NO_END_S).contains(seconds));
    seconds.map(Some).ok_or_else(|| Failure::argument("ttl is a number of seconds from 0 to 2147483647"))
}

/// What a `mute_duration` says.
enum Span {
    /// 0: the mute is to end.
    Nothing,
    /// -1, or an end past what the vendor has a number for.
    ForGood,
    Ms(u64),
}

impl Span {
    fn of(value: Option<&Value>, now_ms: u64) -> Result<Self, Failure> {
        let wrong = || Failure::argument("mute_duration is a number of milliseconds; -1 is for good, 0 ends the mute");
        let value = value.ok_or_else(wrong)?;
        // A whole number past the 64 bits, or written with a point, is still a number.
        let ms = match (value.as_i64(), value.as_f64()) {
            (Some(ms), _) => ms,
            (None, Some(ms)) if ms.fract() == 0.0 => ms as i64,
            _ => return Err(wrong()),
        };
        match u64::try_from(ms) {
            Ok(0) => Ok(Self::Nothing),
            Ok(ms) if now_ms.saturating_add(ms) > FOR_GOOD_MS => Ok(Self::ForGood),
            Ok(ms) => Ok(Self::Ms(ms)),
            Err(_) if ms == -1 => Ok(Self::ForGood),
            Err(_) => Err(wrong()),
        }
    }

    fn duration(&self) -> Option<prost_types::Duration> {
        match self {
            Self::Nothing | Self::ForGood => None,
            Self::Ms(ms) => Some(prost_types::Duration { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000 * 1_000_000) as i32 }),
        }
    }
}

fn expire_ms(time: Option<prost_types::Timestamp>) -> u64 {
    time.map_or(FOR_GOOD_MS, |time| timestamp_ms(&time).min(FOR_GOOD_MS))
}

fn timestamp_ms(time: &prost_types::Timestamp) -> u64 {
    u64::try_from(time.seconds).unwrap_or(0) * 1_000 + u64::try_from(time.nanos).unwrap_or(0) / 1_000_000
}

/// The users of a body: an array, or one name as a string.
fn usernames(body: &Map<String, Value>, max: usize, too_many: &str) -> Result<Vec<String>, Failure> {
    let wrong = || Failure::argument("usernames is an array of user ids");
    let users = match body.get("usernames") {
        Some(Value::String(user)) => vec![user.clone()],
        Some(Value::Array(users)) => {
            users.iter().map(|user| user.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong()),
    };
    limited(users, max, too_many)
}

/// The users of a path, separated by commas, which the caller may have percent-encoded.
fn path_users(ask: &Ask, max: usize, too_many: &str) -> Result<Vec<String>, Failure> {
    let users = ask.segment("users").split(',').filter(|user| !user.is_empty()).map(str::to_owned).collect();
    limited(users, max, too_many)
}

fn limited(users: Vec<String>, max: usize, too_many: &str) -> Result<Vec<String>, Failure> {
    if users.is_empty() {
        return Err(Failure::not_members(&[]));
    }
    if users.len() > max {
        return Err(Failure::too_many(format!("{too_many}{max}")));
    }
    users.iter().try_for_each(|user| check_name(user))?;
    Ok(users)
}

fn check_name(user: &str) -> Result<(), Failure> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=64).contains(&user.len()) && user.bytes().all(good) {
        Ok(())
    } else {
        Err(Failure::argument("a username is 1 to 64 of A-Z a-z 0-9 _ - ."))
    }
}

fn string(body: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Failure::argument(format!("{name} is a string"))),
    }
}

fn told<T>(reply: Result<tonic::Response<T>, Status>, room: &str) -> Result<T, Failure> {
    reply.map(tonic::Response::into_inner).map_err(|status| Failure::of(Told::from(status), room))
}

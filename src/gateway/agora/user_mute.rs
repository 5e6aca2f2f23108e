//! User mutes, which the vendor calls global ones.
//!
//! Quirks that live here: durations and what is left of them are in seconds; the vendor mutes
//! one-to-one chats, groups and rooms apart, and this service knows rooms: the others are always 0.

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    envelope::{Body, Outcome, VendorRequest},
    failure::{Failure, into_message},
    fields::{Span, check_name, left_s, object, string},
};
use crate::{
    gateway::wire::rpc,
    grpc::Api,
    proto::v1::{self as pb, mute_service_server::MuteService as _},
};

/// Users in a page, at most, and where nobody says.
const MAX_PAGE: i32 = 50;

pub(super) async fn mute_user(
    request: VendorRequest,
    State(api): State<Api>,
    body: Body,
) -> Outcome {
    let body = object(body)?;
    let user =
        string(&body, "username")?.ok_or_else(|| Failure::argument("username is missing"))?;
    check_name(&user)?;
    refuse_others(&body)?;
    let (app, caller, request_id) =
        (request.app.clone(), &request.caller, request.request_id.clone());
    match Span::of_seconds(body.get("chatroom"), request.now_ms())? {
        Span::Nothing => {
            let message = pb::UnmuteUserRequest { app, user, reason: String::new(), request_id };
            into_message(api.unmute_user(rpc(caller, message)).await, "").map(|_| ())?;
        }
        span => {
            let message = pb::MuteUserRequest {
                app,
                user,
                duration: span.duration(),
                reason: String::new(),
                request_id,
            };
            into_message(api.mute_user(rpc(caller, message)).await, "").map(|_| ())?;
        }
    }
    Ok(request.data("post", json!({"result": "ok"})))
}

/// A mute that would not be kept must not be answered with "ok".
fn refuse_others(body: &Map<String, Value>) -> Result<(), Failure> {
    for name in ["chat", "groupchat"] {
        let is_off =
            body.get(name).is_none_or(|value| value.is_null() || value.as_f64() == Some(0.0));
        if !is_off {
            return Err(Failure::argument(format!(
                "{name} can only be 0: users are muted in chat rooms here"
            )));
        }
    }
    Ok(())
}

pub(super) async fn muted_user(request: VendorRequest, State(api): State<Api>) -> Outcome {
    let user = request.segment("user");
    check_name(&user)?;
    let message = pb::ListMutedUsersRequest {
        app: request.app.clone(),
        users: vec![user.clone()],
        ..Default::default()
    };
    let found = into_message(api.list_muted_users(rpc(&request.caller, message)).await, "")?;
    let now_ms = request.now_ms();
    let left = found.users.into_iter().next().map_or(0, |mute| left_s(mute.expire_time, now_ms));
    let data = json!({"userid": user, "chatroom": left, "chat": 0, "groupchat": 0, "unixtime": now_ms / 1_000});
    Ok(request.data("get", data))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Paging {
    page_num: Option<String>,
    page_size: Option<String>,
}

impl Paging {
    /// Elements to leave out, and elements to tell.
    fn window(&self) -> Result<(i32, i32), Failure> {
        let number = |name, text: &Option<String>, default, max| {
            let number = text.as_ref().map_or(Some(default), |text| text.parse::<i32>().ok());
            let number = number.filter(|number| (1..=max).contains(number));
            number.ok_or_else(|| Failure::argument(format!("{name} is a number from 1 to {max}")))
        };
        let size = number("pageSize", &self.page_size, MAX_PAGE, MAX_PAGE)?;
        Ok(((number("pageNum", &self.page_num, 1, i32::MAX)? - 1).saturating_mul(size), size))
    }
}

#[derive(Serialize)]
struct MutedElement {
    username: String,
    chatroom: i64,
}

pub(super) async fn list_muted_users(
    request: VendorRequest,
    State(api): State<Api>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Outcome {
    let Query(paging) = paging.map_err(|_| Failure::argument("the query is not well-formed"))?;
    let (skip, page_size) = paging.window()?;
    let message = pb::ListMutedUsersRequest {
        app: request.app.clone(),
        page_size,
        skip,
        ..Default::default()
    };
    let list = into_message(api.list_muted_users(rpc(&request.caller, message)).await, "")?;
    let now_ms = request.now_ms();
    let element = |mute: pb::MutedUser| MutedElement {
        username: mute.user,
        chatroom: left_s(mute.expire_time, now_ms),
    };
    let data: Vec<_> = list.users.into_iter().map(element).collect();
    Ok(request.data("get", json!({"data": data, "unixtime": now_ms / 1_000})))
}

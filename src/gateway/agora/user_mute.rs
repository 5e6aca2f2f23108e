//! User mutes, which the vendor calls global mutes.
//!
//! Quirks that live here: durations and remaining times are in seconds. The vendor mutes one-to-one
//! chats, groups and rooms separately; this service mutes in rooms only, so the other two are
//! always 0.

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    envelope::{Body, Outcome, VendorRequest},
    failure::{Failure, into_message},
    fields::{MuteDuration, check_name, json_object, remaining_s},
};
use crate::{
    gateway::wire::{optional_string, rpc},
    grpc::Api,
    proto::v1::{self as pb, mute_service_server::MuteService as _},
};

/// The maximum of `pageSize`, and its default.
const MAX_PAGE_SIZE: i32 = 50;

pub(super) async fn mute_user(
    request: VendorRequest,
    State(api): State<Api>,
    body: Body,
) -> Outcome {
    let body = json_object(body)?;
    let user = optional_string(&body, "username")?
        .ok_or_else(|| Failure::argument("username is missing"))?;
    check_name(&user)?;
    refuse_unsupported(&body)?;
    let app = request.app.clone();
    let caller = &request.caller;
    let request_id = request.request_id.clone();
    match MuteDuration::from_seconds(body.get("chatroom"), request.now_ms())? {
        MuteDuration::Zero => {
            let message = pb::UnmuteUserRequest { app, user, reason: String::new(), request_id };
            into_message(api.unmute_user(rpc(caller, message)).await, "").map(|_| ())?;
        }
        duration => {
            let message = pb::MuteUserRequest {
                app,
                user,
                duration: duration.to_proto(),
                reason: String::new(),
                request_id,
            };
            into_message(api.mute_user(rpc(caller, message)).await, "").map(|_| ())?;
        }
    }
    Ok(request.data("post", json!({"result": "ok"})))
}

/// Refuses a mute in one-to-one chats or groups: "ok" would promise a mute that has no effect.
fn refuse_unsupported(body: &Map<String, Value>) -> Result<(), Failure> {
    for name in ["chat", "groupchat"] {
        let is_off =
            body.get(name).is_none_or(|value| value.is_null() || value.as_f64() == Some(0.0));
        if !is_off {
            return Err(Failure::argument(format!(
                "{name} must be 0: this service mutes users in chat rooms only"
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
    let list = into_message(api.list_muted_users(rpc(&request.caller, message)).await, "")?;
    let now_ms = request.now_ms();
    let remaining_s =
        list.users.into_iter().next().map_or(0, |mute| remaining_s(mute.expire_time, now_ms));
    let data = json!({
        "userid": user,
        "chatroom": remaining_s,
        "chat": 0,
        "groupchat": 0,
        "unixtime": now_ms / 1_000,
    });
    Ok(request.data("get", data))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Paging {
    page_num: Option<String>,
    page_size: Option<String>,
}

impl Paging {
    /// Elements to skip, and elements to return.
    fn window(&self) -> Result<(i32, i32), Failure> {
        let number = |name, text: &Option<String>, default, max| {
            let number = text.as_ref().map_or(Some(default), |text| text.parse::<i32>().ok());
            let number = number.filter(|number| (1..=max).contains(number));
            number.ok_or_else(|| {
                Failure::argument(format!("{name} must be a number from 1 to {max}"))
            })
        };
        let size = number("pageSize", &self.page_size, MAX_PAGE_SIZE, MAX_PAGE_SIZE)?;
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
    let Query(paging) = paging.map_err(|_| Failure::argument("the query cannot be parsed"))?;
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
        chatroom: remaining_s(mute.expire_time, now_ms),
    };
    let data: Vec<_> = list.users.into_iter().map(element).collect();
    Ok(request.data("get", json!({"data": data, "unixtime": now_ms / 1_000})))
}

//! The JSON of a client: in answers to admins and to the user itself, and in request bodies.

use prost_types::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    envelope::{Address, Me},
    failure::Failure,
};
use crate::{gateway::wire::optional_string, proto::v1 as pb};

/// Fields that the service sets or stores apart. All others are custom fields.
const RESERVED_FIELDS: [&str; 17] = [
    "_id",
    "id",
    "__v",
    "appID",
    "mute",
    "updatedAt",
    "nickname",
    "avatarUrl",
    "description",
    "email",
    "isRobot",
    "address",
    "userAgent",
    "lastLoginTimeMS",
    "issueAccessToken",
    "token",
    "expirationDate",
];

/// A client as an admin sees it. A field without a value is absent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminView {
    mute: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_robot: Option<bool>,
    #[serde(rename = "_id")]
    mongo_id: String,
    #[serde(rename = "__v")]
    version: u8,
    #[serde(rename = "appID")]
    app_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nickname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    id: String,
    #[serde(rename = "lastLoginTimeMS", skip_serializing_if = "Option::is_none")]
    last_login_time_ms: Option<i64>,
    #[serde(flatten)]
    custom: Map<String, Value>,
}

pub(super) fn admin_view(app: &str, client: pb::Client) -> AdminView {
    let address = |address: pb::ClientAddress| {
        Address::new(address.address, &address.family, Some(address.port))
    };
    AdminView {
        mute: client.muted_rooms,
        is_robot: client.is_robot,
        mongo_id: client.user.clone(),
        version: 0,
        app_id: app.to_owned(),
        description: client.description,
        avatar_url: client.avatar_url,
        nickname: client.nickname,
        email: client.email,
        address: client.address.map(address),
        user_agent: client.user_agent,
        updated_at: client.update_time.as_ref().map(rfc3339),
        id: client.user,
        last_login_time_ms: client
            .last_login_time
            .map(|time| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000),
        custom: custom_fields(serde_json::from_str(&client.custom_json).unwrap_or_default()),
    }
}

/// A client as the user itself sees it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnView {
    #[serde(rename = "_id")]
    mongo_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nickname: Option<String>,
    #[serde(rename = "appID")]
    app_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    mute: Vec<String>,
    #[serde(rename = "lastLoginTimeMS")]
    last_login_time_ms: u64,
}

pub(super) fn own_view(me: &Me, client: pb::Client) -> OwnView {
    OwnView {
        mongo_id: client.user,
        email: client.email,
        nickname: client.nickname,
        app_id: me.app.clone(),
        avatar_url: client.avatar_url,
        address: me.address(),
        user_agent: me.user_agent.clone(),
        mute: client.muted_rooms,
        last_login_time_ms: me.started_ms,
    }
}

fn custom_fields(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.retain(|name, _| !RESERVED_FIELDS.contains(&name.as_str()));
    fields
}

/// Parses the client of a body. Fields that are not reserved are custom fields.
pub(super) fn parse(mut body: Map<String, Value>) -> Result<pb::Client, Failure> {
    let user = optional_string(&body, "_id")?
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::invalid("_id is missing"))?;
    let client = pb::Client {
        user,
        nickname: optional_string(&body, "nickname")?,
        avatar_url: optional_string(&body, "avatarUrl")?,
        description: optional_string(&body, "description")?,
        email: optional_string(&body, "email")?,
        is_robot: optional_bool(&body, "isRobot")?,
        ..Default::default()
    };
    body = custom_fields(body);
    let custom_json = if body.is_empty() { String::new() } else { Value::Object(body).to_string() };
    Ok(pb::Client { custom_json, ..client })
}

/// A field that is true, false, null or absent.
pub(super) fn optional_bool(
    body: &Map<String, Value>,
    name: &str,
) -> Result<Option<bool>, Failure> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(Failure::invalid(format!("{name} must be true or false"))),
    }
}

/// RFC 3339, always with milliseconds.
pub(super) fn rfc3339(time: &Timestamp) -> String {
    let text = time.to_string();
    if text.contains('.') { text } else { text.replace('Z', ".000Z") }
}

//! Dev mode: apps, keys, users and rooms with which the examples in the vendors' documents work.
//! They exist with `--dev` only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    auth::{
        Credential, Principal, Scope,
        apps::{AppConfig, Directory},
        credentials::{Caller, ServiceConfig},
        secret::{KeyHash, Secret},
    },
    error::Error,
    model::{Address, AppKey, RoomId},
    service::{ClientPatch, RequestContext, RoomPatch, Service},
};

/// The app in Agora's and Easemob's documents.
pub const AGORA_APP: &str = "easemob-demo#testapp";
/// The app in IMKit's documents.
pub const IMKIT_APP: &str = "SampleApp";
/// The user in IMKit's `/me` documents.
pub const IMKIT_USER: &str = "1485248560558";

const CLIENT_ID: &str = "dev-client";
const CLIENT_SECRET: &str = "dev-secret";
const API_KEY: &str = "dev-api-key";
const CLIENT_KEY: &str = "dev-client-key";
const SERVICE_TOKEN: &str = "dev-service-token";
const BACKUP_TOKEN: &str = "dev-backup-token";
const AGORA_ROOM: &str = "1265710621211";

/// The two apps, with public keys.
#[must_use]
pub fn apps() -> [AppConfig; 2] {
    let app = |key: &str, is_case_insensitive| AppConfig {
        key: key.to_owned(),
        directory: Directory::Strict,
        case_insensitive_users: Some(is_case_insensitive),
        api_key_hash: Vec::new(),
        client_key_hash: Vec::new(),
        client_id: None,
        client_secret_hash: Vec::new(),
        token_secret: vec![Secret::new(format!("dev-token-secret of {key}"))],
        tokens_not_before: None,
        revoked_tokens: Vec::new(),
    };
    [
        AppConfig {
            client_id: Some(CLIENT_ID.to_owned()),
            client_secret_hash: vec![KeyHash::of(CLIENT_SECRET)],
            ..app(AGORA_APP, true)
        },
        AppConfig {
            api_key_hash: vec![KeyHash::of(API_KEY)],
            client_key_hash: vec![KeyHash::of(CLIENT_KEY)],
            ..app(IMKIT_APP, false)
        },
    ]
}

/// The internal service for backups, with a public token: an admin of every app.
#[must_use]
pub fn backup_service() -> ServiceConfig {
    ServiceConfig {
        name: "dev-backup".to_owned(),
        token_hash: vec![KeyHash::of(BACKUP_TOKEN)],
        scopes: vec![Scope::Admin],
        apps: vec!["*".to_owned()],
        ..service()
    }
}

/// The internal service for calls, with a public token and all scopes.
#[must_use]
pub fn service() -> ServiceConfig {
    ServiceConfig {
        name: "dev".to_owned(),
        token_hash: vec![KeyHash::of(SERVICE_TOKEN)],
        cert_names: Vec::new(),
        issuer: None,
        subjects: Vec::new(),
        scopes: vec![Scope::Check, Scope::Write, Scope::Admin],
        apps: vec![AGORA_APP.to_owned(), IMKIT_APP.to_owned()],
    }
}

/// Registers the clients and rooms of the documents that are not registered yet.
pub async fn seed(service: &Service) -> Result<(), Error> {
    let agora = admin_context(service, AGORA_APP)?;
    for user in ["user1", "user2", "user3", "user4", "user5", "owner1"] {
        seed_client(service, &agora, user, ClientPatch::default()).await?;
    }
    let room = RoomPatch {
        name: Some("testchatroom".to_owned()),
        owner: Some("owner1".to_owned()),
        ..RoomPatch::default()
    };
    seed_room(service, &agora, AGORA_ROOM, room).await?;
    let imkit = admin_context(service, IMKIT_APP)?;
    seed_client(service, &imkit, "aaa", admin_example()).await?;
    seed_client(service, &imkit, IMKIT_USER, user_example()).await?;
    for room in ["demo", "demo-room"] {
        seed_room(
            service,
            &imkit,
            room,
            RoomPatch { name: Some(room.to_owned()), ..RoomPatch::default() },
        )
        .await?;
    }
    Ok(())
}

/// The context of calls by an app's admin.
fn admin_context(service: &Service, app: &str) -> Result<RequestContext, Error> {
    let principal =
        Principal::AppAdmin { app: AppKey::parse(app.to_owned())?, by: Credential::Token };
    service.authorize(Caller::of(Ok(principal)), app.to_owned(), "Seed")
}

async fn seed_client(
    service: &Service,
    call: &RequestContext,
    user: &str,
    patch: ClientPatch,
) -> Result<(), Error> {
    let user = call.app.user(user.to_owned())?;
    if service.get_client(call, &user).is_err() {
        service.upsert_client(call, &user, &patch, |_| ()).await?;
    }
    Ok(())
}

async fn seed_room(
    service: &Service,
    call: &RequestContext,
    room: &str,
    patch: RoomPatch,
) -> Result<(), Error> {
    let room = RoomId::parse(room.to_owned())?;
    if service.get_room(call, &room).is_err() {
        service.upsert_room(call, Some(&room), &patch, |_| ()).await?;
    }
    Ok(())
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// The client in IMKit's admin document.
fn admin_example() -> ClientPatch {
    ClientPatch {
        is_robot: Some(false),
        description: text("description la la #1541926309694"),
        avatar_url: text("http://loremflickr.com/240/240/style?1569804629"),
        nickname: text("AAA"),
        email: text("arielle.mckellar@coolgoose.ca"),
        address: Some(Address {
            address: "::1".to_owned(),
            family: "IPv6".to_owned(),
            port: 50_392,
        }),
        user_agent: text(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_3) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/80.0.3987.132 Safari/537.36",
        ),
        last_login_ms: Some(1_583_726_632_592),
        ..ClientPatch::default()
    }
}

/// The client in IMKit's `/me` document.
fn user_example() -> ClientPatch {
    ClientPatch {
        email: text("test@test.com"),
        nickname: text("Test AB"),
        avatar_url: text("http://example.com/avatarUrl"),
        last_login_ms: Some(1_487_068_306_745),
        ..ClientPatch::default()
    }
}

/// The address by which this machine reaches a listener.
fn from_here(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Commands to paste into a shell on this machine, for these addresses of gRPC, REST and admin, and
/// these tokens. `program` is how the shell calls this program. `has_backup`: there is
/// [`backup_service`].
#[must_use]
pub fn welcome(
    program: &str,
    addresses: [SocketAddr; 3],
    has_backup: bool,
    app_token: &str,
    user_token: &str,
) -> String {
    let is_public = addresses.iter().any(|addr| !addr.ip().is_loopback());
    let [grpc, rest, admin] = addresses.map(from_here);
    let reach = if is_public { "others can reach it, and" } else { "loopback addresses only:" };
    let backup = if has_backup {
        format!(
            "
Make a backup:
  MUTE_TOKEN={BACKUP_TOKEN} {program} backup --from {admin} --output mutes.backup
"
        )
    } else {
        String::new()
    };
    format!(
        "Dev mode, {reach} its keys are public.
  app {AGORA_APP}: client_id {CLIENT_ID}, client_secret {CLIENT_SECRET}; room {AGORA_ROOM}
  app {IMKIT_APP}: IM-API-KEY {API_KEY}, IM-CLIENT-KEY {CLIENT_KEY}; rooms demo, demo-room
  internal service, over gRPC at {grpc}: authorization: Bearer {SERVICE_TOKEN}

Ask from a shell whether a user may speak:
  MUTE_TOKEN={SERVICE_TOKEN} {program} ctl --addr {grpc} --app '{AGORA_APP}' check {AGORA_ROOM} user1
{backup}
Mute two members of a room (Agora, Easemob):
  curl -X POST -H 'Authorization: Bearer {app_token}' -d '{{\"usernames\":[\"user1\",\"user2\"],\"mute_duration\":86400000}}' 'http://{rest}/easemob-demo/testapp/chatrooms/{AGORA_ROOM}/mute'

Mute and unmute a room's notifications for a client, as admin (IMKit):
  curl -X POST 'http://{rest}/admin/clients/aaa/mute/demo' -H 'IM-API-KEY: {API_KEY}'
  curl -X DELETE 'http://{rest}/admin/clients/aaa/mute/demo' -H 'IM-API-KEY: {API_KEY}'

Mute and unmute a room's notifications, as that user (IMKit):
  curl -X POST 'http://{rest}/me/mute/demo-room' -H 'IM-CLIENT-KEY: {CLIENT_KEY}' -H 'IM-Authorization: {user_token}'
  curl -X DELETE 'http://{rest}/me/mute/demo-room' -H 'IM-CLIENT-KEY: {CLIENT_KEY}' -H 'IM-Authorization: {user_token}'
"
    )
}

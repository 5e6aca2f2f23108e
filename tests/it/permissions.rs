//! Who may do what: every RPC and every REST path, with a valid request, by every kind of caller,
//! against one table.
//!
//! What is not in the table fails, so that a new RPC or path comes with its row. A refusal is one
//! of permission or of credentials, whatever else may be wrong, and changes nothing.

use std::collections::BTreeSet;

use mute_service::{
    auth::{
        Credential, Principal, Scope,
        apps::AppConfig,
        credentials::{Caller as Known, Credentials, ServiceConfig},
        secret::{KeyHash, Secret},
    },
    dev,
    model::{AppKey, RoomId},
    service::{ClientPatch, RequestContext, RoomPatch},
    store::{EventRange, Revision},
    watch::Change,
};
use prost::Message as _;

mod requests;

use requests::rpcs;

use crate::{
    harness::*,
    openapi::{Operation, document, operations},
};

/// The columns of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    Nobody,
    /// Of the app, and neither the one that is asked about nor staff of the room.
    AnotherUser,
    /// The one that is asked about, who is no staff.
    UserItself,
    /// Admin of the room.
    Staff,
    Owner,
    /// With the app's token.
    AppAdmin,
    ApiKey,
    Service(Scope),
    /// These are of another app; the service has all scopes there.
    ServiceElsewhere,
    AppAdminElsewhere,
    UserElsewhere,
    ApiKeyElsewhere,
}

const CALLERS: [Caller; 14] = [
    Caller::Nobody,
    Caller::AnotherUser,
    Caller::UserItself,
    Caller::Staff,
    Caller::Owner,
    Caller::AppAdmin,
    Caller::ApiKey,
    Caller::Service(Scope::Check),
    Caller::Service(Scope::Write),
    Caller::Service(Scope::Admin),
    Caller::ServiceElsewhere,
    Caller::AppAdminElsewhere,
    Caller::UserElsewhere,
    Caller::ApiKeyElsewhere,
];

/// Each RPC and each operation of the OpenAPI document (one by an app's id is as the one by its
/// name), and what each of [`CALLERS`] gets: y: let through; n: PERMISSION_DENIED; m:
/// MISSING_TOKEN; t: INVALID_TOKEN; k: INVALID_API_KEY; c: INVALID_CLIENT_KEY. -: not asked,
/// because the key itself names the app, and the request would be one of that app.
#[rustfmt::skip]
const TABLE: &[(&str, &str)] = &[
    //                                     nobody | users:    | the app's: | services:    | foreign
    //                                            | an itself | token      | check        | service
    //                                            | staff own | key        |  write admin | key
    ("MuteMembers",                         "m      n n y y     y y          n y n          n t t k"),
    ("UnmuteMembers",                       "m      n n y y     y y          n y n          n t t k"),
    ("ListMutedMembers",                    "m      n n y y     y y          y n n          n t t k"),
    ("BanRoom",                             "m      n n y y     y y          n y n          n t t k"),
    ("UnbanRoom",                           "m      n n y y     y y          n y n          n t t k"),
    ("GetRoom",                             "m      y y y y     y y          y n n          n t t k"),
    ("AllowMembers",                        "m      n n y y     y y          n y n          n t t k"),
    ("DisallowMembers",                     "m      n n y y     y y          n y n          n t t k"),
    ("ListAllowedMembers",                  "m      n n y y     y y          y n n          n t t k"),
    ("ListAllowedMembers of some users",    "m      n n y y     y y          y n n          n t t k"),
    ("MuteUser",                            "m      n n n n     y y          n y n          n t t k"),
    ("UnmuteUser",                          "m      n n n n     y y          n y n          n t t k"),
    ("ListMutedUsers",                      "m      n n n n     y y          y n n          n t t k"),
    ("ListMutedUsers of some users",        "m      n n n n     y y          y n n          n t t k"),
    ("MuteRoomNotifications",               "m      n y n n     y y          n y n          n t t k"),
    ("UnmuteRoomNotifications",             "m      n y n n     y y          n y n          n t t k"),
    ("ListMutedRooms",                      "m      n y n n     y y          y n n          n t t k"),
    ("FilterRecipients",                    "m      n n n n     y y          y n n          n t t k"),
    ("CheckSend",                           "m      n y n n     y y          y n n          n t t k"),
    ("BatchCheckSend",                      "m      n y n n     y y          y n n          n t t k"),
    ("BatchCheckSend of two users",         "m      n n n n     y y          y n n          n t t k"),
    ("Watch",                               "m      n n n n     y y          y n n          n t t k"),
    ("Watch of a room",                     "m      n n n n     y y          y n n          n t t k"),
    ("ListEvents",                          "m      n n n n     y y          y n n          n t t k"),
    ("ListEvents of a room",                "m      n n y y     y y          y n n          n t t k"),
    ("UpsertClient",                        "m      n n n n     y y          n n y          n t t k"),
    ("UpsertClient with a token",           "m      n n n n     y y          n n n          n t t k"),
    ("GetClient",                           "m      n y n n     y y          y n n          n t t k"),
    ("ListClients",                         "m      n n n n     y y          y n n          n t t k"),
    ("DeleteClient",                        "m      n n n n     y y          n n y          n t t k"),
    ("UpsertRoom",                          "m      n n n n     y y          n n y          n t t k"),
    ("UpsertRoom of a new one",             "m      n n n n     y y          n n y          n t t k"),
    ("DeleteRoom",                          "m      n n n n     y y          n n y          n t t k"),
    ("ListRooms",                           "m      n n n n     y y          y n n          n t t k"),
    // Its own fields are the credential.
    ("IssueToken",                          "y      y y y y     y y          y y y          y y y y"),

    ("muteMembers",                         "m      n n y y     y y          n y n          n t t k"),
    ("unmuteMembers",                       "m      n n y y     y y          n y n          n t t k"),
    ("listMutedMembers",                    "m      n n y y     y y          y n n          n t t k"),
    ("isMuted",                             "m      n y n n     y y          y n n          n t t k"),
    ("banRoom",                             "m      n n y y     y y          n y n          n t t k"),
    ("unbanRoom",                           "m      n n y y     y y          n y n          n t t k"),
    ("listAllowed",                         "m      n n y y     y y          y n n          n t t k"),
    ("allowMembers",                        "m      n n y y     y y          n y n          n t t k"),
    ("isAllowed",                           "m      n n y y     y y          y n n          n t t k"),
    ("allowMember",                         "m      n n y y     y y          n y n          n t t k"),
    ("disallowMembers",                     "m      n n y y     y y          n y n          n t t k"),
    ("muteUser",                            "m      n n n n     y y          n y n          n t t k"),
    ("listMutedUsers",                      "m      n n n n     y y          y n n          n t t k"),
    ("getMutedUser",                        "m      n n n n     y y          y n n          n t t k"),
    ("issueToken",                          "y      y y y y     y y          y y y          y y y y"),
    ("createRoom",                          "m      n n n n     y y          n n y          n t t k"),
    ("getRoom",                             "m      y y y y     y y          y n n          n t t k"),
    ("deleteRoom",                          "m      n n n n     y y          n n y          n t t k"),
    ("createUsers",                         "m      n n n n     y y          n n y          n t t k"),
    // The admin's paths of IMKit are for API keys alone, and those of a user for itself alone.
    ("muteRoom",                            "k      k k k k     k y          k k k          k k k -"),
    ("unmuteRoom",                          "k      k k k k     k y          k k k          k k k -"),
    ("upsertClient",                        "k      k k k k     k y          k k k          k k k -"),
    ("listClients",                         "k      k k k k     k y          k k k          k k k -"),
    ("getClient",                           "k      k k k k     k y          k k k          k k k -"),
    ("deleteClient",                        "k      k k k k     k y          k k k          k k k -"),
    ("upsertRoom",                          "k      k k k k     k y          k k k          k k k -"),
    ("muteOwnRoom",                         "c      y y y y     t c          c c c          c t t c"),
    ("unmuteOwnRoom",                       "c      y y y y     t c          c c c          c t t c"),
    ("getMe",                               "c      y y y y     t c          c c c          c t t c"),
];

/// The app of the callers that are elsewhere.
const ELSEWHERE: &str = "Elsewhere";

/// Who and what is asked about in one app: what the examples of the document have.
#[derive(Clone, Copy)]
struct Stage {
    app: &'static str,
    room: &'static str,
    user: &'static str,
}

const STAGES: [Stage; 2] = [
    Stage { app: AGORA, room: ROOM, user: "user1" },
    Stage { app: IMKIT, room: "demo", user: "aaa" },
];

fn api_key(app: &str) -> String {
    format!("api key of {app}")
}

fn client_key(app: &str) -> String {
    format!("client key of {app}")
}

fn app_config(key: &str, config: AppConfig) -> AppConfig {
    AppConfig {
        key: key.to_owned(),
        api_key_hash: vec![KeyHash::of(&api_key(key))],
        client_key_hash: vec![KeyHash::of(&client_key(key))],
        client_id: Some("dev-client".to_owned()),
        client_secret_hash: vec![KeyHash::of("dev-secret")],
        ..config
    }
}

fn service(token: &str, scopes: &[Scope], apps: &[&str]) -> ServiceConfig {
    ServiceConfig {
        name: token.to_owned(),
        token_hash: vec![KeyHash::of(token)],
        scopes: scopes.to_vec(),
        apps: strings(apps),
        ..dev::service()
    }
}

/// A server whose apps know every kind of credential, and whose services have one scope each.
async fn server() -> Server {
    let server = Server::start().await;
    let dev = dev::apps();
    let elsewhere = AppConfig {
        token_secret: vec![Secret::new("the secret of another app")],
        ..dev[1].clone()
    };
    let mut apps: Vec<_> = dev.into_iter().map(|app| app_config(&app.key.clone(), app)).collect();
    apps.push(app_config(ELSEWHERE, elsewhere));
    let scopes = [Scope::Check, Scope::Write, Scope::Admin];
    let mut services: Vec<_> =
        scopes.map(|scope| service(&format!("{scope:?}"), &[scope], &[AGORA, IMKIT])).into();
    services.push(service("elsewhere", &scopes, &[ELSEWHERE]));
    let credentials = Credentials::new(&apps, &services, &[], server.clock.clone())
        .unwrap_or_else(|wrong| panic!("{wrong:?}"));
    server.service.access.replace(credentials).await;
    for stage in STAGES {
        stage.set(&server).await;
    }
    server
}

impl Stage {
    /// Everything that the requests are about is there.
    async fn set(self, server: &Server) {
        let service = &server.service;
        let call = self.as_admin(server);
        for user in [self.user, "user1", "user2", "user3", "another", "staff", "boss", "owner1"] {
            let user = call.app.user(user.to_owned()).unwrap();
            service.upsert_client(&call, &user, &ClientPatch::default(), |_| ()).await.unwrap();
        }
        let patch = RoomPatch {
            owner: Some("boss".to_owned()),
            admins: Some(vec!["staff".to_owned()]),
            ..RoomPatch::default()
        };
        let room = RoomId::parse(self.room.to_owned()).unwrap();
        service.upsert_room(&call, Some(&room), &patch, |_| ()).await.unwrap();
        // The one path that refuses to take away what is not there.
        let user = call.app.user(self.user.to_owned()).unwrap();
        service.mute_notifications(&call, &user, &room, None, |_| ()).await.unwrap();
    }

    fn as_admin(self, server: &Server) -> RequestContext {
        let app = AppKey::parse(self.app.to_owned()).unwrap();
        let principal = Ok(Principal::AppAdmin { app, by: Credential::Token });
        server.service.authorize(Known::of(principal), self.app.to_owned(), "Seed").unwrap()
    }

    fn token_of(self, server: &Server, caller: Caller) -> Option<String> {
        Some(match caller {
            Caller::AnotherUser => server.user_token(self.app, "another"),
            Caller::UserItself => server.user_token(self.app, self.user),
            Caller::Staff => server.user_token(self.app, "staff"),
            Caller::Owner => server.user_token(self.app, "boss"),
            Caller::AppAdmin => server.app_token(self.app),
            Caller::AppAdminElsewhere => server.app_token(ELSEWHERE),
            // Of the same name.
            Caller::UserElsewhere => server.user_token(ELSEWHERE, self.user),
            Caller::Nobody
            | Caller::ApiKey
            | Caller::Service(_)
            | Caller::ServiceElsewhere
            | Caller::ApiKeyElsewhere => {
                return None;
            }
        })
    }

    /// What the caller sends along; over the paths of a user for itself, tokens go with the app's
    /// client key.
    fn headers(
        self,
        server: &Server,
        caller: Caller,
        is_own_path: bool,
    ) -> Vec<(&'static str, String)> {
        if let Some(token) = self.token_of(server, caller) {
            return match is_own_path {
                true => vec![("IM-CLIENT-KEY", client_key(self.app)), ("IM-Authorization", token)],
                false => vec![("authorization", format!("Bearer {token}"))],
            };
        }
        match caller {
            Caller::ApiKey => vec![("IM-API-KEY", api_key(self.app))],
            Caller::ApiKeyElsewhere => vec![("IM-API-KEY", api_key(ELSEWHERE))],
            Caller::Service(scope) => vec![("authorization", format!("Bearer {scope:?}"))],
            Caller::ServiceElsewhere => vec![("authorization", "Bearer elsewhere".to_owned())],
            _ => Vec::new(),
        }
    }
}

/// What each caller gets, by the table.
fn expected(name: &str) -> impl Iterator<Item = (Caller, char)> {
    let (_, letters) =
        TABLE.iter().find(|(row, _)| *row == name).unwrap_or_else(|| panic!("no row for {name}"));
    let letters: Vec<_> = letters.chars().filter(|letter| *letter != ' ').collect();
    assert_eq!(letters.len(), CALLERS.len(), "{name}");
    CALLERS.into_iter().zip(letters).filter(|(_, letter)| *letter != '-')
}

fn reason_of(letter: char) -> &'static str {
    match letter {
        'y' => "let through",
        'n' => "PERMISSION_DENIED",
        'm' => "MISSING_TOKEN",
        't' => "INVALID_TOKEN",
        'k' => "INVALID_API_KEY",
        'c' => "INVALID_CLIENT_KEY",
        other => panic!("{other}"),
    }
}

/// As the two vendors' paths tell it.
fn told_over_rest(letter: char, is_imkit: bool) -> (u16, &'static str) {
    match (letter, is_imkit) {
        ('y', _) => (200, ""),
        ('n', false) => (403, "forbidden_op"),
        ('m', false) => (401, "group_authorization"),
        ('t' | 'k', false) => (401, "unauthorized"),
        ('t', true) => (401, "INVALID_TOKEN"),
        ('k', true) => (401, "INVALID_API_KEY"),
        ('c', true) => (403, "INVALID_CLIENT_KEY"),
        other => panic!("{other:?}"),
    }
}

/// The rows that are of RPCs, or of paths.
fn rows(of_rpcs: bool) -> BTreeSet<&'static str> {
    TABLE
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| name.starts_with(char::is_uppercase) == of_rpcs)
        .collect()
}

#[tokio::test]
async fn every_rpc_lets_through_whom_the_table_says_and_nobody_else() {
    let server = server().await;
    let files =
        prost_types::FileDescriptorSet::decode(mute_service::proto::DESCRIPTORS).unwrap().file;
    let services =
        files.into_iter().filter(|file| file.package() == "mute.v1").flat_map(|file| file.service);
    let served: BTreeSet<_> = services
        .flat_map(|service| service.method)
        .map(|method| method.name().to_owned())
        .collect();
    let in_table: BTreeSet<_> =
        rows(true).iter().map(|row| row.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(in_table, served, "each RPC has a row");
    let (channel, mut wrong) = (server.channel().await, Vec::new());
    for stage in STAGES {
        let rpcs = rpcs(stage);
        assert_eq!(
            rpcs.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(),
            rows(true),
            "each row has a request"
        );
        for (name, send) in rpcs {
            for (caller, letter) in expected(name) {
                let before = server.service.view.revision();
                let found = send(channel.clone(), stage.headers(&server, caller, false)).await;
                let has_changed = letter != 'y' && something_changed(&server, before).await;
                if found != reason_of(letter) || has_changed {
                    wrong.push(format!(
                        "{name} by {caller:?}: {found} (changed: {has_changed}), not {}",
                        reason_of(letter)
                    ));
                }
                stage.set(&server).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether anybody has changed anything since; the sweeper does not count.
async fn something_changed(server: &Server, after: Revision) -> bool {
    if server.service.view.revision() == after {
        return false;
    }
    let events = server
        .service
        .store
        .events(EventRange { after: Some(after), before: None }, false, 100)
        .await
        .unwrap();
    events.iter().any(|logged| Change::decode(logged.revision, &logged.event).unwrap().is_some())
}

/// An operation of the document for this caller: sent with what its path takes, and held against
/// its row.
async fn walk(
    server: &Server,
    operation: &Operation,
    caller: Caller,
    letter: char,
) -> Option<String> {
    let is_imkit =
        ["/admin", "/me", "/rooms"].iter().any(|prefix| operation.path.starts_with(prefix));
    let stage = STAGES[usize::from(is_imkit || operation.path.starts_with("/app-id"))];
    let body = operation.bodies().into_iter().next();
    let request = operation.request(server, body.as_ref());
    let headers = stage.headers(server, caller, operation.path.starts_with("/me"));
    let request =
        headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let before = server.service.view.revision();
    let (status, answer) = sent(request).await;
    let error = if is_imkit { &answer["error"]["code"] } else { &answer["error"] };
    let found = (status, error.as_str().unwrap_or_default());
    let has_changed = letter != 'y' && something_changed(server, before).await;
    stage.set(server).await;
    let wanted = told_over_rest(letter, is_imkit);
    let is_right = found == wanted && !has_changed;
    (!is_right).then(|| {
        format!(
            "{} by {caller:?}: {found:?} (changed: {has_changed}), not {wanted:?}",
            operation.name()
        )
    })
}

#[tokio::test]
async fn every_path_lets_through_whom_the_table_says_and_nobody_else() {
    let server = server().await;
    let operations = operations(&document(&server).await);
    let row = |operation: &Operation| operation.name().trim_end_matches("ById").to_owned();
    let described: BTreeSet<_> = operations.iter().map(row).collect();
    assert_eq!(
        described,
        rows(false).into_iter().map(str::to_owned).collect(),
        "each path and method has a row"
    );
    let mut wrong = Vec::new();
    for operation in &operations {
        for (caller, letter) in expected(&row(operation)) {
            wrong.extend(walk(&server, operation, caller, letter).await);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

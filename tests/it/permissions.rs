//! Who may do what: every RPC and every REST path, with a valid request, by every kind of caller,
//! compared with one table.
//!
//! An RPC or path without a row fails the test. A refusal is one of permission or of credentials,
//! whatever else may be wrong with the request, and changes nothing.

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
    Unauthenticated,
    /// A user of the app: neither the target of the request nor staff of the room.
    AnotherUser,
    /// The target of the request, who is no staff.
    UserItself,
    /// Admin of the room.
    Staff,
    Owner,
    /// With the app's token.
    AppAdmin,
    ApiKey,
    Service(Scope),
    /// These belong to another app; the service has all scopes there.
    ServiceElsewhere,
    AppAdminElsewhere,
    UserElsewhere,
    ApiKeyElsewhere,
}

const CALLERS: [Caller; 14] = [
    Caller::Unauthenticated,
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

/// Each RPC and each operation of the OpenAPI document (those by app id share the row of those by
/// app name), and what each of [`CALLERS`] gets: y: admitted; n: PERMISSION_DENIED; m:
/// MISSING_TOKEN; t: INVALID_TOKEN; k: INVALID_API_KEY; c: INVALID_CLIENT_KEY. -: not tested,
/// because the key itself names the app, and the request would be one of that app.
#[rustfmt::skip]
const TABLE: &[(&str, &str)] = &[
    //                                     none   | users:    | the app's: | services:    | foreign
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
    // The credential is in the fields of the request.
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
    // IMKit's admin paths accept only API keys, and its `/me` paths only the user itself.
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

/// The app of the callers from another app.
const ELSEWHERE: &str = "Elsewhere";

/// The targets of the requests in one app: those of the examples in the document.
#[derive(Clone, Copy)]
struct Targets {
    app: &'static str,
    room: &'static str,
    user: &'static str,
}

const TARGETS: [Targets; 2] = [
    Targets { app: AGORA, room: ROOM, user: "user1" },
    Targets { app: IMKIT, room: "demo", user: "aaa" },
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

/// A server whose apps accept every kind of credential, and whose services have one scope each.
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
    for targets in TARGETS {
        targets.create(&server).await;
    }
    server
}

impl Targets {
    /// Creates everything that the requests refer to.
    async fn create(self, server: &Server) {
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
        // One path refuses to remove a notification mute that does not exist.
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
            // The same user name in another app.
            Caller::UserElsewhere => server.user_token(ELSEWHERE, self.user),
            Caller::Unauthenticated
            | Caller::ApiKey
            | Caller::Service(_)
            | Caller::ServiceElsewhere
            | Caller::ApiKeyElsewhere => {
                return None;
            }
        })
    }

    /// The caller's credential headers. On `/me` paths a token comes with the app's client key.
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

/// What each caller gets, according to the table.
fn expected(name: &str) -> impl Iterator<Item = (Caller, char)> {
    let (_, letters) =
        TABLE.iter().find(|(row, _)| *row == name).unwrap_or_else(|| panic!("no row for {name}"));
    let letters: Vec<_> = letters.chars().filter(|letter| *letter != ' ').collect();
    assert_eq!(letters.len(), CALLERS.len(), "{name}");
    CALLERS.into_iter().zip(letters).filter(|(_, letter)| *letter != '-')
}

fn reason_of(letter: char) -> &'static str {
    match letter {
        'y' => "admitted",
        'n' => "PERMISSION_DENIED",
        'm' => "MISSING_TOKEN",
        't' => "INVALID_TOKEN",
        'k' => "INVALID_API_KEY",
        'c' => "INVALID_CLIENT_KEY",
        other => panic!("{other}"),
    }
}

/// Status and error code in the envelope of the path's vendor.
fn rest_error_of(letter: char, is_imkit: bool) -> (u16, &'static str) {
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

/// The rows of RPCs, or those of paths.
fn rows(are_rpcs: bool) -> BTreeSet<&'static str> {
    TABLE
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| name.starts_with(char::is_uppercase) == are_rpcs)
        .collect()
}

#[tokio::test]
async fn every_rpc_admits_exactly_the_callers_in_the_table() {
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
    let channel = server.channel().await;
    let mut wrong = Vec::new();
    for targets in TARGETS {
        let rpcs = rpcs(targets);
        assert_eq!(
            rpcs.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(),
            rows(true),
            "each row has a request"
        );
        for (name, send) in rpcs {
            for (caller, letter) in expected(name) {
                let before = server.service.view.revision();
                let found = send(channel.clone(), targets.headers(&server, caller, false)).await;
                let has_changed = letter != 'y' && something_changed(&server, before).await;
                if found != reason_of(letter) || has_changed {
                    wrong.push(format!(
                        "{name} by {caller:?}: {found} (changed: {has_changed}), not {}",
                        reason_of(letter)
                    ));
                }
                targets.create(&server).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a caller has changed anything since; the sweeper does not count.
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

/// Sends an operation of the document as this caller, and compares the answer with its row. Returns
/// what is wrong.
async fn check_operation(
    server: &Server,
    operation: &Operation,
    caller: Caller,
    letter: char,
) -> Option<String> {
    let is_imkit =
        ["/admin", "/me", "/rooms"].iter().any(|prefix| operation.path.starts_with(prefix));
    let targets = TARGETS[usize::from(is_imkit || operation.path.starts_with("/app-id"))];
    let body = operation.bodies().into_iter().next();
    let request = operation.request(server, body.as_ref());
    let headers = targets.headers(server, caller, operation.path.starts_with("/me"));
    let request =
        headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let before = server.service.view.revision();
    let (status, answer) = sent(request).await;
    let error = if is_imkit { &answer["error"]["code"] } else { &answer["error"] };
    let found = (status, error.as_str().unwrap_or_default());
    let has_changed = letter != 'y' && something_changed(server, before).await;
    targets.create(server).await;
    let expected = rest_error_of(letter, is_imkit);
    let is_right = found == expected && !has_changed;
    (!is_right).then(|| {
        format!(
            "{} by {caller:?}: {found:?} (changed: {has_changed}), not {expected:?}",
            operation.name()
        )
    })
}

#[tokio::test]
async fn every_path_admits_exactly_the_callers_in_the_table() {
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
            wrong.extend(check_operation(&server, operation, caller, letter).await);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

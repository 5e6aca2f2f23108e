//! Writes with a request id: a repeat gets the answer of the first call and changes nothing. This
//! holds over restarts and kill -9, for concurrent calls, and over REST with the header
//! `Idempotency-Key`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use mute_service::{
    auth::{Credential, Principal, credentials::Caller},
    clock::Clock,
    grpc::Api,
    limits::concurrency::ConcurrencyLimit,
    limits::rate::{Limits, Rates},
    model::{AppKey, Event, EventKind},
    proto::v1::{
        self as pb, directory_service_client::DirectoryServiceClient,
        mute_service_server::MuteService as _,
    },
    service::{Quotas, Service},
    store::{EventRange, Feed, codec},
};
use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};
use reqwest::Method;
use serde_json::{Value, json};
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{harness::*, process::Process};

const DAY_MS: u64 = 24 * 3_600_000;
/// RPCs that write nothing and so take no request id.
const READS: [&str; 14] = [
    "ListMutedMembers",
    "GetRoom",
    "ListAllowedMembers",
    "ListMutedUsers",
    "ListMutedRooms",
    "FilterRecipients",
    "CheckSend",
    "BatchCheckSend",
    "Watch",
    "ListEvents",
    "GetClient",
    "ListClients",
    "ListRooms",
    "IssueToken",
];

/// The RPCs that write, in the order of the proto files. Each has a request id and a revision.
fn writes() -> Vec<String> {
    let files = FileDescriptorSet::decode(mute_service::proto::DESCRIPTORS).unwrap().file;
    let files: Vec<_> = files.into_iter().filter(|file| file.package() == "mute.v1").collect();
    let has = |message: &str, field: &str, kind: Type| {
        let message = files
            .iter()
            .flat_map(|file| &file.message_type)
            .find(|known| message.ends_with(known.name()))
            .unwrap();
        message.field.iter().any(|known| known.name() == field && known.r#type() == kind)
    };
    let methods = files.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let writes: Vec<_> = methods.filter(|method| !READS.contains(&method.name())).collect();
    for method in &writes {
        assert!(
            has(method.input_type(), "request_id", Type::String),
            "{} takes no request id",
            method.name()
        );
        assert!(
            has(method.output_type(), "revision", Type::Int64),
            "{} returns no revision",
            method.name()
        );
    }
    writes.into_iter().map(|method| method.name().to_owned()).collect()
}

/// Calls this RPC with a request that changes something the first time. Returns the encoded answer.
// The macro fills the other fields with defaults, and some requests have no others.
#[allow(clippy::needless_update)]
async fn call(server: &Server, rpc: &str, request_id: &str) -> Vec<u8> {
    let mut mutes = server.mutes().await;
    let mut directory = server.directory().await;
    let app = AGORA.to_owned();
    let room = ROOM.to_owned();
    let user = "user1".to_owned();
    let users = strings(&["user1", "user2"]);
    let reason = "why".to_owned();
    let request_id = request_id.to_owned();
    macro_rules! send {
        ($client:ident.$rpc:ident $request:ident { $($field:ident $(: $value:expr)?),+ }) => {
            $client
                .$rpc(with(
                    pb::$request {
                        app,
                        request_id,
                        $($field $(: $value)?,)+
                        ..Default::default()
                    },
                    &[SERVICE],
                ))
                .await
                .unwrap()
                .into_inner()
                .encode_to_vec()
        };
    }
    match rpc {
        "MuteMembers" => {
            let duration = Some(duration(9_000));
            send!(mutes.mute_members MuteMembersRequest { room, users, reason, duration })
        }
        "UnmuteMembers" => send!(mutes.unmute_members UnmuteMembersRequest { room, users, reason }),
        "BanRoom" => send!(mutes.ban_room BanRoomRequest { room, reason }),
        "UnbanRoom" => send!(mutes.unban_room UnbanRoomRequest { room, reason }),
        "AllowMembers" => send!(mutes.allow_members AllowMembersRequest { room, users, reason }),
        "DisallowMembers" => {
            send!(mutes.disallow_members DisallowMembersRequest { room, users, reason })
        }
        "MuteUser" => {
            send!(mutes.mute_user MuteUserRequest { user, reason, duration: Some(duration(9_000)) })
        }
        "UnmuteUser" => send!(mutes.unmute_user UnmuteUserRequest { user, reason }),
        "MuteRoomNotifications" => {
            send!(mutes.mute_room_notifications MuteRoomNotificationsRequest { user, room })
        }
        "UnmuteRoomNotifications" => {
            send!(mutes.unmute_room_notifications UnmuteRoomNotificationsRequest { user, room })
        }
        "UpsertClient" => {
            let client =
                Some(pb::Client { user, nickname: Some("n".to_owned()), ..Default::default() });
            send!(directory.upsert_client UpsertClientRequest { client })
        }
        "DeleteClient" => send!(directory.delete_client DeleteClientRequest { user }),
        "UpsertRoom" => {
            send!(directory.upsert_room UpsertRoomRequest { name: Some("new".to_owned()) })
        }
        "DeleteRoom" => send!(directory.delete_room DeleteRoomRequest { room }),
        _ => panic!("add a request for {rpc}"),
    }
}

async fn call_all(server: &Server) -> Vec<(String, Vec<u8>)> {
    let mut answers = Vec::new();
    for rpc in writes() {
        let answer = call(server, &rpc, &format!("id of {rpc}")).await;
        answers.push((rpc, answer));
    }
    answers
}

fn revision(server: &Server) -> u64 {
    server.service.view.revision()
}

async fn mute(
    server: &Server,
    user: &str,
    request_id: &str,
) -> Result<pb::MuteMembersResponse, Status> {
    mute_as(server, user, request_id, SERVICE.1).await
}

async fn mute_as(
    server: &Server,
    user: &str,
    request_id: &str,
    token: &str,
) -> Result<pb::MuteMembersResponse, Status> {
    let app = AGORA.to_owned();
    let room = ROOM.to_owned();
    let request_id = request_id.to_owned();
    let message = pb::MuteMembersRequest {
        app,
        room,
        users: strings(&[user]),
        request_id,
        ..Default::default()
    };
    server
        .mutes()
        .await
        .mute_members(with(message, &[("authorization", token)]))
        .await
        .map(tonic::Response::into_inner)
}

async fn unmute(
    server: &Server,
    user: &str,
    request_id: &str,
) -> Result<pb::UnmuteMembersResponse, Status> {
    let app = AGORA.to_owned();
    let room = ROOM.to_owned();
    let request_id = request_id.to_owned();
    let message = pb::UnmuteMembersRequest {
        app,
        room,
        users: strings(&[user]),
        request_id,
        ..Default::default()
    };
    server
        .mutes()
        .await
        .unmute_members(with(message, &[SERVICE]))
        .await
        .map(tonic::Response::into_inner)
}

async fn may_speak(server: &Server, user: &str) -> bool {
    server.check(AGORA, ROOM, user).await.allowed
}

/// Commits so far, without those of the background sweep of deletions, which come at any time.
async fn commits(server: &Server) -> usize {
    let events = server.service.store.events(EventRange::default(), false, 10_000).await.unwrap();
    events
        .iter()
        .filter(|stored| codec::decode_event(&stored.event).unwrap().kind != EventKind::Swept)
        .count()
}

#[tokio::test]
async fn repeats_of_every_write_get_equal_bytes_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::on(directory.path(), Clock::manual(START_MS), unlimited()).await;
    let before = commits(&server).await;
    let first = call_all(&server).await;
    let after = commits(&server).await;
    assert_eq!(after - before, first.len(), "each has changed something");
    server.advance(1_000);
    assert_eq!(call_all(&server).await, first);
    assert_eq!(commits(&server).await, after, "a repeat was committed");
    let clock = server.clock.clone();
    server.stop().await;
    let server = Server::on(directory.path(), clock, unlimited()).await;
    // The dev mode creates deleted examples again at startup.
    let after = commits(&server).await;
    server.advance(DAY_MS - 2_000);
    assert_eq!(call_all(&server).await, first);
    server.sweep().await;
    assert_eq!(call_all(&server).await, first);
    assert_eq!(commits(&server).await, after, "a repeat was committed after the restart");
}

#[tokio::test]
async fn a_repeat_changes_nothing_that_others_changed_since() {
    let server = Server::start().await;
    let muted = mute(&server, "user1", "1").await.unwrap();
    assert!(unmute(&server, "user1", "").await.unwrap().members[0].was_muted);
    assert_eq!(mute(&server, "user1", "1").await.unwrap(), muted);
    assert!(may_speak(&server, "user1").await);

    // The first call has nothing to change. It commits only its idempotency record, which is not
    // part of the history.
    let before = revision(&server);
    let unmuted = unmute(&server, "user1", "2").await.unwrap();
    assert_eq!((unmuted.members[0].was_muted, unmuted.revision), (false, before as i64 + 1));
    let mut feed = server.service.store.watch(before).await.unwrap();
    let commit = feed.next().await.unwrap().unwrap();
    assert_eq!(codec::decode_event(&commit.event).unwrap().kind, EventKind::Request);
    mute(&server, "user1", "").await.unwrap();
    assert_eq!(unmute(&server, "user1", "2").await.unwrap(), unmuted);
    assert!(!may_speak(&server, "user1").await);
}

#[tokio::test]
async fn only_a_writes_event_carries_its_request_id() {
    let server = Server::start().await;
    let mut feed = server.service.store.watch(revision(&server)).await.unwrap();
    for (rpc, _) in call_all(&server).await {
        assert_eq!(next_event(&mut feed).await.request_id, format!("id of {rpc}"));
    }
    // It has nothing to change, and commits only its idempotency record.
    call(&server, "UnmuteUser", "alone").await;
    assert_eq!(next_event(&mut feed).await.request_id, "alone");
    let last_with_id = revision(&server);
    call(&server, "UpsertClient", "").await;
    call(&server, "MuteUser", "").await;
    server.advance(DAY_MS);
    server.sweep().await;
    let mut others = Vec::new();
    let range = EventRange { after: Some(last_with_id), before: None };
    for stored in server.service.store.events(range, false, 10_000).await.unwrap() {
        let event = codec::decode_event(&stored.event).unwrap();
        assert_eq!(event.request_id, "");
        others.push(event.kind);
    }
    for kind in [EventKind::UserMuted, EventKind::UserMuteExpired, EventKind::Request] {
        assert!(others.contains(&kind), "{others:?}");
    }
}

async fn next_event(feed: &mut Feed) -> Event {
    loop {
        let event = codec::decode_event(&feed.next().await.unwrap().unwrap().event).unwrap();
        // The background sweep of deletions comes at any time.
        if event.kind != EventKind::Swept {
            return event;
        }
    }
}

#[tokio::test]
async fn a_reused_id_is_refused_and_apps_have_ids_of_their_own() {
    let server = Server::start().await;
    let muted = mute(&server, "user1", "1").await.unwrap();
    let app_token = format!("Bearer {}", server.agora_token());
    let refusals = [
        mute(&server, "user2", "1").await.err(),
        unmute(&server, "user1", "1").await.err(),
        mute_as(&server, "user1", "1", &app_token).await.err(),
    ];
    for refused in refusals {
        let refused = refused.unwrap();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (tonic::Code::InvalidArgument, "REQUEST_ID_REUSED")
        );
        assert_eq!(
            refused.get_details_bad_request().unwrap().field_violations[0].field,
            "request_id"
        );
    }
    assert!(may_speak(&server, "user2").await);
    assert_eq!(mute(&server, "user1", "1").await.unwrap(), muted);
    let elsewhere = pb::UpsertRoomRequest {
        app: IMKIT.into(),
        room: "r".into(),
        request_id: "1".into(),
        ..Default::default()
    };
    server.directory().await.upsert_room(with(elsewhere, &[SERVICE])).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_not_stored_and_its_repeat_is_decided_again() {
    let server = Server::start().await;
    assert_eq!(reason(&mute(&server, "user9", "1").await.unwrap_err()), "CLIENT_NOT_FOUND");
    let client = Some(pb::Client { user: "user9".into(), ..Default::default() });
    let client = pb::UpsertClientRequest { app: AGORA.into(), client, ..Default::default() };
    server.directory().await.upsert_client(with(client, &[SERVICE])).await.unwrap();
    let muted = mute(&server, "user9", "1").await.unwrap();
    // The repeat is answered although a rule would refuse it now: the write took effect earlier.
    let room = pb::DeleteRoomRequest { app: AGORA.into(), room: ROOM.into(), ..Default::default() };
    server.directory().await.delete_room(with(room, &[SERVICE])).await.unwrap();
    assert_eq!(mute(&server, "user9", "1").await.unwrap(), muted);
    assert_eq!(reason(&mute(&server, "user9", "2").await.unwrap_err()), "ROOM_NOT_FOUND");
}

#[tokio::test]
async fn an_id_is_at_most_36_printable_ascii_characters() {
    let server = Server::start().await;
    for bad in ["1234567890123456789012345678901234567", "ü", "a\nb", "\u{7f}"] {
        let refused = mute(&server, "user1", bad).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_ARGUMENT", "{bad:?}");
        assert_eq!(
            refused.get_details_bad_request().unwrap().field_violations[0].field,
            "request_id"
        );
    }
    assert!(may_speak(&server, "user1").await);
    assert!(mute(&server, "user1", "123e4567-e89b-12d3-a456-426614174000").await.is_ok());
}

#[tokio::test]
async fn an_id_may_be_reused_from_the_millisecond_it_expires() {
    let server = Server::start().await;
    let ids: Vec<_> = (0..20).map(|number| format!("id {number}")).collect();
    let mut first = Vec::new();
    for id in &ids {
        first.push(mute(&server, "user1", id).await.unwrap());
    }
    server.advance(DAY_MS - 1);
    for (id, first) in ids.iter().zip(&first) {
        assert_eq!(mute(&server, "user1", id).await.unwrap(), *first);
    }
    let records = server.service.view.records();
    server.advance(1);
    // Before the sweep, for most of them at least; and with another request, which is no conflict
    // now.
    for (id, first) in ids[..10].iter().zip(&first) {
        let again = mute(&server, "user2", id).await.unwrap();
        assert!(again.revision > first.revision);
        assert_eq!(mute(&server, "user2", id).await.unwrap(), again);
    }
    server.sweep().await;
    // One more user is muted, and ten idempotency records are swept.
    assert_eq!(server.service.view.records(), records + 1 - 10);
    for (id, first) in ids.iter().zip(&first) {
        let again = mute(&server, "user2", id).await.unwrap();
        assert!(again.revision > first.revision);
    }
}

#[tokio::test]
async fn an_expired_id_may_be_reused_before_the_sweep() {
    let server = Server::start().await;
    let first = mute(&server, "user1", "1").await.unwrap();
    // Another replica of the same store, whose clock is a day ahead: for it the record has expired,
    // for the sweeper it has not.
    let Service { access, store, view, token_ttl_s, hub, heartbeat, max_view_age, .. } =
        &*server.service;
    let clock = Clock::manual(START_MS + DAY_MS);
    let limits = Limits::new(Rates::default(), &clock);
    let access = access.clone();
    let store = store.clone();
    let view = view.clone();
    let token_ttl_s = *token_ttl_s;
    let hub = hub.clone();
    let heartbeat = *heartbeat;
    let ahead = Api::new(Arc::new(Service {
        access,
        store,
        view,
        clock,
        limits: limits.into(),
        token_ttl_s,
        hub,
        heartbeat,
        max_view_age: *max_view_age,
        refuse_old_views: false,
        refuse_skewed_clock: false,
        quotas: Quotas::default(),
        load: ConcurrencyLimit::new(1_000, 64 << 20),
    }));
    let app = AppKey::parse(AGORA.to_owned()).unwrap();
    let by = Credential::Token;
    let caller = Caller { calls: 1, ..Caller::of(Ok(Principal::AppAdmin { app, by })) };
    let app = AGORA.to_owned();
    let room = ROOM.to_owned();
    let users = strings(&["user2"]);
    let request_id = "1".to_owned();
    let mut message =
        Request::new(pb::MuteMembersRequest { app, room, users, request_id, ..Default::default() });
    message.extensions_mut().insert(caller);
    let again = ahead.mute_members(message).await.unwrap().into_inner();
    assert!(again.revision > first.revision && !may_speak(&server, "user2").await);
}

#[tokio::test]
async fn a_repeat_gets_a_new_token_because_none_is_stored() {
    let server = Server::start().await;
    let upsert = || {
        let client = Some(pb::Client {
            user: "user1".into(),
            nickname: Some("n".into()),
            ..Default::default()
        });
        let app = AGORA.to_owned();
        let request_id = "1".to_owned();
        with(
            pb::UpsertClientRequest { app, client, issue_access_token: true, request_id },
            &[SERVICE],
        )
    };
    let mut directory = server.directory().await;
    let first = directory.upsert_client(upsert()).await.unwrap().into_inner();
    server.advance(10_000);
    let again = directory.upsert_client(upsert()).await.unwrap().into_inner();
    assert_eq!((&again.client, again.revision), (&first.client, first.revision));
    assert!(
        !first.access_token.is_empty()
            && !again.access_token.is_empty()
            && again.access_token != first.access_token
    );
    let mut pages = server.service.store.snapshot().await.unwrap().pages;
    let mut records = 0;
    while let Some(page) = pages.next().await {
        for entry in page.unwrap() {
            records += 1;
            assert!(
                !entry.value.windows(16).any(|bytes| bytes == &first.access_token.as_bytes()[..16]),
                "a token is stored"
            );
        }
    }
    assert!(records > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simultaneous_calls_with_one_id_have_one_effect() {
    let server = Server::start().await;
    let clients = join_all((0..4).map(|_| server.directory())).await;
    for round in 0..200 {
        let before = revision(&server);
        let upsert = pb::UpsertRoomRequest {
            app: AGORA.into(),
            request_id: format!("round {round}"),
            ..Default::default()
        };
        let calls = clients.iter().cloned().map(|mut directory| {
            let upsert = with(upsert.clone(), &[SERVICE]);
            tokio::spawn(async move { directory.upsert_room(upsert).await.unwrap().into_inner() })
        });
        let answers: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "round {round}: {answers:?}");
        assert_eq!(revision(&server), before + 1, "round {round}");
    }
    let list = with(pb::ListRoomsRequest { app: AGORA.into(), ..Default::default() }, &[SERVICE]);
    assert_eq!(
        server.directory().await.list_rooms(list).await.unwrap().into_inner().total_size,
        201
    );
}

/// Creates rooms, one a call, until the connection breaks. Returns all answers, the last of which
/// is `None`.
async fn create(
    mut directory: DirectoryServiceClient<Channel>,
    mut answers: Vec<Option<pb::UpsertRoomResponse>>,
    writer: usize,
) -> Vec<Option<pb::UpsertRoomResponse>> {
    loop {
        let answer = directory
            .upsert_room(creation(writer, answers.len()))
            .await
            .ok()
            .map(tonic::Response::into_inner);
        let broken = answer.is_none();
        answers.push(answer);
        if broken {
            return answers;
        }
    }
}

/// Without a room id, so that each call that takes effect creates a room.
fn creation(writer: usize, call: usize) -> Request<pb::UpsertRoomRequest> {
    let message = pb::UpsertRoomRequest {
        app: "Open".into(),
        name: Some(format!("w{writer}")),
        request_id: format!("w{writer} c{call}"),
        ..Default::default()
    };
    with(message, &[SERVICE])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_cut_off_by_a_kill_takes_effect_once_with_repeats() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut writers = vec![Vec::new(); 4];
    let mut unanswered = 0;
    for kill in 0..10_u64 {
        let process = Process::start(data_dir.path());
        let mut running = Vec::new();
        for (writer, answers) in writers.drain(..).enumerate() {
            running.push(tokio::spawn(create(process.directory().await, answers, writer)));
        }
        tokio::time::sleep(Duration::from_millis(20 + 17 * kill % 60)).await;
        // Dropped: kill -9.
        drop(process);
        for writer in running {
            writers.push(writer.await.unwrap());
        }
        let process = Process::start(data_dir.path());
        let mut directory = process.directory().await;
        for (writer, answers) in writers.iter_mut().enumerate() {
            let from = answers.len().saturating_sub(5);
            for (call, answer) in answers.iter_mut().enumerate().skip(from) {
                let again =
                    directory.upsert_room(creation(writer, call)).await.unwrap().into_inner();
                unanswered += usize::from(answer.is_none());
                assert_eq!(
                    *answer.get_or_insert_with(|| again.clone()),
                    again,
                    "writer {writer}, call {call}"
                );
            }
        }
    }
    let process = Process::start(data_dir.path());
    let mut directory = process.directory().await;
    let calls: usize = writers.iter().map(Vec::len).sum();
    let rooms: BTreeSet<_> =
        writers.iter().flatten().map(|answer| answer.clone().unwrap().room.unwrap().room).collect();
    println!("{calls} calls, {unanswered} of them without an answer at first");
    let list = with(pb::ListRoomsRequest { app: "Open".into(), ..Default::default() }, &[SERVICE]);
    let total = directory.list_rooms(list).await.unwrap().into_inner().total_size;
    assert_eq!((rooms.len(), total), (calls, calls as i64));
}

/// Sends a request with this key. Returns status and body, without the fields that depend on the
/// time of the answer.
async fn keyed(
    server: &Server,
    key: &str,
    headers: &[(&str, &str)],
    request: &(Method, String, Value),
) -> (u16, Value) {
    let (method, path, body) = request;
    let headers = [headers, &[("Idempotency-Key", key)]].concat();
    let (status, mut answer) =
        sent(server.rest(method.clone(), path, &headers).body(body.to_string())).await;
    for field in ["timestamp", "duration"] {
        answer.as_object_mut().unwrap().remove(field);
    }
    if path.starts_with("/me") {
        answer["result"].as_object_mut().unwrap().remove("lastLoginTimeMS");
        answer["result"].as_object_mut().unwrap().remove("address");
    }
    (status, answer)
}

/// Each request changes something the first time. Its repeat gets the same answer and changes
/// nothing.
async fn repeats_do_nothing(
    server: &Server,
    headers: &[(&str, &str)],
    requests: &[(Method, String, Value)],
) {
    let mut first = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let before = commits(server).await;
        let answer = keyed(server, &format!("key {number}"), headers, request).await;
        assert_eq!(answer.0, 200, "{request:?}: {answer:?}");
        assert!(commits(server).await > before, "{request:?}");
        first.push(answer);
    }
    server.advance(5_000);
    let after = commits(server).await;
    for (number, request) in requests.iter().enumerate() {
        assert_eq!(
            keyed(server, &format!("\"key {number}\""), headers, request).await,
            first[number],
            "{request:?}"
        );
    }
    assert_eq!(commits(server).await, after);
}

#[tokio::test]
async fn repeats_do_nothing_on_every_writing_agora_path() {
    let server = Server::start().await;
    let token = format!("Bearer {}", server.agora_token());
    let headers = [("authorization", token.as_str())];
    let path = |path: &str| format!("/easemob-demo/testapp{path}");
    let room = |rest: &str| path(&format!("/chatrooms/{ROOM}{rest}"));
    let users = || json!({"usernames": ["user1", "user2"], "mute_duration": 60_000});
    let requests = [
        (Method::POST, room("/mute"), users()),
        (Method::DELETE, room("/mute/user1,user2"), json!({})),
        (Method::POST, room("/mute"), users()),
        (Method::POST, room("/ban"), json!({"mute_duration": 60_000})),
        (Method::DELETE, room("/ban"), json!({})),
        (Method::POST, room("/white/users"), users()),
        (Method::POST, room("/white/users/user3"), json!({})),
        (Method::DELETE, room("/white/users/user1,user3"), json!({})),
        (
            Method::POST,
            path("/users"),
            json!([{"username": "u7"}, {"username": "u8"}, {"username": "u9"}]),
        ),
        (Method::POST, path("/mutes"), json!({"username": "user1", "chatroom": 100})),
        (Method::POST, path("/mutes"), json!({"username": "user1", "chatroom": 0})),
        (Method::POST, path("/chatrooms"), json!({"name": "new"})),
        (Method::DELETE, room(""), json!({})),
    ];
    let end = (Method::POST, room("/mute"), json!({"usernames": ["user1"], "mute_duration": 0}));
    mute(&server, "user1", "").await.unwrap();
    assert_eq!(keyed(&server, "0", &headers, &end).await.0, 200);
    mute(&server, "user1", "").await.unwrap();
    assert_eq!(keyed(&server, "0", &headers, &end).await.0, 200);
    assert!(!may_speak(&server, "user1").await);
    repeats_do_nothing(&server, &headers, &requests).await;

    let refused =
        |(status, answer): (u16, Value)| (status, answer["error"].as_str().unwrap().to_owned());
    let other = (Method::POST, path("/users"), json!({"username": "u10"}));
    assert_eq!(
        refused(keyed(&server, "key 8", &headers, &other).await),
        (400, "illegal_argument".to_owned())
    );
    let other = (Method::POST, path("/users"), json!([{"username": "u7"}, {"username": "u9"}]));
    assert_eq!(
        refused(keyed(&server, "key 8", &headers, &other).await),
        (400, "illegal_argument".to_owned())
    );
    let long = keyed(&server, &"x".repeat(37), &headers, &other).await;
    assert_eq!(refused(long), (400, "illegal_argument".to_owned()));
    let read = (Method::GET, path("/chatrooms/1265710621211/mute"), json!({}));
    assert_eq!(
        keyed(&server, &"x".repeat(37), &headers, &read).await.0,
        404,
        "the room is deleted, and a read ignores the key"
    );
}

#[tokio::test]
async fn repeats_do_nothing_on_every_writing_imkit_path() {
    let server = Server::start().await;
    let requests = [
        (Method::POST, "/admin/clients/aaa/mute/demo".to_owned(), json!({})),
        (Method::DELETE, "/admin/clients/aaa/mute/demo".to_owned(), json!({})),
        (
            Method::POST,
            "/admin/clients".to_owned(),
            json!({"_id": "new", "nickname": "n", "level": 3}),
        ),
        (Method::DELETE, "/admin/clients/new".to_owned(), json!({})),
        (Method::POST, "/rooms".to_owned(), json!({"_id": "r", "name": "n"})),
    ];
    repeats_do_nothing(&server, &[API_KEY], &requests).await;
    let other = (Method::DELETE, "/admin/clients/aaa".to_owned(), json!({}));
    for key in ["key 1", &"x".repeat(37), "ü"] {
        let (status, answer) = keyed(&server, key, &[API_KEY], &other).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("INVALID_REQUEST")), "{key}");
    }

    let server = Server::start().await;
    let token = server.user_token(IMKIT, "aaa");
    let requests = [
        (Method::POST, "/me/mute/demo".to_owned(), json!({})),
        (Method::DELETE, "/me/mute/demo".to_owned(), json!({})),
    ];
    repeats_do_nothing(&server, &[CLIENT_KEY, ("IM-Authorization", &token)], &requests).await;
}

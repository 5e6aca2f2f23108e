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

mod calls;
mod kills;
mod rest;

use calls::{call, call_all};

const DAY_MS: u64 = 24 * 3_600_000;

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

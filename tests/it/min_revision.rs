//! Reads with a `min_revision`: they wait until the view has reached it, at most until their
//! deadline.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use mute_service::proto::v1 as pb;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::*;

/// Calls every read at once, with valid fields and this `min_revision`. Returns each outcome by the
/// name of the RPC, with the revision of the answer where it has one.
#[allow(clippy::needless_update)]
async fn reads(
    server: &Server,
    min_revision: i64,
    timeout: Duration,
) -> BTreeMap<&'static str, Result<Option<i64>, Status>> {
    let mutes = server.mutes().await;
    let directory = server.directory().await;
    let mut answers: Vec<BoxFuture<'_, _>> = Vec::new();
    macro_rules! call {
        ($(
            $client:ident.$rpc:ident $name:literal
            $request:ident { $($field:ident: $value:expr),* } $(, $revision:ident)?
        );+ $(;)?) => {
            $(
                let message = pb::$request {
                    app: AGORA.into(),
                    min_revision,
                    $($field: $value,)*
                    ..Default::default()
                };
                let mut request = with(message, &[SERVICE]);
                request.set_timeout(timeout);
                let mut client = $client.clone();
                answers.push(Box::pin(async move {
                    let answer = client.$rpc(request).await;
                    ($name, answer.map(|_answer| {
                        None $(.or(Some(_answer.into_inner().$revision)))?
                    }))
                }));
            )+
        };
    }
    let room = || ROOM.to_owned();
    let user = || "user1".to_owned();
    call!(
        mutes.list_muted_members "ListMutedMembers" ListMutedMembersRequest { room: room() }, revision;
        mutes.get_room "GetRoom" GetRoomRequest { room: room() }, revision;
        mutes.list_allowed_members "ListAllowedMembers" ListAllowedMembersRequest { room: room() }, revision;
        mutes.list_muted_users "ListMutedUsers" ListMutedUsersRequest {}, revision;
        mutes.list_muted_rooms "ListMutedRooms" ListMutedRoomsRequest { user: user() }, revision;
        mutes.list_events "ListEvents" ListEventsRequest {}, revision;
        mutes.filter_recipients "FilterRecipients" FilterRecipientsRequest { room: room(), users: vec![user()] };
        mutes.check_send "CheckSend" CheckSendRequest { room: room(), user: user() };
        mutes.batch_check_send "BatchCheckSend" BatchCheckSendRequest { pairs: vec![pb::RoomUser { room: room(), user: user() }] };
        directory.get_client "GetClient" GetClientRequest { user: user() };
        directory.list_clients "ListClients" ListClientsRequest {}, revision;
        directory.list_rooms "ListRooms" ListRoomsRequest {}, revision;
    );
    join_all(answers).await.into_iter().collect()
}

#[tokio::test]
async fn every_read_takes_a_min_revision_and_lists_return_theirs() {
    let server = Server::start().await;
    let files =
        prost_types::FileDescriptorSet::decode(mute_service::proto::DESCRIPTORS).unwrap().file;
    let messages = files
        .into_iter()
        .filter(|file| file.package() == "mute.v1")
        .flat_map(|file| file.message_type);
    let reads_in_proto =
        messages.filter(|message| message.field.iter().any(|field| field.name() == "min_revision"));
    let reads_in_proto: Vec<_> = reads_in_proto
        .map(|message| message.name().trim_end_matches("Request").to_owned())
        .collect();
    let revision = server.mute(AGORA, ROOM, &["user1"], None).await.revision;
    let reads = reads(&server, revision, Duration::from_secs(5)).await;
    assert!(
        reads_in_proto.iter().all(|rpc| reads.contains_key(rpc.as_str())),
        "the test does not call all of {reads_in_proto:?}"
    );
    for (rpc, answer) in reads {
        let returned = answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
        assert_eq!(returned, returned.map(|_| revision), "{rpc}");
        assert!(!rpc.starts_with("List") || returned.is_some(), "{rpc} returns no revision");
    }
}

#[tokio::test]
async fn a_negative_min_revision_is_refused_on_every_read() {
    let server = Server::start().await;
    for (rpc, answer) in reads(&server, -1, Duration::from_secs(5)).await {
        let refused = answer.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_ARGUMENT", "{rpc}");
        assert_eq!(
            refused.get_details_bad_request().unwrap().field_violations[0].field,
            "min_revision",
            "{rpc}"
        );
    }
}

#[tokio::test]
async fn a_missing_revision_is_reported_before_the_deadline() {
    let server = Server::start().await;
    let started = Instant::now();
    let timeout = Duration::from_secs(2);
    let answers = reads(&server, i64::MAX, timeout).await;
    assert!((timeout * 9 / 10..timeout).contains(&started.elapsed()), "{:?}", started.elapsed());
    for (rpc, answer) in answers {
        let refused = answer.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unavailable, "STORE_UNAVAILABLE"),
            "{rpc}"
        );
        assert!(
            refused.message().contains("has not reached revision 9223372036854775807 yet"),
            "{rpc}: {}",
            refused.message()
        );
        assert!(refused.get_details_retry_info().is_some(), "{rpc}");
    }
}

#[tokio::test]
async fn a_read_waits_for_a_future_commit_and_sees_it() {
    let server = Server::start().await;
    let next = server.mute(AGORA, ROOM, &["user2"], None).await.revision + 1;
    let app = AGORA.to_owned();
    let room = ROOM.to_owned();
    let user = "user1".to_owned();
    let message = pb::CheckSendRequest { app, room, user, min_revision: next };
    let mut mutes = server.mutes().await;
    let mut waiting = std::pin::pin!(mutes.check_send(with(message, &[SERVICE])));
    // Other calls are answered meanwhile. Only the commit ends the wait.
    for _ in 0..20 {
        tokio::select! {
            biased;
            answer = &mut waiting => panic!("answered before the commit: {answer:?}"),
            check = server.check(AGORA, ROOM, "user1") => assert!(check.allowed),
        }
    }
    let (answer, muted) = tokio::join!(waiting, server.mute(AGORA, ROOM, &["user1"], None));
    assert_eq!(muted.revision, next);
    assert_eq!(answer.unwrap().into_inner().rule(), pb::Rule::MemberMute);
}

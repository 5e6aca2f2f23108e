//! Notification mutes: their order, their expiry, and what happens to them when a room is deleted.

use futures_util::future::join_all;
use mute_service::{clock::Clock, proto::v1 as pb};

use crate::harness::*;

struct Caller<'a> {
    server: &'a Server,
    app: &'a str,
    token: String,
}

impl<'a> Caller<'a> {
    fn admin(server: &'a Server, app: &'a str) -> Self {
        Self { server, app, token: format!("Bearer {}", server.app_token(app)) }
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        with(message, &[("authorization", &self.token)])
    }

    async fn mute(
        &self,
        user: &str,
        room: &str,
        duration_ms: Option<u64>,
    ) -> Result<pb::Client, tonic::Status> {
        let duration = duration_ms.map(duration);
        let message = pb::MuteRoomNotificationsRequest {
            app: self.app.into(),
            user: user.into(),
            room: room.into(),
            duration,
            ..Default::default()
        };
        let answer =
            self.server.mutes().await.mute_room_notifications(self.request(message)).await?;
        Ok(answer.into_inner().client.unwrap())
    }

    async fn list(&self, user: &str) -> Vec<String> {
        let mut rooms = Vec::new();
        let mut page_token = String::new();
        loop {
            let message = pb::ListMutedRoomsRequest {
                app: self.app.into(),
                user: user.into(),
                page_size: 7,
                page_token,
                min_revision: 0,
            };
            let page = self
                .server
                .mutes()
                .await
                .list_muted_rooms(self.request(message))
                .await
                .unwrap()
                .into_inner();
            rooms.extend(page.rooms.into_iter().map(|muted| muted.room));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return rooms;
            }
        }
    }
}

#[tokio::test]
async fn rooms_are_listed_in_order_of_muting_even_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected: Vec<_> = (0..20).map(|number| format!("r{}", (number * 7) % 20)).collect();
    let server = Server::on(directory.path(), Clock::manual(START_MS), unlimited()).await;
    let caller = Caller::admin(&server, OPEN);
    for room in &expected {
        caller.mute("u", room, None).await.unwrap();
    }
    // A room that is muted again keeps its position. An expired mute loses it.
    caller.mute("u", &expected[3], Some(60_000)).await.unwrap();
    caller.mute("u", &expected[5], Some(1_000)).await.unwrap();
    server.advance(1_000);
    let ended = expected.remove(5);
    assert_eq!(caller.list("u").await, expected);
    caller.mute("u", &ended, None).await.unwrap();
    expected.push(ended);
    assert_eq!(caller.list("u").await, expected);
    server.stop().await;
    let server = Server::on(directory.path(), Clock::manual(START_MS + 1_000), unlimited()).await;
    assert_eq!(Caller::admin(&server, OPEN).list("u").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_mutes_of_one_client_are_all_kept() {
    let server = Server::start().await;
    let caller = Caller::admin(&server, OPEN);
    let rooms: Vec<_> = (0..64).map(|number| format!("r{number}")).collect();
    let muted = join_all(rooms.iter().map(|room| caller.mute("u", room, None))).await;
    assert!(muted.iter().all(Result::is_ok), "{muted:?}");
    assert_eq!(caller.list("u").await.len(), 64);
}

#[tokio::test]
async fn a_client_mutes_a_thousand_rooms_and_no_more() {
    let server = Server::start().await;
    let caller = Caller::admin(&server, OPEN);
    for number in 0..1_000 {
        caller.mute("u", &format!("r{number}"), None).await.unwrap();
    }
    assert_eq!(reason(&caller.mute("u", "one more", None).await.unwrap_err()), "INVALID_ARGUMENT");
    assert!(caller.mute("u", "r5", Some(1_000)).await.is_ok());
}

//! A valid request of every RPC, and of each form of it with permissions of its own.

use std::pin::Pin;

use mute_service::proto::v1::{
    self as pb, directory_service_client::DirectoryServiceClient,
    mute_service_client::MuteServiceClient, token_service_client::TokenServiceClient,
};
use tonic::transport::Channel;

use super::Targets;
use crate::harness::*;

type Mutes = MuteServiceClient<Channel>;
type Directory = DirectoryServiceClient<Channel>;
type Tokens = TokenServiceClient<Channel>;
type Headers = Vec<(&'static str, String)>;
/// The outcome of a request: the reason of the refusal, or "admitted".
type Outcome = Pin<Box<dyn Future<Output = String>>>;
/// A row of the table, and its request.
pub(super) type Rpc = (&'static str, Box<dyn Fn(Channel, Headers) -> Outcome>);

macro_rules! rpcs {
    ($targets:ident; $(
        $client:ident.$rpc:ident $name:literal
        $request:ident { $($field:ident: $value:expr),* $(,)? }
    )+) => {
        vec![$(
            ($name, Box::new(move |channel: Channel, headers: Headers| -> Outcome {
                #[allow(clippy::needless_update)]
                let message = pb::$request {
                    app: $targets.app.into(),
                    $($field: $value,)*
                    ..Default::default()
                };
                Box::pin(async move {
                    let headers: Vec<_> =
                        headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                    let sent = $client::new(channel).$rpc(with(message, &headers)).await;
                    sent.err().map_or_else(|| "admitted".to_owned(), |status| reason(&status))
                })
            }) as Box<dyn Fn(Channel, Headers) -> Outcome>),
        )+]
    };
}

/// A valid request of every row.
pub(super) fn rpcs(targets: Targets) -> Vec<Rpc> {
    let room = move || targets.room.to_owned();
    let user = move || targets.user.to_owned();
    let users = move || vec![user()];
    let pair = move |user: &str| pb::RoomUser { room: room(), user: user.to_owned() };
    let client = move || Some(pb::Client { user: user(), ..Default::default() });
    rpcs! { targets;
        Mutes.mute_members "MuteMembers" MuteMembersRequest { room: room(), users: users() }
        Mutes.unmute_members "UnmuteMembers" UnmuteMembersRequest { room: room(), users: users() }
        Mutes.list_muted_members "ListMutedMembers" ListMutedMembersRequest { room: room() }
        Mutes.ban_room "BanRoom" BanRoomRequest { room: room() }
        Mutes.unban_room "UnbanRoom" UnbanRoomRequest { room: room() }
        Mutes.get_room "GetRoom" GetRoomRequest { room: room() }
        Mutes.allow_members "AllowMembers" AllowMembersRequest { room: room(), users: users() }
        Mutes.disallow_members "DisallowMembers" DisallowMembersRequest { room: room(), users: users() }
        Mutes.list_allowed_members "ListAllowedMembers" ListAllowedMembersRequest { room: room() }
        Mutes.list_allowed_members "ListAllowedMembers of some users" ListAllowedMembersRequest { room: room(), users: users() }
        Mutes.mute_user "MuteUser" MuteUserRequest { user: user() }
        Mutes.unmute_user "UnmuteUser" UnmuteUserRequest { user: user() }
        Mutes.list_muted_users "ListMutedUsers" ListMutedUsersRequest {}
        Mutes.list_muted_users "ListMutedUsers of some users" ListMutedUsersRequest { users: users() }
        Mutes.mute_room_notifications "MuteRoomNotifications" MuteRoomNotificationsRequest { room: room(), user: user() }
        Mutes.unmute_room_notifications "UnmuteRoomNotifications" UnmuteRoomNotificationsRequest { room: room(), user: user() }
        Mutes.list_muted_rooms "ListMutedRooms" ListMutedRoomsRequest { user: user() }
        Mutes.filter_recipients "FilterRecipients" FilterRecipientsRequest { room: room(), users: users() }
        Mutes.check_send "CheckSend" CheckSendRequest { room: room(), user: user() }
        Mutes.batch_check_send "BatchCheckSend" BatchCheckSendRequest { pairs: vec![pair(targets.user)] }
        Mutes.batch_check_send "BatchCheckSend of two users" BatchCheckSendRequest { pairs: vec![pair(targets.user), pair("user2")] }
        Mutes.watch "Watch" WatchRequest {}
        Mutes.watch "Watch of a room" WatchRequest { room: room() }
        Mutes.list_events "ListEvents" ListEventsRequest {}
        Mutes.list_events "ListEvents of a room" ListEventsRequest { room: room() }
        Directory.upsert_client "UpsertClient" UpsertClientRequest { client: client() }
        Directory.upsert_client "UpsertClient with a token" UpsertClientRequest { client: client(), issue_access_token: true }
        Directory.get_client "GetClient" GetClientRequest { user: user() }
        Directory.list_clients "ListClients" ListClientsRequest {}
        Directory.delete_client "DeleteClient" DeleteClientRequest { user: user() }
        Directory.upsert_room "UpsertRoom" UpsertRoomRequest { room: room(), name: Some("new".to_owned()) }
        Directory.upsert_room "UpsertRoom of a new one" UpsertRoomRequest {}
        Directory.delete_room "DeleteRoom" DeleteRoomRequest { room: room() }
        Directory.list_rooms "ListRooms" ListRoomsRequest {}
        Tokens.issue_token "IssueToken" IssueTokenRequest { client_id: "dev-client".to_owned(), client_secret: "dev-secret".to_owned() }
    }
}

//! A call of each RPC that writes.

use super::*;

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
pub(super) async fn call(server: &Server, rpc: &str, request_id: &str) -> Vec<u8> {
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

pub(super) async fn call_all(server: &Server) -> Vec<(String, Vec<u8>)> {
    let mut answers = Vec::new();
    for rpc in writes() {
        let answer = call(server, &rpc, &format!("id of {rpc}")).await;
        answers.push((rpc, answer));
    }
    answers
}

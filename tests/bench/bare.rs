//! A bare tonic service with the same messages. It answers a constant without reading the request.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use mute_service::proto::v1::{
    self as pb,
    mute_service_server::{MuteService, MuteServiceServer},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, async_trait, transport::server::TcpIncoming};

pub const ARGUMENT: &str = "--bare-service";

struct Bare;

macro_rules! refuse {
    ($($rpc:ident $request:ident $response:ident),+ $(,)?) => {
        #[async_trait]
        impl MuteService for Bare {
            type WatchStream = futures_util::stream::Pending<Result<pb::WatchResponse, Status>>;

            async fn watch(
                &self,
                _: Request<pb::WatchRequest>,
            ) -> Result<Response<Self::WatchStream>, Status> {
                Err(Status::unimplemented("this service answers CheckSend only"))
            }

            async fn check_send(
                &self,
                _: Request<pb::CheckSendRequest>,
            ) -> Result<Response<pb::CheckSendResponse>, Status> {
                Ok(Response::new(pb::CheckSendResponse {
                    allowed: true,
                    rule: pb::Rule::None.into(),
                    ..Default::default()
                }))
            }

            $(async fn $rpc(
                &self,
                _: Request<pb::$request>,
            ) -> Result<Response<pb::$response>, Status> {
                Err(Status::unimplemented("this service answers CheckSend only"))
            })+
        }
    };
}

refuse!(
    mute_members MuteMembersRequest MuteMembersResponse,
    unmute_members UnmuteMembersRequest UnmuteMembersResponse,
    list_muted_members ListMutedMembersRequest ListMutedMembersResponse,
    ban_room BanRoomRequest BanRoomResponse,
    unban_room UnbanRoomRequest UnbanRoomResponse,
    get_room GetRoomRequest GetRoomResponse,
    allow_members AllowMembersRequest AllowMembersResponse,
    disallow_members DisallowMembersRequest DisallowMembersResponse,
    list_allowed_members ListAllowedMembersRequest ListAllowedMembersResponse,
    mute_room_notifications MuteRoomNotificationsRequest MuteRoomNotificationsResponse,
    unmute_room_notifications UnmuteRoomNotificationsRequest UnmuteRoomNotificationsResponse,
    list_muted_rooms ListMutedRoomsRequest ListMutedRoomsResponse,
    mute_user MuteUserRequest MuteUserResponse,
    unmute_user UnmuteUserRequest UnmuteUserResponse,
    list_muted_users ListMutedUsersRequest ListMutedUsersResponse,
    filter_recipients FilterRecipientsRequest FilterRecipientsResponse,
    batch_check_send BatchCheckSendRequest BatchCheckSendResponse,
    list_events ListEventsRequest ListEventsResponse,
);

/// Serves on a free port, and prints the address.
pub async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .add_service(MuteServiceServer::new(Bare))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

/// The bare service as its own process, like ours. Dropping it kills the process.
pub struct BareProcess {
    child: Child,
    pub addr: String,
}

impl BareProcess {
    pub fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(ARGUMENT)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut addr = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut addr).unwrap();
        Self { child, addr: addr.trim().to_owned() }
    }
}

impl Drop for BareProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! What all writes share: authorization, the id of the request, and the revision in the response.
//! Every RPC that writes has a line here.

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response};

use super::{Api, Reply, encode, unpack};
use crate::{
    error::Error,
    model::RequestId,
    proto::v1 as pb,
    service::{Committed, RequestContext},
};

/// The request of an RPC that writes.
pub(super) trait WriteRequest: Message {
    /// Name of the RPC.
    const METHOD: &'static str;

    fn app(&self) -> &str;

    fn request_id(&mut self) -> &mut String;
}

/// The response of an RPC that writes.
pub(super) trait WriteResponse {
    fn revision(&mut self) -> &mut i64;
}

macro_rules! write_rpcs {
    ($($method:literal $request:ident $response:ident,)+) => {
        $(
            impl WriteRequest for pb::$request {
                const METHOD: &'static str = $method;

                fn app(&self) -> &str {
                    &self.app
                }

                fn request_id(&mut self) -> &mut String {
                    &mut self.request_id
                }
            }

            impl WriteResponse for pb::$response {
                fn revision(&mut self) -> &mut i64 {
                    &mut self.revision
                }
            }
        )+
    };
}

write_rpcs! {
    "MuteMembers" MuteMembersRequest MuteMembersResponse,
    "UnmuteMembers" UnmuteMembersRequest UnmuteMembersResponse,
    "BanRoom" BanRoomRequest BanRoomResponse,
    "UnbanRoom" UnbanRoomRequest UnbanRoomResponse,
    "AllowMembers" AllowMembersRequest AllowMembersResponse,
    "DisallowMembers" DisallowMembersRequest DisallowMembersResponse,
    "MuteUser" MuteUserRequest MuteUserResponse,
    "UnmuteUser" UnmuteUserRequest UnmuteUserResponse,
    "MuteRoomNotifications" MuteRoomNotificationsRequest MuteRoomNotificationsResponse,
    "UnmuteRoomNotifications" UnmuteRoomNotificationsRequest UnmuteRoomNotificationsResponse,
    "UpsertClient" UpsertClientRequest UpsertClientResponse,
    "DeleteClient" DeleteClientRequest DeleteClientResponse,
    "UpsertRoom" UpsertRoomRequest UpsertRoomResponse,
    "DeleteRoom" DeleteRoomRequest DeleteRoomResponse,
}

impl Api {
    /// Authorizes a write. Moves the id of the request from the message to the context. Errors:
    /// those of `Service::authorize`, INVALID_ARGUMENT on `request_id`.
    pub(super) fn begin_write<M: WriteRequest>(
        &self,
        request: Request<M>,
    ) -> Result<(RequestContext, M), Error> {
        let (caller, mut message) = unpack(request);
        let call = self.service.authorize(caller, message.app().to_owned(), M::METHOD)?;
        let id = std::mem::take(message.request_id());
        if id.is_empty() {
            return Ok((call, message));
        }
        let fingerprint = fingerprint(&call, &message);
        Ok((call.with_request_id(RequestId::parse(id)?, fingerprint), message))
    }
}

/// Identifies a request: a hash of its method, its caller, and every field but the request id.
fn fingerprint<M: WriteRequest>(call: &RequestContext, message: &M) -> [u8; 16] {
    let mut hash = Sha256::new();
    // NUL separates the parts: neither the method nor the actor contains one.
    for part in [M::METHOD.as_bytes(), call.principal.actor().as_bytes(), &message.encode_to_vec()]
    {
        hash.update(part);
        hash.update([0]);
    }
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hash.finalize()[..16]);
    fingerprint
}

/// The response of a write, with its revision.
pub(super) fn reply<A: WriteResponse>(committed: Committed<A>) -> Reply<A> {
    let Committed { mut answer, revision } = committed;
    *answer.revision() = encode::revision(revision);
    Ok(Response::new(answer))
}

//! What the writes share: the way in, with the id of the request; and the way out, with the
//! revision. Every RPC that writes has a line here.

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response};

use super::{Api, Reply, encode, open};
use crate::{
    error::Error,
    model::RequestId,
    proto::v1 as pb,
    service::{Committed, RequestContext},
};

/// The request of an RPC that writes.
pub(super) trait Write: Message {
    /// Name of the RPC.
    const METHOD: &'static str;

    fn app(&self) -> &str;

    fn request_id(&mut self) -> &mut String;
}

/// The answer of an RPC that writes.
pub(super) trait Answer {
    fn revision(&mut self) -> &mut i64;
}

macro_rules! writes {
    ($($method:literal $request:ident $response:ident,)+) => {
        $(
            impl Write for pb::$request {
                const METHOD: &'static str = $method;

                fn app(&self) -> &str {
                    &self.app
                }

                fn request_id(&mut self) -> &mut String {
                    &mut self.request_id
                }
            }

            impl Answer for pb::$response {
                fn revision(&mut self) -> &mut i64 {
                    &mut self.revision
                }
            }
        )+
    };
}

writes! {
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
    /// Lets a write into its app. The call knows the id of the request, which is no longer in the
    /// message.
    pub(super) fn begin_write<M: Write>(
        &self,
        request: Request<M>,
    ) -> Result<(RequestContext, M), Error> {
        let (caller, mut message) = open(request);
        let call = self.service.authorize(caller, message.app().to_owned(), M::METHOD)?;
        let id = std::mem::take(message.request_id());
        if id.is_empty() {
            return Ok((call, message));
        }
        let fingerprint = fingerprint(&call, &message);
        Ok((call.named(RequestId::parse(id)?, fingerprint), message))
    }
}

/// The same for the same request of the same caller only: method, caller, and every field but the
/// id.
fn fingerprint<M: Write>(call: &RequestContext, message: &M) -> [u8; 16] {
    let mut hash = Sha256::new();
    // Neither of the first two holds a NUL.
    for part in [M::METHOD.as_bytes(), call.principal.actor().as_bytes(), &message.encode_to_vec()]
    {
        hash.update(part);
        hash.update([0]);
    }
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hash.finalize()[..16]);
    fingerprint
}

/// The answer of a write, with the revision that holds it.
pub(super) fn reply<A: Answer>(written: Committed<A>) -> Reply<A> {
    let Committed { mut answer, revision } = written;
    *answer.revision() = encode::revision(revision);
    Ok(Response::new(answer))
}

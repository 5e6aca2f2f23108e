//! What all reads share: authorization, and the wait for the minimum revision that the caller asks
//! for.

use std::time::Duration;

use tonic::{Request, metadata::MetadataMap};

use super::{Api, encode, parse, unpack_with_metadata};
use crate::{error::Error, proto::v1 as pb, service::RequestContext};

/// Maximum time that a read waits for its minimum revision.
const MAX_REVISION_WAIT: Duration = Duration::from_secs(5);
/// Maximum time that is reserved to send the response, so that the caller gets the error before its
/// deadline. A read with a short deadline reserves a tenth of it.
const RESPONSE_MARGIN: Duration = Duration::from_millis(200);

/// The request of an RPC that reads.
pub(super) trait ReadRequest {
    fn take_app(&mut self) -> String;
    fn min_revision(&self) -> i64;
}

macro_rules! read_requests {
    ($($request:ident),+ $(,)?) => {
        $(
            impl ReadRequest for pb::$request {
                fn take_app(&mut self) -> String {
                    std::mem::take(&mut self.app)
                }

                fn min_revision(&self) -> i64 {
                    self.min_revision
                }
            }
        )+
    };
}

read_requests!(
    ListMutedMembersRequest,
    GetRoomRequest,
    ListAllowedMembersRequest,
    ListMutedUsersRequest,
    ListMutedRoomsRequest,
    ListEventsRequest,
    FilterRecipientsRequest,
    CheckSendRequest,
    BatchCheckSendRequest,
    GetClientRequest,
    ListClientsRequest,
    ListRoomsRequest,
);

impl Api {
    /// Authorizes the caller, and waits until the view has its `min_revision`. Errors: those of
    /// `Service::authorize`, INVALID_ARGUMENT on `min_revision`, STORE_UNAVAILABLE.
    pub(super) async fn begin_read<T: ReadRequest>(
        &self,
        request: Request<T>,
        method: &'static str,
    ) -> Result<(RequestContext, T), Error> {
        let (metadata, caller, mut message) = unpack_with_metadata(request);
        let call = self.service.authorize(caller, message.take_app(), method)?;
        let revision = parse::min_revision(message.min_revision())?;
        if revision > 0 {
            self.service.wait_for_revision(revision, revision_timeout(&metadata)).await?;
        }
        Ok((call, message))
    }

    /// The latest revision in the view. Take it before reading the response that reports it, so
    /// that the response is not older.
    pub(super) fn revision(&self) -> i64 {
        encode::revision(self.service.view.revision())
    }
}

/// How long the read may wait for its minimum revision: until shortly before the caller's deadline.
fn revision_timeout(metadata: &MetadataMap) -> Duration {
    let timeout =
        metadata.get("grpc-timeout").and_then(|value| parse::grpc_timeout(value.to_str().ok()?));
    timeout.map_or(MAX_REVISION_WAIT, |timeout| {
        (timeout - RESPONSE_MARGIN.min(timeout / 10)).min(MAX_REVISION_WAIT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_waits_until_shortly_before_the_deadline() {
        let timeout_ms = |timeout: Option<&str>| {
            let mut metadata = MetadataMap::new();
            timeout.and_then(|timeout| metadata.insert("grpc-timeout", timeout.parse().ok()?));
            revision_timeout(&metadata).as_millis()
        };
        let cases = [
            (None, 5_000),
            (Some("1S"), 900),
            (Some("100m"), 90),
            (Some("200000u"), 180),
            (Some("0m"), 0),
            (Some("3S"), 2_800),
            (Some("1H"), 5_000),
            (Some("99999999H"), 5_000),
            (Some("soon"), 5_000),
        ];
        for (timeout, expected) in cases {
            assert_eq!(timeout_ms(timeout), expected, "{timeout:?}");
        }
    }
}

//! The way in for requests that only ask: each of them may say how new its answer has to be.

use std::time::Duration;

use tonic::{Request, metadata::MetadataMap};

use super::{Api, encode, open_with, parse};
use crate::{error::Error, proto::v1 as pb, service::RequestContext};

/// How long a reader waits for a commit where its caller says nothing, or more.
const MAX_REVISION_WAIT: Duration = Duration::from_secs(5);
/// At most this much, and a tenth, of the caller's time is kept for the way back, so that it is
/// told what was wrong before it stops to listen.
const RESPONSE_MARGIN: Duration = Duration::from_millis(200);

/// A request that only asks.
pub(super) trait ReadRequest {
    fn take_app(&mut self) -> String;
    fn min_revision(&self) -> i64;
}

macro_rules! questions {
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

questions!(
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
    /// Lets the caller in, and waits until the view has what it wants to see. Errors: those of
    /// `Service::authorize`, INVALID_ARGUMENT on `min_revision`, STORE_UNAVAILABLE.
    pub(super) async fn begin_read<T: ReadRequest>(
        &self,
        request: Request<T>,
        method: &'static str,
    ) -> Result<(RequestContext, T), Error> {
        let (metadata, caller, mut message) = open_with(request);
        let call = self.service.authorize(caller, message.take_app(), method)?;
        let revision = parse::min_revision(message.min_revision())?;
        if revision > 0 {
            self.service.wait_for_revision(revision, longest_wait(&metadata)).await?;
        }
        Ok((call, message))
    }

    /// The newest commit in the view, to be read before what is answered with it: the answer is no
    /// older.
    pub(super) fn revision(&self) -> i64 {
        encode::revision(self.service.view.revision())
    }
}

fn longest_wait(metadata: &MetadataMap) -> Duration {
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
    fn a_reader_waits_until_shortly_before_its_callers_deadline_and_at_most_five_seconds() {
        let patience_ms = |timeout: Option<&str>| {
            let mut metadata = MetadataMap::new();
            timeout.and_then(|timeout| metadata.insert("grpc-timeout", timeout.parse().ok()?));
            longest_wait(&metadata).as_millis()
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
            assert_eq!(patience_ms(timeout), expected, "{timeout:?}");
        }
    }
}

//! `TokenService`.

use tonic::{Request, Response, async_trait};

use super::{Api, Reply, parse};
use crate::proto::v1::{self as pb, token_service_server::TokenService};

#[async_trait]
impl TokenService for Api {
    async fn issue_token(&self, request: Request<pb::IssueTokenRequest>) -> Reply<pb::IssueTokenResponse> {
        let message = request.into_inner();
        let ttl_s = parse::ttl_s(message.ttl)?;
        let (access_token, ttl_s) = self.service.issue_token(message.app, &message.client_id, &message.client_secret, ttl_s)?;
        let ttl = ttl_s.and_then(|ttl_s| i64::try_from(ttl_s).ok()).map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        Ok(Response::new(pb::IssueTokenResponse { access_token, ttl }))
    }
}

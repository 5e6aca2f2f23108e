//! The RPCs of `TokenService`.

use tonic::{Request, Response, async_trait};

use super::{Api, Reply, parse};
use crate::{
    auth::credentials::Caller,
    proto::v1::{self as pb, token_service_server::TokenService},
    service::TokenRequest,
};

#[async_trait]
impl TokenService for Api {
    async fn issue_token(
        &self,
        request: Request<pb::IssueTokenRequest>,
    ) -> Reply<pb::IssueTokenResponse> {
        let site = request.extensions().get::<Caller>().and_then(|caller| caller.site);
        let pb::IssueTokenRequest { app, client_id, client_secret, ttl } = request.into_inner();
        let ttl_s = parse::ttl_s(ttl)?;
        let request =
            TokenRequest { app, client_id: &client_id, client_secret: &client_secret, ttl_s, site };
        let (access_token, ttl_s) = self.service.issue_token(request)?;
        let ttl = ttl_s
            .and_then(|ttl_s| i64::try_from(ttl_s).ok())
            .map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        Ok(Response::new(pb::IssueTokenResponse { access_token, ttl }))
    }
}

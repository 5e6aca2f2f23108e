//! gRPC for web pages. Browsers cannot speak gRPC, so they send grpc-web over HTTP/1.1 or HTTP/2,
//! after a CORS preflight.

use std::{convert::Infallible, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use hyper::body::Body as HttpBody;
use serde::Deserialize;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::listener::HttpService;

/// How long a browser may cache a preflight.
const CORS_MAX_AGE: Duration = Duration::from_secs(3_600);
/// The response headers that a page may read.
const EXPOSED_HEADERS: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
const ANY_ORIGIN: &str = "*";

/// The origin of a page, as browsers send it: `https://console.example`, with the port unless it is
/// the scheme's default; or `*` for any origin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "\"{text}\" is not an origin; write https://HOST or *, with :PORT if it is not 443 (80 for http), without a path"
            )
        };
        // Browsers send it in lower case, and there are no wildcards within it.
        let is_literal =
            !text.contains(|character: char| character == '*' || character.is_ascii_uppercase());
        let is_origin = is_literal
            && text.parse::<Uri>().is_ok_and(|uri| {
                let parts = uri.scheme_str().zip(uri.authority());
                parts.is_some_and(|(scheme, authority)| {
                    matches!(scheme, "http" | "https") && text == format!("{scheme}://{authority}")
                })
            });
        if is_origin || text == ANY_ORIGIN {
            HeaderValue::from_str(text).map(Self).map_err(|_| invalid())
        } else {
            Err(invalid())
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Wraps the service in grpc-web and CORS for pages of these origins. A page's only credentials are
/// those it sends with each call, so cookies are not allowed.
pub(super) fn wrap<S, A>(service: S, pages: &[Origin]) -> impl HttpService
where
    S: Service<Request<Body>, Response = Response<A>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    A: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let origins = if pages.iter().any(|Origin(origin)| origin == ANY_ORIGIN) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(pages.iter().map(|Origin(origin)| origin.clone()))
    };
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED_HEADERS.map(HeaderName::from_static))
        .max_age(CORS_MAX_AGE);
    let response = |response: Response<A>| response.map(Body::new);
    ServiceBuilder::new()
        .layer(cors)
        .layer(GrpcWebLayer::new())
        .map_response(response)
        .service(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_exactly_what_browsers_send() {
        for good in ["https://console.example", "http://localhost:3000", "*", "https://[::1]:8443"]
        {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "console.example",
            "https://console.example/",
            "https://console.example/x",
            "ftp://x",
            "https://*.example/",
            "null",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}

//! gRPC for web pages: browsers cannot speak it, so they send grpc-web, over HTTP/1.1 or HTTP/2,
//! and ask first whether a page of theirs may (CORS).

use std::{convert::Infallible, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use hyper::body::Body as HttpBody;
use serde::Deserialize;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::listener::Answers;

/// For how long a browser need not ask again.
const MAX_AGE: Duration = Duration::from_secs(3_600);
/// What a page may read of an answer, beside its body.
const EXPOSED: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
const EVERY: &str = "*";

/// Where a page comes from, as browsers tell it: `https://console.example`, with its port where
/// that is not the scheme's own; or `*`, every one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" is no origin: https://HOST, with :PORT where it is not 443, and nothing behind; or *"
            )
        };
        // Browsers send it in lower case, and know no patterns.
        let is_plain = !text.contains(|letter: char| letter == '*' || letter.is_ascii_uppercase());
        let is_origin = is_plain
            && text.parse::<Uri>().is_ok_and(|uri| {
                let parts = uri.scheme_str().zip(uri.authority());
                parts.is_some_and(|(scheme, authority)| {
                    matches!(scheme, "http" | "https") && text == format!("{scheme}://{authority}")
                })
            });
        if is_origin || text == EVERY {
            HeaderValue::from_str(text).map(Self).map_err(|_| wrong())
        } else {
            Err(wrong())
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The calls, also for pages of these origins. A page has no credentials but those it sends with
/// each call, so cookies are of no use here.
pub(super) fn around<S, A>(calls: S, pages: &[Origin]) -> impl Answers
where
    S: Service<Request<Body>, Response = Response<A>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    A: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let origins = if pages.iter().any(|Origin(origin)| origin == EVERY) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(pages.iter().map(|Origin(origin)| origin.clone()))
    };
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(MAX_AGE);
    let answer = |answer: Response<A>| answer.map(Body::new);
    ServiceBuilder::new().layer(cors).layer(GrpcWebLayer::new()).map_response(answer).service(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send_and_nothing_else() {
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

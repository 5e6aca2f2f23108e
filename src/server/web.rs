//! What web pages need of both doors: CORS, and for gRPC also grpc-web, because browsers cannot
//! speak gRPC. A preflight is answered here: it has no credentials, and is no call. It
//! is an OPTIONS request with an origin and the method that a page wants; any other is a call.

use std::{convert::Infallible, net::IpAddr, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};
use hyper::body::{Body as HttpBody, Incoming};
use serde::Deserialize;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{BoxError, Layer, Service, ServiceBuilder, util::option_layer};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use super::connection::HttpService;

/// How long a browser may cache a preflight.
const CORS_MAX_AGE: Duration = Duration::from_secs(3_600);
/// The response headers of gRPC that a page may read.
const EXPOSED_HEADERS: [&str; 4] =
    ["grpc-encoding", "grpc-status", "grpc-message", "grpc-status-details-bin"];
const ANY_ORIGIN: &str = "*";

/// The origin of a page, as browsers send it: `https://console.example`, with the port unless it is
/// the scheme's default; or `*` for any origin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Origin {
    /// Every origin.
    Any,
    /// Every origin on this machine: the default of dev mode. A configuration cannot name it.
    Loopback,
    /// This one.
    Exact(HeaderValue),
}

impl Origin {
    fn includes(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Loopback => is_loopback(origin),
            Self::Exact(exact) => exact == origin,
        }
    }
}

fn is_loopback(origin: &HeaderValue) -> bool {
    let Ok(uri) = Uri::try_from(origin.as_bytes()) else { return false };
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    is_web
        && uri.host().is_some_and(|host| {
            let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
        })
}

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
        if text == ANY_ORIGIN {
            Ok(Self::Any)
        } else if is_origin {
            HeaderValue::from_str(text).map(Self::Exact).map_err(|_| invalid())
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

/// CORS for pages of these origins. A page's only credentials are those it sends with each call,
/// so cookies are not allowed.
fn cors(pages: &[Origin]) -> CorsLayer {
    let pages = pages.to_vec();
    let origins = if pages.contains(&Origin::Any) {
        AllowOrigin::any()
    } else {
        AllowOrigin::predicate(move |origin, _| pages.iter().any(|page| page.includes(origin)))
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_headers(AllowHeaders::mirror_request())
        .max_age(CORS_MAX_AGE)
}

/// Marks an OPTIONS request that is no preflight: it reads what the service answers to OPTIONS.
#[derive(Clone, Copy)]
struct PlainOptions;

/// Hides such a request from [`CorsLayer`], which takes every OPTIONS request for a preflight.
fn hide_plain_options<B>(mut request: Request<B>) -> Request<B> {
    let headers = request.headers();
    let is_preflight =
        headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && !is_preflight {
        *request.method_mut() = Method::GET;
        request.extensions_mut().insert(PlainOptions);
    }
    request
}

/// Undoes [`hide_plain_options`], behind that layer.
fn show_plain_options<B>(mut request: Request<B>) -> Request<B> {
    if request.extensions_mut().remove::<PlainOptions>().is_some() {
        *request.method_mut() = Method::OPTIONS;
    }
    request
}

/// Wraps gRPC in grpc-web and CORS for pages of these origins.
pub(super) fn wrap<S, A>(service: S, pages: &[Origin]) -> impl HttpService
where
    S: Service<Request<Body>, Response = Response<A>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    A: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let exposed = EXPOSED_HEADERS.map(HeaderName::from_static);
    let response = |response: Response<A>| response.map(Body::new);
    ServiceBuilder::new()
        .map_request(hide_plain_options)
        .layer(cors(pages).allow_methods([Method::POST]).expose_headers(exposed))
        .map_request(show_plain_options)
        .layer(GrpcWebLayer::new())
        .map_response(response)
        .service(service)
}

/// Wraps REST in CORS for pages of these origins, if there are any. Pages may read all headers of
/// an answer, such as `Retry-After`.
pub(super) fn wrap_rest<S, A>(service: S, pages: &[Origin]) -> impl HttpService
where
    S: Service<Request<Incoming>, Response = Response<A>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    A: HttpBody<Data: Send, Error: Into<BoxError>> + Default + Send + 'static,
{
    let cors = (!pages.is_empty()).then(|| {
        let cors = cors(pages)
            .allow_methods(AllowMethods::mirror_request())
            .expose_headers(ExposeHeaders::any());
        ServiceBuilder::new()
            .map_request(hide_plain_options)
            .layer(cors)
            .map_request(show_plain_options)
    });
    option_layer(cors).layer(service)
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

    #[test]
    fn a_loopback_origin_is_a_page_of_this_machine() {
        let is_loopback = |origin| is_loopback(&HeaderValue::from_static(origin));
        for own in
            ["http://localhost:3000", "https://localhost", "http://127.0.0.1", "http://[::1]:1"]
        {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "null",
            "https://console.example",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "file://localhost",
            "localhost",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}

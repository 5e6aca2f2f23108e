//! The source of an issuer's keys: a file or a URL.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Body;
use http::{Request, StatusCode, Uri, header, uri::Scheme};
use tokio::time::timeout;

use super::{config::IssuerConfig, keys::Keys};
use crate::fetch::{self, HttpClient};

/// The timeout of the whole response.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a response: a set of some hundred keys.
const MAX_RESPONSE_BYTES: usize = 256 << 10;

#[expect(clippy::large_enum_variant, reason = "there are a handful of them")]
pub(super) enum Source {
    File(PathBuf),
    Url {
        client: HttpClient,
        uri: Uri,
        /// Read for each request, because Kubernetes replaces it.
        token_file: Option<PathBuf>,
    },
}

impl Source {
    /// The configured source. Errors: a sentence that says what is wrong with the settings.
    pub(super) fn new(config: &IssuerConfig) -> Result<Self, String> {
        let IssuerConfig { jwks_file, jwks_url, jwks_ca, jwks_token_file, .. } = config;
        let url = match (jwks_file, jwks_url) {
            (Some(file), None) if jwks_ca.is_none() && jwks_token_file.is_none() => {
                return Ok(Self::File(file.clone()));
            }
            (None, Some(url)) => url,
            _ => {
                return Err(
                    "set either jwks_file or jwks_url; jwks_ca and jwks_token_file need jwks_url"
                        .to_owned(),
                );
            }
        };
        let uri: Uri = url.parse().map_err(|error| format!("jwks_url: {error}"))?;
        let is_loopback = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match uri.scheme().map(Scheme::as_str) {
            Some("https") if jwks_ca.is_some() => {}
            Some("https") => {
                return Err(
                    "jwks_url: https needs jwks_ca, such as /etc/ssl/certs/ca-certificates.crt \
                     for public authorities"
                        .to_owned(),
                );
            }
            // Over plain HTTP, an attacker on the path could replace the keys and forge tokens.
            Some("http") if is_loopback => {}
            _ => return Err("jwks_url must be https://..., or http:// on this machine".to_owned()),
        }
        Ok(Self::Url {
            client: fetch::client(jwks_ca.as_deref())?,
            uri,
            token_file: jwks_token_file.clone(),
        })
    }

    /// Reads the keys. Errors: a sentence that names the file or the URL.
    pub(super) async fn keys(&self) -> Result<Keys, String> {
        match self {
            Self::File(path) => read_file(path),
            Self::Url { client, uri, token_file } => {
                let result =
                    timeout(FETCH_TIMEOUT, fetch_keys(client, uri, token_file.as_ref())).await;
                let result = result.unwrap_or_else(|_| {
                    Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs()))
                });
                result
                    .and_then(|text| Keys::parse(&text))
                    .map_err(|error| format!("{uri}: {error}"))
            }
        }
    }
}

/// Reads the keys from a file. Errors: a sentence that names the file.
pub(super) fn read_file(path: &Path) -> Result<Keys, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string());
    bytes
        .and_then(|json| Keys::parse(&json))
        .map_err(|error| format!("{}: {error}", path.display()))
}

async fn fetch_keys(
    client: &HttpClient,
    uri: &Uri,
    token_file: Option<&PathBuf>,
) -> Result<Vec<u8>, String> {
    let mut request =
        Request::get(uri).header(header::ACCEPT, "application/jwk-set+json, application/json");
    if let Some(path) = token_file {
        let token =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let request = request.body(Body::empty()).map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| fetch::describe(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("the server responded {}", response.status()));
    }
    let body = axum::body::to_bytes(Body::new(response.into_body()), MAX_RESPONSE_BYTES).await;
    body.map(Vec::from).map_err(|error| {
        format!(
            "cannot read the response of at most {MAX_RESPONSE_BYTES} bytes: {}",
            fetch::describe(&error)
        )
    })
}

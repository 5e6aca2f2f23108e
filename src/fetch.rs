//! An HTTP client for other servers: for backups of a running service, and the keys of an issuer.
//! It is hyper's own client; `reqwest`, which is built on it, would add crates for a few
//! GETs. [`peer`] finds out which server answers.

use std::{path::Path, sync::Arc};

use axum::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, builderstates::WantsProtocols1};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::pem;

pub mod peer;

/// A client for http and https. Cheap to clone.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// A client that trusts only the certificate authorities of this PEM file; without one, no https
/// server is trusted. Errors: a sentence that names the file.
pub fn client(authorities: Option<&Path>) -> Result<HttpClient, String> {
    let connector = connector(authorities)?.enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// As [`client`], for servers of HTTP/2.
fn http2_client(authorities: Option<&Path>) -> Result<HttpClient, String> {
    let connector = connector(authorities)?.enable_http2().build();
    Ok(Client::builder(TokioExecutor::new()).http2_only(true).build(connector))
}

fn connector(authorities: Option<&Path>) -> Result<HttpsConnectorBuilder<WantsProtocols1>, String> {
    let roots = authorities.map_or_else(|| Ok(RootCertStore::empty()), pem::authorities)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions();
    let tls =
        tls.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http())
}

/// The error with all of its causes, because hyper's own messages say little.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"))
}

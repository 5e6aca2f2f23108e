//! What is fetched over HTTP from somebody else: a backup of a running service, the keys of an
//! issuer.

use std::{path::Path, sync::Arc};

use axum::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::pem;

/// Of http and https; cheap to clone.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Body>;

/// Trusts the authorities of this file, in PEM, and no other; without one no server of https is
/// trusted. Errors: a sentence that names the file.
pub fn client(authorities: Option<&Path>) -> Result<HttpClient, String> {
    let roots = authorities.map_or_else(|| Ok(RootCertStore::empty()), pem::authorities)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions();
    let tls =
        tls.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// With what lies below it, since hyper's own say little of what was wrong.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

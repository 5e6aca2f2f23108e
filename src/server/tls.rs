//! TLS of the listeners: certificates that are reloaded while the service runs, and the names in
//! client certificates.

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use super::http::Protocols;
use crate::{
    auth::credentials::{CertNames, refused},
    files::FileWatcher,
    pem,
    telemetry::metrics::{METRICS, Outcome, Reloaded},
};

const H2: &[u8] = b"h2";

/// The TLS files, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by its intermediate certificates.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// Certificate authorities of clients. If set, a client may present a certificate, and one from
    /// another authority is refused.
    pub client_ca: Option<PathBuf>,
}

/// The TLS configuration for new connections.
pub struct Tls {
    files: TlsFiles,
    watcher: FileWatcher,
    configs: ArcSwap<Configs>,
}

/// Configurations that differ only in the protocols offered (ALPN).
struct Configs {
    auto: Arc<ServerConfig>,
    http2_only: Arc<ServerConfig>,
}

impl Configs {
    fn new(auto: ServerConfig) -> Self {
        let mut http2_only = auto.clone();
        http2_only.alpn_protocols.retain(|protocol| protocol == H2);
        Self { auto: Arc::new(auto), http2_only: Arc::new(http2_only) }
    }
}

impl Tls {
    /// Reads the files. Errors: a sentence that names the file.
    pub fn new(files: TlsFiles) -> Result<Self, String> {
        let TlsFiles { cert, key, client_ca } = files.clone();
        let watcher =
            FileWatcher::new([Some(cert), Some(key), client_ca].into_iter().flatten().collect());
        let configs = ArcSwap::from_pointee(Configs::new(read_config(&files)?));
        METRICS.reloads.loaded(Reloaded::Certificate);
        record_ends(&files);
        Ok(Self { files, watcher, configs })
    }

    /// The acceptor for one connection with these protocols.
    pub(super) fn acceptor(&self, protocols: Protocols) -> TlsAcceptor {
        let configs = self.configs.load();
        TlsAcceptor::from(match protocols {
            Protocols::Auto => configs.auto.clone(),
            Protocols::Http2Only => configs.http2_only.clone(),
        })
    }

    /// Reloads the files when they change; new connections use them. Runs forever.
    pub async fn watch_files(self: Arc<Self>) {
        let mut files = self.watcher.clone();
        loop {
            files.changed().await;
            match read_config(&self.files) {
                Ok(config) => {
                    self.configs.store(Arc::new(Configs::new(config)));
                    METRICS.reloads.reloaded(Reloaded::Certificate, Outcome::Ok);
                    record_ends(&self.files);
                    let cert = self.files.cert.display();
                    tracing::info!(%cert, "the certificate was reloaded");
                }
                Err(error) => {
                    METRICS.reloads.reloaded(Reloaded::Certificate, Outcome::Failed);
                    tracing::error!(
                        error,
                        "the certificate could not be reloaded; the previous one stays in use"
                    );
                }
            }
        }
    }
}

/// The names in the client's certificate, if it presented one. The handshake has verified its
/// authority.
pub(super) fn cert_names<T>(stream: &TlsStream<T>) -> Option<CertNames> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates()?.first()?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let common_names = || {
        certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let name_of = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    };
    // The common name counts only if there is no subject alternative name: a certificate for an
    // address identifies no one by its common name (RFC 6125, section 6.4.4).
    Some(CertNames(match alternative {
        Some(extension) => extension.value.general_names.iter().filter_map(name_of).collect(),
        None => common_names(),
    }))
}

/// Reports a client certificate that the handshake has refused; no other failure.
pub(super) fn report_refusal(peer: SocketAddr, error: &io::Error) {
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    if let Some(rustls::Error::InvalidCertificate(error)) = cause {
        refused::untrusted_certificate(peer, error);
    }
}

/// Records when the certificates in use end: the chain with its first one, the authorities of
/// clients with the last.
fn record_ends(files: &TlsFiles) {
    let cert = fs::read(&files.cert).unwrap_or_default();
    METRICS.reloads.certificate_end("tls_cert", pem::ends_s(&cert).min());
    let client_ca = files.client_ca.as_ref().and_then(|path| fs::read(path).ok());
    let client_ca = client_ca.unwrap_or_default();
    METRICS.reloads.certificate_end("tls_client_ca", pem::ends_s(&client_ca).max());
}

fn read_config(files: &TlsFiles) -> Result<ServerConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            // A client without a certificate may have another credential; the credentials layer
            // checks that.
            let roots = Arc::new(pem::authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .allow_unauthenticated();
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| pem::describe(path, &error))?,
            )
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| pem::describe(&files.key, &error))?;
    let config = builder.with_single_cert(pem::certificates(&files.cert)?, key);
    let mut config = config.map_err(|error| pem::describe(&files.cert, &error))?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

//! TLS of the listeners: certificates that may be replaced while the service runs, and the names of
//! a client that shows one.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use super::http::Http;
use crate::{auth::credentials::CertNames, files::FileWatcher, pem};

const H2: &[u8] = b"h2";

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of clients. A client may show a certificate then, and one of another authority
    /// is refused.
    pub client_ca: Option<PathBuf>,
}

/// What new connections are begun with.
pub struct Tls {
    files: TlsFiles,
    seen: FileWatcher,
    configs: ArcSwap<Configs>,
}

/// The same for both listeners, but for the protocols that may be spoken.
struct Configs {
    any: Arc<ServerConfig>,
    two: Arc<ServerConfig>,
}

impl Configs {
    fn of(any: ServerConfig) -> Self {
        let mut two = any.clone();
        two.alpn_protocols.retain(|protocol| protocol == H2);
        Self { any: Arc::new(any), two: Arc::new(two) }
    }
}

impl Tls {
    /// Errors: a sentence that names the file.
    pub fn new(files: TlsFiles) -> Result<Self, String> {
        let TlsFiles { cert, key, client_ca } = files.clone();
        let seen =
            FileWatcher::new([Some(cert), Some(key), client_ca].into_iter().flatten().collect());
        let configs = ArcSwap::from_pointee(Configs::of(read(&files)?));
        Ok(Self { files, seen, configs })
    }

    /// For one connection, over which these protocols may be spoken.
    pub(super) fn acceptor(&self, http: Http) -> TlsAcceptor {
        let configs = self.configs.load();
        TlsAcceptor::from(match http {
            Http::Any => configs.any.clone(),
            Http::Two => configs.two.clone(),
        })
    }

    /// Takes what has changed for connections to come. Never ends by itself.
    pub async fn watch_files(self: Arc<Self>) {
        let mut files = self.seen.clone();
        loop {
            files.changed().await;
            match read(&self.files) {
                Ok(config) => {
                    self.configs.store(Arc::new(Configs::of(config)));
                    tracing::info!(cert = %self.files.cert.display(), "the certificate was read again");
                }
                Err(error) => tracing::error!(
                    error,
                    "the certificate was not read again; the old one goes on"
                ),
            }
        }
    }
}

/// The names of the client, where it has shown a certificate; its authority was looked at in the
/// handshake.
pub(super) fn names<T>(stream: &TlsStream<T>) -> Option<CertNames> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates()?.first()?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let common = || {
        certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let names = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    };
    // The common name counts where there are no others at all: one that is for an address is for
    // nobody by its common name (RFC 6125, section 6.4.4).
    Some(CertNames(match alternative {
        Some(extension) => extension.value.general_names.iter().filter_map(names).collect(),
        None => common(),
    }))
}

fn read(files: &TlsFiles) -> Result<ServerConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            // Who shows none has another credential, or is refused where that is looked at.
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

//! Reads certificates from PEM files.
//! `rustls` reads them; this adds errors that name the file.

use std::path::Path;

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// All certificates of a file, at least one. Errors: a sentence that names the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| describe(path, &error))?;
    if read.is_empty() {
        Err(format!("{}: it contains no certificate", path.display()))
    } else {
        Ok(read)
    }
}

/// The certificate authorities of a file, at least one. Errors: a sentence that names the file.
pub fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| describe(path, &error))?;
    }
    Ok(roots)
}

/// When each certificate of this PEM ends, in seconds since 1970. One that cannot be parsed is left
/// out.
pub fn ends_s(pem: &[u8]) -> impl Iterator<Item = i64> {
    CertificateDer::pem_slice_iter(pem).flatten().filter_map(|certificate| {
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    })
}

/// An error message that names the file.
pub fn describe(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

//! Reads certificates from PEM files.
//! `rustls` reads them; this adds errors that name the file.

use std::path::Path;

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

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

/// An error message that names the file.
pub fn describe(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

//! Certificates for tests over TLS, as files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};

/// A certificate authority. Its own certificate is NAME.pem in the directory.
pub struct Authority {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.join(format!("{name}.pem")), issuer.pem()).unwrap();
        Self { directory: directory.to_owned(), issuer }
    }

    /// Writes NAME.pem and NAME.key for this DNS name, address or URI, valid for servers and
    /// clients.
    pub fn issue(&self, name: &str, subject: &str) {
        self.issue_named(name, "", &[subject]);
    }

    /// The same with a common name and any number of subjects.
    pub fn issue_named(&self, name: &str, common: &str, subjects: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let (uris, others): (Vec<_>, Vec<_>) = subjects
            .iter()
            .map(|subject| (*subject).to_owned())
            .partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(others).unwrap();
        params
            .subject_alt_names
            .extend(uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap())));
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

//! TLS towards the database: the certificate and the name are always verified.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    error::{Error, ErrorKind},
    postgres::pool::connection_string::refused,
};

/// What the application gave, in PEM.
#[derive(Default)]
pub(crate) struct Certificates {
    /// Authorities to trust.
    pub(crate) roots: Vec<Vec<u8>>,
    /// The client's own chain, and its key.
    pub(crate) own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    pub(crate) fn are_none(&self) -> bool {
        self.roots.is_empty() && self.own.is_none()
    }

    pub(crate) fn connector(&self) -> Result<MakeRustlsConnect, Error> {
        // Named, so that it does not matter which provider the process has installed, if any.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(self.authorities()?);
        let mut config = match &self.own {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable)?;
                let chain = certificates(chain)?;
                config.with_client_auth_cert(chain, key).map_err(unusable)?
            }
        };
        // Each connection verifies the certificate; a resumed session would be taken on trust.
        config.resumption = Resumption::disabled();
        // `sslnegotiation=direct` demands it, and libpq 17 always says it.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    fn authorities(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for pem in &self.roots {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(unusable)?;
            }
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(refused(
                "no certificate authority is trusted: the platform names none, and none was given",
            ));
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(unusable)?;
    if found.is_empty() {
        return Err(refused("there is no certificate in the PEM that was given"));
    }
    Ok(found)
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Configuration, error).with_message("a certificate or key cannot be used")
}

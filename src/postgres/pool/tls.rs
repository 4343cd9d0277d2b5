//! TLS client configuration; the certificate and the name are always verified.

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
    postgres::pool::connection_string::config_error,
};

/// Certificates of the application, in PEM format.
#[derive(Default)]
pub(crate) struct Certificates {
    /// Certificate authorities to trust.
    pub(crate) roots: Vec<Vec<u8>>,
    /// The client's certificate chain and private key.
    pub(crate) own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.own.is_none()
    }

    pub(crate) fn connector(&self) -> Result<MakeRustlsConnect, Error> {
        // The provider is explicit. Therefore the provider that the process may have installed does
        // not matter.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(certificate_error)?
            .with_root_certificates(self.authorities()?);
        let mut config = match &self.own {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(certificate_error)?;
                let chain = certificates(chain)?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(certificate_error)?
            }
        };
        // Every connection verifies the certificate. A resumed TLS session would skip this
        // verification.
        config.resumption = Resumption::disabled();
        // `sslnegotiation=direct` requires ALPN, and libpq 17 always sends it.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    fn authorities(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for pem in &self.roots {
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(certificate_error)?;
            }
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(config_error(
                "no certificate authority is trusted: the platform has none; call \
                 root_certificates",
            ));
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(certificate_error)?;
    if found.is_empty() {
        return Err(config_error("the PEM input contains no certificate"));
    }
    Ok(found)
}

fn certificate_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Configuration, error).with_message("loading a certificate or key failed")
}

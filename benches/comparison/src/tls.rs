//! TLS to the server of the contestants: its certificate, and clients that verify it.

use std::{
    fmt,
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    sync::Arc,
    time::Duration,
};

use ephemeral_postgres::Server;
use rcgen::generate_simple_self_signed;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{BoxError, data, delaying_proxy::Host};

/// What a client needs to verify the server.
#[derive(Clone)]
pub(crate) struct Tls {
    /// For tokio-postgres.
    pub(crate) connector: MakeRustlsConnect,
    /// The certificate in PEM, for other drivers.
    pub(crate) certificate: String,
}

impl Tls {
    /// Gives the server a certificate for the host that clients connect to. From then on, the
    /// server accepts connections from this machine over TCP if they use TLS.
    pub(crate) async fn present(server: &Server, host: &Host) -> Result<Self, BoxError> {
        let own = generate_simple_self_signed([host.to_string()])?;
        let certificate = own.cert.pem();
        write(server, "server.crt", &certificate)?;
        write(server, "server.key", &own.signing_key.serialize_pem())?;
        write(
            server,
            "pg_hba.conf",
            "local all all trust\nhostssl all all 127.0.0.0/8 trust\n",
        )?;
        let client = data::connect(&server.config()).await?;
        client.batch_execute("ALTER SYSTEM SET ssl = on").await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        // The postmaster reads them when it gets the signal.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            connector: MakeRustlsConnect::new(config),
            certificate,
        })
    }
}

/// Writes a file in the server's data directory that only the server can read.
fn write(server: &Server, name: &str, text: &str) -> Result<(), BoxError> {
    let directory = server.directory().ok_or("the server is not private")?;
    let data = directory.join("data");
    let owner = fs::metadata(&data)?;
    let path = data.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    chown(&path, Some(owner.uid()), Some(owner.gid()))?;
    Ok(())
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

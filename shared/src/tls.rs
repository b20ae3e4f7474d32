//! TLS towards whom we call: rustls on aws-lc, the back end that the AWS SDK brings along anyway.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, bail};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Makes aws-lc the process's only provider, also for the Redis client. Without it, rustls would look for one
/// at the first handshake and panic if a dependency had brought a second.
pub fn install_provider() {
    // An error says that one is installed already: ours.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A connector to PostgreSQL.
///
/// # Errors
/// As [`client_config`].
pub fn postgres_connector() -> anyhow::Result<MakeRustlsConnect> {
    Ok(MakeRustlsConnect::new(ClientConfig::clone(&*client_config()?)))
}

/// Verifies certificate and host name against the system's roots, or the bundle that `SSL_CERT_FILE` names. They are read
/// once in a process: PostgreSQL, AWS and mail servers are all met in its first request.
///
/// # Errors
/// There are no roots.
pub fn client_config() -> anyhow::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(known) = CONFIG.get() {
        return Ok(known.clone());
    }
    let read = Arc::new(read_config()?);
    Ok(CONFIG.get_or_init(|| read).clone())
}

fn read_config() -> anyhow::Result<ClientConfig> {
    install_provider();
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        bail!("no root certificates found: install ca-certificates or set SSL_CERT_FILE ({:?})", found.errors);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(versions.context("TLS cannot be set up")?.with_root_certificates(roots).with_no_client_auth())
}

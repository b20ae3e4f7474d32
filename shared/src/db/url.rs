//! A database's address, and how one connection to it is opened.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls;

/// How long a new connection may take, handshakes included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A database's address, parsed, and whether to use TLS.
#[derive(Clone, Debug, Default)]
pub struct DatabaseUrl(pub(super) Config);

impl DatabaseUrl {
    /// Parses a `postgres://` URL or a libpq key-value string; `None` when it is neither.
    ///
    /// `sslmode` is `disable` (the default), `require` or `verify-full`; both of the latter verify certificate
    /// and host name. `prefer` promises nothing and is taken as `disable`.
    pub fn parse(url: &str) -> Option<Self> {
        // The driver knows no verify-full.
        let known = url.replace("sslmode=verify-full", "sslmode=require");
        let mut config: Config = known.parse().ok()?;
        if config.get_hosts().is_empty() {
            return None;
        }
        if config.get_ssl_mode() != SslMode::Require {
            config.ssl_mode(SslMode::Disable);
        }
        config.connect_timeout(CONNECT_TIMEOUT);
        Some(Self(config))
    }

    /// Fills in user name and password where the address has none.
    pub fn fill_in(&mut self, user: Option<&str>, password: Option<&str>) {
        if let (None, Some(user)) = (self.0.get_user(), user) {
            self.0.user(user);
        }
        if let (None, Some(password)) = (self.0.get_password(), password) {
            self.0.password(password);
        }
    }

    /// Whether connections are over TLS, verified.
    pub fn is_tls(&self) -> bool {
        self.0.get_ssl_mode() == SslMode::Require
    }

    /// The password in it, where there is one.
    pub fn password(&self) -> Option<&[u8]> {
        self.0.get_password()
    }

    /// Opens one connection, whose task runs until the client is dropped.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let tls = tls_of(&self.0)?;
        let (client, _) = open(&self.0, tls).await.context("cannot connect to PostgreSQL")?;
        Ok(client)
    }
}

/// What a connection is wrapped in, where the address wants it.
pub(super) fn tls_of(config: &Config) -> anyhow::Result<Option<MakeRustlsConnect>> {
    match config.get_ssl_mode() {
        SslMode::Require => tls::postgres_connector().map(Some),
        _ => Ok(None),
    }
}

pub(super) async fn open(
    config: &Config,
    tls: Option<MakeRustlsConnect>,
) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
    // The connection's own error is also that of the statement that meets it, so it is not logged twice.
    match tls {
        Some(tls) => {
            let (client, connection) = config.connect(tls).await?;
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        }
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_strict_ssl_modes_mean_verified_tls() {
        for (mode, expected) in [
            ("", SslMode::Disable),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=prefer", SslMode::Disable),
            ("?sslmode=require", SslMode::Require),
            ("?sslmode=verify-full", SslMode::Require),
        ] {
            let url = DatabaseUrl::parse(&format!("postgres://u:p@h/d{mode}")).unwrap();
            assert_eq!(url.0.get_ssl_mode(), expected, "{mode}");
        }
        assert!(DatabaseUrl::parse("postgres://u:p@h/d?sslmode=verify").is_none());
        assert!(DatabaseUrl::parse("mysql://u:p@h/d").is_none());
        assert!(DatabaseUrl::parse("").is_none());
    }
}

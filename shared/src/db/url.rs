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
/// How long what we sent may go without TCP's acknowledgement: a network that forgot the connection drops it without
/// a word. Half of what a request may wait, so that a read has time for another connection.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(3);
/// After how much silence the peer is asked whether it is still there. A function that is frozen asks when it thaws,
/// and one that is not keeps the connection in the network's memory.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

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
        config.tcp_user_timeout(ACKNOWLEDGE_TIMEOUT);
        config.keepalives_idle(KEEPALIVE_IDLE);
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

    /// Who logs in, where it says so.
    pub fn user(&self) -> Option<&str> {
        self.0.get_user()
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
    fn a_dead_connection_is_noticed_in_time_for_another() {
        let config = DatabaseUrl::parse("postgres://u:p@h/d").unwrap().0;
        assert!(*config.get_tcp_user_timeout().unwrap() + CONNECT_TIMEOUT <= super::super::REQUEST_TIMEOUT);
        assert!(config.get_keepalives() && config.get_keepalives_idle() < crate::MAX_IDLE);
        // What idles for some 350 s Lambda's network drops without a word.
        assert!(crate::MAX_IDLE <= Duration::from_secs(60));
    }

    /// A server that lets anybody in and then reads no more: its kernel has room for some megabytes, and then acknowledges
    /// nothing new, as a network that has forgotten the connection.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_that_acknowledges_nothing_ends_by_itself() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u32().await.unwrap();
            let mut startup = vec![0; length as usize - 4];
            stream.read_exact(&mut startup).await.unwrap();
            // AuthenticationOk, ReadyForQuery.
            stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.unwrap();
            stream
        });
        let url = DatabaseUrl::parse(&format!("postgres://u@127.0.0.1:{port}/d")).unwrap();
        let client = url.connect().await.unwrap();
        let stream = server.await.unwrap();
        let statement = "x".repeat(64 * 1024 * 1024);
        let (started, patience) = (std::time::Instant::now(), 5 * ACKNOWLEDGE_TIMEOUT);
        let ended = tokio::time::timeout(patience, client.batch_execute(&statement)).await;
        let error = ended.expect("it does not end").unwrap_err();
        assert!(error.is_closed() || std::error::Error::source(&error).is_some(), "{error:?}");
        assert!(started.elapsed() >= ACKNOWLEDGE_TIMEOUT, "{:?}", started.elapsed());
        drop(stream);
    }

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

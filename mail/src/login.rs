//! Whether a server lets somebody in: the whole of a test, and the beginning of everything else.

use crate::connect::{Connector, Security, Session, Stream};
use crate::error::Error;
use crate::imap::Imap;
use crate::pop3::Pop3;
use crate::smtp::Smtp;

pub use crate::sasl::{Login, Secret};

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 3501 and 9051.
    Imap,
    /// RFC 1939.
    Pop3,
    /// Submission, RFC 6409.
    Smtp,
}

impl Protocol {
    /// As `lastError.service` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
        }
    }
}

/// Where to sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// What is spoken there.
    pub protocol: Protocol,
    /// A name in its ASCII form, or an IP address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// How the connection is encrypted.
    pub security: Security,
}

/// What may be read in a try: a chain of certificates has some 5 KiB, all answers together less.
pub const TRY_BYTES: u64 = 256 * 1024;

/// Connects, signs in and out again.
///
/// # Errors
/// The first thing that goes wrong; signing out is a courtesy and does not count.
pub async fn try_login(connector: &Connector, server: &Server, login: &Login, session: Session) -> Result<(), Error> {
    let stream = connector.connect(&server.host, server.port, server.security, session).await?;
    converse(stream, server.protocol, server.security, login).await
}

/// What is said on an open connection.
pub(crate) async fn converse(
    stream: Stream,
    protocol: Protocol,
    security: Security,
    login: &Login,
) -> Result<(), Error> {
    match protocol {
        Protocol::Imap => Imap::sign_in(stream, security, login).await?.sign_out().await,
        Protocol::Pop3 => Pop3::sign_in(stream, security, login).await?.sign_out().await,
        Protocol::Smtp => Smtp::sign_in(stream, security, login).await?.sign_out().await,
    }
    Ok(())
}

#[cfg(test)]
mod tests;

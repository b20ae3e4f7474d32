//! Whether a server lets somebody in: the whole of a test, and the beginning of everything else.

use std::fmt;

use zeroize::Zeroizing;

use crate::connect::{Connector, Security, Session};
use crate::error::Error;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 3501.
    Imap,
    /// RFC 1939.
    Pop3,
    /// Submission, RFC 6409.
    Smtp,
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

/// Who signs in.
#[derive(Debug)]
pub struct Login {
    /// As the server knows it.
    pub username: String,
    /// What proves it.
    pub secret: Secret,
}

/// What proves who one is. Wiped when dropped; `Debug` prints nothing of it.
pub enum Secret {
    /// As its owner typed it.
    Password(Zeroizing<String>),
    /// OAuth 2.0 (RFC 6750), fresh.
    AccessToken(Zeroizing<String>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "[password]",
            Self::AccessToken(_) => "[access token]",
        })
    }
}

/// Connects, signs in and out again.
///
/// # Errors
/// The first thing that goes wrong; signing out is a courtesy and does not count.
pub async fn try_login(
    _connector: &Connector,
    _server: &Server,
    _login: &Login,
    _session: Session,
) -> Result<(), Error> {
    todo!()
}

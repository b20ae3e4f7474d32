//! Whether a server lets somebody in: the whole of a test, and the beginning of everything else.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::connect::{Connector, Security, Session, Stream};
use crate::error::{Code, Error, clean, cut};
use crate::imap::Imap;
use crate::pop3::Pop3;
use crate::sasl;
use crate::smtp::Smtp;

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

/// Who signs in, and by what.
#[derive(Debug)]
pub struct Login {
    username: String,
    secret: Secret,
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

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        match self {
            Self::Password(text) | Self::AccessToken(text) => text,
        }
    }
}

/// What may be read in a try: a chain of certificates has some 5 KiB, all answers together less.
pub const TRY_BYTES: u64 = 256 * 1024;

/// For a goodbye. It is polite, and unlocks a POP3 mailbox at once, but nobody waits for it any longer.
pub(crate) const SIGN_OUT_TIMEOUT: Duration = Duration::from_secs(2);

const REDACTED: &str = "what the server says repeats the secret, or words that are in it";

/// The shortest piece of what we said that counts as repeated when a server says it. Shorter ones are in any sentence.
const MIN_ECHO_BYTES: usize = 8;

impl Login {
    /// Refuses what no protocol can carry: a line break would be a command of its own, NUL and 0x01 end a field of
    /// SASL. A token is what a header of HTTP may have (RFC 6750 section 2.1).
    ///
    /// # Errors
    /// [`Code::Authentication`]: no server lets such a login in.
    pub fn new(username: impl Into<String>, secret: Secret) -> Result<Self, Error> {
        let username = username.into();
        let fits = !username.chars().any(|c| c.is_ascii_control())
            && match &secret {
                Secret::Password(text) => !text.contains(['\0', '\r', '\n']),
                Secret::AccessToken(text) => text.bytes().all(|byte| byte.is_ascii_graphic()),
            };
        if fits {
            return Ok(Self { username, secret });
        }
        Err(Error {
            code: Code::Authentication,
            message: "User name and password may have no line breaks or other control characters.".into(),
            detail: "control characters in the user name or its secret".into(),
        })
    }

    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// A login that the server did not accept, in its own words where it has any.
    pub(crate) fn refused(code: Code, words: &str) -> Error {
        let words = clean(words);
        if words.is_empty() {
            return Error::new(code, "signing in was refused");
        }
        Error { code, detail: format!("signing in was refused: {words}"), message: words }
    }

    /// Cuts what a server says, and leaves it out as a whole where it repeats the secret. It may have been told it on
    /// another day, so this goes for all that it says.
    pub(crate) fn redact(&self, error: Error) -> Error {
        let Error { code, message, detail } = error;
        // Before they are cut: a piece of the secret at the end would not be known for one.
        if self.is_echoed_in(&message) || self.is_echoed_in(&detail) {
            return Error::new(code, REDACTED);
        }
        Error { code, message: cut(message), detail: cut(detail) }
    }

    /// A server that offers nothing that fits this secret. Without encryption it may have more to offer with it.
    pub(crate) fn not_offered(&self, encrypted: bool) -> Error {
        let (code, message) = match (encrypted, &self.secret) {
            (false, _) => {
                (Code::Tls, "The mail server lets nobody sign in without encryption. Choose tls or starttls.")
            }
            (true, Secret::Password(_)) => (Code::Authentication, "The mail server does not accept passwords."),
            (true, Secret::AccessToken(_)) => (Code::Authentication, "The mail server does not accept access tokens."),
        };
        Error { code, message: message.into(), detail: "no way to sign in is offered that fits".into() }
    }

    /// Whether a server's cleaned words have the secret in them, or a piece of what was said with it.
    fn is_echoed_in(&self, words: &str) -> bool {
        let words = words.to_ascii_lowercase();
        let secret = Zeroizing::new(self.secret.reveal().to_owned());
        let said: Vec<_> = sasl::said_with_secret(self)
            .into_iter()
            .chain([secret])
            .map(|text| Zeroizing::new(clean(&text).to_ascii_lowercase()))
            .collect();
        let mut pieces = words.split(|c: char| c.is_whitespace() || "\"'`<>()[]:".contains(c));
        said.iter().any(|text| words.contains(text.as_str()))
            || pieces.any(|piece| piece.len() >= MIN_ECHO_BYTES && said.iter().any(|text| text.contains(piece)))
    }
}

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

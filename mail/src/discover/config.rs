//! What is said about servers: the form that every source's answer gets.

use crate::connect::Security;
use crate::login::{Protocol, Server};

/// In a user name: the whole address.
pub const ADDRESS: &str = "%EMAILADDRESS%";
/// In a user name: what is before the `@`.
pub const LOCAL_PART: &str = "%EMAILLOCALPART%";
/// In names of files: what is after the `@`. Never left in an [`Offer`].
pub(super) const DOMAIN: &str = "%EMAILDOMAIN%";

/// A server, and who one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Where to sign in.
    pub server: Server,
    /// The user's name there; in a [`Config`] its form, with [`ADDRESS`] or [`LOCAL_PART`].
    pub username: String,
}

/// A password for programs only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPassword {
    /// Whether the mailbox's own password is refused in any case, not just after a second factor was set up.
    pub required: bool,
    /// Where the user makes one.
    pub url: String,
}

/// The settings of all addresses of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Servers for reading, best first.
    pub incoming: Vec<Offer>,
    /// Servers for sending, best first.
    pub smtp: Vec<Offer>,
    /// The provider whose sign-in is accepted instead of a password.
    pub oauth2: Option<String>,
    /// The provider's password for programs, where it has one.
    pub app_password: Option<AppPassword>,
}

impl Offer {
    /// Whether nobody on the way can read what is said there.
    pub(super) fn is_encrypted(&self) -> bool {
        self.server.security != Security::Plain
    }

    /// Lower ones first: anything encrypted before what is not, IMAP before POP3, TLS before STARTTLS.
    pub(super) fn rank(&self) -> (bool, bool, bool) {
        let Server { protocol, security, .. } = self.server;
        (security == Security::Plain, protocol == Protocol::Pop3, security == Security::StartTls)
    }
}

/// Replaces each placeholder once; what is put in is not looked at again.
pub(super) fn expand(text: &str, values: &[(&str, &str)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        expanded.push_str(&rest[..start]);
        rest = &rest[start..];
        match values.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                expanded.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                expanded.push('%');
                rest = &rest[1..];
            }
        }
    }
    expanded + rest
}

//! Who signs in, and what he says (SASL, RFC 4422): the same sentences for IMAP, POP3 and SMTP.

use std::collections::VecDeque;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::error::{Code, Error, clean, cut};

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

pub(crate) const REDACTED: &str = "what the server says repeats the secret, or words that are in it";

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

    /// Whether a server's words have the secret in them, or a piece of what was said with it.
    pub(crate) fn is_echoed_in(&self, words: &str) -> bool {
        Echo::of(self).is_in(words)
    }
}

/// What knows a secret again in a server's words, for as long as a session goes on: a server that has heard it may say it at
/// any time, and its words come into logs.
pub(crate) struct Echo(Vec<Zeroizing<String>>);

impl fmt::Debug for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Echo {
    pub(crate) fn of(login: &Login) -> Self {
        let lines = said_with_secret(login);
        let said = lines.iter().map(|line| line.as_str()).chain([login.secret.reveal()]);
        Self(said.map(comparable).collect())
    }

    /// As [`Login::is_echoed_in`].
    pub(crate) fn is_in(&self, words: &str) -> bool {
        let words = comparable(words);
        let mut pieces = words.split([' ', '\'', '`', '<', '>', '(', ')', '[', ']', ':']);
        self.0.iter().any(|text| words.contains(text.as_str()))
            || pieces.any(|piece| piece.len() >= MIN_ECHO_BYTES && self.0.iter().any(|text| text.contains(piece)))
    }
}

/// In small letters, and without what a quoted string of IMAP adds: an echo may come in capitals or with its quotes.
fn comparable(text: &str) -> Zeroizing<String> {
    let text = Zeroizing::new(clean(text));
    let mut comparable = Zeroizing::new(String::with_capacity(text.len()));
    comparable.extend(text.chars().filter(|c| !matches!(c, '"' | '\\')).map(|c| c.to_ascii_lowercase()));
    comparable
}

/// A way to prove who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// RFC 4616.
    Plain,
    /// No RFC, but Microsoft's servers had it first and some have no other.
    Login,
    /// Google's, and Microsoft's only one.
    XOAuth2,
    /// RFC 7628.
    OAuthBearer,
}

/// Best first.
const FOR_PASSWORDS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];
const FOR_TOKENS: [Mechanism; 2] = [Mechanism::OAuthBearer, Mechanism::XOAuth2];

impl Mechanism {
    /// The best of those that fit the secret and that the server offers.
    pub(crate) fn choose(secret: &Secret, offered: impl Fn(&str) -> bool) -> Option<Self> {
        Self::fitting(secret).into_iter().find(|mechanism| offered(mechanism.name()))
    }

    fn fitting(secret: &Secret) -> [Self; 2] {
        match secret {
            Secret::Password(_) => FOR_PASSWORDS,
            Secret::AccessToken(_) => FOR_TOKENS,
        }
    }

    /// As servers list it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::XOAuth2 => "XOAUTH2",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }
}

/// What the client says, in order. What the server says in between is only its cue: none of these mechanisms reads it.
pub(crate) struct Exchange {
    mechanism: Mechanism,
    responses: VecDeque<Zeroizing<String>>,
    cancelled: bool,
}

impl Exchange {
    pub(crate) fn new(mechanism: Mechanism, login: &Login) -> Self {
        let (user, secret) = (login.username(), login.secret().reveal());
        let responses = match mechanism {
            Mechanism::Plain => [encoded(&["\0", user, "\0", secret])].into(),
            Mechanism::Login => [encoded(&[user]), encoded(&[secret])].into(),
            // A refusal comes as one more challenge, and the server waits for an answer before it says no: an empty
            // one here, a lone 0x01 there (RFC 7628 section 3.2.3).
            Mechanism::XOAuth2 => {
                [encoded(&["user=", user, "\x01auth=Bearer ", secret, "\x01\x01"]), Zeroizing::default()].into()
            }
            Mechanism::OAuthBearer => {
                let user = user.replace('=', "=3D").replace(',', "=2C");
                [encoded(&["n,a=", &user, ",\x01auth=Bearer ", secret, "\x01\x01"]), encoded(&["\x01"])].into()
            }
        };
        Self { mechanism, responses, cancelled: false }
    }

    /// What may be said along with the command, if that has room for it. LOGIN's first sentence must be asked for.
    pub(crate) fn initial(&mut self, fits: impl FnOnce(&str) -> bool) -> Option<Zeroizing<String>> {
        self.responses.pop_front_if(|response| self.mechanism != Mechanism::Login && fits(response))
    }

    /// The answer to a challenge, base64. Where there is nothing more to say, the exchange is cancelled.
    ///
    /// # Errors
    /// [`Code::Protocol`] when the server goes on asking even then.
    pub(crate) fn answer(&mut self) -> Result<Zeroizing<String>, Error> {
        match self.responses.pop_front() {
            Some(response) => Ok(response),
            None if self.cancelled => Err(Error::new(Code::Protocol, "the server does not stop asking")),
            None => {
                self.cancelled = true;
                Ok("*".to_owned().into())
            }
        }
    }
}

/// Each sentence with the secret in it that a client may have said, as it went over the wire.
pub(crate) fn said_with_secret(login: &Login) -> Vec<Zeroizing<String>> {
    let mechanisms = Mechanism::fitting(login.secret()).into_iter();
    mechanisms
        .filter_map(|mechanism| match (mechanism, Exchange::new(mechanism, login).responses) {
            (Mechanism::Login, mut responses) => responses.pop_back(),
            (_, mut responses) => responses.pop_front(),
        })
        .collect()
}

fn encoded(parts: &[&str]) -> Zeroizing<String> {
    let text = Zeroizing::new(parts.concat());
    Zeroizing::new(STANDARD.encode(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Secret {
        Secret::Password(text.to_owned().into())
    }

    fn token(text: &str) -> Secret {
        Secret::AccessToken(text.to_owned().into())
    }

    /// All that is said until the exchange is cancelled, decoded.
    fn said(mechanism: Mechanism, username: &str, secret: Secret) -> Vec<String> {
        let mut exchange = Exchange::new(mechanism, &Login::new(username, secret).unwrap());
        let mut said: Vec<_> = exchange.initial(|_| true).into_iter().collect();
        loop {
            match exchange.answer().unwrap() {
                cancel if *cancel == "*" => break,
                response => said.push(response),
            }
        }
        assert_eq!(exchange.answer().unwrap_err().code, Code::Protocol);
        said.iter().map(|text| String::from_utf8(STANDARD.decode(&**text).unwrap()).unwrap()).collect()
    }

    #[test]
    fn each_mechanism_says_what_its_specification_shows() {
        // RFC 4616 section 4, without an identity to act for.
        assert_eq!(said(Mechanism::Plain, "tim", password("tanstaaftanstaaf")), ["\0tim\0tanstaaftanstaaf"]);
        assert_eq!(said(Mechanism::Plain, "jürgen", password("ß=\"\\")), ["\0jürgen\0ß=\"\\"]);
        assert_eq!(said(Mechanism::Login, "tim", password("secret")), ["tim", "secret"]);
        // https://developers.google.com/workspace/gmail/imap/xoauth2-protocol, and the empty answer to a refusal.
        assert_eq!(
            said(Mechanism::XOAuth2, "someuser@example.com", token("ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")),
            ["user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01", ""]
        );
        // RFC 7628 sections 3.1 and 3.2.3; the user name is a saslname of RFC 5801.
        assert_eq!(
            said(Mechanism::OAuthBearer, "a,b=c@example.com", token("vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")),
            ["n,a=a=2Cb=3Dc@example.com,\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01", "\x01"]
        );
    }

    #[test]
    fn what_finds_no_room_and_the_first_sentence_of_login_wait_for_their_cue() {
        let login = Login::new("tim", password("secret")).unwrap();
        assert!(Exchange::new(Mechanism::Login, &login).initial(|_| true).is_none());
        assert!(Exchange::new(Mechanism::Plain, &login).initial(|_| false).is_none());
        assert!(Exchange::new(Mechanism::Plain, &login).initial(|_| true).is_some());
    }

    #[test]
    fn the_best_offer_that_fits_the_secret_is_taken() {
        use Mechanism::{Login, OAuthBearer, Plain, XOAuth2};
        for (offers, for_password, for_token) in [
            ("CRAM-MD5 LOGIN PLAIN XOAUTH2 OAUTHBEARER", Some(Plain), Some(OAuthBearer)),
            ("LOGIN XOAUTH2", Some(Login), Some(XOAuth2)),
            ("PLAIN", Some(Plain), None),
            ("OAUTHBEARER", None, Some(OAuthBearer)),
            ("GSSAPI NTLM SCRAM-SHA-256", None, None),
            ("", None, None),
        ] {
            let offered = |name: &str| offers.split(' ').any(|offer| offer == name);
            assert_eq!(Mechanism::choose(&password("p"), offered), for_password, "{offers}");
            assert_eq!(Mechanism::choose(&token("t"), offered), for_token, "{offers}");
        }
    }
}

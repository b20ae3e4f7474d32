//! SMTP submission (RFC 6409, RFC 5321, RFC 4954): greeting, EHLO, STARTTLS, signing in and out; and handing a message over
//! ([`Smtp::offer`], [`Smtp::transmit`], [`Smtp::commit`]).

use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::connect::{SIGN_OUT_TIMEOUT, Security, Stream};
use crate::error::{Code, Error, clean};
use crate::sasl::{Exchange, Login, Mechanism};

mod said;
mod submit;

pub use self::said::{Kind, Said};
pub use self::submit::{Commit, Envelope, Offer, Outcome, Transmission};

/// A line of a reply. RFC 5321 section 4.5.3.1.5 allows 512 bytes, servers write longer refusals with links in them.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// Lines of one reply. EHLO's is the longest; servers list some twenty extensions.
const MAX_LINES: usize = 100;

/// A command with its end (RFC 5321 section 4.5.3.1.4). What does not fit is said when asked for (RFC 4954 section 4).
const MAX_COMMAND_BYTES: usize = 512;

/// Who we say that we are: an address literal, as RFC 5321 section 4.1.4 has it for a client without a name. The true
/// one would be an address of the operator's inner network, written into the header of each mail; mail programs that
/// care for privacy say this one too.
const EHLO: &str = "EHLO [127.0.0.1]";

/// A connection on which somebody has signed in.
#[derive(Debug)]
pub struct Smtp {
    stream: Stream,
    /// In capitals, one line each.
    extensions: Vec<String>,
}

/// Why nobody has signed in.
#[derive(Debug)]
pub struct NotSignedIn {
    /// What went wrong.
    pub error: Error,
    /// What the server's answer means, where it asks to come later.
    pub kind: Option<Kind>,
}

impl NotSignedIn {
    fn later(what: &str, reply: &Reply) -> Self {
        Self { error: Error::new(Code::Unavailable, format!("{what}: {reply}")), kind: Some(reply.kind()) }
    }
}

impl From<Error> for NotSignedIn {
    fn from(error: Error) -> Self {
        Self { error, kind: None }
    }
}

impl From<NotSignedIn> for Error {
    fn from(failure: NotSignedIn) -> Self {
        failure.error
    }
}

impl Smtp {
    /// Reads the greeting, encrypts where that was asked for, and signs in by the best way that the server offers.
    ///
    /// # Errors
    /// [`Code::Authentication`] where the server refuses the login; [`Code::Unavailable`] where it has no welcome
    /// or asks to come later; [`Code::Tls`] where STARTTLS is missing or fails, or the server wants encryption first;
    /// [`Code::Protocol`] for what is no SMTP server.
    pub async fn sign_in(stream: Stream, security: Security, login: &Login) -> Result<Self, NotSignedIn> {
        let work = async {
            let mut smtp = Self::open(stream, security).await?;
            smtp.log_in(login).await?;
            Ok(smtp)
        };
        work.await.map_err(|failure: NotSignedIn| NotSignedIn { error: login.redact(failure.error), ..failure })
    }

    async fn open(stream: Stream, security: Security) -> Result<Self, NotSignedIn> {
        let mut smtp = Self { stream, extensions: Vec::new() };
        let greeting = smtp.reply().await?;
        match greeting.code {
            220 => {}
            // 421 for now, 554 for good: by a block list, most of the time.
            400..=599 => return Err(NotSignedIn::later("no welcome", &greeting)),
            _ => return Err(Error::new(Code::Protocol, format!("no greeting of SMTP: {greeting}")).into()),
        }
        smtp.say_hello().await?;
        if security == Security::StartTls { smtp.start_tls().await } else { Ok(smtp) }
    }

    async fn start_tls(mut self) -> Result<Self, NotSignedIn> {
        if !self.extensions.iter().any(|line| line == "STARTTLS") {
            return Err(Error::new(Code::Tls, "STARTTLS is not offered").into());
        }
        self.send("STARTTLS").await?;
        let reply = self.reply().await?;
        match reply.code {
            220 => {}
            400..=499 => return Err(NotSignedIn::later("no STARTTLS for now", &reply)),
            _ => return Err(Error::new(Code::Tls, format!("STARTTLS was refused: {reply}")).into()),
        }
        // What was listed in clear may be anybody's.
        let mut smtp = Self { stream: self.stream.start_tls().await?, extensions: Vec::new() };
        smtp.say_hello().await?;
        Ok(smtp)
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), NotSignedIn> {
        self.stream.check_secrecy()?;
        // With "=" in the place of the first space as well: a draft had it, and old clients still want to see it.
        let lists = self.extensions.iter().filter_map(|line| line.strip_prefix("AUTH")?.strip_prefix([' ', '=']));
        let offered = lists.collect::<Vec<_>>().join(" ");
        let mechanism = Mechanism::choose(login.secret(), |name| offered.split(' ').any(|offer| offer == name));
        let Some(mechanism) = mechanism else { return Err(login.not_offered(self.stream.is_encrypted()).into()) };
        let reply = self.authenticate(Exchange::new(mechanism, login), mechanism).await?;
        verdict(&reply, self.stream.is_encrypted())
    }

    /// Says goodbye, for as long as that takes no time.
    pub async fn sign_out(mut self) {
        let goodbye = async {
            self.send("QUIT").await?;
            self.reply().await
        };
        // Whoever has signed in has what he came for.
        let _ = timeout(SIGN_OUT_TIMEOUT, goodbye).await;
    }

    async fn say_hello(&mut self) -> Result<(), NotSignedIn> {
        self.send(EHLO).await?;
        let reply = self.reply().await?;
        match reply.code {
            250 => {
                self.extensions = reply.text.lines().skip(1).map(str::to_ascii_uppercase).collect();
                Ok(())
            }
            400..=499 => Err(NotSignedIn::later("EHLO", &reply)),
            // Nobody can sign in without extensions (RFC 4954).
            _ => Err(Error::new(Code::Protocol, format!("EHLO: {reply}")).into()),
        }
    }

    async fn authenticate(&mut self, mut exchange: Exchange, mechanism: Mechanism) -> Result<Reply, Error> {
        let name = mechanism.name();
        let length = |response: &str| format!("AUTH {name} \r\n").len() + response.len();
        match exchange.initial(|response| length(response) <= MAX_COMMAND_BYTES) {
            Some(response) => self.send(&Zeroizing::new(["AUTH ", name, " ", &response].concat())).await?,
            None => self.send(&format!("AUTH {name}")).await?,
        }
        loop {
            let reply = self.reply().await?;
            if reply.code != 334 {
                return Ok(reply);
            }
            self.send(&exchange.answer()?).await?;
        }
    }

    async fn send(&mut self, command: &str) -> Result<(), Error> {
        let line = Zeroizing::new([command, "\r\n"].concat());
        self.stream.write_all(line.as_bytes()).await
    }

    async fn reply(&mut self) -> Result<Reply, Error> {
        // The words are not repeated: before they are understood, they may be an echo of what was said.
        let broken = || Error::new(Code::Protocol, "a line that is no reply of SMTP");
        let mut reply: Option<Reply> = None;
        for _ in 0..MAX_LINES {
            let mut line = Vec::new();
            self.stream.read_line(&mut line, MAX_LINE_BYTES).await?;
            let (code, last, text) = parse(&String::from_utf8_lossy(&line)).ok_or_else(broken)?;
            let reply = reply.get_or_insert_with(|| Reply { code, text: String::new() });
            if reply.code != code {
                return Err(broken());
            }
            reply.text.push_str(&text);
            if last {
                return Ok(std::mem::take(reply));
            }
            reply.text.push('\n');
        }
        Err(Error::new(Code::Protocol, "a reply that does not end"))
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Reply {
    code: u16,
    /// One line for each of the reply.
    text: String,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, clean(&self.text))
    }
}

/// A line of a reply: its code, whether it is the last one, its text.
fn parse(line: &str) -> Option<(u16, bool, String)> {
    let line = line.trim_end_matches(['\r', '\n']);
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(digits.as_bytes().first(), Some(b'2'..=b'5')) {
        return None;
    }
    let code = digits.parse().ok()?;
    match rest.strip_prefix('-') {
        Some(text) => Some((code, false, text.to_owned())),
        None if rest.is_empty() => Some((code, true, String::new())),
        None => Some((code, true, rest.strip_prefix(' ')?.to_owned())),
    }
}

/// What the end of a sign-in means (RFC 4954 section 6 for the codes).
fn verdict(reply: &Reply, encrypted: bool) -> Result<(), NotSignedIn> {
    let code = match reply.code {
        235 => return Ok(()),
        // A password that must be changed first will not be better later.
        432 => Code::Authentication,
        400..=499 => Code::Unavailable,
        530 | 538 if !encrypted => Code::Tls,
        // Not the login but the command is not understood.
        500..=504 => Code::Protocol,
        505..=599 => Code::Authentication,
        _ => Code::Protocol,
    };
    let kind = (code == Code::Unavailable).then(|| reply.kind());
    Err(NotSignedIn { error: Login::refused(code, &reply.text), kind })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connect::Session;
    use crate::sasl::Secret;
    use crate::testing::{Script, connect_to_script};

    #[tokio::test]
    async fn who_is_to_sign_in_later_learns_whether_a_policy_or_a_limit_has_it_so() {
        let login = Login::new("alice", Secret::Password("hunter22".to_owned().into())).unwrap();
        let say = |words: &str| Script::new().say(format!("{words}\r\n"));
        let hello = |words: &str| say("220 mail.example.com").hear(EHLO).append(say(words));
        let start_tls = |words: &str| hello("250-me\r\n250 STARTTLS").hear("STARTTLS").append(say(words));
        let auth =
            |words: &str| hello("250-me\r\n250 AUTH PLAIN").hear("AUTH PLAIN AGFsaWNlAGh1bnRlcjIy").append(say(words));
        let (plain, starttls) = (Security::Plain, Security::StartTls);
        for (security, script, code, kind) in [
            (plain, say("421 4.7.0 Try again later, closing connection."), Code::Unavailable, Some(Kind::Policy)),
            (plain, say("421 4.3.2 Too many connections"), Code::Unavailable, Some(Kind::Later)),
            (plain, say("421 4.3.2 Connection rate limit exceeded."), Code::Unavailable, Some(Kind::Policy)),
            (plain, say("554 5.7.1 You are on a list"), Code::Unavailable, Some(Kind::Never)),
            (plain, hello("421 4.7.0 Too many errors"), Code::Unavailable, Some(Kind::Policy)),
            (starttls, start_tls("454 4.7.0 TLS not available"), Code::Unavailable, Some(Kind::Policy)),
            (plain, auth("454 4.7.0 Too many login attempts"), Code::Unavailable, Some(Kind::Policy)),
            (plain, auth("454-Daily message\r\n454 quota exceeded."), Code::Unavailable, Some(Kind::Limit)),
            // Who is refused for good is told so, whatever else is said.
            (plain, auth("535 5.7.8 Rate limit exceeded"), Code::Authentication, None),
        ] {
            let (stream, _server) = connect_to_script(script, Session::new(Duration::from_secs(60), 1 << 20));
            let failure = Smtp::sign_in(stream, security, &login).await.unwrap_err();
            assert_eq!((failure.error.code, failure.kind), (code, kind), "{}", failure.error);
        }
    }
}

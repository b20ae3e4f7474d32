//! IMAP (RFC 3501, RFC 9051): greeting, STARTTLS, signing in and out; the folders of an account ([`Imap::list`]) and
//! the messages in them ([`Imap::converse`]).
//!
//! Responses are framed by the bounded lines and literals of [`Stream`], with nothing held back in a parser's own
//! buffer where bytes of before STARTTLS could hide. They are read by code of our own: real servers write them in ways
//! that strict parsers refuse (letters outside ASCII in a refusal, no text after a code, NIL for a string), which must
//! not turn a refused password into a broken protocol or let a message be missed. A response that matters and cannot be
//! read is told as such; data that nobody asked for is passed over.

use tokio::time::timeout;
use zeroize::Zeroizing;

use self::frame::{CONDITIONS, Condition, Frame};

use crate::connect::{SIGN_OUT_TIMEOUT, Security, Stream};
use crate::error::{Code, Error, asks_to_wait, clean, cut};
use crate::sasl::{Echo, Exchange, Login, Mechanism, REDACTED, Secret};

mod body;
mod converse;
mod features;
mod fetch;
mod file;
pub(crate) mod frame;
mod list;
mod name;
mod pipeline;
mod role;
mod uid_set;

pub use self::converse::{Command, Conversation, Event, Flag, Items, MAX_SET_BYTES, Outcome, PREVIEW_BYTES, Resync};
pub use self::features::Features;
pub use self::fetch::{Fetched, Flags, Gmail};
pub use self::file::NotFiled;
pub use self::list::{Folder, MAX_FOLDERS, Status};
pub use self::role::Role;
pub use self::uid_set::{UidPieces, UidSet};

/// One response with its literals, until somebody has signed in. Capabilities are the longest, some 1 KiB.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// One response of a mailbox, beside what is cut of messages. The longest is a search where each of 400,000 messages is
/// a number.
const MAX_DATA_BYTES: usize = 4 * 1024 * 1024;

/// A connection on which somebody has signed in.
#[derive(Debug)]
pub struct Imap {
    stream: Stream,
    /// As the server last listed them, in capitals; `None` where it may have others by now.
    capabilities: Option<Vec<String>>,
    /// So many commands were sent; the tag is made of it.
    commands: u32,
    /// The response that was read last.
    frame: Frame,
    /// Whether answers may be on their way that nobody waits for any more.
    is_talking: bool,
    /// Whether ENABLE was sent.
    is_enabled: bool,
    greeted_as_icloud: bool,
    /// Once somebody has signed in.
    echo: Option<Echo>,
}

impl Imap {
    /// Reads the greeting, encrypts where that was asked for, and signs in by the best way that the server offers.
    ///
    /// # Errors
    /// [`Code::Authentication`] where the server refuses the login; [`Code::Unavailable`] where it says goodbye or asks
    /// to come later; [`Code::Tls`] where STARTTLS is missing or fails, or the server wants encryption first;
    /// [`Code::Protocol`] for what is no IMAP server.
    pub async fn sign_in(stream: Stream, security: Security, login: &Login) -> Result<Self, Error> {
        let work = async {
            let mut imap = Self::open(stream, security).await?;
            imap.log_in(login).await?;
            imap.echo = Some(Echo::of(login));
            Ok(imap)
        };
        work.await.map_err(|error| login.redact(error))
    }

    async fn open(stream: Stream, security: Security) -> Result<Self, Error> {
        let mut imap = Self {
            stream,
            capabilities: None,
            commands: 0,
            frame: Frame::default(),
            is_talking: false,
            is_enabled: false,
            greeted_as_icloud: false,
            echo: None,
        };
        match imap.response(MAX_RESPONSE_BYTES).await? {
            Response::Untagged(Reply { condition: Condition::Ok, text, .. }) => {
                imap.greeted_as_icloud = features::greets_as_icloud(&text);
            }
            Response::Untagged(Reply { condition: Condition::Bye, text, .. }) => {
                return Err(farewell(&text));
            }
            // Somebody is signed in: nothing can be proved any more, nor encrypted (RFC 9051 section 11.1).
            Response::Untagged(Reply { condition: Condition::PreAuth, .. }) => {
                return Err(Error::new(Code::Protocol, "greeted with PREAUTH"));
            }
            _ => return Err(Error::new(Code::Protocol, "no greeting of IMAP")),
        }
        if security == Security::StartTls { imap.start_tls().await } else { Ok(imap) }
    }

    async fn start_tls(mut self) -> Result<Self, Error> {
        if !self.offers("STARTTLS").await? {
            return Err(Error::new(Code::Tls, "STARTTLS is not offered"));
        }
        let status = self.complete("STARTTLS").await?;
        if status.condition != Condition::Ok {
            return Err(Error::new(Code::Tls, format!("STARTTLS was refused: {}", clean(&status.text))));
        }
        // What was listed in clear may be anybody's.
        Ok(Self { stream: self.stream.start_tls().await?, capabilities: None, ..self })
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Error> {
        self.stream.check_secrecy()?;
        let capabilities = self.capabilities().await?;
        let offers = |name: &str| capabilities.iter().any(|offer| offer == name);
        let mechanism = Mechanism::choose(login.secret(), |name| offers(&format!("AUTH={name}")));
        let initial = offers("SASL-IR");
        // Signing in may change what the server can do (RFC 3501 section 6.2); many say so in the same answer.
        self.capabilities = None;
        let answer = match (mechanism, login.secret()) {
            (Some(mechanism), _) => self.authenticate(Exchange::new(mechanism, login), mechanism, initial).await?,
            (None, Secret::Password(password)) if !offers("LOGINDISABLED") => {
                self.login_command(login.username(), password).await?
            }
            (None, _) => return Err(login.not_offered(self.stream.is_encrypted())),
        };
        verdict(&answer)
    }

    /// Says goodbye, for as long as that takes no time.
    pub async fn sign_out(mut self) {
        // Whoever has left a conversation does not want to read the rest of it.
        if self.is_talking {
            return;
        }
        // Whoever has signed in has what he came for.
        let _ = timeout(SIGN_OUT_TIMEOUT, self.complete("LOGOUT")).await;
    }

    async fn authenticate(
        &mut self,
        mut exchange: Exchange,
        mechanism: Mechanism,
        initial: bool,
    ) -> Result<Reply, Error> {
        let name = mechanism.name();
        match exchange.initial(|_| initial) {
            Some(response) => {
                let command = Zeroizing::new(["AUTHENTICATE ", name, " ", &response].concat());
                self.send(&command).await?;
            }
            None => self.send(&format!("AUTHENTICATE {name}")).await?,
        }
        loop {
            match self.answer().await? {
                Answer::Done(status) => return Ok(status),
                Answer::Continue => {
                    let line = Zeroizing::new([&exchange.answer()?, "\r\n"].concat());
                    self.stream.write_all(line.as_bytes()).await?;
                }
            }
        }
    }

    async fn login_command(&mut self, username: &str, password: &str) -> Result<Reply, Error> {
        // What a quoted string cannot hold is sent as a literal, once the server asks for it.
        let mut command = Zeroizing::new("LOGIN ".to_owned());
        let mut literals = Vec::new();
        for (argument, end) in [(username, " "), (password, "")] {
            let text = match quoted(argument) {
                Some(quoted) => quoted,
                None => {
                    literals.push(argument);
                    Zeroizing::new(format!("{{{}}}\r\n", argument.len()))
                }
            };
            command = Zeroizing::new([command.as_str(), &text, end].concat());
        }
        let mut pieces = command.split_inclusive('\n');
        self.send(pieces.next().unwrap_or_default().trim_end()).await?;
        for literal in literals {
            if let Answer::Done(status) = self.answer().await? {
                return Ok(status);
            }
            let rest = pieces.next().unwrap_or_default();
            let end = if rest.ends_with('\n') { "" } else { "\r\n" };
            self.stream.write_all(Zeroizing::new([literal, rest, end].concat()).as_bytes()).await?;
        }
        match self.answer().await? {
            Answer::Done(status) => Ok(status),
            Answer::Continue => Err(Error::new(Code::Protocol, "LOGIN was answered with a question")),
        }
    }

    async fn offers(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.capabilities().await?.iter().any(|offer| offer == name))
    }

    /// What the server can do; asked for unless it said so by itself.
    async fn capabilities(&mut self) -> Result<Vec<String>, Error> {
        if self.capabilities.is_none() {
            if self.is_talking {
                return Err(pipeline::left_behind());
            }
            self.complete("CAPABILITY").await?;
        }
        self.capabilities.clone().ok_or_else(|| Error::new(Code::Protocol, "the server does not say what it can do"))
    }

    /// The command that switches on what the features need, once.
    fn enable(&mut self, features: &Features) -> Option<Vec<u8>> {
        let command = features.enable_command().filter(|_| !self.is_enabled);
        self.is_enabled |= command.is_some();
        command
    }

    /// Sends a command that is one line, and reads up to its end.
    async fn complete(&mut self, command: &str) -> Result<Reply, Error> {
        self.send(command).await?;
        match self.answer().await? {
            Answer::Done(Reply { condition: Condition::Bye, text, .. }) => Err(farewell(&text)),
            Answer::Done(status) => Ok(status),
            Answer::Continue => Err(Error::new(Code::Protocol, "a question where an answer was due")),
        }
    }

    async fn send(&mut self, command: &str) -> Result<(), Error> {
        self.commands += 1;
        let line = Zeroizing::new([&self.tag(), " ", command, "\r\n"].concat());
        self.stream.write_all(line.as_bytes()).await
    }

    fn tag(&self) -> String {
        Self::tag_of(self.commands)
    }

    fn tag_of(command: u32) -> String {
        format!("a{command}")
    }

    /// Reads until the server wants something: the end of the command, or what is to follow. Who says goodbye and hangs
    /// up has answered as well.
    async fn answer(&mut self) -> Result<Answer, Error> {
        let mut goodbye = None;
        loop {
            match self.response(MAX_RESPONSE_BYTES).await {
                Ok(Response::Tagged(tag, status)) if tag == self.tag() => return Ok(Answer::Done(status)),
                Ok(Response::Tagged(..)) => return Err(Error::new(Code::Protocol, "an answer to another command")),
                Ok(Response::Continue) => return Ok(Answer::Continue),
                Ok(Response::Untagged(status)) if status.condition == Condition::Bye => goodbye = Some(status),
                Ok(Response::Untagged(_) | Response::Data) => {}
                Err(error) => return goodbye.map(Answer::Done).ok_or(error),
            }
        }
    }

    /// Reads one response of so many bytes at most, and keeps what it says of capabilities.
    async fn response(&mut self, max: usize) -> Result<Response, Error> {
        self.frame.read(&mut self.stream, max).await?;
        let bytes = self.frame.bytes();
        // The words are not repeated: before they are understood, they may be an echo of what was said.
        let mut response =
            parse(bytes).ok_or_else(|| Error::new(Code::Protocol, "a line that is no response of IMAP"))?;
        if let (Some(echo), Response::Tagged(_, reply) | Response::Untagged(reply)) = (&self.echo, &mut response) {
            reply.redact(echo);
        }
        let listed = match &response {
            Response::Tagged(_, reply) | Response::Untagged(reply) => {
                reply.code.as_deref().and_then(|code| capabilities(code.as_bytes()))
            }
            Response::Data => self.frame.data().and_then(|data| capabilities(data.rest())),
            Response::Continue => None,
        };
        if listed.is_some() {
            self.capabilities = listed;
        }
        Ok(response)
    }
}

/// Why the server stopped talking.
enum Answer {
    /// The command ended.
    Done(Reply),
    /// It waits for more of it.
    Continue,
}

#[derive(Debug, PartialEq, Eq)]
enum Response {
    Continue,
    Tagged(String, Reply),
    Untagged(Reply),
    Data,
}

#[derive(Debug, PartialEq, Eq)]
struct Reply {
    condition: Condition,
    /// Between the brackets.
    code: Option<String>,
    text: String,
}

impl Reply {
    fn ok() -> Self {
        Self { condition: Condition::Ok, code: None, text: String::new() }
    }

    /// In bytes.
    fn length(&self) -> usize {
        self.text.len() + self.code.as_ref().map_or(0, String::len)
    }

    fn no(text: &str) -> Self {
        Self { condition: Condition::No, code: None, text: text.to_owned() }
    }

    /// Leaves out what repeats the secret. The words of an OK are nowhere told.
    fn redact(&mut self, echo: &Echo) {
        if self.condition != Condition::Ok {
            self.code.take_if(|code| echo.is_in(code));
            if echo.is_in(&self.text) {
                self.text = REDACTED.to_owned();
            }
        }
    }

    /// Why a command was not carried out: see [`refusal`].
    fn refusal(&self, command: &str, otherwise: Code) -> Error {
        refusal(command, &self.code_word(), &self.text, otherwise)
    }

    /// The code in capitals, without arguments; empty where there is none.
    fn code_word(&self) -> String {
        let code = self.code.as_deref().and_then(|code| code.split(' ').next());
        code.unwrap_or_default().to_ascii_uppercase()
    }
}

/// Reads the first line of a response. `None` for what is none.
fn parse(line: &[u8]) -> Option<Response> {
    if frame::is_data(line) {
        return Some(Response::Data);
    }
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(['\r', '\n']);
    // With or without the space that belongs there (Courier and others).
    if let Some(rest) = line.strip_prefix('+') {
        return (rest.is_empty() || rest.starts_with(' ')).then_some(Response::Continue);
    }
    let (tag, rest) = line.split_once(' ')?;
    let status = status(rest);
    match (tag, status) {
        ("*", status) => status.map(Response::Untagged),
        (tag, Some(status)) if matches!(status.condition, Condition::Ok | Condition::No | Condition::Bad) => {
            Some(Response::Tagged(tag.to_owned(), status))
        }
        _ => None,
    }
}

fn status(text: &str) -> Option<Reply> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (_, condition) = *CONDITIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word))?;
    let (code, text) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((code, text)) => (Some(code.to_owned()), text.trim_start()),
        None => (None, rest),
    };
    Some(Reply { condition, code, text: text.to_owned() })
}

/// Of `CAPABILITY …`, in capitals.
fn capabilities(text: &[u8]) -> Option<Vec<String>> {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let is_list = words.next()?.eq_ignore_ascii_case(b"CAPABILITY");
    is_list.then(|| words.map(|word| String::from_utf8_lossy(word).to_ascii_uppercase()).collect())
}

/// A quoted string, for what it can hold: ASCII without line breaks and NUL (RFC 3501 section 9).
fn quoted(text: &str) -> Option<Zeroizing<String>> {
    if !text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control()) {
        return None;
    }
    // Room for the worst, so that no copy stays behind where it grew.
    let mut quoted = Zeroizing::new(String::with_capacity(2 * text.len() + 2));
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Some(quoted)
}

/// A server that leaves before anybody has tried to sign in.
fn farewell(words: &str) -> Error {
    Error::new(Code::Unavailable, format!("BYE: {}", clean(words)))
}

/// Whether a code says that it is the server that cannot now (RFC 5530, and Exchange's `THROTTLED`).
fn is_for_now(code: &str) -> bool {
    matches!(code, "UNAVAILABLE" | "INUSE" | "LIMIT" | "SERVERBUG" | "OVERQUOTA" | "THROTTLED")
}

/// Why a command was not carried out: the server asks to wait, or what `otherwise` says.
fn refusal(command: &str, code: &str, text: &str, otherwise: Code) -> Error {
    let waits = is_for_now(code) || asks_to_wait(text);
    let code = if waits { Code::Unavailable } else { otherwise };
    Error::new(code, format!("{command} was refused: {}", cut(clean(text))))
}

/// What the end of a sign-in means (RFC 5530 for the codes).
fn verdict(status: &Reply) -> Result<(), Error> {
    let code = match (status.condition, status.code_word().as_str()) {
        (Condition::Ok, _) => return Ok(()),
        (_, "AUTHENTICATIONFAILED" | "AUTHORIZATIONFAILED" | "EXPIRED") => Code::Authentication,
        (_, code) if is_for_now(code) => Code::Unavailable,
        (_, "PRIVACYREQUIRED") => Code::Tls,
        (Condition::No, _) if asks_to_wait(&status.text) => Code::Unavailable,
        (Condition::No, _) => Code::Authentication,
        (Condition::Bye, _) => Code::Unavailable,
        (Condition::Bad | Condition::PreAuth, _) => Code::Protocol,
    };
    Err(Login::refused(code, &status.text))
}

#[cfg(test)]
mod tests;

//! IMAP (RFC 3501, RFC 9051): greeting, STARTTLS, signing in and out.
//!
//! Responses are framed by the bounded lines and literals of [`Stream`], with nothing held back in a parser's own
//! buffer where bytes of before STARTTLS could hide. Status responses and capabilities are read here: they nest
//! nothing, and real servers write them in ways that strict parsers refuse (letters outside ASCII in a refusal, no
//! text after a code), which must not turn a refused password into a broken protocol. All other data is framed and
//! passed over.

use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::connect::{SIGN_OUT_TIMEOUT, Security, Stream};
use crate::error::{Code, Error, asks_to_wait, clean};
use crate::sasl::{Exchange, Login, Mechanism, Secret};

/// One response with its literals. Capabilities are the longest that is needed here, some 1 KiB.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// A connection on which somebody has signed in.
#[derive(Debug)]
pub struct Imap {
    stream: Stream,
    /// As the server last listed them, in capitals; `None` where it may have others by now.
    capabilities: Option<Vec<String>>,
    /// So many commands were sent; the tag is made of it.
    commands: u32,
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
            Ok(imap)
        };
        work.await.map_err(|error| login.redact(error))
    }

    async fn open(stream: Stream, security: Security) -> Result<Self, Error> {
        let mut imap = Self { stream, capabilities: None, commands: 0 };
        match imap.response().await? {
            Response::Untagged(Status { condition: Condition::Ok, .. }) => {}
            Response::Untagged(Status { condition: Condition::Bye, text, .. }) => {
                return Err(farewell(&text));
            }
            // Somebody is signed in: nothing can be proved any more, nor encrypted (RFC 9051 section 11.1).
            Response::Untagged(Status { condition: Condition::PreAuth, .. }) => {
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
        Ok(Self { stream: self.stream.start_tls().await?, capabilities: None, commands: self.commands })
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
        // Whoever has signed in has what he came for.
        let _ = timeout(SIGN_OUT_TIMEOUT, self.complete("LOGOUT")).await;
    }

    async fn authenticate(
        &mut self,
        mut exchange: Exchange,
        mechanism: Mechanism,
        initial: bool,
    ) -> Result<Status, Error> {
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

    async fn login_command(&mut self, username: &str, password: &str) -> Result<Status, Error> {
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
            self.complete("CAPABILITY").await?;
        }
        self.capabilities.clone().ok_or_else(|| Error::new(Code::Protocol, "the server does not say what it can do"))
    }

    /// Sends a command that is one line, and reads up to its end.
    async fn complete(&mut self, command: &str) -> Result<Status, Error> {
        self.send(command).await?;
        match self.answer().await? {
            Answer::Done(Status { condition: Condition::Bye, text, .. }) => Err(farewell(&text)),
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
        format!("a{}", self.commands)
    }

    /// Reads until the server wants something: the end of the command, or what is to follow. Who says goodbye and hangs
    /// up has answered as well.
    async fn answer(&mut self) -> Result<Answer, Error> {
        let mut goodbye = None;
        loop {
            match self.response().await {
                Ok(Response::Tagged(tag, status)) if tag == self.tag() => return Ok(Answer::Done(status)),
                Ok(Response::Tagged(..)) => return Err(Error::new(Code::Protocol, "an answer to another command")),
                Ok(Response::Continue) => return Ok(Answer::Continue),
                Ok(Response::Untagged(status)) if status.condition == Condition::Bye => goodbye = Some(status),
                Ok(Response::Untagged(_) | Response::Data) => {}
                Err(error) => return goodbye.map(Answer::Done).ok_or(error),
            }
        }
    }

    /// Reads one response, and keeps what it says of capabilities.
    async fn response(&mut self) -> Result<Response, Error> {
        let mut bytes = Vec::new();
        self.stream.read_line(&mut bytes, MAX_RESPONSE_BYTES).await?;
        // The words are not repeated: before they are understood, they may be an echo of what was said.
        let response = parse(&bytes).ok_or_else(|| Error::new(Code::Protocol, "a line that is no response of IMAP"))?;
        if let Response::Data = response {
            while let Some(length) = announced_literal(&bytes) {
                if length > (MAX_RESPONSE_BYTES - bytes.len()) as u64 {
                    return Err(Error::new(Code::Protocol, format!("a literal of {length} bytes")));
                }
                self.stream.read_exact(&mut bytes, length as usize).await?;
                let left = MAX_RESPONSE_BYTES - bytes.len();
                self.stream.read_line(&mut bytes, left).await?;
            }
        }
        let listed = match &response {
            Response::Tagged(_, status) | Response::Untagged(status) => status.code.as_deref(),
            Response::Data => std::str::from_utf8(&bytes).ok().and_then(|line| line.strip_prefix("* ")),
            Response::Continue => None,
        };
        if let Some(capabilities) = listed.and_then(capabilities) {
            self.capabilities = Some(capabilities);
        }
        Ok(response)
    }
}

/// Why the server stopped talking.
enum Answer {
    /// The command ended.
    Done(Status),
    /// It waits for more of it.
    Continue,
}

#[derive(Debug, PartialEq, Eq)]
enum Response {
    Continue,
    Tagged(String, Status),
    Untagged(Status),
    Data,
}

#[derive(Debug, PartialEq, Eq)]
struct Status {
    condition: Condition,
    /// Between the brackets.
    code: Option<String>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Ok,
    No,
    Bad,
    Bye,
    PreAuth,
}

/// Reads the first line of a response. `None` for what is none.
fn parse(line: &[u8]) -> Option<Response> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches(['\r', '\n']);
    // With or without the space that belongs there (Courier and others).
    if let Some(rest) = line.strip_prefix('+') {
        return (rest.is_empty() || rest.starts_with(' ')).then_some(Response::Continue);
    }
    let (tag, rest) = line.split_once(' ')?;
    let status = status(rest);
    match (tag, status) {
        ("*", Some(status)) => Some(Response::Untagged(status)),
        ("*", None) => Some(Response::Data),
        (tag, Some(status)) if matches!(status.condition, Condition::Ok | Condition::No | Condition::Bad) => {
            Some(Response::Tagged(tag.to_owned(), status))
        }
        _ => None,
    }
}

fn status(text: &str) -> Option<Status> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let condition = match word.to_ascii_uppercase().as_str() {
        "OK" => Condition::Ok,
        "NO" => Condition::No,
        "BAD" => Condition::Bad,
        "BYE" => Condition::Bye,
        "PREAUTH" => Condition::PreAuth,
        _ => return None,
    };
    let (code, text) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((code, text)) => (Some(code.to_owned()), text.trim_start()),
        None => (None, rest),
    };
    Some(Status { condition, code, text: text.to_owned() })
}

/// Of `CAPABILITY …`, in capitals.
fn capabilities(text: &str) -> Option<Vec<String>> {
    let mut words = text.split_ascii_whitespace().map(str::to_ascii_uppercase);
    (words.next()? == "CAPABILITY").then(|| words.collect())
}

/// The bytes that follow a line which ends with `{n}`.
fn announced_literal(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let digits = &line[line.iter().rposition(|byte| *byte == b'{')? + 1..];
    let number = std::str::from_utf8(digits.strip_suffix(b"+").unwrap_or(digits)).ok()?;
    // More than fits a number is more than fits.
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| number.parse().unwrap_or(u64::MAX))
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

/// What the end of a sign-in means (RFC 5530 for the codes).
fn verdict(status: &Status) -> Result<(), Error> {
    let code = status.code.as_deref().and_then(|code| code.split(' ').next()).unwrap_or_default();
    let code = match (status.condition, code.to_ascii_uppercase().as_str()) {
        (Condition::Ok, _) => return Ok(()),
        (_, "AUTHENTICATIONFAILED" | "AUTHORIZATIONFAILED" | "EXPIRED") => Code::Authentication,
        (_, "UNAVAILABLE" | "INUSE" | "LIMIT" | "SERVERBUG") => Code::Unavailable,
        (_, "PRIVACYREQUIRED") => Code::Tls,
        (Condition::No, _) if asks_to_wait(&status.text) => Code::Unavailable,
        (Condition::No, _) => Code::Authentication,
        (Condition::Bye, _) => Code::Unavailable,
        (Condition::Bad | Condition::PreAuth, _) => Code::Protocol,
    };
    Err(Login::refused(code, &status.text))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::connect::{Connector, Policy, Ports, Session};
    use crate::dns::Resolver;
    use crate::testing::{Authority, HOST, Script, ScriptedServer};

    #[tokio::test]
    async fn after_signing_in_capabilities_are_those_of_the_answer_or_asked_anew() {
        let greeted =
            Script::new().say("* OK [CAPABILITY IMAP4rev1 SASL-IR] x\r\n").hear("a1 LOGIN \"alice\" \"secret\"");
        for script in [
            greeted.clone().say("a1 OK [CAPABILITY IMAP4rev1 Idle] in\r\n"),
            greeted.clone().say("* CAPABILITY IMAP4rev1 IDLE\r\na1 OK in\r\n"),
            greeted.say("a1 OK in\r\n").hear("a2 CAPABILITY").say("* CAPABILITY IMAP4rev1 IDLE\r\na2 OK done\r\n"),
        ] {
            let authority = Authority::new();
            let server = ScriptedServer::start(script, authority.server(HOST)).await;
            let policy = Policy {
                private_networks: vec!["127.0.0.1".parse().unwrap()],
                ports: Ports::Any,
                allow_plaintext: true,
                ..Policy::default()
            };
            let connector = Connector::new(Resolver::new(&[]), policy, authority.client());
            let session = Session::new(Duration::from_secs(10), 10_000);
            let port = server.address().port();
            let stream = connector.connect("127.0.0.1", port, Security::Plain, session).await.unwrap();
            let login = Login::new("alice", Secret::Password("secret".to_owned().into())).unwrap();
            let mut imap = Imap::sign_in(stream, Security::Plain, &login).await.unwrap();
            assert_eq!(imap.capabilities().await.unwrap(), ["IMAP4REV1", "IDLE"]);
        }
    }

    #[test]
    fn responses_are_read_as_servers_write_them() {
        let status = |condition, code: Option<&str>, text: &str| Status {
            condition,
            code: code.map(str::to_owned),
            text: text.to_owned(),
        };
        for (line, expected) in [
            ("* OK [ALERT] hi\r\n", Some(Response::Untagged(status(Condition::Ok, Some("ALERT"), "hi")))),
            ("* ok\n", Some(Response::Untagged(status(Condition::Ok, None, "")))),
            ("* BYE x\r\n", Some(Response::Untagged(status(Condition::Bye, None, "x")))),
            ("* NO [X\r\n", Some(Response::Untagged(status(Condition::No, None, "[X")))),
            ("a1 NO [A B]no\r\n", Some(Response::Tagged("a1".into(), status(Condition::No, Some("A B"), "no")))),
            ("a1 BYE x\r\n", None),
            ("a1 PREAUTH x\r\n", None),
            ("a1 FETCH\r\n", None),
            ("* 1 FETCH (FLAGS ())\r\n", Some(Response::Data)),
            ("+ b64=\r\n", Some(Response::Continue)),
            ("+\r\n", Some(Response::Continue)),
            ("+OK ready\r\n", None),
            ("*\r\n", None),
            ("\r\n", None),
        ] {
            assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn literals_are_announced_at_the_end_of_a_line() {
        for (line, expected) in [
            ("* LIST () {5}\r\n", Some(5)),
            ("{0}\n", Some(0)),
            ("~{5+}\r\n", Some(5)),
            ("{4294967296}\r\n", Some(1 << 32)),
            ("{99999999999999999999}\r\n", Some(u64::MAX)),
            ("{5} \r\n", None),
            ("{5}", None),
            ("{}\r\n", None),
            ("{+}\r\n", None),
            ("{-5}\r\n", None),
            ("{5\r\n", None),
            ("5}\r\n", None),
        ] {
            assert_eq!(announced_literal(line.as_bytes()), expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_string_is_one_line_and_says_what_it_was_made_of(text: String) {
            let Some(quoted) = quoted(&text) else {
                prop_assert!(!text.is_ascii() || text.chars().any(|c| c.is_ascii_control()));
                return Ok(());
            };
            let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
            let (mut said, mut characters) = (String::new(), inside.chars());
            while let Some(c) = characters.next() {
                prop_assert!(c != '"' && !c.is_control());
                said.push(if c == '\\' { characters.next().unwrap() } else { c });
            }
            prop_assert_eq!(said, text);
        }
    }
}

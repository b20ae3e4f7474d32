//! POP3 (RFC 1939, RFC 2449, RFC 5034): greeting, STLS, signing in and out.

use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::connect::{SIGN_OUT_TIMEOUT, Security, Stream};
use crate::error::{Code, Error, asks_to_wait, clean};
use crate::sasl::{Exchange, Login, Mechanism, Secret};

/// A line of an answer. RFC 2449 section 4 allows 512 bytes, servers write longer refusals with links in them.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// A command with its end (RFC 2449 section 4). What does not fit is said when asked for.
const MAX_COMMAND_BYTES: usize = 255;

/// Lines of a CAPA answer. There are some twenty capabilities in all.
const MAX_CAPABILITIES: usize = 100;

/// A connection on which somebody has signed in.
#[derive(Debug)]
pub struct Pop3 {
    stream: Stream,
    /// In capitals, one line each. Empty for a server of before RFC 2449.
    capabilities: Vec<String>,
}

impl Pop3 {
    /// Reads the greeting, encrypts where that was asked for, and signs in by the best way that the server offers.
    ///
    /// # Errors
    /// [`Code::Authentication`] where the server refuses the login; [`Code::Unavailable`] where it has no welcome
    /// or asks to come later; [`Code::Tls`] where STLS is missing or fails, or the server wants encryption first;
    /// [`Code::Protocol`] for what is no POP3 server.
    pub async fn sign_in(stream: Stream, security: Security, login: &Login) -> Result<Self, Error> {
        let work = async {
            let mut pop3 = Self::open(stream, security).await?;
            pop3.log_in(login).await?;
            Ok(pop3)
        };
        work.await.map_err(|error| login.redact(error))
    }

    async fn open(stream: Stream, security: Security) -> Result<Self, Error> {
        let mut pop3 = Self { stream, capabilities: Vec::new() };
        match pop3.answer().await? {
            Answer::Ok => {}
            Answer::Err(text) => return Err(Error::new(Code::Unavailable, format!("no welcome: {}", clean(&text)))),
            Answer::Continue => return Err(Error::new(Code::Protocol, "no greeting of POP3")),
        }
        pop3.ask_capabilities().await?;
        if security == Security::StartTls { pop3.start_tls().await } else { Ok(pop3) }
    }

    async fn start_tls(mut self) -> Result<Self, Error> {
        if !self.capabilities.iter().any(|line| line == "STLS") {
            return Err(Error::new(Code::Tls, "STLS is not offered"));
        }
        self.send("STLS").await?;
        match self.answer().await? {
            Answer::Ok => {}
            Answer::Err(text) => return Err(Error::new(Code::Tls, format!("STLS was refused: {}", clean(&text)))),
            Answer::Continue => return Err(Error::new(Code::Protocol, "STLS was answered with a question")),
        }
        // What was listed in clear may be anybody's.
        let mut pop3 = Self { stream: self.stream.start_tls().await?, capabilities: Vec::new() };
        pop3.ask_capabilities().await?;
        Ok(pop3)
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Error> {
        self.stream.check_secrecy()?;
        let mut mechanisms = self.capabilities.iter().filter_map(|line| line.strip_prefix("SASL "));
        let offered = mechanisms.next().unwrap_or_default().to_owned();
        let mechanism = Mechanism::choose(login.secret(), |name| offered.split(' ').any(|offer| offer == name));
        let has_user = self.capabilities.is_empty() || self.capabilities.iter().any(|line| line == "USER");
        let answer = match (mechanism, login.secret()) {
            (Some(mechanism), _) => self.authenticate(Exchange::new(mechanism, login), mechanism).await?,
            (None, Secret::Password(password)) if has_user => self.user_and_pass(login.username(), password).await?,
            (None, _) => return Err(login.not_offered(self.stream.is_encrypted())),
        };
        verdict(answer)
    }

    /// Says goodbye, so that the server unlocks the mailbox, for as long as that takes no time.
    pub async fn sign_out(mut self) {
        let goodbye = async {
            self.send("QUIT").await?;
            self.answer().await
        };
        // Whoever has signed in has what he came for.
        let _ = timeout(SIGN_OUT_TIMEOUT, goodbye).await;
    }

    async fn user_and_pass(&mut self, username: &str, password: &str) -> Result<Answer, Error> {
        self.send(&format!("USER {username}")).await?;
        match self.answer().await? {
            Answer::Ok => {}
            other => return Ok(other),
        }
        self.send(&Zeroizing::new(["PASS ", password].concat())).await?;
        self.answer().await
    }

    async fn authenticate(&mut self, mut exchange: Exchange, mechanism: Mechanism) -> Result<Answer, Error> {
        let name = mechanism.name();
        let length = |response: &str| format!("AUTH {name} \r\n").len() + response.len();
        match exchange.initial(|response| length(response) <= MAX_COMMAND_BYTES) {
            Some(response) => self.send(&Zeroizing::new(["AUTH ", name, " ", &response].concat())).await?,
            None => self.send(&format!("AUTH {name}")).await?,
        }
        loop {
            match self.answer().await? {
                Answer::Continue => self.send(&exchange.answer()?).await?,
                done => return Ok(done),
            }
        }
    }

    /// Whoever does not know the command has nothing to tell.
    async fn ask_capabilities(&mut self) -> Result<(), Error> {
        self.send("CAPA").await?;
        let Answer::Ok = self.answer().await? else { return Ok(()) };
        for _ in 0..MAX_CAPABILITIES {
            match self.read_line().await?.as_str() {
                "." => return Ok(()),
                line => self.capabilities.push(line.to_ascii_uppercase()),
            }
        }
        Err(Error::new(Code::Protocol, "the list of capabilities does not end"))
    }

    async fn send(&mut self, command: &str) -> Result<(), Error> {
        let line = Zeroizing::new([command, "\r\n"].concat());
        self.stream.write_all(line.as_bytes()).await
    }

    async fn answer(&mut self) -> Result<Answer, Error> {
        let line = self.read_line().await?;
        // The words are not repeated: before they are understood, they may be an echo of what was said.
        parse(&line).ok_or_else(|| Error::new(Code::Protocol, "a line that is no answer of POP3"))
    }

    async fn read_line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        self.stream.read_line(&mut line, MAX_LINE_BYTES).await?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    /// With what follows.
    Err(String),
    Continue,
}

fn parse(line: &str) -> Option<Answer> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word.to_ascii_uppercase().as_str() {
        "+OK" => Some(Answer::Ok),
        "-ERR" => Some(Answer::Err(rest.to_owned())),
        "+" => Some(Answer::Continue),
        _ => None,
    }
}

/// What the end of a sign-in means (RFC 2449 and RFC 3206 for the codes).
fn verdict(answer: Answer) -> Result<(), Error> {
    let text = match answer {
        Answer::Ok => return Ok(()),
        Answer::Err(text) => text,
        Answer::Continue => return Err(Error::new(Code::Protocol, "a question where an answer was due")),
    };
    let (code, words) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((code, words)) => (code.to_ascii_uppercase(), words),
        None => (String::new(), text.as_str()),
    };
    let code = match code.as_str() {
        "AUTH" => Code::Authentication,
        "IN-USE" | "LOGIN-DELAY" | "SYS/TEMP" | "SYS/PERM" => Code::Unavailable,
        _ if asks_to_wait(words) => Code::Unavailable,
        _ => Code::Authentication,
    };
    Err(Login::refused(code, words))
}

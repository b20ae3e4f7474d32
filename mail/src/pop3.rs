//! POP3 (RFC 1939, RFC 2449, RFC 5034): greeting, STLS, signing in and out; what is in the mailbox ([`Pop3::uids`]) and
//! the begins of messages ([`Pop3::tops`]) or one whole ([`Pop3::retrieve`]). Nothing here deletes.

use std::collections::{HashMap, VecDeque};

use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::connect::{SIGN_OUT_TIMEOUT, Security, Stream};
use crate::error::{Code, Error, asks_to_wait, clean, cut};
use crate::message::Raw;
use crate::sasl::{Echo, Exchange, Login, Mechanism, REDACTED, Secret};

/// A line of an answer. RFC 2449 section 4 allows 512 bytes, servers write longer refusals with links in them.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// A command with its end (RFC 2449 section 4). What does not fit is said when asked for.
const MAX_COMMAND_BYTES: usize = 255;

/// Lines of a CAPA answer. There are some twenty capabilities in all.
const MAX_CAPABILITIES: usize = 100;

/// Messages of a mailbox. Whoever has more of them reads by IMAP.
const MAX_MESSAGES: usize = 200_000;

/// A unique id; RFC 1939 allows 70 bytes.
pub(crate) const MAX_UID_BYTES: usize = 128;

/// Of a message's header, as over IMAP; the rest is read and dropped.
pub(crate) const MAX_HEADER_BYTES: usize = 128 * 1024;

/// Of what follows the header: as many lines as are asked for, and a line may be anything.
pub(crate) const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Commands that are sent and not answered. They fit the buffers between here and there, so that writing does not wait
/// for a server that waits for us to read.
const WINDOW: usize = 100;

/// A connection on which somebody has signed in.
#[derive(Debug)]
pub struct Pop3 {
    stream: Stream,
    /// In capitals, one line each. Empty for a server of before RFC 2449.
    capabilities: Vec<String>,
    /// Whether answers may be on their way that nobody waits for any more.
    is_talking: bool,
    /// Once somebody has signed in.
    echo: Option<Echo>,
    /// Whether it has turned out that the server gives messages out whole alone.
    lacks_top: bool,
}

/// A message of the mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its place, in this session.
    pub number: u32,
    /// What it is known by for ever. Servers promise that no two have the same, and some break it.
    pub uid: String,
    /// Its length in bytes; 0 where the server does not say.
    pub size: u64,
}

/// The begin of a message, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// The message's place.
    pub number: u32,
    /// What it begins with; or the server's words, for the log, where it refuses to show it.
    pub begin: Result<Begin, String>,
}

/// The begin of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begin {
    /// Up to the empty line; 128 KiB at most.
    pub header: Vec<u8>,
    /// The lines that were asked for, or more where the server cannot count them; 16 KiB at most.
    pub text: Vec<u8>,
    /// Whether either is longer than what is here.
    pub is_cut: bool,
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
            pop3.echo = Some(Echo::of(login));
            Ok(pop3)
        };
        work.await.map_err(|error| login.redact(error))
    }

    fn new(stream: Stream) -> Self {
        Self { stream, capabilities: Vec::new(), is_talking: false, echo: None, lacks_top: false }
    }

    async fn open(stream: Stream, security: Security) -> Result<Self, Error> {
        let mut pop3 = Self::new(stream);
        match pop3.answer().await? {
            Answer::Ok => {}
            Answer::Err(text) => return Err(Error::new(Code::Unavailable, format!("no welcome: {}", clean(&text)))),
            Answer::Continue => return Err(Error::new(Code::Protocol, "no greeting of POP3")),
        }
        pop3.ask_capabilities().await?;
        if security == Security::StartTls { pop3.start_tls().await } else { Ok(pop3) }
    }

    async fn start_tls(mut self) -> Result<Self, Error> {
        if !self.lists("STLS") {
            return Err(Error::new(Code::Tls, "STLS is not offered"));
        }
        self.send("STLS").await?;
        match self.answer().await? {
            Answer::Ok => {}
            Answer::Err(text) => return Err(Error::new(Code::Tls, format!("STLS was refused: {}", clean(&text)))),
            Answer::Continue => return Err(Error::new(Code::Protocol, "STLS was answered with a question")),
        }
        // What was listed in clear may be anybody's.
        let mut pop3 = Self::new(self.stream.start_tls().await?);
        pop3.ask_capabilities().await?;
        Ok(pop3)
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Error> {
        self.stream.check_secrecy()?;
        let mut mechanisms = self.capabilities.iter().filter_map(|line| line.strip_prefix("SASL "));
        let offered = mechanisms.next().unwrap_or_default().to_owned();
        let mechanism = Mechanism::choose(login.secret(), |name| offered.split(' ').any(|offer| offer == name));
        let has_user = self.capabilities.is_empty() || self.lists("USER");
        let answer = match (mechanism, login.secret()) {
            (Some(mechanism), _) => self.authenticate(Exchange::new(mechanism, login), mechanism).await?,
            (None, Secret::Password(password)) if has_user => self.user_and_pass(login.username(), password).await?,
            (None, _) => return Err(login.not_offered(self.stream.is_encrypted())),
        };
        verdict(answer)
    }

    /// Says goodbye, so that the server unlocks the mailbox, for as long as that takes no time.
    pub async fn sign_out(mut self) {
        // Whoever has left in the midst of an answer does not want to read the rest of it.
        if self.is_talking {
            return;
        }
        let goodbye = async {
            self.send("QUIT").await?;
            self.answer().await
        };
        // Whoever has signed in has what he came for.
        let _ = timeout(SIGN_OUT_TIMEOUT, goodbye).await;
    }

    /// All messages of the mailbox, in one round trip where the server takes commands together.
    ///
    /// # Errors
    /// Those of the connection; [`Code::Unavailable`] where the server asks to come later. [`Code::Protocol`] where it
    /// has no unique ids, one that cannot be read (a message would look like one that is gone) or two of one message, and for
    /// more than 200,000 messages.
    pub async fn uids(&mut self) -> Result<Vec<Listed>, Error> {
        self.begin()?;
        let together = self.lists("PIPELINING");
        self.send(if together { "UIDL\r\nLIST" } else { "UIDL" }).await?;
        let mut listed = Vec::new();
        self.list("UIDL", |line| {
            let (number, uid) = split(line)?;
            let is_uid = (1..=MAX_UID_BYTES).contains(&uid.len()) && !uid.contains(|c: char| c.is_control());
            listed.push(Listed { number: number.parse().ok()?, uid: uid.to_owned(), size: 0 });
            is_uid.then_some(())
        })
        .await?;
        let mut numbers: Vec<u32> = listed.iter().map(|message| message.number).collect();
        numbers.sort_unstable();
        if numbers.windows(2).any(|two| two[0] == two[1]) {
            return Err(Error::new(Code::Protocol, "UIDL has two ids of one message"));
        }
        if !together {
            self.send("LIST").await?;
        }
        let mut sizes = HashMap::new();
        self.list("LIST", |line| {
            // What it does not say in a way that can be read, it does not say.
            let size = split(line).and_then(|(number, size)| Some((number.parse::<u32>().ok()?, size.parse().ok()?)));
            sizes.extend(size);
            Some(())
        })
        .await?;
        for message in &mut listed {
            message.size = sizes.get(&message.number).copied().unwrap_or_default();
        }
        self.is_talking = false;
        Ok(listed)
    }

    /// The header and so many lines of each of these messages, asked for together where the server takes that. From one
    /// that does not know TOP, which RFC 1939 leaves to it, each comes whole, and is read to its end.
    ///
    /// Read it to its end: after one that was left before, the connection is good for nothing.
    pub fn tops(&mut self, numbers: Vec<u32>, lines: u32) -> Tops<'_> {
        let is_lost = self.begin().is_err();
        // Where TOP may be unknown, the answer to one says what to ask for next.
        let window = if self.lists("PIPELINING") && self.lists("TOP") { WINDOW } else { 1 };
        Tops { pop3: self, numbers: numbers.into(), waiting: VecDeque::new(), lines, window, is_lost }
    }

    /// A message, as it was sent, of `limit` bytes at most. What is longer is not read to its end, and then the connection
    /// is good for nothing more.
    ///
    /// # Errors
    /// Those of the connection; [`Code::Unavailable`] where the server does not give the message out.
    pub async fn retrieve(&mut self, number: u32, limit: usize) -> Result<Raw, Error> {
        self.begin()?;
        self.send(&format!("RETR {number}")).await?;
        match self.answer().await? {
            Answer::Ok => {}
            Answer::Err(text) => {
                self.is_talking = false;
                return Err(Error::new(Code::Unavailable, format!("RETR was refused: {}", cut(clean(&text)))));
            }
            Answer::Continue => return Err(Error::new(Code::Protocol, "a question where an answer was due")),
        }
        let mut raw = Raw { bytes: Vec::new(), is_cut: false };
        let (mut line, mut is_start) = (Vec::new(), true);
        loop {
            line.clear();
            // A line may have any length: in pieces.
            let is_end = self.stream.read_line_start(&mut line, MAX_LINE_BYTES).await?;
            let mut piece = line.as_slice();
            if is_start && let Some(rest) = piece.strip_prefix(b".") {
                if is_end && is_empty(rest) {
                    self.is_talking = false;
                    return Ok(raw);
                }
                piece = rest;
            }
            raw.bytes.extend_from_slice(piece);
            if raw.bytes.len() > limit {
                return Ok(raw.cut_at(limit));
            }
            is_start = is_end;
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.is_talking, true) {
            false => Ok(()),
            true => Err(left_behind()),
        }
    }

    fn lists(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|line| line == capability)
    }

    /// Reads an answer of many lines. `each` gives `None` for one that is none.
    async fn list(&mut self, command: &str, mut each: impl FnMut(&str) -> Option<()>) -> Result<(), Error> {
        match self.answer().await? {
            Answer::Ok => {}
            Answer::Err(text) => {
                let code = match verdict(Answer::Err(text.clone())) {
                    Err(Error { code: Code::Unavailable, .. }) => Code::Unavailable,
                    _ => Code::Protocol,
                };
                return Err(Error::new(code, format!("{command} was refused: {}", cut(clean(&text)))));
            }
            Answer::Continue => return Err(Error::new(Code::Protocol, "a question where an answer was due")),
        }
        for _ in 0..=MAX_MESSAGES {
            match self.read_line().await?.as_str() {
                "." => return Ok(()),
                line => each(line)
                    .ok_or_else(|| Error::new(Code::Protocol, format!("a line of {command} that cannot be read")))?,
            }
        }
        Err(Error::new(Code::Protocol, format!("more than {MAX_MESSAGES} messages")))
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
        let answer = parse(&line).ok_or_else(|| Error::new(Code::Protocol, "a line that is no answer of POP3"))?;
        match (&self.echo, answer) {
            (Some(echo), Answer::Err(text)) if echo.is_in(&text) => Ok(Answer::Err(REDACTED.to_owned())),
            (_, answer) => Ok(answer),
        }
    }

    async fn read_line(&mut self) -> Result<String, Error> {
        let mut line = Vec::new();
        self.stream.read_line(&mut line, MAX_LINE_BYTES).await?;
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Begins of messages that are on their way.
#[derive(Debug)]
pub struct Tops<'a> {
    pop3: &'a mut Pop3,
    numbers: VecDeque<u32>,
    waiting: VecDeque<u32>,
    lines: u32,
    window: usize,
    /// Whether an earlier one was left, or a step of this one: what is read next is anything.
    is_lost: bool,
}

impl Tops<'_> {
    /// The next one, in the order that was asked for; `None` after the last.
    ///
    /// # Errors
    /// Those of the connection; [`Code::Protocol`] for what is no answer. After an error, and after a call that was
    /// dropped before it was done, there is no other answer than an error.
    pub async fn next(&mut self) -> Result<Option<Top>, Error> {
        if std::mem::replace(&mut self.is_lost, true) {
            return Err(left_behind());
        }
        self.ask().await?;
        let top = match self.waiting.pop_front() {
            Some(number) => Some(Top { number, begin: self.read(number).await? }),
            None => {
                self.pop3.is_talking = false;
                None
            }
        };
        self.is_lost = false;
        Ok(top)
    }

    /// Asks for no more; those that were asked for still come. Whether some are left.
    pub fn stop(&mut self) -> bool {
        let is_left = !self.numbers.is_empty();
        self.numbers.clear();
        is_left
    }

    async fn ask(&mut self) -> Result<(), Error> {
        // Not one by one as each is answered: a few together are one packet.
        if self.waiting.len() > self.window / 2 {
            return Ok(());
        }
        let fits = self.numbers.len().min(self.window - self.waiting.len());
        let command = |number: &u32| match self.pop3.lacks_top {
            true => format!("RETR {number}\r\n"),
            false => format!("TOP {number} {}\r\n", self.lines),
        };
        let commands: String = self.numbers.iter().take(fits).map(command).collect();
        self.waiting.extend(self.numbers.drain(..fits));
        match commands.strip_suffix("\r\n") {
            Some(commands) => self.pop3.send(commands).await,
            None => Ok(()),
        }
    }

    /// Whether there is something to be read, or the server's words where there is not.
    async fn answer(&mut self) -> Result<Result<(), String>, Error> {
        match self.pop3.answer().await? {
            Answer::Ok => Ok(Ok(())),
            Answer::Err(text) => {
                let (code, words) = response_code(&text);
                // Of the message nothing is known then.
                match is_for_now(&code, words) {
                    true => Err(Error::new(Code::Unavailable, cut(clean(&text)))),
                    false => Ok(Err(cut(clean(&text)))),
                }
            }
            Answer::Continue => Err(Error::new(Code::Protocol, "a question where an answer was due")),
        }
    }

    async fn read(&mut self, number: u32) -> Result<Result<Begin, String>, Error> {
        let mut answer = self.answer().await?;
        if answer.is_err() && !self.pop3.lists("TOP") && !self.pop3.lacks_top {
            self.pop3.send(&format!("RETR {number}")).await?;
            answer = self.answer().await?;
            self.pop3.lacks_top = answer.is_ok();
        }
        if let Err(words) = answer {
            return Ok(Err(words));
        }
        let mut begin = Begin::default();
        let (mut line, mut is_header, mut is_start) = (Vec::new(), true, true);
        loop {
            line.clear();
            // A line may have any length: in pieces.
            let is_end = self.pop3.stream.read_line_start(&mut line, MAX_LINE_BYTES).await?;
            let mut piece = line.as_slice();
            if is_start && let Some(rest) = piece.strip_prefix(b".") {
                if is_end && is_empty(rest) {
                    return Ok(Ok(begin));
                }
                piece = rest;
            }
            let (into, max) = match is_header {
                true => (&mut begin.header, MAX_HEADER_BYTES),
                false => (&mut begin.text, MAX_TEXT_BYTES),
            };
            let kept = piece.len().min(max - into.len());
            into.extend_from_slice(&piece[..kept]);
            begin.is_cut |= kept < piece.len();
            is_header &= !(is_start && is_end && is_empty(piece));
            is_start = is_end;
        }
    }
}

/// What was left before its end cannot be gone on with.
fn left_behind() -> Error {
    Error::new(Code::Protocol, "an answer was left before its end")
}

/// Whether a line is nothing but its end.
fn is_empty(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

/// A number and what follows it.
fn split(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_ascii_whitespace();
    Some((words.next()?, words.next()?))
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
    let (code, words) = response_code(&text);
    let code = if code != "AUTH" && is_for_now(&code, words) { Code::Unavailable } else { Code::Authentication };
    Err(Login::refused(code, words))
}

/// The code of a refusal, in capitals, and its words.
fn response_code(text: &str) -> (String, &str) {
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((code, words)) => (code.to_ascii_uppercase(), words),
        None => (String::new(), text),
    }
}

/// Whether it is the server that cannot, and not what was asked for that is amiss.
fn is_for_now(code: &str, words: &str) -> bool {
    matches!(code, "IN-USE" | "LOGIN-DELAY" | "SYS/TEMP" | "SYS/PERM") || asks_to_wait(words)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::connect::Session;
    use crate::testing::{Script, connect_to_script, read_pop3_bytes};

    /// Signed in to a server with these capabilities, which then plays the script.
    async fn signed_in(capabilities: &str, script: Script) -> (Pop3, JoinHandle<Vec<String>>) {
        let greeting = Script::new().say("+OK ready\r\n").hear("CAPA");
        let greeting = greeting.say(format!("+OK\r\nUSER\r\n{capabilities}.\r\n")).hear("USER alice").say("+OK\r\n");
        let script = greeting.hear("PASS secret").say("+OK\r\n").append(script);
        let (stream, server) = connect_to_script(script, Session::new(Duration::from_secs(60), 1 << 30));
        let login = Login::new("alice", Secret::Password("secret".to_owned().into())).unwrap();
        (Pop3::sign_in(stream, Security::Plain, &login).await.unwrap(), server)
    }

    const PIPELINING: &str = "PIPELINING\r\nTOP\r\nUIDL\r\n";

    async fn tops(pop3: &mut Pop3, numbers: Vec<u32>) -> (Vec<Top>, Result<(), Error>) {
        let mut tops = pop3.tops(numbers, 2);
        let mut seen = Vec::new();
        loop {
            match tops.next().await {
                Ok(Some(top)) => seen.push(top),
                Ok(None) => return (seen, Ok(())),
                Err(error) => return (seen, Err(error)),
            }
        }
    }

    fn listed(number: u32, uid: &str, size: u64) -> Listed {
        Listed { number, uid: uid.to_owned(), size }
    }

    fn top(number: u32, header: &str, text: &str) -> Top {
        Top { number, begin: Ok(Begin { header: header.into(), text: text.into(), is_cut: false }) }
    }

    #[tokio::test]
    async fn messages_are_listed_with_ids_and_sizes_in_one_flight_where_that_can_be() {
        let (uidl, list) =
            ("+OK\r\n1 a\r\n2  b c\r\n4 a\r\n.\r\n", "+ok 3\r\n4 99999999999\r\n1 5\r\n2 x\r\nx\r\n.\r\n");
        let together = Script::new().hear("UIDL").hear("LIST").say(uidl).say(list);
        let apart = Script::new().hear("UIDL").say(uidl).hear("LIST").say(list);
        for (capabilities, script) in [(PIPELINING, together), ("", apart)] {
            let (mut pop3, _server) = signed_in(capabilities, script).await;
            let expected = [listed(1, "a", 5), listed(2, "b", 0), listed(4, "a", 99_999_999_999)];
            assert_eq!(pop3.uids().await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_whole_message_comes_as_it_was_sent_and_no_longer_than_it_may_be() {
        for (answer, expected) in [
            ("+OK\r\nA: b\r\n\r\n..\r\n.\r\n", Ok(("A: b\r\n\r\n.\r\n", false))),
            ("+OK\r\n.\r\n", Ok(("", false))),
            ("+OK\r\n0123456789abcdef\r\n", Ok(("0123456789ab", true))),
            ("-ERR no such message\r\n", Err(Code::Unavailable)),
            ("+OK\r\nA: b\r\n", Err(Code::Unreachable)),
            ("+ \r\n", Err(Code::Protocol)),
        ] {
            let (mut pop3, _server) = signed_in("", Script::new().hear("RETR 3").say(answer)).await;
            let raw = pop3.retrieve(3, 12).await.map_err(|error| error.code);
            let expected = expected.map(|(text, is_cut)| Raw { bytes: text.into(), is_cut });
            assert_eq!(raw, expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_list_that_is_not_whole_is_none() {
        for (answer, code) in [
            ("-ERR what?\r\n".to_owned(), Code::Protocol),
            ("-ERR [SYS/TEMP] later\r\n".to_owned(), Code::Unavailable),
            ("+ \r\n".to_owned(), Code::Protocol),
            ("+OK\r\n1 a\r\n2\r\n.\r\n".to_owned(), Code::Protocol),
            ("+OK\r\n1 a\r\n\r\n.\r\n".to_owned(), Code::Protocol),
            ("+OK\r\nx a\r\n.\r\n".to_owned(), Code::Protocol),
            ("+OK\r\n1 a\0b\r\n.\r\n".to_owned(), Code::Protocol),
            (format!("+OK\r\n1 {:x<129}\r\n.\r\n", ""), Code::Protocol),
            ("+OK\r\n1 a\r\n2 b\r\n1 c\r\n.\r\n".to_owned(), Code::Protocol),
            ("+OK\r\n".to_owned() + &"1 a\r\n".repeat(MAX_MESSAGES + 1), Code::Protocol),
            ("+OK\r\n1 a\r\n".to_owned(), Code::Unreachable),
            ("+OK\r\n1 a\r\n.\r\n-ERR\r\n".to_owned(), Code::Protocol),
        ] {
            let (mut pop3, _server) = signed_in(PIPELINING, Script::new().hear("UIDL").hear("LIST").say(&answer)).await;
            assert_eq!(pop3.uids().await.unwrap_err().code, code, "{}", &answer[..20.min(answer.len())]);
            assert_eq!(pop3.uids().await.unwrap_err().code, Code::Protocol);
        }
    }

    #[tokio::test]
    async fn a_refusal_that_repeats_the_secret_is_not_repeated() {
        let script = Script::new().hear("UIDL").say("-ERR PASS secret\r\n");
        let (mut pop3, _server) = signed_in("", script).await;
        let error = pop3.uids().await.unwrap_err();
        assert_eq!((error.code, error.detail), (Code::Protocol, format!("UIDL was refused: {REDACTED}")));
    }

    #[tokio::test]
    async fn begins_of_messages_are_read_line_by_line() {
        let answers = [
            "+OK\r\nSubject: a\r\n\r\n..x\r\n.y\r\n.\r\n",
            "-ERR no\x07 such message\r\n",
            "+OK\n..a: b\n\n\n.\n",
            "+OK\r\n.\r\n",
        ];
        let expected = [
            top(7, "Subject: a\r\n\r\n", ".x\r\ny\r\n"),
            Top { number: 9, begin: Err("no such message".into()) },
            top(8, ".a: b\n\n", "\n"),
            top(8, "", ""),
        ];
        let commands = ["TOP 7 2", "TOP 9 2", "TOP 8 2", "TOP 8 2"];
        let together = answers.iter().fold(commands.iter().fold(Script::new(), |s, c| s.hear(*c)), Script::say);
        let apart =
            commands.iter().zip(answers).fold(Script::new(), |s, (command, answer)| s.hear(*command).say(answer));
        for (capabilities, script) in [(PIPELINING, together), ("TOP\r\n", apart)] {
            let (mut pop3, server) = signed_in(capabilities, script).await;
            assert_eq!(tops(&mut pop3, vec![7, 9, 8, 8]).await, (expected.to_vec(), Ok(())));
            assert_eq!(tops(&mut pop3, vec![]).await, (vec![], Ok(())));
            assert_eq!(server.await.unwrap().len(), 3 + 4);
        }
    }

    #[tokio::test]
    async fn a_server_without_top_gives_messages_out_whole() {
        let message = "+OK\r\nA: b\r\n\r\n1\r\n2\r\n3\r\n.\r\n";
        // What is not there is not for RETR either, and says nothing of TOP.
        let script = Script::new().hear("TOP 1 2").say("-ERR what?\r\n").hear("RETR 1").say("-ERR none\r\n");
        let script = script.hear("TOP 2 2").say("-ERR what?\r\n").hear("RETR 2").say(message);
        let script = script.hear("RETR 3").say(message).hear("RETR 4").say("-ERR none\r\n").hear("RETR 5").say(message);
        for capabilities in ["", "PIPELINING\r\n"] {
            let (mut pop3, _server) = signed_in(capabilities, script.clone()).await;
            let none = |number| Top { number, begin: Err("none".into()) };
            let whole = |number| top(number, "A: b\r\n\r\n", "1\r\n2\r\n3\r\n");
            let expected = vec![none(1), whole(2), whole(3), none(4)];
            assert_eq!(tops(&mut pop3, vec![1, 2, 3, 4]).await, (expected, Ok(())));
            assert_eq!(tops(&mut pop3, vec![5]).await, (vec![whole(5)], Ok(())));
        }
    }

    #[tokio::test]
    async fn who_stops_gets_what_was_asked_for_and_goes_on_later() {
        let message = "+OK\r\nA: b\r\n\r\n.\r\n";
        let script = Script::new().hear("TOP 1 2").say(message).hear("TOP 3 2").say(message);
        let (mut pop3, _server) = signed_in("TOP\r\n", script).await;
        let mut some = pop3.tops(vec![1, 2], 2);
        assert_eq!(some.next().await.unwrap(), Some(top(1, "A: b\r\n\r\n", "")));
        assert_eq!((some.stop(), some.stop()), (true, false));
        assert_eq!(some.next().await.unwrap(), None);
        assert_eq!(tops(&mut pop3, vec![3]).await, (vec![top(3, "A: b\r\n\r\n", "")], Ok(())));
    }

    #[tokio::test]
    async fn a_refusal_for_now_says_nothing_of_a_message() {
        for refusal in ["-ERR [SYS/TEMP] no", "-ERR [in-use] no", "-ERR Server busy, please try again later"] {
            let script = Script::new().hear("TOP 1 2").hear("TOP 2 2").say("+OK\r\nA: b\r\n\r\n.\r\n");
            let (mut pop3, _server) = signed_in(PIPELINING, script.say(format!("{refusal}\r\n"))).await;
            let (seen, outcome) = tops(&mut pop3, vec![1, 2]).await;
            let error = outcome.unwrap_err();
            assert_eq!((seen.len(), error.code), (1, Code::Unavailable), "{refusal}");
            assert_eq!(error.detail, refusal.strip_prefix("-ERR ").unwrap());
        }
    }

    #[tokio::test]
    async fn what_is_too_long_is_cut_and_what_follows_is_read() {
        let long = "x".repeat(1 << 20);
        let script = Script::new().hear("TOP 1 2").hear("TOP 2 2").hear("TOP 3 2");
        let script = script.say(format!("+OK\r\nA: {long}\r\n.{long}\r\n\r\n{long}\r\n.\r\n"));
        let script = script.say(format!("+OK\r\nB: c\r\n\r\n{}.\r\n", "..\r\n".repeat(100_000)));
        let script = script.say("+OK\r\nC: d\r\n.\r\n");
        let (mut pop3, _server) = signed_in(PIPELINING, script).await;
        let (seen, outcome) = tops(&mut pop3, vec![1, 2, 3]).await;
        outcome.unwrap();
        let lengths = seen.iter().map(|top| {
            let begin = top.begin.as_ref().unwrap();
            (begin.header.len(), begin.text.len(), begin.is_cut)
        });
        let expected = [(MAX_HEADER_BYTES, MAX_TEXT_BYTES, true), (8, MAX_TEXT_BYTES, true), (6, 0, false)];
        assert_eq!(lengths.collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_thousand_commands_do_not_wait_for_each_other_nor_for_ever() {
        let mut script = Script::new();
        for n in 1..=1000 {
            script = script.hear(format!("TOP {n} 2")).say(format!("+OK\r\nX: {:y<2000}\r\n.\r\n", ""));
        }
        let (mut pop3, server) = signed_in(PIPELINING, script).await;
        let (seen, outcome) = tops(&mut pop3, (1..=1000).collect()).await;
        outcome.unwrap();
        assert!(seen.iter().map(|top| top.number).eq(1..=1000));
        assert_eq!(server.await.unwrap().len(), 1003);
    }

    #[tokio::test]
    async fn what_breaks_off_gives_an_error_and_nothing_after_it() {
        for (answer, code) in [
            ("+OK\r\nA: b\r\n", Code::Unreachable),
            ("+OK\r\nA: b\r\n.", Code::Unreachable),
            ("hello\r\n", Code::Protocol),
            ("+ \r\n", Code::Protocol),
        ] {
            let (mut pop3, _server) = signed_in(PIPELINING, Script::new().hear("TOP 1 2").say(answer)).await;
            let (seen, outcome) = tops(&mut pop3, vec![1]).await;
            assert_eq!((seen, outcome.unwrap_err().code), (vec![], code), "{answer}");
            assert_eq!(tops(&mut pop3, vec![1]).await.1.unwrap_err().code, Code::Protocol);
            assert_eq!(pop3.uids().await.unwrap_err().code, Code::Protocol);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in "(\\+OK|-ERR|\r\n|\\.|[0-9]|[ -~\0])*") {
            read_pop3_bytes(text.as_bytes());
        }
    }
}

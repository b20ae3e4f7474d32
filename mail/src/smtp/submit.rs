//! Handing a message over, in three steps whose borders matter: nothing is sent before the last dot, and after it nobody
//! knows until the server answers.

use std::borrow::Cow;
use std::time::Duration;

use memchr::memmem;

use super::{Kind, Reply, Said, Smtp};
use crate::compose::Body;
use crate::error::{Code, Error};
use crate::sasl::Login;

/// For an answer to MAIL, RCPT and DATA. Servers ask others meanwhile, or let whom they do not know wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answer of a server that hangs up (RFC 5321 section 3.8), to whatever it was asked: no other will come.
const CLOSING: u16 = 421;

/// From whom to whom.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    /// The sender's address, its domain in ASCII.
    pub sender: &'a str,
    /// Likewise.
    pub recipients: &'a [String],
    /// Bytes of the message, dots not doubled.
    pub size: u64,
    /// What notices of failure will name, of letters, digits and hyphens.
    pub id: &'a str,
    /// Whether the header has letters beyond ASCII in an address.
    pub needs_utf8: bool,
}

/// What came of the envelope.
#[derive(Debug)]
pub struct Offer {
    /// An answer for each recipient, in their order; none where it was not asked for.
    pub recipients: Vec<Option<Said>>,
    /// What is next.
    pub outcome: Outcome,
}

/// What is to follow an envelope.
#[derive(Debug)]
pub enum Outcome {
    /// The message, for those recipients that were accepted.
    GoAhead,
    /// Nothing: the sender, all recipients or the message were refused.
    Refused(Said),
    /// Nothing: the connection is lost, or good for nothing.
    Broken(Error),
}

/// How a message's bytes went.
#[derive(Debug)]
pub enum Transmission<E> {
    /// All are there but the last dot.
    Ready,
    /// The server does not want them, and said so before the last dot; nothing was sent.
    Refused(Said),
    /// The connection is lost; nothing was sent.
    Broken(Error),
    /// They could not be had; nothing was sent.
    NoBody(E),
}

/// How a message ended.
#[derive(Debug)]
pub enum Commit {
    /// The server has taken it, or has not, and says so.
    Answered(Said),
    /// The connection was lost before the last dot; nothing was sent.
    Broken(Error),
    /// It was lost after that, and the server may have taken the message.
    Lost(Error),
}

impl Smtp {
    /// Whether the server has this extension.
    fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    /// What stands behind an extension's name.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find_map(|line| match line.strip_prefix(name)? {
            "" => Some(""),
            rest => rest.strip_prefix(' '),
        })
    }

    /// Names sender and recipients, and asks to go ahead with the message: in one round trip where the server has
    /// PIPELINING (RFC 2920). Each recipient has an answer of its own.
    pub async fn offer(&mut self, login: &Login, envelope: &Envelope<'_>) -> Offer {
        self.stream.set_patience(PATIENCE);
        let mut recipients: Vec<_> = envelope.recipients.iter().map(|recipient| self.refusal_of(recipient)).collect();
        if let Some(said) = self.refusal_ahead(envelope) {
            return Offer { recipients, outcome: Outcome::Refused(said) };
        }
        let outcome = match self.has("PIPELINING") {
            true => self.offer_at_once(login, envelope, &mut recipients).await,
            false => self.offer_one_by_one(login, envelope, &mut recipients).await,
        };
        Offer { recipients, outcome: outcome.unwrap_or_else(Outcome::Broken) }
    }

    /// Of whom need not be asked (RFC 6531 section 3.5).
    fn refusal_of(&self, recipient: &str) -> Option<Said> {
        (!recipient.is_ascii() && !self.has("SMTPUTF8")).then(no_utf8)
    }

    /// What need not be asked.
    fn refusal_ahead(&self, envelope: &Envelope<'_>) -> Option<Said> {
        if (envelope.needs_utf8 || !envelope.sender.is_ascii()) && !self.has("SMTPUTF8") {
            // Who has an address that the server takes is told of it as well.
            let words =
                "The mail server takes no header with an address that has letters outside of ASCII before the @.";
            return Some(Said::ours(553, (5, 6, 7), words));
        }
        let is_for_none = envelope.recipients.iter().all(|recipient| !recipient.is_ascii());
        if is_for_none && !self.has("SMTPUTF8") {
            return Some(no_utf8());
        }
        // RFC 1870 section 4: none, or zero, is no limit.
        let most: u64 = self.parameter("SIZE")?.trim().parse().ok()?;
        let words =
            || format!("The mail server takes messages of at most {most} bytes, and this one has {}.", envelope.size);
        (most > 0 && envelope.size > most).then(|| Said::ours(552, (5, 3, 4), &words()))
    }

    async fn offer_at_once(
        &mut self,
        login: &Login,
        envelope: &Envelope<'_>,
        recipients: &mut [Option<Said>],
    ) -> Result<Outcome, Error> {
        let mut commands = self.mail(envelope) + "\r\n";
        let asked = envelope.recipients.iter().zip(recipients.iter()).filter(|(_, answer)| answer.is_none());
        for (recipient, _) in asked {
            commands.push_str(&rcpt(recipient));
            commands.push_str("\r\n");
        }
        commands.push_str("DATA\r\n");
        self.stream.write_all(commands.as_bytes()).await?;
        let sender = self.said(login).await?;
        if sender.code == CLOSING {
            return Ok(Outcome::Refused(sender));
        }
        let mut last = None;
        for answer in recipients.iter_mut().filter(|answer| answer.is_none()) {
            let said = self.said(login).await?.of_recipient();
            if said.code == CLOSING {
                return Ok(Outcome::Refused(said));
            }
            // What follows a refused sender is out of order, and says nothing of whom it names.
            if sender.kind() == Kind::Yes {
                *answer = Some(said.clone());
            }
            last = Some(said);
        }
        let data = self.reply().await?;
        if sender.kind() != Kind::Yes {
            return Ok(Outcome::Refused(sender));
        }
        if !recipients.iter().flatten().any(|said| said.kind() == Kind::Yes) {
            // Should it wait for a message all the same, it gets none: whoever reads this hangs up.
            return Ok(Outcome::Refused(last.unwrap_or(sender)));
        }
        Ok(go_ahead(&data, login))
    }

    async fn offer_one_by_one(
        &mut self,
        login: &Login,
        envelope: &Envelope<'_>,
        recipients: &mut [Option<Said>],
    ) -> Result<Outcome, Error> {
        self.send(&self.mail(envelope)).await?;
        let sender = self.said(login).await?;
        if sender.kind() != Kind::Yes {
            return Ok(Outcome::Refused(sender));
        }
        let mut last = None;
        let asked = envelope.recipients.iter().zip(recipients.iter_mut()).filter(|(_, answer)| answer.is_none());
        for (recipient, answer) in asked {
            self.send(&rcpt(recipient)).await?;
            let said = self.said(login).await?.of_recipient();
            if said.code == CLOSING {
                return Ok(Outcome::Refused(said));
            }
            *answer = Some(said.clone());
            last = Some(said);
        }
        if !recipients.iter().flatten().any(|said| said.kind() == Kind::Yes) {
            return Ok(Outcome::Refused(last.unwrap_or(sender)));
        }
        self.send("DATA").await?;
        Ok(go_ahead(&self.reply().await?, login))
    }

    fn mail(&self, envelope: &Envelope<'_>) -> String {
        let mut command = format!("MAIL FROM:<{}>", envelope.sender);
        if self.has("SIZE") {
            command.push_str(&format!(" SIZE={}", envelope.size));
        }
        // All else is of seven bits: what is not is encoded.
        if needs_utf8(envelope) && self.has("SMTPUTF8") {
            if self.has("8BITMIME") {
                command.push_str(" BODY=8BITMIME");
            }
            command.push_str(" SMTPUTF8");
        }
        // A notice of failure need not bring the whole message back, and says which one it was. Whether there are notices
        // is left to the servers: of failures there are, of success nobody has asked for any.
        if self.has("DSN") {
            command.push_str(&format!(" RET=HDRS ENVID={}", envelope.id));
        }
        command
    }

    /// Sends the message, all but its last dot: until [`Self::commit`] nothing is sent.
    pub async fn transmit<B: Body>(&mut self, login: &Login, body: &mut B) -> Transmission<B::Error> {
        let mut dots = Dots { at_line_start: true };
        loop {
            match body.next().await {
                Ok(Some(bytes)) => {
                    if let Err(error) = self.stream.write_all(&dots.doubled(&bytes)).await {
                        // Who hangs up may have said why.
                        return match self.early_answer(login).await {
                            Ok(Some(said)) => Transmission::Refused(said),
                            _ => Transmission::Broken(error),
                        };
                    }
                }
                Ok(None) => {
                    return match self.early_answer(login).await {
                        Ok(None) => Transmission::Ready,
                        Ok(Some(said)) => Transmission::Refused(said),
                        Err(error) => Transmission::Broken(error),
                    };
                }
                Err(error) => return Transmission::NoBody(error),
            }
        }
    }

    /// Looks, before the last dot is sent, whether the server has hung up, has refused the message, or has said something that
    /// would be taken for its answer to it: nobody has taken a message that was not there yet.
    async fn early_answer(&mut self, login: &Login) -> Result<Option<Said>, Error> {
        match self.stream.heard().await? {
            [] => Ok(None),
            [b'4' | b'5', ..] => Ok(Some(self.said(login).await?)),
            _ => Err(Error::new(Code::Protocol, "an answer to a message that has not ended")),
        }
    }

    /// Sends the last dot, and waits so long for the answer.
    pub async fn commit(&mut self, login: &Login, wait: Duration) -> Commit {
        // Since the message was written something else was waited for.
        match self.early_answer(login).await {
            Ok(None) => {}
            Ok(Some(said)) => return Commit::Answered(said),
            Err(error) => return Commit::Broken(error),
        }
        self.stream.set_patience(wait);
        match self.last_dot(login).await {
            Ok(said) => Commit::Answered(said),
            Err(error) => Commit::Lost(error),
        }
    }

    pub(crate) async fn last_dot(&mut self, login: &Login) -> Result<Said, Error> {
        self.stream.write_all(b".\r\n").await?;
        let said = self.said(login).await?;
        match said.code {
            200..=299 | 400..=599 => Ok(said),
            _ => Err(Error::new(Code::Protocol, format!("no answer to a message: {said}"))),
        }
    }

    async fn said(&mut self, login: &Login) -> Result<Said, Error> {
        Ok(Said::new(&self.reply().await?, login))
    }
}

fn rcpt(recipient: &str) -> String {
    format!("RCPT TO:<{recipient}>")
}

fn needs_utf8(envelope: &Envelope<'_>) -> bool {
    envelope.needs_utf8
        || !envelope.sender.is_ascii()
        || !envelope.recipients.iter().all(|recipient| recipient.is_ascii())
}

fn no_utf8() -> Said {
    let words = "The mail server takes no addresses with letters outside of ASCII before the @.";
    Said::ours(553, (5, 6, 7), words)
}

/// What the answer to DATA means.
fn go_ahead(reply: &Reply, login: &Login) -> Outcome {
    match reply.code {
        354 => Outcome::GoAhead,
        400..=599 => Outcome::Refused(Said::new(reply, login)),
        _ => Outcome::Broken(Error::new(Code::Protocol, format!("no answer to DATA: {}", reply.code))),
    }
}

/// Doubles dots at the beginning of lines (RFC 5321 section 4.5.2), wherever the pieces were cut.
struct Dots {
    at_line_start: bool,
}

impl Dots {
    fn doubled<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let first = (self.at_line_start && bytes.starts_with(b".")).then_some(0);
        self.at_line_start = bytes.last().map_or(self.at_line_start, |last| *last == b'\n');
        let (mut doubled, mut written) = (Vec::new(), 0);
        for dot in first.into_iter().chain(memmem::find_iter(bytes, b"\n.").map(|at| at + 1)) {
            doubled.extend_from_slice(&bytes[written..=dot]);
            written = dot;
        }
        if doubled.is_empty() {
            return Cow::Borrowed(bytes);
        }
        doubled.extend_from_slice(&bytes[written..]);
        Cow::Owned(doubled)
    }
}

#[cfg(test)]
mod tests;

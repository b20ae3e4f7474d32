//! Commands in flight together.

use std::collections::VecDeque;
use std::iter::Peekable;

use super::{Condition, Imap, MAX_DATA_BYTES, Reply, Response, farewell};
use crate::error::{Code, Error};

/// Of commands that are sent and not answered. That much fits the buffers between here and there, so that writing does
/// not wait for a server that waits for us to read.
const WINDOW_BYTES: usize = 8 * 1024;

/// Of ends that came before their turn. A usual one has some 80.
const HELD_BYTES: usize = 64 * 1024;

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum Prepared {
    /// A command without tag and end.
    Line(Vec<u8>),
    /// One that cannot be sent or need not be, with what is to be said at its turn.
    Answered(Reply),
}

/// What came.
pub(super) enum Step {
    /// An untagged response with data, in [`Imap::frame`].
    Data,
    /// An untagged OK, NO or BAD.
    Status(Reply),
    /// The end of the next command, in the order in which they were given.
    Done(Reply),
    /// There are no more commands.
    End,
}

/// Sends commands one after the other without waiting for answers, as many as the window holds.
#[derive(Debug)]
pub(super) struct Pipeline<I: Iterator<Item = Prepared>> {
    commands: Peekable<I>,
    waiting: VecDeque<Waiting>,
    unanswered: usize,
    /// Bytes of ends in `waiting`.
    held: usize,
    /// Whether an earlier conversation was left, or a step of this one: what is read next is anything.
    is_lost: bool,
}

#[derive(Debug)]
struct Waiting {
    /// The number in the tag, or the answer.
    sent: Result<u32, Reply>,
    bytes: usize,
    /// Whether it may end before one that was sent earlier: a server may work such off together (RFC 9051 section 5.5). What
    /// opens a folder or changes a message is never among those, so what is said meanwhile is of the same folder.
    is_free: bool,
}

impl Waiting {
    fn new(sent: Result<u32, Reply>, line: &[u8]) -> Self {
        let is_free = line.starts_with(b"UID FETCH ") || line.starts_with(b"UID SEARCH ");
        Self { sent, bytes: line.len(), is_free }
    }

    fn is_of(&self, tag: &str) -> bool {
        self.sent.as_ref().is_ok_and(|number| Imap::tag_of(*number) == tag)
    }
}

impl<I: Iterator<Item = Prepared>> Pipeline<I> {
    pub(super) fn new(imap: &mut Imap, commands: I) -> Self {
        let is_lost = std::mem::replace(&mut imap.is_talking, true);
        Self { commands: commands.peekable(), waiting: VecDeque::new(), unanswered: 0, held: 0, is_lost }
    }

    /// Reads one response, and sends what there is room for.
    ///
    /// # Errors
    /// [`Code::Unavailable`] for a BYE; [`Code::Protocol`] for an answer to no command. Then, and where a step was dropped
    /// before its end, all further ones fail.
    pub(super) async fn step(&mut self, imap: &mut Imap) -> Result<Step, Error> {
        if std::mem::replace(&mut self.is_lost, true) {
            return Err(left_behind());
        }
        self.send(imap).await?;
        let step = self.receive(imap).await?;
        self.is_lost = false;
        Ok(step)
    }

    async fn send(&mut self, imap: &mut Imap) -> Result<(), Error> {
        // Not one by one as each is answered: a few together are one packet.
        if self.unanswered > WINDOW_BYTES / 2 {
            return Ok(());
        }
        let mut out = Vec::new();
        loop {
            let has_room = |bytes| self.waiting.is_empty() || self.unanswered + bytes <= WINDOW_BYTES;
            let next = self.commands.next_if(|command| match command {
                Prepared::Line(line) => has_room(line.len()),
                Prepared::Answered(_) => true,
            });
            match next {
                Some(Prepared::Line(line)) => {
                    imap.commands += 1;
                    out.extend_from_slice(imap.tag().as_bytes());
                    out.push(b' ');
                    out.extend_from_slice(&line);
                    out.extend_from_slice(b"\r\n");
                    self.unanswered += line.len();
                    self.waiting.push_back(Waiting::new(Ok(imap.commands), &line));
                }
                Some(Prepared::Answered(reply)) => self.waiting.push_back(Waiting::new(Err(reply), b"")),
                None => break,
            }
        }
        if out.is_empty() { Ok(()) } else { imap.stream.write_all(&out).await }
    }

    async fn receive(&mut self, imap: &mut Imap) -> Result<Step, Error> {
        loop {
            match self.waiting.pop_front_if(|oldest| oldest.sent.is_err()) {
                Some(Waiting { sent: Err(reply), bytes, .. }) => {
                    self.unanswered -= bytes;
                    self.held = self.held.saturating_sub(reply.length());
                    return Ok(Step::Done(reply));
                }
                _ if self.waiting.is_empty() => {
                    imap.is_talking = false;
                    return Ok(Step::End);
                }
                _ => {}
            }
            match imap.response(MAX_DATA_BYTES).await? {
                Response::Tagged(tag, reply) => {
                    let place = self.waiting.iter().position(|waiting| waiting.is_of(&tag));
                    let place = place.ok_or_else(|| Error::new(Code::Protocol, "an answer to no command"))?;
                    let is_early = place > 0;
                    if is_early && !self.waiting.iter().take(place + 1).all(|waiting| waiting.is_free) {
                        return Err(Error::new(Code::Protocol, "an answer to another command"));
                    }
                    self.held += reply.length();
                    if is_early && self.held > HELD_BYTES {
                        return Err(Error::new(Code::Protocol, "too many answers before their turn"));
                    }
                    if let Some(ended) = self.waiting.get_mut(place) {
                        ended.sent = Err(reply);
                    }
                }
                Response::Untagged(Reply { condition: Condition::Bye, text, .. }) => return Err(farewell(&text)),
                Response::Untagged(reply) => return Ok(Step::Status(reply)),
                Response::Data => return Ok(Step::Data),
                Response::Continue => return Err(Error::new(Code::Protocol, "a question where an answer was due")),
            }
        }
    }
}

/// What was left before its end cannot be gone on with.
pub(super) fn left_behind() -> Error {
    Error::new(Code::Protocol, "a conversation was left before its end")
}

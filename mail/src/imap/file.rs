//! Putting a message into a folder, and what goes with it: whether it is there, and that another one was answered by it.

use mail_builder::headers::date::Date;

use super::converse::{Event, read};
use super::name::quoted;
use super::pipeline::{Pipeline, Prepared, Step};
use super::{Answer, Condition, Features, Folder, Imap, Reply, Role};
use crate::compose::{Body, is_id};
use crate::error::{Code, Error};

/// What a folder is called that is made here: what most call it.
const SENT: &[u8] = b"Sent";

/// Why a message was not put into a folder.
#[derive(Debug)]
pub enum NotFiled<E> {
    /// The server's doing. Where its answer was lost, the message may be there.
    Host(Error),
    /// The message could not be had. The connection is good for nothing any more.
    NoBody(E),
}

impl<E> From<Error> for NotFiled<E> {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

impl Imap {
    /// Whether a message with this Message-ID, without brackets, has come into a folder since `since`, in seconds since the
    /// Unix epoch. Opens it to read only.
    ///
    /// # Errors
    /// Those of the connection; [`Code::MailboxMissing`] where the folder cannot be opened, [`Code::Unavailable`] where the
    /// server does not search, [`Code::Protocol`] where nobody can tell what it found.
    pub async fn has_message_id(
        &mut self,
        features: &Features,
        mailbox: &[u8],
        id: &str,
        since: i64,
    ) -> Result<bool, Error> {
        if !is_id(id) {
            return Err(Error::new(Code::Protocol, "no Message-ID that could be looked for"));
        }
        let open = folder_command("EXAMINE", mailbox)?;
        // In quotes: an id has letters that mean something else outside of them.
        let escaped = id.replace('\\', "\\\\").replace('"', "\\\"");
        // When a message came every server has at hand; for its headers some open each message of the folder. A day has no zone.
        let day = day(since - 2 * 24 * 60 * 60);
        let search = format!("UID SEARCH SINCE {day} HEADER MESSAGE-ID \"<{escaped}>\"").into_bytes();
        let (mut found, mut is_readable) = (false, true);
        let replies = self
            .carry_out(features, [open, search], |event| match event {
                Event::Found(uids) => found |= !uids.is_empty(),
                Event::Undecodable { .. } => is_readable = false,
                _ => {}
            })
            .await?;
        check("EXAMINE", replies.first(), Code::MailboxMissing)?;
        check("UID SEARCH", replies.get(1), Code::Unavailable)?;
        if !found && !is_readable {
            return Err(Error::new(Code::Protocol, "what a search found cannot be read"));
        }
        Ok(found)
    }

    /// Puts a message of `size` bytes into a folder, as one that was read.
    ///
    /// # Errors
    /// [`Code::MailboxMissing`] where there is no such folder; [`Code::Unavailable`] where it does not take the message.
    pub async fn append<B: Body>(&mut self, mailbox: &[u8], size: u64, body: &mut B) -> Result<(), NotFiled<B::Error>> {
        let name = quoted(mailbox).ok_or_else(|| Error::new(Code::MailboxMissing, "a name that cannot be sent"))?;
        self.commands += 1;
        let command =
            [self.tag().as_bytes(), b" APPEND ", &name, format!(" (\\Seen) {{{size}}}\r\n").as_bytes()].concat();
        self.stream.write_all(&command).await?;
        let reply = match self.answer().await? {
            Answer::Continue => {
                while let Some(bytes) = body.next().await.map_err(NotFiled::NoBody)? {
                    self.stream.write_all(&bytes).await?;
                }
                self.stream.write_all(b"\r\n").await?;
                match self.answer().await? {
                    Answer::Done(reply) => reply,
                    Answer::Continue => {
                        return Err(Error::new(Code::Protocol, "a question where an answer was due").into());
                    }
                }
            }
            Answer::Done(reply) => reply,
        };
        match (reply.condition, reply.code_word().as_str()) {
            (Condition::Ok, _) => Ok(()),
            (_, "TRYCREATE" | "NONEXISTENT") => Err(reply.refusal("APPEND", Code::MailboxMissing).into()),
            _ => Err(reply.refusal("APPEND", Code::Unavailable).into()),
        }
    }

    /// Makes a folder for the messages that are sent, where there is none, and returns its name as it is on the wire.
    ///
    /// # Errors
    /// [`Code::MailboxMissing`] where the server makes none.
    pub async fn create_sent(&mut self, features: &Features, folders: &[Folder]) -> Result<Vec<u8>, Error> {
        let inbox = folders.iter().find(|folder| folder.role == Some(Role::Inbox));
        // Where all folders lie below the inbox, none can be made beside it.
        let below = inbox.and_then(|inbox| Some([&inbox.wire, inbox.delimiter?.to_string().as_bytes(), SENT].concat()));
        let mut refusal = Error::new(Code::MailboxMissing, "no name for a folder");
        for name in [Some(SENT.to_vec()), below].into_iter().flatten() {
            let create = folder_command("CREATE", &name)?;
            let subscribe = folder_command("SUBSCRIBE", &name)?;
            let replies = self.carry_out(features, [create, subscribe], |_| ()).await?;
            match check("CREATE", replies.first(), Code::MailboxMissing) {
                Ok(()) => return Ok(name),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Marks a message as answered, where its UID is not another message's by now.
    ///
    /// # Errors
    /// As [`Self::has_message_id`].
    pub async fn mark_answered(
        &mut self,
        features: &Features,
        mailbox: &[u8],
        uid_validity: u32,
        uid: u32,
    ) -> Result<(), Error> {
        let open = folder_command("SELECT", mailbox)?;
        let mut is_same = false;
        let replies = self
            .carry_out(features, [open], |event| {
                if let Event::UidValidity(validity) = event {
                    is_same = validity == uid_validity;
                }
            })
            .await?;
        check("SELECT", replies.first(), Code::MailboxMissing)?;
        if is_same {
            let store = format!("UID STORE {uid} +FLAGS.SILENT (\\Answered)").into_bytes();
            let replies = self.carry_out(features, [store], |_| ()).await?;
            check("UID STORE", replies.first(), Code::Unavailable)?;
        }
        Ok(())
    }

    /// Sends commands, hands on what is said meanwhile, and returns how each ended.
    async fn carry_out<const N: usize>(
        &mut self,
        features: &Features,
        commands: [Vec<u8>; N],
        mut hear: impl FnMut(Event),
    ) -> Result<Vec<Reply>, Error> {
        let enable = self.enable(features);
        let ahead = usize::from(enable.is_some());
        let mut pipeline = Pipeline::new(self, enable.into_iter().chain(commands).map(Prepared::Line));
        let mut replies = Vec::new();
        loop {
            match pipeline.step(self).await? {
                Step::Data => read(&self.frame).into_iter().for_each(&mut hear),
                Step::Status(reply) => reply.event().into_iter().for_each(&mut hear),
                Step::Done(reply) => replies.push(reply),
                Step::End => break,
            }
        }
        replies.drain(..ahead.min(replies.len()));
        Ok(replies)
    }
}

/// A day as RFC 3501 has it (`date`), of a time in seconds since the Unix epoch.
fn day(time: i64) -> String {
    let date = Date::new(time).to_rfc822();
    date.split(' ').skip(1).take(3).collect::<Vec<_>>().join("-")
}

fn folder_command(command: &str, mailbox: &[u8]) -> Result<Vec<u8>, Error> {
    let name = quoted(mailbox).ok_or_else(|| Error::new(Code::MailboxMissing, "a name that cannot be sent"))?;
    Ok([command.as_bytes(), b" ", &name].concat())
}

fn check(command: &str, reply: Option<&Reply>, code: Code) -> Result<(), Error> {
    match reply {
        Some(reply) if reply.condition == Condition::Ok => Ok(()),
        Some(reply) => Err(reply.refusal(command, code)),
        None => Err(Error::new(Code::Protocol, format!("{command} was not answered"))),
    }
}

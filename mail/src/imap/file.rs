//! Putting a message into a folder, and what goes with it: whether it is there, and that another one was answered by it.

use super::converse::{Event, read};
use super::name::quoted;
use super::pipeline::{Pipeline, Prepared, Step};
use super::{Answer, Condition, Features, Imap, Reply, refusal};
use crate::compose::{Body, is_id};
use crate::error::{Code, Error};

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
    /// Whether a message with this Message-ID lies in a folder; without brackets. Opens it to read only.
    ///
    /// # Errors
    /// Those of the connection; [`Code::MailboxMissing`] where the folder cannot be opened, [`Code::Unavailable`] where the
    /// server does not search, [`Code::Protocol`] where nobody can tell what it found.
    pub async fn has_message_id(&mut self, features: &Features, mailbox: &[u8], id: &str) -> Result<bool, Error> {
        if !is_id(id) {
            return Err(Error::new(Code::Protocol, "no Message-ID that could be looked for"));
        }
        let open = folder_command("EXAMINE", mailbox)?;
        // In quotes: an id has letters that mean something else outside of them.
        let escaped = id.replace('\\', "\\\\").replace('"', "\\\"");
        let search = format!("UID SEARCH HEADER MESSAGE-ID \"<{escaped}>\"").into_bytes();
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
            (_, "TRYCREATE" | "NONEXISTENT") => {
                Err(refusal("APPEND", &reply.code_word(), &reply.text, Code::MailboxMissing).into())
            }
            _ => Err(refusal("APPEND", &reply.code_word(), &reply.text, Code::Unavailable).into()),
        }
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

fn folder_command(command: &str, mailbox: &[u8]) -> Result<Vec<u8>, Error> {
    let name = quoted(mailbox).ok_or_else(|| Error::new(Code::MailboxMissing, "a name that cannot be sent"))?;
    Ok([command.as_bytes(), b" ", &name].concat())
}

fn check(command: &str, reply: Option<&Reply>, code: Code) -> Result<(), Error> {
    match reply {
        Some(reply) if reply.condition == Condition::Ok => Ok(()),
        Some(reply) => Err(refusal(command, &reply.code_word(), &reply.text, code)),
        None => Err(Error::new(Code::Protocol, format!("{command} was not answered"))),
    }
}

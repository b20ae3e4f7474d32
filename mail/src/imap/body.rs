//! One message from its begin to its end.

use std::borrow::Cow;

use super::converse::{Command, write};
use super::fetch::Fetched;
use super::pipeline::{Pipeline, Prepared, Step};
use super::{Condition, Features, Imap, Reply, frame};
use crate::error::{Code, Error};
use crate::message::Raw;

impl Imap {
    /// A message of a folder, as it was sent, of `limit` bytes at most; `None` where it is not there, be it that its UID is
    /// another message's by now. Opens the folder to read only and asks without waiting, which is one round trip; the
    /// message does not become a read one.
    ///
    /// # Errors
    /// Those of the connection; [`Code::MailboxMissing`] where the folder cannot be opened, [`Code::Unavailable`] where
    /// the server asks to come later or does not give the message out, [`Code::Protocol`] for what cannot be read.
    pub async fn fetch_raw(
        &mut self,
        features: &Features,
        mailbox: &[u8],
        uid_validity: u32,
        uid: u32,
        limit: usize,
    ) -> Result<Option<Raw>, Error> {
        // One more than that tells whether there is more. Who does not know parts of parts sends all.
        self.frame.section_bytes = limit.saturating_add(1).max(frame::MAX_SECTION_BYTES);
        let raw = self.ask_raw(features, mailbox, uid_validity, uid, limit).await;
        self.frame.section_bytes = frame::MAX_SECTION_BYTES;
        raw
    }

    async fn ask_raw(
        &mut self,
        features: &Features,
        mailbox: &[u8],
        uid_validity: u32,
        uid: u32,
        limit: usize,
    ) -> Result<Option<Raw>, Error> {
        let open = write(&Command::Examine { mailbox: mailbox.to_vec(), resync: None, condstore: false }, features);
        let fetch = format!("UID FETCH {uid} (UID BODY.PEEK[]<0.{}>)", limit.saturating_add(1));
        let commands =
            self.enable(features).map(Prepared::Line).into_iter().chain([open, Prepared::Line(fetch.into_bytes())]);
        let mut pipeline = Pipeline::new(self, commands);
        let (mut raw, mut is_undecodable, mut is_other) = (None, false, false);
        let mut replies: Vec<Reply> = Vec::new();
        loop {
            match pipeline.step(self).await? {
                Step::Data => match self.read_raw() {
                    Some((of, read)) if of == uid => raw = read.or(raw),
                    Some(_) => {}
                    None => {
                        let is_fetch = self.frame.fetch().is_some();
                        is_undecodable |= is_fetch && self.frame.uid().is_none_or(|of| of == uid);
                    }
                },
                Step::Status(reply) => is_other |= reply.names_other(uid_validity),
                Step::Done(reply) => {
                    is_other |= reply.names_other(uid_validity);
                    replies.push(reply);
                }
                Step::End => break,
            }
        }
        let fetched = replies.pop().unwrap_or_else(Reply::ok);
        let opened = replies.pop().unwrap_or_else(Reply::ok);
        if opened.condition != Condition::Ok {
            return match opened.code_word().as_str() {
                "NONEXISTENT" => Ok(None),
                _ => Err(opened.refusal("EXAMINE", Code::MailboxMissing)),
            };
        }
        match (fetched.condition, fetched.code_word().as_str()) {
            _ if is_other => Ok(None),
            (Condition::Ok, _) if raw.is_none() && is_undecodable => {
                Err(Error::new(Code::Protocol, format!("message {uid} cannot be read")))
            }
            (Condition::Ok, _) => Ok(raw.map(|raw| raw.cut_at(limit))),
            (_, "EXPUNGEISSUED") => Ok(None),
            _ => Err(fetched.refusal("UID FETCH", Code::Unavailable)),
        }
    }

    /// Whose the response is, where it is about a message, and the message where it is in it. `None` for what cannot be read.
    fn read_raw(&mut self) -> Option<(u32, Option<Raw>)> {
        let (fetched, whole) = self.frame.fetch().and_then(Fetched::read_whole)?;
        let uid = fetched.uid;
        let Some(whole) = whole else { return Some((uid, None)) };
        let bytes = match whole {
            Cow::Owned(bytes) => bytes,
            Cow::Borrowed(bytes) => {
                let place = self.frame.place(bytes);
                self.frame.take(place)
            }
        };
        Some((uid, Some(Raw { bytes, is_cut: fetched.is_cut })))
    }
}

impl Reply {
    /// Whether it says that UIDs are valid under another number than this one.
    fn names_other(&self, uid_validity: u32) -> bool {
        let mut words = self.code.as_deref().unwrap_or_default().split_ascii_whitespace();
        let names = words.next().is_some_and(|name| name.eq_ignore_ascii_case("UIDVALIDITY"));
        names && words.next().and_then(|number| number.parse().ok()) != Some(uid_validity)
    }
}

//! Actions at an IMAP server. A folder is opened and seen to be the one that was meant before anything is changed in it, and what
//! destroys is sent only after what it destroys was seen to be elsewhere or asked for.

use std::collections::HashMap;

use mail::imap::{Command, Event, Features, Flag, Flags, Folder, Imap, Items, Outcome, UidSet};
use mail::{Code, Error};
use shared::db::mailboxes::Bits;
use shared::db::visits::{Done, Place, Whereabouts};
use shared::message::{MessageChange, MessageId};

use super::{ALL_OR_NONE, MISPLACED, Step, Visit};

/// How often it is tried while other clients remove some of the messages meanwhile.
const TRIES: usize = 3;

pub(super) struct Session<'a> {
    imap: &'a mut Imap,
    features: Features,
    change: MessageChange,
    /// The server's folders, once they were asked for.
    folders: Option<Vec<Folder>>,
    /// How the connection failed.
    lost: Option<Error>,
}

/// What a server answered.
#[derive(Default)]
struct Answers {
    outcomes: Vec<Outcome>,
    uid_validity: Option<u32>,
    flags: HashMap<u32, Flags>,
    /// By the UID of before: where it is now.
    copied: HashMap<u32, (u32, u32)>,
}

/// What became of messages that were to be moved.
struct Moved {
    /// By the UID of before: UIDVALIDITY and UID of now.
    copied: HashMap<u32, (u32, u32)>,
    /// All of them were moved, also those whose UID is not known.
    is_whole: bool,
    /// They are where they were as well.
    is_kept: bool,
}

impl Answers {
    fn check(&self, command: &str, otherwise: Code) -> Result<(), Error> {
        self.outcomes.iter().try_for_each(|outcome| outcome.check(command, otherwise))
    }

    /// Whether the server refused one of them because another client was quicker, and tells of nothing that it has moved.
    fn is_overtaken(&self) -> bool {
        self.copied.is_empty() && self.outcomes.iter().any(Outcome::is_overtaken)
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(imap: &'a mut Imap, features: Features, change: MessageChange) -> Self {
        Self { imap, features, change, folders: None, lost: None }
    }

    /// Does what is wanted to messages of one folder.
    ///
    /// # Errors
    /// The server refuses it, or the connection fails.
    pub(super) async fn carry_out(
        &mut self,
        folder: &Place,
        step: Step<'_>,
        messages: &[&Whereabouts],
        visit: &mut Visit,
    ) -> Result<(), Error> {
        let uids: UidSet = messages.iter().filter_map(|message| message.uid).collect();
        for _ in 0..TRIES {
            let Some(flags) = self.open(folder, &uids).await? else { break };
            if self.carry_out_there(step, messages, flags, visit).await? {
                return Ok(());
            }
        }
        visit.is_due = true;
        let misplaced = |message: &&Whereabouts| (message.id, shared::Error::Conflict(MISPLACED.into()));
        visit.failed.extend(messages.iter().map(misplaced));
        Ok(())
    }

    /// The same in the open folder, to those of which it has these flags. False where another client removed some of them
    /// meanwhile, so that none is where it should be.
    async fn carry_out_there(
        &mut self,
        step: Step<'_>,
        messages: &[&Whereabouts],
        flags: HashMap<u32, Flags>,
        visit: &mut Visit,
    ) -> Result<bool, Error> {
        let Some(flags) = self.set_flags(flags).await? else { return Ok(false) };
        let mut done: Vec<(u32, Done)> = Vec::new();
        for message in messages {
            let there = message.uid.and_then(|uid| Some((uid, *flags.get(&uid)?)));
            match there {
                Some((uid, flags)) => {
                    done.push((uid, Done { bits: Some(bits(flags)), ..Done::nothing(message) }));
                }
                // Another client has moved or destroyed it.
                None => visit.is_due = true,
            }
        }
        if done.is_empty() {
            return Ok(true);
        }
        let uids: UidSet = done.iter().map(|(uid, _)| *uid).collect();
        match step {
            Step::Stay => {}
            Step::Move(to) => {
                let Some(moved) = self.relocate(&uids, to).await? else { return Ok(false) };
                for (uid, done) in &mut done {
                    done.to_uid = moved.copied.get(uid).copied();
                    if moved.is_whole || done.to_uid.is_some() {
                        (done.to, done.is_kept) = (Some(to.id), moved.is_kept);
                    }
                }
                fail_rest(&mut done, visit, |done| done.to.is_some());
            }
            Step::Unpack { into, home } => {
                let Some(moved) = self.relocate(&uids, into).await? else { return Ok(false) };
                for (uid, done) in &mut done {
                    if moved.is_whole || moved.copied.contains_key(uid) {
                        (done.to, done.added, done.is_kept) = (Some(home.id), Some(into.id), moved.is_kept);
                    }
                }
                fail_rest(&mut done, visit, |done| done.to.is_some());
            }
            Step::Relabel { added, removed } => {
                for (place, is_set) in [(added, true), (removed, false)] {
                    let Some(place) = place else { continue };
                    let label = self.label(place).await?;
                    let answers = self.talk(vec![Command::Label { uids: uids.clone(), label, is_set }]).await?;
                    if answers.is_overtaken() {
                        return Ok(false);
                    }
                    answers.check("UID STORE", Code::Unavailable)?;
                }
                for (_, done) in &mut done {
                    (done.added, done.removed) = (added.map(|place| place.id), removed.map(|place| place.id));
                }
            }
            Step::Destroy | Step::Discard(_) if !self.features.uidplus => {
                let conflict = |done: &Done| (done.id, shared::Error::Conflict(ALL_OR_NONE.into()));
                visit.failed.extend(done.drain(..).map(|(_, done)| conflict(&done)));
            }
            Step::Destroy => self.destroy(&uids, &mut done).await?,
            Step::Discard(trash) => {
                let Some(moved) = self.relocate(&uids, trash).await? else { return Ok(false) };
                let there: UidSet = moved.copied.values().map(|(_, uid)| *uid).collect();
                if there.len() != uids.len() {
                    return Err(Error::new(Code::Protocol, "a server with labels that does not tell UIDs"));
                }
                let validity = moved.copied.values().next().map(|(validity, _)| *validity);
                let trash = Place { uid_validity: validity, ..trash.clone() };
                self.open(&trash, &there)
                    .await?
                    .ok_or_else(|| Error::new(Code::Protocol, "the trash is another one"))?;
                self.destroy(&there, &mut done).await?;
            }
        }
        visit.done.extend(done.into_iter().map(|(_, done)| done));
        Ok(true)
    }

    /// Opens a folder to write, and asks for the flags of these messages: of those that are there. `None` where the folder is
    /// gone, or its UIDs are others by now.
    async fn open(&mut self, folder: &Place, uids: &UidSet) -> Result<Option<HashMap<u32, Flags>>, Error> {
        let answers = self.insist(&[Command::Select { mailbox: folder.wire_name.clone() }, flags_of(uids)]).await?;
        if let Some(Outcome::No { code: Some(code), .. }) = answers.outcomes.first()
            && code == "NONEXISTENT"
        {
            return Ok(None);
        }
        let mut outcomes = answers.outcomes.iter();
        outcomes.next().map_or(Ok(()), |outcome| outcome.check("SELECT", Code::MailboxMissing))?;
        outcomes.try_for_each(|outcome| outcome.check("UID FETCH", Code::Unavailable))?;
        let is_same =
            folder.uid_validity.is_some() && answers.uid_validity.is_none_or(|of| folder.uid_validity == Some(of));
        let mut flags = answers.flags;
        flags.retain(|uid, _| uids.contains(*uid));
        Ok(is_same.then_some(flags))
    }

    /// Sets those flags that are not as they are wanted, and returns all as they are then. `None` where some messages have gone
    /// meanwhile.
    async fn set_flags(&mut self, flags: HashMap<u32, Flags>) -> Result<Option<HashMap<u32, Flags>>, Error> {
        let wanted = [
            (Flag::Seen, self.change.is_read, (|flags| flags.seen) as fn(&Flags) -> bool),
            (Flag::Flagged, self.change.is_flagged, |flags| flags.flagged),
            (Flag::Answered, self.change.is_answered, |flags| flags.answered),
        ];
        let mut commands = Vec::new();
        for (flag, is_set, has) in wanted {
            let Some(is_set) = is_set else { continue };
            let uids: UidSet = flags.iter().filter(|(_, flags)| has(flags) != is_set).map(|(uid, _)| *uid).collect();
            if !uids.is_empty() {
                commands.push(Command::Store { uids, flag, is_set });
            }
        }
        if commands.is_empty() {
            return Ok(Some(flags));
        }
        let uids: UidSet = flags.keys().copied().collect();
        commands.push(flags_of(&uids));
        let mut answers = self.talk(commands).await?;
        if answers.is_overtaken() {
            return Ok(None);
        }
        answers.check("UID STORE", Code::Unavailable)?;
        answers.flags.retain(|uid, _| uids.contains(*uid));
        Ok(Some(answers.flags))
    }

    /// Moves messages of the open folder. `None` where some of them have gone meanwhile, and none was moved.
    async fn relocate(&mut self, uids: &UidSet, to: &Place) -> Result<Option<Moved>, Error> {
        let (uids, mailbox) = (uids.clone(), to.wire_name.clone());
        let refused = |outcome: &Outcome| match outcome {
            Outcome::No { code: Some(code), .. } if code == "TRYCREATE" => Code::MailboxMissing,
            _ => Code::Unavailable,
        };
        let command = match self.features.move_ {
            true => Command::Move { uids: uids.clone(), mailbox },
            false => Command::Copy { uids: uids.clone(), mailbox },
        };
        let answers = self.talk(vec![command]).await?;
        // Who does not tell what was moved may have moved some of them.
        if answers.is_overtaken() && (self.features.uidplus || !self.features.move_) {
            return Ok(None);
        }
        let outcome = answers.outcomes.first().unwrap_or(&Outcome::Ok);
        if self.features.move_ {
            let is_whole = *outcome == Outcome::Ok;
            // A server may have moved some of them before it could not go on.
            if answers.copied.is_empty() {
                outcome.check("UID MOVE", refused(outcome))?;
            }
            return Ok(Some(Moved { copied: answers.copied, is_whole, is_kept: false }));
        }
        outcome.check("UID COPY", refused(outcome))?;
        self.mark_deleted(&uids).await?;
        Ok(Some(Moved { copied: answers.copied, is_whole: true, is_kept: !self.features.uidplus }))
    }

    /// Marks messages of the open folder as deleted, and has the server remove them where it can remove these alone (UIDPLUS).
    /// A plain EXPUNGE is never sent: it would take along what other clients mark. So they stay until whoever cleans up there
    /// takes them away.
    async fn mark_deleted(&mut self, uids: &UidSet) -> Result<(), Error> {
        let mut commands = vec![Command::Store { uids: uids.clone(), flag: Flag::Deleted, is_set: true }];
        if self.features.uidplus {
            commands.push(Command::Expunge { uids: uids.clone() });
        }
        self.insist(&commands).await?.check("UID STORE or UID EXPUNGE", Code::Unavailable)
    }

    async fn destroy(&mut self, uids: &UidSet, done: &mut [(u32, Done)]) -> Result<(), Error> {
        self.mark_deleted(uids).await?;
        done.iter_mut().for_each(|(_, done)| done.is_destroyed = true);
        Ok(())
    }

    /// What a label is called among those of a message.
    async fn label(&mut self, place: &Place) -> Result<Vec<u8>, Error> {
        if self.folders.is_none() {
            self.folders = Some(self.imap.list(&self.features).await?);
        }
        let listed = self.folders.iter().flatten().find(|folder| folder.wire == place.wire_name);
        let listed = listed.ok_or_else(|| Error::new(Code::MailboxMissing, "a label that is not listed"))?;
        Ok(listed.label.map_or_else(|| listed.wire.clone(), |label| label.as_bytes().to_vec()))
    }

    /// Sends commands that mean the same when they are sent again, until no other client is quicker.
    async fn insist(&mut self, commands: &[Command]) -> Result<Answers, Error> {
        let mut answers = self.talk(commands.to_vec()).await?;
        for _ in 1..TRIES {
            if !answers.is_overtaken() {
                break;
            }
            answers = self.talk(commands.to_vec()).await?;
        }
        Ok(answers)
    }

    /// Sends commands, and collects what comes back.
    async fn talk(&mut self, commands: Vec<Command>) -> Result<Answers, Error> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let mut talk = self.imap.converse(&self.features, commands);
        let mut answers = Answers::default();
        loop {
            let event = match talk.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(answers),
                Err(error) => {
                    self.lost = Some(error.clone());
                    return Err(error);
                }
            };
            match event {
                Event::UidValidity(number) => answers.uid_validity = Some(number),
                Event::Fetched(fetched) => {
                    answers.flags.extend(fetched.flags.map(|flags| (fetched.uid, flags)));
                }
                Event::Copied { uid_validity, uids } => {
                    answers.copied.extend(uids.into_iter().map(|(from, to)| (from, (uid_validity, to))));
                }
                Event::Done { outcome, .. } => answers.outcomes.push(outcome),
                _ => {}
            }
        }
    }
}

/// Asks for the flags of messages, and with them which are there.
fn flags_of(uids: &UidSet) -> Command {
    Command::Fetch { uids: uids.clone(), items: Items::Flags, changed_since: None, vanished: false }
}

/// The flags that are changed from here.
fn bits(flags: Flags) -> Bits {
    let flags = [(flags.seen, Bits::READ), (flags.flagged, Bits::FLAGGED), (flags.answered, Bits::ANSWERED)];
    Bits(flags.into_iter().filter(|(is_set, _)| *is_set).fold(0, |bits, (_, bit)| bits | bit))
}

/// What the server stopped before stays where it is.
fn fail_rest(done: &mut Vec<(u32, Done)>, visit: &mut Visit, is_done: impl Fn(&Done) -> bool) {
    let refused = Error::new(Code::Unavailable, "UID MOVE stopped half way");
    let mut failed: Vec<MessageId> = Vec::new();
    done.retain(|(_, done)| {
        let is_done = is_done(done);
        if !is_done {
            failed.push(done.id);
        }
        is_done
    });
    let error =
        |id| (id, shared::Error::MailServer { code: refused.code.as_str(), message: refused.message.clone().into() });
    visit.failed.extend(failed.into_iter().map(error));
}

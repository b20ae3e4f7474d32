//! Many commands at once, and what comes back.

use std::num::NonZeroU32;
use std::vec;

use super::fetch::Fetched;
use super::frame::{Cursor, Frame};
use super::name::quoted;
use super::pipeline::{Pipeline, Prepared, Step};
use super::{Condition, Features, Imap, Reply, UidSet, refusal};
use crate::error::{Code, Error, clean, cut};

/// Of a message's body for [`Items::Arrivals`]: two hundred characters are shown of it, behind the head of a part, and
/// of an HTML page with its styles.
pub const PREVIEW_BYTES: usize = 4096;

/// What a set of UIDs may be written in, so that a command is not too long for any server: the shortest limit that is
/// known is 8,000 bytes (RFC 7162 section 4 and RFC 2683 section 3.2.1.5 ask for it). For [`UidSet::split`].
pub const MAX_SET_BYTES: usize = 7500;

/// Messages that one command copies: what fits a set of so many bytes, and more.
const MAX_COPIED: usize = 10_000;

/// All fields that a list of messages shows, and what is needed to find parts and answers.
const FIELDS: &str = "DATE FROM TO CC BCC REPLY-TO SUBJECT MESSAGE-ID IN-REPLY-TO REFERENCES CONTENT-TYPE \
                      CONTENT-TRANSFER-ENCODING";

/// What is asked of the server. Reading changes nothing there; what does change something is to be sent once it is known
/// that the folder is open and its UIDs are those that were meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// EXAMINE: opens a folder to read only, which leaves `\Recent` alone as well. Where it fails, no folder is open,
    /// and what follows fails or, at servers that do not keep to the rule, answers for the folder of before.
    Examine {
        /// [`Folder::wire`](super::Folder::wire).
        mailbox: Vec<u8>,
        /// Asks for what vanished or changed since; needs [`Features::qresync`], and is left out without it.
        resync: Option<Resync>,
        /// Asks for numbers of modification; needs [`Features::condstore`], and is left out without it.
        condstore: bool,
    },
    /// UID FETCH.
    Fetch {
        /// Which messages. Servers refuse what is too long: see [`UidSet::split`] and [`MAX_SET_BYTES`]. Without any,
        /// nothing is sent, and the answer is OK.
        uids: UidSet,
        /// What of them.
        items: Items,
        /// Only those that changed since this number of modification; needs [`Features::condstore`].
        changed_since: Option<u64>,
        /// Also which of them vanished since then; needs [`Features::qresync`].
        vanished: bool,
    },
    /// UID SEARCH ALL: which messages there are.
    SearchAll,
    /// SELECT: opens a folder to write. As for [`Command::Examine`].
    Select {
        /// [`Folder::wire`](super::Folder::wire).
        mailbox: Vec<u8>,
    },
    /// UID STORE: sets a flag of messages, or takes it away.
    Store {
        /// As for a fetch.
        uids: UidSet,
        /// Which.
        flag: Flag,
        /// Whether they are to have it.
        is_set: bool,
    },
    /// UID STORE of one of Gmail's labels; needs [`Features::gmail`].
    Label {
        /// As for a fetch.
        uids: UidSet,
        /// [`Folder::label`](super::Folder::label), or [`Folder::wire`](super::Folder::wire) where there is none.
        label: Vec<u8>,
        /// Whether they are to have it.
        is_set: bool,
    },
    /// UID MOVE; needs [`Features::move_`].
    Move {
        /// As for a fetch.
        uids: UidSet,
        /// The folder where they go.
        mailbox: Vec<u8>,
    },
    /// UID COPY.
    Copy {
        /// As for a fetch.
        uids: UidSet,
        /// The folder where they go as well.
        mailbox: Vec<u8>,
    },
    /// UID EXPUNGE: destroys those of these messages that are marked as deleted; needs [`Features::uidplus`].
    Expunge {
        /// As for a fetch.
        uids: UidSet,
    },
}

/// A flag that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flag {
    /// It was read.
    Seen,
    /// It is marked as important.
    Flagged,
    /// It was answered.
    Answered,
    /// It is to be expunged.
    Deleted,
}

impl Flag {
    fn name(self) -> &'static str {
        match self {
            Self::Seen => "\\Seen",
            Self::Flagged => "\\Flagged",
            Self::Answered => "\\Answered",
            Self::Deleted => "\\Deleted",
        }
    }
}

/// What is known of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resync {
    /// The UIDVALIDITY of then. With another one the server tells nothing of what vanished.
    pub uid_validity: u32,
    /// The HIGHESTMODSEQ of then.
    pub modseq: u64,
}

/// What is fetched of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Items {
    /// Flags, where it can be when they changed, and Gmail's labels.
    Flags,
    /// Date and size, and ids where there are such: what tells messages apart without reading them.
    Marks,
    /// All of these and the header fields of a list of messages.
    Headers,
    /// The same and the first [`PREVIEW_BYTES`] of the body.
    Arrivals,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// How many messages the folder has.
    Exists(u32),
    /// What has changed when UIDs mean other messages.
    UidValidity(u32),
    /// The lowest UID that the next message can get.
    UidNext(u32),
    /// The number of the last modification in the folder, or at the end of a command.
    HighestModseq(u64),
    /// The folder does not count modifications.
    NoModseq,
    /// The folder does not keep UIDs from one time to the next.
    UidNotSticky,
    /// What came before it was about the folder that was open until then (RFC 7162 section 3.2.11).
    Closed,
    /// These messages are gone; `earlier`: before this folder was opened.
    Vanished {
        /// Which. May have many that never were, and be `1:4294967295`.
        uids: UidSet,
        /// Whether it was asked for.
        earlier: bool,
    },
    /// A message is gone, by its place in the folder.
    Expunged(u32),
    /// A message, whether it was asked for or not.
    Fetched(Fetched),
    /// A response that matters and cannot be read; of a message, with its UID where that can be read. Such a message is
    /// there, and what was asked for is not known. A FETCH without a UID is one: it tells of nobody knows whom.
    Undecodable {
        /// The message.
        uid: Option<u32>,
    },
    /// Messages that a search found. May come in several pieces; one that found nothing has an empty set, and where
    /// none came at all nothing is known.
    Found(UidSet),
    /// Messages were copied or moved to another folder.
    Copied {
        /// Of the other folder.
        uid_validity: u32,
        /// The UIDs of before, and those that they have there.
        uids: Vec<(u32, u32)>,
    },
    /// A command ended.
    Done {
        /// Its place among the commands, one after the other.
        command: usize,
        /// How.
        outcome: Outcome,
    },
}

/// How a command ended. What was said before a NO or BAD is true, but not all there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Ok,
    /// It was not.
    No {
        /// The response code in capitals, without arguments.
        code: Option<String>,
        /// The server's words, for the log.
        text: String,
    },
    /// The server does not know it, or does not like how it is written.
    Bad {
        /// The server's words, for the log.
        text: String,
    },
}

impl Outcome {
    /// Whether it was carried out.
    ///
    /// # Errors
    /// `otherwise`, or [`Code::Unavailable`] where the server asks to come later.
    pub fn check(&self, command: &str, otherwise: Code) -> Result<(), Error> {
        match self {
            Self::Ok => Ok(()),
            Self::No { code, text } => Err(refusal(command, code.as_deref().unwrap_or_default(), text, otherwise)),
            Self::Bad { text } => Err(refusal(command, "", text, otherwise)),
        }
    }

    /// Whether it was refused because some of its messages have gone since the server last said what is there (RFC 5530 section 3).
    pub fn is_overtaken(&self) -> bool {
        matches!(self, Self::No { code: Some(code), .. } if code == "EXPUNGEISSUED")
    }
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        let code = Some(reply.code_word()).filter(|code| !code.is_empty());
        let text = cut(clean(&reply.text));
        match reply.condition {
            Condition::Ok => Self::Ok,
            Condition::Bad => Self::Bad { text },
            _ => Self::No { code, text },
        }
    }
}

impl Reply {
    /// What its code tells.
    pub(super) fn event(&self) -> Option<Event> {
        self.code.as_deref().and_then(read_code)
    }
}

impl Imap {
    /// Sends these commands one behind the other, without waiting for answers, and tells what comes back. Begins with
    /// ENABLE where that is due and [`Imap::list`] did not come before.
    ///
    /// Read it to its end: after a conversation that was left before, the connection is good for nothing.
    pub fn converse<'a>(&'a mut self, features: &Features, commands: Vec<Command>) -> Conversation<'a> {
        let enable = self.enable(features);
        let ahead = usize::from(enable.is_some());
        let commands = Commands { enable, commands: commands.into_iter(), features: *features };
        let pipeline = Pipeline::new(self, commands);
        Conversation { pipeline, imap: self, resyncs: features.qresync, ahead, done: 0, pending: None }
    }
}

/// Commands that are on their way, and their answers.
#[derive(Debug)]
pub struct Conversation<'a> {
    imap: &'a mut Imap,
    pipeline: Pipeline<Commands>,
    /// Whether the server may say VANISHED: only who has switched QRESYNC on is told so (RFC 7162 section 3.2.10).
    resyncs: bool,
    /// Commands of our own before those that were given.
    ahead: usize,
    done: usize,
    pending: Option<Event>,
}

impl Conversation<'_> {
    /// What comes next; `None` after the end of the last command. Commands end in the order in which they were given, and
    /// responses come before the end of the command that they answer. They may come before that of one before it, too: a
    /// server may work off several UID FETCH and UID SEARCH together, as Dovecot does. Others, such as what opens a folder,
    /// are never among those.
    ///
    /// # Errors
    /// Those of the connection; [`Code::Unavailable`](crate::Code::Unavailable) when the server says goodbye,
    /// [`Code::Protocol`](crate::Code::Protocol) for what is no response or one to no command of ours, or exceeds what
    /// a response may have. After an error, and after a call that was dropped before it was done, there is no other
    /// answer than an error.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.pending.take() {
                return Ok(Some(event));
            }
            let event = match self.pipeline.step(self.imap).await? {
                Step::Data => {
                    read(&self.imap.frame).filter(|event| self.resyncs || !matches!(event, Event::Vanished { .. }))
                }
                Step::Status(reply) => reply.event(),
                Step::Done(reply) => {
                    let told = reply.event();
                    let command = self.done.checked_sub(self.ahead);
                    self.done += 1;
                    self.pending = command.map(|command| Event::Done { command, outcome: reply.into() });
                    told
                }
                Step::End => return Ok(None),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

/// Writes each command when it is its turn.
#[derive(Debug)]
struct Commands {
    enable: Option<Vec<u8>>,
    commands: vec::IntoIter<Command>,
    features: Features,
}

impl Iterator for Commands {
    type Item = Prepared;

    fn next(&mut self) -> Option<Prepared> {
        match self.enable.take() {
            Some(enable) => Some(Prepared::Line(enable)),
            None => self.commands.next().map(|command| write(&command, &self.features)),
        }
    }
}

pub(super) fn write(command: &Command, features: &Features) -> Prepared {
    let line = match command {
        Command::Examine { mailbox, resync, condstore } => {
            let Some(name) = quoted(mailbox) else {
                return Prepared::Answered(Reply::no("a name that cannot be sent"));
            };
            let parameter = match resync.filter(|_| features.qresync) {
                Some(Resync { uid_validity, modseq }) => format!(" (QRESYNC ({uid_validity} {modseq}))"),
                None if *condstore && features.condstore => " (CONDSTORE)".to_owned(),
                None => String::new(),
            };
            [b"EXAMINE ".as_slice(), &name, parameter.as_bytes()].concat()
        }
        Command::Fetch { uids, .. } if uids.is_empty() => return Prepared::Answered(Reply::ok()),
        Command::Fetch { uids, items, changed_since, vanished } => {
            let since = match changed_since.filter(|_| features.condstore) {
                Some(modseq) if *vanished && features.qresync => format!(" (CHANGEDSINCE {modseq} VANISHED)"),
                Some(modseq) => format!(" (CHANGEDSINCE {modseq})"),
                None => String::new(),
            };
            format!("UID FETCH {uids} ({}){since}", item_names(*items, features)).into_bytes()
        }
        Command::SearchAll if features.esearch => b"UID SEARCH RETURN (ALL) ALL".to_vec(),
        Command::SearchAll => b"UID SEARCH ALL".to_vec(),
        Command::Select { mailbox } => return named(b"SELECT", mailbox),
        Command::Store { uids, .. }
        | Command::Label { uids, .. }
        | Command::Move { uids, .. }
        | Command::Copy { uids, .. }
        | Command::Expunge { uids }
            if uids.is_empty() =>
        {
            return Prepared::Answered(Reply::ok());
        }
        Command::Store { uids, flag, is_set } => {
            format!("UID STORE {uids} {}FLAGS.SILENT ({})", sign(*is_set), flag.name()).into_bytes()
        }
        Command::Label { uids, label, is_set } => {
            let label = match label.starts_with(b"\\") {
                true => label.clone(),
                false => match quoted(label) {
                    Some(label) => label,
                    None => return Prepared::Answered(Reply::no("a label that cannot be sent")),
                },
            };
            let command = format!("UID STORE {uids} {}X-GM-LABELS (", sign(*is_set));
            [command.as_bytes(), &label, b")"].concat()
        }
        Command::Move { uids, mailbox } => return named(format!("UID MOVE {uids}").as_bytes(), mailbox),
        Command::Copy { uids, mailbox } => return named(format!("UID COPY {uids}").as_bytes(), mailbox),
        Command::Expunge { uids } => format!("UID EXPUNGE {uids}").into_bytes(),
    };
    Prepared::Line(line)
}

fn sign(is_set: bool) -> char {
    if is_set { '+' } else { '-' }
}

/// A command about a folder.
fn named(command: &[u8], mailbox: &[u8]) -> Prepared {
    match quoted(mailbox) {
        Some(name) => Prepared::Line([command, b" ", &name].concat()),
        None => Prepared::Answered(Reply::no("a name that cannot be sent")),
    }
}

fn item_names(items: Items, features: &Features) -> String {
    let mut names = "UID".to_owned();
    if items != Items::Marks {
        names.push_str(" FLAGS");
        if features.condstore {
            names.push_str(" MODSEQ");
        }
        if features.gmail {
            names.push_str(" X-GM-LABELS");
        }
    }
    if items == Items::Flags {
        return names;
    }
    names.push_str(" INTERNALDATE RFC822.SIZE");
    if items != Items::Marks {
        names.push_str(" BODY.PEEK[HEADER.FIELDS (");
        names.push_str(FIELDS);
        names.push_str(")]");
    }
    if items == Items::Arrivals {
        names.push_str(&format!(" BODY.PEEK[TEXT]<0.{PREVIEW_BYTES}>"));
    }
    if features.object_id {
        names.push_str(" EMAILID THREADID");
    }
    if features.gmail {
        names.push_str(" X-GM-MSGID X-GM-THRID");
    }
    names
}

/// What a response with data tells. `None` for what does not matter here.
pub(super) fn read(frame: &Frame) -> Option<Event> {
    if let Some(fetch) = frame.fetch() {
        return Some(Fetched::read(fetch).map_or_else(|| Event::Undecodable { uid: frame.uid() }, Event::Fetched));
    }
    let mut data = frame.data()?;
    data.space();
    let number = data.clone().number();
    if number.is_some() {
        data.number();
        data.space();
    }
    let word = data.atom().to_ascii_uppercase();
    data.space();
    let event = match (word.as_slice(), number) {
        (b"EXISTS", Some(count)) => u32::try_from(count).ok().map(Event::Exists),
        (b"EXPUNGE", Some(place)) => u32::try_from(place).ok().map(Event::Expunged),
        (b"VANISHED", None) => read_vanished(data),
        (b"SEARCH", None) => read_search(data).map(Event::Found),
        (b"ESEARCH", None) => read_esearch(data).map(Event::Found),
        _ => return None,
    };
    Some(event.unwrap_or(Event::Undecodable { uid: None }))
}

fn read_vanished(mut data: Cursor<'_>) -> Option<Event> {
    let mut earlier = false;
    if data.peek() == Some(b'(') {
        data.list(|data| {
            earlier |= data.atom().eq_ignore_ascii_case(b"EARLIER");
            Some(())
        })?;
        data.space();
    }
    UidSet::read(data.rest().trim_ascii_end()).map(|uids| Event::Vanished { uids, earlier })
}

/// Numbers up to the end, or to what else a server knows about them.
fn read_search(mut data: Cursor<'_>) -> Option<UidSet> {
    let mut is_readable = true;
    let numbers = std::iter::from_fn(|| {
        data.space();
        if data.is_end() || data.peek() == Some(b'(') {
            return None;
        }
        let uid = data.uid();
        is_readable = uid.is_some();
        uid
    });
    let found = numbers.collect();
    is_readable.then_some(found)
}

fn read_esearch(mut data: Cursor<'_>) -> Option<UidSet> {
    let (mut found, mut are_uids) = (UidSet::new(), false);
    if data.peek() == Some(b'(') {
        data.skip()?;
        data.space();
    }
    while !data.is_end() {
        let name = data.atom();
        data.space();
        if name.eq_ignore_ascii_case(b"UID") {
            are_uids = true;
        } else if name.eq_ignore_ascii_case(b"ALL") {
            found = UidSet::read(data.atom())?;
        } else if name.is_empty() {
            return None;
        } else {
            data.skip()?;
        }
        data.space();
    }
    are_uids.then_some(found)
}

/// What a response code tells.
fn read_code(code: &str) -> Option<Event> {
    let (name, argument) = code.split_once(' ').unwrap_or((code, ""));
    let number = super::frame::number(argument.trim().as_bytes());
    let small = || number.and_then(|number| u32::try_from(number).ok());
    match name.to_ascii_uppercase().as_str() {
        "UIDVALIDITY" => small().map(Event::UidValidity),
        "UIDNEXT" => small().map(Event::UidNext),
        "HIGHESTMODSEQ" => number.map(Event::HighestModseq),
        "NOMODSEQ" => Some(Event::NoModseq),
        "UIDNOTSTICKY" => Some(Event::UidNotSticky),
        "CLOSED" => Some(Event::Closed),
        "COPYUID" => read_copied(argument),
        _ => None,
    }
}

/// A UIDVALIDITY and two sets, whose members belong together in the order in which they are written (RFC 4315 section 3).
fn read_copied(argument: &str) -> Option<Event> {
    let mut words = argument.split_ascii_whitespace();
    let uid_validity = words.next()?.parse::<NonZeroU32>().ok()?.get();
    let (from, to) = (listed(words.next()?)?, listed(words.next()?)?);
    let uids = from.len() == to.len();
    uids.then(|| Event::Copied { uid_validity, uids: from.into_iter().zip(to).collect() })
}

/// Each UID of a set, in the order in which it is written.
fn listed(set: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for range in set.split(',') {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        let (low, high) = (first.min(last), first.max(last));
        if low == 0 || (high - low) as usize >= MAX_COPIED.saturating_sub(all.len()) {
            return None;
        }
        all.extend(low..=high);
    }
    Some(all)
}

//! The folders of an account.

use std::collections::HashMap;

use super::fetch::read_id;
use super::frame::Cursor;
use super::name::{decoded, quoted};
use super::pipeline::{Pipeline, Prepared, Step};
use super::role::{self, Role};
use super::{Condition, Features, Imap, Reply};
use crate::error::{Code, Error};

/// Folders of an account. The largest that are known have some thousands.
pub const MAX_FOLDERS: usize = 10_000;

/// A folder's name. Servers' own limits are a quarter of it.
const MAX_NAME_BYTES: usize = 1024;

/// All names together, those with counts and those in the list. Thousands of folders have some 100 KiB.
const MAX_NAMES_BYTES: usize = 4 * 1024 * 1024;

/// A folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The name as the server writes it, to be sent back: what a [`Command`](super::Command) takes, and what a folder
    /// is known by.
    pub wire: Vec<u8>,
    /// The name to be shown, with the delimiter in it. The inbox is `INBOX`, also at the begin of what is below it. Two
    /// folders may be shown alike.
    pub path: String,
    /// What separates a folder from what it is in; `None` where there are no folders in folders.
    pub delimiter: Option<char>,
    /// What it is for.
    pub role: Option<Role>,
    /// What Gmail calls it among a message's labels, where that is not its path.
    pub label: Option<&'static str>,
    /// Whether it can have messages.
    pub is_selectable: bool,
    /// Its counts; `None` where it cannot have messages, or the server does not tell.
    pub status: Option<Status>,
}

/// How a folder stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How many messages it has.
    pub messages: u32,
    /// The lowest unique identifier that the next message can get.
    pub uid_next: u32,
    /// What has changed when unique identifiers mean other messages.
    pub uid_validity: u32,
    /// How many messages are not read.
    pub unseen: u32,
    /// What grows with each change; `None` where the folder does not count them.
    pub highest_modseq: Option<u64>,
    /// What stays when the folder is renamed (RFC 8474).
    pub mailbox_id: Option<String>,
}

impl Imap {
    /// All folders with their counts, and switches on what [`Features`] need. One round trip where the server has
    /// LIST-STATUS; else, or where that fails, one for the list and one for the counts of all.
    ///
    /// What has a line break or NUL in its name, or a name of more than 1 KiB, is left out: it cannot be asked for.
    ///
    /// # Errors
    /// Those of the connection; [`Code::Unavailable`] where the server asks to come later. [`Code::Protocol`] where it
    /// refuses to list, where one of its folders cannot be read (it would look like one that is gone), or there are
    /// more than [`MAX_FOLDERS`] or more than 4 MiB of names.
    pub async fn list(&mut self, features: &Features) -> Result<Vec<Folder>, Error> {
        let mut listing = Listing::default();
        let returns = format!("STATUS {}", status_items(features));
        let special_use = if features.special_use { "SPECIAL-USE " } else { "" };
        let mut refused = None;
        if features.list_status {
            let command = format!("LIST \"\" \"*\" RETURN ({special_use}{returns})");
            match self.talk(features, vec![Prepared::Line(command.into_bytes())], &mut listing).await? {
                Reply { condition: Condition::Ok, .. } => {}
                reply => refused = Some(reply),
            }
        }
        if !features.list_status || refused.is_some() {
            listing = Listing::default();
            let options = if features.list_extended && features.special_use { " RETURN (SPECIAL-USE)" } else { "" };
            let command = format!("LIST \"\" \"*\"{options}");
            match self.talk(features, vec![Prepared::Line(command.into_bytes())], &mut listing).await? {
                Reply { condition: Condition::Ok, .. } => {}
                reply => return Err(reply.refusal("LIST", Code::Protocol)),
            }
            let selectable = listing.folders.iter().filter(|folder| folder.is_selectable);
            let names = selectable.filter_map(|folder| quoted(&folder.wire));
            let command =
                |name: Vec<u8>| [b"STATUS ".as_slice(), &name, b" ", status_items(features).as_bytes()].concat();
            let commands = names.map(|name| Prepared::Line(command(name))).collect();
            // A folder that is refused has no counts, and that is all.
            self.talk(features, commands, &mut listing).await?;
        }
        Ok(listing.finish())
    }

    /// Sends commands and collects what is said of folders. The last reply.
    async fn talk(
        &mut self,
        features: &Features,
        commands: Vec<Prepared>,
        listing: &mut Listing,
    ) -> Result<Reply, Error> {
        let enable = self.enable(features).map(Prepared::Line);
        let mut pipeline = Pipeline::new(self, enable.into_iter().chain(commands));
        let mut last = Reply::ok();
        loop {
            match pipeline.step(self).await? {
                Step::Data => {
                    if let Some(data) = self.frame.data() {
                        listing.read(data)?;
                    }
                }
                Step::Status(_) => {}
                Step::Done(reply) => last = reply,
                Step::End => return Ok(last),
            }
        }
    }
}

fn status_items(features: &Features) -> String {
    let modseq = if features.condstore { " HIGHESTMODSEQ" } else { "" };
    let id = if features.object_id { " MAILBOXID" } else { "" };
    format!("(MESSAGES UIDNEXT UIDVALIDITY UNSEEN{modseq}{id})")
}

/// What was said so far.
#[derive(Default)]
struct Listing {
    folders: Vec<Folder>,
    statuses: HashMap<Vec<u8>, Status>,
    name_bytes: usize,
}

impl Listing {
    fn read(&mut self, mut data: Cursor<'_>) -> Result<(), Error> {
        data.space();
        let word = data.atom();
        if word.eq_ignore_ascii_case(b"LIST") {
            let undecodable = || Error::new(Code::Protocol, "a folder that cannot be read");
            let folder = read_folder(data).ok_or_else(undecodable)?;
            self.count(self.folders.len(), &folder.wire)?;
            let can_be_asked_for = (1..=MAX_NAME_BYTES).contains(&folder.wire.len()) && quoted(&folder.wire).is_some();
            if can_be_asked_for {
                self.folders.push(folder);
            }
        } else if word.eq_ignore_ascii_case(b"STATUS") {
            // One that cannot be read tells nothing, which is what there is without it.
            if let Some((name, status)) = read_status(data) {
                self.count(self.statuses.len(), &name)?;
                self.statuses.insert(key(&name), status);
            }
        }
        Ok(())
    }

    fn count(&mut self, known: usize, name: &[u8]) -> Result<(), Error> {
        self.name_bytes += name.len();
        if known == MAX_FOLDERS || self.name_bytes > MAX_NAMES_BYTES {
            return Err(Error::new(Code::Protocol, format!("more than {MAX_FOLDERS} folders, or too long names")));
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<Folder> {
        // Twice the same is once.
        let mut known = HashMap::new();
        self.folders.retain(|folder| known.insert(key(&folder.wire), ()).is_none());
        for folder in &mut self.folders {
            folder.status = self.statuses.remove(&key(&folder.wire)).filter(|_| folder.is_selectable);
        }
        role::assign(&mut self.folders);
        self.folders
    }
}

/// Under what a name is looked up: the inbox is the same in any letters.
fn key(name: &[u8]) -> Vec<u8> {
    if name.eq_ignore_ascii_case(b"INBOX") { b"INBOX".to_vec() } else { name.to_vec() }
}

/// What follows `LIST`.
fn read_folder(mut cursor: Cursor<'_>) -> Option<Folder> {
    cursor.space();
    let (mut is_selectable, mut role, mut label) = (true, None, None);
    cursor.list(|cursor| {
        let attribute = cursor.string()?.unwrap_or_default();
        if attribute.eq_ignore_ascii_case(b"\\Noselect") || attribute.eq_ignore_ascii_case(b"\\NonExistent") {
            is_selectable = false;
        }
        role = role.or(Role::of_attribute(&attribute));
        label = label.or(role::label(&attribute));
        Some(())
    })?;
    cursor.space();
    let delimiter = cursor.string()?.and_then(|text| String::from_utf8_lossy(&text).chars().next());
    // No name that can be asked for has one of these in it, and no text of the database NUL.
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_control());
    cursor.space();
    let wire = read_name(&mut cursor)?;
    let mut path = decoded(&wire);
    let (top, rest) = delimiter.and_then(|delimiter| path.split_once(delimiter)).unwrap_or((&path, ""));
    if top.eq_ignore_ascii_case("INBOX") {
        let start = path.len() - if top.len() == path.len() { 0 } else { rest.len() + delimiter?.len_utf8() };
        path.replace_range(..start, "INBOX");
    }
    if path == "INBOX" {
        label = Some("\\Inbox");
    }
    Some(Folder { wire, path, delimiter, role: role.filter(|_| is_selectable), label, is_selectable, status: None })
}

/// A string, or what stands there unquoted: some servers leave a name with spaces so. Extended data may follow.
fn read_name(cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    if let Some(b'"' | b'{' | b'~') = cursor.peek() {
        let mut string = cursor.clone();
        let name = string.string()?.map(|name| name.into_owned());
        if name.is_some() {
            *cursor = string;
            return name;
        }
    }
    let rest = cursor.rest();
    let end = rest.windows(3).position(|window| window == b" (\"").unwrap_or(rest.len());
    Some(rest[..end].trim_ascii().to_vec()).filter(|name| !name.is_empty())
}

/// What follows `STATUS`. `None` where something of it is missing.
fn read_status(mut cursor: Cursor<'_>) -> Option<(Vec<u8>, Status)> {
    cursor.space();
    let name = match cursor.peek()? {
        b'"' | b'{' | b'~' => cursor.string()??.into_owned(),
        _ => {
            // Unquoted, and with spaces in it at some servers.
            let rest = cursor.rest();
            let end = rest.windows(2).position(|window| window == b" (")?;
            let name = rest[..end].trim_ascii().to_vec();
            cursor.advance(end);
            name
        }
    };
    cursor.space();
    let (mut messages, mut uid_next, mut uid_validity, mut unseen) = (None, None, None, None);
    let (mut highest_modseq, mut mailbox_id) = (None, None);
    if cursor.peek() != Some(b'(') {
        return None;
    }
    cursor.list(|cursor| {
        let item = cursor.atom().to_ascii_uppercase();
        cursor.space();
        let count = match item.as_slice() {
            b"MESSAGES" => &mut messages,
            b"UIDNEXT" => &mut uid_next,
            b"UIDVALIDITY" => &mut uid_validity,
            b"UNSEEN" => &mut unseen,
            b"HIGHESTMODSEQ" => {
                highest_modseq = Some(cursor.number()?).filter(|modseq| *modseq != 0);
                return Some(());
            }
            b"MAILBOXID" => {
                mailbox_id = read_id(cursor)?;
                return Some(());
            }
            b"" => return None,
            _ => return cursor.skip(),
        };
        *count = Some(u32::try_from(cursor.number()?).ok()?);
        Some(())
    })?;
    let (messages, uid_next, uid_validity, unseen) = (messages?, uid_next?, uid_validity?, unseen?);
    Some((name, Status { messages, uid_next, uid_validity, unseen, highest_modseq, mailbox_id }))
}

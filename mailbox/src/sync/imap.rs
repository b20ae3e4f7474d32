//! A mailbox at an IMAP server: what the plan says is asked for, and what comes is stored.
//!
//! Commands are pipelined. While PostgreSQL stores a batch, the next is read, and the last of one flight of commands is stored
//! while the first of the next comes: a batch has what came of all folders.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mail::imap::{
    Command, Conversation, Event, Features, Fetched, Folder as Listed, Imap, Items, Outcome, Resync, Role, Status,
    UidPieces, UidSet,
};
use shared::account::AccountId;
use shared::db::Db;
use shared::db::mailboxes::{
    self, Batch, Cursor, Destroyed, Folder, Fresh, Label, MOST_GONE, Mailbox, Mark, NewMessage, Suspicion,
};
use uuid::Uuid;

use super::message::{self, bits};
use super::plan::{self, Changes, Flags, Look};
use super::suspects::{self, Shown};
use super::{ALL_UIDS, DOUBT_PATIENCE, Pass, Stop, multirange, now_ms, uid_set};

/// What is stored at once: 1,000 messages, some 700 KB; or the flags of 5,000; or 20,000 labels, half as many more where one
/// message has them. Here in the smallest of these.
const BATCH: usize = 1000 * MESSAGE_WEIGHT;
/// What a slow server says is stored so often while it comes, however little that is.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// What is usual.
const MESSAGE_BYTES: usize = 1024;
const MESSAGE_WEIGHT: usize = 5 * FLAG_WEIGHT;
const FLAG_WEIGHT: usize = 4 * LABEL_WEIGHT;
const LABEL_WEIGHT: usize = 1;
/// What a folder is asked for first, and with the beginning of its texts.
const NEWEST: u64 = 200;
/// Messages that one command asks for: what is looked at with care when a session breaks.
const PIECE: u64 = 500;
/// Where a folder has more to tell than these, memory is taken for a batch at once.
const FEW: usize = 32;
/// Where a folder has more messages than these, and all of their flags are to be compared, that comes last, for as long as the turn
/// lasts: what is new does not wait for it.
const LARGE: i32 = 20_000;
/// The first piece of that, in UIDs: what people look at.
const LARGE_PIECE: u32 = 1_000;
/// Of a command's UIDs. Servers take lines of 8,000 bytes.
const COMMAND_BYTES: usize = 7_000;
/// Messages of a folder. Whoever says that there are more has us hold their UIDs, and ask for each: no mailbox has them.
const MOST_MESSAGES: u64 = 1_000_000;
/// Of a list of ranges that goes to the database at once.
const MULTIRANGE_BYTES: usize = 200_000;

/// A folder, and what this session has found out.
struct Work {
    here: Folder,
    there: Status,
    look: Look,
    /// What the server has and we have not, of what was there before.
    missing: UidSet,
    /// The server refused something: what did not come is not taken for absent, and how far it is stays as it was.
    failed: bool,
    /// All flags were compared.
    checked: bool,
    /// The server tells which flags have changed since the last time. Otherwise that is known when all were compared.
    tells_changes: bool,
    /// All UIDs were compared.
    compared: bool,
    /// What was asked for and did not come.
    unanswered: UidSet,
    /// What did not come when an earlier session broke.
    suspects: UidSet,
    /// Commands that have not ended.
    waits: usize,
    /// How far it is was stored.
    is_concluded: bool,
    /// How many messages had a UID when the session began.
    stored_before: i32,
    /// How many had none.
    orphans_before: i32,
    /// What came of it in this session.
    shown: Shown,
}

impl Work {
    fn new(here: Folder, there: Status, failed: bool) -> Self {
        Self {
            stored_before: here.stored,
            orphans_before: here.orphans,
            here,
            there,
            look: Look::Nothing,
            missing: UidSet::new(),
            failed,
            checked: false,
            tells_changes: false,
            compared: false,
            unanswered: UidSet::new(),
            suspects: UidSet::new(),
            waits: 0,
            is_concluded: false,
            shown: Shown::default(),
        }
    }

    /// The UIDs that messages here may have.
    fn known(&self) -> UidSet {
        below(self.here.uid_next)
    }

    /// The UIDs that messages there may have.
    fn named(&self) -> UidSet {
        below(self.there.uid_next)
    }

    /// Takes what is suspected out of what is missing. What is proved is not fetched again, only looked for.
    fn take_suspects(&mut self) {
        let noted = self.here.suspects.as_deref().and_then(|noted| noted.parse::<UidSet>().ok()).unwrap_or_default();
        let suspects = noted.intersection(&self.missing);
        self.missing = self.missing.difference(&suspects);
        match suspects::is_proved(&self.here) {
            true => self.unanswered = self.unanswered.union(&suspects),
            false => self.suspects = suspects,
        }
    }

    /// Whether what was not seen in it is not there: it could be read, and told all UIDs where they were to be compared. Some
    /// servers say nothing of those of an empty folder.
    fn is_searched(&self) -> bool {
        let lacks_uids = matches!(self.look, Look::Changes(changes) if changes.compare) && !self.compared;
        !self.failed && (!lacks_uids || self.there.messages == 0)
    }

    /// Whether its flags are compared when all else is done.
    fn comes_last(&self) -> bool {
        let is_all = matches!(self.look, Look::Changes(Changes { flags: Flags::All, .. }));
        is_all && self.stored_before > LARGE && !self.failed
    }

    /// How far it is, once everything has come that there is; `None` where that is not so, or stored.
    fn conclude(&mut self) -> Option<Cursor> {
        let is_open = self.failed || self.waits > 0 || self.is_concluded || !matches!(self.look, Look::Changes(_));
        if is_open || ![&self.missing, &self.unanswered, &self.suspects].into_iter().all(UidSet::is_empty) {
            return None;
        }
        self.is_concluded = true;
        let there = &self.there;
        Some(Cursor {
            uid_next: Some(there.uid_next),
            modseq: there.highest_modseq.filter(|_| self.tells_changes || self.checked),
            // Where the numbers do not agree, all UIDs are compared next time.
            is_complete: Some(true),
            checked_at: (self.checked && self.here.stored > plan::SMALL).then(now_ms),
            total: Some(i32::try_from(there.messages).unwrap_or(i32::MAX)),
            unread: Some(i32::try_from(there.unseen).unwrap_or(i32::MAX)),
        })
    }

    /// Whether this is how far it is here already.
    fn is_at(&self, cursor: &Cursor) -> bool {
        let Folder { uid_next, modseq, is_complete, stored, total, unread, .. } = &self.here;
        cursor.checked_at.is_none()
            && cursor.uid_next == Some(*uid_next)
            && (cursor.modseq.is_none() || cursor.modseq == *modseq)
            && (cursor.total, cursor.unread) == (Some(*total), Some(*unread))
            && *is_complete == (stored == total)
    }
}

/// All UIDs that are less.
fn below(uid_next: u32) -> UidSet {
    match uid_next.saturating_sub(1) {
        0 => UidSet::new(),
        last => UidSet::from(1..=last),
    }
}

/// All UIDs that are less: the newest first, in pieces of which each is twice as large as the one before.
fn newest_first(uid_next: u32) -> Vec<UidSet> {
    let (mut next, mut size, mut pieces) = (uid_next, LARGE_PIECE, Vec::new());
    while next > 1 {
        let first = next.saturating_sub(size).max(1);
        pieces.push(UidSet::from(first..=next - 1));
        (next, size) = (first, size.saturating_mul(2));
    }
    pieces
}

/// What a command is for.
enum Step {
    /// Opens the folder.
    Open,
    /// Asks for flags of known messages; all of them, or those that changed.
    Flags { all: bool },
    /// Asks for all UIDs.
    Uids,
    /// Asks for messages; `listed`: all of these were there a moment ago.
    Messages { asked: UidSet, listed: bool },
    /// Asks whether these are there, of which nothing could be read.
    Presence { asked: UidSet },
    /// Asks what those are known by.
    Marks { asked: UidSet },
    /// Asks for a message that is here, to see that the server gives out any.
    Witness,
}

/// What commands are sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    /// To learn what has changed.
    Compare,
    /// To get what is missing. What is done then, is done.
    Fetch,
    /// The same, one command after the other: when a session breaks, it is known at which.
    Carefully,
}

/// A command, and the folder that it is about.
struct Order {
    work: usize,
    step: Step,
    command: Command,
}

/// What was read of one folder.
#[derive(Default)]
struct Read {
    work: usize,
    rows: Rows,
    vanished: UidSet,
    /// All UIDs, where they were asked for and the server has said them all.
    present: Option<UidSet>,
    /// It has said all flags with them.
    checked: bool,
    /// A message came that had been asked for.
    came: bool,
    /// What messages are known by, by their UIDs.
    marks: HashMap<u32, Mark>,
    /// Who is there and was said nothing of, not even flags.
    untold: HashSet<u32>,
}

/// What is to be stored of messages.
#[derive(Default)]
struct Rows {
    flags: Vec<(u32, mailboxes::Bits)>,
    messages: Vec<NewMessage>,
    labelled: Vec<u32>,
    labels: Vec<(u32, Uuid)>,
}

impl Read {
    fn of(work: usize) -> Self {
        Self { work, ..Self::default() }
    }

    /// Adds what was read of the same folder in another turn.
    fn append(&mut self, other: Self) {
        self.rows.append(other.rows);
        self.vanished = self.vanished.union(&other.vanished);
        self.present = other.present.or(self.present.take());
        self.checked |= other.checked;
        self.came |= other.came;
        self.marks.extend(other.marks);
        self.untold.extend(other.untold);
    }
}

impl Rows {
    fn append(&mut self, mut other: Self) {
        self.flags.append(&mut other.flags);
        self.messages.append(&mut other.messages);
        self.labelled.append(&mut other.labelled);
        self.labels.append(&mut other.labels);
    }

    fn is_empty(&self) -> bool {
        self.flags.is_empty() && self.messages.is_empty() && self.labelled.is_empty()
    }
}

pub(super) struct Driver<'a> {
    pub db: &'a Db,
    pub mailbox: &'a Mailbox,
    pub features: Features,
    pub stop_at: Instant,
    /// Folders that are labels, by what messages call them (Gmail).
    pub labels: HashMap<String, Uuid>,
    /// A label is gone since the last time: one that is new may be the same.
    pub loses_labels: bool,
}

impl Driver<'_> {
    /// Synchronises all folders, as far as the time goes.
    pub(super) async fn run(mut self, imap: &mut Imap) -> Result<Pass, Stop> {
        let listed = imap.list(&self.features).await?;
        let folders = self.take_over(&listed).await?;
        let stays = |known: &Folder| folders.iter().any(|folder| folder.id == known.id && !folder.is_gone);
        self.loses_labels = self.mailbox.folders.iter().any(|known| known.is_label && !known.is_gone && !stays(known));
        for here in folders.iter().filter(|folder| folder.is_label) {
            if let Some(there) = listed.iter().find(|folder| folder.wire == here.wire_name) {
                self.labels.extend(plan::label_names(there).into_iter().map(|name| (name, here.id)));
            }
        }
        let mut works = self.look(imap, folders, &listed).await?;
        works.sort_by_key(|work| plan::rank(&work.here, self.has_labels()));
        self.keep_labels(&mut works, false).await?;
        self.begin_anew(&mut works).await?;
        self.begin_backlogs(&mut works).await?;
        let read = self.compare(imap, &mut works).await?;
        self.fetch(imap, &mut works, read).await?;
        self.compare_large(imap, &mut works).await?;
        let pass = self.sweep(&works).await?;
        // Labels are all told when all messages have told theirs, at once: between two turns a label may get another name.
        let is_whole = |work: &Work| !work.failed && i64::from(work.here.stored) == i64::from(work.there.messages);
        let is_told = |work: &Work| is_all(&work.here) && is_whole(work) && (work.checked || work.stored_before == 0);
        if !pass.doubt && works.iter().any(is_told) {
            self.keep_labels(&mut works, true).await?;
        }
        Ok(pass)
    }

    fn has_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Whether this label was made since the last time, and no message has it: those that get it have changed.
    fn is_unused(&self, here: &Folder, there: &Status) -> bool {
        there.messages == 0 && !self.loses_labels && self.mailbox.folders.iter().all(|known| known.id != here.id)
    }

    /// Stores what the server says of labels; `told`: all their messages are here as well.
    async fn keep_labels(&self, works: &mut [Work], told: bool) -> Result<(), Stop> {
        let mut labels = Vec::new();
        for Work { here, there, .. } in works.iter_mut().filter(|work| is_counted_label(work)) {
            let told = told || self.is_unused(here, there);
            let validity = Some(there.uid_validity).filter(|validity| told || here.uid_validity == Some(*validity));
            let total = i32::try_from(there.messages).unwrap_or(i32::MAX);
            let unread = i32::try_from(there.unseen).unwrap_or(i32::MAX);
            if (here.uid_validity, here.total, here.unread) != (validity, total, unread) {
                labels.push(Label { id: here.id, uid_validity: validity, total, unread });
                (here.uid_validity, here.total, here.unread) = (validity, total, unread);
            }
        }
        if labels.is_empty() {
            return Ok(());
        }
        self.db.store_labels(&self.mailbox.lease, &labels).await?.ok_or(Stop::Lost)
    }

    /// Makes the server's list of folders ours.
    async fn take_over(&self, listed: &[Listed]) -> Result<Vec<Folder>, Stop> {
        if !listed.iter().any(|folder| folder.path == "INBOX") {
            // Each mailbox has one (RFC 3501 section 5.1): a list without it is not the whole.
            return Err(mail::Error::new(mail::Code::Protocol, "a list of folders without INBOX").into());
        }
        let has_labels = plan::has_labels(listed, &self.features);
        let listed: Vec<_> = listed
            .iter()
            .map(|folder| mailboxes::Listed {
                wire_name: &folder.wire,
                path: &folder.path,
                delimiter: folder.delimiter.map(String::from),
                role: folder.role.map(role_name),
                is_selectable: folder.is_selectable,
                is_label: has_labels && plan::is_label(folder),
            })
            .collect();
        if plan::same_list(&self.mailbox.folders, &listed) {
            return Ok(self.mailbox.folders.clone());
        }
        self.db.store_folders(&self.mailbox.lease, &listed).await?.ok_or(Stop::Lost)
    }

    /// Looks at each folder, and orphans what lay in those that are gone.
    async fn look(&self, imap: &mut Imap, folders: Vec<Folder>, listed: &[Listed]) -> Result<Vec<Work>, Stop> {
        let mut works = Vec::new();
        let mut unknown = Vec::new();
        for here in folders {
            let status =
                listed.iter().find(|folder| folder.wire == here.wire_name).and_then(|folder| folder.status.clone());
            match status {
                // Labels are never opened: what is in them lies elsewhere.
                status if here.is_gone || !here.is_selectable || here.is_label => {
                    let mut work = Work::new(here, status.unwrap_or(NO_STATUS), false);
                    if work.here.stored > 0 {
                        self.orphan(&mut work, ALL_UIDS).await?;
                    }
                    works.push(work);
                }
                Some(there) => works.push(Work::new(here, there, false)),
                None => {
                    unknown.push(works.len());
                    works.push(Work::new(here, NO_STATUS, true));
                }
            }
        }
        self.ask_status(imap, &mut works, &unknown).await?;
        let now = now_ms();
        let is_untold = |work: &Work| {
            let Work { here, there, .. } = work;
            is_counted_label(work) && here.uid_validity != Some(there.uid_validity) && !self.is_unused(here, there)
        };
        let untold = works.iter().any(is_untold);
        for work in &mut works {
            if !work.here.is_gone && work.here.is_selectable && !work.here.is_label && !work.failed {
                let untold = untold && is_all(&work.here);
                work.look = plan::look(&work.here, &work.there, &self.features, untold, now);
            }
        }
        Ok(works)
    }

    /// Opens the folders whose counts the server did not tell, to learn them.
    async fn ask_status(&self, imap: &mut Imap, works: &mut [Work], unknown: &[usize]) -> Result<(), Stop> {
        for index in unknown {
            let Some(work) = works.get_mut(*index) else { continue };
            let commands = vec![self.open(&work.here, false), Command::SearchAll];
            let mut talk = imap.converse(&self.features, commands);
            let (mut validity, mut next, mut last, mut done) = (None, None, 0, 0);
            while let Some(event) = talk.next().await? {
                match event {
                    Event::Exists(count) => work.there.messages = count,
                    Event::UidValidity(number) => validity = Some(number),
                    Event::UidNext(number) => next = Some(number),
                    Event::HighestModseq(modseq) => work.there.highest_modseq = Some(modseq),
                    Event::Found(found) => last = last.max(found.last().unwrap_or_default()),
                    Event::Done { outcome: Outcome::Ok, .. } => done += 1,
                    _ => {}
                }
            }
            if let (Some(validity), 2) = (validity, done) {
                work.there.uid_validity = validity;
                work.there.uid_next = next.unwrap_or_else(|| last.saturating_add(1));
                work.there.unseen = u32::try_from(work.here.unread).unwrap_or_default();
                work.failed = false;
            }
        }
        Ok(())
    }

    /// Forgets the UIDs of folders that have others. What is here stays, to be found again.
    async fn begin_anew(&self, works: &mut [Work]) -> Result<(), Stop> {
        let mut fresh = Vec::new();
        for work in works.iter_mut().filter(|work| work.look == Look::Anew) {
            if work.here.stored > 0 {
                self.orphan(work, ALL_UIDS).await?;
            }
            let Status { uid_validity, uid_next, highest_modseq: modseq, .. } = work.there;
            // What changes from here on is asked for next time, however long the rest takes.
            fresh.push(Fresh { id: work.here.id, uid_validity, uid_next, modseq });
            (work.here.uid_validity, work.here.uid_next, work.here.modseq) = (Some(uid_validity), uid_next, modseq);
            (work.here.is_complete, work.here.suspects) = (false, None);
            work.look = Look::Changes(Changes { flags: Flags::No, compare: true, arrivals: false });
        }
        match fresh.is_empty() {
            true => Ok(()),
            false => self.db.reset_folders(&self.mailbox.lease, &fresh).await?.ok_or(Stop::Lost),
        }
    }

    /// Has those of which much has come be incomplete folders without arrivals.
    async fn begin_backlogs(&self, works: &mut [Work]) -> Result<(), Stop> {
        let mut batches = Vec::new();
        for work in works.iter_mut().filter(|work| plan::is_backlog(&work.here, &work.there)) {
            let Look::Changes(changes) = work.look else { continue };
            let uid_next = work.there.uid_next;
            let cursor = Cursor { uid_next: Some(uid_next), is_complete: Some(false), ..Cursor::default() };
            batches.push(Batch { cursor, ..Batch::new(work.here.id, work.there.uid_validity) });
            (work.here.uid_next, work.here.is_complete) = (uid_next, false);
            work.look = Look::Changes(Changes { compare: true, arrivals: false, ..changes });
        }
        self.db.store_batches(&self.mailbox.lease, &batches).await?.ok_or(Stop::Lost)?;
        Ok(())
    }

    /// Asks for what has changed of messages that are here, all folders in one flight. Returns what is not stored yet.
    async fn compare(&self, imap: &mut Imap, works: &mut [Work]) -> Result<Vec<Read>, Stop> {
        let mut orders = Vec::new();
        for (index, work) in works.iter_mut().enumerate() {
            let Look::Changes(mut changes) = work.look else { continue };
            let changed = plan::changed(&work.here, &work.there, &self.features);
            work.tells_changes = changed.is_some();
            if work.comes_last() {
                changes.flags = changed.unwrap_or(Flags::No);
            }
            if changes.flags == Flags::No && !changes.compare {
                continue;
            }
            let mut order = |step, command| orders.push(Order { work: index, step, command });
            order(Step::Open, self.open(&work.here, changes.flags == Flags::Resync));
            let flags =
                |uids, changed_since| Command::Fetch { uids, items: Items::Flags, changed_since, vanished: false };
            match changes.flags {
                Flags::No | Flags::Resync => {}
                // Of what has come some may be here: what a worker that died has stored, or somebody has moved from here.
                Flags::Since(modseq) => order(Step::Flags { all: false }, flags(work.named(), Some(modseq))),
                Flags::All => order(Step::Flags { all: true }, flags(work.known(), None)),
            }
            // Asking for all flags tells all UIDs as well.
            if changes.compare && changes.flags != Flags::All {
                order(Step::Uids, Command::SearchAll);
            }
        }
        let read = self.converse(imap, works, orders, Vec::new(), Flight::Compare).await?;
        if read.iter().any(|read| read.present.is_some()) {
            // What is missing is to be known before it is asked for.
            self.keep(works, read, Flight::Compare).await?;
            return Ok(Vec::new());
        }
        Ok(read)
    }

    /// Compares all flags of large folders. Those that the time is not enough for are not begun with again before others are due:
    /// so it would be each time, and nothing else would be done any more. The newest messages are those that it is enough for.
    async fn compare_large(&self, imap: &mut Imap, works: &mut [Work]) -> Result<(), Stop> {
        let large: Vec<usize> =
            (0..works.len()).filter(|index| works.get(*index).is_some_and(Work::comes_last)).collect();
        if large.is_empty() {
            return Ok(());
        }
        let mut orders = Vec::new();
        for (index, work) in large.iter().filter_map(|index| Some((*index, works.get(*index)?))) {
            orders.push(Order { work: index, step: Step::Open, command: self.open(&work.here, false) });
            orders.extend(newest_first(work.here.uid_next).into_iter().map(|uids| {
                let command = Command::Fetch { uids, items: Items::Flags, changed_since: None, vanished: false };
                Order { work: index, step: Step::Flags { all: true }, command }
            }));
        }
        match self.converse(imap, works, orders, Vec::new(), Flight::Compare).await {
            Ok(read) => self.keep(works, read, Flight::Compare).await?,
            Err(Stop::Time) => tracing::info!(accountId = %self.mailbox.account.id, "flags_not_compared"),
            Err(error) => return Err(error),
        }
        let large = large.iter().filter_map(|index| works.get(*index)).filter(|work| !work.failed);
        let checked = large.map(|work| {
            let modseq = work.there.highest_modseq.filter(|_| work.checked);
            let cursor = Cursor { checked_at: Some(now_ms()), modseq, ..Cursor::default() };
            Batch { cursor, ..Batch::new(work.here.id, work.there.uid_validity) }
        });
        let checked: Vec<Batch> = checked.collect();
        self.db.store_batches(&self.mailbox.lease, &checked).await?.ok_or(Stop::Lost)?;
        Ok(())
    }

    /// Fetches messages: of each folder the newest, then backwards. `read` is stored with what comes.
    async fn fetch(&self, imap: &mut Imap, works: &mut [Work], mut read: Vec<Read>) -> Result<(), Stop> {
        let (mut witnessed, mut others) = (Vec::new(), Vec::new());
        for (index, work) in works.iter_mut().enumerate() {
            work.take_suspects();
            if !work.suspects.is_empty() && !work.failed {
                match self.db.find_readable(&self.mailbox.lease, work.here.id).await? {
                    Some((uid, _)) => witnessed.push((index, Some(uid))),
                    None => others.push((index, None)),
                }
            }
        }
        // What is proved first, so that nothing that breaks a session comes before it.
        read = self.ask_presence(imap, works, read).await?;
        let flight = if witnessed.is_empty() && others.is_empty() { Flight::Fetch } else { Flight::Carefully };
        for (index, witness) in witnessed {
            read = self.fetch_suspects(imap, works, index, witness, read).await?;
        }
        read = self.fetch_missing(imap, works, read, flight).await?;
        // Where nothing of a folder could be read, others show first that something can.
        for (index, witness) in others {
            read = self.fetch_suspects(imap, works, index, witness, read).await?;
        }
        read = self.ask_presence(imap, works, read).await?;
        let rest = (0..works.len()).filter(|index| read.iter().all(|read| read.work != *index));
        let rest: Vec<Read> = rest.map(Read::of).collect();
        read.extend(rest);
        self.keep(works, read, Flight::Fetch).await
    }

    async fn fetch_missing(
        &self,
        imap: &mut Imap,
        works: &mut [Work],
        read: Vec<Read>,
        flight: Flight,
    ) -> Result<Vec<Read>, Stop> {
        let (mut orders, mut later) = (Vec::new(), Vec::new());
        for (index, work) in works.iter_mut().enumerate() {
            let Look::Changes(changes) = work.look else { continue };
            if work.failed || !changes.arrivals && work.missing.is_empty() {
                continue;
            }
            let open = || Order { work: index, step: Step::Open, command: self.open(&work.here, false) };
            orders.push(open());
            if changes.arrivals {
                let uids = UidSet::from(work.here.uid_next..=work.there.uid_next.saturating_sub(1));
                orders.push(messages(index, uids, Items::Arrivals, false));
            }
            let newest = work.missing.newest(NEWEST);
            orders.extend(
                newest.split(COMMAND_BYTES).into_iter().map(|uids| messages(index, uids, Items::Arrivals, true)),
            );
            let mut rest = std::mem::take(&mut work.missing).difference(&newest);
            if !rest.is_empty() {
                later.push(open());
            }
            while !rest.is_empty() {
                let piece = rest.newest(PIECE);
                rest = rest.difference(&piece);
                let pieces = piece.split(COMMAND_BYTES).into_iter();
                later.extend(pieces.map(|uids| messages(index, uids, Items::Headers, true)));
            }
        }
        orders.append(&mut later);
        self.converse(imap, works, orders, read, flight).await
    }

    /// Fetches what did not come when a session broke, without the beginnings of texts; after `witness`, if there is one.
    async fn fetch_suspects(
        &self,
        imap: &mut Imap,
        works: &mut [Work],
        index: usize,
        witness: Option<u32>,
        read: Vec<Read>,
    ) -> Result<Vec<Read>, Stop> {
        let Some(work) = works.get_mut(index) else { return Ok(read) };
        let uids: Vec<u32> = std::mem::take(&mut work.suspects).iter().take(suspects::MOST).collect();
        tracing::info!(folder = %work.here.id, count = uids.len(), "messages_suspected");
        let mut orders = vec![Order { work: index, step: Step::Open, command: self.open(&work.here, false) }];
        orders.extend(witness.map(|uid| {
            let uids = UidSet::from(uid..=uid);
            let command = Command::Fetch { uids, items: Items::Headers, changed_since: None, vanished: false };
            Order { work: index, step: Step::Witness, command }
        }));
        let pieces = suspects::pieces(&uids).into_iter().map(|piece| piece.iter().copied().collect::<UidSet>());
        let pieces = pieces.flat_map(|uids| uids.split(COMMAND_BYTES));
        orders.extend(pieces.map(|uids| messages(index, uids, Items::Headers, true)));
        self.converse(imap, works, orders, read, Flight::Carefully).await
    }

    /// What was asked for and did not come is either gone by now or cannot be read: who is there is stored as it is, or is what it
    /// was before it lost its UID.
    async fn ask_presence(&self, imap: &mut Imap, works: &mut [Work], mut read: Vec<Read>) -> Result<Vec<Read>, Stop> {
        loop {
            let (mut orders, mut room) = (Vec::new(), PIECE);
            for (index, work) in works.iter_mut().enumerate() {
                if work.failed {
                    work.unanswered = UidSet::new();
                }
                let asked = work.unanswered.newest(room);
                if asked.is_empty() {
                    continue;
                }
                room -= asked.len();
                work.unanswered = work.unanswered.difference(&asked);
                tracing::warn!(folder = %work.here.id, count = asked.len(), "messages_not_fetched");
                let sets = asked.split(COMMAND_BYTES);
                orders.extend(self.ask(index, &work.here, sets, Items::Flags, |asked| Step::Presence { asked }));
            }
            if orders.is_empty() {
                return Ok(read);
            }
            read = self.converse(imap, works, orders, read, Flight::Fetch).await?;
            if let Err(stop) = self.recognise(imap, works, &mut read).await.and_then(|()| self.check_time()) {
                if matches!(stop, Stop::Time) || matches!(stop, Stop::Mail(_)) && self.has_failed() {
                    self.keep(works, read, Flight::Fetch).await?;
                }
                return Err(stop);
            }
        }
    }

    /// Asks what those are known by of which nothing could be read, where they may be messages that have lost their UIDs: then they
    /// are those, and what is here of them stays. Who fails at it is asked once more in the next turn, and then no more.
    async fn recognise(&self, imap: &mut Imap, works: &mut [Work], reads: &mut [Read]) -> Result<(), Stop> {
        if works.iter().all(|work| work.here.orphans == 0) {
            return Ok(());
        }
        let mut orders = Vec::new();
        for read in reads.iter().filter(|read| !read.rows.messages.is_empty()) {
            let Some(work) = works.get(read.work) else { continue };
            // For that a server may have to open what it cannot. What it refuses of one it tells of the others.
            let sets = read.rows.messages.iter().map(|message| UidSet::from(message.uid..=message.uid));
            orders.extend(self.ask(read.work, &work.here, sets, Items::Marks, |asked| Step::Marks { asked }));
        }
        let told = self.converse(imap, works, orders, Vec::new(), Flight::Compare).await;
        let told = told.map_err(|stop| match stop {
            Stop::Mail(error) => untold(error.detail).into(),
            stop => stop,
        })?;
        // What comes of a folder that failed comes again.
        for read in reads.iter_mut().filter(|read| works.get(read.work).is_some_and(|work| work.failed)) {
            read.rows.messages.clear();
        }
        let (mut known, mut is_untold) = (Vec::new(), false);
        for Read { work, rows, untold, .. } in reads {
            let marks = told.iter().find(|told| told.work == *work).map(|told| &told.marks);
            for message in &mut rows.messages {
                match marks.and_then(|marks| marks.get(&message.uid)) {
                    Some(mark) => {
                        message.received_at = mark.received_at.unwrap_or(message.received_at);
                        message.size = mark.size;
                        let has_flags = !untold.contains(&message.uid);
                        known.push((message, *mark, has_flags));
                    }
                    None => is_untold = true,
                }
            }
        }
        if is_untold && !self.has_failed() {
            return Err(untold("nothing is told of a message that is there").into());
        }
        if known.is_empty() {
            return Ok(());
        }
        let marks: Vec<Mark> = known.iter().map(|(_, mark, _)| *mark).collect();
        let found = self.db.find_orphans(&self.mailbox.lease, &marks).await?.ok_or(Stop::Lost)?;
        for ((message, mark, has_flags), orphan) in known.into_iter().zip(found) {
            let Some(orphan) = orphan else { continue };
            message.identity = orphan.identity;
            message.received_at = mark.received_at.unwrap_or(orphan.received_at);
            if !has_flags {
                message.bits.0 |= orphan.flags.0;
            }
        }
        Ok(())
    }

    /// Whether the turn before this one failed as [`Self::recognise`] does.
    fn has_failed(&self) -> bool {
        let last = self.mailbox.account.last_error.as_ref();
        last.is_some_and(|error| error.message == UNTOLD)
    }

    /// Destroys what was found nowhere, after all folders were searched for it.
    async fn sweep(&self, works: &[Work]) -> Result<Pass, Stop> {
        let is_first = |work: &Work| plan::rank(&work.here, self.has_labels()) == 0;
        let mut pass = Pass { doubt: false, failed: works.iter().any(|work| work.failed && is_first(work)) };
        let are_searched = works.iter().all(Work::is_searched);
        let is_due = |work: &&Work| {
            let here = &work.here;
            // What was seen missing just now may lie in a folder that could not be read: it has until the next time.
            let has_orphans = if are_searched { here.orphans > 0 } else { work.orphans_before > 0 };
            // An empty folder has nothing that could.
            let is_over = here.is_gone && (are_searched || here.orphans == 0);
            // What was in a folder may be there still, and come back with it.
            is_over || work.is_searched() && (has_orphans || here.doubted_at.is_some())
        };
        let due: Vec<Uuid> = works.iter().filter(is_due).map(|work| work.here.id).collect();
        while !due.is_empty() {
            let destroyed = self.db.destroy_orphans(&self.mailbox.lease, &due, DOUBT_PATIENCE).await?;
            let Destroyed { more, doubt } = destroyed.ok_or(Stop::Lost)?;
            pass.doubt = doubt;
            if !more {
                break;
            }
            self.check_time()?;
        }
        Ok(pass)
    }

    /// Sends commands, and stores what comes back: a batch while the next is read, beginning with `read`. Returns the last.
    async fn converse(
        &self,
        imap: &mut Imap,
        works: &mut [Work],
        orders: Vec<Order>,
        mut read: Vec<Read>,
        flight: Flight,
    ) -> Result<Vec<Read>, Stop> {
        for order in &orders {
            if let Some(work) = works.get_mut(order.work) {
                work.waits += 1;
            }
        }
        let flown = if flight == Flight::Carefully { 1 } else { orders.len() };
        let mut orders = orders.into_iter();
        while orders.len() > 0 {
            // A folder that could not be opened has nothing to tell.
            let is_open = |order: &Order| works.get(order.work).is_some_and(|work| !work.failed);
            let orders: Vec<Order> = orders.by_ref().take(flown).filter(is_open).collect();
            if !orders.is_empty() {
                read = self.fly(imap, works, orders, read, flight).await?;
            }
        }
        Ok(read)
    }

    /// See [`Driver::converse`]; all of them at once.
    async fn fly(
        &self,
        imap: &mut Imap,
        works: &mut [Work],
        orders: Vec<Order>,
        mut read: Vec<Read>,
        flight: Flight,
    ) -> Result<Vec<Read>, Stop> {
        let (mut plan, mut commands, mut turns) = (Vec::new(), Vec::new(), Vec::<(Seen, UidPieces)>::new());
        for Order { work, step, command } in orders {
            if matches!(step, Step::Open) || turns.is_empty() {
                turns.push((Seen::of(work), UidPieces::default()));
            }
            if let Some((seen, all)) = turns.last_mut() {
                match &step {
                    Step::Messages { asked, .. } | Step::Presence { asked } | Step::Marks { asked } => all.add(asked),
                    Step::Uids => seen.is_searched = true,
                    Step::Open | Step::Flags { .. } | Step::Witness => {}
                }
            }
            plan.push((turns.len() - 1, step));
            commands.push(command);
        }
        let seen = turns.into_iter().map(|(seen, mut all)| Seen { asked: all.whole(), ..seen });
        let mut reader = Reader {
            talk: imap.converse(&self.features, commands),
            account: self.mailbox.account.id,
            folders: works.iter().map(|work| (work.here.id, work.there.uid_validity)).collect(),
            labels: works.iter().map(|work| is_all(&work.here).then_some(&self.labels)).collect(),
            seen: seen.collect(),
            refused: vec![false; works.len()],
            plan,
            done: 0,
            rows: 0,
        };
        loop {
            let (kept, next) = tokio::join!(self.keep(works, read, flight), reader.read());
            kept?;
            match next {
                Ok(is_last) => {
                    read = reader.take(works);
                    if is_last {
                        return Ok(read);
                    }
                    if let Err(stop) = self.check_time() {
                        self.keep(works, read, flight).await?;
                        return Err(stop);
                    }
                }
                Err(error) => {
                    // What came before it is good.
                    let read = reader.take(works);
                    self.keep(works, read, flight).await?;
                    return Err(self.suspect(works, reader.unanswered(), error).await?);
                }
            }
        }
    }

    /// Notes what did not come when the session broke, of which folder; `is_alone`: it was asked for alone.
    async fn suspect(
        &self,
        works: &[Work],
        unanswered: Option<(usize, UidSet, bool)>,
        error: mail::Error,
    ) -> Result<Stop, Stop> {
        let noted = unanswered.and_then(|(index, uids, is_alone)| Some((works.get(index)?, uids, is_alone)));
        let Some((work, uids, is_alone)) = noted else { return Ok(Stop::Mail(error)) };
        let shown =
            Shown { came: works.iter().any(|work| work.shown.came), grew: works.iter().any(|work| work.shown.grew) };
        let suspects = uids.iter().take(suspects::MOST).collect::<UidSet>().to_string();
        let suspicion = Suspicion {
            folder: work.here.id,
            validity: work.there.uid_validity,
            uid_next: Some(work.there.uid_next),
            weight: suspects::weigh(&work.here, &suspects, is_alone, shown),
            suspects: &suspects,
        };
        self.db.suspect_messages(&self.mailbox.lease, suspicion).await?.ok_or(Stop::Lost)?;
        Ok(suspects::stop(error, shown))
    }

    /// Stores what was read, and how far folders are of which all has come.
    async fn keep(&self, works: &mut [Work], reads: Vec<Read>, flight: Flight) -> Result<(), Stop> {
        let (mut batches, mut stored, mut listed) = (Vec::new(), Vec::new(), Vec::new());
        for read in reads {
            let Some(work) = works.get_mut(read.work) else { continue };
            let mut gone = read.vanished.intersection(&work.known());
            if gone.len() > MOST_GONE {
                for gone in gone.split(MULTIRANGE_BYTES) {
                    self.orphan(work, &multirange(&gone)).await?;
                }
                gone = UidSet::new();
            }
            let mut cursor = if flight == Flight::Compare { None } else { work.conclude() };
            if let Some(cursor) = &mut cursor {
                // Who says that there are others than those that are here has not told of all changes, either.
                let stored = i64::from(work.here.stored) + read.rows.messages.len() as i64 - gone.len() as i64;
                cursor.modseq = cursor.modseq.filter(|_| stored == i64::from(work.there.messages));
            }
            let is_there = read.rows.is_empty() && gone.is_empty() && cursor.is_none_or(|cursor| work.is_at(&cursor));
            if !is_there {
                let Rows { flags, messages, labelled, labels } = read.rows;
                batches.push(Batch {
                    gone: (!gone.is_empty()).then(|| multirange(&gone)),
                    flags,
                    messages,
                    labelled,
                    labels,
                    cursor: cursor.unwrap_or_default(),
                    ..Batch::new(work.here.id, work.there.uid_validity)
                });
                stored.push(read.work);
            }
            listed.extend(read.present.map(|present| (read.work, present, read.checked)));
        }
        let counts = self.db.store_batches(&self.mailbox.lease, &batches).await?.ok_or(Stop::Lost)?;
        for (index, counts) in stored.into_iter().zip(counts) {
            if let Some(work) = works.get_mut(index) {
                work.shown.grew |= counts.stored > work.here.stored;
                (work.here.stored, work.here.orphans) = (counts.stored, counts.orphans);
            }
        }
        for (index, present, checked) in listed {
            if let Some(work) = works.get_mut(index) {
                self.compare_uids(work, &present, checked).await?;
            }
        }
        Ok(())
    }

    /// Compares the UIDs that the server has with those that are here.
    async fn compare_uids(&self, work: &mut Work, present: &UidSet, checked: bool) -> Result<(), Stop> {
        work.checked |= checked;
        work.compared = true;
        let present = present.intersection(&work.known());
        if work.here.stored == 0 {
            work.missing = present;
            return Ok(());
        }
        let is_as_many = i64::try_from(present.len()).is_ok_and(|count| count == i64::from(work.here.stored));
        if plan::is_whole(&work.here) && is_as_many {
            return Ok(());
        }
        let (lease, present) = (&self.mailbox.lease, multirange(&present));
        let compared = self.db.compare_uids(lease, work.here.id, &present, work.here.uid_next).await?;
        let (gone, missing) = compared.ok_or(Stop::Lost)?;
        if gone != "{}" {
            self.orphan(work, &gone).await?;
        }
        work.missing = uid_set(&missing);
        Ok(())
    }

    async fn orphan(&self, work: &mut Work, gone: &str) -> Result<(), Stop> {
        let count = self.db.orphan_messages(&self.mailbox.lease, work.here.id, gone).await?.ok_or(Stop::Lost)?;
        work.here.stored -= count;
        work.here.orphans += count;
        Ok(())
    }

    /// Opens a folder and asks for something of its messages, each of these sets by a command.
    fn ask(
        &self,
        work: usize,
        here: &Folder,
        sets: impl IntoIterator<Item = UidSet>,
        items: Items,
        step: fn(UidSet) -> Step,
    ) -> Vec<Order> {
        let mut orders = vec![Order { work, step: Step::Open, command: self.open(here, false) }];
        orders.extend(sets.into_iter().map(|uids| {
            let step = step(uids.clone());
            let command = Command::Fetch { uids, items, changed_since: None, vanished: false };
            Order { work, step, command }
        }));
        orders
    }

    fn open(&self, folder: &Folder, resync: bool) -> Command {
        let resync = match (folder.uid_validity, folder.modseq) {
            (Some(uid_validity), Some(modseq)) if resync => Some(Resync { uid_validity, modseq }),
            _ => None,
        };
        Command::Examine { mailbox: folder.wire_name.clone(), resync, condstore: self.features.condstore }
    }

    fn check_time(&self) -> Result<(), Stop> {
        if Instant::now() < self.stop_at { Ok(()) } else { Err(Stop::Time) }
    }
}

/// As the database has it.
fn role_name(role: Role) -> &'static str {
    match role {
        Role::Inbox => "inbox",
        Role::Sent => "sent",
        Role::Drafts => "drafts",
        Role::Trash => "trash",
        Role::Junk => "junk",
        Role::Archive => "archive",
        Role::All => "all",
    }
}

fn is_all(folder: &Folder) -> bool {
    folder.role.as_deref() == Some("all")
}

/// A label of which the server has told how many messages it has.
fn is_counted_label(work: &Work) -> bool {
    work.here.is_label && work.there.uid_validity != NO_STATUS.uid_validity
}

/// Of a folder that has none.
const NO_STATUS: Status =
    Status { messages: 0, uid_next: 1, uid_validity: 0, unseen: 0, highest_modseq: None, mailbox_id: None };

fn messages(work: usize, uids: UidSet, items: Items, listed: bool) -> Order {
    let step = Step::Messages { asked: uids.clone(), listed };
    Order { work, step, command: Command::Fetch { uids, items, changed_since: None, vanished: false } }
}

/// Reads what a server answers, in pieces that fit a batch.
struct Reader<'a> {
    talk: Conversation<'a>,
    account: AccountId,
    /// Id and UIDVALIDITY of each folder.
    folders: Vec<(Uuid, u32)>,
    /// What labels of each folder's messages mean. Those of junk and trash mean nothing.
    labels: Vec<Option<&'a HashMap<String, Uuid>>>,
    /// A folder has a turn for each time that it is opened.
    seen: Vec<Seen>,
    /// Of which folders something was refused: their later turns tell nothing either.
    refused: Vec<bool>,
    /// In which turn each command is sent, and what for.
    plan: Vec<(usize, Step)>,
    /// So many of them have ended.
    done: usize,
    /// What was read and not taken yet, as [`BATCH`] counts.
    rows: usize,
}

/// What is known of a folder's answers in its turn until now. They are those of all its commands: a server may give them
/// before it ends the first (see [`Conversation::next`]).
#[derive(Default)]
struct Seen {
    read: Read,
    /// The messages that its commands ask for.
    asked: UidSet,
    /// Whether one of them asks for all UIDs.
    is_searched: bool,
    /// Commands that have ended since the last batch.
    ended: usize,
    failed: bool,
    /// The UIDs of what came. What a server says twice counts once.
    uids: HashSet<u32>,
    vanished: UidPieces,
    /// Nothing is known where the server said nothing.
    found: Option<UidPieces>,
    /// Something could not be read: who it is about may be there.
    undecodable: bool,
    /// May come yet, until all commands have ended.
    unanswered: UidPieces,
    is_over: bool,
}

impl Reader<'_> {
    /// Reads until there is enough for a batch, or for long enough, or everything has come: then it is true.
    async fn read(&mut self) -> Result<bool, mail::Error> {
        self.rows = 0;
        let (now, mut began) = (now_ms(), None);
        while let Some(event) = self.talk.next().await? {
            if let Event::Done { outcome, .. } = &event {
                self.check_given(outcome)?;
            }
            let Some((turn, step)) = self.plan.get(self.done) else { break };
            let Some(seen) = self.seen.get_mut(*turn) else { break };
            let index = seen.read.work;
            let (Some((folder, validity)), Some(refused)) = (self.folders.get(index), self.refused.get_mut(index))
            else {
                break;
            };
            let event = match event {
                // It is there, whatever it says.
                Event::Undecodable { uid: Some(uid) } if matches!(step, Step::Presence { .. }) => {
                    Event::Fetched(Fetched { uid, ..Fetched::default() })
                }
                event => event,
            };
            match event {
                Event::Done { outcome, .. } => {
                    let accepted = outcome == Outcome::Ok;
                    if !accepted {
                        tracing::info!(folder = %folder, outcome = ?outcome, "folder_refused");
                    }
                    self.done += 1;
                    let is_last = self.plan.get(self.done).is_none_or(|(next, _)| next != turn);
                    seen.end(step, accepted && !*refused, is_last);
                    *refused |= seen.failed;
                    if is_last {
                        seen.close();
                    }
                    if seen.read.present.as_ref().is_some_and(|present| present.len() > MOST_MESSAGES) {
                        seen.read.present = None;
                        return Err(too_many());
                    }
                }
                // Whatever else comes of a folder that was not opened is of another one.
                _ if seen.failed || *refused => {}
                Event::UidValidity(number) if number != *validity => seen.failed = true,
                // Until now it was about the folder that was open before.
                Event::Closed if matches!(step, Step::Open) => {
                    let (asked, is_searched) = (std::mem::take(&mut seen.asked), seen.is_searched);
                    *seen = Seen { asked, is_searched, ..Seen::of(index) };
                }
                Event::Vanished { uids, .. } => seen.vanished.add(&uids),
                Event::Found(uids) if seen.is_searched && !matches!(step, Step::Open) => {
                    seen.found.get_or_insert_default().add(&uids);
                }
                Event::Undecodable { uid } => match (uid, step) {
                    // What was not asked for is here already, or not yet to be.
                    (Some(uid), Step::Messages { .. }) if seen.asked.contains(uid) => {
                        seen.unanswered.add(&UidSet::from(uid..=uid));
                    }
                    (Some(_), Step::Messages { .. }) => {}
                    _ => seen.undecodable = true,
                },
                Event::Fetched(fetched) if matches!(step, Step::Marks { .. }) => {
                    if let Some(mark) = message::mark(&fetched).filter(|_| seen.asked.contains(fetched.uid)) {
                        seen.read.marks.insert(fetched.uid, mark);
                    }
                }
                Event::Fetched(fetched) => {
                    let rows = &mut seen.read.rows;
                    if let Some(gmail) = &fetched.gmail {
                        let known = self.labels.get(index).copied().flatten();
                        let labels = gmail.labels.iter().filter_map(|label| known?.get(label));
                        rows.labelled.push(fetched.uid);
                        rows.labels.extend(labels.map(|folder| (fetched.uid, *folder)));
                        self.rows += FLAG_WEIGHT + gmail.labels.len() * LABEL_WEIGHT;
                    }
                    let flags = fetched.flags.map(bits);
                    // Nobody asked for what lies elsewhere, such as flags that another client has just changed.
                    let is_asked = match step {
                        Step::Messages { .. } => fetched.header.is_some() && seen.asked.contains(fetched.uid),
                        Step::Presence { .. } => seen.asked.contains(fetched.uid),
                        Step::Flags { all } => *all,
                        Step::Open | Step::Uids | Step::Marks { .. } | Step::Witness => false,
                    };
                    let is_new = is_asked && seen.uids.insert(fetched.uid);
                    match step {
                        Step::Messages { .. } if is_new => {
                            seen.read.came = true;
                            let message = message::read(self.account, &fetched, now);
                            // As many bytes as the largest may have are as many as those of a hundred others.
                            self.rows += MESSAGE_WEIGHT.max(message::bytes(&message) * MESSAGE_WEIGHT / MESSAGE_BYTES);
                            if rows.messages.len() == FEW {
                                // Otherwise it is copied, and wiped, each time that it has become twice as long.
                                rows.messages.reserve(
                                    usize::try_from(seen.asked.len()).unwrap_or(0).min(BATCH / MESSAGE_WEIGHT),
                                );
                            }
                            rows.messages.push(message);
                        }
                        Step::Presence { .. } if is_new => {
                            if flags.is_none() {
                                seen.read.untold.insert(fetched.uid);
                            }
                            let flags = flags.unwrap_or_default();
                            rows.messages.push(message::unreadable(*folder, *validity, fetched.uid, flags, now));
                            self.rows += MESSAGE_WEIGHT;
                        }
                        _ => {
                            seen.read.came |= matches!(step, Step::Witness) && fetched.header.is_some();
                            rows.flags.extend(flags.map(|flags| (fetched.uid, flags)));
                            self.rows += FLAG_WEIGHT;
                        }
                    }
                    // Those who are there are stored when it is known who they are.
                    let waits = matches!(step, Step::Presence { .. });
                    // With them other things come, such as labels: many, and not without end.
                    let most = if waits { 8 * BATCH } else { BATCH };
                    if self.rows >= most || !waits && began.get_or_insert_with(Instant::now).elapsed() >= STORED_WITHIN
                    {
                        return Ok(false);
                    }
                }
                _ => {}
            }
            if seen.is_too_much() {
                return Err(too_many());
            }
        }
        Ok(true)
    }

    /// Some servers end with a refusal, each time, where they cannot read one of the messages that were asked for. It is found
    /// as one at which sessions break.
    fn check_given(&self, outcome: &Outcome) -> Result<(), mail::Error> {
        let Err(error) = outcome.check("FETCH", mail::Code::Protocol) else { return Ok(()) };
        // Who asks to come later, or has not opened the folder, says nothing of messages.
        match self.plan.get(self.done).and_then(|(turn, step)| self.seen.get(*turn)?.unanswered(step)) {
            Some(_) if error.code != mail::Code::Unavailable => Err(error),
            _ => Ok(()),
        }
    }

    /// What was read since the last time: at any moment rows that are good, and of what is absent only what commands said
    /// that have ended.
    fn take(&mut self, works: &mut [Work]) -> Vec<Read> {
        let mut all: Vec<Read> = Vec::new();
        for seen in &mut self.seen {
            let index = seen.read.work;
            let Some(work) = works.get_mut(index) else { continue };
            let (read, ended) = (std::mem::replace(&mut seen.read, Read::of(index)), std::mem::take(&mut seen.ended));
            work.shown.came |= read.came;
            work.failed |= seen.failed;
            if seen.is_over {
                work.unanswered = work.unanswered.union(&seen.unanswered.whole());
            }
            work.waits = work.waits.saturating_sub(ended);
            if ended == 0 && read.rows.is_empty() {
                continue;
            }
            match all.iter_mut().find(|other| other.work == index) {
                Some(other) => other.append(read),
                None => all.push(read),
            }
        }
        all
    }

    /// What did not come of what a server was at: of which folder, and whether it was one message that was asked for alone.
    fn unanswered(&self) -> Option<(usize, UidSet, bool)> {
        let (turn, Step::Messages { .. }) = self.plan.get(self.done)? else { return None };
        let seen = self.seen.get(*turn)?;
        let open: Vec<_> = self.plan.iter().skip(self.done).take_while(|(other, _)| other == turn).collect();
        // Who answers several together comes to the next when one has all that there is.
        let reached = open.iter().rposition(|(_, step)| seen.has_come(step)).unwrap_or(0);
        let (uids, is_one) = open.iter().skip(reached).find_map(|(_, step)| seen.unanswered(step))?;
        Some((seen.read.work, uids, is_one && open.len() == 1))
    }
}

/// What a user reads who waits for [`Driver::recognise`].
const UNTOLD: &str = "The mail server does not say which message one is that it cannot give out.";

fn untold(detail: impl Into<String>) -> mail::Error {
    mail::Error { message: UNTOLD.into(), ..mail::Error::new(mail::Code::Protocol, detail) }
}

fn too_many() -> mail::Error {
    mail::Error::new(mail::Code::Protocol, format!("more than {MOST_MESSAGES} messages in a folder"))
}

impl Seen {
    fn of(work: usize) -> Self {
        Self { read: Read::of(work), ..Self::default() }
    }

    /// Whether something came that a command asked for.
    fn has_come(&self, step: &Step) -> bool {
        matches!(step, Step::Messages { asked, .. } if asked.iter().any(|uid| self.uids.contains(&uid)))
    }

    /// All commands have ended: what did not come by now does not come, and the rest is needed no more.
    fn close(&mut self) {
        let uids = std::mem::take(&mut self.uids);
        let lacking: UidSet = self.unanswered.whole().iter().filter(|uid| !uids.contains(uid)).collect();
        self.unanswered.add(&lacking);
        (self.asked, self.found, self.is_over) = (UidSet::new(), None, true);
    }

    /// What a command asked for and did not get, and whether it was one message.
    fn unanswered(&self, step: &Step) -> Option<(UidSet, bool)> {
        let Step::Messages { asked, .. } = step else { return None };
        let lacking: UidSet = asked.iter().filter(|uid| !self.uids.contains(uid)).collect();
        (!self.failed && !lacking.is_empty()).then(|| (lacking, asked.len() == 1))
    }

    /// Whether the server has named more messages than a folder may have.
    fn is_too_much(&self) -> bool {
        let found = self.found.as_ref().map_or(0, UidPieces::held);
        let most = found.max(self.vanished.held()).max(self.unanswered.held()).max(2 * self.uids.len());
        most as u64 > 2 * MOST_MESSAGES
    }

    /// A command has ended; `is_last`: it was the last of the turn.
    fn end(&mut self, step: &Step, accepted: bool, is_last: bool) {
        let vanished = self.vanished.whole();
        self.failed |= !accepted && !matches!(step, Step::Marks { .. });
        if accepted && !self.failed {
            // Only what a server says with all its words is absent.
            self.read.vanished = self.read.vanished.union(&vanished);
            match step {
                Step::Uids => self.read.present = self.found.take().map(|mut found| found.whole()),
                Step::Flags { all: true } if is_last && !self.undecodable => {
                    self.read.present = Some(std::mem::take(&mut self.uids).into_iter().collect());
                    self.read.checked = true;
                }
                // What nobody knows whom it was about may have been about any of them.
                Step::Messages { listed, .. } if *listed || self.undecodable => {
                    if let Some((lacking, _)) = self.unanswered(step) {
                        self.unanswered.add(&lacking);
                    }
                }
                Step::Presence { .. } => self.failed |= self.undecodable,
                Step::Open | Step::Flags { .. } | Step::Messages { .. } | Step::Marks { .. } | Step::Witness => {}
            }
        }
        self.ended += 1;
    }
}

//! A mailbox at an IMAP server: what the plan says is asked for, and what comes is stored.
//!
//! Commands are pipelined. While PostgreSQL stores a batch, the next is read.

use std::collections::HashMap;
use std::time::Instant;

use mail::imap::{
    Command, Conversation, Event, Features, Folder as Listed, Imap, Items, Outcome, Resync, Role, Status, UidSet,
};
use shared::account::AccountId;
use shared::db::Db;
use shared::db::mailboxes::{self, Batch, Cursor, Destroyed, Folder, Label, Mailbox};
use uuid::Uuid;

use super::message::{self, bits};
use super::plan::{self, Changes, Flags, Look};
use super::{ALL_UIDS, DOUBT_PATIENCE, Pass, Stop, multirange, now_ms, uid_set};

/// Messages that are stored at once: some 500 KB.
const BATCH: usize = 500;
/// Flags that are compared at once.
const FLAGS: usize = 5_000;
/// Labels that are compared at once. One message may have half as many more.
const LABELS: usize = 20_000;
/// What a folder is asked for first, and with the beginning of its texts.
const NEWEST: u64 = 200;
/// Messages that one command asks for: what is lost when a session breaks.
const PIECE: u64 = 500;
/// Of a command's UIDs. Servers take lines of 8,000 bytes.
const COMMAND_BYTES: usize = 7_000;
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
    /// What was asked for and did not come.
    unanswered: UidSet,
    /// How many messages had no UID when the session began.
    orphans_before: i32,
}

/// What a command is for.
enum Step {
    /// Opens the folder.
    Open,
    /// Asks for flags of known messages; all of them, or those that changed.
    Flags { all: bool },
    /// Asks for all UIDs.
    Uids,
    /// Asks for messages; for these, where they were listed before.
    Messages { asked: Option<UidSet> },
    /// Asks whether these are there, of which nothing could be read.
    Presence,
}

/// A command, and the folder that it is about.
struct Order {
    work: usize,
    step: Step,
    command: Command,
}

/// What was read of one folder until there was enough of it, or the next command's answer began.
#[derive(Default)]
struct Read {
    work: usize,
    batch: Batch,
    vanished: UidSet,
    /// All UIDs, where they were asked for and the server has said them all.
    present: Option<UidSet>,
    /// It has said all flags with them.
    checked: bool,
}

pub(super) struct Driver<'a> {
    pub db: &'a Db,
    pub mailbox: &'a Mailbox,
    pub features: Features,
    pub stop_at: Instant,
    /// Folders that are labels, by what messages call them (Gmail).
    pub labels: HashMap<String, Uuid>,
}

impl Driver<'_> {
    /// Synchronises all folders, as far as the time goes.
    pub(super) async fn run(mut self, imap: &mut Imap) -> Result<Pass, Stop> {
        let listed = imap.list(&self.features).await?;
        let folders = self.take_over(&listed).await?;
        for here in folders.iter().filter(|folder| folder.is_label) {
            if let Some(there) = listed.iter().find(|folder| folder.wire == here.wire_name) {
                self.labels.extend(plan::label_names(there).into_iter().map(|name| (name, here.id)));
            }
        }
        let mut works = self.look(imap, folders, &listed).await?;
        works.sort_by_key(|work| plan::rank(&work.here, self.has_labels()));
        self.keep_labels(&mut works, false).await?;
        for work in &mut works {
            if work.look == Look::Anew {
                self.begin_anew(work).await?;
            }
        }
        self.compare(imap, &mut works).await?;
        self.fetch(imap, &mut works).await?;
        let pass = self.sweep(&works).await?;
        // Labels are all told when all messages have told theirs.
        let is_whole = |work: &Work| !work.failed && i64::from(work.here.stored) == i64::from(work.there.messages);
        if !pass.doubt && works.iter().any(|work| is_all(&work.here) && is_whole(work)) {
            self.keep_labels(&mut works, true).await?;
        }
        Ok(pass)
    }

    fn has_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Stores what the server says of labels; `told`: all their messages are here as well.
    async fn keep_labels(&self, works: &mut [Work], told: bool) -> Result<(), Stop> {
        let mut labels = Vec::new();
        for Work { here, there, .. } in works.iter_mut().filter(|work| is_counted_label(work)) {
            let validity = Some(there.uid_validity).filter(|validity| told || here.uid_validity == Some(*validity));
            let total = i32::try_from(there.messages).unwrap_or(i32::MAX);
            let unread = i32::try_from(there.unseen).unwrap_or(i32::MAX);
            if (here.uid_validity, here.total, here.unread) != (validity, total, unread) {
                labels.push(Label { id: here.id, uid_validity: validity, total, unread });
                (here.total, here.unread) = (total, unread);
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
            let work = |here: Folder, there, failed| Work {
                orphans_before: here.orphans,
                here,
                there,
                look: Look::Nothing,
                missing: UidSet::new(),
                failed,
                checked: false,
                unanswered: UidSet::new(),
            };
            match status {
                // Labels are never opened: what is in them lies elsewhere.
                status if here.is_gone || !here.is_selectable || here.is_label => {
                    let mut work = work(here, status.unwrap_or(NO_STATUS), false);
                    if work.here.stored > 0 {
                        self.orphan(&mut work, ALL_UIDS).await?;
                    }
                    works.push(work);
                }
                Some(there) => works.push(work(here, there, false)),
                None => {
                    unknown.push(works.len());
                    works.push(work(here, NO_STATUS, true));
                }
            }
        }
        self.ask_status(imap, &mut works, &unknown).await?;
        let now = now_ms();
        let is_untold = |work: &Work| is_counted_label(work) && work.here.uid_validity != Some(work.there.uid_validity);
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
            let (mut validity, mut next, mut uids, mut done) = (None, None, UidSet::new(), 0);
            while let Some(event) = talk.next().await? {
                match event {
                    Event::Exists(count) => work.there.messages = count,
                    Event::UidValidity(number) => validity = Some(number),
                    Event::UidNext(number) => next = Some(number),
                    Event::HighestModseq(modseq) => work.there.highest_modseq = Some(modseq),
                    Event::Found(found) => uids = uids.union(&found),
                    Event::Done { outcome: Outcome::Ok, .. } => done += 1,
                    _ => {}
                }
            }
            if let (Some(validity), 2) = (validity, done) {
                work.there.uid_validity = validity;
                work.there.uid_next = next.unwrap_or_else(|| uids.last().unwrap_or_default().saturating_add(1));
                work.there.unseen = u32::try_from(work.here.unread).unwrap_or_default();
                work.failed = false;
            }
        }
        Ok(())
    }

    /// Forgets a folder's UIDs. What is here stays, to be found again.
    async fn begin_anew(&self, work: &mut Work) -> Result<(), Stop> {
        if work.here.stored > 0 {
            self.orphan(work, ALL_UIDS).await?;
        }
        let there = &work.there;
        self.db.reset_folder(&self.mailbox.lease, work.here.id, Some(there.uid_validity)).await?.ok_or(Stop::Lost)?;
        // What changes from here on is asked for next time, however long the rest takes.
        let cursor = Cursor { uid_next: Some(there.uid_next), modseq: there.highest_modseq, ..Cursor::default() };
        (work.here.uid_validity, work.here.uid_next) = (Some(there.uid_validity), there.uid_next);
        work.here.modseq = there.highest_modseq;
        work.here.is_complete = false;
        self.store(work, &Batch { cursor, ..Batch::default() }).await?;
        work.look = Look::Changes(Changes { flags: Flags::No, compare: true, arrivals: false });
        Ok(())
    }

    /// Asks for what has changed of messages that are here, all folders in one flight.
    async fn compare(&self, imap: &mut Imap, works: &mut [Work]) -> Result<(), Stop> {
        let mut orders = Vec::new();
        for (index, work) in works.iter().enumerate() {
            let Look::Changes(changes) = work.look else { continue };
            if changes.flags == Flags::No && !changes.compare {
                continue;
            }
            let mut order = |step, command| orders.push(Order { work: index, step, command });
            order(Step::Open, self.open(&work.here, changes.flags == Flags::Resync));
            let known = UidSet::from(1..=work.here.uid_next.saturating_sub(1).max(1));
            let flags =
                |changed_since| Command::Fetch { uids: known, items: Items::Flags, changed_since, vanished: false };
            match changes.flags {
                Flags::No | Flags::Resync => {}
                Flags::Since(modseq) => order(Step::Flags { all: false }, flags(Some(modseq))),
                Flags::All => order(Step::Flags { all: true }, flags(None)),
            }
            // Asking for all flags tells all UIDs as well.
            if changes.compare && changes.flags != Flags::All {
                order(Step::Uids, Command::SearchAll);
            }
        }
        self.converse(imap, works, orders).await
    }

    /// Fetches messages: of each folder the newest, then backwards.
    async fn fetch(&self, imap: &mut Imap, works: &mut [Work]) -> Result<(), Stop> {
        let mut orders = Vec::new();
        for (index, work) in works.iter_mut().enumerate() {
            let Look::Changes(changes) = work.look else { continue };
            if work.failed || !changes.arrivals && work.missing.is_empty() {
                continue;
            }
            orders.push(Order { work: index, step: Step::Open, command: self.open(&work.here, false) });
            if changes.arrivals {
                let uids = UidSet::from(work.here.uid_next..=work.there.uid_next.saturating_sub(1));
                orders.push(messages(index, uids, Items::Arrivals, false));
            }
            let newest = work.missing.newest(NEWEST);
            work.missing = work.missing.difference(&newest);
            orders.extend(
                newest.split(COMMAND_BYTES).into_iter().map(|uids| messages(index, uids, Items::Arrivals, true)),
            );
        }
        self.converse(imap, works, orders).await?;
        for index in 0..works.len() {
            let Some(work) = works.get_mut(index) else { break };
            let mut rest = std::mem::take(&mut work.missing);
            if !rest.is_empty() && !work.failed {
                let mut orders = vec![Order { work: index, step: Step::Open, command: self.open(&work.here, false) }];
                while !rest.is_empty() {
                    let piece = rest.newest(PIECE);
                    rest = rest.difference(&piece);
                    let pieces = piece.split(COMMAND_BYTES).into_iter();
                    orders.extend(pieces.map(|uids| messages(index, uids, Items::Headers, true)));
                }
                self.converse(imap, works, orders).await?;
            }
            self.ask_presence(imap, works, index).await?;
            if let Some(work) = works.get_mut(index) {
                self.conclude(work).await?;
            }
        }
        Ok(())
    }

    /// What was asked for and did not come is either gone by now or cannot be read: who is there is stored as it is.
    async fn ask_presence(&self, imap: &mut Imap, works: &mut [Work], index: usize) -> Result<(), Stop> {
        let Some(work) = works.get_mut(index).filter(|work| !work.failed && !work.unanswered.is_empty()) else {
            return Ok(());
        };
        let unanswered = std::mem::take(&mut work.unanswered);
        tracing::warn!(folder = %work.here.id, count = unanswered.len(), "messages_not_fetched");
        let mut orders = vec![Order { work: index, step: Step::Open, command: self.open(&work.here, false) }];
        orders.extend(unanswered.split(COMMAND_BYTES).into_iter().map(|uids| {
            let command = Command::Fetch { uids, items: Items::Flags, changed_since: None, vanished: false };
            Order { work: index, step: Step::Presence, command }
        }));
        self.converse(imap, works, orders).await
    }

    /// Says how far a folder is.
    async fn conclude(&self, work: &mut Work) -> Result<(), Stop> {
        if work.failed || !matches!(work.look, Look::Changes(_)) {
            return Ok(());
        }
        let (here, there) = (&work.here, &work.there);
        // Where the numbers do not agree, all UIDs are compared next time.
        let is_complete = i64::from(here.stored) == i64::from(there.messages);
        let total = i32::try_from(there.messages).unwrap_or(i32::MAX);
        let unread = i32::try_from(there.unseen).unwrap_or(i32::MAX);
        let checked_at = (work.checked && here.stored > plan::SMALL).then(now_ms);
        let is_same = (here.uid_next, here.is_complete) == (there.uid_next, is_complete)
            && (there.highest_modseq.is_none() || there.highest_modseq == here.modseq)
            && (here.total, here.unread) == (total, unread);
        if is_same && checked_at.is_none() {
            return Ok(());
        }
        let cursor = Cursor {
            uid_next: Some(there.uid_next),
            modseq: there.highest_modseq,
            is_complete: Some(is_complete),
            checked_at,
            total: Some(total),
            unread: Some(unread),
        };
        self.store(work, &Batch { cursor, ..Batch::default() }).await
    }

    /// Destroys what was found nowhere, after all folders were searched for it.
    async fn sweep(&self, works: &[Work]) -> Result<Pass, Stop> {
        let failed = works.iter().any(|work| work.failed);
        let is_first = |work: &Work| plan::rank(&work.here, self.has_labels()) == 0;
        let mut pass = Pass { doubt: false, failed: works.iter().any(|work| work.failed && is_first(work)) };
        for work in works {
            let here = &work.here;
            // What was seen missing just now may lie in a folder that could not be read: it has until the next time.
            let is_due = if failed { work.orphans_before > 0 } else { here.orphans > 0 };
            if !(here.is_gone && !failed || is_due || here.doubted_at.is_some()) {
                continue;
            }
            loop {
                match self.db.destroy_orphans(&self.mailbox.lease, here.id, DOUBT_PATIENCE).await?.ok_or(Stop::Lost)? {
                    Destroyed::More => self.check_time()?,
                    Destroyed::Done => break,
                    Destroyed::Doubt => {
                        pass.doubt = true;
                        break;
                    }
                }
            }
        }
        Ok(pass)
    }

    /// Sends commands, and stores what comes back: a batch while the next is read.
    async fn converse(&self, imap: &mut Imap, works: &mut [Work], orders: Vec<Order>) -> Result<(), Stop> {
        if orders.is_empty() {
            return Ok(());
        }
        let (mut plan, mut commands) = (Vec::new(), Vec::new());
        for Order { work, step, command } in orders {
            plan.push((work, step));
            commands.push(command);
        }
        let mut reader = Reader {
            talk: imap.converse(&self.features, commands),
            account: self.mailbox.account.id,
            folders: works.iter().map(|work| (work.here.id, work.there.uid_validity)).collect(),
            labels: works.iter().map(|work| is_all(&work.here).then_some(&self.labels)).collect(),
            seen: works.iter().map(|_| Seen::default()).collect(),
            plan,
            done: 0,
        };
        let mut next = reader.read().await;
        let outcome = loop {
            match next {
                Ok(None) => break Ok(()),
                Ok(Some(read)) => {
                    let (kept, read) = tokio::join!(self.keep(works, read), reader.read());
                    kept?;
                    self.check_time()?;
                    next = read;
                }
                Err(error) => {
                    // What came before it is good.
                    self.keep(works, reader.rest()).await?;
                    break Err(error.into());
                }
            }
        };
        for (work, seen) in works.iter_mut().zip(reader.seen) {
            work.failed |= seen.failed;
            work.unanswered = work.unanswered.union(&seen.unanswered);
        }
        outcome
    }

    /// Stores what was read of a folder.
    async fn keep(&self, works: &mut [Work], read: Read) -> Result<(), Stop> {
        let Some(work) = works.get_mut(read.work) else { return Ok(()) };
        let known = UidSet::from(1..=work.here.uid_next.saturating_sub(1).max(1));
        let gone = read.vanished.intersection(&known);
        if !gone.is_empty() {
            for gone in gone.split(MULTIRANGE_BYTES) {
                self.orphan(work, &multirange(&gone)).await?;
            }
        }
        if !read.batch.is_empty() {
            self.store(work, &read.batch).await?;
        }
        if let Some(present) = read.present {
            work.checked |= read.checked;
            let present = present.intersection(&known);
            if work.here.is_complete
                && i64::try_from(present.len()).is_ok_and(|count| count == i64::from(work.here.stored))
            {
                return Ok(());
            }
            let compared = self
                .db
                .compare_uids(&self.mailbox.lease, work.here.id, &multirange(&present), work.here.uid_next)
                .await?;
            let (gone, missing) = compared.ok_or(Stop::Lost)?;
            if gone != "{}" {
                self.orphan(work, &gone).await?;
            }
            work.missing = uid_set(&missing);
        }
        Ok(())
    }

    async fn store(&self, work: &mut Work, batch: &Batch) -> Result<(), Stop> {
        let validity = work.there.uid_validity;
        let stored =
            self.db.store_batch(&self.mailbox.lease, work.here.id, validity, batch).await?.ok_or(Stop::Lost)?;
        work.here.stored += stored.inserted + stored.adopted;
        Ok(())
    }

    async fn orphan(&self, work: &mut Work, gone: &str) -> Result<(), Stop> {
        let count = self.db.orphan_messages(&self.mailbox.lease, work.here.id, gone).await?.ok_or(Stop::Lost)?;
        work.here.stored -= count;
        work.here.orphans += count;
        Ok(())
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
    let step = Step::Messages { asked: listed.then(|| uids.clone()) };
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
    seen: Vec<Seen>,
    /// What each command is for.
    plan: Vec<(usize, Step)>,
    /// So many of them have ended.
    done: usize,
}

/// What is known of a folder's answers until now.
#[derive(Default)]
struct Seen {
    read: Read,
    failed: bool,
    /// The UIDs of what one command fetched.
    uids: Vec<u32>,
    vanished: UidSet,
    /// Nothing is known where the server said nothing.
    found: Option<UidSet>,
    undecodable: bool,
    unanswered: UidSet,
}

impl Reader<'_> {
    /// What comes until there is enough of it or a command ends; `None` at the end.
    async fn read(&mut self) -> Result<Option<Read>, mail::Error> {
        while let Some(event) = self.talk.next().await? {
            let Some((index, step)) = self.plan.get(self.done) else { break };
            let (Some(seen), Some((folder, validity))) = (self.seen.get_mut(*index), self.folders.get(*index)) else {
                break;
            };
            match event {
                Event::Done { outcome, .. } => {
                    let accepted = outcome == Outcome::Ok;
                    if !accepted {
                        tracing::info!(folder = %folder, outcome = ?outcome, "folder_refused");
                    }
                    seen.end(step, accepted);
                    self.done += 1;
                    if let Some(read) = seen.take(*index) {
                        return Ok(Some(read));
                    }
                }
                // Whatever else comes of a folder that was not opened is of another one.
                _ if seen.failed => {}
                Event::UidValidity(number) if number != *validity => seen.failed = true,
                Event::Vanished { uids, .. } => seen.vanished = seen.vanished.union(&uids),
                Event::Found(uids) if matches!(step, Step::Uids) => {
                    seen.found = Some(seen.found.take().unwrap_or_default().union(&uids));
                }
                Event::Undecodable { uid } => match (uid, step) {
                    (Some(uid), Step::Messages { .. }) => {
                        seen.unanswered = seen.unanswered.union(&UidSet::from(uid..=uid));
                    }
                    _ => seen.undecodable = true,
                },
                Event::Fetched(fetched) => {
                    if let Some(gmail) = &fetched.gmail {
                        let known = self.labels.get(*index).copied().flatten();
                        let labels = gmail.labels.iter().filter_map(|label| known?.get(label));
                        seen.read.batch.labelled.push(fetched.uid);
                        seen.read.batch.labels.extend(labels.map(|folder| (fetched.uid, *folder)));
                    }
                    match step {
                        Step::Messages { asked } => {
                            // Nobody asked for what lies elsewhere, such as flags that another client has just changed.
                            if fetched.header.is_some()
                                && asked.as_ref().is_none_or(|asked| asked.contains(fetched.uid))
                            {
                                seen.uids.push(fetched.uid);
                                seen.read.batch.messages.push(message::read(self.account, &fetched, now_ms()));
                            } else if let Some(flags) = fetched.flags {
                                seen.read.batch.flags.push((fetched.uid, bits(flags)));
                            }
                        }
                        Step::Presence => {
                            let flags = bits(fetched.flags.unwrap_or_default());
                            let message = message::unreadable(*folder, *validity, fetched.uid, flags, now_ms());
                            seen.read.batch.messages.push(message);
                        }
                        Step::Open | Step::Flags { .. } | Step::Uids => {
                            seen.uids.push(fetched.uid);
                            if let Some(flags) = fetched.flags {
                                seen.read.batch.flags.push((fetched.uid, bits(flags)));
                            }
                        }
                    }
                    let Batch { messages, flags, labelled, labels, .. } = &seen.read.batch;
                    let is_full =
                        messages.len() >= BATCH || flags.len().max(labelled.len()) >= FLAGS || labels.len() >= LABELS;
                    if let Some(read) = is_full.then(|| seen.take(*index)).flatten() {
                        return Ok(Some(read));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// What was read before the connection broke: rows, and nothing about what is absent.
    fn rest(&mut self) -> Read {
        let current = self.plan.get(self.done).map(|(index, _)| *index).unwrap_or_default();
        let read = self.seen.get_mut(current).map(|seen| std::mem::take(&mut seen.read.batch)).unwrap_or_default();
        Read { work: current, batch: read, ..Read::default() }
    }
}

impl Seen {
    /// A command has ended.
    fn end(&mut self, step: &Step, accepted: bool) {
        let uids = std::mem::take(&mut self.uids);
        let undecodable = std::mem::take(&mut self.undecodable);
        let (vanished, found) = (std::mem::take(&mut self.vanished), std::mem::take(&mut self.found));
        if !accepted || self.failed {
            self.failed = true;
            return;
        }
        // Only what a server says with all its words is absent.
        self.read.vanished = vanished;
        match step {
            Step::Uids => self.read.present = found,
            Step::Flags { all: true } if !undecodable => {
                self.read.present = Some(uids.into_iter().collect());
                self.read.checked = true;
            }
            Step::Messages { asked: Some(asked) } => {
                let came: UidSet = uids.into_iter().collect();
                self.unanswered = self.unanswered.union(&asked.difference(&came));
            }
            Step::Open | Step::Flags { .. } | Step::Messages { asked: None } | Step::Presence => {}
        }
    }

    /// What is there to be stored.
    fn take(&mut self, work: usize) -> Option<Read> {
        let read = std::mem::take(&mut self.read);
        let is_empty = read.batch.is_empty() && read.vanished.is_empty() && read.present.is_none();
        (!is_empty).then_some(Read { work, ..read })
    }
}

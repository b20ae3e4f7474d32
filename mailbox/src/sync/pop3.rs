//! A mailbox at a POP3 server: one folder, whose messages are known by what UIDL says of them. Nothing is changed there,
//! and flags are kept here alone.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use mail::pop3::{Begin, Listed as Message, Pop3};
use shared::db::Db;
use shared::db::mailboxes::{Batch, Cursor, Destroyed, Folder, Fresh, Listed, Mailbox, NewMessage, Suspicion};
use uuid::Uuid;

use super::message::{self, hash};
use super::suspects::{self, Shown};
use super::{ALL_UIDS, DOUBT_PATIENCE, Pass, Stop, now_ms};

/// Messages that are fetched and stored at once.
const BATCH: usize = 200;
/// What is looked for at once among messages that have no UID: what a statement's time is enough for.
const FOUND: usize = 5_000;
/// What of them is held at most until it is stored, but for the last: all of them, mostly.
const BATCH_BYTES: usize = 512 * 1024;
/// Lines of a text whose beginning is shown: of the newest, and of what arrives later.
const LINES: u32 = 40;
/// How many are fetched with the beginning of their texts at first.
const NEWEST: usize = 200;
/// There is one folder, and nothing that could make it another one.
const VALIDITY: u32 = 1;

pub(super) struct Driver<'a> {
    pub db: &'a Db,
    pub mailbox: &'a Mailbox,
    pub stop_at: Instant,
}

impl Driver<'_> {
    /// Synchronises the mailbox, as far as the time goes.
    pub(super) async fn run(&self, pop3: &mut Pop3) -> Result<Pass, Stop> {
        let lease = &self.mailbox.lease;
        let mut folder = self.inbox().await?;
        let listed = pop3.uids().await?;
        // The same twice is one: which of them is which, nobody could tell the next time.
        let mut numbers: HashMap<Uuid, &Message> = HashMap::with_capacity(listed.len());
        for message in &listed {
            numbers.entry(identity(&message.uid)).or_insert(message);
        }
        let digest = digest(&numbers);
        // A worker that died after its cursor may have left what was found nowhere.
        let is_settled = folder.orphans == 0 && folder.doubted_at.is_none();
        if folder.is_complete && folder.modseq == Some(digest) && is_settled {
            return Ok(Pass { doubt: false, failed: false });
        }
        for hidden in self.db.hidden_messages(lease).await?.ok_or(Stop::Lost)? {
            numbers.remove(&hidden);
        }
        let identities: Vec<Uuid> = numbers.keys().copied().collect();
        let compared = self.db.compare_identities(lease, folder.id, &identities).await?;
        let (gone, missing) = compared.ok_or(Stop::Lost)?;
        if gone != "{}" {
            self.db.orphan_messages(lease, folder.id, &gone).await?.ok_or(Stop::Lost)?;
        }
        let mut found = HashSet::new();
        if folder.orphans > 0 {
            for identities in missing.chunks(FOUND) {
                let size = |id| numbers.get(id).and_then(|listed| i64::try_from(listed.size).ok()).unwrap_or_default();
                let sizes: Vec<i64> = identities.iter().map(size).collect();
                let again = self.db.find_again(lease, folder.id, identities, &sizes).await?.ok_or(Stop::Lost)?;
                folder.uid_next = again.uid_next;
                found.extend(again.identities);
                self.check_time()?;
            }
        }
        let is_first = !folder.is_complete;
        let missing = missing.iter().filter(|identity| !found.contains(*identity));
        let mut missing: Vec<&Message> = missing.filter_map(|id| numbers.get(id).copied()).collect();
        missing.sort_unstable_by_key(|message| std::cmp::Reverse(message.number));
        let mut told = Told::default();
        let noted = folder.suspects.clone().unwrap_or_default();
        let noted: Vec<Uuid> = noted.split(',').filter_map(|id| id.parse().ok()).collect();
        let (suspected, missing): (Vec<&Message>, Vec<&Message>) =
            missing.into_iter().partition(|message| noted.contains(&identity(&message.uid)));
        let witness = match suspected.is_empty() {
            true => None,
            false => self.db.find_readable(lease, folder.id).await?,
        };
        let witness = witness.and_then(|(_, identity)| numbers.get(&identity).map(|message| message.number));
        let (first, last) = if witness.is_some() { (suspected, Vec::new()) } else { (Vec::new(), suspected) };
        self.fetch_suspects(pop3, &mut folder, witness, &first, &mut told).await?;
        for (index, messages) in missing.chunks(BATCH).enumerate() {
            let lines = if is_first && index * BATCH >= NEWEST { 0 } else { LINES };
            self.fetch(pop3, &mut folder, messages, lines, &mut told).await?;
        }
        // Where nothing could be read, others show first that something can.
        self.fetch_suspects(pop3, &mut folder, None, &last, &mut told).await?;
        if let Some(words) = told.words {
            // Nobody knows yet whether it is for ever. Each was refused for itself; where all were, one stands for them, so that a
            // server that gives out none for some hours spoils little.
            let noted = if told.shown.came { 0 } else { told.refused.len().saturating_sub(1) };
            let noted = told.refused.get(noted..).unwrap_or_default();
            let error = mail::Error::new(mail::Code::Protocol, words);
            // Nor does a session that had others to bring count for much: it is not gone on with at once, when the trouble may last.
            let shown = Shown { came: told.shown.came && !told.shown.grew, ..told.shown };
            return Err(self.suspect(&folder, noted, true, shown, error).await?);
        }
        let cursor = Cursor {
            modseq: Some(digest),
            is_complete: Some(true),
            total: Some(i32::try_from(numbers.len()).unwrap_or(i32::MAX)),
            ..Cursor::default()
        };
        // Before the cursor: with that, nobody looks again.
        if !self.db.count_unread(lease, folder.id).await? {
            return Err(Stop::Lost);
        }
        self.store(Batch { cursor, ..Batch::new(folder.id, VALIDITY) }).await?;
        loop {
            let destroyed = self.db.destroy_orphans(lease, &[folder.id], DOUBT_PATIENCE).await?;
            let Destroyed { more, doubt } = destroyed.ok_or(Stop::Lost)?;
            if !more {
                return Ok(Pass { doubt, failed: false });
            }
            self.check_time()?;
        }
    }

    /// The one folder, which is made at the first time, and whose messages lose their numbers where it was another
    /// mailbox's.
    async fn inbox(&self) -> Result<Folder, Stop> {
        let (db, lease) = (self.db, &self.mailbox.lease);
        let is_inbox = |folder: &&Folder| folder.wire_name == b"INBOX" && !folder.is_gone;
        let mut folder = match self.mailbox.folders.iter().find(is_inbox) {
            Some(folder) if self.mailbox.folders.len() == 1 && !folder.is_label => folder.clone(),
            _ => {
                let listed = Listed {
                    wire_name: b"INBOX",
                    path: "INBOX",
                    delimiter: None,
                    role: Some("inbox"),
                    is_selectable: true,
                    is_label: false,
                };
                let folders = db.store_folders(lease, &[listed]).await?.ok_or(Stop::Lost)?;
                let mut inbox = None;
                for folder in folders {
                    if is_inbox(&&folder) {
                        inbox = Some(folder);
                    } else {
                        // Of the time when this was an IMAP account.
                        db.orphan_messages(lease, folder.id, ALL_UIDS).await?.ok_or(Stop::Lost)?;
                        let other = [folder.id];
                        while db.destroy_orphans(lease, &other, DOUBT_PATIENCE).await?.ok_or(Stop::Lost)?.more {
                            self.check_time()?;
                        }
                    }
                }
                inbox.ok_or(Stop::Lost)?
            }
        };
        if folder.uid_validity != Some(VALIDITY) {
            folder.orphans += db.orphan_messages(lease, folder.id, ALL_UIDS).await?.ok_or(Stop::Lost)?;
            let fresh = Fresh { id: folder.id, uid_validity: VALIDITY, uid_next: 1, modseq: None };
            db.reset_folders(lease, &[fresh]).await?.ok_or(Stop::Lost)?;
            (folder.uid_validity, folder.uid_next, folder.modseq, folder.is_complete) =
                (Some(VALIDITY), 1, None, false);
            folder.suspects = None;
        }
        Ok(folder)
    }

    /// Fetches what did not come when a session broke, after `witness`, if there is one. What is proved is not fetched again.
    async fn fetch_suspects(
        &self,
        pop3: &mut Pop3,
        folder: &mut Folder,
        witness: Option<u32>,
        suspected: &[&Message],
        told: &mut Told,
    ) -> Result<(), Stop> {
        if suspected.is_empty() {
            return Ok(());
        }
        tracing::info!(folder = %folder.id, count = suspected.len(), "messages_suspected");
        if suspects::is_proved(folder) {
            tracing::warn!(folder = %folder.id, count = suspected.len(), "messages_not_fetched");
            let mut batch = Batch::new(folder.id, VALIDITY);
            for message in suspected {
                batch.messages.push(self.message(folder.uid_next, message, None, now_ms()));
                folder.uid_next = folder.uid_next.saturating_add(1);
            }
            batch.cursor.uid_next = Some(folder.uid_next);
            return self.store(batch).await;
        }
        let mut tops = pop3.tops(witness.into_iter().collect(), 0);
        while let Some(top) = tops.next().await? {
            told.shown.came |= top.begin.is_ok();
        }
        // Of which something is known already, each was refused for itself.
        let pieces = if folder.suspicions > 0 { vec![suspected] } else { suspects::pieces(suspected) };
        for messages in pieces {
            self.fetch(pop3, folder, messages, 0, told).await?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        pop3: &mut Pop3,
        folder: &mut Folder,
        messages: &[&Message],
        lines: u32,
        told: &mut Told,
    ) -> Result<(), Stop> {
        self.check_time()?;
        let numbers: Vec<u32> = messages.iter().map(|message| message.number).collect();
        let by_number: HashMap<u32, &Message> = messages.iter().map(|message| (message.number, *message)).collect();
        let now = now_ms();
        let mut batch = Batch::new(folder.id, VALIDITY);
        let mut tops = pop3.tops(numbers, lines);
        let (mut came, mut bytes, mut is_left) = (0, 0, false);
        let outcome = loop {
            // Where messages come whole, a few take all of the time.
            if Instant::now() >= self.stop_at {
                is_left |= tops.stop();
            }
            let top = match tops.next().await {
                Ok(Some(top)) => top,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            came += 1;
            let Some(listed) = by_number.get(&top.number) else { continue };
            let begin = match top.begin {
                Ok(begin) => begin,
                Err(words) => {
                    told.refuse(identity(&listed.uid), words);
                    continue;
                }
            };
            told.shown.came = true;
            told.shown.grew = true;
            let message = self.message(folder.uid_next, listed, Some(begin), now);
            bytes += message::bytes(&message);
            batch.messages.push(message);
            folder.uid_next = folder.uid_next.saturating_add(1);
            if bytes > BATCH_BYTES {
                bytes = 0;
                batch.cursor.uid_next = Some(folder.uid_next);
                self.store(std::mem::replace(&mut batch, Batch::new(folder.id, VALIDITY))).await?;
            }
        };
        batch.cursor.uid_next = Some(folder.uid_next);
        // What came before a failure is good.
        self.store(batch).await?;
        let Err(error) = outcome else {
            return if is_left { Err(Stop::Time) } else { Ok(()) };
        };
        let unanswered = messages.get(came..).unwrap_or_default();
        if unanswered.is_empty() {
            return Err(error.into());
        }
        let unanswered: Vec<Uuid> = unanswered.iter().map(|message| identity(&message.uid)).collect();
        Err(self.suspect(folder, &unanswered, messages.len() == 1, told.shown, error).await?)
    }

    /// Notes what did not come; see [`suspects::weigh`].
    async fn suspect(
        &self,
        folder: &Folder,
        identities: &[Uuid],
        is_alone: bool,
        shown: Shown,
        error: mail::Error,
    ) -> Result<Stop, Stop> {
        let suspects: Vec<String> = identities.iter().map(Uuid::to_string).collect();
        let suspects = suspects.join(",");
        let weight = suspects::weigh(folder, &suspects, is_alone, shown);
        let suspicion =
            Suspicion { folder: folder.id, validity: VALIDITY, uid_next: None, suspects: &suspects, weight };
        self.db.suspect_messages(&self.mailbox.lease, suspicion).await?.ok_or(Stop::Lost)?;
        Ok(suspects::stop(error, shown))
    }

    fn message(&self, uid: u32, listed: &Message, begin: Option<Begin>, now: i64) -> NewMessage {
        message::of_pop3(self.mailbox.account.id, identity(&listed.uid), uid, listed.size, begin, now)
    }

    async fn store(&self, batch: Batch) -> Result<(), Stop> {
        self.db.store_batches(&self.mailbox.lease, &[batch]).await?.ok_or(Stop::Lost)?;
        Ok(())
    }

    fn check_time(&self) -> Result<(), Stop> {
        if Instant::now() < self.stop_at { Ok(()) } else { Err(Stop::Time) }
    }
}

/// What a session has told.
#[derive(Default)]
struct Told {
    shown: Shown,
    /// What was asked for and refused, [`suspects::MOST`] at most.
    refused: Vec<Uuid>,
    /// The server's own, of the first of them.
    words: Option<String>,
}

impl Told {
    fn refuse(&mut self, identity: Uuid, words: String) {
        self.words.get_or_insert(words);
        if self.refused.len() < suspects::MOST {
            self.refused.push(identity);
        }
    }
}

/// What a message is known by here.
pub(crate) fn identity(uid: &str) -> Uuid {
    hash(&[b"uidl", uid.as_bytes()])
}

/// Of all that is there, whatever its order: a mailbox with the same one has not changed.
fn digest(numbers: &HashMap<Uuid, &Message>) -> u64 {
    let mut sorted: Vec<&[u8]> = numbers.keys().map(|id| id.as_bytes().as_slice()).collect();
    sorted.sort_unstable();
    // As much of it as a bigint holds.
    hash(&sorted).as_u64_pair().0 >> 1
}

//! A mailbox at a POP3 server: one folder, whose messages are known by what UIDL says of them. Nothing is changed there,
//! and flags are kept here alone.

use std::collections::HashMap;
use std::time::Instant;

use mail::pop3::{Listed as Message, Pop3};
use shared::db::Db;
use shared::db::mailboxes::{Batch, Cursor, Destroyed, Folder, Listed, Mailbox};
use uuid::Uuid;

use super::message::{self, hash};
use super::{ALL_UIDS, DOUBT_PATIENCE, Pass, Stop, now_ms};

/// Messages that are fetched and stored at once.
const BATCH: usize = 200;
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
        if folder.is_complete && folder.modseq == Some(digest) && folder.doubted_at.is_none() {
            return Ok(Pass { doubt: false, failed: false });
        }
        for hidden in self.db.hidden_messages(lease).await?.ok_or(Stop::Lost)? {
            numbers.remove(&hidden);
        }
        let identities: Vec<Uuid> = numbers.keys().copied().collect();
        let compared = self.db.compare_identities(lease, folder.id, &identities).await?.ok_or(Stop::Lost)?;
        if compared.gone != "{}" {
            self.db.orphan_messages(lease, folder.id, &compared.gone).await?.ok_or(Stop::Lost)?;
        }
        let is_first = !folder.is_complete;
        let mut missing: Vec<&Message> = compared.missing.iter().filter_map(|id| numbers.get(id).copied()).collect();
        missing.sort_unstable_by_key(|message| std::cmp::Reverse(message.number));
        for (index, messages) in missing.chunks(BATCH).enumerate() {
            let lines = if is_first && index * BATCH >= NEWEST { 0 } else { LINES };
            self.fetch(pop3, &mut folder, messages, lines).await?;
        }
        let unread = usize::try_from(compared.unread).unwrap_or_default() + missing.len();
        let cursor = Cursor {
            modseq: Some(digest),
            is_complete: Some(true),
            total: Some(i32::try_from(numbers.len()).unwrap_or(i32::MAX)),
            unread: Some(i32::try_from(unread).unwrap_or(i32::MAX)),
            ..Cursor::default()
        };
        self.store(&folder, Batch { cursor, ..Batch::default() }).await?;
        loop {
            match self.db.destroy_orphans(lease, folder.id, DOUBT_PATIENCE).await?.ok_or(Stop::Lost)? {
                Destroyed::More => self.check_time()?,
                outcome => return Ok(Pass { doubt: outcome == Destroyed::Doubt, failed: false }),
            }
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
                        while db.destroy_orphans(lease, folder.id, DOUBT_PATIENCE).await?.ok_or(Stop::Lost)?
                            == Destroyed::More
                        {
                            self.check_time()?;
                        }
                    }
                }
                inbox.ok_or(Stop::Lost)?
            }
        };
        if folder.uid_validity != Some(VALIDITY) {
            db.orphan_messages(lease, folder.id, ALL_UIDS).await?.ok_or(Stop::Lost)?;
            db.reset_folder(lease, folder.id, Some(VALIDITY)).await?.ok_or(Stop::Lost)?;
            (folder.uid_validity, folder.uid_next, folder.modseq, folder.is_complete) =
                (Some(VALIDITY), 1, None, false);
        }
        Ok(folder)
    }

    async fn fetch(&self, pop3: &mut Pop3, folder: &mut Folder, messages: &[&Message], lines: u32) -> Result<(), Stop> {
        self.check_time()?;
        let numbers: Vec<u32> = messages.iter().map(|message| message.number).collect();
        let by_number: HashMap<u32, &Message> = messages.iter().map(|message| (message.number, *message)).collect();
        let now = now_ms();
        let mut batch = Batch::default();
        let mut next = folder.uid_next;
        let mut tops = pop3.tops(numbers, lines);
        let outcome = loop {
            let top = match tops.next().await {
                Ok(Some(top)) => top,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let Some(listed) = by_number.get(&top.number) else { continue };
            let (account, identity) = (self.mailbox.account.id, identity(&listed.uid));
            batch.messages.push(message::of_pop3(account, identity, next, listed.size, top.begin.ok(), now));
            next = next.saturating_add(1);
        };
        batch.cursor.uid_next = Some(next);
        // What came before a failure is good.
        self.store(folder, batch).await?;
        folder.uid_next = next;
        Ok(outcome?)
    }

    async fn store(&self, folder: &Folder, batch: Batch) -> Result<(), Stop> {
        self.db.store_batch(&self.mailbox.lease, folder.id, VALIDITY, &batch).await?.ok_or(Stop::Lost)?;
        Ok(())
    }

    fn check_time(&self) -> Result<(), Stop> {
        if Instant::now() < self.stop_at { Ok(()) } else { Err(Stop::Time) }
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

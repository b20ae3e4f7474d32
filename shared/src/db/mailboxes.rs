//! Queries of the worker that synchronises: whose turn an account is, and what came of its folders. Their role is
//! `email_service_mail`; the SQL of the functions that they call is in `migrations/V7__mail.sql`.
//!
//! Each is one statement and one transaction under a lease of the account. `None` says that the lease was taken back, by
//! another worker, a user who canceled, or a change of the settings: whoever reads it stops.

use std::time::Duration;

use anyhow::anyhow;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::accounts::account;
use super::secrets::{Fault, Sealed, chance};
use super::{Access, Db};
use crate::account::state::{Event, Standing};
use crate::account::{Account, AccountId};
use crate::error::Error;
use crate::identity::Scope;
use crate::log::COUNTED;

/// An account that a worker has to itself.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    scope: Scope,
    account: AccountId,
    token: i64,
}

/// What a worker finds that was rung for an account.
#[derive(Debug)]
pub enum Turn {
    /// It is this worker's.
    Mine(Box<Mailbox>),
    /// Another worker has it.
    Busy,
    /// Nothing is to be done.
    Idle,
    /// There is no such account.
    Gone,
}

/// An account, what it takes to sign in, and how far its folders are.
#[derive(Debug)]
pub struct Mailbox {
    /// The account.
    pub account: Account,
    /// Its password.
    pub sealed: Sealed,
    /// The right to write.
    pub lease: Lease,
    /// In no order.
    pub folders: Vec<Folder>,
    standing: Standing,
}

/// A folder, and how far it is synchronised.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Its id.
    pub id: Uuid,
    /// As the server writes it.
    pub wire_name: Vec<u8>,
    /// As people read it.
    pub path: String,
    /// What stands between the levels of `path`.
    pub delimiter: Option<String>,
    /// What it is for.
    pub role: Option<String>,
    /// Whether it can hold messages.
    pub is_selectable: bool,
    /// Whether it is a label of messages that lie elsewhere.
    pub is_label: bool,
    /// Whether the server's list had it no more.
    pub is_gone: bool,
    /// How many messages the server has in it.
    pub total: i32,
    /// How many of them are unread.
    pub unread: i32,
    /// Under which its UIDs are valid; none while no message is known by its UID, or not all that have the label.
    pub uid_validity: Option<u32>,
    /// Below this UID everything was looked for.
    pub uid_next: u32,
    /// The MODSEQ up to which flags are known.
    pub modseq: Option<u64>,
    /// Whether everything below `uid_next` has come.
    pub is_complete: bool,
    /// How many messages are here by their UID.
    pub stored: i32,
    /// How many are here without one.
    pub orphans: i32,
    /// When more than half was first missing, in milliseconds since the Unix epoch.
    pub doubted_at: Option<i64>,
    /// When all flags were last compared, likewise.
    pub checked_at: Option<i64>,
    /// Messages that were asked for when a session broke, as [`Db::suspect_messages`] was told.
    pub suspects: Option<String>,
    /// How much speaks against them.
    pub suspicions: i32,
}

/// A folder as the server lists it.
#[derive(Debug, Clone)]
pub struct Listed<'a> {
    /// As the server writes it.
    pub wire_name: &'a [u8],
    /// As people read it.
    pub path: &'a str,
    /// What stands between the levels of `path`.
    pub delimiter: Option<String>,
    /// What it is for.
    pub role: Option<&'static str>,
    /// Whether it can hold messages.
    pub is_selectable: bool,
    /// Whether it is a label of messages that lie elsewhere.
    pub is_label: bool,
}

/// A folder that is a label, as the server counts it.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// The folder.
    pub id: Uuid,
    /// See [`Folder::uid_validity`].
    pub uid_validity: Option<u32>,
    /// How many messages the server has in it.
    pub total: i32,
    /// How many of them are unread.
    pub unread: i32,
}

/// What a server says of a message, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bits(pub i16);

impl Bits {
    /// Somebody has read it.
    pub const READ: i16 = 1;
    /// It is marked.
    pub const FLAGGED: i16 = 2;
    /// It was answered.
    pub const ANSWERED: i16 = 4;
    /// It is a draft.
    pub const DRAFT: i16 = 8;
    /// It has attachments.
    pub const ATTACHMENTS: i16 = 16;
    /// What came of it could not be read.
    pub const UNREADABLE: i16 = 32;
    /// So many bits higher stands, in an action, which of the first three are meant: all of them where none is named.
    pub const NAMED: u32 = 4;
}

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its id, unless it was here before.
    pub id: Uuid,
    /// Its UID in the folder.
    pub uid: u32,
    /// What it is known by wherever it lies.
    pub identity: Uuid,
    /// Its thread.
    pub thread_id: Uuid,
    /// When the server received it, in milliseconds since the Unix epoch.
    pub received_at: i64,
    /// The header's date, likewise.
    pub sent_at: Option<i64>,
    /// Bytes.
    pub size: i64,
    /// Flags and kinds.
    pub bits: Bits,
    /// The subject, decoded.
    pub subject: String,
    /// Who wrote it, as JSON; so are the other lists.
    pub from: Option<String>,
    /// To whom.
    pub to: Option<String>,
    /// To whom besides.
    pub cc: Option<String>,
    /// To whom in secret.
    pub bcc: Option<String>,
    /// Where answers go.
    pub reply_to: Option<String>,
    /// Its Message-ID, without brackets.
    pub message_id: Option<String>,
    /// What it answers, likewise.
    pub in_reply_to: Option<String>,
    /// The beginning of its text.
    pub preview: Option<String>,
}

/// What a message is known by of which nothing more can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// See [`NewMessage::identity`]; `None` where the server has no ids of its own.
    pub identity: Option<Uuid>,
    /// See [`NewMessage::received_at`]; `None` where the server does not say.
    pub received_at: Option<i64>,
    /// Bytes.
    pub size: i64,
}

/// A message that has lost its UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// See [`NewMessage::identity`].
    pub identity: Uuid,
    /// See [`NewMessage::received_at`].
    pub received_at: i64,
    /// Its flags alone.
    pub flags: Bits,
}

/// How far a folder is after a batch; `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// See [`Folder::uid_next`].
    pub uid_next: Option<u32>,
    /// See [`Folder::modseq`].
    pub modseq: Option<u64>,
    /// Whether everything was asked for: the folder is complete then if as many are here as the server has.
    pub is_complete: Option<bool>,
    /// See [`Folder::checked_at`].
    pub checked_at: Option<i64>,
    /// See [`Folder::total`].
    pub total: Option<i32>,
    /// See [`Folder::unread`].
    pub unread: Option<i32>,
}

/// What came of a folder.
#[derive(Debug)]
pub struct Batch {
    /// The folder.
    pub folder: Uuid,
    /// Under which its UIDs are valid.
    pub validity: u32,
    /// The UIDs of messages that are gone, as a multirange; see [`MOST_GONE`].
    pub gone: Option<String>,
    /// Flags of messages that are here.
    pub flags: Vec<(u32, Bits)>,
    /// Messages.
    pub messages: Vec<NewMessage>,
    /// The UIDs, of those and of messages that are here, whose labels are told: all of them.
    pub labelled: Vec<u32>,
    /// Their labels, each a folder.
    pub labels: Vec<(u32, Uuid)>,
    /// How far that goes.
    pub cursor: Cursor,
}

impl Batch {
    /// One that says nothing.
    pub fn new(folder: Uuid, validity: u32) -> Self {
        Self {
            folder,
            validity,
            gone: None,
            flags: Vec::new(),
            messages: Vec::new(),
            labelled: Vec::new(),
            labels: Vec::new(),
            cursor: Cursor::default(),
        }
    }
}

/// A folder's messages after a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many are here by their UID.
    pub stored: i32,
    /// How many are here without one.
    pub orphans: i32,
}

/// What is noted when a session breaks while messages of a folder are fetched.
#[derive(Debug, Clone, Copy)]
pub struct Suspicion<'a> {
    /// The folder.
    pub folder: Uuid,
    /// Under which its UIDs are valid.
    pub validity: u32,
    /// See [`Folder::uid_next`]; `None` stays as it is.
    pub uid_next: Option<u32>,
    /// What did not come, in a form that is the protocol's.
    pub suspects: &'a str,
    /// How much speaks against it.
    pub weight: i32,
}

/// A folder that begins anew, under other UIDs.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    /// The folder.
    pub id: Uuid,
    /// Under which its UIDs are valid.
    pub uid_validity: u32,
    /// See [`Folder::uid_next`].
    pub uid_next: u32,
    /// See [`Folder::modseq`].
    pub modseq: Option<u64>,
}

/// What a POP3 server lists again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundAgain {
    /// What these messages are known by.
    pub identities: Vec<Uuid>,
    /// See [`Folder::uid_next`].
    pub uid_next: u32,
}

/// What became of messages that were found nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destroyed {
    /// Some are left.
    pub more: bool,
    /// Of a folder they are too many to believe it at once.
    pub doubt: bool,
}

/// How a synchronisation ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Whether work is left, for which somebody is rung.
    pub more: bool,
    /// Whether everything has come.
    pub complete: bool,
    /// Comes again this soon, although the account's interval is longer.
    pub soon: Option<Duration>,
    /// What it says of the account.
    pub event: Event,
    /// What went wrong.
    pub fault: Option<Fault<'a>>,
}

/// While work is left and somebody was rung, the schedule does not ring before.
const RUNG_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How many rows `orphan_messages` takes at once.
const ORPHANS: i32 = 20_000;
/// Of the UIDs that one batch says are gone: what a statement's time is enough for.
pub const MOST_GONE: u64 = 5_000;

impl Db {
    /// Takes an account, for so long.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here. Here also where workers have died of the
    /// account: then the job fails, and its message becomes a dead letter.
    pub async fn begin_sync(&self, scope: &Scope, id: AccountId, lease: Duration) -> Result<Turn, Error> {
        let sql = "select * from begin_turn($1, $2, $3, $4)";
        let rows = self.query(Access::Write, scope, sql, &[(&id.0, Type::UUID), (&millis(lease), Type::INT8)]).await?;
        let Some((first, rest)) = rows.split_first() else {
            return Err(Error::internal(anyhow!("begin_turn gave no row")));
        };
        match first.try_get("outcome")? {
            "begun" => {}
            "busy" => return Ok(Turn::Busy),
            "idle" => return Ok(Turn::Idle),
            "givenUp" => return Err(Error::internal(anyhow!("five workers in a row did not give the account back"))),
            _ => return Ok(Turn::Gone),
        }
        let Some(account) = account(first)? else {
            return Err(Error::internal(anyhow!("begin_turn gave no account")));
        };
        let failures: i16 = first.try_get("failures")?;
        Ok(Turn::Mine(Box::new(Mailbox {
            standing: Standing { state: account.state, failures: u16::try_from(failures).unwrap_or_default() },
            sealed: Sealed { password: first.try_get("sealed_password")?, ..Sealed::default() },
            lease: Lease { scope: *scope, account: id, token: first.try_get("lease_token")? },
            folders: rest.iter().map(|row| folder(row, "folder_id")).collect::<Result<_, _>>()?,
            account,
        })))
    }

    /// Takes over the server's list of folders; returns all that are known then.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn store_folders(&self, lease: &Lease, listed: &[Listed<'_>]) -> Result<Option<Vec<Folder>>, Error> {
        let ids: Vec<Uuid> = listed.iter().map(|_| Uuid::now_v7()).collect();
        let wire: Vec<&[u8]> = listed.iter().map(|folder| folder.wire_name).collect();
        let paths: Vec<&str> = listed.iter().map(|folder| folder.path).collect();
        let delimiters: Vec<Option<&str>> = listed.iter().map(|folder| folder.delimiter.as_deref()).collect();
        let roles: Vec<Option<&str>> = listed.iter().map(|folder| folder.role).collect();
        let selectable: Vec<bool> = listed.iter().map(|folder| folder.is_selectable).collect();
        let labels: Vec<bool> = listed.iter().map(|folder| folder.is_label).collect();
        let sql = "select * from store_folders($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let rows = self
            .leased(
                lease,
                sql,
                &[
                    (&ids, Type::UUID_ARRAY),
                    (&wire, Type::BYTEA_ARRAY),
                    (&paths, Type::TEXT_ARRAY),
                    (&delimiters, Type::TEXT_ARRAY),
                    (&roles, Type::TEXT_ARRAY),
                    (&selectable, Type::BOOL_ARRAY),
                    (&labels, Type::BOOL_ARRAY),
                ],
            )
            .await?;
        let folders = rows.iter().map(|row| folder(row, "id")).collect::<Result<Vec<_>, _>>()?;
        // A server's list is never empty.
        Ok((!folders.is_empty()).then_some(folders))
    }

    /// Takes their UIDs away from messages, those in `gone`, a multirange; returns how many had one.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn orphan_messages(&self, lease: &Lease, folder: Uuid, gone: &str) -> Result<Option<i32>, Error> {
        let mut all = 0;
        loop {
            let rows = self
                .leased(
                    lease,
                    "select orphan_messages($1, $2, $3, $4, $5, $6)",
                    &[(&folder, Type::UUID), (&gone, Type::TEXT)],
                )
                .await?;
            let Some(count) = rows.first().map(|row| row.try_get::<_, Option<i32>>(0)).transpose()?.flatten() else {
                return Ok(None);
            };
            all += count;
            if count < ORPHANS {
                return Ok(Some(all));
            }
        }
    }

    /// Begins folders anew, under other UIDs, when all of their messages are without one.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn reset_folders(&self, lease: &Lease, fresh: &[Fresh]) -> Result<Option<()>, Error> {
        let ids: Vec<Uuid> = fresh.iter().map(|folder| folder.id).collect();
        let validities: Vec<i64> = fresh.iter().map(|folder| i64::from(folder.uid_validity)).collect();
        let nexts: Vec<i64> = fresh.iter().map(|folder| i64::from(folder.uid_next)).collect();
        let modseqs: Vec<Option<i64>> = fresh.iter().map(|folder| folder.modseq.map(signed)).collect();
        let rows = self
            .leased(
                lease,
                "select reset_folders($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    (&ids, Type::UUID_ARRAY),
                    (&validities, Type::INT8_ARRAY),
                    (&nexts, Type::INT8_ARRAY),
                    (&modseqs, Type::INT8_ARRAY),
                ],
            )
            .await?;
        let held = rows.first().map(|row| row.try_get::<_, bool>(0)).transpose()?.unwrap_or_default();
        Ok(held.then_some(()))
    }

    /// What a user has deleted here of a mailbox where nothing is ever deleted, by identities.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn hidden_messages(&self, lease: &Lease) -> Result<Option<Vec<Uuid>>, Error> {
        let rows = self.leased(lease, "select identities from hidden_messages($1, $2, $3, $4)", &[]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Stores what the server says of folders that are labels.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn store_labels(&self, lease: &Lease, labels: &[Label]) -> Result<Option<()>, Error> {
        let ids: Vec<Uuid> = labels.iter().map(|label| label.id).collect();
        let validities: Vec<Option<i64>> = labels.iter().map(|label| label.uid_validity.map(i64::from)).collect();
        let totals: Vec<i32> = labels.iter().map(|label| label.total).collect();
        let unread: Vec<i32> = labels.iter().map(|label| label.unread).collect();
        let rows = self
            .leased(
                lease,
                "select store_labels($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    (&ids, Type::UUID_ARRAY),
                    (&validities, Type::INT8_ARRAY),
                    (&totals, Type::INT4_ARRAY),
                    (&unread, Type::INT4_ARRAY),
                ],
            )
            .await?;
        let held = rows.first().map(|row| row.try_get::<_, bool>(0)).transpose()?.unwrap_or_default();
        Ok(held.then_some(()))
    }

    /// Compares the UIDs of a folder below one of them, a multirange, with those that are here; returns what is gone and
    /// what is missing, as multiranges.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn compare_uids(
        &self,
        lease: &Lease,
        folder: Uuid,
        present: &str,
        below: u32,
    ) -> Result<Option<(String, String)>, Error> {
        let rows = self
            .leased(
                lease,
                "select gone, missing from compare_uids($1, $2, $3, $4, $5, $6, $7)",
                &[(&folder, Type::UUID), (&present, Type::TEXT), (&i64::from(below), Type::INT8)],
            )
            .await?;
        let row = rows.first();
        Ok(row.map(|row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?))).transpose()?)
    }

    /// Compares the identities of what a POP3 server has with those that are here: the UIDs, given here, of what is gone, as a
    /// multirange, and what is missing.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn compare_identities(
        &self,
        lease: &Lease,
        folder: Uuid,
        identities: &[Uuid],
    ) -> Result<Option<(String, Vec<Uuid>)>, Error> {
        let sql = "select gone, missing from compare_identities($1, $2, $3, $4, $5, $6)";
        let rows = self.leased(lease, sql, &[(&folder, Type::UUID), (&identities, Type::UUID_ARRAY)]).await?;
        let row = rows.first();
        Ok(row.map(|row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?))).transpose()?)
    }

    /// Counts how many messages of a POP3 mailbox are unread, while nobody changes them: no server tells. False where the lease
    /// is lost.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn count_unread(&self, lease: &Lease, folder: Uuid) -> Result<bool, Error> {
        let rows = self.leased(lease, "select count_unread($1, $2, $3, $4, $5)", &[(&folder, Type::UUID)]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
    }

    /// Stores what came of folders, each once, all or nothing; returns their counts in the same order.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn store_batches(&self, lease: &Lease, batches: &[Batch]) -> Result<Option<Vec<Stored>>, Error> {
        if batches.is_empty() {
            return Ok(Some(Vec::new()));
        }
        // Each row names its folder by the place in the first of these lists.
        let places = || (1..).zip(batches);
        let folders: Vec<Uuid> = batches.iter().map(|batch| batch.folder).collect();
        let validities: Vec<i64> = batches.iter().map(|batch| i64::from(batch.validity)).collect();
        let gone: Vec<Option<&str>> = batches.iter().map(|batch| batch.gone.as_deref()).collect();
        let cursors: Vec<Cursor> = batches.iter().map(|batch| batch.cursor).collect();
        let nexts: Vec<Option<i64>> = cursors.iter().map(|cursor| cursor.uid_next.map(i64::from)).collect();
        let modseqs: Vec<Option<i64>> = cursors.iter().map(|cursor| cursor.modseq.map(signed)).collect();
        let complete: Vec<Option<bool>> = cursors.iter().map(|cursor| cursor.is_complete).collect();
        let checked: Vec<Option<i64>> = cursors.iter().map(|cursor| cursor.checked_at).collect();
        let totals: Vec<Option<i32>> = cursors.iter().map(|cursor| cursor.total).collect();
        let unread: Vec<Option<i32>> = cursors.iter().map(|cursor| cursor.unread).collect();

        let flags: Vec<(i32, i64, i16)> = places()
            .flat_map(|(place, batch)| batch.flags.iter().map(move |(uid, bits)| (place, i64::from(*uid), bits.0)))
            .collect();
        let flag_folders: Vec<i32> = flags.iter().map(|(place, ..)| *place).collect();
        let flag_uids: Vec<i64> = flags.iter().map(|(_, uid, _)| *uid).collect();
        let flag_bits: Vec<i16> = flags.iter().map(|(.., bits)| *bits).collect();

        let message_folders: Vec<i32> =
            places().flat_map(|(place, batch)| batch.messages.iter().map(move |_| place)).collect();
        let messages: Vec<&NewMessage> = batches.iter().flat_map(|batch| &batch.messages).collect();
        let ids: Vec<Uuid> = messages.iter().map(|m| m.id).collect();
        let uids: Vec<i64> = messages.iter().map(|m| i64::from(m.uid)).collect();
        let identities: Vec<Uuid> = messages.iter().map(|m| m.identity).collect();
        let threads: Vec<Uuid> = messages.iter().map(|m| m.thread_id).collect();
        let received: Vec<i64> = messages.iter().map(|m| m.received_at).collect();
        let sent: Vec<Option<i64>> = messages.iter().map(|m| m.sent_at).collect();
        let sizes: Vec<i64> = messages.iter().map(|m| m.size).collect();
        let bits: Vec<i16> = messages.iter().map(|m| m.bits.0).collect();
        let subjects: Vec<&str> = messages.iter().map(|m| m.subject.as_str()).collect();
        let texts = |field: fn(&NewMessage) -> &Option<String>| -> Vec<Option<&str>> {
            messages.iter().map(|m| field(m).as_deref()).collect()
        };
        let (from, to) = (texts(|m| &m.from), texts(|m| &m.to));
        let (cc, bcc, reply_to) = (texts(|m| &m.cc), texts(|m| &m.bcc), texts(|m| &m.reply_to));
        let (message_ids, replies) = (texts(|m| &m.message_id), texts(|m| &m.in_reply_to));
        let previews = texts(|m| &m.preview);

        let labelled: Vec<(i32, i64)> = places()
            .flat_map(|(place, batch)| batch.labelled.iter().map(move |uid| (place, i64::from(*uid))))
            .collect();
        let labelled_folders: Vec<i32> = labelled.iter().map(|(place, _)| *place).collect();
        let labelled: Vec<i64> = labelled.iter().map(|(_, uid)| *uid).collect();
        let labels: Vec<(i32, i64, Uuid)> = places()
            .flat_map(|(place, batch)| batch.labels.iter().map(move |(uid, folder)| (place, i64::from(*uid), *folder)))
            .collect();
        let label_folders: Vec<i32> = labels.iter().map(|(place, ..)| *place).collect();
        let label_uids: Vec<i64> = labels.iter().map(|(_, uid, _)| *uid).collect();
        let labels: Vec<Uuid> = labels.iter().map(|(.., folder)| *folder).collect();

        let sql = "select stored, orphans from store_batch(
                       $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                       $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39
                   )";
        let rows = self
            .leased(
                lease,
                sql,
                &[
                    (&folders, Type::UUID_ARRAY),
                    (&validities, Type::INT8_ARRAY),
                    (&gone, Type::TEXT_ARRAY),
                    (&nexts, Type::INT8_ARRAY),
                    (&modseqs, Type::INT8_ARRAY),
                    (&complete, Type::BOOL_ARRAY),
                    (&checked, Type::INT8_ARRAY),
                    (&totals, Type::INT4_ARRAY),
                    (&unread, Type::INT4_ARRAY),
                    (&flag_folders, Type::INT4_ARRAY),
                    (&flag_uids, Type::INT8_ARRAY),
                    (&flag_bits, Type::INT2_ARRAY),
                    (&message_folders, Type::INT4_ARRAY),
                    (&ids, Type::UUID_ARRAY),
                    (&uids, Type::INT8_ARRAY),
                    (&identities, Type::UUID_ARRAY),
                    (&threads, Type::UUID_ARRAY),
                    (&received, Type::INT8_ARRAY),
                    (&sent, Type::INT8_ARRAY),
                    (&sizes, Type::INT8_ARRAY),
                    (&bits, Type::INT2_ARRAY),
                    (&subjects, Type::TEXT_ARRAY),
                    (&from, Type::TEXT_ARRAY),
                    (&to, Type::TEXT_ARRAY),
                    (&cc, Type::TEXT_ARRAY),
                    (&bcc, Type::TEXT_ARRAY),
                    (&reply_to, Type::TEXT_ARRAY),
                    (&message_ids, Type::TEXT_ARRAY),
                    (&replies, Type::TEXT_ARRAY),
                    (&previews, Type::TEXT_ARRAY),
                    (&labelled_folders, Type::INT4_ARRAY),
                    (&labelled, Type::INT8_ARRAY),
                    (&label_folders, Type::INT4_ARRAY),
                    (&label_uids, Type::INT8_ARRAY),
                    (&labels, Type::UUID_ARRAY),
                ],
            )
            .await?;
        let stored = |row: &Row| -> Result<Stored, tokio_postgres::Error> {
            Ok(Stored { stored: row.try_get(0)?, orphans: row.try_get(1)? })
        };
        let stored = rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
        Ok((!stored.is_empty()).then_some(stored))
    }

    /// Notes which messages were asked for and did not come when a session broke. Below `uid_next` they are missing then.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn suspect_messages(&self, lease: &Lease, suspicion: Suspicion<'_>) -> Result<Option<()>, Error> {
        let Suspicion { folder, validity, uid_next, suspects, weight } = suspicion;
        let rows = self
            .leased(
                lease,
                "select suspect_messages($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                &[
                    (&folder, Type::UUID),
                    (&i64::from(validity), Type::INT8),
                    (&uid_next.map(i64::from), Type::INT8),
                    (&suspects, Type::TEXT),
                    (&weight, Type::INT4),
                ],
            )
            .await?;
        let held = rows.first().map(|row| row.try_get::<_, bool>(0)).transpose()?.unwrap_or_default();
        Ok(held.then_some(()))
    }

    /// The UID and the identity of a message of a folder that could be fetched once.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn find_readable(&self, lease: &Lease, folder: Uuid) -> Result<Option<(u32, Uuid)>, Error> {
        let sql = "select uid, identity from find_readable($1, $2, $3, $4, $5)";
        let rows = self.leased(lease, sql, &[(&folder, Type::UUID)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (uid, identity): (i64, Uuid) = (row.try_get(0)?, row.try_get(1)?);
        Ok(u32::try_from(uid).ok().map(|uid| (uid, identity)))
    }

    /// Which of the messages that have lost their UIDs have these marks, in the same order. `None` where there is none, or it
    /// could be another one as well.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn find_orphans(&self, lease: &Lease, marks: &[Mark]) -> Result<Option<Vec<Option<Orphan>>>, Error> {
        let identities: Vec<Option<Uuid>> = marks.iter().map(|mark| mark.identity).collect();
        let received: Vec<Option<i64>> = marks.iter().map(|mark| mark.received_at).collect();
        let sizes: Vec<i64> = marks.iter().map(|mark| mark.size).collect();
        let rows = self
            .leased(
                lease,
                "select identities, received, bits from find_orphans($1, $2, $3, $4, $5, $6, $7)",
                &[(&identities, Type::UUID_ARRAY), (&received, Type::INT8_ARRAY), (&sizes, Type::INT8_ARRAY)],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let identities: Vec<Option<Uuid>> = row.try_get(0)?;
        let (received, bits): (Vec<Option<i64>>, Vec<Option<i16>>) = (row.try_get(1)?, row.try_get(2)?);
        let found =
            identities.into_iter().zip(received.into_iter().zip(bits)).map(|(identity, (received_at, bits))| {
                Some(Orphan { identity: identity?, received_at: received_at?, flags: Bits(bits?) })
            });
        Ok(Some(found.collect()))
    }

    /// Gives messages of a POP3 mailbox UIDs again that had lost them, and that the server lists: what is known by these
    /// identities and has these sizes. Says which that were.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn find_again(
        &self,
        lease: &Lease,
        folder: Uuid,
        identities: &[Uuid],
        sizes: &[i64],
    ) -> Result<Option<FoundAgain>, Error> {
        let sql = "select identities, uid_next from find_again($1, $2, $3, $4, $5, $6, $7)";
        let params: [_; 3] =
            [(&folder as _, Type::UUID), (&identities as _, Type::UUID_ARRAY), (&sizes as _, Type::INT8_ARRAY)];
        let rows = self.leased(lease, sql, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let uid_next: i64 = row.try_get("uid_next")?;
        Ok(Some(FoundAgain {
            identities: row.try_get("identities")?,
            uid_next: u32::try_from(uid_next).unwrap_or(u32::MAX),
        }))
    }

    /// Destroys messages of folders that were found nowhere, and folders that are gone. More than half of a folder only
    /// when that is so again, `patience` after it was first seen.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn destroy_orphans(
        &self,
        lease: &Lease,
        folders: &[Uuid],
        patience: Duration,
    ) -> Result<Option<Destroyed>, Error> {
        let rows = self
            .leased(
                lease,
                "select more, doubt from destroy_orphans($1, $2, $3, $4, $5, $6)",
                &[(&folders, Type::UUID_ARRAY), (&millis(patience), Type::INT8)],
            )
            .await?;
        let destroyed = |row: &Row| -> Result<Destroyed, tokio_postgres::Error> {
            Ok(Destroyed { more: row.try_get(0)?, doubt: row.try_get(1)? })
        };
        Ok(rows.first().map(destroyed).transpose()?)
    }

    /// Gives the account back, with what came of it.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn finish_sync(&self, mailbox: &Mailbox, end: End<'_>) -> Result<(), Error> {
        let Mailbox { account, lease, standing, .. } = mailbox;
        let interval = Duration::from_secs(u64::try_from(account.sync_interval).unwrap_or_default());
        let to = standing.after(end.event, interval, chance()?);
        let pause = match end.more {
            true => Some(RUNG_PAUSE),
            false => to.next_try.map(|pause| end.soon.map_or(pause, |soon| soon.min(pause))),
        };
        let fault = end.fault;
        self.leased(
            lease,
            "select finish_sync($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            &[
                (&end.more, Type::BOOL),
                (&end.complete, Type::BOOL),
                (&to.to.state.as_str(), Type::TEXT),
                (&i32::from(to.to.failures).min(i32::from(i16::MAX)), Type::INT4),
                (&pause.map(millis), Type::INT8),
                (&fault.map(|fault| fault.code), Type::TEXT),
                (&fault.map(|fault| fault.message), Type::TEXT),
                (&fault.map(|fault| fault.service), Type::TEXT),
            ],
        )
        .await?;
        // As for a try: the alarms count these lines by their state.
        if fault.is_some() || to.to.state != standing.state {
            tracing::info!(
                target: COUNTED,
                accountId = %account.id,
                hostname = account.hostname,
                state = to.to.state.as_str(),
                fault = fault.map(|fault| fault.code),
                "account_tried"
            );
        }
        Ok(())
    }

    /// Gives the account back undone; its turn comes again after `pause`.
    ///
    /// # Errors
    /// See [`Db::begin_sync`].
    pub async fn postpone_sync(&self, lease: &Lease, pause: Duration) -> Result<(), Error> {
        self.leased(lease, "select postpone_sync($1, $2, $3, $4, $5)", &[(&millis(pause), Type::INT8)]).await?;
        Ok(())
    }
}

/// What does not fit no server counts to.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Db {
    /// Runs one statement under a lease: `$3` and `$4` are its account and its token.
    async fn leased(
        &self,
        lease: &Lease,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        let mut all: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&lease.account.0, Type::UUID), (&lease.token, Type::INT8)];
        all.extend(params.iter().cloned());
        self.query(Access::Write, &lease.scope, sql, &all).await
    }
}

/// A row's folder, whose id stands in the column `id`.
fn folder(row: &Row, id: &str) -> Result<Folder, tokio_postgres::Error> {
    let number = |name: &str| row.try_get::<_, Option<i64>>(name);
    Ok(Folder {
        id: row.try_get(id)?,
        wire_name: row.try_get("wire_name")?,
        path: row.try_get("path")?,
        delimiter: row.try_get("delimiter")?,
        role: row.try_get("role")?,
        is_selectable: row.try_get("is_selectable")?,
        is_label: row.try_get("is_label")?,
        is_gone: row.try_get("is_gone")?,
        total: row.try_get("total")?,
        unread: row.try_get("unread")?,
        // What does not fit was never a UID.
        uid_validity: number("uid_validity")?.and_then(|number| u32::try_from(number).ok()),
        uid_next: u32::try_from(row.try_get::<_, i64>("uid_next")?).unwrap_or(1),
        modseq: number("modseq")?.and_then(|number| u64::try_from(number).ok()),
        is_complete: row.try_get("is_complete")?,
        stored: row.try_get("stored")?,
        orphans: row.try_get("orphans")?,
        doubted_at: number("doubted_at")?,
        checked_at: number("checked_at")?,
        suspects: row.try_get("suspects")?,
        suspicions: row.try_get("suspicions")?,
    })
}

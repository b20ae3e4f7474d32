//! Queries on the outbox: those of the endpoints, of the worker that sends, and of the schedule. The SQL of the functions that
//! they call is in `migrations/V16__outbox.sql` and `V19__outbox_ends.sql`.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::accounts::account;
use super::drafts::{unknown_fields, uploads};
use super::mailboxes::millis;
use super::schedule::{Due, due};
use super::secrets::{Sealed, Stored, stored_with};
use super::{Access, Db};
use crate::account::{Account, AccountId};
use crate::composition::UploadId;
use crate::config::SendLimits;
use crate::error::{Error, Fault, NO_SUCH_ENTRY};
use crate::idempotency::{Made, Once, conflict, is_replayed};
use crate::identity::Scope;
use crate::message::Correspondent;
use crate::outbox::{NewOutgoing, OutboxCursor, Outgoing, OutgoingId, Recipient, Status};
use crate::quota::Quota;

/// A page ends after so many bytes of what was asked for. Lambda answers with 6 MB at most, and what is JSON within JSON
/// there is twice as long at the worst.
const MAX_PAGE_BYTES: i64 = 2_500_000;

/// What [`SendLimits`] count in.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// What a client learns of a message that is too large as it is sent.
const TOO_LARGE: &str = "must be less: a message has at most 25 MiB as it is sent, of which files take four thirds";
/// What a client learns who asks again for what went with its account.
const ACCOUNT_GONE: &str = "The account of this message was deleted, and all of its messages with it.";
/// What a client learns of an account without a server for sending.
pub const NO_SERVER: &str = "This account cannot send: it has no smtpHostname. Set it.";

/// What a client learns who attaches what it has not put.
pub const NOT_PUT: &str = "A file that goes along was announced and never put. Put it to the link that POST /api/uploads gave, \
                       or attach another one, and send again with another Idempotency-Key.";

/// The columns of `(entry)`, in the order of [`outgoing`].
macro_rules! entry_columns {
    () => {
        "(entry).id as entry_id, (entry).message_id as entry_message_id, (entry).sender_name as sender_name,
         (entry).sender_address as sender_address, (entry).content as content, (entry).status as status, (entry).attempts as attempts, (entry).next_attempt_at as next_attempt_at,
         (entry).response as response, (entry).recipients as recipients, (entry).sent_at as sent_at,
         (entry).created_at as entry_created_at"
    };
}

/// A page of the outbox.
#[derive(Debug)]
pub struct OutboxPage {
    /// Newest first.
    pub entries: Vec<Outgoing>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<OutboxCursor>,
}

/// What a user decided on an entry.
#[derive(Debug)]
pub enum Decided {
    /// It is done.
    Done(Box<Outgoing>),
    /// It cannot be done to an entry with this status.
    Refused(Status),
}

/// What a worker is to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To send it.
    Send,
    /// To look whether it lies in the sent folder: nobody knows whether it was sent.
    Look,
    /// To put the sender's copy into the sent folder.
    Copy,
}

/// What became of the sender's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filed {
    /// The provider makes one itself, or nothing was sent.
    None,
    /// It is to be made.
    Due,
    /// It is there.
    Done,
    /// It could not be made.
    Abandoned,
}

impl Filed {
    const ALL: [Self; 4] = [Self::None, Self::Due, Self::Done, Self::Abandoned];

    const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Due => "due",
            Self::Done => "done",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Where a message lies on its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder, as the server writes it.
    pub folder: Vec<u8>,
    /// Under which its UIDs are valid.
    pub uid_validity: u32,
    /// Its UID.
    pub uid: u32,
}

/// A file that goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// As it was announced.
    pub filename: String,
    /// Likewise.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
}

/// A message that a worker has to itself, with what it takes to send it.
#[derive(Debug)]
pub struct Claimed {
    /// What is to be done.
    pub task: Task,
    /// The message.
    pub outgoing: Outgoing,
    /// The account with its secrets.
    pub stored: Stored,
    /// The header's date, in milliseconds since the Unix epoch.
    pub dated_at: i64,
    /// Since the first of those attempts that are to end within a day.
    pub tried_for: Duration,
    /// The Message-ID of what it answers or forwards, without brackets.
    pub original_id: Option<String>,
    /// Those that that refers to, the oldest first.
    pub original_references: Vec<String>,
    /// The recipients of an attempt of which nobody knows, by their places.
    pub doubtful: Vec<usize>,
    /// Of those of whom nobody knew, at each of the attempts after which its user had it tried again; none where there was
    /// no such attempt.
    pub doubted: Option<Vec<usize>>,
    /// What became of the sender's copy.
    pub filed: Filed,
    /// How often the sent folder was looked at.
    pub looks: u32,
    /// Where what it answers lies, in this account's mailbox.
    pub answered: Option<Place>,
    /// The files that go along, in the order of the attachments; none for one that is gone.
    pub uploads: Vec<Option<Upload>>,
    /// Whose it is.
    pub scope: Scope,
    token: i64,
}

/// How a worker leaves a message.
#[derive(Debug, Clone)]
pub struct Finish<'a> {
    /// Where it stands.
    pub status: Status,
    /// And with whom.
    pub recipients: &'a [Recipient],
    /// Of whom nobody knows, by their places.
    pub doubtful: &'a [usize],
    /// What is to be read of the whole.
    pub response: Option<&'a str>,
    /// What became of the sender's copy.
    pub filed: Filed,
    /// How often the sent folder was looked at.
    pub looks: u32,
    /// After which time something is to be done again.
    pub pause: Option<Duration>,
    /// For how long the account's other messages are not tried.
    pub hold: Option<Duration>,
    /// Whether nothing was tried.
    pub is_untried: bool,
}

/// What the database says when a message is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// False where the lease was lost: then nothing is noted.
    pub is_noted: bool,
    /// Whether the account may have something to send next.
    pub is_more: bool,
}

impl Db {
    /// Puts a message into the outbox. `missing`: of its files those that were never put.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the account, or the message that it answers or forwards, is none of the user's;
    /// [`Error::Conflict`] where the account cannot send, or a file is missing; [`Error::TooManyRequests`]; [`Error::Internal`] when PostgreSQL
    /// fails, as with all methods here.
    pub async fn insert_outgoing(
        &self,
        scope: &Scope,
        new: &NewOutgoing,
        missing: &[UploadId],
        limits: SendLimits,
        once: Option<&Once>,
    ) -> Result<Made<Outgoing>, Error> {
        let id = OutgoingId(Uuid::now_v7());
        let [per_hour, user_per_hour] = [limits.account, limits.user]
            .map(|limit| limit.map(|limit| i32::try_from(limit.get()).unwrap_or(i32::MAX)));
        let (content, recipients) = (json(&new.composition)?, json(&new.recipients())?);
        let (key_hash, fingerprint) = Once::hashes(once);
        let most_bytes = i64::try_from(new.most_bytes(content.len())).unwrap_or(i64::MAX);
        let sql = concat!(
            "select claim, outcome, unknown, wait, (entry).account_id as entry_account_id, ",
            entry_columns!(),
            " from insert_outgoing($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
        );
        let missing: Vec<_> = missing.iter().map(|id| id.0).collect();
        let rows = self
            .query(
                Access::Write,
                scope,
                sql,
                &[
                    (&id.0, Type::UUID),
                    (&new.account_id.0, Type::UUID),
                    (&content, Type::TEXT),
                    (&recipients, Type::TEXT),
                    (&new.composition.send_at.map(|at| at.0), Type::INT8),
                    (&new.composition.reply_to_id.map(|id| id.0), Type::UUID),
                    (&new.composition.forward_of_id.map(|id| id.0), Type::UUID),
                    (&uploads(&new.composition), Type::UUID_ARRAY),
                    (&missing, Type::UUID_ARRAY),
                    (&new.draft_id.map(|id| id.0), Type::UUID),
                    (&most_bytes, Type::INT8),
                    (&per_hour, Type::INT4),
                    (&user_per_hour, Type::INT4),
                    (&key_hash, Type::BYTEA),
                    (&fingerprint, Type::BYTEA),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("insert_outgoing gave no row")))?;
        let is_replayed = is_replayed(row)?;
        match row.try_get("outcome")? {
            // The answer is kept for longer than the mail of an account that was deleted.
            "created" if row.try_get::<_, Option<Uuid>>("entry_account_id")?.is_none() => {
                Err(conflict(ACCOUNT_GONE, is_replayed))
            }
            "created" => Ok(Made { thing: outgoing(row)?, is_replayed }),
            "unknown" => Err(unknown_fields(row)?),
            "tooLarge" => {
                let fault = Fault::new("attachments", TOO_LARGE, format!("Attachments {TOO_LARGE}"));
                Err(Error::Invalid(vec![fault]))
            }
            "noServer" => Err(conflict(NO_SERVER, is_replayed)),
            "notPut" => Err(conflict(NOT_PUT, is_replayed)),
            "limited" => {
                // An account is named where the limit is its own, and not its user's.
                let limit = match row.try_get::<_, Option<Uuid>>("entry_account_id")? {
                    Some(_) => limits.account,
                    None => limits.user,
                };
                let limit = limit.map_or(0, NonZeroU32::get);
                let wait = u64::try_from(row.try_get::<_, i64>("wait")?).unwrap_or_default();
                Err(Error::TooManyRequests(Quota::used_up(limit, HOUR, Duration::from_millis(wait))))
            }
            other => Err(Error::internal(anyhow!("insert_outgoing has an outcome that is not known: {other}"))),
        }
    }

    /// A page of the user's outbox, newest first, after `cursor`.
    ///
    /// # Errors
    /// See [`Db::insert_outgoing`].
    pub async fn list_outgoing(
        &self,
        scope: &Scope,
        limit: i64,
        cursor: Option<OutboxCursor>,
    ) -> Result<OutboxPage, Error> {
        let sql = concat!("select is_last, ", entry_columns!(), " from list_outgoing($1, $2, $3, $4, $5, $6)");
        let rows = self
            .query(
                Access::Read,
                scope,
                sql,
                &[
                    (&limit, Type::INT8),
                    (&MAX_PAGE_BYTES, Type::INT8),
                    (&cursor.map(|cursor| cursor.created_at), Type::INT8),
                    (&cursor.map(|cursor| cursor.id.0), Type::UUID),
                ],
            )
            .await?;
        let entries = rows.iter().map(outgoing).collect::<Result<Vec<_>, _>>()?;
        let is_last = rows.last().map(|row| row.try_get("is_last")).transpose()?.unwrap_or(true);
        let last = entries.last().filter(|_| !is_last);
        let next = last.map(|entry| OutboxCursor { created_at: entry.created_at, id: entry.id });
        Ok(OutboxPage { entries, next })
    }

    /// One entry of the user's outbox.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none with this id; see [`Db::insert_outgoing`].
    pub async fn find_outgoing(&self, scope: &Scope, id: OutgoingId) -> Result<Outgoing, Error> {
        let sql = concat!("select ", entry_columns!(), " from find_outgoing($1, $2, $3) entry");
        let rows = self.query(Access::Read, scope, sql, &[(&id.0, Type::UUID)]).await?;
        rows.first().map(outgoing).transpose()?.ok_or(Error::NotFound(NO_SUCH_ENTRY))
    }

    /// Takes an entry back that is not on its way.
    ///
    /// # Errors
    /// See [`Db::find_outgoing`].
    pub async fn cancel_outgoing(&self, scope: &Scope, id: OutgoingId) -> Result<Decided, Error> {
        let sql = concat!("select is_done, ", entry_columns!(), " from cancel_outgoing($1, $2, $3)");
        self.decide(scope, id, sql).await
    }

    /// Has an entry tried again that has failed, or of which nobody knows.
    ///
    /// # Errors
    /// See [`Db::find_outgoing`].
    pub async fn retry_outgoing(&self, scope: &Scope, id: OutgoingId) -> Result<Decided, Error> {
        let sql = concat!("select is_done, ", entry_columns!(), " from retry_outgoing($1, $2, $3)");
        self.decide(scope, id, sql).await
    }

    async fn decide(&self, scope: &Scope, id: OutgoingId, sql: &str) -> Result<Decided, Error> {
        let rows = self.query(Access::Write, scope, sql, &[(&id.0, Type::UUID)]).await?;
        let row = rows.first().ok_or(Error::NotFound(NO_SUCH_ENTRY))?;
        let entry = outgoing(row)?;
        Ok(if row.try_get("is_done")? { Decided::Done(Box::new(entry)) } else { Decided::Refused(entry.status) })
    }

    /// Takes what an account has to send next, for so long; `None` where nothing is due.
    ///
    /// # Errors
    /// See [`Db::insert_outgoing`].
    pub async fn claim_outgoing(
        &self,
        scope: &Scope,
        account_id: AccountId,
        lease: Duration,
    ) -> Result<Option<Claimed>, Error> {
        let sql = "select * from begin_delivery($1, $2, $3, $4)";
        let params = [(&account_id.0 as _, Type::UUID), (&millis(lease) as _, Type::INT8)];
        let rows = self.query(Access::Write, scope, sql, &params).await?;
        rows.first().map(|row| claimed(scope, row)).transpose()
    }

    /// Notes that the last dot is about to be sent for the recipients with these places. Unless this is true, it must not be:
    /// the lease is lost, or the account gone.
    ///
    /// # Errors
    /// See [`Db::insert_outgoing`]. Then it must not be sent either.
    pub async fn commit_outgoing(&self, claimed: &Claimed, doubtful: &[usize]) -> Result<bool, Error> {
        let sql = "select commit_outgoing($1, $2, $3, $4, $5)";
        let doubtful = places(doubtful);
        let params = [
            (&claimed.outgoing.id.0 as _, Type::UUID),
            (&claimed.token as _, Type::INT8),
            (&doubtful as _, Type::INT4_ARRAY),
        ];
        is_true(&self.query(Access::Write, &claimed.scope, sql, &params).await?)
    }

    /// Gives a message back, with what came of it.
    ///
    /// # Errors
    /// See [`Db::insert_outgoing`].
    pub async fn finish_outgoing(&self, claimed: &Claimed, finish: &Finish<'_>) -> Result<Noted, Error> {
        let sql =
            "select is_noted, is_more from finish_outgoing($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
        let rows = self
            .query(
                Access::Write,
                &claimed.scope,
                sql,
                &[
                    (&claimed.outgoing.id.0, Type::UUID),
                    (&claimed.token, Type::INT8),
                    (&finish.status.as_str(), Type::TEXT),
                    (&json(&finish.recipients)?, Type::TEXT),
                    (&places(finish.doubtful), Type::INT4_ARRAY),
                    (&finish.response, Type::TEXT),
                    (&finish.filed.as_str(), Type::TEXT),
                    (&i32::try_from(finish.looks).unwrap_or(i32::MAX).min(i32::from(i16::MAX)), Type::INT4),
                    (&finish.pause.map(millis), Type::INT8),
                    (&finish.hold.map(millis), Type::INT8),
                    (&finish.is_untried, Type::BOOL),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("a statement gave no row")))?;
        Ok(Noted { is_noted: row.try_get("is_noted")?, is_more: row.try_get("is_more")? })
    }

    /// As [`Db::claim_due`], for messages that are to be sent: an account may be there several times.
    ///
    /// # Errors
    /// See [`Db::claim_due`].
    pub async fn claim_due_outgoing(&self, limit: i32, again: Duration) -> Result<Vec<Due>, Error> {
        let sql = "select tenant_id, user_id, account_id, epoch_ms() - due_at as late from claim_due_outgoing($1, $2)";
        let params = [(&limit as _, Type::INT4), (&millis(again) as _, Type::INT8)];
        let rows = self.run(Access::Write, sql, &params).await?;
        Ok(rows.iter().map(due).collect::<Result<_, _>>()?)
    }
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(Error::internal)
}

fn is_true(rows: &[Row]) -> Result<bool, Error> {
    let row = rows.first().ok_or_else(|| Error::internal(anyhow!("a statement gave no row")))?;
    Ok(row.try_get(0)?)
}

fn places(places: &[usize]) -> Vec<i32> {
    places.iter().filter_map(|place| i32::try_from(*place).ok()).collect()
}

fn numbered(places: Vec<i32>) -> Vec<usize> {
    places.into_iter().filter_map(|place| usize::try_from(place).ok()).collect()
}

fn outgoing(row: &Row) -> Result<Outgoing, Error> {
    let parsed = |name: &str| row.try_get::<_, &str>(name).map_err(Error::from);
    Ok(Outgoing {
        id: OutgoingId(row.try_get("entry_id")?),
        message_id: row.try_get("entry_message_id")?,
        from: Correspondent { name: Some(row.try_get("sender_name")?), address: row.try_get("sender_address")? },
        composition: serde_json::from_str(parsed("content")?).map_err(Error::internal)?,
        status: Status::parse(parsed("status")?)
            .ok_or_else(|| Error::internal(anyhow!("an entry has a status that is not known")))?,
        attempts: row.try_get("attempts")?,
        next_attempt_at: row.try_get("next_attempt_at")?,
        response: row.try_get("response")?,
        recipients: serde_json::from_str(parsed("recipients")?).map_err(Error::internal)?,
        sent_at: row.try_get("sent_at")?,
        created_at: row.try_get("entry_created_at")?,
    })
}

fn claimed(scope: &Scope, row: &Row) -> Result<Claimed, Error> {
    let account: Option<Account> = account(row)?;
    let account = account.ok_or_else(|| Error::internal(anyhow!("begin_delivery gave no account")))?;
    let sealed = Sealed {
        password: row.try_get("sealed_password")?,
        smtp_password: row.try_get("sealed_smtp_password")?,
        ..Sealed::default()
    };
    let number = |name: &str| -> Result<Option<u32>, Error> {
        Ok(row.try_get::<_, Option<i64>>(name)?.and_then(|number| u32::try_from(number).ok()))
    };
    let folder: Option<Vec<u8>> = row.try_get("answered_folder")?;
    let place = folder.zip(number("answered_validity")?.zip(number("answered_uid")?));
    let filed: &str = row.try_get("filed")?;
    let filed = Filed::ALL.into_iter().find(|known| known.as_str() == filed).unwrap_or(Filed::None);
    Ok(Claimed {
        task: match row.try_get("task")? {
            "send" => Task::Send,
            // Somebody has got it, and so the sent folder has nothing to tell.
            "look" if filed != Filed::Due => Task::Look,
            _ => Task::Copy,
        },
        outgoing: outgoing(row)?,
        stored: stored_with(row, account, sealed)?,
        dated_at: row.try_get("dated_at")?,
        tried_for: Duration::from_millis(
            row.try_get::<_, Option<i64>>("tried_for")?.and_then(|time| u64::try_from(time).ok()).unwrap_or_default(),
        ),
        original_id: row.try_get("original_id")?,
        original_references: row.try_get("original_references")?,
        doubtful: numbered(row.try_get("doubtful")?),
        doubted: row.try_get::<_, Option<Vec<i32>>>("doubted")?.map(numbered),
        filed,
        looks: u32::try_from(row.try_get::<_, i16>("looks")?).unwrap_or_default(),
        uploads: upload_list(row)?,
        answered: place.map(|(folder, (uid_validity, uid))| Place { folder, uid_validity, uid }),
        scope: *scope,
        token: row.try_get("entry_token")?,
    })
}

fn upload_list(row: &Row) -> Result<Vec<Option<Upload>>, Error> {
    let names: Option<Vec<Option<String>>> = row.try_get("upload_names")?;
    let types: Option<Vec<Option<String>>> = row.try_get("upload_types")?;
    let sizes: Option<Vec<Option<i64>>> = row.try_get("upload_sizes")?;
    let all = names.unwrap_or_default().into_iter().zip(types.unwrap_or_default()).zip(sizes.unwrap_or_default());
    let upload = |((filename, content_type), size): ((Option<String>, Option<String>), Option<i64>)| {
        Some(Upload { filename: filename?, content_type: content_type?, size: u64::try_from(size?).ok()? })
    };
    Ok(all.map(upload).collect())
}

//! Queries on folders and messages, of those who read them. The SQL of the functions that they call is in
//! `migrations/V9__mail_endpoints.sql`, V13 and V14.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::accounts::{Found, found, own_or_foreign};
use super::{Access, Db};
use crate::account::AccountId;
use crate::error::Error;
use crate::folder::{FolderId, Listed, Role};
use crate::identity::Scope;
use crate::message::{Correspondent, Cursor, Filter, Message, MessageId, ThreadId};
use crate::search::SearchText;

/// A page ends after so many bytes of rows, should its messages have been written to be large. Lambda answers with 6 MB at
/// most, and what is JSON within JSON there can be four times as long here.
const MAX_PAGE_BYTES: usize = 1_250_000;

/// The columns that [`message`] reads.
macro_rules! shown {
    ($call:literal) => {
        concat!(
            "select id, account_id, folder_id, thread_id, message_id, in_reply_to, subject, from_list, to_list, cc_list,
                 bcc_list, reply_to_list, sent_at, received_at, size, is_read, is_flagged, is_answered, is_draft,
                 has_attachments, preview
             from ",
            $call
        )
    };
}
pub(super) use shown;

/// A page of messages.
#[derive(Debug)]
pub struct MessagePage<T> {
    /// Newest first.
    pub messages: Vec<T>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<Cursor>,
}

impl Db {
    /// An account's folders, by their paths; also those that the server has no more, as long as messages of theirs are
    /// here.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here.
    pub async fn list_folders(&self, scope: &Scope, id: AccountId) -> Result<Found<Vec<Listed>>, Error> {
        let rows = self
            .query(Access::Read, scope, own_or_foreign!("list_folders($1, $2, $3)"), &[(&id.0, Type::UUID)])
            .await?;
        found(scope, &rows, |first| match first.try_get::<_, Option<Uuid>>("id")? {
            // An account without folders is one row that has only the id.
            Some(_) => rows.iter().filter_map(|row| listed(row).transpose()).collect::<Result<_, _>>().map(Some),
            None => Ok(None),
        })
    }

    /// The user's messages that `filter` is for, newest first, after `cursor`; of each what `show` makes of it, while the
    /// next are on their way.
    ///
    /// # Errors
    /// See [`Db::list_folders`].
    pub async fn list_messages<T>(
        &self,
        scope: &Scope,
        filter: &Filter,
        limit: i64,
        cursor: Option<Cursor>,
        mut show: impl FnMut(&Message) -> Result<T, Error>,
    ) -> Result<MessagePage<T>, Error> {
        let text = filter.text.as_ref().map(SearchText::in_text);
        let names = filter.text.as_ref().map(SearchText::in_names).filter(|names| text.as_ref() != Some(names));
        let read = |row: Row| {
            let message = message(&row)?;
            let place = Cursor { received_at: message.received_at, id: message.id };
            Ok::<_, Error>((row.raw_size_bytes(), place, show(&message)?))
        };
        let rows = self
            .query_as(
                Access::Read,
                scope,
                shown!(
                    "list_messages(
                         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19
                     )"
                ),
                &[
                    // One more tells whether there is a next page.
                    (&(limit + 1), Type::INT8),
                    (&filter.account_id.map(|id| id.0), Type::UUID),
                    (&filter.folder_id.map(|id| id.0), Type::UUID),
                    (&filter.role.map(Role::as_str), Type::TEXT),
                    (&filter.is_read, Type::BOOL),
                    (&filter.is_flagged, Type::BOOL),
                    (&filter.after.map(|time| time.0), Type::INT8),
                    (&filter.before.map(|time| time.0), Type::INT8),
                    (&cursor.map(|cursor| cursor.received_at), Type::INT8),
                    (&cursor.map(|cursor| cursor.id.0), Type::UUID),
                    (&filter.thread_id.map(|id| id.0), Type::UUID),
                    (&filter.has_attachments, Type::BOOL),
                    (&filter.from.as_ref().map(SearchText::in_names), Type::TEXT_ARRAY),
                    (&filter.to.as_ref().map(SearchText::in_names), Type::TEXT_ARRAY),
                    (&filter.subject.as_ref().map(SearchText::in_text), Type::TEXT_ARRAY),
                    (&text, Type::TEXT_ARRAY),
                    (&names, Type::TEXT_ARRAY),
                ],
                read,
            )
            .await?;
        let (found, mut messages, mut bytes, mut last) = (rows.len(), Vec::with_capacity(rows.len()), 0, None);
        for row in rows.into_iter().take(usize::try_from(limit).unwrap_or_default()) {
            let (size, place, message) = row?;
            bytes += size;
            if bytes > MAX_PAGE_BYTES && !messages.is_empty() {
                break;
            }
            messages.push(message);
            last = Some(place);
        }
        let next = last.filter(|_| messages.len() < found);
        Ok(MessagePage { messages, next })
    }

    /// A message of the user's; none where there is none, be it that it is another's or of a deleted account.
    ///
    /// # Errors
    /// See [`Db::list_folders`].
    pub async fn get_message(&self, scope: &Scope, id: MessageId) -> Result<Option<Message>, Error> {
        let rows = self.query(Access::Read, scope, shown!("get_message($1, $2, $3)"), &[(&id.0, Type::UUID)]).await?;
        rows.first().map(message).transpose()
    }

    /// Takes note of what only the whole message tells. Nothing is written where it is known.
    ///
    /// # Errors
    /// See [`Db::list_folders`].
    pub async fn note_opened(
        &self,
        scope: &Scope,
        id: MessageId,
        preview: Option<&str>,
        has_attachments: bool,
        references: &[String],
    ) -> Result<(), Error> {
        let references = (!references.is_empty()).then_some(references);
        let params = [
            (&id.0 as _, Type::UUID),
            (&preview as _, Type::TEXT),
            (&has_attachments as _, Type::BOOL),
            (&references as _, Type::TEXT_ARRAY),
        ];
        self.query(Access::Write, scope, "select note_opened($1, $2, $3, $4, $5, $6)", &params).await?;
        Ok(())
    }
}

fn listed(row: &Row) -> Result<Option<Listed>, tokio_postgres::Error> {
    let Some(id) = row.try_get::<_, Option<Uuid>>("folder_id")? else { return Ok(None) };
    Ok(Some(Listed {
        id: FolderId(id),
        path: row.try_get("path")?,
        delimiter: row.try_get("delimiter")?,
        // The database's own check lets no other in.
        role: row.try_get::<_, Option<&str>>("role")?.and_then(Role::parse),
        is_selectable: row.try_get("is_selectable")?,
        total: row.try_get("total")?,
        unread: row.try_get("unread")?,
    }))
}

/// By position, in the order of the statement's columns: by name, a page compares ten thousand of them.
pub(super) fn message(row: &Row) -> Result<Message, Error> {
    let list = |index: usize| Correspondent::read_list(row.try_get(index)?).map_err(Error::internal);
    Ok(Message {
        id: MessageId(row.try_get(0)?),
        account_id: AccountId(row.try_get(1)?),
        folder_id: FolderId(row.try_get(2)?),
        thread_id: ThreadId(row.try_get(3)?),
        message_id: row.try_get(4)?,
        in_reply_to: row.try_get(5)?,
        subject: row.try_get(6)?,
        from: list(7)?,
        to: list(8)?,
        cc: list(9)?,
        bcc: list(10)?,
        reply_to: list(11)?,
        sent_at: row.try_get(12)?,
        received_at: row.try_get(13)?,
        size: row.try_get(14)?,
        is_read: row.try_get(15)?,
        is_flagged: row.try_get(16)?,
        is_answered: row.try_get(17)?,
        is_draft: row.try_get(18)?,
        has_attachments: row.try_get(19)?,
        preview: row.try_get(20)?,
    })
}

//! Queries of those who visit a mailbox for a caller who waits: where messages are, and what became of them. Their role is
//! `email_service_mail`; the SQL of the functions that they call is in `migrations/V12__mail_actions.sql`.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::mailboxes::Bits;
use super::messages::{message, shown};
use super::secrets::{Stored, stored};
use super::{Access, Db};
use crate::account::AccountId;
use crate::error::Error;
use crate::folder::{FolderId, Role};
use crate::identity::Scope;
use crate::message::{Message, MessageId};

/// An account that has messages that were looked for.
#[derive(Debug)]
pub struct Located {
    /// With what it takes to sign in to it.
    pub stored: Stored,
    /// Folders that these messages lie in or have as labels, the one that was asked for, and those that have a role.
    pub folders: Vec<Place>,
    /// The messages, in no order.
    pub messages: Vec<Whereabouts>,
}

/// A folder, as its server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its id.
    pub id: FolderId,
    /// As the server writes it.
    pub wire_name: Vec<u8>,
    /// As people read it.
    pub path: String,
    /// What it is for.
    pub role: Option<Role>,
    /// Whether it is there and can hold messages.
    pub is_selectable: bool,
    /// Whether it is a label of messages that lie elsewhere (Gmail).
    pub is_label: bool,
    /// Under which its UIDs are valid; none while no message is known by its UID.
    pub uid_validity: Option<u32>,
}

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its id.
    pub id: MessageId,
    /// The folder that it lies in.
    pub folder_id: FolderId,
    /// Its UID there; none where it is not where it was seen last. At a POP3 server it is a number of ours.
    pub uid: Option<u32>,
    /// What it is known by wherever it lies; at a POP3 server a hash of its unique id.
    pub identity: Uuid,
    /// Bytes, as the server counts them.
    pub size: i64,
    /// Whether it was read.
    pub is_read: bool,
    /// Whether it is marked.
    pub is_flagged: bool,
    /// Whether it was answered.
    pub is_answered: bool,
    /// The folders that are labels of it (Gmail).
    pub labels: Vec<FolderId>,
}

/// What became of a message on its server; at POP3, what is to be so here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its id.
    pub id: MessageId,
    /// The folder where it was.
    pub from: FolderId,
    /// The UID that it had there.
    pub from_uid: Option<u32>,
    /// Its flags by now, of [`Bits`] those that tell whether it was read, marked and answered; none where nobody has looked.
    pub bits: Option<Bits>,
    /// The folder where it is now, if that is another one.
    pub to: Option<FolderId>,
    /// The UIDVALIDITY and the UID that it has there, where the server has told.
    pub to_uid: Option<(u32, u32)>,
    /// It is also where it was.
    pub is_kept: bool,
    /// It is no more.
    pub is_destroyed: bool,
    /// A label that it got.
    pub added: Option<FolderId>,
    /// A label that it lost.
    pub removed: Option<FolderId>,
}

impl Done {
    /// Nothing has happened to this message.
    pub fn nothing(message: &Whereabouts) -> Self {
        Self {
            id: message.id,
            from: message.folder_id,
            from_uid: message.uid,
            bits: None,
            to: None,
            to_uid: None,
            is_kept: false,
            is_destroyed: false,
            added: None,
            removed: None,
        }
    }
}

/// What the rows of an account have to know about a visit.
#[derive(Debug, Default)]
pub struct Deeds {
    /// By messages.
    pub done: Vec<Done>,
    /// What is destroyed stays on the server, and is not to come back from there.
    pub hides: bool,
    /// The server is not as it was thought to be: it is to be synchronised soon.
    pub is_due: bool,
}

impl Located {
    /// A folder of the account by its id.
    pub fn folder(&self, id: FolderId) -> Option<&Place> {
        self.folders.iter().find(|folder| folder.id == id)
    }

    /// The account's folder for this. Of several, the first by its path.
    pub fn folder_for(&self, role: Role) -> Option<&Place> {
        let folders = self.folders.iter().filter(|folder| folder.role == Some(role) && folder.is_selectable);
        folders.min_by(|a, b| a.path.cmp(&b.path))
    }
}

impl Db {
    /// Where the caller's messages are, by accounts; `folder` is to be among the folders of its account. What is unknown,
    /// foreign or of a deleted account is left out; what is not where it was seen last has no UID. At most so many ids as
    /// a batch may have.
    ///
    /// Where a server has refused the login of an account, this counts as a try: see [`Stored::check_turn`].
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here.
    pub async fn locate_messages(
        &self,
        scope: &Scope,
        ids: &[MessageId],
        folder: Option<FolderId>,
    ) -> Result<Vec<Located>, Error> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let sql = "select l.kind, (l.account).*, l.sealed_password, null::bytea as sealed_smtp_password, l.wait,
                       l.id as own_id, l.account_id, l.folder_id, l.wire_name, l.path, l.role, l.is_selectable, l.is_label,
                       l.uid_validity, l.uid, l.identity, l.size, l.is_read, l.is_flagged, l.is_answered, l.labels
                   from locate_messages($1, $2, $3, $4) l";
        let params = [(&ids as _, Type::UUID_ARRAY), (&folder.map(|id| id.0) as _, Type::UUID)];
        // What a second one would note of a refused login is a minute's wait.
        let rows = self.query(Access::Read, scope, sql, &params).await?;
        let mut located: Vec<Located> = Vec::new();
        for row in &rows {
            let account = AccountId(row.try_get("account_id")?);
            let of = located.iter_mut().find(|located| located.stored.account.id == account);
            match (row.try_get("kind")?, of) {
                ("account", _) => {
                    if let Some(stored) = stored(row)? {
                        located.push(Located { stored, folders: Vec::new(), messages: Vec::new() });
                    }
                }
                ("folder", Some(of)) => of.folders.push(place(row)?),
                ("message", Some(of)) => of.messages.push(whereabouts(row)?),
                // Of an account that was deleted.
                _ => {}
            }
        }
        Ok(located)
    }

    /// Makes here what was done on an account's server, in one statement. Returns the messages as they are now, in no order, and
    /// those that are destroyed as they were; what is not here any more is left out.
    ///
    /// # Errors
    /// See [`Db::locate_messages`].
    pub async fn apply_actions(&self, scope: &Scope, account: AccountId, deeds: &Deeds) -> Result<Vec<Message>, Error> {
        let done = &deeds.done;
        let ids = |id: fn(&Done) -> Option<FolderId>| -> Vec<Option<Uuid>> {
            done.iter().map(|done| id(done).map(|id| id.0)).collect()
        };
        let numbers = |number: fn(&Done) -> Option<u32>| -> Vec<Option<i64>> {
            done.iter().map(|done| number(done).map(i64::from)).collect()
        };
        let messages: Vec<Uuid> = done.iter().map(|done| done.id.0).collect();
        let (from, to) = (ids(|done| Some(done.from)), ids(|done| done.to));
        let (added, removed) = (ids(|done| done.added), ids(|done| done.removed));
        let from_uids = numbers(|done| done.from_uid);
        let validities = numbers(|done| done.to_uid.map(|(validity, _)| validity));
        let uids = numbers(|done| done.to_uid.map(|(_, uid)| uid));
        let bits: Vec<Option<i16>> = done.iter().map(|done| done.bits.map(|bits| bits.0)).collect();
        let kept: Vec<bool> = done.iter().map(|done| done.is_kept).collect();
        let destroyed: Vec<bool> = done.iter().map(|done| done.is_destroyed).collect();
        let sql = shown!("apply_actions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)");
        let rows = self
            .query(
                Access::Write,
                scope,
                sql,
                &[
                    (&account.0, Type::UUID),
                    (&messages, Type::UUID_ARRAY),
                    (&from, Type::UUID_ARRAY),
                    (&from_uids, Type::INT8_ARRAY),
                    (&bits, Type::INT2_ARRAY),
                    (&to, Type::UUID_ARRAY),
                    (&validities, Type::INT8_ARRAY),
                    (&uids, Type::INT8_ARRAY),
                    (&kept, Type::BOOL_ARRAY),
                    (&destroyed, Type::BOOL_ARRAY),
                    (&added, Type::UUID_ARRAY),
                    (&removed, Type::UUID_ARRAY),
                    (&deeds.hides, Type::BOOL),
                    (&deeds.is_due, Type::BOOL),
                ],
            )
            .await?;
        rows.iter().map(message).collect()
    }
}

fn place(row: &Row) -> Result<Place, tokio_postgres::Error> {
    Ok(Place {
        id: FolderId(row.try_get("own_id")?),
        wire_name: row.try_get("wire_name")?,
        path: row.try_get("path")?,
        role: row.try_get::<_, Option<&str>>("role")?.and_then(Role::parse),
        is_selectable: row.try_get("is_selectable")?,
        is_label: row.try_get("is_label")?,
        uid_validity: number(row, "uid_validity")?,
    })
}

fn whereabouts(row: &Row) -> Result<Whereabouts, tokio_postgres::Error> {
    Ok(Whereabouts {
        id: MessageId(row.try_get("own_id")?),
        folder_id: FolderId(row.try_get("folder_id")?),
        uid: number(row, "uid")?,
        identity: row.try_get("identity")?,
        size: row.try_get("size")?,
        is_read: row.try_get("is_read")?,
        is_flagged: row.try_get("is_flagged")?,
        is_answered: row.try_get("is_answered")?,
        labels: row.try_get::<_, Vec<Uuid>>("labels")?.into_iter().map(FolderId).collect(),
    })
}

/// What does not fit was never a UID.
fn number(row: &Row, name: &str) -> Result<Option<u32>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<i64>>(name)?.and_then(|number| u32::try_from(number).ok()))
}

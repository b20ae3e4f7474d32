//! Queries on drafts and uploads. The SQL of the functions that they call is in `migrations/V15__writing.sql`.

use anyhow::anyhow;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Access, Db};
use crate::account::AccountId;
use crate::composition::{Composition, UploadId, unknown};
use crate::draft::{Draft, DraftCursor, DraftId, MAX_DRAFTS, NO_SUCH_DRAFT, STALE, TOO_MANY_DRAFTS, Version};
use crate::error::Error;
use crate::idempotency::{Made, Once, conflict, is_replayed};
use crate::identity::Scope;
use crate::message::MessageId;
use crate::upload::{MAX_UPLOADED_BYTES, MAX_UPLOADS, NewUpload, TOO_MANY_UPLOADS, Upload};

/// A page ends after so many bytes of drafts: one may have a megabyte, Lambda answers with six at most, and what is JSON
/// within JSON there can be twice as long.
const MAX_PAGE_BYTES: i64 = 1_250_000;

/// A page of drafts.
#[derive(Debug)]
pub struct DraftPage {
    /// Newest first.
    pub drafts: Vec<Draft>,
    /// The last of them, where there are more.
    pub next: Option<DraftCursor>,
}

impl Db {
    /// Announces a file; once for each key.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the user has too many; for those of a key see `is_replayed`; [`Error::Internal`] when
    /// PostgreSQL fails, as with all methods here.
    pub async fn create_upload(
        &self,
        scope: &Scope,
        new: &NewUpload,
        once: Option<&Once>,
    ) -> Result<Made<Upload>, Error> {
        let (key_hash, fingerprint) = Once::hashes(once);
        let rows = self
            .query(
                Access::Write,
                scope,
                "select * from create_upload($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    (&Uuid::now_v7(), Type::UUID),
                    (&new.filename.0, Type::TEXT),
                    (&new.content_type.0, Type::TEXT),
                    (&new.size.0, Type::INT8),
                    (&MAX_UPLOADS, Type::INT8),
                    (&MAX_UPLOADED_BYTES, Type::INT8),
                    (&key_hash, Type::BYTEA),
                    (&fingerprint, Type::BYTEA),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("create_upload gave no row")))?;
        let is_replayed = is_replayed(row)?;
        match row.try_get("outcome")? {
            "created" => {
                let upload = Upload { id: UploadId(row.try_get("id")?), created_at: row.try_get("created_at")? };
                Ok(Made { thing: upload, is_replayed })
            }
            _ => Err(conflict(TOO_MANY_UPLOADS, is_replayed)),
        }
    }

    /// Notes files that are made of what lies here already; returns their ids.
    ///
    /// # Errors
    /// See [`Db::create_upload`].
    pub async fn add_uploads(&self, scope: &Scope, new: &[NewUpload]) -> Result<Vec<UploadId>, Error> {
        let ids: Vec<_> = new.iter().map(|_| Uuid::now_v7()).collect();
        let names: Vec<_> = new.iter().map(|new| new.filename.0.as_str()).collect();
        let types: Vec<_> = new.iter().map(|new| new.content_type.0.as_str()).collect();
        let sizes: Vec<_> = new.iter().map(|new| new.size.0).collect();
        let rows = self
            .query(
                Access::Write,
                scope,
                "select add_uploads($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    (&ids, Type::UUID_ARRAY),
                    (&names, Type::TEXT_ARRAY),
                    (&types, Type::TEXT_ARRAY),
                    (&sizes, Type::INT8_ARRAY),
                    (&MAX_UPLOADS, Type::INT8),
                    (&MAX_UPLOADED_BYTES, Type::INT8),
                ],
            )
            .await?;
        match rows.first().map(|row| row.try_get(0)).transpose()? {
            Some(true) => Ok(ids.into_iter().map(UploadId).collect()),
            _ => Err(Error::Conflict(TOO_MANY_UPLOADS.into())),
        }
    }

    /// Stores a draft; once for each key.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it names what the user has not, [`Error::Conflict`] when the user has too many; for those of
    /// a key see `is_replayed`.
    pub async fn create_draft(
        &self,
        scope: &Scope,
        composition: Composition,
        once: Option<&Once>,
    ) -> Result<Made<Draft>, Error> {
        let (key_hash, fingerprint) = Once::hashes(once);
        let (uploads, content) = (uploads(&composition), content(&composition)?);
        let rows = self
            .query(
                Access::Write,
                scope,
                "select * from create_draft($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                &[
                    (&Uuid::now_v7(), Type::UUID),
                    (&composition.account_id.map(|id| id.0), Type::UUID),
                    (&composition.reply_to_id.map(|id| id.0), Type::UUID),
                    (&composition.forward_of_id.map(|id| id.0), Type::UUID),
                    (&uploads, Type::UUID_ARRAY),
                    (&content, Type::TEXT),
                    (&MAX_DRAFTS, Type::INT8),
                    (&key_hash, Type::BYTEA),
                    (&fingerprint, Type::BYTEA),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("create_draft gave no row")))?;
        let is_replayed = is_replayed(row)?;
        match row.try_get("outcome")? {
            "created" => {
                let created_at = row.try_get("created_at")?;
                let id = DraftId(row.try_get("id")?);
                Ok(Made {
                    thing: Draft { id, composition, version: 1, created_at, updated_at: created_at },
                    is_replayed,
                })
            }
            "unknown" => Err(unknown_fields(row)?),
            _ => Err(conflict(TOO_MANY_DRAFTS, is_replayed)),
        }
    }

    /// The user's drafts, newest first, after `cursor`.
    ///
    /// # Errors
    /// See [`Db::create_upload`].
    pub async fn list_drafts(
        &self,
        scope: &Scope,
        limit: i64,
        cursor: Option<DraftCursor>,
    ) -> Result<DraftPage, Error> {
        let rows = self
            .query(
                Access::Read,
                scope,
                "select (page.draft).*, page.is_last from list_drafts($1, $2, $3, $4, $5) page",
                &[(&limit, Type::INT8), (&MAX_PAGE_BYTES, Type::INT8), (&cursor.map(|cursor| cursor.0.0), Type::UUID)],
            )
            .await?;
        let drafts: Vec<_> = rows.iter().map(draft).collect::<Result<_, _>>()?;
        let is_last = rows.last().map_or(Ok(true), |row| row.try_get("is_last"))?;
        let next = drafts.last().filter(|_| !is_last).map(|draft| DraftCursor(draft.id));
        Ok(DraftPage { drafts, next })
    }

    /// One draft.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the user has none with this id.
    pub async fn find_draft(&self, scope: &Scope, id: DraftId) -> Result<Draft, Error> {
        let sql = "select * from find_draft($1, $2, $3)";
        let rows = self.query(Access::Read, scope, sql, &[(&id.0, Type::UUID)]).await?;
        rows.first().map_or(Err(Error::NotFound(NO_SUCH_DRAFT)), draft)
    }

    /// Puts another content into a draft that has this version.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] where it has another version, and [`Error::Invalid`] where it names what the
    /// user has not.
    pub async fn update_draft(
        &self,
        scope: &Scope,
        id: DraftId,
        version: Version,
        composition: &Composition,
    ) -> Result<Draft, Error> {
        let (uploads, content) = (uploads(composition), content(composition)?);
        let rows = self
            .query(
                Access::Write,
                scope,
                "select (own.draft).*, own.outcome, own.unknown
                 from update_draft($1, $2, $3, $4, $5, $6, $7, $8, $9) own",
                &[
                    (&id.0, Type::UUID),
                    (&version.0, Type::INT4),
                    (&composition.account_id.map(|id| id.0), Type::UUID),
                    (&composition.reply_to_id.map(|id| id.0), Type::UUID),
                    (&composition.forward_of_id.map(|id| id.0), Type::UUID),
                    (&uploads, Type::UUID_ARRAY),
                    (&content, Type::TEXT),
                ],
            )
            .await?;
        let row = rows.first().ok_or(Error::NotFound(NO_SUCH_DRAFT))?;
        match row.try_get("outcome")? {
            "updated" => draft(row),
            "unknown" => Err(unknown_fields(row)?),
            _ => Err(Error::Conflict(STALE.into())),
        }
    }

    /// Forgets a draft.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the user has none with this id.
    pub async fn delete_draft(&self, scope: &Scope, id: DraftId) -> Result<(), Error> {
        let sql = "select delete_draft($1, $2, $3)";
        let rows = self.query(Access::Write, scope, sql, &[(&id.0, Type::UUID)]).await?;
        match rows.first().map(|row| row.try_get(0)).transpose()? {
            Some(true) => Ok(()),
            _ => Err(Error::NotFound(NO_SUCH_DRAFT)),
        }
    }
}

/// The uploads of the attachments, in their order.
pub(super) fn uploads(composition: &Composition) -> Vec<Uuid> {
    composition.uploads().into_iter().map(|id| id.0).collect()
}

fn content(composition: &Composition) -> Result<String, Error> {
    serde_json::to_string(composition).map_err(Error::internal)
}

pub(super) fn unknown_fields(row: &Row) -> Result<Error, Error> {
    let fields: Vec<String> = row.try_get("unknown")?;
    Ok(Error::Invalid(fields.into_iter().map(unknown).collect()))
}

/// What the columns name is what is there of that which the content names.
fn draft(row: &Row) -> Result<Draft, Error> {
    let composition: Composition = serde_json::from_str(row.try_get("content")?).map_err(Error::internal)?;
    Ok(Draft {
        id: DraftId(row.try_get("id")?),
        composition: Composition {
            account_id: row.try_get::<_, Option<Uuid>>("account_id")?.map(AccountId),
            reply_to_id: row.try_get::<_, Option<Uuid>>("reply_to_id")?.map(MessageId),
            forward_of_id: row.try_get::<_, Option<Uuid>>("forward_of_id")?.map(MessageId),
            ..composition
        },
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

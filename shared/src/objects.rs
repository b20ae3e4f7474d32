//! What is too large for the database, in S3: messages as a mail host gave them, what they show, files to be sent.
//!
//! An object's key begins with what it is for, by which the bucket knows how long it lives, then tenant and account: whoever
//! makes a key has a [`Scope`]. Only functions that make an [`ObjectStore`] have S3's client in their program.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;
use uuid::Uuid;

use crate::account::AccountId;
use crate::aws;
use crate::composition::UploadId;
use crate::error::{Error, describe};
use crate::identity::Scope;
use crate::message::MessageId;
use crate::upload::{NewUpload, PUT_LIFETIME, PutLink, Upload};

/// How long a link to an object can be used.
pub const LINK_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// The most objects that S3 deletes in one call.
const MAX_DELETED: usize = 1000;
/// How many objects are asked for at once.
const MAX_ASKED_AT_ONCE: usize = 16;
/// The longest that one attempt takes. The largest objects have some 50 MB, at which S3 gives or takes them in a second.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// The longest that a call takes, second attempts included, so that there is time to answer.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Where an object lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// What is kept of a message, for 30 days; `part` says which of it.
    pub fn of_message(scope: &Scope, account: AccountId, message: MessageId, part: &str) -> Self {
        Self(format!("{}{}/{part}", Self::all_of_account(scope.tenant_id.0, account.0), message.0))
    }

    /// A file that a user has announced. It is there as long as something uses it.
    pub fn of_upload(scope: &Scope, upload: UploadId) -> Self {
        Self(format!("uploads/{}/{}/{}", scope.tenant_id.0, scope.user_id.0, upload.0))
    }

    /// What all keys of an account's messages begin with.
    fn all_of_account(tenant: Uuid, account: Uuid) -> String {
        format!("mail/{tenant}/{account}/")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    client: Client,
    bucket: String,
}

impl ObjectStore {
    /// The bucket of this name, by the function's own rights.
    pub fn new(bucket: String) -> Self {
        let limits = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_LIMIT).operation_timeout(CALL_LIMIT);
        let aws = aws::config("S3", limits.build(), RetryConfig::standard());
        // A checksum in a link would be that of nothing, and what S3 received it was sent over TLS.
        let checksums = RequestChecksumCalculation::WhenRequired;
        let config = aws_sdk_s3::config::Builder::from(&aws).request_checksum_calculation(checksums).build();
        Self { client: Client::from_conf(config), bucket }
    }

    /// Opens a connection, so that no request pays for it. A store that is away is no reason not to start.
    pub async fn warm_up(&self) {
        if let Err(error) = self.ask(CALL_LIMIT).await {
            tracing::warn!(error, "the object store is away; starting all the same");
        }
    }

    /// Whether the bucket answers.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ask(&self, limit: Duration) -> Result<(), String> {
        match timeout(limit, self.client.head_bucket().bucket(&self.bucket).send()).await {
            Ok(answer) => answer.map(drop).map_err(describe),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    /// An object; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when S3 fails; so it is with all methods here.
    pub async fn get(&self, key: &Key) -> Result<Option<Bytes>, Error> {
        self.read(key, None).await
    }

    /// `length` bytes of an object from `offset`, or as many as it has.
    pub async fn get_range(&self, key: &Key, offset: u64, length: u64) -> Result<Option<Bytes>, Error> {
        // No range is empty.
        let Some(last) = length.checked_sub(1) else { return Ok(Some(Bytes::new())) };
        self.read(key, Some(format!("bytes={offset}-{}", offset.saturating_add(last)))).await
    }

    async fn read(&self, key: &Key, range: Option<String>) -> Result<Option<Bytes>, Error> {
        let call = self.client.get_object().bucket(&self.bucket).key(&key.0).set_range(range);
        match call.send().await {
            Ok(object) => Ok(Some(object.body.collect().await.map_err(unavailable)?.into_bytes())),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Whether there is an object.
    pub async fn has(&self, key: &Key) -> Result<bool, Error> {
        match self.client.head_object().bucket(&self.bucket).key(&key.0).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Stores an object, in the place of one that is there.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        let call = self.client.put_object().bucket(&self.bucket).key(&key.0).body(bytes.into());
        call.send().await.map_err(unavailable)?;
        Ok(())
    }

    /// A link to an object, for whoever has it, for five minutes. The store answers with this type and disposition,
    /// which are signed as well.
    pub async fn link(&self, key: &Key, content_type: &str, disposition: &str) -> Result<String, Error> {
        let lifetime = PresigningConfig::expires_in(LINK_LIFETIME).map_err(Error::internal)?;
        let call = self.client.get_object().bucket(&self.bucket).key(&key.0);
        let call = call.response_content_type(content_type).response_content_disposition(disposition);
        Ok(call.presigned(lifetime).await.map_err(unavailable)?.uri().to_owned())
    }

    /// Leave to put a file, once, for whoever has the link: of this type and size, for a quarter of an hour after it was announced.
    /// Where it is put a second time the store refuses (412), so what is being sent never changes.
    pub async fn put_link(&self, scope: &Scope, upload: &Upload, announced: &NewUpload) -> Result<PutLink, Error> {
        let start = UNIX_EPOCH + Duration::from_millis(u64::try_from(upload.created_at).unwrap_or_default());
        // From when it was announced: the same again gives the same link.
        let lifetime = PresigningConfig::builder().start_time(start).expires_in(PUT_LIFETIME).build();
        let call = self.client.put_object().bucket(&self.bucket).key(Key::of_upload(scope, upload.id).0);
        let call = call.content_type(&announced.content_type.0).content_length(announced.size.0).if_none_match("*");
        let signed = call.presigned(lifetime.map_err(Error::internal)?).await.map_err(unavailable)?;
        // Of what is signed: what sends a file counts its bytes itself, and a page must not say how many.
        let headers = signed.headers().filter(|(name, _)| ["content-type", "if-none-match"].contains(name));
        Ok(PutLink {
            id: upload.id,
            url: signed.uri().to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            expires_at: upload.created_at.saturating_add(i64::try_from(PUT_LIFETIME.as_millis()).unwrap_or(i64::MAX)),
        })
    }

    /// Of these files those that are not there.
    pub async fn missing_uploads(&self, scope: &Scope, uploads: &[UploadId]) -> Result<Vec<UploadId>, Error> {
        let asked = uploads.iter().copied().map(|id| async move {
            let is_there = self.has(&Key::of_upload(scope, id)).await?;
            Ok::<_, Error>((!is_there).then_some(id))
        });
        let missing: Vec<_> = stream::iter(asked).buffered(MAX_ASKED_AT_ONCE).try_collect().await?;
        Ok(missing.into_iter().flatten().collect())
    }

    /// Deletes these files, also where some are not there.
    pub async fn delete_uploads(&self, uploads: &[(Scope, UploadId)]) -> Result<(), Error> {
        for some in uploads.chunks(MAX_DELETED) {
            let keys = some.iter().map(|(scope, id)| Key::of_upload(scope, *id).0);
            let named: Result<Vec<_>, _> = keys.map(|key| ObjectIdentifier::builder().key(key).build()).collect();
            self.delete(named.map_err(Error::internal)?).await?;
        }
        Ok(())
    }

    /// Deletes at most a thousand objects.
    async fn delete(&self, named: Vec<ObjectIdentifier>) -> Result<(), Error> {
        let these = Delete::builder().set_objects(Some(named)).quiet(true).build().map_err(Error::internal)?;
        let deleted = self.client.delete_objects().bucket(&self.bucket).delete(these).send().await;
        match deleted.map_err(unavailable)?.errors().first() {
            None => Ok(()),
            Some(failure) => {
                let reason = failure.message().unwrap_or_default().to_owned();
                Err(Error::Unavailable(anyhow::anyhow!("an object was not deleted: {reason}")))
            }
        }
    }

    /// Deletes all that is kept of an account's messages; returns how many objects that were. One that is written
    /// meanwhile may stay, as long as the bucket keeps it.
    pub async fn delete_account(&self, tenant: Uuid, account: Uuid) -> Result<usize, Error> {
        let (prefix, mut count) = (Key::all_of_account(tenant, account), 0);
        loop {
            let page = self.client.list_objects_v2().bucket(&self.bucket).prefix(&prefix).send().await;
            let keys =
                page.map_err(unavailable)?.contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
            let named: Result<Vec<_>, _> = keys.map(|key| ObjectIdentifier::builder().key(key).build()).collect();
            let named = named.map_err(Error::internal)?;
            if named.is_empty() {
                return Ok(count);
            }
            let some = named.len();
            // The next page is what is left: one that cannot be deleted would come for ever.
            self.delete(named).await?;
            count += some;
        }
    }
}

fn unavailable(error: impl Into<anyhow::Error>) -> Error {
    Error::Unavailable(error.into().context("the object store failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{TenantId, UserId};

    #[test]
    fn a_key_says_whose_it_is() {
        let id = |n: u128| Uuid::from_u128(n);
        let scope = Scope { tenant_id: TenantId(id(1)), user_id: UserId(id(2)) };
        let key = Key::of_message(&scope, AccountId(id(3)), MessageId(id(4)), "raw");
        assert_eq!(key.to_string(), format!("mail/{}/{}/{}/raw", id(1), id(3), id(4)));
    }
}

//! What is too large for the database, in S3: messages as a mail host gave them, what they show, files to be sent.
//!
//! An object's key begins with what it is for, by which the bucket knows how long it lives, then tenant and account: whoever
//! makes a key has a [`Scope`]. Only functions that make an [`ObjectStore`] have S3's client in their program.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use lambda_http::http::{HeaderName, Request, Response, StatusCode, header};
use rand::TryRng;
use rand::rngs::SysRng;
use rusty_s3::actions::{DeleteObjectsResponse, ListObjectsV2, ObjectIdentifier};
use rusty_s3::{Bucket, Credentials, Method, S3Action, UrlStyle};
use tokio::time::{sleep, timeout};
use url::Url;
use uuid::Uuid;

use crate::account::AccountId;
use crate::aws;
use crate::composition::UploadId;
use crate::connections::Connections;
use crate::error::{Error, describe};
use crate::identity::Scope;
use crate::message::MessageId;
use crate::upload::{NewUpload, PUT_LIFETIME, PutLink, Upload};
use crate::variables::Variables;

/// How long a link to an object can be used.
pub const LINK_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// The most objects that S3 deletes in one call.
const MAX_DELETED: usize = 1000;
/// How many objects are asked for at once.
const MAX_ASKED_AT_ONCE: usize = 16;
/// The longest that a call takes, second attempts included, so that there is time to answer.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How long to wait at most before a second and a third attempt. The first failure mostly is a connection that was closed
/// while the function was frozen.
const RETRIES_WITHIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// How long what we ask ourselves may be on the way, a clock that is late included: as long as S3 grants one that is signed
/// in its headers.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);

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

/// A bucket. The requests are made by rusty-s3, and sent here: with the SDK of AWS a message that is kept takes a tenth
/// longer, and a function has tables of twenty checksums (docs/PERFORMANCE.md).
#[derive(Clone)]
pub struct ObjectStore {
    bucket: Bucket,
    credentials: Credentials,
    connections: Connections,
}

impl ObjectStore {
    /// The bucket of this name, by the function's own rights.
    ///
    /// # Errors
    /// The environment does not say where it is, or who we are, as Lambda's does.
    pub fn new(bucket: String) -> anyhow::Result<Self> {
        Self::told(&Variables::of_process(), bucket)
    }

    fn told(vars: &Variables, bucket: String) -> anyhow::Result<Self> {
        let must = |name| vars.get(name).with_context(|| format!("{name} must be set, as Lambda sets it"));
        let region = must("AWS_REGION")?;
        let (key, secret) = (must("AWS_ACCESS_KEY_ID")?, must("AWS_SECRET_ACCESS_KEY")?);
        let credentials = match vars.get("AWS_SESSION_TOKEN") {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        };
        // What is not AWS need not have a host name for each bucket.
        let (endpoint, style) = match aws::endpoint(vars, "S3") {
            Some(endpoint) => (endpoint, UrlStyle::Path),
            None => {
                // A certificate of AWS is good for no name with one more dot.
                let style = if bucket.contains('.') { UrlStyle::Path } else { UrlStyle::VirtualHost };
                (format!("https://s3.{region}.{}", aws::domain(&region)), style)
            }
        };
        let endpoint = Url::parse(&endpoint).context("AWS_ENDPOINT_URL_S3 must be a URL")?;
        let bucket =
            Bucket::new(endpoint, style, bucket, region).map_err(|error| anyhow!("no such bucket: {error}"))?;
        Ok(Self { bucket, credentials, connections: Connections::default() })
    }

    /// Has a connection ready for the request that comes next.
    pub fn approach(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.connections.approach(self.bucket.base_url()))
    }

    /// Whom requests are signed by.
    fn signer(&self) -> Option<&Credentials> {
        Some(&self.credentials)
    }

    /// Sends a request, up to three times where S3 does not answer or says that it cannot: each that there is here may be
    /// repeated. A refusal is a failure, an object that is missing is not.
    async fn send<'a, A: S3Action<'a> + Sync>(
        &self,
        action: &A,
        header: Option<(HeaderName, String)>,
        body: Bytes,
    ) -> Result<Response<Bytes>, Error> {
        let sign = || action.sign(SIGNED_FOR);
        self.send_signed(A::METHOD, &sign, header, body).await
    }

    /// The same, for all kinds of requests at once: see `aws.rs`.
    fn send_signed<'a>(
        &'a self,
        method: Method,
        sign: &'a (dyn Fn() -> Url + Sync),
        header: Option<(HeaderName, String)>,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Response<Bytes>, Error>> {
        let attempts = async move {
            let mut waits = RETRIES_WITHIN.into_iter();
            loop {
                let failure = match self.attempt(method, &sign(), header.clone(), body.clone()).await {
                    Ok(answer) if !is_passing(answer.status()) => return accepted(method, answer),
                    Ok(answer) => refusal(&answer),
                    Err(error) => error,
                };
                match waits.next() {
                    Some(longest) => sleep(some_of(longest)).await,
                    None => return Err(failure),
                }
            }
        };
        Box::pin(async {
            let answer = timeout(CALL_LIMIT, attempts).await;
            answer.unwrap_or_else(|_| Err(anyhow!("no answer within {CALL_LIMIT:?}"))).map_err(unavailable)
        })
    }

    async fn attempt(
        &self,
        method: Method,
        url: &Url,
        header: Option<(HeaderName, String)>,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::builder().method(method.to_str());
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        // S3 wants to be told also of none, which hyper does not.
        if [Method::Put, Method::Post].contains(&method) {
            request = request.header(header::CONTENT_LENGTH, body.len());
        }
        self.connections.send(url, request, body).await
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
        let answer =
            timeout(limit, async { self.send(&self.bucket.head_bucket(self.signer()), None, Bytes::new()).await });
        match answer.await {
            Ok(Ok(answer)) if answer.status() == StatusCode::NOT_FOUND => Err("there is no such bucket".to_owned()),
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
        let action = self.bucket.get_object(self.signer(), &key.0);
        let answer = self.send(&action, range.map(|range| (header::RANGE, range)), Bytes::new()).await?;
        Ok((answer.status() != StatusCode::NOT_FOUND).then(|| answer.into_body()))
    }

    /// Whether there is an object.
    pub async fn has(&self, key: &Key) -> Result<bool, Error> {
        let answer = self.send(&self.bucket.head_object(self.signer(), &key.0), None, Bytes::new()).await?;
        Ok(answer.status() != StatusCode::NOT_FOUND)
    }

    /// Stores an object, in the place of one that is there.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), Error> {
        self.send(&self.bucket.put_object(self.signer(), &key.0), None, bytes).await.map(drop)
    }

    /// A link to an object, for whoever has it, for five minutes. The store answers with this type and disposition,
    /// which are signed as well.
    pub fn link(&self, key: &Key, content_type: &str, disposition: &str) -> String {
        let mut action = self.bucket.get_object(self.signer(), &key.0);
        action.query_mut().insert("response-content-type", content_type);
        action.query_mut().insert("response-content-disposition", disposition);
        action.sign(LINK_LIFETIME).into()
    }

    /// Leave to put a file, once, for whoever has the link: of this type and size, for a quarter of an hour after it was announced.
    /// Where it is put a second time the store refuses (412), so what is being sent never changes.
    ///
    /// # Errors
    /// [`Error::Internal`] where it was announced at no time.
    pub fn put_link(&self, scope: &Scope, upload: &Upload, announced: &NewUpload) -> Result<PutLink, Error> {
        let key = Key::of_upload(scope, upload.id);
        let mut action = self.bucket.put_object(self.signer(), &key.0);
        // What sends a file counts its bytes itself, and a page must not say how many.
        let (size, told) =
            (announced.size.0.to_string(), [("content-type", &*announced.content_type.0), ("if-none-match", "*")]);
        for (name, value) in told.into_iter().chain([("content-length", &*size)]) {
            action.headers_mut().insert(name, value);
        }
        // From when it was announced: the same again gives the same link.
        let start = Timestamp::from_millisecond(upload.created_at).map_err(Error::internal)?;
        Ok(PutLink {
            id: upload.id,
            url: action.sign_with_time(PUT_LIFETIME, &start).into(),
            headers: told.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
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
            self.delete(some.iter().map(|(scope, id)| Key::of_upload(scope, *id).0)).await?;
        }
        Ok(())
    }

    /// Deletes at most a thousand objects.
    async fn delete(&self, keys: impl Iterator<Item = String>) -> Result<(), Error> {
        let keys: Vec<_> = keys.map(ObjectIdentifier::new).collect();
        let mut action = self.bucket.delete_objects(self.signer(), keys.iter());
        action.set_quiet(true);
        let (body, md5) = action.clone().body_with_md5();
        let md5 = (HeaderName::from_static("content-md5"), md5);
        let answer = self.send(&action, Some(md5), body.into()).await?;
        let deleted = DeleteObjectsResponse::parse(text(&answer)?).map_err(unavailable)?;
        match deleted.errors.first() {
            None => Ok(()),
            Some(failure) => {
                Err(unavailable(anyhow!("an object was not deleted: {} {}", failure.code, failure.message)))
            }
        }
    }

    /// Deletes all that is kept of an account's messages; returns how many objects that were. One that is written
    /// meanwhile may stay, as long as the bucket keeps it.
    pub async fn delete_account(&self, tenant: Uuid, account: Uuid) -> Result<usize, Error> {
        let mut count = 0;
        loop {
            let mut action = self.bucket.list_objects_v2(self.signer());
            action.with_prefix(Key::all_of_account(tenant, account));
            let page = self.send(&action, None, Bytes::new()).await?;
            let some = ListObjectsV2::parse_response(text(&page)?).map_err(unavailable)?.contents;
            if some.is_empty() {
                return Ok(count);
            }
            count += some.len();
            // The next page is what is left: one that cannot be deleted would come for ever.
            self.delete(some.into_iter().map(|object| object.key)).await?;
        }
    }
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectStore").field(&self.bucket.name()).finish()
    }
}

/// Whether S3 may answer otherwise a moment later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// What S3 did, or that there is no such object. Of a HEAD it does not say what there is not.
fn accepted(method: Method, answer: Response<Bytes>) -> anyhow::Result<Response<Bytes>> {
    let is_missing = answer.status() == StatusCode::NOT_FOUND
        && match method {
            Method::Head => true,
            Method::Get => code(&answer) == Some("NoSuchKey"),
            _ => false,
        };
    if answer.status().is_success() || is_missing { Ok(answer) } else { Err(refusal(&answer)) }
}

/// For the operator: S3's own word for it as well.
fn refusal(answer: &Response<Bytes>) -> anyhow::Error {
    anyhow!("it answers {} {}", answer.status().as_u16(), code(answer).unwrap_or_default())
}

/// The code of a failure.
fn code(answer: &Response<Bytes>) -> Option<&str> {
    let text = std::str::from_utf8(answer.body()).ok()?;
    Some(text.split_once("<Code>")?.1.split_once("</Code>")?.0)
}

fn text(answer: &Response<Bytes>) -> Result<&str, Error> {
    std::str::from_utf8(answer.body()).map_err(unavailable)
}

/// Some part of a time, so that those who failed together do not try again together.
fn some_of(longest: Duration) -> Duration {
    let part = SysRng.try_next_u32().unwrap_or_default();
    longest.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

fn unavailable(error: impl Into<anyhow::Error>) -> Error {
    Error::Unavailable(error.into().context("the object store failed"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::identity::{TenantId, UserId};

    /// A store whose place is what `told` says beside what Lambda always does.
    fn store(told: &[(&str, &str)], bucket: &str) -> ObjectStore {
        let always = [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let told: BTreeMap<_, _> =
            always.iter().chain(told).map(|(name, value)| (name.to_string(), value.to_string())).collect();
        ObjectStore::told(&Variables::new(move |name| told.get(name).cloned()), bucket.to_owned()).unwrap()
    }

    /// A store which gives these answers, each on a connection of its own; an empty one is a connection that ends.
    async fn scripted(answers: &'static [&'static str]) -> (ObjectStore, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..length]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (store(&[("AWS_ENDPOINT_URL_S3", &url)], "bucket"), asked)
    }

    const BUSY: &str = "HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const FOUND: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    const SILENT: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const NOTHING: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n<Error><Code>NoSuchKey</Code></Error>";
    const NO_BUCKET: &str =
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n<Error><Code>NoSuchBucket</Code></Error>";
    const DENIED: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n<Error><Code>AccessDenied</Code></Error>";

    fn some_key() -> Key {
        Key("mail/a b/c".to_owned())
    }

    #[tokio::test]
    async fn what_passes_is_tried_three_times_and_what_stays_once() {
        let (store, asked) = scripted(&[BUSY, "", FOUND]).await;
        assert_eq!(store.get(&some_key()).await.unwrap().unwrap(), "hello");
        let asked = asked.await.unwrap();
        assert!(asked.iter().all(|request| request.starts_with("GET /bucket/mail/a%20b/c?X-Amz-")), "{asked:?}");

        let (store, asked) = scripted(&[BUSY, BUSY, BUSY]).await;
        let error = describe(store.get(&some_key()).await.unwrap_err());
        assert!(error.ends_with("it answers 503 "), "{error}");
        assert_eq!(asked.await.unwrap().len(), 3);

        let (store, asked) = scripted(&[FOUND]).await;
        store.put(&some_key(), Bytes::new()).await.unwrap();
        assert!(asked.await.unwrap()[0].contains("content-length: 0\r\n"));

        let (store, asked) = scripted(&[DENIED]).await;
        let error = describe(store.put(&some_key(), Bytes::from_static(b"new")).await.unwrap_err());
        assert!(error.ends_with("it answers 403 AccessDenied"), "{error}");
        assert_eq!(asked.await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_was_approached_is_used() {
        // A second connection would not be answered.
        let (store, asked) = scripted(&[FOUND]).await;
        store.approach().await;
        store.approach().await;
        assert_eq!(store.get(&some_key()).await.unwrap().unwrap(), "hello");
        assert_eq!(asked.await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn no_object_is_not_no_bucket() {
        assert_eq!(scripted(&[NOTHING]).await.0.get(&some_key()).await.unwrap(), None);
        let error = describe(scripted(&[NO_BUCKET]).await.0.get(&some_key()).await.unwrap_err());
        assert!(error.ends_with("it answers 404 NoSuchBucket"), "{error}");
        let error = describe(scripted(&[SILENT]).await.0.put(&some_key(), Bytes::new()).await.unwrap_err());
        assert!(error.ends_with("it answers 404 "), "{error}");
        // A HEAD is answered without a body.
        assert!(!scripted(&[SILENT]).await.0.has(&some_key()).await.unwrap());
        let error = scripted(&[SILENT]).await.0.ask(CALL_LIMIT).await.unwrap_err();
        assert_eq!(error, "there is no such bucket");
    }

    #[test]
    fn a_bucket_is_where_its_region_or_the_environment_says() {
        let host = |told: &[(&str, &str)], bucket| {
            let link = store(told, bucket).link(&some_key(), "text/plain", "inline");
            link.split_once("/mail/").unwrap().0.to_owned()
        };
        assert_eq!(host(&[], "bucket"), "https://bucket.s3.eu-west-1.amazonaws.com");
        assert_eq!(host(&[], "my.bucket"), "https://s3.eu-west-1.amazonaws.com/my.bucket");
        assert_eq!(host(&[("AWS_REGION", "cn-north-1")], "bucket"), "https://bucket.s3.cn-north-1.amazonaws.com.cn");
        assert_eq!(host(&[("AWS_ENDPOINT_URL", "http://store:9000")], "bucket"), "http://store:9000/bucket");
        let link = store(&[("AWS_SESSION_TOKEN", "t/t")], "bucket").link(&some_key(), "text/plain", "inline");
        assert!(link.contains("X-Amz-Security-Token=t%2Ft&"), "{link}");
        assert!(!format!("{:?}", store(&[], "bucket")).contains("secret"));
    }

    #[test]
    fn a_key_says_whose_it_is() {
        let id = |n: u128| Uuid::from_u128(n);
        let scope = Scope { tenant_id: TenantId(id(1)), user_id: UserId(id(2)) };
        let key = Key::of_message(&scope, AccountId(id(3)), MessageId(id(4)), "raw");
        assert_eq!(key.to_string(), format!("mail/{}/{}/{}/raw", id(1), id(3), id(4)));
    }
}

//! Reading a message: what is kept of it in the object store, and where nothing is, what its mail host gives.
//!
//! Kept are the message as it was sent and what it shows, for as long as the bucket keeps them. What is not kept is fetched
//! once more; so a store that is away costs time, and only what must be handed out by a link cannot be answered.

use bytes::Bytes;
use mail::content::{Attachment, MAX_MESSAGE_BYTES, Opened, Place, VERSION};
use mail::message::{Raw, references};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::call::MAX_ANSWER_BYTES;
use shared::composition::{Attachment as Outgoing, ContentId, ContentType, Filename, MAX_ATTACHMENTS};
use shared::error::{Fault, NO_SUCH_MESSAGE};
use shared::http::{HeaderName, HeaderValue, StatusCode, header};
use shared::message::Message;
use shared::objects::{Key, ObjectStore};
use shared::search::composed;
use shared::upload::{MAX_SIZE, NewUpload, Size};
use shared::validation::Field;
use shared::{Error, MailCall, Reply};
use tokio::time::Instant;

use crate::tokens::Way;
use crate::visit;

/// What may be read from the network for one message: itself, and what servers say beside it.
const VISIT_BYTES: u64 = MAX_MESSAGE_BYTES as u64 + (1 << 20);

/// What a client learns when a message is not where it was.
const MOVED: &str = "The mailbox does not have this message where it was. It was moved or deleted a moment ago; list your \
                     messages again when the account was synchronised.";
/// What a client learns of a message that is longer than what is read of one.
pub const TOO_LONG: &str = "This message has more than 50 MB, and only its beginning can be read here.";

/// A message that a caller reads.
pub struct Reader<'a> {
    call: &'a MailCall<Way>,
    objects: &'a ObjectStore,
    started: Instant,
    /// As a list shows it.
    pub message: Message,
}

/// What is kept of what a message shows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// What it shows.
    pub opened: Opened,
    /// Whether it is longer than [`MAX_MESSAGE_BYTES`], so that the end is not here.
    pub is_cut: bool,
}

impl<'a> Reader<'a> {
    /// The message that the path names.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the caller has none with this id.
    pub async fn new(call: &'a MailCall<Way>, objects: &'a ObjectStore) -> Result<Self, Error> {
        let (started, id) = (Instant::now(), call.message_id()?);
        // What is kept of it is asked for next.
        let (found, ()) = tokio::join!(call.db.get_message(&call.identity.scope, id), objects.approach());
        Ok(Self { call, objects, started, message: found?.ok_or(Error::NotFound(NO_SUCH_MESSAGE))? })
    }

    /// Where something is kept.
    fn key(&self, part: &str) -> Key {
        Key::of_message(&self.call.identity.scope, self.message.account_id, self.message.id, part)
    }

    /// The message as it was sent, or the beginning of a longer one.
    fn raw_key(&self, is_cut: bool) -> Key {
        self.key(if is_cut { "beginning" } else { "raw" })
    }

    /// Under which path an attachment can be had.
    pub fn attachment_path(&self, id: &str) -> String {
        format!("/api/messages/{}/attachments/{id}", self.message.id)
    }

    /// What the message shows.
    ///
    /// # Errors
    /// [`Error::MailServer`] where the mail host fails, [`Error::NotFound`] where it does not have the message any more.
    pub async fn open(&mut self) -> Result<Kept, Error> {
        let key = self.key("shown");
        let kept = lost(self.objects.get(&key).await).flatten();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        match kept.filter(|kept| kept.opened.version == VERSION) {
            Some(kept) => Ok(kept),
            None => Ok(self.fetch().await?.0),
        }
    }

    /// Fetches the message, and keeps it.
    async fn fetch(&mut self) -> Result<(Kept, Bytes), Error> {
        let scope = &self.call.identity.scope;
        let raw = match self.kept_raw().await {
            Some(raw) => raw,
            None => self.visit().await?,
        };
        let (raw, is_cut) = (Bytes::from(raw.bytes), raw.is_cut);
        let (bytes, path) = (raw.clone(), format!("/api/messages/{}/attachments/", self.message.id));
        // A long message takes a while, in which others of this process are not to wait.
        let opened =
            tokio::task::spawn_blocking(move || (Opened::read(&bytes, |id| format!("{path}{id}")), references(&bytes)));
        let (mut opened, references) = opened.await.map_err(Error::internal)?;
        opened.preview = opened.preview.as_deref().map(|preview| composed(preview).into_owned());
        let kept = Kept { opened, is_cut };
        let json = Bytes::from(serde_json::to_vec(&kept).map_err(Error::internal)?);
        let (raw_key, shown_key) = (self.raw_key(is_cut), self.key("shown"));
        let (preview, has_attachments) = (kept.opened.preview.as_deref(), kept.opened.has_attachments);
        let (stored_raw, noted) = tokio::join!(
            self.objects.put(&raw_key, raw.clone()),
            self.call.db.note_opened(scope, self.message.id, preview, has_attachments, &references),
        );
        lost(stored_raw);
        noted?;
        // Once this is there nobody notes it any more.
        lost(self.objects.put(&shown_key, json).await);
        self.message.preview = kept.opened.preview.clone();
        self.message.has_attachments = has_attachments;
        Ok((kept, raw))
    }

    async fn kept_raw(&self) -> Option<Raw> {
        for is_cut in [false, true] {
            if let Some(bytes) = lost(self.objects.get(&self.raw_key(is_cut)).await).flatten() {
                return Some(Raw { bytes: bytes.into(), is_cut });
            }
        }
        None
    }

    /// The message, from its mail host.
    async fn visit(&self) -> Result<Raw, Error> {
        let located = self.call.db.locate_messages(&self.call.identity.scope, &[self.message.id], None).await?;
        let place = located.first().and_then(|located| Some((located, located.messages.first()?)));
        let (located, place) = place.ok_or(Error::NotFound(NO_SUCH_MESSAGE))?;
        visit::place_of(located, place).ok_or(Error::NotFound(MOVED))?;
        let mut host = visit::begin(self.call, &located.stored, self.started, VISIT_BYTES).await?;
        let raw = visit::fetch_raw(&mut host, located, place, MAX_MESSAGE_BYTES).await;
        host.sign_out().await;
        raw?.ok_or(Error::NotFound(MOVED))
    }

    /// The message as it was sent.
    ///
    /// # Errors
    /// As [`Reader::open`]; [`Error::Conflict`] where it is longer than what is read of one.
    pub async fn raw(&mut self) -> Result<Reply, Error> {
        const TYPE: &str = "message/rfc822";
        let (key, name) = (self.raw_key(false), "message.eml");
        // What is too long for an answer need not come here, if it is there.
        let is_long = usize::try_from(self.message.size).is_ok_and(|size| size > MAX_ANSWER_BYTES);
        if is_long && lost(self.objects.has(&key).await) == Some(true) {
            return self.link(&key, TYPE, name);
        }
        let kept = if is_long { None } else { lost(self.objects.get(&key).await).flatten() };
        let raw = match kept {
            Some(raw) => raw,
            None => match self.fetch().await? {
                (Kept { is_cut: true, .. }, _) => return Err(Error::Conflict(TOO_LONG.into())),
                (_, raw) => raw,
            },
        };
        if raw.len() <= MAX_ANSWER_BYTES {
            return download(TYPE, name, &raw);
        }
        if !self.objects.has(&key).await? {
            self.objects.put(&key, raw).await?;
        }
        self.link(&key, TYPE, name)
    }

    /// An attachment.
    ///
    /// # Errors
    /// As [`Reader::open`]; [`Error::NotFound`] where the message has none with this id.
    pub async fn attachment(&mut self, id: &str) -> Result<Reply, Error> {
        let kept = self.open().await?;
        let (attachment, place) = kept.opened.attachment(id).ok_or(Error::NotFound(NO_SUCH_ATTACHMENT))?;
        let (kind, name) = (safe_type(&attachment.content_type), attachment.filename.as_str());
        let is_long = usize::try_from(attachment.size).map_or(true, |size| size > MAX_ANSWER_BYTES);
        let key = self.key(&format!("attachment-{VERSION}-{id}"));
        if is_long && self.objects.has(&key).await? {
            return self.link(&key, kind, name);
        }
        let bytes = self.bytes_at(place, kept.is_cut).await?;
        if bytes.len() <= MAX_ANSWER_BYTES {
            return download(kind, name, &bytes);
        }
        self.objects.put(&key, bytes.into()).await?;
        self.link(&key, kind, name)
    }

    /// What lies there in the message, decoded.
    async fn bytes_at(&mut self, place: Place, is_cut: bool) -> Result<Vec<u8>, Error> {
        let range = place.range();
        let written = self.objects.get_range(&self.raw_key(is_cut), range.start, range.end - range.start).await;
        Ok(match lost(written).flatten() {
            Some(written) => place.decode(&written),
            None => {
                let (_, raw) = self.fetch().await?;
                let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(raw.len());
                place.decode(&raw[within(range.start)..within(range.end)])
            }
        })
    }

    /// Makes uploads of attachments, for what goes along with another message: of those with these ids, or of all.
    ///
    /// # Errors
    /// As [`Reader::open`]; [`Error::Invalid`] where it has none with such an id, or more than can be sent;
    /// [`Error::Conflict`] where the end of the message is not here, or the user has too many uploads.
    pub async fn copy_attachments(&mut self, ids: Option<&[String]>) -> Result<Vec<Outgoing>, Error> {
        let kept = self.open().await?;
        if kept.is_cut {
            return Err(Error::Conflict(TOO_LONG.into()));
        }
        let all = || kept.opened.content.attachments.iter().map(|attachment| attachment.id.as_str());
        let asked: Vec<_> = ids.map_or_else(|| all().collect(), |ids| ids.iter().map(String::as_str).collect());
        let (mut chosen, mut faults) = (Vec::new(), Vec::new());
        for (nth, id) in asked.into_iter().enumerate() {
            match kept.opened.attachment(id) {
                Some(found) => chosen.push(found),
                None => faults.push(no_attachment(nth)),
            }
        }
        let size: u64 = chosen.iter().map(|(attachment, _)| attachment.size).sum();
        if chosen.len() > MAX_ATTACHMENTS || size > MAX_SIZE.unsigned_abs() {
            faults.push(too_much());
        }
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        let new: Vec<_> = chosen.iter().map(|(attachment, _)| upload_of(attachment)).collect();
        let scope = self.call.identity.scope;
        let uploads = if new.is_empty() { Vec::new() } else { self.call.db.add_uploads(&scope, &new).await? };
        let mut copies = Vec::with_capacity(chosen.len());
        for (((attachment, place), new), upload_id) in chosen.into_iter().zip(new).zip(uploads) {
            let bytes = self.bytes_at(place, false).await?;
            self.objects.put(&Key::of_upload(&scope, upload_id), bytes.into()).await?;
            copies.push(Outgoing {
                upload_id,
                filename: Some(new.filename),
                content_type: Some(new.content_type),
                content_id: attachment.content_id.clone().map(Value::String).and_then(ContentId::read),
                is_inline: attachment.is_inline,
            });
        }
        Ok(copies)
    }

    fn link(&self, key: &Key, kind: &str, name: &str) -> Result<Reply, Error> {
        Reply::see_other(&self.objects.link(key, kind, &disposition(name)))
    }
}

/// A file like an attachment. Where its name or its type is none that can be sent, it has another.
fn upload_of(attachment: &Attachment) -> NewUpload {
    let text = |text: &str| Value::String(text.to_owned());
    let name = Filename::read(text(&attachment.filename));
    let kind = ContentType::read(text(&attachment.content_type));
    NewUpload {
        filename: name.unwrap_or_else(|| Filename(format!("attachment-{}", attachment.id))),
        content_type: kind.unwrap_or_else(|| ContentType("application/octet-stream".into())),
        size: Size(i64::try_from(attachment.size).unwrap_or(i64::MAX)),
    }
}

fn no_attachment(nth: usize) -> Fault {
    let (field, rule) = (format!("attachmentIds[{nth}]"), "must be the id of an attachment of this message");
    let sentence = format!("{field} {rule}");
    Fault::new(field, rule, sentence)
}

fn too_much() -> Fault {
    let rule = "must name at most 100 attachments of this message, of 25 MiB in all";
    Fault::new("attachmentIds", rule, format!("Attachment ids {rule}"))
}

/// What a client learns of an attachment that there is not.
const NO_SUCH_ATTACHMENT: &str = "This message has no attachment with this id. Get the message to see which it has.";

/// What the store did; where it failed, the log has it, and the mail host can be asked.
fn lost<T>(outcome: Result<T, Error>) -> Option<T> {
    outcome.inspect_err(|error| tracing::warn!(error = ?error.cause(), "the object store is away")).ok()
}

/// Bytes to be saved.
fn download(kind: &str, name: &str, bytes: &[u8]) -> Result<Reply, Error> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(Error::internal);
    let headers: Vec<(HeaderName, HeaderValue)> = vec![
        (header::CONTENT_TYPE, value(kind)?),
        (header::CONTENT_DISPOSITION, value(&disposition(name))?),
        // Should somebody open it as a page all the same.
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
    ];
    Ok(Reply::bytes(StatusCode::OK, headers, bytes))
}

/// RFC 6266: the name in signs that every client knows, and as it is (RFC 8187) for those that know more.
fn disposition(name: &str) -> String {
    let plain: String =
        name.chars()
            .map(|sign| {
                if sign.is_ascii_graphic() && !matches!(sign, '"' | '\\' | '%' | '/') || sign == ' ' {
                    sign
                } else {
                    '_'
                }
            })
            .collect();
    if plain == name {
        return format!("attachment; filename=\"{plain}\"");
    }
    format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
        percent_encoding::utf8_percent_encode(name, NOT_ATTR)
    )
}

/// What RFC 8187 wants encoded: all but its `attr-char`.
const NOT_ATTR: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// A type that no browser runs anything of, whatever the sender says: his, if it is one of those, else just bytes.
fn safe_type(said: &str) -> &str {
    const SAFE: [&str; 20] = [
        "application/gzip",
        "application/json",
        "application/msword",
        "application/pdf",
        "application/pgp-signature",
        "application/pkcs7-signature",
        "application/rtf",
        "application/vnd.ms-excel",
        "application/vnd.ms-powerpoint",
        "application/zip",
        "image/avif",
        "image/gif",
        "image/heic",
        "image/jpeg",
        "image/png",
        "image/webp",
        "message/rfc822",
        "text/calendar",
        "text/csv",
        "text/plain",
    ];
    const SAFE_FAMILIES: [&str; 4] =
        ["application/vnd.oasis.opendocument.", "application/vnd.openxmlformats-officedocument.", "audio/", "video/"];
    let is_safe = SAFE.contains(&said)
        || SAFE_FAMILIES.iter().any(|family| said.starts_with(family))
            && !said.contains("xml+")
            && !said.ends_with("+xml");
    if is_safe { said } else { "application/octet-stream" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_script_are_said_twice() {
        for (name, expected) in [
            ("a report.pdf", "attachment; filename=\"a report.pdf\""),
            ("Übersicht.pdf", "attachment; filename=\"_bersicht.pdf\"; filename*=UTF-8''%C3%9Cbersicht.pdf"),
            ("a\"b\\c%d.txt", "attachment; filename=\"a_b_c_d.txt\"; filename*=UTF-8''a%22b%5Cc%25d.txt"),
            ("報告 1.doc", "attachment; filename=\"__ 1.doc\"; filename*=UTF-8''%E5%A0%B1%E5%91%8A%201.doc"),
            (
                "a\r\nSet-Cookie: b",
                "attachment; filename=\"a__Set-Cookie: b\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20b",
            ),
        ] {
            assert_eq!(disposition(name), expected);
            assert!(HeaderValue::from_str(&disposition(name)).is_ok());
        }
    }

    #[test]
    fn what_a_browser_would_run_is_just_bytes() {
        for kind in [
            "text/html",
            "image/svg+xml",
            "application/xhtml+xml",
            "text/xml",
            "application/javascript",
            "text/javascript",
            "application/x-shockwave-flash",
            "multipart/related",
            "video/x+xml",
            "",
        ] {
            assert_eq!(safe_type(kind), "application/octet-stream", "{kind}");
        }
        for kind in [
            "image/png",
            "application/pdf",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "video/mp4",
        ] {
            assert_eq!(safe_type(kind), kind);
        }
    }
}

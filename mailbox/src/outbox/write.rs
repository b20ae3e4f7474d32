//! A message of the outbox as bytes.

use std::collections::VecDeque;

use ::mail::compose::{self, Attachment, Base64Lines, Body, Composed, Content, For, Mailbox, Piece, ascii_address};
use shared::Error;
use shared::composition::Recipient;
use shared::db::outbox::Claimed;
use shared::objects::{Key, ObjectStore};

/// Of a file that is held at once: whole lines of base64.
const STEP: u64 = 57 * 16 * 1024;

/// Where files are that go along; nowhere, in a place that has no object store.
#[derive(Debug, Clone, Default)]
pub struct Files(pub Option<ObjectStore>);

/// The bytes of a message, as they are sent: of a file a piece at a time.
#[derive(Debug)]
pub struct Bytes {
    pieces: VecDeque<Piece>,
    files: Files,
    /// Where each file lies, and how many bytes it has.
    uploads: Vec<(Key, u64)>,
    /// The file that is being read, from where, and what is no line of it yet.
    reading: Option<(usize, u64, Base64Lines)>,
}

/// Why there are no more bytes.
#[derive(Debug)]
pub enum NoBytes {
    /// A file is not there, or another one than was announced.
    Gone,
    /// The object store fails.
    Away(Error),
}

impl Body for Bytes {
    type Error = NoBytes;

    async fn next(&mut self) -> Result<Option<Vec<u8>>, NoBytes> {
        loop {
            let Some((place, offset, mut lines)) = self.reading.take() else {
                match self.pieces.pop_front() {
                    None => return Ok(None),
                    Some(Piece::Bytes(bytes)) => return Ok(Some(bytes)),
                    Some(Piece::Attachment(place)) => self.reading = Some((place, 0, Base64Lines::default())),
                }
                continue;
            };
            let (key, size) = self.uploads.get(place).ok_or(NoBytes::Gone)?;
            let left = size.saturating_sub(offset);
            if left == 0 {
                return Ok(Some(lines.finish()));
            }
            let objects = self.files.0.as_ref().ok_or(NoBytes::Gone)?;
            let length = left.min(STEP);
            let bytes = objects.get_range(key, offset, length).await.map_err(NoBytes::Away)?.ok_or(NoBytes::Gone)?;
            // What was announced is what was put: the store sees to that.
            if bytes.len() as u64 != length {
                return Err(NoBytes::Gone);
            }
            let text = lines.push(&bytes);
            self.reading = Some((place, offset + length, lines));
            return Ok(Some(text));
        }
    }
}

/// Writes a message, the same each time; `None` where a file that goes along is gone.
pub fn compose(claimed: &Claimed, files: &Files, copy: For) -> Option<(Composed, Bytes)> {
    let (outgoing, composition) = (&claimed.outgoing, &claimed.outgoing.composition);
    let id = outgoing.id.to_string();
    let subject = composition.subject.as_ref().map(|subject| one_spaced(&subject.0)).unwrap_or_default();
    let (mut attachments, mut uploads) = (Vec::new(), Vec::new());
    for (place, asked) in composition.attachments.iter().enumerate() {
        let upload = claimed.uploads.get(place)?.as_ref()?;
        attachments.push(Attachment {
            filename: Some(asked.filename.as_ref().map_or(upload.filename.as_str(), |name| name.0.as_str())),
            content_type: asked.content_type.as_ref().map_or(upload.content_type.as_str(), |kind| kind.0.as_str()),
            content_id: asked.content_id.as_ref().map(|id| id.0.as_str()),
            is_inline: asked.is_inline,
            size: upload.size,
        });
        uploads.push((Key::of_upload(&claimed.scope, asked.upload_id), upload.size));
    }
    let content = Content {
        id: &id,
        message_id: &outgoing.message_id,
        date: claimed.dated_at.div_euclid(1000),
        from: vec![Mailbox { name: outgoing.from.name.as_deref(), address: &outgoing.from.address }],
        to: mailboxes(&composition.to),
        cc: mailboxes(&composition.cc),
        bcc: mailboxes(&composition.bcc),
        reply_to: mailboxes(&composition.reply_to),
        subject: &subject,
        in_reply_to: claimed.original_id.as_deref().filter(|_| composition.reply_to_id.is_some()),
        // RFC 5322, 3.6.4: what the other message refers to, and itself.
        references: claimed.original_references.iter().chain(&claimed.original_id).map(String::as_str).collect(),
        text: composition.text.as_ref().map(|text| text.0.as_str()),
        // Readers prefer it to the text, and would show nothing.
        html: composition.html.as_ref().map(|html| html.0.as_str()).filter(|html| !html.trim().is_empty()),
        attachments,
    };
    let mut composed = compose::compose(&content, copy);
    let pieces = std::mem::take(&mut composed.pieces).into();
    Some((composed, Bytes { pieces, files: files.clone(), uploads, reading: None }))
}

fn mailboxes(recipients: &[Recipient]) -> Vec<Mailbox<'_>> {
    let mailboxes = recipients.iter().map(|recipient| Mailbox {
        name: recipient.name.as_ref().map(|name| name.0.as_str()),
        address: &recipient.address.0,
    });
    mailboxes.collect()
}

/// The addresses of the recipients with these places, as a server is told them.
pub fn addresses(claimed: &Claimed, places: &[usize]) -> Vec<String> {
    let recipients = places.iter().filter_map(|place| claimed.outgoing.recipients.get(*place));
    recipients.map(|recipient| ascii_address(&recipient.address).into_owned()).collect()
}

/// A header's white space means one space, and none at its ends. Spaces of other widths are letters like others.
fn one_spaced(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

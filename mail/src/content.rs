//! What a reader sees of a message: its text, its HTML made harmless ([`crate::clean`]), and what hangs on it.
//!
//! The bytes are gone over once and the parts are pointed at, not copied: what is held beside the message is the text,
//! the HTML, and the decoded part that is being looked at, each of which has a bound. An attachment can be had later from its range
//! of the message alone ([`Place`]).

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::clean::{self, MAX_HTML_BYTES, clean_within};
use crate::message::{self, Head, MAX_PREVIEW_CHARS, Part, Parts, head_at};

pub use crate::message::Encoding;

mod flowed;
mod name;
mod shown;

use shown::Shown;

/// What is made of a message is stored. When the rules here or those of [`crate::clean`] change, this does, and what was
/// made by others is made anew.
pub const VERSION: u32 = 2;

/// What is looked at of a message; of a longer one the begin is shown. The large providers take in 25 to 50 MB.
pub const MAX_MESSAGE_BYTES: usize = 50 * 1024 * 1024;

/// Of the text; the HTML has as many.
pub const MAX_TEXT_BYTES: usize = MAX_HTML_BYTES;

/// Parts in parts. Forwarding a message with its parts adds two or three.
const MAX_DEPTH: usize = 64;

/// Of one text as it is written: a mebibyte of which each byte is written as three, with ends of lines.
const MAX_WRITTEN_BYTES: usize = 4 * 1024 * 1024;

/// Of the list of attachments, written as JSON: with twice the text and HTML (each quote takes two bytes there) a function
/// can still answer. Ten thousand small ones fit.
const MAX_LIST_BYTES: usize = 1536 * 1024;

/// How far from its begin HTML may say its charset, by the standard.
const MAX_CHARSET_AT: usize = 1024;

/// Of an attachment without its name, type and id.
const LISTED_BYTES: usize = 110;

/// A message that was opened, as it is stored: what an answer has, and beside it what no answer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// The [`VERSION`] that made it.
    pub version: u32,
    /// What an answer has.
    pub content: Content,
    /// Where the attachments lie, in their order.
    pub places: Vec<Place>,
    /// The first words, as a list shows them; `None` where there are none.
    pub preview: Option<String>,
    /// Whether there is something to be saved, as a list shows it.
    pub has_attachments: bool,
}

/// What a reader sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// Made from the HTML where the sender wrote none or an empty one; null where there is neither.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub text: Option<String>,
    /// Made harmless; null where the sender wrote none.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub html: Option<String>,
    /// Whether the HTML has pictures that were kept back.
    pub has_remote_content: bool,
    /// Whether the message has more text, HTML or attachments than these.
    pub is_truncated: bool,
    /// What is not text, in the order of the message.
    pub attachments: Vec<Attachment>,
}

/// What hangs on a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The number of its part.
    pub id: String,
    /// Without path and without signs that are not shown or turn the text around; one that we made up where it has none.
    /// At most 255 bytes.
    pub filename: String,
    /// Two words in small letters with a slash between them; what the sender says, not what it is.
    pub content_type: String,
    /// Decoded, in bytes.
    pub size: u64,
    /// Without angle brackets.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub content_id: Option<String>,
    /// Whether the HTML shows it, or it is a picture that the sender wants shown.
    pub is_inline: bool,
}

/// Where an attachment lies in the message, as it is written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// From the first byte of the message.
    pub offset: u64,
    /// Of bytes.
    pub length: u64,
    /// How they are written.
    pub encoding: Encoding,
}

impl Place {
    /// Of the bytes of the message.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// The attachment, of the bytes of [`Self::range`].
    pub fn decode(&self, written: &[u8]) -> Vec<u8> {
        self.encoding.decode(written).into_owned()
    }
}

impl Opened {
    /// Opens a message. Something comes of everything, and of the same bytes the same. `path`: under which an attachment
    /// with this id can be had, for the pictures in the HTML that are attachments.
    pub fn read(message: &[u8], path: impl Fn(&str) -> String) -> Self {
        let raw = &message[..message.len().min(MAX_MESSAGE_BYTES)];
        let head = head_at(raw, 0, |_| false);
        let fields = Head::read(&raw[head.fields]);
        // Without a single field it is no head, and is shown as it is.
        let start = if fields.is_some() { head.body } else { 0 };
        let parts = Parts::of(raw, start, fields.unwrap_or_default(), MAX_DEPTH);
        let shown = Shown::of(&parts);
        let mut is_truncated = raw.len() < message.len() || parts.is_cut;

        let mut rich = Rich::new(raw, &parts, &shown);
        if shown.has_html {
            shown.rich.iter().for_each(|index| rich.push(*index, &path));
        }
        let mut text = String::new();
        let wrote = |text: &str| !text.trim().is_empty();
        for index in &shown.plain {
            let part = &parts.all[*index];
            let more = match rich.piece(*index) {
                Some(html) => clean::to_text(html),
                None => {
                    let (more, is_cut) = text_of(raw, part);
                    is_truncated |= is_cut;
                    more
                }
            };
            if wrote(&text) && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&more);
            if text.len() > MAX_TEXT_BYTES {
                text = message::cut(text, MAX_TEXT_BYTES);
                is_truncated = true;
                break;
            }
        }
        if !wrote(&text) && shown.has_html {
            text = message::cut(clean::to_text(&rich.html), MAX_TEXT_BYTES);
        }

        let mut opened = Self {
            version: VERSION,
            content: Content {
                text: (!shown.plain.is_empty()).then_some(text),
                html: shown.has_html.then_some(rich.html),
                has_remote_content: rich.has_remote_content,
                is_truncated: is_truncated | rich.is_cut,
                attachments: Vec::new(),
            },
            places: Vec::new(),
            preview: None,
            has_attachments: false,
        };
        let text = opened.content.text.as_deref().unwrap_or_default();
        let preview = message::line(text, MAX_PREVIEW_CHARS).into_owned();
        opened.preview = Some(preview).filter(|preview| !preview.is_empty());
        let mut listed = 0;
        for index in &shown.attached {
            let part = &parts.all[*index];
            opened.has_attachments |= is_to_be_saved(part, &parts);
            let attachment = attachment(*index, raw, part, rich.inline.contains(index));
            // Quotes take two bytes in JSON.
            listed += LISTED_BYTES + attachment.content_type.len() + 2 * attachment.filename.len();
            listed += 2 * attachment.content_id.as_deref().map_or(0, str::len);
            if listed > MAX_LIST_BYTES {
                opened.content.is_truncated = true;
                break;
            }
            opened.content.attachments.push(attachment);
            let (offset, length) = (part.body.start as u64, part.body.len() as u64);
            opened.places.push(Place { offset, length, encoding: encoding(part) });
        }
        opened
    }

    /// What hangs on the message under this id, and where it lies.
    pub fn attachment(&self, id: &str) -> Option<(&Attachment, Place)> {
        let listed = self.content.attachments.iter().zip(&self.places);
        listed.into_iter().find(|(attachment, _)| attachment.id == id).map(|(attachment, place)| (attachment, *place))
    }
}

/// The HTML of a message, piece by piece: each is cleaned alone, so that what one leaves open does not reach the next.
struct Rich<'a> {
    raw: &'a [u8],
    parts: &'a Parts<'a>,
    /// The parts that pictures may be, by their ids.
    by_id: HashMap<&'a str, usize>,
    /// Bytes that were cleaned, whatever became of them: cleaning takes time.
    read: usize,
    html: String,
    pieces: HashMap<usize, Range<usize>>,
    has_remote_content: bool,
    is_cut: bool,
    /// The parts that the HTML shows.
    inline: HashSet<usize>,
}

impl<'a> Rich<'a> {
    fn new(raw: &'a [u8], parts: &'a Parts<'a>, shown: &Shown) -> Self {
        let mut by_id = HashMap::new();
        for index in &shown.attached {
            if let Some(id) = parts.all[*index].head.content_id.as_deref() {
                by_id.entry(id).or_insert(*index);
            }
        }
        let (html, pieces, inline) = (String::new(), HashMap::new(), HashSet::new());
        Self { raw, parts, by_id, read: 0, html, pieces, has_remote_content: false, is_cut: false, inline }
    }

    fn push(&mut self, index: usize, path: impl Fn(&str) -> String) {
        let left = MAX_HTML_BYTES - self.html.len();
        let part = &self.parts.all[index];
        if left == 0 {
            self.is_cut = true;
            return;
        }
        let (text, is_cut) = text_of(self.raw, part);
        self.is_cut |= is_cut;
        let start = self.html.len();
        if part.head.is("text", "html") {
            let begin = &text[..text.floor_char_boundary(MAX_HTML_BYTES - self.read)];
            self.read += begin.len();
            self.is_cut |= begin.len() < text.len();
            let (by_id, inline) = (&self.by_id, &mut self.inline);
            let cleaned = clean_within(begin, left, |cid| {
                let index = by_id.get(cid)?;
                inline.insert(*index);
                Some(path(&index.to_string()))
            });
            self.html.push_str(&cleaned.html);
            self.has_remote_content |= cleaned.has_remote_content;
            self.is_cut |= cleaned.is_cut;
            self.pieces.insert(index, start..self.html.len());
        } else {
            self.is_cut |= !clean::push_text(&mut self.html, &text, MAX_HTML_BYTES);
        }
    }

    /// What became of this part, if it is HTML.
    fn piece(&self, index: usize) -> Option<&str> {
        self.pieces.get(&index).and_then(|piece| self.html.get(piece.clone()))
    }
}

/// How a part is written. Parts that hold others cannot be encoded.
fn encoding(part: &Part<'_>) -> Encoding {
    if part.head.is_kind("multipart") { Encoding::Identity } else { part.head.encoding }
}

/// A part as text with `\n` at the end of lines and without other control characters than tabs; and whether it is longer.
fn text_of(raw: &[u8], part: &Part<'_>) -> (String, bool) {
    let written = &raw[part.body.clone()];
    let is_cut = written.len() > MAX_WRITTEN_BYTES;
    let bytes = encoding(part).decode(&written[..written.len().min(MAX_WRITTEN_BYTES)]);
    let is_html = part.head.is("text", "html");
    let charset = part.head.charset().or_else(|| is_html.then(|| charset_of_html(&bytes)).flatten());
    let text = message::body_text(&bytes, charset);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' if rest.peek() == Some(&'\n') => {}
            '\r' => lines.push('\n'),
            '\n' | '\t' => lines.push(c),
            _ if c.is_control() => {}
            _ => lines.push(c),
        }
    }
    match part.head.flowed.filter(|_| !is_html) {
        Some(keeps_space) => (flowed::joined(&lines, keeps_space), is_cut),
        None => (lines, is_cut),
    }
}

/// What HTML says of itself at its begin.
fn charset_of_html(bytes: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"charset=";
    let begin = &bytes[..bytes.len().min(MAX_CHARSET_AT)];
    let at = begin.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME))? + NAME.len();
    let value = begin[at..].trim_ascii_start();
    let value = value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value);
    let end = value.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"-_.:".contains(byte))?;
    let charset = std::str::from_utf8(&value[..end]).ok();
    // It was read as ASCII.
    charset.filter(|charset| !charset.is_empty() && !message::is_shifted(charset))
}

fn is_to_be_saved(part: &Part<'_>, parts: &Parts<'_>) -> bool {
    let head = &part.head;
    part.is_too_deep || head.is_attachment(parts.parent(part)) || head.is_kind("text") && head.name.is_some()
}

fn attachment(index: usize, raw: &[u8], part: &Part<'_>, is_shown: bool) -> Attachment {
    let head = &part.head;
    let content_type = name::content_type(head.content_type(), head.name.as_deref());
    let filename = head.name.as_deref().and_then(name::cleaned);
    Attachment {
        id: index.to_string(),
        filename: filename.unwrap_or_else(|| name::made_up(index, &content_type)),
        size: encoding(part).decoded_len(&raw[part.body.clone()]) as u64,
        content_id: head.content_id.clone(),
        is_inline: is_shown || head.is_kind("image") && head.is_disposition("inline"),
        content_type,
    }
}

#[cfg(test)]
mod tests;

//! Writes a message (RFC 5322, 2045 to 2047, 2231): the same bytes each time from the same content.
//!
//! Headers and texts are written at once, attachments piece by piece while they are sent: of a message of 25 MB no more is
//! held than of a small one. How many bytes it has is known before, for a server that wants to know (RFC 1870).
//!
//! What goes into a line is the caller's to check for line breaks; should one come through, the writer encodes or drops it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_builder::headers::Header;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::message_id::MessageId;
use mail_builder::headers::text::Text;
use mail_builder::mime::MimePart;
use memchr::{memchr2, memmem};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use crate::dns::ascii_name;

/// Bytes of an attachment that become one line of base64, of 76 letters (RFC 2045 section 6.8).
const LINE_INPUT: usize = 57;

/// Bytes of a text that become one encoded word: with its header's name no more than the 76 letters of a line that has one
/// (RFC 2047 section 2).
const WORD_INPUT: usize = 39;

/// Bytes of a parameter that become one section of it, three letters each: with its name no more than a line's 78 letters.
const SECTION_INPUT: usize = 18;

/// The most Message-IDs of References: the first, which a thread is known by, and the last ones. Others cut likewise.
const MAX_REFERENCES: usize = 20;

/// The longest Message-ID that is repeated: longer than ours, a UUID at a domain of 253 letters; with its brackets and folds, far
/// from the 998 of a line.
const MAX_ID_BYTES: usize = 300;

/// Who writes or is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mailbox<'a> {
    /// The name beside the address.
    pub name: Option<&'a str>,
    /// The address, its domain in letters of any script.
    pub address: &'a str,
}

/// What a message says.
#[derive(Debug, Clone, Default)]
pub struct Content<'a> {
    /// What no text has in it and no two messages share, of letters, digits and hyphens: boundaries are made of it.
    pub id: &'a str,
    /// Without brackets.
    pub message_id: &'a str,
    /// Seconds since the Unix epoch.
    pub date: i64,
    /// Who writes.
    pub from: Vec<Mailbox<'a>>,
    /// To whom.
    pub to: Vec<Mailbox<'a>>,
    /// To whom as well.
    pub cc: Vec<Mailbox<'a>>,
    /// To whom in secret: in the sender's own copy alone.
    pub bcc: Vec<Mailbox<'a>>,
    /// Who wants the answers.
    pub reply_to: Vec<Mailbox<'a>>,
    /// What it is about.
    pub subject: &'a str,
    /// The Message-ID of what it answers, without brackets.
    pub in_reply_to: Option<&'a str>,
    /// Those of the conversation so far, the oldest first.
    pub references: Vec<&'a str>,
    /// As plain text.
    pub text: Option<&'a str>,
    /// As HTML.
    pub html: Option<&'a str>,
    /// Files.
    pub attachments: Vec<Attachment<'a>>,
}

/// A file of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment<'a> {
    /// What it is called.
    pub filename: Option<&'a str>,
    /// Type and subtype, without parameters.
    pub content_type: &'a str,
    /// What the HTML calls it, without brackets.
    pub content_id: Option<&'a str>,
    /// Whether it is shown where the HTML has it.
    pub is_inline: bool,
    /// Bytes, as they are stored.
    pub size: u64,
}

/// Whose copy is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// What is sent: nobody reads who was written to in secret.
    Readers,
    /// What the sender keeps.
    Sender,
}

/// A message that is ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// In their order. Each line ends with CR LF, and none is longer than 998 bytes without.
    pub pieces: Vec<Piece>,
    /// Bytes, dots not doubled.
    pub size: u64,
    /// Whether an address has letters beyond ASCII before its `@`, for which a server needs SMTPUTF8 (RFC 6531).
    pub needs_utf8: bool,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it is.
    Bytes(Vec<u8>),
    /// The attachment with this place in [`Content::attachments`], by [`Base64Lines`].
    Attachment(usize),
}

/// The bytes of a message, piece by piece. Each line ends with CR LF, the last one as well.
pub trait Body {
    /// Why there are no more.
    type Error;

    /// The next bytes; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, Self::Error>> + Send;
}

/// The bytes of an attachment as lines.
#[derive(Debug, Default)]
pub struct Base64Lines {
    /// What is no whole line yet.
    rest: Vec<u8>,
}

impl Base64Lines {
    /// How many bytes so many become.
    pub const fn size_of(bytes: u64) -> u64 {
        bytes.div_ceil(3) * 4 + bytes.div_ceil(LINE_INPUT as u64) * 2
    }

    /// The lines that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() - self.rest.len() % LINE_INPUT;
        let lines = lines(self.rest.get(..whole).unwrap_or_default());
        self.rest.drain(..whole);
        lines
    }

    /// What is left.
    pub fn finish(self) -> Vec<u8> {
        lines(&self.rest)
    }
}

fn lines(bytes: &[u8]) -> Vec<u8> {
    let size = usize::try_from(Base64Lines::size_of(bytes.len() as u64)).unwrap_or_default();
    let mut text = String::with_capacity(size);
    for line in bytes.chunks(LINE_INPUT) {
        STANDARD.encode_string(line, &mut text);
        text.push_str("\r\n");
    }
    text.into_bytes()
}

/// An address as it is sent: its domain in ASCII (RFC 5890). What IDNA does not allow stays as it is.
pub fn ascii_address(address: &str) -> Cow<'_, str> {
    match address.rsplit_once('@') {
        Some((local, domain)) if !domain.is_ascii() => match ascii_name(domain) {
            Some(ascii) => Cow::Owned(format!("{local}@{ascii}")),
            None => Cow::Borrowed(address),
        },
        _ => Cow::Borrowed(address),
    }
}

/// Whether a Message-ID can be repeated in a header: what strangers write may be anything.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte))
}

/// Writes a message.
pub fn compose(content: &Content<'_>, copy: For) -> Composed {
    let mut writer = Writer {
        id: boundary_id(content),
        boundaries: 0,
        pieces: Vec::new(),
        bytes: Vec::with_capacity(1024),
        size: 0,
    };
    writer.headers(content, copy);
    writer.body(content);
    if !writer.bytes.ends_with(b"\r\n") {
        writer.bytes.extend_from_slice(b"\r\n");
    }
    writer.cut();
    let lists = [&content.from, &content.to, &content.cc, &content.reply_to];
    let secret = (copy == For::Sender).then_some(&content.bcc);
    let needs_utf8 =
        lists.into_iter().chain(secret).flatten().any(|mailbox| !ascii_address(mailbox.address).is_ascii());
    Composed { pieces: writer.pieces, size: writer.size, needs_utf8 }
}

/// What boundaries are made of: the id, or what no text has in it where somebody has written the id.
fn boundary_id(content: &Content<'_>) -> String {
    let texts = || [content.text, content.html].into_iter().flatten();
    let is_in = |id: &str| texts().any(|text| memmem::find(text.as_bytes(), id.as_bytes()).is_some());
    let mut id = content.id.to_owned();
    while is_in(&id) {
        id.push('x');
    }
    id
}

struct Writer {
    id: String,
    boundaries: u32,
    pieces: Vec<Piece>,
    /// What no attachment follows yet.
    bytes: Vec<u8>,
    size: u64,
}

impl Writer {
    fn header(&mut self, name: &str, value: &impl Header) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        value.write_header(&mut self.bytes, name.len() + 2);
    }

    fn addresses(&mut self, name: &str, mailboxes: &[Mailbox<'_>]) {
        if mailboxes.iter().filter_map(|mailbox| mailbox.name).any(looks_encoded) {
            let mailboxes: Vec<_> = mailboxes.iter().map(encoded_mailbox).collect();
            self.bytes.extend_from_slice(format!("{name}: {}\r\n", mailboxes.join(",\r\n ")).as_bytes());
        } else if !mailboxes.is_empty() {
            let address = |mailbox: &Mailbox<'_>| {
                Address::new_address(mailbox.name.map(str::to_owned), ascii_address(mailbox.address).into_owned())
            };
            self.header(name, &Address::new_list(mailboxes.iter().map(address).collect()));
        }
    }

    fn headers(&mut self, content: &Content<'_>, copy: For) {
        self.header("Date", &Date::new(content.date));
        self.addresses("From", &content.from);
        self.addresses("Reply-To", &content.reply_to);
        self.addresses("To", &content.to);
        if content.to.is_empty() && content.cc.is_empty() {
            // Some servers and filters take a message that names nobody for a broken one.
            self.bytes.extend_from_slice(b"To: undisclosed-recipients:;\r\n");
        }
        self.addresses("Cc", &content.cc);
        if copy == For::Sender {
            self.addresses("Bcc", &content.bcc);
        }
        self.header("Message-ID", &MessageId::new(content.message_id));
        if let Some(id) = content.in_reply_to.filter(|id| is_id(id)) {
            self.header("In-Reply-To", &MessageId::new(id));
        }
        let mut references: Vec<_> = content.references.iter().copied().filter(|id| is_id(id)).collect();
        if references.len() > MAX_REFERENCES {
            references.drain(1..=references.len() - MAX_REFERENCES);
        }
        if !references.is_empty() {
            self.header("References", &MessageId::new_list(references.into_iter()));
        }
        self.subject(content.subject);
        self.bytes.extend_from_slice(b"MIME-Version: 1.0\r\n");
    }

    fn subject(&mut self, subject: &str) {
        if looks_encoded(subject) {
            let words = encoded_words(subject).join("\r\n ");
            self.bytes.extend_from_slice(format!("Subject: {words}\r\n").as_bytes());
        } else {
            self.header("Subject", &Text::new(subject));
        }
    }

    fn body(&mut self, content: &Content<'_>) {
        let all = || content.attachments.iter().enumerate();
        // Without HTML nothing shows them in its midst.
        let is_related = |attachment: &Attachment<'_>| attachment.is_inline && content.html.is_some();
        let related: Vec<_> = all().filter(|(_, attachment)| is_related(attachment)).collect();
        let mixed: Vec<_> = all().filter(|(_, attachment)| !is_related(attachment)).collect();
        if mixed.is_empty() {
            return self.texts(content, &related);
        }
        let boundary = self.begin("multipart/mixed", None);
        self.between(&boundary);
        self.texts(content, &related);
        for (place, attachment) in mixed {
            self.between(&boundary);
            self.attachment(place, attachment);
        }
        self.end(&boundary);
    }

    fn texts(&mut self, content: &Content<'_>, related: &[(usize, &Attachment<'_>)]) {
        match (content.text, content.html) {
            (Some(text), Some(html)) => {
                let boundary = self.begin("multipart/alternative", None);
                self.between(&boundary);
                self.text("text/plain", text);
                self.between(&boundary);
                self.html(html, related);
                self.end(&boundary);
            }
            (None, Some(html)) => self.html(html, related),
            (text, None) => self.text("text/plain", text.unwrap_or_default()),
        }
    }

    fn html(&mut self, html: &str, related: &[(usize, &Attachment<'_>)]) {
        if related.is_empty() {
            return self.text("text/html", html);
        }
        // RFC 2387 asks for the type of what is shown.
        let boundary = self.begin("multipart/related", Some("text/html"));
        self.between(&boundary);
        self.text("text/html", html);
        for (place, attachment) in related {
            self.between(&boundary);
            self.attachment(*place, attachment);
        }
        self.end(&boundary);
    }

    /// As it is where each server lets it through, else encoded: no line is long, none has bytes beyond ASCII.
    fn text(&mut self, content_type: &str, text: &str) {
        MimePart::new(content_type, with_crlf(text)).write_part(&mut self.bytes);
    }

    fn attachment(&mut self, place: usize, attachment: &Attachment<'_>) {
        // Neither may be encoded (RFC 2045 section 6.4), which a file of any bytes must be. Its name tells what it is.
        let (kind, _) = attachment.content_type.split_once('/').unwrap_or_default();
        let is_composite = ["message", "multipart"].iter().any(|composite| kind.eq_ignore_ascii_case(composite));
        let content_type = if is_composite { "application/octet-stream" } else { attachment.content_type };
        let disposition = if attachment.is_inline { "inline" } else { "attachment" };
        // Old programs know the first name alone.
        self.named("Content-Type", content_type, "name", attachment.filename);
        self.named("Content-Disposition", disposition, "filename", attachment.filename);
        if let Some(id) = attachment.content_id.filter(|id| is_id(id)) {
            self.header("Content-ID", &MessageId::new(id));
        }
        self.bytes.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n\r\n");
        self.cut();
        self.pieces.push(Piece::Attachment(place));
        self.size += Base64Lines::size_of(attachment.size);
    }

    /// A header with the name of a file, where that has one.
    fn named(&mut self, header: &str, value: &str, parameter: &str, filename: Option<&str>) {
        match filename {
            Some(filename) if looks_encoded(filename) => {
                let sections = sections(parameter, filename);
                self.bytes.extend_from_slice(format!("{header}: {value}{sections}\r\n").as_bytes());
            }
            Some(filename) => self.header(header, &ContentType::new(value).attribute(parameter, filename)),
            None => self.header(header, &ContentType::new(value)),
        }
    }

    /// The header of a part that has parts; returns what stands between them.
    fn begin(&mut self, content_type: &str, kind: Option<&str>) -> String {
        self.boundaries += 1;
        // No quoted-printable text has an underscore behind an equals sign.
        let boundary = format!("=_{}_{}", self.id, self.boundaries);
        let mut content_type = ContentType::new(content_type);
        if let Some(kind) = kind {
            content_type = content_type.attribute("type", kind);
        }
        self.header("Content-Type", &content_type.attribute("boundary", boundary.as_str()));
        boundary
    }

    fn between(&mut self, boundary: &str) {
        self.bytes.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
    }

    fn end(&mut self, boundary: &str) {
        self.bytes.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    }

    /// Ends the piece that is being written.
    fn cut(&mut self) {
        self.size += self.bytes.len() as u64;
        if !self.bytes.is_empty() {
            self.pieces.push(Piece::Bytes(std::mem::take(&mut self.bytes)));
        }
    }
}

/// Whether readers may decode what nobody has encoded. The library writes ASCII as it is, at most in quotes, and many look for
/// encoded words there, although none can be in quotes (RFC 2047 section 5).
fn looks_encoded(text: &str) -> bool {
    text.is_ascii() && text.contains("=?")
}

/// A text as encoded words, each for a line of its own.
fn encoded_words(mut text: &str) -> Vec<String> {
    let mut words = Vec::new();
    while !text.is_empty() {
        let (word, rest) = text.split_at(text.floor_char_boundary(WORD_INPUT));
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
        text = rest;
    }
    words
}

/// A mailbox on lines of its own, its name encoded whatever that is.
fn encoded_mailbox(mailbox: &Mailbox<'_>) -> String {
    let mut lines = encoded_words(mailbox.name.unwrap_or_default());
    lines.push(format!("<{}>", ascii_address(mailbox.address).replace(|c: char| c.is_ascii_control(), "")));
    lines.join("\r\n ")
}

/// A parameter as those are written that are not ASCII, in which nobody looks for encoded words: percent-encoded, and in sections
/// where it is long (RFC 2231).
fn sections(parameter: &str, value: &str) -> String {
    let mut sections = String::new();
    for (n, section) in value.as_bytes().chunks(SECTION_INPUT).enumerate() {
        let number = if value.len() > SECTION_INPUT { format!("*{n}") } else { String::new() };
        let charset = if n == 0 { "utf-8''" } else { "" };
        let encoded = percent_encode(section, NON_ALPHANUMERIC);
        sections += &format!(";\r\n {parameter}{number}*={charset}{encoded}");
    }
    sections
}

/// With the line ends of mail, whichever it has.
fn with_crlf(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + text.len() / 32);
    let mut rest = text;
    while let Some(at) = memchr2(b'\r', b'\n', rest.as_bytes()) {
        let (line, end) = rest.split_at(at);
        lines.push_str(line);
        lines.push_str("\r\n");
        rest = end.strip_prefix("\r\n").or_else(|| end.strip_prefix(['\r', '\n'])).unwrap_or_default();
    }
    lines.push_str(rest);
    lines
}

#[cfg(test)]
mod tests;

//! The begin of a body: its first words, and whether something hangs on it. The library is for whole messages, and takes
//! what was cut in the midst of a part for no part at all.

use base64::Engine;
use mail_parser::ContentType;
use mail_parser::decoders::html::html_to_text;

use super::words::{BASE64, find, from_quoted_printable};
use super::{Fields, MAX_PREVIEW_CHARS, decoded, guarded, line, read_content_type};

/// What is looked at of a body. More is not fetched; a server may have sent more.
const MAX_BYTES: usize = 16 * 1024;

/// Parts in parts. A signed message with a picture in its text and a file has four.
const MAX_DEPTH: usize = 5;

/// The head of a message or of a part.
pub(super) struct Head {
    /// Type and subtype in small letters; `text` and `plain` where nothing is said.
    kind: (String, String),
    content_type: Option<ContentType<'static>>,
    /// In small letters.
    transfer_encoding: Vec<u8>,
    disposition: Option<ContentType<'static>>,
}

/// What a body shows.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) has_attachments: bool,
    pub(super) preview: Option<String>,
}

impl Head {
    pub(super) fn of(fields: &Fields<'_>) -> Self {
        let content_type = fields.content_type.and_then(read_content_type);
        let kind = content_type
            .as_ref()
            .map(|kind| (kind.ctype().to_ascii_lowercase(), kind.subtype().unwrap_or_default().to_ascii_lowercase()));
        Self {
            kind: kind.unwrap_or_else(|| ("text".to_owned(), "plain".to_owned())),
            content_type,
            transfer_encoding: fields.transfer_encoding.unwrap_or_default().trim_ascii().to_ascii_lowercase(),
            disposition: fields.disposition.and_then(read_content_type),
        }
    }

    pub(super) fn charset(&self) -> Option<&str> {
        self.attribute("charset")
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.content_type.as_ref().and_then(|content_type| content_type.attribute(name))
    }

    fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind.0 == kind && self.kind.1 == subtype
    }

    /// The delimiter of the parts, without what is added to the last one.
    fn delimiter(&self) -> Option<Vec<u8>> {
        let boundary = self.attribute("boundary").filter(|boundary| !boundary.is_empty());
        boundary.map(|boundary| [b"--", boundary.as_bytes()].concat())
    }

    /// Whether it is something to be saved, and not text, a picture in it or a signature below it.
    fn is_attachment(&self, parent: Option<&Self>) -> bool {
        let disposition = self.disposition.as_ref();
        if disposition.is_some_and(|disposition| disposition.ctype().eq_ignore_ascii_case("attachment")) {
            return true;
        }
        let (kind, subtype) = (self.kind.0.as_str(), self.kind.1.as_str());
        let is_named = self.attribute("name").is_some() || disposition.is_some_and(|d| d.has_attribute("filename"));
        match kind {
            "text" | "multipart" => false,
            "message" => subtype == "rfc822" || is_named,
            "image" if parent.is_some_and(|parent| parent.is("multipart", "related")) => false,
            _ if subtype.ends_with("-signature") || subtype == "pgp-encrypted" => false,
            _ => disposition.is_none_or(|disposition| !disposition.ctype().eq_ignore_ascii_case("inline")) || is_named,
        }
    }
}

/// Looks at the begin of a body, which may be empty.
pub(super) fn look(head: &Head, text: &[u8]) -> Seen {
    let mut walk = Walk::default();
    let is_whole = walk.part(head, &text[..text.len().min(MAX_BYTES)], None, 0);
    // With parts of several kinds there are several things, unless all of them were seen.
    let has_attachments = walk.has_attachment || head.is("multipart", "mixed") && !is_whole;
    let preview = [walk.plain, walk.html].into_iter().flatten().find(|preview| !preview.is_empty());
    Seen { has_attachments, preview }
}

#[derive(Default)]
struct Walk {
    has_attachment: bool,
    plain: Option<String>,
    html: Option<String>,
}

impl Walk {
    /// Whether the part is there to its end.
    fn part(&mut self, head: &Head, body: &[u8], parent: Option<&Head>, depth: usize) -> bool {
        if head.is_attachment(parent) {
            self.has_attachment = true;
            return true;
        }
        if head.kind.0 == "multipart" {
            let delimiter = head.delimiter().filter(|_| depth < MAX_DEPTH);
            return delimiter.is_some_and(|delimiter| self.parts(head, body, &delimiter, depth));
        }
        if head.is("text", "plain") && self.plain.is_none() {
            self.plain = Some(line(&text(head, body), MAX_PREVIEW_CHARS));
        } else if head.is("text", "html") && self.html.is_none() {
            let html = text(head, body);
            self.html = guarded(|| html_to_text(&html)).map(|text| line(&text, MAX_PREVIEW_CHARS));
        }
        true
    }

    fn parts(&mut self, head: &Head, body: &[u8], delimiter: &[u8], depth: usize) -> bool {
        let mut rest = match at_delimiter(body, delimiter) {
            Some((_, rest)) => rest,
            None => return false,
        };
        loop {
            if rest.starts_with(b"--") {
                return true;
            }
            // After the rest of the delimiter's line.
            let Some(line) = rest.iter().position(|byte| *byte == b'\n') else { return false };
            let (part, after) = match at_delimiter(&rest[line..], delimiter) {
                Some((part, after)) => (part, Some(after)),
                None => (&rest[line..], None),
            };
            let part = part.get(1..).unwrap_or_default();
            let (fields, body) = halves(part);
            let is_whole = self.part(&Head::of(&Fields::of(fields)), body, Some(head), depth + 1);
            match after {
                Some(after) if is_whole => rest = after,
                _ => return false,
            }
        }
    }
}

/// What stands before the line of a delimiter, and what comes after that.
fn at_delimiter<'a>(text: &'a [u8], delimiter: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut from = 0;
    while let Some(at) = find(text.get(from..)?, delimiter).map(|at| from + at) {
        let after = at + delimiter.len();
        let rest = &text[after..];
        // Another's may begin alike.
        let ends = rest.is_empty() || rest.starts_with(b"--") || rest[0].is_ascii_whitespace();
        if ends && (at == 0 || text[at - 1] == b'\n') {
            return Some((&text[..at], rest));
        }
        from = after;
    }
    None
}

/// Head and body of a part; without an empty line all of it is head.
fn halves(part: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = part.strip_prefix(b"\n").or_else(|| part.strip_prefix(b"\r\n")) {
        return (&[], body);
    }
    let ends = [find(part, b"\n\n").map(|at| (at, 2)), find(part, b"\n\r\n").map(|at| (at, 3))];
    match ends.into_iter().flatten().min() {
        Some((at, length)) => (&part[..at + 1], &part[at + length..]),
        None => (part, &[]),
    }
}

fn text(head: &Head, body: &[u8]) -> String {
    let bytes = match head.transfer_encoding.as_slice() {
        b"quoted-printable" => from_quoted_printable(body, false),
        b"base64" => from_base64(body),
        _ => body.to_vec(),
    };
    let charset = head.charset().filter(|charset| !charset.eq_ignore_ascii_case("us-ascii"));
    let text = decoded(&bytes, charset);
    // What a charset cannot decode is most often the last character, cut.
    text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned()
}

/// As far as it goes: the last group may be cut.
fn from_base64(body: &[u8]) -> Vec<u8> {
    let is_data = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut data: Vec<u8> = body.iter().copied().take_while(|byte| *byte != b'=').filter(is_data).collect();
    if data.len() % 4 == 1 {
        data.pop();
    }
    BASE64.decode(data).unwrap_or_default()
}

//! What the head of a message or of a part says of its body.

use std::borrow::Cow;

use super::parameters::Parameters;
use super::transfer::Encoding;
use super::{Fields, lossy, read_id};

/// Bytes of a delimiter: a line of RFC 5322. A boundary has 70 at most.
const MAX_DELIMITER_BYTES: usize = 998;

/// Bytes of the id that pictures are named by in HTML.
const MAX_CONTENT_ID_BYTES: usize = 255;

/// What the head of a message or of a part says of its body.
pub(crate) struct Head<'a> {
    /// Type, slash and subtype in small letters; `text/plain` where nothing is said.
    kind: Cow<'a, str>,
    charset: Option<Cow<'a, str>>,
    /// Of the parts, without what is added to the last one.
    delimiter: Option<Vec<u8>>,
    pub(crate) encoding: Encoding,
    /// In small letters; empty where nothing is said.
    disposition: Cow<'a, str>,
    /// Of the file, as it is written.
    pub(crate) name: Option<String>,
    /// Without angle brackets.
    pub(crate) content_id: Option<String>,
    /// Whether lines that end with a space go on in the next (RFC 3676), and if so, whether that space is theirs.
    pub(crate) flowed: Option<bool>,
}

impl Default for Head<'_> {
    /// Of a message that has none.
    fn default() -> Self {
        Self::of(&Fields::default(), None)
    }
}

impl<'a> Head<'a> {
    /// Of a message; `None` where nothing of it is a field.
    pub(crate) fn read(header: &'a [u8]) -> Option<Self> {
        let fields = Fields::of(header);
        fields.are_any.then(|| Self::of(&fields, None))
    }

    /// `parent`: of whose parts it is one.
    pub(super) fn of(fields: &Fields<'a>, parent: Option<&Head<'_>>) -> Self {
        let mut content_type = Parameters::read(fields.content_type.unwrap_or_default());
        let mut kind = std::mem::take(&mut content_type.kind);
        match kind.is_empty() {
            true if parent.is_some_and(|parent| parent.is("multipart", "digest")) => kind = "message/rfc822".into(),
            true => kind = "text/plain".into(),
            false if !kind.contains('/') => kind.to_mut().push('/'),
            false => {}
        }
        let charset = content_type.word("charset").map(|word| match word {
            Cow::Borrowed(word) => lossy(word),
            Cow::Owned(word) => lossy(&word).into_owned().into(),
        });
        let is_yes = |name, yes: &str| content_type.word(name).is_some_and(|v| v.eq_ignore_ascii_case(yes.as_bytes()));
        let boundary = content_type.word("boundary").filter(|_| kind.starts_with("multipart/"));
        let boundary = boundary.as_deref().map(<[u8]>::trim_ascii_end);
        let delimiter = boundary.filter(|boundary| !boundary.is_empty() && boundary.len() <= MAX_DELIMITER_BYTES - 2);
        let disposition = Parameters::read(fields.disposition.unwrap_or_default());
        let raw = charset.as_deref().or_else(|| parent.and_then(Head::charset));
        let name = disposition.text("filename", raw).or_else(|| content_type.text("name", raw));
        let content_id = fields.content_id.and_then(|value| read_id(value, None));
        Self {
            flowed: is_yes("format", "flowed").then(|| !is_yes("delsp", "yes")),
            delimiter: delimiter.map(|boundary| [b"--", boundary].concat()),
            encoding: Encoding::read(fields.transfer_encoding.unwrap_or_default()),
            name: name.filter(|name| !name.is_empty()),
            content_id: content_id.filter(|id| id.len() <= MAX_CONTENT_ID_BYTES).map(Cow::into_owned),
            kind,
            disposition: disposition.kind,
            charset,
        }
    }

    pub(crate) fn charset(&self) -> Option<&str> {
        self.charset.as_deref()
    }

    pub(crate) fn is(&self, kind: &str, subtype: &str) -> bool {
        self.split_kind() == (kind, subtype)
    }

    pub(crate) fn is_kind(&self, kind: &str) -> bool {
        self.split_kind().0 == kind
    }

    fn split_kind(&self) -> (&str, &str) {
        self.kind.split_once('/').unwrap_or((&self.kind, ""))
    }

    /// Whether its type could be one.
    pub(crate) fn has_subtype(&self) -> bool {
        !self.split_kind().1.is_empty()
    }

    /// As it is written, in small letters.
    pub(crate) fn content_type(&self) -> &str {
        &self.kind
    }

    pub(super) fn is_multipart(&self) -> bool {
        self.is_kind("multipart")
    }

    pub(super) fn delimiter(&self) -> Option<&[u8]> {
        self.delimiter.as_deref()
    }

    pub(crate) fn is_disposition(&self, disposition: &str) -> bool {
        self.disposition == disposition
    }

    /// Whether it is something to be saved, and not text, a picture in it or a signature below it.
    pub(crate) fn is_attachment(&self, parent: Option<&Head<'_>>) -> bool {
        if self.is_disposition("attachment") {
            return true;
        }
        let (kind, subtype) = self.split_kind();
        let is_named = self.name.is_some();
        match kind {
            "text" | "multipart" => false,
            "message" => subtype == "rfc822" || is_named,
            "image" if parent.is_some_and(|parent| parent.is("multipart", "related")) => false,
            _ if subtype.ends_with("-signature") || subtype == "pgp-encrypted" => false,
            _ => !self.is_disposition("inline") || is_named,
        }
    }
}

//! What a FETCH says of a message.

use std::borrow::Cow;

use super::PREVIEW_BYTES;
use super::frame::Cursor;
use super::name::decoded;
use crate::date;

/// Labels of a message: as many as Gmail allows in an account.
const MAX_LABELS: usize = 10_000;

/// An id of RFC 8474 (section 4 allows 255).
const MAX_ID_BYTES: usize = 255;

/// One message, as far as the response tells of it. Several responses may tell of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Its unique identifier.
    pub uid: u32,
    /// Its flags.
    pub flags: Option<Flags>,
    /// When it was changed last, in the server's count.
    pub modseq: Option<u64>,
    /// When it arrived, in milliseconds since 1970; `None` where the server has no date, or none that can be.
    pub internal_date: Option<i64>,
    /// Its length in bytes. Some servers only estimate it.
    pub size: Option<u64>,
    /// The header fields that were asked for, 128 KiB of them at most. Empty where the server has none to show.
    pub header: Option<Vec<u8>>,
    /// The begin of the body, [`PREVIEW_BYTES`] at most.
    pub text: Option<Vec<u8>>,
    /// What Gmail knows of it.
    pub gmail: Option<Gmail>,
    /// Its id wherever it is (RFC 8474).
    pub email_id: Option<String>,
    /// That of its thread.
    pub thread_id: Option<String>,
    /// Whether header or text is longer than what is here.
    pub is_cut: bool,
}

/// The flags that have a meaning here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// It was read.
    pub seen: bool,
    /// It is marked as important.
    pub flagged: bool,
    /// It was answered.
    pub answered: bool,
    /// It is not sent yet.
    pub draft: bool,
    /// It is to be expunged.
    pub deleted: bool,
}

/// What Gmail knows of a message beyond IMAP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gmail {
    /// The message's id, in whatever folder.
    pub msgid: u64,
    /// The thread's.
    pub thread: u64,
    /// Folders that it is in, by their names; those with a role by an attribute (`\Inbox`, `\Sent`). The folder that is
    /// open is not among them.
    pub labels: Vec<String>,
}

impl Fetched {
    /// Reads the list that follows `FETCH`. `None` where it cannot be read, or has no UID.
    pub(super) fn read(cursor: Cursor<'_>) -> Option<Self> {
        Self::read_whole(cursor).map(|(fetched, _)| fetched)
    }

    /// The same, and the message itself where it is there from its begin to its end, or cut.
    pub(super) fn read_whole(mut cursor: Cursor<'_>) -> Option<(Self, Option<Cow<'_, [u8]>>)> {
        let (mut fetched, mut whole) = (Self::default(), None);
        let cursor = &mut cursor;
        cursor.space();
        if cursor.peek() != Some(b'(') {
            return None;
        }
        cursor.list(|cursor| fetched.read_item(cursor, &mut whole))?;
        cursor.space();
        if fetched.uid == 0 || !cursor.is_end() {
            return None;
        }
        fetched.is_cut |= cursor.is_cut;
        Some((fetched, whole))
    }

    fn read_item<'a>(&mut self, cursor: &mut Cursor<'a>, whole: &mut Option<Cow<'a, [u8]>>) -> Option<()> {
        let name = cursor.item();
        let is = |item: &str| name.eq_ignore_ascii_case(item.as_bytes());
        // Some servers repeat what was asked as it was asked.
        if (is("BODY") || is("BODY.PEEK")) && cursor.peek() == Some(b'[') {
            let section = cursor.section()?;
            cursor.space();
            let starts =
                |word: &str| section.get(..word.len()).is_some_and(|s| s.eq_ignore_ascii_case(word.as_bytes()));
            if starts("HEADER") {
                self.header = Some(cursor.string()?.unwrap_or_default().into_owned());
            } else if starts("TEXT") {
                let text = cursor.string()?.unwrap_or_default();
                // Some servers do not know parts of parts.
                let kept = text.len().min(PREVIEW_BYTES);
                self.is_cut |= kept < text.len();
                self.text = Some(text[..kept].to_vec());
            } else if section.is_empty() {
                *whole = Some(cursor.string()?.unwrap_or_default());
            } else {
                cursor.string()?;
            }
            return Some(());
        }
        cursor.space();
        if is("UID") {
            self.uid = cursor.uid()?;
        } else if is("FLAGS") {
            let flags = self.flags.insert(Flags::default());
            cursor.list(|cursor| flags.read(cursor))?;
        } else if is("MODSEQ") {
            let modseq = &mut self.modseq;
            cursor.list(|cursor| {
                *modseq = Some(cursor.number()?);
                Some(())
            })?;
        } else if is("INTERNALDATE") {
            self.internal_date = cursor.string()?.and_then(|text| date::parse(&text));
        } else if is("RFC822.SIZE") {
            self.size = cursor.string()?.and_then(|text| super::frame::number(&text));
        } else if is("X-GM-MSGID") {
            self.gmail.get_or_insert_default().msgid = cursor.number()?;
        } else if is("X-GM-THRID") {
            self.gmail.get_or_insert_default().thread = cursor.number()?;
        } else if is("X-GM-LABELS") {
            let labels = &mut self.gmail.get_or_insert_default().labels;
            cursor.list(|cursor| {
                let label = cursor.string()?.unwrap_or_else(|| b"NIL".into());
                labels.push(decoded(&label));
                (labels.len() <= MAX_LABELS).then_some(())
            })?;
        } else if is("EMAILID") {
            self.email_id = read_id(cursor)?;
        } else if is("THREADID") {
            self.thread_id = read_id(cursor)?;
        } else if name.is_empty() {
            return None;
        } else {
            if cursor.peek() == Some(b'[') {
                cursor.section()?;
            }
            cursor.skip()?;
        }
        Some(())
    }
}

impl Flags {
    /// One of the list. Keywords are passed over.
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let text = cursor.string()?.unwrap_or_default();
        let Self { seen, flagged, answered, draft, deleted } = self;
        for (name, flag) in [
            ("\\Seen", seen),
            ("\\Flagged", flagged),
            ("\\Answered", answered),
            ("\\Draft", draft),
            ("\\Deleted", deleted),
        ] {
            *flag |= text.eq_ignore_ascii_case(name.as_bytes());
        }
        Some(())
    }
}

/// `(id)` or NIL; an id that is none is none.
pub(super) fn read_id(cursor: &mut Cursor<'_>) -> Option<Option<String>> {
    let mut id = None;
    cursor.list(|cursor| {
        let text = cursor.string()?.unwrap_or_default();
        let is_id = (1..=MAX_ID_BYTES).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        id = is_id.then(|| String::from_utf8_lossy(&text).into_owned());
        Some(())
    })?;
    Some(id)
}

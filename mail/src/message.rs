//! What a list of messages shows of each: of its header, and of the begin of its body.
//!
//! Whoever sends a message decides what stands in it. So each field is taken alone, cut to what a field may have, and
//! read by a library that is fuzzed and known to panic now and then: what it fails on is missing, and the rest is there.
//! What comes out has no NUL, no control character and no line break, and is not long.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mail_parser::HeaderValue;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::parsers::MessageStream;
use memchr::{memchr, memchr2, memrchr};
use smallvec::SmallVec;

use crate::date;

mod addresses;
mod body;
mod head;
mod parameters;
mod parts;
mod transfer;
mod words;

pub(crate) use head::Head;
#[cfg(any(test, feature = "testing"))]
pub(crate) use parts::MAX_PARTS;
pub(crate) use parts::{Part, Parts, head_at};
pub use transfer::Encoding;

/// Characters of a subject: a line of RFC 5322 (section 2.1.1).
pub(crate) const MAX_SUBJECT_CHARS: usize = 998;

/// Addresses in a field. Who writes to more writes to a list.
pub(crate) const MAX_ADDRESSES: usize = 100;

/// Bytes of an address: 64, an at sign and 255 (RFC 5321 section 4.5.3.1).
pub(crate) const MAX_ADDRESS_BYTES: usize = 320;

/// Characters of a name.
pub(crate) const MAX_NAME_CHARS: usize = 255;

/// Bytes of a Message-ID: a line of RFC 5322.
pub(crate) const MAX_ID_BYTES: usize = 998;

/// Messages that one refers to. Of more, the first and the last are those that tell its thread.
pub(crate) const MAX_REFERENCES: usize = 50;

/// Characters of a preview: two lines of a list, and what a message's thousand bytes in the database have room for.
pub(crate) const MAX_PREVIEW_CHARS: usize = 140;

/// Of one field as it is written: a hundred addresses whose names are encoded.
const MAX_FIELD_BYTES: usize = 24 * 1024;

/// A message as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Header and body.
    pub bytes: Vec<u8>,
    /// Whether it is longer than what is here.
    pub is_cut: bool,
}

impl Raw {
    /// Keeps no more than so many bytes.
    pub(crate) fn cut_at(mut self, limit: usize) -> Self {
        self.is_cut |= self.bytes.len() > limit;
        self.bytes.truncate(limit);
        self
    }
}

/// A message as a list shows it. Its texts are borrowed where they stand in it as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary<'a> {
    /// Without angle brackets.
    pub message_id: Option<Cow<'a, str>>,
    /// What it answers, without angle brackets.
    pub in_reply_to: Option<Cow<'a, str>>,
    /// The first of those that it refers to ([`references`]): what its thread began with.
    pub first_reference: Option<Cow<'a, str>>,
    /// Empty where there is none.
    pub subject: Cow<'a, str>,
    /// From whom it says it is.
    pub from: Addresses<'a>,
    /// To whom.
    pub to: Addresses<'a>,
    /// And to whom as well.
    pub cc: Addresses<'a>,
    /// And secretly: in copies of what one has sent.
    pub bcc: Addresses<'a>,
    /// Where answers are to go.
    pub reply_to: Addresses<'a>,
    /// The date it says, in milliseconds since 1970; `None` where there is none or none that can be.
    pub sent_at: Option<i64>,
    /// When the last server on its way got it, likewise.
    pub received_at: Option<i64>,
    /// Whether there is something to be saved in it. What the header alone says may be wrong.
    pub has_attachments: bool,
    /// Its first words; `None` where the body was not given or begins with none.
    pub preview: Option<String>,
    /// Whether it has a header at all.
    pub is_readable: bool,
}

/// Those of a field. Most have one.
pub type Addresses<'a> = SmallVec<[Address<'a>; 1]>;

/// Of a person, or of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address<'a> {
    /// How one calls it.
    pub name: Option<Cow<'a, str>>,
    /// As it is written, whether mail can be sent to it or not; empty where there is only a name.
    pub address: Cow<'a, str>,
}

impl Address<'_> {
    fn into_owned<'a>(self) -> Address<'a> {
        Address { name: self.name.map(|name| name.into_owned().into()), address: self.address.into_owned().into() }
    }
}

impl<'a> Summary<'a> {
    /// Reads a header, all of it or a choice of fields, and the begin of the body that belongs to it. Something comes
    /// of everything.
    pub fn read(header: &'a [u8], text: Option<&'a [u8]>) -> Self {
        let fields = Fields::of(header);
        let head = Head::of(&fields, None);
        let charset = head.charset();
        let addresses = |values: &[&'a [u8]]| read_addresses(values, charset);
        let mut summary = Self {
            message_id: fields.message_id.and_then(|value| read_id(value, charset)),
            in_reply_to: fields.in_reply_to.and_then(|value| read_id(value, charset)),
            first_reference: fields.references.and_then(|value| read_id(value, charset)),
            subject: fields.subject.map(|value| read_text(value, charset)).unwrap_or_default(),
            from: addresses(fields.from.as_slice()),
            to: addresses(&fields.to),
            cc: addresses(&fields.cc),
            bcc: addresses(&fields.bcc),
            reply_to: addresses(fields.reply_to.as_slice()),
            sent_at: fields.date.and_then(date::parse),
            received_at: fields.received.and_then(read_received),
            has_attachments: false,
            preview: None,
            is_readable: fields.are_any,
        };
        let seen = body::look(head, text.unwrap_or_default());
        summary.has_attachments = seen.has_attachments;
        summary.preview = seen.preview;
        summary
    }
}

/// The thread of a message by its header, oldest first, without angle brackets.
pub fn references(header: &[u8]) -> Vec<String> {
    let fields = Fields::of(header);
    let head = Head::of(&fields, None);
    fields.references.map(|value| read_ids(value, head.charset())).unwrap_or_default()
}

/// The fields that matter, as they are written. Of those that can be once the first counts: that is what most programs
/// show, and what a signature is for.
#[derive(Default)]
struct Fields<'a> {
    subject: Option<&'a [u8]>,
    from: Option<&'a [u8]>,
    reply_to: Option<&'a [u8]>,
    to: SmallVec<[&'a [u8]; 1]>,
    cc: SmallVec<[&'a [u8]; 1]>,
    bcc: SmallVec<[&'a [u8]; 1]>,
    date: Option<&'a [u8]>,
    received: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
    in_reply_to: Option<&'a [u8]>,
    references: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
    disposition: Option<&'a [u8]>,
    content_id: Option<&'a [u8]>,
    are_any: bool,
}

impl<'a> Fields<'a> {
    /// Of a header up to its empty line, or its end.
    fn of(header: &'a [u8]) -> Self {
        let mut fields = Self::default();
        let mut rest = header;
        while let Some((field, after)) = next_field(rest) {
            rest = after;
            let Some(colon) = memchr(b':', field) else { continue };
            let (name, value) = (field[..colon].trim_ascii(), &field[colon + 1..]);
            // Lines of other things have spaces before a colon (`From alice Tue 10:00` of a mailbox's file).
            if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                continue;
            }
            fields.are_any = true;
            let is = |field: &str| name.eq_ignore_ascii_case(field.as_bytes());
            let (once, many) = match name.len() {
                2 if is("to") => (None, Some(&mut fields.to)),
                2 if is("cc") => (None, Some(&mut fields.cc)),
                3 if is("bcc") => (None, Some(&mut fields.bcc)),
                4 if is("from") => (Some(&mut fields.from), None),
                4 if is("date") => (Some(&mut fields.date), None),
                7 if is("subject") => (Some(&mut fields.subject), None),
                8 if is("reply-to") => (Some(&mut fields.reply_to), None),
                8 if is("received") => (Some(&mut fields.received), None),
                10 if is("message-id") => (Some(&mut fields.message_id), None),
                10 if is("content-id") => (Some(&mut fields.content_id), None),
                10 if is("references") => (Some(&mut fields.references), None),
                11 if is("in-reply-to") => (Some(&mut fields.in_reply_to), None),
                12 if is("content-type") => (Some(&mut fields.content_type), None),
                19 if is("content-disposition") => (Some(&mut fields.disposition), None),
                25 if is("content-transfer-encoding") => (Some(&mut fields.transfer_encoding), None),
                _ => (None, None),
            };
            if let Some(first) = once {
                first.get_or_insert(value);
            }
            if let Some(all) = many.filter(|all| all.len() < MAX_ADDRESSES) {
                all.push(value);
            }
        }
        fields
    }
}

/// A field with the lines that it goes on in, and what follows; `None` at the empty line.
fn next_field(header: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = 0;
    loop {
        let line = memchr(b'\n', &header[end..]).map_or(header.len(), |at| end + at + 1);
        if end == 0 && header[..line].trim_ascii().is_empty() {
            return None;
        }
        end = line;
        if !matches!(header.get(end), Some(b' ' | b'\t')) {
            return Some(header.split_at(end));
        }
    }
}

/// A field as text in UTF-8, still folded and encoded, with its end: what the library wants.
fn prepared(text: &str) -> Vec<u8> {
    let joined = words::joined(text.as_bytes());
    let text = joined.trim_ascii_end();
    let is_stray = |byte: u8| byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n' | b'\t');
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text);
    for byte in &mut bytes {
        *byte = if is_stray(*byte) { b' ' } else { *byte };
    }
    bytes.push(b'\n');
    bytes
}

/// What is not ASCII and stands in a field raw is UTF-8, else what the message itself is written in, else what mail of
/// before was.
fn raw_text<'a>(value: &'a [u8], charset: Option<&str>) -> Cow<'a, str> {
    let value = &value[..value.len().min(MAX_FIELD_BYTES)];
    if memchr(b'\x1b', value).is_some() {
        // Japanese mail of before UTF-8: seven bits, and still not ASCII.
        return decoded(value, Some("iso-2022-jp"));
    }
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => decoded(value, charset.filter(|charset| !is_shifted(charset))),
    }
}

/// UTF-8, as far as it is that.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    // The standard library's own looks at each byte for itself.
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Text of this charset, if it is not UTF-8 anyway.
fn decoded<'a>(bytes: &'a [u8], charset: Option<&str>) -> Cow<'a, str> {
    if let Some((bytes, charset)) = charset.and_then(|charset| unshifted(bytes, charset)) {
        return of_library(&bytes, charset).unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned()).into();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !charset.is_some_and(is_shifted) => return text.into(),
        // The last character of what was cut.
        Err(error) if error.error_len().is_none() && !bytes[..error.valid_up_to()].is_ascii() => {
            return String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        }
        _ => {}
    }
    if charset.is_some_and(|charset| is_unicode(charset) && is_mostly_utf8(bytes)) {
        return String::from_utf8_lossy(bytes);
    }
    let charset = charset.filter(|charset| !is_unicode(charset)).unwrap_or_default();
    of_library(bytes, known_name(charset)).map_or_else(|| String::from_utf8_lossy(bytes), Cow::Owned)
}

/// What the library reads in a charset; of one that it does not know, what most mean.
fn of_library(bytes: &[u8], charset: &str) -> Option<String> {
    let decoder = charset_decoder(charset.as_bytes()).or_else(|| charset_decoder(b"windows-1252"));
    decoder.and_then(|decoder| guarded(|| decoder(bytes)))
}

/// What is written in a body of this charset. Programs say `us-ascii` or nothing and write Japanese in seven bits.
pub(crate) fn body_text<'a>(bytes: &'a [u8], charset: Option<&str>) -> Cow<'a, str> {
    let charset = charset.filter(|charset| !charset.eq_ignore_ascii_case("us-ascii"));
    let is_silent = charset.is_none_or(is_unicode);
    let is_japanese = is_silent && words::find(bytes, b"\x1b$").is_some() && bytes.is_ascii();
    let charset = if is_japanese { Some("iso-2022-jp") } else { charset };
    let charset = charset.or_else(|| is_mostly_utf8(bytes).then_some("utf-8"));
    decoded(bytes, charset)
}

fn is_unicode(charset: &str) -> bool {
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

/// Whether more of what is not ASCII is UTF-8 than is not: a text with a scratch, and not one of another charset.
fn is_mostly_utf8(bytes: &[u8]) -> bool {
    let (mut good, mut bad) = (0_usize, 0_usize);
    for chunk in bytes.utf8_chunks() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    good > bad
}

/// As the library calls it.
fn known_name(charset: &str) -> &str {
    let starts = |start| begins(charset, start);
    match () {
        () if starts("iso-2022-jp") || starts("cp5022") => "iso-2022-jp",
        () if starts("cp932") || starts("windows-31j") || starts("ms932") => "shift_jis",
        () if ["cp949", "ms949", "windows-949", "x-windows-949", "uhc"].into_iter().any(starts) => "euc-kr",
        // The library knows that it does not know them, and reads nothing at all.
        () if starts("iso-2022-cn") || starts("replacement") => "windows-1252",
        () => charset,
    }
}

fn begins(charset: &str, start: &str) -> bool {
    charset.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

/// Whether the bytes of ASCII mean something else in this charset.
pub(crate) fn is_shifted(charset: &str) -> bool {
    ["utf-7", "utf7", "utf-16", "utf16", "iso-2022", "hz"].into_iter().any(|start| begins(charset, start))
}

/// Whether the library has another name for this charset, or none.
fn is_foreign(charset: &str) -> bool {
    known_name(charset) != charset || unshifted(b"", charset).is_some()
}

/// The same text in eight bits, and its charset there: Korean (RFC 1557) and Chinese (RFC 1843) that were shifted into seven. Each
/// line begins unshifted. The library has neither.
fn unshifted(bytes: &[u8], charset: &str) -> Option<(Vec<u8>, &'static str)> {
    // What is written, whether what follows it is shifted, and what it stands for.
    type Shift = (&'static [u8], bool, &'static [u8]);
    const KOREAN: &[Shift] =
        &[(b"\x1b$)C", false, b""), (b"\x0e", true, b""), (b"\x0f", false, b""), (b"\n", false, b"\n")];
    const CHINESE: &[Shift] = &[
        (b"~{", true, b""),
        (b"~}", false, b""),
        (b"~~", false, b"~"),
        (b"~\n", false, b""),
        (b"~\r\n", false, b""),
        (b"\n", false, b"\n"),
    ];
    let (shifts, charset) = match () {
        () if begins(charset, "iso-2022-kr") || begins(charset, "csiso2022kr") => (KOREAN, "euc-kr"),
        () if begins(charset, "hz") => (CHINESE, "gb2312"),
        () => return None,
    };
    let (mut rest, mut is_shifted, mut text) = (bytes, false, Vec::with_capacity(bytes.len()));
    while let [first, after @ ..] = rest {
        if let Some((written, to, meaning)) = shifts.iter().find(|(written, ..)| rest.starts_with(written)) {
            (rest, is_shifted) = (&rest[written.len()..], *to);
            text.extend_from_slice(meaning);
            continue;
        }
        match after {
            [second, after @ ..] if is_shifted && first.is_ascii_graphic() && second.is_ascii_graphic() => {
                text.extend([first | 0x80, second | 0x80]);
                rest = after;
            }
            _ => {
                text.push(*first);
                rest = after;
            }
        }
    }
    Some((text, charset))
}

/// Calls the library. `None` where it panics.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Text on one line: without control characters, white space as single spaces, and what has no width not at the begin
/// of a word: senders fill previews with it.
pub(crate) fn line<'a>(text: impl Into<Cow<'a, str>>, max_chars: usize) -> Cow<'a, str> {
    match text.into() {
        text if text.len() > max_chars || !is_line(&text) => words_of(&text, max_chars).into(),
        Cow::Owned(mut text) => {
            // What was decoded to it may have been longer by far.
            text.shrink_to(max_chars);
            text.into()
        }
        text => text,
    }
}

/// Whether it is that already, as most are.
fn is_line(text: &str) -> bool {
    let mut last = ' ';
    let is_good = text.chars().all(|c| {
        let before = std::mem::replace(&mut last, c);
        match c {
            '!'..='~' => true,
            ' ' => before != ' ',
            c => !c.is_whitespace() && !c.is_control() && !is_invisible(c),
        }
    });
    is_good && (last != ' ' || text.is_empty())
}

fn words_of(text: &str, max_chars: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max_chars));
    let (mut rest, mut room, mut is_apart) = (text, max_chars, true);
    while let Some(c) = rest.chars().next() {
        if c.is_whitespace() || c.is_control() || is_apart && is_invisible(c) {
            is_apart = true;
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let needs_space = is_apart && !line.is_empty();
        if room <= usize::from(needs_space) {
            break;
        }
        if needs_space {
            line.push(' ');
            room -= 1;
        }
        is_apart = false;
        // Most is as it should be, and goes over at once.
        let good = match good_start(&rest.as_bytes()[..rest.len().min(room)]) {
            0 => c.len_utf8(),
            good => good,
        };
        line.push_str(&rest[..good]);
        room -= if c.is_ascii() { good } else { 1 };
        rest = &rest[good..];
    }
    line
}

/// How much of it is words of ASCII with single spaces between them.
fn good_start(text: &[u8]) -> usize {
    let mut last = b' ';
    let mut is_good = |byte: &u8| {
        let before = std::mem::replace(&mut last, *byte);
        byte.is_ascii_graphic() || *byte == b' ' && before != b' '
    };
    let length = text.iter().take_while(|byte| is_good(byte)).count();
    text[..length].trim_ascii_end().len()
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}')
}

/// The first so many bytes, in whole characters.
pub(crate) fn cut(mut text: String, max_bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

fn read_text<'a>(value: &'a [u8], charset: Option<&str>) -> Cow<'a, str> {
    let is_plain = |byte: u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    let text = part_of(raw_text(value, charset), |text| {
        words::decoded(text.trim_ascii(), is_plain).map(|text| line(text, MAX_SUBJECT_CHARS))
    });
    text.unwrap_or_else(|text| text_of_library(&text).into())
}

/// What is read of a text, borrowed where the text is; the text itself where nothing is read.
fn part_of<'a>(
    text: Cow<'a, str>,
    read: impl FnOnce(&str) -> Option<Cow<'_, str>>,
) -> Result<Cow<'a, str>, Cow<'a, str>> {
    match text {
        Cow::Borrowed(text) => read(text).ok_or(text.into()),
        Cow::Owned(text) => match read(&text) {
            Some(part) => Ok(part.into_owned().into()),
            None => Err(text.into()),
        },
    }
}

/// As [`words::decoded`], of whatever a field may have.
fn text_of_library(text: &str) -> String {
    let value = prepared(text);
    match guarded(|| MessageStream::new(&value).parse_unstructured()) {
        Some(HeaderValue::Text(text)) => line(text, MAX_SUBJECT_CHARS).into_owned(),
        _ => String::new(),
    }
}

fn read_addresses<'a>(values: &[&'a [u8]], charset: Option<&str>) -> Addresses<'a> {
    let mut addresses = Addresses::new();
    for value in values {
        let mut found = match raw_text(value, charset) {
            Cow::Borrowed(text) => addresses_of(text),
            Cow::Owned(text) => addresses_of(&text).into_iter().map(Address::into_owned).collect(),
        };
        found.truncate(MAX_ADDRESSES - addresses.len());
        found.shrink_to_fit();
        match addresses.is_empty() {
            true => addresses = found,
            false => addresses.extend(found),
        }
    }
    addresses
}

fn addresses_of(text: &str) -> Addresses<'_> {
    addresses::read(text).unwrap_or_else(|| addresses_of_library(text))
}

/// As [`addresses::read`], of whatever a field may have.
fn addresses_of_library<'a>(text: &str) -> Addresses<'a> {
    let value = prepared(text);
    let Some(HeaderValue::Address(found)) = guarded(|| MessageStream::new(&value).parse_address()) else {
        return Addresses::new();
    };
    let found = found.iter().filter_map(|found| read_address(found.name.as_deref(), found.address.as_deref()));
    found.map(Address::into_owned).collect()
}

fn read_address<'a>(name: Option<impl Into<Cow<'a, str>>>, address: Option<&'a str>) -> Option<Address<'a>> {
    let address = without_spaces(address.unwrap_or_default());
    // A part of an address is somebody else's.
    let address = Some(address).filter(|address| address.len() <= MAX_ADDRESS_BYTES).unwrap_or_default();
    let name = name.map(|name| line(name, MAX_NAME_CHARS)).filter(|name| !name.is_empty() && *name != address);
    (name.is_some() || !address.is_empty()).then_some(Address { name, address })
}

fn without_spaces(text: &str) -> Cow<'_, str> {
    // Not by the first that is none: so it is looked at many at a time.
    match text.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic()) {
        true => text.into(),
        false => text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect(),
    }
}

/// What stands in angle brackets, or what looks like an id where there are none.
fn read_ids(value: &[u8], charset: Option<&str>) -> Vec<String> {
    let text = raw_text(value, charset);
    let mut ids: Vec<_> = bracketed(&text).collect();
    if ids.is_empty() {
        ids = bare_ids(&text);
    }
    if ids.len() > MAX_REFERENCES {
        ids.drain(1..=ids.len() - MAX_REFERENCES);
    }
    ids.into_iter().map(Cow::into_owned).collect()
}

/// The first of them.
fn read_id<'a>(value: &'a [u8], charset: Option<&str>) -> Option<Cow<'a, str>> {
    part_of(raw_text(value, charset), |text| bracketed(text).next().or_else(|| bare_ids(text).into_iter().next())).ok()
}

/// What stands in angle brackets.
fn bracketed(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = text;
    let ids = std::iter::from_fn(move || {
        rest = &rest[memchr(b'<', rest.as_bytes())? + 1..];
        let (id, after) = rest.split_at(memchr2(b'<', b'>', rest.as_bytes()).unwrap_or(rest.len()));
        rest = after;
        Some(clean_id(id))
    });
    ids.filter(|id| !id.is_empty())
}

/// What looks like an id where there are none.
fn bare_ids(text: &str) -> Vec<Cow<'_, str>> {
    let mut words: Vec<_> = text.split_whitespace().map(clean_id).filter(|word| !word.is_empty()).collect();
    if words.len() > 1 {
        words.retain(|word| word.contains('@'));
    }
    words
}

fn clean_id(id: &str) -> Cow<'_, str> {
    match without_spaces(id) {
        Cow::Borrowed(id) => id[..id.floor_char_boundary(MAX_ID_BYTES)].into(),
        Cow::Owned(id) => {
            let mut id = cut(id, MAX_ID_BYTES);
            // A thousand messages wait to be stored together.
            id.shrink_to_fit();
            id.into()
        }
    }
}

/// The date is what comes last.
fn read_received(value: &[u8]) -> Option<i64> {
    let at = memrchr(b';', value)?;
    date::parse(&value[at + 1..])
}

#[cfg(test)]
mod tests;

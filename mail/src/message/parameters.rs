//! What a field says in the form `kind; name=value; …`: Content-Type and Content-Disposition. The library reads these in a
//! time that grows with the square of their length, and each piece of a name that was cut (RFC 2231) as if it were all.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use smallvec::SmallVec;

use super::{decoded, lossy, read_text};

/// Of one field. A file's name of 255 characters, each of four bytes and each byte written as three, has 3 KiB.
const MAX_BYTES: usize = 4 * 1024;

/// In one field.
const MAX_PARAMETERS: usize = 64;

/// A field in this form.
pub(super) struct Parameters<'a> {
    /// In small letters; empty where the field begins with none.
    pub(super) kind: Cow<'a, str>,
    /// By their names. Most fields have one or two.
    values: SmallVec<[(&'a [u8], Value<'a>); 2]>,
}

/// As it is written: its bytes, without quotes.
struct Value<'a> {
    bytes: Cow<'a, [u8]>,
    is_quoted: bool,
}

impl<'a> Parameters<'a> {
    /// Something comes of everything.
    pub(super) fn read(field: &'a [u8]) -> Self {
        let field = field[..field.len().min(MAX_BYTES)].trim_ascii();
        let end = field.iter().position(|byte| *byte == b';').unwrap_or(field.len());
        let kind = field[..end].split(|byte| byte.is_ascii_whitespace() || *byte == b'(').next().unwrap_or_default();
        let kind = lossy(kind);
        let is_small = !kind.bytes().any(|byte| byte.is_ascii_uppercase());
        let kind = if is_small { kind } else { kind.to_ascii_lowercase().into() };
        let mut parameters = Self { kind, values: SmallVec::new() };
        let mut rest = field.get(end + 1..).unwrap_or_default();
        while !rest.is_empty() && parameters.values.len() < MAX_PARAMETERS {
            let end = rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
            let name = rest[..end].trim_ascii();
            if rest.get(end) != Some(&b'=') {
                rest = rest.get(end + 1..).unwrap_or_default();
                continue;
            }
            let value = rest[end + 1..].trim_ascii_start();
            let (value, after) = match value.strip_prefix(b"\"") {
                Some(quoted) => {
                    let (bytes, after) = quoted_string(quoted);
                    (Value { bytes, is_quoted: true }, after)
                }
                None => {
                    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
                    (Value { bytes: value[..end].trim_ascii_end().into(), is_quoted: false }, &value[end..])
                }
            };
            parameters.values.push((name, value));
            let end = after.iter().position(|byte| *byte == b';').unwrap_or(after.len());
            rest = after.get(end + 1..).unwrap_or_default();
        }
        parameters
    }

    fn value(&self, name: &str) -> Option<&Value<'a>> {
        self.values.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// A word: what follows it outside quotes is a comment.
    pub(super) fn word(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        let word = match self.value(name)? {
            // What stands without quotes is as it is written.
            Value { bytes: Cow::Borrowed(bytes), is_quoted: false } => {
                bytes.split(u8::is_ascii_whitespace).next()?.into()
            }
            Value { bytes, .. } => bytes.clone(),
        };
        Some(word).filter(|word| !word.is_empty())
    }

    /// A text in any script, as RFC 2231 wants it, or as RFC 2047 does not want it and many write it, or raw in this
    /// charset.
    pub(super) fn text(&self, name: &str, charset: Option<&str>) -> Option<String> {
        if self.values.iter().any(|(known, _)| known.contains(&b'*'))
            && let Some(text) = self.extended(name)
        {
            return Some(text);
        }
        self.value(name).map(|value| read_text(&value.bytes, charset).into_owned())
    }

    fn extended(&self, name: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut charset = None;
        let mut add = |value: &Value<'_>, is_encoded: bool, is_first: bool| {
            let mut value = &value.bytes[..];
            if is_encoded && is_first {
                let mut pieces = value.splitn(3, |byte| *byte == b'\'');
                if let (Some(first), Some(_), Some(rest)) = (pieces.next(), pieces.next(), pieces.next()) {
                    charset = Some(String::from_utf8_lossy(first).into_owned()).filter(|charset| !charset.is_empty());
                    value = rest;
                }
            }
            match is_encoded {
                true => bytes.extend(percent_decode(value)),
                false => bytes.extend_from_slice(value),
            }
        };
        if let Some(whole) = self.value(&format!("{name}*")) {
            add(whole, true, true);
        } else {
            for n in 0..MAX_PARAMETERS {
                match (self.value(&format!("{name}*{n}*")), self.value(&format!("{name}*{n}"))) {
                    (Some(encoded), _) => add(encoded, true, n == 0),
                    (None, Some(plain)) => add(plain, false, n == 0),
                    (None, None) if n == 0 => return None,
                    (None, None) => break,
                }
            }
        }
        Some(decoded(&bytes, charset.as_deref()).into_owned())
    }
}

/// Up to the quote that ends it, and what follows. A backslash that stands before neither quote nor backslash is one of
/// somebody's path.
fn quoted_string(text: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let plain = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | b'\r' | b'\n')).unwrap_or(text.len());
    let (mut bytes, mut rest) = (Cow::Borrowed(&text[..plain]), &text[plain..]);
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'"', _) => break,
            (b'\\', [second @ (b'"' | b'\\'), after @ ..]) => {
                bytes.to_mut().push(*second);
                rest = after;
            }
            (b'\r' | b'\n', _) => {}
            _ => bytes.to_mut().push(*first),
        }
    }
    (bytes, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_words_are_read_as_they_are_written() {
        for (field, kind, charset) in [
            ("text/plain", "text/plain", None),
            (" Text/HTML ; Charset=UTF-8\r\n", "text/html", Some("UTF-8")),
            ("text/plain; charset=us-ascii (Plain text)", "text/plain", Some("us-ascii")),
            ("text/plain (x); charset=\"us-ascii\" (y); a=b", "text/plain", Some("us-ascii")),
            ("text/plain;;charset = \"a\\\"b\";", "text/plain", Some("a\"b")),
            ("text/plain; x; charset=a", "text/plain", Some("a")),
            ("text/plain; x=\"a;charset=b\"; charset=c", "text/plain", Some("c")),
            ("text/plain; charset=\"never ends", "text/plain", Some("never ends")),
            ("text/plain; charset=", "text/plain", None),
            ("text/plain\r\n;\r\n charset=a\r\n", "text/plain", Some("a")),
            ("", "", None),
            ("; charset=a", "", Some("a")),
        ] {
            let parameters = Parameters::read(field.as_bytes());
            let charset = charset.map(str::as_bytes);
            let word = parameters.word("charset");
            assert_eq!((&*parameters.kind, word.as_deref()), (kind, charset), "{field}");
        }
    }

    #[test]
    fn names_of_files_are_read_in_every_way_they_are_written() {
        for (field, charset, expected) in [
            (b"filename=a.txt".as_slice(), None, Some("a.txt")),
            (b"filename=my file (1).txt; x=y", None, Some("my file (1).txt")),
            (b"filename=\"a;b \\\"c\\\".txt\"", None, Some("a;b \"c\".txt")),
            (b"filename=\"C:\\temp\\a.txt\"", None, Some("C:\\temp\\a.txt")),
            (b"filename*=utf-8'de'Gr%C3%BC%C3%9Fe.txt", None, Some("Gr\u{fc}\u{df}e.txt")),
            (b"filename*=iso-8859-1''Gr%FC%DFe.txt; filename=other.txt", None, Some("Gr\u{fc}\u{df}e.txt")),
            // A character in two pieces, a piece that is not encoded, and pieces in any order.
            (
                b"filename*1*=%BC%C3%9F; filename*0*=utf-8''Gr%C3; filename*2=\"e 1.txt\"",
                None,
                Some("Gr\u{fc}\u{df}e 1.txt"),
            ),
            (b"filename*0*=gb18030''%C4%E3; filename*1*=%BA%C3.txt", None, Some("\u{4f60}\u{597d}.txt")),
            (b"filename*0=\"a long \"; filename*1=\"name.txt\"", None, Some("a long name.txt")),
            (b"filename*=Gr%C3%BCn", None, Some("Gr\u{fc}n")),
            (b"filename*=utf-8''%zz%4", None, Some("%zz%4")),
            (b"filename=\"=?utf-8?B?R3LDvMOfZS50eHQ=?=\"", None, Some("Gr\u{fc}\u{df}e.txt")),
            (b"filename==?iso-8859-1?Q?Gr=FC=DFe=2Etxt?=", None, Some("Gr\u{fc}\u{df}e.txt")),
            (b"filename=\"=?utf-8?Q?Gr=C3?=\r\n =?utf-8?Q?=BCn?=\"", None, Some("Gr\u{fc}n")),
            (b"filename=\"\xc4\xe3\xba\xc3.txt\"", Some("gb2312"), Some("\u{4f60}\u{597d}.txt")),
            (b"filename=\"Gr\xfcn\"", None, Some("Gr\u{fc}n")),
            ("filename=\"Gr\u{fc}n\"".as_bytes(), Some("iso-8859-1"), Some("Gr\u{fc}n")),
            (b"name=a", None, None),
        ] {
            let field = [b"attachment; ", field].concat();
            let parameters = Parameters::read(&field);
            assert_eq!(parameters.text("filename", charset).as_deref(), expected, "{}", field.escape_ascii());
        }
    }
}

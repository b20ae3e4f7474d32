//! One response, framed: its lines, with its literals between them, and a cursor that reads the values in it.

use std::borrow::Cow;
use std::iter::Peekable;
use std::ops::Range;
use std::slice;

use memchr::{memchr, memchr3};

use crate::connect::Stream;
use crate::error::{Code, Error};

/// Of a part of a message in a literal; the rest is read and dropped. The header fields that are asked for have some
/// 2 KiB, and 20 times that where somebody writes to thousands.
pub(crate) const MAX_SECTION_BYTES: usize = 128 * 1024;

/// Literals in one response. A message has two, and one more for each label that no quoted string can hold.
const MAX_LITERALS: usize = 1000;

/// Parentheses within parentheses. What is asked for here has two; a BODYSTRUCTURE that nobody asked for has more.
const MAX_DEPTH: usize = 8;

/// What is kept of a long response's memory for the next one.
const KEPT_BYTES: usize = 256 * 1024;

/// A response as it came, with what was kept of its literals.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    literals: Vec<Literal>,
    /// See [`MAX_SECTION_BYTES`]. More for whoever wants a whole message, and then that much more in a response.
    pub(super) section_bytes: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Self { bytes: Vec::new(), literals: Vec::new(), section_bytes: MAX_SECTION_BYTES }
    }
}

/// Where a literal's bytes are.
#[derive(Debug, Clone, Copy)]
struct Literal {
    start: usize,
    end: usize,
    is_cut: bool,
}

impl Frame {
    /// Reads one response of at most `max` bytes, cut parts of a message not counted. Status responses have no
    /// literals, whatever their text ends with.
    ///
    /// # Errors
    /// As [`Stream::read_line`]; [`Code::Protocol`] where a literal is too long, or there are too many.
    pub(super) async fn read(&mut self, stream: &mut Stream, max: usize) -> Result<(), Error> {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.literals.clear();
        stream.read_line(&mut self.bytes, max).await?;
        if !is_data(&self.bytes) {
            return Ok(());
        }
        let max = max + self.section_bytes.saturating_sub(MAX_SECTION_BYTES);
        let mut line = 0;
        while let Some((at, length)) = announced_literal(&self.bytes[line..]) {
            let left = max.saturating_sub(self.bytes.len());
            let kept = match is_section(&self.bytes[line..line + at]) {
                true => length.min(self.section_bytes as u64),
                false => length,
            };
            if kept > left as u64 || self.literals.len() == MAX_LITERALS {
                return Err(Error::new(Code::Protocol, format!("a literal of {length} bytes")));
            }
            let start = self.bytes.len();
            stream.read_exact(&mut self.bytes, kept as usize).await?;
            stream.skip(length - kept).await?;
            line = self.bytes.len();
            self.literals.push(Literal { start, end: line, is_cut: kept < length });
            stream.read_line(&mut self.bytes, max - line).await?;
        }
        Ok(())
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where in it a value stands that was read of it and has its bytes.
    pub(super) fn place(&self, value: &[u8]) -> Range<usize> {
        let start = (value.as_ptr() as usize).saturating_sub(self.bytes.as_ptr() as usize);
        start..start + value.len()
    }

    /// Takes a part of it away, in the memory that it was read to; nothing where there is no such part. The rest is gone.
    pub(super) fn take(&mut self, part: Range<usize>) -> Vec<u8> {
        self.literals.clear();
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(part.end);
        bytes.drain(..part.start.min(bytes.len()));
        bytes
    }

    /// After the `* ` of an untagged response; `None` for others.
    pub(super) fn data(&self) -> Option<Cursor<'_>> {
        let cursor = Cursor { bytes: &self.bytes, at: 2, literals: self.literals.iter().peekable(), is_cut: false };
        self.bytes.starts_with(b"* ").then_some(cursor)
    }

    /// What a FETCH says; `None` for another response.
    pub(super) fn fetch(&self) -> Option<Cursor<'_>> {
        let mut data = self.data()?;
        data.space();
        data.number()?;
        data.space();
        let is_fetch = data.atom().eq_ignore_ascii_case(b"FETCH");
        data.space();
        is_fetch.then_some(data)
    }

    /// The first UID that stands outside of strings, for a response that cannot be read whole.
    pub(super) fn uid(&self) -> Option<u32> {
        let mut cursor = self.data()?;
        loop {
            match cursor.peek()? {
                b'\r' | b'\n' => return None,
                b'"' => drop(cursor.string()?),
                b'{' if cursor.literal().is_some() => {}
                b' ' | b'(' | b')' | b'[' | b']' | b'{' => cursor.at += 1,
                _ => {
                    if cursor.atom().eq_ignore_ascii_case(b"UID") {
                        cursor.space();
                        return cursor.uid();
                    }
                }
            }
        }
    }
}

/// Reads values of a response from where it stands. A method gives `None` for what is not there, and then the response
/// as a whole cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    literals: Peekable<slice::Iter<'a, Literal>>,
    /// Whether a literal that was read is not all of it.
    pub(super) is_cut: bool,
}

impl<'a> Cursor<'a> {
    /// The byte that comes.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Whatever is left, to the end of the line it stands in.
    pub(super) fn rest(&self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let line = memchr(b'\n', rest).map_or(rest, |end| &rest[..end]);
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    /// Whether the response ends here.
    pub(super) fn is_end(&self) -> bool {
        matches!(self.bytes.get(self.at..), None | Some([] | [b'\n'] | [b'\r', b'\n']))
    }

    /// Passes over spaces; some servers write two where one belongs, or one where none does.
    pub(super) fn space(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// Passes over so many bytes of [`Self::rest`].
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Passes over this byte if it comes.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let comes = self.peek() == Some(byte);
        self.at += usize::from(comes);
        comes
    }

    /// What goes on until something that separates; may be empty. A quotation mark may stand in it: servers do that.
    pub(super) fn atom(&mut self) -> &'a [u8] {
        self.until(|byte| matches!(byte, b' ' | b'(' | b')' | b'\r' | b'\n'))
    }

    /// The name of a FETCH item: an atom that ends at a section.
    pub(super) fn item(&mut self) -> &'a [u8] {
        self.until(|byte| matches!(byte, b' ' | b'(' | b')' | b'[' | b'\r' | b'\n'))
    }

    fn until(&mut self, ends: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// A number, of as many digits as there are; one that is too large is the largest.
    pub(super) fn number(&mut self) -> Option<u64> {
        number(self.until(|byte| !byte.is_ascii_digit()))
    }

    /// A unique identifier.
    pub(super) fn uid(&mut self) -> Option<u32> {
        self.number().and_then(|number| u32::try_from(number).ok()).filter(|uid| *uid != 0)
    }

    /// A string: quoted, as a literal, or an atom. The inner `None` is NIL, which servers write where a string is due.
    pub(super) fn string(&mut self) -> Option<Option<Cow<'a, [u8]>>> {
        match self.peek()? {
            b'"' => return self.quoted().map(Some),
            b'{' | b'~' => {
                if let Some(bytes) = self.literal() {
                    return Some(Some(bytes.into()));
                }
            }
            _ => {}
        }
        match self.atom() {
            b"" => None,
            atom if atom.eq_ignore_ascii_case(b"NIL") => Some(None),
            atom => Some(Some(atom.into())),
        }
    }

    fn quoted(&mut self) -> Option<Cow<'a, [u8]>> {
        self.at += 1;
        let mut whole = Cow::Borrowed(self.until(|byte| matches!(byte, b'"' | b'\\' | b'\r' | b'\n')));
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(whole);
                }
                b'\\' => {
                    let escaped = *self.bytes.get(self.at + 1)?;
                    if matches!(escaped, b'\r' | b'\n') {
                        return None;
                    }
                    self.at += 2;
                    // Others than these two are not to be escaped; who does it means what stands there.
                    if !matches!(escaped, b'"' | b'\\') {
                        whole.to_mut().push(b'\\');
                    }
                    whole.to_mut().push(escaped);
                    let more = self.until(|byte| matches!(byte, b'"' | b'\\' | b'\r' | b'\n'));
                    whole.to_mut().extend_from_slice(more);
                }
                _ => return None,
            }
        }
    }

    /// One that begins here; where none does, nothing is passed over.
    fn literal(&mut self) -> Option<&'a [u8]> {
        // One that was passed over within something else is behind.
        while self.literals.next_if(|literal| literal.start <= self.at).is_some() {}
        let literal = **self.literals.peek()?;
        // Its digits alone are read, not all that stands before it: a response may have braces by the million.
        let announced = self.bytes.get(self.at..literal.start)?;
        let announced = announced.strip_prefix(b"~").unwrap_or(announced).strip_prefix(b"{")?;
        let digits = announced.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(announced.len());
        if !matches!(&announced[digits..], b"}\r\n" | b"}\n" | b"+}\r\n" | b"+}\n") {
            return None;
        }
        self.literals.next();
        self.at = literal.end;
        self.is_cut |= literal.is_cut;
        self.bytes.get(literal.start..literal.end)
    }

    /// What stands in the brackets of a section, and what part of it is meant.
    pub(super) fn section(&mut self) -> Option<&'a [u8]> {
        if !self.take(b'[') {
            return None;
        }
        let start = self.at;
        loop {
            // A line goes on only behind a literal.
            self.at += memchr3(b']', b'"', b'{', self.bytes.get(self.at..)?)?;
            match self.peek()? {
                b']' => break,
                b'"' => drop(self.quoted()?),
                b'{' if self.literal().is_some() => {}
                _ => self.at += 1,
            }
        }
        let section = self.bytes.get(start..self.at)?;
        self.at += 1;
        if self.take(b'<') {
            self.number()?;
            if !self.take(b'>') {
                return None;
            }
        }
        Some(section)
    }

    /// Each value of a list in parentheses, read by `each`. NIL is a list without any.
    pub(super) fn list(&mut self, mut each: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        if !self.take(b'(') {
            return self.atom().eq_ignore_ascii_case(b"NIL").then_some(());
        }
        loop {
            self.space();
            if self.take(b')') {
                return Some(());
            }
            let before = self.at;
            each(self)?;
            // Nothing is no value, and would be read for ever.
            if self.at == before {
                return None;
            }
        }
    }

    /// Passes over a value of any kind.
    pub(super) fn skip(&mut self) -> Option<()> {
        let mut depth = 0;
        loop {
            self.space();
            match self.peek()? {
                b'(' if depth < MAX_DEPTH => {
                    self.at += 1;
                    depth += 1;
                }
                b'(' => return None,
                b')' if depth > 0 => {
                    self.at += 1;
                    depth -= 1;
                }
                _ => drop(self.string()?),
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// What a status response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Ok,
    No,
    Bad,
    Bye,
    PreAuth,
}

/// What a status response begins with.
pub(super) const CONDITIONS: [(&str, Condition); 5] = [
    ("OK", Condition::Ok),
    ("NO", Condition::No),
    ("BAD", Condition::Bad),
    ("BYE", Condition::Bye),
    ("PREAUTH", Condition::PreAuth),
];

/// Whether a line begins a response with data, not with a status.
pub(super) fn is_data(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"* ") else { return false };
    let word = rest.split(|byte| matches!(byte, b' ' | b'\r' | b'\n')).next().unwrap_or_default();
    !CONDITIONS.iter().any(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether the literal after it is a part of a message, by the bracket or the offset before it.
fn is_section(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let line = line.strip_suffix(b"~").unwrap_or(line).trim_ascii_end();
    line.ends_with(b"]") || line.ends_with(b">")
}

/// Where in a line the `{n}` at its end begins, and the bytes that follow it.
pub(super) fn announced_literal(line: &[u8]) -> Option<(usize, u64)> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let at = line.iter().rposition(|byte| *byte == b'{')?;
    let digits = &line[at + 1..];
    number(digits.strip_suffix(b"+").unwrap_or(digits)).map(|length| (at, length))
}

/// Of digits alone. What does not fit is more than anything that is allowed.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_announced_at_the_end_of_a_line() {
        for (line, expected) in [
            ("* LIST () {5}\r\n", Some(5)),
            ("{0}\n", Some(0)),
            ("~{5+}\r\n", Some(5)),
            ("{4294967296}\r\n", Some(1 << 32)),
            ("{99999999999999999999}\r\n", Some(u64::MAX)),
            ("{5} \r\n", None),
            ("{5}", None),
            ("{}\r\n", None),
            ("{+}\r\n", None),
            ("{-5}\r\n", None),
            ("{5\r\n", None),
            ("5}\r\n", None),
        ] {
            assert_eq!(announced_literal(line.as_bytes()).map(|(_, length)| length), expected, "{line:?}");
        }
    }
}

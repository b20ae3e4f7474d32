//! The parts of a message, and where each lies in it. The library's own is for messages of honest people: it decodes all
//! parts at once, follows messages in messages without an end, and a part whose boundary is missing costs it the rest.
//! This one goes over the bytes once, whatever is in them.

use std::ops::Range;

use memchr::memchr;

use super::Fields;
use super::head::Head;

/// Parts of a message, those that hold others included. The largest of honest ones have some hundreds.
pub(crate) const MAX_PARTS: usize = 10_000;

/// Of the heads of all parts. What else there is may be a body, but no head that is worth its reading.
const MAX_HEAD_BYTES: usize = 4 * 1024 * 1024;

/// A message in its parts.
pub(crate) struct Parts<'a> {
    /// In the order in which they begin; the first is the message itself.
    pub(crate) all: Vec<Part<'a>>,
    /// Whether each part that holds others was taken apart, and the last of them ended.
    pub(crate) is_whole: bool,
    /// Whether there are more parts than these.
    pub(crate) is_cut: bool,
}

pub(crate) struct Part<'a> {
    pub(crate) head: Head<'a>,
    /// Whose part it is: one of those before.
    pub(crate) parent: Option<usize>,
    /// Where its body lies, as it is written.
    pub(crate) body: Range<usize>,
    /// Whether what follows are its parts.
    pub(crate) is_opened: bool,
    /// Whether it holds parts that were not looked for, so deep does it lie.
    pub(crate) is_too_deep: bool,
}

impl<'a> Parts<'a> {
    /// Takes the body that begins there apart, parts in parts down to this depth. What lies deeper is a part as a whole.
    pub(crate) fn of(raw: &'a [u8], start: usize, head: Head<'a>, max_depth: usize) -> Self {
        let mut all = vec![Part { head, parent: None, body: start..raw.len(), is_opened: false, is_too_deep: false }];
        let (mut open, mut heads, mut is_whole) = (Vec::new(), 0, true);
        let mut is_cut = false;
        // The part that is being read; none between the end of one and the next delimiter.
        let mut last = Some(0);
        is_whole &= begin(&mut all, 0, &mut open, max_depth);
        let mut at = start;
        while !open.is_empty() && at < raw.len() {
            let line = line_at(raw, at);
            let Some((level, is_end)) = delimiter(&raw[line.clone()], &open, &all) else {
                at = line.end;
                continue;
            };
            let end = before_line_end(raw, line.start);
            for index in open[level + 1..].iter().copied().chain(last) {
                all[index].body.end = end.max(all[index].body.start);
            }
            open.truncate(level + 1);
            at = line.end;
            if is_end {
                if let Some(index) = open.pop() {
                    all[index].body.end = line.end;
                }
                last = None;
                continue;
            }
            if all.len() == MAX_PARTS || heads > MAX_HEAD_BYTES {
                is_cut = true;
                break;
            }
            let parent = open[level];
            let head = head_at(raw, at, |line| delimiter(line, &open, &all).is_some());
            heads += head.fields.len();
            let fields = Fields::of(&raw[head.fields]);
            let head_of_part = Head::of(&fields, Some(&all[parent].head));
            all[parent].is_opened = true;
            all.push(Part {
                head: head_of_part,
                parent: Some(parent),
                body: head.body..raw.len(),
                is_opened: false,
                is_too_deep: false,
            });
            let index = all.len() - 1;
            last = Some(index);
            is_whole &= begin(&mut all, index, &mut open, max_depth);
            at = head.body;
        }
        is_whole &= open.is_empty();
        Self { all, is_whole, is_cut }
    }

    /// Those that hold no others.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Part<'a>> {
        self.all.iter().filter(|part| !part.is_opened)
    }

    pub(crate) fn parent(&self, part: &Part<'_>) -> Option<&Head<'a>> {
        part.parent.and_then(|parent| self.all.get(parent)).map(|parent| &parent.head)
    }
}

/// Expects parts of this one, if it is to have any. False where it is not taken apart all the same.
fn begin(all: &mut [Part<'_>], index: usize, open: &mut Vec<usize>, max_depth: usize) -> bool {
    let part = &mut all[index];
    if part.head.delimiter().is_none() {
        return !part.head.is_multipart();
    }
    part.is_too_deep = open.len() >= max_depth;
    if !part.is_too_deep {
        open.push(index);
    }
    !part.is_too_deep
}

/// Which of the open parts this line delimits, the innermost first, and whether it ends it.
fn delimiter(line: &[u8], open: &[usize], all: &[Part<'_>]) -> Option<(usize, bool)> {
    if !line.starts_with(b"--") {
        return None;
    }
    open.iter().enumerate().rev().find_map(|(level, index)| {
        let rest = line.strip_prefix(all[*index].head.delimiter()?)?;
        // Another's may begin alike.
        let is_end = rest.starts_with(b"--");
        let rest = if is_end { &rest[2..] } else { rest };
        rest.first().is_none_or(u8::is_ascii_whitespace).then_some((level, is_end))
    })
}

/// Where a head lies and its body begins.
pub(crate) struct Place {
    pub(crate) fields: Range<usize>,
    pub(crate) body: usize,
}

/// The head that begins here: up to its empty line, or one that ends it before.
pub(crate) fn head_at(raw: &[u8], start: usize, ends: impl Fn(&[u8]) -> bool) -> Place {
    let mut at = start;
    while at < raw.len() {
        let line = line_at(raw, at);
        match &raw[line.clone()] {
            b"\n" | b"\r\n" => return Place { fields: start..at, body: line.end },
            text if ends(text) => break,
            _ => at = line.end,
        }
    }
    Place { fields: start..at, body: at }
}

/// With its end.
fn line_at(raw: &[u8], start: usize) -> Range<usize> {
    let rest = &raw[start..];
    start..memchr(b'\n', rest).map_or(raw.len(), |end| start + end + 1)
}

/// The end of a line belongs to the delimiter that follows it.
fn before_line_end(raw: &[u8], line: usize) -> usize {
    match &raw[..line] {
        [.., b'\r', b'\n'] => line - 2,
        [.., b'\n'] => line - 1,
        _ => line,
    }
}

//! Encoded words (RFC 2047), as far as the library needs help.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::memchr_iter;

/// With padding or without, whatever is in the bits that are left.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// An encoded word. 75 bytes are allowed; some programs write a subject in one.
const MAX_WORD_BYTES: usize = 4096;

/// What begins like an encoded word and is none, in one field. The library looks for the end of each to the end of the
/// field, and some of it finds: words with spaces in them, say.
const MAX_BROKEN_WORDS: usize = 100;

/// Puts words that follow each other into one: many programs cut a text into words in the midst of a character, which
/// is not to be, and is then read word by word as no character at all. Adds the padding of base64, without which the
/// library loses the end. What has too many broken words ends there.
pub(super) fn joined(text: &[u8]) -> Cow<'_, [u8]> {
    let mut text = text;
    let mut out = Vec::new();
    let (mut at, mut copied, mut broken) = (0, 0, 0);
    while let Some(start) = find(&text[at..], b"=?").map(|found| at + found) {
        let Some(first) = Word::read(&text[start..]) else {
            at = start + 2;
            broken += 1;
            if broken > MAX_BROKEN_WORDS {
                text = &text[..start];
                break;
            }
            continue;
        };
        at = start + first.length;
        let mut next = first.next(&text[at..]);
        let charset = std::str::from_utf8(first.charset).unwrap_or_default();
        let is_foreign = super::is_foreign(charset);
        let mut is_other = is_foreign || first.is_base64 && first.data.len() % 4 != 0;
        // Most are alone, and as the library wants them.
        if next.is_none() && !is_other {
            continue;
        }
        let Some(mut bytes) = first.decoded() else { continue };
        while let Some((more, length)) = next.and_then(|(word, length)| word.decoded().map(|more| (more, length))) {
            bytes.extend(more);
            at += length;
            is_other = true;
            next = first.next(&text[at..]);
        }
        if is_other {
            out.extend_from_slice(&text[copied..start]);
            let (charset, bytes) = match is_foreign {
                true => ("utf-8".as_bytes(), super::decoded(&bytes, Some(charset)).into_owned().into_bytes()),
                false => (first.charset, bytes),
            };
            out.extend_from_slice(b"=?");
            out.extend_from_slice(charset);
            out.extend_from_slice(b"?B?");
            out.extend_from_slice(BASE64.encode(bytes).as_bytes());
            out.extend_from_slice(b"?=");
            copied = at;
        }
    }
    if copied == 0 {
        return text.into();
    }
    out.extend_from_slice(&text[copied..]);
    out.into()
}

/// A text whose words are UTF-8 and as they should be, decoded; those that follow each other are one, and behind one comes a space.
/// `None` where something is for the library, and where a byte of what is not encoded is none of `is_plain`.
pub(super) fn decoded(text: &str, is_plain: impl Fn(u8) -> bool) -> Option<Cow<'_, str>> {
    let plain = |text: &str| text.bytes().all(&is_plain);
    let mut start = match find(text.as_bytes(), b"=?") {
        None => return plain(text).then_some(text.into()),
        Some(start) => start,
    };
    let (mut rest, mut out) = (text, Vec::with_capacity(text.len()));
    loop {
        let (before, words) = rest.split_at(start);
        // In a name, what begins within a word is not encoded.
        if !plain(before) || !before.is_empty() && !before.ends_with([' ', '\t']) {
            return None;
        }
        out.extend_from_slice(before.as_bytes());
        rest = words;
        let mut next = Word::read(rest.as_bytes()).map(|word| (word.length, word));
        next.as_ref()?;
        while let Some((end, word)) = next {
            word.decode_to(&mut out)?;
            rest = &rest[end..];
            next = word.next(rest.as_bytes()).map(|(next, end)| (end, next));
        }
        if !rest.is_empty() && !rest.starts_with(' ') {
            out.push(b' ');
        }
        match find(rest.as_bytes(), b"=?") {
            Some(found) => start = found,
            None => break,
        }
    }
    out.extend_from_slice(rest.as_bytes());
    // A character that one word begins and no other ends is none.
    String::from_utf8(out).ok().filter(|_| plain(rest)).map(Cow::Owned)
}

struct Word<'a> {
    /// With the language, if there is one.
    charset: &'a [u8],
    is_base64: bool,
    data: &'a [u8],
    length: usize,
}

impl<'a> Word<'a> {
    /// One that begins here and is as it should be.
    fn read(text: &'a [u8]) -> Option<Self> {
        let text = &text[..text.len().min(MAX_WORD_BYTES)];
        let rest = text.strip_prefix(b"=?")?;
        let charset = &rest[..rest.iter().position(|byte| *byte == b'?' || byte.is_ascii_whitespace())?];
        let (is_base64, data) = match rest.get(charset.len()..)? {
            [b'?', b'b' | b'B', b'?', data @ ..] => (true, data),
            [b'?', b'q' | b'Q', b'?', data @ ..] => (false, data),
            _ => return None,
        };
        let data = &data[..data.iter().position(|byte| *byte == b'?' || byte.is_ascii_whitespace())?];
        let length = b"=?".len() + charset.len() + b"?b?".len() + data.len() + b"?=".len();
        let is_whole = !charset.is_empty() && text.get(length - 2..length) == Some(b"?=");
        is_whole.then_some(Self { charset, is_base64, data, length })
    }

    /// The one that follows at once in the same charset, and where it ends in what follows.
    fn next<'b>(&self, after: &'b [u8]) -> Option<(Word<'b>, usize)> {
        let spaces = after.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let next = Word::read(&after[spaces..]).filter(|next| next.charset.eq_ignore_ascii_case(self.charset))?;
        let end = spaces + next.length;
        Some((next, end))
    }

    /// Adds what it says, if it is UTF-8 and nothing about it is odd.
    fn decode_to(&self, bytes: &mut Vec<u8>) -> Option<()> {
        if self.data.is_empty() || !self.charset.eq_ignore_ascii_case(b"utf-8") {
            return None;
        }
        if self.is_base64 {
            return BASE64.decode_vec(self.data, bytes).ok();
        }
        let length = bytes.len();
        quoted_printable(self.data, true, |byte| bytes.push(byte));
        // Each equals sign and what it stands before have become one byte.
        (self.data.len() - (bytes.len() - length) == 2 * memchr_iter(b'=', self.data).count()).then_some(())
    }

    fn decoded(&self) -> Option<Vec<u8>> {
        if self.is_base64 { BASE64.decode(self.data).ok() } else { Some(from_quoted_printable(self.data, true)) }
    }
}

/// Decodes what can be and leaves the rest as it is. `is_word`: an underscore is a space.
pub(super) fn from_quoted_printable(text: &[u8], is_word: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    quoted_printable(text, is_word, |byte| bytes.push(byte));
    bytes
}

/// The same, byte by byte.
pub(super) fn quoted_printable(text: &[u8], is_word: bool, mut push: impl FnMut(u8)) {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'=', [high, low, after @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                push(digit(*high).unwrap_or_default() << 4 | digit(*low).unwrap_or_default());
                rest = after;
            }
            (b'=', _) => match line_end(after) {
                Some(after) => rest = after,
                None => push(b'='),
            },
            (b'_', _) if is_word => push(b' '),
            _ => push(*first),
        }
    }
}

/// What follows the end of a line, before which servers on the way may have added spaces. Where a text was cut is an
/// end, too.
fn line_end(text: &[u8]) -> Option<&[u8]> {
    let spaces = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match &text[spaces..] {
        [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] => Some(after),
        [] | [b'\r'] => Some(&[]),
        _ => None,
    }
}

/// Where these bytes begin.
pub(super) fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let (first, rest) = what.split_first()?;
    memchr_iter(*first, text).find(|at| text[at + 1..].starts_with(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{line, next_field, raw_text, read_text, text_of_library};
    use super::*;

    #[test]
    fn words_of_one_charset_become_one() {
        for (text, expected) in [
            ("=?utf-8?Q?a?= =?UTF-8?b?Yg==?=", "=?utf-8?B?YWI=?="),
            ("x =?utf-8?B?4pyT4p?=\r\n =?utf-8?B?nJM?= y", "x =?utf-8?B?4pyT4pyT?= y"),
            ("=?utf-8?Q?=E2?= =?utf-8?Q?=9C?= =?utf-8?Q?=93?=", "=?utf-8?B?4pyT?="),
            ("=?utf-8?Q?a?= =?utf-8?Q?b?= c =?utf-8?Q?d?= =?utf-8?Q?e?=", "=?utf-8?B?YWI=?= c =?utf-8?B?ZGU=?="),
            ("=?utf-8?B?YQ?=", "=?utf-8?B?YQ==?="),
            // Nothing to be done.
            ("=?utf-8?Q?a?= =?iso-8859-1?Q?b?=", "=?utf-8?Q?a?= =?iso-8859-1?Q?b?="),
            ("=?utf-8?Q?a?= b =?utf-8?Q?c?=", "=?utf-8?Q?a?= b =?utf-8?Q?c?="),
            ("=?utf-8?Q?a?= =?utf-8?B?!?=", "=?utf-8?Q?a?= =?utf-8?B?!?="),
            ("=?utf-8?X?a?= =?=??Q?a?= =?u?Q?a b?= =?", "=?utf-8?X?a?= =?=??Q?a?= =?u?Q?a b?= =?"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(&joined(text.as_bytes())), expected);
        }
    }

    #[test]
    fn no_character_between_words_is_read_here_in_another_way() {
        let characters: Vec<char> = ('\0'..='\x7f').collect();
        for (first, second) in characters.iter().flat_map(|first| characters.iter().map(move |second| (first, second)))
        {
            for text in [
                format!("=?utf-8?q?a?={first}{second}=?utf-8?q?b?="),
                format!("a{first}{second}b=?utf-8?q?c?= d"),
                format!("=?utf-8?q?a?= b{first}{second}=?utf-8?q?c?="),
                format!("=?utf-8?q?{first}{second}?= a"),
                format!("a{first}{second}b"),
            ] {
                if next_field(text.as_bytes()).is_some_and(|(_, after)| after.is_empty()) {
                    let raw = raw_text(text.as_bytes(), None);
                    assert_eq!(read_text(text.as_bytes(), None), text_of_library(&raw), "{text:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_decoded_here_is_what_the_library_decodes(
            text in "(=\\?(utf|UTF)-8\\?([qQ]\\?([a-zA-Z0-9_]|=[A-F0-9]{2}|=[C-D][0-9]=[89AB][0-9]|.){0,8}|[bB]\\?[a-zA-Z0-9+/]{0,8}={0,2})\\?=|[ -~]{1,3}|\r\n |[ \t]|\\PC){0,6}",
        ) {
            if let Some(found) = decoded(text.trim_ascii(), |_| true) {
                prop_assert_eq!(line(found, 998), text_of_library(&text), "{}", text);
            }
        }
    }

    #[test]
    fn quoted_printable_is_decoded_as_far_as_it_goes() {
        for (text, is_word, expected) in [
            ("a=3Db=\r\nc=\nd_=e4", false, b"a=bcd_\xe4".as_slice()),
            ("a_b=5F", true, b"a b_"),
            ("=ZZ=4", false, b"=ZZ=4"),
            ("a=", false, b"a"),
            ("a=\r", false, b"a"),
        ] {
            assert_eq!(from_quoted_printable(text.as_bytes(), is_word), expected, "{text}");
        }
    }
}

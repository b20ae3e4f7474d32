//! Addresses as nearly all mail writes them, read without the library: it asks for memory ten times a field, and these are most
//! of what a first synchronisation reads. What they come to is the same.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::{Addresses, read_address, words};

/// Addresses with commas between them: `a@b.c`, or a name and `<a@b.c>`. `None` where anything in it is for the library.
pub(super) fn read(field: &str) -> Option<Addresses<'_>> {
    let mut addresses = Addresses::new();
    let mut rest = field.trim_ascii();
    while !rest.is_empty() {
        let (name, after) = read_name(rest)?;
        let (address, after) = match name {
            Some(_) => split_at(after, b'>')?,
            None => after.split_at(memchr(b',', after.as_bytes()).unwrap_or(after.len())),
        };
        let address = address.trim_ascii_end();
        if !address.bytes().all(is_of_address) || memchr(b'@', address.as_bytes()).is_none() {
            return None;
        }
        addresses.extend(read_address(name, Some(address)));
        rest = match after.trim_ascii_start() {
            "" => "",
            after => Some(after.strip_prefix(',')?.trim_ascii_start()).filter(|rest| !rest.is_empty())?,
        };
    }
    Some(addresses)
}

/// What stands before an angle bracket, decoded, and what follows that; no name where there is no bracket.
fn read_name(text: &str) -> Option<(Option<Cow<'_, str>>, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (name, after) = split_at(quoted, b'"')?;
        let is_plain =
            name.bytes().all(|byte| is_of_name(byte) || matches!(byte, b',' | b'@' | b'(' | b')' | b':' | b';'));
        return is_plain.then_some((Some(name.into()), after.trim_ascii_start().strip_prefix('<')?));
    }
    match memchr2(b'<', b',', text.as_bytes()) {
        Some(at) if text.as_bytes().get(at) == Some(&b'<') => {
            Some((Some(words::decoded(text[..at].trim_ascii_end(), is_of_name)?), &text[at + 1..]))
        }
        _ => Some((None, text)),
    }
}

/// What stands before it, and behind it.
fn split_at(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = memchr(byte, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'.' | b'-' | b'_' | b'\'' | b'&' | b'/' | b'+' | b'!')
}

fn is_of_address(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'.' | b'-' | b'_' | b'+' | b'=' | b'\'' | b'&' | b'/' | b'!')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{addresses_of_library, next_field};
    use super::*;

    #[test]
    fn most_are_read_here_and_the_others_are_the_librarys() {
        for (text, expected) in [
            (" Jane Doe <jane@example.com>\r\n", Some(1)),
            ("jane@example.com", Some(1)),
            ("<jane@example.com>", Some(1)),
            ("\"Doe, Jane (Sales)\" <jane@example.com>, bounce+x=y.example@example.com,\r\n\t'Z' <z@x>", Some(3)),
            ("=?UTF-8?Q?J=C3=BCrgen?= =?utf-8?B?IE0u?= Maier <j@example.com>", Some(1)),
            ("", Some(0)),
            ("Friends: a@x, b@x;", None),
            ("a@x (Jane)", None),
            ("J\u{fc}rgen <j@x>", None),
            ("=?iso-8859-1?Q?J=FCrgen?= <j@x>", None),
            ("=?utf-8?Q?=FC?= <j@x>", None),
            ("\"Jane \\\"J\\\" Doe\" <j@x>", None),
            ("jane", None),
            ("Jane <jane>", None),
            ("Jane <j@x", None),
            ("a@x, , b@x", None),
            ("a@x,", None),
            ("a@x b@x", None),
        ] {
            assert_eq!(read(text).map(|found| found.len()), expected, "{text}");
        }
    }

    #[test]
    fn no_character_is_read_here_in_another_way() {
        let characters: Vec<char> = ('\0'..='\x7f').collect();
        for (first, second) in characters.iter().flat_map(|first| characters.iter().map(move |second| (first, second)))
        {
            for text in [
                format!("a{first}{second}b <x@y>, c@d"),
                format!("\"a{first}{second}b\" <x@y>, c@d"),
                format!("a <x{first}{second}@y>, c@d"),
                format!("x@y{first}{second}, c@d"),
                format!("x{first}{second}y@z"),
                format!("=?utf-8?q?{first}{second}?= <x@y>"),
                format!("a{first}{second}=?utf-8?q?b?=c <x@y>"),
                format!("=?utf-8?q?b?={first}{second}c=?utf-8?q?d?= <x@y>"),
            ] {
                let is_field = next_field(text.as_bytes()).is_some_and(|(_, after)| after.is_empty());
                if let Some(found) = read(&text).filter(|_| is_field) {
                    assert_eq!(found, addresses_of_library(&text), "{text:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_here_is_what_the_library_reads(
            text in "( ?(=\\?(utf|UTF)-8\\?[qQbB]\\?[a-zA-Z0-9=_]{0,8}(=\\?|\\?=)|\"[ -~]{0,3}\"|[a-z ]?[(),:;<>@\\[\\]\\\\=?*'\"|~][a-z ]?|[a-zA-Z. -]{1,6})? ?(<[a-z]{0,3}@[a-z.]{1,3}>|<[ -~]{0,4}>|[a-z]{1,4}@[a-z.]{1,5})(, ?|\r\n )?){0,3}",
        ) {
            if let Some(found) = read(&text) {
                prop_assert_eq!(found, addresses_of_library(&text), "{}", text);
            }
        }
    }
}

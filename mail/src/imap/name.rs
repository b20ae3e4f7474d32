//! Names of folders: as they are sent, and as they are read.

use std::char::{REPLACEMENT_CHARACTER, decode_utf16};

use base64::Engine;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Unused bits need not be zero: old servers leave them as they were.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &IMAP_MUTF7,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// As a quoted string. `None` for what no string can hold. What is not ASCII goes as it came: who writes such names
/// reads them as well.
pub(super) fn quoted(name: &[u8]) -> Option<Vec<u8>> {
    if name.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return None;
    }
    let mut quoted = Vec::with_capacity(name.len() + 2);
    quoted.push(b'"');
    for byte in name {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    Some(quoted)
}

/// A name to be shown: of modified UTF-7 (RFC 3501 section 5.1.3) where it is that, or UTF-8, without control
/// characters. Whether UTF-8 was agreed on does not matter: what is modified UTF-7 by chance is very rare, and servers
/// that go on with it are not.
pub(super) fn decoded(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let decoded = if text.is_ascii() { from_utf7(&text) } else { None };
    let text = decoded.unwrap_or_else(|| text.into_owned());
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars().map(|c| if c.is_control() { REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `None` for what is not modified UTF-7 from its start to its end.
fn from_utf7(name: &str) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    let mut pieces = name.split('&');
    text.push_str(pieces.next()?);
    for piece in pieces {
        let (shifted, rest) = piece.split_once('-')?;
        if shifted.is_empty() {
            text.push('&');
        } else {
            let bytes = BASE64.decode(shifted).ok()?;
            let units = bytes.as_chunks::<2>();
            if !units.1.is_empty() {
                return None;
            }
            for c in decode_utf16(units.0.iter().map(|unit| u16::from_be_bytes(*unit))) {
                text.push(c.ok()?);
            }
        }
        text.push_str(rest);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_in_either_encoding() {
        for (name, expected) in [
            (b"Entw&APw-rfe".as_slice(), "Entwürfe"),
            (b"&U,BTFw-/&ZeVnLIqe-", "台北/日本語"),
            (b"&2D3eAA-", "😀"),
            (b"R&-D", "R&D"),
            // Not modified UTF-7 at all.
            (b"R&D", "R&D"),
            (b"R&D-x", "R&D-x"),
            (b"a&!!!-", "a&!!!-"),
            (b"&2D0-", "&2D0-"),
            ("Entwürfe &APw-".as_bytes(), "Entwürfe &APw-"),
            (b"Entw\xfcrfe", "Entw\u{fffd}rfe"),
            (b"a\tb&AAo-c\x7f", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            (b"", ""),
        ] {
            assert_eq!(decoded(name), expected);
        }
    }

    #[test]
    fn what_no_string_can_hold_is_not_sent() {
        assert_eq!(quoted(b"a \"b\" \\ \xff").unwrap(), b"\"a \\\"b\\\" \\\\ \xff\"");
        for name in [b"a\r".as_slice(), b"\nb", b"c\0"] {
            assert_eq!(quoted(name), None);
        }
    }

    proptest! {
        #[test]
        fn any_name_can_be_shown(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(!decoded(&name).contains(char::is_control));
        }

        #[test]
        fn modified_utf7_says_what_it_was_made_of(text in "[^\\p{C}]{0,20}") {
            let mut name = String::new();
            for c in text.chars() {
                match c {
                    '&' => name.push_str("&-"),
                    ' '..='~' => name.push(c),
                    _ => {
                        let units = c.encode_utf16(&mut [0; 2]).iter().flat_map(|unit| unit.to_be_bytes()).collect::<Vec<_>>();
                        name.push_str(&format!("&{}-", BASE64.encode(units).trim_end_matches('=')));
                    }
                }
            }
            prop_assert_eq!(decoded(name.as_bytes()), text);
        }
    }
}

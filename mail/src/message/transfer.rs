//! How the bytes of a part are written (RFC 2045 section 6).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::words::quoted_printable;

/// How a part is written. What else there is (uuencode, say) is left as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Encoding {
    /// As it is.
    #[default]
    Identity,
    /// In letters and digits.
    Base64,
    /// In signs of ASCII.
    QuotedPrintable,
}

impl Encoding {
    /// As a field names it.
    pub(super) fn read(value: &[u8]) -> Self {
        let end = value.iter().position(|byte| matches!(byte, b';' | b'(')).unwrap_or(value.len());
        let name = value[..end].trim_ascii();
        if name.eq_ignore_ascii_case(b"base64") {
            Self::Base64
        } else if name.eq_ignore_ascii_case(b"quoted-printable") {
            Self::QuotedPrintable
        } else {
            Self::Identity
        }
    }

    /// What was written; as far as it goes where it was cut, and without what does not belong there.
    pub fn decode(self, written: &[u8]) -> Cow<'_, [u8]> {
        if self == Self::Identity {
            return written.into();
        }
        let mut bytes = Vec::with_capacity(match self {
            Self::Base64 => written.len() / 4 * 3 + 3,
            Self::Identity | Self::QuotedPrintable => written.len(),
        });
        self.each(written, |more| bytes.extend_from_slice(more));
        bytes.into()
    }

    /// How much [`Self::decode`] would return, without its memory.
    pub fn decoded_len(self, written: &[u8]) -> usize {
        let mut length = 0;
        self.each(written, |more| length += more.len());
        length
    }

    fn each(self, written: &[u8], mut push: impl FnMut(&[u8])) {
        match self {
            Self::Identity => push(written),
            Self::Base64 => base64(written, push),
            Self::QuotedPrintable => quoted_printable(written, false, |byte| push(&[byte])),
        }
    }
}

/// Some programs write one text after the other, each with its end, and mail scanners add lines of their own.
fn base64(written: &[u8], mut push: impl FnMut(&[u8])) {
    let (mut bits, mut digits) = (0_u32, 0_u8);
    let rest = |bits: u32, digits: u8| match digits {
        2 => ([(bits >> 4) as u8, 0], 1),
        3 => ([(bits >> 10) as u8, (bits >> 2) as u8], 2),
        _ => ([0, 0], 0),
    };
    for byte in written {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                let (bytes, length) = rest(bits, digits);
                push(&bytes[..length]);
                digits = 0;
                continue;
            }
            _ => continue,
        };
        bits = bits << 6 | u32::from(digit);
        digits += 1;
        if digits == 4 {
            push(&[(bits >> 16) as u8, (bits >> 8) as u8, bits as u8]);
            digits = 0;
        }
    }
    let (bytes, length) = rest(bits, digits);
    push(&bytes[..length]);
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use proptest::prelude::*;

    use super::*;
    use crate::message::words::BASE64;

    #[test]
    fn what_was_cut_or_mixed_up_is_decoded_as_far_as_it_goes() {
        for (encoding, written, expected) in [
            (Encoding::Base64, "R3L8\r\n 32U=\r\n", b"Gr\xfc\xdfe".as_slice()),
            (Encoding::Base64, "R3L", b"Gr"),
            (Encoding::Base64, "R3L8 3", b"Gr\xfc"),
            (Encoding::Base64, "R3I=\r\nR3I=", b"GrGr"),
            (Encoding::Base64, "R3!!\0L8\u{e4}", b"Gr\xfc"),
            (Encoding::Base64, "====", b""),
            (Encoding::Base64, "", b""),
            (Encoding::QuotedPrintable, "a=3D=\r\nb= \t\r\nc=\n=C3=BC =4", b"a=bc\xc3\xbc =4"),
            (Encoding::Identity, "a=3D\r\n", b"a=3D\r\n"),
        ] {
            assert_eq!(*encoding.decode(written.as_bytes()), *expected, "{written}");
            assert_eq!(encoding.decoded_len(written.as_bytes()), expected.len(), "{written}");
        }
        for (value, expected) in [
            ("base64", Encoding::Base64),
            (" BASE64 (x)\r\n", Encoding::Base64),
            ("Quoted-Printable; x=y", Encoding::QuotedPrintable),
            ("8bit", Encoding::Identity),
            ("x-uuencode", Encoding::Identity),
            ("", Encoding::Identity),
        ] {
            assert_eq!(Encoding::read(value.as_bytes()), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let written = BASE64.encode(&bytes);
            prop_assert_eq!(Encoding::Base64.decode(written.as_bytes()), bytes.clone());
            let written: String = bytes.iter().map(|byte| format!("={byte:02X}")).collect();
            prop_assert_eq!(Encoding::QuotedPrintable.decode(written.as_bytes()), bytes);
        }

        #[test]
        fn the_length_is_that_of_what_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for encoding in [Encoding::Identity, Encoding::Base64, Encoding::QuotedPrintable] {
                prop_assert_eq!(encoding.decoded_len(&bytes), encoding.decode(&bytes).len());
            }
        }
    }
}

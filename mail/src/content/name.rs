//! Names and types of attachments as a reader's machine can bear them.

/// Bytes of a name: what file systems have.
const MAX_BYTES: usize = 255;

/// Bytes of the end after the last point that is kept when a name is cut.
const MAX_EXTENSION_BYTES: usize = 16;

/// Characters of a type and of its subtype (RFC 6838 section 4.2).
const MAX_TYPE_CHARS: usize = 127;

/// The type of what says none that could be.
const ANY: &str = "application/octet-stream";

/// A name without path, as the sender gave it.
pub(super) fn cleaned(name: &str) -> Option<String> {
    let name: String = name
        .chars()
        .filter(|c| !c.is_control() && !turns(*c))
        .map(|c| if matches!(c, '/' | '\\' | '\u{2215}' | '\u{2044}') { '_' } else { c })
        .collect();
    // A point at the begin hides a file, and one at the end is not seen by some systems.
    let name = name.trim_matches(|c: char| c == '.' || c.is_whitespace());
    (!name.is_empty()).then(|| cut(name))
}

/// What turns the text around, so that `exe.txt` is read where `txt.exe` stands.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn cut(name: &str) -> String {
    if name.len() <= MAX_BYTES {
        return name.to_owned();
    }
    let extension = name.rfind('.').map(|at| &name[at..]).filter(|end| end.len() <= MAX_EXTENSION_BYTES);
    let extension = extension.unwrap_or_default();
    let stem = &name[..name.floor_char_boundary(MAX_BYTES - extension.len())];
    stem.trim_end().to_owned() + extension
}

/// For one that has none.
pub(super) fn made_up(id: usize, content_type: &str) -> String {
    let (stem, extension) = match content_type {
        "message/rfc822" => ("message", "eml"),
        "text/calendar" => ("invitation", "ics"),
        "text/plain" | "message/delivery-status" | "text/rfc822-headers" => ("attachment", "txt"),
        "text/html" => ("attachment", "html"),
        "text/csv" => ("attachment", "csv"),
        "text/vcard" | "text/x-vcard" => ("contact", "vcf"),
        "image/png" => ("image", "png"),
        "image/jpeg" | "image/jpg" => ("image", "jpg"),
        "image/gif" => ("image", "gif"),
        "image/webp" => ("image", "webp"),
        "application/pdf" => ("attachment", "pdf"),
        "application/zip" => ("attachment", "zip"),
        "application/pgp-signature" => ("signature", "asc"),
        "application/pkcs7-signature" | "application/x-pkcs7-signature" => ("signature", "p7s"),
        "application/pkcs7-mime" | "application/x-pkcs7-mime" => ("message", "p7m"),
        "application/ms-tnef" => ("winmail", "dat"),
        _ => ("attachment", "bin"),
    };
    format!("{stem}-{id}.{extension}")
}

/// The type as it is written, in small letters, if it could be one. Outlook's own file has many.
pub(super) fn content_type(written: &str, name: Option<&str>) -> String {
    let is_outlook = name.is_some_and(|name| name.eq_ignore_ascii_case("winmail.dat"));
    if is_outlook || matches!(written, "application/vnd.ms-tnef" | "application/x-tnef") {
        return "application/ms-tnef".to_owned();
    }
    let is_token = |text: &str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !text.is_empty() && text.len() <= MAX_TYPE_CHARS && text.bytes().all(is_known)
    };
    match written.split_once('/') {
        Some((kind, subtype)) if is_token(kind) && is_token(subtype) => written.to_owned(),
        _ => ANY.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_path_and_do_not_turn_around() {
        let long = format!("{}.tar.gz", "\u{fc}".repeat(200));
        let cut = format!("{}.gz", "\u{fc}".repeat(126));
        for (name, expected) in [
            ("report.pdf", Some("report.pdf")),
            ("../../etc/passwd", Some("_.._etc_passwd")),
            ("C:\\temp\\a.txt", Some("C:_temp_a.txt")),
            ("invoice\u{202e}fdp.exe", Some("invoicefdp.exe")),
            ("a\0b\r\nc\u{85}d.txt", Some("abcd.txt")),
            (".bashrc", Some("bashrc")),
            ("a.exe. . ", Some("a.exe")),
            ("\u{4f60}\u{597d} \u{1f600}.txt", Some("\u{4f60}\u{597d} \u{1f600}.txt")),
            (&long, Some(&cut)),
            ("..", None),
            (" \u{200e}", None),
        ] {
            assert_eq!(cleaned(name).as_deref(), expected, "{name}");
        }
        let long = cleaned(&"x".repeat(1000)).unwrap_or_default();
        assert_eq!(long.len(), MAX_BYTES);
    }

    #[test]
    fn types_are_two_words_or_none() {
        let long = format!("a/{}", "b".repeat(128));
        for (written, name, expected) in [
            ("application/pdf", None, "application/pdf"),
            ("image/svg+xml", None, "image/svg+xml"),
            ("application/octet-stream", Some("WinMail.dat"), "application/ms-tnef"),
            ("application/vnd.ms-tnef", None, "application/ms-tnef"),
            ("text", None, ANY),
            ("text/", None, ANY),
            ("a/b/c", None, ANY),
            ("a/b\r\nx: y", None, ANY),
            ("a/b;c", None, ANY),
            ("a/\u{fc}", None, ANY),
            (&long, None, ANY),
        ] {
            assert_eq!(content_type(written, name), expected, "{written}");
        }
    }
}

//! The begin of a body: its first words, and whether something hangs on it. The library is for whole messages, and takes
//! what was cut in the midst of a part for no part at all.

use mail_parser::decoders::html::html_to_text;

use super::head::Head;
use super::parts::{Part, Parts};
use super::{MAX_PREVIEW_CHARS, body_text, guarded, line};

/// What is looked at of a body. More is not fetched; a server may have sent more.
const MAX_BYTES: usize = 16 * 1024;

/// Parts in parts. A signed message with a picture in its text and a file has four.
const MAX_DEPTH: usize = 5;

/// What a body shows.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) has_attachments: bool,
    pub(super) preview: Option<String>,
}

/// Looks at the begin of a body, which may be empty.
pub(super) fn look(head: Head<'_>, text: &[u8]) -> Seen {
    let text = &text[..text.len().min(MAX_BYTES)];
    if text.is_empty() {
        let has_attachments = head.is_attachment(None) || head.is("multipart", "mixed");
        return Seen { has_attachments, preview: None };
    }
    let parts = Parts::of(text, 0, head, MAX_DEPTH);
    let (mut has_attachment, mut plain, mut html) = (false, None, None);
    for part in parts.leaves() {
        let head = &part.head;
        if head.is_attachment(parts.parent(part)) {
            has_attachment = true;
        } else if head.is("text", "plain") && plain.is_none() {
            plain = Some(with_words(part, text, |words| line(words, MAX_PREVIEW_CHARS).into_owned()));
        } else if head.is("text", "html") && html.is_none() {
            let words = with_words(part, text, |words| guarded(|| html_to_text(words)));
            html = words.map(|words| line(words, MAX_PREVIEW_CHARS).into_owned());
        }
    }
    // With parts of several kinds there are several things, unless all of them were seen.
    let is_mixed = parts.all.first().is_some_and(|part| part.head.is("multipart", "mixed"));
    let preview = [plain, html].into_iter().flatten().find(|preview| !preview.is_empty());
    Seen { has_attachments: has_attachment || is_mixed && !parts.is_whole, preview }
}

fn with_words<T>(part: &Part<'_>, text: &[u8], read: impl FnOnce(&str) -> T) -> T {
    let bytes = part.head.encoding.decode(&text[part.body.clone()]);
    let text = body_text(&bytes, part.head.charset());
    // What a charset cannot decode is most often the last character, cut.
    read(text.trim_end_matches(char::REPLACEMENT_CHARACTER))
}

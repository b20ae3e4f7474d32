use mail_parser::{Addr, MessageParser, MimeHeaders};
use proptest::prelude::*;

use super::*;

/// All bytes, with those of the attachments.
fn written(composed: &Composed, files: &[Vec<u8>]) -> Vec<u8> {
    let mut message = Vec::new();
    for piece in &composed.pieces {
        match piece {
            Piece::Bytes(bytes) => message.extend_from_slice(bytes),
            Piece::Attachment(place) => {
                let mut lines = Base64Lines::default();
                // In pieces of any size.
                for piece in files[*place].chunks(1000) {
                    message.extend(lines.push(piece));
                }
                message.extend(lines.finish());
            }
        }
    }
    assert_eq!(message.len() as u64, composed.size);
    message
}

fn jane<'a>() -> Content<'a> {
    Content {
        id: "0199",
        message_id: "0199@example.com",
        date: 1_767_225_600,
        from: vec![Mailbox { name: Some("Jane Doe"), address: "jane@example.com" }],
        to: vec![Mailbox { name: None, address: "john@example.com" }],
        subject: "Lunch?",
        text: Some("At noon."),
        ..Content::default()
    }
}

#[test]
fn a_plain_message_is_as_a_person_would_write_it() {
    let composed = compose(&jane(), For::Readers);
    let expected = "Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nFrom: \"Jane Doe\" <jane@example.com>\r\n\
                    To: <john@example.com>\r\nMessage-ID: <0199@example.com>\r\nSubject: Lunch?\r\nMIME-Version: 1.0\r\n\
                    Content-Type: text/plain; charset=\"utf-8\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nAt noon.\r\n";
    assert_eq!(String::from_utf8(written(&composed, &[])).unwrap(), expected);
    assert!(!composed.needs_utf8);
}

#[test]
fn parts_nest_as_programs_expect_them() {
    let file = |filename, content_type, content_id, is_inline| Attachment {
        filename: Some(filename),
        content_type,
        content_id,
        is_inline,
        size: 3,
    };
    let content = Content {
        html: Some("<img src=cid:logo>"),
        attachments: vec![
            file("a.pdf", "application/pdf", None, false),
            file("logo.png", "image/png", Some("logo"), true),
            file("mail.eml", "message/rfc822", None, false),
        ],
        ..jane()
    };
    let bytes = written(&compose(&content, For::Readers), &[b"pdf".into(), b"png".into(), b"eml".into()]);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("Content-Type: ")).collect();
    let expected = [
        "multipart/mixed; boundary=\"=_0199_1\"",
        "multipart/alternative; boundary=\"=_0199_2\"",
        "text/plain; charset=\"utf-8\"",
        "multipart/related; type=\"text/html\"; boundary=\"=_0199_3\"",
        "text/html; charset=\"utf-8\"",
        "image/png; name=\"logo.png\"",
        "application/pdf; name=\"a.pdf\"",
        "application/octet-stream; name=\"mail.eml\"",
    ];
    assert_eq!(types, expected);
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert_eq!((message.text_body_count(), message.html_body_count(), message.attachment_count()), (1, 1, 3));
    // Without HTML there is nothing that it could be shown in.
    let content = Content { html: None, ..content };
    let text =
        String::from_utf8(written(&compose(&content, For::Readers), &[b"pdf".into(), b"png".into(), b"eml".into()]));
    assert!(!text.unwrap().contains("multipart/related"));
}

#[test]
fn who_was_written_to_in_secret_is_in_the_senders_copy_alone() {
    let bcc = vec![Mailbox { name: None, address: "boss@example.com" }];
    let content = Content { to: Vec::new(), bcc, ..jane() };
    let readers = String::from_utf8(written(&compose(&content, For::Readers), &[])).unwrap();
    let senders = String::from_utf8(written(&compose(&content, For::Sender), &[])).unwrap();
    assert!(!readers.contains("boss") && readers.contains("To: undisclosed-recipients:;\r\n"));
    assert_eq!(senders.replace("Bcc: <boss@example.com>\r\n", ""), readers);
}

#[test]
fn a_conversation_is_named_within_bounds_and_without_what_is_no_id() {
    let ids: Vec<String> = (0..50).map(|n| format!("{n}@example.com")).collect();
    let mut references: Vec<&str> = ids.iter().map(String::as_str).collect();
    references.extend(["a b", "<x>", "", "x\r\nBcc: y", "ü@x"]);
    let content = Content { in_reply_to: Some("x\r\nBcc: y"), references, ..jane() };
    let text = String::from_utf8(written(&compose(&content, For::Readers), &[])).unwrap();
    assert!(!text.contains("Bcc") && !text.contains("In-Reply-To"));
    let message = MessageParser::default().parse(&text).unwrap();
    let mail_parser::HeaderValue::TextList(found) = message.references() else { panic!("{text}") };
    let expected: Vec<_> = ids[..1].iter().chain(&ids[31..]).map(String::as_str).collect();
    assert_eq!(found.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), expected);
    let content = Content { in_reply_to: Some("7@example.com"), references: vec!["7@example.com"], ..jane() };
    let text = String::from_utf8(written(&compose(&content, For::Readers), &[])).unwrap();
    assert!(text.contains("In-Reply-To: <7@example.com>\r\nReferences: <7@example.com>\r\n"), "{text}");
}

/// As long as our own may be, and as those that the endpoint takes.
#[test]
fn the_longest_ids_are_written_and_looked_for() {
    let message_id = format!("{}@{}", "0".repeat(36), "a".repeat(253));
    let content_id = "c".repeat(255);
    let logo = Attachment {
        filename: None,
        content_type: "image/png",
        content_id: Some(&content_id),
        is_inline: true,
        size: 3,
    };
    let content = Content { message_id: &message_id, attachments: vec![logo], ..jane() };
    let text = String::from_utf8(written(&compose(&content, For::Readers), &[b"png".to_vec()])).unwrap();
    assert!(text.contains(&format!("<{message_id}>\r\n")) && text.contains(&format!("<{content_id}>\r\n")), "{text}");
    assert!(is_id(&message_id));
}

#[test]
fn a_domain_of_any_script_goes_as_an_a_label_and_a_name_before_it_needs_utf8() {
    let to = |address| Content { to: vec![Mailbox { name: None, address }], ..jane() };
    let composed = compose(&to("jane@bücher.example"), For::Readers);
    let text = String::from_utf8(written(&composed, &[])).unwrap();
    assert!(!composed.needs_utf8 && text.contains("To: <jane@xn--bcher-kva.example>\r\n"), "{text}");
    let composed = compose(&to("jürgen@bücher.example"), For::Readers);
    let text = String::from_utf8(written(&composed, &[])).unwrap();
    assert!(composed.needs_utf8 && text.contains("To: <jürgen@xn--bcher-kva.example>\r\n"), "{text}");
    let content = Content { bcc: vec![Mailbox { name: None, address: "jürgen@example.com" }], ..jane() };
    assert!(!compose(&content, For::Readers).needs_utf8, "its header says nothing of him");
}

#[test]
fn nothing_breaks_a_header_open_even_if_nobody_has_looked() {
    let evil = "x\r\nBcc: evil@example.com\r\n\r\nbody";
    let mailbox = Mailbox { name: Some(evil), address: "a@example.com\r\nBcc: evil@example.com" };
    let content = Content {
        from: vec![mailbox],
        to: vec![mailbox],
        reply_to: vec![mailbox],
        subject: evil,
        in_reply_to: Some(evil),
        references: vec![evil],
        attachments: vec![Attachment {
            filename: Some(evil),
            content_type: "a/b",
            content_id: Some(evil),
            is_inline: false,
            size: 0,
        }],
        ..jane()
    };
    let bytes = written(&compose(&content, For::Readers), &[Vec::new()]);
    let message = MessageParser::default().parse(&bytes).unwrap();
    assert!(message.bcc().is_none(), "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(message.body_text(0).unwrap().trim(), "At noon.");
}

#[test]
fn what_looks_like_an_encoded_word_stays_what_it_is() {
    for text in ["=?utf-8?Q?x?=", "Re: =?utf-8?B?eA==?= is how x is written, =?and so on for longer than a line is?="] {
        let mailbox = |name| Mailbox { name, address: "jane@example.com" };
        let people =
            vec![mailbox(Some(text)), mailbox(Some("Jürgen, of a name that is as long as a word")), mailbox(None)];
        let content = Content {
            from: people.clone(),
            to: people.clone(),
            cc: people.clone(),
            bcc: people.clone(),
            reply_to: people.clone(),
            subject: text,
            attachments: vec![Attachment {
                filename: Some(text),
                content_type: "application/pdf",
                content_id: None,
                is_inline: false,
                size: 0,
            }],
            ..jane()
        };
        let message = written(&compose(&content, For::Sender), &[Vec::new()]);
        let shown = String::from_utf8_lossy(&message);
        let parsed = MessageParser::default().parse(&message).unwrap();
        assert_eq!(parsed.subject(), Some(text), "{shown}");
        let people: Vec<_> =
            people.iter().map(|asked| (asked.name.map(str::to_owned), asked.address.to_owned())).collect();
        for list in [parsed.from(), parsed.to(), parsed.cc(), parsed.bcc(), parsed.reply_to()] {
            assert_eq!(read_names(list), people, "{shown}");
        }
        assert_eq!(parsed.attachment(0).unwrap().attachment_name(), Some(text), "{shown}");
        let opened = crate::content::Opened::read(&message, str::to_owned);
        assert_eq!(opened.content.attachments[0].filename, text, "{shown}");
        let most = |line: &str| if line.contains("=?") { 76 } else { 78 };
        assert!(shown.split("\r\n").all(|line| line.len() <= most(line)), "{shown}");
    }
}

/// Of many scripts, with what mail treats as special.
fn words() -> impl Strategy<Value = String> {
    let letters = prop::sample::select(vec![
        "a",
        "Z",
        "7",
        " ",
        ".",
        ",",
        ";",
        ":",
        "\"",
        "\\",
        "(",
        ")",
        "<",
        ">",
        "@",
        "=",
        "?",
        "_",
        "%",
        "*",
        "'",
        "é",
        "e\u{301}",
        "ß",
        "Ж",
        "א",
        "سّ",
        "क्षि",
        "த்",
        "ที่",
        "漢",
        "漢\u{3000}字",
        "a\u{a0}b",
        "か\u{3099}",
        "한",
        "😀",
        "👩\u{200d}💻",
        "=?utf-8?Q?x?=",
        "averylongwordwithoutanyspaceinit",
    ]);
    let words = prop::collection::vec(letters, 1..60).prop_map(|letters| letters.concat());
    // As the endpoint takes them: what stands at the ends, or is more than one space, is nobody's name.
    words
        .prop_map(|text| text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        .prop_filter("empty", |text| !text.is_empty())
}

fn text() -> impl Strategy<Value = String> {
    let lines = prop_oneof![
        Just(".".to_owned()),
        Just("..".to_owned()),
        Just(".dot".to_owned()),
        Just("From here".to_owned()),
        Just("--=_0199_1".to_owned()),
        Just(String::new()),
        Just("trailing ".to_owned()),
        Just("tab\t".to_owned()),
        Just("x".repeat(2000)),
        Just("ü".repeat(700)),
        words(),
    ];
    let ends = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    prop::collection::vec((lines, ends), 0..12)
        .prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect())
}

fn normal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fn mailbox() -> impl Strategy<Value = (Option<String>, String)> {
    let addresses = prop::sample::select(vec!["jane@example.com", "\"j d\"@example.com", "o'neil+x@sub.example.org"]);
    (prop::option::of(words()), addresses.prop_map(str::to_owned))
}

fn read_names(list: Option<&mail_parser::Address<'_>>) -> Vec<(Option<String>, String)> {
    let read = |address: &Addr<'_>| {
        (address.name.as_deref().map(str::to_owned), address.address.as_deref().unwrap_or_default().to_owned())
    };
    list.map(|list| list.iter().map(read).collect()).unwrap_or_default()
}

/// The parser leaves the folds of a text that has an escaped quote.
#[test]
fn a_folded_name_with_a_quote_is_read_as_it_was_asked_for() {
    let word = "averylongwordwithoutanyspaceinit";
    let name = format!("{word} {word}\"");
    let attachments = vec![Attachment {
        filename: Some(&name),
        content_type: "application/pdf",
        content_id: None,
        is_inline: false,
        size: 0,
    }];
    let message = written(&compose(&Content { attachments, ..jane() }, For::Readers), &[Vec::new()]);
    assert!(message.windows(4).any(|four| four == b"\r\n a"), "it is folded");
    let opened = crate::content::Opened::read(&message, str::to_owned);
    assert_eq!(opened.content.attachments[0].filename, name);
}

proptest! {
    #[test]
    fn a_message_reads_back_as_it_was_asked_for(
        to in prop::collection::vec(mailbox(), 1..6),
        subject in words(),
        plain in prop::option::of(text()),
        html in prop::option::of(text()),
        files in prop::collection::vec((prop::option::of(words()), prop::collection::vec(any::<u8>(), 0..400), any::<bool>()), 0..4),
    ) {
        let mailboxes = |list: &'static str| -> Vec<Mailbox<'static>> { vec![Mailbox { name: None, address: list }] };
        let content = Content {
            from: mailboxes("me@example.com"),
            to: to.iter().map(|(name, address)| Mailbox { name: name.as_deref(), address }).collect(),
            subject: &subject,
            text: plain.as_deref(),
            html: html.as_deref(),
            attachments: files.iter().map(|(name, bytes, is_inline)| Attachment {
                filename: name.as_deref(),
                content_type: "application/octet-stream",
                content_id: is_inline.then_some("part@x"),
                is_inline: *is_inline,
                size: bytes.len() as u64,
            }).collect(),
            ..jane()
        };
        let bytes: Vec<_> = files.iter().map(|(_, bytes, _)| bytes.clone()).collect();
        let composed = compose(&content, For::Readers);
        let message = written(&composed, &bytes);
        prop_assert_eq!(&written(&compose(&content, For::Readers), &bytes), &message, "each time the same");
        prop_assert!(message.is_ascii() && message.ends_with(b"\r\n"));
        for line in message.split(|byte| *byte == b'\n') {
            prop_assert!(line.len() <= 999 && !line.strip_suffix(b"\r").unwrap_or(line).contains(&b'\r'));
        }
        prop_assert_eq!(message.windows(1).filter(|c| c == b"\n").count(), message.windows(2).filter(|c| c == b"\r\n").count());
        let parsed = MessageParser::default().parse(&message).unwrap();
        prop_assert_eq!(parsed.subject(), Some(subject.as_str()));
        let read = read_names(parsed.to());
        // Quotes are part of how such an address is written.
        let unquoted = |list: Vec<(Option<String>, String)>| -> Vec<_> {
            list.into_iter().map(|(name, address)| (name, address.replace('"', ""))).collect()
        };
        prop_assert_eq!(unquoted(read), unquoted(to));
        let same = |read: Option<std::borrow::Cow<'_, str>>, asked: &str| {
            normal(&read.unwrap_or_default()).trim_end_matches('\n') == normal(asked).trim_end_matches('\n')
        };
        if let Some(plain) = &plain {
            prop_assert!(same(parsed.body_text(0), plain), "{:?}", parsed.body_text(0));
        }
        if let Some(html) = &html {
            prop_assert!(same(parsed.body_html(0), html), "{:?}", parsed.body_html(0));
        }
        // Those that belong to the HTML come first.
        let is_related = |file: &&(Option<String>, Vec<u8>, bool)| file.2 && html.is_some();
        let expected: Vec<_> = files.iter().filter(is_related).chain(files.iter().filter(|file| !is_related(file))).collect();
        let found: Vec<_> = parsed.attachments().collect();
        prop_assert_eq!(found.len(), expected.len());
        for (found, (name, bytes, _)) in found.into_iter().zip(expected) {
            prop_assert_eq!(found.contents(), bytes.as_slice());
            // The parser leaves the folds of a name that has an escaped quote.
            let unfolded = found.attachment_name().map(|name| name.replace("\r\n", ""));
            prop_assert_eq!(&unfolded, name);
        }
    }

    #[test]
    fn what_lines_will_be_is_known_before(bytes in prop::collection::vec(any::<u8>(), 0..2000), pieces in 1usize..200) {
        let mut lines = Base64Lines::default();
        let mut all: Vec<u8> = bytes.chunks(pieces).flat_map(|piece| lines.push(piece)).collect();
        all.extend(lines.finish());
        prop_assert_eq!(all.len() as u64, Base64Lines::size_of(bytes.len() as u64));
        prop_assert!(all.split(|byte| *byte == b'\n').all(|line| line.len() <= 77));
    }
}

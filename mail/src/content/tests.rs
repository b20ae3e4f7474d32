use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::message::MAX_PARTS;
use crate::testing::open_message;

fn open(message: impl AsRef<[u8]>) -> Opened {
    open_message(message.as_ref())
}

fn text(message: impl AsRef<[u8]>) -> String {
    open(message).content.text.unwrap_or_default()
}

/// Name, type and bytes of what hangs on it.
fn attached(message: &[u8]) -> Vec<(String, String, Vec<u8>)> {
    let opened = open(message);
    let all = opened.content.attachments.iter().map(|attachment| {
        let (_, place) = opened.attachment(&attachment.id).unwrap();
        let range = place.range();
        let bytes = place.decode(&message[range.start as usize..range.end as usize]);
        assert_eq!(bytes.len() as u64, attachment.size);
        (attachment.filename.clone(), attachment.content_type.clone(), bytes)
    });
    all.collect()
}

fn is_attached(message: &[u8], expected: &[(&str, &str, &[u8])]) {
    let attached = attached(message);
    let attached: Vec<_> = attached.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_slice())).collect();
    assert_eq!(attached, expected);
}

#[test]
fn a_message_with_everything_is_opened() {
    let message = "From: a@example.com\r\nContent-Type: multipart/mixed; boundary=m\r\n\r\npreamble\r\n\
        --m\r\nContent-Type: multipart/related; boundary=r\r\n\r\n\
        --r\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
        --a\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe=\r\n!\r\n\
        --a\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Gr\u{fc}\u{df}e <img src=\"cid:logo%40x\"><img src=\"https://e.example/p.gif\"></p>\r\n\
        --a--\r\n\
        --r\r\nContent-Type: image/png; name=logo.png\r\nContent-ID: <logo@x>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n\
        --r--\r\nepilogue\r\n\
        --m\r\nContent-Type: APPLICATION/PDF\r\nContent-Disposition: attachment; filename*=utf-8''%E2%9C%93.pdf\r\n\r\n%PDF\r\n\r\n\
        --m--\r\n";
    let opened = open(message);
    let content = Content {
        text: Some("Gr\u{fc}\u{df}e!".into()),
        html: Some(
            "<p>Gr\u{fc}\u{df}e <img src=\"/attachments/5\"><img data-remote-src=\"https://e.example/p.gif\"></p>"
                .into(),
        ),
        has_remote_content: true,
        is_truncated: false,
        attachments: vec![
            Attachment {
                id: "5".into(),
                filename: "logo.png".into(),
                content_type: "image/png".into(),
                size: 4,
                content_id: Some("logo@x".into()),
                is_inline: true,
            },
            Attachment {
                id: "6".into(),
                filename: "\u{2713}.pdf".into(),
                content_type: "application/pdf".into(),
                size: 6,
                content_id: None,
                is_inline: false,
            },
        ],
    };
    assert_eq!(opened.content, content);
    assert_eq!((opened.preview.as_deref(), opened.has_attachments), (Some("Gr\u{fc}\u{df}e!"), true));
    is_attached(
        message.as_bytes(),
        &[("logo.png", "image/png", b"\x89PNG"), ("\u{2713}.pdf", "application/pdf", b"%PDF\r\n")],
    );
    // With the ends of lines of a file.
    let short = open(message.replace("\r\n", "\n"));
    assert_eq!(short.content.html, content.html);

    // What is stored comes back, and what is answered has the names of the contract and no place.
    let stored = serde_json::to_string(&opened).unwrap();
    assert_eq!(serde_json::from_str::<Opened>(&stored).unwrap(), opened);
    let answered = serde_json::to_value(&opened.content).unwrap();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&answered), ["attachments", "hasRemoteContent", "html", "isTruncated", "text"]);
    let expected = ["contentId", "contentType", "filename", "id", "isInline", "size"];
    assert_eq!(names(&answered["attachments"][0]), expected);
}

#[test]
fn text_is_read_whatever_its_charset_is_called() {
    let plain = |charset: &str| format!("Content-Type: text/plain; charset={charset}\r\n\r\n");
    for (charset, body, expected) in [
        ("utf-8", "Gr\u{fc}\u{df}e".as_bytes(), "Gr\u{fc}\u{df}e"),
        ("utf8", b"Gr\xc3\xbc", "Gr\u{fc}"),
        // Declared wrongly.
        ("us-ascii", "Gr\u{fc}\u{df}e \u{2713}".as_bytes(), "Gr\u{fc}\u{df}e \u{2713}"),
        ("iso-8859-1", "Gr\u{fc}\u{df}e \u{2713}".as_bytes(), "Gr\u{fc}\u{df}e \u{2713}"),
        ("us-ascii", b"Gr\xfc\xdfe \x80\x93", "Gr\u{fc}\u{df}e \u{20ac}\u{201c}"),
        ("iso-8859-1", b"\x93a\x94 \x96 \x80", "\u{201c}a\u{201d} \u{2013} \u{20ac}"),
        ("utf-8", b"Gr\xfc\xdfe", "Gr\u{fc}\u{df}e"),
        ("utf-8", b"Gr\xc3\xbc\xc3\x9fe \xff", "Gr\u{fc}\u{df}e \u{fffd}"),
        ("us-ascii", b"\x1b$BF|K\\8l\x1b(B", "\u{65e5}\u{672c}\u{8a9e}"),
        ("gb2312", b"\x95\x32\x82\x36\xc4\xe3", "\u{20000}\u{4f60}"),
        ("x-nobody", b"Gr\xfc\xdfe", "Gr\u{fc}\u{df}e"),
        ("x-nobody", "Gr\u{fc}".as_bytes(), "Gr\u{fc}"),
        // Declared rightly.
        ("iso-2022-jp", b"\x1b$BF|K\\8l\x1b(B", "\u{65e5}\u{672c}\u{8a9e}"),
        ("iso-2022-jp-ms", b"\x1b$BF|K\\8l\x1b(B", "\u{65e5}\u{672c}\u{8a9e}"),
        ("cp932", b"\x93\xfa\x96{\x8c\xea", "\u{65e5}\u{672c}\u{8a9e}"),
        ("euc-jp", b"\xc6\xfc\xcb\xdc\xb8\xec", "\u{65e5}\u{672c}\u{8a9e}"),
        ("gb18030", b"\xc4\xe3\xba\xc3", "\u{4f60}\u{597d}"),
        ("GBK", b"\xc4\xe3\xba\xc3", "\u{4f60}\u{597d}"),
        ("big5", b"\xa7A\xa6n", "\u{4f60}\u{597d}"),
        ("ks_c_5601-1987", b"\xbe\xc8\xb3\xe7", "\u{c548}\u{b155}"),
        ("cp949", b"\xbe\xc8\xb3\xe7", "\u{c548}\u{b155}"),
        ("iso-2022-kr", b"\x1b$)C\x0e>H3g\x0f!", "\u{c548}\u{b155}!"),
        ("iso-2022-kr", b"Hello", "Hello"),
        ("iso-2022-kr", b"\x1b$)C\x0e>H\nHello", "\u{c548}\nHello"),
        ("hz-gb-2312", b"a~~ ~\r\n~{Dc:C~}.", "a~ \u{4f60}\u{597d}."),
        ("iso-2022-cn", b"Hello", "Hello"),
        ("koi8-r", b"\xf0\xd2\xc9\xd7\xc5\xd4", "\u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}"),
        ("windows-1251", b"\xcf\xf0\xe8", "\u{41f}\u{440}\u{438}"),
        ("iso-8859-8-i", b"\xf9\xec\xe5\xed", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}"),
        ("iso-8859-15", b"\xa4", "\u{20ac}"),
        ("utf-7", b"Gr+APwA3w-e.", "Gr\u{fc}\u{df}e."),
        ("utf-16", b"\xff\xfea\0b\0", "ab"),
        ("utf-16be", b"\0a\0b", "ab"),
        ("utf-8", b"\xef\xbb\xbfa", "a"),
        // Never seen.
        ("utf-8", b"a\0b\x07c\x7fd\te\r\nf\rg", "abcd\te\nf\ng"),
        ("\"\"", b"a", "a"),
        ("\u{fc}", b"a", "a"),
    ] {
        assert_eq!(text([plain(charset).as_bytes(), body].concat()), expected, "{charset} {}", body.escape_ascii());
    }
    let html = b"Content-Type: text/html\r\n\r\n<meta http-equiv=Content-Type content='text/html; Charset=\"windows-1251\"'>\xcf\xf0\xe8";
    assert_eq!(open(html).content.html.unwrap(), "\u{41f}\u{440}\u{438}");
    assert_eq!(text(b"Content-Type: text/html\r\n\r\n<meta charset=utf-16>\xc3\xbc"), "\u{fc}");
}

#[test]
fn text_flows_where_it_says_so() {
    let flowed = "Content-Type: text/plain; format=Flowed\r\n\r\nHello \r\nyou\r\n> quo \r\n> ted\r\n-- \r\nme\r\n";
    assert_eq!(text(flowed), "Hello you\n> quo ted\n-- \nme\n");
    let delsp = "Content-Type: text/plain; format=flowed; delsp=yes\r\n\r\nHel \r\nlo\r\n";
    assert_eq!(text(delsp), "Hello\n");
    assert_eq!(text("Content-Type: text/plain\r\n\r\nHello \r\nyou\r\n"), "Hello \nyou\n");
}

#[test]
fn of_several_texts_the_right_ones_are_shown() {
    let multipart = |kind: &str, parts: &[&str]| {
        let parts: String = parts.iter().map(|part| format!("--b-{kind}\r\n{part}\r\n")).collect();
        format!("Content-Type: multipart/{kind}; boundary=b-{kind}\r\n\r\n{parts}--b-{kind}--\r\n")
    };
    let plain = |text: &str| format!("Content-Type: text/plain\r\n\r\n{text}");
    let html = |text: &str| format!("Content-Type: text/html\r\n\r\n{text}");
    let pdf = "Content-Type: application/pdf; name=a.pdf\r\n\r\n%PDF";
    let calendar = "Content-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR";
    let pre = |text: &str| format!("<div style=\"white-space:pre-wrap\">{text}</div>");
    for (message, text, html, names) in [
        (plain("a"), Some("a"), None, vec![]),
        (html("<b>a</b>"), Some("a"), Some("<b>a</b>".to_owned()), vec![]),
        (pdf.to_owned(), None, None, vec!["a.pdf"]),
        (multipart("mixed", &[&plain("a"), pdf, &plain("b")]), Some("a\nb"), None, vec!["a.pdf"]),
        (multipart("mixed", &[&html("<b>a"), &html("c")]), Some("a\nc"), Some("<b>a</b>c".to_owned()), vec![]),
        // A footer of a list.
        (
            multipart("mixed", &[&multipart("alternative", &[&plain("a"), &html("<i>a</i>")]), &plain("<f>")]),
            Some("a\n<f>"),
            Some("<i>a</i>".to_owned() + &pre("&lt;f&gt;")),
            vec![],
        ),
        (multipart("alternative", &[&html("<i>a</i>"), &plain("b")]), Some("b"), Some("<i>a</i>".to_owned()), vec![]),
        (
            multipart("alternative", &[&plain(" \r\n"), &html("<i>a</i>")]),
            Some("a"),
            Some("<i>a</i>".to_owned()),
            vec![],
        ),
        (
            multipart("alternative", &[&plain("a"), &html("b"), calendar]),
            Some("a"),
            Some("b".to_owned()),
            vec!["invitation-3.ics"],
        ),
        (
            multipart("alternative", &[&plain("a"), "Content-Type: text/x-amp-html\r\n\r\nx", &html("b")]),
            Some("a"),
            Some("b".to_owned()),
            vec![],
        ),
        // A file between two pieces of HTML, of which the text is one.
        (
            multipart("alternative", &[&plain("a"), &multipart("mixed", &[&html("b"), pdf, &html("c")])]),
            Some("a"),
            Some("bc".to_owned()),
            vec!["a.pdf"],
        ),
        (
            multipart("related", &[&html("a"), &html("b"), "Content-Type: image/gif\r\n\r\nGIF"]),
            Some("a"),
            Some("a".to_owned()),
            vec!["attachment-2.html", "image-3.gif"],
        ),
        (
            multipart("signed", &[&plain("a"), "Content-Type: application/pgp-signature\r\n\r\n-----"]),
            Some("a"),
            None,
            vec!["signature-2.asc"],
        ),
        (
            multipart(
                "encrypted",
                &[
                    "Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1",
                    "Content-Type: application/octet-stream\r\n\r\n--",
                ],
            ),
            None,
            None,
            vec!["attachment-1.bin", "attachment-2.bin"],
        ),
        (
            multipart("digest", &["Subject: x\r\n\r\nSubject: y\r\n\r\nz", "\r\nSubject: b\r\n\r\nc"]),
            None,
            None,
            vec!["message-1.eml", "message-2.eml"],
        ),
        (
            multipart("mixed", &[&plain("a"), "Content-Type: text/plain; name=b.txt\r\n\r\nb"]),
            Some("a"),
            None,
            vec!["b.txt"],
        ),
        ("Content-Type: text/plain; name=b.txt\r\n\r\nb".to_owned(), Some("b"), None, vec![]),
        (
            "Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nb".to_owned(),
            None,
            None,
            vec!["attachment-0.txt"],
        ),
        ("Content-Type: text/enriched\r\n\r\nb".to_owned(), Some("b"), None, vec![]),
        ("Content-Type: nonsense\r\n\r\nb".to_owned(), Some("b"), None, vec![]),
        // Not even a head; nothing at all.
        ("just some words\r\n\r\nand more".to_owned(), Some("just some words\n\nand more"), None, vec![]),
        (String::new(), Some(""), None, vec![]),
        ("Subject: a".to_owned(), Some(""), None, vec![]),
        ("\r\n\r\na".to_owned(), Some("\n\na"), None, vec![]),
    ] {
        let content = open(&message).content;
        let found: Vec<_> = content.attachments.iter().map(|attachment| attachment.filename.as_str()).collect();
        assert_eq!((content.text.as_deref(), content.html, found), (text, html, names), "{message}");
        assert!(!content.is_truncated);
    }
}

#[test]
fn what_hangs_on_a_message_is_what_was_sent() {
    let part = |head: &str, body: &[u8]| {
        let start = format!("Content-Type: multipart/mixed; boundary=\"b b\"\r\n\r\n--b b\r\n{head}\r\n\r\n");
        [start.as_bytes(), body, b"\r\n--b b--\r\n"].concat()
    };
    let nested = b"Content-Type: multipart/mixed; boundary=n\r\n\r\n--n\r\n\r\nx\r\n--n--\r\n";
    is_attached(&part("Content-Type: message/rfc822", nested), &[("message-1.eml", "message/rfc822", nested)]);
    let base64 = "Content-Type: image/png\r\nContent-Transfer-Encoding: base64";
    is_attached(&part(base64, b"iVBORw0K\r\nGg"), &[("image-1.png", "image/png", b"\x89PNG\r\n\x1a")]);
    is_attached(&part(base64, b"iVBO!Rw=\0=\r\n"), &[("image-1.png", "image/png", b"\x89PNG")]);
    let binary = b"\x00\xff\r\n--b\r\n--b bx\r\n\n";
    is_attached(
        &part("Content-Type: application/zip\r\nContent-Transfer-Encoding: BINARY", binary),
        &[("attachment-1.zip", "application/zip", binary)],
    );
    is_attached(
        &part("Content-Type: application/x\r\nContent-Transfer-Encoding: quoted-printable", b"a=00=\r\nb"),
        &[("attachment-1.bin", "application/x", b"a\0b")],
    );
    is_attached(
        &part("Content-Type: application/octet-stream; name=winmail.dat", b"\x78\x9f\x3e\x22"),
        &[("winmail.dat", "application/ms-tnef", b"\x78\x9f\x3e\x22")],
    );
    is_attached(
        &part("Content-Disposition: attachment; filename=\"..\\..\\a\u{202e}b.exe\"\r\nContent-Type: x", b"a"),
        &[("_.._ab.exe", "application/octet-stream", b"a")],
    );
    is_attached(&part("Content-Type: application/pdf", b""), &[("attachment-1.pdf", "application/pdf", b"")]);
    // A head that does not end; a boundary that never comes; an end that never comes.
    is_attached(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: a/b\r\n--b\r\nContent-Type: a/c\r\n\r\nx",
        &[("attachment-1.bin", "a/b", b""), ("attachment-2.bin", "a/c", b"x")],
    );
    for boundary in ["; boundary=b", ""] {
        let message = format!("Content-Type: multipart/mixed{boundary}\r\n\r\n--c\r\n\r\nwhat is left\r\n--c--\r\n");
        assert_eq!(text(message), "--c\n\nwhat is left\n--c--\n");
    }
    // The end of the inner one is missing.
    let message = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=bc\r\n\r\n\
        --bc\r\n\r\na\r\n--b\r\nContent-Type: a/b\r\n\r\nx\r\n--b--\r\n";
    assert_eq!(text(message), "a");
    is_attached(message.as_bytes(), &[("attachment-3.bin", "a/b", b"x")]);
}

#[test]
fn what_is_shown_in_its_place_says_so() {
    let message = |html: &str| {
        let image = |head: &str| format!("--b\r\nContent-Type: image/png; name=x.png\r\n{head}\r\n\r\nx\r\n");
        format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n{html}\r\n{}{}{}--b--\r\n",
            image("Content-ID: <a>"),
            image("Content-Disposition: inline"),
            image("Content-ID: b\r\nContent-Disposition: attachment"),
        )
    };
    let inline = |html: &str| -> Vec<bool> {
        open(message(html)).content.attachments.iter().map(|attachment| attachment.is_inline).collect()
    };
    assert_eq!(inline("x"), [false, true, false]);
    assert_eq!(inline("<img src=cid:a><img src='CID:b'>"), [true, true, true]);
    assert_eq!(inline("<img src=cid:c><a href='cid:a'>"), [false, true, false]);
}

#[test]
fn what_is_too_much_has_its_bounds() {
    let long = "\u{fc}".repeat(600_000);
    let plain = open(format!("Content-Type: text/plain; charset=utf-8\r\n\r\n{long}")).content;
    assert_eq!(plain.text.as_deref().map(str::len), Some(MAX_TEXT_BYTES));
    assert!(plain.is_truncated);
    let html =
        open(format!("Content-Type: text/html; charset=utf-8\r\n\r\n<p>{}", "<a href=tel:1>x".repeat(60_000))).content;
    let written = html.html.unwrap();
    assert!(written.len() <= MAX_HTML_BYTES && written.len() > MAX_HTML_BYTES / 4 && html.is_truncated);
    assert!(written.ends_with("</p>"));
    // Quotes take two bytes in JSON.
    assert!(serde_json::to_string(&html.text).unwrap().len() < 2 * MAX_TEXT_BYTES);

    // Ten thousand parts, and one more.
    for (number, is_truncated) in [(MAX_PARTS - 1, false), (MAX_PARTS, true)] {
        let parts = "--b\r\nContent-Type: application/pdf; name=file.pdf\r\n\r\nx\r\n".repeat(number);
        let message = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n");
        let opened = open(&message);
        assert_eq!((opened.content.attachments.len(), opened.content.is_truncated), (MAX_PARTS - 1, is_truncated));
        assert!(serde_json::to_string(&opened.content).unwrap().len() < MAX_LIST_BYTES);
    }
    let name = "\"".repeat(255);
    let parts = format!("--b\r\nContent-Type: a/b; name*=''{}\r\n\r\nx\r\n", "%22".repeat(255)).repeat(9000);
    let opened = open(format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n"));
    assert!(opened.content.is_truncated && opened.content.attachments[0].filename == name);
    assert!(serde_json::to_string(&opened.content).unwrap().len() < MAX_LIST_BYTES);

    // As deep as can be, and one deeper.
    let nested = |depth: usize| -> String {
        let open: String =
            (0..depth).map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}x\r\n\r\n--b{n}x\r\n")).collect();
        let close: String = (0..depth).rev().map(|n| format!("--b{n}x--\r\n")).collect();
        format!("{open}Content-Type: text/plain\r\n\r\ndeep\r\n{close}")
    };
    assert_eq!(text(nested(MAX_DEPTH)), "deep");
    let opened = open(nested(MAX_DEPTH + 1));
    assert_eq!(opened.content.text, None);
    assert_eq!(opened.content.attachments[0].content_type, "multipart/mixed");
    assert!(opened.has_attachments);
    open(nested(5000));
    // Messages in messages are one attachment.
    let opened = open("Content-Type: message/rfc822\r\n\r\n".repeat(1_000_000));
    assert_eq!(opened.content.attachments.len(), 1);
}

#[test]
fn what_is_made_to_take_long_does_not() {
    let many = |unit: &str| unit.repeat(4 * 1024 * 1024 / unit.len());
    let multipart = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let field = |name: &str| format!("--b\r\nContent-Type: a/b{name}\r\nContent-Disposition: x{name}\r\n\r\n");
    let deep: String = (0..64)
        .map(|n| {
            format!("Content-Type: multipart/x; boundary={}{n}\r\n\r\n--{}{n}\r\n", "-".repeat(60), "-".repeat(60))
        })
        .collect();
    for message in [
        multipart.to_owned() + &many("--b\r\n"),
        multipart.to_owned() + &many("--b--\r\n"),
        multipart.to_owned() + &many("--"),
        multipart.to_owned() + &many("\n"),
        multipart.to_owned() + &many("--b\r\nContent-Type: multipart/x; boundary=b\r\n\r\n"),
        multipart.to_owned() + &many(&field(&";a*1=b".repeat(680))),
        multipart.to_owned() + &many(&field(&format!("; name=\"{}\"", "=?aa?q?x ".repeat(450)))),
        multipart.to_owned() + &many("--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n"),
        multipart.to_owned() + &many("--b\r\nContent-Type: text/html\r\n\r\n"),
        deep + &many(&(format!("--{}9\r\n", "-".repeat(60)))),
        many("a: b\r\n"),
        many("Content-Type: text/plain; format=flowed\r\n\r\n> \r\n"),
        "Content-Type: text/plain; format=flowed\r\n\r\n".to_owned() + &many("> "),
        "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n".to_owned() + &many("= "),
        "Content-Type: text/plain; charset=utf-7\r\n\r\n".to_owned() + &many("+"),
    ] {
        let started = Instant::now();
        open(&message);
        let taken = started.elapsed();
        // Unoptimised, on a machine that does other things as well.
        assert!(taken.as_secs() < 60, "{taken:?}: {:.200}", message);
    }
}

proptest! {
    #[test]
    fn something_comes_of_any_bytes(message in proptest::collection::vec(any::<u8>(), 0..500)) {
        open(message);
    }

    #[test]
    fn something_comes_of_what_looks_like_a_message(
        message in "(Content-Type: (text/(plain|html|calendar)|multipart/(mixed|alternative|related|digest); boundary=[ab]|message/rfc822|image/png; name=a)(; charset=(utf-8|utf-7|iso-2022-jp))?\r\n|Content-Transfer-Encoding: (base64|quoted-printable)\r\n|Content-Disposition: (inline|attachment)\r\n|Content-ID: <a>\r\n|\r\n|--[ab](--)?\r\n|[ -~]{1,4}|<img src=cid:a>|=\r\n){0,40}",
    ) {
        open(message);
    }
}

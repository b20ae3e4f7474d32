use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::testing::read_message;

fn read(header: impl AsRef<[u8]>) -> Summary<'static> {
    // What is read borrows of it.
    read_message(header.as_ref().to_vec().leak(), None)
}

fn address<'a>(name: &'a str, address: &'a str) -> Address<'a> {
    Address { name: Some(name.into()).filter(|_| !name.is_empty()), address: address.into() }
}

#[test]
fn a_header_is_read_whole() {
    let header = "Received: from b by c; Tue, 7 Jul 2026 12:00:01 +0200\r\n\
                  Received: from a by b; Tue, 7 Jul 2026 11:00:00 +0200\r\n\
                  From: =?utf-8?Q?J=C3=B6rg?= <joerg@example.com>\r\nTo: a@example.com, B <b@example.com>\r\n\
                  Cc: c@example.com\r\nBcc: d@example.com\r\nReply-To: e@example.com\r\n\
                  Subject: Hello\r\nDate: Tue, 7 Jul 2026 12:00:00 +0200\r\nMessage-ID: <1@example.com>\r\n\
                  In-Reply-To: <0@example.com>\r\nReferences: <a@example.com>\r\n <0@example.com>\r\n\
                  Content-Type: text/plain; charset=utf-8\r\n\r\nSubject: body\r\n";
    let expected = Summary {
        message_id: Some("1@example.com".into()),
        in_reply_to: Some("0@example.com".into()),
        first_reference: Some("a@example.com".into()),
        subject: "Hello".into(),
        from: vec![address("Jörg", "joerg@example.com")].into(),
        to: vec![address("", "a@example.com"), address("B", "b@example.com")].into(),
        cc: vec![address("", "c@example.com")].into(),
        bcc: vec![address("", "d@example.com")].into(),
        reply_to: vec![address("", "e@example.com")].into(),
        sent_at: Some(1_783_418_400_000),
        received_at: Some(1_783_418_401_000),
        has_attachments: false,
        preview: None,
        is_readable: true,
    };
    assert_eq!(read(header), expected);
    // With the ends of lines of a file, and letters as somebody likes them.
    assert_eq!(read(header.replace("\r\n", "\n").replace("Subject: Hello", "SUBJECT : Hello")), expected);
}

#[test]
fn subjects_are_read_as_they_are_written() {
    for (value, expected) in [
        (b"plain".as_slice(), "plain"),
        (b"", ""),
        (b"  \t ", ""),
        (b"folded\r\n here\r\n\tand there", "folded here and there"),
        (b"two  spaces\tand a tab", "two spaces and a tab"),
        (b"=?utf-8?Q?Gr=C3=BC=C3=9Fe_aus?= =?utf-8?Q?_K=C3=B6ln?=", "Grüße aus Köln"),
        (b"=?UTF-8?B?R3LDvMOfZQ==?= aus =?iso-8859-1?q?K=F6ln?=", "Grüße aus Köln"),
        // A character in two words, of either kind.
        (b"=?utf-8?B?4pyT4p?=\r\n =?utf-8?B?nJM?=", "✓✓"),
        (b"=?utf-8?B?4pw=?= =?utf-8?B?kw==?=", "✓"),
        (b"=?utf-8?Q?=E2=9C?=\r\n =?utf-8?Q?=93?=", "✓"),
        // A word in two lines; with spaces; with no end; not known; not right.
        (b"=?utf-8?Q?a b?=", "a b"),
        (b"=?utf-8?Q?never ends", "=?utf-8?Q?never ends"),
        (b"=?utf-8?Q?=E2=28=A1?=", "\u{fffd}(\u{fffd}"),
        (b"=?iso-2022-kr?B?GyQpQw4+SDNnDw==?=", "\u{c548}\u{b155}"),
        (b"=?cp949?B?vsiz5w==?= =?HZ-GB-2312?Q?=7E{Dc:C=7E}?=", "\u{c548}\u{b155}\u{4f60}\u{597d}"),
        (b"=?x-unknown?Q?abc?=", "abc"),
        (b"=?x-unknown?Q?=E4?=", "\u{fffd}"),
        (b"=?utf-8?X?abc?=", "=?utf-8?X?abc?="),
        (b"=?utf-8?B?R3LDvMOfZQ?=", "Grüße"),
        (b"=??Q?a?=", "=??Q?a?="),
        (b"=?", "=?"),
        (b"=?utf-8*de?Q?Gr=C3=BCn?=", "Grün"),
        // Of other scripts.
        (b"=?ISO-2022-JP?B?GyRCRnxLXDhsGyhC?=", "日本語"),
        (b"=?GB18030?B?xOO6w8rAvec=?=", "你好世界"),
        (b"=?gb2312?B?xOO6ww==?= =?gb2312?B?yse95w==?=", "你好是界"),
        (b"=?big5?B?p0Gmbg==?=", "你好"),
        (b"=?koi8-r?B?8NLJ18XU?=", "Привет"),
        (b"=?windows-1251?Q?=CF=F0=E8=E2=E5=F2?=", "Привет"),
        (b"=?euc-kr?B?vsiz5w==?=", "안녕"),
        (b"=?utf-7?Q?Gr+APwA3w-e?=", "Grüße"),
        (b"=?utf-16?B?//5hAGIA?=", "ab"),
        // Raw: UTF-8, what was before it, Japanese in seven bits.
        ("Grüße ✓".as_bytes(), "Grüße ✓"),
        (b"Gr\xfc\xdfe \x80", "Grüße €"),
        (b"\x1b$BF|K\\8l\x1b(B", "日本語"),
        (b"\xff\xfe\xfd", "ÿþý"),
        // What no database stores, nobody wants to see, and half of a surrogate pair.
        (b"a\0b\x07c\x7fd", "a b c d"),
        (b"=?utf-8?Q?a=00b=0D=0Ac?=", "a b c"),
        (b"=?utf-8?B?7aC9?=", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"=?utf-7?Q?+2D0-?=", "\u{fffd}"),
        ("a\u{85}b\u{2028}c\u{a0}d".as_bytes(), "a b c d"),
        (b"bare\rreturn", "bare return"),
    ] {
        let header = [b"Subject: ", value, b"\r\nX: y\r\n\r\n"].concat();
        assert_eq!(read(&header).subject, expected, "{}", value.escape_ascii());
    }
    // In a message that says what it is written in.
    let header = b"Subject: \xcf\xf0\xe8\xe2\xe5\xf2\r\nContent-Type: text/plain; charset=\"windows-1251\"\r\n";
    assert_eq!(read(header).subject, "Привет");
    let header = b"Subject: Gr+APw-n\r\nContent-Type: text/plain; charset=utf-7\r\n";
    assert_eq!(read(header).subject, "Gr+APw-n");
}

#[test]
fn addresses_are_read_as_they_are_written() {
    let long = format!("{}@example.com", "x".repeat(400));
    for (value, expected) in [
        ("a@example.com", vec![address("", "a@example.com")]),
        ("<a@example.com>", vec![address("", "a@example.com")]),
        ("A B <a@example.com>", vec![address("A B", "a@example.com")]),
        ("\"B, A\" <a@example.com>", vec![address("B, A", "a@example.com")]),
        ("\"A \\\"Q\\\" B\" <a@example.com>", vec![address("A \"Q\" B", "a@example.com")]),
        ("a@example.com (A B)", vec![address("A B", "a@example.com")]),
        ("=?utf-8?B?SsO2cmc=?= <a@example.com>", vec![address("Jörg", "a@example.com")]),
        ("\"=?utf-8?B?SsO2cmc=?=\" <a@example.com>", vec![address("Jörg", "a@example.com")]),
        ("=?utf-8?Q?M=C3?=\r\n =?utf-8?Q?=BCller=2C_A?= <a@example.com>", vec![address("Müller, A", "a@example.com")]),
        ("Jörg <a@example.com>", vec![address("Jörg", "a@example.com")]),
        (
            "a@example.com,\r\n b@example.com , , c@example.com",
            vec![address("", "a@example.com"), address("", "b@example.com"), address("", "c@example.com")],
        ),
        ("Team: a@example.com, B <b@example.com>;", vec![address("", "a@example.com"), address("B", "b@example.com")]),
        ("undisclosed-recipients:;", vec![]),
        ("A <a@example.com>; B <b@example.com>", vec![address("A", "a@example.com"), address("B", "b@example.com")]),
        ("A B", vec![address("A B", "")]),
        ("A <>", vec![address("A", "")]),
        ("a@example.com <a@example.com>", vec![address("", "a@example.com")]),
        ("A\0B <a\0@example.com>", vec![address("A B", "a@example.com")]),
        ("", vec![]),
        ("<", vec![]),
        (",,,", vec![]),
        (&format!("A <{long}>, {long}, b@example.com"), vec![address("A", ""), address("", "b@example.com")]),
    ] {
        assert_eq!(read(format!("To: {value}\r\nX: y\r\n")).to.to_vec(), expected, "{value}");
    }
    assert_eq!(read(b"From: J\xf6rg <a@example.com>\r\n").from.to_vec(), [address("Jörg", "a@example.com")]);
}

#[test]
fn fields_that_come_again_or_too_long_have_their_bounds() {
    let header = "Subject: a\r\nSubject: b\r\nTo: a@example.com\r\nTo: b@example.com\r\nFrom: c@example.com\r\nFrom: d@example.com\r\n";
    let summary = read(header);
    assert_eq!((&*summary.subject, &*summary.from), ("a", [address("", "c@example.com")].as_slice()));
    assert_eq!(*summary.to, [address("", "a@example.com"), address("", "b@example.com")]);
    let summary = read(format!("Subject: {}\r\nTo: {}\r\n", "ü".repeat(5000), "a@example.com, ".repeat(1000)));
    assert_eq!(summary.subject, "ü".repeat(MAX_SUBJECT_CHARS));
    assert_eq!(summary.to.len(), MAX_ADDRESSES);
    assert_eq!(read("To: a@example.com\r\n".repeat(200)).to.len(), MAX_ADDRESSES);
    let references: String = (0..1000).map(|n| format!("<{n}@example.com> ")).collect();
    let found = super::references(format!("References: {references}\r\n").as_bytes());
    assert_eq!((found.len(), found[0].as_str(), found[1].as_str()), (50, "0@example.com", "951@example.com"));
    assert_eq!(read(format!("Message-ID: <{}>\r\n", "ü".repeat(998))).message_id.unwrap().len(), MAX_ID_BYTES);
    assert_eq!(read(format!("To: {} <a@example.com>\r\n", "x".repeat(999))).to[0].name.as_ref().unwrap().len(), 255);
}

#[test]
fn ids_are_found() {
    for (value, expected) in [
        ("<a@b>", vec!["a@b"]),
        ("<a@b> <c@d>", vec!["a@b", "c@d"]),
        ("<a@b><c@d>", vec!["a@b", "c@d"]),
        ("<a@\r\n b>", vec!["a@b"]),
        ("Your message of today <a@b>", vec!["a@b"]),
        ("a@b c@d", vec!["a@b", "c@d"]),
        ("12345", vec!["12345"]),
        ("Your message of today", vec![]),
        ("<a@b", vec!["a@b"]),
        ("<> <>", vec![]),
        ("<a\0b@c>", vec!["ab@c"]),
        ("", vec![]),
    ] {
        let header = format!("References: {value}\r\nMessage-ID: {value}\r\nIn-Reply-To: {value}\r\n");
        assert_eq!(references(header.as_bytes()), expected, "{value}");
        let summary = read(&header);
        assert_eq!(summary.first_reference.as_deref(), expected.first().copied());
        assert_eq!(summary.message_id.as_deref(), expected.first().copied());
        assert_eq!(summary.in_reply_to.as_deref(), expected.first().copied());
    }
}

#[test]
fn a_date_that_cannot_be_is_none() {
    for (header, sent_at, received_at) in [
        ("Date: 1 Jan 1970 00:00:00 +0000\r\n", Some(0), None),
        ("Date: Thu, 31 Feb 2026 00:00:00 +0000\r\n", None, None),
        ("Date: now\r\n", None, None),
        ("Date:\r\n", None, None),
        ("Received: by x; id 3; 1 Jan 1970 00:00:00 +0000\r\nReceived: by y; 1 Jan 1980 00:00:00\r\n", None, Some(0)),
        ("Received: by x\r\nReceived: by y; 1 Jan 1980 00:00:00\r\n", None, None),
    ] {
        let summary = read(header);
        assert_eq!((summary.sent_at, summary.received_at), (sent_at, received_at), "{header}");
    }
}

#[test]
fn what_has_no_header_is_not_readable() {
    for header in
        ["", "\r\n", "\n\nSubject: a\n", "no colon here\r\n", ": x\r\n", "From alice Tue Jul 7 10:00:00\r\n", "\0\0\0"]
    {
        assert_eq!(read(header), Summary::default(), "{header:?}");
    }
    for header in ["References: <a@b>", "X:", "a: b\r\n", "From alice 10:00\r\nX-Y: z\r\n"] {
        assert!(read(header).is_readable, "{header:?}");
    }
    assert_eq!(read("not a field\r\nSubject: a\r\n").subject, "a");
    // All of it without an end, and a field of a megabyte in the midst.
    assert_eq!(read(format!("Subject: a\r\nX-Long: {}\r\nFrom: b@example.com", "x".repeat(1 << 20))).from.len(), 1);
    assert_eq!(read(format!("{}Subject: a\r\n", "X: y\r\n".repeat(200_000))).subject, "a");
}

fn with_body(header: &str, text: impl AsRef<[u8]>) -> (Option<String>, bool) {
    let summary = read_message(header.as_bytes(), Some(text.as_ref()));
    (summary.preview, summary.has_attachments)
}

fn preview(header: &str, text: impl AsRef<[u8]>) -> String {
    with_body(header, text).0.unwrap_or_default()
}

#[test]
fn a_preview_is_the_first_words() {
    let qp = "Content-Transfer-Encoding: quoted-printable\r\n";
    let base64 = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: BASE64\r\n";
    let html = "Content-Type: text/html\r\n";
    for (header, text, expected) in [
        ("", b"Hello\r\n\r\n  world ".as_slice(), "Hello world"),
        ("", b"", ""),
        ("", b" \r\n\r\n", ""),
        ("", "Grüße".as_bytes(), "Grüße"),
        ("", &"Grüße aus".as_bytes()[..4], "Gr\u{fc}"),
        ("", b"Gr\xfc\xdfe", "Grüße"),
        ("Content-Type: text/plain; charset=us-ascii\r\n", "Grüße".as_bytes(), "Grüße"),
        ("Content-Type: text/plain; charset=iso-2022-jp\r\n", b"\x1b$BF|K\\8l\x1b(B", "日本語"),
        ("Content-Type: text/plain; charset=utf-7\r\n", b"Gr+APwA3w-e", "Grüße"),
        ("Content-Type: text/plain; charset=gb18030\r\n", b"\xc4\xe3\xba\xc3\xca", "你好"),
        ("Content-Type: text/plain; charset=x-nobody\r\n", b"a \xfc", "a ü"),
        ("Content-Type: garbage\r\n", b"hello", ""),
        (qp, b"Gr=FC=DFe a=\r\nus =4", "Grüße aus =4"),
        (base64, b"R3LDvM\r\nOfZSBhdXMgS8O2b", "Grüße aus Kö"),
        (base64, b"!!!!", ""),
        (
            html,
            b"<html><head><title>t</title><style>p{x:y}</style></head><body><p>Hello &amp; <b>good</b></p><p>bye",
            "Hello & good bye",
        ),
        (html, b"<style>p{x", ""),
        (html, b"<!-- a --><script>b</script>c", "c"),
        ("", "\u{200c}\u{a0}\u{34f} \u{feff}a\u{200d}b\0".as_bytes(), "a\u{200d}b"),
    ] {
        assert_eq!(preview(header, text), expected, "{header}{}", text.escape_ascii());
    }
    assert_eq!(preview("", "wörd ".repeat(1000)).chars().count(), 139);
    assert_eq!(preview("", "x".repeat(1_000_000)).len(), 140);
}

#[test]
fn parts_are_looked_into() {
    let mixed = "Content-Type: multipart/mixed; boundary=\"b\"\r\n";
    let plain = "--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n";
    let html = "--b\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n<p>Gr=C3=BC=C3=9Fe</p>\n";
    let file = "--b\r\nContent-Type: application/pdf; name=a.pdf\r\n\r\n%PDF\r\n";
    let inner = "--b\r\nContent-Type: multipart/alternative; boundary=b1\r\n\r\n--b1\r\n\r\nInner\r\n--b1\r\nContent-Type: text/html\r\n\r\n<p>x\r\n--b1--\r\n";
    let text_file =
        "--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\nsaved\r\n";
    let end = "--b--\r\n";
    let deep: String =
        (0..50).map(|n| format!("--b{n}\r\nContent-Type: multipart/mixed; boundary=b{}\r\n\r\n", n + 1)).collect();
    for (header, body, expected, has_attachments) in [
        (mixed, format!("ignored\r\n{plain}{file}{end}"), "Hello", true),
        // All of it was seen, or not.
        (mixed, format!("{plain}{html}{end}"), "Hello", false),
        (mixed, format!("{plain}{html}"), "Hello", true),
        (mixed, plain.to_owned(), "Hello", true),
        (mixed, String::new(), "", true),
        (mixed, "no parts at all".to_owned(), "", true),
        (mixed, format!("{html}{end}"), "Grüße", false),
        // The part in it has a delimiter that begins alike.
        (mixed, format!("{inner}{end}"), "Inner", false),
        (mixed, format!("{text_file}{plain}{end}"), "Hello", true),
        (mixed, format!("--b\r\n\r\n\r\n{html}{end}"), "Grüße", false),
        (mixed, format!("--b\r\n{end}"), "", false),
        ("Content-Type: multipart/mixed; boundary=b0\r\n", deep, "", true),
        ("Content-Type: multipart/mixed\r\n", plain.to_owned(), "", true),
        ("Content-Type: multipart/alternative; boundary=b\r\n", format!("{html}{plain}{end}"), "Hello", false),
        (
            "Content-Type: multipart/related; boundary=b\r\n",
            format!("{html}--b\r\nContent-Type: image/png; name=a.png\r\nContent-ID: <a>\r\n\r\n\r\n{end}"),
            "Grüße",
            false,
        ),
        (
            "Content-Type: multipart/signed; boundary=b\r\n",
            format!("{plain}--b\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\n\r\n{end}"),
            "Hello",
            false,
        ),
        ("Content-Type: application/pdf\r\n", "%PDF".to_owned(), "", true),
        ("Content-Type: image/png\r\nContent-Disposition: inline\r\n", "x".to_owned(), "", false),
        ("Content-Type: text/plain\r\nContent-Disposition: attachment\r\n", "x".to_owned(), "", true),
        ("Content-Type: text/calendar\r\n", "BEGIN:VCALENDAR".to_owned(), "", false),
        ("", "x".to_owned(), "x", false),
    ] {
        let seen = with_body(header, &body);
        assert_eq!((seen.0.unwrap_or_default().as_str(), seen.1), (expected, has_attachments), "{header}{body}");
    }
    // By the header alone.
    assert!(read(mixed).has_attachments && read("Content-Type: application/zip\r\n").has_attachments);
    assert!(!read("Content-Type: multipart/alternative; boundary=b\r\n").has_attachments);
}

#[test]
fn what_is_made_to_take_long_does_not() {
    let field = |name: &str, unit: &str| format!("{name}: {}\r\n", unit.repeat(128 * 1024 / unit.len()));
    let text = |unit: &str| unit.repeat(16 * 1024 / unit.len());
    let multipart = "Content-Type: multipart/mixed; boundary=b\r\n";
    for (header, body) in [
        (field("Subject", "=?aa?q?x "), String::new()),
        (field("Subject", "=?utf-8?B?YWI=?= "), String::new()),
        (field("Subject", "=?"), String::new()),
        (field("To", "=?aa?q?x "), String::new()),
        (field("To", "\"\\"), String::new()),
        (field("To", "(<"), String::new()),
        (field("To", "a:;"), String::new()),
        (field("References", "<a"), String::new()),
        (field("Content-Type", "a*1=b;"), String::new()),
        (field("Content-Type", "(\""), String::new()),
        (field("Date", "("), String::new()),
        ("To: =?aa?q?x \r\n".repeat(8000), String::new()),
        (multipart.to_owned(), text("--b\r\n\r\n")),
        (multipart.to_owned(), text("\n--b\nContent-Type: multipart/x; boundary=b\n\n")),
        ("Content-Type: text/html\r\n".to_owned(), text("<")),
        ("Content-Type: text/html\r\n".to_owned(), text("&#x1;<!--")),
    ] {
        let started = Instant::now();
        read_message(header.as_bytes(), Some(body.as_bytes()));
        let taken = started.elapsed();
        // Unoptimised, on a machine that does other things as well.
        assert!(taken.as_secs() < 5, "{taken:?}: {}", &header[..60.min(header.len())]);
    }
}

#[test]
fn a_line_has_single_spaces_and_ends_where_it_must() {
    for (text, max_chars, expected) in [
        (" a \t b\r\n c\u{a0}", 10, "a b c"),
        ("abc def", 7, "abc def"),
        ("abc def", 5, "abc d"),
        ("abc def", 4, "abc"),
        ("\u{fc}\u{fc} \u{fc}\u{fc}", 4, "\u{fc}\u{fc} \u{fc}"),
        ("\u{200b}a\u{200b} \u{200b} b", 10, "a\u{200b} b"),
        (" \u{200b}\0", 10, ""),
    ] {
        assert_eq!(line(text, max_chars), expected, "{text:?}");
    }
}

proptest! {
    #[test]
    fn a_line_is_its_words_with_spaces_between(text in "([a-c~] ?|[ \t\r\n\u{0}\u{7f}\u{a0}]|[\u{200b}\u{fc}\u{4f60}]){0,12}", max_chars in 0..12_usize) {
        let words = text.split(|c: char| c.is_whitespace() || c.is_control());
        let words: Vec<_> =
            words.map(|word| word.trim_start_matches('\u{200b}')).filter(|word| !word.is_empty()).collect();
        let expected: String = words.join(" ").chars().take(max_chars).collect();
        prop_assert_eq!(line(&text, max_chars), expected.trim_end_matches(' '), "{:?}", text);
    }
}

#[test]
fn no_more_is_held_than_is_shown() {
    let (spaces, letters) = (" \r\n ".repeat(5000), "a".repeat(20_000));
    for header in [
        format!(
            "From: <a{spaces}@b>\r\nMessage-ID: <a{spaces}b>\r\nIn-Reply-To: <{letters}>\r\nSubject: {spaces}a\r\n"
        ),
        format!("Subject: =?utf-8?q?a?={spaces}=?utf-8?q?b?=\r\n"),
        format!("From: <{letters}@b>\r\nMessage-ID: {letters}\r\nIn-Reply-To: a{spaces}\r\nSubject: {letters}\r\n"),
    ] {
        let message = read(header);
        let ids = message.message_id.iter().chain(&message.in_reply_to);
        let names = message.from.iter().flat_map(|from| from.name.iter().chain([&from.address]));
        for text in ids.chain(names).chain([&message.subject]) {
            let held = match text {
                Cow::Borrowed(text) => text.len(),
                Cow::Owned(text) => text.capacity(),
            };
            assert!(held <= MAX_ID_BYTES, "{held} bytes for {}", text.len());
        }
    }
}

proptest! {
    #[test]
    fn something_comes_of_any_bytes(header in proptest::collection::vec(any::<u8>(), 0..300), text in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_message(&header, Some(&text));
    }

    #[test]
    fn something_comes_of_what_looks_like_a_message(
        fields in proptest::collection::vec(("(Subject|From|To|Date|Message-ID|References|Content-Type|Content-Transfer-Encoding|Received)", "([ -~]|=\\?utf-8\\?[QB]\\?[ -~]{0,9}\\?=|\r\n |[\"<>():;,@=*']|multipart/mixed; boundary=b|base64){0,20}"), 0..8),
        text in "(--b(--)?\r\n|Content-Type: (text/html|multipart/x; boundary=b)\r\n|\r\n|[ -~]|<[a-z]{1,5}>|&#?[a-z0-9]{0,3};){0,40}",
    ) {
        let header: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        read_message(header.as_bytes(), Some(text.as_bytes()));
    }

    #[test]
    fn words_say_what_they_were_made_of(text in "[^\\p{C}\\p{Z}\u{34f}\u{ad}]{1,30}", cuts in proptest::collection::vec(0..90_usize, 0..4)) {
        // Cut anywhere, also within a character, by bytes.
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (text.len() + 1)).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).filter(|cut| cut[0] < cut[1]).map(|cut| &text.as_bytes()[cut[0]..cut[1]]);
        let mut subject = "Subject:".to_owned();
        for (n, piece) in pieces.enumerate() {
            let word = match n % 2 {
                0 => format!("B?{}", base64::Engine::encode(&words::BASE64, piece)),
                _ => format!("Q?{}", piece.iter().map(|byte| format!("={byte:02X}")).collect::<String>()),
            };
            subject.push_str(&format!("\r\n =?utf-8?{word}?="));
        }
        prop_assert_eq!(read(subject + "\r\n").subject, text);
    }
}

//! What is sent, as programs read it that others maintain: Python's `email`, and postal-mime in Node. Each says of a message
//! what a client shows of it, and both must say what was asked for.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use local::tools::{POSTAL_MIME, node_modules};
use local::workspace_root;
use mail::compose::{Attachment, Base64Lines, Content, For, Mailbox, Piece, compose};
use serde_json::{Value, json};

use crate::sync_model::Dice;

/// What both read in a message, which is the same.
pub fn read(message: &[u8]) -> Value {
    read_all(&[message.to_vec()]).remove(0)
}

fn read_all(messages: &[Vec<u8>]) -> Vec<Value> {
    let scripts = workspace_root().join("tests/it/parsers");
    let by_python = ask(Command::new("python3").arg(scripts.join("read.py")), messages);
    let modules = node_modules(POSTAL_MIME).unwrap();
    let by_node = ask(Command::new("node").arg(scripts.join("read.mjs")).arg(modules), messages);
    by_python.iter().zip(&by_node).zip(messages).for_each(|((python, node), message)| is_same(python, node, message));
    by_python
}

/// Says where they differ: a file may be long.
#[track_caller]
fn is_same(read: &Value, expected: &Value, message: &[u8]) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&read[name], value, "{name} of\n{}", String::from_utf8_lossy(message));
    }
}

fn ask(command: &mut Command, messages: &[Vec<u8>]) -> Vec<Value> {
    let messages: Vec<_> = messages.iter().map(|message| STANDARD.encode(message)).collect();
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(json!(messages).to_string().as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let read: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read.len(), messages.len());
    read
}

/// In quotes many readers decode encoded words as well, so there are none here.
const NAMES: [&str; 16] = [
    "Jane Doe",
    "Doe, Jane (Sales) <3",
    "O'Neil \"Bob\" \\ Smith",
    "a@b.example",
    ".",
    "José Ñandú",
    "Łukasz Żółć, Jr.",
    "Жанна Дюбуа",
    "Ελένη Παπαδοπούλου",
    "יוסי כהן",
    "محمد علي",
    "क्षितिज शर्मा",
    "ที่ปรึกษา",
    "王小明 (經理)",
    "かぶしきがいしゃ 한국어 주식회사",
    "👩\u{200d}💻 Dev 🇺🇳 who has a name so long that it is more than one line, and that even in each encoding there is, Ж",
];
const SUBJECTS: [&str; 8] = [
    "Lunch?",
    "=?utf-8?Q?x?= is how x is written",
    "Re: =?utf-8?B?eA==?=",
    "Mittag? 午餐 ランチ الغداء",
    "Обед в полдень, потом все идут гулять и до вечера никого в конторе не будет, так что не ждите ответа раньше завтра",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen",
    "averylongwordwithoutanyspaceinitaverylongwordwithoutanyspaceinitaverylongwordwithoutanyspaceinitaverylongword",
    "a=b?c_d=20e",
];
const FILES: [&str; 8] = [
    "a.pdf",
    "two words; and \"quotes\".txt",
    "100%25 it's * .bin",
    "Bericht für Müller.docx",
    "отчёт о проделанной работе за четвёртый квартал прошлого года, окончательный, исправленный, второй вариант.pdf",
    "報告書.pdf",
    "a name so long that no header has it on a line of its own however it is folded and wherever its parts begin and end.tar.gz",
    "no_ending",
];
const TYPES: [&str; 6] =
    ["application/pdf", "text/plain", "text/html", "image/png", "application/octet-stream", "application/x-tar"];

/// Texts with what is treated as special on the way.
fn text(dice: &mut Dice) -> String {
    let lines = [
        ".".to_owned(),
        "..".to_owned(),
        ".dot".to_owned(),
        String::new(),
        "From here".to_owned(),
        "trailing  ".to_owned(),
        "tab\t".to_owned(),
        "a = b =20 =\u{20}".to_owned(),
        "--=_0199_1".to_owned(),
        "x".repeat(3000),
        "ü".repeat(900),
        "Ж 漢 字 א سّ क्षि 😀".to_owned(),
        "<p>Über &amp; <img src=\"cid:logo@x\"></p>".to_owned(),
    ];
    let ends = ["\n", "\r\n", "\r"];
    let text: String =
        (0..dice.roll(9)).map(|_| lines[dice.roll(lines.len())].clone() + ends[dice.roll(ends.len())]).collect();
    text + "the end"
}

fn normal(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Some of these, perhaps none.
fn mailboxes<'a>(dice: &mut Dice, addresses: &[&'a str]) -> Vec<Mailbox<'a>> {
    let count = dice.roll(4);
    let mut mailbox = || Mailbox {
        name: (dice.roll(4) > 0).then(|| NAMES[dice.roll(NAMES.len())]),
        address: addresses[dice.roll(addresses.len())],
    };
    (0..count).map(|_| mailbox()).collect()
}

#[test]
fn what_is_written_reads_as_what_was_asked_for() {
    const COUNT: usize = 300;
    let mut dice = Dice::new(7);
    let addresses = ["jane@example.com", "o'neil+x@sub.example.org", "j@bücher.example", "A.B-C_d@example.net"];
    let (mut messages, mut expected) = (Vec::new(), Vec::new());
    for n in 0..COUNT {
        let id = format!("0199-{n}");
        let message_id = format!("{id}@example.com");
        let text_of = (n % 3 != 1).then(|| text(&mut dice));
        let html_of = (n % 3 != 0).then(|| text(&mut dice));
        // The picture that the HTML shows comes first.
        let mut files: Vec<(Attachment<'_>, Vec<u8>)> = Vec::new();
        let has_picture = html_of.is_some() && dice.roll(2) == 0;
        for place in 0..dice.roll(4) {
            let size = [0, 1, 56, 57, 58, 5000][dice.roll(6)];
            let bytes: Vec<u8> = (0..size).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect();
            let is_inline = has_picture && place == 0;
            let file = Attachment {
                filename: Some(FILES[dice.roll(FILES.len())]),
                content_type: if is_inline { "image/png" } else { TYPES[dice.roll(TYPES.len())] },
                content_id: is_inline.then_some("logo@x"),
                is_inline,
                size: bytes.len() as u64,
            };
            files.push((file, bytes));
        }
        let references: Vec<&str> = ["1@example.com", "2@example.com"][..dice.roll(3)].to_vec();
        let content = Content {
            id: &id,
            message_id: &message_id,
            date: 1_767_225_600,
            from: vec![Mailbox { name: Some(NAMES[n % NAMES.len()]), address: "me@example.com" }],
            to: [
                mailboxes(&mut dice, &addresses),
                vec![Mailbox { name: Some(NAMES[n / 2 % NAMES.len()]), address: "john@example.com" }],
            ]
            .concat(),
            cc: mailboxes(&mut dice, &addresses),
            bcc: vec![Mailbox { name: None, address: "boss@example.com" }],
            reply_to: mailboxes(&mut dice, &addresses[..1]),
            subject: SUBJECTS[n % SUBJECTS.len()],
            in_reply_to: references.last().copied(),
            references: references.clone(),
            text: text_of.as_deref(),
            html: html_of.as_deref(),
            attachments: files.iter().map(|(file, _)| *file).collect(),
        };
        let mut message = Vec::new();
        for piece in compose(&content, For::Readers).pieces {
            match piece {
                Piece::Bytes(bytes) => message.extend(bytes),
                Piece::Attachment(place) => {
                    let mut lines = Base64Lines::default();
                    message.extend(lines.push(&files[place].1));
                    message.extend(lines.finish());
                }
            }
        }
        let people = |list: &[Mailbox<'_>]| -> Value {
            let address = |mailbox: &Mailbox<'_>| mailbox.address.replace("bücher", "xn--bcher-kva");
            list.iter().map(|mailbox| json!([mailbox.name.unwrap_or_default(), address(mailbox)])).collect()
        };
        let ids = |ids: &[&str]| -> Vec<String> { ids.iter().map(|id| format!("<{id}>")).collect() };
        let file = |(file, bytes): &(Attachment<'_>, Vec<u8>)| {
            let disposition = if file.is_inline { "inline" } else { "attachment" };
            let id = file.content_id.map(|id| format!("<{id}>"));
            json!([file.filename, file.content_type, disposition, id, STANDARD.encode(bytes)])
        };
        expected.push(json!({
            "subject": content.subject, "from": people(&content.from), "replyTo": people(&content.reply_to),
            "to": people(&content.to), "cc": people(&content.cc), "bcc": [], "messageId": ids(&[&message_id]),
            "inReplyTo": ids(content.in_reply_to.as_slice()), "references": ids(&references),
            "text": text_of.as_deref().map(normal), "html": html_of.as_deref().map(normal),
            "files": files.iter().map(file).collect::<Vec<_>>(),
        }));
        messages.push(message);
    }
    for ((read, expected), message) in read_all(&messages).iter().zip(&expected).zip(&messages) {
        is_same(read, expected, message);
    }
}

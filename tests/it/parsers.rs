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

use crate::support::merged;
use crate::sync_model::Dice;

/// What both read in a message, which is the same.
pub fn read(message: &[u8]) -> Value {
    read_all(&[message.to_vec()]).remove(0)
}

fn read_all(messages: &[Vec<u8>]) -> Vec<Value> {
    let by_python = by_python(messages);
    let (script, modules) = (workspace_root().join("tests/it/parsers/read.mjs"), node_modules(POSTAL_MIME).unwrap());
    let by_node = ask(Command::new("node").arg(script).arg(modules), messages);
    by_python.iter().zip(&by_node).zip(messages).for_each(|((python, node), message)| is_same(python, node, message));
    by_python
}

fn by_python(messages: &[Vec<u8>]) -> Vec<Value> {
    ask(Command::new("python3").arg(workspace_root().join("tests/it/parsers/read.py")), messages)
}

/// Fails unless both read in these messages what is expected of them, in their order.
#[track_caller]
pub fn are_read_as(messages: &[Vec<u8>], expected: &[Value]) {
    assert_eq!(messages.len(), expected.len());
    for ((read, expected), message) in read_all(messages).iter().zip(expected).zip(messages) {
        is_same(read, expected, message);
    }
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

const NAMES: [&str; 20] = [
    "Jane Doe",
    "=?utf-8?Q?x?=",
    "what = that =? (nobody knows)",
    "Jürgen =?utf-8?Q?x?=",
    "Jane \"=?utf-8?B?eA==?=\" Doe, of a name that is longer than a line, and then =?utf-8?q?y?= =?utf-8?q?z?=",
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
const FILES: [&str; 10] = [
    "a.pdf",
    "=?utf-8?Q?x.pdf",
    "=?utf-8?Q? is how a word begins that has no end, and this is so long that no header has it on a line; \"x\" 100%25.tar.gz",
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
const ADDRESSES: [&str; 4] =
    ["jane@example.com", "o'neil+x@sub.example.org", "j@bücher.example", "A.B-C_d@example.net"];

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
fn mailboxes(dice: &mut Dice, addresses: &[&'static str]) -> Vec<Mailbox<'static>> {
    let count = dice.roll(4);
    let mut mailbox = || Mailbox {
        name: (dice.roll(4) > 0).then(|| NAMES[dice.roll(NAMES.len())]),
        address: addresses[dice.roll(addresses.len())],
    };
    (0..count).map(|_| mailbox()).collect()
}

/// What readers show of people.
fn people(list: &[Mailbox<'_>]) -> Value {
    let address = |mailbox: &Mailbox<'_>| mailbox.address.replace("bücher", "xn--bcher-kva");
    list.iter().map(|mailbox| json!([mailbox.name.unwrap_or_default(), address(mailbox)])).collect()
}

/// A message that somebody asks for.
pub struct Asked {
    to: Vec<Mailbox<'static>>,
    cc: Vec<Mailbox<'static>>,
    reply_to: Vec<Mailbox<'static>>,
    subject: &'static str,
    text: Option<String>,
    html: Option<String>,
    /// The picture that the HTML shows comes first.
    pub files: Vec<(Attachment<'static>, Vec<u8>)>,
}

impl Asked {
    /// The `n`th one: each kind of text has its turn, and so have names and subjects.
    pub fn roll(dice: &mut Dice, n: usize) -> Self {
        let text_of = (n % 3 != 1).then(|| text(dice));
        let html_of = (!n.is_multiple_of(3)).then(|| text(dice));
        let has_picture = html_of.is_some() && dice.roll(2) == 0;
        let mut files = Vec::new();
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
        let john = Mailbox { name: Some(NAMES[n / 2 % NAMES.len()]), address: "john@example.com" };
        Self {
            to: [mailboxes(dice, &ADDRESSES), vec![john]].concat(),
            cc: mailboxes(dice, &ADDRESSES),
            reply_to: mailboxes(dice, &ADDRESSES[..1]),
            subject: SUBJECTS[n % SUBJECTS.len()],
            text: text_of,
            html: html_of,
            files,
        }
    }

    /// As a client asks for it whose files have these uploads.
    pub fn body(&self, uploads: &[Value]) -> Value {
        let people = |list: &[Mailbox<'_>]| -> Value {
            list.iter().map(|mailbox| json!({"name": mailbox.name, "address": mailbox.address})).collect()
        };
        let attachment = |((file, _), upload): (&(Attachment<'_>, Vec<u8>), &Value)| {
            json!({
                "uploadId": upload, "filename": file.filename, "contentType": file.content_type,
                "contentId": file.content_id, "isInline": file.is_inline,
            })
        };
        json!({
            "to": people(&self.to), "cc": people(&self.cc), "replyTo": people(&self.reply_to), "subject": self.subject,
            "text": self.text, "html": self.html,
            "attachments": self.files.iter().zip(uploads).map(attachment).collect::<Vec<_>>(),
        })
    }

    /// What is read of it.
    pub fn read(&self) -> Value {
        let file = |(file, bytes): &(Attachment<'_>, Vec<u8>)| {
            let disposition = if file.is_inline { "inline" } else { "attachment" };
            let id = file.content_id.map(|id| format!("<{id}>"));
            json!([file.filename, file.content_type, disposition, id, STANDARD.encode(bytes)])
        };
        json!({
            "subject": self.subject, "replyTo": people(&self.reply_to), "to": people(&self.to), "cc": people(&self.cc),
            "bcc": [], "text": self.text.as_deref().map(normal), "html": self.html.as_deref().map(normal),
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
        })
    }
}

/// All bytes, with those of the files.
fn written(content: &Content<'_>, files: &[(Attachment<'_>, Vec<u8>)]) -> Vec<u8> {
    let mut message = Vec::new();
    for piece in compose(content, For::Readers).pieces {
        match piece {
            Piece::Bytes(bytes) => message.extend(bytes),
            Piece::Attachment(place) => {
                let mut lines = Base64Lines::default();
                message.extend(lines.push(&files[place].1));
                message.extend(lines.finish());
            }
        }
    }
    message
}

#[test]
fn what_is_written_reads_as_what_was_asked_for() {
    const COUNT: usize = 300;
    let mut dice = Dice::new(7);
    let (mut messages, mut expected) = (Vec::new(), Vec::new());
    for n in 0..COUNT {
        let asked = Asked::roll(&mut dice, n);
        let id = format!("0199-{n}");
        let message_id = format!("{id}@example.com");
        let from = vec![Mailbox { name: Some(NAMES[n % NAMES.len()]), address: "me@example.com" }];
        let references: Vec<&str> = ["1@example.com", "2@example.com"][..dice.roll(3)].to_vec();
        let content = Content {
            id: &id,
            message_id: &message_id,
            date: 1_767_225_600,
            from: from.clone(),
            to: asked.to.clone(),
            cc: asked.cc.clone(),
            bcc: vec![Mailbox { name: None, address: "boss@example.com" }],
            reply_to: asked.reply_to.clone(),
            subject: asked.subject,
            in_reply_to: references.last().copied(),
            references: references.clone(),
            text: asked.text.as_deref(),
            html: asked.html.as_deref(),
            attachments: asked.files.iter().map(|(file, _)| *file).collect(),
        };
        messages.push(written(&content, &asked.files));
        let ids = |ids: &[&str]| -> Vec<String> { ids.iter().map(|id| format!("<{id}>")).collect() };
        let head = json!({
            "from": people(&from), "messageId": ids(&[&message_id]), "inReplyTo": ids(content.in_reply_to.as_slice()),
            "references": ids(&references),
        });
        expected.push(merged(asked.read(), head));
    }
    are_read_as(&messages, &expected);
}

/// By Python alone: postal-mime decodes what looks like an encoded word in a file's name however that is written.
#[test]
fn a_file_that_is_called_like_an_encoded_word_keeps_its_name() {
    let names = [
        "=?utf-8?Q?x?=",
        "=?utf-8?B?eA==?=.pdf",
        "a \"=?utf-8?Q?x?=\" and =?utf-8?Q?so_on?=, longer than a line is.pdf",
    ];
    let file = |name| {
        let content_type = "application/pdf";
        (
            Attachment { filename: Some(name), content_type, content_id: None, is_inline: false, size: 3 },
            b"pdf".to_vec(),
        )
    };
    let files = names.map(file);
    let jane = vec![Mailbox { name: None, address: "jane@example.com" }];
    let content = Content {
        id: "0199",
        message_id: "0199@example.com",
        from: jane.clone(),
        to: jane,
        subject: "Files",
        text: Some("See."),
        attachments: files.iter().map(|(file, _)| *file).collect(),
        ..Content::default()
    };
    let read = by_python(&[written(&content, &files)]).remove(0);
    let found: Vec<_> = read["files"].as_array().unwrap().iter().map(|file| &file[0]).collect();
    assert_eq!(found, names);
}

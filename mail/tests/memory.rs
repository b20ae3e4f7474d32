//! What a hostile server can make us hold. A binary of its own, since it counts every byte of the process.

use std::time::Duration;

use dhat::{HeapStats, Profiler};
use mail::Code;
use mail::connect::{Security, Session};
use mail::content::Opened;
use mail::imap::{Command, Event, Imap};
use mail::login::{Login, Protocol, Secret, TRY_BYTES};
use mail::pop3::Pop3;
use mail::testing::{Authority, HOST, Script, connect_to_script, sign_in_to_script};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The longest answer of IMAP, as it grows, and TLS; the scripted server included.
const MAX_BYTES: usize = 512 * 1024;

/// What a mailbox may take beside what is done with it: the longest response as it grows and what is made of it, or a
/// list of all that there may be.
const MAX_MAILBOX_BYTES: usize = 40 * 1024 * 1024;

/// What opening a message may take beside it: a text as it is decoded, or the tree of its HTML.
const MAX_OPEN_BYTES: usize = 32 * 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn no_server_makes_us_hold_much() {
    let authority = Authority::new();
    let nested = format!("* 1 FETCH (BODYSTRUCTURE {}\r\n", "(".repeat(100_000));
    let imap = || Script::new().tls().say("* OK [CAPABILITY IMAP4rev1] x\r\n").hear("a1 LOGIN \"alice\" \"hunter22\"");
    for (protocol, script) in [
        (Protocol::Imap, Script::new().tls().endless("* OK on and on ")),
        (Protocol::Pop3, Script::new().tls().endless("+OK on and on ")),
        (Protocol::Smtp, Script::new().tls().endless("220 on and on ")),
        (Protocol::Smtp, Script::new().tls().endless("220-on and on\r\n")),
        (Protocol::Pop3, Script::new().tls().say("+OK\r\n").hear("CAPA").say("+OK\r\n").endless("CAPABLE\r\n")),
        (Protocol::Imap, imap().endless("* CAPABILITY IMAP4rev1 and so on\r\n")),
        (Protocol::Imap, imap().say("* LIST () \"/\" {2147483648}\r\n").endless("x")),
        (Protocol::Imap, imap().say("* LIST () \"/\" {65000}\r\n").endless("x")),
        (Protocol::Imap, imap().say("* LIST (").endless("{1}\r\nx")),
        (Protocol::Imap, imap().say(&nested)),
    ] {
        let login = Login::new("alice", Secret::Password("hunter22".to_owned().into())).unwrap();
        let session = Session::new(Duration::from_secs(10), TRY_BYTES);
        let tls = (authority.client(), authority.server(HOST));
        let profiler = Profiler::builder().testing().build();
        let (outcome, _) = sign_in_to_script((protocol, Security::Tls), &login, script, tls, session).await;
        let most = HeapStats::get().max_bytes;
        drop(profiler);
        assert_eq!(outcome.unwrap_err().code, Code::Protocol);
        assert!(most < MAX_BYTES, "{protocol:?}: {most} bytes");
    }
    mailboxes().await;
    messages();
}

async fn mailboxes() {
    const LONGEST: usize = 4 * 1024 * 1024;
    let login = || Login::new("alice", Secret::Password("hunter22".to_owned().into())).unwrap();
    let session = || Session::new(Duration::from_secs(600), 6 * 1024 * 1024);
    let fetch = "* 1 FETCH (UID 1 ";
    let x = "x".repeat(1024);
    let (ok, status) = (
        format!("* OK [UIDNEXT 5] {x}\r\n"),
        format!("* STATUS \"{x}\" (MESSAGES 1 UIDNEXT 1 UIDVALIDITY 1 UNSEEN 1)\r\n"),
    );
    let uid = format!("1 {:x<100}\r\n", "");
    // Said by the script as it is, and then again and again.
    let hostile: [(String, &str); 11] = [
        ("* SEARCH ".to_owned() + &"3 1 ".repeat(LONGEST / 4 - 8) + "5\r\n", ""),
        ("* VANISHED ".to_owned() + &"3,1,".repeat(LONGEST / 4 - 8) + "5\r\n", ""),
        (format!("{fetch}X-GM-LABELS ({}))\r\n", "a ".repeat(LONGEST / 2 - 50)), ""),
        (format!("{fetch}X {}\r\n", "(".repeat(LONGEST - 50)), ""),
        (format!("{fetch}X"), " {1}\r\nx"),
        (format!("{fetch}BODY[HEADER] {{1000000000}}\r\n"), &x),
        (format!("{fetch}X {{4000000000}}\r\n"), &x),
        (fetch.to_owned(), &x),
        (String::new(), &ok),
        (String::new(), "* LIST () \"/\" abcdefghijklmnopqrstuvwxyz\r\n"),
        (String::new(), &status),
    ];
    for (first, then) in &hostile {
        let greeting = Script::new().say("* OK [CAPABILITY LIST-STATUS] x\r\n").hear("a1 LOGIN \"alice\" \"hunter22\"");
        let greeting = greeting.say("a1 OK [CAPABILITY LIST-STATUS] x\r\n");
        let rest = if then.is_empty() { Script::new() } else { Script::new().endless(then) };
        let (stream, server) = connect_to_script(greeting.say(first).append(rest), session());
        // What the script holds is not ours.
        let profiler = Profiler::builder().testing().build();
        let mut imap = Imap::sign_in(stream, Security::Plain, &login()).await.unwrap();
        let features = imap.features().await.unwrap();
        if then.starts_with("* LIST") || then.starts_with("* STATUS") {
            imap.list(&features).await.unwrap_err();
        } else {
            let mut conversation = imap.converse(&features, vec![Command::SearchAll]);
            while let Ok(event) = conversation.next().await {
                assert!(!matches!(event, None | Some(Event::Done { .. })));
            }
        }
        let most = HeapStats::get().max_bytes;
        drop(profiler);
        server.abort();
        assert!(most < MAX_MAILBOX_BYTES, "{first:.50}{then:.50}: {most} bytes");
    }
    for (first, then) in [("+OK\r\n", uid.as_str()), ("+OK\r\n", &x), ("+OK\r\n", "\r\n")] {
        let greeting = Script::new().say("+OK\r\n").hear("CAPA").say("-ERR\r\n").hear("USER alice").say("+OK\r\n");
        let script = greeting.hear("PASS hunter22").say("+OK\r\n").say(first).endless(then);
        for lists in [true, false] {
            let (stream, server) = connect_to_script(script.clone(), session());
            let profiler = Profiler::builder().testing().build();
            let mut pop3 = Pop3::sign_in(stream, Security::Plain, &login()).await.unwrap();
            if lists {
                pop3.uids().await.unwrap_err();
            } else {
                pop3.tops(vec![1, 2], 3).next().await.unwrap_err();
            }
            let most = HeapStats::get().max_bytes;
            drop(profiler);
            server.abort();
            assert!(most < MAX_MAILBOX_BYTES, "{then:.50}: {most} bytes");
        }
    }
}

fn messages() {
    let mixed = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let line = "QUJD".repeat(19) + "\r\n";
    let file = |bytes: usize| {
        let head = "--b\r\nContent-Type: application/pdf; name=file.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n";
        head.to_owned() + &line.repeat(bytes / line.len())
    };
    let typed = |kind: &str, unit: &str| {
        format!("Content-Type: text/{kind}\r\n\r\n{}", unit.repeat(8 * 1024 * 1024 / unit.len()))
    };
    // How many attachments, and a message.
    for (attachments, message) in [
        (200, mixed.to_owned() + &file(150 * 1024).repeat(200) + "--b--\r\n"),
        (1, mixed.to_owned() + &file(40 * 1024 * 1024)),
        (9_999, mixed.to_owned() + &"--b\r\nContent-Type: a/b\r\n\r\nx\r\n".repeat(9_999)),
        (0, typed("plain; charset=utf-8", "x")),
        (0, typed("plain; charset=gb18030", "\u{fc}")),
        (0, typed("html", "<b>x</b>")),
        (0, "a: b\r\n".repeat(1024 * 1024)),
        (1, "Content-Type: message/rfc822\r\n\r\n".repeat(300_000)),
    ] {
        let profiler = Profiler::builder().testing().build();
        let opened = Opened::read(message.as_bytes(), |id| id.to_owned());
        let most = HeapStats::get().max_bytes;
        drop(profiler);
        assert_eq!(opened.content.attachments.len(), attachments, "{message:.100}");
        assert!(most < MAX_OPEN_BYTES, "{message:.100}: {most} bytes");
    }
}

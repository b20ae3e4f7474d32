use std::time::Duration;

use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::*;
use crate::connect::Session;
use crate::message::Raw;
use crate::testing::{Script, connect_to_script, read_imap_bytes};

/// Signed in to a server with these capabilities, which then plays the script.
async fn signed_in(capabilities: &str, script: Script) -> (Imap, JoinHandle<Vec<String>>) {
    let greeting = Script::new().say("* OK ready\r\n").hear("a1 CAPABILITY");
    let greeting = greeting.say(format!("* CAPABILITY IMAP4rev1 {capabilities}\r\na1 OK done\r\n"));
    let greeting = greeting.hear("a2 LOGIN \"alice\" \"secret\"");
    let script = greeting.say(format!("a2 OK [CAPABILITY IMAP4rev1 {capabilities}] in\r\n")).append(script);
    let (stream, server) = connect_to_script(script, Session::new(Duration::from_secs(60), 1 << 30));
    (Imap::sign_in(stream, Security::Plain, &login()).await.unwrap(), server)
}

fn login() -> Login {
    Login::new("alice", Secret::Password("secret".to_owned().into())).unwrap()
}

/// All events of a conversation, and how it ended.
async fn events(imap: &mut Imap, commands: Vec<Command>) -> (Vec<Event>, Result<(), Error>) {
    let features = imap.features().await.unwrap();
    let mut conversation = imap.converse(&features, commands);
    let mut events = Vec::new();
    loop {
        match conversation.next().await {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, Ok(())),
            Err(error) => return (events, Err(error)),
        }
    }
}

fn set(text: &str) -> UidSet {
    text.parse().unwrap()
}

fn fetch(uids: &str, items: Items) -> Command {
    Command::Fetch { uids: set(uids), items, changed_since: None, vanished: false }
}

fn examine(name: &str) -> Command {
    Command::Examine { mailbox: name.into(), resync: None, condstore: true }
}

fn done(command: usize) -> Event {
    Event::Done { command, outcome: Outcome::Ok }
}

/// Of `* 1 FETCH (…)`, the only message.
fn of_response(response: impl AsRef<[u8]>) -> Option<Event> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let script = Script::new().hear("a3 UID FETCH 1 (UID FLAGS)").say(response).say("a3 OK done\r\n");
        let (mut imap, _server) = signed_in("", script).await;
        let (mut events, outcome) = events(&mut imap, vec![fetch("1", Items::Flags)]).await;
        outcome.unwrap();
        assert_eq!(events.pop(), Some(done(0)));
        assert!(events.len() <= 1, "{events:?}");
        events.pop()
    })
}

fn fetched(response: impl AsRef<[u8]>) -> Fetched {
    match of_response(response) {
        Some(Event::Fetched(fetched)) => fetched,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn after_signing_in_capabilities_are_those_of_the_answer_or_asked_anew() {
    let greeted = Script::new().say("* OK [CAPABILITY IMAP4rev1 SASL-IR] x\r\n").hear("a1 LOGIN \"alice\" \"secret\"");
    for script in [
        greeted.clone().say("a1 OK [CAPABILITY IMAP4rev1 Idle] in\r\n"),
        greeted.clone().say("* CAPABILITY IMAP4rev1 IDLE\r\na1 OK in\r\n"),
        greeted.say("a1 OK in\r\n").hear("a2 CAPABILITY").say("* CAPABILITY IMAP4rev1 IDLE\r\na2 OK done\r\n"),
    ] {
        let (stream, _server) = connect_to_script(script, Session::new(Duration::from_secs(10), 10_000));
        let mut imap = Imap::sign_in(stream, Security::Plain, &login()).await.unwrap();
        assert_eq!(imap.capabilities().await.unwrap(), ["IMAP4REV1", "IDLE"]);
    }
}

#[test]
fn responses_are_read_as_servers_write_them() {
    let status = |condition, code: Option<&str>, text: &str| Reply {
        condition,
        code: code.map(str::to_owned),
        text: text.to_owned(),
    };
    for (line, expected) in [
        ("* OK [ALERT] hi\r\n", Some(Response::Untagged(status(Condition::Ok, Some("ALERT"), "hi")))),
        ("* ok\n", Some(Response::Untagged(status(Condition::Ok, None, "")))),
        ("* BYE x\r\n", Some(Response::Untagged(status(Condition::Bye, None, "x")))),
        ("* NO [X\r\n", Some(Response::Untagged(status(Condition::No, None, "[X")))),
        ("a1 NO [A B]no\r\n", Some(Response::Tagged("a1".into(), status(Condition::No, Some("A B"), "no")))),
        ("a1 BYE x\r\n", None),
        ("a1 PREAUTH x\r\n", None),
        ("a1 FETCH\r\n", None),
        ("* 1 FETCH (FLAGS ())\r\n", Some(Response::Data)),
        ("+ b64=\r\n", Some(Response::Continue)),
        ("+\r\n", Some(Response::Continue)),
        ("+OK ready\r\n", None),
        ("*\r\n", None),
        ("\r\n", None),
    ] {
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_imap_bytes(&bytes);
    }

    #[test]
    fn what_looks_like_responses_is_read_or_refused(
        text in "(\\* |[a1-9]|\r\n|LIST|STATUS|FETCH|UID|FLAGS|BODY\\[|HEADER|TEXT|\\]|SEARCH|VANISHED|EXISTS|OK|NO|BYE|[ -~]|[(){}\"\\\\]|\\{[0-9]\\}\r\n| ){0,60}",
    ) {
        read_imap_bytes(text.as_bytes());
    }

    #[test]
    fn a_quoted_string_is_one_line_and_says_what_it_was_made_of(text: String) {
        let Some(quoted) = quoted(&text) else {
            prop_assert!(!text.is_ascii() || text.chars().any(|c| c.is_ascii_control()));
            return Ok(());
        };
        let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
        let (mut said, mut characters) = (String::new(), inside.chars());
        while let Some(c) = characters.next() {
            prop_assert!(c != '"' && !c.is_control());
            said.push(if c == '\\' { characters.next().unwrap() } else { c });
        }
        prop_assert_eq!(said, text);
    }
}

#[test]
fn a_message_is_read_as_servers_write_it() {
    let flags = |flags: Flags| Fetched { uid: 7, flags: Some(flags), ..Fetched::default() };
    let seen = flags(Flags { seen: true, ..Flags::default() });
    let date = 1_783_418_400_000; // 2026-07-07 10:00
    for (items, expected) in [
        ("UID 7 FLAGS (\\Seen)", seen.clone()),
        ("uid 7 flags (\\SEEN $Forwarded NonJunk \"a b\")", seen.clone()),
        ("  FLAGS  ( \\seen )  UID  7 ", seen.clone()),
        ("FLAGS(\\Seen) UID 7", seen.clone()),
        (
            "FLAGS (\\Seen \\Flagged \\Answered \\Draft \\Deleted \\Recent) UID 7",
            flags(Flags { seen: true, flagged: true, answered: true, draft: true, deleted: true }),
        ),
        ("FLAGS NIL UID 7", flags(Flags::default())),
        ("FLAGS () UID 7 MODSEQ (18446744073709551615)", Fetched { modseq: Some(u64::MAX), ..flags(Flags::default()) }),
        ("UID 7 RFC822.SIZE 4294967296", Fetched { uid: 7, size: Some(1 << 32), ..Fetched::default() }),
        ("UID 7 RFC822.SIZE -5", Fetched { uid: 7, ..Fetched::default() }),
        (
            "UID 7 INTERNALDATE \" 7-Jul-2026 12:00:00 +0200\"",
            Fetched { uid: 7, internal_date: Some(date), ..Fetched::default() },
        ),
        (
            "UID 7 INTERNALDATE \"7-jul-2026 10:00:00 +9900\"",
            Fetched { uid: 7, internal_date: Some(date), ..Fetched::default() },
        ),
        ("UID 7 INTERNALDATE \"31-Feb-2026 10:00:00 +0000\"", Fetched { uid: 7, ..Fetched::default() }),
        ("UID 7 INTERNALDATE NIL", Fetched { uid: 7, ..Fetched::default() }),
        ("UID {1}\r\n7 FLAGS (\\Seen)", Fetched::default()),
        (
            "UID 7 BODY[HEADER.FIELDS (DATE FROM)] {6}\r\nA: b\r\n FLAGS (\\Seen)",
            Fetched { header: Some(b"A: b\r\n".to_vec()), ..seen.clone() },
        ),
        (
            "body[header.fields (\"DATE\" {4}\r\nFROM)] \"A: \\\"b\\\"\" UID 7",
            Fetched { uid: 7, header: Some(b"A: \"b\"".to_vec()), ..Fetched::default() },
        ),
        ("UID 7 BODY[HEADER] NIL", Fetched { uid: 7, header: Some(Vec::new()), ..Fetched::default() }),
        ("UID 7 BODY[HEADER] ~{2+}\r\n\0\n", Fetched { uid: 7, header: Some(b"\0\n".to_vec()), ..Fetched::default() }),
        ("UID 7 BODY.PEEK[TEXT]<0> {3}\r\nabc", Fetched { uid: 7, text: Some(b"abc".to_vec()), ..Fetched::default() }),
        (
            "UID 7 BODY[1] \"x\" BODYSTRUCTURE ((\"TEXT\" NIL (\"A\" \"b)\")) {1}\r\n) \"mixed\") X-NEW[a b] (1) FLAGS (\\Seen)",
            seen.clone(),
        ),
        (
            "UID 7 X-GM-MSGID 1278455344230334865 X-GM-THRID 2 X-GM-LABELS (\\Inbox \"\\\\Sent\" Entw&APw-rfe {3}\r\na b)",
            Fetched {
                uid: 7,
                gmail: Some(Gmail {
                    msgid: 1_278_455_344_230_334_865,
                    thread: 2,
                    labels: ["\\Inbox", "\\Sent", "Entwürfe", "a b"].map(str::to_owned).into(),
                }),
                ..Fetched::default()
            },
        ),
        ("UID 7 EMAILID (M1) THREADID NIL", Fetched { uid: 7, email_id: Some("M1".into()), ..Fetched::default() }),
    ] {
        let response = format!("* 1 FETCH ({items})\r\n");
        match expected.uid {
            0 => assert_eq!(of_response(response), Some(Event::Undecodable { uid: None }), "{items}"),
            _ => assert_eq!(fetched(response), expected, "{items}"),
        }
    }
}

#[test]
fn a_message_that_cannot_be_read_is_told_with_its_uid() {
    let deep = "(".repeat(9) + &")".repeat(9);
    for (response, uid) in [
        ("* 1 FETCH (UID 7 FLAGS (\\Seen)\r\n".to_owned(), Some(7)),
        ("* 1 FETCH (FLAGS \\Seen UID 7)\r\n".to_owned(), Some(7)),
        (format!("* 1 FETCH (BODYSTRUCTURE {deep} UID 7)\r\n"), Some(7)),
        // What stands in strings is the sender's.
        ("* 1 FETCH (BODY[HEADER] \"UID 8\" X ) UID 7)\r\n".to_owned(), Some(7)),
        ("* 1 FETCH (BODY[HEADER] {5}\r\nUID 8 X ) UID 7)\r\n".to_owned(), Some(7)),
        ("* 1 FETCH (FLAGS x{5}\r\nUID 8 UID 7)\r\n".to_owned(), None),
        ("* 1 FETCH (UID 7 FLAGS (\\Seen)) more\r\n".to_owned(), Some(7)),
        ("* 1 FETCH UID 7\r\n".to_owned(), Some(7)),
        ("* 1 FETCH (UID 0 FLAGS ())\r\n".to_owned(), None),
        ("* 1 FETCH (UID 4294967296 FLAGS ())\r\n".to_owned(), None),
        ("* 1 FETCH (FLAGS (\\Seen))\r\n".to_owned(), None),
        ("* 1 FETCH (UID 7 BODY[HEADER \"a\r\n".to_owned(), Some(7)),
        ("* 1 FETCH (\r\n".to_owned(), None),
        ("* 1 FETCH\r\n".to_owned(), None),
    ] {
        assert_eq!(of_response(&response), Some(Event::Undecodable { uid }), "{response}");
    }
}

#[test]
fn parentheses_are_followed_only_so_deep() {
    let nested = |depth| format!("* 1 FETCH (UID 7 BODYSTRUCTURE {}{})\r\n", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(fetched(nested(8)).uid, 7);
    for depth in [9, 1_000_000] {
        assert_eq!(of_response(nested(depth)), Some(Event::Undecodable { uid: Some(7) }), "{depth}");
    }
}

#[tokio::test]
async fn what_is_too_long_is_cut_and_what_follows_is_read() {
    let header = "X".repeat(frame::MAX_SECTION_BYTES);
    let script = Script::new().hear("a3 UID FETCH 1:3 (UID FLAGS)");
    let script = script.say(format!("* 1 FETCH (UID 1 BODY[HEADER] {{{}}}\r\n{header})\r\n", header.len()));
    let script = script
        .say(format!("* 2 FETCH (BODY[HEADER.FIELDS (A)] {{{}}}\r\n{header}{header} UID 2)\r\n", 2 * header.len()));
    let script =
        script.say(format!("* 3 FETCH (UID 3 BODY[TEXT] {{5000}}\r\n{:5000} FLAGS ())\r\na3 OK done\r\n", "y"));
    let (mut imap, _server) = signed_in("", script).await;
    let (events, outcome) = events(&mut imap, vec![fetch("1:3", Items::Flags)]).await;
    outcome.unwrap();
    let kept: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Fetched(Fetched { uid, header, text, is_cut, .. }) => {
                (*uid, header.as_ref().map(Vec::len), text.as_ref().map(Vec::len), *is_cut)
            }
            other => (0, None, None, *other == done(0)),
        })
        .collect();
    let most = Some(frame::MAX_SECTION_BYTES);
    let expected =
        [(1, most, None, false), (2, most, None, true), (3, None, Some(PREVIEW_BYTES), true), (0, None, None, true)];
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn one_response_has_its_bounds() {
    let long = MAX_DATA_BYTES + 1;
    let filler = " ".repeat(long);
    for response in [
        format!("* SEARCH {filler}\r\n"),
        format!("* VANISHED {filler}\r\n"),
        format!("* 1 FETCH (UID 1 X {{{long}}}\r\n{filler})\r\n"),
        "* 1 FETCH (UID 1 X {99999999999999999999}\r\n".to_owned(),
        format!("* 1 FETCH (UID 1{})\r\n", " A {1}\r\nx".repeat(20_000)),
        format!("* OK {filler}\r\n"),
    ] {
        let script = Script::new().hear("a3 UID SEARCH ALL").say(response).say("a3 OK done\r\n");
        let (mut imap, _server) = signed_in("", script).await;
        let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
        assert_eq!((events, outcome.unwrap_err().code), (vec![], Code::Protocol));
    }
    // As long as it may be, and a tagged answer of 4 KiB.
    let uids = "1,3,".repeat(MAX_DATA_BYTES / 4 - 10) + "5";
    let script = Script::new().hear("a3 UID SEARCH ALL");
    let script = script.say(format!("* ESEARCH UID ALL {uids}\r\na3 OK {:4096}\r\n", "yes"));
    let (mut imap, _server) = signed_in("", script).await;
    let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
    outcome.unwrap();
    assert_eq!(events, [Event::Found(set("1,3,5")), done(0)]);
}

#[tokio::test]
async fn nothing_vanishes_at_a_server_that_was_not_asked_to_say_so() {
    let script = Script::new().hear("a3 UID SEARCH ALL").say("* VANISHED 1:9\r\n* SEARCH 1 2\r\na3 OK done\r\n");
    let (mut imap, _server) = signed_in("CONDSTORE", script).await;
    let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
    outcome.unwrap();
    assert_eq!(events, [Event::Found(set("1:2")), done(0)]);
}

/// What is looked for in a response takes as long as the response is, whatever stands in it.
#[tokio::test]
async fn braces_by_the_million_are_no_literals() {
    let started = std::time::Instant::now();
    for braces in ["{", "{ ", "{1", "{1 ", "~{"] {
        let data = format!("* 1 FETCH (X ({} {{3}}\r\nabc)\r\na3 OK done\r\n", braces.repeat(1_000_000));
        let (mut imap, _server) = signed_in("", Script::new().hear("a3 UID SEARCH ALL").say(data)).await;
        let (_, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
        outcome.unwrap();
    }
    // A second or so where nothing is optimised; it was hours.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

/// Words of before and after the sign-in alike: they come into logs.
#[tokio::test]
async fn a_refusal_that_repeats_the_secret_is_not_repeated() {
    for (words, left) in [
        ("you said secret", REDACTED),
        ("[secret] LOGIN \"alice\" \"SECRET\"", REDACTED),
        ("[SECRET] no", "no"),
        ("AUTH PLAIN AGFsaWNlAHNlY3JldA==", REDACTED),
    ] {
        let script = Script::new().hear("a3 UID SEARCH ALL").say(format!("a3 NO {words}\r\n"));
        let (mut imap, _server) = signed_in("", script).await;
        let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
        outcome.unwrap();
        let outcome = Outcome::No { code: None, text: left.to_owned() };
        assert_eq!(events, [Event::Done { command: 0, outcome }], "{words}");
    }
}

#[tokio::test]
async fn a_folder_is_opened_and_read_in_one_flight() {
    let resync = Some(Resync { uid_validity: 9, modseq: 100 });
    let changed =
        |vanished| Command::Fetch { uids: set("1:9"), items: Items::Flags, changed_since: Some(100), vanished };
    let fields = "BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC BCC REPLY-TO SUBJECT MESSAGE-ID IN-REPLY-TO REFERENCES \
                  CONTENT-TYPE CONTENT-TRANSFER-ENCODING)]";
    let script = Script::new()
        .hear("a3 ENABLE QRESYNC CONDSTORE")
        .hear("a4 EXAMINE \"a \\\"b\\\"\" (QRESYNC (9 100))")
        .hear("a5 UID FETCH 1:9 (UID FLAGS MODSEQ) (CHANGEDSINCE 100)")
        .hear("a6 UID FETCH 1:9 (UID FLAGS MODSEQ) (CHANGEDSINCE 100 VANISHED)")
        .hear(format!("a7 UID FETCH 5 (UID FLAGS MODSEQ INTERNALDATE RFC822.SIZE {fields} EMAILID THREADID)"))
        .hear("a8 UID SEARCH RETURN (ALL) ALL")
        .say("* ENABLED QRESYNC\r\na3 OK enabled\r\n")
        .say("* OK [CLOSED] x\r\n* FLAGS (\\Seen)\r\n* OK [PERMANENTFLAGS ()] x\r\n* 12 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 9] x\r\n")
        .say("* OK [uidnext 20] x\r\n* OK [HIGHESTMODSEQ 18446744073709551615]\r\n* OK [NOMODSEQ] x\r\n* OK [UIDNOTSTICKY] x\r\n")
        .say("* VANISHED (EARLIER) 1:4294967295\r\n* 3 FETCH (UID 4 FLAGS ())\r\na4 OK [READ-ONLY] open\r\n")
        .say("* OK [ALERT] the weather is fine\r\n* 13 EXISTS\r\na5 OK done\r\n* VANISHED 3:1\r\n* 4 EXPUNGE\r\n")
        .say("a6 OK [HIGHESTMODSEQ 105] done\r\na7 OK done\r\n* ESEARCH (TAG \"a8\") UID ALL 1:3,9\r\na8 OK done\r\n");
    let (mut imap, server) = signed_in("ENABLE CONDSTORE QRESYNC ESEARCH OBJECTID", script).await;
    let commands = vec![
        Command::Examine { mailbox: b"a \"b\"".to_vec(), resync, condstore: true },
        changed(false),
        changed(true),
        fetch("5", Items::Headers),
        Command::SearchAll,
    ];
    let (events, outcome) = events(&mut imap, commands).await;
    outcome.unwrap();
    let expected = [
        Event::Closed,
        Event::Exists(12),
        Event::UidValidity(9),
        Event::UidNext(20),
        Event::HighestModseq(u64::MAX),
        Event::NoModseq,
        Event::UidNotSticky,
        Event::Vanished { uids: set("1:4294967295"), earlier: true },
        Event::Fetched(Fetched { uid: 4, flags: Some(Flags::default()), ..Fetched::default() }),
        done(0),
        Event::Exists(13),
        done(1),
        Event::Vanished { uids: set("1:3"), earlier: false },
        Event::Expunged(4),
        Event::HighestModseq(105),
        done(2),
        done(3),
        Event::Found(set("1:3,9")),
        done(4),
    ];
    assert_eq!(events, expected);
    drop(imap);
    assert_eq!(server.await.unwrap().len(), 2 + 6);
}

#[tokio::test]
async fn what_a_server_does_not_offer_is_not_asked_for() {
    let script = Script::new()
        .hear("a3 EXAMINE \"INBOX\"")
        .hear("a4 UID FETCH 1:9 (UID FLAGS)")
        .hear("a5 UID SEARCH ALL")
        .say("a3 OK\r\na4 OK\r\n* SEARCH 3 1  2 (MODSEQ 9)\r\n* SEARCH\r\na5 OK\r\n")
        .hear("a6 EXAMINE \"INBOX\"")
        .say("a6 OK done\r\n");
    let (mut imap, _server) = signed_in("", script).await;
    let resync = Some(Resync { uid_validity: 9, modseq: 100 });
    let commands = vec![
        Command::Examine { mailbox: b"INBOX".to_vec(), resync, condstore: true },
        Command::Fetch { uids: set("1:9"), items: Items::Flags, changed_since: Some(1), vanished: true },
        Command::SearchAll,
    ];
    let (seen, outcome) = events(&mut imap, commands).await;
    outcome.unwrap();
    assert_eq!(seen, [done(0), done(1), Event::Found(set("1:3")), Event::Found(UidSet::new()), done(2)]);
    // And the connection is good for more.
    assert_eq!(events(&mut imap, vec![examine("INBOX")]).await, (vec![done(0)], Ok(())));
}

#[tokio::test]
async fn arrivals_come_with_what_gmail_knows() {
    let fields =
        "DATE FROM TO CC BCC REPLY-TO SUBJECT MESSAGE-ID IN-REPLY-TO REFERENCES CONTENT-TYPE CONTENT-TRANSFER-ENCODING";
    let script = Script::new()
        .hear("a3 ENABLE CONDSTORE UTF8=ACCEPT")
        .hear("a4 EXAMINE \"INBOX\" (CONDSTORE)")
        .hear(format!(
            "a5 UID FETCH 1 (UID FLAGS MODSEQ X-GM-LABELS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS ({fields})] \
             BODY.PEEK[TEXT]<0.4096> X-GM-MSGID X-GM-THRID)"
        ))
        .hear("a6 UID FETCH 2 (UID FLAGS MODSEQ X-GM-LABELS)")
        .hear("a7 UID FETCH 3 (UID INTERNALDATE RFC822.SIZE X-GM-MSGID X-GM-THRID)")
        .say("a3 OK\r\na4 OK\r\na5 OK\r\na6 OK\r\na7 OK\r\n");
    let (mut imap, _server) = signed_in("ENABLE CONDSTORE UTF8=ACCEPT X-GM-EXT-1", script).await;
    let commands =
        vec![examine("INBOX"), fetch("1", Items::Arrivals), fetch("2", Items::Flags), fetch("3", Items::Marks)];
    assert_eq!(events(&mut imap, commands).await, (vec![done(0), done(1), done(2), done(3)], Ok(())));
}

#[tokio::test]
async fn a_refusal_ends_its_command_and_no_other() {
    let script = Script::new()
        .hear("a3 EXAMINE \"gone\"")
        .hear("a4 UID FETCH 1 (UID FLAGS)")
        .hear("a5 UID FETCH 2 (UID FLAGS)")
        .hear("a6 UID SEARCH ALL")
        .say("a3 NO [nonexistent x] No\x07 such folder\r\n")
        .say("* 1 FETCH (UID 1 FLAGS ())\r\na4 NO [UNAVAILABLE] disk\r\n")
        .say("* NO it is late\r\n* BAD and you are wrong\r\na5 BAD what?\r\na6 OK\r\n");
    let (mut imap, _server) = signed_in("", script).await;
    let commands = vec![
        examine("gone"),
        fetch("1", Items::Flags),
        // Neither is sent.
        examine("a\r\na9 DELETE INBOX"),
        fetch("", Items::Flags),
        fetch("2", Items::Flags),
        Command::SearchAll,
    ];
    let (events, outcome) = events(&mut imap, commands).await;
    outcome.unwrap();
    let no = |code: Option<&str>, text: &str| Outcome::No { code: code.map(str::to_owned), text: text.to_owned() };
    let expected = [
        Event::Done { command: 0, outcome: no(Some("NONEXISTENT"), "No such folder") },
        Event::Fetched(Fetched { uid: 1, flags: Some(Flags::default()), ..Fetched::default() }),
        Event::Done { command: 1, outcome: no(Some("UNAVAILABLE"), "disk") },
        Event::Done { command: 2, outcome: no(None, "a name that cannot be sent") },
        done(3),
        Event::Done { command: 4, outcome: Outcome::Bad { text: "what?".into() } },
        // Without a SEARCH nothing is known.
        done(5),
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn commands_that_are_worked_off_together_end_in_the_order_in_which_they_were_given() {
    let script = Script::new()
        .hear("a3 UID FETCH 1 (UID FLAGS)")
        .hear("a4 UID FETCH 2 (UID FLAGS)")
        .hear("a5 UID SEARCH ALL")
        .say("* 1 FETCH (UID 1 FLAGS ())\r\n* 2 FETCH (UID 2 FLAGS ())\r\n* SEARCH 1 2\r\n")
        .say("a5 OK done\r\na3 OK done\r\na4 NO [UNAVAILABLE] disk\r\n");
    let (mut imap, _server) = signed_in("", script).await;
    let commands = vec![fetch("1", Items::Flags), fetch("2", Items::Flags), Command::SearchAll];
    let (events, outcome) = events(&mut imap, commands).await;
    outcome.unwrap();
    let fetched = |uid| Event::Fetched(Fetched { uid, flags: Some(Flags::default()), ..Fetched::default() });
    let no = Outcome::No { code: Some("UNAVAILABLE".to_owned()), text: "disk".to_owned() };
    let expected =
        [fetched(1), fetched(2), Event::Found(set("1:2")), done(0), Event::Done { command: 1, outcome: no }, done(2)];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn nothing_overtakes_what_opens_a_folder_and_little_is_held_of_what_ends_early() {
    let long = format!("a4 OK {}\r\n", "x".repeat(70_000));
    for (second, said) in [(examine("b"), "a4 OK done\r\n"), (fetch("2", Items::Flags), long.as_str())] {
        for commands in [vec![fetch("1", Items::Flags), second.clone()], vec![examine("a"), second]] {
            let script = Script::new().hear_any().say(said).silence();
            let (mut imap, _server) = signed_in("", script).await;
            let (events, outcome) = events(&mut imap, commands).await;
            assert_eq!((events, outcome.unwrap_err().code), (vec![], Code::Protocol));
        }
    }
}

#[tokio::test]
async fn what_matters_and_cannot_be_read_is_told() {
    for response in [
        "* SEARCH 1 2 x 3\r\n",
        "* SEARCH 1 0\r\n",
        "* SEARCH 1 4294967296\r\n",
        "* ESEARCH (TAG \"a3\") UID ALL 1:\r\n",
        "* ESEARCH (TAG \"a3\") ALL 1:3\r\n",
        "* VANISHED\r\n",
        "* VANISHED (EARLIER) 1,x\r\n",
        "* VANISHED (EARLIER\r\n",
        "* VANISHED ((EARLIER)) 1\r\n",
        "* 4294967296 EXISTS\r\n",
        "* 99999999999999999999 EXPUNGE\r\n",
    ] {
        let script = Script::new().hear("a3 UID SEARCH ALL").say(response).say("a3 OK\r\n");
        let (mut imap, _server) = signed_in("", script).await;
        let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
        assert_eq!((events, outcome), (vec![Event::Undecodable { uid: None }, done(0)], Ok(())), "{response}");
    }
}

#[tokio::test]
async fn what_does_not_matter_is_passed_over() {
    let script = Script::new().hear("a3 UID SEARCH ALL");
    let script = script
        .say("* 3 RECENT\r\n* FLAGS (\\x)\r\n* \r\n* X {3}\r\n* 1\r\n* 5\r\n* LIST x\r\n* ok\r\n* OK [UIDNEXT x]\r\n");
    let script = script.say("* CAPABILITY IMAP4rev1\r\n* ESEARCH (TAG \"a3\") UID COUNT 0\r\na3 OK\r\n");
    let (mut imap, _server) = signed_in("", script).await;
    let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
    assert_eq!((events, outcome), (vec![Event::Found(UidSet::new()), done(0)], Ok(())));
}

#[tokio::test]
async fn a_conversation_that_breaks_gives_an_error_and_nothing_after_it() {
    let first = "* 1 FETCH (UID 1 FLAGS ())\r\n";
    for (response, code) in [
        ("", Code::Unreachable),
        ("* 2 FETCH (UID 2 FL", Code::Unreachable),
        ("* 2 FETCH (UID 2 BODY[HEADER] {100}\r\nabc", Code::Unreachable),
        ("* 2 FETCH (UID 2 BODY[HEADER] {1000000}\r\nabc", Code::Unreachable),
        ("* BYE too many connections\r\n", Code::Unavailable),
        ("a9 OK done\r\n", Code::Protocol),
        // Of the command behind it, which may end first. The end of this one is what does not come.
        ("a4 OK done\r\n", Code::Unreachable),
        ("a4 OK done\r\na4 OK done\r\n", Code::Protocol),
        ("+ go on\r\n", Code::Protocol),
        ("HTTP/1.1 200 OK\r\n", Code::Protocol),
    ] {
        let script = Script::new().hear("a3 UID FETCH 1:2 (UID FLAGS)").say(first).say(response);
        let (mut imap, _server) = signed_in("", script).await;
        let features = imap.features().await.unwrap();
        let mut conversation = imap.converse(&features, vec![fetch("1:2", Items::Flags), Command::SearchAll]);
        assert!(matches!(conversation.next().await, Ok(Some(Event::Fetched(_)))));
        assert_eq!(conversation.next().await.unwrap_err().code, code, "{response}");
        assert_eq!(conversation.next().await.unwrap_err().code, Code::Protocol, "{response}");
        assert_eq!(imap.list(&features).await.unwrap_err().code, Code::Protocol, "{response}");
    }
}

#[tokio::test]
async fn a_conversation_that_was_left_cannot_be_gone_on_with() {
    let script = Script::new().hear("a3 UID SEARCH ALL").say("* SEARCH 1\r\n").silence();
    let (mut imap, _server) = signed_in("", script).await;
    let features = imap.features().await.unwrap();
    let mut conversation = imap.converse(&features, vec![Command::SearchAll]);
    assert_eq!(conversation.next().await.unwrap(), Some(Event::Found(set("1"))));
    assert!(tokio::time::timeout(Duration::from_millis(10), conversation.next()).await.is_err());
    assert_eq!(conversation.next().await.unwrap_err().code, Code::Protocol);
    let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
    assert_eq!((events, outcome.unwrap_err().code), (vec![], Code::Protocol));
}

#[tokio::test]
async fn a_thousand_commands_do_not_wait_for_each_other_nor_for_ever() {
    // Each is answered with more than it takes to ask, before the next one is read.
    let header = "x".repeat(2000);
    let mut script = Script::new();
    for n in 0..1000 {
        script = script.hear(format!("a{} UID FETCH {} (UID FLAGS)", n + 3, n + 1));
        script =
            script.say(format!("* {0} FETCH (UID {0} BODY[HEADER] {{2000}}\r\n{header})\r\na{1} OK\r\n", n + 1, n + 3));
    }
    let (mut imap, server) = signed_in("", script).await;
    let commands = (1..=1000).map(|uid| fetch(&uid.to_string(), Items::Flags)).collect();
    let (events, outcome) = events(&mut imap, commands).await;
    outcome.unwrap();
    assert_eq!(events.len(), 2000);
    assert!((0..1000).all(|n| events[2 * n + 1] == done(n)));
    assert_eq!(server.await.unwrap().len(), 1002);
}

#[tokio::test]
async fn so_much_is_sent_ahead_as_fits_and_a_long_command_alone() {
    // A server that answers nothing until it has heard so many.
    let line = "UID FETCH 1 (UID FLAGS)".len();
    let together = 8 * 1024 / line;
    let mut script = Script::new();
    for n in 0..together {
        script = script.hear(format!("a{} UID FETCH 1 (UID FLAGS)", n + 3));
    }
    for n in 0..together {
        script = script.say(format!("a{} OK\r\n", n + 3));
    }
    let long: UidSet = (1..20_000).step_by(2).collect();
    script = script.hear(format!("a{} UID FETCH {long} (UID FLAGS)", together + 3));
    script = script.say(format!("a{} OK\r\n", together + 3));
    let (mut imap, _server) = signed_in("", script).await;
    let mut commands = vec![fetch("1", Items::Flags); together];
    commands.push(Command::Fetch { uids: long, items: Items::Flags, changed_since: None, vanished: false });
    let (events, outcome) = events(&mut imap, commands).await;
    outcome.unwrap();
    assert_eq!(events.len(), together + 1);
}

const STATUS_LINES: &str =
    "* STATUS INBOX (MESSAGES 3 UIDNEXT 10 UIDVALIDITY 5 UNSEEN 1 HIGHESTMODSEQ 77 MAILBOXID (F1))\r\n";

fn inbox_status() -> Status {
    let (highest_modseq, mailbox_id) = (Some(77), Some("F1".to_owned()));
    Status { messages: 3, uid_next: 10, uid_validity: 5, unseen: 1, highest_modseq, mailbox_id }
}

#[tokio::test]
async fn folders_come_with_their_counts_in_one_flight() {
    let script = Script::new()
        .hear("a3 ENABLE QRESYNC CONDSTORE")
        .hear(
            "a4 LIST \"\" \"*\" RETURN (SPECIAL-USE STATUS (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ MAILBOXID))",
        )
        .say("* ENABLED QRESYNC\r\na3 OK\r\n* LIST (\\HasChildren) \"/\" Inbox\r\n")
        .say(STATUS_LINES)
        .say("* LIST (\\HasNoChildren \\SENT) \"/\" \"Inbox/Entw&APw-rfe\"\r\n* LIST () \"/\" {5}\r\na \"b\"\r\n")
        .say("* STATUS \"a \\\"b\\\"\" (unseen 0 UIDVALIDITY 1 MESSAGES 4294967295 UIDNEXT 1 X (1 (2)) HIGHESTMODSEQ 0)\r\n")
        .say("* LIST (\\NoSelect \\Trash) \"/\" Bin\r\n* STATUS Bin (MESSAGES 0 UIDNEXT 1 UIDVALIDITY 1 UNSEEN 0)\r\n")
        .say("* LIST (\\NonExistent) \"/\" x (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n")
        .say("* STATUS x/y (MESSAGES 1)\r\n* STATUS )\r (\r\n* STATUS x (MESSAGES\r\n* STATUS\r\n* LIST () \"/\" x/y\r\n* OK [ALERT] hello\r\na4 OK\r\n");
    let (mut imap, _server) =
        signed_in("ENABLE CONDSTORE QRESYNC LIST-STATUS LIST-EXTENDED SPECIAL-USE OBJECTID", script).await;
    let features = imap.features().await.unwrap();
    let folders = imap.list(&features).await.unwrap();
    let folder = |wire: &str, path: &str| Folder {
        wire: wire.into(),
        path: path.into(),
        delimiter: Some('/'),
        role: None,
        label: None,
        is_selectable: true,
        status: None,
    };
    let counts =
        Status { messages: u32::MAX, uid_next: 1, uid_validity: 1, unseen: 0, highest_modseq: None, mailbox_id: None };
    let expected = [
        Folder {
            role: Some(Role::Inbox),
            label: Some("\\Inbox"),
            status: Some(inbox_status()),
            ..folder("Inbox", "INBOX")
        },
        Folder { role: Some(Role::Sent), label: Some("\\Sent"), ..folder("Inbox/Entw&APw-rfe", "INBOX/Entwürfe") },
        Folder { status: Some(counts), ..folder("a \"b\"", "a \"b\"") },
        Folder { is_selectable: false, ..folder("Bin", "Bin") },
        Folder { is_selectable: false, ..folder("x", "x") },
        folder("x/y", "x/y"),
    ];
    assert_eq!(folders, expected);
}

#[tokio::test]
async fn without_list_status_counts_are_asked_for_all_together() {
    let listed = "* LIST () \".\" INBOX\r\n* LIST () NIL \"a\"\r\n* LIST (\\Noselect) \".\" b\r\n";
    let items = "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN)";
    let statuses = |first: u32| {
        Script::new()
            .hear(format!("a{first} STATUS \"INBOX\" {items}"))
            .hear(format!("a{} STATUS \"a\" {items}", first + 1))
            .say(STATUS_LINES)
            .say(format!("a{first} OK\r\n* 3 EXISTS\r\na{} NO [NOPERM] not yours\r\n", first + 1))
    };
    let refused = Script::new()
        .hear(format!("a3 LIST \"\" \"*\" RETURN (STATUS {items})"))
        .say("* LIST () \"/\" half\r\na3 BAD no such thing\r\n");
    for (capabilities, script) in [
        ("", Script::new().hear("a3 LIST \"\" \"*\"").say(listed).say("a3 OK\r\n").append(statuses(4))),
        ("SPECIAL-USE", Script::new().hear("a3 LIST \"\" \"*\"").say(listed).say("a3 OK\r\n").append(statuses(4))),
        (
            "SPECIAL-USE LIST-EXTENDED",
            Script::new()
                .hear("a3 LIST \"\" \"*\" RETURN (SPECIAL-USE)")
                .say(listed)
                .say("a3 OK\r\n")
                .append(statuses(4)),
        ),
        // Offered and refused.
        ("LIST-STATUS", refused.hear("a4 LIST \"\" \"*\"").say(listed).say("a4 OK\r\n").append(statuses(5))),
    ] {
        let (mut imap, _server) = signed_in(capabilities, script).await;
        let features = imap.features().await.unwrap();
        let folders = imap.list(&features).await.unwrap();
        let seen: Vec<_> =
            folders.iter().map(|folder| (folder.path.as_str(), folder.delimiter, folder.status.clone())).collect();
        assert_eq!(seen, [("INBOX", Some('.'), Some(inbox_status())), ("a", None, None), ("b", Some('.'), None)]);
    }
}

#[tokio::test]
async fn a_list_that_is_not_whole_is_none() {
    for (response, code) in [
        ("* LIST () \"/\" a\r\na3 NO [SERVERBUG] ouch\r\n".to_owned(), Code::Unavailable),
        ("* LIST () \"/\" a\r\na3 NO too many connections\r\n".to_owned(), Code::Unavailable),
        ("* LIST () \"/\" a\r\na3 NO no\r\n".to_owned(), Code::Protocol),
        ("* LIST () \"/\" a\r\n* LIST ( \"/\r\na3 OK\r\n".to_owned(), Code::Protocol),
        ("* LIST () \"/\"\r\na3 OK\r\n".to_owned(), Code::Protocol),
        ("* LIST () \"/\" a\r\n".to_owned(), Code::Unreachable),
        ("* BYE\r\n".to_owned(), Code::Unavailable),
        ("* LIST () \"/\" a\r\n".repeat(MAX_FOLDERS + 1), Code::Protocol),
        (format!("* LIST () \"/\" {:x<1024}\r\n", "").repeat(4097), Code::Protocol),
    ] {
        let script = Script::new().hear("a3 LIST \"\" \"*\"").say(&response);
        let (mut imap, _server) = signed_in("", script).await;
        assert_eq!(
            imap.list(&Features::default()).await.unwrap_err().code,
            code,
            "{}",
            &response[..20.min(response.len())]
        );
    }
}

#[tokio::test]
async fn odd_names_are_kept_as_they_came() {
    let long = "x".repeat(1025);
    let script = Script::new()
        .hear("a3 LIST \"\" \"*\" RETURN (STATUS (MESSAGES UIDNEXT UIDVALIDITY UNSEEN))")
        .say("* LIST () \"\\\\\" \"a\\\\b\"\r\n*  list () \".\"  Sent Items\r\n* LIST (\\x) \"/\" Entwürfe/x\r\n")
        .say(b"* LIST () \"/\" \"\xff\xfe\"\r\n* LIST () \"/\" \"\"\r\n* LIST () \"/\" {3}\r\na\rb\r\n* LIST () \"/\" a{1}b\"c\r\n")
        .say(format!("* LIST () \"/\" {long}\r\n* LIST () \"/\" nil\r\n* LIST NIL \"/\" inboxes\r\n* LIST () \"/\" inboxes\r\n"))
        .say("a3 OK\r\n");
    let (mut imap, _server) = signed_in("LIST-STATUS", script).await;
    let features = imap.features().await.unwrap();
    let folders = imap.list(&features).await.unwrap();
    let seen: Vec<_> = folders.iter().map(|folder| (folder.wire.as_slice(), folder.path.as_str())).collect();
    let expected: [(&[u8], &str); 7] = [
        (b"a\\b", "a\\b"),
        (b"Sent Items", "Sent Items"),
        ("Entw\u{fc}rfe/x".as_bytes(), "Entwürfe/x"),
        (b"\xff\xfe", "\u{fffd}\u{fffd}"),
        (b"a{1}b\"c", "a{1}b\"c"),
        (b"nil", "nil"),
        (b"inboxes", "inboxes"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(folders[0].delimiter, Some('\\'));
    assert_eq!(folders[1].role, Some(Role::Sent));
}

#[test]
fn each_role_is_had_once() {
    let roles = |delimiter: char, listed: &[(&str, Option<Role>)]| {
        let mut folders: Vec<_> = listed
            .iter()
            .map(|(path, role)| Folder {
                wire: (*path).into(),
                path: (*path).to_owned(),
                delimiter: Some(delimiter),
                role: *role,
                label: None,
                is_selectable: !path.ends_with('!'),
                status: None,
            })
            .collect();
        role::assign(&mut folders);
        folders.into_iter().filter_map(|folder| Some((folder.role?, folder.path))).collect::<Vec<_>>()
    };
    for (delimiter, listed, expected) in [
        // What the server says goes before names, and its first word counts.
        (
            '/',
            vec![("Sent", None), ("Outgoing", Some(Role::Sent)), ("Other", Some(Role::Sent)), ("INBOX", None)],
            vec![(Role::Sent, "Outgoing"), (Role::Inbox, "INBOX")],
        ),
        (
            '.',
            vec![("INBOX", None), ("INBOX.Trash", None), ("INBOX.a.Sent", None)],
            vec![(Role::Inbox, "INBOX"), (Role::Trash, "INBOX.Trash")],
        ),
        // The likelier name, wherever it stands.
        ('/', vec![("Sent Items", None), ("Sent", None)], vec![(Role::Sent, "Sent")]),
        (
            '/',
            vec![("[Gmail]/Sent Mail", None), ("[Gmail]/All Mail", None), ("All Mail", None), ("[Gmail]/Spam", None)],
            vec![(Role::Sent, "[Gmail]/Sent Mail"), (Role::All, "[Gmail]/All Mail"), (Role::Junk, "[Gmail]/Spam")],
        ),
        (
            '/',
            vec![
                ("ENTWÜRFE", None),
                ("Gelöschte Elemente", None),
                ("Отправленные", None),
                ("迷惑メール", None),
                ("Archives", None),
            ],
            vec![
                (Role::Drafts, "ENTWÜRFE"),
                (Role::Trash, "Gelöschte Elemente"),
                (Role::Sent, "Отправленные"),
                (Role::Junk, "迷惑メール"),
                (Role::Archive, "Archives"),
            ],
        ),
        ('/', vec![("work/Sent", None), ("Drafts!", None), ("All Mail", None), ("sentry", None)], vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|(role, path)| (role, path.to_owned())).collect();
        assert_eq!(roles(delimiter, &listed), expected, "{listed:?}");
    }
}

/// Asks for message 7 of a folder, of 10 bytes at most, to which the server says this.
async fn raw(opened: &str, fetched: impl AsRef<[u8]>) -> Result<Option<Raw>, Error> {
    let script = Script::new()
        .hear("a3 EXAMINE \"INBOX\"")
        .hear("a4 UID FETCH 7 (UID BODY.PEEK[]<0.11>)")
        .say(opened)
        .say(fetched);
    let (mut imap, _server) = signed_in("", script).await;
    let features = imap.features().await.unwrap();
    imap.fetch_raw(&features, b"INBOX", 9, 7, 10).await
}

const OPENED: &str = "* OK [UIDVALIDITY 9] x\r\na3 OK [READ-ONLY] open\r\n";

#[tokio::test]
async fn a_whole_message_comes_without_a_copy_and_cut_where_it_is_too_long() {
    let some = |bytes: &[u8], is_cut| Ok(Some(Raw { bytes: bytes.to_vec(), is_cut }));
    for (items, expected) in [
        ("UID 7 BODY[]<0> {10}\r\nA: b\r\n\r\n\r\n", some(b"A: b\r\n\r\n\r\n", false)),
        ("BODY[] {10}\r\n0123456789 UID 7 FLAGS (\\Seen)", some(b"0123456789", false)),
        ("UID 7 BODY[]<0> {11}\r\n0123456789x", some(b"0123456789", true)),
        // Who knows no parts of parts.
        ("UID 7 BODY[] {15}\r\n0123456789abcde", some(b"0123456789", true)),
        ("UID 7 BODY[]<0> \"a \\\"b\\\"\"", some(b"a \"b\"", false)),
        ("UID 7 BODY[]<0> \"ab\"", some(b"ab", false)),
        ("UID 7 BODY[] {0}\r\n", some(b"", false)),
        ("UID 7 BODY[] NIL", some(b"", false)),
        ("UID 7 FLAGS ()", Ok(None)),
        ("UID 8 BODY[] {1}\r\nx", Ok(None)),
    ] {
        let response = format!("* 1 FETCH ({items})\r\n* 2 FETCH (FLAGS () UID 7)\r\na4 OK done\r\n");
        assert_eq!(raw(OPENED, response).await, expected, "{items}");
    }
}

#[tokio::test]
async fn a_message_that_is_not_there_is_none_and_one_that_is_not_given_out_an_error() {
    let code = |outcome: Result<Option<Raw>, Error>| outcome.map_err(|error| error.code);
    let body = "* 1 FETCH (UID 7 BODY[] {1}\r\nx)\r\na4 OK\r\n";
    for (opened, fetched, expected) in [
        (OPENED, "a4 OK done\r\n", Ok(None)),
        (OPENED, "a4 NO [EXPUNGEISSUED] gone\r\n", Ok(None)),
        (OPENED, "a4 NO some messages\r\n", Err(Code::Unavailable)),
        (OPENED, "a4 BAD what?\r\n", Err(Code::Unavailable)),
        (OPENED, "* 1 FETCH (UID 7 BODY[] {1}\r\nx\r\na4 OK\r\n", Err(Code::Protocol)),
        (OPENED, "* 1 FETCH (UID 7 BODY[] {99999999999}\r\nx", Err(Code::Unreachable)),
        ("* OK [UIDVALIDITY 8] x\r\na3 OK\r\n", body, Ok(None)),
        ("a3 NO [NONEXISTENT] x\r\n", "a4 BAD none\r\n", Ok(None)),
        // Whatever such a server has open.
        ("a3 NO [NONEXISTENT] x\r\n", body, Ok(None)),
        ("a3 NO [NOPERM] x\r\n", body, Err(Code::MailboxMissing)),
        ("a3 NO [INUSE] x\r\n", body, Err(Code::Unavailable)),
    ] {
        assert_eq!(code(raw(opened, fetched).await), expected, "{opened}{fetched}");
    }
}

#[tokio::test]
async fn a_large_message_takes_its_own_memory_and_no_more() {
    const LENGTH: usize = 5_000_000;
    let body = "x".repeat(LENGTH);
    let script = Script::new()
        .hear("a3 EXAMINE \"INBOX\"")
        .hear("a4 UID FETCH 7 (UID BODY.PEEK[]<0.6000001>)")
        .say(OPENED)
        .say(format!("* 1 FETCH (UID 7 BODY[]<0> {{{LENGTH}}}\r\n{body})\r\na4 OK\r\n"))
        .hear("a5 UID SEARCH ALL")
        .say(format!("* 1 FETCH (UID 7 BODY[HEADER] {{{LENGTH}}}\r\n{body})\r\na5 OK\r\n"));
    let (mut imap, _server) = signed_in("", script).await;
    let features = imap.features().await.unwrap();
    let raw = imap.fetch_raw(&features, b"INBOX", 9, 7, 6_000_000).await.unwrap().unwrap();
    assert!(raw.bytes.len() == LENGTH && !raw.is_cut && raw.bytes.capacity() < LENGTH + 100_000);
    // And what follows is cut as ever.
    let (events, outcome) = events(&mut imap, vec![Command::SearchAll]).await;
    let Some(Event::Fetched(Fetched { header: Some(header), is_cut: true, .. })) = events.first() else {
        panic!("{events:?} {outcome:?}");
    };
    assert_eq!(header.len(), frame::MAX_SECTION_BYTES);
}

#[tokio::test]
async fn what_changes_messages_is_sent_as_it_is_meant() {
    let script = Script::new()
        .hear("a3 SELECT \"a \\\"b\\\"\"")
        .hear("a4 UID STORE 1:3 +FLAGS.SILENT (\\Seen)")
        .hear("a5 UID STORE 4 -FLAGS.SILENT (\\Deleted)")
        .hear("a6 UID STORE 4 +X-GM-LABELS (\\Inbox)")
        .hear("a7 UID STORE 4 -X-GM-LABELS (\"x y\")")
        .hear("a8 UID MOVE 4,9 \"to\"")
        .hear("a9 UID COPY 4 \"to\"")
        .hear("a10 UID EXPUNGE 4")
        .say("* OK [UIDVALIDITY 9] x\r\na3 OK [READ-WRITE]\r\na4 OK\r\na5 OK\r\na6 OK\r\na7 OK\r\n")
        .say("* OK [COPYUID 7 9,4 20:21] x\r\n* 1 EXPUNGE\r\na8 OK\r\na9 NO [TRYCREATE] x\r\n")
        .say("a10 OK\r\n");
    let (mut imap, _server) = signed_in("", script).await;
    let store = |uids, flag, is_set| Command::Store { uids: set(uids), flag, is_set };
    let label = |label: &str, is_set| Command::Label { uids: set("4"), label: label.into(), is_set };
    let commands = vec![
        Command::Select { mailbox: b"a \"b\"".to_vec() },
        store("1:3", Flag::Seen, true),
        store("4", Flag::Deleted, false),
        label("\\Inbox", true),
        label("x y", false),
        Command::Move { uids: set("4,9"), mailbox: b"to".to_vec() },
        Command::Copy { uids: set("4"), mailbox: b"to".to_vec() },
        // These are not sent.
        Command::Move { uids: set(""), mailbox: b"to".to_vec() },
        Command::Copy { uids: set("4"), mailbox: b"a\r\nb".to_vec() },
        Command::Expunge { uids: set("4") },
    ];
    let (events, outcome) = events(&mut imap, commands).await;
    outcome.unwrap();
    let no = |code: Option<&str>, text: &str| Outcome::No { code: code.map(str::to_owned), text: text.to_owned() };
    let expected = [
        Event::UidValidity(9),
        done(0),
        done(1),
        done(2),
        done(3),
        done(4),
        Event::Copied { uid_validity: 7, uids: vec![(9, 20), (4, 21)] },
        Event::Expunged(1),
        done(5),
        Event::Done { command: 6, outcome: no(Some("TRYCREATE"), "x") },
        done(7),
        Event::Done { command: 8, outcome: no(None, "a name that cannot be sent") },
        done(9),
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn what_was_copied_is_told_in_pairs_or_not_at_all() {
    for (code, expected) in [
        ("COPYUID 7 1 2", Some(vec![(1, 2)])),
        ("copyuid 7 3:1 5,4,9", Some(vec![(1, 5), (2, 4), (3, 9)])),
        ("COPYUID 7 1:2 5", None),
        ("COPYUID 7 0 5", None),
        ("COPYUID 0 1 2", None),
        ("COPYUID 7 1:4294967295 1:4294967295", None),
        ("COPYUID 7 1", None),
        ("COPYUID x 1 2", None),
        ("COPYUID", None),
    ] {
        let script = Script::new().hear("a3 UID COPY 1 \"to\"").say(format!("a3 OK [{code}] done\r\n"));
        let (mut imap, _server) = signed_in("", script).await;
        let command = Command::Copy { uids: set("1"), mailbox: b"to".to_vec() };
        let (seen, outcome) = events(&mut imap, vec![command]).await;
        outcome.unwrap();
        let copied = expected.map(|uids| Event::Copied { uid_validity: 7, uids });
        assert_eq!(seen, copied.into_iter().chain([done(0)]).collect::<Vec<_>>(), "{code}");
    }
}

#[tokio::test]
async fn a_folder_for_what_is_sent_is_made_beside_the_inbox_or_where_that_is_refused_below_it() {
    let ask = |script: Script, tags: [&str; 2], name: &str| {
        script.hear(format!("{} CREATE \"{name}\"", tags[0])).hear(format!("{} SUBSCRIBE \"{name}\"", tags[1]))
    };
    for (first, second, expected) in
        [("OK", None, Ok("Sent")), ("NO", Some("OK"), Ok("INBOX.Sent")), ("NO", Some("NO"), Err(Code::MailboxMissing))]
    {
        let mut script = ask(Script::new(), ["a3", "a4"], "Sent").say(format!("a3 {first} x\r\na4 NO x\r\n"));
        if let Some(second) = second {
            script = ask(script, ["a5", "a6"], "INBOX.Sent").say(format!("a5 {second} x\r\na6 OK x\r\n"));
        }
        let (mut imap, _server) = signed_in("", script).await;
        let features = imap.features().await.unwrap();
        let inbox = Folder {
            wire: "INBOX".into(),
            path: "INBOX".into(),
            delimiter: Some('.'),
            role: Some(Role::Inbox),
            label: None,
            is_selectable: true,
            status: None,
        };
        let made = imap.create_sent(&features, &[inbox]).await;
        assert_eq!(made.map_err(|error| error.code), expected.map(|name| name.as_bytes().to_vec()));
    }
}

#[tokio::test]
async fn a_message_is_looked_for_among_those_that_came_since_it_was_written() {
    let script = Script::new()
        .hear("a3 EXAMINE \"Sent\"")
        .hear("a4 UID SEARCH SINCE 30-Dec-2025 HEADER MESSAGE-ID \"<1@example.com>\"")
        .say("a3 OK\r\n* SEARCH 7\r\na4 OK\r\n");
    let (mut imap, _server) = signed_in("", script).await;
    let features = imap.features().await.unwrap();
    // The first second of 2026.
    assert!(imap.has_message_id(&features, b"Sent", "1@example.com", 1_767_225_600).await.unwrap());
}

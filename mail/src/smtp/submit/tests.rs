use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use crate::connect::{Security, Session};
use crate::sasl::Secret;
use crate::testing::{Script, connect_to_script, submit_to_bytes};

/// A message in pieces.
struct Pieces(Vec<&'static [u8]>);

impl Body for Pieces {
    type Error = &'static str;

    async fn next(&mut self) -> Result<Option<Vec<u8>>, &'static str> {
        match self.0.first() {
            None => Ok(None),
            Some(&b"gone") => Err("gone"),
            Some(_) => Ok(Some(self.0.remove(0).to_vec())),
        }
    }
}

fn login() -> Login {
    Login::new("alice", Secret::Password("hunter22".to_owned().into())).unwrap()
}

/// Somebody has signed in to a server that offers this.
fn signed_in(extensions: &[&str]) -> Script {
    let mut lines = "250-mail.example.com\r\n".to_owned();
    for extension in extensions {
        lines.push_str(&format!("250-{extension}\r\n"));
    }
    Script::new()
        .say("220 mail.example.com\r\n")
        .hear("EHLO [127.0.0.1]")
        .say(lines + "250 AUTH PLAIN\r\n")
        .hear("AUTH PLAIN AGFsaWNlAGh1bnRlcjIy")
        .say("235 2.7.0 in\r\n")
}

/// What each step came to, and what the server heard after the sign-in.
async fn submit(
    script: Script,
    recipients: &[&str],
    change: impl FnOnce(&mut Envelope<'_>),
    body: Vec<&'static [u8]>,
) -> (Offer, Option<Result<Said, Error>>, Vec<String>) {
    let login = login();
    let (stream, server) = connect_to_script(script, Session::new(Duration::from_secs(60), 1 << 20));
    let mut smtp = Smtp::sign_in(stream, Security::Plain, &login).await.unwrap();
    let recipients: Vec<String> = recipients.iter().map(|name| format!("{name}@example.com")).collect();
    let mut envelope =
        Envelope { sender: "jane@example.com", recipients: &recipients, size: 7, id: "0199-1", needs_utf8: false };
    change(&mut envelope);
    let offer = smtp.offer(&login, &envelope).await;
    let mut end = None;
    if let Outcome::GoAhead = offer.outcome {
        match smtp.transmit(&login, &mut Pieces(body)).await {
            Transmission::Ready => {
                end = Some(match smtp.commit(&login, Duration::from_secs(5)).await {
                    Commit::Answered(said) => Ok(said),
                    Commit::Broken(error) | Commit::Lost(error) => Err(error),
                });
            }
            Transmission::Refused(said) => end = Some(Ok(said)),
            Transmission::Broken(error) => end = Some(Err(error)),
            Transmission::NoBody(_) => {}
        }
    }
    drop(smtp);
    (offer, end, server.await.unwrap().split_off(2))
}

fn codes(offer: &Offer) -> Vec<Option<u16>> {
    offer.recipients.iter().map(|said| said.as_ref().map(|said| said.code)).collect()
}

#[tokio::test]
async fn with_pipelining_the_envelope_is_one_round_trip_and_each_recipient_has_its_answer() {
    let script = signed_in(&["PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN"])
        .hear("MAIL FROM:<jane@example.com> SIZE=7 RET=HDRS ENVID=0199-1")
        .hear("RCPT TO:<a@example.com>")
        .hear("RCPT TO:<b@example.com>")
        .hear("RCPT TO:<c@example.com>")
        .hear("DATA")
        .say("250 2.1.0 ok\r\n250 2.1.5 ok\r\n550 5.1.1 who?\r\n450 4.2.1 busy\r\n354 go\r\n")
        .hear("a")
        .hear("..b")
        .hear(".")
        .say("250 2.0.0 taken\r\n");
    let (offer, end, heard) = submit(script, &["a", "b", "c"], |_| (), vec![b"a\r\n", b".b\r\n"]).await;
    assert_eq!(codes(&offer), [Some(250), Some(550), Some(450)]);
    assert_eq!(end.unwrap().unwrap().words, "250 2.0.0 taken", "{heard:?}");
}

#[tokio::test]
async fn without_it_one_command_follows_the_other_and_no_message_is_offered_to_nobody() {
    let script = signed_in(&[])
        .hear("MAIL FROM:<jane@example.com>")
        .say("250 ok\r\n")
        .hear("RCPT TO:<a@example.com>")
        .say("550 5.1.1 who?\r\n")
        .hear("RCPT TO:<b@example.com>")
        .say("450 4.2.1 busy\r\n")
        .hear("QUIT");
    let (offer, end, heard) = submit(script, &["a", "b"], |_| (), vec![]).await;
    assert_eq!((codes(&offer), end), (vec![Some(550), Some(450)], None));
    assert!(matches!(&offer.outcome, Outcome::Refused(said) if said.code == 450), "{offer:?}");
    assert_eq!(heard.len(), 4, "three commands, and the end: {heard:?}");
}

#[tokio::test]
async fn what_is_refused_before_the_message_is_told_as_such() {
    let mail = "MAIL FROM:<jane@example.com>";
    let at_once = || signed_in(&["PIPELINING"]).hear(mail).hear("RCPT TO:<a@example.com>").hear("DATA");
    for (script, code, recipients) in [
        (at_once().say("552 5.3.4 large\r\n503 5.5.1 MAIL first\r\n503 5.5.1 RCPT first\r\n"), 552, vec![None]),
        (at_once().say("421 4.3.0 bye\r\n"), 421, vec![None]),
        (at_once().say("250 ok\r\n421 4.3.0 bye\r\n"), 421, vec![None]),
        (at_once().say("250 ok\r\n550 5.1.1 who?\r\n554 5.5.1 nobody\r\n"), 550, vec![Some(550)]),
        // It waits for a message to nobody, and gets none.
        (at_once().say("250 ok\r\n550 5.1.1 who?\r\n354 go\r\n"), 550, vec![Some(550)]),
        (at_once().say("250 ok\r\n250 ok\r\n451 4.3.0 disk\r\n"), 451, vec![Some(250)]),
        (at_once().say("250 ok\r\n552 too many recipients\r\n554 5.5.1 nobody\r\n"), 452, vec![Some(452)]),
        (signed_in(&[]).hear(mail).say("550 5.7.1 not you\r\n"), 550, vec![None]),
        (
            signed_in(&[]).hear(mail).say("250 ok\r\n").hear("RCPT TO:<a@example.com>").say("421 bye\r\n"),
            421,
            vec![None],
        ),
        (
            signed_in(&[]).hear(mail).say("250 ok\r\n").hear("RCPT TO:<a@example.com>").say("550 5.5.3 too many\r\n"),
            452,
            vec![Some(452)],
        ),
    ] {
        let (offer, end, heard) = submit(script, &["a"], |_| (), vec![]).await;
        assert!(matches!(&offer.outcome, Outcome::Refused(said) if said.code == code), "{code} {offer:?}");
        assert_eq!((codes(&offer), end), (recipients, None), "{code} {heard:?}");
    }
}

#[tokio::test]
async fn what_the_server_said_it_cannot_do_is_not_asked() {
    for (extensions, code) in [(vec!["SIZE 6"], 552), (vec!["SIZE", "PIPELINING"], 553)] {
        let script = signed_in(&extensions);
        let (offer, _, heard) = submit(script, &["a"], |envelope| envelope.needs_utf8 = code == 553, vec![]).await;
        assert!(matches!(&offer.outcome, Outcome::Refused(said) if said.code == code), "{offer:?}");
        assert!(heard.is_empty(), "{heard:?}");
    }
    let script = signed_in(&["SIZE 0", "SMTPUTF8", "8BITMIME"])
        .hear("MAIL FROM:<jane@example.com> SIZE=7 BODY=8BITMIME SMTPUTF8")
        .say("250 ok\r\n")
        .hear("RCPT TO:<ü@example.com>")
        .say("250 ok\r\n")
        .hear("DATA")
        .say("354 go\r\n")
        .hear(".")
        .say("250 taken\r\n");
    let (_, end, heard) = submit(script, &["ü"], |_| (), vec![]).await;
    assert!(end.unwrap().is_ok(), "{heard:?}");
}

#[tokio::test]
async fn before_the_last_dot_nothing_is_sent_and_after_it_nobody_knows() {
    let ready = || {
        signed_in(&[])
            .hear("MAIL FROM:<jane@example.com>")
            .say("250 ok\r\n")
            .hear("RCPT TO:<a@example.com>")
            .say("250 ok\r\n")
            .hear("DATA")
            .say("354 go\r\n")
            .hear("text")
    };
    // Without a body there is no dot.
    let (_, end, heard) = submit(ready().hear("."), &["a"], |_| (), vec![b"text\r\n", b"gone"]).await;
    assert!(end.is_none() && heard.last().unwrap().is_empty(), "{heard:?}");
    for (script, expected) in [
        (ready().hear(".").say("550 5.7.1 spam\r\n"), Ok(550)),
        (ready().hear(".").say("452 4.3.1 full\r\n"), Ok(452)),
        (ready().hear(".").say("354 more\r\n"), Err(Code::Protocol)),
        (ready().hear(".").say("what?\r\n"), Err(Code::Protocol)),
        (ready().hear("."), Err(Code::Unreachable)),
        (ready().hear(".").silence(), Err(Code::Unreachable)),
    ] {
        let (_, end, heard) = submit(script, &["a"], |_| (), vec![b"text\r\n"]).await;
        let end = end.unwrap().map(|said| said.code).map_err(|error| error.code);
        assert_eq!(end, expected, "{heard:?}");
    }
}

/// Servers that answer ahead of what they are told, on purpose or because an answer too many was said before.
#[tokio::test]
async fn what_is_said_before_the_last_dot_is_no_answer_to_it() {
    let said = |ahead: &str| {
        signed_in(&[])
            .hear("MAIL FROM:<jane@example.com>")
            .say("250 ok\r\n")
            .hear("RCPT TO:<a@example.com>")
            .say("250 ok\r\n")
            .hear("DATA")
            .say(format!("354 go\r\n{ahead}"))
            .hear("text")
            .hear(".")
            .say("250 2.0.0 taken\r\n")
    };
    for (ahead, expected, last) in [
        ("250 2.0.0 taken\r\n", Err(Code::Protocol), ""),
        ("354 go on\r\n", Err(Code::Protocol), ""),
        ("what?\r\n", Err(Code::Protocol), ""),
        // Who has enough before the end may say so.
        ("552 5.3.4 too large\r\n", Ok(552), ""),
        ("421-4.3.2 good\r\n421 4.3.2 bye\r\n", Ok(421), ""),
    ] {
        let (_, end, heard) = submit(said(ahead), &["a"], |_| (), vec![b"text\r\n"]).await;
        let end = end.unwrap().map(|said| said.code).map_err(|error| error.code);
        assert_eq!((end, heard.last().unwrap().as_str()), (expected, last), "{ahead}: {heard:?}");
    }
}

/// Between a message and its last dot something else is waited for.
#[tokio::test]
async fn who_has_hung_up_before_the_last_dot_has_taken_nothing() {
    for (last, expected) in [("", None), ("421 4.3.2 bye\r\n", Some(421))] {
        let is_written = Arc::new(Notify::new());
        let script = signed_in(&[])
            .hear("MAIL FROM:<jane@example.com>")
            .say("250 ok\r\n")
            .hear("RCPT TO:<a@example.com>")
            .say("250 ok\r\n")
            .hear("DATA")
            .say("354 go\r\n")
            .hear("text")
            .after(is_written.clone())
            .say(last);
        let login = login();
        let (stream, server) = connect_to_script(script, Session::new(Duration::from_secs(60), 1 << 20));
        let mut smtp = Smtp::sign_in(stream, Security::Plain, &login).await.unwrap();
        let recipients = ["a@example.com".to_owned()];
        let envelope =
            Envelope { sender: "jane@example.com", recipients: &recipients, size: 7, id: "0199-1", needs_utf8: false };
        assert!(matches!(smtp.offer(&login, &envelope).await.outcome, Outcome::GoAhead));
        assert!(matches!(smtp.transmit(&login, &mut Pieces(vec![b"text\r\n"])).await, Transmission::Ready));
        is_written.notify_one();
        server.await.unwrap();
        match (smtp.commit(&login, Duration::from_secs(5)).await, expected) {
            (Commit::Broken(_), None) => {}
            (Commit::Answered(said), Some(code)) => assert_eq!(said.code, code),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn who_hangs_up_on_a_message_may_have_said_why() {
    const LONG: &[u8] = &[b'x'; 1 << 16];
    for (said, expected) in [("552 5.3.4 too large\r\n", Ok(552)), ("", Err(Code::Unreachable))] {
        let script = signed_in(&[])
            .hear("MAIL FROM:<jane@example.com>")
            .say("250 ok\r\n")
            .hear("RCPT TO:<a@example.com>")
            .say("250 ok\r\n")
            .hear("DATA")
            .say(format!("354 go\r\n{said}"))
            .hear("another line");
        let (_, end, heard) = submit(script, &["a"], |_| (), vec![b"text\r\n", LONG]).await;
        assert_eq!(end.unwrap().map(|said| said.code).map_err(|error| error.code), expected, "{heard:?}");
    }
}

proptest! {
    #[test]
    fn dots_are_doubled_at_the_beginning_of_lines_wherever_pieces_end(
        lines in prop::collection::vec("[.a]{0,4}", 0..8), cuts in prop::collection::vec(1usize..5, 1..20),
    ) {
        let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let mut dots = Dots { at_line_start: true };
        let (mut sent, mut rest, mut cuts) = (Vec::new(), message.as_bytes(), cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            sent.extend_from_slice(&dots.doubled(piece));
            rest = more;
        }
        let expected: String =
            lines.iter().map(|line| format!("{}{line}\r\n", if line.starts_with('.') { "." } else { "" })).collect();
        prop_assert_eq!(String::from_utf8(sent).unwrap(), expected);
    }

    #[test]
    fn whatever_a_server_answers_it_gets_what_it_asked_for(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "250 ok\r\n", "250-ok\r\n", "251 2.1.5 ok\r\n", "354 go\r\n", "421 4.3.2 bye\r\n", "450 4.2.1 busy\r\n",
                "550 5.4.5 limit\r\n", "554 hunter22\r\n", "250 AGFsaWNlAGh1bnRlcjIy\r\n", "what?\r\n", "\u{7}", "ü",
            ]),
            0..9,
        ),
    ) {
        submit_to_bytes(pieces.concat().as_bytes());
    }
}

/// Who is not to be read in the header does not keep the others from getting it.
#[tokio::test]
async fn an_address_that_the_server_cannot_take_is_refused_alone() {
    for offers in [vec!["PIPELINING"], vec![]] {
        let script = match offers.is_empty() {
            false => signed_in(&offers)
                .hear("MAIL FROM:<jane@example.com>")
                .hear("RCPT TO:<a@example.com>")
                .hear("RCPT TO:<b@example.com>")
                .hear("DATA")
                .say("250 ok\r\n550 5.1.1 who?\r\n250 ok\r\n354 go\r\n"),
            true => signed_in(&offers)
                .hear("MAIL FROM:<jane@example.com>")
                .say("250 ok\r\n")
                .hear("RCPT TO:<a@example.com>")
                .say("550 5.1.1 who?\r\n")
                .hear("RCPT TO:<b@example.com>")
                .say("250 ok\r\n")
                .hear("DATA")
                .say("354 go\r\n"),
        };
        let script = script.hear(".").say("250 2.0.0 taken\r\n");
        let (offer, end, heard) = submit(script, &["a", "ü", "b"], |_| (), vec![]).await;
        assert_eq!(codes(&offer), [Some(550), Some(553), Some(250)], "{heard:?}");
        assert!(end.unwrap().is_ok(), "{heard:?}");
    }
    let (offer, _, heard) = submit(signed_in(&[]), &["ü", "ö"], |_| (), vec![]).await;
    assert!(matches!(&offer.outcome, Outcome::Refused(said) if said.code == 553), "{offer:?}");
    assert!(heard.is_empty(), "{heard:?}");
    // All would read of it in the header.
    let (offer, _, heard) = submit(signed_in(&[]), &["a", "ü"], |envelope| envelope.needs_utf8 = true, vec![]).await;
    assert_eq!(codes(&offer), [None, Some(553)], "{heard:?}");
    assert!(matches!(&offer.outcome, Outcome::Refused(said) if said.words.contains("no header")), "{offer:?}");
    assert!(heard.is_empty(), "{heard:?}");
}

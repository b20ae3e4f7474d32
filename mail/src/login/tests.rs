use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use tokio::time::Instant;

use super::Protocol::{Imap, Pop3, Smtp};
use super::*;
use crate::connect::{ANSWER_TIMEOUT, SIGN_OUT_TIMEOUT};
use crate::error::Code;
use crate::sasl::REDACTED;
use crate::testing::{Authority, HOST, Script, sign_in_to_bytes, sign_in_to_script};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn with_password(username: &str, password: &str) -> Login {
    Login::new(username, Secret::Password(password.to_owned().into())).unwrap()
}

fn with_token(username: &str, token: &str) -> Login {
    Login::new(username, Secret::AccessToken(token.to_owned().into())).unwrap()
}

fn password() -> Login {
    with_password("alice", "hunter22")
}

fn token() -> Login {
    with_token("alice", "ya29.token")
}

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

fn plain() -> String {
    base64("\0alice\0hunter22")
}

fn xoauth2() -> String {
    base64("user=alice\x01auth=Bearer ya29.token\x01\x01")
}

fn oauthbearer() -> String {
    base64("n,a=alice,\x01auth=Bearer ya29.token\x01\x01")
}

/// As a function would bound a try.
fn session() -> Session {
    Session::new(Duration::from_secs(10), 256 * 1024)
}

/// The outcome and what the server heard.
async fn play(
    protocol: Protocol,
    security: Security,
    login: &Login,
    script: Script,
) -> (Result<(), Error>, Vec<String>) {
    let tls = (AUTHORITY.client(), AUTHORITY.server(HOST));
    sign_in_to_script((protocol, security), login, script, tls, session()).await
}

async fn outcome(protocol: Protocol, security: Security, login: &Login, script: Script) -> Result<(), Error> {
    play(protocol, security, login, script).await.0
}

/// An IMAP server that has greeted with these capabilities.
fn imap(capabilities: &str) -> Script {
    Script::new().say(format!("* OK [CAPABILITY IMAP4rev1 {capabilities}] ready\r\n"))
}

fn pop3(capabilities: &str) -> Script {
    Script::new().say("+OK ready <1@example>\r\n").hear("CAPA").say(format!("+OK\r\n{capabilities}\r\n.\r\n"))
}

fn smtp(extensions: &str) -> Script {
    Script::new()
        .say("220-mail.example.com ESMTP\r\n220 no spam please\r\n")
        .hear("EHLO [127.0.0.1]")
        .say(format!("250-mail.example.com\r\n250-{}\r\n250 SIZE 1000\r\n", extensions.replace(", ", "\r\n250-")))
}

#[tokio::test(start_paused = true)]
async fn imap_signs_in_by_what_is_offered() {
    let bye =
        |script: Script, tag: &str| script.hear(format!("{tag} LOGOUT")).say(format!("* BYE bye\r\n{tag} OK done\r\n"));
    let cases = [
        // In one trip, with data in between that nobody asked for.
        (password(), {
            let script = imap("SASL-IR AUTH=PLAIN AUTH=LOGIN").hear(format!("a1 AUTHENTICATE PLAIN {}", plain()));
            bye(script.say("* 3 EXISTS\r\n* LIST () \"/\" {3}\r\nA\nB\r\na1 OK [CAPABILITY IMAP4rev1] in\r\n"), "a2")
        }),
        // When asked; the capabilities as well.
        (password(), {
            let script = Script::new().say("* ok hello\r\n").hear("a1 CAPABILITY");
            let script =
                script.say("* CAPABILITY IMAP4REV1 auth=plain\r\na1 OK done\r\n").hear("a2 AUTHENTICATE PLAIN");
            bye(script.say("+ \r\n").hear(plain()).say("a2 OK in\r\n"), "a3")
        }),
        // A server that leaves out the space, and the text.
        (password(), {
            let script = imap("AUTH=PLAIN").hear("a1 AUTHENTICATE PLAIN").say("+\r\n");
            bye(script.hear(plain()).say("a1 OK\r\n"), "a2")
        }),
        (password(), bye(imap("").hear("a1 LOGIN \"alice\" \"hunter22\"").say("a1 OK in\r\n"), "a2")),
        (password(), {
            let script = imap("AUTH=LOGIN SASL-IR").hear("a1 AUTHENTICATE LOGIN").say("+ VXNlcm5hbWU6\r\n");
            let script = script.hear(base64("alice")).say("+ UGFzc3dvcmQ6\r\n").hear(base64("hunter22"));
            bye(script.say("a1 OK in\r\n"), "a2")
        }),
        (token(), {
            let script = imap("SASL-IR AUTH=PLAIN AUTH=XOAUTH2").hear(format!("a1 AUTHENTICATE XOAUTH2 {}", xoauth2()));
            bye(script.say("a1 OK in\r\n"), "a2")
        }),
        (token(), {
            let script = imap("AUTH=XOAUTH2 AUTH=OAUTHBEARER").hear("a1 AUTHENTICATE OAUTHBEARER").say("+ \r\n");
            bye(script.hear(oauthbearer()).say("a1 OK in\r\n"), "a2")
        }),
        // Whoever is in is in, whatever the goodbye.
        (password(), imap("").hear("a1 LOGIN \"alice\" \"hunter22\"").say("a1 OK in\r\n").hear("a2 LOGOUT")),
        (password(), imap("").hear("a1 LOGIN \"alice\" \"hunter22\"").say("a1 OK in\r\n").silence()),
    ];
    for (n, (login, script)) in cases.into_iter().enumerate() {
        let started = Instant::now();
        let (outcome, heard) = play(Imap, Security::Tls, &login, Script::new().tls().append(script)).await;
        assert_eq!(outcome, Ok(()), "case {n}: {heard:?}");
        assert!(started.elapsed() <= SIGN_OUT_TIMEOUT + Duration::from_millis(10), "case {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn imap_login_quotes_what_it_can_and_sends_the_rest_as_literals() {
    let login = with_password;
    let cases = [
        (login("a b", r#"p"\{3}"#), imap("").hear(r#"a1 LOGIN "a b" "p\"\\{3}""#)),
        (login("jürgen", "geheim"), imap("").hear("a1 LOGIN {7}").say("+ go on\r\n").hear("jürgen \"geheim\"")),
        (login("alice", "ß"), imap("").hear("a1 LOGIN \"alice\" {2}").say("+ \r\n").hear("ß")),
        (login("jürgen", "ß"), imap("").hear("a1 LOGIN {7}").say("+ \r\n").hear("jürgen {2}").say("+ \r\n").hear("ß")),
    ];
    for (login, script) in cases {
        let script = script.say("a1 OK in\r\n").hear("a2 LOGOUT");
        let (outcome, heard) = play(Imap, Security::Plain, &login, script).await;
        assert_eq!(outcome, Ok(()), "{heard:?}");
    }
    // A server may say no before it has seen the literal.
    let script = imap("").hear("a1 LOGIN {7}").say("a1 NO [AUTHENTICATIONFAILED] too long\r\n");
    let refused = outcome(Imap, Security::Plain, &login("jürgen", "geheim"), script).await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::Authentication, "too long"));
}

#[tokio::test(start_paused = true)]
async fn pop3_signs_in_by_what_is_offered() {
    let long = with_password("alice", &"x".repeat(200));
    let long_plain = base64(&format!("\0alice\0{}", "x".repeat(200)));
    let cases = [
        (password(), pop3("SASL LOGIN PLAIN\r\nUSER").hear(format!("AUTH PLAIN {}", plain())).say("+OK in\r\n")),
        // Too long for the command's line.
        (long, pop3("SASL PLAIN").hear("AUTH PLAIN").say("+ \r\n").hear(long_plain).say("+OK\r\n")),
        (
            password(),
            pop3("USER\r\nUIDL").hear("USER alice").say("+OK\r\n").hear("PASS hunter22").say("+OK 2 messages\r\n"),
        ),
        // Of before RFC 2449.
        (
            password(),
            Script::new()
                .say("+OK\r\n")
                .hear("CAPA")
                .say("-ERR what?\r\n")
                .hear("USER alice")
                .say("+OK\r\n")
                .hear("PASS hunter22")
                .say("+OK\r\n"),
        ),
        (
            password(),
            pop3("SASL LOGIN\r\nUSER")
                .hear("AUTH LOGIN")
                .say("+ VXNlcm5hbWU6\r\n")
                .hear(base64("alice"))
                .say("+ UGFzc3dvcmQ6\r\n")
                .hear(base64("hunter22"))
                .say("+OK\r\n"),
        ),
        (token(), pop3("SASL PLAIN XOAUTH2").hear(format!("AUTH XOAUTH2 {}", xoauth2())).say("+OK\r\n")),
        (token(), pop3("SASL OAUTHBEARER XOAUTH2").hear(format!("AUTH OAUTHBEARER {}", oauthbearer())).say("+OK\r\n")),
    ];
    for (n, (login, script)) in cases.into_iter().enumerate() {
        let script = Script::new().tls().append(script).hear("QUIT").say("+OK bye\r\n");
        let (outcome, heard) = play(Pop3, Security::Tls, &login, script).await;
        assert_eq!(outcome, Ok(()), "case {n}: {heard:?}");
        assert_eq!(heard.last().unwrap(), "QUIT", "case {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn smtp_signs_in_by_what_is_offered() {
    let long = with_token("alice", &"x".repeat(500));
    let long_xoauth2 = base64(&format!("user=alice\x01auth=Bearer {}\x01\x01", "x".repeat(500)));
    let cases = [
        (password(), smtp("AUTH LOGIN PLAIN").hear(format!("AUTH PLAIN {}", plain()))),
        (password(), smtp("AUTH=LOGIN PLAIN").hear(format!("AUTH PLAIN {}", plain()))),
        (
            password(),
            smtp("auth login")
                .hear("AUTH LOGIN")
                .say("334 VXNlcm5hbWU6\r\n")
                .hear(base64("alice"))
                .say("334 UGFzc3dvcmQ6\r\n")
                .hear(base64("hunter22")),
        ),
        (token(), smtp("AUTH PLAIN XOAUTH2").hear(format!("AUTH XOAUTH2 {}", xoauth2()))),
        (token(), smtp("AUTH XOAUTH2 OAUTHBEARER").hear(format!("AUTH OAUTHBEARER {}", oauthbearer()))),
        // Too long for the command's line.
        (long, smtp("AUTH XOAUTH2").hear("AUTH XOAUTH2").say("334 \r\n").hear(long_xoauth2)),
    ];
    for (n, (login, script)) in cases.into_iter().enumerate() {
        let script = Script::new().tls().append(script).say("235 2.7.0 in\r\n").hear("QUIT").say("221 bye\r\n");
        let (outcome, heard) = play(Smtp, Security::Tls, &login, script).await;
        assert_eq!(outcome, Ok(()), "case {n}: {heard:?}");
        assert_eq!(heard.last().unwrap(), "QUIT", "case {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_starttls_everything_is_asked_anew() {
    let cases = [
        (
            Imap,
            imap("STARTTLS LOGINDISABLED AUTH=XOAUTH2").hear("a1 STARTTLS").say("a1 OK go\r\n").tls(),
            Script::new()
                .hear("a2 CAPABILITY")
                .say("* CAPABILITY IMAP4rev1\r\na2 OK\r\n")
                .hear("a3 LOGIN \"alice\" \"hunter22\"")
                .say("a3 OK\r\n")
                .hear("a4 LOGOUT"),
        ),
        (
            Pop3,
            pop3("STLS\r\nSASL XOAUTH2").hear("STLS").say("+OK go\r\n").tls(),
            Script::new()
                .hear("CAPA")
                .say("+OK\r\nSASL PLAIN\r\n.\r\n")
                .hear(format!("AUTH PLAIN {}", plain()))
                .say("+OK\r\n")
                .hear("QUIT"),
        ),
        (
            Smtp,
            smtp("STARTTLS, AUTH XOAUTH2").hear("STARTTLS").say("220 go\r\n").tls(),
            Script::new()
                .hear("EHLO [127.0.0.1]")
                .say("250-me\r\n250 AUTH PLAIN\r\n")
                .hear(format!("AUTH PLAIN {}", plain()))
                .say("235 in\r\n")
                .hear("QUIT"),
        ),
    ];
    for (protocol, before, after) in cases {
        let (outcome, heard) = play(protocol, Security::StartTls, &password(), before.append(after)).await;
        assert_eq!(outcome, Ok(()), "{protocol:?}: {heard:?}");
    }
}

/// Up to the server's word on the login, which is the last thing that it says.
fn refusals(protocol: Protocol, words: &str) -> Script {
    let words = format!("{words}\r\n");
    match protocol {
        Imap => imap("SASL-IR AUTH=PLAIN").hear(format!("a1 AUTHENTICATE PLAIN {}", plain())).say(words),
        Pop3 => pop3("SASL PLAIN").hear(format!("AUTH PLAIN {}", plain())).say(words),
        Smtp => smtp("AUTH PLAIN").hear(format!("AUTH PLAIN {}", plain())).say(words),
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_apart() {
    for (protocol, words, code) in [
        (Imap, "a1 NO [AUTHENTICATIONFAILED] Invalid credentials", Code::Authentication),
        (Imap, "a1 NO [AUTHORIZATIONFAILED] No such identity", Code::Authentication),
        (Imap, "a1 NO [EXPIRED] That password isn't valid any more", Code::Authentication),
        (Imap, "a1 NO [ALERT] Application-specific password required", Code::Authentication),
        (Imap, "a1 NO Ungültige Zugangsdaten", Code::Authentication),
        (Imap, "a1 no", Code::Authentication),
        (Imap, "a1 NO [UNAVAILABLE] User's backend down", Code::Unavailable),
        (Imap, "a1 NO [unavailable]", Code::Unavailable),
        (Imap, "a1 NO [INUSE] Mailbox in use", Code::Unavailable),
        (Imap, "a1 NO [LIMIT] LOGIN Rate limit hit.", Code::Unavailable),
        (Imap, "a1 NO [ALERT] Too many simultaneous connections. (Failure)", Code::Unavailable),
        (Imap, "a1 NO [PRIVACYREQUIRED] Connection offers no privacy", Code::Tls),
        (Imap, "a1 BAD Command Argument Error. 12", Code::Protocol),
        (Imap, "* BYE Too busy", Code::Unavailable),
        (Imap, "* BYE bye\r\na1 NO [AUTHENTICATIONFAILED] Invalid credentials", Code::Authentication),
        (Imap, "* BYE [AUTHENTICATIONFAILED] Invalid credentials", Code::Authentication),
        (Imap, "a0 OK of another command", Code::Protocol),
        (Imap, "OK", Code::Protocol),
        (Imap, "* PREAUTH", Code::Unreachable),
        (Pop3, "-ERR [AUTH] Authentication failed", Code::Authentication),
        (Pop3, "-ERR invalid user or password", Code::Authentication),
        (Pop3, "-err", Code::Authentication),
        (Pop3, "-ERR [IN-USE] Do you have another POP session running?", Code::Unavailable),
        (Pop3, "-ERR [LOGIN-DELAY] minimum time between mail checks violation", Code::Unavailable),
        (Pop3, "-ERR [SYS/TEMP] Internal error", Code::Unavailable),
        (Pop3, "-ERR [SYS/PERM] The mailbox is damaged", Code::Unavailable),
        (Pop3, "-ERR maildrop already locked", Code::Unavailable),
        (Pop3, "OK", Code::Protocol),
        (Smtp, "535 5.7.8 Error: authentication failed", Code::Authentication),
        (
            Smtp,
            "535-5.7.8 Username and Password not accepted.\r\n535 5.7.8 See https://support.example.com",
            Code::Authentication,
        ),
        (Smtp, "534 5.7.9 Application-specific password required", Code::Authentication),
        (Smtp, "432 4.7.12 A password transition is needed", Code::Authentication),
        (Smtp, "525 5.7.13 User account disabled", Code::Authentication),
        (Smtp, "454 4.7.0 Temporary authentication failure", Code::Unavailable),
        (Smtp, "421 4.7.0 Too many errors", Code::Unavailable),
        (Smtp, "530 5.7.0 Must issue a STARTTLS command first", Code::Tls),
        (Smtp, "538 5.7.11 Encryption required", Code::Tls),
        (Smtp, "502 5.5.1 Command not implemented", Code::Protocol),
        (Smtp, "535-5.7.8 one\r\n534 another", Code::Protocol),
        (Smtp, "250 so what", Code::Protocol),
        (Smtp, "999 what", Code::Protocol),
    ] {
        let refused = outcome(protocol, Security::Plain, &password(), refusals(protocol, words)).await.unwrap_err();
        assert_eq!(refused.code, code, "{words}: {refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_comes_in_the_servers_words_cleaned_and_cut() {
    let long = "no ".repeat(1000);
    for (protocol, words, message) in [
        (
            Imap,
            "a1 NO [AUTHENTICATIONFAILED] Invalid\tcredentials \x1b[31m\u{85}(Failure)",
            "Invalid credentials [31m (Failure)",
        ),
        (Pop3, "-ERR [AUTH] Nicht  möglich", "Nicht möglich"),
        (Smtp, "535-5.7.8 Not accepted.\r\n535 5.7.8 Sorry.", "5.7.8 Not accepted. 5.7.8 Sorry."),
        (Imap, "a1 NO", "The mail server does not accept this user name and password."),
        (Pop3, &format!("-ERR {long}"), &long[..200]),
    ] {
        let refused = outcome(protocol, Security::Plain, &password(), refusals(protocol, words)).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (Code::Authentication, message));
    }
}

#[tokio::test(start_paused = true)]
async fn words_that_repeat_the_secret_are_not_repeated() {
    let echoes = [
        "hunter22",
        "HUNTER22",
        "got <hunter22>!",
        &format!("{}hunter22", "x ".repeat(98)),
        &format!("unknown: AUTH PLAIN {}", plain()),
        &plain()[..10],
        &base64("hunter22"),
    ];
    for echo in echoes {
        for (protocol, words) in
            [(Imap, format!("a1 NO {echo}")), (Pop3, format!("-ERR {echo}")), (Smtp, format!("535 {echo}"))]
        {
            let refused =
                outcome(protocol, Security::Plain, &password(), refusals(protocol, &words)).await.unwrap_err();
            assert_eq!(refused, Error::new(Code::Authentication, REDACTED), "{words}");
        }
        // Told on another day, and repeated in the greeting.
        for (protocol, words) in [(Imap, "* BYE"), (Pop3, "-ERR"), (Smtp, "421")] {
            let greeting = Script::new().say(format!("{words} {echo}\r\n"));
            let left = outcome(protocol, Security::Plain, &password(), greeting).await.unwrap_err();
            assert_eq!(left, Error::new(Code::Unavailable, REDACTED), "{words} {echo}");
        }
        // Where it stands in for an answer, nothing is made of it.
        for protocol in [Imap, Pop3, Smtp] {
            let error = outcome(protocol, Security::Plain, &password(), refusals(protocol, echo)).await.unwrap_err();
            assert!(!format!("{error:?}").to_lowercase().contains(&echo.to_lowercase()), "{error:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nor_are_words_that_repeat_it_in_quotes() {
    let login = with_password("alice", r#"h"u\n"#);
    let line = r#"LOGIN "alice" "h\"u\\n""#;
    let script = imap("").hear(format!("a1 {line}")).say(format!("a1 BAD unknown: {line}\r\n"));
    let refused = outcome(Imap, Security::Plain, &login, script).await.unwrap_err();
    assert_eq!(refused, Error::new(Code::Protocol, REDACTED));
}

#[test]
fn nothing_secret_is_printed() {
    for login in [password(), token()] {
        let printed = format!("{login:?}");
        assert!(printed.contains("alice") && !printed.contains(login.secret().reveal()), "{printed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_challenge_of_a_refused_token_is_answered() {
    let challenge = base64(r#"{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}"#);
    for (protocol, script) in [
        (
            Imap,
            imap("SASL-IR AUTH=XOAUTH2")
                .hear(format!("a1 AUTHENTICATE XOAUTH2 {}", xoauth2()))
                .say(format!("+ {challenge}\r\n"))
                .hear("")
                .say("a1 NO no\r\n"),
        ),
        (
            Imap,
            imap("AUTH=OAUTHBEARER SASL-IR")
                .hear(format!("a1 AUTHENTICATE OAUTHBEARER {}", oauthbearer()))
                .say(format!("+ {challenge}\r\n"))
                .hear("AQ==")
                .say("a1 NO no\r\n"),
        ),
        (
            Pop3,
            pop3("SASL XOAUTH2")
                .hear(format!("AUTH XOAUTH2 {}", xoauth2()))
                .say(format!("+ {challenge}\r\n"))
                .hear("")
                .say("-ERR no\r\n"),
        ),
        (
            Pop3,
            pop3("SASL OAUTHBEARER")
                .hear(format!("AUTH OAUTHBEARER {}", oauthbearer()))
                .say(format!("+ {challenge}\r\n"))
                .hear("AQ==")
                .say("-ERR no\r\n"),
        ),
        (
            Smtp,
            smtp("AUTH XOAUTH2")
                .hear(format!("AUTH XOAUTH2 {}", xoauth2()))
                .say(format!("334 {challenge}\r\n"))
                .hear("")
                .say("535 no\r\n"),
        ),
        (
            Smtp,
            smtp("AUTH OAUTHBEARER")
                .hear(format!("AUTH OAUTHBEARER {}", oauthbearer()))
                .say(format!("334 {challenge}\r\n"))
                .hear("AQ==")
                .say("535 no\r\n"),
        ),
    ] {
        let (outcome, heard) = play(protocol, Security::Plain, &token(), script).await;
        let refused = outcome.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (Code::Authentication, "no"), "{heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_stop_asking_is_left() {
    for (protocol, script) in [
        (Imap, imap("AUTH=PLAIN").hear("a1 AUTHENTICATE PLAIN").endless("+ \r\n")),
        (Pop3, pop3("SASL PLAIN").hear(format!("AUTH PLAIN {}", plain())).endless("+ \r\n")),
        (Smtp, smtp("AUTH PLAIN").hear(format!("AUTH PLAIN {}", plain())).endless("334 \r\n")),
    ] {
        let left = outcome(protocol, Security::Plain, &password(), script).await.unwrap_err();
        assert_eq!(left.code, Code::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_offers_no_way_in_gets_no_secret() {
    for (protocol, script, login) in [
        (Imap, imap("LOGINDISABLED"), password()),
        (Imap, imap("LOGINDISABLED AUTH=XOAUTH2 AUTH=CRAM-MD5"), password()),
        (Imap, imap("AUTH=PLAIN"), token()),
        (Pop3, pop3("SASL XOAUTH2"), password()),
        (Pop3, pop3("USER\r\nSASL PLAIN"), token()),
        (Smtp, smtp("AUTH XOAUTH2 GSSAPI"), password()),
        (Smtp, smtp("8BITMIME"), password()),
        (Smtp, smtp("AUTH PLAIN"), token()),
    ] {
        for (security, code, script) in [
            (Security::Plain, Code::Tls, script.clone()),
            (Security::Tls, Code::Authentication, Script::new().tls().append(script)),
        ] {
            let (outcome, heard) = play(protocol, security, &login, script).await;
            assert_eq!(outcome.unwrap_err().code, code, "{heard:?}");
            assert!(heard.iter().all(|line| ["CAPA", "EHLO [127.0.0.1]"].contains(&line.as_str())), "{heard:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_starttls_nothing_is_said_in_clear() {
    for (protocol, script) in [
        (Imap, imap("AUTH=PLAIN")),
        (Imap, imap("STARTTLS").hear("a1 STARTTLS").say("a1 NO not today\r\n")),
        (Imap, imap("STARTTLS").hear("a1 STARTTLS").say("a1 BAD what\r\n")),
        (Pop3, pop3("SASL PLAIN")),
        (Pop3, pop3("STLS").hear("STLS").say("-ERR no\r\n")),
        (Smtp, smtp("AUTH PLAIN")),
        (Smtp, smtp("STARTTLS").hear("STARTTLS").say("501 no\r\n")),
    ] {
        let (outcome, heard) = play(protocol, Security::StartTls, &password(), script.silence()).await;
        assert_eq!(outcome.unwrap_err().code, Code::Tls, "{heard:?}");
        assert!(heard.iter().all(|line| !line.contains("AUTH") && !line.contains("LOGIN")), "{heard:?}");
    }
}

/// CVE-2011-0411 and its like: what was sent in clear must not be taken for what comes by TLS.
#[tokio::test(start_paused = true)]
async fn what_is_injected_before_tls_is_not_believed() {
    for (protocol, script) in [
        (
            Imap,
            imap("STARTTLS").hear("a1 STARTTLS").say("a1 OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\na2 OK in\r\n"),
        ),
        (Pop3, pop3("STLS").hear("STLS").say("+OK go\r\n+OK\r\n.\r\n+OK\r\n+OK in\r\n")),
        (Smtp, smtp("STARTTLS").hear("STARTTLS").say("220 go\r\n250-me\r\n250 AUTH PLAIN\r\n235 in\r\n")),
    ] {
        let (outcome, heard) = play(protocol, Security::StartTls, &password(), script.tls()).await;
        assert_eq!(outcome.unwrap_err().code, Code::Tls, "{heard:?}");
        assert!(heard.iter().all(|line| !line.contains("AUTH") && !line.contains("LOGIN")), "{heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_the_hosts_is_refused() {
    let stranger = Authority::new();
    let certificates = [AUTHORITY.expired_server(HOST), AUTHORITY.server("mail.example.org"), stranger.server(HOST)];
    for (server, protocol) in
        certificates.into_iter().flat_map(|server| [Imap, Pop3, Smtp].map(|p| (server.clone(), p)))
    {
        let starttls = match protocol {
            Imap => imap("STARTTLS").hear("a1 STARTTLS").say("a1 OK go\r\n").tls(),
            Pop3 => pop3("STLS").hear("STLS").say("+OK go\r\n").tls(),
            Smtp => smtp("STARTTLS").hear("STARTTLS").say("220 go\r\n").tls(),
        };
        for (security, script) in [(Security::Tls, Script::new().tls()), (Security::StartTls, starttls)] {
            let tls = (AUTHORITY.client(), server.clone());
            let (outcome, _) = sign_in_to_script((protocol, security), &password(), script, tls, session()).await;
            assert_eq!(outcome.unwrap_err().code, Code::Tls, "{protocol:?} {security:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_protocol_on_the_port_is_told() {
    let greetings = [(Imap, "* OK ready\r\n"), (Pop3, "+OK ready\r\n"), (Smtp, "220 ready\r\n")];
    for protocol in [Imap, Pop3, Smtp] {
        let others = greetings.iter().filter(|(of, _)| *of != protocol).map(|(_, greeting)| *greeting);
        for greeting in others.chain([
            "SSH-2.0-OpenSSH_9.6\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n",
            "\x15\x03\x01\0\x02\x02\n",
        ]) {
            let wrong =
                outcome(protocol, Security::StartTls, &password(), Script::new().say(greeting)).await.unwrap_err();
            assert_eq!(wrong.code, Code::Protocol, "{protocol:?}: {greeting:?}");
        }
        // TLS where there is none.
        let plain = Script::new().say(greetings[0].1);
        assert_eq!(outcome(protocol, Security::Tls, &password(), plain).await.unwrap_err().code, Code::Tls);
        // Signed in already: nothing to be proved.
    }
    let preauth = Script::new().say("* PREAUTH welcome\r\n");
    assert_eq!(outcome(Imap, Security::StartTls, &password(), preauth).await.unwrap_err().code, Code::Protocol);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_before_signing_in_is_a_request_to_come_later() {
    let say = |greeting: &str| Script::new().say(greeting);
    for (protocol, script) in [
        (Imap, say("* BYE Too many connections\r\n")),
        (Imap, say("* OK\r\n").hear("a1 CAPABILITY").say("* BYE Too many connections\r\n")),
        (Imap, imap("STARTTLS").hear("a1 STARTTLS").say("* BYE Too many connections\r\n")),
        (Pop3, say("-ERR [SYS/TEMP] busy\r\n")),
        (Pop3, say("-ERR not you\r\n")),
        (Smtp, say("421 4.3.2 Service not available\r\n")),
        (Smtp, say("554 5.7.1 You are on a list\r\n")),
        (Smtp, say("220 x\r\n").hear("EHLO [127.0.0.1]").say("421 4.3.2 Service not available\r\n")),
        (Smtp, smtp("STARTTLS").hear("STARTTLS").say("454 4.3.0 TLS not available for now\r\n")),
    ] {
        let left = outcome(protocol, Security::StartTls, &password(), script.clone()).await.unwrap_err();
        assert_eq!(left.code, Code::Unavailable, "{script:?}");
        // Its words are for the log: nobody has signed in yet.
        assert_eq!(left.message, Error::new(Code::Unavailable, "").message);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_or_slow_ends_with_the_session_and_looks_unreachable() {
    let unreachable = Error::new(Code::Unreachable, "").message;
    let second = Duration::from_secs(1);
    for protocol in [Imap, Pop3, Smtp] {
        for (security, script, most) in [
            // Hangs up at once: before a word, and before TLS is up.
            (Security::Plain, Script::new(), 0),
            (Security::Plain, Script::new().silence(), 10),
            (Security::Tls, Script::new().silence(), 10),
            (Security::Plain, Script::new().trickle("* OK +OK 220 ".repeat(10), second), 10),
            (Security::Tls, Script::new().trickle([0x16, 3, 3, 0x40, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], second), 10),
        ] {
            let started = Instant::now();
            let error = outcome(protocol, security, &password(), script).await.unwrap_err();
            assert_eq!(
                (error.code, error.message),
                (Code::Unreachable, unreachable.clone()),
                "{protocol:?} {security:?}"
            );
            assert!(
                started.elapsed() <= Duration::from_secs(most) + Duration::from_millis(10),
                "{:?}",
                started.elapsed()
            );
        }
        // In a longer session it is the answer's time that ends it.
        for (security, script) in [
            (Security::Plain, Script::new().trickle("* OK +OK 220 ".repeat(100), second)),
            (Security::Tls, Script::new().silence()),
        ] {
            let started = Instant::now();
            let tls = (AUTHORITY.client(), AUTHORITY.server(HOST));
            let session = Session::new(Duration::from_secs(900), 10_000);
            let (outcome, _) = sign_in_to_script((protocol, security), &password(), script, tls, session).await;
            assert_eq!(outcome.unwrap_err().code, Code::Unreachable);
            assert!(started.elapsed() < ANSWER_TIMEOUT + 2 * second, "{:?}", started.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_is_cut_off() {
    let nested = format!("* 1 FETCH (BODYSTRUCTURE {}{})\r\n", "(".repeat(100_000), ")".repeat(100_000));
    let login = || imap("").hear("a1 LOGIN \"alice\" \"hunter22\"");
    for (protocol, script) in [
        // A line.
        (Imap, Script::new().endless("* OK on and on ")),
        (Pop3, Script::new().endless("+OK on and on ")),
        (Smtp, Script::new().endless("220 on and on ")),
        // An answer of many lines.
        (Imap, login().endless("* 1 EXISTS\r\n")),
        (Pop3, Script::new().say("+OK\r\n").hear("CAPA").say("+OK\r\n").endless("X\r\n")),
        (Smtp, Script::new().endless("220-on and on\r\n")),
        // Literals: of 2 GiB and of more than a number holds, which are not waited for, and many of them.
        (Imap, login().say("* LIST () \"/\" {2147483648}\r\n").silence()),
        (Imap, login().say("* LIST () \"/\" {99999999999999999999999}\r\n").silence()),
        (Imap, login().endless("* LIST () {1000000}\r\n")),
        (Imap, login().say("* LIST (").endless("{1}\r\nx")),
        // Lists in lists.
        (Imap, login().say(&nested)),
        (Imap, Script::new().say(&nested)),
    ] {
        let error = outcome(protocol, Security::Plain, &password(), script.clone()).await.unwrap_err();
        assert_eq!(error.code, Code::Protocol, "{protocol:?}: {error:?}");
    }
}

#[test]
fn what_no_protocol_can_carry_is_no_login() {
    let password = |text: &str| Secret::Password(text.to_owned().into());
    let token = |text: &str| Secret::AccessToken(text.to_owned().into());
    for (username, secret) in [
        ("alice\r\nDELE 1", password("p")),
        ("alice\n", password("p")),
        ("al\0ice", password("p")),
        ("al\x01ice", token("t")),
        ("al\x7fice", token("t")),
        ("alice", password("p\r\nDELE 1")),
        ("alice", password("p\n")),
        ("alice", password("p\0")),
        ("alice", token("t\x01")),
        ("alice", token("t t")),
        ("alice", token("t\r\n")),
    ] {
        assert_eq!(Login::new(username, secret).unwrap_err().code, Code::Authentication, "{username:?}");
    }
    for (username, secret) in
        [("jürgen \"\\{3}", password("ß \t\x1b\"\\")), ("alice@example.com", token("ya29.a-_~+/=="))]
    {
        Login::new(username, secret).unwrap();
    }
}

/// What servers say, and what they may have learnt from us.
const PIECES: [&str; 24] = [
    "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 STARTTLS] x\r\n",
    "* BYE x\r\n",
    "a1 NO ",
    "a1 OK\r\n",
    "a2 OK\r\n",
    "a1 BAD hunter22\r\n",
    "+ \r\n",
    "+OK\r\n",
    "-ERR ",
    "SASL PLAIN\r\n",
    "STLS\r\n",
    ".\r\n",
    "220 x\r\n",
    "250-x\r\n",
    "250-AUTH PLAIN XOAUTH2\r\n",
    "250 STARTTLS\r\n",
    "334 \r\n",
    "535 ",
    "235 ok\r\n",
    "{5}\r\n",
    "\r\n",
    "hunter22",
    "ya29.token",
    "AGFsaWNlAGh1bnRlcjIy",
];

proptest! {
    /// Whatever the server says, the outcome is short and clean, and has no secret in it.
    #[test]
    fn any_bytes_have_an_outcome(
        pieces in prop::collection::vec(
            prop_oneof![
                any::<Vec<u8>>(),
                prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
            ],
            0..20,
        ),
    ) {
        for protocol in [Imap, Pop3, Smtp] {
            sign_in_to_bytes(protocol, &pieces.concat());
        }
    }
}

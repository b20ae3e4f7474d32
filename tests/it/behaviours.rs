//! What mail servers do that they must not: the table that `hostile.rs` goes through. Each entry is from a public report or from a
//! sentence of a standard, and says what the service makes of it.

use mail::testing::Script;

use crate::model_imap::{Extensions, Lie, Then};
use crate::model_smtp::{At, Fault};

/// What an account signs in with here. No log and no answer may have it, whatever a server says.
pub const PASSWORD: &str = "tr0ubador-and-3-staples";

/// The messages that are in the inbox before a server begins to lie; one more arrives then.
pub const MESSAGES: u32 = 4;

/// One entry.
pub struct Behaviour {
    pub name: &'static str,
    /// A standard and its section, or a report.
    pub reference: &'static str,
    pub does: Does,
}

/// When a server misbehaves, how, and what comes of it.
pub enum Does {
    /// While somebody signs in.
    SignIn {
        protocol: &'static str,
        encryption: &'static str,
        certificate: Certificate,
        script: Script,
        promise: Promise,
    },
    /// While an IMAP mailbox is synchronised.
    Imap { extensions: Extensions, lies: Vec<Lie>, promise: Promise },
    /// While a POP3 mailbox is.
    Pop3 { lies: Vec<Lie>, promise: Promise },
    /// While a message is handed over: its status then, and after the server is honest again.
    Submission { extensions: Vec<&'static str>, faults: Vec<(At, Fault)>, status: &'static str, later: &'static str },
}

/// What the service says of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Nothing: what it did is passed over.
    Fine,
    /// An error of this code.
    Code(&'static str),
}

use Promise::{Code, Fine};

const PROTOCOL: Promise = Code("protocol");
const TLS: Promise = Code("tls");
const UNREACHABLE: Promise = Code("unreachable");
const UNAVAILABLE: Promise = Code("unavailable");
const AUTHENTICATION: Promise = Code("authentication");

/// What a server shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    Good,
    Expired,
    OtherName,
    OtherAuthority,
}

/// All of them.
pub fn table() -> Vec<Behaviour> {
    [imap_sign_ins(), pop3_sign_ins(), smtp_sign_ins(), tls(), imap_mailboxes(), pop3_mailboxes(), submissions()]
        .into_iter()
        .flatten()
        .collect()
}

fn sign_in(
    (protocol, encryption): (&'static str, &'static str),
    (name, reference): (&'static str, &'static str),
    script: Script,
    promise: Promise,
) -> Behaviour {
    let certificate = Certificate::Good;
    Behaviour { name, reference, does: Does::SignIn { protocol, encryption, certificate, script, promise } }
}

const IMAP: (&str, &str) = ("imap", "none");
const POP3: (&str, &str) = ("pop3", "none");
const SMTP: (&str, &str) = ("smtp", "none");

/// As much as a flood brings at once.
fn flood() -> Vec<u8> {
    vec![b'x'; 64 * 1024]
}

/// A greeting with these capabilities, up to the client's first command.
fn imap(capabilities: &str) -> Script {
    Script::new().say(format!("* OK [CAPABILITY IMAP4rev1 {capabilities}] ready\r\n")).hear_any()
}

fn imap_sign_ins() -> Vec<Behaviour> {
    let starttls = ("imap", "starttls");
    let plain = |entry, script, promise| sign_in(IMAP, entry, script, promise);
    vec![
        plain(
            ("IMAP: a greeting without an end", "CVE-2013-1752 (imaplib.readline)"),
            Script::new().say("* OK ").endless(flood()),
            PROTOCOL,
        ),
        plain(
            ("IMAP: lines without an end before the answer", "python/cpython#119511"),
            imap("").endless("* OK more\r\n".repeat(1000)),
            PROTOCOL,
        ),
        plain(
            ("IMAP: 100,000 lines of data before the answer", "duesee/imap-next#87"),
            imap("").say("* 1 EXISTS\r\n".repeat(100_000)).say("a1 OK in\r\n"),
            PROTOCOL,
        ),
        plain(
            ("IMAP: a greeting of bytes", "CVE-2020-28896"),
            Script::new().say(b"\x15\x03\x03\x00\x02\x02\x28\xff\x00\n"),
            PROTOCOL,
        ),
        plain(("IMAP: BYE for a greeting", "RFC 9051, 7.1.5"), Script::new().say("* BYE not you\r\n"), UNAVAILABLE),
        plain(("IMAP: a greeting with a tag", "RFC 9051, 7.1"), Script::new().say("a1 OK in\r\n"), PROTOCOL),
        sign_in(
            starttls,
            ("IMAP: PREAUTH where STARTTLS is wanted", "CVE-2020-14093"),
            Script::new().say("* PREAUTH [CAPABILITY IMAP4rev1] in already\r\n").hear_any(),
            PROTOCOL,
        ),
        sign_in(
            starttls,
            ("IMAP: answers injected ahead of TLS", "CVE-2020-15685"),
            imap("STARTTLS").say("a1 OK go\r\n* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n").tls().hear_any(),
            TLS,
        ),
        sign_in(
            starttls,
            ("IMAP: STARTTLS stripped from the list", "https://nostarttls.secvuln.info"),
            Script::new().say("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n").hear_any(),
            TLS,
        ),
        sign_in(
            starttls,
            ("IMAP: STARTTLS refused", "CVE-2021-22946"),
            imap("STARTTLS").say("a1 NO not today\r\n").hear_any(),
            TLS,
        ),
        sign_in(
            starttls,
            ("IMAP: STARTTLS accepted under another tag", "RFC 9051, 2.2.2"),
            imap("STARTTLS").say("a9 OK go\r\n").tls().hear_any(),
            PROTOCOL,
        ),
        plain(
            ("IMAP: a list of capabilities of a megabyte", "CVE-2013-1752 (imaplib.readline)"),
            Script::new().say("* OK [CAPABILITY IMAP4rev1").say(" X=YZ".repeat(200_000)).say("] ready\r\n"),
            PROTOCOL,
        ),
        plain(
            ("IMAP: a list of no capabilities", "CVE-2020-16117"),
            Script::new().say("* OK hi\r\n").hear_any().say("* CAPABILITY\r\na1 OK\r\n").hear_any().say("a2 OK in\r\n"),
            Fine,
        ),
        plain(
            ("IMAP: a literal of 4 GiB", "CVE-2025-43857"),
            imap("").say("* LIST () \"/\" {4294967296}\r\n").endless(flood()),
            PROTOCOL,
        ),
        plain(
            ("IMAP: a literal whose length has 40 digits", "CVE-2018-14351"),
            imap("").say(format!("* LIST () \"/\" {{{}}}\r\n", "9".repeat(40))).endless(flood()),
            PROTOCOL,
        ),
        plain(
            ("IMAP: a literal of -1 bytes", "greenmail-mail-test/greenmail#1038"),
            imap("").say("* LIST () \"/\" {-1}\r\na1 OK in\r\n"),
            Fine,
        ),
        plain(
            ("IMAP: a literal that does not come", "python/cpython#119511"),
            imap("").say("* LIST () \"/\" {100}\r\n").silence(),
            UNREACHABLE,
        ),
        plain(
            ("IMAP: 10,000 lists within lists, unasked", "djc/imap-proto#90"),
            imap("").say(format!("* 1 FETCH (BODYSTRUCTURE {}\r\na1 OK in\r\n", "(".repeat(10_000))),
            Fine,
        ),
        plain(
            ("IMAP: a refusal of another command", "RFC 9051, 2.2.2"),
            imap("").say("a7 NO [AUTHENTICATIONFAILED] wrong\r\n"),
            PROTOCOL,
        ),
        plain(
            ("IMAP: LOGIN answered with a question", "RFC 9051, 7.6"),
            imap("").say("+ and what else?\r\n").silence(),
            PROTOCOL,
        ),
        plain(
            ("IMAP: questions without an end", "RFC 9051, 6.2.2"),
            imap("AUTH=PLAIN").say("+ \r\n".repeat(1000)).silence(),
            PROTOCOL,
        ),
        plain(
            ("IMAP: a byte now and then", "brazilofmux/tinymux#1802"),
            Script::new().trickle("* OK ".repeat(100), std::time::Duration::from_millis(300)),
            UNREACHABLE,
        ),
        plain(("IMAP: silence after a command", "pimalaya/himalaya#714"), imap("").silence(), UNREACHABLE),
        plain(("IMAP: BAD for everything", "RFC 9051, 7.1.3"), imap("").say("a1 BAD what?\r\n"), PROTOCOL),
        plain(
            ("IMAP: a refusal that repeats the password, with control characters", "roundcube/roundcubemail#5472"),
            imap("").say(format!("a1 NO [ALERT] \x1b[2J\x07 bad: LOGIN \"jane\" \"{PASSWORD}\"\r\n")),
            AUTHENTICATION,
        ),
        plain(
            ("IMAP: a refusal that sends us elsewhere", "RFC 2221, 4"),
            imap("").say("a1 NO [REFERRAL imap://jane;AUTH=*@127.0.0.1/] go there\r\n"),
            AUTHENTICATION,
        ),
        plain(
            ("IMAP: compressed without being asked", "RFC 4978, 3"),
            imap("").say("a1 OK in\r\n").say(b"\x4b\x2b\xcd\x49\x51\n".repeat(20_000)),
            Fine,
        ),
        plain(
            ("IMAP: compressed before an answer", "RFC 4978, 3"),
            imap("").say(b"\x4b\x2b\xcd\x49\x51\n".repeat(20_000)),
            PROTOCOL,
        ),
        plain(
            ("IMAP: NUL in a greeting", "RFC 9051, 9"),
            Script::new().say("* OK [CAPABILITY IMAP4rev1] a\0b\r\n").hear_any().say("a1 OK \0\r\n"),
            Fine,
        ),
    ]
}

fn pop3(capabilities: &str) -> Script {
    let capabilities = format!("+OK\r\n{capabilities}\r\n.\r\n");
    Script::new().say("+OK ready\r\n").hear_any().say(capabilities).hear_any()
}

fn pop3_sign_ins() -> Vec<Behaviour> {
    let starttls = ("pop3", "starttls");
    let plain = |entry, script, promise| sign_in(POP3, entry, script, promise);
    vec![
        plain(
            ("POP3: a greeting without an end", "CVE-2013-1752 (poplib)"),
            Script::new().say("+OK ").endless(flood()),
            PROTOCOL,
        ),
        plain(
            ("POP3: -ERR for a greeting", "RFC 3206, 4"),
            Script::new().say("-ERR [SYS/TEMP] later\r\n"),
            UNAVAILABLE,
        ),
        plain(("POP3: almost +OK", "RFC 1939, 3"), Script::new().say("+OKAY ready\r\n"), PROTOCOL),
        plain(
            ("POP3: an invitation to APOP, which is not taken", "CVE-2007-1558"),
            Script::new()
                .say("+OK <1896.697170952@mail.example.com>\r\n")
                .hear("CAPA")
                .say("-ERR\r\n")
                .hear("USER jane")
                .say("+OK\r\n")
                .hear_any()
                .say("+OK in\r\n"),
            Fine,
        ),
        plain(
            ("POP3: capabilities without an end", "RFC 2449, 5"),
            Script::new().say("+OK\r\n").hear_any().say("+OK\r\n").endless("X\r\n".repeat(1000)),
            PROTOCOL,
        ),
        plain(
            ("POP3: -ERR behind the +OK", "RFC 1939, 3"),
            pop3("USER").say("+OK\r\n").hear_any().say("+OK in\r\n-ERR or not\r\n"),
            Fine,
        ),
        plain(("POP3: USER answered with a question", "RFC 1939, 3"), pop3("USER").say("+ \r\n"), PROTOCOL),
        plain(
            ("POP3: silence after the password", "RFC 1939, 3"),
            pop3("USER").say("+OK\r\n").hear_any().silence(),
            UNREACHABLE,
        ),
        plain(
            ("POP3: a refusal that repeats the password", "thunderbird/thunderbird-android#3293"),
            pop3("USER").say("+OK\r\n").hear_any().say(format!("-ERR PASS {PASSWORD} is wrong\r\n")),
            AUTHENTICATION,
        ),
        sign_in(
            starttls,
            ("POP3: answers injected ahead of TLS", "CVE-2020-14928"),
            pop3("STLS").say("+OK go\r\n+OK and more\r\n").tls().hear_any(),
            TLS,
        ),
        sign_in(starttls, ("POP3: STLS stripped from the list", "https://nostarttls.secvuln.info"), pop3("USER"), TLS),
        sign_in(starttls, ("POP3: STLS refused", "CVE-2021-22946"), pop3("STLS").say("-ERR no\r\n").hear_any(), TLS),
    ]
}

fn smtp(extensions: &str) -> Script {
    let hello = format!("250-mail.example.com\r\n250 {extensions}\r\n");
    Script::new().say("220 mail.example.com\r\n").hear_any().say(hello).hear_any()
}

fn smtp_sign_ins() -> Vec<Behaviour> {
    let starttls = ("smtp", "starttls");
    let plain = |entry, script, promise| sign_in(SMTP, entry, script, promise);
    vec![
        plain(
            ("SMTP: a greeting of lines without an end", "mickem/nscp#1471"),
            Script::new().endless("220-more\r\n".repeat(1000)),
            PROTOCOL,
        ),
        plain(
            ("SMTP: a greeting without an end", "brazilofmux/tinymux#1802"),
            Script::new().say("220 ").endless(flood()),
            PROTOCOL,
        ),
        plain(
            ("SMTP: EHLO answered with 10,000 lines", "mickem/nscp#1471"),
            Script::new().say("220 x\r\n").hear_any().say("250-X\r\n".repeat(10_000)).say("250 AUTH PLAIN\r\n"),
            PROTOCOL,
        ),
        plain(
            ("SMTP: a line of a megabyte", "emersion/go-smtp#80"),
            Script::new().say("220 x\r\n").hear_any().say(format!("250 {}\r\n", "x".repeat(1 << 20))),
            PROTOCOL,
        ),
        plain(("SMTP: AUTH answered with 250", "RFC 4954, 6"), smtp("AUTH PLAIN").say("250 2.0.0 fine\r\n"), PROTOCOL),
        plain(
            ("SMTP: a challenge of a megabyte", "RFC 4954, 4"),
            smtp("AUTH LOGIN").say(format!("334 {}\r\n", "A".repeat(1 << 20))),
            PROTOCOL,
        ),
        plain(
            ("SMTP: challenges without an end", "RFC 4954, 4"),
            smtp("AUTH PLAIN").say("334 \r\n".repeat(1000)).silence(),
            PROTOCOL,
        ),
        plain(
            ("SMTP: two codes in one reply", "RFC 5321, 4.2.1"),
            smtp("AUTH PLAIN").say("235-2.7.0 in\r\n535 5.7.8 out\r\n"),
            PROTOCOL,
        ),
        plain(("SMTP: a code that begins with 6", "RFC 5321, 4.2.1"), Script::new().say("650 hello\r\n"), PROTOCOL),
        plain(("SMTP: a code of four digits", "RFC 5321, 4.2"), smtp("AUTH PLAIN").say("2350 in\r\n"), PROTOCOL),
        plain(("SMTP: 421 for a greeting", "RFC 5321, 3.8"), Script::new().say("421 4.3.2 closing\r\n"), UNAVAILABLE),
        plain(
            ("SMTP: bytes after QUIT, without an end", "RFC 5321, 4.1.1.10"),
            smtp("AUTH PLAIN").say("235 in\r\n").hear_any().endless(flood()),
            Fine,
        ),
        plain(
            ("SMTP: a refusal that repeats what was said", "eleith/emailjs#339"),
            smtp("AUTH PLAIN").say(format!("535-5.7.8 you said\r\n535 5.7.8 {PASSWORD}\r\n")),
            AUTHENTICATION,
        ),
        plain(
            ("SMTP: a byte now and then", "lettre/lettre#1027"),
            Script::new().trickle("220-".repeat(100), std::time::Duration::from_millis(300)),
            UNREACHABLE,
        ),
        sign_in(
            starttls,
            ("SMTP: answers injected ahead of TLS", "CVE-2021-38371"),
            smtp("STARTTLS").say("220 go\r\n250-x\r\n250 AUTH PLAIN\r\n").tls().hear_any(),
            TLS,
        ),
        sign_in(
            starttls,
            ("SMTP: STARTTLS stripped from the list", "https://nostarttls.secvuln.info"),
            smtp("AUTH PLAIN"),
            TLS,
        ),
        sign_in(
            starttls,
            ("SMTP: STARTTLS refused for now", "RFC 3207, 4"),
            smtp("STARTTLS").say("454 4.7.0 no TLS\r\n").hear_any(),
            UNAVAILABLE,
        ),
    ]
}

/// A ServerHello of TLS 1.0.
const TLS_1_0: &[u8] = b"\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x010123456789abcdef0123456789abcdef\x00\x00\x2f\x00";

fn tls() -> Vec<Behaviour> {
    let encrypted = |entry, script, promise| sign_in(("imap", "tls"), entry, script, promise);
    let shown = |protocol, entry, shown| {
        let mut behaviour = sign_in((protocol, "tls"), entry, Script::new().tls().hear_any(), TLS);
        if let Does::SignIn { certificate, .. } = &mut behaviour.does {
            *certificate = shown;
        }
        behaviour
    };
    vec![
        shown("imap", ("TLS: a certificate for another name", "RFC 9525, 6"), Certificate::OtherName),
        shown("pop3", ("TLS: a certificate that has expired", "RFC 5280, 6.1.3"), Certificate::Expired),
        shown("smtp", ("TLS: a certificate by nobody we know", "RFC 5280, 6.1"), Certificate::OtherAuthority),
        encrypted(
            ("TLS: a handshake that is not answered", "lettre/lettre#1027"),
            Script::new().silence(),
            UNREACHABLE,
        ),
        encrypted(
            ("TLS: a record that comes byte by byte", "lettre/lettre#1027"),
            Script::new().say(b"\x16\x03\x03\x20\x00").trickle([2; 100], std::time::Duration::from_millis(300)),
            UNREACHABLE,
        ),
        encrypted(
            ("TLS: a record of more than may be", "RFC 8446, 5.1"),
            Script::new().say(b"\x16\x03\x03\xff\xff").endless(flood()),
            TLS,
        ),
        encrypted(("TLS: plain text", "RFC 8446, 5"), Script::new().say("* OK hello\r\n").hear_any(), TLS),
        encrypted(("TLS: version 1.0", "RFC 8996, 4"), Script::new().say(TLS_1_0).hear_any(), TLS),
        encrypted(
            ("TLS: hangs up in the handshake", "RFC 8446, 6.1"),
            Script::new().say(b"\x16\x03\x03\x20\x00\x02"),
            TLS,
        ),
    ]
}

const NONE: Extensions = Extensions {
    condstore: false,
    qresync: false,
    list_status: false,
    esearch: false,
    object_id: false,
    special_use: false,
    uidplus: false,
    moves: false,
    gmail: false,
    utf8_accept: false,
};
const CONDSTORE: Extensions = Extensions { condstore: true, ..NONE };
const QRESYNC: Extensions = Extensions { condstore: true, qresync: true, list_status: true, ..NONE };

fn synced(name: &'static str, reference: &'static str, lies: Vec<Lie>, promise: Promise) -> Behaviour {
    offering(NONE, name, reference, lies, promise)
}

fn offering(
    extensions: Extensions,
    name: &'static str,
    reference: &'static str,
    lies: Vec<Lie>,
    promise: Promise,
) -> Behaviour {
    Behaviour { name, reference, does: Does::Imap { extensions, lies, promise } }
}

/// The inbox as a server without LIST-STATUS counts it.
fn status(counts: &str) -> Lie {
    Lie::new("STATUS", format!("* STATUS \"INBOX\" ({counts})\r\n{{tag}} OK done\r\n"), Then::GoOn)
}

/// One more line ahead of the true list of folders.
fn listed(line: impl AsRef<[u8]>) -> Vec<Lie> {
    vec![Lie::new("LIST", [b"* LIST () ".as_slice(), line.as_ref(), b"\r\n"].concat(), Then::Truth)]
}

/// A message as it comes when a list of messages is to show it.
fn message(uid: impl std::fmt::Display, size: &str, date: &str, header: &str) -> String {
    format!(
        "* 5 FETCH (UID {uid} FLAGS () INTERNALDATE \"{date}\" RFC822.SIZE {size} BODY[HEADER.FIELDS (DATE)] {{{}}}\r\n{header} \
         BODY[TEXT]<0> {{2}}\r\nhi)\r\n",
        header.len()
    )
}

const DATE: &str = " 2-Nov-2026 10:00:00 +0000";
const HEADER: &str = "Subject: x\r\nMessage-ID: <x@example.com>\r\n\r\n";
/// The command that asks for what has arrived.
const ARRIVAL: &str = "UID FETCH 5";

fn imap_mailboxes() -> Vec<Behaviour> {
    let before = |on, say: String| vec![Lie::new(on, say, Then::Truth)];
    let answer = |on, say: String| vec![Lie::new(on, say + "{tag} OK done\r\n", Then::GoOn)];
    // All that was there is there, and more that has no UID below the next one.
    let miscounted = || status("MESSAGES 9 UIDNEXT 6 UIDVALIDITY 1001 UNSEEN 4 HIGHESTMODSEQ 5");
    let odd = |from: u32, to: u32| (from..to).step_by(2).map(|uid| format!(" {uid}")).collect::<String>();
    vec![
        offering(
            CONDSTORE,
            "IMAP: a search that finds four billion messages",
            "CVE-2025-25186",
            vec![
                status("MESSAGES 4294967295 UIDNEXT 4294967295 UIDVALIDITY 1001 UNSEEN 0 HIGHESTMODSEQ 5"),
                Lie::new("UID SEARCH", "* ESEARCH (TAG \"x\") UID ALL 1:4294967294\r\n{tag} OK done\r\n", Then::GoOn),
            ],
            PROTOCOL,
        ),
        offering(
            CONDSTORE,
            "IMAP: a search that finds a million numbers",
            "nextcloud/mail#12714",
            vec![
                miscounted(),
                Lie::new(
                    "UID SEARCH",
                    (0..6)
                        .map(|n| format!("* SEARCH{}\r\n", odd(n * 400_000 + 1001, (n + 1) * 400_000)))
                        .collect::<String>(),
                    Then::Truth,
                ),
            ],
            PROTOCOL,
        ),
        offering(
            CONDSTORE,
            "IMAP: a search that says each number in a line of its own, backwards",
            "RFC 3501, 7.2.5",
            vec![
                miscounted(),
                Lie::new(
                    "UID SEARCH",
                    (0..100_000).rev().map(|n| format!("* SEARCH {}\r\n", 2 * n + 1001)).collect::<String>(),
                    Then::Truth,
                ),
            ],
            Fine,
        ),
        synced(
            "IMAP: two million braces before a literal",
            "CVE-2018-1060 (poplib: time that grows faster than what is read)",
            before("UID FETCH", format!("* 1 FETCH (X {} {{3}}\r\nabc)\r\n", "{".repeat(2_000_000))),
            Fine,
        ),
        synced(
            "IMAP: 100,000 lists within lists",
            "emersion/go-imap#574",
            before("UID FETCH", format!("* 1 FETCH (UID 1 BODYSTRUCTURE {})\r\n", "(".repeat(100_000))),
            Fine,
        ),
        synced(
            "IMAP: a line of mailbox data without an end",
            "duesee/imap-next#87",
            vec![Lie::new("UID FETCH", "* 1 FETCH (UID 1 X".to_owned() + &"x".repeat(5 << 20), Then::Silence)],
            PROTOCOL,
        ),
        synced(
            "IMAP: hangs up within a literal of 4 GiB",
            "CVE-2025-43857",
            vec![Lie::new(ARRIVAL, "* 5 FETCH (UID 5 BODY[HEADER.FIELDS (DATE)] {4294967296}\r\nx", Then::HangUp)],
            UNREACHABLE,
        ),
        synced(
            "IMAP: a literal shorter than was said",
            "chatmail/async-imap#141",
            vec![Lie::new(
                ARRIVAL,
                "* 5 FETCH (UID 5 BODY[HEADER.FIELDS (DATE)] {500}\r\nSubject: x\r\n\r\n)\r\n{tag} OK done\r\n",
                Then::HangUp,
            )],
            UNREACHABLE,
        ),
        synced(
            "IMAP: a literal longer than was said",
            "CVE-2017-1000257",
            vec![Lie::new(
                ARRIVAL,
                "* 5 FETCH (UID 5 BODY[HEADER.FIELDS (DATE)] {0}\r\nSubject: x\r\n\r\n)\r\n{tag} OK done\r\n",
                Then::Silence,
            )],
            PROTOCOL,
        ),
        synced(
            "IMAP: a message that was not asked for",
            "RFC 9051, 7.5.2",
            before(ARRIVAL, message(99, "7", DATE, HEADER)),
            Fine,
        ),
        synced(
            "IMAP: the same message twice",
            "rustmailer/bichon#273",
            before(ARRIVAL, message(5, "7", DATE, HEADER).repeat(2)),
            Fine,
        ),
        synced(
            "IMAP: UID 0, and one beyond 32 bits",
            "RFC 9051, 2.3.1.1",
            before("UID FETCH", "* 1 FETCH (UID 0 FLAGS ())\r\n* 1 FETCH (UID 4294967296 FLAGS ())\r\n".to_owned()),
            Fine,
        ),
        synced(
            "IMAP: a message that is here, in words that cannot be read",
            "RFC 9051, 7.5.2",
            before(ARRIVAL, "* 1 FETCH (UID 1 FLAGS (\\Seen) X[\r\n".to_owned()),
            Fine,
        ),
        synced(
            "IMAP: a number of messages that goes down",
            "RFC 3501, 5.2",
            before("UID FETCH", "* 9 EXISTS\r\n* 0 EXISTS\r\n".to_owned()),
            Fine,
        ),
        synced(
            "IMAP: EXPUNGE while messages are fetched",
            "RFC 9051, 7.5.1",
            before("UID FETCH", "* 1 EXPUNGE\r\n* 1 EXPUNGE\r\n".to_owned()),
            Fine,
        ),
        synced(
            "IMAP: VANISHED where nobody has asked for QRESYNC",
            "RFC 7162, 3.2.10",
            before("UID FETCH", "* VANISHED 1:2\r\n".to_owned()),
            Fine,
        ),
        offering(
            QRESYNC,
            "IMAP: VANISHED of all that there can be",
            "Foundry376/Mailspring-Sync#91",
            before("EXAMINE", "* VANISHED (EARLIER) 1:4294967295\r\n".to_owned()),
            Fine,
        ),
        synced(
            "IMAP: UIDVALIDITY 0",
            "RFC 9051, 9 (nz-number)",
            vec![status("MESSAGES 5 UIDNEXT 6 UIDVALIDITY 0 UNSEEN 5")],
            Fine,
        ),
        synced(
            "IMAP: another UIDVALIDITY between two commands",
            "chatmail/core#5774",
            before("EXAMINE", "* OK [UIDVALIDITY 7] x\r\n".to_owned()),
            Fine,
        ),
        synced(
            "IMAP: UIDNEXT that goes down",
            "ProtonMail/proton-bridge#220",
            vec![status("MESSAGES 5 UIDNEXT 2 UIDVALIDITY 1001 UNSEEN 5")],
            Fine,
        ),
        offering(
            CONDSTORE,
            "IMAP: a number of modification beyond 63 bits",
            "RFC 7162, 7",
            vec![status("MESSAGES 5 UIDNEXT 6 UIDVALIDITY 1001 UNSEEN 5 HIGHESTMODSEQ 18446744073709551615")],
            Fine,
        ),
        synced("IMAP: a folder with NUL in its name", "RFC 9051, 9", listed(b"\"/\" \"a\0b\""), Fine),
        synced("IMAP: a folder with line breaks in its name", "RFC 9051, 5.1", listed("\"/\" {5}\r\na\rb\nc"), Fine),
        synced(
            "IMAP: a folder with 10,000 letters in its name",
            "CVE-2018-14352",
            listed(format!("\"/\" \"{}\"", "n".repeat(10_000))),
            Fine,
        ),
        synced("IMAP: a name that is no modified UTF-7", "RFC 3501, 5.1.3", listed("\"/\" \"a&!!!-&2D0-&\""), Fine),
        synced(
            "IMAP: a name that is a path, or a command",
            "CVE-2018-14355, CVE-2018-14354",
            listed("\"/\" \"../../etc/`id`;'\""),
            Fine,
        ),
        synced("IMAP: NUL between folders", "RFC 9051, 9", listed(b"\"\0\" \"Nil\""), Fine),
        synced(
            "IMAP: nothing, or a quote, between folders",
            "RFC 9051, 7.3.1",
            listed("NIL \"Flat\"\r\n* LIST () \"\\\"\" \"Quote\"\r\n* LIST () \"\\\\\" \"Slash\""),
            Fine,
        ),
        synced(
            "IMAP: folders without an end",
            "cyrusimap/cyrus-imapd#155",
            vec![Lie::new("LIST", "* LIST () \"/\" \"one of many\"\r\n".repeat(1000), Then::Again)],
            PROTOCOL,
        ),
        synced(
            "IMAP: a list of folders without the inbox",
            "RFC 9051, 5.1",
            answer("LIST", "* LIST () \"/\" \"Work\"\r\n".to_owned()),
            PROTOCOL,
        ),
        synced(
            "IMAP: a message with 100,000 keywords",
            "RFC 9051, 2.3.2",
            before("UID FETCH", format!("* 1 FETCH (UID 1 FLAGS ({}))\r\n", "Keyword ".repeat(100_000))),
            Fine,
        ),
        synced(
            "IMAP: a size of 20 digits",
            "CVE-2018-14358",
            vec![Lie::new(ARRIVAL, message(5, "18446744073709551615", DATE, HEADER) + "{tag} OK done\r\n", Then::GoOn)],
            Fine,
        ),
        synced(
            "IMAP: a day that there is not",
            "CVE-2018-14350",
            vec![Lie::new(
                ARRIVAL,
                message(5, "7", &format!("99-Foo-9999 99:99:99 +9999{}", " ".repeat(1000)), HEADER)
                    + "{tag} OK done\r\n",
                Then::GoOn,
            )],
            Fine,
        ),
        synced(
            "IMAP: messages whose headers are as long as they may be",
            "CVE-2021-3181",
            vec![
                status("MESSAGES 204 UIDNEXT 205 UIDVALIDITY 1001 UNSEEN 204"),
                Lie::new("UID FETCH 5:204", long_headers(), Then::Truth),
            ],
            Fine,
        ),
        synced(
            "IMAP: NO after half of the data",
            "chatmail/async-imap#95",
            vec![Lie::new("UID FETCH", "* 1 FETCH (UID 1 FLAGS ())\r\n{tag} NO [SERVERBUG] not now\r\n", Then::GoOn)],
            Fine,
        ),
        synced(
            "IMAP: OK for a command that was never sent",
            "RFC 9051, 2.2.2",
            before("LIST", "zz9 OK done\r\n".to_owned()),
            PROTOCOL,
        ),
        synced("IMAP: a question in the middle", "RFC 9051, 7.6", before("LIST", "+ idling\r\n".to_owned()), PROTOCOL),
        synced(
            "IMAP: a refusal of later that repeats the password",
            "OfflineIMAP/offlineimap#481",
            vec![Lie::new("LIST", format!("{{tag}} NO you said {PASSWORD}\r\n"), Then::GoOn)],
            PROTOCOL,
        ),
        synced(
            "IMAP: a folder that is refused with the password as its reason",
            "nextcloud/mail#847",
            vec![Lie::new("EXAMINE", format!("{{tag}} NO [{PASSWORD}] LOGIN \"jane\" \"{PASSWORD}\"\r\n"), Then::GoOn)],
            Fine,
        ),
        synced(
            "IMAP: a goodbye that repeats the password",
            "roundcube/roundcubemail#5472",
            vec![Lie::new("LIST", format!("* BYE {PASSWORD}\r\n"), Then::HangUp)],
            UNAVAILABLE,
        ),
        synced(
            "IMAP: a byte a second in a mailbox",
            "brazilofmux/tinymux#1802",
            vec![Lie::new("LIST", "* LIST () \"/\" \"slowly\"\r\n", Then::Drip)],
            UNREACHABLE,
        ),
        synced(
            "IMAP: silence in a mailbox",
            "pimalaya/himalaya#714",
            vec![Lie::new("LIST", "", Then::Silence)],
            UNREACHABLE,
        ),
    ]
}

/// 200 messages with 128 KiB of addresses each.
fn long_headers() -> String {
    let addresses: String =
        (0..100).map(|n| format!("\"{n} {:n<240}\" <{n}-{:a<200}@example.com>,\r\n ", "", "")).collect();
    let header: String = ["From", "To", "Cc", "Bcc", "Reply-To"]
        .map(|field| format!("{field}: {}x@example.com\r\n", &addresses[..24 * 1024]))
        .concat();
    (5..205).map(|uid| message(uid, "7", DATE, &format!("Message-ID: <{uid}@x>\r\n{header}\r\n"))).collect()
}

fn popped(name: &'static str, reference: &'static str, lies: Vec<Lie>, promise: Promise) -> Behaviour {
    Behaviour { name, reference, does: Does::Pop3 { lies, promise } }
}

fn pop3_mailboxes() -> Vec<Behaviour> {
    // Those that were there, and this.
    let uids =
        |more: &str| vec![Lie::new("UIDL", format!("+OK\r\n1 1\r\n2 2\r\n3 3\r\n4 4\r\n{more}\r\n.\r\n"), Then::GoOn)];
    let long = |length: usize| "u".repeat(length);
    vec![
        popped("POP3: one id for two messages", "RFC 1939, 7", uids("5 4"), Fine),
        popped("POP3: two ids for one message", "RFC 1939, 7", uids("5 5\r\n5 6"), PROTOCOL),
        popped("POP3: an id of 100 letters", "RFC 1939, 7", uids(&format!("5 {}", long(100))), Fine),
        popped("POP3: an id of 1,000 letters", "RFC 1939, 7", uids(&format!("5 {}", long(1000))), PROTOCOL),
        popped("POP3: an id without letters", "CVE-2018-14356", uids("5 "), PROTOCOL),
        popped("POP3: an id that is a path", "CVE-2018-14362", uids("5 ../../etc/passwd"), Fine),
        popped("POP3: an id with words behind it", "thunderbird/thunderbird-android#323", uids("5   5 and more"), Fine),
        popped("POP3: a number below 0, and one beyond 32 bits", "RFC 1939, 3", uids("-5 a\r\n4294967296 b"), PROTOCOL),
        popped(
            "POP3: a list without an end",
            "CVE-2013-1752 (poplib)",
            vec![Lie::new("UIDL", "+OK\r\n".to_owned() + &"1 1\r\n".repeat(250_000), Then::Silence)],
            PROTOCOL,
        ),
        popped(
            "POP3: sizes below 0, beyond 64 bits and of no digits",
            "RFC 1939, 11",
            vec![Lie::new("LIST", "+OK\r\n1 -5\r\n2 99999999999999999999999\r\n3 x\r\n9 9\r\n.\r\n", Then::GoOn)],
            Fine,
        ),
        popped(
            "POP3: dots that are not doubled",
            "RFC 1939, 3",
            vec![Lie::new("TOP", "+OK\r\nSubject: x\r\n\r\n.x\r\n..\r\n...\r\n.\r\n", Then::GoOn)],
            Fine,
        ),
        popped(
            "POP3: a message with a line of a megabyte",
            "odoo/odoo#10920",
            vec![Lie::new("TOP", format!("+OK\r\nSubject: {}\r\n\r\n.\r\n", long(1 << 20)), Then::GoOn)],
            Fine,
        ),
        popped(
            "POP3: hangs up within a message",
            "RFC 1939, 3",
            vec![Lie::new("TOP", "+OK\r\nSubject: x\r\n", Then::HangUp)],
            UNREACHABLE,
        ),
        popped(
            "POP3: a refusal of later that repeats the password",
            "OfflineIMAP/offlineimap#481",
            vec![Lie::new("UIDL", format!("-ERR PASS {PASSWORD}\r\n"), Then::GoOn)],
            PROTOCOL,
        ),
        popped(
            "POP3: silence in a mailbox",
            "RFC 1939, 3",
            vec![Lie::new("UIDL", "+OK\r\n1 1\r\n", Then::Silence)],
            UNREACHABLE,
        ),
    ]
}

fn submissions() -> Vec<Behaviour> {
    let sent = |name, reference, extensions: &[&'static str], faults: Vec<(At, &str)>, status, later| {
        let said = |words: &str| Fault::Say(words.to_owned().leak());
        let faults = faults.into_iter().map(|(at, words)| (at, said(words))).collect();
        Behaviour { name, reference, does: Does::Submission { extensions: extensions.to_vec(), faults, status, later } }
    };
    let at_once: &[&str] = &["PIPELINING", "ENHANCEDSTATUSCODES"];
    vec![
        sent(
            "SMTP: a message is taken before it was sent",
            "RFC 5321, 4.3.1",
            &[],
            vec![(At::Data, "354 go\r\n250 2.0.0 taken")],
            "queued",
            "sent",
        ),
        sent(
            "SMTP: all answers ahead of all questions",
            "RFC 2920, 3.2",
            at_once,
            vec![(At::Hello, "250-x\r\n250 AUTH PLAIN\r\n235 in\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 taken")],
            "queued",
            "sent",
        ),
        sent("SMTP: DATA is answered 250", "RFC 5321, 3.3", &[], vec![(At::Data, "250 2.0.0 fine")], "queued", "sent"),
        sent("SMTP: 354 where MAIL was asked", "RFC 5321, 3.3", &[], vec![(At::Mail, "354 go")], "queued", "sent"),
        sent(
            "SMTP: no, and then yes",
            "RFC 5321, 4.3.2",
            &[],
            vec![(At::Dot, "554 5.7.1 no\r\n250 2.0.0 yes")],
            "rejected",
            "rejected",
        ),
        sent("SMTP: 421 in the middle", "RFC 5321, 3.8", at_once, vec![(At::Rcpt, "421 4.3.0 bye")], "queued", "sent"),
        sent(
            "SMTP: a message is answered by two codes",
            "RFC 5321, 4.2.1",
            &[],
            vec![(At::Dot, "250-2.0.0 yes\r\n550 5.7.1 no")],
            "uncertain",
            "uncertain",
        ),
        sent(
            "SMTP: a message is answered 699",
            "RFC 5321, 4.2.1",
            &[],
            vec![(At::Dot, "699 what")],
            "uncertain",
            "uncertain",
        ),
        sent(
            "SMTP: a code that says yes and one that says no",
            "RFC 2034, 4",
            &[],
            vec![(At::Rcpt, "550 2.1.5 fine")],
            "rejected",
            "rejected",
        ),
        sent(
            "SMTP: a recipient is answered with a megabyte",
            "emersion/go-smtp#80",
            at_once,
            vec![(At::Rcpt, &format!("250 {}", "x".repeat(1 << 20)))],
            "queued",
            "sent",
        ),
        sent(
            "SMTP: a refusal of a message that repeats the password",
            "eleith/emailjs#339",
            &[],
            vec![(At::Dot, &format!("554 5.7.1 {PASSWORD} is spam"))],
            "rejected",
            "rejected",
        ),
        sent(
            "SMTP: a limit of size of 30 digits",
            "RFC 1870, 4",
            &["SIZE 999999999999999999999999999999"],
            vec![],
            "sent",
            "sent",
        ),
        sent("SMTP: a limit of size that is none", "RFC 1870, 4", &["SIZE -1", "SIZE x"], vec![], "sent", "sent"),
    ]
}

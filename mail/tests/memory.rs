//! What a hostile server can make us hold. A binary of its own, since it counts every byte of the process.

use std::time::Duration;

use dhat::{HeapStats, Profiler};
use mail::Code;
use mail::connect::{Security, Session};
use mail::login::{Login, Protocol, Secret, TRY_BYTES};
use mail::testing::{Authority, HOST, Script, sign_in_to_script};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The longest answer of IMAP, as it grows, and TLS; the scripted server included.
const MAX_BYTES: usize = 512 * 1024;

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
}

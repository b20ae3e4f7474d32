use std::net::Ipv4Addr;
use std::sync::LazyLock;

use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::dns::testing::{NameServer, Zone};
use crate::testing::{Authority, HOST, Script, ScriptedServer};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn connector(name_servers: &[SocketAddr], policy: Policy) -> Connector {
    Connector::new(Resolver::new(name_servers), policy, AUTHORITY.client())
}

/// A policy that opens loopback and every port.
fn local() -> Policy {
    Policy {
        private_networks: vec!["127.0.0.0/8".parse().unwrap()],
        ports: Ports::Any,
        allow_plaintext: true,
        ..Policy::default()
    }
}

fn session() -> Session {
    Session::new(Duration::from_secs(10), 64 * 1024)
}

/// A port where nobody listens, and nobody else can while the socket is there.
fn closed_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[tokio::test(start_paused = true)]
async fn blocked_closed_and_not_allowed_look_alike_and_take_as_long() {
    let (_held, closed) = closed_port();
    let only_mail = Policy { ports: Ports::default(), ..local() };
    let blocked = Policy { ports: Ports::Any, ..Policy::default() };
    let mut messages = Vec::new();
    for (host, port, policy) in [
        ("127.0.0.1", closed, local()),
        ("127.0.0.1", closed, blocked.clone()),
        ("localhost", closed, blocked.clone()),
        ("10.0.0.1", 993, blocked.clone()),
        ("169.254.169.254", 993, blocked.clone()),
        ("::1", 993, blocked.clone()),
        ("::ffff:127.0.0.1", 993, blocked.clone()),
        ("127.0.0.1", closed, only_mail.clone()),
        ("192.0.2.1", 22, only_mail),
        ("no such name", 993, local()),
    ] {
        for security in [Security::Tls, Security::StartTls, Security::Plain] {
            let connector = connector(&[], Policy { allow_plaintext: true, ..policy.clone() });
            let started = Instant::now();
            let error = connector.connect(host, port, security, session()).await.unwrap_err();
            assert_eq!(error.code, Code::Unreachable, "{host}:{port}");
            assert_eq!(started.elapsed(), FAILURE_PACE, "{host}:{port}: {error}");
            messages.push(error.message);
        }
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_took_longer_is_told_on_the_second_too() {
    let zone = Zone::new().silent("slow.example", "A").silent("slow.example", "AAAA");
    let (first, second) = (NameServer::start(zone.clone()).await, NameServer::start(zone).await);
    let connector = connector(&[first.address(), second.address()], local());
    let started = Instant::now();
    connector.connect("slow.example", 993, Security::Tls, session()).await.unwrap_err();
    let elapsed = started.elapsed();
    assert!(elapsed > FAILURE_PACE && elapsed <= CONNECT_TIMEOUT && elapsed.subsec_nanos() == 0, "{elapsed:?}");
}

#[tokio::test]
async fn a_port_that_is_not_allowed_is_not_tried() {
    let server = ScriptedServer::start(Script::new().say("* OK ready\r\n"), AUTHORITY.server(HOST)).await;
    let connector = connector(&[], Policy { ports: Ports::default(), ..local() });
    let session = Session::new(Duration::from_millis(200), 1024);
    let refused = connector.connect("127.0.0.1", server.address().port(), Security::Plain, session).await;
    assert_eq!((refused.unwrap_err().code, server.connections()), (Code::Unreachable, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_sooner_is_not_kept_waiting() {
    let connector = connector(&[], Policy::default());
    let session = Session::new(Duration::from_millis(300), 1);
    let started = Instant::now();
    connector.connect("10.0.0.1", 993, Security::Tls, session).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_millis(300));
}

#[tokio::test]
async fn other_ways_to_write_an_address_are_names() {
    let server = ScriptedServer::start(Script::new().say("hello\r\n"), AUTHORITY.server(HOST)).await;
    let names = NameServer::start(Zone::new()).await;
    let connector = connector(&[names.address()], local());
    for host in ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "[::1]", "127.0.0.1%lo", ""]
    {
        let session = Session::new(Duration::from_millis(100), 1024);
        let refused = connector.connect(host, server.address().port(), Security::Plain, session).await;
        assert_eq!(refused.unwrap_err().code, Code::Unreachable, "{host}");
    }
    assert_eq!(server.connections(), 0);
}

/// Takes TEST-NET-2 for public, where nobody is, and loopback for what it is.
fn test_net() -> Policy {
    Policy { private_networks: vec!["198.51.100.0/24".parse().unwrap()], ..local() }
}

#[tokio::test]
async fn a_name_that_is_public_first_and_loopback_next_reaches_nobody() {
    let server = ScriptedServer::start(Script::new().say("* OK secrets\r\n"), AUTHORITY.server(HOST)).await;
    let zone = Zone::new().a("rebind.example", "198.51.100.1").then().a("rebind.example", "127.0.0.1");
    let names = NameServer::start(zone).await;
    let connector = connector(&[names.address()], test_net());
    for asked in [1, 2, 3] {
        let session = Session::new(Duration::from_millis(500), 1024);
        let refused = connector.connect("rebind.example", server.address().port(), Security::Plain, session).await;
        assert_eq!(refused.unwrap_err().code, Code::Unreachable);
        // What was checked is what was connected to: nobody asks twice.
        let questions = names.questions();
        assert_eq!(questions.iter().filter(|question| *question == "rebind.example A").count(), asked);
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn of_a_mixed_name_only_allowed_addresses_are_used() {
    let server = ScriptedServer::start(Script::new().say("* OK ready\r\n"), AUTHORITY.server(HOST)).await;
    let port = server.address().port();
    let names = NameServer::start(Zone::new().a("mixed.example", "198.51.100.1").a("mixed.example", "127.0.0.1")).await;
    let refused = connector(&[names.address()], test_net());
    let short = Session::new(Duration::from_millis(500), 1024);
    let error = refused.connect("mixed.example", port, Security::Plain, short).await.unwrap_err();
    assert_eq!((error.code, server.connections()), (Code::Unreachable, 0));
    // The same name where it is the other way round.
    let allowed = connector(&[names.address()], local());
    allowed.connect("mixed.example", port, Security::Plain, session()).await.unwrap();
}

#[tokio::test]
async fn an_address_that_fails_gives_way_to_the_next() {
    let server = ScriptedServer::start(Script::new().tls().say("* OK ready\r\n"), AUTHORITY.server(HOST)).await;
    // Nobody can connect to everybody.
    let zone = Zone::new().a(HOST, "255.255.255.255").a(HOST, "127.0.0.1");
    let names = NameServer::start(zone).await;
    let private_networks = vec!["255.255.255.255".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
    let connector = connector(&[names.address()], Policy { private_networks, ..local() });
    let mut stream = connector.connect(HOST, server.address().port(), Security::Tls, session()).await.unwrap();
    assert!(stream.is_encrypted());
    let mut line = Vec::new();
    stream.read_line(&mut line, 100).await.unwrap();
    assert_eq!(line, b"* OK ready\r\n");
}

#[tokio::test]
async fn of_many_addresses_only_the_first_few_are_tried() {
    let server = ScriptedServer::start(Script::new().say("* OK ready\r\n"), AUTHORITY.server(HOST)).await;
    let zone = (0..MAX_ADDRESSES).fold(Zone::new(), |zone, _| zone.a("many.example", "255.255.255.255"));
    let names = NameServer::start(zone.a("many.example", "127.0.0.1")).await;
    let private_networks = vec!["255.255.255.255".parse().unwrap(), "127.0.0.0/8".parse().unwrap()];
    let connector = connector(&[names.address()], Policy { private_networks, ..local() });
    let session = Session::new(Duration::from_millis(200), 1024);
    connector.connect("many.example", server.address().port(), Security::Plain, session).await.unwrap_err();
    assert_eq!(server.connections(), 0);
}

/// Linux drops who knocks at a full listener, and has more than one address of loopback.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_is_silent_leaves_time_for_the_next() {
    let (socket, port) = closed_port();
    let _full = socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(guest)) = timeout(Duration::from_millis(50), TcpStream::connect(("127.0.0.1", port))).await {
        waiting.push(guest);
    }
    let open = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let names = NameServer::start(Zone::new().a("half.example", "127.0.0.1").a("half.example", "127.0.0.2")).await;
    let connector = connector(&[names.address()], local());
    let session = Session::new(Duration::from_secs(1), 1024);
    connector.connect("half.example", port, Security::Plain, session).await.unwrap();
    timeout(Duration::from_secs(1), open.accept()).await.expect("the second one was not reached").unwrap();
}

#[tokio::test]
async fn a_certificate_is_for_the_name_or_address_that_was_asked_for() {
    for (host, certificate, good) in [
        (HOST, HOST, true),
        ("Mail.Example.Com.", HOST, true),
        ("127.0.0.1", "127.0.0.1", true),
        ("localhost", "localhost", true),
        ("127.0.0.1", HOST, false),
        (HOST, "127.0.0.1", false),
        ("localhost", HOST, false),
    ] {
        let server = ScriptedServer::start(Script::new().tls().say("hello\r\n"), AUTHORITY.server(certificate)).await;
        let names = NameServer::start(Zone::new().a(HOST, "127.0.0.1")).await;
        let port = server.address().port();
        let connector = connector(&[names.address()], Policy { https_port: port, ..local() });
        let outcome = connector.connect(host, port, Security::Tls, session()).await;
        assert_eq!(outcome.map(|_| ()).map_err(|error| error.code), if good { Ok(()) } else { Err(Code::Tls) });
        let outcome = connector.connect_https(host, None, session()).await;
        assert_eq!(outcome.map(|_| ()).map_err(|error| error.code), if good { Ok(()) } else { Err(Code::Tls) });
    }
}

#[tokio::test]
async fn https_goes_to_its_port_whatever_the_list_of_mail_ports_says() {
    let server = ScriptedServer::start(Script::new().tls().say("hello\r\n"), AUTHORITY.server("127.0.0.1")).await;
    let https_port = server.address().port();
    let policy = Policy { ports: Ports::List(Vec::new()), https_port, ..local() };
    connector(&[], policy.clone()).connect_https("127.0.0.1", None, session()).await.unwrap();
    let closed = Policy { private_networks: Vec::new(), ..policy };
    let refused = connector(&[], closed).connect_https("127.0.0.1", None, session()).await.unwrap_err();
    assert_eq!(refused.code, Code::Unreachable);
}

#[tokio::test]
async fn plain_text_needs_leave() {
    let connector = connector(&[], Policy { allow_plaintext: false, ..local() });
    let refused = connector.connect("127.0.0.1", 143, Security::Plain, session()).await.unwrap_err();
    assert_eq!(refused.code, Code::Tls);
    // Nor does it come about by a protocol that forgets to encrypt.
    let server = ScriptedServer::start(Script::new().silence(), AUTHORITY.server(HOST)).await;
    let stream = connector.connect("127.0.0.1", server.address().port(), Security::StartTls, session()).await.unwrap();
    assert_eq!(stream.check_secrecy().unwrap_err().code, Code::Tls);
}

#[tokio::test]
async fn a_session_has_its_bytes_tls_included() {
    for (security, script) in
        [(Security::Plain, Script::new().endless("x")), (Security::Tls, Script::new().tls().endless("x\r\n"))]
    {
        let server = ScriptedServer::start(script, AUTHORITY.server("127.0.0.1")).await;
        let session = Session::new(Duration::from_secs(10), 32 * 1024);
        let port = server.address().port();
        let mut stream = connector(&[], local()).connect("127.0.0.1", port, security, session).await.unwrap();
        let mut bytes = Vec::new();
        let error = stream.read_exact(&mut bytes, usize::MAX).await.unwrap_err();
        assert_eq!(error.code, Code::Protocol);
        assert!(bytes.len() <= 32 * 1024, "{}", bytes.len());
    }
}

#[test]
fn what_an_opened_address_carries_inside_must_be_open_too() {
    let open = |networks: &[&str]| Policy {
        private_networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        ..Policy::default()
    };
    for (networks, address, allowed) in [
        (&[][..], "8.8.8.8", true),
        (&[], "10.0.0.1", false),
        (&["10.0.0.0/8"], "10.0.0.1", true),
        (&["10.0.0.0/8"], "192.168.0.1", false),
        (&["10.0.0.0/8"], "::ffff:10.0.0.1", false),
        (&["64:ff9b::/96"], "64:ff9b::808:808", true),
        (&["64:ff9b::/96"], "64:ff9b::a00:1", false),
        (&["64:ff9b::/96", "10.0.0.0/8"], "64:ff9b::a00:1", true),
        (&["::/0"], "::ffff:127.0.0.1", false),
        (&["::/0"], "::1", true),
        (&["fd00::/8"], "fd00:ec2::254", true),
    ] {
        assert_eq!(open(networks).allows(address.parse().unwrap()), allowed, "{networks:?} {address}");
    }
}

#[test]
fn ports_are_a_list_or_any() {
    assert_eq!("*".parse(), Ok(Ports::Any));
    assert_eq!("143, 993".parse(), Ok(Ports::List(vec![143, 993])));
    for text in ["", "143,", "0", "65536", "143 993", "imap", "143,*", "-1"] {
        text.parse::<Ports>().unwrap_err();
    }
    for port in [110, 143, 465, 587, 993, 995, 2525] {
        assert!(Ports::default().allows(port));
    }
    for port in [1, 22, 25, 80, 443, 5432, 6379] {
        assert!(!Ports::default().allows(port));
    }
}

//! All sources on loopback: a name server, and one web server that is every host.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rustls::ClientConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::LazyConfigAcceptor;

use super::{ADDRESS, AppPassword, Config, KEEP_DOUBTFUL, KEEP_FOUND, LOCAL_PART, MAX_KEPT, Offer, Settings, Sources};
use super::{Address, Found, complete, discover, exchange_domains, expand};
use crate::connect::{Connector, Policy, Ports, Security};
use crate::dns::Resolver;
use crate::dns::testing::{NameServer, Zone};
use crate::login::{Protocol, Server};
use crate::testing::Authority;

const AUTOCONFIG: &str = "autoconfig.example.com/mail/config-v1.1.xml";
const WELL_KNOWN: &str = "example.com/.well-known/autoconfig/mail/config-v1.1.xml";
const ISP_DATABASE: &str = "ispdb.example.net/v1.1/example.com";
/// Who has an address and a certificate.
const HOSTS: [&str; 6] = [
    "example.com",
    "autoconfig.example.com",
    "www.example.com",
    "ispdb.example.net",
    "xn--bcher-kva.example",
    "autoconfig.xn--bcher-kva.example",
];

/// Enough for a loaded machine, too little to wait for long.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
enum Reply {
    /// The whole answer.
    Bytes(Vec<u8>),
    /// A beginning, and then this again and again.
    Endless(&'static str, &'static str),
    /// Never a word.
    Silence,
    /// The answer, once something else was asked for and answered.
    After(&'static str, Vec<u8>),
}

/// What is served, by host and path, and what was asked for.
struct Web {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    client: Arc<ClientConfig>,
    _server: JoinSet<()>,
}

impl Web {
    async fn start(pages: HashMap<String, Reply>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answered, _) = watch::channel(Vec::<String>::new());
        let shared = Arc::new((pages, requests.clone(), answered));
        let authority = Arc::new(Authority::new());
        let client = authority.client();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (authority, shared) = (authority.clone(), shared.clone());
                connections.spawn(async move {
                    let Ok(start) = LazyConfigAcceptor::new(Acceptor::default(), tcp).await else { return };
                    let asked = start.client_hello().server_name().unwrap_or_default().to_owned();
                    let own = HOSTS.into_iter().find(|host| *host == asked).unwrap_or(HOSTS[0]);
                    if let Ok(stream) = start.into_stream(authority.server(own)).await {
                        let (pages, requests, answered) = &*shared;
                        serve(stream, pages, requests, answered).await;
                    }
                });
            }
        });
        Self { port, requests, client, _server: tasks }
    }

    fn requests(&self) -> Vec<String> {
        let mut requests = self.requests.lock().unwrap().clone();
        requests.sort();
        requests
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    pages: &HashMap<String, Reply>,
    requests: &Mutex<Vec<String>>,
    answered: &watch::Sender<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.strip_prefix("GET ").unwrap().split(' ').next().unwrap();
    let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    requests.lock().unwrap().push(format!("{host}{path}"));
    let page = format!("{host}{}", path.split('?').next().unwrap());
    let reply = pages.get(&page).cloned().unwrap_or_else(|| Reply::Bytes(status("404 Not Found", "", "nothing here")));
    match reply {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Reply::Endless(start, more) => {
            let mut sent = stream.write_all(start.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(more.as_bytes()).await;
            }
        }
        Reply::Silence => std::future::pending().await,
        Reply::After(other, bytes) => {
            let _ = answered.subscribe().wait_for(|pages| pages.iter().any(|page| page == other)).await;
            let _ = stream.write_all(&bytes).await;
        }
    }
    let _ = stream.shutdown().await;
    answered.send_modify(|pages| pages.push(page));
}

/// The sources of a test, and what asks them.
struct World {
    web: Web,
    names: NameServer,
    connector: Connector,
    resolver: Resolver,
    sources: Sources,
}

impl World {
    async fn new(zone: Zone, pages: &[(&str, Reply)]) -> Self {
        Self::with_policy(zone, pages, Policy::default()).await
    }

    /// `policy` for all but the network and the port of the test.
    async fn with_policy(zone: Zone, pages: &[(&str, Reply)], policy: Policy) -> Self {
        let web = Web::start(pages.iter().map(|(page, reply)| ((*page).to_owned(), reply.clone())).collect()).await;
        let names = NameServer::start(HOSTS.into_iter().fold(zone, |zone, host| zone.a(host, "127.0.0.1"))).await;
        let resolver = Resolver::new(&[names.address()]);
        let private_networks = vec!["127.0.0.1/32".parse().unwrap()];
        let policy = Policy { private_networks, https_port: web.port, ..policy };
        let connector = Connector::new(resolver.clone(), policy, web.client.clone());
        let sources = Sources { isp_database: Some("ispdb.example.net".into()), ..Sources::default() };
        Self { web, names, connector, resolver, sources }
    }

    async fn discover(&self, address: &str) -> Option<Settings> {
        self.discover_within(address, Duration::from_secs(60)).await
    }

    async fn discover_within(&self, address: &str, time: Duration) -> Option<Settings> {
        discover(&self.connector, &self.resolver, &self.sources, address, Instant::now() + time).await
    }
}

fn status(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into()
}

fn redirect(location: &str) -> Reply {
    Reply::Bytes(status("302 Found", &format!("location: {location}\r\n"), ""))
}

/// A page with a file that names this host.
fn file(host: &str) -> Reply {
    page(&xml(host, "SSL", "%EMAILADDRESS%"))
}

fn page(body: &str) -> Reply {
    Reply::Bytes(status("200 OK", "content-type: text/xml\r\n", body))
}

fn xml(host: &str, socket: &str, username: &str) -> String {
    let server = |tag: &str, kind: &str, port: u16| {
        format!(
            "<{tag} type=\"{kind}\"><hostname>{host}</hostname><port>{port}</port><socketType>{socket}</socketType>\
             <username>{username}</username><authentication>password-cleartext</authentication></{tag}>"
        )
    };
    let servers = server("incomingServer", "imap", 993) + &server("outgoingServer", "smtp", 465);
    format!("<clientConfig version=\"1.1\"><emailProvider id=\"x\">{servers}</emailProvider></clientConfig>")
}

fn offer(protocol: Protocol, host: &str, port: u16, security: Security, username: &str) -> Offer {
    Offer { server: Server { protocol, host: host.to_owned(), port, security }, username: username.to_owned() }
}

fn imaps(host: &str, username: &str) -> Offer {
    offer(Protocol::Imap, host, 993, Security::Tls, username)
}

/// Asserts that some sentence of the evidence has this in it.
#[track_caller]
fn assert_said(evidence: &[String], words: &str) {
    assert!(evidence.iter().any(|said| said.contains(words)), "{words:?} is not in {evidence:#?}");
}

#[tokio::test]
async fn the_table_needs_no_network() {
    let world = World::new(Zone::new(), &[]).await;
    let settings = world.discover("Ann.Example@GMail.com").await.unwrap();
    let expected = [
        imaps("imap.gmail.com", "Ann.Example@gmail.com"),
        offer(Protocol::Pop3, "pop.gmail.com", 995, Security::Tls, "Ann.Example@gmail.com"),
    ];
    assert_eq!(settings.incoming, expected);
    assert_eq!(settings.smtp[0].server.host, "smtp.gmail.com");
    assert_eq!(settings.oauth2.as_deref(), Some("google"));
    assert!(settings.app_password.unwrap().required);
    assert_eq!(settings.source, "table");
    let settings = world.discover("ann@web.de").await.unwrap();
    assert_eq!(settings.incoming[0], imaps("imap.web.de", "ann"));
    assert_eq!(settings.oauth2, None);
    // Known to have no IMAP: an answer, and one that says so.
    let settings = world.discover("ann@proton.me").await.unwrap();
    assert!(settings.incoming.is_empty() && settings.smtp.is_empty());
    assert_said(&settings.evidence, "only through its Bridge");
    assert!(world.names.questions().is_empty() && world.web.requests().is_empty());
}

#[tokio::test]
async fn the_operators_own_domains_come_first() {
    let mut world = World::new(Zone::new(), &[]).await;
    let config = Config { incoming: vec![imaps("localhost", LOCAL_PART)], ..Config::default() };
    world.sources.known.insert("gmail.com".into(), config);
    let settings = world.discover("ann@gmail.com").await.unwrap();
    assert_eq!(settings.incoming, [imaps("localhost", "ann")]);
    assert_eq!((settings.source, settings.oauth2), ("table", None));
    assert!(world.names.questions().is_empty());
}

#[tokio::test]
async fn the_domains_autoconfig_host_is_asked_with_the_address() {
    let world = World::new(Zone::new(), &[(AUTOCONFIG, file("imap.example.com"))]).await;
    let settings = world.discover("ann+tag@example.com").await.unwrap();
    assert_eq!(settings.incoming, [imaps("imap.example.com", "ann+tag@example.com")]);
    let expected = offer(Protocol::Smtp, "imap.example.com", 465, Security::Tls, "ann+tag@example.com");
    assert_eq!((settings.smtp, settings.source), (vec![expected], "autoconfig"));
    assert_eq!(settings.evidence, ["autoconfig: https://autoconfig.example.com/mail/config-v1.1.xml has settings"]);
    let asked = format!("{AUTOCONFIG}?emailaddress=ann%2Btag@example.com");
    assert!(world.web.requests().contains(&asked), "{:?}", world.web.requests());
}

#[tokio::test]
async fn the_well_known_file_of_the_domain() {
    let world = World::new(Zone::new(), &[(WELL_KNOWN, file("imap.example.com"))]).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_eq!(settings.incoming, [imaps("imap.example.com", "ann@example.com")]);
    assert_eq!(settings.source, "wellKnown");
    let expected = [
        "autoconfig: https://autoconfig.example.com/mail/config-v1.1.xml does not exist",
        "wellKnown: https://example.com/.well-known/autoconfig/mail/config-v1.1.xml has settings",
    ];
    assert_eq!(settings.evidence, expected);
}

#[tokio::test]
async fn srv_records_and_what_they_say_is_not_offered() {
    let zone = Zone::new()
        .srv("_imaps._tcp.example.com", 0, 1, 993, "imap.example.com")
        .srv("_imap._tcp.example.com", 0, 1, 143, "imap.example.com")
        .srv("_pop3s._tcp.example.com", 0, 0, 0, ".")
        .srv("_pop3._tcp.example.com", 0, 0, 0, ".")
        .srv("_submission._tcp.example.com", 0, 1, 587, "smtp.example.com")
        .srv("_submission._tcp.example.com", 5, 1, 465, "smtp.example.com");
    let world = World::new(zone, &[]).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    let expected = [
        imaps("imap.example.com", "ann@example.com"),
        offer(Protocol::Imap, "imap.example.com", 143, Security::StartTls, "ann@example.com"),
    ];
    assert_eq!(settings.incoming, expected);
    // 465 is TLS from the first byte, whatever the record's name is.
    let expected = [
        offer(Protocol::Smtp, "smtp.example.com", 465, Security::Tls, "ann@example.com"),
        offer(Protocol::Smtp, "smtp.example.com", 587, Security::StartTls, "ann@example.com"),
    ];
    assert_eq!(settings.smtp, expected);
    assert_eq!(settings.source, "srv");
    assert_said(&settings.evidence, "srv: example.com offers imaps at imap.example.com:993");
    assert_said(&settings.evidence, "srv: example.com says that it does not offer pop3s");
    assert!(!settings.evidence.iter().any(|said| said.contains("confirm")), "{:?}", settings.evidence);
}

#[tokio::test]
async fn srv_records_that_lead_out_of_the_domain_are_to_be_confirmed() {
    let zone = Zone::new().srv("_imaps._tcp.example.com", 0, 1, 993, "imap.gmail.com").srv(
        "_submissions._tcp.example.com",
        0,
        1,
        465,
        "notexample.com",
    );
    let world = World::new(zone, &[]).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_eq!(settings.source, "srv");
    assert_said(&settings.evidence, "srv: imap.gmail.com is outside example.com");
    assert_said(&settings.evidence, "srv: notexample.com is outside example.com");
    assert_said(&settings.evidence, "confirm before a password is sent");
    // Records cannot say how one signs in; the table can.
    assert_eq!(settings.oauth2.as_deref(), Some("google"));
    assert!(settings.app_password.unwrap().required);
}

#[tokio::test]
async fn records_that_cannot_be_meant_are_passed_over() {
    let zone = Zone::new()
        .srv("_imaps._tcp.example.com", 0, 1, 0, "imap.example.com")
        .srv("_imaps._tcp.example.com", 1, 1, 993, "localhost")
        .srv("_pop3s._tcp.example.com", 1, 1, 995, "192.0.2.1")
        .srv("_submissions._tcp.example.com", 0, 1, 465, "smtp.example.com");
    let world = World::new(zone, &[]).await;
    assert_eq!(world.discover("ann@example.com").await, None);
}

#[tokio::test]
async fn the_isp_database_learns_the_domain_alone() {
    let world = World::new(Zone::new(), &[(ISP_DATABASE, file("imap.example.org"))]).await;
    let settings = world.discover("ann.secret@example.com").await.unwrap();
    assert_eq!(settings.incoming, [imaps("imap.example.org", "ann.secret@example.com")]);
    assert_eq!(settings.source, "ispDatabase");
    let told: Vec<_> = world.web.requests().into_iter().filter(|asked| asked.contains("secret")).collect();
    assert_eq!(told, [format!("{AUTOCONFIG}?emailaddress=ann.secret@example.com")]);
    assert!(world.names.questions().iter().all(|asked| !asked.contains("secret")));
}

#[tokio::test]
async fn without_an_isp_database_none_is_asked() {
    let mut world = World::new(Zone::new().mx("example.com", 1, "mx.example.net"), &[]).await;
    world.sources.isp_database = None;
    assert_eq!(world.discover("ann@example.com").await, None);
    assert!(world.web.requests().iter().all(|asked| !asked.starts_with("ispdb")), "{:?}", world.web.requests());
}

#[tokio::test]
async fn own_domains_at_a_provider_are_recognised_by_their_exchange() {
    let cases = [
        ("aspmx.l.google.com", "imap.gmail.com", "google"),
        ("example-com.mail.protection.outlook.com", "outlook.office365.com", "microsoft"),
        ("example-com.p-v1.mx.microsoft", "outlook.office365.com", "microsoft"),
    ];
    for (exchange, host, oauth2) in cases {
        let zone = Zone::new().mx("example.com", 20, "spam.example.com").mx("example.com", 10, exchange);
        let world = World::new(zone, &[]).await;
        let settings = world.discover("ann@example.com").await.unwrap();
        assert_eq!(settings.incoming[0], imaps(host, "ann@example.com"), "{exchange}");
        assert_eq!((settings.source, settings.oauth2.as_deref()), ("mxTable", Some(oauth2)));
        assert_said(&settings.evidence, &format!("mx: mail for example.com goes to {exchange}"));
        assert_said(&settings.evidence, &format!("mx: {host} is outside example.com"));
    }
}

#[tokio::test]
async fn the_exchanges_domain_is_looked_up_in_the_isp_database() {
    let zone = Zone::new().mx("example.com", 10, "mx1.eu.hoster.example");
    let world = World::new(zone, &[("ispdb.example.net/v1.1/hoster.example", file("imap.hoster.example"))]).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_eq!(settings.incoming, [imaps("imap.hoster.example", "ann@example.com")]);
    assert_eq!(settings.source, "mxIspDatabase");
    assert_said(&settings.evidence, "mx: mail for example.com goes to mx1.eu.hoster.example");
    assert_said(&settings.evidence, "/v1.1/eu.hoster.example does not exist");
    assert_said(&settings.evidence, "mx: imap.hoster.example is outside example.com");
}

#[tokio::test]
async fn the_best_by_rank_wins() {
    let all = [
        ("autoconfig", "one.example.com"),
        ("wellKnown", "two.example.com"),
        ("srv", "three.example.com"),
        ("ispDatabase", "four.example.com"),
        ("mxIspDatabase", "five.example.com"),
    ];
    for first in 0..all.len() {
        let mut zone = Zone::new().mx("example.com", 1, "mx.hoster.example");
        let mut pages = Vec::new();
        for (source, host) in &all[first..] {
            match *source {
                "autoconfig" => pages.push((AUTOCONFIG, file(host))),
                "wellKnown" => pages.push((WELL_KNOWN, file(host))),
                "srv" => zone = zone.srv("_imaps._tcp.example.com", 0, 0, 993, host),
                "ispDatabase" => pages.push((ISP_DATABASE, file(host))),
                _ => pages.push(("ispdb.example.net/v1.1/hoster.example", file(host))),
            }
        }
        let world = World::new(zone, &pages).await;
        let settings = world.discover("ann@example.com").await.unwrap();
        assert_eq!((settings.source, settings.incoming[0].server.host.as_str()), all[first]);
    }
}

/// Whoever sits on the way to the name servers must not be believed before the database.
#[tokio::test]
async fn records_that_lead_elsewhere_count_less_than_the_database() {
    let zone = || Zone::new().srv("_imaps._tcp.example.com", 0, 0, 993, "imap.elsewhere.example");
    for (pages, expected) in [
        (vec![(ISP_DATABASE, file("imap.example.com"))], ("ispDatabase", "imap.example.com")),
        (vec![], ("srv", "imap.elsewhere.example")),
    ] {
        let world = World::new(zone().mx("example.com", 1, "aspmx.l.google.com"), &pages).await;
        let settings = world.discover("ann@example.com").await.unwrap();
        assert_eq!((settings.source, settings.incoming[0].server.host.as_str()), expected);
        assert_said(&settings.evidence, "srv: imap.elsewhere.example is outside example.com");
    }
}

#[tokio::test]
async fn a_provider_that_knows_its_users_without_their_domain_serves_no_other_domain() {
    let zone = Zone::new().mx("example.com", 10, "mx.hoster.example");
    let by_name = page(&xml("imap.hoster.example", "SSL", "%EMAILLOCALPART%"));
    let world = World::new(zone, &[("ispdb.example.net/v1.1/hoster.example", by_name.clone())]).await;
    assert_eq!(world.discover("ann@example.com").await, None);
    // In its own it does.
    let world = World::new(Zone::new(), &[(ISP_DATABASE, by_name)]).await;
    assert_eq!(world.discover("ann@example.com").await.unwrap().incoming, [imaps("imap.hoster.example", "ann")]);
}

#[tokio::test]
async fn servers_count_only_at_ports_that_are_connected_to() {
    let odd = xml("imap.example.com", "SSL", "%EMAILADDRESS%").replace(">993<", ">9993<");
    let world = World::new(Zone::new(), &[(AUTOCONFIG, page(&odd)), (WELL_KNOWN, file("imap.example.com"))]).await;
    assert_eq!(world.discover("ann@example.com").await.unwrap().source, "wellKnown");
    let policy = Policy { ports: Ports::Any, ..Policy::default() };
    let world = World::with_policy(Zone::new(), &[(AUTOCONFIG, page(&odd))], policy).await;
    assert_eq!(world.discover("ann@example.com").await.unwrap().incoming[0].server.port, 9993);
    let zone = Zone::new().srv("_imaps._tcp.example.com", 0, 0, 993, "imap.example.com").srv(
        "_submission._tcp.example.com",
        0,
        0,
        25,
        "smtp.example.com",
    );
    let settings = World::new(zone, &[]).await.discover("ann@example.com").await.unwrap();
    assert_eq!((settings.incoming.len(), settings.smtp), (1, vec![]));
    assert_said(&settings.evidence, "does not connect to port 25");
}

#[tokio::test]
async fn the_first_to_answer_does_not_win() {
    let Reply::Bytes(late) = file("late.example.com") else { unreachable!() };
    let pages = [(AUTOCONFIG, Reply::After(ISP_DATABASE, late)), (ISP_DATABASE, file("early.example.com"))];
    let world = World::new(Zone::new(), &pages).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_eq!((settings.source, settings.incoming[0].server.host.as_str()), ("autoconfig", "late.example.com"));
}

#[tokio::test]
async fn who_is_silent_is_not_waited_for() {
    let pages = [(AUTOCONFIG, Reply::Silence), (WELL_KNOWN, Reply::Silence), (ISP_DATABASE, file("imap.example.com"))];
    let world = World::new(Zone::new(), &pages).await;
    let settings = world.discover_within("ann@example.com", PATIENCE).await.unwrap();
    assert_eq!(settings.source, "ispDatabase");
    assert_eq!(settings.evidence[..2], ["autoconfig: no answer in time", "wellKnown: no answer in time"]);
    // It may be otherwise in a minute.
    let kept = world.sources.lock();
    assert!(kept["example.com"].until <= Instant::now() + KEEP_DOUBTFUL);
}

#[tokio::test]
async fn all_of_them_silent_end_by_the_deadline() {
    let pages = [AUTOCONFIG, WELL_KNOWN, ISP_DATABASE].map(|page| (page, Reply::Silence));
    let kinds = ["_imaps", "_imap", "_pop3s", "_pop3", "_submissions", "_submission"];
    let zone = kinds.iter().fold(Zone::new(), |zone, kind| zone.silent(&format!("{kind}._tcp.example.com"), "SRV"));
    let world = World::new(zone.silent("example.com", "MX"), &pages).await;
    let started = Instant::now();
    assert_eq!(world.discover_within("ann@example.com", PATIENCE).await, None);
    assert!(started.elapsed() < PATIENCE + Duration::from_secs(1));
}

#[tokio::test]
async fn answers_without_end_are_cut_off() {
    let pages = [
        (AUTOCONFIG, Reply::Endless("HTTP/1.1 200 OK\r\n\r\n", "<clientConfig><clientConfig>")),
        (WELL_KNOWN, Reply::Endless("HTTP/1.1 200 OK\r\n", "x-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")),
        (
            ISP_DATABASE,
            Reply::Endless("HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n", "<clientConfig><clientConfig>"),
        ),
    ];
    let zone = Zone::new().srv("_imaps._tcp.example.com", 0, 0, 993, "imap.example.com");
    let world = World::new(zone, &pages).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_said(&settings.evidence, "autoconfig.example.com/mail/config-v1.1.xml is too large");
    assert_said(&settings.evidence, "example.com/.well-known/autoconfig/mail/config-v1.1.xml does not answer in HTTP");
    let world = World::new(Zone::new().mx("example.com", 1, "aspmx.l.google.com"), &pages).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_said(&settings.evidence, "ispdb.example.net/v1.1/example.com is too large");
}

#[tokio::test]
async fn redirects_are_followed_twice() {
    let pages = [
        (AUTOCONFIG, redirect("https://www.example.com/a?b=c")),
        ("www.example.com/a", redirect("/b")),
        ("www.example.com/b", file("imap.example.com")),
    ];
    let world = World::new(Zone::new(), &pages).await;
    assert_eq!(world.discover("ann@example.com").await.unwrap().source, "autoconfig");
    let pages = [
        (AUTOCONFIG, redirect("https://www.example.com/a")),
        ("www.example.com/a", redirect("/b")),
        ("www.example.com/b", redirect("/c")),
        ("www.example.com/c", file("imap.example.com")),
        (WELL_KNOWN, redirect("/.well-known/autoconfig/mail/config-v1.1.xml")),
        (ISP_DATABASE, file("isp.example.com")),
    ];
    let world = World::new(Zone::new(), &pages).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_eq!(settings.source, "ispDatabase");
    assert_said(&settings.evidence, "autoconfig.example.com/mail/config-v1.1.xml redirects too often");
    assert_said(&settings.evidence, "example.com/.well-known/autoconfig/mail/config-v1.1.xml redirects too often");
    assert!(!world.web.requests().contains(&"www.example.com/c".to_owned()));
}

#[tokio::test]
async fn redirects_to_networks_that_are_not_public_are_refused() {
    let targets = [
        "https://inside.example.com/",
        "https://127.0.0.2/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
    ];
    join_all(targets.map(|target| async move {
        let pages = [(AUTOCONFIG, redirect(target)), (WELL_KNOWN, file("imap.example.com"))];
        let world = World::new(Zone::new().a("inside.example.com", "127.0.0.2"), &pages).await;
        // Whoever listens there on the same port hears nothing.
        let inside = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), world.web.port)).await.unwrap();
        let settings = world.discover("ann@example.com").await.unwrap();
        assert_eq!(settings.source, "wellKnown", "{target}");
        assert_said(&settings.evidence, "autoconfig.example.com/mail/config-v1.1.xml cannot be reached");
        assert!(inside.accept().now_or_never().is_none(), "{target}");
    }))
    .await;
}

#[tokio::test]
async fn redirects_out_of_https_are_refused() {
    for target in ["http://example.com/x", "https://example.com:22/x", "//example.com/x", "mailto:ann@example.com", ""]
    {
        let pages = [(AUTOCONFIG, redirect(target)), (WELL_KNOWN, file("imap.example.com"))];
        let world = World::new(Zone::new(), &pages).await;
        let settings = world.discover("ann@example.com").await.unwrap();
        assert_said(&settings.evidence, "config-v1.1.xml redirects to what is not HTTPS");
        assert!(!world.web.requests().iter().any(|asked| asked.ends_with("/x")), "{target}");
    }
}

#[tokio::test]
async fn what_is_no_autoconfig_is_passed_over() {
    let bomb = "<!DOCTYPE c [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><clientConfig>&b;</clientConfig>";
    let none = "<clientConfig><emailProvider id=\"x\"/></clientConfig>";
    let page_of_a_host = "<!DOCTYPE html><html><body>Welcome to nginx!</body></html>";
    for (body, words) in
        [(page_of_a_host, "is no autoconfig file"), (bomb, "is no autoconfig file"), (none, "names no server")]
    {
        let world = World::new(Zone::new(), &[(AUTOCONFIG, page(body)), (WELL_KNOWN, file("imap.example.com"))]).await;
        let settings = world.discover("ann@example.com").await.unwrap();
        assert_eq!(settings.source, "wellKnown");
        assert_said(&settings.evidence, &format!("config-v1.1.xml {words}"));
    }
    let garbage = Reply::Bytes(b"* OK IMAP4rev1 ready\r\n".to_vec());
    let world = World::new(Zone::new(), &[(AUTOCONFIG, garbage), (WELL_KNOWN, file("imap.example.com"))]).await;
    assert_said(&world.discover("ann@example.com").await.unwrap().evidence, "does not answer in HTTP");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_no_answer() {
    // example.org is answered by the same server, which shows another's certificate.
    let zone = Zone::new().a("autoconfig.example.org", "127.0.0.1").a("example.org", "127.0.0.1");
    let pages = [("autoconfig.example.org/mail/config-v1.1.xml", file("imap.example.org"))];
    let world = World::new(zone, &pages).await;
    assert_eq!(world.discover("ann@example.org").await, None);
    assert!(world.web.requests().iter().all(|asked| asked.starts_with("ispdb")), "{:?}", world.web.requests());
}

#[tokio::test]
async fn servers_without_encryption_count_only_where_they_are_allowed() {
    let plain = page(&xml("imap.example.com", "plain", "%EMAILLOCALPART%"));
    let pages = [(AUTOCONFIG, plain), (WELL_KNOWN, file("imap.example.com"))];
    let world = World::new(Zone::new(), &pages).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_eq!(settings.source, "wellKnown");
    assert_said(&settings.evidence, "names only servers without encryption");
    let policy = Policy { allow_plaintext: true, ..Policy::default() };
    let world = World::with_policy(Zone::new(), &pages, policy).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_eq!(settings.source, "autoconfig");
    assert_eq!(settings.incoming, [offer(Protocol::Imap, "imap.example.com", 993, Security::Plain, "ann")]);
}

#[tokio::test]
async fn international_domains_are_asked_for_in_a_labels() {
    let host = "autoconfig.xn--bcher-kva.example";
    let page = format!("{host}/mail/config-v1.1.xml");
    let world = World::new(Zone::new(), &[(page.as_str(), file("imap.%EMAILDOMAIN%"))]).await;
    let settings = world.discover("jörg@Bücher.example").await.unwrap();
    assert_eq!(settings.incoming, [imaps("imap.xn--bcher-kva.example", "jörg@xn--bcher-kva.example")]);
    let asked = format!("{page}?emailaddress=j%C3%B6rg@xn--bcher-kva.example");
    assert!(world.web.requests().contains(&asked), "{:?}", world.web.requests());
}

#[tokio::test]
async fn what_is_no_address_has_no_settings() {
    let world = World::new(Zone::new(), &[]).await;
    for address in
        ["", "@", "ann", "ann@", "@example.com", "ann@localhost", "ann@a b.example", "ann@127.0.0.1", "ann@[127.0.0.1]"]
    {
        assert_eq!(world.discover(address).await, None, "{address:?}");
    }
    assert!(world.names.questions().is_empty() && world.web.requests().is_empty());
}

#[tokio::test]
async fn a_domain_is_asked_once_for_all_its_users() {
    // The last source has it: none is still on the way once it was found.
    let zone = Zone::new().mx("example.com", 10, "mx.hoster.example");
    let world = World::new(zone, &[("ispdb.example.net/v1.1/hoster.example", file("imap.example.com"))]).await;
    let first = world.discover("ann@example.com").await.unwrap();
    let (requests, questions) = (world.web.requests(), world.names.questions());
    let second = world.discover("bob@Example.com").await.unwrap();
    assert_eq!(second.incoming, [imaps("imap.example.com", "bob@example.com")]);
    assert_eq!(second.evidence, first.evidence);
    assert_eq!((world.web.requests(), world.names.questions()), (requests, questions));
    let kept = world.sources.lock();
    assert!(!format!("{kept:?}").contains("ann"));
    assert!(kept["example.com"].until > Instant::now() + KEEP_FOUND - Duration::from_secs(60));
}

#[tokio::test]
async fn that_nothing_is_known_is_remembered_shortly() {
    let world = World::new(Zone::new(), &[]).await;
    assert_eq!(world.discover("ann@example.com").await, None);
    let requests = world.web.requests();
    assert_eq!(world.discover("bob@example.com").await, None);
    assert_eq!(world.web.requests(), requests);
    assert!(world.sources.lock()["example.com"].until <= Instant::now() + KEEP_DOUBTFUL);
}

#[tokio::test]
async fn a_file_made_for_one_user_serves_nobody_else() {
    // The file repeats the address: it serves others, with theirs.
    let made = page(&xml("imap.example.com", "SSL", "Ann@example.com"));
    let world = World::new(Zone::new(), &[(AUTOCONFIG, made)]).await;
    assert_eq!(world.discover("ann@example.com").await.unwrap().incoming[0].username, "ann@example.com");
    assert_eq!(world.discover("bob@example.com").await.unwrap().incoming[0].username, "bob@example.com");
    assert_eq!(world.web.requests().iter().filter(|asked| asked.starts_with(AUTOCONFIG)).count(), 1);
    // It has a user name of the user's own, or the user's name in a host.
    for made in [xml("imap.example.com", "SSL", "customer4711"), xml("ann.example.com", "SSL", "%EMAILADDRESS%")] {
        let world = World::new(Zone::new(), &[(AUTOCONFIG, page(&made))]).await;
        world.discover("ann@example.com").await.unwrap();
        assert!(world.sources.lock().is_empty());
        world.discover("bob@example.com").await.unwrap();
        assert_eq!(world.web.requests().iter().filter(|asked| asked.starts_with(AUTOCONFIG)).count(), 2);
    }
}

#[tokio::test]
async fn a_server_that_fails_may_be_back_in_a_minute() {
    let pages = [(AUTOCONFIG, Reply::Bytes(status("503 Busy", "", ""))), (WELL_KNOWN, file("imap.example.com"))];
    let world = World::new(Zone::new(), &pages).await;
    let settings = world.discover("ann@example.com").await.unwrap();
    assert_said(&settings.evidence, "autoconfig.example.com/mail/config-v1.1.xml answers 503");
    assert!(world.sources.lock()["example.com"].until <= Instant::now() + KEEP_DOUBTFUL);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_ends_and_is_bounded() {
    let sources = Sources::default();
    let found = Found { config: Config::default(), source: "srv", evidence: Vec::new() };
    sources.keep("found.example", Some(found), KEEP_FOUND);
    sources.keep("nothing.example", None, KEEP_DOUBTFUL);
    assert!(sources.kept("found.example").is_some_and(|found| found.is_some()));
    assert!(sources.kept("nothing.example").is_some_and(|found| found.is_none()));
    assert!(sources.kept("other.example").is_none());
    tokio::time::advance(KEEP_DOUBTFUL).await;
    assert!(sources.kept("nothing.example").is_none() && sources.kept("found.example").is_some());
    for n in 0..MAX_KEPT * 2 {
        sources.keep(&format!("{n}.example"), None, KEEP_DOUBTFUL);
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(sources.lock().len(), MAX_KEPT);
    // What ends first goes first.
    assert!(sources.kept("found.example").is_some() && sources.kept("0.example").is_none());
    tokio::time::advance(KEEP_FOUND).await;
    sources.keep("other.example", None, KEEP_DOUBTFUL);
    assert_eq!(sources.lock().len(), 1);
}

#[test]
fn placeholders_are_replaced_once() {
    let values = [(ADDRESS, "%EMAILLOCALPART%@example.com"), (LOCAL_PART, "%EMAILADDRESS%")];
    assert_eq!(expand("a-%EMAILADDRESS%-b", &values), "a-%EMAILLOCALPART%@example.com-b");
    assert_eq!(expand("%EMAILLOCALPART%%EMAILLOCALPART%", &values), "%EMAILADDRESS%%EMAILADDRESS%");
    assert_eq!(expand("100% %EMAIL %ä%", &values), "100% %EMAIL %ä%");
    assert_eq!(expand("", &values), "");
}

#[test]
fn an_answer_for_one_address_becomes_one_for_all() {
    let address = Address::parse("Ann@example.com").unwrap();
    let cases = [
        ("ann@EXAMPLE.com", ADDRESS, true),
        ("ann", LOCAL_PART, true),
        (ADDRESS, ADDRESS, true),
        ("box-%EMAILLOCALPART%", "box-%EMAILLOCALPART%", true),
        ("shared", "shared", false),
        ("ann-%EMAILLOCALPART%", "ann-%EMAILLOCALPART%", false),
    ];
    for (username, form, general) in cases {
        let mut config = Config { incoming: vec![imaps("imap.example.com", username)], ..Config::default() };
        assert_eq!(address.generalise(&mut config), general, "{username}");
        assert_eq!(config.incoming[0].username, form);
    }
}

#[test]
fn names_above_an_exchange_are_bounded() {
    let names = |host, domain| exchange_domains(host, domain).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names("mx1.eu.hoster.co.uk", "example.com"), ["eu.hoster.co.uk", "hoster.co.uk", "co.uk"]);
    assert_eq!(names("a.b.c.d.e.f.example.net", "example.com"), ["e.f.example.net", "f.example.net", "example.net"]);
    assert_eq!(names("mail.example.com", "example.com"), Vec::<String>::new());
    assert_eq!(names("hoster.example", "example.com"), Vec::<String>::new());
}

#[test]
fn a_password_for_programs_is_the_tables() {
    let mut config = Config { incoming: vec![imaps("imap.fastmail.com", ADDRESS)], ..Config::default() };
    complete(&mut config);
    assert!(config.app_password.as_ref().is_some_and(|password| password.required));
    let own = AppPassword { required: false, url: "https://example.com".into() };
    config.app_password = Some(own.clone());
    complete(&mut config);
    assert_eq!(config.app_password, Some(own));
}

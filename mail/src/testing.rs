//! A mail server that says what a test tells it to, certificates for it, and hostile bytes without a network.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use std::{fmt, io};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, duplex};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::clean::{Cleaned, MAX_HTML_BYTES, clean};
use crate::compose::Body;
use crate::connect::{Io, Security, Session, Stream};
use crate::content::{Content, Opened};
use crate::error::Error;
use crate::imap::frame::MAX_SECTION_BYTES;
use crate::imap::{
    Command, Event, Features, Fetched, Flag, Folder, Imap, Items, MAX_FOLDERS, PREVIEW_BYTES, Resync, UidSet,
};
use crate::login::{Login, Protocol, Secret, converse};
use crate::message::{self, Address, MAX_PARTS, MAX_PREVIEW_CHARS, Summary};
use crate::oauth2::{self, Failure};
use crate::pop3::{Listed, MAX_HEADER_BYTES, MAX_TEXT_BYTES, MAX_UID_BYTES, Pop3};
use crate::smtp::{Envelope, Kind, Outcome, Said, Smtp, Transmission};

/// The name that the certificates of these tests are for, unless they are for another.
pub const HOST: &str = "mail.example.com";

/// What a server says and expects to hear, in order. After the last step it hangs up.
#[derive(Debug, Clone, Default)]
pub struct Script(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Say(Vec<u8>),
    Hear(String),
    HearAny,
    Tls,
    Trickle(Vec<u8>, Duration),
    Endless(Vec<u8>),
    Silence,
    After(Arc<Notify>),
}

impl Script {
    /// Hangs up at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends these bytes.
    #[must_use]
    pub fn say(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Say(bytes.as_ref().into()))
    }

    /// Waits for a line, and hangs up if it is another one.
    #[must_use]
    pub fn hear(self, line: impl Into<String>) -> Self {
        self.then(Step::Hear(line.into()))
    }

    /// Waits for a line, whatever it is.
    #[must_use]
    pub fn hear_any(self) -> Self {
        self.then(Step::HearAny)
    }

    /// Encrypts from here on.
    #[must_use]
    pub fn tls(self) -> Self {
        self.then(Step::Tls)
    }

    /// Sends these bytes one by one, with a pause after each.
    #[must_use]
    pub fn trickle(self, bytes: impl AsRef<[u8]>, pause: Duration) -> Self {
        self.then(Step::Trickle(bytes.as_ref().into(), pause))
    }

    /// Sends these bytes again and again until the client leaves.
    #[must_use]
    pub fn endless(self, bytes: impl AsRef<[u8]>) -> Self {
        self.then(Step::Endless(bytes.as_ref().into()))
    }

    /// Says nothing more until the client leaves.
    #[must_use]
    pub fn silence(self) -> Self {
        self.then(Step::Silence)
    }

    /// Waits until it is told to go on.
    #[must_use]
    pub fn after(self, told: Arc<Notify>) -> Self {
        self.then(Step::After(told))
    }

    /// And then what another script says.
    #[must_use]
    pub fn append(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Plays it to one client. Every line that was heard is in the answer, the last one may be another than expected.
    async fn play(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, tls: TlsAcceptor) -> Vec<String> {
        let mut io: BufReader<Box<dyn Io>> = BufReader::new(Box::new(io));
        let mut heard = Vec::new();
        for step in self.0 {
            // Whatever fails here fails because the client is gone, and the test sees what it has made of it.
            let done = match step {
                Step::Say(bytes) => io.write_all(&bytes).await.is_ok(),
                Step::Trickle(bytes, pause) => trickle(&mut io, &bytes, pause).await.is_ok(),
                Step::Endless(bytes) => loop {
                    if io.write_all(&bytes).await.is_err() {
                        break false;
                    }
                },
                Step::After(told) => {
                    told.notified().await;
                    true
                }
                Step::Silence => {
                    let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
                    false
                }
                Step::Hear(expected) => {
                    let mut line = String::new();
                    let _ = io.read_line(&mut line).await;
                    heard.push(line.trim_end_matches(['\r', '\n']).to_owned());
                    line == format!("{expected}\r\n")
                }
                Step::HearAny => {
                    let mut line = String::new();
                    let _ = io.read_line(&mut line).await;
                    heard.push(line.trim_end_matches(['\r', '\n']).to_owned());
                    line.ends_with('\n')
                }
                Step::Tls => match tls.accept(io.into_inner()).await {
                    Ok(encrypted) => {
                        io = BufReader::new(Box::new(encrypted));
                        true
                    }
                    Err(_) => return heard,
                },
            };
            if !done || io.flush().await.is_err() {
                break;
            }
        }
        let _ = io.shutdown().await;
        heard
    }
}

async fn trickle(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8], pause: Duration) -> io::Result<()> {
    for byte in bytes {
        io.write_all(&[*byte]).await?;
        io.flush().await?;
        sleep(pause).await;
    }
    Ok(())
}

/// Plays a script to everybody who connects to a port of loopback; ends when it is dropped.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Log {
    connections: usize,
    heard: Vec<String>,
}

impl ScriptedServer {
    /// On a free port.
    ///
    /// # Panics
    /// There is none.
    pub async fn start(script: Script, tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let log = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, script, TlsAcceptor::from(tls), Arc::clone(&log)));
        Self { address, log, _task: task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The lines of the clients that are gone.
    pub fn heard(&self) -> Vec<String> {
        self.log.lock().expect("no holder panics").heard.clone()
    }

    /// How many clients came.
    pub fn connections(&self) -> usize {
        self.log.lock().expect("no holder panics").connections
    }
}

async fn serve(listener: TcpListener, script: Script, tls: TlsAcceptor, log: Arc<Mutex<Log>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        log.lock().expect("no holder panics").connections += 1;
        let (script, tls, log) = (script.clone(), tls.clone(), log.clone());
        connections.spawn(async move {
            let lines = script.play(stream, tls).await;
            log.lock().expect("no holder panics").heard.extend(lines);
        });
    }
}

/// Who signs the certificates of a test's servers.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    client: Arc<ClientConfig>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// One of its own: nobody knows it who was not told.
    ///
    /// # Panics
    /// There are no random numbers.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { pem: certificate.pem(), issuer: Issuer::new(parameters, key), client: Arc::new(client) }
    }

    /// Its own certificate, for `SSL_CERT_FILE`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Trusts this authority and no other.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// A server that is called `name` (or has this IP address).
    ///
    /// # Panics
    /// `name` is none.
    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        self.server_until(name, 4000)
    }

    /// The same with a certificate that has expired.
    ///
    /// # Panics
    /// `name` is none.
    pub fn expired_server(&self, name: &str) -> Arc<ServerConfig> {
        self.server_until(name, 2001)
    }

    fn server_until(&self, name: &str, year: i32) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.not_before = date_time_ymd(2000, 1, 1);
        parameters.not_after = date_time_ymd(year, 1, 1);
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Arc::new(config.expect("a certificate and its key"))
    }
}

/// Signs in and out where the server plays a script in memory. With the outcome comes what the server heard.
///
/// # Errors
/// What [`crate::login::try_login`] makes of it.
///
/// # Panics
/// The server does.
pub async fn sign_in_to_script(
    (protocol, security): (Protocol, Security),
    login: &Login,
    script: Script,
    (client, server): (Arc<ClientConfig>, Arc<ServerConfig>),
    session: Session,
) -> (Result<(), Error>, Vec<String>) {
    let (here, there) = duplex(4096);
    let server = tokio::spawn(script.play(there, TlsAcceptor::from(server)));
    let outcome = sign_in(here, (protocol, security), login, client, session).await;
    (outcome, server.await.expect("a script does not panic"))
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without threads")
});

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// A plain connection to a server that plays a script in memory, and what it will have heard.
///
/// # Panics
/// There is no runtime.
pub fn connect_to_script(script: Script, session: Session) -> (Stream, JoinHandle<Vec<String>>) {
    // As much as the buffers of a connection hold at the least.
    let (here, there) = duplex(16 * 1024);
    let server = tokio::spawn(script.play(there, TlsAcceptor::from(AUTHORITY.server(HOST))));
    (plain(here, AUTHORITY.client(), session), server)
}

/// A plain connection to anything, without the guard, as if it were [`HOST`].
fn plain(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, tls: Arc<ClientConfig>, session: Session) -> Stream {
    Stream::new(Box::new(io), HOST, TlsConnector::from(tls), session).unencrypted()
}

/// Signs in and out where the server says just these bytes, whatever it is told, and hangs up: by password and by
/// token, plain and by STARTTLS. For property tests and fuzzing.
///
/// # Panics
/// An outcome is not short, clean, and without the secret.
pub fn sign_in_to_bytes(protocol: Protocol, bytes: &[u8]) {
    let secrets = [Secret::Password("hunter22".to_owned().into()), Secret::AccessToken("ya29.token".to_owned().into())];
    for secret in secrets {
        let login = Login::new("alice", secret).expect("no control characters");
        for security in [Security::Plain, Security::StartTls] {
            let server = tokio::io::join(io::Cursor::new(bytes.to_vec()), tokio::io::sink());
            let outcome = RUNTIME.block_on(async {
                let session = Session::new(Duration::from_secs(60), 1024 * 1024);
                sign_in(server, (protocol, security), &login, AUTHORITY.client(), session).await
            });
            match outcome {
                Ok(()) => assert_eq!(security, Security::Plain, "nobody has shown a certificate"),
                Err(error) => {
                    for words in [&error.message, &error.detail] {
                        assert!(words.chars().count() <= 200 && !words.chars().any(char::is_control), "{error:?}");
                        assert!(!words.to_lowercase().contains(login.secret().reveal()), "{error:?}");
                    }
                }
            }
        }
    }
}

/// Lists the folders of an IMAP server that says just these bytes after somebody has signed in, and reads messages: all
/// that can be asked for, of a server that offers everything, and then of one that offers nothing. For property tests and
/// fuzzing.
///
/// # Panics
/// What is told could not be used, or not held.
pub fn read_imap_bytes(bytes: &[u8]) {
    let everything =
        "ENABLE CONDSTORE QRESYNC LIST-EXTENDED LIST-STATUS SPECIAL-USE ESEARCH OBJECTID X-GM-EXT-1 MOVE UIDPLUS";
    for (capabilities, asked) in
        [everything, "IMAP4rev1"].into_iter().flat_map(|says| Asked::ALL.map(|asked| (says, asked)))
    {
        let greeting = format!("* OK [CAPABILITY {capabilities}] x\r\na1 OK [CAPABILITY {capabilities}] in\r\n");
        RUNTIME.block_on(async {
            let login = Login::new("alice", Secret::Password("hunter22".to_owned().into())).expect("no controls");
            let stream = said(&[greeting.as_bytes(), bytes].concat());
            let mut imap = Imap::sign_in(stream, Security::Plain, &login).await.expect("it says OK");
            let features = imap.features().await.expect("it says what it can do");
            let (folder, said) = (b"INBOX".as_slice(), bytes.len());
            match asked {
                Asked::Folders => {
                    if let Ok(folders) = imap.list(&features).await {
                        check_folders(&folders, said);
                    }
                }
                Asked::Changes => check_conversation(&mut imap, &features, changes(), said).await,
                Asked::Deeds => check_conversation(&mut imap, &features, deeds(), said).await,
                Asked::Whole => {
                    if let Ok(Some(raw)) = imap.fetch_raw(&features, folder, 1, 7, WHOLE_BYTES).await {
                        assert!(raw.bytes.len() <= WHOLE_BYTES.min(said));
                    }
                }
                // What comes of it are yes and no.
                Asked::Filing => {
                    drop(imap.has_message_id(&features, folder, "1@example.com", 0).await);
                    drop(imap.append(folder, 3, &mut Dotted(&[b"a\r\n"])).await);
                    drop(imap.mark_answered(&features, folder, 1, 7).await);
                }
            }
        });
    }
}

/// What hostile bytes are the answer to.
#[derive(Clone, Copy)]
enum Asked {
    Folders,
    Changes,
    Deeds,
    Whole,
    Filing,
}

impl Asked {
    const ALL: [Self; 5] = [Self::Folders, Self::Changes, Self::Deeds, Self::Whole, Self::Filing];
}

/// Of a whole message, less than seeds say.
const WHOLE_BYTES: usize = 64;

fn check_folders(folders: &[Folder], said: usize) {
    assert!(folders.len() <= said.min(MAX_FOLDERS));
    let mut roles = Vec::new();
    for folder in folders {
        assert!(
            (1..=1024).contains(&folder.wire.len()) && !folder.wire.iter().any(|b| b"\r\n\0".contains(b)),
            "{folder:?}"
        );
        assert!(!folder.path.is_empty() && !folder.path.contains(char::is_control), "{folder:?}");
        assert!(folder.is_selectable || folder.status.is_none() && folder.role.is_none(), "{folder:?}");
        if let Some(role) = folder.role {
            assert!(!roles.contains(&role), "{folder:?}");
            roles.push(role);
        }
    }
}

fn changes() -> Vec<Command> {
    let uids: UidSet = (1..=9).collect();
    let fetch = |items| Command::Fetch { uids: uids.clone(), items, changed_since: Some(1), vanished: true };
    let resync = Some(Resync { uid_validity: 1, modseq: 1 });
    vec![
        Command::Examine { mailbox: b"INBOX".to_vec(), resync, condstore: true },
        fetch(Items::Flags),
        fetch(Items::Headers),
        fetch(Items::Arrivals),
        Command::SearchAll,
    ]
}

fn deeds() -> Vec<Command> {
    let (uids, mailbox): (UidSet, _) = ((1..=9).collect(), b"Work".to_vec());
    vec![
        Command::Select { mailbox: b"INBOX".to_vec() },
        Command::Store { uids: uids.clone(), flag: Flag::Seen, is_set: true },
        Command::Label { uids: uids.clone(), label: b"Work".to_vec(), is_set: true },
        Command::Move { uids: uids.clone(), mailbox: mailbox.clone() },
        Command::Copy { uids: uids.clone(), mailbox },
        Command::Expunge { uids },
    ]
}

async fn check_conversation(imap: &mut Imap, features: &Features, commands: Vec<Command>, said: usize) {
    let most = commands.len();
    let mut conversation = imap.converse(features, commands);
    let (mut ends, mut events) = (0, 0);
    let check_set = |set: &UidSet| assert_eq!(set.to_string().parse::<UidSet>().as_ref(), Ok(set));
    while let Ok(Some(event)) = conversation.next().await {
        events += 1;
        match event {
            Event::Done { command, .. } => {
                assert_eq!(command, ends);
                ends += 1;
            }
            Event::Fetched(Fetched { uid, header, text, gmail, email_id, thread_id, .. }) => {
                assert!(uid != 0 && header.is_none_or(|header| header.len() <= MAX_SECTION_BYTES));
                assert!(text.is_none_or(|text| text.len() <= PREVIEW_BYTES));
                let mut words = gmail.unwrap_or_default().labels.into_iter().chain(email_id).chain(thread_id);
                assert!(!words.any(|word| word.contains(char::is_control)));
            }
            Event::Undecodable { uid } => assert_ne!(uid, Some(0)),
            Event::Copied { uid_validity, uids } => {
                assert!(uid_validity != 0 && uids.iter().all(|(from, to)| *from != 0 && *to != 0), "{uids:?}");
            }
            Event::Vanished { uids: set, .. } | Event::Found(set) => check_set(&set),
            _ => {}
        }
    }
    assert!(ends <= most && events <= said + most);
}

/// Lists the messages of a POP3 server that says just these bytes after somebody has signed in, and reads their begins.
/// For property tests and fuzzing.
///
/// # Panics
/// What is told could not be used, or not held.
pub fn read_pop3_bytes(bytes: &[u8]) {
    for (capabilities, asked) in
        ["PIPELINING", "USER"].into_iter().flat_map(|says| ["UIDL", "TOP", "RETR"].map(|asked| (says, asked)))
    {
        let greeting = format!("+OK\r\n+OK\r\nUSER\r\n{capabilities}\r\n.\r\n+OK\r\n+OK\r\n");
        RUNTIME.block_on(async {
            let login = Login::new("alice", Secret::Password("hunter22".to_owned().into())).expect("no controls");
            let stream = said(&[greeting.as_bytes(), bytes].concat());
            let mut pop3 = Pop3::sign_in(stream, Security::Plain, &login).await.expect("it says OK");
            if asked == "RETR" {
                if let Ok(raw) = pop3.retrieve(1, WHOLE_BYTES).await {
                    assert!(raw.bytes.len() <= WHOLE_BYTES.min(bytes.len()));
                }
                return;
            }
            if asked == "UIDL" {
                for Listed { uid, .. } in pop3.uids().await.unwrap_or_default() {
                    assert!((1..=MAX_UID_BYTES).contains(&uid.len()) && !uid.contains(char::is_control), "{uid:?}");
                }
                return;
            }
            let mut tops = pop3.tops((1..=5).collect(), 9);
            let mut number = 0;
            while let Ok(Some(top)) = tops.next().await {
                number += 1;
                assert_eq!(top.number, number);
                match top.begin {
                    Ok(begin) => assert!(begin.header.len() <= MAX_HEADER_BYTES && begin.text.len() <= MAX_TEXT_BYTES),
                    Err(words) => assert!(words.chars().count() <= 200 && !words.contains(char::is_control)),
                }
            }
        });
    }
}

/// Reads what a provider answers who is asked for tokens: the first byte chooses the status. For property tests and fuzzing.
///
/// # Panics
/// A token could not be sent on, or words could not be shown or repeat a secret.
pub fn read_token_answer(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let status = [200, 400, 401, 429, 500].get(usize::from(first % 5)).copied().unwrap_or(200);
    let answer = hyper::Response::builder().status(status).body(body.to_vec()).expect("a status that there is");
    match oauth2::read(answer, &["hunter22"], Some("invalid_request")) {
        Ok(grant) => {
            let tokens = [Some(&grant.access_token), grant.refresh_token.as_ref()];
            assert!(
                tokens
                    .into_iter()
                    .flatten()
                    .all(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()))
            );
            assert!(status == 200 && grant.life <= oauth2::MAX_LIFE);
            if let Some(id_token) = grant.id_token {
                drop(oauth2::claims(&id_token));
            }
        }
        Err(Failure::Refused(words) | Failure::Client(words) | Failure::Unavailable(words)) => {
            assert!(words.chars().count() <= 200 && !words.contains(char::is_control), "{words:?}");
            assert!(!words.contains("hunter22"), "{words}");
        }
    }
}

/// Hands a message over to an SMTP server that says just these bytes, whatever it is told, and hangs up: all of them from its
/// greeting on, and then after somebody has signed in, at one that offers everything and at one that offers nothing. For
/// property tests and fuzzing.
///
/// # Panics
/// An answer could not be shown, or the message went to a server that had not asked for it.
pub fn submit_to_bytes(bytes: &[u8]) {
    let everything = "250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n";
    let signed_in = |extensions| format!("220 x\r\n250-x\r\n{extensions}250 AUTH PLAIN\r\n235 in\r\n");
    for before in [String::new(), signed_in(everything), signed_in("")] {
        RUNTIME.block_on(submit([before.as_bytes(), bytes].concat()));
    }
}

/// A message whose lines begin with dots, in pieces that are cut there.
struct Dotted(&'static [&'static [u8]]);

impl Body for Dotted {
    type Error = Infallible;

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Infallible> {
        let Some((first, rest)) = self.0.split_first() else { return Ok(None) };
        self.0 = rest;
        Ok(Some(first.to_vec()))
    }
}

async fn submit(said: Vec<u8>) {
    const PIECES: &[&[u8]] = &[b"Subject: x\r\n\r\n.\r\n.", b".x\r\n"];
    const WRITTEN: &str = "Subject: x\r\n\r\n..\r\n...x\r\n";
    let login = Login::new("alice", Secret::Password("hunter22".to_owned().into())).expect("no controls");
    let check_words = |words: &str| {
        assert!(words.chars().count() <= 200 && !words.chars().any(char::is_control), "{words:?}");
        assert!(!words.to_lowercase().contains("hunter22"), "{words}");
    };
    let check = |said: &Said| {
        assert!((200..=599).contains(&said.code), "{said:?}");
        check_words(&said.words);
    };
    let check_error = |error: &Error| {
        check_words(&error.message);
        assert!(error.detail.len() <= 1024 && !error.detail.to_lowercase().contains("hunter22"), "{error:?}");
    };
    // Holds more than is ever written.
    let (here, mut there) = duplex(64 * 1024);
    let server = tokio::io::join(io::Cursor::new(said), here);
    let stream = plain(server, AUTHORITY.client(), Session::new(Duration::from_secs(60), 1024 * 1024));
    let Ok(mut smtp) = Smtp::sign_in(stream, Security::Plain, &login).await else { return };
    let recipients = ["a", "b", "c"].map(|name| format!("{name}@example.com"));
    let envelope = Envelope {
        sender: "jane@example.com",
        recipients: &recipients,
        size: WRITTEN.len() as u64 - 2,
        id: "0199-1",
        needs_utf8: false,
    };
    let offer = smtp.offer(&login, &envelope).await;
    assert_eq!(offer.recipients.len(), recipients.len());
    offer.recipients.iter().flatten().for_each(check);
    let is_wanted = match offer.outcome {
        Outcome::GoAhead => {
            let mut accepted = offer.recipients.iter().flatten().filter(|said| said.kind() == Kind::Yes);
            assert!(accepted.next().is_some(), "for nobody");
            true
        }
        Outcome::Refused(said) => {
            check(&said);
            false
        }
        Outcome::Broken(error) => {
            check_error(&error);
            false
        }
    };
    if is_wanted {
        match smtp.transmit(&login, &mut Dotted(PIECES)).await {
            Transmission::Ready => {}
            Transmission::Refused(said) => check(&said),
            // All of it was said ahead. What would be made of it is looked at all the same.
            Transmission::Broken(error) => check_error(&error),
            Transmission::NoBody(never) => match never {},
        }
        match smtp.last_dot(&login).await {
            Ok(said) => {
                // Nobody takes a question for an answer.
                assert!(!(300..=399).contains(&said.code), "{said}");
                check(&said);
            }
            Err(error) => check_error(&error),
        }
    }
    drop(smtp);
    let mut heard = String::new();
    there.read_to_string(&mut heard).await.expect("all that is said is text");
    match is_wanted {
        true => assert!(heard.ends_with(&format!("DATA\r\n{WRITTEN}.\r\n")), "{heard}"),
        false => assert!(!heard.contains("Subject") && !heard.contains("\r\n."), "{heard}"),
    }
}

/// A plain connection to a server that says just these bytes, whatever it is told, and hangs up.
fn said(bytes: &[u8]) -> Stream {
    let server = tokio::io::join(io::Cursor::new(bytes.to_vec()), tokio::io::sink());
    plain(server, AUTHORITY.client(), Session::new(Duration::from_secs(60), 16 * 1024 * 1024))
}

/// Reads header and body of a message as [`Summary::read`] does.
///
/// # Panics
/// The summary could not be stored or shown.
pub fn read_message<'a>(header: &'a [u8], text: Option<&'a [u8]>) -> Summary<'a> {
    let (summary, references) = (Summary::read(header, text), message::references(header));
    let mut texts = vec![&*summary.subject];
    assert!(summary.subject.chars().count() <= message::MAX_SUBJECT_CHARS);
    for addresses in [&summary.from, &summary.to, &summary.cc, &summary.bcc, &summary.reply_to] {
        assert!(addresses.len() <= message::MAX_ADDRESSES);
        for Address { name, address } in addresses {
            assert!(address.len() <= message::MAX_ADDRESS_BYTES);
            assert!(name.as_ref().is_none_or(|name| (1..=message::MAX_NAME_CHARS).contains(&name.chars().count())));
            assert!(name.is_some() || !address.is_empty());
            texts.extend(name.iter().chain([address]).map(|text| &**text));
        }
    }
    assert!(references.len() <= message::MAX_REFERENCES);
    assert_eq!(references.first().map(String::as_str), summary.first_reference.as_deref());
    let ids = [&summary.message_id, &summary.in_reply_to].into_iter().flatten().map(|id| &**id);
    for id in ids.chain(references.iter().map(String::as_str)) {
        assert!((1..=message::MAX_ID_BYTES).contains(&id.len()) && !id.contains(char::is_whitespace));
        texts.push(id);
    }
    if let Some(preview) = &summary.preview {
        assert!((1..=message::MAX_PREVIEW_CHARS).contains(&preview.chars().count()));
        texts.push(preview);
    }
    for text in texts {
        assert!(!text.contains(char::is_control) && text.trim() == text && !text.contains("  "), "{text:?}");
    }
    summary
}

/// What [`crate::login::try_login`] does, over anything and without the guard, as if it were [`HOST`].
async fn sign_in(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    (protocol, security): (Protocol, Security),
    login: &Login,
    tls: Arc<ClientConfig>,
    session: Session,
) -> Result<(), Error> {
    let stream = Stream::new(Box::new(io), HOST, TlsConnector::from(tls), session).secured(security).await?;
    converse(stream, protocol, security, login).await
}

/// Opens a message, and looks whether what comes of it is as it is promised.
///
/// # Panics
///
/// When it is not.
pub fn open_message(message: &[u8]) -> Opened {
    let opened = Opened::read(message, |id| format!("/attachments/{id}"));
    let Content { text, html, has_remote_content, attachments, .. } = &opened.content;
    let is_shown = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    for text in [text, html].into_iter().flatten() {
        assert!(text.len() <= MAX_HTML_BYTES && text.chars().all(is_shown));
    }
    let has_pictures = html.as_deref().is_some_and(|html| html.contains(" data-remote-src=\""));
    assert!(has_pictures || !has_remote_content);
    assert!(opened.preview.as_deref().is_none_or(|preview| preview.chars().count() <= MAX_PREVIEW_CHARS));
    assert_eq!(attachments.len(), opened.places.len());
    assert!(attachments.len() < MAX_PARTS);
    let mut end = 0;
    for attachment in attachments {
        let (found, place) = opened.attachment(&attachment.id).expect("each has its own id");
        assert_eq!(found, attachment);
        // One after the other.
        assert!(place.offset >= end);
        end = place.range().end;
        let written = &message[place.offset as usize..end as usize];
        assert_eq!(place.decode(written).len() as u64, attachment.size);
        let name = &attachment.filename;
        assert!(!name.is_empty() && name.len() <= 255 && !name.contains(['/', '\\']));
        assert!(!name.chars().any(char::is_control) && !name.starts_with('.'));
        let is_of_type =
            |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !b"()<>@,;:\\\"[]?=".contains(&byte);
        assert!(attachment.content_type.bytes().all(is_of_type) && attachment.content_type.len() <= 255);
        assert_eq!(attachment.content_type.matches('/').count(), 1);
        assert!(attachment.content_id.as_deref().is_none_or(|id| id.len() <= 255));
    }
    opened
}

/// Cleans HTML whose one picture is `cid:logo`, and looks whether what comes of it does nothing, however often it is
/// written anew.
///
/// # Panics
///
/// When it does.
pub fn clean_html(html: &str) -> Cleaned {
    // The path is one that can be cleaned again.
    let clean = |html: &str| clean(html, |id| (id == "logo").then(|| "cid:logo".to_owned()));
    let cleaned = clean(html);
    let mut last = cleaned.clone();
    look_at(&last);
    // What was opened in the midst of others may be closed elsewhere when it is read again, once and again.
    for _ in 0..3 {
        let next = clean(&last.html);
        look_at(&next);
        assert_eq!(next.has_remote_content, cleaned.has_remote_content);
        last = next;
    }
    assert_eq!(clean(&last.html), last);
    cleaned
}

/// Without a parser: `<` begins tags alone, and all of them are written in one way.
fn look_at(cleaned: &Cleaned) {
    assert!(cleaned.html.len() <= MAX_HTML_BYTES);
    let mut has_remote = false;
    for tag in cleaned.html.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("each tag ends");
        let name = tag.trim_start_matches('/').split(' ').next().unwrap_or_default();
        assert!(
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
            "{tag}"
        );
        let bad =
            ["script", "style", "form", "iframe", "object", "embed", "svg", "math", "base", "meta", "link", "input"];
        assert!(!bad.contains(&name), "{tag}");
        // Names and values in turn.
        let mut pieces = tag[tag.find(' ').unwrap_or(tag.len())..].split('"');
        while let (Some(attribute), Some(value)) = (pieces.next(), pieces.next()) {
            let attribute = attribute.trim_start().strip_suffix('=').expect("each attribute has a value");
            assert!(!attribute.starts_with("on") && !matches!(attribute, "id" | "name" | "class"), "{tag}");
            let is = |starts: &[&str]| starts.iter().any(|start| value.starts_with(start));
            match attribute {
                "href" => assert!(is(&["https://", "http://", "mailto:", "tel:"]), "{tag}"),
                "src" => assert!(name == "img" && is(&["cid:logo", "data:image/"]) && !value.contains("svg"), "{tag}"),
                "data-remote-src" => {
                    assert!(name == "img" && is(&["https://", "http://"]), "{tag}");
                    has_remote = true;
                }
                "style" => {
                    let style = value.to_ascii_lowercase();
                    assert!(!["\\", "/*", "@", "{", "}"].iter().any(|bad| style.contains(bad)), "{tag}");
                    let colors = ["rgb", "rgba", "hsl", "hsla"];
                    let mut functions = style.split('(').rev().skip(1);
                    assert!(functions.all(|before| colors.iter().any(|color| before.ends_with(color))), "{tag}");
                    let bad = ["position", "z-index", "top", "left", "transform", "behavior", "content", "filter"];
                    assert!(
                        !style.split(';').any(|one| bad.iter().any(|bad| one.split(':').next() == Some(bad))),
                        "{tag}"
                    );
                }
                _ => {}
            }
        }
    }
    assert_eq!(has_remote, cleaned.has_remote_content);
}

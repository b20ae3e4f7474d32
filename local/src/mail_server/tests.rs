use std::{
    io::{self, BufRead, BufReader},
    sync::Arc,
    time::Instant,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::*;

/// A client that knows lines and nothing else.
struct Client(BufReader<Box<dyn Link>>);

trait Link: Read + Write {}
impl<T: Read + Write> Link for T {}

impl Client {
    fn tls(stream: TcpStream, trusted: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(trusted)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
        let mut stream = StreamOwned::new(connection, stream);
        // The handshake, so that it is here where a bad certificate shows.
        stream.flush()?;
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line)
    }

    /// Sends a command and returns its answer up to the line that begins with one of the signs.
    fn ask(&mut self, command: &str, signs: &[&str]) -> io::Result<String> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.0.get_mut().flush()?;
        self.read_to(signs)
    }

    fn read_to(&mut self, signs: &[&str]) -> io::Result<String> {
        let mut answer = String::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Err(io::Error::other(format!("the server hung up after {answer:?}")));
            }
            answer += &line;
            if signs.iter().any(|sign| line.starts_with(sign)) {
                return Ok(answer);
            }
        }
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Protocol {
    Imap,
    Pop3,
    Smtp,
}

impl Protocol {
    /// The beginnings of lines that end an answer.
    fn signs(self) -> &'static [&'static str] {
        match self {
            Self::Imap => &["* OK", "a ", "+"],
            Self::Pop3 => &["+", "-ERR"],
            Self::Smtp => &["220 ", "221 ", "235 ", "250 ", "334 ", "354 ", "5", "4"],
        }
    }
}

/// Every way in: protocol, port, and the command before TLS if it begins in clear.
fn ways(ports: &Ports) -> [(Protocol, u16, Option<&'static str>); 6] {
    [
        (Protocol::Imap, ports.imap, Some("a STARTTLS")),
        (Protocol::Imap, ports.imaps, None),
        (Protocol::Pop3, ports.pop3, Some("STLS")),
        (Protocol::Pop3, ports.pop3s, None),
        (Protocol::Smtp, ports.submission, Some("STARTTLS")),
        (Protocol::Smtp, ports.submissions, None),
    ]
}

/// Connects, by TLS in the end, and reads the greeting.
fn open(protocol: Protocol, port: u16, start_tls: Option<&str>, trusted: &Path) -> Result<Client> {
    let stream = connect(port)?;
    let Some(command) = start_tls else {
        let mut client = Client::tls(stream, trusted)?;
        client.read_to(protocol.signs())?;
        return Ok(client);
    };
    let mut client = Client(BufReader::new(Box::new(stream.try_clone()?)));
    client.read_to(protocol.signs())?;
    if protocol == Protocol::Smtp {
        client.ask("EHLO x", protocol.signs())?;
    }
    let answer = client.ask(command, protocol.signs())?;
    ensure!(["a OK", "+OK", "220"].iter().any(|good| answer.starts_with(good)), "{command}: {answer}");
    Client::tls(stream, trusted)
}

fn sign_in(client: &mut Client, protocol: Protocol, user: &str, password: &str) -> Result<bool> {
    let plain = BASE64_STANDARD.encode(format!("\0{user}\0{password}"));
    let answer = match protocol {
        Protocol::Imap => client.ask(&format!("a LOGIN {user} \"{password}\""), &["a "])?,
        Protocol::Pop3 => {
            client.ask(&format!("USER {user}"), protocol.signs())?;
            client.ask(&format!("PASS {password}"), protocol.signs())?
        }
        Protocol::Smtp => {
            client.ask("EHLO x", protocol.signs())?;
            client.ask(&format!("AUTH PLAIN {plain}"), protocol.signs())?
        }
    };
    Ok(["a OK", "+OK", "235"].iter().any(|good| answer.starts_with(good)))
}

#[test]
fn users_sign_in_by_every_way_and_nobody_else_does() -> Result<()> {
    let server = Dovecot::start()?;
    server.add_user("jane@example.com", "correct: horse")?;
    let began = Instant::now();
    for (protocol, port, start_tls) in ways(&server.ports()) {
        for (user, password, good) in [
            ("jane@example.com", "correct: horse", true),
            ("jane@example.com", "wrong", false),
            ("john@example.com", "correct: horse", false),
        ] {
            let mut client = open(protocol, port, start_tls, &server.ca_file())?;
            assert_eq!(sign_in(&mut client, protocol, user, password)?, good, "{protocol:?} {start_tls:?} {user}");
        }
    }
    // Twelve refusals. Dovecot's own settings hold back each by two seconds, and by ever more.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    // A new password counts at once, also in the same second, and beside it a second user.
    server.add_user("jane@example.com", "another: pass")?;
    server.add_user("john@example.com", "correct: horse")?;
    for (user, password, good) in [
        ("jane@example.com", "correct: horse", false),
        ("jane@example.com", "another: pass", true),
        ("john@example.com", "correct: horse", true),
    ] {
        let mut client = open(Protocol::Imap, server.ports().imaps, None, &server.ca_file())?;
        assert_eq!(sign_in(&mut client, Protocol::Imap, user, password)?, good, "{user} {password}");
    }
    server.add_user("../jane", "").expect_err("names become files");
    Ok(())
}

#[test]
fn tokens_open_what_passwords_open_until_their_time_ends() -> Result<()> {
    let server = Dovecot::start()?;
    server.add_user("jane@example.com", "secret")?;
    let other_server_key = EncodingKey::from_secret(b"another key");
    let claims = json!({ "sub": "jane@example.com", "email": "jane@example.com", "iat": 1, "exp": 4_102_444_800_u64 });
    let forged = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &other_server_key)?;
    for (token, good) in [
        (server.token("jane@example.com")?, true),
        (server.expired_token("jane@example.com")?, false),
        (server.token("john@example.com")?, false),
        (forged, false),
    ] {
        let xoauth2 = format!("user=jane@example.com\x01auth=Bearer {token}\x01\x01");
        let bearer = format!("n,a=jane@example.com,\x01host=localhost\x01port=993\x01auth=Bearer {token}\x01\x01");
        for (mechanism, response) in [("XOAUTH2", xoauth2), ("OAUTHBEARER", bearer)] {
            let response = BASE64_STANDARD.encode(response);
            // Half a second for each refusal: one way in is enough for these.
            for (protocol, port, start_tls) in ways(&server.ports()).into_iter().take(if good { 6 } else { 1 }) {
                let mut client = open(protocol, port, start_tls, &server.ca_file())?;
                let command = match protocol {
                    Protocol::Imap => format!("a AUTHENTICATE {mechanism} {response}"),
                    Protocol::Pop3 => format!("AUTH {mechanism} {response}"),
                    Protocol::Smtp => {
                        client.ask("EHLO x", protocol.signs())?;
                        format!("AUTH {mechanism} {response}")
                    }
                };
                let mut answer = client.ask(&command, protocol.signs())?;
                // A refusal says why first and wants an empty answer to that.
                if answer.starts_with("+ ") || answer.starts_with("334 ") {
                    answer = client.ask("", protocol.signs())?;
                }
                let opened = ["a OK", "+OK", "235"].iter().any(|sign| answer.starts_with(sign));
                assert_eq!(opened, good, "{mechanism} {protocol:?} {answer}");
            }
        }
    }
    Ok(())
}

#[test]
fn delivered_mail_is_there_and_submitted_mail_ends_in_the_sink() -> Result<()> {
    let server = Dovecot::start()?;
    server.add_user("jane@example.com", "secret")?;
    let message = b"From: john@example.com\r\nSubject: Hello\r\n\r\nThe text\r\n";
    server.deliver("jane@example.com", message)?;
    server.deliver("nobody@example.com", message).expect_err("there is no such user");

    let mut imap = open(Protocol::Imap, server.ports().imaps, None, &server.ca_file())?;
    assert!(sign_in(&mut imap, Protocol::Imap, "jane@example.com", "secret")?);
    let folders = imap.ask("b LIST (SPECIAL-USE) \"\" * RETURN (SPECIAL-USE)", &["b "])?;
    for role in ["Drafts", "Sent", "Junk", "Trash", "Archive"] {
        assert!(folders.contains(&format!("\\{role}) \"/\" {role}")), "{role}: {folders}");
    }
    assert!(imap.ask("c SELECT INBOX", &["c "])?.contains("* 1 EXISTS"));
    assert!(imap.ask("d FETCH 1 BODY[]", &["d "])?.contains("Subject: Hello\r\n\r\nThe text\r\n"));
    let mut pop3 = open(Protocol::Pop3, server.ports().pop3, Some("STLS"), &server.ca_file())?;
    assert!(sign_in(&mut pop3, Protocol::Pop3, "jane@example.com", "secret")?);
    assert!(pop3.ask("STAT", Protocol::Pop3.signs())?.starts_with("+OK 1 "));

    server.sink().refuse("nobody@example.com", "550 5.1.1 Nobody here");
    let mut smtp = open(Protocol::Smtp, server.ports().submissions, None, &server.ca_file())?;
    assert!(sign_in(&mut smtp, Protocol::Smtp, "jane@example.com", "secret")?);
    let mut ask = |command: &str| smtp.ask(command, Protocol::Smtp.signs());
    assert!(ask("MAIL FROM:<jane@example.com>")?.starts_with("250 "));
    assert!(ask("RCPT TO:<john@example.com>")?.starts_with("250 "));
    assert!(ask("RCPT TO:<nobody@example.com>")?.starts_with("550 "));
    assert!(ask("DATA")?.starts_with("354 "));
    assert!(ask("Subject: Out\r\n\r\n..dot\r\n.")?.starts_with("250 "));
    let deliveries = server.sink().deliveries();
    assert_eq!(deliveries.len(), 1);
    assert_eq!((&*deliveries[0].sender, &*deliveries[0].recipients.concat()), ("jane@example.com", "john@example.com"));
    // The server adds its own line in front.
    let text = String::from_utf8_lossy(&deliveries[0].message).into_owned();
    assert!(text.ends_with("Subject: Out\r\n\r\n.dot\r\n"), "{text}");
    Ok(())
}

#[test]
fn only_the_good_certificate_is_accepted() -> Result<()> {
    for (certificate, reason) in [
        (Certificate::Expired, "certificate expired"),
        (Certificate::OtherName, "not valid for name"),
        (Certificate::OtherAuthority, "UnknownIssuer"),
    ] {
        let server = Dovecot::start_with(certificate)?;
        let error = open(Protocol::Imap, server.ports().imaps, None, &server.ca_file()).err();
        let error = format!("{:?}", error.context("a bad certificate is accepted")?);
        assert!(error.contains(reason), "{certificate:?}: {error}");
    }
    let server = Dovecot::start()?;
    // The bundle has what the system trusts as well.
    let bundle = fs::read_to_string(server.bundle_file())?;
    let roots = rustls_native_certs::load_native_certs().certs.len();
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), roots + 1);
    open(Protocol::Imap, server.ports().imaps, None, &server.bundle_file())?;
    Ok(())
}

#[test]
fn it_can_be_stopped_killed_paused_and_started_again() -> Result<()> {
    let mut server = Dovecot::start()?;
    server.add_user("jane@example.com", "secret")?;
    let port = server.ports().imaps;
    let trusted = server.ca_file();
    let mut client = open(Protocol::Imap, port, None, &trusted)?;
    assert!(sign_in(&mut client, Protocol::Imap, "jane@example.com", "secret")?);

    server.pause()?;
    client.0.get_mut().write_all(b"b NOOP\r\n")?;
    client.0.get_mut().flush()?;
    server.resume()?;
    assert!(client.read_to(&["b "])?.starts_with("b OK"));

    server.kill()?;
    assert!(client.ask("c NOOP", &["c "]).is_err(), "a crash ends the connections, too");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    server.start_again()?;
    server.stop()?;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    server.start_again()?;
    let mut client = open(Protocol::Imap, port, None, &trusted)?;
    assert!(sign_in(&mut client, Protocol::Imap, "jane@example.com", "secret")?);

    // Also a frozen server goes, with its processes and files.
    server.pause()?;
    let directory = server.directory.clone();
    drop(server);
    assert!(!directory.exists());
    assert!(client.ask("b NOOP", &["b "]).is_err());
    let deadline = Instant::now() + END_LIMIT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
        assert!(Instant::now() < deadline, "a process is left");
        thread::yield_now();
    }
    Ok(())
}

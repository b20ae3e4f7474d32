//! A throw-away mail server: Debian's Dovecot with IMAP, POP3 and submission, as an ordinary user and on free ports.
//!
//! What is submitted ends in a sink. Users sign in with a password, or by XOAUTH2 and OAUTHBEARER with a token of the
//! server's own.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::{
    certificates::{Authority, Certificate},
    install::{Tool, ensure_installed, find, running_as_root},
    services::{Service, as_user, new_directory, retry_on_other_ports, secret},
    smtp_sink::SmtpSink,
};

/// The major and minor version whose configuration this writes: 2.4 reads another.
const VERSION: &str = "2.3.";
/// How long a token is good, and how long before now it says that it was made: Dovecot's clock stands still while it
/// works.
const TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);
const TOKEN_AGE: Duration = Duration::from_secs(10);
/// How long processes may take to end after they were told.
const END_LIMIT: Duration = Duration::from_secs(10);
/// A greeting that takes longer is asked for again.
const GREETING_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
/// How often submitted messages are looked for.
const POST_PAUSE: Duration = Duration::from_millis(200);

/// Ports on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// IMAP with STARTTLS.
    pub imap: u16,
    /// IMAP over TLS.
    pub imaps: u16,
    /// POP3 with STLS.
    pub pop3: u16,
    /// POP3 over TLS.
    pub pop3s: u16,
    /// Submission with STARTTLS.
    pub submission: u16,
    /// Submission over TLS.
    pub submissions: u16,
}

/// What a server offers to sign in with.
const MECHANISMS: &str = "plain login xoauth2 oauthbearer";

/// A running Dovecot, which ends with this value.
#[derive(Debug)]
pub struct Dovecot {
    service: Service,
    directory: PathBuf,
    account: Account,
    /// Stands before commands that are to run as this account.
    as_account: Vec<String>,
    ports: Ports,
    authority: Authority,
    token_key: String,
    sink: SmtpSink,
}

impl Dovecot {
    /// Starts a server with a certificate that who trusts [`Dovecot::ca_file`] accepts. It takes about half a second.
    ///
    /// # Errors
    /// Dovecot cannot be installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_as(Certificate::Good, MECHANISMS)
    }

    /// Like `start`, with these SASL mechanisms and no others, by their names with spaces between them.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_offering(mechanisms: &str) -> Result<Self> {
        Self::start_as(Certificate::Good, mechanisms)
    }

    /// Like `start`, with another certificate.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with(certificate: Certificate) -> Result<Self> {
        Self::start_as(certificate, MECHANISMS)
    }

    fn start_as(certificate: Certificate, mechanisms: &str) -> Result<Self> {
        ensure_installed(&[Tool::Dovecot])?;
        let program = Tool::Dovecot.locate().context("Dovecot is not installed")?;
        let version = Command::new(&program).arg("--version").output().context("cannot run dovecot")?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        ensure!(version.starts_with(VERSION), "Dovecot {VERSION}x is needed, and {version} is installed");
        retry_on_other_ports(|_| Self::start_on(&program, Ports::free()?, certificate, mechanisms))
    }

    fn start_on(program: &Path, ports: Ports, certificate: Certificate, mechanisms: &str) -> Result<Self> {
        let directory = new_directory()?;
        let sink = SmtpSink::start()?;
        let authority = Authority::new()?;
        let issued = authority.issue(certificate)?;
        let token_key = secret();
        let account = Account::of_the_server()?;

        // Where Dovecot looks for the key of a token that names none.
        let keys = directory.join("keys/default/HS256");
        for folder in [&keys, &directory.join("users/passdb"), &directory.join("users/userdb")] {
            fs::create_dir_all(folder)?;
        }
        for (path, text) in [
            (directory.join("dovecot.conf"), configuration(&directory, &account, &ports, sink.port(), mechanisms)),
            (directory.join("oauth2.conf"), oauth2_configuration(&directory)),
            (directory.join("certificate.pem"), issued.certificate),
            (directory.join("key.pem"), issued.key),
            (directory.join("ca.pem"), authority.pem().to_owned()),
            (directory.join("bundle.pem"), system_roots() + authority.pem()),
            (keys.join("default"), BASE64_STANDARD.encode(&token_key)),
            (directory.join("users.conf"), users_configuration(&directory)),
        ] {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let as_account = if running_as_root()? { as_user(&account.user, &directory)? } else { Vec::new() };

        // A group of its own, so that a signal reaches all its processes: the first one's death is no crash of the rest.
        let mut command: Vec<String> = find("setsid").iter().map(|path| path.display().to_string()).collect();
        command.extend(as_account.iter().cloned());
        command.extend([program, Path::new("-F"), Path::new("-c"), &directory.join("dovecot.conf")].map(text));
        let service = Service::supervise("Dovecot", directory.clone(), "KILL", &command)?;
        let mut dovecot = Self { service, directory, account, as_account, ports, authority, token_key, sink };
        dovecot.start_again()?;
        Ok(dovecot)
    }

    /// Where it listens.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The certificate of the authority behind the server's own, in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// That certificate and those that the system trusts, for `SSL_CERT_FILE`, which replaces the system's.
    pub fn bundle_file(&self) -> PathBuf {
        self.directory.join("bundle.pem")
    }

    /// What issues certificates that who trusts `ca_file` accepts, for servers beside this one.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Lets somebody in, from now on. Whom the server knows gets the new password. The letter case of names means
    /// nothing.
    ///
    /// # Errors
    /// The name has a character that no name here may have, or the files cannot be written.
    pub fn add_user(&self, name: &str, password: &str) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "@.-_".contains(c);
        ensure!(!name.is_empty() && name.chars().all(allowed), "{name:?} cannot be a user's name");
        let name = name.to_ascii_lowercase();
        let home = self.directory.join("home").join(&name);
        let password = format!("{{PLAIN.b64}}{}", BASE64_STANDARD.encode(password));
        let user = json!({ "uid": self.account.user, "gid": self.account.group, "home": home });
        for (kind, value) in [("userdb", user), ("passdb", json!({ "password": password }))] {
            let file = self.directory.join("users").join(kind).join(&name);
            // Whoever signs in meanwhile finds the old file or the new one.
            let new = file.with_file_name(format!(".{name}"));
            fs::write(&new, value.to_string())?;
            fs::rename(&new, &file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// Puts a message into a user's inbox.
    ///
    /// # Errors
    /// The server does not know the user or is not running.
    pub fn deliver(&self, user: &str, message: &[u8]) -> Result<()> {
        self.doveadm(&["save", "-u", user], message)
    }

    /// Has the UIDs of a user's folder mean other messages, as a server does that lost its index.
    ///
    /// # Errors
    /// The server does not know the user or the folder, or is not running.
    pub fn set_uid_validity(&self, user: &str, folder: &str, validity: u32) -> Result<()> {
        self.doveadm(&["mailbox", "update", "-u", user, "--uid-validity", &validity.to_string(), folder], b"")
    }

    fn doveadm(&self, arguments: &[&str], input: &[u8]) -> Result<()> {
        let mut words = self.as_account.clone();
        words.push(text(&find("doveadm").context("doveadm is not installed")?));
        words.extend(["-c".to_owned(), text(&self.directory.join("dovecot.conf"))]);
        words.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let (program, arguments) = words.split_first().context("no command")?;
        let mut doveadm = Command::new(program)
            .args(arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let sent = doveadm.stdin.take().context("doveadm has no input")?.write_all(input);
        let output = doveadm.wait_with_output()?;
        ensure!(output.status.success(), "doveadm: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(sent?)
    }

    /// Delivers what was submitted to those recipients who have a mailbox here, for as long as it is polled; the others' is
    /// kept by the sink alone.
    pub async fn post(&self) {
        let mut posted = 0;
        loop {
            for delivery in self.sink.deliveries_after(posted) {
                posted += 1;
                for recipient in delivery.recipients.iter().map(|recipient| recipient.to_ascii_lowercase()) {
                    let is_name = recipient.chars().all(|c| c.is_ascii_alphanumeric() || "@.-_".contains(c));
                    if is_name && self.directory.join("users/userdb").join(&recipient).is_file() {
                        // A mailbox that takes nothing is in the server's own log.
                        let _ = self.deliver(&recipient, &delivery.message);
                    }
                }
            }
            tokio::time::sleep(POST_PAUSE).await;
        }
    }

    /// An access token for XOAUTH2 and OAUTHBEARER.
    ///
    /// # Errors
    /// The clock stands before 1970.
    pub fn token(&self, user: &str) -> Result<String> {
        self.token_until(user, SystemTime::now() + TOKEN_LIFE)
    }

    /// An access token whose time has ended.
    ///
    /// # Errors
    /// The clock stands before 1970.
    pub fn expired_token(&self, user: &str) -> Result<String> {
        self.token_until(user, SystemTime::now() - TOKEN_AGE / 2)
    }

    fn token_until(&self, user: &str, expires: SystemTime) -> Result<String> {
        let seconds = |time: SystemTime| anyhow::Ok(time.duration_since(UNIX_EPOCH)?.as_secs());
        let made = seconds(SystemTime::now() - TOKEN_AGE)?;
        let claims = json!({ "sub": user, "email": user, "iat": made, "exp": seconds(expires)? });
        let key = EncodingKey::from_secret(self.token_key.as_bytes());
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
    }

    /// Takes the tokens of a provider as well, from now on: those that its RS256 key has signed, a public key in PEM.
    ///
    /// # Errors
    /// The key's id is no file name, or the file cannot be written.
    pub fn trust_provider(&self, key_id: &str, key: &str) -> Result<()> {
        ensure!(!key_id.is_empty() && key_id.chars().all(|c| c.is_ascii_alphanumeric()), "{key_id:?} is no file name");
        let folder = self.directory.join("keys/default/RS256");
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(key_id), key)?)
    }

    /// Where submitted messages end.
    pub fn sink(&self) -> &SmtpSink {
        &self.sink
    }

    /// Ends the server in order; clients are told.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.end("TERM")
    }

    /// Ends the server as a crash does; connections are reset, new ones refused.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.end("KILL")
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        self.service.end(signal)?;
        // The first process does not wait for the others, which listen as well.
        let deadline = Instant::now() + END_LIMIT;
        while self.ports.all().iter().any(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
            ensure!(Instant::now() < deadline, "Dovecot still listens after SIG{signal}");
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Freezes the server: connections stay open and get no answer.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&mut self) -> Result<()> {
        self.service.signal("STOP")
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&mut self) -> Result<()> {
        self.service.signal("CONT")
    }

    /// Starts the server again with the same ports, users and mail.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start_again(&mut self) -> Result<()> {
        let (pid_file, ports) = (self.directory.join("run/master.pid"), self.ports);
        // A crash may leave it, and Dovecot would wait for whoever holds the lock. Mostly it is not there.
        let _ = fs::remove_file(self.directory.join("state/instances.lock"));
        self.service.start(|pid| {
            let is_ours = fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == pid.to_string());
            is_ours && ports.all().into_iter().step_by(2).all(|port| greets(port).unwrap_or(false))
        })
    }
}

/// Whether the server says the first word. It listens before, and told to end then, it waits for processes that wait
/// for it.
fn greets(port: u16) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(GREETING_LIMIT))?;
    Ok(connection.read(&mut [0; 1])? > 0)
}

impl Ports {
    fn all(self) -> [u16; 6] {
        [self.imap, self.imaps, self.pop3, self.pop3s, self.submission, self.submissions]
    }

    fn free() -> Result<Self> {
        // Held until all are known, so that they differ.
        let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let held = [listener()?, listener()?, listener()?, listener()?, listener()?, listener()?];
        let port = |listener: &TcpListener| anyhow::Ok(listener.local_addr()?.port());
        let [imap, imaps, pop3, pop3s, submission, submissions] = &held;
        Ok(Self {
            imap: port(imap)?,
            imaps: port(imaps)?,
            pop3: port(pop3)?,
            pop3s: port(pop3s)?,
            submission: port(submission)?,
            submissions: port(submissions)?,
        })
    }
}

/// Whom the server's processes run as.
#[derive(Debug)]
struct Account {
    user: String,
    group: String,
}

impl Account {
    /// Ourselves; of root's rights the server has no need.
    fn of_the_server() -> Result<Self> {
        let id = |option: &str, user: &[&str]| -> Result<String> {
            let output = Command::new("id").arg(option).args(user).output().context("cannot run id")?;
            ensure!(output.status.success(), "id {option} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        match running_as_root()? {
            true => Ok(Self { user: "nobody".to_owned(), group: id("-gn", &["nobody"])? }),
            false => Ok(Self { user: id("-un", &[])?, group: id("-gn", &[])? }),
        }
    }
}

fn configuration(directory: &Path, account: &Account, ports: &Ports, relay: u16, mechanisms: &str) -> String {
    let Account { user, group } = account;
    let directory = directory.display();
    let mut text = format!(
        "base_dir = {directory}/run
state_dir = {directory}/state
log_path = /dev/stderr
protocols = imap pop3 submission
listen = 127.0.0.1
hostname = localhost
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
ssl = yes
ssl_cert = <{directory}/certificate.pem
ssl_key = <{directory}/key.pem
ssl_min_protocol = TLSv1.2
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
# Else each wrong password costs seconds, and more for each one before. Half a second it costs still.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
# One test signs in more often than one person.
mail_max_userip_connections = 1000
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {directory}/oauth2.conf
}}
passdb {{
  driver = dict
  mechanisms = plain login
  args = {directory}/users.conf
}}
userdb {{
  driver = dict
  args = {directory}/users.conf
}}
# Its modification numbers are stable; and nothing here outlives a crash of the machine.
mail_location = mdbox:{directory}/mail/%u
mail_fsync = never
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
"
    );
    // Chroot is root's.
    for service in ["anvil", "stats", "imap-login", "pop3-login", "submission-login"] {
        let _ = writeln!(text, "service {service} {{\n  chroot =\n}}");
    }
    let listeners = [
        ("imap", ports.imap, "imaps", ports.imaps),
        ("pop3", ports.pop3, "pop3s", ports.pop3s),
        ("submission", ports.submission, "submissions", ports.submissions),
    ];
    for (plain, plain_port, tls, tls_port) in listeners {
        let _ = writeln!(
            text,
            "service {plain}-login {{
  inet_listener {plain} {{
    port = {plain_port}
  }}
  inet_listener {tls} {{
    port = {tls_port}
    ssl = yes
  }}
  # One process for all sign-ins, as busy servers have it.
  service_count = 0
  process_min_avail = 1
}}"
        );
    }
    text += "namespace inbox {\n  inbox = yes\n  separator = /\n";
    for role in ["Drafts", "Sent", "Junk", "Trash", "Archive"] {
        let _ = writeln!(text, "  mailbox {role} {{\n    special_use = \\{role}\n    auto = subscribe\n  }}");
    }
    text + "}\n"
}

fn oauth2_configuration(directory: &Path) -> String {
    format!(
        "introspection_mode = local\nlocal_validation_key_dict = fs:posix:prefix={}/keys/\nusername_attribute = email\n",
        directory.display()
    )
}

/// A file for each user, which is read at each sign-in. Of a passwd-file changes count from the next second on.
fn users_configuration(directory: &Path) -> String {
    let mut text = format!("uri = fs:posix:prefix={}/users/\n", directory.display());
    for kind in ["passdb", "userdb"] {
        let _ = writeln!(text, "key {kind} {{\n  key = {kind}/%u\n  format = json\n}}\n{kind}_objects = {kind}");
    }
    text
}

/// What this system trusts, or the bundle that `SSL_CERT_FILE` names, in PEM.
fn system_roots() -> String {
    let mut text = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        text += "-----BEGIN CERTIFICATE-----\n";
        let encoded = BASE64_STANDARD.encode(&certificate);
        for (index, c) in encoded.chars().enumerate() {
            // RFC 7468 wants lines of 64.
            if index > 0 && index % 64 == 0 {
                text.push('\n');
            }
            text.push(c);
        }
        text += "\n-----END CERTIFICATE-----\n";
    }
    text
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;

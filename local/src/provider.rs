//! A mail provider that signs users in by OAuth 2.0: an emulator that others maintain, whose tokens the local mail server
//! takes.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    certificates::Certificate,
    install::find,
    mail_server::Dovecot,
    services::{Service, retry_on_other_ports},
    tools::{OAUTH2_SERVER, node_modules},
};

/// What the emulator says once it listens, before its key.
const SIGN: &str = "ready ";
/// How long the emulator's first line may take to be written whole.
const LINE_LIMIT: Duration = Duration::from_secs(1);
/// How long its tokens are good, as others' are.
const TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);
/// A browser: prints where it is led to.
const BROWSER: &str =
    "fetch(process.argv[1], { redirect: 'manual' }).then((answer) => console.log(answer.headers.get('location')))";

/// A running provider, which ends with this value.
#[derive(Debug)]
pub struct Provider {
    service: Service,
    url: String,
    node: String,
    authority: PathBuf,
}

impl Provider {
    /// Starts one whose tokens this mail server takes, with a certificate of the same authority. At the first time it is
    /// installed.
    ///
    /// # Errors
    /// It cannot be installed or started; there is no Node.
    pub fn start(mail: &Dovecot) -> Result<Self> {
        Self::start_with(mail, TOKEN_LIFE)
    }

    /// Like `start`, with access tokens that are good for so long.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_with(mail: &Dovecot, token_life: Duration) -> Result<Self> {
        let node = find("node").context("node is not installed")?.display().to_string();
        let modules = node_modules(OAUTH2_SERVER)?.display().to_string();
        let issued = mail.authority().issue(Certificate::Good)?;
        retry_on_other_ports(|port| {
            let service = Service::run("the provider", "KILL", SIGN, |directory| {
                let files = [
                    ("provider.mjs", include_str!("provider.mjs")),
                    ("key.pem", &issued.key),
                    ("certificate.pem", &issued.certificate),
                ];
                for (name, text) in files {
                    fs::write(directory.join(name), text)?;
                }
                let path = |name: &str| directory.join(name).display().to_string();
                let (program, key, certificate) = (path("provider.mjs"), path("key.pem"), path("certificate.pem"));
                let (port, life) = (port.to_string(), token_life.as_secs().to_string());
                Ok([&node, &program, &modules, &key, &certificate, &port, &life].map(String::from).to_vec())
            })?;
            let key = key_of(&service)?;
            let text = |name: &str| key[name].as_str().with_context(|| format!("the provider does not say its {name}"));
            mail.trust_provider(text("kid")?, text("pem")?)?;
            let (url, node, authority) = (format!("https://localhost:{port}"), node.clone(), mail.ca_file());
            Ok(Self { service, url, node, authority })
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a browser does whose user allows everything: opens an authorization's URL, and returns where it is led to.
    ///
    /// # Errors
    /// It is led nowhere.
    pub fn consent(&self, authorization_url: &str) -> Result<String> {
        let mut browser = Command::new(&self.node);
        browser.args(["-e", BROWSER, authorization_url]).env("NODE_EXTRA_CA_CERTS", &self.authority);
        let output = browser.output().context("cannot run node")?;
        ensure!(output.status.success(), "no consent: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Freezes it: connections stay open and get no answer.
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

    /// Its settings in `OAUTH2_PROVIDERS`, with the mail server's ports.
    pub fn settings(&self, mail: &Dovecot) -> Value {
        let (url, ports) = (&self.url, mail.ports());
        let host = |port: u16| json!({"hostname": "localhost", "port": port, "encryption": "tls"});
        json!({
            "clientId": "email_service",
            "authorizationEndpoint": format!("{url}/authorize"),
            "tokenEndpoint": format!("{url}/token"),
            "issuer": url,
            "scopes": ["openid", "email", "mail"],
            "imap": host(ports.imaps),
            "pop3": host(ports.pop3s),
            "smtp": host(ports.submissions),
        })
    }
}

/// The public key that it signs with, and the key's id, from its first line.
fn key_of(service: &Service) -> Result<Value> {
    let deadline = Instant::now() + LINE_LIMIT;
    loop {
        let log = fs::read_to_string(service.log())?;
        let line = log.split(SIGN).nth(1).and_then(|rest| rest.split_once('\n'));
        match line {
            Some((line, _)) => return serde_json::from_str(line).context("the provider says no JSON"),
            None if Instant::now() > deadline => bail!("the provider does not say its key"),
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

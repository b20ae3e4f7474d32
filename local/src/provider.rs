//! A mail provider that signs users in by OAuth 2.0: an emulator that others maintain, whose tokens the local mail server
//! takes.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
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

/// A running provider, which ends with this value.
#[derive(Debug)]
pub struct Provider {
    _service: Service,
    url: String,
}

impl Provider {
    /// Starts one whose tokens this mail server takes, with a certificate of the same authority. At the first time it is
    /// installed.
    ///
    /// # Errors
    /// It cannot be installed or started; there is no Node.
    pub fn start(mail: &Dovecot) -> Result<Self> {
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
                Ok([&node, &program, &modules, &key, &certificate, &port.to_string()].map(String::from).to_vec())
            })?;
            let key = key_of(&service)?;
            let text = |name: &str| key[name].as_str().with_context(|| format!("the provider does not say its {name}"));
            mail.trust_provider(text("kid")?, text("pem")?)?;
            Ok(Self { _service: service, url: format!("https://localhost:{port}") })
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
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

//! What mail functions share: where `shared`, which knows accounts and tenants, meets `mail`, which knows servers.

pub mod actions;
pub mod outbox;
pub mod providers;
pub mod reading;
pub mod sync;
pub mod tokens;
pub mod visit;

use std::time::Duration;

use anyhow::{Context, anyhow};
use mail::connect::{Connector, Network, Policy, Ports, Security, Session};
use mail::dns::Resolver;
use mail::imap::{Features, Imap};
use mail::login::{Login, Protocol, Secret, Server, TRY_BYTES, try_login};
use mail::pop3::Pop3;
use serde::Serialize;
use shared::account::state::Event;
use shared::account::{Account, AccountChange, NewAccount};
use shared::config::Outbound;
use shared::credential::Password;
use shared::secrets::SecretText;
use tokio::time::Instant;
use zeroize::Zeroizing;

use providers::Provider;

/// How long a request may take until its try is over. Callers are promised an answer within 10 s, start of the function
/// included.
const TRY_TIME: Duration = Duration::from_millis(8500);

/// As `lastError.service` has a provider.
const OAUTH2: &str = "oauth2";

/// Asks the name servers of the configuration, or the system's.
///
/// # Errors
/// `MAIL_NAME_SERVERS` is not usable.
pub fn resolver(outbound: &Outbound) -> anyhow::Result<Resolver> {
    let servers = items(&outbound.name_servers).map(str::parse).collect::<Result<Vec<_>, _>>();
    Ok(Resolver::new(&servers.context("bad configuration: MAIL_NAME_SERVERS must be addresses with ports")?))
}

/// The one way to mail hosts, as the configuration allows it.
///
/// # Errors
/// A variable is not usable, or there are no root certificates.
pub fn connector(outbound: &Outbound) -> anyhow::Result<Connector> {
    let networks = items(&outbound.private_networks).map(str::parse).collect::<Result<Vec<Network>, _>>();
    let ports = match outbound.ports.as_str() {
        "" => Ok(Ports::default()),
        ports => ports.parse(),
    };
    let policy = Policy {
        private_networks: networks.map_err(|rule| anyhow!("bad configuration: MAIL_PRIVATE_NETWORKS {rule}"))?,
        ports: ports.map_err(|rule| anyhow!("bad configuration: MAIL_PORTS {rule}"))?,
        allow_plaintext: outbound.allow_plaintext,
        ..Policy::default()
    };
    let tls = shared::tls::client_config()?;
    Ok(Connector::new(resolver(outbound)?, policy, tls))
}

/// What stands between commas.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// What proves who one is.
#[derive(Debug, Clone)]
enum Proof {
    Password(Password),
    AccessToken(SecretText),
}

impl Proof {
    fn secret(&self) -> Secret {
        match self {
            Self::Password(password) => Secret::Password(Zeroizing::new(password.reveal().to_owned())),
            Self::AccessToken(token) => Secret::AccessToken(Zeroizing::new(token.reveal().to_owned())),
        }
    }
}

/// What it takes to sign in to an account's servers.
#[derive(Debug)]
pub struct Settings {
    incoming: Server,
    username: String,
    proof: Proof,
    smtp: Option<Smtp>,
}

/// The outgoing server; what is not set is that of the mailbox.
#[derive(Debug)]
struct Smtp {
    server: Server,
    username: String,
    proof: Proof,
}

/// The fields that settings are made of, wherever they come from.
struct Fields {
    protocol: Protocol,
    hostname: String,
    port: u16,
    encryption: Security,
    username: String,
    proof: Proof,
    smtp_hostname: Option<String>,
    smtp_port: Option<u16>,
    smtp_encryption: Option<Security>,
    smtp_username: Option<String>,
    smtp_proof: Option<Proof>,
}

fn protocol(name: &str) -> Protocol {
    if name == "pop3" { Protocol::Pop3 } else { Protocol::Imap }
}

fn security(name: &str) -> Security {
    match name {
        "none" => Security::Plain,
        "starttls" => Security::StartTls,
        _ => Security::Tls,
    }
}

/// Ports were checked when they came in, also by the database: one that does not fit is one that nobody answers on.
fn port(number: i32) -> u16 {
    u16::try_from(number).unwrap_or_default()
}

/// RFC 8314 (submission), and RFC 5321 for what has no encryption.
fn smtp_port(encryption: Security) -> u16 {
    match encryption {
        Security::Tls => 465,
        Security::StartTls => 587,
        Security::Plain => 25,
    }
}

impl From<Fields> for Settings {
    fn from(fields: Fields) -> Self {
        let Fields { protocol, hostname, port, encryption, username, proof, .. } = fields;
        let smtp = fields.smtp_hostname.map(|host| {
            let security = fields.smtp_encryption.unwrap_or(Security::Tls);
            let port = fields.smtp_port.unwrap_or_else(|| smtp_port(security));
            Smtp {
                server: Server { protocol: Protocol::Smtp, host, port, security },
                username: fields.smtp_username.unwrap_or_else(|| username.clone()),
                proof: fields.smtp_proof.unwrap_or_else(|| proof.clone()),
            }
        });
        Self { incoming: Server { protocol, host: hostname, port, security: encryption }, username, proof, smtp }
    }
}

impl Settings {
    /// Those of a create's body.
    pub fn new(new: NewAccount) -> Self {
        Self::from(Fields {
            protocol: protocol(new.protocol.0),
            hostname: new.hostname.ascii().into_owned(),
            port: port(new.port.0),
            encryption: security(new.encryption.0),
            username: new.username.0,
            proof: Proof::Password(new.password),
            smtp_hostname: new.smtp_hostname.map(|host| host.ascii().into_owned()),
            smtp_port: new.smtp_port.map(|number| port(number.0)),
            smtp_encryption: new.smtp_encryption.map(|name| security(name.0)),
            smtp_username: new.smtp_username.map(|name| name.0),
            smtp_proof: new.smtp_password.map(Proof::Password),
        })
    }

    /// Those of a stored account, with what a change names in its place; `None` where there is no password.
    pub fn stored(
        account: &Account,
        password: Option<Password>,
        smtp_password: Option<Password>,
        mut change: AccountChange,
    ) -> Option<Self> {
        let proof = Proof::Password(change.password.take().or(password)?);
        Some(Self::merged(account, proof, smtp_password, change))
    }

    /// Those of a stored account of a provider, with what a change names in its place, and a token of the provider's.
    ///
    /// # Errors
    /// [`mail::Code::Authentication`] where the token would go to another server than the provider's own. Whoever holds a
    /// user's session may change host names, and is not to be sent tokens.
    pub fn with_token(
        account: &Account,
        token: SecretText,
        provider: &Provider,
        smtp_password: Option<Password>,
        change: AccountChange,
    ) -> Result<Self, mail::Error> {
        let settings = Self::merged(account, Proof::AccessToken(token), smtp_password, change);
        let smtp = settings.smtp.as_ref().map(|smtp| (&smtp.server, &smtp.proof));
        for (server, proof) in [Some((&settings.incoming, &settings.proof)), smtp].into_iter().flatten() {
            let is_own = provider.hosts().iter().any(|host| host.eq_ignore_ascii_case(&server.host));
            if matches!(proof, Proof::AccessToken(_)) && (!is_own || server.security == Security::Plain) {
                let detail = format!("{} is no server of {}", server.host, provider.name);
                let mut error = mail::Error::new(mail::Code::Authentication, detail);
                error.message = format!(
                    "The provider's token is sent, encrypted, to its own servers alone: {}. Set one of them, or a password.",
                    provider.hosts().join(", ")
                );
                return Err(error);
            }
        }
        Ok(settings)
    }

    fn merged(account: &Account, proof: Proof, smtp_password: Option<Password>, change: AccountChange) -> Self {
        let ascii = |host: &str| shared::account::Hostname(host.to_owned()).ascii().into_owned();
        let changed = change.smtp_hostname.map(|host| host.map(|host| host.ascii().into_owned()));
        Self::from(Fields {
            protocol: protocol(change.protocol.map_or(account.protocol.as_str(), |name| name.0)),
            hostname: change.hostname.map_or_else(|| ascii(&account.hostname), |host| host.ascii().into_owned()),
            port: port(change.port.map_or(account.port, |number| number.0)),
            encryption: security(change.encryption.map_or(account.encryption.as_str(), |name| name.0)),
            username: change.username.map_or_else(|| account.username.clone(), |name| name.0),
            proof,
            smtp_hostname: changed.unwrap_or_else(|| account.smtp_hostname.as_deref().map(ascii)),
            smtp_port: match change.smtp_port {
                Some(number) => number.map(|number| port(number.0)),
                None => account.smtp_port.map(port),
            },
            smtp_encryption: match change.smtp_encryption {
                Some(name) => name.map(|name| security(name.0)),
                None => account.smtp_encryption.as_deref().map(security),
            },
            smtp_username: match change.smtp_username {
                Some(name) => name.map(|name| name.0),
                None => account.smtp_username.clone(),
            },
            smtp_proof: change.smtp_password.unwrap_or(smtp_password).map(Proof::Password),
        })
    }

    /// The same with a newer token of the provider's.
    pub fn with_newer_token(mut self, token: &SecretText) -> Self {
        let proofs = [Some(&mut self.proof), self.smtp.as_mut().map(|smtp| &mut smtp.proof)];
        for proof in proofs.into_iter().flatten().filter(|proof| matches!(proof, Proof::AccessToken(_))) {
            *proof = Proof::AccessToken(token.clone());
        }
        self
    }

    /// Connects to the server that mail is read from, and signs in.
    ///
    /// # Errors
    /// As [`Connector::connect`] and the sign-in of the protocol have them.
    pub async fn sign_in(&self, connector: &Connector, session: Session) -> Result<Host, mail::Error> {
        let server = &self.incoming;
        let login = Login::new(&self.username, self.proof.secret())?;
        let stream = connector.connect(&server.host, server.port, server.security, session).await?;
        match server.protocol {
            Protocol::Pop3 | Protocol::Smtp => {
                Ok(Host::Pop3(Box::new(Pop3::sign_in(stream, server.security, &login).await?)))
            }
            Protocol::Imap => {
                let mut imap = Imap::sign_in(stream, server.security, &login).await?;
                let features = imap.features().await?;
                Ok(Host::Imap(Box::new(imap), features))
            }
        }
    }

    /// The host that sends.
    pub fn smtp_host(&self) -> Option<&str> {
        self.smtp.as_ref().map(|smtp| smtp.server.host.as_str())
    }

    /// Connects to the server that sends, and signs in.
    ///
    /// # Errors
    /// As [`Connector::connect`] and [`mail::smtp::Smtp::sign_in`] have them.
    pub async fn sign_in_to_send(
        &self,
        connector: &Connector,
        session: Session,
    ) -> Result<(mail::smtp::Smtp, Login), mail::smtp::NotSignedIn> {
        let smtp = self.smtp.as_ref();
        let Smtp { server, username, proof } =
            smtp.ok_or_else(|| mail::Error::new(mail::Code::Unreachable, "no server sends"))?;
        let login = Login::new(username, proof.secret())?;
        let stream = connector.connect(&server.host, server.port, server.security, session).await?;
        Ok((mail::smtp::Smtp::sign_in(stream, server.security, &login).await?, login))
    }

    /// Signs in to both servers, side by side, and out again. What has passed since `started`, when the request came, is
    /// no longer theirs.
    pub async fn try_all(&self, connector: &Connector, started: Instant) -> Outcome {
        let session = Session { deadline: started + TRY_TIME, bytes: TRY_BYTES };
        let try_one = async |server: &Server, username: &str, proof: &Proof| {
            let outcome = match Login::new(username, proof.secret()) {
                Ok(login) => try_login(connector, server, &login, session).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &outcome {
                let service = server.protocol.as_str();
                tracing::info!(service, code = error.code.as_str(), detail = error.detail, "sign_in_failed");
            }
            Tried::new(server.protocol, outcome)
        };
        let smtp = async {
            match &self.smtp {
                Some(smtp) => Some(try_one(&smtp.server, &smtp.username, &smtp.proof).await),
                None => None,
            }
        };
        let (incoming, smtp) = tokio::join!(try_one(&self.incoming, &self.username, &self.proof), smtp);
        Outcome { success: incoming.success && smtp.as_ref().is_none_or(|smtp| smtp.success), incoming, smtp }
    }
}

/// A mail host on which an account has signed in.
#[derive(Debug)]
pub enum Host {
    /// With what it can do.
    Imap(Box<Imap>, Features),
    /// One mailbox, and no folders.
    Pop3(Box<Pop3>),
}

impl Host {
    /// Says goodbye, for as long as that takes no time.
    pub async fn sign_out(self) {
        match self {
            Self::Imap(imap, _) => imap.sign_out().await,
            Self::Pop3(pop3) => pop3.sign_out().await,
        }
    }
}

/// What came of a try.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = TestResult))]
pub struct Outcome {
    /// Whether every login was accepted.
    pub success: bool,
    /// The server that mail is read from.
    pub incoming: Tried,
    /// The server that sends; none where the account has none.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub smtp: Option<Tried>,
}

/// What came of a try at one server.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = TestedServer))]
pub struct Tried {
    /// `imap`, `pop3` or `smtp`; `oauth2` where the provider gave no token to sign in with.
    pub service: &'static str,
    /// Whether the login was accepted.
    pub success: bool,
    /// What went wrong, as in `lastError`; none on success.
    #[cfg_attr(feature = "openapi", schema(required))]
    pub code: Option<&'static str>,
    /// For a person.
    pub message: String,
}

impl Tried {
    fn new(protocol: Protocol, outcome: Result<(), mail::Error>) -> Self {
        let service = protocol.as_str();
        match outcome {
            Ok(()) => Self { service, success: true, code: None, message: "Signed in.".into() },
            Err(error) => Self { service, success: false, code: Some(error.code.as_str()), message: error.message },
        }
    }
}

impl Outcome {
    /// Of an account that has no password to try with.
    pub fn without_password(account: &Account) -> Self {
        let incoming = Tried {
            service: protocol(&account.protocol).as_str(),
            success: false,
            code: Some(mail::Code::Authentication.as_str()),
            message: "There is no password for this account that could be used. Set it again.".into(),
        };
        Self { success: false, incoming, smtp: None }
    }

    /// Of an account whose provider gave no token.
    pub fn without_token(error: mail::Error) -> Self {
        tracing::info!(service = OAUTH2, code = error.code.as_str(), detail = error.detail, "sign_in_failed");
        let incoming =
            Tried { service: OAUTH2, success: false, code: Some(error.code.as_str()), message: error.message };
        Self { success: false, incoming, smtp: None }
    }

    /// What that is for the account's state, and which of the two tries says so.
    pub fn event(&self) -> (Event, Option<&Tried>) {
        let tried = || [Some(&self.incoming), self.smtp.as_ref()].into_iter().flatten();
        let refusals = [mail::Code::Authentication, mail::Code::ConsentRevoked].map(mail::Code::as_str);
        let refused = tried().find(|tried| tried.code.is_some_and(|code| refusals.contains(&code)));
        match (refused, tried().find(|tried| !tried.success)) {
            (Some(refused), _) => (Event::Refused, Some(refused)),
            (None, Some(failed)) => (Event::Failed, Some(failed)),
            (None, None) => (Event::SignedIn, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(incoming: Option<mail::Code>, smtp: Option<Option<mail::Code>>) -> Outcome {
        let tried = |protocol, code: Option<mail::Code>| {
            Tried::new(protocol, code.map_or(Ok(()), |code| Err(mail::Error::new(code, "detail"))))
        };
        let incoming = tried(Protocol::Imap, incoming);
        let smtp = smtp.map(|code| tried(Protocol::Smtp, code));
        Outcome { success: incoming.success && smtp.as_ref().is_none_or(|smtp| smtp.success), incoming, smtp }
    }

    #[test]
    fn a_refusal_weighs_more_than_a_failure_wherever_it_comes_from() {
        use mail::Code::*;
        let event = |incoming, smtp| {
            let outcome = outcome(incoming, smtp);
            let (event, tried) = outcome.event();
            (event, tried.map(|tried| tried.service))
        };
        assert_eq!(event(None, None), (Event::SignedIn, None));
        assert_eq!(event(None, Some(None)), (Event::SignedIn, None));
        assert_eq!(event(Some(Unreachable), None), (Event::Failed, Some("imap")));
        assert_eq!(event(None, Some(Some(Tls))), (Event::Failed, Some("smtp")));
        assert_eq!(event(Some(Unreachable), Some(Some(Authentication))), (Event::Refused, Some("smtp")));
        assert_eq!(event(Some(ConsentRevoked), Some(Some(Tls))), (Event::Refused, Some("imap")));
        assert_eq!(event(Some(Unavailable), Some(Some(Protocol))), (Event::Failed, Some("imap")));
    }
}

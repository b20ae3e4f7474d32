//! `GET /api/autoconfig?emailAddress=`: finds the settings of an address. No password is part of it.

use std::sync::Arc;
use std::time::Duration;

use mail::connect::{Connector, Security};
use mail::discover::{self, Offer, Sources};
use mail::dns::Resolver;
use mail::login::Protocol;
use mailbox::providers::Providers;
use serde::Serialize;
use shared::account::EmailAddress;
#[cfg(feature = "openapi")]
use shared::account::{Encryption, Port};
use shared::config::{Outbound, SignInConfig};
use shared::error::Fault;
use shared::http::StatusCode;
use shared::validation::{Field, parameter};
use shared::{Error, NetworkCall, Reply};
use tokio::time::Instant;

/// What a client learns of an address whose settings are in no source.
pub const NOBODY_KNOWS: &str = "Nobody knows the settings of this address. Ask its provider for them.";

/// How long a search may take in all.
const SEARCH_TIME: Duration = Duration::from_secs(5);

/// Who searches, and where.
#[derive(Clone)]
pub struct Finder {
    connector: Connector,
    resolver: Resolver,
    sources: Arc<Sources>,
    providers: Arc<Providers>,
}

/// Gets ready to search.
///
/// # Errors
/// See [`mailbox::connector`] and [`Providers::new`].
pub fn finder(outbound: &Outbound) -> anyhow::Result<Finder> {
    let mut sources = Sources::default();
    if let Some(host) = &outbound.isp_database {
        sources.isp_database = Some(host.clone()).filter(|host| host != "none");
    }
    Ok(Finder {
        connector: mailbox::connector(outbound)?,
        resolver: mailbox::resolver(outbound)?,
        sources: Arc::new(sources),
        providers: Arc::new(Providers::new(&SignInConfig::from_env()?)?),
    })
}

/// The settings of an address, best first.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = FoundSettings))]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// As asked.
    email_address: String,
    /// Servers to read from.
    incoming: Vec<FoundServer>,
    /// Servers to send with.
    smtp: Vec<FoundServer>,
    /// The provider whose sign-in is accepted in place of a password, where it is set up here.
    #[cfg_attr(feature = "openapi", schema(required))]
    oauth2: Option<String>,
    /// The provider's password for programs, where it has one.
    #[cfg_attr(feature = "openapi", schema(required))]
    app_password: Option<AppPassword>,
    /// Who said so: `table`, `autoconfig`, `wellKnown`, `srv`, `ispDatabase`, `mxTable` or `mxIspDatabase`.
    source: &'static str,
    /// What each source said, for a person.
    evidence: Vec<String>,
}

/// A server, and who one is there.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FoundServer {
    /// `imap`, `pop3` or `smtp`.
    protocol: &'static str,
    /// The server.
    hostname: String,
    /// Its port.
    #[cfg_attr(feature = "openapi", schema(value_type = Port))]
    port: u16,
    /// `tls`, `starttls` or `none`.
    #[cfg_attr(feature = "openapi", schema(value_type = Encryption))]
    encryption: &'static str,
    /// The login there.
    username: String,
}

/// A password for programs only.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppPassword {
    /// Whether the mailbox's own password is refused in any case.
    required: bool,
    /// Where the user makes one.
    url: String,
}

impl From<Offer> for FoundServer {
    fn from(Offer { server, username }: Offer) -> Self {
        Self {
            protocol: match server.protocol {
                Protocol::Imap => "imap",
                Protocol::Pop3 => "pop3",
                Protocol::Smtp => "smtp",
            },
            hostname: server.host,
            port: server.port,
            encryption: match server.security {
                Security::Tls => "tls",
                Security::StartTls => "starttls",
                Security::Plain => "none",
            },
            username,
        }
    }
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] for what is no address, [`Error::NotFound`] when nobody knows its settings.
pub async fn handler(call: NetworkCall<Finder>) -> Result<Reply, Error> {
    let address = parameter::<EmailAddress>(&call.request.query, "emailAddress");
    let address = address.and_then(|address| address.ok_or_else(|| Fault::missing("emailAddress", EmailAddress::RULE)));
    let address = address.map_err(|fault| Error::Invalid(vec![fault]))?;
    let Finder { connector, resolver, sources, providers } = &call.network;
    let deadline = Instant::now() + SEARCH_TIME;
    let found = discover::discover(connector, resolver, sources, &address.0, deadline).await;
    let found = found.ok_or(Error::NotFound(NOBODY_KNOWS))?;
    let output = Output {
        email_address: address.0,
        incoming: found.incoming.into_iter().map(FoundServer::from).collect(),
        smtp: found.smtp.into_iter().map(FoundServer::from).collect(),
        oauth2: found.oauth2.filter(|name| providers.get(name).is_some()),
        app_password: found.app_password.map(|app| AppPassword { required: app.required, url: app.url }),
        source: found.source,
        evidence: found.evidence,
    };
    Reply::json(StatusCode::OK, &output)
}

//! The settings of a mailbox, found from its address.
//!
//! Every source is asked at once, and the best by rank wins, never the first to answer: who asks twice is told the
//! same. From best to least:
//!
//! 1. the operator's own domains and the built-in table; whom these know, nobody else is asked about
//! 2. `https://autoconfig.DOMAIN/mail/config-v1.1.xml`
//! 3. `https://DOMAIN/.well-known/autoconfig/mail/config-v1.1.xml`
//! 4. the domain's SRV records (RFC 6186, RFC 8314), where they stay within the domain
//! 5. the ISP database
//! 6. SRV records that lead out of the domain
//! 7. the domain of the mail exchange, in the table, then in the ISP database
//!
//! **Who learns what.** Name servers and the ISP database learn the domain alone. The whole address goes to
//! `autoconfig.DOMAIN` only, over TLS: many of these files are made for an address, and whoever holds that name holds
//! the mailboxes as well. No password is part of this, nor could be.
//!
//! **Whom to believe.** What came over HTTPS was said by the domain or by the ISP database. SRV and MX records could be
//! anybody's who sits on the way, so where they lead out of the domain [`Settings::evidence`] says that a person
//! should look before a password is sent.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::{FuturesOrdered, StreamExt};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, timeout_at};

use crate::connect::{Connector, Security};
use crate::dns::{DnsError, Resolver, host_name};
use crate::https;
use crate::login::{Protocol, Server};
use config::expand;

pub mod autoconfig;
mod config;
mod table;
#[cfg(test)]
mod tests;

pub use config::{ADDRESS, AppPassword, Config, LOCAL_PART, Offer};

/// All sources together. Who has not answered by then has said nothing.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Mozilla's database of providers, <https://github.com/thunderbird/autoconfig>.
pub const ISP_DATABASE: &str = "autoconfig.thunderbird.net";

/// A move to other servers is seen after this time. What was found costs seconds to find again.
const KEEP_FOUND: Duration = Duration::from_secs(60 * 60);
/// For nothing, and for an answer that may be better once everybody answers in time.
const KEEP_DOUBTFUL: Duration = Duration::from_secs(60);
/// Domains kept in memory, of some kilobytes each at most.
const MAX_KEPT: usize = 256;

/// What a connection has longer than the search, so that the search's clock ends it and says so.
const SLACK: Duration = Duration::from_secs(1);
/// Of each service: the best one and a second.
const MAX_SERVICES: usize = 2;
/// Names to look up in the ISP database for one exchange: `mx.eu.example.co.uk` may be `example.co.uk` there.
const MAX_EXCHANGE_DOMAINS: usize = 3;

/// Services that a domain may offer. A plain port means STARTTLS: without encryption nothing is looked for.
const SERVICES: [(&str, Protocol, Security); 6] = [
    ("_imaps", Protocol::Imap, Security::Tls),
    ("_imap", Protocol::Imap, Security::StartTls),
    ("_pop3s", Protocol::Pop3, Security::Tls),
    ("_pop3", Protocol::Pop3, Security::StartTls),
    ("_submissions", Protocol::Smtp, Security::Tls),
    ("_submission", Protocol::Smtp, Security::StartTls),
];

/// All but what may stand in a query as it is. `@` may: a server that does not decode would repeat `%40` in its file.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@');

/// How a mailbox is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Servers for reading, best first. Empty where the provider is known to have none; the evidence says so.
    pub incoming: Vec<Offer>,
    /// Servers for sending, best first.
    pub smtp: Vec<Offer>,
    /// The provider whose sign-in is accepted instead of a password, by the name that a configuration gives it.
    pub oauth2: Option<String>,
    /// The provider's password for programs, where it has one.
    pub app_password: Option<AppPassword>,
    /// Who said so: `table`, `autoconfig`, `wellKnown`, `srv`, `ispDatabase`, `mxTable` or `mxIspDatabase`.
    pub source: &'static str,
    /// What each source said, in plain words and by rank, down to the one that won.
    pub evidence: Vec<String>,
}

/// Who is asked, and what was found lately.
#[derive(Debug)]
pub struct Sources {
    /// The host of the ISP database; `None` asks none.
    pub isp_database: Option<String>,
    /// Domains, in A-labels, whose settings the operator knows best.
    pub known: HashMap<String, Config>,
    kept: Mutex<HashMap<String, Kept>>,
}

/// What was found out about a domain. Nothing in it tells an address.
#[derive(Debug, Clone)]
struct Found {
    config: Config,
    source: &'static str,
    evidence: Vec<String>,
}

#[derive(Debug)]
struct Kept {
    found: Option<Found>,
    until: Instant,
}

/// What one source said.
struct Answer {
    source: &'static str,
    said: Vec<String>,
    config: Option<Config>,
    /// How long it holds for other addresses of the domain.
    keep: Duration,
}

/// An address whose domain can be looked up.
struct Address {
    full: String,
    local: String,
    domain: String,
}

/// Finds the settings of a mailbox; `None` when nobody knows any. Ends by `deadline`, and after [`TIME_LIMIT`].
pub async fn discover(
    connector: &Connector,
    resolver: &Resolver,
    sources: &Sources,
    address: &str,
    deadline: Instant,
) -> Option<Settings> {
    let address = Address::parse(address)?;
    if let Some(found) = sources.known(&address.domain) {
        return Some(found.settings(&address));
    }
    if let Some(found) = sources.kept(&address.domain) {
        return found.map(|found| found.settings(&address));
    }
    let deadline = deadline.min(Instant::now() + TIME_LIMIT);
    let search = Search { connector, resolver, sources, address: &address, deadline };
    let (found, keep) = search.run().await;
    sources.keep(&address.domain, found.clone(), keep);
    found.map(|found| found.settings(&address))
}

/// One search, and what it needs.
struct Search<'a> {
    connector: &'a Connector,
    resolver: &'a Resolver,
    sources: &'a Sources,
    address: &'a Address,
    deadline: Instant,
}

impl Search<'_> {
    /// Asks everybody, takes the answers by rank, and says how long the result may be kept.
    async fn run(&self) -> (Option<Found>, Duration) {
        let asked: [(&str, BoxFuture<'_, Answer>); 5] = [
            ("autoconfig", self.autoconfig().boxed()),
            ("wellKnown", self.well_known().boxed()),
            ("srv", self.services().boxed()),
            ("ispDatabase", self.isp_database().boxed()),
            ("mx", self.exchange().boxed()),
        ];
        let mut answers: FuturesOrdered<_> = asked
            .into_iter()
            .map(|(source, answer)| async move {
                let late = || Answer::nothing(source, format!("{source}: no answer in time")).doubtful();
                timeout_at(self.deadline, answer).await.unwrap_or_else(|_| late())
            })
            .collect();
        let (mut evidence, mut keep) = (Vec::new(), KEEP_FOUND);
        let mut unsure = None;
        while let Some(answer) = answers.next().await {
            // The ISP database is signed, by its certificate; it comes next.
            let is_last_word = unsure.is_some();
            evidence.extend(answer.said);
            keep = keep.min(answer.keep);
            match answer.config.map(|config| (config, answer.source)) {
                Some(found) if found.1 == "srv" && self.leads_out(&found.0) => unsure = Some(found),
                found => {
                    if let Some((mut config, source)) = found.or_else(|| unsure.take_if(|_| is_last_word)) {
                        complete(&mut config);
                        return (Some(Found { config, source, evidence }), keep);
                    }
                }
            }
        }
        (None, keep.min(KEEP_DOUBTFUL))
    }

    async fn autoconfig(&self) -> Answer {
        let host = format!("autoconfig.{}", self.address.domain);
        let path = format!("/mail/config-v1.1.xml?emailaddress={}", utf8_percent_encode(&self.address.full, QUERY));
        let mut answer = self.file("autoconfig", &host, &path).await;
        if let Some(config) = &mut answer.config
            && !self.address.generalise(config)
        {
            answer.keep = Duration::ZERO;
        }
        answer
    }

    async fn well_known(&self) -> Answer {
        self.file("wellKnown", &self.address.domain, "/.well-known/autoconfig/mail/config-v1.1.xml").await
    }

    async fn isp_database(&self) -> Answer {
        match &self.sources.isp_database {
            Some(host) => self.file("ispDatabase", host, &format!("/v1.1/{}", self.address.domain)).await,
            None => Answer::nothing("ispDatabase", "ispDatabase: not asked".into()),
        }
    }

    /// The settings in a file of Mozilla's format.
    async fn file(&self, source: &'static str, host: &str, path: &str) -> Answer {
        let place = format!("{source}: https://{host}{}", path.split('?').next().unwrap_or_default());
        let body = match https::get(self.connector, host, path, autoconfig::MAX_BYTES, self.deadline + SLACK).await {
            Ok(body) => body,
            Err(failure) => {
                let answer = Answer::nothing(source, format!("{place} {failure}"));
                return if failure.may_pass() { answer.doubtful() } else { answer };
            }
        };
        let mut config = match autoconfig::parse(&body, &self.address.domain) {
            Ok(config) => config,
            Err(unusable) => return Answer::nothing(source, format!("{place} {unusable}")),
        };
        let may_connect = |offer: &Offer| self.may_connect(offer);
        config.incoming.retain(may_connect);
        config.smtp.retain(may_connect);
        if config.incoming.is_empty() {
            let words = "names only servers without encryption, or at ports that this service does not connect to";
            return Answer::nothing(source, format!("{place} {words}"));
        }
        Answer::found(source, vec![format!("{place} has settings")], config)
    }

    async fn services(&self) -> Answer {
        let domain = &self.address.domain;
        let asked = SERVICES.map(|(name, ..)| async move {
            // The borrow of the name must last as long as the question.
            let name = format!("{name}._tcp.{domain}");
            self.resolver.services(&name).await
        });
        let (mut config, mut said, mut failed) = (Config::default(), Vec::new(), false);
        for ((name, protocol, security), answer) in SERVICES.into_iter().zip(join_all(asked).await) {
            let services = match answer {
                Ok(services) => services,
                Err(error) => {
                    failed |= matches!(error, DnsError::Failed(_));
                    continue;
                }
            };
            for service in services.into_iter().take(MAX_SERVICES) {
                let Some(host) = service.target else {
                    said.push(format!("srv: {domain} says that it does not offer {}", &name[1..]));
                    continue;
                };
                if service.port == 0 || host_name(&host).is_none() {
                    continue;
                }
                // Some publish the port of TLS under the name of STARTTLS.
                let security = if [465, 993, 995].contains(&service.port) { Security::Tls } else { security };
                said.push(format!("srv: {domain} offers {} at {host}:{}", &name[1..], service.port));
                let offers = if protocol == Protocol::Smtp { &mut config.smtp } else { &mut config.incoming };
                let server = Server { protocol, host, port: service.port, security };
                let offer = Offer { server, username: ADDRESS.to_owned() };
                if !self.may_connect(&offer) {
                    said.push(format!("srv: this service does not connect to port {}", service.port));
                } else if !offers.contains(&offer) {
                    offers.push(offer);
                }
            }
        }
        if failed {
            said.push(format!("srv: a name server gave no answer about {domain}"));
        } else if said.is_empty() {
            said.push(format!("srv: {domain} has no such records"));
        }
        let answer = if config.incoming.is_empty() {
            Answer { source: "srv", said, config: None, keep: KEEP_FOUND }
        } else {
            said.extend(self.warnings("srv", &config));
            config.incoming.sort_by_key(Offer::rank);
            config.smtp.sort_by_key(Offer::rank);
            Answer::found("srv", said, config)
        };
        if failed { answer.doubtful() } else { answer }
    }

    /// What is known of the provider that handles the domain's mail.
    async fn exchange(&self) -> Answer {
        let domain = &self.address.domain;
        let exchanges = match self.resolver.exchanges(domain).await {
            Ok(exchanges) => exchanges,
            Err(DnsError::Failed(_)) => {
                return Answer::nothing("mx", format!("mx: a name server gave no answer about {domain}")).doubtful();
            }
            Err(_) => return Answer::nothing("mx", format!("mx: {domain} has no mail exchange")),
        };
        for exchange in &exchanges {
            if let Some(provider) = table::by_exchange(&exchange.host) {
                let mut said =
                    vec![format!("mx: mail for {domain} goes to {}, {}", exchange.host, provider.describe())];
                said.extend(provider.note.map(|note| format!("mx: {note}")));
                let config = provider.config();
                said.extend(self.warnings("mx", &config));
                return Answer::found("mxTable", said, config);
            }
        }
        let Some((host, database)) = exchanges.first().map(|one| &one.host).zip(self.sources.isp_database.as_ref())
        else {
            return Answer::nothing("mx", format!("mx: {domain} has no mail exchange that the table knows"));
        };
        let mut said = vec![format!("mx: mail for {domain} goes to {host}")];
        let mut keep = KEEP_FOUND;
        let mut answers: FuturesOrdered<_> = exchange_domains(host, domain)
            .map(|name| async move { self.file("mxIspDatabase", database, &format!("/v1.1/{name}")).await })
            .collect();
        while let Some(mut answer) = answers.next().await {
            said.append(&mut answer.said);
            keep = keep.min(answer.keep);
            if let Some(mut config) = answer.config {
                // In another domain than the provider's own, a name without its domain is somebody else's.
                let is_whole = |offer: &Offer| !offer.username.contains(LOCAL_PART);
                config.incoming.retain(is_whole);
                config.smtp.retain(is_whole);
                if config.incoming.is_empty() {
                    said.push("mx: it serves only addresses of its own domain".into());
                    continue;
                }
                said.extend(self.warnings("mx", &config));
                return Answer { source: "mxIspDatabase", said, config: Some(config), keep };
            }
        }
        Answer { source: "mx", said, config: None, keep }
    }

    /// Whether a test of these settings would be more than refused.
    fn may_connect(&self, offer: &Offer) -> bool {
        let policy = self.connector.policy();
        policy.ports.allows(offer.server.port) && (policy.allow_plaintext || offer.is_encrypted())
    }

    fn leads_out(&self, config: &Config) -> bool {
        config
            .incoming
            .iter()
            .chain(&config.smtp)
            .any(|offer| !table::is_below(&offer.server.host, &self.address.domain))
    }

    /// A sentence for each host outside the domain that unsigned records led to.
    fn warnings(&self, source: &str, config: &Config) -> Vec<String> {
        let domain = &self.address.domain;
        let mut warnings = Vec::new();
        for offer in config.incoming.iter().chain(&config.smtp) {
            let host = &offer.server.host;
            let warning = format!(
                "{source}: {host} is outside {domain}, which DNS alone says: confirm before a password is sent"
            );
            if !table::is_below(host, domain) && !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }
}

impl Answer {
    fn found(source: &'static str, said: Vec<String>, config: Config) -> Self {
        Self { source, said, config: Some(config), keep: KEEP_FOUND }
    }

    fn nothing(source: &'static str, said: String) -> Self {
        Self { source, said: vec![said], config: None, keep: KEEP_FOUND }
    }

    /// What is said may be otherwise in a minute.
    fn doubtful(self) -> Self {
        Self { keep: KEEP_DOUBTFUL, ..self }
    }
}

impl Found {
    fn settings(self, address: &Address) -> Settings {
        let fill = |offers: Vec<Offer>| offers.into_iter().map(|offer| address.fill(offer)).collect();
        let Config { incoming, smtp, oauth2, app_password } = self.config;
        Settings {
            incoming: fill(incoming),
            smtp: fill(smtp),
            oauth2,
            app_password,
            source: self.source,
            evidence: self.evidence,
        }
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self { isp_database: Some(ISP_DATABASE.to_owned()), known: HashMap::new(), kept: Mutex::default() }
    }
}

impl Sources {
    /// What needs no asking.
    fn known(&self, domain: &str) -> Option<Found> {
        if let Some(config) = self.known.get(domain) {
            let evidence = vec![format!("table: {domain} is known to the operator")];
            return Some(Found { config: config.clone(), source: "table", evidence });
        }
        let provider = table::by_domain(domain)?;
        let mut evidence = vec![format!("table: {domain} is {}", provider.describe())];
        evidence.extend(provider.note.map(|note| format!("table: {note}")));
        Some(Found { config: provider.config(), source: "table", evidence })
    }

    /// What was found lately; the inner `None`: nothing was.
    fn kept(&self, domain: &str) -> Option<Option<Found>> {
        let kept = self.lock();
        let kept = kept.get(domain).filter(|kept| Instant::now() < kept.until)?;
        Some(kept.found.clone())
    }

    fn keep(&self, domain: &str, found: Option<Found>, time: Duration) {
        let now = Instant::now();
        let mut kept = self.lock();
        kept.retain(|_, kept| now < kept.until);
        if time.is_zero() {
            return;
        }
        if kept.len() >= MAX_KEPT
            && let Some(first) = kept.iter().min_by_key(|(_, kept)| kept.until).map(|(domain, _)| domain.clone())
        {
            kept.remove(&first);
        }
        kept.insert(domain.to_owned(), Kept { found, until: now + time });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        // Each change is whole before anything could panic.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.rsplit_once('@')?;
        let domain = host_name(domain).filter(|_| !local.is_empty())?;
        Some(Self { full: format!("{local}@{domain}"), local: local.to_owned(), domain })
    }

    fn fill(&self, mut offer: Offer) -> Offer {
        offer.username = expand(&offer.username, &[(ADDRESS, &self.full), (LOCAL_PART, &self.local)]);
        offer
    }

    /// Puts placeholders where a file that was made for this address repeats it. `false` when there may be more of
    /// the user in it than that, so that it serves nobody else.
    fn generalise(&self, config: &mut Config) -> bool {
        let local = self.local.to_lowercase();
        let mut general = true;
        for offer in config.incoming.iter_mut().chain(&mut config.smtp) {
            if offer.username.to_lowercase() == self.full.to_lowercase() {
                offer.username = ADDRESS.to_owned();
            } else if offer.username.to_lowercase() == local {
                offer.username = LOCAL_PART.to_owned();
            }
            let rest = expand(&offer.username, &[(ADDRESS, ""), (LOCAL_PART, "")]);
            // A user name of its own kind, a customer's number for one, was looked up for this user.
            let own = rest.len() == offer.username.len() || rest.to_lowercase().contains(&local);
            general &= !own && !offer.server.host.contains(&local);
        }
        general
    }
}

/// Adds what a file cannot say: how one signs in at a provider that the table knows.
fn complete(config: &mut Config) {
    let Some(provider) = config.incoming.first().and_then(|offer| table::by_server(&offer.server.host)) else {
        return;
    };
    config.oauth2 = config.oauth2.take().or_else(|| provider.oauth2());
    config.app_password = config.app_password.take().or_else(|| provider.app_password());
}

/// The names above an exchange, longest first, that may be a provider's in the ISP database: none of one label, nor
/// the domain itself, which was asked for already.
fn exchange_domains<'a>(host: &'a str, domain: &'a str) -> impl Iterator<Item = &'a str> {
    let mut names: Vec<_> = host.match_indices('.').map(|(dot, _)| &host[dot + 1..]).collect();
    names.retain(|name| name.contains('.') && *name != domain);
    names.split_off(names.len().saturating_sub(MAX_EXCHANGE_DOMAINS)).into_iter()
}

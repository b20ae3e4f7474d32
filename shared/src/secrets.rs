//! The three secret values, and the Secrets Manager secret that holds them in production.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use aws_config::retry::RetryConfig;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::{Mutex, RwLock};
use zeroize::Zeroizing;

use crate::aws;
use crate::db::url::DatabaseUrl;
use crate::sealing::PrivateKeys;

/// The shortest signing key that is accepted, in bytes: RFC 7518, 3.2 asks of an HMAC key at least the size of
/// the hash, which is 32 bytes for HS256.
pub const MIN_SIGNING_KEY_BYTES: usize = 32;

/// How long after a refused password was looked into it is not looked into again: with a password that nobody knows,
/// each request would ask Secrets Manager, which charges for it and throttles us.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3);
/// How a CloudFormation reference begins. One that nobody resolved would be a key that every reader of the template
/// knows.
const REFERENCE: &str = "{{resolve:";

/// What a value that is such a reference must be instead.
pub const RESOLVED: &str = "the value itself: this is a {{resolve:…}} reference that nobody resolved";

/// A text that must not be printed; wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Wraps a secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is a reference that nobody resolved, or has one in it.
    pub fn is_unresolved(&self) -> bool {
        self.0.contains(REFERENCE)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where the three secret values come from.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// `DATABASE_URL`, `REDIS_URL`, `JWT_SECRET_KEY`.
    Environment(Box<Secrets>),
    /// `SECRET_ARN`, or `READER_SECRET_ARN` of functions that only read: one Secrets Manager secret, a JSON object with these
    /// three keys.
    SecretsManager(SecretPlace),
    /// `NETWORK_SECRET_ARN` of functions that reach no database: of these keys it has the last two.
    Network(NetworkPlace),
    /// `SCHEDULER_SECRET_ARN`: a Secrets Manager secret with a login, for a function that has nothing but a database.
    Login(LoginPlace),
}

/// Which secret to read of a function that has callers and no database.
#[derive(Debug, Clone)]
pub struct NetworkPlace {
    /// The secret's ARN or name.
    pub arn: String,
    /// What the address in it must be.
    pub transport: Transport,
}

/// Which login to read.
#[derive(Debug, Clone)]
pub struct LoginPlace {
    /// The secret's ARN or name.
    pub arn: String,
    /// `DATABASE_URL`, without a password, which is the secret's.
    pub database_url: SecretText,
    /// What the address must be.
    pub transport: Transport,
}

/// Which secrets to read.
#[derive(Debug, Clone)]
pub struct SecretPlace {
    /// `SECRET_ARN` or `READER_SECRET_ARN`: the secret's ARN or name.
    pub arn: String,
    /// `MAIL_SECRET_ARN`, of functions that open secrets: the secret with their login and the private keys.
    pub mail_arn: Option<String>,
    /// `PROVIDERS_SECRET_ARN`, of functions that ask providers for tokens: the secret with the clients' secrets there.
    pub providers_arn: Option<String>,
    /// `DATABASE_URL`, for a secret that has none; without a password, which is the secret's.
    pub database_url: Option<SecretText>,
    /// What the addresses in it must be.
    pub transport: Transport,
}

/// How PostgreSQL and Redis may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As their addresses say.
    Any,
    /// Over TLS alone: in a deployed stack, whose network others share.
    Tls,
}

/// The database URL, the Redis URL and the keys that sign tokens, each checked for its form.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// `DATABASE_URL`, parsed.
    pub database: DatabaseUrl,
    /// `REDIS_URL`.
    pub redis_url: SecretText,
    /// `JWT_SECRET_KEY`; none where tokens are signed with a key that we do not have.
    pub jwt_secret_key: Option<SecretText>,
    /// `JWT_SECRET_KEY_PREVIOUS`: accepted beside the other during a rotation.
    pub jwt_secret_key_previous: Option<SecretText>,
    /// `SEALING_PRIVATE_KEYS`, of mail functions alone.
    pub sealing_private_keys: Option<Arc<PrivateKeys>>,
    /// `OAUTH2_CLIENT_SECRETS`, of functions that ask providers for tokens alone.
    pub client_secrets: ClientSecrets,
}

/// The name of a value, and what it must be.
pub type Fault = (&'static str, &'static str);

/// The secrets of our clients at providers, by the providers' names.
#[derive(Debug, Clone, Default)]
pub struct ClientSecrets(HashMap<String, SecretText>);

/// What `OAUTH2_CLIENT_SECRETS` must be.
pub const CLIENT_SECRETS: &str = "a JSON object that has the client's secret for each provider's name";

impl ClientSecrets {
    /// Reads a JSON object of texts, none of which is a reference that nobody resolved.
    pub fn parse(json: &str) -> Option<Self> {
        let secrets: HashMap<String, SecretText> = serde_json::from_str(json).ok()?;
        secrets.values().all(|secret| !secret.is_unresolved()).then_some(Self(secrets))
    }

    /// That of one provider; a client may have none (RFC 6749, 2.1).
    pub fn of(&self, provider: &str) -> Option<&SecretText> {
        self.0.get(provider)
    }
}

/// What `SEALING_PRIVATE_KEYS` must be.
pub const SEALING_PRIVATE_KEYS: &str =
    "keys' ids, colons and keys in base64, with commas between keys, as `migrate` makes them";

impl Secrets {
    /// Checks a database URL, and knows nothing else.
    ///
    /// # Errors
    /// What it must be.
    pub fn of_database(url: &SecretText, transport: Transport) -> Result<Self, &'static str> {
        if url.is_unresolved() {
            return Err(RESOLVED);
        }
        match DatabaseUrl::parse(url.reveal().trim()) {
            None => {
                Err("postgres://user:password@host:port/database, with sslmode disable, prefer, require or verify-full")
            }
            Some(database) if transport == Transport::Tls && !database.is_tls() => {
                Err("an address with sslmode=verify-full (or require) in a deployed stack")
            }
            Some(database) => Ok(Self { database, ..Self::default() }),
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The names of the bad ones, each with what it must be.
    pub fn new(
        database_url: &SecretText,
        redis_url: SecretText,
        signing_keys: [Option<SecretText>; 2],
        transport: Transport,
    ) -> Result<Self, Vec<Fault>> {
        let of_database = Self::of_database(database_url, transport);
        match (of_database, Self::of_callers(redis_url, signing_keys, transport)) {
            (Ok(Self { database, .. }), Ok(secrets)) => Ok(Self { database, ..secrets }),
            (of_database, of_callers) => {
                let fault = of_database.err().map(|meaning| ("DATABASE_URL", meaning));
                Err(fault.into_iter().chain(of_callers.err().into_iter().flatten()).collect())
            }
        }
    }

    /// Checks what callers are known and counted with, and knows no database.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_callers(
        redis_url: SecretText,
        [jwt_secret_key, jwt_secret_key_previous]: [Option<SecretText>; 2],
        transport: Transport,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let keys = [("JWT_SECRET_KEY", &jwt_secret_key), ("JWT_SECRET_KEY_PREVIOUS", &jwt_secret_key_previous)];
        let keys = keys.into_iter().filter_map(|(name, key)| Some((name, key.as_ref()?)));
        let named = [("REDIS_URL", &redis_url)].into_iter().chain(keys.clone());
        faults.extend(named.filter(|(_, value)| value.is_unresolved()).map(|(name, _)| (name, RESOLVED)));
        match redis::Client::open(redis_url.reveal()) {
            Err(_) => faults.push(("REDIS_URL", "redis://host:port or rediss://host:port")),
            Ok(redis) if transport == Transport::Tls && !is_tls(redis.get_connection_info().addr()) => {
                faults.push(("REDIS_URL", "an address with rediss:// in a deployed stack"));
            }
            Ok(_) => {}
        }
        for (name, key) in keys {
            let key = key.reveal();
            if key.len() < MIN_SIGNING_KEY_BYTES {
                faults.push((name, "at least 32 bytes long (try: openssl rand -base64 48)"));
            }
            // Who signs and who checks would not agree on whether it belongs to the key, and every token would be refused.
            if key.trim() != key {
                faults.push((name, "without white space at its beginning and end"));
            }
        }
        if faults.is_empty() {
            return Ok(Self { redis_url, jwt_secret_key, jwt_secret_key_previous, ..Self::default() });
        }
        Err(faults)
    }
}

/// Hands the secrets out, reading them from Secrets Manager once, and again when asked to.
#[derive(Debug)]
pub struct SecretStore {
    source: SecretSource,
    cached: RwLock<Option<Secrets>>,
    /// When that was last done, well or not; locked meanwhile, so that of many requests at once one asks.
    refreshed_at: Mutex<Option<Instant>>,
    manager: SecretsManager,
}

impl SecretStore {
    /// A store over where the configuration says the secrets are.
    pub fn new(source: SecretSource) -> Self {
        Self { source, cached: RwLock::default(), refreshed_at: Mutex::default(), manager: SecretsManager::default() }
    }

    /// The secrets; the first call may ask Secrets Manager.
    ///
    /// # Errors
    /// The secret cannot be read, or holds no usable values.
    pub async fn get(&self) -> anyhow::Result<Secrets> {
        match &self.source {
            SecretSource::Environment(secrets) => Ok(Secrets::clone(secrets)),
            SecretSource::SecretsManager(_) | SecretSource::Network(_) | SecretSource::Login(_) => {
                if let Some(secrets) = &*self.cached.read().await {
                    return Ok(secrets.clone());
                }
                self.read_again().await
            }
        }
    }

    /// Reads the secrets again, after those of `tried_at` turned out not to fit: they were probably rotated. Whether there
    /// are others to try now: not where they cannot change (environment variables), nor where it was done shortly before.
    ///
    /// # Errors
    /// As [`SecretStore::get`].
    pub async fn refresh(&self, tried_at: Instant) -> anyhow::Result<bool> {
        if !self.can_change() {
            return Ok(false);
        }
        let mut refreshed_at = self.refreshed_at.lock().await;
        if let Some(last) = *refreshed_at
            && last.elapsed() < REFRESH_INTERVAL
        {
            return Ok(tried_at < last);
        }
        tracing::warn!("a login was refused or a key is unknown: reading the secret again");
        let fetched = self.read_again().await;
        *refreshed_at = Some(Instant::now());
        fetched.map(|_| true)
    }

    /// The way to other secrets, over the same connection.
    pub fn manager(&self) -> &SecretsManager {
        &self.manager
    }

    /// Whether the secrets may be others later: environment variables stay.
    pub fn can_change(&self) -> bool {
        !matches!(self.source, SecretSource::Environment(_))
    }

    /// The secrets as they are now. How often that may be is the caller's matter.
    ///
    /// # Errors
    /// As [`SecretStore::get`].
    pub fn read_again(&self) -> BoxFuture<'_, anyhow::Result<Secrets>> {
        Box::pin(async {
            let secrets = match &self.source {
                SecretSource::Environment(secrets) => return Ok(Secrets::clone(secrets)),
                SecretSource::SecretsManager(place) => self.fetch_all(place).await?,
                SecretSource::Network(place) => self.fetch_network(place).await?,
                SecretSource::Login(place) => self.fetch_login(place).await?,
            };
            *self.cached.write().await = Some(secrets.clone());
            Ok(secrets)
        })
    }

    async fn fetch_all(&self, place: &SecretPlace) -> anyhow::Result<Secrets> {
        let SecretPlace { arn, mail_arn, providers_arn, database_url, transport } = place;
        let perhaps = async |arn: &Option<String>| match arn {
            Some(arn) => self.manager.read(arn).await.map(Some),
            None => Ok(None),
        };
        let (text, mail, providers) =
            tokio::try_join!(self.manager.read(arn), perhaps(mail_arn), perhaps(providers_arn))?;
        let secrets = parse(text.reveal(), mail.as_ref().map(SecretText::reveal), database_url.as_ref(), *transport);
        let mut secrets = secrets.with_context(|| {
            let mail = mail_arn.as_ref().map_or(String::new(), |arn| format!(" or {arn}"));
            format!("the secret {arn}{mail} is not usable")
        })?;
        if let Some((text, arn)) = providers.zip(providers_arn.as_ref()) {
            secrets.client_secrets = ClientSecrets::parse(text.reveal())
                .with_context(|| format!("the secret {arn} is not usable: it must be {CLIENT_SECRETS}"))?;
        }
        Ok(secrets)
    }

    async fn fetch_network(&self, place: &NetworkPlace) -> anyhow::Result<Secrets> {
        let text = self.manager.read(&place.arn).await?;
        let secrets = parse_of_callers(text.reveal(), place.transport);
        secrets.with_context(|| format!("the secret {} is not usable", place.arn))
    }

    async fn fetch_login(&self, place: &LoginPlace) -> anyhow::Result<Secrets> {
        let LoginPlace { arn, database_url, transport } = place;
        let text = self.manager.read(arn).await?;
        let login = Login::parse(text.reveal()).with_context(|| format!("the secret {arn} is not usable"))?;
        let mut secrets = Secrets::of_database(database_url, *transport)
            .map_err(|meaning| anyhow!("DATABASE_URL must be {meaning}"))?;
        login.fill_in(&mut secrets.database);
        Ok(secrets)
    }
}

/// Secrets Manager, connected at the first use.
#[derive(Debug, Default)]
pub struct SecretsManager(OnceLock<aws_sdk_secretsmanager::Client>);

impl SecretsManager {
    /// The secret's text.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read(&self, arn: &str) -> anyhow::Result<SecretText> {
        let answer = self.client().get_secret_value().secret_id(arn).send().await.with_context(|| {
            format!("cannot read the secret {arn}: check the ARN, the function's role and its way to Secrets Manager")
        })?;
        Ok(SecretText::new(answer.secret_string.unwrap_or_default()))
    }

    /// Puts a new text into a secret.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn write(&self, arn: &str, text: &SecretText) -> anyhow::Result<()> {
        let written = self.client().put_secret_value().secret_id(arn).secret_string(text.reveal()).send().await;
        written.with_context(|| format!("cannot write the secret {arn}: check the function's role")).map(drop)
    }

    fn client(&self) -> &aws_sdk_secretsmanager::Client {
        self.0.get_or_init(|| {
            let aws = aws::config("SECRETS_MANAGER", RetryConfig::standard());
            aws_sdk_secretsmanager::Client::new(&aws)
        })
    }
}

/// User name and password, under the keys that RDS gives them in the secrets that it manages and rotates.
#[derive(Deserialize)]
pub struct Login {
    /// The role.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretText>,
}

impl Login {
    /// Whether both are values, and no references that nobody resolved.
    fn check(&self) -> anyhow::Result<()> {
        let password = self.password.as_ref().is_some_and(SecretText::is_unresolved);
        if password || self.username.as_ref().is_some_and(|name| name.contains(REFERENCE)) {
            bail!("username and password must be {RESOLVED}");
        }
        Ok(())
    }

    /// Fills in what a database's address lacks.
    pub fn fill_in(&self, url: &mut DatabaseUrl) {
        url.fill_in(self.username.as_deref(), self.password.as_ref().map(SecretText::reveal));
    }

    /// Reads the two from a secret's JSON, whatever else is in it.
    ///
    /// # Errors
    /// It is no JSON object, or has a reference that nobody resolved. The text is not quoted.
    pub fn parse(json: &str) -> anyhow::Result<Self> {
        let login: Self = serde_json::from_str(json)
            .map_err(|_| anyhow!("it must be a JSON object with the strings username and password"))?;
        login.check()?;
        Ok(login)
    }
}

/// Rotation and RDS Proxy know `username` and `password` and no URL. So the secret's URL, or that of the environment
/// where the secret has none, may come without a password, and gets the secret's. Where there is a secret of the mail
/// functions', the login is that one's.
fn parse(
    json: &str,
    mail_json: Option<&str>,
    database_url: Option<&SecretText>,
    transport: Transport,
) -> anyhow::Result<Secrets> {
    #[derive(Deserialize)]
    struct MailSecret {
        #[serde(rename = "DATABASE_URL")]
        database_url: Option<SecretText>,
        #[serde(rename = "SEALING_PRIVATE_KEYS")]
        sealing_private_keys: SecretText,
        #[serde(flatten)]
        login: Login,
    }
    #[derive(Deserialize)]
    struct Stored {
        #[serde(rename = "DATABASE_URL")]
        database_url: Option<SecretText>,
        #[serde(flatten)]
        of_callers: OfCallers,
        #[serde(flatten)]
        login: Login,
    }
    // The parser's own message could quote the secret.
    let stored: Stored = serde_json::from_str(json)
        .map_err(|_| anyhow!("it must be a JSON object with the strings DATABASE_URL, REDIS_URL and JWT_SECRET_KEY"))?;
    let mail: Option<MailSecret> = mail_json.map(serde_json::from_str).transpose().map_err(|_| {
        anyhow!("that of the mail functions must be a JSON object with the strings username, password and SEALING_PRIVATE_KEYS")
    })?;
    let (url, login) = match &mail {
        Some(mail) => (&mail.database_url, &mail.login),
        None => (&stored.database_url, &stored.login),
    };
    let Some(database_url) = url.as_ref().or(database_url) else {
        bail!("it must have DATABASE_URL, or the variable DATABASE_URL must be set beside SECRET_ARN");
    };
    login.check()?;
    let keys = mail.as_ref().map(|mail| {
        let keys = PrivateKeys::parse(mail.sealing_private_keys.reveal());
        keys.map(Arc::new).with_context(|| format!("SEALING_PRIVATE_KEYS must be {SEALING_PRIVATE_KEYS}"))
    });
    let keys = keys.transpose()?;
    let (redis_url, signing_keys) = stored.of_callers.values();
    let mut secrets = Secrets::new(database_url, redis_url, signing_keys, transport).map_err(told)?;
    login.fill_in(&mut secrets.database);
    secrets.sealing_private_keys = keys;
    Ok(secrets)
}

/// The same of a secret in which there is no login, or one that is none of the function's business.
fn parse_of_callers(json: &str, transport: Transport) -> anyhow::Result<Secrets> {
    let stored: OfCallers = serde_json::from_str(json)
        .map_err(|_| anyhow!("it must be a JSON object with the strings REDIS_URL and JWT_SECRET_KEY"))?;
    let (redis_url, signing_keys) = stored.values();
    Secrets::of_callers(redis_url, signing_keys, transport).map_err(told)
}

/// What callers are known and counted with, as a secret has it.
#[derive(Deserialize)]
struct OfCallers {
    #[serde(rename = "REDIS_URL")]
    redis_url: SecretText,
    #[serde(rename = "JWT_SECRET_KEY")]
    jwt_secret_key: Option<SecretText>,
    #[serde(rename = "JWT_SECRET_KEY_PREVIOUS")]
    jwt_secret_key_previous: Option<SecretText>,
}

impl OfCallers {
    /// An empty key counts as none, as it does in the environment.
    fn values(self) -> (SecretText, [Option<SecretText>; 2]) {
        let signing_keys = [self.jwt_secret_key, self.jwt_secret_key_previous];
        (self.redis_url, signing_keys.map(|key| key.filter(|key| !key.reveal().is_empty())))
    }
}

fn told(faults: Vec<Fault>) -> anyhow::Error {
    let faults: Vec<_> = faults.iter().map(|(name, meaning)| format!("{name} must be {meaning}")).collect();
    anyhow!(faults.join("; "))
}

fn is_tls(address: &redis::ConnectionAddr) -> bool {
    matches!(address, redis::ConnectionAddr::TcpTls { insecure: false, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn stored(changes: serde_json::Value) -> String {
        let mut secret = serde_json::json!({
            "DATABASE_URL": "postgres://app@h/d?sslmode=verify-full", "REDIS_URL": "rediss://r", "JWT_SECRET_KEY": KEY,
            "username": "app", "password": "p"
        });
        for (name, value) in changes.as_object().unwrap() {
            secret[name] = value.clone();
        }
        secret.to_string()
    }

    #[test]
    fn a_reference_that_nobody_resolved_is_refused_in_every_value() {
        assert!(parse(&stored(serde_json::json!({})), None, None, Transport::Any).is_ok());
        let reference = "{{resolve:secretsmanager:key:SecretString:x}}";
        for (name, value) in [
            ("DATABASE_URL", format!("postgres://app:{reference}@h/d")),
            ("REDIS_URL", format!("redis://:{reference}@r")),
            ("JWT_SECRET_KEY", reference.to_owned()),
            ("username", reference.to_owned()),
            ("password", format!("before{reference}")),
        ] {
            let error = parse(&stored(serde_json::json!({ name: value })), None, None, Transport::Any).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(name) && error.contains("nobody resolved") && !error.contains("manager"), "{error}");
        }
        assert!(Login::parse(&format!(r#"{{"username":"o","password":"{reference}"}}"#)).is_err());
    }

    #[test]
    fn who_has_no_database_reads_nothing_of_one() {
        let (redis_url, key) = ("rediss://r", KEY);
        let bare = serde_json::json!({"REDIS_URL": redis_url, "JWT_SECRET_KEY": key, "JWT_SECRET_KEY_PREVIOUS": ""});
        for json in [bare.to_string(), stored(serde_json::json!({})), stored(serde_json::json!({"DATABASE_URL": "x"}))]
        {
            let secrets = parse_of_callers(&json, Transport::Tls).unwrap();
            assert_eq!((secrets.redis_url.reveal(), secrets.jwt_secret_key.unwrap().reveal()), (redis_url, key));
            assert!(secrets.jwt_secret_key_previous.is_none());
            assert_eq!((secrets.database.user(), secrets.database.password()), (None, None));
        }
        for (bad, reason) in [
            ("hunter2".to_owned(), "the strings REDIS_URL and JWT_SECRET_KEY"),
            (r#"{"JWT_SECRET_KEY":"hunter2"}"#.to_owned(), "the strings REDIS_URL and JWT_SECRET_KEY"),
            (
                stored(serde_json::json!({"REDIS_URL": "redis://hunter2"})),
                "REDIS_URL must be an address with rediss://",
            ),
            (stored(serde_json::json!({"JWT_SECRET_KEY": "hunter2"})), "JWT_SECRET_KEY must be at least 32 bytes"),
        ] {
            let error = format!("{:#}", parse_of_callers(&bad, Transport::Tls).unwrap_err());
            assert!(error.contains(reason) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn clients_have_a_secret_by_provider() {
        let secrets = ClientSecrets::parse(r#"{"google":"hunter2"}"#).unwrap();
        assert_eq!(secrets.of("google").map(SecretText::reveal), Some("hunter2"));
        assert!(secrets.of("microsoft").is_none() && !format!("{secrets:?}").contains("hunter2"));
        assert!(ClientSecrets::parse("{}").is_some());
        for bad in ["", "hunter2", "[]", r#"{"google":1}"#, r#"{"google":"{{resolve:ssm:x}}"}"#] {
            assert!(ClientSecrets::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_signing_key_is_taken_whole_or_refused() {
        let read = |key: &str| parse(&stored(serde_json::json!({"JWT_SECRET_KEY": key})), None, None, Transport::Any);
        let key = read(&format!("{KEY} {KEY}")).unwrap().jwt_secret_key.unwrap();
        assert_eq!(key.reveal(), format!("{KEY} {KEY}"));
        for bad in [format!("{KEY}\n"), format!(" {KEY}"), format!("{KEY}\u{a0}")] {
            let error = format!("{:#}", read(&bad).unwrap_err());
            assert!(error.contains("JWT_SECRET_KEY must be without white space"), "{error}");
        }
    }

    #[test]
    fn a_key_of_before_is_checked_like_the_current_one_and_an_empty_one_is_none() {
        let read =
            |key: &str| parse(&stored(serde_json::json!({"JWT_SECRET_KEY_PREVIOUS": key})), None, None, Transport::Any);
        assert_eq!(read(KEY).unwrap().jwt_secret_key_previous.unwrap().reveal(), KEY);
        assert!(read("").unwrap().jwt_secret_key_previous.is_none());
        let error = format!("{:#}", read("short").unwrap_err());
        assert!(error.contains("JWT_SECRET_KEY_PREVIOUS must be at least 32 bytes"), "{error}");
    }

    #[test]
    fn a_deployed_stack_reaches_both_servers_over_tls_alone() {
        assert!(parse(&stored(serde_json::json!({})), None, None, Transport::Tls).is_ok());
        for (name, plain) in [
            ("DATABASE_URL", "postgres://app@h/d"),
            ("DATABASE_URL", "postgres://app@h/d?sslmode=prefer"),
            ("DATABASE_URL", "postgres://app@h/d?sslmode=disable"),
            ("REDIS_URL", "redis://r"),
            ("REDIS_URL", "rediss://r/#insecure"),
            ("REDIS_URL", "unix:/run/redis"),
        ] {
            let json = stored(serde_json::json!({ name: plain }));
            let error = format!("{:#}", parse(&json, None, None, Transport::Tls).unwrap_err());
            assert!(error.contains(name), "{plain}: {error}");
        }
        assert!(parse(&stored(serde_json::json!({"REDIS_URL": "redis://r"})), None, None, Transport::Any).is_ok());
    }

    #[test]
    fn a_bad_secret_is_described_but_not_quoted() {
        for json in [
            "hunter2",
            r#"{"DATABASE_URL":"hunter2"}"#,
            r#"{"DATABASE_URL":"hunter2","REDIS_URL":"hunter2","JWT_SECRET_KEY":"hunter2"}"#,
        ] {
            let error = format!("{:#}", parse(json, None, None, Transport::Any).unwrap_err());
            assert!(error.contains("DATABASE_URL") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_url_without_a_password_gets_the_one_that_is_rotated() {
        let json = format!(
            r#"{{"REDIS_URL":"redis://r","JWT_SECRET_KEY":"{KEY}","username":"app","password":"p@ss/word","port":5432}}"#
        );
        let password = |json: &str, url| {
            let secrets = parse(json, None, url, Transport::Any).unwrap();
            secrets.database.password().unwrap().to_vec()
        };
        assert!(parse(&json, None, None, Transport::Any).is_err());
        let from_environment = SecretText::new("postgres://app@h/d".to_owned());
        assert_eq!(password(&json, Some(&from_environment)), b"p@ss/word");
        let whole = json.replacen('{', r#"{"DATABASE_URL":"postgres://app:own@h/d","#, 1);
        assert_eq!(password(&whole, Some(&from_environment)), b"own");
    }
}

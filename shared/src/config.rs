//! Configuration from the environment: the only module that reads it.
//!
//! A missing or bad value stops the start; the error names every such variable and what it must be.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use lambda_http::http::HeaderValue;
use tracing::level_filters::LevelFilter;
use url::Url;

use crate::claims::{ClaimName, ClaimNames, Ids};
use crate::db::url::DatabaseUrl;
use crate::key_set::{KeySet, PUBLIC_KEY};
use crate::sealing::{PrivateKeys, PublicKey};
use crate::secrets::{
    CLIENT_SECRETS, ClientSecrets, Fault, LoginPlace, NetworkPlace, RESOLVED, SEALING_PRIVATE_KEYS, SecretPlace,
    SecretSource, SecretText, Secrets, Transport,
};
use crate::variables::Variables;

/// What a function needs that knows no caller (health, the default route).
#[derive(Debug, Clone)]
pub struct PublicConfig {
    /// `CORS_ORIGINS`: origins whose pages may read our answers.
    pub cors_origins: Vec<HeaderValue>,
    /// `LOG_LEVEL`: the least severe level that is logged.
    pub log_level: LevelFilter,
    /// The Lambda function's name, for its metrics; none elsewhere than on Lambda, where nobody reads them.
    pub metrics_of: Option<String>,
}

/// What a function needs that knows callers, and so reaches Redis, and mostly PostgreSQL as well.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the public functions need, too.
    pub public: PublicConfig,
    /// Where the Redis URL and the signing key come from, and the database URL where there is one.
    pub secrets: SecretSource,
    /// `AWS_LAMBDA_MAX_CONCURRENCY`: how many requests the runtime gives one process at a time (1 on classic Lambda).
    pub concurrency: usize,
    /// `RATE_LIMIT_PER_MINUTE`: requests per user in any 60 seconds; `None` (written `0`) means no limit.
    pub rate_limit: Option<NonZeroU32>,
    /// `ACCOUNTS_PER_USER`: how many enabled accounts a user can have.
    pub accounts_per_user: i32,
    /// How callers prove who they are.
    pub auth: AuthConfig,
}

/// `MAIL_BUCKET`: the bucket for what is too large for the database.
///
/// # Errors
/// It is missing.
pub fn mail_bucket() -> anyhow::Result<String> {
    let mut vars = Variables::of_process();
    let bucket = bucket(&mut vars);
    vars.finish()?;
    Ok(bucket)
}

/// The same for who only asks whether it is there; none where there is none.
pub fn probed_bucket() -> Option<String> {
    Variables::of_process().get("MAIL_BUCKET")
}

fn bucket(vars: &mut Variables) -> String {
    required(vars, "MAIL_BUCKET", "the name of a bucket").reveal().to_owned()
}

/// How functions that reach mail hosts may do so. What the texts mean is known where mail hosts are: the crate `mailbox`
/// reads them at the start.
#[derive(Debug, Clone, Default)]
pub struct Outbound {
    /// `MAIL_PRIVATE_NETWORKS`: networks of the operator's own that are open although they are not public (CIDRs).
    pub private_networks: String,
    /// `MAIL_PORTS`: the ports that are open, or `*`; empty means those of mail.
    pub ports: String,
    /// `MAIL_ALLOW_PLAINTEXT`: whether passwords may be sent without encryption where an account says so.
    pub allow_plaintext: bool,
    /// `MAIL_NAME_SERVERS`: name servers with their ports; empty means the system's.
    pub name_servers: String,
    /// `MAIL_ISP_DATABASE`: the host of the database of providers' settings; `none` asks none.
    pub isp_database: Option<String>,
}

/// `MAIL_HOST_CONNECTIONS`: how many connections at once the workers may have with one mail host. Gmail and Yahoo refuse
/// more than 15 to 20 of one address, and most who host mail themselves allow 10 for each mailbox.
///
/// # Errors
/// It is no number.
pub fn mail_host_connections() -> anyhow::Result<NonZeroU32> {
    let mut vars = Variables::of_process();
    let default = const { NonZeroU32::new(20).unwrap() };
    let meaning = "a whole number of 1 or more";
    let connections = vars.parsed("MAIL_HOST_CONNECTIONS", meaning, default, |v| v.parse().ok());
    vars.finish()?;
    Ok(connections)
}

/// How users sign in with their mail provider. What the text means is known where mail hosts are, as with [`Outbound`].
#[derive(Debug, Clone, Default)]
pub struct SignInConfig {
    /// `OAUTH2_PROVIDERS`: the providers, a JSON object; empty means none.
    pub providers: String,
    /// `OAUTH2_REDIRECT_URIS`: the pages that providers may send users back to, exactly as they are registered there.
    pub redirect_uris: Vec<String>,
}

/// How callers prove who they are.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// `JWT_ALGORITHM`: the one algorithm that is accepted.
    pub algorithm: Algorithm,
    /// Where the keys are that check tokens.
    pub keys: KeySource,
    /// `JWT_ISSUER`: the `iss` that a token must have, where set.
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`: the `aud` that a token must have, where set.
    pub audience: Option<String>,
    /// `JWT_TENANT_CLAIM`, `JWT_USER_CLAIM`, `JWT_ROLE_CLAIM`: what the claims are called that say who calls.
    pub claims: ClaimNames,
    /// `JWT_IDS`: what the ids in them may be.
    pub ids: Ids,
    /// `ALLOW_HEADER_AUTH`: believe `X-Tenant-ID` and `X-User-ID`. Development only.
    pub allow_headers: bool,
}

/// Where the keys are that check tokens.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `JWT_SECRET_KEY` and `JWT_SECRET_KEY_PREVIOUS`, among the secrets: who checks could sign as well.
    Secret,
    /// `JWT_PUBLIC_KEY` or `JWT_JWKS`: what stands there.
    Fixed(Arc<KeySet>),
    /// `JWT_JWKS_URL`: what the issuer publishes.
    Url(Url),
    /// `JWT_JWKS_SECRET_ARN`: what was published, kept where functions without a way out can read it.
    SecretArn(String),
}

/// What the function needs that keeps the issuer's keys where the others can read them.
#[derive(Debug, Clone)]
pub struct KeySetConfig {
    /// `JWT_ALGORITHM`: a set without a key for it is not kept.
    pub algorithm: Algorithm,
    /// `JWT_JWKS_URL` and `JWT_JWKS_SECRET_ARN`: from where and to where; none where there is nothing to keep.
    pub way: Option<(Url, String)>,
}

/// What a function needs that rings for a worker, or that is one: nobody calls those.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// What the public functions need, too.
    pub public: PublicConfig,
    /// `SYNC_QUEUE_URL`: the queue for synchronisation. Without one nobody is rung, and the schedule finds the work.
    pub sync_queue_url: Option<String>,
    /// `OUTBOX_QUEUE_URL`: the queue for messages to be sent, likewise.
    pub outbox_queue_url: Option<String>,
}

/// What the function needs that asks who is due: a login, and a queue to ring at.
#[derive(Debug, Clone)]
pub struct ScheduleConfig {
    /// What the public functions need, too.
    pub public: PublicConfig,
    /// Where the database URL comes from.
    pub secrets: SecretSource,
    /// `SYNC_QUEUE_URL`: the queue that it rings at.
    pub sync_queue_url: String,
    /// `OUTBOX_QUEUE_URL`: likewise, for messages to be sent.
    pub outbox_queue_url: String,
    /// `MAIL_BUCKET`: the bucket in which it deletes what deleted accounts had.
    pub mail_bucket: String,
    /// `RETENTION_DAYS`: how long deleted accounts are kept; `None` (written `0`) means for ever.
    pub retention: Option<Duration>,
}

/// What the migration needs.
#[derive(Debug, Clone)]
pub struct MigrationConfig {
    /// `OWNER_DATABASE_URL`: a login that may create roles and tables.
    pub owner_database_url: SecretText,
    /// `OWNER_SECRET_ARN`: the secret with `username` and `password` for a URL that has none.
    pub owner_secret_arn: Option<String>,
    /// What the functions log in with; the password in it becomes that of their role.
    pub secrets: SecretSource,
    /// `MAIL_SECRET_ARN`: the secret of the mail functions, which gets its keys here.
    pub mail_secret_arn: Option<String>,
    /// `SCHEDULER_SECRET_ARN`: the secret with the schedule's login.
    pub scheduler_secret_arn: Option<String>,
    /// `READER_SECRET_ARN`: the secret of the functions that only read.
    pub reader_secret_arn: Option<String>,
}

impl PublicConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        let mut vars = Variables::of_process();
        let config = public(&mut vars);
        vars.finish()?;
        Ok(config)
    }
}

impl QueueConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        Self::read(Variables::of_process())
    }

    fn read(mut vars: Variables) -> anyhow::Result<Self> {
        let config = Self {
            public: public(&mut vars),
            sync_queue_url: queue_url_of(&mut vars, SYNC_QUEUE),
            outbox_queue_url: queue_url_of(&mut vars, OUTBOX_QUEUE),
        };
        vars.finish()?;
        Ok(config)
    }
}

impl KeySetConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        let mut vars = Variables::of_process();
        let config =
            Self { algorithm: algorithm(&mut vars), way: key_set_url(&mut vars).zip(vars.get("JWT_JWKS_SECRET_ARN")) };
        vars.finish()?;
        Ok(config)
    }
}

impl ScheduleConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every missing or bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        Self::read(Variables::of_process())
    }

    fn read(mut vars: Variables) -> anyhow::Result<Self> {
        let public = public(&mut vars);
        let [sync_queue_url, outbox_queue_url] = [SYNC_QUEUE, OUTBOX_QUEUE].map(|name| {
            let queue = queue_url_of(&mut vars, name);
            if queue.is_none() {
                vars.fault(name, QUEUE_URL);
            }
            queue.unwrap_or_default()
        });
        let transport = transport(&vars);
        let database_url = required(&mut vars, "DATABASE_URL", DATABASE_URL);
        let secrets = match vars.get("SCHEDULER_SECRET_ARN") {
            Some(arn) => SecretSource::Login(LoginPlace { arn, database_url, transport }),
            None => match Secrets::of_database(&database_url, transport) {
                Ok(secrets) => SecretSource::Environment(Box::new(secrets)),
                Err(meaning) => {
                    vars.fault("DATABASE_URL", meaning);
                    SecretSource::Environment(Box::default())
                }
            },
        };
        let mail_bucket = bucket(&mut vars);
        let retention = vars.parsed("RETENTION_DAYS", "a whole number of days; 0 keeps all", None, |v| {
            let days = NonZeroU32::new(v.parse().ok()?);
            Some(days.map(|days| DAY * days.get()))
        });
        vars.finish()?;
        Ok(Self { public, secrets, sync_queue_url, outbox_queue_url, mail_bucket, retention })
    }
}

impl Outbound {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        let mut vars = Variables::of_process();
        let outbound = Self {
            private_networks: vars.get("MAIL_PRIVATE_NETWORKS").unwrap_or_default(),
            ports: vars.get("MAIL_PORTS").unwrap_or_default(),
            allow_plaintext: vars
                .parsed("MAIL_ALLOW_PLAINTEXT", "true or false", false, |v| v.to_ascii_lowercase().parse().ok()),
            name_servers: vars.get("MAIL_NAME_SERVERS").unwrap_or_default(),
            isp_database: vars.get("MAIL_ISP_DATABASE"),
        };
        vars.finish()?;
        Ok(outbound)
    }
}

impl SignInConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        Self::read(Variables::of_process())
    }

    fn read(mut vars: Variables) -> anyhow::Result<Self> {
        let meaning = "URLs of pages, comma-separated, with https (http on this machine alone) and without a fragment";
        let config = Self {
            providers: vars.get("OAUTH2_PROVIDERS").unwrap_or_default(),
            redirect_uris: vars.parsed("OAUTH2_REDIRECT_URIS", meaning, Vec::new(), |v| {
                v.split(',').map(str::trim).filter(|uri| !uri.is_empty()).map(redirect_uri).collect()
            }),
        };
        vars.finish()?;
        Ok(config)
    }
}

/// RFC 6749, 3.1.2: absolute, without a fragment. Kept as it is written, for providers compare it letter by letter.
fn redirect_uri(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let fits = url.scheme() == "https" || url.scheme() == "http" && is_local;
    (fits && url.fragment().is_none()).then(|| text.to_owned())
}

/// `SEALING_PUBLIC_KEY`: what endpoints that are sent passwords seal them with.
///
/// # Errors
/// It is missing or no key.
pub fn sealing_public_key() -> anyhow::Result<PublicKey> {
    let mut vars = Variables::of_process();
    let key = vars.parsed("SEALING_PUBLIC_KEY", SEALING_KEY, None, |v| PublicKey::parse(v).map(Some));
    if key.is_none() {
        vars.fault("SEALING_PUBLIC_KEY", SEALING_KEY);
    }
    vars.finish()?;
    key.ok_or_else(|| anyhow::anyhow!("SEALING_PUBLIC_KEY is missing"))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What a public key must be.
const SEALING_KEY: &str = "a key's id, a colon and the key in base64, as `migrate` makes it";

impl MigrationConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every missing or bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        Self::read(Variables::of_process())
    }

    fn read(mut vars: Variables) -> anyhow::Result<Self> {
        let config = Self {
            owner_database_url: owner_database_url(&mut vars),
            owner_secret_arn: vars.get("OWNER_SECRET_ARN"),
            secrets: match secrets(&mut vars, &["SECRET_ARN"], true) {
                // The endpoints' own login, and not that of the mail functions.
                SecretSource::SecretsManager(place) => {
                    SecretSource::SecretsManager(SecretPlace { mail_arn: None, providers_arn: None, ..place })
                }
                environment => environment,
            },
            mail_secret_arn: vars.get("MAIL_SECRET_ARN"),
            scheduler_secret_arn: vars.get("SCHEDULER_SECRET_ARN"),
            reader_secret_arn: vars.get("READER_SECRET_ARN"),
        };
        vars.finish()?;
        Ok(config)
    }
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names every missing or bad variable and what it must be.
    pub fn from_env() -> anyhow::Result<Self> {
        Self::read(Variables::of_process(), endpoint_secrets)
    }

    /// The same for a function that reaches no database.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn of_network() -> anyhow::Result<Self> {
        Self::read(Variables::of_process(), network_secrets)
    }

    /// Reads variables that come from elsewhere than the process's environment.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String> + 'static) -> anyhow::Result<Self> {
        Self::read(Variables::new(lookup), endpoint_secrets)
    }

    /// `secrets` finds them, and is told whether the signing key must be among them.
    fn read(mut vars: Variables, secrets: impl Fn(&mut Variables, bool) -> SecretSource) -> anyhow::Result<Self> {
        let auth = auth(&mut vars);
        let config = Self {
            public: public(&mut vars),
            secrets: secrets(&mut vars, matches!(auth.keys, KeySource::Secret)),
            concurrency: vars.parsed("AWS_LAMBDA_MAX_CONCURRENCY", "a whole number of 1 or more", 1, |v| {
                v.parse().ok().filter(|n| *n >= 1)
            }),
            rate_limit: vars.parsed(
                "RATE_LIMIT_PER_MINUTE",
                "a whole number; 0 switches the limit off",
                NonZeroU32::new(50),
                |v| v.parse().ok().map(NonZeroU32::new),
            ),
            accounts_per_user: vars.parsed("ACCOUNTS_PER_USER", "a whole number of 1 or more", 1000, |v| {
                v.parse().ok().filter(|n| *n >= 1)
            }),
            auth,
        };
        vars.finish()?;
        Ok(config)
    }
}

fn public(vars: &mut Variables) -> PublicConfig {
    PublicConfig {
        cors_origins: vars.parsed(
            "CORS_ORIGINS",
            "origins such as https://app.example.com, comma-separated, without path or wildcard",
            vec![HeaderValue::from_static("http://localhost:3000")],
            |v| {
                let origins = v.split(',').map(str::trim).filter(|o| !o.is_empty()).map(origin);
                origins.collect::<Option<Vec<_>>>().filter(|origins| !origins.is_empty())
            },
        ),
        log_level: vars.parsed("LOG_LEVEL", "error, warn, info, debug, trace or off", LevelFilter::INFO, |v| {
            match v.to_ascii_lowercase().as_str() {
                "warning" => Some(LevelFilter::WARN),
                level => level.parse().ok(),
            }
        }),
        metrics_of: vars.is_on_lambda().then(|| vars.get("AWS_LAMBDA_FUNCTION_NAME")).flatten(),
    }
}

/// An origin is scheme, host and port and nothing else. Kept as a browser writes it in `Origin` (the WHATWG's URL
/// standard): in lower case, letters of other scripts as A-labels, without the scheme's own port.
fn origin(text: &str) -> Option<HeaderValue> {
    let (_, host_and_port) = text.split_once("://")?;
    if host_and_port.contains(['/', '\\', '?', '#', '@']) || text.contains(char::is_whitespace) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let origin = url.origin().ascii_serialization();
    // A pattern, however it was written: `%2A` and full-width asterisks become one, which no browser sends.
    (matches!(url.scheme(), "http" | "https") && !origin.contains('*'))
        .then(|| HeaderValue::try_from(origin).ok())
        .flatten()
}

fn auth(vars: &mut Variables) -> AuthConfig {
    let algorithm = algorithm(vars);
    let issuer = vars.get("JWT_ISSUER");
    let ids = vars.parsed("JWT_IDS", "uuid or any", Ids::Uuids, |v| match v {
        "uuid" => Some(Ids::Uuids),
        // Without an issuer that is checked, whoever has a key for this service could choose the namespace.
        "any" => Some(Ids::of_issuer(issuer.as_deref().unwrap_or_default())),
        _ => None,
    });
    if ids != Ids::Uuids && issuer.is_none() {
        vars.fault("JWT_ISSUER", "set where JWT_IDS is any: ids are told apart by it");
    }
    let names = ClaimNames::default();
    let meaning = "a claim's name, a dot leading into an object, as in app_metadata.tenant";
    let mut name = |variable, default| vars.parsed(variable, meaning, default, ClaimName::parse);
    let claims = ClaimNames {
        tenant: name("JWT_TENANT_CLAIM", names.tenant),
        user: name("JWT_USER_CLAIM", names.user),
        role: name("JWT_ROLE_CLAIM", names.role),
    };
    AuthConfig {
        algorithm,
        keys: keys(vars, algorithm),
        issuer,
        audience: vars.get("JWT_AUDIENCE"),
        claims,
        ids,
        allow_headers: allow_headers(vars),
    }
}

fn algorithm(vars: &mut Variables) -> Algorithm {
    let meaning = "HS256, HS384, HS512, RS256, PS256, ES256 or EdDSA";
    vars.parsed("JWT_ALGORITHM", meaning, Algorithm::HS256, |v| match v {
        "HS256" => Some(Algorithm::HS256),
        "HS384" => Some(Algorithm::HS384),
        "HS512" => Some(Algorithm::HS512),
        "RS256" => Some(Algorithm::RS256),
        "PS256" => Some(Algorithm::PS256),
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    })
}

/// One source of keys, of the algorithm's kind: two would be a riddle for who removes a key from one of them.
fn keys(vars: &mut Variables, algorithm: Algorithm) -> KeySource {
    let set = |set: Option<KeySet>| set.map(|set| Some(KeySource::Fixed(Arc::new(set))));
    let pem = vars.parsed("JWT_PUBLIC_KEY", PUBLIC_KEY, None, |v| set(KeySet::from_pem(algorithm, v)));
    let meaning =
        "a JSON object with a list `keys`, in which there is one for JWT_ALGORITHM that may verify signatures";
    let inline = vars.parsed("JWT_JWKS", meaning, None, |v| set(KeySet::from_jwks(algorithm, v.as_bytes()).ok()));
    let url = key_set_url(vars).map(KeySource::Url);
    // The address stands beside it for the function that keeps the set there.
    let kept = vars.get("JWT_JWKS_SECRET_ARN").map(KeySource::SecretArn);
    let mut sources = [pem, inline, kept.or(url)].into_iter().flatten();
    let (first, second) = (sources.next(), sources.next());
    let is_secret = algorithm.family() == AlgorithmFamily::Hmac;
    match first {
        None if is_secret => KeySource::Secret,
        Some(source) if !is_secret && second.is_none() => source,
        Some(_) if is_secret => {
            vars.fault("JWT_ALGORITHM", "RS256, PS256, ES256 or EdDSA where there is a public key");
            KeySource::Secret
        }
        _ => {
            let one = "set, or JWT_JWKS, or JWT_JWKS_URL, and no two of them, for this JWT_ALGORITHM";
            vars.fault("JWT_PUBLIC_KEY", one);
            KeySource::Fixed(Arc::new(KeySet::of_secrets([])))
        }
    }
}

fn key_set_url(vars: &mut Variables) -> Option<Url> {
    let is_deployed = vars.is_deployed();
    let meaning = "an address with https:// (or in development with http:// on this machine), without a login";
    vars.parsed("JWT_JWKS_URL", meaning, None, |v| {
        let url = Url::parse(v).ok()?;
        let is_loopback = matches!(url.host_str()?, "localhost" | "127.0.0.1" | "[::1]");
        let is_plain = url.scheme() == "http" && is_loopback && !is_deployed;
        let has_login = !url.username().is_empty() || url.password().is_some();
        ((url.scheme() == "https" || is_plain) && !has_login).then_some(Some(url))
    })
}

/// What a queue's URL must be.
const QUEUE_URL: &str = "the URL of a queue, such as https://sqs.us-east-1.amazonaws.com/123456789012/name";

/// The queue for synchronisation.
const SYNC_QUEUE: &str = "SYNC_QUEUE_URL";
/// The queue for messages to be sent.
const OUTBOX_QUEUE: &str = "OUTBOX_QUEUE_URL";

fn queue_url_of(vars: &mut Variables, name: &'static str) -> Option<String> {
    vars.parsed(name, QUEUE_URL, None, |v| queue_url(v).map(Some))
}

/// How many messages may be put into the outbox in any hour; `None` (written `0`) for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendLimits {
    /// `SEND_PER_HOUR`: of an account.
    pub account: Option<NonZeroU32>,
    /// `USER_SEND_PER_HOUR`: of a user, with all accounts.
    pub user: Option<NonZeroU32>,
}

/// The variables of [`SendLimits`].
///
/// # Errors
/// One is no whole number.
pub fn send_limits() -> anyhow::Result<SendLimits> {
    let mut vars = Variables::of_process();
    let mut limit = |name, default| {
        let rule = "a whole number; 0 switches the limit off";
        vars.parsed(name, rule, NonZeroU32::new(default), |v| v.parse().ok().map(NonZeroU32::new))
    };
    let limits = SendLimits { account: limit("SEND_PER_HOUR", 200), user: limit("USER_SEND_PER_HOUR", 1000) };
    vars.finish()?;
    Ok(limits)
}

/// The emulator's queues are reached without TLS.
fn queue_url(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let has_name = url.path().trim_matches('/').contains('/');
    (matches!(url.scheme(), "http" | "https") && has_name).then(|| text.to_owned())
}

/// What a database's URL must be.
const DATABASE_URL: &str = "postgres://user:password@host:port/database (or set SECRET_ARN)";

/// Of an endpoint, whether it only reads or not.
fn endpoint_secrets(vars: &mut Variables, signing_key_is_required: bool) -> SecretSource {
    secrets(vars, &["READER_SECRET_ARN", "SECRET_ARN"], signing_key_is_required)
}

/// Of a function that reaches no database: neither its address nor its password is looked at, whoever set one.
fn network_secrets(vars: &mut Variables, signing_key_is_required: bool) -> SecretSource {
    let transport = transport(vars);
    if let Some(arn) = ["NETWORK_SECRET_ARN", "SECRET_ARN"].iter().find_map(|name| vars.get(name)) {
        return SecretSource::Network(NetworkPlace { arn, transport });
    }
    let (redis_url, signing_keys) = of_callers(vars, signing_key_is_required);
    from_environment(vars, Secrets::of_callers(redis_url, signing_keys, transport))
}

/// From the secret that the first of `names` says which is there, or from the environment.
fn secrets(vars: &mut Variables, names: &[&'static str], signing_key_is_required: bool) -> SecretSource {
    let transport = transport(vars);
    if let Some(arn) = names.iter().find_map(|name| vars.get(name)) {
        return SecretSource::SecretsManager(SecretPlace {
            arn,
            mail_arn: vars.get("MAIL_SECRET_ARN"),
            providers_arn: vars.get("PROVIDERS_SECRET_ARN"),
            database_url: vars.get("DATABASE_URL").map(SecretText::new),
            transport,
        });
    }
    let database_url = required(vars, "DATABASE_URL", DATABASE_URL);
    let (redis_url, signing_keys) = of_callers(vars, signing_key_is_required);
    let secrets = Secrets::new(&database_url, redis_url, signing_keys, transport).map(|secrets| Secrets {
        sealing_private_keys: vars
            .parsed("SEALING_PRIVATE_KEYS", SEALING_PRIVATE_KEYS, None, |v| PrivateKeys::parse(v).map(Some))
            .map(Arc::new),
        client_secrets: vars.parsed(
            "OAUTH2_CLIENT_SECRETS",
            CLIENT_SECRETS,
            ClientSecrets::default(),
            ClientSecrets::parse,
        ),
        ..secrets
    });
    from_environment(vars, secrets)
}

/// The address of Redis, and the keys that sign tokens.
fn of_callers(vars: &mut Variables, signing_key_is_required: bool) -> (SecretText, [Option<SecretText>; 2]) {
    let redis_url = required(vars, "REDIS_URL", "redis://host:port or rediss://host:port (or set SECRET_ARN)");
    let signing_keys = ["JWT_SECRET_KEY", "JWT_SECRET_KEY_PREVIOUS"].map(|name| vars.whole(name).map(SecretText::new));
    if signing_keys[0].is_none() && signing_key_is_required {
        vars.fault("JWT_SECRET_KEY", "the key that signs tokens, at least 32 bytes (or set SECRET_ARN)");
    }
    (redis_url, signing_keys)
}

fn from_environment(vars: &mut Variables, secrets: Result<Secrets, Vec<Fault>>) -> SecretSource {
    let secrets = secrets.unwrap_or_else(|faults| {
        faults.into_iter().for_each(|(name, meaning)| vars.fault(name, meaning));
        Secrets::default()
    });
    SecretSource::Environment(Box::new(secrets))
}

fn transport(vars: &Variables) -> Transport {
    if vars.is_deployed() { Transport::Tls } else { Transport::Any }
}

fn owner_database_url(vars: &mut Variables) -> SecretText {
    let url = required(vars, "OWNER_DATABASE_URL", "postgres://user:password@host:port/database");
    if url.is_unresolved() {
        vars.fault("OWNER_DATABASE_URL", RESOLVED);
    } else if vars.is_deployed() && DatabaseUrl::parse(url.reveal()).is_some_and(|url| !url.is_tls()) {
        vars.fault("OWNER_DATABASE_URL", "an address with sslmode=verify-full (or require) in a deployed stack");
    }
    url
}

/// Header authentication proves nothing, so a deployed stack refuses it.
fn allow_headers(vars: &mut Variables) -> bool {
    let allowed = vars.parsed("ALLOW_HEADER_AUTH", "true or false", false, |v| v.to_ascii_lowercase().parse().ok());
    if allowed && vars.is_deployed() {
        vars.fault("ALLOW_HEADER_AUTH", "unset or false in a deployed stack: anybody could claim to be anybody");
    }
    allowed
}

/// A value that is a secret; it is wiped where it was trimmed.
fn required(vars: &mut Variables, name: &'static str, meaning: &str) -> SecretText {
    let value = vars.whole(name).map(SecretText::new);
    if value.is_none() {
        vars.fault(name, meaning);
    }
    SecretText::new(value.unwrap_or_default().reveal().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[(&str, &str)] = &[
        ("DATABASE_URL", "postgres://app:pw@localhost/db"),
        ("REDIS_URL", "redis://localhost"),
        ("JWT_SECRET_KEY", "0123456789abcdef0123456789abcdef"),
    ];

    fn read(overrides: &[(&str, &str)]) -> Result<Config, String> {
        let vars: std::collections::HashMap<String, String> =
            GOOD.iter().chain(overrides).map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::from_variables(move |name| vars.get(name).cloned()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = read(&[]).unwrap();
        assert_eq!(config.public.cors_origins, ["http://localhost:3000"]);
        assert_eq!(config.public.log_level, LevelFilter::INFO);
        assert_eq!(config.rate_limit, NonZeroU32::new(50));
        assert_eq!(config.auth.algorithm, Algorithm::HS256);
        assert!(matches!(config.auth.keys, KeySource::Secret));
        assert_eq!((config.auth.claims, config.auth.ids), (ClaimNames::default(), Ids::Uuids));
        assert_eq!(config.concurrency, 1);
        assert_eq!(config.accounts_per_user, 1000);
        assert!(!config.auth.allow_headers);
    }

    #[test]
    fn every_bad_variable_is_named_at_once_and_no_value_is_repeated() {
        let error = read(&[
            ("DATABASE_URL", "mysql://secret-value"),
            ("REDIS_URL", "http://secret-value"),
            ("JWT_SECRET_KEY", "secret-value-too-short"),
            ("JWT_ALGORITHM", "none"),
            ("RATE_LIMIT_PER_MINUTE", "-1"),
            ("ACCOUNTS_PER_USER", "0"),
            ("CORS_ORIGINS", "*"),
            ("LOG_LEVEL", "loud"),
            ("ALLOW_HEADER_AUTH", "perhaps"),
            ("AWS_LAMBDA_MAX_CONCURRENCY", "0"),
        ])
        .unwrap_err();
        for name in [
            "DATABASE_URL",
            "REDIS_URL",
            "JWT_SECRET_KEY",
            "JWT_ALGORITHM",
            "RATE_LIMIT_PER_MINUTE",
            "ACCOUNTS_PER_USER",
            "CORS_ORIGINS",
            "LOG_LEVEL",
            "ALLOW_HEADER_AUTH",
            "AWS_LAMBDA_MAX_CONCURRENCY",
        ] {
            assert!(error.contains(name), "{name} is missing in: {error}");
        }
        assert!(!error.contains("secret-value"), "{error}");
    }

    #[test]
    fn a_missing_secret_says_what_to_set() {
        let error = read(&[("DATABASE_URL", " ")]).unwrap_err();
        assert!(error.contains("DATABASE_URL must be postgres://") && error.contains("SECRET_ARN"), "{error}");
    }

    #[test]
    fn a_function_without_a_database_asks_for_none_and_looks_at_none() {
        let read = |set: &[(&str, &str)]| {
            let vars: std::collections::HashMap<String, String> =
                set.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            let vars = Variables::new(move |name| vars.get(name).cloned());
            Config::read(vars, network_secrets).map(|config| config.secrets).map_err(|e| e.to_string())
        };
        let [database, redis, key] = GOOD else { panic!("three") };
        for set in [&[*redis, *key][..], &[("DATABASE_URL", "x"), *redis, *key], &[*database, *redis, *key]] {
            let SecretSource::Environment(secrets) = read(set).unwrap() else { panic!("{set:?}") };
            assert_eq!((secrets.redis_url.reveal(), secrets.database.user()), (redis.1, None));
        }
        let error = read(&[]).unwrap_err();
        assert!(error.contains("REDIS_URL") && error.contains("JWT_SECRET_KEY"), "{error}");
        assert!(!error.contains("DATABASE_URL"), "{error}");
        for (set, wanted) in [
            (&[("NETWORK_SECRET_ARN", "network"), ("SECRET_ARN", "service")][..], "network"),
            (&[("SECRET_ARN", "service"), ("READER_SECRET_ARN", "reader"), ("MAIL_SECRET_ARN", "mail")], "service"),
        ] {
            assert!(matches!(read(set).unwrap(), SecretSource::Network(place) if place.arn == wanted), "{set:?}");
        }
        let deployed = [*redis, *key, ("AWS_LAMBDA_LOG_GROUP_NAME", "x")];
        assert!(read(&deployed).unwrap_err().contains("REDIS_URL must be an address with rediss://"));
    }

    #[test]
    fn zero_switches_the_limit_off() {
        assert_eq!(read(&[("RATE_LIMIT_PER_MINUTE", "0")]).unwrap().rate_limit, None);
    }

    #[test]
    fn header_authentication_is_refused_in_a_deployed_stack() {
        let allowed = ("ALLOW_HEADER_AUTH", "true");
        assert!(read(&[allowed]).unwrap().auth.allow_headers);
        for reserved in ["AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME"] {
            assert!(read(&[allowed, (reserved, "x")]).unwrap_err().contains("ALLOW_HEADER_AUTH"));
            assert!(read(&[allowed, (reserved, "x"), ("AWS_SAM_LOCAL", "true")]).unwrap().auth.allow_headers);
            assert!(!read(&[(reserved, "x")]).unwrap_err().contains("ALLOW_HEADER_AUTH"));
        }
    }

    #[test]
    fn origins_are_exact() {
        let config = read(&[("CORS_ORIGINS", "https://a.example.com, http://localhost:5173")]).unwrap();
        assert_eq!(config.public.cors_origins, ["https://a.example.com", "http://localhost:5173"]);
        for bad in [
            "https://a.example.com/",
            "https://a.example.com?",
            "https://user@a.example.com",
            "https:a.example.com",
            "a.example.com",
            "https://*.example.com",
            "https://%2A.example.com",
            "https://＊.example.com",
            "https://a.exa\tmple.com",
            "ftp://a.example.com",
            "http://localhost:99999",
            "http://",
            "null",
            "*",
            ",",
            " , ,",
            "https://a.example.com,http://localhost:99999",
        ] {
            assert!(read(&[("CORS_ORIGINS", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_queue_is_a_url_or_none_at_all() {
        let read = |url: &'static str| {
            let vars = Variables::new(move |name| (name == "SYNC_QUEUE_URL").then(|| url.to_owned()));
            QueueConfig::read(vars).map(|config| config.sync_queue_url).map_err(|error| error.to_string())
        };
        for good in ["https://sqs.us-east-1.amazonaws.com/123456789012/sync", "http://127.0.0.1:4566/123456789012/sync"]
        {
            assert_eq!(read(good).unwrap().as_deref(), Some(good));
        }
        assert_eq!(read("").unwrap(), None);
        for bad in ["sync", "arn:aws:sqs:us-east-1:123456789012:sync", "https://sqs.us-east-1.amazonaws.com/sync"] {
            assert!(read(bad).unwrap_err().contains("SYNC_QUEUE_URL"), "{bad}");
        }
    }

    #[test]
    fn redirect_uris_are_pages_with_https_or_on_this_machine() {
        let read = |uris: &'static str| {
            let vars = Variables::new(move |name| (name == "OAUTH2_REDIRECT_URIS").then(|| uris.to_owned()));
            SignInConfig::read(vars).map(|config| config.redirect_uris).map_err(|error| error.to_string())
        };
        let good = "https://app.example.com/Connected?a=b, http://localhost:3000/connected";
        assert_eq!(read(good).unwrap(), ["https://app.example.com/Connected?a=b", "http://localhost:3000/connected"]);
        assert_eq!(read("").unwrap(), Vec::<String>::new());
        for bad in ["app.example.com", "http://app.example.com/", "https://app.example.com/#x", "javascript:alert(1)"] {
            assert!(read(bad).unwrap_err().contains("OAUTH2_REDIRECT_URIS"), "{bad}");
        }
    }

    #[test]
    fn origins_are_kept_as_browsers_write_them() {
        for (given, sent) in [
            ("HTTPS://App.Example.COM", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com:80", "http://app.example.com"),
            ("http://app.example.com:443", "http://app.example.com:443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://[0:0::1]:3000", "http://[::1]:3000"),
        ] {
            assert_eq!(read(&[("CORS_ORIGINS", given)]).unwrap().public.cors_origins, [sent], "{given}");
        }
    }

    #[test]
    fn a_signing_key_is_taken_whole_or_refused() {
        for key in ["0123456789abcdef0123456789abcdef\n", " 0123456789abcdef0123456789abcdef"] {
            let error = read(&[("JWT_SECRET_KEY", key)]).unwrap_err();
            assert!(error.contains("JWT_SECRET_KEY must be without white space"), "{error}");
        }
    }

    const ED25519: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";
    const ED25519_SET: &str =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    const SET_URL: &str = "https://issuer.example.com/.well-known/jwks.json";

    #[test]
    fn a_public_key_needs_no_secret_and_comes_from_one_place() {
        let eddsa = ("JWT_ALGORITHM", "EdDSA");
        for source in [("JWT_PUBLIC_KEY", ED25519), ("JWT_JWKS", ED25519_SET)] {
            let config = read(&[eddsa, source, ("JWT_SECRET_KEY", "")]).unwrap();
            assert!(matches!(config.auth.keys, KeySource::Fixed(_)), "{source:?}");
        }
        let kept = ("JWT_JWKS_SECRET_ARN", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:keys");
        let keys = |set: &[(&str, &str)]| read(&[&[eddsa], set].concat()).unwrap().auth.keys;
        assert!(matches!(keys(&[("JWT_JWKS_URL", SET_URL)]), KeySource::Url(url) if url.as_str() == SET_URL));
        assert!(matches!(keys(&[kept]), KeySource::SecretArn(_)));
        assert!(matches!(keys(&[kept, ("JWT_JWKS_URL", SET_URL)]), KeySource::SecretArn(_)));
        for (bad, variable) in [
            (vec![eddsa], "JWT_PUBLIC_KEY"),
            (vec![eddsa, ("JWT_PUBLIC_KEY", ED25519), ("JWT_JWKS_URL", SET_URL)], "JWT_PUBLIC_KEY"),
            (vec![eddsa, ("JWT_JWKS", ED25519_SET), kept], "JWT_PUBLIC_KEY"),
            (vec![("JWT_ALGORITHM", "RS256"), ("JWT_PUBLIC_KEY", ED25519)], "JWT_PUBLIC_KEY"),
            (vec![("JWT_ALGORITHM", "ES256"), ("JWT_JWKS", ED25519_SET)], "JWT_JWKS"),
            (vec![("JWT_PUBLIC_KEY", ED25519)], "JWT_PUBLIC_KEY"),
            (vec![("JWT_JWKS_URL", SET_URL)], "JWT_ALGORITHM"),
            (vec![("JWT_ALGORITHM", "ES384"), ("JWT_JWKS_URL", SET_URL)], "JWT_ALGORITHM"),
            (vec![("JWT_SECRET_KEY", "")], "JWT_SECRET_KEY"),
            (vec![("JWT_SECRET_KEY_PREVIOUS", "short")], "JWT_SECRET_KEY_PREVIOUS"),
        ] {
            let error = read(&bad).unwrap_err();
            assert!(error.contains(&format!("{variable} must be ")), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_set_of_keys_is_fetched_over_tls_but_from_this_machine() {
        let keys = |url: &str| read(&[("JWT_ALGORITHM", "EdDSA"), ("JWT_JWKS_URL", url)]);
        for good in [SET_URL, "https://10.0.0.1:8443/keys?tenant=1", "http://localhost:8080/keys", "http://[::1]/keys"]
        {
            assert!(keys(good).is_ok(), "{good}");
        }
        for bad in [
            "http://issuer.example.com/keys",
            "https://user:pw@issuer.example.com/",
            "file:///keys",
            "keys",
            "https://",
        ] {
            assert!(keys(bad).unwrap_err().contains("JWT_JWKS_URL"), "{bad}");
        }
        let deployed =
            [("AWS_LAMBDA_LOG_GROUP_NAME", "x"), ("JWT_ALGORITHM", "EdDSA"), ("JWT_JWKS_URL", "http://localhost/keys")];
        assert!(read(&deployed).unwrap_err().contains("JWT_JWKS_URL"));
    }

    #[test]
    fn other_claims_and_ids_are_configured() {
        let issuer = ("JWT_ISSUER", "https://issuer.example.com/");
        let auth = read(&[issuer, ("JWT_IDS", "any"), ("JWT_TENANT_CLAIM", "app_metadata.tenant")]).unwrap().auth;
        assert_eq!(auth.ids, Ids::of_issuer("https://issuer.example.com/"));
        assert_eq!(Some(auth.claims.tenant), ClaimName::parse("app_metadata.tenant"));
        assert_eq!(auth.claims.user, ClaimNames::default().user);
        for (bad, variable) in [
            (vec![("JWT_IDS", "any")], "JWT_ISSUER"),
            (vec![issuer, ("JWT_IDS", "some")], "JWT_IDS"),
            (vec![("JWT_USER_CLAIM", "a..b")], "JWT_USER_CLAIM"),
        ] {
            assert!(read(&bad).unwrap_err().contains(&format!("{variable} must be ")), "{bad:?}");
        }
    }

    #[test]
    fn a_reference_that_nobody_resolved_stops_the_start() {
        let reference = "{{resolve:secretsmanager:service:SecretString:JWT_SECRET_KEY}}";
        let error = read(&[("JWT_SECRET_KEY", reference)]).unwrap_err();
        assert!(error.contains("JWT_SECRET_KEY must be the value itself"), "{error}");
    }

    #[test]
    fn a_deployed_stack_reaches_both_servers_over_tls_alone() {
        let tls = [("DATABASE_URL", "postgres://app:pw@h/db?sslmode=require"), ("REDIS_URL", "rediss://h")];
        for reserved in ["AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME"] {
            let error = read(&[(reserved, "x")]).unwrap_err();
            assert!(error.contains("DATABASE_URL must be") && error.contains("REDIS_URL must be"), "{error}");
            assert!(read(&[tls[0], tls[1], (reserved, "x")]).is_ok());
            assert!(read(&[(reserved, "x"), ("AWS_SAM_LOCAL", "true")]).is_ok());
        }
    }

    #[test]
    fn the_migration_knows_its_address_and_reaches_it_over_tls_alone() {
        let read = |overrides: &[(&str, &str)]| {
            let vars: std::collections::HashMap<String, String> =
                GOOD.iter().chain(overrides).map(|(k, v)| (k.to_string(), v.to_string())).collect();
            MigrationConfig::read(Variables::new(move |name| vars.get(name).cloned())).map_err(|e| e.to_string())
        };
        let plain = ("OWNER_DATABASE_URL", "postgres://owner@h/db");
        assert!(read(&[plain]).is_ok());
        for bad in [
            vec![("OWNER_DATABASE_URL", "postgres://owner:{{resolve:ssm:x}}@h/db")],
            vec![plain, ("AWS_LAMBDA_LOG_GROUP_NAME", "x")],
        ] {
            assert!(read(&bad).unwrap_err().contains("OWNER_DATABASE_URL must be"), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let printed = format!("{:?}", read(&[]).unwrap());
        assert!(!printed.contains("pw") && !printed.contains("0123456789abcdef"), "{printed}");
    }

    #[test]
    fn the_schedule_needs_a_login_two_queues_a_bucket_and_nothing_else() {
        const URL: (&str, &str) = ("DATABASE_URL", "postgres://email_service_scheduler:pw@localhost/db");
        const QUEUE: (&str, &str) = ("SYNC_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/sync");
        const OUTBOX: (&str, &str) = ("OUTBOX_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/outbox");
        const BUCKET: (&str, &str) = ("MAIL_BUCKET", "mail");
        const DEPLOYED: (&str, &str) = ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand");
        let read = |pairs: &[(&str, &str)]| {
            let vars: std::collections::HashMap<String, String> =
                pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let vars = Variables::new(move |name| vars.get(name).cloned());
            ScheduleConfig::read(vars).map_err(|error| error.to_string())
        };
        let config = read(&[URL, QUEUE, OUTBOX, BUCKET]).unwrap();
        assert_eq!((config.sync_queue_url.as_str(), config.mail_bucket.as_str()), (QUEUE.1, BUCKET.1));
        assert_eq!(config.outbox_queue_url, OUTBOX.1);
        assert!(matches!(config.secrets, SecretSource::Environment(_)));
        assert_eq!(config.retention, None);
        for (days, seconds) in [("0", None), ("1", Some(86_400)), ("4294967295", Some(371_085_174_288_000))] {
            let config = read(&[URL, QUEUE, OUTBOX, BUCKET, ("RETENTION_DAYS", days)]).unwrap();
            assert_eq!(config.retention, seconds.map(Duration::from_secs));
        }
        for bad in ["-1", "1.5", "4294967296", "x"] {
            let error = read(&[URL, QUEUE, OUTBOX, BUCKET, ("RETENTION_DAYS", bad)]).unwrap_err();
            assert!(error.contains("RETENTION_DAYS must be a whole number of days"), "{error}");
        }
        let config = read(&[URL, QUEUE, OUTBOX, BUCKET, ("SCHEDULER_SECRET_ARN", "arn")]).unwrap();
        assert!(matches!(config.secrets, SecretSource::Login(place) if place.arn == "arn"));
        let error = read(&[]).unwrap_err();
        for name in ["DATABASE_URL", "SYNC_QUEUE_URL", "OUTBOX_QUEUE_URL", "MAIL_BUCKET"] {
            assert!(error.contains(name), "{error}");
        }
        assert!(read(&[URL, QUEUE, DEPLOYED]).unwrap_err().contains("sslmode=verify-full"));
        let reference = ("DATABASE_URL", "postgres://x:{{resolve:secretsmanager:key}}@localhost/db");
        assert!(read(&[reference, QUEUE]).unwrap_err().contains("nobody resolved"));
    }
}

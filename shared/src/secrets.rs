//! The three secret values, and the Secrets Manager secret that holds them in production.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use aws_config::BehaviorVersion;
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell, RwLock};
use zeroize::Zeroizing;

use crate::db::url::DatabaseUrl;

/// The shortest signing key that is accepted, in bytes: RFC 7518, 3.2 asks of an HMAC key at least the size of
/// the hash, which is 32 bytes for HS256.
pub const MIN_SIGNING_KEY_BYTES: usize = 32;

/// How long after a refused password was looked into it is not looked into again: with a password that nobody knows,
/// each request would ask Secrets Manager, which charges for it and throttles us.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3);

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
    /// `SECRET_ARN`: one Secrets Manager secret, a JSON object with these three keys.
    SecretsManager {
        /// The secret's ARN or name.
        arn: String,
        /// `DATABASE_URL`, for a secret that has none; without a password, which is the secret's.
        database_url: Option<SecretText>,
    },
}

/// The database URL, the Redis URL and the key that signs tokens, each checked for its form.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// `DATABASE_URL`, parsed.
    pub database: DatabaseUrl,
    /// `REDIS_URL`.
    pub redis_url: SecretText,
    /// `JWT_SECRET_KEY`.
    pub jwt_secret_key: SecretText,
}

impl Secrets {
    /// Checks the three values.
    ///
    /// # Errors
    /// The names of the bad ones, each with what it must be.
    pub fn new(
        database_url: &SecretText,
        redis_url: SecretText,
        jwt_secret_key: SecretText,
    ) -> Result<Self, Vec<(&'static str, &'static str)>> {
        let mut faults = Vec::new();
        let database = DatabaseUrl::parse(database_url.reveal());
        if database.is_none() {
            faults.push((
                "DATABASE_URL",
                "postgres://user:password@host:port/database, with sslmode disable, prefer, require or verify-full",
            ));
        }
        if redis::Client::open(redis_url.reveal()).is_err() {
            faults.push(("REDIS_URL", "redis://host:port or rediss://host:port"));
        }
        if jwt_secret_key.reveal().len() < MIN_SIGNING_KEY_BYTES {
            faults.push(("JWT_SECRET_KEY", "at least 32 bytes long (try: openssl rand -base64 48)"));
        }
        match database {
            Some(database) if faults.is_empty() => Ok(Self { database, redis_url, jwt_secret_key }),
            _ => Err(faults),
        }
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
            SecretSource::SecretsManager { arn, database_url } => {
                if let Some(secrets) = &*self.cached.read().await {
                    return Ok(secrets.clone());
                }
                self.fetch(arn, database_url.as_ref()).await
            }
        }
    }

    /// Reads the secrets again, after PostgreSQL refused those of `tried_at`: they were probably rotated. Whether there
    /// are others to try now: not where they cannot change (environment variables), nor where it was done shortly before.
    ///
    /// # Errors
    /// As [`SecretStore::get`].
    pub async fn refresh(&self, tried_at: Instant) -> anyhow::Result<bool> {
        let SecretSource::SecretsManager { arn, database_url } = &self.source else { return Ok(false) };
        let mut refreshed_at = self.refreshed_at.lock().await;
        if let Some(last) = *refreshed_at
            && last.elapsed() < REFRESH_INTERVAL
        {
            return Ok(tried_at < last);
        }
        tracing::warn!("PostgreSQL refused the login; reading the secret again");
        let fetched = self.fetch(arn, database_url.as_ref()).await;
        *refreshed_at = Some(Instant::now());
        fetched.map(|_| true)
    }

    async fn fetch(&self, arn: &str, database_url: Option<&SecretText>) -> anyhow::Result<Secrets> {
        let text = self.manager.read(arn).await?;
        let secrets = parse(text.reveal(), database_url).with_context(|| format!("the secret {arn} is not usable"))?;
        *self.cached.write().await = Some(secrets.clone());
        Ok(secrets)
    }
}

/// Secrets Manager, connected at the first use.
#[derive(Debug, Default)]
pub struct SecretsManager(OnceCell<aws_sdk_secretsmanager::Client>);

impl SecretsManager {
    /// The secret's text.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read(&self, arn: &str) -> anyhow::Result<SecretText> {
        let connect = || async {
            let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
            aws_sdk_secretsmanager::Client::new(&aws)
        };
        let client = self.0.get_or_init(connect).await;
        let answer = client.get_secret_value().secret_id(arn).send().await.with_context(|| {
            format!("cannot read the secret {arn}: check the ARN, the function's role and its way to Secrets Manager")
        })?;
        Ok(SecretText::new(answer.secret_string.unwrap_or_default()))
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
    /// Fills in what a database's address lacks.
    pub fn fill_in(&self, url: &mut DatabaseUrl) {
        url.fill_in(self.username.as_deref(), self.password.as_ref().map(SecretText::reveal));
    }

    /// Reads the two from a secret's JSON, whatever else is in it.
    ///
    /// # Errors
    /// It is no JSON object. The text is not quoted.
    pub fn parse(json: &str) -> anyhow::Result<Self> {
        serde_json::from_str(json)
            .map_err(|_| anyhow!("it must be a JSON object with the strings username and password"))
    }
}

/// Rotation and RDS Proxy know `username` and `password` and no URL. So the secret's URL, or that of the environment
/// where the secret has none, may come without a password, and gets the secret's.
fn parse(json: &str, database_url: Option<&SecretText>) -> anyhow::Result<Secrets> {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(rename = "DATABASE_URL")]
        database_url: Option<SecretText>,
        #[serde(rename = "REDIS_URL")]
        redis_url: SecretText,
        #[serde(rename = "JWT_SECRET_KEY")]
        jwt_secret_key: SecretText,
        #[serde(flatten)]
        login: Login,
    }
    // The parser's own message could quote the secret.
    let stored: Stored = serde_json::from_str(json)
        .map_err(|_| anyhow!("it must be a JSON object with the strings DATABASE_URL, REDIS_URL and JWT_SECRET_KEY"))?;
    let Some(database_url) = stored.database_url.as_ref().or(database_url) else {
        bail!("it must have DATABASE_URL, or the variable DATABASE_URL must be set beside SECRET_ARN");
    };
    let mut secrets = Secrets::new(database_url, stored.redis_url, stored.jwt_secret_key).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(|(name, meaning)| format!("{name} must be {meaning}")).collect();
        anyhow!(faults.join("; "))
    })?;
    stored.login.fill_in(&mut secrets.database);
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_secret_is_described_but_not_quoted() {
        for json in [
            "hunter2",
            r#"{"DATABASE_URL":"hunter2"}"#,
            r#"{"DATABASE_URL":"hunter2","REDIS_URL":"hunter2","JWT_SECRET_KEY":"hunter2"}"#,
        ] {
            let error = format!("{:#}", parse(json, None).unwrap_err());
            assert!(error.contains("DATABASE_URL") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_url_without_a_password_gets_the_one_that_is_rotated() {
        let key = "0123456789abcdef0123456789abcdef";
        let json = format!(
            r#"{{"REDIS_URL":"redis://r","JWT_SECRET_KEY":"{key}","username":"app","password":"p@ss/word","port":5432}}"#
        );
        assert!(parse(&json, None).is_err());
        let from_environment = SecretText::new("postgres://app@h/d".to_owned());
        assert_eq!(parse(&json, Some(&from_environment)).unwrap().database.password(), Some(b"p@ss/word".as_slice()));
        let whole = json.replacen('{', r#"{"DATABASE_URL":"postgres://app:own@h/d","#, 1);
        assert_eq!(parse(&whole, Some(&from_environment)).unwrap().database.password(), Some(b"own".as_slice()));
    }
}

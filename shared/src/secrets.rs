//! The three secret values, and the Secrets Manager secret that holds them in production.

use anyhow::{Context, bail};
use aws_config::BehaviorVersion;
use serde::Deserialize;
use tokio::sync::{OnceCell, RwLock};

use crate::config::{MIN_SIGNING_KEY_BYTES, SecretSource, SecretText};
use crate::db::DatabaseUrl;

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

impl Default for SecretText {
    fn default() -> Self {
        Self::new(String::new())
    }
}

impl Secrets {
    /// Checks the three values.
    ///
    /// # Errors
    /// The names of the bad ones, each with what it must be.
    pub fn new(
        database_url: String,
        redis_url: String,
        jwt_secret_key: String,
    ) -> Result<Self, Vec<(&'static str, &'static str)>> {
        let mut faults = Vec::new();
        let database = DatabaseUrl::parse(&database_url);
        if database.is_none() {
            faults.push((
                "DATABASE_URL",
                "postgres://user:password@host:port/database, with sslmode disable, prefer, require or verify-full",
            ));
        }
        if redis::Client::open(redis_url.as_str()).is_err() {
            faults.push(("REDIS_URL", "redis://host:port or rediss://host:port"));
        }
        if jwt_secret_key.len() < MIN_SIGNING_KEY_BYTES {
            faults.push(("JWT_SECRET_KEY", "at least 32 bytes long (try: openssl rand -base64 48)"));
        }
        match database {
            Some(database) if faults.is_empty() => Ok(Self {
                database,
                redis_url: SecretText::new(redis_url),
                jwt_secret_key: SecretText::new(jwt_secret_key),
            }),
            _ => Err(faults),
        }
    }
}

/// Hands the secrets out, reading them from Secrets Manager once, and again when asked to.
#[derive(Debug)]
pub struct SecretStore {
    source: SecretSource,
    cached: RwLock<Option<Secrets>>,
    client: OnceCell<aws_sdk_secretsmanager::Client>,
}

impl SecretStore {
    /// A store over where the configuration says the secrets are.
    pub fn new(source: SecretSource) -> Self {
        Self { source, cached: RwLock::new(None), client: OnceCell::new() }
    }

    /// The secrets; the first call may ask Secrets Manager.
    ///
    /// # Errors
    /// The secret cannot be read, or holds no usable values.
    pub async fn get(&self) -> anyhow::Result<Secrets> {
        match &self.source {
            SecretSource::Environment(secrets) => Ok(Secrets::clone(secrets)),
            SecretSource::SecretsManager { arn } => {
                if let Some(secrets) = &*self.cached.read().await {
                    return Ok(secrets.clone());
                }
                self.fetch(arn).await
            }
        }
    }

    /// The secrets as they are now, after PostgreSQL refused the ones in hand: they were probably rotated.
    /// `None` where they cannot change (environment variables).
    ///
    /// # Errors
    /// As [`SecretStore::get`].
    pub async fn refresh(&self) -> anyhow::Result<Option<Secrets>> {
        match &self.source {
            SecretSource::Environment(_) => Ok(None),
            SecretSource::SecretsManager { arn } => self.fetch(arn).await.map(Some),
        }
    }

    async fn fetch(&self, arn: &str) -> anyhow::Result<Secrets> {
        let client = self
            .client
            .get_or_init(|| async {
                let aws = aws_config::load_defaults(BehaviorVersion::latest()).await;
                aws_sdk_secretsmanager::Client::new(&aws)
            })
            .await;
        let answer = client.get_secret_value().secret_id(arn).send().await.with_context(|| {
            format!(
                "cannot read the secret {arn}: check SECRET_ARN, the function's role and its way to Secrets Manager"
            )
        })?;
        let text = SecretText::new(answer.secret_string.unwrap_or_default());
        let secrets = parse(text.reveal()).with_context(|| format!("the secret {arn} is not usable"))?;
        *self.cached.write().await = Some(secrets.clone());
        Ok(secrets)
    }
}

fn parse(json: &str) -> anyhow::Result<Secrets> {
    #[derive(Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    struct Stored {
        database_url: String,
        redis_url: String,
        jwt_secret_key: String,
    }
    // The parser's own message could quote the secret.
    let Ok(stored) = serde_json::from_str::<Stored>(json) else {
        bail!("it must be a JSON object with the strings DATABASE_URL, REDIS_URL and JWT_SECRET_KEY");
    };
    Secrets::new(stored.database_url, stored.redis_url, stored.jwt_secret_key).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(|(name, meaning)| format!("{name} must be {meaning}")).collect();
        anyhow::anyhow!(faults.join("; "))
    })
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
            let error = format!("{:#}", parse(json).unwrap_err());
            assert!(error.contains("DATABASE_URL") && !error.contains("hunter2"), "{error}");
        }
    }
}

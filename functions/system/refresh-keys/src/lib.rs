//! Each minute: fetches the set of keys that the issuer publishes, and keeps it in a secret when it is another than before.
//! The functions that check tokens have no way to the internet, and a way to Secrets Manager.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use shared::config::KeySetConfig;
use shared::key_set::{KeySet, MAX_SET_BYTES};
use shared::secrets::{SecretText, SecretsManager};
use shared::tls;
use shared::work::WorkError;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long the issuer has to answer. The next turn comes in a minute.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What a turn needs.
pub struct Keeper {
    config: KeySetConfig,
    manager: SecretsManager,
    tls: Arc<rustls::ClientConfig>,
    /// The set that the secret holds, once that is known: asking for it each minute would cost more than all else.
    kept: Mutex<Option<String>>,
}

impl Keeper {
    /// Reads the configuration.
    ///
    /// # Errors
    /// It is bad, or there are no certificate authorities to trust.
    pub fn from_env() -> anyhow::Result<Self> {
        let config = KeySetConfig::from_env()?;
        let tls = tls::client_config()?;
        Ok(Self { config, manager: SecretsManager::default(), tls, kept: Mutex::default() })
    }

    /// One turn.
    ///
    /// # Errors
    /// The issuer does not answer, or with what is of no use; the secret cannot be read or written. The secret stays then.
    pub async fn refresh(&self) -> Result<Value, WorkError> {
        let Some((url, arn)) = &self.config.way else {
            return Ok(json!({"status": "there is nothing to keep"}));
        };
        let answer = timeout(ANSWER_LIMIT, https::get(url, MAX_SET_BYTES, &self.tls)).await;
        let json = answer.context("no answer in time").flatten().context("JWT_JWKS_URL")?;
        // What the functions could not use does not take the place of what they can.
        KeySet::from_jwks(self.config.algorithm, &json).context("JWT_JWKS_URL")?;
        let fetched = String::from_utf8(json.into()).context("JWT_JWKS_URL")?;
        let mut kept = self.kept.lock().await;
        if kept.is_none() {
            *kept = Some(self.manager.read(arn).await?.reveal().to_owned());
        }
        if kept.as_deref().is_some_and(|kept| are_same(kept, &fetched)) {
            return Ok(json!({"status": "unchanged"}));
        }
        self.manager.write(arn, &SecretText::new(fetched.clone())).await?;
        *kept = Some(fetched);
        Ok(json!({"status": "changed"}))
    }
}

/// Whether two sets have the same keys. Some issuers shuffle them, and Secrets Manager takes a hundred versions a day.
fn are_same(one: &str, other: &str) -> bool {
    let keys = |set: &str| {
        let mut set: Value = serde_json::from_str(set).ok()?;
        let mut keys: Vec<_> = set["keys"].as_array_mut()?.iter().map(Value::to_string).collect();
        keys.sort();
        Some(keys)
    };
    keys(one).is_some_and(|one| keys(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::are_same;

    #[test]
    fn the_order_of_keys_and_of_their_members_counts_for_nothing() {
        let set = r#"{"keys":[{"kid":"a","x":"1"},{"kid":"b","x":"2"}]}"#;
        assert!(are_same(set, r#"{"keys": [{"x": "2", "kid": "b"}, {"kid": "a", "x": "1"}], "other": 1}"#));
        for other in
            [r#"{"keys":[{"kid":"a","x":"1"}]}"#, r#"{"keys":[{"kid":"a","x":"2"},{"kid":"b","x":"1"}]}"#, "{}", ""]
        {
            assert!(!are_same(set, other), "{other}");
        }
        assert!(!are_same("", ""));
    }
}

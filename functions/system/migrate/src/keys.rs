//! The keys that seal passwords: made here, so that no person ever has a private one in hand. The private keys stay in the
//! mail functions' secret; the public key is an output of the custom resource, and so configuration.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};
use shared::sealing::generate;
use shared::secrets::{SecretText, SecretsManager};
use tokio_postgres::Client;
use zeroize::Zeroize;

/// The private keys, newest first, as mail functions read them.
const PRIVATE: &str = "SEALING_PRIVATE_KEYS";
/// The public keys that go with them.
const PUBLIC: &str = "SEALING_PUBLIC_KEYS";

/// Makes sure that the secret `arn` has the key of this generation, and returns the public one: `k<generation>:<base64>`.
/// Older keys stay, for what was sealed with them. Of no generation, as by hand, it is the newest that there is, and the
/// first is made where there is none.
///
/// # Errors
/// The secret cannot be read or written, or is no JSON object; or it lacks a key with which something is sealed: another one
/// under its name would open none of that, and hide that it is missing.
pub async fn ensure(manager: &SecretsManager, arn: &str, generation: Option<u32>, database: &Client) -> Result<String> {
    let stored = manager.read(arn).await?;
    // The parser's own message could quote the secret.
    let mut secret: Map<String, Value> =
        serde_json::from_str(stored.reveal()).map_err(|_| anyhow!("the secret {arn} must be a JSON object"))?;
    let public = match known_key(&secret, generation) {
        Some(public) => public,
        None => {
            let id = id(generation.unwrap_or(1));
            let used = keys_in_use(database).await.context("cannot see which sealing keys are in use")?;
            // Whoever names a generation may begin anew with one that nobody had.
            if used.contains(&id) || (generation.is_none() && !used.is_empty()) {
                bail!(
                    "the secret {arn} lacks the sealing key {id}, and passwords in the database are sealed with {}: a new key \
                     would open none of them. Take the keys from the secret's version AWSPREVIOUS (docs/OPERATIONS.md, The \
                     sealing keys). If they are lost for good, raise SealingKeyGeneration",
                    used.join(", ")
                );
            }
            let public = make_key(&mut secret, &id)?;
            let mut text = serde_json::to_string(&secret)?;
            let text = SecretText::new(std::mem::take(&mut text));
            manager.write(arn, &text).await.context("cannot store the new sealing key")?;
            tracing::info!(id = id.as_str(), "made a sealing key");
            public
        }
    };
    secret.values_mut().for_each(wipe);
    Ok(public)
}

fn wipe(value: &mut Value) {
    if let Value::String(text) = value {
        text.zeroize();
    }
}

fn id(generation: u32) -> String {
    format!("k{generation}")
}

fn known<'a>(secret: &'a Map<String, Value>, name: &str) -> &'a str {
    secret.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The public key of this generation, or the newest.
fn known_key(secret: &Map<String, Value>, generation: Option<u32>) -> Option<String> {
    let wanted = generation.map(id);
    let mut keys = known(secret, PUBLIC).split(',').filter(|key| !key.is_empty());
    let found = keys.find(|key| wanted.is_none() || key.split(':').next() == wanted.as_deref());
    found.map(str::to_owned)
}

/// Puts a new key before the others, and returns its public half.
fn make_key(secret: &mut Map<String, Value>, id: &str) -> Result<String> {
    let (public, private) = generate(id)?;
    for (name, key) in [(PUBLIC, public.as_str()), (PRIVATE, private.as_str())] {
        let old = known(secret, name);
        let all = if old.is_empty() { key.to_owned() } else { format!("{key},{old}") };
        secret.insert(name.to_owned(), all.into());
    }
    Ok(public)
}

/// The ids of all keys with which something is sealed; none before the first migration. It is asked as the role that sees
/// them of all tenants, for policies bind who migrates as well, and nothing of that stays.
async fn keys_in_use(database: &Client) -> Result<Vec<String>> {
    // Of an older schema there may be fewer columns.
    const ASK: &str = r"select string_agg(format('select %I as key from email_credentials', attname), ' union ')
        from pg_attribute
        where attrelid = to_regclass('email_credentials') and attname like '%\_key' and not attisdropped";
    let answer = database.query_typed(ASK, &[]).await?;
    let Some(keys) = answer.first().map(|row| row.try_get::<_, Option<String>>(0)).transpose()?.flatten() else {
        return Ok(Vec::new());
    };
    database
        .batch_execute("begin; grant email_service_probe to current_user; set local role email_service_probe")
        .await?;
    let used = format!("select key from ({keys}) as used where key is not null order by key");
    let rows = database.query_typed(&used, &[]).await?;
    database.batch_execute("rollback").await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

#[cfg(test)]
mod tests {
    use shared::sealing::{PrivateKeys, PublicKey};

    use super::*;

    #[test]
    fn each_generation_has_one_key_and_older_ones_stay() {
        let mut secret = Map::from_iter([("username".to_owned(), Value::from("email_service_mail"))]);
        assert_eq!((known_key(&secret, Some(1)), known_key(&secret, None)), (None, None));
        let first = make_key(&mut secret, "k1").unwrap();
        assert!(first.starts_with("k1:"));
        assert_eq!(known_key(&secret, Some(12)), None);
        let second = make_key(&mut secret, "k12").unwrap();
        assert_eq!(PublicKey::parse(&second).unwrap().id(), "k12");
        assert_eq!(known_key(&secret, Some(1)), Some(first), "a rollback takes the old key again");
        assert_eq!(known_key(&secret, Some(12)), Some(second.clone()));
        assert_eq!(known_key(&secret, None), Some(second));
        let private = PrivateKeys::parse(secret[PRIVATE].as_str().unwrap()).unwrap();
        assert_eq!(format!("{private:?}"), r#"["k12", "k1"]"#);
        assert_eq!(secret["username"], "email_service_mail");
    }
}

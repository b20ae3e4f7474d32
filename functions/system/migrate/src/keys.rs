//! The keys that seal passwords: made here, so that no person ever has a private one in hand. The private keys stay in the
//! mail functions' secret; the public key is an output of the custom resource, and so configuration.

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value};
use shared::sealing::generate;
use shared::secrets::{SecretText, SecretsManager};
use zeroize::Zeroize;

/// The private keys, newest first, as mail functions read them.
const PRIVATE: &str = "SEALING_PRIVATE_KEYS";
/// The public keys that go with them.
const PUBLIC: &str = "SEALING_PUBLIC_KEYS";

/// Makes sure that the secret `arn` has the key of this generation, and returns the public one: `k<generation>:<base64>`.
/// Older keys stay, for what was sealed with them.
///
/// # Errors
/// The secret cannot be read or written, or is no JSON object.
pub async fn ensure(manager: &SecretsManager, arn: &str, generation: u32) -> Result<String> {
    let stored = manager.read(arn).await?;
    // The parser's own message could quote the secret.
    let mut secret: Map<String, Value> =
        serde_json::from_str(stored.reveal()).map_err(|_| anyhow!("the secret {arn} must be a JSON object"))?;
    let (public, is_new) = with_key(&mut secret, generation)?;
    if is_new {
        let mut text = serde_json::to_string(&secret)?;
        let text = SecretText::new(std::mem::take(&mut text));
        manager.write(arn, &text).await.context("cannot store the new sealing key")?;
        tracing::info!(generation, "made a sealing key");
    }
    secret.values_mut().for_each(wipe);
    Ok(public)
}

fn wipe(value: &mut Value) {
    if let Value::String(text) = value {
        text.zeroize();
    }
}

/// The public key of this generation, and whether it had to be made.
fn with_key(secret: &mut Map<String, Value>, generation: u32) -> Result<(String, bool)> {
    let id = format!("k{generation}");
    let known = |secret: &Map<String, Value>, name: &str| -> String {
        secret.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut of_id = known(secret, PUBLIC);
    if let Some(public) = of_id.split(',').find(|key| key.split(':').next() == Some(id.as_str())) {
        return Ok((public.to_owned(), false));
    }
    let (public, private) = generate(&id)?;
    for (name, key) in [(PUBLIC, public.as_str()), (PRIVATE, private.as_str())] {
        let old = known(secret, name);
        let all = if old.is_empty() { key.to_owned() } else { format!("{key},{old}") };
        secret.insert(name.to_owned(), all.into());
    }
    of_id.zeroize();
    Ok((public, true))
}

#[cfg(test)]
mod tests {
    use shared::sealing::{PrivateKeys, PublicKey};

    use super::*;

    #[test]
    fn each_generation_has_one_key_and_older_ones_stay() {
        let mut secret = Map::from_iter([("username".to_owned(), Value::from("email_service_mail"))]);
        let (first, is_new) = with_key(&mut secret, 1).unwrap();
        assert!(is_new && first.starts_with("k1:"));
        assert_eq!(with_key(&mut secret, 1).unwrap(), (first.clone(), false));
        let (second, is_new) = with_key(&mut secret, 12).unwrap();
        assert!(is_new && PublicKey::parse(&second).unwrap().id() == "k12");
        assert_eq!(with_key(&mut secret, 1).unwrap(), (first, false), "a rollback takes the old key again");
        assert_eq!(with_key(&mut secret, 12).unwrap(), (second, false));
        let private = PrivateKeys::parse(secret[PRIVATE].as_str().unwrap()).unwrap();
        assert_eq!(format!("{private:?}"), r#"["k12", "k1"]"#);
        assert_eq!(secret["username"], "email_service_mail");
    }
}

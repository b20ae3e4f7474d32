//! Tokens of the development user, for the algorithm that the service is started with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use local::signing::SigningKey;
use serde_json::{Value, json};

use crate::{
    demo::{TENANT, USER},
    settings::Settings,
};

pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// The page asks for another one in time.
pub(crate) const PAGE_TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);

/// Who signs, and what is signed.
pub(crate) struct Signer {
    key: Key,
    claims: Value,
}

enum Key {
    /// Everybody with the secret.
    Secret(Algorithm, EncodingKey),
    /// We, with a key as thrown away as the servers.
    Pair(SigningKey),
    /// The issuer whose keys the developer names.
    Other,
}

impl Signer {
    /// As the developer's settings have it.
    pub(crate) fn new(settings: &Settings, secret: &str) -> Result<Self> {
        let name = settings.get("JWT_ALGORITHM").unwrap_or_else(|| "HS256".to_owned());
        let algorithm: Algorithm = name.parse().ok().context("JWT_ALGORITHM is no algorithm")?;
        let theirs = ["JWT_PUBLIC_KEY", "JWT_JWKS", "JWT_JWKS_URL", "JWT_JWKS_SECRET_ARN"];
        let key = match algorithm.family() {
            AlgorithmFamily::Hmac => Key::Secret(algorithm, EncodingKey::from_secret(secret.as_bytes())),
            _ if theirs.iter().any(|name| settings.get(name).is_some()) => Key::Other,
            _ => Key::Pair(SigningKey::new(algorithm, "dev")?),
        };
        let mut claims = json!({});
        for (variable, usual, value) in [
            ("JWT_TENANT_CLAIM", "tenant_id", TENANT),
            ("JWT_USER_CLAIM", "user_id", USER),
            ("JWT_ROLE_CLAIM", "role", "user"),
        ] {
            *claim(&mut claims, settings.get(variable).as_deref().unwrap_or(usual)) = value.into();
        }
        for (name, variable) in [("iss", "JWT_ISSUER"), ("aud", "JWT_AUDIENCE")] {
            if let Some(value) = settings.get(variable) {
                claims[name] = value.into();
            }
        }
        Ok(Self { key, claims })
    }

    /// What the functions check our tokens with, beside the secret.
    pub(crate) fn env(&self) -> Option<(String, String)> {
        match &self.key {
            Key::Pair(key) => Some(("JWT_PUBLIC_KEY".to_owned(), key.pem().to_owned())),
            Key::Secret(..) | Key::Other => None,
        }
    }

    /// A token that is good for so long; none where others sign.
    pub(crate) fn token(&self, life: Duration) -> Result<Option<String>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut claims = self.claims.clone();
        claims["iat"] = now.as_secs().into();
        claims["exp"] = (now + life).as_secs().into();
        Ok(match &self.key {
            Key::Secret(algorithm, key) => Some(jsonwebtoken::encode(&Header::new(*algorithm), &claims, key)?),
            Key::Pair(key) => Some(key.sign(&claims)?),
            Key::Other => None,
        })
    }
}

/// Where a claim of this name stands, as the service reads it.
fn claim<'a>(claims: &'a mut Value, name: &str) -> &'a mut Value {
    match name.contains(['/', ':']) {
        true => &mut claims[name],
        false => name.split('.').fold(claims, |object, part| &mut object[part]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_put_where_the_service_looks() {
        let mut claims = json!({});
        for name in ["app_metadata.tenant", "app_metadata.role", "https://example.com/user", "sub"] {
            *claim(&mut claims, name) = name.into();
        }
        let expected = json!({
            "app_metadata": {"tenant": "app_metadata.tenant", "role": "app_metadata.role"},
            "https://example.com/user": "https://example.com/user", "sub": "sub"
        });
        assert_eq!(claims, expected);
    }
}

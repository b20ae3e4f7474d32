//! Keys that sign tokens, as an identity provider has them.

use anyhow::{Result, bail};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// Of an RSA key in PKCS #8 (2048 bits), all before the key in PKCS #1.
const PKCS8_BYTES: usize = 26;

/// A key pair of one algorithm.
pub struct SigningKey {
    algorithm: Algorithm,
    /// Its name, in the headers of tokens and in a set.
    kid: String,
    secret: EncodingKey,
    pem: String,
    jwk: Value,
}

impl SigningKey {
    /// A new one of RS256, PS256, ES256 or EdDSA.
    ///
    /// # Errors
    /// It is another algorithm, or the system has no random numbers.
    pub fn new(algorithm: Algorithm, kid: &str) -> Result<Self> {
        let kind = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => &rcgen::PKCS_RSA_SHA256,
            Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            other => bail!("{other:?} has no key pair here"),
        };
        let pair = KeyPair::generate_for(kind)?;
        let (secret, public) = (pair.serialize_der(), pair.public_key_raw());
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (secret, mut jwk) = match algorithm.family() {
            AlgorithmFamily::Rsa => {
                let secret = EncodingKey::from_rsa_der(&secret[PKCS8_BYTES..]);
                let jwk = serde_json::to_value(Jwk::from_encoding_key(&secret, algorithm)?)?;
                (secret, jwk)
            }
            AlgorithmFamily::Ec => {
                let jwk = json!({"kty": "EC", "crv": "P-256", "x": text(&public[1..33]), "y": text(&public[33..])});
                (EncodingKey::from_ec_der(&secret), jwk)
            }
            _ => (EncodingKey::from_ed_der(&secret), json!({"kty": "OKP", "crv": "Ed25519", "x": text(public)})),
        };
        for (name, value) in [("alg", format!("{algorithm:?}")), ("use", "sig".to_owned()), ("kid", kid.to_owned())] {
            jwk[name] = value.into();
        }
        Ok(Self { algorithm, kid: kid.to_owned(), secret, pem: pair.public_key_pem(), jwk })
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) };
        Ok(jsonwebtoken::encode(&header, claims, &self.secret)?)
    }

    /// A token with this text as its header, whatever that says, signed by an algorithm of the key's kind.
    ///
    /// # Errors
    /// The algorithm is of another kind.
    pub fn sign_as(&self, algorithm: Algorithm, header: &str, claims: &Value) -> Result<String> {
        let message = [header, &claims.to_string()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.secret, algorithm)?;
        Ok(format!("{message}.{signature}"))
    }

    /// The public key in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The public key as it stands in a set.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }
}

//! Keys that check tokens: secrets, public keys in PEM, or a set as an issuer publishes it (RFC 7517).

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The most bytes of a set. Those of the large issuers have some 20 KB, certificates included; a secret holds no more
/// than this either.
pub const MAX_SET_BYTES: usize = 64 * 1024;
/// The most keys of a set: issuers publish two to ten, and each takes memory as long as the process lives.
const MAX_KEYS: usize = 100;
/// The most keys that one token is tried with: who sends forgeries is not to choose how much we compute.
const MAX_TRIES: usize = 4;
/// An RSA key has at least the bits that RFC 7518, 3.3 asks for, and no more than the library takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The least exponent of an RSA key (FIPS 186-5, 5.1): with 1 every text is its own signature.
const MIN_RSA_EXPONENT: u32 = 65537;
/// Bytes of a P-256 coordinate, and of an Ed25519 key.
const COORDINATE: usize = 32;

/// What a public key must be.
pub const PUBLIC_KEY: &str = "a key of JWT_ALGORITHM in PEM, -----BEGIN PUBLIC KEY-----, of at least 2048 bits where it \
                              is RSA's, of P-256 or Ed25519 else; during a rotation two, one after the other";

/// Keys of one algorithm.
#[derive(Debug, Clone)]
pub struct KeySet(Vec<Key>);

#[derive(Debug, Clone)]
struct Key {
    kid: Option<String>,
    key: DecodingKey,
}

/// Why a set is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSet {
    /// More than [`MAX_SET_BYTES`].
    #[error("the set of keys is larger than 64 KiB")]
    TooLarge,
    /// It is no JSON object with the list `keys`.
    #[error("the set of keys is no JSON object with a list `keys`")]
    NoSet,
    /// More than a hundred keys.
    #[error("the set has more than 100 keys")]
    TooMany,
    /// No key of it can check a token.
    #[error("the set has no key of JWT_ALGORITHM that may verify signatures and is long enough")]
    NoKey,
}

/// A key as it stands in a set. What else it has is not for us.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Secrets of an HMAC algorithm, each of which may have signed a token.
    pub fn of_secrets<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let key = |secret: &str| Key { kid: None, key: DecodingKey::from_secret(secret.as_bytes()) };
        Self(secrets.into_iter().map(key).collect())
    }

    /// One or more public keys in PEM. A value that came through a single line may have `\n` for its line breaks.
    pub fn from_pem(algorithm: Algorithm, pem: &str) -> Option<Self> {
        let mut blocks = pem.split("-----BEGIN PUBLIC KEY-----");
        let before = blocks.next()?;
        let is_blank = |text: &str| text.replace("\\n", "").trim().is_empty();
        let keys = blocks.map(|block| {
            let (body, after) = block.split_once("-----END PUBLIC KEY-----")?;
            let body: String = body.replace("\\n", "").split_whitespace().collect();
            let key = from_spki(algorithm, &BASE64_STANDARD.decode(body).ok()?)?;
            is_blank(after).then_some(Key { kid: None, key })
        });
        let keys: Vec<_> = keys.collect::<Option<_>>()?;
        (is_blank(before) && !keys.is_empty() && keys.len() <= MAX_TRIES).then_some(Self(keys))
    }

    /// The keys of a set that may check signatures of this algorithm. Others are passed over, whatever they are.
    ///
    /// # Errors
    /// There is none, or the set is too large.
    pub fn from_jwks(algorithm: Algorithm, json: &[u8]) -> Result<Self, BadSet> {
        #[derive(Deserialize)]
        struct Set<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        if json.len() > MAX_SET_BYTES {
            return Err(BadSet::TooLarge);
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| BadSet::NoSet)?;
        if set.keys.len() > MAX_KEYS {
            return Err(BadSet::TooMany);
        }
        let keys = set.keys.iter().filter_map(|raw| {
            let jwk: Jwk = serde_json::from_str(raw.get()).ok()?;
            Some(Key { key: jwk.decoding_key(algorithm)?, kid: jwk.kid })
        });
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() { Err(BadSet::NoKey) } else { Ok(Self(keys)) }
    }

    /// Whether a key has this very id.
    pub fn knows(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The keys that may have signed a token with this id in its header: those of that id, then those without one. A token
    /// without an id may be of any.
    pub fn candidates<'a>(&'a self, kid: Option<&'a str>) -> impl Iterator<Item = &'a DecodingKey> {
        let named = self.0.iter().filter(move |key| kid.is_some() && key.kid.as_deref() == kid);
        let others = self.0.iter().filter(move |key| kid.is_none() || key.kid.is_none());
        named.chain(others).take(MAX_TRIES).map(|key| &key.key)
    }
}

impl Jwk {
    fn decoding_key(&self, algorithm: Algorithm) -> Option<DecodingKey> {
        let may_verify = self.r#use.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"))
            && self.alg.as_deref().is_none_or(|alg| alg == format!("{algorithm:?}"));
        if !may_verify {
            return None;
        }
        let bytes = |field: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(field.as_deref()?).ok();
        match (algorithm.family(), self.kty.as_str(), self.crv.as_deref()) {
            (AlgorithmFamily::Rsa, "RSA", _) => rsa(&bytes(&self.n)?, &bytes(&self.e)?),
            (AlgorithmFamily::Ec, "EC", Some("P-256")) => {
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                (x.len() == COORDINATE && y.len() == COORDINATE).then(|| ec_point(&[&[4], &*x, &*y].concat()))
            }
            (AlgorithmFamily::Ed, "OKP", Some("Ed25519")) => ed25519(&bytes(&self.x)?),
            _ => None,
        }
    }
}

/// Numbers without a sign, the highest byte first.
fn rsa(n: &[u8], e: &[u8]) -> Option<DecodingKey> {
    let trimmed = |number: &'_ [u8]| number.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<u8>>();
    let (n, e) = (trimmed(n), trimmed(e));
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    let exponent = (e.len() <= 4).then(|| e.iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte)))?;
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    let is_good = RSA_BITS.contains(&bits) && exponent >= MIN_RSA_EXPONENT && is_odd(&n) && is_odd(&e);
    is_good.then(|| DecodingKey::from_rsa_raw_components(&n, &e))
}

/// An uncompressed point. Whether it is on the curve is found out with each signature.
fn ec_point(point: &[u8]) -> DecodingKey {
    DecodingKey::from_ec_der(point)
}

fn ed25519(key: &[u8]) -> Option<DecodingKey> {
    (key.len() == COORDINATE).then(|| DecodingKey::from_ed_der(key))
}

/// Of a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) of P-256, all before the point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Of one of Ed25519, all before the key.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Of one of RSA, the algorithm: rsaEncryption, no parameters.
const RSA_ALGORITHM: [u8; 13] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

fn from_spki(algorithm: Algorithm, spki: &[u8]) -> Option<DecodingKey> {
    match algorithm.family() {
        AlgorithmFamily::Hmac => None,
        AlgorithmFamily::Ec => {
            let point = spki.strip_prefix(&P256_SPKI)?;
            (point.len() == 1 + 2 * COORDINATE && point.first() == Some(&4)).then(|| ec_point(point))
        }
        AlgorithmFamily::Ed => ed25519(spki.strip_prefix(&ED25519_SPKI)?),
        AlgorithmFamily::Rsa => {
            let (info, []) = der(0x30, spki)? else { return None };
            let (algorithm, rest) = der(0x30, info)?;
            let (bits, []) = der(0x03, rest)? else { return None };
            let (key, []) = der(0x30, bits.strip_prefix(&[0])?)? else { return None };
            let (n, rest) = der(0x02, key)?;
            let (e, []) = der(0x02, rest)? else { return None };
            (algorithm == RSA_ALGORITHM).then(|| rsa(n, e)).flatten()
        }
    }
}

/// An element of this type at the beginning: its content, and what follows.
fn der(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match input.strip_prefix(&[tag])? {
        [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, Validation};
    use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm};
    use serde_json::{Value, json};

    use super::*;

    const ALGORITHMS: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

    fn generate(algorithm: Algorithm) -> KeyPair {
        let kind: &SignatureAlgorithm = match algorithm.family() {
            AlgorithmFamily::Rsa => &rcgen::PKCS_RSA_SHA256,
            AlgorithmFamily::Ec => &rcgen::PKCS_ECDSA_P256_SHA256,
            _ => &rcgen::PKCS_ED25519,
        };
        KeyPair::generate_for(kind).unwrap()
    }

    fn jwk(algorithm: Algorithm, pair: &KeyPair) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let raw = pair.der_bytes();
        match algorithm.family() {
            AlgorithmFamily::Rsa => {
                let (key, _) = der(0x30, raw).unwrap();
                let (n, rest) = der(0x02, key).unwrap();
                let (e, _) = der(0x02, rest).unwrap();
                json!({"kty": "RSA", "n": text(&n[1..]), "e": text(e)})
            }
            AlgorithmFamily::Ec => json!({"kty": "EC", "crv": "P-256", "x": text(&raw[1..33]), "y": text(&raw[33..])}),
            _ => json!({"kty": "OKP", "crv": "Ed25519", "x": text(raw)}),
        }
    }

    fn with(mut jwk: Value, changes: Value) -> Value {
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn read(algorithm: Algorithm, keys: &[Value]) -> Result<usize, BadSet> {
        KeySet::from_jwks(algorithm, json!({"keys": keys}).to_string().as_bytes()).map(|set| set.0.len())
    }

    fn signed(algorithm: Algorithm, pair: &KeyPair) -> String {
        let der = pair.serialize_der();
        let key = match algorithm.family() {
            // Of PKCS #8, which the library does not read, what it does: PKCS #1.
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_der(&der[26..]),
            AlgorithmFamily::Ec => EncodingKey::from_ec_der(&der),
            _ => EncodingKey::from_ed_der(&der),
        };
        jsonwebtoken::encode(&Header::new(algorithm), &json!({"exp": 9_999_999_999_u64}), &key).unwrap()
    }

    #[test]
    fn a_key_is_the_same_in_pem_and_in_a_set_and_checks_what_it_signed() {
        for algorithm in ALGORITHMS {
            let (pair, other) = (generate(algorithm), generate(algorithm));
            let pem = pair.public_key_pem();
            let one_line = pem.trim().replace("\r", "").replace('\n', "\\n");
            let set = json!({"keys": [jwk(algorithm, &pair)]}).to_string();
            for keys in [
                KeySet::from_pem(algorithm, &pem).unwrap(),
                KeySet::from_pem(algorithm, &one_line).unwrap(),
                KeySet::from_pem(algorithm, &(other.public_key_pem() + &pem)).unwrap(),
                KeySet::from_jwks(algorithm, set.as_bytes()).unwrap(),
            ] {
                let checks = |token: &str| {
                    keys.candidates(None)
                        .any(|key| jsonwebtoken::decode::<Value>(token, key, &Validation::new(algorithm)).is_ok())
                };
                assert!(checks(&signed(algorithm, &pair)), "{algorithm:?}");
                assert!(!checks(&signed(algorithm, &generate(algorithm))), "{algorithm:?}");
            }
        }
    }

    #[test]
    fn what_is_no_public_key_of_the_algorithm_is_none() {
        for algorithm in ALGORITHMS {
            let pair = generate(algorithm);
            let pem = pair.public_key_pem();
            let others = ALGORITHMS.into_iter().filter(|other| other.family() != algorithm.family());
            let mut bad: Vec<_> = others.map(|other| generate(other).public_key_pem()).collect();
            bad.extend([
                String::new(),
                pair.serialize_pem(),
                pem.replace("PUBLIC KEY", "RSA PUBLIC KEY"),
                pem.replace("PUBLIC KEY", "CERTIFICATE"),
                format!("{pem}x"),
                format!("x{pem}"),
                pem.replace("-----END PUBLIC KEY-----", ""),
                pem.replacen("MI", "", 1).replacen("MFk", "", 1).replacen("MCo", "", 1),
                pem.repeat(MAX_TRIES + 1),
            ]);
            for bad in bad {
                assert!(KeySet::from_pem(algorithm, &bad).is_none(), "{algorithm:?} {bad}");
            }
            assert!(KeySet::from_pem(Algorithm::HS256, &pem).is_none());
        }
    }

    #[test]
    fn of_a_set_only_keys_of_the_algorithm_that_may_verify_are_taken() {
        for algorithm in ALGORITHMS {
            let good = jwk(algorithm, &generate(algorithm));
            let name = format!("{algorithm:?}");
            for fits in [
                json!({}),
                json!({"use": "sig"}),
                json!({"key_ops": ["verify"]}),
                json!({"key_ops": ["sign", "verify"]}),
                json!({"alg": name}),
                json!({"kid": "1", "x5c": ["MII"], "x5t": "x", "issuer": "https://example.com"}),
            ] {
                assert_eq!(read(algorithm, &[with(good.clone(), fits.clone())]), Ok(1), "{name} {fits}");
            }
            let mut others: Vec<_> = [
                json!({"use": "enc"}),
                json!({"use": ""}),
                json!({"key_ops": []}),
                json!({"key_ops": ["sign"]}),
                json!({"key_ops": "verify"}),
                json!({"alg": "HS256"}),
                json!({"alg": "RS512"}),
                json!({"alg": "none"}),
                json!({"kty": "oct", "k": "AAAA"}),
                json!({"kty": "EC", "crv": "P-384"}),
                json!({"kty": "OKP", "crv": "X25519"}),
                json!({"kid": 7}),
                json!({"kty": null}),
                json!({"n": "AQAB", "x": "AQAB"}),
                json!({"n": "", "x": ""}),
                json!({"n": "!", "x": "!"}),
            ]
            .into_iter()
            .map(|change| with(good.clone(), change))
            .collect();
            others.extend(
                ALGORITHMS.into_iter().filter(|o| o.family() != algorithm.family()).map(|o| jwk(o, &generate(o))),
            );
            for other in &others {
                assert_eq!(read(algorithm, std::slice::from_ref(other)), Err(BadSet::NoKey), "{name} {other}");
            }
            others.extend([json!(1), json!("x"), json!(null), json!([]), json!({}), good]);
            assert_eq!(read(algorithm, &others), Ok(1), "{name}");
        }
        // One of RSA is for one of both paddings, where it says for which.
        let key = with(jwk(Algorithm::RS256, &generate(Algorithm::RS256)), json!({"alg": "RS256"}));
        assert_eq!(read(Algorithm::PS256, &[key]), Err(BadSet::NoKey));
    }

    #[test]
    fn rsa_keys_that_anybody_could_sign_for_are_refused() {
        let good = jwk(Algorithm::RS256, &generate(Algorithm::RS256));
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let n = BASE64_URL_SAFE_NO_PAD.decode(good["n"].as_str().unwrap()).unwrap();
        let even: Vec<u8> = n[..n.len() - 1].iter().copied().chain([n[n.len() - 1] & 0xfe]).collect();
        // Zeros before a number are none of its bits.
        let padded = [&[0; 128], &n[..128]].concat();
        for change in [
            json!({"e": text(&[1])}),
            json!({"e": text(&[3])}),
            json!({"e": text(&[])}),
            json!({"e": text(&[0, 0, 1])}),
            json!({"e": text(&[1, 0, 0])}),
            json!({"e": text(&[1, 0, 0, 0, 1])}),
            json!({"n": text(&n[1..])}),
            json!({"n": text(&n[..128])}),
            json!({"n": text(&padded)}),
            json!({"n": text(&even)}),
            json!({"n": text(&n.repeat(5))}),
        ] {
            assert_eq!(read(Algorithm::RS256, &[with(good.clone(), change.clone())]), Err(BadSet::NoKey), "{change}");
        }
        assert_eq!(read(Algorithm::RS256, &[with(good, json!({"n": text(&[&[0], &*n].concat())}))]), Ok(1));
    }

    #[test]
    fn a_set_has_bounds() {
        let good = jwk(Algorithm::EdDSA, &generate(Algorithm::EdDSA));
        assert_eq!(read(Algorithm::EdDSA, &vec![good.clone(); MAX_KEYS]), Ok(MAX_KEYS));
        assert_eq!(read(Algorithm::EdDSA, &vec![good.clone(); MAX_KEYS + 1]), Err(BadSet::TooMany));
        let large = with(good, json!({"x5c": "x".repeat(MAX_SET_BYTES)}));
        assert_eq!(read(Algorithm::EdDSA, &[large]), Err(BadSet::TooLarge));
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, "<html>", "\u{feff}{}", &"[".repeat(60_000)] {
            let set = KeySet::from_jwks(Algorithm::EdDSA, bad.as_bytes());
            assert_eq!(set.map(|set| set.0.len()), Err(BadSet::NoSet), "{bad}");
        }
    }

    #[test]
    fn a_token_is_tried_with_the_keys_of_its_name_and_few_at_all() {
        let key = |kid: Option<&str>| {
            let mut key = jwk(Algorithm::EdDSA, &generate(Algorithm::EdDSA));
            if let Some(kid) = kid {
                key["kid"] = kid.into();
            }
            key
        };
        let set =
            |keys: &[Value]| KeySet::from_jwks(Algorithm::EdDSA, json!({"keys": keys}).to_string().as_bytes()).unwrap();
        let named = set(&[key(Some("a")), key(Some("b")), key(Some("b"))]);
        let count = |set: &KeySet, kid: Option<&str>| set.candidates(kid).count();
        assert_eq!([Some("a"), Some("b"), Some("B"), Some(""), None].map(|kid| count(&named, kid)), [1, 2, 0, 0, 3]);
        assert!(named.knows("a") && !named.knows("c"));
        let mixed = set(&[key(None), key(Some("a"))]);
        assert_eq!([Some("a"), Some("x"), None].map(|kid| count(&mixed, kid)), [2, 1, 2]);
        let many = set(&vec![key(None); 50]);
        assert_eq!(count(&many, None), MAX_TRIES);
    }
}

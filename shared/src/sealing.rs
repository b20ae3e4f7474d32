//! Secrets that can be used again: sealed with a public key that every endpoint may have, opened with private keys that
//! only mail functions have. A mailbox's password is one.
//!
//! HPKE (RFC 9180, base mode) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, by rustls, whose aws-lc the
//! TLS connections use anyway. What is sealed is bound to its place: moved to another account, it does not open. The
//! credential's id is no part of that, for an update seals without having read the row first, which would be a second
//! round trip; an account has one credential, and a credential one account.
//!
//! A sealed value is: version (1 byte), suite (1), length of the key's id (1), the key's id, the encapsulated key (32),
//! the ciphertext.

use std::fmt;

use anyhow::anyhow;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

use crate::account::AccountId;
use crate::identity::Scope;

/// The layout above.
const VERSION: u8 = 1;
/// The suite above.
const SUITE_ID: u8 = 1;
/// Bytes of an X25519 key, public, private or encapsulated (RFC 9180, 7.1).
const KEY_BYTES: usize = 32;
/// The most characters of a key's id.
const MAX_ID: usize = 32;
/// Secrets are filled up to a multiple of this many bytes, so that a sealed value does not tell how long a password is.
const BLOCK: usize = 64;

/// Whose secret it is, and what for: the additional data and the purpose of the encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The owner.
    pub scope: Scope,
    /// The account that the secret is for.
    pub account: AccountId,
    /// Which of the account's secrets it is.
    pub kind: Kind,
}

/// The secrets of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The password for reading mail.
    Password,
    /// The password for sending, where that is another one.
    SmtpPassword,
    /// What a provider gives new access tokens for.
    RefreshToken,
    /// What a provider's servers let in for an hour or so.
    AccessToken,
}

impl Kind {
    /// Purpose and version: HPKE's `info`.
    fn info(self) -> &'static [u8] {
        match self {
            Self::Password => b"email_service password v1",
            Self::SmtpPassword => b"email_service smtp password v1",
            Self::RefreshToken => b"email_service refresh token v1",
            Self::AccessToken => b"email_service access token v1",
        }
    }
}

impl Place {
    /// Three ids of 16 bytes each, and the kind is in `info`: no two places have the same.
    fn aad(&self) -> [u8; 48] {
        let ids = [self.scope.tenant_id.0, self.scope.user_id.0, self.account.0];
        let mut aad = [0; 48];
        for (part, id) in aad.chunks_exact_mut(16).zip(ids) {
            part.copy_from_slice(id.as_bytes());
        }
        aad
    }
}

/// Why a sealed value does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was sealed with a key that we do not have (any more, or yet).
    #[error("sealed with the key {0:?}, which is not among SEALING_PRIVATE_KEYS")]
    UnknownKey(String),
    /// It is no sealed value of this version.
    #[error("not a sealed value that this version can read")]
    Malformed,
    /// It was changed, or sealed for another account.
    #[error("the sealed value was changed, or belongs to another account")]
    Refused,
}

/// The key that seals, with its id. No secret.
#[derive(Debug, Clone)]
pub struct PublicKey {
    id: String,
    key: HpkePublicKey,
}

impl PublicKey {
    /// Reads `id:base64`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, key) = parse_key(text)?;
        Some(Self { id, key: HpkePublicKey(key.to_vec()) })
    }

    /// Seals nothing for nobody, once, because the first time takes longest.
    ///
    /// # Errors
    /// The key is no point on the curve.
    pub fn warm_up(&self) -> anyhow::Result<()> {
        SUITE.seal(b"", b"", b"", &self.key).map(drop).map_err(|error| anyhow!("the sealing key is unusable: {error}"))
    }

    /// What tells this key from others.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// The keys that open. Their memory is wiped when they are dropped.
pub struct PrivateKeys(Vec<(String, HpkePrivateKey)>);

impl PrivateKeys {
    /// Reads `id:base64` for each key, with commas between them.
    pub fn parse(text: &str) -> Option<Self> {
        let read = |text: &str| {
            let (id, key) = parse_key(text.trim())?;
            Some((id, HpkePrivateKey::from(key.to_vec())))
        };
        text.split(',').map(read).collect::<Option<Vec<_>>>().map(Self)
    }
}

impl fmt::Debug for PrivateKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

fn parse_key(text: &str) -> Option<(String, Zeroizing<[u8; KEY_BYTES]>)> {
    let (id, key) = text.split_once(':')?;
    let is_id = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let key = Zeroizing::new(BASE64.decode(key).ok()?);
    is_id.then_some(())?;
    Some((id.to_owned(), Zeroizing::new(key.as_slice().try_into().ok()?)))
}

/// Makes a key pair: the public and the private key, each as its `parse` reads it.
///
/// # Errors
/// The system's random generator fails.
pub fn generate(id: &str) -> anyhow::Result<(String, Zeroizing<String>)> {
    let (public, private) = SUITE.generate_key_pair()?;
    let text = |key: &[u8]| format!("{id}:{}", BASE64.encode(key));
    Ok((text(&public.0), Zeroizing::new(text(private.secret_bytes()))))
}

/// Seals a secret for one place.
///
/// # Errors
/// The key is no point on the curve, or the system's random generator fails.
pub fn seal(key: &PublicKey, place: &Place, secret: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u16::try_from(secret.len()).map_err(|_| anyhow!("a secret of {} bytes", secret.len()))?;
    let size = (2 + secret.len()).next_multiple_of(BLOCK);
    let mut padded = Zeroizing::new(Vec::with_capacity(size));
    padded.extend(length.to_be_bytes());
    padded.extend(secret);
    padded.resize(size, 0);

    let (encapsulated, ciphertext) = SUITE.seal(place.kind.info(), &place.aad(), &padded, &key.key)?;
    let id_length = u8::try_from(key.id.len())?;
    Ok([&[VERSION, SUITE_ID, id_length], key.id.as_bytes(), &encapsulated.0, &ciphertext].concat())
}

/// Opens what was sealed for this place.
///
/// # Errors
/// See [`OpenError`].
pub fn open(keys: &PrivateKeys, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (id, rest) = split_id(sealed).ok_or(OpenError::Malformed)?;
    let (_, key) = keys.0.iter().find(|(known, _)| known == id).ok_or_else(|| OpenError::UnknownKey(id.into()))?;
    let (encapsulated, ciphertext) = rest.split_at_checked(KEY_BYTES).ok_or(OpenError::Malformed)?;
    let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
    let padded = SUITE
        .open(&encapsulated, place.kind.info(), &place.aad(), ciphertext, key)
        .map(Zeroizing::new)
        .map_err(|_| OpenError::Refused)?;
    let (length, secret) = padded.split_first_chunk().ok_or(OpenError::Malformed)?;
    let secret = secret.get(..usize::from(u16::from_be_bytes(*length))).ok_or(OpenError::Malformed)?;
    Ok(Zeroizing::new(secret.to_vec()))
}

/// The id of the key that a value was sealed with.
pub fn key_id(sealed: &[u8]) -> Option<&str> {
    split_id(sealed).map(|(id, _)| id)
}

fn split_id(sealed: &[u8]) -> Option<(&str, &[u8])> {
    let [VERSION, SUITE_ID, length, rest @ ..] = sealed else { return None };
    let (id, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(id).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{TenantId, UserId};
    use proptest::prelude::*;
    use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    use uuid::Uuid;

    fn place() -> Place {
        let [tenant, user, account] = [1, 2, 3].map(Uuid::from_u128);
        Place {
            scope: Scope { tenant_id: TenantId(tenant), user_id: UserId(user) },
            account: AccountId(account),
            kind: Kind::Password,
        }
    }

    fn keys(id: &str) -> (PublicKey, PrivateKeys) {
        let (public, private) = generate(id).unwrap();
        (PublicKey::parse(&public).unwrap(), PrivateKeys::parse(&private).unwrap())
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 9180, A.1.1: the first has the appendix's own ciphertext, of AES-128-GCM. The second is of the same keys and
    /// our suite, which the appendix leaves out; it was computed by the RFC's formulas with Python's cryptography.
    #[test]
    fn the_library_follows_rfc_9180() {
        let vectors: [(&dyn Hpke, &str); 2] = [
            (
                DH_KEM_X25519_HKDF_SHA256_AES_128,
                "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
            ),
            (SUITE, "090b7dc225419f7da9e8b460becfbb96a26c7964d79b8010d397fa838530a32a397b14f5776db19ff5e57734e0"),
        ];
        let info = hex("4f6465206f6e2061204772656369616e2055726e");
        for (suite, ciphertext) in vectors {
            let encapsulated =
                EncapsulatedSecret(hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"));
            let key = hex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8").into();
            let opened = suite.open(&encapsulated, &info, b"Count-0", &hex(ciphertext), &key).unwrap();
            assert_eq!(opened, b"Beauty is truth, truth beauty");
        }
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_and_in_no_other() {
        let (public, private) = keys("a");
        let sealed = seal(&public, &place(), b"secret").unwrap();
        assert_eq!(open(&private, &place(), &sealed).unwrap().as_slice(), b"secret");
        let other = |change: fn(&mut Place)| {
            let mut place = place();
            change(&mut place);
            open(&private, &place, &sealed)
        };
        for change in [
            |place: &mut Place| place.scope.tenant_id = TenantId(Uuid::from_u128(9)),
            |place: &mut Place| place.scope.user_id = UserId(Uuid::from_u128(9)),
            |place: &mut Place| place.account = AccountId(Uuid::from_u128(9)),
            |place: &mut Place| place.kind = Kind::SmtpPassword,
            |place: &mut Place| place.kind = Kind::RefreshToken,
            |place: &mut Place| place.kind = Kind::AccessToken,
        ] {
            assert_eq!(other(change), Err(OpenError::Refused));
        }
    }

    #[test]
    fn keys_are_found_by_their_id() {
        let (old, old_private) = generate("old").unwrap();
        let (new, new_private) = generate("new").unwrap();
        let both = PrivateKeys::parse(&format!("{}, {}", *new_private, *old_private)).unwrap();
        for public in [old, new] {
            let public = PublicKey::parse(&public).unwrap();
            let sealed = seal(&public, &place(), b"secret").unwrap();
            assert_eq!(key_id(&sealed), Some(public.id()));
            assert_eq!(open(&both, &place(), &sealed).unwrap().as_slice(), b"secret");
        }
        let (_, stranger) = keys("stranger");
        let sealed = seal(&keys("old").0, &place(), b"secret").unwrap();
        assert_eq!(open(&stranger, &place(), &sealed), Err(OpenError::UnknownKey("old".into())));
        assert_eq!(open(&both, &place(), &sealed), Err(OpenError::Refused), "another key of the same id");
    }

    #[test]
    fn a_sealed_value_tells_neither_the_secret_nor_its_length() {
        let (public, private) = keys("a");
        let sealed = |secret: &str| seal(&public, &place(), secret.as_bytes()).unwrap();
        assert_eq!(sealed("").len(), sealed(&"x".repeat(62)).len());
        assert_ne!(sealed("same"), sealed("same"));
        assert!(sealed(&"x".repeat(63)).len() > sealed("").len());
        assert_eq!(format!("{private:?}"), r#"["a"]"#);
    }

    #[test]
    fn only_keys_are_read_as_keys() {
        let key = BASE64.encode([7; 32]);
        assert!(PublicKey::parse(&format!("a:{key}")).is_some());
        let long = "x".repeat(33);
        for bad in [
            key.clone(),
            format!(":{key}"),
            format!("a b:{key}"),
            format!("{long}:{key}"),
            "a:".into(),
            "a:AAAA".into(),
        ] {
            assert!(PublicKey::parse(&bad).is_none() && PrivateKeys::parse(&bad).is_none(), "{bad}");
        }
        assert!(PrivateKeys::parse("").is_none() && PrivateKeys::parse(&format!("a:{key},")).is_none());
    }

    proptest! {
        #[test]
        fn any_secret_comes_back(secret in prop::collection::vec(any::<u8>(), 0..2000)) {
            let (public, private) = keys("a");
            let sealed = seal(&public, &place(), &secret).unwrap();
            prop_assert_eq!(open(&private, &place(), &sealed).unwrap().to_vec(), secret);
        }

        #[test]
        fn anything_else_is_refused(mut sealed in prop::collection::vec(any::<u8>(), 0..200), flip in 0usize..120) {
            let (public, private) = keys("a");
            prop_assert!(open(&private, &place(), &sealed).is_err());
            sealed = seal(&public, &place(), b"secret").unwrap();
            let at = flip % sealed.len();
            sealed[at] ^= 1;
            prop_assert!(open(&private, &place(), &sealed).is_err());
            prop_assert!(open(&private, &place(), &sealed[..at]).is_err());
        }
    }
}

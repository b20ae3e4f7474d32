//! The Authorization header, and beside it the development headers: nobody gets in without the key.
#![no_main]

use std::sync::{Arc, LazyLock};

use futures_executor::block_on;
use libfuzzer_sys::fuzz_target;
use shared::auth::Authenticator;
use shared::claims::{ClaimName, ClaimNames, Claims, Ids};
use shared::config::Config;
use shared::event::Pairs;
use shared::issuer::Keys;
use shared::key_set::KeySet;
use shared::secrets::{SecretSource, SecretStore};
use shared::{Error, Request};

/// The key that signed the seeds is this one with another last letter, so that every seed is a forgery.
const KEY: &str = "0123456789abcdef0123456789abcdef";
/// Public keys whose private halves nobody has: the examples of RFC 7517, A.1, and RFC 8037, A.2.
const SET: &str = r#"{"keys":[
    {"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
     "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","kid":"1"},
    {"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","kid":"1"},
    {"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"1"}]}"#;

static AUTHENTICATORS: LazyLock<Vec<Authenticator>> = LazyLock::new(|| {
    let authenticator = |algorithm: &'static str| {
        let config = Config::from_variables(move |name| {
            let value = match name {
                "DATABASE_URL" => "postgres://app:pw@localhost/db",
                "REDIS_URL" => "redis://localhost",
                "JWT_SECRET_KEY" => KEY,
                "JWT_ALGORITHM" => algorithm,
                "JWT_JWKS" if !algorithm.starts_with("HS") => SET,
                _ => return None,
            };
            Some(value.to_owned())
        });
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let SecretSource::Environment(secrets) = &config.secrets else { panic!("another source") };
        let store = Arc::new(SecretStore::new(config.secrets.clone()));
        let keys = Keys::new(&config.auth, secrets, &store).unwrap_or_else(|error| panic!("{error}"));
        Authenticator::new(&config.auth, keys)
    };
    ["HS256", "HS512", "RS256", "PS256", "ES256", "EdDSA"].map(authenticator).into()
});

static NAMES: LazyLock<ClaimNames> = LazyLock::new(|| {
    let name = |name| ClaimName::parse(name).unwrap_or_else(|| panic!("{name}"));
    ClaimNames { tenant: name("app.tenant"), user: name("sub"), role: name("app.roles") }
});

fuzz_target!(|data: &[u8]| {
    let authorization = String::from_utf8_lossy(data).into_owned();
    let headers = [("authorization", authorization.as_str()), ("x-tenant-id", &authorization), ("x-user-id", "1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = Request { headers: Pairs(headers.into()), ..Request::default() };
    for authenticator in &*AUTHENTICATORS {
        let identified = block_on(authenticator.identify(&request));
        assert!(matches!(identified, Err(Error::Unauthorized(_))), "{authorization}");
    }
    // What is read of an issuer, and of a token once its signature is good.
    let algorithm = jsonwebtoken::Algorithm::RS256;
    let _ = KeySet::from_jwks(algorithm, data);
    let _ = KeySet::from_pem(algorithm, &authorization);
    let _ = Claims::read(&authorization, &NAMES, Ids::of_issuer("https://issuer.example.com/"));
});

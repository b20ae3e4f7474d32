//! The Authorization header, and beside it the development headers: nobody gets in without the key.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shared::auth::Authenticator;
use shared::config::Config;
use shared::event::Pairs;
use shared::{Error, Request};

/// The key that signed the seeds is this one with another last letter, so that every seed is a forgery.
const KEY: &str = "0123456789abcdef0123456789abcdef";

static AUTHENTICATORS: LazyLock<[Authenticator; 2]> = LazyLock::new(|| {
    ["HS256", "HS512"].map(|algorithm| {
        let config = Config::from_variables(move |name| {
            let value = match name {
                "DATABASE_URL" => "postgres://app:pw@localhost/db",
                "REDIS_URL" => "redis://localhost",
                "JWT_SECRET_KEY" => KEY,
                "JWT_ALGORITHM" => algorithm,
                _ => return None,
            };
            Some(value.to_owned())
        });
        Authenticator::new(&config.unwrap_or_else(|error| panic!("{error}")).auth, KEY)
    })
});

fuzz_target!(|data: &[u8]| {
    let authorization = String::from_utf8_lossy(data).into_owned();
    let headers = [("authorization", authorization.as_str()), ("x-tenant-id", &authorization), ("x-user-id", "1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = Request { headers: Pairs(headers.into()), ..Request::default() };
    for authenticator in &*AUTHENTICATORS {
        assert!(matches!(authenticator.identify(&request), Err(Error::Unauthorized(_))), "{authorization}");
    }
});

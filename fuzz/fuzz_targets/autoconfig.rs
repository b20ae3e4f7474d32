//! What a domain says about its mail servers: none, or servers that can be used and shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::discover::{ADDRESS, LOCAL_PART, Offer, autoconfig};
use mail::dns::ascii_name;
use mail::login::Protocol;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = autoconfig::parse(data, "example.com") else { return };
    assert!((1..=8).contains(&config.incoming.len()) && config.smtp.len() <= 8, "{config:?}");
    assert!(config.oauth2.is_none() && config.app_password.is_none(), "{config:?}");
    for Offer { server, username } in config.incoming.iter().chain(&config.smtp) {
        assert_eq!(ascii_name(&server.host).as_ref(), Some(&server.host));
        assert!(server.host.contains('.') && server.port != 0, "{server:?}");
        assert!((1..=256).contains(&username.len()) && !username.contains(char::is_control), "{username:?}");
        // No placeholder is left that nobody fills in.
        assert!(!username.replace(ADDRESS, "").replace(LOCAL_PART, "").contains('%'), "{username:?}");
    }
    assert!(config.smtp.iter().all(|offer| offer.server.protocol == Protocol::Smtp), "{config:?}");
    assert!(config.incoming.iter().all(|offer| offer.server.protocol != Protocol::Smtp), "{config:?}");
});

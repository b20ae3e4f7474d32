//! The environment, `NAME=value` lines: a start with what was promised, or a refusal that repeats no value.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use shared::config::{Config, KeySource};
use shared::secrets::{MIN_SIGNING_KEY_BYTES, SecretSource};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let variables: HashMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let deployed = variables.get("AWS_LAMBDA_LOG_GROUP_NAME").is_some_and(|value| !value.trim().is_empty());
    let sam_local = variables.get("AWS_SAM_LOCAL").is_some_and(|value| value.trim() == "true");
    match Config::from_variables(move |name| variables.get(name).cloned()) {
        Ok(config) => {
            assert!(config.concurrency >= 1);
            assert!(!config.auth.allow_headers || !deployed || sam_local, "anybody may be anybody");
            if let SecretSource::Environment(secrets) = &config.secrets {
                assert!(!deployed || sam_local || secrets.database.is_tls(), "plain over a network that others share");
                let has_secret = matches!(config.auth.keys, KeySource::Secret);
                assert!(secrets.jwt_secret_key.is_some() || !has_secret, "nothing checks tokens");
                let printed = format!("{config:?}");
                for key in [&secrets.jwt_secret_key, &secrets.jwt_secret_key_previous].into_iter().flatten() {
                    let key = key.reveal();
                    assert!(key.len() >= MIN_SIGNING_KEY_BYTES && key.trim() == key);
                    // Where the same text also stands elsewhere, as a host name say, it may be shown.
                    assert!(text.matches(key).count() > 1 || !printed.contains(key), "{printed}");
                }
            }
            for origin in &config.public.cors_origins {
                let text = origin.as_bytes();
                assert!(text.starts_with(b"http") && !text.contains(&b'*'), "{origin:?}");
                assert!(!text.iter().any(u8::is_ascii_uppercase), "no browser sends {origin:?}");
            }
        }
        Err(error) => assert!(error.to_string().starts_with("bad configuration: ")),
    }
});

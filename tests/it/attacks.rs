//! Attacks that no other file tries.

#[cfg(target_os = "linux")]
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
#[cfg(target_os = "linux")]
use local::gateway::PayloadVersion;
use local::signing::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::issuer::PUBLIC;
use crate::support::{Api, JWT_KEY, User, account, api, lasting, merged, servers};
#[cfg(target_os = "linux")]
use crate::support::{Servers, connect};

/// Key confusion within one algorithm; `auth.rs::forged_tokens_are_refused` confuses the algorithms.
#[tokio::test]
async fn a_token_signed_with_something_public_or_with_the_key_in_another_form_is_refused() {
    let (api, user) = (api().await, User::new());
    let digits: String = JWT_KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
    for key in ["", "secret", "email_service", &digits, &JWT_KEY[..32], &JWT_KEY.to_uppercase()] {
        let key = EncodingKey::from_secret(key.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &user.claims(), &key).unwrap();
        api.get("/api/accounts").bearer(&token).send().await.is_refused(401);
    }
}

/// `cargo dev` runs in reach of every page in the developer's browser, which sends forms and plain text without asking.
#[tokio::test]
async fn a_web_page_can_use_the_local_gateway_in_no_name_but_an_origins_that_is_allowed() {
    let api = api().await;
    let user = User::new();
    let event = json!({
        "version": "2.0", "rawPath": "/api/accounts", "headers": {"authorization": format!("Bearer {}", user.token())},
        "requestContext": {"http": {"method": "POST", "path": "/api/accounts"}},
        "body": account(json!({})).to_string(),
    });
    let invoke = format!("{}/2015-03-31/functions/create-account/invocations", api.url());
    let list = format!("{}/api/accounts", api.url());
    let bearer = format!("Bearer {}", user.token());
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let http = reqwest::Client::new();
    for (name, value) in [("origin", "https://page.example"), ("origin", "null"), ("host", "rebound.example")] {
        let request = http.post(&invoke).header(name, value).header("content-type", "text/plain");
        assert_eq!(status(request.body(event.to_string())).await, 403, "{name} {value}");
    }
    let rebound = http.get(&list).header("host", "rebound.example").header("authorization", &bearer);
    assert_eq!(status(rebound).await, 403);
    assert!(api.addresses(&user).await.is_empty());

    // What the developer and their frontend do goes on.
    assert_eq!(status(http.post(&invoke).body(event.to_string())).await, 200);
    assert_eq!(api.addresses(&user).await.len(), 1);
    let frontend = api.get("/api/accounts").by(&user).header("origin", "http://localhost:3000").send().await;
    assert_eq!(frontend.header("access-control-allow-origin"), Some("http://localhost:3000"));
}

/// What a token's header says about where the key is counts for nothing, and nothing is fetched.
#[tokio::test]
async fn a_token_cannot_bring_its_own_key() {
    let (api, user) = (api().await, User::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    for change in ["jku", "x5u", "kid"] {
        let mut header = Header::new(Algorithm::HS256);
        match change {
            "jku" => header.jku = Some(url.clone()),
            "x5u" => header.x5u = Some(url.clone()),
            _ => header.kid = Some("../../../../dev/null' or '1'='1".to_owned()),
        }
        let key = EncodingKey::from_secret(b"a key that the attacker chose, long enough");
        let token = jsonwebtoken::encode(&header, &user.claims(), &key).unwrap();
        api.get("/api/accounts").bearer(&token).send().await.is_refused(401);
    }
    let called = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(called.is_err(), "the service went to fetch a key");
}

/// An algorithm, what checks its tokens, and who signs them.
async fn of_each_algorithm() -> Vec<(Algorithm, Api, SigningKey)> {
    let mut all = Vec::new();
    for algorithm in PUBLIC {
        let key = SigningKey::new(algorithm, "k").unwrap();
        let mut env = servers().await.env();
        env.insert("JWT_ALGORITHM", format!("{algorithm:?}"));
        env.insert("JWT_JWKS", json!({"keys": [key.jwk()]}).to_string());
        all.push((algorithm, Api::start(env).await, key));
    }
    all
}

/// The algorithm is the configuration's, whatever a token says; what is public signs nothing.
#[tokio::test]
async fn algorithms_and_keys_cannot_be_confused() {
    for (algorithm, api, key) in of_each_algorithm().await {
        let user = User::new();
        let name = format!("{algorithm:?}");
        let good = key.sign(&user.claims()).unwrap();
        assert_eq!(api.get("/api/accounts").bearer(&good).send().await.status, 200, "{name}");
        let mut forged = Vec::new();
        // The public key in every form that somebody may have at hand, as a secret.
        let jwk = key.jwk().to_string();
        let part = |part: &str| key.jwk()[part].as_str().unwrap_or_default().to_owned();
        let der: String = key.pem().lines().filter(|line| !line.starts_with('-')).collect();
        let der = BASE64_STANDARD.decode(der).unwrap();
        let raw = BASE64_URL_SAFE_NO_PAD.decode(part("x") + &part("n")).unwrap();
        let texts = [key.pem(), key.pem().trim(), &jwk, &part("n"), &part("x"), "", JWT_KEY];
        for secret in texts.map(str::as_bytes).into_iter().chain([&*der, &*raw]) {
            for hmac in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let header = Header { kid: Some("k".to_owned()), ..Header::new(hmac) };
                forged.push(jsonwebtoken::encode(&header, &user.claims(), &EncodingKey::from_secret(secret)).unwrap());
            }
            // And with a header that says the right thing.
            let message = [format!(r#"{{"alg":"{name}","kid":"k"}}"#), user.claims().to_string()]
                .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part))
                .join(".");
            let key = EncodingKey::from_secret(secret);
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            forged.push(format!("{message}.{signature}"));
        }
        // Good keys of other algorithms, and of this one.
        for other in PUBLIC {
            let attacker = SigningKey::new(other, "k").unwrap();
            forged.push(attacker.sign(&user.claims()).unwrap());
            let claims_to_be = format!(r#"{{"alg":"{name}","kid":"k"}}"#);
            forged.push(attacker.sign_as(other, &claims_to_be, &user.claims()).unwrap());
        }
        // The right key by the other padding of its kind, under either name.
        if let Some(other) = match algorithm {
            Algorithm::RS256 => Some(Algorithm::PS256),
            Algorithm::PS256 => Some(Algorithm::RS256),
            _ => None,
        } {
            for named in [algorithm, other] {
                let header = format!(r#"{{"alg":"{named:?}","kid":"k"}}"#);
                forged.push(key.sign_as(other, &header, &user.claims()).unwrap());
            }
        }
        // The right key, and a header that says something else, twice, or nothing.
        for header in [
            r#"{"alg":"none","kid":"k"}"#.to_owned(),
            r#"{"alg":"HS256","kid":"k"}"#.to_owned(),
            r#"{"kid":"k"}"#.to_owned(),
            format!(r#"{{"alg":"{name}","alg":"none","kid":"k"}}"#),
            format!(r#"{{"alg":"none","alg":"{name}","kid":"k"}}"#),
            format!(r#"{{"alg":["{name}"],"kid":"k"}}"#),
            format!(r#"{{"alg":"{}","kid":"k"}}"#, name.to_lowercase()),
            format!(r#"{{"alg":"{name}","kid":"k","crit":["exp"],"exp":1}}"#),
            format!(r#"{{"alg":"{name}","kid":"k","crit":["b64"],"b64":false}}"#),
            format!(r#"{{"alg":"{name}","kid":7}}"#),
            String::new(),
        ] {
            forged.push(key.sign_as(algorithm, &header, &user.claims()).unwrap());
        }
        // No signature, half of one, one of something else.
        let (message, signature) = good.rsplit_once('.').unwrap();
        let (head, payload) = message.split_once('.').unwrap();
        let others = key.sign(&User::new().claims()).unwrap();
        let (_, other_signature) = others.rsplit_once('.').unwrap();
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"None"}"#, r#"{"alg":"NONE","typ":"JWT"}"#] {
            let head = BASE64_URL_SAFE_NO_PAD.encode(header);
            forged.extend([format!("{head}.{payload}."), format!("{head}.{payload}.{signature}")]);
        }
        forged.extend([
            message.to_owned(),
            format!("{message}."),
            format!("{message}.{}", &signature[..signature.len() / 2]),
            format!("{message}.{signature}{signature}"),
            format!("{message}.{other_signature}"),
            format!("{message}.{signature}."),
            format!("{head}.{}.{signature}", others.split('.').nth(1).unwrap()),
        ]);
        // Expired, or for nobody.
        for change in [json!({"exp": 1}), json!({"exp": null}), json!({"nbf": 9e9}), json!({"user_id": null})] {
            forged.push(key.sign(&merged(user.claims(), change)).unwrap());
        }
        for token in forged {
            let answer = api.get("/api/accounts").bearer(&token).send().await;
            assert_eq!(answer.status, 401, "{name} {token}");
        }
    }
}

/// What a header says of where the key is counts for nothing, for any algorithm, and nothing is fetched; a name is a name
/// and no path.
#[tokio::test]
async fn a_token_of_any_algorithm_cannot_bring_its_own_key() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    for (algorithm, api, _) in of_each_algorithm().await {
        let user = User::new();
        let attacker = SigningKey::new(algorithm, "k").unwrap();
        let name = format!("{algorithm:?}");
        let own = attacker.jwk();
        for change in [
            json!({"jwk": own}),
            json!({"jwk": own, "kid": "k"}),
            json!({"jku": url}),
            json!({"jku": url, "kid": "k"}),
            json!({"x5u": url}),
            json!({"x5c": [BASE64_STANDARD.encode(attacker.pem())]}),
            json!({"kid": "../../../../dev/null"}),
            json!({"kid": "/proc/self/environ"}),
            json!({"kid": "k' or '1'='1"}),
            json!({"kid": "k\u{0}"}),
            json!({"kid": "k".repeat(4000)}),
            json!({"kid": url}),
        ] {
            let header = merged(json!({"alg": name, "typ": "JWT"}), change).to_string();
            let token = attacker.sign_as(algorithm, &header, &user.claims()).unwrap();
            let answer = api.get("/api/accounts").bearer(&token).send().await;
            assert_eq!(answer.status, 401, "{header}");
        }
    }
    let called = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(called.is_err(), "the service went to fetch a key");
}

/// ECDSA has signatures that careless code takes for good whatever was signed; and each good one has a twin, which is as
/// good, for the same token.
#[tokio::test]
async fn signatures_of_es256_are_numbers_of_the_right_size_and_not_zero() {
    // The order of P-256's group.
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&order[2 * n..2 * n + 2], 16).unwrap()).collect();
    let (_, api, key) = of_each_algorithm().await.swap_remove(2);
    let user = User::new();
    let good = key.sign(&user.claims()).unwrap();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = signature.split_at(32);
    let zero = [0; 32];
    let send = async |signature: Vec<u8>| {
        let token = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        api.get("/api/accounts").bearer(&token).send().await
    };
    let der = |n: &[u8]| [&[2, 33, 0], n].concat();
    let sequence = [&[0x30, 70], &*der(r), &*der(s)].concat();
    for bad in [
        [zero, zero].concat(),
        [r, &zero].concat(),
        [&zero, s].concat(),
        [&*order, &*order].concat(),
        [r, &*order].concat(),
        [&*order, s].concat(),
        [s, r].concat(),
        [&[0], &*signature].concat(),
        [&*signature, &[0]].concat(),
        signature[..63].to_vec(),
        sequence,
    ] {
        send(bad).await.is_refused(401);
    }
    // order - s, with what is borrowed from digit to digit.
    let mut borrowed = 0;
    let mut twin: Vec<u8> = order
        .iter()
        .zip(s)
        .rev()
        .map(|(o, s)| {
            let digit = i16::from(*o) - i16::from(*s) - borrowed;
            borrowed = i16::from(digit < 0);
            digit.rem_euclid(256) as u8
        })
        .collect();
    twin.reverse();
    let answer = send([r, &twin].concat()).await;
    assert_eq!((answer.status, &api.log_of(&answer).await["userId"]), (200, &json!(user.user)));
}

/// With the exponent 1 a text is its own signature, so anybody can sign for such a key; beside it is a good one.
#[tokio::test]
async fn an_rsa_key_that_anybody_can_sign_for_checks_nothing() {
    let good = SigningKey::new(Algorithm::RS256, "good").unwrap();
    let weak = merged(good.jwk().clone(), json!({"kid": "weak", "e": "AQ"}));
    let mut env = servers().await.env();
    env.insert("JWT_ALGORITHM", "RS256".to_owned());
    env.insert("JWT_JWKS", json!({"keys": [weak, good.jwk()]}).to_string());
    let (api, user) = (Api::start(env).await, User::new());
    let message = [r#"{"alg":"RS256","kid":"weak"}"#.to_owned(), user.claims().to_string()]
        .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part))
        .join(".");
    // RFC 8017, 9.2.
    let prefix = [0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20];
    let hash = Sha256::digest(message.as_bytes());
    let signature = [&[0, 1], &*vec![0xff; 256 - 3 - prefix.len() - 32], &[0], &prefix, &*hash].concat();
    let forged = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
    api.get("/api/accounts").bearer(&forged).send().await.is_refused(401);
    let token = good.sign(&user.claims()).unwrap();
    assert_eq!(api.get("/api/accounts").bearer(&token).send().await.status, 200);
}

#[tokio::test]
async fn tokens_are_read_up_to_8_kib() {
    let (api, user) = (api().await, User::new());
    let padded = |length: usize| user.token_with(json!({"padding": "x".repeat(length)}));
    let (fits, large) = (padded(5900), padded(6000));
    assert!((8100..=8192).contains(&fits.len()) && large.len() > 8192, "{} {}", fits.len(), large.len());
    assert_eq!(api.get("/api/accounts").bearer(&fits).send().await.status, 200);
    api.get("/api/accounts").bearer(&large).send().await.is_refused(401);
}

/// CR and LF cannot travel in a header; what API Gateway decodes, and the escapes of JSON, can hold them.
#[tokio::test]
async fn line_breaks_in_any_logged_value_stay_inside_its_line() {
    let (api, user, breaks) = (api().await, User::new(), "\r\n{\"message\":\"forged\"}\u{2028}\u{85}\u{1b}[2J");
    let event = json!({
        "routeKey": format!("GET /api/accounts{breaks}"), "rawPath": format!("/api/accounts{breaks}"),
        "rawQueryString": "",
        "headers": {
            "authorization": format!("Bearer {}", user.token()), "origin": breaks, "host": breaks,
            "x-tenant-id": format!("{breaks}{}", "x".repeat(5000)), "x-user-id": breaks, "user-agent": breaks
        },
        "requestContext": {"http": {"method": format!("GET{breaks}"), "sourceIp": breaks, "userAgent": breaks}}
    });
    for (function, status) in [("list-accounts", 403), ("default-route", 404)] {
        // The process that this may start is the run's, not this test's.
        let event = event.clone();
        let answer = lasting(async move { api.gateway.invoke(function, event).await }).await.unwrap().unwrap();
        assert_eq!(answer["statusCode"], status, "{answer}");
        for (name, value) in answer["headers"].as_object().unwrap() {
            assert!(!value.as_str().unwrap().contains(['\r', '\n']), "{name}");
        }
        let id = answer["headers"]["x-request-id"].clone();
        let line = api.log_line(|line| line["requestId"] == id && line["message"] == "request").await;
        assert_eq!(line["sourceIp"], breaks);
    }
    let warning = api
        .log_line(|line| line["message"] == "identity_override_blocked" && line["tenantId"] == json!(user.tenant))
        .await;
    let claimed = warning["claimedTenantId"].as_str().unwrap();
    assert!(claimed.chars().count() <= 72, "a client chooses how long our lines are");
    for line in api.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON line: {line}"));
        assert_ne!(line["message"], "forged");
    }
}

#[tokio::test]
async fn neither_token_nor_password_is_logged_at_any_level() {
    let mut env = servers().await.env();
    env.insert("LOG_LEVEL", "trace".to_owned());
    let (api, user, password) = (Api::start(env).await, User::new(), "a password that nobody may read");
    let token = user.token();
    let created = api.create(&user, json!({"password": password})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    for request in [
        api.put(&one, json!({"password": password})),
        api.put(&one, json!({"password": [password]})),
        api.post("/api/accounts", account(json!({"password": password}))),
        api.request("POST", "/api/accounts").body(format!("{{\"password\":\"{password}\",")),
        api.request("POST", "/api/accounts").header("content-type", "text/plain").body(password),
        api.request("PATCH", "/api/accounts").body(password),
    ] {
        let answer = request.bearer(&token).send().await;
        assert!(!answer.body.to_string().contains(password), "{answer:?}");
        api.log_of(&answer).await;
    }
    api.log_of(&api.get("/api/accounts").bearer(&format!("{token}x")).send().await).await;
    let log = api.log();
    for secret in [password, &token, token.rsplit('.').next().unwrap(), "Bearer", JWT_KEY] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// That a foreign id is 403 and an unknown one 404 is the contract's; nothing else tells of the other side.
#[tokio::test]
async fn addresses_of_others_cannot_be_found_out() {
    let (api, victim, attacker) = (api().await, User::new(), User::new());
    let created = api.create(&victim, json!({"emailAddress": "victim@example.com"})).await;
    // The same address: no conflict, so nothing is learnt.
    api.create(&attacker, json!({"emailAddress": "victim@example.com"})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let mut messages = Vec::new();
    for address in ["victim@example.com", "free@example.com"] {
        let refusal = api.put(&path, json!({"emailAddress": address})).by(&attacker).send().await;
        refusal.is_refused(403);
        assert!(!refusal.body.to_string().contains("victim"), "{refusal:?}");
        messages.push(refusal.body["message"].clone());
    }
    assert_eq!(messages[0], messages[1]);
    for user in [User::new(), victim.colleague()] {
        assert_eq!(api.get("/api/accounts").by(&user).send().await.body["pagination"]["total"], 0);
    }
}

#[tokio::test]
async fn sql_in_every_place_that_takes_text_is_text() {
    let (api, user) = (api().await, User::new());
    for sql in ["'; drop table email_accounts; --", "' or '1'='1", "$1", "%s%n", "\\'; select pg_sleep(10); --"] {
        let address = format!("{}@example.com", Uuid::new_v4());
        let fields = json!({"accountName": sql, "username": sql, "password": sql, "emailAddress": address});
        let created = api.create(&user, fields).await;
        assert_eq!((&created["accountName"], &created["username"]), (&json!(sql), &json!(sql)));
        let encoded: String = sql.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for name in ["limit", "offset"] {
            api.get(&format!("/api/accounts?{name}={encoded}")).by(&user).send().await.is_refused(400);
        }
        api.get(&format!("/api/accounts/{encoded}")).by(&user).send().await.is_refused(404);
    }
    assert_eq!(api.addresses(&user).await.len(), 5);
}

/// Nested deeply, repeated, enormous: each costs the sender an error and the service next to nothing.
#[tokio::test]
async fn json_made_to_hurt_is_refused_quickly() {
    let (api, user) = (api().await, User::new());
    let repeated = format!("{{{}\"port\":1}}", "\"port\":993,".repeat(5000));
    let many = format!("{{{}\"x\":1}}", (0..5000).map(|n| format!("\"k{n}\":0,")).collect::<String>());
    let number = format!("{{\"port\":1{}}}", "0".repeat(60_000));
    for body in ["[".repeat(60_000), "{\"a\":".repeat(10_000), number, repeated, many] {
        let started = Instant::now();
        api.request("POST", "/api/accounts").body(body).by(&user).send().await.is_refused(400);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

/// A good body with everything that an attacker would like to set, on both ways in.
#[tokio::test]
async fn neither_create_nor_update_can_hand_an_account_to_somebody_else() {
    let (api, user, victim) = (api().await, User::new(), User::new());
    let foreign = api.create(&victim, json!({})).await;
    let wish = json!({
        "id": foreign["id"], "tenantId": victim.tenant, "userId": victim.user, "tenant_id": victim.tenant,
        "user_id": victim.user, "credentialId": foreign["credentialId"], "credential_id": foreign["credentialId"],
        "createdAt": 0, "updatedAt": 0, "lastSyncAt": 1, "isSyncing": true, "__proto__": {"isEnabled": false}
    });
    let created = api.create(&user, wish.clone()).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let updated = api.put(&path, merged(wish, json!({"port": 7}))).by(&user).send().await.body;
    for account in [&created, &updated] {
        assert_eq!((&account["tenantId"], &account["userId"]), (&json!(user.tenant), &json!(user.user)));
        assert_ne!(account["credentialId"], foreign["credentialId"]);
        assert_ne!(account["id"], foreign["id"]);
        assert_eq!((&account["lastSyncAt"], &account["isSyncing"]), (&Value::Null, &json!(false)));
        assert!(account["createdAt"].as_i64().unwrap() > 1_600_000_000_000);
    }
    let path = format!("/api/accounts/{}", foreign["id"].as_str().unwrap());
    assert_eq!(api.get(&path).by(&victim).send().await.body, foreign);
}

/// Whether something was sent to a process, over a connection that still stands, that it has not read.
#[cfg(target_os = "linux")]
fn has_unread_input(pid: u32) -> bool {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let sockets: Vec<_> = links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    table.lines().skip(1).any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let socket = format!("socket:[{}]", columns[9]);
        // State 1 is an established connection; the queues read `sent:received`.
        columns[3] == "01"
            && !columns[4].ends_with(":00000000")
            && sockets.iter().any(|link| link.as_os_str() == socket.as_str())
    })
}

/// Lambda freezes a function between requests. Meanwhile PostgreSQL, a proxy or a firewall may close its connection.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_first_request_after_a_freeze_does_not_meet_the_dead_connection() {
    let servers = Servers::start().await;
    let api = Api::start_as(servers.env(), PayloadVersion::V2, 1).await;
    let user = User::new();
    assert_eq!(api.get("/api/accounts").by(&user).send().await.status, 200);
    let pid = api.gateway.pids("list-accounts").unwrap()[0];
    let signal =
        |signal: &str| assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    let owner = connect(&servers.postgres.owner_url("app")).await;
    let connections = "select count(*) from pg_stat_activity where usename = 'email_service_reader'";
    for _ in 0..10 {
        signal("-STOP");
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'email_service_reader'";
        owner.execute(cut, &[]).await.unwrap();
        while owner.query_one(connections, &[]).await.unwrap().get::<_, i64>(0) > 0 {}
        // The request is there before the function thaws, as it is on Lambda.
        let request = api.get("/api/accounts").by(&user).send();
        let thaw = async {
            // Stopped before it asked for an event, it gets none; then this is a round like any other request.
            let deadline = Instant::now() + Duration::from_secs(1);
            while !has_unread_input(pid) && Instant::now() < deadline {
                tokio::task::yield_now().await;
            }
            signal("-CONT");
        };
        let (answer, ()) = tokio::join!(request, thaw);
        assert_eq!(answer.status, 200, "{}", api.log_of(&answer).await);
    }
}

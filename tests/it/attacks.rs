//! Attacks that no other file tries.

#[cfg(target_os = "linux")]
use std::process::Command;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
#[cfg(target_os = "linux")]
use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use uuid::Uuid;

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
    let connections = "select count(*) from pg_stat_activity where usename = 'email_service_app'";
    for _ in 0..10 {
        signal("-STOP");
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'email_service_app'";
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

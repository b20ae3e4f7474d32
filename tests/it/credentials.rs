//! Passwords go in and never come out.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::credential::{Credential, Password};
use shared::validation::Field;
use uuid::Uuid;

use crate::support::{Api, User, account, api, owner};

/// The stored algorithm, hash and salt of an account.
async fn stored(account: &Value) -> [String; 3] {
    let id: Uuid = account["credentialId"].as_str().unwrap().parse().unwrap();
    let row = owner()
        .await
        .query_one("select algorithm, password_hash, salt from email_credentials where id = $1", &[&id])
        .await
        .unwrap();
    [0, 1, 2].map(|column| row.get(column))
}

fn verifies(stored: &[String; 3], password: &str) -> bool {
    let credential = Credential::from_hex(&stored[1], &stored[2]).expect("lower-case hex of 64 and 32 bytes");
    credential.verify(&Password::read(json!(password)).unwrap())
}

#[tokio::test]
async fn the_stored_hash_verifies_the_password_as_it_was_typed() {
    let (api, user) = (api().await, User::new());
    for (n, password) in ["hunter2", "  with spaces  ", "  ", "пароль 🔑", &"x".repeat(1023)].into_iter().enumerate()
    {
        let created =
            api.create(&user, json!({"emailAddress": format!("{n}@example.com"), "password": password})).await;
        let stored = stored(&created).await;
        assert_eq!(stored[0], "sha512");
        assert!(verifies(&stored, password));
        assert!(!verifies(&stored, &format!("{password}x")));
    }
}

#[tokio::test]
async fn two_accounts_with_one_password_share_neither_salt_nor_hash() {
    let (api, user) = (api().await, User::new());
    let first = stored(&api.create(&user, json!({"emailAddress": "1@example.com"})).await).await;
    let second = stored(&api.create(&user, json!({"emailAddress": "2@example.com"})).await).await;
    assert_ne!(first[1], second[1]);
    assert_ne!(first[2], second[2]);
}

#[tokio::test]
async fn a_new_password_gets_a_new_salt_and_nothing_else_changes_it() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({"password": "old password"})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let old = stored(&created).await;
    api.put(&path, json!({"port": 1})).by(&user).send().await;
    assert_eq!(stored(&created).await, old);

    let answer = api.put(&path, json!({"password": "new password"})).by(&user).send().await;
    assert_eq!(answer.body["credentialId"], created["credentialId"]);
    let new = stored(&created).await;
    assert!(verifies(&new, "new password") && !verifies(&new, "old password"));
    assert_ne!(old[2], new[2]);

    // The same password again is a change, too: it gets another salt.
    let again = api.put(&path, json!({"password": "new password"})).by(&user).send().await;
    assert!(again.body["updatedAt"].as_i64() > answer.body["updatedAt"].as_i64());
    assert_ne!(stored(&created).await[2], new[2]);
}

#[tokio::test]
async fn a_password_is_in_no_answer_and_no_log_line() {
    let (api, user) = (api().await, User::new());
    let secret = "s3cr3t-of-this-test";
    let created = api.create(&user, json!({"password": secret})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let mut answers = vec![
        api.get(&path).by(&user).send().await,
        api.get("/api/accounts").by(&user).send().await,
        api.put(&path, json!({"password": format!("{secret}2")})).by(&user).send().await,
        // Refusals of every kind that has seen the password.
        api.post("/api/accounts", account(json!({"password": secret}))).by(&user).send().await,
        api.post("/api/accounts", account(json!({"password": secret, "port": 0}))).by(&user).send().await,
        api.post("/api/accounts", account(json!({"password": format!("{secret}\u{0}")}))).by(&user).send().await,
        api.post("/api/accounts", account(json!({"password": [secret]}))).by(&user).send().await,
        api.post("/api/accounts", json!(secret)).by(&user).send().await,
        api.request("POST", "/api/accounts").body(format!("{{\"password\":\"{secret}\" oops")).by(&user).send().await,
        api.request("POST", "/api/accounts")
            .body(format!("password={secret}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .by(&user)
            .send()
            .await,
    ];
    let [_, hash, salt] = stored(&created).await;
    answers.push(api.delete(&path).by(&user).send().await);
    for answer in &answers {
        let text = format!("{answer:?}");
        assert!(![secret, &hash, &salt].iter().any(|s| text.contains(*s)), "{text}");
        api.log_of(answer).await;
    }
    let log = api.log();
    assert!(![secret, &hash, &salt, &user.token()].iter().any(|s| log.contains(*s)));
}

/// The region of a function's writable memory that holds a text, other than the stack: that is not wiped, but written
/// over, by the next request at the latest.
#[cfg(target_os = "linux")]
pub fn found_on_the_heap(api: &Api, function: &str, text: &str) -> Option<String> {
    use std::os::unix::fs::FileExt;
    let pid = api.gateway.pids(function).unwrap()[0];
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let holds = |region: &&str| {
        let (start, end) = region.split_whitespace().next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // One that cannot be read has just been given back.
        memory.read_exact_at(&mut bytes, start).is_ok()
            && bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    let mut heap = maps.lines().filter(|line| line.contains(" rw") && !line.ends_with("[stack]"));
    heap.find(holds).map(str::to_owned)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_password_is_not_left_in_the_memory_of_a_function() {
    let servers = crate::support::servers().await;
    let api = Api::start_as(servers.env(), local::gateway::PayloadVersion::V2, 1).await;
    let user = User::new();
    let created = api.create(&user, json!({"emailAddress": "first@example.com"})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let secrets: Vec<String> = (0..8).map(|_| Uuid::new_v4().to_string()).collect();
    let long = format!("{}{}", "x".repeat(900), secrets[5]);
    let cut_off = api.request("POST", "/api/accounts").body(format!(r#"{{"password": "{}""#, secrets[2]));
    // Fields that nobody takes.
    let [other_field, after_much] =
        [json!({"Password": secrets[3]}), json!({"x": ["y".repeat(50_000), secrets[7]]})].map(account);
    let requests = [
        ("create-account", 201, api.post("/api/accounts", account(json!({"password": secrets[0]})))),
        ("create-account", 400, api.post("/api/accounts", account(json!({"port": 0, "password": secrets[1]})))),
        ("create-account", 400, cut_off),
        ("create-account", 409, api.post("/api/accounts", other_field)),
        ("update-account", 200, api.put(&one, json!({"password": secrets[4]}))),
        ("update-account", 200, api.put(&one, json!({"password": long}))),
        ("default-route", 404, api.post("/api/account", account(json!({"password": secrets[6]})))),
        ("create-account", 409, api.post("/api/accounts", after_much)),
    ];
    for ((function, status, request), secret) in requests.into_iter().zip(&secrets) {
        let answer = request.by(&user).send().await;
        assert_eq!(answer.status, status, "{answer:?}");
        // The process answers before it lets go of everything.
        let started = Instant::now();
        while let Some(region) = found_on_the_heap(&api, function, secret) {
            let is_early = started.elapsed() < Duration::from_secs(10);
            assert!(is_early, "{function} still has a password of a {status} in {region}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // What the large event leaves is the runtime's room for events. Small ones stay in it until others come.
    let secret = Uuid::new_v4().to_string();
    let mut password = secret.clone();
    let mut requests = 0;
    while requests == 0 || found_on_the_heap(&api, "create-account", &secret).is_some() {
        api.post("/api/accounts", account(json!({"password": password}))).by(&user).send().await.is_refused(409);
        password = "another".to_owned();
        requests += 1;
        assert!(requests < 100, "{requests} requests later, a password is still there");
    }
}

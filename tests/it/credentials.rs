//! Passwords go in and never come out.

use serde_json::{Value, json};
use shared::credential::{Credential, Password};
use shared::validation::Field;
use uuid::Uuid;

use crate::support::{User, account, api, owner};

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
    let answers = [
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
        api.delete(&path).by(&user).send().await,
    ];
    let [_, hash, salt] = stored(&created).await;
    for answer in &answers {
        let text = format!("{answer:?}");
        assert!(![secret, &hash, &salt].iter().any(|s| text.contains(*s)), "{text}");
        api.log_of(answer).await;
    }
    let log = api.log();
    assert!(![secret, &hash, &salt, &user.token()].iter().any(|s| log.contains(*s)));
}

//! Create, list, get, update, delete.

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{User, account, api, owner, without};

fn path(account: &Value) -> String {
    format!("/api/accounts/{}", account["id"].as_str().unwrap())
}

#[tokio::test]
async fn create_answers_with_the_account_and_where_it_is() {
    let (api, user) = (api().await, User::new());
    let answer = api
        .post("/api/accounts", account(json!({"accountName": "  Büro ☕ ", "protocol": "IMAP"})))
        .by(&user)
        .send()
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("location"), Some(path(&answer.body).as_str()));
    let body = answer.body.as_object().unwrap();
    let mut names: Vec<_> = body.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accountName",
            "authType",
            "createdAt",
            "credentialId",
            "emailAddress",
            "encryption",
            "hostname",
            "id",
            "isEnabled",
            "isSyncEnabled",
            "isSyncing",
            "lastError",
            "lastSyncAt",
            "nextSyncAt",
            "port",
            "protocol",
            "provider",
            "smtpEncryption",
            "smtpHostname",
            "smtpPort",
            "smtpUsername",
            "state",
            "stateChangedAt",
            "syncInterval",
            "tenantId",
            "updatedAt",
            "userId",
            "username",
        ]
    );
    for (name, value) in [
        ("tenantId", json!(user.tenant)),
        ("userId", json!(user.user)),
        ("accountName", json!("Büro ☕")),
        ("protocol", json!("imap")),
        ("encryption", json!("tls")),
        ("isSyncEnabled", json!(true)),
        ("syncInterval", json!(300)),
        ("lastSyncAt", Value::Null),
        ("isSyncing", json!(false)),
        ("isEnabled", json!(true)),
        ("port", json!(993)),
    ] {
        assert_eq!(body[name], value, "{name}");
    }
    assert_eq!(body["createdAt"], body["updatedAt"]);
    assert!(body["createdAt"].as_i64().unwrap() > 1_700_000_000_000, "milliseconds since the epoch");
    let id: Uuid = body["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
}

#[tokio::test]
async fn create_without_identity_is_refused() {
    api().await.post("/api/accounts", account(json!({}))).send().await.is_refused(401);
}

#[tokio::test]
async fn create_names_every_missing_field() {
    let answer = api().await.post("/api/accounts", json!({})).by(&User::new()).send().await;
    answer.is_refused(400);
    assert_eq!(
        answer.faults(),
        ["accountName", "emailAddress", "hostname", "password", "port", "protocol", "username"]
    );
    for field in answer.faults() {
        let answer =
            api().await.post("/api/accounts", without(account(json!({})), field)).by(&User::new()).send().await;
        answer.is_refused(400);
        assert_eq!(answer.faults(), [field]);
    }
}

/// Values for each field that are just good, and just not, for create and update alike.
fn boundaries() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let long_address = format!("{}@{}.{}.{}.com", "a".repeat(64), "b".repeat(61), "c".repeat(61), "d".repeat(61));
    let long_host = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    vec![
        (
            "accountName",
            vec![json!("x"), json!("é".repeat(255)), json!(format!(" {} ", "x".repeat(255)))],
            vec![
                json!(""),
                json!("  "),
                json!("x".repeat(256)),
                json!(1),
                json!(null),
                json!("a\u{0}b"),
                json!("a\u{1b}b"),
                json!(["x"]),
            ],
        ),
        (
            "emailAddress",
            vec![
                json!("a@b.co"),
                json!("Jürgen@bücher.example"),
                json!("संपर्क@डाटा.example"),
                json!("ติดต่อ@ตัวอย่าง.example"),
                json!("😀@example.com"),
                json!("\"jane doe\"@example.com"),
                json!(long_address),
            ],
            vec![
                json!("jane"),
                json!("jane@"),
                json!("@b.co"),
                json!("jane@exam!ple.com"),
                json!("jane@exam#ple.com"),
                json!("jane@my_office.example.com"),
                json!(format!("{long_address}m")),
                json!(""),
                json!(1),
                json!(null),
                json!("a\u{0}@b.co"),
            ],
        ),
        ("protocol", vec![json!("imap"), json!("POP3")], vec![json!("smtp"), json!(""), json!(1), json!(null)]),
        (
            "hostname",
            vec![
                json!("localhost"),
                json!("192.0.2.1"),
                json!("2001:db8::1"),
                json!("imap.bücher.example"),
                json!(long_host),
            ],
            vec![
                json!(format!("{long_host}x")),
                json!("a b"),
                json!("-a.com"),
                json!("256.1.1.1"),
                json!(""),
                json!(1),
                json!(null),
                json!("a\u{0}.com"),
            ],
        ),
        (
            "port",
            vec![json!(1), json!(65535)],
            vec![
                json!(0),
                json!(65536),
                json!(-1),
                json!("993"),
                json!(993.5),
                json!(1e30),
                json!(u64::MAX),
                json!(true),
                json!(null),
            ],
        ),
        ("encryption", vec![json!("none"), json!("StartTLS")], vec![json!("ssl"), json!(""), json!(true), json!(null)]),
        (
            "username",
            vec![json!("u"), json!("ü".repeat(255))],
            vec![json!(""), json!("u".repeat(256)), json!("a\nb"), json!(1), json!(null)],
        ),
        (
            "password",
            vec![json!(" "), json!("x".repeat(1024)), json!("tab\tand\u{1}control")],
            vec![json!(""), json!("x".repeat(1025)), json!("é".repeat(513)), json!("a\u{0}b"), json!(1), json!(null)],
        ),
        ("isSyncEnabled", vec![json!(false)], vec![json!(1), json!("true"), json!(null)]),
        (
            "syncInterval",
            vec![json!(60), json!(3600)],
            vec![json!(59), json!(3601), json!("300"), json!(60.5), json!(null)],
        ),
    ]
}

#[tokio::test]
async fn create_keeps_to_the_boundaries_of_every_field() {
    let api = api().await;
    for (field, good, bad) in boundaries() {
        for value in good {
            let answer = api.post("/api/accounts", account(json!({field: value}))).by(&User::new()).send().await;
            assert_eq!(answer.status, 201, "{field} {value}: {answer:?}");
        }
        for value in bad {
            let answer = api.post("/api/accounts", account(json!({field: value}))).by(&User::new()).send().await;
            assert_eq!(answer.status, 400, "{field} {value}: {answer:?}");
            assert_eq!(answer.faults(), [field], "{value}");
        }
    }
}

#[tokio::test]
async fn update_keeps_to_the_boundaries_of_every_field() {
    let (api, user) = (api().await, User::new());
    let path = path(&api.create(&user, json!({})).await);
    for (field, good, bad) in boundaries() {
        for value in good {
            let answer = api.put(&path, json!({field: value})).by(&user).send().await;
            assert_eq!(answer.status, 200, "{field} {value}: {answer:?}");
        }
        let before = api.get(&path).by(&user).send().await.body;
        for value in bad {
            let answer = api.put(&path, json!({field: value, "accountName": "Changed?"})).by(&user).send().await;
            if field != "accountName" {
                assert_eq!(answer.status, 400, "{field} {value}: {answer:?}");
                assert_eq!(answer.faults(), [field], "{value}");
            }
        }
        if field != "accountName" {
            assert_eq!(api.get(&path).by(&user).send().await.body, before, "a refused update changed something");
        }
    }
}

#[tokio::test]
async fn create_with_an_invalid_port_protocol_or_encryption_is_refused_with_all_of_them() {
    let body = account(json!({"port": 70000, "protocol": "smtp", "encryption": "ssl3"}));
    let answer = api().await.post("/api/accounts", body).by(&User::new()).send().await;
    answer.is_refused(400);
    assert_eq!(answer.faults(), ["encryption", "port", "protocol"]);
}

/// Many frontends show `message` and nothing else.
#[tokio::test]
async fn the_message_alone_says_what_is_wrong() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let missing = without(without(account(json!({})), "accountName"), "port");
    for (body, message) in [
        (account(json!({"port": 70000})), "Port must be between 1 and 65535"),
        (account(json!({"port": "993"})), "Port must be between 1 and 65535"),
        (missing.clone(), "Missing required fields: accountName, port"),
        (account(json!({"emailAddress": "jane@exam!ple.com"})), "Invalid email address"),
        (account(json!({"protocol": "smtp"})), "Protocol must be imap or pop3"),
        (account(json!({"encryption": "ssl"})), "Encryption must be tls, starttls or none"),
        (account(json!({"syncInterval": 5})), "Sync interval must be between 60 and 3600 seconds"),
        (account(json!({"isSyncEnabled": 1})), "isSyncEnabled must be true or false"),
        (
            account(json!({"accountName": " "})),
            "Account name must be a string of 1 to 255 characters after trimming, without control characters",
        ),
        (account(json!({"password": ""})), "Password must be a string of 1 to 1024 bytes, without NUL"),
        (
            crate::support::merged(missing, json!({"protocol": "smtp", "emailAddress": "jane"})),
            "Missing required fields: accountName, port; Invalid email address; Protocol must be imap or pop3",
        ),
    ] {
        let answer = api.post("/api/accounts", body).by(&user).send().await;
        answer.is_refused(400);
        assert_eq!(answer.body["message"], message);
        assert!(!answer.faults().is_empty());
    }
    let answer = api.put(&path(&created), json!({"port": 0, "isEnabled": "no"})).by(&user).send().await;
    assert_eq!(answer.body["message"], "Port must be between 1 and 65535; isEnabled must be true or false");
    let answer = api.get("/api/accounts?limit=0&offset=-1").by(&user).send().await;
    assert_eq!(answer.body["message"], "Limit must be between 1 and 1000; Offset must be 0 or more");
}

#[tokio::test]
async fn clients_cannot_choose_what_is_not_theirs() {
    let (api, user, victim) = (api().await, User::new(), User::new());
    let forged = json!({
        "id": Uuid::nil(), "tenantId": victim.tenant, "userId": victim.user, "credentialId": Uuid::nil(), "createdAt": 1, "isEnabled": false,
        "isSyncing": true, "lastSyncAt": 1, "tenant_id": victim.tenant
    });
    let created = api.create(&user, forged.clone()).await;
    let updated = api.put(&path(&created), crate::support::without(forged, "isEnabled")).by(&user).send().await.body;
    for account in [created, updated] {
        assert_eq!(account["tenantId"], json!(user.tenant));
        assert_eq!(account["userId"], json!(user.user));
        assert_ne!(account["id"], json!(Uuid::nil()));
        assert_ne!(account["credentialId"], json!(Uuid::nil()));
        assert_eq!(
            (&account["isEnabled"], &account["isSyncing"], &account["lastSyncAt"]),
            (&json!(true), &json!(false), &Value::Null)
        );
    }
    assert!(api.addresses(&victim).await.is_empty());
}

#[tokio::test]
async fn an_address_is_taken_once_in_any_letter_case_but_per_user() {
    let (api, user) = (api().await, User::new());
    api.create(&user, json!({"emailAddress": "Jane@Example.com"})).await;
    let again = account(json!({"emailAddress": "jane@EXAMPLE.com", "password": "another"}));
    let answer = api.post("/api/accounts", again).by(&user).send().await;
    answer.is_refused(409);
    assert_eq!(api.addresses(&user).await, ["Jane@Example.com"]);
    api.create(&user.colleague(), json!({"emailAddress": "Jane@Example.com"})).await;
    api.create(&User::new(), json!({"emailAddress": "Jane@Example.com"})).await;
}

#[tokio::test]
async fn of_racing_creates_one_wins_and_the_others_leave_nothing() {
    let (api, user) = (api().await, User::new());
    let race = (0..8).map(|_| api.post("/api/accounts", account(json!({}))).by(&user).send());
    let mut statuses: Vec<_> = join_all(race).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    assert_eq!(api.addresses(&user).await.len(), 1);
    let orphans = "select count(*) from email_credentials where tenant_id = $1";
    assert_eq!(owner().await.query_one(orphans, &[&user.tenant]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn list_is_empty_at_first() {
    let answer = api().await.get("/api/accounts").by(&User::new()).send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, json!({"accounts": [], "pagination": {"total": 0, "limit": 100, "offset": 0}}));
}

#[tokio::test]
async fn list_pages_through_newest_first_without_gap_or_repetition() {
    let (api, user) = (api().await, User::new());
    for n in 0..5 {
        api.create(&user, json!({"emailAddress": format!("{n}@example.com")})).await;
    }
    let mut seen = Vec::new();
    for offset in [0, 2, 4, 6] {
        let page = api.get(&format!("/api/accounts?limit=2&offset={offset}")).by(&user).send().await.body;
        assert_eq!(page["pagination"], json!({"total": 5, "limit": 2, "offset": offset}));
        let accounts = page["accounts"].as_array().unwrap();
        seen.extend(accounts.iter().map(|account| account["emailAddress"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen, ["4@example.com", "3@example.com", "2@example.com", "1@example.com", "0@example.com"]);
}

/// Any page is the slice of the whole list that the model cuts out, also where it reaches beyond the end.
#[tokio::test]
async fn any_page_is_a_slice_of_the_whole_list() {
    let (api, user) = (api().await, User::new());
    for n in 0..23 {
        api.create(&user, json!({"emailAddress": format!("{n}@example.com")})).await;
    }
    let whole = api.addresses(&user).await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..50 {
        let page = (1..=30_usize, prop_oneof![0..30_usize, Just(usize::MAX / 2)]);
        let (limit, offset) = page.new_tree(&mut runner).unwrap().current();
        let answer = api.get(&format!("/api/accounts?limit={limit}&offset={offset}")).by(&user).send().await;
        assert_eq!(answer.body["pagination"], json!({"total": 23, "limit": limit, "offset": offset}));
        let accounts = answer.body["accounts"].as_array().unwrap();
        let listed: Vec<_> = accounts.iter().map(|account| account["emailAddress"].as_str().unwrap()).collect();
        let expected: Vec<_> = whole.iter().skip(offset).take(limit).collect();
        assert_eq!(listed, expected, "{limit} {offset}");
    }
}

#[tokio::test]
async fn list_refuses_bad_pages() {
    let (api, user) = (api().await, User::new());
    for (query, faults) in [
        ("limit=0", vec!["limit"]),
        ("limit=1001", vec!["limit"]),
        ("limit=ten", vec!["limit"]),
        ("limit=", vec!["limit"]),
        ("limit=1.5", vec!["limit"]),
        ("limit=1&limit=2", vec!["limit"]),
        ("offset=-1", vec!["offset"]),
        ("limit=%00&offset=%ff", vec!["limit", "offset"]),
        ("offset=99999999999999999999", vec!["offset"]),
    ] {
        let answer = api.get(&format!("/api/accounts?{query}")).by(&user).send().await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert_eq!(answer.faults(), faults, "{query}");
    }
    for query in ["limit=1", "limit=1000", "offset=9223372036854775807", "unknown=x", "limit=1&&="] {
        assert_eq!(api.get(&format!("/api/accounts?{query}")).by(&user).send().await.status, 200, "{query}");
    }
}

#[tokio::test]
async fn list_without_identity_is_refused() {
    api().await.get("/api/accounts").send().await.is_refused(401);
}

#[tokio::test]
async fn get_answers_with_what_create_did() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let answer = api.get(&path(&created)).by(&user).send().await;
    assert_eq!((answer.status, answer.body), (200, created));
}

#[tokio::test]
async fn unknown_and_malformed_ids_are_not_found_for_every_method() {
    let (api, user) = (api().await, User::new());
    let unknown = Uuid::now_v7().to_string();
    for id in [
        unknown.as_str(),
        "1",
        "%00",
        "%ff",
        "%E2%82",
        "..%2f..%2fhealth",
        "a'%20or%201=1--",
        "%F0%9F%A6%80",
        &"x".repeat(2000),
        &unknown.replace('-', ""),
    ] {
        let path = format!("/api/accounts/{id}");
        api.get(&path).by(&user).send().await.is_refused(404);
        api.put(&path, json!({"port": 1})).by(&user).send().await.is_refused(404);
        api.delete(&path).by(&user).send().await.is_refused(404);
    }
}

#[tokio::test]
async fn update_changes_what_it_names_and_nothing_else() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let change = json!({"accountName": "Home", "emailAddress": "home@example.org", "protocol": "POP3", "hostname": "pop.example.org", "port": 110,
        "encryption": "STARTTLS", "username": "home", "isSyncEnabled": false, "syncInterval": 600});
    let mut before = created.clone();
    for (field, value) in change.as_object().unwrap() {
        let answer = api.put(&path(&created), json!({field: value})).by(&user).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut expected = before.clone();
        expected[field] = value
            .as_str()
            .filter(|_| matches!(field.as_str(), "protocol" | "encryption"))
            .map_or(value.clone(), |v| json!(v.to_lowercase()));
        expected["updatedAt"] = answer.body["updatedAt"].clone();
        if ["protocol", "hostname", "port", "encryption", "username"].contains(&field.as_str()) {
            // What matters to signing in makes the account due.
            assert!(answer.body["nextSyncAt"].as_i64() >= before["nextSyncAt"].as_i64(), "{field}");
            expected["nextSyncAt"] = answer.body["nextSyncAt"].clone();
        }
        if field == "isSyncEnabled" {
            expected["nextSyncAt"] = Value::Null;
        }
        assert_eq!(answer.body, expected);
        assert!(answer.body["updatedAt"].as_i64() > before["updatedAt"].as_i64(), "{field}");
        assert_eq!(api.get(&path(&created)).by(&user).send().await.body, answer.body);
        before = answer.body;
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_leaves_the_time_alone() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    for change in [json!({}), json!({"port": 993, "protocol": "IMAP", "isEnabled": true}), json!({"unknown": 1})] {
        let answer = api.put(&path(&created), change).by(&user).send().await;
        assert_eq!((answer.status, answer.body), (200, created.clone()));
    }
}

#[tokio::test]
async fn the_time_of_change_grows_strictly_also_within_a_millisecond_and_against_the_clock() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let ahead = created["updatedAt"].as_i64().unwrap() + 3_600_000;
    let id: Uuid = created["id"].as_str().unwrap().parse().unwrap();
    owner().await.execute("update email_accounts set updated_at = $1 where id = $2", &[&ahead, &id]).await.unwrap();
    let answer = api.put(&path(&created), json!({"port": 1})).by(&user).send().await;
    assert_eq!(answer.body["updatedAt"], ahead + 1);
    let race = (2..10).map(|port| api.put(&path(&created), json!({"port": port})).by(&user).send());
    let mut times: Vec<_> =
        join_all(race).await.iter().map(|answer| answer.body["updatedAt"].as_i64().unwrap()).collect();
    times.sort_unstable();
    assert_eq!(times, (ahead + 2..ahead + 10).collect::<Vec<_>>());
}

#[tokio::test]
async fn update_with_an_invalid_port_is_refused_and_changes_nothing() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let answer = api.put(&path(&created), json!({"port": 0, "accountName": "New"})).by(&user).send().await;
    answer.is_refused(400);
    assert_eq!(api.get(&path(&created)).by(&user).send().await.body, created);
}

#[tokio::test]
async fn update_to_an_address_that_is_taken_is_refused_and_changes_nothing() {
    let (api, user) = (api().await, User::new());
    api.create(&user, json!({"emailAddress": "first@example.com"})).await;
    let second = api.create(&user, json!({"emailAddress": "second@example.com"})).await;
    let change = json!({"emailAddress": "FIRST@example.com", "password": "new password", "port": 1});
    api.put(&path(&second), change).by(&user).send().await.is_refused(409);
    assert_eq!(api.get(&path(&second)).by(&user).send().await.body, second);
    let other_case = api.put(&path(&second), json!({"emailAddress": "SECOND@example.com"})).by(&user).send().await;
    assert_eq!((other_case.status, &other_case.body["emailAddress"]), (200, &json!("SECOND@example.com")));
}

#[tokio::test]
async fn delete_is_soft_and_the_second_time_not_found() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let answer = api.delete(&path(&created)).by(&user).send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, json!({"message": "Account deleted successfully", "id": created["id"]}));
    api.delete(&path(&created)).by(&user).send().await.is_refused(404);
    api.get(&path(&created)).by(&user).send().await.is_refused(404);
    api.put(&path(&created), json!({"port": 1})).by(&user).send().await.is_refused(404);
    api.put(&path(&created), json!({"isEnabled": true})).by(&user).send().await.is_refused(404);
    assert!(api.addresses(&user).await.is_empty());

    let id: Uuid = created["id"].as_str().unwrap().parse().unwrap();
    let row = owner()
        .await
        .query_one("select is_enabled, updated_at from email_accounts where id = $1", &[&id])
        .await
        .unwrap();
    assert!(!row.get::<_, bool>(0), "the row stays, disabled");
    assert!(row.get::<_, i64>(1) > created["updatedAt"].as_i64().unwrap());
}

#[tokio::test]
async fn a_deleted_address_is_free_again() {
    let (api, user) = (api().await, User::new());
    for _ in 0..3 {
        let created = api.create(&user, json!({})).await;
        assert_eq!(api.delete(&path(&created)).by(&user).send().await.status, 200);
    }
    api.create(&user, json!({})).await;
    assert_eq!(api.addresses(&user).await.len(), 1);
}

#[tokio::test]
async fn disabling_by_update_acts_as_a_delete() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let answer = api.put(&path(&created), json!({"isEnabled": false})).by(&user).send().await;
    assert_eq!((answer.status, &answer.body["isEnabled"]), (200, &json!(false)));
    api.get(&path(&created)).by(&user).send().await.is_refused(404);
    api.create(&user, json!({})).await;
}

#[tokio::test]
async fn of_racing_deletes_one_wins() {
    let (api, user) = (api().await, User::new());
    let path = path(&api.create(&user, json!({})).await);
    let race = (0..4).map(|_| api.delete(&path).by(&user).send());
    let mut statuses: Vec<_> = join_all(race).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404, 404, 404]);
}

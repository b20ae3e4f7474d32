//! Accounts that can sign in: trying what is typed and what is stored, against a real Dovecot, and what that does to the
//! account's state. How hostile servers are met is tested in the crate `mail`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use local::certificates::Certificate;
use local::mail_server::Dovecot;
use mail::Code;
use mail::connect::{Connector, Policy, Ports, Security, Session};
use mail::dns::Resolver;
use mail::login::{Login, Protocol, Secret, Server, TRY_BYTES, try_login};
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use shared::account::state::{Event, Standing, State};
use uuid::Uuid;

use crate::support::{Answer, Api, User, account, mail, mail_api, mail_env, merged, owner};

pub const PASSWORD: &str = "correct horse battery staple";

/// A mailbox of one's own on the run's Dovecot.
pub async fn mailbox() -> String {
    let name = format!("{}@mail.example", Uuid::new_v4());
    mail().await.add_user(&name, PASSWORD).unwrap();
    name
}

/// A create's body for a mailbox on the run's Dovecot.
pub async fn body(changes: Value) -> Value {
    let (name, ports) = (mailbox().await, mail().await.ports());
    let good = account(json!({
        "emailAddress": name, "username": name, "hostname": "localhost", "port": ports.imaps, "password": PASSWORD,
    }));
    merged(good, changes)
}

pub async fn try_settings(api: &Api, user: &User, body: Value) -> Answer {
    let started = Instant::now();
    let answer = api.post("/api/accounts/test", body).by(user).send().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    answer
}

fn result(service: &str, code: Value) -> Value {
    json!({"service": service, "success": code.is_null(), "code": code})
}

/// An outcome without the words for people.
fn codes(outcome: &Value) -> Value {
    let mut codes = outcome.clone();
    for server in ["incoming", "smtp"] {
        if let Some(server) = codes[server].as_object_mut() {
            assert!(server.remove("message").unwrap().as_str().is_some_and(|words| words.ends_with('.')), "{outcome}");
        }
    }
    codes
}

#[tokio::test]
async fn every_protocol_and_encryption_signs_in() {
    let (api, user, ports) = (mail_api().await, User::new(), mail().await.ports());
    for (protocol, port, encryption) in [
        ("imap", ports.imaps, "tls"),
        ("imap", ports.imap, "starttls"),
        ("pop3", ports.pop3s, "tls"),
        ("pop3", ports.pop3, "starttls"),
    ] {
        for (smtp_port, smtp_encryption) in [(ports.submissions, "tls"), (ports.submission, "starttls")] {
            let settings = json!({
                "protocol": protocol, "port": port, "encryption": encryption,
                "smtpHostname": "localhost", "smtpPort": smtp_port, "smtpEncryption": smtp_encryption,
            });
            let answer = try_settings(api, &user, body(settings).await).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let expected = json!({"success": true, "incoming": result(protocol, Value::Null), "smtp": result("smtp", Value::Null)});
            assert_eq!(codes(&answer.body), expected, "{protocol} {encryption} {smtp_encryption}");
        }
    }
    assert!(api.addresses(&user).await.is_empty(), "a test stores nothing");
}

#[tokio::test]
async fn what_goes_wrong_has_its_code() {
    let (api, user, ports) = (mail_api().await, User::new(), mail().await.ports());
    for (changes, code) in [
        (json!({"password": "wrong"}), "authentication"),
        (json!({"username": "nobody@mail.example"}), "authentication"),
        // Another protocol on the port, and plain text where TLS is spoken.
        (json!({"port": ports.pop3, "encryption": "starttls"}), "protocol"),
        (json!({"protocol": "pop3"}), "protocol"),
        (json!({"port": ports.imap}), "tls"),
        (json!({"encryption": "none", "port": ports.imap}), "tls"),
        (json!({"port": 1}), "unreachable"),
        (json!({"hostname": "no-such-host.invalid"}), "unreachable"),
        // Not ours to open: the tests' own configuration opens the loopback alone.
        (json!({"hostname": "10.0.0.1"}), "unreachable"),
    ] {
        let answer = try_settings(api, &user, body(changes.clone()).await).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let protocol = changes["protocol"].as_str().unwrap_or("imap");
        let expected = json!({"success": false, "incoming": result(protocol, json!(code)), "smtp": null});
        assert_eq!(codes(&answer.body), expected, "{changes}: {answer:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_a_tls_error() {
    let (api, user) = (mail_api().await, User::new());
    for certificate in [Certificate::Expired, Certificate::OtherName, Certificate::OtherAuthority] {
        let server = Dovecot::start_with(certificate).unwrap();
        server.add_user("jane@mail.example", PASSWORD).unwrap();
        let ports = server.ports();
        for (port, encryption) in [(ports.imaps, "tls"), (ports.imap, "starttls")] {
            let settings = json!({
                "username": "jane@mail.example", "hostname": "localhost", "password": PASSWORD, "port": port,
                "encryption": encryption,
            });
            let answer = try_settings(api, &user, account(settings)).await;
            assert_eq!(answer.body["incoming"]["code"], "tls", "{certificate:?} {encryption}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn each_server_has_its_own_outcome_and_its_own_login() {
    let (api, user, ports) = (mail_api().await, User::new(), mail().await.ports());
    let smtp = json!({"smtpHostname": "localhost", "smtpPort": ports.submissions});
    let refused = merged(smtp.clone(), json!({"smtpPassword": "wrong"}));
    let answer = try_settings(api, &user, body(refused).await).await;
    let expected = json!({"success": false, "incoming": result("imap", Value::Null), "smtp": result("smtp", json!("authentication"))});
    assert_eq!(codes(&answer.body), expected);
    let other = mailbox().await;
    let own = merged(smtp, json!({"smtpUsername": other, "smtpPassword": PASSWORD}));
    assert_eq!(try_settings(api, &user, body(own).await).await.body["success"], true);
}

#[tokio::test]
async fn a_test_names_every_fault_of_its_body_and_asks_for_an_identity() {
    let (api, user) = (mail_api().await, User::new());
    let answer = api.post("/api/accounts/test", json!({"port": 0})).by(&user).send().await;
    answer.is_refused(400);
    assert!(answer.faults().contains(&"port") && answer.faults().contains(&"password"), "{answer:?}");
    api.post("/api/accounts/test", json!({})).send().await.is_refused(401);
    let path = format!("/api/accounts/{}/test", Uuid::new_v4());
    api.post(&path, json!({})).send().await.is_refused(401);
    api.post(&path, json!({})).by(&user).send().await.is_refused(404);
}

pub async fn create(api: &Api, user: &User, changes: Value) -> (Value, String) {
    let created = api.create(user, body(changes).await).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    (created, path)
}

pub async fn try_stored(api: &Api, user: &User, path: &str) -> Answer {
    api.request("POST", &format!("{path}/test")).by(user).send().await
}

pub async fn state_of(api: &Api, user: &User, path: &str) -> Value {
    let account = api.get(path).by(user).send().await.body;
    json!({"state": account["state"], "code": account["lastError"]["code"], "service": account["lastError"]["service"]})
}

#[tokio::test]
async fn a_stored_account_signs_in_and_its_state_follows() {
    let (api, user, ports) = (mail_api().await, User::new(), mail().await.ports());
    let settings = json!({"smtpHostname": "localhost", "smtpPort": ports.submission, "smtpEncryption": "starttls"});
    let (created, path) = create(api, &user, settings).await;
    assert_eq!((&created["state"], &created["lastError"]), (&json!("new"), &Value::Null));
    assert_eq!((&created["authType"], &created["provider"]), (&json!("password"), &Value::Null));
    assert_eq!(created["nextSyncAt"], created["createdAt"], "it is due");

    let answer = try_stored(api, &user, &path).await;
    assert_eq!((answer.status, &answer.body["success"]), (200, &json!(true)), "{answer:?}");
    assert_eq!(state_of(api, &user, &path).await, json!({"state": "connected", "code": null, "service": null}));

    // What is overridden is tried, and notes nothing.
    let answer = api.post(&format!("{path}/test"), json!({"password": "wrong"})).by(&user).send().await;
    assert_eq!(answer.body["incoming"]["code"], "authentication", "{answer:?}");
    let answer = api.post(&format!("{path}/test"), json!({"smtpHostname": null})).by(&user).send().await;
    assert_eq!((&answer.body["success"], &answer.body["smtp"]), (&json!(true), &Value::Null));
    assert_eq!(state_of(api, &user, &path).await["state"], "connected");

    // A wrong password: the server's words, and no second try at once.
    let changed = api.put(&path, json!({"password": "wrong"})).by(&user).send().await;
    assert_eq!(changed.body["state"], "new");
    let answer = try_stored(api, &user, &path).await;
    assert_eq!(answer.body["success"], false);
    assert_eq!(
        state_of(api, &user, &path).await,
        json!({"state": "authenticationError", "code": "authentication", "service": "imap"})
    );
    let again = try_stored(api, &user, &path).await;
    again.is_refused(429);
    let wait: u64 = again.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");

    // The right password again, and a server that is not there.
    api.put(&path, json!({"password": PASSWORD})).by(&user).send().await;
    assert_eq!(state_of(api, &user, &path).await, json!({"state": "new", "code": null, "service": null}));
    assert_eq!(try_stored(api, &user, &path).await.body["success"], true);
    api.put(&path, json!({"port": 1})).by(&user).send().await;
    assert_eq!(try_stored(api, &user, &path).await.body["incoming"]["code"], "unreachable");
    assert_eq!(
        state_of(api, &user, &path).await,
        json!({"state": "connectError", "code": "unreachable", "service": "imap"})
    );
    let account = api.get(&path).by(&user).send().await.body;
    assert!(account["nextSyncAt"].as_i64() > account["lastError"]["at"].as_i64(), "{account}");

    let listed = api.get("/api/accounts?state=connectError").by(&user).send().await;
    assert_eq!((&listed.body["pagination"]["total"], &listed.body["accounts"][0]["id"]), (&json!(1), &created["id"]));
    assert_eq!(api.get("/api/accounts?state=connected").by(&user).send().await.body["accounts"], json!([]));
    api.get("/api/accounts?state=paused").by(&user).send().await.is_refused(400);
}

#[tokio::test]
async fn what_was_got_can_be_put_back_and_null_takes_away() {
    let (api, user) = (mail_api().await, User::new());
    let (created, path) = create(api, &user, json!({})).await;
    for field in ["smtpHostname", "smtpPort", "smtpEncryption", "smtpUsername"] {
        assert_eq!(created[field], Value::Null);
    }
    let set = json!({
        "smtpHostname": "smtp.bücher.example", "smtpPort": 465, "smtpEncryption": "TLS", "smtpUsername": "jane",
        "smtpPassword": "secret",
    });
    let changed = api.put(&path, set).by(&user).send().await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.body["smtpHostname"], "smtp.bücher.example");
    assert_eq!((&changed.body["smtpPort"], &changed.body["smtpEncryption"]), (&json!(465), &json!("tls")));
    assert_eq!(api.put(&path, changed.body.clone()).by(&user).send().await.body, changed.body, "the same again");

    let cleared = json!({"smtpHostname": null, "smtpPort": null, "smtpEncryption": null, "smtpUsername": null, "smtpPassword": null});
    let changed = api.put(&path, cleared).by(&user).send().await;
    for field in ["smtpHostname", "smtpPort", "smtpEncryption", "smtpUsername"] {
        assert_eq!(changed.body[field], Value::Null, "{changed:?}");
    }
    let id: Uuid = created["credentialId"].as_str().unwrap().parse().unwrap();
    let sql =
        "select sealed_smtp_password is null and sealed_password is not null from email_credentials where id = $1";
    assert!(owner().await.query_one(sql, &[&id]).await.unwrap().get::<_, bool>(0));
    api.put(&path, json!({"smtpPort": 0})).by(&user).send().await.is_refused(400);
}

/// The moves that SQL makes when settings change are those of the pure function.
#[tokio::test]
async fn the_database_moves_states_as_the_table_says() {
    let (api, user, owner) = (mail_api().await, User::new(), owner().await);
    let (created, path) = create(api, &user, json!({})).await;
    let id: Uuid = created["id"].as_str().unwrap().parse().unwrap();
    for state in State::ALL {
        for (change, event) in [
            (json!({"port": 1}), Event::Changed),
            (json!({"smtpHostname": "smtp.example.com"}), Event::Changed),
            (json!({"smtpPassword": "another"}), Event::Changed),
            (json!({"password": "another"}), Event::PasswordSet),
            (json!({"password": "another", "username": "another"}), Event::PasswordSet),
        ] {
            let set = "update email_accounts set state = $2::text, failures = 1, port = 2, smtp_hostname = null, next_sync_at = null, is_sync_enabled = true where id = $1";
            owner.execute(set, &[&id, &state.as_str()]).await.unwrap();
            let account = api.put(&path, change.clone()).by(&user).send().await.body;
            let expected = Standing { state, failures: 1 }.after(event, Duration::from_secs(300), 0.5);
            assert_eq!(account["state"], expected.to.state.as_str(), "{state:?} {change}");
            assert_eq!(account["nextSyncAt"].is_null(), expected.next_try.is_none(), "{state:?} {change}");
        }
        // What does not matter to signing in moves nothing.
        let set = "update email_accounts set state = $2::text, next_sync_at = null where id = $1";
        owner.execute(set, &[&id, &state.as_str()]).await.unwrap();
        let change = json!({"accountName": format!("{state:?}"), "syncInterval": 60, "isSyncEnabled": false});
        let account = api.put(&path, change).by(&user).send().await.body;
        assert_eq!((&account["state"], &account["nextSyncAt"]), (&json!(state.as_str()), &Value::Null));
    }
}

#[tokio::test]
async fn an_account_from_before_has_no_password_until_one_is_set() {
    let (api, user) = (mail_api().await, User::new());
    let (created, path) = create(api, &user, json!({})).await;
    let id: Uuid = created["credentialId"].as_str().unwrap().parse().unwrap();
    let owner = owner().await;
    // As the migration finds it: a hash and nothing else.
    let forget = "update email_credentials set sealed_password = null, password_key = null where id = $1";
    owner.execute(forget, &[&id]).await.unwrap();
    owner.execute("update email_accounts set state = default where credential_id = $1", &[&id]).await.unwrap();
    assert_eq!(state_of(api, &user, &path).await["state"], "credentialsMissing");
    let answer = try_stored(api, &user, &path).await;
    assert_eq!((answer.status, &answer.body["incoming"]["code"]), (200, &json!("authentication")), "{answer:?}");
    assert_eq!(state_of(api, &user, &path).await["state"], "credentialsMissing");
    // With a password for this try it is tried.
    let answer = api.post(&format!("{path}/test"), json!({"password": PASSWORD})).by(&user).send().await;
    assert_eq!(answer.body["success"], true, "{answer:?}");
    assert_eq!(api.put(&path, json!({"password": PASSWORD})).by(&user).send().await.body["state"], "new");
    assert_eq!(try_stored(api, &user, &path).await.body["success"], true);
}

#[tokio::test]
async fn a_deleted_account_forgets_its_secrets_at_once() {
    let (api, owner) = (mail_api().await, owner().await);
    for by_delete in [true, false] {
        let user = User::new();
        let (created, path) = create(api, &user, json!({"smtpHostname": "localhost", "smtpPassword": "another"})).await;
        let id: Uuid = created["credentialId"].as_str().unwrap().parse().unwrap();
        let kept = "select num_nonnulls(sealed_password, password_key, sealed_smtp_password, smtp_password_key, algorithm, password_hash, salt)
                    from email_credentials where id = $1";
        assert_eq!(owner.query_one(kept, &[&id]).await.unwrap().get::<_, i32>(0), 7);
        let answer = match by_delete {
            true => api.delete(&path).by(&user).send().await,
            false => api.put(&path, json!({"isEnabled": false})).by(&user).send().await,
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(owner.query_one(kept, &[&id]).await.unwrap().get::<_, i32>(0), 0);
        try_stored(api, &user, &path).await.is_refused(404);
    }
}

#[tokio::test]
async fn nobody_tries_somebody_elses_account() {
    let (api, user) = (mail_api().await, User::new());
    let (created, path) = create(api, &user, json!({})).await;
    for stranger in [user.colleague(), User { user: user.user, ..User::new() }, User::new()] {
        try_stored(api, &stranger, &path).await.is_refused(403);
        api.post(&format!("{path}/test"), json!({"hostname": "127.0.0.1"})).by(&stranger).send().await.is_refused(403);
    }
    assert_eq!(api.get(&path).by(&user).send().await.body, created, "nothing changed");
}

#[tokio::test]
async fn a_user_has_ten_tries_a_minute_beside_the_common_limit() {
    let mut env = mail_env().await;
    env.insert("RATE_LIMIT_PER_MINUTE", "50".into());
    let (api, user) = (Api::start(env).await, User::new());
    let (_, path) = create(&api, &user, json!({})).await;
    for n in 0..10 {
        let answer = match n % 2 {
            0 => try_stored(&api, &user, &path).await,
            _ => api.post("/api/accounts/test", json!({})).by(&user).send().await,
        };
        assert_ne!(answer.status, 429, "{n}: {answer:?}");
        assert_eq!(answer.header("x-ratelimit-limit"), Some("50"));
    }
    // As many as all requests that a user has in a minute.
    for path in ["/api/accounts/test", &format!("{path}/test")].repeat(25) {
        let refused = api.post(path, json!({})).by(&user).send().await;
        refused.is_refused(429);
        assert!(refused.header("retry-after").is_some());
    }
    api.get("/api/autoconfig?emailAddress=jane%40example.com").by(&user).send().await.is_refused(429);
    assert_eq!(api.get(&path).by(&user).send().await.status, 200, "other requests go on");
    assert_ne!(api.post("/api/accounts/test", json!({})).by(&user.colleague()).send().await.status, 429);
}

/// Accounts of providers are to come; the way in is there already.
#[tokio::test]
async fn tokens_and_every_mechanism_of_passwords_sign_in_to_each_protocol() {
    for (mechanisms, by_token) in [("xoauth2", true), ("oauthbearer", true), ("plain", false), ("login", false)] {
        let server = Dovecot::start_offering(mechanisms).unwrap();
        server.add_user("jane@mail.example", PASSWORD).unwrap();
        let tls = {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in rustls::pki_types::CertificateDer::pem_file_iter(server.ca_file()).unwrap() {
                roots.add(certificate.unwrap()).unwrap();
            }
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
        };
        let policy =
            Policy { private_networks: vec!["127.0.0.0/8".parse().unwrap()], ports: Ports::Any, ..Policy::default() };
        let connector = Connector::new(Resolver::new(&[]), policy, Arc::new(tls));
        let ports = server.ports();
        for (protocol, port, security) in [
            (Protocol::Imap, ports.imaps, Security::Tls),
            (Protocol::Imap, ports.imap, Security::StartTls),
            (Protocol::Pop3, ports.pop3s, Security::Tls),
            (Protocol::Pop3, ports.pop3, Security::StartTls),
            (Protocol::Smtp, ports.submissions, Security::Tls),
            (Protocol::Smtp, ports.submission, Security::StartTls),
        ] {
            let place = Server { protocol, host: "localhost".into(), port, security };
            for is_good in [true, false] {
                let secret = match (by_token, is_good) {
                    (true, true) => Secret::AccessToken(server.token("jane@mail.example").unwrap().into()),
                    (true, false) => Secret::AccessToken(server.expired_token("jane@mail.example").unwrap().into()),
                    (false, true) => Secret::Password(PASSWORD.to_owned().into()),
                    (false, false) => Secret::Password("wrong".to_owned().into()),
                };
                let login = Login::new("jane@mail.example", secret).unwrap();
                let session = Session::new(Duration::from_secs(10), TRY_BYTES);
                let outcome = try_login(&connector, &place, &login, session).await;
                let expected = if is_good { Ok(()) } else { Err(Code::Authentication) };
                assert_eq!(outcome.map_err(|error| error.code), expected, "{mechanisms} {protocol:?} {security:?}");
            }
        }
    }
}

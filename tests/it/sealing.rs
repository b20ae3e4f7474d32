//! Sealed secrets, with what an attacker might hold in hand: a dump of the database, the endpoints' environment, the log;
//! and how their keys are replaced.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use local::gateway::PayloadVersion;
use local::services::Postgres;
use serde_json::{Value, json};
use shared::account::{AccountChange, AccountId, NewAccount};
use shared::identity::{Scope, TenantId, UserId};
use shared::sealing::{Kind, Place, PrivateKeys, PublicKey, generate, open, seal};
use shared::validation::Fields;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::secrets::{Moto, aws, cloud_formation};
use crate::sign_in::{PASSWORD, body, create, state_of, try_stored};
use crate::support::{
    Answer, Api, JWT_KEY, MAIL_DATABASE_URL, MAIL_PRIVATE_KEYS, READER_DATABASE_URL, SEALING_KEYS, User, account,
    connect, functions, lasting, logins, mail_api, mail_env, merged, new_database, owner, servers,
};

fn id(value: &Value) -> Uuid {
    value.as_str().unwrap().parse().unwrap()
}

fn place(user: &User, account: &Value, kind: Kind) -> Place {
    let scope = Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) };
    Place { scope, account: AccountId(id(&account["id"])), kind }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a secret may be written where somebody looks for it. In base64 at each of the three offsets that it may have
/// within a longer text, without the ends that depend on its neighbours.
fn spellings(secret: &[u8]) -> Vec<String> {
    let base64 = (0..3).map(|offset| {
        let text = BASE64.encode([&vec![0; offset], secret].concat());
        text[4..text.len() - 4].to_owned()
    });
    base64.chain([hex(secret), String::from_utf8_lossy(secret).into_owned(), format!("{secret:?}")]).collect()
}

#[track_caller]
fn assert_hidden(secret: &[u8], text: &str, whose: &str) {
    for spelling in spellings(secret) {
        let found = text.find(&spelling);
        let start = found.map(|at| text.floor_char_boundary(at.saturating_sub(200)));
        assert!(found.is_none(), "{whose}: {}", &text[start.unwrap()..found.unwrap() + spelling.len()]);
    }
}

/// Every row of every table as text, with bytes in hex.
async fn dump(owner: &Client) -> String {
    let tables = "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')";
    let mut dump = String::new();
    for table in owner.query(tables, &[]).await.unwrap() {
        for row in owner.query(&format!("select t::text from {} t", table.get::<_, &str>(0)), &[]).await.unwrap() {
            dump += row.get(0);
            dump.push('\n');
        }
    }
    dump
}

/// The environment of a running process, as the system has it.
fn environment(pid: u32) -> BTreeMap<String, String> {
    let started = Instant::now();
    // Of one that has only just begun it is empty.
    let text = loop {
        let text = String::from_utf8(std::fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
        if text.contains("AWS_LAMBDA_RUNTIME_API=") {
            break text;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{pid} has no environment");
        std::thread::sleep(Duration::from_millis(5));
    };
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn sealed(owner: &Client, account: &Value) -> (Vec<u8>, Option<Vec<u8>>) {
    let sql = "select sealed_password, sealed_smtp_password from email_credentials where id = $1";
    let row = owner.query_one(sql, &[&id(&account["credentialId"])]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_dump_and_the_endpoints_environment_recover_no_password() {
    let (api, user, owner) = (mail_api().await, User::new(), owner().await);
    let smtp_password = format!("for sending {}", Uuid::new_v4());
    let passwords = [format!("for reading {}", Uuid::new_v4()), smtp_password];
    let fields = json!({"password": passwords[0], "smtpHostname": "localhost", "smtpPassword": passwords[1]});
    let (created, _) = create(api, &user, fields).await;
    let private_key = SEALING_KEYS.1.split_once(':').unwrap().1;
    let mail_url = servers().await.postgres.mail_url("app");
    let mail_login = mail_url.split(['@', ':']).nth(2).unwrap();

    let dump = dump(&owner).await;
    let (password, smtp_password) = sealed(&owner, &created).await;
    let values = [(password, Kind::Password), (smtp_password.unwrap(), Kind::SmtpPassword)];
    for ((value, _), password) in values.iter().zip(&passwords) {
        assert!(dump.contains(&hex(value)), "this is a dump");
        assert_hidden(password.as_bytes(), &dump, "the dump");
    }
    assert_hidden(&BASE64.decode(private_key).unwrap(), &dump, "the dump");

    let opens = |keys: &str| {
        let keys = PrivateKeys::parse(keys)?;
        let opened = values.iter().map(|(value, kind)| open(&keys, &place(&user, &created, *kind), value));
        let opened: Vec<_> = opened.filter_map(Result::ok).map(|secret| secret.to_vec()).collect();
        (!opened.is_empty()).then_some(opened)
    };
    let expected = passwords.each_ref().map(|password| password.clone().into_bytes());
    assert_eq!(opens(&SEALING_KEYS.1).unwrap(), expected, "this is what opens them");

    api.gateway.prewarm();
    let (mut seen, mut sealing) = (0, 0);
    for function in functions() {
        let pids = api.gateway.pids(&function.binary).unwrap();
        assert!(!pids.is_empty(), "{} runs", function.binary);
        for env in pids.into_iter().map(environment) {
            let whole = format!("{env:?}");
            // Nor has who has no database anybody's login.
            assert!(!(function.reaches_no_database && whole.contains("postgres://")), "{}", function.binary);
            assert_eq!(whole.contains(private_key), function.opens_secrets, "{}", function.binary);
            assert_eq!(whole.contains(mail_login), function.opens_secrets, "{}", function.binary);
            if function.opens_secrets {
                continue;
            }
            seen += 1;
            sealing += usize::from(env.contains_key("SEALING_PUBLIC_KEY"));
            for password in &passwords {
                assert_hidden(password.as_bytes(), &whole, &function.binary);
            }
            // Whatever in it has the form of a key, as it stands and under the right id.
            for value in
                env.values().flat_map(|value| value.split([':', ',', '/', '@'])).chain(env.values().map(|v| &**v))
            {
                assert_eq!(opens(value), None, "{}", function.binary);
                assert_eq!(opens(&format!("tests:{value}")), None, "{}", function.binary);
            }
        }
    }
    assert!(seen > 5 && sealing > 0, "{seen} environments, {sealing} that can seal");
}

#[tokio::test]
async fn sealed_values_swapped_between_rows_do_not_open() {
    let (api, user, stranger, owner) = (mail_api().await, User::new(), User::new(), owner().await);
    let smtp = json!({"smtpHostname": "localhost", "smtpPort": 1, "smtpPassword": PASSWORD});
    let (one, path) = create(api, &user, smtp.clone()).await;
    let (other, other_path) = create(api, &user, smtp.clone()).await;
    let (strange, strange_path) = create(api, &stranger, smtp).await;
    let ids = [&one, &other, &strange].map(|account| id(&account["credentialId"]));
    let swap_rows = "update email_credentials c set sealed_password = o.sealed_password from email_credentials o
                     where (c.id, o.id) in (($1, $2), ($2, $1))";
    let swap_kinds = "update email_credentials c
                      set sealed_password = c.sealed_smtp_password, sealed_smtp_password = c.sealed_password
                      where c.id in ($1, $2)";
    for (swap, other, whose) in [
        (swap_rows, (ids[1], &other_path), user),
        (swap_rows, (ids[2], &strange_path), stranger),
        (swap_kinds, (ids[1], &other_path), user),
    ] {
        assert_eq!(owner.execute(swap, &[&ids[0], &other.0]).await.unwrap(), 2);
        for (user, path) in [(&user, &path), (&whose, other.1)] {
            let answer = try_stored(api, user, path).await;
            answer.is_refused(500);
            let cause = api.log_of(&answer).await["error"].as_str().unwrap().to_owned();
            assert_eq!(cause, "the sealed value was changed, or belongs to another account");
            let words = answer.body.to_string();
            assert!(!words.contains("seal") && !words.contains("key") && !words.contains("another"), "{words}");
            assert_eq!(state_of(api, user, path).await["state"], "new", "nothing came of it");
        }
        // Each is its own undoing.
        assert_eq!(owner.execute(swap, &[&ids[0], &other.0]).await.unwrap(), 2);
    }
    let answer = try_stored(api, &user, &path).await;
    assert_eq!((answer.status, &answer.body["incoming"]["success"]), (200, &json!(true)), "{answer:?}");
}

/// A server that throws back what it hears.
async fn parrot() -> u16 {
    let listener = lasting(async { TcpListener::bind("127.0.0.1:0").await.unwrap() }).await;
    let port = listener.local_addr().unwrap().port();
    lasting(async move {
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut said = "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] ready\r\n".to_owned();
                while stream.write_all(said.as_bytes()).await.is_ok() {
                    let mut heard = String::new();
                    if !matches!(stream.read_line(&mut heard).await, Ok(1..)) {
                        break;
                    }
                    let (tag, rest) = heard.split_once(' ').unwrap_or_default();
                    let words = rest.split_whitespace().next_back().unwrap_or_default();
                    let plain = BASE64.decode(words).unwrap_or_default();
                    let plain = String::from_utf8_lossy(&plain).replace('\0', " ");
                    said = format!("{tag} NO [AUTHENTICATIONFAILED] refused: {} {plain}\r\n", rest.trim_end());
                }
            }
        }));
    })
    .await;
    port
}

#[tokio::test]
async fn nothing_secret_is_logged_at_trace() {
    let mut env = mail_env().await;
    env.insert("LOG_LEVEL", "trace".into());
    env.insert("MAIL_ALLOW_PLAINTEXT", "true".into());
    env.insert("RATE_LIMIT_PER_MINUTE", "0".into());
    let (api, user, owner) = (Api::start(env.clone()).await, User::new(), owner().await);
    let mut answers: Vec<Answer> = Vec::new();
    let unique = |purpose: &str| format!("{purpose}-{}", Uuid::new_v4().simple());
    let [first, second, wrong, smtp, smtp_again, override_] =
        ["first", "second", "wrong", "smtp", "smtp-again", "override"].map(unique);
    let passwords = [&first, &second, &wrong, &smtp, &smtp_again, &override_];

    let fields = json!({"password": first, "smtpHostname": "localhost", "smtpPort": 1, "smtpPassword": smtp});
    let settings = body(fields).await;
    let created = api.post("/api/accounts", settings.clone()).by(&user).send().await;
    let path = format!("/api/accounts/{}", created.body["id"].as_str().unwrap());
    let credential = id(&created.body["credentialId"]);
    let mut values: Vec<Vec<u8>> = Vec::new();
    let test = format!("{path}/test");
    answers.push(created);
    for request in [
        api.post("/api/accounts", settings.clone()),
        api.post("/api/accounts/test", settings.clone()),
        api.post(
            "/api/accounts/test",
            crate::support::merged(settings.clone(), json!({"port": parrot().await, "encryption": "none"})),
        ),
        api.post("/api/accounts/test", crate::support::merged(settings.clone(), json!({"port": 0, "smtpPort": wrong}))),
        api.request("POST", "/api/accounts/test").body(format!("{{\"password\": \"{wrong}\", ")),
        api.request("POST", &test),
        api.put(&path, json!({"password": second})),
        api.put(&path, json!({"smtpPassword": smtp_again})),
        api.put(&path, json!({"smtpPassword": [wrong]})),
        api.put(&path, json!({"port": parrot().await, "encryption": "none", "smtpHostname": null})),
        api.request("POST", &test),
        api.post(&test, json!({"password": override_})),
        api.put(
            &path,
            json!({"password": PASSWORD, "port": crate::support::mail().await.ports().imaps, "encryption": "tls"}),
        ),
        api.request("POST", &test),
        api.get(&path),
        api.get("/api/accounts"),
        api.delete(&path),
    ] {
        let sql = "select sealed_password, sealed_smtp_password from email_credentials where id = $1";
        let row = owner.query_one(sql, &[&credential]).await.unwrap();
        values.extend([row.get::<_, Option<Vec<u8>>>(0), row.get(1)].into_iter().flatten());
        answers.push(request.by(&user).send().await);
    }
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [201, 409, 200, 200, 400, 400, 200, 200, 200, 400, 200, 200, 200, 200, 200, 200, 200, 200]);
    assert_eq!(answers[15].body["state"], "connected", "{:?}", answers[15]);
    for answer in &answers {
        api.log_of(answer).await;
    }

    let log = api.log();
    for line in ["sign_in_failed", "repeats the secret"] {
        assert!(log.contains(line), "the log tells {line}: {log}");
    }
    let said = format!("{answers:?}");
    let urls = ["DATABASE_URL", MAIL_DATABASE_URL, READER_DATABASE_URL];
    let logins = urls.map(|name| env[name].split(['@', ':']).nth(2).unwrap().to_owned());
    let private_key = BASE64.decode(env[MAIL_PRIVATE_KEYS].split_once(':').unwrap().1).unwrap();
    let secrets = passwords.map(|password| password.as_bytes().to_vec()).into_iter();
    let secrets = secrets.chain([private_key, JWT_KEY.into(), user.token().into()]);
    let secrets: Vec<_> = secrets.chain(values).chain(logins.map(String::into_bytes)).collect();
    assert!(secrets.len() > 20);
    for secret in secrets {
        assert_hidden(&secret, &log, "the log");
        assert_hidden(&secret, &said, "an answer");
    }
}

#[test]
fn debug_shows_no_secret() {
    let (password, smtp_password) = ("a password for reading", "a password for sending");
    let fields = json!({"password": password, "smtpHostname": "smtp.example.com", "smtpPassword": smtp_password});
    let fields = account(fields).as_object().unwrap().clone();
    let new = || NewAccount::read(Fields::new(fields.clone())).unwrap();
    let keys = PrivateKeys::parse(&SEALING_KEYS.1).unwrap();
    let change = AccountChange::read(Fields::new(fields.clone())).unwrap();
    let shown = format!("{:?} {change:?} {:?} {keys:?}", new(), mailbox::Settings::new(new()));
    assert!(shown.contains("smtp.example.com") && shown.contains("[password]"), "{shown}");
    let private_key = BASE64.decode(SEALING_KEYS.1.split_once(':').unwrap().1).unwrap();
    for secret in [password.as_bytes(), smtp_password.as_bytes(), &private_key] {
        assert_hidden(secret, &shown, "Debug");
    }
}

#[test]
fn a_secret_is_found_however_it_is_written() {
    let secret = b"hunter2-hunter2";
    for text in [
        "hunter2-hunter2",
        "68756e746572322d68756e74657232",
        &BASE64.encode(b"\0jane\0hunter2-hunter2!"),
        &BASE64.encode(b"\0jo\0hunter2-hunter2"),
        &format!("{secret:?}"),
    ] {
        assert!(spellings(secret).iter().any(|spelling| text.contains(spelling)), "{text}");
    }
}

/// The environment of functions in a database of one's own, that seal with the first of these keys and open with all.
async fn env_with_keys(database: &str, keys: &[&(String, String)]) -> BTreeMap<&'static str, String> {
    let mut env = mail_env().await;
    let postgres = &servers().await.postgres;
    env.insert("RATE_LIMIT_PER_MINUTE", "0".into());
    env.extend(logins(postgres, database));
    env.insert("SEALING_PUBLIC_KEY", keys[0].0.clone());
    env.insert(MAIL_PRIVATE_KEYS, keys.iter().map(|key| key.1.as_str()).collect::<Vec<_>>().join(","));
    env
}

fn key_pair(id: &str) -> (String, String) {
    let (public, private) = generate(id).unwrap();
    (public, private.to_string())
}

async fn reseal(api: &Api) -> Value {
    api.gateway.invoke("reseal-secrets", json!({})).await.unwrap().unwrap()
}

#[track_caller]
fn signs_in(answer: &Answer) {
    assert_eq!((answer.status, &answer.body["success"]), (200, &json!(true)), "{answer:?}");
}

#[tokio::test]
async fn every_secret_is_sealed_anew_online() {
    let database = new_database().await;
    let [lost, old, new] = ["lost", "old", "new"].map(key_pair);
    let user = User::new();
    let owner = connect(&servers().await.postgres.owner_url(&database)).await;
    let before = Api::start(env_with_keys(&database, &[&lost]).await).await;
    let (_, lost_path) = create(&before, &user, json!({})).await;
    let before = Api::start(env_with_keys(&database, &[&old]).await).await;
    let smtp = json!({
        "smtpHostname": "localhost", "smtpPort": crate::support::mail().await.ports().submissions, "smtpPassword": PASSWORD,
    });
    let mut paths = Vec::new();
    for fields in [json!({}), smtp, json!({})] {
        paths.push(create(&before, &user, fields).await.1);
    }
    let (last, last_path) = create(&before, &user, json!({"password": "typed in wrongly"})).await;
    let (deleted, deleted_path) = create(&before, &user, json!({})).await;
    assert_eq!(before.delete(&deleted_path).by(&user).send().await.status, 200);
    assert!(last["credentialId"].as_str() > Some(""), "{deleted}");

    let api = Api::start(env_with_keys(&database, &[&new, &old]).await).await;
    paths.push(create(&api, &user, json!({})).await.1);
    for path in &paths {
        signs_in(&try_stored(&api, &user, path).await);
    }

    // It waits for the last row that has the old key, and dies there: what was done is done.
    let blocker = connect(&servers().await.postgres.owner_url(&database)).await;
    let lock = "begin; select from email_credentials where id = ";
    let credential = id(&last["credentialId"]);
    blocker.batch_execute(&format!("{lock}'{credential}' for update")).await.unwrap();
    let waits = async || {
        let sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = $1";
        while owner.query_one(sql, &[&database]).await.unwrap().get::<_, i64>(0) == 0 {}
    };
    let killed = async {
        waits().await;
        for path in &paths {
            signs_in(&try_stored(&api, &user, path).await);
        }
        api.signal("reseal-secrets", "KILL");
    };
    let (outcome, ()) = tokio::join!(api.gateway.invoke("reseal-secrets", json!({})), killed);
    outcome.unwrap().unwrap_err();
    let by_key = async |key: &str| -> i64 {
        let sql = "select count(*) from email_credentials where password_key = $1";
        owner.query_one(sql, &[&key]).await.unwrap().get(0)
    };
    assert_eq!((by_key("lost").await, by_key("old").await, by_key("new").await), (1, 1, 4));

    // Its user sets the password at this moment, through a function that knows the old key only: the newer one stays.
    let changed = async {
        waits().await;
        let key = PublicKey::parse(&old.0).unwrap();
        let value = seal(&key, &place(&user, &last, Kind::Password), PASSWORD.as_bytes()).unwrap();
        let set = "update email_credentials set sealed_password = $2 where id = $1";
        blocker.execute(set, &[&credential, &value]).await.unwrap();
        blocker.batch_execute("commit").await.unwrap();
    };
    // The killed process's statement may still wait in the server: it must not be taken for the new one's.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock' and datname = $1";
    owner.execute(end, &[&database]).await.unwrap();
    let still = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = $1";
    while owner.query_one(still, &[&database]).await.unwrap().get::<_, i64>(0) > 0 {}
    let (outcome, ()) = tokio::join!(reseal(&api), changed);
    assert_eq!(outcome, json!({"key": "new", "resealed": 0, "unreadable": 1, "left": 2}));
    assert_eq!(reseal(&api).await, json!({"key": "new", "resealed": 1, "unreadable": 1, "left": 1}));
    signs_in(&try_stored(&api, &user, &last_path).await);

    // What nobody can open any more is told, and mended by its user.
    assert!(api.log().contains("a secret is not readable"), "{}", api.log());
    try_stored(&api, &user, &lost_path).await.is_refused(500);
    api.put(&lost_path, json!({"password": PASSWORD})).by(&user).send().await;
    assert_eq!(reseal(&api).await, json!({"key": "new", "resealed": 0, "unreadable": 0, "left": 0}));

    let after = Api::start(env_with_keys(&database, &[&new]).await).await;
    for path in paths.iter().chain([&last_path, &lost_path]) {
        signs_in(&try_stored(&after, &user, path).await);
    }
}

#[tokio::test]
async fn a_key_that_is_newer_than_the_function_is_read_once_by_all_who_need_it() {
    let (database, moto) = (new_database().await, Moto::start().await);
    let [lost, old, new] = ["lost", "old", "new"].map(key_pair);
    let postgres = &servers().await.postgres;
    let redis = servers().await.redis.url();
    let service = json!({"DATABASE_URL": postgres.app_url(&database), "REDIS_URL": redis, "JWT_SECRET_KEY": JWT_KEY});
    let secret = |keys: &str| json!({"DATABASE_URL": postgres.mail_url(&database), "SEALING_PRIVATE_KEYS": keys});
    let mail_arn = moto.create("mail", &secret(&old.1)).await;
    let mut env = mail_env().await;
    for name in ["DATABASE_URL", "REDIS_URL", "JWT_SECRET_KEY", MAIL_DATABASE_URL, MAIL_PRIVATE_KEYS] {
        env.remove(name);
    }
    env.extend(aws(&moto));
    env.insert("SECRET_ARN", moto.create("service", &service).await);
    env.insert("mail: MAIL_SECRET_ARN", mail_arn.clone());
    env.insert("SEALING_PUBLIC_KEY", old.0.clone());
    env.insert("AWS_LAMBDA_MAX_CONCURRENCY", "4".into());
    env.insert("RATE_LIMIT_PER_MINUTE", "0".into());
    let (api, user) = (Api::start_as(env, PayloadVersion::V2, 1).await, User::new());
    let (_, path) = create(&api, &user, json!({})).await;
    signs_in(&try_stored(&api, &user, &path).await);

    moto.put(&mail_arn, &secret(&format!("{},{}", new.1, old.1))).await;
    let newer = Api::start(env_with_keys(&database, &[&new]).await).await;
    let mut paths = vec![path];
    for _ in 0..3 {
        paths.push(create(&newer, &user, json!({})).await.1);
    }
    for answer in join_all(paths.iter().map(|path| try_stored(&api, &user, path))).await {
        signs_in(&answer);
        api.log_of(&answer).await;
    }
    let readings = || api.log().matches("reading the secret again").count();
    assert_eq!(readings(), 1, "{}", api.log());

    // One that nobody has any more asks again, but not each time.
    let nobodys = Api::start(env_with_keys(&database, &[&lost]).await).await;
    let (_, path) = create(&nobodys, &user, json!({})).await;
    let started = Instant::now();
    for _ in 0..3 {
        for answer in join_all((0..4).map(|_| try_stored(&api, &user, &path))).await {
            answer.is_refused(500);
            assert!(!answer.body.to_string().contains("lost"), "{answer:?}");
            let cause = api.log_of(&answer).await["error"].as_str().unwrap().to_owned();
            assert!(cause.contains("sealed with the key \"lost\""), "{cause}");
        }
    }
    let most = 2 + started.elapsed().as_secs() / 3;
    assert!(u64::try_from(readings()).unwrap() <= most, "{}", api.log());
}

#[tokio::test]
async fn a_migration_makes_each_key_once_and_hands_out_its_public_half() {
    let moto = Moto::start().await;
    let postgres = Postgres::start().unwrap();
    postgres.create_database("app").await.unwrap();
    let mail_url = postgres.mail_url("app");
    let mail_password = mail_url.split(['@', ':']).nth(2).unwrap();
    let mut env = aws(&moto);
    env.insert("OWNER_DATABASE_URL", postgres.owner_url("app"));
    let bare = format!("postgres://email_service_app@127.0.0.1:{}/app", postgres.port());
    env.insert("DATABASE_URL", bare);
    let service = json!({"username": "email_service_app", "password": postgres.app_password(), "REDIS_URL": "redis://localhost", "JWT_SECRET_KEY": JWT_KEY});
    env.insert("SECRET_ARN", moto.create("service", &service).await);
    let mail_secret = json!({"username": "email_service_mail", "password": mail_password});
    let mail_arn = moto.create("mail", &mail_secret).await;
    env.insert("MAIL_SECRET_ARN", mail_arn.clone());
    let scheduler_url = postgres.scheduler_url("app");
    let scheduler = json!({"username": "email_service_scheduler", "password": scheduler_url.split(['@', ':']).nth(2)});
    env.insert("SCHEDULER_SECRET_ARN", moto.create("scheduler", &scheduler).await);
    let reader_url = postgres.reader_url("app");
    let reader = json!({"username": "email_service_reader", "password": reader_url.split(['@', ':']).nth(2)});
    env.insert("READER_SECRET_ARN", moto.create("reader", &reader).await);
    let api = Api::start(env).await;
    let stored = async || -> Value {
        let secret = moto.call("GetSecretValue", json!({"SecretId": mail_arn})).await;
        serde_json::from_str(secret["SecretString"].as_str().unwrap()).unwrap()
    };
    let run = || api.gateway.invoke("migrate", json!({}));

    // Two at once, as a deployment and a person do: no key is made by who does not have the lock, and so only one.
    let (holder, watcher) = (connect(&postgres.owner_url("app")).await, connect(&postgres.owner_url("app")).await);
    migrate::wait_for_others(&holder, Duration::ZERO).await.unwrap();
    let free = async {
        let asking = "select count(*) from pg_stat_activity where query like 'select pg_try_advisory_lock(%'";
        // The third is the one that holds it.
        while watcher.query_one(asking, &[]).await.unwrap().get::<_, i64>(0) < 3 {}
        assert_eq!(stored().await, mail_secret);
        drop(holder);
    };
    let (one, other, ()) = tokio::join!(run(), run(), free);
    let first = one.unwrap().unwrap()["sealingPublicKey"].clone();
    assert!(first.as_str().unwrap().starts_with("k1:"), "{first}");
    assert_eq!(other.unwrap().unwrap()["sealingPublicKey"], first);
    let secret = stored().await;
    assert_eq!((&secret["SEALING_PUBLIC_KEYS"], &secret["password"]), (&first, &mail_secret["password"]));
    connect(&postgres.app_url("app")).await;
    connect(&mail_url).await;
    connect(&scheduler_url).await;
    connect(&reader_url).await;

    let (url, mut answers) = cloud_formation().await;
    let mut deployed = async |generation: &str| -> Value {
        let event = json!({
            "RequestType": "Update", "ResponseURL": url, "StackId": "stack", "RequestId": "request",
            "LogicalResourceId": "Migration", "ResourceProperties": {"SealingKeyGeneration": generation},
        });
        api.gateway.invoke("migrate", event).await.unwrap().unwrap();
        let answer = answers.recv().await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let mut second = Value::Null;
    for _ in 0..2 {
        let answer = deployed("2").await;
        let key = answer["Data"]["SealingPublicKey"].clone();
        assert!(key.as_str().unwrap().starts_with("k2:"), "{answer}");
        assert!(second == Value::Null || second == key, "the second time makes none");
        second = key;
    }
    let secret = stored().await;
    assert_eq!(secret["SEALING_PUBLIC_KEYS"], format!("{},{}", second.as_str().unwrap(), first.as_str().unwrap()));
    // What was sealed with either opens with what is stored.
    let private = secret["SEALING_PRIVATE_KEYS"].as_str().unwrap();
    let keys = PrivateKeys::parse(private).unwrap();
    let place = place(&User::new(), &json!({"id": Uuid::new_v4()}), Kind::Password);
    for public in [&first, &second] {
        let value = seal(&PublicKey::parse(public.as_str().unwrap()).unwrap(), &place, b"secret").unwrap();
        assert_eq!(open(&keys, &place, &value).unwrap().as_slice(), b"secret");
    }
    for key in private.split([',', ':']).filter(|text| text.len() > 10) {
        assert!(!api.log().contains(key));
    }
    assert!(!api.log().contains(mail_password));

    // By hand it takes what there is, also when the first is gone.
    let without_first =
        json!({"SEALING_PUBLIC_KEYS": second, "SEALING_PRIVATE_KEYS": private.split_once(',').unwrap().0});
    let without_first = merged(mail_secret.clone(), without_first);
    for secret in [&secret, &without_first] {
        moto.put(&mail_arn, secret).await;
        assert_eq!(run().await.unwrap().unwrap()["sealingPublicKey"], second);
        assert_eq!(stored().await, *secret);
    }

    // A key that is lost while something is sealed with it is missed, and not made anew under its name.
    let sql =
        "insert into email_credentials (id, tenant_id, user_id, sealed_password, password_key, created_at, updated_at)
               values ($1, $1, $1, '\\x01', 'k2', 1, 1)";
    assert_eq!(watcher.execute(sql, &[&Uuid::now_v7()]).await.unwrap(), 1);
    moto.put(&mail_arn, &mail_secret).await;
    let answer = deployed("2").await;
    assert_eq!(answer["Status"], "FAILED", "{answer}");
    for reason in [answer["Reason"].to_string(), run().await.unwrap().unwrap_err().to_string()] {
        assert!(reason.contains("AWSPREVIOUS") && reason.contains("sealed with k2"), "{reason}");
    }
    assert_eq!(stored().await, mail_secret, "AWSPREVIOUS is what it was");
    let third = deployed("3").await["Data"]["SealingPublicKey"].clone();
    assert!(third.as_str().unwrap().starts_with("k3:"), "{third}");
    assert_eq!(stored().await["SEALING_PUBLIC_KEYS"], third);
}

#[tokio::test]
async fn a_function_that_only_seals_refuses_a_role_that_reads_what_is_sealed() {
    let mut env = mail_env().await;
    env.insert("DATABASE_URL", env[MAIL_DATABASE_URL].clone());
    env.insert(READER_DATABASE_URL, env[MAIL_DATABASE_URL].clone());
    let api = Api::start(env).await;
    let user = User::new();
    for request in [api.post("/api/accounts", account(json!({}))), api.get("/api/accounts")] {
        assert_eq!(request.by(&user).status().await, 500);
    }
    assert!(api.log().contains("email_service_mail may read sealed secrets"), "{}", api.log());
    let test = format!("/api/accounts/{}/test", Uuid::now_v7());
    api.request("POST", &test).by(&user).send().await.is_refused(404);
}

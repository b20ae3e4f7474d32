//! Secrets Manager, emulated by moto.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use local::services::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::proxy::Proxy;
use crate::support::{Api, JWT_KEY, SEALING_KEYS, Servers, User, connect, lasting, servers};

/// moto's server; ends with its scope.
pub struct Moto {
    process: Child,
    pub port: u16,
    url: String,
    http: reqwest::Client,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    pub async fn start() -> Self {
        let program = local::tools::python_tool("moto_server", local::tools::MOTO).unwrap();
        let port = local::services::free_port().unwrap();
        let process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { process, port, url: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while moto.http.get(&moto.url).send().await.is_err() {
            assert!(Instant::now() < deadline, "moto does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        moto
    }

    pub async fn call(&self, action: &str, body: Value) -> Value {
        let request = self.http.post(&self.url).header("x-amz-target", format!("secretsmanager.{action}"));
        // moto takes the service from the signature's scope and does not check the signature.
        let scope = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=0";
        let response = request
            .header("authorization", scope)
            .header("content-type", "application/x-amz-json-1.1")
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        response.json().await.unwrap()
    }

    pub async fn create(&self, name: &str, secret: &Value) -> String {
        let made = self
            .call(
                "CreateSecret",
                json!({"Name": name, "SecretString": secret.to_string(), "ClientRequestToken": Uuid::new_v4()}),
            )
            .await;
        made["ARN"].as_str().unwrap().to_owned()
    }

    pub async fn put(&self, arn: &str, secret: &Value) {
        let body = json!({"SecretId": arn, "SecretString": secret.to_string(), "ClientRequestToken": Uuid::new_v4()});
        assert!(self.call("PutSecretValue", body).await["VersionId"].is_string());
    }
}

#[tokio::test]
async fn secrets_come_from_secrets_manager_and_a_rotated_password_is_read_again() {
    let (servers, moto) = (Servers::start().await, Moto::start().await);
    let secret = |database_url: String| json!({"DATABASE_URL": database_url, "REDIS_URL": servers.redis.url(), "JWT_SECRET_KEY": JWT_KEY});
    let arn = moto.create("service", &secret(servers.postgres.app_url("app"))).await;
    let reader_url = servers.postgres.reader_url("app");
    let reader_arn = moto.create("reader", &secret(reader_url.clone())).await;
    let mut env = aws(&moto);
    env.insert("SECRET_ARN", arn.clone());
    env.insert("reader: READER_SECRET_ARN", reader_arn.clone());
    let api = Api::start_as(env, local::gateway::PayloadVersion::V2, 1).await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    assert_eq!(api.get(&path).by(&user).send().await.body, created);
    let change = |port: u16| api.put(&path, json!({"port": port})).by(&user);
    assert_eq!(change(1).send().await.status, 200);
    let owner = connect(&servers.postgres.owner_url("app")).await;
    let logins = "select distinct usename::text from pg_stat_activity where usename ~ '^email_service_' order by 1";
    let logins: Vec<String> = owner.query(logins, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(logins, ["email_service_app", "email_service_reader"], "who only reads does so as another");

    // Rotation: the passwords change in PostgreSQL and in the secrets, and connections are cut.
    let password_of = |url: &str| url.split(['@', ':']).nth(2).unwrap().to_owned();
    for (role, arn, url) in [
        ("email_service_app", &arn, servers.postgres.app_url("app")),
        ("email_service_reader", &reader_arn, reader_url),
    ] {
        owner.batch_execute(&format!("alter role {role} password 'rotated-password'")).await.unwrap();
        moto.put(arn, &secret(url.replace(&password_of(&url), "rotated-password"))).await;
    }
    crate::faults::cut_connections(&owner).await;
    let answers = [api.get(&path).by(&user).send().await, change(2).send().await];
    assert_eq!(answers.map(|answer| answer.status), [200, 200], "{}", api.log());
    assert_eq!(api.log().matches("reading the secret again").count(), 2, "each reads its own: {}", api.log());
    assert!(!api.log().contains("rotated-password") && !api.log().contains(JWT_KEY));

    // A password that the secrets do not know either is an error, and no loop.
    for role in ["email_service_app", "email_service_reader"] {
        owner.batch_execute(&format!("alter role {role} password 'unknown to all'")).await.unwrap();
    }
    crate::faults::cut_connections(&owner).await;
    api.get(&path).by(&user).send().await.is_refused(500);
    change(3).send().await.is_refused(500);
}

/// A role that PostgreSQL refuses by another code than that of a wrong password, on connecting and with the first
/// statement: RDS Proxy does both.
#[tokio::test]
async fn every_refusal_of_a_login_means_that_the_secret_is_read_again() {
    let (servers, moto) = (Servers::start().await, Moto::start().await);
    let url = servers.postgres.app_url("app");
    let owner = connect(&servers.postgres.owner_url("app")).await;
    let first_statement = "create schema refusing;
        create function refusing.role_powers() returns table (role text, is_bound boolean, reads_secrets boolean)
            language plpgsql as $$begin raise exception 'no such login' using errcode = '28000'; end$$;
        grant usage on schema refusing to email_service_app;
        alter role email_service_app set search_path = refusing, pg_catalog, public";
    owner.batch_execute("create role twin login password 'twin' in role email_service_app").await.unwrap();
    for refusal in ["alter role email_service_app nologin", first_statement] {
        let secret = |database_url: &str| json!({"DATABASE_URL": database_url, "REDIS_URL": servers.redis.url(), "JWT_SECRET_KEY": JWT_KEY});
        let arn = moto.create(&Uuid::new_v4().to_string(), &secret(&url)).await;
        let mut env = aws(&moto);
        env.insert("SECRET_ARN", arn.clone());
        let (api, user) = (Api::start_as(env, local::gateway::PayloadVersion::V2, 1).await, User::new());
        assert_eq!(api.get("/api/accounts").by(&user).send().await.status, 200);
        owner.batch_execute(refusal).await.unwrap();
        let (_, host) = url.split_once('@').unwrap();
        moto.put(&arn, &secret(&format!("postgres://twin:twin@{host}"))).await;
        crate::faults::cut_connections(&owner).await;
        assert_eq!(api.get("/api/accounts").by(&user).send().await.status, 200, "{refusal}: {}", api.log());
        owner.batch_execute("alter role email_service_app login").await.unwrap();
    }
}

#[tokio::test]
async fn a_password_that_nobody_knows_does_not_flood_secrets_manager() {
    let (servers, moto) = (Servers::start().await, Moto::start().await);
    let between = Proxy::to_port(moto.port).await;
    let secret = json!({"DATABASE_URL": servers.postgres.app_url("app"), "REDIS_URL": servers.redis.url(), "JWT_SECRET_KEY": JWT_KEY});
    let mut env = aws(&moto);
    env.insert("AWS_ENDPOINT_URL", format!("http://{}", between.address));
    env.insert("SECRET_ARN", moto.create("service", &secret).await);
    // As on Managed Instances: one process with many requests at once.
    env.insert("AWS_LAMBDA_MAX_CONCURRENCY", "4".to_owned());
    let (api, user) = (Api::start_as(env, local::gateway::PayloadVersion::V2, 1).await, User::new());
    assert_eq!(api.get("/api/accounts").by(&user).send().await.status, 200);
    between.take_trips();

    let owner = connect(&servers.postgres.owner_url("app")).await;
    owner.batch_execute("alter role email_service_app password 'unknown to all'").await.unwrap();
    crate::faults::cut_connections(&owner).await;
    let started = Instant::now();
    for _ in 0..5 {
        let at_once = (0..4).map(|_| api.get("/api/accounts").by(&user).send());
        for answer in join_all(at_once).await {
            answer.is_refused(500);
        }
    }
    // One, and on a slow machine one more in each three seconds.
    let most = 1 + started.elapsed().as_secs() / 3;
    assert!((1..=most).contains(&u64::from(between.take_trips())), "{}", api.log());
}

#[tokio::test]
async fn a_function_without_a_database_starts_and_answers_with_a_secret_that_has_no_login() {
    let (moto, redis) = (Moto::start().await, servers().await.redis.url());
    let secret = moto.create("network", &json!({"REDIS_URL": redis, "JWT_SECRET_KEY": JWT_KEY})).await;
    let mut env = aws(&moto);
    env.insert("NETWORK_SECRET_ARN", secret);
    let (api, user) = (Api::start(env).await, User::new());
    let requests = || [api.post("/api/accounts/test", json!({})), api.get("/api/autoconfig")];
    for request in requests() {
        request.send().await.is_refused(401);
    }
    for request in requests() {
        request.by(&user).send().await.is_refused(400);
    }
    // Who has one still asks for it.
    assert!(api.gateway.invoke("get-account", json!({})).await.unwrap().is_err());
    assert!(api.log().contains("DATABASE_URL must be postgres://"), "{}", api.log());
}

#[tokio::test]
async fn an_unusable_secret_stops_the_start_and_says_why() {
    let moto = Moto::start().await;
    let arn = moto.create("service", &json!({"DATABASE_URL": "postgres://secret-value@h/d"})).await;
    let secret = json!({
        "DATABASE_URL": "postgres://secret-value@h/d", "REDIS_URL": "rediss://:{{resolve:secret-value}}@h", "JWT_SECRET_KEY": JWT_KEY
    });
    let unresolved = moto.create("unresolved", &secret).await;
    let env = |arn: String| {
        let mut env = aws(&moto);
        env.insert("SECRET_ARN", arn);
        env
    };
    for (arn, reason) in [
        (arn.clone(), "must be a JSON object with the strings DATABASE_URL"),
        (unresolved, "REDIS_URL must be the value itself"),
        (format!("{arn}-unknown"), "cannot read the secret"),
    ] {
        let api = Api::start(env(arn)).await;
        assert!(api.gateway.invoke("get-account", json!({})).await.unwrap().is_err());
        assert!(api.log().contains(reason), "{}", api.log());
        assert!(!api.log().contains("secret-value"), "{}", api.log());
    }
}

/// The SDK would ask whoever answers as a container's or a machine's metadata service, and as a profile has it.
#[tokio::test]
async fn rights_come_from_the_environment_and_from_nobody_who_offers_some() {
    let moto = Moto::start().await;
    let metadata = Proxy::to_port(moto.port).await;
    let arn = moto.create("service", &json!({})).await;
    let mut env = aws(&moto);
    env.extend([("AWS_ACCESS_KEY_ID", String::new()), ("AWS_SECRET_ACCESS_KEY", String::new())]);
    let url = format!("http://{}", metadata.address);
    env.insert("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.clone());
    env.insert("AWS_EC2_METADATA_SERVICE_ENDPOINT", url);
    env.insert("SECRET_ARN", arn);
    let api = Api::start(env).await;
    assert!(api.gateway.invoke("get-account", json!({})).await.unwrap().is_err());
    assert!(api.log().contains("cannot read the secret"), "{}", api.log());
    assert_eq!(metadata.take_trips(), 0, "{}", api.log());
}

/// The way to moto, as AWS's own tools read it.
pub fn aws(moto: &Moto) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("AWS_ENDPOINT_URL", moto.url.clone()),
        // What is no secret is configuration.
        ("SEALING_PUBLIC_KEY", SEALING_KEYS.0.clone()),
    ])
}

/// Stands in for CloudFormation: takes what is put to it.
pub async fn cloud_formation() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = lasting(async { TcpListener::bind("127.0.0.1:0").await.unwrap() }).await;
    let url = format!("http://{}/answer?signature=secret-signature", listener.local_addr().unwrap());
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    lasting(async move {
        drop(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = String::new();
                let mut buffer = [0; 8192];
                while !text.ends_with('}') {
                    let length = stream.read(&mut buffer).await.unwrap();
                    text += std::str::from_utf8(&buffer[..length]).unwrap();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
                sender.send(text).unwrap();
            }
        }));
    })
    .await;
    (url, receiver)
}

#[tokio::test]
async fn a_deployment_migrates_tells_cloudformation_and_does_no_harm_the_second_time() {
    let moto = Moto::start().await;
    let postgres = Postgres::start().unwrap();
    postgres.create_database("app").await.unwrap();
    let bare = format!("postgres://127.0.0.1:{}/app", postgres.port());
    let owner_url = postgres.owner_url("app");
    let owner_password = owner_url.split(['@', ':']).nth(2).unwrap();
    let mut env = aws(&moto);
    env.insert("OWNER_DATABASE_URL", bare.clone());
    env.insert(
        "OWNER_SECRET_ARN",
        moto.create("owner", &json!({"username": "postgres", "password": owner_password})).await,
    );
    // Like the stack's: RDS rotates user name and password, and the URL beside it has no password.
    env.insert("DATABASE_URL", bare.replace("//", "//email_service_app@"));
    let secret = json!({"username": "email_service_app", "password": postgres.app_password(), "REDIS_URL": "redis://localhost", "JWT_SECRET_KEY": JWT_KEY});
    env.insert("SECRET_ARN", moto.create("service", &secret).await);
    let api = Api::start(env).await;
    let (url, mut answers) = cloud_formation().await;
    let event = |kind: &str| json!({"RequestType": kind, "ResponseURL": url, "StackId": "stack", "RequestId": "request", "LogicalResourceId": "Migration"});

    api.gateway.invoke("migrate", event("Create")).await.unwrap().unwrap();
    let answer = answers.recv().await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("PUT /answer?signature=secret-signature HTTP/1.1"), "{head}");
    assert!(
        head.to_lowercase().contains("content-type: \r\n") && head.to_lowercase().contains("content-length: "),
        "{head}"
    );
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["Status"], &body["PhysicalResourceId"]), (&json!("SUCCESS"), &json!("database-migration")));
    assert_eq!(
        (&body["StackId"], &body["RequestId"], &body["LogicalResourceId"]),
        (&json!("stack"), &json!("request"), &json!("Migration"))
    );
    connect(&postgres.app_url("app")).await;

    // Once more by hand: nothing is left to do.
    let answer = api.gateway.invoke("migrate", json!({})).await.unwrap().unwrap();
    assert_eq!(answer["applied"], json!([]));
    assert_eq!(answer["schemaVersion"], shared::db::SCHEMA_VERSION);

    // A failure stops the deployment, with its reason in the event.
    let owner = connect(&owner_url).await;
    owner.batch_execute("update schema_migrations set checksum = '1' where version = 2").await.unwrap();
    api.gateway.invoke("migrate", event("Update")).await.unwrap().unwrap();
    let answer = answers.recv().await.unwrap();
    assert!(answer.contains(r#""Status":"FAILED""#) && answer.contains("a migration failed"), "{answer}");
    assert!(
        api.gateway.invoke("migrate", json!({})).await.unwrap().unwrap_err().to_string().contains("a migration failed")
    );
    assert!(!api.log().contains(owner_password) && !api.log().contains(postgres.app_password()));
}

#[tokio::test]
async fn a_deletion_is_answered_whatever_is_left_of_the_database() {
    let api = Api::start(BTreeMap::new()).await;
    let (url, mut answers) = cloud_formation().await;
    let event = json!({"RequestType": "Delete", "ResponseURL": url, "PhysicalResourceId": "kept"});
    api.gateway.invoke("migrate", event).await.unwrap().unwrap();
    let answer = answers.recv().await.unwrap();
    assert!(answer.contains(r#""Status":"SUCCESS""#) && answer.contains(r#""PhysicalResourceId":"kept""#), "{answer}");
}

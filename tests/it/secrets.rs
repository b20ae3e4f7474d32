//! Secrets Manager, emulated by moto.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Api, JWT_KEY, Servers, User, connect};

/// moto's server; ends with its scope.
struct Moto {
    process: Child,
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
    async fn start() -> Self {
        let program = xtask::tools::python_tool("moto_server", xtask::tools::MOTO).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { process, url: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while moto.http.get(&moto.url).send().await.is_err() {
            assert!(Instant::now() < deadline, "moto does not answer");
        }
        moto
    }

    async fn call(&self, action: &str, body: Value) -> Value {
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

    async fn create(&self, secret: &Value) -> String {
        let made = self.call("CreateSecret", json!({"Name": "email-service", "SecretString": secret.to_string(), "ClientRequestToken": uuid::Uuid::new_v4()})).await;
        made["ARN"].as_str().unwrap().to_owned()
    }

    async fn put(&self, arn: &str, secret: &Value) {
        let body =
            json!({"SecretId": arn, "SecretString": secret.to_string(), "ClientRequestToken": uuid::Uuid::new_v4()});
        assert!(self.call("PutSecretValue", body).await["VersionId"].is_string());
    }
}

#[tokio::test]
async fn secrets_come_from_secrets_manager_and_a_rotated_password_is_read_again() {
    let (servers, moto) = (Servers::start().await, Moto::start().await);
    let secret = |database_url: String| json!({"DATABASE_URL": database_url, "REDIS_URL": servers.redis.url(), "JWT_SECRET_KEY": JWT_KEY});
    let arn = moto.create(&secret(servers.postgres.app_url("app"))).await;
    let env = [
        ("SECRET_ARN", arn.clone()),
        ("AWS_ENDPOINT_URL", moto.url.clone()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
    ];
    let api = Api::start_as(env.into(), xtask::gateway::PayloadVersion::V2, 1).await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    assert_eq!(api.get(&path).by(&user).send().await.status, 200);

    // Rotation: the password changes in PostgreSQL and in the secret, and connections are cut.
    let rotated = servers.postgres.app_url("app").replace(servers.postgres.app_password(), "rotated-password");
    let owner = connect(&servers.postgres.owner_url("app")).await;
    owner.batch_execute("alter role email_service_app password 'rotated-password'").await.unwrap();
    moto.put(&arn, &secret(rotated)).await;
    owner
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'email_service_app'", &[])
        .await
        .unwrap();
    let answer = api.get(&path).by(&user).send().await;
    assert_eq!((answer.status, answer.body), (200, created), "{}", api.log());
    assert!(api.log().contains("read the secret again"));
    assert!(!api.log().contains("rotated-password") && !api.log().contains(JWT_KEY));

    // A password that the secret does not know either is an error, and no loop.
    owner.batch_execute("alter role email_service_app password 'unknown to all'").await.unwrap();
    owner
        .execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'email_service_app'", &[])
        .await
        .unwrap();
    api.get(&path).by(&user).send().await.is_refused(500);
}

#[tokio::test]
async fn an_unusable_secret_stops_the_start_and_says_why() {
    let moto = Moto::start().await;
    let arn = moto.create(&json!({"DATABASE_URL": "postgres://secret-value@h/d"})).await;
    let env = |arn: String| {
        [
            ("SECRET_ARN", arn),
            ("AWS_ENDPOINT_URL", moto.url.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    };
    for (arn, reason) in [
        (arn.clone(), "must be a JSON object with the strings DATABASE_URL"),
        (format!("{arn}-unknown"), "cannot read the secret"),
    ] {
        let api = Api::start(env(arn).into()).await;
        assert!(api.gateway.invoke("get-account", json!({})).await.unwrap().is_err());
        assert!(api.log().contains(reason), "{}", api.log());
        assert!(!api.log().contains("secret-value"), "{}", api.log());
    }
}

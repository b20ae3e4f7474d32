//! Whatever a client sends, it gets a clear refusal in the usual form.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Api, User, account, api, logins, new_database, owner, servers};

#[tokio::test]
async fn invalid_json_is_refused_with_the_place() {
    let (api, user) = (api().await, User::new());
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for body in [
        "",
        " ",
        "{",
        "{\"accountName\": }",
        "nonsense",
        "[]",
        "\"text\"",
        "null",
        "1e999",
        "{\"a\": 1e999}",
        "{\"a\": \"\\ud800\"}",
        "{\"a\": \"\\udc00x\"}",
        "{\"a\":\"\u{0}\"}",
        "{'a': 1}",
        "{\"a\": 1,}",
        "{} {}",
        "\u{feff}{}",
        &deep,
        &format!("{{\"a\": {deep}}}"),
        "{\"port\": 9999999999999999999999999999999}",
    ] {
        let answer = api
            .request("POST", "/api/accounts")
            .body(body.to_owned())
            .header("content-type", "application/json")
            .by(&user)
            .send()
            .await;
        answer.is_refused(400);
    }
    let answer = api.request("POST", "/api/accounts").body("{\"a\": oops}").by(&user).send().await;
    assert!(answer.body["message"].as_str().unwrap().contains("line 1 column"), "{answer:?}");
}

#[tokio::test]
async fn invalid_utf8_is_refused() {
    for body in [b"\xff\xfe".as_slice(), b"{\"accountName\": \"\xc3\x28\"}", b"\xed\xa0\x80", &[0; 100]] {
        let request =
            api().await.request("POST", "/api/accounts").body(body.to_vec()).header("content-type", "application/json");
        request.by(&User::new()).send().await.is_refused(400);
    }
}

#[tokio::test]
async fn a_missing_content_type_is_read_as_json_and_another_is_refused() {
    let (api, user) = (api().await, User::new());
    let body = account(json!({})).to_string();
    let send = |content_type: Option<&str>| {
        let request = api.request("POST", "/api/accounts").body(body.clone()).by(&user);
        content_type.into_iter().fold(request, |request, value| request.header("content-type", value)).send()
    };
    assert_eq!(send(None).await.status, 201);
    for other in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "nonsense",
    ] {
        send(Some(other)).await.is_refused(400);
    }
    send(Some("application/json; charset=utf-8")).await.is_refused(409);
}

#[tokio::test]
async fn bodies_are_taken_up_to_64_kib_exactly() {
    let (api, user) = (api().await, User::new());
    let padded = |bytes: usize| {
        let body = account(json!({})).to_string();
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    let send = |body: String| {
        api.request("POST", "/api/accounts").body(body).header("content-type", "application/json").by(&user).send()
    };
    assert_eq!(send(padded(64 * 1024)).await.status, 201);
    send(padded(64 * 1024 + 1)).await.is_refused(413);
    send(padded(5 * 1024 * 1024)).await.is_refused(413);
    assert_eq!(api.addresses(&user).await.len(), 1);
}

#[tokio::test]
async fn a_body_that_even_api_gateway_refuses_gets_an_answer() {
    let response = reqwest::Client::new()
        .post(format!("{}/api/accounts", api().await.url()))
        .body(vec![b' '; 11 * 1024 * 1024])
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_get_the_usual_form() {
    let api = api().await;
    for path in ["/", "/api", "/api/accounts/", "/api/accounts/1/2", "/API/accounts", "/favicon.ico", "/.env", "/%00"] {
        api.get(path).send().await.is_refused(404);
    }
    for (method, path, allow) in [
        ("PATCH", "/api/accounts", "GET, POST, OPTIONS"),
        ("DELETE", "/api/accounts", "GET, POST, OPTIONS"),
        ("POST", "/api/accounts/1", "GET, PUT, DELETE, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("TRACE", "/health/ready", "GET, HEAD, OPTIONS"),
        ("HEAD", "/docs", "GET, OPTIONS"),
    ] {
        let answer = api.request(method, path).send().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    // Where an id may stand is a path of its own.
    let user = User::new();
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = api.request(method, "/api/accounts/test").by(&user).send().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, OPTIONS")), "{method}");
    }
    for (method, path) in [("GET", "/api/accounts/tests"), ("POST", "/api/accounts/test/test")] {
        api.request(method, path).by(&user).send().await.is_refused(404);
    }
}

#[tokio::test]
async fn odd_bytes_on_the_wire_never_cause_a_500_or_a_dropped_connection() {
    let address = api().await.url().strip_prefix("http://").unwrap();
    let user = User::new();
    let identity = format!("X-Tenant-ID: {}\r\nX-User-ID: {}\r\n", user.tenant, user.user);
    for (request, headers) in [
        ("GET /api/accounts/%zz HTTP/1.1", ""),
        ("GET /api/accounts/% HTTP/1.1", ""),
        ("GET /api/accounts/%ff%fe HTTP/1.1", ""),
        ("GET /api/accounts/a%0d%0ab HTTP/1.1", ""),
        ("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", ""),
        ("GET /api/accounts?limit=%zz&%ff=%00 HTTP/1.1", ""),
        ("GET /api/accounts?%%%&=&&& HTTP/1.1", ""),
        ("GET //api//accounts HTTP/1.1", ""),
        ("GET /api/accounts HTTP/1.1", "User-Agent: J\u{fc}rgen \u{1f980}\r\n"),
        ("GET /api/accounts HTTP/1.1", "X-Forwarded-Proto: ://\r\nX-Forwarded-For: ,,\r\n"),
        ("GET /api/accounts HTTP/1.1", "Origin: \u{fc}\r\nCookie: \u{fc}\r\n"),
        ("BREW /api/accounts HTTP/1.1", ""),
    ] {
        for host in ["localhost", "not a host", "]:99999", "\u{fc}"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let text = format!("{request}\r\nHost: {host}\r\n{identity}{headers}Connection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer);
            let status: u16 =
                answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer to {text:?}")).parse().unwrap();
            assert!((200..500).contains(&status), "{text:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn log_lines_stay_one_line_each_whatever_is_in_them() {
    let api = api().await;
    let answer = api
        .get("/a%0d%0a{%22level%22:%22ERROR%22}%00")
        .header("user-agent", &format!("evil\t{}", "x".repeat(1000)))
        .send()
        .await;
    let line = api.log_of(&answer).await;
    assert_eq!(line["path"], "/a\r\n{\"level\":\"ERROR\"}\u{0}");
    assert!(line["userAgent"].as_str().unwrap().len() <= 256);
    for line in api.log().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "no JSON line: {line}");
    }
}

#[tokio::test]
async fn a_log_line_says_who_did_what_and_how_it_went() {
    let (api, user) = (api().await, User::new());
    let answer = api.get("/api/accounts/7?x=1").by(&user).header("user-agent", "test/1").send().await;
    let line = api.log_of(&answer).await;
    for (name, value) in [
        ("level", json!("INFO")),
        ("method", json!("GET")),
        ("route", json!("GET /api/accounts/{id}")),
        ("path", json!("/api/accounts/7")),
        ("status", json!(404)),
        ("tenantId", json!(user.tenant)),
        ("userId", json!(user.user)),
        ("role", json!("user")),
        ("sourceIp", json!("127.0.0.1")),
        ("userAgent", json!("test/1")),
        ("errorKind", json!("Not found")),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(
        line["timestamp"].is_string() && line["durationMs"].is_number() && line["coldStart"].is_boolean(),
        "{line}"
    );
}

#[tokio::test]
async fn a_broken_schema_is_a_plain_500_and_the_log_has_the_cause() {
    let database = new_database().await;
    let postgres = &servers().await.postgres;
    let mut env = servers().await.env();
    env.extend(logins(postgres, &database));
    let (api, user) = (Api::start(env).await, User::new());
    let created = api.create(&user, json!({})).await;
    let client = crate::support::connect(&postgres.owner_url(&database)).await;
    client.batch_execute("alter table email_accounts drop column hostname cascade").await.unwrap();

    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    for request in [
        api.get(&one),
        api.get("/api/accounts"),
        api.put(&one, json!({"port": 1})),
        api.post("/api/accounts", account(json!({"emailAddress": "2@example.com"}))),
    ] {
        let answer = request.by(&user).send().await;
        answer.is_refused(500);
        let text = answer.body.to_string();
        assert!(!["hostname", "column", "email_accounts", "postgres"].iter().any(|word| text.contains(word)), "{text}");
        let line = api.log_of(&answer).await;
        assert_eq!(line["level"], "ERROR");
        assert!(line["error"].as_str().unwrap().contains("hostname"), "{line}");
    }
}

#[tokio::test]
async fn what_validation_refuses_the_database_refuses_too() {
    let client = owner().await;
    let user = User::new();
    let created = api().await.create(&user, json!({})).await;
    let id = created["id"].as_str().unwrap();
    for change in [
        "account_name = ''",
        "account_name = ' x'",
        "account_name = E'x\\u0085'",
        "email_address = 'x'",
        "email_address = 'jane'",
        "email_address = '@example.com'",
        "email_address = E'a\\tb@example.com'",
        "email_address = repeat('x', 65) || '@example.com'",
        "email_address = 'x@' || repeat('x', 250) || '.com'",
        "address_key = 'jane@example'",
        "address_key = ''",
        "protocol = 'smtp'",
        "protocol = 'IMAP'",
        "hostname = ''",
        "hostname = 'a b'",
        "hostname = 'a_b.com'",
        "hostname = E'a\\n'",
        "port = 0",
        "port = 65536",
        "encryption = 'ssl'",
        "username = ''",
        "username = E'x\\u0001'",
        "sync_interval = 59",
        "sync_interval = 3601",
        "credential_id = gen_random_uuid()",
        "user_id = gen_random_uuid()",
        "updated_at = 0",
    ] {
        assert!(
            client.batch_execute(&format!("update email_accounts set {change} where id = '{id}'")).await.is_err(),
            "{change}"
        );
    }
    let credential = created["credentialId"].as_str().unwrap();
    for change in ["algorithm = 'md5'", "password_hash = 'plain'", "salt = ''", "password_hash = upper(password_hash)"]
    {
        assert!(
            client
                .batch_execute(&format!("update email_credentials set {change} where id = '{credential}'"))
                .await
                .is_err(),
            "{change}"
        );
    }
}

#[tokio::test]
async fn on_lambda_a_log_line_carries_metrics() {
    let mut env = servers().await.env();
    env.insert("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned());
    // The servers of the tests speak no TLS, on which a function insists when it is really there.
    env.insert("AWS_SAM_LOCAL", "true".to_owned());
    let api = Api::start(env).await;
    let answer = api.get("/api/accounts").by(&User::new()).send().await;
    let line = api.log_of(&answer).await;
    assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Namespace"], "EmailService");
    assert_eq!((&line["Service"], &line["Function"]), (&json!("email_service"), &json!("list-accounts")));
    assert_eq!((&line["Requests"], &line["Errors4xx"], &line["ColdStart"]), (&json!(1), &json!(0), &json!(1)));
    let time = |name: &str| line[name].as_f64().unwrap();
    assert!(time("DatabaseTime") > 0.0 && time("RedisTime") > 0.0, "{line}");
    assert!(time("DatabaseTime") + time("RedisTime") <= time("Duration"), "{line}");
    assert!(api.log_of(&api.get("/health").send().await).await["Requests"] == 1);
    // Whose time is not ours alone says so, whatever became of it.
    let visit = api.post("/api/accounts/test", json!({})).by(&User::new()).send().await;
    visit.is_refused(400);
    assert_eq!((&line["Visits"], &api.log_of(&visit).await["Visits"]), (&json!("nobody"), &json!("hosts")));
}

#[tokio::test]
async fn metrics_do_not_depend_on_the_level_of_the_log() {
    for level in ["warn", "off"] {
        let mut env = servers().await.env();
        env.insert("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned());
        env.insert("AWS_SAM_LOCAL", "true".to_owned());
        env.insert("LOG_LEVEL", level.to_owned());
        let (api, user) = (Api::start(env).await, User::new());
        assert_eq!(api.get("/api/accounts").by(&user).send().await.status, 200);
        api.get("/api/accounts/7").by(&user).send().await.is_refused(404);
        let good = api.log_line(|line| line["Function"] == "list-accounts").await;
        assert_eq!(
            (&good["Requests"], &good["Errors"], &good["Service"]),
            (&json!(1), &json!(0), &json!("email_service"))
        );
        let refused = api.log_line(|line| line["Function"] == "get-account").await;
        assert_eq!((&refused["Errors4xx"], &refused["ErrorKind"]), (&json!(1), &json!("Not found")));
        // Not the lines that the level holds back.
        assert!(!api.log().contains("requestId") && !api.log().contains(&user.user.to_string()), "{}", api.log());
    }
}

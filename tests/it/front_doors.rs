//! Other ways in than the HTTP API of the local gateway.

use std::fs;

use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Api, User, account, api, functions, lasting, servers};

#[tokio::test]
async fn the_events_of_a_rest_api_are_understood_too() {
    let api = Api::start_as(servers().await.env(), PayloadVersion::V1, 2).await;
    let user = User::new();
    let created = api.create(&user, json!({"accountName": "Büro"})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let answer = api.get(&path).by(&user).header("origin", "http://localhost:3000").send().await;
    assert_eq!((answer.status, &answer.body), (200, &created));
    assert_eq!(answer.header("access-control-allow-origin"), Some("http://localhost:3000"));
    let line = api.log_of(&answer).await;
    assert_eq!(
        (&line["route"], &line["method"], &line["sourceIp"]),
        (&json!("GET /api/accounts/{id}"), &json!("GET"), &json!("127.0.0.1"))
    );
    assert_eq!(api.get("/api/accounts?limit=1&offset=0").by(&user).send().await.body["pagination"]["limit"], 1);
    api.get("/api/accounts?limit=1&limit=2").by(&user).send().await.is_refused(400);
    assert_eq!(api.put(&path, json!({"port": 1})).by(&user).send().await.body["port"], 1);
    api.get("/unknown").send().await.is_refused(404);
    api.request("PATCH", &path).send().await.is_refused(405);
    assert_eq!(api.request("OPTIONS", "/api/accounts").send().await.status, 204);
}

/// What API Gateway puts before a path: a named stage in format 2.0, a custom domain's base path in format 1.0 always.
#[tokio::test]
async fn behind_a_stage_or_a_base_path_all_is_answered_as_without() {
    let api = api().await;
    let events = |method: &str, path: &str| {
        let headers = json!({"origin": "http://localhost:3000", "access-control-request-method": "PUT"});
        [
            json!({
                "routeKey": "$default", "rawPath": format!("/dev{path}"), "headers": headers,
                "requestContext": {"stage": "dev", "http": {"method": method, "path": format!("/dev{path}")}}
            }),
            json!({
                "routeKey": "$default", "rawPath": format!("/mail/v1{path}"), "headers": headers,
                "requestContext": {"stage": "$default", "domainName": "api.example.com", "http": {"method": method}}
            }),
            json!({
                "resource": "/{proxy+}", "path": path, "httpMethod": method, "multiValueHeaders": {
                    "Origin": ["http://localhost:3000"], "Access-Control-Request-Method": ["PUT"]
                },
                "requestContext": {"stage": "dev", "path": format!("/dev{path}"), "httpMethod": method}
            }),
            json!({
                "resource": "/{proxy+}", "path": format!("/mail{path}"), "httpMethod": method, "headers": headers,
                "requestContext": {"stage": "dev", "path": format!("/mail{path}"), "httpMethod": method}
            }),
        ]
    };
    for (method, path, status, allow) in [
        ("PATCH", "/api/accounts", 405, Some("GET, POST, OPTIONS")),
        ("PATCH", "/api/accounts/7", 405, Some("GET, PUT, DELETE, OPTIONS")),
        ("HEAD", "/api/accounts", 405, Some("GET, POST, OPTIONS")),
        ("POST", "/health", 405, Some("GET, HEAD, OPTIONS")),
        ("OPTIONS", "/api/accounts", 204, Some("GET, POST, OPTIONS")),
        ("OPTIONS", "/health/ready", 204, Some("GET, HEAD, OPTIONS")),
        ("OPTIONS", "/unknown", 204, Some("OPTIONS")),
        ("GET", "/unknown", 404, None),
        ("PATCH", "/api/accounts/7/8", 404, None),
        // Had this been the health check, API Gateway would have asked the health check.
        ("GET", "/elsewhere/health", 404, None),
    ] {
        for event in events(method, path) {
            let sent = event.clone();
            let answer =
                lasting(async move { api.gateway.invoke("default-route", sent).await }).await.unwrap().unwrap();
            assert_eq!(answer["statusCode"], status, "{event}: {answer}");
            assert_eq!(answer["headers"]["allow"].as_str(), allow, "{event}: {answer}");
            assert_eq!(answer["headers"]["access-control-allow-origin"], "http://localhost:3000", "{event}: {answer}");
        }
    }
}

#[tokio::test]
async fn behind_a_stage_or_a_base_path_a_new_account_says_where_it_is() {
    let api = api().await;
    for (n, (paths, base)) in [
        (json!({"routeKey": "POST /api/accounts", "rawPath": "/dev/api/accounts"}), "/dev"),
        (json!({"resource": "/api/accounts", "path": "/mail/api/accounts"}), "/mail"),
        (json!({"routeKey": "POST /api/accounts", "rawPath": "/api/accounts"}), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut event = json!({
            "headers": {"authorization": format!("Bearer {}", User::new().token())},
            "body": account(json!({"emailAddress": format!("{n}@example.com")})).to_string(),
            "requestContext": {"http": {"method": "POST"}}
        });
        event.as_object_mut().unwrap().append(&mut paths.as_object().unwrap().clone());
        let answer = lasting(async move { api.gateway.invoke("create-account", event).await }).await.unwrap().unwrap();
        let created: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        let location = format!("{base}/api/accounts/{}", created["id"].as_str().unwrap());
        assert_eq!(answer["headers"]["location"], location, "{answer}");
    }
}

/// Of a load balancer or a console test; and a REST API's, which hands on what is repeated in lists alone.
#[tokio::test]
async fn events_with_one_form_of_parameters_or_headers_lose_none() {
    let (api, user) = (api().await, User::new());
    let token = format!("Bearer {}", user.token());
    for (event, status, limit) in [
        (json!({"headers": {"authorization": token}, "queryStringParameters": {"limit": "7"}}), 200, Some(7)),
        (json!({"headers": {"authorization": token}, "queryStringParameters": {"limit": "0"}}), 400, None),
        (json!({"multiValueHeaders": {"Authorization": [token]}}), 200, Some(100)),
        // Two tokens are none, as in format 2.0, which joins them.
        (
            json!({"headers": {"Authorization": token}, "multiValueHeaders": {"Authorization": ["Bearer x", token]}}),
            401,
            None,
        ),
        (json!({"headers": {"Authorization": "Bearer x", "authorization": token}}), 401, None),
        (
            json!({"headers": {"authorization": token}, "multiValueHeaders": {
                "Authorization": [token], "X-Tenant-ID": [user.tenant], "x-tenant-id": [User::new().tenant]
            }}),
            403,
            None,
        ),
    ] {
        let sent = event.clone();
        let answer = lasting(async move { api.gateway.invoke("list-accounts", sent).await }).await.unwrap().unwrap();
        assert_eq!(answer["statusCode"], status, "{event}: {answer}");
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["pagination"]["limit"].as_i64(), limit, "{event}: {answer}");
    }
}

#[tokio::test]
async fn every_function_has_an_event_file_that_it_answers_as_over_http() {
    let api = api().await;
    let directory = local::workspace_root().join("tests/events");
    for function in functions().iter().filter(|function| !function.routes.is_empty()) {
        let file = directory.join(format!("{}.json", function.binary));
        let text = fs::read_to_string(&file).unwrap_or_else(|_| panic!("{} is missing", file.display()));
        let event: Value = serde_json::from_str(&text).unwrap();
        let answer = api.gateway.invoke(&function.binary, event.clone()).await.unwrap().unwrap();

        let http = &event["requestContext"]["http"];
        let query = event["rawQueryString"].as_str().filter(|query| !query.is_empty());
        let path =
            http["path"].as_str().unwrap().to_owned() + &query.map_or(String::new(), |query| format!("?{query}"));
        let mut request = api.request(http["method"].as_str().unwrap(), &path);
        for (name, value) in event["headers"].as_object().unwrap() {
            if name != "host" && name != "content-length" {
                request = request.header(name, value.as_str().unwrap());
            }
        }
        if let Some(body) = event["body"].as_str() {
            request = request.body(body.to_owned());
        }
        let over_http = request.send().await;
        let status = answer["statusCode"].as_u64().unwrap();
        match function.binary.as_str() {
            // The first of the two took the address.
            "create-account" => assert!([201, 409].contains(&status) && over_http.status == 409, "{answer}"),
            _ => assert_eq!(status, u64::from(over_http.status), "{}: {answer}", function.binary),
        }
        assert!(status < 500, "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_http_event_is_answered_and_does_not_end_the_process() {
    let api = api().await;
    for event in [
        json!({}),
        json!({"Records": []}),
        json!({"headers": {"x": null}, "body": null}),
        json!({"body": "x", "isBase64Encoded": true}),
    ] {
        for function in ["list-accounts", "create-account", "get-account", "health", "default-route"] {
            let answer = api.gateway.invoke(function, event.clone()).await.unwrap().unwrap();
            assert!(answer["statusCode"].as_u64().unwrap() < 500, "{function} {event}: {answer}");
        }
    }
    let user = User::new();
    assert_eq!(api.post("/api/accounts", account(json!({}))).by(&user).send().await.status, 201);
    api.get(&format!("/api/accounts/{}", Uuid::now_v7())).by(&user).send().await.is_refused(404);
}

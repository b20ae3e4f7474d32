//! Other ways in than the HTTP API of the local gateway.

use std::fs;

use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Api, User, account, api, functions, servers};

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
        let mut request = api.request(http["method"].as_str().unwrap(), http["path"].as_str().unwrap());
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

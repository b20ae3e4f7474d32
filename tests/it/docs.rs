//! The reference: for programs, and for people.

use std::io::Read;

use flate2::read::GzDecoder;
use local::gateway::PayloadVersion;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::support::{Api, User, api, lasting, servers};

#[tokio::test]
async fn the_document_is_the_committed_one() {
    let answer = api().await.get("/openapi.json").send().await;
    assert_eq!(answer.status, 200);
    let committed = std::fs::read_to_string(local::workspace_root().join("openapi.json")).unwrap();
    assert_eq!(answer.body, serde_json::from_str::<serde_json::Value>(&committed).unwrap());
}

/// The built-in table changes now and then, and its example is to be pasted.
#[tokio::test]
async fn the_example_of_settings_that_are_found_is_what_is_answered() {
    let mut env = servers().await.env();
    env.insert("OAUTH2_PROVIDERS", r#"{"google":{"clientId":"example"}}"#.into());
    let api = Api::start(env).await;
    let answer = api.get("/api/autoconfig?emailAddress=jane%40gmail.com").by(&User::new()).send().await;
    let document: serde_json::Value = serde_json::from_str(&openapi::document().unwrap()).unwrap();
    let responses = &document["paths"]["/api/autoconfig"]["get"]["responses"];
    assert_eq!(answer.body, responses["200"]["content"]["application/json"]["example"], "{answer:?}");
}

struct Page {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Page {
    async fn get(api: &Api, headers: &[(&'static str, &str)]) -> Self {
        let url = format!("{}/docs", api.url());
        let value = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let headers: HeaderMap = headers.iter().map(value).collect();
        lasting(async {
            let response = reqwest::Client::new().get(url).headers(headers).send().await.unwrap();
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Self { status, headers, body: response.bytes().await.unwrap().to_vec() }
        })
        .await
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

#[tokio::test]
async fn the_page_may_run_its_own_scripts_only_and_keeps_what_all_answers_have() {
    let page = Page::get(api().await, &[]).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert!(page.header("strict-transport-security").starts_with("max-age="));
    assert!(!page.header("x-request-id").is_empty());
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");
}

#[tokio::test]
async fn the_page_is_compressed_for_who_takes_that() {
    let api = api().await;
    let plain = Page::get(api, &[]).await;
    assert_eq!((plain.status, plain.header("content-encoding")), (200, ""));
    for accepted in ["gzip, deflate, br", "*", "br;q=0.5, gzip;q=0.4"] {
        let page = Page::get(api, &[("accept-encoding", accepted)]).await;
        assert_eq!((page.status, page.header("content-encoding")), (200, "gzip"), "{accepted}");
        assert!(page.body.len() < 600_000, "{}", page.body.len());
        let mut text = Vec::new();
        GzDecoder::new(page.body.as_slice()).read_to_end(&mut text).unwrap();
        assert_eq!(text, plain.body);
    }
    for refused in ["identity", "br", "gzip;q=0"] {
        assert_eq!(Page::get(api, &[("accept-encoding", refused)]).await.body, plain.body, "{refused}");
    }
    // A REST API would hand the base64 on as it is.
    let rest = Api::start_as(servers().await.env(), PayloadVersion::V1, 1).await;
    assert_eq!(Page::get(&rest, &[("accept-encoding", "gzip")]).await.body, plain.body);
}

#[tokio::test]
async fn the_page_is_cached_and_not_sent_again_to_who_has_it() {
    let api = api().await;
    let mut tags = Vec::new();
    for coding in ["identity", "gzip"] {
        let page = Page::get(api, &[("accept-encoding", coding)]).await;
        let tag = page.header("etag").to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let again = Page::get(api, &[("accept-encoding", coding), ("if-none-match", &known)]).await;
            assert_eq!((again.status, again.body.len()), (304, 0), "{known}");
            for name in ["etag", "cache-control", "vary", "content-type", "content-security-policy"] {
                assert_eq!(again.header(name), page.header(name), "{name}");
            }
        }
        let other = Page::get(api, &[("accept-encoding", coding), ("if-none-match", "\"other\"")]).await;
        assert_eq!(other.status, 200);
        assert_eq!(page.header("cache-control"), "public, max-age=3600");
        assert_eq!(page.header("vary"), "Origin, Accept-Encoding");
        tags.push(tag);
    }
    assert_ne!(tags[0], tags[1], "what differs in its bytes has another tag");
}

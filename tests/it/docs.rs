//! The reference: for programs, and for people.

use std::collections::BTreeSet;
use std::io::Read;

use flate2::read::GzDecoder;
use local::gateway::PayloadVersion;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::support::{Api, User, api, lasting, servers};

#[tokio::test]
async fn the_document_is_the_committed_one() {
    let answer = Page::get(api().await, DOCUMENT, &[]).await;
    assert_eq!(answer.status, 200);
    let committed = std::fs::read(local::workspace_root().join("openapi.json")).unwrap();
    assert!(answer.body == committed);
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

const PAGE: &str = "/docs";
const DOCUMENT: &str = "/openapi.json";

struct Page {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Page {
    async fn get(api: &Api, path: &str, headers: &[(&'static str, &str)]) -> Self {
        let url = format!("{}{path}", api.url());
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
    for path in [PAGE, DOCUMENT] {
        let page = Page::get(api().await, path, &[]).await;
        assert_eq!(page.status, 200);
        let kind = if path == PAGE { "text/html; charset=utf-8" } else { "application/json" };
        assert_eq!(page.header("content-type"), kind);
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert!(page.header("strict-transport-security").starts_with("max-age="));
        assert!(!page.header("x-request-id").is_empty());
    }
    let page = Page::get(api().await, PAGE, &[]).await;
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");
}

#[tokio::test]
async fn the_page_and_the_document_are_compressed_for_who_takes_that() {
    let api = api().await;
    let rest = Api::start_as(servers().await.env(), PayloadVersion::V1, 1).await;
    for (path, most) in [(PAGE, 600_000), (DOCUMENT, 60_000)] {
        let plain = Page::get(api, path, &[]).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, ""));
        for accepted in ["gzip, deflate, br", "*", "br;q=0.5, gzip;q=0.4"] {
            let page = Page::get(api, path, &[("accept-encoding", accepted)]).await;
            assert_eq!((page.status, page.header("content-encoding")), (200, "gzip"), "{accepted}");
            assert!(page.body.len() < most, "{path}: {}", page.body.len());
            let mut text = Vec::new();
            GzDecoder::new(page.body.as_slice()).read_to_end(&mut text).unwrap();
            assert_eq!(text, plain.body);
        }
        for refused in ["identity", "br", "gzip;q=0"] {
            let page = Page::get(api, path, &[("accept-encoding", refused)]).await;
            assert_eq!(page.body, plain.body, "{path}: {refused}");
        }
        // A REST API would hand the base64 on as it is.
        assert_eq!(Page::get(&rest, path, &[("accept-encoding", "gzip")]).await.body, plain.body);
    }
}

#[tokio::test]
async fn the_page_and_the_document_are_cached_and_not_sent_again_to_who_has_them() {
    let api = api().await;
    let mut tags = BTreeSet::new();
    // The document describes what answers now: it is asked for each time.
    for (path, caching) in [(PAGE, "public, max-age=3600"), (DOCUMENT, "public, no-cache")] {
        for coding in ["identity", "gzip"] {
            let page = Page::get(api, path, &[("accept-encoding", coding)]).await;
            let tag = page.header("etag").to_owned();
            for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
                let again = Page::get(api, path, &[("accept-encoding", coding), ("if-none-match", &known)]).await;
                assert_eq!((again.status, again.body.len()), (304, 0), "{known}");
                for name in ["etag", "cache-control", "vary", "content-type", "content-security-policy"] {
                    assert_eq!(again.header(name), page.header(name), "{name}");
                }
            }
            let other = Page::get(api, path, &[("accept-encoding", coding), ("if-none-match", "\"other\"")]).await;
            assert_eq!(other.status, 200);
            assert_eq!(page.header("cache-control"), caching);
            assert_eq!(page.header("vary"), "Origin, Accept-Encoding");
            tags.insert(tag);
        }
    }
    assert_eq!(tags.len(), 4, "what differs in its bytes has another tag");
}

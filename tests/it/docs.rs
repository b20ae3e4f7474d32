//! The reference: for programs, and for people.

use crate::support::{api, lasting};

#[tokio::test]
async fn the_document_is_the_committed_one() {
    let answer = api().await.get("/openapi.json").send().await;
    assert_eq!(answer.status, 200);
    let committed = std::fs::read_to_string(local::workspace_root().join("openapi.json")).unwrap();
    assert_eq!(answer.body, serde_json::from_str::<serde_json::Value>(&committed).unwrap());
}

#[tokio::test]
async fn the_page_may_run_its_own_scripts_only_and_keeps_what_all_answers_have() {
    let url = format!("{}/docs", api().await.url());
    let answer = lasting(async { reqwest::get(url).await.unwrap() }).await;
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert!(header("strict-transport-security").starts_with("max-age="));
    assert!(!header("x-request-id").is_empty());
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");
}

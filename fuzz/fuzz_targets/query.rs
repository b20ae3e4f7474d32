//! Method, path and query, one per line: a page within its bounds, an id, or a 4xx; unknown routes get their answer.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use shared::cors::Cors;
use shared::event::Event;
use shared::http::StatusCode;
use shared::{Error, PublicCall, Request, call};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let (method, path, query) = (next(), next(), next());
    let id = path.rsplit('/').next().unwrap_or_default();
    let event = json!({
        "routeKey": "$default", "rawPath": path, "rawQueryString": query, "pathParameters": { "id": id },
        "requestContext": { "http": { "method": method } }
    });
    let Ok(event) = serde_json::from_str::<Event>(&event.to_string()) else {
        panic!("an event of strings is no event")
    };
    let request = Request::from(event);

    match list_accounts::Input::read(&request.query) {
        Ok(page) => assert!((1..=1000).contains(&page.limit) && page.offset >= 0, "{page:?}"),
        Err(refusal) => assert_eq!(refusal.status().0, StatusCode::BAD_REQUEST),
    }
    match list_messages::Input::read(&request.query) {
        Ok(page) => {
            assert!((1..=200).contains(&page.limit), "{page:?}");
            for text in [page.filter.from, page.filter.to, page.filter.subject, page.filter.text].into_iter().flatten()
            {
                let expressions = [text.in_text(), text.in_names()].concat();
                assert!(
                    expressions.iter().all(|expression| (1..16_000).contains(&expression.len())),
                    "{expressions:?}"
                );
            }
        }
        Err(refusal) => assert_eq!(refusal.status().0, StatusCode::BAD_REQUEST),
    }
    match list_changes::Input::read(&request.query) {
        Ok(page) => assert!((1..=1000).contains(&page.limit), "{page:?}"),
        Err(refusal) => assert_eq!(refusal.status().0, StatusCode::BAD_REQUEST),
    }
    match list_drafts::Input::read(&request.query) {
        Ok(page) => assert!((1..=200).contains(&page.limit), "{page:?}"),
        Err(refusal) => assert_eq!(refusal.status().0, StatusCode::BAD_REQUEST),
    }
    match list_outbox::Input::read(&request.query) {
        Ok(page) => assert!((1..=200).contains(&page.limit), "{page:?}"),
        Err(refusal) => assert_eq!(refusal.status().0, StatusCode::BAD_REQUEST),
    }
    match call::account_id(&request) {
        Ok(account) => assert_eq!(account.to_string(), id.to_ascii_lowercase()),
        Err(refusal) => assert_eq!(refusal.status().0, StatusCode::NOT_FOUND),
    }
    let call = PublicCall { request, cors: Arc::new(Cors::new(Vec::new())) };
    match futures_executor::block_on(default_route::handler(call)) {
        Ok(reply) => assert!(method == "OPTIONS" && reply.status == StatusCode::NO_CONTENT),
        Err(Error::NotFound(_)) => {}
        Err(refusal @ Error::MethodNotAllowed { .. }) => assert!(refusal.header().is_some()),
        Err(other) => panic!("{other:?}"),
    }
});

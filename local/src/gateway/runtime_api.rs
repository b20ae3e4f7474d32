//! The Lambda runtime API: how a function's process gets events and returns answers.
//!
//! Each process has a base path of its own, `/{function}/{process}`, so one listener serves them all.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use super::{
    message, pages,
    pool::{Invocation, Pool, ProcessId, trace_id},
    read_body, respond,
};

/// Lambda's limit on an answer.
const ANSWER_SIZE_LIMIT: usize = 6 * 1024 * 1024;

pub(super) async fn answer(pools: HashMap<String, Arc<Pool>>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    // A page could take the event of somebody's request, or answer it.
    if !pages::is_addressed_to_us(&head, Ipv4Addr::LOCALHOST.into()) || pages::is_from_a_browser(&head) {
        return message(StatusCode::FORBIDDEN, "Forbidden");
    }
    let parts: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let [function, process, "2018-06-01", "runtime", call @ ..] = parts.as_slice() else {
        return message(StatusCode::NOT_FOUND, "no such call");
    };
    let (Some(pool), Ok(process)) = (pools.get(*function), process.parse::<ProcessId>()) else {
        return message(StatusCode::NOT_FOUND, "no such process");
    };
    match (&head.method, call) {
        (&Method::GET, ["invocation", "next"]) => match pool.next(process).await {
            Some(invocation) => deliver(pool, invocation),
            None => message(StatusCode::GONE, "the process is to end"),
        },
        (&Method::POST, ["invocation", id, "response"]) => {
            let outcome = match read_body(body, ANSWER_SIZE_LIMIT).await {
                Ok(answer) => Ok(answer),
                Err(refusal) if refusal.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(json!({
                    "errorType": "Function.ResponseSizeTooLarge",
                    "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
                })),
                Err(refusal) => return refusal,
            };
            acknowledge(pool.finish(id, outcome))
        }
        (&Method::POST, ["invocation", id, "error"]) => match error_payload(body).await {
            Ok(payload) => acknowledge(pool.finish(id, Err(payload))),
            Err(refusal) => refusal,
        },
        // The process ends after this, and its end is what fails the invocation.
        (&Method::POST, ["init", "error"]) => match error_payload(body).await {
            Ok(payload) => {
                pool.log(&payload.to_string());
                acknowledge(true)
            }
            Err(refusal) => refusal,
        },
        _ => message(StatusCode::NOT_FOUND, "no such call"),
    }
}

fn deliver(pool: &Pool, invocation: Invocation) -> Response<Full<Bytes>> {
    let arn = format!("arn:aws:lambda:us-east-1:123456789012:function:{}", pool.name());
    let headers = [
        ("lambda-runtime-aws-request-id", invocation.id),
        ("lambda-runtime-deadline-ms", invocation.deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", arn),
        ("lambda-runtime-trace-id", trace_id()),
    ];
    let mut response = respond(StatusCode::OK, invocation.event);
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

async fn error_payload(body: Incoming) -> Result<Value, Response<Full<Bytes>>> {
    let body = read_body(body, ANSWER_SIZE_LIMIT).await?;
    Ok(serde_json::from_slice(&body).unwrap_or_else(|_| json!({ "errorType": "Unknown" })))
}

fn acknowledge(known: bool) -> Response<Full<Bytes>> {
    if known {
        respond(StatusCode::ACCEPTED, Bytes::from_static(br#"{"status":"OK"}"#))
    } else {
        respond(StatusCode::BAD_REQUEST, Bytes::from_static(br#"{"errorType":"InvalidRequestID"}"#))
    }
}

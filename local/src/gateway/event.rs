//! Translates between HTTP and the events of API Gateway, formats 1.0 and 2.0.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, SET_COOKIE},
    http::request::Parts,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, macros::format_description};

use super::{
    PayloadVersion,
    pages::split_port,
    pool::trace_id,
    route::{Match, decode},
};

const ACCOUNT: &str = "123456789012";
const API: &str = "local";

/// The bytes that count against API Gateway's limit on request line and headers.
pub(super) fn head_size(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    head.method.as_str().len() + target + headers
}

/// AWS turns away what is not addressed to an API's domain name, so functions rely on getting a URL that parses.
pub(super) fn is_acceptable(head: &Parts) -> bool {
    let host = head.headers.get(HOST).map_or(Ok("localhost"), HeaderValue::to_str);
    head.uri.path().starts_with('/') && host.is_ok_and(is_host)
}

fn is_host(host: &str) -> bool {
    let (name, port) = split_port(host);
    let port = port.unwrap_or("443");
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address = bare.unwrap_or(name).parse().is_ok_and(|address: IpAddr| address.is_ipv6() == bare.is_some());
    let is_label = |label: &str| {
        let rest = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        !label.is_empty() && rest && !label.to_ascii_lowercase().starts_with("xn--")
    };
    // A last label that begins with a digit would make a URL's parser read the name as an IPv4 address.
    let last_is_word = name.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_alphabetic()));
    port.parse::<u16>().is_ok() && (is_address || (last_is_word && name.split('.').all(is_label)))
}

/// The event of an HTTP API.
pub(super) fn build_v2(head: &Parts, body: &[u8], matched: &Match, client: IpAddr, port: u16) -> Value {
    let now = OffsetDateTime::now_utc();
    let query = head.uri.query().unwrap_or_default();
    let path = decode(head.uri.path());
    let headers = headers(head, client, port);
    let (body, is_base64) = encode_body(&head.headers, body);
    let domain = domain(head);
    let mut event = json!({
        "version": "2.0",
        "routeKey": matched.key(),
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers
            .iter()
            .filter(|(name, _)| name.as_str() != COOKIE)
            .map(|(name, values)| (name.clone(), values.join(",").into()))
            .collect::<Map<_, _>>(),
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": API,
            "domainName": domain,
            "domainPrefix": domain.split('.').next(),
            "http": {
                "method": head.method.as_str(),
                "path": path,
                "protocol": format!("{:?}", head.version),
                "sourceIp": client,
                "userAgent": user_agent(&headers),
            },
            "requestId": uuid::Uuid::now_v7().to_string(),
            "routeKey": matched.key(),
            "stage": "$default",
            "time": clf_time(now),
            "timeEpoch": epoch_millis(now),
        },
        "isBase64Encoded": is_base64,
    });
    let cookies = headers.get(COOKIE.as_str()).map(|values| values.join("; "));
    let optional = [
        ("queryStringParameters", last_of_each(joined(query_values(query)))),
        ("pathParameters", path_parameters(matched)),
        ("cookies", cookies.map(|cookies| cookies.split("; ").collect())),
        ("body", body.map(Value::from)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            event[name] = value;
        }
    }
    event
}

/// The event of a REST API with proxy integration: absent values are null.
pub(super) fn build_v1(head: &Parts, body: &[u8], matched: &Match, client: IpAddr, port: u16) -> Value {
    let now = OffsetDateTime::now_utc();
    let path = decode(head.uri.path());
    let headers = headers(head, client, port);
    let queries = query_values(head.uri.query().unwrap_or_default());
    let (body, is_base64) = encode_body(&head.headers, body);
    let resource = match matched.route.path.as_str() {
        "$default" => "/{proxy+}",
        path => path,
    };
    json!({
        "resource": resource,
        "path": path,
        "httpMethod": head.method.as_str(),
        "headers": last_of_each(headers.clone()),
        "multiValueHeaders": headers,
        "queryStringParameters": last_of_each(queries.clone()),
        "multiValueQueryStringParameters": Some(&queries).filter(|queries| !queries.is_empty()),
        "pathParameters": path_parameters(matched),
        "stageVariables": null,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": API,
            "domainName": domain(head),
            "httpMethod": head.method.as_str(),
            "identity": { "sourceIp": client, "userAgent": user_agent(&headers) },
            "path": path,
            "protocol": format!("{:?}", head.version),
            "requestId": uuid::Uuid::now_v7().to_string(),
            "requestTime": clf_time(now),
            "requestTimeEpoch": epoch_millis(now),
            "resourceId": API,
            "resourcePath": resource,
            "stage": "$default",
        },
        "body": body,
        "isBase64Encoded": is_base64,
    })
}

type Values = BTreeMap<String, Vec<String>>;

/// The request's headers and those that API Gateway adds.
fn headers(head: &Parts, client: IpAddr, port: u16) -> Values {
    let mut headers = Values::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str().to_owned()).or_default().push(value);
    }
    let mut forwarded = headers.remove("x-forwarded-for").unwrap_or_default();
    forwarded.push(client.to_string());
    headers.insert("x-forwarded-for".to_owned(), vec![forwarded.join(", ")]);
    headers.insert("x-forwarded-proto".to_owned(), vec!["http".to_owned()]);
    headers.insert("x-forwarded-port".to_owned(), vec![port.to_string()]);
    headers.entry("x-amzn-trace-id".to_owned()).or_insert_with(|| vec![trace_id()]);
    headers.entry("host".to_owned()).or_insert_with(|| vec!["localhost".to_owned()]);
    headers
}

fn user_agent(headers: &Values) -> Option<&String> {
    headers.get("user-agent").and_then(|values| values.last())
}

fn domain(head: &Parts) -> &str {
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    split_port(host).0
}

fn query_values(query: &str) -> Values {
    let mut values = Values::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        values.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    values
}

fn joined(values: Values) -> Values {
    values.into_iter().map(|(name, values)| (name, vec![values.join(",")])).collect()
}

fn last_of_each(values: Values) -> Option<Value> {
    let last = |(name, mut values): (String, Vec<String>)| Some((name, Value::from(values.pop()?)));
    Some(values.into_iter().filter_map(last).collect::<Map<_, _>>()).filter(|map| !map.is_empty()).map(Value::from)
}

fn path_parameters(matched: &Match) -> Option<Value> {
    let parameters = matched.parameters.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into()));
    Some(parameters.collect::<Map<_, _>>()).filter(|map| !map.is_empty()).map(Value::from)
}

/// Text travels as it is, anything else in base64.
fn encode_body(headers: &HeaderMap, body: &[u8]) -> (Option<String>, bool) {
    if body.is_empty() {
        return (None, false);
    }
    match std::str::from_utf8(body) {
        Ok(text) if is_textual(headers) => (Some(text.to_owned()), false),
        _ => (Some(BASE64_STANDARD.encode(body)), true),
    }
}

fn is_textual(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let known = ["application/json", "application/xml", "application/javascript"];
    essence.starts_with("text/") || known.contains(&essence) || essence.ends_with("+json") || essence.ends_with("+xml")
}

fn clf_time(now: OffsetDateTime) -> Option<String> {
    now.format(format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000")).ok()
}

fn epoch_millis(now: OffsetDateTime) -> i64 {
    now.unix_timestamp() * 1000 + i64::from(now.millisecond())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    status_code: u16,
    headers: Option<HashMap<String, Value>>,
    multi_value_headers: Option<HashMap<String, Vec<Value>>>,
    cookies: Option<Vec<String>>,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

/// The HTTP response for a function's answer; nothing when API Gateway would not understand the answer.
pub(super) fn response(version: PayloadVersion, answer: &[u8]) -> Option<Response<Full<Bytes>>> {
    let json: Value = serde_json::from_slice(answer).ok()?;
    if json.get("statusCode").is_none() {
        // Format 2.0 lets a function answer with the body alone.
        return (version == PayloadVersion::V2)
            .then(|| super::respond(StatusCode::OK, json.as_str().map_or(json.to_string(), str::to_owned).into()));
    }
    let reply: Reply = serde_json::from_value(json).ok()?;
    let status = StatusCode::from_u16(reply.status_code).ok().filter(|status| (200..600).contains(&status.as_u16()))?;
    let body = match (reply.body.unwrap_or_default(), reply.is_base64_encoded) {
        (body, true) => BASE64_STANDARD.decode(body).ok()?,
        (body, false) => body.into_bytes(),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in reply.headers.unwrap_or_default() {
        headers.insert(HeaderName::try_from(name).ok()?, header_value(&value)?);
    }
    for (name, values) in reply.multi_value_headers.unwrap_or_default() {
        let name = HeaderName::try_from(name).ok()?;
        headers.remove(&name);
        for value in values {
            headers.append(&name, header_value(&value)?);
        }
    }
    for cookie in reply.cookies.unwrap_or_default() {
        headers.append(SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain;charset=UTF-8"));
    // The connection is ours: its length and lifetime are not the function's to say.
    for name in [CONTENT_LENGTH, CONNECTION, HeaderName::from_static("transfer-encoding")] {
        headers.remove(name);
    }
    Some(response)
}

fn header_value(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        _ => return None,
    };
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hyper::Request;

    use super::*;
    use crate::gateway::route::{Routes, tests::function};

    fn event(request: Request<()>, body: &[u8], version: PayloadVersion) -> Value {
        let routes = Routes::new(&[function("one", &["POST /a/{id}"]), function("default", &["$default"])]);
        let head = request.into_parts().0;
        let matched = routes.find(&head.method, head.uri.path()).expect("there is a default route");
        let client = IpAddr::from(Ipv4Addr::LOCALHOST);
        match version {
            PayloadVersion::V1 => build_v1(&head, body, &matched, client, 5000),
            PayloadVersion::V2 => build_v2(&head, body, &matched, client, 5000),
        }
    }

    fn post() -> Request<()> {
        Request::post("/a/%C3%A4%2F?x=1+1&y=%26&x=%ff")
            .header("Host", "localhost:5000")
            .header("X-Many", "1")
            .header("X-Many", "2")
            .header("X-Bytes", HeaderValue::from_bytes(b"\xc3\xa4\xff").expect("is allowed"))
            .header("X-Forwarded-For", "192.0.2.1")
            .header("Cookie", "a=1; b=2")
            .body(())
            .expect("is a request")
    }

    #[test]
    fn format_2_0_is_what_an_http_api_sends() {
        let event = event(post(), b"{}", PayloadVersion::V2);
        assert_eq!(event["routeKey"], "POST /a/{id}");
        assert_eq!(event["rawPath"], "/a/\u{e4}/");
        assert_eq!(event["rawQueryString"], "x=1+1&y=%26&x=%ff");
        assert_eq!(event["queryStringParameters"], json!({ "x": "1 1,\u{fffd}", "y": "&" }));
        assert_eq!(event["pathParameters"], json!({ "id": "\u{e4}/" }));
        assert_eq!(event["headers"]["x-many"], "1,2");
        assert_eq!(event["headers"]["x-bytes"], "\u{e4}\u{fffd}");
        assert_eq!(event["headers"]["x-forwarded-for"], "192.0.2.1, 127.0.0.1");
        assert_eq!(event["headers"].get("cookie"), None);
        assert_eq!(event["cookies"], json!(["a=1", "b=2"]));
        assert_eq!(event["body"], "{}");
        assert_eq!(event["isBase64Encoded"], false);
        assert_eq!(event["requestContext"]["http"]["sourceIp"], "127.0.0.1");
        assert_eq!(event["requestContext"]["http"]["protocol"], "HTTP/1.1");
        assert_eq!(event["requestContext"]["domainName"], "localhost");
    }

    #[test]
    fn format_2_0_leaves_out_what_is_empty() {
        let event = event(Request::get("/").body(()).expect("is a request"), b"", PayloadVersion::V2);
        assert_eq!(event["routeKey"], "$default");
        for name in ["queryStringParameters", "pathParameters", "cookies", "body"] {
            assert_eq!(event.get(name), None, "{name}");
        }
    }

    #[test]
    fn format_1_0_is_what_a_rest_api_sends() {
        let event = event(post(), b"\xff", PayloadVersion::V1);
        assert_eq!(event["resource"], "/a/{id}");
        assert_eq!(event["path"], "/a/\u{e4}/");
        assert_eq!(event["headers"]["x-many"], "2");
        assert_eq!(event["multiValueHeaders"]["x-many"], json!(["1", "2"]));
        assert_eq!(event["multiValueQueryStringParameters"]["x"], json!(["1 1", "\u{fffd}"]));
        assert_eq!((&event["body"], &event["isBase64Encoded"]), (&"/w==".into(), &true.into()));
        assert_eq!(event["requestContext"]["identity"]["sourceIp"], "127.0.0.1");
    }

    #[test]
    fn only_text_travels_as_text() {
        let cases = [
            ("text/plain", true),
            ("application/json; charset=utf-8", true),
            ("Application/Problem+JSON", true),
            ("application/octet-stream", false),
            ("multipart/form-data; boundary=x", false),
        ];
        for (content_type, text) in cases {
            let request = Request::post("/").header("Content-Type", content_type).body(()).expect("is a request");
            assert_eq!(event(request, b"x", PayloadVersion::V2)["isBase64Encoded"], !text, "{content_type}");
        }
    }

    #[test]
    fn only_hosts_that_make_a_url_pass() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:80", "[::1]", "a-b.example.com"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", "a b", "a:99999", "a:b", "1.2.3.4.5", "a.0x1", "[::1", "::1", "xn--a", "a/b", "a@b", ".", "ä"]
        {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn answers_become_responses() {
        let answer = |json: Value| response(PayloadVersion::V2, json.to_string().as_bytes());
        let full = answer(json!({
            "statusCode": 201,
            "headers": { "X-Number": 1, "Content-Length": 99 },
            "cookies": ["a=1", "b=2"],
            "body": "/w==",
            "isBase64Encoded": true,
        }))
        .expect("is well-formed");
        assert_eq!(full.status(), 201);
        assert_eq!(full.headers()["x-number"], "1");
        assert_eq!(full.headers().get_all(SET_COOKIE).iter().count(), 2);
        assert!(!full.headers().contains_key(CONTENT_LENGTH));
        assert!(answer(json!({ "a": 1 })).is_some_and(|response| response.status() == 200));
        for malformed in [
            json!({ "statusCode": "201" }),
            json!({ "statusCode": 101 }),
            json!({ "statusCode": 200, "body": {} }),
            json!({ "statusCode": 200, "headers": { "a b": "c" } }),
            json!({ "statusCode": 200, "headers": { "a": "b\n" } }),
            json!({ "statusCode": 200, "body": "?", "isBase64Encoded": true }),
        ] {
            assert!(answer(malformed.clone()).is_none(), "{malformed}");
        }
        assert!(response(PayloadVersion::V2, b"no json").is_none());
        assert!(response(PayloadVersion::V1, b"{}").is_none());
    }
}

//! API Gateway's event, read into one [`Request`], and the response that it understands.
//!
//! Why not `lambda_http::run`: it builds a URI from the client's path and `Host` with `unwrap`, and refuses the
//! whole event for a header value with a non-ASCII byte. Both let a client cause an answer that is not ours. This
//! reading accepts whatever API Gateway delivers, in payload format 2.0 (HTTP API) and 1.0 (REST API).

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lambda_http::http::{HeaderName, HeaderValue};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// An event, of which nothing is required: a missing part reads as empty.
#[derive(Default)]
pub struct Event(Parts);

impl<'de> Deserialize<'de> for Event {
    /// From JSON text alone: the runtime's deserializer notes the path to each value, for an error message, and
    /// that takes as long as the reading. So it gets over the text in one step, which is then read without it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        serde_json::from_str(text.get()).map(Self).map_err(D::Error::custom)
    }
}

/// The parts of an event that we use, of both formats.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parts {
    headers: Option<Pairs>,
    path_parameters: Option<Pairs>,
    request_context: RequestContext,
    body: Option<Zeroizing<String>>,
    is_base64_encoded: bool,
    // Format 2.0
    route_key: Option<String>,
    raw_path: Option<String>,
    raw_query_string: Option<String>,
    // Format 1.0
    http_method: Option<String>,
    resource: Option<String>,
    path: Option<String>,
    multi_value_query_string_parameters: Option<HashMap<String, Option<Vec<String>>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RequestContext {
    http: Option<Peer>,
    identity: Option<Peer>,
}

/// `requestContext.http` of format 2.0, `requestContext.identity` of 1.0.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Peer {
    method: Option<String>,
    source_ip: Option<String>,
    user_agent: Option<String>,
}

/// A client's request, whichever front door it came through.
#[derive(Default)]
pub struct Request {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// The path, percent-decoded by API Gateway.
    pub path: String,
    /// The route that matched, such as `GET /api/accounts/{id}`.
    pub route: String,
    /// Query parameters, decoded.
    pub query: Vec<(String, String)>,
    /// Parameters of the path, decoded.
    pub path_parameters: Pairs,
    /// Headers; names in lower case.
    pub headers: Pairs,
    /// The client's address as API Gateway saw it: not a header, so not the client's to choose.
    pub source_ip: String,
    /// The client's program, as it calls itself.
    pub user_agent: String,
    /// Whether the event, and so the response, is of payload format 2.0.
    pub is_format_2: bool,
    /// The body's bytes, wiped when dropped: a password may be among them.
    pub body: Zeroizing<Vec<u8>>,
}

impl Request {
    /// A header's value; `name` in lower case. A header without a value counts as none.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(str::trim).filter(|value| !value.is_empty())
    }
}

impl From<Event> for Request {
    fn from(Event(event): Event) -> Self {
        let peer = event.request_context.http.or(event.request_context.identity).unwrap_or_default();
        let method = peer.method.or(event.http_method).unwrap_or_default();
        let is_format_2 = event.route_key.is_some();
        let route = match (event.route_key, event.resource) {
            (Some(route), _) => route,
            (None, Some(resource)) => format!("{method} {resource}"),
            (None, None) => String::new(),
        };
        let query = match (event.raw_query_string, event.multi_value_query_string_parameters) {
            (Some(raw), _) => form_urlencoded::parse(raw.as_bytes()).into_owned().collect(),
            (None, values) => values
                .into_iter()
                .flatten()
                .flat_map(|(name, values)| {
                    values.unwrap_or_default().into_iter().map(move |value| (name.clone(), value))
                })
                .collect(),
        };
        Self {
            path: event.raw_path.or(event.path).unwrap_or_default(),
            route,
            query,
            path_parameters: event.path_parameters.unwrap_or_default(),
            headers: event.headers.unwrap_or_default().with_names_in_lower_case(),
            source_ip: peer.source_ip.unwrap_or_default(),
            user_agent: peer.user_agent.unwrap_or_default(),
            body: body(event.body.unwrap_or_default(), event.is_base64_encoded),
            is_format_2,
            method,
        }
    }
}

/// A JSON object of texts, in its order and without its nulls. Among so few, looking at each is faster than hashing.
#[derive(Default)]
pub struct Pairs(pub Vec<(String, String)>);

impl Pairs {
    /// The value of that name; of several, the first.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn with_names_in_lower_case(mut self) -> Self {
        self.0.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        self
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    pairs.extend(value.map(|value| (name, value)));
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// API Gateway encodes what is no text. Should it ever claim base64 and send something else, that something is
/// the body, which then is no JSON: a 400 and no crash.
fn body(mut text: Zeroizing<String>, is_base64: bool) -> Zeroizing<Vec<u8>> {
    let decoded = is_base64.then(|| BASE64.decode(text.as_bytes()).ok()).flatten();
    Zeroizing::new(decoded.unwrap_or_else(|| std::mem::take(&mut *text).into_bytes()))
}

/// What API Gateway turns into the HTTP response.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The HTTP status.
    pub status_code: u16,
    /// Each name once.
    #[serde(serialize_with = "as_map")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Text: everything that we answer is JSON or nothing.
    pub body: String,
    /// Always false.
    pub is_base64_encoded: bool,
    /// We set none. A part of format 2.0, on which `cargo lambda watch` insists; format 1.0 does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookies: Option<[String; 0]>,
}

fn as_map<S: Serializer>(headers: &[(HeaderName, HeaderValue)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(headers.len()))?;
    for (name, value) in headers {
        map.serialize_entry(name.as_str(), value.to_str().unwrap_or_default())?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(event: serde_json::Value) -> Request {
        serde_json::from_str::<Event>(&event.to_string()).unwrap().into()
    }

    #[test]
    fn both_formats_read_the_same() {
        let v2 = read(json!({
            "version": "2.0", "routeKey": "PUT /api/accounts/{id}", "rawPath": "/api/accounts/7", "rawQueryString": "a=1&a=2&b=%C3%BC",
            "headers": {"content-type": "application/json"}, "pathParameters": {"id": "7"},
            "requestContext": {"http": {"method": "PUT", "path": "/api/accounts/7", "sourceIp": "192.0.2.1", "userAgent": "test"}},
            "body": "e30=", "isBase64Encoded": true
        }));
        let v1 = read(json!({
            "resource": "/api/accounts/{id}", "path": "/api/accounts/7", "httpMethod": "PUT",
            "headers": {"Content-Type": "application/json"}, "pathParameters": {"id": "7"},
            "queryStringParameters": {"a": "2", "b": "ü"}, "multiValueQueryStringParameters": {"a": ["1", "2"], "b": ["ü"]},
            "requestContext": {"httpMethod": "PUT", "identity": {"sourceIp": "192.0.2.1", "userAgent": "test"}},
            "body": "{}", "isBase64Encoded": false
        }));
        for mut request in [v2, v1] {
            request.query.sort();
            assert_eq!(
                (request.method.as_str(), request.path.as_str(), request.route.as_str()),
                ("PUT", "/api/accounts/7", "PUT /api/accounts/{id}")
            );
            assert_eq!(request.query, [("a", "1"), ("a", "2"), ("b", "ü")].map(|(n, v)| (n.to_owned(), v.to_owned())));
            assert_eq!(request.path_parameters.get("id"), Some("7"));
            assert_eq!(request.header("content-type"), Some("application/json"));
            assert_eq!((request.source_ip.as_str(), request.user_agent.as_str()), ("192.0.2.1", "test"));
            assert_eq!(request.body.as_slice(), b"{}");
        }
    }

    #[test]
    fn nulls_and_missing_parts_read_as_empty() {
        for event in [
            json!({}),
            json!({"headers": null, "pathParameters": null, "body": null, "multiValueQueryStringParameters": {"a": null}}),
        ] {
            let request = read(event);
            assert!(request.path.is_empty() && request.query.is_empty() && request.body.is_empty());
        }
    }

    #[test]
    fn what_lambda_http_chokes_on_is_read() {
        let request = read(json!({
            "rawPath": "/api accounts/\u{0}\u{fffd}", "rawQueryString": "%ff=%zz&&=",
            "headers": {"host": "not a host\u{7f}", "x-name": "José", "x-forwarded-proto": "://"},
            "body": "not base64!", "isBase64Encoded": true
        }));
        assert_eq!(request.body.as_slice(), b"not base64!");
        assert_eq!(request.header("x-name"), Some("José"));
    }

    proptest! {
        #[test]
        fn any_text_anywhere_is_read(path in any::<String>(), query in any::<String>(), header in any::<String>(), body in any::<String>(), base64: bool) {
            let request = read(json!({"rawPath": path, "rawQueryString": query, "headers": {"x": header}, "body": body, "isBase64Encoded": base64}));
            prop_assert_eq!(request.path, path);
        }
    }
}

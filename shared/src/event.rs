//! API Gateway's event, read into one [`Request`], and the response that it understands.
//!
//! Why not `lambda_http::run`: it builds a URI from the client's path and `Host` with `unwrap`, and refuses the
//! whole event for a header value with a non-ASCII byte. Both let a client cause an answer that is not ours. This
//! reading accepts whatever API Gateway delivers, in payload format 2.0 (HTTP API) and 1.0 (REST API).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lambda_http::http::{HeaderName, HeaderValue};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
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
    /// Read only where nothing else has the parameters: an HTTP API sends them twice.
    query_string_parameters: Option<Box<RawValue>>,
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
    multi_value_headers: Option<Lists>,
    multi_value_query_string_parameters: Option<Lists>,
}

/// Each name with its values, of which any may be null.
type Lists = BTreeMap<String, Option<Vec<Option<String>>>>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct RequestContext {
    http: Option<Peer>,
    identity: Option<Peer>,
    /// Of a REST API.
    path: Option<String>,
    /// Of a load balancer's event, which is otherwise like format 1.0.
    elb: Option<IgnoredAny>,
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
    /// The path, percent-decoded by API Gateway. A named stage and a custom domain's base path stand before the API's.
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

    /// What a stage or a base path has put before `path`, one of the API's own; mostly nothing.
    pub fn base_of(&self, path: &str) -> &str {
        // A console test may have any text for a path. Two slashes would begin a host name.
        let is_plain = |base: &str| {
            base.starts_with('/')
                && !base.starts_with("//")
                && base.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/$-_.+!*'()".contains(&byte))
        };
        self.path.strip_suffix(path).filter(|base| is_plain(base)).unwrap_or_default()
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
        // A load balancer hands these on as the client wrote them.
        let is_encoded = event.request_context.elb.is_some();
        let query = event.raw_query_string.filter(|raw| !raw.is_empty()).map_or_else(
            || parameters(event.query_string_parameters, event.multi_value_query_string_parameters, is_encoded),
            |raw| form_urlencoded::parse(raw.as_bytes()).into_owned().collect(),
        );
        // Of the two of format 1.0, it depends on the kind of API and of domain which has the stage or the base path.
        let path = event
            .raw_path
            .or_else(|| [event.path, event.request_context.path].into_iter().flatten().max_by_key(String::len));
        Self {
            path: path.unwrap_or_default(),
            route,
            query,
            path_parameters: event.path_parameters.unwrap_or_default(),
            headers: headers(event.headers.unwrap_or_default(), event.multi_value_headers.unwrap_or_default()),
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

    /// A further value of a name joins those before it, as in format 2.0.
    fn join(&mut self, name: String, value: &str) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => *values = format!("{values},{value}"),
            None => self.0.push((name, value.to_owned())),
        }
    }
}

/// Headers of both formats, read alike: names in lower case, each once, its values joined.
fn headers(single: Pairs, multiple: Lists) -> Pairs {
    let mut single = single.0;
    single.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    let are_unique = single.iter().enumerate().all(|(n, (name, _))| single[..n].iter().all(|(known, _)| known != name));
    if multiple.is_empty() && are_unique {
        return Pairs(single);
    }
    let mut headers = Pairs::default();
    for (name, values) in multiple {
        let name = name.to_ascii_lowercase();
        for value in values.into_iter().flatten().flatten() {
            headers.join(name.clone(), &value);
        }
    }
    // What has several values stands here with one of them.
    single.retain(|(name, _)| headers.get(name).is_none());
    for (name, value) in single {
        headers.join(name, &value);
    }
    headers
}

/// Query parameters of an event without the raw text. The lists have every value, the pairs one or all joined.
fn parameters(single: Option<Box<RawValue>>, multiple: Option<Lists>, are_encoded: bool) -> Vec<(String, String)> {
    let multiple = multiple.unwrap_or_default();
    let mut pairs: Vec<_> = multiple
        .into_iter()
        .flat_map(|(name, values)| values.into_iter().flatten().flatten().map(move |value| (name.clone(), value)))
        .collect();
    if pairs.is_empty() {
        pairs = single.and_then(|single| serde_json::from_str::<Pairs>(single.get()).ok()).unwrap_or_default().0;
    }
    if are_encoded {
        let raw: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs = form_urlencoded::parse(raw.join("&").as_bytes()).into_owned().collect();
    }
    pairs
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
    /// The body, as text or in base64.
    pub body: String,
    /// Whether the body is in base64, as all that is no text must be.
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
    fn query_parameters_are_read_from_whatever_part_has_them() {
        let expected = [("a", "1 2"), ("b", "ü")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        for event in [
            json!({"rawQueryString": "a=1+2&b=%C3%BC"}),
            json!({"queryStringParameters": {"a": "1 2", "b": "ü"}}),
            json!({"rawQueryString": "", "queryStringParameters": {"a": "1 2", "b": "ü"}}),
            json!({"queryStringParameters": {"a": "1 2", "b": "ü"}, "multiValueQueryStringParameters": null}),
            json!({"multiValueQueryStringParameters": {"a": ["1 2"], "b": ["ü"]}}),
            json!({"requestContext": {"elb": {}}, "queryStringParameters": {"a": "1%202", "b": "%c3%bc"}}),
            json!({"requestContext": {"elb": {}}, "multiValueQueryStringParameters": {"a": ["1+2"], "b": ["%C3%BC"]}}),
        ] {
            let mut query = read(event.clone()).query;
            query.sort();
            assert_eq!(query, expected, "{event}");
        }
    }

    #[test]
    fn repeated_headers_are_joined_in_both_formats_whatever_their_case() {
        for event in [
            json!({"headers": {"x-many": "1,2", "y": "z"}}),
            json!({"headers": {"X-Many": "2", "y": "z"}, "multiValueHeaders": {"X-Many": ["1", "2"], "Y": ["z"]}}),
            json!({"headers": {"X-Many": "1", "x-many": "2", "Y": "z"}}),
            json!({"headers": {"x-many": "2", "Y": "z"}, "multiValueHeaders": {"x-many": ["1", null, "2"]}}),
            json!({"headers": null, "multiValueHeaders": {"X-MANY": ["1", "2"], "Y": ["z"], "none": null}}),
        ] {
            let request = read(event.clone());
            assert_eq!((request.header("x-many"), request.header("y")), (Some("1,2"), Some("z")), "{event}");
            assert_eq!(request.headers.0.len(), 2, "{event}");
        }
        let request = read(json!({"multiValueHeaders": {"X-Many": ["1"], "x-many": ["2"]}}));
        assert_eq!(request.header("x-many"), Some("1,2"));
    }

    #[test]
    fn the_path_is_the_clients_and_shows_what_stands_before_the_apis_own() {
        let own = "/api/accounts";
        for (event, base) in [
            (json!({"rawPath": "/api/accounts"}), ""),
            (json!({"rawPath": "/dev/api/accounts"}), "/dev"),
            (json!({"path": "/api/accounts", "requestContext": {"path": "/dev/api/accounts"}}), "/dev"),
            (json!({"path": "/v1/mail/api/accounts", "requestContext": {"path": "/v1/mail/api/accounts"}}), "/v1/mail"),
            (json!({"path": "/v1/api/accounts", "requestContext": {"path": "/api/accounts"}}), "/v1"),
            (json!({"rawPath": "//evil.example/api/accounts"}), ""),
            (json!({"rawPath": "/\r\nx:/api/accounts"}), ""),
            (json!({"rawPath": "/elsewhere"}), ""),
            (json!({}), ""),
        ] {
            assert_eq!(read(event.clone()).base_of(own), base, "{event}");
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

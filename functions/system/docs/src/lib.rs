//! `GET /openapi.json` and `GET /docs`: the reference, for programs and for people. The page loads nothing from
//! elsewhere: Swagger UI is in it. `build.rs` puts it together, and compresses both.

use std::io::{self, Read};
use std::sync::LazyLock;

use anyhow::anyhow;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use shared::http::{HeaderName, HeaderValue, StatusCode, header};
use shared::{Error, PublicCall, Reply, Request};

/// What is the same for everybody, compressed.
struct Text {
    content_type: HeaderValue,
    caching: HeaderValue,
    policy: Option<HeaderValue>,
    /// Each coding is a representation of its own (RFC 9110, 8.8.3.3).
    etag: &'static str,
    etag_of_gzip: &'static str,
    /// As an answer of Lambda carries what is no text.
    encoded: String,
    /// For the few clients that do not read it compressed. Kept once in the function's zip, and not twice.
    plain: LazyLock<io::Result<String>>,
}

static PAGE: LazyLock<Text> = LazyLock::new(|| Text {
    content_type: HeaderValue::from_static("text/html; charset=utf-8"),
    // Without a question for an hour: it is the same until Swagger UI is replaced.
    caching: HeaderValue::from_static("public, max-age=3600"),
    policy: Some(POLICY),
    etag: concat!("\"", env!("PAGE_HASH"), "\""),
    etag_of_gzip: concat!("\"", env!("PAGE_HASH"), "-gzip\""),
    encoded: BASE64.encode(COMPRESSED_PAGE),
    plain: LazyLock::new(|| decompressed(COMPRESSED_PAGE)),
});
const COMPRESSED_PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.html.gz"));

static DOCUMENT: LazyLock<Text> = LazyLock::new(|| Text {
    content_type: HeaderValue::from_static("application/json"),
    // Asked for each time, and sent when it is another: it describes what answers, also in the minute after a deployment.
    caching: HeaderValue::from_static("public, no-cache"),
    policy: None,
    etag: concat!("\"", env!("DOCUMENT_HASH"), "\""),
    etag_of_gzip: concat!("\"", env!("DOCUMENT_HASH"), "-gzip\""),
    encoded: BASE64.encode(COMPRESSED_DOCUMENT),
    plain: LazyLock::new(|| decompressed(COMPRESSED_DOCUMENT)),
});
const COMPRESSED_DOCUMENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json.gz"));

fn decompressed(bytes: &[u8]) -> io::Result<String> {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text)?;
    Ok(text)
}

/// Runs these scripts, by their hash, and no other; talks to this host alone. Swagger UI sets style attributes, and its
/// icons are data: URLs.
const POLICY: HeaderValue = HeaderValue::from_static(concat!(
    "default-src 'none'; script-src ",
    env!("SCRIPT_HASHES"),
    "; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; ",
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
));

/// Answers one request.
///
/// # Errors
/// None that can happen.
pub async fn handler(call: PublicCall) -> Result<Reply, Error> {
    // By the route, not the path: a stage or a custom domain may put something before it.
    let text = if call.request.route.ends_with("/openapi.json") { &DOCUMENT } else { &PAGE };
    text.answer(&call.request)
}

impl Text {
    fn answer(&self, request: &Request) -> Result<Reply, Error> {
        // A REST API, which sends format 1.0, decodes base64 only where it is told to.
        let compress = request.is_format_2 && request.header("accept-encoding").is_some_and(prefers_gzip);
        let etag = if compress { self.etag_of_gzip } else { self.etag };
        let mut headers: Vec<(HeaderName, HeaderValue)> = vec![
            (header::CONTENT_TYPE, self.content_type.clone()),
            (header::CACHE_CONTROL, self.caching.clone()),
            (header::ETAG, HeaderValue::from_static(etag)),
            (header::VARY, HeaderValue::from_static("Origin, Accept-Encoding")),
        ];
        headers.extend(self.policy.clone().map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
        if request.header("if-none-match").is_some_and(|known| names(known, etag)) {
            // A cache replaces the headers that it has by these, so they are those of the text.
            return Ok(Reply::text(StatusCode::NOT_MODIFIED, headers, String::new()));
        }
        if compress {
            headers.push((header::CONTENT_ENCODING, HeaderValue::from_static("gzip")));
            return Ok(Reply { status: StatusCode::OK, headers, body: self.encoded.clone(), is_base64_encoded: true });
        }
        let plain =
            self.plain.as_ref().map_err(|error| Error::internal(anyhow!("it cannot be decompressed: {error}")))?;
        Ok(Reply::text(StatusCode::OK, headers, plain.clone()))
    }
}

/// Whether an `Accept-Encoding` takes gzip, and does not like the page as it is better (RFC 9110, 12.5.3).
fn prefers_gzip(accepted: &str) -> bool {
    let weight_of = |coding: &str| {
        accepted.split(',').find_map(|item| {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.parse::<f32>().ok());
            name.trim().eq_ignore_ascii_case(coding).then(|| weight.unwrap_or_default())
        })
    };
    let gzip = weight_of("gzip").or_else(|| weight_of("*")).unwrap_or_default();
    gzip > 0.0 && gzip >= weight_of("identity").unwrap_or_default()
}

/// Whether an `If-None-Match` names this tag: weakly, as for every cache (RFC 9110, 13.1.2).
fn names(known: &str, etag: &str) -> bool {
    known.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_fits_into_an_answer_of_lambda_and_no_script_ends_early() {
        let page = PAGE.plain.as_ref().unwrap();
        let document = DOCUMENT.plain.as_ref().unwrap();
        assert!([page, document].iter().all(|text| text.len() < 5_000_000));
        assert_eq!(page.matches("</script").count(), env!("SCRIPT_HASHES").split(' ').count());
        assert_eq!(page.matches("</style").count(), 1);
        assert!(COMPRESSED_PAGE.len() * 3 < page.len() && COMPRESSED_DOCUMENT.len() * 8 < document.len());
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for yes in ["gzip", "GZIP", "gzip, deflate, br", "br;q=1.0, gzip;q=0.8, *;q=0.1", "*", "identity;q=0.5, gzip"] {
            assert!(prefers_gzip(yes), "{yes}");
        }
        for no in ["", "br", "identity", "gzip;q=0", "gzip; q=0.0", "*;q=0", "gzip;q=0, *", "gzip;q=0.1, identity"] {
            assert!(!prefers_gzip(no), "{no}");
        }
    }

    #[test]
    fn a_known_page_is_recognised() {
        for known in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "\"b\",W/\"a\"", "*"] {
            assert!(names(known, "\"a\""), "{known}");
        }
        for unknown in ["", "a", "\"b\"", "\"a-gzip\""] {
            assert!(!names(unknown, "\"a\""), "{unknown}");
        }
    }
}

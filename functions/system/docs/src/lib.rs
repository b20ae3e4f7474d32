//! `GET /openapi.json` and `GET /docs`: the reference, for programs and for people. The page loads nothing from
//! elsewhere: Swagger UI is in it.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use shared::http::{HeaderValue, StatusCode, header};
use shared::{Error, PublicCall, Reply};

const DOCUMENT: &str = include_str!("../../../../openapi.json");
const STYLE: &str = include_str!("../assets/swagger-ui.css");
const SCRIPTS: [&str; 2] = [include_str!("../assets/swagger-ui-bundle.js"), include_str!("../assets/start.js")];

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let scripts = SCRIPTS.map(|script| format!("<script>{script}</script>")).concat();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>email_service</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><link rel=\"icon\" href=\"data:,\">\
         <style>{STYLE}</style></head><body><div id=\"docs\"></div>{scripts}</body></html>"
    )
});

/// Runs these scripts, by their hash, and no other; talks to this host alone.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hashes = SCRIPTS.map(|script| format!("'sha256-{}'", BASE64.encode(Sha256::digest(script)))).join(" ");
    // Swagger UI sets style attributes, and its icons are data: URLs.
    format!(
        "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// Answers one request.
///
/// # Errors
/// None that can happen.
pub async fn handler(call: PublicCall) -> Result<Reply, Error> {
    // By the route, not the path: a stage or a custom domain may put something before it.
    if call.request.route.ends_with("/openapi.json") {
        return Ok(Reply { status: StatusCode::OK, headers: Vec::new(), body: DOCUMENT.to_owned() });
    }
    let policy = HeaderValue::from_str(&POLICY).map_err(Error::internal)?;
    let headers = vec![
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    Ok(Reply { status: StatusCode::OK, headers, body: PAGE.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_fits_into_an_answer_of_lambda_and_no_script_ends_early() {
        assert!(PAGE.len() < 5_000_000);
        assert_eq!(PAGE.matches("</script").count(), SCRIPTS.len());
        assert_eq!(PAGE.matches("</style").count(), 1);
    }
}

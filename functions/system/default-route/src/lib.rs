//! Everything that no other route takes: preflights, unknown paths and wrong methods, answered in the same form as
//! all else.

use shared::http::{HeaderValue, StatusCode, header};
use shared::{Error, PublicCall, Reply};

/// The paths of the API and their methods. A test compares them with `template.yaml`.
pub const ROUTES: [(&str, &str); 26] = [
    ("/api/accounts", "GET, POST, OPTIONS"),
    ("/api/accounts/test", "POST, OPTIONS"),
    ("/api/accounts/{id}", "GET, PUT, DELETE, OPTIONS"),
    ("/api/accounts/{id}/folders", "GET, OPTIONS"),
    ("/api/accounts/{id}/sync", "GET, POST, DELETE, OPTIONS"),
    ("/api/accounts/{id}/test", "POST, OPTIONS"),
    ("/api/autoconfig", "GET, OPTIONS"),
    ("/api/changes", "GET, OPTIONS"),
    ("/api/drafts", "GET, POST, OPTIONS"),
    ("/api/drafts/{id}", "GET, PUT, DELETE, OPTIONS"),
    ("/api/messages", "GET, OPTIONS"),
    ("/api/messages/batch", "POST, OPTIONS"),
    ("/api/messages/{id}", "GET, PUT, DELETE, OPTIONS"),
    ("/api/messages/{id}/raw", "GET, OPTIONS"),
    ("/api/messages/{id}/attachments/{attachmentId}", "GET, OPTIONS"),
    ("/api/messages/{id}/uploads", "POST, OPTIONS"),
    ("/api/oauth2/accounts", "POST, OPTIONS"),
    ("/api/oauth2/authorizations", "POST, OPTIONS"),
    ("/api/uploads", "POST, OPTIONS"),
    ("/api/outbox", "GET, POST, OPTIONS"),
    ("/api/outbox/{id}", "GET, DELETE, OPTIONS"),
    ("/api/outbox/{id}/retry", "POST, OPTIONS"),
    ("/docs", "GET, OPTIONS"),
    ("/health", "GET, HEAD, OPTIONS"),
    ("/health/ready", "GET, HEAD, OPTIONS"),
    ("/openapi.json", "GET, OPTIONS"),
];

/// The methods of a path; `None` where there is no such path.
///
/// A named stage and a custom domain's base path stand before the API's own, and an event does not say how much of its
/// path they are. So the longest end of it that is a path of the API counts.
fn methods(path: &str) -> Option<&'static str> {
    path.match_indices('/').find_map(|(start, _)| path.get(start..).and_then(exact_methods))
}

fn exact_methods(path: &str) -> Option<&'static str> {
    let matches = |pattern: &str| {
        let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
        loop {
            match (pattern.next(), path.next()) {
                (None, None) => return true,
                (Some(segment), Some(given)) if segment == given || (segment.starts_with('{') && !given.is_empty()) => {
                }
                _ => return false,
            }
        }
    };
    ROUTES.iter().find(|(pattern, _)| matches(pattern)).map(|(_, methods)| *methods)
}

/// Answers one request.
///
/// # Errors
/// [`Error::MethodNotAllowed`] on a path of the API, [`Error::NotFound`] elsewhere.
pub async fn handler(call: PublicCall) -> Result<Reply, Error> {
    let allow = methods(&call.request.path);
    match (call.request.method.as_str(), allow) {
        // Also for paths that do not exist: their 404 must be readable, too.
        ("OPTIONS", allow) => {
            let mut headers = call.cors.preflight_headers(&call.request);
            headers.push((header::ALLOW, HeaderValue::from_static(allow.unwrap_or("OPTIONS"))));
            Ok(Reply::text(StatusCode::NO_CONTENT, headers, String::new()))
        }
        // Had that end been the API's path, a method that it has would have gone there and not here.
        (method, Some(allow)) if !allow.split(", ").any(|known| known == method) => {
            Err(Error::MethodNotAllowed { allow: allow.into() })
        }
        _ => Err(Error::NotFound(
            "There is nothing at this path. The accounts are at /api/accounts, the reference is at /docs.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_whole_segments() {
        assert_eq!(methods("/api/accounts"), Some("GET, POST, OPTIONS"));
        assert_eq!(methods("/api/accounts/7"), Some("GET, PUT, DELETE, OPTIONS"));
        for unknown in ["", "/", "/api", "/api/accounts/", "/api/accounts/7/8", "/API/accounts", "/healthy", "health"] {
            assert_eq!(methods(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_stage_or_a_base_path_may_stand_before_a_path() {
        for before in ["/dev", "/v1/mail", "/api"] {
            for (path, methods_of_it) in ROUTES {
                assert_eq!(methods(&format!("{before}{path}")), Some(methods_of_it), "{before}{path}");
            }
            for unknown in ["/api/accounts/7/8", "/unknown", "/api/accounts/"] {
                assert_eq!(methods(&format!("{before}{unknown}")), None, "{before}{unknown}");
            }
        }
        // The longest end counts: this is an account's path, not the health check's.
        assert_eq!(methods("/dev/api/accounts/health"), Some("GET, PUT, DELETE, OPTIONS"));
    }
}

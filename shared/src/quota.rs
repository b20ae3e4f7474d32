//! What a client is told of a limit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lambda_http::http::{HeaderName, HeaderValue};

/// How long a request counts, and a login that was refused.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// A limit, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    pub(crate) window: Duration,
    /// Until the oldest that counts leaves the window.
    pub(crate) resets_after: Duration,
    /// Since the Unix epoch, by the clock of who counted.
    pub(crate) now: Duration,
}

impl Quota {
    /// A limit of which nothing is left for so long.
    pub fn used_up(limit: u32, window: Duration, resets_after: Duration) -> Self {
        Self { limit, remaining: 0, window, resets_after: resets_after.min(window), now: since_epoch() }
    }

    /// That of a login which its server has refused: it is tried once a minute.
    pub fn of_refused_login(wait: Duration) -> Self {
        Self::used_up(1, WINDOW, wait)
    }

    /// Whole seconds until a place is free; at least 1.
    pub fn reset_after(&self) -> u64 {
        whole_seconds(self.resets_after).max(1)
    }

    /// What the client is told: the widespread `X-RateLimit-*`, and the fields of
    /// draft-ietf-httpapi-ratelimit-headers-10.
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 5] {
        let Self { limit, remaining, window, resets_after, now } = *self;
        let (after, window) = (self.reset_after(), window.as_secs());
        // Quotes, digits and semicolons only: always a header value.
        let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        [
            (HeaderName::from_static("x-ratelimit-limit"), limit.into()),
            (HeaderName::from_static("x-ratelimit-remaining"), remaining.into()),
            (HeaderName::from_static("x-ratelimit-reset"), whole_seconds(now + resets_after).into()),
            (HeaderName::from_static("ratelimit-policy"), value(format!(r#""default";q={limit};w={window}"#))),
            (HeaderName::from_static("ratelimit"), value(format!(r#""default";r={remaining};t={after}"#))),
        ]
    }
}

/// Rounded up: who waits so long has waited enough.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_longer_than_the_window() {
        let hour = Duration::from_secs(3600);
        assert_eq!(Quota::used_up(200, hour, 2 * hour).reset_after(), 3600);
        assert_eq!(Quota::used_up(200, hour, Duration::from_millis(1)).reset_after(), 1);
    }
}

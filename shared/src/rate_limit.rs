//! How many requests a caller may make: an exact moving window, counted in Redis, or in this process while Redis
//! is away.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lambda_http::http::{HeaderName, HeaderValue};
use redis::Script;

use crate::SERVICE;
use crate::identity::Scope;
use crate::redis_link::RedisLink;

/// The window's length.
const WINDOW_MICROS: u64 = 60 * 1_000_000;
/// How many callers the fallback remembers at most.
const MAX_REMEMBERED: usize = 10_000;

/// One request of one caller. Times are microseconds of Redis's own clock. The list holds the let-through
/// requests of the last window, newest first; refused ones are not counted.
/// Returns: let through (1, 0), how many are in the window, the one that must leave before the next may enter, now.
const SCRIPT: &str = r"
local key, limit, window = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local oldest = tonumber(redis.call('LINDEX', key, -1) or nil)
while oldest and oldest <= now - window do
    redis.call('RPOP', key)
    oldest = tonumber(redis.call('LINDEX', key, -1) or nil)
end
local count = redis.call('LLEN', key)
if count >= limit then
    return {0, count, tonumber(redis.call('LINDEX', key, limit - 1)), now}
end
redis.call('LPUSH', key, string.format('%.0f', now))
redis.call('PEXPIRE', key, window / 1000)
return {1, count + 1, oldest or now, now}
";

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A user of a tenant.
    User(Scope),
    /// Whoever has no identity, by source address.
    Address(&'a str),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(scope) => write!(f, "{SERVICE}:requests:{}:{}", scope.tenant_id, scope.user_id),
            Self::Address(address) => write!(f, "{SERVICE}:requests:{address}"),
        }
    }
}

/// What the count says about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request is let through.
    pub allowed: bool,
    /// Whether this process counted it because Redis was away.
    pub fallback: bool,
    limit: u32,
    remaining: u32,
    /// When the oldest counted request leaves the window, microseconds since the Unix epoch.
    reset_at: u64,
    now: u64,
}

impl Decision {
    /// Whole seconds until a place is free; at least 1.
    pub fn reset_after(&self) -> u64 {
        self.reset_at.saturating_sub(self.now).div_ceil(1_000_000).max(1)
    }

    /// What the client is told: the widespread `X-RateLimit-*`, and the fields of
    /// draft-ietf-httpapi-ratelimit-headers-10.
    pub fn headers(&self) -> [(HeaderName, HeaderValue); 5] {
        let Self { limit, remaining, reset_at, .. } = *self;
        let after = self.reset_after();
        let window = WINDOW_MICROS / 1_000_000;
        // Quotes, digits and semicolons only: always a header value.
        let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        [
            (HeaderName::from_static("x-ratelimit-limit"), limit.into()),
            (HeaderName::from_static("x-ratelimit-remaining"), remaining.into()),
            (HeaderName::from_static("x-ratelimit-reset"), reset_at.div_ceil(1_000_000).into()),
            (HeaderName::from_static("ratelimit-policy"), value(format!(r#""default";q={limit};w={window}"#))),
            (HeaderName::from_static("ratelimit"), value(format!(r#""default";r={remaining};t={after}"#))),
        ]
    }
}

/// Counts requests.
pub struct RateLimiter {
    limit: NonZeroU32,
    redis: RedisLink,
    script: Script,
    fallback: Mutex<Windows>,
}

impl RateLimiter {
    /// Lets `limit` requests of a caller through in any 60 seconds.
    pub fn new(limit: NonZeroU32, redis: RedisLink) -> Self {
        Self { limit, redis, script: Script::new(SCRIPT), fallback: Mutex::default() }
    }

    /// Counts one request. Never fails, and takes 100 ms at the most: see [`RedisLink::run`].
    pub async fn check(&self, subject: Subject<'_>) -> Decision {
        let key = subject.to_string();
        let counted = self
            .redis
            .run(|mut connection| {
                let mut invocation = self.script.key(&key);
                invocation.arg(self.limit.get()).arg(WINDOW_MICROS);
                async move { invocation.invoke_async::<(bool, u32, u64, u64)>(&mut connection).await }
            })
            .await;
        match counted {
            Some((allowed, count, oldest, now)) => self.decide(Count { allowed, count, oldest }, now, false),
            None => {
                let now = now_micros();
                let mut windows = self.fallback.lock().unwrap_or_else(PoisonError::into_inner);
                self.decide(windows.count(key, self.limit.get(), now), now, true)
            }
        }
    }

    fn decide(&self, Count { allowed, count, oldest }: Count, now: u64, fallback: bool) -> Decision {
        let limit = self.limit.get();
        Decision {
            allowed,
            fallback,
            limit,
            remaining: limit.saturating_sub(count),
            reset_at: oldest + WINDOW_MICROS,
            now,
        }
    }
}

fn now_micros() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Debug, PartialEq, Eq)]
struct Count {
    allowed: bool,
    count: u32,
    oldest: u64,
}

/// The script's twin for one process.
#[derive(Default)]
struct Windows {
    /// Times of the let-through requests by caller, oldest first.
    by_key: HashMap<String, VecDeque<u64>>,
}

impl Windows {
    fn count(&mut self, key: String, limit: u32, now: u64) -> Count {
        self.make_room(now);
        let times = self.by_key.entry(key).or_default();
        while times.front().is_some_and(|&time| has_left(time, now)) {
            times.pop_front();
        }
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        match times.front() {
            Some(&oldest) if count >= limit => Count { allowed: false, count, oldest },
            oldest => {
                let oldest = oldest.copied().unwrap_or(now);
                times.push_back(now);
                Count { allowed: true, count: count + 1, oldest }
            }
        }
    }

    /// Memory is bounded, whoever calls from however many addresses: first the callers without a recent request
    /// are forgotten, then all.
    fn make_room(&mut self, now: u64) {
        if self.by_key.len() < MAX_REMEMBERED {
            return;
        }
        self.by_key.retain(|_, times| times.back().is_some_and(|&time| !has_left(time, now)));
        if self.by_key.len() >= MAX_REMEMBERED {
            self.by_key.clear();
        }
    }
}

fn has_left(time: u64, now: u64) -> bool {
    time + WINDOW_MICROS <= now
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_say_what_is_left_and_when() {
        let decision =
            Decision { allowed: true, fallback: false, limit: 50, remaining: 49, reset_at: 61_000_001, now: 1_000_001 };
        let headers: Vec<_> = decision.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        assert_eq!(
            headers,
            [
                "x-ratelimit-limit: 50",
                "x-ratelimit-remaining: 49",
                "x-ratelimit-reset: 62",
                r#"ratelimit-policy: "default";q=50;w=60"#,
                r#"ratelimit: "default";r=49;t=60"#,
            ]
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut windows = Windows::default();
        for n in 0..3 * MAX_REMEMBERED {
            windows.count(n.to_string(), 50, 1_000_000);
            assert!(windows.by_key.len() <= MAX_REMEMBERED);
        }
    }

    proptest! {
        /// Against the plainest model: remember every time, look back one window.
        #[test]
        fn the_window_moves_exactly(limit in 1u32..5, steps in prop::collection::vec((0u8..3, 0u64..40_000_000), 1..60)) {
            let mut windows = Windows::default();
            let mut let_through: Vec<(u8, u64)> = Vec::new();
            let mut now = WINDOW_MICROS;
            for (who, step) in steps {
                now += step;
                let recent: Vec<u64> = let_through.iter().filter(|(w, t)| *w == who && t + WINDOW_MICROS > now).map(|(_, t)| *t).collect();
                let allowed = recent.len() < limit as usize;
                let count = windows.count(who.to_string(), limit, now);
                prop_assert_eq!(count.allowed, allowed);
                prop_assert_eq!(count.count as usize, recent.len() + usize::from(allowed));
                prop_assert_eq!(count.oldest, recent.first().copied().unwrap_or(now));
                if allowed {
                    let_through.push((who, now));
                }
            }
        }
    }
}

//! How many requests a caller may make: an exact moving window, counted in Redis, or in this process while Redis
//! is away.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::Cmd;
use uuid::fmt::Hyphenated;

use crate::SERVICE;
use crate::identity::Scope;
use crate::quota::{Quota, WINDOW, since_epoch};
use crate::redis_link::{KeyScript, RedisLink};

const WINDOW_MICROS: u64 = WINDOW.as_secs() * 1_000_000;
/// The limit of those who have no identity, as a multiple of a user's.
const ADDRESS_ALLOWANCE: NonZeroU32 = NonZeroU32::new(6).unwrap();
/// How often a user may have mail hosts tried in a window, beside the common limit: nobody is to guess passwords or to
/// look around in networks with us.
const TRIES: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// How many callers the fallback remembers at most.
const MAX_REMEMBERED: usize = 10_000;

/// One request of one caller. Times are microseconds of Redis's own clock. The list holds the let-through
/// requests of the last window, newest first; refused ones are not counted. Those of the future are left over from
/// before the clock was set back, or another server took over, and would stay longer than the window.
/// Returns: let through (1, 0), how many are in the window, the one that must leave before the next may enter, now.
const SCRIPT: &str = r"
local key, limit, window = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local newest = tonumber(redis.call('LINDEX', key, 0) or nil)
while newest and newest > now do
    redis.call('LPOP', key)
    newest = tonumber(redis.call('LINDEX', key, 0) or nil)
end
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
    /// Whoever has no identity, by source address: of IPv6 by the /64, which is what a single subscriber has.
    Address(&'a str),
    /// A user who has a mail host tried.
    Tries(Scope),
}

impl Subject<'_> {
    /// How many requests in a window, where a user has so many. Behind one address may be a whole office: when its tokens
    /// have expired, it must learn just that, and not that it should wait.
    fn limit(&self, of_a_user: NonZeroU32) -> NonZeroU32 {
        match self {
            Self::User(_) => of_a_user,
            Self::Address(_) => of_a_user.saturating_mul(ADDRESS_ALLOWANCE),
            Self::Tries(_) => TRIES,
        }
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(scope) => write!(f, "{SERVICE}:requests:{}:{}", scope.tenant_id, scope.user_id),
            Self::Tries(scope) => write!(f, "{SERVICE}:tries:{}:{}", scope.tenant_id, scope.user_id),
            Self::Address(text) => match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
                Ok(IpAddr::V6(address)) => {
                    let network = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX));
                    write!(f, "{SERVICE}:requests:{network}/64")
                }
                Ok(IpAddr::V4(address)) => write!(f, "{SERVICE}:requests:{address}"),
                Err(_) => write!(f, "{SERVICE}:requests:{text}"),
            },
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
    /// How much of the limit is left.
    pub quota: Quota,
}

/// Counts requests.
pub struct RateLimiter {
    limit: NonZeroU32,
    redis: RedisLink,
    script: KeyScript,
    fallback: Mutex<Windows>,
}

impl RateLimiter {
    /// Lets `limit` requests of a user through in any 60 seconds.
    pub fn new(limit: NonZeroU32, redis: RedisLink) -> Self {
        Self { limit, redis, script: KeyScript::new(SCRIPT), fallback: Mutex::default() }
    }

    /// Counts one request. Never fails, and takes 100 ms at the most: see [`RedisLink::run`].
    pub async fn check(&self, subject: Subject<'_>) -> Decision {
        // As long as a user's is; it would move four times as it grows.
        let mut key = String::with_capacity(SERVICE.len() + ":requests::".len() + 2 * Hyphenated::LENGTH);
        // Writing to a string cannot fail.
        let _ = write!(key, "{subject}");
        let limit = subject.limit(self.limit);
        let arguments = |call: &mut Cmd| _ = call.arg(limit.get()).arg(WINDOW_MICROS);
        match self.redis.run(|connection| self.script.run(connection, &key, arguments)).await {
            Some::<(bool, u32, u64, u64)>((allowed, count, oldest, now)) => {
                let resets_after = Duration::from_micros((oldest + WINDOW_MICROS).saturating_sub(now));
                decide(limit, Count { allowed, count, resets_after }, Duration::from_micros(now), false)
            }
            None => {
                let mut windows = self.fallback.lock().unwrap_or_else(PoisonError::into_inner);
                decide(limit, windows.count(key, limit.get(), Instant::now()), since_epoch(), true)
            }
        }
    }
}

fn decide(limit: NonZeroU32, count: Count, now: Duration, fallback: bool) -> Decision {
    let Count { allowed, count, resets_after } = count;
    let quota = Quota {
        limit: limit.get(),
        remaining: limit.get().saturating_sub(count),
        window: WINDOW,
        // No clock, however it was set, makes anybody wait for longer than the window.
        resets_after: resets_after.min(WINDOW),
        now,
    };
    Decision { allowed, fallback, quota }
}

#[derive(Debug, PartialEq, Eq)]
struct Count {
    allowed: bool,
    count: u32,
    /// Until the oldest counted request leaves the window.
    resets_after: Duration,
}

/// The script's twin for one process. Its times are of a type that only the clock makes which nobody sets back.
///
/// Memory is bounded, whoever calls from however many addresses: who was not counted for longest is forgotten. Callers
/// live in one of two halves. When that of the present is full, it becomes that of the past, whose callers move over
/// as they come again; those who do not are gone with the next change.
#[derive(Default)]
struct Windows {
    present: HashMap<String, Times>,
    past: HashMap<String, Times>,
}

/// Times of a caller's let-through requests, oldest first.
type Times = VecDeque<Instant>;

impl Windows {
    fn count(&mut self, key: String, limit: u32, now: Instant) -> Count {
        let times = self.times(key);
        while times.front().is_some_and(|&time| time + WINDOW <= now) {
            times.pop_front();
        }
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        let resets_after = times.front().map_or(WINDOW, |&oldest| oldest + WINDOW - now);
        if count >= limit {
            return Count { allowed: false, count, resets_after };
        }
        times.push_back(now);
        Count { allowed: true, count: count + 1, resets_after }
    }

    fn times(&mut self, key: String) -> &mut Times {
        if self.present.len() >= MAX_REMEMBERED / 2 && !self.present.contains_key(&key) {
            self.past = std::mem::take(&mut self.present);
        }
        let past = &mut self.past;
        match self.present.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let times = past.remove(new.key()).unwrap_or_default();
                new.insert(times)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_say_what_is_left_and_when() {
        let fifty = NonZeroU32::new(50).unwrap();
        let count = Count { allowed: true, count: 1, resets_after: WINDOW };
        let decision = decide(fifty, count, Duration::from_micros(1_000_001), false);
        let headers = decision.quota.headers();
        let headers: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
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
    fn nobody_waits_for_longer_than_the_window() {
        let decide = |millis| {
            let count = Count { allowed: false, count: 1, resets_after: Duration::from_millis(millis) };
            decide(NonZeroU32::MIN, count, Duration::ZERO, false).quota.reset_after()
        };
        assert_eq!(decide(7_000_000), 60, "the oldest is of the future");
        assert_eq!(decide(60_000), 60);
        assert_eq!(decide(58_500), 59);
        assert_eq!(decide(0), 1);
    }

    #[test]
    fn memory_is_bounded_and_who_was_not_seen_for_longest_is_forgotten() {
        let mut windows = Windows::default();
        let now = Instant::now();
        let mut count = |key: &str| {
            let count = windows.count(key.to_owned(), 1, now);
            assert!(windows.present.len() + windows.past.len() <= MAX_REMEMBERED);
            count.allowed
        };
        assert!(count("regular") && count("once"));
        for n in 0..3 * MAX_REMEMBERED {
            assert!(count(&n.to_string()));
            if n % 1000 == 0 {
                assert!(!count("regular"), "refused requests are a reason to be remembered, too");
            }
        }
        assert!(!count(&(3 * MAX_REMEMBERED - MAX_REMEMBERED / 2).to_string()), "half of the room is the present's");
        assert!(count("once"));
    }

    #[test]
    fn of_ipv6_a_network_is_one_caller() {
        let key = |address| Subject::Address(address).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "email_service:requests:2001:db8:1:2::/64");
        assert_eq!(key("2001:DB8:1:2::1"), key("2001:db8:1:2:ffff::"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("192.0.2.1"), "email_service:requests:192.0.2.1");
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("of no form"), "email_service:requests:of no form");
    }

    proptest! {
        /// Against the plainest model: remember every time, look back one window.
        #[test]
        fn the_window_moves_exactly(limit in 1u32..5, steps in prop::collection::vec((0u8..3, 0u64..40_000_000), 1..60)) {
            let mut windows = Windows::default();
            let mut let_through: Vec<(u8, Instant)> = Vec::new();
            let mut now = Instant::now();
            for (who, step) in steps {
                now += Duration::from_micros(step);
                let recent: Vec<Instant> = let_through.iter().filter(|(w, t)| *w == who && *t + WINDOW > now).map(|(_, t)| *t).collect();
                let allowed = recent.len() < limit as usize;
                let count = windows.count(who.to_string(), limit, now);
                prop_assert_eq!(count.allowed, allowed);
                prop_assert_eq!(count.count as usize, recent.len() + usize::from(allowed));
                prop_assert_eq!(count.resets_after, recent.first().map_or(WINDOW, |oldest| *oldest + WINDOW - now));
                if allowed {
                    let_through.push((who, now));
                }
            }
        }
    }
}

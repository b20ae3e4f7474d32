//! How many connections all workers together have with one mail host: who holds one has a slot, in Redis.
//!
//! A host that is asked by too many at once refuses some of them, or all that come from our addresses. A slot expires by
//! itself, for a worker may be killed with it. While Redis is away everybody gets one: mail that comes late is worse than
//! a host that says no.

use std::num::NonZeroU32;
use std::time::Duration;

use redis::Cmd;
use uuid::Uuid;

use crate::SERVICE;
use crate::redis_link::{KeyScript, RedisLink};

/// No slot is kept for longer, whoever asks: Lambda lets no function run for longer than this.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Takes a slot, where one is free: a member of a set, whose score is when it expires, in milliseconds of Redis's own
/// clock. Those that would last for longer than any may are left over from before the clock was set back.
const SCRIPT: &str = r"
local key, limit, hold, longest = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
redis.call('ZREMRANGEBYSCORE', key, string.format('(%.0f', now + longest), '+inf')
if redis.call('ZCARD', key) >= limit then
    return 0
end
redis.call('ZADD', key, string.format('%.0f', now + hold), ARGV[4])
redis.call('PEXPIRE', key, longest)
return 1
";

/// The way to the slots.
#[derive(Clone)]
pub struct HostSlots {
    per_host: NonZeroU32,
    redis: RedisLink,
    script: KeyScript,
}

/// The right to one connection. One that is not given back is others' again when its time is up.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Slot {
    key: String,
    id: String,
}

impl HostSlots {
    /// Slots of which each host has so many.
    pub fn new(per_host: NonZeroU32, redis: RedisLink) -> Self {
        Self { per_host, redis, script: KeyScript::new(SCRIPT) }
    }

    /// Takes a slot of a host, for at most this long; `None` when all are taken. One round trip, and 100 ms at the most:
    /// see [`RedisLink::run`].
    pub async fn take(&self, host: &str, hold: Duration) -> Option<Slot> {
        self.take_of(self.per_host.get(), host, hold).await
    }

    /// As [`Self::take`], for those who take one after the other for as long as a large mailbox lasts: they leave a quarter of
    /// the slots to the others, who would never find one free.
    pub async fn take_again(&self, host: &str, hold: Duration) -> Option<Slot> {
        self.take_of(self.per_host.get() - self.per_host.get() / 4, host, hold).await
    }

    async fn take_of(&self, limit: u32, host: &str, hold: Duration) -> Option<Slot> {
        let key = format!("{SERVICE}:hosts:{}", host.trim_end_matches('.').to_ascii_lowercase());
        let slot = Slot { key, id: Uuid::now_v7().to_string() };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let arguments = |call: &mut Cmd| {
            call.arg(limit).arg(millis(hold.min(LONGEST))).arg(millis(LONGEST)).arg(&slot.id);
        };
        match self.redis.run(|connection| self.script.run(connection, &slot.key, arguments)).await {
            Some(false) => None,
            Some(true) => Some(slot),
            None => {
                tracing::warn!(host, "nobody counts connections with mail hosts while Redis is away");
                Some(slot)
            }
        }
    }

    /// Gives a slot back.
    pub async fn give_back(&self, slot: Slot) {
        let give = |mut connection| {
            let call = redis::cmd("ZREM").arg(&slot.key).arg(&slot.id).to_owned();
            async move { call.query_async::<()>(&mut connection).await }
        };
        // Where Redis is away the slot expires by itself.
        self.redis.run(give).await;
    }
}

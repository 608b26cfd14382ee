//! Rates on Redis, which all replicas share.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::redis::from_redis_value;

use super::RateLimiter;
use crate::{
    domain::{
        Error, Result,
        error::Dependency,
        rate::{Borrowed, Rate, Subject},
    },
    redis::{Redis, Script},
};

/// [`RateLimiter`] by one script a loan.
#[derive(Debug)]
pub struct RedisRateLimiter {
    redis: Redis,
    borrow: Script,
}

impl RedisRateLimiter {
    pub fn new(redis: Redis) -> Self {
        Self { redis, borrow: Script::new("borrow", include_str!("borrow.lua")) }
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    async fn borrow(&self, subject: Subject, rate: Rate, want: u32) -> Result<Borrowed> {
        // The braces are Redis Cluster's hash tag: whatever else is kept of a subject lies in the same slot.
        let mut script = self.borrow.key(format!("vg:{{{}}}:{}:rate", subject.id, subject.scope.as_str()));
        script.arg(rate.limit()).arg(rate.window_us()).arg(rate.burst()).arg(want.clamp(1, rate.burst()));
        script.arg(rate.chunk());
        let unavailable = |why| Error::Unavailable(Dependency::SlotStore, Some(why));
        let reply = self.redis.invoke(&script).await.map_err(|failure| failure.or_else(unavailable))?;
        let (granted, retry_after_us): (u32, u64) = from_redis_value(reply).map_err(Error::internal)?;
        Ok(match granted {
            0 => Borrowed::Denied { retry_after: Duration::from_micros(retry_after_us) },
            granted => Borrowed::Granted(granted),
        })
    }
}

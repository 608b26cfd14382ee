//! What the scripts keep of sessions beside the slots, read and forgotten.

use std::time::Duration;

use async_trait::async_trait;

use super::{RedisSlotStore, reply, scripts::TenantKeys};
use crate::domain::{
    Result,
    ids::{CallId, SessionId, TenantId},
    journal::{Parts, Spool, Unwritten},
};

/// Entries that one script looks at: with the largest metadata 3 MiB, within the time of a command.
const LOOK_AT: u16 = 200;

#[async_trait]
impl Spool for RedisSlotStore {
    async fn find(&self, tenant: TenantId, session: SessionId) -> Result<Option<Unwritten>> {
        self.unwritten(tenant, "session", session.as_uuid().as_bytes()).await
    }

    async fn of_call(&self, tenant: TenantId, call: &CallId) -> Result<Option<Unwritten>> {
        self.unwritten(tenant, "call", call.as_str().as_bytes()).await
    }

    async fn older_than(&self, tenant: TenantId, age: Duration) -> Result<Vec<Unwritten>> {
        let key = TenantKeys::new(tenant).unwritten;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let mut cursor = "0".to_owned();
        loop {
            let mut script = self.scripts.stale.prepare_invoke();
            script.key(&key).arg(&cursor).arg(age_ms).arg(LOOK_AT);
            let (next, found) = reply::stale(self.invoke(&script).await?)?;
            if !found.is_empty() || next == "0" {
                return Ok(found);
            }
            cursor = next;
        }
    }

    async fn forget(&self, tenant: TenantId, written: &[Parts]) -> Result<()> {
        let mut script = self.scripts.forget.prepare_invoke();
        script.key(TenantKeys::new(tenant).unwritten);
        let mut fields = 0;
        for Parts { session, opening, ending } in written {
            let kinds = [opening.then_some(b'o'), ending.then_some(b'e')];
            for kind in kinds.into_iter().flatten() {
                script.arg([&[kind][..], session.as_uuid().as_bytes()].concat());
                fields += 1;
            }
        }
        if fields > 0 {
            self.invoke(&script).await?;
        }
        Ok(())
    }
}

impl RedisSlotStore {
    async fn unwritten(&self, tenant: TenantId, kind: &str, name: &[u8]) -> Result<Option<Unwritten>> {
        let keys = TenantKeys::new(tenant);
        let mut script = self.scripts.unwritten.prepare_invoke();
        script.key(keys.calls).key(keys.unwritten).arg(kind).arg(name);
        reply::found(self.invoke(&script).await?)
    }
}

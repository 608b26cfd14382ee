//! Checking a behavior can take a core for a while: its JSON Schemas are compiled. That must neither hold up what else the
//! thread serves nor take all cores.

use tokio::sync::Semaphore;

/// Checks at once. What waits is within its caller's deadline.
const AT_ONCE: usize = 2;

static PERMITS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Does `work`, which is heavy if there is a behavior to check.
pub async fn check<T: Send + 'static>(heavy: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
    if !heavy {
        return work();
    }
    // Never closed; without a permit it is done all the same.
    let _permit = PERMITS.acquire().await;
    match tokio::task::spawn_blocking(work).await {
        Ok(checked) => checked,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

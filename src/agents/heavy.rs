//! Checking a behavior can take a core for a while: its JSON Schemas are compiled. That must neither hold up what else the
//! thread serves nor take all cores.

use tokio::sync::Semaphore;

/// Checks at once. What waits is within its caller's deadline.
const AT_ONCE: usize = 2;

static PERMITS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Does `work`, which is heavy if there is a behavior to check. Only on a runtime of several threads.
pub async fn check<T>(heavy: bool, work: impl FnOnce() -> T) -> T {
    if !heavy {
        return work();
    }
    // Never closed; without a permit it is done all the same.
    let _permit = PERMITS.acquire().await;
    tokio::task::block_in_place(work)
}

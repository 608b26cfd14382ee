//! The threads that serve: a runtime of one thread a core, and each connection on one of them.
//!
//! A request then stays where its bytes arrive, from the first to the last: no other core is woken for it, and none
//! steals it. Beside one runtime of several threads that was worth 39 % more requests, and half the 99th percentile.
//! The price is that a connection never has more than one core, so callers with much to ask open several.
//!
//! Connections are dealt by hand, each to the worker that has fewest; the kernel would deal them by a hash, which
//! leaves cores idle by chance. What is not a request (the sweep, the cache's listener) runs on the main runtime.

use std::{sync::Arc, thread};

use futures_util::future::try_join_all;
use tokio::{
    net::TcpListener,
    runtime,
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connections::{self, Accepted, Share};

/// What the connections of one worker are served by.
pub(super) type Incoming = UnboundedReceiverStream<Accepted>;

#[derive(Debug)]
pub(super) struct Workers {
    doors: Vec<Door>,
    served: Vec<oneshot::Receiver<()>>,
    /// Until it is dropped, the workers finish what the requests have begun.
    _stay: DropGuard,
}

/// Where a worker takes its connections from, and how many it has.
#[derive(Debug, Clone)]
struct Door {
    incoming: mpsc::UnboundedSender<Accepted>,
    share: Share,
}

impl Door {
    fn open(&self) -> usize {
        Arc::strong_count(&self.share)
    }
}

impl Workers {
    /// Starts `count` threads, each of which serves its connections by a future of `serve` until that ends.
    pub(super) fn start<S, F>(count: usize, serve: S) -> anyhow::Result<Self>
    where
        S: Fn(Incoming) -> F + Clone + Send + 'static,
        F: Future<Output = ()>,
    {
        let leave = CancellationToken::new();
        let mut workers = Self { doors: Vec::new(), served: Vec::new(), _stay: leave.clone().drop_guard() };
        for place in 0..count.max(1) {
            let (incoming, dealt) = mpsc::unbounded_channel();
            let (ended, served) = oneshot::channel();
            let (serve, leave) = (serve.clone(), leave.clone());
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(format!("grpc-{place}")).spawn(move || {
                runtime.block_on(async {
                    serve(UnboundedReceiverStream::new(dealt)).await;
                    // Whoever waited for it may have gone.
                    let _ = ended.send(());
                    leave.cancelled().await;
                });
            })?;
            workers.doors.push(Door { incoming, share: Share::default() });
            workers.served.push(served);
        }
        Ok(workers)
    }

    /// Deals what `listener` accepts until `closing`, while fewer than `most` connections are open.
    pub(super) fn deal(&self, listener: TcpListener, most: usize, closing: CancellationToken) {
        let doors = self.doors.clone();
        let deal = async move {
            let open = Arc::new(Semaphore::new(most));
            loop {
                let accepted = connections::accept(&listener, &open).await;
                let Some(door) = doors.iter().min_by_key(|door| door.open()) else { return };
                // A worker that has ended takes its connections with it.
                let _ = door.incoming.send(accepted.of(door.share.clone()));
            }
        };
        tokio::spawn(closing.run_until_cancelled_owned(deal));
    }

    /// Until every worker has served its last connection, or one of them panicked.
    pub(super) async fn served(&mut self) -> anyhow::Result<()> {
        let each = self.served.iter_mut().map(async |served| anyhow::Ok(served.await?));
        try_join_all(each).await.map(drop)
    }
}

//! Work on many calls side by side, and on one call in the order in which it came.
//!
//! A call takes up room here only while there is work on it: there are thousands of streams, and most have none.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// What is given is done to its end, though this be gone.
pub(super) struct Lanes<W>(Arc<Inner<W>>);

struct Inner<W> {
    tasks: TaskTracker,
    work: Box<dyn Fn(W) -> BoxFuture<'static, ()> + Send + Sync>,
    /// What waits behind the work that is done on a call now.
    waiting: Mutex<HashMap<String, VecDeque<Item<W>>>>,
    at_once: Semaphore,
    room: Arc<Semaphore>,
}

/// A piece of work, and the room that it takes up until it is done.
type Item<W> = (W, OwnedSemaphorePermit);

impl<W: Send + 'static> Lanes<W> {
    /// Does as many pieces `at_once`, and lets as many wait as there is `room` for.
    pub(super) fn new(
        tasks: TaskTracker,
        (at_once, room): (usize, usize),
        work: impl Fn(W) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let (at_once, room) = (Semaphore::new(at_once), Arc::new(Semaphore::new(room)));
        Self(Arc::new(Inner { tasks, work: Box::new(work), waiting: Mutex::default(), at_once, room }))
    }

    /// Behind what was given of the call before. Waits while there is no room.
    pub(super) async fn give(&self, call: &str, piece: W) {
        let Ok(room) = self.0.room.clone().acquire_owned().await else { return };
        let item = (piece, room);
        let mut waiting = self.0.waiting();
        if let Some(queue) = waiting.get_mut(call) {
            queue.push_back(item);
            return;
        }
        waiting.insert(call.to_owned(), VecDeque::new());
        drop(waiting);
        let lane = self.0.clone().work_off(call.to_owned(), item);
        self.0.tasks.spawn(lane.in_current_span());
    }
}

impl<W> Inner<W> {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Item<W>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work_off(self: Arc<Self>, call: String, first: Item<W>) {
        let mut next = Some(first);
        while let Some((piece, room)) = next {
            let turn = self.at_once.acquire().await;
            // What panics has said so, and keeps nothing of the call waiting.
            let _ = AssertUnwindSafe((self.work)(piece)).catch_unwind().await;
            drop((turn, room));
            let mut waiting = self.waiting();
            next = waiting.get_mut(&call).and_then(VecDeque::pop_front);
            if next.is_none() {
                waiting.remove(&call);
            }
        }
    }
}

impl<W> fmt::Debug for Lanes<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("calls", &self.0.waiting().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    const TAKES: Duration = Duration::from_secs(1);

    type Piece = (char, u32);
    type Done = Arc<Mutex<Vec<Piece>>>;

    /// Lanes that note the pieces which are done; a piece of 13 panics.
    fn noting(limits: (usize, usize)) -> (Lanes<Piece>, TaskTracker, Done) {
        let (tasks, done) = (TaskTracker::new(), Done::default());
        let noted = done.clone();
        let lanes = Lanes::new(tasks.clone(), limits, move |piece: Piece| {
            let noted = noted.clone();
            Box::pin(async move {
                sleep(TAKES).await;
                assert_ne!(piece.1, 13, "a piece that panics");
                noted.lock().expect("no panic").push(piece);
            })
        });
        (lanes, tasks, done)
    }

    async fn finish(lanes: Lanes<Piece>, tasks: TaskTracker) {
        drop(lanes);
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_worked_on_side_by_side_and_each_in_order() {
        let (lanes, tasks, done) = noting((2, 100));
        let began = Instant::now();
        for (call, number) in [('a', 1), ('a', 2), ('b', 1), ('a', 3), ('b', 2), ('c', 1)] {
            lanes.give(&call.to_string(), (call, number)).await;
        }
        finish(lanes, tasks).await;
        assert_eq!(began.elapsed(), TAKES * 3, "six pieces, two at once");
        let done = done.lock().expect("no panic");
        for call in ['a', 'b', 'c'] {
            let of_call = done.iter().filter(|(of, _)| *of == call);
            assert!(of_call.is_sorted(), "{done:?}");
        }
        assert_eq!(done.len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_more_than_there_is_room_for_waits() {
        let (lanes, tasks, done) = noting((1, 2));
        let began = Instant::now();
        for number in 1..=4 {
            lanes.give("a", ('a', number)).await;
        }
        assert_eq!(began.elapsed(), TAKES * 2, "two are done, two have room");
        finish(lanes, tasks).await;
        assert_eq!(done.lock().expect("no panic").len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_work_panicked_goes_on_and_one_without_work_is_forgotten() {
        let (lanes, tasks, done) = noting((8, 100));
        for number in [12, 13, 14] {
            lanes.give("a", ('a', number)).await;
        }
        sleep(TAKES * 10).await;
        assert_eq!(lanes.0.waiting().len(), 0);
        finish(lanes, tasks).await;
        assert_eq!(*done.lock().expect("no panic"), [('a', 12), ('a', 14)]);
    }
}

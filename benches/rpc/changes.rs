//! From the answer to a change on one replica to the first read on another that shows it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Span,
    figures::{Figures, histogram, record},
    home::Home,
    subject::Subject,
};

const CHANGES_MIN: u64 = 200;
const CHANGES_PER_SECOND: u64 = 100;
/// What is promised for a replica that hears of changes.
const BOUND_MS: f64 = 100.0;
/// Longer than any cache may stay behind: what is not seen then is not going to be.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn measure(home: &Home, subject: &Arc<Subject>, span: Span) -> String {
    let (_replica, addr) = home.another_replica();
    let mut other = subject.lane_to(addr).await;
    let mut lane = subject.lane(0);
    let agent = lane.create().await.expect("an agent to change");
    let changes = CHANGES_MIN.max(CHANGES_PER_SECOND * span.measured.as_secs());
    let (mut latencies, mut reads) = (histogram(), 0_u64);
    for number in 0..changes {
        // Read before the change, so that the other replica has what it must then forget.
        other.revision(&agent).await;
        let Some(revision) = lane.rename(&agent, &format!("change {number}")).await else { continue };
        let answered = Instant::now();
        while other.revision(&agent).await.is_none_or(|seen| seen < revision) {
            reads += 1;
            assert!(answered.elapsed() < PATIENCE, "a change is not seen on the other replica");
        }
        record(&mut latencies, answered.elapsed());
    }
    let figures = Figures::of(&latencies, Duration::from_secs(1));
    let most = Duration::from_micros(latencies.max()).as_secs_f64() * 1_000.0;
    let kept = if most <= BOUND_MS { "kept" } else { "NOT KEPT" };
    format!(
        "| UpdateVoiceAgent on A to GetVoiceAgent on B | changes | p50 ms | p99 ms | max ms | bound of {BOUND_MS} ms |\n\
         |---|---:|---:|---:|---:|---|\n\
         | read again until it shows | {} | {:.2} | {:.2} | {most:.2} | {kept} |\n\n\
         {reads} reads on B came before the change was known there\n",
        latencies.len(),
        figures.p50,
        figures.p99
    )
}

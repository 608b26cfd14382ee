//! GetVoiceAgent from memory, with all that an RPC goes through, beside a bare server that returns the same message.
//!
//! The two come so near to each other that what else a shared machine does from one second to the next decides. So there
//! are more and shorter rounds than elsewhere, and the two take turns in going first.

use std::sync::Arc;

use super::{
    Span,
    closed::{self, Work},
    report::{self, Versus},
    subject::Subject,
};

const IN_FLIGHT: [usize; 3] = [16, 64, 256];
/// Each of a third of what a cell is elsewhere.
const ROUNDS: usize = 15;

pub(crate) async fn measure(subject: &Arc<Subject>, span: Span) -> String {
    // Keys and the agent read, connections warm.
    closed::run(subject, Work::Read, IN_FLIGHT[0], span).await;
    let span = Span { warm_up: span.warm_up / 3, measured: span.measured / 3 };
    let mut reads = Versus::default();
    for round in 0..ROUNDS {
        for in_flight in IN_FLIGHT {
            let measure = async |work| closed::run(subject, work, in_flight, span).await;
            let (bare, read) = if round % 2 == 0 {
                let bare = measure(Work::BareRead).await;
                (bare, measure(Work::Read).await)
            } else {
                let read = measure(Work::Read).await;
                (measure(Work::BareRead).await, read)
            };
            reads.add(in_flight, bare, read);
        }
    }
    let table = report::versus("bare server, the same message", "GetVoiceAgent", "share of bare", &reads);
    format!("{ROUNDS} rounds, each of a third of a cell\n\n{table}")
}

//! GetVoiceAgent from memory, with all that an RPC goes through, beside a bare server that returns the same message.

use std::sync::Arc;

use super::{
    ROUNDS, Span,
    closed::{self, Work},
    report::{self, Versus},
    subject::Subject,
};

const IN_FLIGHT: [usize; 3] = [16, 64, 256];

pub(crate) async fn measure(subject: &Arc<Subject>, span: Span) -> String {
    // Keys and the agent read, connections warm.
    closed::run(subject, Work::Read, IN_FLIGHT[0], span).await;
    let mut reads = Versus::default();
    for _ in 0..ROUNDS {
        for in_flight in IN_FLIGHT {
            let bare = closed::run(subject, Work::BareRead, in_flight, span).await;
            let read = closed::run(subject, Work::Read, in_flight, span).await;
            reads.add(in_flight, bare, read);
        }
    }
    report::versus("bare server, the same message", "GetVoiceAgent", "share of bare", &reads)
}

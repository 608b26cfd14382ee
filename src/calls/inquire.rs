//! Asks nodes what became of operations of which nobody has heard in time.
//!
//! The question is the command itself, past its deadline: a node that has carried the operation out, or refused it,
//! answers so again, and one that has never seen it does not begin it any more. So an operation whose replica was killed
//! before its command was sent, or whose answer was lost, is known again soon after, if its node is there. Every replica
//! asks: that a node is asked twice costs a message.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Calls;
use crate::{
    control::Letter,
    domain::{Result, node::Command, operation::Operation},
};

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How much later than its deadline: who waited for it has given up by then.
const MARGIN: Duration = Duration::from_secs(1);
/// Operations that are asked about in one go.
const BATCH: u16 = 200;

impl Calls {
    pub async fn inquire_until(&self, closing: CancellationToken) {
        let work = async {
            loop {
                tokio::time::sleep(ASK_EVERY).await;
                if let Err(error) = self.inquire().await {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "nobody can be asked what became of operations");
                }
            }
        };
        closing.run_until_cancelled(work).await;
    }

    async fn inquire(&self) -> Result<()> {
        let overdue = self.env.now().minus(self.settings.verb_timeout() + MARGIN);
        // For as long again as a node may be away.
        let from = overdue.minus(2 * self.settings.bus_times().grace);
        for operation in self.operations.open(from, overdue, BATCH).await? {
            self.ask_about(operation).await?;
        }
        Ok(())
    }

    async fn ask_about(&self, operation: Operation) -> Result<()> {
        let Some(session) = self.sessions.get(operation.tenant, operation.session).await? else { return Ok(()) };
        let Some(node) = session.node_address() else { return Ok(()) };
        let command = Command {
            operation: operation.id,
            call: operation.call,
            fence: session.fence,
            deadline: operation.accepted_at.plus(self.settings.verb_timeout()),
            verb: operation.verb,
            trace: None,
        };
        // A node that is not there is asked when it is.
        let _ = self.bus.send(&node, Letter::Command { command, reply_to: self.bus.replica() }).await;
        Ok(())
    }
}

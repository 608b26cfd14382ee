//! Deletes an agent; with `force`, its sessions end first.

use super::{Calls, finish::Node};
use crate::{
    agents::Deleted,
    domain::{Error, Result, ids::VoiceAgentId, principal::Principal, session::Outcome},
};

/// Sessions that are ended at a time.
const BATCH: u16 = 200;
/// An agent that is still being admitted to after this many batches must be paused first.
const MAX_BATCHES: usize = 100;

impl Calls {
    pub async fn delete_agent(
        &self,
        principal: &Principal,
        id: VoiceAgentId,
        etag: Option<String>,
        force: bool,
    ) -> Result<()> {
        let (calls, tenant, sandbox) = (self.clone(), principal.tenant(), principal.sandbox());
        self.to_the_end(async move {
            let mut in_use = 0;
            // What is not written yet counts too. What is granted from here on, before every replica has heard of the
            // deletion, ends with it when it is written.
            calls.journal.settle_all(tenant).await?;
            for _ in 0..MAX_BATCHES {
                let agent = calls.agents.current(tenant, id).await?;
                if etag.as_ref().is_some_and(|etag| *etag != agent.etag()) {
                    return Err(Error::EtagMismatch { current: agent.etag() });
                }
                match calls.agents.delete(tenant, id, agent.revision).await? {
                    Deleted::Done => return Ok(()),
                    Deleted::Stale => {}
                    Deleted::InUse { active_sessions } if !force => {
                        return Err(Error::VoiceAgentInUse { agent: id, active_sessions });
                    }
                    Deleted::InUse { active_sessions } => {
                        in_use = active_sessions;
                        for session in calls.sessions.active_of_agent(tenant, id, BATCH).await? {
                            if sandbox && !session.sandbox {
                                // A sandbox key's hands do not reach a live call.
                                return Err(Error::VoiceAgentInUse { agent: id, active_sessions });
                            }
                            calls.finish(&session, Outcome::AgentDeleted, Node::Tell).await?;
                        }
                    }
                }
            }
            Err(Error::VoiceAgentInUse { agent: id, active_sessions: in_use })
        })
        .await
    }
}

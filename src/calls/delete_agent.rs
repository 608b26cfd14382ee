//! Deletes an agent; with `force`, its sessions end first.

use super::{Calls, finish::Node};
use crate::{
    agents::Deleted,
    domain::{
        Error, Result,
        ids::{CallId, LeaseId, TenantId, VoiceAgentId},
        principal::Principal,
        session::Outcome,
    },
};

/// Sessions that are ended at a time.
const BATCH: u16 = 200;
/// An agent that is still being admitted to after this many batches must be paused first.
const MAX_BATCHES: usize = 100;

/// What is to be deleted, and by whom.
#[derive(Debug)]
struct Deletion {
    tenant: TenantId,
    sandbox: bool,
    id: VoiceAgentId,
    etag: Option<String>,
    force: bool,
}

impl Calls {
    pub async fn delete_agent(
        &self,
        principal: &Principal,
        id: VoiceAgentId,
        etag: Option<String>,
        force: bool,
    ) -> Result<()> {
        let (tenant, sandbox) = (principal.tenant(), principal.sandbox());
        let (calls, deletion) = (self.clone(), Deletion { tenant, sandbox, id, etag, force });
        self.to_the_end(async move {
            let mut ended = Vec::new();
            let deleted = calls.delete_with_sessions(deletion, &mut ended).await;
            // Not before the agent is gone: who waits for its slots would be granted what is about to end.
            for (call, lease) in &ended {
                calls.free(tenant, call, *lease).await;
            }
            deleted
        })
        .await
    }

    /// Leaves the slots of the sessions that it has `ended` to its caller.
    async fn delete_with_sessions(&self, deletion: Deletion, ended: &mut Vec<(CallId, LeaseId)>) -> Result<()> {
        let Deletion { tenant, sandbox, id, etag, force } = deletion;
        let mut in_use = 0;
        // What is not written yet counts too. What is granted from here on, before every replica has heard of the
        // deletion, ends with it when it is written.
        self.journal.settle_all(tenant).await?;
        for _ in 0..MAX_BATCHES {
            let agent = self.agents.current(tenant, id).await?;
            if etag.as_ref().is_some_and(|etag| *etag != agent.etag()) {
                return Err(Error::EtagMismatch { current: agent.etag() });
            }
            match self.agents.delete(tenant, id, agent.revision).await? {
                Deleted::Done => return Ok(()),
                Deleted::Stale => {}
                Deleted::InUse { active_sessions } if !force => {
                    return Err(Error::VoiceAgentInUse { agent: id, active_sessions });
                }
                Deleted::InUse { active_sessions } => {
                    in_use = active_sessions;
                    for session in self.sessions.active_of_agent(tenant, id, BATCH).await? {
                        if sandbox && !session.sandbox {
                            // A sandbox key's hands do not reach a live call.
                            return Err(Error::VoiceAgentInUse { agent: id, active_sessions });
                        }
                        let over = self.end(&session, Outcome::AgentDeleted, Node::Tell).await?;
                        ended.extend(over.map(|session| (session.call, session.lease)));
                    }
                }
            }
        }
        Err(Error::VoiceAgentInUse { agent: id, active_sessions: in_use })
    }
}
